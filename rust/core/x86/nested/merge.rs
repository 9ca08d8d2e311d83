// SPDX-License-Identifier: GPL-2.0

//! The merge: vmcs02, with which L2 runs, from vmcs12, vmcs01 and L0's own needs.
//!
//! [`merge`] writes the fields of the groups it is told to, through [`VmcsAccess`]: a hardware VMCS
//! that skips equal values makes a repeated merge cheap, a table makes it testable. Rules:
//!
//! - A control that makes L2 exit is on if L0 or L1 wants it; one that lets L2 do something is on
//!   only if L1 wants it and L0 allows it.
//! - Nothing of vmcs12 that names a physical address gets into vmcs02: addresses are L0's.
//! - vmcs02 holds no event of a restored state: L0 injects that from its own queues.
//!
//! Host state, MSR lists and what never changes ([`constants`]) are not part of it.

use super::super::vmx::caps::Controls;
use super::super::vmx::ctls::{
    EntryCtls,
    PinCtls,
    Proc2Ctls,
    ProcCtls, //
};
use super::super::vmx::field::*;
pub use super::check::EntryCause;
use super::vmcs12::{
    Groups,
    Vmcs12, //
};
use crate::addr::Hpa;

/// Host addresses of what stands in for the pages that vmcs12 names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pages {
    /// The merged MSR bitmap; without one, every RDMSR and WRMSR exits.
    pub msr_bitmap: Option<Hpa>,
    /// L1's virtual-APIC page; without one, there is no TPR shadow and CR8 exits.
    pub virtual_apic: Option<Hpa>,
    /// The page that stands for L1's APIC-access page.
    pub apic_access: Option<Hpa>,
    /// L1's posted-interrupt descriptor.
    pub posted_intr: Option<Hpa>,
}

/// Values that L2 takes over from L1 where vmcs12 does not load its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct L1Values {
    /// IA32_EFER.
    pub efer: u64,
    /// IA32_PAT.
    pub pat: u64,
    /// DR7.
    pub dr7: u64,
    /// IA32_DEBUGCTL.
    pub debugctl: u64,
    /// IA32_BNDCFGS.
    pub bndcfgs: u64,
    /// IA32_S_CET.
    pub s_cet: u64,
    /// SSP.
    pub ssp: u64,
    /// IA32_INTERRUPT_SSP_TABLE_ADDR.
    pub ssp_table: u64,
}

/// What L0 puts into the merge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L0 {
    /// The controls of vmcs01.
    pub controls: Controls,
    /// Exceptions that L0 must see, whoever runs.
    pub exception_bitmap: u32,
    /// CR0 bits that L0 lets a guest own.
    pub cr0_guest_owned: u64,
    /// CR4 bits that L0 lets a guest own.
    pub cr4_guest_owned: u64,
    /// CR0 bits that are 1 in hardware whatever L2 has (NE).
    pub cr0_forced: u64,
    /// CR4 bits that are 1 in hardware whatever L2 has (VMXE, the host's MCE).
    pub cr4_forced: u64,
    /// CR4 bits that are 0 in hardware whatever L2 has (UMIP where L0 emulates it).
    pub cr4_hidden: u64,
    /// IA32_DEBUGCTL bits that L2 may have; the others are dropped.
    pub debugctl_allowed: u64,
    /// IA32_DEBUGCTL bits that are the host's and stay on.
    pub debugctl_forced: u64,
    /// L2 has UMIP without the processor having it: descriptor-table instructions must exit.
    pub emulates_umip: bool,
    /// TSC offset of vmcs01.
    pub tsc_offset: u64,
    /// TSC multiplier of vmcs01, [`TSC_RATIO_1`] if it has none.
    pub tsc_multiplier: u64,
    /// EPTP of vmcs02: the shadow of L1's EPT, or L0's own.
    pub eptp: u64,
    /// VPID of vmcs02.
    pub vpid: u16,
    /// PDPTEs that guest CR3 points at, if L1 uses no EPT and L2 has PAE paging.
    pub pdptes: [u64; 4],
    /// Vector that notifies of posted interrupts of L2.
    pub posted_intr_vector: u16,
    /// Pages.
    pub pages: Pages,
    /// L1's values.
    pub l1: L1Values,
}

/// TSC multiplier 1, with 48 fractional bits.
pub const TSC_RATIO_1: u64 = 1 << 48;

const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;

