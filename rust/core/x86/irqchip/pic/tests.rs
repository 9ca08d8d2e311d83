// SPDX-License-Identifier: GPL-2.0

use super::*;

const MASTER: Port = Port::Command(Chip::Master);
const MASTER_DATA: Port = Port::Data(Chip::Master);
const SLAVE: Port = Port::Command(Chip::Slave);
const SLAVE_DATA: Port = Port::Data(Chip::Slave);

/// OCW2.
const EOI: u8 = 0x20;
const EOI_OF: u8 = 0x60;
const ROTATE_EOI: u8 = 0xa0;
const ROTATE_EOI_OF: u8 = 0xe0;
const SET_PRIORITY: u8 = 0xc0;
const ROTATE_IN_AEOI: u8 = 0x80;
/// OCW3.
const READ_IRR: u8 = 0x0a;
const READ_ISR: u8 = 0x0b;
const POLL: u8 = 0x0c;
const SPECIAL_MASK: u8 = 0x68;
const NO_SPECIAL_MASK: u8 = 0x48;

fn write(pic: &mut Pic, port: Port, value: u8) -> Effects {
    pic.write(port, value)
}

/// The initialization of a PC: vectors 0x20 and 0x28, with these ICW4s.
fn pc_with(icw4: [u8; 2]) -> Pic {
    let mut pic = Pic::new();
    let ports = [(MASTER, MASTER_DATA, 0x20, 4), (SLAVE, SLAVE_DATA, 0x28, 2)];
    for ((command, data, base, icw3), icw4) in ports.into_iter().zip(icw4) {
        for (port, value) in [(command, 0x11), (data, base), (data, icw3), (data, icw4)] {
            let _ = pic.write(port, value);
        }
    }
    pic
}

fn pc() -> Pic {
    pc_with([1, 1])
}

fn set(pic: &mut Pic, pin: u8, level: LineLevel) -> LineStatus {
    pic.set_line(pin, Source::Userspace, level)
}

fn pulse(pic: &mut Pic, pin: u8) -> LineStatus {
    let status = set(pic, pin, LineLevel::High);
    let _ = set(pic, pin, LineLevel::Low);
    status
}

fn take(pic: &mut Pic) -> Option<u8> {
    (pic.output() == LineLevel::High).then(|| pic.acknowledge().0)
}

#[test]
fn vectors_are_those_of_icw2_and_pins() {
    let mut pic = pc();
    pulse(&mut pic, 3);
    assert_eq!(take(&mut pic), Some(0x23));
    let _ = write(&mut pic, MASTER, EOI);
    pulse(&mut pic, 12);
    assert_eq!(take(&mut pic), Some(0x2c));
    assert_eq!(pic.save(Chip::Master).isr, 1 << CASCADE);
    assert_eq!(pic.save(Chip::Slave).isr, 1 << 4);
}

#[test]
fn a_pin_interrupts_once_for_each_edge() {
    let mut pic = pc();
    assert_eq!(set(&mut pic, 4, LineLevel::High), LineStatus::Delivered(1));
    assert_eq!(take(&mut pic), Some(0x24));
    let _ = write(&mut pic, MASTER, EOI);
    assert_eq!(set(&mut pic, 4, LineLevel::High), LineStatus::Delivered(1));
    assert_eq!(take(&mut pic), None, "no edge");
    let _ = set(&mut pic, 4, LineLevel::Low);
    let _ = set(&mut pic, 4, LineLevel::High);
    assert_eq!(take(&mut pic), Some(0x24));
}

#[test]
fn edges_before_the_first_is_taken_are_coalesced() {
    let mut pic = pc();
    assert_eq!(pulse(&mut pic, 4), LineStatus::Delivered(1));
    assert_eq!(pulse(&mut pic, 4), LineStatus::Coalesced);
    assert_eq!(take(&mut pic), Some(0x24));
    assert_eq!(pulse(&mut pic, 4), LineStatus::Delivered(1));
}

