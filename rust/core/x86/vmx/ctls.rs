// SPDX-License-Identifier: GPL-2.0

//! Control words of a VMCS and the other fields whose bits have names.
//!
//! Every type is the raw word (`.0`) with a getter and a `with_` builder for each bit. Control
//! words are sets too: [`PinCtls::union`], [`PinCtls::without`], [`PinCtls::contains`] and so on.

bitfield! {
    /// Pin-based VM-execution controls. SDM 3C "Pin-Based VM-Execution Controls", 25.6.1.
    pub struct PinCtls(u32) {
        /// External-interrupt exiting.
        0:0 ext_intr_exiting, with_ext_intr_exiting => bool;
        /// NMI exiting.
        3:3 nmi_exiting, with_nmi_exiting => bool;
        /// Virtual NMIs.
        5:5 virtual_nmis, with_virtual_nmis => bool;
        /// Activate VMX-preemption timer.
        6:6 preemption_timer, with_preemption_timer => bool;
        /// Process posted interrupts.
        7:7 posted_intr, with_posted_intr => bool;
    }
}

bitfield! {
    /// Primary processor-based VM-execution controls. SDM 3C "Processor-Based VM-Execution Controls",
    /// 25.6.2.
    pub struct ProcCtls(u32) {
        /// Interrupt-window exiting.
        2:2 intr_window, with_intr_window => bool;
        /// Use TSC offsetting.
        3:3 tsc_offsetting, with_tsc_offsetting => bool;
        /// HLT exiting.
        7:7 hlt_exiting, with_hlt_exiting => bool;
        /// INVLPG exiting.
        9:9 invlpg_exiting, with_invlpg_exiting => bool;
        /// MWAIT exiting.
        10:10 mwait_exiting, with_mwait_exiting => bool;
        /// RDPMC exiting.
        11:11 rdpmc_exiting, with_rdpmc_exiting => bool;
        /// RDTSC exiting.
        12:12 rdtsc_exiting, with_rdtsc_exiting => bool;
        /// CR3-load exiting.
        15:15 cr3_load_exiting, with_cr3_load_exiting => bool;
        /// CR3-store exiting.
        16:16 cr3_store_exiting, with_cr3_store_exiting => bool;
        /// Activate tertiary controls.
        17:17 tertiary, with_tertiary => bool;
        /// CR8-load exiting.
        19:19 cr8_load_exiting, with_cr8_load_exiting => bool;
        /// CR8-store exiting.
        20:20 cr8_store_exiting, with_cr8_store_exiting => bool;
        /// Use TPR shadow.
        21:21 tpr_shadow, with_tpr_shadow => bool;
        /// NMI-window exiting.
        22:22 nmi_window, with_nmi_window => bool;
        /// MOV-DR exiting.
        23:23 mov_dr_exiting, with_mov_dr_exiting => bool;
        /// Unconditional I/O exiting.
        24:24 uncond_io_exiting, with_uncond_io_exiting => bool;
        /// Use I/O bitmaps.
        25:25 io_bitmaps, with_io_bitmaps => bool;
        /// Monitor trap flag.
        27:27 monitor_trap_flag, with_monitor_trap_flag => bool;
        /// Use MSR bitmaps.
        28:28 msr_bitmaps, with_msr_bitmaps => bool;
        /// MONITOR exiting.
        29:29 monitor_exiting, with_monitor_exiting => bool;
        /// PAUSE exiting.
        30:30 pause_exiting, with_pause_exiting => bool;
        /// Activate secondary controls.
        31:31 secondary, with_secondary => bool;
    }
}

