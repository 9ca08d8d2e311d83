// SPDX-License-Identifier: GPL-2.0

//! A guest hypervisor of few bytes: L1 enters VMX operation, writes the fields of a table into a VMCS
//! and launches L2, which runs in L1's own address space.
//!
//! ```text
//! 01000 L1: VMXON to VMLAUNCH     20000 addresses of the VMXON region and of the VMCS
//! 02000 L2                        21000 VMXON region
//! 03000 L1: after a VM exit       22000 VMCS
//!                                 24000 the table: field and value, each of 64 bits, and -1
//! ```

use kvm_bindings::KVM_CAP_NESTED_STATE;

use crate::{
    code,
    guest::{
        Apic,
        Guest,
        Mode,
        CODE,
        DATA,
        GDT,
        IDT,
        PML4,
        STACK, //
    },
    harness::skip,
    ioctl::*,
    kvm::*, //
};

/// Where L2's code is.
pub const L2: u64 = CODE + PAGE;
/// Where L1 goes on after a VM exit.
const AFTER_EXIT: u64 = CODE + 2 * PAGE;
/// The VMXON region, and the VMCS.
const VMXON_REGION: u64 = DATA + PAGE;
const VMCS: u64 = DATA + 2 * PAGE;
/// The table of fields.
pub const TABLE: u64 = DATA + 4 * PAGE;
/// What L1 tells by an OUT to [`DONE`](crate::guest::DONE) after each VM exit; then it resumes L2. Where
/// an instruction of VMX fails, it tells another number.
pub const EXITED: u32 = 0x600d;
/// Entries of the table, without its end.
pub const FIELDS: u64 = 59;

const IA32_FEATURE_CONTROL: u32 = 0x3a;
const IA32_VMX_BASIC: u32 = 0x480;
/// The capabilities of pin-based, processor-based, exit and entry controls, with all that may be 0.
const IA32_VMX_TRUE_CTLS: [u32; 4] = [0x48d, 0x48e, 0x48f, 0x490];
const CR4_VMXE: u64 = 0x2000;

/// A guest whose L1 is about to launch L2, which executes `l2` and exits when it halts. Skips the test
/// where there is no nested VMX.
pub fn guest(l2: &[u8]) -> Guest {
    if !is_possible() {
        skip("no nested VMX");
    }
    let guest = Guest::with(Mode::Long, Apic::None, 1, l1());
    let vcpu = guest.cpu();
    assert!(vcpu.set_msr(IA32_FEATURE_CONTROL, 5));
    let mut sregs = vcpu.sregs();
    sregs.cr4 |= CR4_VMXE;
    vcpu.set_sregs(&sregs);
    let memory = &guest.memory;
    memory.copy(L2, l2);
    memory.copy(AFTER_EXIT, after_exit());
    memory.write(DATA, VMXON_REGION);
    memory.write(DATA + 8, VMCS);
    // CAST: the revision is in the low half.
    let revision = vcpu.msr(IA32_VMX_BASIC).unwrap_or(0) as u32;
    memory.write(VMXON_REGION, revision);
    memory.write(VMCS, revision);
    let mut table = table(vcpu);
    assert_eq!(table.len() as u64, FIELDS);
    table.push((u64::MAX, 0));
    for (at, (field, value)) in (TABLE..).step_by(16).zip(table) {
        memory.write(at, field);
        memory.write(at + 8, value);
    }
    guest
}

/// Whether there is nested VMX.
pub fn is_possible() -> bool {
    capability(KVM_CAP_NESTED_STATE) > 0
}

fn l1() -> &'static [u8] {
    code!(
        64,
        "vmxon [0x20000]", // Fails where L1 has been here before.
        "vmclear [0x20008]",
        "vmptrld [0x20008]",
        "jbe 9f",
        "mov esi, 0x24000",
        "2:",
        "mov rax, [rsi]",
        "cmp rax, -1",
        "je 3f",
        "vmwrite rax, [rsi + 8]",
        "add rsi, 16",
        "jmp 2b",
        "3:",
        "vmlaunch",
        "9:",
        "mov eax, 0xbad",
        "out 0xe1, eax",
        "hlt",
    )
}

