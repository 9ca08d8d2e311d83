// SPDX-License-Identifier: GPL-2.0

//! The decoder against iced-x86, a decoder that shares nothing with it, over random bytes.
//!
//! Lengths must agree for every instruction that both know, and operands for every instruction that
//! the emulator executes. Where only one of the two knows an encoding, it must be one of the named
//! differences at the end of this file.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that overflows or panics fails, which is what it is for"
)]

use std::collections::BTreeSet;

use burrow_core::x86::emulate::{
    decode,
    CodeSize,
    DecodeError,
    Insn,
    Map,
    Mem,
    Mov,
    Op,
    Operand,
    SegReg,
    MAX_LEN, //
};
use iced_x86::{
    Code,
    CpuidFeature,
    Decoder,
    DecoderOptions,
    Instruction,
    OpKind,
    Register, //
};

const CASES: u32 = if cfg!(debug_assertions) {
    200_000
} else {
    3_000_000
};

/// Where the instructions are.
const IP: u64 = 0x40;

/// A xorshift generator: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }

    /// Makes 15 bytes that look like an instruction more often than chance would have it.
    fn bytes(&mut self) -> [u8; MAX_LEN] {
        const PREFIXES: [u8; 12] = [
            0x66, 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x64, 0x65, 0x26, 0x3e,
        ];
        let mut bytes = [0; MAX_LEN];
        for byte in &mut bytes {
            *byte = self.next() as u8;
        }
        let mut at = 0;
        for _ in 0..[0, 0, 0, 1, 1, 2, 3][self.below(7) as usize] {
            bytes[at] = PREFIXES[self.below(12) as usize];
            at += 1;
        }
        if self.below(4) == 0 {
            bytes[at] = 0x40 | bytes[at] & 15;
            at += 1;
        }
        let escape: &[u8] = [
            &[][..],
            &[][..],
            &[0x0f],
            &[0x0f],
            &[0x0f, 0x38],
            &[0x0f, 0x3a],
        ][self.below(6) as usize];
        bytes[at..at + escape.len()].copy_from_slice(escape);
        bytes
    }
}

fn number_of(register: Register) -> Option<u8> {
    (register != Register::None).then(|| register.full_register().number() as u8)
}

fn segment_of(register: Register) -> SegReg {
    SegReg::from_encoding(register.number() as u8).expect("a segment register")
}

fn same_register(ours: Operand, register: Register) -> bool {
    let number = register.number() as u8;
    match ours {
        Operand::Gpr(gpr) => {
            let high = matches!(
                register,
                Register::AH | Register::CH | Register::DH | Register::BH
            );
            let index = number_of(register).expect("a register");
            register.is_gpr()
                && (gpr.index, gpr.high) == (index, high)
                && usize::from(gpr.width.bytes()) == register.size()
        }
        Operand::Seg(segment) => register.is_segment_register() && segment == segment_of(register),
        Operand::Cr(cr) => register.is_cr() && cr == number,
        Operand::Dr(dr) => register.is_dr() && dr == number,
        Operand::Mm(mm) => register.is_mm() && mm == number,
        Operand::Xmm(xmm) => register.is_xmm() && xmm == number,
        _ => false,
    }
}

/// Compares segments; iced keeps the overrides that 64-bit mode ignores.
fn same_segment(insn: &Insn, ours: SegReg, theirs: SegReg) -> bool {
    let flat = |segment| !matches!(segment, SegReg::Fs | SegReg::Gs);
    ours == theirs || insn.code_size == CodeSize::Bits64 && flat(ours) && flat(theirs)
}

fn same_memory(insn: &Insn, mem: Mem, theirs: &Instruction) -> bool {
    let rip_relative = theirs.is_ip_rel_memory_operand();
    let expected = if rip_relative {
        theirs
            .memory_displacement64()
            .wrapping_sub(IP + u64::from(insn.len))
    } else {
        theirs.memory_displacement64()
    };
    let base = if rip_relative {
        None
    } else {
        number_of(theirs.memory_base())
    };
    let size = theirs.memory_size().size();
    let mask = insn.address_size.mask();
    same_segment(insn, mem.segment, segment_of(theirs.memory_segment()))
        && mem.base == base
        && mem.index == number_of(theirs.memory_index())
        && (mem.index.is_none() || 1 << mem.scale == theirs.memory_index_scale())
        && mem.rip_relative == rip_relative
        && (mem.disp ^ expected) & mask == 0
        && (mem.size == 0 || usize::from(mem.size) == size)
}

fn same_string(insn: &Insn, mem: Mem, kind: OpKind, theirs: &Instruction) -> bool {
    use OpKind as K;
    let source = matches!(kind, K::MemorySegSI | K::MemorySegESI | K::MemorySegRSI);
    let segment = if source {
        segment_of(theirs.memory_segment())
    } else {
        SegReg::Es
    };
    mem.base == Some(if source { 6 } else { 7 })
        && same_segment(insn, mem.segment, segment)
        && usize::from(mem.size) == theirs.memory_size().size()
}

