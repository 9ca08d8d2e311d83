// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::x86::event::Protection;
use proptest::prelude::*;

fn open() -> Blocking {
    Blocking {
        interrupts_enabled: true,
        ..Blocking::default()
    }
}

fn blocked_by(interruptibility: Interruptibility) -> Blocking {
    Blocking {
        interruptibility,
        ..open()
    }
}

fn exception(vector: u8) -> Event {
    Event::Exception {
        vector,
        error_code: None,
    }
}

#[test]
fn exception_goes_before_smi_nmi_and_interrupt_which_get_their_windows() {
    let mut q = EventQueue::new();
    q.add_smi();
    q.add_nmis(1, Interruptibility(0));
    q.raise(Exception::UD);
    let d = q.next(&open(), true);
    assert_eq!(d.inject, Inject::Event(exception(vector::UD)));
    assert!(d.smi_waits && d.nmi_window && d.interrupt_window);
    assert_eq!(
        q.complete(EventInfo(0), 0, 0),
        Ok(Completion::Delivered(exception(vector::UD)))
    );
    assert_eq!(q.next(&open(), true).inject, Inject::EnterSmm);
    let d = q.next(&open(), true);
    assert_eq!(d.inject, Inject::Event(Event::Nmi));
    assert!(!d.nmi_window && d.interrupt_window);
    assert_eq!(
        q.complete(EventInfo(0), 0, 0),
        Ok(Completion::Delivered(Event::Nmi))
    );
    let d = q.next(&open(), true);
    assert_eq!(d.inject, Inject::AcknowledgeInterrupt);
    assert!(!d.interrupt_window);
    assert_eq!(q.next(&open(), false).inject, Inject::Nothing);
}

#[test]
fn quiet_is_a_queue_that_each_kind_of_event_disturbs() {
    assert!(EventQueue::new().is_quiet());
    let disturb: [fn(&mut EventQueue); 5] = [
        |q| {
            let _ = q.raise(Exception::UD);
        },
        |q| q.inject(Event::Interrupt { vector: 0x40 }),
        |q| q.add_nmis(1, Interruptibility(0)),
        EventQueue::add_smi,
        EventQueue::add_triple_fault,
    ];
    for (n, disturb) in disturb.iter().enumerate() {
        let mut q = EventQueue::new();
        disturb(&mut q);
        assert!(!q.is_quiet(), "event {n}");
    }
}

#[test]
fn shadows_and_flags_block_what_they_should() {
    let none = Interruptibility(0);
    let cases = [
        // blocking, IF, NMI goes, interrupt goes
        (none, true, true, true),
        (none, false, true, false),
        (none.with_sti(true), true, false, false),
        (none.with_mov_ss(true), true, false, false),
        (none.with_nmi(true), true, false, true),
    ];
    for (interruptibility, interrupts_enabled, nmi_goes, interrupt_goes) in cases {
        let b = Blocking {
            interruptibility,
            interrupts_enabled,
            ..Blocking::default()
        };
        let mut q = EventQueue::new();
        q.add_nmis(1, interruptibility);
        let d = q.next(&b, false);
        assert_eq!(d.inject == Inject::Event(Event::Nmi), nmi_goes, "{b:?}");
        assert_eq!(d.nmi_window, !nmi_goes, "{b:?}");
        let d = EventQueue::new().next(&b, true);
        assert_eq!(
            d.inject == Inject::AcknowledgeInterrupt,
            interrupt_goes,
            "{b:?}"
        );
        assert_eq!(d.interrupt_window, !interrupt_goes, "{b:?}");
    }
}

#[test]
fn smi_waits_in_smm() {
    let mut q = EventQueue::new();
    q.add_smi();
    let d = q.next(
        &Blocking {
            is_smm: true,
            ..open()
        },
        false,
    );
    assert_eq!((d.inject, d.smi_waits), (Inject::Nothing, true));
    assert!(
        !q.wakes(&Blocking {
            is_smm: true,
            ..open()
        }) && q.wakes(&open())
    );
}

#[test]
fn debugger_blocks_asynchronous_events_only() {
    let mut q = EventQueue::new();
    q.add_nmis(1, Interruptibility(0));
    q.raise(Exception::UD);
    let d = q.next(
        &Blocking {
            debugger_blocks: true,
            ..open()
        },
        true,
    );
    assert_eq!(d.inject, Inject::Event(exception(vector::UD)));
    assert!(!d.nmi_window && !d.interrupt_window);
    assert_eq!(q.nmis(), 1);
}

#[test]
fn nmis_collapse_at_two_or_at_one_while_blocked() {
    let mut q = EventQueue::new();
    q.add_nmis(255, Interruptibility(0));
    assert_eq!(q.nmis(), 2);
    let mut q = EventQueue::new();
    q.add_nmis(3, Interruptibility(0).with_nmi(true));
    assert_eq!(q.nmis(), 1);
    let mut q = EventQueue::new();
    q.inject(Event::Nmi);
    q.add_nmis(2, Interruptibility(0));
    assert_eq!(q.nmis(), 1);
}

