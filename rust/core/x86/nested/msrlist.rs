// SPDX-License-Identifier: GPL-2.0

//! MSR lists: those that a VM entry loads, and those that a VM exit stores and loads.
//!
//! Each entry is copied out of guest memory once and checked in the copy. SDM 3C "Loading MSRs",
//! 27.4; "Saving MSRs", 28.4; "Loading MSRs", 28.6.

use super::super::vmx::exit::ExitReason;
use super::super::vmx::field::*;
use super::check::EntryFail;
use super::vmcs12::Vmcs12;
use crate::addr::Gpa;

/// The size of an entry in bytes.
pub const ENTRY_SIZE: u64 = 16;

/// An entry of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsrEntry {
    /// Number of the MSR.
    pub index: u32,
    /// Reserved, must be 0.
    pub reserved: u32,
    /// Value.
    pub value: u64,
}

impl MsrEntry {
    /// Takes an entry apart, from its 16 bytes as two words.
    pub const fn from_words(words: [u64; 2]) -> Self {
        let [head, value] = words;
        Self {
            index: (head & 0xffff_ffff) as u32,
            reserved: (head >> 32) as u32,
            value,
        }
    }
}

/// The three lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListKind {
    /// VM-entry MSR-load list.
    EntryLoad,
    /// VM-exit MSR-store list.
    ExitStore,
    /// VM-exit MSR-load list.
    ExitLoad,
}

/// Where a list is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct List {
    /// Address of its first entry.
    pub address: Gpa,
    /// Number of its entries.
    pub count: u32,
}

impl List {
    /// Returns a list of vmcs12.
    pub fn of(v: &Vmcs12, kind: ListKind) -> Self {
        let (address, count) = match kind {
            ListKind::EntryLoad => (VM_ENTRY_MSR_LOAD_ADDR, VM_ENTRY_MSR_LOAD_COUNT),
            ListKind::ExitStore => (VM_EXIT_MSR_STORE_ADDR, VM_EXIT_MSR_STORE_COUNT),
            ListKind::ExitLoad => (VM_EXIT_MSR_LOAD_ADDR, VM_EXIT_MSR_LOAD_COUNT),
        };
        Self {
            address: Gpa(v.read(address)),
            count: v.read(count),
        }
    }

    /// Returns the address of entry `n`, from 0.
    pub const fn entry(&self, n: u32) -> Gpa {
        self.address
            .wrapping_add((n as u64).wrapping_mul(ENTRY_SIZE))
    }
}

const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
const IA32_BIOS_SIGN_ID: u32 = 0x8b;
const IA32_SMM_MONITOR_CTL: u32 = 0x9b;
const IA32_SMBASE: u32 = 0x9e;
const IA32_FS_BASE: u32 = 0xc000_0100;
const IA32_GS_BASE: u32 = 0xc000_0101;

/// Whether L1's local APIC is in x2APIC mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicMode {
    /// It is.
    X2apic,
    /// It is not; the MSR range 0x800 to 0x8ff is not there.
    Other,
}

/// Returns whether a list may hold `entry`; whether the MSR takes the value is another matter.
pub fn is_allowed(entry: &MsrEntry, kind: ListKind, apic: ApicMode) -> bool {
    let is_x2apic = apic == ApicMode::X2apic && entry.index >> 8 == 8;
    let is_load = kind != ListKind::ExitStore;
    let by_kind = match entry.index {
        IA32_BIOS_UPDT_TRIG | IA32_BIOS_SIGN_ID => false,
        IA32_FS_BASE | IA32_GS_BASE | IA32_SMM_MONITOR_CTL => !is_load,
        IA32_SMBASE => is_load,
        _ => true,
    };
    by_kind && !is_x2apic && entry.reserved == 0
}

/// What a walk over a list needs of the vCPU.
pub trait MsrListOps {
    /// Copies 16 bytes, as two little-endian words, or `None` where no memory is.
    fn read_entry(&mut self, at: Gpa) -> Option<[u64; 2]>;
    /// Writes 8 bytes of guest memory, little-endian; `None` where no memory is.
    fn write_value(&mut self, at: Gpa, value: u64) -> Option<()>;
    /// Writes an MSR as WRMSR does at CPL 0; `None` if that would fault.
    fn wrmsr(&mut self, index: u32, value: u64) -> Option<()>;
    /// Reads an MSR as RDMSR does at CPL 0; `None` if that would fault.
    fn rdmsr(&mut self, index: u32) -> Option<u64>;
    /// Returns the mode of L1's APIC.
    fn apic_mode(&self) -> ApicMode;
}

