// SPDX-License-Identifier: GPL-2.0

//! VMs and vCPUs: making them, their limits, and closing them in every order.

use kvm_bindings::*;
use libc::{
    EEXIST,
    EFAULT,
    EINVAL,
    EIO,
    ENOTTY, //
};
use std::os::fd::{
    AsRawFd,
    RawFd, //
};

use crate::{
    code,
    group,
    guest::{
        Guest,
        Mode, //
    },
    ioctl::*,
    kvm::*, //
};

group!("create":
    a_vm_of_an_unknown_type_is_refused,
    unknown_vm_ioctls_are_no_ioctls,
    unknown_vcpu_ioctls_are_refused,
    descriptors_close_on_exec,
    a_new_vcpu_is_as_after_reset,
    vcpu_ids_have_a_limit,
    a_vcpu_id_is_taken_once,
    run_takes_no_argument,
    bad_pointers_are_refused,
    kvm_run_can_be_mapped_in_part_only_within_its_size,
    a_vm_outlives_dev_kvm,
    a_vcpu_outlives_its_vm_descriptor,
    a_mapping_outlives_its_vcpu,
    the_memory_of_a_closed_vm_can_go,
    another_process_may_not_use_a_vm,
    fork_keeps_the_parents_vm_working,
    irqchip_comes_before_vcpus,
    two_irqchips_are_refused,
    tss_and_identity_map_have_rules,
    a_vm_without_vcpus_can_be_closed,
);

/// Guest code that says 42 and halts.
fn hello() -> &'static [u8] {
    code!(16, "mov al, 42", "out 0x10, al", "hlt")
}

fn says_hello(vcpu: &Vcpu) {
    assert_eq!(vcpu.run(), Exit::Out(0x10, 1, 1, 42));
    assert_eq!(vcpu.run(), Exit::Hlt);
}

fn a_vm_of_an_unknown_type_is_refused() {
    for vm_type in [0x100, u64::MAX] {
        assert_eq!(open().ioctl(KVM_CREATE_VM, vm_type), Err(EINVAL));
    }
}

fn unknown_vm_ioctls_are_no_ioctls() {
    let vm = Vm::new();
    assert_eq!(vm.ioctl(io(0xfe), 0), Err(ENOTTY));
    assert_eq!(vm.ioctl(KVM_RUN, 0), Err(ENOTTY));
    assert_eq!(vm.ioctl(KVM_GET_API_VERSION, 0), Err(ENOTTY));
}

fn unknown_vcpu_ioctls_are_refused() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    assert_eq!(vcpu.ioctl(io(0xfe), 0), Err(EINVAL));
    assert_eq!(vcpu.ioctl(KVM_CREATE_VCPU, 0), Err(EINVAL));
}

fn descriptors_close_on_exec() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    for fd in [vm.as_raw_fd(), vcpu.as_raw_fd()] {
        // SAFETY: F_GETFD takes no pointer.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }
}

fn a_new_vcpu_is_as_after_reset() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    let (regs, sregs) = (vcpu.regs(), vcpu.sregs());
    assert_eq!((regs.rip, regs.rflags), (0xfff0, 2));
    assert_eq!((sregs.cs.selector, sregs.cs.base), (0xf000, 0xffff_0000));
    assert_eq!(sregs.cr0, 0x6000_0010);
    assert_eq!((sregs.cr3, sregs.cr4, sregs.efer), (0, 0, 0));
    assert_eq!((sregs.ds.base, sregs.ds.limit), (0, 0xffff));
    assert_eq!((sregs.idt.base, sregs.idt.limit), (0, 0xffff));
}

fn vcpu_ids_have_a_limit() {
    let vm = Vm::new();
    let max_id = capability(KVM_CAP_MAX_VCPU_ID) as u64;
    for id in [max_id, max_id + 1, u64::from(u32::MAX)] {
        assert_eq!(vm.ioctl(KVM_CREATE_VCPU, id), Err(EINVAL), "id {id}");
    }
    let last = vm.ioctl(KVM_CREATE_VCPU, max_id - 1).expect("the last ID");
    drop(own(last));
}

