// SPDX-License-Identifier: GPL-2.0

use super::*;

/// Local APICs that take what they are told to, and write down what came.
#[derive(Default)]
struct Apics {
    sent: Vec<Message>,
    takers: Vec<u32>,
}

impl Bus for Apics {
    fn send(&mut self, message: &Message, to: &mut dyn FnMut(u32)) -> LineStatus {
        self.sent.push(*message);
        self.takers.iter().for_each(|apic| to(*apic));
        match self.takers.len() {
            0 => LineStatus::Ignored,
            n => LineStatus::Delivered(n as u32),
        }
    }
}

struct Machine {
    ioapic: Ioapic,
    apics: Apics,
}

impl Machine {
    fn new() -> Self {
        let apics = Apics {
            takers: vec![0],
            ..Apics::default()
        };
        Self {
            ioapic: Ioapic::new(),
            apics,
        }
    }

    fn with(pin: u8, entry: Entry) -> Self {
        let mut machine = Self::new();
        machine.program(pin, entry);
        machine
    }

    fn write(&mut self, index: u8, value: u32) -> Effects {
        let _ = self.ioapic.write(0, index.into());
        self.ioapic.write(0x10, value)
    }

    fn read(&mut self, index: u8) -> u32 {
        let _ = self.ioapic.write(0, index.into());
        self.ioapic.read(0x10)
    }

    fn program(&mut self, pin: u8, entry: Entry) -> Effects {
        let [low, high] = halves(entry.0);
        let _ = self.write(0x11 + 2 * pin, high);
        self.write(0x10 + 2 * pin, low)
    }

    fn set(&mut self, pin: u8, level: LineLevel) -> LineStatus {
        self.ioapic
            .set_line(pin, Source::Userspace, level, Tracking::On, &mut self.apics)
    }

    fn high(&mut self, pin: u8) -> LineStatus {
        self.set(pin, LineLevel::High)
    }

    fn low(&mut self, pin: u8) {
        assert_eq!(self.set(pin, LineLevel::Low), LineStatus::Delivered(1));
    }

    fn end(&mut self, vector: u8) -> u32 {
        self.ioapic.end(vector, &mut self.apics)
    }

    fn vectors(&self) -> Vec<u8> {
        self.apics.sent.iter().map(|m| m.vector).collect()
    }
}

fn edge(vector: u8) -> Entry {
    Entry(0).with_vector(vector)
}

fn level(vector: u8) -> Entry {
    edge(vector).with_level(true)
}

#[test]
fn registers_are_an_82093aa_with_24_pins() {
    let mut machine = Machine::new();
    assert_eq!(machine.read(1), 0x0017_0011);
    let _ = machine.write(1, 0);
    assert_eq!(machine.read(1), 0x0017_0011);
    let _ = machine.write(0, 0xff00_0000);
    assert_eq!(
        (machine.read(0), machine.read(2)),
        (0x0f00_0000, 0x0f00_0000)
    );
    for pin in 0..NR_PINS {
        assert_eq!(machine.read(0x10 + 2 * pin), 0x1_0000, "masked");
    }
    assert_eq!(machine.read(0x40), u32::MAX, "no such pin");
    assert_eq!(machine.write(0x40, 0), Effects::default());
    assert_eq!(machine.ioapic.read(0), 0x40);
    assert_eq!(machine.ioapic.read(0x20), 0);
}

#[test]
fn registers_are_at_the_base() {
    let ioapic = Ioapic::new();
    assert_eq!(ioapic.offset(0xfec0_0010), Some(0x10));
    assert_eq!(ioapic.offset(0xfec0_00ff), Some(0xff));
    assert_eq!(ioapic.offset(0xfec0_0100), None);
    assert_eq!(ioapic.offset(0xfebf_ffff), None);
}

#[test]
fn an_entry_is_the_message_it_says() {
    let entry = level(0x51)
        .with_delivery(1)
        .with_logical(true)
        .with_dest(0x81);
    let mut machine = Machine::with(5, entry);
    assert_eq!(machine.high(5), LineStatus::Delivered(1));
    let expected = Message {
        vector: 0x51,
        delivery: DeliveryMode::LowestPriority,
        dest: 0x81,
        dest_mode: DestMode::Logical,
        trigger: TriggerMode::Level,
        ..Message::default()
    };
    assert_eq!(machine.apics.sent, [expected]);
}

#[test]
fn an_edge_sends_one_message() {
    let mut machine = Machine::with(4, edge(0x41));
    assert_eq!(machine.high(4), LineStatus::Delivered(1));
    assert_eq!(machine.high(4), LineStatus::Coalesced, "no edge");
    machine.low(4);
    assert_eq!(machine.high(4), LineStatus::Delivered(1));
    assert_eq!(machine.vectors(), [0x41, 0x41]);
}

