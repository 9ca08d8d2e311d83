// SPDX-License-Identifier: GPL-2.0

//! Hypercalls, and the two instructions that make them.

use kvm_bindings::*;

use crate::{
    code,
    enable_x2apic,
    group,
    guest::{
        Guest,
        Mode,
        CODE, //
    }, //
};

group!("hypercall":
    an_unknown_number_is_enosys,
    outside_ring_0_they_are_not_permitted,
    the_poll_and_the_yield_succeed,
    one_call_sends_to_many,
    a_logical_destination_is_invalid,
    vmmcall_is_replaced_by_vmcall,
    vmmcall_is_undefined_without_the_quirk,
);

const KVM_X86_QUIRK_FIX_HYPERCALL_INSN: u64 = 1 << 5;

/// What the guest got in RAX.
fn answer(guest: &Guest) -> i64 {
    guest.cpu().regs().rax as i64
}

fn an_unknown_number_is_enosys() {
    let guest = Guest::new(Mode::Long, code!(64, "mov eax, 999", "vmcall", "hlt"));
    guest.run_to_hlt();
    assert_eq!(answer(&guest), -1000);
    // 32-bit code sees 32 bits, and its upper halves are not looked at.
    let guest = Guest::new(Mode::Protected, code!(32, "mov eax, 999", "vmcall", "hlt"));
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rax, 0xffff_fc18);
}

fn outside_ring_0_they_are_not_permitted() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov eax, 1", "vmcall", "out 0xe1, eax"),
    );
    let mut sregs = guest.cpu().sregs();
    sregs.cs.dpl = 3;
    sregs.cs.selector |= 3;
    sregs.ss.dpl = 3;
    sregs.ss.selector |= 3;
    guest.cpu().set_sregs(&sregs);
    let mut regs = guest.cpu().regs();
    regs.rflags |= 3 << 12;
    guest.cpu().set_regs(&regs);
    assert_eq!(guest.run_to_done() as i32, -1);
}

fn the_poll_and_the_yield_succeed() {
    for number in [1, 11] {
        let guest = Guest::new(Mode::Long, code!(64, "vmcall", "hlt"));
        let mut regs = guest.cpu().regs();
        regs.rax = number;
        guest.cpu().set_regs(&regs);
        guest.run_to_hlt();
        assert_eq!(answer(&guest), 0, "{number}");
    }
}

fn one_call_sends_to_many() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "sti",
            "mov eax, 10",
            // APICs 0 and 5, of which the second does not exist.
            "mov ebx, 0x21",
            "xor ecx, ecx",
            "xor edx, edx",
            "mov esi, 0x4061",
            "vmcall",
            "nop",
            "out 0xe1, eax"
        ),
    );
    assert_eq!(guest.run_to_done(), 1);
    assert_eq!(guest.count(0x61), 1);
}

fn a_logical_destination_is_invalid() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            "mov eax, 10",
            "mov ebx, 1",
            "xor ecx, ecx",
            "xor edx, edx",
            "mov esi, 0x4861",
            "vmcall",
            "out 0xe1, eax"
        ),
    );
    assert_eq!(guest.run_to_done() as i32, -22);
}

fn vmmcall_is_replaced_by_vmcall() {
    for (mode, code) in [
        (Mode::Long, code!(64, "mov eax, 1", "vmmcall", "hlt")),
        (Mode::Protected, code!(32, "mov eax, 1", "vmmcall", "hlt")),
    ] {
        let guest = Guest::new(mode, code);
        guest.run_to_hlt();
        assert_eq!(answer(&guest), 0);
        // After MOV, of 5 bytes.
        assert_eq!(guest.memory.read::<[u8; 3]>(CODE + 5), [0x0f, 0x01, 0xc1]);
    }
}

fn vmmcall_is_undefined_without_the_quirk() {
    let guest = Guest::new(Mode::Long, code!(64, "vmmcall", "hlt"));
    let quirks = [KVM_X86_QUIRK_FIX_HYPERCALL_INSN, 0, 0, 0];
    assert_eq!(guest.vm.enable_cap(KVM_CAP_DISABLE_QUIRKS2, quirks), Ok(0));
    guest.run_to_exception(6);
    assert_eq!(guest.memory.read::<[u8; 3]>(CODE), [0x0f, 0x01, 0xd9]);
}
