// SPDX-License-Identifier: GPL-2.0

//! MSIs and routes of a PC: what a message says, which routes there are, and whose EOIs the owner
//! of an I/O APIC must see.
//!
//! SDM 3A "Message Signalled Interrupts", 11.11

use super::apic_dest::{BroadcastQuirk, Identity, Sender};
use super::apic_msg::{DeliveryMode, DestMode, Level, Message, Shorthand, TriggerMode};
use super::lapic::IoApicPlace;
use super::vectors::VectorSet;
use crate::irqroute::{
    Msi, Policy, RawRoute, RoutingTable, Target, XenRoutes, KVM_IRQ_ROUTING_IRQCHIP,
};

crate::bitfield! {
    /// Bits 31:0 of the address of an MSI.
    pub struct MsiAddress(u32) {
        /// Destination mode.
        2:2 is_logical, with_logical => bool;
        /// Redirection hint.
        3:3 has_hint, with_hint => bool;
        /// Bits 7:0 of the destination.
        19:12 dest, with_dest => u8;
    }
}

crate::bitfield! {
    /// The data of an MSI.
    pub struct MsiData(u32) {
        /// The vector.
        7:0 vector, with_vector => u8;
        /// The delivery mode.
        10:8 delivery, with_delivery => u32;
        /// Trigger mode.
        15:15 is_level, with_level => bool;
    }
}

/// How wide the destination of an MSI is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MsiFormat {
    /// 8 bits; the upper half of the address does not count.
    #[default]
    Plain,
    /// 32 bits, of which the upper half of the address has bits 31:8
    /// (KVM_X2APIC_API_USE_32BIT_IDS).
    X2Apic,
}

impl MsiFormat {
    /// Returns the bits of the upper half of the address that must be clear, or it is EINVAL.
    #[inline]
    pub const fn address_hi_reserved(self) -> u32 {
        match self {
            MsiFormat::Plain => 0,
            MsiFormat::X2Apic => 0xff,
        }
    }
}

/// Returns the message that `msi` is, as far as local APICs are concerned.
///
/// The level bit of the data does not count: a device asserts, and never deasserts by message.
pub fn decode(msi: &Msi, format: MsiFormat) -> Message {
    let (address, data) = (MsiAddress(msi.address_lo), MsiData(msi.data));
    let dest_hi = match format {
        MsiFormat::Plain => 0,
        MsiFormat::X2Apic => msi.address_hi & !format.address_hi_reserved(),
    };
    Message {
        vector: data.vector(),
        delivery: DeliveryMode::from_bits(data.delivery()),
        dest: dest_hi | u32::from(address.dest()),
        dest_mode: if address.is_logical() {
            DestMode::Logical
        } else {
            DestMode::Physical
        },
        shorthand: Shorthand::None,
        trigger: TriggerMode::from_bit(data.is_level()),
        level: Level::Assert,
        has_redirection_hint: address.has_hint(),
    }
}

/// KVM_IRQCHIP_PIC_MASTER.
pub const PIC_MASTER: u8 = 0;
/// KVM_IRQCHIP_PIC_SLAVE.
pub const PIC_SLAVE: u8 = 1;
/// KVM_IRQCHIP_IOAPIC.
pub const IOAPIC: u8 = 2;
/// The number of pins of an 8259A.
pub const PIC_PINS: u8 = 8;
/// The number of pins of the I/O APIC.
pub const IOAPIC_PINS: u8 = 24;

/// Returns which routes a VM with its I/O APIC at `place` takes.
pub const fn policy(place: IoApicPlace, format: MsiFormat, xen: XenRoutes) -> Policy<'static> {
    let chip_pins: &[u8] = match place {
        IoApicPlace::Kernel => &[PIC_PINS, PIC_PINS, IOAPIC_PINS],
        IoApicPlace::Userspace => &[],
    };
    Policy {
        chip_pins,
        msi_address_hi_reserved: format.address_hi_reserved(),
        xen,
    }
}

