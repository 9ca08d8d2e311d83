// SPDX-License-Identifier: GPL-2.0

//! What `KVM_SET_SREGS` and `KVM_SET_SREGS2` accept.

use crate::x86::regs::write;
use crate::x86::regs::write::Fixed;
use crate::x86::regs::write::Limits;
use crate::x86::regs::Cr0;
use crate::x86::regs::Cr3;
use crate::x86::regs::Cr4;
use crate::x86::regs::Efer;

/// The fields of `struct kvm_sregs` that hang together, with the vCPU state they are judged by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sregs {
    /// CR0.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: Cr3,
    /// CR4.
    pub cr4: Cr4,
    /// CR8, the task priority.
    pub cr8: u64,
    /// IA32_EFER.
    pub efer: Efer,
    /// The L bit of CS.
    pub cs_long: bool,
    /// The vCPU is in system-management mode.
    pub is_smm: bool,
    /// What VMX operation of the guest fixes in CR0.
    pub cr0_fixed: Fixed,
    /// What VMX operation of the guest fixes in CR4.
    pub cr4_fixed: Fixed,
}

/// Returns whether the registers make a mode that the processor can be in; if not, the ioctl fails
/// with `EINVAL` and changes nothing.
///
/// With LME and PG set: PAE and LMA are set, CR3 is legal. Otherwise: LMA and CS.L are clear. CR0,
/// CR4 and EFER have no illegal bit.
pub fn is_valid(sregs: &Sregs, limits: &Limits) -> bool {
    let mode = if sregs.efer.lme() && sregs.cr0.pg() {
        sregs.cr4.pae() && sregs.efer.lma() && write::is_valid_cr3(sregs.cr3, limits)
    } else {
        !sregs.efer.lma() && !sregs.cs_long
    };
    mode && write::is_valid_cr0(sregs.cr0)
        && sregs.cr0_fixed.admits(sregs.cr0.0)
        && write::is_valid_cr4(sregs.cr4, limits, sregs.is_smm)
        && sregs.cr4_fixed.admits(sregs.cr4.0)
        && sregs.efer.0 & limits.efer_reserved & !Efer::LMA == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        cr4_reserved: !(Cr4::ALWAYS | Cr4::VMXE),
        efer_reserved: !(Efer::SCE | Efer::LME | Efer::LMA | Efer::NXE),
        xcr0_allowed: 0,
        xss_allowed: 0,
        maxphyaddr: 40,
        lam: false,
        rtm: false,
        bus_lock_detect: false,
    };

    fn long() -> Sregs {
        Sregs {
            cr0: Cr0(Cr0::PE | Cr0::PG),
            cr3: Cr3(0x1000),
            cr4: Cr4(Cr4::PAE),
            cr8: 0,
            efer: Efer(Efer::LME | Efer::LMA),
            cs_long: true,
            is_smm: false,
            cr0_fixed: Fixed::NONE,
            cr4_fixed: Fixed::NONE,
        }
    }

    #[test]
    fn reset_and_long_mode_are_accepted() {
        let reset = Sregs {
            cr0: Cr0::RESET,
            cr4: Cr4(0),
            efer: Efer(0),
            cs_long: false,
            ..long()
        };
        assert!(is_valid(&reset, &LIMITS));
        assert!(is_valid(&long(), &LIMITS));
        // A 32-bit code segment within IA-32e mode, and LME set before paging.
        assert!(is_valid(
            &Sregs {
                cs_long: false,
                ..long()
            },
            &LIMITS
        ));
        assert!(is_valid(
            &Sregs {
                efer: Efer(Efer::LME),
                ..reset
            },
            &LIMITS
        ));
    }

    #[test]
    fn impossible_modes_are_refused() {
        let s = long();
        let bad = [
            ("PAE clear", Sregs { cr4: Cr4(0), ..s }),
            (
                "LMA clear",
                Sregs {
                    efer: Efer(Efer::LME),
                    ..s
                },
            ),
            (
                "CR3 too wide",
                Sregs {
                    cr3: Cr3(1 << 40),
                    ..s
                },
            ),
            (
                "LMA without PG",
                Sregs {
                    cr0: Cr0(Cr0::PE),
                    ..s
                },
            ),
            (
                "LMA without LME",
                Sregs {
                    efer: Efer(Efer::LMA),
                    ..s
                },
            ),
            ("L without LMA", Sregs { efer: Efer(0), ..s }),
            (
                "PG without PE",
                Sregs {
                    cr0: Cr0(Cr0::PG),
                    ..s
                },
            ),
            (
                "NW without CD",
                Sregs {
                    cr0: Cr0(s.cr0.0 | Cr0::NW),
                    ..s
                },
            ),
            (
                "CR0 high bit",
                Sregs {
                    cr0: Cr0(s.cr0.0 | 1 << 32),
                    ..s
                },
            ),
            (
                "CR4 reserved",
                Sregs {
                    cr4: Cr4(Cr4::PAE | Cr4::SMEP),
                    ..s
                },
            ),
            (
                "EFER reserved",
                Sregs {
                    efer: Efer(s.efer.0 | 2),
                    ..s
                },
            ),
            (
                "VMXE in SMM",
                Sregs {
                    cr4: Cr4(Cr4::PAE | Cr4::VMXE),
                    is_smm: true,
                    ..s
                },
            ),
        ];
        for (name, sregs) in bad {
            assert!(!is_valid(&sregs, &LIMITS), "{name}");
        }
    }
}
