// SPDX-License-Identifier: GPL-2.0

//! Division of 128 bits by 64, without `u128`'s own: the kernel has no `__udivti3` for Rust.

/// Returns bits 63:0 and bits 127:64.
#[inline]
const fn halves(value: u128) -> (u64, u64) {
    // CAST: each half is cut out on purpose.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "each half is cut out on purpose"
    )]
    (value as u64, (value >> 64) as u64)
}

/// Returns quotient and remainder of `dividend` and `divisor`, or `None` if the divisor is 0 or
/// the quotient needs more than 64 bits.
///
/// Knuth, The Art of Computer Programming 2, 4.3.1, algorithm D, with digits of 32 bits.
#[inline]
pub(crate) fn div_rem(dividend: u128, divisor: u64) -> Option<(u64, u64)> {
    let (low, high) = halves(dividend);
    if high >= divisor {
        return None;
    }
    if high == 0 {
        return Some((low.checked_div(divisor)?, low.checked_rem(divisor)?));
    }
    // Normalize: the divisor's top bit is set, so that each digit is guessed at most 2 too high.
    let shift = divisor.leading_zeros();
    let divisor = divisor.wrapping_shl(shift);
    let (low, high) = halves(dividend.wrapping_shl(shift));
    let (digit1, rest) = div_digit(high, low >> 32, divisor)?;
    let (digit0, rest) = div_digit(rest, low & 0xffff_ffff, divisor)?;
    Some(((digit1 << 32) | digit0, rest.wrapping_shr(shift)))
}

/// Divides the 96 bits `high:next` by a normalized `divisor` above `high`; returns the digit of 32
/// bits that the quotient is, and the remainder.
fn div_digit(high: u64, next: u64, divisor: u64) -> Option<(u64, u64)> {
    let (top, bottom) = (divisor >> 32, divisor & 0xffff_ffff);
    let mut digit = high.checked_div(top)?;
    let mut rest = high.checked_rem(top)?;
    // CORRECTNESS: `rest < 2^32` holds where it is shifted, so nothing is lost.
    while digit >> 32 != 0 || digit.wrapping_mul(bottom) > ((rest << 32) | next) {
        digit = digit.wrapping_sub(1);
        rest = rest.wrapping_add(top);
        if rest >> 32 != 0 {
            break;
        }
    }
    let remainder = ((high << 32) | next).wrapping_sub(digit.wrapping_mul(divisor));
    Some((digit, remainder))
}

/// Returns the full product.
#[inline]
pub(crate) const fn mul(a: u64, b: u64) -> u128 {
    (a as u128).wrapping_mul(b as u128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quotient_beyond_64_bits_is_none() {
        assert_eq!(div_rem(1 << 64, 1), None);
        assert_eq!(div_rem(5, 0), None);
        assert_eq!(div_rem((1 << 64) - 1, 1), Some((u64::MAX, 0)));
        assert_eq!(div_rem(u128::MAX, u64::MAX), None);
    }

    /// Numbers near the digits' edges, where a guessed digit is wrong.
    fn edgy() -> impl Strategy<Value = u64> {
        let edge = prop_oneof![Just(0u64), Just(1), Just(0x7fff_ffff), Just(0x8000_0000)];
        let digit = prop_oneof![edge, 0xffff_fff0..=0xffff_ffffu64, 0..=0xffff_ffffu64];
        (digit.clone(), digit).prop_map(|(high, low)| high << 32 | low)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn division_agrees_with_the_compilers(high in edgy(), low in edgy(), divisor in edgy()) {
            let dividend = u128::from(high) << 64 | u128::from(low);
            let expected = match dividend.checked_div(divisor.into()) {
                Some(quotient) if quotient >> 64 == 0 => {
                    Some((quotient as u64, (dividend % u128::from(divisor)) as u64))
                }
                _ => None,
            };
            prop_assert_eq!(div_rem(dividend, divisor), expected);
        }
    }
}
