// SPDX-License-Identifier: GPL-2.0

//! Tests of `/dev/kvm`, with KTAP output.
//!
//! ```text
//! selftests [--list] [--timeout SECONDS] [NAME...]
//! selftests --fuzz CALLS [--seed SEED] [--round ROUND]
//! ```
//!
//! A NAME is a test (`memslot.overlap_is_refused`), a group (`memslot`) or the
//! beginning of either; none means all. The exit status is 0 when no test failed.
//!
//! The groups come in the order in which a new KVM learns things, so they serve as
//! a ladder: what is lower must work before what is higher can. Every test passes
//! on upstream KVM for Intel; that is what makes it a test of anybody else.
//!
//! Each test runs in a process of its own, under an alarm. One that hangs, crashes
//! or leaves file descriptors open does no harm to the next.
//!
//! | file         | what it has                                             |
//! |--------------|---------------------------------------------------------|
//! | `harness.rs` | processes, alarms, KTAP                                 |
//! | `ioctl.rs`   | ioctl numbers, and the call itself                      |
//! | `kvm.rs`     | VM, vCPU, guest memory: thin owners of file descriptors |
//! | `guest.rs`   | guests in 16-, 32- and 64-bit mode, made of few bytes   |
//! | `hypervisor.rs` | a guest that launches a guest of its own             |
//! | the rest     | the tests, one group per file                           |

#![allow(clippy::missing_panics_doc)]

mod guest;
mod harness;
mod ioctl;
mod kvm;

mod cpuid;
mod create;
mod dirty;
mod event;
mod eventfd;
mod exception;
mod fuzz;
mod host_memory;
mod hypercall;
mod hypervisor;
mod irqchip;
mod lapic;
mod load;
mod memslot;
mod mmio;
mod msr;
mod oom;
mod paravirt;
mod pio;
mod real;
mod regs;
mod ring;
mod routing;
mod signal;
mod smm;
mod smp;
mod suspend;
mod system;
mod trace;

use std::process::ExitCode;

/// Every group, lowest rung first.
const GROUPS: &[harness::Group] = &[
    system::GROUP,
    create::GROUP,
    memslot::GROUP,
    real::GROUP,
    regs::GROUP,
    cpuid::GROUP,
    pio::GROUP,
    mmio::GROUP,
    signal::GROUP,
    exception::GROUP,
    event::GROUP,
    smm::GROUP,
    hypercall::GROUP,
    paravirt::GROUP,
    msr::GROUP,
    host_memory::GROUP,
    dirty::GROUP,
    ring::GROUP,
    eventfd::GROUP,
    routing::GROUP,
    irqchip::GROUP,
    lapic::GROUP,
    smp::GROUP,
    trace::GROUP,
    suspend::GROUP,
    load::GROUP,
    oom::GROUP,
    fuzz::GROUP,
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first() {
        Some(first) if first == "--fuzz" => fuzz::main(&args),
        _ => harness::main(GROUPS),
    }
}
