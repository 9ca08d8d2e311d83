// SPDX-License-Identifier: GPL-2.0

//! Valid guests to begin with.

use burrow_core::x86::vmx::field as f;

use super::Case;
use crate::{
    l2,
    vmx::{
        self,
        rd,
        wr, //
    },
};

/// 64-bit mode at CPL 0.
fn long() {}

/// Compatibility mode.
fn compatibility() {
    wr(f::GUEST_CS_AR_BYTES, 0xc09b);
}

/// Real mode. A rule that turns paging on finds tables of ours, and not the BIOS's at address 0, which differ
/// from machine to machine.
fn real() {
    l2::protected();
    let tables = rd(f::GUEST_CR3);
    l2::real();
    wr(f::GUEST_CR3, tables);
}

/// Takes the guest to one that begins in the state of the case, in one of all modes; sometimes
/// without an EPT.
pub fn choose(case: &mut Case) {
    const BASES: [fn(); 9] = [
        long,
        long,
        long,
        l2::user,
        compatibility,
        l2::pae,
        l2::protected,
        real,
        l2::virtual_8086,
    ];
    let base = case.random.below(BASES.len() as u64);
    BASES[base as usize]();
    // "Unrestricted guest" needs an EPT.
    if base != 7 && case.random.once_in(8) {
        vmx::clear(f::SECONDARY_VM_EXEC_CONTROL, vmx::CPU2_EPT);
    }
}
