// SPDX-License-Identifier: GPL-2.0

//! Events between L0's queue and vmcs12: what VM entry of L1 asks to inject, and what a VM exit to L1
//! says of a delivery that it cut short or of an exception that it takes.

use super::super::event::{
    Event,
    EventInfo,
    Protection, //
};
use super::super::vmx::ctls::{
    IntrInfo,
    IntrType, //
};
use super::super::vmx::exit::ExitReason;
use super::super::vmx::field::*;
use super::vmcs12::Vmcs12;
use crate::outcome::vector;

/// What VM entry is to deliver. SDM 3C "Event Injection", 27.6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Injection {
    /// Nothing.
    Nothing,
    /// An event through L2's IDT.
    Event(Event),
    /// A pending monitor-trap-flag exit.
    Mtf,
}

/// Returns what the event fields of vmcs12, which have passed the checks, ask for.
pub fn injection(v: &Vmcs12) -> Injection {
    let raw = v.read(VM_ENTRY_INTR_INFO_FIELD);
    if IntrInfo(raw).is(IntrType::OtherEvent, 0) {
        return Injection::Mtf;
    }
    let code = v.read(VM_ENTRY_EXCEPTION_ERROR_CODE);
    let length = v.read(VM_ENTRY_INSTRUCTION_LEN);
    match Event::decode(EventInfo(raw), code, length) {
        Ok(Some(event)) => Injection::Event(event),
        // The checks admit no other type.
        Ok(None) | Err(_) => Injection::Nothing,
    }
}

/// IDT-vectoring information of a VM exit to L1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Vectoring {
    /// IDT-vectoring information.
    pub info: u32,
    /// IDT-vectoring error code.
    pub error_code: u32,
    /// VM-exit instruction length, which software events define.
    pub instruction_len: Option<u32>,
}

/// Returns the IDT-vectoring information of an exit for `reason`, with the VM-exit interruption
/// information `intr_info`, while `event` was being delivered. Triple faults and double faults are
/// no exits "during event delivery". SDM 3C "Information for VM Exits That Occur During Event
/// Delivery", 28.2.4.
pub fn of_exit(
    event: Option<Event>,
    reason: ExitReason,
    intr_info: u32,
    protection: Protection,
) -> Vectoring {
    let is_double_fault = reason == ExitReason::ExceptionNmi
        && IntrInfo(intr_info).is(IntrType::HardwareException, vector::DF);
    let Some(event) = event.filter(|_| !is_double_fault && reason != ExitReason::TripleFault)
    else {
        return Vectoring::default();
    };
    let encoded = event.encode(protection);
    Vectoring {
        info: encoded.info.0,
        error_code: encoded.error_code.unwrap_or(0),
        instruction_len: encoded.instruction_length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PF: Event = Event::Exception {
        vector: vector::PF,
        error_code: Some(6),
    };
    const PROTECTED: Protection = Protection::Protected;

    fn vmcs12(info: u32) -> Vmcs12 {
        let mut v = Vmcs12::new();
        v.write(VM_ENTRY_INTR_INFO_FIELD, info);
        v.write(VM_ENTRY_EXCEPTION_ERROR_CODE, 6);
        v.write(VM_ENTRY_INSTRUCTION_LEN, 2);
        v
    }

    #[test]
    fn vmcs12_fields_become_the_event() {
        assert_eq!(injection(&vmcs12(0x0b0e)), Injection::Nothing, "not valid");
        let pf = 0x8000_0b0e;
        assert_eq!(injection(&vmcs12(pf)), Injection::Event(PF));
        let int80 = Event::SoftwareInterrupt {
            vector: 0x80,
            length: 2,
        };
        assert_eq!(injection(&vmcs12(0x8000_0480)), Injection::Event(int80));
        assert_eq!(injection(&vmcs12(0x8000_0700)), Injection::Mtf);
    }

    #[test]
    fn interrupted_delivery_reads_as_it_was_injected() {
        let v = of_exit(Some(PF), ExitReason::EptViolation, 0, PROTECTED);
        assert_eq!((v.info, v.error_code), (0x8000_0b0e, 6));
        assert_eq!(v.instruction_len, None);
        let int3 = Event::SoftwareException {
            vector: 3,
            length: 1,
        };
        let v = of_exit(Some(int3), ExitReason::TaskSwitch, 0, PROTECTED);
        assert_eq!((v.info, v.instruction_len), (0x8000_0603, Some(1)));
    }

    #[test]
    fn no_event_leaves_the_information_invalid() {
        let v = of_exit(None, ExitReason::Cpuid, 0, PROTECTED);
        assert_eq!(v, Vectoring::default());
    }

    #[test]
    fn double_and_triple_faults_are_no_delivery() {
        let double = 0x8000_0b08;
        let v = of_exit(Some(PF), ExitReason::ExceptionNmi, double, PROTECTED);
        assert_eq!(v.info, 0);
        let v = of_exit(Some(PF), ExitReason::TripleFault, 0, PROTECTED);
        assert_eq!(v.info, 0);
        // A software interrupt with that vector is none.
        let soft = 0x8000_0408;
        let v = of_exit(Some(PF), ExitReason::ExceptionNmi, soft, PROTECTED);
        assert_ne!(v.info, 0);
    }
}
