// SPDX-License-Identifier: GPL-2.0

//! Memory slots: transitions, overlap and lookup.
//!
//! An address space is a set of slots, none of which overlaps another, kept in two orders by the
//! caller: one slice sorted by base frame (lookups by gfn), one sorted by id (lookups by id). Both
//! hold the same slots, so `S` is best a reference-counted pointer, wrapped in a type of the caller
//! that implements [`SlotView`].
//!
//! A change is: [`MemRegion::new`] checks what userspace gave, [`plan`] says what it means for the
//! slots that are there, and at which indices; the caller allocates, prepares and publishes.
//! `KVM_SET_USER_MEMORY_REGION` in api.rst.

use core::cmp::Ordering;

use crate::addr::Gfn;
use crate::addr::Gpa;
use crate::addr::Hva;
use crate::addr::PAGE_SHIFT;
use crate::addr::PAGE_SIZE;
use crate::outcome::Bug;

/// `KVM_CAP_NR_MEMSLOTS`: slots of userspace per address space; ids are below it.
///
/// 32767 less the three that upstream keeps for itself.
pub const MAX_USER_SLOTS: u16 = 32764;

/// The most pages that a slot of userspace has: a dirty bitmap is indexed by 31 bits.
pub const MAX_SLOT_PAGES: u64 = (1 << 31) - 1;

crate::bitfield! {
    /// `kvm_userspace_memory_region::flags`.
    pub struct SlotFlags(u32) {
        /// `KVM_MEM_LOG_DIRTY_PAGES`: writes are recorded.
        0:0 log_dirty, with_log_dirty => bool;
        /// `KVM_MEM_READONLY`: writes of the guest are MMIO.
        1:1 readonly, with_readonly => bool;
    }
}

/// The name of a slot: `kvm_userspace_memory_region::slot`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotId {
    /// The address space, bits 31:16.
    pub as_id: u16,
    /// The id within the address space, bits 15:0.
    pub id: u16,
}

impl SlotId {
    /// Takes the name apart.
    #[inline]
    pub const fn from_raw(slot: u32) -> Self {
        let [low, next, as_low, as_high] = slot.to_le_bytes();
        Self {
            as_id: u16::from_le_bytes([as_low, as_high]),
            id: u16::from_le_bytes([low, next]),
        }
    }

    /// Puts the name together, as dirty rings hold it.
    #[inline]
    pub const fn into_raw(self) -> u32 {
        ((self.as_id as u32) << 16) | self.id as u32
    }

    /// Returns whether a slot of userspace can have the name.
    ///
    /// `nr_address_spaces` is the value of `KVM_CAP_MULTI_ADDRESS_SPACE`, or 1 without it.
    #[inline]
    pub const fn is_valid(self, nr_address_spaces: u16) -> bool {
        self.as_id < nr_address_spaces && self.id < MAX_USER_SLOTS
    }
}

/// The fields of `struct kvm_userspace_memory_region`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RawRegion {
    /// `slot`.
    pub slot: u32,
    /// `flags`.
    pub flags: u32,
    /// `guest_phys_addr`.
    pub guest_phys_addr: u64,
    /// `memory_size`, in bytes.
    pub memory_size: u64,
    /// `userspace_addr`.
    pub userspace_addr: u64,
}

/// What the host and the VM allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The flags that a slot may have.
    pub flags: SlotFlags,
    /// The number of address spaces.
    pub nr_address_spaces: u16,
    /// The highest value that the end of a range of userspace, its last byte plus 1, may have.
    pub max_hva_end: Hva,
    /// The highest frame that the guest can address.
    pub max_gfn: Gfn,
}

/// Why a region is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotError {
    /// A field breaks a rule. Becomes `EINVAL`.
    Invalid(Rule),
    /// It overlaps another slot of the address space. Becomes `EEXIST`.
    Overlap,
    /// The two orders of the slots do not hold the same.
    Bug(Bug),
}

