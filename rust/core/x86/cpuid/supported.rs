// SPDX-License-Identifier: GPL-2.0

//! The features that a VMM may offer a guest, and `KVM_GET_EMULATED_CPUID`.
//!
//! They are the host's, less what Burrow does not virtualize, plus what it provides itself.

use crate::x86::cpuid::feature;
use crate::x86::cpuid::feature::Set;
use crate::x86::cpuid::feature::Word;
use crate::x86::cpuid::Entry;
use crate::x86::cpuid::Regs;
use crate::x86::cpuid::SIGNIFICANT_INDEX;

/// The state components that can be virtualized: x87, SSE, AVX, AVX-512, PKRU. MPX, AMX and APX need
/// more than XCR0.
const KNOWN_XCR0: u64 = 0x2e7;
/// XCR0.AVX.
const AVX: u64 = 1 << 2;
/// XCR0.opmask, ZMM_Hi256 and Hi16_ZMM.
const AVX512: u64 = 7 << 5;
/// XCR0.PKRU.
const PKRU: u64 = 1 << 9;

/// Performance monitoring that the module offers: leaf 0AH.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pmu {
    /// The version of architectural performance monitoring.
    pub version: u8,
    /// The number of general counters.
    pub nr_general: u8,
    /// Their width in bits.
    pub general_width: u8,
    /// The number of bits in `missing_events` that count.
    pub nr_events: u8,
    /// Architectural events that are not available, one bit each.
    pub missing_events: u32,
    /// The number of fixed counters, at most 31.
    pub nr_fixed: u8,
    /// Their width in bits.
    pub fixed_width: u8,
}

/// What the module supports on this host, as far as CPUID depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Support {
    /// The host's XCR0; 0 without XSAVE. Components that Burrow does not know are left out.
    pub xcr0: u64,
    /// The bits of IA32_XSS that guests may set.
    pub xss: u64,
    /// "Enable XSAVES/XRSTORS" is available.
    pub xsaves: bool,
    /// "Enable INVPCID" is available.
    pub invpcid: bool,
    /// "Enable RDTSCP" is available (RDPID hangs on it too).
    pub rdtscp: bool,
    /// "Enable user wait and pause" is available and IA32_UMWAIT_CONTROL is switched.
    pub waitpkg: bool,
    /// The host uses protection keys, so PKRU is switched.
    pub pku: bool,
    /// Guest page tables of five levels can be walked.
    pub la57: bool,
    /// The bits of IA32_SPEC_CTRL that the processor takes; 0 where it is not switched at VM entry.
    pub spec_ctrl: u64,
    /// Bus-lock detection is available to guests.
    pub bus_lock_detect: bool,
    /// Linear-address masking is available to guests.
    pub lam: bool,
    /// The local APIC has its x2APIC mode.
    pub x2apic: bool,
    /// The local APIC has its TSC-deadline timer.
    pub tsc_deadline: bool,
    /// Nested VMX is offered.
    pub nested: bool,
    /// The host's TSC runs at a constant rate in every state.
    pub invariant_tsc: bool,
    /// Performance monitoring, if offered.
    pub pmu: Option<Pmu>,
    /// EPT has four levels only: guest-physical addresses end at 48 bits.
    pub ept_4_level: bool,
    /// The paravirtual features that work: EAX of [`super::KVM_CPUID_FEATURES`].
    pub paravirt: u32,
}

impl Support {
    /// Returns the bits of XCR0 that guests may set.
    pub fn guest_xcr0(&self) -> u64 {
        let known = self.xcr0 & KNOWN_XCR0;
        if self.pku {
            known
        } else {
            known & !PKRU
        }
    }
}

/// Returns the features that a guest may have.
pub fn supported(host: impl FnMut(u32, u32) -> Regs, support: &Support) -> Set {
    let mut set = Set::collect(host).and(&feature::KNOWN);
    let xcr0 = support.guest_xcr0();
    if xcr0 & AVX == 0 {
        set.remove(&feature::NEED_AVX);
    }
    if xcr0 & (AVX | AVX512) != AVX | AVX512 {
        set.remove(&feature::NEED_AVX512);
    }
    let conditions = [
        (feature::XSAVE, xcr0 != 0),
        (feature::XSAVES, support.xsaves && xcr0 != 0),
        (feature::INVPCID, support.invpcid && set.has(feature::PCID)),
        (feature::RDTSCP, support.rdtscp),
        (feature::RDPID, support.rdtscp),
        (feature::WAITPKG, support.waitpkg),
        (feature::PKU, xcr0 & PKRU != 0),
        (feature::LA57, support.la57),
        (feature::BUS_LOCK_DETECT, support.bus_lock_detect),
        (feature::LAM, support.lam),
        (feature::VMX, support.nested),
        (feature::PDCM, support.pmu.is_some()),
        (feature::INVARIANT_TSC, support.invariant_tsc),
    ];
    let speculation = feature::SPEC_CTRL_BITS
        .iter()
        .map(|(feature, bits)| (*feature, support.spec_ctrl & bits == *bits));
    for (feature, is_met) in conditions.into_iter().chain(speculation) {
        set.put(feature, is_met && set.has(feature));
    }
    if xcr0 == 0 {
        set.set_word(Word::Ld1Eax, 0);
    }
    if support.spec_ctrl == 0 {
        set.set_word(Word::L72Edx, 0);
    }
    let provided = [
        (feature::HYPERVISOR, true),
        (feature::TSC_ADJUST, true),
        (feature::ARCH_CAPABILITIES, true),
        (feature::X2APIC, support.x2apic),
        (feature::TSC_DEADLINE, support.tsc_deadline),
    ];
    for (feature, is_provided) in provided {
        set.put(feature, is_provided);
    }
    set
}

/// Instructions that the emulator executes even where the host lacks them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Emulated {
    /// MOVBE.
    pub movbe: bool,
    /// RDPID.
    pub rdpid: bool,
}

/// Returns the entries of `KVM_GET_EMULATED_CPUID`.
pub fn emulated(instructions: Emulated) -> [Entry; 3] {
    let plain = |function, regs| Entry {
        function,
        index: 0,
        flags: 0,
        regs,
    };
    let movbe = if instructions.movbe {
        feature::MOVBE.mask
    } else {
        0
    };
    let rdpid = if instructions.rdpid {
        feature::RDPID.mask
    } else {
        0
    };
    [
        plain(
            0,
            Regs {
                eax: 7,
                ..Regs::default()
            },
        ),
        plain(
            1,
            Regs {
                ecx: movbe,
                ..Regs::default()
            },
        ),
        Entry {
            flags: SIGNIFICANT_INDEX,
            ..plain(
                7,
                Regs {
                    ecx: rdpid,
                    ..Regs::default()
                },
            )
        },
    ]
}
