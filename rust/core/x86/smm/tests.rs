// SPDX-License-Identifier: GPL-2.0

use super::map::load;
use super::map::store;
use super::map::Layout;
use super::*;
use crate::x86::regs::Gpr;

const LIMITS: Limits = Limits {
    cr4_reserved: !Cr4::PAE & !Cr4::VMXE,
    efer_reserved: !(Efer::LME | Efer::LMA | Efer::SCE),
    xcr0_allowed: 3,
    xss_allowed: 0,
    maxphyaddr: 40,
    lam: false,
    rtm: false,
    bus_lock_detect: false,
};

/// 64-bit code, every field another value.
fn sample() -> Saved {
    let mut segments = Registers::reset();
    for (number, name) in (1u16..).zip(Name::ALL) {
        segments.set(
            name,
            Segment {
                selector: Selector(number << 3),
                base: 0x1_0000 * u64::from(number),
                limit: 0xf_0000 + u32::from(number),
                rights: AccessRights(0xc093),
            },
        );
    }
    let task = Segment {
        rights: AccessRights::BUSY_TSS,
        ..segments.get(Name::Tr)
    };
    segments.set(Name::Tr, task);
    let code = segments.get(Name::Cs);
    let long = AccessRights(0xa09b);
    segments.set(
        Name::Cs,
        Segment {
            rights: long,
            ..code
        },
    );
    segments.gdtr = Dtable {
        base: 0x11_1000,
        limit: 0x7f,
    };
    segments.idtr = Dtable {
        base: 0x22_2000,
        limit: 0xfff,
    };
    let mut gprs = [0; 16];
    for (number, gpr) in (0x1000u64..).zip(&mut gprs) {
        *gpr = number;
    }
    Saved {
        gprs,
        rip: 0x40_1234,
        rflags: Rflags(0x246),
        cr0: Cr0(0x8000_0033),
        cr3: Cr3(0x5000),
        cr4: Cr4(Cr4::PAE),
        efer: Efer(Efer::LME | Efer::LMA),
        dr6: 0xffff_0ff0,
        dr7: 0x455,
        segments,
        smbase: 0x100_0000,
        shadow: Interruptibility(0).with_sti(true),
        auto_halt: true,
    }
}

fn at<const N: usize>(map: &[u8; 512], offset: usize) -> [u8; N] {
    map[offset - 0xfe00..][..N].try_into().unwrap()
}

#[test]
fn both_layouts_bring_back_what_they_hold() {
    let saved = sample();
    assert_eq!(load(&store(&saved, Layout::Bits64), Layout::Bits64), saved);
    let mut narrow = saved;
    narrow.gprs[8..].fill(0);
    narrow.efer = Efer(0);
    assert_eq!(load(&store(&saved, Layout::Bits32), Layout::Bits32), narrow);
}

#[test]
fn fields_of_the_64_bit_map_are_where_firmware_looks() {
    let saved = sample();
    let map = store(&saved, Layout::Bits64);
    assert_eq!(u32::from_le_bytes(at(&map, 0xfefc)), 0x2_0064);
    assert_eq!(u32::from_le_bytes(at(&map, 0xff00)), saved.smbase);
    assert_eq!(u64::from_le_bytes(at(&map, 0xff78)), saved.rip);
    let rax = saved.gprs[Gpr::Rax.number()];
    assert_eq!(u64::from_le_bytes(at(&map, 0xfff8)), rax);
    assert_eq!(u64::from_le_bytes(at(&map, 0xff80)), saved.gprs[15]);
    assert_eq!(u16::from_le_bytes(at(&map, 0xfe10)), 2 << 3);
    assert_eq!(u16::from_le_bytes(at(&map, 0xfe12)), 0xa09b);
    assert_eq!(u32::from_le_bytes(at(&map, 0xfe64)), 0x7f);
    assert_eq!(u64::from_le_bytes(at(&map, 0xfe98)), 0x8_0000);
    assert_eq!((map[0xc9], map[0xcb]), (1, 2));
}

#[test]
fn fields_of_the_32_bit_map_are_where_firmware_looks() {
    let saved = sample();
    let map = store(&saved, Layout::Bits32);
    assert_eq!(u32::from_le_bytes(at(&map, 0xfefc)), 0x2_0000);
    assert_eq!(u32::from_le_bytes(at(&map, 0xfef8)), saved.smbase);
    assert_eq!(u32::from_le_bytes(at(&map, 0xffd0)), 0x1000);
    assert_eq!(u32::from_le_bytes(at(&map, 0xffac)), 2 << 3);
    assert_eq!(u32::from_le_bytes(at(&map, 0xff90)), 0xa09b << 8);
    assert_eq!(u32::from_le_bytes(at(&map, 0xff98)), 0x2_0000);
    assert_eq!(u16::from_le_bytes(at(&map, 0xff02)), 1);
    assert_eq!(u32::from_le_bytes(at(&map, 0xfffc)), 0x8000_0033);
}

