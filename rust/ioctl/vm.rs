// SPDX-License-Identifier: GPL-2.0

//! Ioctls of a VM's fd.

use crate::{
    arch::{
        tsc,
        vcpu::Vcpu,
        vm::Vm, //
    },
    ioctl::{
        caps,
        devices,
        enable_cap,
        irqchip,
        msrs,
        system::no_argument,
        vcpu::VcpuFile, //
    },
    vm::{
        stats::VmStats,
        vcpus::Added, //
    },
};
use burrow_core::{
    memslot::RawRegion,
    x86::pvclock::ClockData, //
};
use burrow_sys::{
    anon_fd::{
        self,
        FdOps, //
    },
    uapi::{
        self,
        *, //
    },
};
use kernel::{
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
};

/// A VM behind an fd.
pub(crate) struct VmFile {
    vm: Arc<Vm>,
}

impl VmFile {
    /// Wraps `vm`.
    pub(crate) fn new(vm: Arc<Vm>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { vm }, GFP_KERNEL_ACCOUNT)?)
    }
}

impl FdOps for VmFile {
    const NAME: &'static CStr = c"kvm-vm";

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        let vm = &this.vm;
        vm.check_caller()?;
        match cmd {
            KVM_CREATE_VCPU => create_vcpu(vm, arg),
            // CAST: the argument is an `int`.
            KVM_CHECK_EXTENSION => Ok(caps::check_vm(vm, arg as u32)),
            KVM_SET_USER_MEMORY_REGION => done(set_user_memory_region(vm, arg)),
            KVM_SET_USER_MEMORY_REGION2 => done(set_user_memory_region2(vm, arg)),
            KVM_GET_DIRTY_LOG => done(get_dirty_log(vm, &uapi::read(arg)?)),
            KVM_CLEAR_DIRTY_LOG => done(clear_dirty_log(vm, &uapi::read(arg)?)),
            KVM_RESET_DIRTY_RINGS => no_argument(arg)
                .and_then(|()| vm.reset_dirty_rings())
                .map(|count| count as isize),
            KVM_SET_TSS_ADDR => done(set_tss_addr(arg)),
            KVM_SET_IDENTITY_MAP_ADDR => done(set_identity_map_addr(vm, arg)),
            KVM_SET_NR_MMU_PAGES => done(set_nr_mmu_pages(arg)),
            KVM_SET_BOOT_CPU_ID => done(set_boot_cpu_id(vm, arg)),
            KVM_ENABLE_CAP => done(enable_cap::of_vm(vm, &uapi::read(arg)?)),
            KVM_SET_TSC_KHZ => done(set_tsc_khz(vm, arg)),
            KVM_GET_TSC_KHZ => Ok(tsc_khz(vm)),
            KVM_GET_CLOCK => done(get_clock(vm, arg)),
            KVM_SET_CLOCK => done(set_clock(vm, &uapi::read(arg)?)),
            KVM_X86_SET_MSR_FILTER => done(msrs::set_filter(vm, arg)),
            KVM_SET_GSI_ROUTING => done(devices::set_gsi_routing(vm, arg)),
            KVM_SIGNAL_MSI => devices::signal_msi(vm, arg),
            KVM_IRQFD => done(devices::irqfd(vm, arg)),
            KVM_IOEVENTFD => done(devices::set_ioeventfd(vm, arg)),
            KVM_REGISTER_COALESCED_MMIO => done(devices::register_coalesced(vm, arg)),
            KVM_UNREGISTER_COALESCED_MMIO => done(devices::unregister_coalesced(vm, arg)),
            KVM_CREATE_IRQCHIP => done(irqchip::create(vm)),
            KVM_GET_IRQCHIP => done(irqchip::get(vm, arg)),
            KVM_SET_IRQCHIP => done(irqchip::set(vm, &uapi::read(arg)?)),
            KVM_IRQ_LINE => done(irqchip::set_line(vm, &uapi::read(arg)?)),
            KVM_IRQ_LINE_STATUS => done(irqchip::set_line_status(vm, arg)),
            KVM_CREATE_PIT => done(irqchip::create_pit(vm, KVM_PIT_SPEAKER_DUMMY)),
            KVM_CREATE_PIT2 => done(irqchip::create_pit2(vm, &uapi::read(arg)?)),
            KVM_GET_PIT => done(irqchip::get_pit(vm, arg)),
            KVM_SET_PIT => done(irqchip::set_pit(vm, &uapi::read(arg)?)),
            KVM_GET_PIT2 => done(irqchip::get_pit2(vm, arg)),
            KVM_SET_PIT2 => done(irqchip::set_pit2(vm, &uapi::read(arg)?)),
            KVM_REINJECT_CONTROL => done(irqchip::control_reinject(vm, &uapi::read(arg)?)),
            KVM_CREATE_DEVICE => done(create_device(arg)),
            KVM_GET_STATS_FD => no_argument(arg).and_then(|()| VmStats::open(&vm.stats)),
            _ => Err(ENOTTY),
        }
    }

    fn release(this: Arc<Self>) {
        this.vm.irqfds.release();
    }
}

/// What an ioctl without a value returns.
pub(crate) fn done(result: Result) -> Result<isize> {
    result.map(|()| 0)
}

