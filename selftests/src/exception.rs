// SPDX-License-Identifier: GPL-2.0

//! Exceptions: of the guest's own making, of KVM's, and on the way to a handler.

use kvm_bindings::*;

use crate::{
    code,
    group,
    guest::{
        Guest,
        Mode,
        CODE,
        DATA,
        EXCEPTION,
        IDT,
        MMIO,

        STACK, //
    },
    kvm::*, //
};

group!("exception":
    divide_error_reaches_its_handler,
    invalid_opcode_reaches_its_handler,
    a_breakpoint_reaches_its_handler,
    a_page_fault_has_its_address_and_error_code,
    general_protection_has_its_error_code,
    a_real_mode_fault_goes_through_the_vector_table,
    a_software_interrupt_returns,
    single_step_traps,
    reserved_bits_in_control_registers_fault,
    an_unknown_msr_faults,
    privileged_instructions_fault_in_user_mode,
    vmx_instructions_are_undefined_without_vmx,
    a_fault_in_a_handlers_gate_is_a_double_fault,
    a_triple_fault_shuts_down,
    a_shut_down_vcpu_can_be_reset,
    delivery_over_memory_that_is_not_there_yet,
    delivery_of_a_software_interrupt_over_fresh_memory,
    delivery_through_mmio_is_an_internal_error,
    an_invalid_state_fails_the_entry,
    a_task_switch_is_done_or_reported,
);

fn divide_error_reaches_its_handler() {
    let guest = Guest::new(Mode::Long, code!(64, "xor ecx, ecx", "div ecx", "hlt"));
    guest.run_to_exception(0);
    // A fault: the frame holds the address of DIV.
    assert_eq!(guest.memory.read::<u64>(guest.cpu().regs().rsp), CODE + 2);
}

fn invalid_opcode_reaches_its_handler() {
    for (mode, code) in [
        (Mode::Long, code!(64, "nop", "ud2")),
        (Mode::Protected, code!(32, "nop", "ud2")),
    ] {
        let guest = Guest::new(mode, code);
        guest.run_to_exception(6);
        assert_eq!(
            guest.memory.read::<u32>(guest.cpu().regs().rsp),
            CODE as u32 + 1
        );
    }
}

fn a_breakpoint_reaches_its_handler() {
    let guest = Guest::new(Mode::Long, code!(64, "int3", "hlt"));
    guest.run_to_exception(3);
    assert_eq!(guest.memory.read::<u64>(guest.cpu().regs().rsp), CODE + 1);
}

fn a_page_fault_has_its_address_and_error_code() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov rbx, 0x8000001234", "mov dword ptr [rbx], 1", "hlt"),
    );
    guest.run_to_exception(14);
    assert_eq!(guest.cpu().sregs().cr2, 0x80_0000_1234);
    let frame = guest.cpu().regs().rsp;
    assert_eq!(guest.memory.read::<u64>(frame), 2); // A write to what is not present.
    assert_eq!(guest.memory.read::<u64>(frame + 8), CODE + 10);
}

fn general_protection_has_its_error_code() {
    let guest = Guest::new(Mode::Long, code!(64, "mov ax, 0x58", "mov ds, ax", "hlt"));
    guest.run_to_exception(13);
    assert_eq!(guest.memory.read::<u64>(guest.cpu().regs().rsp), 0x58);
}

fn a_real_mode_fault_goes_through_the_vector_table() {
    let guest = Guest::new(Mode::Real, code!(16, "xor cx, cx", "div cx", "hlt"));
    guest.memory.write::<u32>(0, 0x6000);
    guest
        .memory
        .copy(0x6000, code!(16, "mov al, 0x77", "out 0xe1, al", "hlt"));
    assert_eq!(guest.run_to_done(), 0x77);
}

fn a_software_interrupt_returns() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "int 0x80", "mov eax, ebx", "out 0xe1, eax"),
    );
    guest.set_gate(0x80, 0x6000);
    guest
        .memory
        .copy(0x6000, code!(64, "mov ebx, 0x1234", "iretq"));
    assert_eq!(guest.run_to_done(), 0x1234);
    assert_eq!(guest.cpu().regs().rsp, STACK);
}

fn single_step_traps() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "push 0x102", "popfq", "cpuid", "nop", "hlt"),
    );
    // The handler notes the address and turns the flag off at the second trap.
    guest.set_gate(1, 0x6000);
    guest.memory.copy(
        0x6000,
        code!(
            64,
            "mov r8, [rsp]",
            "mov r9, [0x20000]",
            "mov [0x20008 + r9 * 8], r8",
            "inc qword ptr [0x20000]",
            "cmp r9, 1",
            "jne 2f",
            "and qword ptr [rsp + 16], -257",
            "2:",
            "iretq"
        ),
    );
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u64>(DATA), 2);
    let start = CODE + 5; // After PUSH imm32. CPUID exits, and traps all the same.
    assert_eq!(guest.memory.read::<u64>(DATA + 8), start + 3);
    assert_eq!(guest.memory.read::<u64>(DATA + 16), start + 4);
}

