// SPDX-License-Identifier: GPL-2.0

//! The vector instructions without VEX, and the maps 0F 38 and 0F 3A, which hold few others.
//! SDM 2D "Opcode Map", tables.
//!
//! Moves are executed, as kernels use them on device memory; the rest is here for its length. The
//! four nodes of a table are the mandatory prefixes: none, 66, F3, F2.

use super::short::*;
use crate::x86::emulate::op::{
    Mov,
    Vector, //
};

/// 10.
pub(super) static MOVUP_LOAD: [Node; 4] = [
    row(Op::Vector(Vector::Full), Xmm, WX, NO),
    row(Op::Vector(Vector::Full), Xmm, WX, NO),
    row(Op::Vector(Vector::Scalar), Xmm, XmmRm(4), NO),
    row(Op::Vector(Vector::Scalar), Xmm, XmmRm(8), NO),
];

/// 11.
pub(super) static MOVUP_STORE: [Node; 4] = [
    row(Op::Vector(Vector::Full), WX, Xmm, NO),
    row(Op::Vector(Vector::Full), WX, Xmm, NO),
    row(Op::Vector(Vector::Scalar), XmmRm(4), Xmm, NO),
    row(Op::Vector(Vector::Scalar), XmmRm(8), Xmm, NO),
];

/// 12.
pub(super) static MOVLP_LOAD: [Node; 4] = [
    ByMode(&MOVHLPS),
    ByMode(&MOVLPD),
    other(Xmm, WX, NO),
    other(Xmm, XmmRm(8), NO),
];

/// 12 without prefix.
pub(super) static MOVHLPS: [Node; 2] = [
    row(Op::Vector(Vector::LowHalf), Xmm, MQ, NO),
    other(Xmm, WX, NO),
];

/// 66 12.
pub(super) static MOVLPD: [Node; 2] = [row(Op::Vector(Vector::LowHalf), Xmm, MQ, NO), Undefined];

/// 13.
pub(super) static MOVLP_STORE: [Node; 4] = [
    row(Op::Vector(Vector::LowHalf), MQ, Xmm, NO),
    row(Op::Vector(Vector::LowHalf), MQ, Xmm, NO),
    Undefined,
    Undefined,
];

/// 16.
pub(super) static MOVHP_LOAD: [Node; 4] = [
    ByMode(&MOVLHPS),
    ByMode(&MOVHPD),
    other(Xmm, WX, NO),
    Undefined,
];

/// 16 without prefix.
pub(super) static MOVLHPS: [Node; 2] = [
    row(Op::Vector(Vector::HighHalf), Xmm, MQ, NO),
    other(Xmm, WX, NO),
];

/// 66 16.
pub(super) static MOVHPD: [Node; 2] = [row(Op::Vector(Vector::HighHalf), Xmm, MQ, NO), Undefined];

/// 17.
pub(super) static MOVHP_STORE: [Node; 4] = [
    row(Op::Vector(Vector::HighHalf), MQ, Xmm, NO),
    row(Op::Vector(Vector::HighHalf), MQ, Xmm, NO),
    Undefined,
    Undefined,
];

/// 28.
pub(super) static MOVAP_LOAD: [Node; 4] = [
    row(Op::Vector(Vector::Aligned), Xmm, WX, NO),
    row(Op::Vector(Vector::Aligned), Xmm, WX, NO),
    Undefined,
    Undefined,
];

/// 29.
pub(super) static MOVAP_STORE: [Node; 4] = [
    row(Op::Vector(Vector::Aligned), WX, Xmm, NO),
    row(Op::Vector(Vector::Aligned), WX, Xmm, NO),
    Undefined,
    Undefined,
];

/// 2B.
pub(super) static MOVNTP: [Node; 4] = [
    row(Op::Vector(Vector::Aligned), Mem(Bytes(16)), Xmm, NO),
    row(Op::Vector(Vector::Aligned), Mem(Bytes(16)), Xmm, NO),
    Undefined,
    Undefined,
];

/// 2A.
pub(super) static CVT_FROM_INT: [Node; 4] = [
    other(Xmm, MmRm, NO),
    other(Xmm, MmRm, NO),
    other(Xmm, EY, NO),
    other(Xmm, EY, NO),
];

/// 2C and 2D.
pub(super) static CVT_TO_INT: [Node; 4] = [
    other(Mm, XmmRm(8), NO),
    other(Mm, WX, NO),
    other(GY, XmmRm(4), NO),
    other(GY, XmmRm(8), NO),
];

