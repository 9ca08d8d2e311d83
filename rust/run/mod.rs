// SPDX-License-Identifier: GPL-2.0

//! `KVM_RUN`: from userspace into the guest, again and again, until userspace is needed.
//!
//! One turn of the loop: requests, a halted vCPU's sleep, events, an entry, the handling of the exit.
//! The one convention: an `Err` ends the ioctl with that error; otherwise a turn says whether to go
//! on or to return to userspace with a reason.

mod complete;
mod halt;
mod user_exit;

use crate::arch::{
    cpu::Cpu,
    enter::Attempt,
    exit,
    outcome::{
        Handled,
        Outcome,
        Stop,
        UserExit, //
    },
    state::MpState, //
};
use burrow_sys::{
    context,
    uapi::{
        kvm_run,
        KVM_RUN_X86_GUEST_MODE,
        KVM_RUN_X86_SMM, //
    },
};
use core::mem::offset_of;
use kernel::prelude::*;

/// What a turn of the loop came to.
enum Turn {
    /// Go on.
    Again,
    /// Return to userspace.
    ToUser(UserExit),
}

/// Runs the vCPU until userspace is needed.
///
/// # Context
///
/// Process context of the VM's owner; may sleep.
///
/// # Errors
///
/// - `EINTR`: a signal is pending, or `immediate_exit` is set.
/// - `EAGAIN`: an application processor has just been started.
/// - `EFAULT`: guest memory cannot be accessed.
/// - `EIO`: the VM is dead.
pub(crate) fn run(cpu: &mut Cpu<'_>) -> Result {
    let mask = cpu.arch.signal_mask.map(context::SignalMask::set);
    let result = run_loaded(cpu);
    publish(cpu);
    drop(mask);
    result
}

fn run_loaded(cpu: &mut Cpu<'_>) -> Result {
    if cpu.arch.mp_state == MpState::Uninitialized {
        return halt::wait_for_startup(cpu);
    }
    take_cr8(cpu)?;
    if let Some(exit) = complete::complete(cpu)? {
        return leave(cpu, exit);
    }
    if is_immediate_exit(cpu) {
        return Err(EINTR);
    }
    cpu.catch_up_tsc();
    cpu.arch.extended.fpu.load();
    cpu.unmark_preempted();
    let result = turns(cpu);
    cpu.arch.extended.fpu.put();
    cpu.mark_preempted();
    match result {
        Ok(exit) => leave(cpu, exit),
        Err(error) => Err(error),
    }
}

fn is_immediate_exit(cpu: &Cpu<'_>) -> bool {
    cpu.vcpu
        .pages
        .run
        .read::<u8>(offset_of!(kvm_run, immediate_exit__unsafe))
        != 0
}

fn is_window_wanted(cpu: &Cpu<'_>) -> bool {
    let wanted = offset_of!(kvm_run, request_interrupt_window);
    cpu.vcpu.pages.run.read::<u8>(wanted) != 0 && !cpu.has_kernel_pic()
}

/// Takes the task priority over from userspace, where that has the local APIC.
fn take_cr8(cpu: &mut Cpu<'_>) -> Result {
    if cpu.arch.lapic.is_some() {
        return Ok(());
    }
    let cr8 = cpu.vcpu.pages.run.read::<u64>(offset_of!(kvm_run, cr8));
    if cr8 > 15 {
        return Err(EINVAL);
    }
    // CAST: at most 15.
    cpu.set_cr8(cr8 as u8);
    Ok(())
}

fn turns(cpu: &mut Cpu<'_>) -> Result<UserExit> {
    loop {
        // Without `?`, which would copy the largest of the exits each time.
        match turn(cpu) {
            Ok(Turn::Again) => {}
            Ok(Turn::ToUser(exit)) => return Ok(exit),
            Err(error) => return Err(error),
        }
        if context::guest_work_pending() {
            cpu.mark_preempted();
            let handled = context::handle_guest_work();
            cpu.unmark_preempted();
            if handled.is_err() {
                return Ok(UserExit::Intr);
            }
        }
    }
}

