// SPDX-License-Identifier: GPL-2.0

//! The ioctls, and what their arguments are made of.

use kvm_bindings::*;
use std::mem::size_of;

use super::{
    arguments::*,
    rng::Rng,
    world::World, //
};
use crate::{
    ioctl::*,
    kvm::PAGE, //
};

/// What the argument of an ioctl is.
pub enum Arg {
    /// None: 0.
    None,
    /// A number.
    Number,
    /// A structure of so many bytes.
    Struct(usize),
    /// A structure of so many bytes, which another ioctl gives, then changed a little.
    Saved(u64, usize),
    /// A structure that this function writes.
    Made(fn(&mut Rng, &World, &mut [u8])),
}

/// An ioctl.
pub struct Call {
    /// Its name.
    pub name: &'static str,
    /// Its number.
    pub request: u64,
    /// Its argument.
    pub arg: Arg,
}

macro_rules! calls {
    ($($name:ident $request:expr, $arg:expr;)+) => {
        &[$(Call { name: stringify!($name), request: $request, arg: $arg }),+]
    };
}

/// The structure of a request.
const fn size_in(request: u64) -> Arg {
    Arg::Struct((request >> 16) as usize & 0x3fff)
}

/// What `get` gives.
const fn saved(get: u64) -> Arg {
    Arg::Saved(get, (get >> 16) as usize & 0x3fff)
}

/// The longest that an ioctl gives.
pub const LONG: usize = 3 * PAGE as usize;

const KVM_GET_XSAVE2: u64 = ior::<[u8; 4096]>(0xcf);
const KVM_GET_SREGS2: u64 = ior::<kvm_sregs2>(0xcc);
const KVM_GET_VCPU_EVENTS: u64 = ior::<kvm_vcpu_events>(0x9f);

/// Of `/dev/kvm`.
pub const SYSTEM: &[Call] = calls! {
    KVM_GET_API_VERSION KVM_GET_API_VERSION, Arg::None;
    KVM_CHECK_EXTENSION KVM_CHECK_EXTENSION, Arg::Number;
    KVM_GET_VCPU_MMAP_SIZE KVM_GET_VCPU_MMAP_SIZE, Arg::None;
    KVM_GET_MSR_INDEX_LIST KVM_GET_MSR_INDEX_LIST, Arg::Made(counted);
    KVM_GET_MSR_FEATURE_INDEX_LIST iowr::<kvm_msr_list>(0x0a), Arg::Made(counted);
    KVM_GET_SUPPORTED_CPUID KVM_GET_SUPPORTED_CPUID, Arg::Made(counted);
    KVM_GET_EMULATED_CPUID iowr::<kvm_cpuid2>(0x09), Arg::Made(counted);
    KVM_GET_MSRS KVM_GET_MSRS, Arg::Made(msrs);
    KVM_X86_GET_MCE_CAP_SUPPORTED ior::<u64>(0x9d), Arg::Struct(8);
    KVM_GET_DEVICE_ATTR iow::<kvm_device_attr>(0xe2), size_in(iow::<kvm_device_attr>(0));
};

