// SPDX-License-Identifier: GPL-2.0

//! The way back: from vmcs02 to vmcs12 at a VM exit to L1, and from vmcs12's host state to vmcs01.
//!
//! Three steps, in this order: [`eager`] saves what L1 looks at after most exits, [`record_exit`]
//! fills in the exit information, [`load_host_state`] makes vmcs01 continue at HOST_RIP. What L1
//! rarely looks at stays in vmcs02 until [`lazy`] fetches it: before L1 reads or writes a field for
//! which [`is_lazy`] holds, before another VMCS becomes current, and before the state is saved.

use super::super::vmx::ctls::{
    ActivityState,
    EntryCtls,
    ExitCtls,
    Interruptibility,
    PinCtls, //
};
use super::super::vmx::exit::{
    CrAccess,
    CrAccessType,
    ExitReason,
    ExitReasonWord, //
};
use super::super::vmx::field::*;
use super::merge::{
    proc2_12,
    PDPTES,
    SEGMENTS_16,
    SEGMENTS_32,
    SEGMENTS_NATURAL, //
};
use super::vmcs12::{
    Groups,
    Vmcs12, //
};

const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;

/// State of L2 that vmcs02 does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct L2Values {
    /// Activity state, which L0 emulates.
    pub activity: ActivityState,
    /// IA32_EFER.
    pub efer: u64,
    /// DR7 as L2 sees it.
    pub dr7: u64,
    /// IA32_DEBUGCTL as L2 sees it.
    pub debugctl: u64,
    /// Ticks left of L1's preemption timer; 0 if it has expired.
    pub preemption_timer: u32,
}

/// Saves the guest state that most exits need. SDM 3C "Saving Guest State", 28.3.
pub fn eager(v: &mut Vmcs12, vmcs02: &impl VmcsAccess, l2: &L2Values) {
    save_control_registers(v, vmcs02, l2);
    fetch(v, vmcs02, &[GUEST_RIP, GUEST_RSP, GUEST_RFLAGS]);
    fetch(
        v,
        vmcs02,
        &[
            GUEST_CS_AR_BYTES,
            GUEST_SS_AR_BYTES,
            GUEST_INTERRUPTIBILITY_INFO,
        ],
    );
    fetch(v, vmcs02, &[GUEST_PENDING_DBG_EXCEPTIONS]);
    v.put_synced(GUEST_ACTIVITY_STATE, l2.activity as u32);
    if proc2_12(v).virtual_intr_delivery() {
        fetch(v, vmcs02, &[GUEST_INTR_STATUS]);
    }
    let entry = EntryCtls(v.read(VM_ENTRY_CONTROLS)).with_ia32e(l2.efer & EFER_LMA != 0);
    v.put_synced(VM_ENTRY_CONTROLS, entry.0);
    let exit = ExitCtls(v.read(VM_EXIT_CONTROLS));
    if exit.save_debug() {
        v.put_synced(GUEST_DR7, l2.dr7);
        v.put_synced(GUEST_IA32_DEBUGCTL, l2.debugctl);
    }
    if exit.save_efer() {
        v.put_synced(GUEST_IA32_EFER, l2.efer);
    }
    if exit.save_preemption_timer() && PinCtls(v.read(PIN_BASED_VM_EXEC_CONTROL)).preemption_timer()
    {
        v.put_synced(VMX_PREEMPTION_TIMER_VALUE, l2.preemption_timer);
    }
    if entry.load_cet() {
        fetch(v, vmcs02, &[GUEST_S_CET, GUEST_SSP, GUEST_INTR_SSP_TABLE]);
    }
}

/// Returns a control register as L2 has it: bits that it owns are in hardware, bits that L1 masks
/// have not changed, and the others are in the shadow, where L0 has kept them.
const fn recombine(hw: u64, shadow02: u64, mask02: u64, old12: u64, mask12: u64) -> u64 {
    (hw & !mask02) | (old12 & mask12) | (shadow02 & mask02 & !mask12)
}

