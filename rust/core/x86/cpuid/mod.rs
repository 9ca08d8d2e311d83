// SPDX-License-Identifier: GPL-2.0

//! CPUID: what is supported, and what a guest sees.
//!
//! - This file: entries as the ABI has them, and CPUID's output registers.
//! - [`feature`]: the feature bits that Burrow knows, and sets of them.
//! - [`xstate`]: sizes of XSAVE areas.
//! - [`supported`]: the features that a VMM may offer; `KVM_GET_EMULATED_CPUID`.
//! - [`leaves`]: the list of `KVM_GET_SUPPORTED_CPUID`.
//! - [`lookup`]: CPUID as a guest executes it.
//! - [`guest`]: the table of `KVM_SET_CPUID2`: run-time bits, what it allows.

pub mod feature;
pub mod guest;
pub mod leaves;
pub mod lookup;
pub mod supported;
pub mod xstate;

#[cfg(test)]
mod samples;

/// The output of one CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs, reason = "the names of registers")]
pub struct Regs {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`: the entry is for its index (ECX) only.
pub const SIGNIFICANT_INDEX: u32 = 1;

/// An entry of `struct kvm_cpuid2`, without its padding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// The leaf: EAX on input.
    pub function: u32,
    /// The subleaf: ECX on input.
    pub index: u32,
    /// [`SIGNIFICANT_INDEX`], or 0.
    pub flags: u32,
    /// The output.
    pub regs: Regs,
}

impl Entry {
    /// Returns whether the entry answers this leaf and subleaf.
    #[inline]
    pub fn answers(&self, function: u32, index: u32) -> bool {
        self.function == function && (self.flags & SIGNIFICANT_INDEX == 0 || self.index == index)
    }
}

/// Returns whether the output of a leaf depends on the subleaf. SDM 2A "CPUID: CPU Identification",
/// table of returned information.
pub const fn is_indexed(function: u32) -> bool {
    matches!(
        function,
        4 | 7 | 0xb | 0xd | 0xf | 0x10 | 0x12 | 0x14 | 0x17 | 0x18 | 0x1d | 0x1e | 0x1f | 0x24
    )
}

/// The leaf that holds the signature of a hypervisor.
pub const KVM_CPUID_SIGNATURE: u32 = 0x4000_0000;
/// The leaf that holds KVM's paravirtual features.
pub const KVM_CPUID_FEATURES: u32 = 0x4000_0001;
/// EBX, ECX and EDX of [`KVM_CPUID_SIGNATURE`]: "KVMKVMKVM".
pub const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];
