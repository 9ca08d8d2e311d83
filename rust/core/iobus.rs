// SPDX-License-Identifier: GPL-2.0

//! The I/O bus: which device claims an access.
//!
//! A bus is a slice of [`Entry`], sorted and augmented, that the caller owns and publishes to the
//! vCPUs. A registration covers a range, yet the device behind it tests addresses itself, so it may
//! have holes, and may move within its range; ranges may overlap. A lookup therefore yields
//! candidates, most specific first, and the caller asks one after the other until one claims the
//! access; when none does, the access goes to userspace. A vCPU's own bus is asked before the VM's.
//!
//! # Cost
//!
//! The entries are sorted by start, and each holds the highest end of an implicit balanced tree
//! over the slice: `k` candidates among `n` entries cost `O((k + 1) log n)`, however long and
//! however many the ranges are that begin below the address and do not reach it.
//!
//! # Changing a bus
//!
//! [`validate_insert`], [`insert_position`], insert there, [`rebuild_max_end`]. To remove: find
//! the entry among [`starting_at`], remove it, [`rebuild_max_end`]. Nothing here allocates; the
//! caller copies the slice to a larger one first where it must grow.

pub mod coalesced;
pub mod ioeventfd;

use core::cmp::Reverse;
use core::ops::Range;

use crate::addr::Gpa;

/// The most devices and coalesced zones that one bus holds.
///
/// The same figure as upstream's `NR_IOBUS_DEVS`, so a VMM meets the same limit on both. It bounds
/// what a copy of the bus costs at each registration; the cost of a lookup does not need it.
pub const MAX_DEVICES: usize = 1000;

/// The most ioeventfds that one bus holds, apart from [`MAX_DEVICES`].
///
/// Upstream sets no limit but the number of open files, which does not hold: one eventfd serves any
/// number of addresses. This one is far beyond what a VMM with thousands of queues asks for.
pub const MAX_IOEVENTFDS: usize = 65536;

/// An address on a bus: a guest-physical address for MMIO, a port number for PIO.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct BusAddr(pub u64);

impl From<Gpa> for BusAddr {
    #[inline]
    fn from(gpa: Gpa) -> Self {
        Self(gpa.0)
    }
}

/// The address space that a bus serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BusKind {
    /// Guest-physical addresses that no memory slot backs.
    Mmio,
    /// I/O ports.
    Pio,
}

/// What an [`Entry`] is counted as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A device model or a coalesced zone, counted against [`MAX_DEVICES`].
    Device,
    /// An ioeventfd, counted against [`MAX_IOEVENTFDS`].
    IoEventFd,
}

/// Why a registration is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BusError {
    /// The range ends beyond 2^64 - 1. Becomes `EINVAL`.
    Range,
    /// The bus holds as many entries of the kind as it may. Becomes `ENOSPC`.
    Full,
}

/// The range that a registration covers.
///
/// A range of length 0 stands for accesses of any length at exactly its start.
///
/// # Invariants
///
/// `start + len <= u64::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusRange {
    start: BusAddr,
    len: u64,
}

impl BusRange {
    /// Makes the range of `len` bytes from `start`.
    ///
    /// # Errors
    ///
    /// [`BusError::Range`]: the end does not fit in 64 bits.
    pub const fn new(start: BusAddr, len: u64) -> Result<Self, BusError> {
        match start.0.checked_add(len) {
            Some(_) => Ok(Self { start, len }),
            None => Err(BusError::Range),
        }
    }

    /// Returns the first address.
    #[inline]
    pub const fn start(&self) -> BusAddr {
        self.start
    }

    /// Returns the length in bytes, 0 for "any access at the start".
    #[inline]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Returns whether the length is 0; such a range still matches accesses at its start.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the address after the last, the start itself for length 0.
    #[inline]
    const fn end(&self) -> u64 {
        self.start.0.wrapping_add(self.len)
    }

    /// Returns whether `access` may be for this range.
    ///
    /// It is when it lies in the range from its first byte to its last, or when the range has
    /// length 0 and starts where the access does. An access of length 0 (see [`Access`]) is for
    /// ranges of length 0 only.
    pub const fn admits(&self, access: Access) -> bool {
        if self.len == 0 {
            return self.start.0 == access.addr.0;
        }
        match access.end() {
            Some(end) => access.len != 0 && self.start.0 <= access.addr.0 && end <= self.end(),
            None => false,
        }
    }

    /// Returns the key that a bus is sorted by: the start, then the longest first.
    const fn key(&self) -> (BusAddr, Reverse<u64>) {
        (self.start, Reverse(self.len))
    }
}

/// An access by the guest.
///
/// Length 0 stands for "not known": a write whose instruction has not been decoded, which only an
/// ioeventfd of length 0 can take (what upstream calls fast MMIO).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// The address of the first byte.
    pub addr: BusAddr,
    /// The length in bytes, or 0 for "not known".
    pub len: u32,
}

impl Access {
    /// Returns the address after the last byte, or `None` past the end of the space.
    #[inline]
    const fn end(&self) -> Option<u64> {
        self.addr.0.checked_add(self.len as u64)
    }
}

