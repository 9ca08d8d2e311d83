// SPDX-License-Identifier: GPL-2.0

//! The virtual machine: `/dev/kvm`, the VM's file descriptor and its irqchip.

use anyhow::{
    bail,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_enable_cap,
    kvm_userspace_memory_region,
    KVM_API_VERSION,
    KVM_CAP_SPLIT_IRQCHIP, //
};
use kvm_ioctls::{
    Cap,
    Kvm,
    VmFd, //
};
use std::sync::Arc;
use vm_memory::{
    Address,
    GuestMemory,
    GuestMemoryMmap,
    GuestMemoryRegion, //
};

use crate::ioapic;

/// Three pages below 4 GiB that KVM may need for itself on CPUs that cannot run
/// real mode. They must be set, and must lie where the guest has no memory.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// One more such page, for an identity-mapped page table.
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;

/// What the program asks of KVM before it starts; by name, so that a missing
/// one can be told to the user.
const REQUIRED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
];

/// A virtual machine with memory and local APICs, without vCPUs.
pub struct Vm {
    /// The system-wide file descriptor.
    pub kvm: Kvm,
    /// The VM's file descriptor, which the interrupt controller shares.
    pub fd: Arc<VmFd>,
}

impl Vm {
    /// Opens `/dev/kvm` and creates a VM that sees `memory`.
    ///
    /// The order matters: `KVM_SET_IDENTITY_MAP_ADDR` and the irqchip come
    /// before the first vCPU; memory may come at any time.
    pub fn new(memory: &GuestMemoryMmap) -> Result<Self> {
        let kvm = Kvm::new().context("cannot open /dev/kvm")?;
        if kvm.get_api_version() != KVM_API_VERSION as i32 {
            bail!("/dev/kvm speaks another version of the API");
        }
        for (cap, name) in REQUIRED {
            if !kvm.check_extension(*cap) {
                bail!("this kernel's KVM lacks {name}");
            }
        }
        let fd = kvm.create_vm().context("KVM_CREATE_VM")?;
        fd.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .context("KVM_SET_IDENTITY_MAP_ADDR")?;
        fd.set_tss_address(TSS_ADDRESS)
            .context("KVM_SET_TSS_ADDR")?;
        let mut split = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            ..Default::default()
        };
        // The kernel reserves the first GSIs for our I/O APIC, and tells us of
        // the EOI of a level-triggered one.
        split.args[0] = ioapic::PINS as u64;
        fd.enable_cap(&split).context("KVM_CAP_SPLIT_IRQCHIP")?;
        map(&fd, memory)?;
        Ok(Self {
            kvm,
            fd: Arc::new(fd),
        })
    }
}

/// Gives the VM one memory slot for each region.
fn map(fd: &VmFd, memory: &GuestMemoryMmap) -> Result<()> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let host = memory.get_host_address(region.start_addr())?;
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        // SAFETY: The range is a mapping of `memory`, which `main` keeps until
        // every vCPU thread has ended.
        unsafe { fd.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")?;
    }
    Ok(())
}
