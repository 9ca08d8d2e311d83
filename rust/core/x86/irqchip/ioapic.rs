// SPDX-License-Identifier: GPL-2.0

//! The I/O APIC, as KVM's guests know it: an 82093AA with 24 pins, version 11H.
//!
//! Source: Intel "82093AA I/O Advanced Programmable Interrupt Controller" (290566), and the ABI of
//! KVM_GET_IRQCHIP for what is saved. It sends messages by a [`Bus`], and tells what else is to be
//! done as [`Effects`]. Level-triggered interrupts are done when the local APIC broadcasts the EOI
//! of their vector: [`Ioapic::pins_of`] says whose, [`Ioapic::end`] ends them.
//!
//! The real-time clock's pin is special, as userspace wants to know whether the guest has handled
//! its last tick: see [`Tracking`].

use super::apic_msg::{DeliveryMode, DestMode, Message, TriggerMode};
use super::line::{Line, LineLevel, LineStatus, Source};
use super::vectors::VectorSet;

/// The number of pins.
pub const NR_PINS: u8 = 24;
/// Where the registers are after a reset.
pub const DEFAULT_BASE: u64 = 0xfec0_0000;
/// The size of the registers' range, in bytes.
pub const RANGE: u64 = 0x100;
/// The size of `struct kvm_ioapic_state`, in bytes.
pub const IOAPIC_STATE_SIZE: usize = 24 + 8 * NR_PINS as usize;
/// The pin of the real-time clock.
const RTC_PIN: u8 = 8;
/// The most local APICs that [`Tracking`] knows: the most vCPUs of a VM.
const MAX_APICS: usize = 1024;

/// Registers in memory: offsets from the base.
mod mmio {
    pub(super) const SELECT: u8 = 0x00;
    pub(super) const WINDOW: u8 = 0x10;
}

/// Registers behind the window. 82093AA: "I/O APIC Registers".
mod index {
    pub(super) const ID: u32 = 0;
    pub(super) const VERSION: u32 = 1;
    pub(super) const ARBITRATION: u32 = 2;
    pub(super) const REDIRECTION: u32 = 0x10;
}

/// Version 11H, and the number of the last pin.
const VERSION: u32 = 0x11 | ((NR_PINS as u32 - 1) << 16);

crate::bitfield! {
    /// An entry of the redirection table. 82093AA: "I/O Redirection Table Registers".
    pub struct Entry(u64) {
        /// The vector.
        7:0 vector, with_vector => u8;
        /// The delivery mode.
        10:8 delivery, with_delivery => u32;
        /// The destination mode.
        11:11 is_logical, with_logical => bool;
        /// Read-only: a message is on its way. Always 0.
        12:12 is_sending, with_sending => bool;
        /// Active low. Has no effect: a line is high when it is asserted.
        13:13 is_active_low, with_active_low => bool;
        /// Read-only: a local APIC has accepted the level-triggered interrupt.
        14:14 remote_irr, with_remote_irr => bool;
        /// The trigger mode.
        15:15 is_level, with_level => bool;
        /// The mask.
        16:16 is_masked, with_masked => bool;
        /// The destination.
        63:56 dest, with_dest => u8;
    }
}

impl Entry {
    /// Returns the message that the entry sends.
    pub fn message(self) -> Message {
        Message {
            vector: self.vector(),
            delivery: DeliveryMode::from_bits(self.delivery()),
            dest: self.dest().into(),
            dest_mode: if self.is_logical() {
                DestMode::Logical
            } else {
                DestMode::Physical
            },
            trigger: TriggerMode::from_bit(self.is_level()),
            ..Message::default()
        }
    }
}

/// Local APICs, by the index of their vCPU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApicSet([u64; MAX_APICS / 64]);

impl Default for ApicSet {
    fn default() -> Self {
        Self([0; MAX_APICS / 64])
    }
}

impl ApicSet {
    fn word(&mut self, apic: u32) -> Option<(&mut u64, u64)> {
        let word = self.0.get_mut(usize::try_from(apic >> 6).ok()?)?;
        Some((word, 1 << (apic & 63)))
    }

    /// Adds an APIC; one that no VM can have is ignored.
    pub fn insert(&mut self, apic: u32) {
        if let Some((word, bit)) = self.word(apic) {
            *word |= bit;
        }
    }

    /// Removes an APIC.
    pub fn remove(&mut self, apic: u32) {
        if let Some((word, bit)) = self.word(apic) {
            *word &= !bit;
        }
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// The way to the local APICs.
pub trait Bus {
    /// Delivers `message`, and calls `to` with each APIC that took it. Ignored is a message that none
    /// took.
    fn send(&mut self, message: &Message, to: &mut dyn FnMut(u32)) -> LineStatus;
}

/// Whether a tick of the real-time clock is coalesced while a local APIC has the one before in
/// service: a VMM that asks for the status of its interrupts (KVM_IRQ_LINE_STATUS) raises them again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracking {
    /// It is not.
    Off,
    /// It is.
    On,
}

/// What is to be done after a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Effects {
    /// The redirection table changed: look anew at [`Ioapic::vectors`].
    pub table_changed: bool,
    /// This pin was masked, and is not any more.
    pub unmasked: Option<u8>,
    /// This level-triggered pin may go on: its line was high when it was last looked at. Where a
    /// resampler can tell whether it still is, [`Ioapic::forget`]; else [`Ioapic::resume`].
    pub resumable: Option<u8>,
}

