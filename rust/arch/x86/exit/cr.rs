// SPDX-License-Identifier: GPL-2.0

//! MOV to and from control registers, CLTS, LMSW.

use crate::arch::x86::{
    cpu::Cpu,
    outcome::{
        Handled,
        Outcome,
        Stop,
        UserExit, //
    },
};
use burrow_core::{
    outcome::Exception,
    x86::{
        regs::write,
        vmx::exit::{
            CrAccess,
            CrAccessType, //
        }, //
    },
};
use burrow_sys::trace;

/// Handles a control-register access.
pub(super) fn access(cpu: &mut Cpu<'_>) -> Handled {
    let access = CrAccess(cpu.qualification());
    match access.access() {
        CrAccessType::MovTo => mov_to(cpu, access.cr(), usize::from(access.gpr())),
        CrAccessType::MovFrom => mov_from(cpu, access.cr(), usize::from(access.gpr())),
        CrAccessType::Clts => {
            let write = write::clts(&cpu.control_state())?;
            cpu.write_cr0(write)?;
            Ok(Outcome::Skip)
        }
        CrAccessType::Lmsw => {
            let write = write::lmsw(&cpu.control_state(), access.lmsw_source())?;
            cpu.write_cr0(write)?;
            Ok(Outcome::Skip)
        }
    }
}

fn mov_to(cpu: &mut Cpu<'_>, cr: u8, gpr: usize) -> Handled {
    let value = cpu.operand(gpr);
    trace::kvm_cr(trace::Access::Write, cr, value);
    let state = cpu.control_state();
    match cr {
        0 => {
            let write = write::mov_to_cr0(&state, value)?;
            cpu.write_cr0(write)?;
        }
        3 => {
            let write = write::mov_to_cr3(&state, &cpu.arch.cpuid.limits, value)?;
            cpu.write_cr3(write)?;
        }
        4 => {
            let write = write::mov_to_cr4(&state, &cpu.arch.cpuid.limits, value)?;
            cpu.write_cr4(write)?;
        }
        8 => {
            let priority = write::mov_to_cr8(value)?;
            return mov_to_cr8(cpu, priority);
        }
        _ => return Err(Stop::Inject(Exception::UD)),
    }
    Ok(Outcome::Skip)
}

/// Sets the task priority; userspace hears of a lower one where it has the local APIC.
fn mov_to_cr8(cpu: &mut Cpu<'_>, priority: u8) -> Handled {
    let old = cpu.cr8();
    cpu.set_cr8(priority);
    if cpu.arch.lapic.is_some() || old <= priority {
        return Ok(Outcome::Skip);
    }
    cpu.skip_instruction();
    Ok(Outcome::ToUser(UserExit::SetTpr))
}

fn mov_from(cpu: &mut Cpu<'_>, cr: u8, gpr: usize) -> Handled {
    let value = match cr {
        0 => cpu.cr0().0,
        3 => cpu.cr3(),
        4 => cpu.cr4().0,
        8 => u64::from(cpu.cr8()),
        _ => return Err(Stop::Inject(Exception::UD)),
    };
    trace::kvm_cr(trace::Access::Read, cr, value);
    cpu.set_gpr(gpr, value);
    Ok(Outcome::Skip)
}
