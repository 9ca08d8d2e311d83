// SPDX-License-Identifier: GPL-2.0

//! Ioctls of a vCPU's fd.

use crate::{
    arch::{
        cpu::Cpu,
        state::MpState,
        vcpu::Vcpu, //
    },
    ioctl::{
        attr,
        cpuid,
        enable_cap,
        events,
        mce,
        msrs,
        pre_fault,
        regs,
        sync_regs,
        system::no_argument,
        vm::done, //
    },
    run,
    vm::{
        ring::{
            self,
            DirtyRing, //
        },
        stats::VcpuStats, //
    },
};
use burrow_core::{
    addr::Gva,
    x86::{
        regs::guest_debug::Control,
        walk::{
            Kind,
            Privilege, //
        },
    },
};
use burrow_sys::{
    anon_fd::FdOps,
    context::SignalMask,
    run_page,
    uapi::{
        self,
        *, //
    },
};
use kernel::{
    mm::virt::{
        self,
        VmaNew, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
};

/// A vCPU behind an fd.
pub(crate) struct VcpuFile {
    vcpu: Arc<Vcpu>,
}

impl VcpuFile {
    /// Wraps `vcpu`.
    pub(crate) fn new(vcpu: Arc<Vcpu>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { vcpu }, GFP_KERNEL_ACCOUNT)?)
    }
}

impl FdOps for VcpuFile {
    const NAME: &'static CStr = c"kvm-vcpu";

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        let vcpu = &*this.vcpu;
        vcpu.vm.check_caller()?;
        if cmd == KVM_GET_STATS_FD {
            no_argument(arg)?;
            return VcpuStats::open(&vcpu.stats);
        }
        let mut inner = vcpu.lock()?;
        let _loaded = vcpu.shared.loaded();
        let mut cpu = Cpu::load(vcpu, &mut inner);
        cpu.check_vmcs()?;
        let result = dispatch(&mut cpu, cmd, arg);
        // Registers may have been read or written that are in the VMCS.
        cpu.check_vmcs()?;
        result
    }

    fn mmap(this: ArcBorrow<'_, Self>, vma: &VmaNew) -> Result {
        let pages = &this.vcpu.pages;
        let ring = this.vcpu.shared.ring();
        if run_page::first_page(vma) >= ring::PAGE_OFFSET && ring.is_some() {
            check_ring_mapping(vma)?;
        }
        let fixed = [&pages.run, &pages.pio, this.vcpu.vm.coalesced.page()];
        let ring = ring.into_iter().flat_map(DirtyRing::pages);
        run_page::map(vma, Iterator::chain((0..).zip(fixed), ring))
    }
}

/// # Errors
///
/// `EINVAL` for a mapping of the dirty ring that is private or can be executed.
fn check_ring_mapping(vma: &VmaNew) -> Result {
    let flags = vma.flags();
    if flags & virt::flags::EXEC != 0 || flags & virt::flags::SHARED == 0 {
        return Err(EINVAL);
    }
    Ok(())
}

