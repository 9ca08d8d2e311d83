// SPDX-License-Identifier: GPL-2.0

use super::machine::Machine;
use crate::outcome::Exception;
use crate::x86::emulate::*;

const NEXT: Result<Done, Stop> = Ok(Done::Retired(Shadow::None));
const GP0: Result<Done, Stop> = Err(Stop::Fault(Exception::GP0));

#[test]
fn near_branches_go_where_they_say() {
    // jmp -2
    let mut m = Machine::long(&[0xeb, 0xfe]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.rip, 0x1000);
    // jz +0x100: not taken, taken
    let mut m = Machine::protected(&[0x0f, 0x84, 0, 1, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.rip, 0x1006);
    m.state.rip = 0x1000;
    m.state.rflags |= 0x40;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.rip, 0x1106);
    // jmp [rbx]
    let mut m = Machine::long(&[0xff, 0x23]).with(RBX, 0x3000);
    m.poke(0x3000, &[0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.rip, 0x1_0000_0000);
}

#[test]
fn operand_size_16_cuts_the_target() {
    // jmp short with 66 in 32-bit code at 0x1000
    let mut m = Machine::protected(&[0x66, 0xeb, 0x80]);
    m.state.rip = 0x1_0000;
    m.poke(0x1_0000, &[0x66, 0xeb, 0x80]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.rip, 0xff83);
    // in 64-bit code 66 does not matter
    let mut m = Machine::long(&[]);
    m.state.rip = 0x1_0000;
    m.poke(0x1_0000, &[0x66, 0xeb, 0x10]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.rip, 0x1_0013);
}

#[test]
fn targets_must_be_canonical_or_within_the_limit() {
    // jmp rax
    let mut m = Machine::long(&[0xff, 0xe0]).with(RAX, 1 << 47);
    assert_eq!(m.run(), GP0);
    m.cr4 |= 1 << 12;
    assert_eq!(m.run(), NEXT);
    let mut m = Machine::protected(&[0xff, 0xe0]).with(RAX, 0x2000);
    m.state.segments[SegReg::Cs as usize].limit = 0x1fff;
    assert_eq!(m.run(), GP0);
    assert_eq!(m.state.rip, 0x1000);
}

#[test]
fn call_and_ret_use_the_stack() {
    // call +0x10
    let mut m = Machine::long(&[0xe8, 0x10, 0, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        (m.state.rip, m.gpr(RSP), m.peek(0x7ff8, 8)),
        (0x1015, 0x7ff8, 0x1005)
    );
    // ret 8
    let mut m = Machine::protected(&[0xc2, 8, 0]);
    m.poke(0x8000, &[0x78, 0x56, 0x34, 0x12]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.state.rip, m.gpr(RSP)), (0x1234_5678, 0x800c));
    // call to beyond the limit leaves the stack alone
    let mut m = Machine::protected(&[0xff, 0xd0]).with(RAX, u64::MAX);
    m.state.segments[SegReg::Cs as usize].limit = 0xffff;
    assert_eq!(m.run(), GP0);
    assert_eq!(m.gpr(RSP), 0x8000);
    assert_eq!(m.accesses, [("probe", 0x7ffc, 4)]);
}

#[test]
fn loops_count_with_the_address_size() {
    // loop -2 with 67: ecx
    let mut m = Machine::long(&[0x67, 0xe2, 0xfd]).with(RCX, 0x1_0000_0001);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RCX), m.state.rip), (0, 0x1003));
    // jrcxz looks at all of rcx
    let mut m = Machine::long(&[0xe3, 0x10]).with(RCX, 0x1_0000_0000);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.rip, 0x1002);
    // loope stops on ZF = 0
    let mut m = Machine::real(&[0xe1, 0x10]).with(RCX, 5);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RCX), m.state.rip), (4, 0x1002));
}

#[test]
fn push_and_pop_have_the_stack_width() {
    // push rax; in 64-bit mode 66 makes it a word
    let mut m = Machine::long(&[0x50]).with(RAX, 0x1122_3344_5566_7788);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        (m.gpr(RSP), m.peek(0x7ff8, 8)),
        (0x7ff8, 0x1122_3344_5566_7788)
    );
    let mut m = Machine::long(&[0x66, 0x50]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RSP), 0x7ffe);
    // push in real mode wraps SP and keeps the high half of ESP
    let mut m = Machine::real(&[0x50])
        .with(RSP, 0xabcd_0000)
        .with(RAX, 0x1234);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RSP), m.peek(0xfffe, 2)), (0xabcd_fffe, 0x1234));
    // push esp pushes the old value
    let mut m = Machine::protected(&[0x54]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x7ffc, 4), 0x8000);
}

