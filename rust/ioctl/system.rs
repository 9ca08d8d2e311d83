// SPDX-License-Identifier: GPL-2.0

//! Ioctls of `/dev/kvm`.

use crate::{
    arch::vm::Vm,
    ioctl::{
        attr,
        caps,
        cpuid,
        msrs,
        vm::VmFile, //
    },
};
use burrow_core::x86::msr::mce::capability::SUPPORTED;
use burrow_sys::{
    anon_fd,
    uapi::{
        self,
        *, //
    },
};
use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*, //
};

/// How `/dev/kvm` is registered.
pub(crate) const OPTIONS: MiscDeviceOptions = MiscDeviceOptions { name: c"kvm" };

/// An open `/dev/kvm`; it has no state.
pub(crate) struct KvmDevice;

#[vtable]
impl MiscDevice for KvmDevice {
    type Ptr = KBox<KvmDevice>;
    type OwnerModule = crate::Burrow;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        Ok(KBox::new(KvmDevice, GFP_KERNEL)?)
    }

    fn ioctl(_device: &Self, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        ioctl(cmd, arg)
    }
}

fn ioctl(cmd: u32, arg: usize) -> Result<isize> {
    match cmd {
        KVM_GET_API_VERSION => no_argument(arg).map(|()| KVM_API_VERSION as isize),
        KVM_CREATE_VM => create_vm(arg),
        // CAST: the argument is an `int`.
        KVM_CHECK_EXTENSION => Ok(caps::check(arg as u32)),
        KVM_GET_VCPU_MMAP_SIZE => no_argument(arg).map(|()| VCPU_MMAP_SIZE),
        KVM_GET_SUPPORTED_CPUID => cpuid::get_supported(arg),
        KVM_GET_EMULATED_CPUID => cpuid::get_emulated(arg),
        KVM_GET_MSR_INDEX_LIST => msrs::index_list(arg),
        KVM_GET_MSR_FEATURE_INDEX_LIST => msrs::feature_index_list(arg),
        KVM_GET_MSRS => msrs::get_feature_msrs(arg),
        KVM_X86_GET_MCE_CAP_SUPPORTED => uapi::write(arg, &SUPPORTED).map(|()| 0),
        KVM_HAS_DEVICE_ATTR => uapi::read(arg).and_then(|a| attr::of_system(&a)).map(|_| 0),
        KVM_GET_DEVICE_ATTR => uapi::read(arg).and_then(|a| attr::get_of_system(&a)),
        _ => Err(EINVAL),
    }
}

/// The size in bytes of what is mapped from a vCPU: `struct kvm_run`, PIO data, the coalesced ring.
const VCPU_MMAP_SIZE: isize = 3 * 4096;

/// # Errors
///
/// `EINVAL` for an argument other than 0.
pub(crate) fn no_argument(arg: usize) -> Result {
    if arg == 0 {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// # Errors
///
/// `EINVAL` for a type other than 0.
fn create_vm(kind: usize) -> Result<isize> {
    no_argument(kind)?;
    let vm = Vm::new()?;
    let (reservation, file) = anon_fd::create(VmFile::new(vm.clone())?)?;
    let fd = reservation.reserved_fd();
    vm.show_stats(fd)?;
    reservation.fd_install(file);
    Ok(fd as isize)
}