/// 2E and 2F.
pub(super) static UCOMIS: [Node; 4] = [
    other(Xmm, XmmRm(4), NO),
    other(Xmm, XmmRm(8), NO),
    Undefined,
    Undefined,
];

/// 50.
pub(super) static MOVMSK: [Node; 4] = [
    ByMode(&MOVMSK_REG),
    ByMode(&MOVMSK_REG),
    Undefined,
    Undefined,
];

/// 50 with a register.
pub(super) static MOVMSK_REG: [Node; 2] = [Undefined, other(Reg(RexW), WX, NO)];

/// Arithmetic on four kinds of operand.
pub(super) static FLOAT: [Node; 4] = [
    other(Xmm, WX, NO),
    other(Xmm, WX, NO),
    other(Xmm, XmmRm(4), NO),
    other(Xmm, XmmRm(8), NO),
];

/// 52 and 53.
pub(super) static FLOAT_SINGLE: [Node; 4] = [
    other(Xmm, WX, NO),
    Undefined,
    other(Xmm, XmmRm(4), NO),
    Undefined,
];

/// Packed operands of two kinds.
pub(super) static PACKED_FLOAT: [Node; 4] =
    [other(Xmm, WX, NO), other(Xmm, WX, NO), Undefined, Undefined];

/// 5A.
pub(super) static CVT_FLOAT: [Node; 4] = [
    other(Xmm, XmmRm(8), NO),
    other(Xmm, WX, NO),
    other(Xmm, XmmRm(4), NO),
    other(Xmm, XmmRm(8), NO),
];

/// 5B.
pub(super) static CVT_DQ: [Node; 4] = [
    other(Xmm, WX, NO),
    other(Xmm, WX, NO),
    other(Xmm, WX, NO),
    Undefined,
];

/// MMX without prefix, SSE2 with 66.
pub(super) static PACKED_INT: [Node; 4] = [
    other(Mm, MmRm, NO),
    other(Xmm, WX, NO),
    Undefined,
    Undefined,
];

/// 66 alone.
pub(super) static XMM_ONLY: [Node; 4] = [Undefined, other(Xmm, WX, NO), Undefined, Undefined];

/// 6E.
pub(super) static MOVD_LOAD: [Node; 4] = [
    other(Mm, EY, NO),
    row(Op::Vector(Vector::Low), Xmm, EY, NO),
    Undefined,
    Undefined,
];

/// 7E.
pub(super) static MOVD_STORE: [Node; 4] = [
    other(EY, Mm, NO),
    row(Op::Vector(Vector::Low), EY, Xmm, NO),
    row(Op::Vector(Vector::Low), Xmm, XmmRm(8), NO),
    Undefined,
];

/// 6F.
pub(super) static MOVQ_LOAD: [Node; 4] = [
    other(Mm, MmRm, NO),
    row(Op::Vector(Vector::Aligned), Xmm, WX, NO),
    row(Op::Vector(Vector::Full), Xmm, WX, NO),
    Undefined,
];

/// 7F.
pub(super) static MOVQ_STORE: [Node; 4] = [
    other(MmRm, Mm, NO),
    row(Op::Vector(Vector::Aligned), WX, Xmm, NO),
    row(Op::Vector(Vector::Full), WX, Xmm, NO),
    Undefined,
];

/// 70.
pub(super) static PSHUF: [Node; 4] = [
    other(Mm, MmRm, Imm8),
    other(Xmm, WX, Imm8),
    other(Xmm, WX, Imm8),
    other(Xmm, WX, Imm8),
];

/// 71.
pub(super) static SHIFT_WORD: [Node; 8] = [
    Undefined,
    Undefined,
    ByPrefix(&SHIFT_BOTH),
    Undefined,
    ByPrefix(&SHIFT_BOTH),
    Undefined,
    ByPrefix(&SHIFT_BOTH),
    Undefined,
];

/// 72.
pub(super) static SHIFT_DWORD: [Node; 8] = [
    Undefined,
    Undefined,
    ByPrefix(&SHIFT_BOTH),
    Undefined,
    ByPrefix(&SHIFT_BOTH),
    Undefined,
    ByPrefix(&SHIFT_BOTH),
    Undefined,
];

/// 73.
pub(super) static SHIFT_QWORD: [Node; 8] = [
    Undefined,
    Undefined,
    ByPrefix(&SHIFT_BOTH),
    ByPrefix(&SHIFT_XMM),
    Undefined,
    Undefined,
    ByPrefix(&SHIFT_BOTH),
    ByPrefix(&SHIFT_XMM),
];

