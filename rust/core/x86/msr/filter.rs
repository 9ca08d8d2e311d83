// SPDX-License-Identifier: GPL-2.0

//! `KVM_X86_SET_MSR_FILTER`, and the exits of `KVM_CAP_X86_USER_SPACE_MSR`.

/// `KVM_MSR_FILTER_MAX_RANGES`.
pub const MAX_RANGES: usize = 16;
/// `KVM_MSR_FILTER_MAX_BITMAP_SIZE`, in bytes.
pub const MAX_BITMAP_BYTES: u32 = 0x600;
/// `KVM_MSR_FILTER_READ`, `KVM_MSR_FILTER_WRITE`.
const RANGE_FLAGS: u32 = 3;
/// `KVM_MSR_FILTER_DEFAULT_DENY`.
const DEFAULT_DENY: u32 = 1;

/// `KVM_MSR_EXIT_REASON_*`: why an access goes to the VMM, and which of them it asked for.
pub mod reason {
    /// The access to an MSR that exists was not legal.
    pub const INVAL: u64 = 1 << 0;
    /// There is no such MSR.
    pub const UNKNOWN: u64 = 1 << 1;
    /// The filter denied the access.
    pub const FILTER: u64 = 1 << 2;
    /// Every reason that is defined.
    pub const ALL: u64 = INVAL | UNKNOWN | FILTER;
}

/// The kind of an access; its number is its flag in a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Access {
    /// RDMSR.
    Read = 1,
    /// WRMSR.
    Write = 2,
}

/// What holds for an MSR that no range covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fallback {
    /// The access is allowed.
    #[default]
    Allow,
    /// The access is denied.
    Deny,
}

/// A filter that makes no sense: the ioctl fails with `EINVAL`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalid;

/// A range, without its bitmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Range {
    /// The accesses that the range decides: [`Access`] bits.
    pub flags: u32,
    /// The first MSR.
    pub base: u32,
    /// The number of MSRs; 0 for a range that is not used.
    pub nr_msrs: u32,
}

impl Range {
    /// Checks the range, and returns the size of its bitmap in bytes, a multiple of 8; 0 for a
    /// range that is not used.
    ///
    /// # Errors
    ///
    /// [`Invalid`] for an undefined flag, no flag at all, or a bitmap beyond [`MAX_BITMAP_BYTES`].
    pub fn bitmap_bytes(&self) -> Result<u32, Invalid> {
        if self.nr_msrs == 0 {
            return Ok(0);
        }
        if self.flags == 0 || self.flags & !RANGE_FLAGS != 0 {
            return Err(Invalid);
        }
        let bytes = u64::from(self.nr_msrs).div_ceil(64).saturating_mul(8);
        u32::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes <= MAX_BITMAP_BYTES)
            .ok_or(Invalid)
    }

    /// Returns the bit of MSR `number` in the bitmap, if the range decides this access.
    fn bit(&self, number: u32, access: Access) -> Option<u32> {
        let bit = number.checked_sub(self.base)?;
        (bit < self.nr_msrs && self.flags & access as u32 != 0).then_some(bit)
    }
}

/// Reads the filter's flags.
///
/// # Errors
///
/// [`Invalid`] for an undefined flag, or a filter that denies everything (no range in use).
pub fn fallback_of(flags: u32, ranges: &[Range]) -> Result<Fallback, Invalid> {
    let is_empty = ranges.iter().all(|range| range.nr_msrs == 0);
    match flags {
        0 => Ok(Fallback::Allow),
        DEFAULT_DENY if !is_empty => Ok(Fallback::Deny),
        _ => Err(Invalid),
    }
}

/// Returns whether the guest may access MSR `number`: the first range that decides it has the
/// word, a set bit allows. MSRs of the x2APIC are not filtered.
///
/// `ranges` are those in use, with their bitmaps (little-endian bit order).
pub fn allows<'a>(
    fallback: Fallback,
    ranges: impl IntoIterator<Item = (&'a Range, &'a [u8])>,
    number: u32,
    access: Access,
) -> bool {
    if matches!(number, 0x800..=0x8ff) {
        return true;
    }
    for (range, bitmap) in ranges {
        if let Some(bit) = range.bit(number, access) {
            let byte = bitmap.get((bit >> 3) as usize).copied().unwrap_or(0);
            return byte & (1 << (bit & 7)) != 0;
        }
    }
    fallback == Fallback::Allow
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        let r = Range {
            flags: 3,
            base: 0,
            nr_msrs: 1,
        };
        assert_eq!(r.bitmap_bytes(), Ok(8));
        assert_eq!(Range { nr_msrs: 65, ..r }.bitmap_bytes(), Ok(16));
        assert_eq!(
            Range {
                nr_msrs: 0,
                flags: 99,
                base: 0
            }
            .bitmap_bytes(),
            Ok(0)
        );
        assert_eq!(
            Range {
                nr_msrs: 0x600 * 8,
                ..r
            }
            .bitmap_bytes(),
            Ok(0x600)
        );
        assert_eq!(
            Range {
                nr_msrs: 0x600 * 8 + 1,
                ..r
            }
            .bitmap_bytes(),
            Err(Invalid)
        );
        assert_eq!(
            Range {
                nr_msrs: u32::MAX,
                ..r
            }
            .bitmap_bytes(),
            Err(Invalid)
        );
        assert_eq!(Range { flags: 0, ..r }.bitmap_bytes(), Err(Invalid));
        assert_eq!(Range { flags: 4, ..r }.bitmap_bytes(), Err(Invalid));
    }

    #[test]
    fn a_filter_cannot_deny_everything() {
        let used = [Range {
            flags: 1,
            base: 0,
            nr_msrs: 1,
        }];
        assert_eq!(fallback_of(1, &used), Ok(Fallback::Deny));
        assert_eq!(fallback_of(1, &[Range::default(); 16]), Err(Invalid));
        assert_eq!(fallback_of(0, &[]), Ok(Fallback::Allow));
        assert_eq!(fallback_of(2, &used), Err(Invalid));
    }

    #[test]
    fn first_deciding_range_has_the_word() {
        let reads = Range {
            flags: 1,
            base: 0x10,
            nr_msrs: 9,
        };
        let both = Range {
            flags: 3,
            base: 0x10,
            nr_msrs: 64,
        };
        let ranges: [(&Range, &[u8]); 2] = [(&reads, &[0b10, 1]), (&both, &[0b100])];
        let allowed = |number, access| allows(Fallback::Allow, ranges, number, access);
        assert!(!allowed(0x10, Access::Read));
        assert!(allowed(0x11, Access::Read));
        assert!(allowed(0x18, Access::Read));
        assert!(!allowed(0x11, Access::Write));
        assert!(allowed(0x12, Access::Write));
        assert!(!allowed(0x20, Access::Write), "a short bitmap denies");
        assert!(allowed(0x50, Access::Read) && allowed(0xf, Access::Write));
        assert!(!allows(Fallback::Deny, ranges, 0x50, Access::Read));
        assert!(allows(Fallback::Deny, ranges, 0x80b, Access::Write));
    }

    #[test]
    fn a_range_at_the_end_of_the_space_does_not_wrap() {
        let range = Range {
            flags: 3,
            base: u32::MAX,
            nr_msrs: 2,
        };
        let ranges: [(&Range, &[u8]); 1] = [(&range, &[1])];
        assert!(allows(Fallback::Deny, ranges, u32::MAX, Access::Read));
        assert!(!allows(Fallback::Deny, ranges, 0, Access::Read));
    }
}
