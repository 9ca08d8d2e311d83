// SPDX-License-Identifier: GPL-2.0

//! Ways to take a lock that the kernel crate does not have.
//!
//! Invariant: a guard is made of a lock that was just taken, by this task.

use crate::bindings;
use kernel::{
    prelude::*,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Mutex, //
    },
};

/// A locked [`Mutex`].
pub type MutexGuard<'a, T> = Guard<'a, T, MutexBackend>;

/// Locks `mutex`, unless the task gets a fatal signal while it waits.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `EINTR` on a fatal signal.
pub fn killable<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>> {
    let raw = core::ptr::from_ref(mutex).cast_mut().cast();
    // SAFETY: A `Lock` is laid out as in C and begins with its state, here a `struct mutex`, which
    // `Lock::from_raw()` relies on, too. That is initialised and pinned.
    kernel::error::to_result(unsafe { bindings::burrow_mutex_lock_killable(raw) })?;
    // SAFETY: The mutex was taken above; its backend keeps nothing in a guard.
    Ok(unsafe { Guard::new(mutex, ()) })
}
