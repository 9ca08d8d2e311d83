// SPDX-License-Identifier: GPL-2.0

//! Fields that are corrupted by flipping bits.
//!
//! What is left out is what the bare machine does not check (errata.rst), what
//! Burrow does not offer, and what would let a guest loose in this program.

use burrow_core::x86::vmx::field as f;

use super::{
    Case,
    Random, //
};
use crate::vmx;

/// How a field is corrupted: by flipping a bit of these, or by a value of its own.
enum Way {
    Bits(u64),
    Event,
}
use Way::*;

/// An address of something that is used: no other that is valid, too.
const ADDRESS: u64 = !0 << 47;
/// Addresses of pages for which a value in the first GiB would find memory.
const PHYSICAL: u64 = !0 << 52 | 0xfff;
/// Access rights without the reserved bits, which Bochs keeps.
const RIGHTS: u64 = 0x1_f0ff;
/// CR4 without features that only some have: SMXE, KL, CET, PKS, UINTR, and LA57.
const CR4: u64 = !(1 << 12 | 1 << 14 | 1 << 19 | 0x1f << 23 | 1 << 28 | 1 << 32);

/// The fields, each with the bits that may be flipped.
const FIELDS: &[(f::Encoding, Way)] = &[
    (f::PIN_BASED_VM_EXEC_CONTROL.encoding(), Bits(0xffff_ff3f)),
    (
        f::CPU_BASED_VM_EXEC_CONTROL.encoding(),
        Bits(!(1 << 17 | 1 << 27 | 1 << 31) & 0xffff_ffff),
    ),
    (f::SECONDARY_VM_EXEC_CONTROL.encoding(), Bits(0x0010_18fe)),
    (f::VM_EXIT_CONTROLS.encoding(), Bits(0x003f_efff)),
    (f::VM_ENTRY_CONTROLS.encoding(), Bits(0x0000_dbff)),
    (f::VIRTUAL_PROCESSOR_ID.encoding(), Bits(0xffff)),
    (f::CR3_TARGET_COUNT.encoding(), Bits(0xffff_fff8)),
    (f::VM_EXIT_MSR_STORE_COUNT.encoding(), Bits(0xffff_ffff)),
    (f::VM_EXIT_MSR_LOAD_COUNT.encoding(), Bits(0xffff_ffff)),
    (f::VM_ENTRY_MSR_LOAD_COUNT.encoding(), Bits(0xffff_ffff)),
    (f::VM_ENTRY_INTR_INFO_FIELD.encoding(), Event),
    (f::VM_ENTRY_INTR_INFO_FIELD.encoding(), Event),
    (f::VM_ENTRY_INTR_INFO_FIELD.encoding(), Event),
    (
        f::VM_ENTRY_EXCEPTION_ERROR_CODE.encoding(),
        Bits(0xffff_ffff),
    ),
    (f::VM_ENTRY_INSTRUCTION_LEN.encoding(), Bits(0xffff_fffe)),
    (f::TPR_THRESHOLD.encoding(), Bits(0xffff_ffff)),
    (f::TSC_OFFSET.encoding(), Bits(!0)),
    (f::VIRTUAL_APIC_PAGE_ADDR.encoding(), Bits(PHYSICAL)),
    (f::IO_BITMAP_A.encoding(), Bits(PHYSICAL)),
    (f::IO_BITMAP_B.encoding(), Bits(PHYSICAL)),
    (f::MSR_BITMAP.encoding(), Bits(PHYSICAL)),
    (f::EPT_POINTER.encoding(), Bits(PHYSICAL & !0x80)),
    (f::CR0_GUEST_HOST_MASK.encoding(), Bits(!0)),
    (f::CR4_GUEST_HOST_MASK.encoding(), Bits(!0)),
    (f::CR0_READ_SHADOW.encoding(), Bits(!0)),
    (f::CR4_READ_SHADOW.encoding(), Bits(!0)),
    (f::HOST_CR0.encoding(), Bits(0xffff_ffff_8000_0021)),
    (f::HOST_CR3.encoding(), Bits(!0 << 52)),
    (f::HOST_CR4.encoding(), Bits(!0 << 33 | 0x2020)),
    (f::HOST_ES_SELECTOR.encoding(), Bits(7)),
    (f::HOST_CS_SELECTOR.encoding(), Bits(0xf)),
    (f::HOST_SS_SELECTOR.encoding(), Bits(7)),
    (f::HOST_DS_SELECTOR.encoding(), Bits(7)),
    (f::HOST_FS_SELECTOR.encoding(), Bits(7)),
    (f::HOST_GS_SELECTOR.encoding(), Bits(7)),
    (f::HOST_TR_SELECTOR.encoding(), Bits(0x27)),
    (f::HOST_FS_BASE.encoding(), Bits(ADDRESS)),
    (f::HOST_GS_BASE.encoding(), Bits(ADDRESS)),
    (f::HOST_TR_BASE.encoding(), Bits(ADDRESS)),
    (f::HOST_GDTR_BASE.encoding(), Bits(ADDRESS)),
    (f::HOST_IDTR_BASE.encoding(), Bits(ADDRESS)),
    (f::HOST_IA32_SYSENTER_ESP.encoding(), Bits(!0)),
    (f::HOST_IA32_SYSENTER_EIP.encoding(), Bits(!0)),
    (f::HOST_IA32_EFER.encoding(), Bits(!0)),
    (f::HOST_RIP.encoding(), Bits(ADDRESS)),
    (f::GUEST_CR0.encoding(), Bits(!(1 << 6))),
    (f::GUEST_CR3.encoding(), Bits(!0 << 30 | 0x1f)),
    (f::GUEST_CR4.encoding(), Bits(CR4)),
    (f::GUEST_DR7.encoding(), Bits(!0)),
    (f::GUEST_RIP.encoding(), Bits(0x7fff << 32)),
    (f::GUEST_RFLAGS.encoding(), Bits(!0)),
    (f::GUEST_RSP.encoding(), Bits(!0)),
    (f::GUEST_IA32_EFER.encoding(), Bits(!0)),
    (f::GUEST_IA32_PAT.encoding(), Bits(!0)),
    (f::GUEST_SYSENTER_ESP.encoding(), Bits(!0)),
    (f::GUEST_SYSENTER_EIP.encoding(), Bits(!0)),
    (f::GUEST_GDTR_BASE.encoding(), Bits(!0)),
    (f::GUEST_IDTR_BASE.encoding(), Bits(!0 << 30)),
    (f::GUEST_GDTR_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_IDTR_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_INTERRUPTIBILITY_INFO.encoding(), Bits(0xffff_ffef)),
    (f::GUEST_ACTIVITY_STATE.encoding(), Bits(0xffff_fffc)),
    (f::GUEST_PENDING_DBG_EXCEPTIONS.encoding(), Bits(0xaff0)),
    (f::VMCS_LINK_POINTER.encoding(), Bits(!0)),
    (f::GUEST_ES_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_CS_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_SS_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_DS_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_LDTR_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_TR_SELECTOR.encoding(), Bits(0xffff)),
    (f::GUEST_ES_BASE.encoding(), Bits(!0)),
    (f::GUEST_CS_BASE.encoding(), Bits(!0 << 30)),
    (f::GUEST_SS_BASE.encoding(), Bits(!0)),
    (f::GUEST_FS_BASE.encoding(), Bits(!0)),
    (f::GUEST_GS_BASE.encoding(), Bits(!0)),
    (f::GUEST_LDTR_BASE.encoding(), Bits(!0)),
    (f::GUEST_TR_BASE.encoding(), Bits(ADDRESS)),
    (f::GUEST_ES_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_CS_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_SS_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_LDTR_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_TR_LIMIT.encoding(), Bits(0xffff_ffff)),
    (f::GUEST_ES_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_CS_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_SS_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_DS_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_FS_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_GS_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_LDTR_AR_BYTES.encoding(), Bits(RIGHTS)),
    (f::GUEST_TR_AR_BYTES.encoding(), Bits(RIGHTS)),
];

/// An event, valid or not; its error code is there where it belongs, as Bochs
/// with CET does not look.
fn event(random: &mut Random) -> u64 {
    let kind = random.below(8);
    let vector = match kind {
        2 => 2,
        3 => random.below(34),
        // INT1, the only one that there is.
        5 => 1,
        // Vector 0 would be a monitor trap, which Bochs takes too late.
        7 => 1 + random.below(255),
        _ => random.below(256),
    };
    let has_error = kind == 3 && matches!(vector, 8 | 10..=14 | 17 | 21);
    let reserved = if random.below(8) == 0 {
        1 << (12 + random.below(19))
    } else {
        0
    };
    1 << 31 | reserved | u64::from(has_error) << 11 | kind << 8 | vector
}

/// Corrupts one field.
pub fn corrupt(case: &mut Case) {
    let (encoding, way) = &FIELDS[case.random.below(FIELDS.len() as u64) as usize];
    let encoding = u64::from(encoding.0);
    let value = match way {
        Bits(mask) => vmx::vmread(encoding).1 ^ case.random.flip(*mask),
        Event => event(&mut case.random),
    };
    case.write(encoding, value);
}
