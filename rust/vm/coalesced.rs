// SPDX-License-Identifier: GPL-2.0

//! Coalesced MMIO and PIO: zones whose writes wait in a ring that userspace reads when a vCPU
//! returns to it for another reason.

use crate::vm::iobus::{
    errno,
    Claim,
    DeviceKind,
    IoBus,
    IoDevice, //
};
use burrow_core::iobus::{
    coalesced::{
        self,
        Entry,
        RawZone,
        Zone, //
    },
    Access,
    BusAddr, //
};
use burrow_sys::{
    run_page::SharedPage,
    uapi::{
        kvm_coalesced_mmio_zone,
        Plain, //
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        barrier::{
            smp_mb,
            Write, //
        },
        Arc,
        Mutex, //
    },
};

/// Byte offsets in `struct kvm_coalesced_mmio_ring`.
const FIRST: usize = 0;
const LAST: usize = 4;

/// The ring of a VM. Userspace owns `first`, we own `last`.
#[pin_data]
pub(crate) struct Ring {
    page: SharedPage,
    /// Held while an entry is added.
    #[pin]
    producer: Mutex<()>,
}

impl Ring {
    /// Makes an empty ring.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let page = SharedPage::new()?;
        Arc::pin_init(
            pin_init!(Self { page, producer <- new_mutex!((), "kvm_coalesced_ring") }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the page, which userspace maps through any of the vCPUs' fds, at page offset
    /// `KVM_COALESCED_MMIO_PAGE_OFFSET`.
    pub(crate) fn page(&self) -> &SharedPage {
        &self.page
    }

    /// Adds an entry; not when the ring is full.
    fn push(&self, entry: &Entry) -> Claim {
        let _producer = self.producer.lock();
        let first = self.page.read(FIRST);
        let last = self.page.read(LAST);
        let Some(room) = coalesced::reserve(first, last) else {
            return Claim::NotMine;
        };
        // CAST: an offset within the page.
        self.page
            .write_bytes(room.offset as usize, &entry.to_bytes());
        // Userspace that sees the new `last` sees the entry.
        smp_mb(Write);
        self.page.write(LAST, room.next_last);
        Claim::Taken
    }
}

struct Device {
    zone: Zone,
    ring: Arc<Ring>,
}

impl IoDevice for Device {
    fn read(&self, _addr: BusAddr, _data: &mut [u8]) -> Claim {
        Claim::NotMine
    }

    fn write(&self, addr: BusAddr, data: &[u8]) -> Claim {
        let mut bytes = [0; 8];
        let Some(room) = bytes.get_mut(..data.len()) else {
            return Claim::NotMine;
        };
        room.copy_from_slice(data);
        // CAST: at most 8.
        let access = Access {
            addr,
            len: data.len() as u32,
        };
        if !self.zone.takes(access) {
            return Claim::NotMine;
        }
        self.ring.push(&Entry {
            bus: self.zone.bus(),
            access,
            data: bytes,
        })
    }

    fn kind(&self) -> DeviceKind<'_> {
        DeviceKind::Zone(&self.zone)
    }
}

fn zone_of(args: &kvm_coalesced_mmio_zone) -> Result<Zone> {
    // `pio` is half of a union, and at the end.
    let pio = args
        .as_bytes()
        .last_chunk()
        .map_or(u32::MAX, |bytes| u32::from_ne_bytes(*bytes));
    let raw = RawZone {
        addr: args.addr,
        size: args.size,
        pio,
    };
    Zone::parse(&raw).map_err(errno)
}

/// `KVM_REGISTER_COALESCED_MMIO`.
///
/// # Context
///
/// Sleeps.
///
/// # Errors
///
/// `EINVAL` for a zone that is neither of MMIO nor of ports, or wraps; `ENOSPC` when the bus is full;
/// `ENOMEM` when there is no memory.
pub(crate) fn register(bus: &IoBus, ring: &Arc<Ring>, args: &kvm_coalesced_mmio_zone) -> Result {
    let zone = zone_of(args)?;
    let device = Arc::new(
        Device {
            zone,
            ring: ring.clone(),
        },
        GFP_KERNEL_ACCOUNT,
    )?;
    bus.register(zone.bus(), zone.range(), device, |_| Ok(()))
}

/// `KVM_UNREGISTER_COALESCED_MMIO`: removes all zones that contain the given one, of which there
/// may be none.
///
/// # Context
///
/// Sleeps.
///
/// # Errors
///
/// `EINVAL` for a zone that is neither of MMIO nor of ports, or wraps; `ENOMEM` when there is no
/// memory.
pub(crate) fn unregister(bus: &IoBus, args: &kvm_coalesced_mmio_zone) -> Result {
    let zone = zone_of(args)?;
    bus.unregister(zone.bus(), |device| match device.kind() {
        DeviceKind::Zone(registered) => zone.unregisters(registered),
        DeviceKind::Model | DeviceKind::IoEventFd(..) => false,
    })?;
    Ok(())
}
