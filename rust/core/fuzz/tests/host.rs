// SPDX-License-Identifier: GPL-2.0

//! The emulator against the CPU it runs on: random instructions of 64-bit and compatibility mode on
//! random registers, flags and memory. What the SDM leaves undefined is not compared.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::collections::BTreeMap;

use burrow_core::addr::Gva;
use burrow_core::outcome::Exception;
use burrow_core::x86::emulate::*;

const CASES: u32 = 4_000_000;
/// Memory that the instructions may use.
const DATA: u64 = 0x1000_0000;
const DATA_LEN: u64 = 1 << 20;
/// The code around the instruction, and the registers it loads and stores.
const STUB: u64 = 0x2000_0000;
const STUB_LEN: u64 = 0x3000;
/// Offsets from [`STUB`].
const AREA: u64 = 0x1000;
const XMMS: u64 = AREA + 0x100;
const FLAGS: u64 = AREA + 0x80;
const HOST_RSP: u64 = AREA + 0x90;
const FAR_POINTER: u64 = AREA + 0xa0;
/// Linux's code and data segments for users.
const CODE32: u16 = 0x23;
const CODE64: u16 = 0x33;
const DATA32: u8 = 0x2b;
const STACK_TOP: u64 = 0x2ff0;
const STATUS: u64 = 0x8d5;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn value(&mut self) -> u64 {
        let value = self.next();
        match value & 15 {
            0 => value >> 60,
            1 => u64::MAX - (value >> 60),
            2 => 1 << (value >> 58),
            3 => (1 << (value >> 58)) - 1,
            4..=7 => value >> 57,
            8..=13 => DATA + DATA_LEN / 2 + (value >> 54),
            _ => value,
        }
    }

    fn code(&mut self) -> [u8; MAX_LEN] {
        const PREFIXES: [u8; 6] = [0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x66];
        let mut code = [0; MAX_LEN];
        for byte in &mut code {
            *byte = (self.next() >> 32) as u8;
        }
        let mut at = 0;
        while self.next() >> 62 == 0 && at < 3 {
            code[at] = PREFIXES[(self.next() >> 32) as usize % 6];
            at += 1;
        }
        if self.next() >> 63 == 0 {
            code[at] = 0x40 | code[at] & 15;
            at += 1;
        }
        match self.next() >> 61 {
            0..=3 => {}
            7 => code[at..at + 2].copy_from_slice(&[0x0f, 0x38]),
            _ => code[at] = 0x0f,
        }
        code
    }
}

/// Registers, as the emulator and the stub see them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    gprs: [u64; 16],
    rflags: u64,
    xmm: [[u8; 16]; 16],
    written: BTreeMap<u64, u8>,
}

struct Machine {
    state: State,
    rip: u64,
}

/// Flat segments, as Linux gives them to users.
fn flat(register: SegReg) -> SegmentView {
    let rights = SegmentRights(if register == SegReg::Cs {
        0xc0fb
    } else {
        0xc0f3
    });
    SegmentView {
        selector: 0,
        base: 0,
        limit: u32::MAX,
        rights,
    }
}

