// SPDX-License-Identifier: GPL-2.0

//! Which device an I/O exit belongs to.
//!
//! With a handful of devices a `match` is all the bus one needs. What nobody
//! claims reads as all ones and ignores writes, as on a PC.

use anyhow::Result;
use std::sync::Arc;

use crate::{
    ioapic::{
        self,
        IoApic, //
    },
    power,
    run::Stop,
    serial::{
        self,
        SerialPort, //
    },
    vm::Vm, //
};

/// Every device of the machine; shared by the vCPUs' threads.
pub struct Devices {
    /// The console.
    pub serial: SerialPort,
    /// The interrupt controller.
    pub ioapic: Arc<IoApic>,
}

impl Devices {
    /// Creates the devices of a machine that has none yet.
    pub fn new(vm: &Vm) -> Result<Self> {
        let ioapic = Arc::new(IoApic::new(Arc::clone(&vm.fd))?);
        Ok(Self {
            serial: SerialPort::new(Arc::clone(&ioapic))?,
            ioapic,
        })
    }

    /// `KVM_EXIT_IO`, direction in. `data` is one access of 1, 2 or 4 bytes.
    pub fn port_in(&self, port: u16, data: &mut [u8]) {
        for (byte, port) in data.iter_mut().zip(port..) {
            *byte = match port {
                port if is_serial(port) => self.serial.read((port - serial::PORT) as u8),
                power::I8042_COMMAND_PORT
                | power::SLEEP_CONTROL_PORT
                | power::SLEEP_STATUS_PORT => power::read(port),
                _ => 0xff,
            };
        }
    }

    /// `KVM_EXIT_IO`, direction out.
    pub fn port_out(&self, port: u16, data: &[u8]) -> Result<Option<Stop>> {
        for (byte, port) in data.iter().zip(port..) {
            if is_serial(port) {
                self.serial.write((port - serial::PORT) as u8, *byte)?;
            } else if let Some(stop) = power::write(port, *byte) {
                return Ok(Some(stop));
            }
        }
        Ok(None)
    }

    /// `KVM_EXIT_MMIO`, a read.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some(offset) = ioapic_offset(address) {
            let value = self.ioapic.read(offset).to_le_bytes();
            for (slot, byte) in data.iter_mut().zip(value) {
                *slot = byte;
            }
        }
    }

    /// `KVM_EXIT_MMIO`, a write.
    pub fn mmio_write(&self, address: u64, data: &[u8]) -> Result<()> {
        let Some(offset) = ioapic_offset(address) else {
            return Ok(());
        };
        let mut value = [0; 4];
        for (slot, byte) in value.iter_mut().zip(data) {
            *slot = *byte;
        }
        self.ioapic.write(offset, u32::from_le_bytes(value))
    }
}

fn is_serial(port: u16) -> bool {
    (serial::PORT..serial::PORT + serial::PORTS).contains(&port)
}

fn ioapic_offset(address: u64) -> Option<u64> {
    address
        .checked_sub(ioapic::BASE)
        .filter(|offset| *offset < ioapic::SIZE)
}
