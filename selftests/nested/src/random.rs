// SPDX-License-Identifier: GPL-2.0

//! Random states: a guest that enters, corrupted, again and again. One line for
//! a block of a hundred, with a hash of what came of them; with `block=N` on the
//! command line, a line for each case of that block, and with `cases` for each
//! of all.
//!
//! There are two groups: one flips bits of one field or two ([`flips`]), the
//! other breaks a rule or two of VM entry, near its border ([`rules`]).

use burrow_core::x86::vmx::field::{
    self as f,
    Field,
    Width, //
};

use crate::{
    cpu::{
        self,
        page,
        Global, //
    },
    l2,
    vmx::{
        self,
        rd,
        set,
        wr,
        Entry, //
    },
};

mod bases;
mod flips;
mod judged;
mod rules;

code! {
    // The same bytes in each mode.
    stop: "vmcall", "vmcall", "vmcall";
}

/// Cases in a block.
const BLOCK: u64 = 100;
const SEED: u64 = 0x5eed_0b1a_5ed0_ca5e;

/// George Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of these.
    fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }

    /// A flip of one bit of a mask, or rarely of several.
    fn flip(&mut self, mask: u64) -> u64 {
        if self.below(8) == 0 {
            return self.next() & mask;
        }
        let mut index = self.below(u64::from(mask.count_ones()));
        let mut rest = mask;
        while index > 0 {
            rest &= rest - 1;
            index -= 1;
        }
        rest & rest.wrapping_neg()
    }
}

/// How many fields a case may change.
const MOST_CHANGES: usize = 32;

/// A case: what is corrupt in it.
struct Case {
    random: Random,
    changes: [(u64, u64); MOST_CHANGES],
    count: usize,
    /// How many corruptions there are: with more than one, any may be reported.
    corruptions: u64,
}

impl Case {
    fn new(number: u64) -> Self {
        let mut random = Random(SEED.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
        // The first numbers are alike.
        for _ in 0..8 {
            let _ = random.next();
        }
        Self {
            random,
            changes: [(0, 0); MOST_CHANGES],
            count: 0,
            corruptions: 0,
        }
    }

    /// Writes a field.
    fn write(&mut self, encoding: u64, value: u64) {
        vmx::vmwrite(encoding, value);
        self.changes[self.count] = (encoding, value);
        self.count += 1;
    }

    /// The same for a field that is known by name.
    fn put<W: Width>(&mut self, field: Field<W>, value: u64) {
        self.write(u64::from(field.encoding().0), value);
    }

    /// Tells of something that is not a field, where cases are shown.
    fn note(&mut self, what: u64, value: u64) {
        self.changes[self.count] = (what, value);
        self.count += 1;
    }

    /// The fields that were written, and their values.
    fn changes(&self) -> &[(u64, u64)] {
        &self.changes[..self.count]
    }
}

/// Fields that differ from what [`vmx::reset`] writes.
fn settle() {
    wr(f::GUEST_RIP, l2::at(stop));
    wr(f::GUEST_RSP, l2::stack());
    vmx::clear(f::PIN_BASED_VM_EXEC_CONTROL, vmx::PIN_TIMER);
    set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MTF | vmx::CPU_HLT);
    // Zero is for processors that say so.
    wr(f::VM_ENTRY_INSTRUCTION_LEN, 1);
    // A list of MSRs cannot be there.
    wr(f::VM_ENTRY_MSR_LOAD_ADDR, 8);
    wr(f::VM_EXIT_MSR_LOAD_ADDR, 8);
    wr(f::VM_EXIT_MSR_STORE_ADDR, 8);
    wr(f::VIRTUAL_APIC_PAGE_ADDR, APIC.get());
}

/// The virtual-APIC page.
static APIC: Global<u64> = Global::new(0);

/// Everything once more.
fn renew() {
    for (encoding, value) in vmx::values() {
        vmx::vmwrite(u64::from(*encoding), *value);
    }
    settle();
}

/// Undoes what was changed.
fn restore(changes: &[(u64, u64)]) {
    for (encoding, _) in changes {
        for (known, value) in vmx::values() {
            if u64::from(*known) == *encoding {
                vmx::vmwrite(*encoding, *value);
            }
        }
    }
    settle();
}

/// What came of a case.
#[derive(Clone, Copy)]
enum Kind {
    /// No VMCS that may be entered; not in VMX operation.
    Invalid,
    /// An error number: of controls or of the host's state.
    Controls,
    /// A VM exit at once: of the guest's state, or of a list of MSRs.
    Refused,
    /// The guest ran.
    Ran,
}

