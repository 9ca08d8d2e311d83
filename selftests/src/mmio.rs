// SPDX-License-Identifier: GPL-2.0

//! Accesses to memory that is not there: what the instruction emulator is for.

use kvm_bindings::*;

use crate::{
    code,
    group,
    guest::{
        Guest,
        Mode,
        CODE,
        DATA,
        MMIO, //
    },
    kvm::*, //
};

group!("mmio":
    writes_of_every_width,
    reads_of_every_width,
    reads_extend_as_the_instruction_says,
    an_immediate_is_written,
    rip_advances_when_the_access_completes,
    arithmetic_on_memory_reads_and_writes,
    flags_are_those_of_the_operation,
    a_compare_only_reads,
    exchange_reads_and_writes,
    a_bit_test_sets_the_carry,
    stos_writes_one_after_the_other,
    movs_copies_from_and_to_memory,
    lods_and_cmps_read,
    push_and_pop_reach_mmio,
    an_access_that_crosses_pages_is_split,
    an_access_that_leaves_memory_is_split,
    a_16_byte_access_is_split,
    all_addressing_forms_work,
    accesses_in_real_mode,
    accesses_in_protected_mode,
    an_access_that_faults_is_injected,
    code_cannot_be_fetched_from_mmio,
    an_instruction_that_cannot_be_emulated_is_an_internal_error,
);

fn writes_of_every_width() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "mov rax, 0x1122334455667788",
            "mov [rbx], al",
            "mov [rbx + 2], ax",
            "mov [rbx + 4], eax",
            "mov [rbx + 8], rax",
            "mov [rbx + 16], ah",
            "hlt"
        ),
    );
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 1, 0x88));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 2, 2, 0x7788));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 4, 4, 0x5566_7788));
    assert_eq!(
        guest.run(),
        Exit::MmioWrite(MMIO + 8, 8, 0x1122_3344_5566_7788)
    );
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 16, 1, 0x77));
    guest.run_to_hlt();
}

/// Runs to a read of `len` bytes at `address` and answers it.
fn answer(guest: &Guest, address: u64, len: u32, value: u64) {
    assert_eq!(guest.run(), Exit::MmioRead(address, len));
    guest.cpu().set_mmio(value);
}

fn reads_of_every_width() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "mov rax, -1",
            "mov rcx, -1",
            "mov rdx, -1",
            "mov al, [rbx]",
            "mov cx, [rbx]",
            "mov edx, [rbx]",
            "mov rsi, [rbx]",
            "hlt"
        ),
    );
    for len in [1, 2, 4, 8] {
        answer(&guest, MMIO, len, 0x0102_0304_0506_0708);
    }
    guest.run_to_hlt();
    let regs = guest.cpu().regs();
    assert_eq!(regs.rax, 0xffff_ffff_ffff_ff08);
    assert_eq!(regs.rcx, 0xffff_ffff_ffff_0708);
    assert_eq!(regs.rdx, 0x0506_0708);
    assert_eq!(regs.rsi, 0x0102_0304_0506_0708);
}

fn reads_extend_as_the_instruction_says() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "movzx eax, byte ptr [rbx]",
            "movsx rcx, byte ptr [rbx]",
            "movzx edx, word ptr [rbx]",
            "movsx rsi, word ptr [rbx]",
            "movsxd rdi, dword ptr [rbx]",
            "hlt"
        ),
    );
    for len in [1, 1, 2, 2, 4] {
        answer(&guest, MMIO, len, 0x8000_8080);
    }
    guest.run_to_hlt();
    let regs = guest.cpu().regs();
    assert_eq!((regs.rax, regs.rcx), (0x80, 0xffff_ffff_ffff_ff80));
    assert_eq!((regs.rdx, regs.rsi), (0x8080, 0xffff_ffff_ffff_8080));
    assert_eq!(regs.rdi, 0xffff_ffff_8000_8080);
}

fn an_immediate_is_written() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "mov byte ptr [rbx], 0x12",
            "mov word ptr [rbx], 0x3456",
            "mov dword ptr [rbx], 0x789abcde",
            "mov qword ptr [rbx], -2",
            "hlt"
        ),
    );
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 1, 0x12));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 2, 0x3456));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 4, 0x789a_bcde));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 8, u64::MAX - 1));
    guest.run_to_hlt();
}

