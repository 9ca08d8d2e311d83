// SPDX-License-Identifier: GPL-2.0

//! What it costs to wake a halted vCPU.

use anyhow::{
    Context,
    Result, //
};
use kvm_bindings::kvm_msi;
use kvm_ioctls::{
    IoEventAddress,
    NoDatamatch, //
};
use std::{
    sync::Arc,
    thread, //
};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    code,
    exits::{
        cost,
        median, //
    },
    guest::{
        Apic,
        Guest,
        Irqchip,
        Program,
        PORT, //
    },
    mark::Counted,
    skip, //
};

/// Batches of a measurement.
pub const BATCHES: usize = 25;
/// Wake-ups in a batch.
pub const COUNT: usize = 10;
/// What ends the other thread: more than an ioeventfd adds up to.
const QUIT: u64 = 1 << 32;
/// The vector that wakes by an MSI.
pub const MSI: u8 = 0x40;
/// The vector of the timer.
const TIMER: u8 = 0x41;

/// A measurement, under the mark of this number.
type Run = fn(usize) -> Result<f64>;

/// Measures both; their marks begin at `id`.
pub fn measure(id: usize) {
    let kinds: [(&str, usize, Run); 2] = [
        ("HLT, woken by a thread's MSI", BATCHES * COUNT, by_thread),
        ("HLT, late after the timer", BATCHES, by_timer),
    ];
    for (n, (name, count, run)) in kinds.into_iter().enumerate() {
        match run(id + n) {
            Ok(cost) => println!("cost {} {name} {count} {cost:.1}", id + n),
            Err(error) => skip(name, &error),
        }
    }
}

/// The guest wakes a thread by an ioeventfd and halts; the thread sends an MSI
/// and waits again. Nobody is ever idle, so the time of a round is what all of
/// it costs: two exits, two context switches, two system calls, the interrupt
/// and its EOI.
fn by_thread(id: usize) -> Result<f64> {
    let mut guest = Guest::new(Irqchip::Split, Apic::Msrs)?;
    guest.handle(
        MSI,
        code!(
            "mov ecx, 0x80b",
            "xor eax, eax",
            "xor edx, edx",
            "wrmsr",
            "iretq"
        ),
    );
    let setup = code!("mov ecx, 0x80f", "mov eax, 0x1ff", "xor edx, edx", "wrmsr");
    woken_by_thread(&mut guest, setup, id)
}

/// The same for a guest that exists, and does `setup`.
pub fn woken_by_thread(guest: &mut Guest, setup: &'static [u8], id: usize) -> Result<f64> {
    let asked = EventFd::new(0)?;
    guest
        .vm
        .register_ioevent(&asked, &IoEventAddress::Pio(PORT.into()), NoDatamatch)
        .context("KVM_IOEVENTFD")?;
    let program = Program {
        setup,
        prepare: code!("mov edx, 0x600"),
        exit: code!("out dx, eax", "sti", "hlt", "cli"),
    };
    let other = Arc::clone(&guest.vm);
    let listener = asked.try_clone()?;
    let thread = thread::spawn(move || {
        let msi = kvm_msi {
            address_lo: 0xfee0_0000,
            data: MSI.into(),
            ..Default::default()
        };
        while listener.read().is_ok_and(|n| n < QUIT) {
            if other.signal_msi(msi).is_err() {
                break;
            }
        }
    });
    let result = cost(guest, &program, BATCHES, COUNT, id);
    asked.write(QUIT)?;
    let _ = thread.join();
    result
}

/// The guest sets its TSC-deadline timer, 100,000 ticks ahead, and halts; the
/// handler reads the TSC. The result is how late that is.
fn by_timer(id: usize) -> Result<f64> {
    let mut guest = Guest::new(Irqchip::Split, Apic::Msrs)?;
    guest.handle(
        TIMER,
        code!(
            "rdtsc; shl rdx, 32; or rax, rdx; sub rax, r9; mov rbx, rax",
            "mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr; iretq",
        ),
    );
    let program = Program {
        setup: code!(
            "mov ecx, 0x80f; mov eax, 0x1ff; xor edx, edx; wrmsr",
            "mov ecx, 0x832; mov eax, 0x40041; wrmsr",
        ),
        prepare: &[],
        exit: code!(
            "rdtsc; shl rdx, 32; or rax, rdx; lea r9, [rax + 100000]",
            "mov rax, r9; mov rdx, r9; shr rdx, 32; mov ecx, 0x6e0; wrmsr",
            "sti; hlt; cli",
            // What the loop stores is the time since r8.
            "rdtsc; shl rdx, 32; or rax, rdx; sub rax, rbx; mov r8, rax",
        ),
    };
    let counted = Counted::start(id);
    let late = guest.run(&program, BATCHES, 1, 0)?;
    drop(counted);
    Ok(median(late) as f64)
}
