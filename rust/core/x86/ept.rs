// SPDX-License-Identifier: GPL-2.0

//! Extended page tables: entries, the EPT pointer, memory types and misconfigurations.
//!
//! Serves both directions: the tables that Burrow builds for its guests ([`super::tdp`]) and the
//! tables that an L1 hypervisor hands us, which must be judged as the processor would judge them.
//! SDM 3C "The Extended Page Table Mechanism (EPT)", 30.3.

use crate::addr::Hpa;
use crate::addr::Level;
use crate::addr::Pfn;
use crate::addr::PAGE_SHIFT;

/// The widest physical address that any entry can hold, in bits.
pub const MAX_PHYSICAL_ADDRESS_BITS: u8 = 52;

/// What the processor (or, for an L1's tables, the processor that L1 sees) can do with EPT.
///
/// SDM 3D "VPID and EPT Capabilities", A.10, and `CPUID.80000008H:EAX[7:0]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EptFeatures {
    /// Translations that may be executed but not read are supported.
    pub execute_only: bool,
    /// 2-MiB pages are supported.
    pub page_2m: bool,
    /// 1-GiB pages are supported.
    pub page_1g: bool,
    /// Accessed and dirty flags are supported.
    pub accessed_dirty: bool,
    /// The VM-execution control "mode-based execute control for EPT" is in use.
    pub mode_based_execute: bool,
    /// A page-walk length of 4 is supported.
    pub walk_4: bool,
    /// A page-walk length of 5 is supported.
    pub walk_5: bool,
    /// The paging structures may be uncacheable.
    pub uncacheable: bool,
    /// The paging structures may be write-back.
    pub write_back: bool,
    /// MAXPHYADDR: the width of a physical address in bits, at most 52.
    pub physical_address_bits: u8,
}

impl EptFeatures {
    /// Returns the bits of an entry or EPTP that hold a physical address, page offset excluded.
    #[inline]
    pub const fn address_mask(&self) -> u64 {
        address_bits(self.physical_address_bits) & !0xfff
    }

    /// Returns whether an entry at `level` may map a page.
    #[inline]
    pub const fn has_leaf_at(&self, level: Level) -> bool {
        match level {
            Level::Pt => true,
            Level::Pd => self.page_2m,
            Level::Pdpt => self.page_1g,
            Level::Pml4 | Level::Pml5 => false,
        }
    }
}

/// Returns the mask of the low `width` bits; a width over 52 counts as 52.
#[inline]
pub const fn address_bits(width: u8) -> u64 {
    let width = if width > MAX_PHYSICAL_ADDRESS_BITS {
        MAX_PHYSICAL_ADDRESS_BITS
    } else {
        width
    };
    1u64.wrapping_shl(width as u32).wrapping_sub(1)
}

/// A memory type, by its encoding. SDM 3A "Memory Types That Can Be Encoded With PAT", 13.12.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum MemoryType {
    /// Uncacheable.
    Uncacheable = 0,
    /// Write combining.
    WriteCombining = 1,
    /// Write through.
    WriteThrough = 4,
    /// Write protected.
    WriteProtected = 5,
    /// Write back.
    WriteBack = 6,
}

impl MemoryType {
    /// Returns the type that `bits` encode, or `None` for the reserved 2, 3, 7 and above.
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::Uncacheable),
            1 => Some(Self::WriteCombining),
            4 => Some(Self::WriteThrough),
            5 => Some(Self::WriteProtected),
            6 => Some(Self::WriteBack),
            _ => None,
        }
    }
}

bitfield! {
    /// An entry of an EPT paging structure, of any level.
    ///
    /// Bits 11, 52 to 56, 59 and 62 are ignored by every processor; Burrow's own tables use some
    /// of them (see [`super::tdp`]). SDM 3C "EPT Translation Mechanism", 30.3.2.
    pub struct EptEntry(u64) {
        /// Reads are allowed.
        0:0 read, with_read => bool;
        /// Writes are allowed.
        1:1 write, with_write => bool;
        /// Instruction fetches are allowed; with mode-based execute control, from
        /// supervisor-mode linear addresses.
        2:2 execute, with_execute => bool;
        /// The memory type of a leaf, see [`MemoryType`].
        5:3 memory_type_bits, with_memory_type_bits => u8;
        /// The leaf's memory type overrides the guest's PAT.
        6:6 ignore_pat, with_ignore_pat => bool;
        /// The entry maps a page (ignored in a page table, where every entry does).
        7:7 large, with_large => bool;
        /// The region has been accessed.
        8:8 accessed, with_accessed => bool;
        /// The page has been written.
        9:9 dirty, with_dirty => bool;
        /// With mode-based execute control: fetches from user-mode linear addresses are allowed.
        10:10 user_execute, with_user_execute => bool;
        /// Bits 51:12: the page frame, or that of the next table.
        51:12 frame, with_frame => u64;
        /// Burrow's own tables: the host lets this page be written.
        52:52 host_writable, with_host_writable => bool;
        /// Burrow's shadows of a guest's EPT: writes to this page are logged.
        53:53 logged, with_logged => bool;
        /// An EPT violation here does not become a virtualization exception.
        63:63 suppress_ve, with_suppress_ve => bool;
    }
}

