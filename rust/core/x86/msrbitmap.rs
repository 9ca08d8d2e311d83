// SPDX-License-Identifier: GPL-2.0

//! The MSR bitmap: a 4-KiB page as typed bits, and the merge of L0's and L1's.
//!
//! A set bit intercepts. MSRs outside the two ranges, 0 to 0x1fff and 0xc0000000 to 0xc0001fff,
//! have no bit and always exit. SDM 3C "MSR-Bitmap Address", 25.6.9.

/// The page as 512 words; word 0 holds the read bits of MSRs 0 to 63.
pub type Page = [u64; 512];

/// RDMSR or WRMSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrAccess {
    /// RDMSR.
    Read,
    /// WRMSR.
    Write,
}

/// Which of the two accesses are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MsrAccesses {
    /// RDMSR only.
    Read,
    /// WRMSR only.
    Write,
    /// Both.
    ReadWrite,
}

impl MsrAccesses {
    fn each(self) -> impl Iterator<Item = MsrAccess> {
        let read = matches!(self, Self::Read | Self::ReadWrite).then_some(MsrAccess::Read);
        let write = matches!(self, Self::Write | Self::ReadWrite).then_some(MsrAccess::Write);
        read.into_iter().chain(write)
    }
}

const LOW: u32 = 0;
const HIGH: u32 = 0xc000_0000;
const RANGE: u32 = 0x2000;

/// Returns word and bit of an access, or `None` for an MSR that has no bit.
#[inline]
const fn position(msr: u32, access: MsrAccess) -> Option<(usize, u64)> {
    let half = match access {
        MsrAccess::Read => 0,
        MsrAccess::Write => 256,
    };
    let (quarter, index) = match msr & !(RANGE - 1) {
        LOW => (0, msr),
        HIGH => (128, msr & (RANGE - 1)),
        _ => return None,
    };
    Some((half | quarter | (index >> 6) as usize, 1 << (index & 63)))
}

/// Returns whether `page` intercepts an access.
#[inline]
pub fn intercepts(page: &Page, msr: u32, access: MsrAccess) -> bool {
    match position(msr, access) {
        Some((word, bit)) => page.get(word).is_none_or(|held| held & bit != 0),
        None => true,
    }
}

/// Intercepts `accesses` to `msr`; one that has no bit is intercepted anyway.
pub fn intercept(page: &mut Page, msr: u32, accesses: MsrAccesses) {
    for (word, bit) in accesses.each().filter_map(|access| position(msr, access)) {
        if let Some(held) = page.get_mut(word) {
            *held |= bit;
        }
    }
}

/// Lets `accesses` to `msr` through; no effect on an MSR that has no bit.
pub fn pass_through(page: &mut Page, msr: u32, accesses: MsrAccesses) {
    for (word, bit) in accesses.each().filter_map(|access| position(msr, access)) {
        if let Some(held) = page.get_mut(word) {
            *held &= !bit;
        }
    }
}

/// A set of words of a page: those in which anything is let through.
///
/// A hypervisor lets few MSRs through, so this names the few words that a merge must look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenWords([u64; 8]);

impl OpenWords {
    /// Every word.
    pub const ALL: Self = Self([u64::MAX; 8]);

    /// Returns the words of `page` that are not all ones.
    pub fn of(page: &Page) -> Self {
        let mut set = Self::default();
        for (index, word) in page.iter().enumerate() {
            if *word != u64::MAX {
                set.insert(index);
            }
        }
        set
    }

    fn insert(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index >> 6) {
            *word |= 1 << (index & 63);
        }
    }

    /// Returns the words that are in either.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        let mut all = self;
        for (word, more) in all.0.iter_mut().zip(other.0) {
            *word |= more;
        }
        all
    }

    /// Iterates over the numbers of the words, 0 to 511, in order.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0_usize..8).zip(self.0).flat_map(|(base, mut bits)| {
            core::iter::from_fn(move || {
                if bits == 0 {
                    return None;
                }
                let bit = bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
                Some((base << 6) | bit as usize)
            })
        })
    }
}

/// First MSR of the x2APIC range.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC range.
pub const X2APIC_LAST: u32 = 0x8ff;
const X2APIC_TPR: u32 = 0x808;
const X2APIC_EOI: u32 = 0x80b;
const X2APIC_SELF_IPI: u32 = 0x83f;

/// What vmcs12 has the processor virtualize in the x2APIC range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum X2apic {
    /// "Virtualize x2APIC mode" is 0: every access must reach us, whatever L1's bitmap says, or L2
    /// would reach L0's own APIC.
    Intercepted,
    /// "Virtualize x2APIC mode" is 1.
    Virtualized {
        /// "APIC-register virtualization" is 1: reads come from the virtual-APIC page.
        registers: bool,
        /// "Virtual-interrupt delivery" is 1: EOI and self-IPI writes are virtualized.
        delivery: bool,
    },
}

