// SPDX-License-Identifier: GPL-2.0

//! Exceptions, interrupts and NMIs: pending, injected, blocked.
//!
//! - This file: an [`Event`] as VMX delivers it, and its encoding in the VM-entry, VM-exit and
//!   IDT-vectoring information fields.
//! - [`merge`]: two exceptions at once, up to the triple fault.
//! - [`queue`]: the vCPU's [`queue::EventQueue`], and what to inject on the next VM entry.
//! - [`abi`]: the queue as `KVM_GET_VCPU_EVENTS` and `KVM_SET_VCPU_EVENTS` show it.
//!
//! Above: the glue writes an [`Injection`] into the VMCS and asks for windows.

use crate::outcome::vector;
use crate::outcome::Bug;

pub mod abi;
pub mod merge;
pub mod queue;

bitfield! {
    /// The format of VM-entry interruption information, VM-exit interruption information and
    /// IDT-vectoring information. SDM 3C "VM-Entry Controls for Event Injection", 25.8.3.
    pub struct EventInfo(u32) {
        /// The vector.
        7:0 vector, with_vector => u8;
        /// The interruption type, see [`kind`].
        10:8 kind, with_kind => u8;
        /// There is an error code.
        11:11 has_error_code, with_has_error_code => bool;
        /// In VM-exit interruption information: an IRET unblocked NMIs before the event.
        12:12 nmi_unblocked, with_nmi_unblocked => bool;
        /// The field holds an event.
        31:31 valid, with_valid => bool;
    }
}

/// Interruption types. SDM 3C "VM-Entry Controls for Event Injection", 25.8.3.
pub mod kind {
    /// External interrupt.
    pub const EXTERNAL_INTERRUPT: u8 = 0;
    /// Non-maskable interrupt.
    pub const NMI: u8 = 2;
    /// Hardware exception.
    pub const HARDWARE_EXCEPTION: u8 = 3;
    /// Software interrupt: INT n.
    pub const SOFTWARE_INTERRUPT: u8 = 4;
    /// Privileged software exception: INT1.
    pub const PRIVILEGED_SOFTWARE_EXCEPTION: u8 = 5;
    /// Software exception: INT3, INTO.
    pub const SOFTWARE_EXCEPTION: u8 = 6;
    /// Other event (MTF on VM entry, SYSCALL and its kin under FRED).
    pub const OTHER: u8 = 7;
}

bitfield! {
    /// Guest interruptibility state. SDM 3C "Guest Non-Register State", 25.4.2.
    pub struct Interruptibility(u32) {
        /// Blocking by STI, for one instruction.
        0:0 sti, with_sti => bool;
        /// Blocking by MOV SS or POP SS, for one instruction.
        1:1 mov_ss, with_mov_ss => bool;
        /// Blocking by SMI.
        2:2 smi, with_smi => bool;
        /// Blocking by NMI.
        3:3 nmi, with_nmi => bool;
    }
}

impl Interruptibility {
    /// Returns whether the next instruction boundary takes no external interrupt.
    #[inline]
    pub fn has_shadow(self) -> bool {
        self.sti() || self.mov_ss()
    }
}

/// An event as VM entry delivers it through the IDT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An interrupt that the interrupt controller handed over: it is in service there.
    Interrupt {
        /// The vector.
        vector: u8,
    },
    /// A non-maskable interrupt.
    Nmi,
    /// An exception that hardware raises.
    Exception {
        /// The vector, 0 to 31, not that of an NMI.
        vector: u8,
        /// The error code that is pushed (in protected mode).
        error_code: Option<u32>,
    },
    /// INT n.
    SoftwareInterrupt {
        /// The vector.
        vector: u8,
        /// The instruction's length in bytes.
        length: u8,
    },
    /// INT1; a hypervisor may inject the type with any vector.
    PrivilegedSoftwareException {
        /// #DB, if it is an INT1 of the guest.
        vector: u8,
        /// The instruction's length in bytes.
        length: u8,
    },
    /// INT3 or INTO.
    SoftwareException {
        /// #BP or #OF.
        vector: u8,
        /// The instruction's length in bytes.
        length: u8,
    },
}

