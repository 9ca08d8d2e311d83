// SPDX-License-Identifier: GPL-2.0

//! What to do next with the events that are pending while L2 runs.
//!
//! Several may be pending at once; [`next`] picks by the priority of the SDM and says whether the
//! event becomes an exit to L1, is delivered to L2, or must wait. SDM 3A "Priority Among Concurrent
//! Events", 7.9; SDM 3C "Other Causes of VM Exits", 26.2.

use super::super::vmx::ctls::{
    ActivityState,
    ExitCtls,
    PinCtls, //
};
use super::super::vmx::field::*;
use super::reflect::l1_wants_exception;
use super::state::RunPending;
use super::vmcs12::Vmcs12;

/// Where an exception stands among the other events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rank {
    /// Above a pending MTF exit: faults, INT1, and #DB of the TSS's T flag.
    Fault,
    /// Below it: single-step and data-breakpoint #DB of the instruction before.
    DebugTrap,
}

/// An exception that L2 has raised and that is not delivered yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingException {
    /// Vector.
    pub vector: u8,
    /// Error code, 0 if it has none.
    pub error_code: u32,
    /// Its priority.
    pub rank: Rank,
}

/// A maskable interrupt for the vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// From the PIC: its vector is known only once it is acknowledged.
    Pic,
    /// From the local APIC.
    Lapic {
        /// Vector.
        vector: u8,
    },
}

/// All that is pending for a vCPU that runs L2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    /// An INIT signal.
    pub init: bool,
    /// A start-up IPI, with its vector.
    pub sipi: Option<u8>,
    /// An exception.
    pub exception: Option<PendingException>,
    /// A monitor-trap-flag exit.
    pub mtf: bool,
    /// L1's preemption timer has expired.
    pub timer: bool,
    /// An SMI, and the vCPU is not in SMM.
    pub smi: bool,
    /// A non-maskable interrupt.
    pub nmi: bool,
    /// L2 blocks NMIs, as by an earlier one.
    pub nmi_blocked: bool,
    /// A maskable interrupt.
    pub interrupt: Option<Interrupt>,
    /// L2 blocks interrupts: RFLAGS.IF is 0, or an STI or MOV SS shadow.
    pub interrupt_blocked: bool,
    /// An event whose delivery an exit has interrupted must be injected again first.
    pub reinjection: bool,
}

/// Why L2 exits to L1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitCause {
    /// INIT signal.
    Init,
    /// Start-up IPI; the vector is the exit qualification.
    Sipi {
        /// Vector.
        vector: u8,
    },
    /// The pending exception.
    Exception,
    /// Monitor trap flag.
    Mtf,
    /// L1's preemption timer.
    PreemptionTimer,
    /// NMI; it counts as delivered: L1 starts with NMIs blocked.
    Nmi,
    /// External interrupt, not acknowledged: it stays pending.
    Interrupt,
    /// External interrupt, acknowledged after the exit; its vector goes into the exit information.
    AcknowledgedInterrupt(Interrupt),
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing is due.
    Nothing,
    /// Something is due, but L2 must be entered first: exit again at once.
    Later,
    /// VM exit to L1.
    ExitToL1(ExitCause),
    /// An INIT that a vCPU in wait-for-SIPI ignores: drop it.
    DropInit,
    /// A start-up IPI outside wait-for-SIPI: drop it.
    DropSipi,
    /// The exception goes to L2.
    DeliverException,
    /// The SMI goes to L2.
    DeliverSmi,
    /// The NMI goes to L2.
    DeliverNmi,
    /// The interrupt goes to L2.
    DeliverInterrupt,
    /// The interrupt is L1's notification of posted interrupts for L2: take it and process them.
    ProcessPosted {
        /// Vector.
        vector: u8,
    },
}

struct Blocks {
    /// No exception can be handled: the entry is still to come, with an event of its own maybe.
    exceptions: bool,
    /// No new event can be recognized: L2 is in the middle of an instruction.
    boundary: bool,
}

impl Blocks {
    fn exception(&self, then: Next) -> Next {
        if self.exceptions {
            Next::Later
        } else {
            then
        }
    }

    fn event(&self, then: Next) -> Next {
        if self.exceptions || self.boundary {
            Next::Later
        } else {
            then
        }
    }
}

