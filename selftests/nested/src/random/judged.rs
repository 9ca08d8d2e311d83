// SPDX-License-Identifier: GPL-2.0

//! States of which the bare machine is no judge: checks of VM entry that Bochs
//! does not make (errata.rst), and controls of which it leaves open what they do.

use burrow_core::x86::vmx::field as f;

use crate::vmx::{
    self,
    rd, //
};

/// Whether an event of this kind and vector comes with an error code.
pub fn has_error_code(kind: u64, vector: u64) -> bool {
    kind == 3 && matches!(vector, 8 | 10..=14 | 17 | 21)
}

/// Which kind of paging structures the guest would use: those of IA-32e mode, and entries of 64 bits.
pub fn tables() -> (bool, bool) {
    let is_long = rd(f::VM_ENTRY_CONTROLS) & u64::from(vmx::ENTRY_IA32E) != 0;
    (is_long, rd(f::GUEST_CR4) & 1 << 5 != 0)
}

/// Whether the guest uses its paging structures for what they are, which `made` says. A guest that takes them for
/// others finds addresses in them that nobody has chosen, and memory that differs from machine to machine.
pub fn has_right_tables(made: (bool, bool)) -> bool {
    rd(f::GUEST_CR0) >> 31 == 0 || tables() == made
}

/// Whether the VMCS as it is can be judged.
pub fn is_judged() -> bool {
    let event = rd(f::VM_ENTRY_INTR_INFO_FIELD);
    let (is_valid, kind, vector) = (event >> 31 != 0, event >> 8 & 7, event & 0xff);
    let flags = rd(f::GUEST_RFLAGS);
    let blocking = rd(f::GUEST_INTERRUPTIBILITY_INFO);
    let cr0 = rd(f::GUEST_CR0);
    let pin = rd(f::PIN_BASED_VM_EXEC_CONTROL);
    let pending = rd(f::GUEST_PENDING_DBG_EXCEPTIONS);
    let is_halted = rd(f::GUEST_ACTIVITY_STATE) == 1;
    let is_protected = cr0 & 1 != 0;
    let is_long = rd(f::VM_ENTRY_CONTROLS) & u64::from(vmx::ENTRY_IA32E) != 0;

    // SDM 28.2.1.3: error codes, which a processor with CET does not look at.
    let has_code = event & 0x800 != 0;
    let code_is_right = has_code == (has_error_code(kind, vector) && is_protected);
    // SDM 28.3.1.1: IA-32e mode is paged.
    let is_paged = !is_long || cr0 >> 31 & 1 != 0;
    // SDM 28.3.1.4: virtual-8086 mode is protected.
    let is_virtual = flags & 1 << 17 != 0;
    // SDM 28.3.1.5: while NMIs are virtual and blocked none is injected.
    let nmi_is_right = !(is_valid
        && kind == 2
        && blocking & 8 != 0
        && pin & u64::from(vmx::PIN_VIRTUAL_NMIS) != 0);
    // SDM 28.3.1.5: a single step goes with TF where something blocks it.
    let step_is_right = (blocking & 3 == 0 && !is_halted) || (pending >> 14 & 1 == flags >> 8 & 1);
    // SDM 28.3.1.5: what may be injected in HLT; and nothing else wakes it here.
    let wakes = is_valid
        && match kind {
            0 | 2 => true,
            3 => matches!(vector, 1 | 18),
            _ => false,
        };
    (!is_valid || code_is_right)
        && is_paged
        && (!is_virtual || is_protected)
        && nmi_is_right
        && step_is_right
        && (!is_halted || wakes)
}
