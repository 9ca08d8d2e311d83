// SPDX-License-Identifier: GPL-2.0

//! EPT violations and misconfigurations: guest memory that is not mapped yet, or is none.

use crate::arch::x86::{
    cpu::Cpu,
    mmu::Fault,
    outcome::{
        Handled,
        Outcome,
        Stop, //
    },
};
use burrow_core::{
    addr::{
        Gfn,
        Gpa,
        Gva, //
    },
    outcome::Bug,
    x86::{
        emulate::KnownAccess,
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
    if !is_plain(qualification) || cpu.cpl() == 3 {
        return None;
    }
    Some(KnownAccess {
        gva: Gva(cpu.vmcs().get(GUEST_LINEAR_ADDRESS)),
        gpa,
        is_write: qualification.write(),
        is_device,
    })
}

/// What became of an access to a device that is handled right after the exit.
pub(super) enum AtOnce {
    /// Nothing yet: it takes more than can be done now.
    No,
    /// An ioeventfd has it, whatever the instruction is, which is still to be stepped over.
    Signalled,
    /// The instruction was emulated.
    Emulated(Handled),
}

/// Handles an access to a page that is known to be a device's, where that takes no sleep.
///
/// # Context
///
/// Interrupts may be off. L1 runs.
pub(super) fn at_once(cpu: &mut Cpu<'_>) -> AtOnce {
    let qualification = EptViolation(cpu.qualification());
    let gpa = Gpa(cpu.vmcs().get(GUEST_PHYSICAL_ADDRESS));
    if qualification.nmi_unblocking() || !cpu.is_device_page(gpa.gfn()) {
        return AtOnce::No;
    }
    if EventInfo(cpu.vmcs().get(IDT_VECTORING_INFO_FIELD)).valid() {
        return AtOnce::No;
    }
    if qualification.write() && is_plain(qualification) && signals(cpu, gpa) {
        return AtOnce::Signalled;
    }
    let Some(known) = known_access(cpu, qualification, gpa, true) else {
        return AtOnce::No;
    };
    match cpu.emulate_at_once(known) {
        Some(handled) => AtOnce::Emulated(handled),
        None => AtOnce::No,
    }
}

/// Signals the ioeventfd of length 0 at `gpa`, if there is one and the length of the instruction is known.
/// It takes any write there, so that nothing else of the instruction matters.
fn signals(cpu: &Cpu<'_>, gpa: Gpa) -> bool {
    let length = cpu.vmcs().get(VM_EXIT_INSTRUCTION_LEN);
    cpu.host.violation_length().is_good(length) && cpu.signal_fast_mmio(gpa)
}

/// Returns whether the access is either a read or a write, by a linear address, and not part of a walk.
fn is_plain(qualification: EptViolation) -> bool {
    let is_data = qualification.read() != qualification.write() && !qualification.fetch();
    qualification.linear_valid() && qualification.is_final() && is_data
}

impl Cpu<'_> {
    /// Returns whether it is known that no memory is at `gfn`.
    #[inline]
    fn is_device_page(&self, gfn: Gfn) -> bool {
        self.arch.device_pages.has(gfn, self.memory_epoch())
    }

    /// Maps `gpa` for `access`, unless it is known that no memory is there.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory for a table.
    fn fault(&mut self, gpa: Gpa, access: Access) -> Result<Fault, Error> {
        // Before the slots: what is remembered does not hold any more if they change meanwhile.
        let epoch = self.memory_epoch();
        if self.is_device_page(gpa.gfn()) {
            return Ok(Fault::Mmio);
        }
        let fault = self.memory().fault(gpa, access)?;
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
