// SPDX-License-Identifier: GPL-2.0

//! Statics that are made when the module is loaded and freed when it is unloaded.
//!
//! Invariant: the pointer of a [`Global`] is null or owns a `T`. It is freed by [`Reclaim::reclaim`]
//! only, when nothing of the module can run but the end of its unloading.

use core::ptr;
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
};

/// A static `T`, absent until [`populate`](Self::populate).
///
/// A static is not dropped when a module goes, so that what one owns would be lost.
pub struct Global<T: Send + Sync + 'static>(Atomic<*mut T>);

impl<T: Send + Sync> Global<T> {
    /// Makes an absent one.
    pub const fn new() -> Self {
        Self(Atomic::new(ptr::null_mut()))
    }

    /// Puts `value` in, if it is absent.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory, `EBUSY` where there is a value.
    pub fn populate(&self, value: T) -> Result {
        let new = KBox::into_raw(KBox::new(value, GFP_KERNEL)?);
        if self.0.cmpxchg(ptr::null_mut(), new, Full).is_ok() {
            return Ok(());
        }
        // SAFETY: It came from `into_raw()` above, and nobody else has seen it.
        drop(unsafe { KBox::from_raw(new) });
        Err(EBUSY)
    }

    /// Returns the value.
    #[inline]
    pub fn get(&'static self) -> Option<&'static T> {
        // SAFETY: An aligned word that lives as long as `self`. A volatile read of one is what the
        // kernel's READ_ONCE() is, and what follows depends on it.
        let value = unsafe { self.0.as_ptr().read_volatile() };
        // SAFETY: Null or a live value, by the invariant: where this runs, it is not freed yet.
        unsafe { value.as_ref() }
    }
}

impl<T: Send + Sync> Default for Global<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// What can be freed at the end.
pub trait Reclaim: Sync {
    /// Frees what it owns.
    ///
    /// # Safety
    ///
    /// Nothing may hold a reference that was got from it, nor get one any more.
    unsafe fn reclaim(&self);
}

impl<T: Send + Sync> Reclaim for Global<T> {
    unsafe fn reclaim(&self) {
        let old = self.0.xchg(ptr::null_mut(), Relaxed);
        if !old.is_null() {
            // SAFETY: By the invariant it owns the value, which nobody refers to, as the caller
            // vouches.
            drop(unsafe { KBox::from_raw(old) });
        }
    }
}
