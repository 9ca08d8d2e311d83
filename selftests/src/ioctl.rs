// SPDX-License-Identifier: GPL-2.0

//! The numbers of KVM's ioctls, and the call.
//!
//! The calls are made without a wrapper crate, since half of the tests pass what
//! no wrapper would let through.

use kvm_bindings::*;
use std::{
    mem::size_of,
    os::fd::{
        AsRawFd,
        RawFd, //
    }, //
};

/// What an ioctl returned, or its errno.
pub type Result<T = i32> = std::result::Result<T, i32>;

/// KVM's magic number.
const KVMIO: u64 = 0xae;

/// `_IO(KVMIO, nr)`.
pub const fn io(nr: u64) -> u64 {
    (KVMIO << 8) | nr
}

/// `_IOW(KVMIO, nr, T)`.
pub const fn iow<T>(nr: u64) -> u64 {
    (1 << 30) | ((size_of::<T>() as u64) << 16) | io(nr)
}

/// `_IOR(KVMIO, nr, T)`.
pub const fn ior<T>(nr: u64) -> u64 {
    (2 << 30) | ((size_of::<T>() as u64) << 16) | io(nr)
}

/// `_IOWR(KVMIO, nr, T)`.
pub const fn iowr<T>(nr: u64) -> u64 {
    (3 << 30) | ((size_of::<T>() as u64) << 16) | io(nr)
}

macro_rules! ioctls {
    ($($name:ident = $value:expr;)+) => {
        $(
            #[doc = concat!("`", stringify!($name), "`.")]
            pub const $name: u64 = $value;
        )+
    };
}

ioctls! {
    KVM_GET_API_VERSION = io(0x00);
    KVM_CREATE_VM = io(0x01);
    KVM_GET_MSR_INDEX_LIST = iowr::<kvm_msr_list>(0x02);
    KVM_CHECK_EXTENSION = io(0x03);
    KVM_GET_VCPU_MMAP_SIZE = io(0x04);
    KVM_GET_SUPPORTED_CPUID = iowr::<kvm_cpuid2>(0x05);
    KVM_HAS_DEVICE_ATTR = iow::<kvm_device_attr>(0xe3);
    KVM_GET_DEVICE_ATTR = iow::<kvm_device_attr>(0xe2);
    KVM_CREATE_DEVICE = iowr::<kvm_create_device>(0xe0);
    KVM_CREATE_VCPU = io(0x41);
    KVM_GET_DIRTY_LOG = iow::<kvm_dirty_log>(0x42);
    KVM_SET_USER_MEMORY_REGION = iow::<kvm_userspace_memory_region>(0x46);
    KVM_SET_TSS_ADDR = io(0x47);
    KVM_SET_IDENTITY_MAP_ADDR = iow::<u64>(0x48);
    KVM_CREATE_IRQCHIP = io(0x60);
    KVM_IRQ_LINE = iow::<kvm_irq_level>(0x61);
    KVM_GET_IRQCHIP = iowr::<kvm_irqchip>(0x62);
    KVM_SET_IRQCHIP = ior::<kvm_irqchip>(0x63);
    KVM_IRQ_LINE_STATUS = iowr::<kvm_irq_level>(0x67);
    KVM_REGISTER_COALESCED_MMIO = iow::<kvm_coalesced_mmio_zone>(0x67);
    KVM_UNREGISTER_COALESCED_MMIO = iow::<kvm_coalesced_mmio_zone>(0x68);
    KVM_SET_GSI_ROUTING = iow::<kvm_irq_routing>(0x6a);
    KVM_REINJECT_CONTROL = io(0x71);
    KVM_IRQFD = iow::<kvm_irqfd>(0x76);
    KVM_CREATE_PIT2 = iow::<kvm_pit_config>(0x77);
    KVM_IOEVENTFD = iow::<kvm_ioeventfd>(0x79);
    KVM_RUN = io(0x80);
    KVM_GET_REGS = ior::<kvm_regs>(0x81);
    KVM_SET_REGS = iow::<kvm_regs>(0x82);
    KVM_GET_SREGS = ior::<kvm_sregs>(0x83);
    KVM_SET_SREGS = iow::<kvm_sregs>(0x84);
    KVM_INTERRUPT = iow::<kvm_interrupt>(0x86);
    KVM_GET_MSRS = iowr::<kvm_msrs>(0x88);
    KVM_SET_MSRS = iow::<kvm_msrs>(0x89);
    KVM_SET_SIGNAL_MASK = iow::<kvm_signal_mask>(0x8b);
    KVM_GET_FPU = ior::<kvm_fpu>(0x8c);
    KVM_SET_FPU = iow::<kvm_fpu>(0x8d);
    KVM_SET_CPUID = iow::<kvm_cpuid>(0x8a);
    KVM_GET_LAPIC = ior::<kvm_lapic_state>(0x8e);
    KVM_SET_LAPIC = iow::<kvm_lapic_state>(0x8f);
    KVM_SET_CPUID2 = iow::<kvm_cpuid2>(0x90);
    KVM_GET_CPUID2 = iowr::<kvm_cpuid2>(0x91);
    KVM_TPR_ACCESS_REPORTING = iowr::<kvm_tpr_access_ctl>(0x92);
    KVM_SET_VAPIC_ADDR = iow::<kvm_vapic_addr>(0x93);
    KVM_GET_MP_STATE = ior::<kvm_mp_state>(0x98);
    KVM_SET_MP_STATE = iow::<kvm_mp_state>(0x99);
    KVM_NMI = io(0x9a);
    KVM_GET_VCPU_EVENTS = ior::<kvm_vcpu_events>(0x9f);
    KVM_SET_VCPU_EVENTS = iow::<kvm_vcpu_events>(0xa0);
    KVM_SMI = io(0xb7);
    KVM_GET_CLOCK = ior::<kvm_clock_data>(0x7c);
    KVM_GET_PIT2 = ior::<kvm_pit_state2>(0x9f);
    KVM_SET_PIT2 = iow::<kvm_pit_state2>(0xa0);
    KVM_GET_DEBUGREGS = ior::<kvm_debugregs>(0xa1);
    KVM_SET_DEBUGREGS = iow::<kvm_debugregs>(0xa2);
    KVM_GET_TSC_KHZ = io(0xa3);
    KVM_ENABLE_CAP = iow::<kvm_enable_cap>(0xa3);
    KVM_GET_XSAVE = ior::<[u8; 4096]>(0xa4);
    KVM_SET_XSAVE = iow::<[u8; 4096]>(0xa5);
    KVM_SIGNAL_MSI = iow::<kvm_msi>(0xa5);
    KVM_GET_XCRS = ior::<kvm_xcrs>(0xa6);
    KVM_SET_XCRS = iow::<kvm_xcrs>(0xa7);
    KVM_GET_ONE_REG = iow::<kvm_one_reg>(0xab);
    KVM_SET_ONE_REG = iow::<kvm_one_reg>(0xac);
    KVM_KVMCLOCK_CTRL = io(0xad);
    KVM_GET_REG_LIST = iowr::<u64>(0xb0);
    KVM_X86_SET_MSR_FILTER = iow::<kvm_msr_filter>(0xc6);
    KVM_GET_NESTED_STATE = iowr::<[u8; 128]>(0xbe);
    KVM_SET_NESTED_STATE = iow::<[u8; 128]>(0xbf);
    KVM_RESET_DIRTY_RINGS = io(0xc7);
    KVM_GET_STATS_FD = io(0xce);
}

