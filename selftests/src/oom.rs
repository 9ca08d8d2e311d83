// SPDX-License-Identifier: GPL-2.0

//! Every allocation that an ioctl makes fails once: it says so by its errno, and works when it is
//! called again.
//!
//! Fault injection (`/proc/thread-self/fail-nth`) lets the n-th allocation of a thread fail, for n
//! from 1 up to where none is left; copies from and to userspace fail in their turn, too. Kernels
//! without it skip the tests; the debug kernel of the bed has it.

use kvm_bindings::*;
use libc::{
    EFAULT,
    EINTR,
    ENOMEM, //
};
use std::{
    fs::{
        self,
        File, //
    },
    os::{
        fd::{
            AsRawFd,
            OwnedFd, //
        },
        unix::fs::FileExt,
    },
};

use crate::{
    code,
    group,
    guest::{
        enter,
        set_cpuid,
        Apic,
        Guest,
        Mode,
        DATA,
        DONE, //
    },
    harness::skip,
    hypervisor,
    ioctl::*,
    kvm::*, //
};

group!("oom":
    a_vm_is_made_or_not,
    a_vcpu_is_made_or_not,
    a_vcpu_with_a_local_apic_is_made_or_not,
    slots_are_changed_or_not,
    interrupt_controllers_are_made_or_not,
    routes_are_set_or_not,
    an_irqfd_is_assigned_or_not,
    an_ioeventfd_is_assigned_or_not,
    settings_are_taken_or_not,
    state_is_read_or_not,
    a_guest_gets_its_memory_later,
    a_guest_hypervisor_gets_its_memory_later,
    a_nested_state_is_taken_or_not,
);

/// The file by which the n-th allocation of this thread fails.
struct Injector(File);

impl Injector {
    /// Has allocations fail that may sleep, and of single pages, too; skips the test where none can.
    fn new() -> Self {
        const SWITCHES: &[(&str, &str)] = &[
            ("failslab/ignore-gfp-wait", "N"),
            ("fail_page_alloc/ignore-gfp-wait", "N"),
            ("fail_page_alloc/ignore-gfp-highmem", "N"),
            ("fail_page_alloc/min-order", "0"),
            ("failslab/verbose", "0"),
            ("fail_page_alloc/verbose", "0"),
            ("fail_usercopy/verbose", "0"),
        ];
        for (name, value) in SWITCHES {
            if fs::write(format!("/sys/kernel/debug/{name}"), value).is_err() {
                skip("no fault injection in this kernel");
            }
        }
        let mut options = File::options();
        match options
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth")
        {
            Ok(file) => Self(file),
            Err(_) => skip("no fault injection in this kernel"),
        }
    }

    /// Calls `f` with the `nth` allocation failing. Returns whether there was one, and the answer.
    fn call<T>(&self, nth: u32, f: impl FnOnce() -> Result<T>) -> (bool, Result<T>) {
        self.0
            .write_at(nth.to_string().as_bytes(), 0)
            .expect("fail-nth");
        let answer = f();
        let mut left = [0; 16];
        // Copies count, too: where the next was to fail, it is this one.
        let was_hit = match self.0.read_at(&mut left, 0) {
            Ok(len) => left[..len].trim_ascii() == b"0",
            Err(_) => false,
        };
        while self.0.write_at(b"0", 0).is_err() {}
        (was_hit, answer)
    }
}

/// Calls `f` on a new `make()` for each allocation that it makes, with that one failing, and then
/// again without. `f` may do without what it did not get.
fn survives<T, U>(make: impl Fn() -> T, f: impl Fn(&T) -> Result<U>) {
    let injector = Injector::new();
    let mut failed = 0;
    for nth in 1..3000 {
        let object = make();
        let (was_hit, answer) = injector.call(nth, || f(&object));
        match answer {
            Err(errno) => {
                let is_said = [ENOMEM, EFAULT].contains(&errno);
                assert!(was_hit && is_said, "allocation {nth}: errno {errno}");
                failed += 1;
                if let Err(errno) = f(&object) {
                    panic!("after allocation {nth}: errno {errno}");
                }
            }
            Ok(_) if was_hit => {}
            Ok(_) => {
                println!("# {failed} of {} failures showed", nth - 1);
                assert!(failed > 0, "nothing failed");
                return;
            }
        }
    }
    panic!("no end of allocations");
}

fn done(value: i32) -> Result<()> {
    assert_eq!(value, 0);
    Ok(())
}

fn a_vm_is_made_or_not() {
    survives(open, |kvm| kvm.ioctl(KVM_CREATE_VM, 0).map(own));
}

