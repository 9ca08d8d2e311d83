// SPDX-License-Identifier: GPL-2.0

//! Shifts and rotates with their flags, as pure functions.
//!
//! OF, defined for counts of 1 only, is given by the same formula for every count, as Intel CPUs do.

use super::alu::{
    logic,
    FlagChange, //
};
use super::flags::{
    when,
    CF,
    OF, //
};
use super::insn::Width;
use super::op::{
    DoubleShift,
    Shift, //
};

/// Returns the count that counts: its low 5 bits, or 6 for quadwords.
fn effective_count(width: Width, count: u64) -> u32 {
    let count = (count & 63) as u32;
    if width == Width::Qword {
        count
    } else {
        count & 31
    }
}

/// Returns `value` shifted left, 0 for 64 and more.
fn left(value: u64, count: u32) -> u64 {
    value.checked_shl(count).unwrap_or(0)
}

/// Returns `value` shifted right, 0 for 64 and more.
fn right(value: u64, count: u32) -> u64 {
    value.checked_shr(count).unwrap_or(0)
}

/// Returns bit `n` of `value` as CF; 0 beyond bit 63.
fn carry_bit(value: u64, n: u32) -> u64 {
    when(right(value, n) & 1 != 0, CF)
}

/// Returns OF as CF xor the sign.
fn overflow_by_carry(width: Width, result: u64, carry: u64) -> u64 {
    when((result & width.sign() != 0) != (carry != 0), OF)
}

/// Returns OF as the xor of the two topmost bits.
fn overflow_by_top(width: Width, result: u64) -> u64 {
    when((result ^ (result << 1)) & width.sign() != 0, OF)
}

/// Shifts or rotates `value` by `count`, of which the low bits count. With a count of 0 no flag
/// changes.
pub(super) fn shift(
    op: Shift,
    width: Width,
    value: u64,
    count: u64,
    rflags: u64,
) -> (u64, FlagChange) {
    let count = effective_count(width, count);
    if count == 0 {
        return (value, FlagChange::NONE);
    }
    match op {
        Shift::Shl => shl(width, value, count),
        Shift::Shr => shr(width, value, count),
        Shift::Sar => sar(width, value, count),
        Shift::Rol => rol(width, value, count),
        Shift::Ror => ror(width, value, count),
        Shift::Rcl => rotate_carry(Shift::Rcl, width, value, count, rflags),
        Shift::Rcr => rotate_carry(Shift::Rcr, width, value, count, rflags),
    }
}

fn shl(width: Width, value: u64, count: u32) -> (u64, FlagChange) {
    let result = width.cut(left(value, count));
    let out = width.bits().checked_sub(count);
    let carry = out.map_or(0, |bit| carry_bit(value, bit));
    let flags = carry | overflow_by_carry(width, result, carry);
    (result, logic(width, result).with(CF | OF, flags))
}

fn shr(width: Width, value: u64, count: u32) -> (u64, FlagChange) {
    let result = right(value, count);
    let flags = carry_bit(value, count.wrapping_sub(1)) | overflow_by_top(width, result);
    (result, logic(width, result).with(CF | OF, flags))
}

fn sar(width: Width, value: u64, count: u32) -> (u64, FlagChange) {
    let wide = width.sign_extend(value);
    // What moves in from the left: ones for a negative value.
    let ones = if wide >> 63 != 0 { u64::MAX } else { 0 };
    let wide_result = right(wide, count) | left(ones, 64_u32.wrapping_sub(count));
    let result = width.cut(wide_result);
    (
        result,
        logic(width, result).with(CF, carry_bit(wide, count.wrapping_sub(1))),
    )
}

fn rol(width: Width, value: u64, count: u32) -> (u64, FlagChange) {
    let result = rotate_left(width, value, count);
    let carry = carry_bit(result, 0);
    let value = carry | overflow_by_carry(width, result, carry);
    (
        result,
        FlagChange {
            mask: CF | OF,
            value,
        },
    )
}

fn ror(width: Width, value: u64, count: u32) -> (u64, FlagChange) {
    let inverse = width
        .bits()
        .wrapping_sub(count & width.bits().wrapping_sub(1));
    let result = rotate_left(width, value, inverse);
    let value = when(result & width.sign() != 0, CF) | overflow_by_top(width, result);
    (
        result,
        FlagChange {
            mask: CF | OF,
            value,
        },
    )
}

/// Rotates by `count` modulo the width.
fn rotate_left(width: Width, value: u64, count: u32) -> u64 {
    let count = count & width.bits().wrapping_sub(1);
    width.cut(left(value, count) | right(value, width.bits().wrapping_sub(count)))
}

/// RCL and RCR: a rotation of one bit more than the width, CF on top.
fn rotate_carry(op: Shift, width: Width, value: u64, count: u32, rflags: u64) -> (u64, FlagChange) {
    let mut result = value;
    let mut carry = rflags & CF;
    for _ in 0..count {
        if op == Shift::Rcl {
            let out = when(result & width.sign() != 0, CF);
            result = width.cut(result << 1) | carry;
            carry = out;
        } else {
            let out = result & 1;
            result = (result >> 1) | when(carry != 0, width.sign());
            carry = out;
        }
    }
    let overflow = if op == Shift::Rcl {
        overflow_by_carry(width, result, carry)
    } else {
        overflow_by_top(width, result)
    };
    (
        result,
        FlagChange {
            mask: CF | OF,
            value: carry | overflow,
        },
    )
}

/// Shifts `value` by `count`, filling from `fill`. Words with counts above 16, which the SDM leaves
/// undefined, are filled from `value` again.
pub(super) fn double_shift(
    op: DoubleShift,
    width: Width,
    value: u64,
    fill: u64,
    count: u64,
) -> (u64, FlagChange) {
    let count = effective_count(width, count);
    if count == 0 {
        return (value, FlagChange::NONE);
    }
    let bits = width.bits();
    let rest = bits.wrapping_sub(count);
    let (result, carry) = match op {
        _ if count > bits => double_shift_word(op, value, fill, count),
        DoubleShift::Shld => (
            left(value, count) | right(fill, rest),
            carry_bit(value, rest),
        ),
        DoubleShift::Shrd => (
            right(value, count) | left(fill, rest),
            carry_bit(value, count.wrapping_sub(1)),
        ),
    };
    let result = width.cut(result);
    let overflow = match op {
        DoubleShift::Shld => overflow_by_carry(width, result, carry),
        DoubleShift::Shrd => overflow_by_top(width, result),
    };
    (result, logic(width, result).with(CF | OF, carry | overflow))
}

/// Shifts a word by 17 to 31.
fn double_shift_word(op: DoubleShift, value: u64, fill: u64, count: u32) -> (u64, u64) {
    match op {
        DoubleShift::Shld => {
            let wide = (value << 32) | (fill << 16) | value;
            let out = 48_u32.wrapping_sub(count);
            (
                right(wide, 32_u32.wrapping_sub(count)),
                carry_bit(wide, out),
            )
        }
        DoubleShift::Shrd => {
            let wide = (value << 32) | (fill << 16) | value;
            (right(wide, count), carry_bit(wide, count.wrapping_sub(1)))
        }
    }
}