/// The rule that a region breaks, in the order of the checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Only flags of [`Limits::flags`].
    Flags,
    /// The size is a multiple of the page size.
    SizeAlignment,
    /// The guest-physical address is a multiple of the page size.
    GpaAlignment,
    /// The userspace address is a multiple of the page size.
    HvaAlignment,
    /// The range of userspace lies below [`Limits::max_hva_end`].
    HvaRange,
    /// The address space exists and the id is below [`MAX_USER_SLOTS`].
    Name,
    /// The end in guest-physical space does not wrap.
    GpaRange,
    /// No more than [`MAX_SLOT_PAGES`].
    Pages,
    /// A slot to be deleted is there.
    Absent,
    /// An existing slot keeps its userspace address.
    HvaChange,
    /// An existing slot keeps its size.
    SizeChange,
    /// An existing slot stays read-only, or writable.
    ReadonlyChange,
    /// A new or moved slot ends at [`Limits::max_gfn`] or below.
    GfnRange,
}

/// A slot, as this module sees it.
pub trait SlotView {
    /// The id within the address space.
    fn id(&self) -> u16;
    /// The first frame.
    fn base_gfn(&self) -> Gfn;
    /// The number of pages, never 0.
    fn npages(&self) -> u64;
    /// The address in the VMM that backs the first frame.
    fn hva(&self) -> Hva;
    /// The flags.
    fn flags(&self) -> SlotFlags;
}

/// A region that userspace asks for, by itself in order.
///
/// # Invariants
///
/// `base_gfn + npages` is at most 2^52; `npages` is at most [`MAX_SLOT_PAGES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemRegion {
    name: SlotId,
    base_gfn: Gfn,
    npages: u64,
    hva: Hva,
    flags: SlotFlags,
}

impl MemRegion {
    /// Converts and checks the argument of `KVM_SET_USER_MEMORY_REGION`.
    ///
    /// # Errors
    ///
    /// [`SlotError::Invalid`] with the first rule that is broken, [`Rule::Flags`] to
    /// [`Rule::Pages`].
    pub const fn new(raw: &RawRegion, limits: &Limits) -> Result<Self, SlotError> {
        match Self::broken_rule(raw, limits) {
            Some(rule) => Err(SlotError::Invalid(rule)),
            None => Ok(Self {
                name: SlotId::from_raw(raw.slot),
                base_gfn: Gpa(raw.guest_phys_addr).gfn(),
                npages: raw.memory_size >> PAGE_SHIFT,
                hva: Hva(raw.userspace_addr),
                flags: SlotFlags(raw.flags),
            }),
        }
    }

    const fn broken_rule(raw: &RawRegion, limits: &Limits) -> Option<Rule> {
        if raw.flags & !limits.flags.0 != 0 {
            return Some(Rule::Flags);
        }
        if raw.memory_size & (PAGE_SIZE - 1) != 0 {
            return Some(Rule::SizeAlignment);
        }
        if !Gpa(raw.guest_phys_addr).is_aligned(PAGE_SIZE) {
            return Some(Rule::GpaAlignment);
        }
        if !Hva(raw.userspace_addr).is_aligned(PAGE_SIZE) {
            return Some(Rule::HvaAlignment);
        }
        match Hva(raw.userspace_addr).checked_add(raw.memory_size) {
            Some(end) if end.0 <= limits.max_hva_end.0 => {}
            _ => return Some(Rule::HvaRange),
        }
        if !SlotId::from_raw(raw.slot).is_valid(limits.nr_address_spaces) {
            return Some(Rule::Name);
        }
        if Gpa(raw.guest_phys_addr)
            .checked_add(raw.memory_size)
            .is_none()
        {
            return Some(Rule::GpaRange);
        }
        if raw.memory_size >> PAGE_SHIFT > MAX_SLOT_PAGES {
            return Some(Rule::Pages);
        }
        None
    }

    /// Returns the name of the slot that is meant.
    #[inline]
    pub const fn name(&self) -> SlotId {
        self.name
    }

    /// Returns the first frame.
    #[inline]
    pub const fn base_gfn(&self) -> Gfn {
        self.base_gfn
    }