/// Closes the descriptor of a new vCPU, whose id stays taken.
fn create_vcpu(vm: &Vm) -> Result<OwnedFd> {
    let vcpu = own(vm.ioctl(KVM_CREATE_VCPU, 1)?);
    assert_eq!(vm.ioctl(KVM_CREATE_VCPU, 1).err(), Some(libc::EEXIST));
    Ok(vcpu)
}

fn a_vcpu_is_made_or_not() {
    survives(Vm::new, |vm| vm.ioctl(KVM_CREATE_VCPU, 1).map(own));
    // One that was made is there, also for who comes next.
    let vm = Vm::new();
    let _vcpu = create_vcpu(&vm).expect("KVM_CREATE_VCPU");
}

fn a_vcpu_with_a_local_apic_is_made_or_not() {
    survives(Vm::with_irqchip, |vm| vm.ioctl(KVM_CREATE_VCPU, 1).map(own));
}

fn slots_are_changed_or_not() {
    let memory = Memory::new(64 * PAGE as usize);
    let slot = |vm: &Vm, flags, gpa, pages| {
        vm.set_slot(0, flags, gpa, pages * PAGE, memory.hva())
            .map(drop)
    };
    let with_slot = || {
        let vm = Vm::new();
        slot(&vm, 0, 0, 64).expect("a slot");
        vm
    };
    survives(Vm::new, |vm| slot(vm, 0, 0, 64));
    survives(Vm::new, |vm| slot(vm, KVM_MEM_LOG_DIRTY_PAGES, 0, 64));
    survives(with_slot, |vm| slot(vm, KVM_MEM_LOG_DIRTY_PAGES, 0, 64));
    survives(with_slot, |vm| slot(vm, 0, 0x10_0000, 64));
    survives(with_slot, |vm| {
        // The second time there may be none.
        slot(vm, 0, 0, 0).or_else(|errno| {
            if errno == libc::EINVAL {
                Ok(())
            } else {
                Err(errno)
            }
        })
    });
}

fn interrupt_controllers_are_made_or_not() {
    survives(Vm::new, |vm| vm.ioctl(KVM_CREATE_IRQCHIP, 0).and_then(done));
    survives(Vm::with_irqchip, |vm| {
        vm.ioctl_with(KVM_CREATE_PIT2, &mut kvm_pit_config::default())
            .and_then(done)
    });
}

fn routes_are_set_or_not() {
    survives(Vm::with_irqchip, |vm| {
        let mut routing = Flex {
            header: kvm_irq_routing {
                nr: 3,
                ..Default::default()
            },
            entries: [kvm_irq_routing_entry::default(); 3],
        };
        for (gsi, entry) in (0..).zip(&mut routing.entries) {
            entry.gsi = gsi;
            entry.type_ = KVM_IRQ_ROUTING_MSI;
            entry.u.msi = kvm_irq_routing_msi {
                address_lo: 0xfee0_0000,
                data: 0x40,
                ..Default::default()
            };
        }
        vm.ioctl_with(KVM_SET_GSI_ROUTING, &mut routing)
    });
}

/// A VM and two eventfds.
fn with_events() -> (Vm, [OwnedFd; 2]) {
    // SAFETY: Plain numbers.
    let event = || own(unsafe { libc::eventfd(0, 0) });
    (Vm::with_irqchip(), [event(), event()])
}

fn an_irqfd_is_assigned_or_not() {
    for flags in [0, KVM_IRQFD_FLAG_RESAMPLE] {
        survives(with_events, |(vm, [event, resample])| {
            let irqfd = |flags| kvm_irqfd {
                fd: event.as_raw_fd() as u32,
                gsi: 5,
                flags,
                resamplefd: resample.as_raw_fd() as u32,
                ..Default::default()
            };
            vm.ioctl_with(KVM_IRQFD, &mut irqfd(flags))?;
            vm.ioctl_with(KVM_IRQFD, &mut irqfd(KVM_IRQFD_FLAG_DEASSIGN))
        });
    }
}