/// The values of the VM-entry fields that deliver an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injection {
    /// VM-entry interruption-information field.
    pub info: EventInfo,
    /// VM-entry exception error code; the field is ignored where this is `None`.
    pub error_code: Option<u32>,
    /// VM-entry instruction length; the field is ignored where this is `None`.
    pub instruction_length: Option<u32>,
}

/// The guest's CR0.PE, which decides whether exceptions push error codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// CR0.PE is clear.
    RealMode,
    /// CR0.PE is set.
    Protected,
}

impl Event {
    /// Returns the vector under which the guest sees the event.
    #[inline]
    pub const fn vector(self) -> u8 {
        match self {
            Self::Interrupt { vector }
            | Self::Exception { vector, .. }
            | Self::SoftwareInterrupt { vector, .. }
            | Self::PrivilegedSoftwareException { vector, .. }
            | Self::SoftwareException { vector, .. } => vector,
            Self::Nmi => vector::NMI,
        }
    }

    /// Returns whether an instruction of the guest asked for the event: RIP still points to it,
    /// so that the event comes again by itself if it is dropped.
    #[inline]
    pub const fn is_software(self) -> bool {
        matches!(
            self,
            Self::SoftwareInterrupt { .. }
                | Self::PrivilegedSoftwareException { .. }
                | Self::SoftwareException { .. }
        )
    }

    /// Returns the VM-entry fields that deliver the event.
    ///
    /// An error code exists in protected mode only, and its bits 31:16 must be clear. SDM 3C
    /// "VM-Entry Control Fields", 27.2.1.3.
    pub fn encode(self, protection: Protection) -> Injection {
        let (kind, code, length) = match self {
            Self::Interrupt { .. } => (kind::EXTERNAL_INTERRUPT, None, None),
            Self::Nmi => (kind::NMI, None, None),
            Self::Exception { error_code, .. } => (kind::HARDWARE_EXCEPTION, error_code, None),
            Self::SoftwareInterrupt { length, .. } => {
                (kind::SOFTWARE_INTERRUPT, None, Some(length))
            }
            Self::PrivilegedSoftwareException { length, .. } => {
                (kind::PRIVILEGED_SOFTWARE_EXCEPTION, None, Some(length))
            }
            Self::SoftwareException { length, .. } => {
                (kind::SOFTWARE_EXCEPTION, None, Some(length))
            }
        };
        let error_code = match protection {
            Protection::RealMode => None,
            Protection::Protected => code.map(|code| code & 0xffff),
        };
        Injection {
            info: EventInfo(0)
                .with_vector(self.vector())
                .with_kind(kind)
                .with_has_error_code(error_code.is_some())
                .with_valid(true),
            error_code,
            instruction_length: length.map(u32::from),
        }
    }

    /// Reads the event whose delivery a VM exit cut short.
    ///
    /// `info`, `error_code` and `instruction_length` are the VM-exit's IDT-vectoring information,
    /// IDT-vectoring error code and VM-exit instruction length; or the VM-entry fields, of an entry
    /// that did not happen. Returns `None` where `info` is not valid.
    ///
    /// # Errors
    ///
    /// A type that VMX does not define: hardware never reports one.
    pub fn decode(
        info: EventInfo,
        error_code: u32,
        instruction_length: u32,
    ) -> Result<Option<Self>, Bug> {
        if !info.valid() {
            return Ok(None);
        }
        let vector = info.vector();
        let length = u8::try_from(instruction_length & 0xf).unwrap_or(0);
        let event = match info.kind() {
            kind::EXTERNAL_INTERRUPT => Self::Interrupt { vector },
            kind::NMI => Self::Nmi,
            kind::HARDWARE_EXCEPTION => Self::Exception {
                vector,
                error_code: info.has_error_code().then_some(error_code),
            },
            kind::SOFTWARE_INTERRUPT => Self::SoftwareInterrupt { vector, length },
            kind::PRIVILEGED_SOFTWARE_EXCEPTION => {
                Self::PrivilegedSoftwareException { vector, length }
            }
            kind::SOFTWARE_EXCEPTION => Self::SoftwareException { vector, length },
            _ => return Err(Bug("IDT-vectoring information of an undefined type")),
        };
        Ok(Some(event))
    }
}

