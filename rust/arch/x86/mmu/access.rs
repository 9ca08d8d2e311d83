// SPDX-License-Identifier: GPL-2.0

//! The host's own accesses to guest memory.

use super::GuestMemory;
use crate::vm::memslots::{
    SlotRef,
    Table, //
};
use burrow_core::{
    addr::{
        Gfn,
        Gpa,
        Hva,
        PAGE_SIZE, //
    },
    memslot::{
        self,
        SlotView, //
    },
    x86::walk::{
        EntryWidth,
        GuestMem, //
    },
};
use burrow_sys::guest_mem::{
    self,
    PinnedPage, //
};
use core::convert::Infallible;
use kernel::{
    prelude::*,
    sync::atomic::Acquire, //
};

/// The slot that an access found, for the next one.
///
/// For accesses that mostly go to the same place: one per vCPU and purpose.
#[derive(Default)]
pub(crate) struct SlotCache(Option<(u64, SlotRef)>);

impl SlotCache {
    /// Returns the slot that holds `gfn`.
    fn find(&mut self, table: &Table, gfn: Gfn) -> Option<SlotRef> {
        if let Some((generation, slot)) = &self.0 {
            if *generation == table.generation() && memslot::hva_of(slot, gfn).is_some() {
                return Some(slot.clone());
            }
        }
        let slot = table.by_gfn(gfn)?.clone();
        self.0 = Some((table.generation(), slot.clone()));
        Some(slot)
    }
}

/// A run of guest memory that one run of the VMM's memory backs.
struct Piece {
    hva: Hva,
    len: usize,
}

/// Returns the piece at `gpa` of `slot`, `len` bytes or to the end of the slot.
fn piece(slot: &SlotRef, gpa: Gpa, len: usize) -> Result<Piece> {
    if slot.is_going() {
        return Err(EFAULT);
    }
    let hva = memslot::hva_of(slot, gpa.gfn()).ok_or(EFAULT)?;
    let end = slot.base_gfn().wrapping_add(slot.npages()).gpa();
    let rest = usize::try_from(end.0.wrapping_sub(gpa.0)).unwrap_or(usize::MAX);
    Ok(Piece {
        hva: hva.wrapping_add(gpa.page_offset()),
        len: len.min(rest),
    })
}

/// Marks the pages of the `len` bytes from `gpa` as written.
fn mark_dirty(slot: &SlotRef, gpa: Gpa, len: usize) {
    if len == 0 || slot.dirty().is_none() {
        return;
    }
    let last = gpa.wrapping_add(len as u64 - 1).gfn();
    for gfn in gpa.gfn().0..=last.0 {
        slot.mark_dirty(Gfn(gfn));
    }
}

impl GuestMemory {
    /// Returns whether a slot backs `gpa`.
    pub(crate) fn is_memory(&self, gpa: Gpa) -> bool {
        self.shared.slots.read().by_gfn(gpa.gfn()).is_some()
    }

    /// Returns whether a slot that is not read-only backs `gpa`.
    pub(crate) fn is_writable(&self, gpa: Gpa) -> bool {
        self.shared
            .slots
            .read()
            .by_gfn(gpa.gfn())
            .is_some_and(|slot| !slot.flags().readonly())
    }

    /// Reads guest memory at `gpa`.
    ///
    /// # Context
    ///
    /// Sleeps; a task of the VM's address space.
    ///
    /// # Errors
    ///
    /// `EFAULT` where a part has no slot, or the VMM no memory; `out` may have been filled in part.
    pub(crate) fn read(&self, gpa: Gpa, out: &mut [u8]) -> Result {
        self.read_cached(&mut SlotCache::default(), gpa, out)
    }

    /// The same as [`read`](Self::read), with the slot from `cache` where it fits.
    ///
    /// # Context
    ///
    /// As [`read`](Self::read).
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub(crate) fn read_cached(
        &self,
        cache: &mut SlotCache,
        mut gpa: Gpa,
        mut out: &mut [u8],
    ) -> Result {
        let table = self.shared.slots.read();
        while !out.is_empty() {
            let slot = cache.find(&table, gpa.gfn()).ok_or(EFAULT)?;
            let piece = piece(&slot, gpa, out.len())?;
            let (now, later) = out.split_at_mut(piece.len);
            guest_mem::copy_from(piece.hva, now)?;
            gpa = gpa.wrapping_add(now.len() as u64);
            out = later;
        }
        Ok(())
    }

    /// Writes guest memory at `gpa`.
    ///
    /// # Context
    ///
    /// Sleeps; a task of the VM's address space.
    ///
    /// # Errors
    ///
    /// `EFAULT` where a part has no slot or a read-only one, or the VMM no memory; a part may have
    /// been written.
    pub(crate) fn write(&self, gpa: Gpa, bytes: &[u8]) -> Result {
        self.write_cached(&mut SlotCache::default(), gpa, bytes)
    }

