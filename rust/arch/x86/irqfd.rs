// SPDX-License-Identifier: GPL-2.0

//! Irqfds: eventfds whose signals pulse an interrupt line, or raise it until the guest has ended its
//! interrupt, which a second eventfd tells.
//!
//! The eventfd calls us in the signaller's context, hard interrupts included, and the interrupt is
//! delivered right there. An irqfd whose eventfd was closed delivers no more; as it is told so where
//! nothing can be freed, it goes when the list is next changed, or with the VM.

use crate::arch::x86::{
    acks::{
        Acks,
        Resampler, //
    },
    routing::Routing, //
};
use burrow_core::x86::irqchip::{
    ioapic::Tracking,
    line::{
        LineLevel,
        Source, //
    },
};
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
    resampler: Option<Arc<Resampler>>,
}

impl Listener for Line {
    fn signalled(&self) {
        let _ = match self.resampler {
            None => self.routing.pulse(self.gsi, Source::Userspace),
            Some(_) => {
                let (source, level) = (Source::Resampler, LineLevel::High);
                self.routing
                    .set_line(self.gsi, source, level, Tracking::Off)
            }
        };
    }
}

type List = KVVec<Pin<KBox<Hook<Line>>>>;

/// The irqfds of a VM.
#[pin_data]
pub(crate) struct Irqfds {
    routing: Arc<Routing>,
    acks: Arc<Acks>,
    /// Held over assignment and removal, so that each sees the other done.
    #[pin]
    list: Mutex<List>,
}

impl Irqfds {
    /// Makes an empty set.
    pub(crate) fn new(routing: Arc<Routing>, acks: Arc<Acks>) -> impl PinInit<Self> {
        pin_init!(Self { routing, acks, list <- new_mutex!(KVVec::new(), "kvm_irqfds") })
    }

    /// `KVM_IRQFD`, for a VM with local APICs in the kernel.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an undefined flag, or an fd that is no eventfd; `EBADF` for no file; `EBUSY` when the eventfd drives a line already, of
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
        // CAST: as above.
        let resamplefd = args.resamplefd as i32;
        let resampled = args.flags & KVM_IRQFD_FLAG_RESAMPLE != 0;
        self.assign(fd, args.gsi, resampled.then_some(resamplefd))
    }

    fn assign(&self, fd: i32, gsi: u32, resamplefd: Option<i32>) -> Result {
        let mut list = self.list.lock();
        self.remove(&mut list, |_| false);
        list.reserve(1, GFP_KERNEL_ACCOUNT)?;
        // Before anything is set up for it.
        EventFd::from_fd(fd)?;
        let resampler = match resamplefd {
            None => None,
            Some(fd) => Some(self.acks.add_resampler(gsi, fd)?),
        };
        let line = Line {
            routing: self.routing.clone(),
            gsi,
            resampler: resampler.clone(),
        };
        match Hook::new(fd, line) {
            Ok(irqfd) => Ok(list.push(irqfd, GFP_KERNEL_ACCOUNT)?),
            Err(error) => {
                if let Some(resampler) = resampler {
                    self.acks.remove_resampler(&resampler);
                }
                Err(error)
            }
        }
    }

    fn deassign(&self, fd: i32, gsi: u32) -> Result {
        let eventfd = EventFd::from_fd(fd)?;
        self.remove(&mut self.list.lock(), |irqfd| {
            irqfd.listener().gsi == gsi && irqfd.eventfd().is_same(&eventfd)
        });
        Ok(())
    }

    /// Removes the irqfds that `goes` names, and those whose eventfd was closed.
    fn remove(&self, list: &mut List, goes: impl Fn(&Hook<Line>) -> bool) {
        list.retain(|irqfd| {
            let is_gone = irqfd.is_closed() || goes(irqfd);
            if is_gone {
                if let Some(resampler) = &irqfd.listener().resampler {
                    self.acks.remove_resampler(resampler);
                }
            }
            !is_gone
        });
    }

    /// Removes all, as userspace has closed the VM.
    ///
    /// # Context
    ///
    /// Sleeps.
    pub(crate) fn release(&self) {
        self.remove(&mut self.list.lock(), |_| true);
    }
}
