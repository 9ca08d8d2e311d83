// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::x86::cpuid::samples::{
    indexed,
    plain,
    regs,
    table, //
};
use proptest::prelude::*;

fn components() -> Components {
    Components::collect(|_, index| match index {
        2 => regs(256, 576, 0, 0),
        8 => regs(128, 0, 1, 0),
        9 => regs(8, 2688, 0, 0),
        _ => Regs::default(),
    })
}

#[test]
fn run_time_bits_follow_the_vcpu() {
    let mut t = table();
    let off = Runtime {
        cr4: Cr4(0),
        apic_enabled: false,
        mwait: None,
        xcr0: 1,
        xss: 0,
    };
    update(&mut t, &off, &components());
    let bits = |t: &[Entry]| {
        let one = find(t, 1, 0).unwrap().regs;
        let seven = find(t, 7, 0).unwrap().regs;
        (
            one.ecx >> 27 & 1,
            one.edx >> 9 & 1,
            one.ecx >> 3 & 1,
            seven.ecx >> 4 & 1,
        )
    };
    assert_eq!(bits(&t), (0, 0, 1, 0));
    assert_eq!(
        (
            find(&t, 0xd, 0).unwrap().regs.ebx,
            find(&t, 0xd, 1).unwrap().regs.ebx
        ),
        (576, 576)
    );
    let on = Runtime {
        cr4: Cr4(Cr4::OSXSAVE | Cr4::PKE),
        apic_enabled: true,
        mwait: Some(false),
        xcr0: 0x207,
        xss: 0x100,
    };
    update(&mut t, &on, &components());
    assert_eq!(bits(&t), (1, 1, 0, 1));
    assert_eq!(find(&t, 0xd, 0).unwrap().regs.ebx, 2696);
    assert_eq!(find(&t, 0xd, 1).unwrap().regs.ebx, 576 + 256 + 128 + 8);
}

#[test]
fn compacted_size_needs_xsavec_or_xsaves() {
    let mut t = vec![indexed(0xd, 1, regs(1, 5, 0, 0))];
    let runtime = Runtime {
        cr4: Cr4(0),
        apic_enabled: true,
        mwait: None,
        xcr0: 7,
        xss: 0,
    };
    update(&mut t, &runtime, &components());
    assert_eq!(t[0].regs.ebx, 5);
}

#[test]
fn linear_addresses_have_48_or_57_bits() {
    let with = |eax| check(&[plain(0x8000_0008, regs(eax, 0, 0, 0))]);
    assert_eq!(with(0x302e), Ok(()));
    assert_eq!(with(0x392e), Ok(()));
    assert_eq!(with(0x2e), Ok(()));
    assert_eq!(with(0x202e), Err(Invalid));
    assert_eq!(check(&[]), Ok(()));
}

#[test]
fn limits_need_both_the_table_and_support() {
    let guest = Capabilities::of(&table(), &feature::KNOWN, 0x2e7, 0x100);
    let l = guest.limits();
    assert_eq!(
        l.cr4_reserved & (Cr4::VMXE | Cr4::PCIDE | Cr4::SMEP | Cr4::OSXSAVE),
        0
    );
    assert_ne!(l.cr4_reserved & Cr4::CET, 0);
    assert_ne!(l.cr4_reserved & (1 << 15), 0);
    assert_eq!(
        (l.xcr0_allowed, l.xss_allowed, l.maxphyaddr),
        (0x207, 0x100, 46)
    );
    assert_eq!(
        l.efer_reserved,
        !(Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE)
    );

    let mut supported = feature::KNOWN;
    supported.remove(&[feature::VMX, feature::XSAVE, feature::NX]);
    let l = Capabilities::of(&table(), &supported, 0x2e7, 0).limits();
    assert_eq!(
        l.cr4_reserved & (Cr4::VMXE | Cr4::OSXSAVE),
        Cr4::VMXE | Cr4::OSXSAVE
    );
    assert_eq!((l.xcr0_allowed, l.xss_allowed), (0, 0));
    assert_ne!(l.efer_reserved & Efer::NXE, 0);

    let l = Capabilities::of(&[], &feature::KNOWN, 0x2e7, 0).limits();
    assert_eq!((l.cr4_reserved, l.maxphyaddr), (!Cr4::ALWAYS, 36));
    assert_eq!(l.efer_reserved & Efer::SCE, 0);
}

