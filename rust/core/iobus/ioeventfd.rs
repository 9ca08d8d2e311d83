// SPDX-License-Identifier: GPL-2.0

//! Ioeventfds: a write of the guest to an address that signals an eventfd.
//!
//! `KVM_IOEVENTFD` in api.rst. An ioeventfd of length 0 takes a write of any length and value; on
//! the MMIO bus it is found by an [`Access`] of length 0 as well, before the write is decoded, so
//! no second bus is needed for that.

use super::Access;
use super::BusAddr;
use super::BusError;
use super::BusKind;
use super::BusRange;

crate::bitfield! {
    /// `kvm_ioeventfd::flags`.
    pub struct Flags(u32) {
        /// `KVM_IOEVENTFD_FLAG_DATAMATCH`: only writes of `datamatch` signal.
        0:0 datamatch, with_datamatch => bool;
        /// `KVM_IOEVENTFD_FLAG_PIO`: the address is a port.
        1:1 pio, with_pio => bool;
        /// `KVM_IOEVENTFD_FLAG_DEASSIGN`: take the ioeventfd away.
        2:2 deassign, with_deassign => bool;
        /// The number of this bit is reserved for fast MMIO in the ABI: accepted, without effect,
        /// as length 0 says the same.
        4:4 fast_mmio, with_fast_mmio => bool;
    }
}

impl Flags {
    /// The flags that an assignment may have. `KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY` (bit 3) is not
    /// among them: its bus exists on s390 only.
    const VALID: u32 = 0b1_0111;
}

/// The fields of `struct kvm_ioeventfd`, but for the eventfd.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RawIoEventFd {
    /// `datamatch`.
    pub datamatch: u64,
    /// `addr`.
    pub addr: u64,
    /// `len`, in bytes.
    pub len: u32,
    /// `flags`.
    pub flags: Flags,
}

/// What `KVM_IOEVENTFD` asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Register it, unless it [collides](IoEventFd::collides_with) with one that is there.
    Assign(IoEventFd),
    /// Remove the one that is equal to this and has the same eventfd; none: `ENOENT`. The fields
    /// are those that userspace gave: a value that could not be assigned equals none.
    Deassign(IoEventFd),
}

/// Why an ioeventfd is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoEventFdError {
    /// The length is not 0, 1, 2, 4 or 8, the address wraps, a flag is unknown, or a length of 0
    /// comes with `DATAMATCH`. Becomes `EINVAL`.
    Invalid,
    /// There is one already that takes writes that this one would. Becomes `EEXIST`.
    Exists,
}

/// An ioeventfd, but for its eventfd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoEventFd {
    /// The bus that it is on.
    pub bus: BusKind,
    /// The address of the writes that it takes.
    pub addr: BusAddr,
    /// The length of the writes that it takes, in bytes; 0 for any.
    pub len: u32,
    /// The value of the writes that it takes, zero-extended; `None` for any.
    pub datamatch: Option<u64>,
}

impl Request {
    /// Converts and checks the argument of `KVM_IOEVENTFD`.
    ///
    /// A removal is not checked, as upstream does not: it looks for an equal one and finds none.
    ///
    /// # Errors
    ///
    /// [`IoEventFdError::Invalid`].
    pub fn parse(raw: &RawIoEventFd) -> Result<Self, IoEventFdError> {
        let wanted = IoEventFd {
            bus: if raw.flags.pio() {
                BusKind::Pio
            } else {
                BusKind::Mmio
            },
            addr: BusAddr(raw.addr),
            len: raw.len,
            datamatch: raw.flags.datamatch().then_some(raw.datamatch),
        };
        if raw.flags.deassign() {
            return Ok(Request::Deassign(wanted));
        }
        let is_valid = matches!(raw.len, 0 | 1 | 2 | 4 | 8)
            && wanted.range().is_ok()
            && raw.flags.0 & !Flags::VALID == 0
            && !(raw.len == 0 && raw.flags.datamatch());
        if is_valid {
            Ok(Request::Assign(wanted))
        } else {
            Err(IoEventFdError::Invalid)
        }
    }
}

impl IoEventFd {
    /// Returns the range to register it for.
    ///
    /// # Errors
    ///
    /// [`BusError::Range`]: not one that was assigned.
    pub const fn range(&self) -> Result<BusRange, BusError> {
        BusRange::new(self.addr, self.len as u64)
    }

    /// Returns whether a write exists that both would take, in which case they cannot both be
    /// assigned ([`IoEventFdError::Exists`]).
    pub fn collides_with(&self, other: &Self) -> bool {
        if self.bus != other.bus || self.addr != other.addr {
            return false;
        }
        if self.len == 0 || other.len == 0 {
            return true;
        }
        self.len == other.len
            && match (self.datamatch, other.datamatch) {
                (Some(one), Some(another)) => one == another,
                (None, _) | (_, None) => true,
            }
    }

