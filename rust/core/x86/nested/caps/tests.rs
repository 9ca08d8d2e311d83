// SPDX-License-Identifier: GPL-2.0

use super::super::super::vmx::caps::{
    HostSupport,
    Params, //
};
use super::*;

/// A processor with everything.
pub(in super::super) fn hardware() -> VmxCaps {
    let any = CtlMsr(0xffff_ffff_0000_0000);
    VmxCaps {
        basic: VmxBasic(0)
            .with_region_size(4096)
            .with_memory_type(6)
            .with_true_ctls(true),
        true_pinbased: CtlMsr(any.0 | u64::from(PinCtls::DEFAULT1.0)),
        true_procbased: any,
        true_exit: any,
        true_entry: any,
        procbased2: any,
        misc: VmxMisc(0x2000_0020),
        cr0_fixed1: 0xffff_ffff,
        cr4_fixed1: 0x01ff_ffff,
        ept_vpid: EptVpidCap(u64::MAX),
        ..VmxCaps::default()
    }
}

/// What an L1 with everything is offered.
pub(in super::super) fn full() -> VmxCaps {
    let hw = hardware();
    offered(
        &hw,
        &HostSupport::from_caps(&hw, Params::default()).unwrap(),
        Emulated::ALL,
    )
}

#[test]
fn injection_of_length_0_is_offered_where_the_processor_does_it() {
    let mut hw = hardware();
    hw.misc = hw.misc.with_zero_length_injection(true);
    let host = HostSupport::from_caps(&hw, Params::default()).unwrap();
    assert!(offered(&hw, &host, Emulated::NONE)
        .misc
        .zero_length_injection());
}

#[test]
fn identity_is_kvms() {
    let caps = full();
    assert_eq!(caps.basic.revision(), 0x11e5_7ed0);
    assert_eq!(caps.basic.region_size(), 4096);
    assert!(caps.basic.true_ctls() && !caps.basic.dual_monitor());
    assert_eq!(caps.misc.preemption_timer_rate(), 5);
    assert_eq!(
        (caps.misc.cr3_targets(), caps.misc.msr_list_max()),
        (0, 512)
    );
    assert!(caps.misc.activity_hlt() && caps.misc.activity_wait_sipi());
    assert!(!caps.misc.activity_shutdown() && !caps.misc.zero_length_injection());
    assert_eq!((caps.cr0_fixed0, caps.cr4_fixed0), (0x8000_0021, 0x2000));
}

#[test]
fn never_offered_controls_stay_out_whatever_the_processor_has() {
    let caps = full();
    assert!(!ProcCtls(caps.proc().allowed1()).tertiary());
    let proc2 = caps.proc2_allowed();
    assert!(!proc2.ept_violation_ve() && !proc2.pause_loop_exiting() && !proc2.sub_page_write());
    assert!(!proc2.notify() && !proc2.bus_lock_detection() && !proc2.pt_uses_gpa());
    let entry = EntryCtls(caps.entry_ctls().allowed1());
    assert!(!entry.entry_to_smm() && !entry.deactivate_dual_monitor() && !entry.load_pkrs());
    let exit = ExitCtls(caps.exit_ctls().allowed1());
    assert!(!exit.save_perf_global() && !exit.secondary() && !exit.load_pkrs());
}

#[test]
fn non_true_msrs_add_the_default1_bits() {
    let caps = full();
    assert_eq!(caps.procbased.allowed0(), 0x0401_e172);
    assert_eq!(caps.true_procbased.allowed0(), 0x0400_6172);
    assert_eq!(caps.true_exit.allowed0(), 0x0003_6dfb);
    assert_eq!(caps.exit.allowed0(), 0x0003_6dff);
    assert_eq!(caps.true_entry.allowed0(), 0x0000_11fb);
    for msr in [caps.pinbased, caps.procbased, caps.exit, caps.entry] {
        assert_eq!(msr.allowed0() & !msr.allowed1(), 0);
    }
}

#[test]
fn what_is_neither_in_hardware_nor_emulated_is_not_offered() {
    let mut hw = hardware();
    hw.procbased2 = CtlMsr(0).with_allowed1(
        Proc2Ctls(0)
            .with_ept(true)
            .with_vpid(true)
            .with_unrestricted_guest(true)
            .0,
    );
    let host = HostSupport::from_caps(&hw, Params::default()).unwrap();
    let timer = Emulated {
        preemption_timer: true,
        ..Emulated::NONE
    };
    let caps = offered(&hw, &host, timer);
    let want = Proc2Ctls(0)
        .with_ept(true)
        .with_vpid(true)
        .with_unrestricted_guest(true);
    assert_eq!(caps.proc2_allowed(), want);
    assert!(!PinCtls(caps.pin().allowed1()).posted_intr());
    assert!(
        PinCtls(caps.pin().allowed1()).preemption_timer(),
        "it is emulated"
    );
    assert_eq!(caps.vmfunc, 0);
    let fields = field_set(&caps);
    assert!(!fields.contains(field::TSC_MULTIPLIER.encoding()));
    assert!(!fields.contains(field::POSTED_INTR_NV.encoding()));
    assert!(!fields.contains(field::HOST_S_CET.encoding()));
    assert!(fields.contains(field::EPT_POINTER.encoding()));
    assert!(fields.contains(field::GUEST_PML_INDEX.encoding()));
    assert_eq!(caps.vmcs_enum, 0x2e);
}

