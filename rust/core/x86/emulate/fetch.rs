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

    /// Returns the first `len` bytes as a number.
    fn first(&self, len: usize) -> u128 {
        let mut le = [0; 16];
        for (to, from) in le.iter_mut().zip(self.bytes) {
            *to = from;
        }
        let unused =
            u32::try_from(16_usize.saturating_sub(len)).map_or(128, |n| n.saturating_mul(8));
        u128::from_le_bytes(le) & u128::MAX.checked_shr(unused).unwrap_or(0)
    }
}

/// Returns the code size that the vCPU is in.
pub fn code_size<O: EmulOps>(ops: &O) -> CodeSize {
    let rights = ops.code_rights();
    if ops.efer() & EFER_LMA != 0 && rights.long() {
        CodeSize::Bits64
    } else if rights.big() {
        CodeSize::Bits32
    } else {
        CodeSize::Bits16
    }
}

/// How many instructions a [`Decoded`] holds.
const NR_DECODED: usize = 8;

/// Instructions that were decoded lately, found again by their bytes: a driver accesses a device by few.
#[derive(Clone, Debug, Default)]
pub struct Decoded([Slot; NR_DECODED]);

/// An instruction, with the bytes that it was decoded from, and 0 behind them.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    bytes: u128,
    insn: Option<Insn>,
}

impl Slot {
    fn holds(&self, bytes: &InsnBytes, size: CodeSize) -> bool {
        self.insn.is_some_and(|insn| {
            let len = usize::from(insn.len);
            insn.code_size == size && len <= bytes.len && bytes.first(len) == self.bytes
        })
    }
}

impl Decoded {
    /// Makes an empty one.
    pub const fn new() -> Self {
        Self(
            [Slot {
                bytes: 0,
                insn: None,
            }; NR_DECODED],
        )
    }

    fn slot(&mut self, rip: u64) -> Option<&mut Slot> {
        let [low, ..] = (rip ^ (rip >> 3)).to_le_bytes();
        self.0.get_mut(usize::from(low) % NR_DECODED)
    }
}

/// Fetches and decodes the instruction at CS:RIP. `bytes` holds what was fetched, also on errors.
///
/// The second page is touched only if the instruction reaches into it. What `decoded` has for the same
/// bytes is not decoded again.
///
/// # Errors
///
/// - [`Stop::Fault`]: #GP(0) beyond the limit or for more than 15 bytes, #UD, or #PF.
/// - [`Stop::Unhandleable`]: an encoding of unknown length, or the fetch says so.
pub fn fetch<'d, O: EmulOps>(
    ops: &mut O,
    bytes: &mut InsnBytes,
    decoded: &'d mut Decoded,
) -> Result<&'d Insn, Stop> {
    *bytes = InsnBytes::default();
    let size = code_size(ops);
    fetch_more(ops, bytes, size)?;
    let slot = decoded.slot(ops.rip()).ok_or(Stop::Unhandleable)?;
    if !slot.holds(bytes, size) {
        let insn = decode_all(ops, bytes, size)?;
        *slot = Slot {
            bytes: bytes.first(insn.len.into()),
            insn: Some(insn),
        };
    }
    slot.insn.as_ref().ok_or(Stop::Unhandleable)
}

/// Decodes `bytes`, and fetches more of them where they do not suffice.
fn decode_all<O: EmulOps>(
    ops: &mut O,
    bytes: &mut InsnBytes,
    size: CodeSize,
) -> Result<Insn, Stop> {
    loop {
        match decode(bytes.as_slice(), size) {
            Ok(insn) => return Ok(insn),
            Err(DecodeError::NeedMoreBytes) => fetch_more(ops, bytes, size)?,
            Err(DecodeError::TooLong) => return Err(Stop::GP0),
            Err(DecodeError::Undefined) => return Err(Stop::UD),
            Err(DecodeError::Unsupported) => return Err(Stop::Unhandleable),
        }
    }
}

/// Fetches what is left of the page, the segment, or the longest instruction.
fn fetch_more<O: EmulOps>(ops: &mut O, bytes: &mut InsnBytes, size: CodeSize) -> Result<(), Stop> {
    let mode = mode_of(ops, size);
    let address = address_of(ops, mode, bytes.len);
    let room = fetchable(ops, mode, address, bytes.len);
    let end = bytes.len.saturating_add(room);
    let part = bytes
        .bytes
        .get_mut(bytes.len..end)
        .ok_or(Stop::Unhandleable)?;
    if part.is_empty() {
        return Err(Stop::GP0);
    }
    ops.fetch(address, part)?;
    bytes.len = end;
    Ok(())
}

/// Returns the linear address of byte `done` of the instruction.
fn address_of<O: EmulOps>(ops: &O, mode: Mode, done: usize) -> Gva {
    let offset = ops.rip().wrapping_add(done as u64);
    match mode {
        Mode::Long => Gva(offset),
        Mode::Real | Mode::Virtual8086 | Mode::Protected => {
            Gva(ops.segment(SegReg::Cs).base.wrapping_add(offset) & 0xffff_ffff)
        }
    }
}

/// Returns how many bytes can be fetched at once after `done`: to the end of the page, of the
/// segment, and of the longest instruction.
fn fetchable<O: EmulOps>(ops: &O, mode: Mode, address: Gva, done: usize) -> usize {
    let page = PAGE_SIZE.wrapping_sub(address.page_offset());
    let segment = match mode {
        Mode::Long => u64::MAX,
        Mode::Real | Mode::Virtual8086 | Mode::Protected => {
            let offset = ops.rip().wrapping_add(done as u64);
            u64::from(ops.segment(SegReg::Cs).limit)
                .saturating_add(1)
                .saturating_sub(offset)
        }
    };
    let rest = MAX_LEN.saturating_sub(done);
    usize::try_from(page.min(segment)).map_or(rest, |room| room.min(rest))
}