/// # Errors
///
/// `EINVAL` for an id that is too large or one vCPU too many, `EEXIST` for an id that is taken.
fn create_vcpu(vm: &Arc<Vm>, id: usize) -> Result<isize> {
    let id = u32::try_from(id).map_err(|_| EINVAL)?;
    // Serialises creations; what is set up before the first vCPU stays.
    let setup = vm.setup.lock();
    if id >= setup.nr_vcpu_ids() {
        return Err(EINVAL);
    }
    let Added { shared, before } = vm.vcpus.add(id)?;
    let made = match setup.ring {
        Some(size) => shared.make_ring(size),
        None => Ok(()),
    };
    let made = made
        .and_then(|()| Vcpu::new(vm.clone(), shared, &setup))
        .and_then(|vcpu| {
            let stats = vcpu.stats.clone();
            let made = anon_fd::create(VcpuFile::new(vcpu)?)?;
            // Last: they stay as long as the VM does.
            vm.counters.add(stats)?;
            Ok(made)
        });
    match made {
        Ok((reservation, file)) => {
            let fd = reservation.reserved_fd();
            reservation.fd_install(file);
            Ok(fd as isize)
        }
        Err(error) => {
            vm.vcpus.undo(before);
            Err(error)
        }
    }
}

/// Makes a device that is none of the interrupt controllers. There is none: the one that x86 knows tells
/// KVM of VFIO's groups, which matters to memory that is not coherent.
///
/// # Errors
///
/// `ENODEV` whatever the type.
fn create_device(arg: usize) -> Result {
    let _: kvm_create_device = uapi::read(arg)?;
    Err(ENODEV)
}

fn set_user_memory_region(vm: &Vm, arg: usize) -> Result {
    let region: kvm_userspace_memory_region = uapi::read(arg)?;
    if region.flags & !(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY) != 0 {
        return Err(EINVAL);
    }
    vm.memory_of(region.slot)?.set_region(&RawRegion {
        slot: region.slot,
        flags: region.flags,
        guest_phys_addr: region.guest_phys_addr,
        memory_size: region.memory_size,
        userspace_addr: region.userspace_addr,
    })
}

fn set_user_memory_region2(vm: &Vm, arg: usize) -> Result {
    let region: kvm_userspace_memory_region2 = uapi::read(arg)?;
    vm.memory_of(region.slot)?.set_region(&RawRegion {
        slot: region.slot,
        flags: region.flags,
        guest_phys_addr: region.guest_phys_addr,
        memory_size: region.memory_size,
        userspace_addr: region.userspace_addr,
    })
}

fn get_dirty_log(vm: &Vm, log: &kvm_dirty_log) -> Result {
    // SAFETY-free: the union holds an address either way.
    let to = burrow_sys::uapi::dirty_bitmap_address(log);
    vm.memory_of(log.slot)?.get_dirty_log(log.slot, to)
}

fn clear_dirty_log(vm: &Vm, log: &kvm_clear_dirty_log) -> Result {
    let from = burrow_sys::uapi::clear_bitmap_address(log);
    vm.memory_of(log.slot)?
        .clear_dirty_log(log.slot, log.first_page, log.num_pages, from)
}

/// Real mode runs on the processor, so the three pages that other hypervisors take for a task-state
/// segment are not needed; the address must be sane all the same.
fn set_tss_addr(address: usize) -> Result {
    const LAST: usize = 0xffff_ffff - 3 * 4096;
    if address > LAST {
        return Err(EINVAL);
    }
    Ok(())
}

/// As [`set_tss_addr`]: the page of identity mappings is not needed.
fn set_identity_map_addr(vm: &Vm, arg: usize) -> Result {
    let _address: u64 = uapi::read(arg)?;
    if vm.vcpus.len() != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

/// The fewest pages that `KVM_SET_NR_MMU_PAGES` takes.
const MIN_MMU_PAGES: usize = 64;

/// Page tables of EPT are as many as the mapped memory needs, and go with it: there is nothing to limit.
///
/// # Errors
///
/// `EINVAL` for too few.
fn set_nr_mmu_pages(pages: usize) -> Result {
    if pages < MIN_MMU_PAGES {
        return Err(EINVAL);
    }
    Ok(())
}

/// # Errors
///
/// `EINVAL` for an id that no vCPU of the VM can have, `EBUSY` once there is a vCPU.
fn set_boot_cpu_id(vm: &Vm, id: usize) -> Result {
    let mut setup = vm.setup.lock();
    if vm.vcpus.len() != 0 {
        return Err(EBUSY);
    }
    let id = u32::try_from(id).map_err(|_| EINVAL)?;
    if id >= setup.nr_vcpu_ids() {
        return Err(EINVAL);
    }
    setup.boot_cpu_id = id;
    Ok(())
}

fn get_clock(vm: &Vm, arg: usize) -> Result {
    let data = vm.clock();
    let raw = kvm_clock_data {
        clock: data.clock,
        flags: data.flags,
        realtime: data.realtime,
        host_tsc: data.host_tsc,
        ..kvm_clock_data::default()
    };
    uapi::write(arg, &raw)
}

/// # Errors
///
/// `EINVAL` for an unknown flag.
fn set_clock(vm: &Vm, raw: &kvm_clock_data) -> Result {
    vm.set_clock(&ClockData {
        clock: raw.clock,
        flags: raw.flags,
        realtime: raw.realtime,
        host_tsc: raw.host_tsc,
    })
}

/// Sets the frequency of the counters of vCPUs to come, in kHz; 0 for the host's.
///
/// # Errors
///
/// `EINVAL` for a frequency that the host cannot give, or where there is a vCPU.
fn set_tsc_khz(vm: &Vm, khz: usize) -> Result {
    let khz = u32::try_from(khz).map_err(|_| EINVAL)?;
    if khz != 0 {
        tsc::ratio_of(khz)?;
    }
    let mut setup = vm.setup.lock();
    if vm.vcpus.len() != 0 {
        return Err(EINVAL);
    }
    setup.tsc_khz = khz;
    Ok(())
}

fn tsc_khz(vm: &Vm) -> isize {
    let set = vm.setup.lock().tsc_khz;
    let khz = if set != 0 {
        set
    } else {
        crate::host::host().tsc_khz
    };
    khz as isize
}
