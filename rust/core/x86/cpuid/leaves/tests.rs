// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::x86::cpuid::supported::emulated;
use crate::x86::cpuid::supported::Emulated;
use proptest::prelude::*;

fn everything(_function: u32, _index: u32) -> Regs {
    Regs {
        eax: u32::MAX,
        ebx: u32::MAX,
        ecx: u32::MAX,
        edx: u32::MAX,
    }
}

/// A host of the Ice Lake kind.
fn icelake(function: u32, index: u32) -> Regs {
    let r = |eax, ebx, ecx, edx| Regs { eax, ebx, ecx, edx };
    match (function, index) {
        (0, _) => r(0x1b, 0x756e_6547, 0x6c65_746e, 0x4965_6e69),
        (1, _) => r(0x606a6, 0x1710_0800, 0x7ffe_fbff, 0xbfeb_fbff),
        (4, 0..=3) => r(0x1c00_4121 + index, 1, 2, 3),
        (7, 0) => r(2, 0xf3bf_fbff, 0x4041_5f5e, 0xbc04_0412),
        (7, 1) => r(0x10, 7, 8, 9),
        (7, 2) => r(5, 6, 7, 0x1f),
        (0xd, 0) => r(0x2e7, 2696, 2696, 0),
        (0xd, 1) => r(0xf, 2440, 0x100, 0),
        (0xd, 2) => r(256, 576, 0, 0),
        (0xd, 5) => r(64, 1088, 0, 0),
        (0xd, 6) => r(512, 1152, 0, 0),
        (0xd, 7) => r(1024, 1664, 0, 0),
        (0xd, 8) => r(128, 0, 1, 0),
        (0xd, 9) => r(8, 2688, 4, 7),
        (0x8000_0000, _) => r(0x8000_0008, 0, 0, 0),
        (0x8000_0001, _) => r(0, 0, 0x121, 0x2c10_0800),
        (0x8000_0002..=0x8000_0004, _) => r(0x6c65_746e, 1, 2, 3),
        (0x8000_0007, _) => r(1, 2, 3, 0x100),
        (0x8000_0008, _) => r(0x3934, 0x200, 5, 6),
        _ => r(0, 0, 0, 0),
    }
}

fn full() -> Support {
    Support {
        xcr0: 0x6_02ff,
        xss: 0x100,
        xsaves: true,
        invpcid: true,
        rdtscp: true,
        waitpkg: true,
        pku: true,
        la57: true,
        spec_ctrl: 0x5ff,
        bus_lock_detect: true,
        lam: true,
        x2apic: true,
        tsc_deadline: true,
        nested: true,
        invariant_tsc: true,
        pmu: Some(Pmu {
            version: 2,
            nr_general: 4,
            general_width: 48,
            ..Pmu::default()
        }),
        ept_4_level: false,
        paravirt: 0x100_0009,
    }
}

fn list(host: fn(u32, u32) -> Regs, support: &Support) -> Vec<Entry> {
    let mut all = Vec::new();
    entries(host, support, |entry| {
        all.push(entry);
        Ok::<(), ()>(())
    })
    .unwrap();
    all
}

#[track_caller]
fn leaf(all: &[Entry], function: u32, index: u32) -> Regs {
    let found: Vec<_> = all
        .iter()
        .filter(|e| (e.function, e.index) == (function, index))
        .collect();
    assert_eq!(found.len(), 1, "{function:#x}.{index}");
    found[0].regs
}

#[test]
fn each_leaf_is_there_once_and_the_list_is_short() {
    for host in [everything as fn(u32, u32) -> Regs, icelake] {
        let all = list(host, &full());
        assert!(all.len() <= 100, "{}", all.len());
        for e in &all {
            leaf(&all, e.function, e.index);
            assert_eq!(e.flags == SIGNIFICANT_INDEX, is_indexed(e.function));
        }
    }
}

#[test]
fn sink_that_is_full_ends_the_list() {
    let mut room = 5;
    let result = entries(icelake, &full(), |_| {
        room -= 1;
        if room < 0 {
            Err("full")
        } else {
            Ok(())
        }
    });
    assert_eq!((result, room), (Err("full"), -1));
}

