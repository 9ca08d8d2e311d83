// SPDX-License-Identifier: GPL-2.0

//! `KVM_SET_USER_MEMORY_REGION`: its rules, and what guests see of it.

use kvm_bindings::*;
use libc::{
    EEXIST,
    EFAULT,
    EINVAL, //
};
use std::{
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
        DATA,
        MMIO, //
    },
    kvm::*, //
};

group!("memslot":
    alignment_is_a_page,
    a_bad_host_address_is_refused,
    sizes_and_addresses_must_not_wrap,
    slot_numbers_have_a_limit,
    unknown_flags_are_refused,
    overlap_is_refused,
    neighbours_are_no_overlap,
    an_absent_slot_cannot_be_deleted,
    size_and_host_address_are_fixed,
    an_identical_slot_is_accepted,
    a_slot_moves,
    a_move_onto_another_slot_is_refused,
    a_deleted_slot_is_gone,
    read_only_memory_is_read_and_writes_exit,
    a_slot_cannot_turn_read_only,
    many_slots_are_all_found,
    a_guest_without_memory_ends_in_an_internal_error,
    memory_without_a_mapping_fails_the_run,
    slots_change_while_a_vcpu_runs,
    the_same_memory_may_be_in_two_places,
);

const SIZE: u64 = 16 * PAGE;

fn vm_with_slot() -> (Vm, Memory) {
    let vm = Vm::new();
    let memory = Memory::new(2 * SIZE as usize);
    assert_eq!(vm.set_slot(1, 0, SIZE, SIZE, memory.hva()), Ok(0));
    (vm, memory)
}

fn alignment_is_a_page() {
    let vm = Vm::new();
    let memory = Memory::new(2 * SIZE as usize);
    let hva = memory.hva();
    assert_eq!(vm.set_slot(0, 0, 1, SIZE, hva), Err(EINVAL));
    assert_eq!(vm.set_slot(0, 0, 0x800, SIZE, hva), Err(EINVAL));
    assert_eq!(vm.set_slot(0, 0, 0, SIZE + 1, hva), Err(EINVAL));
    assert_eq!(vm.set_slot(0, 0, 0, SIZE, hva + 8), Err(EINVAL));
    assert_eq!(vm.set_slot(0, 0, 0, SIZE, hva), Ok(0));
}

fn a_bad_host_address_is_refused() {
    let vm = Vm::new();
    // The kernel's half, and addresses that are none.
    for hva in [
        0xffff_8000_0000_0000,
        0x8000_0000_0000_0000,
        u64::MAX - 0xfff,
    ] {
        assert_eq!(vm.set_slot(0, 0, 0, PAGE, hva), Err(EINVAL), "{hva:#x}");
    }
    // What is not mapped yet may be mapped later.
    assert_eq!(vm.set_slot(0, 0, 0, PAGE, 0x7000_0000_0000), Ok(0));
}

fn sizes_and_addresses_must_not_wrap() {
    let vm = Vm::new();
    let hva = 0x1000_0000_0000;
    assert_eq!(
        vm.set_slot(0, 0, u64::MAX - 0xfff, 2 * PAGE, hva),
        Err(EINVAL)
    );
    assert_eq!(vm.set_slot(0, 0, 0, 1 << 43, hva), Err(EINVAL));
}

fn slot_numbers_have_a_limit() {
    let vm = Vm::new();
    let memory = Memory::new(PAGE as usize);
    let count = capability(KVM_CAP_NR_MEMSLOTS) as u32;
    assert_eq!(vm.set_slot(count, 0, 0, PAGE, memory.hva()), Err(EINVAL));
    assert_eq!(vm.set_slot(count - 1, 0, 0, PAGE, memory.hva()), Ok(0));
    // The upper half names an address space, which there is one of.
    if capability(KVM_CAP_MULTI_ADDRESS_SPACE) <= 1 {
        assert_eq!(vm.set_slot(1 << 16, 0, 0, PAGE, memory.hva()), Err(EINVAL));
    }
    assert_eq!(vm.set_slot(3 << 16, 0, 0, PAGE, memory.hva()), Err(EINVAL));
}

fn unknown_flags_are_refused() {
    let vm = Vm::new();
    let memory = Memory::new(PAGE as usize);
    // crosvm finds out by bit 3 that this is not ChromeOS.
    for flags in [1 << 3, 1 << 4, 1 << 31] {
        assert_eq!(
            vm.set_slot(0, flags, 0, PAGE, memory.hva()),
            Err(EINVAL),
            "{flags:#x}"
        );
    }
    let flags = KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY;
    assert_eq!(vm.set_slot(0, flags, 0, PAGE, memory.hva()), Ok(0));
}

