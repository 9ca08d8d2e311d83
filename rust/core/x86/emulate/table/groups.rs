// SPDX-License-Identifier: GPL-2.0

//! Opcodes that are several instructions, told apart by ModRM, prefix or code size.
//! SDM 2D "Opcode Extensions for One-byte and Two-byte Opcodes", table A-6.

use super::short::*;
use crate::x86::emulate::op::{
    Alu,
    BitScan,
    BitTest,
    Branch,
    Exchange,
    Far,
    Mov,
    MulDiv,
    Nop,
    Shift,
    Stack,
    System,
    Unary, //
};

/// 80.
pub(super) static ALU_BYTE: [Node; 8] = [
    with(Op::Alu(Alu::Add), EB, Imm8, NO, Attr::LOCK),
    with(Op::Alu(Alu::Or), EB, Imm8, NO, Attr::LOCK),
    with(Op::Alu(Alu::Adc), EB, Imm8, NO, Attr::LOCK),
    with(Op::Alu(Alu::Sbb), EB, Imm8, NO, Attr::LOCK),
    with(Op::Alu(Alu::And), EB, Imm8, NO, Attr::LOCK),
    with(Op::Alu(Alu::Sub), EB, Imm8, NO, Attr::LOCK),
    with(Op::Alu(Alu::Xor), EB, Imm8, NO, Attr::LOCK),
    row(Op::Alu(Alu::Cmp), EB, Imm8, NO),
];

/// 81.
pub(super) static ALU: [Node; 8] = [
    with(Op::Alu(Alu::Add), EV, Imm, NO, Attr::LOCK),
    with(Op::Alu(Alu::Or), EV, Imm, NO, Attr::LOCK),
    with(Op::Alu(Alu::Adc), EV, Imm, NO, Attr::LOCK),
    with(Op::Alu(Alu::Sbb), EV, Imm, NO, Attr::LOCK),
    with(Op::Alu(Alu::And), EV, Imm, NO, Attr::LOCK),
    with(Op::Alu(Alu::Sub), EV, Imm, NO, Attr::LOCK),
    with(Op::Alu(Alu::Xor), EV, Imm, NO, Attr::LOCK),
    row(Op::Alu(Alu::Cmp), EV, Imm, NO),
];

/// 83.
pub(super) static ALU_SHORT: [Node; 8] = [
    with(Op::Alu(Alu::Add), EV, Imm8s, NO, Attr::LOCK),
    with(Op::Alu(Alu::Or), EV, Imm8s, NO, Attr::LOCK),
    with(Op::Alu(Alu::Adc), EV, Imm8s, NO, Attr::LOCK),
    with(Op::Alu(Alu::Sbb), EV, Imm8s, NO, Attr::LOCK),
    with(Op::Alu(Alu::And), EV, Imm8s, NO, Attr::LOCK),
    with(Op::Alu(Alu::Sub), EV, Imm8s, NO, Attr::LOCK),
    with(Op::Alu(Alu::Xor), EV, Imm8s, NO, Attr::LOCK),
    row(Op::Alu(Alu::Cmp), EV, Imm8s, NO),
];

/// 82: another 80, but not in 64-bit mode.
pub(super) static ALU_BYTE_ALIAS: [Node; 2] = [ByReg(&ALU_BYTE), Undefined];

/// 63. MOVSXD may have a 16-bit operand size; it then reads 16 bits.
pub(super) static MOVSXD: [Node; 2] = [
    other(EW, Reg(Bytes(2)), NO),
    row(Op::Mov(Mov::Movsx), GV, Rm(OperandMax4), NO),
];

/// C0.
pub(super) static SHIFT_BYTE_IMM: [Node; 8] = [
    row(Op::Shift(Shift::Rol), EB, Imm8, NO),
    row(Op::Shift(Shift::Ror), EB, Imm8, NO),
    row(Op::Shift(Shift::Rcl), EB, Imm8, NO),
    row(Op::Shift(Shift::Rcr), EB, Imm8, NO),
    row(Op::Shift(Shift::Shl), EB, Imm8, NO),
    row(Op::Shift(Shift::Shr), EB, Imm8, NO),
    row(Op::Shift(Shift::Shl), EB, Imm8, NO),
    row(Op::Shift(Shift::Sar), EB, Imm8, NO),
];