/// The number, from 1, of the first entry that cannot be processed; those before it have been.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadEntry(pub u32);

impl BadEntry {
    /// Returns the VM-entry failure that a bad entry of the VM-entry list is.
    pub fn entry_fail(self) -> EntryFail {
        EntryFail {
            reason: ExitReason::MsrLoadFail,
            qualification: u64::from(self.0),
        }
    }
}

/// VMX aborts: L1 cannot go on. SDM 3C "VMX Aborts", 28.7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum VmxAbort {
    /// A failure in saving guest MSRs.
    SaveGuestMsrs = 1,
    /// Host page-directory-pointer-table entries are invalid.
    HostPdptes = 2,
    /// A failure in loading host MSRs.
    LoadHostMsrs = 4,
}

/// Processes a list: stores to it, or loads from it, by `kind`. No more than `max` entries
/// ([`VmxMisc::msr_list_max`](super::super::vmx::caps::VmxMisc::msr_list_max)) are processed: the
/// next one is bad.
///
/// # Errors
///
/// The first bad entry; for exits, that is a [`VmxAbort`].
#[inline]
pub fn process(
    list: List,
    kind: ListKind,
    max: u32,
    ops: &mut impl MsrListOps,
) -> Result<(), BadEntry> {
    for n in 0..list.count {
        let done = if n < max {
            process_entry(list.entry(n), kind, ops)
        } else {
            None
        };
        done.ok_or(BadEntry(n.saturating_add(1)))?;
    }
    Ok(())
}

