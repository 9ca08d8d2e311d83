// SPDX-License-Identifier: GPL-2.0

//! VMCS shadowing for L1: which fields of vmcs12 it reads and writes without an exit, and when.
//!
//! While L1 runs, a shadow VMCS of the processor holds a copy of some fields, and the VMREAD and VMWRITE
//! bitmaps let L1 at those: they are *open*. [`Shadowed::push`] brings the copy up to date before L1 runs,
//! [`Shadowed::pull`] takes back what L1 has written before vmcs12 is used. SDM 3C "VMCS Shadowing",
//! 25.6.13 ff. and 26.3.
//!
//! Both cost a VMREAD or VMWRITE for a field, much less than an exit, but in each round. So the fields are
//! not a list that somebody once thought of, but those that this L1 uses: one is opened once it has caused
//! a few exits within a period ([`OPENS_AFTER`], [`PERIOD`]). It is closed for VMWRITE again when L1 has not
//! changed it for a period; about as long as reading it in vain costs what the exits cost that open it
//! again, so that neither can cost much more than the better choice. VMREADs that do not exit cannot be
//! seen: fields that are open for them alone are closed from time to time ([`ROUNDS_OPEN`]).
//!
//! Invariants:
//!
//! - What is open for VMWRITE is open for VMREAD, as vmcs12 does not have its newest value.
//! - While L1 runs, the copy of what is open for VMREAD alone is what vmcs12 has: a VMWRITE that exits
//!   closes it.

use super::super::vmx::field::*;
use super::sync::is_lazy;
use super::vmcs12::{
    FieldSet,
    Vmcs12, //
};

/// A page of the VMREAD or VMWRITE bitmap; bit n stands for encoding n, and a set bit exits.
pub type Bitmap = [u64; 512];

/// The two bitmaps.
pub struct Bitmaps<'a> {
    /// Of VMREAD.
    pub vmread: &'a mut Bitmap,
    /// Of VMWRITE.
    pub vmwrite: &'a mut Bitmap,
}

/// So many exits within a period open a field.
pub const OPENS_AFTER: u8 = 3;
/// A period in rounds: about exits of L2.
pub const PERIOD: u32 = 128;
/// After each so many rounds, what is open for VMREAD alone is closed.
pub const ROUNDS_OPEN: u32 = 32 * PERIOD;

/// An instruction that exited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// VMREAD.
    Read,
    /// VMWRITE.
    Write,
}

/// The hardware's shadow VMCS, by way of something that keeps the values that it has read and written.
pub trait CachedVmcs: VmcsAccess {
    /// Makes the values of `fields` unknown: L1 may have written them.
    fn forget(&mut self, fields: &FieldSet);
}

/// Which fields are open.
pub struct Shadowed {
    /// Those that may be, for VMREAD and for VMWRITE.
    can_read: FieldSet,
    can_write: FieldSet,
    /// Those that are.
    readable: FieldSet,
    writable: FieldSet,
    /// Those that will be from the next round on, when the copy has their values.
    opening: FieldSet,
    opening_for_write: FieldSet,
    /// Those that L1 has changed in this period.
    changed: FieldSet,
    /// How often each has exited in this period.
    reads: [u8; NR_SLOTS],
    writes: [u8; NR_SLOTS],
    rounds: u32,
}

/// Returns whether the copy may hold a field. Lazy ones are in vmcs02 when L1 starts to run; the
/// error number of a VMX instruction changes while it does.
fn can_read(encoding: Encoding) -> bool {
    !is_lazy(encoding) && encoding != VM_INSTRUCTION_ERROR.encoding()
}

/// Returns whether the processor does with a VMWRITE to the copy what vmcs12 would: it may keep reserved
/// bits of access rights.
fn can_write(encoding: Encoding) -> bool {
    let rights = GUEST_ES_AR_BYTES.encoding()..=GUEST_TR_AR_BYTES.encoding();
    can_read(encoding) && encoding.kind() != FieldKind::ReadOnly && !rights.contains(&encoding)
}

impl Shadowed {
    /// Makes one with everything closed. `exists` are the fields that L1 has, `hardware` those that the
    /// processor has.
    pub fn new(exists: &FieldSet, hardware: &FieldSet) -> Self {
        let both = exists.intersection(hardware);
        Self {
            can_read: FieldSet::of(can_read).intersection(&both),
            can_write: FieldSet::of(can_write).intersection(&both),
            readable: FieldSet::NONE,
            writable: FieldSet::NONE,
            opening: FieldSet::NONE,
            opening_for_write: FieldSet::NONE,
            changed: FieldSet::NONE,
            reads: [0; NR_SLOTS],
            writes: [0; NR_SLOTS],
            rounds: 0,
        }
    }

    /// Returns whether there is anything to take back.
    #[inline]
    pub fn needs_pull(&self) -> bool {
        !self.writable.is_empty()
    }

