// SPDX-License-Identifier: GPL-2.0

//! Arithmetic against a naive model that widens everything to 128 bits.

use super::machine::Machine;
use crate::outcome::{
    vector,
    Exception, //
};
use crate::x86::emulate::alu::FlagChange;
use crate::x86::emulate::muldiv::Double;
use crate::x86::emulate::*;
use proptest::prelude::*;

const NEXT: Result<Done, Stop> = Ok(Done::Retired(Shadow::None));
const CF: u64 = 1;
const PF: u64 = 4;
const AF: u64 = 0x10;
const ZF: u64 = 0x40;
const SF: u64 = 0x80;
const OF: u64 = 0x800;

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![
        Just(Width::Byte),
        Just(Width::Word),
        Just(Width::Dword),
        Just(Width::Qword)
    ]
}

/// A value with a bias to the edges.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u64>().prop_map(|v| v & 3),
        any::<u64>().prop_map(|v| (v & 3).wrapping_neg()),
        (0_u32..64).prop_map(|n| 1 << n),
        (0_u32..64).prop_map(|n| (1 << n) - 1),
    ]
}

fn signed(width: Width, value: u64) -> i128 {
    i128::from(width.sign_extend(value) as i64)
}

/// The flags of a sum, from its signed and unsigned values in full.
fn model_flags(width: Width, unsigned: i128, signed: i128, nibble: i128) -> u64 {
    let result = unsigned as u64 & width.mask();
    let mut flags = 0;
    let range = 1_i128 << width.bits();
    if !(0..range).contains(&unsigned) {
        flags |= CF;
    }
    if !(-range / 2..range / 2).contains(&signed) {
        flags |= OF;
    }
    if !(0..16).contains(&nibble) {
        flags |= AF;
    }
    if result == 0 {
        flags |= ZF;
    }
    if result >> (width.bits() - 1) != 0 {
        flags |= SF;
    }
    if (result as u8).count_ones() % 2 == 0 {
        flags |= PF;
    }
    flags
}

