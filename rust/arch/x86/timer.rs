// SPDX-License-Identifier: GPL-2.0

//! What bounds the guest's turn: the processor's VMX-preemption timer, set before each entry to the
//! nearest of what is due.
//!
//! - The guest's APIC timer, while the vCPU runs; while it sleeps a host timer stands for that
//!   (`apic.rs`).
//! - The timer that a guest hypervisor has set for its own guest, in L2.
//! - At once, where L2 is entered only to leave it again.
//! - On a processor whose interrupts do not end a guest with RFLAGS.IF = 0, the time after which
//!   the host looks at them ([`Trial`](burrow_core::x86::vmx::preemption_timer::Trial)).
//!
//! An exit of the timer says nothing but that time has passed: who waits for it looks at the clock.

use crate::arch::x86::cpu::Cpu;
use burrow_core::x86::{
    nested::state::State,
    vmx::{
        exit::{
            ExitReason,
            ExitReasonWord, //
        },
        field::*,
        preemption_timer, //
    },
};
use burrow_sys::{
    context::{
        self,
        IrqsOff,
        PreemptOff, //
    },
    x86::tsc,
};

impl Cpu<'_> {
    /// Sets the timer for the coming entry; returns `false` where the APIC timer is due already.
    #[inline]
    pub(crate) fn arm_timer(&mut self, preempt: &PreemptOff) -> bool {
        let is_immediate = core::mem::take(&mut self.arch.leaves_at_once);
        let Some(timer) = self.host.timer else {
            if is_immediate {
                context::kick_cpu(preempt.cpu());
            }
            return true;
        };
        let apic = self.arch.lapic.as_ref().and_then(|lapic| lapic.due());
        let mut value = match self.host.turn_bound() {
            Some(bound) if !self.rflags().if_() => bound,
            _ => u32::MAX,
        };
        if apic.is_some() || self.is_l2() {
            let now = tsc::steady();
            if apic.is_some_and(|due| due <= now) {
                self.vcpu.shared.posted.post_timer();
                return false;
            }
            if let Some(due) = preemption_timer::nearest([apic, self.l1_timer(now)]) {
                value = value.min(timer.until(due, now));
            }
        }
        if is_immediate {
            value = 0;
        }
        self.vmcs().set(VMX_PREEMPTION_TIMER_VALUE, value);
        true
    }

    /// Returns when L1's timer for L2 is due, in the host's TSC, which is `now`.
    fn l1_timer(&self, now: u64) -> Option<u64> {
        let State::NonRoot(l2) = self.arch.nested.as_ref()?.state else {
            return None;
        };
        Some(
            self.arch
                .tsc
                .counter
                .tsc
                .host_time_of(l2.timer_deadline?, now),
        )
    }

    /// Begins a try of [`Trial`](preemption_timer::Trial) with the coming entry, if one is due and
    /// the entry is fit for it; returns whether it did.
    #[inline]
    pub(super) fn begin_trial(&self, preempt: &PreemptOff, _irqs: &IrqsOff<'_>) -> bool {
        self.host.wants_trial() && self.begin_trial_now(preempt)
    }

    #[cold]
    fn begin_trial_now(&self, preempt: &PreemptOff) -> bool {
        let is_fit = !self.rflags().if_() && self.arch.events.injected().is_none() && !self.is_l2();
        if is_fit {
            let proc = self.arch.ctls.proc.with_monitor_trap_flag(true);
            self.vmcs().set(CPU_BASED_VM_EXEC_CONTROL, proc.0);
            context::kick_cpu(preempt.cpu());
        }
        is_fit
    }

    /// Ends a try with the exit that came of it.
    #[cold]
    pub(super) fn end_trial(&self, reason: ExitReasonWord) {
        self.vmcs()
            .set(CPU_BASED_VM_EXEC_CONTROL, self.arch.ctls.proc.0);
        let trial = self.host.trial();
        self.host
            .set_trial(trial.after(ExitReason::try_from(reason).ok()));
    }
}
