// SPDX-License-Identifier: GPL-2.0

//! `KVM_GET_MSR_INDEX_LIST`: what a VMM saves and restores; `KVM_GET_MSR_FEATURE_INDEX_LIST`: what
//! describes the processor. A VMM dies if it cannot read a listed MSR, so each one has an owner.

use crate::x86::msr::access::paravirt_feature;
use crate::x86::msr::index::*;

/// What the host and the module have, as far as the lists depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Support {
    /// IA32_TSC_AUX.
    pub tsc_aux: bool,
    /// IA32_SPEC_CTRL.
    pub spec_ctrl: bool,
    /// IA32_TSX_CTRL.
    pub tsx_ctrl: bool,
    /// IA32_UMWAIT_CONTROL.
    pub waitpkg: bool,
    /// IA32_XSS may have a bit set.
    pub xss: bool,
    /// System-management mode is emulated: IA32_SMBASE.
    pub smm: bool,
    /// Nested VMX is offered.
    pub nested: bool,
    /// The number of general counters, at most 8; 0 without performance monitoring.
    pub nr_general_counters: u8,
    /// The number of fixed counters, at most 3.
    pub nr_fixed_counters: u8,
    /// The paravirtual features that work: CPUID.40000001H:EAX as `KVM_GET_SUPPORTED_CPUID` has it.
    pub paravirt: u32,
}

/// What must hold for an MSR to be listed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    TscAux,
    SpecCtrl,
    TsxCtrl,
    Waitpkg,
    Xss,
    Smm,
    Nested,
    /// Any of these paravirtual features.
    Paravirt(u32),
    /// That many general counters.
    General(u8),
    /// That many fixed counters.
    Fixed(u8),
}

impl Support {
    fn has(&self, need: Need) -> bool {
        match need {
            Need::Nothing => true,
            Need::TscAux => self.tsc_aux,
            Need::SpecCtrl => self.spec_ctrl,
            Need::TsxCtrl => self.tsx_ctrl,
            Need::Waitpkg => self.waitpkg,
            Need::Xss => self.xss,
            Need::Smm => self.smm,
            Need::Nested => self.nested,
            Need::Paravirt(bits) => self.paravirt & bits != 0,
            Need::General(count) => self.nr_general_counters >= count,
            Need::Fixed(count) => self.nr_fixed_counters >= count,
        }
    }
}

