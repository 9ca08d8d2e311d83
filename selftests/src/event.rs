// SPDX-License-Identifier: GPL-2.0

//! Interrupts that a VMM injects itself, without the kernel's irqchip; NMIs.

use kvm_bindings::*;
use libc::{
    EEXIST, //
    EINVAL,
};

use crate::{
    code,
    group,
    guest::{
        Apic,
        Guest,
        Mode,
        DATA,
        IDT,
        MMIO, //
    },
    ioctl::*,
    kvm::*, //
};

group!("event":
    an_injected_interrupt_is_taken,
    an_injected_interrupt_waits_for_sti,
    an_interrupt_wakes_a_halted_vcpu,
    a_vector_beyond_255_is_refused,
    the_window_opens_with_interrupts,
    the_window_is_closed_by_mov_ss_and_sti,
    kvm_run_says_when_it_is_ready,
    an_interrupt_over_fresh_memory_is_not_lost,
    an_interrupt_in_real_mode,
    with_a_split_irqchip_one_interrupt_is_queued,
    an_nmi_is_taken_with_interrupts_off,
    nmis_are_blocked_until_iret,
    a_second_nmi_waits,
    an_nmi_wakes_a_halted_vcpu,
    an_interrupt_does_not_break_string_io,
);

/// `KVM_INTERRUPT`.
fn inject(vcpu: &Vcpu, irq: u32) -> Result {
    vcpu.set(KVM_INTERRUPT, kvm_interrupt { irq })
}

/// Lets `vector` go to a handler that reports the vector at [`MMIO`]'s port.
fn handle(guest: &Guest, vector: u8) {
    guest.set_gate(vector, 0x6000);
    guest
        .memory
        .copy(0x6000, code!(64, "inc dword ptr [0x20000]", "iretq"));
}

fn taken(guest: &Guest) -> u32 {
    guest.memory.read::<u32>(DATA)
}

fn an_injected_interrupt_is_taken() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "sti", "nop", "out 0xe1, al", "nop", "hlt"),
    );
    handle(&guest, 0x33);
    guest.run_to_done();
    assert_eq!(inject(guest.cpu(), 0x33), Ok(0));
    guest.run_to_hlt();
    assert_eq!(taken(&guest), 1);
}

fn an_injected_interrupt_waits_for_sti() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "out 0xe1, al",
            "mov ebx, [0x20000]",
            "sti",
            "nop",
            "nop",
            "cli",
            "hlt"
        ),
    );
    handle(&guest, 0x33);
    guest.run_to_done();
    // A VMM that injects while it may not gets an interrupt that waits.
    assert_eq!(guest.cpu().shared().ready_for_interrupt_injection, 0);
    guest.cpu().shared().request_interrupt_window = 1;
    assert_eq!(guest.run(), Exit::IrqWindow);
    assert_eq!(guest.cpu().shared().ready_for_interrupt_injection, 1);
    guest.cpu().shared().request_interrupt_window = 0;
    assert_eq!(inject(guest.cpu(), 0x33), Ok(0));
    guest.run_to_hlt();
    assert_eq!((taken(&guest), guest.cpu().regs().rbx), (1, 0));
}

fn an_interrupt_wakes_a_halted_vcpu() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "sti", "hlt", "mov eax, 7", "out 0xe1, eax"),
    );
    handle(&guest, 0x44);
    guest.run_to_hlt();
    assert_eq!(inject(guest.cpu(), 0x44), Ok(0));
    assert_eq!(guest.run_to_done(), 7);
    assert_eq!(taken(&guest), 1);
}

fn a_vector_beyond_255_is_refused() {
    let guest = Guest::new(Mode::Long, code!(64, "hlt"));
    for irq in [256, u32::MAX] {
        assert_eq!(inject(guest.cpu(), irq), Err(EINVAL));
    }
}

