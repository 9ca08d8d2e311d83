// SPDX-License-Identifier: GPL-2.0

//! What userspace enables for a VM at any time with `KVM_ENABLE_CAP`, and vCPUs look at while they run.

use burrow_core::x86::irqchip::lapic::SuppressEoi;
use burrow_sys::uapi::*;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// Behaviour of KVM that a VMM can turn off: `KVM_CAP_DISABLE_QUIRKS2`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Quirk {
    /// The bootstrap processor's LINT0 takes interrupts of the PIC from the start.
    Lint0Reenabled = KVM_X86_QUIRK_LINT0_REENABLED,
    /// An OUT to port 0x7e is stepped over before userspace sees it.
    Out7eIncRip = KVM_X86_QUIRK_OUT_7E_INC_RIP,
    /// `CPUID.01H:ECX.MONITOR` does not follow IA32_MISC_ENABLE.MWAIT.
    MiscEnableNoMwait = KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT,
    /// MONITOR and MWAIT do nothing where the guest does not have them.
    MwaitNeverUdFaults = KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS,
    /// VMMCALL is replaced by VMCALL where the guest executes it.
    FixHypercallInsn = KVM_X86_QUIRK_FIX_HYPERCALL_INSN,
    /// A new vCPU has all features that MSRs enumerate.
    StuffFeatureMsrs = KVM_X86_QUIRK_STUFF_FEATURE_MSRS,
}

impl Quirk {
    /// The quirks that can be turned off. Two have no effect here, on or off: caches are off for no
    /// guest (`CD_NW_CLEARED`), and the deletion of a slot unmaps that slot alone (`SLOT_ZAP_ALL`).
    pub(crate) const ALL: u32 = Self::Lint0Reenabled as u32
        | Self::Out7eIncRip as u32
        | Self::MiscEnableNoMwait as u32
        | Self::MwaitNeverUdFaults as u32
        | Self::FixHypercallInsn as u32
        | Self::StuffFeatureMsrs as u32
        | KVM_X86_QUIRK_CD_NW_CLEARED
        | KVM_X86_QUIRK_SLOT_ZAP_ALL;
}

/// The flags of `KVM_CAP_X2APIC_API` that say whether guests can keep EOIs from the I/O APIC.
pub(crate) const EOI_BROADCASTS: u32 =
    KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST | KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST;

/// The options of a VM.
pub(crate) struct Options {
    disabled_quirks: Atomic<u32>,
    /// `KVM_CAP_X2APIC_API`: `KVM_X2APIC_API_*`.
    pub(crate) x2apic_api: Atomic<u32>,
    /// `KVM_CAP_X86_USER_SPACE_MSR`: `KVM_MSR_EXIT_REASON_*`.
    pub(crate) user_space_msr: Atomic<u32>,
    /// `KVM_CAP_EXCEPTION_PAYLOAD`.
    pub(crate) exception_payload: Atomic<bool>,
    /// `KVM_CAP_X86_TRIPLE_FAULT_EVENT`.
    pub(crate) triple_fault_event: Atomic<bool>,
    /// `KVM_CAP_EXIT_ON_EMULATION_FAILURE`.
    pub(crate) exit_on_emulation_failure: Atomic<bool>,
    /// `KVM_CAP_MSR_PLATFORM_INFO`: the guest may read the MSR.
    pub(crate) platform_info: Atomic<bool>,
    /// `KVM_X86_SET_MSR_FILTER` has set a filter, which the VM holds.
    pub(crate) has_msr_filter: Atomic<bool>,
}

impl Options {
    /// Makes the options of a new VM.
    pub(crate) fn new() -> Self {
        Self {
            disabled_quirks: Atomic::new(0),
            x2apic_api: Atomic::new(0),
            user_space_msr: Atomic::new(0),
            exception_payload: Atomic::new(false),
            triple_fault_event: Atomic::new(false),
            exit_on_emulation_failure: Atomic::new(false),
            platform_info: Atomic::new(true),
            has_msr_filter: Atomic::new(false),
        }
    }

    /// Turns off the quirks in `mask`; what is off stays off. The caller holds the lock of the VM's
    /// setup.
    pub(crate) fn disable_quirks(&self, mask: u32) {
        let old = self.disabled_quirks.load(Relaxed);
        self.disabled_quirks.store(old | mask, Relaxed);
    }

    /// Returns whether `quirk` is on.
    #[inline]
    pub(crate) fn has_quirk(&self, quirk: Quirk) -> bool {
        self.disabled_quirks.load(Relaxed) & quirk as u32 == 0
    }

    /// Turns on flags of `KVM_CAP_X2APIC_API`; what is on stays on. The caller holds the lock of the
    /// VM's setup.
    ///
    /// Of the flags on EOI broadcasts, of which `flags` has one at most, the last counts.
    pub(crate) fn add_x2apic_api(&self, flags: u32) {
        let mut old = self.x2apic_api.load(Relaxed);
        if flags & EOI_BROADCASTS != 0 {
            old &= !EOI_BROADCASTS;
        }
        self.x2apic_api.store(old | flags, Relaxed);
    }

    /// Returns what becomes of a guest's wish to keep EOIs from the I/O APIC.
    pub(crate) fn suppress_eoi(&self) -> SuppressEoi {
        let flags = self.x2apic_api.load(Relaxed);
        if flags & KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST != 0 {
            SuppressEoi::Enabled
        } else if flags & KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST != 0 {
            SuppressEoi::Disabled
        } else {
            SuppressEoi::Quirked
        }
    }
}