fn same_operand(insn: &Insn, ours: Operand, theirs: &Instruction, n: u32) -> bool {
    use OpKind as K;
    let kind = theirs.op_kind(n);
    match (ours, kind) {
        (_, K::Register) => same_register(ours, theirs.op_register(n)),
        (Operand::Mem(mem), K::Memory) => same_memory(insn, mem, theirs),
        (Operand::Mem(mem), _) => same_string(insn, mem, kind, theirs),
        (Operand::Rel(rel), K::NearBranch16) => {
            (u64::from(insn.len) + IP).wrapping_add(rel) as u16 == theirs.near_branch16()
        }
        (Operand::Rel(rel), K::NearBranch32) => {
            (u64::from(insn.len) + IP).wrapping_add(rel) as u32 == theirs.near_branch32()
        }
        (Operand::Rel(rel), K::NearBranch64) => {
            (u64::from(insn.len) + IP).wrapping_add(rel) == theirs.near_branch64()
        }
        (Operand::Far { selector, offset }, K::FarBranch16) => {
            (selector, offset) == (theirs.far_branch_selector(), theirs.far_branch16().into())
        }
        (Operand::Far { selector, offset }, K::FarBranch32) => {
            (selector, offset) == (theirs.far_branch_selector(), theirs.far_branch32())
        }
        (Operand::Imm(imm), _) => {
            let mask = match kind {
                K::Immediate8 | K::Immediate8_2nd => 0xff,
                K::Immediate16 | K::Immediate8to16 => 0xffff,
                K::Immediate32 | K::Immediate8to32 => 0xffff_ffff,
                _ => u64::MAX,
            };
            imm & mask == theirs.immediate(n) & mask
        }
        _ => false,
    }
}

/// Checks an instruction that both decoders know.
fn compare(insn: &Insn, theirs: &Instruction, bytes: &[u8]) {
    let context = || format!("{bytes:02x?}\n{insn:?}\n{:?}", theirs.code());
    assert_eq!(usize::from(insn.len), theirs.len(), "{}", context());
    assert_eq!(
        insn.prefixes.lock,
        theirs.has_lock_prefix(),
        "{}",
        context()
    );
    let implicit = insn.op == Op::Mov(Mov::Xlat)
        || insn.map == Map::Primary && insn.opcode == 0x90
        || matches!(insn.op, Op::Unsupported | Op::Nop(_) | Op::Ud);
    if implicit {
        return;
    }
    let count = insn
        .operands
        .iter()
        .filter(|operand| **operand != Operand::None)
        .count();
    assert_eq!(count, theirs.op_count() as usize, "{}", context());
    for n in 0..theirs.op_count() {
        let same = same_operand(insn, insn.operand(n as usize), theirs, n);
        assert!(same, "operand {n}: {}", context());
    }
}

#[test]
fn decoder_agrees_with_iced_over_random_bytes() {
    let sizes = [
        (16, CodeSize::Bits16),
        (32, CodeSize::Bits32),
        (64, CodeSize::Bits64),
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut agreed = 0;
    let mut differ = BTreeSet::new();
    for case in 0..CASES {
        let bytes = random.bytes();
        let (bitness, size) = sizes[case as usize % 3];
        let theirs = decode_iced(&bytes, bitness);
        match decode(&bytes, size) {
            Ok(insn) if theirs.is_invalid() => {
                if !is_lenient(&insn) {
                    differ.insert(format!(
                        "ours only: {:?} {:02x} {bytes:02x?}",
                        insn.map, insn.opcode
                    ));
                }
            }
            Ok(insn) => {
                compare(&insn, &theirs, &bytes);
                agreed += 1;
            }
            Err(error) => {
                if !theirs.is_invalid() && !is_foreign(theirs.code(), error) {
                    differ.insert(format!(
                        "iced only: {bitness} {:?} {bytes:02x?}",
                        theirs.code()
                    ));
                }
            }
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
    assert!(agreed > CASES / 2, "only {agreed} of {CASES} compared");
}

/// Decodes at address [`IP`].
fn decode_iced(bytes: &[u8], bitness: u32) -> Instruction {
    Decoder::with_ip(bitness, bytes, IP, DecoderOptions::NONE).decode()
}

#[test]
fn decoder_asks_for_more_bytes_until_the_last() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for case in 0..CASES / 8 {
        let bytes = random.bytes();
        let size = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64][case as usize % 3];
        let Ok(insn) = decode(&bytes, size) else {
            continue;
        };
        let len = usize::from(insn.len);
        assert_eq!(decode(&bytes[..len], size), Ok(insn));
        for short in 0..len {
            assert_eq!(
                decode(&bytes[..short], size),
                Err(DecodeError::NeedMoreBytes),
                "{bytes:02x?}"
            );
        }
    }
}

/// Returns whether iced may refuse what we accept.
///
/// Of VEX and EVEX encodings we know the length only. URDMSR and UWRMSR are newer than iced; PTWRITE
/// with 66 we do not refuse.
fn is_lenient(insn: &Insn) -> bool {
    let named = matches!(
        (insn.map, insn.opcode),
        (Map::Vex(_) | Map::Evex(_), _) | (Map::Escape0f38, 0xf8) | (Map::Escape0f, 0xae)
    );
    insn.op == Op::Unsupported && named
}

/// Returns whether an instruction that we refuse is one of another vendor, so undefined on Intel
/// CPUs.
fn is_foreign(code: Code, error: DecodeError) -> bool {
    use CpuidFeature as F;
    const FOREIGN: [CpuidFeature; 25] = [
        F::D3NOW,
        F::D3NOWEXT,
        F::SSE4A,
        F::SVM,
        F::SKINIT,
        F::SKINIT_or_SVM,
        F::SEV_ES,
        F::SEV_SNP,
        F::RMPQUERY,
        F::XOP,
        F::TBM,
        F::LWP,
        F::FMA4,
        F::MONITORX,
        F::MCOMMIT,
        F::RDPRU,
        F::INVLPGB,
        F::CLZERO,
        F::PADLOCK_ACE,
        F::PADLOCK_PHE,
        F::PADLOCK_PMM,
        F::PADLOCK_RNG,
        F::PADLOCK_GMI,
        F::PADLOCK_UNDOC,
        F::UDBG,
    ];
    error == DecodeError::Undefined
        && code
            .cpuid_features()
            .iter()
            .any(|feature| FOREIGN.contains(feature))
}