bitfield! {
    /// Secondary processor-based VM-execution controls. SDM 3C "Processor-Based VM-Execution
    /// Controls", 25.6.2.
    pub struct Proc2Ctls(u32) {
        /// Virtualize APIC accesses.
        0:0 virtualize_apic, with_virtualize_apic => bool;
        /// Enable EPT.
        1:1 ept, with_ept => bool;
        /// Descriptor-table exiting.
        2:2 desc_exiting, with_desc_exiting => bool;
        /// Enable RDTSCP.
        3:3 rdtscp, with_rdtscp => bool;
        /// Virtualize x2APIC mode.
        4:4 virtualize_x2apic, with_virtualize_x2apic => bool;
        /// Enable VPID.
        5:5 vpid, with_vpid => bool;
        /// WBINVD exiting.
        6:6 wbinvd_exiting, with_wbinvd_exiting => bool;
        /// Unrestricted guest.
        7:7 unrestricted_guest, with_unrestricted_guest => bool;
        /// APIC-register virtualization.
        8:8 apic_register_virt, with_apic_register_virt => bool;
        /// Virtual-interrupt delivery.
        9:9 virtual_intr_delivery, with_virtual_intr_delivery => bool;
        /// PAUSE-loop exiting.
        10:10 pause_loop_exiting, with_pause_loop_exiting => bool;
        /// RDRAND exiting.
        11:11 rdrand_exiting, with_rdrand_exiting => bool;
        /// Enable INVPCID.
        12:12 invpcid, with_invpcid => bool;
        /// Enable VM functions.
        13:13 vmfunc, with_vmfunc => bool;
        /// VMCS shadowing.
        14:14 vmcs_shadowing, with_vmcs_shadowing => bool;
        /// Enable ENCLS exiting.
        15:15 encls_exiting, with_encls_exiting => bool;
        /// RDSEED exiting.
        16:16 rdseed_exiting, with_rdseed_exiting => bool;
        /// Enable PML.
        17:17 pml, with_pml => bool;
        /// EPT-violation #VE.
        18:18 ept_violation_ve, with_ept_violation_ve => bool;
        /// Conceal VMX from PT.
        19:19 conceal_vmx_from_pt, with_conceal_vmx_from_pt => bool;
        /// Enable XSAVES/XRSTORS.
        20:20 xsaves, with_xsaves => bool;
        /// PASID translation.
        21:21 pasid_translation, with_pasid_translation => bool;
        /// Mode-based execute control for EPT.
        22:22 mode_based_exec, with_mode_based_exec => bool;
        /// Sub-page write permissions for EPT.
        23:23 sub_page_write, with_sub_page_write => bool;
        /// Intel PT uses guest physical addresses.
        24:24 pt_uses_gpa, with_pt_uses_gpa => bool;
        /// Use TSC scaling.
        25:25 tsc_scaling, with_tsc_scaling => bool;
        /// Enable user wait and pause.
        26:26 user_wait_pause, with_user_wait_pause => bool;
        /// Enable PCONFIG.
        27:27 pconfig, with_pconfig => bool;
        /// Enable ENCLV exiting.
        28:28 enclv_exiting, with_enclv_exiting => bool;
        /// VMM bus-lock detection.
        30:30 bus_lock_detection, with_bus_lock_detection => bool;
        /// Instruction timeout (notify VM exit).
        31:31 notify, with_notify => bool;
    }
}

bitfield! {
    /// Tertiary processor-based VM-execution controls. SDM 3C "Processor-Based VM-Execution
    /// Controls", 25.6.2.
    pub struct Proc3Ctls(u64) {
        /// LOADIWKEY exiting.
        0:0 loadiwkey_exiting, with_loadiwkey_exiting => bool;
        /// Enable HLAT.
        1:1 hlat, with_hlat => bool;
        /// EPT paging-write control.
        2:2 ept_paging_write, with_ept_paging_write => bool;
        /// Guest-paging verification.
        3:3 guest_paging_verification, with_guest_paging_verification => bool;
        /// IPI virtualization.
        4:4 ipi_virt, with_ipi_virt => bool;
        /// Enable RDMSRLIST and WRMSRLIST.
        6:6 enable_msrlist, with_enable_msrlist => bool;
        /// Virtualize IA32_SPEC_CTRL.
        7:7 virtualize_spec_ctrl, with_virtualize_spec_ctrl => bool;
    }
}

