// SPDX-License-Identifier: GPL-2.0

//! From a file descriptor to an interrupt: MSIs, GSI routes, irqfds, EOIs.

use kvm_bindings::*;
use libc::{
    EBADF,
    EBUSY,
    EFAULT,
    EINVAL, //
};
use std::{
    os::fd::{
        AsRawFd,
        OwnedFd, //
    },
    thread,
    time::Duration, //
};

use crate::{
    code,
    enable_x2apic,
    eventfd::{
        eventfd,
        signal, //
    },
    group,
    guest::{
        Apic,
        Guest,
        Mode, //
    },
    ioctl::*,
    kvm::*, //
};

group!("routing":
    an_msi_is_delivered,
    an_msi_to_nobody_is_not,
    an_msi_needs_an_irqchip,
    msi_flags_are_checked,
    an_irqfd_sends_its_route,
    an_irqfd_wakes_a_halted_vcpu,
    a_signal_before_the_irqfd_counts,
    a_route_can_be_changed_under_an_irqfd,
    an_irqfd_without_a_route_is_harmless,
    an_eventfd_has_one_irqfd,
    several_eventfds_on_one_gsi,
    an_irqfd_can_be_removed,
    irqfd_arguments_are_checked,
    irqfd_needs_an_irqchip,
    routing_arguments_are_checked,
    routing_needs_an_irqchip,
    the_table_has_4096_entries,
    the_eoi_of_a_level_interrupt_exits,
    the_eoi_of_an_edge_interrupt_does_not,
    a_logical_destination_is_found,
);

/// A guest that takes interrupts at [`DONE`](crate::guest::DONE) for as long as
/// it is run. It has an x2APIC that is on.
fn listener() -> Guest {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "2:",
            "sti",
            "nop",
            "cli",
            "out 0xe1, al",
            "jmp 2b"
        ),
    );
    guest.run_to_done();
    guest
}

const EDGE: u32 = 0;
const LEVEL: u32 = (1 << 15) | (1 << 14);

/// An MSI route.
pub fn route(gsi: u32, address: u32, data: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi.address_lo = address;
    entry.u.msi.data = data;
    entry
}

/// `KVM_SET_GSI_ROUTING`.
pub fn set_routes(vm: &Vm, entries: &[kvm_irq_routing_entry]) -> Result {
    let mut table = vec![0u64; 1 + size_of_val(entries) / 8];
    table[0] = entries.len() as u64;
    // SAFETY: The vector has room for the header and the entries.
    unsafe {
        let first = table.as_mut_ptr().add(1).cast();
        std::ptr::copy_nonoverlapping(entries.as_ptr(), first, entries.len());
    }
    vm.ioctl(KVM_SET_GSI_ROUTING, table.as_ptr() as u64)
}

/// `KVM_IRQFD`.
fn irqfd(vm: &Vm, fd: &OwnedFd, gsi: u32, flags: u32) -> Result {
    let mut irqfd = kvm_irqfd {
        fd: fd.as_raw_fd() as u32,
        gsi,
        flags,
        ..Default::default()
    };
    vm.ioctl_with(KVM_IRQFD, &mut irqfd)
}

/// Runs the guest until it has taken `vector` `count` times.
fn wait_for(guest: &Guest, vector: u8, count: u64) {
    // An irqfd may be served by another thread of the kernel.
    for _ in 0..1000 {
        guest.run_to_done();
        if guest.count(vector) >= count {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(guest.count(vector), count, "vector {vector:#x}");
}

const CPU0: u32 = 0xfee0_0000;

fn an_msi_is_delivered() {
    let guest = listener();
    assert_eq!(guest.vm.signal_msi(CPU0, 0x41), Ok(1));
    guest.run_to_done();
    assert_eq!(guest.count(0x41), 1);
    // Two of a kind before the guest runs are one.
    assert_eq!(guest.vm.signal_msi(CPU0, 0x42), Ok(1));
    guest.vm.signal_msi(CPU0, 0x42).expect("KVM_SIGNAL_MSI");
    guest.run_to_done();
    guest.run_to_done();
    assert_eq!((guest.count(0x41), guest.count(0x42)), (1, 1));
}

fn an_msi_to_nobody_is_not() {
    let guest = listener();
    assert!(guest
        .vm
        .signal_msi(CPU0 | (7 << 12), 0x41)
        .is_ok_and(|count| count <= 0));
    guest.run_to_done();
    assert_eq!(guest.count(0x41), 0);
}

fn an_msi_needs_an_irqchip() {
    assert_eq!(Vm::new().signal_msi(CPU0, 0x41), Err(EINVAL));
}

fn msi_flags_are_checked() {
    let guest = listener();
    let mut msi = kvm_msi {
        address_lo: CPU0,
        data: 0x41,
        flags: 1 << 5,
        ..Default::default()
    };
    assert_eq!(guest.vm.ioctl_with(KVM_SIGNAL_MSI, &mut msi), Err(EINVAL));
    assert_eq!(guest.vm.ioctl(KVM_SIGNAL_MSI, 8), Err(EFAULT));
}

fn an_irqfd_sends_its_route() {
    let guest = listener();
    let fd = eventfd();
    assert_eq!(set_routes(&guest.vm, &[route(5, CPU0, 0x51 | EDGE)]), Ok(0));
    assert_eq!(irqfd(&guest.vm, &fd, 5, 0), Ok(0));
    for count in 1..=3 {
        signal(&fd);
        wait_for(&guest, 0x51, count);
    }
}

fn an_irqfd_wakes_a_halted_vcpu() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(64, enable_x2apic!(), "sti", "hlt", "out 0xe1, al"),
    );
    let fd = eventfd();
    assert_eq!(set_routes(&guest.vm, &[route(5, CPU0, 0x51)]), Ok(0));
    assert_eq!(irqfd(&guest.vm, &fd, 5, 0), Ok(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            signal(&fd);
        });
        guest.run_to_done();
    });
    assert_eq!(guest.count(0x51), 1);
}

