// SPDX-License-Identifier: GPL-2.0

//! Dirty rings: which pages were written, vCPU by vCPU, in rings that are mapped.

use std::collections::BTreeSet;

use kvm_bindings::*;
use libc::{
    E2BIG,
    EINVAL,
    ENXIO, //
};

use crate::{
    code,
    group,
    guest::{
        Guest,
        Mode,
        MMIO, //
    },
    ioctl::*,
    kvm::*, //
};

group!("ring":
    a_size_that_no_ring_can_have_is_refused,
    rings_come_before_vcpus_and_once,
    a_ring_is_mapped_shared_and_not_executable,
    written_pages_are_in_the_ring,
    there_is_no_bitmap,
    nothing_is_reset_that_was_not_harvested,
    after_a_reset_writes_are_seen_again,
    a_full_ring_stops_the_vcpu_until_it_is_reset,
    entries_that_userspace_made_up_are_passed_over,
);

/// Entries of the rings here.
const ENTRIES: usize = 1024;
const ENTRY: usize = 16;
const DIRTY: u32 = 1;
const HARVESTED: u32 = 2;
const SLOT: u32 = 1;
/// The pages of that slot, which is at [`MMIO`].
const PAGES: u64 = 2048;

fn enable(vm: &Vm, bytes: usize) -> Result {
    vm.enable_cap(KVM_CAP_DIRTY_LOG_RING, [bytes as u64, 0, 0, 0])
}

/// A vCPU's ring.
struct Ring {
    memory: Memory,
    next: usize,
}

impl Ring {
    fn of(vcpu: &Vcpu) -> Self {
        Self {
            memory: map(vcpu, libc::MAP_SHARED).expect("mmap of the ring"),
            next: 0,
        }
    }

    /// Harvests all that is there: slots and offsets.
    fn harvest(&mut self) -> Vec<(u32, u64)> {
        let mut found = Vec::new();
        loop {
            let at = (self.next % ENTRIES * ENTRY) as u64;
            if self.memory.read::<u32>(at) != DIRTY {
                return found;
            }
            found.push((self.memory.read(at + 4), self.memory.read(at + 8)));
            self.memory.write(at, HARVESTED);
            self.next += 1;
        }
    }

    /// Harvests, and returns the pages of [`SLOT`].
    fn pages(&mut self) -> BTreeSet<u64> {
        let of_slot = |(slot, offset)| (slot == SLOT).then_some(offset);
        self.harvest().into_iter().filter_map(of_slot).collect()
    }
}

fn map(vcpu: &Vcpu, flags: i32) -> Result<Memory> {
    let offset = i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE as i64;
    Memory::of_file(vcpu, offset, ENTRIES * ENTRY, flags)
}

fn reset(guest: &Guest) -> Result {
    guest.vm.ioctl(KVM_RESET_DIRTY_RINGS, 0)
}

/// A guest that logs in rings, with a logged slot.
fn logged(code: &[u8]) -> (Guest, Memory, Ring) {
    require(KVM_CAP_DIRTY_LOG_RING, "KVM_CAP_DIRTY_LOG_RING");
    let vm = Vm::new();
    assert_eq!(enable(&vm, ENTRIES * ENTRY), Ok(0));
    let guest = Guest::of(vm, Mode::Long, 1, code);
    let memory = Memory::new((PAGES * PAGE) as usize);
    let flags = KVM_MEM_LOG_DIRTY_PAGES;
    let size = PAGES * PAGE;
    let set = guest.vm.set_slot(SLOT, flags, MMIO, size, memory.hva());
    assert_eq!(set, Ok(0));
    let ring = Ring::of(guest.cpu());
    (guest, memory, ring)
}

/// Writes pages 3 and 70, and tells; again and again.
fn writer() -> &'static [u8] {
    code!(
        64,
        "2:",
        "inc dword ptr [0x10003000]",
        "inc dword ptr [0x10046000]",
        "out 0xe1, al",
        "jmp 2b"
    )
}