/// An I/O APIC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ioapic {
    base: u64,
    select: u32,
    id: u32,
    irr: u32,
    /// The edges of `irr` that were sent: they are not saved.
    delivered: u32,
    entries: [Entry; NR_PINS as usize],
    lines: [Line; NR_PINS as usize],
    /// Who has the last tick of the real-time clock in service, and as which vector.
    clock: (ApicSet, u8),
}

impl Default for Ioapic {
    fn default() -> Self {
        Self::new()
    }
}

impl Ioapic {
    /// Makes an I/O APIC in its state after reset: all pins are masked.
    pub fn new() -> Self {
        Self {
            base: DEFAULT_BASE,
            select: 0,
            id: 0,
            irr: 0,
            delivered: 0,
            entries: [Entry(0).with_masked(true); NR_PINS as usize],
            lines: [Line::default(); NR_PINS as usize],
            clock: (ApicSet::default(), 0),
        }
    }

    fn entry(&self, pin: u8) -> Entry {
        let masked = Entry(0).with_masked(true);
        *self.entries.get(usize::from(pin)).unwrap_or(&masked)
    }

    fn set_remote_irr(&mut self, pin: u8, value: bool) {
        if let Some(entry) = self.entries.get_mut(usize::from(pin)) {
            *entry = entry.with_remote_irr(value);
        }
    }

    /// Returns the offset of a register, if `address` is one of ours.
    pub fn offset(&self, address: u64) -> Option<u8> {
        let offset = address.wrapping_sub(self.base);
        // The upper address bits of the range do not count.
        (offset < RANGE).then(|| address.to_le_bytes()[0])
    }

    /// Reads the register at `offset`.
    pub fn read(&self, offset: u8) -> u32 {
        match offset {
            mmio::SELECT => self.select,
            mmio::WINDOW => self.read_window(),
            _ => 0,
        }
    }

    fn read_window(&self) -> u32 {
        match self.select {
            index::ID | index::ARBITRATION => self.id << 24,
            index::VERSION => VERSION,
            _ => {
                let entry = self.selected().map_or(u64::MAX, |pin| self.entry(pin).0);
                let [low, high] = halves(entry);
                if self.select & 1 == 0 {
                    low
                } else {
                    high
                }
            }
        }
    }

    /// Returns the pin whose entry is selected.
    fn selected(&self) -> Option<u8> {
        let pin = self.select.checked_sub(index::REDIRECTION)? >> 1;
        u8::try_from(pin).ok().filter(|pin| *pin < NR_PINS)
    }

    /// Writes the register at `offset`.
    pub fn write(&mut self, offset: u8, value: u32) -> Effects {
        match offset {
            mmio::SELECT => self.select = value & 0xff,
            mmio::WINDOW => return self.write_window(value),
            _ => {}
        }
        Effects::default()
    }

    fn write_window(&mut self, value: u32) -> Effects {
        if self.select == index::ID {
            self.id = (value >> 24) & 0xf;
        }
        let Some(pin) = self.selected() else {
            return Effects::default();
        };
        let is_high_half = self.select & 1 != 0;
        let Some(entry) = self.entries.get_mut(usize::from(pin)) else {
            return Effects::default();
        };
        let old = *entry;
        let [low, high] = halves(old.0);
        let new = Entry(match is_high_half {
            true => join([low, value]),
            false => join([value, high]),
        });
        // An edge-triggered entry has no remote IRR. Guests clear it so, as there is no EOI register.
        *entry = new
            .with_sending(old.is_sending())
            .with_remote_irr(old.remote_irr() && new.is_level());
        let is_open = new.is_level() && !new.is_masked() && !entry.remote_irr();
        Effects {
            table_changed: true,
            unmasked: (old.is_masked() && !new.is_masked()).then_some(pin),
            resumable: (is_open && self.irr & bit_of(pin) != 0).then_some(pin),
        }
    }

    /// Sets the level of `source` on `pin`; there is no line beyond the last pin.
    pub fn set_line(
        &mut self,
        pin: u8,
        source: Source,
        level: LineLevel,
        tracking: Tracking,
        bus: &mut impl Bus,
    ) -> LineStatus {
        let Some(line) = self.lines.get_mut(usize::from(pin)) else {
            return LineStatus::Ignored;
        };
        match line.set(source, level) {
            LineLevel::Low => {
                self.irr &= !bit_of(pin);
                LineStatus::Delivered(1)
            }
            LineLevel::High => self.raise(pin, tracking, bus),
        }
    }

