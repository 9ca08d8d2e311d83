// SPDX-License-Identifier: GPL-2.0

//! Ioeventfds: devices that signal an eventfd when the guest writes.

use crate::vm::iobus::{
    Claim,
    DeviceKind,
    IoBus,
    IoDevice, //
};
use burrow_core::iobus::{
    ioeventfd::{
        Flags,
        IoEventFd,
        IoEventFdError,
        RawIoEventFd,
        Request, //
    },
    Access,
    BusAddr, //
};
use burrow_sys::{
    eventfd::EventFd,
    uapi::kvm_ioeventfd, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

struct Device {
    what: IoEventFd,
    eventfd: EventFd,
}

impl IoDevice for Device {
    fn read(&self, _addr: BusAddr, _data: &mut [u8]) -> Claim {
        Claim::NotMine
    }

    #[inline]
    fn write(&self, addr: BusAddr, data: &[u8]) -> Claim {
        // CAST: longer than any that an ioeventfd takes counts as just that.
        let access = Access {
            addr,
            len: data.len().min(usize::from(u8::MAX)) as u32,
        };
        if !self.what.takes(access, value_of(data)) {
            return Claim::NotMine;
        }
        self.eventfd.signal();
        Claim::Taken
    }

    fn read_now(&self, addr: BusAddr, data: &mut [u8]) -> Claim {
        self.read(addr, data)
    }

    /// Who waits on the eventfd is woken in any context.
    #[inline]
    fn write_now(&self, addr: BusAddr, data: &[u8]) -> Claim {
        self.write(addr, data)
    }

    fn kind(&self) -> DeviceKind<'_> {
        DeviceKind::IoEventFd(&self.what, &self.eventfd)
    }
}

/// Returns the first 8 bytes of `data` as a number.
fn value_of(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    for (byte, from) in bytes.iter_mut().zip(data) {
        *byte = *from;
    }
    u64::from_le_bytes(bytes)
}

/// `KVM_IOEVENTFD`.
///
/// # Context
///
/// Sleeps.
///
/// # Errors
///
/// `EINVAL` for an undefined flag, a bad length, a range that wraps, or an fd that is no eventfd;
/// `EBADF` for no file; `EEXIST` when another takes the same writes; `ENOENT` when there is none to
/// take away; `ENOSPC` when the bus is full; `ENOMEM` when there is no memory.
pub(crate) fn set(bus: &IoBus, args: &kvm_ioeventfd) -> Result {
    let raw = RawIoEventFd {
        datamatch: args.datamatch,
        addr: args.addr,
        len: args.len,
        flags: Flags(args.flags),
    };
    match Request::parse(&raw).map_err(errno)? {
        Request::Assign(what) => assign(bus, what, EventFd::from_fd(args.fd)?),
        Request::Deassign(what) => deassign(bus, &what, &EventFd::from_fd(args.fd)?),
    }
}

fn assign(bus: &IoBus, what: IoEventFd, eventfd: EventFd) -> Result {
    let range = what.range().map_err(crate::vm::iobus::errno)?;
    let device = Arc::new(Device { what, eventfd }, GFP_KERNEL_ACCOUNT)?;
    bus.register(what.bus, range, device, |others| {
        let others = others.filter_map(|device| match device.kind() {
            DeviceKind::IoEventFd(what, _) => Some(what),
            DeviceKind::Model | DeviceKind::Zone(_) => None,
        });
        what.check_collision(others).map_err(errno)
    })
}

fn deassign(bus: &IoBus, what: &IoEventFd, eventfd: &EventFd) -> Result {
    let was_there = bus.unregister(what.bus, |device| match device.kind() {
        DeviceKind::IoEventFd(other, fd) => other == what && fd.is_same(eventfd),
        DeviceKind::Model | DeviceKind::Zone(_) => false,
    })?;
    if was_there {
        Ok(())
    } else {
        Err(ENOENT)
    }
}

fn errno(error: IoEventFdError) -> Error {
    match error {
        IoEventFdError::Invalid => EINVAL,
        IoEventFdError::Exists => EEXIST,
    }
}
