// SPDX-License-Identifier: GPL-2.0

//! The I/O bus's own devices: ioeventfd, and the ring of coalesced writes.

use kvm_bindings::*;
use libc::{
    EBADF,
    EEXIST,
    EINVAL,
    ENOENT,
    ENOSPC, //
};
use std::{
    os::fd::{
        AsRawFd,
        OwnedFd, //
    },
    ptr, //
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

group!("eventfd":
    an_mmio_write_signals,
    every_length_is_matched_exactly,
    a_zero_length_matches_any_write,
    a_zero_length_matches_whatever_writes,
    memory_takes_the_place_of_a_zero_length,
    datamatch_wants_the_value,
    a_port_write_signals,
    mmio_and_ports_are_apart,
    reads_still_exit,
    a_removed_eventfd_exits_again,
    two_values_at_one_address,
    the_same_twice_is_refused,
    what_is_not_there_cannot_be_removed,
    bad_arguments_are_refused,
    a_closed_eventfd_goes_away,
    hundreds_of_eventfds,
    devices_come_and_go_while_the_guest_runs,
    works_with_the_irqchip_too,
    string_writes_signal,
    coalesced_writes_wait_in_the_ring,
    a_full_ring_exits,
    an_unregistered_zone_exits_again,
    coalesced_ports_wait_in_the_ring,
    bad_zones_are_refused,
);

const PORT: u64 = 0x1230;

/// A new eventfd.
pub fn eventfd() -> OwnedFd {
    // SAFETY: Numbers only.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
    assert_ne!(fd, -1);
    own(fd)
}

/// Takes an eventfd's count; 0 when it was not signalled.
pub fn take(fd: &OwnedFd) -> u64 {
    let mut count = 0u64;
    // SAFETY: Reads 8 bytes into a local of 8 bytes.
    unsafe { libc::read(fd.as_raw_fd(), ptr::from_mut(&mut count).cast(), 8) };
    count
}

/// Signals an eventfd.
pub fn signal(fd: &OwnedFd) {
    // SAFETY: Writes 8 bytes of a local.
    let done = unsafe { libc::write(fd.as_raw_fd(), ptr::from_ref(&1u64).cast(), 8) };
    assert_eq!(done, 8);
}

const DATAMATCH: u32 = 1 << 0;
const PIO: u32 = 1 << 1;
const DEASSIGN: u32 = 1 << 2;

/// `KVM_IOEVENTFD`.
fn assign(guest: &Guest, fd: &OwnedFd, addr: u64, len: u32, flags: u32, datamatch: u64) -> Result {
    let mut event = kvm_ioeventfd {
        datamatch,
        addr,
        len,
        fd: fd.as_raw_fd(),
        flags,
        ..Default::default()
    };
    guest.vm.ioctl_with(KVM_IOEVENTFD, &mut event)
}

/// Writes 1, 2, 4 and 8 bytes to [`MMIO`].
fn mmio_writer() -> Guest {
    Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "mov rax, 0x1122334455667788",
            "mov [rbx], al",
            "mov [rbx], ax",
            "mov [rbx], eax",
            "mov [rbx], rax",
            "hlt"
        ),
    )
}

fn an_mmio_write_signals() {
    let guest = mmio_writer();
    let fd = eventfd();
    assert_eq!(assign(&guest, &fd, MMIO, 1, 0, 0), Ok(0));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 2, 0x7788));
    assert_eq!(take(&fd), 1);
}

