// SPDX-License-Identifier: GPL-2.0

//! The pair of 8259A interrupt controllers of a PC, with the edge/level registers of its chipset.
//!
//! Sources: Intel "8259A Programmable Interrupt Controller" (231468), "82371AB PCI-to-ISA / IDE
//! Xcelerator" for the ELCR. Modes that a PC cannot use are not there: single and MCS-80 mode,
//! buffered mode, and the level mode of ICW1, which the ELCR replaces.
//!
//! A controller is kept as `struct kvm_pic_state` has it, so that what is saved is what was there.

use super::line::{Line, LineLevel, LineStatus, Source};

/// The number of pins of both controllers.
pub const NR_PINS: u8 = 16;
/// The size of `struct kvm_pic_state`, in bytes.
pub const PIC_STATE_SIZE: usize = 16;

/// The pin of the master that the slave drives.
const CASCADE: u8 = 2;
/// The interrupt that is reported where there is none any more.
const SPURIOUS: u8 = 7;

/// Which controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Chip {
    /// The one that the processor sees.
    Master,
    /// The one at pin 2 of the master.
    Slave,
}

/// A register in I/O space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Port {
    /// A0 = 0: ICW1, OCW2, OCW3; IRR and ISR.
    Command(Chip),
    /// A0 = 1: ICW2 to ICW4, OCW1; IMR.
    Data(Chip),
    /// The edge/level control register.
    Elcr(Chip),
}

impl Port {
    /// Returns the register at I/O address `port`.
    pub fn at(port: u64) -> Option<Self> {
        Some(match port {
            0x20 => Port::Command(Chip::Master),
            0x21 => Port::Data(Chip::Master),
            0xa0 => Port::Command(Chip::Slave),
            0xa1 => Port::Data(Chip::Slave),
            0x4d0 => Port::Elcr(Chip::Master),
            0x4d1 => Port::Elcr(Chip::Slave),
            _ => return None,
        })
    }

    /// Returns whose register it is.
    const fn chip(self) -> Chip {
        let (Self::Command(chip) | Self::Data(chip) | Self::Elcr(chip)) = self;
        chip
    }
}

/// `struct kvm_pic_state`: one controller. Any bytes are a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PicState {
    /// The levels that the pins had last, for the detection of edges.
    pub last_irr: u8,
    /// Interrupt request register.
    pub irr: u8,
    /// Interrupt mask register.
    pub imr: u8,
    /// In-service register.
    pub isr: u8,
    /// The pin of highest priority.
    pub priority_add: u8,
    /// The vector of pin 0.
    pub irq_base: u8,
    /// Whether the command register reads as the ISR.
    pub read_reg_select: u8,
    /// Whether the next read is a poll.
    pub poll: u8,
    /// Special mask mode.
    pub special_mask: u8,
    /// How many of ICW2 to ICW4 are to come: 0 none, else the next is ICW `init_state + 1`.
    pub init_state: u8,
    /// Automatic end of interrupt.
    pub auto_eoi: u8,
    /// Rotation at an automatic end.
    pub rotate_on_auto_eoi: u8,
    /// Special fully nested mode.
    pub special_fully_nested_mode: u8,
    /// Whether ICW4 comes.
    pub init4: u8,
    /// Which pins are level-triggered.
    pub elcr: u8,
    /// Which pins can be.
    pub elcr_mask: u8,
}

impl PicState {
    /// Reads the bytes of the structure.
    pub fn from_bytes(bytes: &[u8; PIC_STATE_SIZE]) -> Self {
        let &[last_irr, irr, imr, isr, priority_add, irq_base, read_reg_select, poll, special_mask, init_state, auto_eoi, rotate_on_auto_eoi, special_fully_nested_mode, init4, elcr, elcr_mask] =
            bytes;
        Self {
            last_irr,
            irr,
            imr,
            isr,
            priority_add,
            irq_base,
            read_reg_select,
            poll,
            special_mask,
            init_state,
            auto_eoi,
            rotate_on_auto_eoi,
            special_fully_nested_mode,
            init4,
            elcr,
            elcr_mask,
        }
    }

