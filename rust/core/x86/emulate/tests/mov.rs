// SPDX-License-Identifier: GPL-2.0

use super::machine::Machine;
use crate::outcome::Exception;
use crate::x86::emulate::*;

const NEXT: Result<Done, Stop> = Ok(Done::Retired(Shadow::None));

#[test]
fn mov_dword_to_register_clears_the_high_half() {
    // mov eax, [rbx]
    let mut m = Machine::long(&[0x8b, 0x03])
        .with(RAX, u64::MAX)
        .with(RBX, 0x3000);
    m.poke(0x3000, &[1, 2, 3, 4]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RAX), m.state.rip), (0x0403_0201, 0x1002));
}

#[test]
fn mov_byte_to_high_register_keeps_the_rest() {
    // mov ah, [rbx]
    let mut m = Machine::long(&[0x8a, 0x23])
        .with(RAX, u64::MAX)
        .with(RBX, 0x3000);
    m.poke(0x3000, &[0x12]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0xffff_ffff_ffff_12ff);
}

#[test]
fn mov_writes_every_width_once() {
    for (code, len) in [
        (&[0x88, 0x03][..], 1),
        (&[0x66, 0x89, 0x03], 2),
        (&[0x89, 0x03], 4),
        (&[0x48, 0x89, 0x03], 8),
    ] {
        let mut m = Machine::long(code)
            .with(RAX, 0x1122_3344_5566_7788)
            .with(RBX, 0x3000);
        assert_eq!(m.run(), NEXT);
        assert_eq!(m.accesses, [("write", 0x3000, len)]);
        let mask = u64::MAX >> (64 - 8 * len);
        assert_eq!(m.peek(0x3000, len), 0x1122_3344_5566_7788 & mask);
    }
}

#[test]
fn mov_immediate_is_sign_extended_to_a_quadword() {
    // mov qword [rbx], -2
    let mut m = Machine::long(&[0x48, 0xc7, 0x03, 0xfe, 0xff, 0xff, 0xff]).with(RBX, 0x3000);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x3000, 8), u64::MAX - 1);
}

#[test]
fn mov_moffs_takes_an_offset_of_the_address_size() {
    // mov rax, [0x1122334455667788]; it is not canonical
    let mut m = Machine::long(&[0x48, 0xa1, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    assert_eq!(m.run(), Err(Stop::Fault(Exception::GP0)));
    // mov [0x3000], al
    let mut m = Machine::real(&[0xa2, 0x00, 0x30]).with(RAX, 0x5a);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x3000, 1), 0x5a);
}

#[test]
fn extending_moves_extend_from_their_source() {
    for (code, expected) in [
        (&[0x0f, 0xb6, 0x03][..], 0x85),                    // movzx eax, byte
        (&[0x0f, 0xb7, 0x03], 0x9685),                      // movzx eax, word
        (&[0x0f, 0xbe, 0x03], 0xffff_ff85),                 // movsx eax, byte
        (&[0x48, 0x0f, 0xbf, 0x03], 0xffff_ffff_ffff_9685), // movsx rax, word
        (&[0x48, 0x63, 0x03], 0xffff_ffff_87a7_9685),       // movsxd rax, dword
        (&[0x66, 0x0f, 0xbe, 0x03], 0xff85),                // movsx ax, byte
        (&[0x0f, 0x38, 0xf0, 0x03], 0x8596_a787),           // movbe eax, [rbx]
    ] {
        let mut m = Machine::long(code).with(RBX, 0x3000);
        m.poke(0x3000, &[0x85, 0x96, 0xa7, 0x87]);
        assert_eq!(m.run(), NEXT);
        assert_eq!(m.gpr(RAX), expected, "{code:02x?}");
    }
}

#[test]
fn rip_relative_addresses_count_from_the_next_instruction() {
    // mov dword [rip+0x10], 7
    let mut m = Machine::long(&[0xc7, 0x05, 0x10, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x101a, 4), 7);
}

