// SPDX-License-Identifier: GPL-2.0

//! The event queue of a vCPU, and the choice of what to inject.
//!
//! An event passes through three states. *Pending*: it has occurred, nothing of it is visible to
//! the guest. *Injected*: its side effects (CR2, DR6, in-service bit) have happened and a VM entry
//! was asked to deliver it. *Delivered*: a VM exit reported no IDT-vectoring information, so the
//! guest has it. An injected event stays here until [`EventQueue::complete`] hears of its fate, so
//! an entry that was called off or failed needs no undoing.
//!
//! The order for one VM entry: [`EventQueue::next`], the acknowledgment of an interrupt if it says
//! so ([`EventQueue::inject_interrupt`]), the entry, [`EventQueue::complete`].

use crate::outcome::vector;
use crate::outcome::Bug;
use crate::outcome::Exception;
use crate::x86::event::merge;
use crate::x86::event::merge::Class;
use crate::x86::event::merge::Merged;
use crate::x86::event::Event;
use crate::x86::event::EventInfo;
use crate::x86::event::Interruptibility;

/// The most NMIs that can be pending: one in service blocks one, else two collapse into it.
const NMIS_UNBLOCKED: u8 = 2;
/// As [`NMIS_UNBLOCKED`], while NMIs are blocked or one is being delivered.
const NMIS_BLOCKED: u8 = 1;

/// An exception that has occurred and waits for the next VM entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    /// The exception.
    pub exception: Exception,
    /// For #BP and #OF: the length of the INT3 or INTO, which the delivery must step over.
    pub software_length: Option<u8>,
}

impl Pending {
    fn event(&self) -> Event {
        let vector = self.exception.vector;
        match self.software_length {
            Some(length) => Event::SoftwareException { vector, length },
            None => Event::Exception {
                vector,
                error_code: self.exception.error_code,
            },
        }
    }
}

/// Events of one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EventQueue {
    pub(super) pending: Option<Pending>,
    pub(super) injected: Option<Event>,
    pub(super) nmis: u8,
    pub(super) smi: bool,
    pub(super) triple_fault: bool,
}

/// What blocks events at the coming VM entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Blocking {
    /// The guest's interruptibility state.
    pub interruptibility: Interruptibility,
    /// The guest's RFLAGS.IF.
    pub interrupts_enabled: bool,
    /// The vCPU is in system-management mode.
    pub is_smm: bool,
    /// `KVM_GUESTDBG_BLOCKIRQ`: the debugger wants no interrupts, NMIs and SMIs.
    pub debugger_blocks: bool,
}

/// What an exception's delivery does to a register before the handler runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload {
    /// CR2 takes this linear address.
    Cr2(u64),
    /// DR6 takes these pending debug bits ([`crate::x86::regs::debug::Dr6::after_exception`]).
    Dr6(u64),
}

/// What to do for the coming VM entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inject {
    /// Enter without an event.
    Nothing,
    /// Deliver this event.
    Event(Event),
    /// Acknowledge the interrupt at the controller, and pass its vector to
    /// [`EventQueue::inject_interrupt`]; if there is none after all, enter without an event.
    AcknowledgeInterrupt,
    /// Enter system-management mode, then ask again.
    EnterSmm,
    /// Shut down: `KVM_EXIT_SHUTDOWN`, or an exit to L1.
    Shutdown,
}

/// The choice for one VM entry.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What to inject.
    pub inject: Inject,
    /// The register that the injected exception changes first.
    pub payload: Option<Payload>,
    /// Set RFLAGS.RF: the exception is a fault, so the instruction it returns to runs again.
    pub set_rf: bool,
    /// Clear DR7.GD: delivery of #DB does that.
    pub clear_gd: bool,
    /// Set blocking by NMI: an NMI's delivery met an exception, which now goes first.
    pub block_nmi: bool,
    /// An NMI waits: set "NMI-window exiting".
    pub nmi_window: bool,
    /// An interrupt waits: set "interrupt-window exiting".
    pub interrupt_window: bool,
    /// An SMI waits for RSM or for a free slot: ask again after the next exit.
    pub smi_waits: bool,
}

/// What became of an exception that was raised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Raised {
    /// It is pending.
    Pending,
    /// It became a double fault, which is pending.
    DoubleFault,
    /// It became a shutdown.
    TripleFault,
}

/// What a VM exit says of the event that was injected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion {
    /// There was none.
    Nothing,
    /// The guest has it.
    Delivered(Event),
    /// The exit cut the delivery of this event short; it will be injected again unless an
    /// exception goes first. For an NMI, blocking by NMI must be cleared before the entry.
    /// The event may be one that the guest itself caused.
    Interrupted(Event),
}

