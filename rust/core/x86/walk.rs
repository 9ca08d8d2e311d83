// SPDX-License-Identifier: GPL-2.0

//! The guest's own page walk: from a linear address to a guest-physical one.
//!
//! [`walk`] reads the paging structures and judges the access; [`commit`] sets the accessed and
//! dirty flags that the walk calls for; [`translate`] does both until they agree. All paging modes
//! are here: none, 32-bit, PAE, 4-level and 5-level. SDM 3A "Paging", chapter 5.
//!
//! Whether the address is canonical, or within its segment, was decided before.

pub mod memo;

use super::ept::address_bits;
use crate::addr::Gpa;
use crate::addr::Gva;
use crate::addr::Level;
use crate::addr::PAGE_SHIFT;
use crate::outcome::Exception;

/// Access to the paging structures of a guest.
///
/// Addresses are in the space that CR3 is in: for an L2 guest with nested EPT they are its own
/// guest-physical addresses, and the implementation translates them. What no memory backs is read
/// as all ones and written to no effect, as on a bus.
pub trait GuestMem {
    /// Why the memory cannot be had: an EPT violation of an L2 guest, an error of the VMM.
    type Error;

    /// Reads the entry at `address`, a multiple of its width; a 32-bit one is zero-extended.
    ///
    /// # Errors
    ///
    /// Whatever keeps the entry from being read.
    fn read_entry(&mut self, address: Gpa, width: EntryWidth) -> Result<u64, Self::Error>;

    /// Replaces the entry at `address` by `new` if it still is `old`; returns whether it was.
    ///
    /// # Errors
    ///
    /// Whatever keeps the entry from being written.
    fn cmpxchg_entry(
        &mut self,
        address: Gpa,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<bool, Self::Error>;
}

/// The width of a paging-structure entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryWidth {
    /// 32-bit paging.
    Four,
    /// All other modes.
    Eight,
}

/// A paging mode. SDM 3A "Four Paging Modes", 5.1.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// CR0.PG = 0: linear addresses, 32 bits of them, are physical.
    Off,
    /// 32-bit paging.
    Bits32,
    /// PAE paging.
    Pae,
    /// 4-level paging.
    FourLevel,
    /// 5-level paging.
    FiveLevel,
}

/// The state of the vCPU that a translation depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    /// The mode.
    pub mode: Mode,
    /// CR3.
    pub cr3: u64,
    /// The page-directory-pointer-table registers, for [`Mode::Pae`].
    pub pdptes: [u64; 4],
    /// MAXPHYADDR of the vCPU, in bits, at most 52.
    pub physical_address_bits: u8,
    /// CR0.WP.
    pub write_protect: bool,
    /// CR4.PSE; matters to 32-bit paging.
    pub page_size_extensions: bool,
    /// CPUID says that 4-MiB pages may lie beyond 4 GiB (PSE-36).
    pub pse_36: bool,
    /// CPUID says that 1-GiB pages are supported.
    pub page_1g: bool,
    /// IA32_EFER.NXE.
    pub execute_disable: bool,
    /// CR4.SMEP.
    pub smep: bool,
    /// CR4.SMAP.
    pub smap: bool,
    /// CR4.PKE; matters to 4-level and 5-level paging.
    pub protection_keys: bool,
    /// PKRU.
    pub pkru: u32,
}

/// What the access does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A data read.
    Read,
    /// A data write (or a read with intent to write).
    Write,
    /// An instruction fetch.
    Fetch,
}

/// On whose behalf it is made. SDM 3A "Determination of Access Rights", 5.6.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Privilege {
    /// Explicit, CPL 3.
    User,
    /// Explicit, CPL below 3, RFLAGS.AC clear.
    Supervisor,
    /// Explicit, CPL below 3, RFLAGS.AC set: SMAP does not apply.
    SupervisorAc,
    /// Implicit, to a system structure (GDT, IDT, TSS, ...), at any CPL.
    Implicit,
}

impl Privilege {
    /// Returns whether it is a user-mode access.
    #[inline]
    pub const fn is_user(self) -> bool {
        matches!(self, Self::User)
    }
}

/// An access to a linear address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// What it does.
    pub kind: Kind,
    /// On whose behalf.
    pub privilege: Privilege,
}

/// A flag update that the processor would make: `old` to `new` at `address`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Update {
    /// Where the entry is.
    pub address: Gpa,
    /// What the walk read.
    pub old: u64,
    /// The same with accessed, and for the leaf of a write dirty, set.
    pub new: u64,
}

