// SPDX-License-Identifier: GPL-2.0

//! Hypercalls. Documentation/virt/kvm/x86/hypercalls.rst

use crate::arch::x86::{
    cpu::Cpu,
    ipi::{
        self,
        Delivered,
        Origin, //
    },
    outcome::{
        Handled,
        Outcome, //
    },
};
use burrow_core::x86::irqchip::pv_ipi::{
    PvIpi,
    Width, //
};
use burrow_sys::{
    context,
    trace,
    uapi::*, //
};

/// What a hypercall answers where it does not succeed: negative.
#[derive(Clone, Copy)]
enum Failure {
    /// `-KVM_ENOSYS`: there is none of this number.
    Unknown = -1000,
    /// `-KVM_EPERM`: only ring 0 may call.
    NotPermitted = -1,
    /// `-KVM_EINVAL`: an argument is wrong.
    Invalid = -22,
}

/// Returns whether the hypercall that exited neither sleeps nor sends interrupts, maybe to itself.
#[inline]
pub(super) fn is_quick(cpu: &Cpu<'_>) -> bool {
    // CAST: the low half decides.
    !matches!(
        cpu.gpr(0) as u32,
        KVM_HC_SEND_IPI | KVM_HC_SCHED_YIELD | KVM_HC_KICK_CPU
    )
}

/// VMCALL.
pub(super) fn hypercall(cpu: &mut Cpu<'_>) -> Handled {
    let width = match cpu.is_64bit_code() {
        true => Width::Bits64,
        false => Width::Bits32,
    };
    let mask = match width {
        Width::Bits64 => u64::MAX,
        Width::Bits32 => 0xffff_ffff,
    };
    let nr = cpu.gpr(0) & mask;
    // RBX, RCX, RDX, RSI.
    let args = [3, 1, 2, 6].map(|register| cpu.gpr(register) & mask);
    trace::kvm_hypercall(nr, args);
    let result = if cpu.cpl() != 0 {
        Err(Failure::NotPermitted)
    } else {
        call(cpu, nr, args, width)
    };
    // CAST: the guest sees a negative number in RAX.
    let value = result.unwrap_or_else(|failure| failure as i64 as u64);
    cpu.set_gpr(0, value & mask);
    Ok(Outcome::Skip)
}

fn call(cpu: &Cpu<'_>, nr: u64, args: [u64; 4], width: Width) -> Result<u64, Failure> {
    let has = |feature: u32| cpu.arch.cpuid.paravirt & 1 << feature != 0;
    // 0 is no hypercall's number either.
    match u32::try_from(nr).unwrap_or(0) {
        // The exit itself is what the caller is after.
        KVM_HC_VAPIC_POLL_IRQ => Ok(0),
        KVM_HC_KICK_CPU if has(KVM_FEATURE_PV_UNHALT) => {
            wake(cpu, args[1]);
            Ok(0)
        }
        KVM_HC_SEND_IPI if has(KVM_FEATURE_PV_SEND_IPI) => send_ipi(cpu, args, width),
        KVM_HC_SCHED_YIELD if has(KVM_FEATURE_PV_SCHED_YIELD) => {
            context::yield_now();
            Ok(0)
        }
        _ => Err(Failure::Unknown),
    }
}

/// Wakes the vCPU with an APIC id from HLT: from the one that it is in, or else from its next.
fn wake(cpu: &Cpu<'_>, apic_id: u64) {
    let id = u32::try_from(apic_id).ok();
    if let Some(vcpu) = id.and_then(|id| cpu.vcpu.vm.vcpus.find(id)) {
        vcpu.posted.post_unhalt();
        vcpu.kick.kick();
    }
}

/// Sends an interrupt to all APICs of a bitmap; returns how many took it.
fn send_ipi(cpu: &Cpu<'_>, args: [u64; 4], width: Width) -> Result<u64, Failure> {
    let [low, high, min, command] = args;
    // CAST: the id of an APIC has 32 bits.
    let messages =
        PvIpi::new(low, high, min as u32, command, width).map_err(|_| Failure::Invalid)?;
    let origin = Origin::Vcpu(cpu.vcpu.shared.index);
    let count = messages.map(
        |message| match ipi::deliver(&cpu.vcpu.vm.vcpus, &message, origin) {
            Delivered::To(count) => u64::from(count),
            Delivered::Coalesced | Delivered::Nowhere => 0,
        },
    );
    Ok(count.sum())
}