#[test]
fn hypervisor_that_is_offered_ibrs_trusts_it() {
    let with = Capabilities::of(&table(), &feature::KNOWN, 0x2e7, 0);
    assert!(with.trusts_ibrs());
    let mut without = table();
    for entry in without.iter_mut().filter(|entry| entry.function == 7) {
        entry.regs.edx &= !(1 << 26);
    }
    assert!(!Capabilities::of(&without, &feature::KNOWN, 0x2e7, 0).trusts_ibrs());
}

#[test]
fn msr_caps_follow_the_table() {
    let context = MsrContext {
        spec_ctrl_hardware: 0x407,
        perf_capabilities: 0x2000,
        tsx_ctrl: true,
        mwait_followed: true,
        lmce: false,
        smm: false,
        platform_info: true,
        paravirt: 9,
        linear_width: LinearWidth::Bits48,
    };
    let all = Capabilities::of(&table(), &feature::KNOWN, 0x2e7, 0x100);
    let caps = all.msr_caps(&context);
    assert!(caps.tsc_aux && caps.ibpb && caps.vmx && caps.rtm && caps.tsx_ctrl);
    assert_eq!(
        (caps.spec_ctrl, caps.spec_ctrl_hardware),
        (7, 0x407),
        "leaf 07H.2 is missing"
    );
    assert_eq!(
        (caps.xss, caps.perf_capabilities),
        (Some(0x100), Some(0x2000))
    );
    assert_eq!(
        (caps.mwait, caps.paravirt, caps.maxphyaddr),
        (MwaitControl::Followed, 9, 46)
    );
    let none = Capabilities::of(&[], &feature::KNOWN, 0, 0).msr_caps(&context);
    assert!(!none.tsc_aux && !none.ibpb && !none.vmx && !none.arch_capabilities);
    assert_eq!(
        (none.spec_ctrl, none.xss, none.perf_capabilities),
        (0, None, None)
    );
    assert_eq!(none.mwait, MwaitControl::Fixed);
}

#[test]
fn maxphyaddr_counts_only_within_the_extended_range() {
    let mut t = table();
    t[9].regs.eax = 0x8000_0007;
    assert_eq!(maxphyaddr(&t), 36);
}

#[test]
fn paravirt_features_are_found_behind_another_hypervisor() {
    let mut t = table();
    assert_eq!(paravirt(&t, 0xff, ParavirtRule::Enforced), 9);
    assert_eq!(paravirt(&t, 0xff, ParavirtRule::Lax), 0xff);
    assert_eq!(paravirt(&t, 1, ParavirtRule::Enforced), 1);
    t[7].function = 0x4000_0100;
    t[8].function = 0x4000_0101;
    assert_eq!(paravirt(&t, 0xff, ParavirtRule::Enforced), 9);
    t[7].regs.ebx = 0;
    assert_eq!(paravirt(&t, 0xff, ParavirtRule::Enforced), 0);
}

proptest! {
    #[test]
    fn any_table_keeps_to_what_is_supported(
        raw in proptest::collection::vec((any::<[u32; 7]>(), 0u32..16), 0..20),
    ) {
        let mut t: Vec<Entry> = raw
            .iter()
            .map(|([f, i, flags, a, b, c, d], near)| Entry {
                function: if *f & 1 == 0 { *near } else { *f },
                index: i & 3,
                flags: flags & 1,
                regs: regs(*a, *b, *c, *d),
            })
            .collect();
        let runtime = Runtime { cr4: Cr4(0), apic_enabled: true, mwait: None, xcr0: 7, xss: 0 };
        update(&mut t, &runtime, &components());
        let c = Capabilities::of(&t, &feature::KNOWN, 0x2e7, 0);
        prop_assert_eq!(c.xcr0 & !0x2e7, 0);
        prop_assert_eq!(c.features.and(&feature::KNOWN), c.features);
        prop_assert_eq!(c.limits().cr4_reserved & Cr4::ALWAYS, 0);
    }
}
