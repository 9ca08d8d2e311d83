// SPDX-License-Identifier: GPL-2.0

//! Multiplication and division, as pure functions.
//!
//! Kernel code has no 128-bit division, so the one of 128 by 64 bits is done bit by bit here.

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

/// A double-width number: high and low half, each of the operand width.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Double {
    pub(super) high: u64,
    pub(super) low: u64,
}

/// MUL.
pub(super) fn mul(width: Width, a: u64, b: u64) -> (Double, FlagChange) {
    let product = unsigned_product(width, a, b);
    (product, flags(width, product.low, product.high != 0))
}

/// IMUL, all forms.
pub(super) fn imul(width: Width, a: u64, b: u64) -> (Double, FlagChange) {
    let negative = (a ^ b) & width.sign() != 0;
    let product = unsigned_product(width, magnitude(width, a), magnitude(width, b));
    let product = if negative {
        negate(width, product)
    } else {
        product
    };
    let sign_only = when(product.low & width.sign() != 0, width.mask());
    (
        product,
        flags(width, product.low, product.high != sign_only),
    )
}

/// DIV; returns quotient and remainder, or `None` for #DE.
pub(super) fn div(width: Width, dividend: Double, divisor: u64) -> Option<(u64, u64)> {
    // With this, the quotient fits.
    if dividend.high >= divisor {
        return None;
    }
    if width == Width::Qword {
        return Some(long_division(dividend, divisor));
    }
    let wide = (dividend.high << width.bits()) | dividend.low;
    Some((wide.checked_div(divisor)?, wide.checked_rem(divisor)?))
}

/// IDIV; returns quotient and remainder, or `None` for #DE.
pub(super) fn idiv(width: Width, dividend: Double, divisor: u64) -> Option<(u64, u64)> {
    let dividend_negative = dividend.high & width.sign() != 0;
    let divisor_negative = divisor & width.sign() != 0;
    let positive = if dividend_negative {
        negate(width, dividend)
    } else {
        dividend
    };
    let (quotient, remainder) = div(width, positive, magnitude(width, divisor))?;
    let negative = dividend_negative != divisor_negative;
    let limit = if negative {
        width.sign()
    } else {
        width.sign().wrapping_sub(1)
    };
    if quotient > limit {
        return None;
    }
    let signed = |value: u64, negative| {
        width.cut(if negative {
            value.wrapping_neg()
        } else {
            value
        })
    };
    Some((
        signed(quotient, negative),
        signed(remainder, dividend_negative),
    ))
}

/// Returns CF and OF for a product that does or does not fit its low half, the others by that half.
fn flags(width: Width, low: u64, overflow: bool) -> FlagChange {
    logic(width, low).with(CF | OF, when(overflow, CF | OF))
}

fn magnitude(width: Width, value: u64) -> u64 {
    if value & width.sign() != 0 {
        width.cut(value.wrapping_neg())
    } else {
        value
    }
}

fn negate(width: Width, value: Double) -> Double {
    let low = width.cut(value.low.wrapping_neg());
    let high = if low == 0 {
        value.high.wrapping_neg()
    } else {
        !value.high
    };
    Double {
        high: width.cut(high),
        low,
    }
}

fn unsigned_product(width: Width, a: u64, b: u64) -> Double {
    if width == Width::Qword {
        let product = u128::from(a).wrapping_mul(u128::from(b));
        return Double {
            high: (product >> 64) as u64,
            low: a.wrapping_mul(b),
        };
    }
    let product = a.wrapping_mul(b);
    Double {
        high: product >> width.bits(),
        low: width.cut(product),
    }
}

/// Divides 128 by 64 bits; the high half is below the divisor.
fn long_division(dividend: Double, divisor: u64) -> (u64, u64) {
    let mut remainder = dividend.high;
    let mut quotient = dividend.low;
    for _ in 0..64 {
        let out = remainder >> 63;
        remainder = (remainder << 1) | (quotient >> 63);
        quotient <<= 1;
        // With a bit shifted out, the remainder is above any divisor.
        if out != 0 || remainder >= divisor {
            remainder = remainder.wrapping_sub(divisor);
            quotient |= 1;
        }
    }
    (quotient, remainder)
}
