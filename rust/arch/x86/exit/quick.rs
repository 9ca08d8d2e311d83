// SPDX-License-Identifier: GPL-2.0

//! Exits that are handled at once, with interrupts still off, so that the guest goes on without the way
//! through the run loop.
//!
//! They are those that guests meet most often of those whose handlers neither sleep nor bring
//! memory of the guest or of userspace in. What else there may be to do is looked at after each: an interrupt of the
//! host waits for the next entry, which it ends at once.
//!
//! An exit of L2 that is L1's, and L1's VMRESUME, lead from one VMCS to the other, and take the way through
//! the run loop only where events are to be chosen.

use super::{
    ept::{
        self,
        AtOnce, //
    },
    hypercall,
    io,
    misc,
    msr, //
};
use crate::{
    arch::x86::{
        cpu::Cpu,
        outcome::{
            Handled,
            Outcome,
            Stop, //
        },
    },
    vm::iobus::May, //
};
use burrow_core::x86::{
    msr::index,
    vmx::exit::{
        ExitReason,
        ExitReasonWord, //
    },
};
use burrow_sys::{
    context::{
        IrqsOff,
        PreemptOff, //
    },
    trace, //
};

/// What became of an exit.
pub(crate) enum Quick {
    /// It is not one of these; nothing has happened.
    No,
    /// It is done, and changed nothing that the choice of events depends on.
    Done,
    /// It has led from L2 to L1 or back, another VMCS is current, and no event is to be chosen.
    Switched,
    /// It is handled; the run loop goes on with this.
    Handled(Handled),
}

/// Handles the exit that has just happened, if that can be done at once.
///
/// # Context
///
/// Before the exit, no event was pending or injected, unless L2 ran.
#[inline]
pub(crate) fn handle(
    cpu: &mut Cpu<'_>,
    word: ExitReasonWord,
    intr_info: u32,
    preempt: &PreemptOff,
    irqs: &IrqsOff<'_>,
) -> Quick {
    if cpu.is_l2() {
        let switched = cpu.exit_at_once(word, intr_info, preempt, irqs);
        return after_switch(cpu, switched);
    }
    const CPUID: u32 = ExitReason::Cpuid as u32;
    const VMCALL: u32 = ExitReason::Vmcall as u32;
    const EPT_VIOLATION: u32 = ExitReason::EptViolation as u32;
    const IO: u32 = ExitReason::IoInstruction as u32;
    const RDMSR: u32 = ExitReason::MsrRead as u32;
    const WRMSR: u32 = ExitReason::MsrWrite as u32;
    const VMREAD: u32 = ExitReason::Vmread as u32;
    const VMWRITE: u32 = ExitReason::Vmwrite as u32;
    const VMRESUME: u32 = ExitReason::Vmresume as u32;
    let handled = match word.0 {
        CPUID => misc::cpuid(cpu),
        VMCALL if hypercall::is_quick(cpu) => hypercall::hypercall(cpu),
        EPT_VIOLATION => match ept::at_once(cpu) {
            AtOnce::No => return Quick::No,
            AtOnce::Signalled => Ok(Outcome::Skip),
            AtOnce::Emulated(handled) => return emulated(cpu, handled),
        },
        IO => match io::simple_access(cpu, May::NotSleep) {
            Some(handled) => handled,
            None => return Quick::No,
        },
        RDMSR if !cpu.has_msr_filter() => msr::rdmsr(cpu),
        WRMSR if !cpu.has_msr_filter() => match write_apic_msr(cpu) {
            Quick::Done => Ok(Outcome::Skip),
            other => return other,
        },
        VMREAD if cpu.quick_access(ExitReason::Vmread) => Ok(Outcome::Skip),
        VMWRITE if cpu.quick_access(ExitReason::Vmwrite) => Ok(Outcome::Skip),
        VMRESUME => {
            let switched = cpu.resume_at_once(preempt, irqs);
            return after_switch(cpu, switched);
        }
        _ => return Quick::No,
    };
    let Ok(Outcome::Skip) = handled else {
        return Quick::Handled(handled);
    };
    cpu.step_over();
    stepped(cpu)
}

/// Returns what became of an exit whose instruction is complete.
#[inline]
fn stepped(cpu: &Cpu<'_>) -> Quick {
    if cpu.arch.events.is_quiet() && !cpu.arch.guest_debug.steps() {
        Quick::Done
    } else {
        Quick::Handled(Ok(Outcome::Resume))
    }
}

/// Finds how to go on where L1 or L2 may have taken the place of the other.
#[inline]
fn after_switch(cpu: &mut Cpu<'_>, switched: Result<bool, Stop>) -> Quick {
    match switched {
        Ok(false) => Quick::No,
        Ok(true) if cpu.enters_without_event() => Quick::Switched,
        Ok(true) => Quick::Handled(Ok(Outcome::Resume)),
        Err(stop) => Quick::Handled(Err(stop)),
    }
}

/// Returns what became of an exit whose instruction was emulated, which may have accessed the local APIC.
#[inline]
fn emulated(cpu: &Cpu<'_>, handled: Handled) -> Quick {
    match handled {
        Ok(Outcome::Resume) if !cpu.has_apic_work() => stepped(cpu),
        handled => Quick::Handled(handled),
    }
}

/// Handles a WRMSR that concerns nothing but the local APIC of the vCPU, and messages to others, except for
/// the step over it.
#[inline]
fn write_apic_msr(cpu: &mut Cpu<'_>) -> Quick {
    const EOI: u32 = index::IA32_X2APIC_FIRST | 0xb;
    const ICR: u32 = index::IA32_X2APIC_FIRST | 0x30;
    // CAST: ECX.
    let number = cpu.gpr(1) as u32;
    let value = cpu.edx_eax();
    match number {
        index::IA32_TSC_DEADLINE => cpu.write_tsc_deadline(value),
        // CAST: the register is the low byte.
        EOI | ICR if cpu.write_x2apic(number as u8, value).is_ok() => {}
        _ => return Quick::No,
    }
    trace::kvm_msr(trace::Access::Write, number, Some(value));
    // An EOI lets the next interrupt in; an IPI may be to the APIC itself.
    if number != index::IA32_TSC_DEADLINE && cpu.has_apic_work() {
        return Quick::Handled(Ok(Outcome::Skip));
    }
    Quick::Done
}
