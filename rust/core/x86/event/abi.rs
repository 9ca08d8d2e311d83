// SPDX-License-Identifier: GPL-2.0

//! The event queue as `KVM_GET_VCPU_EVENTS` and `KVM_SET_VCPU_EVENTS` show it.

use crate::outcome::vector;
use crate::outcome::Exception;
use crate::x86::event::queue::EventQueue;
use crate::x86::event::queue::Pending;
use crate::x86::event::Event;
use crate::x86::event::Interruptibility;

/// `KVM_VCPUEVENT_VALID_*`: which parts of the structure count.
pub mod flag {
    /// `nmi.pending`.
    pub const NMI_PENDING: u32 = 1 << 0;
    /// `sipi_vector`.
    pub const SIPI_VECTOR: u32 = 1 << 1;
    /// `interrupt.shadow`.
    pub const SHADOW: u32 = 1 << 2;
    /// `smi`.
    pub const SMM: u32 = 1 << 3;
    /// `exception.pending`, `exception_has_payload` and `exception_payload`.
    pub const PAYLOAD: u32 = 1 << 4;
    /// `triple_fault`.
    pub const TRIPLE_FAULT: u32 = 1 << 5;
    /// Every flag that is defined.
    pub const ALL: u32 = NMI_PENDING | SIPI_VECTOR | SHADOW | SMM | PAYLOAD | TRIPLE_FAULT;
}

/// `KVM_X86_SHADOW_INT_MOV_SS`.
const SHADOW_MOV_SS: u8 = 1;
/// `KVM_X86_SHADOW_INT_STI`.
const SHADOW_STI: u8 = 2;

/// The fields of `struct kvm_vcpu_events`, under their names there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the fields are those of the ABI's structure")]
pub struct VcpuEvents {
    pub exception_injected: u8,
    pub exception_nr: u8,
    pub exception_has_error_code: u8,
    pub exception_pending: u8,
    pub exception_error_code: u32,
    pub interrupt_injected: u8,
    pub interrupt_nr: u8,
    pub interrupt_soft: u8,
    pub interrupt_shadow: u8,
    pub nmi_injected: u8,
    pub nmi_pending: u8,
    pub nmi_masked: u8,
    pub sipi_vector: u32,
    pub flags: u32,
    pub smi_smm: u8,
    pub smi_pending: u8,
    pub smi_smm_inside_nmi: u8,
    pub smi_latched_init: u8,
    pub triple_fault_pending: u8,
    pub exception_has_payload: u8,
    pub exception_payload: u64,
}

/// Capabilities of the VM that change the structure's meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Enabled {
    /// `KVM_CAP_EXCEPTION_PAYLOAD` is enabled.
    pub exception_payload: bool,
    /// `KVM_CAP_X86_TRIPLE_FAULT_EVENT` is enabled.
    pub triple_fault_event: bool,
    /// The module emulates system-management mode.
    pub smm: bool,
}

/// The part of the structure that the queue does not hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Around {
    /// The guest's interruptibility state.
    pub interruptibility: Interruptibility,
    /// The vCPU is in system-management mode.
    pub is_smm: bool,
    /// System-management mode was entered while NMIs were blocked.
    pub smm_inside_nmi: bool,
    /// The local APIC holds an INIT back.
    pub latched_init: bool,
}

/// What `KVM_SET_VCPU_EVENTS` sets outside of the queue; `None` leaves a thing as it is.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changes {
    /// The new interruptibility state.
    pub interruptibility: Interruptibility,
    /// The vector for the local APIC's start-up IPI.
    pub sipi_vector: Option<u32>,
    /// Whether the vCPU is in system-management mode.
    pub is_smm: Option<bool>,
    /// Whether that mode was entered while NMIs were blocked.
    pub smm_inside_nmi: Option<bool>,
    /// Whether the local APIC holds an INIT back.
    pub latched_init: Option<bool>,
}

/// A structure that makes no sense: the ioctl fails with `EINVAL`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalid;