fn save_control_registers(v: &mut Vmcs12, vmcs02: &impl VmcsAccess, l2: &L2Values) {
    let cr0 = recombine(
        vmcs02.read(GUEST_CR0),
        vmcs02.read(CR0_READ_SHADOW),
        vmcs02.read(CR0_GUEST_HOST_MASK),
        v.read(GUEST_CR0),
        v.read(CR0_GUEST_HOST_MASK),
    );
    let cr4 = recombine(
        vmcs02.read(GUEST_CR4),
        vmcs02.read(CR4_READ_SHADOW),
        vmcs02.read(CR4_GUEST_HOST_MASK),
        v.read(GUEST_CR4),
        v.read(CR4_GUEST_HOST_MASK),
    );
    v.put_synced(GUEST_CR0, cr0);
    v.put_synced(GUEST_CR4, cr4);
    fetch(v, vmcs02, &[GUEST_CR3]);
    let has_pae = cr0 & CR0_PG != 0 && cr4 & CR4_PAE != 0 && l2.efer & EFER_LMA == 0;
    if has_pae && proc2_12(v).ept() {
        fetch(v, vmcs02, &PDPTES);
    }
}

#[inline(always)]
fn fetch<W: Width>(v: &mut Vmcs12, vmcs02: &impl VmcsAccess, fields: &[Field<W>]) {
    for field in fields {
        v.put_synced(*field, vmcs02.read(*field));
    }
}

/// Groups whose checks and merge look at fields for which [`is_lazy`] holds: where one of them is dirty,
/// [`lazy`] comes first.
pub const NEEDS_LAZY: Groups = Groups::SEGMENTS.union(Groups::CONTROLS).union(Groups::CRS);

/// Returns whether the newest value of a field may be in vmcs02 only: the guest's segments and
/// descriptor tables, but for the access rights of CS and SS.
#[inline]
pub const fn is_lazy(encoding: Encoding) -> bool {
    let first16 = GUEST_ES_SELECTOR.encoding().0;
    let last16 = GUEST_TR_SELECTOR.encoding().0;
    let first32 = GUEST_ES_LIMIT.encoding().0;
    let last32 = GUEST_TR_AR_BYTES.encoding().0;
    let first_base = GUEST_ES_BASE.encoding().0;
    let last_base = GUEST_IDTR_BASE.encoding().0;
    let at = encoding.0;
    let is_segment = first16 <= at && at <= last16
        || first32 <= at && at <= last32
        || first_base <= at && at <= last_base;
    is_segment && at != GUEST_CS_AR_BYTES.encoding().0 && at != GUEST_SS_AR_BYTES.encoding().0
}

/// Fetches the rest of the guest state from the vmcs02 that L2 last ran with.
pub fn lazy(v: &mut Vmcs12, vmcs02: &impl VmcsAccess) {
    fetch(v, vmcs02, SEGMENTS_16);
    fetch(v, vmcs02, SEGMENTS_32);
    fetch(v, vmcs02, SEGMENTS_NATURAL);
}

/// What vmcs12 records of a VM exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExitInfo {
    /// Exit reason.
    pub reason: ExitReasonWord,
    /// Exit qualification.
    pub qualification: u64,
    /// VM-exit interruption information.
    pub intr_info: u32,
    /// VM-exit interruption error code, if the information has one.
    pub intr_error_code: u32,
    /// IDT-vectoring information: the event that was being delivered; 0 for a double or triple
    /// fault.
    pub idt_vectoring: u32,
    /// IDT-vectoring error code, if the information has one.
    pub idt_error_code: u32,
    /// Instruction length in bytes.
    pub instruction_len: u32,
    /// Instruction information.
    pub instruction_info: u32,
    /// Guest-linear address, for exits that define it.
    pub linear_address: Option<u64>,
    /// Guest-physical address, for exits that define it.
    pub physical_address: Option<u64>,
}

const VALID: u32 = 1 << 31;
const HAS_ERROR_CODE: u32 = 1 << 11;
const TYPE_MASK: u32 = 7 << 8;
const TYPE_NMI: u32 = 2 << 8;

