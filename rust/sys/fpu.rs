// SPDX-License-Identifier: GPL-2.0

//! The guest's extended state (x87, SSE, AVX and on), kept by the kernel's own guest-FPU service.
//!
//! Invariant: while a [`GuestFpu`] is swapped in, the same task swaps it out before it leaves the
//! ioctl.

use crate::bindings;
use kernel::{
    bindings as k,
    prelude::*, //
};

/// The guest's FPU state.
pub struct GuestFpu {
    inner: KBox<k::fpu_guest>,
    /// It is swapped in.
    is_in: bool,
}

// SAFETY: The state is plain memory that only its owner touches.
unsafe impl Send for GuestFpu {}
// SAFETY: All changes need `&mut self`.
unsafe impl Sync for GuestFpu {}

impl GuestFpu {
    /// Allocates a state as after reset.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub fn new() -> Result<Self> {
        let mut inner = KBox::new(k::fpu_guest::default(), GFP_KERNEL)?;
        // SAFETY: `inner` is a writable, zeroed `struct fpu_guest`.
        if !unsafe { k::fpu_alloc_guest_fpstate(&mut *inner) } {
            return Err(ENOMEM);
        }
        Ok(Self {
            inner,
            is_in: false,
        })
    }

    /// Puts the guest's state into the current task's place, and the task's aside, if that is not done.
    ///
    /// # Context
    ///
    /// Process context, preemption on.
    pub fn load(&mut self) {
        if !core::mem::replace(&mut self.is_in, true) {
            // SAFETY: `inner` holds an allocated state, which is out.
            unsafe { k::fpu_swap_kvm_fpstate(&mut *self.inner, true) };
        }
    }

    /// Undoes [`load`](Self::load), if that was done. By the same task.
    pub fn put(&mut self) {
        if core::mem::replace(&mut self.is_in, false) {
            // SAFETY: `inner` holds an allocated state, which this task swapped in.
            unsafe { k::fpu_swap_kvm_fpstate(&mut *self.inner, false) };
        }
    }

    /// Returns the size in bytes of the state in the layout of `KVM_GET_XSAVE2`.
    pub fn uabi_size(&self) -> usize {
        self.inner.uabi_size as usize
    }

    /// Copies the state out in the layout of `KVM_GET_XSAVE2`.
    pub fn copy_out(&mut self, buf: &mut [u8], xcr0: u64, pkru: u32) {
        // CAST: buffers are a few KiB.
        // SAFETY: `buf` is writable for its length, which is passed along.
        unsafe {
            k::fpu_copy_guest_fpstate_to_uabi(
                &mut *self.inner,
                buf.as_mut_ptr().cast(),
                buf.len() as u32,
                xcr0,
                pkru,
            )
        };
    }

    /// Replaces the state by one in the layout of `KVM_SET_XSAVE`.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the header names features outside `xcr0` or the buffer is too short.
    pub fn copy_in(&mut self, buf: &[u8], xcr0: u64, pkru: &mut u32) -> Result {
        if buf.len() < self.uabi_size() {
            return Err(EINVAL);
        }
        // SAFETY: `buf` is readable for `uabi_size()` bytes, checked above.
        kernel::error::to_result(unsafe {
            k::fpu_copy_uabi_to_guest_fpstate(&mut *self.inner, buf.as_ptr().cast(), xcr0, pkru)
        })
    }
}

impl Drop for GuestFpu {
    fn drop(&mut self) {
        // SAFETY: `inner` holds an allocated state that is not swapped in.
        unsafe { k::fpu_free_guest_fpstate(&mut *self.inner) };
    }
}

/// Returns the current PKRU; 0 without protection keys.
#[inline]
pub fn read_pkru() -> u32 {
    // SAFETY: The shim reads nothing where the CPU lacks the feature.
    unsafe { bindings::burrow_rdpkru() }
}

/// Writes PKRU; without effect where the CPU lacks protection keys.
#[inline]
pub fn write_pkru(value: u32) {
    // SAFETY: The kernel's own accesses to user memory do not depend on PKRU being the task's own
    // while a guest is about to run; callers restore it after the exit.
    unsafe { bindings::burrow_wrpkru(value) };
}

/// Returns the host's XCR0; 0 without XSAVE.
pub fn host_xcr0() -> u64 {
    // SAFETY: The shim reads XCR0 only where XSAVE is on.
    unsafe { bindings::burrow_host_xcr0() }
}

/// Returns the size in bytes of a guest's state in the layout of `KVM_GET_XSAVE2`; 0 if it cannot be
/// told.
pub fn uabi_size() -> u32 {
    GuestFpu::new().map_or(0, |fpu| fpu.inner.uabi_size)
}

/// Returns the guest's XMM register `index`, 0 to 15.
///
/// # Context
///
/// Process context, with the guest's state swapped in ([`GuestFpu::load`]).
pub fn read_xmm(index: u8) -> [u8; 16] {
    let mut value = [0; 16];
    // SAFETY: `value` has the 16 bytes that the shim writes; an index above 15 writes none.
    unsafe { bindings::burrow_read_xmm(i32::from(index), value.as_mut_ptr().cast()) };
    value
}

/// Sets the guest's XMM register `index`, 0 to 15.
///
/// # Context
///
/// As for [`read_xmm`].
pub fn write_xmm(index: u8, value: &[u8; 16]) {
    // SAFETY: `value` has the 16 bytes that the shim reads; the guest's state is in the registers, so
    // that nothing of the host's is lost.
    unsafe { bindings::burrow_write_xmm(i32::from(index), value.as_ptr().cast()) };
}
