// SPDX-License-Identifier: GPL-2.0

//! The guest's accesses to devices in the kernel.

use crate::{
    arch::x86::{
        cpu::Cpu,
        outcome::Direction, //
    },
    vm::iobus::{
        Claim,
        May, //
    }, //
};
use burrow_core::{
    addr::Gpa,
    iobus::{
        BusAddr,
        BusKind, //
    },
};
use burrow_sys::trace;

impl Cpu<'_> {
    /// Lets a device in the kernel handle port I/O; returns what it said.
    #[inline]
    pub(crate) fn ask_ports(
        &self,
        port: u16,
        data: &mut [u8],
        direction: Direction,
        may: May,
    ) -> Claim {
        let claim = self.ask_bus(BusKind::Pio, BusAddr(port.into()), data, direction, may);
        let access = match (direction, claim) {
            (_, Claim::NotNow) => return claim,
            // Traced when userspace has answered.
            (Direction::Read, Claim::NotMine) => return claim,
            (Direction::Read, Claim::Taken) => trace::Access::Read,
            (Direction::Write, _) => trace::Access::Write,
        };
        // CAST: at most 4 bytes.
        trace::kvm_pio(access, port, data.len() as u32, 1, value_of(data) as u32);
        claim
    }

    /// Lets a device in the kernel handle MMIO, the vCPU's own local APIC before the VM's; returns what it
    /// said. The local APIC never sleeps.
    #[inline]
    pub(crate) fn ask_mmio(
        &mut self,
        gpa: Gpa,
        data: &mut [u8],
        direction: Direction,
        may: May,
    ) -> Claim {
        let claim = if self.lapic_mmio(gpa, data, direction) {
            Claim::Taken
        } else {
            self.ask_bus(BusKind::Mmio, gpa.into(), data, direction, may)
        };
        let (what, value) = match (direction, claim) {
            (_, Claim::NotNow) => return claim,
            (Direction::Write, _) => (trace::Mmio::Write, value_of(data)),
            (Direction::Read, Claim::Taken) => (trace::Mmio::Read, value_of(data)),
            (Direction::Read, Claim::NotMine) => (trace::Mmio::UnsatisfiedRead, 0),
        };
        // CAST: at most 8 bytes.
        trace::kvm_mmio(what, data.len() as u32, gpa.0, value);
        claim
    }

    /// Lets an ioeventfd of length 0 at `gpa` take a write that was not decoded; returns whether there is
    /// one. Nothing else takes such a write, and none of them sleeps.
    pub(crate) fn signal_fast_mmio(&self, gpa: Gpa) -> bool {
        let (kind, nothing) = (BusKind::Mmio, &mut []);
        let claim = self.ask_bus(kind, gpa.into(), nothing, Direction::Write, May::NotSleep);
        let is_done = claim == Claim::Taken;
        if is_done {
            trace::kvm_fast_mmio(gpa.0);
        }
        is_done
    }

    /// Traces that userspace has answered a read.
    pub(crate) fn note_device_read(&self, address: u64, is_port: bool, data: Option<&[u8]>) {
        let data = data.unwrap_or_default();
        // CAST: at most 8 bytes.
        let (len, value) = (data.len() as u32, value_of(data));
        if is_port {
            // CAST: a port, and its 4 bytes at most.
            trace::kvm_pio(trace::Access::Read, address as u16, len, 1, value as u32);
        } else {
            trace::kvm_mmio(trace::Mmio::Read, len, address, value);
        }
    }

    #[inline]
    fn ask_bus(
        &self,
        kind: BusKind,
        addr: BusAddr,
        data: &mut [u8],
        direction: Direction,
        may: May,
    ) -> Claim {
        let devices = &self.vcpu.vm.devices;
        match direction {
            Direction::Read => devices.read(kind, addr, data, may),
            Direction::Write => devices.write(kind, addr, data, may),
        }
    }
}

fn value_of(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    for (byte, from) in bytes.iter_mut().zip(data) {
        *byte = *from;
    }
    u64::from_le_bytes(bytes)
}
