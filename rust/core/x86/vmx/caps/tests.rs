// SPDX-License-Identifier: GPL-2.0

use super::*;

fn ctl(allowed0: u32, allowed1: u32) -> CtlMsr {
    CtlMsr(0).with_allowed0(allowed0).with_allowed1(allowed1)
}

/// A processor like Bochs' arrow_lake model: every field as that reports it, in essence.
fn full() -> VmxCaps {
    VmxCaps {
        basic: VmxBasic(0)
            .with_revision(0x2b)
            .with_region_size(4096)
            .with_memory_type(6)
            .with_ins_outs_info(true)
            .with_true_ctls(true),
        pinbased: ctl(0x16, 0xff),
        procbased: ctl(0x0401_e172, 0xfff9_fffe),
        exit: ctl(0x3_6dff, 0x107f_ffff),
        entry: ctl(0x11ff, 0x0010_f3ff | 0x1_0000),
        misc: VmxMisc(0x6004_01e0),
        procbased2: ctl(0, 0x06d7_7fff),
        ept_vpid: EptVpidCap(0xf01_06f3_4141),
        true_pinbased: ctl(0x16, 0xff),
        true_procbased: ctl(0x0400_6172, 0xfff9_fffe),
        true_exit: ctl(0x3_6dfb, 0x107f_ffff),
        true_entry: ctl(0x11fb, 0x0011_f3ff),
        ..VmxCaps::default()
    }
}

#[test]
fn adjust_never_drops_a_required_bit() {
    assert_eq!(adjust(0b1100, 0, ctl(0, 0b0111)), Err(MissingBits(0b1000)));
    assert_eq!(adjust(0b0100, 0b1010, ctl(0b0001, 0b0111)), Ok(0b0111));
}

#[test]
fn full_processor_is_a_host() {
    let set = HostSupport::from_caps(&full(), Params::default()).unwrap();
    let c = set.initial;
    assert!(c.pin.ext_intr_exiting() && c.pin.nmi_exiting() && c.pin.virtual_nmis());
    assert!(!c.pin.preemption_timer() && !c.pin.posted_intr());
    assert!(c.proc.msr_bitmaps() && c.proc.tpr_shadow() && c.proc.secondary());
    assert!(!c.proc.cr8_load_exiting() && !c.proc.cr3_load_exiting() && !c.proc.intr_window());
    assert!(c.proc2.ept() && c.proc2.vpid() && c.proc2.unrestricted_guest());
    assert!(!c.proc2.vmcs_shadowing() && !c.proc2.virtual_intr_delivery());
    assert!(c.exit.host_64bit() && c.exit.ack_intr() && c.exit.load_efer());
    assert!(c.entry.load_efer() && !c.entry.ia32e());
    assert!(set.has_apicv() && set.has_preemption_timer() && set.has_vmcs_shadowing());
    assert!(set.switchable.proc.intr_window() && set.switchable.proc.nmi_window());
    assert!(set.switchable.entry.ia32e());
}

#[test]
fn all_words_stay_within_the_allowed_settings() {
    let caps = full();
    let set = HostSupport::from_caps(&caps, Params::default()).unwrap();
    for (word, more, msr) in [
        (set.initial.pin.0, set.switchable.pin.0, caps.pin()),
        (set.initial.proc.0, set.switchable.proc.0, caps.proc()),
        (set.initial.proc2.0, set.switchable.proc2.0, caps.procbased2),
        (set.initial.exit.0, set.switchable.exit.0, caps.exit_ctls()),
        (
            set.initial.entry.0,
            set.switchable.entry.0,
            caps.entry_ctls(),
        ),
    ] {
        assert_eq!(word & msr.allowed0(), msr.allowed0());
        assert_eq!((word | more) & !msr.allowed1(), 0);
    }
}

#[test]
fn missing_feature_is_named() {
    let without2 = |bits: Proc2Ctls| {
        let mut caps = full();
        caps.procbased2 = ctl(0, caps.procbased2.allowed1() & !bits.0);
        HostSupport::from_caps(&caps, Params::default())
            .unwrap_err()
            .0
    };
    assert_eq!(without2(Proc2Ctls(0).with_ept(true)), "EPT");
    assert_eq!(without2(Proc2Ctls(0).with_vpid(true)), "VPID");
    assert_eq!(
        without2(Proc2Ctls(0).with_unrestricted_guest(true)),
        "unrestricted guest"
    );

    let mut caps = full();
    let bit = ProcCtls(0).with_msr_bitmaps(true).0;
    caps.true_procbased = ctl(0x0400_6172, caps.true_procbased.allowed1() & !bit);
    assert_eq!(
        HostSupport::from_caps(&caps, Params::default()),
        Err(Missing("MSR bitmaps"))
    );

    let mut caps = full();
    caps.true_entry = ctl(0x11fb, 0x0011_73ff);
    assert_eq!(
        HostSupport::from_caps(&caps, Params::default()),
        Err(Missing("loading of IA32_EFER on VM entry"))
    );

    let mut caps = full();
    caps.ept_vpid = caps.ept_vpid.with_four_levels(false);
    assert_eq!(
        HostSupport::from_caps(&caps, Params::default()),
        Err(Missing("EPT with four levels"))
    );
}