fn rip_advances_when_the_access_completes() {
    let guest = Guest::new(Mode::Long, code!(64, "mov eax, [0x10000000]", "hlt"));
    answer(&guest, MMIO, 4, 77);
    guest.cpu().shared().immediate_exit = 1;
    assert_eq!(guest.cpu().try_run(), Err(libc::EINTR));
    let regs = guest.cpu().regs();
    assert_eq!((regs.rip, regs.rax), (CODE + 7, 77));
    guest.cpu().shared().immediate_exit = 0;
    guest.run_to_hlt();
}

fn arithmetic_on_memory_reads_and_writes() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "mov eax, 0x0f",
            "add [rbx], eax",
            "or dword ptr [rbx], 0x100",
            "and [rbx], al",
            "xor word ptr [rbx], -1",
            "sub dword ptr [rbx], 1",
            "inc dword ptr [rbx]",
            "not byte ptr [rbx]",
            "add eax, [rbx]",
            "hlt"
        ),
    );
    let steps = [
        (4, 1, 0x10),
        (4, 0x20, 0x120),
        (1, 0x3c, 0x0c),
        (2, 0x00ff, 0xff00),
        (4, 0, 0xffff_ffff),
        (4, 9, 10),
        (1, 0x55, 0xaa),
    ];
    for (len, read, written) in steps {
        answer(&guest, MMIO, len, read);
        assert_eq!(guest.run(), Exit::MmioWrite(MMIO, len, written));
    }
    answer(&guest, MMIO, 4, 100);
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rax, 115);
}

/// The arithmetic flags: OF, SF, ZF, AF, PF, CF.
const FLAGS: u64 = 0x8d5;

fn flags_are_those_of_the_operation() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov eax, 1",
            "add eax, [0x10000000]",
            "pushfq",
            "pop rcx",
            "mov eax, 5",
            "sub al, [0x10000000]",
            "pushfq",
            "pop rdx",
            "hlt"
        ),
    );
    answer(&guest, MMIO, 4, 0x7fff_ffff);
    answer(&guest, MMIO, 1, 5);
    guest.run_to_hlt();
    let regs = guest.cpu().regs();
    assert_eq!(regs.rcx & FLAGS, 0x894); // OF, SF, AF, PF.
    assert_eq!(regs.rdx & FLAGS, 0x44); // ZF, PF.
}

fn a_compare_only_reads() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "mov eax, 7",
            "cmp [rbx], eax",
            "setz cl",
            "test dword ptr [rbx], 8",
            "setz dl",
            "cmp byte ptr [rbx], 9",
            "setb al",
            "hlt"
        ),
    );
    answer(&guest, MMIO, 4, 7);
    answer(&guest, MMIO, 4, 7);
    answer(&guest, MMIO, 1, 7);
    guest.run_to_hlt();
    let regs = guest.cpu().regs();
    assert_eq!(
        (regs.rcx & 0xff, regs.rdx & 0xff, regs.rax & 0xff),
        (1, 1, 1)
    );
}

fn exchange_reads_and_writes() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "mov eax, 5",
            "xchg [rbx], eax",
            "mov ecx, 6",
            "lock add dword ptr [rbx], 1",
            "hlt"
        ),
    );
    answer(&guest, MMIO, 4, 0x99);
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 4, 5));
    answer(&guest, MMIO, 4, 1);
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 4, 2));
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rax, 0x99);
}

fn a_bit_test_sets_the_carry() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "bt dword ptr [rbx], 4",
            "setc al",
            "bts dword ptr [rbx], 0",
            "setc cl",
            "hlt"
        ),
    );
    answer(&guest, MMIO, 4, 0x10);
    answer(&guest, MMIO, 4, 0x10);
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 4, 0x11));
    guest.run_to_hlt();
    let regs = guest.cpu().regs();
    assert_eq!((regs.rax & 0xff, regs.rcx & 0xff), (1, 0));
}

fn stos_writes_one_after_the_other() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov edi, 0x10000000",
            "mov eax, 0x12345678",
            "mov ecx, 3",
            "rep stosd",
            "stosb",
            "hlt"
        ),
    );
    for i in 0..3 {
        assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 4 * i, 4, 0x1234_5678));
    }
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 12, 1, 0x78));
    guest.run_to_hlt();
    let regs = guest.cpu().regs();
    assert_eq!((regs.rcx, regs.rdi), (0, MMIO + 13));
}

