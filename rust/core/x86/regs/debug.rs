// SPDX-License-Identifier: GPL-2.0

//! Debug registers: DR6 and DR7, their reserved bits, and MOV to and from DRn.
//!
//! SDM 3B "Debug Registers", 19.2.

use crate::outcome::vector;
use crate::outcome::Exception;
use crate::x86::regs::write::Limits;
use crate::x86::regs::Cr4;

bitfield! {
    /// DR6, debug status. BLD and RTM are active low.
    pub struct Dr6(u64) {
        /// Breakpoints 0 to 3 whose condition was met.
        3:0 breakpoints, with_breakpoints => u8;
        /// Clear when a bus lock was detected.
        11:11 no_bus_lock, with_no_bus_lock => bool;
        /// A MOV DR with DR7.GD set.
        13:13 bd, with_bd => bool;
        /// Single step.
        14:14 bs, with_bs => bool;
        /// Task switch.
        15:15 bt, with_bt => bool;
        /// Clear when in an RTM region.
        16:16 no_rtm, with_no_rtm => bool;
    }
}

impl Dr6 {
    /// The value after reset, with every active-low bit set.
    pub const RESET: Self = Self(0xffff_0ff0);

    /// Returns `value` as DR6 keeps it: reserved bits take their fixed value.
    pub fn normalized(value: u64, limits: &Limits) -> Self {
        let mut fixed = Self(0xfffe_07f0);
        fixed = fixed
            .with_no_rtm(!limits.rtm)
            .with_no_bus_lock(!limits.bus_lock_detect);
        Self((value & 0x1_e80f) | fixed.0)
    }

    /// Returns DR6 after a debug exception with these pending bits, in the VMCS's "pending debug
    /// exceptions" polarity (RTM and bus lock active high). SDM 3C "Pending debug exceptions".
    pub fn after_exception(self, pending: u64) -> Self {
        let cleared = self.with_breakpoints(0).with_no_rtm(true).0;
        Self((cleared | (pending & 0xe00f)) ^ (pending & 0x1_0800 & cleared))
    }
}

bitfield! {
    /// DR7, debug control.
    pub struct Dr7(u64) {
        /// Local and global enables of breakpoints 0 to 3, two bits each.
        7:0 enables, with_enables => u8;
        /// Always 1.
        10:10 fixed, with_fixed => bool;
        /// RTM debugging.
        11:11 rtm, with_rtm => bool;
        /// General detect: the next MOV DR causes #DB.
        13:13 gd, with_gd => bool;
        /// Conditions and lengths of the breakpoints, four bits each.
        31:16 conditions, with_conditions => u16;
    }
}

impl Dr7 {
    /// The value after reset.
    pub const RESET: Self = Self(0x400);

    /// Returns `value` as DR7 keeps it: reserved bits take their fixed value.
    pub fn normalized(value: u64, limits: &Limits) -> Self {
        let dr7 = Self((value & 0xffff_2bff) | Self::RESET.0);
        if limits.rtm {
            dr7
        } else {
            dr7.with_rtm(false)
        }
    }

    /// Returns whether any breakpoint is enabled.
    #[inline]
    pub fn is_armed(self) -> bool {
        self.enables() != 0
    }
}

/// A debug register that MOV DR can name after aliasing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dr {
    /// DR0 to DR3: the linear address of that breakpoint.
    Address(u8),
    /// DR6, also as DR4 with CR4.DE clear.
    Status,
    /// DR7, also as DR5 with CR4.DE clear.
    Control,
}

/// Finds the register that MOV to or from DR`number` means (0 to 7), and checks the access.
///
/// `cpl` is the current privilege level and `dr7` the guest's DR7.
///
/// # Errors
///
/// - #UD for DR4 or DR5 with CR4.DE set, or a number above 7.
/// - #GP(0) above CPL 0.
/// - #DB with DR6.BD where DR7.GD is set; the caller clears GD on delivery.
pub fn access(number: u8, cr4: Cr4, cpl: u8, dr7: Dr7) -> Result<Dr, Exception> {
    let dr = match number {
        0..=3 => Dr::Address(number),
        4 if !cr4.de() => Dr::Status,
        5 if !cr4.de() => Dr::Control,
        6 => Dr::Status,
        7 => Dr::Control,
        _ => return Err(Exception::UD),
    };
    if cpl != 0 {
        return Err(Exception::GP0);
    }
    if dr7.gd() {
        let payload = Some(Dr6(0).with_bd(true).0);
        return Err(Exception {
            vector: vector::DB,
            error_code: None,
            payload,
        });
    }
    Ok(dr)
}

