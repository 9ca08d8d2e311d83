// SPDX-License-Identifier: GPL-2.0

//! Finishing what userspace was asked to do.

use crate::arch::{
    cpu::Cpu,
    outcome::{
        Direction,
        Outcome,
        Stop,
        UserExit, //
    },
    state::Completion, //
};
use burrow_core::outcome::Exception;
use burrow_sys::trace;
use kernel::prelude::*;

/// Finishes the access that ended the last run; returns a further exit if it has another part.
///
/// # Errors
///
/// As for `KVM_RUN`.
pub(super) fn complete(cpu: &mut Cpu<'_>) -> Result<Option<UserExit>> {
    let Some(completion) = cpu.arch.completion.take() else {
        return Ok(None);
    };
    if cpu.rip() != cpu.arch.completion_rip && !matches!(completion, Completion::Fragments) {
        // Userspace moved the vCPU on; the instruction is no more.
        cpu.arch.replay.clear();
        return Ok(None);
    }
    let handled = match completion {
        Completion::In { port, size } => {
            let value = cpu.vcpu.pages.pio.read::<u32>(0);
            trace::kvm_pio(trace::Access::Read, port, size.into(), 1, value);
            cpu.set_accumulator(size, value);
            Ok(Outcome::Skip)
        }
        Completion::Skip => Ok(Outcome::Skip),
        Completion::Emulate { is_port } => {
            if is_port {
                cpu.take_items();
            } else {
                let data = super::user_exit::mmio_data(&cpu.vcpu.pages.run);
                cpu.take_emulated_read(data);
            }
            cpu.arch.extended.fpu.load();
            let handled = cpu.emulate_again();
            cpu.arch.extended.fpu.put();
            handled
        }
        Completion::Fragments => cpu.next_fragment(),
        Completion::Msr { direction } => finish_msr(cpu, direction),
    };
    match super::settle(cpu, handled)? {
        super::Turn::Again => Ok(None),
        super::Turn::ToUser(exit) => Ok(Some(exit)),
    }
}

fn finish_msr(cpu: &mut Cpu<'_>, direction: Direction) -> Result<Outcome, Stop> {
    let Some(value) = super::user_exit::msr_answer(&cpu.vcpu.pages.run) else {
        return Err(Stop::Inject(Exception::GP0));
    };
    if direction == Direction::Read {
        cpu.set_edx_eax(value);
    }
    Ok(Outcome::Skip)
}
