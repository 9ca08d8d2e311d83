// SPDX-License-Identifier: GPL-2.0

//! Operands of VMX instructions.

use crate::arch::x86::{
    cpu::Cpu,
    guest_mem::LinearError,
    outcome::Stop, //
};
use burrow_core::{
    addr::{
        Gpa,
        Gva,
        PAGE_SIZE, //
    },
    x86::{
        segment::Name,
        vmx::{
            field::*,
            insn::{
                self,
                AddressMode,
                InsnInfo,
                Intent,
                OperandRegs,
                SegmentIndex,
                SegmentView, //
            }, //
        },
        walk::Kind, //
    }, //
};
use kernel::prelude::*;

/// The width of linear addresses.
pub(super) const LINEAR_BITS: u8 = 48;

/// The registers that a memory operand is computed from.
struct Regs<'a, 'b>(&'a Cpu<'b>);

impl OperandRegs for Regs<'_, '_> {
    fn gpr(&self, index: u8) -> u64 {
        self.0.gpr(usize::from(index))
    }

    fn segment(&self, segment: SegmentIndex) -> SegmentView {
        let name = match segment {
            SegmentIndex::Es => Name::Es,
            SegmentIndex::Cs => Name::Cs,
            SegmentIndex::Ss => Name::Ss,
            SegmentIndex::Ds => Name::Ds,
            SegmentIndex::Fs => Name::Fs,
            SegmentIndex::Gs => Name::Gs,
        };
        let segment = self.0.segment(name);
        SegmentView {
            base: segment.base,
            limit: segment.limit,
            access_rights: segment.rights.0,
        }
    }
}

impl Cpu<'_> {
    pub(super) fn insn_info(&self) -> InsnInfo {
        InsnInfo(self.vmcs().get(VMX_INSTRUCTION_INFO))
    }

    fn operand_address(&self, len: u64, intent: Intent) -> Result<Gva, Stop> {
        let mode = match (self.is_64bit_code(), self.cr0().pe()) {
            (true, _) => AddressMode::Long {
                linear_bits: LINEAR_BITS,
            },
            (false, true) => AddressMode::Protected,
            (false, false) => AddressMode::Real,
        };
        let displacement = self.qualification();
        let info = self.insn_info();
        Ok(insn::memory_operand(
            info,
            displacement,
            len,
            intent,
            mode,
            &Regs(self),
        )?)
    }

    /// Calls `f` with each piece of a linear access that lies within a page: its physical address,
    /// where it begins and its length.
    fn each_piece(
        &mut self,
        gva: Gva,
        len: usize,
        kind: Kind,
        mut f: impl FnMut(Gpa, usize, usize),
    ) -> Result<(), Stop> {
        let privilege = self.privilege();
        let mut done = 0;
        while done < len {
            let at = gva.wrapping_add(done as u64);
            // CAST: an offset in a page.
            let room = (PAGE_SIZE - at.page_offset()) as usize;
            let count = room.min(len - done);
            let gpa = match self.translate(at, kind, privilege) {
                Ok(translation) => translation.gpa,
                Err(LinearError::Fault(exception)) => return Err(Stop::Inject(exception)),
                // An L2 whose VMREAD or VMWRITE reaches its shadow VMCS.
                Err(LinearError::Nested(fault)) => return Err(Stop::Ept12(fault)),
            };
            f(gpa, done, count);
            done += count;
        }
        Ok(())
    }

    /// Reads a memory operand; what no memory backs reads as ones.
    pub(super) fn read_operand(&mut self, out: &mut [u8]) -> Result<(), Stop> {
        let gva = self.operand_address(out.len() as u64, Intent::Read)?;
        let vcpu = self.vcpu;
        let memory = &vcpu.vm.memory;
        self.each_piece(gva, out.len(), Kind::Read, |gpa, start, count| {
            let part = &mut out[start..start + count];
            if memory.read(gpa, part).is_err() {
                part.fill(0xff);
            }
        })
    }

    /// Writes a memory operand; to what no memory backs, to no effect.
    pub(super) fn write_operand(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let gva = self.operand_address(bytes.len() as u64, Intent::Write)?;
        let vcpu = self.vcpu;
        let memory = &vcpu.vm.memory;
        // All of it is translated before any of it is written.
        self.each_piece(gva, bytes.len(), Kind::Write, |_, _, _| {})?;
        self.each_piece(gva, bytes.len(), Kind::Write, |gpa, start, count| {
            let _ = memory.write(gpa, &bytes[start..start + count]);
        })
    }

    pub(super) fn pointer_operand(&mut self) -> Result<Gpa, Stop> {
        let mut bytes = [0; 8];
        self.read_operand(&mut bytes)?;
        Ok(Gpa(u64::from_le_bytes(bytes)))
    }

    pub(super) fn descriptor_operand(&mut self) -> Result<[u64; 2], Stop> {
        let mut bytes = [0; 16];
        self.read_operand(&mut bytes)?;
        let (low, high) = bytes.split_at(8);
        let word = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
        Ok([word(low), word(high)])
    }

    /// Returns the register that names the field, cut to the width of operands.
    pub(super) fn field_operand(&self, info: InsnInfo) -> u64 {
        self.operand(usize::from(info.reg2()))
    }
}
