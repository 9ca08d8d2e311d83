// SPDX-License-Identifier: GPL-2.0

//! The first instructions: in real mode, then in the other modes.

use crate::{
    code,
    group,
    guest::{
        Guest,
        Mode,
        CODE,
        DATA, //
    },
    kvm::*, //
};

group!("real":
    hlt_exits,
    out_exits_with_its_value,
    a_loop_computes,
    memory_is_read_and_written,
    segments_are_used,
    the_stack_works,
    an_interrupt_vector_is_taken,
    real_mode_reaches_beyond_64_kib,
    real_mode_enters_protected_mode,
    real_mode_enters_64_bit_mode,
    protected_mode_runs,
    long_mode_runs,
    the_vcpu_moves_between_threads,
);

fn hlt_exits() {
    let guest = Guest::new(Mode::Real, code!(16, "hlt"));
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rip, CODE + 1);
}

fn out_exits_with_its_value() {
    let guest = Guest::new(Mode::Real, code!(16, "mov al, 0x42", "out 0x10, al", "hlt"));
    assert_eq!(guest.run(), Exit::Out(0x10, 1, 1, 0x42));
    guest.run_to_hlt();
}

fn a_loop_computes() {
    let guest = Guest::new(
        Mode::Real,
        code!(
            16,
            "xor eax, eax",
            "mov ecx, 1000",
            "2:",
            "add eax, ecx",
            "dec ecx",
            "jnz 2b",
            "out 0xe1, eax",
            "hlt"
        ),
    );
    assert_eq!(guest.run_to_done(), 500_500);
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rax, 500_500);
}

fn memory_is_read_and_written() {
    let guest = Guest::new(
        Mode::Real,
        code!(16, "mov ax, [0x5000]", "inc ax", "mov [0x5002], ax", "hlt"),
    );
    guest.memory.write::<u16>(0x5000, 0x7fff);
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u16>(0x5002), 0x8000);
}

fn segments_are_used() {
    let guest = Guest::new(
        Mode::Real,
        code!(
            16,
            "mov ax, 0x2000",
            "mov es, ax",
            "mov byte ptr es:[0x10], 0x99",
            "mov ax, ds",
            "out 0xe1, ax",
            "hlt"
        ),
    );
    assert_eq!(guest.run_to_done(), 0);
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u8>(DATA + 0x10), 0x99);
    assert_eq!(guest.cpu().sregs().es.base, DATA);
}

fn the_stack_works() {
    let guest = Guest::new(
        Mode::Real,
        code!(
            16,
            "mov ax, 0x1234",
            "push ax",
            "pop bx",
            "call 2f",
            "hlt",
            "2:",
            "inc bx",
            "ret"
        ),
    );
    guest.run_to_hlt();
    let regs = guest.cpu().regs();
    assert_eq!((regs.rbx, regs.rsp), (0x1235, 0x8000));
}

fn an_interrupt_vector_is_taken() {
    let guest = Guest::new(Mode::Real, code!(16, "int 0x80", "hlt"));
    guest.memory.write::<u32>(0x80 * 4, 0x6000);
    guest
        .memory
        .copy(0x6000, code!(16, "mov al, 0x80", "out 0xe1, al", "iret"));
    assert_eq!(guest.run_to_done(), 0x80);
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rip, CODE + 3);
}

fn real_mode_reaches_beyond_64_kib() {
    let guest = Guest::new(
        Mode::Real,
        code!(
            16,
            "mov ebx, 0x123456",
            "mov dword ptr [ebx], 0xfeedface",
            "hlt"
        ),
    );
    let mut sregs = guest.cpu().sregs();
    sregs.ds.limit = 0xffff_ffff;
    sregs.ds.g = 1;
    guest.cpu().set_sregs(&sregs);
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u32>(0x12_3456), 0xfeed_face);
}

fn real_mode_enters_protected_mode() {
    let guest = Guest::new(
        Mode::Real,
        code!(
            16,
            "lgdt [0x5000]",
            "mov eax, cr0",
            "or al, 1",
            "mov cr0, eax",
            "ljmp 8, 0x6000"
        ),
    );
    guest.memory.write::<u16>(0x5000, 0x17);
    guest.memory.write::<u32>(0x5002, 0x5010);
    guest.memory.write::<u64>(0x5018, 0x00cf_9b00_0000_ffff);
    guest.memory.write::<u64>(0x5020, 0x00cf_9300_0000_ffff);
    guest.memory.copy(
        0x6000,
        code!(
            32,
            "mov ax, 16",
            "mov ds, ax",
            "mov ss, ax",
            "mov esp, 0x8000",
            "push 0x12345678",
            "pop eax",
            "mov [0x120000], eax",
            "hlt"
        ),
    );
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u32>(0x12_0000), 0x1234_5678);
    let sregs = guest.cpu().sregs();
    assert_eq!((sregs.cr0 & 1, sregs.cs.db, sregs.cs.selector), (1, 1, 8));
}

fn real_mode_enters_64_bit_mode() {
    let guest = Guest::new(
        Mode::Real,
        code!(
            16,
            "lgdt [0x5000]",
            "mov eax, 0x20",
            "mov cr4, eax",
            "mov eax, 0x30000",
            "mov cr3, eax",
            "mov ecx, 0xc0000080",
            "rdmsr",
            "or eax, 0x100",
            "wrmsr",
            "mov eax, cr0",
            "or eax, 0x80000001",
            "mov cr0, eax",
            "ljmp 8, 0x6000"
        ),
    );
    guest.memory.write::<u16>(0x5000, 0x17);
    guest.memory.write::<u32>(0x5002, 0x5010);
    guest.memory.write::<u64>(0x5018, 0x00af_9b00_0000_ffff);
    guest.memory.write::<u64>(0x3_0000, 0x3_1003);
    guest.memory.write::<u64>(0x3_1000, 0x3_2003);
    guest.memory.write::<u64>(0x3_2000, 0x83);
    guest.memory.copy(
        0x6000,
        code!(
            64,
            "mov rax, 0x123456789abcdef0",
            "mov r15, rax",
            "mov [0x50000], r15",
            "mov ecx, 0xc0000080",
            "rdmsr",
            "out 0xe1, eax",
            "hlt"
        ),
    );
    assert_eq!(guest.run_to_done(), 0x500);
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u64>(0x5_0000), 0x1234_5678_9abc_def0);
    let sregs = guest.cpu().sregs();
    assert_eq!((sregs.efer, sregs.cs.l), (0x500, 1));
}

fn protected_mode_runs() {
    let guest = Guest::new(
        Mode::Protected,
        code!(
            32,
            "mov eax, 0xdeadbeef",
            "out 0xe1, eax",
            "push eax",
            "pop ebx",
            "hlt"
        ),
    );
    assert_eq!(guest.run_to_done(), 0xdead_beef);
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rbx, 0xdead_beef);
}

fn long_mode_runs() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov r8, 0x1122334455667788",
            "mov rax, r8",
            "shr rax, 32",
            "out 0xe1, eax",
            "mov [0x1f0000], r8",
            "hlt"
        ),
    );
    assert_eq!(guest.run_to_done(), 0x1122_3344);
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u64>(0x1f_0000), 0x1122_3344_5566_7788);
}

fn the_vcpu_moves_between_threads() {
    let mut guest = Guest::new(
        Mode::Long,
        code!(64, "2:", "inc eax", "out 0xe1, eax", "jmp 2b"),
    );
    for round in 1..=10 {
        guest = std::thread::spawn(move || {
            assert_eq!(guest.run_to_done(), round);
            guest
        })
        .join()
        .expect("thread");
    }
}
