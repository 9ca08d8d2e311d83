// SPDX-License-Identifier: GPL-2.0

//! The VMX capability MSRs that L1 sees.
//!
//! [`offered`] computes the most that L1 can have, from the processor and from what Burrow
//! emulates; a VMM may restore less through `KVM_SET_MSRS` ([`restore`]). Only the TRUE MSRs are
//! held: the others are those with the default1 bits added.

use super::super::vmx::caps::{
    msr,
    ControlSet,
    CtlMsr,
    EptVpidCap,
    VmxBasic,
    VmxCaps,
    VmxMisc, //
};
use super::super::vmx::ctls::{
    EntryCtls,
    ExitCtls,
    PinCtls,
    Proc2Ctls,
    ProcCtls, //
};
use super::super::vmx::field;
use super::vmcs12::{
    FieldSet,
    REGION_SIZE,
    REVISION, //
};

/// What Burrow emulates for L1 besides what the processor does for L2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emulated {
    /// VMCS shadowing: VMREAD and VMWRITE of L2 on a cached shadow vmcs12.
    pub vmcs_shadowing: bool,
    /// VMFUNC with EPTP switching (needs the instruction in hardware).
    pub eptp_switching: bool,
    /// The page-modification log, in the nested-EPT walk (needs A/D flags).
    pub pml: bool,
    /// Mode-based execute control in shadow EPT (needs it in hardware, and exits that tell user-mode
    /// fetches).
    pub mode_based_exec: bool,
    /// CET state on entries and exits (needs it in hardware).
    pub cet: bool,
    /// IA32_PERF_GLOBAL_CTRL on entries and exits, by the virtual PMU.
    pub perf_global_ctrl: bool,
    /// IA32_BNDCFGS on entries and exits (needs it in hardware).
    pub bndcfgs: bool,
    /// The VMX-preemption timer, by the processor's or by another of the host's.
    pub preemption_timer: bool,
    /// APIC-register virtualization, virtual-interrupt delivery and posted interrupts for L2 (need
    /// them in hardware).
    pub apicv: bool,
    /// UMWAIT and TPAUSE in L2 (need the control in hardware).
    pub user_wait_pause: bool,
    /// EPT of five levels (needs it in hardware).
    pub five_levels: bool,
}

impl Emulated {
    /// Everything.
    pub const ALL: Self = Self {
        vmcs_shadowing: true,
        eptp_switching: true,
        pml: true,
        mode_based_exec: true,
        cet: true,
        perf_global_ctrl: true,
        bndcfgs: true,
        preemption_timer: true,
        apicv: true,
        user_wait_pause: true,
        five_levels: true,
    };

    /// Only what needs no emulation besides VMX itself.
    pub const NONE: Self = Self {
        vmcs_shadowing: false,
        eptp_switching: false,
        pml: false,
        mode_based_exec: false,
        cet: false,
        perf_global_ctrl: false,
        bndcfgs: false,
        preemption_timer: false,
        apicv: false,
        user_wait_pause: false,
        five_levels: false,
    };
}

/// CR0 bits that are 1 in VMX operation: PE, NE, PG.
const CR0_FIXED0: u64 = 0x8000_0021;
/// CR4 bits that are 1 in VMX operation: VMXE.
const CR4_FIXED0: u64 = 0x2000;
/// The preemption timer of L1 counts TSC ticks divided by 2^5.
pub const PREEMPTION_TIMER_RATE: u8 = 5;

/// VM function 0, EPTP switching, in IA32_VMX_VMFUNC.
pub const VMFUNC_EPTP_SWITCHING: u64 = 1;

fn ctl(must: u32, may: u32) -> CtlMsr {
    CtlMsr(0).with_allowed0(must).with_allowed1(must | may)
}

