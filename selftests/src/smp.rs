// SPDX-License-Identifier: GPL-2.0

//! Several vCPUs: starting them, and what they send to each other.

use kvm_bindings::*;
use libc::{
    EAGAIN,
    EINTR,
    EINVAL, //
};
use std::{
    thread,
    time::Duration, //
};

use crate::{
    code,
    enable_x2apic,
    group,
    guest::{
        Apic,
        Guest,
        Mode,
        DATA, //
    },
    ioctl::*,
    kvm::*, //
};

group!("smp":
    the_first_vcpu_is_runnable_the_others_wait,
    mp_states_are_checked,
    a_waiting_vcpu_does_not_run,
    init_and_sipi_start_a_vcpu,
    a_second_sipi_is_ignored,
    init_stops_a_running_vcpu,
    each_vcpu_has_its_apic_id,
    an_ipi_reaches_the_other_vcpu,
    an_ipi_wakes_a_halted_vcpu,
    a_thousand_ipis_back_and_forth,
    all_but_self_reaches_the_others,
    an_nmi_can_be_sent,
    locked_additions_do_not_get_lost,
    a_store_is_seen_by_the_other,
    four_vcpus_boot_each_other,
);

fn mp_state(vcpu: &Vcpu) -> u32 {
    let state: kvm_mp_state = vcpu.get(KVM_GET_MP_STATE);
    state.mp_state
}

fn set_mp_state(vcpu: &Vcpu, mp_state: u32) -> Result {
    vcpu.set(KVM_SET_MP_STATE, kvm_mp_state { mp_state })
}

fn the_first_vcpu_is_runnable_the_others_wait() {
    let guest = Guest::with(Mode::Long, Apic::Kernel, 3, code!(64, "hlt"));
    assert_eq!(mp_state(&guest.vcpus[0]), KVM_MP_STATE_RUNNABLE);
    assert_eq!(mp_state(&guest.vcpus[1]), KVM_MP_STATE_UNINITIALIZED);
    assert_eq!(mp_state(&guest.vcpus[2]), KVM_MP_STATE_UNINITIALIZED);
    // Without the kernel's local APICs all are the VMM's business.
    let guest = Guest::with(Mode::Long, Apic::None, 2, code!(64, "hlt"));
    assert_eq!(mp_state(&guest.vcpus[1]), KVM_MP_STATE_RUNNABLE);
}

fn mp_states_are_checked() {
    let guest = Guest::with(Mode::Long, Apic::None, 1, code!(64, "hlt"));
    for state in [KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED, 99] {
        assert_eq!(set_mp_state(guest.cpu(), state), Err(EINVAL), "{state}");
    }
    assert_eq!(set_mp_state(guest.cpu(), KVM_MP_STATE_RUNNABLE), Ok(0));
    let guest = Guest::with(Mode::Long, Apic::Kernel, 1, code!(64, "hlt"));
    for state in [
        KVM_MP_STATE_UNINITIALIZED,
        KVM_MP_STATE_HALTED,
        KVM_MP_STATE_RUNNABLE,
    ] {
        assert_eq!(set_mp_state(guest.cpu(), state), Ok(0), "{state}");
        assert_eq!(mp_state(guest.cpu()), state);
    }
    assert_eq!(set_mp_state(guest.cpu(), 99), Err(EINVAL));
}

/// Ends the runs of this thread by SIGUSR1 after some time.
fn run_for(vcpu: &Vcpu, time: Duration) -> Result {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: The handler does nothing; the thread that is signalled waits for
    // the sender at the end of the scope.
    unsafe {
        libc::signal(libc::SIGUSR1, nothing as *const () as libc::sighandler_t);
        let this = libc::pthread_self() as usize;
        thread::scope(|scope| {
            scope.spawn(move || {
                thread::sleep(time);
                libc::pthread_kill(this as libc::pthread_t, libc::SIGUSR1);
            });
            vcpu.run_raw()
        })
    }
}

fn a_waiting_vcpu_does_not_run() {
    let guest = Guest::with(
        Mode::Long,
        Apic::Kernel,
        2,
        code!(64, "inc dword ptr [0x20000]", "hlt"),
    );
    let waiting = &guest.vcpus[1];
    let result = run_for(waiting, Duration::from_millis(30));
    assert!(matches!(result, Err(EINTR | EAGAIN)), "{result:?}");
    waiting.shared().immediate_exit = 1;
    assert_eq!(waiting.run_raw(), Err(EINTR));
    assert_eq!(guest.memory.read::<u32>(DATA), 0);
    assert_eq!(mp_state(waiting), KVM_MP_STATE_UNINITIALIZED);
}