#[test]
fn what_is_not_emulated_is_not_offered_though_hardware_has_it() {
    let hw = hardware();
    let host = HostSupport::from_caps(&hw, Params::default()).unwrap();
    let caps = offered(&hw, &host, Emulated::NONE);
    let pin = PinCtls(caps.pin().allowed1());
    assert!(!pin.posted_intr() && !pin.preemption_timer());
    assert!(!ExitCtls(caps.exit_ctls().allowed1()).save_preemption_timer());
    let proc2 = caps.proc2_allowed();
    assert!(!proc2.apic_register_virt() && !proc2.virtual_intr_delivery());
    assert!(!proc2.user_wait_pause() && !proc2.vmcs_shadowing() && !proc2.pml());
    assert!(caps.ept_vpid.four_levels() && !caps.ept_vpid.five_levels());
}

#[test]
fn offered_values_restore_themselves() {
    let offer = full();
    for number in msr::IA32_VMX_BASIC..=msr::IA32_VMX_VMFUNC {
        let value = read(&offer, number).unwrap();
        let mut caps = offer;
        let is_derived = matches!(number, 0x481..=0x484 | 0x487 | 0x489);
        assert_eq!(
            restore(&mut caps, &offer, number, value).is_err(),
            is_derived,
            "{number:#x}"
        );
        assert_eq!(caps, offer);
    }
    assert_eq!(read(&offer, msr::IA32_VMX_PROCBASED_CTLS3), None);
    assert_eq!(read(&offer, msr::IA32_VMX_EXIT_CTLS2), None);
}

#[test]
fn restore_may_take_away_but_not_add() {
    let offer = full();
    let mut caps = offer;
    let less = Proc2Ctls(0).with_ept(true);
    let value = CtlMsr(0).with_allowed1(less.0).0;
    restore(&mut caps, &offer, msr::IA32_VMX_PROCBASED_CTLS2, value).unwrap();
    assert_eq!(caps.proc2_allowed(), less);
    // Not only down: what was offered can come back.
    restore(
        &mut caps,
        &offer,
        msr::IA32_VMX_PROCBASED_CTLS2,
        offer.procbased2.0,
    )
    .unwrap();
    for (number, value) in [
        (
            msr::IA32_VMX_PROCBASED_CTLS2,
            offer.procbased2.0 | 1 << (32 + 18),
        ),
        (msr::IA32_VMX_TRUE_PINBASED_CTLS, offer.true_pinbased.0 & !2),
        (msr::IA32_VMX_BASIC, offer.basic.with_dual_monitor(true).0),
        (
            msr::IA32_VMX_BASIC,
            offer.basic.with_32bit_addresses(true).0,
        ),
        (msr::IA32_VMX_BASIC, offer.basic.with_revision(1).0),
        (msr::IA32_VMX_BASIC, offer.basic.with_region_size(0x800).0),
        (msr::IA32_VMX_BASIC, offer.basic.0 | 1 << 63),
        (
            msr::IA32_VMX_MISC,
            offer.misc.with_preemption_timer_rate(6).0,
        ),
        (msr::IA32_VMX_MISC, offer.misc.with_cr3_targets(4).0),
        (msr::IA32_VMX_MISC, offer.misc.with_msr_list_code(1).0),
        (
            msr::IA32_VMX_MISC,
            offer.misc.with_activity_shutdown(true).0,
        ),
        (msr::IA32_VMX_MISC, offer.misc.0 | 1 << 9),
        (msr::IA32_VMX_CR0_FIXED0, offer.cr0_fixed0 & !1),
        (msr::IA32_VMX_CR4_FIXED0, 0),
        (
            msr::IA32_VMX_EPT_VPID_CAP,
            offer.ept_vpid.with_uncacheable(true).0,
        ),
        (msr::IA32_VMX_VMFUNC, 3),
        (msr::IA32_VMX_PROCBASED_CTLS3, 0),
    ] {
        assert_eq!(
            restore(&mut caps, &offer, number, value),
            Err(NotOffered),
            "{number:#x}"
        );
    }
    assert_eq!(caps, offer, "a refused value changes nothing");
}

#[test]
fn restored_true_msr_shows_in_the_non_true_one() {
    let offer = full();
    let mut caps = offer;
    let cr3 = u64::from(ProcCtls(0).with_cr3_load_exiting(true).0);
    let value = offer.true_procbased.0 | cr3;
    restore(&mut caps, &offer, msr::IA32_VMX_TRUE_PROCBASED_CTLS, value).unwrap();
    assert_eq!(caps.procbased.allowed0(), 0x0401_e172);
    let no_hlt = CtlMsr(value & !(1 << (32 + 7)));
    restore(
        &mut caps,
        &offer,
        msr::IA32_VMX_TRUE_PROCBASED_CTLS,
        no_hlt.0,
    )
    .unwrap();
    assert!(!ProcCtls(caps.procbased.allowed1()).hlt_exiting());
}
