// SPDX-License-Identifier: GPL-2.0

//! vmcs12: the VMCS that L1 keeps for L2.
//!
//! While it is active it lives here as a table of values, one for each field. In guest memory and
//! in the saved state it has KVM's layout ([`load`](Vmcs12::load), [`store`](Vmcs12::store)), which
//! is frozen: guests migrate with it. L1 reaches its fields by VMREAD and VMWRITE only, so the
//! layout is none of its business.
//!
//! Fields belong to groups, and a write that changes a value marks its group dirty ([`Groups`]).
//! VM-entry checks and the merge into vmcs02 run again for dirty groups only. Three kinds of write:
//!
//! - [`vmwrite`](Vmcs12::vmwrite): L1's instruction, with all its checks; marks dirty.
//! - [`VmcsAccess::write`]: L0 on behalf of L1 (shadow read-back, restore); marks dirty.
//! - [`put_synced`](Vmcs12::put_synced): a value that vmcs02 holds as well, or exit information;
//!   does not mark.

use super::super::vmx::field::{
    self,
    *, //
};
use super::super::vmx::insn::{
    VmFail,
    VmInsnError, //
};

/// The revision identifier of the layout: KVM's.
pub const REVISION: u32 = 0x11e5_7ed0;
/// The size of a VMCS region in bytes.
pub const REGION_SIZE: usize = 4096;
/// Bit 31 of the first word: the region is a shadow VMCS.
const SHADOW_INDICATOR: u32 = 1 << 31;
const OFFSET_HEADER: usize = 0;
/// Where the VMX-abort indicator is in a region, in bytes. SDM 3C "Format of the VMCS Region", 25.2.
pub const OFFSET_ABORT: usize = 4;
const OFFSET_LAUNCH_STATE: usize = 8;

/// The access-rights bits that a VMCS keeps; others read as 0. SDM 3C "Guest Register State",
/// 25.4.1: software should not rely on reserved bits, processors drop them.
const AR_BYTES_KEPT: u64 = 0x1_f0ff;

/// A set of field groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Groups(u16);

impl Groups {
    /// No group.
    pub const NONE: Self = Self(0);
    /// Every group.
    pub const ALL: Self = Self(0xffff);
    /// VM-execution, exit and entry controls that no other group has.
    pub const CONTROLS: Self = Self(1 << 0);
    /// The interrupt-window and NMI-window bits of the primary controls, which L1 toggles often.
    pub const WINDOWS: Self = Self(1 << 1);
    /// The event to inject.
    pub const EVENT: Self = Self(1 << 2);
    /// The EPT pointer.
    pub const EPTP: Self = Self(1 << 3);
    /// TSC offset and multiplier.
    pub const TSC: Self = Self(1 << 4);
    /// Addresses of I/O, MSR, VMREAD and VMWRITE bitmaps.
    pub const BITMAPS: Self = Self(1 << 5);
    /// APIC virtualization.
    pub const APIC: Self = Self(1 << 6);
    /// Host state.
    pub const HOST: Self = Self(1 << 7);
    /// Guest segments and descriptor-table registers; RFLAGS.VM counts too.
    pub const SEGMENTS: Self = Self(1 << 8);
    /// Guest CR0, CR3, CR4, their masks and shadows, PDPTEs and EFER.
    pub const CRS: Self = Self(1 << 9);
    /// Guest MSRs and DR7.
    pub const MSRS: Self = Self(1 << 10);
    /// Guest RFLAGS and non-register state.
    pub const RUN: Self = Self(1 << 11);
    /// The link pointer.
    pub const LINK: Self = Self(1 << 12);
    /// Exit information, the PML index and HOST_RSP: no check and no merge depends on them.
    pub const INFO: Self = Self(1 << 13);
    /// Guest RIP and RSP, which change most and matter least.
    pub const RIP: Self = Self(1 << 14);
    /// The exception bitmap and what page faults are compared with, which no check depends on.
    pub const EXCEPTIONS: Self = Self(1 << 15);

    /// How many groups there can be.
    pub const COUNT: usize = 16;

