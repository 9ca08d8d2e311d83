// SPDX-License-Identifier: GPL-2.0

//! Accesses of the guest to the registers of its local APIC.
//!
//! Deviations from KVM, all towards the SDM: WRMSR of a reserved bit of the TPR, EOI, SVR, LVT and
//! divide configuration registers is #GP, as on hardware (KVM drops the bits); the delivery-status
//! and remote-IRR bits of the LVT are read-only; vectors 0 to 15 and absent registers are noted in
//! the ESR, which KVM keeps at 0.

use super::{Acceptance, ApicMode, Effects, Lapic, SoftwareState, VERSION_SUPPRESSES_EOI};
use crate::outcome::Exception;
use crate::x86::irqchip::apic_msg::{DeliveryMode, Shorthand, Signal};
use crate::x86::irqchip::lapic_regs::{esr, reg, Icr, Lvt, LvtEntry, RegisterPage, Svr};
use crate::x86::irqchip::lapic_timer::{Clock, TimerMode};

/// The first MSR of x2APIC mode.
const X2APIC_MSR_BASE: u32 = 0x800;

/// An access that the register does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Illegal;

/// What a read of the memory of a local APIC gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MmioRead {
    /// The bytes, lowest first; above the length of the access they are zero.
    pub value: u64,
    /// Only `recheck` can be set, by an error interrupt.
    pub effects: Effects,
}

impl<R: RegisterPage> Lapic<R> {
    /// Reads `len` bytes, 1 to 8, at `offset` into the page of registers.
    ///
    /// A register has 32 bits at a multiple of 16; what does not lie in one is not defined, and
    /// reads 0 here. Unless the APIC is in xAPIC mode there is a hole that reads all ones; with
    /// KVM_X86_QUIRK_LAPIC_MMIO_HOLE disabled the caller passes the access on instead.
    /// SDM 3A "The Local APIC Block Diagram", 11.4.1
    pub fn read(&mut self, offset: u32, len: usize, clock: &impl Clock) -> MmioRead {
        let mut effects = Effects::default();
        let mask = len_mask(len);
        if self.mode() != ApicMode::XApic {
            return MmioRead {
                value: mask,
                effects,
            };
        }
        let start = offset & 0xf;
        let end = usize::try_from(start).map_or(usize::MAX, |start| start.saturating_add(len));
        let lies_in_register = len != 0 && end <= 4;
        if !lies_in_register {
            return MmioRead { value: 0, effects };
        }
        let value = match u16::try_from(offset & !0xf).map_err(|_| Illegal) {
            // Write-only, but there.
            Ok(reg::EOI) => 0,
            offset => match offset.and_then(|offset| self.read_register(offset, clock)) {
                Ok(value) => value,
                Err(Illegal) => {
                    effects = self.illegal_address();
                    0
                }
            },
        };
        MmioRead {
            value: u64::from(value).wrapping_shr(start.wrapping_mul(8)) & mask,
            effects,
        }
    }

    /// Writes `len` bytes at `offset` into the page of registers.
    ///
    /// Anything but 4 bytes at a multiple of 16 is void, and so is all in the hole: see
    /// [`Self::read`].
    pub fn write(&mut self, offset: u32, len: usize, value: u64, clock: &impl Clock) -> Effects {
        if self.mode() != ApicMode::XApic || len != 4 || offset & 0xf != 0 {
            return Effects::default();
        }
        let written = match u16::try_from(offset) {
            Ok(offset) => self.write_register(offset, halves(value).0, clock),
            Err(_) => Err(Illegal),
        };
        match written {
            Ok(effects) => effects,
            Err(Illegal) => self.illegal_address(),
        }
    }

    /// Takes a register that the processor has written into the page (APIC-write VM exit).
    /// SDM 3C "APIC-Write VM Exits", 30.4.3.3
    pub fn written(&mut self, offset: u16, clock: &impl Clock) -> Effects {
        let value = self.page.get(offset);
        let written = match (self.mode(), offset) {
            (ApicMode::X2Apic, reg::ICR) => {
                let high = self.page.get(reg::ICR_X2APIC_HIGH);
                Ok(self.write_icr(Icr((u64::from(high) << 32) | u64::from(value))))
            }
            (_, offset) => self.write_register(offset, value, clock),
        };
        written.unwrap_or_default()
    }