/// The words of L1's bitmap that a merge has looked at, and what they held. As long as they hold the same, and
/// L0's bitmap and the [`X2apic`] are the same, so is the result.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers {
    words: [(u16, u64); Self::MOST],
    /// How many there are; more than there is room for if some were not kept.
    count: usize,
}

impl Answers {
    /// How many are kept: all where L0 opens the MSRs that it does, and L1 virtualizes the x2APIC.
    const MOST: usize = 24;

    fn note(&mut self, index: usize, value: u64) {
        #[allow(clippy::cast_possible_truncation, reason = "below 512")]
        let answer = (index as u16, value);
        let last = self.count.wrapping_sub(1);
        if self.words.get(last) == Some(&answer) {
            return;
        }
        if let Some(room) = self.words.get_mut(self.count) {
            *room = answer;
        }
        self.count = self.count.saturating_add(1);
    }

    /// Returns whether L1's words, which `l1` returns, hold what they held. Not if no merge has looked yet,
    /// nor if one has looked at more than are kept.
    #[inline]
    pub fn hold(&self, l1: impl Fn(usize) -> u64) -> bool {
        let kept = self.words.get(..self.count);
        kept.is_some_and(|kept| {
            !kept.is_empty()
                && kept
                    .iter()
                    .all(|(index, value)| l1(usize::from(*index)) == *value)
        })
    }
}

/// What a merge leaves besides the page.
#[derive(Clone, Copy, Debug)]
pub struct Merged {
    /// The words that may be open: what the next merge into the same page gets as `stale`.
    pub open: OpenWords,
    /// What it has seen of L1's bitmap.
    pub seen: Answers,
}

impl Default for Merged {
    /// What is known of a fresh page: nothing.
    fn default() -> Self {
        Self {
            open: OpenWords::ALL,
            seen: Answers::default(),
        }
    }
}

/// Computes vmcs02's bitmap: an access is let through where both L0 and L1 let it through, but for
/// writes of the SYSENTER MSRs: vmcs12 must learn of them, as an exit to L1 does not read them back.
///
/// `open` are the words that L0 opens now ([`OpenWords::of`] of `l0`), `stale` those that an
/// earlier merge into `out` may have opened ([`OpenWords::ALL`] for a fresh page); no other word is
/// touched, nor asked for from `l1`, which returns a word of L1's page: L1 may change it at any time,
/// so all that matters is read anew for each merge. The x2APIC range follows `x2apic` and L1 alone: what
/// L0 opened there is for its own virtual-APIC page.
#[must_use]
pub fn merge(
    out: &mut Page,
    l0: &Page,
    l1: impl Fn(usize) -> u64,
    open: OpenWords,
    stale: OpenWords,
    x2apic: X2apic,
) -> Merged {
    let mut merged = Merged {
        open,
        seen: Answers::default(),
    };
    for index in open.union(stale).iter() {
        let (Some(to), Some(l0)) = (out.get_mut(index), l0.get(index)) else {
            continue;
        };
        *to = if is_x2apic(index) || *l0 == u64::MAX {
            u64::MAX
        } else {
            let answer = l1(index);
            merged.seen.note(index, answer);
            l0 | answer | kept_from_l2(index)
        };
    }
    if let X2apic::Virtualized {
        registers,
        delivery,
    } = x2apic
    {
        let mut open_by_l1 = |msr, access, accesses| {
            let Some((word, bit)) = position(msr, access) else {
                return;
            };
            let answer = l1(word);
            merged.seen.note(word, answer);
            if answer & bit == 0 {
                pass_through(out, msr, accesses);
                merged.open.insert(word);
            }
        };
        if registers {
            for msr in X2APIC_FIRST..=X2APIC_LAST {
                open_by_l1(msr, MsrAccess::Read, MsrAccesses::Read);
            }
        }
        open_by_l1(X2APIC_TPR, MsrAccess::Read, MsrAccesses::Read);
        open_by_l1(X2APIC_TPR, MsrAccess::Write, MsrAccesses::Write);
        if delivery {
            open_by_l1(X2APIC_EOI, MsrAccess::Write, MsrAccesses::Write);
            open_by_l1(X2APIC_SELF_IPI, MsrAccess::Write, MsrAccesses::Write);
        }
    }
    merged
}

const IA32_SYSENTER_CS: u32 = 0x174;