proptest! {
    #[test]
    fn add_and_adc_match_wide_arithmetic(w in width(), a in value(), b in value(), c in 0_u64..2) {
        let (a, b) = (w.cut(a), w.cut(b));
        let (sum, flags) = alu::add(w, a, b, c);
        let unsigned = i128::from(a) + i128::from(b) + i128::from(c);
        let total = signed(w, a) + signed(w, b) + i128::from(c);
        let nibble = i128::from((a & 15) + (b & 15) + c);
        prop_assert_eq!(sum, unsigned as u64 & w.mask());
        prop_assert_eq!(flags, FlagChange::status(model_flags(w, unsigned, total, nibble)));
    }

    #[test]
    fn sub_and_sbb_match_wide_arithmetic(w in width(), a in value(), b in value(), c in 0_u64..2) {
        let (a, b) = (w.cut(a), w.cut(b));
        let (difference, flags) = alu::sub(w, a, b, c);
        let unsigned = i128::from(a) - i128::from(b) - i128::from(c);
        let total = signed(w, a) - signed(w, b) - i128::from(c);
        let nibble = i128::from(a & 15) - i128::from(b & 15) - i128::from(c);
        prop_assert_eq!(difference, unsigned as u64 & w.mask());
        prop_assert_eq!(flags, FlagChange::status(model_flags(w, unsigned, total, nibble)));
    }

    #[test]
    fn shifts_match_a_bit_by_bit_model(w in width(), a in value(), count in 0_u64..256, cf in 0_u64..2) {
        let a = w.cut(a);
        for op in [Shift::Rol, Shift::Ror, Shift::Rcl, Shift::Rcr, Shift::Shl, Shift::Shr, Shift::Sar] {
            let (result, flags) = shift::shift(op, w, a, count, cf);
            let (expected, carry, overflow) = model_shift(op, w, a, count, cf);
            prop_assert_eq!(result, expected, "{:?} {}", op, count);
            let masked = count & if w == Width::Qword { 63 } else { 31 };
            if masked == 0 {
                prop_assert_eq!(flags, FlagChange::NONE);
                continue;
            }
            prop_assert_eq!(flags.value & CF, carry, "{:?} {}", op, count);
            if masked == 1 {
                prop_assert_eq!(flags.value & OF != 0, overflow, "{:?}", op);
            }
            let rotates = matches!(op, Shift::Rol | Shift::Ror | Shift::Rcl | Shift::Rcr);
            prop_assert_eq!(flags.mask & (ZF | SF | PF) == 0, rotates);
        }
    }

    #[test]
    fn double_shifts_match_a_bit_by_bit_model(w in width(), a in value(), fill in value(), count in 0_u64..64) {
        prop_assume!(w != Width::Byte);
        let (a, fill) = (w.cut(a), w.cut(fill));
        let masked = count & if w == Width::Qword { 63 } else { 31 };
        prop_assume!(masked <= w.bits().into());
        let (mut left, mut source) = (a, fill);
        let (mut right, mut sink) = (a, fill);
        let (mut left_carry, mut right_carry) = (0, 0);
        for _ in 0..masked {
            left_carry = u64::from(left & w.sign() != 0);
            left = w.cut(left << 1) | u64::from(source & w.sign() != 0);
            source = w.cut(source << 1);
            right_carry = right & 1;
            right = (right >> 1) | if sink & 1 != 0 { w.sign() } else { 0 };
            sink >>= 1;
        }
        let (result, flags) = shift::double_shift(DoubleShift::Shld, w, a, fill, count);
        prop_assert_eq!(result, left);
        prop_assert!(masked == 0 || flags.value & CF == left_carry);
        let (result, flags) = shift::double_shift(DoubleShift::Shrd, w, a, fill, count);
        prop_assert_eq!(result, right);
        prop_assert!(masked == 0 || flags.value & CF == right_carry);
    }

    #[test]
    fn products_match_wide_arithmetic(w in width(), a in value(), b in value()) {
        let (a, b) = (w.cut(a), w.cut(b));
        let (product, flags) = muldiv::mul(w, a, b);
        let wide = u128::from(a) * u128::from(b);
        prop_assert_eq!(join(w, product), wide);
        prop_assert_eq!(flags.value & (CF | OF), if wide >> w.bits() != 0 { CF | OF } else { 0 });
        let (product, flags) = muldiv::imul(w, a, b);
        let wide = signed(w, a) * signed(w, b);
        prop_assert_eq!(join(w, product), wide as u128 & (u128::MAX >> (128 - 2 * w.bits())));
        let fits = signed(w, product.low) == wide;
        prop_assert_eq!(flags.value & (CF | OF), if fits { 0 } else { CF | OF });
    }

    #[test]
    fn quotients_match_wide_arithmetic(w in width(), high in value(), low in value(), d in value()) {
        let (high, low, d) = (w.cut(high), w.cut(low), w.cut(d));
        let dividend = Double { high, low };
        let wide = join(w, dividend);
        let expected = wide.checked_div(d.into()).filter(|q| q >> w.bits() == 0);
        let expected = expected.map(|q| (q as u64, (wide % u128::from(d)) as u64));
        prop_assert_eq!(muldiv::div(w, dividend, d), expected);
        let shift = 128 - 2 * w.bits();
        let wide = ((wide << shift) as i128) >> shift;
        let range = 1_i128 << (w.bits() - 1);
        let expected = wide.checked_div(signed(w, d)).filter(|q| (-range..range).contains(q));
        let expected = expected.map(|q| (w.cut(q as u64), w.cut((wide % signed(w, d)) as u64)));
        prop_assert_eq!(muldiv::idiv(w, dividend, d), expected);
    }
}

fn join(w: Width, value: Double) -> u128 {
    (u128::from(value.high) << w.bits()) | u128::from(value.low)
}

