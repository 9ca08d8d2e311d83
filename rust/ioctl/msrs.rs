// SPDX-License-Identifier: GPL-2.0

//! MSRs, as userspace lists, reads, writes and filters them.

use crate::arch::{
    cpu::Cpu,
    msr,
    nested::feature_msr,
    vm::Vm, //
};
use burrow_core::{
    request::Request,
    x86::{
        msr::{
            access::Origin,
            filter::{
                self,
                Fallback,
                Range, //
            },
            list, //
        },
        regs::one_reg, //
    }, //
};
use burrow_sys::uapi::{
    self,
    *, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// The offset of the entries in `struct kvm_msrs` and `struct kvm_msr_list`.
const MSRS_HEADER: usize = 8;
const LIST_HEADER: usize = 4;
/// One call takes fewer entries than this.
const MAX_MSRS: u32 = 256;

/// `KVM_GET_MSR_INDEX_LIST`.
pub(super) fn index_list(arg: usize) -> Result<isize> {
    write_list(arg, |sink| list::saved(&msr::support(), sink))
}

/// `KVM_GET_MSR_FEATURE_INDEX_LIST`.
pub(super) fn feature_index_list(arg: usize) -> Result<isize> {
    write_list(arg, |sink| list::features(&msr::support(), sink))
}

/// Writes a list of MSR numbers, or its length and `E2BIG` where userspace has no room.
fn write_list(arg: usize, fill: impl Fn(&mut dyn FnMut(u32))) -> Result<isize> {
    let room: u32 = uapi::read(arg)?;
    let mut count = 0u32;
    fill(&mut |_| count = count.wrapping_add(1));
    uapi::write(arg, &count)?;
    if room < count {
        return Err(E2BIG);
    }
    let mut numbers = KVec::with_capacity(count as usize, GFP_KERNEL)?;
    let mut result = Ok(());
    fill(&mut |number| {
        if result.is_ok() {
            result = numbers.push(number, GFP_KERNEL).map_err(Error::from);
        }
    });
    result?;
    uapi::write_slice(uapi::field(arg, LIST_HEADER)?, &numbers)?;
    Ok(0)
}

/// Calls `f` with each entry of a `struct kvm_msrs` until one fails; returns how many did not.
fn each(
    arg: usize,
    mut f: impl FnMut(&mut kvm_msr_entry) -> Result,
) -> Result<(KVec<kvm_msr_entry>, usize)> {
    let count: u32 = uapi::read(arg)?;
    if count >= MAX_MSRS {
        return Err(E2BIG);
    }
    let mut entries =
        uapi::read_vec::<kvm_msr_entry>(uapi::field(arg, MSRS_HEADER)?, count as usize)?;
    let mut done = 0usize;
    for entry in entries.iter_mut() {
        if f(entry).is_err() {
            break;
        }
        done = done.wrapping_add(1);
    }
    Ok((entries, done))
}

/// `KVM_GET_MSRS` on a vCPU: returns how many were read.
pub(super) fn get(cpu: &mut Cpu<'_>, arg: usize) -> Result<isize> {
    let (entries, done) = each(arg, |entry| {
        entry.data = cpu.read_msr_for_host(entry.index)?;
        Ok(())
    })?;
    uapi::write_slice(uapi::field(arg, MSRS_HEADER)?, &entries)?;
    Ok(done as isize)
}

/// `KVM_SET_MSRS` on a vCPU: returns how many were written.
pub(super) fn set(cpu: &mut Cpu<'_>, arg: usize) -> Result<isize> {
    let (_, done) = each(arg, |entry| cpu.write_msr_for_host(entry.index, entry.data))?;
    let _ = Origin::Host;
    Ok(done as isize)
}

/// `KVM_GET_MSRS` on `/dev/kvm`: feature MSRs.
pub(super) fn get_feature_msrs(arg: usize) -> Result<isize> {
    let (entries, done) = each(arg, |entry| {
        let value = msr::feature(entry.index).or_else(|| feature_msr(entry.index));
        entry.data = value.ok_or(EINVAL)?;
        Ok(())
    })?;
    uapi::write_slice(uapi::field(arg, MSRS_HEADER)?, &entries)?;
    Ok(done as isize)
}

/// `KVM_X86_SET_MSR_FILTER`.
///
/// # Errors
///
/// `EINVAL` for unknown flags or ranges that are too large.
pub(super) fn set_filter(vm: &Vm, arg: usize) -> Result {
    let raw: kvm_msr_filter = uapi::read(arg)?;
    let mut new = msr::Filter {
        fallback: Fallback::Allow,
        ranges: KVec::new(),
    };
    let mut plain = [Range {
        flags: 0,
        base: 0,
        nr_msrs: 0,
    }; KVM_MSR_FILTER_MAX_RANGES as usize];
    for (range, raw) in plain.iter_mut().zip(&raw.ranges) {
        *range = Range {
            flags: raw.flags,
            base: raw.base,
            nr_msrs: raw.nmsrs,
        };
    }
    new.fallback = filter::fallback_of(raw.flags, &plain).map_err(|_| EINVAL)?;
    for (range, raw) in plain.iter().zip(&raw.ranges) {
        let len = range.bitmap_bytes().map_err(|_| EINVAL)? as usize;
        if len != 0 {
            let bitmap = uapi::read_bytes(raw.bitmap as usize, len)?;
            new.ranges.push((*range, bitmap), GFP_KERNEL_ACCOUNT)?;
        }
    }
    vm.options
        .has_msr_filter
        .store(true, kernel::sync::atomic::Relaxed);
    *vm.msr_filter.lock() = Some(Arc::new(new, GFP_KERNEL_ACCOUNT)?);
    vm.vcpus.request_all(Request::MsrFilterChanged);
    Ok(())
}

/// `KVM_GET_ONE_REG`: an MSR.
///
/// # Errors
///
/// `EINVAL` for a name of no register, and where there is no such MSR.
pub(super) fn get_one(cpu: &mut Cpu<'_>, one: &kvm_one_reg) -> Result {
    let number = one_reg::msr(one.id).ok_or(EINVAL)?;
    uapi::write(one.addr as usize, &cpu.read_msr_for_host(number)?)
}

/// `KVM_SET_ONE_REG`: an MSR.
///
/// # Errors
///
/// `EINVAL` for a name of no register, and as [`Cpu::write_msr_for_host`].
pub(super) fn set_one(cpu: &mut Cpu<'_>, one: &kvm_one_reg) -> Result {
    let number = one_reg::msr(one.id).ok_or(EINVAL)?;
    cpu.write_msr_for_host(number, uapi::read(one.addr as usize)?)
}

/// `KVM_GET_REG_LIST`: the registers that KVM defines itself, of which there are none here.
pub(super) fn list_registers(arg: usize) -> Result {
    let none: u64 = 0;
    let _: u64 = uapi::read(arg)?;
    uapi::write(arg, &none)
}
