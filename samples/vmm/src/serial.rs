// SPDX-License-Identifier: GPL-2.0

//! The serial port COM1: the guest's console.
//!
//! vm-superio has the UART. This file ties its output to our stdout, its input
//! to what [`crate::console`] reads from stdin, and its interrupt to a pin.

use anyhow::{
    Context,
    Result, //
};
use std::{
    io::{
        stdout,
        Stdout, //
    },
    sync::{
        Arc,
        Mutex,
        MutexGuard,
        PoisonError, //
    }, //
};
use vm_superio::{
    serial::SerialEvents,
    Serial, //
};
use vmm_sys_util::eventfd::{
    EventFd,
    EFD_NONBLOCK, //
};

use crate::ioapic::{
    IoApic,
    Wire, //
};

/// First I/O port.
pub const PORT: u16 = 0x3f8;
/// Number of ports.
pub const PORTS: u16 = 8;
/// Pin of the I/O APIC.
pub const IRQ: u8 = 4;

/// The interrupt-enable register, its bits, and the one for received data.
const IER: u8 = 1;
const IER_BITS: u8 = 0xf;
const RECEIVED_DATA: u8 = 1;

/// Tells the console's thread that the guest has read all of its input.
struct Drained(Arc<EventFd>);

impl SerialEvents for Drained {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // The counter cannot overflow, and nothing else can fail.
        let _ = self.0.write(1);
    }
}

/// COM1.
pub struct SerialPort {
    uart: Mutex<Serial<Wire, Drained, Stdout>>,
    wake: Arc<EventFd>,
}

impl SerialPort {
    /// Creates the port, with its interrupt at `ioapic`.
    pub fn new(ioapic: Arc<IoApic>) -> Result<Self> {
        let wake = Arc::new(EventFd::new(EFD_NONBLOCK).context("eventfd")?);
        let wire = Wire::new(ioapic, IRQ);
        let uart = Serial::with_events(wire, Drained(Arc::clone(&wake)), stdout());
        Ok(Self {
            uart: Mutex::new(uart),
            wake,
        })
    }

    /// A guest's read of port `PORT + offset`.
    pub fn read(&self, offset: u8) -> u8 {
        self.lock().read(offset)
    }

    /// A guest's write to port `PORT + offset`.
    pub fn write(&self, offset: u8, value: u8) -> Result<()> {
        self.lock()
            .write(offset, value)
            .map_err(|error| anyhow::anyhow!("serial port: {error:?}"))?;
        if offset == IER {
            // The guest may have begun to listen.
            self.wake.write(1).context("eventfd")?;
        }
        Ok(())
    }

    /// How many bytes of input the guest would take now.
    ///
    /// None until it listens: a driver that starts throws away what it finds.
    pub fn room(&self) -> usize {
        let uart = self.lock();
        if is_listening(uart.state().interrupt_enable) {
            uart.fifo_capacity()
        } else {
            0
        }
    }

    /// Gives the guest input, at most [`Self::room`] bytes.
    pub fn enqueue(&self, input: &[u8]) -> Result<()> {
        self.lock()
            .enqueue_raw_bytes(input)
            .map(|_| ())
            .map_err(|error| anyhow::anyhow!("serial port: {error:?}"))
    }

    /// Becomes readable when [`Self::room`] may have grown.
    pub fn wake(&self) -> &EventFd {
        &self.wake
    }

    fn lock(&self) -> MutexGuard<'_, Serial<Wire, Drained, Stdout>> {
        // A thread that panicked has left whole registers behind.
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says whether a guest that enabled these interrupts waits for input.
///
/// Linux writes all bits at once, and reads them back, to find out whether there
/// is a UART at all; a driver that runs has no use for the modem's interrupt.
fn is_listening(interrupt_enable: u8) -> bool {
    interrupt_enable & RECEIVED_DATA != 0 && interrupt_enable & IER_BITS != IER_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_of_the_uart_does_not_listen() {
        assert!(!is_listening(0x00));
        assert!(!is_listening(0x0f));
        assert!(!is_listening(0x02));
        assert!(is_listening(0x05));
        assert!(is_listening(0x07));
    }
}
