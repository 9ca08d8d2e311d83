// SPDX-License-Identifier: GPL-2.0

//! Shadows of the EPT of a guest hypervisor: from guest-physical addresses of L2 to pages of the host.
//!
//! A shadow is to L1 what a TLB is: it holds what L1's EPT said when an access of L2 went through it,
//! and L1 knows that it must execute INVEPT to have it forgotten. So nothing of L1's EPT is watched.
//! Each belongs to one vmcs02 of one vCPU, like the TLB of a processor.
//!
//! To the host it is a mapping of guest memory like the main EPT, under the same lock. It cannot be
//! searched by L1's addresses, so whatever takes a mapping from the main EPT empties every shadow, and
//! whoever clears a dirty log protects all pages of logged slots in every shadow.

use super::{
    fault::Fault,
    map,
    root::{
        Debt,
        Mmu, //
    },
    zap,
    GuestMemory, //
};
use burrow_core::{
    addr::{
        Gfn,
        Level, //
    },
    x86::{
        ept::{
            EptEntry,
            EptFeatures,
            Eptp, //
        },
        nested::eptwalk::{
            Access,
            Mapping, //
        },
        tdp::{
            self,
            DirtyLog,
            Page, //
        },
    },
};
use burrow_sys::pt_page::{
    Table,
    NR_ENTRIES, //
};
use kernel::prelude::*;

/// The most tables below the root of a shadow; one more, and it is emptied first. A guest hypervisor
/// could have the host fill its memory with tables otherwise.
const MAX_TABLES: usize = 4096;

/// A shadow of a VM, by its number. Lives as long as the VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ShadowId(usize);

/// The tables of a shadow.
pub(super) struct Shadow {
    root: KBox<Table>,
    /// How many tables there are below the root, at most.
    nr_tables: usize,
    /// A page whose writes are logged may be writable.
    has_logged: bool,
}

/// An access of L2 that its shadow does not map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShadowFault {
    /// The frame of L2.
    pub(crate) gfn: Gfn,
    /// What L1's EPT makes of the access.
    pub(crate) mapping: Mapping,
    /// What the access does.
    pub(crate) access: Access,
}

impl Shadow {
    /// Removes everything.
    fn empty(&mut self, debt: &mut Debt) {
        if self.nr_tables == 0 {
            return;
        }
        for index in 0..NR_ENTRIES {
            debt.flush |= self.root.unlink(index, 0, &mut debt.retired);
        }
        self.nr_tables = 0;
        self.has_logged = false;
    }

    /// Protects every page whose writes are logged.
    fn protect(&mut self, features: &EptFeatures, debt: &mut Debt) {
        if core::mem::take(&mut self.has_logged) {
            zap::update_all(&mut self.root, debt, &mut |entry: EptEntry, _| {
                let is_open = entry.is_present(features) && entry.logged() && entry.write();
                is_open.then(|| tdp::write_protect(entry, features))?
            });
        }
    }

    /// Makes `leaf`, of `level`, what `gfn` is mapped by. Takes a table from `spare` where one is
    /// missing.
    ///
    /// # Errors
    ///
    /// The level of the table that is needed, where `spare` is none.
    fn install(
        &mut self,
        gfn: Gfn,
        leaf: EptEntry,
        level: Level,
        spare: &mut Option<KBox<Table>>,
        features: &EptFeatures,
        debt: &mut Debt,
    ) -> Result<(), Level> {
        if self.nr_tables >= MAX_TABLES {
            self.empty(debt);
        }
        self.has_logged |= leaf.logged() && leaf.write();
        let mut table: &mut Table = &mut self.root;
        while table.level() > level {
            let index = table.level().index(gfn.0);
            if table.child(index).is_none() {
                map::descend(table, index, spare, features)?;
                self.nr_tables += 1;
            }
            match table.child_mut(index) {
                Some(child) => table = child,
                None => return Ok(()),
            }
        }
        let index = table.level().index(gfn.0);
        if table.unlink(index, leaf.0, &mut debt.retired) {
            debt.flush = true;
            return Ok(());
        }
        loop {
            let old = table.load(index);
            if table.replace(index, old, leaf.0).is_ok() {
                debt.flush |= EptEntry(old).is_present(features);
                return Ok(());
            }
        }
    }
}

impl Mmu {
    /// Empties every shadow.
    pub(super) fn empty_shadows(&mut self, debt: &mut Debt) {
        for shadow in self.shadows.iter_mut() {
            shadow.empty(debt);
        }
    }

    /// Protects every page whose writes are logged, in every shadow.
    pub(super) fn protect_shadows(&mut self, debt: &mut Debt) {
        let features = shadow_features(&self.features, true);
        for shadow in self.shadows.iter_mut() {
            shadow.protect(&features, debt);
        }
    }
}

/// Returns the features that a shadow is built with: `flags` are the processor's where L1's EPT has
/// accessed and dirty flags, as accesses to guest paging structures are writes then, and else not.
///
/// Entries have the right of user-mode fetches in any case: without mode-based execute control it is
/// that of all fetches, and the processor ignores the bit.
fn shadow_features(features: &EptFeatures, flags: bool) -> EptFeatures {
    EptFeatures {
        mode_based_execute: true,
        accessed_dirty: flags && features.accessed_dirty,
        ..*features
    }
}