/// Shifts one bit at a time; returns result, CF, and OF after the last step.
fn model_shift(op: Shift, w: Width, a: u64, count: u64, cf: u64) -> (u64, u64, bool) {
    let count = count & if w == Width::Qword { 63 } else { 31 };
    let (mut value, mut carry, mut overflow) = (a, cf, false);
    let top = |value: u64| u64::from(value & w.sign() != 0);
    let lift = |bit: u64| if bit != 0 { w.sign() } else { 0 };
    for _ in 0..count {
        let before = value;
        let (next, out) = match op {
            Shift::Shl => (value << 1, top(value)),
            Shift::Shr => (value >> 1, value & 1),
            Shift::Sar => ((value >> 1) | lift(top(value)), value & 1),
            Shift::Rol => ((value << 1) | top(value), top(value)),
            Shift::Ror => ((value >> 1) | lift(value & 1), value & 1),
            Shift::Rcl => ((value << 1) | carry, top(value)),
            Shift::Rcr => ((value >> 1) | lift(carry), value & 1),
        };
        value = w.cut(next);
        carry = out;
        // OF is set where the sign changed, by whichever definition.
        overflow = top(before) != top(value);
    }
    (value, carry, overflow)
}

#[test]
fn alu_with_memory_reads_once_and_writes_once() {
    // add [rbx], eax
    let mut m = Machine::long(&[0x01, 0x03]).with(RAX, 1).with(RBX, 0x3000);
    m.poke(0x3000, &[0xff; 4]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.accesses, [("modify", 0x3000, 4), ("write", 0x3000, 4)]);
    assert_eq!(m.state.rflags, 2 | CF | PF | AF | ZF);
    // cmp does not write
    let mut m = Machine::long(&[0x39, 0x03]).with(RBX, 0x3000);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.accesses, [("read", 0x3000, 4)]);
}

#[test]
fn lock_makes_it_one_atomic_access() {
    // lock or dword [rbx], 0x10
    let mut m = Machine::long(&[0xf0, 0x83, 0x0b, 0x10]).with(RBX, 0x3000);
    m.poke(0x3000, &[1, 0, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.accesses, [("modify", 0x3000, 4), ("swap", 0x3000, 4)]);
    assert_eq!(m.peek(0x3000, 4), 0x11);
}

#[test]
fn lock_on_what_cannot_be_locked_is_undefined() {
    for code in [
        &[0xf0, 0x01, 0xc0][..],   // add eax, eax
        &[0xf0, 0x39, 0x03],       // cmp [rbx], eax
        &[0xf0, 0x8b, 0x03],       // mov eax, [rbx]
        &[0xf0, 0x03, 0x03],       // add eax, [rbx]
        &[0xf0, 0x0f, 0xa3, 0x03], // bt [rbx], eax
        &[0xf0, 0xd1, 0x23],       // shl dword [rbx], 1
    ] {
        assert_eq!(
            Machine::long(code).run(),
            Err(Stop::Fault(Exception::UD)),
            "{code:02x?}"
        );
    }
}

#[test]
fn inc_and_dec_keep_carry() {
    // inc dword [rbx]
    let mut m = Machine::long(&[0xff, 0x03]).with(RBX, 0x3000);
    m.poke(0x3000, &[0xff; 4]);
    m.state.rflags |= CF;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.rflags & (CF | ZF), CF | ZF);
}

#[test]
fn not_changes_no_flags() {
    // not byte [rbx]
    let mut m = Machine::long(&[0xf6, 0x13]).with(RBX, 0x3000);
    m.poke(0x3000, &[0xff]);
    m.state.rflags |= SF | OF;
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.state.rflags, m.peek(0x3000, 1)), (2 | SF | OF, 0));
}

