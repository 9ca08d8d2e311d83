// SPDX-License-Identifier: GPL-2.0

//! Transitions of the entries of Burrow's own EPT: from an old entry and an operation to the new
//! entry, and what the caller owes for it.
//!
//! The caller holds the lock of the tables, so only the processor changes entries under it (it
//! sets accessed and dirty flags): it stores [`Change::new`] by compare-and-exchange against the
//! old value, and asks again where that fails.
//!
//! What is owed: where [`Change::flush`] is set, guest-physical mappings derived from the old
//! entry may live on in some TLB, and INVEPT must have been done on every CPU that may use the
//! tables before the page (or the table, [`Change::child`]) is given back to the host. SDM 3C
//! "Guidelines for Use of the INVEPT Instruction", 30.4.3.4.

use super::ept::EptEntry;
use super::ept::EptFeatures;
use super::ept::MemoryType;
use crate::addr::Gfn;
use crate::addr::Hva;
use crate::addr::Level;
use crate::addr::Pfn;
use crate::addr::PAGE_SHIFT;

/// What the guest wants of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A data read.
    Read,
    /// A data write.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// How writes to a slot are tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirtyLog {
    /// They are not.
    Off,
    /// By write protection: the first write to a small page faults.
    WriteProtect,
    /// By page-modification logging: the processor logs the first write to a page whose dirty flag
    /// is clear. Needs accessed and dirty flags.
    Pml,
}

/// A page of the host, to be mapped for the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Page {
    /// The first frame; a multiple of `level.pages()`.
    pub pfn: Pfn,
    /// The size.
    pub level: Level,
    /// The host lets it be written (and the slot is not read-only).
    pub host_writable: bool,
    /// The memory type.
    pub memory_type: MemoryType,
}

impl Page {
    /// Returns whether the guest's PAT is of no account: memory is cached, whatever it says, but of a
    /// device's writes a guest may have some combined.
    #[inline]
    pub fn ignores_pat(&self) -> bool {
        self.memory_type != MemoryType::Uncacheable
    }
}

/// The answer to an operation on an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Change {
    /// The value to store.
    pub new: EptEntry,
    /// TLBs may hold more than `new` allows.
    pub flush: bool,
    /// The old entry says that the guest used the page; the host is to be told.
    pub accessed: bool,
    /// The old entry says that the guest may have written the page.
    pub dirty: bool,
    /// The table that the old entry pointed to and that `new` does not: its own entries are to be
    /// zapped, and it is to be freed after the flush.
    pub child: Option<Pfn>,
}

impl Change {
    fn only(new: EptEntry) -> Self {
        Self {
            new,
            flush: false,
            accessed: false,
            dirty: false,
            child: None,
        }
    }
}

/// The answer to [`map`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Map {
    /// The entry allows the access already: another vCPU was faster, or a TLB was stale.
    Spurious,
    /// Store the change; where `mark_dirty` is set, the page goes into the dirty log.
    Install {
        /// The change.
        change: Change,
        /// The new entry allows writes that nothing will report.
        mark_dirty: bool,
    },
}

/// Returns whether `entry`, a leaf, allows `access`.
#[inline]
pub fn permits(entry: EptEntry, access: Access) -> bool {
    match access {
        Access::Read => entry.read(),
        Access::Write => entry.write(),
        Access::Fetch => entry.execute(),
    }
}

/// Returns the entry that points to a table, with every right: rights are decided in the leaf.
pub fn table(child: Pfn, features: &EptFeatures) -> EptEntry {
    EptEntry(0)
        .with_read(true)
        .with_write(true)
        .with_execute(true)
        .with_user_execute(features.mode_based_execute)
        .with_frame(child.0)
}

