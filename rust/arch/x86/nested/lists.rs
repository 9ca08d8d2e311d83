// SPDX-License-Identifier: GPL-2.0

//! The MSRs and the memory that MSR lists of VM entries and exits name.

use crate::arch::x86::cpu::Cpu;
use burrow_core::{
    addr::Gpa,
    x86::{
        msr::{
            access::Origin,
            filter::Access, //
        },
        nested::msrlist::{
            ApicMode,
            MsrListOps, //
        }, //
    }, //
};

/// IA32_APIC_BASE: x2APIC mode.
const APIC_BASE_X2APIC: u64 = 1 << 10;

/// The MSRs and the memory that MSR lists name.
pub(super) struct Msrs<'a, 'b>(pub(super) &'a mut Cpu<'b>);

impl MsrListOps for Msrs<'_, '_> {
    fn read_entry(&mut self, at: Gpa) -> Option<[u64; 2]> {
        let mut bytes = [0; 16];
        self.0.vcpu.vm.memory.read(at, &mut bytes).ok()?;
        let (low, high) = bytes.split_at(8);
        let word = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
        Some([word(low), word(high)])
    }

    fn write_value(&mut self, at: Gpa, value: u64) -> Option<()> {
        self.0.vcpu.vm.memory.write(at, &value.to_le_bytes()).ok()
    }

    fn wrmsr(&mut self, index: u32, value: u64) -> Option<()> {
        if !self.0.msr_filter_allows(index, Access::Write) {
            return None;
        }
        self.0.write_msr(index, value, Origin::Guest).ok()
    }

    fn rdmsr(&mut self, index: u32) -> Option<u64> {
        if !self.0.msr_filter_allows(index, Access::Read) {
            return None;
        }
        self.0.read_msr(index, Origin::Guest).ok()
    }

    fn apic_mode(&self) -> ApicMode {
        if self.0.apic_base() & APIC_BASE_X2APIC != 0 {
            ApicMode::X2apic
        } else {
            ApicMode::Other
        }
    }
}