bitfield! {
    /// Primary VM-exit controls. SDM 3C "VM-Exit Controls", 25.7.1.
    pub struct ExitCtls(u32) {
        /// Save debug controls: DR7 and IA32_DEBUGCTL.
        2:2 save_debug, with_save_debug => bool;
        /// Host address-space size: the host runs in 64-bit mode.
        9:9 host_64bit, with_host_64bit => bool;
        /// Load IA32_PERF_GLOBAL_CTRL.
        12:12 load_perf_global, with_load_perf_global => bool;
        /// Acknowledge interrupt on exit.
        15:15 ack_intr, with_ack_intr => bool;
        /// Save IA32_PAT.
        18:18 save_pat, with_save_pat => bool;
        /// Load IA32_PAT.
        19:19 load_pat, with_load_pat => bool;
        /// Save IA32_EFER.
        20:20 save_efer, with_save_efer => bool;
        /// Load IA32_EFER.
        21:21 load_efer, with_load_efer => bool;
        /// Save VMX-preemption timer value.
        22:22 save_preemption_timer, with_save_preemption_timer => bool;
        /// Clear IA32_BNDCFGS.
        23:23 clear_bndcfgs, with_clear_bndcfgs => bool;
        /// Conceal VMX from PT.
        24:24 conceal_vmx_from_pt, with_conceal_vmx_from_pt => bool;
        /// Clear IA32_RTIT_CTL.
        25:25 clear_rtit_ctl, with_clear_rtit_ctl => bool;
        /// Clear IA32_LBR_CTL.
        26:26 clear_lbr_ctl, with_clear_lbr_ctl => bool;
        /// Clear UINV.
        27:27 clear_uinv, with_clear_uinv => bool;
        /// Load CET state.
        28:28 load_cet, with_load_cet => bool;
        /// Load PKRS.
        29:29 load_pkrs, with_load_pkrs => bool;
        /// Save IA32_PERF_GLOBAL_CTRL.
        30:30 save_perf_global, with_save_perf_global => bool;
        /// Activate secondary controls.
        31:31 secondary, with_secondary => bool;
    }
}

bitfield! {
    /// VM-entry controls. SDM 3C "VM-Entry Controls", 25.8.1.
    pub struct EntryCtls(u32) {
        /// Load debug controls: DR7 and IA32_DEBUGCTL.
        2:2 load_debug, with_load_debug => bool;
        /// IA-32e mode guest.
        9:9 ia32e, with_ia32e => bool;
        /// Entry to SMM.
        10:10 entry_to_smm, with_entry_to_smm => bool;
        /// Deactivate dual-monitor treatment.
        11:11 deactivate_dual_monitor, with_deactivate_dual_monitor => bool;
        /// Load IA32_PERF_GLOBAL_CTRL.
        13:13 load_perf_global, with_load_perf_global => bool;
        /// Load IA32_PAT.
        14:14 load_pat, with_load_pat => bool;
        /// Load IA32_EFER.
        15:15 load_efer, with_load_efer => bool;
        /// Load IA32_BNDCFGS.
        16:16 load_bndcfgs, with_load_bndcfgs => bool;
        /// Conceal VMX from PT.
        17:17 conceal_vmx_from_pt, with_conceal_vmx_from_pt => bool;
        /// Load IA32_RTIT_CTL.
        18:18 load_rtit_ctl, with_load_rtit_ctl => bool;
        /// Load UINV.
        19:19 load_uinv, with_load_uinv => bool;
        /// Load CET state.
        20:20 load_cet, with_load_cet => bool;
        /// Load guest IA32_LBR_CTL.
        21:21 load_lbr_ctl, with_load_lbr_ctl => bool;
        /// Load PKRS.
        22:22 load_pkrs, with_load_pkrs => bool;
    }
}

