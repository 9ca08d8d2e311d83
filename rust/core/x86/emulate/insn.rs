// SPDX-License-Identifier: GPL-2.0

//! A decoded instruction: prefixes, opcode, operands.

use super::op::Op;

/// The longest instruction, in bytes. SDM 2A "Instruction Prefixes", 2.1.1.
pub const MAX_LEN: usize = 15;

/// The default operand and address size of the code segment, which is all that decoding depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeSize {
    /// Real mode, virtual-8086 mode, and CS.D = 0.
    Bits16,
    /// Protected and compatibility mode with CS.D = 1.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// The width of an integer operand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Dword,
    /// 64 bits.
    Qword,
}

impl Width {
    /// Returns the width in bytes.
    #[inline]
    pub const fn bytes(self) -> u8 {
        match self {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Dword => 4,
            Width::Qword => 8,
        }
    }

    /// Returns the width in bits.
    #[inline]
    pub const fn bits(self) -> u32 {
        match self {
            Width::Byte => 8,
            Width::Word => 16,
            Width::Dword => 32,
            Width::Qword => 64,
        }
    }

    /// Returns the width of `bytes` bytes, or `None` if it is not 1, 2, 4 or 8.
    #[inline]
    pub const fn from_bytes(bytes: u8) -> Option<Self> {
        match bytes {
            1 => Some(Width::Byte),
            2 => Some(Width::Word),
            4 => Some(Width::Dword),
            8 => Some(Width::Qword),
            _ => None,
        }
    }

    /// Returns the mask of the bits of the width.
    #[inline]
    pub const fn mask(self) -> u64 {
        u64::MAX >> 64_u32.wrapping_sub(self.bits())
    }

    /// Returns the sign bit of the width.
    #[inline]
    pub const fn sign(self) -> u64 {
        match self {
            Width::Byte => 1 << 7,
            Width::Word => 1 << 15,
            Width::Dword => 1 << 31,
            Width::Qword => 1 << 63,
        }
    }

    /// Returns `value` cut to the width.
    #[inline]
    pub const fn cut(self, value: u64) -> u64 {
        value & self.mask()
    }

    /// Returns `value`, of this width, sign-extended to 64 bits.
    #[inline]
    pub const fn sign_extend(self, value: u64) -> u64 {
        (self.cut(value) ^ self.sign()).wrapping_sub(self.sign())
    }
}

/// A segment register, in the encoding of the instruction set; then the two system ones.
#[allow(missing_docs, reason = "the names are the documentation")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SegReg {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
    /// The task register. Never an operand of an [`Insn`].
    Tr = 6,
    /// The local descriptor-table register. Never an operand of an [`Insn`].
    Ldtr = 7,
}

impl SegReg {
    /// Returns the register that the three-bit field `encoding` names, or `None` for 6 and 7.
    #[inline]
    pub const fn from_encoding(encoding: u8) -> Option<Self> {
        match encoding {
            0 => Some(SegReg::Es),
            1 => Some(SegReg::Cs),
            2 => Some(SegReg::Ss),
            3 => Some(SegReg::Ds),
            4 => Some(SegReg::Fs),
            5 => Some(SegReg::Gs),
            _ => None,
        }
    }
}

/// Index of RAX (and AL, AX, EAX) among the general registers.
pub const RAX: u8 = 0;
/// Index of RCX.
pub const RCX: u8 = 1;
/// Index of RDX.
pub const RDX: u8 = 2;
/// Index of RBX.
pub const RBX: u8 = 3;
/// Index of RSP.
pub const RSP: u8 = 4;
/// Index of RBP.
pub const RBP: u8 = 5;
/// Index of RSI.
pub const RSI: u8 = 6;
/// Index of RDI.
pub const RDI: u8 = 7;

/// A general register as an operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gpr {
    /// The register, 0 (RAX) to 15 (R15).
    pub index: u8,
    /// How much of it.
    pub width: Width,
    /// Whether it is bits 15:8 (AH, CH, DH, BH; `index` is then 0 to 3).
    pub high: bool,
}

/// A memory operand: segment and effective address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mem {
    /// The segment, with overrides applied.
    pub segment: SegReg,
    /// The base register, if any.
    pub base: Option<u8>,
    /// The index register, if any.
    pub index: Option<u8>,
    /// log2 of the scale of the index: 0 to 3.
    pub scale: u8,
    /// Whether the displacement counts from the next instruction.
    pub rip_relative: bool,
    /// The size of the operand in bytes; 0 where the instruction gives it none (LEA, INVLPG).
    pub size: u8,
    /// The displacement, sign-extended; cut to the address size after the sum.
    pub disp: u64,
}

