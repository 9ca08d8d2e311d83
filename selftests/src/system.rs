// SPDX-License-Identifier: GPL-2.0

//! Ioctls of `/dev/kvm` itself.

use kvm_bindings::*;
use libc::{
    E2BIG,
    EFAULT,
    EINVAL,
    ENODEV,
    ENXIO, //
};

use crate::{
    group,
    ioctl::*,
    kvm::*, //
};

group!("system":
    api_version_is_12,
    an_argument_where_none_belongs_is_refused,
    an_unknown_ioctl_is_refused,
    an_unknown_capability_is_0,
    the_mapping_of_a_vcpu_is_whole_pages,
    capabilities_of_the_first_tier_are_there,
    limits_are_sensible,
    supported_cpuid_wants_room,
    supported_cpuid_refuses_a_bad_pointer,
    msr_index_list_writes_the_count_back,
    every_feature_msr_can_be_read,
    an_attribute_says_what_xsave_can_have,
    an_unknown_attribute_is_refused,
    a_device_of_no_type_cannot_be_made,
);

fn api_version_is_12() {
    assert_eq!(open().ioctl(KVM_GET_API_VERSION, 0), Ok(12));
}

fn an_argument_where_none_belongs_is_refused() {
    for request in [KVM_GET_API_VERSION, KVM_GET_VCPU_MMAP_SIZE] {
        assert_eq!(open().ioctl(request, 1), Err(EINVAL));
    }
}

fn an_unknown_ioctl_is_refused() {
    let kvm = open();
    assert_eq!(kvm.ioctl(io(0xff), 0), Err(EINVAL));
    // A number of a VM's, and one of a vCPU's.
    assert_eq!(kvm.ioctl(KVM_CREATE_VCPU, 0), Err(EINVAL));
    assert_eq!(kvm.ioctl(KVM_RUN, 0), Err(EINVAL));
    // The right number with another size is another ioctl.
    assert_eq!(
        kvm.ioctl(KVM_GET_SUPPORTED_CPUID + (8 << 16), 0),
        Err(EINVAL)
    );
}

fn an_unknown_capability_is_0() {
    for cap in [99_999, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(open().ioctl(KVM_CHECK_EXTENSION, cap), Ok(0));
    }
}

fn the_mapping_of_a_vcpu_is_whole_pages() {
    let size = open().ioctl(KVM_GET_VCPU_MMAP_SIZE, 0).expect("size");
    assert!(size as usize >= size_of::<kvm_run>());
    assert_eq!(size % PAGE as i32, 0);
}