bitfield! {
    /// Extended-page-table pointer. SDM 3C "Extended-Page-Table Pointer (EPTP)", 25.6.11.
    pub struct Eptp(u64) {
        /// Memory type of the paging structures: 0 UC, 6 WB.
        2:0 memory_type, with_memory_type => u8;
        /// Page-walk length minus 1: 3 for four levels.
        5:3 walk_minus_1, with_walk_minus_1 => u8;
        /// Accessed and dirty flags are enabled.
        6:6 accessed_dirty, with_accessed_dirty => bool;
        /// Access rights of supervisor shadow-stack pages are enforced.
        7:7 supervisor_shadow_stack, with_supervisor_shadow_stack => bool;
        /// Reserved, must be 0.
        11:8 reserved_low, with_reserved_low => u8;
        /// Page frame of the root table.
        51:12 root, with_root => u64;
    }
}

bitfield! {
    /// Interruption information: the format that VM-entry, VM-exit and IDT-vectoring fields share.
    ///
    /// SDM 3C "VM-Entry Controls for Event Injection", 25.8.3; "Information for VM Exits Due to Vectored
    /// Events", 25.9.2; "Information for VM Exits That Occur During Event Delivery", 25.9.3.
    pub struct IntrInfo(u32) {
        /// Vector.
        7:0 vector, with_vector => u8;
        /// Interruption type; [`IntrInfo::intr_type`] names it.
        10:8 type_code, with_type_code => u8;
        /// An error code is valid (exit, IDT vectoring) or is delivered (entry).
        11:11 has_error_code, with_has_error_code => bool;
        /// NMI unblocking due to IRET (exit), undefined (IDT vectoring), reserved (entry).
        12:12 nmi_unblocking, with_nmi_unblocking => bool;
        /// Reserved, must be 0 for entry.
        30:13 reserved, with_reserved => u32;
        /// The field is valid.
        31:31 valid, with_valid => bool;
    }
}

bitfield! {
    /// Interruptibility state. SDM 3C "Guest Non-Register State", 25.4.2.
    pub struct Interruptibility(u32) {
        /// Blocking by STI.
        0:0 sti, with_sti => bool;
        /// Blocking by MOV SS.
        1:1 mov_ss, with_mov_ss => bool;
        /// Blocking by SMI.
        2:2 smi, with_smi => bool;
        /// Blocking by NMI.
        3:3 nmi, with_nmi => bool;
        /// Enclave interruption.
        4:4 enclave, with_enclave => bool;
    }
}

bitfield! {
    /// Pending debug exceptions. SDM 3C "Guest Non-Register State", 25.4.2.
    pub struct PendingDebug(u64) {
        /// Breakpoint conditions B3 to B0 were met.
        3:0 breakpoints, with_breakpoints => u8;
        /// A bus lock was acquired.
        11:11 bus_lock, with_bus_lock => bool;
        /// At least one met breakpoint was enabled.
        12:12 enabled_breakpoint, with_enabled_breakpoint => bool;
        /// Single step (BS).
        14:14 single_step, with_single_step => bool;
        /// The exception is due within an RTM region.
        16:16 rtm, with_rtm => bool;
    }
}

macro_rules! sets {
    ($($name:ident)*) => { $(
        impl $name {
            /// Returns the bits of both.
            #[inline]
            #[must_use]
            pub const fn union(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// Returns the bits that both have.
            #[inline]
            #[must_use]
            pub const fn intersection(self, other: Self) -> Self {
                Self(self.0 & other.0)
            }

            /// Returns the bits that `other` does not have.
            #[inline]
            #[must_use]
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// Returns whether every bit of `other` is set.
            #[inline]
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }
        }
    )* };
}
sets!(PinCtls ProcCtls Proc2Ctls Proc3Ctls ExitCtls EntryCtls);

impl PinCtls {
    /// Bits that must be 1 on a processor without the TRUE capability MSRs ("default1" class).
    /// SDM 3D "Pin-Based VM-Execution Controls", A.3.1.
    pub const DEFAULT1: Self = Self(0x0000_0016);
}

