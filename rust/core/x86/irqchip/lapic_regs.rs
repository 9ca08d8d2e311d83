// SPDX-License-Identifier: GPL-2.0

//! The local APIC's register page: where registers are, and what their bits mean.
//!
//! The page is reached through [`RegisterPage`], as a VMCS is reached through a typed interface:
//! [`Registers`] is memory of ours, and the glue implements the trait for the virtual-APIC page,
//! which the processor itself reads and writes where it virtualizes the APIC.
//!
//! SDM 3A "Local APIC Register Address Map", table 11-1

use super::apic_msg::{DeliveryMode, DestMode, Level, Message, Shorthand, TriggerMode};
use super::vectors::VectorSet;

/// The size of `struct kvm_lapic_state`: the part of the page that holds registers, in bytes.
pub const KVM_APIC_REG_SIZE: usize = 0x400;

/// Offsets into the page, in bytes, by the names of the SDM's table.
pub mod reg {
    #![allow(missing_docs, reason = "the names are the documentation")]
    pub const ID: u16 = 0x20;
    pub const VERSION: u16 = 0x30;
    pub const TPR: u16 = 0x80;
    pub const APR: u16 = 0x90;
    pub const PPR: u16 = 0xa0;
    pub const EOI: u16 = 0xb0;
    pub const RRD: u16 = 0xc0;
    pub const LDR: u16 = 0xd0;
    pub const DFR: u16 = 0xe0;
    pub const SVR: u16 = 0xf0;
    pub const ISR: u16 = 0x100;
    pub const TMR: u16 = 0x180;
    pub const IRR: u16 = 0x200;
    pub const ESR: u16 = 0x280;
    pub const LVT_CMCI: u16 = 0x2f0;
    pub const ICR: u16 = 0x300;
    /// The upper half of the ICR in xAPIC mode.
    pub const ICR2: u16 = 0x310;
    /// The upper half of the ICR in x2APIC mode, where the register is one of 64 bits.
    pub const ICR_X2APIC_HIGH: u16 = 0x304;
    pub const LVT_TIMER: u16 = 0x320;
    pub const LVT_THERMAL: u16 = 0x330;
    pub const LVT_PMC: u16 = 0x340;
    pub const LVT_LINT0: u16 = 0x350;
    pub const LVT_LINT1: u16 = 0x360;
    pub const LVT_ERROR: u16 = 0x370;
    pub const TIMER_INITIAL: u16 = 0x380;
    pub const TIMER_CURRENT: u16 = 0x390;
    pub const TIMER_DIVIDE: u16 = 0x3e0;
    pub const SELF_IPI: u16 = 0x3f0;
}

/// Access to the registers of one local APIC, by the thread that owns it.
pub trait RegisterPage {
    /// Returns the 32 bits at `offset`, a multiple of 4 below [`KVM_APIC_REG_SIZE`].
    fn get(&self, offset: u16) -> u32;
    /// Replaces the 32 bits at `offset`, a multiple of 4 below [`KVM_APIC_REG_SIZE`].
    fn set(&mut self, offset: u16, value: u32);
}

/// A register page in ordinary memory, in the layout of `struct kvm_lapic_state`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registers([u32; KVM_APIC_REG_SIZE / 4]);

impl Default for Registers {
    fn default() -> Self {
        Self([0; KVM_APIC_REG_SIZE / 4])
    }
}

impl RegisterPage for Registers {
    #[inline]
    fn get(&self, offset: u16) -> u32 {
        self.0.get(usize::from(offset >> 2)).copied().unwrap_or(0)
    }

    #[inline]
    fn set(&mut self, offset: u16, value: u32) {
        if let Some(word) = self.0.get_mut(usize::from(offset >> 2)) {
            *word = value;
        }
    }
}

/// A 256-bit register: eight words of 32 bits, 16 bytes apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Bank {
    /// In-service register: interrupts that the processor took and did not end.
    Isr = reg::ISR,
    /// Trigger mode register: which of the accepted interrupts are level-triggered.
    Tmr = reg::TMR,
    /// Interrupt request register: interrupts that wait for the processor.
    Irr = reg::IRR,
}

impl Bank {
    /// Returns the offset of the word that holds `vector`.
    #[inline]
    const fn offset(self, vector: u8) -> u16 {
        self as u16 | (((vector >> 5) as u16) << 4)
    }

    /// Returns whether the bit of `vector` is set.
    #[inline]
    pub fn contains(self, page: &impl RegisterPage, vector: u8) -> bool {
        (page.get(self.offset(vector)) >> (vector & 31)) & 1 != 0
    }

    /// Sets the bit of `vector`.
    #[inline]
    pub fn insert(self, page: &mut impl RegisterPage, vector: u8) {
        let offset = self.offset(vector);
        let word = page.get(offset);
        page.set(offset, word | (1 << (vector & 31)));
    }

