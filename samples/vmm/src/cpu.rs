// SPDX-License-Identifier: GPL-2.0

//! A vCPU before its first `KVM_RUN`: what it is, and where it starts.

use anyhow::{
    bail,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_cpuid_entry2,
    kvm_fpu,
    kvm_lapic_state,
    kvm_msr_entry,
    kvm_regs,
    kvm_segment,
    CpuId,
    Msrs,
    KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    KVM_MAX_CPUID_ENTRIES, //
};
use kvm_ioctls::{
    Cap,
    VcpuFd, //
};
use vm_memory::{
    Address,
    Bytes,
    GuestAddress,
    GuestMemoryMmap, //
};

use crate::{
    boot::Entry,
    memory,
    vm::Vm, //
};

/// Frequency of the local APIC's timer in KVM, in Hz.
const APIC_TIMER_HZ: u32 = 1_000_000_000;

/// Creates vCPU `id` of `cpus`, with its CPUID, MSRs and local APIC.
pub fn create(vm: &Vm, id: u8, cpus: u8) -> Result<VcpuFd> {
    let vcpu = vm
        .fd
        .create_vcpu(u64::from(id))
        .context("KVM_CREATE_VCPU")?;
    let tsc_khz = vcpu.get_tsc_khz().context("KVM_GET_TSC_KHZ")?;
    vcpu.set_cpuid2(&cpuid(vm, id, cpus, tsc_khz)?)
        .context("KVM_SET_CPUID2")?;
    set_msrs(&vcpu)?;
    vcpu.set_fpu(&kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    })
    .context("KVM_SET_FPU")?;
    set_lints(&vcpu)?;
    Ok(vcpu)
}

/// What the CPUID instruction will say.
///
/// KVM offers what it and the host can do; the VMM adds what only it knows:
/// which CPU this is, how many there are, and how fast the clocks run.
fn cpuid(vm: &Vm, id: u8, cpus: u8, tsc_khz: u32) -> Result<CpuId> {
    let supported = vm
        .kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .context("KVM_GET_SUPPORTED_CPUID")?;
    let has_deadline_timer = vm.kvm.check_extension(Cap::TscDeadlineTimer);
    // Leaves that describe the host's topology and clocks are made anew below.
    let mut entries: Vec<kvm_cpuid_entry2> = supported
        .as_slice()
        .iter()
        .filter(|entry| !matches!(entry.function, 0xb | 0x15 | 0x16 | 0x1f))
        .copied()
        .collect();
    for entry in &mut entries {
        match entry.function {
            0 => entry.eax = entry.eax.max(0x16),
            1 => {
                entry.ebx = (entry.ebx & 0xffff) | (u32::from(id) << 24) | (u32::from(cpus) << 16);
                entry.ecx |= 1 << 31; // Runs under a hypervisor.
                if has_deadline_timer {
                    entry.ecx |= 1 << 24;
                }
            }
            4 => entry.eax = (entry.eax & 0x3fff) | (u32::from(cpus - 1) << 26),
            _ => {}
        }
    }
    entries.extend(topology(id, cpus));
    entries.extend(clocks(tsc_khz));
    CpuId::from_entries(&entries).context("too many CPUID leaves")
}

/// Extended topology (`CPUID.0BH`): one thread per core, `cpus` cores.
fn topology(id: u8, cpus: u8) -> [kvm_cpuid_entry2; 3] {
    let core_bits = u32::from(cpus).next_power_of_two().trailing_zeros();
    [(1, 0, 1), (2, core_bits, u32::from(cpus)), (0, 0, 0)]
        .into_iter()
        .zip(0..)
        .map(|((kind, shift, count), index)| kvm_cpuid_entry2 {
            function: 0xb,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: count,
            ecx: (kind << 8) | index,
            edx: u32::from(id),
            ..Default::default()
        })
        .collect::<Vec<_>>()
        .try_into()
        .unwrap_or_default()
}

/// Frequencies (`CPUID.15H` and `CPUID.16H`), so that the guest has no need of
/// a legacy timer to measure them: TSC = crystal clock * EBX / EAX, where the
/// crystal clock is also the local APIC timer's.
fn clocks(tsc_khz: u32) -> [kvm_cpuid_entry2; 2] {
    [
        kvm_cpuid_entry2 {
            function: 0x15,
            eax: APIC_TIMER_HZ / 1000,
            ebx: tsc_khz,
            ecx: APIC_TIMER_HZ,
            ..Default::default()
        },
        kvm_cpuid_entry2 {
            function: 0x16,
            eax: tsc_khz / 1000,
            ebx: tsc_khz / 1000,
            ecx: 100,
            ..Default::default()
        },
    ]
}

/// Sets the MSRs that firmware would: fast strings on, memory write-back.
fn set_msrs(vcpu: &VcpuFd) -> Result<()> {
    const IA32_MISC_ENABLE: u32 = 0x1a0;
    const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
    let entries =
        [(IA32_MISC_ENABLE, 1), (IA32_MTRR_DEF_TYPE, 0x806)].map(|(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        });
    let msrs = Msrs::from_entries(&entries).context("too many MSRs")?;
    // The ioctl returns how many it set; it stops at the first that it refuses.
    let done = vcpu.set_msrs(&msrs).context("KVM_SET_MSRS")?;
    match entries.get(done) {
        Some(refused) => bail!("KVM refuses MSR {:#x}", refused.index),
        None => Ok(()),
    }
}

