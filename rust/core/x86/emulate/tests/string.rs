// SPDX-License-Identifier: GPL-2.0

use super::machine::{
    Machine,
    Mood, //
};
use crate::outcome::Exception;
use crate::x86::emulate::*;

const NEXT: Result<Done, Stop> = Ok(Done::Retired(Shadow::None));

#[test]
fn rep_movs_copies_and_leaves_registers_at_the_end() {
    // rep movsd
    let mut m = Machine::long(&[0xf3, 0xa5])
        .with(RCX, 3)
        .with(RSI, 0x3000)
        .with(RDI, 0x4000);
    m.poke(0x3000, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RCX), m.gpr(RSI), m.gpr(RDI)), (0, 0x300c, 0x400c));
    assert_eq!(m.peek(0x4004, 8), 0x0c0b_0a09_0807_0605);
    assert_eq!(m.state.rip, 0x1002);
}

#[test]
fn rep_with_a_count_of_zero_does_nothing() {
    let mut m = Machine::long(&[0xf3, 0xa4]).with(RSI, 0x3000);
    assert_eq!(m.run(), NEXT);
    assert!(m.accesses.is_empty());
    assert_eq!((m.gpr(RSI), m.state.rip), (0x3000, 0x1002));
}

#[test]
fn long_repetitions_come_back_between_batches() {
    // rep stosb
    let mut m = Machine::long(&[0xf3, 0xaa])
        .with(RCX, 1000)
        .with(RDI, 0x3000)
        .with(RAX, 0x5a);
    assert_eq!(m.step(), Ok(Done::Again));
    let left = m.gpr(RCX);
    assert!(left > 0 && left < 1000);
    assert_eq!((m.gpr(RDI), m.state.rip), (0x3000 + 1000 - left, 0x1000));
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RCX), m.peek(0x33e7, 1)), (0, 0x5a));
}

#[test]
fn fault_in_a_repetition_keeps_the_iterations_before() {
    // rep stosd; the third write faults
    let mut m = Machine::long(&[0xf3, 0xab]).with(RCX, 5).with(RDI, 0x3000);
    m.mood = Mood::Faulting(2);
    assert!(matches!(m.run(), Err(Stop::Fault(_))));
    assert_eq!((m.gpr(RCX), m.gpr(RDI), m.state.rip), (3, 0x3008, 0x1000));
}

#[test]
fn direction_flag_goes_down() {
    // std-ed lodsw
    let mut m = Machine::long(&[0x66, 0xad]).with(RSI, 0x3000);
    m.state.rflags |= 0x400;
    m.poke(0x3000, &[0x34, 0x12]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RAX), m.gpr(RSI)), (0x1234, 0x2ffe));
}

#[test]
fn index_registers_wrap_at_the_address_size() {
    // movsb in real mode
    let mut m = Machine::real(&[0xa4])
        .with(RSI, 0xabcd_ffff)
        .with(RDI, 0x4000);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RSI), m.gpr(RDI)), (0xabcd_0000, 0x4001));
}

#[test]
fn count_has_the_address_size() {
    // rep stosb in real mode: CX
    let mut m = Machine::real(&[0xf3, 0xaa])
        .with(RCX, 0xabcd_0002)
        .with(RDI, 0x3000);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RCX), m.gpr(RDI)), (0xabcd_0000, 0x3002));
    // in 64-bit mode with 67: ECX, and what is above is cleared
    let mut m = Machine::long(&[0x67, 0xf3, 0xaa])
        .with(RCX, 0x1_0000_0002)
        .with(RDI, 0x3000);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RCX), m.gpr(RDI)), (0, 0x3002));
}

#[test]
fn scas_and_cmps_stop_by_zero_flag() {
    // repne scasb
    let mut m = Machine::long(&[0xf2, 0xae])
        .with(RCX, 10)
        .with(RDI, 0x3000)
        .with(RAX, 7);
    m.poke(0x3000, &[1, 2, 7, 3]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        (m.gpr(RCX), m.gpr(RDI), m.state.rflags & 0x40),
        (7, 0x3003, 0x40)
    );
    // repe cmpsb
    let mut m = Machine::long(&[0xf3, 0xa6])
        .with(RCX, 10)
        .with(RSI, 0x3000)
        .with(RDI, 0x4000);
    m.poke(0x3000, &[1, 2, 3]);
    m.poke(0x4000, &[1, 2, 4]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RCX), m.state.rflags & 0x41), (7, 0x01));
}