    /// The same as [`write`](Self::write), with the slot from `cache` where it fits.
    ///
    /// # Context
    ///
    /// As [`write`](Self::write).
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub(crate) fn write_cached(
        &self,
        cache: &mut SlotCache,
        mut gpa: Gpa,
        mut bytes: &[u8],
    ) -> Result {
        let table = self.shared.slots.read();
        while !bytes.is_empty() {
            let slot = cache.find(&table, gpa.gfn()).ok_or(EFAULT)?;
            if slot.flags().readonly() {
                return Err(EFAULT);
            }
            let piece = piece(&slot, gpa, bytes.len())?;
            let (now, later) = bytes.split_at(piece.len);
            let copied = guest_mem::copy_to(piece.hva, now);
            // After the copy: who clears the log in between reads the new bytes, or is told again.
            mark_dirty(&slot, gpa, now.len());
            copied?;
            gpa = gpa.wrapping_add(now.len() as u64);
            bytes = later;
        }
        Ok(())
    }

    /// Compares the `size` bytes (1, 2, 4 or 8) at `gpa` with `old`, and stores `new` if they are
    /// equal, as one atomic access. Returns `Ok(Ok(()))` when stored, `Ok(Err(found))` when not.
    ///
    /// # Context
    ///
    /// Sleeps; a task of the VM's address space.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the address is not a multiple of the size, or for another size; `EFAULT` where
    /// there is no slot or a read-only one, or the VMM has no memory.
    pub(crate) fn cmpxchg(
        &self,
        gpa: Gpa,
        size: u32,
        old: u64,
        new: u64,
    ) -> Result<Result<(), u64>> {
        if !matches!(size, 1 | 2 | 4 | 8) || !gpa.is_aligned(u64::from(size)) {
            return Err(EINVAL);
        }
        let table = self.shared.slots.read();
        let slot = table.by_gfn(gpa.gfn()).ok_or(EFAULT)?;
        if slot.flags().readonly() {
            return Err(EFAULT);
        }
        let hva = piece(slot, gpa, PAGE_SIZE as usize)?.hva;
        let exchanged = guest_mem::cmpxchg(hva, size, old, new)?;
        if exchanged.is_ok() {
            slot.mark_dirty(gpa.gfn());
        }
        Ok(exchanged)
    }

    /// Pins the page at `gpa`, for a VMCS or for what the processor and the host change together.
    ///
    /// It stays good while [`epoch`](Self::epoch), read before, stays the same. Who changes it, or lets
    /// the processor do so, calls [`mark_dirty`](Self::mark_dirty) if the slot is logged, which is
    /// returned beside it.
    ///
    /// # Context
    ///
    /// Sleeps; a task of the VM's address space.
    ///
    /// # Errors
    ///
    /// `EFAULT` where there is no slot or a read-only one, or the VMM has no page.
    pub(crate) fn pin(&self, gpa: Gpa) -> Result<(PinnedPage, bool)> {
        let table = self.shared.slots.read();
        let slot = table.by_gfn(gpa.gfn()).ok_or(EFAULT)?;
        if slot.flags().readonly() {
            return Err(EFAULT);
        }
        let page = PinnedPage::new(piece(slot, gpa.page_base(), 0)?.hva)?;
        Ok((page, slot.dirty().is_some()))
    }

    /// Returns a number that changes after each change of a slot, and after each change that the host
    /// makes to the memory behind one.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.shared.epoch.load(Acquire)
    }

    /// Returns the guest's paging structures, for [`burrow_core::x86::walk`].
    pub(crate) fn entries(&self) -> GuestEntries<'_> {
        GuestEntries {
            memory: self,
            cache: SlotCache::default(),
        }
    }
}

/// Paging structures of the guest, at guest-physical addresses.
pub(crate) struct GuestEntries<'a> {
    memory: &'a GuestMemory,
    cache: SlotCache,
}

fn size_of(width: EntryWidth) -> usize {
    match width {
        EntryWidth::Four => 4,
        EntryWidth::Eight => 8,
    }
}

impl GuestMem for GuestEntries<'_> {
    type Error = Infallible;

    fn read_entry(&mut self, address: Gpa, width: EntryWidth) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        let (low, _) = bytes.split_at_mut(size_of(width));
        if self
            .memory
            .read_cached(&mut self.cache, address, low)
            .is_err()
        {
            low.fill(0xff);
        }
        Ok(u64::from_le_bytes(bytes))
    }

    fn cmpxchg_entry(
        &mut self,
        address: Gpa,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<bool, Infallible> {
        let size = size_of(width) as u32;
        Ok(match self.memory.cmpxchg(address, size, old, new) {
            Ok(exchanged) => exchanged.is_ok(),
            // Nothing there can be written: a bus would take the write and lose it.
            Err(_) => true,
        })
    }
}
