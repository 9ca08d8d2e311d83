// SPDX-License-Identifier: GPL-2.0

use super::machine::Machine;
use crate::outcome::Exception;
use crate::x86::emulate::*;

const NEXT: Result<Done, Stop> = Ok(Done::Retired(Shadow::None));
const GP0: Result<Done, Stop> = Err(Stop::Fault(Exception::GP0));
const UD: Result<Done, Stop> = Err(Stop::Fault(Exception::UD));

const PRIVILEGED: [(&[u8], &str); 14] = [
    (&[0xf4], "hlt"),
    (&[0x0f, 0x32], "rdmsr 10"),
    (&[0x0f, 0x30], "wrmsr 10 2000000001"),
    (&[0x0f, 0x06], "write cr0 11"),
    (&[0x0f, 0x22, 0xd8], "write cr3 1"),
    (&[0x0f, 0x22, 0xc0], "write cr0 1"),
    (&[0x44, 0x0f, 0x22, 0xc0], "write cr8 1"),
    (&[0x0f, 0x20, 0xe3], "read cr4"),
    (&[0x0f, 0x23, 0xf8], "write dr7 1"),
    (&[0x0f, 0x21, 0xf3], "read dr6"),
    (&[0x0f, 0x01, 0x3b], "invlpg 3000"),
    (&[0x65, 0x0f, 0x01, 0x3b], "invlpg 13000"),
    (&[0x0f, 0x01, 0xf0], "write cr0 11"),
    (&[0x0f, 0x09], "wbinvd"),
];

fn machine(code: &[u8]) -> Machine {
    let mut m = Machine::long(code)
        .with(RAX, 1)
        .with(RCX, 0x10)
        .with(RDX, 0x20)
        .with(RBX, 0x3000);
    m.state.segments[SegReg::Gs as usize].base = 0x1_0000;
    m
}

#[test]
fn privileged_instructions_call_their_hook_at_cpl_0_only() {
    for (code, hook) in PRIVILEGED {
        let mut m = machine(code);
        assert_eq!(m.run(), NEXT, "{hook}");
        assert_eq!(m.state.hooks, [hook]);
        assert_eq!(m.state.rip, 0x1000 + code.len() as u64);
        let mut m = machine(code);
        m.cpl = 3;
        assert_eq!(m.run(), GP0, "{hook}");
        assert!(m.state.hooks.is_empty());
    }
}

#[test]
fn results_of_hooks_go_to_registers() {
    let mut m = machine(&[0x0f, 0x32]);
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RAX), m.gpr(RDX)), (0x3333_4444, 0x1111_2222));
    let mut m = machine(&[0x0f, 0xa2]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        (m.gpr(RAX), m.gpr(RBX), m.gpr(RCX), m.gpr(RDX)),
        (1, 2, 3, 4)
    );
    assert_eq!(m.state.hooks, ["cpuid 1 10"]);
    let mut m = machine(&[0x0f, 0x20, 0xe3]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RBX), 0xc0_0000_0004);
}

#[test]
fn rdtsc_obeys_tsd() {
    let mut m = machine(&[0x0f, 0x31]);
    m.cpl = 3;
    assert_eq!(m.run(), NEXT);
    assert_eq!((m.gpr(RAX), m.gpr(RDX)), (6, 5));
    m.state.rip = 0x1000;
    m.cr4 |= 4;
    assert_eq!(m.run(), GP0);
}

#[test]
fn lmsw_cannot_clear_pe() {
    // lmsw [rbx]
    let mut m = machine(&[0x0f, 0x01, 0x33]);
    m.poke(0x3000, &[0xfe, 0xff]);
    m.state.cr0 = 0x8000_0011;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.state.hooks, ["write cr0 8000001f"]);
}

#[test]
fn table_registers_load_and_store() {
    // lgdt [rbx]
    let mut m = machine(&[0x0f, 0x01, 0x13]);
    m.poke(0x3000, &[0x7f, 0, 0, 0x10, 0, 0, 0x80, 0x88, 0xff, 0xff]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        m.state.gdtr,
        TableView {
            base: 0xffff_8880_0000_1000,
            limit: 0x7f
        }
    );
    // lidt [bx] in 16 bits takes 24 bits of base
    let mut m = Machine::real(&[0x0f, 0x01, 0x1f]).with(RBX, 0x3000);
    m.poke(0x3000, &[0xff, 3, 1, 2, 3, 4]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        m.state.idtr,
        TableView {
            base: 0x03_0201,
            limit: 0x3ff
        }
    );
    // sgdt [ebx]
    let mut m = Machine::protected(&[0x0f, 0x01, 0x03]).with(RBX, 0x3000);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x3000, 6), 0x6000_00ff);
    assert_eq!(m.accesses, [("write", 0x3000, 6)]);
    // a base that is not canonical
    let mut m = machine(&[0x0f, 0x01, 0x13]);
    m.poke(0x3000, &[0xff; 10]);
    m.poke(0x3009, &[0x7f]);
    assert_eq!(m.run(), GP0);
}