#[test]
fn interrupted_delivery_is_repeated_with_its_details() {
    let events = [
        Event::Interrupt { vector: 0x41 },
        Event::Nmi,
        Event::Exception {
            vector: vector::GP,
            error_code: Some(0x10),
        },
        Event::SoftwareInterrupt {
            vector: 0x80,
            length: 3,
        },
        Event::PrivilegedSoftwareException {
            vector: 0x30,
            length: 1,
        },
        Event::SoftwareException {
            vector: vector::OF,
            length: 1,
        },
    ];
    for event in events {
        let mut q = EventQueue::new();
        let i = event.encode(Protection::Protected);
        let (code, length) = (i.error_code.unwrap_or(0), i.instruction_length.unwrap_or(0));
        assert_eq!(
            q.complete(i.info, code, length),
            Ok(Completion::Interrupted(event))
        );
        let d = q.next(&open(), true);
        assert_eq!(d.inject, Inject::Event(event));
        assert!(d.interrupt_window && !d.set_rf && d.payload.is_none());
    }
}

#[test]
fn undefined_vectoring_type_is_a_bug() {
    let mut q = EventQueue::new();
    assert!(q
        .complete(EventInfo(0).with_valid(true).with_kind(1), 0, 0)
        .is_err());
}

#[test]
fn fault_in_delivery_replaces_the_event_and_keeps_nmi_blocking() {
    let mut q = EventQueue::new();
    q.inject(Event::Nmi);
    assert_eq!(
        q.raise(Exception::page_fault(crate::addr::Gva(0x1000), 0)),
        Raised::Pending
    );
    let d = q.next(&open(), false);
    assert_eq!(
        d.inject,
        Inject::Event(Event::Exception {
            vector: 14,
            error_code: Some(0)
        })
    );
    assert!(d.block_nmi);
    assert_eq!(d.payload, Some(Payload::Cr2(0x1000)));
}

#[test]
fn second_fault_makes_a_double_and_the_third_a_shutdown() {
    let mut q = EventQueue::new();
    q.inject(exception(vector::PF));
    assert_eq!(q.raise(Exception::GP0), Raised::DoubleFault);
    let d = q.next(&open(), false);
    let df = Event::Exception {
        vector: vector::DF,
        error_code: Some(0),
    };
    assert_eq!(d.inject, Inject::Event(df));
    assert!(!d.set_rf);
    assert_eq!(q.raise(Exception::GP0), Raised::TripleFault);
    assert_eq!(q.next(&open(), true).inject, Inject::Shutdown);
    assert!(q.take_triple_fault() && !q.take_triple_fault());
    assert_eq!(q, EventQueue::new());
}

#[test]
fn rf_is_set_for_faults_only_and_gd_cleared_for_db() {
    for v in 0u8..32 {
        let mut q = EventQueue::new();
        q.raise(Exception::plain(v));
        let d = q.next(&open(), false);
        let traps = [
            vector::DB,
            2,
            vector::BP,
            vector::OF,
            vector::DF,
            vector::MC,
        ];
        assert_eq!(d.set_rf, !traps.contains(&v), "vector {v}");
        assert_eq!(d.clear_gd, v == vector::DB);
    }
    let mut q = EventQueue::new();
    q.raise_software(vector::BP, 1);
    let d = q.next(&open(), false);
    assert_eq!(
        d.inject,
        Inject::Event(Event::SoftwareException {
            vector: 3,
            length: 1
        })
    );
}

#[test]
fn payload_is_handed_out_once() {
    let mut q = EventQueue::new();
    q.raise(Exception {
        vector: vector::DB,
        error_code: None,
        payload: Some(0x4000),
    });
    assert_eq!(q.take_payload(), Some(Payload::Dr6(0x4000)));
    assert_eq!(q.take_payload(), None);
    let d = q.next(&open(), false);
    assert_eq!(
        (d.inject, d.payload),
        (Inject::Event(exception(vector::DB)), None)
    );
}

#[test]
fn wakes_follow_nmi_blocking() {
    let mut q = EventQueue::new();
    assert!(!q.wakes(&open()));
    q.add_nmis(1, Interruptibility(0));
    assert!(q.wakes(&open()));
    assert!(!q.wakes(&blocked_by(Interruptibility(0).with_nmi(true))));
}

/// One step of a vCPU's life, for the conservation test.
#[derive(Clone, Copy, Debug)]
enum Step {
    Raise(u8),
    Nmi,
    Interrupt,
    /// Enter; the exit comes after the delivery.
    EnterDelivered,
    /// Enter; the exit cuts the delivery short.
    EnterInterrupted,
    /// `next()`, then the entry is called off.
    CalledOff,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0u8..32).prop_filter("NMI", |v| *v != 2).prop_map(Step::Raise),
        2 => Just(Step::Nmi),
        3 => Just(Step::Interrupt),
        4 => Just(Step::EnterDelivered),
        3 => Just(Step::EnterInterrupted),
        1 => Just(Step::CalledOff),
    ]
}