fn the_window_opens_with_interrupts() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ecx, 100",
            "2:",
            "loop 2b",
            "sti",
            "nop",
            "mov ebx, 5",
            "hlt"
        ),
    );
    guest.cpu().shared().request_interrupt_window = 1;
    assert_eq!(guest.run(), Exit::IrqWindow);
    let regs = guest.cpu().regs();
    assert_eq!((regs.rcx, regs.rbx), (0, 0));
    assert_eq!(guest.cpu().shared().if_flag, 1);
    // Without the request the guest just goes on.
    guest.cpu().shared().request_interrupt_window = 0;
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rbx, 5);
}

fn the_window_is_closed_by_mov_ss_and_sti() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov ax, ss",
            "sti",
            "mov ss, ax",
            "inc ebx",
            "inc ebx",
            "hlt"
        ),
    );
    guest.cpu().shared().request_interrupt_window = 1;
    assert_eq!(guest.run(), Exit::IrqWindow);
    // STI blocks until MOV SS is done, which blocks until INC is.
    assert_eq!(guest.cpu().regs().rbx, 1);
}

fn kvm_run_says_when_it_is_ready() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "out 0xe1, al", "sti", "nop", "out 0xe1, al"),
    );
    guest.run_to_done();
    assert_eq!(guest.cpu().shared().ready_for_interrupt_injection, 0);
    guest.run_to_done();
    assert_eq!(guest.cpu().shared().ready_for_interrupt_injection, 1);
    assert_eq!(inject(guest.cpu(), 0x33), Ok(0));
    guest.cpu().shared().immediate_exit = 1;
    assert_eq!(guest.cpu().run_raw(), Err(libc::EINTR));
    assert_eq!(guest.cpu().shared().ready_for_interrupt_injection, 0);
}

fn an_interrupt_over_fresh_memory_is_not_lost() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "sti", "nop", "out 0xe1, al", "nop", "hlt"),
    );
    handle(&guest, 0x55);
    let memory = Memory::new(4 * PAGE as usize);
    guest.vm.map(1, MMIO, &memory);
    for offset in (0..PAGE).step_by(8) {
        memory.write::<u64>(offset, guest.memory.read::<u64>(IDT + offset));
    }
    let mut sregs = guest.cpu().sregs();
    sregs.idt.base = MMIO;
    guest.cpu().set_sregs(&sregs);
    let mut regs = guest.cpu().regs();
    regs.rsp = MMIO + 4 * PAGE;
    guest.cpu().set_regs(&regs);
    guest.run_to_done();
    assert_eq!(inject(guest.cpu(), 0x55), Ok(0));
    guest.run_to_hlt();
    assert_eq!(taken(&guest), 1);
}

fn an_interrupt_in_real_mode() {
    let guest = Guest::new(
        Mode::Real,
        code!(16, "sti", "nop", "out 0xe1, al", "nop", "hlt"),
    );
    guest.memory.write::<u32>(0x20 * 4, 0x6000);
    guest.memory.copy(0x6000, code!(16, "mov bx, 0x99", "iret"));
    guest.run_to_done();
    assert_eq!(inject(guest.cpu(), 0x20), Ok(0));
    guest.run_to_hlt();
    assert_eq!(guest.cpu().regs().rbx, 0x99);
}

fn with_a_split_irqchip_one_interrupt_is_queued() {
    let guest = Guest::with_lapic(Mode::Long, code!(64, "sti", "nop", "nop", "out 0xe1, al"));
    handle(&guest, 0x33);
    assert_eq!(inject(guest.cpu(), 256), Err(EINVAL));
    // As an 8259's, it goes past the local APIC: LINT0 must say so.
    let mut lapic: kvm_lapic_state = guest.cpu().get(KVM_GET_LAPIC);
    lapic.regs[0x351] = 7;
    lapic.regs[0x352] = 0;
    lapic.regs[0xf1] = 1;
    assert_eq!(guest.cpu().set(KVM_SET_LAPIC, lapic), Ok(0));
    assert_eq!(inject(guest.cpu(), 0x33), Ok(0));
    assert_eq!(inject(guest.cpu(), 0x34), Err(EEXIST));
    guest.run_to_done();
    assert_eq!(taken(&guest), 1);
}