/// Runs until an exit, through whatever a VMM must expect of a vCPU that waits.
fn run_patiently(vcpu: &Vcpu) -> Exit {
    loop {
        match vcpu.try_run() {
            Ok(exit) => return exit,
            Err(EAGAIN | EINTR) => {}
            Err(errno) => panic!("KVM_RUN: errno {errno}"),
        }
    }
}

/// Runs every vCPU in a thread of its own until it says that it is done; returns
/// what each said.
fn run_all(guest: &Guest) -> Vec<u32> {
    thread::scope(|scope| {
        let run = |vcpu| {
            move || match run_patiently(vcpu) {
                Exit::Out(crate::guest::DONE, _, 1, value) => value,
                exit => panic!("{exit:x?} at {:#x}", vcpu.regs().rip),
            }
        };
        let threads: Vec<_> = guest
            .vcpus
            .iter()
            .map(|vcpu| scope.spawn(run(vcpu)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("thread"))
            .collect()
    })
}

/// Real-mode code for a vCPU that was started by a start-up IPI to page 6.
fn put_startup_code(guest: &Guest, code: &[u8]) {
    guest.memory.copy(0x6000, code);
}

fn init_and_sipi_start_a_vcpu() {
    let guest = Guest::with(
        Mode::Long,
        Apic::Kernel,
        2,
        code!(
            64,
            enable_x2apic!(),
            "mov edx, 1",
            "mov ecx, 0x830",
            "mov eax, 0x4500",
            "wrmsr",
            "mov eax, 0x4606",
            "wrmsr",
            "2:",
            "sti",
            "pause",
            "mov eax, [0x7000]",
            "test eax, eax",
            "jz 2b",
            "out 0xe1, eax"
        ),
    );
    put_startup_code(
        &guest,
        code!(
            16,
            "mov ax, cs",
            "mov [0x7004], ax",
            "mov eax, cr0",
            "mov [0x7008], eax",
            "mov [0x700c], edx",
            "mov dword ptr [0x7000], 0x55",
            "mov al, 7",
            "out 0xe1, al"
        ),
    );
    assert_eq!(run_all(&guest), [0x55, 7]);
    // As after INIT: real mode at the SIPI's page, the CPU's signature in EDX.
    assert_eq!(guest.memory.read::<u16>(0x7004), 0x600);
    assert_eq!(guest.memory.read::<u32>(0x7008) & !0x6000_0000, 0x10);
    assert_ne!(guest.memory.read::<u32>(0x700c), 0);
    assert_eq!(mp_state(&guest.vcpus[1]), KVM_MP_STATE_RUNNABLE);
}

fn a_second_sipi_is_ignored() {
    let guest = Guest::with(
        Mode::Long,
        Apic::Kernel,
        2,
        code!(
            64,
            enable_x2apic!(),
            "mov edx, 1",
            "mov ecx, 0x830",
            "mov eax, 0x4500",
            "wrmsr",
            "mov eax, 0x4606",
            "wrmsr",
            "2:",
            "sti",
            "pause",
            "cmp dword ptr [0x7000], 0",
            "je 2b",
            "mov eax, 0x4605",
            "wrmsr",
            "mov dword ptr [0x7004], 1",
            "out 0xe1, al"
        ),
    );
    guest
        .memory
        .copy(0x5000, code!(16, "mov al, 99", "out 0xe1, al"));
    put_startup_code(
        &guest,
        code!(
            16,
            "inc dword ptr [0x7000]",
            "2:",
            "sti",
            "pause",
            "cmp dword ptr [0x7004], 0",
            "je 2b",
            "mov cx, 1000",
            "3:",
            "loop 3b",
            "mov al, [0x7000]",
            "out 0xe1, al"
        ),
    );
    assert_eq!(run_all(&guest)[1], 1);
}

fn init_stops_a_running_vcpu() {
    let guest = Guest::with(
        Mode::Long,
        Apic::Kernel,
        2,
        code!(
            64,
            enable_x2apic!(),
            "mov edx, 1",
            "mov ecx, 0x830",
            "mov eax, 0x4500",
            "wrmsr",
            "mov eax, 0x4606",
            "wrmsr",
            "2:",
            "sti",
            "pause",
            "cmp dword ptr [0x7000], 1",
            "jne 2b",
            // It spins now; from the top again, at another page.
            "mov eax, 0x4500",
            "wrmsr",
            "mov eax, 0x4605",
            "wrmsr",
            "3:",
            "sti",
            "pause",
            "cmp dword ptr [0x7000], 2",
            "jne 3b",
            "out 0xe1, al"
        ),
    );
    put_startup_code(
        &guest,
        code!(
            16,
            "sti",
            "mov dword ptr [0x7000], 1",
            "2:",
            "sti",
            "pause",
            "jmp 2b"
        ),
    );
    guest.memory.copy(
        0x5000,
        code!(16, "mov dword ptr [0x7000], 2", "mov al, 2", "out 0xe1, al"),
    );
    assert_eq!(run_all(&guest)[1], 2);
}

/// A 64-bit guest with `count` vCPUs that all run from the start.
fn all_running(count: u64, code: &[u8]) -> Guest {
    let guest = Guest::with(Mode::Long, Apic::Kernel, count, code);
    for (vcpu, stack) in guest
        .vcpus
        .iter()
        .zip((0..).map(|n| 0x1f_0000 + 0x1000 * n))
    {
        assert_eq!(set_mp_state(vcpu, KVM_MP_STATE_RUNNABLE), Ok(0));
        let mut regs = vcpu.regs();
        regs.rsp = stack + 0x1000;
        vcpu.set_regs(&regs);
    }
    guest
}

fn each_vcpu_has_its_apic_id() {
    let guest = all_running(
        4,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x802",
            "rdmsr",
            "out 0xe1, eax"
        ),
    );
    assert_eq!(run_all(&guest), [0, 1, 2, 3]);
}

