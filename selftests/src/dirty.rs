// SPDX-License-Identifier: GPL-2.0

//! `KVM_GET_DIRTY_LOG`: which pages of a slot were written.

use kvm_bindings::*;
use libc::{
    EFAULT,
    EINVAL,
    ENOENT, //
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
    ioctl::*,
    kvm::*, //
};

group!("dirty":
    a_slot_without_the_flag_has_no_log,
    a_bad_slot_or_bitmap_is_refused,
    writes_are_logged_once,
    reads_are_not_logged,
    the_flag_can_be_set_while_the_guest_lives,
    pages_mapped_before_the_flag_are_logged,
    emulated_writes_are_logged,
    string_input_is_logged,
    exception_frames_are_logged,
    more_pages_than_a_hardware_buffer_holds,
    huge_mappings_are_logged_by_the_page,
    writes_by_page_table_walks_are_logged,
    two_slots_have_two_logs,
    copies_of_a_running_guest_miss_no_write,
);

const PAGES: u64 = 64;

/// A guest with a slot of 64 pages at [`MMIO`].
fn logged(code: &[u8], flags: u32) -> (Guest, Memory) {
    let guest = Guest::new(Mode::Long, code);
    let memory = Memory::new((PAGES * PAGE) as usize);
    let set = guest
        .vm
        .set_slot(1, flags, MMIO, PAGES * PAGE, memory.hva());
    assert_eq!(set, Ok(0));
    (guest, memory)
}

/// Writes pages 1, 5 and 63, and tells; again and again.
fn writer() -> &'static [u8] {
    code!(
        64,
        "2:",
        "inc dword ptr [0x10001000]",
        "inc dword ptr [0x10005ffc]",
        "inc dword ptr [0x1003f800]",
        "out 0xe1, al",
        "jmp 2b"
    )
}

const WRITTEN: u64 = (1 << 1) | (1 << 5) | (1 << 63);

fn a_slot_without_the_flag_has_no_log() {
    let (guest, _memory) = logged(writer(), 0);
    assert_eq!(guest.vm.dirty_log(1), Err(ENOENT));
}

fn a_bad_slot_or_bitmap_is_refused() {
    let (guest, _memory) = logged(writer(), KVM_MEM_LOG_DIRTY_PAGES);
    assert_eq!(guest.vm.dirty_log(40_000), Err(EINVAL));
    assert_eq!(guest.vm.dirty_log(3 << 16), Err(EINVAL));
    assert_eq!(guest.vm.dirty_log(2), Err(ENOENT));
    let mut log = kvm_dirty_log {
        slot: 1,
        ..Default::default()
    };
    log.__bindgen_anon_1.dirty_bitmap = std::ptr::without_provenance_mut(8);
    assert_eq!(
        guest.vm.ioctl_with(KVM_GET_DIRTY_LOG, &mut log),
        Err(EFAULT)
    );
}

fn writes_are_logged_once() {
    let (guest, _memory) = logged(writer(), KVM_MEM_LOG_DIRTY_PAGES);
    assert_eq!(guest.vm.dirty_log(1), Ok(0));
    for _ in 0..3 {
        guest.run_to_done();
        guest.run_to_done();
        assert_eq!(guest.vm.dirty_log(1), Ok(WRITTEN));
        assert_eq!(guest.vm.dirty_log(1), Ok(0));
    }
}

fn reads_are_not_logged() {
    let code = code!(
        64,
        "2:",
        "mov eax, [0x10001000]",
        "cmp [0x10005000], eax",
        "out 0xe1, al",
        "jmp 2b"
    );
    let (guest, memory) = logged(code, KVM_MEM_LOG_DIRTY_PAGES);
    memory.write::<u32>(PAGE, 1);
    guest.run_to_done();
    // Upstream maps such a page writable at the first access, and logs it then;
    // no page that was not touched may be there, and none a second time.
    let first = guest.vm.dirty_log(1).expect("KVM_GET_DIRTY_LOG");
    assert_eq!(first & !((1 << 1) | (1 << 5)), 0);
    guest.run_to_done();
    // The process's own writes are none of the guest's.
    memory.write::<u32>(2 * PAGE, 1);
    guest.run_to_done();
    assert_eq!(guest.vm.dirty_log(1), Ok(0));
}

fn set_flags(guest: &Guest, memory: &Memory, flags: u32) {
    let set = guest
        .vm
        .set_slot(1, flags, MMIO, PAGES * PAGE, memory.hva());
    assert_eq!(set, Ok(0));
}

