// SPDX-License-Identifier: GPL-2.0

//! Interrupts in a local APIC: accepted, pending, in service, ended.

use super::{Acceptance, ApicMode, Effects, Eoi, Lapic, LocalInterrupt};
use crate::x86::irqchip::apic_msg::{DeliveryMode, TriggerMode};
use crate::x86::irqchip::lapic_regs::{esr, reg, Bank, Lvt, LvtEntry, RegisterPage, Svr};
use crate::x86::irqchip::lapic_timer::Expiry;

/// The vectors below are the processor's own exceptions: no APIC delivers them.
const FIRST_LEGAL_VECTOR: u8 = 16;

impl<R: RegisterPage> Lapic<R> {
    /// Takes a vector that was posted to this APIC.
    ///
    /// SDM 3A "Interrupt Acceptance for Fixed Interrupts", 11.8.4
    pub fn accept(&mut self, vector: u8, trigger: TriggerMode) -> Acceptance {
        if vector < FIRST_LEGAL_VECTOR {
            self.record_error(esr::RECEIVE_ILLEGAL_VECTOR);
            return Acceptance::Illegal;
        }
        let was_pending = Bank::Irr.contains(&self.page, vector);
        Bank::Irr.insert(&mut self.page, vector);
        match trigger {
            TriggerMode::Edge => Bank::Tmr.remove(&mut self.page, vector),
            TriggerMode::Level => Bank::Tmr.insert(&mut self.page, vector),
        }
        if was_pending {
            Acceptance::Coalesced
        } else {
            Acceptance::Pending
        }
    }

    /// Returns the highest vector that waits for the processor, deliverable or not: the RVI of
    /// virtual-interrupt delivery.
    #[inline]
    pub fn highest_irr(&self) -> Option<u8> {
        Bank::Irr.highest(&self.page)
    }

    /// Returns the highest vector in service: the SVI of virtual-interrupt delivery.
    #[inline]
    pub fn highest_isr(&self) -> Option<u8> {
        Bank::Isr.highest(&self.page)
    }

    /// Returns the processor-priority register.
    /// SDM 3A "Task and Processor Priorities", 11.8.3.1
    #[inline]
    pub fn ppr(&self) -> u8 {
        let tpr = self.tpr();
        let in_service = self.highest_isr().unwrap_or(0) & 0xf0;
        if tpr & 0xf0 >= in_service {
            tpr
        } else {
            in_service
        }
    }

    /// Returns the vector to deliver now: the highest pending one, if its class is above that of
    /// the PPR and the APIC is not globally disabled.
    #[inline]
    pub fn highest_pending(&self) -> Option<u8> {
        if self.mode() == ApicMode::Disabled {
            return None;
        }
        self.highest_irr()
            .filter(|&vector| vector >> 4 > self.ppr() >> 4)
    }

    /// Takes `vector` out of the IRR and into service, as the processor's acknowledgement does.
    #[inline]
    pub fn ack(&mut self, vector: u8) {
        Bank::Irr.remove(&mut self.page, vector);
        Bank::Isr.insert(&mut self.page, vector);
    }

    /// Returns whether an EOI of `vector` is still to come.
    #[inline]
    pub fn has_pending_eoi(&self, vector: u8) -> bool {
        Bank::Irr.contains(&self.page, vector) || Bank::Isr.contains(&self.page, vector)
    }

    /// Returns the vector in service whose end can be made known later than it is: nothing is pending that
    /// it would let in, and no I/O APIC resends a level that is still high.
    pub fn silent_end(&self) -> Option<u8> {
        let vector = self.highest_isr()?;
        let is_level = Bank::Tmr.contains(&self.page, vector);
        (self.highest_irr().is_none() && !is_level).then_some(vector)
    }

    /// Ends the highest interrupt in service, if any.
    /// SDM 3A "Signaling Interrupt Servicing Completion", 11.8.5
    pub fn eoi(&mut self) -> Effects {
        let Some(vector) = self.highest_isr() else {
            return Effects::default();
        };
        Bank::Isr.remove(&mut self.page, vector);
        Effects {
            eoi: Some(self.ended(vector)),
            recheck: true,
            ..Effects::default()
        }
    }

    /// Returns the end of `vector`, which the processor has virtualized (EOI-induced VM exit).
    pub fn ended(&self, vector: u8) -> Eoi {
        let is_asked = Svr(self.page.get(reg::SVR)).suppresses_eoi();
        Eoi {
            vector,
            trigger: TriggerMode::from_bit(Bank::Tmr.contains(&self.page, vector)),
            is_suppressed: is_asked && self.config.suppress_eoi.is_honoured(self.config.io_apic),
        }
    }

    /// Returns the task-priority register.
    #[inline]
    pub fn tpr(&self) -> u8 {
        self.page.get(reg::TPR).to_le_bytes()[0]
    }

    /// Returns CR8: the class of the TPR, 0 to 15.
    #[inline]
    pub fn cr8(&self) -> u8 {
        self.tpr() >> 4
    }

