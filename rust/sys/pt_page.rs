// SPDX-License-Identifier: GPL-2.0

//! Page tables for the processor's own walks.
//!
//! Invariant: a [`Table`] owns its page and, through `links`, every table that its entries point to;
//! entry `i` points to a table if and only if `links[i]` holds it. A table that was linked is freed
//! only with a [`FlushToken`], when no processor can walk it any more. Entries change under us (the
//! processor sets accessed and dirty flags), so all accesses to them are atomic.

use crate::bindings;
use burrow_core::addr::{
    Level,
    Pfn,
    PAGE_SHIFT, //
};
use kernel::{
    alloc::KBox,
    page::Page,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        Arc, //
    },
};

/// Entries in a table.
pub const NR_ENTRIES: usize = 512;

/// Is told how many leaves there are: entries that are not 0 and link no table.
pub trait LeafCounter: Send + Sync {
    /// There are `delta` more of `level` than before.
    ///
    /// # Context
    ///
    /// Any.
    fn changed(&self, level: Level, delta: i64);
}

/// A table of 512 entries of 64 bits.
pub struct Table {
    page: Page,
    counter: Arc<dyn LeafCounter>,
    nr_leaves: u16,
    /// The page in the kernel's direct map.
    base: *mut u64,
    level: Level,
    /// What the entries link; `None` for a table of the lowest level.
    links: Option<KBox<[Option<KBox<Table>>; NR_ENTRIES]>>,
    /// The next one in [`Retired`].
    next: Option<KBox<Table>>,
}

// SAFETY: The page is memory without a thread affinity.
unsafe impl Send for Table {}
// SAFETY: Through `&Table` there are only atomic accesses to the entries; links need `&mut`.
unsafe impl Sync for Table {}

impl Table {
    /// Allocates a table of zeroes for `level`, whose leaves `counter` counts.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub fn new(level: Level, counter: &Arc<dyn LeafCounter>) -> Result<KBox<Self>> {
        let page = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
        // SAFETY: `page` is a valid page of the direct map, as GFP_KERNEL has no high memory.
        let base = unsafe { bindings::burrow_page_address(page.as_ptr().cast()) }.cast();
        let links = match level {
            Level::Pt => None,
            _ => Some(KBox::zeroed(GFP_KERNEL_ACCOUNT)?),
        };
        let table = Self {
            page,
            counter: counter.clone(),
            nr_leaves: 0,
            base,
            level,
            links,
            next: None,
        };
        Ok(KBox::new(table, GFP_KERNEL_ACCOUNT)?)
    }

    /// Returns the level.
    #[inline]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Returns the frame of the table.
    #[inline]
    pub fn pfn(&self) -> Pfn {
        // SAFETY: `self` owns the page.
        Pfn(unsafe { bindings::burrow_page_to_phys(self.page.as_ptr().cast()) } >> PAGE_SHIFT)
    }

    #[inline]
    fn entry(&self, index: usize) -> &Atomic<u64> {
        // SAFETY: `index` is reduced to within the page, which `self` owns.
        let entry = unsafe { self.base.add(index % NR_ENTRIES) };
        // SAFETY: The entry is aligned and lives as long as `self`; all accesses are atomic.
        unsafe { Atomic::from_ptr(entry) }
    }

    /// Returns entry `index`, 0 to 511.
    #[inline]
    pub fn load(&self, index: usize) -> u64 {
        self.entry(index).load(Relaxed)
    }

    /// Returns the table that entry `index` links.
    #[inline]
    pub fn child(&self, index: usize) -> Option<&Table> {
        self.links.as_ref()?.get(index)?.as_deref()
    }

    /// Returns the table that entry `index` links, to change it.
    #[inline]
    pub fn child_mut(&mut self, index: usize) -> Option<&mut Table> {
        self.links.as_mut()?.get_mut(index)?.as_deref_mut()
    }

    /// Stores `new` at entry `index`, which links no table, if it still holds `old`.
    ///
    /// # Errors
    ///
    /// What the entry holds instead; also where it links a table, for which there is
    /// [`unlink`](Self::unlink).
    #[inline]
    pub fn replace(&mut self, index: usize, old: u64, new: u64) -> Result<(), u64> {
        if self.child(index).is_some() {
            return Err(self.load(index));
        }
        self.entry(index).cmpxchg(old, new, Full)?;
        self.count(old, new);
        Ok(())
    }

    /// Counts the change of an entry that links no table.
    #[inline]
    fn count(&mut self, old: u64, new: u64) {
        let delta = i16::from(new != 0) - i16::from(old != 0);
        if delta != 0 {
            self.nr_leaves = self.nr_leaves.wrapping_add_signed(delta);
            self.counter.changed(self.level, delta.into());
        }
    }

    /// Stores `new`, which points to `child`, at entry `index`, which links no table, if it still
    /// holds `old`.
    ///
    /// # Errors
    ///
    /// The child back, where the entry holds something else or this table is of the lowest level.
    pub fn link(
        &mut self,
        index: usize,
        old: u64,
        child: KBox<Table>,
        new: u64,
    ) -> Result<(), KBox<Table>> {
        if self.child(index).is_some() {
            return Err(child);
        }
        let Some(slot) = self.links.as_mut().and_then(|links| links.get_mut(index)) else {
            return Err(child);
        };
        // The child is owned before the processor can see it.
        *slot = Some(child);
        if self.entry(index).cmpxchg(old, new, Full).is_ok() {
            self.count(old, 0);
            return Ok(());
        }
        match self
            .links
            .as_mut()
            .and_then(|links| links.get_mut(index)?.take())
        {
            Some(child) => Err(child),
            None => Ok(()),
        }
    }

    /// Stores `new` at entry `index` and moves the table that it linked, with all below, to
    /// `retired`. Returns whether it linked one; if not, nothing was stored.
    pub fn unlink(&mut self, index: usize, new: u64, retired: &mut Retired) -> bool {
        let slot = self.links.as_mut().and_then(|links| links.get_mut(index));
        let Some(child) = slot.and_then(Option::take) else {
            return false;
        };
        self.entry(index).xchg(new, Full);
        self.count(0, new);
        retired.push(child);
        true
    }

    /// Sets every entry of a table that is not linked yet.
    pub fn fill(&mut self, mut entry: impl FnMut(u16) -> u64) {
        for index in 0..NR_ENTRIES as u16 {
            let value = entry(index);
            let old = self.load(usize::from(index));
            self.entry(usize::from(index)).store(value, Relaxed);
            self.count(old, value);
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if self.nr_leaves != 0 {
            self.counter.changed(self.level, -i64::from(self.nr_leaves));
        }
    }
}

