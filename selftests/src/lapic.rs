// SPDX-License-Identifier: GPL-2.0

//! The local APIC: registers in both modes, priorities, and its timer.

use kvm_bindings::*;
use libc::EINVAL;
use std::time::{
    Duration,
    Instant, //
};

use crate::{
    code,
    enable_x2apic,
    group,
    guest::{
        Guest,
        Mode,
        DATA, //
    },
    harness::skip_on_upstream,
    ioctl::*,
    kvm::*, //
};

group!("lapic":
    there_is_none_without_an_irqchip,
    it_is_as_after_reset,
    state_round_trips,
    xapic_registers_are_in_memory,
    x2apic_registers_are_msrs,
    a_reserved_x2apic_register_faults,
    a_self_ipi_in_xapic_mode,
    a_self_ipi_in_x2apic_mode,
    higher_priorities_come_first,
    the_task_priority_holds_back,
    cr8_is_the_task_priority,
    an_eoi_lets_the_next_one_in,
    a_pending_interrupt_in_the_state_is_delivered,
    a_vector_below_16_is_an_error,
    a_masked_apic_takes_nothing,
    the_page_moves_with_its_base,
    a_disabled_apic_is_not_in_memory,
    hlt_waits_for_an_interrupt,
    the_timer_fires_once,
    the_timer_fires_periodically,
    the_timer_can_be_masked,
    the_timer_counts_down,
    the_divider_divides,
    the_tsc_deadline_fires,
    a_deadline_in_the_past_fires_at_once,
    a_deadline_of_zero_disarms,
    the_deadline_survives_save_and_restore,
    a_deadline_that_passes_in_userspace_fires_in_the_next_run,
    the_deadline_comes_nearer_when_the_tsc_is_set_forward,
    the_deadline_interrupts_a_busy_guest,
    the_timer_interrupts_a_busy_guest,
    accesses_to_the_task_priority_are_reported,
    a_guest_can_be_told_that_eois_are_suppressed,
    suppressing_eois_wants_the_io_apic_in_userspace,
);

fn there_is_none_without_an_irqchip() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    let mut state = kvm_lapic_state::default();
    assert_eq!(vcpu.ioctl_with(KVM_GET_LAPIC, &mut state), Err(EINVAL));
    assert_eq!(vcpu.ioctl_with(KVM_SET_LAPIC, &mut state), Err(EINVAL));
}

/// A register of the APIC's page.
fn register(state: &kvm_lapic_state, offset: usize) -> u32 {
    let bytes: Vec<u8> = state.regs[offset..offset + 4]
        .iter()
        .map(|b| *b as u8)
        .collect();
    u32::from_le_bytes(bytes.try_into().expect("4 bytes"))
}

fn set_register(state: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (slot, byte) in state.regs[offset..].iter_mut().zip(value.to_le_bytes()) {
        *slot = byte as i8;
    }
}

fn lapic(guest: &Guest) -> kvm_lapic_state {
    guest.cpu().get(KVM_GET_LAPIC)
}

fn it_is_as_after_reset() {
    let guest = Guest::with_lapic(Mode::Long, code!(64, "hlt"));
    let state = lapic(&guest);
    assert_eq!(register(&state, 0x20), 0); // ID
    assert_eq!(register(&state, 0x30) & 0xff, 0x14); // Version
    assert!((register(&state, 0x30) >> 16) & 0xff >= 5); // Highest LVT entry
    assert_eq!(register(&state, 0x80), 0); // TPR
    assert_eq!(register(&state, 0xe0), u32::MAX); // DFR
    assert_eq!(register(&state, 0xf0), 0xff); // SVR: software-disabled
    for lvt in [0x320, 0x330, 0x340, 0x370] {
        assert_eq!(register(&state, lvt), 1 << 16, "{lvt:#x}");
    }
}

