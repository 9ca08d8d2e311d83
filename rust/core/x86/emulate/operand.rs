// SPDX-License-Identifier: GPL-2.0

//! Reading, writing and modifying the integer operands of an instruction.

use super::cpu::Cpu;
use super::insn::{
    Mem,
    Operand,
    Width, //
};
use super::ops::{
    Access,
    EmulOps,
    Stop, //
};

impl<O: EmulOps> Cpu<'_, O> {
    /// Returns the width of operand `n`: of a register or of memory, else the operand size.
    pub(super) fn width_of(&self, n: usize) -> Width {
        match self.insn.operand(n) {
            Operand::Gpr(gpr) => gpr.width,
            Operand::Mem(mem) => Width::from_bytes(mem.size).unwrap_or(self.insn.operand_size),
            Operand::None
            | Operand::Seg(_)
            | Operand::Cr(_)
            | Operand::Dr(_)
            | Operand::Mm(_)
            | Operand::Xmm(_)
            | Operand::Imm(_)
            | Operand::Rel(_)
            | Operand::Far { .. } => self.insn.operand_size,
        }
    }

    /// Reads operand `n`; an immediate is not cut to any width.
    pub(super) fn read_operand(&mut self, n: usize) -> Result<u64, Stop> {
        self.read_for(n, Access::Read)
    }

    fn read_for(&mut self, n: usize, access: Access) -> Result<u64, Stop> {
        match self.insn.operand(n) {
            Operand::Gpr(gpr) => Ok(self.gpr_part(gpr)),
            Operand::Mem(mem) => {
                let offset = self.effective(&mem);
                self.read_int(mem.segment, offset, self.width_of(n), access)
            }
            Operand::Imm(value) | Operand::Rel(value) => Ok(value),
            Operand::Seg(segment) => Ok(self.ops.segment(segment).selector.into()),
            Operand::None
            | Operand::Cr(_)
            | Operand::Dr(_)
            | Operand::Mm(_)
            | Operand::Xmm(_)
            | Operand::Far { .. } => Err(Stop::Unhandleable),
        }
    }

    /// Reads operand `n`, cut to `width`.
    pub(super) fn read_cut(&mut self, n: usize, width: Width) -> Result<u64, Stop> {
        Ok(width.cut(self.read_operand(n)?))
    }

    /// Writes operand `n`: memory now, a register at the commit.
    pub(super) fn write_operand(&mut self, n: usize, value: u64) -> Result<(), Stop> {
        match self.insn.operand(n) {
            Operand::Gpr(gpr) => {
                self.set_gpr_part(gpr, value);
                Ok(())
            }
            Operand::Mem(mem) => {
                let offset = self.effective(&mem);
                self.write_int(mem.segment, offset, self.width_of(n), value)
            }
            Operand::None
            | Operand::Seg(_)
            | Operand::Cr(_)
            | Operand::Dr(_)
            | Operand::Mm(_)
            | Operand::Xmm(_)
            | Operand::Imm(_)
            | Operand::Rel(_)
            | Operand::Far { .. } => Err(Stop::Unhandleable),
        }
    }

    /// Replaces operand 0 by what `change` makes of it, atomically with LOCK; returns the old value
    /// and what else `change` returned.
    pub(super) fn modify<T>(
        &mut self,
        change: impl FnOnce(u64) -> (u64, T),
    ) -> Result<(u64, T), Stop> {
        let lock = if self.insn.prefixes.lock {
            Lock::Yes
        } else {
            Lock::No
        };
        self.modify_as(lock, change)
    }

    /// As [`Cpu::modify`], atomically or not as said (XCHG is, without LOCK).
    pub(super) fn modify_as<T>(
        &mut self,
        lock: Lock,
        change: impl FnOnce(u64) -> (u64, T),
    ) -> Result<(u64, T), Stop> {
        let old = self.read_for(0, Access::Modify)?;
        let (new, rest) = change(old);
        match (self.insn.operand(0), lock) {
            (Operand::Mem(mem), Lock::Yes) => self.swap_int(&mem, old, new)?,
            _ => self.write_operand(0, new)?,
        }
        Ok((old, rest))
    }

    /// Replaces the integer `old` in memory by `new`, atomically.
    pub(super) fn swap_int(&mut self, mem: &Mem, old: u64, new: u64) -> Result<(), Stop> {
        let (old, new) = (old.to_le_bytes(), new.to_le_bytes());
        let len = usize::from(mem.size);
        match (old.get(..len), new.get(..len)) {
            (Some(old), Some(new)) => self.swap_bytes(mem, old, new),
            _ => Err(Stop::Unhandleable),
        }
    }
}

/// Whether a memory operand is modified atomically.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lock {
    Yes,
    No,
}
