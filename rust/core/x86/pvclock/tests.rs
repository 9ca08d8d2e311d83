// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

#[test]
fn scale_has_the_most_bits_that_fit() {
    // 1 GHz: one nanosecond per tick.
    assert_eq!(
        TimeScale::of_tsc(1_000_000),
        Some(TimeScale {
            mul: 1 << 31,
            shift: 1
        })
    );
    // 2 GHz: half a nanosecond.
    assert_eq!(
        TimeScale::of_tsc(2_000_000),
        Some(TimeScale {
            mul: 1 << 31,
            shift: 0
        })
    );
    assert_eq!(
        TimeScale::of_tsc(4_000_000),
        Some(TimeScale {
            mul: 1 << 31,
            shift: -1
        })
    );
    let scale = TimeScale::of_tsc(2_893_299).unwrap();
    assert_eq!((scale.mul, scale.shift), (2_968_906_632, -1));
}

#[test]
fn scale_of_nothing_is_none() {
    assert_eq!(TimeScale::of_tsc(0), None);
    assert_eq!(TimeScale::new(0, 1), None);
    assert_eq!(TimeScale::new(1, 0), None);
    assert_eq!(
        TimeScale::new(u64::MAX, 1),
        Some(TimeScale {
            mul: u32::MAX,
            shift: 64
        })
    );
}

#[test]
fn shifts_beyond_the_width_give_zero() {
    for shift in [-128, -64, 64, 127] {
        assert_eq!(
            TimeScale {
                mul: u32::MAX,
                shift
            }
            .apply(u64::MAX),
            0,
            "{shift}"
        );
    }
}

#[test]
fn time_info_has_the_layout_of_the_abi() {
    let info = TimeInfo {
        tsc_timestamp: 0x1122_3344_5566_7788,
        system_time: 0x0102_0304_0506_0708,
        scale: TimeScale {
            mul: 0xaabb_ccdd,
            shift: -1,
        },
        flags: PVCLOCK_TSC_STABLE_BIT,
    };
    let expected = [
        0x05, 0, 0, 0, 0, 0, 0, 0, // version, pad0
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, // tsc_timestamp
        0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, // system_time
        0xdd, 0xcc, 0xbb, 0xaa, 0xff, 0x01, 0, 0, // mul, shift, flags, pad
    ];
    assert_eq!(info.to_bytes(5, 0), expected);
    assert_eq!(info.to_bytes(5, 0)[TIME_INFO_FLAGS], 1);
}

#[test]
fn guest_stopped_stays_until_the_guest_clears_it() {
    let info = TimeInfo::default();
    assert_eq!(
        info.to_bytes(0, 0xff)[TIME_INFO_FLAGS],
        PVCLOCK_GUEST_STOPPED
    );
    let stopped = TimeInfo {
        flags: PVCLOCK_GUEST_STOPPED,
        ..info
    };
    assert_eq!(
        stopped.to_bytes(0, 0)[TIME_INFO_FLAGS],
        PVCLOCK_GUEST_STOPPED
    );
}

#[test]
fn version_is_odd_during_an_update_and_new_after_it() {
    for (found, busy, done) in [(0, 1, 2), (2, 3, 4), (3, 5, 6), (u32::MAX - 1, u32::MAX, 0)] {
        assert_eq!(Version::after(found), Version { busy, done }, "{found}");
    }
    assert_eq!(Version::after(u32::MAX), Version { busy: 1, done: 2 });
}

#[test]
fn wall_clock_is_when_the_guest_clock_was_zero() {
    let clock = WallClock::new(0x1_0000_0005 * NSEC_PER_SEC + 30, NSEC_PER_SEC + 10);
    assert_eq!(
        clock,
        WallClock {
            sec: 0x1_0000_0004,
            nsec: 20
        }
    );
    assert_eq!(clock.to_bytes(6), [6, 0, 0, 0, 4, 0, 0, 0, 20, 0, 0, 0]);
    assert_eq!(clock.sec_hi(), 1);
}

#[test]
fn clock_follows_the_master_clock_and_says_what_is_valid() {
    let scale = TimeScale::of_tsc(2_000_000).unwrap();
    let master = MasterClock {
        host_tsc: 1000,
        base_ns: 5000,
    };
    let host = HostClocks {
        tsc: 3000,
        base_ns: 9999,
        realtime_ns: Some(77),
    };
    let data = get_clock(Some(&master), 10, scale, &host);
    let expected = ClockData {
        clock: 6010,
        flags: 0b1110,
        realtime: 77,
        host_tsc: 3000,
    };
    assert_eq!(data, expected);
    let unpaired = HostClocks {
        realtime_ns: None,
        ..host
    };
    let data = get_clock(Some(&master), 10, scale, &unpaired);
    assert_eq!(
        (data.clock, data.flags, data.realtime),
        (6010, KVM_CLOCK_TSC_STABLE, 0)
    );
    let data = get_clock(None, 10, scale, &host);
    assert_eq!(
        data,
        ClockData {
            clock: 10_009,
            ..ClockData::default()
        }
    );
}

#[test]
fn set_clock_counts_the_time_that_passed_but_never_goes_back() {
    let data = ClockData {
        clock: 1000,
        flags: KVM_CLOCK_REALTIME,
        realtime: 50,
        host_tsc: 0,
    };
    assert_eq!(set_clock(&data, 400, 80), Ok(630));
    assert_eq!(set_clock(&data, 400, 20), Ok(600));
    let plain = ClockData {
        flags: KVM_CLOCK_TSC_STABLE | KVM_CLOCK_HOST_TSC,
        ..data
    };
    assert_eq!(set_clock(&plain, 400, 80), Ok(600));
    assert_eq!(set_clock(&plain, 1001, 0), Ok(u64::MAX));
    for flag in [1, 1 << 4, 1 << 31] {
        assert_eq!(
            set_clock(
                &ClockData {
                    flags: flag,
                    ..data
                },
                0,
                0
            ),
            Err(UnknownFlags)
        );
    }
}

proptest! {
    #[test]
    fn scaled_ticks_are_right_to_31_bits(khz in 1..u32::MAX, ticks in 0..1u64 << 40) {
        let scale = TimeScale::of_tsc(khz).unwrap();
        prop_assert!(scale.mul >> 31 == 1);
        let exact = u128::from(ticks) * 1_000_000 / u128::from(khz);
        prop_assume!(exact < 1 << 62 && scale.shift < 20);
        let got = u128::from(scale.apply(ticks));
        // A negative shift loses whole ticks, `mul` one part in 2^31.
        let lost_ticks = 1u128 << (-scale.shift).max(0);
        let slack = (exact >> 31) + lost_ticks * 1_000_000 / u128::from(khz) + 2;
        prop_assert!(got <= exact && got + slack >= exact, "{} {}", got, exact);
    }

    #[test]
    fn no_input_panics(mul in any::<u32>(), shift in any::<i8>(), a in any::<u64>(), b in any::<u64>()) {
        let scale = TimeScale { mul, shift };
        let info = TimeInfo { tsc_timestamp: a, system_time: b, scale, flags: 0xff };
        let _ = info.at(b);
        let _ = TimeScale::new(a, b);
        let _ = WallClock::new(a, b);
    }
}
