// SPDX-License-Identifier: GPL-2.0

//! CR0 and CR4 in the VMCS: guest/host masks, read shadows, and the values the processor runs with.
//!
//! A bit in the mask is the host's: the guest reads it from the shadow, and a write that would
//! change it causes a VM exit. The other bits are the guest's own. Burrow requires "unrestricted
//! guest", so CR0.PE and CR0.PG may take any value. SDM 3C "Guest/Host Masks and Read Shadows for
//! CR0 and CR4", 25.6.6.

use crate::x86::regs::write::Limits;
use crate::x86::regs::Cr0;
use crate::x86::regs::Cr4;

/// The bits of CR0 that a guest may change without an exit. None of them decides a paging mode,
/// and hardware itself checks WP against CR4.CET.
pub const CR0_GUEST_OWNED: u64 = Cr0::MP | Cr0::EM | Cr0::TS | Cr0::WP | Cr0::AM;

/// The bits of CR4 that a guest may change without an exit, as far as its CPUID has them.
pub const CR4_GUEST_OWNED: u64 = Cr4::PVI
    | Cr4::TSD
    | Cr4::DE
    | Cr4::PGE
    | Cr4::PCE
    | Cr4::OSFXSR
    | Cr4::OSXMMEXCPT
    | Cr4::FSGSBASE
    | Cr4::CET;

/// What the VMCS holds for one control register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Masked {
    /// The guest-state field: what the processor runs with.
    pub real: u64,
    /// The guest/host mask: 1 for a bit of the host.
    pub mask: u64,
    /// The read shadow.
    pub shadow: u64,
}

impl Masked {
    /// Returns the value that the guest reads.
    #[inline]
    pub const fn visible(self) -> u64 {
        (self.shadow & self.mask) | (self.real & !self.mask)
    }
}

/// Returns the VMCS values for a guest's CR0.
///
/// NE is fixed to 1 in VMX operation. CD and NW stay clear in hardware: they would make all memory
/// uncached, while the guest's memory types are Burrow's to choose through EPT.
pub fn cr0(guest: Cr0) -> Masked {
    Masked {
        real: guest.with_ne(true).with_cd(false).with_nw(false).0,
        mask: !CR0_GUEST_OWNED,
        shadow: guest.0,
    }
}

/// Returns the VMCS values for a guest's CR4.
///
/// VMXE is fixed to 1. MCE is the host's: with it clear, a machine check would shut the processor
/// down rather than exit.
pub fn cr4(guest: Cr4, host: Cr4, limits: &Limits) -> Masked {
    Masked {
        real: guest.with_vmxe(true).with_mce(host.mce()).0,
        mask: !(CR4_GUEST_OWNED & !limits.cr4_reserved),
        shadow: guest.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::regs::write::Limits;
    use proptest::prelude::*;

    fn limits(cr4_reserved: u64) -> Limits {
        Limits {
            cr4_reserved,
            efer_reserved: 0,
            xcr0_allowed: 0,
            xss_allowed: 0,
            maxphyaddr: 52,
            lam: false,
            rtm: false,
            bus_lock_detect: false,
        }
    }

    #[test]
    fn hardware_bits_that_vmx_fixes_are_hidden() {
        let m = cr0(Cr0::RESET);
        assert!(Cr0(m.real).ne() && !Cr0(m.real).cd() && !Cr0(m.real).nw());
        assert_eq!(m.visible(), Cr0::RESET.0);
        let m = cr4(Cr4(0), Cr4(Cr4::MCE), &limits(0));
        assert_eq!(m.real, Cr4::VMXE | Cr4::MCE);
        assert_eq!(m.visible(), 0);
    }

    #[test]
    fn a_reserved_bit_of_cr4_is_never_the_guests() {
        let m = cr4(Cr4(0), Cr4(0), &limits(Cr4::CET | Cr4::FSGSBASE));
        assert_eq!(
            m.mask & (Cr4::CET | Cr4::FSGSBASE),
            Cr4::CET | Cr4::FSGSBASE
        );
        assert_eq!(m.mask & Cr4::TSD, 0);
    }

    #[test]
    fn bits_that_decide_the_mode_are_the_hosts() {
        assert_eq!(
            CR0_GUEST_OWNED & (Cr0::PE | Cr0::PG | Cr0::NE | Cr0::CD | Cr0::NW),
            0
        );
        let mode = Cr4::PAE | Cr4::PSE | Cr4::LA57 | Cr4::PCIDE | Cr4::SMEP | Cr4::VMXE;
        assert_eq!(CR4_GUEST_OWNED & (mode | Cr4::OSXSAVE | Cr4::PKE), 0);
    }

    proptest! {
        #[test]
        fn the_guest_reads_what_it_wrote(guest in any::<u64>(), host in any::<u64>()) {
            prop_assert_eq!(cr0(Cr0(guest)).visible(), guest);
            prop_assert_eq!(cr4(Cr4(guest), Cr4(host), &limits(0)).visible(), guest);
        }
    }
}