fn a_signal_before_the_irqfd_counts() {
    let guest = listener();
    let fd = eventfd();
    signal(&fd);
    assert_eq!(set_routes(&guest.vm, &[route(5, CPU0, 0x51)]), Ok(0));
    assert_eq!(irqfd(&guest.vm, &fd, 5, 0), Ok(0));
    wait_for(&guest, 0x51, 1);
}

fn a_route_can_be_changed_under_an_irqfd() {
    let guest = listener();
    let fd = eventfd();
    assert_eq!(set_routes(&guest.vm, &[route(5, CPU0, 0x51)]), Ok(0));
    assert_eq!(irqfd(&guest.vm, &fd, 5, 0), Ok(0));
    signal(&fd);
    wait_for(&guest, 0x51, 1);
    assert_eq!(set_routes(&guest.vm, &[route(5, CPU0, 0x52)]), Ok(0));
    signal(&fd);
    wait_for(&guest, 0x52, 1);
    assert_eq!(set_routes(&guest.vm, &[]), Ok(0));
    signal(&fd);
    thread::sleep(Duration::from_millis(5));
    guest.run_to_done();
    assert_eq!((guest.count(0x51), guest.count(0x52)), (1, 1));
}

fn an_irqfd_without_a_route_is_harmless() {
    let guest = listener();
    let fd = eventfd();
    assert_eq!(irqfd(&guest.vm, &fd, 9, 0), Ok(0));
    signal(&fd);
    guest.run_to_done();
    // The route may come later.
    assert_eq!(set_routes(&guest.vm, &[route(9, CPU0, 0x61)]), Ok(0));
    signal(&fd);
    wait_for(&guest, 0x61, 1);
}

fn an_eventfd_has_one_irqfd() {
    let guest = listener();
    let fd = eventfd();
    assert_eq!(irqfd(&guest.vm, &fd, 5, 0), Ok(0));
    assert_eq!(irqfd(&guest.vm, &fd, 5, 0), Err(EBUSY));
    assert_eq!(irqfd(&guest.vm, &fd, 6, 0), Err(EBUSY));
    let other = Vm::with_lapics();
    assert_eq!(irqfd(&other, &fd, 5, 0), Err(EBUSY));
    assert_eq!(irqfd(&guest.vm, &fd, 5, KVM_IRQFD_FLAG_DEASSIGN), Ok(0));
    assert_eq!(irqfd(&other, &fd, 5, 0), Ok(0));
}

fn several_eventfds_on_one_gsi() {
    let guest = listener();
    let fds = [eventfd(), eventfd()];
    assert_eq!(set_routes(&guest.vm, &[route(5, CPU0, 0x51)]), Ok(0));
    for fd in &fds {
        assert_eq!(irqfd(&guest.vm, fd, 5, 0), Ok(0));
    }
    for (fd, count) in fds.iter().zip(1..) {
        signal(fd);
        wait_for(&guest, 0x51, count);
    }
}

fn an_irqfd_can_be_removed() {
    let guest = listener();
    let fd = eventfd();
    assert_eq!(set_routes(&guest.vm, &[route(5, CPU0, 0x51)]), Ok(0));
    assert_eq!(irqfd(&guest.vm, &fd, 5, 0), Ok(0));
    assert_eq!(irqfd(&guest.vm, &fd, 5, KVM_IRQFD_FLAG_DEASSIGN), Ok(0));
    signal(&fd);
    thread::sleep(Duration::from_millis(5));
    guest.run_to_done();
    assert_eq!(guest.count(0x51), 0);
    // What is not there is removed without complaint.
    assert_eq!(irqfd(&guest.vm, &fd, 5, KVM_IRQFD_FLAG_DEASSIGN), Ok(0));
}

