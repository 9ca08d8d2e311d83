// SPDX-License-Identifier: GPL-2.0

//! The names of registers in `KVM_GET_ONE_REG` and `KVM_SET_ONE_REG`.
//!
//! Documentation/virt/kvm/api.rst, 4.68 KVM_SET_ONE_REG

crate::bitfield! {
    /// The id of a register: `KVM_X86_REG_ID()`.
    pub struct RegId(u64) {
        /// The register in its type.
        31:0 index, with_index => u32;
        /// `KVM_X86_REG_TYPE_*`.
        39:32 type_, with_type => u8;
        /// 0.
        51:40 reserved_low, with_reserved_low => u16;
        /// The logarithm to base 2 of the size in bytes.
        55:52 size, with_size => u8;
        /// 0.
        59:56 reserved_high, with_reserved_high => u8;
        /// The architecture.
        63:60 architecture, with_architecture => u8;
    }
}

/// `KVM_REG_X86`, as [`RegId::architecture`].
const X86: u8 = 2;
/// `KVM_X86_REG_TYPE_MSR`: registers are named by the numbers of MSRs.
const TYPE_MSR: u8 = 2;
/// `KVM_REG_SIZE_U64`, as [`RegId::size`].
const SIZE_U64: u8 = 3;

/// Returns the MSR that `id` names; `None` where it names nothing.
///
/// The registers that KVM defines itself (`KVM_X86_REG_TYPE_KVM`) have one, the shadow-stack pointer,
/// which no guest has.
pub fn msr(id: u64) -> Option<u32> {
    let id = RegId(id);
    let is_named = id.architecture() == X86
        && id.type_() == TYPE_MSR
        && id.size() == SIZE_U64
        && id.reserved_low() == 0
        && id.reserved_high() == 0;
    is_named.then(|| id.index())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `KVM_X86_REG_MSR(0xc0000080)`
    const EFER: u64 = 0x2030_0002_c000_0080;

    #[test]
    fn an_id_names_an_msr() {
        assert_eq!(msr(EFER), Some(0xc000_0080));
        assert_eq!(msr(0x2030_0002_0000_0000), Some(0));
    }

    #[test]
    fn an_id_with_another_bit_names_nothing() {
        for bit in 32..64 {
            assert_eq!(msr(EFER ^ (1 << bit)), None, "bit {bit}");
        }
    }
}
