// SPDX-License-Identifier: GPL-2.0

//! Checks on guest state: VM-entry failure, exit reason 33.
//!
//! SDM 3C "Checks on the Guest State Area", 27.3.1. The checks on segments are in
//! [`check_segments`]. Blocking by STI does not stop the injection of an
//! NMI: the SDM leaves that check to the processor.

use super::super::vmx::ctls::{
    ActivityState,
    Interruptibility,
    IntrType,
    PendingDebug, //
};
use super::super::vmx::field::*;
use super::super::vmx::insn::is_canonical;
use super::check::{
    checks,
    is_pat,
    is_s_cet,
    Block,
    Check,
    Entry,
    EntryCause,
    Table,
    ALWAYS,
    CR0_PE,
    CR0_PG,
    CR0_WP,
    CR4_CET,
    CR4_PAE,
    CR4_PCIDE,
    EFER_LMA,
    EFER_LME, //
};
use super::check_host::is_fixed;
use super::check_segments::{
    self,
    access_rights,
    Segment, //
};
use super::vmcs12::{
    Groups,
    REVISION, //
};

/// Exit qualification of a bad link pointer. SDM 3C "VM-Entry Failures", 27.8.
const LINK_POINTER: u64 = 4;
/// Exit qualification of bad PDPTEs.
const PDPTE: u64 = 2;

/// All of them, in the order of the SDM.
pub(super) const BLOCKS: &[Block] = &[
    Block {
        depends: ON_CRS,
        qualification: 0,
        checks: CONTROL_REGISTERS,
    },
    Block {
        depends: ON_MSRS,
        qualification: 0,
        checks: MSRS,
    },
    Block {
        depends: ON_EFER,
        qualification: 0,
        checks: EFER,
    },
    check_segments::TASK_AND_LDT,
    check_segments::VIRTUAL_8086,
    check_segments::PROTECTED,
    check_segments::TABLES,
    Block {
        depends: ON_RIP,
        qualification: 0,
        checks: RIP,
    },
    Block {
        depends: ON_RFLAGS,
        qualification: 0,
        checks: RFLAGS,
    },
    Block {
        depends: ON_STATE,
        qualification: 0,
        checks: NON_REGISTER,
    },
    Block {
        depends: ON_LINK,
        qualification: LINK_POINTER,
        checks: LINK,
    },
    Block {
        depends: ALWAYS,
        qualification: LINK_POINTER,
        checks: LINKED_REGION,
    },
    Block {
        depends: ON_PDPTES,
        qualification: PDPTE,
        checks: PDPTES,
    },
    Block {
        depends: ALWAYS,
        qualification: PDPTE,
        checks: MEMORY_PDPTES,
    },
];

/// Them, and which depend on what.
pub(super) static TABLE: Table = Table::new(BLOCKS);

const ON_CRS: Groups = Groups::CONTROLS.union(Groups::CRS);
const ON_MSRS: Groups = Groups::CONTROLS.union(Groups::MSRS);
const ON_EFER: Groups = ON_CRS;
const ON_RIP: Groups = Groups::RIP.union(Groups::SEGMENTS).union(Groups::CONTROLS);
const ON_RFLAGS: Groups = Groups::RUN
    .union(Groups::CONTROLS)
    .union(Groups::CRS)
    .union(Groups::EVENT);
const ON_STATE: Groups = Groups::RUN
    .union(Groups::SEGMENTS)
    .union(Groups::CONTROLS)
    .union(Groups::MSRS)
    .union(Groups::EVENT);
const ON_LINK: Groups = Groups::LINK;
const ON_PDPTES: Groups = ON_CRS.union(Groups::EPTP);