#[test]
fn user_mode_instruction_prevention() {
    for code in [
        &[0x0f, 0x01, 0x03][..],
        &[0x0f, 0x01, 0x0b],
        &[0x0f, 0x00, 0x03],
        &[0x0f, 0x01, 0xe0],
    ] {
        let mut m = machine(code);
        m.cpl = 3;
        assert_eq!(m.run(), NEXT);
        m.state.rip = 0x1000;
        m.cr4 |= 1 << 11;
        assert_eq!(m.run(), GP0);
    }
}

#[test]
fn smsw_and_str_store_registers() {
    // smsw rax; str ax
    let mut m = machine(&[0x48, 0x0f, 0x01, 0xe0]);
    m.state.cr0 = 0x8005_0033;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0x8005_0033);
    let mut m = machine(&[0x66, 0x0f, 0x00, 0xc8]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0x40);
    assert_eq!(Machine::real(&[0x0f, 0x00, 0xc8]).run(), UD);
}

#[test]
fn what_is_not_executed_says_so() {
    for code in [
        &[0xd9, 0x03][..],                     // fld
        &[0x0f, 0x58, 0xc0],                   // addps
        &[0xc5, 0xf8, 0x10, 0x03],             // vmovups
        &[0x0f, 0x01, 0xc1],                   // vmcall
        &[0x62, 0xf1, 0x7c, 0x48, 0x10, 0x03], // vmovups zmm0
    ] {
        assert_eq!(
            Machine::long(code).run(),
            Err(Stop::Unhandleable),
            "{code:02x?}"
        );
    }
    assert_eq!(Machine::long(&[0x0f, 0x0b]).run(), UD);
    assert_eq!(Machine::long(&[0x06]).run(), UD);
}

#[test]
fn fetch_touches_the_second_page_only_if_needed() {
    let mut m = Machine::long(&[]);
    m.state.rip = 0x1ffe;
    m.poke(0x1ffe, &[0x0f, 0x0b]);
    let (mut bytes, mut decoded) = (InsnBytes::default(), Decoded::new());
    assert!(fetch(&mut m, &mut bytes, &mut decoded).is_ok());
    assert_eq!(bytes.as_slice(), [0x0f, 0x0b]);
    m.poke(0x1ffe, &[0x89, 0x05, 1, 2, 3, 4]);
    let insn = fetch(&mut m, &mut bytes, &mut decoded).expect("an instruction");
    assert_eq!((insn.len, bytes.as_slice().len()), (6, 15));
}

#[test]
fn an_instruction_is_found_again_by_its_bytes_and_code_size_alone() {
    let mut m = Machine::long(&[0xb8, 1, 2, 3, 4, 0x90]);
    let (mut bytes, mut decoded) = (InsnBytes::default(), Decoded::new());
    let mut length = |m: &mut Machine| {
        let insn = fetch(m, &mut bytes, &mut decoded).expect("an instruction");
        (insn.len, insn.operand(1))
    };
    let imm = Operand::Imm;
    assert_eq!(length(&mut m), (5, imm(0x0403_0201)));
    assert_eq!(length(&mut m), (5, imm(0x0403_0201)), "the same again");
    m.poke(0x1005, &[0xcc]);
    assert_eq!(
        length(&mut m),
        (5, imm(0x0403_0201)),
        "what follows does not count"
    );
    m.poke(0x1004, &[5]);
    assert_eq!(length(&mut m), (5, imm(0x0503_0201)), "other bytes");
    let rights = &mut m.state.segments[SegReg::Cs as usize].rights;
    *rights = rights.with_long(false).with_big(false);
    assert_eq!(length(&mut m), (3, imm(0x0201)), "16-bit code");
}

#[test]
fn fetch_stops_at_the_limit_and_at_15_bytes() {
    let mut m = Machine::protected(&[0xb8, 1, 2, 3, 4]);
    m.state.segments[SegReg::Cs as usize].limit = 0x1003;
    assert_eq!(m.run(), GP0);
    m.state.segments[SegReg::Cs as usize].limit = 0x1004;
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        Machine::long(&[[0x66; 14].as_slice(), &[0x90]].concat()).run(),
        NEXT
    );
    assert_eq!(
        Machine::long(&[[0x66; 15].as_slice(), &[0x90]].concat()).run(),
        GP0
    );
}

#[test]
fn code_size_comes_from_cs_and_efer() {
    let mut m = Machine::long(&[]);
    assert_eq!(code_size(&m), CodeSize::Bits64);
    m.efer = 0;
    assert_eq!(code_size(&m), CodeSize::Bits16);
    assert_eq!(code_size(&Machine::protected(&[])), CodeSize::Bits32);
    assert_eq!(code_size(&Machine::real(&[])), CodeSize::Bits16);
}