    /// Clears the bit of `vector`.
    #[inline]
    pub fn remove(self, page: &mut impl RegisterPage, vector: u8) {
        let offset = self.offset(vector);
        let word = page.get(offset);
        page.set(offset, word & !(1 << (vector & 31)));
    }

    /// Clears all bits.
    pub fn clear(self, page: &mut impl RegisterPage) {
        for word in 0..8u8 {
            page.set(self.offset(word << 5), 0);
        }
    }

    /// Returns the highest vector whose bit is set.
    #[inline]
    pub fn highest(self, page: &impl RegisterPage) -> Option<u8> {
        // Most often there is none, which is seen soonest without a branch for each word.
        if (0..8u8).fold(0, |any, word| any | page.get(self.offset(word << 5))) == 0 {
            return None;
        }
        (0..8u8).rev().find_map(|word| {
            let bits = page.get(self.offset(word << 5));
            let bit = 31u32.checked_sub(bits.leading_zeros())?;
            Some((word << 5) | u8::try_from(bit).ok()?)
        })
    }

    /// Returns all vectors whose bit is set.
    pub fn all(self, page: &impl RegisterPage) -> VectorSet {
        let pair = |low: u8| {
            let high = page.get(self.offset(low | 32));
            (u64::from(high) << 32) | u64::from(page.get(self.offset(low)))
        };
        VectorSet::from_words([pair(0), pair(64), pair(128), pair(192)])
    }
}

crate::bitfield! {
    /// Spurious-interrupt vector register. SDM 3A "Spurious Interrupt", 11.9
    pub struct Svr(u32) {
        /// The spurious vector.
        7:0 vector, with_vector => u8;
        /// The APIC takes vectors and its LVT can be unmasked.
        8:8 is_enabled, with_enabled => bool;
        /// An EOI is not broadcast to the I/O APICs.
        12:12 suppresses_eoi, with_suppresses_eoi => bool;
    }
}

crate::bitfield! {
    /// IA32_APIC_BASE. SDM 3A "Local APIC Status and Location", 11.4.4
    pub struct ApicBase(u64) {
        /// The bootstrap processor.
        8:8 is_bsp, with_bsp => bool;
        /// x2APIC mode.
        10:10 is_x2apic, with_x2apic => bool;
        /// Globally enabled.
        11:11 is_enabled, with_enabled => bool;
        /// The page frame of the registers.
        51:12 frame, with_frame => u64;
    }
}

crate::bitfield! {
    /// Interrupt command register, both halves. SDM 3A "Interrupt Command Register (ICR)", 11.6.1
    pub struct Icr(u64) {
        /// The vector.
        7:0 vector, with_vector => u8;
        /// The delivery mode, for [`DeliveryMode::from_bits`].
        10:8 delivery, with_delivery => u32;
        /// Destination mode.
        11:11 is_logical, with_logical => bool;
        /// Delivery status; always idle here.
        12:12 is_busy, with_busy => bool;
        /// Level: assert.
        14:14 is_assert, with_assert => bool;
        /// Trigger mode: level.
        15:15 is_level, with_level => bool;
        /// The shorthand, for [`Shorthand::from_bits`].
        19:18 shorthand, with_shorthand => u32;
        /// The destination in xAPIC mode.
        63:56 xapic_dest, with_xapic_dest => u8;
        /// The destination in x2APIC mode.
        63:32 x2apic_dest, with_x2apic_dest => u32;
    }
}

impl Icr {
    /// Bits that must be clear in x2APIC mode. SDM 3A "ICR Operation in x2APIC Mode", 11.12.9
    pub const X2APIC_RESERVED: u64 = 0xfff3_2000;

    /// Returns the message to destination `dest`, which the caller took by the mode.
    pub fn message(self, dest: u32) -> Message {
        Message {
            vector: self.vector(),
            delivery: DeliveryMode::from_bits(self.delivery()),
            dest,
            dest_mode: if self.is_logical() {
                DestMode::Logical
            } else {
                DestMode::Physical
            },
            shorthand: Shorthand::from_bits(self.shorthand()),
            trigger: TriggerMode::from_bit(self.is_level()),
            level: if self.is_assert() {
                Level::Assert
            } else {
                Level::Deassert
            },
            has_redirection_hint: false,
        }
    }
}

crate::bitfield! {
    /// An entry of the local vector table. SDM 3A "Local Vector Table", 11.5.1
    pub struct LvtEntry(u32) {
        /// The vector.
        7:0 vector, with_vector => u8;
        /// The delivery mode, for [`DeliveryMode::from_bits`].
        10:8 delivery, with_delivery => u32;
        /// Trigger mode, of LINT0 and LINT1.
        15:15 is_level, with_level => bool;
        /// The entry does nothing.
        16:16 is_masked, with_masked => bool;
        /// Timer mode, of the timer.
        18:17 timer_mode, with_timer_mode => u32;
    }
}

