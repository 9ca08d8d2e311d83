// SPDX-License-Identifier: GPL-2.0

//! A value that readers see through a pointer and writers replace as a whole.
//!
//! Invariant: `current` always points to a live `T` that was made by `KBox::into_raw()`. A value
//! that was replaced goes back to the writer only after a grace period that began after the
//! replacement, so no reader, each of which holds the read lock, can still see it.

use core::ops::Deref;
use kernel::{
    alloc::KBox,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full, //
        },
        srcu,
        LockClassKey,
        Srcu, //
    },
};

/// A pointer to a `T`, published under SRCU: readers may sleep.
#[pin_data(PinnedDrop)]
pub struct SrcuPtr<T: Send + Sync> {
    #[pin]
    srcu: Srcu,
    current: Atomic<*mut T>,
}

// SAFETY: It owns a `T`, which is `Send`.
unsafe impl<T: Send + Sync> Send for SrcuPtr<T> {}
// SAFETY: It lends `&T` to any thread and hands out `KBox<T>`; `T` is `Send` and `Sync`.
unsafe impl<T: Send + Sync> Sync for SrcuPtr<T> {}

impl<T: Send + Sync> SrcuPtr<T> {
    /// Makes a pointer to `value`.
    pub fn new(
        value: KBox<T>,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            srcu <- Srcu::new(name, key),
            // INVARIANT: Made by `into_raw()` here and now.
            current: Atomic::new(KBox::into_raw(value)),
        })
    }

    /// Returns the current value, which stays what it is while the guard lives.
    ///
    /// # Context
    ///
    /// Any but NMI. The holder may sleep, but must not wait for a writer.
    #[inline]
    pub fn read(&self) -> SrcuRef<'_, T> {
        let guard = self.srcu.read_lock();
        let value = self.current.load(Acquire);
        SrcuRef {
            // SAFETY: By the invariant it is live, and stays so while the read lock is held, which
            // `guard` does for as long as the reference lives.
            value: unsafe { &*value },
            _guard: guard,
        }
    }

    /// Publishes `new`, waits until no reader sees the old value, and returns that.
    ///
    /// # Context
    ///
    /// Sleeps; the caller must hold no guard of [`read`](Self::read).
    pub fn replace(&self, new: KBox<T>) -> KBox<T> {
        let old = self.current.xchg(KBox::into_raw(new), Full);
        self.srcu.synchronize_expedited();
        // SAFETY: By the invariant made by `into_raw()`; the exchange took it from where others
        // could find it, and the grace period let go those that had.
        unsafe { KBox::from_raw(old) }
    }
}

#[pinned_drop]
impl<T: Send + Sync> PinnedDrop for SrcuPtr<T> {
    fn drop(self: Pin<&mut Self>) {
        let current = self.current.load(Acquire);
        // SAFETY: By the invariant made by `into_raw()`; guards borrow `self`, so none is left.
        drop(unsafe { KBox::from_raw(current) });
    }
}

/// A value that is being read; see [`SrcuPtr::read`].
pub struct SrcuRef<'a, T> {
    value: &'a T,
    _guard: srcu::Guard<'a>,
}

impl<T> Deref for SrcuRef<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.value
    }
}
