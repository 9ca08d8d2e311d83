// SPDX-License-Identifier: GPL-2.0

//! VMCS fields: encodings, widths, and the typed interface through which a VMCS is reached.
//!
//! A [`Field`] carries its width in its type, so a wrong width does not build. [`VmcsAccess`] has
//! two implementations: the hardware's (in `burrow_sys`) and [`TableVmcs`], a plain table that lets
//! merge, checks and reflection run on the host. [`Encoding::slot`] numbers the known fields
//! densely; the table and value caches use it as an index.

use core::marker::PhantomData;

/// The widths of a VMCS field, as in bits 14:13 of its encoding. SDM 3D "Field Encoding in VMCS".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FieldWidth {
    /// 16 bits.
    Word = 0,
    /// 64 bits.
    Quad = 1,
    /// 32 bits.
    Double = 2,
    /// 64 bits on processors with Intel 64, else 32.
    Natural = 3,
}

/// What a VMCS field is for, as in bits 11:10 of its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum FieldKind {
    /// VM-execution, VM-exit and VM-entry control.
    Control = 0,
    /// VM-exit information (read-only unless IA32_VMX_MISC\[29\]).
    ReadOnly = 1,
    /// Guest state.
    Guest = 2,
    /// Host state.
    Host = 3,
}

/// The encoding of a VMCS field, as an operand of VMREAD and VMWRITE holds it.
///
/// Any 32-bit value may be in it; [`Encoding::is_wellformed`] tells those that name a field.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Encoding(pub u32);

/// The number of values that [`Encoding::slot`] takes.
pub const NR_SLOTS: usize = 184;

impl Encoding {
    /// Returns whether all reserved bits (31:15 and 12) are clear, and bit 0 is set only where a
    /// field has a high half (64-bit fields).
    #[inline]
    pub const fn is_wellformed(self) -> bool {
        self.0 & 0xffff_9000 == 0 && (!self.is_high() || matches!(self.width(), FieldWidth::Quad))
    }

    /// Returns whether this names the high 32 bits of a 64-bit field (access type, bit 0).
    #[inline]
    pub const fn is_high(self) -> bool {
        self.0 & 1 != 0
    }

    /// Returns the encoding of the full field.
    #[inline]
    pub const fn full(self) -> Self {
        Self(self.0 & !1)
    }

    /// Returns the width of the full field.
    #[inline]
    pub const fn width(self) -> FieldWidth {
        match (self.0 >> 13) & 3 {
            0 => FieldWidth::Word,
            1 => FieldWidth::Quad,
            2 => FieldWidth::Double,
            _ => FieldWidth::Natural,
        }
    }

    /// Returns what the field is for.
    #[inline]
    pub const fn kind(self) -> FieldKind {
        match (self.0 >> 10) & 3 {
            0 => FieldKind::Control,
            1 => FieldKind::ReadOnly,
            2 => FieldKind::Guest,
            _ => FieldKind::Host,
        }
    }

    /// Returns the index among fields of one width and kind, 0 to 511 (bits 9:1).
    #[inline]
    pub const fn index(self) -> u32 {
        (self.0 >> 1) & 0x1ff
    }

    /// Returns a dense number for a field that this file knows, below [`NR_SLOTS`]; both halves of
    /// a 64-bit field share one. A few numbers belong to gaps between fields.
    #[inline]
    #[allow(clippy::arithmetic_side_effects, reason = "both terms are below 512")]
    pub const fn slot(self) -> Option<usize> {
        if !self.is_wellformed() {
            return None;
        }
        // (first slot, fields) for each width and kind; `slots_cover_all_fields` checks them.
        let (first, count) = match (self.width(), self.kind()) {
            (FieldWidth::Word, FieldKind::Control) => (0, 5),
            (FieldWidth::Word, FieldKind::ReadOnly) => (5, 0),
            (FieldWidth::Word, FieldKind::Guest) => (5, 11),
            (FieldWidth::Word, FieldKind::Host) => (16, 7),
            (FieldWidth::Quad, FieldKind::Control) => (23, 39),
            (FieldWidth::Quad, FieldKind::ReadOnly) => (62, 1),
            (FieldWidth::Quad, FieldKind::Guest) => (63, 13),
            (FieldWidth::Quad, FieldKind::Host) => (76, 4),
            (FieldWidth::Double, FieldKind::Control) => (80, 19),
            (FieldWidth::Double, FieldKind::ReadOnly) => (99, 8),
            (FieldWidth::Double, FieldKind::Guest) => (107, 24),
            (FieldWidth::Double, FieldKind::Host) => (131, 1),
            (FieldWidth::Natural, FieldKind::Control) => (132, 8),
            (FieldWidth::Natural, FieldKind::ReadOnly) => (140, 6),
            (FieldWidth::Natural, FieldKind::Guest) => (146, 23),
            (FieldWidth::Natural, FieldKind::Host) => (169, 15),
        };
        let index = self.index();
        if index < count {
            Some((first + index) as usize)
        } else {
            None
        }
    }
}