fn overlap_is_refused() {
    let (vm, memory) = vm_with_slot();
    let hva = memory.hva();
    for (gpa, size) in [
        (SIZE, SIZE),
        (SIZE, PAGE),
        (0, SIZE + PAGE),
        (2 * SIZE - PAGE, SIZE),
        (SIZE + PAGE, PAGE),
    ] {
        assert_eq!(
            vm.set_slot(2, 0, gpa, size, hva),
            Err(EEXIST),
            "{gpa:#x}+{size:#x}"
        );
    }
}

fn neighbours_are_no_overlap() {
    let (vm, memory) = vm_with_slot();
    assert_eq!(vm.set_slot(2, 0, 0, SIZE, memory.hva()), Ok(0));
    assert_eq!(vm.set_slot(3, 0, 2 * SIZE, SIZE, memory.hva()), Ok(0));
}

fn an_absent_slot_cannot_be_deleted() {
    let (vm, memory) = vm_with_slot();
    assert_eq!(vm.set_slot(2, 0, 0, 0, 0), Err(EINVAL));
    assert_eq!(vm.set_slot(1, 0, 0, 0, memory.hva()), Ok(0));
    assert_eq!(vm.set_slot(1, 0, 0, 0, memory.hva()), Err(EINVAL));
}

fn size_and_host_address_are_fixed() {
    let (vm, memory) = vm_with_slot();
    let hva = memory.hva();
    assert_eq!(vm.set_slot(1, 0, SIZE, SIZE - PAGE, hva), Err(EINVAL));
    assert_eq!(vm.set_slot(1, 0, SIZE, SIZE + PAGE, hva), Err(EINVAL));
    assert_eq!(vm.set_slot(1, 0, SIZE, SIZE, hva + PAGE), Err(EINVAL));
}

fn an_identical_slot_is_accepted() {
    let (vm, memory) = vm_with_slot();
    assert_eq!(vm.set_slot(1, 0, SIZE, SIZE, memory.hva()), Ok(0));
}

/// A guest that tells the byte at a linear address in EBX, again and again.
fn reader() -> Guest {
    let guest = Guest::new(
        Mode::Protected,
        code!(32, "2:", "mov al, [ebx]", "out 0xe1, al", "jmp 2b"),
    );
    let mut regs = guest.cpu().regs();
    regs.rbx = MMIO;
    guest.cpu().set_regs(&regs);
    guest
}

fn a_slot_moves() {
    let guest = reader();
    let memory = Memory::new(SIZE as usize);
    memory.write::<u8>(0, 0x5a);
    guest.vm.map(1, MMIO, &memory);
    assert_eq!(guest.run_to_done(), 0x5a);
    let moved = guest.vm.set_slot(1, 0, MMIO + SIZE, SIZE, memory.hva());
    assert_eq!(moved, Ok(0));
    assert_eq!(guest.run(), Exit::MmioRead(MMIO, 1));
    guest.cpu().set_mmio(7);
    assert_eq!(guest.run_to_done(), 7);
    let back = guest.vm.set_slot(1, 0, MMIO, SIZE, memory.hva());
    assert_eq!(back, Ok(0));
    assert_eq!(guest.run_to_done(), 0x5a);
}

fn a_move_onto_another_slot_is_refused() {
    let (vm, memory) = vm_with_slot();
    assert_eq!(vm.set_slot(2, 0, 4 * SIZE, SIZE, memory.hva()), Ok(0));
    let moved = vm.set_slot(2, 0, 2 * SIZE - PAGE, SIZE, memory.hva());
    assert_eq!(moved, Err(EEXIST));
    assert_eq!(
        vm.set_slot(2, 0, 4 * SIZE + PAGE, SIZE, memory.hva()),
        Ok(0)
    );
}

fn a_deleted_slot_is_gone() {
    let guest = reader();
    let memory = Memory::new(SIZE as usize);
    memory.write::<u8>(0, 0x5a);
    guest.vm.map(1, MMIO, &memory);
    assert_eq!(guest.run_to_done(), 0x5a);
    assert_eq!(guest.vm.set_slot(1, 0, MMIO, 0, memory.hva()), Ok(0));
    drop(memory);
    assert_eq!(guest.run(), Exit::MmioRead(MMIO, 1));
    guest.cpu().set_mmio(0x33);
    assert_eq!(guest.run_to_done(), 0x33);
}