/// Returns the pin-based controls of vmcs12.
pub fn pin12(v: &Vmcs12) -> PinCtls {
    PinCtls(v.read(PIN_BASED_VM_EXEC_CONTROL))
}

/// Returns the primary controls of vmcs12.
pub fn proc12(v: &Vmcs12) -> ProcCtls {
    ProcCtls(v.read(CPU_BASED_VM_EXEC_CONTROL))
}

/// Returns the secondary controls of vmcs12; all 0 unless activated.
pub fn proc2_12(v: &Vmcs12) -> Proc2Ctls {
    if proc12(v).secondary() {
        Proc2Ctls(v.read(SECONDARY_VM_EXEC_CONTROL))
    } else {
        Proc2Ctls(0)
    }
}

fn entry12(v: &Vmcs12) -> EntryCtls {
    EntryCtls(v.read(VM_ENTRY_CONTROLS))
}

/// Returns whether an entry needs L1's virtual-APIC page: there is a TPR shadow, and turning it off
/// would let L2's CR8 through to the host's TPR or change what L1 sees. Where it is needed and no
/// memory is there, the entry fails with error 7.
pub fn needs_virtual_apic(v: &Vmcs12) -> bool {
    let proc = proc12(v);
    let proc2 = proc2_12(v);
    proc.tpr_shadow()
        && (!proc.cr8_load_exiting()
            || !proc.cr8_store_exiting()
            || proc2.virtualize_apic()
            || proc2.virtualize_x2apic()
            || proc2.apic_register_virt()
            || proc2.virtual_intr_delivery())
}

/// Returns IA32_EFER of L2 after the entry. SDM 3C "Loading Guest Control Registers, Debug Registers,
/// and MSRs", 27.3.2.1.
pub fn l2_efer(v: &Vmcs12, l1_efer: u64) -> u64 {
    let entry = entry12(v);
    if entry.load_efer() {
        v.read(GUEST_IA32_EFER)
    } else if entry.ia32e() {
        l1_efer | EFER_LMA | EFER_LME
    } else if v.read(GUEST_CR0) & CR0_PG != 0 {
        l1_efer & !(EFER_LMA | EFER_LME)
    } else {
        l1_efer & !EFER_LMA
    }
}

/// Computes the controls of vmcs02.
pub fn controls(v: &Vmcs12, l0: &L0) -> Controls {
    let has_tpr_shadow = proc12(v).tpr_shadow() && l0.pages.virtual_apic.is_some();
    let proc2 = proc2(v, l0, has_tpr_shadow);
    let pin01 = l0.controls.pin;
    let is_posted =
        pin12(v).posted_intr() && proc2.virtual_intr_delivery() && l0.pages.posted_intr.is_some();
    let entry01 = l0.controls.entry;
    Controls {
        pin: pin01
            .union(pin12(v))
            .with_preemption_timer(pin01.preemption_timer())
            .with_posted_intr(is_posted),
        proc: proc(v, l0, has_tpr_shadow),
        proc2,
        exit: l0.controls.exit,
        entry: entry01
            .union(entry12(v))
            .with_load_perf_global(entry01.load_perf_global())
            .with_load_efer(entry01.load_efer())
            .with_ia32e(l2_efer(v, l0.l1.efer) & EFER_LMA != 0),
    }
}

fn proc(v: &Vmcs12, l0: &L0, has_tpr_shadow: bool) -> ProcCtls {
    let merged = l0
        .controls
        .proc
        .with_intr_window(false)
        .with_nmi_window(false)
        .union(proc12(v))
        .with_tpr_shadow(has_tpr_shadow)
        .with_uncond_io_exiting(true)
        .with_io_bitmaps(false)
        .with_msr_bitmaps(l0.pages.msr_bitmap.is_some())
        .with_secondary(true);
    if has_tpr_shadow {
        // L0's CR8 exits stand in for its own lack of a shadow; L2 has one.
        merged
            .with_cr8_load_exiting(proc12(v).cr8_load_exiting())
            .with_cr8_store_exiting(proc12(v).cr8_store_exiting())
    } else {
        // Without a shadow, L2 would get at the host's TPR.
        merged
            .with_cr8_load_exiting(true)
            .with_cr8_store_exiting(true)
    }
}