/// A width that a [`Field`] can have.
pub trait Width: Copy + 'static {
    /// The code in bits 14:13 of the encoding.
    const WIDTH: FieldWidth;
    /// What a read returns.
    type Value: Copy + PartialEq;
    /// Cuts a raw 64-bit register operand to the width.
    fn from_raw(raw: u64) -> Self::Value;
    /// Extends a value to the 64-bit register operand.
    fn into_raw(value: Self::Value) -> u64;
}

/// The width of a natural-width field: values are `u64`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Natural {}

macro_rules! width {
    ($marker:ty, $value:ty, $width:ident) => {
        impl Width for $marker {
            const WIDTH: FieldWidth = FieldWidth::$width;
            type Value = $value;
            #[inline]
            #[allow(
                clippy::cast_possible_truncation,
                reason = "VMREAD zero-extends the field"
            )]
            fn from_raw(raw: u64) -> $value {
                raw as $value
            }
            #[inline]
            fn into_raw(value: $value) -> u64 {
                u64::from(value)
            }
        }
    };
}
width!(u16, u16, Word);
width!(u32, u32, Double);
width!(u64, u64, Quad);
width!(Natural, u64, Natural);

/// A VMCS field of width `W`: `u16`, `u32`, `u64` or [`Natural`].
#[derive(Debug)]
pub struct Field<W: Width> {
    encoding: u32,
    slot: u32,
    width: PhantomData<W>,
}

impl<W: Width> Clone for Field<W> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}
impl<W: Width> Copy for Field<W> {}

impl<W: Width> Field<W> {
    /// Makes a field; for constants only, as a wrong encoding stops the build there.
    ///
    /// ```compile_fail
    /// use burrow_core::x86::vmx::field::Field;
    /// const WRONG: Field<u32> = Field::new(0x681e);
    /// ```
    pub const fn new(encoding: u32) -> Self {
        assert!(Encoding(encoding).is_wellformed() && !Encoding(encoding).is_high());
        assert!(Encoding(encoding).width() as u8 == W::WIDTH as u8);
        #[allow(clippy::cast_possible_truncation, reason = "below NR_SLOTS")]
        let slot = match Encoding(encoding).slot() {
            Some(slot) => slot as u32,
            None => panic!("a field that has no slot"),
        };
        Self {
            encoding,
            slot,
            width: PhantomData,
        }
    }

    /// Returns the encoding (of the full field).
    #[inline]
    pub const fn encoding(self) -> Encoding {
        Encoding(self.encoding)
    }

    /// Returns the slot of its encoding.
    #[inline]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

/// A VMCS whose fields can be read and written, whatever holds it.
///
/// The raw calls take a full (not high-half) encoding and exchange a 64-bit operand as VMREAD and
/// VMWRITE do: reads are zero-extended, excess bits of a write are ignored. What happens with a
/// field that the VMCS does not have is up to the implementation, but it does not panic and reads
/// as 0.
pub trait VmcsAccess {
    /// Reads the field with this encoding.
    fn read_raw(&self, encoding: Encoding) -> u64;

    /// Writes the field with this encoding.
    fn write_raw(&mut self, encoding: Encoding, value: u64);

    /// The same as [`read_raw`](Self::read_raw) with the encoding's [`slot`](Encoding::slot), for a VMCS
    /// that keeps its values by slots.
    #[inline]
    fn read_slot(&self, encoding: Encoding, _slot: usize) -> u64 {
        self.read_raw(encoding)
    }

    /// The same as [`write_raw`](Self::write_raw) with the encoding's slot.
    #[inline]
    fn write_slot(&mut self, encoding: Encoding, _slot: usize, value: u64) {
        self.write_raw(encoding, value);
    }

    /// Reads a field.
    #[inline]
    fn read<W: Width>(&self, field: Field<W>) -> W::Value {
        W::from_raw(self.read_slot(field.encoding(), field.slot()))
    }

