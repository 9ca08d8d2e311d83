// SPDX-License-Identifier: GPL-2.0

//! Many of everything, and not enough of something.

use kvm_bindings::*;
use libc::{
    EINVAL,
    EMFILE, //
};
use std::thread;

use crate::{
    code,
    group,
    guest::{
        enter,
        Apic,
        Guest,
        Mode,
        DATA, //
    },
    harness::skip,
    ioctl::*,
    kvm::*, //
};

group!("load":
    vms_come_and_go,
    many_vms_at_once,
    many_vcpus_take_turns,
    the_limit_of_vcpus_is_the_limit,
    guests_do_not_see_each_others_memory,
    vcpus_with_tables_of_their_own,
    vms_come_and_go_on_all_cpus,
    more_vcpus_than_cpus_run_at_once,
    a_process_out_of_descriptors_gets_no_vm,
    vpids_are_used_again,
);

fn counter() -> &'static [u8] {
    code!(
        64,
        "2:",
        "inc dword ptr [0x20000]",
        "mov eax, [0x20000]",
        "out 0xe1, eax",
        "jmp 2b"
    )
}

fn vms_come_and_go() {
    for _ in 0..100 {
        let guest = Guest::new(Mode::Long, counter());
        assert_eq!(guest.run_to_done(), 1);
    }
}

fn many_vms_at_once() {
    let guests: Vec<_> = (0..60).map(|_| Guest::new(Mode::Long, counter())).collect();
    for round in 1..=3 {
        for guest in &guests {
            assert_eq!(guest.run_to_done(), round);
        }
    }
}

fn many_vcpus_take_turns() {
    const COUNT: u64 = 100;
    let guest = Guest::with(
        Mode::Long,
        Apic::None,
        COUNT,
        code!(
            64,
            "2:",
            "inc rbx",
            "lock inc dword ptr [0x20000]",
            "out 0xe1, al",
            "jmp 2b"
        ),
    );
    for round in 1..=3 {
        for vcpu in &guest.vcpus {
            assert!(matches!(vcpu.run(), Exit::Out(..)));
            assert_eq!(vcpu.regs().rbx, round);
        }
    }
    assert_eq!(u64::from(guest.memory.read::<u32>(DATA)), 3 * COUNT);
}

/// Lets the process have as many descriptors as it wants, or just `limit`.
fn limit_descriptors(limit: u64) {
    let limit = libc::rlimit {
        rlim_cur: limit,
        rlim_max: limit.max(4096),
    };
    // SAFETY: The structure is a local.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    assert_eq!(done, 0);
}

fn the_limit_of_vcpus_is_the_limit() {
    let max = capability(KVM_CAP_MAX_VCPUS) as u64;
    if max > 1024 {
        skip("more vCPUs than this test has descriptors for");
    }
    limit_descriptors(max + 100);
    let vm = Vm::new();
    let vcpus: Vec<_> = (0..max)
        .map(|id| {
            own(vm
                .ioctl(KVM_CREATE_VCPU, id)
                .unwrap_or_else(|e| panic!("vCPU {id}: {e}")))
        })
        .collect();
    assert_eq!(vm.ioctl(KVM_CREATE_VCPU, max), Err(EINVAL));
    drop(vcpus);
}

fn guests_do_not_see_each_others_memory() {
    // The same addresses in all, other pages behind them, on one CPU in turns.
    let guests: Vec<_> = (0..8u32)
        .map(|n| {
            let guest = Guest::new(
                Mode::Long,
                code!(
                    64,
                    "2:",
                    "mov eax, [0x20000]",
                    "add dword ptr [0x20000], 0x10000",
                    "out 0xe1, eax",
                    "jmp 2b"
                ),
            );
            guest.memory.write::<u32>(DATA, n);
            guest
        })
        .collect();
    for round in 0..20 {
        for (guest, n) in guests.iter().zip(0..) {
            assert_eq!(guest.run_to_done(), (round << 16) | n);
        }
    }
}

