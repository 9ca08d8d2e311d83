// SPDX-License-Identifier: GPL-2.0

//! The I/O bus: what finding a device costs, among few and among many.

use anyhow::{
    Context,
    Result, //
};
use kvm_ioctls::IoEventAddress;
use vmm_sys_util::eventfd::EventFd;

use crate::{
    code,
    exits::median,
    guest::{
        Apic,
        Guest,
        Irqchip,
        Program, //
    },
    skip, //
};

/// How many devices there are.
const DEVICES: [usize; 4] = [1, 10, 100, 1000];
/// The first device's port; the others follow, [`STRIDE`] apart.
const FIRST: usize = 0x2000;
const STRIDE: usize = 8;
/// Batches and accesses of each.
const BATCHES: usize = 9;
const COUNT: usize = 40;

/// Measures OUT to the first, a middle and the last device.
pub fn measure() {
    for devices in DEVICES {
        if let Err(error) = among(devices) {
            skip(&format!("bus of {devices}"), &error);
        }
    }
}

fn among(devices: usize) -> Result<()> {
    let mut guest = Guest::new(Irqchip::Split, Apic::Memory)?;
    let event = EventFd::new(libc::EFD_NONBLOCK)?;
    // From the middle outwards and back: the order must not matter.
    for n in 0..devices {
        let port = port(n * 7919 % devices);
        // The value that the guest writes is what its EAX holds: its port.
        guest
            .vm
            .register_ioevent(&event, &IoEventAddress::Pio(port as u64), port as u32)
            .with_context(|| format!("KVM_IOEVENTFD number {}", n + 1))?;
    }
    for (name, place) in [("first", 0), ("middle", devices / 2), ("last", devices - 1)] {
        let program = Program {
            setup: &[],
            prepare: code!("mov edx, ebx", "mov eax, ebx"),
            exit: code!("out dx, eax"),
        };
        let alone = Program {
            exit: &[],
            ..program
        };
        let rbx = port(place) as u64;
        let base = median(guest.run(&alone, BATCHES, COUNT, rbx)?);
        let measured = median(guest.run(&program, BATCHES, COUNT, rbx)?);
        println!(
            "bus {devices} {name} {:.1}",
            (measured as f64 - base as f64) / COUNT as f64
        );
    }
    Ok(())
}

fn port(place: usize) -> usize {
    FIRST + STRIDE * place
}
