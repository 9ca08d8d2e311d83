// SPDX-License-Identifier: GPL-2.0

//! A vCPU in memory, with accesses that can be made to wait or to fault.

use std::collections::BTreeMap;

use crate::addr::Gva;
use crate::outcome::Exception;
use crate::x86::emulate::*;

/// Where the code is.
pub(super) const CODE: u64 = 0x1000;

/// Everything that an instruction can change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct State {
    pub(super) gprs: [u64; 16],
    pub(super) rip: u64,
    pub(super) rflags: u64,
    pub(super) segments: [SegmentView; 8],
    pub(super) gdtr: TableView,
    pub(super) idtr: TableView,
    pub(super) cr0: u64,
    pub(super) xmm: [[u8; 16]; 16],
    /// Bytes written; others hold [`background`].
    pub(super) memory: BTreeMap<u64, u8>,
    /// Port accesses: port, value, whether written.
    pub(super) ports: Vec<(u16, Vec<u8>, bool)>,
    /// Hooks called, by name.
    pub(super) hooks: Vec<String>,
}

/// What an access does, other than to work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mood {
    /// Works.
    Calm,
    /// Waits once for each access, and replays it in the next run.
    Waiting,
    /// Faults at the access of this number.
    Faulting(usize),
}

pub(super) struct Machine {
    pub(super) state: State,
    pub(super) cr4: u64,
    pub(super) efer: u64,
    pub(super) cpl: u8,
    pub(super) mood: Mood,
    /// What each read of a port was told of those that follow.
    pub(super) ahead: Vec<u32>,
    /// Registers at the last commit.
    pub(super) committed: State,
    /// Memory accesses: what kind, where, how long.
    pub(super) accesses: Vec<(&'static str, u64, usize)>,
    pub(super) waits: usize,
    /// Makes the next compare-and-exchange lose.
    pub(super) race: bool,
    replay: Vec<Vec<u8>>,
    cursor: usize,
    count: usize,
}

/// Memory that was never written.
pub(super) fn background(address: u64) -> u8 {
    (address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

pub(super) fn flat(rights: u32) -> SegmentView {
    SegmentView {
        selector: 0x10,
        base: 0,
        limit: u32::MAX,
        rights: SegmentRights(rights),
    }
}

impl Machine {
    fn new(code: SegmentView, data: SegmentView, bytes: &[u8]) -> Self {
        let mut segments = [data; 8];
        segments[SegReg::Cs as usize] = code;
        segments[SegReg::Tr as usize] = SegmentView {
            selector: 0x40,
            base: 0x7000,
            limit: 0xfff,
            rights: SegmentRights(0x8b),
        };
        let state = State {
            gprs: [0; 16],
            rip: CODE,
            rflags: 2,
            segments,
            gdtr: TableView {
                base: 0x6000,
                limit: 0xff,
            },
            idtr: TableView {
                base: 0,
                limit: 0x3ff,
            },
            cr0: 0x11,
            xmm: [[0; 16]; 16],
            memory: BTreeMap::new(),
            ports: Vec::new(),
            hooks: Vec::new(),
        };
        let mut machine = Self {
            committed: state.clone(),
            state,
            cr4: 1 << 9,
            efer: 0,
            cpl: 0,
            mood: Mood::Calm,
            ahead: Vec::new(),
            accesses: Vec::new(),
            waits: 0,
            race: false,
            replay: Vec::new(),
            cursor: 0,
            count: 0,
        };
        machine.state.gprs[usize::from(RSP)] = 0x8000;
        machine.poke(machine.state.segments[1].base + CODE, bytes);
        machine
    }

    /// 64-bit mode, CPL 0.
    pub(super) fn long(bytes: &[u8]) -> Self {
        let mut machine = Self::new(flat(0xa09b), flat(0xc093), bytes);
        machine.efer = 0x500;
        machine
    }

    /// 32-bit protected mode, CPL 0.
    pub(super) fn protected(bytes: &[u8]) -> Self {
        Self::new(flat(0xc09b), flat(0xc093), bytes)
    }

    /// Real mode, CS based at 0x1_0000, the others at 0.
    pub(super) fn real(bytes: &[u8]) -> Self {
        let view = |selector: u16| SegmentView {
            selector,
            base: u64::from(selector) << 4,
            limit: 0xffff,
            rights: SegmentRights(0x93),
        };
        let mut machine = Self::new(view(0x1000), view(0), bytes);
        machine.state.cr0 = 0x10;
        machine
    }

    pub(super) fn with(mut self, register: u8, value: u64) -> Self {
        self.state.gprs[usize::from(register)] = value;
        self
    }

    pub(super) fn gpr(&self, register: u8) -> u64 {
        self.state.gprs[usize::from(register)]
    }

    pub(super) fn poke(&mut self, address: u64, bytes: &[u8]) {
        for (n, byte) in bytes.iter().enumerate() {
            self.state
                .memory
                .insert(address.wrapping_add(n as u64), *byte);
        }
    }

    pub(super) fn peek(&self, address: u64, len: usize) -> u64 {
        let mut bytes = [0; 8];
        self.peek_bytes(address, &mut bytes[..len]);
        u64::from_le_bytes(bytes)
    }

    fn peek_bytes(&self, address: u64, bytes: &mut [u8]) {
        for (n, byte) in bytes.iter_mut().enumerate() {
            let at = address.wrapping_add(n as u64);
            *byte = self
                .state
                .memory
                .get(&at)
                .copied()
                .unwrap_or_else(|| background(at));
        }
    }

    /// Fetches and emulates until the instruction is complete, or stops other than to wait.
    pub(super) fn run(&mut self) -> Result<Done, Stop> {
        loop {
            match self.step() {
                Err(Stop::Wait) => {}
                Ok(Done::Again) => {}
                other => return other,
            }
        }
    }

    /// Fetches and emulates once.
    pub(super) fn step(&mut self) -> Result<Done, Stop> {
        self.committed = self.registers();
        let mut decoded = Decoded::new();
        let insn = fetch(self, &mut InsnBytes::default(), &mut decoded)?;
        self.cursor = 0;
        emulate(insn, self)
    }

    /// Returns the state without memory and devices.
    fn registers(&self) -> State {
        let State {
            gprs,
            rip,
            rflags,
            segments,
            gdtr,
            idtr,
            cr0,
            xmm,
            ..
        } = self.state;
        State {
            gprs,
            rip,
            rflags,
            segments,
            gdtr,
            idtr,
            cr0,
            xmm,
            memory: BTreeMap::new(),
            ports: Vec::new(),
            hooks: Vec::new(),
        }
    }

    /// Counts an access; returns the record of it if it was made before.
    fn enter(&mut self, what: &'static str, at: u64, data: &[u8]) -> Result<Option<Vec<u8>>, Stop> {
        self.accesses.push((what, at, data.len()));
        self.count += 1;
        match self.mood {
            Mood::Calm => Ok(None),
            Mood::Faulting(n) if n + 1 == self.count => {
                Err(Stop::Fault(Exception::page_fault(Gva(at), 2)))
            }
            Mood::Faulting(_) => Ok(None),
            Mood::Waiting if self.cursor < self.replay.len() => {
                self.cursor += 1;
                Ok(Some(self.replay[self.cursor - 1].clone()))
            }
            Mood::Waiting => {
                self.replay.push(data.to_vec());
                self.waits += 1;
                Err(Stop::Wait)
            }
        }
    }

    fn hook(&mut self, name: String) -> Result<(), Stop> {
        self.enter("hook", 0, &[])?;
        self.state.hooks.push(name);
        Ok(())
    }
}

fn read_kind(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Modify => "modify",
        Access::SystemRead => "system",
        Access::Write | Access::SystemWrite => panic!("a read to write"),
    }
}

impl EmulOps for Machine {
    fn gpr(&self, index: u8) -> u64 {
        self.state.gprs[usize::from(index)]
    }
    fn set_gpr(&mut self, index: u8, value: u64) {
        self.state.gprs[usize::from(index)] = value;
    }
    fn rip(&self) -> u64 {
        self.state.rip
    }
    fn set_rip(&mut self, value: u64) {
        self.state.rip = value;
    }
    fn rflags(&self) -> u64 {
        self.state.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.state.rflags = value;
    }
    fn segment(&self, register: SegReg) -> SegmentView {
        self.state.segments[register as usize]
    }
    fn set_segment(&mut self, register: SegReg, value: SegmentView) {
        self.state.segments[register as usize] = value;
    }
    fn gdtr(&self) -> TableView {
        self.state.gdtr
    }
    fn idtr(&self) -> TableView {
        self.state.idtr
    }
    fn cr0(&self) -> u64 {
        self.state.cr0
    }
    fn cr4(&self) -> u64 {
        self.cr4
    }
    fn efer(&self) -> u64 {
        self.efer
    }
    fn cpl(&self) -> u8 {
        self.cpl
    }

    fn fetch(&mut self, address: Gva, bytes: &mut [u8]) -> Result<(), Stop> {
        assert!(
            address.page_offset() + bytes.len() as u64 <= 4096,
            "crosses a page"
        );
        self.peek_bytes(address.0, bytes);
        Ok(())
    }
    fn read(&mut self, address: Gva, bytes: &mut [u8], access: Access) -> Result<(), Stop> {
        self.peek_bytes(address.0, bytes);
        if let Some(before) = self.enter(read_kind(access), address.0, bytes)? {
            bytes.copy_from_slice(&before);
        }
        Ok(())
    }
    fn probe_write(&mut self, address: Gva, len: usize, _access: Access) -> Result<(), Stop> {
        self.enter("probe", address.0, &vec![0; len]).map(|_| ())
    }
    fn write(&mut self, address: Gva, bytes: &[u8], _access: Access) -> Result<(), Stop> {
        self.enter("write", address.0, bytes)?;
        self.poke(address.0, bytes);
        Ok(())
    }
    fn cmpxchg(&mut self, address: Gva, old: &[u8], new: &[u8]) -> Result<Swap, Stop> {
        assert_eq!(old.len(), new.len());
        self.enter("swap", address.0, old)?;
        if core::mem::take(&mut self.race) {
            return Ok(Swap::Differs);
        }
        self.poke(address.0, new);
        Ok(Swap::Done)
    }
    fn port_in(&mut self, port: u16, bytes: &mut [u8], ahead: u32) -> Result<(), Stop> {
        self.ahead.push(ahead);
        bytes.copy_from_slice(&0x8765_43a1_u32.to_le_bytes()[..bytes.len()]);
        if self.enter("in", port.into(), bytes)?.is_none() || self.mood == Mood::Waiting {
            self.state.ports.push((port, bytes.to_vec(), false));
        }
        Ok(())
    }
    fn port_out(&mut self, port: u16, bytes: &[u8]) -> Result<(), Stop> {
        self.enter("out", port.into(), bytes)?;
        self.state.ports.push((port, bytes.to_vec(), true));
        Ok(())
    }
    fn committed(&mut self) {
        self.replay.clear();
        self.cursor = 0;
        self.committed = self.registers();
    }

    fn xmm(&mut self, index: u8) -> Result<[u8; 16], Stop> {
        Ok(self.state.xmm[usize::from(index)])
    }
    fn set_xmm(&mut self, index: u8, value: [u8; 16]) -> Result<(), Stop> {
        self.enter("xmm", 0, &[])?;
        self.state.xmm[usize::from(index)] = value;
        Ok(())
    }
    fn read_cr(&mut self, index: u8) -> Result<u64, Stop> {
        self.hook(format!("read cr{index}"))?;
        Ok(0xc0_0000_0000 | u64::from(index))
    }
    fn write_cr(&mut self, index: u8, value: u64) -> Result<(), Stop> {
        self.hook(format!("write cr{index} {value:x}"))
    }
    fn read_dr(&mut self, index: u8) -> Result<u64, Stop> {
        self.hook(format!("read dr{index}"))?;
        Ok(0xd0 | u64::from(index))
    }
    fn write_dr(&mut self, index: u8, value: u64) -> Result<(), Stop> {
        self.hook(format!("write dr{index} {value:x}"))
    }
    fn read_msr(&mut self, index: u32) -> Result<u64, Stop> {
        self.hook(format!("rdmsr {index:x}"))?;
        Ok(0x1111_2222_3333_4444)
    }
    fn write_msr(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        self.hook(format!("wrmsr {index:x} {value:x}"))
    }
    fn set_gdtr(&mut self, value: TableView) -> Result<(), Stop> {
        self.enter("hook", 0, &[])?;
        self.state.gdtr = value;
        Ok(())
    }
    fn set_idtr(&mut self, value: TableView) -> Result<(), Stop> {
        self.enter("hook", 0, &[])?;
        self.state.idtr = value;
        Ok(())
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop> {
        self.hook(format!("cpuid {leaf:x} {subleaf:x}"))?;
        Ok([1, 2, 3, 4])
    }
    fn rdtsc(&mut self) -> Result<u64, Stop> {
        self.hook("rdtsc".into())?;
        Ok(0x5_0000_0006)
    }
    fn invlpg(&mut self, address: Gva) -> Result<(), Stop> {
        self.hook(format!("invlpg {:x}", address.0))
    }
    fn halt(&mut self) -> Result<(), Stop> {
        self.hook("hlt".into())
    }
    fn wbinvd(&mut self) -> Result<(), Stop> {
        self.hook("wbinvd".into())
    }
}
