// SPDX-License-Identifier: GPL-2.0

//! CPUID as a guest executes it: the lookup in the table of `KVM_SET_CPUID2`.
//!
//! The table stays in the VMM's order, which `KVM_GET_CPUID2` gives back; a [`Directory`] beside it
//! makes the lookup quick, as a guest's CPUID is a VM exit.

use crate::x86::cpuid::feature;
use crate::x86::cpuid::Entry;
use crate::x86::cpuid::Regs;

/// Leaves that have a slot in the directory, of each of the three classes.
const NR_BASIC: usize = 0x20;
const NR_OTHER: usize = 0x10;

/// Returns the entry that answers a leaf and subleaf: the first one in the table.
#[inline]
pub fn find(entries: &[Entry], function: u32, index: u32) -> Option<&Entry> {
    entries.iter().find(|entry| entry.answers(function, index))
}

/// Where to begin the search for a leaf: no entry before that place answers it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Directory([u8; NR_BASIC + 2 * NR_OTHER]);

impl Directory {
    /// Makes the directory of a table; valid until a leaf number in the table changes.
    pub fn of(entries: &[Entry]) -> Self {
        let end = u8::try_from(entries.len()).unwrap_or(u8::MAX);
        let mut starts = [end; NR_BASIC + 2 * NR_OTHER];
        for (entry, place) in entries.iter().zip(0..=u8::MAX) {
            if let Some(start) = slot(entry.function).and_then(|slot| starts.get_mut(slot)) {
                *start = place.min(*start);
            }
        }
        Self(starts)
    }

    #[inline]
    fn start(&self, function: u32) -> usize {
        let start = slot(function).and_then(|slot| self.0.get(slot));
        start.map_or(0, |start| usize::from(*start))
    }
}

/// Returns the slot of a leaf in a directory.
#[inline]
const fn slot(function: u32) -> Option<usize> {
    let low = (function & 0x1f) as usize;
    match function {
        0..=0x1f => Some(low),
        0x4000_0000..=0x4000_000f => Some(NR_BASIC | low),
        0x8000_0000..=0x8000_000f => Some((NR_BASIC | NR_OTHER) | low),
        _ => None,
    }
}

/// A table with its directory.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a> {
    /// The entries.
    pub entries: &'a [Entry],
    /// Their directory.
    pub directory: &'a Directory,
}

impl<'a> Table<'a> {
    /// Returns the entry that answers a leaf and subleaf: the first one in the table.
    #[inline]
    pub fn find(self, function: u32, index: u32) -> Option<&'a Entry> {
        find(
            self.entries.get(self.directory.start(function)..)?,
            function,
            index,
        )
    }
}

/// What the answer to a CPUID depends on besides the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hidden {
    /// IA32_TSX_CTRL.TSX_CPUID_CLEAR is set: RTM and HLE are hidden.
    pub tsx: bool,
}

/// Answers CPUID of leaf `function` and subleaf `index`.
///
/// A leaf beyond the highest of its class answers as the highest basic leaf does, with the same
/// subleaf, unless the guest's vendor is AMD or Hygon: there it is all zero. A leaf within range but
/// without an entry is all zero; but subleaves of 0BH and 1FH keep the x2APIC ID and the subleaf's
/// number. SDM 2A "CPUID: CPU Identification".
#[inline]
pub fn cpuid(table: Table<'_>, function: u32, index: u32, hidden: Hidden) -> Regs {
    match table.find(function, index) {
        Some(entry) => answer(entry, function, index, hidden),
        None => without_entry(table, function, index, hidden),
    }
}

#[inline]
fn answer(entry: &Entry, function: u32, index: u32, hidden: Hidden) -> Regs {
    let mut regs = entry.regs;
    if hidden.tsx && function == 7 && index == 0 {
        regs.ebx &= !(feature::RTM.mask | feature::HLE.mask);
    }
    regs
}

/// Answers a leaf that has no entry.
#[inline(never)]
fn without_entry(table: Table<'_>, function: u32, index: u32, hidden: Hidden) -> Regs {
    let function = match out_of_range(table, function) {
        None => function,
        Some(highest) => {
            if let Some(entry) = table.find(highest, index) {
                return answer(entry, highest, index, hidden);
            }
            highest
        }
    };
    let has_topology = matches!(function, 0xb | 0x1f);
    match table.find(function, 1) {
        Some(level) if has_topology => Regs {
            eax: 0,
            ebx: 0,
            ecx: index & 0xff,
            edx: level.regs.edx,
        },
        _ => Regs::default(),
    }
}

/// Returns the leaf that answers for `function` if that is out of range.
fn out_of_range(table: Table<'_>, function: u32) -> Option<u32> {
    let basic = table.find(0, 0)?;
    if is_amd(&basic.regs) {
        return None;
    }
    let class = match function {
        0x4000_0000..=0x4fff_ffff => function & 0xffff_ff00,
        0xc000_0000.. => 0xc000_0000,
        _ => function & 0x8000_0000,
    };
    match table.find(class, 0) {
        Some(class) if function <= class.regs.eax => None,
        _ => Some(basic.regs.eax),
    }
}

/// Returns whether leaf 0 names AMD ("AuthenticAMD", "AMDisbetter!") or Hygon ("HygonGenuine").
fn is_amd(leaf0: &Regs) -> bool {
    let name = [leaf0.ebx, leaf0.edx, leaf0.ecx].map(u32::to_le_bytes);
    let known: [[[u8; 4]; 3]; 3] = [
        [*b"Auth", *b"enti", *b"cAMD"],
        [*b"AMDi", *b"sbet", *b"ter!"],
        [*b"Hygo", *b"nGen", *b"uine"],
    ];
    known.contains(&name)
}

#[cfg(test)]
mod tests;
