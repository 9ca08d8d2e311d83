// SPDX-License-Identifier: GPL-2.0

//! The I/O buses: devices in the kernel, and who of them gets an access.
//!
//! [`Table`] holds registrations, sorted; [`IoBus`] publishes a VM's two, for MMIO and for ports, so
//! that vCPUs look up while others register. A vCPU's own devices are in a [`Table`] of its own,
//! which only its thread uses and which it asks first. An access that nobody takes goes to
//! userspace. What is found, and in which order devices are asked, is said in [`core_bus`].

use burrow_core::iobus::coalesced::Zone;
use burrow_core::iobus::{
    self as core_bus,
    ioeventfd::IoEventFd,
    Access,
    BusAddr,
    BusError,
    BusKind,
    BusRange,
    Entry,
    EntryKind, //
};
use burrow_sys::{
    eventfd::EventFd,
    rcu_ptr::SrcuPtr, //
};
use kernel::{
    c_str, new_mutex,
    prelude::*,
    static_lock_class,
    sync::{
        Arc,
        Mutex, //
    },
};

/// Whether a device took an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Claim {
    /// It did: the access is done.
    Taken,
    /// The access is not for this device, in a hole of it, or of a width that it does not know.
    NotMine,
    /// The device may have to sleep for it, and was asked not to: nothing has happened.
    NotNow,
}

/// Whether a device may sleep while it handles an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum May {
    /// It may.
    Sleep,
    /// It must not: interrupts are off.
    NotSleep,
}

/// What kind of device it is, as far as registering and removing it goes.
pub(crate) enum DeviceKind<'a> {
    /// A device model.
    Model,
    /// An ioeventfd.
    IoEventFd(&'a IoEventFd, &'a EventFd),
    /// A zone of coalesced writes.
    Zone(&'a Zone),
}

/// A device on a bus of a VM.
///
/// Whether it is for an access, the device says itself, in one step with taking it: it may have
/// holes, and may move at any time within the range that it registered.
///
/// # Context
///
/// Called by vCPUs' threads, any number at once; may sleep. Must not register or unregister.
pub(crate) trait IoDevice: Send + Sync {
    /// Reads `data.len()` bytes, at least 1, at `addr`.
    fn read(&self, addr: BusAddr, data: &mut [u8]) -> Claim;

    /// Writes `data` at `addr`. Empty `data` stands for a write that was not decoded.
    fn write(&self, addr: BusAddr, data: &[u8]) -> Claim;

    /// [`read`](Self::read) without sleep, or [`Claim::NotNow`].
    ///
    /// # Context
    ///
    /// Interrupts may be off.
    fn read_now(&self, _addr: BusAddr, _data: &mut [u8]) -> Claim {
        Claim::NotNow
    }

    /// [`write`](Self::write) without sleep, or [`Claim::NotNow`].
    ///
    /// # Context
    ///
    /// Interrupts may be off.
    fn write_now(&self, _addr: BusAddr, _data: &[u8]) -> Claim {
        Claim::NotNow
    }

    /// Returns what kind it is.
    fn kind(&self) -> DeviceKind<'_> {
        DeviceKind::Model
    }
}

/// Registrations on one bus: `T` is a handle of a device.
pub(crate) struct Table<T> {
    entries: KVVec<Entry<T>>,
}

impl<T: Clone> Table<T> {
    /// Makes an empty table.
    pub(crate) const fn new() -> Self {
        Self {
            entries: KVVec::new(),
        }
    }

    /// Asks the devices that `access` may be for, in order, while `ask` says that it is not theirs.
    #[inline]
    pub(crate) fn find(&self, access: Access, mut ask: impl FnMut(&T) -> Claim) -> Claim {
        for index in core_bus::candidates(&self.entries, access) {
            if let Some(entry) = self.entries.get(index) {
                match ask(&entry.device) {
                    Claim::NotMine => {}
                    claim => return claim,
                }
            }
        }
        Claim::NotMine
    }

    /// Returns the devices registered at `addr`.
    pub(crate) fn starting_at(&self, addr: BusAddr) -> impl Iterator<Item = &T> {
        let range = core_bus::starting_at(&self.entries, addr);
        self.entries
            .get(range)
            .unwrap_or_default()
            .iter()
            .map(|entry| &entry.device)
    }

    /// Returns the table with `device` in it.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when the bus is full, `ENOMEM` when there is no memory.
    pub(crate) fn with(&self, range: BusRange, kind: EntryKind, device: T) -> Result<Self> {
        core_bus::validate_insert(&self.entries, kind).map_err(errno)?;
        let position = core_bus::insert_position(&self.entries, range);
        let (below, above) = self.entries.split_at_checked(position).ok_or(EINVAL)?;
        let mut entries = KVVec::with_capacity(self.entries.len() + 1, GFP_KERNEL_ACCOUNT)?;
        entries.extend_from_slice(below, GFP_KERNEL_ACCOUNT)?;
        entries.push(Entry::new(range, kind, device), GFP_KERNEL_ACCOUNT)?;
        entries.extend_from_slice(above, GFP_KERNEL_ACCOUNT)?;
        core_bus::rebuild_max_end(&mut entries);
        Ok(Self { entries })
    }

