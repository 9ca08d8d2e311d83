// SPDX-License-Identifier: GPL-2.0

//! What the process does to its memory while a guest uses it.

use std::{
    os::fd::OwnedFd,
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
    harness::skip,
    ioctl::errno,
    kvm::*, //
};

group!("host_memory":
    pages_are_taken_when_they_are_touched,
    munmap_takes_the_pages_away,
    munmap_under_a_running_guest,
    madvise_dontneed_gives_zeroes,
    mremap_takes_the_pages_along,
    mprotect_makes_writes_fail,
    fork_leaves_the_guest_its_pages,
    the_guest_sees_the_processs_writes,
    shared_memory_is_shared,
    a_read_of_fresh_memory_is_zero,
    huge_pages_are_used_and_split,
    memory_beyond_4_gib_is_reached,
    a_mapping_over_the_old_one_is_seen,
    memory_that_a_driver_mapped_is_the_guests,
);

/// The buffer of an event of perf, which counts nothing: two pages, which the kernel maps by their
/// frames (`VM_PFNMAP`).
fn perf_buffer() -> (OwnedFd, Memory) {
    const PERF_TYPE_SOFTWARE: u64 = 1;
    const SIZE: u64 = 64;
    const PERF_COUNT_SW_DUMMY: u64 = 9;
    let mut attr = [
        PERF_TYPE_SOFTWARE | (SIZE << 32),
        PERF_COUNT_SW_DUMMY,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let attr = attr.as_mut_ptr();
    // SAFETY: `attr` has the size that it tells; the rest is plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, attr, 0, -1, -1, 0) };
    if fd == -1 {
        skip("no perf events");
    }
    let event = own(fd as i32);
    let memory = Memory::of_file(&event, 0, 2 * PAGE as usize, libc::MAP_SHARED);
    (event, memory.expect("mmap of a perf event"))
}

fn memory_that_a_driver_mapped_is_the_guests() {
    // In the first page, which may be written: who has read how far, and how large the rest is.
    const DATA_TAIL: u64 = 1032;
    let (event, buffer) = perf_buffer();
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "2:",
            "mov eax, [0x10000000 + 1048]",
            "out 0xe1, eax",
            "mov dword ptr [0x10000000 + 1032], 0x5555",
            "out 0xe1, eax",
            "jmp 2b"
        ),
    );
    assert_eq!(guest.vm.set_slot(1, 0, MMIO, PAGE, buffer.hva()), Ok(0));
    assert_eq!(u64::from(guest.run_to_done()), PAGE);
    guest.run_to_done();
    assert_eq!(buffer.read::<u64>(DATA_TAIL), 0x5555);
    drop(buffer);
    drop(event);
    assert_eq!(guest.cpu().try_run(), Err(libc::EFAULT));
}

/// A guest that adds up `count` words, one in each page from [`MMIO`] on, and
/// tells the sum; again and again.
fn summer(pages: u32) -> (Guest, Memory) {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "2:",
            "mov ebx, 0x10000000",
            "mov ecx, [0x20000]",
            "xor eax, eax",
            "3:",
            "add eax, [rbx]",
            "add ebx, 0x1000",
            "loop 3b",
            "out 0xe1, eax",
            "jmp 2b"
        ),
    );
    guest.memory.write(DATA, pages);
    let memory = Memory::new(pages as usize * PAGE as usize);
    guest.vm.map(1, MMIO, &memory);
    (guest, memory)
}

/// A system call on part of a guest's memory; fails the test when it fails.
fn check(result: i32) {
    assert_eq!(result, 0, "errno {}", errno());
}

/// How many of the pages are in memory.
fn resident(memory: &Memory) -> usize {
    let mut map = vec![0u8; memory.len() / PAGE as usize];
    // SAFETY: The range is a mapping, and the vector has a byte for each page.
    check(unsafe { libc::mincore(memory.as_ptr().cast(), memory.len(), map.as_mut_ptr()) });
    map.iter().filter(|byte| **byte & 1 == 1).count()
}

fn pages_are_taken_when_they_are_touched() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov dword ptr [0x10005000], 1",
            "mov dword ptr [0x1000a000], 1",
            "hlt"
        ),
    );
    let memory = Memory::new(16 * PAGE as usize);
    guest.vm.map(1, MMIO, &memory);
    assert_eq!(resident(&memory), 0);
    guest.run_to_hlt();
    assert_eq!(resident(&memory), 2);
}

fn munmap_takes_the_pages_away() {
    let (guest, memory) = summer(4);
    memory.write::<u32>(PAGE, 5);
    assert_eq!(guest.run_to_done(), 5);
    // SAFETY: The page is in the test's own mapping.
    check(unsafe { libc::munmap(memory.as_ptr().add(PAGE as usize).cast(), PAGE as usize) });
    assert_eq!(guest.cpu().try_run(), Err(libc::EFAULT));
}

