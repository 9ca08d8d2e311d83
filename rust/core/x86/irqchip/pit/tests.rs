// SPDX-License-Identifier: GPL-2.0

use super::*;

/// A moment with a fraction of a clock passed, so that whole clocks later are surely over.
const START: u64 = 5_000_000_000;
const CONTROL: u8 = 3;

/// Returns the moment when clock `clocks` after the start begins.
fn tick(clocks: u64) -> u64 {
    START + to_ns(clocks) + 1
}

/// Returns the moment `clocks` after the start, in the middle of a clock.
fn at(clocks: u64) -> u64 {
    START + to_ns(clocks) + 420
}

fn program(pit: &mut Pit, channel: u8, mode: u8, count: u16) -> Effects {
    let _ = pit.write(CONTROL, channel << 6 | 0x30 | mode << 1, START);
    let [low, high] = count.to_le_bytes();
    assert_eq!(pit.write(channel, low, START), Effects::None);
    pit.write(channel, high, START)
}

fn count(pit: &mut Pit, channel: u8, now_ns: u64) -> u16 {
    let _ = pit.write(CONTROL, channel << 6, now_ns);
    u16::from_le_bytes([0, 0].map(|_| pit.read(channel, now_ns).unwrap()))
}

fn status(pit: &mut Pit, channel: u8, now_ns: u64) -> u8 {
    let _ = pit.write(CONTROL, 0xe0 | 2 << channel, now_ns);
    pit.read(channel, now_ns).unwrap()
}

fn out(pit: &mut Pit, channel: u8, now_ns: u64) -> bool {
    status(pit, channel, now_ns) & 0x80 != 0
}

#[test]
fn a_rate_generator_raises_its_line_each_period() {
    let mut pit = Pit::new();
    assert_eq!(program(&mut pit, 0, 2, 11932), Effects::Restart);
    let period_ns = 11932 * 1_000_000_000 / 1_193_182;
    let expected = Alarm {
        delay_ns: period_ns,
        period_ns: Some(period_ns),
    };
    assert_eq!(pit.alarm(), Some(expected));
    let _ = program(&mut pit, 0, 3, 11932);
    assert_eq!(pit.alarm(), Some(expected));
}

#[test]
fn a_count_of_0_is_the_longest() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 2, 0);
    assert_eq!(pit.alarm().unwrap().delay_ns, 54_925_401);
    assert_eq!(count(&mut pit, 0, at(0)), 0);
    assert_eq!(count(&mut pit, 0, at(1)), 0xffff);
}

#[test]
fn short_periods_are_stretched() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 2, 1);
    assert_eq!(pit.alarm().unwrap().period_ns, Some(MIN_PERIOD_NS));
    let _ = program(&mut pit, 0, 0, 1);
    assert_eq!(pit.alarm().unwrap().delay_ns, 838);
}

#[test]
fn one_interrupt_comes_of_a_terminal_count() {
    for mode in [0, 4] {
        let mut pit = Pit::new();
        let _ = program(&mut pit, 0, mode, 1000);
        let expected = Alarm {
            delay_ns: 838_095,
            period_ns: None,
        };
        assert_eq!(pit.alarm(), Some(expected));
    }
}

#[test]
fn a_mode_without_a_count_stops_the_timer() {
    let mut pit = Pit::new();
    assert_eq!(pit.alarm(), None);
    let _ = program(&mut pit, 0, 2, 1000);
    assert_eq!(pit.write(CONTROL, 0x30, START), Effects::Restart);
    assert_eq!(pit.alarm(), None);
    assert_eq!(
        program(&mut pit, 2, 2, 1000),
        Effects::None,
        "another channel"
    );
}

#[test]
fn modes_that_need_a_gate_to_begin_raise_nothing_on_channel_0() {
    for mode in [1, 5] {
        let mut pit = Pit::new();
        let _ = program(&mut pit, 0, mode, 1000);
        assert_eq!(pit.alarm(), None);
        assert!(out(&mut pit, 0, at(2000)));
    }
}

#[test]
fn counters_count_down_as_their_mode_says() {
    let rows: [(u8, &[(u64, u16)]); 5] = [
        (0, &[(0, 1000), (1, 999), (1000, 0), (1001, 0xffff)]),
        (4, &[(0, 1000), (999, 1), (1001, 0xffff)]),
        (2, &[(0, 1000), (999, 1), (1000, 1000), (2001, 999)]),
        (
            3,
            &[
                (0, 1000),
                (1, 998),
                (499, 2),
                (500, 1000),
                (999, 2),
                (1000, 1000),
            ],
        ),
        (7, &[(1, 998)]), // 3, too.
    ];
    for (mode, points) in rows {
        let mut pit = Pit::new();
        let _ = program(&mut pit, 0, mode, 1000);
        for (clocks, expected) in points {
            assert_eq!(
                count(&mut pit, 0, at(*clocks)),
                *expected,
                "{mode} {clocks}"
            );
        }
    }
}

