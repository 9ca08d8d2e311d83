// SPDX-License-Identifier: GPL-2.0

//! The emulator's view of a vCPU, and emulation that waits for userspace.
//!
//! Core's emulator is a restartable transaction: where an access needs userspace, it stops without a
//! trace, and runs again from the start when the answer is there. What devices gave it so far is in
//! the [`Replay`], so that no device is read twice. Writes are posted there, and carried out one by
//! one after the instruction.

use crate::arch::x86::{
    cpu::Cpu,
    guest_mem::LinearError,
    outcome::{
        self,
        Direction,
        EptFault,
        Handled,
        Outcome,
        UserExit, //
    },
    state::Completion, //
};
use burrow_core::{
    addr::{
        Gpa,
        Gva,
        PAGE_SIZE, //
    },
    outcome::{
        Bug,
        Exception, //
    },
    stats::VcpuStat,
    x86::{
        emulate::{
            self,
            Access,
            CodeSize,
            Done,
            EmulOps,
            Insn,
            InsnBytes,
            SegReg,
            SegmentRights,
            SegmentView,
            Shadow,
            Stop,
            Swap,
            TableView, //
        },
        event::Interruptibility,
        nested::merge,
        regs::Rflags,
        segment::{
            AccessRights,
            Name,
            Segment,
            Selector, //
        },
        vmx::field::*,
        walk::{
            Kind,
            Privilege, //
        },
    },
};
use kernel::{
    error::Error,
    sync::atomic::Relaxed, //
};

/// The most device accesses of one transaction: 64 bytes in single bytes is more than any
/// instruction that the emulator executes needs, as it reads at most two operands of 16 bytes.
const MAX_ACCESSES: usize = 16;

/// One access to a device, of at most 8 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Fragment {
    address: u64,
    data: [u8; 8],
    len: u8,
    is_port: bool,
}

/// The size in bytes of what [`Items`] holds: 64 doublewords.
const ITEMS: usize = 256;

/// What a port gave ahead of the reads of a repeated INS: one exit brings them all.
#[derive(Debug)]
struct Items {
    bytes: [u8; ITEMS],
    port: u16,
    size: usize,
    len: usize,
    next: usize,
}

impl Default for Items {
    fn default() -> Self {
        Self {
            bytes: [0; ITEMS],
            port: 0,
            size: 0,
            len: 0,
            next: 0,
        }
    }
}

impl Items {
    fn take(&mut self, port: u16, size: usize) -> Option<[u8; 8]> {
        if self.next >= self.len || self.port != port || self.size != size {
            return None;
        }
        let mut data = [0; 8];
        let item = self.bytes.get(self.next..)?.get(..size)?;
        data.get_mut(..size)?.copy_from_slice(item);
        self.next += size;
        Some(data)
    }
}

/// What the emulator has done so far of an instruction that is not complete.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// What devices gave, in order.
    reads: [[u8; 8]; MAX_ACCESSES],
    nr_reads: usize,
    /// How many of `reads` the current attempt has used.
    used: usize,
    /// The read that userspace is asked for.
    waiting: Option<Fragment>,
    /// How many reads of a port follow for sure, that one included.
    ahead: u32,
    /// What userspace gave ahead.
    items: Items,
    /// Writes for userspace, in order.
    writes: [Fragment; MAX_ACCESSES],
    nr_writes: usize,
    /// How many of `writes` userspace has had.
    written: usize,
    /// The error of the VMM's memory that stopped the attempt.
    host_error: Option<Error>,
    /// The fault in L1's EPT that stopped it.
    ept_fault: Option<EptFault>,
    /// What the exit says of the access that caused it.
    known: Option<KnownAccess>,
}

/// An access of the current instruction that the processor itself translated before it exited: one by the
/// code that runs, to a linear address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownAccess {
    /// The linear address.
    pub(crate) gva: Gva,
    /// The guest-physical address.
    pub(crate) gpa: Gpa,
    /// It was a write, and not a read.
    pub(crate) is_write: bool,
    /// No memory is there.
    pub(crate) is_device: bool,
}

