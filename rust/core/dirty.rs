// SPDX-License-Identifier: GPL-2.0

//! Dirty-page bitmaps.
//!
//! A slot that is logged has a bitmap with a bit for each page, in words of 64 pages. The words are
//! the caller's atomics; here is their arithmetic and the rules of `KVM_GET_DIRTY_LOG` and
//! `KVM_CLEAR_DIRTY_LOG` (api.rst). [`ring`] is the other way to log.

pub mod ring;

use crate::memslot::SlotId;
use crate::memslot::SlotView;

/// The pages that a word has bits for.
pub const PAGES_PER_WORD: u64 = 64;

/// Returns the number of words in the bitmap of a slot of `npages` pages.
#[inline]
pub const fn nr_words(npages: u64) -> u64 {
    npages.div_ceil(PAGES_PER_WORD)
}

/// Returns the size in bytes of the bitmap of a slot of `npages` pages, as userspace sees it.
#[inline]
pub const fn size_bytes(npages: u64) -> u64 {
    nr_words(npages).saturating_mul(8)
}

/// The place of a page in a bitmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bit {
    /// The index of the word.
    pub word: u64,
    /// The word with just the bit of the page.
    pub mask: u64,
}

impl Bit {
    /// Returns the place of the page that is `offset` pages from the start of its slot.
    #[inline]
    pub const fn of(offset: u64) -> Self {
        Self {
            word: offset / PAGES_PER_WORD,
            mask: 1 << (offset % PAGES_PER_WORD),
        }
    }
}

/// Returns the bits of word `word` that stand for pages of a slot of `npages`.
///
/// What a bitmap that starts all dirty holds (`KVM_DIRTY_LOG_INITIALLY_SET`), and all that a word
/// may ever hold.
pub const fn valid_bits(word: u64, npages: u64) -> u64 {
    let first = word.saturating_mul(PAGES_PER_WORD);
    match npages.saturating_sub(first) {
        0 => 0,
        rest if rest < PAGES_PER_WORD => (1u64 << rest).wrapping_sub(1),
        _ => u64::MAX,
    }
}

/// Pages that follow one another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The offset of the first from the start of the slot, in pages.
    pub first: u64,
    /// Their number, 1 to 64.
    pub npages: u64,
}

/// The runs of set bits in a word; see [`runs`].
#[derive(Clone, Debug)]
pub struct Runs {
    first: u64,
    bits: u64,
}

/// Returns the runs of pages whose bits are set in `bits`, the word at index `word`, upwards.
#[inline]
pub const fn runs(word: u64, bits: u64) -> Runs {
    Runs {
        first: word.saturating_mul(PAGES_PER_WORD),
        bits,
    }
}

impl Iterator for Runs {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        if self.bits == 0 {
            return None;
        }
        let start = self.bits.trailing_zeros();
        let len = (self.bits >> start).trailing_ones();
        // Adding at the start of the run carries to its end and clears it.
        self.bits &= self.bits.wrapping_add(1 << start);
        Some(Run {
            first: self.first.saturating_add(u64::from(start)),
            npages: u64::from(len),
        })
    }
}

/// How a VM logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tracking {
    /// By a bitmap per slot.
    Bitmap,
    /// By a ring per vCPU: `KVM_CAP_DIRTY_LOG_RING` is enabled.
    Ring,
}

/// Why an ioctl on a bitmap is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogError {
    /// The VM logs by rings. Becomes `ENXIO`.
    Ring,
    /// A name or a range breaks a rule. Becomes `EINVAL`.
    Invalid,
    /// The slot is not there or is not logged. Becomes `ENOENT`.
    NotLogged,
}

/// Checks that a name may be asked for.
///
/// # Errors
///
/// [`LogError::Ring`], [`LogError::Invalid`].
pub const fn check_name(
    tracking: Tracking,
    name: SlotId,
    nr_address_spaces: u16,
) -> Result<(), LogError> {
    match tracking {
        Tracking::Ring => Err(LogError::Ring),
        Tracking::Bitmap if name.is_valid(nr_address_spaces) => Ok(()),
        Tracking::Bitmap => Err(LogError::Invalid),
    }
}

/// Returns the slot, found (or not) by the name that [`check_name`] passed, if it is logged.
///
/// # Errors
///
/// [`LogError::NotLogged`].
pub fn logged<S: SlotView>(slot: Option<&S>) -> Result<&S, LogError> {
    slot.filter(|slot| slot.flags().log_dirty())
        .ok_or(LogError::NotLogged)
}

/// The words of a bitmap that `KVM_CLEAR_DIRTY_LOG` is about.
///
/// For each, the caller clears the bits that userspace gave, and lets writes to those pages fault
/// again whose bit was set until then. Bits beyond the slot never were.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClearRange {
    /// The index of the first word.
    pub first_word: u64,
    /// The number of words, to be read from userspace.
    pub nr_words: u64,
}

