// SPDX-License-Identifier: GPL-2.0

//! Sizes of XSAVE areas. SDM 1 "XSAVE Area", 13.4.

use crate::x86::cpuid::Regs;

/// The legacy region and the XSAVE header, in bytes.
pub const HEADER_END: u32 = 576;
/// The state components that can be described here: 2 to 19.
const LAST: usize = 19;
/// `CPUID.(0DH,n):ECX[1]`: the component starts at a multiple of 64 in the compacted format.
const ALIGNED: u32 = 2;

/// The format of an XSAVE area.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Each component at its fixed offset.
    Standard,
    /// The components that are present one after the other.
    Compacted,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Component {
    size: u32,
    offset: u32,
    flags: u32,
}

/// The sizes and offsets of the processor's state components.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Components([Component; LAST + 1]);

impl Components {
    /// Reads them from leaf 0DH: `cpuid(0xd, component)`.
    pub fn collect(mut cpuid: impl FnMut(u32, u32) -> Regs) -> Self {
        let mut components = [Component::default(); LAST + 1];
        for (component, n) in components.iter_mut().zip(0u32..).skip(2) {
            let regs = cpuid(0xd, n);
            *component = Component {
                size: regs.eax,
                offset: regs.ebx,
                flags: regs.ecx,
            };
        }
        Self(components)
    }

    /// Returns the size in bytes of an area that holds the components `bits` (of XCR0 and
    /// IA32_XSS); x87 and SSE always have their place.
    pub fn area_size(&self, bits: u64, format: Format) -> u32 {
        let mut end = HEADER_END;
        for (component, n) in self.0.iter().zip(0u32..).skip(2) {
            if bits.checked_shr(n).unwrap_or(0) & 1 == 0 {
                continue;
            }
            let start = match format {
                Format::Standard => component.offset,
                Format::Compacted if component.flags & ALIGNED != 0 => end.saturating_add(63) & !63,
                Format::Compacted => end,
            };
            end = end.max(start.saturating_add(component.size));
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skylake() -> Components {
        Components::collect(|function, index| {
            assert_eq!(function, 0xd);
            let (eax, ebx, ecx) = match index {
                2 => (256, 576, 0),
                5 => (64, 1088, 0),
                6 => (512, 1152, 0),
                7 => (1024, 1664, 0),
                8 => (128, 0, 1),
                9 => (8, 2688, 0),
                11 => (16, 0, 1),
                17 => (64, 2752, 2),
                _ => (0, 0, 0),
            };
            Regs {
                eax,
                ebx,
                ecx,
                edx: 0,
            }
        })
    }

    #[test]
    fn standard_area_ends_with_its_last_component() {
        let c = skylake();
        assert_eq!(c.area_size(0, Format::Standard), 576);
        assert_eq!(c.area_size(3, Format::Standard), 576);
        assert_eq!(c.area_size(7, Format::Standard), 832);
        assert_eq!(c.area_size(0xe7, Format::Standard), 2688);
        assert_eq!(c.area_size(0x2e7, Format::Standard), 2696);
        assert_eq!(c.area_size(0x203, Format::Standard), 2696);
    }

    #[test]
    fn compacted_area_has_no_gaps_but_for_alignment() {
        let c = skylake();
        assert_eq!(c.area_size(0x203, Format::Compacted), 576 + 8);
        assert_eq!(c.area_size(0xa07, Format::Compacted), 576 + 256 + 8 + 16);
        assert_eq!(c.area_size(0x2_0203, Format::Compacted), 640 + 64);
        assert_eq!(c.area_size(u64::MAX << 20, Format::Compacted), 576);
    }
}
