// SPDX-License-Identifier: GPL-2.0

//! The stack.

use super::alu::FlagChange;
use super::cpu::{
    Cpu,
    Mode, //
};
use super::flags::{
    AC,
    CR4_VME,
    DF,
    ID,
    IF,
    IOPL,
    NT,
    RF,
    STATUS,
    TF,
    VIF,
    VIP,
    VM, //
};
use super::insn::{
    Operand,
    SegReg,
    Width,
    RBP,
    RSP, //
};
use super::op::Stack;
use super::ops::{
    Access,
    EmulOps,
    Shadow,
    Stop, //
};

impl<O: EmulOps> Cpu<'_, O> {
    pub(super) fn exec_stack(&mut self, op: Stack) -> Result<(), Stop> {
        match op {
            Stack::Push => self.push_operand(),
            Stack::Pop => self.pop_operand(),
            Stack::Pusha => self.pusha(),
            Stack::Popa => self.popa(),
            Stack::Pushf => self.pushf(),
            Stack::Popf => self.popf(),
            Stack::Enter => self.enter(),
            Stack::Leave => self.leave(),
        }
    }

    /// Returns the stack offset `bytes` below the stack pointer.
    pub(super) fn below_stack(&self, bytes: u64) -> u64 {
        self.stack_width()
            .cut(self.stack_pointer().wrapping_sub(bytes))
    }

    /// Pushes a value of `width`.
    pub(super) fn push(&mut self, width: Width, value: u64) -> Result<(), Stop> {
        let top = self.below_stack(width.bytes().into());
        self.write_int(SegReg::Ss, top, width, value)?;
        self.set_stack_pointer(top);
        Ok(())
    }

    /// Pops a value of `width`.
    pub(super) fn pop(&mut self, width: Width) -> Result<u64, Stop> {
        let top = self.stack_pointer();
        let value = self.read_int(SegReg::Ss, top, width, Access::Read)?;
        self.set_stack_pointer(top.wrapping_add(width.bytes().into()));
        Ok(value)
    }

    fn push_operand(&mut self) -> Result<(), Stop> {
        let width = self.insn.operand_size;
        let top = self.below_stack(width.bytes().into());
        let operand = self.insn.operand(0);
        if matches!(operand, Operand::Mem(_)) {
            self.probe(SegReg::Ss, top, width.bytes().into())?;
        }
        // A selector takes the room of the operand size, but of 32 bits only 16 are written, as
        // recent CPUs do.
        if matches!(operand, Operand::Seg(_)) && width == Width::Dword {
            let selector = self.read_operand(0)?;
            self.write_int(SegReg::Ss, top, Width::Word, selector)?;
            self.set_stack_pointer(top);
            return Ok(());
        }
        let value = self.read_operand(0)?;
        self.push(width, value)
    }

    /// POP; the address of a memory operand is taken after RSP moves, and if it cannot be written,
    /// RSP does not move.
    fn pop_operand(&mut self) -> Result<(), Stop> {
        let value = self.pop(self.insn.operand_size)?;
        let Operand::Seg(segment) = self.insn.operand(0) else {
            return self.write_operand(0, value);
        };
        self.load_segment(segment, (value & 0xffff) as u16)?;
        if segment == SegReg::Ss {
            self.shadow = Shadow::MovSs;
        }
        Ok(())
    }

    /// PUSHA: eight registers, RDI at the top of the stack.
    fn pusha(&mut self) -> Result<(), Stop> {
        let width = self.insn.operand_size;
        let size = usize::from(width.bytes());
        let mut bytes = [0; 32];
        for (slot, register) in bytes.chunks_mut(size).zip((0..8).rev()) {
            for (byte, from) in slot.iter_mut().zip(self.gpr(register).to_le_bytes()) {
                *byte = from;
            }
        }
        let top = self.below_stack(size.wrapping_mul(8) as u64);
        let block = bytes
            .get(..size.wrapping_mul(8))
            .ok_or(Stop::Unhandleable)?;
        if self.is_contiguous(top, block.len()) {
            self.write_bytes(SegReg::Ss, top, block)?;
        } else {
            self.write_slots(top, block, size)?;
        }
        self.set_stack_pointer(top);
        Ok(())
    }

    /// Returns whether `len` bytes from `top` do not wrap around the stack segment.
    fn is_contiguous(&self, top: u64, len: usize) -> bool {
        let last = top.wrapping_add(len as u64).wrapping_sub(1);
        self.stack_width().cut(last) >= top
    }

    /// Writes slots of `size` bytes to a stack that wraps, all checked before the first is written.
    fn write_slots(&mut self, top: u64, block: &[u8], size: usize) -> Result<(), Stop> {
        let width = self.stack_width();
        let size = size.max(1);
        let mut offset = top;
        for slot in block.chunks(size) {
            self.probe(SegReg::Ss, offset, slot.len())?;
            offset = width.cut(offset.wrapping_add(size as u64));
        }
        offset = top;
        for slot in block.chunks(size) {
            self.write_bytes(SegReg::Ss, offset, slot)?;
            offset = width.cut(offset.wrapping_add(size as u64));
        }
        Ok(())
    }

    /// POPA; the image of RSP is skipped.
    fn popa(&mut self) -> Result<(), Stop> {
        let width = self.insn.operand_size;
        let mut top = self.stack_pointer();
        for register in (0..8).rev() {
            if register != RSP {
                let value = self.read_int(SegReg::Ss, top, width, Access::Read)?;
                self.set_gpr_low(register, width, value);
            }
            top = self
                .stack_width()
                .cut(top.wrapping_add(width.bytes().into()));
        }
        self.set_stack_pointer(top);
        Ok(())
    }

    /// Returns whether virtual-8086 mode uses VIF in place of IF (I/O privilege below 3), or #GP
    /// where it must but cannot. SDM 3B "Virtual-8086 Mode Extensions", 21.3.
    fn uses_virtual_interrupt_flag(&self) -> Result<bool, Stop> {
        if self.mode != Mode::Virtual8086 || self.iopl() == 3 {
            return Ok(false);
        }
        if self.ops.cr4() & CR4_VME != 0 && self.insn.operand_size == Width::Word {
            return Ok(true);
        }
        Err(Stop::GP0)
    }

    fn pushf(&mut self) -> Result<(), Stop> {
        let rflags = self.rflags();
        let image = if self.uses_virtual_interrupt_flag()? {
            (rflags & !IF) | IOPL | if rflags & VIF != 0 { IF } else { 0 }
        } else {
            rflags & !(VM | RF)
        };
        self.push(self.insn.operand_size, image)
    }

    fn popf(&mut self) -> Result<(), Stop> {
        let virtual_if = self.uses_virtual_interrupt_flag()?;
        let width = self.insn.operand_size;
        let image = self.pop(width)?;
        let change = self.flags_from_stack(width, image);
        if !virtual_if {
            self.set_flags(change);
            return Ok(());
        }
        if image & TF != 0 || (image & IF != 0 && self.rflags() & VIP != 0) {
            return Err(Stop::GP0);
        }
        let vif = if image & IF != 0 { VIF } else { 0 };
        self.set_flags(change.except(IF | IOPL).with(VIF, vif));
        Ok(())
    }

    /// Returns what a flags image of `width` changes, as the privilege level allows.
    pub(super) fn flags_from_stack(&self, width: Width, image: u64) -> FlagChange {
        let mut mask = STATUS | TF | DF | NT;
        if width != Width::Word {
            mask |= AC | ID;
        }
        let cpl = self.ops.cpl();
        if self.mode == Mode::Real || cpl == 0 {
            mask |= IOPL;
        }
        if self.mode == Mode::Real || cpl <= self.iopl() {
            mask |= IF;
        }
        FlagChange { mask, value: image }
    }

    /// ENTER. All slots are probed and read before the first is written.
    fn enter(&mut self) -> Result<(), Stop> {
        let width = self.insn.operand_size;
        let size = usize::from(width.bytes());
        let room = self.read_operand(0)?;
        let level = (self.read_operand(1)? & 31) as u8;
        let slots = level.wrapping_add(1);
        let len = size.wrapping_mul(slots.into());
        let bottom = self.below_stack(len as u64);
        let mut block = [0; 32 * 8];
        let block = block.get_mut(..len).ok_or(Stop::Unhandleable)?;
        let frame = self.below_stack(size as u64);
        for n in 0..slots {
            let value = self.enter_slot(
                n,
                level,
                frame,
                &Pushed {
                    bottom,
                    block,
                    size,
                },
            )?;
            if let Some(slot) = block.rchunks_mut(size).nth(n.into()) {
                for (byte, from) in slot.iter_mut().zip(value) {
                    *byte = from;
                }
            }
        }
        // The new top must be writable, though nothing is written there yet.
        let top = self.stack_width().cut(bottom.wrapping_sub(room));
        self.probe(SegReg::Ss, top, size)?;
        self.write_slots(bottom, block, size)?;
        self.set_gpr_low(RBP, width, frame);
        self.set_stack_pointer(top);
        Ok(())
    }

    /// Returns what ENTER pushes as slot `n`: RBP, enclosing frame pointers, its own frame pointer.
    fn enter_slot(
        &mut self,
        n: u8,
        level: u8,
        frame: u64,
        pushed: &Pushed<'_>,
    ) -> Result<[u8; 8], Stop> {
        let width = self.insn.operand_size;
        if n == 0 {
            return Ok(self.gpr(RBP).to_le_bytes());
        }
        if n == level {
            return Ok(frame.to_le_bytes());
        }
        let stack = self.stack_width();
        let back = u64::from(n).wrapping_mul(width.bytes().into());
        let offset = stack.cut(self.gpr(RBP).wrapping_sub(back));
        let mut bytes = self
            .read_int(SegReg::Ss, offset, width, Access::Read)?
            .to_le_bytes();
        // The old frames may overlap the slots pushed so far, which are not in memory yet.
        let start = stack.cut(offset.wrapping_sub(pushed.bottom));
        for (i, byte) in (0_u64..).zip(&mut bytes) {
            if let Some(newer) = pushed.byte(n, stack.cut(start.wrapping_add(i))) {
                *byte = newer;
            }
        }
        Ok(bytes)
    }

    fn leave(&mut self) -> Result<(), Stop> {
        let width = self.insn.operand_size;
        let frame = self.stack_width().cut(self.gpr(RBP));
        let value = self.read_int(SegReg::Ss, frame, width, Access::Read)?;
        self.set_stack_pointer(frame.wrapping_add(width.bytes().into()));
        self.set_gpr_low(RBP, width, value);
        Ok(())
    }
}

/// What ENTER has pushed so far: slots of `size` bytes from the top of `block` down.
struct Pushed<'a> {
    /// The stack offset of the start of `block`.
    bottom: u64,
    block: &'a [u8],
    size: usize,
}

impl Pushed<'_> {
    /// Returns byte `at` of the block if it is in the first `count` slots.
    fn byte(&self, count: u8, at: u64) -> Option<u8> {
        let at = usize::try_from(at).ok()?;
        let filled = self.size.wrapping_mul(count.into());
        if at < self.block.len().saturating_sub(filled) {
            return None;
        }
        self.block.get(at).copied()
    }
}
