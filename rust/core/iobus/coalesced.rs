// SPDX-License-Identifier: GPL-2.0

//! Coalesced MMIO and PIO: writes that wait in a ring until the vCPU next returns to userspace.
//!
//! `KVM_REGISTER_COALESCED_MMIO` in api.rst. The ring is a page that userspace maps and may write,
//! so each index in it is checked at each use. The caller holds the lock of the ring over
//! [`reserve`] and the two writes that follow: the entry, then `last`, with release ordering.

use super::Access;
use super::BusAddr;
use super::BusError;
use super::BusKind;
use super::BusRange;

use crate::addr::PAGE_SIZE;

/// The size in bytes of what precedes the entries: `first` and `last`, 32 bits each.
pub const RING_HEADER_SIZE: u32 = 8;
/// The size in bytes of `struct kvm_coalesced_mmio`.
pub const RING_ENTRY_SIZE: u32 = 24;
/// `KVM_COALESCED_MMIO_MAX`: the entries that fit in a page after the header.
#[allow(
    clippy::cast_possible_truncation,
    reason = "constants, both below 2^32"
)]
pub const RING_ENTRIES: u32 = (PAGE_SIZE as u32 - RING_HEADER_SIZE) / RING_ENTRY_SIZE;

const _: () = assert!(RING_ENTRIES == 170);

/// The fields of `struct kvm_coalesced_mmio_zone`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RawZone {
    /// `addr`.
    pub addr: u64,
    /// `size`, in bytes.
    pub size: u32,
    /// `pio`: 1 for ports, 0 for MMIO.
    pub pio: u32,
}

/// A range of addresses whose writes are coalesced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Zone {
    bus: BusKind,
    range: BusRange,
}

impl Zone {
    /// Converts and checks the argument of `KVM_(UN)REGISTER_COALESCED_MMIO`.
    ///
    /// # Errors
    ///
    /// [`BusError::Range`], `EINVAL`: `pio` is neither 0 nor 1, or the zone wraps. (Upstream
    /// accepts a zone that wraps; no write is ever in it.)
    pub fn parse(raw: &RawZone) -> Result<Self, BusError> {
        let bus = match raw.pio {
            0 => BusKind::Mmio,
            1 => BusKind::Pio,
            _ => return Err(BusError::Range),
        };
        Ok(Self {
            bus,
            range: BusRange::new(BusAddr(raw.addr), u64::from(raw.size))?,
        })
    }

    /// Returns the bus to register it on.
    #[inline]
    pub const fn bus(&self) -> BusKind {
        self.bus
    }

    /// Returns the range to register it for.
    #[inline]
    pub const fn range(&self) -> BusRange {
        self.range
    }

    /// Returns whether a write of `access` is coalesced: it lies in the zone from its first byte to
    /// its last, and its data fits an entry (1 to 8 bytes).
    pub const fn takes(&self, access: Access) -> bool {
        !self.range.is_empty() && access.len <= 8 && self.range.admits(access)
    }

    /// Returns whether unregistering `self` removes `registered`: every zone of the same bus that
    /// contains it goes. That none does is not an error.
    pub const fn unregisters(&self, registered: &Zone) -> bool {
        let is_same_bus = matches!(
            (self.bus, registered.bus),
            (BusKind::Mmio, BusKind::Mmio) | (BusKind::Pio, BusKind::Pio)
        );
        is_same_bus
            && registered.range.start.0 <= self.range.start.0
            && self.range.end() <= registered.range.end()
    }
}

/// Room for one entry in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// The offset in the page at which the [`Entry`] goes, in bytes.
    pub offset: u32,
    /// The value to store in `last` once the entry is there.
    pub next_last: u32,
}

/// Returns where the next entry goes, for the indices that are in the ring now.
///
/// `None` when the ring is full (one entry stays free, so that a full ring does not look empty) or
/// userspace has put `last` out of range: the write goes to userspace the usual way. A wild `first`
/// does no harm: it only never compares equal.
pub const fn reserve(first: u32, last: u32) -> Option<Reserved> {
    if last >= RING_ENTRIES {
        return None;
    }
    let next_last = match last.wrapping_add(1) {
        RING_ENTRIES => 0,
        next => next,
    };
    if next_last == first {
        return None;
    }
    let offset = RING_HEADER_SIZE.wrapping_add(last.wrapping_mul(RING_ENTRY_SIZE));
    Some(Reserved { offset, next_last })
}