fn state_round_trips() {
    let guest = Guest::with_lapic(Mode::Long, code!(64, "hlt"));
    let mut state = lapic(&guest);
    set_register(&mut state, 0xf0, 0x1ff);
    set_register(&mut state, 0x80, 0x20);
    set_register(&mut state, 0x320, 0x2_0041);
    set_register(&mut state, 0x3e0, 0xb);
    set_register(&mut state, 0x210, 0x100); // IRR: vector 0x28.
    assert_eq!(guest.cpu().set(KVM_SET_LAPIC, state), Ok(0));
    let read = lapic(&guest);
    for offset in [0xf0, 0x80, 0x320, 0x3e0, 0x210] {
        assert_eq!(
            register(&read, offset),
            register(&state, offset),
            "{offset:#x}"
        );
    }
    assert_eq!(guest.cpu().sregs().cr8, 2);
}

fn xapic_registers_are_in_memory() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0xfee00000",
            "mov eax, [rbx + 0x30]",
            "mov [0x20000], eax",
            "mov dword ptr [rbx + 0x80], 0x35",
            "mov eax, [rbx + 0x80]",
            "mov [0x20004], eax",
            "mov dword ptr [rbx + 0xf0], 0x1ff",
            "mov eax, [rbx + 0xf0]",
            "mov [0x20008], eax",
            "mov dword ptr [rbx + 0xd0], 0x12000000",
            "mov eax, [rbx + 0xd0]",
            "mov [0x2000c], eax",
            "mov rax, cr8",
            "out 0xe1, eax"
        ),
    );
    assert_eq!(guest.run_to_done(), 3);
    let read: [u32; 4] = guest.memory.read(DATA);
    assert_eq!(read[0] & 0xff, 0x14);
    assert_eq!(read[1..], [0x35, 0x1ff, 0x1200_0000]);
}

fn x2apic_registers_are_msrs() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x802",
            "rdmsr",
            "mov [0x20000], eax",
            "mov ecx, 0x803",
            "rdmsr",
            "mov [0x20004], eax",
            "mov ecx, 0x808",
            "mov eax, 0x40",
            "xor edx, edx",
            "wrmsr",
            "rdmsr",
            "mov [0x20008], eax",
            "mov ecx, 0x80d",
            "rdmsr",
            "mov [0x2000c], eax",
            "mov rax, cr8",
            "out 0xe1, eax"
        ),
    );
    assert_eq!(guest.run_to_done(), 4);
    let read: [u32; 4] = guest.memory.read(DATA);
    assert_eq!(
        (read[0], read[1] & 0xff, read[2], read[3]),
        (0, 0x14, 0x40, 1)
    );
    assert_eq!(guest.cpu().sregs().apic_base, 0xfee0_0d00);
}

fn a_reserved_x2apic_register_faults() {
    // By the manual an EOI other than 0 faults too; upstream takes any.
    for code in [
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x801",
            "rdmsr",
            "out 0xe1, al"
        ),
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x80b",
            "rdmsr",
            "out 0xe1, al"
        ), // EOI: write-only.
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x802",
            "wrmsr",
            "out 0xe1, al"
        ), // ID: read-only.
        // In xAPIC mode there are no such MSRs at all.
        code!(64, "mov ecx, 0x802", "rdmsr", "out 0xe1, al"),
    ] {
        let guest = Guest::with_lapic(Mode::Long, code);
        assert_eq!(guest.run_to(crate::guest::EXCEPTION), 13, "{code:x?}");
    }
}

fn a_self_ipi_in_xapic_mode() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            "mov ebx, 0xfee00000",
            "mov dword ptr [rbx + 0xf0], 0x1ff",
            "sti",
            "mov dword ptr [rbx + 0x310], 0",
            "mov dword ptr [rbx + 0x300], 0x40041",
            "nop",
            "nop",
            "mov eax, [0x20000]",
            "out 0xe1, eax"
        ),
    );
    guest.set_gate(0x41, 0x6000);
    guest.memory.copy(
        0x6000,
        code!(
            64,
            "inc dword ptr [0x20000]",
            "mov dword ptr [rbx + 0xb0], 0",
            "iretq"
        ),
    );
    assert_eq!(guest.run_to_done(), 1);
    // The EOI has cleared the in-service bit.
    assert_eq!(register(&lapic(&guest), 0x120), 0);
}