fn munmap_under_a_running_guest() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "sti",
            "2:",
            "mov ebx, 0x10000000",
            "mov ecx, 16",
            "3:",
            "inc dword ptr [rbx]",
            "add ebx, 0x1000",
            "loop 3b",
            "inc qword ptr [0x20000]",
            "jmp 2b"
        ),
    );
    let memory = Memory::new(16 * PAGE as usize);
    guest.vm.map(1, MMIO, &memory);
    thread::scope(|scope| {
        let counter = &guest.memory;
        scope.spawn(|| {
            while counter.poll(DATA) < 10 {
                thread::yield_now();
            }
            // SAFETY: The pages are in the test's own mapping.
            check(unsafe { libc::munmap(memory.as_ptr().cast(), 8 * PAGE as usize) });
        });
        assert_eq!(guest.cpu().run_raw(), Err(libc::EFAULT));
    });
    assert!(guest.memory.poll(DATA) >= 10);
}

fn madvise_dontneed_gives_zeroes() {
    let (guest, memory) = summer(4);
    for page in 0..4 {
        memory.write::<u32>(page * PAGE, 1);
    }
    assert_eq!(guest.run_to_done(), 4);
    // SAFETY: The page is in the test's own mapping.
    check(unsafe {
        let page = memory.as_ptr().add(2 * PAGE as usize);
        libc::madvise(page.cast(), PAGE as usize, libc::MADV_DONTNEED)
    });
    assert_eq!(guest.run_to_done(), 3);
    memory.write::<u32>(2 * PAGE, 10);
    assert_eq!(guest.run_to_done(), 13);
}

fn mremap_takes_the_pages_along() {
    let (guest, memory) = summer(2);
    memory.write::<u32>(0, 7);
    assert_eq!(guest.run_to_done(), 7);
    // The page goes elsewhere; the guest must not see it any more.
    let place = Memory::new(PAGE as usize);
    // SAFETY: Both ranges are the test's own.
    let moved = unsafe {
        libc::mremap(
            memory.as_ptr().cast(),
            PAGE as usize,
            PAGE as usize,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            place.as_ptr(),
        )
    };
    assert_eq!(moved.cast::<u8>(), place.as_ptr());
    assert_eq!(place.read::<u32>(0), 7);
    assert_eq!(guest.cpu().try_run(), Err(libc::EFAULT));
}

fn mprotect_makes_writes_fail() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov eax, [0x10000000]",
            "out 0xe1, eax",
            "mov eax, [0x10000000]",
            "out 0xe1, eax",
            "mov dword ptr [0x10000000], 1",
            "hlt"
        ),
    );
    let memory = Memory::new(PAGE as usize);
    memory.write::<u32>(0, 3);
    guest.vm.map(1, MMIO, &memory);
    assert_eq!(guest.run_to_done(), 3);
    // SAFETY: The range is the test's own mapping.
    check(unsafe { libc::mprotect(memory.as_ptr().cast(), PAGE as usize, libc::PROT_READ) });
    assert_eq!(guest.run_to_done(), 3);
    assert_eq!(guest.cpu().try_run(), Err(libc::EFAULT));
    assert_eq!(memory.read::<u32>(0), 3);
}

fn fork_leaves_the_guest_its_pages() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "2:",
            "inc dword ptr [0x10000000]",
            "out 0xe1, al",
            "jmp 2b"
        ),
    );
    let memory = Memory::new(PAGE as usize);
    guest.vm.map(1, MMIO, &memory);
    guest.run_to_done();
    let mut pipe = [0; 2];
    // SAFETY: pipe() fills the array in.
    check(unsafe { libc::pipe(pipe.as_mut_ptr()) });
    // SAFETY: fork() in a process with one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // The child's copy must stay as it was, whatever the guest writes.
        let mut byte = 0u8;
        // SAFETY: Reads one byte into a local, then ends the child.
        unsafe {
            libc::read(pipe[0], std::ptr::from_mut(&mut byte).cast(), 1);
            libc::_exit(i32::from(memory.read::<u32>(0) != 1));
        }
    }
    guest.run_to_done();
    // And the parent must see it.
    assert_eq!(memory.read::<u32>(0), 2);
    let mut status = 0;
    // SAFETY: Writes one byte of a constant, and waits for the child.
    unsafe {
        libc::write(pipe[1], b"x".as_ptr().cast(), 1);
        libc::waitpid(pid, &mut status, 0);
    }
    assert_eq!(status, 0, "the child saw the guest's write");
}