    /// Reads an MSR of x2APIC mode, 0x800 to 0x8ff.
    ///
    /// # Errors
    ///
    /// #GP outside x2APIC mode, and for MSRs that are not there or write-only.
    /// SDM 3A "x2APIC Register Address Space", 11.12.1.2
    pub fn rdmsr(&self, msr: u32, clock: &impl Clock) -> Result<u64, Exception> {
        let offset = self.x2apic_offset(msr)?;
        let low = self
            .read_register(offset, clock)
            .map_err(|Illegal| Exception::GP0)?;
        let high = if offset == reg::ICR {
            self.page.get(reg::ICR_X2APIC_HIGH)
        } else {
            0
        };
        Ok((u64::from(high) << 32) | u64::from(low))
    }

    /// Writes an MSR of x2APIC mode, 0x800 to 0x8ff.
    ///
    /// # Errors
    ///
    /// #GP outside x2APIC mode, for MSRs that are not there or read-only, and for reserved bits.
    /// SDM 3A "Reserved Bit Checking", 11.12.1.3
    pub fn wrmsr(
        &mut self,
        msr: u32,
        value: u64,
        clock: &impl Clock,
    ) -> Result<Effects, Exception> {
        let offset = self.x2apic_offset(msr)?;
        if offset == reg::ICR {
            if value & Icr::X2APIC_RESERVED != 0 {
                return Err(Exception::GP0);
            }
            return Ok(self.write_icr(Icr(value)));
        }
        let low = u32::try_from(value).map_err(|_| Exception::GP0)?;
        if low & !self.x2apic_writable(offset) != 0 {
            return Err(Exception::GP0);
        }
        self.write_register(offset, low, clock)
            .map_err(|Illegal| Exception::GP0)
    }

    /// Returns the page offset of the register that is MSR `msr`.
    fn x2apic_offset(&self, msr: u32) -> Result<u16, Exception> {
        if self.mode() != ApicMode::X2Apic {
            return Err(Exception::GP0);
        }
        msr.checked_sub(X2APIC_MSR_BASE)
            .filter(|&index| index <= 0xff)
            .and_then(|index| u16::try_from(index << 4).ok())
            .ok_or(Exception::GP0)
    }

    /// Returns the bits that WRMSR may set.
    fn x2apic_writable(&self, offset: u16) -> u32 {
        match offset {
            reg::TPR | reg::SELF_IPI => 0xff,
            reg::EOI | reg::ESR => 0,
            // Bit 9 is of old, and bit 12 is set by guests that do not look whether it is there.
            reg::SVR => 0x13ff,
            reg::TIMER_DIVIDE => 0b1011,
            _ => match Lvt::at(offset) {
                Some(lvt) => lvt.writable(self.timer_modes()) | Lvt::READ_ONLY,
                None => u32::MAX,
            },
        }
    }

    fn timer_modes(&self) -> u32 {
        LvtEntry(0)
            .with_timer_mode(if self.config.has_tsc_deadline { 3 } else { 1 })
            .0
    }

    fn has_lvt(&self, lvt: Lvt) -> bool {
        lvt != Lvt::Cmci || self.config.has_cmci
    }

    /// Reads the register at `offset`, a multiple of 16; of the ICR the lower half.
    fn read_register(&self, offset: u16, clock: &impl Clock) -> Result<u32, Illegal> {
        let is_xapic = self.mode() != ApicMode::X2Apic;
        let is_there = match offset {
            reg::TIMER_CURRENT => return Ok(self.timer.current(clock)),
            reg::PPR => return Ok(self.ppr().into()),
            reg::APR | reg::RRD if is_xapic => return Ok(0),
            reg::ID | reg::VERSION | reg::TPR | reg::LDR | reg::SVR | reg::ESR | reg::ICR => true,
            reg::ISR..reg::ESR => true,
            reg::TIMER_INITIAL | reg::TIMER_DIVIDE => true,
            reg::DFR | reg::ICR2 => is_xapic,
            _ => Lvt::at(offset).is_some_and(|lvt| self.has_lvt(lvt)),
        };
        if is_there {
            Ok(self.page.get(offset))
        } else {
            Err(Illegal)
        }
    }

