// SPDX-License-Identifier: GPL-2.0

//! Integer arithmetic with its flags, as pure functions.
//!
//! Values are `u64`, cut to their width. A result comes with a [`FlagChange`]. Flags that the SDM
//! leaves undefined get the value that logic instructions give them, unless said otherwise.

use super::flags::{
    when,
    AF,
    CF,
    OF,
    PF,
    SF,
    STATUS,
    ZF, //
};
use super::insn::Width;
use super::op::{
    Alu,
    BitScan,
    BitTest,
    Decimal,
    Unary, //
};

/// New values of some flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct FlagChange {
    /// Which flags.
    pub(super) mask: u64,
    /// Their values.
    pub(super) value: u64,
}

impl FlagChange {
    /// No change.
    pub(super) const NONE: Self = Self { mask: 0, value: 0 };

    /// All arithmetic flags.
    pub(super) const fn status(value: u64) -> Self {
        Self {
            mask: STATUS,
            value,
        }
    }

    /// Returns `rflags` with the change made.
    pub(super) const fn apply(self, rflags: u64) -> u64 {
        (rflags & !self.mask) | (self.value & self.mask)
    }

    /// Returns the change without the flags in `mask`.
    pub(super) const fn except(self, mask: u64) -> Self {
        Self {
            mask: self.mask & !mask,
            value: self.value,
        }
    }

    /// Returns the change with `flags` among it.
    pub(super) const fn with(self, mask: u64, value: u64) -> Self {
        Self {
            mask: self.mask | mask,
            value: (self.value & !mask) | (value & mask),
        }
    }
}

/// Returns SF, ZF and PF of a result.
pub(super) fn sign_zero_parity(width: Width, result: u64) -> u64 {
    let result = width.cut(result);
    when(result & width.sign() != 0, SF)
        | when(result == 0, ZF)
        | when((result & 0xff).count_ones() & 1 == 0, PF)
}

/// Returns the flags of a logical result.
pub(super) fn logic(width: Width, result: u64) -> FlagChange {
    FlagChange::status(sign_zero_parity(width, result))
}

/// Adds `a`, `b` and a carry of 0 or 1.
pub(super) fn add(width: Width, a: u64, b: u64, carry: u64) -> (u64, FlagChange) {
    let sum = width.cut(a.wrapping_add(b).wrapping_add(carry));
    let carries = (a & b) | ((a | b) & !sum);
    let flags = sign_zero_parity(width, sum)
        | when(carries & width.sign() != 0, CF)
        | when((a ^ b ^ sum) & 0x10 != 0, AF)
        | when((a ^ sum) & (b ^ sum) & width.sign() != 0, OF);
    (sum, FlagChange::status(flags))
}

/// Subtracts `b` and a borrow of 0 or 1 from `a`.
pub(super) fn sub(width: Width, a: u64, b: u64, borrow: u64) -> (u64, FlagChange) {
    let difference = width.cut(a.wrapping_sub(b).wrapping_sub(borrow));
    let borrows = (!a & b) | ((!a | b) & difference);
    let flags = sign_zero_parity(width, difference)
        | when(borrows & width.sign() != 0, CF)
        | when((a ^ b ^ difference) & 0x10 != 0, AF)
        | when((a ^ b) & (a ^ difference) & width.sign() != 0, OF);
    (difference, FlagChange::status(flags))
}

/// Carries out an [`Alu`] operation; CMP and TEST return what they do not store.
pub(super) fn binary(op: Alu, width: Width, a: u64, b: u64, rflags: u64) -> (u64, FlagChange) {
    let with_flags = |result| (result, logic(width, result));
    match op {
        Alu::Add => add(width, a, b, 0),
        Alu::Adc => add(width, a, b, rflags & CF),
        Alu::Sub | Alu::Cmp => sub(width, a, b, 0),
        Alu::Sbb => sub(width, a, b, rflags & CF),
        Alu::And | Alu::Test => with_flags(a & b),
        Alu::Or => with_flags(a | b),
        Alu::Xor => with_flags(a ^ b),
    }
}

/// Carries out a [`Unary`] operation.
pub(super) fn unary(op: Unary, width: Width, a: u64) -> (u64, FlagChange) {
    match op {
        Unary::Inc => {
            let (result, flags) = add(width, a, 1, 0);
            (result, flags.except(CF))
        }
        Unary::Dec => {
            let (result, flags) = sub(width, a, 1, 0);
            (result, flags.except(CF))
        }
        Unary::Neg => sub(width, 0, a, 0),
        Unary::Not => (width.cut(!a), FlagChange::NONE),
    }
}