/// A naive account: each event is counted where it is.
#[derive(Default)]
struct Account {
    interrupts_waiting: u32,
    interrupts_raised: u32,
    interrupts_delivered: u32,
    interrupts_void: u32,
    nmis_accepted: u32,
    nmis_delivered: u32,
    nmis_void: u32,
}

impl Account {
    fn enter(&mut self, q: &mut EventQueue, b: &Blocking) -> Option<Event> {
        let before = q.injected();
        let had_exception = q.pending().is_some();
        let d = q.next(b, self.interrupts_waiting > 0);
        if had_exception {
            // The fault voids the event in whose delivery it occurred, as in hardware.
            self.interrupts_void += u32::from(matches!(before, Some(Event::Interrupt { .. })));
            self.nmis_void += u32::from(before == Some(Event::Nmi));
        }
        let is_event = matches!(d.inject, Inject::Event(_));
        assert!(!is_event || self.interrupts_waiting == 0 || d.interrupt_window);
        assert_eq!(d.nmi_window, q.nmis() > 0);
        match d.inject {
            Inject::Event(event) => {
                assert_eq!(q.injected(), Some(event));
                Some(event)
            }
            Inject::AcknowledgeInterrupt => {
                self.interrupts_waiting -= 1;
                Some(q.inject_interrupt(0x40))
            }
            _ => None,
        }
    }

    fn deliver(&mut self, event: Option<Event>) {
        self.interrupts_delivered += u32::from(matches!(event, Some(Event::Interrupt { .. })));
        self.nmis_delivered += u32::from(event == Some(Event::Nmi));
    }

    fn check(&self, q: &EventQueue) {
        let interrupt = u32::from(matches!(q.injected(), Some(Event::Interrupt { .. })));
        let nmi = u32::from(q.injected() == Some(Event::Nmi));
        assert_eq!(
            self.interrupts_raised,
            self.interrupts_waiting + self.interrupts_delivered + self.interrupts_void + interrupt
        );
        assert_eq!(
            self.nmis_accepted,
            u32::from(q.nmis()) + self.nmis_delivered + self.nmis_void + nmi
        );
    }
}

proptest! {
    /// Every interrupt and NMI is in exactly one place, whatever the order of things.
    #[test]
    fn no_event_is_lost_or_doubled(
        steps in proptest::collection::vec((any_step(), 0u32..16, any::<bool>()), 1..60),
    ) {
        let mut q = EventQueue::new();
        let mut account = Account::default();
        for (step, state, interrupts_enabled) in steps {
            let interruptibility = Interruptibility(state);
            let b = Blocking { interruptibility, interrupts_enabled, ..Blocking::default() };
            if q.is_quiet() {
                let before = q;
                let d = q.next(&b, false);
                let windows = d.nmi_window || d.interrupt_window || d.smi_waits;
                prop_assert!(d.inject == Inject::Nothing && !windows && q == before);
            }
            match step {
                Step::Raise(vector) => {
                    let before = q.injected();
                    if q.raise(Exception::plain(vector)) == Raised::TripleFault {
                        let is_interrupt = matches!(before, Some(Event::Interrupt { .. }));
                        account.interrupts_void += u32::from(is_interrupt);
                        account.nmis_void += u32::from(before == Some(Event::Nmi));
                        q.take_triple_fault();
                    }
                }
                Step::Nmi => {
                    let before = q.nmis();
                    q.add_nmis(1, interruptibility);
                    prop_assert!(q.nmis() >= before.min(1));
                    account.nmis_accepted += u32::from(q.nmis().saturating_sub(before));
                    // Blocking that has come since lowers the limit: the excess collapses.
                    account.nmis_void += u32::from(before.saturating_sub(q.nmis()));
                }
                Step::Interrupt => {
                    account.interrupts_raised += 1;
                    account.interrupts_waiting += 1;
                }
                Step::EnterDelivered => {
                    let event = account.enter(&mut q, &b);
                    let done = q.complete(EventInfo(0), 0, 0).unwrap();
                    let expected = event.map_or(Completion::Nothing, Completion::Delivered);
                    prop_assert_eq!(done, expected);
                    account.deliver(event);
                }
                Step::EnterInterrupted => {
                    let event = account.enter(&mut q, &b);
                    if let Some(event) = event {
                        let i = event.encode(Protection::Protected);
                        let length = i.instruction_length.unwrap_or(0);
                        let done = q.complete(i.info, i.error_code.unwrap_or(0), length).unwrap();
                        prop_assert_eq!(done, Completion::Interrupted(event));
                    }
                }
                Step::CalledOff => { account.enter(&mut q, &b); }
            }
            account.check(&q);
        }
    }
}