impl ProcCtls {
    /// Bits that must be 1 without the TRUE capability MSRs; CR3 exits among them. SDM 3D "Primary
    /// Processor-Based VM-Execution Controls", A.3.2.
    pub const DEFAULT1: Self = Self(0x0401_e172);
}

impl ExitCtls {
    /// Bits that must be 1 without the TRUE capability MSRs; "save debug controls" among them.
    /// SDM 3D "Primary VM-Exit Controls", A.4.1.
    pub const DEFAULT1: Self = Self(0x0003_6dff);
}

impl EntryCtls {
    /// Bits that must be 1 without the TRUE capability MSRs; "load debug controls" among them.
    /// SDM 3D "VM-Entry Controls", A.5.
    pub const DEFAULT1: Self = Self(0x0000_11ff);
}

impl Eptp {
    /// The memory-type code of write-back.
    pub const WB: u8 = 6;
    /// The memory-type code of uncacheable.
    pub const UC: u8 = 0;

    /// Makes a pointer to a write-back table of `levels` (4 or 5) at page frame `root`.
    #[inline]
    pub fn new(root: crate::addr::Pfn, levels: u8) -> Self {
        Self(0)
            .with_memory_type(Self::WB)
            .with_walk_minus_1(levels.wrapping_sub(1))
            .with_root(root.0)
    }
}

/// The types of an event in [`IntrInfo`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum IntrType {
    /// External interrupt.
    ExternalInterrupt = 0,
    /// Reserved.
    Reserved = 1,
    /// Non-maskable interrupt.
    Nmi = 2,
    /// Hardware exception, such as #PF.
    HardwareException = 3,
    /// Software interrupt (INT n).
    SoftwareInterrupt = 4,
    /// Privileged software exception (INT1).
    PrivilegedSoftwareException = 5,
    /// Software exception (INT3 or INTO).
    SoftwareException = 6,
    /// Other event: a pending MTF VM exit (vector 0), on entry only.
    OtherEvent = 7,
}

impl IntrType {
    /// Returns whether delivery pushes RIP plus the VM-entry instruction length.
    #[inline]
    pub const fn is_software(self) -> bool {
        matches!(
            self,
            Self::SoftwareInterrupt | Self::PrivilegedSoftwareException | Self::SoftwareException
        )
    }
}

impl IntrInfo {
    /// Makes a valid field without an error code.
    #[inline]
    pub fn event(kind: IntrType, vector: u8) -> Self {
        Self(0)
            .with_valid(true)
            .with_type_code(kind as u8)
            .with_vector(vector)
    }

    /// Returns the interruption type.
    #[inline]
    pub fn intr_type(self) -> IntrType {
        match self.type_code() {
            0 => IntrType::ExternalInterrupt,
            2 => IntrType::Nmi,
            3 => IntrType::HardwareException,
            4 => IntrType::SoftwareInterrupt,
            5 => IntrType::PrivilegedSoftwareException,
            6 => IntrType::SoftwareException,
            7 => IntrType::OtherEvent,
            _ => IntrType::Reserved,
        }
    }

    /// Returns whether this is a valid event of type `kind` and number `vector`.
    #[inline]
    pub fn is(self, kind: IntrType, vector: u8) -> bool {
        self.valid() && self.type_code() == kind as u8 && self.vector() == vector
    }

    /// Returns whether this is a valid hardware exception `vector`.
    #[inline]
    pub fn is_exception(self, vector: u8) -> bool {
        self.is(IntrType::HardwareException, vector)
    }

    /// Returns whether this is a valid NMI.
    #[inline]
    pub fn is_nmi(self) -> bool {
        self.valid() && self.type_code() == IntrType::Nmi as u8
    }

    /// Returns whether this is a valid external interrupt.
    #[inline]
    pub fn is_external_interrupt(self) -> bool {
        self.valid() && self.type_code() == IntrType::ExternalInterrupt as u8
    }
}

impl Interruptibility {
    /// The bits that a processor defines; the others must be 0.
    pub const DEFINED: u32 = 0x1f;
}