fn every_length_is_matched_exactly() {
    let guest = mmio_writer();
    let fds = [1u32, 2, 4, 8].map(|len| {
        let fd = eventfd();
        // Each has an address of its own, as lengths at one address collide.
        assert_eq!(
            assign(&guest, &fd, MMIO + 0x100 * u64::from(len), len, 0, 0),
            Ok(0)
        );
        fd
    });
    guest.restart(code!(
        64,
        "mov ebx, 0x10000100",
        "mov [rbx], al",
        "add ebx, 0x100",
        "mov [rbx], ax",
        "add ebx, 0x200",
        "mov [rbx], eax",
        "add ebx, 0x400",
        "mov [rbx], rax",
        // Another width at the last address.
        "mov [rbx], eax",
        "hlt"
    ));
    assert!(matches!(guest.run(), Exit::MmioWrite(addr, 4, _) if addr == MMIO + 0x800));
    assert_eq!(fds.each_ref().map(take), [1; 4]);
    guest.run_to_hlt();
}

fn a_zero_length_matches_any_write() {
    let guest = mmio_writer();
    let fd = eventfd();
    assert_eq!(assign(&guest, &fd, MMIO, 0, 0, 0), Ok(0));
    guest.run_to_hlt();
    assert_eq!(take(&fd), 4);
}

fn a_zero_length_matches_whatever_writes() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "mov ebp, 3",
            "xor ecx, ecx",
            "2:",
            "mov [rbx], al",
            "inc ecx",
            "mov dword ptr [rbx], 5",
            "inc ecx",
            "mov [0x10000000], rax",
            "inc ecx",
            "mov qword ptr fs:[rbx + rbp * 8 + 0x1000], 5",
            "inc ecx",
            "mov edi, ebx",
            "stosb",
            "inc ecx",
            "lea rsp, [rbx + 8]",
            "push rax",
            "inc ecx",
            "dec ebp",
            "jnz 2b",
            "mov esp, 0x8000",
            "hlt"
        ),
    );
    let (fd, other) = (eventfd(), eventfd());
    assert_eq!(assign(&guest, &fd, MMIO, 0, 0, 0), Ok(0));
    for place in 1..=3 {
        assert_eq!(
            assign(&guest, &other, MMIO + 0x1000 + 8 * place, 0, 0, 0),
            Ok(0)
        );
    }
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rcx, 18, "each instruction once");
    assert_eq!((take(&fd), take(&other)), (15, 3));
}

fn memory_takes_the_place_of_a_zero_length() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "2:",
            "mov [rbx], eax",
            "inc eax",
            "mov [rbx], eax",
            "inc eax",
            "out 0xe1, al",
            "jmp 2b"
        ),
    );
    let fd = eventfd();
    assert_eq!(assign(&guest, &fd, MMIO, 0, 0, 0), Ok(0));
    let memory = Memory::new(PAGE as usize);
    guest.run_to_done();
    assert_eq!(take(&fd), 2);
    assert_eq!(guest.vm.set_slot(1, 0, MMIO, PAGE, memory.hva()), Ok(0));
    let written = (guest.run_to_done() - 1) as u8;
    assert_eq!((take(&fd), memory.read::<u8>(0)), (0, written));
    assert_eq!(guest.vm.set_slot(1, 0, MMIO, 0, memory.hva()), Ok(0));
    guest.run_to_done();
    assert_eq!((take(&fd), memory.read::<u8>(0)), (2, written));
}

fn datamatch_wants_the_value() {
    let guest = mmio_writer();
    let fd = eventfd();
    assert_eq!(assign(&guest, &fd, MMIO, 4, DATAMATCH, 0x5566_7788), Ok(0));
    for len in [1, 2, 8] {
        assert!(matches!(guest.run(), Exit::MmioWrite(MMIO, width, _) if width == len));
    }
    guest.run_to_hlt();
    assert_eq!(take(&fd), 1);
    guest.restart(code!(64, "mov dword ptr [0x10000000], 7", "hlt"));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 4, 7));
    assert_eq!(take(&fd), 0);
}

fn port_writer() -> Guest {
    Guest::new(
        Mode::Long,
        code!(
            64,
            "mov dx, 0x1230",
            "mov eax, 0x11223344",
            "out dx, al",
            "out dx, ax",
            "out dx, eax",
            "hlt"
        ),
    )
}

