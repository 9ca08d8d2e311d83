// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::x86::msr::index::*;
use crate::x86::msr::soft::SoftMsrs;
use proptest::prelude::*;

const NONE: Caps = Caps {
    tsc_aux: false,
    spec_ctrl: 0,
    spec_ctrl_hardware: 0,
    ibpb: false,
    flush_l1d: false,
    arch_capabilities: false,
    perf_capabilities: None,
    tsx_ctrl: false,
    tsc_adjust: false,
    waitpkg: false,
    xss: None,
    mwait: MwaitControl::Inert,
    vmx: false,
    lmce: false,
    bus_lock_detect: false,
    rtm: false,
    smm: false,
    platform_info: false,
    paravirt: 0,
    maxphyaddr: 46,
    linear_width: LinearWidth::Bits48,
};

const ALL: Caps = Caps {
    tsc_aux: true,
    spec_ctrl: 7,
    spec_ctrl_hardware: 0x407,
    ibpb: true,
    flush_l1d: true,
    arch_capabilities: true,
    perf_capabilities: Some(0x2000),
    tsx_ctrl: true,
    tsc_adjust: true,
    waitpkg: true,
    xss: Some(0x100),
    mwait: MwaitControl::Followed,
    vmx: true,
    lmce: true,
    bus_lock_detect: true,
    rtm: true,
    smm: true,
    platform_info: true,
    paravirt: u32::MAX,
    ..NONE
};

fn write(number: u32, value: u64, origin: Origin, caps: &Caps) -> Result<u64, Refused> {
    check_write(number, value, origin, caps, &SoftMsrs::new(Some(0))).map(|w| w.value)
}

#[test]
fn guest_cpuid_hides_msrs_from_the_guest() {
    let hidden = [
        IA32_TSC_AUX,
        IA32_TSX_CTRL,
        IA32_SPEC_CTRL,
        IA32_PRED_CMD,
        IA32_FLUSH_CMD,
        IA32_XSS,
        IA32_VMX_BASIC,
        IA32_ARCH_CAPABILITIES,
        IA32_PERF_CAPABILITIES,
        IA32_UMWAIT_CONTROL,
        IA32_SMBASE,
        IA32_MCG_EXT_CTL,
        MSR_PLATFORM_INFO,
        MSR_KVM_WALL_CLOCK,
        MSR_KVM_SYSTEM_TIME_NEW,
        MSR_KVM_STEAL_TIME,
    ];
    for number in hidden {
        assert_eq!(
            find(number, Origin::Guest, &NONE),
            Err(Refused::Unknown),
            "{number:#x}"
        );
        let shown = find(number, Origin::Host, &ALL);
        assert_eq!(shown, Ok(msr::owner(number).unwrap()), "{number:#x}");
    }
    assert_eq!(
        find(IA32_SMBASE, Origin::Guest, &ALL),
        Err(Refused::Unknown)
    );
    let old = Caps {
        paravirt: paravirt_feature::CLOCKSOURCE,
        ..NONE
    };
    assert!(find(MSR_KVM_SYSTEM_TIME, Origin::Guest, &old).is_ok());
    assert!(find(MSR_KVM_SYSTEM_TIME_NEW, Origin::Guest, &old).is_err());
}

#[test]
fn a_vmm_sees_platform_info_whatever_the_guest_may() {
    assert!(find(MSR_PLATFORM_INFO, Origin::Host, &NONE).is_ok());
}

#[test]
fn commands_cannot_be_read() {
    assert_eq!(
        check_read(IA32_PRED_CMD, Origin::Guest, &ALL),
        Err(Refused::Invalid)
    );
    assert_eq!(check_read(IA32_TSC, Origin::Guest, &NONE), Ok(Owner::Tsc));
}

/// (number, value, by the guest, by the VMM): `None` for a refused value.
type Case = (u32, u64, Option<u64>, Option<u64>);

