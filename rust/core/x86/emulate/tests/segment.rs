// SPDX-License-Identifier: GPL-2.0

use super::machine::Machine;
use crate::outcome::{
    vector,
    Exception, //
};
use crate::x86::emulate::*;

const NEXT: Result<Done, Stop> = Ok(Done::Retired(Shadow::None));
const GP0: Result<Done, Stop> = Err(Stop::Fault(Exception::GP0));

/// mov al, [rbx]; with a data segment as given.
fn load_byte(offset: u64, limit: u32, rights: u32) -> Result<Done, Stop> {
    let mut m = Machine::protected(&[0x8a, 0x03]).with(RBX, offset);
    let ds = &mut m.state.segments[SegReg::Ds as usize];
    ds.limit = limit;
    ds.rights = SegmentRights(rights);
    m.run()
}

#[test]
fn offsets_are_checked_against_the_limit() {
    assert_eq!(load_byte(0xfff, 0xfff, 0x4093), NEXT);
    assert_eq!(load_byte(0x1000, 0xfff, 0x4093), GP0);
}

#[test]
fn expand_down_segments_lie_above_the_limit() {
    assert_eq!(load_byte(0xfff, 0xfff, 0x4097), GP0);
    assert_eq!(load_byte(0x1000, 0xfff, 0x4097), NEXT);
    assert_eq!(load_byte(0xffff_ffff, 0xfff, 0x4097), NEXT);
    assert_eq!(load_byte(0x1_0000, 0xfff, 0x0097), GP0);
    assert_eq!(load_byte(0xffff, 0xfff, 0x0097), NEXT);
}

#[test]
fn types_are_checked() {
    // unusable; execute-only code; readable code
    assert_eq!(load_byte(0, 0xfff, 0x1_0000), GP0);
    assert_eq!(load_byte(0, 0xfff, 0x4099), GP0);
    assert_eq!(load_byte(0, 0xfff, 0x409b), NEXT);
    // a write to read-only data
    let mut m = Machine::protected(&[0x88, 0x03]);
    m.state.segments[SegReg::Ds as usize].rights = SegmentRights(0xc091);
    assert_eq!(m.run(), GP0);
    // a write to code, by override
    assert_eq!(Machine::protected(&[0x2e, 0x88, 0x03]).run(), GP0);
    assert_eq!(Machine::real(&[0x2e, 0x88, 0x07]).run(), NEXT);
}

#[test]
fn operand_must_not_cross_the_limit() {
    // mov eax, [ebx]
    let mut m = Machine::protected(&[0x8b, 0x03]).with(RBX, 0xffd);
    m.state.segments[SegReg::Ds as usize].limit = 0xfff;
    assert_eq!(m.run(), GP0);
    // in real mode at the end of the segment too
    let m = &mut Machine::real(&[0x8b, 0x07]).with(RBX, 0xffff);
    assert_eq!(m.run(), GP0);
}

#[test]
fn big_real_mode_uses_the_cached_limit() {
    // mov eax, [dword ebx] with 67 66
    let mut m = Machine::real(&[0x67, 0x66, 0x8b, 0x03]).with(RBX, 0xfee0_0020);
    assert_eq!(m.run(), GP0);
    m.state.segments[SegReg::Ds as usize].limit = u32::MAX;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.accesses, [("read", 0xfee0_0020, 4)]);
}

#[test]
fn linear_addresses_wrap_at_4_gib_outside_64_bit_mode() {
    // mov [ebx], eax
    let mut m = Machine::protected(&[0x89, 0x03])
        .with(RBX, 0xffff_f000)
        .with(RAX, 0x4433_2211);
    m.state.segments[SegReg::Ds as usize].base = 0xffe;
    assert_eq!(m.run(), NEXT);
    assert_eq!(
        m.accesses,
        [("probe", 0, 2), ("write", 0xffff_fffe, 2), ("write", 0, 2)]
    );
    assert_eq!((m.peek(0xffff_fffe, 2), m.peek(0, 2)), (0x2211, 0x4433));
}

#[test]
fn bases_do_not_apply_in_64_bit_mode_but_for_fs_and_gs() {
    let mut m = Machine::long(&[0x8a, 0x03]).with(RBX, 0x3000);
    m.state.segments[SegReg::Ds as usize] = SegmentView::default();
    m.state.segments[SegReg::Ds as usize].base = 0x1_0000;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.accesses, [("read", 0x3000, 1)]);
    // gs mov al, [rbx]
    let mut m = Machine::long(&[0x65, 0x8a, 0x03]).with(RBX, 0x10);
    m.state.segments[SegReg::Gs as usize].base = 0xffff_8880_0000_0000;
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.accesses, [("read", 0xffff_8880_0000_0010, 1)]);
}

#[test]
fn both_ends_of_an_operand_must_be_canonical() {
    let machine = |address| Machine::long(&[0x8b, 0x03]).with(RBX, address).run();
    assert_eq!(machine((1 << 47) - 4), NEXT);
    assert_eq!(machine((1 << 47) - 3), GP0);
    assert_eq!(machine(0xffff_8000_0000_0000), NEXT);
    assert_eq!(machine(0xffff_7fff_ffff_ffff), GP0);
}

#[test]
fn real_mode_segment_loads_keep_the_limit() {
    // mov ds, ax; mov ss, ax
    let mut m = Machine::real(&[0x8e, 0xd8, 0x8e, 0xd0]).with(RAX, 0xb800);
    m.state.segments[SegReg::Ds as usize].limit = u32::MAX;
    assert_eq!(m.run(), NEXT);
    let ds = m.state.segments[SegReg::Ds as usize];
    assert_eq!(
        (ds.selector, ds.base, ds.limit),
        (0xb800, 0xb_8000, u32::MAX)
    );
    assert_eq!(m.run(), Ok(Done::Retired(Shadow::MovSs)));
}

