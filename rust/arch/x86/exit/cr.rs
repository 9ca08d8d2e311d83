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
        regs::{
            write,
            Cr0, //
        },
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
        CrAccessType::Clts if cpu.is_l2() => l2_mov_to_cr0(cpu, |visible| visible & !Cr0::TS),
        CrAccessType::Lmsw if cpu.is_l2() => {
            // PE can be set, but not cleared.
            let source = u64::from(access.lmsw_source()) & 0xf;
            l2_mov_to_cr0(cpu, |visible| (visible & !0xe) | source)
        }
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

/// Writes CR0 for L2, where L1 does not intercept it: `change` makes of what L2 reads what it writes.
/// Bits that L1 masks stay as they are.
fn l2_mov_to_cr0(cpu: &mut Cpu<'_>, change: impl FnOnce(u64) -> u64) -> Handled {
    let state = cpu.control_state();
    let (mask, shadow) = cpu.l1_cr0();
    let wanted = change((state.cr0.0 & !mask) | (shadow & mask));
    let value = (wanted & !mask) | (state.cr0.0 & mask);
    let write = write::mov_to_cr0(&state, value)?;
    cpu.write_cr0(write)?;
    Ok(Outcome::Skip)
}

fn mov_to(cpu: &mut Cpu<'_>, cr: u8, gpr: usize) -> Handled {
    let value = cpu.operand(gpr);
    trace::kvm_cr(trace::Access::Write, cr, value);
    let state = cpu.control_state();
    match cr {
        0 if cpu.is_l2() => return l2_mov_to_cr0(cpu, |_| value),
        4 if cpu.is_l2() => {
            // Bits that L1 masks stay as they are: L2 wrote what it reads.
            let (mask, _) = cpu.l1_cr4();
            let value = (value & !mask) | (state.cr4.0 & mask);
            let write = write::mov_to_cr4(&state, &cpu.arch.cpuid.limits, value)?;
            cpu.write_cr4(write)?;
        }
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
