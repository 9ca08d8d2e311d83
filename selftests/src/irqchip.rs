// SPDX-License-Identifier: GPL-2.0

//! The controllers in the kernel: I/O APIC, 8259A pair, 8254.

use kvm_bindings::*;
use libc::{
    EEXIST,
    EINVAL,
    ENOENT,
    ENXIO, //
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
    code, enable_x2apic,
    eventfd::{
        eventfd,
        signal,
        take, //
    },
    group,
    guest::{
        Apic,
        Guest,
        Mode,
        DATA, //
    },
    ioctl::*,
    kvm::*,
    routing::{
        route,
        set_routes, //
    },
};

group!("irqchip":
    it_is_advertised,
    controllers_are_created_once,
    without_controllers_there_is_nothing_to_ask,
    unknown_controllers_are_refused,
    the_ioapic_is_as_after_reset,
    controllers_keep_the_state_that_is_set,
    the_timer_is_created_once,
    the_timer_keeps_the_state_that_is_set,
    userspace_injects_no_interrupts,
    a_guest_programs_the_ioapic,
    an_edge_interrupts_once,
    a_masked_line_is_ignored,
    a_level_interrupts_until_it_is_low,
    a_level_waits_for_its_end,
    a_tick_of_the_clock_is_coalesced_until_its_end,
    a_pending_line_in_the_state_is_delivered,
    the_8259_interrupts_by_lint0,
    the_8259_does_not_interrupt_a_masked_lint0,
    lines_of_the_slave_come_by_the_cascade,
    a_line_wakes_a_halted_vcpu,
    a_line_of_the_8259_wakes_a_halted_vcpu,
    the_timer_ticks,
    the_timer_counts_down,
    the_speaker_port_shows_channel_2,
    lines_above_15_go_to_the_ioapic_alone,
    routes_to_pins_are_checked,
    a_route_leads_to_another_pin,
    a_line_of_a_split_irqchip_sends_its_message,
    a_resampler_learns_of_the_end,
    a_resampler_raises_its_line_again,
    a_resampler_needs_an_ioapic,
    a_word_in_memory_is_the_task_priority,
);

const MASTER: u32 = KVM_IRQCHIP_PIC_MASTER;
const SLAVE: u32 = KVM_IRQCHIP_PIC_SLAVE;
const IOAPIC: u32 = KVM_IRQCHIP_IOAPIC;

/// `struct kvm_irqchip`, with the state as bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Chip {
    id: u32,
    pad: u32,
    state: [u8; 512],
}

/// Offsets in `struct kvm_pic_state` and `struct kvm_ioapic_state`.
const PIC_IMR: usize = 2;
const PIC_ISR: usize = 3;
const IOAPIC_IRR: usize = 16;
const IOAPIC_TABLE: usize = 24;

/// Bits of a redirection entry.
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const MASKED: u64 = 1 << 16;

fn get_chip(vm: &Vm, id: u32) -> Result<Chip> {
    let mut chip = Chip {
        id,
        pad: 0,
        state: [0; 512],
    };
    vm.ioctl_with(KVM_GET_IRQCHIP, &mut chip).map(|_| chip)
}

fn set_chip(vm: &Vm, mut chip: Chip) -> Result {
    vm.ioctl_with(KVM_SET_IRQCHIP, &mut chip)
}

fn chip(vm: &Vm, id: u32) -> Chip {
    get_chip(vm, id).expect("KVM_GET_IRQCHIP")
}

fn entry(vm: &Vm, pin: usize) -> u64 {
    let at = IOAPIC_TABLE + 8 * pin;
    let bytes = chip(vm, IOAPIC).state[at..at + 8].try_into();
    u64::from_le_bytes(bytes.expect("8 bytes"))
}

