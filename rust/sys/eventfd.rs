// SPDX-License-Identifier: GPL-2.0

//! Eventfds: signalling one, and being told of its signals.
//!
//! Invariant: an [`EventFd`] owns a reference to its context. The wait-queue entry of a [`Hook`] is
//! in the queue of its own eventfd from the end of the hook's initialisation to its drop, which
//! takes it out under the queue's lock; callbacks run under that lock, so each finds a pinned hook
//! with all fields initialised.

use crate::bindings;
use core::cell::Cell;
use core::ptr::NonNull;
use kernel::{
    alloc::KBox,
    bindings as k,
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::Opaque,
};

/// A reference to an eventfd, which need not have a file any more.
pub struct EventFd {
    context: NonNull<k::eventfd_ctx>,
}

// SAFETY: The context is reference-counted and locks itself.
unsafe impl Send for EventFd {}
// SAFETY: As above.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// Takes a reference to the eventfd behind `fd`.
    ///
    /// # Errors
    ///
    /// `EBADF` when there is no such file, `EINVAL` when it is no eventfd.
    pub fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: Any number may be given.
        Self::own(unsafe { bindings::eventfd_ctx_fdget(fd) })
    }

    /// Wraps what the kernel's functions return: a pointer with a reference for us, or an error.
    fn own(context: *mut k::eventfd_ctx) -> Result<Self> {
        let context = NonNull::new(from_err_ptr(context)?).ok_or(EINVAL)?;
        // INVARIANT: The kernel took the reference for us.
        Ok(Self { context })
    }

    /// Adds 1 to the count and wakes who waits.
    ///
    /// # Context
    ///
    /// Any but NMI.
    #[inline]
    pub fn signal(&self) {
        // SAFETY: The context lives by our reference.
        unsafe { bindings::eventfd_signal_mask(self.context.as_ptr(), 0) };
    }

    /// Returns whether both are the same eventfd.
    #[inline]
    pub fn is_same(&self, other: &Self) -> bool {
        self.context == other.context
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: Gives back the reference that we own.
        unsafe { bindings::eventfd_ctx_put(self.context.as_ptr()) };
    }
}

/// The file of an eventfd, held open.
struct EventFile(NonNull<k::file>);

impl EventFile {
    fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: Any number may be given.
        let file = from_err_ptr(unsafe { bindings::eventfd_fget(fd) })?;
        Ok(Self(NonNull::new(file).ok_or(EBADF)?))
    }

    fn context(&self) -> Result<EventFd> {
        // SAFETY: The file lives by the reference that we own.
        EventFd::own(unsafe { bindings::eventfd_ctx_fileget(self.0.as_ptr()) })
    }
}

impl Drop for EventFile {
    fn drop(&mut self) {
        // SAFETY: Gives back the reference that `eventfd_fget()` took.
        unsafe { k::fput(self.0.as_ptr()) };
    }
}

/// What is told of an eventfd's signals.
pub trait Listener: Send + Sync {
    /// The eventfd was signalled, once or several times since the last call.
    ///
    /// # Context
    ///
    /// Any but NMI, with interrupts off and the lock of the eventfd held: must not sleep, and must
    /// not signal or drop this eventfd.
    fn signalled(&self);
}

/// A listener on an eventfd: the only one, in front of all who wait or poll there. It consumes the
/// signals.
///
/// When the last file of the eventfd goes, the hook is [closed](Self::is_closed): nothing is told
/// any more, whoever in the kernel may still signal. It stays queued, without effect, until its
/// owner drops it.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub struct Hook<T: Listener> {
    listener: T,
    eventfd: EventFd,
    is_closed: Atomic<bool>,
    #[pin]
    wait: Opaque<k::wait_queue_entry>,
}

// SAFETY: It may be dropped by any thread; the queue has its lock, and `T` is `Send`.
unsafe impl<T: Listener> Send for Hook<T> {}
// SAFETY: Through a reference there is `&T`, which is `Sync`, and reads of an atomic.
unsafe impl<T: Listener> Sync for Hook<T> {}

