// SPDX-License-Identifier: GPL-2.0

//! Debug registers, and the debugger in userspace that may use them in the guest's stead.

use crate::arch::x86::{
    cpu::Cpu,
    outcome::UserExit, //
};
use burrow_core::{
    outcome::{
        vector,
        Exception, //
    },
    x86::{
        event::Event,
        regs::{
            debug::{
                Dr6,
                Dr7, //
            },
            guest_debug::{
                Control,
                GuestDebug, //
            },
            Rflags, //
        },
        vmx::field::*, //
    },
};
use burrow_sys::x86::enter::DebugState;
use kernel::prelude::*;

impl Cpu<'_> {
    /// Sets the guest's DR7.
    pub(crate) fn store_dr7(&mut self, value: u64) {
        self.arch.debug.dr7 = value;
        let dr7 = self.dr7_in_force();
        self.vmcs().set(GUEST_DR7, dr7.0);
    }

    fn dr7_in_force(&self) -> Dr7 {
        self.arch
            .guest_debug
            .registers()
            .map_or(Dr7(self.arch.debug.dr7), |(_, dr7)| dr7)
    }

    /// Returns what the processor's debug registers hold while the guest runs, if breakpoints are armed.
    #[inline]
    pub(crate) fn armed_breakpoints(&self) -> Option<DebugState> {
        let guest = &self.arch.debug;
        let (address, dr7) = self
            .arch
            .guest_debug
            .registers()
            .unwrap_or((&guest.address, Dr7(guest.dr7)));
        dr7.is_armed().then_some(DebugState {
            dr: *address,
            dr6: guest.dr6,
        })
    }

    /// `KVM_SET_GUEST_DEBUG`: takes what a debugger asks for.
    ///
    /// # Errors
    ///
    /// `EBUSY` to inject an exception where there is one.
    pub(crate) fn set_guest_debug(&mut self, control: Control, registers: &[u64; 8]) -> Result {
        if control.inject_db() || control.inject_bp() {
            self.inject_for_debugger(control)?;
        }
        let flags = self.rflags();
        self.arch.guest_debug.request(control, registers, flags);
        self.set_rflags(flags);
        self.store_dr7(self.arch.debug.dr7);
        self.vmcs().set(EXCEPTION_BITMAP, self.exception_bitmap());
        Ok(())
    }

    fn inject_for_debugger(&mut self, control: Control) -> Result {
        let events = &mut self.arch.events;
        let is_exception = |event| !matches!(event, Event::Interrupt { .. } | Event::Nmi);
        if events.pending().is_some() || events.injected().is_some_and(is_exception) {
            return Err(EBUSY);
        }
        let vector = if control.inject_db() {
            vector::DB
        } else {
            vector::BP
        };
        events.raise(Exception {
            vector,
            error_code: None,
            payload: None,
        });
        Ok(())
    }

    /// Sets up the coming entry for a debugger that steps.
    ///
    /// The trap comes behind the next instruction whatever STI or MOV SS block; with their blocking, an
    /// entry with TF set would have to have the trap pending already. SDM 3C "Checks on Guest Non-Register
    /// State", 27.3.1.5.
    pub(crate) fn prepare_step(&mut self) {
        if !self.arch.guest_debug.steps() {
            return;
        }
        let flags = self
            .arch
            .guest_debug
            .rearm(Rflags(self.vmcs().get(GUEST_RFLAGS)));
        self.vmcs().set(GUEST_RFLAGS, flags.0);
        let state = self.interruptibility();
        if state.has_shadow() {
            self.set_interruptibility(state.with_sti(false).with_mov_ss(false));
        }
    }

    /// Returns the exit for a step that ended in an exit of another kind.
    #[inline]
    pub(crate) fn take_step(&mut self) -> Option<UserExit> {
        self.arch
            .guest_debug
            .take_step()
            .then(|| self.debug_exit(vector::DB, Dr6(0).with_bs(true).0))
    }

    /// The exit for the debugger. `pending` is what #DB reports.
    pub(crate) fn debug_exit(&self, exception: u8, pending: u64) -> UserExit {
        let is_db = exception == vector::DB;
        UserExit::Debug {
            exception,
            pc: self.linear_rip().0,
            dr6: if is_db { GuestDebug::dr6(pending) } else { 0 },
            dr7: if is_db { self.dr7_in_force().0 } else { 0 },
        }
    }
}
