// SPDX-License-Identifier: GPL-2.0

//! Arguments of ioctls that are more than a structure of any numbers.
//!
//! Each writes one into a buffer of [`ROOM`](super::world::ROOM) zeroes: mostly what the ioctl could
//! be called with, now and then with something wrong in it.

use kvm_bindings::*;
use std::sync::OnceLock;

use super::{
    rng::{
        fill,
        gpa,
        mutate,
        value,
        Rng, //
    },
    world::{
        Kind,
        World, //
    },
};
use crate::{
    ioctl::*,
    kvm::{
        open,
        supported_cpuid,
        PAGE, //
    },
};

/// Writes words of 32 bits.
fn put32(to: &mut [u8], at: usize, value: u64) {
    // CAST: what does not fit is cut, as by any program.
    to[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
}

fn put64(to: &mut [u8], at: usize, value: u64) {
    to[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// One time in a few, something wrong in the first `len` bytes.
fn spoil(rng: &mut Rng, world: &World, to: &mut [u8], len: usize) {
    if rng.one_in(4) {
        mutate(rng, &world.arena, &mut to[..len]);
    }
}

/// A count, mostly small.
fn count(rng: &mut Rng) -> u64 {
    if rng.one_in(12) {
        *rng.pick(&[255, 256, 257, 4095, 4096, 4097, 0xffff_ffff, 0x1000_0001])
    } else {
        rng.below(12)
    }
}

/// A buffer that begins with how many entries it has room for.
pub fn counted(rng: &mut Rng, _: &World, to: &mut [u8]) {
    let count = if rng.one_in(2) { 256 } else { count(rng) };
    put32(to, 0, count);
}

/// The MSRs that KVM saves, and those of VMX and the local APIC.
fn known_msrs() -> &'static [u32] {
    static LIST: OnceLock<Vec<u32>> = OnceLock::new();
    LIST.get_or_init(|| {
        let mut list = Flex {
            header: kvm_msr_list {
                nmsrs: 512,
                ..Default::default()
            },
            entries: [0u32; 512],
        };
        let _ = open().ioctl_with(KVM_GET_MSR_INDEX_LIST, &mut list);
        let len = (list.header.nmsrs as usize).min(512);
        let mut all = list.entries[..len].to_vec();
        all.extend(0x480..0x492);
        all.extend(0x800..0x840);
        all.extend([0x1b, 0x3a, 0x277, 0x1d9, 0xda0, 0xc000_0080]);
        all
    })
}

/// `struct kvm_msrs`.
pub fn msrs(rng: &mut Rng, world: &World, to: &mut [u8]) {
    put32(to, 0, count(rng));
    for entry in to[8..8 + 16 * 32].chunks_exact_mut(16) {
        let index = match rng.below(8) {
            0 => rng.below(0x1000),
            1 => value(rng, &world.arena),
            _ => u64::from(*rng.pick(known_msrs())),
        };
        put32(entry, 0, index);
        put64(entry, 8, value(rng, &world.arena));
    }
}

/// `struct kvm_cpuid2`.
pub fn cpuid(rng: &mut Rng, world: &World, to: &mut [u8]) {
    let mut all = supported_cpuid();
    let used = all.used();
    put32(
        to,
        0,
        if rng.one_in(8) {
            count(rng)
        } else {
            used.len() as u64
        },
    );
    for (entry, to) in used.iter().zip(to[8..].chunks_exact_mut(40)) {
        put32(to, 0, entry.function.into());
        put32(to, 4, entry.index.into());
        put32(to, 8, entry.flags.into());
        put32(to, 12, entry.eax.into());
        put32(to, 16, entry.ebx.into());
        put32(to, 20, entry.ecx.into());
        put32(to, 24, entry.edx.into());
        if rng.one_in(64) {
            mutate(rng, &world.arena, to);
        }
    }
}

/// `struct kvm_userspace_memory_region`, or its longer form.
pub fn region(rng: &mut Rng, world: &World, to: &mut [u8]) {
    let pages = world.arena.len() as u64 / PAGE;
    let first = rng.below(pages);
    let most = pages - first;
    let size = match rng.below(4) {
        0 => 0,
        1 => most,
        _ => rng.below(most) + 1,
    };
    let at = if rng.one_in(2) {
        first
    } else {
        rng.below(pages)
    };
    let slot = if size == 0 {
        rng.below(3)
    } else {
        rng.below(5)
    };
    let space = u64::from(rng.one_in(20)) << 16;
    put32(to, 0, slot | space);
    put32(to, 4, rng.below(4));
    put64(to, 8, at * PAGE);
    put64(to, 16, size * PAGE);
    put64(to, 24, world.arena.hva() + first * PAGE);
    spoil(rng, world, to, 160);
}

/// `struct kvm_dirty_log`, with a bitmap in the buffer.
pub fn dirty_log(rng: &mut Rng, world: &World, to: &mut [u8]) {
    let bitmap = to.as_ptr() as u64 + PAGE;
    put32(to, 0, rng.below(5));
    put64(to, 8, bitmap);
    spoil(rng, world, to, 16);
}

/// `struct kvm_clear_dirty_log`.
pub fn clear_log(rng: &mut Rng, world: &World, to: &mut [u8]) {
    let bitmap = to.as_ptr() as u64 + PAGE;
    let first = rng.below(4) * 64;
    put32(to, 0, rng.below(5));
    put32(to, 4, rng.below(512));
    put64(to, 8, first);
    put64(to, 16, bitmap);
    spoil(rng, world, to, 24);
    let bits = &mut to[PAGE as usize..PAGE as usize + 64];
    fill(rng, &world.arena, bits);
}

/// `struct kvm_memory_attributes`.
pub fn attributes(rng: &mut Rng, world: &World, to: &mut [u8]) {
    put64(to, 0, gpa(rng, &world.arena));
    put64(to, 8, rng.below(16) * PAGE);
    put64(to, 16, rng.below(2) << 3);
    spoil(rng, world, to, 32);
}

/// `struct kvm_enable_cap`.
pub fn enable_cap(rng: &mut Rng, world: &World, to: &mut [u8]) {
    const CAPS: &[u32] = &[
        KVM_CAP_SPLIT_IRQCHIP,
        KVM_CAP_X2APIC_API,
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        KVM_CAP_X86_APIC_BUS_CYCLES_NS,
        KVM_CAP_MAX_VCPU_ID,
        KVM_CAP_DISABLE_QUIRKS2,
        KVM_CAP_DISABLE_QUIRKS,
        KVM_CAP_X86_USER_SPACE_MSR,
        KVM_CAP_EXCEPTION_PAYLOAD,
        KVM_CAP_X86_TRIPLE_FAULT_EVENT,
        KVM_CAP_EXIT_ON_EMULATION_FAILURE,
        KVM_CAP_ENFORCE_PV_FEATURE_CPUID,
        KVM_CAP_MSR_PLATFORM_INFO,
        KVM_CAP_X86_DISABLE_EXITS,
        KVM_CAP_DIRTY_LOG_RING,
        KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
        KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
        KVM_CAP_HALT_POLL,
        KVM_CAP_X86_BUS_LOCK_EXIT,
        KVM_CAP_X86_NOTIFY_VMEXIT,
        KVM_CAP_HYPERV_SYNIC,
        KVM_CAP_EXIT_HYPERCALL,
        KVM_CAP_PMU_CAPABILITY,
    ];
    let cap = if rng.one_in(8) {
        rng.below(256)
    } else {
        u64::from(*rng.pick(CAPS))
    };
    put32(to, 0, cap);
    let argument = match rng.below(4) {
        0 => *rng.pick(&[0x1000, 0x10000, 24]),
        1 => value(rng, &world.arena),
        _ => rng.below(32),
    };
    put64(to, 8, argument);
    spoil(rng, world, to, 40);
}

/// `struct kvm_msr_filter`, with bitmaps in the buffer.
pub fn msr_filter(rng: &mut Rng, world: &World, to: &mut [u8]) {
    let bitmap = to.as_ptr() as u64 + PAGE;
    put32(to, 0, rng.below(2));
    for range in 0..rng.below(4) as usize {
        let at = 8 + 24 * range;
        put32(to, at, 1 + rng.below(3));
        put32(to, at + 4, rng.below(64));
        put32(to, at + 8, u64::from(*rng.pick(known_msrs())));
        put64(to, at + 16, bitmap);
    }
    spoil(rng, world, to, 392);
    fill(
        rng,
        &world.arena,
        &mut to[PAGE as usize..PAGE as usize + 64],
    );
}

/// A line of an interrupt controller, mostly one that exists.
fn gsi(rng: &mut Rng) -> u64 {
    if rng.one_in(12) {
        *rng.pick(&[4095, 4096, 0x7fff_ffff, 0xffff_ffff])
    } else {
        rng.below(26)
    }
}

/// `struct kvm_irq_routing`.
pub fn routing(rng: &mut Rng, world: &World, to: &mut [u8]) {
    let count = count(rng);
    put32(to, 0, count);
    for entry in to[8..8 + 48 * 16].chunks_exact_mut(48) {
        put32(entry, 0, gsi(rng));
        let kind = if rng.one_in(16) {
            rng.below(8)
        } else {
            1 + rng.below(2)
        };
        put32(entry, 4, kind);
        match kind {
            1 => {
                let chip = rng.below(3);
                put32(entry, 16, chip);
                put32(entry, 20, rng.below(if chip == 2 { 24 } else { 8 }));
            }
            _ => message(rng, &mut entry[16..]),
        }
    }
    spoil(rng, world, to, 8 + 48 * 12);
}

/// Address, high address and data of an MSI.
fn message(rng: &mut Rng, to: &mut [u8]) {
    put32(
        to,
        0,
        0xfee0_0000 + 0x1000 * rng.below(4) + 4 * rng.below(4),
    );
    put32(to, 4, if rng.one_in(8) { rng.bits() } else { 0 });
    put32(
        to,
        8,
        rng.below(0x1_0000) & *rng.pick(&[0xff, 0x7ff, 0xffff]),
    );
}

/// `struct kvm_msi`.
pub fn msi(rng: &mut Rng, world: &World, to: &mut [u8]) {
    message(rng, to);
    spoil(rng, world, to, 48);
}

/// The number of an eventfd, or of anything.
fn eventfd(rng: &mut Rng, world: &World) -> u64 {
    match world.any(rng, Kind::Event) {
        Some(event) if !rng.one_in(10) => event.fd as u64,
        _ => rng.below(20),
    }
}

/// `struct kvm_irqfd`.
pub fn irqfd(rng: &mut Rng, world: &World, to: &mut [u8]) {
    put32(to, 0, eventfd(rng, world));
    put32(to, 4, gsi(rng));
    put32(to, 8, rng.below(4));
    put32(to, 12, eventfd(rng, world));
    spoil(rng, world, to, 32);
}

/// An address of a device, which the guest's code knows, too.
fn device(rng: &mut Rng) -> u64 {
    *rng.pick(&[
        0x10,
        0x60,
        0xe0,
        0xe1,
        0x1000_0000,
        0x1000_0008,
        0xfee0_00b0,
    ])
}

/// `struct kvm_ioeventfd`.
pub fn ioeventfd(rng: &mut Rng, world: &World, to: &mut [u8]) {
    put64(to, 0, rng.below(3));
    put64(to, 8, device(rng));
    put32(to, 16, *rng.pick(&[0, 1, 2, 4, 8, 3]));
    put32(to, 20, eventfd(rng, world));
    put32(to, 24, rng.below(16));
    spoil(rng, world, to, 64);
}

/// `struct kvm_coalesced_mmio_zone`.
pub fn zone(rng: &mut Rng, world: &World, to: &mut [u8]) {
    put64(to, 0, device(rng));
    put32(to, 8, *rng.pick(&[1, 4, 16, PAGE]));
    put32(to, 12, rng.below(2));
    spoil(rng, world, to, 16);
}

/// `struct kvm_irq_level`.
pub fn line(rng: &mut Rng, _: &World, to: &mut [u8]) {
    put32(to, 0, gsi(rng));
    put32(to, 4, rng.below(2));
}

/// `struct kvm_interrupt`.
pub fn vector(rng: &mut Rng, world: &World, to: &mut [u8]) {
    put32(to, 0, rng.below(256));
    spoil(rng, world, to, 4);
}

/// `struct kvm_mp_state`.
pub fn mp_state(rng: &mut Rng, _: &World, to: &mut [u8]) {
    put32(to, 0, if rng.one_in(2) { 0 } else { rng.below(12) });
}

/// `struct kvm_signal_mask`, which lets the timer's signal through.
pub fn signal_mask(rng: &mut Rng, _: &World, to: &mut [u8]) {
    put32(to, 0, if rng.one_in(6) { count(rng) } else { 8 });
    let open = 1 << (libc::SIGALRM - 1);
    let mask = rng.bits() & !open;
    to[4..12].copy_from_slice(&mask.to_le_bytes());
}

/// `struct kvm_guest_debug`.
pub fn guest_debug(rng: &mut Rng, world: &World, to: &mut [u8]) {
    put32(to, 0, rng.below(4) | (rng.below(4) << 16));
    for register in 0..8 {
        put64(to, 8 + 8 * register, value(rng, &world.arena));
    }
    spoil(rng, world, to, 72);
}

/// `struct kvm_x86_mce`.
pub fn machine_check(rng: &mut Rng, world: &World, to: &mut [u8]) {
    put64(to, 0, rng.bits() | (1 << 63));
    put64(to, 8, value(rng, &world.arena));
    put64(to, 24, rng.below(8));
    to[32] = rng.below(34) as u8;
}

/// `struct kvm_device_attr`, for the TSC offset.
pub fn attribute(rng: &mut Rng, world: &World, to: &mut [u8]) {
    let data = to.as_ptr() as u64 + PAGE;
    put64(to, 16, data);
    put64(to, PAGE as usize, value(rng, &world.arena));
    spoil(rng, world, to, 24);
}

/// `struct kvm_pre_fault_memory`.
pub fn pre_fault(rng: &mut Rng, world: &World, to: &mut [u8]) {
    put64(to, 0, gpa(rng, &world.arena) & !(PAGE - 1));
    put64(to, 8, rng.below(20) * PAGE);
    spoil(rng, world, to, 24);
}

/// `struct kvm_nested_state`, of a vCPU in VMX operation.
pub fn nested_state(rng: &mut Rng, world: &World, to: &mut [u8]) {
    let flags = *rng.pick(&[0, 0, 1, 2, 3, 8, 0x100]);
    put32(to, 0, flags);
    put32(to, 4, *rng.pick(&[128, 128 + PAGE, 128 + 2 * PAGE]));
    put64(to, 8, gpa(rng, &world.arena) & !(PAGE - 1));
    put64(to, 16, gpa(rng, &world.arena) & !(PAGE - 1));
    spoil(rng, world, to, 128);
    fill(rng, &world.arena, &mut to[128..128 + PAGE as usize]);
}