fn dispatch(cpu: &mut Cpu<'_>, cmd: u32, arg: usize) -> Result<isize> {
    match cmd {
        KVM_RUN => done(no_argument(arg).and_then(|()| run(cpu))),
        KVM_GET_REGS => done(uapi::write(arg, &regs::get_regs(cpu))),
        KVM_SET_REGS => done(uapi::read(arg).map(|r| regs::set_regs(cpu, &r))),
        KVM_GET_SREGS => done(uapi::write(arg, &regs::get_sregs(cpu))),
        KVM_SET_SREGS => done(uapi::read(arg).and_then(|s| regs::set_sregs(cpu, &s))),
        KVM_GET_SREGS2 => done(uapi::write(arg, &regs::get_sregs2(cpu))),
        KVM_SET_SREGS2 => done(uapi::read(arg).and_then(|s| regs::set_sregs2(cpu, &s))),
        KVM_PRE_FAULT_MEMORY => done(pre_fault::pre_fault(cpu, arg)),
        KVM_TRANSLATE => done(translate(cpu, arg)),
        KVM_GET_FPU => done(regs::get_fpu(cpu).and_then(|f| uapi::write(arg, &f))),
        KVM_SET_FPU => done(uapi::read(arg).and_then(|f| regs::set_fpu(cpu, &f))),
        KVM_GET_XSAVE => done(regs::get_xsave(cpu, arg)),
        KVM_GET_XSAVE2 => done(regs::get_xsave2(cpu, arg)),
        KVM_SET_XSAVE => done(regs::set_xsave(cpu, arg)),
        KVM_GET_XCRS => done(regs::get_xcrs(cpu).and_then(|x| uapi::write(arg, &x))),
        KVM_SET_XCRS => done(uapi::read(arg).and_then(|x| regs::set_xcrs(cpu, &x))),
        KVM_GET_DEBUGREGS => done(uapi::write(arg, &regs::get_debugregs(cpu))),
        KVM_SET_DEBUGREGS => done(uapi::read(arg).and_then(|d| regs::set_debugregs(cpu, &d))),
        KVM_SET_GUEST_DEBUG => done(uapi::read(arg).and_then(|d| set_guest_debug(cpu, &d))),
        KVM_GET_MSRS => msrs::get(cpu, arg),
        KVM_SET_MSRS => msrs::set(cpu, arg),
        KVM_GET_ONE_REG => done(uapi::read(arg).and_then(|r| msrs::get_one(cpu, &r))),
        KVM_SET_ONE_REG => done(uapi::read(arg).and_then(|r| msrs::set_one(cpu, &r))),
        KVM_GET_REG_LIST => done(msrs::list_registers(arg)),
        KVM_SET_CPUID2 => done(cpuid::set(cpu, arg)),
        KVM_SET_CPUID => done(cpuid::set_plain(cpu, arg)),
        KVM_GET_CPUID2 => done(cpuid::get(cpu, arg)),
        KVM_GET_LAPIC => done(get_lapic(cpu, arg)),
        KVM_SET_LAPIC => done(set_lapic(cpu, arg)),
        KVM_GET_MP_STATE => done(uapi::write(arg, &get_mp_state(cpu))),
        KVM_SET_MP_STATE => done(uapi::read(arg).and_then(|m| set_mp_state(cpu, &m))),
        KVM_GET_VCPU_EVENTS => done(uapi::write(arg, &events::get(cpu))),
        KVM_SET_VCPU_EVENTS => done(uapi::read(arg).and_then(|e| events::set(cpu, &e))),
        KVM_INTERRUPT => done(uapi::read(arg).and_then(|i| interrupt(cpu, &i))),
        KVM_NMI => done(no_argument(arg).map(|()| nmi(cpu))),
        KVM_SMI => done(no_argument(arg).map(|()| cpu.arch.events.add_smi())),
        KVM_SET_SIGNAL_MASK => done(set_signal_mask(cpu, arg)),
        KVM_KVMCLOCK_CTRL => done(no_argument(arg).and_then(|()| cpu.note_stopped())),
        KVM_GET_NESTED_STATE => done(get_nested_state(cpu, arg)),
        KVM_SET_NESTED_STATE => done(set_nested_state(cpu, arg)),
        KVM_X86_SETUP_MCE => done(uapi::read(arg).and_then(|c| mce::setup(cpu, c))),
        KVM_X86_SET_MCE => done(uapi::read(arg).and_then(|e| mce::set(cpu, &e))),
        KVM_SET_VAPIC_ADDR => done(uapi::read(arg).and_then(|a| set_vapic_addr(cpu, &a))),
        KVM_TPR_ACCESS_REPORTING => done(control_tpr_reports(cpu, arg)),
        KVM_ENABLE_CAP => done(uapi::read(arg).and_then(|c| enable_cap::of_vcpu(cpu, &c))),
        KVM_HAS_DEVICE_ATTR => done(uapi::read(arg).and_then(|a| attr::has(&a))),
        KVM_GET_DEVICE_ATTR => done(uapi::read(arg).and_then(|a| attr::get(cpu, &a))),
        KVM_SET_DEVICE_ATTR => done(uapi::read(arg).and_then(|a| attr::set(cpu, &a))),
        KVM_SET_TSC_KHZ => done(set_tsc_khz(cpu, arg)),
        KVM_GET_TSC_KHZ => Ok(cpu.tsc_khz() as isize),
        _ => Err(EINVAL),
    }
}

/// Runs the vCPU, with the registers that userspace keeps in `struct kvm_run`.
fn run(cpu: &mut Cpu<'_>) -> Result {
    let valid = sync_regs::take(cpu)?;
    let result = run::run(cpu);
    if valid != 0 {
        sync_regs::give(cpu, valid);
    }
    result
}

/// # Errors
///
/// `EINVAL` where the kernel has no local APIC.
fn get_lapic(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let mut state = [0; KVM_APIC_REG_SIZE as usize];
    cpu.save_lapic(&mut state)?;
    uapi::write_bytes(arg, &state)
}

/// # Errors
///
/// `EINVAL` where the kernel has no local APIC, or the state is another's.
fn set_lapic(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let bytes = uapi::read_bytes(arg, KVM_APIC_REG_SIZE as usize)?;
    cpu.load_lapic(bytes.first_chunk().ok_or(EINVAL)?)
}

/// # Errors
///
/// `EINVAL` where the kernel has no local APIC, or the VM no memory there.
fn set_vapic_addr(cpu: &mut Cpu<'_>, address: &kvm_vapic_addr) -> Result {
    cpu.set_vapic(address.vapic_addr)
}

/// Turns reports of accesses to the task priority on or off.
///
/// # Errors
///
/// `EINVAL` for flags.
fn control_tpr_reports(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let control: kvm_tpr_access_ctl = uapi::read(arg)?;
    if control.flags != 0 {
        return Err(EINVAL);
    }
    cpu.arch.reports_tpr = control.enabled != 0;
    uapi::write(arg, &control)
}

