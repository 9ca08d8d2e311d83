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
use burrow_sys::{
    guest_mem::{
        self,
        PinnedPage, //
    },
    rcu_ptr::SrcuRef, //
};
use core::convert::Infallible;
use kernel::{
    prelude::*,
    sync::atomic::Acquire, //
};

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
    if len == 0 || !slot.is_logged() {
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
    pub(crate) fn read(&self, mut gpa: Gpa, mut out: &mut [u8]) -> Result {
        let table = self.shared.slots.read();
        while !out.is_empty() {
            let slot = table.by_gfn(gpa.gfn()).ok_or(EFAULT)?;
            let piece = piece(slot, gpa, out.len())?;
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
    pub(crate) fn write(&self, mut gpa: Gpa, mut bytes: &[u8]) -> Result {
        let table = self.shared.slots.read();
        while !bytes.is_empty() {
            let slot = table.by_gfn(gpa.gfn()).ok_or(EFAULT)?;
            if slot.flags().readonly() {
                return Err(EFAULT);
            }
            let piece = piece(slot, gpa, bytes.len())?;
            let (now, later) = bytes.split_at(piece.len);
            let copied = guest_mem::copy_to(piece.hva, now);
            // After the copy: who clears the log in between reads the new bytes, or is told again.
            mark_dirty(slot, gpa, now.len());
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
        Ok((page, slot.is_logged()))
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
            table: self.shared.slots.read(),
            window: Window::default(),
        }
    }

    /// Returns a guard while which what [`epoch`](Self::epoch) says holds: no change of a slot ends.
    #[inline]
    pub(crate) fn hold_slots(&self) -> SrcuRef<'_, Table> {
        self.shared.slots.read()
    }
}

/// The memory of a slot: guest-physical addresses from `start` on, backed from `hva` on.
#[derive(Clone, Copy, Default)]
struct Window {
    start: u64,
    len: u64,
    hva: u64,
}

impl Window {
    /// Returns the window that holds `gpa`, if memory is there.
    fn around(table: &Table, gpa: Gpa) -> Option<Self> {
        let slot = table.by_gfn(gpa.gfn())?;
        if slot.is_going() {
            return None;
        }
        Some(Self {
            start: slot.base_gfn().gpa().0,
            len: slot.npages().wrapping_mul(PAGE_SIZE),
            hva: slot.hva().0,
        })
    }
}

/// Paging structures of the guest, at guest-physical addresses.
pub(crate) struct GuestEntries<'a> {
    memory: &'a GuestMemory,
    table: SrcuRef<'a, Table>,
    /// Where the last entry was.
    window: Window,
}

impl GuestEntries<'_> {
    /// Returns where memory backs `address`, in the VMM's address space; `None` where none does.
    #[inline]
    pub(crate) fn find(&mut self, address: Gpa) -> Option<Hva> {
        if address.0.wrapping_sub(self.window.start) >= self.window.len {
            self.window = Window::around(&self.table, address)?;
        }
        let offset = address.0.wrapping_sub(self.window.start);
        Some(Hva(self.window.hva.wrapping_add(offset)))
    }

    /// Reads an entry; `None` where there is no memory.
    #[inline]
    fn read(&mut self, address: Gpa, size: u32) -> Option<u64> {
        // An entry lies at a multiple of its size, so it does not reach beyond the window.
        guest_mem::read_word(self.find(address)?, size).ok()
    }
}

fn size_of(width: EntryWidth) -> u32 {
    match width {
        EntryWidth::Four => 4,
        EntryWidth::Eight => 8,
    }
}

impl GuestMem for GuestEntries<'_> {
    type Error = Infallible;

    #[inline]
    fn read_entry(&mut self, address: Gpa, width: EntryWidth) -> Result<u64, Infallible> {
        let entry = self.read(address, size_of(width));
        // Where nothing is, a bus reads as ones.
        Ok(entry.unwrap_or(match width {
            EntryWidth::Four => u64::from(u32::MAX),
            EntryWidth::Eight => u64::MAX,
        }))
    }

    fn cmpxchg_entry(
        &mut self,
        address: Gpa,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<bool, Infallible> {
        Ok(
            match self.memory.cmpxchg(address, size_of(width), old, new) {
                Ok(exchanged) => exchanged.is_ok(),
                // Nothing there can be written: a bus would take the write and lose it.
                Err(_) => true,
            },
        )
    }
}
