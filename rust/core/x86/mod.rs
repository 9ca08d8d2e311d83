// SPDX-License-Identifier: GPL-2.0

//! The x86 half of the core: registers, events, paging, emulation, interrupt controllers and VMX.

pub mod clock;
pub mod cpuid;
pub mod emulate;
pub mod ept;
pub mod eptcache;
pub mod event;
pub mod irqchip;
pub mod msr;
pub mod msrbitmap;
pub mod nested;
pub mod pvclock;
pub mod regs;
pub mod segment;
pub mod smm;
pub mod steal;
pub mod tdp;
pub mod vmx;
pub mod walk;