#[test]
fn addresses_wrap_at_the_address_size() {
    // mov al, [bx+si] in 16 bits
    let mut m = Machine::real(&[0x8a, 0x00])
        .with(RBX, 0xf000)
        .with(RSI, 0x2000);
    m.poke(0x1000, &[0x77]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0x77);
    // mov al, [eax*2] with 67 in 64 bits
    let mut m = Machine::long(&[0x67, 0x8a, 0x04, 0x45, 0, 0, 0, 0]).with(RAX, 0x8000_0800);
    m.poke(0x1000, &[0x67]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX) & 0xff, 0x67);
}

#[test]
fn lea_cuts_the_address_to_both_sizes() {
    // lea ax, [rbx+rcx*8-1]
    let mut m = Machine::long(&[0x66, 0x8d, 0x44, 0xcb, 0xff])
        .with(RAX, u64::MAX)
        .with(RBX, 0x1_0000)
        .with(RCX, 0x2000);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0xffff_ffff_ffff_ffff);
    assert!(m.accesses.is_empty());
}

#[test]
fn cmov_reads_memory_even_if_not_taken() {
    // cmovz eax, [rbx]
    let mut m = Machine::long(&[0x0f, 0x44, 0x03])
        .with(RAX, u64::MAX)
        .with(RBX, 0x3000);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0xffff_ffff);
    assert_eq!(m.accesses, [("read", 0x3000, 4)]);
}

#[test]
fn conditions_follow_the_flags() {
    // setcc al, for ZF | SF
    let taken = [
        false, true, false, true, true, false, true, false, true, false, false, true, true, false,
        true, false,
    ];
    for (code, taken) in (0_u8..).zip(taken) {
        let mut m = Machine::long(&[0x0f, 0x90 | code, 0xc0]);
        m.state.rflags |= 0xc0;
        assert_eq!(m.run(), NEXT);
        assert_eq!(m.gpr(RAX), taken.into(), "condition {code}");
    }
}

#[test]
fn xchg_with_memory_is_atomic_without_lock() {
    // xchg [rbx], ecx
    let mut m = Machine::long(&[0x87, 0x0b]).with(RBX, 0x3000).with(RCX, 5);
    m.poke(0x3000, &[9, 0, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RCX), m.peek(0x3000, 4)), (9, 5));
    assert_eq!(m.accesses, [("modify", 0x3000, 4), ("swap", 0x3000, 4)]);
}

#[test]
fn nop_does_not_clear_the_high_half_of_rax() {
    let mut m = Machine::long(&[0x90]).with(RAX, u64::MAX);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), u64::MAX);
    // xchg eax, eax in its long form does
    let mut m = Machine::long(&[0x87, 0xc0]).with(RAX, u64::MAX);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0xffff_ffff);
}