fn background(address: u64) -> u8 {
    (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn check(address: Gva, len: usize) -> Result<(), Stop> {
    let end = DATA + DATA_LEN;
    if address.0 < DATA || address.0 > end || end - address.0 < len as u64 {
        return Err(Stop::Fault(Exception::page_fault(address, 0)));
    }
    Ok(())
}

impl EmulOps for Machine {
    fn gpr(&self, index: u8) -> u64 {
        self.state.gprs[usize::from(index)]
    }
    fn set_gpr(&mut self, index: u8, value: u64) {
        self.state.gprs[usize::from(index)] = value;
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn set_rip(&mut self, value: u64) {
        self.rip = value;
    }
    fn rflags(&self) -> u64 {
        self.state.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.state.rflags = value;
    }
    fn segment(&self, register: SegReg) -> SegmentView {
        flat(register)
    }
    fn set_segment(&mut self, _register: SegReg, _value: SegmentView) {
        unreachable!("segment loads are not run")
    }
    fn gdtr(&self) -> TableView {
        TableView::default()
    }
    fn idtr(&self) -> TableView {
        TableView::default()
    }
    fn cr0(&self) -> u64 {
        1
    }
    fn cr4(&self) -> u64 {
        1 << 9
    }
    fn efer(&self) -> u64 {
        0x500
    }
    fn cpl(&self) -> u8 {
        3
    }
    fn fetch(&mut self, _address: Gva, _bytes: &mut [u8]) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    fn read(&mut self, address: Gva, bytes: &mut [u8], _access: Access) -> Result<(), Stop> {
        check(address, bytes.len())?;
        for (n, byte) in bytes.iter_mut().enumerate() {
            let at = address.0 + n as u64;
            *byte = self
                .state
                .written
                .get(&at)
                .copied()
                .unwrap_or_else(|| background(at));
        }
        Ok(())
    }
    fn probe_write(&mut self, address: Gva, len: usize, _access: Access) -> Result<(), Stop> {
        check(address, len)
    }
    fn write(&mut self, address: Gva, bytes: &[u8], _access: Access) -> Result<(), Stop> {
        check(address, bytes.len())?;
        for (n, byte) in bytes.iter().enumerate() {
            self.state.written.insert(address.0 + n as u64, *byte);
        }
        Ok(())
    }
    fn cmpxchg(&mut self, address: Gva, _old: &[u8], new: &[u8]) -> Result<Swap, Stop> {
        self.write(address, new, Access::Write)?;
        Ok(Swap::Done)
    }
    fn port_in(&mut self, _port: u16, _bytes: &mut [u8], _ahead: u32) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    fn port_out(&mut self, _port: u16, _bytes: &[u8]) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    fn xmm(&mut self, index: u8) -> Result<[u8; 16], Stop> {
        Ok(self.state.xmm[usize::from(index)])
    }
    fn set_xmm(&mut self, index: u8, value: [u8; 16]) -> Result<(), Stop> {
        self.state.xmm[usize::from(index)] = value;
        Ok(())
    }
}

/// Maps memory at a fixed address.
fn map(address: u64, len: u64, protection: i32) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: `MAP_FIXED_NOREPLACE` takes no memory that is in use.
    let at = unsafe { libc::mmap(address as *mut _, len as usize, protection, flags, -1, 0) };
    assert_eq!(at as u64, address, "mmap");
}

fn poke(address: u64, bytes: &[u8]) {
    // SAFETY: only called for the two mappings of `map`, within their lengths.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) };
}

fn peek(address: u64, bytes: &mut [u8]) {
    // SAFETY: as for `poke`.
    unsafe {
        core::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len())
    };
}

/// Assembles the stub; returns where the instruction goes, with room for 15 bytes.
struct Stub {
    code: Vec<u8>,
}

impl Stub {
    /// Appends an instruction that ends in a displacement to [`STUB`] + `target`.
    fn relative(&mut self, opcode: &[u8], target: u64) {
        self.code.extend_from_slice(opcode);
        let next = self.code.len() as i64 + 4;
        self.code
            .extend_from_slice(&((target as i64 - next) as i32).to_le_bytes());
    }

    /// Appends a MOV or MOVDQU of every register from (or to) its slot.
    fn registers(&mut self, load: bool) {
        for n in 0..16_u8 {
            let rex = 0x40 | (n >> 3) << 2;
            let modrm = 5 | (n & 7) << 3;
            let op = if load { 0x6f } else { 0x7f };
            self.relative(&[0xf3, rex, 0x0f, op, modrm], XMMS + 16 * u64::from(n));
        }
        for n in 0..16_u8 {
            let rex = 0x48 | (n >> 3) << 2;
            let modrm = 5 | (n & 7) << 3;
            self.relative(
                &[rex, if load { 0x8b } else { 0x89 }, modrm],
                AREA + 8 * u64::from(n),
            );
        }
    }

    /// Makes the code for one instruction; returns it and where the instruction is.
    fn build(insn: &[u8], size: CodeSize) -> (Self, u64) {
        let mut stub = Self {
            code: vec![0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57],
        };
        // mov eax, DATA32; mov ds, eax; mov es, eax
        stub.code
            .extend_from_slice(&[0xb8, DATA32, 0, 0, 0, 0x8e, 0xd8, 0x8e, 0xc0]);
        stub.relative(&[0x48, 0x89, 0x25], HOST_RSP);
        stub.relative(&[0xff, 0x35], FLAGS);
        stub.code.push(0x9d);
        stub.registers(true);
        let at = stub.instruction(insn, size);
        stub.registers(false);
        stub.relative(&[0x48, 0x8d, 0x25], STACK_TOP);
        stub.code.push(0x9c);
        stub.relative(&[0x8f, 0x05], FLAGS);
        stub.relative(&[0x48, 0x8b, 0x25], HOST_RSP);
        stub.code.push(0xfc);
        stub.code
            .extend_from_slice(&[0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c]);
        stub.code.extend_from_slice(&[0x5d, 0x5b, 0xc3]);
        (stub, at)
    }

    /// Appends the instruction, with far jumps into its code segment and back; they need no stack.
    fn instruction(&mut self, insn: &[u8], size: CodeSize) -> u64 {
        if size == CodeSize::Bits32 {
            self.relative(&[0xff, 0x2d], FAR_POINTER);
        }
        let at = STUB + self.code.len() as u64;
        self.code.extend_from_slice(insn);
        if size == CodeSize::Bits32 {
            let mut pointer = (at as u32).to_le_bytes().to_vec();
            pointer.extend_from_slice(&CODE32.to_le_bytes());
            poke(STUB + FAR_POINTER, &pointer);
            let back = (STUB as u32) + self.code.len() as u32 + 7;
            self.code.push(0xea);
            self.code.extend_from_slice(&back.to_le_bytes());
            self.code.extend_from_slice(&CODE64.to_le_bytes());
        }
        at
    }
}

/// Runs the stub on `state`; memory ends up in the mapping.
fn run_on_host(stub: &Stub, state: &mut State) {
    poke(STUB, &stub.code);
    for (n, value) in (0_u64..).zip(state.gprs) {
        poke(STUB + AREA + 8 * n, &value.to_le_bytes());
    }
    for (n, value) in (0_u64..).zip(state.xmm) {
        poke(STUB + XMMS + 16 * n, &value);
    }
    poke(STUB + FLAGS, &state.rflags.to_le_bytes());
    // SAFETY: the stub follows the calling convention; the instruction in it was emulated without a
    // fault and with memory accesses in the data mapping only.
    unsafe {
        let entry: extern "sysv64" fn() = core::mem::transmute(STUB as *const ());
        entry();
    }
    let mut word = [0; 8];
    for (n, value) in (0_u64..).zip(&mut state.gprs) {
        peek(STUB + AREA + 8 * n, &mut word);
        *value = u64::from_le_bytes(word);
    }
    for (n, value) in (0_u64..).zip(&mut state.xmm) {
        peek(STUB + XMMS + 16 * n, value);
    }
    peek(STUB + FLAGS, &mut word);
    state.rflags = u64::from_le_bytes(word);
    for (address, byte) in &mut state.written {
        let mut host = [0];
        peek(*address, &mut host);
        *byte = host[0];
        poke(*address, &[background(*address)]);
    }
}

/// Returns whether an instruction can be run as a user, and leaves by its end.
fn is_runnable(insn: &Insn) -> bool {
    let by_op = match insn.op {
        Op::Branch(_) | Op::Far(_) | Op::LoadFar(_) | Op::System(_) | Op::In | Op::Out | Op::Ud => {
            false
        }
        Op::Stack(Stack::Popf | Stack::Pushf) => false,
        Op::Str(Str::Ins | Str::Outs) => false,
        Op::Flag(Flag::Cli | Flag::Sti) => false,
        Op::Unsupported => false,
        _ => true,
    };
    // MOVDIRI is not on every CPU.
    if insn.map == Map::Escape0f38 && insn.opcode == 0xf9 {
        return false;
    }
    // The register form of PREFETCHW is a NOP on Intel CPUs, #UD on others; CLFLUSH faults where
    // there is no memory.
    if insn.op == Op::Nop(Nop::Hint) && matches!(insn.opcode, 0x0d | 0xae) {
        return false;
    }
    let segments = insn
        .operands
        .iter()
        .any(|operand| matches!(operand, Operand::Seg(_)));
    by_op && !segments && insn.prefixes.segment.is_none()
}

/// Returns the flags that an instruction leaves undefined.
fn undefined_flags(insn: &Insn, before: &State) -> u64 {
    let count = match insn.operands {
        [_, Operand::Imm(count), Operand::None] | [_, _, Operand::Imm(count)] => count,
        _ => before.gprs[1],
    };
    let count = count
        & if insn.operand_size == Width::Qword {
            63
        } else {
            31
        };
    let overflow = if count == 1 { 0 } else { 0x800 };
    match insn.op {
        Op::Alu(Alu::And | Alu::Or | Alu::Xor | Alu::Test) => 0x10,
        Op::Shift(Shift::Shl | Shift::Shr | Shift::Sar) => 0x10 | overflow | u64::from(count > 7),
        Op::Shift(_) => overflow,
        Op::DoubleShift(_) => 0x10 | overflow,
        Op::MulDiv(MulDiv::Div | MulDiv::Idiv) => STATUS,
        Op::MulDiv(_) => 0xd4,
        Op::BitTest(_) => 0x894,
        Op::BitScan(BitScan::Bsf | BitScan::Bsr) => STATUS & !0x40,
        Op::Decimal(Decimal::Aaa | Decimal::Aas) => STATUS & !0x11,
        Op::Decimal(Decimal::Daa | Decimal::Das) => 0x800,
        Op::Decimal(_) => 0x811,
        Op::BitScan(BitScan::Tzcnt | BitScan::Lzcnt) => STATUS & !0x41,
        _ => 0,
    }
}

/// Returns whether the result itself is undefined.
fn is_undefined(insn: &Insn, before: &State) -> bool {
    let word = insn.operand_size == Width::Word;
    match insn.op {
        Op::DoubleShift(_) => {
            let count = match insn.operands[2] {
                Operand::Imm(count) => count,
                _ => before.gprs[1],
            };
            word && count & 31 > 16
        }
        Op::Mov(Mov::Bswap) => word,
        // Whether a doubleword register that differs is written (and so cleared above).
        Op::Exchange(Exchange::Cmpxchg) => insn.memory().is_none(),
        _ => false,
    }
}

#[test]
fn emulator_agrees_with_the_host_cpu() {
    map(DATA, DATA_LEN, libc::PROT_READ | libc::PROT_WRITE);
    map(
        STUB,
        STUB_LEN,
        libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
    );
    for address in DATA..DATA + DATA_LEN {
        poke(address, &[background(address)]);
    }
    let mut random = Random(0x1357_9bdf_0246_8ace);
    let mut compared = BTreeMap::<String, u32>::new();
    for _ in 0..CASES {
        let code = random.code();
        let size = if random.next() & 1 == 0 {
            CodeSize::Bits64
        } else {
            CodeSize::Bits32
        };
        let Ok(insn) = decode(&code, size) else {
            continue;
        };
        if is_runnable(&insn) {
            compare(&mut random, &code, &insn, &mut compared);
        }
    }
    println!("{compared:?}");
    let total: u32 = compared.values().sum();
    assert!(total > CASES / 20, "only {total} compared");
}

fn compare(random: &mut Random, code: &[u8], insn: &Insn, compared: &mut BTreeMap<String, u32>) {
    let mut state = State {
        gprs: [0; 16],
        rflags: 0x202 | random.next() & (STATUS | 0x400),
        xmm: [[0; 16]; 16],
        written: BTreeMap::new(),
    };
    state.gprs.fill_with(|| random.value());
    if insn.code_size == CodeSize::Bits32 {
        // Compatibility mode leaves the rest undefined.
        state.gprs = state.gprs.map(|value| value & 0xffff_ffff);
    }
    for xmm in &mut state.xmm {
        xmm[..8].copy_from_slice(&random.next().to_le_bytes());
        xmm[8..].copy_from_slice(&random.next().to_le_bytes());
    }
    if insn.prefixes.rep != Rep::None {
        state.gprs[1] &= 0xf;
    }
    let before = state.clone();
    let (stub, rip) = Stub::build(&code[..insn.len.into()], insn.code_size);
    let mut machine = Machine { state, rip };
    let Ok(Done::Retired(_)) = emulate(insn, &mut machine) else {
        return;
    };
    if is_undefined(insn, &before) {
        return;
    }
    if std::env::var_os("VERBOSE").is_some() {
        eprintln!("{:02x?}", &code[..insn.len.into()]);
    }
    let mut host = before.clone();
    host.written = machine.state.written.clone();
    run_on_host(&stub, &mut host);
    let mask = (STATUS | 0x400) & !undefined_flags(insn, &before);
    host.rflags &= mask;
    machine.state.rflags &= mask;
    assert_eq!(machine.rip, rip + u64::from(insn.len));
    let bytes = &code[..insn.len.into()];
    for n in 0..16 {
        let (ours, theirs) = (machine.state.gprs[n], host.gprs[n]);
        assert_eq!(
            ours, theirs,
            "register {n}: {bytes:02x?} {insn:?} {:x?}",
            before.gprs
        );
    }
    let (ours, theirs) = (machine.state.rflags, host.rflags);
    assert_eq!(
        ours, theirs,
        "flags: {bytes:02x?} {insn:?} {:x?} {ours:x} {theirs:x}",
        before.gprs
    );
    assert_eq!(machine.state, host, "{bytes:02x?} {insn:?}");
    let name = format!("{:?} {:?}", insn.code_size, insn.op);
    *compared.entry(name).or_default() += 1;
}