#[test]
fn pop_to_memory_takes_the_address_after_rsp_moved() {
    // pop qword [rsp]
    let mut m = Machine::long(&[0x8f, 0x04, 0x24]);
    m.poke(0x8000, &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        (m.gpr(RSP), m.peek(0x8008, 8)),
        (0x8008, 0x0807_0605_0403_0201)
    );
}

#[test]
fn push_of_a_device_register_checks_the_stack_first() {
    // push qword [rbx]
    let mut m = Machine::long(&[0xff, 0x33]).with(RBX, 0x3000);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        m.accesses,
        [
            ("probe", 0x7ff8, 8),
            ("read", 0x3000, 8),
            ("write", 0x7ff8, 8)
        ]
    );
}

#[test]
fn stack_faults_are_ss() {
    let mut m = Machine::protected(&[0x50]);
    m.state.segments[SegReg::Ss as usize].limit = 0x7000;
    assert_eq!(m.run(), Err(Stop::Fault(Exception::SS0)));
    // mov eax, [ebp+0] too
    let mut m = Machine::protected(&[0x8b, 0x45, 0]).with(RBP, 0x7ffe);
    m.state.segments[SegReg::Ss as usize].limit = 0x7fff;
    assert_eq!(m.run(), Err(Stop::Fault(Exception::SS0)));
    let mut m = Machine::long(&[0x8b, 0x45, 0]).with(RBP, 1 << 50);
    assert_eq!(m.run(), Err(Stop::Fault(Exception::SS0)));
}

#[test]
fn pusha_and_popa_mirror_each_other() {
    let mut m = Machine::protected(&[0x60]);
    for register in [RAX, RCX, RDX, RBX, RBP, RSI, RDI] {
        m.state.gprs[usize::from(register)] = 0x1111_1111 * u64::from(register + 1);
    }
    let before = m.state.gprs;
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        (m.gpr(RSP), m.peek(0x7fe0, 4), m.peek(0x7ffc, 4)),
        (0x7fe0, 0x8888_8888, 0x1111_1111)
    );
    assert_eq!(m.peek(0x7fec, 4), 0x8000);
    assert_eq!(m.accesses, [("write", 0x7fe0, 32)]);
    m.state.gprs[..4].fill(0);
    m.poke(0x1001, &[0x61]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.gprs, before);
}

#[test]
fn pusha_that_wraps_probes_all_slots_first() {
    let mut m = Machine::real(&[0x60]).with(RSP, 8);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RSP), 0xfff8);
    let kinds: Vec<_> = m.accesses.iter().map(|access| access.0).collect();
    assert_eq!(kinds, [["probe"; 8], ["write"; 8]].concat());
    // with an odd SP a slot crosses the limit: nothing is written
    let mut m = Machine::real(&[0x60]).with(RSP, 7);
    assert_eq!(m.run(), Err(Stop::Fault(Exception::SS0)));
    assert!(m.accesses.iter().all(|access| access.0 == "probe"));
}

#[test]
fn enter_builds_a_frame_that_leave_drops() {
    // enter 0x20, 2
    let mut m = Machine::protected(&[0xc8, 0x20, 0, 2, 0xc9]).with(RBP, 0x9000);
    m.poke(0x8ffc, &[0xaa, 0xbb, 0, 0]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RBP), m.gpr(RSP)), (0x7ffc, 0x7fd4));
    assert_eq!(
        (m.peek(0x7ffc, 4), m.peek(0x7ff8, 4), m.peek(0x7ff4, 4)),
        (0x9000, 0xbbaa, 0x7ffc)
    );
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RBP), m.gpr(RSP)), (0x9000, 0x8000));
}

#[test]
fn enter_copies_frame_pointers_that_it_has_just_pushed() {
    // enter 0, 3 with RBP just above RSP: the first slot is the old frame pointer of the second
    let mut m = Machine::long(&[0xc8, 0, 0, 3]).with(RBP, 0x8000);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        (m.peek(0x7ff8, 8), m.peek(0x7ff0, 8), m.peek(0x7fe8, 8)),
        (0x8000, 0x8000, 0x8000)
    );
    assert_eq!(m.peek(0x7fe0, 8), 0x7ff8);
}

#[test]
fn popf_changes_what_the_privilege_level_allows() {
    let machine = |cpl, iopl: u64| {
        let mut m = Machine::long(&[0x9d]);
        m.cpl = cpl;
        m.state.rflags |= iopl << 12;
        m.poke(0x8000, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        m
    };
    for (cpl, iopl, expected) in [(0, 0, 0x24_7fd7), (3, 0, 0x24_4dd7), (3, 3, 0x24_7fd7)] {
        let mut m = machine(cpl, iopl);
        assert_eq!(m.run(), NEXT);
        assert_eq!(m.state.rflags, expected, "{cpl} {iopl}");
    }
}

#[test]
fn pushf_hides_vm_and_rf() {
    let mut m = Machine::protected(&[0x9c]);
    m.state.rflags |= 0x1_0001;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x7ffc, 4), 3);
}

