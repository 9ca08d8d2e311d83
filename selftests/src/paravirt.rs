// SPDX-License-Identifier: GPL-2.0

//! What guests of KVM may use in the place of what hardware has: ends of interrupts in memory, vCPUs that
//! are known not to run, and that others wake.

use kvm_bindings::*;

use crate::{
    code,
    enable_x2apic,
    group,
    guest::{
        Apic,
        Guest,
        Mode,
        DATA,
        DONE, //
    },
    harness::skip_on_upstream,
    ioctl::*,
    kvm::*, //
};

group!("paravirt":
    the_features_are_offered,
    an_interrupt_ends_in_memory,
    an_eoi_is_written_where_an_interrupt_waits,
    a_vcpu_that_runs_is_not_preempted,
    a_vcpu_in_userspace_is_preempted,
    a_kick_ends_the_next_halt,
);

const MSR_KVM_STEAL_TIME: u32 = 0x4b56_4d03;
const MSR_KVM_PV_EOI_EN: u32 = 0x4b56_4d04;
const FEATURES: u32 = 0x4000_0001;
const KVM_FEATURE_PV_EOI: u32 = 6;
const KVM_FEATURE_PV_UNHALT: u32 = 7;
const KVM_FEATURE_PV_TLB_FLUSH: u32 = 9;

/// The guest's byte for ends of interrupts, and `preempted` of its structure for stolen time.
const EOI_BYTE: u64 = 0x2_1000;
const STEAL: u64 = 0x2_2000;
const PREEMPTED: u64 = STEAL + 16;

fn the_features_are_offered() {
    let mut cpuid = supported_cpuid();
    let features = cpuid.find(FEATURES, 0).map_or(0, |entry| entry.eax);
    for feature in [
        KVM_FEATURE_PV_EOI,
        KVM_FEATURE_PV_UNHALT,
        KVM_FEATURE_PV_TLB_FLUSH,
    ] {
        assert_ne!(features & (1 << feature), 0, "{feature}");
    }
}

/// A guest whose handler of 41H and 61H ends the interrupt in memory, if it may. It counts interrupts at
/// [`DATA`], and ends that it had to write behind it.
fn interrupted(code: &[u8]) -> Guest {
    let guest = Guest::with_lapic(Mode::Long, code);
    for vector in [0x41, 0x61] {
        guest.set_gate(vector, 0x6000);
    }
    guest.memory.copy(
        0x6000,
        code!(
            64,
            "push rax",
            "push rcx",
            "push rdx",
            "inc dword ptr [0x20000]",
            "btr dword ptr [0x21000], 0",
            "jc 2f",
            "inc dword ptr [0x20004]",
            "mov ecx, 0x80b",
            "xor eax, eax",
            "xor edx, edx",
            "wrmsr",
            "2:",
            "pop rdx",
            "pop rcx",
            "pop rax",
            "iretq"
        ),
    );
    assert!(guest.cpu().set_msr(MSR_KVM_PV_EOI_EN, EOI_BYTE | 1));
    assert_eq!(guest.cpu().msr(MSR_KVM_PV_EOI_EN), Some(EOI_BYTE | 1));
    guest
}

fn counts(guest: &Guest) -> (u32, u32) {
    (guest.memory.read(DATA), guest.memory.read(DATA + 4))
}

fn an_interrupt_ends_in_memory() {
    let guest = interrupted(code!(
        64,
        enable_x2apic!(),
        "sti",
        "mov ecx, 0x83f",
        "mov eax, 0x41",
        "wrmsr",
        "nop",
        "wrmsr",
        "nop",
        "wrmsr",
        "nop",
        "out 0xe1, al",
        "hlt"
    ));
    guest.run_to_done();
    let (interrupts, written) = counts(&guest);
    // Upstream wants to see the first.
    assert!(interrupts == 3 && written <= 1, "{written}");
}

fn an_eoi_is_written_where_an_interrupt_waits() {
    let guest = interrupted(code!(
        64,
        enable_x2apic!(),
        "mov ecx, 0x83f",
        "mov eax, 0x41",
        "wrmsr",
        "mov eax, 0x61",
        "wrmsr",
        "sti",
        "nop",
        "nop",
        "out 0xe1, al",
        "hlt"
    ));
    guest.run_to_done();
    assert_eq!(counts(&guest), (2, 1));
}

/// A guest that tells its own `preempted`, again and again.
fn watched() -> Guest {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "2:", "mov eax, [0x22010]", "out 0xe1, eax", "jmp 2b"),
    );
    assert!(guest.cpu().set_msr(MSR_KVM_STEAL_TIME, STEAL | 1));
    guest
}

fn a_vcpu_that_runs_is_not_preempted() {
    let guest = watched();
    assert_eq!(guest.run_to_done(), 0);
    // As another vCPU does that wants its TLB flushed.
    guest.memory.write::<u8>(PREEMPTED, 3);
    guest.run_to_done();
    assert_eq!(guest.run_to_done(), 0);
}

fn a_vcpu_in_userspace_is_preempted() {
    skip_on_upstream("upstream says so of vCPUs that leave between instructions only");
    let guest = watched();
    assert_eq!(guest.run_to_done(), 0);
    assert_eq!(guest.memory.read::<u8>(PREEMPTED), 1);
    assert_eq!(guest.run_to_done(), 0);
    assert_eq!(guest.memory.read::<u8>(PREEMPTED), 1);
}

fn a_kick_ends_the_next_halt() {
    skip_on_upstream("upstream loses a kick of a vCPU that has not run yet");
    // KVM_HC_KICK_CPU.
    let kick = code!(
        64,
        "mov eax, 5",
        "xor ebx, ebx",
        "mov ecx, 1",
        "vmcall",
        "out 0xe1, eax",
        "hlt"
    );
    let guest = Guest::with(Mode::Long, Apic::Kernel, 2, kick);
    let other = &guest.vcpus[1];
    guest.memory.copy(
        0x7000,
        code!(64, "cli", "hlt", "mov eax, 9", "out 0xe1, eax"),
    );
    let runnable = kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    };
    other
        .set(KVM_SET_MP_STATE, runnable)
        .expect("KVM_SET_MP_STATE");
    let mut regs = other.regs();
    regs.rip = 0x7000;
    other.set_regs(&regs);
    assert_eq!(guest.run_to_done(), 0);
    assert_eq!(other.run(), Exit::Out(DONE, 4, 1, 9));
}
