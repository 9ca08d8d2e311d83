// SPDX-License-Identifier: GPL-2.0

//! Exits that are handled at once, with interrupts still off, so that the guest goes on without the way
//! through the run loop.
//!
//! They are those that guests meet most often of those whose handlers neither sleep nor touch memory of
//! the guest or of userspace. What else there may be to do is looked at after each: an interrupt of the
//! host waits for the next entry, which it ends at once.

use super::{
    hypercall,
    misc,
    msr, //
};
use crate::arch::x86::{
    cpu::Cpu,
    outcome::{
        Handled,
        Outcome, //
    },
};
use burrow_core::x86::{
    msr::index,
    vmx::exit::{
        ExitReason,
        ExitReasonWord, //
    },
};
use burrow_sys::context::IrqsOff;

/// What became of an exit.
pub(crate) enum Quick {
    /// It is not one of these; nothing has happened.
    No,
    /// It is done, and changed nothing that the choice of events depends on.
    Done,
    /// It is handled; the run loop goes on with this.
    Handled(Handled),
}

/// Handles the exit that has just happened, if that can be done at once.
///
/// # Context
///
/// Before the exit, no event was pending or injected, and L1 ran.
#[inline]
pub(crate) fn handle(cpu: &mut Cpu<'_>, word: ExitReasonWord, _irqs: &IrqsOff<'_>) -> Quick {
    const CPUID: u32 = ExitReason::Cpuid as u32;
    const VMCALL: u32 = ExitReason::Vmcall as u32;
    const RDMSR: u32 = ExitReason::MsrRead as u32;
    const WRMSR: u32 = ExitReason::MsrWrite as u32;
    const VMREAD: u32 = ExitReason::Vmread as u32;
    const VMWRITE: u32 = ExitReason::Vmwrite as u32;
    let handled = match word.0 {
        CPUID => misc::cpuid(cpu),
        VMCALL if hypercall::is_quick(cpu) => hypercall::hypercall(cpu),
        RDMSR if !cpu.has_msr_filter() => msr::rdmsr(cpu),
        // CAST: ECX.
        WRMSR if is_quick_write(cpu.gpr(1) as u32) && !cpu.has_msr_filter() => {
            let handled = msr::wrmsr(cpu);
            if cpu.has_apic_work() {
                return Quick::Handled(handled);
            }
            handled
        }
        VMREAD if cpu.quick_access(ExitReason::Vmread) => Ok(Outcome::Skip),
        VMWRITE if cpu.quick_access(ExitReason::Vmwrite) => Ok(Outcome::Skip),
        _ => return Quick::No,
    };
    let Ok(Outcome::Skip) = handled else {
        return Quick::Handled(handled);
    };
    cpu.skip_instruction();
    if cpu.arch.events.is_quiet() && !cpu.arch.guest_debug.steps() {
        Quick::Done
    } else {
        Quick::Handled(Ok(Outcome::Resume))
    }
}

/// Returns whether a write of this MSR concerns nothing but the local APIC of the vCPU, and messages to
/// others.
#[inline]
fn is_quick_write(number: u32) -> bool {
    const EOI: u32 = 0x80b;
    const ICR: u32 = 0x830;
    matches!(number, index::IA32_TSC_DEADLINE | EOI | ICR)
}