/// Computes the most that L1 can be offered on this host.
pub fn offered(hw: &VmxCaps, host: &ControlSet, emulated: Emulated) -> VmxCaps {
    let mut caps = VmxCaps {
        basic: VmxBasic(0)
            .with_revision(REVISION)
            .with_region_size(u16::try_from(REGION_SIZE).unwrap_or(0))
            .with_memory_type(6)
            .with_true_ctls(true)
            .with_ins_outs_info(hw.basic.ins_outs_info())
            .with_any_error_code(hw.basic.any_error_code()),
        true_pinbased: pin(hw, host, emulated),
        true_procbased: proc(hw),
        true_exit: exit(hw, emulated),
        true_entry: entry(hw, emulated),
        misc: VmxMisc(0)
            .with_preemption_timer_rate(PREEMPTION_TIMER_RATE)
            .with_store_lma(hw.misc.store_lma())
            .with_activity_hlt(true)
            .with_activity_wait_sipi(true)
            .with_vmwrite_any(true)
            .with_zero_length_injection(hw.misc.zero_length_injection()),
        cr0_fixed0: CR0_FIXED0,
        cr0_fixed1: hw.cr0_fixed1,
        cr4_fixed0: CR4_FIXED0,
        cr4_fixed1: hw.cr4_fixed1,
        procbased2: proc2(hw, host, emulated),
        ept_vpid: ept_vpid(hw, emulated),
        ..VmxCaps::default()
    };
    if caps.proc2_allowed().vmfunc() {
        caps.vmfunc = VMFUNC_EPTP_SWITCHING;
    }
    caps.vmcs_enum = field_set(&caps).vmcs_enum();
    with_default1(caps)
}

/// Fills in the non-TRUE MSRs.
fn with_default1(mut caps: VmxCaps) -> VmxCaps {
    let add = |msr: CtlMsr, default1: u32| CtlMsr(msr.0 | u64::from(default1));
    caps.pinbased = add(caps.true_pinbased, PinCtls::DEFAULT1.0);
    caps.procbased = add(caps.true_procbased, ProcCtls::DEFAULT1.0);
    caps.exit = add(caps.true_exit, ExitCtls::DEFAULT1.0);
    caps.entry = add(caps.true_entry, EntryCtls::DEFAULT1.0);
    caps
}

fn pin(hw: &VmxCaps, host: &ControlSet, emulated: Emulated) -> CtlMsr {
    let from_hw = PinCtls(0)
        .with_ext_intr_exiting(true)
        .with_nmi_exiting(true)
        .with_virtual_nmis(true)
        .with_posted_intr(emulated.apicv && host.has_apicv())
        .intersection(PinCtls(hw.pin().allowed1()));
    // The timer may be emulated where the processor has none.
    let may = from_hw.with_preemption_timer(emulated.preemption_timer);
    ctl(PinCtls::DEFAULT1.0, may.0)
}

fn proc(hw: &VmxCaps) -> CtlMsr {
    let from_hw = ProcCtls(u32::MAX)
        .with_tertiary(false)
        .intersection(ProcCtls(hw.proc().allowed1()));
    let known = ProcCtls(0)
        .with_intr_window(true)
        .with_tsc_offsetting(true)
        .with_hlt_exiting(true)
        .with_invlpg_exiting(true)
        .with_mwait_exiting(true)
        .with_rdpmc_exiting(true)
        .with_rdtsc_exiting(true)
        .with_cr3_load_exiting(true)
        .with_cr3_store_exiting(true)
        .with_cr8_load_exiting(true)
        .with_cr8_store_exiting(true)
        .with_tpr_shadow(true)
        .with_nmi_window(true)
        .with_mov_dr_exiting(true)
        .with_uncond_io_exiting(true)
        .with_io_bitmaps(true)
        .with_monitor_trap_flag(true)
        .with_msr_bitmaps(true)
        .with_monitor_exiting(true)
        .with_pause_exiting(true)
        .with_secondary(true);
    let cr3 = ProcCtls(0)
        .with_cr3_load_exiting(true)
        .with_cr3_store_exiting(true);
    let may = known.intersection(from_hw).union(cr3);
    ctl(ProcCtls::DEFAULT1.without(cr3).0, may.0)
}

