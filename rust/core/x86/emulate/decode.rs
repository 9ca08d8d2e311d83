// SPDX-License-Identifier: GPL-2.0

//! From bytes to [`Insn`].
//!
//! Never reads past 15 bytes and never panics, whatever the bytes. Operands are made in `decode_operand.rs`; below is `table`.

use super::insn::{
    CodeSize,
    DecodeError,
    Insn,
    Map,
    Mem,
    ModRm,
    Operand,
    Prefixes,
    Rep,
    SegReg,
    Width,
    MAX_LEN,
    RBP,
    RBX,
    RDI,
    RSI,
    RSP, //
};
use super::op::Op;
use super::table::{
    self,
    Attr,
    Node,
    Row, //
};

/// Decodes the instruction at the start of `bytes`, of which at most 15 are looked at.
///
/// SDM 2A "Instruction Format", chapter 2.
///
/// # Errors
///
/// - [`DecodeError::NeedMoreBytes`]: all of `bytes` are used up and there are fewer than 15.
/// - [`DecodeError::TooLong`]: the instruction does not end within 15 bytes.
/// - [`DecodeError::Undefined`]: the instruction set has no such instruction here.
/// - [`DecodeError::Unsupported`]: a VEX or EVEX map whose lengths are not known.
pub fn decode(bytes: &[u8], code_size: CodeSize) -> Result<Insn, DecodeError> {
    let mut reader = Reader { bytes, pos: 0 };
    let (prefixes, first) = read_prefixes(&mut reader, code_size)?;
    if let Some(insn) = decode_vex(&mut reader, code_size, prefixes, first)? {
        return Ok(insn);
    }
    let (map, opcode, node) = read_opcode(&mut reader, first)?;
    let mut decoder = Decoder {
        reader,
        code_size,
        prefixes,
        opcode,
        modrm: None,
        address_size: address_size(code_size, &prefixes),
        operand_size: Width::Dword,
        memory: None,
    };
    let row = decoder.find_row(node)?;
    let operands = decoder.operands(&row)?;
    check_lock(&prefixes, &row, &operands)?;
    Ok(Insn {
        len: decoder.reader.len(),
        code_size,
        prefixes,
        map,
        opcode,
        modrm: decoder.modrm,
        op: row.op,
        operand_size: decoder.operand_size,
        address_size: decoder.address_size,
        operands,
    })
}

/// The bytes of the instruction, and how many are used.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Result<u8, DecodeError> {
        if self.pos >= MAX_LEN {
            return Err(DecodeError::TooLong);
        }
        self.bytes
            .get(self.pos)
            .copied()
            .ok_or(DecodeError::NeedMoreBytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = self.peek()?;
        self.pos = self.pos.wrapping_add(1);
        Ok(byte)
    }

    /// Reads `count` bytes, at most 8, little-endian.
    pub(super) fn number(&mut self, count: u8) -> Result<u64, DecodeError> {
        let mut value = [0; 8];
        for slot in value.iter_mut().take(count.into()) {
            *slot = self.byte()?;
        }
        Ok(u64::from_le_bytes(value))
    }

    /// Reads a number of `width`, sign-extended.
    pub(super) fn signed(&mut self, width: Width) -> Result<u64, DecodeError> {
        Ok(width.sign_extend(self.number(width.bytes())?))
    }

    fn len(&self) -> u8 {
        u8::try_from(self.pos).unwrap_or(u8::MAX)
    }
}

/// Reads the prefixes; returns them and the first byte of the opcode.
fn read_prefixes(
    reader: &mut Reader<'_>,
    code_size: CodeSize,
) -> Result<(Prefixes, u8), DecodeError> {
    let long = code_size == CodeSize::Bits64;
    let mut prefixes = Prefixes {
        lock: false,
        rep: Rep::None,
        segment: None,
        operand_size: false,
        address_size: false,
        rex: 0,
    };
    loop {
        let byte = reader.byte()?;
        if long && byte & 0xf0 == 0x40 {
            prefixes.rex = byte;
            continue;
        }
        match byte {
            0x26 => set_segment(&mut prefixes, SegReg::Es, long),
            0x2e => set_segment(&mut prefixes, SegReg::Cs, long),
            0x36 => set_segment(&mut prefixes, SegReg::Ss, long),
            0x3e => set_segment(&mut prefixes, SegReg::Ds, long),
            0x64 => prefixes.segment = Some(SegReg::Fs),
            0x65 => prefixes.segment = Some(SegReg::Gs),
            0x66 => prefixes.operand_size = true,
            0x67 => prefixes.address_size = true,
            0xf0 => prefixes.lock = true,
            0xf2 => prefixes.rep = Rep::Repne,
            0xf3 => prefixes.rep = Rep::Rep,
            _ => return Ok((prefixes, byte)),
        }
        // REX counts only right before the opcode.
        prefixes.rex = 0;
    }
}