    /// Notes that an instruction of L1 with `operand` as its field has exited, and has been carried out.
    #[inline]
    pub fn note_exit(&mut self, operand: u64, access: Access, bitmaps: &mut Bitmaps<'_>) {
        let encoding = u32::try_from(operand).ok().map(Encoding);
        let Some((encoding, slot)) = encoding.and_then(|e| Some((e.full(), e.slot()?))) else {
            return;
        };
        let (counts, can, opening) = match access {
            Access::Read => (&mut self.reads, &self.can_read, &mut self.opening),
            Access::Write => (
                &mut self.writes,
                &self.can_write,
                &mut self.opening_for_write,
            ),
        };
        if let Some(count) = counts.get_mut(slot) {
            *count = count.saturating_add(1);
            if *count >= OPENS_AFTER && can.contains_slot(slot) {
                opening.insert_slot(slot);
            }
        }
        if access == Access::Write && self.readable.contains_slot(slot) {
            self.readable.remove_slot(slot);
            set(bitmaps.vmread, encoding, Bits::Exit);
        }
    }

    /// Takes back what L1 has written; changed values mark their groups dirty.
    #[inline]
    pub fn pull(&mut self, v: &mut Vmcs12, shadow: &mut impl CachedVmcs) {
        shadow.forget(&self.writable);
        let changed = &mut self.changed;
        self.writable.for_each(|slot, encoding| {
            if v.take_slot(slot, shadow.read_slot(encoding, slot)) {
                changed.insert_slot(slot);
            }
        });
    }

    /// Opens and closes fields, before L1 runs with a vmcs12 that has changed, and has what L1 has written.
    /// Returns whether anything is open then: the copy must be brought up to date.
    #[inline]
    pub fn begin_round(&mut self, bitmaps: &mut Bitmaps<'_>) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds % PERIOD == 0 {
            self.end_period(bitmaps);
        }
        if !self.opening.is_empty() || !self.opening_for_write.is_empty() {
            self.open(bitmaps);
        }
        !self.readable.is_empty()
    }

    /// Brings the copy up to date.
    #[inline]
    pub fn push(&self, v: &Vmcs12, shadow: &mut impl CachedVmcs) {
        self.readable.for_each(|slot, encoding| {
            shadow.write_slot(encoding, slot, v.read_slot(encoding, slot));
        });
        // Not only before the next pull: one that is closed until then is not pulled.
        shadow.forget(&self.writable);
    }

    fn open(&mut self, bitmaps: &mut Bitmaps<'_>) {
        let opening = core::mem::replace(&mut self.opening, FieldSet::NONE);
        let for_write = core::mem::replace(&mut self.opening_for_write, FieldSet::NONE);
        opening.for_each(|slot, encoding| {
            self.readable.insert_slot(slot);
            set(bitmaps.vmread, encoding, Bits::NoExit);
        });
        for_write.for_each(|slot, encoding| {
            self.readable.insert_slot(slot);
            self.writable.insert_slot(slot);
            self.changed.insert_slot(slot);
            set(bitmaps.vmread, encoding, Bits::NoExit);
            set(bitmaps.vmwrite, encoding, Bits::NoExit);
        });
    }

    #[cold]
    fn end_period(&mut self, bitmaps: &mut Bitmaps<'_>) {
        let idle = self.writable.without(&self.changed);
        self.changed = FieldSet::NONE;
        self.writable = self.writable.without(&idle);
        idle.for_each(|_, encoding| set(bitmaps.vmwrite, encoding, Bits::Exit));
        self.reads.fill(0);
        self.writes.fill(0);
        if self.rounds % ROUNDS_OPEN == 0 {
            let unseen = self.readable.without(&self.writable);
            self.readable = self.writable;
            unseen.for_each(|_, encoding| set(bitmaps.vmread, encoding, Bits::Exit));
        }
    }
}

/// Closes every field in the bitmaps, as they are for a new [`Shadowed`].
pub fn close_all(bitmaps: &mut Bitmaps<'_>) {
    bitmaps.vmread.fill(u64::MAX);
    bitmaps.vmwrite.fill(u64::MAX);
}

#[derive(Clone, Copy)]
enum Bits {
    Exit,
    NoExit,
}

/// Sets or clears the bits of a field and of its high half.
fn set(bitmap: &mut Bitmap, encoding: Encoding, to: Bits) {
    let halves: u64 = match encoding.width() {
        FieldWidth::Quad => 3,
        FieldWidth::Word | FieldWidth::Double | FieldWidth::Natural => 1,
    };
    if let Some(word) = bitmap.get_mut((encoding.0 >> 6) as usize) {
        let bits = halves << (encoding.0 & 63);
        match to {
            Bits::Exit => *word |= bits,
            Bits::NoExit => *word &= !bits,
        }
    }
}

#[cfg(test)]
mod tests;