impl EptEntry {
    /// Returns whether the processor looks further than "not present".
    ///
    /// SDM 3C "EPT Translation Mechanism", 30.3.2.
    #[inline]
    pub const fn is_present(self, features: &EptFeatures) -> bool {
        self.0 & 7 != 0 || (features.mode_based_execute && self.0 & (1 << 10) != 0)
    }

    /// Returns whether the entry, found at `level`, maps a page rather than a table.
    #[inline]
    pub fn is_leaf(self, level: Level) -> bool {
        matches!(level, Level::Pt) || (matches!(level, Level::Pd | Level::Pdpt) && self.large())
    }

    /// Returns the page frame that the entry points to.
    #[inline]
    pub fn pfn(self) -> Pfn {
        Pfn(self.frame())
    }

    /// Returns the memory type of a leaf, or `None` where it is reserved.
    #[inline]
    pub fn memory_type(self) -> Option<MemoryType> {
        MemoryType::from_bits(self.memory_type_bits())
    }

    /// Returns what the entry permits.
    #[inline]
    pub fn rights(self, features: &EptFeatures) -> Rights {
        let user_execute = if features.mode_based_execute {
            self.user_execute()
        } else {
            self.execute()
        };
        Rights {
            read: self.read(),
            write: self.write(),
            execute: self.execute(),
            user_execute,
        }
    }

    /// Returns whether using this entry at `level` is an EPT misconfiguration.
    ///
    /// SDM 3C "EPT Misconfigurations", 30.3.3.1.
    pub fn is_misconfigured(self, level: Level, features: &EptFeatures) -> bool {
        if !self.is_present(features) {
            return false;
        }
        let executable = self.execute() || (features.mode_based_execute && self.user_execute());
        if !self.read() && (self.write() || (executable && !features.execute_only)) {
            return true;
        }
        if self.0 & reserved_bits(self, level, features) != 0 {
            return true;
        }
        self.is_leaf(level) && self.memory_type().is_none()
    }
}

/// Returns the bits that must be 0 in `entry`, present and found at `level`.
///
/// SDM 3C Tables 30-1 to 30-6 ("Format of an EPT ... Entry").
fn reserved_bits(entry: EptEntry, level: Level, features: &EptFeatures) -> u64 {
    let beyond = !address_bits(features.physical_address_bits) & 0x000f_ffff_ffff_f000;
    let low = match level {
        Level::Pml4 | Level::Pml5 => 0xf8,
        Level::Pdpt if !features.page_1g => 0xf8,
        Level::Pd if !features.page_2m => 0xf8,
        Level::Pdpt | Level::Pd if entry.large() => level.bytes().wrapping_sub(1) & !0xfff,
        Level::Pdpt | Level::Pd => 0x78,
        Level::Pt => 0,
    };
    beyond | low
}

/// What a translation, or one entry of it, permits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// Data reads.
    pub read: bool,
    /// Data writes.
    pub write: bool,
    /// Fetches; with mode-based execute control, those from supervisor-mode linear addresses.
    pub execute: bool,
    /// Fetches from user-mode linear addresses; the same as `execute` without that control.
    pub user_execute: bool,
}

impl Rights {
    /// Everything.
    pub const ALL: Self = Self {
        read: true,
        write: true,
        execute: true,
        user_execute: true,
    };

    /// Returns what both permit: how the rights of the entries on a walk combine.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self {
            read: self.read & other.read,
            write: self.write & other.write,
            execute: self.execute & other.execute,
            user_execute: self.user_execute & other.user_execute,
        }
    }
}

bitfield! {
    /// The EPT pointer. SDM 3C "Extended-Page-Table Pointer (EPTP)", 26.6.11.
    pub struct Eptp(u64) {
        /// The memory type of the paging structures: 0 (UC) or 6 (WB).
        2:0 memory_type_bits, with_memory_type_bits => u8;
        /// The page-walk length less 1.
        5:3 walk_length_less_1, with_walk_length_less_1 => u8;
        /// Accessed and dirty flags are enabled.
        6:6 accessed_dirty, with_accessed_dirty => bool;
        /// Access rights of supervisor shadow-stack pages are enforced.
        7:7 supervisor_shadow_stack, with_supervisor_shadow_stack => bool;
        /// The page frame of the root table.
        51:12 frame, with_frame => u64;
    }
}

