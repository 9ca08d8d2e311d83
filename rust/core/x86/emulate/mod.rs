// SPDX-License-Identifier: GPL-2.0

//! The instruction decoder and emulator.
//!
//! For instructions that the CPU cannot complete in the guest: accesses to emulated devices, and
//! states that VM entry does not take. [`fetch()`] gets the instruction at CS:RIP, [`decode()`] makes an
//! [`Insn`] of bytes, [`emulate`] executes it on what implements [`EmulOps`].
//!
//! Executed are the integer instructions of all modes, string and port instructions, near branches,
//! far ones in real mode, moves of XMM registers, and system instructions by hooks. Not executed
//! ([`Stop::Unhandleable`]): x87, MMX, arithmetic on vectors, VEX and EVEX encodings, far transfers
//! in protected mode, VMX instructions.
//!
//! Paging is left to [`EmulOps`]; segmentation is here. Single-step traps, the shadow that an earlier
//! instruction left, and breakpoints are the caller's.

mod alu;
mod cpu;
mod decode;
mod decode_operand;
mod exec_alu;
mod exec_control;
mod exec_io;
mod exec_mov;
mod exec_segment;
mod exec_stack;
mod exec_string;
mod exec_system;
mod exec_vector;
mod fetch;
mod flags;
mod insn;
mod known;
mod linear;
mod muldiv;
mod op;
mod operand;
mod ops;
mod shift;
mod table;
#[cfg(test)]
mod tests;

pub use decode::decode;
pub use fetch::{
    code_size,
    fetch,
    Decoded,
    InsnBytes, //
};
pub use insn::*;
pub use known::KnownAccess;
pub use op::*;
pub use ops::*;

use cpu::Cpu;

/// Executes one instruction, or a batch of iterations of a repeated string instruction.
///
/// See [`EmulOps`] for the order of its effects.
///
/// # Errors
///
/// See [`Stop`]; nothing has changed then, except what whole iterations changed.
pub fn emulate<O: EmulOps>(insn: &Insn, ops: &mut O) -> Result<Done, Stop> {
    let mut cpu = Cpu::new(insn, ops);
    let result = if let Op::Str(op) = insn.op {
        cpu.exec_string(op)
    } else {
        execute(&mut cpu).map(|()| {
            cpu.retire();
            Done::Retired(cpu.shadow)
        })
    };
    match result {
        Err(Stop::Raced) => Ok(Done::Again),
        other => other,
    }
}

/// Executes an instruction up to its commit.
fn execute<O: EmulOps>(cpu: &mut Cpu<'_, O>) -> Result<(), Stop> {
    match cpu.insn.op {
        Op::Mov(op) => cpu.exec_mov(op),
        Op::Alu(op) => cpu.exec_alu(op),
        Op::Unary(op) => cpu.exec_unary(op),
        Op::Shift(op) => cpu.exec_shift(op),
        Op::DoubleShift(op) => cpu.exec_double_shift(op),
        Op::MulDiv(op) => cpu.exec_muldiv(op),
        Op::BitTest(op) => cpu.exec_bit_test(op),
        Op::BitScan(op) => cpu.exec_bit_scan(op),
        Op::Exchange(op) => cpu.exec_exchange(op),
        Op::Stack(op) => cpu.exec_stack(op),
        Op::In => cpu.exec_in(),
        Op::Out => cpu.exec_out(),
        Op::Branch(op) => cpu.exec_branch(op),
        Op::Far(op) => cpu.exec_far(op),
        Op::LoadFar(segment) => cpu.exec_load_far(segment),
        Op::Flag(op) => cpu.exec_flag(op),
        Op::Decimal(op) => cpu.exec_decimal(op),
        Op::System(op) => cpu.exec_system(op),
        Op::Vector(op) => cpu.exec_vector(op),
        Op::Nop(op) => cpu.exec_nop(op),
        Op::Ud => Err(Stop::UD),
        Op::Str(_) | Op::Unsupported => Err(Stop::Unhandleable),
    }
}
