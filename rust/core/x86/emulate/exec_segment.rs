// SPDX-License-Identifier: GPL-2.0

//! Loads of data-segment registers.
//!
//! SDM 3A "Privilege Level Checking When Accessing Data Segments", 5.6; SDM 2B "MOV".

use super::cpu::{
    Cpu,
    Mode, //
};
use super::exec_control::real_segment;
use super::insn::SegReg;
use super::ops::{
    Access,
    EmulOps,
    SegmentRights,
    SegmentView,
    Stop,
    Swap, //
};
use crate::addr::Gva;
use crate::outcome::{
    vector,
    Exception, //
};

bitfield! {
    /// A code or data segment descriptor. SDM 3A "Segment Descriptors", 3.4.5.
    struct Descriptor(u64) {
        /// Limit, bits 15:0.
        15:0 limit_low, with_limit_low => u16;
        /// Base, bits 23:0.
        39:16 base_low, with_base_low => u32;
        /// Accessed.
        40:40 accessed, with_accessed => bool;
        /// Type, S, DPL, P.
        47:40 rights_low, with_rights_low => u8;
        /// Limit, bits 19:16.
        51:48 limit_high, with_limit_high => u8;
        /// AVL, L, D/B, G.
        55:52 rights_high, with_rights_high => u8;
        /// Base, bits 31:24.
        63:56 base_high, with_base_high => u8;
    }
}

impl Descriptor {
    fn rights(self) -> SegmentRights {
        SegmentRights(u32::from(self.rights_low()) | (u32::from(self.rights_high()) << 12))
    }

    fn limit(self) -> u32 {
        let raw = u32::from(self.limit_low()) | (u32::from(self.limit_high()) << 16);
        if self.rights().granular() {
            (raw << 12) | 0xfff
        } else {
            raw
        }
    }

    fn base(self) -> u64 {
        u64::from(self.base_low()) | (u64::from(self.base_high()) << 24)
    }
}

impl<O: EmulOps> Cpu<'_, O> {
    /// Loads a data-segment register; the last thing of an instruction that can stop.
    ///
    /// # Errors
    ///
    /// [`Stop::Fault`]: #GP, #NP or #SS with the selector, by the checks of the SDM.
    pub(super) fn load_segment(&mut self, register: SegReg, selector: u16) -> Result<(), Stop> {
        if self.is_real_like() {
            let old = self.ops.segment(register);
            self.set_segment(register, real_segment(old, selector));
            return Ok(());
        }
        if selector & !3 == 0 {
            return self.load_null(register, selector);
        }
        let address = self.descriptor_address(selector)?;
        let mut bytes = [0; 8];
        self.ops.read(address, &mut bytes, Access::SystemRead)?;
        let descriptor = Descriptor(u64::from_le_bytes(bytes));
        self.check_descriptor(register, selector, descriptor.rights())?;
        self.mark_accessed(address, descriptor)?;
        let rights = descriptor.with_accessed(true).rights();
        let (base, limit) = (descriptor.base(), descriptor.limit());
        self.set_segment(
            register,
            SegmentView {
                selector,
                base,
                limit,
                rights,
            },
        );
        Ok(())
    }

    /// Loads a null selector, which leaves a segment unusable. SS takes one in 64-bit mode only,
    /// below CPL 3.
    fn load_null(&mut self, register: SegReg, selector: u16) -> Result<(), Stop> {
        let mut rights = SegmentRights(0).with_unusable(true);
        if register == SegReg::Ss {
            let cpl = self.ops.cpl();
            if self.mode != Mode::Long || cpl == 3 || cpl != requested_level(selector) {
                return Err(Stop::GP0);
            }
            rights = rights.with_dpl(cpl);
        }
        let old = self.ops.segment(register);
        // A null selector does not clear the base on Intel CPUs where 64-bit code can see it.
        self.set_segment(
            register,
            SegmentView {
                selector,
                rights,
                ..old
            },
        );
        Ok(())
    }

    /// Returns where the descriptor of a selector is.
    fn descriptor_address(&self, selector: u16) -> Result<Gva, Stop> {
        let index = u64::from(selector & !7);
        let (base, limit) = if selector & 4 != 0 {
            let ldtr = self.ops.segment(SegReg::Ldtr);
            if ldtr.rights.unusable() {
                return Err(fault(vector::GP, selector));
            }
            (ldtr.base, ldtr.limit)
        } else {
            let gdtr = self.ops.gdtr();
            (gdtr.base, gdtr.limit.into())
        };
        if index | 7 > u64::from(limit) {
            return Err(fault(vector::GP, selector));
        }
        Ok(Gva(base.wrapping_add(index)))
    }

    fn check_descriptor(
        &self,
        register: SegReg,
        selector: u16,
        rights: SegmentRights,
    ) -> Result<(), Stop> {
        let cpl = self.ops.cpl();
        let rpl = requested_level(selector);
        let is_stack = register == SegReg::Ss;
        let allowed = if is_stack {
            let writable = !rights.code() && rights.second();
            writable && rpl == cpl && rights.dpl() == cpl
        } else {
            let readable = !rights.code() || rights.second();
            let conforming = rights.code() && rights.expand_down();
            readable && (conforming || rpl.max(cpl) <= rights.dpl())
        };
        if !allowed || !rights.code_or_data() {
            return Err(fault(vector::GP, selector));
        }
        if !rights.present() {
            return Err(fault(
                if is_stack { vector::SS } else { vector::NP },
                selector,
            ));
        }
        Ok(())
    }

    /// Sets the accessed bit in memory, where it is not set yet.
    fn mark_accessed(&mut self, address: Gva, descriptor: Descriptor) -> Result<(), Stop> {
        if descriptor.accessed() {
            return Ok(());
        }
        self.ops.probe_write(address, 8, Access::SystemWrite)?;
        let new = descriptor.with_accessed(true);
        match self
            .ops
            .cmpxchg(address, &descriptor.0.to_le_bytes(), &new.0.to_le_bytes())?
        {
            Swap::Done => Ok(()),
            Swap::Differs => Err(Stop::Raced),
        }
    }
}

/// Returns the requested privilege level of a selector.
fn requested_level(selector: u16) -> u8 {
    (selector & 3) as u8
}

/// Returns a fault whose error code names a selector.
fn fault(vector: u8, selector: u16) -> Stop {
    Stop::Fault(Exception::with_code(vector, (selector & !3).into()))
}
