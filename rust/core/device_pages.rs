// SPDX-License-Identifier: GPL-2.0

//! Pages of the guest's address space that are known to be no memory: those of devices that it accesses.
//!
//! That no slot is at a frame holds for an *epoch* of the slots only; who asks, says which one it is now.

use crate::addr::Gfn;

/// How many pages are remembered: a guest uses few devices at a time.
const NR_PAGES: usize = 4;

/// Some pages without memory.
///
/// # Examples
///
/// ```
/// # use burrow_core::{addr::Gfn, device_pages::DevicePages};
/// let mut pages = DevicePages::default();
/// pages.remember(Gfn(0xfee00), 7);
/// assert!(pages.has(Gfn(0xfee00), 7));
/// assert!(!pages.has(Gfn(0xfee00), 8), "there may be memory by now");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct DevicePages([Option<(Gfn, u64)>; NR_PAGES]);

impl DevicePages {
    fn place(gfn: Gfn) -> usize {
        let [low, ..] = gfn.0.to_le_bytes();
        usize::from(low) % NR_PAGES
    }

    /// Takes note that no memory was at `gfn` in `epoch`, which was read before the slots were.
    #[inline]
    pub fn remember(&mut self, gfn: Gfn, epoch: u64) {
        if let Some(page) = self.0.get_mut(Self::place(gfn)) {
            *page = Some((gfn, epoch));
        }
    }

    /// Returns whether it is known that no memory is at `gfn`, now that it is `epoch`.
    #[inline]
    pub fn has(&self, gfn: Gfn, epoch: u64) -> bool {
        self.0.get(Self::place(gfn)) == Some(&Some((gfn, epoch)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_known_at_first() {
        let pages = DevicePages::default();
        assert!((0..16).all(|gfn| !pages.has(Gfn(gfn), 0)));
    }

    #[test]
    fn neighbours_are_known_together() {
        let mut pages = DevicePages::default();
        let known = 0xfebd0..0xfebd4;
        known.clone().for_each(|gfn| pages.remember(Gfn(gfn), 3));
        for gfn in 0xfebc0..0xfebe0 {
            assert_eq!(pages.has(Gfn(gfn), 3), known.contains(&gfn), "{gfn:#x}");
        }
    }

    #[test]
    fn another_epoch_ends_what_was_known() {
        let mut pages = DevicePages::default();
        pages.remember(Gfn(1), 1);
        assert!(!pages.has(Gfn(1), 0) && !pages.has(Gfn(1), 2));
        pages.remember(Gfn(1), 2);
        assert!(pages.has(Gfn(1), 2) && !pages.has(Gfn(1), 1));
    }

    #[test]
    fn the_last_of_two_in_one_place_is_known() {
        let mut pages = DevicePages::default();
        pages.remember(Gfn(0x100), 5);
        pages.remember(Gfn(0x200), 5);
        assert!(!pages.has(Gfn(0x100), 5) && pages.has(Gfn(0x200), 5));
    }
}
