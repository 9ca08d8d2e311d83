// SPDX-License-Identifier: GPL-2.0

//! Transfers of control, and single flags.

use super::alu::FlagChange;
use super::cpu::{
    Cpu,
    Mode, //
};
use super::exec_mov::holds;
use super::flags::{
    when,
    AC,
    CF,
    CR4_PVI,
    CR4_VME,
    DF,
    IF,
    OF,
    STATUS,
    TF,
    VIF,
    VIP,
    ZF, //
};
use super::insn::{
    Operand,
    SegReg,
    Width,
    RAX,
    RCX, //
};
use super::op::{
    Branch,
    Far,
    Flag, //
};
use super::ops::{
    Access,
    EmulOps,
    SegmentView,
    Shadow,
    Stop, //
};
use crate::addr::Gva;

impl<O: EmulOps> Cpu<'_, O> {
    pub(super) fn exec_branch(&mut self, op: Branch) -> Result<(), Stop> {
        match op {
            Branch::Jcc => {
                let taken = holds(self.insn.condition(), self.rflags());
                self.jump_if(taken)
            }
            Branch::Jmp => {
                let target = self.target()?;
                self.jump(target)
            }
            Branch::Call => self.call(),
            Branch::Ret => self.ret(),
            Branch::Loop => self.count_and_jump(true),
            Branch::Loope => self.count_and_jump(self.rflags() & ZF != 0),
            Branch::Loopne => self.count_and_jump(self.rflags() & ZF == 0),
            Branch::Jcxz => self.jump_if(self.counter() == 0),
        }
    }

    /// Returns where operand 0 points: by a displacement, a register or memory.
    fn target(&mut self) -> Result<u64, Stop> {
        let value = self.read_operand(0)?;
        let target = if matches!(self.insn.operand(0), Operand::Rel(_)) {
            self.next_rip().wrapping_add(value)
        } else {
            value
        };
        Ok(self.insn.operand_size.cut(target))
    }

    /// Stages a jump within the code segment.
    ///
    /// # Errors
    ///
    /// [`Stop::Fault`]: #GP(0) where the target is beyond the limit or not canonical.
    fn jump(&mut self, target: u64) -> Result<(), Stop> {
        let allowed = if self.is_long() {
            self.is_canonical(target)
        } else {
            target <= u64::from(self.ops.segment(SegReg::Cs).limit)
        };
        if !allowed {
            return Err(Stop::GP0);
        }
        self.set_rip(target);
        Ok(())
    }

    fn jump_if(&mut self, taken: bool) -> Result<(), Stop> {
        if !taken {
            return Ok(());
        }
        let target = self.target()?;
        self.jump(target)
    }

    /// LOOP and its like; the count has the address size.
    fn count_and_jump(&mut self, condition: bool) -> Result<(), Stop> {
        let count = self.insn.address_size.cut(self.counter().wrapping_sub(1));
        self.jump_if(count != 0 && condition)?;
        self.set_gpr_low(RCX, self.insn.address_size, count);
        Ok(())
    }

    fn call(&mut self) -> Result<(), Stop> {
        let width = self.insn.operand_size;
        let top = self.below_stack(width.bytes().into());
        self.probe(SegReg::Ss, top, width.bytes().into())?;
        let target = self.target()?;
        self.jump(target)?;
        self.push(width, self.next_rip())
    }

    fn ret(&mut self) -> Result<(), Stop> {
        let target = self.pop(self.insn.operand_size)?;
        self.release_operand()?;
        self.jump(target)
    }

    /// Drops the bytes that the immediate of RET names.
    fn release_operand(&mut self) -> Result<(), Stop> {
        if let Operand::Imm(bytes) = self.insn.operand(0) {
            self.set_stack_pointer(self.stack_pointer().wrapping_add(bytes));
        }
        Ok(())
    }

    /// Far transfers, in real mode and virtual-8086 mode; elsewhere they involve descriptors, gates
    /// and stacks that this emulator does not know.
    pub(super) fn exec_far(&mut self, op: Far) -> Result<(), Stop> {
        if op == Far::Into && self.rflags() & OF == 0 {
            return Ok(());
        }
        if !self.is_real_like() {
            return Err(Stop::Unhandleable);
        }
        match op {
            Far::Jmp => {
                let (selector, offset) = self.far_target()?;
                self.far_jump(selector, offset)
            }
            Far::Call => self.far_call(),
            Far::Ret => self.far_ret(),
            Far::Iret => self.iret(),
            Far::Int => {
                let vector = self.read_operand(0)?;
                self.interrupt(vector)
            }
            Far::Int3 => self.interrupt(3),
            Far::Into => self.interrupt(4),
        }
    }

    fn far_target(&mut self) -> Result<(u16, u64), Stop> {
        if let Operand::Far { selector, offset } = self.insn.operand(0) {
            return Ok((selector, offset.into()));
        }
        let mem = self.insn.memory().ok_or(Stop::Unhandleable)?;
        self.read_far_pointer(&mem)
    }

    /// Stages a jump to another real-mode segment.
    fn far_jump(&mut self, selector: u16, offset: u64) -> Result<(), Stop> {
        self.jump(offset)?;
        let old = self.ops.segment(SegReg::Cs);
        self.set_segment(SegReg::Cs, real_segment(old, selector));
        Ok(())
    }

    fn far_call(&mut self) -> Result<(), Stop> {
        let width = self.insn.operand_size;
        let size = u64::from(width.bytes());
        let (cs_slot, ip_slot) = (
            self.below_stack(size),
            self.below_stack(size.wrapping_mul(2)),
        );
        self.probe(SegReg::Ss, cs_slot, width.bytes().into())?;
        self.probe(SegReg::Ss, ip_slot, width.bytes().into())?;
        let (selector, offset) = self.far_target()?;
        self.far_jump(selector, offset)?;
        let cs = self.ops.segment(SegReg::Cs).selector;
        self.push(width, cs.into())?;
        self.push(width, self.next_rip())
    }

    fn far_ret(&mut self) -> Result<(), Stop> {
        let width = self.insn.operand_size;
        let offset = self.pop(width)?;
        let selector = (self.pop(width)? & 0xffff) as u16;
        self.release_operand()?;
        self.far_jump(selector, offset)
    }

    fn iret(&mut self) -> Result<(), Stop> {
        self.require_iopl3()?;
        let width = self.insn.operand_size;
        let offset = self.pop(width)?;
        let selector = (self.pop(width)? & 0xffff) as u16;
        let image = self.pop(width)?;
        self.far_jump(selector, offset)?;
        self.set_flags(self.flags_from_stack(width, image));
        Ok(())
    }

    /// Returns #GP(0) in virtual-8086 mode below I/O privilege 3, where a monitor takes over.
    fn require_iopl3(&self) -> Result<(), Stop> {
        if self.mode == Mode::Virtual8086 && self.iopl() < 3 {
            return Err(Stop::GP0);
        }
        Ok(())
    }

    /// An interrupt through the real-mode vector table. SDM 3B "Interrupt and Exception Handling",
    /// 21.1.4. In virtual-8086 mode it would go through the IDT.
    fn interrupt(&mut self, vector: u64) -> Result<(), Stop> {
        if self.mode != Mode::Real {
            return Err(Stop::Unhandleable);
        }
        let idtr = self.ops.idtr();
        let entry = vector.wrapping_mul(4);
        if entry.wrapping_add(3) > u64::from(idtr.limit) {
            return Err(Stop::GP0);
        }
        for n in 1_u64..=3 {
            let slot = self.below_stack(n.wrapping_mul(2));
            self.probe(SegReg::Ss, slot, 2)?;
        }
        let mut bytes = [0; 4];
        let address = Gva(idtr.base.wrapping_add(entry));
        self.ops.read(address, &mut bytes, Access::SystemRead)?;
        let [ip_low, ip_high, cs_low, cs_high] = bytes;
        let offset = u16::from_le_bytes([ip_low, ip_high]);
        self.far_jump(u16::from_le_bytes([cs_low, cs_high]), offset.into())?;
        let cs = self.ops.segment(SegReg::Cs).selector;
        self.push(Width::Word, self.rflags())?;
        self.push(Width::Word, cs.into())?;
        self.push(Width::Word, self.next_rip())?;
        self.set_flags(FlagChange {
            mask: IF | TF | AC,
            value: 0,
        });
        Ok(())
    }

    pub(super) fn exec_flag(&mut self, op: Flag) -> Result<(), Stop> {
        let change = match op {
            Flag::Clc => FlagChange { mask: CF, value: 0 },
            Flag::Stc => FlagChange {
                mask: CF,
                value: CF,
            },
            Flag::Cmc => FlagChange {
                mask: CF,
                value: !self.rflags(),
            },
            Flag::Cld => FlagChange { mask: DF, value: 0 },
            Flag::Std => FlagChange {
                mask: DF,
                value: DF,
            },
            Flag::Cli => FlagChange {
                mask: self.interrupt_flag()?,
                value: 0,
            },
            Flag::Sti => self.sti()?,
            Flag::Sahf => FlagChange {
                mask: STATUS & !OF,
                value: self.gpr(RAX) >> 8,
            },
            Flag::Lahf => {
                let image = (self.rflags() & 0xff) << 8;
                let rax = (self.gpr(RAX) & !0xff00) | image;
                self.set_gpr(RAX, rax);
                FlagChange::NONE
            }
            Flag::Salc => {
                let value = when(self.rflags() & CF != 0, 0xff);
                self.set_gpr_low(RAX, Width::Byte, value);
                FlagChange::NONE
            }
        };
        self.set_flags(change);
        Ok(())
    }

    /// Returns the flag that CLI and STI act on: IF, or VIF where the privilege level is too low and
    /// virtual interrupts are on. SDM 2A "CLI".
    fn interrupt_flag(&self) -> Result<u64, Stop> {
        if self.mode == Mode::Real || self.ops.cpl() <= self.iopl() {
            return Ok(IF);
        }
        let extension = if self.mode == Mode::Virtual8086 {
            CR4_VME
        } else {
            CR4_PVI
        };
        if self.ops.cr4() & extension != 0 && self.ops.cpl() == 3 {
            return Ok(VIF);
        }
        Err(Stop::GP0)
    }

    fn sti(&mut self) -> Result<FlagChange, Stop> {
        let flag = self.interrupt_flag()?;
        let rflags = self.rflags();
        if flag == VIF && rflags & VIP != 0 {
            return Err(Stop::GP0);
        }
        if flag == IF && rflags & IF == 0 {
            self.shadow = Shadow::Sti;
        }
        Ok(FlagChange {
            mask: flag,
            value: flag,
        })
    }
}

/// Returns a segment register after a real-mode load: limit and rights stay.
pub(super) fn real_segment(old: SegmentView, selector: u16) -> SegmentView {
    SegmentView {
        selector,
        base: u64::from(selector) << 4,
        ..old
    }
}