#[test]
fn bit_offset_in_a_register_reaches_beyond_the_operand() {
    // bts [rbx], eax
    let mut m = Machine::long(&[0x0f, 0xab, 0x03])
        .with(RBX, 0x3000)
        .with(RAX, 100);
    m.poke(0x300c, &[0; 4]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x300c, 4), 1 << 4);
    // btr [rbx], rax, backwards
    let mut m = Machine::long(&[0x48, 0x0f, 0xb3, 0x03])
        .with(RBX, 0x3000)
        .with(RAX, u64::MAX);
    m.poke(0x2ff8, &[0xff; 8]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x2ff8, 8), u64::MAX >> 1);
    assert_eq!(m.state.rflags & CF, CF);
    // bt dword [rbx], 33 stays inside
    let mut m = Machine::long(&[0x0f, 0xba, 0x23, 33]).with(RBX, 0x3000);
    m.poke(0x3000, &[2, 0, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.accesses, [("read", 0x3000, 4)]);
    assert_eq!(m.state.rflags & CF, CF);
}

#[test]
fn bt_does_not_write_its_register() {
    // bt eax, ecx
    let mut m = Machine::long(&[0x0f, 0xa3, 0xc8]).with(RAX, u64::MAX);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RAX), m.state.rflags & CF), (u64::MAX, CF));
}

#[test]
fn bit_scans_of_zero() {
    // bsf rax, rbx leaves rax; tzcnt and lzcnt count the width
    let mut m = Machine::long(&[0x48, 0x0f, 0xbc, 0xc3]).with(RAX, 7);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RAX), m.state.rflags & ZF), (7, ZF));
    let mut m = Machine::long(&[0xf3, 0x0f, 0xbc, 0xc3]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RAX), m.state.rflags & CF), (32, CF));
    let mut m = Machine::long(&[0x66, 0xf3, 0x0f, 0xbd, 0xc3]).with(RBX, 1);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 15);
    // bsr eax, ebx
    let mut m = Machine::long(&[0x0f, 0xbd, 0xc3]).with(RBX, 0x0080_0001);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 23);
}

#[test]
fn division_errors_are_faults() {
    let divide_error = Err(Stop::Fault(Exception::plain(vector::DE)));
    // div ebx: by 0, then with a quotient that does not fit
    let code = &[0xf7, 0xf3];
    assert_eq!(Machine::long(code).with(RAX, 1).run(), divide_error);
    assert_eq!(
        Machine::long(code).with(RDX, 2).with(RBX, 2).run(),
        divide_error
    );
    // aam 0
    assert_eq!(Machine::protected(&[0xd4, 0]).run(), divide_error);
    // div byte [rbx]
    let mut m = Machine::long(&[0xf6, 0x33])
        .with(RAX, 0x0107)
        .with(RBX, 0x3000);
    m.poke(0x3000, &[16]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0x0710);
}

#[test]
fn imul_of_three_operands_multiplies_the_immediate() {
    // imul eax, [rbx], -3
    let mut m = Machine::long(&[0x6b, 0x03, 0xfd]).with(RBX, 0x3000);
    m.poke(0x3000, &[5, 0, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0xffff_fff1);
    assert_eq!(m.state.rflags & (CF | OF), 0);
}

#[test]
fn decimal_adjustments_carry() {
    for (code, ax, flags, result, carry) in [
        (&[0x27][..], 0x9a, 0, 0x00, CF), // daa
        (&[0x27], 0x0f, 0, 0x15, 0),
        (&[0x2f], 0x05, AF | CF, 0x9f, CF), // das
        (&[0x2f], 0x15, AF, 0x0f, 0),
        (&[0x37], 0x010b, 0, 0x0201, CF),    // aaa
        (&[0x3f], 0x0203, AF, 0x000d, CF),   // aas
        (&[0xd5, 10], 0x0403, 0, 0x002b, 0), // aad
        (&[0xd4, 10], 0x002b, 0, 0x0403, 0), // aam
    ] {
        let mut m = Machine::protected(code).with(RAX, ax);
        m.state.rflags |= flags;
        assert_eq!(m.run(), NEXT);
        assert_eq!(
            (m.gpr(RAX), m.state.rflags & CF),
            (result, carry),
            "{code:02x?} {ax:x}"
        );
    }
}