/// Returns the bits of word `index` that stay set for L2: writes of IA32_SYSENTER_CS, ESP and EIP.
const fn kept_from_l2(index: usize) -> u64 {
    match position(IA32_SYSENTER_CS, MsrAccess::Write) {
        // The three are in one word.
        Some((word, bit)) if word == index => bit | (bit << 1) | (bit << 2),
        _ => 0,
    }
}

/// Returns whether word `index` lies in the x2APIC range.
const fn is_x2apic(index: usize) -> bool {
    let first = (X2APIC_FIRST >> 6) as usize;
    let last = (X2APIC_LAST >> 6) as usize;
    let low = index & 255;
    low >= first && low <= last
}

#[cfg(test)]
mod tests {
    use super::*;
    use MsrAccess::{Read, Write};

    const CLOSED: Page = [u64::MAX; 512];
    const EFER: u32 = 0xc000_0080;

    #[test]
    fn bits_sit_in_the_four_quarters() {
        assert_eq!(position(0, Read), Some((0, 1)));
        assert_eq!(position(0x1fff, Read), Some((127, 1 << 63)));
        assert_eq!(position(0xc000_0000, Read), Some((128, 1)));
        assert_eq!(position(0x41, Write), Some((257, 2)));
        assert_eq!(position(0xc000_1fff, Write), Some((511, 1 << 63)));
    }

    #[test]
    fn msrs_without_a_bit_always_exit() {
        let mut page = [0; 512];
        for msr in [0x2000, 0x4000_0000, 0xbfff_ffff, 0xc000_2000, u32::MAX] {
            pass_through(&mut page, msr, MsrAccesses::ReadWrite);
            assert!(intercepts(&page, msr, Read) && intercepts(&page, msr, Write));
        }
        assert!(!intercepts(&page, 0x1fff, Read));
    }

    #[test]
    fn one_access_can_pass_without_the_other() {
        let mut page = CLOSED;
        pass_through(&mut page, EFER, MsrAccesses::Read);
        assert!(!intercepts(&page, EFER, Read) && intercepts(&page, EFER, Write));
        assert!(intercepts(&page, EFER + 1, Read) && intercepts(&page, EFER - 1, Read));
        intercept(&mut page, EFER, MsrAccesses::ReadWrite);
        assert_eq!(page, CLOSED);
    }

    #[test]
    fn open_words_name_exactly_the_open_words() {
        let mut page = CLOSED;
        for msr in [0x10, 0x3f, EFER, 0xc000_1fff] {
            pass_through(&mut page, msr, MsrAccesses::Write);
        }
        let words: Vec<usize> = OpenWords::of(&page).iter().collect();
        assert_eq!(words, [256, 386, 511]);
        assert_eq!(OpenWords::ALL.iter().count(), 512);
    }

    fn merged(l0: &Page, l1: &Page, x2apic: X2apic) -> Page {
        let mut out = [0; 512];
        let word = |index| l1[index];
        let _ = merge(
            &mut out,
            l0,
            word,
            OpenWords::of(l0),
            OpenWords::ALL,
            x2apic,
        );
        out
    }

    #[test]
    fn merge_lets_through_only_what_both_do() {
        let (mut l0, mut l1) = (CLOSED, CLOSED);
        pass_through(&mut l0, 0x174, MsrAccesses::ReadWrite);
        pass_through(&mut l0, EFER, MsrAccesses::ReadWrite);
        pass_through(&mut l1, 0x174, MsrAccesses::Read);
        pass_through(&mut l1, 0x10, MsrAccesses::ReadWrite);
        let out = merged(&l0, &l1, X2apic::Intercepted);
        let mut want = CLOSED;
        pass_through(&mut want, 0x174, MsrAccesses::Read);
        assert_eq!(out, want);
    }

    #[test]
    fn writes_of_sysenter_msrs_exit_whatever_both_open() {
        let out = merged(&[0; 512], &[0; 512], X2apic::Intercepted);
        for msr in 0x172..0x179 {
            assert!(!intercepts(&out, msr, Read), "{msr:#x}");
            let is_sysenter = (0x174..=0x176).contains(&msr);
            assert_eq!(intercepts(&out, msr, Write), is_sysenter, "{msr:#x}");
        }
    }

    #[test]
    fn merge_asks_l1_only_where_l0_lets_something_through() {
        let mut l0 = CLOSED;
        pass_through(&mut l0, EFER, MsrAccesses::Read);
        let asked = std::cell::RefCell::new(Vec::new());
        let l1 = |index| {
            asked.borrow_mut().push(index);
            0
        };
        let open = OpenWords::of(&l0);
        let mut out = CLOSED;
        let _ = merge(&mut out, &l0, l1, open, OpenWords::ALL, X2apic::Intercepted);
        assert_eq!(*asked.borrow(), [130]);
        assert_eq!(out, l0);
    }

