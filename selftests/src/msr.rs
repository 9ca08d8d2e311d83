// SPDX-License-Identifier: GPL-2.0

//! MSRs: the ioctls, what the guest sees, filters and exits to the VMM.

use kvm_bindings::*;
use libc::{
    E2BIG,
    EFAULT,
    EINVAL, //
};
use std::ptr;

use crate::{
    code,
    group,
    guest::{
        Guest,
        Mode,
        CODE,
        DATA, //
    },
    ioctl::*,
    kvm::*, //
};

group!("msr":
    counts_say_how_many_were_done,
    an_empty_list_is_accepted,
    a_long_list_is_refused,
    a_bad_list_pointer_is_refused,
    every_listed_msr_can_be_read_and_written_back,
    system_call_msrs_are_the_guests,
    the_guests_writes_are_seen_by_the_vmm,
    base_addresses_must_be_canonical,
    efer_keeps_its_reserved_bits,
    pat_keeps_its_reserved_values,
    misc_enable_and_mtrrs_are_accepted,
    the_tsc_goes_on_from_what_was_set,
    rdtsc_and_rdtscp_agree_with_the_msr,
    apic_base_has_rules,
    swapgs_swaps,
    syscall_and_sysret_work,
    an_unknown_msr_can_exit_to_the_vmm,
    the_vmm_can_make_an_access_fault,
    a_filter_denies_by_default,
    a_filter_allows_by_its_bitmap,
    a_filtered_access_can_exit_to_the_vmm,
    a_bad_filter_is_refused,
    an_msr_is_one_register,
    a_name_of_no_register_is_refused,
    without_shadow_stacks_kvm_names_no_register,
    unknown_msrs_can_be_ignored,
    a_guest_learns_that_it_was_stopped,
);

const IA32_TIME_STAMP_COUNTER: u32 = 0x10;
const IA32_APIC_BASE: u32 = 0x1b;
const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const IA32_MISC_ENABLE: u32 = 0x1a0;
const IA32_PAT: u32 = 0x277;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const IA32_EFER: u32 = 0xc000_0080;
const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;
const IA32_CSTAR: u32 = 0xc000_0083;
const IA32_FMASK: u32 = 0xc000_0084;
const IA32_FS_BASE: u32 = 0xc000_0100;
const IA32_GS_BASE: u32 = 0xc000_0101;
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// An MSR that no CPU has.
const UNKNOWN: u32 = 0x4f4f_4f4f;

type List<const N: usize> = Flex<kvm_msrs, kvm_msr_entry, N>;

fn list<const N: usize>(entries: [(u32, u64); N]) -> List<N> {
    Flex {
        header: kvm_msrs {
            nmsrs: N as u32,
            ..Default::default()
        },
        entries: entries.map(|(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        }),
    }
}

fn counts_say_how_many_were_done() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    let mut msrs = list([
        (IA32_STAR, 1),
        (IA32_CSTAR, 2),
        (UNKNOWN, 3),
        (IA32_FMASK, 4),
    ]);
    assert_eq!(vcpu.ioctl_with(KVM_SET_MSRS, &mut msrs), Ok(2));
    assert_eq!(vcpu.ioctl_with(KVM_GET_MSRS, &mut msrs), Ok(2));
    assert_eq!(
        (vcpu.msr(IA32_STAR), vcpu.msr(IA32_FMASK)),
        (Some(1), Some(0))
    );
    assert_eq!(vcpu.msr(UNKNOWN), None);
}

fn an_empty_list_is_accepted() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    assert_eq!(vcpu.ioctl_with(KVM_SET_MSRS, &mut list([])), Ok(0));
    assert_eq!(vcpu.ioctl_with(KVM_GET_MSRS, &mut list([])), Ok(0));
}

fn a_long_list_is_refused() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    let mut msrs = list([(IA32_STAR, 0); 256]);
    for request in [KVM_GET_MSRS, KVM_SET_MSRS] {
        assert_eq!(vcpu.ioctl_with(request, &mut msrs), Err(E2BIG));
    }
    msrs.header.nmsrs = 255;
    assert_eq!(vcpu.ioctl_with(KVM_GET_MSRS, &mut msrs), Ok(255));
}

