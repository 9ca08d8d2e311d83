// SPDX-License-Identifier: GPL-2.0

//! Interrupt lines: who drives them, and what became of a change.

/// Who drives a line. Each source has a level of its own, and a line is high while any of them is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Userspace: KVM_IRQ_LINE, and irqfds without a resampler.
    Userspace = 0,
    /// Irqfds with a resampler, all together.
    Resampler = 1,
    /// The PIT.
    Pit = 2,
}

/// The level of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineLevel {
    /// Not asserted.
    Low,
    /// Asserted.
    High,
}

impl LineLevel {
    /// Returns the level of a number as KVM_IRQ_LINE has it: 0 is low.
    #[inline]
    pub const fn from_bit(is_high: bool) -> Self {
        if is_high {
            LineLevel::High
        } else {
            LineLevel::Low
        }
    }
}

/// The sources that hold a line high.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Line(u8);

impl Line {
    /// Sets the level of one source; returns that of the line.
    #[inline]
    pub fn set(&mut self, source: Source, level: LineLevel) -> LineLevel {
        let bit = 1u8 << (source as u8);
        match level {
            LineLevel::Low => self.0 &= !bit,
            LineLevel::High => self.0 |= bit,
        }
        LineLevel::from_bit(self.0 != 0)
    }
}

/// What became of a change of a line, or of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LineStatus {
    /// Nothing: it is masked, or leads nowhere.
    #[default]
    Ignored,
    /// The interrupt before it has not been taken yet.
    Coalesced,
    /// This many processors got it; for the end of a signal, 1.
    Delivered(u32),
}

impl LineStatus {
    /// Returns the number that KVM_IRQ_LINE_STATUS gives: below 0 for ignored, 0 for coalesced.
    #[inline]
    pub fn to_abi(self) -> i32 {
        match self {
            LineStatus::Ignored => -1,
            LineStatus::Coalesced => 0,
            LineStatus::Delivered(receivers) => i32::try_from(receivers).unwrap_or(i32::MAX),
        }
    }

    /// Returns the status of a line that drives two pins: that of the one which is not ignored, or
    /// all receivers.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (LineStatus::Ignored, status) | (status, LineStatus::Ignored) => status,
            (LineStatus::Coalesced, status) | (status, LineStatus::Coalesced) => status,
            (LineStatus::Delivered(a), LineStatus::Delivered(b)) => {
                LineStatus::Delivered(a.saturating_add(b))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_high_while_any_source_is() {
        let mut line = Line::default();
        assert_eq!(
            line.set(Source::Userspace, LineLevel::High),
            LineLevel::High
        );
        assert_eq!(line.set(Source::Pit, LineLevel::High), LineLevel::High);
        assert_eq!(line.set(Source::Userspace, LineLevel::Low), LineLevel::High);
        assert_eq!(line.set(Source::Resampler, LineLevel::Low), LineLevel::High);
        assert_eq!(line.set(Source::Pit, LineLevel::Low), LineLevel::Low);
    }

    #[test]
    fn status_of_two_pins_ignores_the_masked_one() {
        use LineStatus::{Coalesced, Delivered, Ignored};
        let rows = [
            (Ignored, Ignored, Ignored, -1),
            (Ignored, Coalesced, Coalesced, 0),
            (Delivered(2), Ignored, Delivered(2), 2),
            (Coalesced, Delivered(1), Delivered(1), 1),
            (Coalesced, Coalesced, Coalesced, 0),
            (Delivered(2), Delivered(1), Delivered(3), 3),
        ];
        for (a, b, both, abi) in rows {
            assert_eq!(a.and(b), both);
            assert_eq!(b.and(a), both);
            assert_eq!(both.to_abi(), abi);
        }
    }
}