#[test]
fn an_unusable_segment_is_not_present_and_the_other_way_round() {
    let mut saved = sample();
    let unusable = AccessRights(0x93).with_unusable(true);
    let ds = saved.segments.get(Name::Ds);
    saved.segments.set(
        Name::Ds,
        Segment {
            rights: unusable,
            ..ds
        },
    );
    let map = store(&saved, Layout::Bits64);
    assert_eq!(u16::from_le_bytes(at(&map, 0xfe32)), 0x13);
    let rights = load(&map, Layout::Bits64).segments.get(Name::Ds).rights;
    assert!(rights.unusable() && !rights.present());
}

#[test]
fn handler_starts_in_big_real_mode_at_smbase() {
    let handler = Handler::of(&sample());
    let cs = handler.segments.get(Name::Cs);
    assert_eq!(
        (cs.base, cs.selector.0, handler.rip),
        (0x100_0000, 0, 0x8000)
    );
    let saved = Saved {
        smbase: 0x3_0000,
        ..sample()
    };
    let cs = Handler::of(&saved).segments.get(Name::Cs);
    assert_eq!(
        (cs.base, cs.selector.0, cs.limit),
        (0x3_0000, 0x3000, u32::MAX)
    );
    assert_eq!(handler.cr0, Cr0(0x32));
    assert_eq!((handler.rflags.0, handler.dr7), (2, 0x400));
    assert_eq!(handler.segments.idtr, Dtable { base: 0, limit: 0 });
    assert_eq!(handler.segments.gdtr, sample().segments.gdtr);
    assert_eq!(
        handler.segments.get(Name::Tr),
        sample().segments.get(Name::Tr)
    );
    assert_eq!(handler.segments.get(Name::Ss).rights, AccessRights(0x8093));
}

fn restored(change: impl FnOnce(&mut Saved)) -> Result<Saved, Shutdown> {
    let mut saved = sample();
    change(&mut saved);
    restore(&saved, &LIMITS, Fixed::NONE, Fixed::NONE)
}

#[test]
fn rsm_takes_back_what_the_smi_saved() {
    assert_eq!(restored(|_| ()), Ok(sample()));
}

#[test]
fn rsm_makes_lma_itself() {
    let set = restored(|s| s.efer = Efer(Efer::LME));
    assert_eq!(set.map(|s| s.efer), Ok(sample().efer));
    let clear = restored(|s| {
        s.cr0 = Cr0(0x33);
        let cs = s.segments.get(Name::Cs);
        let rights = cs.rights.with_l(false);
        s.segments.set(Name::Cs, Segment { rights, ..cs });
    });
    assert_eq!(clear.map(|s| s.efer), Ok(Efer(Efer::LME)));
}

#[test]
fn rsm_of_an_impossible_state_shuts_down() {
    let bad: [fn(&mut Saved); 10] = [
        |s| s.cr0 = Cr0(0x8000_0032),
        |s| s.cr0 = Cr0(0x1_8000_0033),
        |s| s.cr0 = Cr0(0xa000_0033),
        |s| s.cr4 = Cr4(Cr4::PAE | Cr4::SMEP),
        |s| s.cr4 = Cr4(0),
        |s| s.cr3 = Cr3(1 << 41),
        |s| s.efer = Efer(Efer::LME | Efer::NXE),
        |s| s.dr6 = 1 << 32,
        |s| s.dr7 = 1 << 32,
        |s| s.segments.set(Name::Tr, s.segments.get(Name::Ds)),
    ];
    for (number, change) in bad.into_iter().enumerate() {
        assert_eq!(restored(change), Err(Shutdown), "{number}");
    }
}

#[test]
fn rsm_into_vmx_operation_keeps_what_that_fixes() {
    let vmxe = Fixed {
        ones: Cr4::VMXE,
        allowed: u64::MAX,
    };
    let back = |cr4| {
        let saved = Saved { cr4, ..sample() };
        restore(&saved, &LIMITS, Fixed::NONE, vmxe)
    };
    assert!(back(Cr4(Cr4::PAE | Cr4::VMXE)).is_ok());
    assert_eq!(back(Cr4(Cr4::PAE)), Err(Shutdown));
}

#[test]
fn any_map_can_be_read() {
    for layout in [Layout::Bits32, Layout::Bits64] {
        for byte in [0, 0x55, 0xff] {
            let saved = load(&[byte; 512], layout);
            let _ = restore(&saved, &LIMITS, Fixed::NONE, Fixed::NONE);
        }
    }
}