    #[test]
    fn merge_closes_words_that_were_open_before() {
        let mut l0 = CLOSED;
        let mut out = CLOSED;
        pass_through(&mut l0, EFER, MsrAccesses::ReadWrite);
        let open = OpenWords::of(&l0);
        let stale = merge(
            &mut out,
            &l0,
            |_| 0,
            open,
            OpenWords::ALL,
            X2apic::Intercepted,
        )
        .open;
        assert!(!intercepts(&out, EFER, Read));
        let open = OpenWords::of(&CLOSED);
        let merged = merge(&mut out, &CLOSED, |_| 0, open, stale, X2apic::Intercepted);
        assert_eq!(out, CLOSED);
        assert_eq!(merged.open.iter().count(), 0);
    }

    #[test]
    fn x2apic_stays_shut_without_virtualization_whatever_both_open() {
        let out = merged(&[0; 512], &[0; 512], X2apic::Intercepted);
        for msr in X2APIC_FIRST..=X2APIC_LAST {
            assert!(
                intercepts(&out, msr, Read) && intercepts(&out, msr, Write),
                "{msr:#x}"
            );
        }
        assert!(!intercepts(&out, X2APIC_FIRST - 1, Read));
        assert!(!intercepts(&out, X2APIC_LAST + 1, Write));
    }

    #[test]
    fn x2apic_opens_for_what_vmcs12_virtualizes() {
        let mut l1 = [0; 512];
        intercept(&mut l1, 0x80a, MsrAccesses::ReadWrite);
        let tpr = X2apic::Virtualized {
            registers: false,
            delivery: false,
        };
        let all = X2apic::Virtualized {
            registers: true,
            delivery: true,
        };
        let out = merged(&CLOSED, &l1, tpr);
        assert!(!intercepts(&out, 0x808, Read) && !intercepts(&out, 0x808, Write));
        assert!(intercepts(&out, 0x802, Read) && intercepts(&out, 0x80b, Write));
        let out = merged(&CLOSED, &l1, all);
        assert!(!intercepts(&out, 0x802, Read) && intercepts(&out, 0x802, Write));
        assert!(!intercepts(&out, 0x80b, Write) && !intercepts(&out, 0x83f, Write));
        assert!(intercepts(&out, 0x80a, Read), "L1 intercepts it");
    }

    #[test]
    fn x2apic_closes_again_after_virtualization_ends() {
        let mut out = CLOSED;
        let all = X2apic::Virtualized {
            registers: true,
            delivery: true,
        };
        let none = OpenWords::of(&CLOSED);
        let stale = merge(&mut out, &CLOSED, |_| 0, none, none, all).open;
        let _ = merge(&mut out, &CLOSED, |_| 0, none, stale, X2apic::Intercepted);
        assert_eq!(out, CLOSED);
    }

    /// A page of L0 that opens what L0 does, and more.
    fn open_by_l0() -> Page {
        let mut l0 = CLOSED;
        for msr in [0x10, 0x48, 0x49, 0x174, 0xc000_0100] {
            pass_through(&mut l0, msr, MsrAccesses::ReadWrite);
        }
        l0
    }

    const BOTH: X2apic = X2apic::Virtualized {
        registers: true,
        delivery: true,
    };

    #[test]
    fn answers_hold_until_l1_changes_a_word_that_the_merge_depends_on() {
        let l0 = open_by_l0();
        let open = OpenWords::of(&l0);
        for x2apic in [X2apic::Intercepted, BOTH] {
            let mut l1 = CLOSED;
            let mut out = CLOSED;
            let merged = merge(&mut out, &l0, |n| l1[n], open, OpenWords::ALL, x2apic);
            assert!(merged.seen.hold(|n| l1[n]));
            let before = out;
            let mut asked = 0;
            for word in 0..512 {
                l1[word] = 0;
                let _ = merge(&mut out, &l0, |n| l1[n], open, merged.open, x2apic);
                let holds = merged.seen.hold(|n| l1[n]);
                assert!(out == before || !holds, "word {word}");
                asked += usize::from(!holds);
                l1[word] = u64::MAX;
                out = before;
            }
            assert!((8..20).contains(&asked), "{asked}");
        }
    }

    #[test]
    fn answers_that_do_not_fit_or_are_not_there_hold_never() {
        assert!(!Answers::default().hold(|_| 0));
        let l0 = [0; 512];
        let open = OpenWords::of(&l0);
        let mut out = CLOSED;
        let merged = merge(&mut out, &l0, |_| 0, open, OpenWords::ALL, BOTH);
        assert!(!merged.seen.hold(|_| 0));
    }
}
