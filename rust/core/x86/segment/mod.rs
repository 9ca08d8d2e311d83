// SPDX-License-Identifier: GPL-2.0

//! Segments: registers as the VMCS holds them, descriptors as memory holds them.
//!
//! Key types: [`Segment`] (a segment register with its hidden part), [`AccessRights`], the ABI's
//! [`Fields`] of `struct kvm_segment`, [`Descriptor`], [`Dtable`]. [`Registers`] is the set of all
//! eight, with its values after reset and start-up IPI.

pub mod descriptor;

pub use self::descriptor::Descriptor;

bitfield! {
    /// Access rights in the format of the VMCS. SDM 3C "Guest Register State", 25.4.1.
    pub struct AccessRights(u32) {
        /// The segment type.
        3:0 type_, with_type => u8;
        /// 0 for a system segment, 1 for code or data.
        4:4 s, with_s => bool;
        /// The descriptor privilege level.
        6:5 dpl, with_dpl => u8;
        /// The segment is present.
        7:7 present, with_present => bool;
        /// Available to software.
        12:12 avl, with_avl => bool;
        /// 64-bit code (CS only).
        13:13 l, with_l => bool;
        /// Default operation size, or upper bound of an expand-down segment: 32 bits.
        14:14 db, with_db => bool;
        /// The limit counts 4-KiB units.
        15:15 g, with_g => bool;
        /// The register holds no usable segment.
        16:16 unusable, with_unusable => bool;
    }
}

impl AccessRights {
    /// The rights of a register without a segment.
    pub const UNUSABLE: Self = Self(1 << 16);
    /// Present, accessed, readable 16-bit code.
    pub const REAL_CODE: Self = Self(0x9b);
    /// Present, accessed, writable 16-bit data; also every segment of virtual-8086 mode but for
    /// its DPL of 3 (0xf3).
    pub const REAL_DATA: Self = Self(0x93);
    /// Virtual-8086 mode: as [`Self::REAL_DATA`] with DPL 3.
    pub const VIRTUAL_8086: Self = Self(0xf3);
    /// A present LDT.
    pub const LDT: Self = Self(0x82);
    /// A present, busy 32-bit or 64-bit TSS.
    pub const BUSY_TSS: Self = Self(0x8b);
}

/// Types of system segments. SDM 3A "System Descriptor Types", 3.5.
pub mod system_type {
    /// Available 16-bit TSS.
    pub const TSS16: u8 = 1;
    /// LDT.
    pub const LDT: u8 = 2;
    /// Busy 16-bit TSS.
    pub const BUSY_TSS16: u8 = 3;
    /// 16-bit call gate.
    pub const CALL_GATE16: u8 = 4;
    /// Task gate.
    pub const TASK_GATE: u8 = 5;
    /// 16-bit interrupt gate.
    pub const INTERRUPT_GATE16: u8 = 6;
    /// 16-bit trap gate.
    pub const TRAP_GATE16: u8 = 7;
    /// Available 32-bit TSS (64-bit in IA-32e mode).
    pub const TSS: u8 = 9;
    /// Busy 32-bit TSS (64-bit in IA-32e mode).
    pub const BUSY_TSS: u8 = 11;
    /// 32-bit (64-bit) call gate.
    pub const CALL_GATE: u8 = 12;
    /// 32-bit (64-bit) interrupt gate.
    pub const INTERRUPT_GATE: u8 = 14;
    /// 32-bit (64-bit) trap gate.
    pub const TRAP_GATE: u8 = 15;
}

bitfield! {
    /// A segment selector. SDM 3A "Segment Selectors", 3.4.2.
    pub struct Selector(u16) {
        /// The requested privilege level.
        1:0 rpl, with_rpl => u8;
        /// The table: 0 for the GDT, 1 for the LDT.
        2:2 ti, with_ti => bool;
        /// The descriptor's number in its table.
        15:3 index, with_index => u16;
    }
}

impl Selector {
    /// Returns whether this is a null selector: the GDT's descriptor 0, with any RPL.
    #[inline]
    pub const fn is_null(self) -> bool {
        self.0 & !3 == 0
    }

    /// Returns the offset of the descriptor in its table, in bytes.
    #[inline]
    pub const fn offset(self) -> u16 {
        self.0 & !7
    }
}

/// A segment register, in the order of the VMCS's fields and of instruction encodings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the mnemonics are the documentation")]
pub enum Name {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
    Ldtr = 6,
    Tr = 7,
}

impl Name {
    /// Every segment register.
    pub const ALL: [Self; 8] = [
        Self::Es,
        Self::Cs,
        Self::Ss,
        Self::Ds,
        Self::Fs,
        Self::Gs,
        Self::Ldtr,
        Self::Tr,
    ];
}