    /// Writes CR8; the caller has refused values above 15.
    #[inline]
    pub fn set_cr8(&mut self, class: u8) -> Effects {
        self.set_tpr(class << 4)
    }

    /// Writes the task-priority register.
    pub fn set_tpr(&mut self, tpr: u8) -> Effects {
        self.page.set(reg::TPR, tpr.into());
        Effects {
            tpr_changed: true,
            recheck: true,
            ..Effects::default()
        }
    }

    /// Returns the TPR threshold with which the guest exits as soon as it lowers its TPR enough
    /// for the highest pending interrupt; 0 where none waits for that.
    /// SDM 3C "Controls for APIC Virtualization", 25.6.8
    pub fn tpr_threshold(&self) -> u8 {
        match self.highest_irr() {
            Some(vector) if vector >> 4 <= self.cr8() => vector >> 4,
            _ => 0,
        }
    }

    /// Returns whether an interrupt of the 8259A is for this processor.
    ///
    /// It is where LINT0 delivers ExtINT and where the APIC is globally disabled, as the pin is
    /// the processor's INTR then. SDM 3A "Local Vector Table", 11.5.1
    pub fn accepts_extint(&self) -> bool {
        let lint0 = LvtEntry(self.page.get(reg::LVT_LINT0));
        let is_extint = DeliveryMode::from_bits(lint0.delivery()) == DeliveryMode::ExtInt;
        self.mode() == ApicMode::Disabled || (!lint0.is_masked() && is_extint)
    }

    /// Returns whether LINT0 delivers an NMI for each interrupt of the 8259A: the NMI watchdog.
    pub fn lint0_is_nmi(&self) -> bool {
        let lint0 = LvtEntry(self.page.get(reg::LVT_LINT0));
        !lint0.is_masked() && DeliveryMode::from_bits(lint0.delivery()) == DeliveryMode::Nmi
    }

    /// Takes an event of a local source. SDM 3A "Local Vector Table", 11.5.1
    pub fn raise(&mut self, lvt: Lvt) -> LocalInterrupt {
        let is_absent = lvt == Lvt::Cmci && !self.config.has_cmci;
        let entry = LvtEntry(self.page.get(lvt.offset()));
        if self.mode() == ApicMode::Disabled || is_absent || entry.is_masked() {
            return LocalInterrupt::Masked;
        }
        let outcome = match DeliveryMode::from_bits(entry.delivery()) {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => self.raise_vector(entry),
            DeliveryMode::Smi => LocalInterrupt::Smi,
            DeliveryMode::Nmi => LocalInterrupt::Nmi,
            DeliveryMode::Init => LocalInterrupt::Init,
            DeliveryMode::ExtInt => LocalInterrupt::ExtInt,
            DeliveryMode::Reserved | DeliveryMode::Startup => LocalInterrupt::Masked,
        };
        if lvt == Lvt::Pmc && outcome != LocalInterrupt::Masked {
            // SDM 3B "Generating an Interrupt on Overflow": the processor sets the mask.
            self.page.set(lvt.offset(), entry.with_masked(true).0);
        }
        outcome
    }

    fn raise_vector(&mut self, entry: LvtEntry) -> LocalInterrupt {
        let trigger = TriggerMode::from_bit(entry.is_level());
        match self.accept(entry.vector(), trigger) {
            Acceptance::Pending | Acceptance::Coalesced => LocalInterrupt::Vector,
            Acceptance::Illegal => LocalInterrupt::Illegal,
        }
    }

    /// Notes error `bit` of the ESR, and raises the error interrupt if none was noted since the
    /// last write of the ESR. SDM 3A "Error Handling", 11.5.3
    pub(super) fn record_error(&mut self, bit: u32) {
        let is_first = self.errors == 0;
        self.errors |= bit;
        let entry = LvtEntry(self.page.get(reg::LVT_ERROR));
        // An error vector that is illegal itself must not lead here again.
        if is_first && entry.vector() >= FIRST_LEGAL_VECTOR {
            let _ = self.raise(Lvt::Error);
        }
    }

    /// Takes the expiry of the host timer that stands for this APIC's, at time `now_ns` of the
    /// [`Clock`](crate::x86::irqchip::lapic_timer::Clock) and guest (L1) TSC `guest_tsc`.
    pub fn timer_fired(&mut self, now_ns: u64, guest_tsc: u64) -> Effects {
        let timer = match self.timer.expire(now_ns, guest_tsc) {
            Expiry::Idle => return Effects::default(),
            Expiry::Early(action) => {
                return Effects {
                    timer: Some(action),
                    ..Effects::default()
                };
            }
            Expiry::Expired => None,
            Expiry::Restarted(action) => Some(action),
        };
        // The timer's entry has no delivery mode: it is a vector, or nothing.
        let recheck = self.raise(Lvt::Timer) != LocalInterrupt::Masked;
        Effects {
            timer,
            recheck,
            ..Effects::default()
        }
    }
}
