// SPDX-License-Identifier: GPL-2.0

//! Dirty logs: what userspace asks of them, and the protection of pages that makes them.

use super::{
    GuestMemory,
    Shared,
    MANUAL_PROTECT_ENABLE, //
};
use crate::vm::{
    dirty::DirtyBitmap,
    memslots::SlotRef,
    ring::DirtyRings, //
};
use burrow_core::{
    addr::{
        Gfn,
        Level, //
    },
    dirty::{
        self,
        ring::Batch,
        ClearRange,
        LogError,
        Tracking, //
    },
    memslot::{
        SlotId,
        SlotView, //
    },
    x86::{
        ept::EptEntry,
        tdp::{
            self,
            Change,
            DirtyLog, //
        },
    },
};
use burrow_sys::{
    context,
    uapi, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
};

/// Words of a bitmap that are handled at a time: 32768 pages.
const WORDS_AT_A_TIME: u64 = 512;

/// Pages that are protected at a time: how long `mmu_lock` is held.
const PAGES_AT_A_TIME: u64 = WORDS_AT_A_TIME * 64;

/// What becomes of the shadows of guests' EPTs where frames are protected.
#[derive(Clone, Copy)]
enum Shadows {
    /// They map the frames as such whose writes nobody logs.
    Empty,
    /// They know the frames as logged ones.
    Protect,
}

impl GuestMemory {
    /// Marks `gfn` as written, as page-modification logs and the host's own writes call for. Without
    /// effect where writes are not logged.
    ///
    /// # Context
    ///
    /// Any but NMI.
    pub(crate) fn mark_dirty(&self, gfn: Gfn) {
        if let Some(slot) = self.shared.slots.read().by_gfn(gfn) {
            slot.mark_dirty(gfn);
        }
    }

    /// Copies the dirty bitmap of `slot` to userspace address `to`, and unless clearing is manual
    /// clears it: `KVM_GET_DIRTY_LOG`.
    ///
    /// What vCPUs wrote before the call is in it: with page-modification logging, they leave the guest,
    /// where they empty their logs.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENXIO` where the VM logs by rings, `EINVAL` for a name that no slot can have, `ENOENT` where
    /// the slot is not there or not logged, `EFAULT` where the bitmap cannot be written, `ENOMEM`
    /// when there is no memory.
    pub(crate) fn get_dirty_log(&self, slot: u32, to: usize) -> Result {
        let shared = &self.shared;
        let slots = shared.slots.lock();
        shared.drain_cpu_logs();
        let slot = {
            let id = shared.check_name(slot)?;
            let table = slots.read();
            dirty::logged(table.by_id(id)).map_err(errno)?.clone()
        };
        let bitmap = slot.bitmap().ok_or(ENOENT)?;
        let clears = shared.manual_protect.load(Relaxed) & MANUAL_PROTECT_ENABLE == 0;
        let nr_words = dirty::nr_words(slot.npages());
        let mut words =
            KVec::with_capacity(usize::try_from(nr_words.min(WORDS_AT_A_TIME))?, GFP_KERNEL)?;
        let mut copied = Ok(());
        let mut flush = false;
        for (first, count) in chunks(0, nr_words) {
            words.clear();
            for word in first..first.saturating_add(count) {
                let bits = if clears {
                    shared.clear_word(&slot, bitmap, word, u64::MAX, &mut flush)
                } else {
                    bitmap.get(word)
                };
                // Has room, as the capacity is that of the largest chunk.
                copied = copied.and(words.push(bits, GFP_KERNEL).map_err(Error::from));
            }
            copied = copied.and_then(|()| uapi::write_slice(word_address(to, first), &words));
            context::cond_resched();
            if copied.is_err() {
                break;
            }
        }
        shared.flush_if(flush);
        copied
    }