/// The MSRs that are saved, but for the counters.
const SAVED: [(u32, Need); 57] = [
    (IA32_SYSENTER_CS, Need::Nothing),
    (IA32_SYSENTER_ESP, Need::Nothing),
    (IA32_SYSENTER_EIP, Need::Nothing),
    (IA32_STAR, Need::Nothing),
    (IA32_CSTAR, Need::Nothing),
    (IA32_KERNEL_GS_BASE, Need::Nothing),
    (IA32_FMASK, Need::Nothing),
    (IA32_LSTAR, Need::Nothing),
    (IA32_TSC, Need::Nothing),
    (IA32_PAT, Need::Nothing),
    (IA32_FEATURE_CONTROL, Need::Nothing),
    (IA32_TSC_AUX, Need::TscAux),
    (IA32_SPEC_CTRL, Need::SpecCtrl),
    (IA32_TSX_CTRL, Need::TsxCtrl),
    (IA32_UMWAIT_CONTROL, Need::Waitpkg),
    (IA32_XSS, Need::Xss),
    (IA32_DEBUGCTL, Need::Nothing),
    (MSR_LASTBRANCH_FROM_IP, Need::Nothing),
    (MSR_LASTBRANCH_TO_IP, Need::Nothing),
    (MSR_LER_FROM_IP, Need::Nothing),
    (MSR_LER_TO_IP, Need::Nothing),
    (
        MSR_KVM_SYSTEM_TIME,
        Need::Paravirt(paravirt_feature::CLOCKSOURCE),
    ),
    (
        MSR_KVM_WALL_CLOCK,
        Need::Paravirt(paravirt_feature::CLOCKSOURCE),
    ),
    (
        MSR_KVM_SYSTEM_TIME_NEW,
        Need::Paravirt(paravirt_feature::CLOCKSOURCE2),
    ),
    (
        MSR_KVM_WALL_CLOCK_NEW,
        Need::Paravirt(paravirt_feature::CLOCKSOURCE2),
    ),
    (
        MSR_KVM_ASYNC_PF_EN,
        Need::Paravirt(paravirt_feature::ASYNC_PF),
    ),
    (
        MSR_KVM_STEAL_TIME,
        Need::Paravirt(paravirt_feature::STEAL_TIME),
    ),
    (MSR_KVM_PV_EOI_EN, Need::Paravirt(paravirt_feature::PV_EOI)),
    (
        MSR_KVM_ASYNC_PF_INT,
        Need::Paravirt(paravirt_feature::ASYNC_PF_INT),
    ),
    (
        MSR_KVM_ASYNC_PF_ACK,
        Need::Paravirt(paravirt_feature::ASYNC_PF_INT),
    ),
    (
        MSR_KVM_POLL_CONTROL,
        Need::Paravirt(paravirt_feature::POLL_CONTROL),
    ),
    (IA32_TSC_ADJUST, Need::Nothing),
    (IA32_TSC_DEADLINE, Need::Nothing),
    (IA32_ARCH_CAPABILITIES, Need::Nothing),
    (IA32_PERF_CAPABILITIES, Need::Nothing),
    (IA32_MISC_ENABLE, Need::Nothing),
    (IA32_MCG_STATUS, Need::Nothing),
    (IA32_MCG_CTL, Need::Nothing),
    (IA32_MCG_EXT_CTL, Need::Nothing),
    (IA32_SMBASE, Need::Smm),
    (MSR_SMI_COUNT, Need::Nothing),
    (MSR_PLATFORM_INFO, Need::Nothing),
    (MSR_MISC_FEATURES_ENABLES, Need::Nothing),
    (MSR_POWER_CTL, Need::Nothing),
    (IA32_BIOS_SIGN_ID, Need::Nothing),
    (MSR_K7_HWCR, Need::Nothing),
    (IA32_VMX_BASIC, Need::Nested),
    (IA32_VMX_TRUE_PINBASED_CTLS, Need::Nested),
    (IA32_VMX_TRUE_PROCBASED_CTLS, Need::Nested),
    (IA32_VMX_TRUE_EXIT_CTLS, Need::Nested),
    (IA32_VMX_TRUE_ENTRY_CTLS, Need::Nested),
    (IA32_VMX_MISC, Need::Nested),
    (IA32_VMX_CR0_FIXED0, Need::Nested),
    (IA32_VMX_CR4_FIXED0, Need::Nested),
    (IA32_VMX_VMCS_ENUM, Need::Nested),
    (IA32_VMX_PROCBASED_CTLS2, Need::Nested),
    (IA32_VMX_EPT_VPID_CAP, Need::Nested),
];

/// The MSRs of performance monitoring that exist once.
const PMU_CONTROLS: [(u32, Need); 4] = [
    (IA32_FIXED_CTR_CTRL, Need::Fixed(1)),
    (IA32_PERF_GLOBAL_STATUS, Need::General(1)),
    (IA32_PERF_GLOBAL_CTRL, Need::General(1)),
    (IA32_VMX_VMFUNC, Need::Nested),
];

/// The MSRs that describe the processor, but for the VMX capabilities.
const FEATURES: [u32; 4] = [
    IA32_BIOS_SIGN_ID,
    IA32_ARCH_CAPABILITIES,
    IA32_PERF_CAPABILITIES,
    MSR_PLATFORM_INFO,
];

/// Passes each MSR that a VMM saves to `sink`, in an order that is always the same.
pub fn saved(support: &Support, mut sink: impl FnMut(u32)) {
    for (number, need) in SAVED.iter().chain(&PMU_CONTROLS) {
        if support.has(*need) {
            sink(*number);
        }
    }
    counters(support, sink);
}

fn counters(support: &Support, mut sink: impl FnMut(u32)) {
    for n in 0..support.nr_fixed_counters.min(3) {
        sink(IA32_FIXED_CTR0.wrapping_add(u32::from(n)));
    }
    for n in 0..support.nr_general_counters.min(8) {
        sink(IA32_PMC0.wrapping_add(u32::from(n)));
        sink(IA32_PERFEVTSEL0.wrapping_add(u32::from(n)));
    }
}

