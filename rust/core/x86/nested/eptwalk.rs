// SPDX-License-Identifier: GPL-2.0

//! The walk of L1's EPT: from a guest-physical address of L2 to one of L1, as the processor would do
//! it, and the exit qualification where it fails.
//!
//! SDM 3C "EPT Translation Mechanism", 30.3.2; "EPT-Induced VM Exits", 30.3.3; "Accessed and Dirty
//! Flags for EPT", 30.3.5.

use super::super::ept::{
    EptEntry,
    EptFeatures,
    Eptp,
    Rights, //
};
use super::super::vmx::caps::EptVpidCap;
use super::super::vmx::exit::EptViolation;
use super::super::vmx::field::VmcsAccess;
use super::super::vmx::field::EPT_POINTER;
use super::super::walk::{
    EntryWidth,
    GuestMem, //
};
use super::merge::proc2_12;
use super::pagelog::{
    self,
    PageLog, //
};
use super::vmcs12::Vmcs12;
use crate::addr::{
    Gpa,
    Level,
    PAGE_SHIFT, //
};

/// The most entries on a walk.
const MAX_ENTRIES: usize = 5;
/// How often a walk begins again because another processor changed an entry under it.
const MAX_ATTEMPTS: usize = 8;

/// What L2 does at a guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A data read.
    Read,
    /// A data write.
    Write,
    /// An instruction fetch, from a supervisor-mode linear address.
    Fetch,
    /// An instruction fetch from a user-mode linear address. It makes a difference with mode-based
    /// execute control only.
    UserFetch,
}

/// L1's EPT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ept12 {
    /// Where it is.
    pub pointer: Eptp,
    /// What can be in it.
    pub features: EptFeatures,
    /// Whether the pages that become dirty are logged.
    pub log: PageLog,
}

impl Ept12 {
    /// Returns the EPT that an L2 runs with, by its vmcs12, the capabilities of its L1, and the width
    /// of L1's physical addresses in bits.
    pub fn of(v: &Vmcs12, cap: EptVpidCap, phys_bits: u8) -> Self {
        Self {
            pointer: Eptp(v.read(EPT_POINTER)),
            features: EptFeatures {
                execute_only: cap.exec_only(),
                page_2m: cap.pages_2m(),
                page_1g: cap.pages_1g(),
                accessed_dirty: cap.accessed_dirty(),
                mode_based_execute: proc2_12(v).mode_based_exec(),
                walk_4: cap.four_levels(),
                walk_5: cap.five_levels(),
                uncacheable: cap.uncacheable(),
                write_back: cap.write_back(),
                physical_address_bits: phys_bits,
            },
            log: pagelog::state(v),
        }
    }
}

/// Where L1's EPT leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The guest-physical address of L1.
    pub gpa: Gpa,
    /// The size of the page that L1 maps it with.
    pub level: Level,
    /// What all entries on the walk permit.
    pub rights: Rights,
    /// L1 has no dirty flags, or that of the page is set: a write need not be seen.
    pub is_dirty: bool,
    /// The walk has set the dirty flag, and L1 logs that: [`pagelog::append`].
    pub is_logged: bool,
}

/// Why a walk leads nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault<E> {
    /// EPT violation; the rights are those that the walk has found, none if an entry is not present.
    Violation(Rights),
    /// EPT misconfiguration.
    Misconfiguration,
    /// A flag is to be set, and L1's page-modification log is full.
    LogFull,
    /// Entries changed under the walk too often: try again.
    Raced,
    /// The tables cannot be read.
    Mem(E),
}

#[derive(Clone, Copy)]
struct Step {
    address: Gpa,
    entry: EptEntry,
}

const NO_STEP: Step = Step {
    address: Gpa(0),
    entry: EptEntry(0),
};