    /// Returns the table without the devices that `goes` names, or `None` when there are none.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn without(&self, goes: impl Fn(&T) -> bool) -> Result<Option<Self>> {
        let stays = self
            .entries
            .iter()
            .filter(|entry| !goes(&entry.device))
            .count();
        if stays == self.entries.len() {
            return Ok(None);
        }
        let mut entries = KVVec::with_capacity(stays, GFP_KERNEL_ACCOUNT)?;
        for entry in self.entries.iter().filter(|entry| !goes(&entry.device)) {
            entries.push(entry.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        core_bus::rebuild_max_end(&mut entries);
        Ok(Some(Self { entries }))
    }
}

type Devices = Table<Arc<dyn IoDevice>>;

/// Both buses, as one value to publish.
struct Buses {
    mmio: Arc<Devices>,
    pio: Arc<Devices>,
}

impl Buses {
    #[inline]
    fn of(&self, kind: BusKind) -> &Arc<Devices> {
        match kind {
            BusKind::Mmio => &self.mmio,
            BusKind::Pio => &self.pio,
        }
    }

    fn replace(&self, kind: BusKind, new: Devices) -> Result<Self> {
        let new = Arc::new(new, GFP_KERNEL_ACCOUNT)?;
        Ok(match kind {
            BusKind::Mmio => Self {
                mmio: new,
                pio: self.pio.clone(),
            },
            BusKind::Pio => Self {
                mmio: self.mmio.clone(),
                pio: new,
            },
        })
    }
}

/// The I/O buses of a VM.
///
/// # Locks
///
/// `writers` is taken by who registers; nothing nests in it but a wait for vCPUs to be done with
/// accesses that devices handle.
#[pin_data]
pub(crate) struct IoBus {
    #[pin]
    buses: SrcuPtr<Buses>,
    #[pin]
    writers: Mutex<()>,
}

impl IoBus {
    /// Makes empty buses.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let empty = Arc::new(Devices::new(), GFP_KERNEL_ACCOUNT)?;
        let buses = Buses {
            mmio: empty.clone(),
            pio: empty,
        };
        let buses = KBox::new(buses, GFP_KERNEL_ACCOUNT)?;
        Arc::pin_init(
            try_pin_init!(Self {
                buses <- SrcuPtr::new(buses, c_str!("kvm_iobus"), static_lock_class!()),
                writers <- new_mutex!((), "kvm_iobus"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Lets a device read `data.len()` bytes at `addr`.
    #[inline]
    pub(crate) fn read(&self, kind: BusKind, addr: BusAddr, data: &mut [u8], may: May) -> Claim {
        let access = Access {
            addr,
            len: len_of(data),
        };
        self.buses.read().of(kind).find(access, |device| match may {
            May::Sleep => device.read(addr, data),
            May::NotSleep => device.read_now(addr, data),
        })
    }

    /// Lets a device have a write of `data` at `addr`.
    #[inline]
    pub(crate) fn write(&self, kind: BusKind, addr: BusAddr, data: &[u8], may: May) -> Claim {
        let access = Access {
            addr,
            len: len_of(data),
        };
        self.buses.read().of(kind).find(access, |device| match may {
            May::Sleep => device.write(addr, data),
            May::NotSleep => device.write_now(addr, data),
        })
    }

    /// Registers `device` for `range`, provided that `check` does not object to those that are
    /// registered at its start.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// What `check` says; `ENOSPC` when the bus is full, `ENOMEM` when there is no memory.
    pub(crate) fn register(
        &self,
        kind: BusKind,
        range: BusRange,
        device: Arc<dyn IoDevice>,
        check: impl FnOnce(&mut dyn Iterator<Item = &Arc<dyn IoDevice>>) -> Result,
    ) -> Result {
        let _writers = self.writers.lock();
        let new = {
            let buses = self.buses.read();
            let table = buses.of(kind);
            check(&mut table.starting_at(range.start()))?;
            let counted = match device.kind() {
                DeviceKind::IoEventFd(..) => EntryKind::IoEventFd,
                DeviceKind::Model | DeviceKind::Zone(_) => EntryKind::Device,
            };
            buses.replace(kind, table.with(range, counted, device)?)?
        };
        self.publish(new)
    }

    /// Removes the devices that `goes` names and returns whether there were any. On return none of
    /// them is in use.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory; nothing was removed.
    pub(crate) fn unregister(
        &self,
        kind: BusKind,
        goes: impl Fn(&dyn IoDevice) -> bool,
    ) -> Result<bool> {
        let _writers = self.writers.lock();
        let new = {
            let buses = self.buses.read();
            match buses.of(kind).without(|device| goes(&**device))? {
                Some(table) => buses.replace(kind, table)?,
                None => return Ok(false),
            }
        };
        self.publish(new)?;
        Ok(true)
    }

    fn publish(&self, new: Buses) -> Result {
        let new = KBox::new(new, GFP_KERNEL_ACCOUNT)?;
        drop(self.buses.replace(new));
        Ok(())
    }
}

/// Returns the errno that a refusal becomes.
pub(crate) fn errno(error: BusError) -> Error {
    match error {
        BusError::Range => EINVAL,
        BusError::Full => ENOSPC,
    }
}

#[inline]
fn len_of(data: &[u8]) -> u32 {
    // CAST: accesses are of a page at most.
    data.len() as u32
}
