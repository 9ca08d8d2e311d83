// SPDX-License-Identifier: GPL-2.0

//! System-management mode: SMIs, the state save map, RSM, and the memory that only its handler sees.

use kvm_bindings::*;

use crate::{
    code,
    group,
    guest::{
        Guest,
        Mode,
        DATA, //
    },
    ioctl::*,
    kvm::*, //
};

group!("smm":
    an_smi_runs_its_handler_and_rsm_returns,
    the_handler_sees_memory_of_its_own,
    rsm_restores_what_the_handler_left_in_the_map,
    the_handler_can_move_smbase,
    an_smi_in_the_handler_waits_for_rsm,
    nmis_wait_for_rsm,
    an_smi_wakes_a_halted_vcpu,
    an_ipi_can_be_an_smi,
    rsm_of_a_broken_map_shuts_down,
    rsm_outside_is_undefined,
    the_mode_is_saved_and_restored,
);

/// Where system-management RAM is.
const SMBASE: u64 = 0x3_0000;
/// Offsets in it.
const HANDLER: u64 = 0x8000;
const MAP: u64 = 0xfe00;
/// Its slot: in the second address space.
const SLOT: u32 = 1 << 16;
/// IA32_SMBASE, which userspace alone reads and writes.
const IA32_SMBASE: u32 = 0x9e;
const MSR_SMI_COUNT: u32 = 0x34;

/// The port of the handler.
const HANDLER_PORT: u16 = 0xee;

/// Gives `guest` 128 KiB that only system-management mode sees, with `handler`.
fn smram(guest: &Guest, handler: &[u8]) -> Memory {
    require(KVM_CAP_X86_SMM, "KVM_CAP_X86_SMM");
    let memory = Memory::new(0x2_0000);
    memory.copy(HANDLER, handler);
    guest.vm.map(SLOT, SMBASE, &memory);
    memory
}

fn smi(guest: &Guest) {
    assert_eq!(guest.cpu().ioctl(KVM_SMI, 0), Ok(0));
}

fn is_in_smm(guest: &Guest) -> bool {
    u32::from(guest.cpu().shared().flags) & KVM_RUN_X86_SMM != 0
}

/// Says so, and goes back.
fn saying_handler() -> &'static [u8] {
    code!(16, "mov eax, 7", "out 0xee, eax", "rsm")
}

fn events(guest: &Guest) -> kvm_vcpu_events {
    guest.cpu().get(KVM_GET_VCPU_EVENTS)
}

fn an_smi_runs_its_handler_and_rsm_returns() {
    let code = code!(
        64,
        "mov rax, 0x123456789",
        "mov r15, 0x55",
        "out 0xe1, al",
        "out 0xe1, eax",
        "hlt"
    );
    let guest = Guest::new(Mode::Long, code);
    let memory = smram(&guest, saying_handler());
    guest.run_to_done();
    let before = (guest.cpu().regs(), guest.cpu().sregs());
    smi(&guest);
    assert_eq!(guest.run_to(HANDLER_PORT), 7);
    assert!(is_in_smm(&guest));
    let inside = guest.cpu().sregs();
    assert_eq!((inside.cs.base, inside.cs.selector), (SMBASE, 0x3000));
    assert_eq!(
        (inside.cr0 & 0x8000_0001, inside.cr4, inside.efer),
        (0, 0, 0)
    );
    assert_eq!(guest.run_to_done(), 0x2345_6789);
    assert!(!is_in_smm(&guest));
    let after = (guest.cpu().regs(), guest.cpu().sregs());
    assert_eq!((after.0.rax, after.0.r15), (before.0.rax, 0x55));
    assert_eq!(after.1, before.1);
    // RIP of the map is behind the OUT, and RAX where 64-bit processors have it.
    assert_eq!(memory.read::<u64>(MAP + 0x1f8), before.0.rax);
    assert_eq!(memory.read::<u32>(MAP + 0xfc), 0x2_0064);
    assert_eq!(guest.cpu().msr(MSR_SMI_COUNT), Some(1));
}

fn the_handler_sees_memory_of_its_own() {
    let code = code!(
        64,
        "out 0xe1, al",
        "mov eax, [0x30000]",
        "out 0xe1, eax",
        "hlt"
    );
    let guest = Guest::new(Mode::Long, code);
    let handler = code!(
        16,
        "mov ax, cs",
        "mov ds, ax",
        "mov eax, [0]",
        "out 0xee, eax",
        "mov dword ptr [0], 0x77",
        "rsm"
    );
    let memory = smram(&guest, handler);
    memory.write::<u32>(0, 0x1111);
    guest.memory.write::<u32>(SMBASE, 0x2222);
    guest.run_to_done();
    smi(&guest);
    assert_eq!(guest.run_to(HANDLER_PORT), 0x1111);
    assert_eq!(guest.run_to_done(), 0x2222);
    assert_eq!(memory.read::<u32>(0), 0x77);
}

fn rsm_restores_what_the_handler_left_in_the_map() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "out 0xe1, al", "out 0xe1, eax", "hlt"),
    );
    let memory = smram(&guest, saying_handler());
    guest.run_to_done();
    smi(&guest);
    guest.run_to(HANDLER_PORT);
    memory.write::<u64>(MAP + 0x1f8, 0x4321);
    assert_eq!(guest.run_to_done(), 0x4321);
}

