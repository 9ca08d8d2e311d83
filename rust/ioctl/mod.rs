// SPDX-License-Identifier: GPL-2.0

//! Ioctls: one `match` for each kind of fd, one function for each ioctl.
//!
//! A handler copies its argument in, converts and checks it, acts, and copies the answer out.

pub(crate) mod attr;
pub(crate) mod caps;
pub(crate) mod cpuid;
pub(crate) mod devices;
pub(crate) mod enable_cap;
pub(crate) mod events;
pub(crate) mod irqchip;
pub(crate) mod mce;
pub(crate) mod msrs;
pub(crate) mod pre_fault;
pub(crate) mod regs;
pub(crate) mod sync_regs;
pub(crate) mod vcpu;
pub(crate) mod vm;

pub(crate) mod system;