/// A segment register with its hidden part, as the VMCS holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// The selector.
    pub selector: Selector,
    /// The linear base address.
    pub base: u64,
    /// The limit in bytes, the last valid offset.
    pub limit: u32,
    /// The access rights.
    pub rights: AccessRights,
}

/// The fields of `struct kvm_segment`, under their names there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the fields are those of the ABI's structure")]
pub struct Fields {
    pub base: u64,
    pub limit: u32,
    pub selector: u16,
    pub type_: u8,
    pub present: u8,
    pub dpl: u8,
    pub db: u8,
    pub s: u8,
    pub l: u8,
    pub g: u8,
    pub avl: u8,
    pub unusable: u8,
}

impl Segment {
    /// Returns the segment that a selector means in real-address mode.
    pub fn real_mode(selector: u16, rights: AccessRights) -> Self {
        Self {
            selector: Selector(selector),
            base: u64::from(selector) << 4,
            limit: 0xffff,
            rights,
        }
    }

    /// Returns the fields for `KVM_GET_SREGS`.
    ///
    /// A segment is shown as present exactly where it is usable; that is how the pair survives
    /// VMMs that know only one of the two.
    pub fn to_fields(self) -> Fields {
        let r = self.rights;
        Fields {
            base: self.base,
            limit: self.limit,
            selector: self.selector.0,
            type_: r.type_(),
            present: u8::from(!r.unusable()),
            dpl: r.dpl(),
            db: u8::from(r.db()),
            s: u8::from(r.s()),
            l: u8::from(r.l()),
            g: u8::from(r.g()),
            avl: u8::from(r.avl()),
            unusable: u8::from(r.unusable()),
        }
    }

