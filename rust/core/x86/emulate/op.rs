// SPDX-License-Identifier: GPL-2.0

//! What an instruction does, by family: the link between an opcode-table row and the code that
//! executes it.
//!
//! The condition of a Jcc, SETcc or CMOVcc is in the low four bits of the opcode.

#![allow(missing_docs, reason = "the variants are the manual's mnemonics")]

/// The operation of an instruction, grouped by the code that executes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Copies and conversions without flags.
    Mov(Mov),
    /// Arithmetic and logic of two operands.
    Alu(Alu),
    /// Arithmetic and logic of one operand.
    Unary(Unary),
    /// Shifts and rotates.
    Shift(Shift),
    /// SHLD and SHRD.
    DoubleShift(DoubleShift),
    /// Multiplication and division.
    MulDiv(MulDiv),
    /// Single-bit instructions.
    BitTest(BitTest),
    /// Bit scans and counts.
    BitScan(BitScan),
    /// Exchanges, also compared.
    Exchange(Exchange),
    /// Instructions whose one purpose is the stack.
    Stack(Stack),
    /// String instructions.
    Str(Str),
    /// IN.
    In,
    /// OUT.
    Out,
    /// Near transfers of control.
    Branch(Branch),
    /// Far transfers of control and software interrupts.
    Far(Far),
    /// Loads of a segment register and a general one (LDS and its like).
    LoadFar(super::SegReg),
    /// Instructions on single flags.
    Flag(Flag),
    /// Decimal adjustments.
    Decimal(Decimal),
    /// Instructions on the state of the system.
    System(System),
    /// Moves of vector registers.
    Vector(Vector),
    /// Instructions without effect on what we model.
    Nop(Nop),
    /// UD0, UD1 and UD2: #UD by definition.
    Ud,
    /// Known to the decoder; the emulator cannot execute it.
    Unsupported,
}

impl Op {
    /// Returns whether it copies between a register, or an immediate, and a register or memory: with one
    /// access to at most 8 bytes of memory, and no other effect.
    pub const fn is_plain_move(self) -> bool {
        matches!(self, Self::Mov(Mov::Mov | Mov::Movzx | Mov::Movsx))
    }
}

/// Copies and conversions without flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mov {
    Mov,
    Movzx,
    Movsx,
    Movbe,
    Cmov,
    Setcc,
    Lea,
    Xlat,
    Bswap,
    /// CBW, CWDE, CDQE.
    Cbw,
    /// CWD, CDQ, CQO.
    Cwd,
    FromSeg,
    ToSeg,
}

/// Arithmetic and logic of two operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alu {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
    Test,
}

/// Arithmetic and logic of one operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unary {
    Inc,
    Dec,
    Neg,
    Not,
}

/// Shifts and rotates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shift {
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
}

/// Shifts across two operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DoubleShift {
    Shld,
    Shrd,
}

/// Multiplication and division.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MulDiv {
    Mul,
    Imul,
    /// IMUL of two or three operands.
    ImulTrunc,
    Div,
    Idiv,
}

/// Single-bit instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BitTest {
    Bt,
    Bts,
    Btr,
    Btc,
}

/// Bit scans and counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BitScan {
    Bsf,
    Bsr,
    Tzcnt,
    Lzcnt,
    Popcnt,
}

/// Exchanges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exchange {
    Xchg,
    Xadd,
    Cmpxchg,
    /// CMPXCHG8B and CMPXCHG16B.
    CmpxchgPair,
}

/// Stack instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stack {
    Push,
    Pop,
    Pusha,
    Popa,
    Pushf,
    Popf,
    Enter,
    Leave,
}

/// String instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Str {
    Movs,
    Cmps,
    Stos,
    Lods,
    Scas,
    Ins,
    Outs,
}

/// Near transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Branch {
    Jcc,
    Jmp,
    Call,
    Ret,
    Loopne,
    Loope,
    Loop,
    Jcxz,
}

/// Far transfers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Far {
    Jmp,
    Call,
    Ret,
    Iret,
    /// INT n.
    Int,
    Int3,
    Into,
}

/// Instructions on single flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flag {
    Clc,
    Stc,
    Cmc,
    Cld,
    Std,
    Cli,
    Sti,
    Lahf,
    Sahf,
    Salc,
}

/// Decimal adjustments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decimal {
    Daa,
    Das,
    Aaa,
    Aas,
    Aam,
    Aad,
}

/// Instructions on the state of the system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum System {
    Hlt,
    Cpuid,
    Rdtsc,
    Rdmsr,
    Wrmsr,
    Invlpg,
    Clts,
    Lmsw,
    Smsw,
    Sgdt,
    Sidt,
    Lgdt,
    Lidt,
    Sldt,
    Str,
    MovFromCr,
    MovToCr,
    MovFromDr,
    MovToDr,
    Invd,
    Wbinvd,
}

/// Moves of vector registers, by how much of the register they touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vector {
    /// The whole operand; memory need not be aligned.
    Full,
    /// The whole operand; memory must be aligned to it.
    Aligned,
    /// A load into, or a store of, the low half or less; a load clears the rest. From register to
    /// register too (MOVQ, MOVD).
    Low,
    /// As `Low`, but a copy from register to register keeps the rest (MOVSS, MOVSD).
    Scalar,
    /// The low half, keeping the high one (MOVLPS, MOVLPD).
    LowHalf,
    /// The high half, keeping the low one (MOVHPS, MOVHPD).
    HighHalf,
}

/// Instructions without effect on what we model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nop {
    /// NOP, reserved NOPs, prefetches and cache-line flushes: the operand is not accessed.
    Hint,
    Pause,
    /// LFENCE, MFENCE and SFENCE.
    Fence,
}
