// SPDX-License-Identifier: GPL-2.0

//! What the calls of one process are about: descriptors, guest memory, buffers for arguments.
//!
//! All threads share it, so any of them may close what another is about to use.

use std::{
    os::fd::{
        AsRawFd,
        IntoRawFd,
        RawFd, //
    },
    ptr,
    sync::Mutex, //
};

use super::rng::{
    value,
    Rng, //
};
use crate::{
    guest::{
        Apic,
        Guest,
        Mode,
        CODE, //
    },
    hypervisor,
    kvm::*, //
};

/// What a descriptor is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `/dev/kvm`.
    System,
    /// A VM.
    Vm,
    /// A vCPU.
    Vcpu,
    /// An eventfd.
    Event,
    /// What an ioctl gave besides: statistics, devices, memory.
    Other,
}

/// A descriptor.
#[derive(Clone, Copy)]
pub struct Handle {
    /// What it is of.
    pub kind: Kind,
    /// Its number.
    pub fd: RawFd,
    /// Where a vCPU's `kvm_run` is mapped, for good; 0 for others.
    pub run: usize,
}

/// Bytes of a buffer for arguments; what follows cannot be touched.
pub const ROOM: usize = 4 * PAGE as usize;
/// The most descriptors of a kind.
const MOST: usize = 6;

/// Descriptors, guest memory, buffers.
pub struct World {
    handles: Mutex<Vec<Handle>>,
    /// The memory of all guests; what lies below [`World::FIRM`] keeps its mapping.
    pub arena: Memory,
    /// A buffer for each thread.
    pub buffers: Vec<Memory>,
    /// Whether the guest is a hypervisor.
    is_hypervisor: bool,
    /// The registers of a vCPU that runs.
    pub sane: (kvm_bindings::kvm_sregs, kvm_bindings::kvm_regs),
}

impl World {
    /// Bytes of guest memory whose mapping in this process stays.
    pub const FIRM: u64 = 0x3_0000;

    /// A VM with a guest that runs `code`, or a hypervisor whose guest does, for `threads` threads.
    pub fn new(rng: &mut Rng, code: &[u8], threads: u64) -> Self {
        let mode = *rng.pick(&[Mode::Long, Mode::Long, Mode::Protected, Mode::Real]);
        let apic = *rng.pick(&[Apic::None, Apic::Kernel, Apic::All]);
        let is_hypervisor = rng.one_in(3) && hypervisor::is_possible();
        let Guest { vcpus, memory, vm } = if is_hypervisor {
            hypervisor::guest(code)
        } else {
            Guest::with(mode, apic, 1 + rng.below(2), code)
        };
        let sane = (vcpus[0].sregs(), vcpus[0].regs());
        let world = Self {
            handles: Mutex::new(Vec::new()),
            arena: memory,
            buffers: (0..threads).map(|_| buffer()).collect(),
            sane,
            is_hypervisor,
        };
        world.add(Kind::System, open().into_raw_fd());
        world.add(Kind::Vm, vm.0.into_raw_fd());
        for vcpu in vcpus {
            // SAFETY: Makes a second descriptor, which `world` owns.
            world.add(Kind::Vcpu, unsafe { libc::dup(vcpu.as_raw_fd()) });
        }
        world
    }

    /// Takes a descriptor that the kernel has just given; maps the `kvm_run` of a vCPU.
    pub fn add(&self, kind: Kind, fd: RawFd) {
        if fd < 0 {
            return;
        }
        let mut run = 0;
        if kind == Kind::Vcpu {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: A new mapping where the kernel likes.
            let at = unsafe { libc::mmap(ptr::null_mut(), RUN, access, libc::MAP_SHARED, fd, 0) };
            if at != libc::MAP_FAILED {
                run = at as usize;
            }
        }
        self.handles().push(Handle { kind, fd, run });
    }

    fn handles(&self) -> std::sync::MutexGuard<'_, Vec<Handle>> {
        self.handles.lock().expect("no thread panics with it")
    }

    /// One of a kind, if there is any.
    pub fn any(&self, rng: &mut Rng, kind: Kind) -> Option<Handle> {
        let handles = self.handles();
        let of_kind: Vec<_> = handles.iter().filter(|h| h.kind == kind).collect();
        rng.index(of_kind.len()).map(|at| *of_kind[at])
    }

    /// Whether there is room for one more of a kind.
    pub fn has_room(&self, kind: Kind) -> bool {
        self.handles().iter().filter(|h| h.kind == kind).count() < MOST
    }

    /// Closes any descriptor.
    pub fn close_any(&self, rng: &mut Rng) {
        let mut handles = self.handles();
        if let Some(at) = rng.index(handles.len()) {
            let handle = handles.swap_remove(at);
            // SAFETY: Nobody else closes it; who still uses it gets EBADF, or a newer one.
            unsafe { libc::close(handle.fd) };
        }
    }

    /// Replaces what the guest executes; of a hypervisor, its guest's code or a field of its VMCS.
    pub fn write_code(&self, rng: &mut Rng, code: &[u8]) {
        if !self.is_hypervisor {
            self.arena.copy(CODE, code);
        } else if rng.one_in(2) {
            self.arena.copy(hypervisor::L2, code);
        } else {
            let entry = hypervisor::TABLE + 16 * rng.below(hypervisor::FIELDS);
            let new = value(rng, &self.arena);
            if rng.one_in(3) {
                self.arena.write(entry, field(rng));
            }
            self.arena.write(entry + 8, new);
        }
    }
}

/// The encoding of a VMCS field, mostly of one that exists.
fn field(rng: &mut Rng) -> u64 {
    let width = rng.below(4) << 13;
    let kind = rng.below(4) << 10;
    width | kind | (2 * rng.below(32))
}

/// Bytes of a vCPU's mapping.
pub const RUN: usize = 3 * PAGE as usize;

/// Memory of [`ROOM`] bytes, followed by a page that cannot be touched.
fn buffer() -> Memory {
    let memory = Memory::new(ROOM + PAGE as usize);
    // SAFETY: The last page of the mapping, in which nothing is.
    unsafe {
        let guard = memory.as_ptr().add(ROOM).cast();
        assert_eq!(libc::mprotect(guard, PAGE as usize, libc::PROT_NONE), 0);
    }
    memory
}
