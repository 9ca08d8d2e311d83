// SPDX-License-Identifier: GPL-2.0

//! Segment descriptors of the GDT and the LDT.
//!
//! SDM 3A "Segment Descriptors", 3.4.5; "Segment Descriptor Tables in IA-32e Mode", 3.5.2.

use crate::x86::segment::AccessRights;
use crate::x86::segment::Segment;
use crate::x86::segment::Selector;

bitfield! {
    /// The 8 bytes of a descriptor, little-endian.
    pub struct Descriptor(u64) {
        /// Limit 15:0.
        15:0 limit_low, with_limit_low => u16;
        /// Base 23:0.
        39:16 base_low, with_base_low => u32;
        /// The segment type.
        43:40 type_, with_type => u8;
        /// 0 for a system segment or gate, 1 for code or data.
        44:44 s, with_s => bool;
        /// The descriptor privilege level.
        46:45 dpl, with_dpl => u8;
        /// The segment is present.
        47:47 present, with_present => bool;
        /// Limit 19:16.
        51:48 limit_high, with_limit_high => u8;
        /// Available to software.
        52:52 avl, with_avl => bool;
        /// 64-bit code.
        53:53 l, with_l => bool;
        /// Default operation size.
        54:54 db, with_db => bool;
        /// The limit counts 4-KiB units.
        55:55 g, with_g => bool;
        /// Base 31:24.
        63:56 base_high, with_base_high => u8;
    }
}

impl Descriptor {
    /// Returns bits 31:0 of the base address.
    pub fn base(self) -> u32 {
        self.base_low() | (u32::from(self.base_high()) << 24)
    }

    /// Returns the limit in bytes, the last valid offset.
    pub fn limit(self) -> u32 {
        let units = u32::from(self.limit_low()) | (u32::from(self.limit_high()) << 16);
        if self.g() {
            (units << 12) | 0xfff
        } else {
            units
        }
    }

    /// Returns whether this is a code segment.
    pub fn is_code(self) -> bool {
        self.s() && self.type_() & 8 != 0
    }

    /// Returns whether this is a data segment.
    pub fn is_data(self) -> bool {
        self.s() && self.type_() & 8 == 0
    }

    /// Returns whether this is a conforming code segment.
    pub fn is_conforming(self) -> bool {
        self.is_code() && self.type_() & 4 != 0
    }

    /// Returns whether the segment can be read: data, or readable code.
    pub fn is_readable(self) -> bool {
        self.is_data() || (self.is_code() && self.type_() & 2 != 0)
    }

    /// Returns whether the segment can be written: writable data.
    pub fn is_writable(self) -> bool {
        self.is_data() && self.type_() & 2 != 0
    }

    /// Returns the descriptor with its accessed bit set.
    pub fn accessed(self) -> Self {
        self.with_type(self.type_() | 1)
    }

    /// Returns the access rights as the VMCS holds them.
    pub fn rights(self) -> AccessRights {
        let rights = u32::try_from((self.0 >> 40) & 0xf0ff).unwrap_or(0);
        AccessRights(rights)
    }

    /// Returns the segment register that loading this descriptor by `selector` makes.
    pub fn segment(self, selector: Selector) -> Segment {
        Segment {
            selector,
            base: u64::from(self.base()),
            limit: self.limit(),
            rights: self.rights(),
        }
    }

    /// Returns the system-segment register that loading this descriptor in IA-32e mode makes, with
    /// `upper` the next 8 bytes: an LDT's or TSS's base has 64 bits there. `None` where type bits
    /// of the upper half, which must be 0, are not.
    pub fn system_segment64(self, upper: u64, selector: Selector) -> Option<Segment> {
        if upper & (0x1f << 40) != 0 {
            return None;
        }
        let segment = self.segment(selector);
        Some(Segment {
            base: segment.base | (upper << 32),
            ..segment
        })
    }

    /// Returns the descriptor that makes this segment (base bits 63:32 and "unusable" are lost).
    pub fn of_segment(segment: &Segment) -> Self {
        let units = if segment.rights.g() {
            segment.limit >> 12
        } else {
            segment.limit
        };
        let limit = u64::from(units);
        let base = segment.base;
        Self(
            (limit & 0xffff)
                | ((base & 0xff_ffff) << 16)
                | (u64::from(segment.rights.0 & 0xf0ff) << 40)
                | ((limit & 0xf_0000) << 32)
                | ((base & 0xff00_0000) << 32),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::segment::system_type;
    use proptest::prelude::*;

    #[test]
    fn flat_segments_of_linux_decode() {
        let code64 = Descriptor(0x00af_9b00_0000_ffff).segment(Selector(0x10));
        assert_eq!(
            (code64.base, code64.limit, code64.rights.0),
            (0, u32::MAX, 0xa09b)
        );
        assert!(code64.rights.l() && !code64.rights.db());
        let data = Descriptor(0x00cf_9300_0000_ffff);
        assert!(data.is_writable() && data.is_readable() && !data.is_code());
        assert_eq!(data.rights().0, 0xc093);
        let user = Descriptor(0x00cf_fb00_0000_ffff);
        assert!(user.is_code() && user.is_readable() && !user.is_conforming());
        assert_eq!(user.dpl(), 3);
    }

    #[test]
    fn base_and_limit_are_gathered_from_their_pieces() {
        let d = Descriptor(0x120f_8945_6789_abcd);
        assert_eq!((d.base(), d.limit()), (0x1245_6789, 0xf_abcd));
        assert_eq!(d.with_g(true).limit(), 0xfabc_dfff);
        assert_eq!(d.type_(), system_type::TSS);
    }

    #[test]
    fn tss_of_ia32e_mode_has_a_64bit_base() {
        let d = Descriptor(0x1200_8b45_6789_0067);
        let tr = d.system_segment64(0xffff_fe00, Selector(0x40)).unwrap();
        assert_eq!((tr.base, tr.limit), (0xffff_fe00_1245_6789, 0x67));
        assert_eq!(d.system_segment64(1 << 40, Selector(0x40)), None);
    }

    proptest! {
        #[test]
        fn descriptors_read_back(raw: u64) {
            let d = Descriptor(raw);
            prop_assert_eq!(Descriptor::of_segment(&d.segment(Selector(8))), d);
        }
    }
}