/// C1.
pub(super) static SHIFT_IMM: [Node; 8] = [
    row(Op::Shift(Shift::Rol), EV, Imm8, NO),
    row(Op::Shift(Shift::Ror), EV, Imm8, NO),
    row(Op::Shift(Shift::Rcl), EV, Imm8, NO),
    row(Op::Shift(Shift::Rcr), EV, Imm8, NO),
    row(Op::Shift(Shift::Shl), EV, Imm8, NO),
    row(Op::Shift(Shift::Shr), EV, Imm8, NO),
    row(Op::Shift(Shift::Shl), EV, Imm8, NO),
    row(Op::Shift(Shift::Sar), EV, Imm8, NO),
];

/// D0.
pub(super) static SHIFT_BYTE_ONE: [Node; 8] = [
    row(Op::Shift(Shift::Rol), EB, One, NO),
    row(Op::Shift(Shift::Ror), EB, One, NO),
    row(Op::Shift(Shift::Rcl), EB, One, NO),
    row(Op::Shift(Shift::Rcr), EB, One, NO),
    row(Op::Shift(Shift::Shl), EB, One, NO),
    row(Op::Shift(Shift::Shr), EB, One, NO),
    row(Op::Shift(Shift::Shl), EB, One, NO),
    row(Op::Shift(Shift::Sar), EB, One, NO),
];

/// D1.
pub(super) static SHIFT_ONE: [Node; 8] = [
    row(Op::Shift(Shift::Rol), EV, One, NO),
    row(Op::Shift(Shift::Ror), EV, One, NO),
    row(Op::Shift(Shift::Rcl), EV, One, NO),
    row(Op::Shift(Shift::Rcr), EV, One, NO),
    row(Op::Shift(Shift::Shl), EV, One, NO),
    row(Op::Shift(Shift::Shr), EV, One, NO),
    row(Op::Shift(Shift::Shl), EV, One, NO),
    row(Op::Shift(Shift::Sar), EV, One, NO),
];

/// D2.
pub(super) static SHIFT_BYTE_CL: [Node; 8] = [
    row(Op::Shift(Shift::Rol), EB, Cl, NO),
    row(Op::Shift(Shift::Ror), EB, Cl, NO),
    row(Op::Shift(Shift::Rcl), EB, Cl, NO),
    row(Op::Shift(Shift::Rcr), EB, Cl, NO),
    row(Op::Shift(Shift::Shl), EB, Cl, NO),
    row(Op::Shift(Shift::Shr), EB, Cl, NO),
    row(Op::Shift(Shift::Shl), EB, Cl, NO),
    row(Op::Shift(Shift::Sar), EB, Cl, NO),
];

/// D3.
pub(super) static SHIFT_CL: [Node; 8] = [
    row(Op::Shift(Shift::Rol), EV, Cl, NO),
    row(Op::Shift(Shift::Ror), EV, Cl, NO),
    row(Op::Shift(Shift::Rcl), EV, Cl, NO),
    row(Op::Shift(Shift::Rcr), EV, Cl, NO),
    row(Op::Shift(Shift::Shl), EV, Cl, NO),
    row(Op::Shift(Shift::Shr), EV, Cl, NO),
    row(Op::Shift(Shift::Shl), EV, Cl, NO),
    row(Op::Shift(Shift::Sar), EV, Cl, NO),
];

