// SPDX-License-Identifier: GPL-2.0

//! The state under `mmu_lock`: the root table and the notifier's sequence.

use super::shadow::Shadow;
use burrow_core::{
    addr::Hva,
    x86::ept::EptFeatures, //
};
use burrow_sys::pt_page::{
    Retired,
    Table, //
};
use kernel::prelude::*;

/// What the holder of `mmu_lock` owes before it lets go, or right after.
#[derive(Default)]
pub(super) struct Debt {
    /// TLBs may hold what entries do not allow any more.
    pub(super) flush: bool,
    /// Tables to free once TLBs are flushed.
    pub(super) retired: Retired,
}

impl Debt {
    /// Returns whether there is anything to pay.
    pub(super) fn is_due(&self) -> bool {
        self.flush || !self.retired.is_empty()
    }
}

/// Where the host's invalidations were when a fault began to look for its page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Sequence(u64);

/// The EPT and what the host is changing.
pub(super) struct Mmu {
    pub(super) root: KBox<Table>,
    pub(super) features: EptFeatures,
    /// Shadows of the EPT of guest hypervisors.
    pub(super) shadows: KVec<Shadow>,
    /// The number of invalidations, of memory that a slot has, that are over.
    sequence: u64,
    /// The number of those under way.
    under_way: u64,
    /// A range of the VMM's addresses that holds all that are under way.
    start: Hva,
    end: Hva,
    /// The address space is gone.
    is_released: bool,
}

impl Mmu {
    /// Makes the state with an empty root table.
    pub(super) fn new(root: KBox<Table>, features: EptFeatures) -> Self {
        Self {
            root,
            features,
            shadows: KVec::new(),
            sequence: 0,
            under_way: 0,
            start: Hva(0),
            end: Hva(0),
            is_released: false,
        }
    }

    /// Returns the sequence, for [`may_map`](Self::may_map); to be read before the page is looked
    /// for.
    pub(super) fn sequence(&self) -> Sequence {
        Sequence(self.sequence)
    }

    /// Returns whether a page found since `sequence` was read may be mapped, for addresses
    /// `start..end`.
    pub(super) fn may_map(&self, sequence: Sequence, start: Hva, end: Hva) -> bool {
        let is_forbidden = self.under_way != 0 && start < self.end && self.start < end;
        !is_forbidden && !self.is_released && self.sequence() == sequence
    }

    /// Notes that an invalidation of `start..end` begins.
    pub(super) fn invalidate_start(&mut self, start: Hva, end: Hva) {
        if self.under_way == 0 {
            (self.start, self.end) = (start, end);
        } else {
            // One range for all: it may forbid too much, for a moment.
            self.start = self.start.min(start);
            self.end = self.end.max(end);
        }
        self.under_way = self.under_way.saturating_add(1);
    }

    /// Moves the sequence on: pages found before now may not be mapped.
    pub(super) fn advance(&mut self) {
        self.sequence = self.sequence.wrapping_add(1);
    }

    /// Notes that an invalidation is over.
    pub(super) fn invalidate_end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Forbids all mappings from now on.
    pub(super) fn release(&mut self) {
        self.is_released = true;
    }
}