fn the_flag_can_be_set_while_the_guest_lives() {
    let (guest, memory) = logged(writer(), 0);
    guest.run_to_done();
    set_flags(&guest, &memory, KVM_MEM_LOG_DIRTY_PAGES);
    guest.run_to_done();
    assert_eq!(guest.vm.dirty_log(1), Ok(WRITTEN));
    set_flags(&guest, &memory, 0);
    guest.run_to_done();
    assert_eq!(guest.vm.dirty_log(1), Err(ENOENT));
    set_flags(&guest, &memory, KVM_MEM_LOG_DIRTY_PAGES);
    assert_eq!(guest.vm.dirty_log(1), Ok(0));
}

fn pages_mapped_before_the_flag_are_logged() {
    let (guest, memory) = logged(writer(), 0);
    for _ in 0..5 {
        guest.run_to_done();
    }
    set_flags(&guest, &memory, KVM_MEM_LOG_DIRTY_PAGES);
    assert_eq!(guest.vm.dirty_log(1), Ok(0));
    guest.run_to_done();
    assert_eq!(guest.vm.dirty_log(1), Ok(WRITTEN));
    assert_eq!(memory.read::<u32>(PAGE), 6);
}

fn emulated_writes_are_logged() {
    // MOVS from memory that is not there.
    let code = code!(
        64,
        "mov esi, 0x20000000",
        "mov edi, 0x10007000",
        "movsd",
        "hlt"
    );
    let (guest, memory) = logged(code, KVM_MEM_LOG_DIRTY_PAGES);
    assert_eq!(guest.run(), Exit::MmioRead(0x2000_0000, 4));
    guest.cpu().set_mmio(0x1357);
    guest.run_to_hlt();
    assert_eq!(memory.read::<u32>(7 * PAGE), 0x1357);
    assert_eq!(guest.vm.dirty_log(1), Ok(1 << 7));
}

fn string_input_is_logged() {
    let code = code!(64, "mov edi, 0x10003000", "mov dx, 0x1234", "insb", "hlt");
    let (guest, memory) = logged(code, KVM_MEM_LOG_DIRTY_PAGES);
    assert_eq!(guest.run(), Exit::In(0x1234, 1, 1));
    guest.cpu().set_io_bytes(&[0x42]);
    guest.run_to_hlt();
    assert_eq!(memory.read::<u8>(3 * PAGE), 0x42);
    assert_eq!(guest.vm.dirty_log(1), Ok(1 << 3));
}

fn exception_frames_are_logged() {
    let (guest, _memory) = logged(code!(64, "ud2"), KVM_MEM_LOG_DIRTY_PAGES);
    let mut regs = guest.cpu().regs();
    regs.rsp = MMIO + 9 * PAGE;
    guest.cpu().set_regs(&regs);
    guest.run_to_exception(6);
    assert_eq!(guest.vm.dirty_log(1), Ok(1 << 8));
}

/// A log of any length.
fn long_log(guest: &Guest, slot: u32, pages: usize) -> Vec<u64> {
    let mut bitmap = vec![0u64; pages.div_ceil(64)];
    let mut log = kvm_dirty_log {
        slot,
        ..Default::default()
    };
    log.__bindgen_anon_1.dirty_bitmap = bitmap.as_mut_ptr().cast();
    assert_eq!(guest.vm.ioctl_with(KVM_GET_DIRTY_LOG, &mut log), Ok(0));
    bitmap
}

/// Writes every second page of 2048 from [`MMIO`] on.
fn many_writer() -> Guest {
    Guest::new(
        Mode::Long,
        code!(
            64,
            "2:",
            "mov ebx, 0x10000000",
            "mov ecx, 1024",
            "3:",
            "mov [rbx], ecx",
            "add ebx, 0x2000",
            "loop 3b",
            "out 0xe1, al",
            "jmp 2b"
        ),
    )
}

fn more_pages_than_a_hardware_buffer_holds() {
    let guest = many_writer();
    let memory = Memory::new(2048 * PAGE as usize);
    let flags = KVM_MEM_LOG_DIRTY_PAGES;
    let set = guest.vm.set_slot(1, flags, MMIO, 2048 * PAGE, memory.hva());
    assert_eq!(set, Ok(0));
    for _ in 0..2 {
        guest.run_to_done();
        let log = long_log(&guest, 1, 2048);
        assert!(
            log.iter().all(|word| *word == 0x5555_5555_5555_5555),
            "{log:x?}"
        );
    }
}