fn a_self_ipi_in_x2apic_mode() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "sti",
            "mov ecx, 0x83f",
            "mov eax, 0x61",
            "xor edx, edx",
            "wrmsr",
            "nop",
            // The same by the interrupt command register's shorthand.
            "mov ecx, 0x830",
            "mov eax, 0x40061",
            "wrmsr",
            "nop",
            "out 0xe1, al"
        ),
    );
    guest.run_to_done();
    assert_eq!(guest.count(0x61), 2);
}

/// Sends `vectors` to itself with interrupts off, then takes them; the order in
/// which they came is at [`DATA`].
fn order_of(vectors: [u8; 3], tpr: u8) -> (Guest, Vec<u8>) {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "movzx eax, byte ptr [0x21003]",
            "mov ecx, 0x808",
            "xor edx, edx",
            "wrmsr",
            "mov edi, 0x20000",
            "mov esi, 0x21000",
            "mov ecx, 0x83f",
            "mov ebx, 3",
            "2:",
            "xor eax, eax",
            "lodsb",
            "wrmsr",
            "dec ebx",
            "jnz 2b",
            "sti",
            "nop",
            "nop",
            "cli",
            "out 0xe1, al",
            "mov ecx, 0x808",
            "xor eax, eax",
            "wrmsr",
            "sti",
            "nop",
            "nop",
            "cli",
            "out 0xe1, al"
        ),
    );
    guest.memory.copy(DATA + 0x1000, &vectors);
    guest.memory.write::<u8>(DATA + 0x1003, tpr);
    for (vector, at) in vectors.into_iter().zip([0x6000, 0x6100, 0x6200]) {
        guest.set_gate(vector, at);
        let mut code = vec![0xb0, vector, 0xaa]; // mov al, vector; stosb
        code.extend(code!(
            64,
            "push rcx",
            "push rdx",
            "mov ecx, 0x80b",
            "xor eax, eax",
            "xor edx, edx",
            "wrmsr",
            "pop rdx",
            "pop rcx",
            "iretq"
        ));
        guest.memory.copy(at, &code);
    }
    guest.run_to_done();
    let order = read_order(&guest);
    (guest, order)
}

fn read_order(guest: &Guest) -> Vec<u8> {
    let bytes: [u8; 4] = guest.memory.read(DATA);
    bytes.into_iter().take_while(|byte| *byte != 0).collect()
}

fn higher_priorities_come_first() {
    let (_, order) = order_of([0x45, 0x91, 0x62], 0);
    assert_eq!(order, [0x91, 0x62, 0x45]);
    // Within a class the higher vector is first too.
    let (_, order) = order_of([0x51, 0x5f, 0x50], 0);
    assert_eq!(order, [0x5f, 0x51, 0x50]);
}

fn the_task_priority_holds_back() {
    let (guest, order) = order_of([0x45, 0x91, 0x62], 0x60);
    assert_eq!(order, [0x91]);
    guest.run_to_done();
    assert_eq!(read_order(&guest), [0x91, 0x62, 0x45]);
}

fn cr8_is_the_task_priority() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "mov eax, 5",
            "mov cr8, rax",
            "mov ecx, 0x808",
            "rdmsr",
            "mov [0x20000], eax",
            "sti",
            "mov ecx, 0x83f",
            "mov eax, 0x55",
            "wrmsr",
            "nop",
            "out 0xe1, al",
            "xor eax, eax",
            "mov cr8, rax",
            "nop",
            "out 0xe1, al"
        ),
    );
    guest.run_to_done();
    assert_eq!(
        (guest.memory.read::<u32>(DATA), guest.count(0x55)),
        (0x50, 0)
    );
    assert_eq!(guest.cpu().shared().cr8, 5);
    guest.run_to_done();
    assert_eq!(guest.count(0x55), 1);
}