#[test]
fn a_level_pin_interrupts_until_it_is_low() {
    let mut pic = pc();
    let _ = write(&mut pic, Port::Elcr(Chip::Slave), 1 << 2);
    let _ = set(&mut pic, 10, LineLevel::High);
    for _ in 0..3 {
        assert_eq!(take(&mut pic), Some(0x2a));
        assert_eq!(take(&mut pic), None, "in service");
        let _ = write(&mut pic, SLAVE, EOI);
        let _ = write(&mut pic, MASTER, EOI);
    }
    let _ = set(&mut pic, 10, LineLevel::Low);
    assert_eq!(take(&mut pic), None);
}

#[test]
fn elcr_keeps_only_pins_that_can_be_level_triggered() {
    let mut pic = pc();
    for (chip, mask) in [(Chip::Master, 0xf8), (Chip::Slave, 0xde)] {
        let _ = write(&mut pic, Port::Elcr(chip), 0xff);
        assert_eq!(pic.read(Port::Elcr(chip)).0, mask);
    }
}

#[test]
fn masked_pins_are_ignored_and_wait() {
    let mut pic = pc();
    let _ = write(&mut pic, MASTER_DATA, 1 << 4);
    assert_eq!(pulse(&mut pic, 4), LineStatus::Ignored);
    assert_eq!(take(&mut pic), None);
    assert_eq!(pic.read(MASTER_DATA).0, 1 << 4);
    let effects = write(&mut pic, MASTER_DATA, 0);
    assert_eq!(effects.unmasked, 1 << 4);
    assert_eq!(take(&mut pic), Some(0x24));
}

#[test]
fn unmasking_on_the_slave_names_the_upper_pins() {
    let mut pic = pc();
    let _ = write(&mut pic, SLAVE_DATA, 0xff);
    assert_eq!(write(&mut pic, SLAVE_DATA, 0xfe).unmasked, 1 << 8);
}

#[test]
fn lower_pins_go_first_and_interrupt_higher_ones() {
    let mut pic = pc();
    pulse(&mut pic, 5);
    pulse(&mut pic, 3);
    assert_eq!(take(&mut pic), Some(0x23));
    assert_eq!(take(&mut pic), None, "5 is below what is in service");
    pulse(&mut pic, 1);
    assert_eq!(take(&mut pic), Some(0x21));
    let _ = write(&mut pic, MASTER, EOI);
    let _ = write(&mut pic, MASTER, EOI);
    assert_eq!(take(&mut pic), Some(0x25));
}

#[test]
fn end_of_interrupt_names_the_highest_in_service_or_the_given() {
    let mut pic = pc();
    pulse(&mut pic, 5);
    let _ = take(&mut pic);
    pulse(&mut pic, 1);
    let _ = take(&mut pic);
    assert_eq!(write(&mut pic, MASTER, EOI_OF | 5).ended, 1 << 5);
    assert_eq!(pic.save(Chip::Master).isr, 1 << 1);
    assert_eq!(write(&mut pic, MASTER, EOI).ended, 1 << 1);
    assert_eq!(write(&mut pic, MASTER, EOI).ended, 0, "none in service");
}

#[test]
fn rotation_puts_what_was_served_last() {
    let mut pic = pc();
    pulse(&mut pic, 3);
    let _ = take(&mut pic);
    let _ = write(&mut pic, MASTER, ROTATE_EOI);
    pulse(&mut pic, 3);
    pulse(&mut pic, 4);
    assert_eq!(take(&mut pic), Some(0x24));
    let _ = write(&mut pic, MASTER, ROTATE_EOI_OF | 4);
    assert_eq!(take(&mut pic), Some(0x23));
    let _ = write(&mut pic, MASTER, EOI);
    let _ = write(&mut pic, MASTER, SET_PRIORITY | 6);
    pulse(&mut pic, 0);
    pulse(&mut pic, 7);
    assert_eq!(
        take(&mut pic),
        Some(0x27),
        "6 is the lowest, so 7 is the highest"
    );
}