/// Walks L1's EPT for an access of L2 to `gpa`, and sets accessed and dirty flags where it has them.
///
/// # Errors
///
/// As [`Fault`] says.
pub fn walk<M: GuestMem>(
    mem: &mut M,
    ept: &Ept12,
    gpa: Gpa,
    access: Access,
) -> Result<Mapping, Fault<M::Error>> {
    for _ in 0..MAX_ATTEMPTS {
        if let Some(mapping) = attempt(mem, ept, gpa, access)? {
            return Ok(mapping);
        }
    }
    Err(Fault::Raced)
}

fn permits(rights: Rights, access: Access) -> bool {
    match access {
        Access::Read => rights.read,
        Access::Write => rights.write,
        Access::Fetch => rights.execute,
        Access::UserFetch => rights.user_execute,
    }
}

/// One walk; `None` if an entry changed before its flags were set.
fn attempt<M: GuestMem>(
    mem: &mut M,
    ept: &Ept12,
    gpa: Gpa,
    access: Access,
) -> Result<Option<Mapping>, Fault<M::Error>> {
    let features = &ept.features;
    let Some(mut level) = ept.pointer.root_level() else {
        return Err(Fault::Misconfiguration);
    };
    let mut table = Gpa(ept.pointer.root().0);
    let mut rights = Rights::ALL;
    let mut steps = [NO_STEP; MAX_ENTRIES];
    let frame = gpa.0 >> PAGE_SHIFT;
    if frame >> 9 >> level.pages().trailing_zeros() != 0 {
        return Err(Fault::Violation(Rights::default()));
    }
    for step in &mut steps {
        let offset = (level.index(frame) as u64) << 3;
        let address = table.wrapping_add(offset);
        let read = mem.read_entry(address, EntryWidth::Eight);
        let entry = EptEntry(read.map_err(Fault::Mem)?);
        *step = Step { address, entry };
        if !entry.is_present(features) {
            return Err(Fault::Violation(Rights::default()));
        }
        if entry.is_misconfigured(level, features) {
            return Err(Fault::Misconfiguration);
        }
        rights = rights.and(entry.rights(features));
        if entry.is_leaf(level) {
            if !permits(rights, access) {
                return Err(Fault::Violation(rights));
            }
            let Some(page) = set_flags(mem, ept, &steps, access)? else {
                return Ok(None);
            };
            let within = level.bytes().wrapping_sub(1);
            let base = entry.pfn().0.wrapping_shl(PAGE_SHIFT) & !within;
            return Ok(Some(Mapping {
                gpa: Gpa(base | (gpa.0 & within)),
                level,
                rights,
                is_dirty: page != PageState::Clean,
                is_logged: page == PageState::NowDirty && ept.log == PageLog::Room,
            }));
        }
        table = Gpa(entry.pfn().0.wrapping_shl(PAGE_SHIFT));
        let Some(below) = level.below() else { break };
        level = below;
    }
    Err(Fault::Misconfiguration)
}

/// What is known of a page after its flags are set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PageState {
    /// Its dirty flag is clear.
    Clean,
    /// The walk has set its dirty flag.
    NowDirty,
    /// There are no flags, or that of the page was set before.
    Dirty,
}

/// Returns an entry with the flags that `access` sets in it; dirty in one that maps a page (`is_leaf`)
/// alone.
fn flagged(entry: EptEntry, is_leaf: bool, access: Access) -> EptEntry {
    let is_written = is_leaf && access == Access::Write;
    entry
        .with_accessed(true)
        .with_dirty(entry.dirty() || is_written)
}

/// Sets the flags of the entries that the walk used, the last of which maps the page; `None` if an
/// entry has changed.
fn set_flags<M: GuestMem>(
    mem: &mut M,
    ept: &Ept12,
    steps: &[Step; MAX_ENTRIES],
    access: Access,
) -> Result<Option<PageState>, Fault<M::Error>> {
    if !ept.pointer.accessed_dirty() {
        return Ok(Some(PageState::Dirty));
    }
    let used = || steps.iter().filter(|step| step.entry.0 != 0);
    let last = used().count();
    let changes = || {
        (1..).zip(used()).map(|(number, step)| {
            let new = flagged(step.entry, number == last, access);
            (step, new, number == last)
        })
    };
    if ept.log == PageLog::Full && changes().any(|(step, new, _)| new != step.entry) {
        return Err(Fault::LogFull);
    }
    let mut page = PageState::Clean;
    for (step, new, is_leaf) in changes() {
        if is_leaf && new.dirty() {
            page = if step.entry.dirty() {
                PageState::Dirty
            } else {
                PageState::NowDirty
            };
        }
        if new != step.entry {
            let (old, new) = (step.entry.0, new.0);
            let stored = mem.cmpxchg_entry(step.address, EntryWidth::Eight, old, new);
            if !stored.map_err(Fault::Mem)? {
                return Ok(None);
            }
        }
    }
    Ok(Some(page))
}

