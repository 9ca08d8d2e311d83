// SPDX-License-Identifier: GPL-2.0

//! I/O instructions: every width, in and out, string forms, completion.

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

group!("pio":
    out_of_every_width,
    in_of_every_width,
    in_keeps_the_rest_of_rax,
    the_port_may_be_in_dx,
    rip_advances_when_the_access_completes,
    a_32_bit_in_clears_the_upper_half,
    an_answer_that_is_not_given_reads_as_zero,
    outs_of_every_width,
    ins_of_every_width,
    rep_outs_sends_all_in_order,
    rep_ins_stores_all_in_order,
    rep_with_zero_does_nothing,
    rep_with_the_direction_flag_goes_down,
    rep_crosses_pages,
    rep_ins_in_real_mode,
    outs_takes_a_segment_prefix,
    ins_to_memory_that_is_not_there,
    registers_can_be_read_in_the_middle,
);

const PORT: u16 = 0x1234;

fn out_of_every_width() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov eax, 0x87654321",
            "out 0x80, al",
            "out 0x80, ax",
            "out 0x80, eax",
            "mov dx, 0x1234",
            "out dx, al",
            "out dx, ax",
            "out dx, eax",
            "hlt"
        ),
    );
    for port in [0x80, PORT] {
        assert_eq!(guest.run(), Exit::Out(port, 1, 1, 0x21));
        assert_eq!(guest.run(), Exit::Out(port, 2, 1, 0x4321));
        assert_eq!(guest.run(), Exit::Out(port, 4, 1, 0x8765_4321));
    }
    guest.run_to_hlt();
}

fn in_of_every_width() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov dx, 0x1234",
            "in al, dx",
            "mov [0x20000], al",
            "in ax, dx",
            "mov [0x20002], ax",
            "in eax, dx",
            "mov [0x20004], eax",
            "hlt"
        ),
    );
    for (size, bytes) in [(1u8, &[0x11u8][..]), (2, &[0x22, 0x33]), (4, &[1, 2, 3, 4])] {
        assert_eq!(guest.run(), Exit::In(PORT, size, 1));
        guest.cpu().set_io_bytes(bytes);
    }
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u8>(DATA), 0x11);
    assert_eq!(guest.memory.read::<u16>(DATA + 2), 0x3322);
    assert_eq!(guest.memory.read::<u32>(DATA + 4), 0x0403_0201);
}

fn in_keeps_the_rest_of_rax() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov rax, 0x1122334455667788",
            "in al, 0x80",
            "mov rbx, rax",
            "in ax, 0x80",
            "hlt"
        ),
    );
    assert_eq!(guest.run(), Exit::In(0x80, 1, 1));
    guest.cpu().set_io_bytes(&[0xaa]);
    assert_eq!(guest.run(), Exit::In(0x80, 2, 1));
    guest.cpu().set_io_bytes(&[0xbb, 0xcc]);
    guest.run_to_hlt();
    let regs = guest.cpu().regs();
    assert_eq!(regs.rbx, 0x1122_3344_5566_77aa);
    assert_eq!(regs.rax, 0x1122_3344_5566_ccbb);
}

fn the_port_may_be_in_dx() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov rdx, 0xffffffffffff0010", "in al, dx", "hlt"),
    );
    assert_eq!(guest.run(), Exit::In(0x10, 1, 1));
}

fn rip_advances_when_the_access_completes() {
    let guest = Guest::new(Mode::Long, code!(64, "in al, 0x80", "hlt"));
    assert_eq!(guest.run(), Exit::In(0x80, 1, 1));
    // "RUN with immediate_exit" completes the access and does nothing else.
    guest.cpu().set_io_bytes(&[0x77]);
    guest.cpu().shared().immediate_exit = 1;
    assert_eq!(guest.cpu().try_run(), Err(libc::EINTR));
    let regs = guest.cpu().regs();
    assert_eq!((regs.rip, regs.rax), (CODE + 2, 0x77));
    guest.cpu().shared().immediate_exit = 0;
    guest.run_to_hlt();
}

fn a_32_bit_in_clears_the_upper_half() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov rax, 0x1122334455667788", "in eax, 0x80", "hlt"),
    );
    assert_eq!(guest.run(), Exit::In(0x80, 4, 1));
    guest.cpu().set_io_bytes(&[1, 0, 0, 0]);
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rax, 1);
}

