// SPDX-License-Identifier: GPL-2.0

//! VMX operation while the vCPU is in system-management mode. SDM 3C "Default Treatment of SMIs and
//! System-Management Mode", 33.14.
//!
//! An SMI in L2 is no exit to L1, which does not hear of it: L2 is put away in vmcs12, as when its state
//! is saved for userspace, and entered again by RSM. Its registers are in the state save map meanwhile;
//! what that does not hold (MSRs of the VMCS) is what vmcs12 says.

use crate::arch::x86::{
    cpu::Cpu,
    outcome::Stop, //
};
use burrow_core::x86::{
    nested::{
        check::EntryCause,
        state::{
            RunPending,
            State, //
        },
        sync, //
    },
    regs::{
        Cr4,
        Efer, //
    },
};

impl Cpu<'_> {
    /// Leaves VMX operation until RSM, if the vCPU is in it.
    pub(crate) fn suspend_vmx(&mut self) -> Result<(), Stop> {
        let Some(nested) = self.arch.nested.as_deref() else {
            return Ok(());
        };
        let suspended = nested.state.after_smi();
        self.bring_vmcs12_up_to_date()?;
        if self.is_l2() {
            self.store_shadow12();
            self.drop_l2();
            self.write_tsc_fields();
        }
        self.stop_shadowing();
        self.nested()?.state = suspended;
        Ok(())
    }

    /// Goes back to the VMX operation that an SMI interrupted, and into L2 if it ran; returns `false`
    /// where vmcs12 does not allow that.
    pub(crate) fn resume_vmx(&mut self) -> Result<bool, Stop> {
        let (cr0, efer) = (self.cr0().0, self.efer().0);
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(true);
        };
        let (state, resumes_l2) = nested.state.after_rsm();
        nested.state = state;
        if !resumes_l2 {
            self.renew_shadow()?;
            return Ok(true);
        }
        // What an entry is checked against, and what an exit will bring back.
        let host = sync::host_state(&nested.vmcs12, cr0, efer);
        self.store_efer(Efer(host.efer));
        self.store_cr4(Cr4(host.cr4));
        let entered = self.enter_l2(EntryCause::Restore)?;
        if let State::NonRoot(l2) = &mut self.nested()?.state {
            l2.run_pending = RunPending::No;
        }
        Ok(entered.is_ok())
    }
}
