// SPDX-License-Identifier: GPL-2.0

//! Checks on host state: VMfailValid with error 8.
//!
//! SDM 3C "Checks on Host Control Registers, MSRs, and SSP", 27.2.2; "Checks on Host Segment and
//! Descriptor-Table Registers", 27.2.3; "Checks Related to Address-Space Size", 27.2.4.

use super::super::vmx::field::*;
use super::super::vmx::insn::is_canonical;
use super::check::{
    checks,
    is_pat,
    is_s_cet,
    Block,
    Check,
    Entry,
    Table,
    CR0_WP,
    CR4_CET,
    CR4_LA57,
    CR4_PAE,
    CR4_PCIDE,
    EFER_LMA,
    EFER_LME, //
};
use super::vmcs12::Groups;

/// All of them, in the order of the SDM.
pub(super) const BLOCKS: &[Block] = &[
    Block {
        depends: DEPENDS,
        qualification: 0,
        checks: REGISTERS,
    },
    Block {
        depends: Groups::HOST,
        qualification: 0,
        checks: BASES,
    },
    Block {
        depends: DEPENDS,
        qualification: 0,
        checks: SEGMENTS,
    },
    Block {
        depends: DEPENDS,
        qualification: 0,
        checks: ADDRESS_SPACE,
    },
];

/// Them, and which depend on what.
pub(super) static TABLE: Table = Table::new(BLOCKS);

const DEPENDS: Groups = Groups::CONTROLS.union(Groups::HOST);

const REGISTERS: &[Check] = checks! {
    "H1 host CR0" => |e| !is_fixed(e.get(HOST_CR0), e.caps.cr0_fixed0, e.caps.cr0_fixed1);
    "H1 host CR4" => |e| !is_fixed(e.get(HOST_CR4), e.caps.cr4_fixed0, e.caps.cr4_fixed1);
    "H1 host CR4.CET needs CR0.WP" => |e| {
        e.get(HOST_CR4) & CR4_CET != 0 && e.get(HOST_CR0) & CR0_WP == 0
    };
    "H1 host CR3" => |e| !e.is_physical(e.get(HOST_CR3));
    "H2 host IA32_PERF_GLOBAL_CTRL" => |e| {
        e.exit().load_perf_global()
            && e.get(HOST_IA32_PERF_GLOBAL_CTRL) & !e.env.perf_global_allowed != 0
    };
    "H2 host IA32_PAT" => |e| e.exit().load_pat() && !is_pat(e.get(HOST_IA32_PAT));
    "H2 reserved bits of host IA32_EFER" => |e| {
        e.exit().load_efer() && e.get(HOST_IA32_EFER) & !e.env.efer_allowed != 0
    };
    "H2 host IA32_EFER.LMA and LME" => |e| {
        let want = if e.exit().host_64bit() { EFER_LMA | EFER_LME } else { 0 };
        e.exit().load_efer() && e.get(HOST_IA32_EFER) & (EFER_LMA | EFER_LME) != want
    };
    "H2 host IA32_S_CET" => |e| {
        let s_cet = e.get(HOST_S_CET);
        e.exit().load_cet() && (!is_s_cet(s_cet) || !is_host_address(e, s_cet))
    };
    "H2 host SSP" => |e| {
        let ssp = e.get(HOST_SSP);
        e.exit().load_cet() && (ssp & 3 != 0 || !is_host_address(e, ssp))
    };
    "H2 host IA32_INTERRUPT_SSP_TABLE_ADDR" => |e| {
        e.exit().load_cet() && !e.is_canonical(HOST_INTR_SSP_TABLE)
    };
};

/// Returns whether the bits that must be 1 are, and those that must be 0.
pub(super) fn is_fixed(value: u64, fixed0: u64, fixed1: u64) -> bool {
    value & fixed0 == fixed0 && value & !fixed1 == 0
}

/// Returns whether `value` is an address for the mode in which L1 will run.
fn is_host_address(e: &Entry<'_>, value: u64) -> bool {
    if e.exit().host_64bit() {
        is_canonical(value, e.env.linear_bits)
    } else {
        value >> 32 == 0
    }
}

const BASES: &[Check] = checks! {
    "H2 host IA32_SYSENTER_ESP" => |e| !e.is_canonical(HOST_IA32_SYSENTER_ESP);
    "H2 host IA32_SYSENTER_EIP" => |e| !e.is_canonical(HOST_IA32_SYSENTER_EIP);
    "H3 host FS base" => |e| !e.is_canonical(HOST_FS_BASE);
    "H3 host GS base" => |e| !e.is_canonical(HOST_GS_BASE);
    "H3 host GDTR base" => |e| !e.is_canonical(HOST_GDTR_BASE);
    "H3 host IDTR base" => |e| !e.is_canonical(HOST_IDTR_BASE);
    "H3 host TR base" => |e| !e.is_canonical(HOST_TR_BASE);
};

const SELECTORS: [Field<u16>; 7] = [
    HOST_CS_SELECTOR,
    HOST_SS_SELECTOR,
    HOST_DS_SELECTOR,
    HOST_ES_SELECTOR,
    HOST_FS_SELECTOR,
    HOST_GS_SELECTOR,
    HOST_TR_SELECTOR,
];

const SEGMENTS: &[Check] = checks! {
    "H3 RPL and TI of host selectors are 0" => |e| {
        SELECTORS.iter().any(|selector| e.get(*selector) & 7 != 0)
    };
    "H3 host CS is not null" => |e| e.get(HOST_CS_SELECTOR) == 0;
    "H3 host TR is not null" => |e| e.get(HOST_TR_SELECTOR) == 0;
    "H3 host SS of a 32-bit host is not null" => |e| {
        !e.exit().host_64bit() && e.get(HOST_SS_SELECTOR) == 0
    };
};

const ADDRESS_SPACE: &[Check] = checks! {
    "H4 host address-space size is that of L1" => |e| {
        e.exit().host_64bit() != e.env.is_l1_long_mode
    };
    "H4 IA-32e mode guest needs a 64-bit host" => |e| {
        !e.exit().host_64bit() && e.entry().ia32e()
    };
    "H4 32-bit host has no CR4.PCIDE" => |e| {
        !e.exit().host_64bit() && e.get(HOST_CR4) & CR4_PCIDE != 0
    };
    "H4 RIP of a 32-bit host" => |e| !e.exit().host_64bit() && e.get(HOST_RIP) >> 32 != 0;
    "H4 64-bit host has CR4.PAE" => |e| {
        e.exit().host_64bit() && e.get(HOST_CR4) & CR4_PAE == 0
    };
    "H4 RIP of a 64-bit host" => |e| {
        let linear_bits = if e.get(HOST_CR4) & CR4_LA57 != 0 { 57 } else { 48 };
        e.exit().host_64bit() && !is_canonical(e.get(HOST_RIP), linear_bits)
    };
};
