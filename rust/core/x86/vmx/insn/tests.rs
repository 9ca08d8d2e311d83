// SPDX-License-Identifier: GPL-2.0

use super::*;

struct Regs {
    gpr: [u64; 16],
    segment: [SegmentView; 6],
}

impl OperandRegs for Regs {
    fn gpr(&self, index: u8) -> u64 {
        self.gpr[usize::from(index)]
    }
    fn segment(&self, segment: SegmentIndex) -> SegmentView {
        self.segment[segment as usize]
    }
}

const DATA: u32 = 0xc093;
const CODE: u32 = 0xc09b;
const FLAT: SegmentView = SegmentView {
    base: 0,
    limit: u32::MAX,
    access_rights: DATA,
};
const LONG: AddressMode = AddressMode::Long { linear_bits: 48 };

fn regs() -> Regs {
    let mut gpr = [0; 16];
    for (i, r) in gpr.iter_mut().enumerate() {
        *r = 0x1000 * (i as u64 + 1);
    }
    Regs {
        gpr,
        segment: [FLAT; 6],
    }
}

/// A bare displacement off `segment`.
fn bare(segment: SegmentIndex, size: u8) -> InsnInfo {
    InsnInfo(0)
        .with_base_invalid(true)
        .with_index_invalid(true)
        .with_segment(segment as u8)
        .with_address_size_code(size)
}

fn operand(info: InsnInfo, disp: u64, mode: AddressMode, regs: &Regs) -> Result<Gva, Exception> {
    memory_operand(info, disp, 8, Intent::Read, mode, regs)
}

#[test]
fn base_index_scale_and_negative_displacement_add_up() {
    let info = InsnInfo(0)
        .with_segment(SegmentIndex::Ds as u8)
        .with_address_size_code(2)
        .with_base(3)
        .with_index(9)
        .with_scaling(3);
    let disp = (-16_i64) as u64;
    assert_eq!(
        operand(info, disp, LONG, &regs()),
        Ok(Gva(0x4000 + 0xa000 * 8 - 16))
    );
}

#[test]
fn offset_is_cut_to_the_address_size_before_the_base_is_added() {
    let mut regs = regs();
    regs.segment[SegmentIndex::Fs as usize].base = 0x7000_0000_0000;
    let cut = |size| operand(bare(SegmentIndex::Fs, size), 0x1_2345_6789, LONG, &regs);
    assert_eq!(cut(1), Ok(Gva(0x7000_2345_6789)));
    assert_eq!(cut(0), Ok(Gva(0x7000_0000_6789)));
}

#[test]
fn long_mode_ignores_bases_and_limits_but_those_of_fs_and_gs() {
    let mut regs = regs();
    for s in &mut regs.segment {
        *s = SegmentView {
            base: 0x10_0000,
            limit: 0,
            access_rights: 1 << 16,
        };
    }
    assert_eq!(
        operand(bare(SegmentIndex::Es, 2), 0x55, LONG, &regs),
        Ok(Gva(0x55))
    );
    assert_eq!(
        operand(bare(SegmentIndex::Gs, 2), 0x55, LONG, &regs),
        Ok(Gva(0x10_0055))
    );
}

#[test]
fn non_canonical_operand_is_gp_or_ss() {
    let regs = regs();
    let bad = 0x8000_0000_0000;
    assert_eq!(
        operand(bare(SegmentIndex::Ds, 2), bad, LONG, &regs),
        Err(Exception::GP0)
    );
    assert_eq!(
        operand(bare(SegmentIndex::Ss, 2), bad, LONG, &regs),
        Err(Exception::SS0)
    );
    let la57 = AddressMode::Long { linear_bits: 57 };
    assert_eq!(
        operand(bare(SegmentIndex::Ds, 2), bad, la57, &regs),
        Ok(Gva(bad))
    );
    let tail = 0x7fff_ffff_fffc;
    assert_eq!(
        operand(bare(SegmentIndex::Ds, 2), tail, LONG, &regs),
        Err(Exception::GP0)
    );
}

