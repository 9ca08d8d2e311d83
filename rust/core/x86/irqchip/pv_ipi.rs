// SPDX-License-Identifier: GPL-2.0

//! Interrupts to many vCPUs by one hypercall, `KVM_HC_SEND_IPI`.
//!
//! The guest names APICs by a bitmap of twice the width of its registers, whose first bit stands for
//! the APIC with the id `min`, and gives the low half of an interrupt command register.
//!
//! Documentation/virt/kvm/x86/hypercalls.rst, KVM_HC_SEND_IPI

use super::apic_msg::{
    DeliveryMode,
    Level,
    Message,
    TriggerMode,
    X2APIC_BROADCAST, //
};

/// Destination mode and shorthand, which must be 0: physical, by the bitmap.
const RESERVED: u64 = (1 << 11) | (3 << 18);

/// The width of the guest's registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// Outside 64-bit mode.
    Bits32,
    /// In 64-bit mode.
    Bits64,
}

/// The messages of one call.
#[derive(Clone, Debug)]
pub struct PvIpi {
    bitmap: u128,
    min: u32,
    message: Message,
}

/// The command asks for what this call does not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadCommand;

impl PvIpi {
    /// Reads the arguments of the call: the halves of the bitmap, the id of its first APIC, the
    /// command.
    ///
    /// # Errors
    ///
    /// [`BadCommand`] for a logical destination or a shorthand.
    pub fn new(
        low: u64,
        high: u64,
        min: u32,
        command: u64,
        width: Width,
    ) -> Result<Self, BadCommand> {
        if command & RESERVED != 0 {
            return Err(BadCommand);
        }
        let bitmap = match width {
            Width::Bits64 => (u128::from(high) << 64) | u128::from(low),
            Width::Bits32 => u128::from(((high & 0xffff_ffff) << 32) | (low & 0xffff_ffff)),
        };
        let [vector, mode, ..] = command.to_le_bytes();
        Ok(Self {
            bitmap,
            min,
            message: Message {
                vector,
                delivery: DeliveryMode::from_bits(u32::from(mode)),
                level: match mode & (1 << 6) {
                    0 => Level::Deassert,
                    _ => Level::Assert,
                },
                trigger: TriggerMode::from_bit(mode & (1 << 7) != 0),
                ..Message::default()
            },
        })
    }
}

impl Iterator for PvIpi {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        loop {
            if self.bitmap == 0 {
                return None;
            }
            let bit = self.bitmap.trailing_zeros();
            self.bitmap &= self.bitmap.wrapping_sub(1);
            let dest = self.min.saturating_add(bit);
            if dest != X2APIC_BROADCAST {
                return Some(Message {
                    dest,
                    ..self.message
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dests(low: u64, high: u64, min: u32, width: Width) -> Vec<u32> {
        PvIpi::new(low, high, min, 0x40ec, width)
            .unwrap()
            .map(|message| message.dest)
            .collect()
    }

    #[test]
    fn the_bitmap_begins_at_the_first_id_and_goes_on_in_the_second_register() {
        assert_eq!(dests(0b101, 1, 8, Width::Bits64), [8, 10, 72]);
        assert_eq!(dests(1 << 63, 1 << 63, 0, Width::Bits64), [63, 127]);
        assert_eq!(dests(1, 1, 8, Width::Bits32), [8, 40]);
    }

    #[test]
    fn outside_64_bit_mode_the_upper_halves_are_not_looked_at() {
        assert_eq!(dests(1 << 32 | 2, 1 << 40, 0, Width::Bits32), [1]);
    }

    #[test]
    fn the_broadcast_and_what_is_beyond_are_nobodys_ids() {
        assert_eq!(dests(7, 0, u32::MAX - 1, Width::Bits64), [u32::MAX - 1]);
    }

    #[test]
    fn the_command_says_what_is_sent() {
        let message = PvIpi::new(1, 0, 3, 0x400, Width::Bits64)
            .unwrap()
            .next()
            .unwrap();
        assert_eq!(message.delivery, DeliveryMode::Nmi);
        assert_eq!(message.dest, 3);
        let message = PvIpi::new(1, 0, 3, 0x40ec, Width::Bits64)
            .unwrap()
            .next()
            .unwrap();
        assert_eq!((message.vector, message.level), (0xec, Level::Assert));
        assert_eq!(message.delivery, DeliveryMode::Fixed);
    }

    #[test]
    fn logical_destinations_and_shorthands_are_refused() {
        for bit in [11, 18, 19] {
            assert_eq!(
                PvIpi::new(1, 0, 0, 1 << bit, Width::Bits64).err(),
                Some(BadCommand)
            );
        }
    }
}
