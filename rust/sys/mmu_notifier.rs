// SPDX-License-Identifier: GPL-2.0

//! Word from the host that it is about to change the mappings of an address space.
//!
//! Invariant: a [`Registration`] is registered with its `mm` from the end of its initialisation to
//! its drop, which waits for callbacks that still run; so a callback always finds it, pinned, with
//! all its fields initialised.

use burrow_core::addr::Hva;
use kernel::{
    bindings,
    error::to_result,
    ffi::{
        c_int,
        c_ulong, //
    },
    mm::{
        Mm,
        MmWithUser, //
    },
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
    types::Opaque,
};

/// What is told. `start..end` are addresses of the VMM.
///
/// # Context
///
/// None but [`release`](Self::release) may sleep: the host calls with spinlocks held, or in a place where it must not wait (the
/// OOM killer, `MMU_NOTIFIER_RANGE_BLOCKABLE` clear). All may run at the same time on several CPUs.
pub trait Notify: Send + Sync + 'static {
    /// The range is about to be unmapped, moved or made stricter. On return nothing of it may be
    /// used any more, and until [`invalidate_end`](Self::invalidate_end) no page of it may be
    /// mapped.
    fn invalidate_start(&self, start: Hva, end: Hva);

    /// The change of the range is done. Follows each `invalidate_start` with the same range.
    fn invalidate_end(&self, start: Hva, end: Hva);

    /// Tests and clears "was used".
    fn clear_young(&self, start: Hva, end: Hva) -> bool;

    /// Tests "was used".
    fn test_young(&self, start: Hva, end: Hva) -> bool;

    /// The address space is going: on return nothing of it may be used, and nothing be mapped ever
    /// again.
    fn release(&self);
}

/// The registration of a `T` for an address space.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub struct Registration<T: Notify> {
    target: Arc<T>,
    /// Keeps the `mm_struct` for `mmu_notifier_unregister()`.
    mm: ARef<Mm>,
    #[pin]
    inner: Opaque<bindings::mmu_notifier>,
}

// SAFETY: Registration and removal may be done from any thread; `T` is `Send` and `Sync`.
unsafe impl<T: Notify> Send for Registration<T> {}
// SAFETY: There is nothing to do through a shared reference.
unsafe impl<T: Notify> Sync for Registration<T> {}

impl<T: Notify> Registration<T> {
    const OPS: bindings::mmu_notifier_ops = bindings::mmu_notifier_ops {
        release: Some(Self::release),
        clear_flush_young: Some(Self::clear_young),
        clear_young: Some(Self::clear_young),
        test_young: Some(Self::test_young),
        invalidate_range_start: Some(Self::invalidate_range_start),
        invalidate_range_end: Some(Self::invalidate_range_end),
        // SAFETY: `None` for each of the other callbacks is what zeroes mean.
        ..unsafe { core::mem::zeroed() }
    };

    /// Registers `target` for `mm`.
    ///
    /// # Context
    ///
    /// Sleeps; takes the `mmap_lock` of `mm` for writing.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory, `EINTR` when a signal is pending.
    pub fn new<'a>(mm: &'a MmWithUser, target: Arc<T>) -> impl PinInit<Self, Error> + 'a {
        try_pin_init!(Self {
            target,
            mm: ARef::from(&**mm),
            // INVARIANT: Last, as callbacks may come before this returns.
            inner <- Opaque::try_ffi_init(|slot: *mut bindings::mmu_notifier| {
                // SAFETY: `slot` is memory for a `struct mmu_notifier`.
                unsafe { slot.write(bindings::mmu_notifier::default()) };
                // SAFETY: `slot` was initialised above, and nobody else knows it yet.
                unsafe { (*slot).ops = &Self::OPS };
                // SAFETY: `mm` has users, as the reference says; `slot` is pinned, and unregistered
                // before it goes, in `drop()`.
                to_result(unsafe { bindings::mmu_notifier_register(slot, mm.as_raw()) })
            }),
        })
    }

    /// Returns the target of the registration that `subscription` is in.
    ///
    /// # Safety
    ///
    /// Only for callbacks of [`Self::OPS`], with the pointer that they were given; the reference
    /// must not outlive the callback.
    unsafe fn target<'a>(subscription: *mut bindings::mmu_notifier) -> &'a T {
        let inner = Opaque::cast_from(subscription);
        // SAFETY: By the type's invariant `subscription` is the `inner` of a registration.
        let this: *const Self = unsafe { kernel::container_of!(inner, Self, inner) };
        // SAFETY: `target` is initialised before `inner`, and lives until callbacks are over.
        unsafe { &*core::ptr::addr_of!((*this).target) }
    }

    /// # Safety
    ///
    /// Called by the kernel only, with what it was registered with.
    unsafe extern "C" fn release(
        subscription: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
    ) {
        // SAFETY: Called by the kernel as a callback of `OPS`.
        unsafe { Self::target(subscription) }.release();
    }

    /// # Safety
    ///
    /// Called by the kernel only, with what it was registered with.
    unsafe extern "C" fn clear_young(
        subscription: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
        start: c_ulong,
        end: c_ulong,
    ) -> bool {
        // SAFETY: Called by the kernel as a callback of `OPS`.
        unsafe { Self::target(subscription) }.clear_young(Hva(start as u64), Hva(end as u64))
    }

    /// # Safety
    ///
    /// Called by the kernel only, with what it was registered with.
    unsafe extern "C" fn test_young(
        subscription: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
        address: c_ulong,
    ) -> bool {
        let start = Hva(address as u64);
        // SAFETY: Called by the kernel as a callback of `OPS`.
        unsafe { Self::target(subscription) }.test_young(start, start.wrapping_add(1))
    }

    /// # Safety
    ///
    /// Called by the kernel only, with what it was registered with.
    unsafe extern "C" fn invalidate_range_start(
        subscription: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) -> c_int {
        // SAFETY: The kernel passes a valid range for the time of the call.
        let (start, end) = unsafe { ((*range).start, (*range).end) };
        // SAFETY: Called by the kernel as a callback of `OPS`.
        unsafe { Self::target(subscription) }.invalidate_start(Hva(start as u64), Hva(end as u64));
        0
    }

    /// # Safety
    ///
    /// Called by the kernel only, with what it was registered with.
    unsafe extern "C" fn invalidate_range_end(
        subscription: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) {
        // SAFETY: The kernel passes a valid range for the time of the call.
        let (start, end) = unsafe { ((*range).start, (*range).end) };
        // SAFETY: Called by the kernel as a callback of `OPS`.
        unsafe { Self::target(subscription) }.invalidate_end(Hva(start as u64), Hva(end as u64));
    }
}

#[pinned_drop]
impl<T: Notify> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Registered in `new()` for this `mm`, which is still held; waits for callbacks.
        unsafe { bindings::mmu_notifier_unregister(self.inner.get(), self.mm.as_raw()) };
    }
}