#[test]
fn a_masked_edge_is_lost() {
    let mut machine = Machine::with(4, edge(0x41).with_masked(true));
    assert_eq!(machine.high(4), LineStatus::Ignored);
    machine.low(4);
    let effects = machine.program(4, edge(0x41));
    assert_eq!((effects.unmasked, effects.resumable), (Some(4), None));
    assert!(machine.vectors().is_empty());
}

#[test]
fn a_level_waits_for_the_eoi_and_comes_again_while_it_is_high() {
    let mut machine = Machine::with(9, level(0x91));
    assert_eq!(machine.high(9), LineStatus::Delivered(1));
    assert_eq!(machine.high(9), LineStatus::Ignored, "remote IRR");
    assert_eq!(machine.read(0x10 + 18) & 1 << 14, 1 << 14);
    assert_eq!(machine.end(0x92), 0, "another vector");
    assert_eq!(machine.end(0x91), 1 << 9);
    assert_eq!(machine.vectors(), [0x91, 0x91]);
    machine.low(9);
    assert_eq!(machine.end(0x91), 0);
    assert_eq!(machine.vectors(), [0x91, 0x91]);
    assert_eq!(machine.read(0x10 + 18) & 1 << 14, 0);
}

#[test]
fn a_level_is_high_while_any_source_is() {
    let mut machine = Machine::with(9, level(0x91));
    let _ = machine.high(9);
    let from_resampler = |machine: &mut Machine, level| {
        let apics = &mut machine.apics;
        let tracking = Tracking::Off;
        machine
            .ioapic
            .set_line(9, Source::Resampler, level, tracking, apics)
    };
    let _ = from_resampler(&mut machine, LineLevel::High);
    let _ = machine.set(9, LineLevel::Low);
    assert_eq!(machine.end(0x91), 1 << 9);
    let _ = from_resampler(&mut machine, LineLevel::Low);
    assert_eq!(machine.end(0x91), 0);
}

#[test]
fn pins_that_share_a_vector_end_together() {
    let mut machine = Machine::with(10, level(0xa1));
    machine.program(11, level(0xa1));
    machine.program(12, edge(0xa1));
    let _ = (machine.high(10), machine.high(11));
    assert_eq!(machine.ioapic.pins_of(0xa1), 0x1c00);
    assert_eq!(machine.end(0xa1), 0xc00);
}

#[test]
fn a_masked_level_goes_on_when_it_is_unmasked() {
    let mut machine = Machine::with(9, level(0x91).with_masked(true));
    assert_eq!(machine.high(9), LineStatus::Ignored);
    let effects = machine.program(9, level(0x91));
    assert_eq!((effects.unmasked, effects.resumable), (Some(9), Some(9)));
    machine.ioapic.resume(9, &mut machine.apics);
    assert_eq!(machine.vectors(), [0x91]);
    assert_eq!(
        machine.program(9, level(0x91)).resumable,
        None,
        "remote IRR"
    );
}

#[test]
fn a_level_that_the_resampler_looks_after_is_forgotten() {
    let mut machine = Machine::with(9, level(0x91).with_masked(true));
    let _ = machine.high(9);
    let _ = machine.program(9, level(0x91));
    machine.ioapic.forget(9);
    machine.ioapic.resume(9, &mut machine.apics);
    assert!(machine.vectors().is_empty());
    assert_eq!(machine.high(9), LineStatus::Delivered(1));
}

#[test]
fn a_level_that_was_masked_meanwhile_is_not_served_at_its_end() {
    let mut machine = Machine::with(9, level(0x91));
    let _ = machine.high(9);
    machine.program(9, level(0x91).with_masked(true));
    assert_eq!(machine.end(0x91), 0);
    assert_eq!(machine.program(9, level(0x91)).resumable, Some(9));
}

#[test]
fn the_guest_cannot_write_what_is_read_only_but_edge_mode_clears_remote_irr() {
    let mut machine = Machine::with(9, level(0x91).with_remote_irr(true).with_sending(true));
    assert_eq!(machine.read(0x10 + 18), 0x8091);
    let _ = machine.high(9);
    machine.program(9, level(0x91));
    assert_eq!(machine.read(0x10 + 18), 0xc091);
    machine.program(9, edge(0x91));
    machine.program(9, level(0x91).with_masked(true));
    assert_eq!(machine.read(0x10 + 18), 0x1_8091);
}