fn an_ipi_reaches_the_other_vcpu() {
    // CPU 1 waits with interrupts on; CPU 0 sends.
    let guest = all_running(
        2,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x802",
            "rdmsr",
            "test eax, eax",
            "jnz 3f",
            "2:",
            "sti",
            "pause",
            "cmp dword ptr [0x20000], 0",
            "je 2b",
            "mov edx, 1",
            "mov ecx, 0x830",
            "mov eax, 0x81",
            "wrmsr",
            "out 0xe1, al",
            "3:",
            "sti",
            "mov dword ptr [0x20000], 1",
            "4:",
            "sti",
            "pause",
            "cmp dword ptr [0x16408], 0",
            "je 4b",
            "out 0xe1, al"
        ),
    );
    run_all(&guest);
    assert_eq!(guest.count(0x81), 1);
}

fn an_ipi_wakes_a_halted_vcpu() {
    let guest = all_running(
        2,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x802",
            "rdmsr",
            "test eax, eax",
            "jnz 3f",
            "4:",
            "sti",
            "pause",
            "cmp dword ptr [0x20000], 0",
            "je 4b",
            "mov ebx, 100000",
            "2:",
            "sti",
            "pause",
            "dec ebx",
            "jnz 2b",
            "mov edx, 1",
            "mov ecx, 0x830",
            "mov eax, 0x81",
            "wrmsr",
            "out 0xe1, al",
            "3:",
            "mov dword ptr [0x20000], 1",
            "sti",
            "hlt",
            "mov eax, 5",
            "out 0xe1, eax"
        ),
    );
    assert_eq!(run_all(&guest)[1], 5);
    assert_eq!(guest.count(0x81), 1);
}

fn a_thousand_ipis_back_and_forth() {
    // Each sends to the other and waits for the answer, halted. Vector 0x81 goes
    // to CPU 1 and 0x82 to CPU 0. CPU 0 begins when the local APIC of CPU 1 is
    // enabled: one that is not would drop the first interrupt.
    let guest = all_running(
        2,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x802",
            "rdmsr",
            "mov ebp, eax",
            "xor ebp, 1",
            "mov esi, 1000",
            "mov ecx, 0x830",
            "test ebp, ebp",
            "jz 8f",
            "7:",
            "sti",
            "pause",
            "cmp dword ptr [0x20000], 0",
            "je 7b",
            "2:",
            "mov edx, 1",
            "mov eax, 0x81",
            "wrmsr",
            "4:",
            "cli",
            "mov eax, 1001",
            "sub eax, esi",
            "cmp [0x16410], eax",
            "jae 5f",
            "sti",
            "hlt",
            "jmp 4b",
            "5:",
            "sti",
            "dec esi",
            "jnz 2b",
            "out 0xe1, al",
            "8:",
            "mov dword ptr [0x20000], 1",
            "3:",
            "cli",
            "mov eax, 1001",
            "sub eax, esi",
            "cmp [0x16408], eax",
            "jae 6f",
            "sti",
            "hlt",
            "jmp 3b",
            "6:",
            "sti",
            "xor edx, edx",
            "mov eax, 0x82",
            "wrmsr",
            "dec esi",
            "jnz 3b",
            "out 0xe1, al"
        ),
    );
    run_all(&guest);
    assert_eq!((guest.count(0x81), guest.count(0x82)), (1000, 1000));
}