/// Returns the routes that KVM_CREATE_IRQCHIP sets up: line n drives pin n of the I/O APIC and,
/// below 16, of the pair of 8259As. They are 40.
pub fn default_routes() -> impl ExactSizeIterator<Item = RawRoute> {
    (0..40u32).map(|index| {
        // After each pin of the I/O APIC below 16 comes one of an 8259A.
        let (gsi, is_pic) = if index < 32 {
            (index >> 1, index & 1 != 0)
        } else {
            (index.wrapping_sub(16), false)
        };
        let (chip, pin) = match (is_pic, gsi) {
            (false, pin) => (IOAPIC, pin),
            (true, pin @ 0..8) => (PIC_MASTER, pin),
            (true, pin) => (PIC_SLAVE, pin & 7),
        };
        let target = [chip.into(), pin, 0, 0, 0, 0, 0, 0];
        RawRoute {
            gsi,
            kind: KVM_IRQ_ROUTING_IRQCHIP,
            flags: 0,
            target,
        }
    })
}

/// The vectors whose EOI on one vCPU the owner of an I/O APIC must see: the contents of its
/// EOI-exit bitmaps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EoiExits {
    /// The vectors.
    pub vectors: VectorSet,
    /// The highest of them that only an interrupt on its way needs, as no route leads here any
    /// more: after its EOI, scan again.
    pub highest_stale: Option<u8>,
}

impl EoiExits {
    /// Adds level-triggered `message` of an I/O APIC, for the vCPU whose APIC is `identity`.
    ///
    /// `has_pending_eoi` tells of a vector whether its EOI is still to come on this vCPU
    /// ([`super::lapic::Lapic::has_pending_eoi`]).
    pub fn add(
        &mut self,
        message: &Message,
        identity: &Identity,
        quirk: BroadcastQuirk,
        has_pending_eoi: impl Fn(u8) -> bool,
    ) {
        let vector = message.vector;
        if identity.matches(message, Sender::Device(quirk)) {
            self.vectors.insert(vector);
        } else if has_pending_eoi(vector) {
            self.vectors.insert(vector);
            self.highest_stale = self.highest_stale.max(Some(vector));
        }
    }