    /// Clears the bits of the `num_pages` pages from `first_page` of `slot` that are set in the
    /// bitmap at userspace address `from`, and lets writes to them be seen again:
    /// `KVM_CLEAR_DIRTY_LOG`.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// Those of [`get_dirty_log`](Self::get_dirty_log), and `EINVAL` for a range that is not in the
    /// slot or not aligned.
    pub(crate) fn clear_dirty_log(
        &self,
        slot: u32,
        first_page: u64,
        num_pages: u32,
        from: usize,
    ) -> Result {
        let shared = &self.shared;
        let slots = shared.slots.lock();
        shared.drain_cpu_logs();
        let (slot, range) = {
            let id = shared.check_name(slot)?;
            let table = slots.read();
            let slot = table.by_id(id);
            let range = ClearRange::new(slot, first_page, num_pages).map_err(errno)?;
            (slot.ok_or(ENOENT)?.clone(), range)
        };
        let bitmap = slot.bitmap().ok_or(ENOENT)?;
        let mut read = Ok(());
        let mut flush = false;
        for (first, count) in chunks(0, range.nr_words) {
            // CAST: at most WORDS_AT_A_TIME.
            match uapi::read_vec::<u64>(word_address(from, first), count as usize) {
                Ok(words) => {
                    for (word, mask) in (range.first_word.saturating_add(first)..).zip(words.iter())
                    {
                        shared.clear_word(&slot, bitmap, word, *mask, &mut flush);
                    }
                }
                Err(error) => {
                    read = Err(error);
                    break;
                }
            }
            context::cond_resched();
        }
        shared.flush_if(flush);
        read
    }
}

impl GuestMemory {
    /// Has slots that are logged from now on log in `rings`.
    pub(crate) fn log_in(&self, rings: &Arc<dyn DirtyRings>) {
        self.shared.rings.populate(rings.clone());
    }

    /// Returns where slots are logged, if it is in rings.
    pub(crate) fn rings(&self) -> Option<&Arc<dyn DirtyRings>> {
        self.shared.rings.as_ref()
    }

    /// Lets writes to the pages of `batch` be seen again, and returns whether that needs a
    /// [flush](Self::flush_translations). What userspace made up is passed over.
    ///
    /// # Context
    ///
    /// Sleeps.
    pub(crate) fn log_again(&self, batch: &Batch) -> bool {
        let slots = self.shared.slots.lock();
        let table = slots.read();
        let Some(slot) = table.by_id(batch.slot.id) else {
            return false;
        };
        if batch.last() >= slot.npages() {
            return false;
        }
        let start = slot.base_gfn().wrapping_add(batch.offset);
        let mut flush = false;
        self.shared
            .protecting(Shadows::Protect, &mut flush, |protect| {
                for run in dirty::runs(0, batch.mask) {
                    protect(start.wrapping_add(run.first), run.npages);
                }
            });
        flush
    }

    /// Makes every vCPU forget the translations of all its memory.
    ///
    /// # Context
    ///
    /// Any but NMI; spins for the time of a VM exit.
    pub(crate) fn flush_translations(&self) {
        self.shared.flush_tlbs();
    }
}

impl GuestMemory {
    /// Returns whether CPUs log what their vCPUs write, for [`mark_all_dirty`](Self::mark_all_dirty).
    pub(crate) fn cpu_logs(&self) -> bool {
        self.shared.cpu_logs.load(Relaxed)
    }

    /// [Marks](Self::mark_dirty) all of `gfns`.
    pub(crate) fn mark_all_dirty(&self, gfns: impl Iterator<Item = Gfn>) {
        let slots = self.shared.slots.read();
        for gfn in gfns {
            if let Some(slot) = slots.by_gfn(gfn) {
                slot.mark_dirty(gfn);
            }
        }
    }
}

impl Shared {
    /// Sets whether CPUs log writes, where they can; on return no vCPU runs with the old setting.
    pub(super) fn set_cpu_logs(&self, on: bool) {
        if self.config.log == DirtyLog::Pml && self.cpu_logs.load(Relaxed) != on {
            self.cpu_logs.store(on, Relaxed);
            self.flush.logging_changed();
        }
    }

    /// Brings what CPUs have logged so far into the bitmaps.
    fn drain_cpu_logs(&self) {
        if self.cpu_logs.load(Relaxed) {
            self.flush.exit_all();
        }
    }

