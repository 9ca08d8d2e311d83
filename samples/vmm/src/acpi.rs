// SPDX-License-Identifier: GPL-2.0

//! ACPI tables: how Linux finds its CPUs, its interrupts and the off switch.
//!
//! The least that will do, in the hardware-reduced form that has no legacy
//! timer, no power-management timer and no SCI (ACPI 6.5, 4.1):
//!
//! ```text
//! RSDP -> XSDT -+-> FADT -> DSDT   power registers; COM1; sleep state S5
//!               +-> MADT           local APICs, I/O APIC
//! ```

use anyhow::Result;
use vm_memory::{
    Address,
    Bytes,
    GuestAddress,
    GuestMemoryMmap, //
};

use crate::{
    ioapic,
    memory,
    power,
    serial, //
};

/// Where the local APICs are until the guest moves them.
pub const LOCAL_APIC: u32 = 0xfee0_0000;

/// FADT flags (ACPI 6.5, table 5.10).
const WBINVD: u32 = 1 << 0;
const RESET_REG_SUP: u32 = 1 << 10;
const HW_REDUCED_ACPI: u32 = 1 << 20;

/// IA-PC boot architecture flags (ACPI 6.5, table 5.11).
const VGA_NOT_PRESENT: u16 = 1 << 2;
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// Length of a table's common header.
const HEADER: usize = 36;

/// Writes the tables for `cpus` CPUs; returns where the RSDP is.
pub fn write(memory: &GuestMemoryMmap, cpus: u8) -> Result<GuestAddress> {
    let mut writer = Writer {
        memory,
        // The RSDP, whose length is 36 bytes, comes first.
        next: memory::ACPI.unchecked_add(64),
    };
    let dsdt = writer.add(&dsdt())?;
    let fadt = writer.add(&fadt(dsdt))?;
    let madt = writer.add(&madt(cpus))?;
    let mut pointers = Vec::new();
    for table in [fadt, madt] {
        pointers.extend(table.raw_value().to_le_bytes());
    }
    let xsdt = writer.add(&table(b"XSDT", 1, &pointers))?;
    memory.write_slice(&rsdp(xsdt), memory::ACPI)?;
    Ok(memory::ACPI)
}

/// Lays tables one behind the other.
struct Writer<'a> {
    memory: &'a GuestMemoryMmap,
    next: GuestAddress,
}

impl Writer<'_> {
    fn add(&mut self, table: &[u8]) -> Result<GuestAddress> {
        let at = self.next;
        self.memory.write_slice(table, at)?;
        self.next = at.unchecked_add((table.len() as u64 + 15) & !15);
        Ok(at)
    }
}

/// The byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, b| sum.wrapping_sub(*b))
}

/// Puts the common header before `body`.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend(signature);
    out.extend(((HEADER + body.len()) as u32).to_le_bytes());
    out.extend([revision, 0]); // Revision, checksum.
    out.extend(b"BURROWSAMPLEVMM "[..14].iter()); // OEM ID and OEM table ID.
    out.extend(1u32.to_le_bytes()); // OEM revision.
    out.extend(b"BURR"); // Creator.
    out.extend(1u32.to_le_bytes()); // Creator revision.
    out.extend(body);
    out[9] = checksum(&out);
    out
}

/// Root system description pointer (ACPI 6.5, 5.2.5.3).
fn rsdp(xsdt: GuestAddress) -> Vec<u8> {
    let mut out = Vec::with_capacity(36);
    out.extend(b"RSD PTR ");
    out.extend([0]); // Checksum of the first 20 bytes.
    out.extend(b"BURROW");
    out.extend([2]); // Revision.
    out.extend(0u32.to_le_bytes()); // No RSDT.
    out.extend(36u32.to_le_bytes());
    out.extend(xsdt.raw_value().to_le_bytes());
    out.extend([0; 4]); // Checksum of all bytes, reserved bytes.
    out[8] = checksum(&out[..20]);
    out[32] = checksum(&out);
    out
}

/// Multiple APIC description table (ACPI 6.5, 5.2.12).
fn madt(cpus: u8) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(LOCAL_APIC.to_le_bytes());
    body.extend(0u32.to_le_bytes()); // No 8259s.
    for id in 0..cpus {
        body.extend([0, 8, id, id]); // Local APIC: processor UID, APIC ID.
        body.extend(1u32.to_le_bytes()); // Enabled.
    }
    body.extend([1, 12, 0, 0]); // I/O APIC: ID 0.
    body.extend((ioapic::BASE as u32).to_le_bytes());
    body.extend(0u32.to_le_bytes()); // Its first GSI.
    body.extend([4, 6, 0xff, 0, 0, 1]); // NMI at LINT1 of all processors.
    table(b"APIC", 5, &body)
}