fn an_eoi_lets_the_next_one_in() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x83f",
            "mov eax, 0x58",
            "wrmsr",
            "sti",
            "nop",
            "mov eax, 0x57",
            "wrmsr",
            "nop",
            "nop",
            "out 0xe1, al",
            // The same class stays blocked until this.
            "mov ecx, 0x80b",
            "xor eax, eax",
            "wrmsr",
            "nop",
            "out 0xe1, al"
        ),
    );
    guest.set_gate(0x58, 0x6000);
    guest
        .memory
        .copy(0x6000, code!(64, "inc dword ptr [0x20000]", "iretq"));
    guest.run_to_done();
    assert_eq!((guest.memory.read::<u32>(DATA), guest.count(0x57)), (1, 0));
    assert_eq!(register(&lapic(&guest), 0x120), 1 << 24); // In service: 0x58.
    guest.run_to_done();
    assert_eq!(guest.count(0x57), 1);
}

fn a_pending_interrupt_in_the_state_is_delivered() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "out 0xe1, al",
            "sti",
            "nop",
            "nop",
            "out 0xe1, al"
        ),
    );
    guest.run_to_done();
    let mut state = lapic(&guest);
    set_register(&mut state, 0x230, 1 << 3); // IRR: vector 0x63.
    assert_eq!(guest.cpu().set(KVM_SET_LAPIC, state), Ok(0));
    guest.run_to_done();
    assert_eq!(guest.count(0x63), 1);
}

fn a_vector_below_16_is_an_error() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x828",
            "xor eax, eax",
            "wrmsr",
            // No fault in the end, and no interrupt.
            "sti",
            "mov ecx, 0x830",
            "mov eax, 0x40005",
            "wrmsr",
            "nop",
            "out 0xe1, al"
        ),
    );
    guest.run_to_done();
}

fn a_masked_apic_takes_nothing() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x80f",
            "mov eax, 0xff",
            "wrmsr",
            "out 0xe1, al",
            "sti",
            "nop",
            "nop",
            "out 0xe1, al"
        ),
    );
    guest.run_to_done();
    assert!(guest
        .vm
        .signal_msi(0xfee0_0000, 0x41)
        .is_ok_and(|count| count <= 0));
    guest.run_to_done();
    assert_eq!(guest.count(0x41), 0);
}

fn the_page_moves_with_its_base() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            "mov ecx, 0x1b",
            "mov eax, 0xd0000900",
            "xor edx, edx",
            "wrmsr",
            "mov ebx, 0xfee00030",
            "mov eax, [rbx]",
            "mov ebx, 0xd0000000",
            "mov eax, [rbx + 0x30]",
            "out 0xe1, eax"
        ),
    );
    assert_eq!(guest.run(), Exit::MmioRead(0xfee0_0030, 4));
    assert_eq!(guest.run_to_done() & 0xff, 0x14);
    assert_eq!(guest.cpu().shared().apic_base, 0xd000_0900);
}

fn a_disabled_apic_is_not_in_memory() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            "mov ecx, 0x1b",
            "mov eax, 0xfee00100",
            "xor edx, edx",
            "wrmsr",
            "mov ebx, 0xfee00000",
            "mov dword ptr [rbx + 0x80], 5",
            "mov eax, [rbx + 0x30]",
            "out 0xe1, eax",
            "mov eax, 1",
            "cpuid",
            "mov eax, edx",
            "out 0xe1, eax"
        ),
    );
    // KVM_X86_QUIRK_LAPIC_MMIO_HOLE: a hole, not an exit.
    assert_eq!(guest.run_to_done(), u32::MAX);
    // CPUID.01H:EDX[9] follows the enable bit.
    assert_eq!((guest.run_to_done() >> 9) & 1, 0);
}

/// Interrupts the vCPU's run after some time.
fn run_for(guest: &Guest, time: Duration) -> Result {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: The handler does nothing; the thread that is signalled waits for
    // the sender at the end of the scope.
    unsafe {
        libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t);
        let this = libc::pthread_self() as usize;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(time);
                libc::pthread_kill(this as libc::pthread_t, libc::SIGUSR1);
            });
            guest.cpu().run_raw()
        })
    }
}