/// Connects the local interrupts as a PC does: LINT0 to an 8259, LINT1 to NMI.
fn set_lints(vcpu: &VcpuFd) -> Result<()> {
    const LVT_LINT0: usize = 0x350;
    const LVT_LINT1: usize = 0x360;
    const EXTINT: u32 = 7 << 8;
    const NMI: u32 = 4 << 8;
    let mut lapic = vcpu.get_lapic().context("KVM_GET_LAPIC")?;
    set_register(&mut lapic, LVT_LINT0, EXTINT);
    set_register(&mut lapic, LVT_LINT1, NMI);
    vcpu.set_lapic(&lapic).context("KVM_SET_LAPIC")
}

/// Stores one 32-bit register of the local APIC's page.
fn set_register(lapic: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (slot, byte) in lapic.regs.iter_mut().skip(offset).zip(value.to_le_bytes()) {
        *slot = byte as i8;
    }
}

/// Puts the boot CPU where the 64-bit boot protocol wants it.
pub fn set_boot_state(vcpu: &VcpuFd, memory: &GuestMemoryMmap, entry: &Entry) -> Result<()> {
    write_page_tables(memory)?;
    write_gdt(memory)?;
    let mut sregs = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    sregs.cs = segment(2, 0xb, Width::Long);
    let data = segment(3, 0x3, Width::Flat32);
    sregs.ds = data;
    sregs.es = data;
    sregs.ss = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.gdt.base = memory::GDT.raw_value();
    sregs.gdt.limit = GDT_ENTRIES.len() as u16 * 8 - 1;
    sregs.cr3 = memory::PML4.raw_value();
    sregs.cr4 = 1 << 5; // PAE.
    sregs.cr0 = (1 << 31) | (1 << 5) | (1 << 4) | 1; // PG, NE, ET, PE.
    sregs.efer = (1 << 10) | (1 << 8); // LMA, LME.
    vcpu.set_sregs(&sregs).context("KVM_SET_SREGS")?;
    vcpu.set_regs(&kvm_regs {
        rip: entry.kernel.raw_value(),
        rsp: memory::STACK.raw_value(),
        rsi: memory::ZERO_PAGE.raw_value(),
        rflags: 2,
        ..Default::default()
    })
    .context("KVM_SET_REGS")
}

/// `__BOOT_CS` is descriptor 2 and `__BOOT_DS` 3, as the boot protocol says.
const GDT_ENTRIES: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Stores the descriptors; the guest reads them when it reloads a segment.
fn write_gdt(memory: &GuestMemoryMmap) -> Result<()> {
    for (entry, at) in GDT_ENTRIES.iter().zip((0..).step_by(8)) {
        memory.write_obj(*entry, memory::GDT.unchecked_add(at))?;
    }
    Ok(())
}

/// Code of a 64-bit segment, or everything of a flat 32-bit one.
#[derive(PartialEq)]
enum Width {
    Long,
    Flat32,
}

/// A flat segment; KVM takes the hidden part of the register, not a descriptor.
fn segment(index: u16, type_: u8, width: Width) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(width == Width::Flat32),
        s: 1,
        l: u8::from(width == Width::Long),
        g: 1,
        ..Default::default()
    }
}

/// Maps the first 4 GiB one to one, in pages of 2 MiB.
fn write_page_tables(memory: &GuestMemoryMmap) -> Result<()> {
    const TABLE: u64 = 0x3; // Present, writable.
    const PAGE: u64 = 0x83; // And a page of 2 MiB.
    let page = |n: u64| memory::PML4.unchecked_add(n * 0x1000);
    let write = |table: GuestAddress, index: u64, value: u64| {
        memory.write_obj(value, table.unchecked_add(index * 8))
    };
    write(page(0), 0, page(1).raw_value() | TABLE)?;
    for gib in 0..4 {
        write(page(1), gib, page(2 + gib).raw_value() | TABLE)?;
        for index in 0..512 {
            write(page(2 + gib), index, (gib << 30) | (index << 21) | PAGE)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_leaves_give_the_tsc_frequency_back() {
        let [crystal, _] = clocks(2_400_123);
        let hz = u64::from(crystal.ecx) * u64::from(crystal.ebx) / u64::from(crystal.eax);
        assert_eq!(hz, 2_400_123_000);
    }

    #[test]
    fn the_topology_shift_covers_every_apic_id() {
        for (cpus, shift) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (254, 8)] {
            assert_eq!(topology(0, cpus)[1].eax, shift);
        }
    }

    #[test]
    fn the_page_tables_map_4_gib() {
        let memory = memory::allocate(32 << 20).unwrap();
        write_page_tables(&memory).unwrap();
        let last: u64 = memory
            .read_obj(memory::PML4.unchecked_add(5 * 0x1000 + 511 * 8))
            .unwrap();
        assert_eq!(last, 0xffe0_0000 | 0x83);
    }
}