    /// Writes a field.
    #[inline]
    fn write<W: Width>(&mut self, field: Field<W>, value: W::Value) {
        self.write_slot(field.encoding(), field.slot(), W::into_raw(value));
    }
}

/// A VMCS as a table in memory: all fields 0 at first; fields that this file does not know read as
/// 0 and ignore writes.
#[derive(Clone, Debug)]
pub struct TableVmcs {
    values: [u64; NR_SLOTS],
}

impl TableVmcs {
    /// Makes a VMCS with every field 0.
    pub const fn new() -> Self {
        Self {
            values: [0; NR_SLOTS],
        }
    }
}

impl Default for TableVmcs {
    fn default() -> Self {
        Self::new()
    }
}

impl VmcsAccess for TableVmcs {
    fn read_raw(&self, encoding: Encoding) -> u64 {
        encoding
            .slot()
            .and_then(|slot| self.values.get(slot))
            .copied()
            .unwrap_or(0)
    }

    fn write_raw(&mut self, encoding: Encoding, value: u64) {
        let bits = match encoding.width() {
            FieldWidth::Word => 0xffff,
            FieldWidth::Double => 0xffff_ffff,
            FieldWidth::Quad | FieldWidth::Natural => u64::MAX,
        };
        if let Some(held) = encoding.slot().and_then(|slot| self.values.get_mut(slot)) {
            *held = value & bits;
        }
    }
}

macro_rules! fields {
    ($($name:ident: $width:ty = $encoding:literal;)*) => {
        $( pub const $name: Field<$width> = Field::new($encoding); )*

        /// Every field above with its name, in the order of the SDM's appendix.
        pub const ALL: &[(&str, Encoding)] = &[ $( (stringify!($name), Encoding($encoding)) ),* ];
    };
}

pub use names::*;

/// The fields. SDM 3D appendix B "Field Encoding in VMCS", in its order.
#[allow(
    missing_docs,
    reason = "the names are the SDM's, which is their documentation"
)]
mod names {
    use super::{
        Encoding,
        Field,
        Natural, //
    };