fn reserved_bits_in_control_registers_fault() {
    for code in [
        code!(64, "mov rax, cr4", "bts rax, 63", "mov cr4, rax", "hlt"),
        code!(64, "mov rax, cr0", "bts rax, 40", "mov cr0, rax", "hlt"),
        code!(64, "mov rax, cr3", "bts rax, 62", "mov cr3, rax", "hlt"),
        code!(64, "mov eax, 16", "mov cr8, rax", "hlt"),
        // CR0.PG cannot go while in 64-bit mode, nor CR4.PAE.
        code!(64, "mov rax, cr0", "btr rax, 31", "mov cr0, rax", "hlt"),
        code!(64, "mov rax, cr4", "btr rax, 5", "mov cr4, rax", "hlt"),
    ] {
        Guest::new(Mode::Long, code).run_to_exception(13);
    }
}

fn an_unknown_msr_faults() {
    for code in [
        code!(64, "mov ecx, 0x4f4f4f4f", "rdmsr", "hlt"),
        code!(64, "mov ecx, 0x4f4f4f4f", "xor eax, eax", "wrmsr", "hlt"),
        // A base address that is not canonical.
        code!(
            64,
            "mov ecx, 0xc0000100",
            "mov edx, 0x80000",
            "wrmsr",
            "hlt"
        ),
    ] {
        Guest::new(Mode::Long, code).run_to_exception(13);
    }
}

fn privileged_instructions_fault_in_user_mode() {
    for code in [
        code!(64, "hlt"),
        code!(64, "mov cr0, rax"),
        code!(64, "wbinvd"),
        code!(64, "xsetbv"),
    ] {
        let guest = Guest::new(
            Mode::Long,
            code!(
                64,
                "push 0x2b",
                "push 0x7000",
                "push 2",
                "push 0x33",
                "push 0x6000",
                "iretq"
            ),
        );
        guest
            .memory
            .write::<u64>(crate::guest::GDT + 0x28, 0x00cf_f300_0000_ffff);
        guest
            .memory
            .write::<u64>(crate::guest::GDT + 0x30, 0x00af_fb00_0000_ffff);
        guest.memory.copy(0x6000, code);
        // OSXSAVE is off, so XSETBV is undefined.
        let vector = guest.run_to(EXCEPTION);
        assert!(
            vector == 13 || vector == 6 && code[1] == 1,
            "{vector}: {code:x?}"
        );
    }
}

fn vmx_instructions_are_undefined_without_vmx() {
    // CR4.VMXE is off.
    for code in [
        code!(64, "vmxon [0x20000]"),
        code!(64, "vmread rax, rbx"),
        code!(64, "vmlaunch"),
        code!(64, "invept rax, [0x20000]"),
    ] {
        Guest::new(Mode::Long, code).run_to_exception(6);
    }
}

fn a_fault_in_a_handlers_gate_is_a_double_fault() {
    let guest = Guest::new(Mode::Long, code!(64, "ud2"));
    guest.memory.write::<u64>(IDT + 6 * 16, 0);
    // #UD is benign: its missing gate is a #GP (or #NP), which is served.
    assert!([11, 13].contains(&guest.run_to(EXCEPTION)));
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov rbx, 0x8000000000", "mov [rbx], eax"),
    );
    guest.memory.write::<u64>(IDT + 14 * 16, 0);
    guest.run_to_exception(8);
}

fn a_triple_fault_shuts_down() {
    for (mode, code) in [
        (Mode::Long, code!(64, "lidt [0x20000]", "ud2")),
        (Mode::Protected, code!(32, "lidt [0x20000]", "int3")),
    ] {
        let guest = Guest::new(mode, code);
        assert_eq!(guest.run(), Exit::Shutdown);
    }
}

fn a_shut_down_vcpu_can_be_reset() {
    let guest = Guest::new(Mode::Long, code!(64, "lidt [0x20000]", "ud2"));
    assert_eq!(guest.run(), Exit::Shutdown);
    let fresh = Guest::new(Mode::Long, &[]).cpu().sregs();
    guest.cpu().set_sregs(&fresh);
    guest.restart(code!(64, "mov eax, 5", "out 0xe1, eax"));
    assert_eq!(guest.run_to_done(), 5);
}

/// A 64-bit guest whose IDT and stack are in memory that it has not touched.
fn guest_with_fresh_tables(code: &[u8]) -> (Guest, Memory) {
    let guest = Guest::new(Mode::Long, code);
    let memory = Memory::new(4 * PAGE as usize);
    guest.vm.map(1, MMIO, &memory);
    for offset in (0..PAGE).step_by(8) {
        memory.write::<u64>(offset, guest.memory.read::<u64>(IDT + offset));
    }
    let mut sregs = guest.cpu().sregs();
    sregs.idt.base = MMIO;
    guest.cpu().set_sregs(&sregs);
    let mut regs = guest.cpu().regs();
    regs.rsp = MMIO + 4 * PAGE;
    guest.cpu().set_regs(&regs);
    (guest, memory)
}

