// SPDX-License-Identifier: GPL-2.0

//! Dirty rings: the states of an entry, the indices of a ring, and the reset of harvested entries.
//!
//! `KVM_CAP_DIRTY_LOG_RING` in api.rst. Each vCPU has a ring that userspace maps: the kernel fills
//! entries and sets them dirty, userspace harvests them in order and marks them, and
//! `KVM_RESET_DIRTY_RINGS` gives them back and lets writes to their pages fault again. Userspace
//! may write anything to an entry at any time; only its flags are ever believed, and its page only
//! after the usual lookup.

use crate::memslot::SlotId;

/// The size in bytes of `struct kvm_dirty_gfn`.
pub const ENTRY_SIZE: u32 = 16;

/// The most entries of a ring.
pub const MAX_ENTRIES: u32 = 65536;

/// The entries that stay free for what an exit may still push after the soft limit, besides those
/// that the CPU's own log of dirty pages may bring.
pub const RESERVED_ENTRIES: u32 = 64;

/// The state of an entry: `kvm_dirty_gfn::flags`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryState {
    /// Free for the kernel to fill: flags `00`.
    Invalid,
    /// Filled, for userspace to harvest: flags `01`.
    Dirty,
    /// Harvested by userspace, to be reset: flags `1X`.
    Harvested,
}

impl EntryState {
    /// Takes the state out of the flags that userspace may have written.
    pub const fn from_flags(flags: u32) -> Self {
        match flags & 3 {
            0 => Self::Invalid,
            1 => Self::Dirty,
            _ => Self::Harvested,
        }
    }

    /// Returns the flags.
    pub const fn flags(self) -> u32 {
        match self {
            Self::Invalid => 0,
            Self::Dirty => 1,
            Self::Harvested => 2,
        }
    }

    /// Returns the state that follows: filled by the kernel, harvested by userspace, reset by the
    /// kernel.
    pub const fn next(self) -> Self {
        match self {
            Self::Invalid => Self::Dirty,
            Self::Dirty => Self::Harvested,
            Self::Harvested => Self::Invalid,
        }
    }
}

/// Why the size of the rings is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RingSizeError {
    /// It is no power of 2, less than a page, or has no room beyond the reserve. Becomes `EINVAL`.
    Invalid,
    /// It has more than [`MAX_ENTRIES`]. Becomes `E2BIG`.
    TooBig,
}

/// The indices of a ring. They count on without end, modulo 2^32; entries are those modulo the
/// size.
///
/// # Invariants
///
/// `size` is a power of 2; `dirty - reset` is at most `size`.
#[derive(Clone, Debug)]
pub struct Ring {
    size: u32,
    soft_limit: u32,
    dirty: u32,
    reset: u32,
}

impl Ring {
    /// Makes an empty ring of `size_bytes`; `nr_logged_by_cpu` is how many pages the CPU's own log
    /// may bring at once, 0 without one.
    ///
    /// # Errors
    ///
    /// [`RingSizeError`].
    pub fn new(size_bytes: u32, nr_logged_by_cpu: u16) -> Result<Self, RingSizeError> {
        let size = size_bytes / ENTRY_SIZE;
        let reserved = RESERVED_ENTRIES.wrapping_add(u32::from(nr_logged_by_cpu));
        let is_page = u64::from(size_bytes) >= crate::addr::PAGE_SIZE;
        if !size_bytes.is_power_of_two() || !is_page || size < reserved {
            return Err(RingSizeError::Invalid);
        }
        if size > MAX_ENTRIES {
            return Err(RingSizeError::TooBig);
        }
        Ok(Self {
            size,
            soft_limit: size.wrapping_sub(reserved),
            dirty: 0,
            reset: 0,
        })
    }

    /// Returns the number of entries that are dirty or harvested.
    #[inline]
    pub const fn nr_used(&self) -> u32 {
        self.dirty.wrapping_sub(self.reset)
    }

    /// Returns whether the vCPU has to return to userspace.
    #[inline]
    pub const fn is_soft_full(&self) -> bool {
        self.nr_used() >= self.soft_limit
    }