/// Passes each MSR that describes the processor to `sink`.
pub fn features(support: &Support, mut sink: impl FnMut(u32)) {
    if support.nested {
        for number in IA32_VMX_BASIC..=IA32_VMX_VMFUNC {
            sink(number);
        }
    }
    for number in FEATURES {
        sink(number);
    }
}

/// Returns whether MSR `number` is in either list: a VMM may then read it as 0 and write 0 to it
/// even where guest CPUID hides it.
pub fn is_listed(support: &Support, number: u32) -> bool {
    let mut found = false;
    saved(support, |listed| found |= listed == number);
    features(support, |listed| found |= listed == number);
    found
}

/// Returns IA32_ARCH_CAPABILITIES as a guest may see it, from the host's.
///
/// Passed on: immunities, and controls that a guest can use (TSX_CTRL, FB_CLEAR, RFDS_CLEAR).
pub const fn arch_capabilities(host: u64) -> u64 {
    const IMMUNITIES: u64 = (1 << 0)
        | (1 << 1)
        | (1 << 2)
        | (1 << 3)
        | (1 << 4)
        | (1 << 5)
        | (1 << 6)
        | (1 << 8)
        | (1 << 13)
        | (1 << 14)
        | (1 << 15)
        | (1 << 19)
        | (1 << 20)
        | (1 << 24)
        | (1 << 26)
        | (1 << 27)
        | (1 << 62);
    const CONTROLS: u64 = (1 << 7) | (1 << 17) | (1 << 28);
    host & (IMMUNITIES | CONTROLS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::msr;

    const ALL: Support = Support {
        tsc_aux: true,
        spec_ctrl: true,
        tsx_ctrl: true,
        waitpkg: true,
        xss: true,
        smm: true,
        nested: true,
        nr_general_counters: 8,
        nr_fixed_counters: 3,
        paravirt: u32::MAX,
    };

    fn list(support: &Support) -> Vec<u32> {
        let mut all = Vec::new();
        saved(support, |number| all.push(number));
        all
    }

    #[test]
    fn every_listed_msr_has_an_owner_and_is_listed_once() {
        let mut all = list(&ALL);
        for number in &all {
            assert!(msr::owner(*number).is_some(), "{number:#x}");
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(count < 228, "{count}");
        features(&ALL, |number| {
            assert!(msr::owner(number).is_some(), "{number:#x}")
        });
    }

    #[test]
    fn what_is_not_supported_is_not_listed() {
        let few = list(&Support::default());
        for number in [
            IA32_TSC_AUX,
            IA32_SPEC_CTRL,
            IA32_XSS,
            IA32_SMBASE,
            IA32_VMX_BASIC,
            IA32_VMX_VMFUNC,
            IA32_PMC0,
            IA32_FIXED_CTR0,
            IA32_PERF_GLOBAL_CTRL,
            MSR_KVM_WALL_CLOCK_NEW,
        ] {
            assert!(!few.contains(&number), "{number:#x}");
            assert!(list(&ALL).contains(&number), "{number:#x}");
        }
        let two = Support {
            nr_general_counters: 2,
            ..Support::default()
        };
        assert!(list(&two).contains(&(IA32_PMC0 + 1)) && !list(&two).contains(&(IA32_PMC0 + 2)));
    }

    #[test]
    fn clients_find_what_they_ask_for() {
        let few = list(&Support::default());
        for number in [
            IA32_TSC,
            IA32_TSC_DEADLINE,
            IA32_TSC_ADJUST,
            IA32_MISC_ENABLE,
            IA32_KERNEL_GS_BASE,
            IA32_BIOS_SIGN_ID,
        ] {
            assert!(few.contains(&number), "{number:#x}");
        }
        assert!(is_listed(&Support::default(), 0x10a) && is_listed(&Support::default(), 0x345));
        assert!(!is_listed(&Support::default(), IA32_VMX_BASIC));
        assert!(!is_listed(&ALL, 0x474f_4f00));
    }

    #[test]
    fn arch_capabilities_hide_controls_that_are_the_hosts() {
        // MCU_ENUM, FB_CLEAR_CTRL, XAPIC_DISABLE, GDS_CTRL.
        let hosts = 1 << 16 | 1 << 18 | 1 << 21 | 1 << 25;
        assert_eq!(arch_capabilities(u64::MAX) & hosts, 0);
        assert_eq!(arch_capabilities(1 << 8 | 1 << 7), 1 << 8 | 1 << 7);
    }
}