impl Eptp {
    /// Makes the pointer to a root table of ours: write-back, 4 levels (or 5), A/D if supported.
    pub fn new(root: Pfn, level: Level, features: &EptFeatures) -> Self {
        let walk_length_less_1 = match level {
            Level::Pml5 => 4,
            Level::Pml4 | Level::Pdpt | Level::Pd | Level::Pt => 3,
        };
        Self(0)
            .with_memory_type_bits(MemoryType::WriteBack as u8)
            .with_walk_length_less_1(walk_length_less_1)
            .with_accessed_dirty(features.accessed_dirty)
            .with_frame(root.0)
    }

    /// Returns the address of the root table.
    #[inline]
    pub fn root(self) -> Hpa {
        Hpa(self.frame() << PAGE_SHIFT)
    }

    /// Returns the level of the root table, or `None` for a page-walk length other than 4 and 5.
    #[inline]
    pub fn root_level(self) -> Option<Level> {
        match self.walk_length_less_1() {
            3 => Some(Level::Pml4),
            4 => Some(Level::Pml5),
            _ => None,
        }
    }

    /// Returns whether a VM entry accepts the value.
    ///
    /// SDM 3C "VM-Execution Control Fields", 28.2.1.1. Supervisor shadow-stack control (bit 7) is
    /// not offered, so it is reserved.
    pub fn is_valid(self, features: &EptFeatures) -> bool {
        let type_is_valid = match MemoryType::from_bits(self.memory_type_bits()) {
            Some(MemoryType::Uncacheable) => features.uncacheable,
            Some(MemoryType::WriteBack) => features.write_back,
            _ => false,
        };
        let length_is_valid = match self.root_level() {
            Some(Level::Pml4) => features.walk_4,
            Some(Level::Pml5) => features.walk_5,
            _ => false,
        };
        let reserved = !(features.address_mask() | 0x7f);
        type_is_valid
            && length_is_valid
            && (features.accessed_dirty || !self.accessed_dirty())
            && self.0 & reserved == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: EptFeatures = EptFeatures {
        execute_only: true,
        page_2m: true,
        page_1g: true,
        accessed_dirty: true,
        mode_based_execute: false,
        walk_4: true,
        walk_5: true,
        uncacheable: true,
        write_back: true,
        physical_address_bits: 46,
    };

    fn misconfigured(bits: u64, level: Level, features: EptFeatures) -> bool {
        EptEntry(bits).is_misconfigured(level, &features)
    }

    #[test]
    fn not_present_entry_is_never_misconfigured() {
        for level in [Level::Pt, Level::Pd, Level::Pdpt, Level::Pml4, Level::Pml5] {
            assert!(!misconfigured(!7, level, FULL));
        }
    }

    #[test]
    fn user_execute_alone_makes_present_only_with_mode_based_execute() {
        let entry = EptEntry(1 << 10);
        assert!(!entry.is_present(&FULL));
        let mbec = EptFeatures {
            mode_based_execute: true,
            ..FULL
        };
        assert!(entry.is_present(&mbec));
        assert!(!entry.is_misconfigured(Level::Pml4, &mbec));
        let mbec_no_xo = EptFeatures {
            execute_only: false,
            ..mbec
        };
        assert!(entry.is_misconfigured(Level::Pml4, &mbec_no_xo));
    }

    #[test]
    fn write_without_read_is_misconfigured() {
        assert!(misconfigured(0x32, Level::Pt, FULL));
        assert!(misconfigured(0x36, Level::Pt, FULL));
        assert!(!misconfigured(0x33, Level::Pt, FULL));
    }

    #[test]
    fn execute_only_is_misconfigured_without_the_feature() {
        assert!(!misconfigured(0x34, Level::Pt, FULL));
        assert!(misconfigured(
            0x34,
            Level::Pt,
            EptFeatures {
                execute_only: false,
                ..FULL
            }
        ));
    }

    #[test]
    fn address_beyond_maxphyaddr_is_misconfigured_at_each_level() {
        for level in [Level::Pd, Level::Pdpt, Level::Pml4, Level::Pml5] {
            assert!(!misconfigured(7 | 1 << 45, level, FULL));
            assert!(misconfigured(7 | 1 << 46, level, FULL));
            assert!(misconfigured(7 | 1 << 51, level, FULL));
            assert!(!misconfigured(7 | 1 << 52 | 1 << 63, level, FULL));
        }
        assert!(misconfigured(0x37 | 1 << 46, Level::Pt, FULL));
    }

    #[test]
    fn table_entries_reserve_low_bits() {
        for bit in 3..=7 {
            assert!(misconfigured(7 | 1 << bit, Level::Pml4, FULL), "bit {bit}");
            assert!(misconfigured(7 | 1 << bit, Level::Pml5, FULL), "bit {bit}");
        }
        for bit in 3..=6 {
            assert!(misconfigured(7 | 1 << bit, Level::Pd, FULL), "bit {bit}");
            assert!(misconfigured(7 | 1 << bit, Level::Pdpt, FULL), "bit {bit}");
        }
        assert!(!misconfigured(7 | 1 << 8, Level::Pml4, FULL));
    }

    #[test]
    fn huge_leaf_reserves_its_offset_bits_and_needs_the_feature() {
        assert!(!misconfigured(0xb7 | 1 << 21, Level::Pd, FULL));
        assert!(misconfigured(0xb7 | 1 << 20, Level::Pd, FULL));
        assert!(misconfigured(0xb7 | 1 << 12, Level::Pd, FULL));
        assert!(!misconfigured(0xb7 | 1 << 30, Level::Pdpt, FULL));
        assert!(misconfigured(0xb7 | 1 << 29, Level::Pdpt, FULL));
        assert!(misconfigured(
            0xb7,
            Level::Pd,
            EptFeatures {
                page_2m: false,
                ..FULL
            }
        ));
        assert!(misconfigured(
            0xb7,
            Level::Pdpt,
            EptFeatures {
                page_1g: false,
                ..FULL
            }
        ));
    }

    #[test]
    fn leaf_memory_types_2_3_and_7_are_misconfigured() {
        for kind in 0..8 {
            let expected = matches!(kind, 2 | 3 | 7);
            assert_eq!(
                misconfigured(7 | kind << 3, Level::Pt, FULL),
                expected,
                "type {kind}"
            );
            assert_eq!(
                misconfigured(0x87 | kind << 3, Level::Pd, FULL),
                expected,
                "type {kind}"
            );
        }
    }

    #[test]
    fn rights_ignore_user_execute_without_mode_based_execute() {
        let entry = EptEntry(0x405);
        let rights = entry.rights(&FULL);
        assert!(rights.read && !rights.write && rights.execute && rights.user_execute);
        let mbec = EptFeatures {
            mode_based_execute: true,
            ..FULL
        };
        assert!(!EptEntry(0x005).rights(&mbec).user_execute);
        assert!(entry.rights(&mbec).user_execute);
        assert_eq!(Rights::ALL.and(rights), rights);
    }

    #[test]
    fn own_eptp_is_valid_and_names_its_root() {
        let eptp = Eptp::new(Pfn(0x1234), Level::Pml4, &FULL);
        assert_eq!(eptp.0, 0x0123_405e);
        assert!(eptp.is_valid(&FULL));
        assert_eq!(eptp.root(), Hpa(0x0123_4000));
        assert_eq!(eptp.root_level(), Some(Level::Pml4));
        assert_eq!(
            Eptp::new(Pfn(1), Level::Pml5, &FULL).root_level(),
            Some(Level::Pml5)
        );
    }

    #[test]
    fn eptp_rules_fail_one_by_one() {
        let good = 0x1000_u64 | 3 << 3 | 6;
        let valid = |bits, features: EptFeatures| Eptp(bits).is_valid(&features);
        assert!(valid(good, FULL));
        assert!(valid(good & !7, FULL));
        assert!(!valid(
            good & !7,
            EptFeatures {
                uncacheable: false,
                ..FULL
            }
        ));
        assert!(!valid(
            good,
            EptFeatures {
                write_back: false,
                ..FULL
            }
        ));
        for kind in [1, 2, 3, 4, 5, 7_u64] {
            assert!(!valid((good & !7) | kind, FULL), "type {kind}");
        }
        for length in [0, 1, 2, 5, 6, 7_u64] {
            assert!(
                !valid((good & !0x38) | length << 3, FULL),
                "length {length}"
            );
        }
        assert!(!valid(
            good,
            EptFeatures {
                walk_4: false,
                ..FULL
            }
        ));
        let five = (good & !0x38) | 4 << 3;
        assert!(valid(five, FULL));
        assert!(!valid(
            five,
            EptFeatures {
                walk_5: false,
                ..FULL
            }
        ));
        assert!(valid(good | 1 << 6, FULL));
        assert!(!valid(
            good | 1 << 6,
            EptFeatures {
                accessed_dirty: false,
                ..FULL
            }
        ));
        for bit in (7..12).chain(46..64) {
            assert!(!valid(good | 1 << bit, FULL), "bit {bit}");
        }
        assert!(valid(good | 1 << 45, FULL));
    }
}
