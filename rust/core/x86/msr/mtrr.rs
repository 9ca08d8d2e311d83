// SPDX-License-Identifier: GPL-2.0

//! Memory-type range registers: storage and legality. Their values have no effect on memory types,
//! which EPT and PAT decide. SDM 3A "Memory Type Range Registers (MTRRs)", 13.11.

use crate::x86::msr::index;

/// The number of variable ranges.
pub const NR_VARIABLE: usize = 8;
/// The number of MSRs of fixed ranges.
pub const NR_FIXED: usize = 11;
/// IA32_MTRRCAP: 8 variable ranges, fixed ranges, write combining.
pub const CAPABILITIES: u64 = 0x508;

/// A memory-type range register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// IA32_MTRRCAP, read-only.
    Capabilities,
    /// IA32_MTRR_DEF_TYPE.
    DefaultType,
    /// A fixed range, 0 to 10 in the order of addresses.
    Fixed(u8),
    /// The base of a variable range, 0 to 7.
    VariableBase(u8),
    /// The mask of a variable range, 0 to 7.
    VariableMask(u8),
}

impl Register {
    /// Returns the register with this number, if it is one of these.
    pub const fn of(number: u32) -> Option<Self> {
        let low = (number & 0xf) as u8;
        Some(match number {
            index::IA32_MTRRCAP => Self::Capabilities,
            index::IA32_MTRR_DEF_TYPE => Self::DefaultType,
            index::IA32_MTRR_FIX64K_00000 => Self::Fixed(0),
            index::IA32_MTRR_FIX16K_80000 => Self::Fixed(1),
            index::IA32_MTRR_FIX16K_A0000 => Self::Fixed(2),
            // The low digit runs from 8 to 15.
            index::IA32_MTRR_FIX4K_C0000..=index::IA32_MTRR_FIX4K_F8000 => {
                Self::Fixed(low.wrapping_sub(5))
            }
            index::IA32_MTRR_PHYSBASE0..=index::IA32_MTRR_PHYSMASK7 => {
                if low & 1 == 0 {
                    Self::VariableBase(low >> 1)
                } else {
                    Self::VariableMask(low >> 1)
                }
            }
            _ => return None,
        })
    }

    /// Returns whether `value` may be written, for guest-physical addresses of `maxphyaddr` bits.
    pub fn admits(self, value: u64, maxphyaddr: u8) -> bool {
        let [low_type, ..] = value.to_le_bytes();
        let wide = u64::MAX.checked_shl(u32::from(maxphyaddr)).unwrap_or(0);
        match self {
            Self::Capabilities => false,
            Self::DefaultType => value & !0xcff == 0 && is_type(low_type),
            Self::Fixed(_) => value.to_le_bytes().into_iter().all(is_type),
            Self::VariableBase(_) => value & (wide | 0xf00) == 0 && is_type(low_type),
            Self::VariableMask(_) => value & (wide | 0x7ff) == 0,
        }
    }
}

/// Returns whether `value` encodes a memory type of MTRRs: UC, WC, WT, WP or WB.
const fn is_type(value: u8) -> bool {
    matches!(value, 0 | 1 | 4 | 5 | 6)
}

/// Returns whether `value` may be written to IA32_PAT: eight memory types, UC- included.
/// SDM 3A "IA32_PAT MSR", 13.12.2.
pub fn is_valid_pat(value: u64) -> bool {
    value
        .to_le_bytes()
        .into_iter()
        .all(|memory_type| is_type(memory_type) || memory_type == 7)
}

/// IA32_PAT after reset.
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// The registers of one vCPU; all clear after reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mtrrs {
    default_type: u64,
    fixed: [u64; NR_FIXED],
    bases: [u64; NR_VARIABLE],
    masks: [u64; NR_VARIABLE],
}

impl Mtrrs {
    /// Returns the value of `register`.
    pub fn get(&self, register: Register) -> u64 {
        let slot = match register {
            Register::Capabilities => return CAPABILITIES,
            Register::DefaultType => return self.default_type,
            Register::Fixed(n) => self.fixed.get(usize::from(n)),
            Register::VariableBase(n) => self.bases.get(usize::from(n)),
            Register::VariableMask(n) => self.masks.get(usize::from(n)),
        };
        slot.copied().unwrap_or(0)
    }

    /// Sets `register` to a value that [`Register::admits`].
    pub fn set(&mut self, register: Register, value: u64) {
        let slot = match register {
            Register::Capabilities => None,
            Register::DefaultType => Some(&mut self.default_type),
            Register::Fixed(n) => self.fixed.get_mut(usize::from(n)),
            Register::VariableBase(n) => self.bases.get_mut(usize::from(n)),
            Register::VariableMask(n) => self.masks.get_mut(usize::from(n)),
        };
        if let Some(slot) = slot {
            *slot = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_has_a_slot_of_its_own() {
        let all: Vec<Register> = (0..0x1000).filter_map(Register::of).collect();
        assert_eq!(all.len(), 1 + 1 + NR_FIXED + 2 * NR_VARIABLE);
        let mut mtrrs = Mtrrs::default();
        for (n, register) in all.iter().enumerate() {
            mtrrs.set(*register, n as u64 + 1);
        }
        for (n, register) in all.iter().enumerate() {
            let expected = match register {
                Register::Capabilities => CAPABILITIES,
                _ => n as u64 + 1,
            };
            assert_eq!(mtrrs.get(*register), expected, "{register:?}");
        }
    }

    #[test]
    fn values_are_checked_per_kind() {
        let cases = [
            (Register::DefaultType, 0xc06, true),
            (Register::DefaultType, 0x806, true),
            (Register::DefaultType, 0x802, false),
            (Register::DefaultType, 0x1006, false),
            (Register::DefaultType, 0x106, false),
            (Register::Fixed(0), 0x0606_0606_0606_0606, true),
            (Register::Fixed(0), 0x0306_0606_0606_0606, false),
            (Register::Fixed(0), 0x0606_0606_0606_0607, false),
            (Register::VariableBase(0), 0xf_ffff_f006, true),
            (Register::VariableBase(0), 0x10_0000_0006, false),
            (Register::VariableBase(0), 0x106, false),
            (Register::VariableBase(0), 7, false),
            (Register::VariableMask(0), 0xf_8000_0800, true),
            (Register::VariableMask(0), 0x400, false),
            (Register::VariableMask(0), 1 << 36, false),
            (Register::Capabilities, CAPABILITIES, false),
        ];
        for (register, value, expected) in cases {
            assert_eq!(
                register.admits(value, 36),
                expected,
                "{register:?} {value:#x}"
            );
        }
    }

    #[test]
    fn pat_takes_uc_minus_but_no_reserved_type() {
        assert!(is_valid_pat(PAT_RESET));
        assert!(!is_valid_pat(2) && !is_valid_pat(3 << 56) && !is_valid_pat(0x800));
    }
}