    /// Returns the segment that `KVM_SET_SREGS` sets in register `name`.
    ///
    /// A segment that is not present is unusable. A usable one but LDTR is marked as accessed
    /// (for TR: busy), which the VM entry demands and older VMMs leave out.
    pub fn from_fields(fields: &Fields, name: Name) -> Self {
        let rights = if fields.unusable != 0 || fields.present == 0 {
            AccessRights::UNUSABLE
        } else {
            AccessRights(0)
        };
        let accessed = if name == Name::Ldtr { 0 } else { 1 };
        let accessed = if name == Name::Tr { 2 } else { accessed };
        Self {
            selector: Selector(fields.selector),
            base: fields.base,
            limit: fields.limit,
            rights: rights
                .with_type(fields.type_ | accessed)
                .with_s(fields.s & 1 != 0)
                .with_dpl(fields.dpl)
                .with_present(fields.present & 1 != 0)
                .with_avl(fields.avl & 1 != 0)
                .with_l(fields.l & 1 != 0)
                .with_db(fields.db & 1 != 0)
                .with_g(fields.g & 1 != 0),
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dtable {
    /// The linear base address.
    pub base: u64,
    /// The limit in bytes, the last valid offset.
    pub limit: u16,
}

impl Dtable {
    /// The value after reset and INIT.
    pub const RESET: Self = Self {
        base: 0,
        limit: 0xffff,
    };

    /// Returns the offset of the descriptor that `selector` names, if all 8 bytes are within the
    /// limit. For an LDT, use [`Segment::limit`] instead.
    pub fn offset(self, selector: Selector) -> Option<u64> {
        let last = selector.offset() | 7;
        (last <= self.limit).then(|| u64::from(selector.offset()))
    }
}

/// All segment registers of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registers {
    /// The eight registers, indexed by [`Name`].
    segments: [Segment; 8],
    /// GDTR.
    pub gdtr: Dtable,
    /// IDTR.
    pub idtr: Dtable,
}

impl Registers {
    /// Returns the values after power-up, RESET and INIT: execution starts at 0xfffffff0.
    /// SDM 3A "Processor State After Reset", 11.1.1.
    pub fn reset() -> Self {
        let data = Segment::real_mode(0, AccessRights::REAL_DATA);
        let code = Segment {
            selector: Selector(0xf000),
            base: 0xffff_0000,
            limit: 0xffff,
            rights: AccessRights::REAL_CODE,
        };
        let ldtr = Segment {
            rights: AccessRights::LDT,
            ..data
        };
        let tr = Segment {
            rights: AccessRights::BUSY_TSS,
            ..data
        };
        Self {
            segments: [data, code, data, data, data, data, ldtr, tr],
            gdtr: Dtable::RESET,
            idtr: Dtable::RESET,
        }
    }

    /// Returns CS after a start-up IPI with `vector`: execution starts at `vector` pages.
    /// SDM 3A "MP Initialization Protocol Algorithm for MP Systems", 10.4.3.
    pub fn startup_cs(vector: u8) -> Segment {
        Segment::real_mode(u16::from(vector) << 8, AccessRights::REAL_CODE)
    }

    /// Returns the register `name`.
    #[inline]
    pub fn get(&self, name: Name) -> Segment {
        let [es, cs, ss, ds, fs, gs, ldtr, tr] = self.segments;
        match name {
            Name::Es => es,
            Name::Cs => cs,
            Name::Ss => ss,
            Name::Ds => ds,
            Name::Fs => fs,
            Name::Gs => gs,
            Name::Ldtr => ldtr,
            Name::Tr => tr,
        }
    }

    /// Sets the register `name`.
    #[inline]
    pub fn set(&mut self, name: Name, segment: Segment) {
        if let Some(slot) = self.segments.get_mut(name as usize) {
            *slot = segment;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reset_starts_at_the_top_of_4_gib() {
        let r = Registers::reset();
        let cs = r.get(Name::Cs);
        assert_eq!(
            (cs.selector.0, cs.base, cs.limit, cs.rights.0),
            (0xf000, 0xffff_0000, 0xffff, 0x9b)
        );
        for name in [Name::Es, Name::Ss, Name::Ds, Name::Fs, Name::Gs] {
            let s = r.get(name);
            assert_eq!(
                (s.selector.0, s.base, s.limit, s.rights.0),
                (0, 0, 0xffff, 0x93)
            );
        }
        assert_eq!(
            (r.get(Name::Ldtr).rights.0, r.get(Name::Tr).rights.0),
            (0x82, 0x8b)
        );
        assert_eq!(
            r.gdtr,
            Dtable {
                base: 0,
                limit: 0xffff
            }
        );
    }

    #[test]
    fn startup_ipi_starts_at_its_page() {
        let cs = Registers::startup_cs(0x9a);
        assert_eq!((cs.selector.0, cs.base), (0x9a00, 0x9_a000));
    }

    #[test]
    fn set_changes_the_named_register_only() {
        for name in Name::ALL {
            let mut r = Registers::reset();
            let marked = Segment {
                limit: 7,
                ..Segment::default()
            };
            r.set(name, marked);
            for other in Name::ALL {
                let expected = if other == name {
                    marked
                } else {
                    Registers::reset().get(other)
                };
                assert_eq!(r.get(other), expected);
            }
        }
    }

    #[test]
    fn absent_segment_becomes_unusable() {
        let shown = Fields {
            type_: 3,
            present: 0,
            ..Fields::default()
        };
        assert!(Segment::from_fields(&shown, Name::Ds).rights.unusable());
        let shown = Fields {
            present: 1,
            unusable: 1,
            ..shown
        };
        assert!(Segment::from_fields(&shown, Name::Ds).rights.unusable());
    }

    #[test]
    fn accessed_bit_is_supplied_except_for_ldtr() {
        let shown = Fields {
            type_: 2,
            present: 1,
            ..Fields::default()
        };
        assert_eq!(Segment::from_fields(&shown, Name::Ss).rights.0, 0x83);
        assert_eq!(Segment::from_fields(&shown, Name::Ldtr).rights.0, 0x82);
        let tss = Fields { type_: 9, ..shown };
        assert_eq!(Segment::from_fields(&tss, Name::Tr).rights.0, 0x8b);
    }

    #[test]
    fn null_selectors_have_any_rpl() {
        assert!(Selector(3).is_null() && Selector(0).is_null());
        assert!(!Selector(4).is_null() && !Selector(8).is_null());
    }

    #[test]
    fn descriptor_must_fit_whole_into_its_table() {
        let gdt = Dtable {
            base: 0,
            limit: 0x17,
        };
        assert_eq!(gdt.offset(Selector(0x13)), Some(0x10));
        assert_eq!(gdt.offset(Selector(0x18)), None);
        assert_eq!(Dtable { limit: 0x16, ..gdt }.offset(Selector(0x10)), None);
    }

    proptest! {
        #[test]
        fn usable_segments_survive_save_and_restore(
            selector: u16, base: u64, limit: u32, rights in 0u32..0x1_0000,
        ) {
            let rights = AccessRights(rights & 0xf0ff | 0x81);
            let segment = Segment { selector: Selector(selector), base, limit, rights };
            prop_assert_eq!(Segment::from_fields(&segment.to_fields(), Name::Fs), segment);
        }

        #[test]
        fn any_fields_convert(
            bytes in any::<[u8; 9]>(), base: u64, limit: u32, selector: u16, name in 0usize..8,
        ) {
            let [type_, present, dpl, db, s, l, g, avl, unusable] = bytes;
            let fields =
                Fields { base, limit, selector, type_, present, dpl, db, s, l, g, avl, unusable };
            let segment = Segment::from_fields(&fields, Name::ALL[name]);
            prop_assert_eq!(segment.rights.0 & !0x1_f0ff, 0);
            prop_assert_eq!(segment.rights.unusable(), unusable != 0 || present == 0);
        }
    }
}
