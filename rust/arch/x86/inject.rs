// SPDX-License-Identifier: GPL-2.0

//! Events into the guest, and what a VM exit says of them.

use crate::arch::x86::{
    cpu::Cpu,
    outcome::{
        L2Events,
        Stop,
        UserExit, //
    },
    state::MpState, //
};
use burrow_core::x86::{
    event::{
        self,
        queue::{
            Blocking,
            Completion,
            Decision,
            Inject,
            Payload, //
        },
        Event,
        EventInfo,
        Protection, //
    },
    regs::debug::{
        Dr6,
        Dr7, //
    },
    vmx::{
        exit::EptViolation,
        field::*, //
    },
};

impl Cpu<'_> {
    /// Returns what blocks events now.
    pub(crate) fn blocking(&self) -> Blocking {
        Blocking {
            interruptibility: self.interruptibility(),
            interrupts_enabled: self.rflags().if_(),
            is_smm: self.is_smm(),
            debugger_blocks: self.arch.guest_debug.blocks_interrupts(),
        }
    }

    /// Returns whether the guest would take an interrupt now, were there one: what userspace learns
    /// as `ready_for_interrupt_injection`.
    pub(crate) fn is_ready_for_interrupt(&self) -> bool {
        if self.l1_takes_interrupts() {
            return !self.is_l2_entry_pending()
                && self.arch.user_interrupt.is_none()
                && self.accepts_user_interrupt();
        }
        self.rflags().if_()
            && !self.interruptibility().has_shadow()
            && self.arch.events.injected().is_none()
            && self.arch.events.pending().is_none()
            && self.arch.user_interrupt.is_none()
            && self.accepts_user_interrupt()
    }

    /// Prepares the delivery of the most urgent event for the coming entry, and asks for the windows
    /// that others wait for.
    ///
    /// `window_wanted`: userspace wants to know when an interrupt can be injected.
    pub(crate) fn inject_events(&mut self, window_wanted: bool) -> Result<(), Stop> {
        self.arch.is_window_wanted = window_wanted;
        self.accept_posted();
        self.prepare_step();
        let mut l2 = L2Events::Deliver;
        if self.is_l2() {
            l2 = self.l2_events()?;
        }
        let has_interrupt = self.has_interrupt() && !self.l1_takes_interrupts();
        let is_quiet = self.arch.events.is_quiet() && !self.is_l2();
        if is_quiet && !has_interrupt && !window_wanted {
            self.vmcs().set(VM_ENTRY_INTR_INFO_FIELD, 0);
            self.set_windows(false, false);
            return Ok(());
        }
        self.choose_event(window_wanted, has_interrupt, l2)
    }

    /// Prepares an entry without an event, right after L1 or L2 has taken the place of the other. Returns
    /// `false` where there may be one, or another thing that [`inject_events`](Self::inject_events) or the
    /// run loop sees to; what has been posted is looked for elsewhere.
    ///
    /// The windows in L2's controls are those that L1 asks for, as after each entry of L1's; those of L1
    /// must have been closed before, or one is still waited for.
    pub(crate) fn enters_without_event(&mut self) -> bool {
        let proc = self.arch.ctls.proc;
        let is_quiet = self.arch.events.is_quiet()
            && !self.arch.is_window_wanted
            && !self.arch.guest_debug.steps()
            && self.arch.mp_state == MpState::Runnable
            && !self.has_apic_work()
            && if self.is_l2() {
                self.is_l2_quiet()
            } else {
                !proc.intr_window() && !proc.nmi_window()
            };
        if is_quiet {
            self.vmcs().set(VM_ENTRY_INTR_INFO_FIELD, 0);
        }
        is_quiet
    }

    fn choose_event(
        &mut self,
        window_wanted: bool,
        has_interrupt: bool,
        l2: L2Events,
    ) -> Result<(), Stop> {
        let mut blocking = self.blocking();
        // What is new waits where L2 must be entered first.
        blocking.debugger_blocks |= l2 == L2Events::Later;
        let is_again = self.arch.events.injected().is_some();
        let decision = self.arch.events.next(&blocking, has_interrupt);
        self.apply(&decision);
        let event = match decision.inject {
            Inject::Nothing => None,
            Inject::Event(event) => Some(event),
            Inject::AcknowledgeInterrupt => self
                .acknowledge_interrupt()
                .map(|vector| self.arch.events.inject_interrupt(vector)),
            Inject::EnterSmm => {
                self.enter_smm()?;
                None
            }
            Inject::Shutdown => {
                self.arch.events.take_triple_fault();
                return Err(Stop::ToUser(UserExit::Shutdown));
            }
        };
        match event {
            Some(event) => {
                self.note_injection(&event, is_again);
                self.write_injection(event);
            }
            None => self.vmcs().set(VM_ENTRY_INTR_INFO_FIELD, 0),
        }
        let interrupt_window = decision.interrupt_window
            || window_wanted && self.accepts_user_interrupt() && !self.is_ready_for_interrupt()
            || self.has_interrupt() && !blocking.debugger_blocks && !self.l1_takes_interrupts();
        self.arch.leaves_at_once = l2 == L2Events::Later;
        self.set_windows(interrupt_window, decision.nmi_window);
        Ok(())
    }

    fn apply(&mut self, decision: &Decision) {
        match decision.payload {
            Some(Payload::Cr2(address)) => self.hw.set_cr2(address),
            Some(Payload::Dr6(bits)) => {
                self.arch.debug.dr6 = Dr6(self.arch.debug.dr6).after_exception(bits).0;
            }
            None => {}
        }
        if decision.set_rf {
            let flags = self.rflags();
            self.set_rflags(flags.with_rf(true));
        }
        if decision.clear_gd {
            self.store_dr7(Dr7(self.arch.debug.dr7).with_gd(false).0);
        }
        if decision.block_nmi {
            let state = self.interruptibility();
            self.set_interruptibility(state.with_nmi(true));
        }
    }

    fn write_injection(&mut self, event: Event) {
        let protection = if self.cr0().pe() {
            Protection::Protected
        } else {
            Protection::RealMode
        };
        let injection = event.encode(protection);
        let vmcs = self.vmcs();
        vmcs.set(VM_ENTRY_INTR_INFO_FIELD, injection.info.0);
        if let Some(code) = injection.error_code {
            vmcs.set(VM_ENTRY_EXCEPTION_ERROR_CODE, code);
        }
        if let Some(length) = injection.instruction_length {
            vmcs.set(VM_ENTRY_INSTRUCTION_LEN, length);
        }
        // An event wakes the processor: hardware refuses some in the HLT state.
        vmcs.set(GUEST_ACTIVITY_STATE, 0);
        if matches!(event, Event::Interrupt { .. }) {
            self.arch.mp_state = MpState::Runnable;
        }
    }

    fn set_windows(&mut self, interrupt: bool, nmi: bool) {
        let (interrupt12, nmi12) = self.l1_windows();
        let (interrupt, nmi) = (interrupt || interrupt12, nmi || nmi12);
        let nmi = nmi && crate::host::host().ctls.has_virtual_nmis();
        let proc = self
            .arch
            .ctls
            .proc
            .with_intr_window(interrupt)
            .with_nmi_window(nmi);
        self.set_proc_ctls(proc);
    }

    /// Takes note of what the exit says of the event that was injected.
    #[inline]
    pub(crate) fn complete_events(&mut self) -> Result<(), Stop> {
        let info = EventInfo(self.vmcs().get(IDT_VECTORING_INFO_FIELD));
        if !info.valid() && self.arch.events.injected().is_none() {
            return Ok(());
        }
        self.complete_event(info)
    }

    fn complete_event(&mut self, info: EventInfo) -> Result<(), Stop> {
        let vmcs = self.vmcs();
        let code = if info.has_error_code() {
            vmcs.get(IDT_VECTORING_ERROR_CODE)
        } else {
            0
        };
        let length = vmcs.get(VM_EXIT_INSTRUCTION_LEN);
        let completion = self.arch.events.complete(info, code, length)?;
        if let Completion::Interrupted(Event::Nmi) = completion {
            // It goes in again, which needs NMIs unblocked; its delivery blocks them.
            let state = self.interruptibility();
            self.set_interruptibility(state.with_nmi(false));
        }
        Ok(())
    }

    /// Blocks NMIs again where an IRET has unblocked them and then met an EPT violation or a full log,
    /// whose exit qualification is `hw`, and which we handle: it is executed again.
    ///
    /// The bit is the same in both qualifications. SDM 3C "Exit Qualification", 29.2.1
    pub(crate) fn block_nmis_until_iret_is_done(&mut self, hw: EptViolation) {
        let vectoring = EventInfo(self.vmcs().get(IDT_VECTORING_INFO_FIELD));
        if event::iret_lost_nmi_blocking(hw.nmi_unblocking(), None, vectoring) {
            let state = self.interruptibility();
            self.set_interruptibility(state.with_nmi(true));
        }
    }
}
