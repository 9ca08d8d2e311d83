// SPDX-License-Identifier: GPL-2.0

//! The VMX-preemption timer of L1, as a deadline in its TSC.
//!
//! The timer counts down whenever bit `rate` of the TSC toggles, so ticks end where the TSC is a
//! multiple of 2^rate. SDM 3C "VMX-Preemption Timer", 26.5.1.

/// Returns the TSC of L1 at which a timer of `value` ticks that starts at `tsc` expires. A value of
/// 0 has expired before L2's first instruction.
pub fn deadline(value: u32, tsc: u64, rate: u8) -> u64 {
    let rate = u32::from(rate & 0x1f);
    (tsc >> rate).wrapping_add(u64::from(value)) << rate
}

/// Returns whether a timer has expired at `tsc`.
pub fn has_expired(deadline: u64, tsc: u64) -> bool {
    tsc >= deadline
}

/// Returns the ticks left at `tsc`, for "save VMX-preemption timer value": 0 if it has expired.
pub fn remaining(deadline: u64, tsc: u64, rate: u8) -> u32 {
    let rate = u32::from(rate & 0x1f);
    let ticks = (deadline >> rate).saturating_sub(tsc >> rate);
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_end_at_multiples_of_the_rate() {
        assert_eq!(deadline(1, 31, 5), 32);
        assert_eq!(deadline(1, 32, 5), 64);
        assert_eq!(deadline(10, 100, 0), 110);
    }

    #[test]
    fn value_0_has_expired_at_once() {
        for tsc in [0, 31, 32, 1000] {
            assert!(has_expired(deadline(0, tsc, 5), tsc));
        }
        assert!(!has_expired(deadline(1, 31, 5), 31));
    }

    #[test]
    fn what_is_left_restarts_at_the_same_deadline() {
        let end = deadline(1000, 77, 5);
        for tsc in [78, 500, 20_000] {
            assert_eq!(deadline(remaining(end, tsc, 5), tsc, 5), end);
        }
        assert_eq!(remaining(end, end, 5), 0);
        assert_eq!(remaining(end, u64::MAX, 5), 0);
        assert_eq!(remaining(u64::MAX, 0, 5), u32::MAX);
    }
}
