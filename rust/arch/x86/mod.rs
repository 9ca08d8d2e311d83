// SPDX-License-Identifier: GPL-2.0

//! x86: vCPU state, the way into the guest and out of it.
//!
//! In layer order: [`ipi`] and [`irq`], [`chips`], [`routing`] and [`irqfd`], the ways of interrupts to
//! local APICs, and [`acks`], the way back; [`chip_io`] and [`pit`], devices; [`outcome`] and [`state`];
//! [`vm`] and [`vcpu`], the objects; [`cpu`], a vCPU while it is loaded; what acts on it; [`exit`], the
//! handlers; [`enter`], one entry.
//!
//! The objects are here, not among the neutral layers, because most of what they own is the
//! architecture's: what is neutral of them is in [`crate::vm`].

pub(crate) mod acks;
pub(crate) mod chip_io;
pub(crate) mod chips;
pub(crate) mod ipi;
pub(crate) mod irq;
pub(crate) mod irqfd;
pub(crate) mod options;
pub(crate) mod outcome;
pub(crate) mod pit;
pub(crate) mod routing;
pub(crate) mod state;

pub(crate) mod vcpu;
pub(crate) mod vm;

pub(crate) mod cpu;
pub(crate) mod segments;
pub(crate) mod smm;

pub(crate) mod mmu;

pub(crate) mod apic;
pub(crate) mod code;
pub(crate) mod control;
pub(crate) mod cpuid;
pub(crate) mod debug;
pub(crate) mod devices;
pub(crate) mod emulate;
pub(crate) mod guest_mem;
pub(crate) mod inject;
pub(crate) mod msr;
pub(crate) mod pml;
pub(crate) mod pv_eoi;
pub(crate) mod pvclock;
pub(crate) mod reset;
pub(crate) mod tally;
pub(crate) mod timer;
pub(crate) mod tlb;
pub(crate) mod tsc;
pub(crate) mod vapic;

pub(crate) mod nested;

pub(crate) mod exit;

pub(crate) mod enter;