#[test]
fn out_is_as_the_mode_says() {
    let rows: [(u8, &[(u64, bool)]); 4] = [
        (0, &[(0, false), (9, false), (10, true), (99, true)]),
        (
            2,
            &[(0, true), (8, true), (9, false), (10, true), (19, false)],
        ),
        (
            3,
            &[(0, true), (4, true), (5, false), (9, false), (10, true)],
        ),
        (4, &[(0, true), (9, true), (10, false), (11, true)]),
    ];
    for (mode, points) in rows {
        let mut pit = Pit::new();
        let _ = program(&mut pit, 0, mode, 10);
        for (clocks, expected) in points {
            assert_eq!(out(&mut pit, 0, at(*clocks)), *expected, "{mode} {clocks}");
        }
    }
}

#[test]
fn an_odd_square_wave_is_high_for_longer() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 3, 5);
    let levels = [0, 1, 2, 3, 4, 5].map(|clocks| out(&mut pit, 0, at(clocks)));
    assert_eq!(levels, [true, true, true, false, false, true]);
    assert_eq!(
        [2, 3, 4].map(|clocks| count(&mut pit, 0, at(clocks))),
        [0, 4, 2]
    );
}

#[test]
fn decimal_counters_count_decimally() {
    let mut pit = Pit::new();
    let _ = pit.write(CONTROL, 0x31, START);
    for byte in [0x00, 0x10] {
        let _ = pit.write(0, byte, START);
    }
    assert_eq!(count(&mut pit, 0, at(1)), 0x0999);
    assert_eq!(count(&mut pit, 0, at(1001)), 0x9999);
    assert_eq!(pit.alarm().unwrap().delay_ns, 838_095);
    for byte in [0, 0] {
        let _ = pit.write(0, byte, START);
    }
    assert_eq!(count(&mut pit, 0, at(1)), 0x9999, "0 is 10000");
}

#[test]
fn bytes_are_written_and_read_as_the_control_word_says() {
    let mut pit = Pit::new();
    let _ = pit.write(CONTROL, 0x10, START);
    assert_eq!(pit.write(0, 0x34, START), Effects::Restart);
    assert_eq!(pit.read(0, at(1)), Some(0x33));
    assert_eq!(pit.read(0, at(2)), Some(0x32));
    let _ = pit.write(CONTROL, 0x20, START);
    assert_eq!(pit.write(0, 0x34, START), Effects::Restart);
    assert_eq!(pit.read(0, at(0)), Some(0x34));
    assert_eq!(pit.read(0, at(1)), Some(0x33));
    let _ = program(&mut pit, 0, 0, 0x1234);
    let bytes = [0, 0, 0].map(|_| pit.read(0, at(0)).unwrap());
    assert_eq!(bytes, [0x34, 0x12, 0x34]);
    assert_eq!(pit.read(CONTROL, at(0)), None);
}

#[test]
fn a_latched_count_stays_until_it_is_read() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 2, 0x1000);
    let _ = pit.write(CONTROL, 0x00, at(1));
    let _ = pit.write(CONTROL, 0x00, at(2));
    assert_eq!([0, 0].map(|_| pit.read(0, at(9)).unwrap()), [0xff, 0x0f]);
    assert_eq!(pit.read(0, at(0x10)), Some(0xf0));
}

#[test]
fn read_back_latches_status_before_count_of_several_channels() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 2, 0x1000);
    let _ = program(&mut pit, 1, 0, 0x2000);
    let _ = pit.write(CONTROL, 0xc6, at(1));
    let mut three = |channel| [0, 0, 0].map(|_| pit.read(channel, at(99)).unwrap());
    assert_eq!(three(0), [0xb4, 0xff, 0x0f]);
    assert_eq!(three(1), [0x30, 0xff, 0x1f]);
}

#[test]
fn status_tells_whether_a_count_is_missing() {
    let mut pit = Pit::new();
    let _ = pit.write(CONTROL, 0x34, START);
    assert_eq!(status(&mut pit, 0, at(0)), 0xf4);
    let _ = pit.write(0, 1, START);
    assert_eq!(status(&mut pit, 0, at(0)), 0xf4);
    let _ = pit.write(0, 1, START);
    assert_eq!(status(&mut pit, 0, at(0)), 0xb4);
}

#[test]
fn the_speaker_port_has_the_gate_and_out_of_channel_2() {
    let mut pit = Pit::new();
    pit.write_speaker(1, START);
    let _ = program(&mut pit, 2, 0, 1000);
    let masked = |pit: &Pit, clocks| pit.read_speaker(at(clocks)) & !0x10;
    assert_eq!(masked(&pit, 999), 0x01);
    assert_eq!(masked(&pit, 1000), 0x21);
    pit.write_speaker(2, tick(1000));
    assert_eq!(masked(&pit, 1000), 0x22);
    assert_eq!(pit.flags(), FLAG_SPEAKER_DATA_ON);
    pit.write_speaker(0, tick(1000));
    assert_eq!(pit.flags(), 0);
    let toggles = [0, 1 << 14].map(|now_ns| pit.read_speaker(now_ns) & 0x10);
    assert_eq!(toggles, [0, 0x10]);
}

