// SPDX-License-Identifier: GPL-2.0

//! `KVM_CAP_SYNC_REGS`: registers in `struct kvm_run`, taken before a run and given after it.

use crate::{
    arch::cpu::Cpu,
    ioctl::{
        events,
        regs, //
    },
};
use burrow_sys::uapi::{
    kvm_run,
    kvm_sync_regs,
    KVM_SYNC_X86_EVENTS,
    KVM_SYNC_X86_REGS,
    KVM_SYNC_X86_SREGS, //
};
use core::mem::offset_of;
use kernel::prelude::*;

/// The sets of registers that there are.
pub(super) const VALID: u32 = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;

/// The offset of a field of the registers in `struct kvm_run`.
macro_rules! at {
    ($field:ident) => {
        offset_of!(kvm_run, s) + offset_of!(kvm_sync_regs, $field)
    };
}

/// Takes the registers that userspace has changed. Returns the sets that it wants to see after the run.
///
/// Each structure is copied before it is checked: userspace may write it meanwhile.
///
/// # Errors
///
/// `EINVAL` for an unknown set, or registers that make no mode.
pub(super) fn take(cpu: &mut Cpu<'_>) -> Result<u64> {
    let page = &cpu.vcpu.pages.run;
    let valid = page.read::<u64>(offset_of!(kvm_run, kvm_valid_regs));
    let dirty = page.read::<u64>(offset_of!(kvm_run, kvm_dirty_regs));
    if (valid | dirty) & !u64::from(VALID) != 0 {
        return Err(EINVAL);
    }
    let is_dirty = |set: u32| dirty & u64::from(set) != 0;
    if is_dirty(KVM_SYNC_X86_REGS) {
        regs::set_regs(cpu, &page.read(at!(regs)));
    }
    if is_dirty(KVM_SYNC_X86_SREGS) {
        regs::set_sregs(cpu, &page.read(at!(sregs)))?;
    }
    if is_dirty(KVM_SYNC_X86_EVENTS) {
        events::set(cpu, &page.read(at!(events)))?;
    }
    if dirty != 0 {
        page.write(offset_of!(kvm_run, kvm_dirty_regs), 0u64);
    }
    Ok(valid)
}

/// Gives userspace the sets in `valid`.
pub(super) fn give(cpu: &mut Cpu<'_>, valid: u64) {
    let page = &cpu.vcpu.pages.run;
    let is_valid = |set: u32| valid & u64::from(set) != 0;
    if is_valid(KVM_SYNC_X86_REGS) {
        page.write(at!(regs), regs::get_regs(cpu));
    }
    if is_valid(KVM_SYNC_X86_SREGS) {
        page.write(at!(sregs), regs::get_sregs(cpu));
    }
    if is_valid(KVM_SYNC_X86_EVENTS) {
        page.write(at!(events), events::get(cpu));
    }
}