    /// Returns the group of number `n`; none from [`COUNT`](Self::COUNT) on.
    #[inline]
    pub const fn nth(n: usize) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "what is cut off is no group"
        )]
        Self((1_u64.wrapping_shl(n as u32 & 63)) as u16)
    }

    /// Returns the numbers of the groups in the set.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut bits = self.0;
        core::iter::from_fn(move || {
            if bits == 0 {
                return None;
            }
            let next = bits.trailing_zeros() as usize;
            bits &= bits.wrapping_sub(1);
            Some(next)
        })
    }

    /// Returns the groups of both.
    #[inline]
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns whether any group is in both.
    #[inline]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Returns whether every group of this set is in the other.
    #[inline]
    pub const fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Returns whether no group is in the set.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What is known of one field.
#[derive(Clone, Copy)]
struct Row {
    encoding: Encoding,
    /// Offset in the frozen layout, in bytes.
    offset: u16,
    group: Groups,
}

const fn dense(rows: &[Row]) -> [Option<Row>; NR_SLOTS] {
    let mut table = [None; NR_SLOTS];
    let mut rest = rows;
    while let [row, tail @ ..] = rest {
        if let Some(slot) = row.encoding.slot() {
            #[allow(clippy::indexing_slicing, reason = "runs at build time only")]
            {
                table[slot] = Some(*row);
            }
        }
        rest = tail;
    }
    table
}

macro_rules! rows {
    ($($name:ident @ $offset:literal: $group:ident;)*) => {
        &[ $( Row {
            encoding: field::$name.encoding(),
            offset: $offset,
            group: Groups::$group,
        } ),* ]
    };
}