/// Returns the structure for `KVM_GET_VCPU_EVENTS`.
///
/// Software events are left out: the structure cannot hold their length, and the instruction
/// behind them runs again. Without `exception_payload` the caller first applies
/// [`EventQueue::take_payload`], and a pending exception is reported as injected too.
pub fn get(queue: &EventQueue, around: &Around, enabled: &Enabled) -> VcpuEvents {
    let mut events = VcpuEvents {
        flags: flag::NMI_PENDING | flag::SHADOW | flag::SMM,
        nmi_pending: queue.nmis,
        nmi_masked: u8::from(around.interruptibility.nmi()),
        interrupt_shadow: shadow_of(around.interruptibility),
        smi_smm: u8::from(around.is_smm),
        smi_pending: u8::from(queue.smi),
        smi_smm_inside_nmi: u8::from(around.smm_inside_nmi),
        smi_latched_init: u8::from(around.latched_init),
        ..VcpuEvents::default()
    };
    if enabled.exception_payload {
        events.flags |= flag::PAYLOAD;
    }
    if enabled.triple_fault_event {
        events.flags |= flag::TRIPLE_FAULT;
        events.triple_fault_pending = u8::from(queue.triple_fault);
    }
    get_injected(queue.injected, &mut events);
    if let Some(pending) = queue.pending {
        get_pending(&pending, enabled, &mut events);
    }
    events
}

fn get_injected(injected: Option<Event>, events: &mut VcpuEvents) {
    match injected {
        Some(Event::Interrupt { vector }) => {
            events.interrupt_injected = 1;
            events.interrupt_nr = vector;
        }
        Some(Event::Nmi) => events.nmi_injected = 1,
        Some(Event::Exception { vector, error_code }) => {
            events.exception_injected = 1;
            events.exception_nr = vector;
            events.exception_has_error_code = u8::from(error_code.is_some());
            events.exception_error_code = error_code.unwrap_or(0);
        }
        Some(
            Event::SoftwareInterrupt { .. }
            | Event::PrivilegedSoftwareException { .. }
            | Event::SoftwareException { .. },
        )
        | None => {}
    }
}

fn get_pending(pending: &Pending, enabled: &Enabled, events: &mut VcpuEvents) {
    if pending.software_length.is_some() {
        return;
    }
    let exception = &pending.exception;
    events.exception_pending = 1;
    events.exception_injected = u8::from(!enabled.exception_payload);
    events.exception_nr = exception.vector;
    events.exception_has_error_code = u8::from(exception.error_code.is_some());
    events.exception_error_code = exception.error_code.unwrap_or(0);
    events.exception_has_payload = u8::from(exception.payload.is_some());
    events.exception_payload = exception.payload.unwrap_or(0);
}

fn shadow_of(state: Interruptibility) -> u8 {
    let mov_ss = if state.mov_ss() { SHADOW_MOV_SS } else { 0 };
    let sti = if state.sti() { SHADOW_STI } else { 0 };
    mov_ss | sti
}

/// Sets the queue from the structure of `KVM_SET_VCPU_EVENTS`; on an error nothing has changed.
///
/// A software interrupt (`interrupt.soft`) is not taken over: its instruction runs again. Where
/// the structure names several injected events, the exception wins over the NMI, and that over
/// the interrupt: there is one delivery at a time.
///
/// # Errors
///
/// [`Invalid`] for an undefined flag, an exception that is none, or a flag whose capability is
/// not enabled.
pub fn set(
    queue: &mut EventQueue,
    events: &VcpuEvents,
    interruptibility: Interruptibility,
    enabled: &Enabled,
) -> Result<Changes, Invalid> {
    let has = |bit: u32| events.flags & bit != 0;
    check(events, enabled)?;
    let knows_pending = has(flag::PAYLOAD);
    let is_pending = knows_pending && events.exception_pending != 0;
    let is_injected = events.exception_injected != 0 && !is_pending;
    let exception = Exception {
        vector: events.exception_nr,
        error_code: (events.exception_has_error_code != 0).then_some(events.exception_error_code),
        payload: (events.exception_has_payload != 0).then_some(events.exception_payload),
    };
    queue.pending = is_pending.then_some(Pending {
        exception,
        software_length: None,
    });
    queue.injected = if is_injected {
        Some(Event::Exception {
            vector: exception.vector,
            error_code: exception.error_code,
        })
    } else if events.nmi_injected != 0 {
        Some(Event::Nmi)
    } else if events.interrupt_injected != 0 && events.interrupt_soft == 0 {
        Some(Event::Interrupt {
            vector: events.interrupt_nr,
        })
    } else {
        None
    };
    let mut state = interruptibility.with_nmi(events.nmi_masked != 0);
    if has(flag::SHADOW) {
        state = state
            .with_mov_ss(events.interrupt_shadow & SHADOW_MOV_SS != 0)
            .with_sti(events.interrupt_shadow & SHADOW_STI != 0);
    }
    if has(flag::NMI_PENDING) {
        queue.nmis = 0;
        queue.add_nmis(events.nmi_pending, state);
    }
    if has(flag::SMM) && enabled.smm {
        queue.smi = events.smi_pending != 0;
    }
    if has(flag::TRIPLE_FAULT) {
        queue.triple_fault = events.triple_fault_pending != 0;
    }
    Ok(changes(events, state, enabled))
}