/// Generic address structure for one byte of I/O space (ACPI 6.5, 5.2.3.2).
fn io_byte(port: u16) -> [u8; 12] {
    let mut gas = [0; 12];
    gas[0] = 1; // System I/O space.
    gas[1] = 8; // Bits.
    gas[3] = 1; // Byte access.
    gas[4..6].copy_from_slice(&port.to_le_bytes());
    gas
}

/// Fixed ACPI description table (ACPI 6.5, 5.2.9).
fn fadt(dsdt: GuestAddress) -> Vec<u8> {
    // Offsets as in the specification, from the start of the table.
    let mut out = vec![0u8; 276];
    let mut put = |offset: usize, bytes: &[u8]| {
        out[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(40, &(dsdt.raw_value() as u32).to_le_bytes());
    put(109, &(VGA_NOT_PRESENT | CMOS_RTC_NOT_PRESENT).to_le_bytes());
    put(
        112,
        &(WBINVD | RESET_REG_SUP | HW_REDUCED_ACPI).to_le_bytes(),
    );
    put(116, &io_byte(power::RESET_PORT));
    put(128, &[power::RESET_VALUE]);
    put(131, &[5]); // Minor version: 6.5.
    put(140, &dsdt.raw_value().to_le_bytes());
    put(244, &io_byte(power::SLEEP_CONTROL_PORT));
    put(256, &io_byte(power::SLEEP_STATUS_PORT));
    table(b"FACP", 6, &out[HEADER..])
}

/// Differentiated system description table: AML code (ACPI 6.5, chapter 20).
///
/// ```text
/// Name (\_S5_, Package () { 5, 0, 0, 0 })
/// Scope (\_SB_) {
///     Device (COM1) {
///         Name (_HID, EisaId ("PNP0501"))
///         Name (_UID, 0)
///         Name (_CRS, ResourceTemplate () {
///             Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 4 }
///             IO (Decode16, 0x3f8, 0x3f8, 0, 8)
///         })
///     }
/// }
/// ```
fn dsdt() -> Vec<u8> {
    let mut resources = vec![0x89, 6, 0, 0x03, 1];
    resources.extend(u32::from(serial::IRQ).to_le_bytes());
    resources.extend([0x47, 1]);
    resources.extend(serial::PORT.to_le_bytes());
    resources.extend(serial::PORT.to_le_bytes());
    resources.extend([0, 8]);
    resources.extend([0x79, 0]);

    let mut crs = vec![0x0a, resources.len() as u8];
    crs.extend(resources);
    let mut device = b"COM1".to_vec();
    device.extend(b"\x08_HID\x0c\x41\xd0\x05\x01");
    device.extend(b"\x08_UID\x00");
    device.extend(b"\x08_CRS\x11");
    device.extend(package(&crs));

    let mut scope = b"\\_SB_".to_vec();
    scope.extend(b"\x5b\x82");
    scope.extend(package(&device));

    let mut body = b"\x08\\_S5_\x12".to_vec();
    body.extend(package(&[4, 0x0a, power::SLEEP_TYPE_S5, 0, 0, 0]));
    body.push(0x10);
    body.extend(package(&scope));
    table(b"DSDT", 6, &body)
}

/// Puts a `PkgLength` before `content` (ACPI 6.5, 20.2.4): one byte up to 63,
/// two beyond.
fn package(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 2);
    if content.len() < 0x3f {
        out.push((content.len() + 1) as u8);
    } else {
        let length = content.len() + 2;
        out.push(0x40 | (length & 0xf) as u8);
        out.push((length >> 4) as u8);
    }
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_sums_to_zero() {
        for bytes in [dsdt(), madt(3), fadt(memory::ACPI), rsdp(memory::ACPI)] {
            assert_eq!(checksum(&bytes), 0);
        }
        assert_eq!(checksum(&rsdp(memory::ACPI)[..20]), 0);
    }

    #[test]
    fn every_table_states_its_length() {
        for bytes in [dsdt(), madt(254), fadt(memory::ACPI)] {
            let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
            assert_eq!(length as usize, bytes.len());
        }
    }

    #[test]
    fn a_package_of_63_bytes_takes_a_second_length_byte() {
        assert_eq!(package(&[0; 62])[..1], [0x3f]);
        assert_eq!(package(&[0; 63])[..2], [0x41, 0x04]);
    }
}
