// SPDX-License-Identifier: GPL-2.0

//! MSRs whose value software alone keeps: no register and no device stands behind them.

use crate::x86::msr::index;

/// One of these MSRs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Soft {
    /// MSR_SMI_COUNT.
    SmiCount,
    /// IA32_FEATURE_CONTROL.
    FeatureControl,
    /// IA32_BIOS_SIGN_ID, the microcode revision.
    BiosSignId,
    /// IA32_SMBASE.
    Smbase,
    /// MSR_PLATFORM_INFO.
    PlatformInfo,
    /// IA32_UMWAIT_CONTROL.
    UmwaitControl,
    /// IA32_ARCH_CAPABILITIES.
    ArchCapabilities,
    /// MSR_MISC_FEATURES_ENABLES.
    MiscFeaturesEnables,
    /// IA32_MISC_ENABLE.
    MiscEnable,
    /// MSR_POWER_CTL.
    PowerCtl,
    /// IA32_PERF_CAPABILITIES.
    PerfCapabilities,
    /// IA32_MCG_EXT_CTL.
    McgExtCtl,
    /// MSR_K7_HWCR, AMD's hardware configuration, which guests look for on any processor.
    Hwcr,
}

/// The number of MSRs in [`Soft`].
const COUNT: usize = 13;

/// IA32_MISC_ENABLE bits.
pub mod misc_enable {
    /// Performance monitoring available (read-only to a guest).
    pub const EMON: u64 = 1 << 7;
    /// Branch trace storage unavailable (read-only).
    pub const BTS_UNAVAILABLE: u64 = 1 << 11;
    /// PEBS unavailable (read-only).
    pub const PEBS_UNAVAILABLE: u64 = 1 << 12;
    /// MONITOR and MWAIT enabled.
    pub const MWAIT: u64 = 1 << 18;
}

/// MSR_K7_HWCR bits. AMD64 Architecture Programmer's Manual 2 "Hardware Configuration Register (HWCR)",
/// 3.2.10.
pub mod hwcr {
    /// Writable and without effect: TLB cache disable, flush filter disable, IGNNE emulation.
    pub const IGNORED: u64 = (1 << 3) | (1 << 6) | (1 << 8);
    /// Kept: writes to machine-check status registers, and the rate of the TSC.
    pub const KEPT: u64 = (1 << 18) | (1 << 24);
}

/// MSR_PLATFORM_INFO: CPUID faulting is available.
pub const PLATFORM_INFO_CPUID_FAULT: u64 = 1 << 31;

/// IA32_BIOS_SIGN_ID of a new vCPU: revision 1, in the upper half.
const MICROCODE_REVISION: u64 = 1 << 32;

impl Soft {
    /// Returns the MSR with this number, if it is one of these.
    pub const fn of(number: u32) -> Option<Self> {
        Some(match number {
            index::MSR_SMI_COUNT => Self::SmiCount,
            index::IA32_FEATURE_CONTROL => Self::FeatureControl,
            index::IA32_BIOS_SIGN_ID => Self::BiosSignId,
            index::IA32_SMBASE => Self::Smbase,
            index::MSR_PLATFORM_INFO => Self::PlatformInfo,
            index::IA32_UMWAIT_CONTROL => Self::UmwaitControl,
            index::IA32_ARCH_CAPABILITIES => Self::ArchCapabilities,
            index::MSR_MISC_FEATURES_ENABLES => Self::MiscFeaturesEnables,
            index::IA32_MISC_ENABLE => Self::MiscEnable,
            index::MSR_POWER_CTL => Self::PowerCtl,
            index::IA32_PERF_CAPABILITIES => Self::PerfCapabilities,
            index::IA32_MCG_EXT_CTL => Self::McgExtCtl,
            index::MSR_K7_HWCR => Self::Hwcr,
            _ => return None,
        })
    }
}

/// The values of one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SoftMsrs([u64; COUNT]);

impl SoftMsrs {
    /// Returns the values of a new vCPU.
    ///
    /// `arch_capabilities` is IA32_ARCH_CAPABILITIES as the module supports it; `None` leaves all that
    /// MSRs enumerate to the VMM (`KVM_X86_QUIRK_STUFF_FEATURE_MSRS` off). The microcode revision
    /// does not depend on the processor: a VMM that cares sets that of the feature MSR.
    pub fn new(arch_capabilities: Option<u64>) -> Self {
        let mut msrs = Self([0; COUNT]);
        if let Some(arch_capabilities) = arch_capabilities {
            msrs.set(Soft::PlatformInfo, PLATFORM_INFO_CPUID_FAULT);
            msrs.set(Soft::ArchCapabilities, arch_capabilities);
            msrs.set(Soft::BiosSignId, MICROCODE_REVISION);
        }
        msrs.set(
            Soft::MiscEnable,
            misc_enable::BTS_UNAVAILABLE | misc_enable::PEBS_UNAVAILABLE,
        );
        msrs.set(Soft::Smbase, 0x3_0000);
        msrs
    }

    /// Returns the value of `msr`.
    #[inline]
    pub fn get(&self, msr: Soft) -> u64 {
        self.0.get(msr as usize).copied().unwrap_or(0)
    }

    /// Sets the value of `msr`, which [`super::access::check_write`] has passed.
    #[inline]
    pub fn set(&mut self, msr: Soft, value: u64) {
        if let Some(slot) = self.0.get_mut(msr as usize) {
            *slot = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_msr_has_a_slot_of_its_own() {
        let all: Vec<Soft> = (0..0x1000)
            .chain(0xc001_0000..0xc001_1000)
            .filter_map(Soft::of)
            .collect();
        assert_eq!(all.len(), COUNT);
        let mut msrs = SoftMsrs::new(Some(0));
        for (n, msr) in all.iter().enumerate() {
            msrs.set(*msr, n as u64 + 1);
        }
        for (n, msr) in all.iter().enumerate() {
            assert_eq!(msrs.get(*msr), n as u64 + 1, "{msr:?}");
        }
    }

    #[test]
    fn feature_msrs_of_a_new_vcpu_can_be_left_to_the_vmm() {
        let msrs = SoftMsrs::new(None);
        for msr in [Soft::PlatformInfo, Soft::ArchCapabilities, Soft::BiosSignId] {
            assert_eq!(msrs.get(msr), 0, "{msr:?}");
        }
        assert_eq!(msrs.get(Soft::MiscEnable), 0x1800);
    }

    #[test]
    fn new_vcpu_has_no_bts_and_no_pebs() {
        let msrs = SoftMsrs::new(Some(0x2b));
        assert_eq!(msrs.get(Soft::MiscEnable), 0x1800);
        assert_eq!(msrs.get(Soft::ArchCapabilities), 0x2b);
        assert_eq!(msrs.get(Soft::BiosSignId), 1 << 32);
        assert_eq!(msrs.get(Soft::Smbase), 0x30000);
    }
}
