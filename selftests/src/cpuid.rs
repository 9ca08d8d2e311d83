// SPDX-License-Identifier: GPL-2.0

//! CPUID: what a VMM may set, and what the guest then sees.

use kvm_bindings::*;
use libc::{
    E2BIG,
    EFAULT,
    EINVAL, //
};

use crate::{
    code,
    group,
    guest::{
        Guest,
        Mode,
        DATA, //
    },
    ioctl::*,
    kvm::*, //
};

group!("cpuid":
    the_guest_sees_what_was_set,
    leaves_that_were_not_set_are_0,
    an_index_selects_a_subleaf,
    leaves_beyond_the_last_basic_one_repeat_it,
    osxsave_follows_cr4,
    too_many_entries_are_refused,
    no_entries_are_accepted,
    a_bad_entry_list_is_refused,
    get_cpuid2_returns_what_was_set,
    get_cpuid2_wants_room,
    after_the_first_run_only_the_same_is_accepted,
    a_vcpu_without_cpuid_runs,
    the_obsolete_form_sets_leaves,
);

/// A guest that executes CPUID with the given EAX and ECX, and stores the result.
fn cpuid_guest() -> Guest {
    Guest::new(
        Mode::Long,
        code!(
            64,
            "2:",
            "mov eax, [0x20000]",
            "mov ecx, [0x20004]",
            "cpuid",
            "mov [0x20010], eax",
            "mov [0x20014], ebx",
            "mov [0x20018], ecx",
            "mov [0x2001c], edx",
            "out 0xe1, al",
            "jmp 2b"
        ),
    )
}

fn ask(guest: &Guest, leaf: u32, index: u32) -> [u32; 4] {
    guest.memory.write(DATA, [leaf, index]);
    guest.run_to_done();
    guest.memory.read(DATA + 0x10)
}

fn entry(function: u32, value: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        eax: value,
        ebx: value + 1,
        ecx: value + 2,
        edx: value + 3,
        ..Default::default()
    }
}

fn set(vcpu: &Vcpu, entries: &[kvm_cpuid_entry2]) -> Result {
    let mut cpuid = cpuid_room(entries.len() as u32);
    cpuid.entries[..entries.len()].copy_from_slice(entries);
    vcpu.set(KVM_SET_CPUID2, cpuid)
}

fn the_guest_sees_what_was_set() {
    let guest = cpuid_guest();
    let mut cpuid = supported_cpuid();
    for (slot, text) in [0x4000_0000u32, 0x8000_0002]
        .into_iter()
        .zip([0x100, 0x200])
    {
        if let Some(leaf) = cpuid.find(slot, 0) {
            *leaf = entry(slot, text);
        }
    }
    assert_eq!(guest.cpu().ioctl_with(KVM_SET_CPUID2, &mut cpuid), Ok(0));
    assert_eq!(ask(&guest, 0x8000_0002, 0), [0x200, 0x201, 0x202, 0x203]);
    let vendor = cpuid.find(0, 0).expect("leaf 0");
    let wanted = [vendor.eax, vendor.ebx, vendor.ecx, vendor.edx];
    assert_eq!(ask(&guest, 0, 0), wanted);
}

fn leaves_that_were_not_set_are_0() {
    let guest = cpuid_guest();
    assert_eq!(set(guest.cpu(), &[entry(0, 0x20), entry(1, 0x10)]), Ok(0));
    assert_eq!(ask(&guest, 5, 0), [0; 4]);
}

fn an_index_selects_a_subleaf() {
    let guest = cpuid_guest();
    let sub = |index, value| kvm_cpuid_entry2 {
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        ..entry(4, value)
    };
    let set = set(guest.cpu(), &[entry(0, 0x20), sub(0, 0x100), sub(2, 0x200)]);
    assert_eq!(set, Ok(0));
    assert_eq!(ask(&guest, 4, 0), [0x100, 0x101, 0x102, 0x103]);
    assert_eq!(ask(&guest, 4, 2), [0x200, 0x201, 0x202, 0x203]);
    assert_eq!(ask(&guest, 4, 1), [0; 4]);
}

fn leaves_beyond_the_last_basic_one_repeat_it() {
    let guest = cpuid_guest();
    // "GenuineIntel": only Intel's CPUs do so.
    let vendor = kvm_cpuid_entry2 {
        eax: 2,
        ebx: 0x756e_6547,
        edx: 0x4965_6e69,
        ecx: 0x6c65_746e,
        ..Default::default()
    };
    assert_eq!(set(guest.cpu(), &[vendor, entry(2, 0x30)]), Ok(0));
    assert_eq!(ask(&guest, 0x1234, 0), [0x30, 0x31, 0x32, 0x33]);
}

