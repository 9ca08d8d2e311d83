// SPDX-License-Identifier: GPL-2.0

//! L1's EPT: translations of L2's guest-physical addresses, and the exits to L1 where there is none.

use crate::arch::x86::{
    cpu::Cpu,
    mmu::{
        Fault,
        ShadowFault, //
    },
    outcome::{
        EptFault,
        Handled,
        Outcome,
        Stop, //
    },
};
use burrow_core::{
    addr::Gpa,
    outcome::Bug,
    x86::{
        nested::{
            eptwalk::{
                self,
                Access,
                Ept12,
                Mapping, //
            },
            pagelog,
            sync::{
                ExitInfo,
                NmiBlocking, //
            },
        },
        vmx::{
            exit::{
                EptViolation,
                ExitReason,
                ExitReasonWord, //
            },
            field::*, //
        },
    },
};

impl Cpu<'_> {
    /// Returns whether L2 runs with an EPT of L1's.
    pub(crate) fn has_ept12(&self) -> bool {
        self.arch
            .nested
            .as_ref()
            .is_some_and(|nested| nested.state.is_non_root() && nested.proc2().ept())
    }

    /// Translates a guest-physical address of L2 with L1's EPT, and logs the page if it becomes dirty and
    /// L1 wants that. `hw` says what L2 did, as the exit qualification of an EPT violation does.
    ///
    /// # Errors
    ///
    /// The exit that L1 gets.
    pub(crate) fn translate_l2(
        &mut self,
        gpa: Gpa,
        access: Access,
        hw: EptViolation,
    ) -> Result<Mapping, EptFault> {
        let memory = &self.vcpu.vm.memory;
        let phys_bits = self.arch.cpuid.limits.maxphyaddr;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Err(EptFault::Raced);
        };
        let ept = Ept12::of(&nested.vmcs12, nested.caps.ept_vpid, phys_bits);
        let walked = eptwalk::walk(&mut memory.entries(), &ept, gpa, access);
        let mapping = walked.map_err(|fault| match fault {
            eptwalk::Fault::Violation(rights) => EptFault::Violation {
                gpa,
                qualification: eptwalk::qualification(hw, rights, &ept),
            },
            eptwalk::Fault::Misconfiguration => EptFault::Misconfiguration { gpa },
            eptwalk::Fault::LogFull => EptFault::LogFull {
                gpa,
                qualification: EptViolation(0).with_nmi_unblocking(hw.nmi_unblocking()).0,
            },
            eptwalk::Fault::Raced => EptFault::Raced,
            eptwalk::Fault::Mem(never) => match never {},
        })?;
        if mapping.is_logged {
            if let Some((at, entry)) = pagelog::append(&mut nested.vmcs12, gpa) {
                // Where no memory is, nothing remembers it.
                let _ = memory.write(at, &entry.to_le_bytes());
            }
        }
        Ok(mapping)
    }

    /// Handles an EPT violation of L2, which runs with the shadow of L1's EPT.
    pub(super) fn l2_ept_violation(&mut self) -> Handled {
        let hw = EptViolation(self.qualification());
        let gpa = Gpa(self.vmcs().get(GUEST_PHYSICAL_ADDRESS));
        let access = eptwalk::access_of(hw);
        let mapping = match self.translate_l2(gpa, access, hw) {
            Ok(mapping) => mapping,
            Err(EptFault::Raced) => {
                self.block_nmis_until_iret_is_done(hw);
                return Ok(Outcome::Resume);
            }
            Err(fault) => return self.exit_for_ept(fault),
        };
        self.block_nmis_until_iret_is_done(hw);
        let shadow = self.nested()?.slot().shadow;
        let Some((shadow, _)) = shadow else {
            return Err(Stop::Bug(Bug("L2 runs without a shadow of L1's EPT")));
        };
        let fault = ShadowFault {
            gfn: gpa.gfn(),
            mapping,
            access,
        };
        match self.vcpu.vm.memory.shadow_fault(shadow, &fault)? {
            Fault::Mapped | Fault::Spurious | Fault::Retry | Fault::Interrupted => {
                Ok(Outcome::Resume)
            }
            Fault::Mmio | Fault::ReadonlyWrite => self.emulate_mmio(mapping.gpa, None),
            Fault::HvaError(error) => Err(Stop::Fail(error)),
        }
    }

    /// Makes the exit to L1 that its EPT calls for.
    pub(crate) fn exit_for_ept(&mut self, fault: EptFault) -> Handled {
        let (reason, gpa, qualification) = match fault {
            EptFault::Violation { gpa, qualification } => {
                (ExitReason::EptViolation, gpa, qualification.0)
            }
            EptFault::Misconfiguration { gpa } => (ExitReason::EptMisconfig, gpa, 0),
            EptFault::LogFull { gpa, qualification } => (ExitReason::PmlFull, gpa, qualification),
            EptFault::Raced => return Ok(Outcome::Resume),
        };
        let info = ExitInfo {
            reason: ExitReasonWord::exit(reason),
            qualification,
            linear_address: Some(self.vmcs().get(GUEST_LINEAR_ADDRESS)),
            physical_address: Some(gpa.0),
            ..ExitInfo::default()
        };
        self.exit_to_l1(info, NmiBlocking::Open)?;
        Ok(Outcome::Resume)
    }
}
