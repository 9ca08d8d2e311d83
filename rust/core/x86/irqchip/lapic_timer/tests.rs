// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

/// A timer in `mode` with a divisor of 1 and no lower bound on periods.
fn timer(mode: TimerMode) -> Timer {
    let mut timer = Timer::new(BusCycle::default(), 0);
    let _ = timer.set_mode(mode);
    let _ = timer.set_divide(0b1011, &0);
    timer
}

fn at(deadline_ns: u64) -> TimerAction {
    TimerAction::ArmNs { deadline_ns }
}

#[test]
fn divide_configuration_has_eight_divisors() {
    let rows = [
        (0b0000, 2),
        (0b0001, 4),
        (0b0010, 8),
        (0b0011, 16),
        (0b1000, 32),
        (0b1001, 64),
        (0b1010, 128),
        (0b1011, 1),
        (0b0100, 2), // Bit 2 does not count.
    ];
    for (dcr, divisor) in rows {
        assert_eq!(1 << divide_shift(dcr), divisor, "{dcr:#06b}");
    }
}

#[test]
fn one_shot_counts_down_once() {
    let mut t = timer(TimerMode::OneShot);
    assert_eq!(t.set_initial(100, &1000), Some(at(1100)));
    assert_eq!(t.current(&1000), 100);
    assert_eq!(t.current(&1099), 1);
    assert_eq!(t.current(&1100), 0);
    assert_eq!(t.current(&5000), 0);
    assert_eq!(t.expire(1100, 0), Expiry::Expired);
    assert_eq!(t.expire(1200, 0), Expiry::Idle);
    assert_eq!(t.current(&1100), 0);
}

#[test]
fn initial_count_of_zero_stops() {
    let mut t = timer(TimerMode::Periodic);
    let _ = t.set_initial(100, &0);
    assert_eq!(t.set_initial(0, &10), Some(TimerAction::Cancel));
    assert_eq!(t.current(&20), 0);
    assert_eq!(t.expire(1000, 0), Expiry::Idle);
}

#[test]
fn host_timer_that_is_early_is_armed_again() {
    let mut t = timer(TimerMode::OneShot);
    let _ = t.set_initial(100, &0);
    assert_eq!(t.expire(99, 0), Expiry::Early(at(100)));
    assert_eq!(t.expire(100, 0), Expiry::Expired);
}

#[test]
fn periodic_timer_keeps_its_phase_when_late_and_skips_what_it_missed() {
    let mut t = timer(TimerMode::Periodic);
    assert_eq!(t.set_initial(100, &7), Some(at(107)));
    assert_eq!(t.expire(110, 0), Expiry::Restarted(at(207)));
    assert_eq!(t.current(&157), 50);
    // At the instant of expiry the count starts over, fired or not.
    assert_eq!(t.current(&207), 100);
    assert_eq!(t.current(&257), 50);
    assert_eq!(t.expire(999, 0), Expiry::Restarted(at(1007)));
}

#[test]
fn short_periods_are_stretched_but_one_shots_are_not() {
    let mut t = Timer::new(BusCycle::default(), 200_000);
    assert_eq!(t.set_initial(1, &0), Some(at(2)));
    assert_eq!(t.set_mode(TimerMode::Periodic), None);
    assert_eq!(t.set_initial(1, &0), Some(at(200_000)));
    assert_eq!(t.expire(200_000, 0), Expiry::Restarted(at(400_000)));
    assert_eq!(t.current(&200_001), 1);
}

#[test]
fn mode_change_between_one_shot_and_periodic_keeps_the_count() {
    let mut t = timer(TimerMode::OneShot);
    let _ = t.set_initial(100, &0);
    assert_eq!(t.set_mode(TimerMode::Periodic), None);
    assert_eq!(t.current(&60), 40);
    assert_eq!(t.expire(100, 0), Expiry::Restarted(at(200)));
    assert_eq!(t.set_mode(TimerMode::OneShot), None);
    assert_eq!(t.expire(200, 0), Expiry::Expired);
    // A finished count stays at zero.
    assert_eq!(t.set_mode(TimerMode::Periodic), None);
    assert_eq!(t.current(&250), 0);
}

#[test]
fn mode_change_to_or_from_tsc_deadline_stops_the_timer() {
    let mut t = timer(TimerMode::Periodic);
    let _ = t.set_initial(100, &0);
    assert_eq!(
        t.set_mode(TimerMode::TscDeadline),
        Some(TimerAction::Cancel)
    );
    assert_eq!(t.expire(1000, 0), Expiry::Idle);
    let _ = t.set_deadline(5);
    assert_eq!(t.set_mode(TimerMode::OneShot), Some(TimerAction::Cancel));
    assert_eq!(t.deadline(), 0);
}

#[test]
fn tsc_deadline_fires_once_and_then_reads_zero() {
    let mut t = timer(TimerMode::TscDeadline);
    assert_eq!(
        t.set_deadline(500),
        Some(TimerAction::ArmTsc { deadline_tsc: 500 })
    );
    assert_eq!(t.deadline(), 500);
    assert_eq!(
        t.expire(u64::MAX, 499),
        Expiry::Early(TimerAction::ArmTsc { deadline_tsc: 500 })
    );
    assert_eq!(t.expire(0, 500), Expiry::Expired);
    assert_eq!(t.deadline(), 0);
    let _ = t.set_deadline(900);
    assert_eq!(t.set_deadline(0), Some(TimerAction::Cancel));
}