fn nmi(guest: &Guest) {
    assert_eq!(guest.cpu().ioctl(KVM_NMI, 0), Ok(0));
}

fn an_nmi_is_taken_with_interrupts_off() {
    require(KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI");
    let guest = Guest::new(Mode::Long, code!(64, "out 0xe1, al", "nop", "hlt"));
    handle(&guest, 2);
    guest.run_to_done();
    nmi(&guest);
    guest.run_to_hlt();
    assert_eq!(taken(&guest), 1);
}

fn nmis_are_blocked_until_iret() {
    require(KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI");
    let guest = Guest::new(Mode::Long, code!(64, "out 0xe1, al", "nop", "hlt"));
    guest.set_gate(2, 0x6000);
    guest.memory.copy(
        0x6000,
        code!(
            64,
            "inc dword ptr [0x20000]",
            "mov al, [0x20000]",
            "out 0xe2, al",
            "iretq"
        ),
    );
    guest.run_to_done();
    nmi(&guest);
    assert_eq!(guest.run_to(0xe2), 1);
    // In the handler: this one waits for IRET, then comes at once.
    nmi(&guest);
    guest.cpu().shared().immediate_exit = 1;
    assert_eq!(guest.cpu().run_raw(), Err(libc::EINTR));
    guest.cpu().shared().immediate_exit = 0;
    assert_eq!(taken(&guest), 1);
    assert_eq!(guest.run_to(0xe2), 2);
    guest.run_to_hlt();
    assert_eq!(taken(&guest), 2);
}

fn a_second_nmi_waits() {
    require(KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI");
    let guest = Guest::new(Mode::Long, code!(64, "out 0xe1, al", "nop", "nop", "hlt"));
    handle(&guest, 2);
    guest.run_to_done();
    // One is served and one is latched, however many come.
    for _ in 0..4 {
        nmi(&guest);
    }
    guest.run_to_hlt();
    assert_eq!(taken(&guest), 2);
}

fn an_nmi_wakes_a_halted_vcpu() {
    let guest = Guest::with(
        Mode::Long,
        Apic::Kernel,
        1,
        code!(
            64,
            crate::enable_x2apic!(),
            "out 0xe1, al",
            "hlt",
            "mov al, 9",
            "out 0xe1, al"
        ),
    );
    handle(&guest, 2);
    guest.run_to_done();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            // KVM_NMI would wait for the run to end; a message does not.
            assert_eq!(guest.vm.signal_msi(0xfee0_0000, 4 << 8), Ok(1));
        });
        assert_eq!(guest.run_to_done(), 9);
    });
    assert_eq!(taken(&guest), 1);
}

fn an_interrupt_does_not_break_string_io() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "sti",
            "mov esi, 0x21000",
            "mov dx, 0x1234",
            "mov ecx, 3000",
            "rep outsb",
            "cli",
            "hlt"
        ),
    );
    handle(&guest, 0x33);
    let bytes: Vec<u8> = (0..3000).map(|i| (i * 3) as u8).collect();
    guest.memory.copy(0x2_1000, &bytes);
    let mut sent = Vec::new();
    loop {
        match guest.run() {
            Exit::Out(0x1234, ..) => {
                sent.extend(guest.cpu().io_bytes());
                if guest.cpu().shared().ready_for_interrupt_injection != 0 {
                    assert_eq!(inject(guest.cpu(), 0x33), Ok(0));
                }
            }
            Exit::Hlt => break,
            exit => panic!("{exit:x?}"),
        }
    }
    assert_eq!(sent, bytes);
    assert!(taken(&guest) >= 1);
}