/// Enters. Returns the kind of result and its details.
fn attempt(case: &Case) -> (Kind, [u64; 5]) {
    match vmx::enter() {
        Entry::Failed(outcome) => {
            let error = if let vmx::Outcome::Valid(error) = outcome {
                u64::from(error)
            } else {
                99
            };
            let kind = match error {
                7 | 8 => Kind::Controls,
                _ => Kind::Invalid,
            };
            (kind, [error, 0, 0, 0, 0])
        }
        Entry::Exit(exit) if exit.reason >> 31 != 0 => {
            // The checks are in no order, so of two that fail any may be reported.
            let qualification = if case.corruptions == 1 {
                exit.qualification
            } else {
                0
            };
            let reason = u64::from(exit.reason);
            (Kind::Refused, [reason, qualification, 0, 0, 0])
        }
        Entry::Exit(exit) => {
            let event = if exit.reason == 0 {
                rd(f::VM_EXIT_INTR_INFO)
            } else {
                0
            };
            let vectoring = rd(f::IDT_VECTORING_INFO_FIELD);
            let what = [
                u64::from(exit.reason),
                exit.qualification,
                event,
                vectoring,
                exit.rip.wrapping_sub(l2::at(stop)),
            ];
            (Kind::Ran, what)
        }
    }
}

/// FNV-1a.
fn mix(hash: u64, value: u64) -> u64 {
    value.to_le_bytes().iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The number after `key` on the command line.
fn number(key: &str) -> Option<u64> {
    crate::command_line()
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix(key))
        .and_then(|text| text.parse().ok())
}

/// Runs the blocks of a group, of which there are so many unless the command
/// line says otherwise. `run` makes a case and enters: it returns nothing for
/// one that is not judged.
fn blocks(group: &str, most: u64, run: impl Fn(&mut Case) -> Option<(Kind, [u64; 5])>) {
    vmx::guest();
    l2::begin(stop);
    APIC.set(page());
    renew();
    say!("{group}.seed", "{SEED:x}");
    let shown = number("block=");
    let shows_all = crate::command_line().contains("cases");
    let mut kinds = [0u64; 4];
    for block in 0..number("blocks=").unwrap_or(most) {
        if shown.is_some_and(|shown| shown != block) {
            continue;
        }
        let mut hash = 0xcbf2_9ce4_8422_2325;
        for number in block * BLOCK..(block + 1) * BLOCK {
            let mut case = Case::new(number);
            let result = run(&mut case);
            if let Some((kind, what)) = result {
                kinds[kind as usize] += 1;
                hash = what.iter().fold(hash, |hash, value| mix(hash, *value));
            }
            if shown.is_some() || shows_all {
                let what = result.map(|(_, what)| what);
                say!("{group}.case.{number}", "{:x?} {what:x?}", case.changes());
            }
        }
        say!("{group}.block.{block}", "{hash:016x}");
    }
    let [invalid, controls, refused, ran] = kinds;
    say!(
        "{group}.kinds",
        "invalid {invalid} controls {controls} refused {refused} ran {ran}"
    );
}

/// One field or two with bits flipped, in a guest of 64-bit mode.
pub fn fields() {
    blocks("random", 60, |case| {
        case.corruptions = 1 + case.random.below(2);
        for _ in 0..case.corruptions {
            flips::corrupt(case);
        }
        let result = attempt(case);
        if let Kind::Ran = result.0 {
            renew();
            cpu::set_dr6(0xffff_0ff0);
        } else {
            restore(case.changes());
        }
        Some(result)
    });
}

/// A rule or two broken, or nearly, in guests of all modes.
pub fn states() {
    vmx::guest();
    rules::prepare();
    blocks("states", 30, |case| {
        bases::choose(case);
        let made = judged::tables();
        case.corruptions = 1 + u64::from(case.random.once_in(3));
        for _ in 0..case.corruptions {
            rules::bend(case);
        }
        let has_right_tables = judged::has_right_tables(made);
        let result = match judged::is_judged().then(|| attempt(case)) {
            Some((Kind::Ran, _)) if !has_right_tables => Some((Kind::Ran, [0; 5])),
            result => result,
        };
        renew();
        rules::tidy();
        cpu::set_dr6(0xffff_0ff0);
        result
    });
}
