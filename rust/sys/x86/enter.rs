// SPDX-License-Identifier: GPL-2.0

//! One VM entry and its exit.
//!
//! The register ABI of the switch is in `vmenter.h`.
//!
//! Invariant: entered only with the VMCS current, its host state that of this CPU and thread, and
//! interrupts off.

use super::{
    hw::Loaded,
    insn, //
};
use crate::{
    bindings,
    context::IrqsOff, //
};
use burrow_core::{
    outcome::vector,
    x86::{
        event::{
            kind,
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

/// What a VM entry came to.
#[derive(Clone, Copy, Debug)]
pub enum Entered {
    /// A VM exit (or an entry that failed late, which the reason tells).
    Exit {
        /// VM_EXIT_REASON.
        reason: ExitReasonWord,
        /// VM_EXIT_INTR_INFO for exceptions and external interrupts, else 0.
        intr_info: u32,
    },
    /// VMLAUNCH or VMRESUME failed with this VM-instruction error (0: no current VMCS).
    Failed(u32),
}

/// Extended state that differs from the host's while the guest runs.
#[derive(Clone, Copy, Debug)]
pub struct ExtendedState {
    /// XCR0, `None` where guest and host agree.
    pub xcr0: Option<SwapXcr0>,
    /// IA32_XSS, `None` where guest and host agree.
    pub xss: Option<(u64, u64)>,
    /// PKRU of the guest, `None` where it has none on; the exit brings it up to date.
    pub pkru: Option<u32>,
}

/// Guest and host values of XCR0.
#[derive(Clone, Copy, Debug)]
pub struct SwapXcr0 {
    /// The guest's value; legal for the CPU.
    pub guest: u64,
    /// The host's value.
    pub host: u64,
}

/// The guest's debug registers, to be in the processor while it runs.
#[derive(Clone, Copy, Debug)]
pub struct DebugState {
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
}

/// How to enter.
#[derive(Clone, Copy, Debug)]
pub struct EntryFlags {
    /// The guest may write IA32_SPEC_CTRL without an exit.
    pub spec_ctrl_open: bool,
}

/// A visit: one entry, or several in a row between which interrupts stay off, with the host's state that
/// cannot change meanwhile.
///
/// Invariant: made by [`Visit::begin`]; `host` is what the processor held then, and gets back by
/// [`Visit::end`].
pub struct Visit {
    host: bindings::burrow_host_state,
}

impl Visit {
    /// Begins a visit: brings the VMCS's host state up to date, puts aside what the host has armed, and
    /// begins the accounting of guest time.
    ///
    /// # Context
    ///
    /// Interrupts off, and to stay so until [`end`](Self::end); [`Loaded::prepare`] was called with the
    /// same preemption guard.
    #[inline]
    pub fn begin(loaded: &Loaded<'_>, _irqs: &IrqsOff<'_>) -> Self {
        let mut host = bindings::burrow_host_state::default();
        // SAFETY: Interrupts are off; `end()` undoes what it changes.
        unsafe { bindings::burrow_begin_visit(&mut host) };
        let visit = Self { host };
        visit.follow(loaded);
        visit
    }

    /// Brings the host state of the VMCS up to date that has just been made current.
    #[inline]
    pub fn follow(&self, loaded: &Loaded<'_>) {
        let vmcs = loaded.vmcs();
        vmcs.set(HOST_CR3, self.host.cr3);
        vmcs.set(HOST_CR4, self.host.cr4);
    }

    /// Ends the visit: the host's own state is back. Its guest time goes on until [`end_guest_time`].
    #[inline]
    pub fn end(self) {
        // SAFETY: `host` is from `begin()`, by the type's invariant.
        unsafe { bindings::burrow_end_visit(&self.host) };
    }

    /// Enters the guest and returns after its exit.
    ///
    /// What an NMI or a machine check that ended the guest asks for is done when this returns; an
    /// external interrupt is still to be forwarded ([`forward_interrupt`]).
    #[inline]
    pub fn enter(&self, loaded: &Loaded<'_>, flags: EntryFlags) -> Entered {
        if loaded.vmcs().vmcs().has_failed() {
            // Another VMCS may be the current one.
            return Entered::Failed(0);
        }
        take_exit(loaded, switch(loaded, flags))
    }

    /// The same, with extended state or debug registers that are not the host's.
    #[inline(never)]
    pub fn enter_with(
        &self,
        loaded: &Loaded<'_>,
        flags: EntryFlags,
        extended: Option<&mut ExtendedState>,
        debug: Option<&mut DebugState>,
    ) -> Entered {
        if loaded.vmcs().vmcs().has_failed() {
            return Entered::Failed(0);
        }
        let host_pkru = extended.as_deref().map_or(0, swap_in);
        if let Some(debug) = debug.as_deref() {
            // SAFETY: `dr` has four elements; DR7 is 0 until the entry, so nothing fires in the host.
            unsafe { bindings::burrow_load_guest_dr(debug.dr.as_ptr(), debug.dr6) };
        }
        let exit = switch(loaded, flags);
        if let Some(debug) = debug {
            // SAFETY: DR7 is 0 after an exit.
            debug.dr6 = unsafe { bindings::burrow_read_dr6() };
        }
        if let Some(extended) = extended {
            swap_out(extended, host_pkru);
        }
        take_exit(loaded, exit)
    }
}

/// Switches to the guest and back; returns what `burrow_enter_guest()` does.
#[inline]
fn switch(loaded: &Loaded<'_>, flags: EntryFlags) -> u64 {
    let launched = if loaded.vmcs().vmcs().is_launched() {
        bindings::BURROW_ENTER_LAUNCHED
    } else {
        0
    };
    let spec_ctrl = if flags.spec_ctrl_open {
        bindings::BURROW_ENTER_SPEC_CTRL
    } else {
        0
    };
    // SAFETY: By the module's invariant, which `Loaded` and `Visit` stand for.
    unsafe { bindings::burrow_enter_guest(loaded.hw().regs.get(), (launched | spec_ctrl) as usize) }
}

/// Takes note of the exit that has just happened.
#[inline]
fn take_exit(loaded: &Loaded<'_>, exit: u64) -> Entered {
    let vmcs = loaded.vmcs();
    // CAST: the reason is the low half, the interruption information the upper one.
    let (reason, intr_info) = (ExitReasonWord(exit as u32), (exit >> 32) as u32);
    if reason.0 == bindings::BURROW_ENTER_FAILED {
        return Entered::Failed(insn::vmread(VM_INSTRUCTION_ERROR.encoding().0).unwrap_or(0) as u32);
    }
    vmcs.vmcs().note_exit();
    // SDM 3C "VMLAUNCH/VMRESUME": the launch state changes after the guest state was loaded.
    if !reason.entry_failure() {
        vmcs.vmcs().note_launch();
    }
    if is_machine_check(reason, intr_info) {
        // SAFETY: The processor reports it to nobody else; interrupts are off, as in its handler, and
        // the host's extended state is back.
        unsafe { bindings::burrow_machine_check() };
    }
    Entered::Exit { reason, intr_info }
}

/// Returns whether a machine check caused the exit or made the entry fail: the host's handler is due.
#[inline]
fn is_machine_check(reason: ExitReasonWord, intr_info: u32) -> bool {
    const EXCEPTION: u16 = ExitReason::ExceptionNmi as u16;
    const DURING_ENTRY: u16 = ExitReason::MceDuringEntry as u16;
    match reason.number() {
        EXCEPTION => {
            let info = EventInfo(intr_info);
            info.valid() && info.kind() == kind::HARDWARE_EXCEPTION && info.vector() == vector::MC
        }
        DURING_ENTRY => reason.entry_failure(),
        _ => false,
    }
}

#[inline]
fn swap_in(extended: &ExtendedState) -> u32 {
    if let Some(xcr0) = extended.xcr0 {
        // SAFETY: Legal for the CPU, and taken back by `swap_out()` before anything else runs.
        unsafe { insn::xsetbv0(xcr0.guest) };
    }
    if let Some((guest, _)) = extended.xss {
        // SAFETY: As above.
        unsafe { insn::wrmsr(bindings::MSR_IA32_XSS, guest) };
    }
    match extended.pkru {
        Some(guest) => {
            let host = crate::fpu::read_pkru();
            if guest != host {
                crate::fpu::write_pkru(guest);
            }
            host
        }
        None => 0,
    }
}

#[inline]
fn swap_out(extended: &mut ExtendedState, host_pkru: u32) {
    if let Some(guest) = extended.pkru.as_mut() {
        *guest = crate::fpu::read_pkru();
        if *guest != host_pkru {
            crate::fpu::write_pkru(host_pkru);
        }
    }
    if let Some((_, host)) = extended.xss {
        // SAFETY: The host's own value.
        unsafe { insn::wrmsr(bindings::MSR_IA32_XSS, host) };
    }
    if let Some(xcr0) = extended.xcr0 {
        // SAFETY: The host's own value.
        unsafe { insn::xsetbv0(xcr0.host) };
    }
}

/// Hands an external interrupt that ended the guest to the host's handler.
///
/// # Context
///
/// Interrupts off, right after the exit that acknowledged `vector`.
#[inline]
pub fn forward_interrupt(vector: u8, _irqs: &IrqsOff<'_>) {
    // SAFETY: The processor acknowledged the interrupt at the exit, so the handler is due.
    unsafe { bindings::burrow_forward_irq(u32::from(vector)) };
}

/// Ends the accounting of guest time that [`Visit::begin`] began; after the interrupts that were pending at
/// the exit were let in.
#[inline]
pub fn end_guest_time(_irqs: &IrqsOff<'_>) {
    // SAFETY: Interrupts are off.
    unsafe { bindings::burrow_guest_timing_exit() };
}
