// SPDX-License-Identifier: GPL-2.0

//! Entries that allow less than before, or say less: zapping, protecting, ageing.

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
            Change, //
        },
    },
};
use burrow_sys::pt_page::Table;

/// Frames `start..end`.
#[derive(Clone, Copy)]
struct Frames {
    start: u64,
    end: u64,
}

impl Frames {
    fn new(start: Gfn, npages: u64) -> Self {
        Self {
            start: start.0,
            end: start.0.saturating_add(npages),
        }
    }

    /// Calls `f` with each entry of a table of `level`, whose first frame is `base`, that spans
    /// frames of `self`: its index, its first frame, and whether it spans no others.
    fn for_each_entry(self, level: Level, base: u64, mut f: impl FnMut(usize, u64, bool)) {
        let span = level.pages();
        let offset = self.start.saturating_sub(base) / span;
        let mut from = base.saturating_add(offset.saturating_mul(span));
        for index in (0..512).skip(usize::try_from(offset).unwrap_or(512)) {
            if from >= self.end {
                break;
            }
            let behind = from.saturating_add(span);
            f(index, from, self.start <= from && behind <= self.end);
            from = behind;
        }
    }
}

impl Mmu {
    /// Removes every mapping of the `npages` frames from `start`; a huge page that holds some of
    /// them goes as a whole.
    pub(super) fn zap(&mut self, start: Gfn, npages: u64, debt: &mut Debt) {
        self.empty_shadows(debt);
        let frames = Frames::new(start, npages);
        zap_frames(&mut self.root, 0, frames, &self.features, debt);
    }

    /// Removes everything.
    pub(super) fn zap_all(&mut self, debt: &mut Debt) {
        self.zap(Gfn(0), u64::MAX, debt);
    }

    /// Asks `decide` about each present leaf that maps some of the `npages` frames from `start`,
    /// and makes the changes that it wants.
    pub(super) fn update(
        &mut self,
        start: Gfn,
        npages: u64,
        debt: &mut Debt,
        decide: &mut dyn FnMut(EptEntry, Level) -> Option<Change>,
    ) {
        let frames = Frames::new(start, npages);
        let features = self.features;
        let decide = &mut |entry: EptEntry, level| {
            if entry.is_present(&features) {
                decide(entry, level)
            } else {
                None
            }
        };
        update_frames(&mut self.root, 0, frames, debt, decide);
    }
}

/// Asks `decide` about each entry below `table` that links no table, and makes the changes that it
/// wants.
pub(super) fn update_all(
    table: &mut Table,
    debt: &mut Debt,
    decide: &mut dyn FnMut(EptEntry, Level) -> Option<Change>,
) {
    update_frames(table, 0, Frames::new(Gfn(0), u64::MAX), debt, decide);
}

fn zap_frames(
    table: &mut Table,
    base: u64,
    frames: Frames,
    features: &EptFeatures,
    debt: &mut Debt,
) {
    let level = table.level();
    frames.for_each_entry(level, base, |index, from, is_whole| {
        if is_whole && table.unlink(index, 0, &mut debt.retired) {
            debt.flush = true;
        } else if let Some(child) = table.child_mut(index) {
            // At most as deep as there are levels.
            zap_frames(child, from, frames, features, debt);
        } else {
            update_entry(table, index, debt, &mut |entry, level| {
                entry
                    .is_present(features)
                    .then(|| tdp::zap(entry, level, features))
            });
        }
    });
}

fn update_frames(
    table: &mut Table,
    base: u64,
    frames: Frames,
    debt: &mut Debt,
    decide: &mut dyn FnMut(EptEntry, Level) -> Option<Change>,
) {
    let level = table.level();
    frames.for_each_entry(level, base, |index, from, _| {
        if let Some(child) = table.child_mut(index) {
            // At most as deep as there are levels.
            update_frames(child, from, frames, debt, decide);
        } else {
            update_entry(table, index, debt, decide);
        }
    });
}

/// Makes the change that `decide` wants of entry `index` of `table`, which links no table.
fn update_entry(
    table: &mut Table,
    index: usize,
    debt: &mut Debt,
    decide: &mut dyn FnMut(EptEntry, Level) -> Option<Change>,
) {
    let level = table.level();
    loop {
        let old = EptEntry(table.load(index));
        let Some(change) = decide(old, level) else {
            return;
        };
        if table.replace(index, old.0, change.new.0).is_ok() {
            debt.flush |= change.flush;
            return;
        }
    }
}
