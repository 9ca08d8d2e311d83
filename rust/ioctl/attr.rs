// SPDX-License-Identifier: GPL-2.0

//! Device attributes of a vCPU, and of `/dev/kvm`.

use crate::arch::{
    cpu::Cpu,
    cpuid, //
};
use burrow_sys::uapi::{
    self,
    kvm_device_attr,
    KVM_VCPU_TSC_CTRL,
    KVM_VCPU_TSC_OFFSET,
    KVM_X86_XCOMP_GUEST_SUPP, //
};
use kernel::prelude::*;

/// `KVM_HAS_DEVICE_ATTR`.
///
/// # Errors
///
/// `ENXIO` for an attribute that does not exist.
pub(super) fn has(attr: &kvm_device_attr) -> Result {
    match (attr.group, attr.attr) {
        (KVM_VCPU_TSC_CTRL, offset) if offset == u64::from(KVM_VCPU_TSC_OFFSET) => Ok(()),
        _ => Err(ENXIO),
    }
}

/// `KVM_GET_DEVICE_ATTR`.
///
/// # Errors
///
/// `ENXIO` for an attribute that does not exist.
pub(super) fn get(cpu: &mut Cpu<'_>, attr: &kvm_device_attr) -> Result {
    has(attr)?;
    uapi::write(attr.addr as usize, &cpu.tsc_offset())
}

/// `KVM_SET_DEVICE_ATTR`.
///
/// # Errors
///
/// `EINVAL` for flags, `ENXIO` for an attribute that does not exist.
pub(super) fn set(cpu: &mut Cpu<'_>, attr: &kvm_device_attr) -> Result {
    if attr.flags != 0 {
        return Err(EINVAL);
    }
    has(attr)?;
    cpu.write_tsc_offset(uapi::read(attr.addr as usize)?);
    Ok(())
}

/// Returns the value of an attribute of `/dev/kvm`: the features of XSAVE that guests can have.
///
/// # Errors
///
/// `ENXIO` for an attribute that does not exist.
pub(super) fn of_system(attr: &kvm_device_attr) -> Result<u64> {
    match (attr.group, attr.attr) {
        (0, xcr0) if xcr0 == u64::from(KVM_X86_XCOMP_GUEST_SUPP) => Ok(cpuid::guest_xcr0()),
        _ => Err(ENXIO),
    }
}

/// `KVM_GET_DEVICE_ATTR` on `/dev/kvm`.
///
/// # Errors
///
/// `ENXIO` for an attribute that does not exist.
pub(super) fn get_of_system(attr: &kvm_device_attr) -> Result<isize> {
    uapi::write(attr.addr as usize, &of_system(attr)?).map(|()| 0)
}