fn the_handler_can_move_smbase() {
    let guest = Guest::new(Mode::Long, code!(64, "out 0xe1, al", "out 0xe1, al", "hlt"));
    let memory = smram(&guest, saying_handler());
    memory.copy(
        0x1_0000 + HANDLER,
        code!(16, "mov eax, 9", "out 0xee, eax", "rsm"),
    );
    guest.run_to_done();
    smi(&guest);
    guest.run_to(HANDLER_PORT);
    memory.write::<u32>(MAP + 0x100, 0x4_0000);
    guest.run_to_done();
    assert_eq!(guest.cpu().msr(IA32_SMBASE), Some(0x4_0000));
    smi(&guest);
    assert_eq!(guest.run_to(HANDLER_PORT), 9);
    guest.run_to_hlt();
}

fn an_smi_in_the_handler_waits_for_rsm() {
    let guest = Guest::new(Mode::Long, code!(64, "out 0xe1, al", "inc ebx", "hlt"));
    let _memory = smram(&guest, saying_handler());
    guest.run_to_done();
    smi(&guest);
    guest.run_to(HANDLER_PORT);
    smi(&guest);
    assert_eq!(events(&guest).smi.pending, 1);
    guest.run_to(HANDLER_PORT);
    // The second came right behind RSM: not an instruction later.
    assert_eq!(
        (events(&guest).smi.pending, guest.cpu().regs().rbx & 1),
        (0, 0)
    );
    guest.run_to_hlt();
    assert_eq!(guest.cpu().msr(MSR_SMI_COUNT), Some(2));
}

fn nmis_wait_for_rsm() {
    let guest = Guest::new(Mode::Long, code!(64, "out 0xe1, al", "nop", "hlt"));
    guest.set_gate(2, 0x6000);
    guest
        .memory
        .copy(0x6000, code!(64, "inc dword ptr [0x20000]", "iretq"));
    let handler = code!(16, "out 0xee, eax", "nop", "out 0xee, eax", "rsm");
    let _memory = smram(&guest, handler);
    guest.run_to_done();
    smi(&guest);
    guest.run_to(HANDLER_PORT);
    assert_eq!(guest.cpu().ioctl(KVM_NMI, 0), Ok(0));
    guest.run_to(HANDLER_PORT);
    assert_eq!(guest.memory.read::<u32>(DATA), 0);
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u32>(DATA), 1);
}

fn an_smi_wakes_a_halted_vcpu() {
    let guest = Guest::with_lapic(Mode::Long, code!(64, "hlt", "out 0xe1, al", "hlt"));
    let memory = smram(&guest, saying_handler());
    guest
        .cpu()
        .set(
            KVM_SET_MP_STATE,
            kvm_mp_state {
                mp_state: KVM_MP_STATE_HALTED,
            },
        )
        .expect("KVM_SET_MP_STATE");
    smi(&guest);
    guest.run_to(HANDLER_PORT);
    // RSM goes on behind HLT where the handler wants it.
    memory.write::<u8>(MAP + 0xc9, 0);
    memory.write::<u64>(MAP + 0x178, crate::guest::CODE + 1);
    guest.run_to_done();
}

fn an_ipi_can_be_an_smi() {
    // To itself, through the xAPIC.
    let code = code!(
        64,
        "mov ecx, 0x1b; rdmsr; or eax, 0xc00; wrmsr",
        "mov ecx, 0x830",
        "mov eax, 0x44200",
        "xor edx, edx",
        "wrmsr",
        "out 0xe1, al",
        "hlt"
    );
    let guest = Guest::with_lapic(Mode::Long, code);
    let _memory = smram(&guest, saying_handler());
    guest.run_to(HANDLER_PORT);
    guest.run_to_done();
}

fn rsm_of_a_broken_map_shuts_down() {
    let guest = Guest::new(Mode::Long, code!(64, "out 0xe1, al", "hlt"));
    let memory = smram(&guest, saying_handler());
    guest.run_to_done();
    smi(&guest);
    guest.run_to(HANDLER_PORT);
    // Paging without protection.
    memory.write::<u64>(MAP + 0x158, 0x8000_0010);
    assert_eq!(guest.run(), Exit::Shutdown);
}

fn rsm_outside_is_undefined() {
    let guest = Guest::new(Mode::Long, code!(64, "rsm", "hlt"));
    guest.run_to_exception(6);
}

fn the_mode_is_saved_and_restored() {
    let code = code!(64, "out 0xe1, al", "mov eax, 5", "out 0xe1, eax", "hlt");
    let guest = Guest::new(Mode::Long, code);
    let memory = smram(&guest, saying_handler());
    guest.run_to_done();
    smi(&guest);
    guest.run_to(HANDLER_PORT);
    // Finish the OUT, so that the registers are those behind it.
    guest.cpu().shared().immediate_exit = 1;
    assert!(guest.cpu().run_raw().is_err());
    let saved = events(&guest);
    assert_eq!((saved.smi.smm, saved.smi.smm_inside_nmi), (1, 0));
    let (regs, sregs) = (guest.cpu().regs(), guest.cpu().sregs());

    let other = Guest::new(Mode::Long, code);
    other.vm.map(SLOT, SMBASE, &memory);
    other.cpu().set_sregs(&sregs);
    other.cpu().set_regs(&regs);
    other
        .cpu()
        .set(KVM_SET_VCPU_EVENTS, saved)
        .expect("KVM_SET_VCPU_EVENTS");
    // RSM is next, which only the memory of the mode has.
    assert_eq!(other.run_to_done(), 5);
    assert!(!is_in_smm(&other));
}
