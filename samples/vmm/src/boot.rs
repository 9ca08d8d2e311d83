// SPDX-License-Identifier: GPL-2.0

//! The 64-bit Linux boot protocol (`Documentation/arch/x86/boot.rst`).
//!
//! The kernel is entered in 64-bit mode with the first gigabytes mapped one to
//! one and RSI at a `struct boot_params`, which says where the command line, the
//! initrd, the memory and the ACPI tables are. A bzImage decompresses itself from
//! there; a vmlinux is ready to run.

use anyhow::{
    anyhow,
    bail,
    Context,
    Result, //
};
use linux_loader::{
    cmdline::Cmdline,
    loader::{
        bootparam::{
            boot_e820_entry,
            boot_params, //
        },
        bzimage::BzImage,
        elf::Elf,
        load_cmdline,
        Error as LoaderError,
        KernelLoader, //
    }, //
};
use std::{
    fs::File,
    path::Path, //
};
use vm_memory::{
    Address,
    Bytes,
    GuestAddress,
    GuestMemory,
    GuestMemoryMmap, //
    GuestMemoryRegion,
};

use crate::memory::{
    ABOVE_HOLE,
    CMDLINE,
    CMDLINE_SIZE,
    HIGH,
    HOLE,
    LOW_END,
    ZERO_PAGE, //
};

/// `E820_TYPE_RAM`.
const RAM: u32 = 1;
/// `E820_TYPE_RESERVED`.
const RESERVED: u32 = 2;
/// `type_of_loader` of a loader that has no number of its own.
const UNDEFINED_LOADER: u8 = 0xff;
/// `XLF_KERNEL_64`: the kernel has the 64-bit entry point.
const HAS_64_BIT_ENTRY: u16 = 1;
/// Where that entry point is, from the start of the protected-mode kernel.
const ENTRY_64_OFFSET: u64 = 0x200;
/// `boot_flag` and `header` of a setup header, for kernels that bring none.
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Highest address of an initrd when the kernel does not name one.
const INITRD_MAX: u64 = 0x37ff_ffff;

/// Where the first vCPU starts.
pub struct Entry {
    /// 64-bit entry point, for RIP.
    pub kernel: GuestAddress,
}

/// Loads kernel, initrd and command line, and describes them to the kernel.
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &Path,
    initrd: Option<&Path>,
    cmdline: &str,
    rsdp: GuestAddress,
) -> Result<Entry> {
    let (entry, mut params) =
        load_kernel(memory, kernel).with_context(|| format!("cannot load {}", kernel.display()))?;
    params.acpi_rsdp_addr = rsdp.raw_value();

    let mut text = Cmdline::new(CMDLINE_SIZE)?;
    text.insert_str(cmdline)?;
    load_cmdline(memory, CMDLINE, &text).context("cannot store the command line")?;
    params.hdr.cmd_line_ptr = CMDLINE.raw_value() as u32;

    if let Some(path) = initrd {
        let limit = u64::from(params.hdr.initrd_addr_max);
        let (start, size) = load_initrd(memory, path, limit)
            .with_context(|| format!("cannot load {}", path.display()))?;
        params.hdr.ramdisk_image = start;
        params.hdr.ramdisk_size = size;
    }

    let map = e820(memory);
    params.e820_entries = map.len() as u8;
    for (slot, entry) in params.e820_table.iter_mut().zip(map) {
        *slot = entry;
    }
    memory.write_obj(params, ZERO_PAGE)?;
    Ok(entry)
}

/// Loads a bzImage or, when it is none, an ELF file.
fn load_kernel(memory: &GuestMemoryMmap, path: &Path) -> Result<(Entry, boot_params)> {
    let mut file = File::open(path)?;
    let mut params = boot_params::default();
    match BzImage::load(memory, None, &mut file, Some(HIGH)) {
        Ok(loaded) => {
            params.hdr = loaded.setup_header.context("no setup header")?;
            let flags = params.hdr.xloadflags;
            if flags & HAS_64_BIT_ENTRY == 0 {
                bail!("the kernel has no 64-bit entry point");
            }
            params.hdr.type_of_loader = UNDEFINED_LOADER;
            let kernel = loaded.kernel_load.unchecked_add(ENTRY_64_OFFSET);
            Ok((Entry { kernel }, params))
        }
        Err(LoaderError::Bzimage(linux_loader::loader::bzimage::Error::InvalidBzImage)) => {
            let loaded = Elf::load(memory, None, &mut file, Some(HIGH))
                .map_err(|error| anyhow!("neither a bzImage nor an ELF kernel: {error}"))?;
            params.hdr.type_of_loader = UNDEFINED_LOADER;
            params.hdr.boot_flag = BOOT_FLAG;
            params.hdr.header = HEADER_MAGIC;
            params.hdr.initrd_addr_max = INITRD_MAX as u32;
            let kernel = loaded.kernel_load;
            Ok((Entry { kernel }, params))
        }
        Err(error) => Err(anyhow!("{error}")),
    }
}

/// Puts the initrd as high as the kernel and the memory allow: address and size.
fn load_initrd(memory: &GuestMemoryMmap, path: &Path, limit: u64) -> Result<(u32, u32)> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let low_memory = memory
        .find_region(GuestAddress(0))
        .context("no memory at 0")?
        .len();
    let end = low_memory.min(limit.saturating_add(1));
    let start = end
        .checked_sub(size)
        .filter(|start| *start > HIGH.raw_value())
        .context("the guest's memory is too small for it")?
        & !0xfff;
    memory.read_exact_volatile_from(GuestAddress(start), &mut file, size as usize)?;
    Ok((u32::try_from(start)?, u32::try_from(size)?))
}

/// The memory map: what is memory, and what the kernel must not use as such.
fn e820(memory: &GuestMemoryMmap) -> Vec<boot_e820_entry> {
    let entry = |addr, end: u64, type_| boot_e820_entry {
        addr,
        size: end - addr,
        type_,
    };
    let low_end = memory.last_addr().raw_value().saturating_add(1).min(HOLE);
    let mut map = vec![
        entry(0, LOW_END, RAM),
        entry(LOW_END, HIGH.raw_value(), RESERVED),
        entry(HIGH.raw_value(), low_end, RAM),
    ];
    let last = memory.last_addr().raw_value();
    if last >= ABOVE_HOLE {
        map.push(entry(ABOVE_HOLE, last + 1, RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::allocate;

    #[test]
    fn the_memory_map_has_no_overlaps_and_ends_where_memory_ends() {
        let memory = allocate(HOLE + (64 << 20)).unwrap();
        let map = e820(&memory);
        for pair in map.windows(2) {
            assert!(pair[0].addr + pair[0].size <= pair[1].addr);
        }
        let last = map.last().unwrap();
        assert_eq!({ last.addr } + last.size, ABOVE_HOLE + (64 << 20));
    }

    #[test]
    fn a_file_that_is_no_kernel_is_refused() {
        let memory = allocate(32 << 20).unwrap();
        assert!(load_kernel(&memory, Path::new("/proc/self/exe")).is_err());
        assert!(load_kernel(&memory, Path::new("/proc/version")).is_err());
    }
}