fn osxsave_follows_cr4() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov eax, 1",
            "cpuid",
            "mov eax, ecx",
            "out 0xe1, eax",
            "mov rax, cr4",
            "or eax, 0x40000",
            "mov cr4, rax",
            "mov eax, 1",
            "cpuid",
            "mov eax, ecx",
            "out 0xe1, eax"
        ),
    );
    assert_eq!((guest.run_to_done() >> 27) & 1, 0);
    assert_eq!((guest.run_to_done() >> 27) & 1, 1);
}

fn too_many_entries_are_refused() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    assert_eq!(vcpu.set(KVM_SET_CPUID2, cpuid_room(257)), Err(E2BIG));
    assert_eq!(vcpu.set(KVM_SET_CPUID2, cpuid_room(u32::MAX)), Err(E2BIG));
}

fn no_entries_are_accepted() {
    let vm = Vm::new();
    assert_eq!(vm.vcpu(0).set(KVM_SET_CPUID2, cpuid_room(0)), Ok(0));
}

fn a_bad_entry_list_is_refused() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    // The header is the last thing on its page; the entries would be on the next.
    let memory = Memory::new(2 * PAGE as usize);
    let header = memory.hva() + PAGE - 8;
    memory.write::<u32>(PAGE - 8, 1);
    // SAFETY: The second page is the test's own, and nobody reads it.
    let done = unsafe {
        let second = memory.as_ptr().add(PAGE as usize);
        libc::mprotect(second.cast(), PAGE as usize, libc::PROT_NONE)
    };
    assert_eq!(done, 0);
    assert_eq!(vcpu.ioctl(KVM_SET_CPUID2, header), Err(EFAULT));
}

fn get_cpuid2_returns_what_was_set() {
    let guest = cpuid_guest();
    let entries = [entry(0, 7), entry(2, 0x10), entry(0x8000_0000, 0x8000_0000)];
    assert_eq!(set(guest.cpu(), &entries), Ok(0));
    let mut read = cpuid_room(256);
    assert_eq!(guest.cpu().ioctl_with(KVM_GET_CPUID2, &mut read), Ok(0));
    assert_eq!(read.used(), entries);
}

fn get_cpuid2_wants_room() {
    let guest = cpuid_guest();
    assert_eq!(set(guest.cpu(), &[entry(0, 7), entry(2, 0x10)]), Ok(0));
    let mut read = cpuid_room(1);
    assert_eq!(
        guest.cpu().ioctl_with(KVM_GET_CPUID2, &mut read),
        Err(E2BIG)
    );
}

fn after_the_first_run_only_the_same_is_accepted() {
    let guest = cpuid_guest();
    let mut cpuid = supported_cpuid();
    assert_eq!(guest.cpu().ioctl_with(KVM_SET_CPUID2, &mut cpuid), Ok(0));
    ask(&guest, 0, 0);
    assert_eq!(guest.cpu().ioctl_with(KVM_SET_CPUID2, &mut cpuid), Ok(0));
    cpuid.find(1, 0).expect("leaf 1").eax ^= 0xf;
    assert_eq!(
        guest.cpu().ioctl_with(KVM_SET_CPUID2, &mut cpuid),
        Err(EINVAL)
    );
}

fn a_vcpu_without_cpuid_runs() {
    let guest = Guest::new(
        Mode::Real,
        code!(16, "mov eax, 0", "cpuid", "out 0xe1, eax", "hlt"),
    );
    let vcpu = guest.vm.vcpu(1);
    crate::guest::enter(&vcpu, Mode::Real);
    assert_eq!(vcpu.run(), Exit::Out(0xe1, 4, 1, 0));
}

fn the_obsolete_form_sets_leaves() {
    let guest = cpuid_guest();
    let leaf = |function, eax| kvm_cpuid_entry {
        function,
        eax,
        ebx: 2,
        ecx: 3,
        edx: 4,
        ..Default::default()
    };
    let mut table = Flex {
        header: kvm_cpuid {
            nent: 2,
            ..Default::default()
        },
        entries: [leaf(0, 0x10), leaf(0x10, 0x30)],
    };
    assert_eq!(guest.cpu().ioctl_with(KVM_SET_CPUID, &mut table), Ok(0));
    // Without subleaves: any index finds it.
    assert_eq!(ask(&guest, 0x10, 7), [0x30, 2, 3, 4]);
    table.header.nent = 257;
    let too_many = guest.cpu().ioctl_with(KVM_SET_CPUID, &mut table);
    assert_eq!(too_many, Err(E2BIG));
}