fn exit(hw: &VmxCaps, emulated: Emulated) -> CtlMsr {
    let from_hw = ExitCtls(0)
        .with_host_64bit(true)
        .with_load_pat(true)
        .with_save_pat(true)
        .with_clear_bndcfgs(emulated.bndcfgs)
        .with_load_cet(emulated.cet)
        .intersection(ExitCtls(hw.exit_ctls().allowed1()));
    let debug = ExitCtls(0).with_save_debug(true);
    let may = from_hw
        .union(debug)
        .with_load_efer(true)
        .with_save_efer(true)
        .with_save_preemption_timer(emulated.preemption_timer)
        .with_ack_intr(true)
        .with_load_perf_global(emulated.perf_global_ctrl);
    ctl(ExitCtls::DEFAULT1.without(debug).0, may.0)
}

fn entry(hw: &VmxCaps, emulated: Emulated) -> CtlMsr {
    let from_hw = EntryCtls(0)
        .with_ia32e(true)
        .with_load_pat(true)
        .with_load_bndcfgs(emulated.bndcfgs)
        .with_load_cet(emulated.cet)
        .intersection(EntryCtls(hw.entry_ctls().allowed1()));
    let debug = EntryCtls(0).with_load_debug(true);
    let may = from_hw
        .union(debug)
        .with_load_efer(true)
        .with_load_perf_global(emulated.perf_global_ctrl);
    ctl(EntryCtls::DEFAULT1.without(debug).0, may.0)
}

fn proc2(hw: &VmxCaps, host: &ControlSet, emulated: Emulated) -> CtlMsr {
    let apicv = emulated.apicv && host.has_apicv();
    let from_hw = Proc2Ctls(0)
        .with_virtualize_apic(true)
        .with_ept(true)
        .with_desc_exiting(true)
        .with_rdtscp(true)
        .with_virtualize_x2apic(true)
        .with_vpid(true)
        .with_wbinvd_exiting(true)
        .with_unrestricted_guest(true)
        .with_apic_register_virt(apicv)
        .with_virtual_intr_delivery(apicv)
        .with_rdrand_exiting(true)
        .with_invpcid(true)
        .with_vmfunc(emulated.eptp_switching)
        .with_rdseed_exiting(true)
        .with_xsaves(true)
        .with_mode_based_exec(emulated.mode_based_exec && hw.ept_vpid.advanced_exit_info())
        .with_tsc_scaling(true)
        .with_user_wait_pause(emulated.user_wait_pause)
        .intersection(hw.proc2_allowed());
    let may = from_hw
        .with_vmcs_shadowing(emulated.vmcs_shadowing)
        .with_pml(emulated.pml && hw.ept_vpid.accessed_dirty());
    ctl(0, may.0)
}

fn ept_vpid(hw: &VmxCaps, emulated: Emulated) -> EptVpidCap {
    EptVpidCap(0)
        .with_exec_only(hw.ept_vpid.exec_only())
        .with_four_levels(true)
        .with_five_levels(emulated.five_levels && hw.ept_vpid.five_levels())
        .with_write_back(true)
        .with_pages_2m(true)
        .with_pages_1g(true)
        .with_invept(true)
        .with_accessed_dirty(hw.ept_vpid.accessed_dirty())
        .with_advanced_exit_info(hw.ept_vpid.advanced_exit_info())
        .with_invept_single(true)
        .with_invept_all(true)
        .with_invvpid(true)
        .with_invvpid_address(true)
        .with_invvpid_single(true)
        .with_invvpid_all(true)
        .with_invvpid_single_non_global(true)
}

