// SPDX-License-Identifier: GPL-2.0

//! `KVM_CHECK_EXTENSION`.

use crate::{
    arch::{
        mmu::{
            MANUAL_PROTECT_ENABLE,
            MANUAL_PROTECT_INITIALLY_SET,
            NR_ADDRESS_SPACES, //
        },
        options::Quirk,
        tsc,
        vm::{
            IrqChip,
            Vm, //
        },
    },
    host::host,
    ioctl::{
        enable_cap::X2APIC_API,
        sync_regs, //
    },
    vm::vcpus::{
        MAX_VCPUS,
        MAX_VCPU_ID, //
    },
};
use burrow_core::{
    dirty::ring::{
        ENTRY_SIZE,
        MAX_ENTRIES, //
    },
    irqroute, memslot,
    x86::{
        irqchip::lapic_timer::BusCycle,
        msr::mce,
        nested::save,
        pvclock::KVM_CLOCK_VALID_FLAGS, //
        regs::guest_debug::Control,
    },
};
use burrow_sys::{
    context,
    params,
    uapi::*, //
};

/// The size of the largest dirty ring.
const MAX_RING_BYTES: u32 = MAX_ENTRIES * ENTRY_SIZE;

/// Returns what `KVM_CHECK_EXTENSION` answers for `cap` on any fd: 0 for what does not work.
pub(crate) fn check(cap: u32) -> isize {
    let value = match cap {
        KVM_CAP_USER_MEMORY
        | KVM_CAP_USER_MEMORY2
        | KVM_CAP_DESTROY_MEMORY_REGION_WORKS
        | KVM_CAP_JOIN_MEMORY_REGIONS_WORKS
        | KVM_CAP_SYNC_MMU
        | KVM_CAP_READONLY_MEM
        | KVM_CAP_CHECK_EXTENSION_VM
        | KVM_CAP_IMMEDIATE_EXIT
        | KVM_CAP_INTERNAL_ERROR_DATA
        | KVM_CAP_EXT_CPUID
        | KVM_CAP_HLT
        | KVM_CAP_NOP_IO_DELAY
        | KVM_CAP_SET_TSS_ADDR
        | KVM_CAP_SET_IDENTITY_MAP_ADDR
        | KVM_CAP_MP_STATE
        | KVM_CAP_VCPU_EVENTS
        | KVM_CAP_DEBUGREGS
        | KVM_CAP_XSAVE
        | KVM_CAP_XCRS
        | KVM_CAP_USER_NMI
        | KVM_CAP_GET_TSC_KHZ
        | KVM_CAP_ENABLE_CAP_VM
        | KVM_CAP_GET_MSR_FEATURES
        | KVM_CAP_X86_USER_SPACE_MSR
        | KVM_CAP_X86_MSR_FILTER
        | KVM_CAP_SET_BOOT_CPU_ID
        | KVM_CAP_IRQCHIP
        | KVM_CAP_SPLIT_IRQCHIP
        | KVM_CAP_IRQFD
        | KVM_CAP_IRQFD_RESAMPLE
        | KVM_CAP_IRQ_INJECT_STATUS
        | KVM_CAP_PIT
        | KVM_CAP_PIT2
        | KVM_CAP_PIT_STATE2
        | KVM_CAP_REINJECT_CONTROL
        | KVM_CAP_VAPIC
        | KVM_CAP_X86_ROBUST_SINGLESTEP
        | KVM_CAP_IOEVENTFD
        | KVM_CAP_IOEVENTFD_ANY_LENGTH
        | KVM_CAP_IOEVENTFD_NO_LENGTH
        | KVM_CAP_COALESCED_PIO
        | KVM_CAP_SIGNAL_MSI
        | KVM_CAP_BINARY_STATS_FD
        | KVM_CAP_ENABLE_CAP
        | KVM_CAP_SREGS2
        | KVM_CAP_VCPU_ATTRIBUTES
        | KVM_CAP_SET_GUEST_DEBUG
        | KVM_CAP_ENFORCE_PV_FEATURE_CPUID
        | KVM_CAP_X86_SMM
        | KVM_CAP_X86_GUEST_MODE
        | KVM_CAP_MSR_PLATFORM_INFO
        | KVM_CAP_EXCEPTION_PAYLOAD
        | KVM_CAP_X86_TRIPLE_FAULT_EVENT
        | KVM_CAP_EXIT_ON_EMULATION_FAILURE
        | KVM_CAP_DISABLE_QUIRKS
        | KVM_CAP_MMU_SHADOW_CACHE_CONTROL
        | KVM_CAP_STEAL_TIME
        | KVM_CAP_KVMCLOCK_CTRL
        | KVM_CAP_SYS_ATTRIBUTES
        | KVM_CAP_DEVICE_CTRL
        | KVM_CAP_ONE_REG
        | KVM_CAP_PRE_FAULT_MEMORY
        | KVM_CAP_TSC_DEADLINE_TIMER => 1,
        KVM_CAP_DIRTY_LOG_RING | KVM_CAP_DIRTY_LOG_RING_ACQ_REL => MAX_RING_BYTES,
        KVM_CAP_DISABLE_QUIRKS2 => Quirk::ALL,
        KVM_CAP_SET_GUEST_DEBUG2 => Control::ALL,
        KVM_CAP_TSC_CONTROL | KVM_CAP_VM_TSC_CONTROL => u32::from(tsc::has_scaling()),
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => MANUAL_PROTECT_ENABLE | MANUAL_PROTECT_INITIALLY_SET,
        // CAST: 1.
        KVM_CAP_X86_APIC_BUS_CYCLES_NS => BusCycle::default().ns() as u32,
        KVM_CAP_SYNC_REGS => sync_regs::VALID,
        KVM_CAP_X2APIC_API => X2APIC_API,
        KVM_CAP_MCE => mce::MAX_BANKS as u32,
        KVM_CAP_NR_VCPUS => context::nr_online_cpus(),
        KVM_CAP_MAX_VCPUS => MAX_VCPUS as u32,
        KVM_CAP_MAX_VCPU_ID => MAX_VCPU_ID,
        KVM_CAP_NR_MEMSLOTS => u32::from(memslot::MAX_USER_SLOTS),
        KVM_CAP_MULTI_ADDRESS_SPACE => u32::from(NR_ADDRESS_SPACES),
        KVM_CAP_VM_TYPES => 1 << KVM_X86_DEFAULT_VM,
        KVM_CAP_COALESCED_MMIO => KVM_COALESCED_MMIO_PAGE_OFFSET,
        KVM_CAP_IRQ_ROUTING => irqroute::KVM_MAX_IRQ_ROUTES as u32,
        KVM_CAP_ADJUST_CLOCK => KVM_CLOCK_VALID_FLAGS,
        KVM_CAP_XSAVE2 => xsave_size(),
        KVM_CAP_NESTED_STATE if params::nested() => save::MAX_SIZE as u32,
        _ => 0,
    };
    value as isize
}

/// Returns what `KVM_CHECK_EXTENSION` answers for `cap` on the fd of `vm`.
pub(crate) fn check_vm(vm: &Vm, cap: u32) -> isize {
    match cap {
        KVM_CAP_X86_APIC_BUS_CYCLES_NS => vm.setup.lock().bus_cycle.ns() as isize,
        KVM_CAP_X2APIC_API if vm.irqchip() == IrqChip::Full => {
            (X2APIC_API & !KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST) as isize
        }
        _ => check(cap),
    }
}

/// The size in bytes of the buffer that `KVM_GET_XSAVE2` fills: at least a page.
fn xsave_size() -> u32 {
    let _ = host();
    burrow_sys::fpu::uabi_size().max(4096)
}