/// Field, offset in KVM's layout (fixed for ever by migration), group.
const ROWS: &[Row] = rows! {
    IO_BITMAP_A @ 40: BITMAPS;
    IO_BITMAP_B @ 48: BITMAPS;
    MSR_BITMAP @ 56: BITMAPS;
    VM_EXIT_MSR_STORE_ADDR @ 64: CONTROLS;
    VM_EXIT_MSR_LOAD_ADDR @ 72: CONTROLS;
    VM_ENTRY_MSR_LOAD_ADDR @ 80: CONTROLS;
    TSC_OFFSET @ 88: TSC;
    VIRTUAL_APIC_PAGE_ADDR @ 96: APIC;
    APIC_ACCESS_ADDR @ 104: APIC;
    POSTED_INTR_DESC_ADDR @ 112: APIC;
    EPT_POINTER @ 120: EPTP;
    EOI_EXIT_BITMAP0 @ 128: APIC;
    EOI_EXIT_BITMAP1 @ 136: APIC;
    EOI_EXIT_BITMAP2 @ 144: APIC;
    EOI_EXIT_BITMAP3 @ 152: APIC;
    XSS_EXIT_BITMAP @ 160: CONTROLS;
    GUEST_PHYSICAL_ADDRESS @ 168: INFO;
    VMCS_LINK_POINTER @ 176: LINK;
    GUEST_IA32_DEBUGCTL @ 184: MSRS;
    GUEST_IA32_PAT @ 192: MSRS;
    GUEST_IA32_EFER @ 200: CRS;
    GUEST_IA32_PERF_GLOBAL_CTRL @ 208: MSRS;
    GUEST_PDPTR0 @ 216: CRS;
    GUEST_PDPTR1 @ 224: CRS;
    GUEST_PDPTR2 @ 232: CRS;
    GUEST_PDPTR3 @ 240: CRS;
    GUEST_BNDCFGS @ 248: MSRS;
    HOST_IA32_PAT @ 256: HOST;
    HOST_IA32_EFER @ 264: HOST;
    HOST_IA32_PERF_GLOBAL_CTRL @ 272: HOST;
    VMREAD_BITMAP @ 280: BITMAPS;
    VMWRITE_BITMAP @ 288: BITMAPS;
    VM_FUNCTION_CONTROL @ 296: CONTROLS;
    EPTP_LIST_ADDRESS @ 304: CONTROLS;
    PML_ADDRESS @ 312: CONTROLS;
    ENCLS_EXITING_BITMAP @ 320: CONTROLS;
    TSC_MULTIPLIER @ 328: TSC;
    CR0_GUEST_HOST_MASK @ 344: CRS;
    CR4_GUEST_HOST_MASK @ 352: CRS;
    CR0_READ_SHADOW @ 360: CRS;
    CR4_READ_SHADOW @ 368: CRS;
    EXIT_QUALIFICATION @ 408: INFO;
    GUEST_LINEAR_ADDRESS @ 416: INFO;
    GUEST_CR0 @ 424: CRS;
    GUEST_CR3 @ 432: CRS;
    GUEST_CR4 @ 440: CRS;
    GUEST_ES_BASE @ 448: SEGMENTS;
    GUEST_CS_BASE @ 456: SEGMENTS;
    GUEST_SS_BASE @ 464: SEGMENTS;
    GUEST_DS_BASE @ 472: SEGMENTS;
    GUEST_FS_BASE @ 480: SEGMENTS;
    GUEST_GS_BASE @ 488: SEGMENTS;
    GUEST_LDTR_BASE @ 496: SEGMENTS;
    GUEST_TR_BASE @ 504: SEGMENTS;
    GUEST_GDTR_BASE @ 512: SEGMENTS;
    GUEST_IDTR_BASE @ 520: SEGMENTS;
    GUEST_DR7 @ 528: MSRS;
    GUEST_RSP @ 536: RIP;
    GUEST_RIP @ 544: RIP;
    GUEST_RFLAGS @ 552: RUN;
    GUEST_PENDING_DBG_EXCEPTIONS @ 560: RUN;
    GUEST_SYSENTER_ESP @ 568: MSRS;
    GUEST_SYSENTER_EIP @ 576: MSRS;
    HOST_CR0 @ 584: HOST;
    HOST_CR3 @ 592: HOST;
    HOST_CR4 @ 600: HOST;
    HOST_FS_BASE @ 608: HOST;
    HOST_GS_BASE @ 616: HOST;
    HOST_TR_BASE @ 624: HOST;
    HOST_GDTR_BASE @ 632: HOST;
    HOST_IDTR_BASE @ 640: HOST;
    HOST_IA32_SYSENTER_ESP @ 648: HOST;
    HOST_IA32_SYSENTER_EIP @ 656: HOST;
    HOST_RSP @ 664: INFO;
    HOST_RIP @ 672: HOST;
    HOST_S_CET @ 680: HOST;
    HOST_SSP @ 688: HOST;
    HOST_INTR_SSP_TABLE @ 696: HOST;
    GUEST_S_CET @ 704: MSRS;
    GUEST_SSP @ 712: MSRS;
    GUEST_INTR_SSP_TABLE @ 720: MSRS;
    PIN_BASED_VM_EXEC_CONTROL @ 744: CONTROLS;
    CPU_BASED_VM_EXEC_CONTROL @ 748: CONTROLS;
    EXCEPTION_BITMAP @ 752: EXCEPTIONS;
    PAGE_FAULT_ERROR_CODE_MASK @ 756: EXCEPTIONS;
    PAGE_FAULT_ERROR_CODE_MATCH @ 760: EXCEPTIONS;
    CR3_TARGET_COUNT @ 764: CONTROLS;
    VM_EXIT_CONTROLS @ 768: CONTROLS;
    VM_EXIT_MSR_STORE_COUNT @ 772: CONTROLS;
    VM_EXIT_MSR_LOAD_COUNT @ 776: CONTROLS;
    VM_ENTRY_CONTROLS @ 780: CONTROLS;
    VM_ENTRY_MSR_LOAD_COUNT @ 784: CONTROLS;
    VM_ENTRY_INTR_INFO_FIELD @ 788: EVENT;
    VM_ENTRY_EXCEPTION_ERROR_CODE @ 792: EVENT;
    VM_ENTRY_INSTRUCTION_LEN @ 796: EVENT;
    TPR_THRESHOLD @ 800: APIC;
    SECONDARY_VM_EXEC_CONTROL @ 804: CONTROLS;
    VM_INSTRUCTION_ERROR @ 808: INFO;
    VM_EXIT_REASON @ 812: INFO;
    VM_EXIT_INTR_INFO @ 816: INFO;
    VM_EXIT_INTR_ERROR_CODE @ 820: INFO;
    IDT_VECTORING_INFO_FIELD @ 824: INFO;
    IDT_VECTORING_ERROR_CODE @ 828: INFO;
    VM_EXIT_INSTRUCTION_LEN @ 832: INFO;
    VMX_INSTRUCTION_INFO @ 836: INFO;
    GUEST_ES_LIMIT @ 840: SEGMENTS;
    GUEST_CS_LIMIT @ 844: SEGMENTS;
    GUEST_SS_LIMIT @ 848: SEGMENTS;
    GUEST_DS_LIMIT @ 852: SEGMENTS;
    GUEST_FS_LIMIT @ 856: SEGMENTS;
    GUEST_GS_LIMIT @ 860: SEGMENTS;
    GUEST_LDTR_LIMIT @ 864: SEGMENTS;
    GUEST_TR_LIMIT @ 868: SEGMENTS;
    GUEST_GDTR_LIMIT @ 872: SEGMENTS;
    GUEST_IDTR_LIMIT @ 876: SEGMENTS;
    GUEST_ES_AR_BYTES @ 880: SEGMENTS;
    GUEST_CS_AR_BYTES @ 884: SEGMENTS;
    GUEST_SS_AR_BYTES @ 888: SEGMENTS;
    GUEST_DS_AR_BYTES @ 892: SEGMENTS;
    GUEST_FS_AR_BYTES @ 896: SEGMENTS;
    GUEST_GS_AR_BYTES @ 900: SEGMENTS;
    GUEST_LDTR_AR_BYTES @ 904: SEGMENTS;
    GUEST_TR_AR_BYTES @ 908: SEGMENTS;
    GUEST_INTERRUPTIBILITY_INFO @ 912: RUN;
    GUEST_ACTIVITY_STATE @ 916: RUN;
    GUEST_SYSENTER_CS @ 920: MSRS;
    HOST_IA32_SYSENTER_CS @ 924: HOST;
    VMX_PREEMPTION_TIMER_VALUE @ 928: RUN;
    VIRTUAL_PROCESSOR_ID @ 960: CONTROLS;
    POSTED_INTR_NV @ 962: APIC;
    GUEST_ES_SELECTOR @ 964: SEGMENTS;
    GUEST_CS_SELECTOR @ 966: SEGMENTS;
    GUEST_SS_SELECTOR @ 968: SEGMENTS;
    GUEST_DS_SELECTOR @ 970: SEGMENTS;
    GUEST_FS_SELECTOR @ 972: SEGMENTS;
    GUEST_GS_SELECTOR @ 974: SEGMENTS;
    GUEST_LDTR_SELECTOR @ 976: SEGMENTS;
    GUEST_TR_SELECTOR @ 978: SEGMENTS;
    GUEST_INTR_STATUS @ 980: APIC;
    HOST_ES_SELECTOR @ 982: HOST;
    HOST_CS_SELECTOR @ 984: HOST;
    HOST_SS_SELECTOR @ 986: HOST;
    HOST_DS_SELECTOR @ 988: HOST;
    HOST_FS_SELECTOR @ 990: HOST;
    HOST_GS_SELECTOR @ 992: HOST;
    HOST_TR_SELECTOR @ 994: HOST;
    GUEST_PML_INDEX @ 996: INFO;
};