    fields! {
        // 16-bit control fields.
        VIRTUAL_PROCESSOR_ID: u16 = 0x0000;
        POSTED_INTR_NV: u16 = 0x0002;
        EPTP_INDEX: u16 = 0x0004;
        HLAT_PREFIX_SIZE: u16 = 0x0006;
        LAST_PID_POINTER_INDEX: u16 = 0x0008;

        // 16-bit guest-state fields.
        GUEST_ES_SELECTOR: u16 = 0x0800;
        GUEST_CS_SELECTOR: u16 = 0x0802;
        GUEST_SS_SELECTOR: u16 = 0x0804;
        GUEST_DS_SELECTOR: u16 = 0x0806;
        GUEST_FS_SELECTOR: u16 = 0x0808;
        GUEST_GS_SELECTOR: u16 = 0x080a;
        GUEST_LDTR_SELECTOR: u16 = 0x080c;
        GUEST_TR_SELECTOR: u16 = 0x080e;
        GUEST_INTR_STATUS: u16 = 0x0810;
        GUEST_PML_INDEX: u16 = 0x0812;
        GUEST_UINV: u16 = 0x0814;

        // 16-bit host-state fields.
        HOST_ES_SELECTOR: u16 = 0x0c00;
        HOST_CS_SELECTOR: u16 = 0x0c02;
        HOST_SS_SELECTOR: u16 = 0x0c04;
        HOST_DS_SELECTOR: u16 = 0x0c06;
        HOST_FS_SELECTOR: u16 = 0x0c08;
        HOST_GS_SELECTOR: u16 = 0x0c0a;
        HOST_TR_SELECTOR: u16 = 0x0c0c;

        // 64-bit control fields.
        IO_BITMAP_A: u64 = 0x2000;
        IO_BITMAP_B: u64 = 0x2002;
        MSR_BITMAP: u64 = 0x2004;
        VM_EXIT_MSR_STORE_ADDR: u64 = 0x2006;
        VM_EXIT_MSR_LOAD_ADDR: u64 = 0x2008;
        VM_ENTRY_MSR_LOAD_ADDR: u64 = 0x200a;
        EXECUTIVE_VMCS_POINTER: u64 = 0x200c;
        PML_ADDRESS: u64 = 0x200e;
        TSC_OFFSET: u64 = 0x2010;
        VIRTUAL_APIC_PAGE_ADDR: u64 = 0x2012;
        APIC_ACCESS_ADDR: u64 = 0x2014;
        POSTED_INTR_DESC_ADDR: u64 = 0x2016;
        VM_FUNCTION_CONTROL: u64 = 0x2018;
        EPT_POINTER: u64 = 0x201a;
        EOI_EXIT_BITMAP0: u64 = 0x201c;
        EOI_EXIT_BITMAP1: u64 = 0x201e;
        EOI_EXIT_BITMAP2: u64 = 0x2020;
        EOI_EXIT_BITMAP3: u64 = 0x2022;
        EPTP_LIST_ADDRESS: u64 = 0x2024;
        VMREAD_BITMAP: u64 = 0x2026;
        VMWRITE_BITMAP: u64 = 0x2028;
        VE_INFORMATION_ADDRESS: u64 = 0x202a;
        XSS_EXIT_BITMAP: u64 = 0x202c;
        ENCLS_EXITING_BITMAP: u64 = 0x202e;
        SPP_TABLE_POINTER: u64 = 0x2030;
        TSC_MULTIPLIER: u64 = 0x2032;
        TERTIARY_VM_EXEC_CONTROL: u64 = 0x2034;
        ENCLV_EXITING_BITMAP: u64 = 0x2036;
        SHARED_EPT_POINTER: u64 = 0x203c;
        PCONFIG_EXITING_BITMAP: u64 = 0x203e;
        HLAT_POINTER: u64 = 0x2040;
        PID_POINTER_TABLE: u64 = 0x2042;
        SECONDARY_VM_EXIT_CONTROLS: u64 = 0x2044;
        SPEC_CTRL_MASK: u64 = 0x204a;
        SPEC_CTRL_SHADOW: u64 = 0x204c;

        // 64-bit read-only data fields.
        GUEST_PHYSICAL_ADDRESS: u64 = 0x2400;

        // 64-bit guest-state fields.
        VMCS_LINK_POINTER: u64 = 0x2800;
        GUEST_IA32_DEBUGCTL: u64 = 0x2802;
        GUEST_IA32_PAT: u64 = 0x2804;
        GUEST_IA32_EFER: u64 = 0x2806;
        GUEST_IA32_PERF_GLOBAL_CTRL: u64 = 0x2808;
        GUEST_PDPTR0: u64 = 0x280a;
        GUEST_PDPTR1: u64 = 0x280c;
        GUEST_PDPTR2: u64 = 0x280e;
        GUEST_PDPTR3: u64 = 0x2810;
        GUEST_BNDCFGS: u64 = 0x2812;
        GUEST_IA32_RTIT_CTL: u64 = 0x2814;
        GUEST_IA32_LBR_CTL: u64 = 0x2816;
        GUEST_IA32_PKRS: u64 = 0x2818;

        // 64-bit host-state fields.
        HOST_IA32_PAT: u64 = 0x2c00;
        HOST_IA32_EFER: u64 = 0x2c02;
        HOST_IA32_PERF_GLOBAL_CTRL: u64 = 0x2c04;
        HOST_IA32_PKRS: u64 = 0x2c06;

        // 32-bit control fields.
        PIN_BASED_VM_EXEC_CONTROL: u32 = 0x4000;
        CPU_BASED_VM_EXEC_CONTROL: u32 = 0x4002;
        EXCEPTION_BITMAP: u32 = 0x4004;
        PAGE_FAULT_ERROR_CODE_MASK: u32 = 0x4006;
        PAGE_FAULT_ERROR_CODE_MATCH: u32 = 0x4008;
        CR3_TARGET_COUNT: u32 = 0x400a;
        VM_EXIT_CONTROLS: u32 = 0x400c;
        VM_EXIT_MSR_STORE_COUNT: u32 = 0x400e;
        VM_EXIT_MSR_LOAD_COUNT: u32 = 0x4010;
        VM_ENTRY_CONTROLS: u32 = 0x4012;
        VM_ENTRY_MSR_LOAD_COUNT: u32 = 0x4014;
        VM_ENTRY_INTR_INFO_FIELD: u32 = 0x4016;
        VM_ENTRY_EXCEPTION_ERROR_CODE: u32 = 0x4018;
        VM_ENTRY_INSTRUCTION_LEN: u32 = 0x401a;
        TPR_THRESHOLD: u32 = 0x401c;
        SECONDARY_VM_EXEC_CONTROL: u32 = 0x401e;
        PLE_GAP: u32 = 0x4020;
        PLE_WINDOW: u32 = 0x4022;
        NOTIFY_WINDOW: u32 = 0x4024;

        // 32-bit read-only data fields.
        VM_INSTRUCTION_ERROR: u32 = 0x4400;
        VM_EXIT_REASON: u32 = 0x4402;
        VM_EXIT_INTR_INFO: u32 = 0x4404;
        VM_EXIT_INTR_ERROR_CODE: u32 = 0x4406;
        IDT_VECTORING_INFO_FIELD: u32 = 0x4408;
        IDT_VECTORING_ERROR_CODE: u32 = 0x440a;
        VM_EXIT_INSTRUCTION_LEN: u32 = 0x440c;
        VMX_INSTRUCTION_INFO: u32 = 0x440e;

        // 32-bit guest-state fields.
        GUEST_ES_LIMIT: u32 = 0x4800;
        GUEST_CS_LIMIT: u32 = 0x4802;
        GUEST_SS_LIMIT: u32 = 0x4804;
        GUEST_DS_LIMIT: u32 = 0x4806;
        GUEST_FS_LIMIT: u32 = 0x4808;
        GUEST_GS_LIMIT: u32 = 0x480a;
        GUEST_LDTR_LIMIT: u32 = 0x480c;
        GUEST_TR_LIMIT: u32 = 0x480e;
        GUEST_GDTR_LIMIT: u32 = 0x4810;
        GUEST_IDTR_LIMIT: u32 = 0x4812;
        GUEST_ES_AR_BYTES: u32 = 0x4814;
        GUEST_CS_AR_BYTES: u32 = 0x4816;
        GUEST_SS_AR_BYTES: u32 = 0x4818;
        GUEST_DS_AR_BYTES: u32 = 0x481a;
        GUEST_FS_AR_BYTES: u32 = 0x481c;
        GUEST_GS_AR_BYTES: u32 = 0x481e;
        GUEST_LDTR_AR_BYTES: u32 = 0x4820;
        GUEST_TR_AR_BYTES: u32 = 0x4822;
        GUEST_INTERRUPTIBILITY_INFO: u32 = 0x4824;
        GUEST_ACTIVITY_STATE: u32 = 0x4826;
        GUEST_SMBASE: u32 = 0x4828;
        GUEST_SYSENTER_CS: u32 = 0x482a;
        VMX_PREEMPTION_TIMER_VALUE: u32 = 0x482e;

        // 32-bit host-state fields.
        HOST_IA32_SYSENTER_CS: u32 = 0x4c00;

        // Natural-width control fields.
        CR0_GUEST_HOST_MASK: Natural = 0x6000;
        CR4_GUEST_HOST_MASK: Natural = 0x6002;
        CR0_READ_SHADOW: Natural = 0x6004;
        CR4_READ_SHADOW: Natural = 0x6006;
        CR3_TARGET_VALUE0: Natural = 0x6008;
        CR3_TARGET_VALUE1: Natural = 0x600a;
        CR3_TARGET_VALUE2: Natural = 0x600c;
        CR3_TARGET_VALUE3: Natural = 0x600e;

        // Natural-width read-only data fields.
        EXIT_QUALIFICATION: Natural = 0x6400;
        IO_RCX: Natural = 0x6402;
        IO_RSI: Natural = 0x6404;
        IO_RDI: Natural = 0x6406;
        IO_RIP: Natural = 0x6408;
        GUEST_LINEAR_ADDRESS: Natural = 0x640a;

        // Natural-width guest-state fields.
        GUEST_CR0: Natural = 0x6800;
        GUEST_CR3: Natural = 0x6802;
        GUEST_CR4: Natural = 0x6804;
        GUEST_ES_BASE: Natural = 0x6806;
        GUEST_CS_BASE: Natural = 0x6808;
        GUEST_SS_BASE: Natural = 0x680a;
        GUEST_DS_BASE: Natural = 0x680c;
        GUEST_FS_BASE: Natural = 0x680e;
        GUEST_GS_BASE: Natural = 0x6810;
        GUEST_LDTR_BASE: Natural = 0x6812;
        GUEST_TR_BASE: Natural = 0x6814;
        GUEST_GDTR_BASE: Natural = 0x6816;
        GUEST_IDTR_BASE: Natural = 0x6818;
        GUEST_DR7: Natural = 0x681a;
        GUEST_RSP: Natural = 0x681c;
        GUEST_RIP: Natural = 0x681e;
        GUEST_RFLAGS: Natural = 0x6820;
        GUEST_PENDING_DBG_EXCEPTIONS: Natural = 0x6822;
        GUEST_SYSENTER_ESP: Natural = 0x6824;
        GUEST_SYSENTER_EIP: Natural = 0x6826;
        GUEST_S_CET: Natural = 0x6828;
        GUEST_SSP: Natural = 0x682a;
        GUEST_INTR_SSP_TABLE: Natural = 0x682c;

        // Natural-width host-state fields.
        HOST_CR0: Natural = 0x6c00;
        HOST_CR3: Natural = 0x6c02;
        HOST_CR4: Natural = 0x6c04;
        HOST_FS_BASE: Natural = 0x6c06;
        HOST_GS_BASE: Natural = 0x6c08;
        HOST_TR_BASE: Natural = 0x6c0a;
        HOST_GDTR_BASE: Natural = 0x6c0c;
        HOST_IDTR_BASE: Natural = 0x6c0e;
        HOST_IA32_SYSENTER_ESP: Natural = 0x6c10;
        HOST_IA32_SYSENTER_EIP: Natural = 0x6c12;
        HOST_RSP: Natural = 0x6c14;
        HOST_RIP: Natural = 0x6c16;
        HOST_S_CET: Natural = 0x6c18;
        HOST_SSP: Natural = 0x6c1a;
        HOST_INTR_SSP_TABLE: Natural = 0x6c1c;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_cover_all_fields_without_overlap() {
        let mut used = [None; NR_SLOTS];
        for (name, encoding) in ALL {
            let slot = encoding
                .slot()
                .unwrap_or_else(|| panic!("{name} has no slot"));
            assert_eq!(used[slot], None, "{name} shares a slot");
            used[slot] = Some(*name);
        }
        assert!(used[NR_SLOTS - 1].is_some());
    }

    #[test]
    fn all_is_sorted_within_each_width() {
        let key = |e: Encoding| ((e.0 >> 13) & 3, e.0);
        assert!(ALL.windows(2).all(|w| key(w[0].1) < key(w[1].1)));
    }

    #[test]
    fn reserved_encoding_bits_name_no_field() {
        let rip = GUEST_RIP.encoding().0;
        assert!(Encoding(rip).is_wellformed());
        assert!(
            !Encoding(rip | 1).is_wellformed(),
            "natural width has no high half"
        );
        assert!(!Encoding(rip | 1 << 12).is_wellformed());
        assert!(!Encoding(rip | 1 << 15).is_wellformed());
        assert!(!Encoding(rip | 1 << 31).is_wellformed());
        assert_eq!(Encoding(0x6822 + 0x40).slot(), None);
    }

    #[test]
    fn high_half_shares_the_slot_of_its_field() {
        let high = Encoding(EPT_POINTER.encoding().0 | 1);
        assert!(high.is_wellformed() && high.is_high());
        assert_eq!(high.slot(), EPT_POINTER.encoding().slot());
        assert_eq!(high.full(), EPT_POINTER.encoding());
    }

    #[test]
    fn table_cuts_values_to_the_width() {
        let mut vmcs = TableVmcs::new();
        vmcs.write_raw(GUEST_CS_SELECTOR.encoding(), 0x1_2345);
        vmcs.write_raw(EXCEPTION_BITMAP.encoding(), 0x5_0000_0001);
        vmcs.write(GUEST_RIP, u64::MAX);
        vmcs.write(EPT_POINTER, 0x8000_0000_0000_001e);
        assert_eq!(vmcs.read(GUEST_CS_SELECTOR), 0x2345);
        assert_eq!(vmcs.read(EXCEPTION_BITMAP), 1);
        assert_eq!(vmcs.read(GUEST_RIP), u64::MAX);
        assert_eq!(vmcs.read(EPT_POINTER), 0x8000_0000_0000_001e);
        assert_eq!(vmcs.read(GUEST_RSP), 0);
    }

    #[test]
    fn kinds_and_widths_follow_the_encoding() {
        assert_eq!(VM_EXIT_REASON.encoding().kind(), FieldKind::ReadOnly);
        assert_eq!(HOST_RIP.encoding().kind(), FieldKind::Host);
        assert_eq!(HOST_RIP.encoding().width(), FieldWidth::Natural);
        assert_eq!(MSR_BITMAP.encoding().kind(), FieldKind::Control);
        assert_eq!(GUEST_RIP.encoding().kind(), FieldKind::Guest);
    }
}
