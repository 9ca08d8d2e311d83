// SPDX-License-Identifier: GPL-2.0

//! The registers of the I/O APIC and of the 8259A pair, as devices on the buses.

use crate::{
    arch::x86::acks::Acks,
    vm::iobus::{
        errno,
        Claim,
        IoBus,
        IoDevice, //
    },
};
use burrow_core::{
    iobus::{
        BusAddr,
        BusKind,
        BusRange, //
    },
    x86::irqchip::{
        ioapic,
        pic::Port, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// The ports of the 8259A pair: two of each, and the edge/level registers.
const PIC_PORTS: [u64; 3] = [0x20, 0xa0, 0x4d0];
/// The ports of each.
const PORTS_OF_ONE: u64 = 2;

struct IoapicDevice {
    acks: Arc<Acks>,
}

impl IoDevice for IoapicDevice {
    fn read(&self, addr: BusAddr, data: &mut [u8]) -> Claim {
        let Some(value) = self.acks.read_ioapic(addr.0) else {
            return Claim::NotMine;
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
        Claim::Taken
    }

    /// Reading has no effects.
    fn read_now(&self, addr: BusAddr, data: &mut [u8]) -> Claim {
        self.read(addr, data)
    }

    fn write(&self, addr: BusAddr, data: &[u8]) -> Claim {
        let mut value = [0; 4];
        for (to, from) in value.iter_mut().zip(data) {
            *to = *from;
        }
        match self.acks.write_ioapic(addr.0, u32::from_le_bytes(value)) {
            true => Claim::Taken,
            false => Claim::NotMine,
        }
    }
}

struct PicDevice {
    acks: Arc<Acks>,
}

impl IoDevice for PicDevice {
    fn read(&self, addr: BusAddr, data: &mut [u8]) -> Claim {
        let Some(port) = Port::at(addr.0) else {
            return Claim::NotMine;
        };
        match data {
            [byte] => *byte = self.acks.read_pic(port),
            wide => wide.fill(0),
        }
        Claim::Taken
    }

    /// But for a poll, reading has no effects.
    fn read_now(&self, addr: BusAddr, data: &mut [u8]) -> Claim {
        let (Some(port), [byte]) = (Port::at(addr.0), data) else {
            return Claim::NotNow;
        };
        match self.acks.peek_pic(port) {
            Some(value) => {
                *byte = value;
                Claim::Taken
            }
            None => Claim::NotNow,
        }
    }

    fn write(&self, addr: BusAddr, data: &[u8]) -> Claim {
        let Some(port) = Port::at(addr.0) else {
            return Claim::NotMine;
        };
        if let [byte] = data {
            self.acks.write_pic(port, *byte);
        }
        Claim::Taken
    }
}

/// Puts the registers on the buses.
///
/// # Context
///
/// Sleeps.
///
/// # Errors
///
/// `ENOSPC` when a bus is full, `ENOMEM` when there is no memory. Some may be there then.
pub(crate) fn register(bus: &IoBus, acks: &Arc<Acks>) -> Result {
    let pic = Arc::new(PicDevice { acks: acks.clone() }, GFP_KERNEL_ACCOUNT)?;
    for first in PIC_PORTS {
        let range = BusRange::new(BusAddr(first), PORTS_OF_ONE).map_err(errno)?;
        bus.register(BusKind::Pio, range, pic.clone(), |_| Ok(()))?;
    }
    let ioapic = Arc::new(IoapicDevice { acks: acks.clone() }, GFP_KERNEL_ACCOUNT)?;
    let range = BusRange::new(BusAddr(ioapic::DEFAULT_BASE), ioapic::RANGE).map_err(errno)?;
    bus.register(BusKind::Mmio, range, ioapic, |_| Ok(()))
}