impl KnownAccess {
    /// Returns the guest-physical address of `len` bytes at `gva`, if they are in the page that is known
    /// and `kind` of access is allowed as the known one was.
    #[inline]
    fn translate(&self, gva: Gva, len: usize, kind: Kind) -> Option<Gpa> {
        let is_allowed = match kind {
            Kind::Read => true,
            Kind::Write => self.is_write,
            Kind::Fetch => false,
        };
        let is_inside = gva.page_offset().saturating_add(len as u64) <= PAGE_SIZE;
        let page = gva.page_base() == self.gva.page_base();
        (is_allowed && is_inside && page)
            .then(|| self.gpa.page_base().wrapping_add(gva.page_offset()))
    }
}

impl Replay {
    fn begin(&mut self) {
        self.used = 0;
        self.nr_writes = 0;
        self.written = 0;
        self.waiting = None;
        self.host_error = None;
        self.ept_fault = None;
    }

    /// Forgets the instruction.
    pub(crate) fn clear(&mut self) {
        self.begin();
        self.nr_reads = 0;
        self.items = Items::default();
    }

    fn has_replay(&self) -> bool {
        self.used < self.nr_reads
    }

    /// Returns the next read of the record, if there is one.
    fn replayed(&mut self) -> Option<[u8; 8]> {
        if self.used >= self.nr_reads {
            return None;
        }
        let data = self.reads.get(self.used).copied();
        self.used += 1;
        data
    }

    fn record(&mut self, data: [u8; 8]) -> Result<(), Stop> {
        let slot = self
            .reads
            .get_mut(self.nr_reads)
            .ok_or(Stop::Unhandleable)?;
        *slot = data;
        self.nr_reads += 1;
        self.used = self.nr_reads;
        Ok(())
    }

    /// Checks that `len` more bytes can be posted in any alignment.
    ///
    /// # Errors
    ///
    /// [`Stop::Wait`] where what is posted must go out first, which [`Cpu::wait`] sees to.
    fn make_room(&self, len: usize) -> Result<(), Stop> {
        let needed = len.div_ceil(8) + 2;
        if self.nr_writes != 0 && self.nr_writes + needed > MAX_ACCESSES {
            return Err(Stop::Wait);
        }
        Ok(())
    }

    fn post(&mut self, fragment: Fragment) -> Result<(), Stop> {
        let slot = self
            .writes
            .get_mut(self.nr_writes)
            .ok_or(Stop::Unhandleable)?;
        *slot = fragment;
        self.nr_writes += 1;
        Ok(())
    }
}

/// A piece of a linear access that lies within one page.
struct Piece {
    gpa: Gpa,
    offset: usize,
    len: usize,
    /// It is known that no memory is there.
    is_device: bool,
}

struct Ops<'a, 'b> {
    cpu: &'a mut Cpu<'b>,
    is_halted: bool,
}

impl Ops<'_, '_> {
    /// Executes an instruction; an ioeventfd of length 0 takes a write without looking at what it is.
    fn execute(&mut self, insn: &Insn) -> Result<Done, Stop> {
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
        emulate::emulate(insn, self)
    }

    fn linear(&mut self, error: LinearError) -> Stop {
        match error {
            LinearError::Fault(exception) => Stop::Fault(exception),
            LinearError::Nested(fault) => {
                self.cpu.arch.replay.ept_fault = Some(fault);
                Stop::Unhandleable
            }
        }
    }

    fn privilege(&self, access: Access) -> Privilege {
        match access {
            Access::SystemRead | Access::SystemWrite => Privilege::Implicit,
            _ => self.cpu.privilege(),
        }
    }

    fn kind(access: Access) -> Kind {
        match access {
            Access::Read | Access::SystemRead => Kind::Read,
            Access::Write | Access::Modify | Access::SystemWrite => Kind::Write,
        }
    }

