// SPDX-License-Identifier: GPL-2.0

//! Models of the interrupt controllers.
//!
//! The local APIC: [`lapic`] holds it together, [`lapic_regs`] has the register page and its bit
//! layouts, [`lapic_timer`] its timer, [`lapic_state`] what KVM_GET_LAPIC and KVM_SET_LAPIC see.
//! Between APICs: [`apic_msg`] is the interrupt message, [`apic_dest`] says who takes it, [`msi`]
//! makes it of what a device writes, [`pv_ipi`] of what a guest asks of its hypervisor.
//!
//! The controllers that devices drive by [lines](mod@line): [`ioapic`], [`pic`]; and the device that was
//! always beside them, the [`pit`].

pub mod apic_dest;
pub mod apic_msg;
pub mod ioapic;
pub mod lapic;
pub mod lapic_regs;
pub mod lapic_state;
pub mod lapic_timer;
pub mod line;
pub mod msi;
pub mod pic;
pub mod pit;
pub mod pv_ipi;
pub mod vectors;