/// 8F.
pub(super) static POP: [Node; 8] = [
    with(Op::Stack(Stack::Pop), EV, NO, NO, Attr::STACK),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// C6.
pub(super) static MOV_BYTE_IMM: [Node; 8] = [
    row(Op::Mov(Mov::Mov), EB, Imm8, NO),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    ByMode(&XABORT),
];

/// C7.
pub(super) static MOV_IMM: [Node; 8] = [
    row(Op::Mov(Mov::Mov), EV, Imm, NO),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    ByMode(&XBEGIN),
];

/// C6 /7.
pub(super) static XABORT: [Node; 2] = [Undefined, ByRm(&XABORT_RM)];

/// C6 F8.
pub(super) static XABORT_RM: [Node; 8] = [
    other(Imm8, NO, NO),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// C7 /7.
pub(super) static XBEGIN: [Node; 2] = [Undefined, ByRm(&XBEGIN_RM)];

/// C7 F8.
pub(super) static XBEGIN_RM: [Node; 8] = [
    other(Rel, NO, NO),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// F6.
pub(super) static UNARY_BYTE: [Node; 8] = [
    row(Op::Alu(Alu::Test), EB, Imm8, NO),
    row(Op::Alu(Alu::Test), EB, Imm8, NO),
    with(Op::Unary(Unary::Not), EB, NO, NO, Attr::LOCK),
    with(Op::Unary(Unary::Neg), EB, NO, NO, Attr::LOCK),
    row(Op::MulDiv(MulDiv::Mul), EB, NO, NO),
    row(Op::MulDiv(MulDiv::Imul), EB, NO, NO),
    row(Op::MulDiv(MulDiv::Div), EB, NO, NO),
    row(Op::MulDiv(MulDiv::Idiv), EB, NO, NO),
];

/// F7.
pub(super) static UNARY: [Node; 8] = [
    row(Op::Alu(Alu::Test), EV, Imm, NO),
    row(Op::Alu(Alu::Test), EV, Imm, NO),
    with(Op::Unary(Unary::Not), EV, NO, NO, Attr::LOCK),
    with(Op::Unary(Unary::Neg), EV, NO, NO, Attr::LOCK),
    row(Op::MulDiv(MulDiv::Mul), EV, NO, NO),
    row(Op::MulDiv(MulDiv::Imul), EV, NO, NO),
    row(Op::MulDiv(MulDiv::Div), EV, NO, NO),
    row(Op::MulDiv(MulDiv::Idiv), EV, NO, NO),
];

/// FE.
pub(super) static INC_BYTE: [Node; 8] = [
    with(Op::Unary(Unary::Inc), EB, NO, NO, Attr::LOCK),
    with(Op::Unary(Unary::Dec), EB, NO, NO, Attr::LOCK),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// FF.
pub(super) static INC: [Node; 8] = [
    with(Op::Unary(Unary::Inc), EV, NO, NO, Attr::LOCK),
    with(Op::Unary(Unary::Dec), EV, NO, NO, Attr::LOCK),
    with(Op::Branch(Branch::Call), EV, NO, NO, Attr::NEAR),
    row(Op::Far(Far::Call), Mem(FarSize), NO, NO),
    with(Op::Branch(Branch::Jmp), EV, NO, NO, Attr::NEAR),
    row(Op::Far(Far::Jmp), Mem(FarSize), NO, NO),
    with(Op::Stack(Stack::Push), EV, NO, NO, Attr::STACK),
    Undefined,
];

/// 0F 00.
pub(super) static GROUP_6: [Node; 8] = [
    row(Op::System(System::Sldt), RmMixed(Operand, Bytes(2)), NO, NO),
    row(Op::System(System::Str), RmMixed(Operand, Bytes(2)), NO, NO),
    other(RmMixed(Operand, Bytes(2)), NO, NO),
    other(RmMixed(Operand, Bytes(2)), NO, NO),
    other(RmMixed(Operand, Bytes(2)), NO, NO),
    other(RmMixed(Operand, Bytes(2)), NO, NO),
    ByPrefix(&LKGS),
    Undefined,
];

/// 0F 00 /6.
pub(super) static LKGS: [Node; 4] = [
    Undefined,
    Undefined,
    Undefined,
    with(
        Op::Unsupported,
        RmMixed(Operand, Bytes(2)),
        NO,
        NO,
        Attr::ONLY64,
    ),
];

/// 0F 01.
pub(super) static GROUP_7: [Node; 8] = [
    ByMode(&G7_0),
    ByMode(&G7_1),
    ByMode(&G7_2),
    ByMode(&G7_3),
    ByMode(&G7_4),
    ByMode(&G7_5),
    ByMode(&G7_6),
    ByMode(&G7_7),
];

/// SGDT; ENCLV and the VMX instructions without operands.
pub(super) static G7_0: [Node; 2] = [
    row(Op::System(System::Sgdt), Mem(Table), NO, NO),
    ByRm(&G7_0_REG),
];

/// 0F 01 C0 to C7.
pub(super) static G7_0_REG: [Node; 8] = [
    ByPrefix(&ONLY_NP),
    ByPrefix(&ONLY_NP),
    ByPrefix(&ONLY_NP),
    ByPrefix(&ONLY_NP),
    ByPrefix(&ONLY_NP),
    ByPrefix(&ONLY_NP),
    ByPrefix(&MSR_LIST),
    ByPrefix(&PBNDKB),
];

/// An instruction that a mandatory prefix makes undefined.
pub(super) static ONLY_NP: [Node; 4] = [
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM),
    Undefined,
    Undefined,
    Undefined,
];

/// 0F 01 C6.
pub(super) static MSR_LIST: [Node; 4] = [
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM),
    Undefined,
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM.and(Attr::ONLY64)),
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM.and(Attr::ONLY64)),
];

