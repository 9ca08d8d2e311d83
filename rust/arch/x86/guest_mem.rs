// SPDX-License-Identifier: GPL-2.0

//! Guest memory by linear address: the guest's own page walk, then its physical memory.

use crate::arch::x86::cpu::Cpu;
use burrow_core::{
    addr::Gva,
    outcome::Exception,
    x86::{
        cpuid::feature,
        vmx::field::*,
        walk::{
            self,
            Access,
            Kind,
            Mode,
            Paging,
            Privilege,
            Translation,
            WalkError, //
        }, //
    },
};

impl Cpu<'_> {
    fn paging(&self) -> Paging {
        let (cr0, cr4, efer) = (self.cr0(), self.cr4(), self.efer());
        let mode = match (cr0.pg(), efer.lma(), cr4.pae()) {
            (false, _, _) => Mode::Off,
            (true, true, _) if cr4.la57() => Mode::FiveLevel,
            (true, true, _) => Mode::FourLevel,
            (true, false, true) => Mode::Pae,
            (true, false, false) => Mode::Bits32,
        };
        let vmcs = self.vmcs();
        let pdptes = match mode {
            Mode::Pae => [
                vmcs.get(GUEST_PDPTR0),
                vmcs.get(GUEST_PDPTR1),
                vmcs.get(GUEST_PDPTR2),
                vmcs.get(GUEST_PDPTR3),
            ],
            _ => [0; 4],
        };
        Paging {
            mode,
            cr3: self.cr3(),
            pdptes,
            physical_address_bits: self.arch.cpuid.limits.maxphyaddr,
            write_protect: cr0.wp(),
            page_size_extensions: cr4.pse(),
            pse_36: self.arch.cpuid.caps.has(feature::PSE36),
            page_1g: self.arch.cpuid.caps.has(feature::GBPAGES),
            execute_disable: efer.nxe(),
            smep: cr4.smep(),
            smap: cr4.smap(),
            protection_keys: cr4.pke(),
            pkru: self.arch.extended.pkru,
        }
    }

    /// Returns on whose behalf the current code accesses data.
    pub(crate) fn privilege(&self) -> Privilege {
        match (self.cpl(), self.rflags().ac()) {
            (3, _) => Privilege::User,
            (_, true) => Privilege::SupervisorAc,
            (_, false) => Privilege::Supervisor,
        }
    }

    /// Translates a linear address.
    ///
    /// # Errors
    ///
    /// The page fault that the access causes.
    pub(crate) fn translate(
        &self,
        gva: Gva,
        kind: Kind,
        privilege: Privilege,
    ) -> Result<Translation, Exception> {
        let paging = self.paging();
        let access = Access { kind, privilege };
        match walk::translate(&mut self.vcpu.vm.memory.entries(), &paging, gva, access) {
            Ok(translation) => Ok(translation),
            Err(WalkError::Fault(exception)) => Err(exception),
        }
    }
}