    /// Checks that it can join `others`: those that [`super::starting_at`] finds at its address.
    ///
    /// # Errors
    ///
    /// [`IoEventFdError::Exists`]: it [collides](Self::collides_with) with one of them.
    pub fn check_collision<'a>(
        &self,
        others: impl IntoIterator<Item = &'a Self>,
    ) -> Result<(), IoEventFdError> {
        if others.into_iter().any(|other| self.collides_with(other)) {
            return Err(IoEventFdError::Exists);
        }
        Ok(())
    }

    /// Returns whether a write of `value` signals it.
    ///
    /// `value` is the data zero-extended to 64 bits; it does not matter for an access of length 0,
    /// whose data is not known.
    pub fn takes(&self, access: Access, value: u64) -> bool {
        self.addr == access.addr
            && (self.len == 0
                || self.len == access.len && self.datamatch.is_none_or(|wanted| wanted == value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(addr: u64, len: u32, flags: u32, datamatch: u64) -> RawIoEventFd {
        RawIoEventFd {
            datamatch,
            addr,
            len,
            flags: Flags(flags),
        }
    }

    fn assigned(raw: RawIoEventFd) -> IoEventFd {
        match Request::parse(&raw) {
            Ok(Request::Assign(it)) => it,
            other => panic!("{other:?}"),
        }
    }

    fn write(addr: u64, len: u32) -> Access {
        Access {
            addr: BusAddr(addr),
            len,
        }
    }

    #[test]
    fn lengths_are_natural_words_or_none() {
        for len in 0..=17 {
            let is_ok = Request::parse(&raw(0x1000, len, 0, 0)).is_ok();
            assert_eq!(is_ok, [0, 1, 2, 4, 8].contains(&len), "{len}");
        }
    }

    #[test]
    fn length_zero_with_datamatch_is_invalid() {
        assert_eq!(
            Request::parse(&raw(0, 0, 1, 0)),
            Err(IoEventFdError::Invalid)
        );
    }

    #[test]
    fn an_address_that_wraps_is_invalid() {
        assert_eq!(
            Request::parse(&raw(u64::MAX - 7, 8, 0, 0)),
            Err(IoEventFdError::Invalid)
        );
        assert!(Request::parse(&raw(u64::MAX - 8, 8, 0, 0)).is_ok());
        assert!(Request::parse(&raw(u64::MAX, 0, 0, 0)).is_ok());
    }

    #[test]
    fn unknown_flags_are_invalid_for_assignment_only() {
        for bit in (3..4).chain(5..32) {
            let flags = 1 << bit;
            assert_eq!(
                Request::parse(&raw(0, 4, flags, 0)),
                Err(IoEventFdError::Invalid)
            );
            assert!(Request::parse(&raw(0, 4, flags | 4, 0)).is_ok());
        }
        assert_eq!(assigned(raw(0, 4, 1 << 4, 0)), assigned(raw(0, 4, 0, 0)));
    }

    #[test]
    fn pio_and_mmio_are_told_apart() {
        assert_eq!(assigned(raw(0x60, 1, 2, 0)).bus, BusKind::Pio);
        assert_eq!(assigned(raw(0x60, 1, 0, 0)).bus, BusKind::Mmio);
        assert!(!assigned(raw(0x60, 1, 2, 0)).collides_with(&assigned(raw(0x60, 1, 0, 0))));
    }

    #[test]
    fn deassignment_equals_what_was_assigned() {
        let it = assigned(raw(0x10, 4, 1, 7));
        assert_eq!(
            Request::parse(&raw(0x10, 4, 1 | 4, 7)),
            Ok(Request::Deassign(it))
        );
        for other in [
            raw(0x10, 4, 4, 7),
            raw(0x10, 4, 5, 8),
            raw(0x10, 2, 5, 7),
            raw(0, 4, 5, 7),
        ] {
            assert_ne!(Request::parse(&other), Ok(Request::Deassign(it)));
        }
    }

    #[test]
    fn collision_is_a_write_that_both_take() {
        let kinds = [
            raw(0x10, 0, 0, 0),
            raw(0x10, 2, 0, 0),
            raw(0x10, 4, 0, 0),
            raw(0x10, 4, 1, 1),
            raw(0x10, 4, 1, 2),
            raw(0x12, 2, 0, 0),
        ]
        .map(assigned);
        for a in kinds {
            for b in kinds {
                let is_taken_by_both = [0x10, 0x12].iter().any(|&addr| {
                    [1, 2, 4, 8].iter().any(|&len| {
                        (0..4).any(|value| {
                            a.takes(write(addr, len), value) && b.takes(write(addr, len), value)
                        })
                    })
                });
                assert_eq!(a.collides_with(&b), is_taken_by_both, "{a:?} {b:?}");
            }
        }
        let [any, word, _, one, two, _] = kinds;
        assert_eq!(two.check_collision(&[word, one]), Ok(()));
        assert_eq!(
            two.check_collision(&[word, any]),
            Err(IoEventFdError::Exists)
        );
    }

    #[test]
    fn a_match_needs_address_length_and_value() {
        let exact = assigned(raw(0x10, 4, 1, 0xabcd));
        assert!(exact.takes(write(0x10, 4), 0xabcd));
        assert!(!exact.takes(write(0x10, 4), 0xabce));
        assert!(!exact.takes(write(0x10, 2), 0xabcd));
        assert!(!exact.takes(write(0x11, 4), 0xabcd));
        assert!(!exact.takes(write(0x10, 0), 0xabcd));
    }

    #[test]
    fn length_zero_takes_any_write_at_the_address_even_undecoded() {
        let any = assigned(raw(0x10, 0, 0, 0));
        for len in [0, 1, 2, 4, 8] {
            assert!(any.takes(write(0x10, len), 99));
            assert!(!any.takes(write(0x11, len), 99));
        }
    }

    #[test]
    fn a_datamatch_wider_than_the_write_never_matches() {
        let it = assigned(raw(0x10, 1, 1, 0x1ff));
        assert!((0..256).all(|value| !it.takes(write(0x10, 1), value)));
    }
}