fn hlt_waits_for_an_interrupt() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(64, enable_x2apic!(), "sti", "hlt", "out 0xe1, al"),
    );
    assert_eq!(run_for(&guest, Duration::from_millis(50)), Err(libc::EINTR));
    assert_eq!(guest.vm.signal_msi(0xfee0_0000, 0x41), Ok(1));
    guest.run_to_done();
    assert_eq!(guest.count(0x41), 1);
}

/// Arms the timer with the LVT entry, divider and count at [`DATA`], halts until
/// an interrupt, says so, and halts again.
fn timer(lvt: u32, divider: u32, count: u32) -> Guest {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x832",
            "mov eax, [0x20000]",
            "wrmsr",
            "mov ecx, 0x83e",
            "mov eax, [0x20004]",
            "wrmsr",
            "mov ecx, 0x838",
            "mov eax, [0x20008]",
            "wrmsr",
            "2:",
            "sti",
            "hlt",
            "cli",
            "out 0xe1, al",
            "jmp 2b"
        ),
    );
    guest.memory.write(DATA, [lvt, divider, count]);
    guest
}

/// Timer modes, and the divider's encoding of 1.
const ONE_SHOT: u32 = 0;
const PERIODIC: u32 = 1 << 17;
const DEADLINE: u32 = 2 << 17;
const BY_1: u32 = 0xb;
/// 5 ms: KVM's timer counts nanoseconds.
const SOON: u32 = 5_000_000;

fn the_timer_fires_once() {
    let guest = timer(ONE_SHOT | 0x71, BY_1, SOON);
    let start = Instant::now();
    guest.run_to_done();
    assert!(start.elapsed() >= Duration::from_millis(4));
    assert_eq!(guest.count(0x71), 1);
    assert_eq!(run_for(&guest, Duration::from_millis(30)), Err(libc::EINTR));
    assert_eq!(guest.count(0x71), 1);
    assert_eq!(register(&lapic(&guest), 0x390), 0);
}

fn the_timer_fires_periodically() {
    let guest = timer(PERIODIC | 0x72, BY_1, SOON);
    let start = Instant::now();
    for _ in 0..5 {
        guest.run_to_done();
    }
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(guest.count(0x72) >= 5);
}

fn the_timer_can_be_masked() {
    let guest = timer(ONE_SHOT | (1 << 16) | 0x73, BY_1, 1_000_000);
    assert_eq!(run_for(&guest, Duration::from_millis(20)), Err(libc::EINTR));
    assert_eq!(guest.count(0x73), 0);
}

fn the_timer_counts_down() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x83e",
            "mov eax, 0xb",
            "wrmsr",
            "mov ecx, 0x838",
            "mov eax, 0x40000000",
            "wrmsr",
            "mov ecx, 0x839",
            "rdmsr",
            "mov ebx, eax",
            "out 0xe1, al",
            "rdmsr",
            "out 0xe1, eax",
            // A count of zero stops it.
            "mov ecx, 0x838",
            "xor eax, eax",
            "wrmsr",
            "mov ecx, 0x839",
            "rdmsr",
            "out 0xe1, eax"
        ),
    );
    guest.run_to_done();
    let first = guest.cpu().regs().rbx as u32;
    let second = guest.run_to_done();
    assert!(
        second < first && first < 0x4000_0000,
        "{first:#x} {second:#x}"
    );
    assert_eq!(guest.run_to_done(), 0);
}

fn the_divider_divides() {
    // By 16: 1,000,000 counts are 16 ms.
    let guest = timer(ONE_SHOT | 0x74, 3, 1_000_000);
    let start = Instant::now();
    guest.run_to_done();
    assert!(start.elapsed() >= Duration::from_millis(15));
}

/// Guest code that arms the deadline as many TSC ticks from now as [`DATA`] says.
macro_rules! arm_deadline {
    () => {
        "rdtsc; shl rdx, 32; or rax, rdx; add rax, [0x20000]; mov rdx, rax; shr rdx, 32; \
         mov ecx, 0x6e0; wrmsr"
    };
}

