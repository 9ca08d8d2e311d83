// SPDX-License-Identifier: GPL-2.0

//! The access of an instruction that the processor itself translated before it exited.

use crate::addr::{
    Gpa,
    Gva,
    PAGE_SIZE, //
};
use crate::x86::walk::Kind;

/// An access of the current instruction that the processor itself translated before it exited: one by the
/// code that runs, to a linear address.
///
/// # Examples
///
/// ```
/// # use burrow_core::{addr::{Gpa, Gva}, x86::{emulate::KnownAccess, walk::Kind}};
/// let store = KnownAccess {
///     gva: Gva(0xffff_8000_0000_1020),
///     gpa: Gpa(0xfee0_0020),
///     is_write: true,
///     is_device: true,
/// };
/// let beside = Gva(0xffff_8000_0000_1080);
/// assert_eq!(store.translate(beside, 4, Kind::Write), Some(Gpa(0xfee0_0080)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownAccess {
    /// The linear address.
    pub gva: Gva,
    /// The guest-physical address.
    pub gpa: Gpa,
    /// It was a write, and not a read.
    pub is_write: bool,
    /// No memory is there.
    pub is_device: bool,
}

impl KnownAccess {
    /// Returns the guest-physical address of `len` bytes at `gva`, if they are in the page that is known
    /// and `kind` of access is allowed as the known one was.
    #[inline]
    pub fn translate(&self, gva: Gva, len: usize, kind: Kind) -> Option<Gpa> {
        let is_allowed = match kind {
            Kind::Read => true,
            Kind::Write => self.is_write,
            Kind::Fetch => false,
        };
        let is_inside = gva.page_offset().saturating_add(len as u64) <= PAGE_SIZE;
        let is_same = gva.page_base() == self.gva.page_base();
        (is_allowed && is_inside && is_same)
            .then(|| self.gpa.page_base().wrapping_add(gva.page_offset()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GVA: u64 = 0xffff_8000_1234_5678;

    fn known(is_write: bool) -> KnownAccess {
        KnownAccess {
            gva: Gva(GVA),
            gpa: Gpa(0xfee0_0678),
            is_write,
            is_device: true,
        }
    }

    #[test]
    fn what_was_written_may_be_read_but_not_the_other_way_round() {
        let at = |is_write, kind| known(is_write).translate(Gva(GVA), 4, kind);
        assert_eq!(at(true, Kind::Write), Some(Gpa(0xfee0_0678)));
        assert_eq!(at(true, Kind::Read), Some(Gpa(0xfee0_0678)));
        assert_eq!(at(false, Kind::Read), Some(Gpa(0xfee0_0678)));
        assert_eq!(at(false, Kind::Write), None);
    }

    #[test]
    fn no_data_access_lets_code_be_fetched() {
        for is_write in [false, true] {
            assert_eq!(known(is_write).translate(Gva(GVA), 1, Kind::Fetch), None);
        }
    }

    #[test]
    fn all_of_the_page_is_known_and_no_other() {
        let page = Gva(GVA).page_base();
        let at = |offset, len| known(true).translate(page.wrapping_add(offset), len, Kind::Write);
        for (offset, len) in [(0, 1), (0, 4096), (0xff8, 8), (0xfff, 1)] {
            assert_eq!(
                at(offset, len),
                Some(Gpa(0xfee0_0000 + offset)),
                "{offset:#x}"
            );
        }
        for (offset, len) in [
            (0xff9, 8),
            (0xfff, 2),
            (1, 4096),
            (0, usize::MAX),
            (0x1000, 1),
        ] {
            assert_eq!(at(offset, len), None, "{offset:#x} {len}");
        }
        assert_eq!(at(u64::MAX, 1), None, "the page below");
    }
}