    fn raise(&mut self, pin: u8, tracking: Tracking, bus: &mut impl Bus) -> LineStatus {
        let is_tracked = pin == RTC_PIN && tracking == Tracking::On;
        if is_tracked && !self.clock.0.is_empty() {
            return LineStatus::Coalesced;
        }
        let was_high = self.irr & bit_of(pin) != 0;
        self.irr |= bit_of(pin);
        if !self.entry(pin).is_level() {
            self.delivered &= !bit_of(pin);
            if was_high {
                return LineStatus::Coalesced;
            }
        }
        self.service(pin, tracking, bus)
    }

    /// Sends the message of `pin`, if the entry lets it.
    fn service(&mut self, pin: u8, tracking: Tracking, bus: &mut impl Bus) -> LineStatus {
        let entry = self.entry(pin);
        if entry.is_masked() || (entry.is_level() && entry.remote_irr()) {
            return LineStatus::Ignored;
        }
        if !entry.is_level() {
            self.delivered |= bit_of(pin);
        }
        let status = if pin == RTC_PIN && tracking == Tracking::On {
            let (apics, vector) = &mut self.clock;
            *vector = entry.vector();
            bus.send(&entry.message(), &mut |apic| apics.insert(apic))
        } else {
            bus.send(&entry.message(), &mut |_| {})
        };
        if entry.is_level() && status != LineStatus::Ignored {
            self.set_remote_irr(pin, true);
        }
        status
    }

    /// Sends the interrupt of [`Effects::resumable`].
    pub fn resume(&mut self, pin: u8, bus: &mut impl Bus) {
        let entry = self.entry(pin);
        if entry.is_level() && self.irr & bit_of(pin) != 0 {
            let _ = self.service(pin, Tracking::Off, bus);
        }
    }

    /// Takes the line of [`Effects::resumable`] for low: the resampler will raise it if it is not.
    pub fn forget(&mut self, pin: u8) {
        self.irr &= !bit_of(pin);
    }

    /// Returns the vectors whose EOI matters here.
    pub fn vectors(&self) -> VectorSet {
        let mut vectors = VectorSet::default();
        for entry in &self.entries {
            vectors.insert(entry.vector());
        }
        vectors
    }

    /// Returns the set of pins whose interrupt the EOI of `vector` ends.
    pub fn pins_of(&self, vector: u8) -> u32 {
        let pins = self.entries.iter().zip(0..NR_PINS);
        pins.filter(|(entry, _)| entry.vector() == vector)
            .fold(0, |set, (_, pin)| set | bit_of(pin))
    }

    /// Takes note that local APIC `apic` has ended `vector`, or forgets all that it has in service,
    /// as it was reset.
    pub fn clock_ended(&mut self, apic: u32, vector: Option<u8>) {
        if vector.is_none_or(|vector| vector == self.clock.1) {
            self.clock.0.remove(apic);
        }
    }

    /// The EOI broadcast for level-triggered `vector`. A line that is high still is served again.
    ///
    /// Returns the pins that were.
    pub fn end(&mut self, vector: u8, bus: &mut impl Bus) -> u32 {
        let mut again = 0;
        for pin in 0..NR_PINS {
            let entry = self.entry(pin);
            if entry.vector() != vector || !entry.is_level() {
                continue;
            }
            self.set_remote_irr(pin, false);
            if self.irr & bit_of(pin) != 0 && !entry.is_masked() {
                let _ = self.service(pin, Tracking::Off, bus);
                again |= bit_of(pin);
            }
        }
        again
    }

    /// Returns the state as the bytes of `struct kvm_ioapic_state` (KVM_GET_IRQCHIP).
    pub fn save(&self) -> [u8; IOAPIC_STATE_SIZE] {
        let waiting = self.irr & !self.delivered;
        let header = [self.base, join([self.select, self.id]), join([waiting, 0])];
        let words = header.into_iter().chain(self.entries.iter().map(|e| e.0));
        let mut bytes = [0; IOAPIC_STATE_SIZE];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes()); // PANIC: none; both are of 8 bytes.
        }
        bytes
    }

    /// Replaces the state (KVM_SET_IRQCHIP), and sends what waits. Any bytes are a state. Lines stay
    /// as they are driven; `Effects::table_changed` is implied.
    pub fn load(&mut self, bytes: &[u8; IOAPIC_STATE_SIZE], bus: &mut impl Bus) {
        let mut words = bytes.chunks_exact(8).map(|word| {
            word.try_into().map_or(0, u64::from_le_bytes) // PANIC: none; each is of 8 bytes.
        });
        let mut next = || words.next().unwrap_or(0);
        self.base = next();
        [self.select, self.id] = halves(next());
        self.select &= 0xff;
        self.id &= 0xf;
        let [waiting, _pad] = halves(next());
        self.entries = core::array::from_fn(|_| Entry(next()));
        self.irr = 0;
        self.delivered = 0;
        self.clock.0 = ApicSet::default();
        for pin in (0..NR_PINS).filter(|pin| waiting & bit_of(*pin) != 0) {
            let _ = self.raise(pin, Tracking::On, bus);
        }
    }
}

fn bit_of(pin: u8) -> u32 {
    1u32.checked_shl(pin.into()).unwrap_or(0)
}

/// Returns the low and the high half.
fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

fn join([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | (u64::from(high) << 32)
}

#[cfg(test)]
mod tests;