/// Of a VM.
pub const VM: &[Call] = calls! {
    KVM_CHECK_EXTENSION KVM_CHECK_EXTENSION, Arg::Number;
    KVM_SET_USER_MEMORY_REGION KVM_SET_USER_MEMORY_REGION, Arg::Made(region);
    KVM_SET_USER_MEMORY_REGION KVM_SET_USER_MEMORY_REGION, Arg::Made(region);
    KVM_SET_USER_MEMORY_REGION2 iow::<kvm_userspace_memory_region2>(0x49), Arg::Made(region);
    KVM_GET_DIRTY_LOG KVM_GET_DIRTY_LOG, Arg::Made(dirty_log);
    KVM_CLEAR_DIRTY_LOG iowr::<kvm_clear_dirty_log>(0xc0), Arg::Made(clear_log);
    KVM_SET_TSS_ADDR KVM_SET_TSS_ADDR, Arg::Number;
    KVM_SET_IDENTITY_MAP_ADDR KVM_SET_IDENTITY_MAP_ADDR, Arg::Struct(8);
    KVM_SET_NR_MMU_PAGES io(0x44), Arg::Number;
    KVM_GET_NR_MMU_PAGES io(0x45), Arg::None;
    KVM_SET_BOOT_CPU_ID io(0x78), Arg::Number;
    KVM_ENABLE_CAP KVM_ENABLE_CAP, Arg::Made(enable_cap);
    KVM_SET_TSC_KHZ io(0xa2), Arg::Number;
    KVM_GET_TSC_KHZ KVM_GET_TSC_KHZ, Arg::None;
    KVM_SET_CLOCK iow::<kvm_clock_data>(0x7b), saved(KVM_GET_CLOCK);
    KVM_X86_SET_MSR_FILTER KVM_X86_SET_MSR_FILTER, Arg::Made(msr_filter);
    KVM_SET_GSI_ROUTING KVM_SET_GSI_ROUTING, Arg::Made(routing);
    KVM_SIGNAL_MSI KVM_SIGNAL_MSI, Arg::Made(msi);
    KVM_IRQFD KVM_IRQFD, Arg::Made(irqfd);
    KVM_IRQFD KVM_IRQFD, Arg::Made(irqfd);
    KVM_IOEVENTFD KVM_IOEVENTFD, Arg::Made(ioeventfd);
    KVM_IOEVENTFD KVM_IOEVENTFD, Arg::Made(ioeventfd);
    KVM_REGISTER_COALESCED_MMIO KVM_REGISTER_COALESCED_MMIO, Arg::Made(zone);
    KVM_UNREGISTER_COALESCED_MMIO KVM_UNREGISTER_COALESCED_MMIO, Arg::Made(zone);
    KVM_CREATE_IRQCHIP KVM_CREATE_IRQCHIP, Arg::None;
    KVM_SET_IRQCHIP KVM_SET_IRQCHIP, Arg::Saved(KVM_GET_IRQCHIP, size_of::<kvm_irqchip>());
    KVM_IRQ_LINE KVM_IRQ_LINE, Arg::Made(line);
    KVM_IRQ_LINE_STATUS KVM_IRQ_LINE_STATUS, Arg::Made(line);
    KVM_CREATE_PIT io(0x64), Arg::None;
    KVM_CREATE_PIT2 KVM_CREATE_PIT2, size_in(KVM_CREATE_PIT2);
    KVM_SET_PIT ior::<kvm_pit_state>(0x66), saved(iowr::<kvm_pit_state>(0x65));
    KVM_SET_PIT2 KVM_SET_PIT2, saved(KVM_GET_PIT2);
    KVM_REINJECT_CONTROL KVM_REINJECT_CONTROL, Arg::Struct(32);
    KVM_CREATE_DEVICE iowr::<kvm_create_device>(0xe0), Arg::Struct(12);
    KVM_SET_DEVICE_ATTR iow::<kvm_device_attr>(0xe1), size_in(iow::<kvm_device_attr>(0));
    KVM_MEMORY_ENCRYPT_OP iowr::<u64>(0xba), Arg::Struct(64);
    KVM_RESET_DIRTY_RINGS io(0xc7), Arg::None;
    KVM_SET_MEMORY_ATTRIBUTES iow::<kvm_memory_attributes>(0xd2), Arg::Made(attributes);
    KVM_XEN_HVM_CONFIG iow::<kvm_xen_hvm_config>(0x7a), size_in(iow::<kvm_xen_hvm_config>(0));
    KVM_XEN_HVM_SET_ATTR iow::<kvm_xen_hvm_attr>(0xc9), Arg::Saved(iowr::<kvm_xen_hvm_attr>(0xc8), 72);
    KVM_SET_PMU_EVENT_FILTER iow::<kvm_pmu_event_filter>(0xb2), Arg::Struct(64);
};

