// SPDX-License-Identifier: GPL-2.0

//! A small virtual machine monitor: boots Linux through the KVM API.
//!
//! Made to be read by someone who learns that API. It is built from the
//! rust-vmm crates and cuts the work between kernel and process as Cloud
//! Hypervisor does: the local APICs are the kernel's (`KVM_CAP_SPLIT_IRQCHIP`),
//! everything else, the I/O APIC included, is this program's.
//!
//! Read the files in this order:
//!
//! | file         | what it shows                                              |
//! |--------------|------------------------------------------------------------|
//! | `vm.rs`      | the VM file descriptor, the split irqchip                  |
//! | `memory.rs`  | guest memory and its slots                                 |
//! | `boot.rs`    | the 64-bit Linux boot protocol                             |
//! | `acpi.rs`    | the tables by which Linux finds its CPUs and its console   |
//! | `cpu.rs`     | CPUID, MSRs and registers of a vCPU before its first run   |
//! | `run.rs`     | the `KVM_RUN` loop, its exits, and how to interrupt it     |
//! | `ioapic.rs`  | interrupts: MSI routes, irqfd, EOI exits                   |
//! | `serial.rs`  | a console in both directions                               |
//! | `power.rs`   | poweroff and reset                                         |
//! | `devices.rs` | which device an I/O exit belongs to                        |
//! | `console.rs` | the main thread: the terminal, the timeout, the end        |
//!
//! ```text
//! vmm --kernel bzImage --initrd initrd --cpus 2 --cmdline "console=ttyS0"
//! ```
//!
//! The exit status is 0 when the guest powered off or reset, 3 when it ended in
//! a triple fault, 124 when `--timeout` ran out, and 1 on an error.

mod acpi;
mod boot;
mod console;
mod cpu;
mod devices;
mod ioapic;
mod memory;
mod power;
mod run;
mod serial;
mod vm;

use anyhow::{
    Context,
    Result, //
};
use clap::Parser;
use std::{
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration, //
};

use devices::Devices;
use run::Stop;
use vm::Vm;

/// Boots a Linux kernel in a virtual machine, with its console on this terminal.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// Kernel: a bzImage, or an ELF vmlinux
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,

    /// Initial file system, as the kernel wants it (cpio, perhaps compressed)
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// Kernel command line
    #[arg(long, default_value = "console=ttyS0 reboot=k panic=-1")]
    cmdline: String,

    /// Guest memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u64).range(32..=1 << 20))]
    memory: u64,

    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u8).range(1..=254))]
    cpus: u8,

    /// Ends the guest, with exit status 124, after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
}

/// Builds the VM, starts a thread for each vCPU, and serves the console until
/// the guest ends.
fn run(args: &Args) -> Result<Stop> {
    let memory = memory::allocate(args.memory << 20)?;
    let vm = Vm::new(&memory)?;
    let entry = boot::load(
        &memory,
        &args.kernel,
        args.initrd.as_deref(),
        &args.cmdline,
        acpi::write(&memory, args.cpus)?,
    )?;
    let devices = Arc::new(Devices::new(&vm)?);
    let mut vcpus = Vec::new();
    for id in 0..args.cpus {
        let vcpu =
            cpu::create(&vm, id, args.cpus).with_context(|| format!("cannot create vCPU {id}"))?;
        vcpus.push(vcpu);
    }
    // Only the first vCPU starts by itself. The kernel sends the others an INIT
    // and a start-up IPI, which KVM handles without us.
    if let Some(boot_cpu) = vcpus.first() {
        cpu::set_boot_state(boot_cpu, &memory, &entry)?;
    }
    let machine = run::start(vcpus, Arc::clone(&devices))?;
    let stop = console::serve(&machine, &devices, args.timeout.map(Duration::from_secs));
    machine.join(&stop);
    stop
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(stop) => {
            eprintln!("\r\nvmm: {stop}");
            stop.exit_code()
        }
        Err(error) => {
            eprintln!("vmm: {error:#}");
            ExitCode::FAILURE
        }
    }
}
