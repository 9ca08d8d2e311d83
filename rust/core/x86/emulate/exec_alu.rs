// SPDX-License-Identifier: GPL-2.0

//! Arithmetic, logic, shifts, multiplication, division and bit instructions.

use super::alu;
use super::alu::FlagChange;
use super::cpu::Cpu;
use super::insn::{
    Mem,
    Operand,
    Width,
    RAX,
    RCX,
    RDX, //
};
use super::muldiv;
use super::muldiv::Double;
use super::op::{
    Alu,
    BitScan,
    BitTest,
    Decimal,
    DoubleShift,
    MulDiv,
    Shift,
    Unary, //
};
use super::ops::{
    Access,
    EmulOps,
    Stop, //
};
use super::shift;
use crate::outcome::{
    vector,
    Exception, //
};

const DIVIDE_ERROR: Stop = Stop::Fault(Exception::plain(vector::DE));

impl<O: EmulOps> Cpu<'_, O> {
    pub(super) fn exec_alu(&mut self, op: Alu) -> Result<(), Stop> {
        let width = self.width_of(0);
        let rflags = self.rflags();
        if matches!(op, Alu::Cmp | Alu::Test) {
            let a = self.read_operand(0)?;
            let b = self.read_cut(1, width)?;
            let (_, flags) = alu::binary(op, width, a, b, rflags);
            self.set_flags(flags);
            return Ok(());
        }
        let b = self.read_cut(1, width)?;
        let (_, flags) = self.modify(|a| alu::binary(op, width, a, b, rflags))?;
        self.set_flags(flags);
        Ok(())
    }

    pub(super) fn exec_unary(&mut self, op: Unary) -> Result<(), Stop> {
        let width = self.width_of(0);
        let (_, flags) = self.modify(|a| alu::unary(op, width, a))?;
        self.set_flags(flags);
        Ok(())
    }

    pub(super) fn exec_shift(&mut self, op: Shift) -> Result<(), Stop> {
        let width = self.width_of(0);
        let rflags = self.rflags();
        let count = self.read_operand(1)?;
        let (_, flags) = self.modify(|a| shift::shift(op, width, a, count, rflags))?;
        self.set_flags(flags);
        Ok(())
    }

    pub(super) fn exec_double_shift(&mut self, op: DoubleShift) -> Result<(), Stop> {
        let width = self.width_of(0);
        let fill = self.read_operand(1)?;
        let count = self.read_operand(2)?;
        let (_, flags) = self.modify(|a| shift::double_shift(op, width, a, fill, count))?;
        self.set_flags(flags);
        Ok(())
    }

    pub(super) fn exec_muldiv(&mut self, op: MulDiv) -> Result<(), Stop> {
        let width = self.width_of(0);
        if op == MulDiv::ImulTrunc {
            return self.imul_truncated(width);
        }
        let source = self.read_operand(0)?;
        let accumulator = self.wide_accumulator(width);
        let result = match op {
            MulDiv::Mul => muldiv::mul(width, accumulator.low, source),
            MulDiv::Imul | MulDiv::ImulTrunc => muldiv::imul(width, accumulator.low, source),
            MulDiv::Div => divided(muldiv::div(width, accumulator, source))?,
            MulDiv::Idiv => divided(muldiv::idiv(width, accumulator, source))?,
        };
        let (double, flags) = result;
        self.set_wide_accumulator(width, double);
        self.set_flags(flags);
        Ok(())
    }

    /// IMUL of two operands or three.
    fn imul_truncated(&mut self, width: Width) -> Result<(), Stop> {
        let (a, b) = if let Operand::Imm(imm) = self.insn.operand(2) {
            (self.read_operand(1)?, width.cut(imm))
        } else {
            (self.read_operand(0)?, self.read_operand(1)?)
        };
        let (product, flags) = muldiv::imul(width, a, b);
        self.set_flags(flags);
        self.write_operand(0, product.low)
    }

    /// Returns AX as two bytes, or rDX:rAX.
    fn wide_accumulator(&self, width: Width) -> Double {
        let rax = self.gpr(RAX);
        let high = if width == Width::Byte {
            rax >> 8
        } else {
            self.gpr(RDX)
        };
        Double {
            high: width.cut(high),
            low: width.cut(rax),
        }
    }

    fn set_wide_accumulator(&mut self, width: Width, value: Double) {
        if width == Width::Byte {
            self.set_gpr_low(RAX, Width::Word, (value.high << 8) | value.low);
        } else {
            self.set_gpr_low(RAX, width, value.low);
            self.set_gpr_low(RDX, width, value.high);
        }
    }

    pub(super) fn exec_bit_test(&mut self, op: BitTest) -> Result<(), Stop> {
        let width = self.width_of(0);
        let bit = self.read_operand(1)?;
        let low = (bit & 63) as u32 & width.bits().wrapping_sub(1);
        match (self.insn.operand(0), self.insn.operand(1)) {
            (Operand::Mem(mem), Operand::Gpr(_)) => {
                // The offset reaches beyond the operand.
                let displaced = displace(&mem, width, bit);
                self.bit_test_memory(op, &displaced, width, low)
            }
            (Operand::Mem(mem), _) => self.bit_test_memory(op, &mem, width, low),
            _ => {
                let (new, flags) = alu::bit_test(op, self.read_operand(0)?, low);
                self.set_flags(flags);
                // BT does not even clear the high half of a doubleword register.
                match op {
                    BitTest::Bt => Ok(()),
                    BitTest::Bts | BitTest::Btr | BitTest::Btc => self.write_operand(0, new),
                }
            }
        }
    }

    fn bit_test_memory(
        &mut self,
        op: BitTest,
        mem: &Mem,
        width: Width,
        bit: u32,
    ) -> Result<(), Stop> {
        let access = if op == BitTest::Bt {
            Access::Read
        } else {
            Access::Modify
        };
        let offset = self.effective(mem);
        let old = self.read_int(mem.segment, offset, width, access)?;
        let (new, flags) = alu::bit_test(op, old, bit);
        if self.insn.prefixes.lock {
            self.swap_int(mem, old, new)?;
        } else if op != BitTest::Bt {
            self.write_int(mem.segment, offset, width, new)?;
        }
        self.set_flags(flags);
        Ok(())
    }

    pub(super) fn exec_bit_scan(&mut self, op: BitScan) -> Result<(), Stop> {
        let width = self.width_of(1);
        let source = self.read_operand(1)?;
        let (result, flags) = alu::bit_scan(op, width, source);
        self.set_flags(flags);
        match result {
            Some(result) => self.write_operand(0, result),
            None => Ok(()),
        }
    }

    pub(super) fn exec_decimal(&mut self, op: Decimal) -> Result<(), Stop> {
        let Operand::Imm(base) = self.insn.operand(0) else {
            return self.adjust_decimal(op, 0);
        };
        self.adjust_decimal(op, base)
    }

    /// Adjusts AX; `base` is for AAM and AAD.
    fn adjust_decimal(&mut self, op: Decimal, base: u64) -> Result<(), Stop> {
        let ax = Width::Word.cut(self.gpr(RAX));
        let (ax, flags) = alu::decimal(op, ax, base, self.rflags()).ok_or(DIVIDE_ERROR)?;
        self.set_gpr_low(RAX, Width::Word, ax);
        self.set_flags(flags);
        Ok(())
    }

    /// Returns the count register cut to the address size.
    pub(super) fn counter(&self) -> u64 {
        self.insn.address_size.cut(self.gpr(RCX))
    }
}

/// Puts quotient and remainder where DIV leaves them; it changes no flags.
fn divided(result: Option<(u64, u64)>) -> Result<(Double, FlagChange), Stop> {
    let (quotient, remainder) = result.ok_or(DIVIDE_ERROR)?;
    Ok((
        Double {
            high: remainder,
            low: quotient,
        },
        FlagChange::NONE,
    ))
}

/// Moves a memory operand by the whole operands in a signed bit offset.
fn displace(mem: &Mem, width: Width, bit: u64) -> Mem {
    let whole = width.sign_extend(bit) & !u64::from(width.bits()).wrapping_sub(1);
    // An arithmetic shift by 3: bits to bytes.
    let bytes = (whole >> 3)
        | if whole >> 63 != 0 {
            !(u64::MAX >> 3)
        } else {
            0
        };
    Mem {
        disp: mem.disp.wrapping_add(bytes),
        ..*mem
    }
}