const CONTROL_REGISTERS: &[Check] = checks! {
    "G1 guest CR0" => |e| {
        let free = if e.proc2().unrestricted_guest() { CR0_PE | CR0_PG } else { 0 };
        !is_fixed(e.get(GUEST_CR0), e.caps.cr0_fixed0 & !free, e.caps.cr0_fixed1)
    };
    "G1 guest CR0.PG needs PE" => |e| e.get(GUEST_CR0) & (CR0_PG | CR0_PE) == CR0_PG;
    "G1 guest CR4" => |e| !is_fixed(e.get(GUEST_CR4), e.caps.cr4_fixed0, e.caps.cr4_fixed1);
    "G1 guest CR4.CET needs CR0.WP" => |e| {
        e.get(GUEST_CR4) & CR4_CET != 0 && e.get(GUEST_CR0) & CR0_WP == 0
    };
    "G2 IA-32e mode guest needs CR0.PG" => |e| e.entry().ia32e() && e.get(GUEST_CR0) & CR0_PG == 0;
    "G2 IA-32e mode guest needs CR4.PAE" => |e| {
        e.entry().ia32e() && e.get(GUEST_CR4) & CR4_PAE == 0
    };
    "G2 CR4.PCIDE needs IA-32e mode guest" => |e| {
        !e.entry().ia32e() && e.get(GUEST_CR4) & CR4_PCIDE != 0
    };
    "G2 guest CR3" => |e| !e.is_physical(e.get(GUEST_CR3) & !e.env.cr3_lam_allowed);
};

const MSRS: &[Check] = checks! {
    "G2 guest IA32_DEBUGCTL" => |e| {
        e.entry().load_debug() && e.get(GUEST_IA32_DEBUGCTL) & !e.env.debugctl_allowed != 0
    };
    "G2 guest DR7" => |e| e.entry().load_debug() && e.get(GUEST_DR7) >> 32 != 0;
    "G3 guest IA32_SYSENTER_ESP" => |e| !e.is_canonical(GUEST_SYSENTER_ESP);
    "G3 guest IA32_SYSENTER_EIP" => |e| !e.is_canonical(GUEST_SYSENTER_EIP);
    "G3 guest IA32_PERF_GLOBAL_CTRL" => |e| {
        e.entry().load_perf_global()
            && e.get(GUEST_IA32_PERF_GLOBAL_CTRL) & !e.env.perf_global_allowed != 0
    };
    "G3 guest IA32_PAT" => |e| e.entry().load_pat() && !is_pat(e.get(GUEST_IA32_PAT));
    "G3 guest IA32_BNDCFGS" => |e| {
        let bndcfgs = e.get(GUEST_BNDCFGS);
        e.entry().load_bndcfgs()
            && (bndcfgs & 0xffc != 0 || !is_canonical(bndcfgs & !0xfff, e.env.linear_bits))
    };
    "G3 guest IA32_S_CET" => |e| {
        let s_cet = e.get(GUEST_S_CET);
        e.entry().load_cet() && (!is_s_cet(s_cet) || !is_canonical(s_cet, e.env.linear_bits))
    };
    "G3 guest IA32_INTERRUPT_SSP_TABLE_ADDR" => |e| {
        e.entry().load_cet() && !e.is_canonical(GUEST_INTR_SSP_TABLE)
    };
    "G6 guest SSP" => |e| {
        let ssp = e.get(GUEST_SSP);
        e.entry().load_cet() && (ssp & 3 != 0 || !is_sign_extended(ssp, e.env.linear_bits))
    };
};

/// Returns whether bits 63:N of `address` are all alike; canonical addresses have bit N - 1 alike
/// too.
fn is_sign_extended(address: u64, linear_bits: u8) -> bool {
    let top = address.checked_shr(u32::from(linear_bits)).unwrap_or(0);
    let ones = u64::MAX.checked_shr(u32::from(linear_bits)).unwrap_or(0);
    top == 0 || top == ones
}

/// Returns whether the EFER field counts: it is loaded, and not left over from an earlier entry.
fn loads_efer(e: &Entry<'_>) -> bool {
    e.entry().load_efer() && e.cause == EntryCause::Fresh
}

const EFER: &[Check] = checks! {
    "G3 reserved bits of guest IA32_EFER" => |e| {
        loads_efer(e) && e.get(GUEST_IA32_EFER) & !e.env.efer_allowed != 0
    };
    "G3 guest IA32_EFER.LMA" => |e| {
        loads_efer(e) && (e.get(GUEST_IA32_EFER) & EFER_LMA != 0) != e.entry().ia32e()
    };
    "G3 guest IA32_EFER.LME with paging" => |e| {
        loads_efer(e)
            && e.get(GUEST_CR0) & CR0_PG != 0
            && (e.get(GUEST_IA32_EFER) & EFER_LME != 0) != e.entry().ia32e()
    };
};