/// An operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// No (further) operand.
    None,
    /// A general register.
    Gpr(Gpr),
    /// A segment register.
    Seg(SegReg),
    /// A control register, 0 to 15.
    Cr(u8),
    /// A debug register, 0 to 7.
    Dr(u8),
    /// An MMX register, 0 to 7.
    Mm(u8),
    /// An XMM register, 0 to 15.
    Xmm(u8),
    /// Memory.
    Mem(Mem),
    /// An immediate, sign-extended or zero-extended as the instruction says, cut to nothing.
    Imm(u64),
    /// A branch displacement, sign-extended.
    Rel(u64),
    /// A far pointer in the instruction.
    Far {
        /// The segment selector.
        selector: u16,
        /// The offset.
        offset: u32,
    },
}

/// A repeat prefix, the last one if there are several.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rep {
    /// None.
    None,
    /// F3: REP, REPE.
    Rep,
    /// F2: REPNE.
    Repne,
}

/// The prefixes of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefixes {
    /// F0.
    pub lock: bool,
    /// F2, F3.
    pub rep: Rep,
    /// The segment override that applies; one that 64-bit mode ignores is not kept.
    pub segment: Option<SegReg>,
    /// 66.
    pub operand_size: bool,
    /// 67.
    pub address_size: bool,
    /// The REX prefix that applies, or 0.
    pub rex: u8,
}

impl Prefixes {
    /// Returns whether REX.W is set.
    #[inline]
    pub const fn rex_w(&self) -> bool {
        self.rex & 8 != 0
    }

    /// Returns what REX.R adds to a register field: 0 or 8.
    #[inline]
    pub const fn rex_r(&self) -> u8 {
        (self.rex & 4) << 1
    }

    /// Returns what REX.X adds to an index field: 0 or 8.
    #[inline]
    pub const fn rex_x(&self) -> u8 {
        (self.rex & 2) << 2
    }

    /// Returns what REX.B adds to a base or r/m field: 0 or 8.
    #[inline]
    pub const fn rex_b(&self) -> u8 {
        (self.rex & 1) << 3
    }
}

/// An opcode map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Map {
    /// The one-byte opcodes.
    Primary,
    /// 0F.
    Escape0f,
    /// 0F 38.
    Escape0f38,
    /// 0F 3A.
    Escape0f3a,
    /// A VEX map, by number.
    Vex(u8),
    /// An EVEX map, by number.
    Evex(u8),
}

/// The ModRM byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModRm(pub u8);

impl ModRm {
    /// Returns bits 7:6: 3 for a register operand.
    #[inline]
    pub const fn mode(self) -> u8 {
        self.0 >> 6
    }

    /// Returns bits 5:3: a register or an opcode extension.
    #[inline]
    pub const fn reg(self) -> u8 {
        (self.0 >> 3) & 7
    }

    /// Returns bits 2:0: the register or the base of the address.
    #[inline]
    pub const fn rm(self) -> u8 {
        self.0 & 7
    }

    /// Returns whether the operand is a register.
    #[inline]
    pub const fn is_register(self) -> bool {
        self.mode() == 3
    }
}

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Insn {
    /// The length, 1 to 15 bytes.
    pub len: u8,
    /// The code size it was decoded for.
    pub code_size: CodeSize,
    /// The prefixes.
    pub prefixes: Prefixes,
    /// The opcode map.
    pub map: Map,
    /// The opcode within its map.
    pub opcode: u8,
    /// The ModRM byte, if there is one.
    pub modrm: Option<ModRm>,
    /// What it does.
    pub op: Op,
    /// The effective operand size: word, doubleword or quadword. Byte forms have it too.
    pub operand_size: Width,
    /// The effective address size: word, doubleword or quadword.
    pub address_size: Width,
    /// The operands, the destination first.
    pub operands: [Operand; 3],
}

impl Insn {
    /// Returns operand `n`, or [`Operand::None`].
    #[inline]
    pub fn operand(&self, n: usize) -> Operand {
        self.operands.get(n).copied().unwrap_or(Operand::None)
    }

    /// Returns the memory operand, if there is one (the first of two).
    #[inline]
    pub fn memory(&self) -> Option<Mem> {
        self.operands.iter().find_map(|operand| match operand {
            Operand::Mem(mem) => Some(*mem),
            Operand::None
            | Operand::Gpr(_)
            | Operand::Seg(_)
            | Operand::Cr(_)
            | Operand::Dr(_)
            | Operand::Mm(_)
            | Operand::Xmm(_)
            | Operand::Imm(_)
            | Operand::Rel(_)
            | Operand::Far { .. } => None,
        })
    }

    /// Returns the condition of a Jcc, SETcc or CMOVcc, 0 to 15.
    #[inline]
    pub const fn condition(&self) -> u8 {
        self.opcode & 15
    }
}

/// Why bytes could not be decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// The instruction continues past the bytes given (which are fewer than 15).
    NeedMoreBytes,
    /// The instruction is longer than 15 bytes: #GP(0).
    TooLong,
    /// No such instruction, or not in this code size, or not with LOCK: #UD.
    Undefined,
    /// An encoding whose length this decoder does not know.
    Unsupported,
}