#[test]
fn virtual_8086_mode_needs_iopl_or_the_extension() {
    let machine = |code: &[u8]| {
        let mut m = Machine::real(code);
        m.state.cr0 |= 1;
        m.state.rflags |= 0x2_0000;
        m.cpl = 3;
        m
    };
    assert_eq!(machine(&[0x9c]).run(), GP0);
    assert_eq!(machine(&[0xfa]).run(), GP0);
    assert_eq!(machine(&[0xcf]).run(), GP0);
    let mut m = machine(&[0xfb]);
    m.cr4 |= 1;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.rflags & 0x8_0200, 0x8_0000);
    m.poke(0x1_1001, &[0x9c]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x7ffe, 2), 0x3202);
    m.poke(0x1_1002, &[0x9d]);
    m.poke(0x7ffe, &[0x02, 0x01]);
    assert_eq!(m.run(), GP0);
    m.state.rflags |= 0x3000;
    m.state.rip = 0x1000;
    assert_eq!(m.run(), Ok(Done::Retired(Shadow::Sti)));
}

#[test]
fn sti_blocks_one_instruction_if_interrupts_were_off() {
    let mut m = Machine::long(&[0xfb, 0xfb]);
    assert_eq!(m.run(), Ok(Done::Retired(Shadow::Sti)));
    assert_eq!(m.run(), NEXT);
}

#[test]
fn flag_instructions() {
    for (code, before, after) in [
        (0xf8, 0x1, 0x0),
        (0xf9, 0x0, 0x1),
        (0xf5, 0x1, 0x0),
        (0xf5, 0x0, 0x1),
        (0xfc, 0x400, 0x0),
        (0xfd, 0x0, 0x400),
        (0xfa, 0x200, 0x0),
    ] {
        let mut m = Machine::protected(&[code]);
        m.state.rflags |= before;
        assert_eq!(m.run(), NEXT);
        assert_eq!(m.state.rflags, 2 | after, "{code:x}");
    }
    // sahf keeps OF
    let mut m = Machine::long(&[0x9e]).with(RAX, 0x4100);
    m.state.rflags |= 0x800;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.rflags, 0x843);
    // lahf
    let mut m = Machine::long(&[0x9f]);
    m.state.rflags |= 0x41;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0x4300);
}

#[test]
fn real_mode_far_transfers() {
    // ljmp 0x2000:0x1234
    let mut m = Machine::real(&[0xea, 0x34, 0x12, 0, 0x20]);
    assert_eq!(m.run(), NEXT);
    let cs = m.state.segments[SegReg::Cs as usize];
    assert_eq!(
        (m.state.rip, cs.selector, cs.base),
        (0x1234, 0x2000, 0x2_0000)
    );
    // lcall [0x3000]
    let mut m = Machine::real(&[0xff, 0x1e, 0, 0x30]);
    m.poke(0x3000, &[0x34, 0x12, 0, 0x20]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        (m.peek(0x7ffc, 4), m.gpr(RSP), m.state.rip),
        (0x1000_1004, 0x7ffc, 0x1234)
    );
    // lret 2
    let mut m = Machine::real(&[0xca, 2, 0]);
    m.poke(0x8000, &[0x34, 0x12, 0, 0x20]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RSP), m.state.rip), (0x8006, 0x1234));
    // in protected mode they are left to others
    assert_eq!(Machine::protected(&[0xcb]).run(), Err(Stop::Unhandleable));
}

#[test]
fn real_mode_interrupt_and_return() {
    let mut m = Machine::real(&[0xcd, 0x10]);
    m.state.rflags |= 0x201;
    m.poke(0x40, &[0x34, 0x12, 0, 0x20]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.state.rip, m.state.rflags), (0x1234, 3));
    assert_eq!((m.peek(0x7ffa, 4), m.peek(0x7ffe, 2)), (0x1000_1002, 0x203));
    m.poke(0x2_1234, &[0xcf]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        (m.state.rip, m.state.rflags, m.gpr(RSP)),
        (0x1002, 0x203, 0x8000)
    );
    assert_eq!(m.state.segments[SegReg::Cs as usize].base, 0x1_0000);
}

#[test]
fn resume_flag_is_cleared_on_completion() {
    let mut m = Machine::long(&[0x90]);
    m.state.rflags |= 0x1_0000;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.rflags, 2);
}