/// A finished translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The address.
    pub gpa: Gpa,
    /// log2 of the page size in bytes: 12, 21, 22 or 30; 32 with paging off.
    pub page_shift: u32,
    /// The page is a user-mode one; true with paging off.
    pub is_user: bool,
    /// Every entry allows writes (CR0.WP not considered); true with paging off.
    pub is_writable: bool,
    /// The width of the entries in `updates`.
    pub width: EntryWidth,
    updates: [Update; 5],
    nr_updates: usize,
}

impl Translation {
    /// Returns the flag updates, root first; none where every flag is set already.
    #[inline]
    pub fn updates(&self) -> &[Update] {
        self.updates.get(..self.nr_updates).unwrap_or(&[])
    }

    fn push(&mut self, update: Update) {
        if let Some(slot) = self.updates.get_mut(self.nr_updates) {
            *slot = update;
            self.nr_updates = self.nr_updates.saturating_add(1);
        }
    }
}

/// Why there is no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkError<E> {
    /// The guest gets this page fault.
    Fault(Exception),
    /// The paging structures could not be accessed.
    Mem(E),
}

impl<E> From<E> for WalkError<E> {
    #[inline]
    fn from(error: E) -> Self {
        Self::Mem(error)
    }
}

/// Bits of the error code of #PF. SDM 3A "Page-Fault Exceptions", 5.7.
pub mod pf_error {
    /// The fault is a violation, not a page that is not present.
    pub const P: u32 = 1 << 0;
    /// The access was a write.
    pub const WR: u32 = 1 << 1;
    /// It was a user-mode access.
    pub const US: u32 = 1 << 2;
    /// A reserved bit is set in an entry.
    pub const RSVD: u32 = 1 << 3;
    /// It was an instruction fetch.
    pub const ID: u32 = 1 << 4;
    /// A protection key forbids it.
    pub const PK: u32 = 1 << 5;
}

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const EXECUTE_DISABLE: u64 = 1 << 63;

/// How often [`translate`] starts again when the guest changes entries under it.
const MAX_RESTARTS: u32 = 64;

/// Translates `gva` and sets the accessed and dirty flags.
///
/// # Errors
///
/// The page fault for the guest, or what `mem` fails with. A guest that keeps changing the entries
/// gets the page fault of a page that is not present, which it may take and retry.
pub fn translate<M: GuestMem>(
    mem: &mut M,
    paging: &Paging,
    gva: Gva,
    access: Access,
) -> Result<Translation, WalkError<M::Error>> {
    for _ in 0..MAX_RESTARTS {
        let translation = walk(mem, paging, gva, access)?;
        if commit(mem, &translation)? {
            return Ok(translation);
        }
    }
    Err(WalkError::Fault(paging.fault(gva, access, 0)))
}