#[test]
fn the_gate_stops_a_terminal_count_and_lets_it_go_on() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 2, 0, 1000);
    assert_eq!(
        count(&mut pit, 2, at(500)),
        1000,
        "its gate is low at first"
    );
    pit.write_speaker(1, tick(500));
    assert_eq!(count(&mut pit, 2, at(700)), 800);
    pit.write_speaker(0, at(700));
    assert_eq!(count(&mut pit, 2, at(900)), 800);
    pit.write_speaker(1, at(900));
    assert_eq!(count(&mut pit, 2, at(1000)), 700);
}

#[test]
fn the_gate_begins_one_shots_and_periods() {
    for (mode, level) in [(1, false), (5, true), (2, true), (3, true)] {
        let mut pit = Pit::new();
        let _ = program(&mut pit, 2, mode, 1000);
        assert!(out(&mut pit, 2, at(500)), "{mode}");
        pit.write_speaker(1, tick(500));
        assert_eq!(out(&mut pit, 2, at(600)), level, "{mode}");
        pit.write_speaker(0, tick(600));
        pit.write_speaker(1, tick(600));
        let expected = if mode == 3 { 800 } else { 900 };
        assert_eq!(
            count(&mut pit, 2, at(700)),
            expected,
            "{mode}: from the start"
        );
    }
}

#[test]
fn a_period_that_the_gate_stops_is_high() {
    for mode in [2, 3] {
        let mut pit = Pit::new();
        pit.write_speaker(1, START);
        let _ = program(&mut pit, 2, mode, 1000);
        pit.write_speaker(0, tick(999));
        assert!(out(&mut pit, 2, at(999)), "{mode}");
    }
}

#[test]
fn the_hpet_takes_line_0_over() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 2, 1000);
    let (states, _) = pit.save();
    pit.load(&states, FLAG_HPET_LEGACY, START);
    assert_eq!(pit.alarm(), None);
    pit.load(&states, 0, START);
    assert!(pit.alarm().is_some());
}

#[test]
fn state_has_the_layout_of_kvm_and_counts_anew() {
    let mut pit = Pit::new();
    let _ = program(&mut pit, 0, 2, 0x1234);
    let (states, flags) = pit.save();
    let bytes = states[0].to_bytes();
    assert_eq!(bytes[..4], [0x34, 0x12, 0, 0]);
    assert_eq!(bytes[9..16], [3, 3, 0x34, 3, 2, 0, 1]);
    assert_eq!(
        i64::from_le_bytes(bytes[16..].try_into().unwrap()),
        START as i64
    );
    assert_eq!(ChannelState::from_bytes(&bytes), states[0]);
    let pattern: [u8; CHANNEL_STATE_SIZE] = core::array::from_fn(|index| index as u8);
    assert_eq!(ChannelState::from_bytes(&pattern).to_bytes(), pattern);

    let mut other = Pit::new();
    other.load(&states, flags, at(500));
    assert_eq!(other.alarm(), pit.alarm());
    assert_eq!(count(&mut other, 0, at(500)), 0x1234);
}

#[test]
fn ticks_that_the_guest_missed_come_one_by_one() {
    let mut reinject = Reinject::default();
    assert_eq!(reinject.due(1), Tick::Now);
    assert_eq!(reinject.due(2), Tick::Later);
    assert_eq!(reinject.ended(), Tick::Now);
    assert_eq!(reinject.due(1), Tick::Later);
    assert_eq!(reinject.ended(), Tick::Now);
    assert_eq!(reinject.ended(), Tick::Now);
    assert_eq!(reinject.ended(), Tick::Later);
    assert_eq!(reinject.due(1), Tick::Now);
}

#[test]
fn missed_ticks_are_forgotten_with_the_program_and_lost_without_reinjection() {
    let mut reinject = Reinject::default();
    let _ = (reinject.due(1), reinject.due(5));
    reinject.reset();
    assert_eq!(reinject.due(1), Tick::Now);
    assert_eq!(reinject.ended(), Tick::Later);
    reinject.set(false);
    for _ in 0..3 {
        assert_eq!(reinject.due(1), Tick::Now);
    }
    assert_eq!(reinject.ended(), Tick::Later);
    reinject.set(true);
    assert_eq!(reinject.due(1), Tick::Now);
}

#[test]
fn no_state_and_no_write_panics() {
    let mut pit = Pit::new();
    let mut seed = 3u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_le_bytes()[3]
    };
    for _ in 0..50_000 {
        let now_ns = u64::from(next()) << (next() & 63);
        match next() % 4 {
            0 => {
                let mut state = || ChannelState::from_bytes(&core::array::from_fn(|_| next()));
                let states = [state(), state(), state()];
                pit.load(&states, next().into(), now_ns);
            }
            1 => {
                let _ = (
                    pit.read(next(), now_ns),
                    pit.read_speaker(now_ns),
                    pit.alarm(),
                );
            }
            2 => pit.write_speaker(next(), now_ns),
            _ => {
                let _ = pit.write(next(), next(), now_ns);
            }
        }
    }
}