fn vcpus_with_tables_of_their_own() {
    // Two vCPUs map one linear address to two pages.
    let guest = Guest::with(
        Mode::Long,
        Apic::None,
        2,
        code!(
            64,
            "mov rbx, 0x8000000000",
            "2:",
            "mov eax, [rbx]",
            "out 0xe1, eax",
            "jmp 2b"
        ),
    );
    for (n, vcpu) in (0..).zip(&guest.vcpus) {
        let root = 0x4_0000 + n * 0x1_0000;
        guest
            .memory
            .write::<u64>(root, guest.memory.read::<u64>(crate::guest::PML4));
        guest.memory.write::<u64>(root + 8, (root + 0x1000) | 7);
        guest
            .memory
            .write::<u64>(root + 0x1000, (root + 0x2000) | 7);
        guest
            .memory
            .write::<u64>(root + 0x2000, (root + 0x3000) | 7);
        guest
            .memory
            .write::<u64>(root + 0x3000, (root + 0x4000) | 7);
        guest.memory.write::<u32>(root + 0x4000, 100 + n as u32);
        let mut sregs = vcpu.sregs();
        sregs.cr3 = root;
        vcpu.set_sregs(&sregs);
    }
    for _ in 0..20 {
        for (vcpu, n) in guest.vcpus.iter().zip(100..) {
            assert_eq!(vcpu.run(), Exit::Out(0xe1, 4, 1, n));
        }
    }
}

fn vms_come_and_go_on_all_cpus() {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let guest = Guest::new(Mode::Long, counter());
                    assert_eq!(guest.run_to_done(), 1);
                    thread::yield_now();
                    assert_eq!(guest.run_to_done(), 2);
                }
            });
        }
    });
}

fn more_vcpus_than_cpus_run_at_once() {
    let guest = Guest::with(
        Mode::Long,
        Apic::None,
        16,
        code!(
            64,
            "sti",
            "mov ecx, 20000",
            "2:",
            "lock inc dword ptr [0x20000]",
            "loop 2b",
            "hlt"
        ),
    );
    thread::scope(|scope| {
        for vcpu in &guest.vcpus {
            scope.spawn(|| assert_eq!(vcpu.run(), Exit::Hlt));
        }
    });
    assert_eq!(guest.memory.read::<u32>(DATA), 16 * 20_000);
}

fn a_process_out_of_descriptors_gets_no_vm() {
    let kvm = open();
    let vm = Vm::new();
    // SAFETY: Numbers only; the copy is what the next descriptor would be.
    let next = unsafe { libc::dup(0) } as u64;
    limit_descriptors(next + 1);
    assert_eq!(kvm.ioctl(KVM_CREATE_VM, 0), Err(EMFILE));
    assert_eq!(vm.ioctl(KVM_CREATE_VCPU, 0), Err(EMFILE));
    // The failed vCPU has left nothing behind: its ID is free.
    limit_descriptors(1000);
    drop(vm.vcpu(0));
    assert!(kvm.ioctl(KVM_CREATE_VM, 0).is_ok());
}

fn vpids_are_used_again() {
    // Every vCPU that runs takes a VPID, and those of vCPUs that are gone come back
    // or are left behind; nobody may see another's memory by one.
    let code = code!(
        16,
        "2:",
        "inc dword ptr [0x5000]",
        "mov eax, [0x5000]",
        "out 0xe1, eax",
        "jmp 2b"
    );
    let guest = Guest::new(Mode::Real, code);
    let witness = Guest::new(
        Mode::Real,
        code!(16, "2:", "mov eax, [0x5000]", "out 0xe1, eax", "jmp 2b"),
    );
    witness.memory.write::<u32>(0x5000, 0x7777);
    for round in 1..=300 {
        let vm = Vm::new();
        vm.map(0, 0, &guest.memory);
        let vcpu = vm.vcpu(0);
        enter(&vcpu, Mode::Real);
        assert_eq!(vcpu.run(), Exit::Out(0xe1, 4, 1, round));
        if round % 100 == 0 {
            assert_eq!(witness.run_to_done(), 0x7777);
        }
    }
}