fn irqfd_arguments_are_checked() {
    let guest = listener();
    let fd = eventfd();
    assert_eq!(irqfd(&guest.vm, &fd, 5, 1 << 4), Err(EINVAL));
    // Resampling needs the kernel's own I/O APIC.
    assert_eq!(
        irqfd(&guest.vm, &fd, 5, KVM_IRQFD_FLAG_RESAMPLE),
        Err(EINVAL)
    );
    let mut bad = kvm_irqfd {
        fd: u32::MAX,
        gsi: 5,
        ..Default::default()
    };
    assert_eq!(guest.vm.ioctl_with(KVM_IRQFD, &mut bad), Err(EBADF));
    bad.fd = guest.vm.as_raw_fd() as u32;
    assert_eq!(guest.vm.ioctl_with(KVM_IRQFD, &mut bad), Err(EINVAL));
}

fn irqfd_needs_an_irqchip() {
    assert_eq!(irqfd(&Vm::new(), &eventfd(), 5, 0), Err(EINVAL));
}

fn routing_arguments_are_checked() {
    let guest = listener();
    let vm = &guest.vm;
    let good = route(5, CPU0, 0x51);
    assert_eq!(
        set_routes(vm, &[kvm_irq_routing_entry { gsi: 4096, ..good }]),
        Err(EINVAL)
    );
    assert_eq!(
        set_routes(vm, &[kvm_irq_routing_entry { type_: 99, ..good }]),
        Err(EINVAL)
    );
    assert_eq!(
        set_routes(
            vm,
            &[kvm_irq_routing_entry {
                flags: 1 << 7,
                ..good
            }]
        ),
        Err(EINVAL)
    );
    // There is no I/O APIC in the kernel to route to.
    let pin = kvm_irq_routing_entry {
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..good
    };
    assert_eq!(set_routes(vm, &[pin]), Err(EINVAL));
    let mut header = [1u64 << 32, 0];
    assert_eq!(vm.ioctl_with(KVM_SET_GSI_ROUTING, &mut header), Err(EINVAL));
    // A GSI has one message.
    assert_eq!(set_routes(vm, &[good, good]), Err(EINVAL));
    assert_eq!(vm.ioctl(KVM_SET_GSI_ROUTING, 8), Err(EFAULT));
}

fn routing_needs_an_irqchip() {
    assert_eq!(set_routes(&Vm::new(), &[]), Err(EINVAL));
}

fn the_table_has_4096_entries() {
    let guest = listener();
    assert_eq!(capability(KVM_CAP_IRQ_ROUTING), 4096);
    let all: Vec<_> = (0..4096)
        .map(|gsi| route(gsi, CPU0, 0x30 + gsi % 200))
        .collect();
    assert_eq!(set_routes(&guest.vm, &all), Ok(0));
    let fd = eventfd();
    assert_eq!(irqfd(&guest.vm, &fd, 4095, 0), Ok(0));
    signal(&fd);
    wait_for(&guest, (0x30 + 4095 % 200) as u8, 1);
    let mut more = all;
    more.push(route(0, CPU0, 0x31));
    assert_eq!(set_routes(&guest.vm, &more), Err(EINVAL));
}

fn the_eoi_of_a_level_interrupt_exits() {
    let guest = listener();
    let fd = eventfd();
    assert_eq!(
        set_routes(&guest.vm, &[route(5, CPU0, 0x51 | LEVEL)]),
        Ok(0)
    );
    assert_eq!(irqfd(&guest.vm, &fd, 5, 0), Ok(0));
    for _ in 0..2 {
        signal(&fd);
        let mut exit = guest.run();
        for _ in 0..1000 {
            if !matches!(exit, Exit::Out(..)) {
                break;
            }
            exit = guest.run();
        }
        assert_eq!(exit, Exit::IoapicEoi(0x51));
    }
    guest.run_to_done();
    assert_eq!(guest.count(0x51), 2);
}

fn the_eoi_of_an_edge_interrupt_does_not() {
    let guest = listener();
    let fd = eventfd();
    assert_eq!(set_routes(&guest.vm, &[route(5, CPU0, 0x51 | EDGE)]), Ok(0));
    assert_eq!(irqfd(&guest.vm, &fd, 5, 0), Ok(0));
    signal(&fd);
    wait_for(&guest, 0x51, 1);
}

fn a_logical_destination_is_found() {
    let guest = Guest::with(
        Mode::Long,
        Apic::Kernel,
        1,
        code!(
            64,
            enable_x2apic!(),
            "2:",
            "sti",
            "nop",
            "cli",
            "out 0xe1, al",
            "jmp 2b"
        ),
    );
    guest.run_to_done();
    // The logical ID of x2APIC 0 is bit 0 of cluster 0.
    assert_eq!(
        guest.vm.signal_msi(CPU0 | (1 << 12) | (1 << 2), 0x71),
        Ok(1)
    );
    assert!(guest
        .vm
        .signal_msi(CPU0 | (2 << 12) | (1 << 2), 0x72)
        .is_ok_and(|count| count <= 0));
    guest.run_to_done();
    assert_eq!((guest.count(0x71), guest.count(0x72)), (1, 0));
}
