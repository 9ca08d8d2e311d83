// SPDX-License-Identifier: GPL-2.0

//! EPT violations: from a guest-physical address that is not mapped, or not for the access, to one
//! that is, or to the reason why not.

use super::{
    map::{
        Existing,
        Installed, //
    },
    root::Sequence,
    GuestMemory, //
};
use crate::vm::memslots::Slot;
use burrow_core::{
    addr::{
        Gfn,
        Gpa,
        Hva,
        Level,
        Pfn, //
    },
    memslot::{
        self,
        SlotView, //
    },
    x86::{
        ept::MemoryType,
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

/// What a fault came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The address is mapped now.
    Mapped,
    /// It was mapped already; another vCPU was faster, or a TLB was stale.
    Spurious,
    /// No slot is there: the access is MMIO.
    Mmio,
    /// A write to a read-only slot: the access is MMIO.
    ReadonlyWrite,
    /// The VMM has no memory there, or broken memory: `EFAULT`, `EHWPOISON`.
    HvaError(Error),
    /// The host is changing the address; enter the guest again, which may fault again.
    Retry,
    /// A signal is pending; `KVM_RUN` returns `EINTR`.
    Interrupted,
}

/// A fault on its way.
struct Work<'a> {
    gfn: Gfn,
    access: Access,
    slot: &'a Slot,
    hva: Hva,
    log: DirtyLog,
}

impl GuestMemory {
    /// Maps `gpa` for `access`.
    ///
    /// # Context
    ///
    /// Sleeps; a task of the VM's address space.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory for a table.
    pub(crate) fn fault(&self, gpa: Gpa, access: Access) -> Result<Fault> {
        let shared = &self.shared;
        let slots = shared.slots.read();
        let gfn = gpa.gfn();
        let Some(slot) = slots.by_gfn(gfn) else {
            return Ok(Fault::Mmio);
        };
        if slot.is_going() {
            return Ok(Fault::Retry);
        }
        if access == Access::Write && slot.flags().readonly() {
            return Ok(Fault::ReadonlyWrite);
        }
        let Some(hva) = memslot::hva_of(slot, gfn) else {
            return Ok(Fault::Mmio);
        };
        let log = if slot.is_logged() {
            shared.config.log
        } else {
            DirtyLog::Off
        };
        let work = Work {
            gfn,
            access,
            slot,
            hva,
            log,
        };
        let sequence = match self.use_existing(&work) {
            Ok(fault) => return Ok(fault),
            Err(sequence) => sequence,
        };
        let page = match HostPage::get(hva, work.want()) {
            Ok(page) => page,
            Err(NoPage::Interrupted) => return Ok(Fault::Interrupted),
            Err(NoPage::Poisoned) => return Ok(Fault::HvaError(EHWPOISON)),
            Err(NoPage::Fault) => return Ok(Fault::HvaError(EFAULT)),
        };
        self.install(&work, sequence, page)
    }

    /// Settles the fault with what is mapped, or returns the sequence to find a page by.
    fn use_existing(&self, work: &Work<'_>) -> Result<Fault, Sequence> {
        self.shared.locked(
            |mmu, _| match mmu.use_existing(work.gfn, work.access, work.log) {
                Existing::Allowed => Ok(Fault::Spurious),
                Existing::Unprotected => {
                    work.slot.mark_dirty(work.gfn);
                    Ok(Fault::Mapped)
                }
                Existing::Nothing => Err(mmu.sequence()),
            },
        )
    }

    /// Maps `page`, unless the host changed its mind since `sequence`.
    fn install(&self, work: &Work<'_>, sequence: Sequence, page: HostPage) -> Result<Fault> {
        let request = self.request(work, &page);
        let (start, end) = work.addresses(request.level);
        let mut page = Some(page);
        let mut spare = None;
        loop {
            let installed = self.shared.locked(|mmu, debt| {
                if !mmu.may_map(sequence, start, end) {
                    return None;
                }
                let (gfn, access, log) = (work.gfn, work.access, work.log);
                let installed = mmu.install(gfn, &request, access, log, &mut spare, debt);
                if !matches!(installed, Installed::NeedTable(_)) {
                    // Under the lock: a notifier that takes the page back must come after.
                    if let Some(page) = page.take() {
                        page.release_used();
                    }
                }
                // Under the lock too: who clears the log and protects again must see both or none.
                if matches!(installed, Installed::Mapped { mark_dirty: true }) {
                    work.slot.mark_dirty(gfn);
                }
                Some(installed)
            });
            match installed {
                None => return Ok(Fault::Retry),
                Some(Installed::Mapped { .. }) => return Ok(Fault::Mapped),
                Some(Installed::Spurious) => return Ok(Fault::Spurious),
                Some(Installed::NeedTable(level)) => spare = Some(self.shared.new_table(level)?),
            }
        }
    }

    /// Returns the mapping to make of `page`: as large as everyone allows.
    fn request(&self, work: &Work<'_>, page: &HostPage) -> Page {
        let host = if work.log == DirtyLog::Off {
            guest_mem::host_level(work.hva)
        } else {
            Level::Pt
        };
        let extent = SlotExtent {
            base: work.slot.base_gfn(),
            nr_pages: work.slot.npages(),
            hva: work.slot.hva(),
        };
        let features = &self.shared.config.features;
        let level = tdp::map_level(work.gfn, page.pfn(), &extent, host, work.log, features);
        Page {
            pfn: Pfn(page.pfn().0 & !(level.pages() - 1)),
            level,
            host_writable: page.is_writable() && !work.slot.flags().readonly(),
            memory_type: memory_type(page),
        }
    }
}

/// The type by which a guest accesses a page: whatever its PAT says, unless it is a device's.
pub(super) fn memory_type(page: &HostPage) -> MemoryType {
    if page.is_device() {
        MemoryType::Uncacheable
    } else {
        MemoryType::WriteBack
    }
}

impl Work<'_> {
    /// What the page is wanted for: writable where that costs nothing, to save a second fault.
    fn want(&self) -> Want {
        if self.access == Access::Write {
            Want::Write
        } else if self.slot.flags().readonly() {
            Want::Read
        } else {
            Want::ReadOrWrite
        }
    }

    /// The addresses of the VMM that a mapping of `level` shows.
    fn addresses(&self, level: Level) -> (Hva, Hva) {
        let start = Hva(self.hva.0 & !(level.bytes() - 1));
        (start, start.wrapping_add(level.bytes()))
    }
}