fn an_answer_that_is_not_given_reads_as_zero() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov eax, 0xffffffff",
            "out 0x80, eax",
            "in eax, 0x81",
            "hlt"
        ),
    );
    assert_eq!(guest.run(), Exit::Out(0x80, 4, 1, u32::MAX));
    assert_eq!(guest.run(), Exit::In(0x81, 4, 1));
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rax, 0);
}

fn outs_of_every_width() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov esi, 0x20000",
            "mov dx, 0x1234",
            "outsb",
            "outsw",
            "outsd",
            "hlt"
        ),
    );
    guest.memory.copy(DATA, &[1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(guest.run(), Exit::Out(PORT, 1, 1, 1));
    assert_eq!(guest.run(), Exit::Out(PORT, 2, 1, 0x0302));
    assert_eq!(guest.run(), Exit::Out(PORT, 4, 1, 0x0706_0504));
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rsi, DATA + 7);
}

fn ins_of_every_width() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov edi, 0x20000",
            "mov dx, 0x1234",
            "insb",
            "insw",
            "insd",
            "hlt"
        ),
    );
    for (size, bytes) in [(1u8, &[1u8][..]), (2, &[2, 3]), (4, &[4, 5, 6, 7])] {
        assert_eq!(guest.run(), Exit::In(PORT, size, 1));
        guest.cpu().set_io_bytes(bytes);
    }
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<[u8; 7]>(DATA), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(guest.cpu().regs().rdi, DATA + 7);
}

/// Takes what a guest writes to [`PORT`], in as many exits as KVM likes.
fn collect(guest: &Guest, size: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match guest.run() {
            Exit::Out(PORT, width, _, _) if width == size => bytes.extend(guest.cpu().io_bytes()),
            Exit::Hlt => return bytes,
            exit => panic!("{exit:x?}"),
        }
    }
}

/// Feeds a guest that reads from [`PORT`], in as many exits as KVM likes.
fn feed(guest: &Guest, size: u8, bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        match guest.run() {
            Exit::In(PORT, width, count) if width == size => {
                let length = usize::from(width) * count as usize;
                assert!(length <= rest.len(), "more was asked for than the count");
                let (now, later) = rest.split_at(length);
                guest.cpu().set_io_bytes(now);
                rest = later;
            }
            Exit::Hlt => return assert!(rest.is_empty()),
            exit => panic!("{exit:x?}"),
        }
    }
}

/// Bytes that differ from their neighbours.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 7 + i / 256) as u8).collect()
}

fn rep_outs_sends_all_in_order() {
    let code = [
        code!(
            64,
            "mov esi, 0x20000",
            "mov dx, 0x1234",
            "mov ecx, 100",
            "rep outsb",
            "hlt"
        ),
        code!(
            64,
            "mov esi, 0x20000",
            "mov dx, 0x1234",
            "mov ecx, 100",
            "rep outsw",
            "hlt"
        ),
        code!(
            64,
            "mov esi, 0x20000",
            "mov dx, 0x1234",
            "mov ecx, 100",
            "rep outsd",
            "hlt"
        ),
    ];
    for (code, size) in code.into_iter().zip([1u8, 2, 4]) {
        let guest = Guest::new(Mode::Long, code);
        let bytes = pattern(100 * usize::from(size));
        guest.memory.copy(DATA, &bytes);
        assert_eq!(collect(&guest, size), bytes);
        let regs = guest.cpu().regs();
        assert_eq!((regs.rcx, regs.rsi), (0, DATA + bytes.len() as u64));
    }
}

fn rep_ins_stores_all_in_order() {
    let code = [
        code!(
            64,
            "mov edi, 0x20000",
            "mov dx, 0x1234",
            "mov ecx, 100",
            "rep insb",
            "hlt"
        ),
        code!(
            64,
            "mov edi, 0x20000",
            "mov dx, 0x1234",
            "mov ecx, 100",
            "rep insw",
            "hlt"
        ),
        code!(
            64,
            "mov edi, 0x20000",
            "mov dx, 0x1234",
            "mov ecx, 100",
            "rep insd",
            "hlt"
        ),
    ];
    for (code, size) in code.into_iter().zip([1u8, 2, 4]) {
        let guest = Guest::new(Mode::Long, code);
        let bytes = pattern(100 * usize::from(size));
        feed(&guest, size, &bytes);
        for (offset, byte) in (0..).zip(&bytes) {
            assert_eq!(guest.memory.read::<u8>(DATA + offset), *byte);
        }
        assert_eq!(guest.memory.read::<u8>(DATA + bytes.len() as u64), 0);
        let regs = guest.cpu().regs();
        assert_eq!((regs.rcx, regs.rdi), (0, DATA + bytes.len() as u64));
    }
}