fn a_bad_list_pointer_is_refused() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    assert_eq!(vcpu.ioctl(KVM_GET_MSRS, 0), Err(EFAULT));
    // The header is readable, the entry after it is not.
    let memory = Memory::new(2 * PAGE as usize);
    memory.write::<u32>(PAGE - 8, 1);
    // SAFETY: The second page is the test's own, and nobody reads it.
    unsafe {
        let second = memory.as_ptr().add(PAGE as usize);
        assert_eq!(
            libc::mprotect(second.cast(), PAGE as usize, libc::PROT_NONE),
            0
        );
    }
    let header = memory.hva() + PAGE - 8;
    assert_eq!(vcpu.ioctl(KVM_GET_MSRS, header), Err(EFAULT));
    assert_eq!(vcpu.ioctl(KVM_SET_MSRS, header), Err(EFAULT));
}

fn every_listed_msr_can_be_read_and_written_back() {
    let mut indices = Flex {
        header: kvm_msr_list {
            nmsrs: 256,
            ..Default::default()
        },
        entries: [0u32; 256],
    };
    assert_eq!(
        open().ioctl_with(KVM_GET_MSR_INDEX_LIST, &mut indices),
        Ok(0)
    );
    let guest = Guest::with_lapic(Mode::Long, code!(64, "hlt"));
    for index in &indices.entries[..indices.header.nmsrs as usize] {
        let value = guest.cpu().msr(*index);
        let value = value.unwrap_or_else(|| panic!("MSR {index:#x} cannot be read"));
        // What a migration does.
        assert!(
            guest.cpu().set_msr(*index, value),
            "MSR {index:#x} = {value:#x}"
        );
    }
}

fn system_call_msrs_are_the_guests() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "2:",
            "mov ecx, [0x20000]",
            "rdmsr",
            "mov [0x20008], eax",
            "mov [0x2000c], edx",
            "out 0xe1, al",
            "jmp 2b"
        ),
    );
    let msrs = [
        IA32_SYSENTER_ESP,
        IA32_SYSENTER_EIP,
        IA32_STAR,
        IA32_LSTAR,
        IA32_CSTAR,
        IA32_FS_BASE,
        IA32_GS_BASE,
        IA32_KERNEL_GS_BASE,
    ];
    for (index, value) in msrs.into_iter().zip(0x7fff_1234_5600..) {
        assert!(guest.cpu().set_msr(index, value), "{index:#x}");
    }
    for (index, value) in msrs.into_iter().zip(0x7fff_1234_5600..) {
        guest.memory.write(DATA, index);
        guest.run_to_done();
        assert_eq!(guest.memory.read::<u64>(DATA + 8), value, "{index:#x}");
    }
}

fn the_guests_writes_are_seen_by_the_vmm() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "2:",
            "mov ecx, [0x20000]",
            "mov eax, 0x1234",
            "xor edx, edx",
            "wrmsr",
            "out 0xe1, al",
            "jmp 2b"
        ),
    );
    let msrs = [
        IA32_SYSENTER_CS,
        IA32_SYSENTER_ESP,
        IA32_SYSENTER_EIP,
        IA32_STAR,
        IA32_LSTAR,
        IA32_FMASK,
        IA32_FS_BASE,
        IA32_GS_BASE,
        IA32_KERNEL_GS_BASE,
    ];
    for index in msrs {
        guest.memory.write(DATA, index);
        guest.run_to_done();
        assert_eq!(guest.cpu().msr(index), Some(0x1234), "{index:#x}");
    }
    assert_eq!(guest.cpu().sregs().fs.base, 0x1234);
}

fn base_addresses_must_be_canonical() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    for index in [IA32_LSTAR, IA32_FS_BASE, IA32_GS_BASE, IA32_KERNEL_GS_BASE] {
        assert!(
            !vcpu.set_msr(index, 0x8000_0000_0000_0000 >> 8),
            "{index:#x}"
        );
        assert!(vcpu.set_msr(index, 0xffff_8000_0000_0000), "{index:#x}");
    }
}

