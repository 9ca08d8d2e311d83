// SPDX-License-Identifier: GPL-2.0

//! Instructions with a handler of a few lines.

use crate::arch::x86::{
    cpu::Cpu,
    options::Quirk,
    outcome::{
        Handled,
        Outcome,
        Stop,
        UserExit, //
    },
    state::MpState,
    tlb, //
};
use burrow_core::{
    outcome::Exception,
    x86::{
        cpuid::guest,
        regs::write,
        vmx::field::*, //
    },
};
use burrow_sys::{
    context::PreemptOff,
    x86::umsr::UserMsr, //
};

/// CPUID.
pub(super) fn cpuid(cpu: &mut Cpu<'_>) -> Handled {
    // CAST: EAX and ECX.
    let (leaf, subleaf) = (cpu.gpr(0) as u32, cpu.gpr(1) as u32);
    let result = cpu.cpuid(leaf, subleaf);
    cpu.note_cpuid(leaf, subleaf, &result);
    cpu.hw.set_gpr(0, u64::from(result.eax));
    cpu.hw.set_gpr(3, u64::from(result.ebx));
    cpu.hw.set_gpr(1, u64::from(result.ecx));
    cpu.hw.set_gpr(2, u64::from(result.edx));
    Ok(Outcome::Skip)
}

/// HLT: waits in the kernel where that has the local APIC, else in userspace.
pub(super) fn hlt(cpu: &mut Cpu<'_>) -> Handled {
    cpu.skip_instruction();
    if cpu.arch.lapic.is_none() {
        return Ok(Outcome::ToUser(UserExit::Hlt));
    }
    cpu.arch.mp_state = MpState::Halted;
    Ok(Outcome::Resume)
}

/// WBINVD and INVD: caches are coherent, and nothing that the guest could write back is lost.
pub(super) fn wbinvd(_cpu: &mut Cpu<'_>) -> Handled {
    Ok(Outcome::Skip)
}

/// INVLPG, where the processor cannot leave it to the guest.
pub(super) fn invlpg(cpu: &mut Cpu<'_>) -> Handled {
    let vpid = cpu.vmcs().get(VIRTUAL_PROCESSOR_ID);
    tlb::flush_address(vpid, cpu.qualification(), &PreemptOff::new())?;
    Ok(Outcome::Skip)
}

/// INVPCID, which exits only where its control is off for the guest: it does not exist then.
pub(super) fn invpcid(_cpu: &mut Cpu<'_>) -> Handled {
    Err(Stop::Inject(Exception::UD))
}

/// RDPMC: there are no counters.
pub(super) fn rdpmc(_cpu: &mut Cpu<'_>) -> Handled {
    Err(Stop::Inject(Exception::GP0))
}

/// RDTSC.
pub(super) fn rdtsc(cpu: &mut Cpu<'_>) -> Handled {
    let now = cpu.guest_tsc();
    cpu.set_edx_eax(now);
    Ok(Outcome::Skip)
}

/// RDTSCP.
pub(super) fn rdtscp(cpu: &mut Cpu<'_>) -> Handled {
    let now = cpu.guest_tsc();
    cpu.set_edx_eax(now);
    let aux = cpu.hw.user_msr(UserMsr::TscAux);
    cpu.set_gpr(1, aux & 0xffff_ffff);
    Ok(Outcome::Skip)
}

/// MONITOR and MWAIT are not offered in CPUID, but do nothing rather than fault, as guests have come
/// to expect of KVM; unless userspace turned that off.
pub(super) fn monitor_mwait(cpu: &mut Cpu<'_>) -> Handled {
    let never_faults = cpu.vcpu.vm.options.has_quirk(Quirk::MwaitNeverUdFaults);
    if never_faults || guest::has_monitor(cpu.arch.cpuid.entries()) {
        return Ok(Outcome::Skip);
    }
    Err(Stop::Inject(Exception::UD))
}

/// PAUSE in a loop: lets others run.
pub(super) fn pause(_cpu: &mut Cpu<'_>) -> Handled {
    burrow_sys::context::yield_now();
    Ok(Outcome::Skip)
}

/// XSETBV.
pub(super) fn xsetbv(cpu: &mut Cpu<'_>) -> Handled {
    if cpu.cpl() != 0 {
        return Err(Stop::Inject(Exception::GP0));
    }
    // CAST: ECX.
    let index = cpu.gpr(1) as u32;
    let xcr0 = write::xsetbv(index, cpu.edx_eax(), &cpu.arch.cpuid.limits)?;
    cpu.arch.extended.xcr0 = xcr0.0;
    cpu.cpuid_follows_registers();
    Ok(Outcome::Skip)
}