/// A write that waits in the ring.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The bus of the zone.
    pub bus: BusKind,
    /// The write; 1 to 8 bytes.
    pub access: Access,
    /// The data, as the guest has it in memory; bytes beyond the length are 0.
    pub data: [u8; 8],
}

impl Entry {
    /// Returns the bytes of `struct kvm_coalesced_mmio`.
    pub fn to_bytes(&self) -> [u8; RING_ENTRY_SIZE as usize] {
        let pio = match self.bus {
            BusKind::Mmio => 0u32,
            BusKind::Pio => 1,
        };
        let fields = (self.access.addr.0.to_ne_bytes().into_iter())
            .chain(self.access.len.to_ne_bytes())
            .chain(pio.to_ne_bytes())
            .chain(self.data);
        let mut bytes = [0; RING_ENTRY_SIZE as usize];
        for (byte, field) in bytes.iter_mut().zip(fields) {
            *byte = field;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(addr: u64, size: u32, pio: u32) -> Zone {
        Zone::parse(&RawZone { addr, size, pio }).unwrap()
    }

    fn write(addr: u64, len: u32) -> Access {
        Access {
            addr: BusAddr(addr),
            len,
        }
    }

    #[test]
    fn pio_is_zero_or_one() {
        for pio in [2, 3, u32::MAX] {
            assert_eq!(
                Zone::parse(&RawZone {
                    addr: 0,
                    size: 8,
                    pio
                }),
                Err(BusError::Range)
            );
        }
        assert_eq!(zone(0, 8, 0).bus(), BusKind::Mmio);
        assert_eq!(zone(0, 8, 1).bus(), BusKind::Pio);
    }

    #[test]
    fn a_zone_takes_writes_wholly_inside() {
        let it = zone(0x1000, 16, 0);
        assert!(it.takes(write(0x1000, 8)));
        assert!(it.takes(write(0x100f, 1)));
        assert!(!it.takes(write(0x0fff, 2)));
        assert!(!it.takes(write(0x100f, 2)));
        assert!(!it.takes(write(u64::MAX, 4)));
        assert!(!it.takes(write(0x1000, 9)), "does not fit an entry");
        assert!(!it.takes(write(0x1000, 0)), "nothing to store");
        assert!(!zone(0x1000, 0, 0).takes(write(0x1000, 1)));
    }

    #[test]
    fn unregistering_removes_the_zones_around() {
        let it = zone(0x1000, 16, 0);
        assert!(it.unregisters(&it));
        assert!(zone(0x1004, 4, 0).unregisters(&it));
        assert!(!zone(0x1000, 17, 0).unregisters(&it));
        assert!(!zone(0x0fff, 4, 0).unregisters(&it));
        assert!(!zone(0x1000, 16, 1).unregisters(&it));
    }

    #[test]
    fn ring_holds_all_but_one_entry() {
        for first in 0..RING_ENTRIES {
            let mut last = first;
            let mut nr = 0;
            while let Some(reserved) = reserve(first, last) {
                assert_eq!(reserved.offset, 8 + 24 * last);
                assert!(reserved.offset + RING_ENTRY_SIZE <= 4096);
                last = reserved.next_last;
                nr += 1;
            }
            assert_eq!(nr, RING_ENTRIES - 1);
        }
    }

    #[test]
    fn wild_indices_never_leave_the_page() {
        for last in [RING_ENTRIES, RING_ENTRIES + 1, u32::MAX] {
            assert_eq!(reserve(0, last), None);
        }
        assert_eq!(
            reserve(u32::MAX, 169),
            Some(Reserved {
                offset: 4064,
                next_last: 0
            })
        );
    }

    #[test]
    fn entry_has_the_layout_of_the_abi() {
        let entry = Entry {
            bus: BusKind::Pio,
            access: write(0x80, 2),
            data: [0xef, 0xbe, 0, 0, 0, 0, 0, 0],
        };
        let mut expected = [0; 24];
        expected[0] = 0x80;
        expected[8] = 2;
        expected[12] = 1;
        expected[16..18].copy_from_slice(&[0xef, 0xbe]);
        assert_eq!(entry.to_bytes(), expected);
    }
}
