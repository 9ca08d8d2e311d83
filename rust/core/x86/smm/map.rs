// SPDX-License-Identifier: GPL-2.0

//! The state save map in memory, in two layouts.
//!
//! Which one is used depends on whether the guest's CPUID has 64-bit mode, and not on the mode that it is
//! in. VMMs and firmware (QEMU, SeaBIOS, OVMF) know these layouts of KVM: that of AMD64 processors with
//! 64-bit mode, that of the P6 family without. Offsets are from SMBASE.
//!
//! A layout is written down once, as a walk over the map's fields that a pass reads or writes.

use super::Saved;
use crate::x86::segment::AccessRights;
use crate::x86::segment::Dtable;
use crate::x86::segment::Name;
use crate::x86::segment::Selector;

/// The size of the map in bytes.
pub const SIZE: usize = 512;
/// The offset of the map in system-management RAM.
pub const OFFSET: u64 = 0xfe00;

/// The layout of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// For processors without 64-bit mode.
    Bits32,
    /// For those with it.
    Bits64,
}

/// SMM revision identifier: SMBASE can be relocated, I/O instructions are not restarted.
const REVISION_32: u64 = 0x0002_0000;
/// The same, of the 64-bit layout.
const REVISION_64: u64 = 0x0002_0064;

/// `KVM_X86_SHADOW_INT_MOV_SS`.
const SHADOW_MOV_SS: u64 = 1;
/// `KVM_X86_SHADOW_INT_STI`.
const SHADOW_STI: u64 = 2;

/// The access rights that a map holds: type, S, DPL, P, AVL, L, D/B and G.
const RIGHTS: u32 = 0xf0ff;

/// Makes the map of `saved`. What a layout does not name is 0.
pub fn store(saved: &Saved, layout: Layout) -> [u8; SIZE] {
    let mut map = [0; SIZE];
    let mut saved = *saved;
    layout.walk(&mut Store(&mut map), &mut saved);
    map
}

/// Reads a map.
pub fn load(map: &[u8; SIZE], layout: Layout) -> Saved {
    let mut saved = Saved::empty();
    layout.walk(&mut Load(map), &mut saved);
    saved
}

/// One way over a map.
trait Pass {
    /// Passes the field of `width` bytes (1 to 8) at offset `at`, which holds `value`.
    fn field(&mut self, at: usize, width: usize, value: &mut u64);
}

struct Store<'a>(&'a mut [u8; SIZE]);

impl Pass for Store<'_> {
    fn field(&mut self, at: usize, width: usize, value: &mut u64) {
        let bytes = value.to_le_bytes();
        let field = at.checked_sub(0xfe00).and_then(|at| self.0.get_mut(at..));
        if let Some(field) = field {
            for (to, from) in field.iter_mut().zip(bytes.iter().take(width)) {
                *to = *from;
            }
        }
    }
}

struct Load<'a>(&'a [u8; SIZE]);

impl Pass for Load<'_> {
    fn field(&mut self, at: usize, width: usize, value: &mut u64) {
        let mut bytes = [0; 8];
        let field = at.checked_sub(0xfe00).and_then(|at| self.0.get(at..));
        for (to, from) in bytes
            .iter_mut()
            .zip(field.unwrap_or(&[]).iter().take(width))
        {
            *to = *from;
        }
        *value = u64::from_le_bytes(bytes);
    }
}

impl Layout {
    fn walk(self, pass: &mut impl Pass, saved: &mut Saved) {
        match self {
            Self::Bits32 => walk_32(pass, saved),
            Self::Bits64 => walk_64(pass, saved),
        }
    }
}

fn walk_64(pass: &mut impl Pass, s: &mut Saved) {
    let segments = [
        (0xfe00, Name::Es),
        (0xfe10, Name::Cs),
        (0xfe20, Name::Ss),
        (0xfe30, Name::Ds),
        (0xfe40, Name::Fs),
        (0xfe50, Name::Gs),
        (0xfe70, Name::Ldtr),
        (0xfe90, Name::Tr),
    ];
    for (at, name) in segments {
        let places = Places {
            selector: (at, 2),
            rights: (at.wrapping_add(2), 0),
            limit: at.wrapping_add(4),
            base: (at.wrapping_add(8), 8),
        };
        segment(pass, s, name, &places);
    }
    table(pass, &mut s.segments.gdtr, 0xfe64, (0xfe68, 8));
    table(pass, &mut s.segments.idtr, 0xfe84, (0xfe88, 8));
    flag(pass, 0xfec9, 1, &mut s.auto_halt);
    shadow(pass, 0xfecb, s);
    pass.field(0xfed0, 8, &mut s.efer.0);
    pass.field(0xfefc, 4, &mut { REVISION_64 });
    smbase(pass, 0xff00, s);
    pass.field(0xff48, 8, &mut s.cr4.0);
    pass.field(0xff50, 8, &mut s.cr3.0);
    pass.field(0xff58, 8, &mut s.cr0.0);
    pass.field(0xff60, 8, &mut s.dr7);
    pass.field(0xff68, 8, &mut s.dr6);
    pass.field(0xff70, 8, &mut s.rflags.0);
    pass.field(0xff78, 8, &mut s.rip);
    // From R15 down to RAX.
    for (gpr, at) in s.gprs.iter_mut().rev().zip((0xff80..).step_by(8)) {
        pass.field(at, 8, gpr);
    }
}