/// 0F 01 C7.
pub(super) static PBNDKB: [Node; 4] = [
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM.and(Attr::ONLY64)),
    Undefined,
    Undefined,
    Undefined,
];

/// SIDT; MONITOR, MWAIT, CLAC, STAC, ENCLS.
pub(super) static G7_1: [Node; 2] = [
    row(Op::System(System::Sidt), Mem(Table), NO, NO),
    ByRm(&G7_1_REG),
];

/// 0F 01 C8 to CF.
pub(super) static G7_1_REG: [Node; 8] = [
    ByPrefix(&ONLY_NP),
    ByPrefix(&ONLY_NP),
    ByPrefix(&CLAC),
    ByPrefix(&ONLY_NP),
    ByPrefix(&TDX),
    ByPrefix(&TDX),
    ByPrefix(&TDX),
    ByPrefix(&SEAMCALL),
];

/// 0F 01 CA.
pub(super) static CLAC: [Node; 4] = [
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM),
    Undefined,
    Undefined,
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM.and(Attr::ONLY64)),
];

/// 0F 01 CC to CE.
pub(super) static TDX: [Node; 4] = [
    Undefined,
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM.and(Attr::ONLY64)),
    Undefined,
    Undefined,
];

/// 0F 01 CF.
pub(super) static SEAMCALL: [Node; 4] = [
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM),
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM.and(Attr::ONLY64)),
    Undefined,
    Undefined,
];

/// LGDT; XGETBV, XSETBV, VMFUNC, XEND, XTEST, ENCLU.
pub(super) static G7_2: [Node; 2] = [
    row(Op::System(System::Lgdt), Mem(Table), NO, NO),
    ByRm(&G7_2_REG),
];

/// 0F 01 D0 to D7.
pub(super) static G7_2_REG: [Node; 8] = [
    ByPrefix(&ONLY_NP),
    ByPrefix(&ONLY_NP),
    Undefined,
    Undefined,
    ByPrefix(&ONLY_NP),
    ByPrefix(&ONLY_NP),
    ByPrefix(&ONLY_NP),
    ByPrefix(&ONLY_NP),
];

/// LIDT.
pub(super) static G7_3: [Node; 2] = [row(Op::System(System::Lidt), Mem(Table), NO, NO), Undefined];

/// SMSW.
pub(super) static G7_4: [Node; 2] = [
    row(Op::System(System::Smsw), RmMixed(Operand, Bytes(2)), NO, NO),
    row(Op::System(System::Smsw), RmMixed(Operand, Bytes(2)), NO, NO),
];

/// RSTORSSP; SERIALIZE, SETSSBSY, SAVEPREVSSP, user interrupts, protection keys.
pub(super) static G7_5: [Node; 2] = [ByPrefix(&RSTORSSP), ByRm(&G7_5_REG)];

/// 0F 01 /5.
pub(super) static RSTORSSP: [Node; 4] = [Undefined, Undefined, other(MQ, NO, NO), Undefined];

/// 0F 01 E8 to EF.
pub(super) static G7_5_REG: [Node; 8] = [
    ByPrefix(&SERIALIZE),
    ByPrefix(&XSUSLDTRK),
    ByPrefix(&SAVEPREVSSP),
    Undefined,
    ByPrefix(&UINTR),
    ByPrefix(&UINTR),
    ByPrefix(&PKRU),
    ByPrefix(&PKRU),
];