fn delivery_over_memory_that_is_not_there_yet() {
    // The CPU meets an EPT violation while it reads the gate, and one while it
    // pushes the frame; the exception must be delivered all the same.
    let (guest, memory) = guest_with_fresh_tables(code!(64, "xor ecx, ecx", "div ecx", "hlt"));
    guest.run_to_exception(0);
    let frame = guest.cpu().regs().rsp - MMIO;
    assert_eq!(frame, 4 * PAGE - 40);
    assert_eq!(memory.read::<u64>(frame), CODE + 2);
    // With an error code too.
    let (guest, memory) = guest_with_fresh_tables(code!(64, "mov ax, 0x58", "mov ds, ax"));
    guest.run_to_exception(13);
    let frame = guest.cpu().regs().rsp - MMIO;
    assert_eq!(memory.read::<[u64; 2]>(frame), [0x58, CODE + 4]);
}

fn delivery_of_a_software_interrupt_over_fresh_memory() {
    // The frame must hold the address after the INT, whose length KVM must give.
    for (code, vector, length) in [
        (code!(64, "int 0x80", "hlt"), 0x80, 2),
        (code!(64, "int3", "hlt"), 3, 1),
        (code!(64, ".byte 0xf1", "hlt"), 1, 1),
    ] {
        let (guest, memory) = guest_with_fresh_tables(code);
        let gate = guest.memory.read::<u64>(IDT); // Any handler will do.
        memory.write::<u64>(16 * vector, gate);
        guest.run_to_exception(0);
        let frame = guest.cpu().regs().rsp - MMIO;
        assert_eq!(
            memory.read::<u64>(frame),
            CODE + length,
            "vector {vector:#x}"
        );
    }
}

fn delivery_through_mmio_is_an_internal_error() {
    let guest = Guest::new(Mode::Long, code!(64, "ud2"));
    let mut sregs = guest.cpu().sregs();
    sregs.idt.base = MMIO;
    guest.cpu().set_sregs(&sregs);
    let Exit::InternalError(suberror, ndata) = guest.run() else {
        panic!("not an internal error");
    };
    assert_eq!(suberror, KVM_INTERNAL_ERROR_DELIVERY_EV);
    // Vectoring information, exit reason, qualification, guest-physical address.
    let words = guest.cpu().internal_data();
    assert!(
        ndata >= 4 && words[0] as u32 >> 31 == 1 && words[0] & 0xff == 6,
        "{words:x?}"
    );
    assert_eq!(words[3] & !0xfff, MMIO);
}

fn an_invalid_state_fails_the_entry() {
    // RFLAGS.VM in 64-bit mode: KVM_SET_REGS takes it, the CPU does not.
    let guest = Guest::new(Mode::Long, code!(64, "hlt"));
    let mut regs = guest.cpu().regs();
    regs.rflags |= 1 << 17;
    guest.cpu().set_regs(&regs);
    let Exit::FailEntry(reason) = guest.run() else {
        panic!("entered: {:?}, {}", guest.cpu().exit(), guest.state());
    };
    // Basic reason 33, invalid guest state, with the bit of a failed entry.
    assert_eq!(reason as u32, 0x8000_0021);
    // The vCPU is usable afterwards.
    regs.rflags = 2;
    guest.cpu().set_regs(&regs);
    guest.run_to_hlt();
}

fn a_task_switch_is_done_or_reported() {
    let guest = Guest::new(Mode::Protected, code!(32, "ljmp 0x28, 0"));
    let gdt = crate::guest::GDT;
    // The new task's state, with just what it needs.
    let tss = DATA;
    guest
        .memory
        .write::<u64>(gdt + 0x28, 0x0000_8900_0000_0067 | (tss << 16));
    guest.memory.write::<u32>(tss + 0x20, 0x6000); // EIP
    guest.memory.write::<u32>(tss + 0x24, 2); // EFLAGS
    guest.memory.write::<u32>(tss + 0x38, 0x7000); // ESP
    guest.memory.write::<u32>(tss + 0x34, 0x4242); // EBX
    for (offset, selector) in [(0x48, 16u32), (0x4c, 8), (0x50, 16), (0x54, 16)] {
        guest.memory.write::<u32>(tss + offset, selector);
    }
    guest
        .memory
        .copy(0x6000, code!(32, "mov eax, ebx", "out 0xe1, eax", "hlt"));
    match guest.run() {
        Exit::Out(_, 4, 1, 0x4242) => {
            assert_eq!(guest.cpu().sregs().tr.selector, 0x28);
            assert_ne!(guest.cpu().sregs().cr0 & 8, 0); // CR0.TS.
        }
        Exit::InternalError(KVM_INTERNAL_ERROR_EMULATION, _) => {}
        exit => panic!("{exit:x?}"),
    }
}
