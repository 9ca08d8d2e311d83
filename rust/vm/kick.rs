// SPDX-License-Identifier: GPL-2.0

//! Requests to a vCPU, and getting its attention.
//!
//! Anybody may ask a vCPU for something by a request bit. A vCPU in guest mode is made to exit by an
//! interrupt to its CPU, one that sleeps is woken. No request is missed, because each side writes
//! before it reads, with full barriers: the vCPU sets its mode and then looks at the requests, the
//! sender sets the request and then looks at the mode.

use burrow_core::request::{
    Request,
    Requests, //
};
use burrow_sys::{
    context::{
        self,
        AtomicBits,
        IrqsOff,
        PreemptOff, //
    },
    wait::RcuWait, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
};

const OUTSIDE: u32 = 0;
const IN_GUEST: u32 = 1;
const EXITING: u32 = 2;

/// The mailbox of a vCPU.
#[pin_data]
pub(crate) struct Kick {
    requests: AtomicBits,
    mode: Atomic<u32>,
    cpu: Atomic<u32>,
    #[pin]
    wait: RcuWait,
}

impl Kick {
    /// Makes one without requests.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            requests: AtomicBits::new(),
            mode: Atomic::new(OUTSIDE),
            cpu: Atomic::new(u32::MAX),
            wait <- RcuWait::new(),
        })
    }

    /// Makes `request`, and makes the vCPU see it soon.
    pub(crate) fn request(&self, request: Request) {
        self.requests.set(request.bit());
        self.kick();
    }

    /// Makes `request`, which the vCPU sees when it next runs.
    pub(crate) fn request_quietly(&self, request: Request) {
        self.requests.set(request.bit());
    }

    /// Wakes the vCPU if it sleeps, and makes it exit if it is in the guest.
    ///
    /// # Context
    ///
    /// Any, hard interrupts included.
    pub(crate) fn kick(&self) {
        self.wait.wake();
        self.exit_guest();
    }

    /// Makes the vCPU exit if it is in the guest, and returns whether it was.
    pub(crate) fn exit_guest(&self) -> bool {
        // Who sets EXITING is the only one to interrupt, and others may spin until the vCPU has left:
        // there must be no other task on this CPU between the two.
        let preempt = PreemptOff::new();
        if self.mode.cmpxchg(IN_GUEST, EXITING, Full) != Ok(IN_GUEST) {
            return false;
        }
        let cpu = self.cpu.load(Relaxed);
        if cpu != preempt.cpu() {
            context::kick_cpu(cpu);
        }
        true
    }

    /// Returns the pending requests.
    #[inline]
    pub(crate) fn pending(&self) -> Requests {
        Requests::from_word(self.requests.get())
    }

    /// Returns the pending requests as a word, for a trace.
    pub(crate) fn word(&self) -> u64 {
        self.requests.get()
    }

    /// Takes the pending requests. Called by the vCPU.
    #[inline]
    pub(crate) fn take(&self) -> Requests {
        if self.requests.get() == 0 {
            return Requests::default();
        }
        Requests::from_word(self.requests.take())
    }

    /// Announces that the vCPU is about to enter the guest on this CPU. What the caller reads after
    /// this is not missed by a sender, nor the other way round.
    #[inline]
    pub(crate) fn enter(&self, preempt: &PreemptOff, _irqs: &IrqsOff<'_>) {
        context::poke(&self.cpu, preempt.cpu());
        self.mode.xchg(IN_GUEST, Full);
    }

    /// Returns whether somebody wanted the vCPU to exit since [`enter`](Self::enter).
    #[inline]
    pub(crate) fn is_exiting(&self) -> bool {
        context::peek(&self.mode) == EXITING
    }

    /// Announces that the vCPU has left the guest.
    #[inline]
    pub(crate) fn leave(&self) {
        self.mode.xchg(OUTSIDE, Full);
    }

    /// Sleeps until `done()`, which is asked again after each kick.
    pub(crate) fn sleep_until(&self, done: impl FnMut() -> bool) {
        self.wait.wait_until(done);
    }
}