    /// Translates an access, which may cross into a second page, into at most two pieces.
    fn pieces(
        &mut self,
        address: Gva,
        len: usize,
        kind: Kind,
        privilege: Privilege,
    ) -> Result<[Option<Piece>; 2], Stop> {
        if let (Some(known), true) = (self.cpu.arch.replay.known, privilege != Privilege::Implicit)
        {
            if let Some(gpa) = known.translate(address, len, kind) {
                let piece = Piece {
                    gpa,
                    offset: 0,
                    len,
                    is_device: known.is_device,
                };
                return Ok([Some(piece), None]);
            }
        }
        // CAST: an offset in a page.
        let first = (PAGE_SIZE - address.page_offset()) as usize;
        let first = first.min(len);
        let mut pieces = [None, None];
        let parts = [
            (address, 0, first),
            (address.wrapping_add(first as u64), first, len - first),
        ];
        for (piece, (gva, offset, len)) in pieces.iter_mut().zip(parts) {
            if len == 0 {
                break;
            }
            let translated = self.cpu.translate(gva, kind, privilege);
            let gpa = translated.map_err(|error| self.linear(error))?.gpa;
            *piece = Some(Piece {
                gpa,
                offset,
                len,
                is_device: false,
            });
        }
        Ok(pieces)
    }

    fn read_piece(&mut self, piece: &Piece, bytes: &mut [u8]) -> Result<(), Stop> {
        if !piece.is_device && self.cpu.is_memory(piece.gpa) {
            return self.cpu.memory().read(piece.gpa, bytes).map_err(|error| {
                self.cpu.arch.replay.host_error = Some(error);
                Stop::Unhandleable
            });
        }
        let mut gpa = piece.gpa.0;
        for part in bytes.chunks_mut(8) {
            self.read_device(gpa, part, false)?;
            gpa = gpa.wrapping_add(part.len() as u64);
        }
        Ok(())
    }

    fn read_device(&mut self, address: u64, out: &mut [u8], is_port: bool) -> Result<(), Stop> {
        if let Some(data) = self.cpu.arch.replay.replayed() {
            out.copy_from_slice(&data[..out.len()]);
            return Ok(());
        }
        let mut data = [0; 8];
        let piece = &mut data[..out.len()];
        let done = if is_port {
            // CAST: a port number.
            self.cpu
                .pio_in_kernel(address as u16, piece, Direction::Read)
        } else {
            self.cpu
                .mmio_in_kernel(Gpa(address), piece, Direction::Read)
        };
        if done {
            out.copy_from_slice(piece);
            return self.cpu.arch.replay.record(data);
        }
        // CAST: at most 8.
        self.cpu.arch.replay.waiting = Some(Fragment {
            address,
            data: [0; 8],
            len: out.len() as u8,
            is_port,
        });
        Err(Stop::Wait)
    }

    fn write_piece(&mut self, piece: &Piece, bytes: &[u8]) -> Result<(), Stop> {
        if !piece.is_device && self.cpu.is_writable_memory(piece.gpa) {
            return self.cpu.memory().write(piece.gpa, bytes).map_err(|error| {
                self.cpu.arch.replay.host_error = Some(error);
                Stop::Unhandleable
            });
        }
        let mut gpa = piece.gpa.0;
        for part in bytes.chunks(8) {
            self.write_device(gpa, part, false)?;
            gpa = gpa.wrapping_add(part.len() as u64);
        }
        Ok(())
    }

    fn write_device(&mut self, address: u64, bytes: &[u8], is_port: bool) -> Result<(), Stop> {
        let mut data = [0; 8];
        data[..bytes.len()].copy_from_slice(bytes);
        let piece = &mut data[..bytes.len()];
        let done = if is_port {
            // CAST: a port number.
            self.cpu
                .pio_in_kernel(address as u16, piece, Direction::Write)
        } else {
            self.cpu
                .mmio_in_kernel(Gpa(address), piece, Direction::Write)
        };
        if done {
            return Ok(());
        }
        // CAST: at most 8.
        self.cpu.arch.replay.post(Fragment {
            address,
            data,
            len: bytes.len() as u8,
            is_port,
        })
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
        let privilege = self.cpu.privilege();
        let translated = self.cpu.translate(address, Kind::Fetch, privilege);
        let gpa = translated.map_err(|error| self.linear(error))?.gpa;
        self.cpu
            .memory()
            .read(gpa, bytes)
            .map_err(|_| Stop::Unhandleable)
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
        self.is_halted = true;
        Ok(())
    }

