// SPDX-License-Identifier: GPL-2.0

//! String instructions, repeated or not.
//!
//! Each iteration is a transaction of its own. A repeated instruction stops after a batch of them,
//! so that events can be looked at.

use super::alu;
use super::cpu::Cpu;
use super::flags::{
    DF,
    ZF, //
};
use super::insn::{
    Operand,
    Rep,
    RCX,
    RDI,
    RDX,
    RSI, //
};
use super::op::{
    Alu,
    Str, //
};
use super::ops::{
    Access,
    Done,
    EmulOps,
    Shadow,
    Stop, //
};
use crate::addr::PAGE_SIZE;

/// The most iterations between looks at pending events.
const BATCH: u32 = 64;

impl<O: EmulOps> Cpu<'_, O> {
    pub(super) fn exec_string(&mut self, op: Str) -> Result<Done, Stop> {
        if self.insn.prefixes.rep == Rep::None {
            self.iterate(op)?;
            self.retire();
            return Ok(Done::Retired(Shadow::None));
        }
        for _ in 0..BATCH {
            if self.counter() == 0 {
                self.retire();
                return Ok(Done::Retired(Shadow::None));
            }
            self.iterate(op)?;
            let count = self.counter().wrapping_sub(1);
            self.set_gpr_low(RCX, self.insn.address_size, count);
            if self.insn.address_size.cut(count) == 0 || self.ends_early(op) {
                self.retire();
                return Ok(Done::Retired(Shadow::None));
            }
            self.commit();
        }
        Ok(Done::Again)
    }

    /// Returns whether ZF ends the repetition of a comparison.
    fn ends_early(&self, op: Str) -> bool {
        let equal = self.rflags() & ZF != 0;
        match op {
            Str::Cmps | Str::Scas => equal != (self.insn.prefixes.rep == Rep::Rep),
            Str::Movs | Str::Stos | Str::Lods | Str::Ins | Str::Outs => false,
        }
    }

    fn iterate(&mut self, op: Str) -> Result<(), Stop> {
        match op {
            Str::Movs => self.movs(),
            Str::Cmps | Str::Scas => self.compare(),
            Str::Stos | Str::Lods => self.copy_string(),
            Str::Ins => self.ins(),
            Str::Outs => self.outs(),
        }?;
        self.advance(op);
        Ok(())
    }

    /// STOS and LODS: operand 1 to operand 0.
    fn copy_string(&mut self) -> Result<(), Stop> {
        let value = self.read_operand(1)?;
        self.write_operand(0, value)
    }

    /// MOVS; the destination is probed first, as to read the source may have side effects.
    fn movs(&mut self) -> Result<(), Stop> {
        self.probe_string()?;
        self.copy_string()
    }

    fn probe_string(&mut self) -> Result<(), Stop> {
        let Operand::Mem(mem) = self.insn.operand(0) else {
            return Err(Stop::Unhandleable);
        };
        self.probe(mem.segment, self.effective(&mem), mem.size.into())
    }

    fn compare(&mut self) -> Result<(), Stop> {
        let width = self.width_of(0);
        let a = self.read_operand(0)?;
        let b = self.read_operand(1)?;
        let (_, flags) = alu::binary(Alu::Cmp, width, a, b, self.rflags());
        self.set_flags(flags);
        Ok(())
    }

    fn ins(&mut self) -> Result<(), Stop> {
        let port = (self.gpr(RDX) & 0xffff) as u16;
        let width = self.width_of(0);
        self.check_port(port, width)?;
        self.probe_string()?;
        let ahead = self.ins_ahead()?;
        let value = self.port_read(port, width, ahead)?;
        self.write_operand(0, value)
    }

    /// Returns how many iterations of INS follow for sure, from this one on: those whose destinations
    /// are in the same page, upwards, and in the segment.
    fn ins_ahead(&self) -> Result<u32, Stop> {
        let Operand::Mem(mem) = self.insn.operand(0) else {
            return Err(Stop::Unhandleable);
        };
        if self.insn.prefixes.rep == Rep::None || self.rflags() & DF != 0 {
            return Ok(1);
        }
        let size = u64::from(mem.size).max(1);
        let in_page = PAGE_SIZE.saturating_sub(self.linear_of(&mem, Access::Write)?.page_offset());
        let count = self
            .counter()
            .min(in_page.checked_div(size).unwrap_or(0))
            .clamp(1, BATCH.into());
        let offset = self.effective(&mem);
        let len = count.saturating_mul(size);
        let last = offset.saturating_add(len.saturating_sub(1));
        let wraps = self.insn.address_size.cut(last) != last;
        if wraps
            || self
                .linear(mem.segment, offset, len, Access::Write)
                .is_err()
        {
            return Ok(1);
        }
        Ok(u32::try_from(count).unwrap_or(1))
    }

    fn outs(&mut self) -> Result<(), Stop> {
        let port = (self.gpr(RDX) & 0xffff) as u16;
        let width = self.width_of(1);
        self.check_port(port, width)?;
        let value = self.read_operand(1)?;
        self.port_write(port, width, value)
    }

    /// Moves the index registers that the instruction uses, by DF.
    fn advance(&mut self, op: Str) {
        let (source, dest) = match op {
            Str::Movs | Str::Cmps => (true, true),
            Str::Lods | Str::Outs => (true, false),
            Str::Stos | Str::Scas | Str::Ins => (false, true),
        };
        let element = self.width_of(if op == Str::Outs { 1 } else { 0 });
        let size = u64::from(element.bytes());
        let step = if self.rflags() & DF != 0 {
            size.wrapping_neg()
        } else {
            size
        };
        for (used, register) in [(source, RSI), (dest, RDI)] {
            if used {
                let value = self.gpr(register).wrapping_add(step);
                self.set_gpr_low(register, self.insn.address_size, value);
            }
        }
    }
}