fn a_port_write_signals() {
    let guest = port_writer();
    let fd = eventfd();
    assert_eq!(assign(&guest, &fd, PORT, 2, PIO | DATAMATCH, 0x3344), Ok(0));
    assert_eq!(guest.run(), Exit::Out(0x1230, 1, 1, 0x44));
    assert_eq!(guest.run(), Exit::Out(0x1230, 4, 1, 0x1122_3344));
    guest.run_to_hlt();
    assert_eq!(take(&fd), 1);
}

fn mmio_and_ports_are_apart() {
    let guest = port_writer();
    let fd = eventfd();
    assert_eq!(assign(&guest, &fd, PORT, 1, 0, 0), Ok(0));
    assert_eq!(guest.run(), Exit::Out(0x1230, 1, 1, 0x44));
    assert_eq!(take(&fd), 0);
}

fn reads_still_exit() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov eax, [0x10000000]",
            "mov dx, 0x1230",
            "in al, dx",
            "hlt"
        ),
    );
    let fd = eventfd();
    assert_eq!(assign(&guest, &fd, MMIO, 4, 0, 0), Ok(0));
    assert_eq!(assign(&guest, &fd, PORT, 1, PIO, 0), Ok(0));
    assert_eq!(guest.run(), Exit::MmioRead(MMIO, 4));
    assert_eq!(guest.run(), Exit::In(0x1230, 1, 1));
    assert_eq!(take(&fd), 0);
}

fn a_removed_eventfd_exits_again() {
    let guest = mmio_writer();
    let fd = eventfd();
    assert_eq!(assign(&guest, &fd, MMIO, 1, 0, 0), Ok(0));
    assert_eq!(assign(&guest, &fd, MMIO, 1, DEASSIGN, 0), Ok(0));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 1, 0x88));
    assert_eq!(take(&fd), 0);
}

fn two_values_at_one_address() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov dword ptr [0x10000000], 1",
            "mov dword ptr [0x10000000], 2",
            "mov dword ptr [0x10000000], 1",
            "hlt"
        ),
    );
    let (one, two) = (eventfd(), eventfd());
    assert_eq!(assign(&guest, &one, MMIO, 4, DATAMATCH, 1), Ok(0));
    assert_eq!(assign(&guest, &two, MMIO, 4, DATAMATCH, 2), Ok(0));
    guest.run_to_hlt();
    assert_eq!((take(&one), take(&two)), (2, 1));
}

fn the_same_twice_is_refused() {
    let guest = mmio_writer();
    let (fd, other) = (eventfd(), eventfd());
    assert_eq!(assign(&guest, &fd, MMIO, 4, 0, 0), Ok(0));
    assert_eq!(assign(&guest, &other, MMIO, 4, 0, 0), Err(EEXIST));
    assert_eq!(assign(&guest, &other, MMIO, 4, DATAMATCH, 5), Err(EEXIST));
    assert_eq!(assign(&guest, &other, MMIO + 4, 4, DATAMATCH, 5), Ok(0));
    assert_eq!(assign(&guest, &fd, MMIO + 4, 4, DATAMATCH, 5), Err(EEXIST));
    assert_eq!(assign(&guest, &fd, MMIO + 4, 4, DATAMATCH, 6), Ok(0));
}

fn what_is_not_there_cannot_be_removed() {
    let guest = mmio_writer();
    let (fd, other) = (eventfd(), eventfd());
    assert_eq!(assign(&guest, &fd, MMIO, 4, DATAMATCH, 5), Ok(0));
    for (fd, addr, len, flags, value) in [
        (&other, MMIO, 4, DATAMATCH, 5),
        (&fd, MMIO + 8, 4, DATAMATCH, 5),
        (&fd, MMIO, 2, DATAMATCH, 5),
        (&fd, MMIO, 4, DATAMATCH, 6),
        (&fd, MMIO, 4, 0, 0),
        (&fd, MMIO, 4, DATAMATCH | PIO, 5),
    ] {
        assert_eq!(
            assign(&guest, fd, addr, len, flags | DEASSIGN, value),
            Err(ENOENT)
        );
    }
    assert_eq!(assign(&guest, &fd, MMIO, 4, DATAMATCH | DEASSIGN, 5), Ok(0));
}