/// Records a VM exit in vmcs12; for a failed VM entry, reason and qualification alone. SDM 3C
/// "Recording VM-Exit Information and Updating VM-entry Control Fields", 28.2; "VM-Entry Failures
/// During or After Loading Guest State", 27.8.
pub fn record_exit(v: &mut Vmcs12, info: &ExitInfo) {
    v.put_synced(VM_EXIT_REASON, info.reason.0);
    v.put_synced(EXIT_QUALIFICATION, info.qualification);
    if info.reason.entry_failure() {
        return;
    }
    v.launch_state = super::vmcs12::LaunchState::Launched;
    v.put_synced(VM_EXIT_INTR_INFO, info.intr_info);
    if info.intr_info & (VALID | HAS_ERROR_CODE) == VALID | HAS_ERROR_CODE {
        v.put_synced(VM_EXIT_INTR_ERROR_CODE, info.intr_error_code);
    }
    v.put_synced(IDT_VECTORING_INFO_FIELD, info.idt_vectoring);
    if info.idt_vectoring & (VALID | HAS_ERROR_CODE) == VALID | HAS_ERROR_CODE {
        v.put_synced(IDT_VECTORING_ERROR_CODE, info.idt_error_code);
    }
    v.put_synced(VM_EXIT_INSTRUCTION_LEN, info.instruction_len);
    v.put_synced(VMX_INSTRUCTION_INFO, info.instruction_info);
    if let Some(address) = info.linear_address {
        v.put_synced(GUEST_LINEAR_ADDRESS, address);
    }
    if let Some(address) = info.physical_address {
        v.put_synced(GUEST_PHYSICAL_ADDRESS, address);
    }
    if info.idt_vectoring & (VALID | TYPE_MASK) == VALID | TYPE_NMI {
        // Its delivery has begun, and that blocks further ones; vmcs02 has it unblocked, to inject it.
        let state = Interruptibility(v.read(GUEST_INTERRUPTIBILITY_INFO)).with_nmi(true);
        v.put_synced(GUEST_INTERRUPTIBILITY_INFO, state.0);
        v.mark_dirty(Groups::RUN);
    }
    // The event has been injected.
    let event = v.read(VM_ENTRY_INTR_INFO_FIELD) & !VALID;
    v.put_synced(VM_ENTRY_INTR_INFO_FIELD, event);
}

/// Returns whether an exit of L2 defines the guest-linear address: those of L2's that have one and
/// those that find it anyway. SDM 3C "Information for VM Exits That Occur During Event Delivery" and
/// "Basic VM-Exit Information", 28.2.1: of control-register accesses, LMSW with a memory operand.
pub fn has_linear_address(word: ExitReasonWord, qualification: u64) -> bool {
    match ExitReason::try_from(word) {
        Ok(
            ExitReason::EptViolation
            | ExitReason::IoInstruction
            | ExitReason::ApicAccess
            | ExitReason::PmlFull
            | ExitReason::Invlpg,
        ) => true,
        Ok(ExitReason::CrAccess) => {
            let access = CrAccess(qualification);
            access.access() == CrAccessType::Lmsw && access.lmsw_memory()
        }
        _ => false,
    }
}

/// Control registers and MSRs of L1 after a VM exit, which are more than a VMCS field to L0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostState {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// L1 uses PAE paging: its PDPTEs are loaded from where CR3 points; if one of them is bad, that
    /// is a VMX abort.
    pub has_pae_paging: bool,
    /// IA32_PAT, if it is loaded.
    pub pat: Option<u64>,
    /// IA32_PERF_GLOBAL_CTRL, if it is loaded.
    pub perf_global_ctrl: Option<u64>,
    /// IA32_BNDCFGS becomes 0.
    pub clears_bndcfgs: bool,
    /// IA32_S_CET, SSP and IA32_INTERRUPT_SSP_TABLE_ADDR, if they are loaded.
    pub cet: Option<[u64; 3]>,
}

/// CR0 bits that an exit leaves alone: CD, NW, 28:19, 17, 15:6 and ET.
const CR0_KEPT: u64 = 0x7ffa_ffd0;

