// SPDX-License-Identifier: GPL-2.0

//! Guest-physical memory: where it is, and what it holds at boot.
//!
//! ```text
//! 0000_0500  GDT
//! 0000_7000  boot_params ("zero page")
//! 0000_8ff0  stack
//! 0000_9000  page tables: PML4, PDPT, four page directories
//! 0002_0000  kernel command line
//! 0009_fc00  end of low memory
//! 000e_0000  ACPI tables
//! 0010_0000  kernel
//!            ... initrd at the end of the memory below 3 GiB
//! c000_0000  hole: I/O APIC at fec0_0000, local APIC at fee0_0000
//! 1_0000_0000  the rest of the memory
//! ```

use anyhow::{
    Context,
    Result, //
};
use vm_memory::{
    GuestAddress,
    GuestMemoryMmap, //
};

/// Global descriptor table.
pub const GDT: GuestAddress = GuestAddress(0x500);
/// `struct boot_params` of the Linux boot protocol.
pub const ZERO_PAGE: GuestAddress = GuestAddress(0x7000);
/// Initial stack pointer.
pub const STACK: GuestAddress = GuestAddress(0x8ff0);
/// Root of the page tables; the other five pages follow.
pub const PML4: GuestAddress = GuestAddress(0x9000);
/// Kernel command line.
pub const CMDLINE: GuestAddress = GuestAddress(0x2_0000);
/// Longest kernel command line, its terminating zero included.
pub const CMDLINE_SIZE: usize = 0x1000;
/// First byte above the conventional memory.
pub const LOW_END: u64 = 0x9_fc00;
/// ACPI tables, in the area that a kernel searches for them.
pub const ACPI: GuestAddress = GuestAddress(0xe_0000);
/// First byte above the legacy area; a kernel is loaded here.
pub const HIGH: GuestAddress = GuestAddress(0x10_0000);
/// First byte of the hole for memory-mapped devices.
pub const HOLE: u64 = 0xc000_0000;
/// First byte above that hole.
pub const ABOVE_HOLE: u64 = 1 << 32;

/// Splits `size` bytes of memory into the ranges below and above the hole.
pub fn ranges(size: u64) -> Vec<(GuestAddress, usize)> {
    let low = size.min(HOLE);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if size > low {
        ranges.push((GuestAddress(ABOVE_HOLE), (size - low) as usize));
    }
    ranges
}

/// Maps `size` bytes of anonymous memory; pages are allocated when touched.
pub fn allocate(size: u64) -> Result<GuestMemoryMmap> {
    GuestMemoryMmap::from_ranges(&ranges(size)).context("cannot map the guest's memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_beyond_3_gib_goes_above_the_hole() {
        assert_eq!(ranges(1 << 20), [(GuestAddress(0), 1 << 20)]);
        assert_eq!(
            ranges(HOLE + 0x1000),
            [
                (GuestAddress(0), HOLE as usize),
                (GuestAddress(ABOVE_HOLE), 0x1000)
            ]
        );
    }
}