/// Tests bit `bit`, below the width, and changes it; only CF changes.
pub(super) fn bit_test(op: BitTest, a: u64, bit: u32) -> (u64, FlagChange) {
    let mask = 1_u64.wrapping_shl(bit);
    let result = match op {
        BitTest::Bt => a,
        BitTest::Bts => a | mask,
        BitTest::Btr => a & !mask,
        BitTest::Btc => a ^ mask,
    };
    (
        result,
        FlagChange {
            mask: CF,
            value: when(a & mask != 0, CF),
        },
    )
}

/// Scans or counts bits. Returns `None` for BSF and BSR of 0, which leave the destination alone.
pub(super) fn bit_scan(op: BitScan, width: Width, source: u64) -> (Option<u64>, FlagChange) {
    let excess = 64_u32.wrapping_sub(width.bits());
    let leading = u64::from(source.leading_zeros().wrapping_sub(excess));
    let trailing = u64::from(source.trailing_zeros().min(width.bits()));
    let top = u64::from(width.bits()).wrapping_sub(1);
    let counted = |count: u64| {
        let flags = when(source == 0, CF) | when(count == 0, ZF);
        (Some(count), FlagChange::status(flags))
    };
    let scanned = |index: u64| {
        if source == 0 {
            (
                None,
                FlagChange {
                    mask: ZF,
                    value: ZF,
                },
            )
        } else {
            (Some(index), logic(width, index).with(ZF, 0))
        }
    };
    match op {
        BitScan::Bsf => scanned(trailing),
        BitScan::Bsr => scanned(top.wrapping_sub(leading)),
        BitScan::Tzcnt => counted(trailing),
        BitScan::Lzcnt => counted(leading),
        BitScan::Popcnt => (
            Some(source.count_ones().into()),
            FlagChange::status(when(source == 0, ZF)),
        ),
    }
}

/// Carries out a decimal adjustment of AX; `None` is #DE. `base` is the immediate of AAM and AAD.
pub(super) fn decimal(op: Decimal, ax: u64, base: u64, rflags: u64) -> Option<(u64, FlagChange)> {
    match op {
        Decimal::Daa => Some(adjust_packed(ax, rflags, Direction::Up)),
        Decimal::Das => Some(adjust_packed(ax, rflags, Direction::Down)),
        Decimal::Aaa => Some(adjust_unpacked(ax, rflags, Direction::Up)),
        Decimal::Aas => Some(adjust_unpacked(ax, rflags, Direction::Down)),
        Decimal::Aam => {
            let al = ax & 0xff;
            let quotient = al.checked_div(base)?;
            let remainder = al.checked_rem(base)?;
            Some(((quotient << 8) | remainder, logic(Width::Byte, remainder)))
        }
        Decimal::Aad => {
            let al = (ax & 0xff).wrapping_add(((ax >> 8) & 0xff).wrapping_mul(base)) & 0xff;
            Some((al, logic(Width::Byte, al)))
        }
    }
}

/// Which way a decimal adjustment goes.
#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

impl Direction {
    fn apply(self, value: u64, amount: u64) -> u64 {
        match self {
            Direction::Up => value.wrapping_add(amount),
            Direction::Down => value.wrapping_sub(amount),
        }
    }
}

/// DAA and DAS.
fn adjust_packed(ax: u64, rflags: u64, direction: Direction) -> (u64, FlagChange) {
    let old = ax & 0xff;
    let low = old & 15 > 9 || rflags & AF != 0;
    let high = old > 0x99 || rflags & CF != 0;
    let mut al = old;
    let mut carry = high;
    if low {
        al = direction.apply(al, 6);
        // DAS keeps the borrow of its first step.
        carry |= matches!(direction, Direction::Down) && old < 6;
    }
    if high {
        al = direction.apply(al, 0x60);
    }
    al &= 0xff;
    let flags = sign_zero_parity(Width::Byte, al) | when(carry, CF) | when(low, AF);
    ((ax & 0xff00) | al, FlagChange::status(flags))
}

/// AAA and AAS.
fn adjust_unpacked(ax: u64, rflags: u64, direction: Direction) -> (u64, FlagChange) {
    let adjust = ax & 15 > 9 || rflags & AF != 0;
    let ax = if adjust {
        direction.apply(ax, 0x106)
    } else {
        ax
    } & 0xff0f;
    let flags = sign_zero_parity(Width::Byte, ax) | when(adjust, CF | AF);
    (ax, FlagChange::status(flags))
}
