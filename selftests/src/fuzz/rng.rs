// SPDX-License-Identifier: GPL-2.0

//! Numbers that a seed decides, and the values that programs get wrong.

use crate::kvm::{
    Memory,
    PAGE, //
};

/// A generator of numbers (SplitMix64): the same seed, the same numbers.
pub struct Rng(u64);

impl Rng {
    /// The generator of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `of`, which is not empty.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// One of `of`, and where it is; nothing where there is none.
    pub fn index(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.below(len.max(1) as u64) as usize)
    }
}

/// Edges of ranges that KVM and the processor know.
const EDGES: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    8,
    31,
    32,
    0xff,
    0x100,
    0xfff,
    PAGE,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xfec0_0000,
    0xfee0_0000,
    0xffff_f000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    0x000f_ffff_ffff_f000,
    0x0010_0000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_8000_0000_0000,
    0xffff_ffff_ffff_f000,
    u64::MAX,
];

/// A number that is likely to matter to who gets it: an edge, a flag, an address of the guest's or
/// of `arena`, a small number, any number.
pub fn value(rng: &mut Rng, arena: &Memory) -> u64 {
    match rng.below(8) {
        0 | 1 => *rng.pick(EDGES),
        2 => 1 << rng.below(64),
        3 => (1u64 << rng.below(64)).wrapping_sub(rng.below(3)),
        4 => gpa(rng, arena),
        5 => arena.hva() + gpa(rng, arena),
        6 => rng.below(64),
        _ => rng.bits(),
    }
}

/// An address in the guest's memory, mostly that of a page.
pub fn gpa(rng: &mut Rng, arena: &Memory) -> u64 {
    let page = rng.below(arena.len() as u64 / PAGE) * PAGE;
    page + if rng.one_in(4) { rng.below(PAGE) } else { 0 }
}

/// Fills `bytes` in one of several ways.
pub fn fill(rng: &mut Rng, arena: &Memory, bytes: &mut [u8]) {
    let style = rng.below(4);
    let width = *rng.pick(&[4usize, 8, 8]);
    for word in bytes.chunks_mut(width) {
        let new = match style {
            0 => 0,
            1 if !rng.one_in(4) => 0,
            3 => rng.bits(),
            _ => value(rng, arena),
        };
        word.copy_from_slice(&new.to_le_bytes()[..word.len()]);
    }
    if style == 0 {
        mutate(rng, arena, bytes);
    }
}

/// Changes a few bits, bytes or words.
pub fn mutate(rng: &mut Rng, arena: &Memory, bytes: &mut [u8]) {
    for _ in 0..rng.below(4) {
        let Some(at) = rng.index(bytes.len()) else {
            return;
        };
        let width = *rng.pick(&[1usize, 1, 2, 4, 8]);
        if width == 1 {
            bytes[at] ^= 1 << rng.below(8);
            continue;
        }
        let at = at / width * width;
        let end = bytes.len().min(at + width);
        let new = value(rng, arena).to_le_bytes();
        bytes[at..end].copy_from_slice(&new[..end - at]);
    }
}