#[test]
fn cmpxchg_writes_back_what_differs() {
    // lock cmpxchg [rbx], ecx
    let code = &[0xf0, 0x0f, 0xb1, 0x0b];
    let mut m = Machine::long(code)
        .with(RBX, 0x3000)
        .with(RCX, 5)
        .with(RAX, 9);
    m.poke(0x3000, &[9, 0, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        (m.gpr(RAX), m.peek(0x3000, 4), m.state.rflags & 0x40),
        (9, 5, 0x40)
    );
    let mut m = Machine::long(code)
        .with(RBX, 0x3000)
        .with(RCX, 5)
        .with(RAX, 8);
    m.poke(0x3000, &[9, 0, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        (m.gpr(RAX), m.peek(0x3000, 4), m.state.rflags & 0x40),
        (9, 9, 0)
    );
    assert_eq!(m.accesses.last(), Some(&("swap", 0x3000, 4)));
}

#[test]
fn locked_instruction_that_loses_the_race_runs_again() {
    // lock xadd [rbx], ecx
    let mut m = Machine::long(&[0xf0, 0x0f, 0xc1, 0x0b])
        .with(RBX, 0x3000)
        .with(RCX, 5);
    m.poke(0x3000, &[9, 0, 0, 0]);
    m.race = true;
    assert_eq!(m.step(), Ok(Done::Again));
    assert_eq!((m.gpr(RCX), m.state.rip), (5, 0x1000));
    assert_eq!(m.step(), NEXT);
    assert_eq!((m.gpr(RCX), m.peek(0x3000, 4)), (9, 14));
}

#[test]
fn cmpxchg16b_needs_alignment() {
    // cmpxchg16b [rbx]
    let code = &[0x48, 0x0f, 0xc7, 0x0b];
    let mut m = Machine::long(code).with(RBX, 0x3008);
    assert_eq!(m.run(), Err(Stop::Fault(Exception::GP0)));
    let mut m = Machine::long(code)
        .with(RBX, 0x3000)
        .with(RCX, 7)
        .with(RAX, 1)
        .with(RDX, 2);
    m.poke(0x3000, &[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.peek(0x3000, 8), m.peek(0x3008, 8)), (0x3000, 7));
    assert_eq!(m.state.rflags & 0x40, 0x40);
}

#[test]
fn cmpxchg8b_loads_the_pair_that_differs() {
    // cmpxchg8b [rbx]
    let mut m = Machine::long(&[0x0f, 0xc7, 0x0b])
        .with(RBX, 0x3000)
        .with(RAX, u64::MAX);
    m.poke(0x3000, &[1, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RAX), m.gpr(RDX), m.state.rflags & 0x40), (1, 2, 0));
}

#[test]
fn vector_moves_go_both_ways() {
    let image: Vec<u8> = (1..=16).collect();
    // movdqu xmm1, [rbx]
    let mut m = Machine::long(&[0xf3, 0x0f, 0x6f, 0x0b]).with(RBX, 0x3001);
    m.poke(0x3001, &image);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.xmm[1], image[..]);
    // movntdq [rbx], xmm1
    let mut m = Machine::long(&[0x66, 0x0f, 0xe7, 0x0b]).with(RBX, 0x3000);
    m.state.xmm[1].copy_from_slice(&image);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.accesses, [("write", 0x3000, 16)]);
    assert_eq!(m.peek(0x3008, 8), 0x100f_0e0d_0c0b_0a09);
    // movhps [rbx], xmm1
    let mut m = Machine::long(&[0x0f, 0x17, 0x0b]).with(RBX, 0x3000);
    m.state.xmm[1].copy_from_slice(&image);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x3000, 8), 0x100f_0e0d_0c0b_0a09);
    // movss xmm1, xmm2 keeps the rest; movq xmm1, xmm2 clears it
    let mut m = Machine::long(&[0xf3, 0x0f, 0x10, 0xca]);
    m.state.xmm[1] = [0xff; 16];
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.xmm[1][..5], [0, 0, 0, 0, 0xff]);
    let mut m = Machine::long(&[0xf3, 0x0f, 0x7e, 0xca]);
    m.state.xmm[1] = [0xff; 16];
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.xmm[1], [0; 16]);
    // movd r9, xmm1
    let mut m = Machine::long(&[0x66, 0x49, 0x0f, 0x7e, 0xc9]);
    m.state.xmm[1].copy_from_slice(&image);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(9), 0x0807_0605_0403_0201);
}

#[test]
fn aligned_vector_moves_fault_on_unaligned_memory() {
    // movaps xmm1, [rbx]
    let mut m = Machine::long(&[0x0f, 0x28, 0x0b]).with(RBX, 0x3008);
    assert_eq!(m.run(), Err(Stop::Fault(Exception::GP0)));
    assert!(m.accesses.is_empty());
}

#[test]
fn vector_moves_obey_the_control_registers() {
    let code = &[0x0f, 0x10, 0x0b];
    let mut m = Machine::long(code);
    m.state.cr0 |= 8;
    assert_eq!(m.run(), Err(Stop::Fault(Exception::NM)));
    m.state.cr0 |= 4;
    assert_eq!(m.run(), Err(Stop::Fault(Exception::UD)));
    let mut m = Machine::long(code);
    m.cr4 = 0;
    assert_eq!(m.run(), Err(Stop::Fault(Exception::UD)));
}
