// SPDX-License-Identifier: GPL-2.0

//! The slots of a VM: which memory of the VMM backs which guest frames.
//!
//! A [`Table`] never changes: a new one is published in its place, under SRCU, and who held the old
//! one has let it go before [`Memslots`] goes on. A slot that is to be deleted or moved is first
//! published as *going*: faults on it are to be retried, while notifiers still find what it maps,
//! until the caller has zapped that; only then is it gone. So there is no moment at which a
//! mapping exists and its slot cannot be found by address.

use crate::vm::dirty::{
    DirtyBitmap,
    Log,
    NewLog, //
};
use burrow_core::{
    addr::{
        Gfn,
        Hva,
        PAGE_SIZE, //
    },
    memslot::{
        self,
        Change,
        Limits,
        MemRegion,
        Place,
        RawRegion,
        SlotError,
        SlotFlags,
        SlotView, //
    },
};
use burrow_sys::rcu_ptr::{
    SrcuPtr,
    SrcuRef, //
};
use core::ops::Deref;
use kernel::{
    c_str, new_mutex,
    prelude::*,
    static_lock_class,
    sync::{
        lock::mutex::MutexGuard,
        Arc,
        Mutex, //
    },
};

/// What becomes of a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It stays.
    Live,
    /// It is being deleted or moved.
    Going,
}

/// A slot.
pub(crate) struct Slot {
    id: u16,
    base_gfn: Gfn,
    npages: u64,
    hva: Hva,
    flags: SlotFlags,
    fate: Fate,
    dirty: Option<Arc<Log>>,
}

impl Slot {
    /// Returns whether it is being deleted or moved: a fault on it is to be retried.
    #[inline]
    pub(crate) fn is_going(&self) -> bool {
        self.fate == Fate::Going
    }

    /// Returns whether writes are logged.
    #[inline]
    pub(crate) fn is_logged(&self) -> bool {
        self.dirty.is_some()
    }

    /// Returns the bitmap of dirty pages, where writes are logged in one.
    #[inline]
    pub(crate) fn bitmap(&self) -> Option<&DirtyBitmap> {
        match self.dirty.as_deref() {
            Some(Log::Bitmap(bitmap)) => Some(bitmap),
            Some(Log::Rings { .. }) | None => None,
        }
    }

    /// Marks `gfn`, a frame of the slot, as written, where writes are logged.
    #[inline]
    pub(crate) fn mark_dirty(&self, gfn: Gfn) {
        if let Some(dirty) = &self.dirty {
            dirty.set(gfn.0.wrapping_sub(self.base_gfn.0));
        }
    }

    /// Makes the same slot, going.
    fn going(&self) -> Result<SlotRef> {
        let slot = Self {
            fate: Fate::Going,
            dirty: self.dirty.clone(),
            ..*self
        };
        Ok(SlotRef(Arc::new(slot, GFP_KERNEL_ACCOUNT)?))
    }

    /// Returns the address behind the last page.
    fn hva_end(&self) -> u64 {
        self.hva
            .0
            .saturating_add(self.npages.saturating_mul(PAGE_SIZE))
    }
}

impl SlotView for Slot {
    fn id(&self) -> u16 {
        self.id
    }
    fn base_gfn(&self) -> Gfn {
        self.base_gfn
    }
    fn npages(&self) -> u64 {
        self.npages
    }
    fn hva(&self) -> Hva {
        self.hva
    }
    fn flags(&self) -> SlotFlags {
        self.flags
    }
}

/// A slot in a table.
#[derive(Clone)]
pub(crate) struct SlotRef(Arc<Slot>);

impl Deref for SlotRef {
    type Target = Slot;
    #[inline]
    fn deref(&self) -> &Slot {
        &self.0
    }
}

impl SlotView for SlotRef {
    fn id(&self) -> u16 {
        self.0.id
    }
    fn base_gfn(&self) -> Gfn {
        self.0.base_gfn
    }
    fn npages(&self) -> u64 {
        self.0.npages
    }
    fn hva(&self) -> Hva {
        self.0.hva
    }
    fn flags(&self) -> SlotFlags {
        self.0.flags
    }
}

/// The slots of a VM at one time, in three orders.
#[derive(Default)]
pub(crate) struct Table {
    by_gfn: KVVec<SlotRef>,
    by_id: KVVec<SlotRef>,
    /// By the address of the first page; several slots may share memory of the VMM.
    by_hva: KVVec<SlotRef>,
    /// For each of `by_hva`, the highest end of it and those before it.
    highest_end: KVVec<u64>,
}