fn set_entry(vm: &Vm, pin: usize, entry: u64) {
    let mut chip = chip(vm, IOAPIC);
    let at = IOAPIC_TABLE + 8 * pin;
    chip.state[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    set_chip(vm, chip).expect("KVM_SET_IRQCHIP");
}

fn mask_8259(vm: &Vm) {
    for id in [MASTER, SLAVE] {
        let mut chip = chip(vm, id);
        chip.state[PIC_IMR] = 0xff;
        set_chip(vm, chip).expect("KVM_SET_IRQCHIP");
    }
}

/// `KVM_IRQ_LINE_STATUS`: returns the status.
fn set_line(vm: &Vm, gsi: u32, level: u32) -> Result<i32> {
    let mut args = [gsi, level];
    vm.ioctl_with(KVM_IRQ_LINE_STATUS, &mut args)
        .map(|_| args[0] as i32)
}

/// `KVM_IRQ_LINE`.
fn drive(vm: &Vm, gsi: u32, level: u32) {
    vm.ioctl_with(KVM_IRQ_LINE, &mut [gsi, level])
        .expect("KVM_IRQ_LINE");
}

fn pulse(vm: &Vm, gsi: u32) -> i32 {
    let status = set_line(vm, gsi, 1).expect("KVM_IRQ_LINE_STATUS");
    drive(vm, gsi, 0);
    status
}

fn create_pit(vm: &Vm, flags: u32) -> Result {
    let mut config = kvm_pit_config {
        flags,
        ..Default::default()
    };
    vm.ioctl_with(KVM_CREATE_PIT2, &mut config)
}

fn pit(vm: &Vm) -> Result<kvm_pit_state2> {
    let mut state = kvm_pit_state2::default();
    vm.ioctl_with(KVM_GET_PIT2, &mut state).map(|_| state)
}

/// A guest with all controllers that takes interrupts for as long as it is run, its 8259As masked.
fn listener() -> Guest {
    let guest = Guest::with(
        Mode::Long,
        Apic::All,
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
    mask_8259(&guest.vm);
    guest
}

fn it_is_advertised() {
    for cap in [
        KVM_CAP_IRQCHIP,
        KVM_CAP_PIT,
        KVM_CAP_PIT2,
        KVM_CAP_PIT_STATE2,
        KVM_CAP_REINJECT_CONTROL,
        KVM_CAP_IRQ_INJECT_STATUS,
        KVM_CAP_IRQFD_RESAMPLE,
    ] {
        assert_eq!(capability(cap), 1, "{cap}");
    }
}

fn controllers_are_created_once() {
    let vm = Vm::with_irqchip();
    assert_eq!(vm.ioctl(KVM_CREATE_IRQCHIP, 0), Err(EEXIST));
    let split = [24, 0, 0, 0];
    assert_eq!(vm.enable_cap(KVM_CAP_SPLIT_IRQCHIP, split), Err(EEXIST));
    let vm = Vm::with_lapics();
    assert_eq!(vm.ioctl(KVM_CREATE_IRQCHIP, 0), Err(EEXIST));
    let vm = Vm::new();
    let _vcpu = vm.vcpu(0);
    assert_eq!(vm.ioctl(KVM_CREATE_IRQCHIP, 0), Err(EINVAL));
}

fn without_controllers_there_is_nothing_to_ask() {
    let none = Vm::new();
    assert_eq!(set_line(&none, 4, 1), Err(ENXIO));
    for vm in [none, Vm::with_lapics()] {
        assert_eq!(get_chip(&vm, IOAPIC).err(), Some(ENXIO));
        let empty = Chip {
            id: IOAPIC,
            pad: 0,
            state: [0; 512],
        };
        assert_eq!(set_chip(&vm, empty), Err(ENXIO));
        assert_eq!(create_pit(&vm, 0), Err(ENOENT));
        assert_eq!(pit(&vm).err(), Some(ENXIO));
        let mut state = kvm_pit_state2::default();
        assert_eq!(vm.ioctl_with(KVM_SET_PIT2, &mut state), Err(ENXIO));
        let mut control = kvm_reinject_control::default();
        let done = vm.ioctl_with(KVM_REINJECT_CONTROL, &mut control);
        assert_eq!(done, Err(ENXIO));
    }
}

fn unknown_controllers_are_refused() {
    let vm = Vm::with_irqchip();
    assert_eq!(get_chip(&vm, 3).err(), Some(EINVAL));
    let mut chip = chip(&vm, IOAPIC);
    chip.id = 3;
    assert_eq!(set_chip(&vm, chip), Err(EINVAL));
}

fn the_ioapic_is_as_after_reset() {
    let vm = Vm::with_irqchip();
    let chip = chip(&vm, IOAPIC);
    assert_eq!(chip.state[..8], 0xfec0_0000u64.to_le_bytes());
    assert!(chip.state[8..IOAPIC_TABLE].iter().all(|byte| *byte == 0));
    for pin in 0..24 {
        assert_eq!(entry(&vm, pin), MASKED, "{pin}");
    }
}

fn controllers_keep_the_state_that_is_set() {
    let vm = Vm::with_irqchip();
    for id in [MASTER, SLAVE] {
        let mut chip = chip(&vm, id);
        let state = [0, 0, 0xa5, 0x08, 3, 0x40, 1, 0, 1, 0, 0, 0, 0, 1, 0x08];
        chip.state[..15].copy_from_slice(&state);
        set_chip(&vm, chip).expect("KVM_SET_IRQCHIP");
        assert_eq!(self::chip(&vm, id).state[..15], state, "{id}");
    }
    let mut chip = chip(&vm, IOAPIC);
    for byte in &mut chip.state[IOAPIC_TABLE..IOAPIC_TABLE + 8 * 24] {
        *byte = 0;
    }
    for (pin, byte) in (0..24).map(|pin| (pin, IOAPIC_TABLE + 8 * pin)) {
        chip.state[byte] = 0x30 + pin as u8;
        chip.state[byte + 2] = 1;
        chip.state[byte + 7] = pin as u8;
    }
    chip.state[8] = 0x12;
    chip.state[12] = 5;
    set_chip(&vm, chip).expect("KVM_SET_IRQCHIP");
    assert_eq!(self::chip(&vm, IOAPIC).state[..216], chip.state[..216]);
}

fn the_timer_is_created_once() {
    let vm = Vm::with_irqchip();
    assert_eq!(create_pit(&vm, KVM_PIT_SPEAKER_DUMMY), Ok(0));
    assert_eq!(create_pit(&vm, 0), Err(EEXIST));
    let state = pit(&vm).expect("KVM_GET_PIT2");
    for (index, channel) in state.channels.iter().enumerate() {
        assert_eq!((channel.count, channel.mode), (0x1_0000, 0xff));
        assert_eq!(channel.gate, u8::from(index != 2));
    }
}

fn the_timer_keeps_the_state_that_is_set() {
    let vm = Vm::with_irqchip();
    create_pit(&vm, 0).expect("KVM_CREATE_PIT2");
    let mut state = pit(&vm).expect("KVM_GET_PIT2");
    state.flags = KVM_PIT_FLAGS_HPET_LEGACY | KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    for channel in &mut state.channels {
        channel.count = 0x1234;
        channel.mode = 3;
        channel.rw_mode = 3;
        channel.read_state = 4;
        channel.latched_count = 0x5678;
        channel.count_latched = 2;
    }
    vm.ioctl_with(KVM_SET_PIT2, &mut state.clone())
        .expect("KVM_SET_PIT2");
    let read = pit(&vm).expect("KVM_GET_PIT2");
    assert_eq!(read.flags, state.flags);
    for (read, set) in read.channels.iter().zip(&state.channels) {
        assert_eq!((read.count, read.mode, read.rw_mode), (0x1234, 3, 3));
        assert_eq!(read.read_state, set.read_state);
        assert_eq!(read.latched_count, set.latched_count);
        assert_eq!(read.count_latched, set.count_latched);
    }
    let mut control = kvm_reinject_control::default();
    let done = vm.ioctl_with(KVM_REINJECT_CONTROL, &mut control);
    assert_eq!(done, Ok(0));
}

fn userspace_injects_no_interrupts() {
    let guest = listener();
    let interrupt = kvm_interrupt { irq: 0x41 };
    assert_eq!(guest.cpu().set(KVM_INTERRUPT, interrupt), Err(ENXIO));
    let shared = guest.cpu().shared();
    assert_eq!(shared.ready_for_interrupt_injection, 1);
    shared.request_interrupt_window = 1;
    guest.run_to_done();
}

fn a_guest_programs_the_ioapic() {
    let guest = Guest::with(
        Mode::Long,
        Apic::All,
        1,
        code!(
            64,
            enable_x2apic!(),
            "mov al, 0xff; out 0x21, al; out 0xa1, al",
            "mov ebx, 0xfec00000",
            "mov dword ptr [rbx], 1",
            "mov eax, [rbx + 0x10]",
            "mov [0x20000], eax",
            "mov dword ptr [rbx], 0x19",
            "mov dword ptr [rbx + 0x10], 0",
            "mov dword ptr [rbx], 0x18",
            "mov dword ptr [rbx + 0x10], 0x44",
            "mov eax, [rbx + 0x10]",
            "mov [0x20004], eax",
            "mov eax, [rbx]",
            "mov [0x20008], eax",
            "out 0xe1, al",
            "sti; nop; cli",
            "out 0xe1, al"
        ),
    );
    guest.run_to_done();
    assert_eq!(guest.memory.read::<[u32; 3]>(DATA), [0x17_0011, 0x44, 0x18]);
    assert_eq!(pulse(&guest.vm, 4), 1);
    guest.run_to_done();
    assert_eq!(guest.count(0x44), 1);
}

fn an_edge_interrupts_once() {
    let guest = listener();
    set_entry(&guest.vm, 5, 0x45);
    assert_eq!(set_line(&guest.vm, 5, 1), Ok(1));
    assert_eq!(set_line(&guest.vm, 5, 1), Ok(0), "no edge");
    for _ in 0..2 {
        guest.run_to_done();
    }
    assert_eq!(guest.count(0x45), 1);
    drive(&guest.vm, 5, 0);
    drive(&guest.vm, 5, 1);
    guest.run_to_done();
    assert_eq!(guest.count(0x45), 2);
}

fn a_masked_line_is_ignored() {
    let guest = listener();
    assert_eq!(pulse(&guest.vm, 5), -1);
    assert_eq!(set_line(&guest.vm, 100, 1), Ok(-1), "no route");
    guest.run_to_done();
}

/// A handler that ends its interrupt and then says so, with 7.
const TELLING: u64 = DATA + 0x1000;

fn a_level_interrupts_until_it_is_low() {
    let guest = listener();
    set_entry(&guest.vm, 10, 0x4a | LEVEL);
    let handler = code!(
        64,
        "push rax; push rcx; push rdx",
        "mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr",
        "mov al, 7; out 0xe1, al",
        "pop rdx; pop rcx; pop rax; iretq"
    );
    guest.memory.copy(TELLING, handler);
    guest.set_gate(0x4a, TELLING);
    assert_eq!(set_line(&guest.vm, 10, 1), Ok(1));
    for _ in 0..3 {
        assert_eq!(guest.run_to_done(), 7);
    }
    drive(&guest.vm, 10, 0);
    assert_eq!(guest.run_to_done(), 7, "it was sent at the last end");
    for _ in 0..2 {
        assert_ne!(guest.run_to_done(), 7);
    }
    assert_eq!(entry(&guest.vm, 10) & REMOTE_IRR, 0);
}

fn a_level_waits_for_its_end() {
    let guest = listener();
    set_entry(&guest.vm, 10, 0x4a | LEVEL);
    assert_eq!(set_line(&guest.vm, 10, 1), Ok(1));
    assert_eq!(entry(&guest.vm, 10), 0x4a | LEVEL | REMOTE_IRR);
    assert_eq!(set_line(&guest.vm, 10, 1), Ok(-1));
    drive(&guest.vm, 10, 0);
    guest.run_to_done();
    guest.run_to_done();
    assert_eq!(guest.count(0x4a), 1);
    assert_eq!(entry(&guest.vm, 10), 0x4a | LEVEL);
}

fn a_tick_of_the_clock_is_coalesced_until_its_end() {
    let guest = listener();
    set_entry(&guest.vm, 8, 0x48);
    assert_eq!(pulse(&guest.vm, 8), 1);
    assert_eq!(pulse(&guest.vm, 8), 0);
    guest.run_to_done();
    assert_eq!(guest.count(0x48), 1);
    assert_eq!(pulse(&guest.vm, 8), 1);
}

fn a_pending_line_in_the_state_is_delivered() {
    let guest = listener();
    let mut chip = chip(&guest.vm, IOAPIC);
    chip.state[IOAPIC_IRR + 1] = 1 << 2;
    let at = IOAPIC_TABLE + 8 * 10;
    chip.state[at..at + 8].copy_from_slice(&(0x4a | LEVEL).to_le_bytes());
    set_chip(&guest.vm, chip).expect("KVM_SET_IRQCHIP");
    drive(&guest.vm, 10, 0);
    guest.run_to_done();
    assert_eq!(guest.count(0x4a), 1);
}

/// Guest code that gives the 8259As vectors from 0x60, with automatic ends.
macro_rules! program_8259 {
    () => {
        "mov al, 0x11; out 0x20, al; out 0xa0, al; mov al, 0x60; out 0x21, al; mov al, 0x68; \
         out 0xa1, al; mov al, 4; out 0x21, al; mov al, 2; out 0xa1, al; mov al, 3; \
         out 0x21, al; out 0xa1, al; xor eax, eax; out 0x21, al; out 0xa1, al"
    };
}

/// A guest as [`listener`], with 8259As that interrupt.
fn listener_8259() -> Guest {
    let guest = Guest::with(
        Mode::Long,
        Apic::All,
        1,
        code!(
            64,
            enable_x2apic!(),
            program_8259!(),
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

fn the_8259_interrupts_by_lint0() {
    let guest = listener_8259();
    assert_eq!(pulse(&guest.vm, 3), 1);
    assert_eq!(pulse(&guest.vm, 3), 0, "it waits already");
    guest.run_to_done();
    assert_eq!(guest.count(0x63), 1);
    assert_eq!(chip(&guest.vm, MASTER).state[PIC_ISR], 0);
}

fn the_8259_does_not_interrupt_a_masked_lint0() {
    let guest = listener_8259();
    let mut lapic: kvm_lapic_state = guest.cpu().get(KVM_GET_LAPIC);
    lapic.regs[0x352] = 1;
    guest
        .cpu()
        .set(KVM_SET_LAPIC, lapic)
        .expect("KVM_SET_LAPIC");
    pulse(&guest.vm, 3);
    guest.run_to_done();
    assert_eq!(guest.count(0x63), 0);
    lapic.regs[0x352] = 0;
    guest
        .cpu()
        .set(KVM_SET_LAPIC, lapic)
        .expect("KVM_SET_LAPIC");
    guest.run_to_done();
    assert_eq!(guest.count(0x63), 1);
}

fn lines_of_the_slave_come_by_the_cascade() {
    let guest = listener_8259();
    pulse(&guest.vm, 12);
    pulse(&guest.vm, 9);
    guest.run_to_done();
    guest.run_to_done();
    assert_eq!((guest.count(0x69), guest.count(0x6c)), (1, 1));
}

/// Calls `wake` while the vCPU of `guest` is halted, and wants it to say that it is done.
fn woken(guest: &Guest, wake: impl FnOnce() + Send) {
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            wake();
        });
        guest.run_to_done();
    });
}

fn a_line_wakes_a_halted_vcpu() {
    let guest = listener();
    set_entry(&guest.vm, 5, 0x45);
    guest.restart(code!(64, "sti", "hlt", "cli", "out 0xe1, al"));
    let vm = &guest.vm;
    woken(&guest, || drive(vm, 5, 1));
    assert_eq!(guest.count(0x45), 1);
}

fn a_line_of_the_8259_wakes_a_halted_vcpu() {
    let guest = listener_8259();
    guest.restart(code!(64, "sti", "hlt", "cli", "out 0xe1, al"));
    let vm = &guest.vm;
    woken(&guest, || drive(vm, 5, 1));
    assert_eq!(guest.count(0x65), 1);
}

fn the_timer_ticks() {
    let guest = listener_8259();
    create_pit(&guest.vm, 0).expect("KVM_CREATE_PIT2");
    guest.restart(code!(
        64,
        // Channel 0, mode 2, a kilohertz.
        "mov al, 0x34; out 0x43, al; mov al, 0xa9; out 0x40, al; mov al, 4; out 0x40, al",
        "mov ecx, 5",
        "2:",
        "sti; hlt; cli",
        "dec ecx",
        "jnz 2b",
        "mov al, 0x30; out 0x43, al",
        "out 0xe1, al"
    ));
    guest.run_to_done();
    assert!(guest.count(0x60) >= 5);
}

fn the_timer_counts_down() {
    let guest = listener();
    create_pit(&guest.vm, 0).expect("KVM_CREATE_PIT2");
    guest.restart(code!(
        64,
        "mov al, 0x34; out 0x43, al; xor eax, eax; out 0x40, al; out 0x40, al",
        "mov edi, 0x20000",
        "mov ecx, 8",
        "2:",
        "xor eax, eax; out 0x43, al",
        "in al, 0x40; mov [rdi], al; in al, 0x40; mov [rdi + 1], al",
        "add edi, 2",
        "dec ecx",
        "jnz 2b",
        // The status: mode 2, both bytes.
        "mov al, 0xe2; out 0x43, al; in al, 0x40; mov [rdi], al",
        "out 0xe1, al"
    ));
    guest.run_to_done();
    let counts: [u16; 8] = guest.memory.read(DATA);
    // 2^16 clocks are 55 ms, so it wraps at most now and then.
    let falls = counts.windows(2).filter(|pair| pair[1] < pair[0]).count();
    assert!(falls >= 5, "{counts:?}");
    assert_eq!(guest.memory.read::<u8>(DATA + 16) & 0x3f, 0x34);
}

fn the_speaker_port_shows_channel_2() {
    let guest = listener();
    create_pit(&guest.vm, KVM_PIT_SPEAKER_DUMMY).expect("KVM_CREATE_PIT2");
    guest.restart(code!(
        64,
        // Channel 2, mode 0, a thousand clocks, its gate high.
        "mov al, 1; out 0x61, al",
        "mov al, 0xb0; out 0x43, al; mov al, 0xe8; out 0x42, al; mov al, 3; out 0x42, al",
        "2:",
        "in al, 0x61",
        "test al, 0x20",
        "jz 2b",
        "out 0xe1, al"
    ));
    let value = guest.run_to_done();
    assert_eq!(value & 0x23, 0x21);
}

fn lines_above_15_go_to_the_ioapic_alone() {
    let guest = listener_8259();
    set_entry(&guest.vm, 20, 0x54);
    assert_eq!(pulse(&guest.vm, 20), 1);
    guest.run_to_done();
    assert_eq!(guest.count(0x54), 1);
    assert_eq!(set_line(&guest.vm, 24, 1), Ok(-1));
}

fn pin_route(gsi: u32, chip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip.irqchip = chip;
    entry.u.irqchip.pin = pin;
    entry
}

fn routes_to_pins_are_checked() {
    let vm = Vm::with_irqchip();
    for (chip, pins) in [(MASTER, 8), (SLAVE, 8), (IOAPIC, 24)] {
        assert_eq!(set_routes(&vm, &[pin_route(1, chip, pins - 1)]), Ok(0));
        assert_eq!(set_routes(&vm, &[pin_route(1, chip, pins)]), Err(EINVAL));
    }
    assert_eq!(set_routes(&vm, &[pin_route(1, 3, 0)]), Err(EINVAL));
    let twice = [pin_route(1, IOAPIC, 0), pin_route(1, IOAPIC, 1)];
    assert_eq!(set_routes(&vm, &twice), Err(EINVAL));
    let both = [pin_route(1, IOAPIC, 0), pin_route(1, MASTER, 1)];
    assert_eq!(set_routes(&vm, &both), Ok(0));
    let split = Vm::with_lapics();
    assert_eq!(set_routes(&split, &[pin_route(1, IOAPIC, 1)]), Err(EINVAL));
}

fn a_route_leads_to_another_pin() {
    let guest = listener();
    set_entry(&guest.vm, 7, 0x47);
    let routes = [pin_route(60, IOAPIC, 7), route(61, 0xfee0_0000, 0x51)];
    set_routes(&guest.vm, &routes).expect("KVM_SET_GSI_ROUTING");
    assert_eq!(pulse(&guest.vm, 60), 1);
    assert_eq!(set_line(&guest.vm, 61, 1), Ok(1));
    assert_eq!(set_line(&guest.vm, 61, 0), Ok(-1), "messages have no end");
    assert_eq!(set_line(&guest.vm, 7, 1), Ok(-1), "the default is gone");
    guest.run_to_done();
    guest.run_to_done();
    assert_eq!((guest.count(0x47), guest.count(0x51)), (1, 1));
}

fn a_line_of_a_split_irqchip_sends_its_message() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "out 0xe1, al; sti; nop; cli",
            "out 0xe1, al"
        ),
    );
    guest.run_to_done();
    let routes = [route(2, 0xfee0_0000, 0x42)];
    set_routes(&guest.vm, &routes).expect("KVM_SET_GSI_ROUTING");
    assert_eq!(set_line(&guest.vm, 2, 1), Ok(1));
    assert_eq!(set_line(&guest.vm, 3, 1), Ok(-1));
    guest.run_to_done();
    assert_eq!(guest.count(0x42), 1);
}