static TABLE: [Option<Row>; NR_SLOTS] = dense(ROWS);

#[inline]
fn row(encoding: Encoding) -> Option<(usize, Row)> {
    let slot = encoding.slot()?;
    Some((slot, (*TABLE.get(slot)?)?))
}

/// A set of fields of the layout: mostly those that exist for one L1, as it has their feature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldSet([u64; FieldSet::WORDS]);

impl FieldSet {
    /// How many words of 64 slots there are.
    pub const WORDS: usize = NR_SLOTS.div_ceil(64);
    /// No field.
    pub const NONE: Self = Self([0; Self::WORDS]);

    /// Every field of the layout.
    pub fn all() -> Self {
        Self::of(|_| true)
    }

    /// Those of all fields that `is_in` holds for.
    pub(super) fn of(is_in: impl Fn(Encoding) -> bool) -> Self {
        let mut set = Self::NONE;
        for row in ROWS {
            if let Some(slot) = row.encoding.slot().filter(|_| is_in(row.encoding)) {
                set.insert_slot(slot);
            }
        }
        set
    }

    /// Takes a field out of the set.
    pub fn remove(&mut self, encoding: Encoding) {
        if let Some(slot) = encoding.slot() {
            self.remove_slot(slot);
        }
    }

    /// Puts the field of a [slot](Encoding::slot) into the set.
    #[inline]
    pub(super) fn insert_slot(&mut self, slot: usize) {
        if let Some(word) = self.0.get_mut(slot >> 6) {
            *word |= 1 << (slot & 63);
        }
    }

