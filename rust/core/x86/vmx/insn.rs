// SPDX-License-Identifier: GPL-2.0

//! VMX instructions: how they end, and where their memory operand lies.

use crate::addr::Gva;
use crate::outcome::Exception;

/// VM-instruction error numbers. SDM 3C "VM Instruction Error Numbers", 31.4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum VmInsnError {
    /// VMCALL executed in VMX root operation.
    VmcallInRoot = 1,
    /// VMCLEAR with invalid physical address.
    VmclearInvalidAddress = 2,
    /// VMCLEAR with VMXON pointer.
    VmclearVmxonPointer = 3,
    /// VMLAUNCH with non-clear VMCS.
    VmlaunchNonclearVmcs = 4,
    /// VMRESUME with non-launched VMCS.
    VmresumeNonlaunchedVmcs = 5,
    /// VMRESUME after VMXOFF.
    VmresumeAfterVmxoff = 6,
    /// VM entry with invalid control field(s).
    EntryInvalidControlField = 7,
    /// VM entry with invalid host-state field(s).
    EntryInvalidHostStateField = 8,
    /// VMPTRLD with invalid physical address.
    VmptrldInvalidAddress = 9,
    /// VMPTRLD with VMXON pointer.
    VmptrldVmxonPointer = 10,
    /// VMPTRLD with incorrect VMCS revision identifier.
    VmptrldIncorrectRevision = 11,
    /// VMREAD/VMWRITE from/to unsupported VMCS component.
    UnsupportedComponent = 12,
    /// VMWRITE to read-only VMCS component.
    VmwriteReadOnlyComponent = 13,
    /// VMXON executed in VMX root operation.
    VmxonInRoot = 15,
    /// VM entry with invalid executive-VMCS pointer.
    EntryInvalidExecutivePointer = 16,
    /// VM entry with non-launched executive VMCS.
    EntryNonlaunchedExecutive = 17,
    /// VM entry with executive-VMCS pointer not VMXON pointer.
    EntryExecutiveNotVmxonPointer = 18,
    /// VMCALL with non-clear VMCS.
    VmcallNonclearVmcs = 19,
    /// VMCALL with invalid VM-exit control fields.
    VmcallInvalidExitControls = 20,
    /// VMCALL with incorrect MSEG revision identifier.
    VmcallIncorrectMsegRevision = 22,
    /// VMXOFF under dual-monitor treatment of SMIs and SMM.
    VmxoffUnderDualMonitor = 23,
    /// VMCALL with invalid SMM-monitor features.
    VmcallInvalidSmmFeatures = 24,
    /// VM entry with invalid VM-execution control fields in executive VMCS.
    EntryInvalidExecutiveControls = 25,
    /// VM entry with events blocked by MOV SS.
    EntryEventsBlockedByMovSs = 26,
    /// Invalid operand to INVEPT/INVVPID.
    InvalidInvalidationOperand = 28,
}

/// A VMX instruction that failed without an exception.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmFail {
    /// VMfailInvalid: there is no current VMCS to hold an error number.
    Invalid,
    /// VMfailValid: the error number goes to the VM-instruction error field.
    Valid(VmInsnError),
}

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;

/// Returns RFLAGS after a VMX instruction: VMsucceed clears CF, PF, AF, ZF, SF and OF;
/// VMfailInvalid sets CF of them, VMfailValid ZF. SDM 3C "Conventions", 31.2.
#[inline]
pub const fn rflags_after(rflags: u64, result: Result<(), VmFail>) -> u64 {
    let cleared = rflags & !(CF | PF | AF | ZF | SF | OF);
    match result {
        Ok(()) => cleared,
        Err(VmFail::Invalid) => cleared | CF,
        Err(VmFail::Valid(_)) => cleared | ZF,
    }
}

