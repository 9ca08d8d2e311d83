// SPDX-License-Identifier: GPL-2.0

//! Random states: a guest that enters, with one or two fields corrupted, again
//! and again. One line for a block of a hundred, with a hash of what came of
//! them; with `block=N` on the command line, a line for each case of that block,
//! and with `cases` for each of all.
//!
//! What is left out is what the bare machine does not check (errata.rst), what
//! Burrow does not offer, and what would let a guest loose in this program.

use burrow_core::x86::vmx::field as f;

use crate::{
    cpu::{
        self,
        page, //
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

code! {
    // The same bytes in each mode.
    stop: "vmcall", "vmcall", "vmcall";
}

/// Cases in a block, and blocks unless the command line says otherwise.
const BLOCK: u64 = 100;
const BLOCKS: u64 = 60;
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
}

/// How a field is corrupted: by flipping a bit of these, or by a value of its own.
enum Way {
    Bits(u64),
    Event,
}
use Way::*;

/// An address of something that is used: no other that is valid, too.
const ADDRESS: u64 = !0 << 47;
/// Addresses of pages for which a value in the first GiB would find memory.
const PHYSICAL: u64 = !0 << 52 | 0xfff;
/// Access rights without the reserved bits, which Bochs keeps.
const RIGHTS: u64 = 0x1_f0ff;
/// CR4 without features that only some have: SMXE, KL, CET, PKS, UINTR, and LA57.
const CR4: u64 = !(1 << 12 | 1 << 14 | 1 << 19 | 0x1f << 23 | 1 << 28 | 1 << 32);

/// The fields, each with the bits that may be flipped.
const FIELDS: &[(f::Encoding, Way)] = &[
    (f::PIN_BASED_VM_EXEC_CONTROL.encoding(), Bits(0xffff_ff3f)),
    (
        f::CPU_BASED_VM_EXEC_CONTROL.encoding(),
        Bits(!(1 << 17 | 1 << 27 | 1 << 31) & 0xffff_ffff),
    ),
    (f::SECONDARY_VM_EXEC_CONTROL.encoding(), Bits(0x0010_18fe)),
    (f::VM_EXIT_CONTROLS.encoding(), Bits(0x003f_efff)),
    (f::VM_ENTRY_CONTROLS.encoding(), Bits(0x0000_dbff)),
    (f::VIRTUAL_PROCESSOR_ID.encoding(), Bits(0xffff)),
    (f::CR3_TARGET_COUNT.encoding(), Bits(0xffff_fff8)),
    (f::VM_EXIT_MSR_STORE_COUNT.encoding(), Bits(0xffff_ffff)),
    (f::VM_EXIT_MSR_LOAD_COUNT.encoding(), Bits(0xffff_ffff)),
    (f::VM_ENTRY_MSR_LOAD_COUNT.encoding(), Bits(0xffff_ffff)),
    (f::VM_ENTRY_INTR_INFO_FIELD.encoding(), Event),
    (f::VM_ENTRY_INTR_INFO_FIELD.encoding(), Event),
    (f::VM_ENTRY_INTR_INFO_FIELD.encoding(), Event),
    (
        f::VM_ENTRY_EXCEPTION_ERROR_CODE.encoding(),
        Bits(0xffff_ffff),
    ),
    (f::VM_ENTRY_INSTRUCTION_LEN.encoding(), Bits(0xffff_fffe)),
    (f::TPR_THRESHOLD.encoding(), Bits(0xffff_ffff)),
    (f::TSC_OFFSET.encoding(), Bits(!0)),
    (f::VIRTUAL_APIC_PAGE_ADDR.encoding(), Bits(PHYSICAL)),
    (f::IO_BITMAP_A.encoding(), Bits(PHYSICAL)),
    (f::IO_BITMAP_B.encoding(), Bits(PHYSICAL)),
    (f::MSR_BITMAP.encoding(), Bits(PHYSICAL)),
    (f::EPT_POINTER.encoding(), Bits(PHYSICAL & !0x80)),
    (f::CR0_GUEST_HOST_MASK.encoding(), Bits(!0)),
    (f::CR4_GUEST_HOST_MASK.encoding(), Bits(!0)),
    (f::CR0_READ_SHADOW.encoding(), Bits(!0)),
    (f::CR4_READ_SHADOW.encoding(), Bits(!0)),
    (f::HOST_CR0.encoding(), Bits(0xffff_ffff_8000_0021)),
    (f::HOST_CR3.encoding(), Bits(!0 << 52)),
    (f::HOST_CR4.encoding(), Bits(!0 << 33 | 0x2020)),
    (f::HOST_ES_SELECTOR.encoding(), Bits(7)),
    (f::HOST_CS_SELECTOR.encoding(), Bits(0xf)),
    (f::HOST_SS_SELECTOR.encoding(), Bits(7)),
    (f::HOST_DS_SELECTOR.encoding(), Bits(7)),
    (f::HOST_FS_SELECTOR.encoding(), Bits(7)),
    (f::HOST_GS_SELECTOR.encoding(), Bits(7)),
    (f::HOST_TR_SELECTOR.encoding(), Bits(0x27)),
    (f::HOST_FS_BASE.encoding(), Bits(ADDRESS)),
    (f::HOST_GS_BASE.encoding(), Bits(ADDRESS)),
    (f::HOST_TR_BASE.encoding(), Bits(ADDRESS)),
    (f::HOST_GDTR_BASE.encoding(), Bits(ADDRESS)),
    (f::HOST_IDTR_BASE.encoding(), Bits(ADDRESS)),
    (f::HOST_IA32_SYSENTER_ESP.encoding(), Bits(!0)),
    (f::HOST_IA32_SYSENTER_EIP.encoding(), Bits(!0)),
    (f::HOST_IA32_EFER.encoding(), Bits(!0)),
    (f::HOST_RIP.encoding(), Bits(ADDRESS)),
    (f::GUEST_CR0.encoding(), Bits(!(1 << 6))),
    (f::GUEST_CR3.encoding(), Bits(!0 << 30 | 0x1f)),
    (f::GUEST_CR4.encoding(), Bits(CR4)),
    (f::GUEST_DR7.encoding(), Bits(!0)),
    (f::GUEST_RIP.encoding(), Bits(0x7fff << 32)),
    (f::GUEST_RFLAGS.encoding(), Bits(!0)),
    (f::GUEST_RSP.encoding(), Bits(!0)),
    (f::GUEST_IA32_EFER.encoding(), Bits(!0)),
    (f::GUEST_IA32_PAT.encoding(), Bits(!0)),
    (f::GUEST_SYSENTER_ESP.encoding(), Bits(!0)),
    (f::GUEST_SYSENTER_EIP.encoding(), Bits(!0)),
    (f::GUEST_GDTR_BASE.encoding(), Bits(!0)),
    (f::GUEST_IDTR_BASE.encoding(), Bits(!0 << 30)),
    (f::GUEST_GDTR_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_IDTR_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_INTERRUPTIBILITY_INFO.encoding(), Bits(0xffff_ffef)),
    (f::GUEST_ACTIVITY_STATE.encoding(), Bits(0xffff_fffc)),
    (f::GUEST_PENDING_DBG_EXCEPTIONS.encoding(), Bits(0xaff0)),
    (f::VMCS_LINK_POINTER.encoding(), Bits(!0)),
    (f::GUEST_ES_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_CS_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_SS_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_DS_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_LDTR_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_TR_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_ES_BASE.encoding(), Bits(!0)),
    (f::GUEST_CS_BASE.encoding(), Bits(!0 << 30)),
    (f::GUEST_SS_BASE.encoding(), Bits(!0)),
    (f::GUEST_FS_BASE.encoding(), Bits(!0)),
    (f::GUEST_GS_BASE.encoding(), Bits(!0)),
    (f::GUEST_LDTR_BASE.encoding(), Bits(!0)),
    (f::GUEST_TR_BASE.encoding(), Bits(ADDRESS)),
    (f::GUEST_ES_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_CS_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_SS_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_LDTR_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_TR_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_ES_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_CS_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_SS_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_DS_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_FS_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_GS_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_LDTR_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_TR_AR_BYTES.encoding(), Bits(RIGHTS)),
];

/// A flip of one bit of a mask, or rarely of several.
fn flip(random: &mut Random, mask: u64) -> u64 {
    if random.below(8) == 0 {
        return random.next() & mask;
    }
    let mut index = random.below(u64::from(mask.count_ones()));
    let mut rest = mask;
    while index > 0 {
        rest &= rest - 1;
        index -= 1;
    }
    rest & rest.wrapping_neg()
}

/// An event, valid or not; its error code is there where it belongs, as Bochs
/// with CET does not look.
fn event(random: &mut Random) -> u64 {
    let kind = random.below(8);
    let vector = match kind {
        2 => 2,
        3 => random.below(34),
        // INT1, the only one that there is.
        5 => 1,
        // Vector 0 would be a monitor trap, which Bochs takes too late.
        7 => 1 + random.below(255),
        _ => random.below(256),
    };
    let has_error = kind == 3 && matches!(vector, 8 | 10..=14 | 17 | 21);
    let reserved = if random.below(8) == 0 {
        1 << (12 + random.below(19))
    } else {
        0
    };
    1 << 31 | reserved | u64::from(has_error) << 11 | kind << 8 | vector
}

/// Corrupts one field; returns its encoding and the value.
fn corrupt(random: &mut Random) -> (u64, u64) {
    let (encoding, way) = &FIELDS[random.below(FIELDS.len() as u64) as usize];
    let encoding = u64::from(encoding.0);
    let value = match way {
        Bits(mask) => vmx::vmread(encoding).1 ^ flip(random, *mask),
        Event => event(random),
    };
    vmx::vmwrite(encoding, value);
    (encoding, value)
}

/// The guest of this test: everything that can happen is an exit.
fn prepare() {
    vmx::guest();
    l2::begin(stop);
    settle();
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
}

/// Everything once more, after the guest has run.
fn renew(apic: u64) {
    for (encoding, value) in vmx::values() {
        vmx::vmwrite(u64::from(*encoding), *value);
    }
    settle();
    wr(f::VIRTUAL_APIC_PAGE_ADDR, apic);
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

/// Runs the blocks.
pub fn blocks() {
    prepare();
    let apic = page();
    renew(apic);
    say!("random.seed", "{SEED:x}");
    let shown = number("block=");
    let shows_all = crate::command_line().contains("cases");
    let blocks = number("blocks=").unwrap_or(BLOCKS);
    let mut kinds = [0u64; 4];
    for block in 0..blocks {
        if shown.is_some_and(|shown| shown != block) {
            continue;
        }
        let mut hash = 0xcbf2_9ce4_8422_2325;
        for case in block * BLOCK..(block + 1) * BLOCK {
            let mut random =
                Random(SEED.wrapping_add(case.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
            // The first numbers are alike.
            for _ in 0..8 {
                let _ = random.next();
            }
            let count = 1 + random.below(2);
            let mut changed = [(0, 0); 2];
            for slot in &mut changed[..count as usize] {
                *slot = corrupt(&mut random);
            }
            let (kind, what) = attempt(&changed[..count as usize], apic);
            kinds[kind] += 1;
            hash = what.iter().fold(hash, |hash, value| mix(hash, *value));
            if shown.is_some() || shows_all {
                say!(
                    "random.case.{case}",
                    "{:x?} {:x?}",
                    &changed[..count as usize],
                    what
                );
            }
        }
        say!("random.block.{block}", "{hash:016x}");
    }
    say!(
        "random.kinds",
        "invalid {} controls {} refused {} ran {}",
        kinds[0],
        kinds[1],
        kinds[2],
        kinds[3]
    );
}

/// Enters, and puts the VMCS in order again. Returns the kind of result and its details.
fn attempt(changed: &[(u64, u64)], apic: u64) -> (usize, [u64; 5]) {
    match vmx::enter() {
        Entry::Failed(outcome) => {
            restore(changed, apic);
            let error = if let vmx::Outcome::Valid(error) = outcome {
                u64::from(error)
            } else {
                99
            };
            (
                if error == 7 || error == 8 { 1 } else { 0 },
                [error, 0, 0, 0, 0],
            )
        }
        Entry::Exit(exit) if exit.reason >> 31 != 0 => {
            restore(changed, apic);
            // The checks are in no order, so of two that fail any may be reported.
            let qualification = if changed.len() == 1 {
                exit.qualification
            } else {
                0
            };
            (2, [u64::from(exit.reason), qualification, 0, 0, 0])
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
            renew(apic);
            cpu::set_dr6(0xffff_0ff0);
            (3, what)
        }
    }
}

/// Undoes what was changed.
fn restore(changed: &[(u64, u64)], apic: u64) {
    for (encoding, _) in changed {
        for (known, value) in vmx::values() {
            if u64::from(*known) == *encoding {
                vmx::vmwrite(*encoding, *value);
            }
        }
    }
    settle();
    wr(f::VIRTUAL_APIC_PAGE_ADDR, apic);
}