#[test]
fn protected_mode_checks_limit_and_wraps_at_4_gib() {
    let mut regs = regs();
    let ds = &mut regs.segment[SegmentIndex::Ds as usize];
    *ds = SegmentView {
        base: 0xffff_f000,
        limit: 0x1fff,
        access_rights: DATA,
    };
    let at = |disp| {
        operand(
            bare(SegmentIndex::Ds, 1),
            disp,
            AddressMode::Protected,
            &regs,
        )
    };
    assert_eq!(at(0x1ff8), Ok(Gva(0xff8)));
    assert_eq!(at(0x1ff9), Err(Exception::GP0));
}

#[test]
fn stack_segment_faults_with_ss() {
    let mut regs = regs();
    regs.segment[SegmentIndex::Ss as usize].limit = 0xff;
    let info = bare(SegmentIndex::Ss, 1);
    assert_eq!(
        operand(info, 0x100, AddressMode::Protected, &regs),
        Err(Exception::SS0)
    );
    regs.segment[SegmentIndex::Ss as usize].access_rights = 1 << 16;
    assert_eq!(
        operand(info, 0, AddressMode::Protected, &regs),
        Err(Exception::SS0)
    );
}

#[test]
fn expand_down_segment_is_valid_above_its_limit() {
    let mut regs = regs();
    regs.segment[3] = SegmentView {
        base: 0,
        limit: 0xfff,
        access_rights: 0x0097,
    };
    let at = |disp| {
        operand(
            bare(SegmentIndex::Ds, 1),
            disp,
            AddressMode::Protected,
            &regs,
        )
    };
    assert_eq!(at(0xfff), Err(Exception::GP0));
    assert_eq!(at(0x1000), Ok(Gva(0x1000)));
    assert_eq!(at(0xfff8), Ok(Gva(0xfff8)));
    assert_eq!(at(0xfff9), Err(Exception::GP0));
}

#[test]
fn types_are_checked_in_protected_mode_only() {
    let mut regs = regs();
    regs.segment[1] = SegmentView {
        access_rights: CODE,
        ..FLAT
    };
    let go = |ar, intent, mode| {
        let mut regs = Regs {
            gpr: regs.gpr,
            segment: regs.segment,
        };
        regs.segment[1].access_rights = ar;
        memory_operand(bare(SegmentIndex::Cs, 1), 0, 8, intent, mode, &regs).is_ok()
    };
    assert!(go(CODE, Intent::Read, AddressMode::Protected));
    assert!(!go(CODE, Intent::Write, AddressMode::Protected));
    assert!(
        !go(CODE & !2, Intent::Read, AddressMode::Protected),
        "execute-only"
    );
    assert!(go(DATA & !2, Intent::Read, AddressMode::Protected));
    assert!(
        !go(DATA & !2, Intent::Write, AddressMode::Protected),
        "read-only"
    );
    assert!(go(CODE, Intent::Write, AddressMode::Real));
}

#[test]
fn flags_follow_the_three_endings() {
    let dirty = 0x8d5 | 2 | 1 << 9;
    let kept = 2 | 1 << 9;
    assert_eq!(rflags_after(dirty, Ok(())), kept);
    assert_eq!(rflags_after(dirty, Err(VmFail::Invalid)), kept | CF);
    let valid = VmFail::Valid(VmInsnError::VmlaunchNonclearVmcs);
    assert_eq!(rflags_after(dirty, Err(valid)), kept | ZF);
}

#[test]
fn vmread_information_decodes() {
    // vmread [rbx + rcx * 4], rdx in 64-bit mode.
    let info = InsnInfo(2 | 2 << 7 | 3 << 15 | 1 << 18 | 3 << 23 | 2 << 28);
    assert_eq!(
        (info.scaling(), info.index(), info.base(), info.reg2()),
        (2, 1, 3, 2)
    );
    assert_eq!(info.address_size(), AddressSize::Bits64);
    assert!(!info.is_register() && !info.index_invalid() && !info.base_invalid());
}