fn a_vcpu_id_is_taken_once() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(3);
    assert_eq!(vm.ioctl(KVM_CREATE_VCPU, 3), Err(EEXIST));
    // Closing the descriptor does not give the ID back.
    drop(vcpu);
    assert_eq!(vm.ioctl(KVM_CREATE_VCPU, 3), Err(EEXIST));
    let _other = vm.vcpu(0);
}

fn run_takes_no_argument() {
    let guest = Guest::new(Mode::Real, hello());
    assert_eq!(guest.cpu().ioctl(KVM_RUN, 1), Err(EINVAL));
    says_hello(guest.cpu());
}

fn bad_pointers_are_refused() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    let of_vm = [
        KVM_SET_USER_MEMORY_REGION,
        KVM_GET_DIRTY_LOG,
        KVM_ENABLE_CAP,
        KVM_IOEVENTFD,
    ];
    let of_vcpu = [
        KVM_GET_REGS,
        KVM_SET_REGS,
        KVM_GET_SREGS,
        KVM_SET_SREGS,
        KVM_GET_MSRS,
        KVM_SET_MSRS,
        KVM_SET_CPUID2,
        KVM_GET_FPU,
        KVM_SET_FPU,
        KVM_SET_SIGNAL_MASK,
        KVM_GET_NESTED_STATE,
        KVM_SET_NESTED_STATE,
    ];
    // The last end where addresses do.
    for pointer in [
        8,
        0xffff_8880_0000_0000,
        u64::MAX - 7,
        u64::MAX - 3,
        u64::MAX,
    ] {
        for request in of_vm {
            assert_eq!(
                vm.ioctl(request, pointer),
                Err(EFAULT),
                "{request:#x} {pointer:#x}"
            );
        }
        for request in of_vcpu {
            assert_eq!(
                vcpu.ioctl(request, pointer),
                Err(EFAULT),
                "{request:#x} {pointer:#x}"
            );
        }
    }
}

fn kvm_run_can_be_mapped_in_part_only_within_its_size() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    let size = open().ioctl(KVM_GET_VCPU_MMAP_SIZE, 0).expect("size") as usize;
    // SAFETY: A new mapping where the kernel likes.
    let extra = unsafe {
        let access = libc::PROT_READ;
        libc::mmap(
            std::ptr::null_mut(),
            2 * size,
            access,
            libc::MAP_SHARED,
            vcpu.as_raw_fd(),
            0,
        )
    };
    assert_ne!(extra, libc::MAP_FAILED);
    // SAFETY: fork() in a process with one thread.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: The page is mapped; that it cannot be touched is the test.
            let byte = unsafe { extra.cast::<u8>().add(size).read_volatile() };
            // SAFETY: Ends the child at once.
            unsafe { libc::_exit(i32::from(byte)) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: Waits for the child just made.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS);
        }
    }
}

fn a_vm_outlives_dev_kvm() {
    let kvm = open();
    let vm = Vm(own(kvm.ioctl(KVM_CREATE_VM, 0).expect("KVM_CREATE_VM")));
    drop(kvm);
    let memory = Memory::new(PAGE as usize);
    vm.map(0, 0, &memory);
    drop(vm.vcpu(0));
}

fn a_vcpu_outlives_its_vm_descriptor() {
    let Guest {
        vm,
        mut vcpus,
        memory,
    } = Guest::new(Mode::Real, hello());
    drop(vm);
    let vcpu = vcpus.remove(0);
    says_hello(&vcpu);
    drop(vcpu);
    drop(memory);
}