    /// Returns the bytes of the structure.
    pub fn to_bytes(&self) -> [u8; PIC_STATE_SIZE] {
        [
            self.last_irr,
            self.irr,
            self.imr,
            self.isr,
            self.priority_add,
            self.irq_base,
            self.read_reg_select,
            self.poll,
            self.special_mask,
            self.init_state,
            self.auto_eoi,
            self.rotate_on_auto_eoi,
            self.special_fully_nested_mode,
            self.init4,
            self.elcr,
            self.elcr_mask,
        ]
    }

    /// Returns the pin of highest priority among `pins`.
    fn first_of(&self, pins: u8) -> Option<u8> {
        self.rank_of(pins)
            .map(|rank| rank.wrapping_add(self.priority_add) & 7)
    }

    /// Returns the highest priority among `pins`: 0 is the highest.
    fn rank_of(&self, pins: u8) -> Option<u8> {
        let ranked = pins.rotate_right(u32::from(self.priority_add & 7));
        (0..8).find(|rank| ranked & bit_of(*rank) != 0)
    }

    /// Returns the pin whose interrupt waits and is above all in service.
    ///
    /// 8259A: "Fully Nested Mode", "Special Fully Nested Mode", "Special Mask Mode".
    fn requested(&self, chip: Chip) -> Option<u8> {
        let waiting = self.rank_of(self.irr & !self.imr)?;
        let mut in_service = self.isr;
        if self.special_mask != 0 {
            in_service &= !self.imr;
        }
        if self.special_fully_nested_mode != 0 && chip == Chip::Master {
            in_service &= !(1 << CASCADE);
        }
        let is_above = self.rank_of(in_service).is_none_or(|rank| waiting < rank);
        is_above.then(|| waiting.wrapping_add(self.priority_add) & 7)
    }

    /// Sets the level of a pin.
    fn set_pin(&mut self, pin: u8, level: LineLevel) -> LineStatus {
        let bit = bit_of(pin);
        let was_waiting = self.irr & bit != 0;
        let is_level = self.elcr & bit != 0;
        let mut status = LineStatus::Delivered(1);
        match level {
            LineLevel::High => {
                let is_edge = self.last_irr & bit == 0;
                if is_level || is_edge {
                    self.irr |= bit;
                    if was_waiting {
                        status = LineStatus::Coalesced;
                    }
                }
                self.last_irr |= bit;
            }
            LineLevel::Low => {
                if is_level {
                    self.irr &= !bit;
                }
                self.last_irr &= !bit;
            }
        }
        if self.imr & bit != 0 {
            LineStatus::Ignored
        } else {
            status
        }
    }

    /// Takes a waiting interrupt into service. Returns the pins whose interrupt has ended by that.
    fn acknowledge(&mut self, pin: u8) -> u8 {
        let bit = bit_of(pin);
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if self.auto_eoi == 0 {
            self.isr |= bit;
            return 0;
        }
        if self.rotate_on_auto_eoi != 0 {
            self.rotate_below(pin);
        }
        bit
    }

    fn rotate_below(&mut self, pin: u8) {
        self.priority_add = pin.wrapping_add(1) & 7;
    }

    /// Ends the interrupt of `pin`. Returns the pins whose interrupt has ended.
    fn end(&mut self, pin: u8) -> u8 {
        self.isr &= !bit_of(pin);
        bit_of(pin)
    }

    /// Returns the pin that a non-specific end of interrupt means: in special mask mode, masked
    /// ones are not meant.
    fn in_service(&self) -> Option<u8> {
        let mut pins = self.isr;
        if self.special_mask != 0 {
            pins &= !self.imr;
        }
        self.first_of(pins)
    }

    /// ICW1. 8259A: "Initialization Command Words 1 and 2". Returns the pins whose interrupts are
    /// void now.
    fn initialize(&mut self, icw1: u8) -> u8 {
        let void = (self.irr & !self.elcr) | self.isr;
        self.irr &= self.elcr;
        self.last_irr = 0;
        self.isr = 0;
        self.imr = 0;
        self.priority_add = 0;
        self.special_mask = 0;
        self.read_reg_select = 0;
        self.poll = 0;
        self.init4 = icw1 & 1;
        if self.init4 == 0 {
            self.special_fully_nested_mode = 0;
            self.auto_eoi = 0;
        }
        self.init_state = 1;
        void
    }

