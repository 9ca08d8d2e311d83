// SPDX-License-Identifier: GPL-2.0

//! An exception during the delivery of another event: in series, a double fault, or a shutdown.
//!
//! SDM 3A "Interrupt 8 - Double Fault Exception (#DF)", 7.15.

use crate::outcome::vector;

/// The class of an event for the double-fault rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Interrupts of every kind, and the exceptions that are not below.
    Benign,
    /// #DE, #TS, #NP, #SS, #GP, #CP.
    Contributory,
    /// #PF, #VE.
    PageFault,
    /// #DF.
    DoubleFault,
}

impl Class {
    /// Returns the class of the exception with this vector.
    #[inline]
    pub const fn of_exception(vector: u8) -> Self {
        match vector {
            vector::DE | vector::TS | vector::NP | vector::SS | vector::GP | vector::CP => {
                Self::Contributory
            }
            vector::PF | vector::VE => Self::PageFault,
            vector::DF => Self::DoubleFault,
            _ => Self::Benign,
        }
    }
}

/// What two events make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merged {
    /// The second is delivered; the first is void, and comes again if its cause persists.
    Second,
    /// #DF(0) is delivered in place of both.
    DoubleFault,
    /// The processor shuts down.
    TripleFault,
}

/// Returns what an exception of class `second` makes of the event of class `first` during whose
/// delivery it occurs.
pub const fn merge(first: Class, second: Class) -> Merged {
    match (first, second) {
        (Class::Benign, _) | (_, Class::Benign) => Merged::Second,
        (Class::DoubleFault, _) => Merged::TripleFault,
        (Class::Contributory, Class::PageFault) => Merged::Second,
        // A #DF is raised by this rule only; where a VMM pends one, it stands.
        (_, Class::DoubleFault) => Merged::Second,
        (Class::Contributory | Class::PageFault, Class::Contributory)
        | (Class::PageFault, Class::PageFault) => Merged::DoubleFault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manual's table, written out by vector: rows are the first event, columns the second.
    #[test]
    fn double_fault_table_for_every_pair_of_vectors() {
        let contributory = [0, 10, 11, 12, 13, 21];
        let page_fault = [14, 20];
        for first in 0u8..32 {
            for second in 0u8..32 {
                if second == 8 {
                    continue;
                }
                let second_is_hard = contributory.contains(&second) || page_fault.contains(&second);
                let expected = if first == 8 {
                    if second_is_hard {
                        Merged::TripleFault
                    } else {
                        Merged::Second
                    }
                } else if (contributory.contains(&first) && contributory.contains(&second))
                    || (page_fault.contains(&first) && second_is_hard)
                {
                    Merged::DoubleFault
                } else {
                    Merged::Second
                };
                let got = merge(Class::of_exception(first), Class::of_exception(second));
                assert_eq!(got, expected, "{first} then {second}");
            }
        }
    }
}