/// Notes an override of ES, CS, SS or DS, which 64-bit mode ignores.
fn set_segment(prefixes: &mut Prefixes, segment: SegReg, long: bool) {
    if !long {
        prefixes.segment = Some(segment);
    }
}

fn address_size(code_size: CodeSize, prefixes: &Prefixes) -> Width {
    match (code_size, prefixes.address_size) {
        (CodeSize::Bits16, false) | (CodeSize::Bits32, true) => Width::Word,
        (CodeSize::Bits16, true) | (CodeSize::Bits32, false) | (CodeSize::Bits64, true) => {
            Width::Dword
        }
        (CodeSize::Bits64, false) => Width::Qword,
    }
}

fn operand_size(code_size: CodeSize, prefixes: &Prefixes, attr: Attr) -> Width {
    match (code_size, prefixes.operand_size) {
        (CodeSize::Bits16, false) | (CodeSize::Bits32, true) => Width::Word,
        (CodeSize::Bits16, true) | (CodeSize::Bits32, false) => Width::Dword,
        (CodeSize::Bits64, _) if attr.has(Attr::NEAR) || prefixes.rex_w() => Width::Qword,
        (CodeSize::Bits64, true) => Width::Word,
        (CodeSize::Bits64, false) if attr.has(Attr::STACK) => Width::Qword,
        (CodeSize::Bits64, false) => Width::Dword,
    }
}

/// Reads the rest of the opcode; returns map, opcode and table node.
fn read_opcode(reader: &mut Reader<'_>, first: u8) -> Result<(Map, u8, Node), DecodeError> {
    if first != 0x0f {
        return Ok((Map::Primary, first, node_of(&table::PRIMARY, first)));
    }
    let second = reader.byte()?;
    match second {
        0x38 => {
            let opcode = reader.byte()?;
            Ok((Map::Escape0f38, opcode, table::escape_0f38(opcode)))
        }
        0x3a => {
            let opcode = reader.byte()?;
            Ok((Map::Escape0f3a, opcode, table::escape_0f3a(opcode)))
        }
        _ => Ok((Map::Escape0f, second, node_of(&table::ESCAPE_0F, second))),
    }
}

fn node_of(nodes: &[Node], index: u8) -> Node {
    nodes
        .get(usize::from(index))
        .copied()
        .unwrap_or(Node::Undefined)
}

/// Refuses LOCK where the instruction does not allow it. SDM 2A "LOCK".
fn check_lock(prefixes: &Prefixes, row: &Row, operands: &[Operand; 3]) -> Result<(), DecodeError> {
    let [destination, ..] = operands;
    let allowed = row.attr.has(Attr::LOCK) && matches!(destination, Operand::Mem(_));
    if prefixes.lock && !allowed {
        return Err(DecodeError::Undefined);
    }
    Ok(())
}

