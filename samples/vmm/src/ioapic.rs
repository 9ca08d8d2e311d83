// SPDX-License-Identifier: GPL-2.0

//! The I/O APIC: from a device's wire to an interrupt of a CPU.
//!
//! With the split irqchip the kernel has the local APICs and nothing else. What
//! an I/O APIC does on real hardware, this file does with three pieces of KVM:
//!
//! - `KVM_SET_GSI_ROUTING` says, for each pin (GSI), which message the pin sends.
//!   An MSI names the destination, the vector and the trigger mode, which is just
//!   what a redirection entry holds. The guest writes an entry, we write the table.
//! - `KVM_IRQFD` ties an eventfd to a GSI: a write to it sends the message,
//!   without a lock of ours or a return to user mode.
//! - `KVM_EXIT_IOAPIC_EOI` comes when the guest ended the interrupt of a
//!   level-triggered pin; if its wire is still up, the message is sent again.
//!
//! 82093AA datasheet, "Register Description".

use anyhow::{
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_irq_routing_entry,
    KvmIrqRouting,
    KVM_IRQ_ROUTING_MSI, //
};
use kvm_ioctls::VmFd;
use std::sync::{
    Arc,
    Mutex,
    PoisonError, //
};
use vm_superio::Trigger;
use vmm_sys_util::eventfd::{
    EventFd,
    EFD_NONBLOCK, //
};

/// Where the registers are.
pub const BASE: u64 = 0xfec0_0000;
/// Bytes that they take.
pub const SIZE: u64 = 0x20;
/// Pins of a PC's I/O APIC.
pub const PINS: usize = 24;

/// Register select and window, offsets from [`BASE`].
const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;

/// Register numbers: ID, version, and the first redirection entry's low half.
const ID: u8 = 0;
const VERSION: u8 = 1;
const REDIRECTION: u8 = 0x10;

/// Version 0x11, and the number of the last entry.
const VERSION_VALUE: u32 = 0x11 | ((PINS as u32 - 1) << 16);

/// Bits of a redirection entry.
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const READ_ONLY: u64 = REMOTE_IRR | (1 << 12);

/// Delivery modes that a route can carry are all of the entry's bits 10:8.
const MODE_AND_VECTOR: u64 = 0x7ff;

/// One pin: its redirection entry, its wire, and the way into the kernel.
struct Pin {
    entry: u64,
    /// The wire, for level-triggered pins.
    is_asserted: bool,
    /// An edge came while the pin was masked.
    is_pending: bool,
    irqfd: EventFd,
}

/// The registers; [`IoApic`] puts a lock around them.
struct State {
    vm: Arc<VmFd>,
    select: u8,
    id: u32,
    pins: Vec<Pin>,
}

/// An I/O APIC with [`PINS`] pins.
pub struct IoApic {
    state: Mutex<State>,
}

impl IoApic {
    /// Creates the controller and ties each pin's GSI to an eventfd.
    pub fn new(vm: Arc<VmFd>) -> Result<Self> {
        let mut pins = Vec::with_capacity(PINS);
        for gsi in 0..PINS as u32 {
            let irqfd = EventFd::new(EFD_NONBLOCK).context("eventfd")?;
            vm.register_irqfd(&irqfd, gsi).context("KVM_IRQFD")?;
            pins.push(Pin {
                entry: MASKED,
                is_asserted: false,
                is_pending: false,
                irqfd,
            });
        }
        let state = State {
            vm,
            select: 0,
            id: 0,
            pins,
        };
        Ok(Self {
            state: Mutex::new(state),
        })
    }

    /// A guest's read from `BASE + offset`.
    pub fn read(&self, offset: u64) -> u32 {
        let state = self.lock();
        match offset {
            IOREGSEL => u32::from(state.select),
            IOWIN => state.read_register(),
            _ => 0,
        }
    }

    /// A guest's write to `BASE + offset`.
    ///
    /// # Errors
    ///
    /// KVM did not take the new route.
    pub fn write(&self, offset: u64, value: u32) -> Result<()> {
        let mut state = self.lock();
        match offset {
            IOREGSEL => state.select = value as u8,
            IOWIN => state.write_register(value)?,
            _ => {}
        }
        Ok(())
    }

    /// An edge on `pin`'s wire.
    pub fn pulse(&self, pin: usize) -> std::io::Result<()> {
        match self.lock().pins.get_mut(pin) {
            Some(pin) => pin.pulse(),
            None => Ok(()),
        }
    }

