// SPDX-License-Identifier: GPL-2.0

//! `KVM_ENABLE_CAP`.

use crate::{
    arch::{
        cpu::Cpu,
        options::{
            Quirk,
            EOI_BROADCASTS, //
        },
        vm::{
            IrqChip,
            Setup,
            Vm, //
        },
    },
    host::host,
    vm::{
        ring::RingSize,
        vcpus::MAX_VCPU_ID, //
    },
};
use burrow_core::x86::{
    cpuid::guest::ParavirtRule,
    irqchip::{
        apic_dest::BroadcastQuirk,
        lapic_timer::BusCycle,
        msi::MsiFormat, //
    },
    vmx::pml,
};
use burrow_sys::uapi::*;
use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

/// The most routes that userspace can reserve for its I/O APIC: the size of the routing table.
const MAX_RESERVED_ROUTES: u32 = 4096;
/// The reasons for which userspace can ask to see an MSR access.
const MSR_EXIT_REASONS: u32 =
    KVM_MSR_EXIT_REASON_INVAL | KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER;
/// The flags of `KVM_CAP_X2APIC_API`.
pub(super) const X2APIC_API: u32 =
    KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK | EOI_BROADCASTS;

/// `KVM_ENABLE_CAP` on a VM.
///
/// # Errors
///
/// `EINVAL` for an unknown capability, flag or argument; `EEXIST` where it is too late.
pub(super) fn of_vm(vm: &Vm, cap: &kvm_enable_cap) -> Result {
    if cap.flags != 0 {
        return Err(EINVAL);
    }
    let argument = cap.args[0];
    let options = &vm.options;
    let mut setup = vm.setup.lock();
    match cap.cap {
        KVM_CAP_SPLIT_IRQCHIP => split_irqchip(vm, &mut setup, argument)?,
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => set_manual_protect(vm, argument)?,
        KVM_CAP_DIRTY_LOG_RING | KVM_CAP_DIRTY_LOG_RING_ACQ_REL => {
            enable_dirty_ring(vm, &mut setup, argument)?;
        }
        KVM_CAP_X86_APIC_BUS_CYCLES_NS => set_bus_cycle(vm, &mut setup, argument)?,
        KVM_CAP_MAX_VCPU_ID => set_vcpu_id_limit(&mut setup, argument)?,
        KVM_CAP_DISABLE_QUIRKS2 => options.disable_quirks(flags(argument, Quirk::ALL)?),
        // CAST: an unknown quirk is off already.
        KVM_CAP_DISABLE_QUIRKS => options.disable_quirks(argument as u32 & Quirk::ALL),
        KVM_CAP_X2APIC_API => enable_x2apic_api(vm, &setup, flags(argument, X2APIC_API)?)?,
        KVM_CAP_X86_USER_SPACE_MSR => {
            options
                .user_space_msr
                .store(flags(argument, MSR_EXIT_REASONS)?, Relaxed);
        }
        KVM_CAP_MSR_PLATFORM_INFO => options.platform_info.store(argument != 0, Relaxed),
        KVM_CAP_EXCEPTION_PAYLOAD => options.exception_payload.store(argument != 0, Relaxed),
        KVM_CAP_X86_TRIPLE_FAULT_EVENT => options.triple_fault_event.store(argument != 0, Relaxed),
        KVM_CAP_EXIT_ON_EMULATION_FAILURE => {
            options
                .exit_on_emulation_failure
                .store(flags(argument, 1)? != 0, Relaxed);
        }
        _ => return Err(EINVAL),
    }
    Ok(())
}

/// `KVM_ENABLE_CAP` on a vCPU.
///
/// # Errors
///
/// `EINVAL` for an unknown capability or flag.
pub(super) fn of_vcpu(cpu: &mut Cpu<'_>, cap: &kvm_enable_cap) -> Result {
    if cap.flags != 0 {
        return Err(EINVAL);
    }
    match cap.cap {
        KVM_CAP_ENFORCE_PV_FEATURE_CPUID => {
            cpu.arch.cpuid.set_paravirt_rule(match cap.args[0] {
                0 => ParavirtRule::Lax,
                _ => ParavirtRule::Enforced,
            });
            Ok(())
        }
        _ => Err(EINVAL),
    }
}