#[test]
fn unknown_bits_of_the_host_are_hidden() {
    let all = list(everything, &full());
    let one = leaf(&all, 1, 0);
    // TM2, EIST, SMX, DS-CPL, DTES64, MONITOR, OSXSAVE; DS, ACPI, TM, PBE.
    assert_eq!(
        one.ecx & (1 << 8 | 1 << 7 | 1 << 6 | 1 << 4 | 1 << 2 | 1 << 3 | 1 << 27),
        0
    );
    assert_eq!(one.edx & (1 << 21 | 1 << 22 | 1 << 29 | 1 << 31), 0);
    let seven = leaf(&all, 7, 0);
    // SGX, MPX, PT; OSPKE, CET_SS, KL, ENQCMD, SGX_LC, PKS; AMX, IBT, hybrid.
    assert_eq!(seven.ebx & (1 << 2 | 1 << 14 | 1 << 25), 0);
    assert_eq!(
        seven.ecx & (1 << 4 | 1 << 7 | 1 << 23 | 1 << 29 | 1 << 30 | 1 << 31),
        0
    );
    assert_eq!(
        seven.edx & (1 << 15 | 1 << 20 | 1 << 22 | 1 << 24 | 1 << 25),
        0
    );
    assert_eq!(leaf(&all, 0xd, 0).eax, 0x2e7);
    for function in [
        3,
        5,
        8,
        9,
        0xc,
        0xe,
        0xf,
        0x10,
        0x12,
        0x14,
        0x15,
        0x1d,
        0x8000_0005,
    ] {
        assert_eq!(leaf(&all, function, 0), Regs::default(), "{function:#x}");
    }
}

#[test]
fn provided_features_do_not_ask_the_host() {
    let none = |_: u32, _: u32| Regs::default();
    let set = supported(none, &full());
    for f in [
        feature::HYPERVISOR,
        feature::TSC_ADJUST,
        feature::ARCH_CAPABILITIES,
        feature::X2APIC,
        feature::TSC_DEADLINE,
    ] {
        assert!(set.has(f), "{f:?}");
    }
    assert!(!set.has(feature::VMX) && !set.has(feature::SSE3));
}

#[test]
fn each_condition_hides_its_feature() {
    let with = supported(everything, &full());
    let s = full();
    let cases: [(feature::Feature, Support); 16] = [
        (feature::VMX, Support { nested: false, ..s }),
        (
            feature::INVPCID,
            Support {
                invpcid: false,
                ..s
            },
        ),
        (feature::RDTSCP, Support { rdtscp: false, ..s }),
        (feature::RDPID, Support { rdtscp: false, ..s }),
        (feature::PKU, Support { pku: false, ..s }),
        (feature::LA57, Support { la57: false, ..s }),
        (feature::XSAVES, Support { xsaves: false, ..s }),
        (feature::X2APIC, Support { x2apic: false, ..s }),
        (
            feature::TSC_DEADLINE,
            Support {
                tsc_deadline: false,
                ..s
            },
        ),
        (
            feature::WAITPKG,
            Support {
                waitpkg: false,
                ..s
            },
        ),
        (
            feature::BHI_CTRL,
            Support {
                spec_ctrl: 0x1ff,
                ..s
            },
        ),
        (
            feature::RRSBA_CTRL,
            Support {
                spec_ctrl: 0x5bf,
                ..s
            },
        ),
        (feature::SPEC_CTRL, Support { spec_ctrl: 0, ..s }),
        (feature::PDCM, Support { pmu: None, ..s }),
        (
            feature::INVARIANT_TSC,
            Support {
                invariant_tsc: false,
                ..s
            },
        ),
        (feature::XSAVE, Support { xcr0: 0, ..s }),
    ];
    for (f, without) in cases {
        assert!(with.has(f), "{f:?}");
        assert!(!supported(everything, &without).has(f), "{f:?}");
    }
    let sse_only = supported(everything, &Support { xcr0: 3, ..s });
    assert!(!sse_only.has(feature::AVX2) && !sse_only.has(feature::AVX512F));
    let avx = supported(everything, &Support { xcr0: 7, ..s });
    assert!(avx.has(feature::AVX2) && !avx.has(feature::AVX512_BF16));
}