    /// The guest ended the interrupt of `vector` (`KVM_EXIT_IOAPIC_EOI`).
    pub fn end_of_interrupt(&self, vector: u8) -> std::io::Result<()> {
        for pin in &mut self.lock().pins {
            if pin.entry & LEVEL != 0 && pin.entry as u8 == vector {
                pin.entry &= !REMOTE_IRR;
                pin.service()?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A thread that panicked has left whole registers behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The pin whose entry is selected, and whether its high half is.
    fn selected(&self) -> Option<(usize, bool)> {
        let index = self.select.checked_sub(REDIRECTION)?;
        let pin = usize::from(index / 2);
        (pin < self.pins.len()).then_some((pin, index % 2 == 1))
    }

    fn read_register(&self) -> u32 {
        match (self.select, self.selected()) {
            (ID, _) => self.id,
            (VERSION, _) => VERSION_VALUE,
            (_, Some((pin, is_high))) => {
                let entry = self.pins.get(pin).map_or(0, |pin| pin.entry);
                (entry >> if is_high { 32 } else { 0 }) as u32
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, value: u32) -> Result<()> {
        if self.select == ID {
            self.id = value & 0x0f00_0000;
        }
        let Some((index, is_high)) = self.selected() else {
            return Ok(());
        };
        let Some(pin) = self.pins.get_mut(index) else {
            return Ok(());
        };
        pin.entry = replace_half(pin.entry, value, is_high);
        self.route().context("KVM_SET_GSI_ROUTING")?;
        match self.pins.get_mut(index) {
            Some(pin) => pin.service().context("irqfd"),
            None => Ok(()),
        }
    }

    /// Tells the kernel what each pin that is not masked sends.
    fn route(&self) -> Result<()> {
        let mut table = Vec::new();
        for (gsi, pin) in (0..).zip(&self.pins) {
            if pin.entry & MASKED == 0 {
                table.push(route(gsi, pin.entry));
            }
        }
        let table = KvmIrqRouting::from_entries(&table).context("too many routes")?;
        Ok(self.vm.set_gsi_routing(&table)?)
    }
}

impl Pin {
    /// An edge: sent at once, or remembered while the pin is masked.
    fn pulse(&mut self) -> std::io::Result<()> {
        self.is_pending = true;
        self.service()
    }

    /// Sends what waits to be sent.
    fn service(&mut self) -> std::io::Result<()> {
        if self.entry & (MASKED | REMOTE_IRR) != 0 {
            return Ok(());
        }
        if self.entry & LEVEL != 0 {
            if !self.is_asserted {
                return Ok(());
            }
            self.entry |= REMOTE_IRR;
        } else if !std::mem::take(&mut self.is_pending) {
            return Ok(());
        }
        self.irqfd.write(1)
    }
}

/// Replaces one half of an entry, except for the bits that a guest cannot write.
fn replace_half(entry: u64, value: u32, is_high: bool) -> u64 {
    if is_high {
        return (entry & 0xffff_ffff) | (u64::from(value) << 32);
    }
    let mut low = (u64::from(value) & !READ_ONLY) | (entry & READ_ONLY);
    if low & LEVEL == 0 {
        low &= !REMOTE_IRR;
    }
    (entry & !0xffff_ffff) | low
}

/// The MSI that a redirection entry describes (SDM 3A "Message Signalled
/// Interrupts", 11.11): destination in the address, the rest in the data.
fn route(gsi: u32, entry: u64) -> kvm_irq_routing_entry {
    let destination = (entry >> 56) as u32;
    let is_logical = ((entry >> 11) & 1) as u32;
    let is_level = (entry & LEVEL != 0) as u32;
    let mut route = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    route.u.msi.address_lo = 0xfee0_0000 | (destination << 12) | (is_logical << 2);
    route.u.msi.data = (entry & MODE_AND_VECTOR) as u32 | (is_level << 15) | (is_level << 14);
    route
}

/// A wire from a device to a pin, as vm-superio's devices want it.
pub struct Wire {
    ioapic: Arc<IoApic>,
    pin: usize,
}

impl Wire {
    /// Connects a device to `pin`.
    pub fn new(ioapic: Arc<IoApic>, pin: u8) -> Self {
        Self {
            ioapic,
            pin: usize::from(pin),
        }
    }
}

impl Trigger for Wire {
    type E = std::io::Error;

    fn trigger(&self) -> Result<(), Self::E> {
        self.ioapic.pulse(self.pin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_carries_destination_vector_and_trigger_mode() {
        let entry = 0x02 << 56 | LEVEL | 1 << 11 | 0x41;
        let route = route(4, entry);
        // SAFETY: The route is an MSI route.
        let msi = unsafe { route.u.msi };
        assert_eq!(msi.address_lo, 0xfee0_2004);
        assert_eq!(msi.data, 0xc041);
    }

    #[test]
    fn a_guest_cannot_write_remote_irr() {
        let entry = LEVEL | REMOTE_IRR;
        assert_ne!(replace_half(entry, LEVEL as u32, false) & REMOTE_IRR, 0);
        assert_eq!(replace_half(0, REMOTE_IRR as u32, false) & REMOTE_IRR, 0);
        assert_eq!(replace_half(entry, 0, false) & REMOTE_IRR, 0);
    }

    fn pin(entry: u64) -> Pin {
        Pin {
            entry,
            is_asserted: false,
            is_pending: false,
            irqfd: EventFd::new(EFD_NONBLOCK).unwrap(),
        }
    }

    #[test]
    fn an_edge_on_a_masked_pin_is_sent_when_it_is_unmasked() {
        let mut pin = pin(MASKED | 0x30);
        pin.pulse().unwrap();
        assert!(pin.irqfd.read().is_err());
        pin.entry = 0x30;
        pin.service().unwrap();
        assert_eq!(pin.irqfd.read().unwrap(), 1);
        pin.service().unwrap();
        assert!(pin.irqfd.read().is_err());
    }

    #[test]
    fn a_level_pin_waits_for_the_eoi() {
        let mut pin = pin(LEVEL | 0x30);
        pin.is_asserted = true;
        pin.service().unwrap();
        pin.service().unwrap();
        assert_eq!(pin.irqfd.read().unwrap(), 1);
        pin.entry &= !REMOTE_IRR;
        pin.service().unwrap();
        assert_eq!(pin.irqfd.read().unwrap(), 1);
    }
}
