// SPDX-License-Identifier: GPL-2.0

//! The log of pages that are written: a bitmap for each slot, or the rings of the vCPUs ([`ring`]).
//!
//! [`ring`]: super::ring

use crate::vm::ring::DirtyRings;
use burrow_core::{
    dirty::{
        self,
        Bit, //
    },
    memslot::SlotId,
};
use kernel::{
    alloc::KVVec,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc,
    },
};

/// How a bitmap starts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Initially {
    /// No page is dirty.
    Clean,
    /// Every page is (`KVM_DIRTY_LOG_INITIALLY_SET`).
    Dirty,
}

/// What a slot that is logged from now on gets.
pub(crate) enum NewLog {
    /// A bitmap.
    Bitmap(Initially),
    /// Entries in rings.
    Rings(Arc<dyn DirtyRings>),
}

impl NewLog {
    /// Returns whether no page is in the log at first, so that the first write to each must be seen.
    pub(crate) fn starts_clean(&self) -> bool {
        !matches!(self, Self::Bitmap(Initially::Dirty))
    }
}

/// Where the writes to a slot are logged.
pub(crate) enum Log {
    /// In a bitmap of its own.
    Bitmap(DirtyBitmap),
    /// In the rings of the vCPUs.
    Rings {
        /// The slot's name.
        slot: SlotId,
        /// The rings.
        rings: Arc<dyn DirtyRings>,
    },
}

impl Log {
    /// Makes the log of `slot`, which has `npages` pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(slot: SlotId, npages: u64, log: &NewLog) -> Result<Self> {
        Ok(match log {
            NewLog::Bitmap(initially) => Self::Bitmap(DirtyBitmap::new(npages, *initially)?),
            NewLog::Rings(rings) => Self::Rings {
                slot,
                rings: rings.clone(),
            },
        })
    }

    /// Logs the page `offset` pages from the start of the slot.
    #[inline]
    pub(crate) fn set(&self, offset: u64) {
        match self {
            Self::Bitmap(bitmap) => bitmap.set(offset),
            Self::Rings { slot, rings } => rings.push(*slot, offset),
        }
    }
}

/// One bit per page of a slot.
pub(crate) struct DirtyBitmap {
    words: KVVec<Atomic<u64>>,
}

impl DirtyBitmap {
    /// Makes the bitmap of a slot of `npages` pages.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(npages: u64, initially: Initially) -> Result<Self> {
        let count = dirty::nr_words(npages);
        let mut words = KVVec::with_capacity(usize::try_from(count)?, GFP_KERNEL_ACCOUNT)?;
        for word in 0..count {
            let bits = match initially {
                Initially::Clean => 0,
                Initially::Dirty => dirty::valid_bits(word, npages),
            };
            words.push(Atomic::new(bits), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self { words })
    }

    fn word(&self, index: u64) -> Option<&Atomic<u64>> {
        self.words.get(usize::try_from(index).ok()?)
    }

    /// Marks the page `offset` pages from the start of the slot.
    #[inline]
    pub(crate) fn set(&self, offset: u64) {
        let bit = Bit::of(offset);
        let Some(word) = self.word(bit.word) else {
            return;
        };
        let mut old = word.load(Relaxed);
        while old & bit.mask == 0 {
            match word.cmpxchg(old, old | bit.mask, Full) {
                Ok(_) => return,
                Err(found) => old = found,
            }
        }
    }

    /// Returns word `index`; 0 beyond the end.
    pub(crate) fn get(&self, index: u64) -> u64 {
        self.word(index).map_or(0, |word| word.load(Relaxed))
    }

    /// Clears the bits of `mask` in word `index` and returns those that were set.
    pub(crate) fn clear(&self, index: u64, mask: u64) -> u64 {
        let Some(word) = self.word(index) else {
            return 0;
        };
        let mut old = word.load(Relaxed);
        while old & mask != 0 {
            match word.cmpxchg(old, old & !mask, Full) {
                Ok(_) => return old & mask,
                Err(found) => old = found,
            }
        }
        0
    }
}