fn proc2(v: &Vmcs12, l0: &L0, has_tpr_shadow: bool) -> Proc2Ctls {
    let l1 = proc2_12(v);
    let has_bitmap = l0.pages.msr_bitmap.is_some();
    let l0_only = l0
        .controls
        .proc2
        .with_virtualize_apic(false)
        .with_virtualize_x2apic(false)
        .with_apic_register_virt(false)
        .with_virtual_intr_delivery(false)
        .with_invpcid(false)
        .with_rdtscp(false)
        .with_xsaves(false)
        .with_user_wait_pause(false)
        .with_vmfunc(false)
        .with_mode_based_exec(false)
        .with_desc_exiting(false)
        .with_unrestricted_guest(false)
        .with_pause_loop_exiting(false);
    l0_only
        .union(l1)
        .with_pml(false)
        .with_vmcs_shadowing(false)
        .with_ept(true)
        .with_vpid(l0.controls.proc2.vpid())
        .with_desc_exiting(l1.desc_exiting() || l0.emulates_umip)
        .with_virtualize_apic(l1.virtualize_apic() && l0.pages.apic_access.is_some())
        .with_virtualize_x2apic(l1.virtualize_x2apic() && has_tpr_shadow && has_bitmap)
        .with_apic_register_virt(l1.apic_register_virt() && has_tpr_shadow)
        .with_virtual_intr_delivery(l1.virtual_intr_delivery() && has_tpr_shadow)
}

/// Merges TSC offsets and multipliers; returns those of vmcs02. L2 reads
/// `((tsc * m01 >> 48) + o01) * m12 >> 48) + o12`.
pub fn tsc(v: &Vmcs12, offset01: u64, multiplier01: u64) -> (u64, u64) {
    let offset12 = if proc12(v).tsc_offsetting() {
        v.read(TSC_OFFSET)
    } else {
        0
    };
    if !proc2_12(v).tsc_scaling() {
        return (offset01.wrapping_add(offset12), multiplier01);
    }
    let multiplier12 = v.read(TSC_MULTIPLIER);
    let scaled = scale_signed(offset01, multiplier12);
    let product = u128::from(multiplier01).wrapping_mul(u128::from(multiplier12)) >> 48;
    (scaled.wrapping_add(offset12), low_64(product))
}

/// Multiplies the signed number `offset` by a multiplier.
fn scale_signed(offset: u64, multiplier: u64) -> u64 {
    let is_negative = offset >> 63 != 0;
    let magnitude = if is_negative {
        offset.wrapping_neg()
    } else {
        offset
    };
    let scaled = low_64(u128::from(magnitude).wrapping_mul(u128::from(multiplier)) >> 48);
    if is_negative {
        scaled.wrapping_neg()
    } else {
        scaled
    }
}

#[allow(clippy::cast_possible_truncation, reason = "wraps like the TSC itself")]
const fn low_64(value: u128) -> u64 {
    value as u64
}

/// Writes what is the same in every vmcs02 for as long as it lives. `hw` are controls that the
/// processor allows, as a VMCS has no field for a feature that it lacks.
pub fn constants(vmcs02: &mut impl VmcsAccess, hw: Proc2Ctls) {
    vmcs02.write(VMCS_LINK_POINTER, u64::MAX);
    vmcs02.write(CR3_TARGET_COUNT, 0);
    if hw.vmfunc() {
        // VMFUNC is enabled where L1 enables it, but no function is: each exits.
        vmcs02.write(VM_FUNCTION_CONTROL, 0);
    }
}