fn a_mapping_outlives_its_vcpu() {
    let guest = Guest::new(Mode::Real, hello());
    says_hello(guest.cpu());
    let fd = guest.cpu().as_raw_fd();
    // SAFETY: The descriptor is closed behind its owner's back; the owner closes
    // a duplicate of another file instead.
    unsafe {
        assert_ne!(libc::dup2(open().as_raw_fd(), fd), -1);
    }
    let exit_reason = guest.cpu().shared().exit_reason;
    assert_eq!(exit_reason, KVM_EXIT_HLT);
}

fn the_memory_of_a_closed_vm_can_go() {
    let Guest { vm, vcpus, memory } = Guest::new(Mode::Real, hello());
    says_hello(&vcpus[0]);
    drop(memory);
    drop(vm);
    drop(vcpus);
}

/// Runs `test` in a forked child and wants it to return true.
fn in_child(test: impl FnOnce() -> bool) {
    // SAFETY: fork() in a process with one thread.
    match unsafe { libc::fork() } {
        0 => {
            let status = i32::from(!test());
            // SAFETY: Ends the child at once.
            unsafe { libc::_exit(status) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: Waits for the child just made.
            unsafe { libc::waitpid(pid, &mut status, 0) };
            assert_eq!(status, 0, "the child's status");
        }
    }
}

fn another_process_may_not_use_a_vm() {
    let guest = Guest::new(Mode::Real, hello());
    let (vm, vcpu): (RawFd, RawFd) = (guest.vm.as_raw_fd(), guest.cpu().as_raw_fd());
    in_child(|| {
        call(vm, KVM_CREATE_VCPU, 1) == Err(EIO)
            && call(vcpu, KVM_RUN, 0) == Err(EIO)
            && call_with(vcpu, KVM_GET_REGS, &mut kvm_regs::default()) == Err(EIO)
    });
    says_hello(guest.cpu());
}

fn fork_keeps_the_parents_vm_working() {
    let guest = Guest::new(Mode::Real, hello());
    says_hello(guest.cpu());
    // The child closes its copies of the descriptors by its end.
    in_child(|| true);
    guest.restart(hello());
    says_hello(guest.cpu());
}

fn irqchip_comes_before_vcpus() {
    let vm = Vm::new();
    let _vcpu = vm.vcpu(0);
    assert_eq!(
        vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, [24, 0, 0, 0]),
        Err(EEXIST)
    );
}

fn two_irqchips_are_refused() {
    let vm = Vm::with_lapics();
    assert_eq!(
        vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, [24, 0, 0, 0]),
        Err(EEXIST)
    );
    let vm = Vm::new();
    assert_eq!(
        vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, [4097, 0, 0, 0]),
        Err(EINVAL)
    );
    assert_eq!(vm.enable_cap(99_999, [0; 4]), Err(EINVAL));
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        flags: 1,
        ..Default::default()
    };
    assert_eq!(vm.ioctl_with(KVM_ENABLE_CAP, &mut cap), Err(EINVAL));
}

fn tss_and_identity_map_have_rules() {
    let vm = Vm::new();
    assert_eq!(vm.ioctl(KVM_SET_TSS_ADDR, 0xfffb_d000), Ok(0));
    assert_eq!(vm.ioctl(KVM_SET_TSS_ADDR, 0xffff_e000), Err(EINVAL));
    assert_eq!(
        vm.ioctl_with(KVM_SET_IDENTITY_MAP_ADDR, &mut 0xfffb_c000u64),
        Ok(0)
    );
    let _vcpu = vm.vcpu(0);
    let late = vm.ioctl_with(KVM_SET_IDENTITY_MAP_ADDR, &mut 0xfffb_c000u64);
    assert_eq!(late, Err(EINVAL));
}

fn a_vm_without_vcpus_can_be_closed() {
    for _ in 0..10 {
        let vm = Vm::new();
        let memory = Memory::new(16 * PAGE as usize);
        vm.map(0, 0, &memory);
        drop(memory);
    }
}
