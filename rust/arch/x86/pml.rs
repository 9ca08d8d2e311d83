// SPDX-License-Identifier: GPL-2.0

//! Page-modification logging: the CPU notes which pages the guest writes first.
//!
//! It is on while any slot of the VM is logged. The log is emptied whenever the vCPU leaves the guest,
//! before it says so: who has made all vCPUs leave has everything in the bitmaps.
//!
//! L2 has it too where L1 gives it no EPT, as addresses are L1's then. With L1's EPT they are L2's,
//! which mean nothing here: writes to logged pages fault (`mmu/shadow.rs`).

use crate::arch::x86::cpu::Cpu;
use burrow_core::{
    addr::Gpa,
    x86::vmx::{
        field::*,
        pml, //
    },
};

impl Cpu<'_> {
    /// Turns logging on or off, as the VM's memory wants it.
    pub(crate) fn update_cpu_logs(&mut self) {
        let on = self.arch.pml.is_some() && self.memory().cpu_logs();
        let is_own_ept = match self.arch.nested.as_deref_mut() {
            Some(nested) if nested.state.is_non_root() => {
                nested.l1.ctls.proc2 = nested.l1.ctls.proc2.with_pml(on);
                !nested.proc2().ept()
            }
            _ => true,
        };
        self.set_cpu_logs(on && is_own_ept);
    }

    /// Turns logging on or off in the current VMCS.
    pub(crate) fn set_cpu_logs(&mut self, on: bool) {
        self.arch.ctls.proc2 = self.arch.ctls.proc2.with_pml(on);
        let vmcs = self.vmcs();
        if let (true, Some(log)) = (on, self.arch.pml.as_ref()) {
            vmcs.set(PML_ADDRESS, log.address());
            vmcs.set(GUEST_PML_INDEX, pml::EMPTY);
        }
        vmcs.set(SECONDARY_VM_EXEC_CONTROL, self.arch.ctls.proc2.0);
    }

    /// Empties the log into the dirty bitmaps.
    ///
    /// # Context
    ///
    /// Interrupts may be off.
    #[inline]
    pub(crate) fn drain_cpu_log(&mut self) {
        if self.arch.ctls.proc2.pml() {
            self.drain();
        }
    }

    #[cold]
    fn drain(&mut self) {
        let vmcs = self.vmcs();
        let logged = pml::logged(vmcs.get(GUEST_PML_INDEX));
        let Some(log) = self.arch.pml.as_ref() else {
            return;
        };
        if !logged.is_empty() {
            let gfns = logged.map(|index| Gpa(log.entry(index)).gfn());
            self.memory().mark_all_dirty(gfns);
            vmcs.set(GUEST_PML_INDEX, pml::EMPTY);
        }
    }
}