/// Returns the leaf that maps `page` for `access`.
///
/// It is writable where the host allows it. Where writes are logged, the page goes into the log when
/// it is mapped: that costs a page too many at times, and saves most second faults.
pub fn leaf(page: &Page, access: Access, log: DirtyLog, features: &EptFeatures) -> EptEntry {
    let is_write = access == Access::Write;
    let writable = page.host_writable;
    let is_dirty = writable && (is_write || log != DirtyLog::Off);
    EptEntry(0)
        .with_read(true)
        .with_write(writable)
        .with_execute(true)
        .with_user_execute(features.mode_based_execute)
        .with_memory_type_bits(page.memory_type as u8)
        .with_ignore_pat(page.ignores_pat())
        .with_large(page.level != Level::Pt)
        .with_accessed(features.accessed_dirty)
        .with_dirty(features.accessed_dirty && is_dirty)
        .with_frame(page.pfn.0)
        .with_host_writable(page.host_writable)
}

/// Maps `page` at an entry that holds `old`, after a fault of kind `access`.
///
/// A table at `old` gives way (see [`Change::child`]): this is how small mappings collapse into a
/// huge one.
pub fn map(
    old: EptEntry,
    page: &Page,
    access: Access,
    log: DirtyLog,
    features: &EptFeatures,
) -> Map {
    let is_present = old.is_present(features);
    let is_same = is_present && old.is_leaf(page.level) && old.pfn() == page.pfn;
    if is_same && permits(old, access) {
        return Map::Spurious;
    }
    let new = leaf(page, access, log, features);
    let (change, gains_write) = if is_same {
        // The host's answer may have become stricter meanwhile; what is gone must be flushed.
        let new = new
            .with_accessed(new.accessed() || old.accessed())
            .with_dirty(new.dirty() || old.dirty());
        let flush = old.write() && !new.write();
        (
            Change {
                flush,
                ..Change::only(new)
            },
            new.write() && !old.write(),
        )
    } else if is_present {
        (
            Change {
                new,
                ..zap(old, page.level, features)
            },
            new.write(),
        )
    } else {
        (Change::only(new), new.write())
    };
    let mark_dirty = log != DirtyLog::Off && gains_write;
    Map::Install { change, mark_dirty }
}

/// Allows the write that `entry`, found at `level`, was protected from, where the host is known to
/// agree; returns `None` where it must be asked.
///
/// A huge leaf is refused while writes are logged: it has to be split first. The page goes into
/// the dirty log where there is one.
pub fn unprotect(
    entry: EptEntry,
    level: Level,
    log: DirtyLog,
    features: &EptFeatures,
) -> Option<Change> {
    let is_usable = entry.is_present(features) && entry.is_leaf(level) && entry.host_writable();
    if !is_usable || (log != DirtyLog::Off && level != Level::Pt) {
        return None;
    }
    let new = entry
        .with_write(true)
        .with_accessed(features.accessed_dirty)
        .with_dirty(features.accessed_dirty);
    Some(Change::only(new))
}

/// Removes whatever `old` maps at `level`.
pub fn zap(old: EptEntry, level: Level, features: &EptFeatures) -> Change {
    let is_present = old.is_present(features);
    let is_leaf = old.is_leaf(level);
    Change {
        new: EptEntry(0),
        flush: is_present,
        accessed: is_present && is_leaf && was_accessed(old, features),
        dirty: is_present && is_leaf && was_written(old, features),
        child: if is_present && !is_leaf {
            Some(old.pfn())
        } else {
            None
        },
    }
}

/// Takes the right to write from `old`, a leaf; `None` where it has none.
pub fn write_protect(old: EptEntry, features: &EptFeatures) -> Option<Change> {
    if !old.write() {
        return None;
    }
    let new = old.with_write(false).with_dirty(false);
    let dirty = was_written(old, features);
    Some(Change {
        flush: true,
        dirty,
        ..Change::only(new)
    })
}

/// Clears the dirty flag of `old`, a leaf, so that page-modification logging reports its next
/// write; `None` where it is clear. Without dirty flags, the same as [`write_protect`].
pub fn clear_dirty(old: EptEntry, features: &EptFeatures) -> Option<Change> {
    if !features.accessed_dirty {
        return write_protect(old, features);
    }
    if !old.dirty() {
        return None;
    }
    Some(Change {
        flush: true,
        dirty: true,
        ..Change::only(old.with_dirty(false))
    })
}

