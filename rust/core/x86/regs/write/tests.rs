// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits {
    cr4_reserved: !(Cr4::ALWAYS
        | Cr4::PCIDE
        | Cr4::LA57
        | Cr4::CET
        | Cr4::SMEP
        | Cr4::OSXSAVE
        | Cr4::PKE
        | Cr4::VMXE),
    efer_reserved: !(Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE),
    xcr0_allowed: 0xe_02ff,
    xss_allowed: 0,
    maxphyaddr: 46,
    lam: false,
    rtm: false,
    bus_lock_detect: false,
};

fn real_mode() -> State {
    State {
        cr0: Cr0(Cr0::ET),
        cr3: Cr3(0),
        cr4: Cr4(0),
        efer: Efer(0),
        cs_long: false,
        tss_is_16bit: false,
        is_smm: false,
        cr0_fixed: Fixed::NONE,
        cr4_fixed: Fixed::NONE,
    }
}

fn long_mode() -> State {
    State {
        cr0: Cr0(Cr0::PG | Cr0::PE | Cr0::WP | Cr0::ET),
        cr4: Cr4(Cr4::PAE),
        efer: Efer(Efer::LME | Efer::LMA),
        cs_long: true,
        ..real_mode()
    }
}

fn pae_mode() -> State {
    State {
        efer: Efer(0),
        cs_long: false,
        ..long_mode()
    }
}

#[track_caller]
fn gp(result: Result<CrWrite, Exception>) {
    assert_eq!(result, Err(Exception::GP0));
}

#[test]
fn cr0_inconsistent_in_itself_faults() {
    let s = real_mode();
    gp(mov_to_cr0(&s, Cr0::PG));
    gp(mov_to_cr0(&s, Cr0::NW));
    gp(mov_to_cr0(&s, 1 << 32));
    assert!(mov_to_cr0(&s, Cr0::NW | Cr0::CD).is_ok());
    assert!(mov_to_cr0(&s, Cr0::PG | Cr0::PE).is_ok());
}

#[test]
fn cr0_ignores_reserved_low_bits_and_keeps_et() {
    let w = mov_to_cr0(&real_mode(), 0x1ff8_ffc0 & !(Cr0::AM | Cr0::WP)).unwrap();
    assert_eq!(w.value, Cr0::ET);
}

#[test]
fn activation_of_long_mode_needs_pae_no_cs_l_and_a_32bit_tss() {
    let on = Cr0::PG | Cr0::PE;
    let s = State {
        efer: Efer(Efer::LME),
        cr4: Cr4(Cr4::PAE),
        ..real_mode()
    };
    let w = mov_to_cr0(&s, on).unwrap();
    assert!(w.efer.lma() && w.effects.lma_changed);
    assert!(!w.effects.reload_pdptrs, "long mode has no PDPTEs to load");
    gp(mov_to_cr0(&State { cr4: Cr4(0), ..s }, on));
    gp(mov_to_cr0(&State { cs_long: true, ..s }, on));
    gp(mov_to_cr0(
        &State {
            tss_is_16bit: true,
            ..s
        },
        on,
    ));
}

#[test]
fn leaving_paging_clears_lma_and_flushes_but_not_from_64bit_code_or_with_pcid() {
    let off = Cr0::PE | Cr0::WP;
    let compat = State {
        cs_long: false,
        ..long_mode()
    };
    let w = mov_to_cr0(&compat, off).unwrap();
    assert!(!w.efer.lma() && w.efer.lme() && w.effects.lma_changed);
    assert_eq!(w.effects.flush, Flush::All);
    gp(mov_to_cr0(&long_mode(), off));
    gp(mov_to_cr0(
        &State {
            cr4: Cr4(Cr4::PAE | Cr4::PCIDE),
            ..compat
        },
        off,
    ));
}

#[test]
fn cet_and_wp_hold_each_other() {
    let s = long_mode();
    let on = Cr4::PAE | Cr4::CET;
    assert!(mov_to_cr4(&s, &LIMITS, on).is_ok());
    gp(mov_to_cr4(
        &State {
            cr0: Cr0(s.cr0.0 & !Cr0::WP),
            ..s
        },
        &LIMITS,
        on,
    ));
    gp(mov_to_cr0(&State { cr4: Cr4(on), ..s }, Cr0::PG | Cr0::PE));
}

