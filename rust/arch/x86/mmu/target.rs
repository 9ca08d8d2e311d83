// SPDX-License-Identifier: GPL-2.0

//! What a fault is about: a frame, the slot that it is in, and the VMM's memory behind it. The main EPT and
//! the shadows of L1's map it in the same way, up to the entry that they write.

use super::{
    fault::Fault,
    GuestMemory, //
};
use crate::vm::memslots::{
    Slot,
    Table, //
};
use burrow_core::{
    addr::{
        Gfn,
        Hva,
        Level,
        Pfn, //
    },
    memslot::{
        self,
        SlotView, //
    },
    x86::{
        ept::{
            EptFeatures,
            MemoryType, //
        },
        tdp::{
            self,
            Access,
            DirtyLog,
            Page,
            SlotExtent, //
        },
    },
};
use burrow_sys::guest_mem::{
    self,
    HostPage,
    NoPage,
    Want, //
};
use kernel::prelude::*;

/// A frame to be mapped for an access.
pub(super) struct Target<'a> {
    pub(super) gfn: Gfn,
    pub(super) access: Access,
    pub(super) slot: &'a Slot,
    /// How writes to the slot are logged.
    pub(super) log: DirtyLog,
    hva: Hva,
}

impl GuestMemory {
    /// Finds what is behind `gfn`.
    ///
    /// # Errors
    ///
    /// What the fault came to, where nothing is there that can be mapped for `access`.
    pub(super) fn target<'a>(
        &self,
        slots: &'a Table,
        gfn: Gfn,
        access: Access,
    ) -> Result<Target<'a>, Fault> {
        let slot = slots.by_gfn(gfn).ok_or(Fault::Mmio)?;
        if slot.is_going() {
            return Err(Fault::Retry);
        }
        if access == Access::Write && slot.flags().readonly() {
            return Err(Fault::ReadonlyWrite);
        }
        let hva = memslot::hva_of(slot, gfn).ok_or(Fault::Mmio)?;
        let log = match slot.is_logged() {
            true => self.shared.config.log,
            false => DirtyLog::Off,
        };
        Ok(Target {
            gfn,
            access,
            slot,
            log,
            hva,
        })
    }
}

impl Target<'_> {
    /// Gets the host's page: writable where that costs nothing, to save a second fault.
    ///
    /// # Errors
    ///
    /// What the fault came to, where there is none.
    pub(super) fn host_page(&self) -> Result<HostPage, Fault> {
        let want = match (self.access, self.slot.flags().readonly()) {
            (Access::Write, _) => Want::Write,
            (_, true) => Want::Read,
            (_, false) => Want::ReadOrWrite,
        };
        HostPage::get(self.hva, want).map_err(|error| match error {
            NoPage::Interrupted => Fault::Interrupted,
            NoPage::Poisoned => Fault::HvaError(EHWPOISON),
            NoPage::Fault => Fault::HvaError(EFAULT),
        })
    }

    /// Returns the mapping to make of `page`: as large as the slot, the host, its log and `limit` allow.
    pub(super) fn mapping(&self, page: &HostPage, limit: Level, features: &EptFeatures) -> Page {
        let host = match self.log {
            DirtyLog::Off => guest_mem::host_level(self.hva).min(limit),
            DirtyLog::Pml | DirtyLog::WriteProtect => Level::Pt,
        };
        let extent = SlotExtent {
            base: self.slot.base_gfn(),
            nr_pages: self.slot.npages(),
            hva: self.slot.hva(),
        };
        let level = tdp::map_level(self.gfn, page.pfn(), &extent, host, self.log, features);
        Page {
            pfn: Pfn(page.pfn().0 & !(level.pages() - 1)),
            level,
            host_writable: page.is_writable() && !self.slot.flags().readonly(),
            // What a guest's PAT says counts, unless the page is a device's.
            memory_type: match page.is_device() {
                true => MemoryType::Uncacheable,
                false => MemoryType::WriteBack,
            },
        }
    }

    /// Returns the addresses of the VMM that a mapping of `level` shows.
    pub(super) fn addresses(&self, level: Level) -> (Hva, Hva) {
        let start = Hva(self.hva.0 & !(level.bytes() - 1));
        (start, start.wrapping_add(level.bytes()))
    }
}
