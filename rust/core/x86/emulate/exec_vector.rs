// SPDX-License-Identifier: GPL-2.0

//! Moves of XMM registers.

use super::cpu::Cpu;
use super::exec_mov::from_le;
use super::flags::{
    CR0_EM,
    CR0_TS,
    CR4_OSFXSR, //
};
use super::insn::{
    Gpr,
    Mem,
    Operand,
    Rep, //
};
use super::op::Vector;
use super::ops::{
    Access,
    EmulOps,
    Stop, //
};
use crate::outcome::Exception;

impl<O: EmulOps> Cpu<'_, O> {
    pub(super) fn exec_vector(&mut self, op: Vector) -> Result<(), Stop> {
        self.require_sse()?;
        match (self.insn.operand(0), self.insn.operand(1)) {
            (Operand::Xmm(to), Operand::Mem(mem)) => self.load_vector(op, to, &mem),
            (Operand::Mem(mem), Operand::Xmm(from)) => self.store_vector(op, &mem, from),
            (Operand::Xmm(to), Operand::Xmm(from)) => self.copy_vector(op, to, from),
            (Operand::Xmm(to), Operand::Gpr(from)) => {
                let value = self.gpr_part(from);
                let mut vector = [0; 16];
                replace(&mut vector, 0, &value.to_le_bytes());
                self.ops.set_xmm(to, vector)
            }
            (Operand::Gpr(to), Operand::Xmm(from)) => self.vector_to_gpr(to, from),
            _ => Err(Stop::Unhandleable),
        }
    }

    /// SDM 3A "Enabling SSE", 14.1; SDM 2A table 2-22.
    fn require_sse(&self) -> Result<(), Stop> {
        if self.ops.cr0() & CR0_EM != 0 || self.ops.cr4() & CR4_OSFXSR == 0 {
            return Err(Stop::UD);
        }
        if self.ops.cr0() & CR0_TS != 0 {
            return Err(Stop::Fault(Exception::NM));
        }
        Ok(())
    }

    fn require_alignment(&self, op: Vector, mem: &Mem, access: Access) -> Result<(), Stop> {
        let aligned = self.linear_of(mem, access)?.is_aligned(16);
        if op == Vector::Aligned && !aligned {
            return Err(Stop::GP0);
        }
        Ok(())
    }

    fn load_vector(&mut self, op: Vector, to: u8, mem: &Mem) -> Result<(), Stop> {
        self.require_alignment(op, mem, Access::Read)?;
        let mut source = [0; 16];
        let source = source
            .get_mut(..mem.size.into())
            .ok_or(Stop::Unhandleable)?;
        self.read_bytes(mem.segment, self.effective(mem), source, Access::Read)?;
        let mut vector = match op {
            Vector::LowHalf | Vector::HighHalf => self.ops.xmm(to)?,
            Vector::Full | Vector::Aligned | Vector::Low | Vector::Scalar => [0; 16],
        };
        replace(&mut vector, start_of(op), source);
        self.ops.set_xmm(to, vector)
    }

    fn store_vector(&mut self, op: Vector, mem: &Mem, from: u8) -> Result<(), Stop> {
        self.require_alignment(op, mem, Access::Write)?;
        let vector = self.ops.xmm(from)?;
        let start = start_of(op);
        let end = start.saturating_add(mem.size.into());
        let part = vector.get(start..end).ok_or(Stop::Unhandleable)?;
        let offset = self.effective(mem);
        self.write_bytes(mem.segment, offset, part)
    }

    fn copy_vector(&mut self, op: Vector, to: u8, from: u8) -> Result<(), Stop> {
        let source = self.ops.xmm(from)?;
        let len = match op {
            Vector::Full | Vector::Aligned => 16,
            Vector::Low | Vector::LowHalf | Vector::HighHalf => 8,
            Vector::Scalar if self.insn.prefixes.rep == Rep::Rep => 4,
            Vector::Scalar => 8,
        };
        let mut vector = match op {
            Vector::Scalar => self.ops.xmm(to)?,
            Vector::Full | Vector::Aligned | Vector::Low | Vector::LowHalf | Vector::HighHalf => {
                [0; 16]
            }
        };
        replace(&mut vector, 0, source.get(..len).unwrap_or(&source));
        self.ops.set_xmm(to, vector)
    }

    fn vector_to_gpr(&mut self, to: Gpr, from: u8) -> Result<(), Stop> {
        let vector = self.ops.xmm(from)?;
        let low = from_le(vector.get(..8).unwrap_or(&vector));
        self.set_gpr_part(to, low);
        Ok(())
    }
}

/// Returns where in the register an operation starts.
fn start_of(op: Vector) -> usize {
    match op {
        Vector::HighHalf => 8,
        Vector::Full | Vector::Aligned | Vector::Low | Vector::Scalar | Vector::LowHalf => 0,
    }
}

/// Replaces the bytes of `vector` from `start` on by as many of `part` as fit.
fn replace(vector: &mut [u8; 16], start: usize, part: &[u8]) {
    for (byte, from) in vector.iter_mut().skip(start).zip(part) {
        *byte = *from;
    }
}