/// Writes the fields of vmcs02 that depend on the groups `what`: those that are dirty in vmcs12,
/// and those that something of `l0` concerns; all for a vmcs02 that is new.
///
/// vmcs12 must be up to date: values that only vmcs02 has are brought
/// back before L1 may write to their group.
pub fn merge(v: &Vmcs12, l0: &L0, cause: EntryCause, what: Groups, vmcs02: &mut impl VmcsAccess) {
    let is_due = |groups: Groups| what.intersects(groups);
    let control_groups = Groups::CONTROLS.union(Groups::WINDOWS).union(Groups::APIC);
    if is_due(control_groups.union(Groups::CRS).union(Groups::BITMAPS)) {
        write_controls(v, l0, vmcs02);
    }
    if is_due(Groups::CONTROLS.union(Groups::EXCEPTIONS)) {
        write_exceptions(v, l0, vmcs02);
    }
    if is_due(Groups::CONTROLS) {
        vmcs02.write(VIRTUAL_PROCESSOR_ID, l0.vpid);
    }
    if is_due(Groups::CONTROLS.union(Groups::APIC)) {
        write_apic(v, l0, vmcs02);
    }
    if is_due(Groups::CONTROLS.union(Groups::EPTP)) {
        vmcs02.write(EPT_POINTER, l0.eptp);
    }
    if is_due(Groups::CONTROLS.union(Groups::TSC)) {
        let (offset, multiplier) = tsc(v, l0.tsc_offset, l0.tsc_multiplier);
        vmcs02.write(TSC_OFFSET, offset);
        if controls(v, l0).proc2.tsc_scaling() {
            vmcs02.write(TSC_MULTIPLIER, multiplier);
        }
    }
    if is_due(Groups::CONTROLS.union(Groups::CRS)) {
        write_crs(v, l0, vmcs02);
    }
    if is_due(Groups::CONTROLS.union(Groups::MSRS)) {
        write_msrs(v, l0, vmcs02);
    }
    if is_due(Groups::SEGMENTS) {
        copy(v, vmcs02, SEGMENTS_16);
        copy(v, vmcs02, SEGMENTS_32);
        copy(v, vmcs02, SEGMENTS_NATURAL);
    }
    if is_due(Groups::RIP) {
        copy(v, vmcs02, &[GUEST_RIP, GUEST_RSP]);
    }
    if is_due(Groups::RUN) {
        copy(v, vmcs02, &[GUEST_RFLAGS, GUEST_PENDING_DBG_EXCEPTIONS]);
        // HLT and wait-for-SIPI are emulated: the processor is never entered in them.
        vmcs02.write(GUEST_ACTIVITY_STATE, 0);
    }
    write_event(v, cause, what, vmcs02);
}

fn write_controls(v: &Vmcs12, l0: &L0, vmcs02: &mut impl VmcsAccess) {
    let c = controls(v, l0);
    vmcs02.write(PIN_BASED_VM_EXEC_CONTROL, c.pin.0);
    vmcs02.write(CPU_BASED_VM_EXEC_CONTROL, c.proc.0);
    vmcs02.write(SECONDARY_VM_EXEC_CONTROL, c.proc2.0);
    vmcs02.write(VM_EXIT_CONTROLS, c.exit.0);
    vmcs02.write(VM_ENTRY_CONTROLS, c.entry.0);
    if let Some(page) = l0.pages.msr_bitmap {
        vmcs02.write(MSR_BITMAP, page.0);
    }
    if c.proc2.xsaves() {
        vmcs02.write(XSS_EXIT_BITMAP, v.read(XSS_EXIT_BITMAP));
    }
}

fn write_exceptions(v: &Vmcs12, l0: &L0, vmcs02: &mut impl VmcsAccess) {
    const PAGE_FAULT: u32 = 1 << 14;
    vmcs02.write(
        EXCEPTION_BITMAP,
        l0.exception_bitmap | v.read(EXCEPTION_BITMAP),
    );
    let l0_needs_all = l0.exception_bitmap & PAGE_FAULT != 0;
    let (mask, matched) = if l0_needs_all {
        (0, 0)
    } else {
        (
            v.read(PAGE_FAULT_ERROR_CODE_MASK),
            v.read(PAGE_FAULT_ERROR_CODE_MATCH),
        )
    };
    vmcs02.write(PAGE_FAULT_ERROR_CODE_MASK, mask);
    vmcs02.write(PAGE_FAULT_ERROR_CODE_MATCH, matched);
}

fn write_apic(v: &Vmcs12, l0: &L0, vmcs02: &mut impl VmcsAccess) {
    let c = controls(v, l0);
    if let (true, Some(page)) = (c.proc.tpr_shadow(), l0.pages.virtual_apic) {
        vmcs02.write(VIRTUAL_APIC_PAGE_ADDR, page.0);
        vmcs02.write(TPR_THRESHOLD, v.read(TPR_THRESHOLD));
    }
    if let (true, Some(page)) = (c.proc2.virtualize_apic(), l0.pages.apic_access) {
        vmcs02.write(APIC_ACCESS_ADDR, page.0);
    }
    if c.proc2.virtual_intr_delivery() {
        copy(v, vmcs02, &[GUEST_INTR_STATUS]);
        copy(
            v,
            vmcs02,
            &[
                EOI_EXIT_BITMAP0,
                EOI_EXIT_BITMAP1,
                EOI_EXIT_BITMAP2,
                EOI_EXIT_BITMAP3,
            ],
        );
    }
    if let (true, Some(page)) = (c.pin.posted_intr(), l0.pages.posted_intr) {
        vmcs02.write(POSTED_INTR_DESC_ADDR, page.0);
        vmcs02.write(POSTED_INTR_NV, l0.posted_intr_vector);
    }
}