/// mov ds (or ss), [rbx] with a descriptor at 0x18 of the GDT.
fn load_descriptor(code: &[u8], selector: u16, descriptor: u64) -> (Result<Done, Stop>, Machine) {
    let mut m = Machine::protected(code).with(RBX, 0x3000);
    m.poke(0x3000, &selector.to_le_bytes());
    m.poke(0x6018, &descriptor.to_le_bytes());
    (m.run(), m)
}

const MOV_DS: &[u8] = &[0x8e, 0x1b];
const MOV_SS: &[u8] = &[0x8e, 0x13];
const DATA: u64 = 0x12cf_9334_5678_ffff;

#[test]
fn protected_mode_loads_the_descriptor() {
    let (result, m) = load_descriptor(MOV_DS, 0x18, DATA);
    assert_eq!(result, NEXT);
    let expected = SegmentView {
        selector: 0x18,
        base: 0x1234_5678,
        limit: u32::MAX,
        rights: SegmentRights(0xc093),
    };
    assert_eq!(m.state.segments[SegReg::Ds as usize], expected);
    assert_eq!(
        load_descriptor(MOV_SS, 0x18, DATA).0,
        Ok(Done::Retired(Shadow::MovSs))
    );
}

#[test]
fn loading_a_segment_sets_the_accessed_bit() {
    let (result, m) = load_descriptor(MOV_DS, 0x18, DATA & !(1 << 40));
    assert_eq!(result, NEXT);
    assert_eq!(m.peek(0x6018, 8), DATA);
    let last = m.accesses.last().expect("accesses");
    assert_eq!(*last, ("swap", 0x6018, 8));
}

#[test]
fn segment_loads_fault_with_the_selector() {
    let fault = |vector, code| Err(Stop::Fault(Exception::with_code(vector, code)));
    let dpl = |level: u64| level << 45;
    for (code, selector, descriptor, expected) in [
        (MOV_DS, 0x100, DATA, fault(vector::GP, 0x100)), // beyond the table
        (MOV_DS, 0x18, DATA & !(1 << 47), fault(vector::NP, 0x18)), // not present
        (MOV_SS, 0x18, DATA & !(1 << 47), fault(vector::SS, 0x18)),
        (MOV_DS, 0x1b, DATA, fault(vector::GP, 0x18)), // RPL 3, DPL 0
        (MOV_DS, 0x1b, DATA | dpl(3), NEXT),
        (MOV_SS, 0x18, DATA | dpl(3), fault(vector::GP, 0x18)),
        (MOV_SS, 0x19, DATA, fault(vector::GP, 0x18)),
        (MOV_SS, 0x18, DATA & !(1 << 41), fault(vector::GP, 0x18)), // read-only
        (MOV_DS, 0x18, DATA & !(1 << 44), fault(vector::GP, 0x18)), // system
        (
            MOV_DS,
            0x18,
            (DATA | 1 << 43) & !(1 << 41),
            fault(vector::GP, 0x18),
        ), // not readable
        (MOV_SS, 0, DATA, GP0),
    ] {
        assert_eq!(
            load_descriptor(code, selector, descriptor).0,
            expected,
            "{selector:x}"
        );
    }
}

#[test]
fn null_selector_makes_a_segment_unusable() {
    let (result, m) = load_descriptor(MOV_DS, 3, DATA);
    assert_eq!(result, NEXT);
    assert!(m.state.segments[SegReg::Ds as usize].rights.unusable());
    // SS in 64-bit mode, CPL 0
    let mut m = Machine::long(&[0x8e, 0xd0]);
    assert_eq!(m.run(), Ok(Done::Retired(Shadow::MovSs)));
    m.state.rip = 0x1000;
    m.cpl = 3;
    m.state.gprs[0] = 3;
    assert_eq!(m.run(), GP0);
}

#[test]
fn lds_loads_both_or_none() {
    // lds eax, [ebx]
    let mut m = Machine::protected(&[0xc5, 0x03]).with(RBX, 0x3000);
    m.poke(0x3000, &[1, 2, 3, 4, 0x18, 0]);
    m.poke(0x6018, &DATA.to_le_bytes());
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RAX), 0x0403_0201);
    assert_eq!(m.state.segments[SegReg::Ds as usize].base, 0x1234_5678);
    let mut m = Machine::protected(&[0xc5, 0x03]).with(RBX, 0x3000);
    m.poke(0x3000, &[1, 2, 3, 4, 0, 1]);
    assert!(m.run().is_err());
    assert_eq!(m.gpr(RAX), 0);
}

#[test]
fn pop_of_a_segment_moves_the_stack_pointer() {
    // pop ss, push cs
    let mut m = Machine::real(&[0x17, 0x0e]);
    m.poke(0x8000, &[0x34, 0x12]);
    assert_eq!(m.run(), Ok(Done::Retired(Shadow::MovSs)));
    assert_eq!((m.gpr(RSP), m.state.segments[2].base), (0x8002, 0x1_2340));
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.peek(0x1_2340 + 0x8000, 2), 0x1000);
    // of a doubleword push only the selector is written
    let mut m = Machine::protected(&[0x0e]);
    assert_eq!(m.run(), NEXT);
    assert_eq!(m.gpr(RSP), 0x7ffc);
    assert_eq!(m.accesses, [("write", 0x7ffc, 2)]);
}