fn the_guest_sees_the_processs_writes() {
    let (guest, memory) = summer(2);
    for value in [1, 2, 3] {
        memory.write::<u32>(0, value);
        memory.write::<u32>(PAGE, 10 * value);
        assert_eq!(guest.run_to_done(), 11 * value);
    }
}

fn shared_memory_is_shared() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov dword ptr [0x10000000], 0x77",
            "mov eax, [0x10000004]",
            "out 0xe1, eax"
        ),
    );
    // SAFETY: The name is a constant string.
    let fd = own(unsafe { libc::memfd_create(c"guest".as_ptr(), 0) });
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    // SAFETY: Numbers only; then two new mappings.
    let [first, second] = unsafe {
        check(libc::ftruncate(raw, PAGE as i64));
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let map = || {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE as usize,
                access,
                libc::MAP_SHARED,
                raw,
                0,
            )
            .cast::<u32>()
        };
        [map(), map()]
    };
    // SAFETY: Both mappings are a page long.
    unsafe { second.add(1).write_volatile(0x88) };
    assert_eq!(guest.vm.set_slot(1, 0, MMIO, PAGE, first as u64), Ok(0));
    assert_eq!(guest.run_to_done(), 0x88);
    // SAFETY: As above.
    assert_eq!(unsafe { second.read_volatile() }, 0x77);
}

fn a_read_of_fresh_memory_is_zero() {
    let (guest, memory) = summer(64);
    assert_eq!(guest.run_to_done(), 0);
    // Those were reads of the zero page; now there are pages of its own.
    for page in 0..64 {
        memory.write::<u32>(page * PAGE, page as u32);
    }
    assert_eq!(guest.run_to_done(), 63 * 64 / 2);
}

fn huge_pages_are_used_and_split() {
    const HUGE: usize = 2 << 20;
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "2:",
            "mov ebx, 0x10000000",
            "mov ecx, 1024",
            "xor eax, eax",
            "3:",
            "add eax, [rbx]",
            "mov [rbx + 4], ecx",
            "add ebx, 0x1000",
            "loop 3b",
            "out 0xe1, eax",
            "jmp 2b"
        ),
    );
    let memory = Memory::aligned(2 * HUGE, HUGE);
    // SAFETY: The range is the test's own mapping. Where there are no huge pages,
    // the call fails, and the test goes on with small ones.
    unsafe { libc::madvise(memory.as_ptr().cast(), memory.len(), libc::MADV_HUGEPAGE) };
    for page in 0..1024 {
        memory.write::<u32>(page * PAGE, page as u32);
    }
    guest.vm.map(1, MMIO, &memory);
    let sum = 1023 * 1024 / 2;
    assert_eq!(guest.run_to_done(), sum);
    // A hole in the middle of the first one.
    // SAFETY: The page is in the test's own mapping.
    check(unsafe {
        let page = memory.as_ptr().add(100 * PAGE as usize);
        libc::madvise(page.cast(), PAGE as usize, libc::MADV_DONTNEED)
    });
    assert_eq!(guest.run_to_done(), sum - 100);
    assert_eq!(memory.read::<u32>(100 * PAGE + 4), 1024 - 100);
    assert_eq!(memory.read::<u32>(1023 * PAGE + 4), 1);
}

fn memory_beyond_4_gib_is_reached() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            // The last entry of the PDPT maps 1 GiB at 511 GiB to 5 GiB.
            "mov rbx, 0x7fc0000000",
            "mov eax, [rbx]",
            "mov dword ptr [rbx + 8], 0x66",
            "out 0xe1, eax",
            "hlt"
        ),
    );
    let memory = Memory::new(PAGE as usize);
    memory.write::<u32>(0, 0x99);
    guest.vm.map(1, 5 << 30, &memory);
    let pdpt = crate::guest::PML4 + PAGE;
    guest
        .memory
        .write::<u64>(pdpt + 8 * 511, crate::guest::PML4 + 0xd000 + 7);
    guest
        .memory
        .write::<u64>(crate::guest::PML4 + 0xd000, (5 << 30) | 0x87);
    assert_eq!(guest.run_to_done(), 0x99);
    guest.run_to_hlt();
    assert_eq!(memory.read::<u32>(8), 0x66);
}

fn a_mapping_over_the_old_one_is_seen() {
    let (guest, memory) = summer(1);
    memory.write::<u32>(0, 1);
    assert_eq!(guest.run_to_done(), 1);
    // SAFETY: The range is the test's own mapping, which a new one replaces.
    let new = unsafe {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        libc::mmap(memory.as_ptr().cast(), PAGE as usize, access, flags, -1, 0)
    };
    assert_eq!(new.cast::<u8>(), memory.as_ptr());
    assert_eq!(guest.run_to_done(), 0);
    memory.write::<u32>(0, 2);
    assert_eq!(guest.run_to_done(), 2);
}
