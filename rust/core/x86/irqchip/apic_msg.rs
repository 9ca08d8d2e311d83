// SPDX-License-Identifier: GPL-2.0

//! Interrupt messages: what an APIC, an I/O APIC or a device sends to local APICs.

/// How the receiver takes a message: bits 10:8 of the ICR, an LVT entry, an RTE or MSI data.
/// SDM 3A "Interrupt Command Register (ICR)", 11.6.1
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum DeliveryMode {
    /// The vector goes to all addressed APICs.
    #[default]
    Fixed = 0,
    /// The vector goes to the addressed APIC of lowest priority.
    LowestPriority = 1,
    /// A system-management interrupt.
    Smi = 2,
    /// Reserved; no APIC takes it.
    Reserved = 3,
    /// A non-maskable interrupt.
    Nmi = 4,
    /// INIT.
    Init = 5,
    /// Start-up IPI.
    Startup = 6,
    /// An interrupt whose vector an 8259A supplies.
    ExtInt = 7,
}

impl DeliveryMode {
    /// Returns the mode that the low three bits of `bits` encode.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => DeliveryMode::Fixed,
            1 => DeliveryMode::LowestPriority,
            2 => DeliveryMode::Smi,
            4 => DeliveryMode::Nmi,
            5 => DeliveryMode::Init,
            6 => DeliveryMode::Startup,
            7 => DeliveryMode::ExtInt,
            _ => DeliveryMode::Reserved,
        }
    }
}

/// How a destination field names APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DestMode {
    /// By APIC id.
    #[default]
    Physical,
    /// By logical destination register.
    Logical,
}

/// A destination shorthand: bits 19:18 of the ICR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Shorthand {
    /// The destination field says.
    #[default]
    None,
    /// The sender.
    Myself,
    /// All APICs.
    AllIncludingSelf,
    /// All APICs but the sender.
    AllExcludingSelf,
}

impl Shorthand {
    /// Returns the shorthand that the low two bits of `bits` encode.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Shorthand::None,
            1 => Shorthand::Myself,
            2 => Shorthand::AllIncludingSelf,
            _ => Shorthand::AllExcludingSelf,
        }
    }
}

/// Edge or level.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TriggerMode {
    /// Done when accepted.
    #[default]
    Edge,
    /// The I/O APIC waits for an EOI.
    Level,
}

impl TriggerMode {
    /// Returns the mode of a trigger-mode bit, where 1 is level.
    #[inline]
    pub const fn from_bit(is_level: bool) -> Self {
        if is_level {
            TriggerMode::Level
        } else {
            TriggerMode::Edge
        }
    }
}

/// Whether a message asserts or deasserts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Level {
    /// The ordinary case.
    #[default]
    Assert,
    /// Only an "INIT level de-assert", obsolete, or the release of a level-triggered line.
    Deassert,
}

/// The number of an APIC that every APIC in x2APIC mode takes for its own.
pub const X2APIC_BROADCAST: u32 = 0xffff_ffff;
/// The number of an APIC that every APIC in xAPIC mode takes for its own.
pub const XAPIC_BROADCAST: u32 = 0xff;

/// A message on its way to local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Message {
    /// The vector, or the page number of a start-up IPI.
    pub vector: u8,
    /// What it does to the receiver.
    pub delivery: DeliveryMode,
    /// The destination: 8 bits from an xAPIC, 32 bits from an x2APIC or an extended MSI.
    pub dest: u32,
    /// How to read `dest`.
    pub dest_mode: DestMode,
    /// Overrides `dest`, unless `None`.
    pub shorthand: Shorthand,
    /// Edge or level.
    pub trigger: TriggerMode,
    /// Assert or deassert.
    pub level: Level,
    /// The redirection hint of an MSI: one receiver is enough.
    pub has_redirection_hint: bool,
}

/// What a message that was addressed to an APIC does to its processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Signal {
    /// Nothing: the message is void, or the APIC does not take it now.
    Nothing,
    /// Post this vector to the APIC.
    Interrupt {
        /// The vector.
        vector: u8,
        /// Edge or level, for the TMR.
        trigger: TriggerMode,
    },
    /// A system-management interrupt.
    Smi,
    /// A non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up at physical address `vector << 12`.
    Startup {
        /// The page number.
        vector: u8,
    },
}

impl Message {
    /// Returns whether one of the addressed APICs gets the message, rather than each of them.
    ///
    /// Lowest priority with a physical broadcast is not defined (SDM 3A "Lowest Priority
    /// Delivery Mode"); all get it, as under KVM.
    #[inline]
    pub fn is_lowest_priority(&self) -> bool {
        let is_broadcast = self.shorthand == Shorthand::None
            && self.dest_mode == DestMode::Physical
            && self.dest == XAPIC_BROADCAST;
        (self.delivery == DeliveryMode::LowestPriority || self.has_redirection_hint)
            && !is_broadcast
    }