const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_VM: u64 = 1 << 17;
/// Bits 63:22, 15, 5 and 3.
const RFLAGS_RESERVED: u64 = 0xffff_ffff_ffc0_8028;
const DEBUGCTL_BTF: u64 = 1 << 1;

const RIP: &[Check] = checks! {
    "G6 guest RIP outside 64-bit mode" => |e| !is_64bit_code(e) && e.get(GUEST_RIP) >> 32 != 0;
    "G6 guest RIP in 64-bit mode" => |e| {
        is_64bit_code(e) && !is_sign_extended(e.get(GUEST_RIP), e.env.linear_bits)
    };
};

const RFLAGS: &[Check] = checks! {
    "G6 reserved bits of guest RFLAGS" => |e| {
        let rflags = e.get(GUEST_RFLAGS);
        rflags & RFLAGS_RESERVED != 0 || rflags & 2 == 0
    };
    "G6 guest RFLAGS.VM" => |e| {
        let is_excluded = e.entry().ia32e() || e.get(GUEST_CR0) & CR0_PE == 0;
        e.get(GUEST_RFLAGS) & RFLAGS_VM != 0 && is_excluded
    };
    "G6 injected external interrupt needs RFLAGS.IF" => |e| {
        e.event().is_external_interrupt() && e.get(GUEST_RFLAGS) & RFLAGS_IF == 0
    };
};

fn is_64bit_code(e: &Entry<'_>) -> bool {
    e.entry().ia32e() && access_rights(e, Segment::Cs).long()
}

fn interruptibility(e: &Entry<'_>) -> Interruptibility {
    Interruptibility(e.get(GUEST_INTERRUPTIBILITY_INFO))
}

fn is_blocked(e: &Entry<'_>) -> bool {
    interruptibility(e).sti() || interruptibility(e).mov_ss()
}

fn activity(e: &Entry<'_>) -> Result<ActivityState, ()> {
    ActivityState::try_from(e.get(GUEST_ACTIVITY_STATE))
}

fn is_in(e: &Entry<'_>, state: ActivityState) -> bool {
    activity(e) == Ok(state)
}

/// Returns whether the injected event can be delivered in the activity state.
fn is_deliverable(e: &Entry<'_>) -> bool {
    let event = e.event();
    let mce = event.is_exception(18);
    match activity(e) {
        Ok(ActivityState::Active) | Err(()) => true,
        Ok(ActivityState::Hlt) => {
            let is_mtf = event.is(IntrType::OtherEvent, 0);
            mce || is_mtf
                || event.is_external_interrupt()
                || event.is_nmi()
                || event.is_exception(1)
        }
        Ok(ActivityState::Shutdown) => mce || event.is_nmi(),
        Ok(ActivityState::WaitForSipi) => false,
    }
}

fn pending_debug(e: &Entry<'_>) -> PendingDebug {
    PendingDebug(e.get(GUEST_PENDING_DBG_EXCEPTIONS))
}

