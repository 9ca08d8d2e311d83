// SPDX-License-Identifier: GPL-2.0

//! RDMSR and WRMSR.

use crate::arch::x86::{
    cpu::Cpu,
    outcome::{
        Direction,
        Handled,
        Outcome,
        Stop,
        UserExit, //
    },
    state::Completion, //
};
use burrow_core::{
    outcome::Exception,
    x86::msr::{
        access::{
            Origin,
            Refused, //
        },
        filter::Access, //
    },
};
use burrow_sys::{
    trace,
    uapi::{
        KVM_MSR_EXIT_REASON_FILTER,
        KVM_MSR_EXIT_REASON_INVAL,
        KVM_MSR_EXIT_REASON_UNKNOWN, //
    },
};

/// Handles RDMSR.
pub(super) fn rdmsr(cpu: &mut Cpu<'_>) -> Handled {
    // CAST: ECX.
    let index = cpu.gpr(1) as u32;
    if !cpu.msr_filter_allows(index, Access::Read) {
        return refused(cpu, Direction::Read, KVM_MSR_EXIT_REASON_FILTER, index, 0);
    }
    match cpu.read_msr(index, Origin::Guest) {
        Ok(value) => {
            trace::kvm_msr(trace::Access::Read, index, Some(value));
            cpu.set_edx_eax(value);
            Ok(Outcome::Skip)
        }
        Err(error) => refused(cpu, Direction::Read, reason(error), index, 0),
    }
}

/// Handles WRMSR.
pub(super) fn wrmsr(cpu: &mut Cpu<'_>) -> Handled {
    // CAST: ECX.
    let index = cpu.gpr(1) as u32;
    let value = cpu.edx_eax();
    if !cpu.msr_filter_allows(index, Access::Write) {
        return refused(
            cpu,
            Direction::Write,
            KVM_MSR_EXIT_REASON_FILTER,
            index,
            value,
        );
    }
    match cpu.write_msr(index, value, Origin::Guest) {
        Ok(()) => {
            trace::kvm_msr(trace::Access::Write, index, Some(value));
            Ok(Outcome::Skip)
        }
        Err(error) => refused(cpu, Direction::Write, reason(error), index, value),
    }
}

fn reason(error: Refused) -> u32 {
    match error {
        Refused::Unknown => KVM_MSR_EXIT_REASON_UNKNOWN,
        Refused::Invalid => KVM_MSR_EXIT_REASON_INVAL,
    }
}

/// Lets userspace decide where it asked to; otherwise the guest gets #GP(0).
fn refused(cpu: &mut Cpu<'_>, direction: Direction, reason: u32, index: u32, data: u64) -> Handled {
    let asked = cpu
        .vcpu
        .vm
        .options
        .user_space_msr
        .load(kernel::sync::atomic::Relaxed);
    if asked & reason == 0 {
        let access = match direction {
            Direction::Read => trace::Access::Read,
            Direction::Write => trace::Access::Write,
        };
        trace::kvm_msr(access, index, None);
        return Err(Stop::Inject(Exception::GP0));
    }
    cpu.arch.completion = Some(Completion::Msr { direction });
    Ok(Outcome::ToUser(UserExit::Msr {
        direction,
        reason,
        index,
        data,
    }))
}