/// Stores the flag updates of `translation`; returns false, having stopped, at the first entry that
/// has changed since the walk.
///
/// # Errors
///
/// What `mem` fails with.
pub fn commit<M: GuestMem>(mem: &mut M, translation: &Translation) -> Result<bool, M::Error> {
    for update in translation.updates() {
        if !mem.cmpxchg_entry(update.address, translation.width, update.old, update.new)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Translates `gva` without changing anything: the flag updates are in the answer.
///
/// # Errors
///
/// The page fault for the guest, or what `mem` fails with.
pub fn walk<M: GuestMem>(
    mem: &mut M,
    paging: &Paging,
    gva: Gva,
    access: Access,
) -> Result<Translation, WalkError<M::Error>> {
    let fault = |code| WalkError::Fault(paging.fault(gva, access, code));
    let mut path = paging.identity(gva);
    let Some(mut step) = paging.start(gva) else {
        return Ok(path);
    };
    if !step.is_present {
        return Err(fault(0));
    }
    let mut combined = Combined::default();
    loop {
        let address = paging.entry_address(&step, gva);
        let entry = mem.read_entry(address, path.width)?;
        if entry & PRESENT == 0 {
            return Err(fault(0));
        }
        if entry & paging.reserved(entry, step.level) != 0 {
            return Err(fault(pf_error::P | pf_error::RSVD));
        }
        combined.add(entry, paging);
        let is_leaf = paging.is_leaf(entry, step.level);
        let dirties = is_leaf && access.kind == Kind::Write;
        let new = entry | ACCESSED | if dirties { DIRTY } else { 0 };
        if entry != new {
            path.push(Update {
                address,
                old: entry,
                new,
            });
        }
        if is_leaf {
            combined.check(paging, entry, access).map_err(fault)?;
            return Ok(paging.finish(path, entry, step.level, &combined, gva));
        }
        let Some(level) = step.level.below() else {
            return Err(fault(0));
        };
        step = Step {
            table: entry & paging.table_mask(),
            level,
            is_present: true,
        };
    }
}

/// The table that the walk is at.
#[derive(Clone, Copy)]
struct Step {
    table: u64,
    level: Level,
    is_present: bool,
}

/// The rights of the entries so far, combined. SDM 3A "Access Rights", 5.6.
struct Combined {
    writable: bool,
    user: bool,
    execute_disable: bool,
}

impl Default for Combined {
    fn default() -> Self {
        Self {
            writable: true,
            user: true,
            execute_disable: false,
        }
    }
}

impl Combined {
    fn add(&mut self, entry: u64, paging: &Paging) {
        self.writable &= entry & WRITABLE != 0;
        self.user &= entry & USER != 0;
        self.execute_disable |= paging.has_execute_disable() && entry & EXECUTE_DISABLE != 0;
    }

    /// Returns the bits that a violation adds to the error code, or `Ok` where there is none.
    fn check(&self, paging: &Paging, leaf: u64, access: Access) -> Result<(), u32> {
        let key_code = self.check_key(paging, leaf, access);
        if key_code.is_ok() && self.allows(paging, access) {
            Ok(())
        } else {
            Err(pf_error::P | key_code.err().unwrap_or(0))
        }
    }

    /// SDM 3A "Determination of Access Rights", 5.6.1.
    fn allows(&self, paging: &Paging, access: Access) -> bool {
        let privilege = access.privilege;
        if privilege.is_user() && !self.user {
            return false;
        }
        if access.kind == Kind::Fetch {
            let smep_forbids = paging.smep && self.user && !privilege.is_user();
            return !self.execute_disable && !smep_forbids;
        }
        let smap_applies = matches!(privilege, Privilege::Supervisor | Privilege::Implicit);
        if paging.smap && self.user && smap_applies {
            return false;
        }
        let must_be_writable =
            access.kind == Kind::Write && (privilege.is_user() || paging.write_protect);
        self.writable || !must_be_writable
    }

    /// SDM 3A "Protection Keys", 5.6.2.
    fn check_key(&self, paging: &Paging, leaf: u64, access: Access) -> Result<(), u32> {
        let is_data = access.kind != Kind::Fetch;
        if !(paging.protection_keys && paging.is_long() && self.user && is_data) {
            return Ok(());
        }
        let key = (leaf >> 59) & 15;
        let rights = paging.pkru >> key.wrapping_mul(2);
        let access_disabled = rights & 1 != 0;
        let write_disabled = rights & 2 != 0
            && access.kind == Kind::Write
            && (access.privilege.is_user() || paging.write_protect);
        if access_disabled || write_disabled {
            Err(pf_error::PK)
        } else {
            Ok(())
        }
    }
}

impl Paging {
    fn is_long(&self) -> bool {
        matches!(self.mode, Mode::FourLevel | Mode::FiveLevel)
    }

    fn width(&self) -> EntryWidth {
        match self.mode {
            Mode::Bits32 => EntryWidth::Four,
            Mode::Off | Mode::Pae | Mode::FourLevel | Mode::FiveLevel => EntryWidth::Eight,
        }
    }

    fn has_execute_disable(&self) -> bool {
        self.execute_disable && self.width() == EntryWidth::Eight
    }

    /// The linear address as the mode sees it.
    fn linear(&self, gva: Gva) -> u64 {
        if self.is_long() {
            gva.0
        } else {
            gva.0 & 0xffff_ffff
        }
    }

    fn identity(&self, gva: Gva) -> Translation {
        Translation {
            gpa: Gpa(self.linear(gva)),
            page_shift: 32,
            is_user: true,
            is_writable: true,
            width: self.width(),
            updates: [Update::default(); 5],
            nr_updates: 0,
        }
    }

    /// Returns where the walk begins, or `None` with paging off.
    fn start(&self, gva: Gva) -> Option<Step> {
        let root = self.cr3 & self.table_mask();
        let (table, level, is_present) = match self.mode {
            Mode::Off => return None,
            Mode::Bits32 => (root, Level::Pd, true),
            Mode::Pae => {
                // Two bits of the address choose one of the four registers.
                let [p0, p1, p2, p3] = self.pdptes;
                let pdpte = match (self.linear(gva) >> 30) & 3 {
                    0 => p0,
                    1 => p1,
                    2 => p2,
                    _ => p3,
                };
                (pdpte & self.table_mask(), Level::Pd, pdpte & PRESENT != 0)
            }
            Mode::FourLevel => (root, Level::Pml4, true),
            Mode::FiveLevel => (root, Level::Pml5, true),
        };
        Some(Step {
            table,
            level,
            is_present,
        })
    }

    /// The bits of an entry (or CR3) that hold the address of a table.
    fn table_mask(&self) -> u64 {
        match self.mode {
            Mode::Off | Mode::Bits32 => 0xffff_f000,
            Mode::Pae | Mode::FourLevel | Mode::FiveLevel => {
                address_bits(self.physical_address_bits) & !0xfff
            }
        }
    }

    fn entry_address(&self, step: &Step, gva: Gva) -> Gpa {
        let linear = self.linear(gva);
        let offset = match (self.width(), step.level) {
            (EntryWidth::Four, Level::Pt) => (linear >> 10) & 0xffc,
            (EntryWidth::Four, _) => (linear >> 20) & 0xffc,
            (EntryWidth::Eight, level) => (level.index(linear >> PAGE_SHIFT) as u64) << 3,
        };
        Gpa(step.table | offset)
    }

    fn is_leaf(&self, entry: u64, level: Level) -> bool {
        match level {
            Level::Pt => true,
            Level::Pd if self.mode == Mode::Bits32 => {
                self.page_size_extensions && entry & LARGE != 0
            }
            Level::Pd | Level::Pdpt => entry & LARGE != 0,
            Level::Pml4 | Level::Pml5 => false,
        }
    }

    /// Returns the bits that must be 0 in a present entry. SDM 3A Tables 5-4 to 5-21.
    fn reserved(&self, entry: u64, level: Level) -> u64 {
        let is_leaf = self.is_leaf(entry, level);
        if self.mode == Mode::Bits32 {
            return if is_leaf && level == Level::Pd {
                self.reserved_4m()
            } else {
                0
            };
        }
        let mut bits = !address_bits(self.physical_address_bits) & address_bits(52);
        if self.mode == Mode::Pae {
            bits |= 0x7ff0_0000_0000_0000;
        }
        if !self.execute_disable {
            bits |= EXECUTE_DISABLE;
        }
        bits | match level {
            Level::Pml5 | Level::Pml4 => LARGE,
            Level::Pdpt if !self.page_1g => LARGE,
            Level::Pdpt if is_leaf => 0x3fff_e000,
            Level::Pd if is_leaf => 0x001f_e000,
            Level::Pdpt | Level::Pd | Level::Pt => 0,
        }
    }

    /// The reserved bits of a 4-MiB page: those of 21:13 that hold no address bit from 32 on.
    fn reserved_4m(&self) -> u64 {
        let width = if self.pse_36 {
            self.physical_address_bits.clamp(32, 40)
        } else {
            32
        };
        let high_bits = u32::from(width.saturating_sub(32));
        (0x1ff_u64.wrapping_shl(high_bits) & 0x1ff) << 13
    }

    fn finish(
        &self,
        path: Translation,
        leaf: u64,
        level: Level,
        combined: &Combined,
        gva: Gva,
    ) -> Translation {
        let (frame, page_shift) = match level {
            Level::Pt => (leaf & self.table_mask(), 12),
            Level::Pd if self.mode == Mode::Bits32 => {
                ((leaf & 0xffc0_0000) | (((leaf >> 13) & 0xff) << 32), 22)
            }
            Level::Pd => (leaf & self.table_mask(), 21),
            Level::Pdpt | Level::Pml4 | Level::Pml5 => (leaf & self.table_mask(), 30),
        };
        let offset_mask = 1_u64.wrapping_shl(page_shift).wrapping_sub(1);
        Translation {
            gpa: Gpa((frame & !offset_mask) | (self.linear(gva) & offset_mask)),
            page_shift,
            is_user: combined.user,
            is_writable: combined.writable,
            ..path
        }
    }

    /// Makes the page fault for `access`, with the bits of `code` that the walk found.
    fn fault(&self, gva: Gva, access: Access, code: u32) -> Exception {
        let mut code = code;
        if access.kind == Kind::Write {
            code |= pf_error::WR;
        }
        if access.privilege.is_user() {
            code |= pf_error::US;
        }
        if access.kind == Kind::Fetch && (self.smep || self.has_execute_disable()) {
            code |= pf_error::ID;
        }
        Exception::page_fault(Gva(self.linear(gva)), code)
    }
}

/// Returns whether MOV to CR3 (or an entry into a PAE guest) accepts the four PDPTEs.
///
/// SDM 3A "PDPTE Registers", 5.4.1: a present one with a reserved bit set is #GP.
pub fn pdptes_are_valid(pdptes: &[u64; 4], physical_address_bits: u8) -> bool {
    let reserved = !address_bits(physical_address_bits) | 0x1e6;
    pdptes
        .iter()
        .all(|pdpte| pdpte & PRESENT == 0 || pdpte & reserved == 0)
}

#[cfg(test)]
mod tests;
