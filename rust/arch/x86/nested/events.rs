// SPDX-License-Identifier: GPL-2.0

//! Events while L2 runs: which become exits to L1.

use crate::{
    arch::x86::{
        cpu::Cpu,
        outcome::{
            L2Events,
            Stop, //
        },
        state::MpState, //
    },
    vm::vcpus::Alarm, //
};
use burrow_core::{
    outcome::vector,
    x86::{
        clock,
        event::{
            Event,
            Protection, //
        },
        nested::{
            merge,
            pending::{
                self,
                ExitCause,
                Interrupt,
                Next,
                Pending,
                PendingException,
                Rank, //
            },
            state::{
                RunPending,
                State, //
            },
            sync::{
                ExitInfo,
                NmiBlocking, //
            },
            timer, //
        },
        regs::debug::Dr6,
        vmx::{
            ctls::{
                ActivityState,
                IntrInfo,
                IntrType,
                PendingDebug,
                ProcCtls, //
            },
            exit::{
                ExitReason,
                ExitReasonWord, //
            },
            field::GUEST_PENDING_DBG_EXCEPTIONS,
        },
    },
};
use burrow_sys::timer::{
    Armed,
    Timer, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

impl Cpu<'_> {
    /// Decides on the events that are pending while L2 runs, and makes the exits to L1 that are due.
    pub(crate) fn l2_events(&mut self) -> Result<L2Events, Stop> {
        let pending = self.l2_pending()?;
        let activity = match self.arch.mp_state {
            MpState::Halted => ActivityState::Hlt,
            MpState::InitReceived => ActivityState::WaitForSipi,
            MpState::Runnable | MpState::Uninitialized => ActivityState::Active,
        };
        if self.arch.events.has_triple_fault() {
            self.exit_for_triple_fault()?;
            return Ok(L2Events::Left);
        }
        let nested = self.nested()?;
        let State::NonRoot(l2) = nested.state else {
            return Ok(L2Events::Deliver);
        };
        match pending::next(&nested.vmcs12, l2.run_pending, activity, &pending) {
            Next::ExitToL1(cause) => {
                self.exit_for(cause)?;
                Ok(L2Events::Left)
            }
            Next::Later => Ok(L2Events::Later),
            Next::DropInit => {
                self.nested()?.has_init = false;
                Ok(L2Events::Deliver)
            }
            Next::DropSipi => {
                self.nested()?.sipi = None;
                Ok(L2Events::Deliver)
            }
            Next::Nothing
            | Next::DeliverException
            | Next::DeliverSmi
            | Next::DeliverNmi
            | Next::DeliverInterrupt
            | Next::ProcessPosted { .. } => Ok(L2Events::Deliver),
        }
    }

    /// Returns whether something is pending that ends a sleep of L2.
    pub(crate) fn l2_wakes(&mut self) -> bool {
        let Ok(pending) = self.l2_pending() else {
            return true;
        };
        let activity = match self.arch.mp_state {
            MpState::InitReceived => ActivityState::WaitForSipi,
            _ => ActivityState::Hlt,
        };
        let Ok(nested) = self.nested() else {
            return true;
        };
        pending::next(&nested.vmcs12, RunPending::No, activity, &pending) != Next::Nothing
    }

    fn l2_pending(&mut self) -> Result<Pending, Stop> {
        let interruptibility = self.interruptibility();
        let interrupt_blocked = !self.rflags().if_() || interruptibility.has_shadow();
        let interrupt = self.pending_interrupt();
        let tsc = self.guest_tsc();
        // In system-management mode L2 does not run.
        let smi = self.arch.events.smi();
        let events = &self.arch.events;
        let exception = events.pending().map(|pending| PendingException {
            vector: pending.exception.vector,
            error_code: pending.exception.error_code.unwrap_or(0),
            rank: rank(pending.exception.vector, pending.exception.payload),
        });
        let (nmi, reinjection) = (events.nmis() > 0, events.injected().is_some());
        let nested = self.nested()?;
        let (mtf, deadline) = match nested.state {
            State::NonRoot(l2) => (l2.mtf_pending, l2.timer_deadline),
            _ => (false, None),
        };
        Ok(Pending {
            init: nested.has_init,
            sipi: nested.sipi,
            exception,
            mtf,
            timer: deadline.is_some_and(|end| timer::has_expired(end, tsc)),
            smi,
            nmi,
            nmi_blocked: interruptibility.nmi(),
            interrupt,
            interrupt_blocked,
            reinjection,
        })
    }

    fn exit_for(&mut self, cause: ExitCause) -> Result<(), Stop> {
        if cause != ExitCause::Exception {
            self.keep_debug_trap();
        }
        let exit = |reason| ExitInfo {
            reason: ExitReasonWord::exit(reason),
            ..ExitInfo::default()
        };
        let mut nmi = NmiBlocking::Open;
        let info = match cause {
            ExitCause::Init => {
                self.nested()?.has_init = false;
                exit(ExitReason::InitSignal)
            }
            ExitCause::Sipi { vector } => {
                self.nested()?.sipi = None;
                ExitInfo {
                    qualification: u64::from(vector),
                    ..exit(ExitReason::SipiSignal)
                }
            }
            ExitCause::Exception => self.exception_exit(),
            ExitCause::Mtf => exit(ExitReason::MonitorTrapFlag),
            ExitCause::PreemptionTimer => exit(ExitReason::PreemptionTimer),
            ExitCause::Nmi => {
                self.arch.events.take_nmi();
                nmi = NmiBlocking::Blocked;
                let intr_info = intr_info(IntrType::Nmi, vector::NMI);
                ExitInfo {
                    intr_info,
                    ..exit(ExitReason::ExceptionNmi)
                }
            }
            ExitCause::Interrupt => exit(ExitReason::ExternalInterrupt),
            ExitCause::AcknowledgedInterrupt(_) => {
                let intr_info = self
                    .acknowledge_interrupt()
                    .map_or(0, |vector| intr_info(IntrType::ExternalInterrupt, vector));
                ExitInfo {
                    intr_info,
                    ..exit(ExitReason::ExternalInterrupt)
                }
            }
        };
        self.exit_to_l1(info, nmi)
    }

    /// Notes that an instruction of L2 has been carried out for it, if L1 wants to know of each.
    #[cold]
    pub(crate) fn note_l2_instruction(&mut self) {
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return;
        };
        let is_wanted = merge::proc12(&nested.vmcs12).monitor_trap_flag();
        if let (State::NonRoot(l2), true) = (&mut nested.state, is_wanted) {
            l2.mtf_pending = true;
        }
    }

    /// Leaves a debug trap of L2 that is not delivered before the coming exit to the next entry, as the
    /// processor does: the exit saves it as a pending debug exception. SDM 3C "Saving Non-Register
    /// State", 28.3.4.
    fn keep_debug_trap(&mut self) {
        let Some(pending) = self.arch.events.pending() else {
            return;
        };
        let exception = &pending.exception;
        if rank(exception.vector, exception.payload) != Rank::DebugTrap {
            return;
        }
        let trap = PendingDebug::of_trap(exception.payload.unwrap_or(0));
        let vmcs = self.vmcs();
        let old = vmcs.get(GUEST_PENDING_DBG_EXCEPTIONS);
        vmcs.set(GUEST_PENDING_DBG_EXCEPTIONS, old | trap.0);
    }

    /// Makes the exit information of the exception that is pending.
    fn exception_exit(&mut self) -> ExitInfo {
        let reason = ExitReasonWord::exit(ExitReason::ExceptionNmi);
        let Some(pending) = self.arch.events.pending().copied() else {
            return ExitInfo {
                reason,
                ..ExitInfo::default()
            };
        };
        let (vector, error_code) = (pending.exception.vector, pending.exception.error_code);
        let event = match pending.software_length {
            Some(length) => Event::SoftwareException { vector, length },
            None => Event::Exception { vector, error_code },
        };
        let protection = if self.cr0().pe() {
            Protection::Protected
        } else {
            Protection::RealMode
        };
        let encoded = event.encode(protection);
        ExitInfo {
            reason,
            qualification: pending.exception.payload.unwrap_or(0),
            intr_info: encoded.info.0,
            intr_error_code: encoded.error_code.unwrap_or(0),
            instruction_len: encoded.instruction_length.unwrap_or(0),
            ..ExitInfo::default()
        }
    }

    /// Returns the windows that L1 asked for: interrupt and NMI.
    pub(crate) fn l1_windows(&self) -> (bool, bool) {
        match self.arch.nested.as_ref() {
            Some(nested) if nested.state.is_non_root() => {
                let proc: ProcCtls = merge::proc12(&nested.vmcs12);
                (proc.intr_window(), proc.nmi_window())
            }
            _ => (false, false),
        }
    }

    /// Returns whether L2 runs and its interrupts are exits to L1.
    pub(crate) fn l1_takes_interrupts(&self) -> bool {
        self.arch.nested.as_ref().is_some_and(|nested| {
            nested.state.is_non_root() && merge::pin12(&nested.vmcs12).ext_intr_exiting()
        })
    }

    /// Returns whether an entry of L1 into L2 is still to be carried out.
    pub(crate) fn is_l2_entry_pending(&self) -> bool {
        self.arch.nested.as_ref().is_some_and(
            |nested| matches!(nested.state, State::NonRoot(l2) if l2.run_pending != RunPending::No),
        )
    }

    /// Returns whether nothing is pending that only an entry of L2 minds, and that is no event.
    pub(crate) fn is_l2_quiet(&self) -> bool {
        self.arch
            .nested
            .as_ref()
            .is_none_or(|nested| match nested.state {
                State::NonRoot(l2) => !l2.mtf_pending && !nested.has_init && nested.sipi.is_none(),
                _ => true,
            })
    }

    /// Notes that L2 has been entered.
    pub(crate) fn note_l2_entered(&mut self) {
        if let Some(nested) = self.arch.nested.as_deref_mut() {
            if let State::NonRoot(l2) = &mut nested.state {
                l2.run_pending = RunPending::No;
            }
        }
    }

    /// Has this vCPU woken at the end of L1's preemption timer, which counts while L2 sleeps, for as
    /// long as the answer lives; `None` without such a timer.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn arm_l2_alarm(&self) -> Result<Option<Armed>> {
        let end = match self.arch.nested.as_ref().map(|nested| nested.state) {
            Some(State::NonRoot(l2)) => l2.timer_deadline,
            _ => None,
        };
        let Some(end) = end else {
            return Ok(None);
        };
        let left = end.saturating_sub(self.guest_tsc());
        let delay_ns = clock::ticks_to_ns(left, self.tsc_khz().max(1));
        let alarm = Arc::new(Alarm(self.vcpu.shared.clone()), GFP_KERNEL_ACCOUNT)?;
        Ok(Some(Timer::new(alarm)?.arm(delay_ns)))
    }
}

fn intr_info(kind: IntrType, vector: u8) -> u32 {
    IntrInfo(0)
        .with_vector(vector)
        .with_type_code(kind as u8)
        .with_valid(true)
        .0
}

/// A #DB with a trap's payload (single step, or data breakpoints) comes after a pending
/// monitor-trap-flag exit; all else is a fault to that.
fn rank(exception: u8, payload: Option<u64>) -> Rank {
    let is_trap =
        exception == vector::DB && payload.is_some_and(|bits| Dr6(bits).bs() || bits & 0xf != 0);
    if is_trap {
        Rank::DebugTrap
    } else {
        Rank::Fault
    }
}

impl Cpu<'_> {
    /// Returns the interrupt that waits, if there is one.
    fn pending_interrupt(&self) -> Option<Interrupt> {
        if !self.has_interrupt() {
            return None;
        }
        Some(match self.lapic_vector() {
            Some(vector) => Interrupt::Lapic { vector },
            None => Interrupt::Pic,
        })
    }
}