    /// Writes the register at `offset`; the ICR of x2APIC mode is [`Self::write_icr`].
    fn write_register(
        &mut self,
        offset: u16,
        value: u32,
        clock: &impl Clock,
    ) -> Result<Effects, Illegal> {
        let is_xapic = self.mode() != ApicMode::X2Apic;
        match offset {
            reg::ID if is_xapic => Ok(self.set_identity(offset, value & 0xff00_0000)),
            reg::LDR if is_xapic => Ok(self.set_identity(offset, value & 0xff00_0000)),
            reg::DFR if is_xapic => Ok(self.set_identity(offset, value | 0x0fff_ffff)),
            reg::TPR => Ok(self.set_tpr(value.to_le_bytes()[0])),
            reg::EOI => Ok(self.eoi()),
            reg::SVR => Ok(self.write_svr(value)),
            reg::ESR => {
                self.page.set(reg::ESR, core::mem::take(&mut self.errors));
                Ok(Effects::default())
            }
            reg::ICR if is_xapic => {
                let high = u64::from(self.page.get(reg::ICR2));
                Ok(self.write_icr(Icr((high << 32) | u64::from(value))))
            }
            reg::ICR2 if is_xapic => {
                self.page.set(reg::ICR2, value & 0xff00_0000);
                Ok(Effects::default())
            }
            reg::SELF_IPI if !is_xapic => Ok(self.send(Icr(u64::from(value)).with_shorthand(1))),
            reg::TIMER_INITIAL => Ok(self.write_initial(value, clock)),
            reg::TIMER_DIVIDE => {
                self.page.set(reg::TIMER_DIVIDE, value & 0b1011);
                Ok(Effects {
                    timer: self.timer.set_divide(value, clock),
                    ..Effects::default()
                })
            }
            _ => match Lvt::at(offset) {
                Some(lvt) if self.has_lvt(lvt) => Ok(self.write_lvt(lvt, value)),
                _ => Err(Illegal),
            },
        }
    }

    fn set_identity(&mut self, offset: u16, value: u32) -> Effects {
        self.page.set(offset, value);
        Effects {
            identity_changed: true,
            ..Effects::default()
        }
    }

    /// SDM 3A "Spurious Interrupt", 11.9; "Local APIC State After It Has Been Software Disabled",
    /// 11.4.7.2
    fn write_svr(&mut self, value: u32) -> Effects {
        let is_offered = self.page.get(reg::VERSION) & VERSION_SUPPRESSES_EOI != 0;
        let svr = Svr(value & 0x13ff);
        self.page.set(
            reg::SVR,
            svr.with_suppresses_eoi(svr.suppresses_eoi() && is_offered)
                .0,
        );
        let software = self.sync_software();
        if self.software == SoftwareState::Disabled {
            for lvt in Lvt::ALL {
                let entry = LvtEntry(self.page.get(lvt.offset()));
                self.page.set(lvt.offset(), entry.with_masked(true).0);
            }
        }
        Effects {
            software,
            identity_changed: software.is_some(),
            recheck: true,
            ..Effects::default()
        }
    }

    /// Writes the ICR, which sends; it is idle again at once.
    fn write_icr(&mut self, icr: Icr) -> Effects {
        let icr = icr.with_busy(false);
        let (low, high) = halves(icr.0);
        self.page.set(reg::ICR, low);
        if self.mode() == ApicMode::X2Apic {
            self.page.set(reg::ICR_X2APIC_HIGH, high);
        }
        self.send(icr)
    }