/// A change of a table.
pub(crate) enum Edit {
    /// Insert the slot.
    Create(Place, SlotRef),
    /// Put the slot, of the same place in every order, where an older self of it is.
    Put(Place, SlotRef),
    /// Remove the slot at a place, and insert its new self at an index of the order by gfn.
    Move(Place, usize, SlotRef),
    /// Remove the slot.
    Delete(Place),
}

impl Table {
    /// Returns the slot that holds `gfn`. `O(log n)`.
    #[inline]
    pub(crate) fn by_gfn(&self, gfn: Gfn) -> Option<&SlotRef> {
        memslot::lookup(&self.by_gfn, gfn)
    }

    /// Returns the slot with `id`. `O(log n)`.
    pub(crate) fn by_id(&self, id: u16) -> Option<&SlotRef> {
        self.by_id.get(memslot::find_id(&self.by_id, id).ok()?)
    }

    /// Calls `f` with each run of frames that memory of `start..end` backs: the first and their
    /// number. `O(log n)` and one step per slot that starts between the first and the last match.
    pub(crate) fn for_each_gfns(&self, start: Hva, end: Hva, mut f: impl FnMut(Gfn, u64)) {
        let first = self
            .highest_end
            .partition_point(|&highest| highest <= start.0);
        let behind = self.by_hva.partition_point(|slot| slot.hva.0 < end.0);
        for slot in self.by_hva.get(first..behind).unwrap_or(&[]) {
            if let Some((gfn, npages)) = memslot::gfns_of(slot, start, end) {
                f(gfn, npages);
            }
        }
    }

    /// Returns whether memory of `start..end` backs any frame.
    pub(crate) fn is_backed_by(&self, start: Hva, end: Hva) -> bool {
        let mut is_backed = false;
        self.for_each_gfns(start, end, |_, _| is_backed = true);
        is_backed
    }

    /// Returns whether any slot is logged.
    pub(crate) fn has_logged(&self) -> bool {
        self.by_id.iter().any(|slot| slot.is_logged())
    }

    /// Makes a copy.
    fn copy(&self) -> Result<KBox<Self>> {
        let mut copy = KBox::new(Self::default(), GFP_KERNEL_ACCOUNT)?;
        copy.by_gfn
            .extend_from_slice(&self.by_gfn, GFP_KERNEL_ACCOUNT)?;
        copy.by_id
            .extend_from_slice(&self.by_id, GFP_KERNEL_ACCOUNT)?;
        copy.by_hva
            .extend_from_slice(&self.by_hva, GFP_KERNEL_ACCOUNT)?;
        copy.highest_end
            .extend_from_slice(&self.highest_end, GFP_KERNEL_ACCOUNT)?;
        Ok(copy)
    }

    /// Makes `edit`. Only [`Edit::Create`] allocates, and can fail for want of memory.
    fn apply(&mut self, edit: &Edit) -> Result {
        match edit {
            Edit::Create(at, slot) => {
                self.by_gfn.reserve(1, GFP_KERNEL_ACCOUNT)?;
                self.by_id.reserve(1, GFP_KERNEL_ACCOUNT)?;
                self.by_hva.reserve(1, GFP_KERNEL_ACCOUNT)?;
                self.highest_end.reserve(1, GFP_KERNEL_ACCOUNT)?;
                insert(&mut self.by_gfn, at.by_gfn, slot.clone())?;
                insert(&mut self.by_id, at.by_id, slot.clone())?;
                self.insert_by_hva(slot.clone())
            }
            Edit::Put(at, slot) => {
                let old = self.by_id.get(at.by_id).ok_or(EIO)?;
                let by_hva = self.index_by_hva(old)?;
                put(&mut self.by_gfn, at.by_gfn, slot.clone())?;
                put(&mut self.by_id, at.by_id, slot.clone())?;
                put(&mut self.by_hva, by_hva, slot.clone())
            }
            Edit::Move(from, to_gfn, slot) => {
                let old = self.by_id.get(from.by_id).ok_or(EIO)?;
                let by_hva = self.index_by_hva(old)?;
                remove(&mut self.by_gfn, from.by_gfn)?;
                insert(&mut self.by_gfn, *to_gfn, slot.clone())?;
                put(&mut self.by_id, from.by_id, slot.clone())?;
                put(&mut self.by_hva, by_hva, slot.clone())
            }
            Edit::Delete(at) => {
                let old = self.by_id.get(at.by_id).ok_or(EIO)?;
                let by_hva = self.index_by_hva(old)?;
                remove(&mut self.by_gfn, at.by_gfn)?;
                remove(&mut self.by_id, at.by_id)?;
                remove(&mut self.by_hva, by_hva)?;
                self.highest_end.truncate(by_hva);
                self.complete_ends()
            }
        }
    }