/// Of a vCPU.
pub const VCPU: &[Call] = calls! {
    KVM_SET_REGS KVM_SET_REGS, saved(KVM_GET_REGS);
    KVM_SET_SREGS KVM_SET_SREGS, saved(KVM_GET_SREGS);
    KVM_SET_SREGS2 iow::<kvm_sregs2>(0xcd), saved(KVM_GET_SREGS2);
    KVM_TRANSLATE iowr::<kvm_translation>(0x85), Arg::Struct(24);
    KVM_INTERRUPT KVM_INTERRUPT, Arg::Made(vector);
    KVM_GET_MSRS KVM_GET_MSRS, Arg::Made(msrs);
    KVM_SET_MSRS KVM_SET_MSRS, Arg::Made(msrs);
    KVM_SET_MSRS KVM_SET_MSRS, Arg::Made(msrs);
    KVM_SET_CPUID2 KVM_SET_CPUID2, Arg::Made(cpuid);
    KVM_GET_CPUID2 KVM_GET_CPUID2, Arg::Made(counted);
    KVM_SET_SIGNAL_MASK KVM_SET_SIGNAL_MASK, Arg::Made(signal_mask);
    KVM_SET_FPU KVM_SET_FPU, saved(KVM_GET_FPU);
    KVM_SET_LAPIC KVM_SET_LAPIC, saved(KVM_GET_LAPIC);
    KVM_SET_VAPIC_ADDR KVM_SET_VAPIC_ADDR, Arg::Struct(8);
    KVM_SET_MP_STATE KVM_SET_MP_STATE, Arg::Made(mp_state);
    KVM_NMI KVM_NMI, Arg::None;
    KVM_SMI io(0xb7), Arg::None;
    KVM_SET_GUEST_DEBUG iow::<kvm_guest_debug>(0x9b), Arg::Made(guest_debug);
    KVM_X86_SETUP_MCE iow::<u64>(0x9c), Arg::Struct(8);
    KVM_X86_SET_MCE iow::<kvm_x86_mce>(0x9e), Arg::Made(machine_check);
    KVM_SET_VCPU_EVENTS iow::<kvm_vcpu_events>(0xa0), saved(KVM_GET_VCPU_EVENTS);
    KVM_SET_VCPU_EVENTS iow::<kvm_vcpu_events>(0xa0), saved(KVM_GET_VCPU_EVENTS);
    KVM_SET_DEBUGREGS KVM_SET_DEBUGREGS, saved(KVM_GET_DEBUGREGS);
    KVM_SET_XSAVE KVM_SET_XSAVE, Arg::Saved(KVM_GET_XSAVE2, LONG);
    KVM_SET_XCRS KVM_SET_XCRS, saved(KVM_GET_XCRS);
    KVM_ENABLE_CAP KVM_ENABLE_CAP, Arg::Made(enable_cap);
    KVM_SET_TSC_KHZ io(0xa2), Arg::Number;
    KVM_GET_TSC_KHZ KVM_GET_TSC_KHZ, Arg::None;
    KVM_KVMCLOCK_CTRL io(0xad), Arg::None;
    KVM_SET_DEVICE_ATTR iow::<kvm_device_attr>(0xe1), Arg::Made(attribute);
    KVM_GET_DEVICE_ATTR iow::<kvm_device_attr>(0xe2), Arg::Made(attribute);
    KVM_SET_NESTED_STATE KVM_SET_NESTED_STATE, Arg::Saved(KVM_GET_NESTED_STATE, LONG);
    KVM_SET_NESTED_STATE KVM_SET_NESTED_STATE, Arg::Made(nested_state);
    KVM_PRE_FAULT_MEMORY iowr::<kvm_pre_fault_memory>(0xd5), Arg::Made(pre_fault);
    KVM_XEN_VCPU_SET_ATTR iow::<kvm_xen_vcpu_attr>(0xcb), Arg::Saved(iowr::<kvm_xen_vcpu_attr>(0xca), 72);
    KVM_TPR_ACCESS_REPORTING iowr::<kvm_tpr_access_ctl>(0x92), Arg::Struct(40);
};
