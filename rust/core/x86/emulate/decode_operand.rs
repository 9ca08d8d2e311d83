// SPDX-License-Identifier: GPL-2.0

//! From operand forms of the tables to [`Operand`]s.

use super::decode::Decoder;
use super::insn::{
    DecodeError,
    Gpr,
    Mem,
    ModRm,
    Operand,
    SegReg,
    Width,
    RAX,
    RCX,
    RDI,
    RDX,
    RSI, //
};
use super::table::{
    Form,
    Size, //
};

impl Decoder<'_> {
    /// Makes the operand of `form`, reading what it has in the bytes.
    pub(super) fn operand(&mut self, form: Form) -> Result<Operand, DecodeError> {
        Ok(match form {
            Form::None => Operand::None,
            Form::Reg(size) => self.gpr(self.reg_field(), size),
            Form::Rm(size) => self.rm(size, size)?,
            Form::RmMixed(register, memory) => self.rm(register, memory)?,
            Form::RmReg(size) => self.gpr(self.rm_field(), size),
            Form::Mem(size) => Operand::Mem(self.mem_of(size).ok_or(DecodeError::Undefined)?),
            Form::Opcode(size) => self.gpr((self.opcode & 7) | self.prefixes.rex_b(), size),
            Form::Acc(size) => self.gpr(RAX, size),
            Form::Cl => gpr(RCX, Width::Byte),
            Form::Dx => gpr(RDX, Width::Word),
            Form::One => Operand::Imm(1),
            Form::Seg(segment) => Operand::Seg(segment),
            Form::SegReg => self.seg_reg()?,
            Form::Cr => self.control_register()?,
            Form::Dr => self.debug_register()?,
            Form::Imm8 => Operand::Imm(self.reader.number(1)?),
            Form::Imm8s => Operand::Imm(self.reader.signed(Width::Byte)?),
            Form::Imm16 => Operand::Imm(self.reader.number(2)?),
            Form::Imm => Operand::Imm(self.reader.signed(self.operand_max4())?),
            Form::ImmFull => Operand::Imm(self.reader.signed(self.operand_size)?),
            Form::Rel8 => Operand::Rel(self.reader.signed(Width::Byte)?),
            Form::Rel => Operand::Rel(self.reader.signed(self.operand_max4())?),
            Form::FarPtr => self.far_pointer()?,
            Form::Moffs(size) => self.moffs(size)?,
            Form::Source(size) => self.source(size),
            Form::Dest(size) => self.dest(size),
            Form::Mm => Operand::Mm(self.reg_field() & 7),
            Form::MmRm => self.vector(Operand::Mm(self.rm_field() & 7), 8),
            Form::Xmm => Operand::Xmm(self.reg_field()),
            Form::XmmRm(size) => self.vector(Operand::Xmm(self.rm_field()), size),
        })
    }

    fn reg_field(&self) -> u8 {
        self.modrm.map_or(0, ModRm::reg) | self.prefixes.rex_r()
    }

    fn rm_field(&self) -> u8 {
        self.modrm.map_or(0, ModRm::rm) | self.prefixes.rex_b()
    }

    fn operand_max4(&self) -> Width {
        self.operand_size.min(Width::Dword)
    }

    /// Returns the number of bytes of `size`.
    fn bytes_of(&self, size: Size) -> u8 {
        let operand = self.operand_size.bytes();
        let rex_w = if self.prefixes.rex_w() { 8 } else { 4 };
        match size {
            Size::Any => 0,
            Size::Bytes(bytes) => bytes,
            Size::Operand => operand,
            Size::OperandMax4 => self.operand_max4().bytes(),
            Size::RexW => rex_w,
            Size::Native if self.is_long() => 8,
            Size::Native => 4,
            Size::Far => operand.wrapping_add(2),
            Size::Pair => operand.wrapping_mul(2),
            Size::RexWPair => rex_w.wrapping_mul(2),
            Size::Table if self.is_long() => 10,
            Size::Table => 6,
        }
    }

    /// Returns general register `index` with the width of `size`.
    fn gpr(&self, index: u8, size: Size) -> Operand {
        let width = Width::from_bytes(self.bytes_of(size)).unwrap_or(self.operand_size);
        // Without REX, the byte registers 4 to 7 are AH, CH, DH and BH.
        if width == Width::Byte && self.prefixes.rex == 0 && index & 4 != 0 {
            return Operand::Gpr(Gpr {
                index: index & 3,
                width,
                high: true,
            });
        }
        gpr(index, width)
    }

    /// Returns the memory operand of ModRM with `size`, or `None` if it names a register.
    fn mem_of(&self, size: Size) -> Option<Mem> {
        self.memory.map(|mem| Mem {
            size: self.bytes_of(size),
            ..mem
        })
    }

    fn rm(&self, register: Size, memory: Size) -> Result<Operand, DecodeError> {
        Ok(match self.mem_of(memory) {
            Some(mem) => Operand::Mem(mem),
            None => self.gpr(self.rm_field(), register),
        })
    }

    fn vector(&self, register: Operand, size: u8) -> Operand {
        self.mem_of(Size::Bytes(size))
            .map_or(register, Operand::Mem)
    }

    /// Reads a segment register; CS cannot be loaded by MOV.
    fn seg_reg(&self) -> Result<Operand, DecodeError> {
        let segment = self
            .modrm
            .and_then(|modrm| SegReg::from_encoding(modrm.reg()))
            .ok_or(DecodeError::Undefined)?;
        if segment == SegReg::Cs && self.opcode == 0x8e {
            return Err(DecodeError::Undefined);
        }
        Ok(Operand::Seg(segment))
    }

    /// Reads a control register: CR0, CR2, CR3, CR4 and CR8 exist.
    fn control_register(&self) -> Result<Operand, DecodeError> {
        match self.reg_field() {
            register @ (0 | 2 | 3 | 4 | 8) => Ok(Operand::Cr(register)),
            _ => Err(DecodeError::Undefined),
        }
    }

    /// Reads a debug register: DR0 to DR7.
    fn debug_register(&self) -> Result<Operand, DecodeError> {
        match self.reg_field() {
            register @ 0..=7 => Ok(Operand::Dr(register)),
            _ => Err(DecodeError::Undefined),
        }
    }

    fn far_pointer(&mut self) -> Result<Operand, DecodeError> {
        let offset = self.reader.number(self.operand_max4().bytes())?;
        let selector = self.reader.number(2)?;
        Ok(Operand::Far {
            selector: (selector & 0xffff) as u16,
            offset: (offset & 0xffff_ffff) as u32,
        })
    }

    fn moffs(&mut self, size: Size) -> Result<Operand, DecodeError> {
        let disp = self.reader.number(self.address_size.bytes())?;
        Ok(Operand::Mem(Mem {
            size: self.bytes_of(size),
            disp,
            ..self.mem(None)
        }))
    }

    fn source(&self, size: Size) -> Operand {
        Operand::Mem(Mem {
            size: self.bytes_of(size),
            ..self.mem(Some(RSI))
        })
    }

    /// Returns the destination string, whose segment cannot be overridden.
    fn dest(&self, size: Size) -> Operand {
        Operand::Mem(Mem {
            size: self.bytes_of(size),
            segment: SegReg::Es,
            ..self.mem(Some(RDI))
        })
    }
}

fn gpr(index: u8, width: Width) -> Operand {
    Operand::Gpr(Gpr {
        index,
        width,
        high: false,
    })
}

impl Form {
    /// Returns whether the form takes part of the ModRM byte.
    pub(super) fn uses_modrm(self) -> bool {
        match self {
            Form::Reg(_)
            | Form::Rm(_)
            | Form::RmMixed(..)
            | Form::RmReg(_)
            | Form::Mem(_)
            | Form::SegReg
            | Form::Cr
            | Form::Dr
            | Form::Mm
            | Form::MmRm
            | Form::Xmm
            | Form::XmmRm(_) => true,
            Form::None
            | Form::Opcode(_)
            | Form::Acc(_)
            | Form::Cl
            | Form::Dx
            | Form::One
            | Form::Seg(_)
            | Form::Imm8
            | Form::Imm8s
            | Form::Imm16
            | Form::Imm
            | Form::ImmFull
            | Form::Rel8
            | Form::Rel
            | Form::FarPtr
            | Form::Moffs(_)
            | Form::Source(_)
            | Form::Dest(_) => false,
        }
    }
}