/// Returns the fields that exist for an L1 with `caps`: those whose control it may set.
pub fn field_set(caps: &VmxCaps) -> FieldSet {
    let pin = PinCtls(caps.pin().allowed1());
    let proc = ProcCtls(caps.proc().allowed1());
    let proc2 = caps.proc2_allowed();
    let exit = ExitCtls(caps.exit_ctls().allowed1());
    let entry = EntryCtls(caps.entry_ctls().allowed1());
    let perf = exit.load_perf_global() || entry.load_perf_global();
    let cet = exit.load_cet() || entry.load_cet();
    let gated = [
        (proc2.vpid(), field::VIRTUAL_PROCESSOR_ID.encoding()),
        (pin.posted_intr(), field::POSTED_INTR_NV.encoding()),
        (pin.posted_intr(), field::POSTED_INTR_DESC_ADDR.encoding()),
        (proc2.tsc_scaling(), field::TSC_MULTIPLIER.encoding()),
        (proc.tpr_shadow(), field::TPR_THRESHOLD.encoding()),
        (proc.tpr_shadow(), field::VIRTUAL_APIC_PAGE_ADDR.encoding()),
        (proc2.virtualize_apic(), field::APIC_ACCESS_ADDR.encoding()),
        (
            proc2.virtual_intr_delivery(),
            field::GUEST_INTR_STATUS.encoding(),
        ),
        (proc2.vmfunc(), field::VM_FUNCTION_CONTROL.encoding()),
        (proc2.vmfunc(), field::EPTP_LIST_ADDRESS.encoding()),
        (proc2.ept(), field::EPT_POINTER.encoding()),
        (proc2.xsaves(), field::XSS_EXIT_BITMAP.encoding()),
        (
            proc2.encls_exiting(),
            field::ENCLS_EXITING_BITMAP.encoding(),
        ),
        (perf, field::GUEST_IA32_PERF_GLOBAL_CTRL.encoding()),
        (perf, field::HOST_IA32_PERF_GLOBAL_CTRL.encoding()),
        (
            proc.secondary(),
            field::SECONDARY_VM_EXEC_CONTROL.encoding(),
        ),
        (cet, field::GUEST_S_CET.encoding()),
        (cet, field::GUEST_SSP.encoding()),
        (cet, field::GUEST_INTR_SSP_TABLE.encoding()),
        (cet, field::HOST_S_CET.encoding()),
        (cet, field::HOST_SSP.encoding()),
        (cet, field::HOST_INTR_SSP_TABLE.encoding()),
    ];
    let mut set = FieldSet::all();
    for (_, encoding) in gated.iter().filter(|(exists, _)| !exists) {
        set.remove(*encoding);
    }
    set
}

/// Returns what L1 or the VMM reads from capability MSR `number`, or `None` if that is not one of
/// those that L1 has.
pub fn read(caps: &VmxCaps, number: u32) -> Option<u64> {
    Some(match number {
        msr::IA32_VMX_BASIC => caps.basic.0,
        msr::IA32_VMX_PINBASED_CTLS => caps.pinbased.0,
        msr::IA32_VMX_PROCBASED_CTLS => caps.procbased.0,
        msr::IA32_VMX_EXIT_CTLS => caps.exit.0,
        msr::IA32_VMX_ENTRY_CTLS => caps.entry.0,
        msr::IA32_VMX_MISC => caps.misc.0,
        msr::IA32_VMX_CR0_FIXED0 => caps.cr0_fixed0,
        msr::IA32_VMX_CR0_FIXED1 => caps.cr0_fixed1,
        msr::IA32_VMX_CR4_FIXED0 => caps.cr4_fixed0,
        msr::IA32_VMX_CR4_FIXED1 => caps.cr4_fixed1,
        msr::IA32_VMX_VMCS_ENUM => caps.vmcs_enum,
        msr::IA32_VMX_PROCBASED_CTLS2 => caps.procbased2.0,
        msr::IA32_VMX_EPT_VPID_CAP => caps.ept_vpid.0,
        msr::IA32_VMX_TRUE_PINBASED_CTLS => caps.true_pinbased.0,
        msr::IA32_VMX_TRUE_PROCBASED_CTLS => caps.true_procbased.0,
        msr::IA32_VMX_TRUE_EXIT_CTLS => caps.true_exit.0,
        msr::IA32_VMX_TRUE_ENTRY_CTLS => caps.true_entry.0,
        msr::IA32_VMX_VMFUNC => caps.vmfunc,
        _ => return None,
    })
}

/// A value that a capability MSR cannot be restored to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotOffered;

fn is_subset(value: u64, of: u64) -> bool {
    value & !of == 0
}