/// Decodes an instruction with a VEX or EVEX prefix as far as its length; `None` if it has none.
fn decode_vex(
    reader: &mut Reader<'_>,
    code_size: CodeSize,
    prefixes: Prefixes,
    first: u8,
) -> Result<Option<Insn>, DecodeError> {
    if !matches!(first, 0xc4 | 0xc5 | 0x62) {
        return Ok(None);
    }
    // Elsewhere than in 64-bit mode these are LES, LDS and BOUND, of which VEX takes the register
    // forms.
    let second = reader.peek()?;
    if code_size != CodeSize::Bits64 && second < 0xc0 {
        return Ok(None);
    }
    if prefixes.lock || prefixes.operand_size || prefixes.rep != Rep::None || prefixes.rex != 0 {
        return Err(DecodeError::Undefined);
    }
    let map = read_vex_payload(reader, first)?;
    let opcode = reader.byte()?;
    let (number, has_modrm) = match map {
        Map::Vex(number) => (number, number != 1 || opcode != 0x77),
        Map::Evex(number) => (number, true),
        Map::Primary | Map::Escape0f | Map::Escape0f38 | Map::Escape0f3a => (0, true),
    };
    let has_imm = match number {
        1 => matches!(opcode, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6),
        2 | 5 | 6 => false,
        3 => true,
        _ => return Err(DecodeError::Unsupported),
    };
    let mut decoder = Decoder {
        reader: Reader {
            bytes: reader.bytes,
            pos: reader.pos,
        },
        code_size,
        prefixes,
        opcode,
        modrm: None,
        address_size: address_size(code_size, &prefixes),
        operand_size: operand_size(code_size, &prefixes, Attr::NONE),
        memory: None,
    };
    if has_modrm {
        decoder.read_address(Attr::NONE)?;
    }
    if has_imm {
        decoder.reader.byte()?;
    }
    Ok(Some(Insn {
        len: decoder.reader.len(),
        code_size,
        prefixes,
        map,
        opcode,
        modrm: decoder.modrm,
        op: Op::Unsupported,
        operand_size: decoder.operand_size,
        address_size: decoder.address_size,
        operands: [Operand::None; 3],
    }))
}

/// Reads the rest of a VEX or EVEX prefix. SDM 2A "The VEX Prefix", 2.3.5; "EVEX", 2.7.
fn read_vex_payload(reader: &mut Reader<'_>, first: u8) -> Result<Map, DecodeError> {
    let second = reader.byte()?;
    match first {
        0xc5 => Ok(Map::Vex(1)),
        0xc4 => {
            reader.byte()?;
            Ok(Map::Vex(second & 0x1f))
        }
        _ => {
            reader.number(2)?;
            // Bit 3 is reserved: with it, the map is none of those we know.
            Ok(Map::Evex(second & 0x0f))
        }
    }
}

/// The state of decoding between the opcode and the last operand.
pub(super) struct Decoder<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) code_size: CodeSize,
    pub(super) prefixes: Prefixes,
    pub(super) opcode: u8,
    pub(super) modrm: Option<ModRm>,
    pub(super) address_size: Width,
    pub(super) operand_size: Width,
    /// The memory operand of ModRM, without its size.
    pub(super) memory: Option<Mem>,
}