fn get_mp_state(cpu: &mut Cpu<'_>) -> kvm_mp_state {
    cpu.accept_posted();
    let state = match cpu.arch.mp_state {
        MpState::Halted if cpu.arch.is_unhalted => MpState::Runnable,
        state => state,
    };
    kvm_mp_state {
        mp_state: state as u32,
    }
}

/// # Errors
///
/// `EINVAL` for a state that does not exist, or that needs a local APIC in the kernel.
fn set_mp_state(cpu: &mut Cpu<'_>, state: &kvm_mp_state) -> Result {
    let state = match state.mp_state {
        KVM_MP_STATE_RUNNABLE => MpState::Runnable,
        KVM_MP_STATE_UNINITIALIZED => MpState::Uninitialized,
        KVM_MP_STATE_INIT_RECEIVED => MpState::InitReceived,
        KVM_MP_STATE_HALTED => MpState::Halted,
        _ => return Err(EINVAL),
    };
    if cpu.arch.lapic.is_none() && state != MpState::Runnable {
        return Err(EINVAL);
    }
    cpu.arch.mp_state = state;
    Ok(())
}

/// # Errors
///
/// `EINVAL` for a vector above 255; `ENXIO` where the 8259As are in the kernel, too; `EEXIST` when one
/// waits already, with a local APIC in the kernel.
fn interrupt(cpu: &mut Cpu<'_>, interrupt: &kvm_interrupt) -> Result {
    let vector = u8::try_from(interrupt.irq).map_err(|_| EINVAL)?;
    if cpu.has_kernel_pic() {
        return Err(ENXIO);
    }
    if cpu.arch.lapic.is_some() && cpu.arch.user_interrupt.is_some() {
        return Err(EEXIST);
    }
    cpu.arch.user_interrupt = Some(vector);
    Ok(())
}

/// Walks the guest's page tables for userspace, which cannot know whether a write would be legal: that
/// depends on who writes.
fn translate(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let mut translation: kvm_translation = uapi::read(arg)?;
    let gva = Gva(translation.linear_address);
    let found = cpu.translate(gva, Kind::Read, Privilege::Implicit);
    translation.physical_address = found.as_ref().map_or(u64::MAX, |found| found.gpa.0);
    translation.valid = u8::from(found.is_ok());
    translation.writeable = 1;
    translation.usermode = 0;
    uapi::write(arg, &translation)
}

/// # Errors
///
/// `EBUSY` to inject an exception where there is one.
fn set_guest_debug(cpu: &mut Cpu<'_>, debug: &kvm_guest_debug) -> Result {
    cpu.set_guest_debug(Control(debug.control), &debug.arch.debugreg)
}

/// # Errors
///
/// `EINVAL` for a frequency that the host cannot give.
fn set_tsc_khz(cpu: &mut Cpu<'_>, khz: usize) -> Result {
    cpu.set_tsc_khz(u32::try_from(khz).map_err(|_| EINVAL)?)
}

fn nmi(cpu: &mut Cpu<'_>) {
    let state = cpu.interruptibility();
    cpu.arch.events.add_nmis(1, state);
}

/// Where `struct kvm_nested_state` has its size.
const NESTED_STATE_SIZE_AT: usize = 4;

/// # Errors
///
/// `E2BIG` where userspace has too little room: it learns how much it needs.
fn get_nested_state(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let size_at = uapi::field(arg, NESTED_STATE_SIZE_AT)?;
    let room: u32 = uapi::read(size_at)?;
    let blob = cpu.save_nested()?;
    // CAST: two pages and a header.
    let size = blob.len() as u32;
    if size > room {
        uapi::write(size_at, &size)?;
        return Err(E2BIG);
    }
    uapi::write_bytes(arg, &blob)
}

/// # Errors
///
/// `EINVAL` for a state that contradicts itself or the vCPU.
fn set_nested_state(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let size: u32 = uapi::read(uapi::field(arg, NESTED_STATE_SIZE_AT)?)?;
    // CAST: cut to what a state can have.
    let blob = uapi::read_bytes(arg, (size as usize).min(Cpu::NESTED_STATE_SIZE))?;
    cpu.restore_nested(&blob)
}

/// Where `struct kvm_signal_mask` has its set.
const SIGNAL_MASK_SET_AT: usize = 4;

/// # Errors
///
/// `EINVAL` for a set of the wrong size.
fn set_signal_mask(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    if arg == 0 {
        cpu.arch.signal_mask = None;
        return Ok(());
    }
    let len: u32 = uapi::read(arg)?;
    if len as usize != SignalMask::SIZE {
        return Err(EINVAL);
    }
    cpu.arch.signal_mask = Some(uapi::read(uapi::field(arg, SIGNAL_MASK_SET_AT)?)?);
    Ok(())
}