    /// Returns the index in `by_hva` of `slot`, which is in the table.
    fn index_by_hva(&self, slot: &SlotRef) -> Result<usize> {
        let first = self
            .by_hva
            .partition_point(|other| other.hva.0 < slot.hva.0);
        let equals = self.by_hva.get(first..).ok_or(EIO)?;
        let offset = equals.iter().position(|other| other.id == slot.id);
        Ok(first.wrapping_add(offset.ok_or(EIO)?))
    }

    fn insert_by_hva(&mut self, slot: SlotRef) -> Result {
        let index = self
            .by_hva
            .partition_point(|other| other.hva.0 <= slot.hva.0);
        insert(&mut self.by_hva, index, slot)?;
        self.highest_end.truncate(index);
        self.complete_ends()
    }

    /// Brings `highest_end`, right as far as it goes, to the length of `by_hva`.
    fn complete_ends(&mut self) -> Result {
        let done = self.highest_end.len();
        let mut highest = self.highest_end.last().copied().unwrap_or(0);
        for slot in self.by_hva.get(done..).ok_or(EIO)? {
            highest = slot.hva_end().max(highest);
            self.highest_end.push(highest, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(())
    }
}

fn put(slots: &mut KVVec<SlotRef>, index: usize, slot: SlotRef) -> Result {
    *slots.get_mut(index).ok_or(EIO)? = slot;
    Ok(())
}

fn insert(slots: &mut KVVec<SlotRef>, index: usize, slot: SlotRef) -> Result {
    if index > slots.len() {
        return Err(EIO);
    }
    slots.push(slot, GFP_KERNEL_ACCOUNT)?;
    slots.get_mut(index..).ok_or(EIO)?.rotate_right(1);
    Ok(())
}

fn remove(slots: &mut KVVec<SlotRef>, index: usize) -> Result {
    slots.remove(index).map(|_| ()).map_err(|_| EIO)
}

/// What a change of the slots calls for in the mappings, once it is published.
pub(crate) enum Applied {
    /// Nothing.
    Nothing,
    /// Mappings of the slot are to be zapped, before [`Locked::finish`] makes the edit.
    Going(SlotRef, Edit),
    /// Writes to the slot are to be logged from now on.
    LogStarted(SlotRef),
    /// Writes to the slot are not logged any more.
    LogStopped(SlotRef),
}

/// The published slots and the lock of who changes them.
///
/// # Locks
///
/// The mutex is above `mmu_lock`, and is never taken by a holder of [`read`](Self::read).
#[pin_data]
pub(crate) struct Memslots {
    #[pin]
    table: SrcuPtr<Table>,
    /// The table that was published before, brought up to date: what the next change is made to.
    #[pin]
    spare: Mutex<Option<KBox<Table>>>,
    limits: Limits,
}

impl Memslots {
    /// Makes an empty set.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(limits: Limits) -> Result<impl PinInit<Self, Error>> {
        let table = KBox::new(Table::default(), GFP_KERNEL_ACCOUNT)?;
        Ok(try_pin_init!(Self {
            table <- SrcuPtr::new(table, c_str!("kvm_memslots"), static_lock_class!()),
            spare <- new_mutex!(None, "kvm_slots_lock"),
            limits,
        }))
    }

    /// Returns the slots, which stay what they are while the guard lives.
    ///
    /// # Context
    ///
    /// Any but NMI; the holder may sleep.
    #[inline]
    pub(crate) fn read(&self) -> SrcuRef<'_, Table> {
        self.table.read()
    }

    /// Returns the number of address spaces.
    pub(crate) fn nr_address_spaces(&self) -> u16 {
        self.limits.nr_address_spaces
    }

