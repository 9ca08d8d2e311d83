// SPDX-License-Identifier: GPL-2.0

//! A vCPU that does not run: halted, or not started yet.

use crate::arch::{
    cpu::Cpu,
    outcome::UserExit,
    state::MpState, //
};
use burrow_core::stats::VcpuStat;
use burrow_sys::context;
use kernel::prelude::*;

/// Sleeps until a halted vCPU has a reason to look around; returns whether it is runnable.
///
/// # Errors
///
/// `ENOMEM` when there is no memory. A signal ends the sleep, and the caller's loop sees it.
pub(super) fn block(cpu: &mut Cpu<'_>) -> Result<bool> {
    cpu.check_timer();
    cpu.accept_posted();
    if is_awake(cpu) {
        return Ok(true);
    }
    let shared = cpu.vcpu.shared.clone();
    let alarm = cpu.arm_l2_alarm()?;
    cpu.arch.extended.fpu.put();
    let start_ns = context::mono_ns();
    cpu.vcpu.stats.set(VcpuStat::Blocking, 1);
    cpu.sleep_timer();
    cpu.mark_preempted();
    shared.kick.sleep_until(|| {
        !shared.kick.pending().is_empty()
            || shared.posted.has_vectors()
            || shared.posted.has_signals()
            || context::signal_pending()
    });
    cpu.wake_timer();
    cpu.unmark_preempted();
    drop(alarm);
    cpu.note_wakeup(context::mono_ns().saturating_sub(start_ns));
    cpu.arch.extended.fpu.load();
    cpu.accept_posted();
    Ok(is_awake(cpu))
}

/// Looks whether the vCPU has become runnable, and makes it so.
fn is_awake(cpu: &mut Cpu<'_>) -> bool {
    if cpu.is_l2() && cpu.arch.mp_state != MpState::Runnable && cpu.l2_wakes() {
        // An exit to L1 saves the state that L2 is in; anything else ends it.
        return true;
    }
    if cpu.arch.mp_state == MpState::Halted {
        let blocking = cpu.blocking();
        let wakes = cpu.arch.is_unhalted
            || cpu.arch.events.wakes(&blocking)
            || cpu.rflags().if_() && cpu.has_interrupt();
        if wakes {
            cpu.arch.is_unhalted = false;
            cpu.arch.smm.ended_halt = cpu.arch.events.smi();
            cpu.arch.mp_state = MpState::Runnable;
        }
    }
    cpu.arch.mp_state == MpState::Runnable
}

/// Waits until an application processor is started.
///
/// # Errors
///
/// `EAGAIN` when it may have been, `EINTR` when a signal came first or `immediate_exit` is set, `EIO`
/// when the VM is dead.
pub(super) fn wait_for_startup(cpu: &mut Cpu<'_>) -> Result {
    if super::is_immediate_exit(cpu) {
        return Err(EINTR);
    }
    if let Err(stop) = cpu.serve_requests() {
        super::settle(cpu, Err(stop))?;
    }
    let shared = cpu.vcpu.shared.clone();
    shared.kick.sleep_until(|| {
        !shared.kick.pending().is_empty()
            || shared.posted.has_signals()
            || context::signal_pending()
    });
    cpu.accept_posted();
    if context::signal_pending() {
        return super::leave(cpu, UserExit::Intr);
    }
    Err(EAGAIN)
}