    /// Returns what the message does to an addressed processor whose APIC is, or is not,
    /// software-enabled.
    ///
    /// SDM 3A "Local APIC State After It Has Been Software Disabled", 11.4.7.2: INIT, NMI, SMI
    /// and SIPI get through to a disabled APIC, vectors do not.
    #[inline]
    pub fn signal(&self, state: SoftwareState) -> Signal {
        let is_release = self.trigger == TriggerMode::Level && self.level == Level::Deassert;
        match self.delivery {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if is_release || state == SoftwareState::Disabled {
                    Signal::Nothing
                } else {
                    Signal::Interrupt {
                        vector: self.vector,
                        trigger: self.trigger,
                    }
                }
            }
            DeliveryMode::Smi => Signal::Smi,
            DeliveryMode::Nmi => Signal::Nmi,
            DeliveryMode::Init if is_release => Signal::Nothing,
            DeliveryMode::Init => Signal::Init,
            DeliveryMode::Startup => Signal::Startup {
                vector: self.vector,
            },
            DeliveryMode::Reserved | DeliveryMode::ExtInt => Signal::Nothing,
        }
    }
}

/// Bit 8 of the spurious-interrupt vector register.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SoftwareState {
    /// The APIC takes no vectors and its LVT is masked.
    #[default]
    Disabled,
    /// The APIC works.
    Enabled,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(delivery: DeliveryMode) -> Message {
        Message {
            vector: 0x31,
            delivery,
            ..Message::default()
        }
    }

    #[test]
    fn delivery_modes_survive_their_encoding() {
        for bits in 0..8 {
            assert_eq!(DeliveryMode::from_bits(bits) as u32, bits);
        }
    }

    #[test]
    fn vectors_do_not_reach_a_software_disabled_apic_but_nmi_init_sipi_and_smi_do() {
        let rows = [
            (DeliveryMode::Fixed, Signal::Nothing),
            (DeliveryMode::LowestPriority, Signal::Nothing),
            (DeliveryMode::Smi, Signal::Smi),
            (DeliveryMode::Reserved, Signal::Nothing),
            (DeliveryMode::Nmi, Signal::Nmi),
            (DeliveryMode::Init, Signal::Init),
            (DeliveryMode::Startup, Signal::Startup { vector: 0x31 }),
            (DeliveryMode::ExtInt, Signal::Nothing),
        ];
        for (delivery, signal) in rows {
            assert_eq!(
                message(delivery).signal(SoftwareState::Disabled),
                signal,
                "{delivery:?}"
            );
        }
        let edge = Signal::Interrupt {
            vector: 0x31,
            trigger: TriggerMode::Edge,
        };
        assert_eq!(
            message(DeliveryMode::Fixed).signal(SoftwareState::Enabled),
            edge
        );
        assert_eq!(
            message(DeliveryMode::LowestPriority).signal(SoftwareState::Enabled),
            edge
        );
    }

    #[test]
    fn level_deassert_is_void_for_init_and_vectors() {
        for delivery in [DeliveryMode::Init, DeliveryMode::Fixed] {
            let release = Message {
                trigger: TriggerMode::Level,
                level: Level::Deassert,
                ..message(delivery)
            };
            assert_eq!(release.signal(SoftwareState::Enabled), Signal::Nothing);
            let assert = Message {
                level: Level::Assert,
                ..release
            };
            assert_ne!(assert.signal(SoftwareState::Enabled), Signal::Nothing);
            let edge = Message {
                trigger: TriggerMode::Edge,
                ..release
            };
            assert_ne!(edge.signal(SoftwareState::Enabled), Signal::Nothing);
        }
    }

    #[test]
    fn lowest_priority_is_asked_by_mode_or_hint_but_not_with_a_physical_broadcast() {
        let lowest = message(DeliveryMode::LowestPriority);
        assert!(lowest.is_lowest_priority());
        assert!(!message(DeliveryMode::Fixed).is_lowest_priority());
        let hinted = Message {
            has_redirection_hint: true,
            ..message(DeliveryMode::Fixed)
        };
        assert!(hinted.is_lowest_priority());
        let everyone = Message {
            dest: XAPIC_BROADCAST,
            ..lowest
        };
        assert!(!everyone.is_lowest_priority());
        assert!(Message {
            dest_mode: DestMode::Logical,
            ..everyone
        }
        .is_lowest_priority());
    }
}
