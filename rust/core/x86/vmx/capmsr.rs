// SPDX-License-Identifier: GPL-2.0

//! The formats of the VMX capability MSRs, and the arithmetic of allowed settings.

/// Numbers of the VMX capability MSRs. SDM 3D appendix A "VMX Capability Reporting Facility".
#[allow(
    missing_docs,
    reason = "the names are the SDM's, which is their documentation"
)]
pub mod msr {
    pub const IA32_VMX_BASIC: u32 = 0x480;
    pub const IA32_VMX_PINBASED_CTLS: u32 = 0x481;
    pub const IA32_VMX_PROCBASED_CTLS: u32 = 0x482;
    pub const IA32_VMX_EXIT_CTLS: u32 = 0x483;
    pub const IA32_VMX_ENTRY_CTLS: u32 = 0x484;
    pub const IA32_VMX_MISC: u32 = 0x485;
    pub const IA32_VMX_CR0_FIXED0: u32 = 0x486;
    pub const IA32_VMX_CR0_FIXED1: u32 = 0x487;
    pub const IA32_VMX_CR4_FIXED0: u32 = 0x488;
    pub const IA32_VMX_CR4_FIXED1: u32 = 0x489;
    pub const IA32_VMX_VMCS_ENUM: u32 = 0x48a;
    pub const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48b;
    pub const IA32_VMX_EPT_VPID_CAP: u32 = 0x48c;
    pub const IA32_VMX_TRUE_PINBASED_CTLS: u32 = 0x48d;
    pub const IA32_VMX_TRUE_PROCBASED_CTLS: u32 = 0x48e;
    pub const IA32_VMX_TRUE_EXIT_CTLS: u32 = 0x48f;
    pub const IA32_VMX_TRUE_ENTRY_CTLS: u32 = 0x490;
    pub const IA32_VMX_VMFUNC: u32 = 0x491;
    pub const IA32_VMX_PROCBASED_CTLS3: u32 = 0x492;
    pub const IA32_VMX_EXIT_CTLS2: u32 = 0x493;
}

bitfield! {
    /// IA32_VMX_BASIC. SDM 3D "Basic VMX Information", A.1.
    pub struct VmxBasic(u64) {
        /// VMCS revision identifier.
        30:0 revision, with_revision => u32;
        /// Size of a VMCS or VMXON region in bytes, at most 4096.
        44:32 region_size, with_region_size => u16;
        /// Addresses of VMX structures are limited to 32 bits.
        48:48 has_32bit_addresses, with_32bit_addresses => bool;
        /// The dual-monitor treatment of SMIs is supported.
        49:49 dual_monitor, with_dual_monitor => bool;
        /// Memory type of VMX structures: 0 UC, 6 WB.
        53:50 memory_type, with_memory_type => u8;
        /// Exits of INS and OUTS give instruction information.
        54:54 ins_outs_info, with_ins_outs_info => bool;
        /// The TRUE capability MSRs exist: default1 controls may be 0.
        55:55 true_ctls, with_true_ctls => bool;
        /// Hardware exceptions may be injected with or without error code, whatever the vector.
        56:56 any_error_code, with_any_error_code => bool;
    }
}

bitfield! {
    /// IA32_VMX_MISC. SDM 3D "Miscellaneous Data", A.6.
    pub struct VmxMisc(u64) {
        /// The preemption timer counts when this bit of the TSC changes.
        4:0 preemption_timer_rate, with_preemption_timer_rate => u8;
        /// Exits store EFER.LMA into "IA-32e mode guest" (always with unrestricted guest).
        5:5 store_lma, with_store_lma => bool;
        /// Activity state HLT is supported.
        6:6 activity_hlt, with_activity_hlt => bool;
        /// Activity state shutdown is supported.
        7:7 activity_shutdown, with_activity_shutdown => bool;
        /// Activity state wait-for-SIPI is supported.
        8:8 activity_wait_sipi, with_activity_wait_sipi => bool;
        /// Number of CR3-target values, 0 to 256.
        24:16 cr3_targets, with_cr3_targets => u16;
        /// The recommended maximum of an MSR list is 512 times this plus 1.
        27:25 msr_list_code, with_msr_list_code => u8;
        /// IA32_SMM_MONITOR_CTL\[2\] can be set.
        28:28 smm_monitor_ctl, with_smm_monitor_ctl => bool;
        /// VMWRITE can write every field, read-only ones too.
        29:29 vmwrite_any, with_vmwrite_any => bool;
        /// Software events may be injected with instruction length 0.
        30:30 zero_length_injection, with_zero_length_injection => bool;
        /// MSEG revision identifier.
        63:32 mseg_revision, with_mseg_revision => u32;
    }
}