fn walk_32(pass: &mut impl Pass, s: &mut Saved) {
    let segments = [
        (0xffa8, 0xff84, Name::Es),
        (0xffac, 0xff90, Name::Cs),
        (0xffb0, 0xff9c, Name::Ss),
        (0xffb4, 0xff2c, Name::Ds),
        (0xffb8, 0xff38, Name::Fs),
        (0xffbc, 0xff44, Name::Gs),
        (0xffc0, 0xff78, Name::Ldtr),
        (0xffc4, 0xff5c, Name::Tr),
    ];
    for (selector, at, name) in segments {
        let places = Places {
            selector: (selector, 4),
            rights: (at, 8),
            limit: at.wrapping_add(4),
            base: (at.wrapping_add(8), 4),
        };
        segment(pass, s, name, &places);
    }
    table(pass, &mut s.segments.idtr, 0xff54, (0xff58, 4));
    table(pass, &mut s.segments.gdtr, 0xff70, (0xff74, 4));
    smbase(pass, 0xfef8, s);
    pass.field(0xfefc, 4, &mut { REVISION_32 });
    flag(pass, 0xff02, 2, &mut s.auto_halt);
    pass.field(0xff14, 4, &mut s.cr4.0);
    shadow(pass, 0xff1a, s);
    pass.field(0xffc8, 4, &mut s.dr7);
    pass.field(0xffcc, 4, &mut s.dr6);
    for (gpr, at) in s.gprs.iter_mut().take(8).zip((0xffd0..).step_by(4)) {
        pass.field(at, 4, gpr);
    }
    pass.field(0xfff0, 4, &mut s.rip);
    pass.field(0xfff4, 4, &mut s.rflags.0);
    pass.field(0xfff8, 4, &mut s.cr3.0);
    pass.field(0xfffc, 4, &mut s.cr0.0);
}

/// Where a segment register is: offsets, with widths in bytes where they differ.
struct Places {
    selector: (usize, usize),
    /// With how far the rights are shifted.
    rights: (usize, u32),
    limit: usize,
    base: (usize, usize),
}

/// A register without a segment is one whose segment is not present.
fn segment(pass: &mut impl Pass, s: &mut Saved, name: Name, places: &Places) {
    let mut segment = s.segments.get(name);
    let (at, shift) = places.rights;
    let rights = AccessRights(segment.rights.0 & RIGHTS);
    let rights = rights.with_present(rights.present() && !segment.rights.unusable());
    let mut word = u64::from(rights.0).wrapping_shl(shift);
    let mut selector = u64::from(segment.selector.0);
    let mut limit = u64::from(segment.limit);
    pass.field(places.selector.0, places.selector.1, &mut selector);
    pass.field(at, if shift == 0 { 2 } else { 4 }, &mut word);
    pass.field(places.limit, 4, &mut limit);
    pass.field(places.base.0, places.base.1, &mut segment.base);
    segment.selector = Selector(low_16(selector));
    segment.limit = low_32(limit);
    let rights = AccessRights(low_32(word.wrapping_shr(shift)) & RIGHTS);
    segment.rights = rights.with_unusable(!rights.present());
    s.segments.set(name, segment);
}

fn table(pass: &mut impl Pass, table: &mut Dtable, limit_at: usize, base: (usize, usize)) {
    let mut limit = u64::from(table.limit);
    pass.field(limit_at, 4, &mut limit);
    pass.field(base.0, base.1, &mut table.base);
    table.limit = low_16(limit);
}

fn smbase(pass: &mut impl Pass, at: usize, s: &mut Saved) {
    let mut base = u64::from(s.smbase);
    pass.field(at, 4, &mut base);
    s.smbase = low_32(base);
}

fn shadow(pass: &mut impl Pass, at: usize, s: &mut Saved) {
    let mov_ss = if s.shadow.mov_ss() { SHADOW_MOV_SS } else { 0 };
    let sti = if s.shadow.sti() { SHADOW_STI } else { 0 };
    let mut value = mov_ss | sti;
    pass.field(at, 1, &mut value);
    s.shadow = s
        .shadow
        .with_mov_ss(value & SHADOW_MOV_SS != 0)
        .with_sti(value & SHADOW_STI != 0);
}

fn flag(pass: &mut impl Pass, at: usize, width: usize, flag: &mut bool) {
    let mut value = u64::from(*flag);
    pass.field(at, width, &mut value);
    *flag = value & 1 != 0;
}

fn low_32(value: u64) -> u32 {
    u32::try_from(value & 0xffff_ffff).unwrap_or(0)
}

fn low_16(value: u64) -> u16 {
    u16::try_from(value & 0xffff).unwrap_or(0)
}
