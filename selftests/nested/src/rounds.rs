// SPDX-License-Identifier: GPL-2.0

//! A VMCS that is read and written between many entries, as hypervisors do: a hypervisor below may learn
//! what is used and let that through without an exit, and must give the same answers then.

use burrow_core::x86::vmx::field as f;

use crate::{
    fields, l2,
    vmx::{
        self,
        rd,
        vmread,
        vmwrite,
        wr,
        Entry,
        Outcome, //
    },
};

code! {
    // Exits of two kinds, with another RSP and other flags at each.
    steps: "2: vmcall", "push rax", "stc", "cpuid", "pop rax", "clc", "jmp 2b";
}

/// Rounds of each kind: enough to learn from.
const FEW: u64 = 6;
/// Enough to forget again.
const MANY: u64 = 300;

/// Runs the guest to its next exit, and steps over the instruction.
fn step() -> Entry {
    let entry = vmx::enter();
    if let Entry::Exit(exit) = &entry {
        if exit.reason >> 31 == 0 {
            wr(f::GUEST_RIP, exit.rip + rd(f::VM_EXIT_INSTRUCTION_LEN));
        }
    }
    entry
}

/// FNV-1a.
fn mix(hash: u64, value: u64) -> u64 {
    (hash ^ value).wrapping_mul(0x0100_0000_01b3)
}

/// All groups of such rounds.
pub fn rounds() {
    vmx::guest();
    l2::begin(steps);
    changed_fields();
    exits();
    switched();
    failures();
}

/// Each field in turn, changed and put in order again before some entries.
fn changed_fields() {
    for (name, encoding) in fields::common() {
        let encoding = u64::from(encoding.0);
        let mut wrong = 0;
        for _ in 0..FEW {
            let before = vmread(encoding).1;
            let flags = vmwrite(encoding, before ^ 1) | vmwrite(encoding, before ^ 1);
            let (read, changed) = vmread(encoding);
            vmwrite(encoding, before);
            let after = vmread(encoding).1;
            let expected = if flags & 0x41 == 0 {
                before ^ 1
            } else {
                before
            };
            wrong += u64::from(changed != expected || after != before || read & 0x41 != 0);
            wrong += u64::from(!matches!(step(), Entry::Exit(exit) if exit.reason >> 31 == 0));
        }
        say!("rounds.field.{name}", "{wrong} wrong");
    }
}

/// What exits save, read each time.
fn exits() {
    for block in 0..4 {
        let mut hash = 0;
        for n in 0..MANY {
            if let Entry::Exit(exit) = step() {
                hash = mix(hash, u64::from(exit.reason));
            }
            hash = mix(hash, rd(f::GUEST_RSP).wrapping_sub(l2::stack()));
            hash = mix(hash, rd(f::GUEST_RFLAGS));
            hash = mix(hash, rd(f::VM_EXIT_INSTRUCTION_LEN));
            hash = mix(hash, rd(f::VM_EXIT_INTR_INFO));
            // One that is written now and then.
            if n % 40 < block {
                wr(f::EXCEPTION_BITMAP, n);
            }
            hash = mix(hash, rd(f::EXCEPTION_BITMAP));
        }
        say!("rounds.exits.{block}", "hash {hash:016x}");
    }
}

/// Two VMCSs by turns.
fn switched() {
    let other = vmx::region();
    let _ = vmx::vmclear(other);
    let list = || fields::common().filter(|(_, e)| e.0 >> 10 & 3 != 1);
    // Only the other, which is never entered, has other values.
    for n in 0..FEW {
        let _ = vmx::vmptrld(other);
        for (_, encoding) in list() {
            vmwrite(u64::from(encoding.0), n << 4 | 5);
        }
        let _ = vmx::vmptrld(vmx::vmcs());
        let mut hash = 0;
        for (_, encoding) in list() {
            let encoding = u64::from(encoding.0);
            let value = vmread(encoding).1;
            vmwrite(encoding, value);
            if !matches!(encoding, 0x6000.. | 0x2000..=0x3fff) {
                hash = mix(hash, value);
            }
        }
        say!("rounds.switched.{n}", "{} hash {hash:016x}", l2::go());
        wr(
            f::GUEST_RIP,
            rd(f::GUEST_RIP) + rd(f::VM_EXIT_INSTRUCTION_LEN),
        );
    }
    let _ = vmx::vmptrld(other);
    for (name, encoding) in list() {
        let value = vmread(u64::from(encoding.0)).1;
        say!("rounds.other.{name}", "{value:x}");
    }
    let _ = vmx::vmptrld(vmx::vmcs());
    let _ = vmx::vmclear(other);
}

/// Failures between rounds, and what is read after them.
fn failures() {
    for n in 0..FEW {
        let bad = Outcome::of(vmwrite(0x4ffe, 0));
        let error = rd(f::VM_INSTRUCTION_ERROR);
        wr(f::GUEST_RFLAGS, 0);
        let refused = vmx::enter();
        wr(f::GUEST_RFLAGS, 2);
        let reason = rd(f::VM_EXIT_REASON);
        wr(f::CR3_TARGET_COUNT, 5);
        let failed = vmx::enter();
        wr(f::CR3_TARGET_COUNT, 0);
        let now = rd(f::VM_INSTRUCTION_ERROR);
        say!(
            "rounds.failure.{n}",
            "{bad} error {error} {refused} reason {reason:x} {failed} error {now} then {:x} {}",
            rd(f::VM_EXIT_REASON),
            step()
        );
    }
    let _ = vmx::vmclear(vmx::vmcs());
    let gone = Outcome::of(vmread(u64::from(f::GUEST_RIP.encoding().0)).0);
    say!(
        "rounds.cleared",
        "read {gone} write {}",
        Outcome::of(vmwrite(0x681e, 1))
    );
}