/// An immediate shift.
pub(super) static SHIFT_BOTH: [Node; 4] = [
    ByMode(&SHIFT_MM_REG),
    ByMode(&SHIFT_XMM_REG),
    Undefined,
    Undefined,
];

/// An immediate shift of an XMM register only.
pub(super) static SHIFT_XMM: [Node; 4] = [Undefined, ByMode(&SHIFT_XMM_REG), Undefined, Undefined];

/// Register form only.
pub(super) static SHIFT_MM_REG: [Node; 2] = [Undefined, other(MmRm, Imm8, NO)];

/// Register form only.
pub(super) static SHIFT_XMM_REG: [Node; 2] = [Undefined, other(WX, Imm8, NO)];

/// 77.
pub(super) static EMMS: [Node; 4] = [other(NO, NO, NO), Undefined, Undefined, Undefined];

/// 7C, 7D and D0.
pub(super) static HADD: [Node; 4] = [Undefined, other(Xmm, WX, NO), Undefined, other(Xmm, WX, NO)];

/// C2.
pub(super) static CMP_FLOAT: [Node; 4] = [
    other(Xmm, WX, Imm8),
    other(Xmm, WX, Imm8),
    other(Xmm, XmmRm(4), Imm8),
    other(Xmm, XmmRm(8), Imm8),
];

/// C3.
pub(super) static MOVNTI: [Node; 4] = [
    row(Op::Mov(Mov::Mov), Mem(RexW), GY, NO),
    Undefined,
    Undefined,
    Undefined,
];

/// C4.
pub(super) static PINSRW: [Node; 4] = [
    other(Mm, RmMixed(RexW, Bytes(2)), Imm8),
    other(Xmm, RmMixed(RexW, Bytes(2)), Imm8),
    Undefined,
    Undefined,
];

/// C5.
pub(super) static PEXTRW: [Node; 4] = [
    ByMode(&PEXTRW_MM),
    ByMode(&PEXTRW_XMM),
    Undefined,
    Undefined,
];

/// C5 without prefix.
pub(super) static PEXTRW_MM: [Node; 2] = [Undefined, other(GY, MmRm, Imm8)];

/// 66 C5.
pub(super) static PEXTRW_XMM: [Node; 2] = [Undefined, other(GY, WX, Imm8)];

/// C6.
pub(super) static SHUF_FLOAT: [Node; 4] = [
    other(Xmm, WX, Imm8),
    other(Xmm, WX, Imm8),
    Undefined,
    Undefined,
];

/// D6.
pub(super) static MOVQ_D6: [Node; 4] = [
    Undefined,
    row(Op::Vector(Vector::Low), XmmRm(8), Xmm, NO),
    ByMode(&MOVQ2DQ),
    ByMode(&MOVDQ2Q),
];

/// F3 D6.
pub(super) static MOVQ2DQ: [Node; 2] = [Undefined, other(Xmm, MmRm, NO)];

/// F2 D6.
pub(super) static MOVDQ2Q: [Node; 2] = [Undefined, other(Mm, XmmRm(8), NO)];

/// D7.
pub(super) static PMOVMSKB: [Node; 4] = [
    ByMode(&PMOVMSKB_MM),
    ByMode(&MOVMSK_REG),
    Undefined,
    Undefined,
];

/// D7 without prefix.
pub(super) static PMOVMSKB_MM: [Node; 2] = [Undefined, other(GY, MmRm, NO)];

/// E6.
pub(super) static CVT_E6: [Node; 4] = [
    Undefined,
    other(Xmm, WX, NO),
    other(Xmm, XmmRm(8), NO),
    other(Xmm, WX, NO),
];

/// E7.
pub(super) static MOVNT: [Node; 4] = [
    other(MQ, Mm, NO),
    row(Op::Vector(Vector::Aligned), Mem(Bytes(16)), Xmm, NO),
    Undefined,
    Undefined,
];

/// F0.
pub(super) static LDDQU: [Node; 4] = [
    Undefined,
    Undefined,
    Undefined,
    row(Op::Vector(Vector::Full), Xmm, Mem(Bytes(16)), NO),
];

/// F7.
pub(super) static MASKMOV: [Node; 4] =
    [ByMode(&MASKMOVQ), ByMode(&MASKMOVDQU), Undefined, Undefined];

/// MASKMOVQ.
pub(super) static MASKMOVQ: [Node; 2] = [Undefined, other(Mm, MmRm, NO)];

/// MASKMOVDQU.
pub(super) static MASKMOVDQU: [Node; 2] = [Undefined, other(Xmm, WX, NO)];

