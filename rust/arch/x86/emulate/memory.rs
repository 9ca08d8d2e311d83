// SPDX-License-Identifier: GPL-2.0

//! The emulator's accesses to memory and devices.

use super::{
    ops::Ops,
    replay::Fragment, //
};
use crate::{
    arch::x86::{
        cpu::Cpu,
        guest_mem::LinearError,
        outcome::Direction, //
    },
    vm::iobus::{
        Claim,
        May, //
    },
};
use burrow_core::{
    addr::{
        Gpa,
        Gva,
        PAGE_SIZE, //
    },
    x86::{
        emulate::{
            Access,
            Stop, //
        },
        walk::{
            Kind,
            Privilege, //
        },
    },
};

/// A piece of a linear access that lies within one page.
pub(super) struct Piece {
    pub(super) gpa: Gpa,
    pub(super) offset: usize,
    pub(super) len: usize,
    /// It is known that no memory is there.
    is_device: bool,
}

impl Ops<'_, '_> {
    /// Notes a fault in L1's EPT, and returns how the attempt ends.
    pub(super) fn linear(&mut self, error: LinearError) -> Stop {
        match error {
            LinearError::Fault(exception) => Stop::Fault(exception),
            LinearError::Nested(fault) => {
                self.cpu.arch.replay.ept_fault = Some(fault);
                Stop::Unhandleable
            }
        }
    }

    pub(super) fn privilege(&self, access: Access) -> Privilege {
        match access {
            Access::SystemRead | Access::SystemWrite => Privilege::Implicit,
            _ => self.cpu.privilege(),
        }
    }

    pub(super) fn kind(access: Access) -> Kind {
        match access {
            Access::Read | Access::SystemRead => Kind::Read,
            Access::Write | Access::Modify | Access::SystemWrite => Kind::Write,
        }
    }

    /// Translates an access, which may cross into a second page, into at most two pieces.
    pub(super) fn pieces(
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
        if self.may == May::NotSleep {
            return Err(self.not_now());
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

    pub(super) fn read_piece(&mut self, piece: &Piece, bytes: &mut [u8]) -> Result<(), Stop> {
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

    /// Reads from a device: from the record, in the kernel, or by way of userspace.
    pub(super) fn read_device(
        &mut self,
        address: u64,
        out: &mut [u8],
        is_port: bool,
    ) -> Result<(), Stop> {
        if let Some(data) = self.cpu.arch.replay.replayed() {
            out.copy_from_slice(&data[..out.len()]);
            return Ok(());
        }
        let mut data = [0; 8];
        let piece = &mut data[..out.len()];
        match self.ask(address, piece, Direction::Read, is_port) {
            Claim::Taken => {
                out.copy_from_slice(piece);
                return self.cpu.arch.replay.record(data);
            }
            Claim::NotMine => {}
            Claim::NotNow => return Err(self.not_now()),
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

    pub(super) fn write_piece(&mut self, piece: &Piece, bytes: &[u8]) -> Result<(), Stop> {
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

    /// Writes to a device: in the kernel, or posted for userspace.
    pub(super) fn write_device(
        &mut self,
        address: u64,
        bytes: &[u8],
        is_port: bool,
    ) -> Result<(), Stop> {
        let mut data = [0; 8];
        data[..bytes.len()].copy_from_slice(bytes);
        let piece = &mut data[..bytes.len()];
        match self.ask(address, piece, Direction::Write, is_port) {
            Claim::Taken => return Ok(()),
            Claim::NotMine => {}
            Claim::NotNow => return Err(self.not_now()),
        }
        // CAST: at most 8.
        self.cpu.arch.replay.post(Fragment {
            address,
            data,
            len: bytes.len() as u8,
            is_port,
        })
    }

    /// Asks the devices in the kernel.
    fn ask(&mut self, address: u64, data: &mut [u8], direction: Direction, is_port: bool) -> Claim {
        if is_port {
            // CAST: a port number.
            let port = address as u16;
            self.cpu.ask_ports(port, data, direction, self.may)
        } else {
            self.cpu.ask_mmio(Gpa(address), data, direction, self.may)
        }
    }
}

impl Cpu<'_> {
    /// Returns whether memory backs `gpa`.
    fn is_memory(&self, gpa: Gpa) -> bool {
        self.memory().is_memory(gpa)
    }

    /// Returns whether memory that can be written backs `gpa`.
    pub(super) fn is_writable_memory(&self, gpa: Gpa) -> bool {
        self.memory().is_writable(gpa)
    }
}