/// 0F 01 E8.
pub(super) static SERIALIZE: [Node; 4] = [
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM),
    Undefined,
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM),
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM),
];

/// 0F 01 E9.
pub(super) static XSUSLDTRK: [Node; 4] = [
    Undefined,
    Undefined,
    Undefined,
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM),
];

/// 0F 01 EA.
pub(super) static SAVEPREVSSP: [Node; 4] = [
    Undefined,
    Undefined,
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM),
    Undefined,
];

/// 0F 01 EC, ED.
pub(super) static UINTR: [Node; 4] = [
    Undefined,
    Undefined,
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM.and(Attr::ONLY64)),
    Undefined,
];

/// 0F 01 EE, EF.
pub(super) static PKRU: [Node; 4] = [
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM),
    Undefined,
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM.and(Attr::ONLY64)),
    Undefined,
];

/// LMSW.
pub(super) static G7_6: [Node; 2] = [
    row(Op::System(System::Lmsw), RmMixed(Operand, Bytes(2)), NO, NO),
    row(Op::System(System::Lmsw), RmMixed(Operand, Bytes(2)), NO, NO),
];

/// INVLPG; SWAPGS, RDTSCP.
pub(super) static G7_7: [Node; 2] = [row(Op::System(System::Invlpg), MM, NO, NO), ByRm(&G7_7_REG)];

/// 0F 01 F8 to FF.
pub(super) static G7_7_REG: [Node; 8] = [
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM.and(Attr::ONLY64)),
    with(Op::Unsupported, NO, NO, NO, Attr::MODRM),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// 0F 78.
pub(super) static VMREAD: [Node; 4] = [
    other(Rm(Native), Reg(Native), NO),
    Undefined,
    Undefined,
    Undefined,
];

/// 0F 79.
pub(super) static VMWRITE: [Node; 4] = [
    other(Reg(Native), Rm(Native), NO),
    Undefined,
    Undefined,
    Undefined,
];

/// 0F BA.
pub(super) static BIT_IMM: [Node; 8] = [
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    row(Op::BitTest(BitTest::Bt), EV, Imm8, NO),
    with(Op::BitTest(BitTest::Bts), EV, Imm8, NO, Attr::LOCK),
    with(Op::BitTest(BitTest::Btr), EV, Imm8, NO, Attr::LOCK),
    with(Op::BitTest(BitTest::Btc), EV, Imm8, NO, Attr::LOCK),
];

/// 0F B8.
pub(super) static POPCNT: [Node; 4] = [
    Undefined,
    Undefined,
    row(Op::BitScan(BitScan::Popcnt), GV, EV, NO),
    Undefined,
];

/// 0F BC.
pub(super) static BSF: [Node; 4] = [
    row(Op::BitScan(BitScan::Bsf), GV, EV, NO),
    row(Op::BitScan(BitScan::Bsf), GV, EV, NO),
    row(Op::BitScan(BitScan::Tzcnt), GV, EV, NO),
    row(Op::BitScan(BitScan::Bsf), GV, EV, NO),
];

/// 0F BD.
pub(super) static BSR: [Node; 4] = [
    row(Op::BitScan(BitScan::Bsr), GV, EV, NO),
    row(Op::BitScan(BitScan::Bsr), GV, EV, NO),
    row(Op::BitScan(BitScan::Lzcnt), GV, EV, NO),
    row(Op::BitScan(BitScan::Bsr), GV, EV, NO),
];

/// 0F AE.
pub(super) static GROUP_15: [Node; 2] = [ByReg(&G15_MEM), ByReg(&G15_REG)];

/// 0F AE with memory.
pub(super) static G15_MEM: [Node; 8] = [
    ByPrefix(&NP_MEM),
    ByPrefix(&NP_MEM),
    ByPrefix(&NP_MEM4),
    ByPrefix(&NP_MEM4),
    ByPrefix(&PTWRITE_MEM),
    ByPrefix(&NP_MEM),
    ByPrefix(&CLWB),
    ByPrefix(&CLFLUSH),
];

