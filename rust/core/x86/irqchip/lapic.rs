// SPDX-License-Identifier: GPL-2.0

//! The local APIC.
//!
//! A [`Lapic`] belongs to the thread of its vCPU, and only that thread touches it: there is no
//! lock. Others (senders of IPIs, irqfds, timers) decide from its published
//! [`Identity`] that a message is for it, and *post* vectors into a structure of the glue's; the
//! owner gives each posted vector to [`Lapic::accept`] before it asks for
//! [`Lapic::highest_pending`]. What an access makes others do comes back as [`Effects`].
//!
//! Registers are reached in three ways: [`Lapic::read`] and [`Lapic::write`] for the memory of
//! xAPIC mode, [`Lapic::rdmsr`] and [`Lapic::wrmsr`] for the MSRs of x2APIC mode, and
//! [`Lapic::written`] where the processor has put the value into the page itself.
//!
//! SDM 3A "Advanced Programmable Interrupt Controller (APIC)", chapter 11

use super::apic_dest::{x2apic_ldr, ApicMode, Identity, Lint0, LogicalModel};
use super::apic_msg::{DeliveryMode, Message, SoftwareState, TriggerMode};
use super::lapic_regs::{reg, ApicBase, Bank, Lvt, LvtEntry, RegisterPage, Registers, Svr};
use super::lapic_timer::{BusCycle, Clock, SavedCounts, Timer, TimerAction};
use crate::addr::{Gfn, Gpa};
use crate::outcome::Exception;

mod access;
mod interrupt;

pub use access::MmioRead;

/// The physical address of the registers after a reset.
pub const APIC_DEFAULT_PHYS_BASE: u64 = 0xfee0_0000;

/// Version register, bits 7:0: an integrated APIC.
const VERSION: u32 = 0x14;
/// Version register, bit 24: EOI broadcasts can be suppressed.
const VERSION_SUPPRESSES_EOI: u32 = 1 << 24;

/// Where the I/O APIC of the VM is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IoApicPlace {
    /// Ours (KVM_CREATE_IRQCHIP).
    #[default]
    Kernel,
    /// The VMM's (KVM_CAP_SPLIT_IRQCHIP).
    Userspace,
}

/// What becomes of the guest's wish that an EOI be not broadcast: KVM_CAP_X2APIC_API.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SuppressEoi {
    /// KVM's default: with the I/O APIC in userspace it is offered and not honoured; with ours it
    /// is not offered, and honoured.
    #[default]
    Quirked,
    /// KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST: offered and honoured.
    Enabled,
    /// KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST: neither.
    Disabled,
}

impl SuppressEoi {
    fn is_offered(self, io_apic: IoApicPlace) -> bool {
        match self {
            SuppressEoi::Quirked => io_apic == IoApicPlace::Userspace,
            SuppressEoi::Enabled => true,
            SuppressEoi::Disabled => false,
        }
    }

    fn is_honoured(self, io_apic: IoApicPlace) -> bool {
        match self {
            SuppressEoi::Quirked => io_apic == IoApicPlace::Kernel,
            SuppressEoi::Enabled => true,
            SuppressEoi::Disabled => false,
        }
    }
}

/// The LINT0 entry of the bootstrap processor after a reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lint0AtReset {
    /// KVM_X86_QUIRK_LINT0_REENABLED, KVM's default: ExtINT, not masked.
    #[default]
    ExtInt,
    /// As the SDM says.
    Masked,
}

/// What the VMM chose for a local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Config {
    /// The vCPU's id.
    pub x2apic_id: u32,
    /// Whether this is the bootstrap processor (KVM_SET_BOOT_CPU_ID).
    pub is_bsp: bool,
    /// Whether there is an LVT entry for corrected machine checks (MCG_CMCI_P).
    pub has_cmci: bool,
    /// `CPUID.01H:ECX[21]`.
    pub has_x2apic: bool,
    /// `CPUID.01H:ECX[24]`.
    pub has_tsc_deadline: bool,
    /// `CPUID.80000008H:EAX[7:0]`, the width of guest-physical addresses in bits.
    pub max_phys_addr_bits: u8,
    /// Where EOIs of level-triggered interrupts go.
    pub io_apic: IoApicPlace,
    /// Whether the guest can keep them.
    pub suppress_eoi: SuppressEoi,
    /// The quirk of LINT0.
    pub lint0: Lint0AtReset,
}