#[test]
fn each_mode_ignores_the_registers_of_the_other() {
    let mut t = timer(TimerMode::TscDeadline);
    assert_eq!(t.set_initial(100, &0), None);
    assert_eq!(t.current(&0), 0);
    let mut t = timer(TimerMode::OneShot);
    assert_eq!(t.set_deadline(100), None);
    assert_eq!(t.deadline(), 0);
    let mut t = timer(TimerMode::Reserved);
    assert_eq!(t.set_initial(100, &0), Some(TimerAction::Cancel));
}

#[test]
fn divisor_change_rescales_what_is_left() {
    let mut t = timer(TimerMode::OneShot);
    let _ = t.set_initial(100, &0);
    assert_eq!(t.set_divide(0b0001, &60), Some(at(60 + 40 * 4)));
    assert_eq!(t.current(&60), 40);
    assert_eq!(t.set_divide(0b0001, &60), None);
    assert_eq!(timer(TimerMode::OneShot).set_divide(0, &0), None);
}

#[test]
fn bus_cycle_scales_ticks_and_refuses_zero_and_overflow() {
    let mut t = Timer::new(BusCycle::new(40).unwrap(), 0);
    let _ = t.set_divide(0b1011, &0);
    assert_eq!(t.set_initial(10, &0), Some(at(400)));
    assert_eq!(t.current(&1), 10);
    assert_eq!(t.current(&40), 9);
    assert_eq!(BusCycle::new(0), None);
    let max = u64::MAX / (128 * u64::from(u32::MAX));
    assert_eq!(BusCycle::new(max).map(BusCycle::ns), Some(max));
    assert_eq!(BusCycle::new(max + 1), None);
}

#[test]
fn restored_count_goes_on_where_it_was_saved() {
    let saved = SavedCounts {
        mode: TimerMode::Periodic,
        initial: 100,
        current: 30,
        divide: 0b1011,
    };
    let mut t = timer(TimerMode::OneShot);
    assert_eq!(t.restore(saved, &1000), at(1030));
    assert_eq!(t.expire(1030, 0), Expiry::Restarted(at(1130)));
    // Nothing left: a period starts over, a one-shot fires at once.
    assert_eq!(
        t.restore(
            SavedCounts {
                current: 0,
                ..saved
            },
            &1000
        ),
        at(1100)
    );
    let once = SavedCounts {
        mode: TimerMode::OneShot,
        ..saved
    };
    assert_eq!(
        t.restore(SavedCounts { current: 0, ..once }, &1000),
        at(1000)
    );
    // More than the initial count cannot be left.
    assert_eq!(
        t.restore(
            SavedCounts {
                current: 500,
                ..once
            },
            &1000
        ),
        at(1100)
    );
    assert_eq!(
        t.restore(SavedCounts { initial: 0, ..once }, &1000),
        TimerAction::Cancel
    );
}

#[test]
fn deadline_survives_a_restore_in_the_same_mode() {
    let saved = SavedCounts {
        mode: TimerMode::TscDeadline,
        initial: 0,
        current: 0,
        divide: 0,
    };
    let mut t = timer(TimerMode::TscDeadline);
    let _ = t.set_deadline(77);
    assert_eq!(
        t.restore(saved, &0),
        TimerAction::ArmTsc { deadline_tsc: 77 }
    );
    let mut t = timer(TimerMode::Periodic);
    let _ = t.set_initial(100, &0);
    assert_eq!(t.restore(saved, &0), TimerAction::Cancel);
}

proptest! {
    #[test]
    fn extremes_do_not_panic_and_the_count_never_exceeds_the_initial(
        cycle in any::<u64>(),
        min in any::<u64>(),
        dcr in any::<u32>(),
        dcr2 in any::<u32>(),
        initial in any::<u32>(),
        start in any::<u64>(),
        later in any::<u64>(),
        mode in 0..4u32,
    ) {
        let mut t = Timer::new(BusCycle::new(cycle).unwrap_or_default(), min);
        let _ = t.set_mode(TimerMode::from_bits(mode));
        let _ = t.set_divide(dcr, &start);
        let _ = t.set_initial(initial, &start);
        prop_assert!(t.current(&later) <= initial);
        let _ = t.set_divide(dcr2, &later);
        let _ = t.expire(later, later);
        prop_assert!(t.current(&later) <= initial);
    }

    #[test]
    fn count_is_the_ticks_that_are_left(
        initial in 1..u32::MAX,
        dcr in 0..16u32,
        start in 0..1u64 << 60,
        spent in 0..1u64 << 40,
    ) {
        let mut t = timer(TimerMode::OneShot);
        let _ = t.set_divide(dcr, &start);
        let _ = t.set_initial(initial, &start);
        let ticks_spent = spent >> divide_shift(dcr);
        let expected = u64::from(initial).saturating_sub(ticks_spent);
        prop_assert_eq!(u64::from(t.current(&(start + spent))), expected);
    }
}