/// Returns the access of L2 that an EPT violation in vmcs02 reports.
pub fn access_of(hw: EptViolation) -> Access {
    if hw.write() {
        Access::Write
    } else if hw.fetch() && hw.is_user() {
        Access::UserFetch
    } else if hw.fetch() {
        Access::Fetch
    } else {
        Access::Read
    }
}

/// Returns the qualification of the EPT violation that L1 gets for one that the processor reported
/// with `hw` against the shadow of L1's EPT: what L2 did is the processor's word, what it may do that
/// of the walk. SDM 3C Table 28-7.
///
/// With accessed and dirty flags in L1's EPT, an access to a guest paging structure counts as a read
/// and a write.
///
/// Whether user-mode fetches are permitted is told with mode-based execute control only.
pub fn qualification(hw: EptViolation, rights: Rights, ept: &Ept12) -> EptViolation {
    let is_walk = hw.linear_valid() && !hw.is_final();
    let also_both = is_walk && ept.pointer.accessed_dirty();
    let is_mode_based = ept.features.mode_based_execute;
    hw.with_read(hw.read() || also_both)
        .with_write(hw.write() || also_both)
        .with_readable(rights.read)
        .with_writable(rights.write)
        .with_executable(rights.execute)
        .with_user_executable(is_mode_based && rights.user_execute)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    struct Tables {
        words: HashMap<u64, u64>,
        /// Fail this many exchanges.
        races: usize,
    }

    impl GuestMem for Tables {
        type Error = ();

        fn read_entry(&mut self, address: Gpa, _: EntryWidth) -> Result<u64, ()> {
            self.words.get(&address.0).copied().ok_or(())
        }

        fn cmpxchg_entry(
            &mut self,
            at: Gpa,
            _: EntryWidth,
            old: u64,
            new: u64,
        ) -> Result<bool, ()> {
            if self.races > 0 {
                self.races -= 1;
                return Ok(false);
            }
            let word = self.words.get_mut(&at.0).unwrap();
            let is_same = *word == old;
            if is_same {
                *word = new;
            }
            Ok(is_same)
        }
    }

    const FEATURES: EptFeatures = EptFeatures {
        execute_only: true,
        page_2m: true,
        page_1g: true,
        accessed_dirty: true,
        mode_based_execute: false,
        walk_4: true,
        walk_5: true,
        uncacheable: false,
        write_back: true,
        physical_address_bits: 40,
    };
    const PLAIN: Eptp = Eptp(0x1000 | 3 << 3 | 6);
    const FLAGS: Eptp = Eptp(0x1000 | 3 << 3 | 6 | 1 << 6);
    const ACCESSED: u64 = 1 << 8;
    const DIRTY: u64 = 1 << 9;
    /// Entries 1, 2, 3 and 4 of the four tables.
    const L2: Gpa = Gpa(1 << 39 | 2 << 30 | 3 << 21 | 4 << 12 | 0x123);

    fn tables(leaf: u64) -> Tables {
        let words = HashMap::from([
            (0x1008, 0x2007),
            (0x2010, 0x3007),
            (0x3018, 0x4007),
            (0x4020, leaf),
        ]);
        Tables { words, races: 0 }
    }

    fn ept(pointer: Eptp) -> Ept12 {
        Ept12 {
            pointer,
            features: FEATURES,
            log: PageLog::Off,
        }
    }

    fn logging(log: PageLog) -> Ept12 {
        Ept12 { log, ..ept(FLAGS) }
    }

    fn mode_based() -> Ept12 {
        let features = EptFeatures {
            mode_based_execute: true,
            ..FEATURES
        };
        Ept12 {
            features,
            ..ept(PLAIN)
        }
    }

    fn go(tables: &mut Tables, eptp: Eptp, access: Access) -> Result<Mapping, Fault<()>> {
        walk(tables, &ept(eptp), L2, access)
    }

    #[test]
    fn small_page_translates_with_offset() {
        let mapping = go(&mut tables(0x5_5037), PLAIN, Access::Write).unwrap();
        assert_eq!(mapping.gpa, Gpa(0x5_5123));
        assert_eq!(mapping.level, Level::Pt);
        assert!(mapping.is_dirty, "no flags to wait for");
    }

    #[test]
    fn large_page_keeps_the_lower_bits_of_the_address() {
        let mut tables = tables(0);
        tables.words.insert(0x3018, 0x60_00b7);
        let mapping = go(&mut tables, PLAIN, Access::Read).unwrap();
        assert_eq!(mapping.gpa, Gpa(0x60_0000 | 4 << 12 | 0x123));
        assert_eq!(mapping.level, Level::Pd);
    }

    #[test]
    fn rights_are_those_of_all_entries() {
        let mut tables = tables(0x5_5037);
        tables.words.insert(0x2010, 0x3005);
        let mapping = go(&mut tables, PLAIN, Access::Fetch).unwrap();
        assert!(mapping.rights.read && !mapping.rights.write && mapping.rights.execute);
        let fault = go(&mut tables, PLAIN, Access::Write).unwrap_err();
        assert_eq!(fault, Fault::Violation(mapping.rights));
    }

    #[test]
    fn absent_entry_leaves_no_rights() {
        let fault = go(&mut tables(0), PLAIN, Access::Read).unwrap_err();
        assert_eq!(fault, Fault::Violation(Rights::default()));
    }

    #[test]
    fn address_beyond_the_root_table_is_a_violation() {
        let beyond = Gpa(L2.0 | 1 << 48);
        let fault = walk(&mut tables(0x5_5037), &ept(PLAIN), beyond, Access::Read);
        assert_eq!(fault, Err(Fault::Violation(Rights::default())));
    }

    #[test]
    fn misconfiguration_comes_before_the_access() {
        // Writable but not readable.
        let fault = go(&mut tables(0x5_5032), PLAIN, Access::Fetch).unwrap_err();
        assert_eq!(fault, Fault::Misconfiguration);
    }

    #[test]
    fn memory_that_is_not_there_is_told_apart() {
        let mut tables = tables(0);
        tables.words.remove(&0x4020);
        assert_eq!(go(&mut tables, PLAIN, Access::Read), Err(Fault::Mem(())));
    }

    #[test]
    fn read_sets_accessed_everywhere_and_dirty_nowhere() {
        let mut tables = tables(0x5_5037);
        let mapping = go(&mut tables, FLAGS, Access::Read).unwrap();
        assert!(!mapping.is_dirty);
        assert!(tables.words.values().all(|w| w & ACCESSED != 0));
        assert!(tables.words.values().all(|w| w & DIRTY == 0));
    }

    #[test]
    fn write_sets_dirty_in_the_leaf_alone() {
        let mut tables = tables(0x5_5037);
        assert!(go(&mut tables, FLAGS, Access::Write).unwrap().is_dirty);
        assert_eq!(tables.words[&0x4020] & DIRTY, DIRTY);
        assert_eq!(tables.words[&0x3018] & DIRTY, 0);
    }

    #[test]
    fn refused_access_sets_no_flag() {
        let mut tables = tables(0x5_5035);
        assert!(go(&mut tables, FLAGS, Access::Write).is_err());
        assert!(tables.words.values().all(|w| w & (ACCESSED | DIRTY) == 0));
    }

    #[test]
    fn race_begins_the_walk_again_but_not_for_ever() {
        let mut once = tables(0x5_5037);
        once.races = 1;
        assert!(go(&mut once, FLAGS, Access::Write).is_ok());
        let mut always = tables(0x5_5037);
        always.races = usize::MAX;
        assert_eq!(go(&mut always, FLAGS, Access::Write), Err(Fault::Raced));
    }

    #[test]
    fn qualification_takes_the_access_from_the_processor_and_rights_from_the_walk() {
        let hw = EptViolation(0)
            .with_write(true)
            .with_readable(true)
            .with_user_executable(true)
            .with_linear_valid(true)
            .with_is_final(true)
            .with_nmi_unblocking(true);
        let rights = Rights {
            execute: true,
            ..Rights::default()
        };
        let q = qualification(hw, rights, &ept(FLAGS));
        assert_eq!(q.0, 1 << 1 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 12);
    }

    #[test]
    fn paging_structure_access_is_read_and_write_with_flags_only() {
        let hw = EptViolation(0).with_read(true).with_linear_valid(true);
        assert!(qualification(hw, Rights::ALL, &ept(FLAGS)).write());
        assert!(!qualification(hw, Rights::ALL, &ept(PLAIN)).write());
        let data = hw.with_is_final(true);
        assert!(!qualification(data, Rights::ALL, &ept(FLAGS)).write());
    }

    #[test]
    fn page_is_logged_when_its_dirty_flag_is_set_and_not_again() {
        let room = logging(PageLog::Room);
        let mut tables = tables(0x5_5037);
        assert!(
            !walk(&mut tables, &room, L2, Access::Read)
                .unwrap()
                .is_logged
        );
        assert!(
            walk(&mut tables, &room, L2, Access::Write)
                .unwrap()
                .is_logged
        );
        assert!(
            !walk(&mut tables, &room, L2, Access::Write)
                .unwrap()
                .is_logged
        );
    }

    #[test]
    fn full_log_lets_no_flag_be_set() {
        let full = logging(PageLog::Full);
        let mut tables = tables(0x5_5037);
        let before = tables.words.clone();
        for access in [Access::Read, Access::Write] {
            assert_eq!(walk(&mut tables, &full, L2, access), Err(Fault::LogFull));
            assert_eq!(tables.words, before);
        }
        go(&mut tables, FLAGS, Access::Write).unwrap();
        let mapping = walk(&mut tables, &full, L2, Access::Write).unwrap();
        assert!(mapping.is_dirty && !mapping.is_logged, "no flag to set");
    }

    #[test]
    fn mode_based_execute_control_tells_user_fetches_from_others() {
        let user = 0x5_5031 | 1 << 10;
        let run = |leaf: u64, access| {
            let mut tables = tables(leaf);
            for word in tables.words.values_mut() {
                *word |= 1 << 10;
            }
            tables.words.insert(0x4020, leaf);
            walk(&mut tables, &mode_based(), L2, access).is_ok()
        };
        assert!(run(user, Access::UserFetch) && !run(user, Access::Fetch));
        let supervisor = 0x5_5035;
        assert!(!run(supervisor, Access::UserFetch) && run(supervisor, Access::Fetch));
        let mapping = go(&mut tables(supervisor), PLAIN, Access::UserFetch);
        assert!(mapping.is_ok(), "without the control they are the same");
    }

    #[test]
    fn qualification_has_the_right_of_user_fetches_with_mode_based_execute_control_only() {
        let hw = EptViolation(0).with_fetch(true).with_user_executable(true);
        let user = Rights {
            user_execute: true,
            ..Rights::default()
        };
        assert!(qualification(hw, user, &mode_based()).user_executable());
        assert!(!qualification(hw, Rights::default(), &mode_based()).user_executable());
        assert!(!qualification(hw, user, &ept(PLAIN)).user_executable());
    }

    #[test]
    fn fetch_is_of_the_mode_that_the_processor_reports() {
        let hw = EptViolation(0).with_fetch(true);
        assert_eq!(access_of(hw), Access::Fetch);
        assert_eq!(access_of(hw.with_is_user(true)), Access::UserFetch);
    }
}