/// Returns `argument` as flags of `known`.
///
/// # Errors
///
/// `EINVAL` for others.
fn flags(argument: u64, known: u32) -> Result<u32> {
    let flags = u32::try_from(argument).map_err(|_| EINVAL)?;
    if flags & !known != 0 {
        return Err(EINVAL);
    }
    Ok(flags)
}

/// # Errors
///
/// `EINVAL` for more routes than there are, `EEXIST` with a controller or a vCPU.
fn split_irqchip(vm: &Vm, setup: &mut Setup, argument: u64) -> Result {
    let reserved_routes = u32::try_from(argument).map_err(|_| EINVAL)?;
    if reserved_routes > MAX_RESERVED_ROUTES {
        return Err(EINVAL);
    }
    if setup.irqchip != IrqChip::None || vm.vcpus.len() != 0 {
        return Err(EEXIST);
    }
    setup.irqchip = IrqChip::Split { reserved_routes };
    Ok(())
}

/// # Errors
///
/// `EINVAL` for a limit of none or too many, below the boot processor's id, or other than the one set
/// before.
fn set_vcpu_id_limit(setup: &mut Setup, argument: u64) -> Result {
    let limit = u32::try_from(argument).map_err(|_| EINVAL)?;
    if limit == 0 || limit > MAX_VCPU_ID || setup.boot_cpu_id > limit {
        return Err(EINVAL);
    }
    if setup.vcpu_id_limit != 0 && setup.vcpu_id_limit != limit {
        return Err(EINVAL);
    }
    setup.vcpu_id_limit = limit;
    Ok(())
}

/// # Errors
///
/// `EINVAL` for a size that no ring can have, a second one, or with a vCPU; `E2BIG` for one that is too
/// large.
fn enable_dirty_ring(vm: &Vm, setup: &mut Setup, bytes: u64) -> Result {
    let bytes = u32::try_from(bytes).map_err(|_| EINVAL)?;
    let nr_logged_by_cpu = match host().ctls.has_pml() {
        true => pml::NR_ENTRIES,
        false => 0,
    };
    let size = RingSize::new(bytes, nr_logged_by_cpu)?;
    if setup.ring.is_some() || vm.vcpus.len() != 0 {
        return Err(EINVAL);
    }
    setup.ring = Some(size);
    vm.log_in_rings();
    Ok(())
}

/// # Errors
///
/// `EINVAL` for flags that do not exist or go together.
fn set_manual_protect(vm: &Vm, flags: u64) -> Result {
    vm.memory.set_manual_protect(flags)?;
    match vm.smram_if_made() {
        Some(smram) => smram.set_manual_protect(flags),
        None => Ok(()),
    }
}

/// # Errors
///
/// `ENXIO` without local APICs in the kernel; `EINVAL` with a vCPU, or for a cycle that a timer cannot
/// count.
fn set_bus_cycle(vm: &Vm, setup: &mut Setup, ns: u64) -> Result {
    let cycle = BusCycle::new(ns).ok_or(EINVAL)?;
    if setup.irqchip == IrqChip::None {
        return Err(ENXIO);
    }
    if vm.vcpus.len() != 0 {
        return Err(EINVAL);
    }
    setup.bus_cycle = cycle;
    Ok(())
}

/// # Errors
///
/// `EINVAL` to let guests keep EOIs and not, and to let them where the kernel has the I/O APIC, which
/// has no register that they could be written to instead.
fn enable_x2apic_api(vm: &Vm, setup: &Setup, flags: u32) -> Result {
    let suppresses = flags & KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST != 0;
    let is_split = matches!(setup.irqchip, IrqChip::Split { .. });
    if flags & EOI_BROADCASTS == EOI_BROADCASTS || (suppresses && !is_split) {
        return Err(EINVAL);
    }
    vm.options.add_x2apic_api(flags);
    let format = match flags & KVM_X2APIC_API_USE_32BIT_IDS {
        0 => MsiFormat::Plain,
        _ => MsiFormat::X2Apic,
    };
    let quirk = match flags & KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK {
        0 => BroadcastQuirk::Enabled,
        _ => BroadcastQuirk::Disabled,
    };
    vm.apics.enable_x2apic_api(format, quirk);
    Ok(())
}
