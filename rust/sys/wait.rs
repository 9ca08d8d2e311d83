// SPDX-License-Identifier: GPL-2.0

//! Blocking one task until another context wakes it: `struct rcuwait`.
//!
//! Invariant: the wrapped struct is initialised and pinned for the life of the value.

use crate::bindings;
use kernel::{
    prelude::*,
    types::Opaque, //
};

/// A place where at most one task at a time waits, and that any context may wake, hard interrupts
/// included.
#[pin_data]
#[repr(transparent)]
pub struct RcuWait {
    #[pin]
    inner: Opaque<kernel::bindings::rcuwait>,
}

// SAFETY: `rcuwait` is made for use from several threads.
unsafe impl Send for RcuWait {}
// SAFETY: As above; the waiter's side is limited to one task by the callers' vCPU mutex.
unsafe impl Sync for RcuWait {}

impl RcuWait {
    /// Makes one with nobody waiting.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The pointer is to memory for a `struct rcuwait`.
            inner <- Opaque::ffi_init(|slot| unsafe { bindings::burrow_rcuwait_init(slot) }),
        })
    }

    /// Wakes the waiting task, if there is one, and returns whether there was.
    #[inline]
    pub fn wake(&self) -> bool {
        // SAFETY: `inner` is initialised, by the type's invariant.
        unsafe { kernel::bindings::rcuwait_wake_up(self.inner.get()) != 0 }
    }

    /// Sleeps until `done()` says true, which is asked again after each wake-up and signal.
    ///
    /// Only one task may wait at a time.
    ///
    /// # Context
    ///
    /// Sleeps.
    pub fn wait_until(&self, mut done: impl FnMut() -> bool) {
        // SAFETY: `inner` is initialised; the caller is the one waiter.
        unsafe { bindings::burrow_rcuwait_prepare(self.inner.get()) };
        loop {
            // SAFETY: Affects the current task only.
            unsafe { bindings::burrow_set_current_interruptible() };
            if done() {
                break;
            }
            // SAFETY: Process context, nothing held that forbids sleeping.
            unsafe { kernel::bindings::schedule() };
        }
        // SAFETY: Pairs with the prepare above; sets the task running again.
        unsafe { bindings::burrow_rcuwait_finish(self.inner.get()) };
    }
}
