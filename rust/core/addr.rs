// SPDX-License-Identifier: GPL-2.0

//! Addresses and page-frame numbers, one type for each address space.
//!
//! The only place that shifts by [`PAGE_SHIFT`].

/// log2 of the size of a small page, in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// The size of a small page, in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// Returns the address `bytes` further on, or `None` past the end of the space.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Returns the address `bytes` further on, modulo 2^64.
            #[inline]
            pub const fn wrapping_add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }

            /// Returns the offset within the small page, 0 to 4095.
            #[inline]
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// Returns the start of the small page that holds the address.
            #[inline]
            pub const fn page_base(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// Returns whether the address is a multiple of `bytes`, a power of two.
            #[inline]
            pub const fn is_aligned(self, bytes: u64) -> bool {
                self.0 & bytes.wrapping_sub(1) == 0
            }
        }
    };
}

address! {
    /// A linear ("guest-virtual") address.
    Gva
}
address! {
    /// A guest-physical address.
    Gpa
}
address! {
    /// A physical address of an L2 guest, before nested EPT.
    NestedGpa
}
address! {
    /// A virtual address of the VMM process that owns the guest.
    Hva
}
address! {
    /// A physical address of the host.
    Hpa
}

/// A guest page-frame number: a [`Gpa`] without its page offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Gfn(pub u64);

/// A host page-frame number: an [`Hpa`] without its page offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Pfn(pub u64);

impl Gpa {
    /// Returns the number of the page frame that holds the address.
    #[inline]
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }
}

impl Hpa {
    /// Returns the number of the page frame that holds the address.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }
}

impl Gfn {
    /// Returns the address of the first byte of the frame; bits beyond 2^64 are lost.
    #[inline]
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }

    /// Returns the frame `pages` further on, modulo 2^64.
    #[inline]
    pub const fn wrapping_add(self, pages: u64) -> Self {
        Self(self.0.wrapping_add(pages))
    }
}

impl Pfn {
    /// Returns the address of the first byte of the frame; bits beyond 2^64 are lost.
    #[inline]
    pub const fn hpa(self) -> Hpa {
        Hpa(self.0 << PAGE_SHIFT)
    }
}

/// A level of a paging structure, by the size of the page that a leaf there maps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Level {
    /// Page table: 4 KiB.
    Pt = 1,
    /// Page directory: 2 MiB.
    Pd = 2,
    /// Page-directory-pointer table: 1 GiB.
    Pdpt = 3,
    /// PML4: 512 GiB (no leaves).
    Pml4 = 4,
    /// PML5: 256 TiB (no leaves).
    Pml5 = 5,
}

impl Level {
    /// Returns where a page-frame number holds the index into a table of this level.
    #[inline]
    const fn shift(self) -> u32 {
        match self {
            Level::Pt => 0,
            Level::Pd => 9,
            Level::Pdpt => 18,
            Level::Pml4 => 27,
            Level::Pml5 => 36,
        }
    }

    /// Returns the number of small pages that an entry of this level spans.
    #[inline]
    pub const fn pages(self) -> u64 {
        1 << self.shift()
    }

    /// Returns the number of bytes that an entry of this level spans.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.pages() << PAGE_SHIFT
    }

    /// Returns the next level towards the leaves, or `None` at the page table.
    #[inline]
    pub const fn below(self) -> Option<Self> {
        match self {
            Level::Pt => None,
            Level::Pd => Some(Level::Pt),
            Level::Pdpt => Some(Level::Pd),
            Level::Pml4 => Some(Level::Pdpt),
            Level::Pml5 => Some(Level::Pml4),
        }
    }

    /// Returns the index, 0 to 511, of the entry for page frame `frame` in a table of this level.
    #[inline]
    pub const fn index(self, frame: u64) -> usize {
        ((frame >> self.shift()) & 511) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_spans_grow_by_512() {
        assert_eq!(Level::Pt.bytes(), 4096);
        assert_eq!(Level::Pd.bytes(), 2 << 20);
        assert_eq!(Level::Pdpt.bytes(), 1 << 30);
        assert_eq!(Level::Pml4.pages(), 1 << 27);
    }

    #[test]
    fn level_index_takes_nine_bits_per_level() {
        let frame = (5 << 27) | (4 << 18) | (3 << 9) | 2;
        assert_eq!(Level::Pt.index(frame), 2);
        assert_eq!(Level::Pd.index(frame), 3);
        assert_eq!(Level::Pdpt.index(frame), 4);
        assert_eq!(Level::Pml4.index(frame), 5);
        assert_eq!(Level::Pml5.index(frame), 0);
    }

    #[test]
    fn page_parts_recombine() {
        let gpa = Gpa(0x1234_5678);
        assert_eq!(gpa.page_base().0 + gpa.page_offset(), gpa.0);
        assert_eq!(gpa.gfn().gpa(), gpa.page_base());
        assert_eq!(Gpa(u64::MAX).checked_add(1), None);
    }
}