/// Which reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reset {
    /// Power-up or RESET.
    PowerUp,
    /// INIT, which spares IA32_APIC_BASE and the APIC id.
    Init,
}

/// Who writes an MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Initiator {
    /// WRMSR.
    Guest,
    /// KVM_SET_MSRS, KVM_SET_SREGS: any legal state is reached from any other.
    Host,
}

/// An interrupt that the guest has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Eoi {
    /// The vector.
    pub vector: u8,
    /// Edge or level, by the TMR.
    pub trigger: TriggerMode,
    /// The guest will tell the I/O APIC itself: no broadcast, no KVM_EXIT_IOAPIC_EOI.
    pub is_suppressed: bool,
}

/// What is to be done after an access to a local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Effects {
    /// Send this message from this APIC.
    pub ipi: Option<Message>,
    /// Tell the I/O APICs.
    pub eoi: Option<Eoi>,
    /// Set the host timer.
    pub timer: Option<TimerAction>,
    /// The APIC was software-enabled (deferred events may go out) or disabled.
    pub software: Option<SoftwareState>,
    /// Publish [`Lapic::identity`] anew, and scan EOI-exit bitmaps again.
    pub identity_changed: bool,
    /// IA32_APIC_BASE.EN or EXTD changed: set the virtualization mode; `CPUID.01H:EDX[9]` follows.
    pub mode_changed: bool,
    /// The address of the registers changed.
    pub base_moved: bool,
    /// The TPR changed: so do CR8 and the TPR threshold.
    pub tpr_changed: bool,
    /// An interrupt may have become deliverable: ask [`Lapic::highest_pending`].
    pub recheck: bool,
}

impl Effects {
    /// Returns whether there is nothing to carry out: nothing happened that concerns anybody but the
    /// APIC itself and who looks for a pending interrupt anyway.
    #[inline]
    pub const fn is_nothing(&self) -> bool {
        self.ipi.is_none()
            && self.eoi.is_none()
            && self.timer.is_none()
            && self.software.is_none()
            && !(self.identity_changed || self.mode_changed || self.base_moved || self.tpr_changed)
    }
}

/// What an LVT entry does with its event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum LocalInterrupt {
    /// Nothing: the entry is masked, or not there, or its mode is reserved.
    Masked,
    /// Its vector is pending now.
    Vector,
    /// Its vector is 0 to 15; the error status register says so.
    Illegal,
    /// Inject an SMI.
    Smi,
    /// Inject an NMI.
    Nmi,
    /// Do an INIT.
    Init,
    /// The 8259A's interrupt is for this processor.
    ExtInt,
}

/// What became of a vector that was posted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acceptance {
    /// It is pending now.
    Pending,
    /// It was pending already.
    Coalesced,
    /// It is 0 to 15; the error status register says so.
    Illegal,
}

/// A local APIC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lapic<R = Registers> {
    page: R,
    base: ApicBase,
    config: Config,
    timer: Timer,
    /// `SVR[8]` as it took effect: the processor may have written the page since.
    software: SoftwareState,
    /// Errors since the last write of the ESR, which shows them.
    errors: u32,
}

impl<R: RegisterPage> Lapic<R> {
    /// Makes a local APIC on `page`, in its state after power-up.
    ///
    /// `min_period_ns`: see [`Timer::new`].
    pub fn new(page: R, config: Config, cycle: BusCycle, min_period_ns: u64) -> Self {
        let timer = Timer::new(cycle, min_period_ns);
        let software = SoftwareState::Disabled;
        let mut lapic = Self {
            page,
            base: ApicBase(0),
            config,
            timer,
            software,
            errors: 0,
        };
        let _ = lapic.reset(Reset::PowerUp);
        lapic
    }