fn efer_keeps_its_reserved_bits() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ecx, 0xc0000080",
            "rdmsr",
            "or eax, 0x801",
            "wrmsr",
            "rdmsr",
            "out 0xe1, eax",
            "bts eax, 20",
            "wrmsr",
            "hlt"
        ),
    );
    assert_eq!(guest.run_to_done(), 0xd01);
    guest.run_to_exception(13);
    assert_eq!(guest.cpu().msr(IA32_EFER), Some(0xd01));
    assert!(!guest.cpu().set_msr(IA32_EFER, 1 << 20));
}

fn pat_keeps_its_reserved_values() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    assert_eq!(vcpu.msr(IA32_PAT), Some(0x0007_0406_0007_0406));
    assert!(vcpu.set_msr(IA32_PAT, 0x0000_0000_0506_0401));
    for bad in [2, 3, 8, 0xff] {
        assert!(!vcpu.set_msr(IA32_PAT, bad), "{bad}");
    }
}

fn misc_enable_and_mtrrs_are_accepted() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    assert!(vcpu.set_msr(IA32_MISC_ENABLE, 1));
    assert!(vcpu.set_msr(IA32_MTRR_DEF_TYPE, 0x806));
    assert_eq!(vcpu.msr(IA32_MTRR_DEF_TYPE), Some(0x806));
    assert!(
        !vcpu.set_msr(IA32_MTRR_DEF_TYPE, 0x802),
        "a type that there is not"
    );
}

fn the_tsc_goes_on_from_what_was_set() {
    const START: u64 = 1 << 50;
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "rdtsc",
            "mov [0x20000], eax",
            "mov [0x20004], edx",
            "hlt"
        ),
    );
    assert!(guest.cpu().set_msr(IA32_TIME_STAMP_COUNTER, START));
    guest.run_to_hlt();
    let seen = guest.memory.read::<u64>(DATA);
    let khz = guest
        .cpu()
        .ioctl(KVM_GET_TSC_KHZ, 0)
        .expect("KVM_GET_TSC_KHZ") as u64;
    assert!((START..START + 10_000 * khz).contains(&seen), "{seen:#x}");
    let read = guest.cpu().msr(IA32_TIME_STAMP_COUNTER).expect("the TSC");
    assert!(read >= seen);
}

fn rdtsc_and_rdtscp_agree_with_the_msr() {
    let has_rdtscp = supported_cpuid()
        .find(0x8000_0001, 0)
        .is_some_and(|l| (l.edx >> 27) & 1 == 1);
    if !has_rdtscp {
        crate::harness::skip("no RDTSCP");
    }
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ecx, 0xc0000103",
            "mov eax, 0x77",
            "xor edx, edx",
            "wrmsr",
            "rdtsc",
            "mov [0x20000], eax",
            "mov [0x20004], edx",
            "mov ecx, 0x10",
            "rdmsr",
            "mov [0x20008], eax",
            "mov [0x2000c], edx",
            "rdtscp",
            "mov [0x20010], eax",
            "mov [0x20014], edx",
            "mov [0x20018], ecx",
            "hlt"
        ),
    );
    guest.run_to_hlt();
    let tsc: [u64; 3] = guest.memory.read(DATA);
    assert!(tsc[0] < tsc[1] && tsc[1] < tsc[2], "{tsc:x?}");
    assert!(tsc[2] - tsc[0] < 1 << 32);
    assert_eq!(guest.memory.read::<u32>(DATA + 0x18), 0x77);
}

fn apic_base_has_rules() {
    let guest = Guest::with_lapic(Mode::Long, code!(64, "hlt"));
    let vcpu = guest.cpu();
    assert_eq!(vcpu.msr(IA32_APIC_BASE), Some(0xfee0_0900));
    assert!(vcpu.set_msr(IA32_APIC_BASE, 0xfee0_0d00)); // x2APIC.
    assert!(
        !vcpu.set_msr(IA32_APIC_BASE, 0xfee0_0500),
        "x2APIC without xAPIC"
    );
    assert!(
        !vcpu.set_msr(IA32_APIC_BASE, 1 << 62),
        "an address that there is not"
    );
    // The guest cannot go back from x2APIC to xAPIC directly.
    guest.restart(code!(
        64,
        "mov ecx, 0x1b",
        "mov eax, 0xfee00900",
        "xor edx, edx",
        "wrmsr",
        "hlt"
    ));
    guest.run_to_exception(13);
}

