// SPDX-License-Identifier: GPL-2.0

//! IN and OUT, and the permission to use a port.

use super::cpu::{
    Cpu,
    Mode, //
};
use super::exec_mov::from_le;
use super::insn::{
    SegReg,
    Width, //
};
use super::ops::{
    Access,
    EmulOps,
    Stop, //
};
use crate::addr::Gva;

impl<O: EmulOps> Cpu<'_, O> {
    pub(super) fn exec_in(&mut self) -> Result<(), Stop> {
        let port = (self.read_operand(1)? & 0xffff) as u16;
        let width = self.width_of(0);
        self.check_port(port, width)?;
        let value = self.port_read(port, width, 1)?;
        self.write_operand(0, value)
    }

    pub(super) fn exec_out(&mut self) -> Result<(), Stop> {
        let port = (self.read_operand(0)? & 0xffff) as u16;
        let width = self.width_of(1);
        self.check_port(port, width)?;
        let value = self.read_operand(1)?;
        self.port_write(port, width, value)
    }

    pub(super) fn port_read(&mut self, port: u16, width: Width, ahead: u32) -> Result<u64, Stop> {
        let mut bytes = [0; 4];
        let part = bytes
            .get_mut(..width.bytes().into())
            .ok_or(Stop::Unhandleable)?;
        self.ops.port_in(port, part, ahead)?;
        Ok(from_le(part))
    }

    pub(super) fn port_write(&mut self, port: u16, width: Width, value: u64) -> Result<(), Stop> {
        let bytes = value.to_le_bytes();
        let part = bytes
            .get(..width.bytes().into())
            .ok_or(Stop::Unhandleable)?;
        self.ops.port_out(port, part)
    }

    /// Checks that the guest may use a port: by the I/O privilege level, else by the bitmap in the
    /// task-state segment. SDM 1 "I/O Permission Bit Map", 20.5.2.
    pub(super) fn check_port(&mut self, port: u16, width: Width) -> Result<(), Stop> {
        let by_level = self.mode != Mode::Virtual8086 && self.ops.cpl() <= self.iopl();
        if self.mode == Mode::Real || by_level {
            return Ok(());
        }
        let base = u64::from(self.read_tss(0x66)?);
        let bits = self.read_tss(base.wrapping_add(u64::from(port >> 3)))?;
        let wanted = 1_u16.wrapping_shl(width.bytes().into()).wrapping_sub(1);
        if bits & wanted.wrapping_shl(u32::from(port & 7)) != 0 {
            return Err(Stop::GP0);
        }
        Ok(())
    }

    /// Reads a word of the task-state segment; #GP(0) beyond its limit.
    fn read_tss(&mut self, offset: u64) -> Result<u16, Stop> {
        let tr = self.ops.segment(SegReg::Tr);
        if tr.rights.unusable() || offset.wrapping_add(1) > u64::from(tr.limit) {
            return Err(Stop::GP0);
        }
        let mut bytes = [0; 2];
        let address = Gva(tr.base.wrapping_add(offset));
        self.ops.read(address, &mut bytes, Access::SystemRead)?;
        Ok(u16::from_le_bytes(bytes))
    }
}