#[test]
fn xstate_leaves_describe_the_permitted_components() {
    let all = list(icelake, &full());
    assert_eq!(
        leaf(&all, 0xd, 0),
        Regs {
            eax: 0x2e7,
            ebx: 2696,
            ecx: 2696,
            edx: 0
        }
    );
    let one = leaf(&all, 0xd, 1);
    let compacted = 576 + 256 + 64 + 512 + 1024 + 128 + 8;
    assert_eq!(
        one,
        Regs {
            eax: 0xf,
            ebx: compacted,
            ecx: 0x100,
            edx: 0
        }
    );
    assert_eq!(
        leaf(&all, 0xd, 9),
        Regs {
            eax: 8,
            ebx: 2688,
            ecx: 0,
            edx: 0
        }
    );
    assert_eq!(leaf(&all, 0xd, 8).ecx, 1);
    let no_pku = list(
        icelake,
        &Support {
            pku: false,
            xss: 0,
            ..full()
        },
    );
    assert_eq!(leaf(&no_pku, 0xd, 0).ecx, 2688);
    assert!(!no_pku.iter().any(|e| e.function == 0xd && e.index > 7));
    let none = list(icelake, &Support { xcr0: 0, ..full() });
    assert_eq!(leaf(&none, 0xd, 0), Regs::default());
    assert!(!none.iter().any(|e| e.function == 0xd && e.index > 0));
}

#[test]
fn subleaves_are_listed_to_their_end() {
    let all = list(icelake, &full());
    assert_eq!(all.iter().filter(|e| e.function == 4).count(), 5);
    assert_eq!(leaf(&all, 4, 4), Regs::default());
    assert_eq!(leaf(&all, 7, 0).eax, 2);
    assert_eq!(
        leaf(&all, 7, 1),
        Regs {
            eax: 0x10,
            ..Regs::default()
        }
    );
    assert_eq!(
        leaf(&all, 7, 2),
        Regs {
            edx: 0x1f,
            ..Regs::default()
        }
    );
    assert_eq!(leaf(&all, 0, 0).eax, 0x1b);
    assert!(!all.iter().any(|e| e.function == 0x1c));
}

#[test]
fn address_widths_follow_ept() {
    let all = list(icelake, &full());
    assert_eq!(leaf(&all, 0x8000_0008, 0).eax, 0x34_3934);
    assert_eq!(leaf(&all, 0x8000_0008, 0).ebx, 0x200);
    let four = list(
        icelake,
        &Support {
            ept_4_level: true,
            ..full()
        },
    );
    assert_eq!(leaf(&four, 0x8000_0008, 0).eax, 0x30_3934);
}

#[test]
fn kvm_leaves_carry_signature_and_features() {
    let all = list(icelake, &full());
    let s = leaf(&all, 0x4000_0000, 0);
    let mut name = Vec::new();
    for word in [s.ebx, s.ecx, s.edx] {
        name.extend_from_slice(&word.to_le_bytes());
    }
    assert_eq!(name, b"KVMKVMKVM\0\0\0");
    assert_eq!(s.eax, 0x4000_0001);
    assert_eq!(leaf(&all, 0x4000_0001, 0).eax, 0x100_0009);
    assert_eq!(leaf(&all, 1, 0).ebx >> 24, 0);
}

#[test]
fn pmu_leaf_is_zero_without_a_pmu() {
    let all = list(icelake, &full());
    assert_eq!(leaf(&all, 0xa, 0).eax, 0x30_0402);
    let none = list(
        icelake,
        &Support {
            pmu: None,
            ..full()
        },
    );
    assert_eq!(leaf(&none, 0xa, 0), Regs::default());
}

#[test]
fn emulated_list_is_never_empty() {
    let list = emulated(Emulated {
        movbe: true,
        rdpid: false,
    });
    assert_eq!(
        (list[0].regs.eax, list[1].regs.ecx, list[2].regs.ecx),
        (7, 1 << 22, 0)
    );
}

proptest! {
    /// Whatever the host says, the list is short and offers nothing that is not known.
    #[test]
    fn any_host_gives_a_sane_list(seed: u32, xcr0: u64, nested: bool) {
        let host = |f: u32, i: u32| {
            let x = seed.wrapping_mul(f ^ 0x9e37_79b9).wrapping_add(i.wrapping_mul(0x85eb_ca6b));
            Regs { eax: x, ebx: x.rotate_left(7), ecx: x.rotate_left(13), edx: x.rotate_left(21) }
        };
        let support = Support { xcr0, nested, ..full() };
        let mut count = 0;
        entries(host, &support, |_| { count += 1; Ok::<(), ()>(()) }).unwrap();
        prop_assert!(count <= 100);
        let set = supported(host, &support);
        prop_assert_eq!(set.and(&feature::KNOWN), set);
    }
}