impl VmxMisc {
    /// Returns the largest MSR list that VM entries and exits take, in entries: 512 to 4096.
    #[inline]
    pub fn msr_list_max(self) -> u32 {
        (u32::from(self.msr_list_code()).wrapping_add(1)) << 9
    }
}

bitfield! {
    /// IA32_VMX_EPT_VPID_CAP. SDM 3D "VPID and EPT Capabilities", A.10.
    pub struct EptVpidCap(u64) {
        /// EPT entries can be execute-only.
        0:0 exec_only, with_exec_only => bool;
        /// Page walks of length 4.
        6:6 four_levels, with_four_levels => bool;
        /// Page walks of length 5.
        7:7 five_levels, with_five_levels => bool;
        /// EPT paging structures can be UC.
        8:8 uncacheable, with_uncacheable => bool;
        /// EPT paging structures can be WB.
        14:14 write_back, with_write_back => bool;
        /// 2-MiB pages.
        16:16 pages_2m, with_pages_2m => bool;
        /// 1-GiB pages.
        17:17 pages_1g, with_pages_1g => bool;
        /// INVEPT.
        20:20 invept, with_invept => bool;
        /// Accessed and dirty flags.
        21:21 accessed_dirty, with_accessed_dirty => bool;
        /// Advanced VM-exit information for EPT violations.
        22:22 advanced_exit_info, with_advanced_exit_info => bool;
        /// Supervisor shadow-stack control.
        23:23 supervisor_shadow_stack, with_supervisor_shadow_stack => bool;
        /// INVEPT of a single context.
        25:25 invept_single, with_invept_single => bool;
        /// INVEPT of all contexts.
        26:26 invept_all, with_invept_all => bool;
        /// INVVPID.
        32:32 invvpid, with_invvpid => bool;
        /// INVVPID of an individual address.
        40:40 invvpid_address, with_invvpid_address => bool;
        /// INVVPID of a single context.
        41:41 invvpid_single, with_invvpid_single => bool;
        /// INVVPID of all contexts.
        42:42 invvpid_all, with_invvpid_all => bool;
        /// INVVPID of a single context, retaining globals.
        43:43 invvpid_single_non_global, with_invvpid_single_non_global => bool;
    }
}

bitfield! {
    /// A capability MSR of a 32-bit control word. SDM 3D "VM-Execution Controls", A.3.
    pub struct CtlMsr(u64) {
        /// Bits that must be 1 ("allowed 0-settings": a 1 here forbids 0).
        31:0 allowed0, with_allowed0 => u32;
        /// Bits that may be 1 ("allowed 1-settings").
        63:32 allowed1, with_allowed1 => u32;
    }
}

/// The bits of a control word that are required and that the processor does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MissingBits(pub u32);

/// Computes a control word: all of `required`, those of `optional` that `msr` allows, and the bits
/// that `msr` forces to 1.
///
/// # Errors
///
/// The required bits that `msr` does not allow; nothing required is ever dropped.
pub const fn adjust(required: u32, optional: u32, msr: CtlMsr) -> Result<u32, MissingBits> {
    // The getters are no `const fn`.
    let allowed0 = (msr.0 & 0xffff_ffff) as u32;
    let allowed1 = (msr.0 >> 32) as u32;
    let missing = required & !allowed1;
    if missing != 0 {
        return Err(MissingBits(missing));
    }
    Ok(((required | optional) & allowed1) | allowed0)
}