    /// Returns the number of pages; 0 to delete the slot.
    #[inline]
    pub const fn npages(&self) -> u64 {
        self.npages
    }

    /// Returns the address in the VMM that backs the first frame.
    #[inline]
    pub const fn hva(&self) -> Hva {
        self.hva
    }

    /// Returns the flags.
    #[inline]
    pub const fn flags(&self) -> SlotFlags {
        self.flags
    }
}

/// The indices of a slot in the two orders.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The index in the slice sorted by base frame.
    pub by_gfn: usize,
    /// The index in the slice sorted by id.
    pub by_id: usize,
}

/// What a region means for the slots that are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The slot is like that already.
    Nothing,
    /// Insert a new slot at these indices.
    Create(Place),
    /// Replace the slot at `from`: remove it from the slice sorted by base frame, then insert the
    /// new one there at `to_gfn` (an index of the slice without the old one).
    Move {
        /// Where the slot is.
        from: Place,
        /// Where it goes in the slice sorted by base frame.
        to_gfn: usize,
    },
    /// Replace the slot at these indices by one with the new flags.
    FlagsOnly(Place),
    /// Remove the slot at these indices.
    Delete(Place),
}

/// Decides what `region` means for the slots of its address space.
///
/// `by_gfn` and `by_id` hold the same slots, sorted by base frame and by id. `O(log n)`.
///
/// # Errors
///
/// - [`SlotError::Invalid`]: [`Rule::Absent`] to [`Rule::GfnRange`].
/// - [`SlotError::Overlap`]: a created or moved slot would overlap another.
/// - [`SlotError::Bug`]: the slices do not hold the same slots.
pub fn plan<S: SlotView>(
    by_gfn: &[S],
    by_id: &[S],
    region: &MemRegion,
    limits: &Limits,
) -> Result<Change, SlotError> {
    match find_id(by_id, region.name.id) {
        Err(_) if region.npages == 0 => Err(SlotError::Invalid(Rule::Absent)),
        Err(by_id) => {
            let by_gfn = vacancy(by_gfn, None, region, limits)?;
            Ok(Change::Create(Place { by_gfn, by_id }))
        }
        Ok(index) => {
            let old = by_id.get(index).ok_or(OUT_OF_STEP)?;
            let place = Place {
                by_gfn: index_of(by_gfn, old)?,
                by_id: index,
            };
            if region.npages == 0 {
                return Ok(Change::Delete(place));
            }
            plan_modify(by_gfn, old, place, region, limits)
        }
    }
}

const OUT_OF_STEP: SlotError = SlotError::Bug(Bug("the two orders of the slots differ"));

/// Decides what `region` means for `old`, the slot of its id.
fn plan_modify<S: SlotView>(
    by_gfn: &[S],
    old: &S,
    place: Place,
    region: &MemRegion,
    limits: &Limits,
) -> Result<Change, SlotError> {
    if region.hva != old.hva() {
        return Err(SlotError::Invalid(Rule::HvaChange));
    }
    if region.npages != old.npages() {
        return Err(SlotError::Invalid(Rule::SizeChange));
    }
    if region.flags.readonly() != old.flags().readonly() {
        return Err(SlotError::Invalid(Rule::ReadonlyChange));
    }
    if region.base_gfn != old.base_gfn() {
        let to_gfn = vacancy(by_gfn, Some(place.by_gfn), region, limits)?;
        return Ok(Change::Move {
            from: place,
            to_gfn,
        });
    }
    if region.flags != old.flags() {
        return Ok(Change::FlagsOnly(place));
    }
    Ok(Change::Nothing)
}

/// Returns the index at which `region` goes in `by_gfn` without the slot at `ignored`.
fn vacancy<S: SlotView>(
    by_gfn: &[S],
    ignored: Option<usize>,
    region: &MemRegion,
    limits: &Limits,
) -> Result<usize, SlotError> {
    let touched = overlapping(by_gfn, region.base_gfn, region.npages);
    let is_free = match ignored {
        Some(ignored) => touched.clone().all(|index| index == ignored),
        None => touched.is_empty(),
    };
    if !is_free {
        return Err(SlotError::Overlap);
    }
    if region.base_gfn.wrapping_add(region.npages.wrapping_sub(1)) > limits.max_gfn {
        return Err(SlotError::Invalid(Rule::GfnRange));
    }
    let position = by_gfn.partition_point(|slot| slot.base_gfn() < region.base_gfn);
    Ok(match ignored {
        Some(ignored) if ignored < position => position.wrapping_sub(1),
        _ => position,
    })
}