    /// Takes an entry to fill, and returns its index; `None` when the ring is full, which the soft
    /// limit keeps from happening.
    pub fn push(&mut self) -> Option<u32> {
        if self.nr_used() >= self.size {
            return None;
        }
        let index = self.wrap(self.dirty);
        self.dirty = self.dirty.wrapping_add(1);
        Some(index)
    }

    /// Returns the index of the entry to be reset next, if any is used.
    pub const fn oldest(&self) -> Option<u32> {
        if self.nr_used() == 0 {
            None
        } else {
            Some(self.wrap(self.reset))
        }
    }

    /// Gives the oldest entry back, if `state`, its own, is [`EntryState::Harvested`]; returns
    /// whether it was. The caller then writes [`EntryState::Invalid`].
    pub fn pop(&mut self, state: EntryState) -> bool {
        let is_harvested = matches!(state, EntryState::Harvested) && self.nr_used() != 0;
        if is_harvested {
            self.reset = self.reset.wrapping_add(1);
        }
        is_harvested
    }

    const fn wrap(&self, index: u32) -> u32 {
        index & self.size.wrapping_sub(1)
    }
}

/// Pages of one slot within 64 of one another, to be reset at once.
///
/// Offsets come from userspace's copy of the entries: whoever resets the batch checks that each
/// lies in the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Batch {
    /// The slot.
    pub slot: SlotId,
    /// The offset in the slot of the page of bit 0.
    pub offset: u64,
    /// A bit for each page, from `offset` up; never 0.
    pub mask: u64,
}

impl Batch {
    /// Makes a batch of one page.
    pub const fn new(slot: SlotId, offset: u64) -> Self {
        Self {
            slot,
            offset,
            mask: 1,
        }
    }

    /// Returns the batch with one more page, or `None` where it does not fit.
    pub fn with(self, slot: SlotId, offset: u64) -> Option<Self> {
        if slot != self.slot {
            return None;
        }
        if let Some(up) = offset.checked_sub(self.offset) {
            let bit = 1u64.checked_shl(u32::try_from(up).ok()?)?;
            return Some(Self {
                mask: self.mask | bit,
                ..self
            });
        }
        let down = u32::try_from(self.offset.checked_sub(offset)?).ok()?;
        if down > self.mask.leading_zeros() {
            return None;
        }
        Some(Self {
            offset,
            mask: self.mask.checked_shl(down)? | 1,
            ..self
        })
    }

