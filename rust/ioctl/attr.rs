// SPDX-License-Identifier: GPL-2.0

//! Device attributes of a vCPU.

use crate::arch::cpu::Cpu;
use burrow_sys::uapi::{
    self,
    kvm_device_attr,
    KVM_VCPU_TSC_CTRL,
    KVM_VCPU_TSC_OFFSET, //
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