    /// Takes the field of a slot out of the set.
    #[inline]
    pub(super) fn remove_slot(&mut self, slot: usize) {
        if let Some(word) = self.0.get_mut(slot >> 6) {
            *word &= !(1 << (slot & 63));
        }
    }

    /// Returns the fields that are in both.
    #[must_use]
    pub fn intersection(mut self, other: &Self) -> Self {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word &= other;
        }
        self
    }

    /// Returns the fields that the other set has not.
    #[must_use]
    pub(super) fn without(mut self, other: &Self) -> Self {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word &= !other;
        }
        self
    }

    /// Returns whether no field is in the set.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.iter().fold(0, |all, word| all | word) == 0
    }

    /// Returns the set as bits: bit `n % 64` of word `n / 64` is slot `n`.
    #[inline]
    pub const fn words(&self) -> &[u64; Self::WORDS] {
        &self.0
    }

    /// Calls `f` with the slot and the encoding of each field.
    #[inline]
    pub(super) fn for_each(&self, mut f: impl FnMut(usize, Encoding)) {
        let mut first = 0_usize;
        for word in self.0 {
            let mut rest = word;
            while rest != 0 {
                let slot = first | rest.trailing_zeros() as usize;
                rest &= rest.wrapping_sub(1);
                if let Some(Some(row)) = TABLE.get(slot) {
                    f(slot, row.encoding);
                }
            }
            first = first.wrapping_add(64);
        }
    }

    /// Returns whether the field (either half) exists.
    #[inline]
    pub fn contains(&self, encoding: Encoding) -> bool {
        encoding.slot().is_some_and(|slot| self.contains_slot(slot))
    }

    #[inline]
    pub(super) fn contains_slot(&self, slot: usize) -> bool {
        self.0
            .get(slot >> 6)
            .is_some_and(|word| (word >> (slot & 63)) & 1 != 0)
    }

    /// Returns IA32_VMX_VMCS_ENUM: the highest index of any field, in bits 9:1.
    pub fn vmcs_enum(&self) -> u64 {
        let fields = ROWS.iter().filter(|row| self.contains(row.encoding));
        u64::from(fields.map(|row| row.encoding.index()).max().unwrap_or(0)) << 1
    }
}

/// The launch state of a VMCS. SDM 3C "Overview of the VMCS", 25.1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LaunchState {
    /// VMLAUNCH is due.
    #[default]
    Clear,
    /// VMRESUME is due.
    Launched,
}

/// An active vmcs12.
#[derive(Clone, Debug)]
pub struct Vmcs12 {
    values: [u64; NR_SLOTS],
    /// First word of the region: revision identifier and shadow indicator.
    header: u32,
    /// VMX-abort indicator.
    pub abort: u32,
    /// Launch state.
    pub launch_state: LaunchState,
    dirty: Groups,
}

impl Default for Vmcs12 {
    fn default() -> Self {
        Self::new()
    }
}

impl Vmcs12 {
    /// Makes an ordinary, clear VMCS with every field 0 and dirty.
    pub const fn new() -> Self {
        Self {
            values: [0; NR_SLOTS],
            header: REVISION,
            abort: 0,
            launch_state: LaunchState::Clear,
            dirty: Groups::ALL,
        }
    }

    /// Replaces everything by what `region`, in KVM's layout, holds; all groups become dirty.
    pub fn load(&mut self, region: &[u8; REGION_SIZE]) {
        self.header = get(region, OFFSET_HEADER);
        self.abort = get(region, OFFSET_ABORT);
        self.launch_state = match get(region, OFFSET_LAUNCH_STATE) {
            0 => LaunchState::Clear,
            _ => LaunchState::Launched,
        };
        for row in ROWS {
            let offset = usize::from(row.offset);
            let value = match row.encoding.width() {
                FieldWidth::Word => u64::from(get(region, offset) & 0xffff),
                FieldWidth::Double => u64::from(get(region, offset)),
                FieldWidth::Quad | FieldWidth::Natural => {
                    let high = get(region, offset.wrapping_add(4));
                    u64::from(get(region, offset)) | (u64::from(high) << 32)
                }
            };
            self.set(row.encoding, value);
        }
        self.dirty = Groups::ALL;
    }