#[test]
fn segment_override_applies_to_the_source_only() {
    // fs movsb
    let mut m = Machine::long(&[0x64, 0xa4])
        .with(RSI, 0x10)
        .with(RDI, 0x4000);
    m.state.segments[SegReg::Fs as usize].base = 0x3000;
    m.poke(0x3010, &[0x99]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x4000, 1), 0x99);
}

#[test]
fn ins_does_not_read_the_port_if_memory_cannot_be_written() {
    // insb
    let mut m = Machine::long(&[0x6c]).with(RDX, 0x60).with(RDI, 0x3000);
    m.mood = Mood::Faulting(0);
    assert!(matches!(m.run(), Err(Stop::Fault(_))));
    assert!(m.state.ports.is_empty());
    m.mood = Mood::Calm;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.ports, [(0x60, vec![0xa1], false)]);
    assert_eq!((m.peek(0x3000, 1), m.gpr(RDI)), (0xa1, 0x3001));
}

#[test]
fn ins_tells_how_many_reads_follow_in_the_page() {
    let ahead = |code: &[u8], count, to, flags| {
        let mut m = Machine::long(code)
            .with(RCX, count)
            .with(RDX, 0x60)
            .with(RDI, to);
        m.state.rflags |= flags;
        assert!(m.run().is_ok());
        m.ahead[0]
    };
    let (insb, rep_insb, rep_insd) = (&[0x6c][..], &[0xf3, 0x6c][..], &[0xf3, 0x6d][..]);
    assert_eq!(ahead(insb, 9, 0x3000, 0), 1);
    assert_eq!(ahead(rep_insb, 9, 0x3000, 0), 9);
    assert_eq!(ahead(rep_insb, 9, 0x3ffd, 0), 3);
    assert_eq!(ahead(rep_insd, 9, 0x3ff6, 0), 2);
    assert_eq!(ahead(rep_insd, 9, 0x3ffe, 0), 1);
    assert_eq!(ahead(rep_insb, 500, 0x3000, 0), 64);
    assert_eq!(ahead(rep_insb, 9, 0x3100, 0x400), 1);
    // The address size wraps DI after 3 bytes; in, what is read ahead would lie elsewhere.
    let mut m = Machine::real(&[0xf3, 0x6c]).with(RCX, 9).with(RDI, 0xfffd);
    m.state.segments[SegReg::Es as usize].base = 0x2100;
    let _ = m.run();
    assert_eq!(m.ahead[0], 1);
}

#[test]
fn outs_writes_memory_to_the_port() {
    // rep outsw
    let mut m = Machine::long(&[0x66, 0xf3, 0x6f])
        .with(RCX, 2)
        .with(RDX, 0x1f0)
        .with(RSI, 0x3000);
    m.poke(0x3000, &[1, 2, 3, 4]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        m.state.ports,
        [(0x1f0, vec![1, 2], true), (0x1f0, vec![3, 4], true)]
    );
}

#[test]
fn ports_obey_the_permission_bitmap() {
    // in al, 0x75 at CPL 3
    let code = &[0xe4, 0x75];
    let machine = |bits: u8| {
        let mut m = Machine::long(code);
        m.cpl = 3;
        m.poke(0x7066, &[0x68, 0]);
        m.poke(0x7068 + 0x75 / 8, &[bits, 0xff]);
        m
    };
    assert_eq!(machine(0xdf).run(), NEXT);
    assert_eq!(machine(0x20).run(), Err(Stop::Fault(Exception::GP0)));
    let mut m = machine(0xdf);
    m.state.segments[SegReg::Tr as usize].limit = 0x67;
    assert_eq!(m.run(), Err(Stop::Fault(Exception::GP0)));
    let mut m = machine(0xff);
    m.state.rflags |= 0x3000;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0xa1);
}

#[test]
fn in_and_out_have_at_most_32_bits() {
    // in eax, dx with REX.W
    let mut m = Machine::long(&[0x48, 0xed])
        .with(RDX, 0x1_0cf8)
        .with(RAX, u64::MAX);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0x8765_43a1);
    assert_eq!(m.state.ports[0].0, 0x0cf8);
    // out 0x80, ax
    let mut m = Machine::real(&[0xe7, 0x80]).with(RAX, 0x1234);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.ports, [(0x80, vec![0x34, 0x12], true)]);
}