fn movs_copies_from_and_to_memory() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov esi, 0x10000000",
            "mov edi, 0x20000",
            "mov ecx, 4",
            "rep movsw",
            "mov esi, 0x20000",
            "mov edi, 0x10000100",
            "mov ecx, 2",
            "rep movsd",
            "hlt"
        ),
    );
    for i in 0..4 {
        answer(&guest, MMIO + 2 * i, 2, 0x1111 * (i + 1));
    }
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 0x100, 4, 0x2222_1111));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 0x104, 4, 0x4444_3333));
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u64>(DATA), 0x4444_3333_2222_1111);
}

fn lods_and_cmps_read() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov esi, 0x10000000",
            "lodsd",
            "mov ebx, eax",
            "mov edi, 0x20000",
            "mov ecx, 5",
            "repe cmpsb",
            "hlt"
        ),
    );
    guest.memory.copy(DATA, b"abc");
    answer(&guest, MMIO, 4, 0x8765_4321);
    for (i, byte) in (4..).zip(b"abx") {
        answer(&guest, MMIO + i, 1, u64::from(*byte));
    }
    guest.run_to_hlt();
    let regs = guest.cpu().regs();
    assert_eq!((regs.rbx, regs.rcx), (0x8765_4321, 2));
    assert_eq!(
        (regs.rsi, regs.rdi, regs.rflags & 0x40),
        (MMIO + 7, DATA + 3, 0)
    );
}

fn push_and_pop_reach_mmio() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "push qword ptr [0x10000000]",
            "pop rax",
            "push 0x1234",
            "pop qword ptr [0x10000008]",
            "hlt"
        ),
    );
    answer(&guest, MMIO, 8, 0xfeed);
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 8, 8, 0x1234));
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rax, 0xfeed);
}

fn an_access_that_crosses_pages_is_split() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000ffe",
            "mov eax, 0x44332211",
            "mov [rbx], eax",
            "mov ecx, [rbx]",
            "hlt"
        ),
    );
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 0xffe, 2, 0x2211));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 0x1000, 2, 0x4433));
    answer(&guest, MMIO + 0xffe, 2, 0xbbaa);
    answer(&guest, MMIO + 0x1000, 2, 0xddcc);
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rcx, 0xddcc_bbaa);
}

fn an_access_that_leaves_memory_is_split() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov rax, 0x8877665544332211",
            "mov ebx, 0x1ffffc",
            "mov [rbx], rax",
            "mov rcx, [rbx]",
            "hlt"
        ),
    );
    assert_eq!(guest.run(), Exit::MmioWrite(0x20_0000, 4, 0x8877_6655));
    answer(&guest, 0x20_0000, 4, 0xaabb_ccdd);
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u32>(0x1f_fffc), 0x4433_2211);
    assert_eq!(guest.cpu().regs().rcx, 0xaabb_ccdd_4433_2211);
}

fn a_16_byte_access_is_split() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "movdqu xmm0, [0x20000]",
            "movdqu [rbx], xmm0",
            "movdqu xmm1, [rbx + 16]",
            "movdqu [0x20010], xmm1",
            "hlt"
        ),
    );
    guest.memory.write::<[u64; 2]>(DATA, [0x1111, 0x2222]);
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 8, 0x1111));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 8, 8, 0x2222));
    answer(&guest, MMIO + 16, 8, 0x3333);
    answer(&guest, MMIO + 24, 8, 0x4444);
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<[u64; 2]>(DATA + 16), [0x3333, 0x4444]);
}

fn all_addressing_forms_work() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov r12d, 0x10000000",
            "mov r13d, 0x10000000",
            "mov esi, 0x40",
            "mov eax, 1",
            "mov [r12], eax",
            "mov [r13 + 8], eax",
            "mov [r12 + rsi * 4 + 0x1000], eax",
            "mov [rsi * 8 + 0x10000000], eax",
            "mov [r12d - 4 + 8], eax",
            "mov rbp, r12",
            "mov [rbp + rsi], r13w",
            "mov rsp, r12",
            "mov [rsp + 0x20], eax",
            "mov rax, 0x5a",
            ".byte 0xa2",
            ".quad 0x10000030",
            "lea rdx, [rip + 0x8000000]",
            "lea rcx, [rip]",
            "hlt"
        ),
    );
    let addresses = [0, 8, 0x1100, 0x200, 4];
    for offset in addresses {
        assert_eq!(guest.run(), Exit::MmioWrite(MMIO + offset, 4, 1));
    }
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 0x40, 2, 0));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 0x20, 4, 1));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 0x30, 1, 0x5a));
    guest.run_to_hlt();
}