/// Computes L1's control registers and MSRs after a VM exit. `cr0` and `efer` are L2's. SDM 3C
/// "Loading Host Control Registers, Debug Registers, MSRs", 28.5.1.
pub fn host_state(v: &Vmcs12, cr0: u64, efer: u64) -> HostState {
    let exit = ExitCtls(v.read(VM_EXIT_CONTROLS));
    let is_64bit = exit.host_64bit();
    let cr4 = v.read(HOST_CR4);
    let cr4 = if is_64bit {
        cr4 | CR4_PAE
    } else {
        cr4 & !CR4_PCIDE
    };
    let long = EFER_LMA | EFER_LME;
    let efer = if exit.load_efer() {
        v.read(HOST_IA32_EFER)
    } else if is_64bit {
        efer | long
    } else {
        efer & !long
    };
    HostState {
        cr0: (v.read(HOST_CR0) & !CR0_KEPT) | (cr0 & CR0_KEPT),
        cr3: v.read(HOST_CR3),
        cr4,
        efer,
        has_pae_paging: !is_64bit && cr4 & CR4_PAE != 0,
        pat: exit.load_pat().then(|| v.read(HOST_IA32_PAT)),
        perf_global_ctrl: exit
            .load_perf_global()
            .then(|| v.read(HOST_IA32_PERF_GLOBAL_CTRL)),
        clears_bndcfgs: exit.clear_bndcfgs(),
        cet: exit.load_cet().then(|| {
            [
                v.read(HOST_S_CET),
                v.read(HOST_SSP),
                v.read(HOST_INTR_SSP_TABLE),
            ]
        }),
    }
}

/// Whether NMIs are blocked after the exit: they are if an NMI caused it, or were in L2 without
/// virtual NMIs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NmiBlocking {
    /// NMIs can come.
    Open,
    /// NMIs are blocked until IRET.
    Blocked,
}

/// Writes to vmcs01 what a VM exit loads besides [`HostState`]: segments, descriptor tables, RIP,
/// RSP, RFLAGS, SYSENTER MSRs and debug state. SDM 3C "Loading Host Segment and Descriptor-Table
/// Registers", 28.5.2; "Loading Host RIP, RSP, SSP, and RFLAGS", 28.5.3; "Updating Non-Register
/// State", 28.5.5.
#[inline]
pub fn load_host_state(v: &Vmcs12, nmi: NmiBlocking, vmcs01: &mut impl VmcsAccess) {
    load_segments(v, vmcs01);
    vmcs01.write(GUEST_GDTR_BASE, v.read(HOST_GDTR_BASE));
    vmcs01.write(GUEST_GDTR_LIMIT, 0xffff);
    vmcs01.write(GUEST_IDTR_BASE, v.read(HOST_IDTR_BASE));
    vmcs01.write(GUEST_IDTR_LIMIT, 0xffff);
    vmcs01.write(GUEST_SYSENTER_CS, v.read(HOST_IA32_SYSENTER_CS));
    vmcs01.write(GUEST_SYSENTER_ESP, v.read(HOST_IA32_SYSENTER_ESP));
    vmcs01.write(GUEST_SYSENTER_EIP, v.read(HOST_IA32_SYSENTER_EIP));
    vmcs01.write(GUEST_RIP, v.read(HOST_RIP));
    vmcs01.write(GUEST_RSP, v.read(HOST_RSP));
    vmcs01.write(GUEST_RFLAGS, 2);
    vmcs01.write(GUEST_DR7, 0x400);
    vmcs01.write(GUEST_IA32_DEBUGCTL, 0);
    vmcs01.write(GUEST_PENDING_DBG_EXCEPTIONS, 0);
    let blocking = Interruptibility(0).with_nmi(nmi == NmiBlocking::Blocked);
    vmcs01.write(GUEST_INTERRUPTIBILITY_INFO, blocking.0);
    vmcs01.write(GUEST_ACTIVITY_STATE, ActivityState::Active as u32);
}

