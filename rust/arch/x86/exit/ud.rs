// SPDX-License-Identifier: GPL-2.0

//! Invalid-opcode exceptions: RSM, and a guest may call its hypervisor by AMD's instruction.

use crate::arch::x86::{
    cpu::Cpu,
    guest_mem::LinearError,
    options::Quirk,
    outcome::{
        Handled,
        Outcome,
        Stop, //
    },
};
use burrow_core::{
    addr::Gva,
    outcome::Exception,
    x86::walk::Kind, //
};

/// The opcodes of VMCALL and VMMCALL differ in their last byte.
const VMMCALL: [u8; 3] = [0x0f, 0x01, 0xd9];
const VMCALL_END: u8 = 0xc1;

/// RSM, which is #UD outside of system-management mode, and to the processor that mode is not ours.
const RSM: [u8; 2] = [0x0f, 0xaa];

/// Carries RSM out in system-management mode.
///
/// Replaces VMMCALL, which does not exist here, by VMCALL, as guests have come to expect of KVM, unless
/// userspace turned that off. Any other #UD is the guest's.
pub(super) fn undefined(cpu: &mut Cpu<'_>) -> Handled {
    if cpu.is_smm() && is_insn(cpu, &RSM) {
        return cpu.leave_smm();
    }
    if !is_insn(cpu, &VMMCALL) || !cpu.vcpu.vm.options.has_quirk(Quirk::FixHypercallInsn) {
        return Err(Stop::Inject(Exception::UD));
    }
    let end = byte_of_insn(cpu, VMMCALL.len() - 1);
    let at = match cpu.translate(end, Kind::Write, cpu.privilege()) {
        Ok(translation) => translation.gpa,
        Err(LinearError::Fault(exception)) => return Err(Stop::Inject(exception)),
        Err(LinearError::Nested(fault)) => return cpu.exit_for_ept(fault),
    };
    match cpu.memory().write(at, &[VMCALL_END]) {
        Ok(()) => Ok(Outcome::Resume),
        Err(_) => Err(Stop::Inject(Exception::UD)),
    }
}

fn byte_of_insn(cpu: &Cpu<'_>, offset: usize) -> Gva {
    let address = cpu.linear_rip().0.wrapping_add(offset as u64);
    match cpu.is_64bit_code() {
        true => Gva(address),
        false => Gva(address & 0xffff_ffff),
    }
}

fn is_insn(cpu: &mut Cpu<'_>, insn: &[u8]) -> bool {
    insn.iter().enumerate().all(|(offset, expected)| {
        let mut byte = [0];
        cpu.translate(byte_of_insn(cpu, offset), Kind::Fetch, cpu.privilege())
            .is_ok_and(|at| cpu.memory().read(at.gpa, &mut byte).is_ok())
            && byte[0] == *expected
    })
}