fn huge_mappings_are_logged_by_the_page() {
    let guest = many_writer();
    let memory = Memory::aligned(2048 * PAGE as usize, 2 << 20);
    // SAFETY: The range is the test's own mapping; a refusal does no harm.
    unsafe { libc::madvise(memory.as_ptr().cast(), memory.len(), libc::MADV_HUGEPAGE) };
    guest.vm.map(1, MMIO, &memory);
    guest.run_to_done();
    let size = 2048 * PAGE;
    let set = |flags| guest.vm.set_slot(1, flags, MMIO, size, memory.hva());
    assert_eq!(set(KVM_MEM_LOG_DIRTY_PAGES), Ok(0));
    guest.run_to_done();
    let log = long_log(&guest, 1, 2048);
    assert!(
        log.iter().all(|word| *word == 0x5555_5555_5555_5555),
        "{log:x?}"
    );
    // Without the log the guest may have its huge pages back.
    assert_eq!(set(0), Ok(0));
    guest.run_to_done();
}

fn writes_by_page_table_walks_are_logged() {
    // A new page table in the logged slot: its accessed bit is written by the CPU.
    let code = code!(
        64,
        "mov rbx, 0x8000000000",
        "mov eax, [rbx]",
        "out 0xe1, eax"
    );
    let (guest, memory) = logged(code, KVM_MEM_LOG_DIRTY_PAGES);
    let pml4 = crate::guest::PML4;
    guest.memory.write::<u64>(pml4 + 8, (MMIO + 2 * PAGE) | 7);
    memory.write::<u64>(2 * PAGE, (MMIO + 3 * PAGE) | 7);
    memory.write::<u64>(3 * PAGE, 0x87); // A page of 2 MiB at 0.
    guest.memory.write::<u32>(0, 0x2468);
    assert_eq!(guest.run_to_done(), 0x2468);
    assert_eq!(memory.read::<u64>(2 * PAGE) & 0x20, 0x20);
    assert_eq!(guest.vm.dirty_log(1), Ok((1 << 2) | (1 << 3)));
}

fn two_slots_have_two_logs() {
    let code = code!(
        64,
        "mov dword ptr [0x10001000], 1",
        "mov dword ptr [0x20002000], 1",
        "out 0xe1, al",
        "hlt"
    );
    let (guest, _first) = logged(code, KVM_MEM_LOG_DIRTY_PAGES);
    let second = Memory::new((PAGES * PAGE) as usize);
    let flags = KVM_MEM_LOG_DIRTY_PAGES;
    let set = guest
        .vm
        .set_slot(7, flags, 0x2000_0000, PAGES * PAGE, second.hva());
    assert_eq!(set, Ok(0));
    guest.run_to_done();
    assert_eq!(guest.vm.dirty_log(1), Ok(1 << 1));
    assert_eq!(guest.vm.dirty_log(7), Ok(1 << 2));
}

/// Migrates 64 pages of a guest that writes them all the time: what was copied because the log said so,
/// the last time after the guest has stopped, is what the guest has.
fn copies_of_a_running_guest_miss_no_write() {
    const STOP: u64 = DATA + 8;
    let code = code!(
        64,
        "sti",
        "2:",
        "mov rbx, 0x10000000",
        "mov ecx, 64",
        "3:",
        "inc qword ptr [rbx]",
        "add rbx, 0x1000",
        "loop 3b",
        "inc qword ptr [0x20000]",
        "cmp qword ptr [0x20008], 0",
        "je 2b",
        "hlt"
    );
    let (guest, memory) = logged(code, 0);
    let mut copy = [0; PAGES as usize];
    let mut take = |log: u64| {
        for (page, copy) in (0..).zip(&mut copy) {
            if log & (1 << page) != 0 {
                *copy = memory.poll(page * PAGE);
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| guest.run_to_hlt());
        while guest.memory.poll(DATA) < 10 {
            std::thread::yield_now();
        }
        // The pages are mapped already when the log begins.
        let set = guest
            .vm
            .set_slot(1, KVM_MEM_LOG_DIRTY_PAGES, MMIO, PAGES * PAGE, memory.hva());
        assert_eq!(set, Ok(0));
        take(u64::MAX);
        for _ in 0..100 {
            take(guest.vm.dirty_log(1).expect("KVM_GET_DIRTY_LOG"));
            let before = guest.memory.poll(DATA);
            while guest.memory.poll(DATA) == before {
                std::thread::yield_now();
            }
        }
        guest.memory.write::<u64>(STOP, 1);
    });
    take(guest.vm.dirty_log(1).expect("KVM_GET_DIRTY_LOG"));
    for (page, copy) in (0..).zip(copy) {
        assert_eq!(copy, memory.poll(page * PAGE), "page {page}");
    }
}