impl Decoder<'_> {
    /// Follows a node to its row.
    fn find_row(&mut self, mut node: Node) -> Result<Row, DecodeError> {
        // The deepest path is group, mode, prefix, r/m and reg.
        for _ in 0..6 {
            node = match node {
                Node::Undefined => return Err(DecodeError::Undefined),
                Node::Row(row) => return self.accept(row),
                Node::ByReg(nodes) => node_of(nodes, self.peek_modrm()?.reg()),
                Node::ByRm(nodes) => node_of(nodes, self.peek_modrm()?.rm()),
                Node::ByMode(nodes) => node_of(nodes, self.peek_modrm()?.is_register().into()),
                Node::ByPrefix(nodes) => node_of(nodes, self.mandatory_prefix()),
                Node::By64(nodes) => node_of(nodes, self.is_long().into()),
            };
        }
        Err(DecodeError::Undefined)
    }

    fn accept(&mut self, row: Row) -> Result<Row, DecodeError> {
        let refused = if self.is_long() {
            Attr::NOT64
        } else {
            Attr::ONLY64
        };
        if row.attr.has(refused) {
            return Err(DecodeError::Undefined);
        }
        self.operand_size = operand_size(self.code_size, &self.prefixes, row.attr);
        Ok(row)
    }

    pub(super) fn is_long(&self) -> bool {
        self.code_size == CodeSize::Bits64
    }

    /// Returns which mandatory prefix there is: 0 none, 1 66, 2 F3, 3 F2.
    fn mandatory_prefix(&self) -> u8 {
        match self.prefixes.rep {
            Rep::Repne => 3,
            Rep::Rep => 2,
            Rep::None => self.prefixes.operand_size.into(),
        }
    }

    /// Reads the ModRM byte, once.
    fn peek_modrm(&mut self) -> Result<ModRm, DecodeError> {
        if let Some(modrm) = self.modrm {
            return Ok(modrm);
        }
        let modrm = ModRm(self.reader.byte()?);
        self.modrm = Some(modrm);
        Ok(modrm)
    }

    /// Reads the operands of `row`, in the order of the bytes.
    fn operands(&mut self, row: &Row) -> Result<[Operand; 3], DecodeError> {
        let uses_modrm = row.forms.iter().any(|form| form.uses_modrm());
        if uses_modrm || row.attr.has(Attr::MODRM) || self.modrm.is_some() {
            self.read_address(row.attr)?;
        }
        let [a, b, c] = row.forms;
        Ok([self.operand(a)?, self.operand(b)?, self.operand(c)?])
    }

    /// Reads ModRM, SIB and displacement.
    fn read_address(&mut self, attr: Attr) -> Result<(), DecodeError> {
        let modrm = self.peek_modrm()?;
        if !modrm.is_register() && !attr.has(Attr::NOMEM) {
            self.memory = Some(match self.address_size {
                Width::Byte | Width::Word => self.read_address16(modrm)?,
                Width::Dword | Width::Qword => self.read_address32(modrm)?,
            });
        }
        Ok(())
    }

    /// Reads an address in its 16-bit form. SDM 2A table 2-1.
    fn read_address16(&mut self, modrm: ModRm) -> Result<Mem, DecodeError> {
        let (base, index) = match modrm.rm() {
            0 => (Some(RBX), Some(RSI)),
            1 => (Some(RBX), Some(RDI)),
            2 => (Some(RBP), Some(RSI)),
            3 => (Some(RBP), Some(RDI)),
            4 => (Some(RSI), None),
            5 => (Some(RDI), None),
            6 if modrm.mode() == 0 => (None, None),
            6 => (Some(RBP), None),
            _ => (Some(RBX), None),
        };
        let disp = match modrm.mode() {
            0 if base.is_some() => 0,
            1 => self.reader.signed(Width::Byte)?,
            _ => self.reader.signed(Width::Word)?,
        };
        Ok(Mem {
            index,
            disp,
            ..self.mem(base)
        })
    }

    /// Reads an address in its 32-bit or 64-bit form. SDM 2A tables 2-2 and 2-3.
    fn read_address32(&mut self, modrm: ModRm) -> Result<Mem, DecodeError> {
        let mut mem = match modrm.rm() {
            4 => self.read_sib(modrm)?,
            5 if modrm.mode() == 0 => Mem {
                rip_relative: self.is_long(),
                ..self.mem(None)
            },
            rm => self.mem(Some(rm | self.prefixes.rex_b())),
        };
        mem.disp = match modrm.mode() {
            0 if mem.base.is_some() => 0,
            1 => self.reader.signed(Width::Byte)?,
            _ => self.reader.signed(Width::Dword)?,
        };
        Ok(mem)
    }

    fn read_sib(&mut self, modrm: ModRm) -> Result<Mem, DecodeError> {
        let sib = ModRm(self.reader.byte()?);
        let base = if sib.rm() == 5 && modrm.mode() == 0 {
            None
        } else {
            Some(sib.rm() | self.prefixes.rex_b())
        };
        let index = sib.reg() | self.prefixes.rex_x();
        // Index 4 means none; with REX.X it is R12.
        Ok(Mem {
            index: (index != RSP).then_some(index),
            scale: sib.mode(),
            ..self.mem(base)
        })
    }

    /// Returns a memory operand with `base`, in the segment that goes with it.
    pub(super) fn mem(&self, base: Option<u8>) -> Mem {
        let default = match base {
            Some(RSP | RBP) => SegReg::Ss,
            _ => SegReg::Ds,
        };
        Mem {
            segment: self.prefixes.segment.unwrap_or(default),
            base,
            index: None,
            scale: 0,
            rip_relative: false,
            size: 0,
            disp: 0,
        }
    }
}
