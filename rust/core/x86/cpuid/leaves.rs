// SPDX-License-Identifier: GPL-2.0

//! `KVM_GET_SUPPORTED_CPUID`: the leaves that a VMM may offer a guest.
//!
//! The list stays below 100 entries: kvmtool has room for no more.

use crate::x86::cpuid::feature;
use crate::x86::cpuid::feature::Set;
use crate::x86::cpuid::feature::Word;
use crate::x86::cpuid::is_indexed;
use crate::x86::cpuid::supported::supported;
use crate::x86::cpuid::supported::Pmu;
use crate::x86::cpuid::supported::Support;
use crate::x86::cpuid::xstate::Components;
use crate::x86::cpuid::xstate::Format;
use crate::x86::cpuid::Entry;
use crate::x86::cpuid::Regs;
use crate::x86::cpuid::KVM_CPUID_FEATURES;
use crate::x86::cpuid::KVM_CPUID_SIGNATURE;
use crate::x86::cpuid::KVM_SIGNATURE;
use crate::x86::cpuid::SIGNIFICANT_INDEX;

/// The highest basic leaf that is passed on.
const MAX_BASIC: u32 = 0x1f;
/// The highest extended leaf that is passed on.
const MAX_EXTENDED: u32 = 0x8000_0008;

/// Passes the entries of `KVM_GET_SUPPORTED_CPUID` to `sink`, whose error ends the list.
///
/// `host(leaf, subleaf)` gives the host's CPUID; it must answer on one CPU throughout.
///
/// # Errors
///
/// That of `sink`: no room (the ioctl fails with `E2BIG`).
pub fn entries<E>(
    mut host: impl FnMut(u32, u32) -> Regs,
    support: &Support,
    sink: impl FnMut(Entry) -> Result<(), E>,
) -> Result<(), E> {
    let set = supported(&mut host, support);
    let mut list = List {
        host,
        support,
        set,
        sink,
    };
    let max_basic = list.read(0, 0).eax.min(MAX_BASIC);
    for function in 0..=max_basic {
        list.basic(function, max_basic)?;
    }
    let max_extended = list.read(0x8000_0000, 0).eax;
    if max_extended >= 0x8000_0000 {
        for function in 0x8000_0000..=max_extended.min(MAX_EXTENDED) {
            list.extended(function)?;
        }
    }
    list.paravirt()
}

/// An enumeration under way.
struct List<'a, H, S> {
    host: H,
    support: &'a Support,
    set: Set,
    sink: S,
}