fn bad_arguments_are_refused() {
    let guest = mmio_writer();
    let fd = eventfd();
    for len in [3, 5, 7, 16] {
        assert_eq!(assign(&guest, &fd, MMIO, len, 0, 0), Err(EINVAL));
    }
    assert_eq!(assign(&guest, &fd, MMIO, 0, DATAMATCH, 0), Err(EINVAL));
    assert_eq!(assign(&guest, &fd, u64::MAX, 4, 0, 0), Err(EINVAL));
    assert_eq!(assign(&guest, &fd, MMIO, 4, 1 << 30, 0), Err(EINVAL));
    let mut event = kvm_ioeventfd {
        addr: MMIO,
        len: 4,
        fd: -1,
        ..Default::default()
    };
    assert_eq!(guest.vm.ioctl_with(KVM_IOEVENTFD, &mut event), Err(EBADF));
    // A file that is no eventfd.
    event.fd = guest.vm.as_raw_fd();
    assert_eq!(guest.vm.ioctl_with(KVM_IOEVENTFD, &mut event), Err(EINVAL));
}

fn a_closed_eventfd_goes_away() {
    let guest = mmio_writer();
    for _ in 0..10 {
        let fd = eventfd();
        assert_eq!(assign(&guest, &fd, MMIO, 1, 0, 0), Ok(0));
        assert_eq!(assign(&guest, &fd, MMIO, 1, DEASSIGN, 0), Ok(0));
    }
    // One that is still assigned when the VM goes.
    let fd = eventfd();
    assert_eq!(assign(&guest, &fd, MMIO, 0, 0, 0), Ok(0));
    let other = fd.try_clone().expect("dup");
    drop(fd);
    guest.run_to_hlt();
    assert_eq!(take(&other), 4);
}

fn hundreds_of_eventfds() {
    const COUNT: u64 = 300;
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "mov ecx, 300",
            "2:",
            "mov [rbx], ecx",
            "add ebx, 8",
            "loop 2b",
            "mov [rbx], ecx",
            "mov dword ptr [0x10000004], 5",
            "hlt"
        ),
    );
    let fds: Vec<OwnedFd> = (0..COUNT).map(|_| eventfd()).collect();
    for i in (0..COUNT).map(|i| i * 131 % COUNT) {
        assert_eq!(
            assign(&guest, &fds[i as usize], MMIO + 8 * i, 4, 0, 0),
            Ok(0)
        );
    }
    // The holes between and behind them are nobody's.
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 8 * COUNT, 4, 0));
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 4, 4, 5));
    assert!(fds.iter().all(|fd| take(fd) == 1));
}

fn devices_come_and_go_while_the_guest_runs() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "sti",
            "2:",
            "mov [0x10000000], eax",
            "inc qword ptr [0x20000]",
            "cmp dword ptr [0x20008], 0",
            "je 2b",
            "hlt"
        ),
    );
    let (fixed, other) = (eventfd(), eventfd());
    assert_eq!(assign(&guest, &fixed, MMIO, 4, 0, 0), Ok(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rounds = 0;
            while rounds < 100 || guest.memory.poll(crate::guest::DATA) < 100 {
                for addr in [MMIO - 8, MMIO + 8] {
                    assert_eq!(assign(&guest, &other, addr, 4, 0, 0), Ok(0));
                }
                for addr in [MMIO - 8, MMIO + 8] {
                    assert_eq!(assign(&guest, &other, addr, 4, DEASSIGN, 0), Ok(0));
                }
                rounds += 1;
            }
            guest.memory.write::<u64>(crate::guest::DATA + 8, 1);
        });
        guest.run_to_hlt();
    });
    assert_eq!(take(&fixed), guest.memory.poll(crate::guest::DATA));
    assert_eq!(take(&other), 0);
}