fn swapgs_swaps() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov rax, gs:[0]",
            "swapgs",
            "mov rbx, gs:[0]",
            "out 0xe1, al",
            "hlt"
        ),
    );
    guest.memory.write::<u64>(DATA, 0x11);
    guest.memory.write::<u64>(DATA + 0x100, 0x22);
    assert!(guest.cpu().set_msr(IA32_GS_BASE, DATA));
    assert!(guest.cpu().set_msr(IA32_KERNEL_GS_BASE, DATA + 0x100));
    assert_eq!(guest.run_to_done(), 0x11);
    assert_eq!(guest.cpu().regs().rbx, 0x22);
    // Both are right after an exit, whoever else ran on this CPU.
    assert_eq!(guest.cpu().msr(IA32_GS_BASE), Some(DATA + 0x100));
    assert_eq!(guest.cpu().msr(IA32_KERNEL_GS_BASE), Some(DATA));
    guest.run_to_hlt();
}

fn syscall_and_sysret_work() {
    let guest = Guest::new(
        Mode::Long,
        // To ring 3 by SYSRET, which comes back by SYSCALL.
        code!(
            64,
            "mov ecx, 0xc0000080",
            "rdmsr",
            "or eax, 1",
            "wrmsr",
            "mov ecx, 0x6000",
            "mov r11d, 2",
            "sysretq"
        ),
    );
    let gdt = crate::guest::GDT;
    guest.memory.write::<u64>(gdt + 0x28, 0x00cf_f300_0000_ffff);
    guest.memory.write::<u64>(gdt + 0x30, 0x00af_fb00_0000_ffff);
    guest
        .memory
        .copy(0x6000, code!(64, "mov ebx, 0x55", "stc", "syscall", "hlt"));
    guest
        .memory
        .copy(0x7000, code!(64, "mov eax, ebx", "out 0xe1, eax", "hlt"));
    assert!(guest.cpu().set_msr(IA32_STAR, 0x0020_0008 << 32));
    assert!(guest.cpu().set_msr(IA32_LSTAR, 0x7000));
    assert!(guest.cpu().set_msr(IA32_FMASK, 1));
    assert_eq!(guest.run_to_done(), 0x55);
    let regs = guest.cpu().regs();
    assert_eq!((regs.rcx, regs.r11 & 1, regs.rflags & 1), (0x6008, 1, 0));
    guest.run_to_hlt();
}

/// `KVM_CAP_X86_USER_SPACE_MSR` with some `KVM_MSR_EXIT_REASON_*`.
fn exit_for(guest: &Guest, reasons: u32) {
    let done = guest
        .vm
        .enable_cap(KVM_CAP_X86_USER_SPACE_MSR, [u64::from(reasons), 0, 0, 0]);
    assert_eq!(done, Ok(0));
}

/// Answers an MSR exit.
fn answer(guest: &Guest, data: u64, error: u8) {
    // SAFETY: The member is all integers.
    let msr = unsafe { &mut guest.cpu().shared().__bindgen_anon_1.msr };
    msr.data = data;
    msr.error = error;
}

fn an_unknown_msr_can_exit_to_the_vmm() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ecx, 0x4f4f4f4f",
            "rdmsr",
            "mov [0x20000], edx",
            "out 0xe1, eax",
            "mov eax, 0x1111",
            "mov edx, 0x2222",
            "wrmsr",
            "hlt"
        ),
    );
    exit_for(&guest, KVM_MSR_EXIT_REASON_UNKNOWN);
    assert_eq!(
        guest.run(),
        Exit::Rdmsr(UNKNOWN, KVM_MSR_EXIT_REASON_UNKNOWN)
    );
    answer(&guest, 0x1234_5678_9abc_def0, 0);
    assert_eq!(guest.run_to_done(), 0x9abc_def0);
    assert_eq!(guest.memory.read::<u32>(DATA), 0x1234_5678);
    let write = Exit::Wrmsr(UNKNOWN, KVM_MSR_EXIT_REASON_UNKNOWN, 0x2222_0000_1111);
    assert_eq!(guest.run(), write);
    answer(&guest, 0, 0);
    guest.run_to_hlt();
}