/// Memory of any size, no mandatory prefix.
pub(super) static NP_MEM: [Node; 4] = [other(MM, NO, NO), Undefined, Undefined, Undefined];

/// LDMXCSR, STMXCSR.
pub(super) static NP_MEM4: [Node; 4] = [
    other(Mem(Bytes(4)), NO, NO),
    Undefined,
    Undefined,
    Undefined,
];

/// XSAVE, PTWRITE.
pub(super) static PTWRITE_MEM: [Node; 4] = [
    other(MM, NO, NO),
    Undefined,
    other(Mem(RexW), NO, NO),
    Undefined,
];

/// XSAVEOPT, CLWB, CLRSSBSY.
pub(super) static CLWB: [Node; 4] = [
    other(MM, NO, NO),
    row(Op::Nop(Nop::Hint), MM, NO, NO),
    other(MQ, NO, NO),
    Undefined,
];

/// CLFLUSH, CLFLUSHOPT.
pub(super) static CLFLUSH: [Node; 4] = [
    row(Op::Nop(Nop::Hint), MM, NO, NO),
    row(Op::Nop(Nop::Hint), MM, NO, NO),
    Undefined,
    Undefined,
];

/// 0F AE with a register.
pub(super) static G15_REG: [Node; 8] = [
    ByPrefix(&FSGSBASE),
    ByPrefix(&FSGSBASE),
    ByPrefix(&FSGSBASE),
    ByPrefix(&FSGSBASE),
    ByPrefix(&PTWRITE),
    ByPrefix(&LFENCE),
    ByPrefix(&MFENCE),
    ByPrefix(&SFENCE),
];

/// RDFSBASE and its like.
pub(super) static FSGSBASE: [Node; 4] = [
    Undefined,
    Undefined,
    with(Op::Unsupported, EY, NO, NO, Attr::ONLY64),
    Undefined,
];

/// PTWRITE.
pub(super) static PTWRITE: [Node; 4] = [Undefined, Undefined, other(EY, NO, NO), Undefined];

/// LFENCE, INCSSP.
pub(super) static LFENCE: [Node; 4] = [
    with(Op::Nop(Nop::Fence), NO, NO, NO, Attr::MODRM),
    Undefined,
    other(EY, NO, NO),
    Undefined,
];

/// MFENCE, TPAUSE, UMONITOR, UMWAIT.
pub(super) static MFENCE: [Node; 4] = [
    with(Op::Nop(Nop::Fence), NO, NO, NO, Attr::MODRM),
    other(ED, NO, NO),
    other(Rm(Any), NO, NO),
    other(ED, NO, NO),
];

/// SFENCE.
pub(super) static SFENCE: [Node; 4] = [
    with(Op::Nop(Nop::Fence), NO, NO, NO, Attr::MODRM),
    Undefined,
    Undefined,
    Undefined,
];

/// 0F C7.
pub(super) static GROUP_9: [Node; 2] = [ByReg(&G9_MEM), ByReg(&G9_REG)];

/// 0F C7 with memory.
pub(super) static G9_MEM: [Node; 8] = [
    Undefined,
    with(
        Op::Exchange(Exchange::CmpxchgPair),
        Mem(RexWPair),
        NO,
        NO,
        Attr::LOCK,
    ),
    Undefined,
    ByPrefix(&NP_MEM),
    ByPrefix(&NP_MEM),
    ByPrefix(&NP_MEM),
    ByPrefix(&VMPTRLD),
    ByPrefix(&VMPTRST),
];

/// VMPTRLD, VMCLEAR, VMXON.
pub(super) static VMPTRLD: [Node; 4] = [
    other(MQ, NO, NO),
    other(MQ, NO, NO),
    other(MQ, NO, NO),
    Undefined,
];

/// VMPTRST.
pub(super) static VMPTRST: [Node; 4] = [other(MQ, NO, NO), Undefined, Undefined, Undefined];

/// 0F C7 with a register.
pub(super) static G9_REG: [Node; 8] = [
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    ByPrefix(&RDRAND),
    ByPrefix(&RDSEED),
];

/// RDRAND, SENDUIPI.
pub(super) static RDRAND: [Node; 4] = [
    other(EV, NO, NO),
    other(EV, NO, NO),
    with(Op::Unsupported, Rm(Bytes(8)), NO, NO, Attr::ONLY64),
    Undefined,
];

