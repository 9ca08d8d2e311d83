// SPDX-License-Identifier: GPL-2.0

//! The emulator's view of a vCPU.

use crate::{
    arch::x86::{
        code::FetchError,
        cpu::Cpu, //
    },
    vm::iobus::May, //
};
use burrow_core::{
    addr::Gva,
    x86::{
        emulate::{
            self,
            Access,
            CodeSize,
            Done,
            EmulOps,
            Insn,
            SegReg,
            SegmentRights,
            SegmentView,
            Shadow,
            Stop,
            Swap,
            TableView, //
        },
        nested::merge,
        regs::Rflags,
        segment::{
            AccessRights,
            Name,
            Segment,
            Selector, //
        },
        vmx::field::*,
        walk::Kind,
    },
};

/// The vCPU, for an attempt to execute an instruction.
pub(super) struct Ops<'a, 'b> {
    pub(super) cpu: &'a mut Cpu<'b>,
    /// Whether the attempt may sleep: only what is known is accessed otherwise, and devices that can be
    /// asked without.
    pub(super) may: May,
    /// The attempt ends because it would have to sleep.
    pub(super) is_not_now: bool,
}

impl<'a, 'b> Ops<'a, 'b> {
    pub(super) fn new(cpu: &'a mut Cpu<'b>, may: May) -> Self {
        Self {
            cpu,
            may,
            is_not_now: false,
        }
    }

    /// Ends an attempt that would have to sleep.
    pub(super) fn not_now(&mut self) -> Stop {
        self.is_not_now = true;
        Stop::Unhandleable
    }

    /// Executes an instruction; an ioeventfd of length 0 takes a write without looking at what it is.
    pub(super) fn execute(&mut self, insn: &Insn) -> Result<Done, Stop> {
        if let Some(known) = self
            .cpu
            .arch
            .replay
            .known
            .filter(|k| k.is_write && k.is_device)
        {
            if self.cpu.signal_fast_mmio(known.gpa) {
                let reported = self.cpu.vmcs().get(VM_EXIT_INSTRUCTION_LEN);
                self.cpu.host.note_violation_length(reported, insn.len);
                let next = self.cpu.rip().wrapping_add(insn.len.into());
                let is_long = insn.code_size == CodeSize::Bits64;
                self.cpu
                    .set_rip(if is_long { next } else { next & 0xffff_ffff });
                return Ok(Done::Retired(Shadow::None));
            }
        }
        if self.may == May::NotSleep && !insn.op.is_plain_move() {
            return Err(self.not_now());
        }
        emulate::emulate(insn, self)
    }
}

fn name(register: SegReg) -> Name {
    match register {
        SegReg::Es => Name::Es,
        SegReg::Cs => Name::Cs,
        SegReg::Ss => Name::Ss,
        SegReg::Ds => Name::Ds,
        SegReg::Fs => Name::Fs,
        SegReg::Gs => Name::Gs,
        SegReg::Tr => Name::Tr,
        SegReg::Ldtr => Name::Ldtr,
    }
}

impl EmulOps for Ops<'_, '_> {
    fn gpr(&self, index: u8) -> u64 {
        self.cpu.gpr(usize::from(index))
    }

    fn set_gpr(&mut self, index: u8, value: u64) {
        self.cpu.set_gpr(usize::from(index), value);
    }

    fn rip(&self) -> u64 {
        self.cpu.rip()
    }

    fn set_rip(&mut self, value: u64) {
        self.cpu.set_rip(value);
    }

    fn rflags(&self) -> u64 {
        self.cpu.rflags().0
    }

    fn set_rflags(&mut self, value: u64) {
        self.cpu.set_rflags(Rflags(value));
    }

    fn segment(&self, register: SegReg) -> SegmentView {
        let segment = self.cpu.segment(name(register));
        SegmentView {
            selector: segment.selector.0,
            base: segment.base,
            limit: segment.limit,
            rights: SegmentRights(segment.rights.0),
        }
    }

    #[inline]
    fn code_rights(&self) -> SegmentRights {
        SegmentRights(self.cpu.segment_rights(GUEST_CS_AR_BYTES).0)
    }

    fn set_segment(&mut self, register: SegReg, value: SegmentView) {
        let segment = Segment {
            selector: Selector(value.selector),
            base: value.base,
            limit: value.limit,
            rights: AccessRights(value.rights.0),
        };
        self.cpu.set_segment(name(register), segment);
    }

    fn gdtr(&self) -> TableView {
        let table = self.cpu.gdtr();
        TableView {
            base: table.base,
            limit: table.limit,
        }
    }

    fn idtr(&self) -> TableView {
        let table = self.cpu.idtr();
        TableView {
            base: table.base,
            limit: table.limit,
        }
    }

    fn cr0(&self) -> u64 {
        self.cpu.cr0().0
    }

    fn cr4(&self) -> u64 {
        self.cpu.cr4().0
    }