fn turn(cpu: &mut Cpu<'_>) -> Result<Turn> {
    if let Err(stop) = cpu.serve_requests() {
        return settle(cpu, Err(stop));
    }
    if let Some(exit) = cpu.take_step() {
        return Ok(Turn::ToUser(exit));
    }
    if cpu.arch.mp_state != MpState::Runnable && !halt::block(cpu)? {
        return Ok(Turn::Again);
    }
    if let Some(vector) = cpu.take_ended() {
        return Ok(Turn::ToUser(UserExit::IoapicEoi { vector }));
    }
    let window = is_window_wanted(cpu);
    if window && cpu.is_ready_for_interrupt() {
        return Ok(Turn::ToUser(UserExit::IrqWindowOpen));
    }
    if let Err(stop) = cpu.inject_events(window) {
        return settle(cpu, Err(stop));
    }
    cpu.give_vapic();
    cpu.offer_pv_eoi();
    let attempt = cpu.enter_once();
    cpu.take_pv_eoi();
    let handled = match attempt {
        Ok(Attempt::NotNow) => Ok(Outcome::Resume),
        Ok(Attempt::Handled(handled)) => handled,
        Ok(Attempt::Exit { reason, intr_info }) => {
            cpu.take_vapic();
            if reason.entry_failure() {
                exit::handle(cpu, reason, intr_info)
            } else {
                cpu.note_l2_entered();
                cpu.complete_events()
                    .and_then(|()| exit::handle(cpu, reason, intr_info))
            }
        }
        Ok(Attempt::Failed(error)) => Ok(Outcome::ToUser(UserExit::FailEntry {
            reason: u64::from(error),
            cpu: kernel::cpu::CpuId::current().as_u32(),
        })),
        Err(stop) => Err(stop),
    };
    settle(cpu, handled)
}

/// Acts on what a handler returned.
fn settle(cpu: &mut Cpu<'_>, handled: Handled) -> Result<Turn> {
    cpu.check_vmcs()?;
    match handled {
        Ok(Outcome::Resume) => Ok(Turn::Again),
        Ok(Outcome::Skip) => {
            cpu.skip_instruction();
            Ok(Turn::Again)
        }
        Ok(Outcome::ToUser(exit)) | Err(Stop::ToUser(exit)) => Ok(Turn::ToUser(exit)),
        Err(Stop::Inject(exception)) => {
            cpu.arch.events.raise(exception);
            Ok(Turn::Again)
        }
        Err(Stop::Ept12(fault)) => {
            let handled = cpu.exit_for_ept(fault);
            settle(cpu, handled)
        }
        Err(Stop::Fail(error)) => Err(error),
        Err(Stop::Bug(bug)) => {
            cpu.vcpu.vm.kill(bug);
            Err(EIO)
        }
    }
}

/// Tells userspace why the ioctl returns.
fn leave(cpu: &mut Cpu<'_>, exit: UserExit) -> Result {
    cpu.arch.completion_rip = cpu.rip();
    user_exit::write(&cpu.vcpu.pages.run, &exit);
    cpu.note_user_exit(
        &exit,
        cpu.vcpu.pages.run.read(offset_of!(kvm_run, exit_reason)),
    );
    match exit {
        UserExit::Intr => Err(EINTR),
        _ => Ok(()),
    }
}

/// `KVM_RUN_X86_*`: what mode the vCPU is in.
fn flags(cpu: &Cpu<'_>) -> u16 {
    let smm = match cpu.is_smm() {
        true => KVM_RUN_X86_SMM,
        false => 0,
    };
    let l2 = match cpu.is_l2() {
        true => KVM_RUN_X86_GUEST_MODE,
        false => 0,
    };
    // CAST: bits of a 16-bit field.
    (smm | l2) as u16
}

/// Refreshes what userspace may read in `struct kvm_run` after every return.
fn publish(cpu: &mut Cpu<'_>) {
    let run = &cpu.vcpu.pages.run;
    run.write(offset_of!(kvm_run, if_flag), u8::from(cpu.rflags().if_()));
    run.write(offset_of!(kvm_run, flags), flags(cpu));
    run.write(offset_of!(kvm_run, cr8), u64::from(cpu.cr8()));
    run.write(offset_of!(kvm_run, apic_base), cpu.apic_base());
    run.write(
        offset_of!(kvm_run, ready_for_interrupt_injection),
        u8::from(cpu.has_kernel_pic() || cpu.is_ready_for_interrupt()),
    );
}