/// RDSEED, RDPID.
pub(super) static RDSEED: [Node; 4] = [
    other(EV, NO, NO),
    other(EV, NO, NO),
    other(Rm(Native), NO, NO),
    Undefined,
];

/// 0F 37.
pub(super) static GETSEC: [Node; 4] = [other(NO, NO, NO), Undefined, Undefined, Undefined];

/// An x87 operand: memory, whose size matters to nobody here, or a register of the x87 stack.
const X87: Form = Rm(Any);

/// D9.
pub(super) static X87_D9: [Node; 2] = [ByReg(&X87_D9_MEM), ByReg(&X87_D9_REG)];

/// D9 with memory.
pub(super) static X87_D9_MEM: [Node; 8] = [
    other(X87, NO, NO),
    Undefined,
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
];

/// D9 with a register.
pub(super) static X87_D9_REG: [Node; 8] = [
    other(X87, NO, NO),
    other(X87, NO, NO),
    ByRm(&X87_D9_2),
    other(X87, NO, NO),
    ByRm(&X87_D9_4),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
];

/// D9 /2 with a register.
pub(super) static X87_D9_2: [Node; 8] = [
    other(X87, NO, NO),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// D9 /4 with a register.
pub(super) static X87_D9_4: [Node; 8] = [
    other(X87, NO, NO),
    other(X87, NO, NO),
    Undefined,
    Undefined,
    other(X87, NO, NO),
    other(X87, NO, NO),
    Undefined,
    Undefined,
];

/// DA.
pub(super) static X87_DA: [Node; 2] = [other(X87, NO, NO), ByReg(&X87_DA_REG)];

/// DA with a register.
pub(super) static X87_DA_REG: [Node; 8] = [
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    Undefined,
    ByRm(&X87_DA_5),
    Undefined,
    Undefined,
];

/// DA /5 with a register.
pub(super) static X87_DA_5: [Node; 8] = [
    Undefined,
    other(X87, NO, NO),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// DB.
pub(super) static X87_DB: [Node; 2] = [ByReg(&X87_DB_MEM), ByReg(&X87_DB_REG)];

/// DB with memory.
pub(super) static X87_DB_MEM: [Node; 8] = [
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    Undefined,
    other(X87, NO, NO),
    Undefined,
    other(X87, NO, NO),
];

/// DB with a register.
pub(super) static X87_DB_REG: [Node; 8] = [
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    ByRm(&X87_DB_4),
    other(X87, NO, NO),
    other(X87, NO, NO),
    Undefined,
];

/// DB /4 with a register.
pub(super) static X87_DB_4: [Node; 8] = [
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    Undefined,
    Undefined,
    Undefined,
];

/// DD.
pub(super) static X87_DD: [Node; 2] = [ByReg(&X87_DD_MEM), ByReg(&X87_DD_REG)];

/// DD with memory.
pub(super) static X87_DD_MEM: [Node; 8] = [
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    Undefined,
    other(X87, NO, NO),
    other(X87, NO, NO),
];

/// DD with a register.
pub(super) static X87_DD_REG: [Node; 8] = [
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    Undefined,
    Undefined,
];

/// DE.
pub(super) static X87_DE: [Node; 2] = [other(X87, NO, NO), ByReg(&X87_DE_REG)];

/// DE with a register.
pub(super) static X87_DE_REG: [Node; 8] = [
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    ByRm(&X87_DE_3),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
];

/// DE /3 with a register.
pub(super) static X87_DE_3: [Node; 8] = [
    Undefined,
    other(X87, NO, NO),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];

/// DF.
pub(super) static X87_DF: [Node; 2] = [other(X87, NO, NO), ByReg(&X87_DF_REG)];

/// DF with a register.
pub(super) static X87_DF_REG: [Node; 8] = [
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    other(X87, NO, NO),
    ByRm(&X87_DF_4),
    other(X87, NO, NO),
    other(X87, NO, NO),
    Undefined,
];

/// DF /4 with a register.
pub(super) static X87_DF_4: [Node; 8] = [
    other(X87, NO, NO),
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
    Undefined,
];