    /// Writes everything into `region`, in KVM's layout; bytes that are no field stay as they are.
    pub fn store(&self, region: &mut [u8; REGION_SIZE]) {
        put(region, OFFSET_HEADER, &self.header.to_le_bytes());
        put(region, OFFSET_ABORT, &self.abort.to_le_bytes());
        let launched = u32::from(self.launch_state == LaunchState::Launched);
        put(region, OFFSET_LAUNCH_STATE, &launched.to_le_bytes());
        for row in ROWS {
            let bytes = self.read_raw(row.encoding).to_le_bytes();
            let width = match row.encoding.width() {
                FieldWidth::Word => 2,
                FieldWidth::Double => 4,
                FieldWidth::Quad | FieldWidth::Natural => 8,
            };
            put(
                region,
                usize::from(row.offset),
                bytes.get(..width).unwrap_or(&[]),
            );
        }
    }

    /// Returns the revision identifier, bits 30:0 of the region's first word.
    #[inline]
    pub const fn revision(&self) -> u32 {
        self.header & !SHADOW_INDICATOR
    }

    /// Returns whether this is a shadow VMCS.
    #[inline]
    pub const fn is_shadow(&self) -> bool {
        self.header & SHADOW_INDICATOR != 0
    }

    /// Returns the groups with a value that changed since [`Vmcs12::clear_dirty`].
    #[inline]
    pub const fn dirty(&self) -> Groups {
        self.dirty
    }

    /// Marks groups dirty, as when something else that a check depends on has changed.
    #[inline]
    pub fn mark_dirty(&mut self, groups: Groups) {
        self.dirty = self.dirty.union(groups);
    }

    /// Marks everything clean: checks have passed and vmcs02 holds the merge.
    #[inline]
    pub fn clear_dirty(&mut self) {
        self.dirty = Groups::NONE;
    }

    /// Stores a value that vmcs02 holds as well, or exit information; marks nothing dirty.
    #[inline]
    pub fn put_synced<W: Width>(&mut self, field: Field<W>, value: W::Value) {
        if let Some(held) = self.values.get_mut(field.slot()) {
            *held = W::into_raw(value) & kept_bits(field.encoding());
        }
    }

    /// The same for any encoding.
    #[cfg(test)]
    pub(super) fn put_synced_raw(&mut self, encoding: Encoding, value: u64) {
        let held = encoding.slot().and_then(|slot| self.values.get_mut(slot));
        if let Some(held) = held {
            *held = value & kept_bits(encoding);
        }
    }

    /// Records a failed VMX instruction: the error number of VMfailValid, nothing of
    /// VMfailInvalid.
    pub fn record_failure(&mut self, fail: VmFail) {
        if let VmFail::Valid(error) = fail {
            self.put_synced(VM_INSTRUCTION_ERROR, error as u32);
        }
    }

    /// Carries out VMREAD with the register operand `operand` as field encoding.
    ///
    /// # Errors
    ///
    /// Error 12 for a field that does not exist. SDM 3C "VMREAD", 31.3.
    pub fn vmread(&self, operand: u64, exists: &FieldSet) -> Result<u64, VmInsnError> {
        let (slot, _) = lookup(operand, exists)?;
        let value = self.values.get(slot).copied().unwrap_or(0);
        Ok(if operand & 1 != 0 { value >> 32 } else { value })
    }

    /// Carries out VMWRITE of `value` with the register operand `operand` as field encoding.
    ///
    /// # Errors
    ///
    /// Error 12 for a field that does not exist, 13 for a read-only one unless `writable` lets L1
    /// write those too. SDM 3C "VMWRITE", 31.3.
    pub fn vmwrite(
        &mut self,
        operand: u64,
        value: u64,
        exists: &FieldSet,
        writable: ReadOnlyFields,
    ) -> Result<(), VmInsnError> {
        let (slot, row) = lookup(operand, exists)?;
        if row.encoding.kind() == FieldKind::ReadOnly && writable == ReadOnlyFields::Protected {
            return Err(VmInsnError::VmwriteReadOnlyComponent);
        }
        let Some(held) = self.values.get_mut(slot) else {
            return Ok(());
        };
        let old = *held;
        let full = if operand & 1 != 0 {
            (old & 0xffff_ffff) | (value << 32)
        } else {
            value
        };
        *held = full & kept_bits(row.encoding);
        let changed = old ^ *held;
        if changed != 0 {
            self.dirty = self.dirty.union(changed_groups(row, changed));
        }
        Ok(())
    }

