// SPDX-License-Identifier: GPL-2.0

//! System instructions: privilege checks here, effects by the hooks of [`EmulOps`].

use super::cpu::{
    Cpu,
    Mode, //
};
use super::exec_mov::from_le;
use super::flags::{
    CR0_PE,
    CR0_TS,
    CR4_TSD,
    CR4_UMIP, //
};
use super::insn::{
    Operand,
    Rep,
    SegReg,
    Width,
    RAX,
    RBX,
    RCX,
    RDX, //
};
use super::op::{
    Nop,
    System, //
};
use super::ops::{
    Access,
    EmulOps,
    Stop,
    TableView, //
};
use crate::addr::Gva;

impl<O: EmulOps> Cpu<'_, O> {
    pub(super) fn exec_system(&mut self, op: System) -> Result<(), Stop> {
        match op {
            System::Cpuid => self.cpuid(),
            System::Rdtsc => self.rdtsc(),
            System::Sgdt => self.store_table(self.ops.gdtr()),
            System::Sidt => self.store_table(self.ops.idtr()),
            System::Sldt => self.store_selector(SegReg::Ldtr),
            System::Str => self.store_selector(SegReg::Tr),
            System::Smsw => self.smsw(),
            System::Hlt
            | System::Rdmsr
            | System::Wrmsr
            | System::Invlpg
            | System::Clts
            | System::Lmsw
            | System::Lgdt
            | System::Lidt
            | System::MovFromCr
            | System::MovToCr
            | System::MovFromDr
            | System::MovToDr
            | System::Invd
            | System::Wbinvd => {
                self.require_cpl0()?;
                self.exec_privileged(op)
            }
        }
    }

    /// Executes an instruction for which CPL 0 has been checked.
    fn exec_privileged(&mut self, op: System) -> Result<(), Stop> {
        match op {
            System::Hlt => self.ops.halt(),
            System::Rdmsr => self.rdmsr(),
            System::Wrmsr => {
                let value = (self.gpr(RDX) << 32) | Width::Dword.cut(self.gpr(RAX));
                let index = self.low32(RCX);
                self.ops.write_msr(index, value)
            }
            System::Invlpg => self.invlpg(),
            System::Clts => {
                let cr0 = self.ops.cr0() & !CR0_TS;
                self.ops.write_cr(0, cr0)
            }
            System::Lmsw => self.lmsw(),
            System::Lgdt => {
                let table = self.load_table()?;
                self.ops.set_gdtr(table)
            }
            System::Lidt => {
                let table = self.load_table()?;
                self.ops.set_idtr(table)
            }
            System::MovFromCr | System::MovFromDr => self.mov_from_system(),
            System::MovToCr | System::MovToDr => self.mov_to_system(),
            System::Invd | System::Wbinvd => self.ops.wbinvd(),
            System::Cpuid
            | System::Rdtsc
            | System::Sgdt
            | System::Sidt
            | System::Sldt
            | System::Str
            | System::Smsw => Err(Stop::Unhandleable),
        }
    }

    fn low32(&self, register: u8) -> u32 {
        (self.gpr(register) & 0xffff_ffff) as u32
    }

    fn cpuid(&mut self) -> Result<(), Stop> {
        let (leaf, subleaf) = (self.low32(RAX), self.low32(RCX));
        let [eax, ebx, ecx, edx] = self.ops.cpuid(leaf, subleaf)?;
        self.set_gpr(RAX, eax.into());
        self.set_gpr(RBX, ebx.into());
        self.set_gpr(RCX, ecx.into());
        self.set_gpr(RDX, edx.into());
        Ok(())
    }

    fn rdtsc(&mut self) -> Result<(), Stop> {
        if self.ops.cr4() & CR4_TSD != 0 && self.mode != Mode::Real && self.ops.cpl() != 0 {
            return Err(Stop::GP0);
        }
        let tsc = self.ops.rdtsc()?;
        self.set_pair(tsc);
        Ok(())
    }

    fn rdmsr(&mut self) -> Result<(), Stop> {
        let value = self.ops.read_msr(self.low32(RCX))?;
        self.set_pair(value);
        Ok(())
    }

    /// Stages EDX:EAX.
    fn set_pair(&mut self, value: u64) {
        self.set_gpr(RAX, Width::Dword.cut(value));
        self.set_gpr(RDX, value >> 32);
    }

    fn invlpg(&mut self) -> Result<(), Stop> {
        let mem = self.insn.memory().ok_or(Stop::UD)?;
        let offset = self.effective(&mem);
        let address = if self.is_long() {
            self.long_base(mem.segment).wrapping_add(offset)
        } else {
            let base = self.ops.segment(mem.segment).base;
            Width::Dword.cut(base.wrapping_add(offset))
        };
        self.ops.invlpg(Gva(address))
    }

    /// LMSW: bits 3:0 of CR0, where PE can be set but not cleared.
    fn lmsw(&mut self) -> Result<(), Stop> {
        let source = self.read_operand(0)?;
        let cr0 = self.ops.cr0();
        let new = (cr0 & !0xf) | (source & 0xf) | (cr0 & CR0_PE);
        self.ops.write_cr(0, new)
    }

    fn smsw(&mut self) -> Result<(), Stop> {
        self.require_no_umip()?;
        let cr0 = self.ops.cr0();
        self.write_operand(0, cr0)
    }

    fn require_no_umip(&self) -> Result<(), Stop> {
        if self.ops.cr4() & CR4_UMIP != 0 && self.mode != Mode::Real && self.ops.cpl() > 0 {
            return Err(Stop::GP0);
        }
        Ok(())
    }

    fn store_selector(&mut self, register: SegReg) -> Result<(), Stop> {
        if self.is_real_like() {
            return Err(Stop::UD);
        }
        self.require_no_umip()?;
        let selector = self.ops.segment(register).selector;
        self.write_operand(0, selector.into())
    }

    /// SGDT and SIDT.
    fn store_table(&mut self, table: TableView) -> Result<(), Stop> {
        self.require_no_umip()?;
        let mem = self.insn.memory().ok_or(Stop::UD)?;
        let image = u128::from(table.limit) | (u128::from(table.base) << 16);
        let bytes = image.to_le_bytes();
        let part = bytes.get(..mem.size.into()).ok_or(Stop::Unhandleable)?;
        let offset = self.effective(&mem);
        self.write_bytes(mem.segment, offset, part)
    }

    /// Reads the operand of LGDT and LIDT; with a 16-bit operand size the base has 24 bits.
    fn load_table(&mut self) -> Result<TableView, Stop> {
        let mem = self.insn.memory().ok_or(Stop::UD)?;
        let mut bytes = [0; 10];
        let part = bytes.get_mut(..mem.size.into()).ok_or(Stop::Unhandleable)?;
        self.read_bytes(mem.segment, self.effective(&mem), part, Access::Read)?;
        let (limit, base) = part.split_at(2.min(part.len()));
        let mut base = from_le(base);
        if self.is_long() && !self.is_canonical(base) {
            return Err(Stop::GP0);
        }
        if !self.is_long() && self.insn.operand_size == Width::Word {
            base &= 0xff_ffff;
        }
        Ok(TableView {
            base,
            limit: (from_le(limit) & 0xffff) as u16,
        })
    }

    fn mov_from_system(&mut self) -> Result<(), Stop> {
        let value = if let Operand::Cr(index) = self.insn.operand(1) {
            self.ops.read_cr(index)?
        } else if let Operand::Dr(index) = self.insn.operand(1) {
            self.ops.read_dr(index)?
        } else {
            return Err(Stop::Unhandleable);
        };
        self.write_operand(0, value)
    }

    fn mov_to_system(&mut self) -> Result<(), Stop> {
        let value = self.read_operand(1)?;
        if let Operand::Cr(index) = self.insn.operand(0) {
            self.ops.write_cr(index, value)
        } else if let Operand::Dr(index) = self.insn.operand(0) {
            self.ops.write_dr(index, value)
        } else {
            Err(Stop::Unhandleable)
        }
    }

    pub(super) fn exec_nop(&mut self, op: Nop) -> Result<(), Stop> {
        match op {
            Nop::Hint | Nop::Fence => Ok(()),
            Nop::Pause => self.ops.pause(),
        }
    }

    /// Executes 90: NOP, or PAUSE with F3.
    pub(super) fn nop_or_pause(&mut self) -> Result<(), Stop> {
        match self.insn.prefixes.rep {
            Rep::Rep => self.exec_nop(Nop::Pause),
            Rep::None | Rep::Repne => self.exec_nop(Nop::Hint),
        }
    }
}