/// What L2 reads from a control register: its own bits, and L1's shadow for those that L1 masks.
const fn visible(guest: u64, mask12: u64, shadow12: u64) -> u64 {
    (guest & !mask12) | (shadow12 & mask12)
}

fn write_crs(v: &Vmcs12, l0: &L0, vmcs02: &mut impl VmcsAccess) {
    let (cr0, cr4) = (v.read(GUEST_CR0), v.read(GUEST_CR4));
    let (mask0, mask4) = (v.read(CR0_GUEST_HOST_MASK), v.read(CR4_GUEST_HOST_MASK));
    vmcs02.write(CR0_GUEST_HOST_MASK, !(l0.cr0_guest_owned & !mask0));
    vmcs02.write(CR4_GUEST_HOST_MASK, !(l0.cr4_guest_owned & !mask4));
    vmcs02.write(
        CR0_READ_SHADOW,
        visible(cr0, mask0, v.read(CR0_READ_SHADOW)),
    );
    vmcs02.write(
        CR4_READ_SHADOW,
        visible(cr4, mask4, v.read(CR4_READ_SHADOW)),
    );
    vmcs02.write(GUEST_CR0, cr0 | l0.cr0_forced);
    vmcs02.write(GUEST_CR4, (cr4 & !l0.cr4_hidden) | l0.cr4_forced);
    vmcs02.write(GUEST_CR3, v.read(GUEST_CR3));
    let has_pae = cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && !entry12(v).ia32e();
    if has_pae {
        let from_vmcs12 = proc2_12(v).ept();
        for (field, loaded) in PDPTES.iter().zip(l0.pdptes) {
            vmcs02.write(*field, if from_vmcs12 { v.read(*field) } else { loaded });
        }
    }
    vmcs02.write(GUEST_IA32_EFER, l2_efer(v, l0.l1.efer));
}

/// What L2 has in registers that an exit may leave alone and an entry loads, from vmcs12 or from L1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// IA32_EFER.
    pub efer: u64,
    /// DR7.
    pub dr7: u64,
    /// IA32_DEBUGCTL.
    pub debugctl: u64,
    /// IA32_PAT.
    pub pat: u64,
}

/// Returns what an entry loads.
pub fn loaded(v: &Vmcs12, l0: &L0) -> Loaded {
    let (l1, loads) = (&l0.l1, entry12(v));
    let (dr7, debugctl) = if loads.load_debug() {
        (v.read(GUEST_DR7), v.read(GUEST_IA32_DEBUGCTL))
    } else {
        (l1.dr7, l1.debugctl)
    };
    Loaded {
        efer: l2_efer(v, l1.efer),
        dr7,
        debugctl: (debugctl & l0.debugctl_allowed) | l0.debugctl_forced,
        pat: if loads.load_pat() {
            v.read(GUEST_IA32_PAT)
        } else {
            l1.pat
        },
    }
}

/// Returns the groups that the next entry must merge though L1 does not change them: L2 has left other
/// values in vmcs02 (`left`) than an entry loads, as its exit has not saved them. vmcs12 has what was saved.
pub fn overwritten(v: &Vmcs12, l0: &L0, left: &Loaded) -> Groups {
    let due = loaded(v, l0);
    let is_msr = due.dr7 != left.dr7 || due.debugctl != left.debugctl || due.pat != left.pat;
    let msrs = if is_msr { Groups::MSRS } else { Groups::NONE };
    let crs = if due.efer == left.efer {
        Groups::NONE
    } else {
        Groups::CRS
    };
    msrs.union(crs)
}