fn an_ioeventfd_is_assigned_or_not() {
    survives(with_events, |(vm, [event, _])| {
        let ioeventfd = |flags| kvm_ioeventfd {
            addr: 0x1000,
            len: 4,
            fd: event.as_raw_fd(),
            flags,
            ..Default::default()
        };
        match vm.ioctl_with(KVM_IOEVENTFD, &mut ioeventfd(0)) {
            // What could not be taken back the first time.
            Ok(_) | Err(libc::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        vm.ioctl_with(KVM_IOEVENTFD, &mut ioeventfd(1 << 2))
    });
}

fn settings_are_taken_or_not() {
    survives(Vm::new, |vm| {
        let mut zone = kvm_coalesced_mmio_zone {
            addr: 0x1000,
            size: 16,
            ..Default::default()
        };
        vm.ioctl_with(KVM_REGISTER_COALESCED_MMIO, &mut zone)
    });
    survives(Vm::new, |vm| {
        let bits = [0u8; 64];
        let mut filter = kvm_msr_filter::default();
        for range in &mut filter.ranges[..3] {
            range.flags = KVM_MSR_FILTER_READ;
            range.nmsrs = 64;
            range.bitmap = bits.as_ptr().cast_mut();
        }
        vm.ioctl_with(KVM_X86_SET_MSR_FILTER, &mut filter)
    });
    let with_vcpu = || {
        let vm = Vm::new();
        (vm.vcpu(0), vm)
    };
    let mut cpuid = supported_cpuid();
    let cpuid = std::ptr::from_mut(&mut cpuid) as u64;
    survives(with_vcpu, |(vcpu, _)| vcpu.ioctl(KVM_SET_CPUID2, cpuid));
}

fn state_is_read_or_not() {
    let guest = Guest::with(Mode::Long, Apic::Kernel, 1, code!(64, "hlt"));
    let mut room = vec![0u8; 3 * PAGE as usize];
    let room = room.as_mut_ptr() as u64;
    for request in [
        KVM_GET_XSAVE,
        KVM_GET_LAPIC,
        KVM_GET_FPU,
        KVM_SET_FPU,
        KVM_SET_LAPIC,
    ] {
        survives(|| (), |()| guest.cpu().ioctl(request, room));
    }
    survives(
        || (),
        |()| guest.cpu().ioctl_with(KVM_GET_CPUID2, &mut cpuid_room(256)),
    );
    survives(
        || (),
        |()| open().ioctl_with(KVM_GET_SUPPORTED_CPUID, &mut cpuid_room(256)),
    );
    survives(|| (), |()| guest.vm.ioctl(KVM_GET_STATS_FD, 0).map(own));
}

/// Runs until the guest is done, however often it is interrupted; where memory lacks, says so.
fn run_to_done(vcpu: &Vcpu, want: u32) -> Result<()> {
    loop {
        match vcpu.try_run() {
            Ok(exit) => {
                assert_eq!(exit, Exit::Out(DONE, 4, 1, want));
                return Ok(());
            }
            Err(EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

fn a_guest_gets_its_memory_later() {
    let code = code!(
        64,
        "mov dword ptr [0x20000], 1",
        "mov dword ptr [0x80000], 2",
        "mov eax, [0x100000]",
        "mov eax, 3",
        "out 0xe1, eax",
        "hlt"
    );
    survives(
        || Guest::new(Mode::Long, code),
        |guest| run_to_done(guest.cpu(), 3),
    );
}

fn a_guest_hypervisor_gets_its_memory_later() {
    survives(
        || hypervisor::guest(code!(64, "inc dword ptr [0x30000]", "hlt")),
        |guest| {
            run_to_done(guest.cpu(), hypervisor::EXITED)?;
            assert_eq!(guest.memory.read::<u32>(DATA + 0x1_0000), 1);
            Ok(())
        },
    );
}

fn a_nested_state_is_taken_or_not() {
    let source = hypervisor::guest(code!(64, "out 0x10, al", "hlt"));
    assert!(matches!(source.run(), Exit::Out(0x10, 1, 1, _)));
    // The OUT is complete, so that the state is that between two instructions.
    source.cpu().shared().immediate_exit = 1;
    assert_eq!(source.cpu().run_raw(), Err(EINTR));
    source.cpu().shared().immediate_exit = 0;
    let mut state = hypervisor::nested_state(source.cpu());
    let (regs, sregs) = (source.cpu().regs(), source.cpu().sregs());
    let make = || {
        let vm = Vm::new();
        vm.map(0, 0, &source.memory);
        let vcpu = vm.vcpu(0);
        set_cpuid(&vcpu, 0);
        enter(&vcpu, Mode::Long);
        assert!(vcpu.set_msr(0x3a, 5));
        vcpu.set_sregs(&sregs);
        vcpu.set_regs(&regs);
        (vcpu, vm)
    };
    let state = state.as_mut_ptr() as u64;
    survives(make, |(vcpu, _)| vcpu.ioctl(KVM_SET_NESTED_STATE, state));
    let (vcpu, _vm) = make();
    assert_eq!(vcpu.ioctl(KVM_SET_NESTED_STATE, state), Ok(0));
    assert_eq!(run_to_done(&vcpu, hypervisor::EXITED), Ok(()));
}
