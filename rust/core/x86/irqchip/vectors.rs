// SPDX-License-Identifier: GPL-2.0

//! Sets of the 256 interrupt vectors, in the shape of the VMCS's EOI-exit bitmaps.

/// A set of interrupt vectors, 0 to 255.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VectorSet([u64; 4]);

impl VectorSet {
    /// The set without members.
    pub const EMPTY: Self = Self([0; 4]);

    /// Makes a set of its words; bit `i` of word `n` is vector `64 * n + i`.
    #[inline]
    pub const fn from_words(words: [u64; 4]) -> Self {
        Self(words)
    }

    /// Returns the words, as EOI_EXIT_BITMAP_0 to 3 and a posted-interrupt descriptor hold them.
    /// SDM 3C "Controls for APIC Virtualization", 25.6.8
    #[inline]
    pub const fn words(&self) -> [u64; 4] {
        self.0
    }

    /// Returns whether the set has no members.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Returns whether `vector` is a member.
    #[inline]
    pub fn contains(&self, vector: u8) -> bool {
        let word = self.0.get(usize::from(vector >> 6)).copied().unwrap_or(0);
        (word >> (vector & 63)) & 1 != 0
    }

    /// Adds `vector`.
    #[inline]
    pub fn insert(&mut self, vector: u8) {
        if let Some(word) = self.0.get_mut(usize::from(vector >> 6)) {
            *word |= 1 << (vector & 63);
        }
    }

    /// Removes `vector`.
    #[inline]
    pub fn remove(&mut self, vector: u8) {
        if let Some(word) = self.0.get_mut(usize::from(vector >> 6)) {
            *word &= !(1 << (vector & 63));
        }
    }

    /// Returns the highest member.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        (0..4u8)
            .rev()
            .zip(self.0.iter().rev())
            .find_map(|(index, &word)| {
                let bit = 63u32.checked_sub(word.leading_zeros())?;
                Some((index << 6) | u8::try_from(bit).ok()?)
            })
    }

    /// Returns the members, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..=255).filter(|&vector| self.contains(vector))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_again_in_order() {
        let mut set = VectorSet::EMPTY;
        for vector in [255, 0, 63, 64, 128] {
            set.insert(vector);
        }
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 63, 64, 128, 255]);
        set.remove(64);
        assert!(!set.contains(64) && set.contains(63));
        assert_eq!(set.words(), [1 | 1 << 63, 0, 1, 1 << 63]);
    }

    #[test]
    fn highest_is_the_top_member_or_none() {
        let mut set = VectorSet::EMPTY;
        assert_eq!(set.highest(), None);
        for vector in 0..=255 {
            set.insert(vector);
            assert_eq!(set.highest(), Some(vector));
        }
    }
}
