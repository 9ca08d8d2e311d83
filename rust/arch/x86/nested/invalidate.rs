// SPDX-License-Identifier: GPL-2.0

//! INVEPT and INVVPID of L1.

use crate::arch::x86::{
    cpu::Cpu,
    nested::{
        insn::Ended,
        operand::LINEAR_BITS,
        state::Nested, //
    },
    outcome::Stop, //
};
use burrow_core::x86::{
    nested::state::{
        self,
        Invept, //
    },
    vmx::insn::VmInsnError, //
};
use kernel::prelude::*;

impl Cpu<'_> {
    fn fail(&mut self, error: VmInsnError) -> Result<Ended, Stop> {
        Ok(Err(state::fail(&self.root()?, error)))
    }

    pub(super) fn invept(&mut self) -> Result<Ended, Stop> {
        let kind = self.field_operand(self.insn_info());
        let env = self.static_env();
        let caps = self.nested()?.caps;
        if !state::is_invept_type(kind, &caps) {
            return self.fail(VmInsnError::InvalidInvalidationOperand);
        }
        let [eptp, _] = self.descriptor_operand()?;
        let what = match state::invept(kind, eptp, &caps, &env) {
            Ok(what) => what,
            Err(error) => return self.fail(error),
        };
        let memory = &self.vcpu.vm.memory;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(Ok(()));
        };
        for (shadow, of) in nested.slots.iter().filter_map(|slot| slot.shadow) {
            // The flags of an EPTP are no part of what its mappings are tagged with.
            let is_meant = match what {
                Invept::All => true,
                Invept::Single { eptp } => (eptp ^ of.eptp) & !0xfff == 0,
            };
            if is_meant {
                memory.empty_shadow(shadow);
            }
        }
        Ok(Ok(()))
    }

    pub(super) fn invvpid(&mut self) -> Result<Ended, Stop> {
        let kind = self.field_operand(self.insn_info());
        let caps = self.nested()?.caps;
        if !state::is_invvpid_type(kind, &caps) {
            return self.fail(VmInsnError::InvalidInvalidationOperand);
        }
        let descriptor = self.descriptor_operand()?;
        let what = match state::invvpid(kind, descriptor, LINEAR_BITS, &caps) {
            Ok(what) => what,
            Err(error) => return self.fail(error),
        };
        let Nested { pool, slots, .. } = self.nested()?;
        for (index, _) in pool.on_invvpid(what) {
            slots[index].vpid.request_flush();
        }
        Ok(Ok(()))
    }
}
