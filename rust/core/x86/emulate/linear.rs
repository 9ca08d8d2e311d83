// SPDX-License-Identifier: GPL-2.0

//! From a segment and an offset to memory: the checks of segmentation, and accesses through them.
//!
//! SDM 3A "Limit Checking", 5.3; "Type Checking", 5.4; "Canonical Addressing", Vol. 1, 3.3.7.1.

use super::cpu::{
    Cpu,
    Mode, //
};
use super::flags::CR4_LA57;
use super::insn::{
    Mem,
    SegReg,
    Width, //
};
use super::ops::{
    Access,
    EmulOps,
    SegmentView,
    Stop,
    Swap, //
};
use crate::addr::Gva;
use crate::outcome::Exception;

impl<O: EmulOps> Cpu<'_, O> {
    /// Returns the offset that a memory operand names, cut to the address size.
    pub(super) fn effective(&self, mem: &Mem) -> u64 {
        let base = mem.base.map_or(0, |base| self.gpr(base));
        let index = mem
            .index
            .map_or(0, |index| self.gpr(index).wrapping_shl(mem.scale.into()));
        let next = if mem.rip_relative { self.next_rip() } else { 0 };
        let sum = base
            .wrapping_add(index)
            .wrapping_add(mem.disp)
            .wrapping_add(next);
        self.insn.address_size.cut(sum)
    }

    /// Returns the linear address of `len` bytes at an offset in a segment.
    ///
    /// # Errors
    ///
    /// [`Stop::Fault`]: #SS(0) for the stack segment, #GP(0) for others.
    pub(super) fn linear(
        &self,
        segment: SegReg,
        offset: u64,
        len: u64,
        access: Access,
    ) -> Result<Gva, Stop> {
        let last = len.saturating_sub(1);
        let allowed = match self.mode {
            Mode::Long => {
                let address = Gva(self.long_base(segment).wrapping_add(offset));
                let both =
                    self.is_canonical(address.0) && self.is_canonical(address.wrapping_add(last).0);
                both.then_some(address)
            }
            Mode::Protected => {
                let view = self.ops.segment(segment);
                (is_accessible(&view, access) && is_within(&view, offset, last))
                    .then_some(Gva(Width::Dword.cut(view.base.wrapping_add(offset))))
            }
            Mode::Real | Mode::Virtual8086 => {
                let view = self.ops.segment(segment);
                (offset.saturating_add(last) <= u64::from(view.limit))
                    .then_some(Gva(Width::Dword.cut(view.base.wrapping_add(offset))))
            }
        };
        allowed.ok_or(Stop::Fault(if segment == SegReg::Ss {
            Exception::SS0
        } else {
            Exception::GP0
        }))
    }

    /// Returns the base that 64-bit mode uses: that of FS and GS, else 0.
    pub(super) fn long_base(&self, segment: SegReg) -> u64 {
        match segment {
            SegReg::Fs | SegReg::Gs => self.ops.segment(segment).base,
            SegReg::Es | SegReg::Cs | SegReg::Ss | SegReg::Ds | SegReg::Tr | SegReg::Ldtr => 0,
        }
    }

    /// Returns whether the bits above the linear-address width equal the one below.
    pub(super) fn is_canonical(&self, address: u64) -> bool {
        let is_in = |bits: u32| {
            let excess = address.checked_shr(bits.saturating_sub(1)).unwrap_or(0);
            let ones = u64::MAX
                .checked_shr(bits.saturating_sub(1))
                .unwrap_or(u64::MAX);
            excess == 0 || excess == ones
        };
        // What is canonical in 48 bits is so in 57, too.
        is_in(48) || (is_in(57) && self.ops.cr4() & CR4_LA57 != 0)
    }

    /// Returns the linear address of a memory operand.
    pub(super) fn linear_of(&self, mem: &Mem, access: Access) -> Result<Gva, Stop> {
        self.linear(mem.segment, self.effective(mem), mem.size.into(), access)
    }

    /// Returns how many of `len` bytes at `address` lie below the end of the linear space, beyond
    /// which it continues at 0.
    fn before_wrap(&self, address: Gva, len: usize) -> usize {
        if self.is_long() {
            return len;
        }
        let room = (1_u64 << 32).saturating_sub(address.0);
        usize::try_from(room).map_or(len, |room| room.min(len))
    }

    /// Reads memory.
    pub(super) fn read_bytes(
        &mut self,
        segment: SegReg,
        offset: u64,
        bytes: &mut [u8],
        access: Access,
    ) -> Result<(), Stop> {
        let address = self.linear(segment, offset, bytes.len() as u64, access)?;
        let (head, tail) = bytes.split_at_mut(self.before_wrap(address, bytes.len()));
        self.ops.read(address, head, access)?;
        if tail.is_empty() {
            return Ok(());
        }
        self.ops.read(Gva(0), tail, access)
    }

    /// Writes memory.
    pub(super) fn write_bytes(
        &mut self,
        segment: SegReg,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Stop> {
        let address = self.linear(segment, offset, bytes.len() as u64, Access::Write)?;
        let (head, tail) = bytes.split_at(self.before_wrap(address, bytes.len()));
        if tail.is_empty() {
            return self.ops.write(address, head, Access::Write);
        }
        self.ops.probe_write(Gva(0), tail.len(), Access::Write)?;
        self.ops.write(address, head, Access::Write)?;
        self.ops.write(Gva(0), tail, Access::Write)
    }

    /// Checks that memory can be written.
    pub(super) fn probe(&mut self, segment: SegReg, offset: u64, len: usize) -> Result<(), Stop> {
        let address = self.linear(segment, offset, len as u64, Access::Write)?;
        let head = self.before_wrap(address, len);
        self.ops.probe_write(address, head, Access::Write)?;
        match len.saturating_sub(head) {
            0 => Ok(()),
            tail => self.ops.probe_write(Gva(0), tail, Access::Write),
        }
    }

    /// Reads an integer.
    pub(super) fn read_int(
        &mut self,
        segment: SegReg,
        offset: u64,
        width: Width,
        access: Access,
    ) -> Result<u64, Stop> {
        let mut bytes = [0; 8];
        if let Some(part) = bytes.get_mut(..width.bytes().into()) {
            self.read_bytes(segment, offset, part, access)?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes an integer.
    pub(super) fn write_int(
        &mut self,
        segment: SegReg,
        offset: u64,
        width: Width,
        value: u64,
    ) -> Result<(), Stop> {
        let bytes = value.to_le_bytes();
        let part = bytes.get(..width.bytes().into()).unwrap_or(&bytes);
        self.write_bytes(segment, offset, part)
    }

    /// Exchanges memory that should still hold `old`, as a locked instruction does.
    ///
    /// # Errors
    ///
    /// - [`Stop::Raced`]: it does not.
    /// - [`Stop::Unhandleable`]: the operand wraps around the linear space.
    pub(super) fn swap_bytes(&mut self, mem: &Mem, old: &[u8], new: &[u8]) -> Result<(), Stop> {
        let address = self.linear_of(mem, Access::Modify)?;
        if self.before_wrap(address, old.len()) < old.len() {
            return Err(Stop::Unhandleable);
        }
        match self.ops.cmpxchg(address, old, new)? {
            Swap::Done => Ok(()),
            Swap::Differs => Err(Stop::Raced),
        }
    }
}

/// Returns whether the type of a segment allows an access.
fn is_accessible(view: &SegmentView, access: Access) -> bool {
    let rights = view.rights;
    let allowed = match access {
        Access::Read => !rights.code() || rights.second(),
        Access::Write | Access::Modify => !rights.code() && rights.second(),
        Access::SystemRead | Access::SystemWrite => true,
    };
    allowed && !rights.unusable()
}

/// Returns whether bytes `offset` to `offset + last` are within the limit.
fn is_within(view: &SegmentView, offset: u64, last: u64) -> bool {
    let rights = view.rights;
    let end = offset.saturating_add(last);
    if !rights.code() && rights.expand_down() {
        let top = if rights.big() {
            Width::Dword.mask()
        } else {
            Width::Word.mask()
        };
        return offset > u64::from(view.limit) && end <= top;
    }
    end <= u64::from(view.limit)
}