/// Returns what `dr` holds after MOV of `value`.
///
/// # Errors
///
/// #GP(0) if bits 63:32 of DR6 or DR7 would be set.
pub fn write(dr: Dr, value: u64, limits: &Limits) -> Result<u64, Exception> {
    match dr {
        Dr::Address(_) => Ok(value),
        Dr::Status | Dr::Control if value >> 32 != 0 => Err(Exception::GP0),
        Dr::Status => Ok(Dr6::normalized(value, limits).0),
        Dr::Control => Ok(Dr7::normalized(value, limits).0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        cr4_reserved: 0,
        efer_reserved: 0,
        xcr0_allowed: 0,
        xss_allowed: 0,
        maxphyaddr: 52,
        lam: false,
        rtm: false,
        bus_lock_detect: false,
    };

    #[test]
    fn reserved_bits_read_as_fixed() {
        assert_eq!(write(Dr::Status, 0, &LIMITS), Ok(Dr6::RESET.0));
        assert_eq!(write(Dr::Status, 0xffff_ffff, &LIMITS), Ok(0xffff_efff));
        assert_eq!(write(Dr::Control, 0, &LIMITS), Ok(0x400));
        assert_eq!(write(Dr::Control, 0xffff_ffff, &LIMITS), Ok(0xffff_27ff));
        let tsx = Limits {
            rtm: true,
            bus_lock_detect: true,
            ..LIMITS
        };
        assert_eq!(write(Dr::Status, 0, &tsx), Ok(0xfffe_07f0));
        assert_eq!(write(Dr::Control, 0x800, &tsx), Ok(0xc00));
    }

    #[test]
    fn high_half_of_dr6_and_dr7_faults() {
        assert_eq!(write(Dr::Status, 1 << 32, &LIMITS), Err(Exception::GP0));
        assert_eq!(write(Dr::Control, 1 << 63, &LIMITS), Err(Exception::GP0));
        assert_eq!(write(Dr::Address(2), u64::MAX, &LIMITS), Ok(u64::MAX));
    }

    #[test]
    fn dr4_and_dr5_alias_unless_de() {
        let de = Cr4(Cr4::DE);
        assert_eq!(access(4, Cr4(0), 0, Dr7::RESET), Ok(Dr::Status));
        assert_eq!(access(5, Cr4(0), 0, Dr7::RESET), Ok(Dr::Control));
        assert_eq!(access(4, de, 0, Dr7::RESET), Err(Exception::UD));
        assert_eq!(access(5, de, 3, Dr7::RESET), Err(Exception::UD));
        assert_eq!(access(8, Cr4(0), 0, Dr7::RESET), Err(Exception::UD));
        assert_eq!(access(7, de, 0, Dr7::RESET), Ok(Dr::Control));
    }

    #[test]
    fn privilege_comes_before_general_detect() {
        let gd = Dr7::RESET.with_gd(true);
        assert_eq!(access(0, Cr4(0), 3, gd), Err(Exception::GP0));
        let db = access(0, Cr4(0), 0, gd).unwrap_err();
        assert_eq!((db.vector, db.payload), (vector::DB, Some(1 << 13)));
    }

    #[test]
    fn exception_sets_causes_and_inverts_the_active_low_bits() {
        let dr6 = Dr6::RESET.with_breakpoints(0xf).after_exception(0x4001);
        assert_eq!(dr6.0, 0xffff_4ff1);
        assert_eq!(Dr6::RESET.after_exception(0x1_0000).0, 0xfffe_0ff0);
        assert_eq!(Dr6::RESET.after_exception(0x800).0, 0xffff_07f0);
    }
}