    /// Returns the id that `slot` names.
    fn check_name(&self, slot: u32) -> Result<u16> {
        let name = SlotId::from_raw(slot);
        let tracking = match self.rings.as_ref() {
            Some(_) => Tracking::Ring,
            None => Tracking::Bitmap,
        };
        dirty::check_name(tracking, name, self.slots.nr_address_spaces()).map_err(errno)?;
        Ok(name.id)
    }

    /// Clears the bits of `mask` in word `word` of `slot`'s bitmap, protects the pages whose bits
    /// were set, and returns those bits. Sets `flush` where TLBs are to be flushed before userspace
    /// relies on it.
    ///
    /// Bit and entry change under one hold of `mmu_lock`, as a fault changes them.
    fn clear_word(
        &self,
        slot: &SlotRef,
        bitmap: &DirtyBitmap,
        word: u64,
        mask: u64,
        flush: &mut bool,
    ) -> u64 {
        if bitmap.get(word) & mask == 0 {
            return 0;
        }
        self.protecting(Shadows::Protect, flush, |protect| {
            let bits = bitmap.clear(word, mask);
            for run in dirty::runs(word, bits) {
                protect(slot.base_gfn().wrapping_add(run.first), run.npages);
            }
            bits
        })
    }

    /// Lets writes to the `npages` frames from `start` be seen, on return.
    pub(super) fn protect(&self, start: Gfn, npages: u64) {
        let mut flush = false;
        for (offset, count) in chunks_of(PAGES_AT_A_TIME, 0, npages) {
            self.protecting(Shadows::Empty, &mut flush, |protect| {
                protect(start.wrapping_add(offset), count);
            });
            context::cond_resched();
        }
        self.flush_if(flush);
    }

    /// Runs `f` under `mmu_lock`, with a function that protects frames. The flush that it calls for
    /// may wait until the lock is gone, as nothing is removed: see [`flush_if`](Self::flush_if).
    fn protecting<R>(
        &self,
        shadows: Shadows,
        flush: &mut bool,
        f: impl FnOnce(&mut dyn FnMut(Gfn, u64)) -> R,
    ) -> R {
        let features = self.config.features;
        let log = self.config.log;
        self.locked(|mmu, debt| {
            match shadows {
                Shadows::Empty => mmu.empty_shadows(debt),
                Shadows::Protect => mmu.protect_shadows(debt),
            }
            let result = f(&mut |gfn, npages| {
                mmu.update(gfn, npages, debt, &mut |entry: EptEntry, level: Level| {
                    let change: Option<Change> = match (log, level) {
                        // A huge page is split by the fault that follows.
                        (DirtyLog::Pml, Level::Pt) => tdp::clear_dirty(entry, &features),
                        _ => tdp::write_protect(entry, &features),
                    };
                    change
                });
            });
            *flush |= core::mem::take(&mut debt.flush);
            result
        })
    }

    fn flush_if(&self, flush: bool) {
        if flush {
            self.flush_tlbs();
        }
    }
}

/// Cuts `start..end` into pieces of [`WORDS_AT_A_TIME`]: the first of each and their number.
fn chunks(start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    chunks_of(WORDS_AT_A_TIME, start, end)
}

fn chunks_of(size: u64, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut next = start;
    core::iter::from_fn(move || {
        let first = next;
        let count = size.min(end.saturating_sub(first));
        next = first.saturating_add(count);
        (count != 0).then_some((first, count))
    })
}

/// Returns where word `word` of the bitmap at userspace address `bitmap` is; an address that no user
/// has where it would wrap.
fn word_address(bitmap: usize, word: u64) -> usize {
    usize::try_from(word.saturating_mul(8))
        .map_or(usize::MAX, |offset| bitmap.saturating_add(offset))
}

fn errno(error: LogError) -> Error {
    match error {
        LogError::Ring => ENXIO,
        LogError::Invalid => EINVAL,
        LogError::NotLogged => ENOENT,
    }
}