fn a_size_that_no_ring_can_have_is_refused() {
    require(KVM_CAP_DIRTY_LOG_RING, "KVM_CAP_DIRTY_LOG_RING");
    let max = capability(KVM_CAP_DIRTY_LOG_RING) as usize;
    assert_eq!(max, capability(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) as usize);
    let vm = Vm::new();
    for bytes in [0, 512, 0x3000, 0x5000] {
        assert_eq!(enable(&vm, bytes), Err(EINVAL), "{bytes}");
    }
    assert_eq!(enable(&vm, 2 * max), Err(E2BIG));
    assert_eq!(enable(&vm, max), Ok(0));
}

fn rings_come_before_vcpus_and_once() {
    require(KVM_CAP_DIRTY_LOG_RING, "KVM_CAP_DIRTY_LOG_RING");
    let vm = Vm::new();
    assert_eq!(enable(&vm, ENTRIES * ENTRY), Ok(0));
    assert_eq!(enable(&vm, ENTRIES * ENTRY), Err(EINVAL));
    let vm = Vm::new();
    assert_eq!(vm.ioctl(KVM_RESET_DIRTY_RINGS, 0), Err(EINVAL));
    let _vcpu = vm.vcpu(0);
    assert_eq!(enable(&vm, ENTRIES * ENTRY), Err(EINVAL));
}

fn a_ring_is_mapped_shared_and_not_executable() {
    let (guest, _memory, _ring) = logged(writer());
    assert_eq!(map(guest.cpu(), libc::MAP_PRIVATE).err(), Some(EINVAL));
}

fn written_pages_are_in_the_ring() {
    let (guest, _memory, mut ring) = logged(writer());
    assert!(ring.pages().is_empty());
    guest.run_to_done();
    assert_eq!(ring.pages(), BTreeSet::from([3, 70]));
    // They are writable now, so that nothing more is to be told.
    guest.run_to_done();
    assert!(ring.pages().is_empty());
}

fn there_is_no_bitmap() {
    let (guest, _memory, _ring) = logged(writer());
    assert_eq!(guest.vm.dirty_log(SLOT), Err(ENXIO));
}

fn nothing_is_reset_that_was_not_harvested() {
    let (guest, _memory, mut ring) = logged(writer());
    guest.run_to_done();
    assert_eq!(reset(&guest), Ok(0));
    assert_eq!(ring.pages(), BTreeSet::from([3, 70]));
    assert_eq!(reset(&guest), Ok(2));
    assert_eq!(reset(&guest), Ok(0));
}

fn after_a_reset_writes_are_seen_again() {
    let (guest, memory, mut ring) = logged(writer());
    for round in 1..=3 {
        guest.run_to_done();
        assert_eq!(ring.pages(), BTreeSet::from([3, 70]), "round {round}");
        assert_eq!(reset(&guest), Ok(2));
    }
    assert_eq!(memory.read::<u32>(0x3000), 3);
}

fn a_full_ring_stops_the_vcpu_until_it_is_reset() {
    let code = code!(
        64,
        "mov edi, 0x10000000",
        "mov ecx, 2000",
        "2:",
        "mov [rdi], ecx",
        "add edi, 0x1000",
        "dec ecx",
        "jnz 2b",
        "hlt"
    );
    let (guest, _memory, mut ring) = logged(code);
    let mut pages = BTreeSet::new();
    let mut stops = 0;
    while guest.run() == Exit::Other(KVM_EXIT_DIRTY_RING_FULL) {
        stops += 1;
        // It does not run before there is room.
        let rip = guest.cpu().regs().rip;
        assert_eq!(guest.run(), Exit::Other(KVM_EXIT_DIRTY_RING_FULL));
        assert_eq!(guest.cpu().regs().rip, rip);
        let harvested = ring.pages();
        assert_eq!(reset(&guest), Ok(harvested.len() as i32));
        pages.extend(harvested);
    }
    assert_eq!(guest.cpu().exit(), Exit::Hlt);
    pages.extend(ring.pages());
    assert!(stops >= 2, "{stops}");
    assert_eq!(pages, (0..2000).collect());
}

fn entries_that_userspace_made_up_are_passed_over() {
    let (guest, _memory, mut ring) = logged(writer());
    guest.run_to_done();
    let (slot_at, offset_at) = (4, 8);
    ring.memory.write::<u32>(slot_at, 0x7_0007);
    ring.memory.write::<u64>(offset_at, u64::MAX);
    assert_eq!(ring.harvest().len(), 2);
    assert_eq!(reset(&guest), Ok(2));
    guest.run_to_done();
}