/// Returns the leaf for `page`, which L1 maps with the rights of `fault`.
///
/// Where it is writable, the page goes into the dirty log at once, as in the main EPT.
fn leaf(fault: &ShadowFault, page: &Page, log: DirtyLog) -> EptEntry {
    let rights = fault.mapping.rights;
    let writable = rights.write && page.host_writable && fault.mapping.is_dirty;
    EptEntry(0)
        .with_read(rights.read)
        .with_write(writable)
        .with_execute(rights.execute)
        .with_user_execute(rights.user_execute)
        .with_memory_type_bits(page.memory_type as u8)
        .with_ignore_pat(page.ignores_pat())
        .with_large(page.level != Level::Pt)
        .with_accessed(true)
        .with_dirty(true)
        .with_frame(page.pfn.0)
        .with_logged(log != DirtyLog::Off)
}

impl GuestMemory {
    /// Makes an empty shadow.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new_shadow(&self) -> Result<ShadowId> {
        let root = self.shared.new_table(Level::Pml4)?;
        let mut shadow = Some(Shadow {
            root,
            nr_tables: 0,
            has_logged: false,
        });
        loop {
            let room = self.shared.locked(|mmu, _| mmu.shadows.capacity());
            let mut shadows = KVec::with_capacity(room + 1, GFP_KERNEL_ACCOUNT)?;
            let id = self.shared.locked(|mmu, _| {
                if shadows.capacity() <= mmu.shadows.len() {
                    return None;
                }
                core::mem::swap(&mut mmu.shadows, &mut shadows);
                let id = ShadowId(shadows.len());
                // Both have room: see above.
                for old in shadows.drain_all() {
                    let _ = mmu.shadows.push_within_capacity(old);
                }
                if let Some(new) = shadow.take() {
                    let _ = mmu.shadows.push_within_capacity(new);
                }
                Some(id)
            });
            if let Some(id) = id {
                return Ok(id);
            }
        }
    }

    /// Returns the EPT pointer of a shadow, of an EPT with (`flags`) or without accessed and dirty
    /// flags.
    pub(crate) fn shadow_eptp(&self, id: ShadowId, flags: bool) -> u64 {
        let features = shadow_features(&self.shared.config.features, flags);
        let pfn = self
            .shared
            .locked(|mmu, _| mmu.shadows.get(id.0).map(|s| s.root.pfn()));
        pfn.map_or(0, |pfn| Eptp::new(pfn, Level::Pml4, &features).0)
    }

    /// Forgets all that a shadow holds; on return no processor uses any of it.
    pub(crate) fn empty_shadow(&self, id: ShadowId) {
        self.shared.locked(|mmu, debt| {
            if let Some(shadow) = mmu.shadows.get_mut(id.0) {
                shadow.empty(debt);
            }
        });
    }

    /// Maps what L2 accesses in its shadow.
    ///
    /// # Context
    ///
    /// Sleeps; a task of the VM's address space.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory for a table.
    pub(crate) fn shadow_fault(&self, id: ShadowId, fault: &ShadowFault) -> Result<Fault> {
        let shared = &self.shared;
        let slots = shared.slots.read();
        let access = match fault.access {
            Access::Write => tdp::Access::Write,
            Access::Read | Access::Fetch | Access::UserFetch => tdp::Access::Read,
        };
        let target = match self.target(&slots, fault.mapping.gpa.gfn(), access) {
            Ok(target) => target,
            Err(fault) => return Ok(fault),
        };
        let sequence = shared.locked(|mmu, _| mmu.sequence());
        let host_page = match target.host_page() {
            Ok(page) => page,
            Err(fault) => return Ok(fault),
        };
        let features = shadow_features(&shared.config.features, true);
        let limit = fault.mapping.level;
        let page = target.mapping(&host_page, limit, &shared.config.features);
        let new = leaf(fault, &page, target.log);
        let (start, end) = target.addresses(page.level);
        let mut host_page = Some(host_page);
        let mut spare = None;
        loop {
            let installed = shared.locked(|mmu, debt| {
                if !mmu.may_map(sequence, start, end) {
                    return Some(Ok(Fault::Retry));
                }
                let shadow = mmu.shadows.get_mut(id.0)?;
                let done = shadow.install(fault.gfn, new, page.level, &mut spare, &features, debt);
                if done.is_ok() {
                    // Both under the lock: see the fault of the main EPT.
                    if let Some(page) = host_page.take() {
                        page.release_used();
                    }
                    if new.write() {
                        target.slot.mark_dirty(target.gfn);
                    }
                }
                Some(done.map(|()| Fault::Mapped))
            });
            match installed {
                None => return Err(EINVAL),
                Some(Ok(fault)) => return Ok(fault),
                Some(Err(level)) => spare = Some(shared.new_table(level)?),
            }
        }
    }
}