/// Calls `ioctl(fd, request, arg)` with a plain number.
pub fn call(fd: RawFd, request: u64, arg: u64) -> Result {
    // SAFETY: Whatever `arg` is, the kernel must cope with it; pointers in it are
    // made by `call_with`, or are meant to be bad.
    match unsafe { libc::ioctl(fd, request as libc::Ioctl, arg) } {
        -1 => Err(errno()),
        value => Ok(value),
    }
}

/// Calls `ioctl(fd, request, arg)` with a pointer to `arg`.
pub fn call_with<T>(fd: RawFd, request: u64, arg: &mut T) -> Result {
    call(fd, request, std::ptr::from_mut(arg) as u64)
}

/// The calling thread's errno.
pub fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// What has a file descriptor to call.
pub trait Ioctl {
    /// The descriptor.
    fn raw(&self) -> RawFd;

    /// [`call`] on it.
    fn ioctl(&self, request: u64, arg: u64) -> Result {
        call(self.raw(), request, arg)
    }

    /// [`call_with`] on it; `arg` is taken by value when the answer is of no use.
    fn ioctl_with<T>(&self, request: u64, arg: &mut T) -> Result {
        call_with(self.raw(), request, arg)
    }
}

impl<T: AsRawFd> Ioctl for T {
    fn raw(&self) -> RawFd {
        self.as_raw_fd()
    }
}

/// A structure with a trailing array, as `KVM_GET_MSRS` and others take it: the
/// header, and room for `N` entries.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Flex<H, E, const N: usize> {
    /// The header, with its count.
    pub header: H,
    /// The entries.
    pub entries: [E; N],
}