const EPOLLIN: usize = 0x1;
const EPOLLHUP: usize = 0x10;

impl<T: Listener> Hook<T> {
    /// Makes `listener` the listener on the eventfd behind `fd`. It is told of a signal that
    /// nobody has read yet, in this context.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `EBADF` when there is no such file, `EINVAL` when it is no eventfd, `EBUSY` when it has a
    /// listener, `ENOMEM` when there is no memory.
    pub fn new(fd: i32, listener: T) -> Result<Pin<KBox<Self>>> {
        let file = EventFile::from_fd(fd)?;
        let eventfd = file.context()?;
        let was_signalled = Cell::new(false);
        let (open_file, report) = (&file, &was_signalled);
        let hook = KBox::pin_init(
            try_pin_init!(Self {
                listener,
                eventfd,
                is_closed: Atomic::new(false),
                // INVARIANT: Last, as callbacks may come before this returns.
                wait <- Opaque::try_ffi_init(|slot: *mut k::wait_queue_entry| {
                    let mut is_signalled = false;
                    // SAFETY: 1. `file` is open. 2. `slot` is memory for an entry, pinned, and
                    // taken out in `drop()`. 3. `wake` fits what the entry is part of.
                    to_result(unsafe {
                        bindings::burrow_eventfd_listen(
                            open_file.0.as_ptr(),
                            slot,
                            Some(Self::wake),
                            &mut is_signalled,
                        )
                    })?;
                    report.set(is_signalled);
                    Ok::<(), Error>(())
                }),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        if was_signalled.get() {
            hook.listener.signalled();
        }
        Ok(hook)
    }

    /// Returns the listener.
    pub fn listener(&self) -> &T {
        &self.listener
    }

    /// Returns the eventfd.
    pub fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }

    /// Returns whether the eventfd has no file any more, so that the hook is of no use.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Relaxed)
    }

    /// Called by the kernel with the lock of the queue held and interrupts off. Returns 1 when the
    /// signal is consumed.
    ///
    /// # Safety
    ///
    /// Called by the kernel only, with what it was registered with.
    unsafe extern "C" fn wake(
        wait: *mut k::wait_queue_entry,
        _mode: c_uint,
        _sync: c_int,
        key: *mut c_void,
    ) -> c_int {
        let inner = Opaque::cast_from(wait);
        // SAFETY: `wake` is only ever called for the `wait` of a hook of this type.
        let this: *const Self = unsafe { kernel::container_of!(inner, Self, wait) };
        // SAFETY: The fields before `wait` are initialised, and the hook is not dropped while the
        // lock of the queue is held, by the file's invariant.
        let (listener, eventfd, is_closed) = unsafe {
            (
                &*core::ptr::addr_of!((*this).listener),
                &*core::ptr::addr_of!((*this).eventfd),
                &*core::ptr::addr_of!((*this).is_closed),
            )
        };
        let events = key as usize;
        if events & EPOLLHUP != 0 {
            is_closed.store(true, Relaxed);
        }
        if events & EPOLLIN == 0 {
            return 0;
        }
        let mut count = 0;
        // SAFETY: The lock of the queue, which is the context's, is held by who calls us.
        unsafe { bindings::eventfd_ctx_do_read(eventfd.context.as_ptr(), &mut count) };
        if !is_closed.load(Relaxed) {
            listener.signalled();
        }
        1
    }
}

#[pinned_drop]
impl<T: Listener> PinnedDrop for Hook<T> {
    fn drop(self: Pin<&mut Self>) {
        let mut count = 0;
        // SAFETY: The entry is in the queue of this context, by the type's invariant; afterwards
        // no callback runs or comes. That nothing was left to read is no matter.
        unsafe {
            bindings::eventfd_ctx_remove_wait_queue(
                self.eventfd.context.as_ptr(),
                self.wait.get(),
                &mut count,
            )
        };
    }
}