fn process_entry(at: Gpa, kind: ListKind, ops: &mut impl MsrListOps) -> Option<()> {
    let entry = MsrEntry::from_words(ops.read_entry(at)?);
    if !is_allowed(&entry, kind, ops.apic_mode()) {
        return None;
    }
    match kind {
        ListKind::EntryLoad | ListKind::ExitLoad => ops.wrmsr(entry.index, entry.value),
        ListKind::ExitStore => {
            let value = ops.rdmsr(entry.index)?;
            ops.write_value(at.wrapping_add(8), value)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    struct Cpu {
        memory: BTreeMap<u64, u64>,
        msrs: Vec<(u32, u64)>,
        apic: ApicMode,
        /// What another CPU writes over each entry once it has been read.
        rewritten: Option<[u64; 2]>,
    }

    impl MsrListOps for Cpu {
        fn read_entry(&mut self, at: Gpa) -> Option<[u64; 2]> {
            let words = [*self.memory.get(&at.0)?, *self.memory.get(&(at.0 + 8))?];
            for (place, word) in (at.0..)
                .step_by(8)
                .zip(self.rewritten.into_iter().flatten())
            {
                self.memory.insert(place, word);
            }
            Some(words)
        }
        fn write_value(&mut self, at: Gpa, value: u64) -> Option<()> {
            self.memory.insert(at.0, value).map(|_| ())
        }
        fn wrmsr(&mut self, index: u32, value: u64) -> Option<()> {
            (index != 0xdead).then(|| self.msrs.push((index, value)))
        }
        fn rdmsr(&mut self, index: u32) -> Option<u64> {
            (index != 0xdead).then_some(u64::from(index) + 1)
        }
        fn apic_mode(&self) -> ApicMode {
            self.apic
        }
    }

    fn cpu(entries: &[(u64, u64)]) -> Cpu {
        let words = entries.iter().flat_map(|(head, value)| [*head, *value]);
        let memory = words
            .enumerate()
            .map(|(n, word)| (0x1000 + 8 * n as u64, word))
            .collect();
        Cpu {
            memory,
            msrs: Vec::new(),
            apic: ApicMode::Other,
            rewritten: None,
        }
    }

    fn go(cpu: &mut Cpu, kind: ListKind, count: u32) -> Result<(), BadEntry> {
        process(
            List {
                address: Gpa(0x1000),
                count,
            },
            kind,
            512,
            cpu,
        )
    }

    #[test]
    fn loads_in_order() {
        let mut cpu = cpu(&[(0x174, 5), (0xc000_0082, 6)]);
        assert_eq!(go(&mut cpu, ListKind::EntryLoad, 2), Ok(()));
        assert_eq!(cpu.msrs, [(0x174, 5), (0xc000_0082, 6)]);
    }

    #[test]
    fn bad_entry_is_numbered_from_1_and_those_before_it_stay_loaded() {
        let mut cpu = cpu(&[(0x174, 5), (0xdead, 6), (0x175, 7)]);
        let bad = go(&mut cpu, ListKind::EntryLoad, 3).unwrap_err();
        assert_eq!(bad, BadEntry(2));
        assert_eq!(cpu.msrs, [(0x174, 5)]);
        let want = EntryFail {
            reason: ExitReason::MsrLoadFail,
            qualification: 2,
        };
        assert_eq!(bad.entry_fail(), want);
    }

    #[test]
    fn entry_that_changes_after_its_check_is_loaded_as_it_was_checked() {
        let mut cpu = cpu(&[(0x174, 5)]);
        cpu.rewritten = Some([0xc000_0100, 6]);
        assert_eq!(go(&mut cpu, ListKind::EntryLoad, 1), Ok(()));
        assert_eq!(cpu.msrs, [(0x174, 5)]);
    }

    #[test]
    fn stores_into_the_value_half() {
        let mut cpu = cpu(&[(0x174, 5), (0x175, 6)]);
        assert_eq!(go(&mut cpu, ListKind::ExitStore, 2), Ok(()));
        assert_eq!((cpu.memory[&0x1008], cpu.memory[&0x1018]), (0x175, 0x176));
        assert_eq!((cpu.memory[&0x1000], cpu.memory[&0x1010]), (0x174, 0x175));
    }

    #[test]
    fn missing_memory_is_a_bad_entry() {
        assert_eq!(
            go(&mut cpu(&[(0x174, 5)]), ListKind::ExitLoad, 2),
            Err(BadEntry(2))
        );
    }

    #[test]
    fn entries_beyond_the_maximum_are_bad() {
        let mut cpu = cpu(&[(0x174, 0); 4]);
        let list = List {
            address: Gpa(0x1000),
            count: u32::MAX,
        };
        assert_eq!(
            process(list, ListKind::EntryLoad, 3, &mut cpu),
            Err(BadEntry(4))
        );
        assert_eq!(cpu.msrs.len(), 3);
        assert_eq!(
            process(List { count: 3, ..list }, ListKind::EntryLoad, 3, &mut cpu),
            Ok(())
        );
    }

    #[test]
    fn refused_msrs_depend_on_the_list() {
        use ListKind::{EntryLoad, ExitLoad, ExitStore};
        let ok = |head, kind, apic| is_allowed(&MsrEntry::from_words([head, 0]), kind, apic);
        for (index, load, store) in [
            (0xc000_0100, false, true),
            (0xc000_0101, false, true),
            (0x9b, false, true),
            (0x9e, true, false),
            (0x79, false, false),
            (0x8b, false, false),
            (0x174, true, true),
            (1 << 32 | 0x174, false, false),
        ] {
            assert_eq!(ok(index, EntryLoad, ApicMode::Other), load, "{index:#x}");
            assert_eq!(ok(index, ExitLoad, ApicMode::Other), load, "{index:#x}");
            assert_eq!(ok(index, ExitStore, ApicMode::Other), store, "{index:#x}");
        }
        for index in [0x800, 0x8ff] {
            assert!(ok(index, EntryLoad, ApicMode::Other));
            assert!(!ok(index, EntryLoad, ApicMode::X2apic));
            assert!(!ok(index, ExitStore, ApicMode::X2apic));
        }
        assert!(ok(0x7ff, EntryLoad, ApicMode::X2apic) && ok(0x900, EntryLoad, ApicMode::X2apic));
    }

    #[test]
    fn lists_come_from_their_own_fields() {
        let mut v = Vmcs12::new();
        v.write(VM_ENTRY_MSR_LOAD_ADDR, 0x10);
        v.write(VM_EXIT_MSR_STORE_ADDR, 0x20);
        v.write(VM_EXIT_MSR_LOAD_COUNT, 3);
        assert_eq!(
            List::of(&v, ListKind::EntryLoad),
            List {
                address: Gpa(0x10),
                count: 0
            }
        );
        assert_eq!(List::of(&v, ListKind::ExitStore).address, Gpa(0x20));
        let list = List::of(&v, ListKind::ExitLoad);
        assert_eq!((list.count, list.entry(2)), (3, Gpa(0x20)));
    }
}
