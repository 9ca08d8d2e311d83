// SPDX-License-Identifier: GPL-2.0

//! `KVM_PRE_FAULT_MEMORY`: guest memory that is mapped before the guest touches it.

use crate::arch::{
    cpu::Cpu,
    mmu::Fault, //
};
use burrow_core::{
    addr::{
        Gpa,
        PAGE_SIZE, //
    },
    x86::tdp::Access, //
};
use burrow_sys::{
    context,
    uapi::{
        self,
        kvm_pre_fault_memory, //
    },
};
use kernel::prelude::*;

/// Maps a range page by page, and tells userspace what is left of it.
///
/// # Errors
///
/// As of [`check`]; and where not even the first page was mapped:
///
/// - `ENOENT` where no slot is;
/// - `EFAULT`, `EHWPOISON` where the VMM has no memory;
/// - `EINTR` when a signal is pending.
pub(super) fn pre_fault(cpu: &Cpu<'_>, arg: usize) -> Result {
    let mut range: kvm_pre_fault_memory = uapi::read(arg)?;
    let result = check(&range).and_then(|()| map_all(cpu, &mut range));
    uapi::write(arg, &range)?;
    result
}

/// # Errors
///
/// `EINVAL` for flags, and for a range that is empty, wraps around, or does not consist of pages.
fn check(range: &kvm_pre_fault_memory) -> Result {
    let is_aligned = (range.gpa | range.size) % PAGE_SIZE == 0;
    let ends = range.gpa.checked_add(range.size);
    if range.flags == 0 && is_aligned && range.size != 0 && ends.is_some() {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

fn map_all(cpu: &Cpu<'_>, range: &mut kvm_pre_fault_memory) -> Result {
    let size = range.size;
    while range.size != 0 {
        match map(cpu, Gpa(range.gpa)) {
            Ok(()) => {
                range.gpa = range.gpa.wrapping_add(PAGE_SIZE);
                range.size = range.size.wrapping_sub(PAGE_SIZE);
            }
            Err(error) if range.size == size => return Err(error),
            Err(_) => break,
        }
    }
    Ok(())
}

/// Maps a page for reading.
fn map(cpu: &Cpu<'_>, gpa: Gpa) -> Result {
    loop {
        if context::signal_pending() {
            return Err(EINTR);
        }
        match cpu.memory().fault(gpa, Access::Read)? {
            Fault::Mapped | Fault::Spurious => return Ok(()),
            Fault::Mmio | Fault::ReadonlyWrite => return Err(ENOENT),
            Fault::HvaError(error) => return Err(error),
            Fault::Interrupted => return Err(EINTR),
            // A slot that is about to go, or memory that the host is moving.
            Fault::Retry => context::yield_now(),
        }
    }
}