#[test]
fn a_message_that_nobody_takes_leaves_no_remote_irr() {
    let mut machine = Machine::with(9, level(0x91));
    machine.apics.takers.clear();
    assert_eq!(machine.high(9), LineStatus::Ignored);
    machine.apics.takers.push(0);
    assert_eq!(machine.high(9), LineStatus::Delivered(1));
}

#[test]
fn a_tick_of_the_clock_is_coalesced_until_all_have_ended_the_last() {
    let mut machine = Machine::with(8, edge(0x81));
    machine.apics.takers = vec![0, 70];
    let tick = |machine: &mut Machine| {
        let status = machine.high(8);
        machine.low(8);
        status
    };
    assert_eq!(tick(&mut machine), LineStatus::Delivered(2));
    assert_eq!(tick(&mut machine), LineStatus::Coalesced);
    machine.ioapic.clock_ended(0, Some(0x81));
    machine.ioapic.clock_ended(70, Some(0x82));
    assert_eq!(tick(&mut machine), LineStatus::Coalesced);
    machine.ioapic.clock_ended(70, Some(0x81));
    assert_eq!(tick(&mut machine), LineStatus::Delivered(2));
    machine.ioapic.clock_ended(0, None);
    machine.ioapic.clock_ended(70, None);
    assert_eq!(
        tick(&mut machine),
        LineStatus::Delivered(2),
        "both were reset"
    );
}

#[test]
fn ticks_of_the_clock_are_not_tracked_for_who_does_not_ask() {
    let mut machine = Machine::with(8, edge(0x81));
    for _ in 0..2 {
        for level in [LineLevel::High, LineLevel::Low] {
            let bus = &mut machine.apics;
            let status = machine
                .ioapic
                .set_line(8, Source::Userspace, level, Tracking::Off, bus);
            assert_eq!(status, LineStatus::Delivered(1));
        }
    }
}

#[test]
fn lines_beyond_the_last_pin_are_ignored() {
    let mut machine = Machine::new();
    assert_eq!(machine.high(24), LineStatus::Ignored);
    assert_eq!(machine.high(255), LineStatus::Ignored);
}

#[test]
fn state_has_the_layout_of_kvm_and_goes_on() {
    let mut machine = Machine::with(9, level(0x91));
    machine.program(23, level(0xf1).with_dest(3).with_masked(true));
    machine.program(4, edge(0x41));
    let _ = machine.write(0, 0x0500_0000);
    let _ = (machine.high(9), machine.high(23), machine.high(4));
    let bytes = machine.ioapic.save();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(word(0), 0xfec0_0000);
    assert_eq!(word(8), 5 << 32, "index 0 selected, id 5");
    assert_eq!(word(16), 1 << 9 | 1 << 23, "a sent edge is not saved");
    assert_eq!(word(24 + 8 * 9), 0xc091);
    assert_eq!(word(24 + 8 * 23), 3 << 56 | 0x1_80f1);

    let mut other = Machine::new();
    other.ioapic.load(&bytes, &mut other.apics);
    assert_eq!(other.ioapic.save(), bytes);
    assert!(
        other.vectors().is_empty(),
        "9 has its remote IRR, 23 is masked"
    );
    assert_eq!(other.end(0x91), 1 << 9);
    assert_eq!(other.program(23, level(0xf1)).resumable, Some(23));
    assert!(other.ioapic.vectors().contains(0xf1));
}

#[test]
fn loading_sends_what_waits() {
    let mut bytes = Machine::with(9, level(0x91)).ioapic.save();
    bytes[17] = 2;
    let mut machine = Machine::new();
    machine.ioapic.load(&bytes, &mut machine.apics);
    assert_eq!(machine.vectors(), [0x91]);
    assert_eq!(machine.read(0x10 + 18), 0xc091);
}

#[test]
fn no_state_and_no_write_panics() {
    let mut machine = Machine::new();
    let mut seed = 7u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_le_bytes()[3]
    };
    for _ in 0..20_000 {
        match next() % 6 {
            0 => {
                let bytes = core::array::from_fn(|_| next());
                machine.ioapic.load(&bytes, &mut machine.apics);
            }
            1 => {
                let _ = machine.end(next());
            }
            2 => {
                let _ = machine.read(next());
            }
            3 => {
                let _ = machine.set(next(), LineLevel::from_bit(next() & 1 != 0));
            }
            4 => machine.ioapic.clock_ended(u32::from(next()) << 5, None),
            _ => {
                let _ = machine.write(next(), u32::from(next()) << (next() & 31));
            }
        }
        machine.apics.sent.clear();
    }
}