fn rep_with_zero_does_nothing() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov esi, 0x20000",
            "mov edi, 0x20000",
            "mov dx, 0x1234",
            "xor ecx, ecx",
            "rep outsb",
            "rep insb",
            "hlt"
        ),
    );
    guest.run_to_hlt();
    let regs = guest.cpu().regs();
    assert_eq!((regs.rsi, regs.rdi, regs.rcx), (DATA, DATA, 0));
}

fn rep_with_the_direction_flag_goes_down() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov esi, 0x20003",
            "mov dx, 0x1234",
            "mov ecx, 4",
            "std",
            "rep outsb",
            "hlt"
        ),
    );
    guest.memory.copy(DATA, &[1, 2, 3, 4]);
    assert_eq!(collect(&guest, 1), [4, 3, 2, 1]);
    assert_eq!(guest.cpu().regs().rsi, DATA - 1);
}

fn rep_crosses_pages() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov esi, 0x20ffa",
            "mov dx, 0x1234",
            "mov ecx, 1500",
            "rep outsd",
            "mov edi, 0x28ffa",
            "mov ecx, 1500",
            "rep insd",
            "hlt"
        ),
    );
    let bytes = pattern(6000);
    guest.memory.copy(0x2_0ffa, &bytes);
    let mut sent = Vec::new();
    let mut rest = &bytes[..];
    loop {
        match guest.run() {
            Exit::Out(PORT, 4, _, _) => sent.extend(guest.cpu().io_bytes()),
            Exit::In(PORT, 4, count) => {
                let (now, later) = rest.split_at(4 * count as usize);
                guest.cpu().set_io_bytes(now);
                rest = later;
            }
            Exit::Hlt => break,
            exit => panic!("{exit:x?}"),
        }
    }
    assert_eq!(sent, bytes);
    for (offset, byte) in (0..).zip(&bytes) {
        assert_eq!(guest.memory.read::<u8>(0x2_8ffa + offset), *byte);
    }
}

fn rep_ins_in_real_mode() {
    let guest = Guest::new(
        Mode::Real,
        code!(
            16,
            "mov ax, 0x2000",
            "mov es, ax",
            "mov di, 0xfff0",
            "mov dx, 0x1234",
            "mov cx, 8",
            "rep insw",
            "hlt"
        ),
    );
    let bytes = pattern(16);
    feed(&guest, 2, &bytes);
    assert_eq!(guest.memory.read::<[u8; 16]>(DATA + 0xfff0)[..], bytes);
    // 16-bit DI wraps.
    assert_eq!(guest.cpu().regs().rdi, 0);
}

fn outs_takes_a_segment_prefix() {
    let guest = Guest::new(
        Mode::Real,
        code!(
            16,
            "mov ax, 0x2000",
            "mov fs, ax",
            "xor si, si",
            "mov dx, 0x1234",
            ".byte 0x64",
            "outsb",
            "hlt"
        ),
    );
    guest.memory.write::<u8>(DATA, 0x5a);
    assert_eq!(guest.run(), Exit::Out(PORT, 1, 1, 0x5a));
    guest.run_to_hlt();
}

fn ins_to_memory_that_is_not_there() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov edi, 0x10000000", "mov dx, 0x1234", "insb", "hlt"),
    );
    assert_eq!(guest.run(), Exit::In(PORT, 1, 1));
    guest.cpu().set_io_bytes(&[0x44]);
    assert_eq!(guest.run(), Exit::MmioWrite(0x1000_0000, 1, 0x44));
    guest.run_to_hlt();
}

fn registers_can_be_read_in_the_middle() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov ebx, 5", "out 0x80, al", "inc ebx", "hlt"),
    );
    assert_eq!(guest.run(), Exit::Out(0x80, 1, 1, 0));
    let mut regs = guest.cpu().regs();
    assert_eq!(regs.rbx, 5);
    regs.rbx = 10;
    guest.cpu().set_regs(&regs);
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rbx, 11);
}
