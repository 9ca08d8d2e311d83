// SPDX-License-Identifier: GPL-2.0

//! CPUID, as userspace learns what is supported and sets what the guest sees.

use crate::arch::{
    cpu::Cpu,
    cpuid, //
};
use burrow_sys::uapi::{
    self,
    Plain,
    *, //
};
use kernel::prelude::*;

/// The offset of the entries in `struct kvm_cpuid2`.
const HEADER: usize = 8;
/// The most entries that `KVM_SET_CPUID2` takes.
const MAX_ENTRIES: u32 = 256;

/// `KVM_GET_SUPPORTED_CPUID`.
///
/// # Errors
///
/// `E2BIG` when userspace has no room for all entries.
pub(super) fn get_supported(arg: usize) -> Result<isize> {
    let room: u32 = uapi::read(arg)?;
    let entries = cpuid::supported()?;
    write(arg, room, &entries)
}

/// `KVM_GET_EMULATED_CPUID`: what Burrow emulates though the CPU may lack it.
///
/// # Errors
///
/// `E2BIG` when userspace has no room for all entries.
pub(super) fn get_emulated(arg: usize) -> Result<isize> {
    let room: u32 = uapi::read(arg)?;
    let entries = cpuid::emulated()?;
    write(arg, room, &entries)
}

fn write(arg: usize, room: u32, entries: &[kvm_cpuid_entry2]) -> Result<isize> {
    let count = u32::try_from(entries.len()).map_err(|_| EINVAL)?;
    if room < count {
        return Err(E2BIG);
    }
    uapi::write_slice(uapi::field(arg, HEADER)?, entries)?;
    uapi::write(arg, &count)?;
    Ok(0)
}

/// `KVM_SET_CPUID2`.
///
/// # Errors
///
/// `E2BIG` for too many entries; `EINVAL` for a change after the vCPU has run.
pub(super) fn set(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let count: u32 = uapi::read(arg)?;
    if count > MAX_ENTRIES {
        return Err(E2BIG);
    }
    let entries = uapi::read_vec::<kvm_cpuid_entry2>(uapi::field(arg, HEADER)?, count as usize)?;
    cpu.set_cpuid(&entries)
}

/// `KVM_SET_CPUID`, the obsolete form: entries without subleaves.
///
/// # Errors
///
/// Those of [`set`].
pub(super) fn set_plain(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let count: u32 = uapi::read(arg)?;
    if count > MAX_ENTRIES {
        return Err(E2BIG);
    }
    let mut entries = KVec::with_capacity(count as usize, GFP_KERNEL)?;
    for plain in uapi::read_vec::<kvm_cpuid_entry>(uapi::field(arg, HEADER)?, count as usize)? {
        let entry = kvm_cpuid_entry2 {
            function: plain.function,
            eax: plain.eax,
            ebx: plain.ebx,
            ecx: plain.ecx,
            edx: plain.edx,
            ..kvm_cpuid_entry2::zeroed()
        };
        entries.push(entry, GFP_KERNEL)?;
    }
    cpu.set_cpuid(&entries)
}

/// `KVM_GET_CPUID2`.
///
/// # Errors
///
/// `E2BIG` when userspace has no room; nothing is written then.
pub(super) fn get(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let room: u32 = uapi::read(arg)?;
    let entries = cpuid::to_uapi_vec(cpu.arch.cpuid.entries())?;
    write(arg, room, &entries).map(drop)
}