fn after_exit() -> &'static [u8] {
    code!(
        64,
        "mov eax, 0x600d",
        "out 0xe1, eax",
        "vmresume",
        "mov eax, 0xbad",
        "out 0xe1, eax",
        "hlt",
    )
}

/// The fields of a VMCS whose L2 has L1's segments, control registers and page tables.
fn table(vcpu: &Vcpu) -> Vec<(u64, u64)> {
    const HLT_EXITING: u64 = 1 << 7;
    const HOST_IS_64_BIT: u64 = 1 << 9;
    const GUEST_IS_64_BIT: u64 = 1 << 9;
    let wanted = [0, HLT_EXITING, HOST_IS_64_BIT, GUEST_IS_64_BIT];
    let mut fields = Vec::new();
    for ((field, msr), wanted) in [0x4000, 0x4002, 0x400c, 0x4012]
        .into_iter()
        .zip(IA32_VMX_TRUE_CTLS)
        .zip(wanted)
    {
        let capability = vcpu.msr(msr).unwrap_or(0);
        fields.push((field, (capability | wanted) & (capability >> 32)));
    }
    let s = vcpu.sregs();
    let segments = [s.es, s.cs, s.ss, s.ds, s.fs, s.gs, s.ldt, s.tr];
    for (n, segment) in (0..).step_by(2).zip(segments) {
        let bits = [
            (segment.type_, 0),
            (segment.s, 4),
            (segment.dpl, 5),
            (segment.present, 7),
            (segment.l, 13),
            (segment.db, 14),
            (segment.g, 15),
            (u8::from(segment.present == 0), 16),
        ];
        let rights = bits.iter().map(|(value, at)| u64::from(*value) << at);
        fields.push((0x800 + n, segment.selector.into()));
        fields.push((0x4800 + n, segment.limit.into()));
        fields.push((0x4814 + n, rights.sum()));
        fields.push((0x6806 + n, segment.base));
    }
    let code_and_data = [(0xc02, s.cs), (0xc04, s.ss), (0xc0c, s.tr)];
    fields.extend(code_and_data.map(|(field, segment)| (field, segment.selector.into())));
    fields.extend([
        (0x2800, u64::MAX),           // VMCS link pointer
        (0x4810, s.gdt.limit.into()), // of L2
        (0x4812, s.idt.limit.into()),
        (0x6800, s.cr0),
        (0x6802, PML4),
        (0x6804, s.cr4),
        (0x6816, GDT),
        (0x6818, IDT),
        (0x681a, 0x400),
        (0x681c, STACK - PAGE / 2),
        (0x681e, L2),
        (0x6820, 2),
        (0x6c00, s.cr0), // of L1
        (0x6c02, PML4),
        (0x6c04, s.cr4),
        (0x6c0a, s.tr.base),
        (0x6c0c, GDT),
        (0x6c0e, IDT),
        (0x6c14, STACK),
        (0x6c16, AFTER_EXIT),
    ]);
    fields
}

/// The saved nested state: `struct kvm_nested_state`, of as many bytes as it has.
pub fn nested_state(vcpu: &Vcpu) -> Vec<u8> {
    let mut state = vec![0; 128 + 2 * PAGE as usize];
    let size = state.len() as u32;
    state[4..8].copy_from_slice(&size.to_le_bytes());
    vcpu.ioctl(KVM_GET_NESTED_STATE, state.as_mut_ptr() as u64)
        .expect("KVM_GET_NESTED_STATE");
    let size = u32::from_le_bytes(state[4..8].try_into().expect("4 bytes"));
    state.truncate(size as usize);
    state
}
