// SPDX-License-Identifier: GPL-2.0

//! Copies, conversions and exchanges.

use super::alu;
use super::cpu::Cpu;
use super::flags::{
    when,
    CF,
    OF,
    PF,
    SF,
    ZF, //
};
use super::insn::{
    Insn,
    Mem,
    Operand,
    SegReg,
    Width,
    RAX,
    RBX,
    RCX,
    RDX, //
};
use super::op::{
    Exchange,
    Mov, //
};
use super::operand::Lock;
use super::ops::{
    Access,
    EmulOps,
    Shadow,
    Stop, //
};

/// Returns whether condition `code` (0 to 15) of Jcc holds. SDM 1 "EFLAGS Condition Codes", app. B.
pub(super) fn holds(code: u8, rflags: u64) -> bool {
    let less = (rflags & SF != 0) != (rflags & OF != 0);
    let base = match (code >> 1) & 7 {
        0 => rflags & OF != 0,
        1 => rflags & CF != 0,
        2 => rflags & ZF != 0,
        3 => rflags & (CF | ZF) != 0,
        4 => rflags & SF != 0,
        5 => rflags & PF != 0,
        6 => less,
        _ => less || rflags & ZF != 0,
    };
    base != (code & 1 != 0)
}

impl<O: EmulOps> Cpu<'_, O> {
    pub(super) fn exec_mov(&mut self, op: Mov) -> Result<(), Stop> {
        match op {
            Mov::Mov | Mov::Movzx => self.copy(|value, _| value),
            Mov::Movsx => self.copy(|value, width| width.sign_extend(value)),
            Mov::Movbe => self.movbe(),
            Mov::Cmov => self.cmov(),
            Mov::Setcc => {
                let set = holds(self.insn.condition(), self.rflags());
                self.write_operand(0, set.into())
            }
            Mov::Lea => self.lea(),
            Mov::Xlat => self.xlat(),
            Mov::Bswap => self.bswap(),
            Mov::Cbw => self.cbw(),
            Mov::Cwd => self.cwd(),
            Mov::FromSeg => {
                let selector = self.read_operand(1)?;
                self.write_operand(0, selector)
            }
            Mov::ToSeg => self.mov_to_segment(),
        }
    }

    /// Copies operand 1 to operand 0, converted from its own width.
    fn copy(&mut self, convert: impl FnOnce(u64, Width) -> u64) -> Result<(), Stop> {
        let value = self.read_operand(1)?;
        let width = self.width_of(1);
        self.write_operand(0, convert(value, width))
    }

    fn movbe(&mut self) -> Result<(), Stop> {
        let value = self.read_operand(1)?;
        self.write_operand(0, swap_bytes(self.insn, value))
    }

    /// Reads the source also where it does not copy; a doubleword register is cleared above even so.
    fn cmov(&mut self) -> Result<(), Stop> {
        let source = self.read_operand(1)?;
        let old = self.read_operand(0)?;
        let taken = holds(self.insn.condition(), self.rflags());
        self.write_operand(0, if taken { source } else { old })
    }

    fn lea(&mut self) -> Result<(), Stop> {
        let mem = self.insn.memory().ok_or(Stop::UD)?;
        self.write_operand(0, self.effective(&mem))
    }

    fn xlat(&mut self) -> Result<(), Stop> {
        let segment = self.insn.prefixes.segment.unwrap_or(SegReg::Ds);
        let sum = self.gpr(RBX).wrapping_add(self.gpr(RAX) & 0xff);
        let offset = self.insn.address_size.cut(sum);
        let value = self.read_int(segment, offset, Width::Byte, Access::Read)?;
        self.set_gpr_low(RAX, Width::Byte, value);
        Ok(())
    }

    /// BSWAP; of a word, which is undefined, it makes 0 as CPUs do.
    fn bswap(&mut self) -> Result<(), Stop> {
        let value = self.read_operand(0)?;
        let swapped = match self.insn.operand_size {
            Width::Byte | Width::Word => 0,
            Width::Dword | Width::Qword => swap_bytes(self.insn, value),
        };
        self.write_operand(0, swapped)
    }

    /// CBW, CWDE and CDQE: sign-extends the lower half of rAX.
    fn cbw(&mut self) -> Result<(), Stop> {
        let half = half_of(self.insn.operand_size);
        let value = half.sign_extend(self.gpr(RAX));
        self.set_gpr_low(RAX, self.insn.operand_size, value);
        Ok(())
    }

    /// CWD, CDQ and CQO: fills rDX with the sign of rAX.
    fn cwd(&mut self) -> Result<(), Stop> {
        let width = self.insn.operand_size;
        let sign = when(self.gpr(RAX) & width.sign() != 0, u64::MAX);
        self.set_gpr_low(RDX, width, sign);
        Ok(())
    }

    fn mov_to_segment(&mut self) -> Result<(), Stop> {
        let selector = self.read_cut(1, Width::Word)?;
        let Operand::Seg(segment) = self.insn.operand(0) else {
            return Err(Stop::Unhandleable);
        };
        self.load_segment(segment, (selector & 0xffff) as u16)?;
        if segment == SegReg::Ss {
            self.shadow = Shadow::MovSs;
        }
        Ok(())
    }

    pub(super) fn exec_exchange(&mut self, op: Exchange) -> Result<(), Stop> {
        match op {
            Exchange::Xchg => self.xchg(),
            Exchange::Xadd => self.xadd(),
            Exchange::Cmpxchg => self.cmpxchg(),
            Exchange::CmpxchgPair => self.cmpxchg_pair(),
        }
    }

    fn xchg(&mut self) -> Result<(), Stop> {
        // 90 without REX.B is NOP: in 64-bit mode it does not clear the high half.
        if self.insn.opcode == 0x90 && self.insn.operand(0) == self.insn.operand(1) {
            return self.nop_or_pause();
        }
        let source = self.read_operand(1)?;
        let (old, ()) = self.modify_as(Lock::Yes, |_| (source, ()))?;
        self.write_operand(1, old)
    }

    fn xadd(&mut self) -> Result<(), Stop> {
        let width = self.width_of(0);
        let source = self.read_operand(1)?;
        if self.insn.memory().is_some() {
            let (old, flags) = self.modify(|old| alu::add(width, old, source, 0))?;
            self.set_flags(flags);
            return self.write_operand(1, old);
        }
        // With one register for both, the sum is what stays.
        let old = self.read_operand(0)?;
        let (sum, flags) = alu::add(width, old, source, 0);
        self.write_operand(1, old)?;
        self.write_operand(0, sum)?;
        self.set_flags(flags);
        Ok(())
    }

    /// CMPXCHG; writes the old value back where it differs from rAX, as CPUs do.
    fn cmpxchg(&mut self) -> Result<(), Stop> {
        let width = self.width_of(0);
        let expected = width.cut(self.gpr(RAX));
        let new = self.read_operand(1)?;
        let (old, flags) = self.modify(|old| {
            let (_, flags) = alu::sub(width, expected, old, 0);
            (if old == expected { new } else { old }, flags)
        })?;
        if old != expected {
            self.set_gpr_low(RAX, width, old);
        }
        self.set_flags(flags);
        Ok(())
    }

    /// CMPXCHG8B and CMPXCHG16B.
    fn cmpxchg_pair(&mut self) -> Result<(), Stop> {
        let mem = self.insn.memory().ok_or(Stop::UD)?;
        let half = if mem.size == 16 {
            Width::Qword
        } else {
            Width::Dword
        };
        if half == Width::Qword && !self.linear_of(&mem, Access::Modify)?.is_aligned(16) {
            return Err(Stop::GP0);
        }
        let mut old = [0; 16];
        let old = old.get_mut(..mem.size.into()).ok_or(Stop::Unhandleable)?;
        self.read_bytes(mem.segment, self.effective(&mem), old, Access::Modify)?;
        let (low, high) = split(old, half);
        let equal = low == half.cut(self.gpr(RAX)) && high == half.cut(self.gpr(RDX));
        let mut new = [0; 16];
        let new = new.get_mut(..mem.size.into()).ok_or(Stop::Unhandleable)?;
        if equal {
            join(new, half, self.gpr(RBX), self.gpr(RCX));
        } else {
            new.copy_from_slice(old);
        }
        if self.insn.prefixes.lock {
            self.swap_bytes(&mem, old, new)?;
        } else {
            self.write_bytes(mem.segment, self.effective(&mem), new)?;
        }
        if !equal {
            self.set_gpr_low(RAX, half, low);
            self.set_gpr_low(RDX, half, high);
        }
        self.set_flags(alu::FlagChange {
            mask: ZF,
            value: when(equal, ZF),
        });
        Ok(())
    }

    /// LDS and its like: loads a segment register and a general one from memory.
    pub(super) fn exec_load_far(&mut self, segment: SegReg) -> Result<(), Stop> {
        let mem = self.insn.memory().ok_or(Stop::UD)?;
        let (selector, offset) = self.read_far_pointer(&mem)?;
        self.load_segment(segment, selector)?;
        self.write_operand(0, offset)
    }

    /// Reads a far pointer: offset, then selector, as one access.
    pub(super) fn read_far_pointer(&mut self, mem: &Mem) -> Result<(u16, u64), Stop> {
        let mut bytes = [0; 10];
        let part = bytes.get_mut(..mem.size.into()).ok_or(Stop::Unhandleable)?;
        self.read_bytes(mem.segment, self.effective(mem), part, Access::Read)?;
        let (offset, selector) = part.split_at(part.len().saturating_sub(2));
        Ok(((from_le(selector) & 0xffff) as u16, from_le(offset)))
    }
}

/// Returns a little-endian number of at most 8 bytes.
pub(super) fn from_le(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// Reverses the bytes of a value of the operand size.
fn swap_bytes(insn: &Insn, value: u64) -> u64 {
    let width = insn.operand_size;
    value.swap_bytes() >> 64_u32.wrapping_sub(width.bits())
}

/// Returns the width of half as many bits.
fn half_of(width: Width) -> Width {
    match width {
        Width::Byte | Width::Word => Width::Byte,
        Width::Dword => Width::Word,
        Width::Qword => Width::Dword,
    }
}

/// Splits two integers of `half` each.
fn split(bytes: &[u8], half: Width) -> (u64, u64) {
    let middle = usize::from(half.bytes()).min(bytes.len());
    let (low, high) = bytes.split_at(middle);
    (from_le(low), from_le(high))
}

/// Writes two integers of `half` each.
fn join(bytes: &mut [u8], half: Width, low: u64, high: u64) {
    let size = usize::from(half.bytes());
    for (part, value) in bytes.chunks_mut(size.max(1)).zip([low, high]) {
        for (byte, from) in part.iter_mut().zip(value.to_le_bytes()) {
            *byte = from;
        }
    }
}