/// An interrupt source of the processor's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Lvt {
    /// The APIC timer.
    Timer = reg::LVT_TIMER,
    /// Thermal sensor.
    Thermal = reg::LVT_THERMAL,
    /// Performance-monitoring counters.
    Pmc = reg::LVT_PMC,
    /// The LINT0 pin: the 8259A of a PC.
    Lint0 = reg::LVT_LINT0,
    /// The LINT1 pin: NMI of a PC.
    Lint1 = reg::LVT_LINT1,
    /// The APIC's own errors.
    Error = reg::LVT_ERROR,
    /// Corrected machine-check errors; there if the VMM enabled CMCI.
    Cmci = reg::LVT_CMCI,
}

impl Lvt {
    /// All entries, in the order in which the version register counts them.
    pub const ALL: [Lvt; 7] = [
        Lvt::Timer,
        Lvt::Thermal,
        Lvt::Pmc,
        Lvt::Lint0,
        Lvt::Lint1,
        Lvt::Error,
        Lvt::Cmci,
    ];

    /// The delivery-status and remote-IRR bits, which software cannot set.
    pub const READ_ONLY: u32 = (1 << 12) | (1 << 14);

    /// Returns the entry at page offset `offset`.
    #[inline]
    pub fn at(offset: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|&lvt| lvt.offset() == offset)
    }

    /// Returns the page offset of the entry.
    #[inline]
    pub const fn offset(self) -> u16 {
        self as u16
    }

    /// Returns the bits that software can set; `timer_modes` are those of the timer.
    #[inline]
    pub const fn writable(self, timer_modes: u32) -> u32 {
        /// Mask and vector.
        const BASE: u32 = (1 << 16) | 0xff;
        /// Delivery mode.
        const MODE: u32 = 7 << 8;
        /// Trigger mode and polarity of a pin.
        const PIN: u32 = (1 << 15) | (1 << 13);
        match self {
            Lvt::Timer => BASE | timer_modes,
            Lvt::Error => BASE,
            Lvt::Thermal | Lvt::Pmc | Lvt::Cmci => BASE | MODE,
            Lvt::Lint0 | Lvt::Lint1 => BASE | MODE | PIN,
        }
    }
}

/// Bits of the error status register. SDM 3A "Error Handling", 11.5.3
pub mod esr {
    /// Software sent a vector of 0 to 15.
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    /// The APIC received a vector of 0 to 15.
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    /// Software accessed a register that is not there, in xAPIC mode.
    pub const ILLEGAL_REGISTER_ADDRESS: u32 = 1 << 7;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bank_words_are_sixteen_bytes_apart() {
        let mut page = Registers::default();
        Bank::Irr.insert(&mut page, 0x41);
        assert_eq!(page.get(0x220), 2);
        Bank::Isr.insert(&mut page, 0xff);
        assert_eq!(page.get(0x170), 1 << 31);
        Bank::Tmr.insert(&mut page, 0);
        assert_eq!(page.get(0x180), 1);
        assert_eq!(Bank::Irr.highest(&page), Some(0x41));
        assert_eq!(Bank::Irr.all(&page).iter().collect::<Vec<_>>(), [0x41]);
        Bank::Irr.remove(&mut page, 0x41);
        assert_eq!(Bank::Irr.highest(&page), None);
    }

    #[test]
    fn registers_outside_the_page_read_zero_and_ignore_writes() {
        let mut page = Registers::default();
        page.set(0x400, 5);
        assert_eq!(page.get(0x400), 0);
        assert_eq!(page, Registers::default());
    }

    #[test]
    fn icr_becomes_the_message_it_describes() {
        let icr = Icr(0x1234_5678_000c_cd41);
        let message = icr.message(icr.x2apic_dest());
        assert_eq!(message.vector, 0x41);
        assert_eq!(message.delivery, DeliveryMode::Init);
        assert_eq!(message.dest, 0x1234_5678);
        assert_eq!(message.dest_mode, DestMode::Logical);
        assert_eq!(message.shorthand, Shorthand::AllExcludingSelf);
        assert_eq!(message.trigger, TriggerMode::Level);
        assert_eq!(message.level, Level::Assert);
        assert_eq!(icr.xapic_dest(), 0x12);
    }

    #[test]
    fn every_lvt_entry_is_found_at_its_offset() {
        for lvt in Lvt::ALL {
            assert_eq!(Lvt::at(lvt.offset()), Some(lvt));
        }
        assert_eq!(Lvt::at(reg::TIMER_INITIAL), None);
    }
}