fn irqfd(vm: &Vm, fd: &OwnedFd, gsi: u32, flags: u32, resample: &OwnedFd) -> Result {
    let mut irqfd = kvm_irqfd {
        fd: fd.as_raw_fd() as u32,
        gsi,
        flags,
        resamplefd: resample.as_raw_fd() as u32,
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

fn a_resampler_learns_of_the_end() {
    let guest = listener();
    set_entry(&guest.vm, 10, 0x4a | LEVEL);
    let (fd, resample) = (eventfd(), eventfd());
    irqfd(&guest.vm, &fd, 10, KVM_IRQFD_FLAG_RESAMPLE, &resample).expect("KVM_IRQFD");
    signal(&fd);
    wait_for(&guest, 0x4a, 1);
    assert_eq!(take(&resample), 1);
    // The line went low with the end, so it is an edge again.
    guest.run_to_done();
    assert_eq!((guest.count(0x4a), take(&resample)), (1, 0));
    irqfd(&guest.vm, &fd, 10, KVM_IRQFD_FLAG_DEASSIGN, &resample).expect("KVM_IRQFD");
    signal(&fd);
    thread::sleep(Duration::from_millis(20));
    guest.run_to_done();
    assert_eq!(guest.count(0x4a), 1);
}

fn a_resampler_raises_its_line_again() {
    let guest = listener();
    set_entry(&guest.vm, 10, 0x4a | LEVEL);
    let (fd, resample) = (eventfd(), eventfd());
    irqfd(&guest.vm, &fd, 10, KVM_IRQFD_FLAG_RESAMPLE, &resample).expect("KVM_IRQFD");
    for count in 1..4 {
        signal(&fd);
        wait_for(&guest, 0x4a, count);
        assert_eq!(take(&resample), 1);
    }
}

fn a_resampler_needs_an_ioapic() {
    let (fd, resample) = (eventfd(), eventfd());
    let flags = KVM_IRQFD_FLAG_RESAMPLE;
    let split = Vm::with_lapics();
    assert_eq!(irqfd(&split, &fd, 10, flags, &resample), Err(EINVAL));
    let vm = Vm::with_irqchip();
    let null = std::fs::File::open("/dev/null").expect("/dev/null").into();
    assert_eq!(irqfd(&vm, &fd, 10, flags, &null), Err(EINVAL));
    assert_eq!(irqfd(&vm, &fd, 10, flags, &resample), Ok(0));
}

fn a_word_in_memory_is_the_task_priority() {
    let address = |vapic_addr| kvm_vapic_addr { vapic_addr };
    let guest = Guest::new(Mode::Long, code!(64, "hlt"));
    let refused = guest.cpu().set(KVM_SET_VAPIC_ADDR, address(0));
    assert_eq!(refused, Err(EINVAL));
    let guest = listener();
    let set = |value| guest.cpu().set(KVM_SET_VAPIC_ADDR, address(value));
    assert_eq!(set(0xffff_f000), Err(EINVAL));
    assert_eq!(set(DATA), Ok(0));
    guest.restart(code!(
        64,
        "mov eax, [0x20000]",
        "mov byte ptr [0x20000], 0x50",
        "out 0xe1, eax"
    ));
    assert_eq!(guest.run_to_done() & 0xff, 0);
    assert_eq!(guest.cpu().sregs().cr8, 5);
    assert_eq!(set(0), Ok(0));
}
