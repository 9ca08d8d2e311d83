// SPDX-License-Identifier: GPL-2.0

//! EPT violations: from a guest-physical address that is not mapped, or not for the access, to one
//! that is, or to the reason why not.

use super::{
    map::{
        Existing,
        Installed, //
    },
    root::Sequence,
    target::Target,
    GuestMemory, //
};
use burrow_core::{
    addr::{
        Gpa,
        Level, //
    },
    x86::tdp::Access,
};
use burrow_sys::guest_mem::HostPage;
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
        let target = match self.target(&slots, gpa.gfn(), access) {
            Ok(target) => target,
            Err(fault) => return Ok(fault),
        };
        let sequence = match self.use_existing(&target) {
            Ok(fault) => return Ok(fault),
            Err(sequence) => sequence,
        };
        match target.host_page() {
            Ok(page) => self.install(&target, sequence, page),
            Err(fault) => Ok(fault),
        }
    }

    /// Settles the fault with what is mapped, or returns the sequence to find a page by.
    fn use_existing(&self, target: &Target<'_>) -> Result<Fault, Sequence> {
        self.shared.locked(
            |mmu, _| match mmu.use_existing(target.gfn, target.access, target.log) {
                Existing::Allowed => Ok(Fault::Spurious),
                Existing::Unprotected => {
                    target.slot.mark_dirty(target.gfn);
                    Ok(Fault::Mapped)
                }
                Existing::Nothing => Err(mmu.sequence()),
            },
        )
    }

    /// Maps `page`, unless the host changed its mind since `sequence`.
    fn install(&self, target: &Target<'_>, sequence: Sequence, page: HostPage) -> Result<Fault> {
        let request = target.mapping(&page, Level::Pdpt, &self.shared.config.features);
        let (start, end) = target.addresses(request.level);
        let mut page = Some(page);
        let mut spare = None;
        loop {
            let installed = self.shared.locked(|mmu, debt| {
                if !mmu.may_map(sequence, start, end) {
                    return None;
                }
                let (gfn, access, log) = (target.gfn, target.access, target.log);
                let installed = mmu.install(gfn, &request, access, log, &mut spare, debt);
                if !matches!(installed, Installed::NeedTable(_)) {
                    // Under the lock: a notifier that takes the page back must come after.
                    if let Some(page) = page.take() {
                        page.release_used();
                    }
                }
                // Under the lock too: who clears the log and protects again must see both or none.
                if matches!(installed, Installed::Mapped { mark_dirty: true }) {
                    target.slot.mark_dirty(gfn);
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
}
