// SPDX-License-Identifier: GPL-2.0

//! VMREAD and VMWRITE of every field.

use burrow_core::x86::vmx::field as f;

use crate::{
    cpu::STATUS_FLAGS,
    vmx::{
        self,
        vmread,
        vmwrite,
        Outcome, //
    },
};

/// Whether a field is one that not all processors have, or that this program
/// cannot ask about: those whose features are not in `vmx::capabilities`.
fn is_optional(name: &str) -> bool {
    const OPTIONAL: &[&str] = &[
        "HLAT",
        "LAST_PID",
        "UINV",
        "ENCL",
        "SPP",
        "TERTIARY",
        "SHARED_EPT",
        "PCONFIG",
        "PID_POINTER",
        "SECONDARY_VM_EXIT",
        "SPEC_CTRL",
        "BNDCFGS",
        "RTIT",
        "LBR",
        "PKRS",
        "NOTIFY",
        "PLE",
        "VE_INFO",
        "CR3_TARGET",
        "POSTED",
        "PERF_GLOBAL",
        "S_CET",
        "SSP",
        "GUEST_INTR_STATUS",
        "EOI_EXIT",
        "EPTP_INDEX",
        "EXECUTIVE_VMCS",
        "SMBASE",
        "IO_R",
    ];
    OPTIONAL.iter().any(|part| name.contains(part))
}

/// The fields that all processors have.
pub fn common() -> impl Iterator<Item = &'static (&'static str, f::Encoding)> {
    f::ALL.iter().filter(|(name, _)| !is_optional(name))
}

/// Every encoding in turn: whether it can be read and written, and its width.
pub fn encodings() {
    vmx::guest();
    for (name, encoding) in f::ALL {
        if is_optional(name) {
            continue;
        }
        let encoding = u64::from(encoding.0);
        let (flags, before) = vmread(encoding);
        let read = Outcome::of(flags);
        let write = Outcome::of(vmwrite(encoding, !0));
        let after = vmread(encoding).1;
        say!("fields.{name}", "read {read} write {write} ones {after:x}");
        if encoding >> 13 & 3 == 1 {
            // The high half alone.
            let high = Outcome::of(vmwrite(encoding | 1, 0x1234_5678_9abc_def0));
            let (flags, value) = vmread(encoding | 1);
            say!(
                "fields.{name}.high",
                "read {} write {high} high {value:x} whole {:x}",
                Outcome::of(flags),
                vmread(encoding).1
            );
        } else {
            let read = Outcome::of(vmread(encoding | 1).0);
            say!(
                "fields.{name}.high",
                "read {read} write {}",
                Outcome::of(vmwrite(encoding | 1, 0))
            );
        }
        vmwrite(encoding, before);
    }
    unknown();
}

/// Encodings of no field.
fn unknown() {
    for encoding in [
        0x0001,
        0x07fe,
        0x0bfe,
        0x0ffe,
        0x1000,
        0x23fe,
        0x25fe,
        0x2bfe,
        0x2ffe,
        0x43fe,
        0x47fe,
        0x4bfe,
        0x4ffe,
        0x63fe,
        0x67fe,
        0x6bfe,
        0x6ffe,
        0x8000,
        0xe81e,
        0x1_681e,
        0x8000_681e,
        0x1_0000_681e,
        0xffff_ffff_ffff_ffff,
    ] {
        let read = Outcome::of(vmread(encoding).0);
        say!(
            "fields.unknown.{encoding:x}",
            "read {read} write {}",
            Outcome::of(vmwrite(encoding, 0))
        );
    }
}

/// Fields keep what is written, each its own value, and VMCLEAR and VMPTRLD keep them.
pub fn values() {
    vmx::guest();
    let value =
        |encoding: u32| 0x0101_0101_0101_0101_u64.wrapping_mul(u64::from(encoding >> 1 & 0xff) + 1);
    let list = || common().filter(|(_, e)| e.0 >> 10 & 3 != 1);
    for (_, encoding) in list() {
        vmwrite(u64::from(encoding.0), value(encoding.0));
    }
    let _ = vmx::vmclear(vmx::vmcs());
    let _ = vmx::vmptrld(vmx::vmcs());
    for (name, encoding) in list() {
        let (flags, read) = vmread(u64::from(encoding.0));
        say!(
            "values.{name}",
            "{:x} flags {:x}",
            read,
            flags & STATUS_FLAGS
        );
    }
}