    /// OCW2. 8259A: "Operation Command Word 2". Returns the pins whose interrupt has ended.
    fn ocw2(&mut self, value: u8) -> u8 {
        let pin = value & 7;
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = 0,
            4 => self.rotate_on_auto_eoi = 1,
            1 => return self.in_service().map_or(0, |pin| self.end(pin)),
            5 => {
                if let Some(pin) = self.in_service() {
                    self.rotate_below(pin);
                    return self.end(pin);
                }
            }
            3 => return self.end(pin),
            6 => self.rotate_below(pin),
            7 => {
                self.rotate_below(pin);
                return self.end(pin);
            }
            _ => {}
        }
        0
    }

    /// OCW3. 8259A: "Operation Command Word 3".
    fn ocw3(&mut self, value: u8) {
        if value & 0x04 != 0 {
            self.poll = 1;
        }
        if value & 0x02 != 0 {
            self.read_reg_select = value & 1;
        }
        if value & 0x40 != 0 {
            self.special_mask = (value >> 5) & 1;
        }
    }

    /// OCW1, or the next of ICW2 to ICW4.
    fn write_data(&mut self, value: u8) {
        match self.init_state {
            1 => {
                self.irq_base = value & 0xf8;
                self.init_state = 2;
            }
            2 => self.init_state = if self.init4 != 0 { 3 } else { 0 },
            3 => {
                self.special_fully_nested_mode = (value >> 4) & 1;
                self.auto_eoi = (value >> 1) & 1;
                self.init_state = 0;
            }
            _ => self.imr = value,
        }
    }
}

const fn bit_of(pin: u8) -> u8 {
    1 << (pin & 7)
}

/// What is to be done after an access: sets of the 16 pins, the master's in the low byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Effects {
    /// The guest has ended these interrupts: who drives the lines may want to know.
    pub ended: u16,
    /// These were masked, and are not any more.
    pub unmasked: u16,
}

impl Effects {
    fn of(chip: Chip, ended: u8) -> Self {
        Self {
            ended: to_pins(chip, ended),
            unmasked: 0,
        }
    }
}

fn to_pins(chip: Chip, pins: u8) -> u16 {
    match chip {
        Chip::Master => u16::from(pins),
        Chip::Slave => u16::from(pins) << 8,
    }
}

/// Both controllers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pic {
    master: PicState,
    slave: PicState,
    lines: [Line; NR_PINS as usize],
    output: LineLevel,
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

impl Pic {
    /// Makes both in the state after power-up: nothing is masked, as nothing is programmed.
    pub fn new() -> Self {
        let chip = |elcr_mask| PicState {
            elcr_mask,
            ..PicState::default()
        };
        Self {
            // The timer, the keyboard, the cascade, the clock and the coprocessor are wired as edges.
            master: chip(0xf8),
            slave: chip(0xde),
            lines: [Line::default(); NR_PINS as usize],
            output: LineLevel::Low,
        }
    }

    /// Returns the level of INTR, the pin to the processor.
    #[inline]
    pub fn output(&self) -> LineLevel {
        self.output
    }

    fn chip(&self, chip: Chip) -> &PicState {
        match chip {
            Chip::Master => &self.master,
            Chip::Slave => &self.slave,
        }
    }

    fn chip_mut(&mut self, chip: Chip) -> &mut PicState {
        match chip {
            Chip::Master => &mut self.master,
            Chip::Slave => &mut self.slave,
        }
    }

    /// Brings the cascade and INTR up to date.
    fn update(&mut self) {
        let cascade = 1 << CASCADE;
        match self.slave.requested(Chip::Slave) {
            Some(_) => self.master.irr |= cascade,
            None => self.master.irr &= !cascade,
        }
        self.update_output();
    }

    fn update_output(&mut self) {
        self.output = LineLevel::from_bit(self.master.requested(Chip::Master).is_some());
    }

    /// Sets the level of `source` on `pin`, below 16; others are ignored. Pin 2 has no line.
    pub fn set_line(&mut self, pin: u8, source: Source, level: LineLevel) -> LineStatus {
        let Some(line) = self.lines.get_mut(usize::from(pin)) else {
            return LineStatus::Ignored;
        };
        let level = line.set(source, level);
        let chip = if pin < 8 { Chip::Master } else { Chip::Slave };
        let status = self.chip_mut(chip).set_pin(pin & 7, level);
        self.update();
        status
    }

