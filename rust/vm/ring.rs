// SPDX-License-Identifier: GPL-2.0

//! The dirty ring of a vCPU: which pages were written while it was loaded, for userspace to harvest.
//!
//! The entries are in pages that userspace maps. Only the flags of an entry are believed that came back
//! from there; what it names is looked up as if userspace had asked for it.

use burrow_core::{
    dirty::ring::{
        Batch,
        EntryState,
        Ring,
        RingSizeError,
        ENTRY_SIZE, //
    },
    memslot::SlotId,
};
use burrow_sys::{
    context,
    run_page::SharedPage, //
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::SpinLockIrq, //
};

/// The first page of the ring in the mapping of a vCPU.
pub(crate) const PAGE_OFFSET: usize = 64;

/// Where `struct kvm_dirty_gfn` has its fields.
const FLAGS_AT: usize = 0;
const SLOT_AT: usize = 4;
const OFFSET_AT: usize = 8;

const ENTRIES_PER_PAGE: usize = kernel::page::PAGE_SIZE / ENTRY_SIZE as usize;

/// The size of the rings that a VM's vCPUs get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingSize {
    bytes: u32,
    nr_logged_by_cpu: u16,
}

impl RingSize {
    /// Checks a size in bytes; `nr_logged_by_cpu` pages may come at once from the CPU's own log.
    ///
    /// # Errors
    ///
    /// `EINVAL`, `E2BIG` for a size that no ring can have.
    pub(crate) fn new(bytes: u32, nr_logged_by_cpu: u16) -> Result<Self> {
        Ring::new(bytes, nr_logged_by_cpu).map_err(errno)?;
        Ok(Self {
            bytes,
            nr_logged_by_cpu,
        })
    }
}

fn errno(error: RingSizeError) -> Error {
    match error {
        RingSizeError::Invalid => EINVAL,
        RingSizeError::TooBig => E2BIG,
    }
}

/// A ring. Its lock is innermost, and taken with interrupts off.
#[pin_data]
pub(crate) struct DirtyRing {
    #[pin]
    ring: SpinLockIrq<Indices>,
    pages: KVec<SharedPage>,
}

struct Indices {
    ring: Ring,
    /// The entry that was filled last, and what it names.
    last: Option<(u32, SlotId, u64)>,
}

/// How a push left the ring.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Pushed {
    /// There is room.
    HasRoom,
    /// The vCPU must not run until userspace has made room.
    SoftFull,
}

impl DirtyRing {
    /// Makes an empty ring.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(size: RingSize) -> Result<Pin<KBox<Self>>> {
        let ring = Ring::new(size.bytes, size.nr_logged_by_cpu).map_err(errno)?;
        let nr_pages = size.bytes as usize / kernel::page::PAGE_SIZE;
        let mut pages = KVec::with_capacity(nr_pages, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..nr_pages {
            pages.push(SharedPage::new()?, GFP_KERNEL_ACCOUNT)?;
        }
        let indices = Indices { ring, last: None };
        KBox::pin_init(
            pin_init!(Self {
                ring <- new_spinlock_irq!(indices, "kvm_dirty_ring"),
                pages,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the pages for userspace, each with its place in the mapping.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (usize, &SharedPage)> {
        (PAGE_OFFSET..).zip(self.pages.iter())
    }

    /// Returns whether the vCPU must not run.
    pub(crate) fn is_soft_full(&self) -> bool {
        self.ring.lock().ring.is_soft_full()
    }

    /// Adds the page `offset` pages from the start of `slot`, which has been or may be written from now
    /// on. A page that is the last entry already, and not harvested, needs no other.
    pub(crate) fn push(&self, slot: SlotId, offset: u64) -> Pushed {
        let mut indices = self.ring.lock();
        let is_there = matches!(indices.last, Some((index, last, at))
            if (last, at) == (slot, offset) && self.state(index) == EntryState::Dirty);
        if !is_there {
            if let Some(index) = indices.ring.push() {
                self.write(index, SLOT_AT, slot.into_raw());
                self.write(index, OFFSET_AT, offset);
                // Last: userspace harvests what it sees as dirty. Stores are seen in their order.
                self.write(index, FLAGS_AT, EntryState::Dirty.flags());
                indices.last = Some((index, slot, offset));
            }
        }
        match indices.ring.is_soft_full() {
            true => Pushed::SoftFull,
            false => Pushed::HasRoom,
        }
    }

    /// Takes back what userspace has harvested, and hands it to `reset` in batches; returns the number
    /// of entries. The caller serialises resets.
    ///
    /// # Errors
    ///
    /// `EINTR` when a signal is pending; what was taken back has been handed on.
    pub(crate) fn reset(&self, mut reset: impl FnMut(&Batch)) -> Result<usize> {
        let mut count = 0;
        let mut batch: Option<Batch> = None;
        let mut end = Ok(());
        while let Some((slot, offset)) = self.pop() {
            count += 1;
            batch = match batch.map(|batch| (batch, batch.with(slot, offset))) {
                Some((_, Some(grown))) => Some(grown),
                Some((full, None)) => {
                    reset(&full);
                    Some(Batch::new(slot, offset))
                }
                None => Some(Batch::new(slot, offset)),
            };
            if context::signal_pending() {
                end = Err(EINTR);
                break;
            }
        }
        if let Some(batch) = batch {
            reset(&batch);
        }
        end.map(|()| count)
    }

    /// Takes the oldest entry back, if userspace has harvested it.
    fn pop(&self) -> Option<(SlotId, u64)> {
        let mut indices = self.ring.lock();
        let index = indices.ring.oldest()?;
        if !indices.ring.pop(self.state(index)) {
            return None;
        }
        let slot = SlotId::from_raw(self.read(index, SLOT_AT));
        let offset = self.read(index, OFFSET_AT);
        self.write(index, FLAGS_AT, EntryState::Invalid.flags());
        Some((slot, offset))
    }

    fn state(&self, index: u32) -> EntryState {
        EntryState::from_flags(self.read(index, FLAGS_AT))
    }

    fn place(&self, index: u32) -> Option<(&SharedPage, usize)> {
        let index = index as usize;
        let at = index % ENTRIES_PER_PAGE * ENTRY_SIZE as usize;
        Some((self.pages.get(index / ENTRIES_PER_PAGE)?, at))
    }

    fn read<T: burrow_sys::uapi::Plain>(&self, index: u32, field: usize) -> T {
        self.place(index)
            .map_or(T::zeroed(), |(page, at)| page.read(at + field))
    }

    fn write<T: burrow_sys::uapi::Plain>(&self, index: u32, field: usize, value: T) {
        if let Some((page, at)) = self.place(index) {
            page.write(at + field, value);
        }
    }
}

/// Who logs written pages in rings.
pub(crate) trait DirtyRings: Send + Sync {
    /// Adds the page `offset` pages from the start of `slot` to the ring of the vCPU that the current
    /// task has loaded.
    ///
    /// # Context
    ///
    /// Any but NMI.
    fn push(&self, slot: SlotId, offset: u64);
}