#[test]
fn automatic_end_of_interrupt_leaves_nothing_in_service_and_may_rotate() {
    let mut pic = pc_with([3, 3]);
    pulse(&mut pic, 3);
    let (vector, effects) = pic.acknowledge();
    assert_eq!((vector, effects.ended), (0x23, 1 << 3));
    assert_eq!(pic.save(Chip::Master).isr, 0);
    let _ = write(&mut pic, MASTER, ROTATE_IN_AEOI);
    pulse(&mut pic, 3);
    let _ = take(&mut pic);
    pulse(&mut pic, 3);
    pulse(&mut pic, 4);
    assert_eq!(take(&mut pic), Some(0x24));
}

#[test]
fn special_mask_mode_lets_lower_interrupts_through_a_masked_handler() {
    let mut pic = pc();
    pulse(&mut pic, 3);
    let _ = take(&mut pic);
    pulse(&mut pic, 5);
    assert_eq!(take(&mut pic), None);
    let _ = write(&mut pic, MASTER_DATA, 1 << 3);
    assert_eq!(take(&mut pic), None);
    let _ = write(&mut pic, MASTER, SPECIAL_MASK);
    assert_eq!(take(&mut pic), Some(0x25));
    assert_eq!(
        write(&mut pic, MASTER, EOI).ended,
        1 << 5,
        "not the masked one"
    );
    let _ = write(&mut pic, MASTER, NO_SPECIAL_MASK);
    assert_eq!(write(&mut pic, MASTER, EOI).ended, 1 << 3);
}

#[test]
fn the_slave_interrupts_itself_only_in_special_fully_nested_mode() {
    for (icw4, expected) in [(0x01, None), (0x11, Some(0x28))] {
        let mut pic = pc_with([icw4, 1]);
        pulse(&mut pic, 12);
        assert_eq!(take(&mut pic), Some(0x2c));
        pulse(&mut pic, 8);
        assert_eq!(take(&mut pic), expected);
    }
}

#[test]
fn what_the_slave_still_has_comes_after_the_ends_of_both() {
    let mut pic = pc();
    pulse(&mut pic, 8);
    pulse(&mut pic, 9);
    assert_eq!(take(&mut pic), Some(0x28));
    let _ = write(&mut pic, SLAVE, EOI);
    assert_eq!(take(&mut pic), None, "the master's pin 2 is in service");
    let _ = write(&mut pic, MASTER, EOI);
    assert_eq!(take(&mut pic), Some(0x29));
}

#[test]
fn an_interrupt_that_went_away_is_the_spurious_one() {
    let mut pic = pc();
    let _ = write(&mut pic, Port::Elcr(Chip::Master), 1 << 3);
    let _ = set(&mut pic, 3, LineLevel::High);
    let _ = set(&mut pic, 3, LineLevel::Low);
    assert_eq!(pic.output(), LineLevel::Low);
    assert_eq!(pic.acknowledge().0, 0x27);
    assert_eq!(pic.save(Chip::Master).isr, 0);
}

#[test]
fn a_read_without_effects_is_any_but_a_poll() {
    let mut pic = pc();
    pulse(&mut pic, 6);
    let _ = write(&mut pic, Port::Data(Chip::Master), 0x85);
    for port in [MASTER, Port::Data(Chip::Master), Port::Elcr(Chip::Master)] {
        assert_eq!(pic.peek(port), Some(pic.read(port).0), "{port:?}");
    }
    assert_eq!(pic.peek(Port::Data(Chip::Master)), Some(0x85));
    let _ = write(&mut pic, MASTER, POLL);
    assert_eq!(pic.peek(MASTER), None);
    assert_eq!(pic.peek(Port::Data(Chip::Master)), None);
    assert_eq!(pic.peek(Port::Elcr(Chip::Master)), Some(0));
    assert_eq!(pic.read(MASTER).0, 0x86);
    assert_eq!(pic.peek(Port::Data(Chip::Master)), Some(0x85));
}

