// SPDX-License-Identifier: GPL-2.0

//! Exit dispatch: from the exit reason to its handler.

mod cr;
mod dr;
mod ept;
mod event;
mod hypercall;
mod io;
mod misc;
mod msr;
pub(crate) mod quick;
mod ud;

use crate::arch::x86::{
    cpu::Cpu,
    nested,
    outcome::{
        Handled,
        Outcome,
        Stop,
        UserExit,
        INTERNAL_WORDS, //
    },
};
use burrow_core::{
    outcome::Exception,
    x86::vmx::{
        exit::{
            ExitReason,
            ExitReasonWord, //
        },
        field::*, //
    },
};

/// Handles the exit that just happened.
pub(crate) fn handle(cpu: &mut Cpu<'_>, word: ExitReasonWord, intr_info: u32) -> Handled {
    if cpu.is_l2() {
        if let Some(handled) = nested::route(cpu, word, intr_info) {
            return handled;
        }
    }
    if word.entry_failure() {
        return Ok(Outcome::ToUser(UserExit::FailEntry {
            reason: u64::from(word.0),
            cpu: kernel::cpu::CpuId::current().as_u32(),
        }));
    }
    let Ok(reason) = ExitReason::try_from(word) else {
        return Ok(Outcome::ToUser(unexpected(word)));
    };
    match reason {
        ExitReason::ExceptionNmi => event::exception(cpu, intr_info),
        ExitReason::ExternalInterrupt => Ok(Outcome::Resume),
        ExitReason::TripleFault => Ok(Outcome::ToUser(UserExit::Shutdown)),
        ExitReason::InterruptWindow => event::interrupt_window(cpu),
        ExitReason::NmiWindow => event::nmi_window(cpu),
        ExitReason::TaskSwitch => event::task_switch(cpu),
        ExitReason::Cpuid => misc::cpuid(cpu),
        ExitReason::Hlt => misc::hlt(cpu),
        ExitReason::Invd | ExitReason::Wbinvd => misc::wbinvd(cpu),
        ExitReason::Invlpg => misc::invlpg(cpu),
        ExitReason::Rdpmc => misc::rdpmc(cpu),
        ExitReason::Rdtsc => misc::rdtsc(cpu),
        ExitReason::Rdtscp => misc::rdtscp(cpu),
        ExitReason::Vmcall => hypercall::hypercall(cpu),
        ExitReason::CrAccess => cr::access(cpu),
        ExitReason::DrAccess => dr::access(cpu),
        ExitReason::IoInstruction => io::access(cpu),
        ExitReason::MsrRead => msr::rdmsr(cpu),
        ExitReason::MsrWrite => msr::wrmsr(cpu),
        ExitReason::Mwait | ExitReason::Monitor => misc::monitor_mwait(cpu),
        ExitReason::Pause => misc::pause(cpu),
        ExitReason::Xsetbv => misc::xsetbv(cpu),
        ExitReason::Invpcid => misc::invpcid(cpu),
        ExitReason::EptViolation => ept::violation(cpu),
        ExitReason::EptMisconfig => ept::misconfiguration(cpu),
        ExitReason::PmlFull => ept::log_full(cpu),
        // They end a turn of the guest, and say no more (`timer.rs`).
        ExitReason::PreemptionTimer | ExitReason::MonitorTrapFlag => Ok(Outcome::Resume),
        ExitReason::Vmclear
        | ExitReason::Vmlaunch
        | ExitReason::Vmptrld
        | ExitReason::Vmptrst
        | ExitReason::Vmread
        | ExitReason::Vmresume
        | ExitReason::Vmwrite
        | ExitReason::Vmxoff
        | ExitReason::Vmxon
        | ExitReason::Invept
        | ExitReason::Invvpid => nested::execute(cpu, reason),
        ExitReason::Vmfunc
        | ExitReason::Getsec
        | ExitReason::Encls
        | ExitReason::Rdrand
        | ExitReason::Rdseed => Err(Stop::Inject(Exception::UD)),
        _ => Ok(Outcome::ToUser(unexpected(word))),
    }
}

/// An exit that nothing we asked for can cause.
fn unexpected(word: ExitReasonWord) -> UserExit {
    let mut data = [0; INTERNAL_WORDS];
    data[0] = u64::from(word.0);
    data[1] = u64::from(kernel::cpu::CpuId::current().as_u32());
    UserExit::InternalError {
        suberror: burrow_sys::uapi::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
        data,
        count: 2,
    }
}

impl Cpu<'_> {
    /// Returns the exit qualification.
    #[inline]
    pub(crate) fn qualification(&self) -> u64 {
        self.vmcs().get(EXIT_QUALIFICATION)
    }
}