impl ClearRange {
    /// Converts and checks the range of `KVM_CLEAR_DIRTY_LOG`, after [`check_name`]; `slot` is what
    /// was found by the name.
    ///
    /// # Errors
    ///
    /// In the order of the checks:
    ///
    /// - [`LogError::Invalid`]: `first_page` is not a multiple of 64.
    /// - [`LogError::NotLogged`]: see [`logged`].
    /// - [`LogError::Invalid`]: the range leaves the slot, or ends before the end of the slot and
    ///   `num_pages` is not a multiple of 64.
    pub fn new<S: SlotView>(
        slot: Option<&S>,
        first_page: u64,
        num_pages: u32,
    ) -> Result<Self, LogError> {
        if first_page % PAGES_PER_WORD != 0 {
            return Err(LogError::Invalid);
        }
        let npages = logged(slot)?.npages();
        let num_pages = u64::from(num_pages);
        let rest = npages.checked_sub(first_page).ok_or(LogError::Invalid)?;
        if num_pages > rest || num_pages < rest && num_pages % PAGES_PER_WORD != 0 {
            return Err(LogError::Invalid);
        }
        Ok(Self {
            first_word: first_page / PAGES_PER_WORD,
            nr_words: nr_words(num_pages),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    use crate::addr::Gfn;
    use crate::addr::Hva;
    use crate::memslot::SlotFlags;

    struct Slot {
        npages: u64,
        flags: SlotFlags,
    }

    impl SlotView for Slot {
        fn id(&self) -> u16 {
            0
        }
        fn base_gfn(&self) -> Gfn {
            Gfn(0)
        }
        fn npages(&self) -> u64 {
            self.npages
        }
        fn hva(&self) -> Hva {
            Hva(0)
        }
        fn flags(&self) -> SlotFlags {
            self.flags
        }
    }

    const fn slot(npages: u64) -> Slot {
        Slot {
            npages,
            flags: SlotFlags(1),
        }
    }

    #[test]
    fn sizes_are_rounded_to_words() {
        for (npages, bytes) in [(0, 0), (1, 8), (64, 8), (65, 16), ((1 << 31) - 1, 1 << 28)] {
            assert_eq!(size_bytes(npages), bytes);
        }
        assert_eq!(size_bytes(u64::MAX), 1 << 61);
    }

    #[test]
    fn a_page_has_a_bit_in_a_word() {
        assert_eq!(Bit::of(0), Bit { word: 0, mask: 1 });
        assert_eq!(
            Bit::of(63),
            Bit {
                word: 0,
                mask: 1 << 63
            }
        );
        assert_eq!(Bit::of(64), Bit { word: 1, mask: 1 });
    }

    #[test]
    fn valid_bits_are_those_of_the_pages() {
        for npages in [0, 1, 63, 64, 65, 127, 128, 200] {
            for word in 0..5 {
                let pages = (0..npages).map(Bit::of).filter(|bit| bit.word == word);
                assert_eq!(
                    valid_bits(word, npages),
                    pages.fold(0, |bits, bit| bits | bit.mask)
                );
            }
        }
        assert_eq!(valid_bits(u64::MAX, 64), 0);
    }

    #[test]
    fn runs_of_the_edges() {
        let runs = |bits| -> Vec<_> { runs(2, bits).map(|run| (run.first, run.npages)).collect() };
        assert_eq!(runs(0), []);
        assert_eq!(runs(u64::MAX), [(128, 64)]);
        assert_eq!(runs(1 | 1 << 63), [(128, 1), (191, 1)]);
        assert_eq!(runs(0xf0 | 0xff << 56), [(132, 4), (184, 8)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn runs_are_the_set_bits_and_do_not_touch(a: u64, b: u64, spread: bool) {
            let bits = if spread { a & b } else { a | b };
            let mut rebuilt = 0u64;
            let mut behind = None;
            for run in runs(0, bits) {
                prop_assert!(run.npages >= 1 && behind.is_none_or(|behind| behind < run.first));
                for offset in run.first..run.first + run.npages {
                    rebuilt |= Bit::of(offset).mask;
                }
                behind = Some(run.first + run.npages);
            }
            prop_assert_eq!(rebuilt, bits);
        }
    }

    #[test]
    fn names_are_checked_after_the_mode() {
        let name = SlotId::from_raw;
        assert_eq!(
            check_name(Tracking::Ring, name(u32::MAX), 2),
            Err(LogError::Ring)
        );
        assert_eq!(
            check_name(Tracking::Bitmap, name(32764), 2),
            Err(LogError::Invalid)
        );
        assert_eq!(
            check_name(Tracking::Bitmap, name(1 << 16), 1),
            Err(LogError::Invalid)
        );
        assert_eq!(
            check_name(Tracking::Bitmap, name(1 << 16 | 32763), 2),
            Ok(())
        );
    }

    #[test]
    fn a_slot_that_is_not_logged_has_no_bitmap() {
        let unlogged = Slot {
            flags: SlotFlags(2),
            ..slot(64)
        };
        for missing in [None, Some(&unlogged)] {
            assert_eq!(logged(missing).err(), Some(LogError::NotLogged));
            assert_eq!(ClearRange::new(missing, 0, 64), Err(LogError::NotLogged));
            assert_eq!(ClearRange::new(missing, 1, 64), Err(LogError::Invalid));
        }
        assert!(logged(Some(&slot(1))).is_ok());
    }

    #[test]
    fn clear_takes_whole_words_or_up_to_the_end() {
        let clear = |first, num| {
            ClearRange::new(Some(&slot(200)), first, num).map(|it| (it.first_word, it.nr_words))
        };
        assert_eq!(clear(0, 200), Ok((0, 4)));
        assert_eq!(clear(0, 64), Ok((0, 1)));
        assert_eq!(clear(0, 0), Ok((0, 0)));
        assert_eq!(clear(64, 128), Ok((1, 2)));
        assert_eq!(clear(192, 8), Ok((3, 1)), "the last, partial word");
        for (first, num) in [
            (0, 63),
            (0, 199),
            (0, 201),
            (192, 7),
            (192, 9),
            (256, 0),
            (1, 64),
        ] {
            assert_eq!(clear(first, num), Err(LogError::Invalid), "{first} {num}");
        }
        assert_eq!(clear(!63, u32::MAX), Err(LogError::Invalid));
        assert_eq!(
            ClearRange::new(Some(&slot(128)), 128, 0),
            Ok(ClearRange {
                first_word: 2,
                nr_words: 0
            })
        );
    }
}