/// Tests and clears "the guest used it" of `old`, a leaf at `level`; `None` where it is clear.
///
/// No flush is asked for where the processor keeps accessed flags: a use through a stale TLB entry
/// may go unseen, which costs the host's reclaim a little precision and no correctness. Where it
/// keeps none, the entry is removed, and the next use faults.
pub fn age(old: EptEntry, level: Level, features: &EptFeatures) -> Option<Change> {
    if !is_young(old, features) {
        return None;
    }
    if features.accessed_dirty {
        return Some(Change {
            accessed: true,
            ..Change::only(old.with_accessed(false))
        });
    }
    Some(zap(old, level, features))
}

/// Returns whether the guest used what `old`, a leaf, maps, since [`age`] was last asked.
#[inline]
pub fn is_young(old: EptEntry, features: &EptFeatures) -> bool {
    old.is_present(features) && was_accessed(old, features)
}

/// Returns entry `index`, 0 to 511, of the table that takes the place of `huge`, a leaf at `level`.
///
/// The 512 children map the same frames with the same rights and flags, so storing the table
/// needs no flush. `None` for a leaf that cannot be split: a small one, or one not present.
pub fn split_child(
    huge: EptEntry,
    level: Level,
    index: u16,
    features: &EptFeatures,
) -> Option<EptEntry> {
    let below = level.below()?;
    if !huge.is_present(features) || !huge.is_leaf(level) || index >= 512 {
        return None;
    }
    let frame = huge
        .pfn()
        .0
        .wrapping_add(u64::from(index).wrapping_mul(below.pages()));
    Some(huge.with_frame(frame).with_large(below != Level::Pt))
}

fn was_accessed(leaf: EptEntry, features: &EptFeatures) -> bool {
    !features.accessed_dirty || leaf.accessed()
}

fn was_written(leaf: EptEntry, features: &EptFeatures) -> bool {
    leaf.write() && (!features.accessed_dirty || leaf.dirty())
}

/// What bounds the size of a mapping, from the slot's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotExtent {
    /// The first frame of the slot.
    pub base: Gfn,
    /// Its length in small pages.
    pub nr_pages: u64,
    /// Where its first page is in the address space of the VMM; a multiple of 4096.
    pub hva: Hva,
}

impl SlotExtent {
    /// Returns whether the block of `level` around `gfn` lies in the slot, and is aligned in the
    /// address space of the VMM as it is in the guest's.
    fn holds_block(&self, gfn: Gfn, level: Level) -> bool {
        let low = level.pages().wrapping_sub(1);
        let start = gfn.0 & !low;
        let congruent = (self.base.0 ^ (self.hva.0 >> PAGE_SHIFT)) & low == 0;
        let end = start.checked_add(level.pages());
        let slot_end = self.base.0.checked_add(self.nr_pages);
        match (end, slot_end) {
            (Some(end), Some(slot_end)) => congruent && start >= self.base.0 && end <= slot_end,
            _ => false,
        }
    }
}

/// Returns the size in which to map `gfn` of `slot`, whose host page is `pfn`.
///
/// `host` is the size in which the host maps it. While writes are tracked page by page the answer
/// is the small page.
pub fn map_level(
    gfn: Gfn,
    pfn: Pfn,
    slot: &SlotExtent,
    host: Level,
    log: DirtyLog,
    features: &EptFeatures,
) -> Level {
    if log != DirtyLog::Off {
        return Level::Pt;
    }
    [Level::Pdpt, Level::Pd]
        .into_iter()
        .find(|&level| {
            level <= host
                && features.has_leaf_at(level)
                && slot.holds_block(gfn, level)
                && (gfn.0 ^ pfn.0) & level.pages().wrapping_sub(1) == 0
        })
        .unwrap_or(Level::Pt)
}

#[cfg(test)]
mod tests;
