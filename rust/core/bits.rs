// SPDX-License-Identifier: GPL-2.0

//! `bitfield!`: named bit ranges of an integer, in the grammar of the kernel's own macro.
//!
//! Every register, VMCS word and table entry whose bits have names is declared with it, so that no
//! handler needs a mask.

/// A type that a bit range can be read as.
pub trait FromBits: Sized {
    /// Converts the (already shifted and masked) bits.
    fn from_bits(bits: u64) -> Self;
    /// Converts back, for a builder; excess bits are cut by the caller.
    fn into_bits(self) -> u64;
}

macro_rules! from_bits_int {
    ($($t:ty)*) => { $(
        impl FromBits for $t {
            #[inline]
            #[allow(clippy::cast_possible_truncation, reason = "the macro checks that the range fits")]
            fn from_bits(bits: u64) -> Self {
                bits as $t
            }
            #[inline]
            fn into_bits(self) -> u64 {
                u64::from(self)
            }
        }
    )* };
}
from_bits_int!(u8 u16 u32 u64);

impl FromBits for bool {
    #[inline]
    fn from_bits(bits: u64) -> Self {
        bits != 0
    }
    #[inline]
    fn into_bits(self) -> u64 {
        u64::from(self)
    }
}

/// Returns the mask of bits `hi..=lo`, for `63 >= hi >= lo`.
pub const fn mask(hi: u32, lo: u32) -> u64 {
    assert!(hi >= lo && hi < 64);
    let above = (u64::MAX << hi) << 1;
    (u64::MAX << lo) & !above
}

/// Returns the mask of bits `hi..=lo` of a `T`; does not build where `T` is narrower than that.
pub const fn field_mask<T>(hi: u32, lo: u32) -> u64 {
    assert!(((hi / 8) as usize) < core::mem::size_of::<T>());
    mask(hi, lo)
}

/// Declares an integer type with named bit ranges.
///
/// Each field `hi:lo name, with_name => Type` gives a getter `name()` and a builder
/// `with_name(value)`, which keeps the bits of `value` that fit; `Type` is an unsigned integer or
/// `bool`. (`macro_rules!` cannot make up the builder's name, so the declaration states it.)
///
/// ```
/// burrow_core::bitfield! {
///     /// A page-fault error code.
///     pub struct PfErrorCode(u32) {
///         /// The page was present.
///         0:0 present, with_present => bool;
///         /// A wider field.
///         7:4 key, with_key => u8;
///     }
/// }
/// let code = PfErrorCode(0).with_present(true).with_key(5);
/// assert_eq!(code.0, 0x51);
/// assert_eq!(code.key(), 5);
/// ```
#[macro_export]
macro_rules! bitfield {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident($repr:ty) {
            $( $(#[$fmeta:meta])* $hi:literal : $lo:literal $get:ident, $with:ident => $ty:ty; )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        #[repr(transparent)]
        $vis struct $name(pub $repr);

        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_lossless,
            clippy::unnecessary_cast,
            dead_code,
            reason = "the ranges are constants, checked against the width at build time"
        )]
        impl $name {
            $(
                $(#[$fmeta])*
                #[inline]
                $vis fn $get(self) -> $ty {
                    const MASK: u64 = $crate::bits::field_mask::<$repr>($hi, $lo);
                    $crate::bits::FromBits::from_bits(((self.0 as u64) & MASK) >> $lo)
                }

                #[doc = concat!("Returns the value with `", stringify!($get), "` replaced.")]
                #[inline]
                $vis fn $with(self, value: $ty) -> Self {
                    const MASK: u64 = $crate::bits::field_mask::<$repr>($hi, $lo);
                    let bits = $crate::bits::FromBits::into_bits(value) << $lo;
                    Self((((self.0 as u64) & !MASK) | (bits & MASK)) as $repr)
                }
            )*
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    bitfield! {
        struct Sample(u32) {
            0:0 low, with_low => bool;
            11:4 mid, with_mid => u8;
            31:31 high, with_high => bool;
        }
    }

    #[test]
    fn mask_covers_both_ends() {
        assert_eq!(mask(0, 0), 1);
        assert_eq!(mask(63, 0), u64::MAX);
        assert_eq!(mask(11, 4), 0xff0);
    }

    #[test]
    fn getters_read_what_builders_wrote() {
        let s = Sample(0x10).with_low(true).with_mid(0xab).with_high(true);
        assert_eq!(s.0, 0x8000_0ab1);
        assert!(s.low() && s.high());
        assert_eq!(s.mid(), 0xab);
        assert_eq!(s.with_high(false).with_mid(0).0, 1);
    }
}
