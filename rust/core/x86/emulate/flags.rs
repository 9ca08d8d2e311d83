// SPDX-License-Identifier: GPL-2.0

//! Bits of RFLAGS and of the control registers that the emulator looks at.
//! SDM 3A "System Flags and Fields in the EFLAGS Register", 2.3; "Control Registers", 2.5.

#![allow(missing_docs, reason = "the names are the documentation")]

pub(super) const CF: u64 = 1 << 0;
pub(super) const PF: u64 = 1 << 2;
pub(super) const AF: u64 = 1 << 4;
pub(super) const ZF: u64 = 1 << 6;
pub(super) const SF: u64 = 1 << 7;
pub(super) const TF: u64 = 1 << 8;
pub(super) const IF: u64 = 1 << 9;
pub(super) const DF: u64 = 1 << 10;
pub(super) const OF: u64 = 1 << 11;
pub(super) const IOPL: u64 = 3 << 12;
pub(super) const NT: u64 = 1 << 14;
pub(super) const RF: u64 = 1 << 16;
pub(super) const VM: u64 = 1 << 17;
pub(super) const AC: u64 = 1 << 18;
pub(super) const VIF: u64 = 1 << 19;
pub(super) const VIP: u64 = 1 << 20;
pub(super) const ID: u64 = 1 << 21;

/// The flags that arithmetic sets.
pub(super) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

pub(super) const CR0_PE: u64 = 1 << 0;
pub(super) const CR0_EM: u64 = 1 << 2;
pub(super) const CR0_TS: u64 = 1 << 3;
pub(super) const CR4_VME: u64 = 1 << 0;
pub(super) const CR4_PVI: u64 = 1 << 1;
pub(super) const CR4_TSD: u64 = 1 << 2;
pub(super) const CR4_OSFXSR: u64 = 1 << 9;
pub(super) const CR4_UMIP: u64 = 1 << 11;
pub(super) const CR4_LA57: u64 = 1 << 12;
pub(super) const EFER_LMA: u64 = 1 << 10;

/// Returns `flag` if `condition` holds, else 0.
#[inline]
pub(super) const fn when(condition: bool, flag: u64) -> u64 {
    if condition {
        flag
    } else {
        0
    }
}