/// 0F 38 2A.
pub(super) static MOVNTDQA: [Node; 4] = [
    Undefined,
    row(Op::Vector(Vector::Aligned), Xmm, Mem(Bytes(16)), NO),
    Undefined,
    Undefined,
];

/// 0F 38 80 to 82.
pub(super) static INVEPT: [Node; 4] = [
    Undefined,
    other(Reg(Native), Mem(Bytes(16)), NO),
    Undefined,
    Undefined,
];

/// 0F 38 C8 to CD.
pub(super) static SHA: [Node; 4] = [other(Xmm, WX, NO), Undefined, Undefined, Undefined];

/// 0F 38 DC to DF; Key Locker with F3.
pub(super) static AESENC: [Node; 4] = [Undefined, other(Xmm, WX, NO), ByMode(&AESENCKL), Undefined];

/// F3 0F 38 DD to DF.
pub(super) static AESENCKL: [Node; 2] = [other(Xmm, MM, NO), Undefined];

/// 0F 38 DC.
pub(super) static AESENC128KL: [Node; 4] =
    [Undefined, other(Xmm, WX, NO), ByMode(&LOADIWKEY), Undefined];

/// F3 0F 38 DC.
pub(super) static LOADIWKEY: [Node; 2] = [other(Xmm, MM, NO), other(Xmm, WX, NO)];

/// 0F 38 D8.
pub(super) static AESWIDE: [Node; 4] = [Undefined, Undefined, ByMode(&AESWIDE_MEM), Undefined];

/// F3 0F 38 D8 with memory.
pub(super) static AESWIDE_MEM: [Node; 2] = [ByReg(&AESWIDE_REG), Undefined];