#[test]
fn parameters_that_burrow_cannot_honour_are_refused() {
    for (params, word) in [
        (
            Params {
                ept: false,
                ..Params::default()
            },
            "ept=0",
        ),
        (
            Params {
                vpid: false,
                ..Params::default()
            },
            "vpid=0",
        ),
        (
            Params {
                unrestricted_guest: false,
                ..Params::default()
            },
            "unrestricted_guest=0",
        ),
    ] {
        let Missing(name) = HostSupport::from_caps(&full(), params).unwrap_err();
        assert!(name.contains(word), "{name}");
    }
}

#[test]
fn parameters_turn_optional_features_off() {
    let params = Params {
        enable_shadow_vmcs: false,
        preemption_timer: false,
        enable_apicv: false,
        ..Params::default()
    };
    let set = HostSupport::from_caps(&full(), params).unwrap();
    assert!(!set.has_apicv() && !set.has_preemption_timer() && !set.has_vmcs_shadowing());
    let set = HostSupport::from_caps(
        &full(),
        Params {
            nested: false,
            ..Params::default()
        },
    )
    .unwrap();
    assert!(!set.has_vmcs_shadowing());
}

#[test]
fn without_a_tpr_shadow_cr8_exits() {
    let mut caps = full();
    let bit = ProcCtls(0).with_tpr_shadow(true).0;
    caps.true_procbased = ctl(0x0400_6172, caps.true_procbased.allowed1() & !bit);
    let set = HostSupport::from_caps(&caps, Params::default()).unwrap();
    assert!(set.initial.proc.cr8_load_exiting() && set.initial.proc.cr8_store_exiting());
    assert!(!set.has_apicv() && !set.switchable.proc2.virtualize_apic());

    let set = HostSupport::from_caps(&full(), Params::default()).unwrap();
    let c = set.initial.without_tpr_shadow();
    assert!(c.proc.cr8_load_exiting() && c.proc.cr8_store_exiting() && !c.proc.tpr_shadow());
}

#[test]
fn unknown_control_forced_to_1_is_refused() {
    let mut caps = full();
    caps.procbased2 = ctl(1 << 29, 0x26d7_7fff);
    assert!(HostSupport::from_caps(&caps, Params::default()).is_err());
}

#[test]
fn processor_without_true_msrs_forces_cr3_exits() {
    let mut caps = full();
    caps.basic = caps.basic.with_true_ctls(false);
    let set = HostSupport::from_caps(&caps, Params::default()).unwrap();
    assert!(set.initial.proc.cr3_load_exiting() && set.initial.proc.cr3_store_exiting());
}

#[test]
fn absent_msrs_are_not_read() {
    let mut reads = Vec::new();
    let caps = VmxCaps::read(|number| {
        reads.push(number);
        0
    });
    assert_eq!(reads, (0x480..=0x48a).collect::<Vec<_>>());
    assert_eq!(caps, VmxCaps::default());
}

#[test]
fn present_msrs_are_read_into_their_fields() {
    let want = full();
    let caps = VmxCaps::read(|number| match number {
        msr::IA32_VMX_BASIC => want.basic.0,
        msr::IA32_VMX_PINBASED_CTLS => want.pinbased.0,
        msr::IA32_VMX_PROCBASED_CTLS => want.procbased.0,
        msr::IA32_VMX_EXIT_CTLS => want.exit.0,
        msr::IA32_VMX_ENTRY_CTLS => want.entry.0,
        msr::IA32_VMX_MISC => want.misc.0,
        msr::IA32_VMX_PROCBASED_CTLS2 => want.procbased2.0,
        msr::IA32_VMX_EPT_VPID_CAP => want.ept_vpid.0,
        msr::IA32_VMX_TRUE_PINBASED_CTLS => want.true_pinbased.0,
        msr::IA32_VMX_TRUE_PROCBASED_CTLS => want.true_procbased.0,
        msr::IA32_VMX_TRUE_EXIT_CTLS => want.true_exit.0,
        msr::IA32_VMX_TRUE_ENTRY_CTLS => want.true_entry.0,
        0x486..=0x48a | 0x491..=0x493 => 0,
        _ => panic!("{number:#x} is no VMX capability MSR"),
    });
    assert_eq!(caps, want);
}

#[test]
fn msr_list_maximum_follows_misc() {
    assert_eq!(VmxMisc(0).msr_list_max(), 512);
    assert_eq!(VmxMisc(0).with_msr_list_code(7).msr_list_max(), 4096);
}