impl EventQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            pending: None,
            injected: None,
            nmis: 0,
            smi: false,
            triple_fault: false,
        }
    }

    /// Raises an exception, at the end of an instruction or during an event's delivery.
    pub fn raise(&mut self, exception: Exception) -> Raised {
        self.raise_pending(Pending {
            exception,
            software_length: None,
        })
    }

    /// Raises #BP or #OF of an INT3 or INTO of `length` bytes, which was intercepted.
    pub fn raise_software(&mut self, exception_vector: u8, length: u8) -> Raised {
        self.raise_pending(Pending {
            exception: Exception::plain(exception_vector),
            software_length: Some(length),
        })
    }

    fn raise_pending(&mut self, new: Pending) -> Raised {
        let second = Class::of_exception(new.exception.vector);
        match merge::merge(self.first_class(), second) {
            Merged::Second => {
                self.pending = Some(new);
                Raised::Pending
            }
            Merged::DoubleFault => {
                let exception = Exception::with_code(vector::DF, 0);
                self.pending = Some(Pending {
                    exception,
                    software_length: None,
                });
                Raised::DoubleFault
            }
            Merged::TripleFault => {
                self.pending = None;
                self.injected = None;
                self.triple_fault = true;
                Raised::TripleFault
            }
        }
    }

    /// Returns the class of the event that a new exception would meet.
    fn first_class(&self) -> Class {
        if let Some(pending) = self.pending {
            return Class::of_exception(pending.exception.vector);
        }
        match self.injected {
            Some(Event::Exception { vector, .. }) => Class::of_exception(vector),
            _ => Class::Benign,
        }
    }

    /// Adds `count` NMIs; those beyond what a processor can hold collapse.
    ///
    /// `interruptibility` is the guest's at the time they are taken in.
    pub fn add_nmis(&mut self, count: u8, interruptibility: Interruptibility) {
        let busy = interruptibility.nmi() || self.injected == Some(Event::Nmi);
        let limit = if busy { NMIS_BLOCKED } else { NMIS_UNBLOCKED };
        self.nmis = self.nmis.saturating_add(count).min(limit);
    }

    /// Adds an SMI; a second one collapses into it.
    pub fn add_smi(&mut self) {
        self.smi = true;
    }

    /// Adds a shutdown: the guest met a triple fault.
    pub fn add_triple_fault(&mut self) {
        self.triple_fault = true;
    }

    /// Returns whether there is a shutdown.
    #[inline]
    pub fn has_triple_fault(&self) -> bool {
        self.triple_fault
    }

    /// Takes the shutdown, if there is one.
    pub fn take_triple_fault(&mut self) -> bool {
        core::mem::take(&mut self.triple_fault)
    }

    /// Forgets every event: RESET or INIT of the vCPU.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Drops the pending exception and the injected event: both went elsewhere (a VM exit to L1
    /// took the exception, and its IDT-vectoring information the event; a task switch took over).
    pub fn drop_exception_and_injected(&mut self) {
        self.pending = None;
        self.injected = None;
    }

    /// Returns the exception that waits, for an intercept to be decided on it.
    #[inline]
    pub fn pending(&self) -> Option<&Pending> {
        self.pending.as_ref()
    }

    /// Returns the event whose delivery is not known to have ended.
    #[inline]
    pub fn injected(&self) -> Option<Event> {
        self.injected
    }

    /// Returns the number of NMIs that wait.
    #[inline]
    pub fn nmis(&self) -> u8 {
        self.nmis
    }

    /// Returns whether an SMI waits.
    #[inline]
    pub fn smi(&self) -> bool {
        self.smi
    }

    /// Takes one NMI that waits: a VM exit to L1 delivers it instead.
    pub fn take_nmi(&mut self) -> bool {
        let waits = self.nmis > 0;
        self.nmis = self.nmis.saturating_sub(1);
        waits
    }

    /// Returns whether there is nothing at all: then [`EventQueue::next`] without an interrupt
    /// decides nothing, whatever blocks events.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        !(self.pending.is_some()
            || self.injected.is_some()
            || self.nmis > 0
            || self.smi
            || self.triple_fault)
    }

    /// Returns whether a vCPU in the HLT state must run: something is here that wakes it whatever
    /// RFLAGS.IF says. The caller adds interrupts.
    #[inline]
    pub fn wakes(&self, blocking: &Blocking) -> bool {
        self.pending.is_some()
            || self.injected.is_some()
            || self.triple_fault
            || (self.nmis > 0 && !blocking.interruptibility.nmi())
            || (self.smi && !blocking.is_smm)
    }

    /// Queues an event for injection as it is: a VMM (`KVM_INTERRUPT`) or an L1 (VM-entry
    /// interruption information) hands it over complete, so nothing is merged.
    pub fn inject(&mut self, event: Event) {
        self.injected = Some(event);
    }

    /// Queues the interrupt that [`Inject::AcknowledgeInterrupt`] asked for; returns the event to
    /// write into the VMCS.
    pub fn inject_interrupt(&mut self, vector: u8) -> Event {
        let event = Event::Interrupt { vector };
        self.injected = Some(event);
        event
    }

    /// Chooses what the coming VM entry delivers, and which windows to ask for.
    ///
    /// `has_interrupt`: the interrupt controller (or the VMM's) has one that RFLAGS.IF alone can
    /// hold back. What is chosen becomes *injected*. Order: a shutdown; what was injected before,
    /// unless an exception occurred in its delivery; that exception; SMI; NMI; interrupt.
    /// SDM 3A "Priority Among Concurrent Events", 7.9.
    ///
    /// A waiting event gets its window even while another is injected: the window opens when
    /// that one has been delivered.
    pub fn next(&mut self, blocking: &Blocking, has_interrupt: bool) -> Decision {
        let mut decision = Decision {
            inject: Inject::Nothing,
            payload: None,
            set_rf: false,
            clear_gd: false,
            block_nmi: false,
            nmi_window: false,
            interrupt_window: false,
            smi_waits: false,
        };
        if self.triple_fault {
            decision.inject = Inject::Shutdown;
            return decision;
        }
        if let Some(pending) = self.pending.take() {
            self.inject_exception(&pending, &mut decision);
        } else if let Some(event) = self.injected {
            decision.inject = Inject::Event(event);
        }
        if !blocking.debugger_blocks {
            self.choose_asynchronous(blocking, has_interrupt, &mut decision);
        }
        decision
    }

    fn inject_exception(&mut self, pending: &Pending, decision: &mut Decision) {
        let exception = &pending.exception;
        decision.payload = payload_of(exception);
        decision.set_rf = pending.software_length.is_none() && is_fault(exception.vector);
        decision.clear_gd = exception.vector == vector::DB;
        decision.block_nmi = self.injected == Some(Event::Nmi);
        let event = pending.event();
        self.injected = Some(event);
        decision.inject = Inject::Event(event);
    }

    fn choose_asynchronous(
        &mut self,
        blocking: &Blocking,
        has_interrupt: bool,
        decision: &mut Decision,
    ) {
        let state = blocking.interruptibility;
        if self.smi {
            if decision.inject == Inject::Nothing && !blocking.is_smm && !state.smi() {
                self.smi = false;
                decision.inject = Inject::EnterSmm;
            } else {
                decision.smi_waits = true;
            }
        }
        if self.nmis > 0 {
            let blocked = state.nmi() || state.has_shadow();
            if decision.inject == Inject::Nothing && !blocked {
                self.nmis = self.nmis.saturating_sub(1);
                self.injected = Some(Event::Nmi);
                decision.inject = Inject::Event(Event::Nmi);
            }
            decision.nmi_window = self.nmis > 0;
        }
        if has_interrupt {
            let blocked = !blocking.interrupts_enabled || state.has_shadow();
            if decision.inject == Inject::Nothing && !blocked {
                decision.inject = Inject::AcknowledgeInterrupt;
            } else {
                decision.interrupt_window = true;
            }
        }
    }

    /// Takes note of a VM exit: the injected event was delivered, or is to be injected again.
    ///
    /// `info`, `error_code` and `instruction_length` are the exit's IDT-vectoring information,
    /// IDT-vectoring error code and VM-exit instruction length. Call it once for each exit, before
    /// the exit is handled, and not for a VM entry that failed.
    ///
    /// # Errors
    ///
    /// Information that hardware cannot report.
    pub fn complete(
        &mut self,
        info: EventInfo,
        error_code: u32,
        instruction_length: u32,
    ) -> Result<Completion, Bug> {
        let before = self.injected.take();
        self.injected = Event::decode(info, error_code, instruction_length)?;
        Ok(match (self.injected, before) {
            (Some(event), _) => Completion::Interrupted(event),
            (None, Some(event)) => Completion::Delivered(event),
            (None, None) => Completion::Nothing,
        })
    }

    /// Takes the payload out of the pending exception, to be applied at once: for a VMM that does
    /// not know payloads (`KVM_CAP_EXCEPTION_PAYLOAD` off), before it reads registers.
    pub fn take_payload(&mut self) -> Option<Payload> {
        let pending = self.pending.as_mut()?;
        let payload = payload_of(&pending.exception);
        pending.exception.payload = None;
        payload
    }
}

fn payload_of(exception: &Exception) -> Option<Payload> {
    let value = exception.payload?;
    match exception.vector {
        vector::PF => Some(Payload::Cr2(value)),
        vector::DB => Some(Payload::Dr6(value)),
        _ => None,
    }
}

/// Returns whether the exception is a fault, for which delivery sets RF in the saved RFLAGS.
///
/// #DB is left out: its faults (code breakpoints) save RF as it is. SDM 3A "Exception
/// Classifications", 7.5; SDM 3B "Instruction-Breakpoint Exception Condition", 19.3.1.1.
fn is_fault(exception_vector: u8) -> bool {
    !matches!(
        exception_vector,
        vector::DB | vector::NMI | vector::BP | vector::OF | vector::DF | vector::MC
    )
}

#[cfg(test)]
mod tests;