bitfield! {
    /// VM-exit instruction information of an instruction with a memory operand in ModR/M form.
    ///
    /// Covers VMREAD, VMWRITE, VMCLEAR, VMPTRLD, VMPTRST, VMXON, XRSTORS, XSAVES, INVEPT, INVVPID, INVPCID,
    /// LIDT, LGDT, SIDT, SGDT, LLDT, LTR, SLDT and STR, whose formats agree where they overlap. SDM 3C
    /// "Information for VM Exits Due to Instruction Execution", 28.2.5.
    pub struct InsnInfo(u32) {
        /// log2 of the scale of the index, 0 to 3.
        1:0 scaling, with_scaling => u8;
        /// First register operand, if [`InsnInfo::is_register`].
        6:3 reg1, with_reg1 => u8;
        /// Address size: 0 is 16-bit, 1 is 32-bit, 2 is 64-bit.
        9:7 address_size_code, with_address_size_code => u8;
        /// The operand is a register (VMREAD and VMWRITE only).
        10:10 is_register, with_is_register => bool;
        /// Operand size is 32 bits, else 16 (LGDT, LIDT, SGDT, SIDT).
        11:11 operand_32bit, with_operand_32bit => bool;
        /// Segment register: ES, CS, SS, DS, FS, GS.
        17:15 segment, with_segment => u8;
        /// Index register.
        21:18 index, with_index => u8;
        /// There is no index register.
        22:22 index_invalid, with_index_invalid => bool;
        /// Base register.
        26:23 base, with_base => u8;
        /// There is no base register.
        27:27 base_invalid, with_base_invalid => bool;
        /// Which instruction of a group: 0 SGDT or SLDT, 1 SIDT or STR, 2 LGDT or LLDT, 3 LIDT or LTR.
        29:28 identity, with_identity => u8;
        /// Second register operand: the field encoding, the type of INVEPT, INVVPID or INVPCID.
        31:28 reg2, with_reg2 => u8;
    }
}

bitfield! {
    /// VM-exit instruction information of INS and OUTS. SDM 3C "Information for VM Exits Due to
    /// Instruction Execution", 28.2.5.
    pub struct InsOutsInfo(u32) {
        /// Address size: 0 is 16-bit, 1 is 32-bit, 2 is 64-bit.
        9:7 address_size_code, with_address_size_code => u8;
        /// Segment register of OUTS: ES, CS, SS, DS, FS, GS.
        17:15 segment, with_segment => u8;
    }
}

bitfield! {
    /// VM-exit instruction information of RDRAND, RDSEED, TPAUSE and UMWAIT. SDM 3C "Information for VM
    /// Exits Due to Instruction Execution", 28.2.5.
    pub struct RandInfo(u32) {
        /// Operand register.
        6:3 register, with_register => u8;
        /// Operand size: 0 is 16-bit, 1 is 32-bit, 2 is 64-bit.
        12:11 operand_size_code, with_operand_size_code => u8;
    }
}

impl InsnInfo {
    /// Returns the address size.
    #[inline]
    pub fn address_size(self) -> AddressSize {
        address_size(self.address_size_code())
    }
}

impl InsOutsInfo {
    /// Returns the address size.
    #[inline]
    pub fn address_size(self) -> AddressSize {
        address_size(self.address_size_code())
    }
}

/// The size to which the offset of a memory operand is cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressSize {
    /// 16 bits.
    Bits16,
    /// 32 bits.
    Bits32,
    /// 64 bits.
    Bits64,
}

const fn address_size(code: u8) -> AddressSize {
    match code {
        0 => AddressSize::Bits16,
        1 => AddressSize::Bits32,
        _ => AddressSize::Bits64,
    }
}

impl AddressSize {
    /// Cuts an offset to the size.
    #[inline]
    pub const fn cut(self, offset: u64) -> u64 {
        match self {
            Self::Bits16 => offset & 0xffff,
            Self::Bits32 => offset & 0xffff_ffff,
            Self::Bits64 => offset,
        }
    }
}

/// Numbers of segment registers in instruction information.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SegmentIndex {
    /// ES.
    Es = 0,
    /// CS.
    Cs = 1,
    /// SS.
    Ss = 2,
    /// DS.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

impl SegmentIndex {
    /// Returns the register with this number; the undefined numbers 6 and up count as DS.
    #[inline]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Es,
            1 => Self::Cs,
            2 => Self::Ss,
            4 => Self::Fs,
            5 => Self::Gs,
            _ => Self::Ds,
        }
    }
}

/// What address computation needs of a segment register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentView {
    /// Base address.
    pub base: u64,
    /// Limit in bytes, as the VMCS holds it.
    pub limit: u32,
    /// Access rights, in the format of the VMCS.
    pub access_rights: u32,
}

impl SegmentView {
    const UNUSABLE: u32 = 1 << 16;
    const BIG: u32 = 1 << 14;

    fn is_code(self) -> bool {
        self.access_rights & 8 != 0
    }

    /// Writable if data, readable if code.
    fn has_rw(self) -> bool {
        self.access_rights & 2 != 0
    }

    fn is_expand_down(self) -> bool {
        !self.is_code() && self.access_rights & 4 != 0
    }

    fn permits(self, intent: Intent) -> bool {
        if self.access_rights & Self::UNUSABLE != 0 {
            return false;
        }
        match intent {
            Intent::Read => !self.is_code() || self.has_rw(),
            Intent::Write => !self.is_code() && self.has_rw(),
        }
    }