/// Decides what is to be done first with the `pending` events of an L2 that runs with `v`.
pub fn next(
    v: &Vmcs12,
    run_pending: RunPending,
    activity: ActivityState,
    pending: &Pending,
) -> Next {
    let blocks = Blocks {
        exceptions: run_pending != RunPending::No,
        boundary: pending.reinjection,
    };
    let is_waiting = activity == ActivityState::WaitForSipi;
    if pending.init {
        let exit = Next::ExitToL1(ExitCause::Init);
        return blocks.event(if is_waiting { Next::DropInit } else { exit });
    }
    if let Some(vector) = pending.sipi {
        let exit = Next::ExitToL1(ExitCause::Sipi { vector });
        return blocks.event(if is_waiting { exit } else { Next::DropSipi });
    }
    if is_waiting {
        // All else is blocked.
        return Next::Nothing;
    }
    let exception = |rank| {
        pending
            .exception
            .filter(|e| e.rank == rank)
            .map(|e| blocks.exception(route(v, &e)))
    };
    if let Some(due) = exception(Rank::Fault) {
        return due;
    }
    if pending.mtf {
        return blocks.event(Next::ExitToL1(ExitCause::Mtf));
    }
    if let Some(due) = exception(Rank::DebugTrap) {
        return due;
    }
    asynchronous(v, &blocks, pending)
}

fn route(v: &Vmcs12, exception: &PendingException) -> Next {
    if l1_wants_exception(v, exception.vector, exception.error_code) {
        Next::ExitToL1(ExitCause::Exception)
    } else {
        Next::DeliverException
    }
}

/// Timer, SMI, NMI and interrupts.
fn asynchronous(v: &Vmcs12, blocks: &Blocks, pending: &Pending) -> Next {
    let pin = PinCtls(v.read(PIN_BASED_VM_EXEC_CONTROL));
    if pending.timer {
        return blocks.event(Next::ExitToL1(ExitCause::PreemptionTimer));
    }
    if pending.smi {
        return blocks.event(Next::DeliverSmi);
    }
    if pending.nmi && pin.nmi_exiting() {
        return blocks.event(Next::ExitToL1(ExitCause::Nmi));
    }
    if pending.nmi && !pending.nmi_blocked {
        return blocks.event(Next::DeliverNmi);
    }
    match pending.interrupt {
        Some(interrupt) if pin.ext_intr_exiting() => exit_on_interrupt(v, blocks, interrupt),
        Some(_) if !pending.interrupt_blocked => blocks.event(Next::DeliverInterrupt),
        Some(_) | None => Next::Nothing,
    }
}