const CASES: [Case; 40] = [
    (MSR_K7_HWCR, 0x148, Some(0), Some(0)),
    (MSR_K7_HWCR, 0x104_0000, Some(0x104_0000), Some(0x104_0000)),
    (MSR_K7_HWCR, 1, None, None),
    (MSR_K7_HWCR, 1 << 35, None, None),
    (
        IA32_LSTAR,
        0xffff_8000_0000_0000,
        Some(0xffff_8000_0000_0000),
        Some(0xffff_8000_0000_0000),
    ),
    (IA32_LSTAR, 1 << 47, None, None),
    (IA32_KERNEL_GS_BASE, 1 << 47, None, None),
    (IA32_FS_BASE, 1 << 48, None, None),
    (
        IA32_SYSENTER_EIP,
        1 << 47,
        None,
        Some(0xffff_8000_0000_0000),
    ),
    (IA32_FMASK, 1 << 32, None, None),
    (IA32_TSC_AUX, 1 << 32, None, None),
    (IA32_TSC_AUX, 5, Some(5), Some(5)),
    (IA32_PAT, 2, None, None),
    (IA32_SPEC_CTRL, 7, Some(7), Some(7)),
    (IA32_SPEC_CTRL, 0x400, None, Some(0x400)),
    (IA32_SPEC_CTRL, 0x800, None, None),
    (IA32_PRED_CMD, 1, Some(1), Some(1)),
    (IA32_PRED_CMD, 2, None, None),
    (IA32_XSS, 0x100, Some(0x100), Some(0x100)),
    (IA32_XSS, 1, None, None),
    (IA32_TSX_CTRL, 4, None, None),
    (IA32_VMX_BASIC, 1, None, Some(1)),
    (IA32_ARCH_CAPABILITIES, 1, None, Some(1)),
    (IA32_PERF_CAPABILITIES, 0x2000, None, Some(0x2000)),
    (IA32_PERF_CAPABILITIES, 1, None, None),
    (IA32_BIOS_SIGN_ID, 0, Some(1 << 32), Some(0)),
    (MSR_SMI_COUNT, 3, None, Some(3)),
    (IA32_FEATURE_CONTROL, 5, Some(5), Some(5)),
    (IA32_FEATURE_CONTROL, 2, None, Some(2)),
    (IA32_MCG_EXT_CTL, 1, None, Some(1)),
    (IA32_UMWAIT_CONTROL, 2, None, None),
    (MSR_MISC_FEATURES_ENABLES, 1, Some(1), Some(1)),
    (MSR_MISC_FEATURES_ENABLES, 2, None, None),
    (IA32_DEBUGCTL, 0x8007, Some(0x8004), Some(0x8004)),
    (IA32_DEBUGCTL, 0x40, None, None),
    (IA32_MTRR_DEF_TYPE, 0x806, Some(0x806), Some(0x806)),
    (IA32_MTRRCAP, 0x508, None, None),
    (MSR_KVM_STEAL_TIME, 0x1002, None, None),
    (MSR_KVM_POLL_CONTROL, 2, None, None),
    (IA32_SYSENTER_CS, 1 << 32 | 8, Some(8), Some(8)),
];

#[test]
fn values_are_checked_per_msr() {
    for (number, value, by_guest, by_host) in CASES {
        let guest = write(number, value, Origin::Guest, &ALL);
        assert_eq!(
            guest,
            by_guest.ok_or(Refused::Invalid),
            "{number:#x} {value:#x} guest"
        );
        let host = write(number, value, Origin::Host, &ALL);
        assert_eq!(
            host,
            by_host.ok_or(Refused::Invalid),
            "{number:#x} {value:#x} host"
        );
    }
}

#[test]
fn feature_control_locks_for_the_guest() {
    let mut old = SoftMsrs::new(Some(0));
    old.set(Soft::FeatureControl, 5);
    let w = |origin| check_write(IA32_FEATURE_CONTROL, 1, origin, &ALL, &old).is_ok();
    assert!(!w(Origin::Guest) && w(Origin::Host));
    let no_vmx = Caps { vmx: false, ..ALL };
    let w = |value, origin| write(IA32_FEATURE_CONTROL, value, origin, &no_vmx);
    assert_eq!(w(5, Origin::Guest), Err(Refused::Invalid));
    assert_eq!(w(5, Origin::Host), Ok(5), "CPUID may come later");
    assert_eq!(w(1 << 3, Origin::Host), Err(Refused::Invalid));
}

#[test]
fn misc_enable_keeps_its_read_only_bits_and_cpuid_may_follow_mwait() {
    let old = SoftMsrs::new(Some(0));
    let w = |value, origin, mwait| {
        check_write(
            IA32_MISC_ENABLE,
            value,
            origin,
            &Caps { mwait, ..ALL },
            &old,
        )
        .map(|w| (w.value, w.cpuid_changed))
    };
    use MwaitControl::*;
    assert_eq!(w(1, Origin::Host, Inert), Ok((1, false)));
    assert_eq!(w(1, Origin::Guest, Inert), Err(Refused::Invalid));
    assert_eq!(w(0x1881, Origin::Guest, Inert), Ok((0x1801, false)));
    assert_eq!(w(0x4_1800, Origin::Guest, Inert), Ok((0x4_1800, false)));
    assert_eq!(w(0x4_1800, Origin::Guest, Followed), Ok((0x4_1800, true)));
    assert_eq!(w(0x4_1800, Origin::Guest, Fixed), Err(Refused::Invalid));
}

proptest! {
    /// What a guest may write, a VMM may write, or no state could be restored.
    #[test]
    fn host_may_restore_what_the_guest_wrote(at in 0usize..CASES.len(), value: u64) {
        let number = CASES[at].0;
        if let Ok(kept) = write(number, value, Origin::Guest, &ALL) {
            prop_assert_eq!(write(number, kept, Origin::Host, &ALL), Ok(kept));
        }
    }
}
