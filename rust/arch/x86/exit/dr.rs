// SPDX-License-Identifier: GPL-2.0

//! MOV to and from debug registers.

use crate::arch::x86::{
    cpu::Cpu,
    outcome::{
        Handled,
        Outcome, //
    },
};
use burrow_core::{
    outcome::vector,
    x86::{
        regs::debug::{
            self,
            Dr,
            Dr6,
            Dr7, //
        },
        vmx::exit::DrAccess, //
    },
};

/// Handles a debug-register access.
pub(super) fn access(cpu: &mut Cpu<'_>) -> Handled {
    let access = DrAccess(cpu.qualification());
    if cpu.arch.guest_debug.detects_access() {
        let exit = cpu.debug_exit(vector::DB, Dr6(0).with_bd(true).0);
        return Ok(Outcome::ToUser(exit));
    }
    let dr = debug::access(access.dr(), cpu.cr4(), cpu.cpl(), Dr7(cpu.arch.debug.dr7))?;
    let gpr = usize::from(access.gpr());
    if access.is_read() {
        let value = read(cpu, dr);
        cpu.set_gpr(gpr, value);
    } else {
        let value = debug::write(dr, cpu.operand(gpr), &cpu.arch.cpuid.limits)?;
        write(cpu, dr, value);
    }
    Ok(Outcome::Skip)
}

fn read(cpu: &Cpu<'_>, dr: Dr) -> u64 {
    match dr {
        Dr::Address(n) => cpu.arch.debug.address[usize::from(n & 3)],
        Dr::Status => cpu.arch.debug.dr6,
        Dr::Control => cpu.arch.debug.dr7,
    }
}

fn write(cpu: &mut Cpu<'_>, dr: Dr, value: u64) {
    match dr {
        Dr::Address(n) => cpu.arch.debug.address[usize::from(n & 3)] = value,
        Dr::Status => cpu.arch.debug.dr6 = value,
        Dr::Control => cpu.store_dr7(value),
    }
}
