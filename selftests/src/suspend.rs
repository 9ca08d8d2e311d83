// SPDX-License-Identifier: GPL-2.0

//! The machine sleeps (S3) and wakes up: VMX was off, and the host's TSC may have
//! begun anew.

use kvm_bindings::*;
use std::{
    fs,
    sync::atomic::{
        AtomicBool,
        Ordering, //
    },
    thread, //
};

use crate::{
    code,
    group,
    guest::{
        Guest,
        Mode,
        DATA, //
    },
    harness::skip,
    ioctl::*, //
};

group!("suspend":
    a_guest_runs_on_after_sleep,
    a_guest_in_the_middle_of_a_run_goes_on,
    the_time_stamp_counter_does_not_go_back,
    kvmclock_does_not_go_back,
);

/// Sends the machine to sleep, and returns when it is awake.
fn sleep() {
    let modes = fs::read_to_string("/sys/power/mem_sleep").unwrap_or_default();
    if !modes.contains("deep") {
        skip("this machine does not know S3");
    }
    fs::write("/sys/power/state", "mem").expect("sleep");
}

fn host_tsc() -> u64 {
    // SAFETY: Every 64-bit processor has the instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// A guest that stores its TSC at [`DATA`], again and again.
fn clock_watcher() -> Guest {
    Guest::new(
        Mode::Long,
        code!(
            64,
            "2:",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "mov [0x20000], rax",
            "out 0xe1, al",
            "jmp 2b"
        ),
    )
}

fn guest_tsc(guest: &Guest) -> u64 {
    guest.run_to_done();
    guest.memory.read::<u64>(DATA)
}

fn a_guest_runs_on_after_sleep() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "2:",
            "inc dword ptr [0x20000]",
            "mov eax, [0x20000]",
            "out 0xe1, eax",
            "jmp 2b"
        ),
    );
    assert_eq!(guest.run_to_done(), 1);
    sleep();
    assert_eq!(guest.run_to_done(), 2);
}

fn a_guest_in_the_middle_of_a_run_goes_on() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "sti",
            "2:",
            "inc qword ptr [0x20000]",
            "cmp qword ptr [0x20008], 0",
            "je 2b",
            "hlt"
        ),
    );
    let is_halted = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // Falling asleep ends the run as a signal does.
            while guest.cpu().run_raw().is_err() {}
            is_halted.store(true, Ordering::Relaxed);
        });
        while guest.memory.poll(DATA) == 0 {
            thread::yield_now();
        }
        sleep();
        let before = guest.memory.poll(DATA);
        while guest.memory.poll(DATA) == before {
            thread::yield_now();
        }
        guest.memory.write::<u64>(DATA + 8, 1);
    });
    assert!(is_halted.into_inner());
    assert_eq!(guest.cpu().shared().exit_reason, KVM_EXIT_HLT);
}

fn the_time_stamp_counter_does_not_go_back() {
    let guest = clock_watcher();
    let (before, host) = (guest_tsc(&guest), host_tsc());
    sleep();
    if host_tsc() > host {
        skip("the TSC goes on while this machine sleeps");
    }
    assert!(guest_tsc(&guest) > before);
    assert!(guest.cpu().msr(0x10).expect("IA32_TIME_STAMP_COUNTER") > before);
    // Once more, with what was lost the first time.
    let before = guest_tsc(&guest);
    sleep();
    assert!(guest_tsc(&guest) > before);
}

fn kvmclock_does_not_go_back() {
    const SYSTEM_TIME: u32 = 0x4b56_4d01;
    const PAGE: u64 = DATA + 0x1000;
    let guest = clock_watcher();
    assert!(guest.cpu().set_msr(SYSTEM_TIME, PAGE | 1));
    let (before, before_in_guest) = (vm_clock(&guest), guest_clock(&guest, PAGE));
    sleep();
    let (after, in_guest) = (vm_clock(&guest), guest_clock(&guest, PAGE));
    assert!(before < after);
    assert!(before_in_guest < in_guest);
}

fn vm_clock(guest: &Guest) -> u64 {
    let mut clock = kvm_clock_data::default();
    assert_eq!(guest.vm.ioctl_with(KVM_GET_CLOCK, &mut clock), Ok(0));
    clock.clock
}

/// What the guest makes of its TSC with the page at `page`, in nanoseconds.
fn guest_clock(guest: &Guest, page: u64) -> u64 {
    let tsc = guest_tsc(guest);
    let field = |offset| guest.memory.read::<u64>(page + offset);
    let (stamp, time, scale) = (field(8), field(16), field(24));
    let (multiplier, shift) = (scale as u32, (scale >> 32) as i8);
    let ticks = tsc.wrapping_sub(stamp);
    let ticks = match shift {
        0.. => ticks << shift,
        _ => ticks >> -shift,
    };
    time + ((u128::from(ticks) * u128::from(multiplier)) >> 32) as u64
}
