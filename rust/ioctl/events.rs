// SPDX-License-Identifier: GPL-2.0

//! `KVM_GET_VCPU_EVENTS` and `KVM_SET_VCPU_EVENTS`.

use crate::arch::{
    cpu::Cpu,
    state::NmisBefore, //
};
use burrow_core::x86::event::{
    abi::{
        self,
        Around,
        Changes,
        Enabled,
        VcpuEvents, //
    },
    queue::Payload, //
};
use burrow_core::x86::regs::debug::Dr6;
use burrow_sys::uapi::kvm_vcpu_events;
use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

fn enabled(cpu: &Cpu<'_>) -> Enabled {
    let options = &cpu.vcpu.vm.options;
    Enabled {
        exception_payload: options.exception_payload.load(Relaxed),
        triple_fault_event: options.triple_fault_event.load(Relaxed),
        smm: true,
    }
}

fn around(cpu: &Cpu<'_>) -> Around {
    Around {
        interruptibility: cpu.interruptibility(),
        is_smm: cpu.is_smm(),
        smm_inside_nmi: cpu.arch.smm.nmis_before == Some(NmisBefore::Blocked),
        latched_init: cpu.arch.smm.latched_init,
    }
}

/// Puts the payload of a pending exception into its register, for a VMM that does not know payloads:
/// what it saves must hold it, as the exception that it restores has none.
pub(super) fn apply_payload(cpu: &mut Cpu<'_>) {
    if enabled(cpu).exception_payload {
        return;
    }
    match cpu.arch.events.take_payload() {
        Some(Payload::Cr2(address)) => cpu.hw.set_cr2(address),
        Some(Payload::Dr6(bits)) => {
            cpu.arch.debug.dr6 = Dr6(cpu.arch.debug.dr6).after_exception(bits).0;
        }
        None => {}
    }
}

/// `KVM_GET_VCPU_EVENTS`.
pub(super) fn get(cpu: &mut Cpu<'_>) -> kvm_vcpu_events {
    cpu.accept_posted();
    apply_payload(cpu);
    let e = abi::get(&cpu.arch.events, &around(cpu), &enabled(cpu));
    let mut events = kvm_vcpu_events::default();
    events.exception.injected = e.exception_injected;
    events.exception.nr = e.exception_nr;
    events.exception.has_error_code = e.exception_has_error_code;
    events.exception.pending = e.exception_pending;
    events.exception.error_code = e.exception_error_code;
    events.interrupt.injected = e.interrupt_injected;
    events.interrupt.nr = e.interrupt_nr;
    events.interrupt.soft = e.interrupt_soft;
    events.interrupt.shadow = e.interrupt_shadow;
    events.nmi.injected = e.nmi_injected;
    events.nmi.pending = e.nmi_pending;
    events.nmi.masked = e.nmi_masked;
    events.sipi_vector = e.sipi_vector;
    events.flags = e.flags;
    events.smi.smm = e.smi_smm;
    events.smi.pending = e.smi_pending;
    events.smi.smm_inside_nmi = e.smi_smm_inside_nmi;
    events.smi.latched_init = e.smi_latched_init;
    events.triple_fault.pending = e.triple_fault_pending;
    events.exception_has_payload = e.exception_has_payload;
    events.exception_payload = e.exception_payload;
    events
}

/// `KVM_SET_VCPU_EVENTS`.
///
/// # Errors
///
/// `EINVAL` for an undefined flag, or an exception that is none.
pub(super) fn set(cpu: &mut Cpu<'_>, events: &kvm_vcpu_events) -> Result {
    let e = VcpuEvents {
        exception_injected: events.exception.injected,
        exception_nr: events.exception.nr,
        exception_has_error_code: events.exception.has_error_code,
        exception_pending: events.exception.pending,
        exception_error_code: events.exception.error_code,
        interrupt_injected: events.interrupt.injected,
        interrupt_nr: events.interrupt.nr,
        interrupt_soft: events.interrupt.soft,
        interrupt_shadow: events.interrupt.shadow,
        nmi_injected: events.nmi.injected,
        nmi_pending: events.nmi.pending,
        nmi_masked: events.nmi.masked,
        sipi_vector: events.sipi_vector,
        flags: events.flags,
        smi_smm: events.smi.smm,
        smi_pending: events.smi.pending,
        smi_smm_inside_nmi: events.smi.smm_inside_nmi,
        smi_latched_init: events.smi.latched_init,
        triple_fault_pending: events.triple_fault.pending,
        exception_has_payload: events.exception_has_payload,
        exception_payload: events.exception_payload,
    };
    let before = around(cpu);
    let enabled = enabled(cpu);
    let changes = abi::set(&mut cpu.arch.events, &e, before.interruptibility, &enabled)
        .map_err(|_| EINVAL)?;
    cpu.set_interruptibility(changes.interruptibility);
    if let Some(vector) = changes.sipi_vector {
        // CAST: a vector is a byte.
        cpu.arch.sipi_vector = vector as u8;
    }
    set_smm(cpu, &changes)
}

/// L2 does not run in system-management mode: where that begins or ends by order of userspace, it is
/// forgotten.
///
/// # Errors
///
/// `ENOMEM` when there is no memory.
fn set_smm(cpu: &mut Cpu<'_>, changes: &Changes) -> Result {
    let nmis_before = match (changes.is_smm, changes.smm_inside_nmi) {
        (None, _) => cpu.arch.smm.nmis_before,
        (Some(false), _) => None,
        (Some(true), Some(true)) => Some(NmisBefore::Blocked),
        (Some(true), _) => Some(NmisBefore::Open),
    };
    if cpu.is_smm() != nmis_before.is_some() {
        cpu.vcpu.vm.smram()?;
        cpu.drop_l2();
        cpu.set_smm(nmis_before);
    }
    cpu.arch.smm.nmis_before = nmis_before;
    if let Some(is_latched) = changes.latched_init {
        cpu.arch.smm.latched_init = is_latched && cpu.is_smm();
    }
    Ok(())
}