/// By operation.
pub(super) static AESWIDE_REG: [Node; 8] = [
    other(MM, NO, NO),
    other(MM, NO, NO),
    other(MM, NO, NO),
    other(MM, NO, NO),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// 0F 38 F0.
pub(super) static MOVBE_LOAD: [Node; 4] = [
    row(Op::Mov(Mov::Movbe), GV, Mem(Operand), NO),
    row(Op::Mov(Mov::Movbe), GV, Mem(Operand), NO),
    Undefined,
    other(GY, EB, NO),
];

/// 0F 38 F1.
pub(super) static MOVBE_STORE: [Node; 4] = [
    row(Op::Mov(Mov::Movbe), Mem(Operand), GV, NO),
    row(Op::Mov(Mov::Movbe), Mem(Operand), GV, NO),
    Undefined,
    other(GY, EV, NO),
];

/// 0F 38 F5.
pub(super) static WRUSS: [Node; 4] = [Undefined, other(Mem(RexW), GY, NO), Undefined, Undefined];

/// 0F 38 F6.
pub(super) static WRSS: [Node; 4] = [
    ByMode(&WRSS_MEM),
    other(GY, EY, NO),
    other(GY, EY, NO),
    Undefined,
];

/// WRSS.
pub(super) static WRSS_MEM: [Node; 2] = [other(MM, GY, NO), Undefined];

/// 0F 38 F8.
pub(super) static MOVDIR64B: [Node; 4] = [
    Undefined,
    other(Reg(Any), MM, NO),
    ByMode(&ENQCMD),
    ByMode(&ENQCMD),
];

/// ENQCMD, ENQCMDS; URDMSR and UWRMSR.
pub(super) static ENQCMD: [Node; 2] = [
    other(Reg(Any), MM, NO),
    with(
        Op::Unsupported,
        Rm(Bytes(8)),
        Reg(Bytes(8)),
        NO,
        Attr::ONLY64,
    ),
];

/// 0F 38 F9: to memory a MOV.
pub(super) static MOVDIRI: [Node; 4] = [
    row(Op::Mov(Mov::Mov), Mem(RexW), GY, NO),
    Undefined,
    Undefined,
    Undefined,
];

/// 0F 38 FA and FB.
pub(super) static ENCODEKEY: [Node; 4] = [Undefined, Undefined, ByMode(&ENCODEKEY_REG), Undefined];

/// Register form only.
pub(super) static ENCODEKEY_REG: [Node; 2] = [Undefined, other(GD, ED, NO)];

/// 0F 38 FC.
pub(super) static AADD: [Node; 4] = [
    other(Mem(RexW), GY, NO),
    other(Mem(RexW), GY, NO),
    other(Mem(RexW), GY, NO),
    other(Mem(RexW), GY, NO),
];

/// 0F 3A 0F.
pub(super) static MM_IMM: [Node; 4] = [
    other(Mm, MmRm, Imm8),
    other(Xmm, WX, Imm8),
    Undefined,
    Undefined,
];

/// 66 with an immediate.
pub(super) static XMM_IMM: [Node; 4] = [Undefined, other(Xmm, WX, Imm8), Undefined, Undefined];

/// MMX or SSE.
pub(super) static MM_OR_XMM: [Node; 4] = [
    other(Mm, MmRm, NO),
    other(Xmm, WX, NO),
    Undefined,
    Undefined,
];

/// 0F 3A 14.
pub(super) static PEXTRB: [Node; 4] = [
    Undefined,
    other(RmMixed(RexW, Bytes(1)), Xmm, Imm8),
    Undefined,
    Undefined,
];

/// 0F 3A 15.
pub(super) static PEXTRW_3A: [Node; 4] = [
    Undefined,
    other(RmMixed(RexW, Bytes(2)), Xmm, Imm8),
    Undefined,
    Undefined,
];

/// 0F 3A 16 and 17.
pub(super) static PEXTRD: [Node; 4] = [Undefined, other(EY, Xmm, Imm8), Undefined, Undefined];

/// 0F 3A 20.
pub(super) static PINSRB: [Node; 4] = [
    Undefined,
    other(Xmm, RmMixed(RexW, Bytes(1)), Imm8),
    Undefined,
    Undefined,
];

/// 0F 3A 22.
pub(super) static PINSRD: [Node; 4] = [Undefined, other(Xmm, EY, Imm8), Undefined, Undefined];

/// 0F 3A CC.
pub(super) static SHA_IMM: [Node; 4] = [other(Xmm, WX, Imm8), Undefined, Undefined, Undefined];

/// 0F 3A F0.
pub(super) static HRESET: [Node; 4] = [Undefined, Undefined, ByMode(&HRESET_REG), Undefined];

/// F3 0F 3A F0.
pub(super) static HRESET_REG: [Node; 2] = [Undefined, ByReg(&HRESET_C0)];

/// F3 0F 3A F0 /0.
pub(super) static HRESET_C0: [Node; 8] = [
    ByRm(&HRESET_RM),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// F3 0F 3A F0 C0.
pub(super) static HRESET_RM: [Node; 8] = [
    with(Op::Unsupported, Imm8, NO, NO, Attr::MODRM),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// Returns the node of an opcode after 0F 38.
pub(in crate::x86::emulate) fn escape_0f38(opcode: u8) -> Node {
    match opcode {
        0x00..=0x0b | 0x1c..=0x1e => ByPrefix(&MM_OR_XMM),
        0x10 | 0x14 | 0x15 | 0x17 | 0x20..=0x25 | 0x28 | 0x29 | 0x2b => ByPrefix(&XMM_ONLY),
        0x2a => ByPrefix(&MOVNTDQA),
        0x30..=0x35 | 0x37..=0x41 | 0xcf | 0xdb => ByPrefix(&XMM_ONLY),
        0x80..=0x82 => ByPrefix(&INVEPT),
        0xc8..=0xcd => ByPrefix(&SHA),
        0xd8 => ByPrefix(&AESWIDE),
        0xdc => ByPrefix(&AESENC128KL),
        0xdd..=0xdf => ByPrefix(&AESENC),
        0xf0 => ByPrefix(&MOVBE_LOAD),
        0xf1 => ByPrefix(&MOVBE_STORE),
        0xf5 => ByPrefix(&WRUSS),
        0xf6 => ByPrefix(&WRSS),
        0xf8 => ByPrefix(&MOVDIR64B),
        0xf9 => ByPrefix(&MOVDIRI),
        0xfa | 0xfb => ByPrefix(&ENCODEKEY),
        0xfc => ByPrefix(&AADD),
        _ => Undefined,
    }
}

/// Returns the node of an opcode after 0F 3A.
pub(in crate::x86::emulate) fn escape_0f3a(opcode: u8) -> Node {
    match opcode {
        0x08..=0x0e | 0x21 | 0x40..=0x42 | 0x44 | 0x60..=0x63 | 0xce | 0xcf | 0xdf => {
            ByPrefix(&XMM_IMM)
        }
        0x0f => ByPrefix(&MM_IMM),
        0x14 => ByPrefix(&PEXTRB),
        0x15 => ByPrefix(&PEXTRW_3A),
        0x16 | 0x17 => ByPrefix(&PEXTRD),
        0x20 => ByPrefix(&PINSRB),
        0x22 => ByPrefix(&PINSRD),
        0xcc => ByPrefix(&SHA_IMM),
        0xf0 => ByPrefix(&HRESET),
        _ => Undefined,
    }
}