impl PendingDebug {
    /// The bits that a processor defines; the others must be 0.
    pub const DEFINED: u64 = 0x1_580f;

    /// Returns what is pending of a debug trap whose bits for DR6 are `dr6`. SDM 3C "Guest Non-Register
    /// State", 25.4.2.
    pub fn of_trap(dr6: u64) -> Self {
        let breakpoints = Self(dr6).breakpoints();
        Self(0)
            .with_breakpoints(breakpoints)
            .with_enabled_breakpoint(breakpoints != 0)
            .with_single_step(Self(dr6).single_step())
    }
}

/// Activity states. SDM 3C "Guest Non-Register State", 25.4.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u32)]
pub enum ActivityState {
    /// Executing instructions.
    #[default]
    Active = 0,
    /// Halted by HLT.
    Hlt = 1,
    /// Shut down by a triple fault.
    Shutdown = 2,
    /// Waiting for a startup IPI.
    WaitForSipi = 3,
}

impl TryFrom<u32> for ActivityState {
    type Error = ();

    fn try_from(raw: u32) -> Result<Self, ()> {
        match raw {
            0 => Ok(Self::Active),
            1 => Ok(Self::Hlt),
            2 => Ok(Self::Shutdown),
            3 => Ok(Self::WaitForSipi),
            _ => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Pfn;

    #[test]
    fn pending_trap_has_its_cause_and_says_whether_a_breakpoint_was_enabled() {
        assert_eq!(PendingDebug::of_trap(1 << 14 | 1 << 13).0, 1 << 14);
        assert_eq!(PendingDebug::of_trap(0b0100).0, 1 << 12 | 0b0100);
    }

    #[test]
    fn control_bits_sit_where_the_manual_puts_them() {
        assert_eq!(PinCtls(0).with_posted_intr(true).0, 1 << 7);
        assert_eq!(
            ProcCtls(0)
                .with_monitor_trap_flag(true)
                .with_secondary(true)
                .0,
            0x8800_0000
        );
        assert_eq!(
            Proc2Ctls(0).with_ept(true).with_tsc_scaling(true).0,
            0x0200_0002
        );
        assert_eq!(
            ExitCtls(0).with_host_64bit(true).with_ack_intr(true).0,
            0x8200
        );
        assert_eq!(
            EntryCtls(0).with_load_efer(true).with_load_cet(true).0,
            0x10_8000
        );
        assert_eq!(Proc3Ctls(0).with_virtualize_spec_ctrl(true).0, 0x80);
    }

    #[test]
    fn sets_subtract_and_contain() {
        let a = ProcCtls(0b1110);
        assert_eq!(a.without(ProcCtls(0b0110)), ProcCtls(0b1000));
        assert!(a.contains(ProcCtls(0b1010)));
        assert!(!a.contains(ProcCtls(0b0011)));
        assert_eq!(a.intersection(ProcCtls(0b0011)), ProcCtls(0b0010));
    }

    #[test]
    fn four_level_write_back_eptp_ends_in_1e() {
        assert_eq!(Eptp::new(Pfn(0x12345), 4).0, 0x1234_501e);
    }

    #[test]
    fn event_words_round_trip() {
        let gp = IntrInfo::event(IntrType::HardwareException, 13).with_has_error_code(true);
        assert_eq!(gp.0, 0x8000_0b0d);
        assert!(gp.is_exception(13) && !gp.is_exception(14) && !gp.is_nmi());
        assert!(
            !IntrInfo(gp.0 & 0x7fff_ffff).is_exception(13),
            "an invalid word is no event"
        );
        for code in 0..8 {
            assert_eq!(IntrInfo(0).with_type_code(code).intr_type() as u8, code);
        }
    }

    #[test]
    fn activity_states_beyond_three_are_refused() {
        assert_eq!(ActivityState::try_from(3), Ok(ActivityState::WaitForSipi));
        assert_eq!(ActivityState::try_from(4), Err(()));
    }
}
