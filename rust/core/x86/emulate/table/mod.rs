// SPDX-License-Identifier: GPL-2.0

//! The opcode tables: one row per encoding, with its operand forms.
//!
//! SDM 2D "Opcode Map", appendix A, and the instruction pages. A table has a node for each opcode;
//! a node is a row, or selects another node by the ModRM byte, by the mandatory prefix or by the
//! code size. Instructions that are not executed have rows too ([`Op::Unsupported`]), so that their
//! length is known.

mod groups;
mod primary;
mod secondary;
mod vector;

pub(super) use primary::PRIMARY;
pub(super) use secondary::ESCAPE_0F;
pub(super) use vector::{
    escape_0f38,
    escape_0f3a, //
};

use super::insn::SegReg;
use super::op::Op;

/// The size of an operand, before prefixes are applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    /// None that matters.
    Any,
    /// So many bytes.
    Bytes(u8),
    /// The operand size: 2, 4 or 8.
    Operand,
    /// The operand size, at most 4.
    OperandMax4,
    /// 8 with REX.W, else 4.
    RexW,
    /// 8 in 64-bit mode, else 4.
    Native,
    /// A far pointer: the operand size and 2.
    Far,
    /// Two of the operand size.
    Pair,
    /// Two of `RexW`.
    RexWPair,
    /// A descriptor-table register: 10 in 64-bit mode, else 6.
    Table,
}

/// Where an operand is, and how big.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// No operand.
    None,
    /// General register in ModRM.reg.
    Reg(Size),
    /// General register or memory in ModRM.
    Rm(Size),
    /// As `Rm`; the register has the first size, memory the second.
    RmMixed(Size, Size),
    /// General register in ModRM.rm, whatever the mode says (MOV CR).
    RmReg(Size),
    /// Memory only.
    Mem(Size),
    /// General register in the low bits of the opcode.
    Opcode(Size),
    /// RAX or a part of it.
    Acc(Size),
    /// CL.
    Cl,
    /// DX.
    Dx,
    /// The number one.
    One,
    /// A given segment register.
    Seg(SegReg),
    /// Segment register in ModRM.reg.
    SegReg,
    /// Control register in ModRM.reg.
    Cr,
    /// Debug register in ModRM.reg.
    Dr,
    /// Immediate byte, zero-extended.
    Imm8,
    /// Immediate byte, sign-extended.
    Imm8s,
    /// Immediate word.
    Imm16,
    /// Immediate of the operand size, at most 4 bytes, sign-extended.
    Imm,
    /// Immediate of the operand size.
    ImmFull,
    /// Branch displacement of one byte.
    Rel8,
    /// Branch displacement of the operand size, at most 4 bytes.
    Rel,
    /// Far pointer in the instruction.
    FarPtr,
    /// Memory at an offset in the instruction.
    Moffs(Size),
    /// The source string, at DS:rSI.
    Source(Size),
    /// The destination string, at ES:rDI.
    Dest(Size),
    /// MMX register in ModRM.reg.
    Mm,
    /// MMX register or 8 bytes of memory.
    MmRm,
    /// XMM register in ModRM.reg.
    Xmm,
    /// XMM register or memory of so many bytes.
    XmmRm(u8),
}

/// Properties of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Attr(u8);

impl Attr {
    pub(super) const NONE: Self = Self(0);
    /// LOCK is allowed where the destination is memory.
    pub(super) const LOCK: Self = Self(1);
    /// The operand size in 64-bit mode is 8, or 2 with 66.
    pub(super) const STACK: Self = Self(2);
    /// The operand size in 64-bit mode is 8.
    pub(super) const NEAR: Self = Self(4);
    /// #UD in 64-bit mode.
    pub(super) const NOT64: Self = Self(8);
    /// #UD outside 64-bit mode.
    pub(super) const ONLY64: Self = Self(16);
    /// Has a ModRM byte, though no form may say so.
    pub(super) const MODRM: Self = Self(32);
    /// The ModRM byte has neither SIB nor displacement, whatever it says.
    pub(super) const NOMEM: Self = Self(64);

    /// Returns both.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns whether all of `other` is in this.
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One encoding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) op: Op,
    pub(super) forms: [Form; 3],
    pub(super) attr: Attr,
}

/// One place of a table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Node {
    /// #UD.
    Undefined,
    /// An instruction.
    Row(Row),
    /// By ModRM.reg.
    ByReg(&'static [Node; 8]),
    /// By ModRM.rm.
    ByRm(&'static [Node; 8]),
    /// Memory, register.
    ByMode(&'static [Node; 2]),
    /// By mandatory prefix: none, 66, F3, F2.
    ByPrefix(&'static [Node; 4]),
    /// 16-bit and 32-bit code, 64-bit code.
    By64(&'static [Node; 2]),
}

/// Shorthand for the tables.
mod short {
    pub(super) use super::Form::{
        Acc,
        Cl,
        Cr,
        Dest,
        Dr,
        Dx,
        FarPtr,
        Imm,
        Imm16,
        Imm8,
        Imm8s,
        ImmFull,
        Mem,
        Mm,
        MmRm,
        Moffs,
        One,
        Opcode,
        Reg,
        Rel,
        Rel8,
        Rm,
        RmMixed,
        RmReg,
        Seg,
        Source,
        Xmm,
        XmmRm, //
    };
    pub(super) use super::Node::{
        By64,
        ByMode,
        ByPrefix,
        ByReg,
        ByRm,
        Undefined, //
    };
    pub(super) use super::Size::{
        Any,
        Bytes,
        Far as FarSize,
        Native,
        Operand,
        OperandMax4,
        Pair,
        RexW,
        RexWPair,
        Table, //
    };
    pub(super) use super::{
        Attr,
        Form,
        Node,
        Op,
        Row, //
    };

    pub(super) const NO: Form = Form::None;
    pub(super) const EB: Form = Rm(Bytes(1));
    pub(super) const EW: Form = Rm(Bytes(2));
    pub(super) const ED: Form = Rm(Bytes(4));
    pub(super) const EV: Form = Rm(Operand);
    pub(super) const EY: Form = Rm(RexW);
    pub(super) const GB: Form = Reg(Bytes(1));
    pub(super) const GD: Form = Reg(Bytes(4));
    pub(super) const GV: Form = Reg(Operand);
    pub(super) const GY: Form = Reg(RexW);
    pub(super) const MM: Form = Mem(Any);
    pub(super) const MQ: Form = Mem(Bytes(8));
    pub(super) const AL: Form = Acc(Bytes(1));
    pub(super) const AV: Form = Acc(Operand);
    /// The XMM r/m form of 16 bytes.
    pub(super) const WX: Form = XmmRm(16);

    /// A row without special properties.
    pub(super) const fn row(op: Op, a: Form, b: Form, c: Form) -> Node {
        with(op, a, b, c, Attr::NONE)
    }

    /// A row.
    pub(super) const fn with(op: Op, a: Form, b: Form, c: Form, attr: Attr) -> Node {
        Node::Row(Row {
            op,
            forms: [a, b, c],
            attr,
        })
    }

    /// A row of an instruction that is not executed.
    pub(super) const fn other(a: Form, b: Form, c: Form) -> Node {
        with(Op::Unsupported, a, b, c, Attr::NONE)
    }
}