    /// Returns what the VMM chose.
    #[inline]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Takes another choice of the VMM's (KVM_SET_CPUID2, KVM_X86_SETUP_MCE, KVM_ENABLE_CAP).
    /// An LVT entry that comes into being is masked.
    pub fn configure(&mut self, config: Config) {
        if config.has_cmci && !self.config.has_cmci {
            self.page
                .set(reg::LVT_CMCI, LvtEntry(0).with_masked(true).0);
        }
        self.config = config;
        self.set_version();
    }

    /// Returns the register page.
    #[inline]
    pub fn page(&self) -> &R {
        &self.page
    }

    /// Returns the register page, for the processor's virtualization of it to be set up.
    #[inline]
    pub fn page_mut(&mut self) -> &mut R {
        &mut self.page
    }

    /// Returns the timer.
    #[inline]
    pub fn timer(&self) -> &Timer {
        &self.timer
    }

    /// Takes restored registers for the state; returns what to do with the host timer, and the
    /// software state if it is another.
    pub(super) fn restored(
        &mut self,
        counts: SavedCounts,
        clock: &impl Clock,
    ) -> (TimerAction, Option<SoftwareState>) {
        self.set_version();
        self.errors = 0;
        (self.timer.restore(counts, clock), self.sync_software())
    }

    /// Resets. SDM 3A "Local APIC State After Power-Up or Reset", 11.4.7.1; "... After an INIT
    /// Reset", 11.4.7.3
    pub fn reset(&mut self, kind: Reset) -> Effects {
        if kind == Reset::PowerUp {
            self.base = ApicBase(APIC_DEFAULT_PHYS_BASE)
                .with_enabled(true)
                .with_bsp(self.config.is_bsp);
            self.set_id();
        }
        for lvt in Lvt::ALL {
            self.page.set(lvt.offset(), LvtEntry(0).with_masked(true).0);
        }
        if self.config.is_bsp && self.config.lint0 == Lint0AtReset::ExtInt {
            let entry = LvtEntry(0).with_delivery(DeliveryMode::ExtInt as u32);
            self.page.set(reg::LVT_LINT0, entry.0);
        }
        let zeroed = [
            reg::TPR,
            reg::PPR,
            reg::ESR,
            reg::ICR,
            reg::ICR_X2APIC_HIGH,
            reg::ICR2,
            reg::TIMER_INITIAL,
            reg::TIMER_CURRENT,
            reg::TIMER_DIVIDE,
        ];
        for offset in zeroed {
            self.page.set(offset, 0);
        }
        for bank in [Bank::Irr, Bank::Isr, Bank::Tmr] {
            bank.clear(&mut self.page);
        }
        self.page.set(reg::DFR, u32::MAX);
        self.page.set(reg::SVR, 0xff);
        if self.mode() != ApicMode::X2Apic {
            self.page.set(reg::LDR, 0);
        }
        self.set_version();
        self.errors = 0;
        self.timer.reset();
        let software = self.sync_software();
        Effects {
            software,
            timer: Some(TimerAction::Cancel),
            identity_changed: true,
            mode_changed: kind == Reset::PowerUp,
            base_moved: kind == Reset::PowerUp,
            tpr_changed: true,
            recheck: true,
            ..Effects::default()
        }
    }

    fn set_version(&mut self) {
        let max_lvt = if self.config.has_cmci { 6 } else { 5 };
        let is_offered =
            self.config.has_x2apic && self.config.suppress_eoi.is_offered(self.config.io_apic);
        let suppression = if is_offered {
            VERSION_SUPPRESSES_EOI
        } else {
            0
        };
        self.page
            .set(reg::VERSION, VERSION | (max_lvt << 16) | suppression);
    }

    /// Writes the id registers that the mode implies.
    fn set_id(&mut self) {
        let id = self.config.x2apic_id;
        if self.mode() == ApicMode::X2Apic {
            self.page.set(reg::ID, id);
            self.page.set(reg::LDR, x2apic_ldr(id));
        } else {
            self.page.set(reg::ID, id << 24);
        }
    }

    /// Returns the mode.
    #[inline]
    pub fn mode(&self) -> ApicMode {
        mode_of(self.base)
    }

    /// Returns whether the APIC is software-enabled.
    #[inline]
    pub fn software(&self) -> SoftwareState {
        self.software
    }