    /// Sends the message of `icr`; an interrupt to this APIC alone is accepted here.
    /// SDM 3A "Issuing Interprocessor Interrupts", 11.6
    fn send(&mut self, icr: Icr) -> Effects {
        let dest = match self.mode() {
            ApicMode::X2Apic => icr.x2apic_dest(),
            ApicMode::Disabled | ApicMode::XApic => icr.xapic_dest().into(),
        };
        let message = icr.message(dest);
        let has_vector = matches!(
            message.delivery,
            DeliveryMode::Fixed | DeliveryMode::LowestPriority
        );
        if has_vector && message.vector < 16 {
            self.record_error(esr::SEND_ILLEGAL_VECTOR);
            return Effects {
                recheck: true,
                ..Effects::default()
            };
        }
        if message.shorthand == Shorthand::Myself && has_vector {
            let recheck = match message.signal(self.software()) {
                Signal::Interrupt { vector, trigger } => {
                    self.accept(vector, trigger) != Acceptance::Coalesced
                }
                Signal::Nothing
                | Signal::Smi
                | Signal::Nmi
                | Signal::Init
                | Signal::Startup { .. } => false,
            };
            return Effects {
                recheck,
                ..Effects::default()
            };
        }
        Effects {
            ipi: Some(message),
            ..Effects::default()
        }
    }

    fn write_lvt(&mut self, lvt: Lvt, value: u32) -> Effects {
        let entry = LvtEntry(value & lvt.writable(self.timer_modes()));
        let is_forced = self.software() == SoftwareState::Disabled;
        let entry = entry.with_masked(entry.is_masked() || is_forced);
        self.page.set(lvt.offset(), entry.0);
        let mut effects = Effects {
            recheck: lvt == Lvt::Lint0,
            identity_changed: lvt == Lvt::Lint0,
            ..Effects::default()
        };
        if lvt == Lvt::Timer {
            effects.timer = self
                .timer
                .set_mode(TimerMode::from_bits(entry.timer_mode()));
            if effects.timer.is_some() {
                self.page.set(reg::TIMER_INITIAL, 0);
            }
        }
        effects
    }

    fn write_initial(&mut self, count: u32, clock: &impl Clock) -> Effects {
        let timer = self.timer.set_initial(count, clock);
        // Void in TSC-deadline mode; then it reads 0 as before, whoever wrote the page.
        self.page
            .set(reg::TIMER_INITIAL, if timer.is_some() { count } else { 0 });
        Effects {
            timer,
            ..Effects::default()
        }
    }

    fn illegal_address(&mut self) -> Effects {
        self.record_error(esr::ILLEGAL_REGISTER_ADDRESS);
        Effects {
            recheck: true,
            ..Effects::default()
        }
    }

    /// Returns IA32_TSC_DEADLINE; 0 if the APIC is globally disabled or the timer in another mode.
    pub fn tsc_deadline(&self) -> u64 {
        match self.mode() {
            ApicMode::Disabled => 0,
            ApicMode::XApic | ApicMode::X2Apic => self.timer.deadline(),
        }
    }

    /// Writes IA32_TSC_DEADLINE, in ticks of the guest's (L1's) TSC. Void if the APIC is globally
    /// disabled or the timer in another mode. SDM 3A "TSC-Deadline Mode", 11.5.4.1
    #[inline]
    pub fn set_tsc_deadline(&mut self, tsc: u64) -> Effects {
        let timer = match self.mode() {
            ApicMode::Disabled => None,
            ApicMode::XApic | ApicMode::X2Apic => self.timer.set_deadline(tsc),
        };
        Effects {
            timer,
            ..Effects::default()
        }
    }
}

/// Returns bits 31:0 and bits 63:32.
fn halves(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    )
}

/// Returns the mask of `len` bytes.
fn len_mask(len: usize) -> u64 {
    let unused = 8usize.saturating_sub(len).wrapping_mul(8);
    let unused = u32::try_from(unused).unwrap_or(64);
    u64::MAX.checked_shr(unused).unwrap_or(0)
}
