// SPDX-License-Identifier: GPL-2.0

//! Runs a flat binary in a virtual CPU that is in real mode.
//!
//! The shortest program that shows what KVM is: one VM, one slot of memory, one
//! vCPU, and the loop around `KVM_RUN`. There is no irqchip, so HLT comes back to
//! us as `KVM_EXIT_HLT`; it ends the program.
//!
//! The binary is loaded at 0x1000 and starts there, with all segments 0 and the
//! stack below it. What it writes to port 0xe9 appears on stdout. Without a file
//! on the command line it is this one:
//!
//! ```text
//!     mov si, message
//! 1:  lodsb
//!     test al, al
//!     jz 2f
//!     out 0xe9, al
//!     jmp 1b
//! 2:  hlt
//! ```

use anyhow::{
    bail,
    Context,
    Result, //
};
use clap::Parser;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{
    Kvm,
    VcpuExit, //
};
use std::{
    fs,
    io::{
        stdout,
        Write, //
    },
    path::PathBuf, //
};
use vm_memory::{
    Bytes,
    GuestAddress,
    GuestMemory,
    GuestMemoryMmap, //
};

/// Where the binary is loaded and entered.
const LOAD_ADDRESS: u64 = 0x1000;
/// Memory from address 0: what real mode can reach.
const MEMORY_SIZE: usize = 1 << 20;
/// A byte written to this port is printed.
const PRINT_PORT: u16 = 0xe9;

/// The program of the module's documentation, assembled.
const HELLO: &[u8] = b"\xbe\x0d\x10\xac\x84\xc0\x74\x04\xe6\xe9\xeb\xf7\xf4\
    Hello from real mode.\n\0";

/// Runs a flat binary in real mode until it executes HLT.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// Flat binary, loaded at 0x1000; bytes written to port 0xe9 are printed
    file: Option<PathBuf>,
}

fn main() -> Result<()> {
    let code = match Args::parse().file {
        Some(path) => fs::read(&path).with_context(|| path.display().to_string())?,
        None => HELLO.to_vec(),
    };

    // Guest-physical memory is memory of this process.
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_SIZE)])
        .context("cannot map the guest's memory")?;
    memory
        .write_slice(&code, GuestAddress(LOAD_ADDRESS))
        .context("the binary is too long")?;

    let kvm = Kvm::new().context("cannot open /dev/kvm")?;
    let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY_SIZE as u64,
        userspace_addr: memory.get_host_address(GuestAddress(0))? as u64,
    };
    // SAFETY: The range is `memory`, which outlives the vCPU's last run.
    unsafe { vm.set_user_memory_region(slot) }.context("KVM_SET_USER_MEMORY_REGION")?;

    // A new vCPU is as after a reset: in real mode, about to fetch from just
    // below 4 GiB, where we have no memory.
    let mut vcpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
    let mut sregs = vcpu.get_sregs().context("KVM_GET_SREGS")?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    vcpu.set_sregs(&sregs).context("KVM_SET_SREGS")?;
    let mut regs = vcpu.get_regs().context("KVM_GET_REGS")?;
    regs.rip = LOAD_ADDRESS;
    regs.rsp = LOAD_ADDRESS;
    regs.rflags = 2;
    vcpu.set_regs(&regs).context("KVM_SET_REGS")?;

    loop {
        match vcpu.run().context("KVM_RUN")? {
            VcpuExit::IoOut(PRINT_PORT, bytes) => stdout().write_all(bytes)?,
            // Nothing else is connected: reads give ones, writes go nowhere.
            VcpuExit::IoIn(_, bytes) | VcpuExit::MmioRead(_, bytes) => bytes.fill(0xff),
            VcpuExit::IoOut(..) | VcpuExit::MmioWrite(..) => {}
            VcpuExit::Hlt => return Ok(()),
            exit => bail!("unexpected exit: {exit:?}"),
        }
    }
}