    /// Returns the vectors of a VM whose I/O APIC is the VMM's: those of the level-triggered MSI
    /// routes of the first `nr_reserved` lines (KVM_CAP_SPLIT_IRQCHIP). The EOI of one of them is
    /// KVM_EXIT_IOAPIC_EOI.
    pub fn of_split(
        table: RoutingTable<'_>,
        nr_reserved: u32,
        format: MsiFormat,
        identity: &Identity,
        quirk: BroadcastQuirk,
        has_pending_eoi: impl Fn(u8) -> bool,
    ) -> Self {
        let mut exits = Self::default();
        for route in table.below(nr_reserved) {
            let Target::Msi(msi) = &route.target else {
                continue;
            };
            let message = decode(msi, format);
            if message.trigger == TriggerMode::Level {
                exits.add(&message, identity, quirk, &has_pending_eoi);
            }
        }
        exits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::irqroute::{PinMap, Route, KVM_IRQ_ROUTING_MSI};
    use crate::x86::irqchip::apic_dest::ApicMode;

    fn msi(address_lo: u32, address_hi: u32, data: u32) -> Msi {
        Msi {
            address_lo,
            address_hi,
            data,
            devid: None,
        }
    }

    fn apic(x2apic_id: u32) -> Identity {
        Identity {
            x2apic_id,
            mode: ApicMode::X2Apic,
            ..Identity::default()
        }
    }

    #[test]
    fn msi_decodes_every_field() {
        let message = decode(&msi(0xfee3_400c, 0xabcd_ef00, 0xc541), MsiFormat::Plain);
        let expected = Message {
            vector: 0x41,
            delivery: DeliveryMode::Init,
            dest: 0x34,
            dest_mode: DestMode::Logical,
            shorthand: Shorthand::None,
            trigger: TriggerMode::Level,
            level: Level::Assert,
            has_redirection_hint: true,
        };
        assert_eq!(message, expected);
        let plain = decode(&msi(0xfee0_0000, 0, 0x41), MsiFormat::Plain);
        assert_eq!(
            plain,
            Message {
                vector: 0x41,
                ..Message::default()
            }
        );
    }

    #[test]
    fn msi_destination_has_32_bits_in_x2apic_format_only() {
        let wide = msi(0xfee3_4000, 0x0012_3400, 0x41);
        assert_eq!(decode(&wide, MsiFormat::X2Apic).dest, 0x0012_3434);
        assert_eq!(decode(&wide, MsiFormat::Plain).dest, 0x34);
    }

    #[test]
    fn default_routes_are_those_of_a_pc() {
        let mut routes = [Route::default(); 40];
        let policy = policy(IoApicPlace::Kernel, MsiFormat::Plain, XenRoutes::Refused);
        let table = RoutingTable::build(default_routes(), &policy, &mut routes).unwrap();
        for gsi in 0..24u8 {
            let pins: Vec<_> = table.of_gsi(gsi.into()).iter().map(|r| r.target).collect();
            let ioapic = Target::Pin {
                chip: IOAPIC,
                pin: gsi,
            };
            let expected = match gsi {
                0..8 => vec![
                    Target::Pin {
                        chip: PIC_MASTER,
                        pin: gsi,
                    },
                    ioapic,
                ],
                8..16 => vec![
                    Target::Pin {
                        chip: PIC_SLAVE,
                        pin: gsi - 8,
                    },
                    ioapic,
                ],
                _ => vec![ioapic],
            };
            assert_eq!(pins, expected, "{gsi}");
        }
        assert_eq!(PinMap::new(table).gsi(PIC_SLAVE, 0), Some(8));
    }

    #[test]
    fn split_policy_refuses_the_default_routes() {
        let mut routes = [Route::default(); 40];
        let policy = policy(
            IoApicPlace::Userspace,
            MsiFormat::X2Apic,
            XenRoutes::Refused,
        );
        assert!(RoutingTable::build(default_routes(), &policy, &mut routes).is_err());
        assert_eq!(policy.msi_address_hi_reserved, 0xff);
    }

    /// Scans routes of (gsi, destination, data) for APIC 1.
    fn scan(entries: &[(u32, u32, u32)], nr_reserved: u32, pending: &[u8]) -> EoiExits {
        let raw = entries.iter().map(|&(gsi, dest, data)| RawRoute {
            gsi,
            kind: KVM_IRQ_ROUTING_MSI,
            flags: 0,
            target: [0xfee0_0000 | dest << 12, 0, data, 0, 0, 0, 0, 0],
        });
        let mut routes = vec![Route::default(); entries.len()];
        let policy = policy(
            IoApicPlace::Userspace,
            MsiFormat::X2Apic,
            XenRoutes::Refused,
        );
        let table = RoutingTable::build(raw, &policy, &mut routes).unwrap();
        let has_pending_eoi = |vector| pending.contains(&vector);
        let quirk = BroadcastQuirk::Disabled;
        EoiExits::of_split(
            table,
            nr_reserved,
            MsiFormat::X2Apic,
            &apic(1),
            quirk,
            has_pending_eoi,
        )
    }

    #[test]
    fn eoi_exits_are_of_level_triggered_reserved_routes_to_this_vcpu() {
        let entries = [
            (0, 1, 0x8031),
            (1, 1, 0x0032), // Edge.
            (2, 2, 0x8033), // Another vCPU's.
            (23, 1, 0x8034),
            (24, 1, 0x8035), // Not reserved.
        ];
        let exits = scan(&entries, 24, &[]);
        assert_eq!(exits.vectors.iter().collect::<Vec<_>>(), [0x31, 0x34]);
        assert_eq!(exits.highest_stale, None);
    }

    #[test]
    fn eoi_exits_stay_for_interrupts_on_their_way_from_old_routes() {
        let entries = [
            (0, 2, 0x8031),
            (1, 2, 0x8041),
            (2, 2, 0x8051),
            (3, 1, 0x8061),
        ];
        let exits = scan(&entries, 24, &[0x31, 0x41, 0x61]);
        assert_eq!(exits.vectors.iter().collect::<Vec<_>>(), [0x31, 0x41, 0x61]);
        assert_eq!(exits.highest_stale, Some(0x41));
    }
}