/// Proof that every processor has forgotten what the tables held before it was made.
pub struct FlushToken(());

impl FlushToken {
    /// Has `flush` done: it makes every processor that may use the tables forget translations and
    /// paging-structure entries cached from them, and returns when they have.
    pub fn after(flush: impl FnOnce()) -> Self {
        flush();
        Self(())
    }
}

/// How a long piece of work goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// To the end.
    AtOnce,
    /// Letting other tasks run in between: only where the caller may sleep.
    Yielding,
}

/// Tables that were unlinked and that some processor may still walk.
///
/// Must be given to [`free`](Self::free); a list that is just dropped is leaked, with a warning, as
/// freeing it could let a guest reach memory of others.
#[must_use]
#[derive(Default)]
pub struct Retired {
    head: Option<KBox<Table>>,
}

impl Retired {
    /// Makes an empty list.
    pub const fn new() -> Self {
        Self { head: None }
    }

    /// Returns whether there is nothing to free.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// Adds `table` with all that it links.
    pub fn push(&mut self, mut table: KBox<Table>) {
        table.next = self.head.take();
        self.head = Some(table);
    }

    /// Frees the tables.
    pub fn free(mut self, _token: &FlushToken, pace: Pace) {
        while let Some(mut table) = self.head.take() {
            self.head = table.next.take();
            // What it links comes next, so that each turn frees one table.
            let links = table.links.iter_mut().flat_map(|links| links.iter_mut());
            for child in links.filter_map(Option::take) {
                self.push(child);
            }
            drop(table);
            if pace == Pace::Yielding {
                crate::context::cond_resched();
            }
        }
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        if let Some(table) = self.head.take() {
            kernel::warn_on!(true);
            core::mem::forget(table);
        }
    }
}