    /// Returns the offset in the slot of the last page.
    pub const fn last(&self) -> u64 {
        let top = 63u32.saturating_sub(self.mask.leading_zeros());
        self.offset.saturating_add(top as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeSet;
    use std::collections::VecDeque;

    use proptest::prelude::*;

    const SLOT: SlotId = SlotId { as_id: 0, id: 1 };

    #[test]
    fn states_follow_one_another_in_a_circle() {
        use EntryState::*;
        assert_eq!(
            [Invalid, Dirty, Harvested].map(EntryState::next),
            [Dirty, Harvested, Invalid]
        );
        for (flags, state) in [(0, Invalid), (1, Dirty), (2, Harvested), (3, Harvested)] {
            assert_eq!(EntryState::from_flags(flags), state);
            assert_eq!(
                EntryState::from_flags(flags | !3),
                state,
                "other bits mean nothing"
            );
            assert_eq!(EntryState::from_flags(state.flags()), state);
        }
    }

    #[test]
    fn ring_sizes_have_bounds() {
        let error = |bytes, log| Ring::new(bytes, log).err();
        for bytes in [0, 1, 2048, 4097, 5 * 4096, u32::MAX] {
            assert_eq!(error(bytes, 0), Some(RingSizeError::Invalid), "{bytes}");
        }
        assert_eq!(error(4096, 0), None);
        assert_eq!(
            error(8192, 512),
            Some(RingSizeError::Invalid),
            "512 entries, 576 reserved"
        );
        assert_eq!(error(16384, 512), None);
        assert_eq!(error(1 << 20, 512), None);
        assert_eq!(error(1 << 21, 512), Some(RingSizeError::TooBig));
        assert_eq!(error(1 << 31, 512), Some(RingSizeError::TooBig));
    }

    #[test]
    fn the_soft_limit_leaves_the_reserve() {
        let mut ring = Ring::new(4096, 0).unwrap();
        while !ring.is_soft_full() {
            ring.push().unwrap();
        }
        assert_eq!(ring.nr_used(), 256 - RESERVED_ENTRIES);
        for _ in 0..RESERVED_ENTRIES {
            assert!(ring.push().is_some());
        }
        assert_eq!(ring.push(), None);
    }

    #[test]
    fn only_a_harvested_entry_is_given_back() {
        let mut ring = Ring::new(4096, 0).unwrap();
        assert!(!ring.pop(EntryState::Harvested), "none is used");
        assert_eq!(ring.oldest(), None);
        ring.push().unwrap();
        assert_eq!(ring.oldest(), Some(0));
        assert!(!ring.pop(EntryState::Dirty));
        assert!(!ring.pop(EntryState::Invalid));
        assert!(ring.pop(EntryState::Harvested));
        assert_eq!(ring.nr_used(), 0);
    }

    #[test]
    fn a_batch_reaches_64_pages_in_either_direction() {
        let up = Batch::new(SLOT, 100).with(SLOT, 163).unwrap();
        assert_eq!((up.offset, up.mask, up.last()), (100, 1 | 1 << 63, 163));
        assert_eq!(Batch::new(SLOT, 100).with(SLOT, 164), None);
        let down = Batch::new(SLOT, 100).with(SLOT, 37).unwrap();
        assert_eq!(
            (down.offset, down.mask, down.last()),
            (37, 1 | 1 << 63, 100)
        );
        assert_eq!(Batch::new(SLOT, 100).with(SLOT, 36), None);
        assert_eq!(up.with(SLOT, 99), None);
        assert_eq!(up.with(SLOT, u64::MAX), None);
        assert_eq!(Batch::new(SLOT, u64::MAX).with(SLOT, 0), None);
        assert_eq!(up.with(SlotId { as_id: 1, ..SLOT }, 101), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn a_batch_is_the_set_of_its_pages(offsets in prop::collection::vec(0..140u64, 1..40)) {
            let mut batch = Batch::new(SLOT, offsets[0]);
            let mut pages = BTreeSet::from([offsets[0]]);
            for &offset in &offsets {
                let mut wider = pages.clone();
                wider.insert(offset);
                let fits = wider.last().unwrap() - wider.first().unwrap() < 64;
                prop_assert_eq!(batch.with(SLOT, offset).is_some(), fits);
                if let Some(with) = batch.with(SLOT, offset) {
                    (batch, pages) = (with, wider);
                }
                let listed: BTreeSet<u64> = (0..64)
                    .filter(|bit| batch.mask >> bit & 1 != 0).map(|bit| batch.offset + bit)
                    .collect();
                prop_assert_eq!(&listed, &pages);
                prop_assert_eq!(Some(batch.last()), pages.last().copied());
            }
        }

        #[test]
        fn a_ring_behaves_as_a_queue(pushes in prop::collection::vec(any::<bool>(), 0..2000)) {
            let mut ring = Ring::new(4096, 0).unwrap();
            // Near the end of the count, to see it wrap.
            ring.dirty = u32::MAX - 255;
            ring.reset = ring.dirty;
            let mut queue = VecDeque::new();
            let mut next = 0;
            for is_push in pushes {
                if is_push {
                    let index = ring.push();
                    prop_assert_eq!(index, (queue.len() < 256).then_some(next));
                    if index.is_some() {
                        queue.push_back(next);
                        next = (next + 1) % 256;
                    }
                } else {
                    prop_assert_eq!(ring.oldest(), queue.front().copied());
                    prop_assert_eq!(ring.pop(EntryState::Harvested), queue.pop_front().is_some());
                }
                prop_assert_eq!(ring.nr_used() as usize, queue.len());
            }
        }
    }
}