/// Arms the deadline `distance` TSC ticks from now, negative for the past, then
/// halts; tells the deadline MSR's value afterwards.
fn deadline(distance: i64) -> Guest {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x832",
            "mov eax, 0x40075",
            "wrmsr",
            arm_deadline!(),
            "out 0xe2, al",
            "sti",
            "hlt",
            "cli",
            "rdmsr",
            "or eax, edx",
            "out 0xe1, eax"
        ),
    );
    guest.memory.write(DATA, distance);
    guest
}

fn tsc_khz(guest: &Guest) -> i64 {
    i64::from(
        guest
            .cpu()
            .ioctl(KVM_GET_TSC_KHZ, 0)
            .expect("KVM_GET_TSC_KHZ"),
    )
}

fn the_tsc_deadline_fires() {
    assert_eq!(DEADLINE, 0x4_0000);
    let guest = deadline(0);
    guest.memory.write(DATA, 10 * tsc_khz(&guest));
    let start = Instant::now();
    guest.run_to(0xe2);
    assert_eq!(guest.run_to_done(), 0);
    assert!(start.elapsed() >= Duration::from_millis(9));
    assert_eq!(guest.count(0x75), 1);
}

fn a_deadline_in_the_past_fires_at_once() {
    let guest = deadline(-1000);
    guest.run_to(0xe2);
    assert_eq!(guest.run_to_done(), 0);
    assert_eq!(guest.count(0x75), 1);
}

fn a_deadline_of_zero_disarms() {
    let guest = deadline(0);
    guest.memory.write(DATA, 20 * tsc_khz(&guest));
    guest.run_to(0xe2);
    assert!(guest.cpu().set_msr(0x6e0, 0));
    assert_eq!(run_for(&guest, Duration::from_millis(60)), Err(libc::EINTR));
    assert_eq!(guest.count(0x75), 0);
}

fn the_deadline_survives_save_and_restore() {
    let guest = deadline(0);
    guest.memory.write(DATA, 30 * tsc_khz(&guest));
    guest.run_to(0xe2);
    let saved = guest.cpu().msr(0x6e0).expect("IA32_TSC_DEADLINE");
    assert_ne!(saved, 0);
    let state = lapic(&guest);
    assert_eq!(guest.cpu().set(KVM_SET_LAPIC, state), Ok(0));
    assert!(guest.cpu().set_msr(0x6e0, saved));
    assert_eq!(guest.run_to_done(), 0);
    assert_eq!(guest.count(0x75), 1);
}

fn a_deadline_that_passes_in_userspace_fires_in_the_next_run() {
    let guest = deadline(0);
    guest.memory.write(DATA, 5 * tsc_khz(&guest));
    guest.run_to(0xe2);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.run_to_done(), 0);
    assert_eq!(guest.count(0x75), 1);
}

fn the_deadline_comes_nearer_when_the_tsc_is_set_forward() {
    skip_on_upstream("upstream leaves the deadline where it was");
    let guest = deadline(0);
    let minute = 60_000 * tsc_khz(&guest);
    guest.memory.write(DATA, minute);
    guest.run_to(0xe2);
    let tsc = guest.cpu().msr(0x10).expect("IA32_TIME_STAMP_COUNTER");
    // CAST: positive.
    assert!(guest.cpu().set_msr(0x10, tsc + minute as u64));
    assert_eq!(guest.run_to_done(), 0);
    assert_eq!(guest.count(0x75), 1);
}

fn the_deadline_interrupts_a_busy_guest() {
    // Ten times, each 1 ms after the last; the handler's count is all that the loop looks at.
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x832",
            "mov eax, 0x40075",
            "wrmsr",
            "xor ebx, ebx",
            "2:",
            "inc ebx",
            arm_deadline!(),
            "sti",
            "3:",
            "cmp [0x163a8], ebx",
            "jb 3b",
            "cli",
            "cmp ebx, 10",
            "jb 2b",
            "out 0xe1, al"
        ),
    );
    guest.memory.write(DATA, tsc_khz(&guest));
    let start = Instant::now();
    guest.run_to_done();
    assert!(start.elapsed() >= Duration::from_millis(9));
    assert_eq!(guest.count(0x75), 10);
}