#[test]
fn poll_acknowledges_by_reading() {
    let mut pic = pc();
    pulse(&mut pic, 6);
    let _ = write(&mut pic, MASTER, POLL);
    assert_eq!(pic.read(MASTER).0, 0x86);
    assert_eq!(pic.save(Chip::Master).isr, 1 << 6);
    assert_eq!(take(&mut pic), None);
    let _ = write(&mut pic, MASTER, EOI);
    let _ = write(&mut pic, MASTER, POLL);
    assert_eq!(pic.read(MASTER).0, 0x07);
    assert_eq!(
        pic.read(MASTER).0,
        0,
        "one read for each command: the IRR again"
    );
    pulse(&mut pic, 9);
    let _ = write(&mut pic, SLAVE, POLL);
    assert_eq!(pic.read(SLAVE_DATA).0, 0x81);
    assert_eq!(take(&mut pic), None, "the slave asks no more");
}

#[test]
fn irr_and_isr_read_as_selected() {
    let mut pic = pc();
    pulse(&mut pic, 1);
    let _ = take(&mut pic);
    pulse(&mut pic, 5);
    assert_eq!(pic.read(MASTER).0, 1 << 5);
    let _ = write(&mut pic, MASTER, READ_ISR);
    assert_eq!(pic.read(MASTER).0, 1 << 1);
    let _ = write(&mut pic, MASTER, READ_IRR);
    assert_eq!(pic.read(MASTER).0, 1 << 5);
}

#[test]
fn initialization_forgets_edges_and_masks() {
    let mut pic = pc_with([0x13, 1]);
    let _ = write(&mut pic, MASTER_DATA, 0xf0);
    pulse(&mut pic, 1);
    let effects = write(&mut pic, MASTER, 0x10);
    assert_eq!(effects.ended, 1 << 1);
    let state = pic.save(Chip::Master);
    assert_eq!((state.irr, state.imr, state.auto_eoi), (0, 0, 0));
    assert_eq!(state.special_fully_nested_mode, 0);
    let _ = write(&mut pic, MASTER_DATA, 0x47);
    let _ = write(&mut pic, MASTER_DATA, 4);
    let _ = write(&mut pic, MASTER_DATA, 0x55);
    assert_eq!(pic.read(MASTER_DATA).0, 0x55, "no ICW4: the third is OCW1");
    pulse(&mut pic, 1);
    assert_eq!(take(&mut pic), Some(0x41).filter(|_| 0x55 & 2 == 0));
}

#[test]
fn a_saved_state_goes_on_where_it_was() {
    let mut pic = pc();
    let _ = write(&mut pic, Port::Elcr(Chip::Slave), 1 << 3);
    let _ = set(&mut pic, 11, LineLevel::High);
    pulse(&mut pic, 4);
    let mut other = Pic::new();
    for chip in [Chip::Master, Chip::Slave] {
        let bytes = pic.save(chip).to_bytes();
        other.load(chip, PicState::from_bytes(&bytes));
        assert_eq!(other.save(chip), pic.save(chip));
    }
    assert_eq!(take(&mut other), Some(0x2b));
    let _ = write(&mut other, SLAVE, EOI);
    let _ = write(&mut other, MASTER, EOI);
    assert_eq!(take(&mut other), Some(0x2b), "still high");
}

#[test]
fn bytes_of_the_state_keep_their_order() {
    let bytes: [u8; PIC_STATE_SIZE] = core::array::from_fn(|index| index as u8);
    let state = PicState::from_bytes(&bytes);
    assert_eq!((state.isr, state.elcr, state.elcr_mask), (3, 14, 15));
    assert_eq!(state.to_bytes(), bytes);
}

#[test]
fn no_state_and_no_write_panics() {
    let mut pic = Pic::new();
    let mut seed = 1u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_le_bytes()[3]
    };
    for _ in 0..100_000 {
        let port = Port::at([0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][usize::from(next() % 6)]);
        match next() % 5 {
            0 => {
                let state = PicState::from_bytes(&core::array::from_fn(|_| next()));
                pic.load(
                    if next() & 1 == 0 {
                        Chip::Master
                    } else {
                        Chip::Slave
                    },
                    state,
                );
            }
            1 => {
                let _ = pic.acknowledge();
            }
            2 => {
                let _ = pic.read(port.unwrap());
            }
            3 => {
                let level = LineLevel::from_bit(next() & 1 != 0);
                let _ = set(&mut pic, next(), level);
            }
            _ => {
                let _ = pic.write(port.unwrap(), next());
            }
        }
    }
}