const UNUSABLE: u32 = 1 << 16;
/// Present, accessed, writable data, 4-KiB granularity, 32-bit.
const DATA_RIGHTS: u32 = 0xc093;
/// Present, accessed, readable code, 4-KiB granularity.
const CODE_RIGHTS: u32 = 0x809b;
const CODE_LONG: u32 = 1 << 13;
const CODE_32BIT: u32 = 1 << 14;
/// Present busy 32-bit TSS.
const TSS_RIGHTS: u32 = 0x8b;

/// A data segment of L1: host selector; guest selector, base, limit, access rights; host base, where
/// there is one.
type DataSegment = (
    Field<u16>,
    Field<u16>,
    Field<Natural>,
    Field<u32>,
    Field<u32>,
    Option<Field<Natural>>,
);

macro_rules! data {
    ($($host:ident $selector:ident $base:ident $limit:ident $rights:ident $from:expr;)*) => {
        [ $( ($host, $selector, $base, $limit, $rights, $from) ),* ]
    };
}

const DATA: [DataSegment; 5] = data! {
    HOST_SS_SELECTOR GUEST_SS_SELECTOR GUEST_SS_BASE GUEST_SS_LIMIT GUEST_SS_AR_BYTES None;
    HOST_DS_SELECTOR GUEST_DS_SELECTOR GUEST_DS_BASE GUEST_DS_LIMIT GUEST_DS_AR_BYTES None;
    HOST_ES_SELECTOR GUEST_ES_SELECTOR GUEST_ES_BASE GUEST_ES_LIMIT GUEST_ES_AR_BYTES None;
    HOST_FS_SELECTOR GUEST_FS_SELECTOR GUEST_FS_BASE GUEST_FS_LIMIT GUEST_FS_AR_BYTES
        Some(HOST_FS_BASE);
    HOST_GS_SELECTOR GUEST_GS_SELECTOR GUEST_GS_BASE GUEST_GS_LIMIT GUEST_GS_AR_BYTES
        Some(HOST_GS_BASE);
};

#[inline(always)]
fn load_segments(v: &Vmcs12, vmcs01: &mut impl VmcsAccess) {
    let is_64bit = ExitCtls(v.read(VM_EXIT_CONTROLS)).host_64bit();
    let mode = if is_64bit { CODE_LONG } else { CODE_32BIT };
    vmcs01.write(GUEST_CS_SELECTOR, v.read(HOST_CS_SELECTOR));
    vmcs01.write(GUEST_CS_BASE, 0);
    vmcs01.write(GUEST_CS_LIMIT, u32::MAX);
    vmcs01.write(GUEST_CS_AR_BYTES, CODE_RIGHTS | mode);
    // Unrolled, so that each field is a constant.
    let [ss, ds, es, fs, gs] = DATA;
    load_data_segment(v, ss, vmcs01);
    load_data_segment(v, ds, vmcs01);
    load_data_segment(v, es, vmcs01);
    load_data_segment(v, fs, vmcs01);
    load_data_segment(v, gs, vmcs01);
    vmcs01.write(GUEST_LDTR_SELECTOR, 0);
    vmcs01.write(GUEST_LDTR_AR_BYTES, UNUSABLE);
    vmcs01.write(GUEST_TR_SELECTOR, v.read(HOST_TR_SELECTOR));
    vmcs01.write(GUEST_TR_BASE, v.read(HOST_TR_BASE));
    vmcs01.write(GUEST_TR_LIMIT, 0x67);
    vmcs01.write(GUEST_TR_AR_BYTES, TSS_RIGHTS);
}

#[inline(always)]
fn load_data_segment(v: &Vmcs12, fields: DataSegment, vmcs01: &mut impl VmcsAccess) {
    let (host, selector, base, limit, rights, from) = fields;
    let host = v.read(host);
    let unusable = if host == 0 { UNUSABLE } else { 0 };
    vmcs01.write(selector, host);
    vmcs01.write(base, from.map_or(0, |from| v.read(from)));
    vmcs01.write(limit, u32::MAX);
    vmcs01.write(rights, DATA_RIGHTS | unusable);
}

#[cfg(test)]
mod tests;
