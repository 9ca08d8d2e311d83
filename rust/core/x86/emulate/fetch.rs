// SPDX-License-Identifier: GPL-2.0

//! Fetching and decoding the instruction at CS:RIP.

use super::cpu::{
    mode_of,
    Mode, //
};
use super::decode::decode;
use super::flags::EFER_LMA;
use super::insn::{
    CodeSize,
    DecodeError,
    Insn,
    SegReg,
    MAX_LEN, //
};
use super::ops::{
    EmulOps,
    Stop, //
};
use crate::addr::{
    Gva,
    PAGE_SIZE, //
};

/// The bytes of an instruction, for the report of one that could not be emulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InsnBytes {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl InsnBytes {
    /// Returns the bytes fetched, at most 15; they may go on past the instruction.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

/// Returns the code size that the vCPU is in.
pub fn code_size<O: EmulOps>(ops: &O) -> CodeSize {
    let rights = ops.segment(SegReg::Cs).rights;
    if ops.efer() & EFER_LMA != 0 && rights.long() {
        CodeSize::Bits64
    } else if rights.big() {
        CodeSize::Bits32
    } else {
        CodeSize::Bits16
    }
}

/// Fetches and decodes the instruction at CS:RIP. `bytes` holds what was fetched, also on errors.
///
/// The second page is touched only if the instruction reaches into it.
///
/// # Errors
///
/// - [`Stop::Fault`]: #GP(0) beyond the limit or for more than 15 bytes, #UD, or #PF.
/// - [`Stop::Unhandleable`]: an encoding of unknown length, or the fetch says so.
pub fn fetch<O: EmulOps>(ops: &mut O, bytes: &mut InsnBytes) -> Result<Insn, Stop> {
    *bytes = InsnBytes::default();
    let size = code_size(ops);
    loop {
        let room = fetchable(ops, size, bytes.len);
        let end = bytes.len.saturating_add(room);
        let address = address_of(ops, size, bytes.len);
        let part = bytes
            .bytes
            .get_mut(bytes.len..end)
            .ok_or(Stop::Unhandleable)?;
        if part.is_empty() {
            return Err(Stop::GP0);
        }
        ops.fetch(address, part)?;
        bytes.len = end;
        match decode(bytes.as_slice(), size) {
            Ok(insn) => return Ok(insn),
            Err(DecodeError::NeedMoreBytes) => {}
            Err(DecodeError::TooLong) => return Err(Stop::GP0),
            Err(DecodeError::Undefined) => return Err(Stop::UD),
            Err(DecodeError::Unsupported) => return Err(Stop::Unhandleable),
        }
    }
}

/// Returns the linear address of byte `done` of the instruction.
fn address_of<O: EmulOps>(ops: &O, size: CodeSize, done: usize) -> Gva {
    let offset = ops.rip().wrapping_add(done as u64);
    match mode_of(ops, size) {
        Mode::Long => Gva(offset),
        Mode::Real | Mode::Virtual8086 | Mode::Protected => {
            Gva(ops.segment(SegReg::Cs).base.wrapping_add(offset) & 0xffff_ffff)
        }
    }
}

/// Returns how many bytes can be fetched at once after `done`: to the end of the page, of the
/// segment, and of the longest instruction.
fn fetchable<O: EmulOps>(ops: &O, size: CodeSize, done: usize) -> usize {
    let offset = ops.rip().wrapping_add(done as u64);
    let page = PAGE_SIZE.wrapping_sub(address_of(ops, size, done).page_offset());
    let segment = match mode_of(ops, size) {
        Mode::Long => u64::MAX,
        Mode::Real | Mode::Virtual8086 | Mode::Protected => {
            u64::from(ops.segment(SegReg::Cs).limit)
                .saturating_add(1)
                .saturating_sub(offset)
        }
    };
    let rest = MAX_LEN.saturating_sub(done);
    usize::try_from(page.min(segment)).map_or(rest, |room| room.min(rest))
}