fn all_but_self_reaches_the_others() {
    let guest = all_running(
        3,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x802",
            "rdmsr",
            "test eax, eax",
            "jnz 3f",
            "2:",
            "sti",
            "pause",
            "cmp dword ptr [0x20000], 2",
            "jne 2b",
            "mov ecx, 0x830",
            "mov eax, 0xc0091",
            "wrmsr",
            "5:",
            "sti",
            "pause",
            "cmp dword ptr [0x20004], 2",
            "jne 5b",
            "sti",
            "nop",
            "out 0xe1, al",
            "3:",
            "lock inc dword ptr [0x20000]",
            "sti",
            "hlt",
            "cli",
            "lock inc dword ptr [0x20004]",
            "out 0xe1, al"
        ),
    );
    guest.set_gate(0x91, 0x6000);
    guest.memory.copy(
        0x6000,
        code!(
            64,
            "lock inc dword ptr [0x20008]",
            "mov ecx, 0x80b",
            "xor eax, eax",
            "xor edx, edx",
            "wrmsr",
            "iretq"
        ),
    );
    run_all(&guest);
    assert_eq!(guest.memory.read::<u32>(DATA + 8), 2);
}

fn an_nmi_can_be_sent() {
    let guest = all_running(
        2,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x802",
            "rdmsr",
            "test eax, eax",
            "jnz 3f",
            "2:",
            "sti",
            "pause",
            "cmp dword ptr [0x20000], 0",
            "je 2b",
            "mov edx, 1",
            "mov ecx, 0x830",
            "mov eax, 0x400",
            "wrmsr",
            "out 0xe1, al",
            "3:",
            "sti",
            "mov dword ptr [0x20000], 1",
            "4:",
            "sti",
            "pause",
            "cmp dword ptr [0x20004], 0",
            "je 4b",
            "out 0xe1, al"
        ),
    );
    guest.set_gate(2, 0x6000);
    guest
        .memory
        .copy(0x6000, code!(64, "inc dword ptr [0x20004]", "iretq"));
    run_all(&guest);
    assert_eq!(guest.memory.read::<u32>(DATA + 4), 1);
}

fn locked_additions_do_not_get_lost() {
    let guest = all_running(
        2,
        code!(
            64,
            "mov ecx, 20000",
            "2:",
            "lock inc dword ptr [0x20000]",
            "loop 2b",
            "lock inc dword ptr [0x20004]",
            "3:",
            "sti",
            "pause",
            "cmp dword ptr [0x20004], 2",
            "jne 3b",
            "mov eax, [0x20000]",
            "out 0xe1, eax"
        ),
    );
    assert_eq!(run_all(&guest), [40_000, 40_000]);
}

fn a_store_is_seen_by_the_other() {
    // A page table entry is changed by one, and used by both after INVLPG there.
    let guest = all_running(
        2,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x802",
            "rdmsr",
            "mov rbx, 0x8000000000",
            "test eax, eax",
            "jnz 3f",
            "2:",
            "sti",
            "pause",
            "cmp dword ptr [0x20000], 1",
            "jne 2b",
            "mov qword ptr [0x32000], 0x23007",
            "mov dword ptr [0x20000], 2",
            "4:",
            "sti",
            "pause",
            "cmp dword ptr [0x20000], 3",
            "jne 4b",
            "out 0xe1, al",
            "3:",
            "mov eax, [rbx]",
            "mov [0x20008], eax",
            "mov dword ptr [0x20000], 1",
            "5:",
            "sti",
            "pause",
            "cmp dword ptr [0x20000], 2",
            "jne 5b",
            "invlpg [rbx]",
            "mov eax, [rbx]",
            "mov dword ptr [0x20000], 3",
            "out 0xe1, eax"
        ),
    );
    guest.memory.write::<u64>(crate::guest::PML4 + 8, 0x3_0007);
    guest.memory.write::<u64>(0x3_0000, 0x3_1007);
    guest.memory.write::<u64>(0x3_1000, 0x3_2007);
    guest.memory.write::<u64>(0x3_2000, 0x2_2007);
    guest.memory.write::<u32>(0x2_2000, 0x22);
    guest.memory.write::<u32>(0x2_3000, 0x23);
    assert_eq!(run_all(&guest)[1], 0x23);
    assert_eq!(guest.memory.read::<u32>(DATA + 8), 0x22);
}

fn four_vcpus_boot_each_other() {
    let guest = Guest::with(
        Mode::Long,
        Apic::Kernel,
        4,
        code!(
            64,
            enable_x2apic!(),
            "mov ecx, 0x830",
            "xor edx, edx",
            "mov eax, 0xc4500",
            "wrmsr",
            "mov eax, 0xc4606",
            "wrmsr",
            "2:",
            "sti",
            "pause",
            "cmp dword ptr [0x7000], 3",
            "jne 2b",
            "out 0xe1, al"
        ),
    );
    put_startup_code(
        &guest,
        code!(16, "lock inc dword ptr [0x7000]", "out 0xe1, al"),
    );
    run_all(&guest);
    assert_eq!(guest.memory.read::<u32>(0x7000), 3);
}
