// SPDX-License-Identifier: GPL-2.0

//! Entries that allow more than before: mapping, splitting, lifting a write protection.

use super::root::{
    Debt,
    Mmu, //
};
use burrow_core::{
    addr::{
        Gfn,
        Level, //
    },
    x86::{
        ept::{
            EptEntry,
            EptFeatures, //
        },
        tdp::{
            self,
            Access,
            DirtyLog,
            Map,
            Page, //
        }, //
    },
};
use burrow_sys::pt_page::Table;
use kernel::prelude::*;

/// What an attempt to map came to.
pub(super) enum Installed {
    /// The access is allowed now.
    Mapped {
        /// The page goes into the dirty log.
        mark_dirty: bool,
    },
    /// The access was allowed already.
    Spurious,
    /// A table of this level is needed; allocate it without the lock, and come again.
    NeedTable(Level),
}

/// What is there for a fault without asking the host.
pub(super) enum Existing {
    /// The access is allowed.
    Allowed,
    /// A write protection of ours was lifted; the page goes into the dirty log.
    Unprotected,
    /// The host must be asked.
    Nothing,
}

impl Mmu {
    /// Allows `access` to `gfn` where what is mapped suffices.
    pub(super) fn use_existing(&mut self, gfn: Gfn, access: Access, log: DirtyLog) -> Existing {
        let features = self.features;
        let Some((table, index)) = self.lowest_mut(gfn) else {
            return Existing::Nothing;
        };
        let level = table.level();
        loop {
            let old = EptEntry(table.load(index));
            if !old.is_present(&features) {
                return Existing::Nothing;
            }
            if tdp::permits(old, access) {
                return Existing::Allowed;
            }
            if access != Access::Write {
                return Existing::Nothing;
            }
            let Some(change) = tdp::unprotect(old, level, log, &features) else {
                return Existing::Nothing;
            };
            if table.replace(index, old.0, change.new.0).is_ok() {
                return Existing::Unprotected;
            }
        }
    }

    /// Returns the table and the index in it where the walk to `gfn` ends: at a leaf or at nothing.
    fn lowest_mut(&mut self, gfn: Gfn) -> Option<(&mut Table, usize)> {
        let mut end: &Table = &self.root;
        while let Some(child) = end.child(end.level().index(gfn.0)) {
            end = child;
        }
        let level = end.level();
        let mut table: &mut Table = &mut self.root;
        while table.level() > level {
            table = table.child_mut(table.level().index(gfn.0))?;
        }
        let index = level.index(gfn.0);
        Some((table, index))
    }

    /// Maps `page` at `gfn` for `access`. `spare` is a table to use, and is left if it was not.
    pub(super) fn install(
        &mut self,
        gfn: Gfn,
        page: &Page,
        access: Access,
        log: DirtyLog,
        spare: &mut Option<KBox<Table>>,
        debt: &mut Debt,
    ) -> Installed {
        let features = self.features;
        let mut table: &mut Table = &mut self.root;
        while table.level() > page.level {
            let index = table.level().index(gfn.0);
            if table.child(index).is_none() {
                if tdp::permits(EptEntry(table.load(index)), access) {
                    return Installed::Spurious;
                }
                if let Err(level) = descend(table, index, spare, &features) {
                    return Installed::NeedTable(level);
                }
            }
            match table.child_mut(index) {
                Some(child) => table = child,
                None => return Installed::Spurious,
            }
        }
        let index = table.level().index(gfn.0);
        loop {
            let old = EptEntry(table.load(index));
            let (change, mark_dirty) = match tdp::map(old, page, access, log, &features) {
                Map::Spurious => return Installed::Spurious,
                Map::Install { change, mark_dirty } => (change, mark_dirty),
            };
            let stored = if change.child.is_some() {
                table.unlink(index, change.new.0, &mut debt.retired)
            } else {
                table.replace(index, old.0, change.new.0).is_ok()
            };
            if stored {
                debt.flush |= change.flush;
                return Installed::Mapped { mark_dirty };
            }
        }
    }
}

/// Makes entry `index` of `table`, which links no table, link one: the pieces of the huge page that
/// is there, or nothing yet. Takes the table from `spare`.
///
/// # Errors
///
/// The level of the table that is needed, where `spare` is none.
pub(super) fn descend(
    table: &mut Table,
    index: usize,
    spare: &mut Option<KBox<Table>>,
    features: &EptFeatures,
) -> Result<(), Level> {
    let level = table.level();
    let Some(below) = level.below() else {
        return Ok(());
    };
    loop {
        let old = EptEntry(table.load(index));
        let Some(mut child) = spare.take_if(|spare| spare.level() == below) else {
            return Err(below);
        };
        if old.is_present(features) {
            child.fill(|i| tdp::split_child(old, level, i, features).map_or(0, |piece| piece.0));
        }
        let link = tdp::table(child.pfn(), features);
        match table.link(index, old.0, child, link.0) {
            Ok(()) => return Ok(()),
            // The processor set a flag in the entry; the pieces are to have it too.
            Err(child) => *spare = Some(child),
        }
    }
}
