// SPDX-License-Identifier: GPL-2.0

//! What virtual machines are made of, on any architecture: the vCPUs as others see them, memory slots,
//! the I/O buses, statistics.

pub(crate) mod debugfs;
pub(crate) mod flush;
pub(crate) mod kick;
pub(crate) mod posted;
pub(crate) mod ring;
pub(crate) mod stats;
pub(crate) mod vcpus;

pub(crate) mod iobus;

pub(crate) mod coalesced;
pub(crate) mod ioeventfd;

pub(crate) mod dirty;
pub(crate) mod memslots;
