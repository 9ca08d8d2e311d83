// SPDX-License-Identifier: GPL-2.0

//! EPT violations and misconfigurations: guest memory that is not mapped yet, or is none.

use crate::arch::x86::{
    cpu::Cpu,
    emulate::KnownAccess,
    mmu::Fault,
    outcome::{
        Handled,
        Outcome,
        Stop, //
    },
};
use burrow_core::{
    addr::{
        Gpa,
        Gva, //
    },
    outcome::Bug,
    x86::{
        event::EventInfo,
        tdp::Access,
        vmx::{
            exit::EptViolation,
            field::*, //
        },
    },
};
use burrow_sys::trace;
use kernel::error::Error;

/// Handles an EPT violation.
pub(super) fn violation(cpu: &mut Cpu<'_>) -> Handled {
    let qualification = EptViolation(cpu.qualification());
    cpu.block_nmis_until_iret_is_done(qualification);
    let gpa = Gpa(cpu.vmcs().get(GUEST_PHYSICAL_ADDRESS));
    let access = if qualification.write() {
        Access::Write
    } else if qualification.fetch() {
        Access::Fetch
    } else {
        Access::Read
    };
    trace::kvm_page_fault(cpu.vcpu.shared.id, gpa.0, qualification.0, || cpu.rip());
    let fault = cpu.fault(gpa, access)?;
    cpu.note_fault(&fault);
    match fault {
        // A signal is seen by the run loop.
        Fault::Mapped | Fault::Spurious | Fault::Retry | Fault::Interrupted => Ok(Outcome::Resume),
        Fault::Mmio | Fault::ReadonlyWrite => {
            let known = known_access(cpu, qualification, gpa, fault == Fault::Mmio);
            cpu.emulate_mmio(gpa, known)
        }
        Fault::HvaError(error) => Err(Stop::Fail(error)),
    }
}

/// Handles a full log of page modifications: it was emptied on the way out. The write that found it full
/// is done again.
pub(super) fn log_full(cpu: &mut Cpu<'_>) -> Handled {
    let qualification = EptViolation(cpu.qualification());
    cpu.block_nmis_until_iret_is_done(qualification);
    Ok(Outcome::Resume)
}

/// Returns the access that the processor translated before it exited, if it was to a linear address and
/// not part of a page walk. A program's may have been one by the processor for it, which is allowed more.
fn known_access(
    cpu: &Cpu<'_>,
    qualification: EptViolation,
    gpa: Gpa,
    is_device: bool,
) -> Option<KnownAccess> {
    let is_data = qualification.read() != qualification.write() && !qualification.fetch();
    if !(qualification.linear_valid() && qualification.is_final() && is_data) || cpu.cpl() == 3 {
        return None;
    }
    Some(KnownAccess {
        gva: Gva(cpu.vmcs().get(GUEST_LINEAR_ADDRESS)),
        gpa,
        is_write: qualification.write(),
        is_device,
    })
}

/// Signals the ioeventfd of length 0 that the exit's write is for, where nothing needs to be known of the
/// instruction but its length, and that is known; returns whether there is one. Else nothing has happened.
///
/// It takes any write at its address, so that neither the value nor the width is looked at.
pub(super) fn fast_mmio(cpu: &Cpu<'_>) -> bool {
    let qualification = EptViolation(cpu.qualification());
    let is_write = qualification.write() && !qualification.read();
    let is_plain =
        qualification.linear_valid() && qualification.is_final() && !qualification.nmi_unblocking();
    if !(is_write && is_plain) {
        return false;
    }
    let vmcs = cpu.vmcs();
    let gpa = Gpa(vmcs.get(GUEST_PHYSICAL_ADDRESS));
    let epoch = cpu.memory().epoch();
    if !cpu.arch.device_pages.has(gpa.gfn(), epoch) {
        return false;
    }
    let length = vmcs.get(VM_EXIT_INSTRUCTION_LEN);
    let is_delivery = EventInfo(vmcs.get(IDT_VECTORING_INFO_FIELD)).valid();
    !is_delivery && cpu.host.violation_length().is_good(length) && cpu.signal_fast_mmio(gpa)
}

impl Cpu<'_> {
    /// Maps `gpa` for `access`, unless it is known that no memory is there.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory for a table.
    fn fault(&mut self, gpa: Gpa, access: Access) -> Result<Fault, Error> {
        let memory = self.memory();
        // Before the slots: what is remembered does not hold any more if they change meanwhile.
        let epoch = memory.epoch();
        if self.arch.device_pages.has(gpa.gfn(), epoch) {
            return Ok(Fault::Mmio);
        }
        let fault = memory.fault(gpa, access)?;
        if fault == Fault::Mmio {
            self.arch.device_pages.remember(gpa.gfn(), epoch);
        }
        Ok(fault)
    }

    /// Handles an access to memory that no slot backs, at `gpa` of L1: a device.
    pub(crate) fn emulate_mmio(&mut self, gpa: Gpa, known: Option<KnownAccess>) -> Handled {
        let vectoring = EventInfo(self.vmcs().get(IDT_VECTORING_INFO_FIELD));
        if vectoring.valid() {
            return Ok(Outcome::ToUser(super::event::delivery_failed(self, gpa)));
        }
        self.emulate_current(known)
    }
}

/// Handles an EPT misconfiguration, which nothing that we write into EPT entries causes.
pub(super) fn misconfiguration(_cpu: &mut Cpu<'_>) -> Handled {
    Err(Stop::Bug(Bug("EPT misconfiguration")))
}
