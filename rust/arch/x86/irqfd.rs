// SPDX-License-Identifier: GPL-2.0

//! Irqfds: eventfds whose signals pulse an interrupt line.
//!
//! The eventfd calls us in the signaller's context, hard interrupts included, and the interrupt is
//! delivered right there. An irqfd whose eventfd was closed delivers no more; as it is told so where
//! nothing can be freed, it goes when the list is next changed, or with the VM.

use crate::arch::x86::routing::Routing;
use burrow_sys::{
    eventfd::{
        EventFd,
        Hook,
        Listener, //
    },
    uapi::{
        kvm_irqfd,
        KVM_IRQFD_FLAG_DEASSIGN,
        KVM_IRQFD_FLAG_RESAMPLE, //
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

/// A line as the listener on an eventfd.
struct Line {
    routing: Arc<Routing>,
    gsi: u32,
}

impl Listener for Line {
    fn signalled(&self) {
        let _ = self.routing.pulse(self.gsi);
    }
}

type List = KVVec<Pin<KBox<Hook<Line>>>>;

/// The irqfds of a VM.
#[pin_data]
pub(crate) struct Irqfds {
    routing: Arc<Routing>,
    /// Held over assignment and removal, so that each sees the other done.
    #[pin]
    list: Mutex<List>,
}

impl Irqfds {
    /// Makes an empty set.
    pub(crate) fn new(routing: Arc<Routing>) -> impl PinInit<Self> {
        pin_init!(Self { routing, list <- new_mutex!(KVVec::new(), "kvm_irqfds") })
    }

    /// `KVM_IRQFD`, for a VM with local APICs in the kernel.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an undefined flag, an fd that is no eventfd, or `RESAMPLE`, which needs an I/O
    /// APIC in the kernel; `EBADF` for no file; `EBUSY` when the eventfd drives a line already, of
    /// any VM; `ENOMEM` when there is no memory. That there is nothing to take away is no error.
    pub(crate) fn set(&self, args: &kvm_irqfd) -> Result {
        if args.flags & !(KVM_IRQFD_FLAG_DEASSIGN | KVM_IRQFD_FLAG_RESAMPLE) != 0 {
            return Err(EINVAL);
        }
        // CAST: fds are C ints; a negative one names no file.
        let fd = args.fd as i32;
        if args.flags & KVM_IRQFD_FLAG_DEASSIGN != 0 {
            return self.deassign(fd, args.gsi);
        }
        if args.flags & KVM_IRQFD_FLAG_RESAMPLE != 0 {
            return Err(EINVAL);
        }
        self.assign(fd, args.gsi)
    }

    fn assign(&self, fd: i32, gsi: u32) -> Result {
        let mut list = self.list.lock();
        list.retain(|irqfd| !irqfd.is_closed());
        list.reserve(1, GFP_KERNEL_ACCOUNT)?;
        let irqfd = Hook::new(
            fd,
            Line {
                routing: self.routing.clone(),
                gsi,
            },
        )?;
        list.push(irqfd, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    fn deassign(&self, fd: i32, gsi: u32) -> Result {
        let eventfd = EventFd::from_fd(fd)?;
        self.list.lock().retain(|irqfd| {
            let is_meant = irqfd.listener().gsi == gsi && irqfd.eventfd().is_same(&eventfd);
            !is_meant && !irqfd.is_closed()
        });
        Ok(())
    }

    /// Removes all, as userspace has closed the VM.
    ///
    /// # Context
    ///
    /// Sleeps.
    pub(crate) fn release(&self) {
        let all = core::mem::replace(&mut *self.list.lock(), KVVec::new());
        drop(all);
    }
}