fn works_with_the_irqchip_too() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            "mov [0x10000000], eax",
            "mov ebx, 0xfee00080",
            "mov [rbx], eax",
            "out 0xe1, al"
        ),
    );
    let fd = eventfd();
    assert_eq!(assign(&guest, &fd, MMIO, 4, 0, 0), Ok(0));
    // The local APIC's page is the vCPU's own: this one is never reached.
    let shadowed = eventfd();
    assert_eq!(assign(&guest, &shadowed, 0xfee0_0080, 4, 0, 0), Ok(0));
    guest.run_to_done();
    assert_eq!((take(&fd), take(&shadowed)), (1, 0));
}

fn string_writes_signal() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov edi, 0x10000000",
            "mov ecx, 3",
            "rep stosd",
            "mov esi, 0x20000",
            "mov dx, 0x1230",
            "mov ecx, 5",
            "rep outsb",
            "hlt"
        ),
    );
    let (mmio, port) = (eventfd(), eventfd());
    for i in 0..3 {
        assert_eq!(assign(&guest, &mmio, MMIO + 4 * i, 4, 0, 0), Ok(0));
    }
    assert_eq!(assign(&guest, &port, PORT, 1, PIO, 0), Ok(0));
    guest.run_to_hlt();
    assert_eq!((take(&mmio), take(&port)), (3, 5));
}

/// `KVM_(UN)REGISTER_COALESCED_MMIO`.
fn zone(guest: &Guest, request: u64, addr: u64, size: u32, pio: u32) -> Result {
    let mut zone = kvm_coalesced_mmio_zone {
        addr,
        size,
        ..Default::default()
    };
    zone.__bindgen_anon_1.pio = pio;
    guest.vm.ioctl_with(request, &mut zone)
}

/// The ring, one page behind the page of I/O data.
struct Ring<'a>(&'a Vcpu);

impl Ring<'_> {
    fn page(&self) -> *mut kvm_coalesced_mmio_ring {
        let offset = capability(KVM_CAP_COALESCED_MMIO) as usize * PAGE as usize;
        self.0.shared_byte(offset).cast()
    }

    /// Takes the oldest entry: address, length, value.
    fn pop(&self) -> Option<(u64, u32, u64, u32)> {
        let page = self.page();
        // SAFETY: The page is mapped, and the kernel writes only what is between
        // `last` and `first`.
        unsafe {
            let (first, last) = ((*page).first, (*page).last);
            if first == last {
                return None;
            }
            let entries = ptr::addr_of!((*page).coalesced_mmio).cast::<kvm_coalesced_mmio>();
            let entry = entries.add(first as usize).read();
            (*page).first = (first + 1) % ring_size();
            let pio = entry.__bindgen_anon_1.pio;
            let mut bytes = [0; 8];
            let len = entry.len.min(8) as usize;
            bytes[..len].copy_from_slice(&entry.data[..len]);
            Some((entry.phys_addr, entry.len, u64::from_le_bytes(bytes), pio))
        }
    }
}

/// `KVM_COALESCED_MMIO_MAX`.
fn ring_size() -> u32 {
    let header = size_of::<kvm_coalesced_mmio_ring>();
    ((PAGE as usize - header) / size_of::<kvm_coalesced_mmio>()) as u32
}

