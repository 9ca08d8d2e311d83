// SPDX-License-Identifier: GPL-2.0

//! Ends of interrupts without an exit: MSR_KVM_PV_EOI_EN.
//!
//! Before an entry, a byte of guest memory says that the interrupt in service may be ended by clearing it.
//! After the exit it says whether the guest did, and the local APIC ends the interrupt then. That late is
//! early enough where nobody waits for the end: no other interrupt, no I/O APIC.
//!
//! Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN

use crate::arch::x86::cpu::Cpu;
use burrow_core::addr::Gpa;

/// The bit of the MSR that turns it on.
const ENABLED: u64 = 1;
/// In the guest's byte: the end of the interrupt in service needs no EOI.
const NO_EOI_NEEDED: u8 = 1;

/// MSR_KVM_PV_EOI_EN of a vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PvEoi {
    /// The MSR.
    pub(crate) msr: u64,
    /// The guest's byte was set before the entry.
    is_offered: bool,
}

impl Cpu<'_> {
    /// Lets the guest end the interrupt in service by its byte, if it has one.
    ///
    /// # Context
    ///
    /// Sleeps. Before an entry, of which [`take_pv_eoi`](Self::take_pv_eoi) follows in any case.
    #[inline]
    pub(crate) fn offer_pv_eoi(&mut self) {
        if self.arch.paravirt.eoi.msr & ENABLED != 0 {
            self.offer();
        }
    }

    /// Takes note of what the guest has ended.
    ///
    /// # Context
    ///
    /// Sleeps.
    #[inline]
    pub(crate) fn take_pv_eoi(&mut self) {
        if self.arch.paravirt.eoi.is_offered {
            self.take();
        }
    }

    fn byte_at(&self) -> Gpa {
        Gpa(self.arch.paravirt.eoi.msr & !3)
    }

    fn offer(&mut self) {
        let chips = &self.vcpu.vm.chips;
        let lapic = self.arch.lapic.as_deref();
        if self.is_l2() || !lapic.is_some_and(|lapic| lapic.ends_silently(chips)) {
            return;
        }
        let memory = &self.vcpu.vm.memory;
        let set = memory.write(self.byte_at(), &[NO_EOI_NEEDED]);
        self.arch.paravirt.eoi.is_offered = set.is_ok();
    }

    fn take(&mut self) {
        self.arch.paravirt.eoi.is_offered = false;
        let (memory, at) = (&self.vcpu.vm.memory, self.byte_at());
        let mut byte = [0];
        // Where the byte is gone, the guest is about to write EOI.
        if memory.read(at, &mut byte).is_err() {
            return;
        }
        if byte[0] & NO_EOI_NEEDED == 0 {
            self.end_interrupt();
        } else {
            let _ = memory.write(at, &[byte[0] & !NO_EOI_NEEDED]);
        }
    }
}
