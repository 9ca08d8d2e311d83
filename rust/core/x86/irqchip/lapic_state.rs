// SPDX-License-Identifier: GPL-2.0

//! `struct kvm_lapic_state`: a local APIC as KVM_GET_LAPIC and KVM_SET_LAPIC see it.
//!
//! It is the first KiB of the register page, with three twists: the id of an APIC in x2APIC mode is
//! in xAPIC format unless the VMM asked for 32 bits (KVM_X2APIC_API_USE_32BIT_IDS); the upper half
//! of the ICR is at 0x310 in both modes; the current count is that of the moment. IA32_APIC_BASE,
//! IA32_TSC_DEADLINE and errors that the ESR does not show yet are not in it.

use super::apic_dest::{x2apic_ldr, ApicMode};
use super::lapic::{Effects, Lapic};
use super::lapic_regs::{reg, LvtEntry, RegisterPage, KVM_APIC_REG_SIZE};
use super::lapic_timer::{Clock, SavedCounts, TimerMode};

/// How the id of an APIC in x2APIC mode is saved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum IdFormat {
    /// Bits 31:24 of the ID register, whatever the mode; restored ids are ignored.
    #[default]
    XApic,
    /// All 32 bits (KVM_X2APIC_API_USE_32BIT_IDS); a restored id must be the vCPU's.
    X2Apic,
}

/// KVM_SET_LAPIC names another id than the vCPU's: EINVAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdMismatch;

/// The bytes of `struct kvm_lapic_state`.
pub type LapicState = [u8; KVM_APIC_REG_SIZE];

fn word(state: &LapicState, offset: u16) -> u32 {
    let at = usize::from(offset);
    match state.get(at..).and_then(<[u8]>::first_chunk) {
        Some(&bytes) => u32::from_le_bytes(bytes),
        None => 0,
    }
}

fn set_word(state: &mut LapicState, offset: u16, value: u32) {
    let at = usize::from(offset);
    if let Some(bytes) = state.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *bytes = value.to_le_bytes();
    }
}

/// Returns the offsets of the 32-bit words of the state.
fn offsets() -> impl Iterator<Item = u16> {
    (0..0x100u16).map(|index| index << 2)
}

impl<R: RegisterPage> Lapic<R> {
    /// Writes the state into `state` (KVM_GET_LAPIC). An expiry of the host timer must have been
    /// handled before, or it is lost.
    pub fn save(&self, format: IdFormat, clock: &impl Clock, state: &mut LapicState) {
        for offset in offsets() {
            set_word(state, offset, self.page().get(offset));
        }
        set_word(state, reg::TIMER_CURRENT, self.timer().current(clock));
        set_word(state, reg::PPR, self.ppr().into());
        if self.mode() == ApicMode::X2Apic {
            set_word(state, reg::ICR2, self.page().get(reg::ICR_X2APIC_HIGH));
            if format == IdFormat::XApic {
                set_word(state, reg::ID, self.config().x2apic_id << 24);
            }
        }
    }

    /// Replaces the state (KVM_SET_LAPIC) and starts the timer with the count that was left. Any
    /// bits are taken for registers, as KVM does, save the version.
    ///
    /// # Errors
    ///
    /// [`IdMismatch`], in x2APIC mode and format; nothing has changed then.
    pub fn load(
        &mut self,
        format: IdFormat,
        clock: &impl Clock,
        state: &LapicState,
    ) -> Result<Effects, IdMismatch> {
        let id = self.config().x2apic_id;
        let is_x2apic = self.mode() == ApicMode::X2Apic;
        if is_x2apic && format == IdFormat::X2Apic && word(state, reg::ID) != id {
            return Err(IdMismatch);
        }
        for offset in offsets() {
            self.page_mut().set(offset, word(state, offset));
        }
        if is_x2apic {
            self.page_mut().set(reg::ID, id);
            self.page_mut().set(reg::LDR, x2apic_ldr(id));
            self.page_mut()
                .set(reg::ICR_X2APIC_HIGH, word(state, reg::ICR2));
        }
        let entry = LvtEntry(word(state, reg::LVT_TIMER));
        let (timer, software) = self.restored(
            SavedCounts {
                mode: TimerMode::from_bits(entry.timer_mode()),
                initial: word(state, reg::TIMER_INITIAL),
                current: word(state, reg::TIMER_CURRENT),
                divide: word(state, reg::TIMER_DIVIDE),
            },
            clock,
        );
        Ok(Effects {
            timer: Some(timer),
            software,
            identity_changed: true,
            tpr_changed: true,
            recheck: true,
            ..Effects::default()
        })
    }
}

#[cfg(test)]
mod tests;
