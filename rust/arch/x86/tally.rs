// SPDX-License-Identifier: GPL-2.0

//! What is counted and traced of entries and exits.

use crate::arch::x86::{
    cpu::Cpu,
    mmu::Fault,
    outcome::UserExit, //
};
use burrow_core::{
    stats::VcpuStat,
    x86::{
        cpuid::Regs,
        event::{
            Event,
            EventInfo, //
        },
        vmx::{
            exit::{
                ExitReason,
                ExitReasonWord, //
            },
            field::*, //
        },
    },
};
use burrow_sys::trace;

impl Cpu<'_> {
    /// Traces the entry that is about to happen.
    #[inline]
    pub(crate) fn note_entry(&self) {
        trace::kvm_entry(|| {
            let info: u32 = self.vmcs().get(VM_ENTRY_INTR_INFO_FIELD);
            let has_code = EventInfo(info).has_error_code();
            trace::Entry {
                vcpu_id: self.vcpu.shared.id,
                rip: self.rip(),
                immediate_exit: false,
                intr_info: info,
                error_code: if has_code {
                    self.vmcs().get(VM_ENTRY_EXCEPTION_ERROR_CODE)
                } else {
                    0
                },
            }
        });
    }

    /// Counts and traces the exit that has just happened.
    #[inline]
    pub(crate) fn note_exit(&self, word: ExitReasonWord, intr_info: u32) {
        let stats = &self.vcpu.stats;
        stats.inc(VcpuStat::Exits);
        if let Some(stat) = stat_of(word) {
            stats.inc(stat);
        }
        trace::kvm_exit(|| {
            let vmcs = self.vmcs();
            let has_code = EventInfo(intr_info).valid() && EventInfo(intr_info).has_error_code();
            trace::Exit {
                exit_reason: word.0,
                vcpu_id: self.vcpu.shared.id,
                guest_rip: self.rip(),
                info1: self.qualification(),
                info2: u64::from(vmcs.get(IDT_VECTORING_INFO_FIELD)),
                requests: self.vcpu.shared.kick.word(),
                intr_info,
                error_code: if has_code {
                    vmcs.get(VM_EXIT_INTR_ERROR_CODE)
                } else {
                    0
                },
            }
        });
    }

    /// Counts and traces an event that the coming entry delivers; `is_again` when an exit
    /// interrupted its delivery before.
    pub(crate) fn note_injection(&self, event: &Event, is_again: bool) {
        let delivery = if is_again {
            trace::Delivery::Again
        } else {
            trace::Delivery::First
        };
        let stats = &self.vcpu.stats;
        match *event {
            Event::Interrupt { vector } => {
                stats.inc(VcpuStat::IrqInjections);
                trace::kvm_inj_virq(vector, false, delivery);
            }
            Event::SoftwareInterrupt { vector, .. } => {
                trace::kvm_inj_virq(vector, true, delivery);
            }
            Event::Nmi => stats.inc(VcpuStat::NmiInjections),
            Event::Exception { vector, error_code } => {
                trace::kvm_inj_exception(vector, error_code, delivery);
            }
            Event::PrivilegedSoftwareException { vector, .. }
            | Event::SoftwareException { vector, .. } => {
                trace::kvm_inj_exception(vector, None, delivery);
            }
        }
    }

    /// Counts what became of an EPT violation.
    pub(crate) fn note_fault(&self, fault: &Fault) {
        let stat = match fault {
            Fault::Mapped => VcpuStat::PfFixed,
            Fault::Spurious => VcpuStat::PfSpurious,
            Fault::Mmio | Fault::ReadonlyWrite => VcpuStat::PfEmulate,
            Fault::Retry | Fault::Interrupted | Fault::HvaError(_) => return,
        };
        self.vcpu.stats.inc(stat);
    }

    /// Traces what CPUID returns.
    pub(crate) fn note_cpuid(&self, leaf: u32, subleaf: u32, answer: &Regs) {
        trace::kvm_cpuid(|| {
            let found = self
                .arch
                .cpuid
                .entries()
                .iter()
                .any(|entry| entry.function == leaf);
            trace::Cpuid {
                function: leaf,
                index: subleaf,
                rax: answer.eax.into(),
                rbx: answer.ebx.into(),
                rcx: answer.ecx.into(),
                rdx: answer.edx.into(),
                found,
                // A leaf that is not there answers as the highest basic one, or with zeroes.
                used_max_basic: !found && *answer != Regs::default(),
            }
        });
    }

    /// Counts the end of a halt after `ns` nanoseconds.
    pub(crate) fn note_wakeup(&self, ns: u64) {
        let stats = &self.vcpu.stats;
        stats.set(VcpuStat::Blocking, 0);
        stats.inc(VcpuStat::HaltWakeup);
        stats.add(VcpuStat::HaltWaitNs, ns);
        stats.record(VcpuStat::HaltWaitHist, ns);
    }

    /// Counts and traces a return to userspace.
    pub(crate) fn note_user_exit(&self, exit: &UserExit, reason: u32) {
        let stat = match exit {
            UserExit::Io { .. } => Some(VcpuStat::IoExits),
            UserExit::Mmio { .. } => Some(VcpuStat::MmioExits),
            UserExit::Intr => Some(VcpuStat::SignalExits),
            UserExit::IrqWindowOpen => Some(VcpuStat::RequestIrqExits),
            _ => None,
        };
        if let Some(stat) = stat {
            self.vcpu.stats.inc(stat);
        }
        trace::kvm_userspace_exit(reason, 0);
    }
}

/// Returns what counts exits of this reason only.
#[inline]
fn stat_of(word: ExitReasonWord) -> Option<VcpuStat> {
    const EXTERNAL_INTERRUPT: u32 = ExitReason::ExternalInterrupt as u32;
    const INTERRUPT_WINDOW: u32 = ExitReason::InterruptWindow as u32;
    const NMI_WINDOW: u32 = ExitReason::NmiWindow as u32;
    const HLT: u32 = ExitReason::Hlt as u32;
    const INVLPG: u32 = ExitReason::Invlpg as u32;
    const VMCALL: u32 = ExitReason::Vmcall as u32;
    const EPT_VIOLATION: u32 = ExitReason::EptViolation as u32;
    Some(match word.0 {
        EXTERNAL_INTERRUPT => VcpuStat::IrqExits,
        INTERRUPT_WINDOW => VcpuStat::IrqWindowExits,
        NMI_WINDOW => VcpuStat::NmiWindowExits,
        HLT => VcpuStat::HaltExits,
        INVLPG => VcpuStat::Invlpg,
        VMCALL => VcpuStat::Hypercalls,
        EPT_VIOLATION => VcpuStat::PfTaken,
        _ => return None,
    })
}
