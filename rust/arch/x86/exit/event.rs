// SPDX-License-Identifier: GPL-2.0

//! Exceptions that exit, windows, task switches.

use super::ud;
use crate::arch::x86::{
    cpu::Cpu,
    outcome::{
        Handled,
        Outcome,
        UserExit,
        INTERNAL_WORDS, //
    },
};
use burrow_core::{
    addr::Gpa,
    outcome::{
        vector,
        Exception, //
    },
    x86::{
        event::{
            self,
            kind,
            EventInfo, //
        },
        regs::debug::Dr6,
        vmx::field::*, //
    },
};
use burrow_sys::uapi::{
    KVM_INTERNAL_ERROR_DELIVERY_EV,
    KVM_INTERNAL_ERROR_SIMUL_EX, //
};

/// Handles an exception that we asked to exit; NMIs were served on the way out.
pub(super) fn exception(cpu: &mut Cpu<'_>, intr_info: u32) -> Handled {
    let info = EventInfo(intr_info);
    if info.kind() == kind::NMI {
        return Ok(Outcome::Resume);
    }
    let vectoring = EventInfo(cpu.vmcs().get(IDT_VECTORING_INFO_FIELD));
    if event::iret_lost_nmi_blocking(info.nmi_unblocked(), Some(info.vector()), vectoring) {
        let state = cpu.interruptibility();
        cpu.set_interruptibility(state.with_nmi(true));
    }
    match info.vector() {
        // The host's handler has run, on the way out of the guest.
        vector::MC => Ok(Outcome::Resume),
        vector::DB | vector::BP => debug(cpu, info),
        vector::UD if !vectoring.valid() => ud::undefined(cpu),
        _ => reflect(cpu, info),
    }
}

/// A debug exception: for the debugger in userspace if it listens, else for the guest.
fn debug(cpu: &mut Cpu<'_>, info: EventInfo) -> Handled {
    let pending = cpu.qualification();
    if cpu.arch.guest_debug.takes(info.vector()) {
        return Ok(Outcome::ToUser(cpu.debug_exit(info.vector(), pending)));
    }
    if info.vector() == vector::BP {
        let length = cpu.vmcs().get(VM_EXIT_INSTRUCTION_LEN);
        // CAST: at most 15.
        cpu.arch.events.raise_software(vector::BP, length as u8);
        return Ok(Outcome::Resume);
    }
    if info.kind() == kind::PRIVILEGED_SOFTWARE_EXCEPTION {
        // INT1 is a trap, but exits as a fault.
        let length = cpu.vmcs().get(VM_EXIT_INSTRUCTION_LEN);
        let next = cpu.rip().wrapping_add(u64::from(length));
        cpu.set_rip(next);
    } else if cpu.rflags().tf() && cpu.interruptibility().has_shadow() {
        // The blocking stays until the exception is delivered, and an entry with it and with TF wants
        // the trap pending. SDM 3C "Checks on Guest Non-Register State", 27.3.1.5.
        let vmcs = cpu.vmcs();
        let old = vmcs.get(GUEST_PENDING_DBG_EXCEPTIONS);
        vmcs.set(GUEST_PENDING_DBG_EXCEPTIONS, old | Dr6(0).with_bs(true).0);
    }
    Err(Exception {
        vector: vector::DB,
        error_code: None,
        payload: Some(pending),
    }
    .into())
}

/// An exception that we did not ask for goes to the guest as it is.
fn reflect(cpu: &mut Cpu<'_>, info: EventInfo) -> Handled {
    let vectoring = EventInfo(cpu.vmcs().get(IDT_VECTORING_INFO_FIELD));
    if vectoring.valid() {
        let mut data = [0; INTERNAL_WORDS];
        data[0] = u64::from(vectoring.0);
        data[1] = u64::from(info.0);
        return Ok(Outcome::ToUser(UserExit::InternalError {
            suberror: KVM_INTERNAL_ERROR_SIMUL_EX,
            data,
            count: 2,
        }));
    }
    let error_code = info
        .has_error_code()
        .then(|| cpu.vmcs().get(VM_EXIT_INTR_ERROR_CODE));
    Err(Exception {
        vector: info.vector(),
        error_code,
        payload: None,
    }
    .into())
}

/// The interrupt window opened: the next look at the events finds what waited.
pub(super) fn interrupt_window(cpu: &mut Cpu<'_>) -> Handled {
    let proc = cpu.arch.ctls.proc.with_intr_window(false);
    cpu.set_proc_ctls(proc);
    Ok(Outcome::Resume)
}

/// The NMI window opened.
pub(super) fn nmi_window(cpu: &mut Cpu<'_>) -> Handled {
    let proc = cpu.arch.ctls.proc.with_nmi_window(false);
    cpu.set_proc_ctls(proc);
    Ok(Outcome::Resume)
}

/// A task switch, which no guest that we know does outside of what the emulator would have to do.
pub(super) fn task_switch(cpu: &mut Cpu<'_>) -> Handled {
    Ok(Outcome::ToUser(cpu.emulation_failed(&[])))
}

/// An event could not be delivered, because its delivery touched memory that is none.
pub(super) fn delivery_failed(cpu: &Cpu<'_>, gpa: Gpa) -> UserExit {
    let vmcs = cpu.vmcs();
    let mut data = [0; INTERNAL_WORDS];
    data[0] = u64::from(vmcs.get(IDT_VECTORING_INFO_FIELD));
    data[1] = u64::from(vmcs.get(VM_EXIT_REASON));
    data[2] = cpu.qualification();
    data[3] = gpa.0;
    data[4] = u64::from(kernel::cpu::CpuId::current().as_u32());
    UserExit::InternalError {
        suberror: KVM_INTERNAL_ERROR_DELIVERY_EV,
        data,
        count: 5,
    }
}