/// Returns whether blocking by NMI must be set again after a VM exit, because the event behind the
/// exit hit an IRET that had just removed it.
///
/// `nmi_unblocked` is bit 12 of the VM-exit interruption information (exceptions) or of the exit
/// qualification (EPT violation, page-modification log full). The bit is undefined for a double
/// fault, and where IDT-vectoring information is valid. SDM 3C "Information About NMI Unblocking
/// Due to IRET", 28.2.3.
pub fn iret_lost_nmi_blocking(
    nmi_unblocked: bool,
    exception: Option<u8>,
    vectoring: EventInfo,
) -> bool {
    nmi_unblocked && !vectoring.valid() && exception != Some(vector::DF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_event() -> impl Strategy<Value = Event> {
        prop_oneof![
            any::<u8>().prop_map(|vector| Event::Interrupt { vector }),
            Just(Event::Nmi),
            (0u8..32, proptest::option::of(0u32..0x1_0000))
                .prop_map(|(vector, error_code)| Event::Exception { vector, error_code }),
            (any::<u8>(), 1u8..16)
                .prop_map(|(vector, length)| Event::SoftwareInterrupt { vector, length }),
            (any::<u8>(), 1u8..16)
                .prop_map(|(vector, length)| Event::PrivilegedSoftwareException { vector, length }),
            (3u8..5, 1u8..16)
                .prop_map(|(vector, length)| Event::SoftwareException { vector, length }),
        ]
    }

    proptest! {
        #[test]
        fn encoding_reads_back(event in any_event()) {
            let i = event.encode(Protection::Protected);
            let code = i.error_code.unwrap_or(0xdead);
            let length = i.instruction_length.unwrap_or(9);
            prop_assert_eq!(Event::decode(i.info, code, length), Ok(Some(event)));
            prop_assert!(!i.info.nmi_unblocked());
        }

        #[test]
        fn decoding_takes_any_value(info: u32, code: u32, length: u32) {
            let event = Event::decode(EventInfo(info), code, length);
            prop_assert_eq!(event == Ok(None), info >> 31 == 0);
        }
    }

    #[test]
    fn encoding_matches_the_manual() {
        let pf = Event::Exception {
            vector: vector::PF,
            error_code: Some(0x8000_0004),
        };
        let i = pf.encode(Protection::Protected);
        assert_eq!((i.info.0, i.error_code), (0x8000_0b0e, Some(4)));
        assert_eq!(Event::Nmi.encode(Protection::RealMode).info.0, 0x8000_0202);
        let int = Event::SoftwareInterrupt {
            vector: 0x80,
            length: 2,
        };
        let i = int.encode(Protection::Protected);
        assert_eq!((i.info.0, i.instruction_length), (0x8000_0480, Some(2)));
        let int1 = |vector| Event::PrivilegedSoftwareException { vector, length: 1 };
        for (vector, info) in [(vector::DB, 0x8000_0501), (0x30, 0x8000_0530)] {
            assert_eq!(int1(vector).encode(Protection::Protected).info.0, info);
        }
    }

    #[test]
    fn real_mode_has_no_error_codes() {
        let gp = Event::Exception {
            vector: vector::GP,
            error_code: Some(0),
        };
        let i = gp.encode(Protection::RealMode);
        assert_eq!((i.info.0, i.error_code), (0x8000_030d, None));
    }

    #[test]
    fn iret_fault_restores_nmi_blocking_unless_the_bit_is_undefined() {
        let none = EventInfo(0);
        assert!(iret_lost_nmi_blocking(true, Some(vector::PF), none));
        assert!(iret_lost_nmi_blocking(true, None, none));
        assert!(!iret_lost_nmi_blocking(false, Some(vector::PF), none));
        assert!(!iret_lost_nmi_blocking(true, Some(vector::DF), none));
        assert!(!iret_lost_nmi_blocking(true, None, none.with_valid(true)));
    }
}