    /// Locks the slots against changes.
    ///
    /// # Context
    ///
    /// Sleeps.
    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked {
            slots: self,
            spare: self.spare.lock(),
        }
    }
}

/// Slots that nobody else changes.
pub(crate) struct Locked<'a> {
    slots: &'a Memslots,
    spare: MutexGuard<'a, Option<KBox<Table>>>,
}

impl Locked<'_> {
    /// Returns the slots.
    pub(crate) fn read(&self) -> SrcuRef<'_, Table> {
        self.slots.table.read()
    }

    /// Carries out `KVM_SET_USER_MEMORY_REGION`, and says what it means for the mappings.
    /// `log` is what a newly logged slot gets.
    ///
    /// On return no fault uses the slots as they were.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the region breaks a rule (see [`memslot::Rule`]), `EEXIST` where it overlaps
    /// another slot, `ENOMEM` when there is no memory.
    pub(crate) fn set_region(&mut self, raw: &RawRegion, log: &NewLog) -> Result<Applied> {
        let limits = &self.slots.limits;
        let region = MemRegion::new(raw, limits).map_err(errno)?;
        let table = self.read();
        let plan = memslot::plan(&table.by_gfn, &table.by_id, &region, limits).map_err(errno)?;
        let at = match plan {
            Change::Nothing => return Ok(Applied::Nothing),
            Change::Create(at)
            | Change::FlagsOnly(at)
            | Change::Delete(at)
            | Change::Move { from: at, .. } => at,
        };
        let old = table.by_id.get(at.by_id).cloned();
        drop(table);
        if matches!(plan, Change::Create(_)) {
            self.publish(&Edit::Create(at, new_slot(&region, None, log)?))?;
            return Ok(Applied::Nothing);
        }
        let old = old.ok_or(EIO)?;
        let edit = match plan {
            Change::Move { to_gfn, .. } => {
                Edit::Move(at, to_gfn, new_slot(&region, Some(&old), log)?)
            }
            Change::Delete(_) => Edit::Delete(at),
            _ => {
                let slot = new_slot(&region, Some(&old), log)?;
                self.publish(&Edit::Put(at, slot.clone()))?;
                return Ok(match (old.flags.log_dirty(), slot.flags.log_dirty()) {
                    (false, true) => Applied::LogStarted(slot),
                    (true, false) => Applied::LogStopped(slot),
                    _ => Applied::Nothing,
                });
            }
        };
        self.publish(&Edit::Put(at, old.going()?))?;
        Ok(Applied::Going(old, edit))
    }

    /// Makes the edit of [`Applied::Going`], once nothing of the slot is mapped.
    ///
    /// # Errors
    ///
    /// None but for a bug: it needs no memory.
    pub(crate) fn finish(&mut self, edit: &Edit) -> Result {
        self.publish(edit)
    }

    /// Publishes the table with `edit`, and waits for the readers of the one before.
    fn publish(&mut self, edit: &Edit) -> Result {
        let mut next = match self.spare.take() {
            Some(spare) => spare,
            None => self.read().copy()?,
        };
        next.apply(edit)?;
        let mut old = self.slots.table.replace(next);
        if old.apply(edit).is_ok() {
            *self.spare = Some(old);
        }
        Ok(())
    }
}

/// Makes the slot that `region` asks for, in the place of `old`, whose log it goes on with.
fn new_slot(region: &MemRegion, old: Option<&SlotRef>, log: &NewLog) -> Result<SlotRef> {
    let dirty = if !region.flags().log_dirty() {
        None
    } else if let Some(dirty) = old.and_then(|old| old.0.dirty.as_ref()) {
        Some(dirty.clone())
    } else {
        let log = Log::new(region.name(), region.npages(), log)?;
        Some(Arc::new(log, GFP_KERNEL_ACCOUNT)?)
    };
    let slot = Slot {
        id: region.name().id,
        base_gfn: region.base_gfn(),
        npages: region.npages(),
        hva: region.hva(),
        flags: region.flags(),
        fate: Fate::Live,
        dirty,
    };
    Ok(SlotRef(Arc::new(slot, GFP_KERNEL_ACCOUNT)?))
}

fn errno(error: SlotError) -> Error {
    match error {
        SlotError::Invalid(_) => EINVAL,
        SlotError::Overlap => EEXIST,
        SlotError::Bug(bug) => {
            kernel::pr_warn_once!("{}\n", bug.0);
            EIO
        }
    }
}