impl<H, S, E> List<'_, H, S>
where
    H: FnMut(u32, u32) -> Regs,
    S: FnMut(Entry) -> Result<(), E>,
{
    fn read(&mut self, function: u32, index: u32) -> Regs {
        (self.host)(function, index)
    }

    /// Passes on an entry with these registers; the words of features are those of the set.
    fn emit(&mut self, function: u32, index: u32, regs: Regs) -> Result<(), E> {
        let mut regs = regs;
        for word in Word::ALL {
            let (word_function, word_index, reg) = word.place();
            if (word_function, word_index) == (function, index) {
                *regs.get_mut(reg) = self.set.word(word);
            }
        }
        let flags = if is_indexed(function) {
            SIGNIFICANT_INDEX
        } else {
            0
        };
        (self.sink)(Entry {
            function,
            index,
            flags,
            regs,
        })
    }

    fn basic(&mut self, function: u32, max_basic: u32) -> Result<(), E> {
        let host = self.read(function, 0);
        match function {
            0 => self.emit(
                0,
                0,
                Regs {
                    eax: max_basic,
                    ..host
                },
            ),
            // EBX[31:24] is the APIC ID of whichever CPU answers.
            1 => self.emit(
                1,
                0,
                Regs {
                    ebx: host.ebx & 0x00ff_ffff,
                    ..host
                },
            ),
            2 => self.emit(2, 0, host),
            4 => self.caches(),
            // The local APIC's timer runs in every state (ARAT).
            6 => self.emit(
                6,
                0,
                Regs {
                    eax: 4,
                    ..Regs::default()
                },
            ),
            7 => self.structured(host),
            0xa => {
                let regs = self
                    .support
                    .pmu
                    .map_or(Regs::default(), |pmu| pmu_leaf(&pmu));
                self.emit(0xa, 0, regs)
            }
            0xd => self.xstate(host),
            _ => self.emit(function, 0, Regs::default()),
        }
    }

    /// Leaf 04H: caches, up to the first without a type.
    fn caches(&mut self) -> Result<(), E> {
        for index in 0..8 {
            let regs = self.read(4, index);
            self.emit(4, index, regs)?;
            if regs.eax & 0x1f == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Leaf 07H: subleaves 0 to 2.
    fn structured(&mut self, host: Regs) -> Result<(), E> {
        let last = host.eax.min(2);
        self.emit(
            7,
            0,
            Regs {
                eax: last,
                ..Regs::default()
            },
        )?;
        for index in 1..=last {
            self.emit(7, index, Regs::default())?;
        }
        Ok(())
    }

    /// Leaf 0DH: XSAVE areas.
    fn xstate(&mut self, host: Regs) -> Result<(), E> {
        let xcr0 = self.support.guest_xcr0();
        if xcr0 == 0 {
            return self.emit(0xd, 0, Regs::default());
        }
        let components = Components::collect(&mut self.host);
        let size = components.area_size(xcr0, Format::Standard);
        let (low, high) = halves(xcr0);
        let regs = Regs {
            eax: host.eax & low,
            ebx: size,
            ecx: size,
            edx: host.edx & high,
        };
        self.emit(0xd, 0, regs)?;
        let has_compacted = self.set.has(feature::XSAVEC) || self.set.has(feature::XSAVES);
        let xss = if self.set.has(feature::XSAVES) {
            self.support.xss
        } else {
            0
        };
        let compacted = if has_compacted {
            components.area_size(xcr0 | xss, Format::Compacted)
        } else {
            0
        };
        let (low, high) = halves(xss);
        self.emit(
            0xd,
            1,
            Regs {
                eax: 0,
                ebx: compacted,
                ecx: low,
                edx: high,
            },
        )?;
        for index in 2..64 {
            if (xcr0 | xss).checked_shr(index).unwrap_or(0) & 1 != 0 {
                let component = self.read(0xd, index);
                // ECX[2]: the component can be disabled by IA32_XFD, which guests do not have.
                let regs = Regs {
                    ecx: component.ecx & 3,
                    edx: 0,
                    ..component
                };
                self.emit(0xd, index, regs)?;
            }
        }
        Ok(())
    }

    fn extended(&mut self, function: u32) -> Result<(), E> {
        let host = self.read(function, 0);
        let regs = match function {
            0x8000_0000 => Regs {
                eax: host.eax.min(MAX_EXTENDED),
                ..host
            },
            // Words of features; the brand string; L2 cache.
            0x8000_0001 => Regs { ebx: 0, ..host },
            0x8000_0002..=0x8000_0004 | 0x8000_0006 => host,
            0x8000_0008 => Regs {
                eax: self.address_widths(host.eax),
                ..Regs::default()
            },
            _ => Regs::default(),
        };
        self.emit(function, 0, regs)
    }

    /// EAX of leaf 80000008H: widths of physical, linear and guest-physical addresses in bits.
    fn address_widths(&self, host: u32) -> u32 {
        let [physical, linear, ..] = host.to_le_bytes();
        let guest_physical = if self.support.ept_4_level {
            physical.min(48)
        } else {
            physical
        };
        u32::from_le_bytes([physical, linear.max(48), guest_physical, 0])
    }

    fn paravirt(&mut self) -> Result<(), E> {
        let [ebx, ecx, edx] = KVM_SIGNATURE;
        let signature = Regs {
            eax: KVM_CPUID_FEATURES,
            ebx,
            ecx,
            edx,
        };
        self.emit(KVM_CPUID_SIGNATURE, 0, signature)?;
        let features = Regs {
            eax: self.support.paravirt,
            ..Regs::default()
        };
        self.emit(KVM_CPUID_FEATURES, 0, features)
    }
}

/// Returns leaf 0AH. SDM 2A "CPUID: CPU Identification", "Architectural Performance Monitoring".
fn pmu_leaf(pmu: &Pmu) -> Regs {
    /// EDX: AnyThread is deprecated.
    const ANYTHREAD_DEPRECATED: u32 = 1 << 15;
    let eax = [
        pmu.version,
        pmu.nr_general,
        pmu.general_width,
        pmu.nr_events,
    ];
    let fixed = u32::from(pmu.nr_fixed & 0x1f) | (u32::from(pmu.fixed_width) << 5);
    let deprecated = if pmu.version == 0 {
        0
    } else {
        ANYTHREAD_DEPRECATED
    };
    Regs {
        eax: u32::from_le_bytes(eax),
        ebx: pmu.missing_events,
        ecx: 0,
        edx: fixed | deprecated,
    }
}

/// Returns bits 31:0 and 63:32.
fn halves(value: u64) -> (u32, u32) {
    let low = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
    let high = u32::try_from(value >> 32).unwrap_or(0);
    (low, high)
}

#[cfg(test)]
mod tests;