fn exit_on_interrupt(v: &Vmcs12, blocks: &Blocks, interrupt: Interrupt) -> Next {
    if !ExitCtls(v.read(VM_EXIT_CONTROLS)).ack_intr() {
        return blocks.event(Next::ExitToL1(ExitCause::Interrupt));
    }
    let pin = PinCtls(v.read(PIN_BASED_VM_EXEC_CONTROL));
    match interrupt {
        Interrupt::Lapic { vector }
            if pin.posted_intr() && u16::from(vector) == v.read(POSTED_INTR_NV) =>
        {
            // The processor delivers these by itself, so a pending entry is no obstacle.
            if blocks.boundary {
                Next::Later
            } else {
                Next::ProcessPosted { vector }
            }
        }
        Interrupt::Pic | Interrupt::Lapic { .. } => {
            blocks.event(Next::ExitToL1(ExitCause::AcknowledgedInterrupt(interrupt)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Pending = Pending {
        init: false,
        sipi: None,
        exception: None,
        mtf: false,
        timer: false,
        smi: false,
        nmi: false,
        nmi_blocked: false,
        interrupt: None,
        interrupt_blocked: false,
        reinjection: false,
    };
    const LAPIC: Interrupt = Interrupt::Lapic { vector: 0x40 };

    fn fault(vector: u8) -> Option<PendingException> {
        Some(PendingException {
            vector,
            error_code: 0,
            rank: Rank::Fault,
        })
    }

    fn trap() -> Option<PendingException> {
        Some(PendingException {
            vector: 1,
            error_code: 0,
            rank: Rank::DebugTrap,
        })
    }

    fn vmcs12(pin: PinCtls, exit: ExitCtls) -> Vmcs12 {
        let mut v = Vmcs12::new();
        v.write(PIN_BASED_VM_EXEC_CONTROL, pin.0);
        v.write(VM_EXIT_CONTROLS, exit.0);
        v
    }

    fn exiting() -> Vmcs12 {
        let pin = PinCtls(0)
            .with_ext_intr_exiting(true)
            .with_nmi_exiting(true);
        let mut v = vmcs12(pin, ExitCtls(0).with_ack_intr(true));
        v.write(EXCEPTION_BITMAP, 1 << 6 | 1 << 1);
        v
    }

    fn go(v: &Vmcs12, pending: Pending) -> Next {
        next(v, RunPending::No, ActivityState::Active, &pending)
    }

    #[test]
    fn priorities_are_those_of_the_manual() {
        // Each step takes the event that won before away.
        let v = exiting();
        let mut p = Pending {
            init: true,
            sipi: Some(8),
            exception: fault(6),
            mtf: true,
            timer: true,
            smi: true,
            nmi: true,
            interrupt: Some(LAPIC),
            ..NONE
        };
        assert_eq!(go(&v, p), Next::ExitToL1(ExitCause::Init));
        p.init = false;
        assert_eq!(go(&v, p), Next::DropSipi);
        p.sipi = None;
        assert_eq!(go(&v, p), Next::ExitToL1(ExitCause::Exception));
        p.exception = trap();
        assert_eq!(
            go(&v, p),
            Next::ExitToL1(ExitCause::Mtf),
            "a debug trap is below MTF"
        );
        p.mtf = false;
        assert_eq!(go(&v, p), Next::ExitToL1(ExitCause::Exception));
        p.exception = None;
        assert_eq!(go(&v, p), Next::ExitToL1(ExitCause::PreemptionTimer));
        p.timer = false;
        assert_eq!(go(&v, p), Next::DeliverSmi);
        p.smi = false;
        assert_eq!(go(&v, p), Next::ExitToL1(ExitCause::Nmi));
        p.nmi = false;
        assert_eq!(
            go(&v, p),
            Next::ExitToL1(ExitCause::AcknowledgedInterrupt(LAPIC))
        );
        p.interrupt = None;
        assert_eq!(go(&v, p), Next::Nothing);
    }

    #[test]
    fn pending_entry_comes_before_any_event() {
        let v = exiting();
        for pending in [
            Pending { init: true, ..NONE },
            Pending {
                exception: fault(6),
                ..NONE
            },
            Pending {
                exception: fault(14),
                ..NONE
            },
            Pending { mtf: true, ..NONE },
            Pending {
                timer: true,
                ..NONE
            },
            Pending { smi: true, ..NONE },
            Pending { nmi: true, ..NONE },
            Pending {
                interrupt: Some(LAPIC),
                ..NONE
            },
        ] {
            for run_pending in [RunPending::Entry, RunPending::Restored] {
                let next = next(&v, run_pending, ActivityState::Active, &pending);
                assert_eq!(next, Next::Later, "{pending:?}");
            }
        }
    }

    #[test]
    fn interrupted_delivery_holds_events_but_not_exceptions() {
        let v = exiting();
        let p = Pending {
            reinjection: true,
            ..NONE
        };
        assert_eq!(go(&v, Pending { nmi: true, ..p }), Next::Later);
        assert_eq!(
            go(
                &v,
                Pending {
                    interrupt: Some(LAPIC),
                    ..p
                }
            ),
            Next::Later
        );
        let exit = Next::ExitToL1(ExitCause::Exception);
        assert_eq!(
            go(
                &v,
                Pending {
                    exception: fault(6),
                    ..p
                }
            ),
            exit
        );
    }

    #[test]
    fn exceptions_follow_the_bitmap() {
        let v = exiting();
        let go = |exception| go(&v, Pending { exception, ..NONE });
        assert_eq!(go(fault(6)), Next::ExitToL1(ExitCause::Exception));
        assert_eq!(go(fault(13)), Next::DeliverException);
    }

    #[test]
    fn page_fault_goes_to_l1_by_its_error_code() {
        let mut v = exiting();
        v.write(EXCEPTION_BITMAP, 1 << 14);
        v.write(PAGE_FAULT_ERROR_CODE_MASK, 2);
        v.write(PAGE_FAULT_ERROR_CODE_MATCH, 2);
        for (error_code, next) in [
            (7, Next::ExitToL1(ExitCause::Exception)),
            (5, Next::DeliverException),
        ] {
            let exception = fault(14).map(|fault| PendingException {
                error_code,
                ..fault
            });
            assert_eq!(go(&v, Pending { exception, ..NONE }), next);
        }
    }

    #[test]
    fn sipi_means_nothing_to_an_l2_that_runs() {
        let p = Pending {
            sipi: Some(9),
            nmi: true,
            ..NONE
        };
        assert_eq!(go(&exiting(), p), Next::DropSipi);
    }

    #[test]
    fn exits_ignore_what_l2_blocks_but_delivery_does_not() {
        let p = Pending {
            nmi: true,
            nmi_blocked: true,
            interrupt: Some(LAPIC),
            interrupt_blocked: true,
            ..NONE
        };
        assert_eq!(go(&exiting(), p), Next::ExitToL1(ExitCause::Nmi));
        let p = Pending { nmi: false, ..p };
        assert!(matches!(go(&exiting(), p), Next::ExitToL1(_)));
        let none = vmcs12(PinCtls(0), ExitCtls(0));
        assert_eq!(go(&none, Pending { nmi: true, ..p }), Next::Nothing);
        assert_eq!(
            go(
                &none,
                Pending {
                    interrupt_blocked: false,
                    ..p
                }
            ),
            Next::DeliverInterrupt
        );
        let nmi = Pending {
            nmi: true,
            nmi_blocked: false,
            ..p
        };
        assert_eq!(go(&none, nmi), Next::DeliverNmi);
    }

    #[test]
    fn blocked_nmi_does_not_hide_an_interrupt() {
        let v = vmcs12(PinCtls(0).with_ext_intr_exiting(true), ExitCtls(0));
        let p = Pending {
            nmi: true,
            nmi_blocked: true,
            interrupt: Some(LAPIC),
            ..NONE
        };
        assert_eq!(go(&v, p), Next::ExitToL1(ExitCause::Interrupt));
    }

    #[test]
    fn interrupt_is_acknowledged_only_if_l1_asks() {
        let pin = PinCtls(0).with_ext_intr_exiting(true);
        let p = Pending {
            interrupt: Some(Interrupt::Pic),
            ..NONE
        };
        let plain = vmcs12(pin, ExitCtls(0));
        assert_eq!(go(&plain, p), Next::ExitToL1(ExitCause::Interrupt));
        let ack = vmcs12(pin, ExitCtls(0).with_ack_intr(true));
        let cause = ExitCause::AcknowledgedInterrupt(Interrupt::Pic);
        assert_eq!(go(&ack, p), Next::ExitToL1(cause));
    }

    #[test]
    fn notification_vector_is_processed_even_with_an_entry_pending() {
        let mut v = exiting();
        let pin = PinCtls(v.read(PIN_BASED_VM_EXEC_CONTROL)).with_posted_intr(true);
        v.write(PIN_BASED_VM_EXEC_CONTROL, pin.0);
        v.write(POSTED_INTR_NV, 0x40);
        let p = Pending {
            interrupt: Some(LAPIC),
            ..NONE
        };
        let posted = Next::ProcessPosted { vector: 0x40 };
        let active = ActivityState::Active;
        assert_eq!(next(&v, RunPending::Entry, active, &p), posted);
        assert_eq!(
            go(
                &v,
                Pending {
                    reinjection: true,
                    ..p
                }
            ),
            Next::Later
        );
        v.write(POSTED_INTR_NV, 0x41);
        assert!(matches!(go(&v, p), Next::ExitToL1(_)), "another vector");
        v.write(POSTED_INTR_NV, 0x40);
        v.write(PIN_BASED_VM_EXEC_CONTROL, pin.with_posted_intr(false).0);
        assert!(
            matches!(go(&v, p), Next::ExitToL1(_)),
            "posted interrupts are off"
        );
    }

    #[test]
    fn wait_for_sipi_takes_a_sipi_and_nothing_else() {
        let v = exiting();
        let go = |p| next(&v, RunPending::No, ActivityState::WaitForSipi, &p);
        let sipi = Next::ExitToL1(ExitCause::Sipi { vector: 9 });
        assert_eq!(
            go(Pending {
                sipi: Some(9),
                nmi: true,
                ..NONE
            }),
            sipi
        );
        assert_eq!(go(Pending { init: true, ..NONE }), Next::DropInit);
        let rest = Pending {
            nmi: true,
            mtf: true,
            interrupt: Some(LAPIC),
            ..NONE
        };
        assert_eq!(go(rest), Next::Nothing);
    }
}
