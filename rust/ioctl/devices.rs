// SPDX-License-Identifier: GPL-2.0

//! Ioctls of a VM's fd for devices in the kernel, and for interrupts from those of userspace.

use crate::{
    arch::vm::{
        IrqChip,
        Vm, //
    },
    vm::{
        coalesced,
        ioeventfd, //
    },
};
use burrow_core::{
    irqroute::{
        XenRoutes,
        KVM_MAX_IRQ_ROUTES, //
    },
    x86::irqchip::msi,
};
use burrow_sys::uapi::{
    self,
    *, //
};
use kernel::prelude::*;

/// The offset of the entries in `struct kvm_irq_routing`.
const ROUTING_HEADER: usize = 8;

/// # Errors
///
/// `EINVAL` where the kernel has no local APICs.
fn needs_irqchip(vm: &Vm) -> Result {
    match vm.irqchip() {
        IrqChip::None => Err(EINVAL),
        IrqChip::Split { .. } | IrqChip::Full => Ok(()),
    }
}

/// `KVM_SET_GSI_ROUTING`.
///
/// # Errors
///
/// `EINVAL` without local APICs in the kernel, for undefined flags, too many entries, or one that
/// the VM cannot have; `ENOMEM` when there is no memory.
pub(super) fn set_gsi_routing(vm: &Vm, arg: usize) -> Result {
    let [count, flags]: [u32; 2] = uapi::read(arg)?;
    needs_irqchip(vm)?;
    if count as usize > KVM_MAX_IRQ_ROUTES || flags != 0 {
        return Err(EINVAL);
    }
    let entries = uapi::read_vec(uapi::field(arg, ROUTING_HEADER)?, count as usize)?;
    let format = vm.apics.msi_format();
    vm.routing.set(
        &entries,
        &msi::policy(vm.irqchip().io_apic(), format, XenRoutes::Refused),
    )
}

/// `KVM_SIGNAL_MSI`: returns how many local APICs took it.
///
/// # Errors
///
/// `EINVAL` without local APICs in the kernel, for undefined flags or a bad address.
pub(super) fn signal_msi(vm: &Vm, arg: usize) -> Result<isize> {
    let args: kvm_msi = uapi::read(arg)?;
    needs_irqchip(vm)?;
    vm.routing.signal_msi(&args)
}

/// `KVM_IRQFD`.
///
/// # Errors
///
/// `EINVAL` for an assignment without local APICs in the kernel, and for one with a resampler without
/// an I/O APIC there; else as [`Irqfds::set`](crate::arch::irqfd::Irqfds::set).
pub(super) fn irqfd(vm: &Vm, arg: usize) -> Result {
    let args: kvm_irqfd = uapi::read(arg)?;
    if args.flags & KVM_IRQFD_FLAG_DEASSIGN == 0 {
        needs_irqchip(vm)?;
        if args.flags & KVM_IRQFD_FLAG_RESAMPLE != 0 && vm.irqchip() != IrqChip::Full {
            return Err(EINVAL);
        }
    }
    vm.irqfds.set(&args)
}

/// `KVM_IOEVENTFD`.
///
/// # Errors
///
/// As [`ioeventfd::set`].
pub(super) fn set_ioeventfd(vm: &Vm, arg: usize) -> Result {
    ioeventfd::set(&vm.devices, &uapi::read(arg)?)
}

/// `KVM_REGISTER_COALESCED_MMIO`.
///
/// # Errors
///
/// As [`coalesced::register`].
pub(super) fn register_coalesced(vm: &Vm, arg: usize) -> Result {
    coalesced::register(&vm.devices, &vm.coalesced, &uapi::read(arg)?)
}

/// `KVM_UNREGISTER_COALESCED_MMIO`.
///
/// # Errors
///
/// As [`coalesced::unregister`].
pub(super) fn unregister_coalesced(vm: &Vm, arg: usize) -> Result {
    coalesced::unregister(&vm.devices, &uapi::read(arg)?)
}