fn the_timer_interrupts_a_busy_guest() {
    let guest = Guest::with_lapic(
        Mode::Long,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x832",
            "mov eax, 0x20076",
            "wrmsr",
            "mov ecx, 0x83e",
            "mov eax, 0xb",
            "wrmsr",
            "mov ecx, 0x838",
            "mov eax, 2000000",
            "wrmsr",
            "sti",
            "2:",
            "cmp qword ptr [0x163b0], 10",
            "jb 2b",
            "out 0xe1, al"
        ),
    );
    guest.run_to_done();
    assert!(guest.count(0x76) >= 10);
}

fn accesses_to_the_task_priority_are_reported() {
    let code = code!(
        64,
        "mov ebx, 0xfee00000",
        "mov dword ptr [rbx + 0x80], 0x35",
        "mov eax, [rbx + 0x80]",
        "mov ecx, [rbx + 0x30]",
        "out 0xe1, eax"
    );
    let guest = Guest::with_lapic(Mode::Long, code);
    let mut control = kvm_tpr_access_ctl {
        enabled: 1,
        ..Default::default()
    };
    let cpu = guest.cpu();
    assert_eq!(
        cpu.ioctl_with(KVM_TPR_ACCESS_REPORTING, &mut control),
        Ok(0)
    );
    for (is_write, len) in [(1, 10), (0, 6)] {
        let rip = cpu.regs().rip + if is_write == 1 { 5 } else { 0 };
        assert_eq!(cpu.run(), Exit::Other(KVM_EXIT_TPR_ACCESS));
        // SAFETY: The exit reason says that the member is valid.
        let access = unsafe { cpu.shared().__bindgen_anon_1.tpr_access };
        assert_eq!((access.rip, access.is_write), (rip, is_write));
        // The instruction is done.
        assert_eq!(cpu.regs().rip, rip + len);
    }
    assert_eq!(guest.run_to_done(), 0x35);
    control.flags = 1;
    let flags = cpu.ioctl_with(KVM_TPR_ACCESS_REPORTING, &mut control);
    assert_eq!(flags, Err(EINVAL));
}

/// `KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST`
const SUPPRESS: u64 = 1 << 2;
/// `KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST`
const DO_NOT: u64 = 1 << 3;

/// Whether the version register of a new vCPU says that EOIs can be suppressed.
fn offers_suppression(vm: &Vm) -> bool {
    let vcpu = vm.vcpu(0);
    let mut cpuid = supported_cpuid();
    assert_eq!(vcpu.ioctl_with(KVM_SET_CPUID2, &mut cpuid), Ok(0));
    register(&vcpu.get(KVM_GET_LAPIC), 0x30) & (1 << 24) != 0
}

fn a_guest_can_be_told_that_eois_are_suppressed() {
    for (flag, offers) in [(SUPPRESS, true), (DO_NOT, false)] {
        let vm = Vm::with_lapics();
        assert_eq!(vm.enable_cap(KVM_CAP_X2APIC_API, [flag, 0, 0, 0]), Ok(0));
        assert_eq!(offers_suppression(&vm), offers);
    }
}

fn suppressing_eois_wants_the_io_apic_in_userspace() {
    let vm = Vm::with_irqchip();
    let enable = |flags| vm.enable_cap(KVM_CAP_X2APIC_API, [flags, 0, 0, 0]);
    assert_eq!(enable(SUPPRESS), Err(EINVAL));
    assert_eq!(enable(DO_NOT), Ok(0));
    let split = Vm::with_lapics();
    let both = split.enable_cap(KVM_CAP_X2APIC_API, [SUPPRESS | DO_NOT, 0, 0, 0]);
    assert_eq!(both, Err(EINVAL));
}