fn coalesced_writes_wait_in_the_ring() {
    require(KVM_CAP_COALESCED_MMIO, "KVM_CAP_COALESCED_MMIO");
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0x10000000",
            "mov byte ptr [rbx], 1",
            "mov word ptr [rbx + 8], 2",
            "mov dword ptr [rbx + 0xffc], 3",
            "mov eax, [rbx]",
            "mov dword ptr [rbx + 0xffe], 4",
            "hlt"
        ),
    );
    assert_eq!(
        zone(&guest, KVM_REGISTER_COALESCED_MMIO, MMIO, 0x1000, 0),
        Ok(0)
    );
    let ring = Ring(guest.cpu());
    // A read exits; a write that leaves the zone does.
    assert_eq!(guest.run(), Exit::MmioRead(MMIO, 4));
    assert_eq!(ring.pop(), Some((MMIO, 1, 1, 0)));
    assert_eq!(ring.pop(), Some((MMIO + 8, 2, 2, 0)));
    assert_eq!(ring.pop(), Some((MMIO + 0xffc, 4, 3, 0)));
    assert_eq!(ring.pop(), None);
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO + 0x1000, 2, 0));
    guest.run_to_hlt();
}

fn a_full_ring_exits() {
    require(KVM_CAP_COALESCED_MMIO, "KVM_CAP_COALESCED_MMIO");
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "xor ecx, ecx",
            "2:",
            "mov [0x10000000], ecx",
            "inc ecx",
            "cmp ecx, 1000",
            "jne 2b",
            "hlt"
        ),
    );
    assert_eq!(
        zone(&guest, KVM_REGISTER_COALESCED_MMIO, MMIO, 0x1000, 0),
        Ok(0)
    );
    let ring = Ring(guest.cpu());
    let mut expected = 0;
    loop {
        let exit = guest.run();
        while let Some(entry) = ring.pop() {
            assert_eq!(entry, (MMIO, 4, expected, 0));
            expected += 1;
        }
        match exit {
            Exit::MmioWrite(MMIO, 4, value) => assert_eq!(value, expected),
            Exit::Hlt => break,
            exit => panic!("{exit:x?}"),
        }
        expected += 1;
    }
    assert_eq!(expected, 1000);
}

fn an_unregistered_zone_exits_again() {
    require(KVM_CAP_COALESCED_MMIO, "KVM_CAP_COALESCED_MMIO");
    let guest = mmio_writer();
    assert_eq!(
        zone(&guest, KVM_REGISTER_COALESCED_MMIO, MMIO, 0x1000, 0),
        Ok(0)
    );
    assert_eq!(
        zone(&guest, KVM_UNREGISTER_COALESCED_MMIO, MMIO, 0x1000, 0),
        Ok(0)
    );
    assert_eq!(guest.run(), Exit::MmioWrite(MMIO, 1, 0x88));
    // kvmtool removes zones that it never made.
    assert_eq!(
        zone(&guest, KVM_UNREGISTER_COALESCED_MMIO, MMIO, 0x1000, 0),
        Ok(0)
    );
}

fn coalesced_ports_wait_in_the_ring() {
    require(KVM_CAP_COALESCED_PIO, "KVM_CAP_COALESCED_PIO");
    let guest = port_writer();
    assert_eq!(zone(&guest, KVM_REGISTER_COALESCED_MMIO, PORT, 4, 1), Ok(0));
    guest.run_to_hlt();
    let ring = Ring(guest.cpu());
    assert_eq!(ring.pop(), Some((PORT, 1, 0x44, 1)));
    assert_eq!(ring.pop(), Some((PORT, 2, 0x3344, 1)));
    assert_eq!(ring.pop(), Some((PORT, 4, 0x1122_3344, 1)));
}

fn bad_zones_are_refused() {
    require(KVM_CAP_COALESCED_PIO, "KVM_CAP_COALESCED_PIO");
    let guest = port_writer();
    assert_eq!(
        zone(&guest, KVM_REGISTER_COALESCED_MMIO, PORT, 4, 2),
        Err(EINVAL)
    );
    // The bus has a limit, and says so.
    let full = (0..5000).find_map(|i| {
        zone(
            &guest,
            KVM_REGISTER_COALESCED_MMIO,
            MMIO + 0x1000 * i,
            0x1000,
            0,
        )
        .err()
    });
    assert_eq!(full, Some(ENOSPC));
}
