// SPDX-License-Identifier: GPL-2.0

//! One instruction in execution: the vCPU's registers, and those that the instruction will change.
//!
//! Changes are staged and applied at once, by [`Cpu::commit`], when nothing can stop any more.

use super::alu::FlagChange;
use super::flags::{
    CR0_PE,
    IOPL,
    RF,
    VM, //
};
use super::insn::{
    CodeSize,
    Gpr,
    Insn,
    SegReg,
    Width,
    RSP, //
};
use super::ops::{
    EmulOps,
    SegmentView,
    Shadow,
    Stop, //
};

/// The operating mode, as far as instructions differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    Real,
    Virtual8086,
    /// Protected mode and compatibility mode.
    Protected,
    /// 64-bit mode.
    Long,
}

/// The vCPU and the instruction that it executes.
pub(super) struct Cpu<'a, O: EmulOps> {
    pub(super) insn: &'a Insn,
    pub(super) ops: &'a mut O,
    pub(super) mode: Mode,
    pub(super) shadow: Shadow,
    staged: Staged,
}

/// Register changes to come.
#[derive(Default)]
struct Staged {
    gprs: [u64; 16],
    /// Which of `gprs` are set, by bit.
    dirty: u16,
    rflags: Option<u64>,
    rip: Option<u64>,
    segment: Option<(SegReg, SegmentView)>,
}

impl<'a, O: EmulOps> Cpu<'a, O> {
    pub(super) fn new(insn: &'a Insn, ops: &'a mut O) -> Self {
        let mode = mode_of(ops, insn.code_size);
        Self {
            insn,
            ops,
            mode,
            shadow: Shadow::None,
            staged: Staged::default(),
        }
    }

    /// Returns general register `index`, with what is staged.
    pub(super) fn gpr(&self, index: u8) -> u64 {
        if self.staged.dirty & 1_u16.wrapping_shl(index.into()) != 0 {
            return self
                .staged
                .gprs
                .get(usize::from(index))
                .copied()
                .unwrap_or(0);
        }
        self.ops.gpr(index)
    }

    /// Stages all 64 bits of a general register.
    pub(super) fn set_gpr(&mut self, index: u8, value: u64) {
        if let Some(slot) = self.staged.gprs.get_mut(usize::from(index)) {
            *slot = value;
            self.staged.dirty |= 1_u16.wrapping_shl(index.into());
        }
    }

    /// Stages the low part of a general register: a doubleword clears the rest, others keep it.
    pub(super) fn set_gpr_low(&mut self, index: u8, width: Width, value: u64) {
        let value = match width {
            Width::Byte | Width::Word => (self.gpr(index) & !width.mask()) | width.cut(value),
            Width::Dword | Width::Qword => width.cut(value),
        };
        self.set_gpr(index, value);
    }

    /// Returns a register operand.
    pub(super) fn gpr_part(&self, gpr: Gpr) -> u64 {
        let value = self.gpr(gpr.index);
        gpr.width.cut(if gpr.high { value >> 8 } else { value })
    }

    /// Stages a register operand.
    pub(super) fn set_gpr_part(&mut self, gpr: Gpr, value: u64) {
        if gpr.high {
            let merged = (self.gpr(gpr.index) & !0xff00) | ((value & 0xff) << 8);
            self.set_gpr(gpr.index, merged);
        } else {
            self.set_gpr_low(gpr.index, gpr.width, value);
        }
    }

    /// Returns RFLAGS, with what is staged.
    pub(super) fn rflags(&self) -> u64 {
        self.staged.rflags.unwrap_or_else(|| self.ops.rflags())
    }

    /// Stages a change of flags.
    pub(super) fn set_flags(&mut self, change: FlagChange) {
        self.staged.rflags = Some(change.apply(self.rflags()));
    }

    /// Stages a segment register; an instruction changes one at most.
    pub(super) fn set_segment(&mut self, register: SegReg, value: SegmentView) {
        self.staged.segment = Some((register, value));
    }

    /// Stages RIP; without it, RIP goes to the next instruction.
    pub(super) fn set_rip(&mut self, rip: u64) {
        self.staged.rip = Some(rip);
    }

    /// Returns the address of the next instruction.
    pub(super) fn next_rip(&self) -> u64 {
        let next = self.ops.rip().wrapping_add(self.insn.len.into());
        if self.is_long() {
            next
        } else {
            Width::Dword.cut(next)
        }
    }

    /// Completes the instruction.
    pub(super) fn retire(&mut self) {
        let rip = self.staged.rip.unwrap_or_else(|| self.next_rip());
        self.set_flags(FlagChange { mask: RF, value: 0 });
        self.ops.set_rip(rip);
        self.commit();
    }

    /// Applies the staged changes without leaving the instruction.
    pub(super) fn commit(&mut self) {
        let mut dirty = core::mem::take(&mut self.staged.dirty);
        while let Some(index) = dirty.checked_ilog2() {
            dirty &= !1_u16.wrapping_shl(index);
            let Ok(index) = u8::try_from(index) else {
                continue;
            };
            if let Some(value) = self.staged.gprs.get(usize::from(index)) {
                self.ops.set_gpr(index, *value);
            }
        }
        self.staged.rip = None;
        if let Some(rflags) = self.staged.rflags.take() {
            self.ops.set_rflags(rflags);
        }
        if let Some((register, value)) = self.staged.segment.take() {
            self.ops.set_segment(register, value);
        }
        self.ops.committed();
    }

    pub(super) fn is_long(&self) -> bool {
        self.mode == Mode::Long
    }

    /// Returns whether selectors are paragraph numbers.
    pub(super) fn is_real_like(&self) -> bool {
        matches!(self.mode, Mode::Real | Mode::Virtual8086)
    }

    /// Returns the I/O privilege level.
    pub(super) fn iopl(&self) -> u8 {
        ((self.ops.rflags() & IOPL) >> 12) as u8
    }

    /// Returns the width of the stack pointer.
    pub(super) fn stack_width(&self) -> Width {
        if self.is_long() {
            Width::Qword
        } else if self.ops.segment(SegReg::Ss).rights.big() {
            Width::Dword
        } else {
            Width::Word
        }
    }

    /// Returns the stack pointer, cut to its width.
    pub(super) fn stack_pointer(&self) -> u64 {
        self.stack_width().cut(self.gpr(RSP))
    }

    /// Stages the stack pointer.
    pub(super) fn set_stack_pointer(&mut self, value: u64) {
        self.set_gpr_low(RSP, self.stack_width(), value);
    }

    /// Refuses an instruction for CPL 0 elsewhere.
    pub(super) fn require_cpl0(&self) -> Result<(), Stop> {
        if self.ops.cpl() == 0 {
            Ok(())
        } else {
            Err(Stop::GP0)
        }
    }
}

/// Returns the mode that a vCPU is in, given the size of its code segment.
pub(super) fn mode_of<O: EmulOps>(ops: &O, code_size: CodeSize) -> Mode {
    if code_size == CodeSize::Bits64 {
        Mode::Long
    } else if ops.cr0() & CR0_PE == 0 {
        Mode::Real
    } else if ops.rflags() & VM != 0 {
        Mode::Virtual8086
    } else {
        Mode::Protected
    }
}