fn capabilities_of_the_first_tier_are_there() {
    let wanted = [
        (KVM_CAP_IRQCHIP, "IRQCHIP"),
        (KVM_CAP_USER_MEMORY, "USER_MEMORY"),
        (KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR"),
        (KVM_CAP_EXT_CPUID, "EXT_CPUID"),
        (KVM_CAP_SYNC_MMU, "SYNC_MMU"),
        (
            KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
            "DESTROY_MEMORY_REGION_WORKS",
        ),
        (
            KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
            "JOIN_MEMORY_REGIONS_WORKS",
        ),
        (KVM_CAP_INTERNAL_ERROR_DATA, "INTERNAL_ERROR_DATA"),
        (KVM_CAP_IRQ_ROUTING, "IRQ_ROUTING"),
        (KVM_CAP_IRQFD, "IRQFD"),
        (KVM_CAP_IOEVENTFD, "IOEVENTFD"),
        (KVM_CAP_IOEVENTFD_ANY_LENGTH, "IOEVENTFD_ANY_LENGTH"),
        (KVM_CAP_SIGNAL_MSI, "SIGNAL_MSI"),
        (KVM_CAP_READONLY_MEM, "READONLY_MEM"),
        (KVM_CAP_CHECK_EXTENSION_VM, "CHECK_EXTENSION_VM"),
        (KVM_CAP_ENABLE_CAP_VM, "ENABLE_CAP_VM"),
        (KVM_CAP_SPLIT_IRQCHIP, "SPLIT_IRQCHIP"),
        (KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT"),
        (KVM_CAP_GET_TSC_KHZ, "GET_TSC_KHZ"),
        (KVM_CAP_TSC_DEADLINE_TIMER, "TSC_DEADLINE_TIMER"),
    ];
    for (cap, name) in wanted {
        assert!(capability(cap) > 0, "no KVM_CAP_{name}");
    }
    // crosvm compares these with 1.
    for cap in [
        KVM_CAP_READONLY_MEM,
        KVM_CAP_TSC_DEADLINE_TIMER,
        KVM_CAP_IMMEDIATE_EXIT,
    ] {
        assert_eq!(capability(cap), 1);
    }
}

fn limits_are_sensible() {
    let recommended = capability(KVM_CAP_NR_VCPUS);
    let max = capability(KVM_CAP_MAX_VCPUS);
    let max_id = capability(KVM_CAP_MAX_VCPU_ID);
    assert!(recommended >= 1 && max >= recommended && max_id >= max);
    // SAFETY: Asks for a number.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    assert_eq!(i64::from(recommended), online);
    assert!(capability(KVM_CAP_NR_MEMSLOTS) >= 509);
}

fn supported_cpuid_wants_room() {
    let kvm = open();
    let mut cpuid = cpuid_room(1);
    assert_eq!(
        kvm.ioctl_with(KVM_GET_SUPPORTED_CPUID, &mut cpuid),
        Err(E2BIG)
    );
    // A count beyond the kernel's own limit is taken as the limit.
    let mut cpuid = cpuid_room(256);
    assert_eq!(kvm.ioctl_with(KVM_GET_SUPPORTED_CPUID, &mut cpuid), Ok(0));
    // kvmtool has room for 100 entries.
    assert!(
        (10..=100).contains(&cpuid.header.nent),
        "{}",
        cpuid.header.nent
    );
    assert!(cpuid.find(0, 0).is_some_and(|leaf| leaf.eax >= 7));
}

fn supported_cpuid_refuses_a_bad_pointer() {
    assert_eq!(open().ioctl(KVM_GET_SUPPORTED_CPUID, 0), Err(EFAULT));
    assert_eq!(
        open().ioctl(KVM_GET_SUPPORTED_CPUID, u64::MAX - 0xfff),
        Err(EFAULT)
    );
    assert_eq!(open().ioctl(KVM_GET_MSR_INDEX_LIST, 0), Err(EFAULT));
}

fn msr_index_list_writes_the_count_back() {
    let mut list = Flex {
        header: kvm_msr_list {
            nmsrs: 0,
            ..Default::default()
        },
        entries: [0u32; 256],
    };
    let kvm = open();
    assert_eq!(
        kvm.ioctl_with(KVM_GET_MSR_INDEX_LIST, &mut list),
        Err(E2BIG)
    );
    let count = list.header.nmsrs;
    // Cloud Hypervisor adds 28 to them and passes all to one KVM_GET_MSRS.
    assert!((1..228).contains(&count), "{count} MSRs");
    list.header.nmsrs = 256;
    assert_eq!(kvm.ioctl_with(KVM_GET_MSR_INDEX_LIST, &mut list), Ok(0));
    assert_eq!(list.header.nmsrs, count);
    // IA32_TIME_STAMP_COUNTER, IA32_STAR, IA32_KERNEL_GS_BASE.
    for wanted in [0x10, 0xc000_0081, 0xc000_0102] {
        assert!(
            list.entries[..count as usize].contains(&wanted),
            "{wanted:#x}"
        );
    }
}

fn every_feature_msr_can_be_read() {
    require(KVM_CAP_GET_MSR_FEATURES, "KVM_CAP_GET_MSR_FEATURES");
    let mut list = Flex {
        header: kvm_msr_list {
            nmsrs: 256,
            ..Default::default()
        },
        entries: [0u32; 256],
    };
    let kvm = open();
    let request = KVM_GET_MSR_INDEX_LIST + 8; // KVM_GET_MSR_FEATURE_INDEX_LIST.
    assert_eq!(kvm.ioctl_with(request, &mut list), Ok(0));
    for index in &list.entries[..list.header.nmsrs as usize] {
        let mut msr = one_msr(*index, 0);
        assert_eq!(kvm.ioctl_with(KVM_GET_MSRS, &mut msr), Ok(1), "{index:#x}");
    }
}

fn attribute(group: u32, attr: u64, value: &mut u64) -> kvm_device_attr {
    kvm_device_attr {
        group,
        attr,
        addr: std::ptr::from_mut(value) as u64,
        ..Default::default()
    }
}

fn an_attribute_says_what_xsave_can_have() {
    require(KVM_CAP_SYS_ATTRIBUTES, "KVM_CAP_SYS_ATTRIBUTES");
    let kvm = open();
    let mut xcr0 = 0;
    let mut attr = attribute(0, 0, &mut xcr0);
    assert_eq!(kvm.ioctl_with(KVM_HAS_DEVICE_ATTR, &mut attr), Ok(0));
    assert_eq!(kvm.ioctl_with(KVM_GET_DEVICE_ATTR, &mut attr), Ok(0));
    let mut cpuid = supported_cpuid();
    let leaf = cpuid.find(0xd, 0).expect("leaf 0DH");
    assert_eq!(xcr0, u64::from(leaf.eax) | (u64::from(leaf.edx) << 32));
}

fn an_unknown_attribute_is_refused() {
    require(KVM_CAP_SYS_ATTRIBUTES, "KVM_CAP_SYS_ATTRIBUTES");
    let kvm = open();
    let mut value = 0;
    for (group, attr) in [(0, 99), (99, 0)] {
        let mut attr = attribute(group, attr, &mut value);
        assert_eq!(kvm.ioctl_with(KVM_HAS_DEVICE_ATTR, &mut attr), Err(ENXIO));
        assert_eq!(kvm.ioctl_with(KVM_GET_DEVICE_ATTR, &mut attr), Err(ENXIO));
    }
}

fn a_device_of_no_type_cannot_be_made() {
    let vm = Vm::new();
    for flags in [0, KVM_CREATE_DEVICE_TEST] {
        let mut device = kvm_create_device {
            type_: 0xffff,
            flags,
            ..Default::default()
        };
        assert_eq!(vm.ioctl_with(KVM_CREATE_DEVICE, &mut device), Err(ENODEV));
    }
}