fn write_msrs(v: &Vmcs12, l0: &L0, vmcs02: &mut impl VmcsAccess) {
    let (l1, loads, loads02) = (&l0.l1, entry12(v), controls(v, l0).entry);
    copy(v, vmcs02, &[GUEST_SYSENTER_CS]);
    copy(v, vmcs02, &[GUEST_SYSENTER_ESP, GUEST_SYSENTER_EIP]);
    let loaded = loaded(v, l0);
    vmcs02.write(GUEST_DR7, loaded.dr7);
    vmcs02.write(GUEST_IA32_DEBUGCTL, loaded.debugctl);
    if loads02.load_pat() {
        vmcs02.write(GUEST_IA32_PAT, loaded.pat);
    }
    if loads02.load_bndcfgs() {
        let own = v.read(GUEST_BNDCFGS);
        vmcs02.write(
            GUEST_BNDCFGS,
            if loads.load_bndcfgs() {
                own
            } else {
                l1.bndcfgs
            },
        );
    }
    if loads02.load_cet() {
        let (s_cet, ssp, table) = if loads.load_cet() {
            (
                v.read(GUEST_S_CET),
                v.read(GUEST_SSP),
                v.read(GUEST_INTR_SSP_TABLE),
            )
        } else {
            (l1.s_cet, l1.ssp, l1.ssp_table)
        };
        vmcs02.write(GUEST_S_CET, s_cet);
        vmcs02.write(GUEST_SSP, ssp);
        vmcs02.write(GUEST_INTR_SSP_TABLE, table);
    }
}

fn write_event(v: &Vmcs12, cause: EntryCause, what: Groups, vmcs02: &mut impl VmcsAccess) {
    match cause {
        EntryCause::Fresh => {
            // Always: the processor cleared the valid bit, and L0 may have injected for itself.
            let info = v.read(VM_ENTRY_INTR_INFO_FIELD);
            vmcs02.write(VM_ENTRY_INTR_INFO_FIELD, info);
            if info >> 31 != 0 {
                copy(
                    v,
                    vmcs02,
                    &[VM_ENTRY_EXCEPTION_ERROR_CODE, VM_ENTRY_INSTRUCTION_LEN],
                );
            }
            if what.intersects(Groups::RUN) {
                copy(v, vmcs02, &[GUEST_INTERRUPTIBILITY_INFO]);
            }
        }
        EntryCause::Restore => {
            vmcs02.write(VM_ENTRY_INTR_INFO_FIELD, 0);
            vmcs02.write(GUEST_INTERRUPTIBILITY_INFO, 0);
        }
    }
}

pub(super) fn copy<W: Width>(
    from: &impl VmcsAccess,
    to: &mut impl VmcsAccess,
    fields: &[Field<W>],
) {
    for field in fields {
        to.write(*field, from.read(*field));
    }
}

/// The PDPTE fields.
pub(super) const PDPTES: [Field<u64>; 4] = [GUEST_PDPTR0, GUEST_PDPTR1, GUEST_PDPTR2, GUEST_PDPTR3];

/// Selectors of the guest.
pub(super) const SEGMENTS_16: &[Field<u16>] = &[
    GUEST_ES_SELECTOR,
    GUEST_CS_SELECTOR,
    GUEST_SS_SELECTOR,
    GUEST_DS_SELECTOR,
    GUEST_FS_SELECTOR,
    GUEST_GS_SELECTOR,
    GUEST_LDTR_SELECTOR,
    GUEST_TR_SELECTOR,
];

/// Limits and access rights of the guest.
pub(super) const SEGMENTS_32: &[Field<u32>] = &[
    GUEST_ES_LIMIT,
    GUEST_CS_LIMIT,
    GUEST_SS_LIMIT,
    GUEST_DS_LIMIT,
    GUEST_FS_LIMIT,
    GUEST_GS_LIMIT,
    GUEST_LDTR_LIMIT,
    GUEST_TR_LIMIT,
    GUEST_GDTR_LIMIT,
    GUEST_IDTR_LIMIT,
    GUEST_ES_AR_BYTES,
    GUEST_CS_AR_BYTES,
    GUEST_SS_AR_BYTES,
    GUEST_DS_AR_BYTES,
    GUEST_FS_AR_BYTES,
    GUEST_GS_AR_BYTES,
    GUEST_LDTR_AR_BYTES,
    GUEST_TR_AR_BYTES,
];

/// Bases of the guest.
pub(super) const SEGMENTS_NATURAL: &[Field<Natural>] = &[
    GUEST_ES_BASE,
    GUEST_CS_BASE,
    GUEST_SS_BASE,
    GUEST_DS_BASE,
    GUEST_FS_BASE,
    GUEST_GS_BASE,
    GUEST_LDTR_BASE,
    GUEST_TR_BASE,
    GUEST_GDTR_BASE,
    GUEST_IDTR_BASE,
];

#[cfg(test)]
pub(super) mod tests;