fn require(condition: bool) -> Result<(), NotOffered> {
    if condition {
        Ok(())
    } else {
        Err(NotOffered)
    }
}

/// Sets capability MSR `number` of `caps` to `value`, as `KVM_SET_MSRS` asks; the caller has made
/// sure that the vCPU is not in VMX operation.
///
/// # Errors
///
/// The value promises L1 more than `offered` does, forbids what must be possible, or the MSR is
/// derived from others and cannot be set.
pub fn restore(
    caps: &mut VmxCaps,
    offered: &VmxCaps,
    number: u32,
    value: u64,
) -> Result<(), NotOffered> {
    let control = |offer: CtlMsr| {
        let new = CtlMsr(value);
        require(offer.allowed0() & !new.allowed0() == 0 && new.allowed1() & !offer.allowed1() == 0)
            .map(|()| new)
    };
    match number {
        msr::IA32_VMX_BASIC => caps.basic = basic(offered.basic, VmxBasic(value))?,
        msr::IA32_VMX_MISC => caps.misc = misc(caps, offered.misc, VmxMisc(value))?,
        msr::IA32_VMX_TRUE_PINBASED_CTLS => caps.true_pinbased = control(offered.true_pinbased)?,
        msr::IA32_VMX_TRUE_PROCBASED_CTLS => {
            caps.true_procbased = control(offered.true_procbased)?;
        }
        msr::IA32_VMX_TRUE_EXIT_CTLS => caps.true_exit = control(offered.true_exit)?,
        msr::IA32_VMX_TRUE_ENTRY_CTLS => caps.true_entry = control(offered.true_entry)?,
        msr::IA32_VMX_PROCBASED_CTLS2 => caps.procbased2 = control(offered.procbased2)?,
        msr::IA32_VMX_CR0_FIXED0 => {
            require(is_subset(offered.cr0_fixed0, value))?;
            caps.cr0_fixed0 = value;
        }
        msr::IA32_VMX_CR4_FIXED0 => {
            require(is_subset(offered.cr4_fixed0, value))?;
            caps.cr4_fixed0 = value;
        }
        msr::IA32_VMX_EPT_VPID_CAP => {
            require(is_subset(value, offered.ept_vpid.0))?;
            caps.ept_vpid = EptVpidCap(value);
        }
        msr::IA32_VMX_VMCS_ENUM => caps.vmcs_enum = value,
        msr::IA32_VMX_VMFUNC => {
            require(is_subset(value, offered.vmfunc))?;
            caps.vmfunc = value;
        }
        _ => return Err(NotOffered),
    }
    *caps = with_default1(*caps);
    Ok(())
}

/// Bits 63:57, 47:45 and 31 are reserved; 49 and 54 to 56 are features.
fn basic(offered: VmxBasic, new: VmxBasic) -> Result<VmxBasic, NotOffered> {
    const CHECKED: u64 = 0xfe00_0000_0000_0000 | 0xe000_8000_0000 | 0x01c2_0000_0000_0000;
    require(
        is_subset(new.0 & CHECKED, offered.0)
            && !new.has_32bit_addresses()
            && new.revision() == offered.revision()
            && new.region_size() >= offered.region_size(),
    )?;
    Ok(new)
}

/// Bits 31 and 13:9 are reserved; 5 to 8, 14, 15 and 28 to 30 are features.
fn misc(caps: &VmxCaps, offered: VmxMisc, new: VmxMisc) -> Result<VmxMisc, NotOffered> {
    const CHECKED: u64 = 0x8000_3e00 | 0x7000_c1e0;
    let has_timer = PinCtls(caps.true_pinbased.allowed1()).preemption_timer();
    let same_rate = new.preemption_timer_rate() == offered.preemption_timer_rate();
    require(
        is_subset(new.0 & CHECKED, offered.0)
            && (same_rate || !has_timer)
            && new.cr3_targets() <= offered.cr3_targets()
            && new.msr_list_code() <= offered.msr_list_code()
            && new.mseg_revision() == offered.mseg_revision(),
    )?;
    Ok(new)
}

#[cfg(test)]
pub(super) mod tests;