    /// Lets `SVR[8]` take effect; returns the new state if it is another.
    fn sync_software(&mut self) -> Option<SoftwareState> {
        let state = if Svr(self.page.get(reg::SVR)).is_enabled() {
            SoftwareState::Enabled
        } else {
            SoftwareState::Disabled
        };
        (core::mem::replace(&mut self.software, state) != state).then_some(state)
    }

    fn lint0(&self) -> Lint0 {
        match (self.accepts_extint(), self.lint0_is_nmi()) {
            (true, _) => Lint0::ExtInt,
            (_, true) => Lint0::Nmi,
            (false, false) => Lint0::Closed,
        }
    }

    /// Returns what senders need to know. Publish it after each `Effects::identity_changed`.
    pub fn identity(&self) -> Identity {
        let mode = self.mode();
        let in_xapic = |offset: u16| match mode {
            ApicMode::XApic => self.page.get(offset).to_be_bytes()[0],
            ApicMode::Disabled | ApicMode::X2Apic => 0,
        };
        Identity {
            x2apic_id: self.config.x2apic_id,
            xapic_id: in_xapic(reg::ID),
            logical_id: in_xapic(reg::LDR),
            model: LogicalModel::from_dfr(self.page.get(reg::DFR)),
            mode,
            software: self.software(),
            lint0: self.lint0(),
        }
    }

    /// Returns IA32_APIC_BASE.
    #[inline]
    pub fn base(&self) -> u64 {
        self.base.0
    }

    /// Returns the address of the registers in xAPIC mode.
    #[inline]
    pub fn base_address(&self) -> Gpa {
        Gfn(self.base.frame()).gpa()
    }

    /// Writes IA32_APIC_BASE. SDM 3A "x2APIC State Transitions", 11.12.5
    ///
    /// # Errors
    ///
    /// #GP for reserved bits, EXTD without EN, and, from the guest, x2APIC to xAPIC and disabled
    /// to x2APIC. For the host these stand for EINVAL.
    pub fn set_base(&mut self, value: u64, initiator: Initiator) -> Result<Effects, Exception> {
        if value == self.base.0 {
            return Ok(Effects::default());
        }
        let (old, new) = (self.base, ApicBase(value));
        let is_mode_invalid = new.is_x2apic() && !new.is_enabled();
        if value & self.base_reserved() != 0 || is_mode_invalid {
            return Err(Exception::GP0);
        }
        let (from, to) = (mode_of(old), mode_of(new));
        let is_forbidden = matches!(
            (from, to),
            (ApicMode::X2Apic, ApicMode::XApic) | (ApicMode::Disabled, ApicMode::X2Apic)
        );
        if initiator == Initiator::Guest && is_forbidden {
            return Err(Exception::GP0);
        }
        self.base = new;
        if from != to {
            self.enter_mode(from);
        }
        Ok(Effects {
            identity_changed: from != to,
            mode_changed: from != to,
            base_moved: old.frame() != new.frame(),
            recheck: from != to,
            ..Effects::default()
        })
    }

    /// Returns the bits of IA32_APIC_BASE that must be clear.
    fn base_reserved(&self) -> u64 {
        /// Bits 7:0 and 9.
        const ALWAYS: u64 = 0x2ff;
        let beyond = u64::MAX
            .checked_shl(self.config.max_phys_addr_bits.into())
            .unwrap_or(0);
        let x2apic = if self.config.has_x2apic {
            0
        } else {
            ApicBase(0).with_x2apic(true).0
        };
        ALWAYS | beyond | x2apic
    }

    /// Does what the mode that was just entered from `from` does to the registers.
    fn enter_mode(&mut self, from: ApicMode) {
        if from == ApicMode::X2Apic {
            // The LDR of x2APIC mode means nothing in the others.
            self.page.set(reg::LDR, 0);
        }
        if self.mode() != ApicMode::Disabled {
            self.set_id();
        }
    }
}

/// Returns the mode that an IA32_APIC_BASE selects.
fn mode_of(base: ApicBase) -> ApicMode {
    match (base.is_enabled(), base.is_x2apic()) {
        (false, _) => ApicMode::Disabled,
        (true, false) => ApicMode::XApic,
        (true, true) => ApicMode::X2Apic,
    }
}

#[cfg(test)]
mod tests;