    /// The processor's acknowledgement: returns the vector.
    ///
    /// 8259A: "Interrupt Sequence". Where the interrupt is gone meanwhile, it is the spurious one.
    pub fn acknowledge(&mut self) -> (u8, Effects) {
        let mut effects = Effects::default();
        let vector = match self.master.requested(Chip::Master) {
            None => self.master.irq_base.wrapping_add(SPURIOUS),
            Some(pin) => {
                effects.ended |= to_pins(Chip::Master, self.master.acknowledge(pin));
                if pin == CASCADE {
                    let of_slave = self.slave.requested(Chip::Slave);
                    if let Some(pin) = of_slave {
                        effects.ended |= to_pins(Chip::Slave, self.slave.acknowledge(pin));
                    }
                    self.slave
                        .irq_base
                        .wrapping_add(of_slave.unwrap_or(SPURIOUS))
                } else {
                    self.master.irq_base.wrapping_add(pin)
                }
            }
        };
        self.update();
        (vector, effects)
    }

    /// Writes a register.
    pub fn write(&mut self, port: Port, value: u8) -> Effects {
        let effects = match port {
            Port::Command(chip) => self.write_command(chip, value),
            Port::Data(chip) => {
                let state = self.chip_mut(chip);
                let before = state.imr;
                state.write_data(value);
                let unmasked = before & !state.imr;
                Effects {
                    ended: 0,
                    unmasked: to_pins(chip, unmasked),
                }
            }
            Port::Elcr(chip) => {
                let state = self.chip_mut(chip);
                state.elcr = value & state.elcr_mask;
                Effects::default()
            }
        };
        self.update();
        effects
    }

    fn write_command(&mut self, chip: Chip, value: u8) -> Effects {
        let state = self.chip_mut(chip);
        let ended = match value {
            icw1 if icw1 & 0x10 != 0 => state.initialize(icw1),
            ocw3 if ocw3 & 0x08 != 0 => {
                state.ocw3(ocw3);
                0
            }
            ocw2 => state.ocw2(ocw2),
        };
        Effects::of(chip, ended)
    }

    /// Reads a register; after a poll command, any but the ELCR is the poll.
    pub fn read(&mut self, port: Port) -> (u8, Effects) {
        match self.peek(port) {
            Some(value) => (value, Effects::default()),
            None => self.poll(port.chip()),
        }
    }

    /// Reads a register, unless the read is a poll, which alone has effects.
    pub fn peek(&self, port: Port) -> Option<u8> {
        let state = self.chip(port.chip());
        match port {
            Port::Elcr(_) => Some(state.elcr),
            Port::Command(_) | Port::Data(_) if state.poll != 0 => None,
            Port::Command(_) if state.read_reg_select != 0 => Some(state.isr),
            Port::Command(_) => Some(state.irr),
            Port::Data(_) => Some(state.imr),
        }
    }

    /// An acknowledgement by reading. 8259A: "Poll Command".
    fn poll(&mut self, chip: Chip) -> (u8, Effects) {
        const WAITING: u8 = 0x80;
        let state = self.chip_mut(chip);
        state.poll = 0;
        let (value, ended) = match state.requested(chip) {
            Some(pin) => (WAITING | pin, state.acknowledge(pin)),
            None => (SPURIOUS, 0),
        };
        self.update();
        (value, Effects::of(chip, ended))
    }

    /// Returns the state of one controller (KVM_GET_IRQCHIP).
    pub fn save(&self, chip: Chip) -> PicState {
        match chip {
            Chip::Master => self.master,
            Chip::Slave => self.slave,
        }
    }

    /// Replaces the state of one controller (KVM_SET_IRQCHIP). Lines stay as they are driven.
    ///
    /// Between the states of the two the cascade may not fit yet; it is left as it came.
    pub fn load(&mut self, chip: Chip, state: PicState) {
        *self.chip_mut(chip) = state;
        self.update_output();
    }
}

#[cfg(test)]
mod tests;