    fn wbinvd(&mut self) -> Result<(), Stop> {
        if self.cpu.l1_wants(|v| merge::proc2_12(v).wbinvd_exiting()) {
            return Err(Stop::Raced);
        }
        Ok(())
    }
}

impl Cpu<'_> {
    /// Emulates the instruction at CS:RIP. `known`: the access that it exited for.
    pub(crate) fn emulate_current(&mut self, known: Option<KnownAccess>) -> Handled {
        self.arch.replay.known = known;
        self.emulate_again()
    }

    /// Emulates the instruction at CS:RIP, which has begun already.
    pub(crate) fn emulate_again(&mut self) -> Handled {
        self.vcpu.stats.inc(VcpuStat::InsnEmulation);
        self.arch.replay.begin();
        let mut bytes = InsnBytes::default();
        // Emulation does not nest.
        let Some(mut decoded) = self.arch.decoded.take() else {
            return Err(outcome::Stop::Bug(Bug("emulation within emulation")));
        };
        let mut ops = Ops {
            cpu: self,
            is_halted: false,
        };
        let result =
            emulate::fetch(&mut ops, &mut bytes, &mut decoded).and_then(|insn| ops.execute(insn));
        self.arch.decoded = Some(decoded);
        match result {
            Ok(done) => self.emulated(done),
            Err(Stop::Fault(exception)) => {
                self.arch.replay.clear();
                Err(outcome::Stop::Inject(exception))
            }
            Err(Stop::Wait) => self.wait(),
            // Memory has changed, or the instruction itself, into one that L1 intercepts: the
            // processor meets it again, and makes the exit that is due.
            Err(Stop::Raced) => {
                self.arch.replay.clear();
                Ok(Outcome::Resume)
            }
            Err(Stop::Unhandleable) => {
                let (error, fault) = (self.arch.replay.host_error, self.arch.replay.ept_fault);
                self.arch.replay.clear();
                if let Some(fault) = fault {
                    return self.exit_for_ept(fault);
                }
                match error {
                    Some(error) => Err(outcome::Stop::Fail(error)),
                    None => {
                        self.vcpu.stats.inc(VcpuStat::InsnEmulationFail);
                        self.not_emulated(bytes.as_slice())
                    }
                }
            }
        }
    }

    /// An instruction that cannot be emulated: userspace hears of it, unless it is a program of the
    /// guest's that executed it, or a guest of the guest's, and userspace did not ask.
    fn not_emulated(&mut self, bytes: &[u8]) -> Handled {
        let asked = self.vcpu.vm.options.exit_on_emulation_failure.load(Relaxed);
        if (self.cpl() != 0 || self.is_l2()) && !asked {
            return Err(outcome::Stop::Inject(Exception::UD));
        }
        Ok(Outcome::ToUser(self.emulation_failed(bytes)))
    }

    /// The exit that tells userspace of an instruction that cannot be emulated.
    pub(crate) fn emulation_failed(&self, bytes: &[u8]) -> UserExit {
        let vmcs = self.vmcs();
        let info = [
            u64::from(vmcs.get(VM_EXIT_REASON)),
            self.qualification(),
            u64::from(vmcs.get(IDT_VECTORING_INFO_FIELD)),
            u64::from(vmcs.get(VM_EXIT_INTR_INFO)),
            u64::from(vmcs.get(VM_EXIT_INTR_ERROR_CODE)),
        ];
        UserExit::emulation_failed(bytes, info)
    }

    fn emulated(&mut self, done: Done) -> Handled {
        self.arch.replay.nr_reads = 0;
        if let Done::Retired(shadow) = done {
            self.arch.replay.items.len = 0;
            let state = self.interruptibility().with_sti(false).with_mov_ss(false);
            let state = match shadow {
                Shadow::None => state,
                Shadow::Sti => state.with_sti(true),
                Shadow::MovSs => state.with_mov_ss(true),
            };
            if state != self.interruptibility() {
                self.set_interruptibility(Interruptibility(state.0));
            }
            self.trap_after_instruction();
        }
        self.next_fragment()
    }

    /// Asks userspace for the next posted write, if there is one.
    pub(crate) fn next_fragment(&mut self) -> Handled {
        let replay = &mut self.arch.replay;
        let fragment = match replay.writes.get(replay.written) {
            Some(fragment) if replay.written < replay.nr_writes => *fragment,
            _ => return Ok(Outcome::Resume),
        };
        replay.written += 1;
        self.arch.completion = Some(Completion::Fragments);
        Ok(Outcome::ToUser(
            self.fragment_exit(&fragment, Direction::Write),
        ))
    }

    /// Asks userspace for what the emulator waits for: that posted writes go out, which earlier
    /// iterations of a string instruction made, or else a read.
    fn wait(&mut self) -> Handled {
        if self.arch.replay.nr_writes != 0 {
            self.arch.replay.waiting = None;
            return self.next_fragment();
        }
        let Some(fragment) = self.arch.replay.waiting else {
            return Err(outcome::Stop::Bug(Bug("the emulator waits for nothing")));
        };
        self.arch.completion = Some(Completion::Emulate {
            is_port: fragment.is_port,
        });
        if fragment.is_port {
            return Ok(Outcome::ToUser(self.items_exit(&fragment)));
        }
        Ok(Outcome::ToUser(
            self.fragment_exit(&fragment, Direction::Read),
        ))
    }

    fn fragment_exit(&self, fragment: &Fragment, direction: Direction) -> UserExit {
        if !fragment.is_port {
            return UserExit::Mmio {
                direction,
                address: fragment.address,
                data: fragment.data,
                len: fragment.len,
            };
        }
        self.vcpu.pages.pio.write_bytes(0, &fragment.data);
        UserExit::Io {
            direction,
            // CAST: a port number.
            port: fragment.address as u16,
            size: fragment.len,
            count: 1,
        }
    }

    /// Asks userspace for all that INS reads for sure.
    fn items_exit(&mut self, fragment: &Fragment) -> UserExit {
        let size = usize::from(fragment.len).max(1);
        let replay = &mut self.arch.replay;
        let count = (replay.ahead as usize).clamp(1, ITEMS / size);
        replay.items = Items {
            // CAST: a port number.
            port: fragment.address as u16,
            size,
            len: count * size,
            ..Items::default()
        };
        UserExit::Io {
            direction: Direction::Read,
            port: fragment.address as u16,
            size: fragment.len,
            // CAST: at most ITEMS.
            count: count as u32,
        }
    }

    /// Takes what userspace answered to the read of a port.
    pub(crate) fn take_items(&mut self) {
        let replay = &mut self.arch.replay;
        let len = replay.items.len;
        if let Some(bytes) = replay.items.bytes.get_mut(..len) {
            self.vcpu.pages.pio.read_bytes(0, bytes);
        }
        let (port, size) = (replay.items.port, replay.items.size);
        if let Some(first) = replay.items.take(port, size) {
            self.take_emulated_read(first);
        }
    }

    /// Records what userspace answered to the read that the emulator waits for.
    pub(crate) fn take_emulated_read(&mut self, data: [u8; 8]) {
        if let Some(read) = self.arch.replay.waiting.take() {
            self.note_device_read(read.address, read.is_port, data.get(..read.len.into()));
            // The record had room when the read was attempted, or the attempt would have failed.
            let _ = self.arch.replay.record(data);
        }
    }

    /// Returns whether memory backs `gpa`.
    fn is_memory(&self, gpa: Gpa) -> bool {
        self.memory().is_memory(gpa)
    }

    /// Returns whether memory that can be written backs `gpa`.
    fn is_writable_memory(&self, gpa: Gpa) -> bool {
        self.memory().is_writable(gpa)
    }
}