fn read_only_memory_is_read_and_writes_exit() {
    let guest = Guest::new(
        Mode::Protected,
        code!(
            32,
            "mov ebx, 0x10000000",
            "mov al, [ebx]",
            "out 0xe1, al",
            "mov dword ptr [ebx + 4], 0x11223344",
            "mov eax, [ebx + 4]",
            "out 0xe1, eax",
            "hlt"
        ),
    );
    let memory = Memory::new(PAGE as usize);
    memory.write::<u8>(0, 0x77);
    memory.write::<u32>(4, 0x5555_5555);
    let set = guest
        .vm
        .set_slot(1, KVM_MEM_READONLY, MMIO, PAGE, memory.hva());
    assert_eq!(set, Ok(0));
    assert_eq!(guest.run_to_done(), 0x77);
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 4, 4, 0x1122_3344));
    assert_eq!(guest.run_to_done(), 0x5555_5555);
    guest.run_to_hlt();
    assert_eq!(memory.read::<u32>(4), 0x5555_5555);
}

fn a_slot_cannot_turn_read_only() {
    let (vm, memory) = vm_with_slot();
    let turn = vm.set_slot(1, KVM_MEM_READONLY, SIZE, SIZE, memory.hva());
    assert_eq!(turn, Err(EINVAL));
}

fn many_slots_are_all_found() {
    const COUNT: u64 = 400;
    let guest = Guest::new(
        Mode::Protected,
        code!(
            32,
            "mov ebx, 0x10000000",
            "mov ecx, 400",
            "xor edx, edx",
            "2:",
            "add edx, [ebx]",
            "add ebx, 0x2000",
            "loop 2b",
            "mov eax, edx",
            "out 0xe1, eax",
            "hlt"
        ),
    );
    let memory = Memory::new((COUNT * PAGE) as usize);
    // In an order that is neither up nor down.
    for i in (0..COUNT).map(|i| i * 171 % COUNT) {
        memory.write::<u32>(i * PAGE, i as u32 + 1);
        let gpa = MMIO + 2 * i * PAGE;
        let set = guest
            .vm
            .set_slot(i as u32 + 1, 0, gpa, PAGE, memory.hva() + i * PAGE);
        assert_eq!(set, Ok(0));
    }
    let sum = COUNT * (COUNT + 1) / 2;
    assert_eq!(u64::from(guest.run_to_done()), sum);
    // Half of them go; the rest stays.
    for i in (0..COUNT).step_by(2) {
        let gpa = MMIO + 2 * i * PAGE;
        assert_eq!(guest.vm.set_slot(i as u32 + 1, 0, gpa, 0, 0), Ok(0));
    }
    guest.restart(code!(
        32,
        "mov eax, [0x10002000]",
        "out 0xe1, eax",
        "mov eax, [0x10000000]"
    ));
    assert_eq!(guest.run_to_done(), 2);
    assert_eq!(guest.run(), Exit::MmioRead(MMIO, 4));
}

fn a_guest_without_memory_ends_in_an_internal_error() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    assert!(matches!(vcpu.run(), Exit::InternalError(..)));
}

fn memory_without_a_mapping_fails_the_run() {
    let guest = reader();
    let memory = Memory::new(PAGE as usize);
    guest.vm.map(1, MMIO, &memory);
    drop(memory);
    assert_eq!(guest.cpu().try_run(), Err(EFAULT));
}

fn slots_change_while_a_vcpu_runs() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "sti",
            "2:",
            "inc qword ptr [0x20000]",
            "mov rax, [0x20008]",
            "test rax, rax",
            "jz 2b",
            "out 0xe1, eax",
            "hlt"
        ),
    );
    let memory = Memory::new(SIZE as usize);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut rounds = 0u64;
            while rounds < 50 || guest.memory.poll(DATA) < 1000 {
                let gpa = MMIO + (rounds % 7) * SIZE;
                assert_eq!(guest.vm.set_slot(5, 0, gpa, SIZE, memory.hva()), Ok(0));
                assert_eq!(guest.vm.set_slot(5, 0, gpa, 0, 0), Ok(0));
                rounds += 1;
            }
            is_done.store(true, Ordering::Relaxed);
            guest.memory.write::<u64>(DATA + 8, 1);
        });
        assert_eq!(guest.run_to_done(), 1);
        assert!(is_done.load(Ordering::Relaxed));
    });
}

fn the_same_memory_may_be_in_two_places() {
    let guest = Guest::new(
        Mode::Protected,
        code!(
            32,
            "mov dword ptr [0x10000010], 0xabcd1234",
            "mov eax, [0x10100010]",
            "out 0xe1, eax",
            "hlt"
        ),
    );
    let memory = Memory::new(PAGE as usize);
    guest.vm.map(1, MMIO, &memory);
    guest.vm.map(2, MMIO + 0x10_0000, &memory);
    assert_eq!(guest.run_to_done(), 0xabcd_1234);
}