    fn efer(&self) -> u64 {
        self.cpu.efer().0
    }

    fn cpl(&self) -> u8 {
        self.cpu.cpl()
    }

    fn fetch(&mut self, address: Gva, bytes: &mut [u8]) -> Result<(), Stop> {
        if self.may == May::NotSleep {
            return match self.cpu.fetch_as_before(address, bytes) {
                true => Ok(()),
                false => Err(self.not_now()),
            };
        }
        self.cpu
            .fetch_code(address, bytes)
            .map_err(|error| match error {
                FetchError::Linear(error) => self.linear(error),
                FetchError::NoMemory => Stop::Unhandleable,
            })
    }

    fn read(&mut self, address: Gva, bytes: &mut [u8], access: Access) -> Result<(), Stop> {
        let privilege = self.privilege(access);
        let pieces = self.pieces(address, bytes.len(), Self::kind(access), privilege)?;
        for piece in pieces.iter().flatten() {
            let part = bytes
                .get_mut(piece.offset..)
                .and_then(|rest| rest.get_mut(..piece.len));
            self.read_piece(piece, part.ok_or(Stop::Unhandleable)?)?;
        }
        Ok(())
    }

    fn probe_write(&mut self, address: Gva, len: usize, access: Access) -> Result<(), Stop> {
        let privilege = self.privilege(access);
        self.pieces(address, len, Kind::Write, privilege)
            .map(|_| ())
    }

    fn write(&mut self, address: Gva, bytes: &[u8], access: Access) -> Result<(), Stop> {
        self.cpu.arch.replay.make_room(bytes.len())?;
        let privilege = self.privilege(access);
        let pieces = self.pieces(address, bytes.len(), Kind::Write, privilege)?;
        for piece in pieces.iter().flatten() {
            let part = bytes
                .get(piece.offset..)
                .and_then(|rest| rest.get(..piece.len));
            self.write_piece(piece, part.ok_or(Stop::Unhandleable)?)?;
        }
        Ok(())
    }

    fn cmpxchg(&mut self, address: Gva, old: &[u8], new: &[u8]) -> Result<Swap, Stop> {
        let privilege = self.cpu.privilege();
        let [piece, second] = self.pieces(address, new.len(), Kind::Write, privilege)?;
        let Some(piece) = piece else {
            return Err(Stop::Unhandleable);
        };
        if second.is_some() || new.len() > 8 || !self.cpu.is_writable_memory(piece.gpa) {
            self.write(address, new, Access::Write)?;
            return Ok(Swap::Done);
        }
        let word = |bytes: &[u8]| {
            let mut le = [0; 8];
            le[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(le)
        };
        let (old, size) = (word(old), new.len() as u32);
        match self.cpu.memory().cmpxchg(piece.gpa, size, old, word(new)) {
            Ok(Ok(())) => Ok(Swap::Done),
            Ok(Err(_)) => Ok(Swap::Differs),
            Err(error) => {
                self.cpu.arch.replay.host_error = Some(error);
                Err(Stop::Unhandleable)
            }
        }
    }

    fn port_in(&mut self, port: u16, bytes: &mut [u8], ahead: u32) -> Result<(), Stop> {
        if self.cpu.l1_wants_ports(port, bytes.len()) {
            return Err(Stop::Raced);
        }
        let replay = &mut self.cpu.arch.replay;
        if !replay.has_replay() {
            if let Some(data) = replay.items.take(port, bytes.len()) {
                bytes.copy_from_slice(&data[..bytes.len()]);
                return replay.record(data);
            }
        }
        replay.ahead = ahead;
        self.read_device(u64::from(port), bytes, true)
    }

    fn port_out(&mut self, port: u16, bytes: &[u8]) -> Result<(), Stop> {
        if self.cpu.l1_wants_ports(port, bytes.len()) {
            return Err(Stop::Raced);
        }
        self.cpu.arch.replay.make_room(bytes.len())?;
        self.write_device(u64::from(port), bytes, true)
    }

    fn committed(&mut self) {
        self.cpu.arch.replay.nr_reads = 0;
        self.cpu.arch.replay.used = 0;
    }

    fn xmm(&mut self, index: u8) -> Result<[u8; 16], Stop> {
        Ok(burrow_sys::fpu::read_xmm(index))
    }

    fn set_xmm(&mut self, index: u8, value: [u8; 16]) -> Result<(), Stop> {
        burrow_sys::fpu::write_xmm(index, &value);
        Ok(())
    }

    fn halt(&mut self) -> Result<(), Stop> {
        if self.cpu.l1_wants(|v| merge::proc12(v).hlt_exiting()) {
            return Err(Stop::Raced);
        }
        Ok(())
    }

    fn wbinvd(&mut self) -> Result<(), Stop> {
        if self.cpu.l1_wants(|v| merge::proc2_12(v).wbinvd_exiting()) {
            return Err(Stop::Raced);
        }
        Ok(())
    }
}