/// Returns the frame after the last of `slot`.
fn end_gfn<S: SlotView>(slot: &S) -> Gfn {
    Gfn(slot.base_gfn().0.saturating_add(slot.npages()))
}

/// Returns the indices of the slots that share a frame with the `npages` frames from `start`.
/// `O(log n)`.
pub fn overlapping<S: SlotView>(by_gfn: &[S], start: Gfn, npages: u64) -> core::ops::Range<usize> {
    let end = Gfn(start.0.saturating_add(npages));
    let first = by_gfn.partition_point(|slot| end_gfn(slot) <= start);
    let behind = by_gfn.partition_point(|slot| slot.base_gfn() < end);
    if npages == 0 {
        return first..first;
    }
    first..behind.max(first)
}

/// Returns the index in `by_gfn` of the slot that holds `gfn`. `O(log n)`.
#[inline]
pub fn find_gfn<S: SlotView>(by_gfn: &[S], gfn: Gfn) -> Option<usize> {
    by_gfn
        .binary_search_by(|slot| {
            if slot.base_gfn() > gfn {
                Ordering::Greater
            } else if end_gfn(slot) <= gfn {
                Ordering::Less
            } else {
                Ordering::Equal
            }
        })
        .ok()
}

/// Returns the slot that holds `gfn`. `O(log n)`.
#[inline]
pub fn lookup<S: SlotView>(by_gfn: &[S], gfn: Gfn) -> Option<&S> {
    by_gfn.get(find_gfn(by_gfn, gfn)?)
}

/// Returns the index in `by_id` of the slot with `id`, or where it would go. `O(log n)`.
#[inline]
pub fn find_id<S: SlotView>(by_id: &[S], id: u16) -> Result<usize, usize> {
    by_id.binary_search_by_key(&id, SlotView::id)
}

/// Returns the index in `by_gfn` of `slot`, one of the same set.
fn index_of<S: SlotView>(by_gfn: &[S], slot: &S) -> Result<usize, SlotError> {
    find_gfn(by_gfn, slot.base_gfn())
        .filter(|&index| {
            by_gfn
                .get(index)
                .is_some_and(|found| found.id() == slot.id())
        })
        .ok_or(OUT_OF_STEP)
}

/// Returns the address in the VMM that backs `gfn`, a frame of `slot`; `None` for another.
#[inline]
pub fn hva_of<S: SlotView>(slot: &S, gfn: Gfn) -> Option<Hva> {
    let offset = gfn.0.checked_sub(slot.base_gfn().0)?;
    if offset >= slot.npages() {
        return None;
    }
    slot.hva().checked_add(offset.checked_mul(PAGE_SIZE)?)
}

/// Returns the frames of `slot` that a byte of the VMM's range `start..end` backs: the first and
/// their number. `None` if there are none.
///
/// For MMU notifiers. A frame that the range covers in part counts.
pub fn gfns_of<S: SlotView>(slot: &S, start: Hva, end: Hva) -> Option<(Gfn, u64)> {
    let base = slot.hva().0;
    let slot_end = base.saturating_add(slot.npages().saturating_mul(PAGE_SIZE));
    let (from, to) = (start.0.max(base), end.0.min(slot_end));
    if from >= to {
        return None;
    }
    let first = from.wrapping_sub(base) >> PAGE_SHIFT;
    let last = to.wrapping_sub(base).wrapping_sub(1) >> PAGE_SHIFT;
    let npages = last.wrapping_sub(first).wrapping_add(1);
    Some((slot.base_gfn().wrapping_add(first), npages))
}

#[cfg(test)]
mod tests;
