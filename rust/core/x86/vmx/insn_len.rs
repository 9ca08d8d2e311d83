// SPDX-License-Identifier: GPL-2.0

//! The VM-exit instruction length of EPT violations.
//!
//! The SDM leaves it undefined there (SDM 3C "Information for VM Exits Due to Instruction Execution",
//! 29.2.5); processors fill it in all the same. Where it must be known how long an instruction is, and
//! nothing else of it matters, looking at what the processor says saves fetching and decoding it. So it is
//! tried: each instruction of this kind that is decoded shows whether it was right.

/// Whether the length at an EPT violation is that of the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ViolationLength(u32);

impl ViolationLength {
    /// Not tried yet.
    pub const NEW: Self = Self(0);
    /// It was right each time.
    const RIGHT: Self = Self(1);
    /// It is not to be relied on: it was wrong once, or another hypervisor is below, which may leave the
    /// field alone.
    pub const WRONG: Self = Self(2);

    /// Takes it out of a word.
    #[inline]
    pub const fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// Returns it as a word.
    #[inline]
    pub const fn into_word(self) -> u32 {
        self.0
    }

    /// Returns whether `reported` is the length of an instruction that was not decoded.
    #[inline]
    pub const fn is_good(self, reported: u32) -> bool {
        self.0 == Self::RIGHT.0 && reported >= 1 && reported <= 15
    }

    /// Takes what was `reported` for an instruction of `decoded` bytes.
    pub const fn after(self, reported: u32, decoded: u8) -> Self {
        if self.0 == Self::WRONG.0 || reported != decoded as u32 {
            Self::WRONG
        } else {
            Self::RIGHT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_good_once_one_was_right() {
        assert!(!ViolationLength::NEW.is_good(3));
        assert!(ViolationLength::NEW.after(3, 3).is_good(2));
    }

    #[test]
    fn one_wrong_length_ends_it_for_ever() {
        let wrong = ViolationLength::NEW.after(3, 3).after(4, 3);
        assert_eq!(wrong, ViolationLength::WRONG);
        assert!(!wrong.after(3, 3).is_good(3));
    }

    #[test]
    fn no_instruction_has_0_or_16_bytes() {
        let right = ViolationLength::NEW.after(3, 3);
        for (reported, is_good) in [(0, false), (1, true), (15, true), (16, false)] {
            assert_eq!(right.is_good(reported), is_good, "{reported}");
        }
    }

    #[test]
    fn a_word_keeps_it() {
        for it in [
            ViolationLength::NEW,
            ViolationLength::RIGHT,
            ViolationLength::WRONG,
        ] {
            assert_eq!(ViolationLength::from_word(it.into_word()), it);
        }
    }
}