#[test]
fn pdptes_reload_exactly_where_the_sdm_says() {
    let s = pae_mode();
    assert!(
        mov_to_cr0(&s, s.cr0.0 | Cr0::CD)
            .unwrap()
            .effects
            .reload_pdptrs
    );
    assert!(
        !mov_to_cr0(&s, s.cr0.0 | Cr0::TS)
            .unwrap()
            .effects
            .reload_pdptrs
    );
    assert!(
        mov_to_cr3(&s, &LIMITS, 0x1000)
            .unwrap()
            .effects
            .reload_pdptrs
    );
    for bit in [Cr4::PGE, Cr4::PSE, Cr4::SMEP] {
        assert!(
            mov_to_cr4(&s, &LIMITS, Cr4::PAE | bit)
                .unwrap()
                .effects
                .reload_pdptrs
        );
        let long = mov_to_cr4(&long_mode(), &LIMITS, Cr4::PAE | bit).unwrap();
        assert!(!long.effects.reload_pdptrs);
    }
    assert!(
        !mov_to_cr4(&s, &LIMITS, Cr4::PAE | Cr4::TSD)
            .unwrap()
            .effects
            .reload_pdptrs
    );
    assert!(
        !mov_to_cr4(&s, &LIMITS, Cr4::PSE)
            .unwrap()
            .effects
            .reload_pdptrs
    );
}

#[test]
fn cr3_reserved_bits_follow_maxphyaddr_pcid_and_lam() {
    let s = long_mode();
    assert!(mov_to_cr3(&s, &LIMITS, (1 << 46) - 1).is_ok());
    gp(mov_to_cr3(&s, &LIMITS, 1 << 46));
    gp(mov_to_cr3(&s, &LIMITS, 1 << 63));
    gp(mov_to_cr3(&s, &LIMITS, 1 << 61));
    assert!(mov_to_cr3(
        &s,
        &Limits {
            lam: true,
            ..LIMITS
        },
        3 << 61
    )
    .is_ok());
    let pcid = State {
        cr4: Cr4(Cr4::PAE | Cr4::PCIDE),
        ..s
    };
    let w = mov_to_cr3(&pcid, &LIMITS, 1 << 63 | 0x5001).unwrap();
    assert_eq!((w.value, w.effects.flush), (0x5001, Flush::Nothing));
    let w = mov_to_cr3(&pcid, &LIMITS, 0x5001).unwrap();
    assert_eq!(w.effects.flush, Flush::CurrentPcid);
}

#[test]
fn cr4_long_mode_rules() {
    let s = long_mode();
    gp(mov_to_cr4(&s, &LIMITS, 0));
    gp(mov_to_cr4(&s, &LIMITS, Cr4::PAE | Cr4::LA57));
    assert!(mov_to_cr4(&real_mode(), &LIMITS, Cr4::LA57).is_ok());
    gp(mov_to_cr4(&s, &LIMITS, Cr4::PAE | Cr4::SMAP));
    gp(mov_to_cr4(
        &State {
            is_smm: true,
            ..real_mode()
        },
        &LIMITS,
        Cr4::VMXE,
    ));
}

#[test]
fn pcide_needs_long_mode_and_pcid_zero() {
    let on = Cr4::PAE | Cr4::PCIDE;
    assert!(mov_to_cr4(&long_mode(), &LIMITS, on).is_ok());
    gp(mov_to_cr4(&pae_mode(), &LIMITS, on));
    gp(mov_to_cr4(
        &State {
            cr3: Cr3(1),
            ..long_mode()
        },
        &LIMITS,
        on,
    ));
    // Once on, a PCID may be current.
    let s = State {
        cr3: Cr3(1),
        cr4: Cr4(on),
        ..long_mode()
    };
    assert!(mov_to_cr4(&s, &LIMITS, on | Cr4::TSD).is_ok());
}

#[test]
fn cr4_flush_scope_per_bit() {
    let table = [
        (Cr4::PAE, Cr4::PAE | Cr4::PGE, Flush::All),
        (Cr4::PAE | Cr4::PGE, Cr4::PAE, Flush::All),
        (Cr4::PAE | Cr4::PCIDE, Cr4::PAE, Flush::All),
        (Cr4::PAE, Cr4::PAE | Cr4::PCIDE, Flush::Nothing),
        (0, Cr4::PAE, Flush::CurrentPcid),
        (Cr4::PAE, Cr4::PAE | Cr4::SMEP, Flush::CurrentPcid),
        (Cr4::PAE | Cr4::SMEP, Cr4::PAE, Flush::Nothing),
        (Cr4::PAE, Cr4::PAE | Cr4::TSD, Flush::Nothing),
    ];
    for (old, new, flush) in table {
        assert_eq!(cr4_flush(Cr4(old), Cr4(new)), flush, "{old:#x} to {new:#x}");
    }
}

#[test]
fn cpuid_changes_with_osxsave_and_pke_only() {
    let s = long_mode();
    let changed = |bit| {
        mov_to_cr4(&s, &LIMITS, Cr4::PAE | bit)
            .unwrap()
            .effects
            .cpuid_changed
    };
    assert!(changed(Cr4::OSXSAVE) && changed(Cr4::PKE));
    assert!(!changed(Cr4::PGE));
}