fn the_vmm_can_make_an_access_fault() {
    let guest = Guest::new(Mode::Long, code!(64, "mov ecx, 0x4f4f4f4f", "wrmsr", "hlt"));
    exit_for(&guest, KVM_MSR_EXIT_REASON_UNKNOWN);
    assert!(matches!(guest.run(), Exit::Wrmsr(UNKNOWN, ..)));
    answer(&guest, 0, 1);
    guest.run_to_exception(13);
    assert_eq!(
        guest.memory.read::<u64>(guest.cpu().regs().rsp + 8),
        CODE + 5
    );
}

/// `KVM_X86_SET_MSR_FILTER` with one range, whose bitmap is the bits of `allow`.
fn set_filter(guest: &Guest, flags: u32, base: u32, count: u32, allow: u64) -> Result {
    let mut bitmap = allow;
    let mut filter = kvm_msr_filter {
        flags,
        ..Default::default()
    };
    filter.ranges[0] = kvm_msr_filter_range {
        flags: KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE,
        nmsrs: count,
        base,
        bitmap: ptr::from_mut(&mut bitmap).cast(),
    };
    guest.vm.ioctl_with(KVM_X86_SET_MSR_FILTER, &mut filter)
}

fn a_filter_denies_by_default() {
    require(KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER");
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ecx, 0xc0000081",
            "rdmsr",
            "out 0xe1, al",
            "inc ecx",
            "rdmsr",
            "hlt"
        ),
    );
    // Only IA32_STAR.
    let set = set_filter(&guest, KVM_MSR_FILTER_DEFAULT_DENY, IA32_STAR, 1, 1);
    assert_eq!(set, Ok(0));
    guest.run_to_done();
    guest.run_to_exception(13);
    // The VMM is not filtered.
    assert_eq!(guest.cpu().msr(IA32_LSTAR), Some(0));
}

fn a_filter_allows_by_its_bitmap() {
    require(KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER");
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ecx, 0xc0000082",
            "wrmsr",
            "out 0xe1, al",
            "inc ecx",
            "wrmsr",
            "hlt"
        ),
    );
    // IA32_CSTAR's bit is clear, its neighbours' and all others are set.
    let set = set_filter(&guest, KVM_MSR_FILTER_DEFAULT_ALLOW, IA32_STAR, 4, 0b1011);
    assert_eq!(set, Ok(0));
    guest.run_to_done();
    guest.run_to_exception(13);
}

fn a_filtered_access_can_exit_to_the_vmm() {
    require(KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER");
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov ecx, 0xc0000082", "rdmsr", "out 0xe1, eax"),
    );
    exit_for(&guest, KVM_MSR_EXIT_REASON_FILTER);
    let set = set_filter(&guest, KVM_MSR_FILTER_DEFAULT_ALLOW, IA32_LSTAR, 1, 0);
    assert_eq!(set, Ok(0));
    assert_eq!(
        guest.run(),
        Exit::Rdmsr(IA32_LSTAR, KVM_MSR_EXIT_REASON_FILTER)
    );
    answer(&guest, 0x4321, 0);
    assert_eq!(guest.run_to_done(), 0x4321);
}

