// SPDX-License-Identifier: GPL-2.0

//! The VMX capability MSRs of a vCPU, and what VMX operation asks of control registers.

use crate::arch::x86::cpu::Cpu;
use burrow_core::x86::{
    msr::access::Refused,
    nested::{
        caps,
        state::State, //
    },
    regs::write::Fixed, //
};

/// CR0.PE and CR0.PG, which an unrestricted guest may clear.
const CR0_PE_PG: u64 = 1 << 31 | 1;

impl Cpu<'_> {
    /// Reads a VMX capability MSR.
    ///
    /// # Errors
    ///
    /// There is none with this number.
    pub(crate) fn read_vmx_cap(&self, number: u32) -> Result<u64, Refused> {
        let nested = self.arch.nested.as_ref().ok_or(Refused::Unknown)?;
        caps::read(&nested.caps, number).ok_or(Refused::Unknown)
    }

    /// Writes a VMX capability MSR for userspace.
    ///
    /// # Errors
    ///
    /// The value cannot be offered, or the vCPU is in VMX operation.
    pub(crate) fn write_vmx_cap(&mut self, number: u32, value: u64) -> Result<(), Refused> {
        let nested = self.arch.nested.as_mut().ok_or(Refused::Unknown)?;
        if nested.state != State::VmxOff {
            return Err(Refused::Invalid);
        }
        let mut new = nested.caps;
        caps::restore(&mut new, &nested.offered, number, value).map_err(|_| Refused::Invalid)?;
        nested.caps = new;
        nested.fields = caps::field_set(&nested.caps);
        Ok(())
    }

    /// Brings the capability MSRs up to date with CPUID: what CR4 may hold in VMX operation is what
    /// it may hold at all.
    pub(crate) fn vmx_caps_follow_cpuid(&mut self) {
        let reserved = self.arch.cpuid.limits.cr4_reserved;
        let Some(nested) = self.arch.nested.as_mut() else {
            return;
        };
        nested.caps.cr4_fixed1 = nested.offered.cr4_fixed1 & !reserved;
        for slot in &mut nested.slots {
            slot.last = None;
        }
    }

    /// Returns what VMX operation fixes in CR0 and CR4.
    pub(crate) fn fixed_bits(&self) -> (Fixed, Fixed) {
        let Some(nested) = self.arch.nested.as_ref() else {
            return (Fixed::NONE, Fixed::NONE);
        };
        let caps = &nested.caps;
        let (ones0, is_on) = match nested.state {
            State::VmxOff | State::Smm { .. } => (0, false),
            State::NonRoot(_) if nested.proc2().unrestricted_guest() => {
                (caps.cr0_fixed0 & !CR0_PE_PG, true)
            }
            State::Root(_) | State::NonRoot(_) => (caps.cr0_fixed0, true),
        };
        if !is_on {
            return (Fixed::NONE, Fixed::NONE);
        }
        let cr0 = Fixed {
            ones: ones0,
            allowed: caps.cr0_fixed1,
        };
        let cr4 = Fixed {
            ones: caps.cr4_fixed0,
            allowed: caps.cr4_fixed1,
        };
        (cr0, cr4)
    }
}
