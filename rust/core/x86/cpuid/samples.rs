// SPDX-License-Identifier: GPL-2.0

//! What tests of CPUID are tried with: a table as a VMM sets it.

use super::{
    Entry,
    Regs,
    KVM_SIGNATURE,
    SIGNIFICANT_INDEX, //
};

pub(super) fn regs(eax: u32, ebx: u32, ecx: u32, edx: u32) -> Regs {
    Regs { eax, ebx, ecx, edx }
}

pub(super) fn plain(function: u32, regs: Regs) -> Entry {
    Entry {
        function,
        index: 0,
        flags: 0,
        regs,
    }
}

pub(super) fn indexed(function: u32, index: u32, regs: Regs) -> Entry {
    Entry {
        function,
        index,
        flags: SIGNIFICANT_INDEX,
        regs,
    }
}

pub(super) fn table() -> Vec<Entry> {
    let everything = regs(u32::MAX, u32::MAX, u32::MAX, u32::MAX);
    vec![
        plain(0, regs(0xd, 0x756e_6547, 0x6c65_746e, 0x4965_6e69)),
        plain(1, everything),
        indexed(7, 0, regs(0, u32::MAX, u32::MAX, u32::MAX)),
        indexed(0xb, 0, regs(1, 2, 0x100, 0x77)),
        indexed(0xb, 1, regs(4, 8, 0x201, 0x77)),
        indexed(0xd, 0, regs(0x207, 0, 0x1000, 0)),
        indexed(0xd, 1, regs(0xf, 0, 0x100, 0)),
        plain(
            0x4000_0000,
            regs(
                0x4000_0001,
                KVM_SIGNATURE[0],
                KVM_SIGNATURE[1],
                KVM_SIGNATURE[2],
            ),
        ),
        plain(0x4000_0001, regs(9, 0, 0, 0)),
        plain(0x8000_0000, regs(0x8000_0008, 0, 0, 0)),
        plain(0x8000_0001, everything),
        plain(0x8000_0008, regs(0x302e, 0, 0, 0)),
    ]
}
