// SPDX-License-Identifier: GPL-2.0

//! VMFUNC of L2: EPTP switching.

use crate::arch::x86::{
    cpu::Cpu,
    outcome::{
        Handled,
        Outcome,
        Stop, //
    }, //
};
use burrow_core::{
    addr::Gpa,
    outcome::Exception,
    x86::{
        nested::{
            state,
            vmfunc::{
                self,
                Function, //
            }, //
        },
        vmx::{
            exit::{
                ExitReason,
                ExitReasonWord, //
            },
            field::*, //
        }, //
    }, //
};

impl Cpu<'_> {
    pub(super) fn l2_vmfunc(&mut self) -> Handled {
        // CAST: EAX and ECX.
        let (eax, ecx) = (self.gpr(0) as u32, self.gpr(1) as u32);
        match vmfunc::select(&self.nested()?.vmcs12, eax, ecx) {
            Function::Undefined => Err(Stop::Inject(Exception::UD)),
            Function::SwitchEptp { entry } if self.switch_eptp(entry)? => Ok(Outcome::Skip),
            Function::SwitchEptp { .. } | Function::Exit => {
                self.reflect(ExitReasonWord::exit(ExitReason::Vmfunc))
            }
        }
    }

    /// Loads the EPT pointer at `entry`, in L1's memory; returns `false`, and nothing has changed, if
    /// that is none.
    fn switch_eptp(&mut self, entry: Gpa) -> Result<bool, Stop> {
        let mut bytes = [0; 8];
        if self.vcpu.vm.memory.read(entry, &mut bytes).is_err() {
            return Ok(false);
        }
        let eptp = u64::from_le_bytes(bytes);
        let env = self.static_env();
        let nested = self.nested()?;
        if !state::is_eptp(eptp, &nested.caps, &env) {
            return Ok(false);
        }
        nested.vmcs12.put_synced(EPT_POINTER, eptp);
        let index = nested.active;
        let eptp02 = self.eptp02(index)?;
        self.vmcs().set(EPT_POINTER, eptp02);
        if let Some(merged) = self.nested()?.slot().merged.as_mut() {
            merged.eptp = eptp02;
        }
        Ok(true)
    }
}