/// A registration on a bus; `T` is the caller's handle of the device.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    range: BusRange,
    kind: EntryKind,
    /// The highest end in the subtree that this entry is the root of; see [`rebuild_max_end`].
    max_end: u64,
    /// The caller's handle of the device.
    pub device: T,
}

impl<T> Entry<T> {
    /// Makes an entry, to be inserted at [`insert_position`].
    #[inline]
    pub const fn new(range: BusRange, kind: EntryKind, device: T) -> Self {
        Self {
            range,
            kind,
            max_end: range.end(),
            device,
        }
    }

    /// Returns the range that it covers.
    #[inline]
    pub const fn range(&self) -> BusRange {
        self.range
    }

    /// Returns what it is counted as.
    #[inline]
    pub const fn kind(&self) -> EntryKind {
        self.kind
    }
}

/// Checks that `bus` has room for another entry of `kind`.
///
/// # Errors
///
/// [`BusError::Full`]: [`MAX_DEVICES`] or [`MAX_IOEVENTFDS`] is reached.
pub fn validate_insert<T>(bus: &[Entry<T>], kind: EntryKind) -> Result<(), BusError> {
    let limit = match kind {
        EntryKind::Device => MAX_DEVICES,
        EntryKind::IoEventFd => MAX_IOEVENTFDS,
    };
    if bus.len() < limit || bus.iter().filter(|entry| entry.kind == kind).count() < limit {
        Ok(())
    } else {
        Err(BusError::Full)
    }
}

/// Returns the index at which an entry for `range` goes, so that `bus` stays sorted.
///
/// Before the entries of the same range, if there are any: [`candidates`] walks down, so the one
/// registered first is asked first.
pub fn insert_position<T>(bus: &[Entry<T>], range: BusRange) -> usize {
    bus.partition_point(|entry| entry.range.key() < range.key())
}

/// Returns the indices of the entries that start at `addr`: where to look for one to remove, or for
/// an ioeventfd that a new one would collide with.
pub fn starting_at<T>(bus: &[Entry<T>], addr: BusAddr) -> Range<usize> {
    bus.partition_point(|entry| entry.range.start < addr)
        ..bus.partition_point(|entry| entry.range.start <= addr)
}

/// Computes what lookups need; to be called after each insertion or removal. `O(n)`.
///
/// The middle entry of a slice is the root of its tree, the halves beside it the subtrees, and so
/// on down; each root gets the highest end of its tree.
pub fn rebuild_max_end<T>(bus: &mut [Entry<T>]) {
    rebuild_subtree(bus);
}

/// Rebuilds the tree over `bus` and returns its highest end. At most 64 levels deep.
fn rebuild_subtree<T>(bus: &mut [Entry<T>]) -> u64 {
    let Some((lower, rest)) = bus.split_at_mut_checked(bus.len() / 2) else {
        return 0;
    };
    let Some((root, upper)) = rest.split_first_mut() else {
        return 0;
    };
    root.max_end = root
        .range
        .end()
        .max(rebuild_subtree(lower))
        .max(rebuild_subtree(upper));
    root.max_end
}

/// Returns the highest index below `bound` of an entry that ends at `end` or later. `O(log n)`.
fn last_reaching<T>(bus: &[Entry<T>], bound: usize, end: u64) -> Option<usize> {
    let middle = bus.len() / 2;
    let (lower, rest) = bus.split_at_checked(middle)?;
    let (root, upper) = rest.split_first()?;
    #[cfg(test)]
    tests::count_visit();
    if bound == 0 || root.max_end < end {
        return None;
    }
    if let Some(upper_bound) = bound.checked_sub(middle.wrapping_add(1)) {
        if let Some(index) = last_reaching(upper, upper_bound, end) {
            return Some(index.wrapping_add(middle).wrapping_add(1));
        }
        if root.range.end() >= end {
            return Some(middle);
        }
    }
    last_reaching(lower, bound, end)
}

/// Returns the indices of the entries that `access` may be for, in the order to ask them.
///
/// The order is: the highest start first, of those the shortest range first (an entry of length 0
/// before all), of those the one registered first. Where ranges are nested that is from the inside
/// out. Whether an entry is a candidate is said by [`BusRange::admits`].
pub fn candidates<T>(bus: &[Entry<T>], access: Access) -> Candidates<'_, T> {
    Candidates {
        bus,
        access,
        bound: bus.partition_point(|entry| entry.range.start <= access.addr),
    }
}

/// An iterator over candidates; see [`candidates`].
pub struct Candidates<'a, T> {
    bus: &'a [Entry<T>],
    access: Access,
    /// The entries at this index and above are done with, or start beyond the access.
    bound: usize,
}

impl<T> Iterator for Candidates<'_, T> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let below = self.bound.checked_sub(1)?;
        if !self.bus.get(below)?.range.admits(self.access) {
            // Only entries of length 0 admit an access of length 0, or one past the end of the
            // space, and they come first.
            let end = self.access.end().filter(|_| self.access.len != 0)?;
            self.bound = last_reaching(self.bus, below, end)?;
            return Some(self.bound);
        }
        self.bound = below;
        Some(below)
    }
}

#[cfg(test)]
mod tests;