    /// Returns whether bytes `offset` to `offset + len_bytes - 1` lie in the segment.
    fn holds(self, offset: u64, len_bytes: u64) -> bool {
        let last = offset.saturating_add(len_bytes.saturating_sub(1));
        if self.is_expand_down() {
            let top = if self.access_rights & Self::BIG != 0 {
                0xffff_ffff
            } else {
                0xffff
            };
            return offset > u64::from(self.limit) && last <= top;
        }
        // An access that wraps around in a flat segment does not fault on any processor so far;
        // the SDM leaves it open.
        let is_flat = self.base == 0 && self.limit == u32::MAX;
        is_flat || last <= u64::from(self.limit)
    }
}

/// Whether a memory operand is read or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Intent {
    /// The instruction reads the operand.
    Read,
    /// The instruction writes the operand.
    Write,
}

/// The mode in which the instruction ran, as far as addresses go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AddressMode {
    /// Real-address or virtual-8086 mode.
    Real,
    /// Protected or compatibility mode.
    Protected,
    /// 64-bit mode, with linear addresses of 48 or 57 bits.
    Long {
        /// 48, or 57 with CR4.LA57.
        linear_bits: u8,
    },
}

/// The registers of the vCPU that ran the instruction.
pub trait OperandRegs {
    /// Returns general-purpose register `index`, 0 (RAX) to 15 (R15).
    fn gpr(&self, index: u8) -> u64;
    /// Returns a segment register.
    fn segment(&self, segment: SegmentIndex) -> SegmentView;
}

/// Returns whether `address` is canonical for linear addresses of `linear_bits` bits.
#[inline]
pub const fn is_canonical(address: u64, linear_bits: u8) -> bool {
    let top = match linear_bits {
        57 => address.wrapping_add(1 << 56) >> 57,
        _ => address.wrapping_add(1 << 47) >> 48,
    };
    top == 0
}

/// Computes where a memory operand of `len_bytes` bytes lies.
///
/// `displacement` is the exit qualification; for RIP-relative operands the processor has added RIP
/// to it. SDM 3C "Information for VM Exits Due to Instruction Execution", 28.2.5.
///
/// # Errors
///
/// The fault that segmentation gives: #SS(0) for SS, else #GP(0).
pub fn memory_operand(
    info: InsnInfo,
    displacement: u64,
    len_bytes: u64,
    intent: Intent,
    mode: AddressMode,
    regs: &impl OperandRegs,
) -> Result<Gva, Exception> {
    let mut offset = displacement;
    if !info.base_invalid() {
        offset = offset.wrapping_add(regs.gpr(info.base()));
    }
    if !info.index_invalid() {
        offset = offset.wrapping_add(regs.gpr(info.index()) << info.scaling());
    }
    let offset = info.address_size().cut(offset);
    linear_address(
        SegmentIndex::from_number(info.segment()),
        offset,
        len_bytes,
        intent,
        mode,
        regs,
    )
}

/// Translates `offset` within a segment to a linear address, with the checks of `mode`.
///
/// # Errors
///
/// As [`memory_operand`].
pub fn linear_address(
    segment: SegmentIndex,
    offset: u64,
    len_bytes: u64,
    intent: Intent,
    mode: AddressMode,
    regs: &impl OperandRegs,
) -> Result<Gva, Exception> {
    let fault = match segment {
        SegmentIndex::Ss => Exception::SS0,
        SegmentIndex::Es
        | SegmentIndex::Cs
        | SegmentIndex::Ds
        | SegmentIndex::Fs
        | SegmentIndex::Gs => Exception::GP0,
    };
    if let AddressMode::Long { linear_bits } = mode {
        let linear = match segment {
            SegmentIndex::Fs | SegmentIndex::Gs => regs.segment(segment).base.wrapping_add(offset),
            SegmentIndex::Es | SegmentIndex::Cs | SegmentIndex::Ss | SegmentIndex::Ds => offset,
        };
        let last = linear.wrapping_add(len_bytes.saturating_sub(1));
        let fits = is_canonical(linear, linear_bits) && is_canonical(last, linear_bits);
        return if fits { Ok(Gva(linear)) } else { Err(fault) };
    }
    let view = regs.segment(segment);
    if mode == AddressMode::Protected && !view.permits(intent) {
        return Err(fault);
    }
    if !view.holds(offset, len_bytes) {
        return Err(fault);
    }
    Ok(Gva(view.base.wrapping_add(offset) & 0xffff_ffff))
}

#[cfg(test)]
mod tests;
