// SPDX-License-Identifier: GPL-2.0

//! Page-modification logging: where the processor has put what it logged.
//!
//! SDM 3C "Page-Modification Logging", 30.3.6

use core::ops::Range;

/// The number of guest-physical addresses in a log: one page of them.
pub const NR_ENTRIES: u16 = 512;

/// What GUEST_PML_INDEX is for an empty log. The processor fills the log from its end.
pub const EMPTY: u16 = NR_ENTRIES - 1;

/// Returns where in a log entries are whose GUEST_PML_INDEX is `index`: behind it. The index wraps
/// around once the log is full.
pub fn logged(index: u16) -> Range<u16> {
    let first = index.wrapping_add(1);
    if first < NR_ENTRIES {
        first..NR_ENTRIES
    } else if index < NR_ENTRIES {
        NR_ENTRIES..NR_ENTRIES
    } else {
        0..NR_ENTRIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_log_has_no_entries() {
        assert!(logged(EMPTY).is_empty());
    }

    #[test]
    fn entries_are_behind_the_index() {
        assert_eq!(logged(510), 511..512);
        assert_eq!(logged(0), 1..512);
    }

    #[test]
    fn a_full_log_has_an_index_that_wrapped_around() {
        assert_eq!(logged(0xffff), 0..512);
    }

    #[test]
    fn an_index_that_no_processor_leaves_stays_in_the_page() {
        for index in 0..=u16::MAX {
            assert!(logged(index).end <= NR_ENTRIES);
        }
    }
}