fn check(events: &VcpuEvents, enabled: &Enabled) -> Result<(), Invalid> {
    let has = |bit: u32| events.flags & bit != 0;
    let is_pending = has(flag::PAYLOAD) && events.exception_pending != 0;
    let names_exception = is_pending || events.exception_injected != 0;
    let is_exception = events.exception_nr <= 31 && events.exception_nr != vector::NMI;
    let smi = events.smi_smm | events.smi_pending | events.smi_smm_inside_nmi;
    let is_bad = events.flags & !flag::ALL != 0
        || (has(flag::PAYLOAD) && !enabled.exception_payload)
        || (has(flag::TRIPLE_FAULT) && !enabled.triple_fault_event)
        || (has(flag::SMM) && !enabled.smm && smi != 0)
        || (names_exception && !is_exception);
    if is_bad {
        Err(Invalid)
    } else {
        Ok(())
    }
}

fn changes(events: &VcpuEvents, interruptibility: Interruptibility, enabled: &Enabled) -> Changes {
    let has_smm = events.flags & flag::SMM != 0;
    let is_smm = has_smm && enabled.smm;
    Changes {
        interruptibility,
        sipi_vector: (events.flags & flag::SIPI_VECTOR != 0).then_some(events.sipi_vector),
        is_smm: is_smm.then_some(events.smi_smm != 0),
        smm_inside_nmi: (is_smm && events.smi_smm != 0).then_some(events.smi_smm_inside_nmi != 0),
        latched_init: has_smm.then_some(events.smi_latched_init != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: Enabled = Enabled {
        exception_payload: true,
        triple_fault_event: true,
        smm: true,
    };

    fn page_fault() -> Exception {
        Exception {
            vector: vector::PF,
            error_code: Some(2),
            payload: Some(0xabc),
        }
    }

    fn round_trip(queue: &EventQueue) -> EventQueue {
        let events = get(queue, &Around::default(), &PAYLOAD);
        let mut copy = EventQueue::new();
        let changes = set(&mut copy, &events, Interruptibility(0), &PAYLOAD);
        assert!(changes.is_ok());
        copy
    }

    #[test]
    fn queues_survive_save_and_restore() {
        let mut pending = EventQueue::new();
        pending.raise(page_fault());
        pending.add_nmis(2, Interruptibility(0));
        pending.add_smi();
        assert_eq!(round_trip(&pending), pending);

        let mut both = EventQueue::new();
        both.inject(Event::Interrupt { vector: 0x31 });
        both.raise(page_fault());
        assert_eq!(round_trip(&both), both);

        let mut dead = EventQueue::new();
        dead.inject(Event::Nmi);
        dead.add_triple_fault();
        assert_eq!(round_trip(&dead), dead);

        let mut injected = EventQueue::new();
        injected.inject(Event::Exception {
            vector: vector::GP,
            error_code: Some(0x18),
        });
        assert_eq!(round_trip(&injected), injected);
    }

    #[test]
    fn software_events_are_left_to_run_again() {
        let mut q = EventQueue::new();
        q.inject(Event::SoftwareInterrupt {
            vector: 0x80,
            length: 2,
        });
        q.raise_software(vector::BP, 1);
        assert_eq!(round_trip(&q), EventQueue::new());
    }

    #[test]
    fn without_payloads_pending_is_reported_as_injected() {
        let mut q = EventQueue::new();
        q.raise(page_fault());
        let off = Enabled::default();
        let events = get(&q, &Around::default(), &off);
        assert_eq!(
            (events.exception_injected, events.exception_pending),
            (1, 1)
        );
        assert_eq!(events.flags & flag::PAYLOAD, 0);
        let mut copy = EventQueue::new();
        assert!(set(&mut copy, &events, Interruptibility(0), &off).is_ok());
        let expected = Event::Exception {
            vector: vector::PF,
            error_code: Some(2),
        };
        assert_eq!((copy.injected(), copy.pending()), (Some(expected), None));
    }

    #[test]
    fn nonsense_is_refused_and_changes_nothing() {
        let refused = |events: VcpuEvents, enabled: Enabled| {
            let mut q = EventQueue::new();
            q.add_smi();
            let before = q;
            assert_eq!(
                set(&mut q, &events, Interruptibility(0), &enabled),
                Err(Invalid)
            );
            assert_eq!(q, before);
        };
        let e = VcpuEvents::default();
        refused(VcpuEvents { flags: 1 << 6, ..e }, PAYLOAD);
        refused(
            VcpuEvents {
                exception_injected: 1,
                exception_nr: 2,
                ..e
            },
            PAYLOAD,
        );
        refused(
            VcpuEvents {
                exception_injected: 1,
                exception_nr: 32,
                ..e
            },
            PAYLOAD,
        );
        let pending = VcpuEvents {
            exception_pending: 1,
            exception_nr: 32,
            flags: flag::PAYLOAD,
            ..e
        };
        refused(pending, PAYLOAD);
        refused(
            VcpuEvents {
                flags: flag::PAYLOAD,
                ..e
            },
            Enabled::default(),
        );
        refused(
            VcpuEvents {
                flags: flag::TRIPLE_FAULT,
                ..e
            },
            Enabled::default(),
        );
        refused(
            VcpuEvents {
                flags: flag::SMM,
                smi_smm: 1,
                ..e
            },
            Enabled::default(),
        );
    }

    #[test]
    fn pending_counts_only_with_the_payload_flag() {
        let events = VcpuEvents {
            exception_pending: 1,
            exception_nr: 200,
            ..VcpuEvents::default()
        };
        let mut q = EventQueue::new();
        assert!(set(&mut q, &events, Interruptibility(0), &PAYLOAD).is_ok());
        assert_eq!(q, EventQueue::new());
    }

    #[test]
    fn pending_wins_over_injected() {
        let events = VcpuEvents {
            exception_injected: 1,
            exception_pending: 1,
            exception_nr: vector::UD,
            flags: flag::PAYLOAD,
            ..VcpuEvents::default()
        };
        let mut q = EventQueue::new();
        assert!(set(&mut q, &events, Interruptibility(0), &PAYLOAD).is_ok());
        assert_eq!(q.injected(), None);
        assert_eq!(q.pending().map(|p| p.exception), Some(Exception::UD));
    }

    #[test]
    fn blocking_is_set_as_flagged() {
        let mut q = EventQueue::new();
        let old = Interruptibility(0).with_sti(true);
        let events = VcpuEvents {
            nmi_masked: 1,
            interrupt_shadow: 1,
            ..VcpuEvents::default()
        };
        let changes = set(&mut q, &events, old, &PAYLOAD).unwrap();
        assert_eq!(changes.interruptibility, old.with_nmi(true));
        let events = VcpuEvents {
            flags: flag::SHADOW,
            ..events
        };
        let changes = set(&mut q, &events, old, &PAYLOAD).unwrap();
        assert_eq!(changes.interruptibility.0, 0b1010);
        let around = Around {
            interruptibility: changes.interruptibility,
            ..Around::default()
        };
        let shown = get(&q, &around, &PAYLOAD);
        assert_eq!((shown.interrupt_shadow, shown.nmi_masked), (1, 1));
    }
}