fn accesses_in_real_mode() {
    let guest = Guest::new(
        Mode::Real,
        code!(
            16,
            "mov ax, 0x2000",
            "mov es, ax",
            "mov di, 0x10",
            "mov ax, 0xabcd",
            "mov es:[di], ax",
            "mov bx, 0x8",
            "mov al, es:[bx + di]",
            "hlt"
        ),
    );
    // Memory ends below the segment for this one.
    assert_eq!(guest.vm.set_slot(0, 0, 0, 0, 0), Ok(0));
    let set = guest.vm.set_slot(0, 0, 0, 0x1_0000, guest.memory.hva());
    assert_eq!(set, Ok(0));
    assert_eq!(guest.run(), Exit::MmioWrite(DATA + 0x10, 2, 0xabcd));
    answer(&guest, DATA + 0x18, 1, 0x42);
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rax & 0xffff, 0xab42);
}

fn accesses_in_protected_mode() {
    let guest = Guest::new(
        Mode::Protected,
        code!(
            32,
            "mov esi, 0x10000000",
            "mov ecx, 2",
            "mov dword ptr [esi + ecx * 8], 0x1234",
            "mov ax, [esi]",
            "mov edi, 0xfffffff0",
            "mov [esi + edi + 0x20], al",
            "hlt"
        ),
    );
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 0x10, 4, 0x1234));
    answer(&guest, MMIO, 2, 0x55aa);
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 0x10, 1, 0xaa));
    guest.run_to_hlt();
}

fn an_access_that_faults_is_injected() {
    // The source is MMIO; the destination is not mapped by the guest itself.
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov esi, 0x10000000",
            "mov rdi, 0x8000000000",
            "movsd",
            "hlt"
        ),
    );
    // Whether the device is read before the fault is the hypervisor's choice.
    let first = guest.run();
    if first == Exit::MmioRead(MMIO, 4) {
        guest.cpu().set_mmio(7);
        guest.run_to_exception(14);
    } else {
        assert_eq!(first, Exit::Out(0xe0, 4, 1, 14));
    }
    assert_eq!(guest.cpu().sregs().cr2, 0x80_0000_0000);
    // On the stack: the error code (a write), and the address of MOVS.
    let frame = guest.cpu().regs().rsp;
    assert_eq!(guest.memory.read::<u64>(frame), 2);
    assert_eq!(guest.memory.read::<u64>(frame + 8), CODE + 15);
}

fn code_cannot_be_fetched_from_mmio() {
    let guest = Guest::new(Mode::Long, code!(64, "mov eax, 0x10000000", "jmp rax"));
    let Exit::InternalError(suberror, _) = guest.run() else {
        panic!("not an internal error");
    };
    assert_eq!(suberror, KVM_INTERNAL_ERROR_EMULATION);
}

fn an_instruction_that_cannot_be_emulated_is_an_internal_error() {
    // FXSAVE-like forms of x87 state are beyond every emulator here.
    let guest = Guest::new(Mode::Long, code!(64, "fnsave [0x10000000]", "hlt"));
    let Exit::InternalError(suberror, ndata) = guest.run() else {
        panic!("not an internal error");
    };
    assert_eq!(suberror, KVM_INTERNAL_ERROR_EMULATION);
    // Flags say that the bytes of the instruction follow: ndata counts them in.
    assert!(ndata >= 4, "{ndata} words");
    let words = guest.cpu().internal_data();
    assert_eq!(words[0] & 1, 1, "no instruction bytes");
    let count = words[1] & 0xff;
    assert!((7..=15).contains(&count), "{count} bytes");
    let bytes: Vec<u8> = words[1..4]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    assert_eq!(bytes[1..8], [0xdd, 0x34, 0x25, 0, 0, 0, 0x10]);
    assert_eq!(guest.cpu().regs().rip, CODE);
}