    /// Stores what the hardware's shadow VMCS holds of the field of `slot`, as L1 may have written it;
    /// returns whether it has.
    #[inline]
    pub(super) fn take_slot(&mut self, slot: usize, value: u64) -> bool {
        let (Some(held), Some(Some(row))) = (self.values.get_mut(slot), TABLE.get(slot)) else {
            return false;
        };
        let changed = *held ^ value;
        if changed == 0 {
            return false;
        }
        *held = value;
        self.dirty = self.dirty.union(changed_groups(*row, changed));
        true
    }

    fn set(&mut self, encoding: Encoding, value: u64) -> Option<(Row, u64, u64)> {
        let (slot, row) = row(encoding)?;
        let held = self.values.get_mut(slot)?;
        let old = *held;
        *held = value & kept_bits(encoding);
        Some((row, old, *held))
    }
}

impl VmcsAccess for Vmcs12 {
    #[inline]
    fn read_raw(&self, encoding: Encoding) -> u64 {
        encoding
            .slot()
            .and_then(|slot| self.values.get(slot))
            .copied()
            .unwrap_or(0)
    }

    #[inline]
    fn read_slot(&self, _encoding: Encoding, slot: usize) -> u64 {
        self.values.get(slot).copied().unwrap_or(0)
    }

    fn write_raw(&mut self, encoding: Encoding, value: u64) {
        if let Some((row, old, new)) = self.set(encoding, value) {
            if old != new {
                self.dirty = self.dirty.union(changed_groups(row, old ^ new));
            }
        }
    }
}

/// Whether VMWRITE may write read-only fields (IA32_VMX_MISC\[29\]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadOnlyFields {
    /// They fail with error 13.
    Protected,
    /// They are written.
    Writable,
}

fn lookup(operand: u64, exists: &FieldSet) -> Result<(usize, Row), VmInsnError> {
    u32::try_from(operand)
        .ok()
        .and_then(|encoding| row(Encoding(encoding)))
        .filter(|(slot, _)| exists.contains_slot(*slot))
        .ok_or(VmInsnError::UnsupportedComponent)
}

/// Returns the groups that a change of the bits `changed` in a field concerns.
fn changed_groups(row: Row, changed: u64) -> Groups {
    const WINDOWS: u64 = (1 << 2) | (1 << 22);
    const RFLAGS_VM: u64 = 1 << 17;
    if row.encoding == CPU_BASED_VM_EXEC_CONTROL.encoding() && changed & !WINDOWS == 0 {
        Groups::WINDOWS
    } else if row.encoding == GUEST_RFLAGS.encoding() && changed & RFLAGS_VM != 0 {
        row.group.union(Groups::SEGMENTS)
    } else {
        row.group
    }
}

#[inline]
const fn kept_bits(encoding: Encoding) -> u64 {
    let first = GUEST_ES_AR_BYTES.encoding().0;
    let last = GUEST_TR_AR_BYTES.encoding().0;
    match encoding.width() {
        FieldWidth::Word => 0xffff,
        FieldWidth::Double if first <= encoding.0 && encoding.0 <= last => AR_BYTES_KEPT,
        FieldWidth::Double => 0xffff_ffff,
        FieldWidth::Quad | FieldWidth::Natural => u64::MAX,
    }
}

/// Reads the 32-bit word at `offset`; 0 beyond the end.
fn get(region: &[u8; REGION_SIZE], offset: usize) -> u32 {
    let bytes = region.get(offset..).and_then(|tail| tail.first_chunk());
    bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn put(region: &mut [u8; REGION_SIZE], offset: usize, bytes: &[u8]) {
    let target = region
        .get_mut(offset..)
        .and_then(|tail| tail.get_mut(..bytes.len()));
    if let Some(target) = target {
        target.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