#[test]
fn vmx_operation_fixes_bits() {
    let fixed = Fixed {
        ones: Cr4::VMXE,
        allowed: Cr4::VMXE | Cr4::PAE,
    };
    let s = State {
        cr4: Cr4(Cr4::PAE | Cr4::VMXE),
        cr4_fixed: fixed,
        ..long_mode()
    };
    gp(mov_to_cr4(&s, &LIMITS, Cr4::PAE));
    gp(mov_to_cr4(&s, &LIMITS, Cr4::PAE | Cr4::VMXE | Cr4::PGE));
    assert!(mov_to_cr4(&s, &LIMITS, Cr4::PAE | Cr4::VMXE).is_ok());
    let cr0 = Fixed {
        ones: Cr0::NE,
        allowed: 0xffff_ffff,
    };
    let s = State {
        cr0_fixed: cr0,
        ..real_mode()
    };
    gp(mov_to_cr0(&s, Cr0::PE));
    assert!(mov_to_cr0(&s, Cr0::PE | Cr0::NE).is_ok());
}

#[test]
fn cr8_takes_four_bits() {
    assert_eq!(mov_to_cr8(15), Ok(15));
    assert_eq!(mov_to_cr8(16), Err(Exception::GP0));
    assert_eq!(mov_to_cr8(1 << 32), Err(Exception::GP0));
}

#[test]
fn lmsw_sets_pe_and_cannot_clear_it() {
    let s = State {
        cr0: Cr0(Cr0::PE | Cr0::ET | Cr0::TS),
        ..real_mode()
    };
    assert_eq!(lmsw(&s, 0).unwrap().value, Cr0::PE | Cr0::ET);
    assert_eq!(lmsw(&real_mode(), 0xfff1).unwrap().value, Cr0::PE | Cr0::ET);
    assert_eq!(clts(&s).unwrap().value, Cr0::PE | Cr0::ET);
}

#[test]
fn xcr0_components_come_in_their_groups() {
    let legal = [1, 3, 7, 0x1b, 0xe7, 0x203, 0x6_0001, 0x8_0001];
    let illegal = [
        0,
        2,
        5,
        0x9,
        0x11,
        0x27,
        0xe3,
        0x2_0001,
        0x8_0019,
        0x103,
        1 << 63,
    ];
    for value in legal {
        assert_eq!(xsetbv(0, value, &LIMITS), Ok(Xcr0(value)), "{value:#x}");
    }
    for value in illegal {
        assert_eq!(xsetbv(0, value, &LIMITS), Err(Exception::GP0), "{value:#x}");
    }
    assert_eq!(xsetbv(1, 1, &LIMITS), Err(Exception::GP0));
    let none = Limits {
        xcr0_allowed: 0,
        ..LIMITS
    };
    assert_eq!(xsetbv(0, 1, &none), Ok(Xcr0(1)));
    assert_eq!(xsetbv(0, 3, &none), Err(Exception::GP0));
}

#[test]
fn efer_lme_cannot_change_under_paging_and_lma_is_read_only() {
    gp(wrmsr_efer(&long_mode(), &LIMITS, 0));
    gp(wrmsr_efer(&real_mode(), &LIMITS, 1 << 12));
    let w = wrmsr_efer(&real_mode(), &LIMITS, Efer::LME | Efer::LMA | Efer::NXE).unwrap();
    assert_eq!(w.value, Efer::LME | Efer::NXE);
    assert!(w.effects.walk_mode_changed && !w.effects.lma_changed);
    let w = wrmsr_efer(&long_mode(), &LIMITS, Efer::LME).unwrap();
    assert!(w.efer.lma());
}

proptest! {
    /// No sequence of accepted writes reaches a mode that a VM entry would refuse.
    #[test]
    fn accepted_writes_keep_the_mode_consistent(
        writes in proptest::collection::vec((0u8..4, any::<u64>()), 1..40),
    ) {
        let mut s = real_mode();
        for (what, value) in writes {
            let result = match what {
                0 => mov_to_cr0(&s, value & 0xe005_003f).inspect(|w| s.cr0 = Cr0(w.value)),
                1 => mov_to_cr4(&s, &LIMITS, value & !LIMITS.cr4_reserved)
                    .inspect(|w| s.cr4 = Cr4(w.value)),
                2 => wrmsr_efer(&s, &LIMITS, value & 0xd01),
                _ => { s.cs_long = value & 1 == 1 && s.efer.lma(); continue }
            };
            if let Ok(w) = result { s.efer = w.efer; }
            prop_assert!(is_valid_cr0(s.cr0));
            prop_assert_eq!(s.efer.lma(), s.efer.lme() && s.cr0.pg());
            prop_assert!(!s.efer.lma() || s.cr4.pae());
            prop_assert!(!s.cr4.pcide() || s.efer.lma());
            prop_assert!(!s.cr4.cet() || s.cr0.wp());
        }
    }
}