const NON_REGISTER: &[Check] = checks! {
    "G7 guest activity state" => |e| match activity(e) {
        Ok(ActivityState::Active) => false,
        Ok(ActivityState::Hlt) => !e.caps.misc.activity_hlt(),
        Ok(ActivityState::Shutdown) => !e.caps.misc.activity_shutdown(),
        Ok(ActivityState::WaitForSipi) => !e.caps.misc.activity_wait_sipi(),
        Err(()) => true,
    };
    "G7 HLT state needs SS.DPL 0" => |e| {
        is_in(e, ActivityState::Hlt) && access_rights(e, Segment::Ss).dpl() != 0
    };
    "G7 blocking by STI or MOV SS needs the active state" => |e| {
        is_blocked(e) && !is_in(e, ActivityState::Active)
    };
    "G7 injected event fits the activity state" => |e| e.event().valid() && !is_deliverable(e);
    "G8 reserved bits of guest interruptibility" => |e| {
        interruptibility(e).0 & !Interruptibility::DEFINED != 0 || interruptibility(e).enclave()
    };
    "G8 blocking by STI excludes blocking by MOV SS" => |e| {
        interruptibility(e).sti() && interruptibility(e).mov_ss()
    };
    "G8 blocking by STI needs RFLAGS.IF" => |e| {
        interruptibility(e).sti() && e.get(GUEST_RFLAGS) & RFLAGS_IF == 0
    };
    "G8 injected external interrupt is not blocked" => |e| {
        e.event().is_external_interrupt() && is_blocked(e)
    };
    "G8 injected NMI is not blocked by MOV SS" => |e| {
        e.event().is_nmi() && interruptibility(e).mov_ss()
    };
    "G8 blocking by SMI outside SMM" => |e| interruptibility(e).smi();
    "G8 injected virtual NMI is not blocked by NMI" => |e| {
        e.event().is_nmi() && e.pin().virtual_nmis() && interruptibility(e).nmi()
    };
    "G9 reserved bits of pending debug exceptions" => |e| {
        let pending = pending_debug(e);
        pending.0 & !PendingDebug::DEFINED != 0
            || pending.bus_lock()
            || (pending.rtm() && !e.env.has_rtm)
    };
    "G9 pending single step follows RFLAGS.TF" => |e| {
        let tf = e.get(GUEST_RFLAGS) & RFLAGS_TF != 0;
        let btf = e.get(GUEST_IA32_DEBUGCTL) & DEBUGCTL_BTF != 0;
        let is_checked = is_blocked(e) || is_in(e, ActivityState::Hlt);
        is_checked && pending_debug(e).single_step() != (tf && !btf)
    };
    "G9 form of a pending debug exception within RTM" => |e| {
        let pending = pending_debug(e);
        let form = PendingDebug(0).with_rtm(true).with_enabled_breakpoint(true);
        pending.rtm() && (pending != form || interruptibility(e).mov_ss())
    };
};

const NO_LINK: u64 = u64::MAX;

fn link(e: &Entry<'_>) -> Option<u64> {
    Some(e.get(VMCS_LINK_POINTER)).filter(|pointer| *pointer != NO_LINK)
}

const LINK: &[Check] = checks! {
    "G10 link pointer" => |e| link(e).is_some() && !e.is_page(VMCS_LINK_POINTER);
    "G10 link pointer is not the current VMCS" => |e| link(e) == Some(e.env.current_vmcs);
};

const LINKED_REGION: &[Check] = checks! {
    "G10 revision of the linked VMCS" => |e| {
        link(e).is_some() && e.env.link_header.map(|header| header & !(1 << 31)) != Some(REVISION)
    };
    "G10 shadow indicator of the linked VMCS" => |e| {
        let shadow = e.env.link_header.is_some_and(|header| header >> 31 != 0);
        link(e).is_some() && shadow != e.proc2().vmcs_shadowing()
    };
};

/// Returns whether a PDPTE is present and has a reserved bit set: 2:1, 8:5 or beyond the
/// physical-address width.
fn is_bad_pdpte(e: &Entry<'_>, pdpte: u64) -> bool {
    pdpte & 1 != 0 && (pdpte & 0x1e6 != 0 || !e.is_physical(pdpte))
}

/// Returns whether the guest will use PAE paging.
pub(super) fn has_pae_paging(e: &Entry<'_>) -> bool {
    e.get(GUEST_CR0) & CR0_PG != 0 && e.get(GUEST_CR4) & CR4_PAE != 0 && !e.entry().ia32e()
}

const PDPTES: &[Check] = checks! {
    "G11 guest PDPTEs" => |e| {
        let fields = [GUEST_PDPTR0, GUEST_PDPTR1, GUEST_PDPTR2, GUEST_PDPTR3];
        has_pae_paging(e)
            && e.proc2().ept()
            && fields.iter().any(|field| is_bad_pdpte(e, e.get(*field)))
    };
};

const MEMORY_PDPTES: &[Check] = checks! {
    "G11 PDPTEs in memory" => |e| {
        let pdptes = e.env.memory_pdptes.unwrap_or_default();
        has_pae_paging(e)
            && !e.proc2().ept()
            && pdptes.iter().any(|pdpte| is_bad_pdpte(e, *pdpte))
    };
};