fn a_bad_filter_is_refused() {
    require(KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER");
    let guest = Guest::new(Mode::Long, code!(64, "hlt"));
    assert_eq!(set_filter(&guest, 2, IA32_STAR, 1, 1), Err(EINVAL));
    // Nothing is allowed by default, and nothing by a range.
    let nothing = set_filter(&guest, KVM_MSR_FILTER_DEFAULT_DENY, IA32_STAR, 0, 0);
    assert_eq!(nothing, Err(EINVAL));
    let too_many = set_filter(&guest, 0, IA32_STAR, 0x4000 * 8, 0);
    assert_eq!(too_many, Err(EINVAL));
    let unknown = guest
        .vm
        .enable_cap(KVM_CAP_X86_USER_SPACE_MSR, [1 << 20, 0, 0, 0]);
    assert_eq!(unknown, Err(EINVAL));
}

/// `KVM_X86_REG_MSR(index)`.
fn name_of(index: u32) -> u64 {
    0x2030_0002_0000_0000 | u64::from(index)
}

fn one_reg(guest: &Guest, request: u64, id: u64, value: &mut u64) -> Result {
    let addr = std::ptr::from_mut(value) as u64;
    guest
        .cpu()
        .ioctl_with(request, &mut kvm_one_reg { id, addr })
}

fn an_msr_is_one_register() {
    require(KVM_CAP_ONE_REG, "KVM_CAP_ONE_REG");
    let guest = Guest::new(Mode::Long, code!(64, "hlt"));
    let kernel_gs_base = name_of(0xc000_0102);
    let mut value = 0x1234_5678;
    let set = one_reg(&guest, KVM_SET_ONE_REG, kernel_gs_base, &mut value);
    assert_eq!(set, Ok(0));
    value = 0;
    let get = one_reg(&guest, KVM_GET_ONE_REG, kernel_gs_base, &mut value);
    assert_eq!((get, value), (Ok(0), 0x1234_5678));
}

fn a_name_of_no_register_is_refused() {
    require(KVM_CAP_ONE_REG, "KVM_CAP_ONE_REG");
    let guest = Guest::new(Mode::Long, code!(64, "hlt"));
    let good = name_of(0xc000_0102);
    // Another architecture, another size, another type.
    for bit in [60, 52, 32, 40] {
        let id = good ^ (1 << bit);
        let get = one_reg(&guest, KVM_GET_ONE_REG, id, &mut 0);
        assert_eq!(get, Err(EINVAL), "{id:#x}");
    }
}

fn without_shadow_stacks_kvm_names_no_register() {
    require(KVM_CAP_ONE_REG, "KVM_CAP_ONE_REG");
    // A vCPU without CPUID has none.
    let vm = Vm::new();
    let cpu = vm.vcpu(0);
    // How many there is room for, and then how many there are: `struct kvm_reg_list`.
    let mut list = [1u64, 0];
    assert_eq!(cpu.ioctl_with(KVM_GET_REG_LIST, &mut list), Ok(0));
    assert_eq!(list[0], 0);
}

fn unknown_msrs_can_be_ignored() {
    const PARAMETER: &str = "/sys/module/kvm/parameters/ignore_msrs";
    /// Puts the parameter back.
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = std::fs::write(PARAMETER, "N");
        }
    }
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ecx, 0x12345",
            "mov eax, 7",
            "mov edx, 7",
            "wrmsr",
            "rdmsr",
            "or eax, edx",
            "out 0xe1, eax",
            "hlt"
        ),
    );
    std::fs::write(PARAMETER, "Y").expect("ignore_msrs");
    let _restore = Restore;
    assert_eq!(guest.run_to_done(), 0);
}

fn a_guest_learns_that_it_was_stopped() {
    require(KVM_CAP_KVMCLOCK_CTRL, "KVM_CAP_KVMCLOCK_CTRL");
    const SYSTEM_TIME: u32 = 0x4b56_4d01;
    const FLAGS: u64 = DATA + 29;
    const STOPPED: u8 = 1 << 1;
    let guest = Guest::new(Mode::Long, code!(64, "2:", "hlt", "jmp 2b"));
    let stop = || guest.cpu().ioctl(KVM_KVMCLOCK_CTRL, 0);
    assert_eq!(stop(), Err(EINVAL), "without a clock");
    assert!(guest.cpu().set_msr(SYSTEM_TIME, DATA | 1));
    assert_eq!(guest.cpu().run(), Exit::Hlt);
    let flags = || guest.memory.read::<u8>(FLAGS);
    assert_eq!(flags() & STOPPED, 0);
    assert_eq!(stop(), Ok(0));
    assert_eq!(guest.cpu().run(), Exit::Hlt);
    assert_eq!(flags() & STOPPED, STOPPED);
    // It is told once.
    guest.memory.write(FLAGS, flags() & !STOPPED);
    assert_eq!(guest.cpu().run(), Exit::Hlt);
    assert_eq!(flags() & STOPPED, 0);
}
