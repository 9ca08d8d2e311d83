// SPDX-License-Identifier: GPL-2.0

//! One thread that makes random calls.

use kvm_bindings::*;
use std::ptr;

use super::{
    calls::{
        Arg,
        Call,
        LONG,
        SYSTEM,
        VCPU,
        VM, //
    },
    code,
    rng::{
        fill,
        gpa,
        mutate,
        value,
        Rng, //
    },
    world::{
        Handle,
        Kind,
        World,
        ROOM,
        RUN, //
    },
};
use crate::{
    ioctl::*,
    kvm::{
        Memory,
        PAGE, //
    },
};

/// A thread of a process that makes calls.
pub struct Thread<'a> {
    world: &'a World,
    rng: Rng,
    /// Its place among the buffers.
    number: usize,
    /// Whether each call is told before it is made.
    is_verbose: bool,
}

impl<'a> Thread<'a> {
    /// Thread `number` of those that share `world`.
    pub fn new(world: &'a World, seed: u64, number: usize, is_verbose: bool) -> Self {
        Self {
            world,
            rng: Rng::new(seed),
            number,
            is_verbose,
        }
    }

    /// Makes `count` calls, interrupted by a timer where they block.
    pub fn run(mut self, count: u64) {
        start_timer();
        for _ in 0..count {
            self.step();
        }
    }

    fn step(&mut self) {
        match self.rng.below(64) {
            0 => self.create_vm(),
            1 | 2 => self.create_vcpu(),
            3 => self.create_event(),
            4 if self.rng.one_in(2) => self.world.close_any(&mut self.rng),
            4 => self.create_other(),
            5 | 6 => self.change_mapping(),
            7 => self.map_vcpu(),
            8 | 9 => self.signal_event(),
            10 => self.write_code(),
            11..=13 => self.make_sane(),
            14 => self.disturb(),
            15 | 16 => self.call_one_of(Kind::System, SYSTEM),
            17..=35 => self.call_one_of(Kind::Vm, VM),
            36..=53 => self.call_one_of(Kind::Vcpu, VCPU),
            _ => self.enter_guest(),
        }
    }

    fn say(&self, what: std::fmt::Arguments<'_>) {
        if self.is_verbose {
            println!("# {}: {what}", self.number);
        }
    }

    fn buffer(&self) -> &'a Memory {
        &self.world.buffers[self.number]
    }

    /// The buffer as bytes; other threads may change them at any time.
    #[allow(clippy::mut_from_ref)]
    fn bytes(&self, from: usize) -> &'a mut [u8] {
        // SAFETY: The range is in the mapping. Threads that write to it at once are part of the test;
        // nothing here depends on what they leave.
        unsafe { std::slice::from_raw_parts_mut(self.buffer().as_ptr().add(from), ROOM - from) }
    }

    fn create_vm(&mut self) {
        if self.world.has_room(Kind::Vm) {
            let vm = self.create(Kind::System, KVM_CREATE_VM, Kind::Vm, 0);
            if let (Ok(vm), true) = (vm, self.rng.one_in(3)) {
                self.enable_rings(vm);
            }
        }
    }

    /// Gives the vCPUs to come of a VM dirty rings.
    fn enable_rings(&mut self, vm: i32) {
        let mut cap = kvm_enable_cap {
            cap: KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
            args: [PAGE << self.rng.below(4), 0, 0, 0],
            ..Default::default()
        };
        let done = call_with(vm, KVM_ENABLE_CAP, &mut cap);
        self.say(format_args!("rings {vm}: {done:?}"));
    }

    fn create_vcpu(&mut self) {
        let id = self.rng.below(5);
        if self.world.has_room(Kind::Vcpu) {
            let _ = self.create(Kind::Vm, KVM_CREATE_VCPU, Kind::Vcpu, id);
        }
    }

    fn create_other(&mut self) {
        if !self.world.has_room(Kind::Other) {
            return;
        }
        let of = *self.rng.pick(&[Kind::Vm, Kind::Vcpu]);
        let _ = self.create(of, KVM_GET_STATS_FD, Kind::Other, 0);
        let mut memory = [
            self.rng.below(20) * PAGE,
            self.rng.below(2),
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        let guest_memory = iowr::<[u64; 8]>(0xd4);
        let _ = self.create(
            Kind::Vm,
            guest_memory,
            Kind::Other,
            ptr::from_mut(&mut memory) as u64,
        );
    }

    /// Calls what gives a descriptor.
    fn create(&mut self, of: Kind, request: u64, kind: Kind, arg: u64) -> Result {
        let handle = self.world.any(&mut self.rng, of).ok_or(libc::EBADF)?;
        let given = call(handle.fd, request, arg);
        self.say(format_args!("{kind:?} of {of:?} {}: {given:?}", handle.fd));
        self.world.add(kind, given.unwrap_or(-1));
        given
    }

    fn create_event(&mut self) {
        if self.world.has_room(Kind::Event) {
            let flags = libc::EFD_NONBLOCK
                | if self.rng.one_in(4) {
                    libc::EFD_SEMAPHORE
                } else {
                    0
                };
            // SAFETY: Plain numbers.
            self.world
                .add(Kind::Event, unsafe { libc::eventfd(0, flags) });
        }
    }

    /// Writes to an eventfd, or reads from what can be read.
    fn signal_event(&mut self) {
        let kind = *self.rng.pick(&[Kind::Event, Kind::Event, Kind::Other]);
        let Some(handle) = self.world.any(&mut self.rng, kind) else {
            return;
        };
        let buffer = self.bytes(0);
        // SAFETY: The buffer has room; the numbers are plain.
        unsafe {
            if kind == Kind::Event && !self.rng.one_in(4) {
                let one = 1u64;
                libc::write(handle.fd, ptr::from_ref(&one).cast(), 8);
            } else {
                let len = self.rng.below(ROOM as u64) as usize;
                let offset = self.rng.below(0x400) as libc::off_t;
                libc::pread(handle.fd, buffer.as_mut_ptr().cast(), len, offset);
                libc::read(handle.fd, buffer.as_mut_ptr().cast(), 8);
            }
        }
    }

    /// Maps pages of a vCPU's descriptor, or of another, and lets them go again.
    fn map_vcpu(&mut self) {
        let kind = *self
            .rng
            .pick(&[Kind::Vcpu, Kind::Vcpu, Kind::Vm, Kind::Other]);
        let Some(handle) = self.world.any(&mut self.rng, kind) else {
            return;
        };
        let len = (1 + self.rng.below(5) as usize) * PAGE as usize;
        // The dirty ring begins at page 64.
        let first = *self.rng.pick(&[0, 0, 64]) + self.rng.below(6);
        let offset = first * PAGE + if self.rng.one_in(9) { 1 << 40 } else { 0 };
        let access = *self
            .rng
            .pick(&[libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE, 0]);
        let flags = *self.rng.pick(&[libc::MAP_SHARED, libc::MAP_PRIVATE]) | libc::MAP_POPULATE;
        self.say(format_args!("mmap {} {len:#x} at {offset:#x}", handle.fd));
        // SAFETY: A new mapping, where the kernel likes, which is unmapped at once.
        unsafe {
            let at = libc::mmap(
                ptr::null_mut(),
                len,
                access,
                flags,
                handle.fd,
                offset as libc::off_t,
            );
            if at != libc::MAP_FAILED {
                libc::munmap(at, len);
            }
        }
    }

    /// Changes what a part of guest memory is in this process.
    fn change_mapping(&mut self) {
        let arena = &self.world.arena;
        let start = gpa(&mut self.rng, arena) & !(PAGE - 1);
        let most = (arena.len() as u64 - start) / PAGE;
        let len = (1 + self.rng.below(most.min(64))) * PAGE;
        let how = self.rng.below(6);
        let is_firm = start < World::FIRM;
        self.say(format_args!("change {how} of {len:#x} at {start:#x}"));
        // SAFETY: The range is in the mapping. It is not touched by this process but below
        // `World::FIRM`, where its pages may be emptied only.
        unsafe {
            let at = arena.as_ptr().add(start as usize).cast();
            let len = len as usize;
            let both = libc::PROT_READ | libc::PROT_WRITE;
            let anew = |access, flags| {
                let flags = flags | libc::MAP_FIXED | libc::MAP_ANONYMOUS;
                libc::mmap(at, len, access, flags, -1, 0);
            };
            match how {
                _ if is_firm => {
                    if how == 0 {
                        libc::madvise(at, len, libc::MADV_DONTNEED);
                    }
                }
                0 => anew(both, libc::MAP_PRIVATE),
                1 => anew(both, libc::MAP_SHARED),
                2 => {
                    libc::mprotect(at, len, *self.rng.pick(&[libc::PROT_READ, 0, both]));
                }
                3 => {
                    libc::munmap(at, len);
                    anew(libc::PROT_NONE, libc::MAP_PRIVATE);
                }
                4 => {
                    libc::madvise(
                        at,
                        len,
                        *self.rng.pick(&[libc::MADV_FREE, libc::MADV_COLD, 21, 22]),
                    );
                }
                _ => {
                    libc::madvise(at, len, libc::MADV_DONTNEED);
                }
            }
        }
    }

    fn write_code(&mut self) {
        let code = code::random(&mut self.rng);
        self.world.write_code(&mut self.rng, &code);
    }

    /// Gives a vCPU the registers that it began with.
    fn make_sane(&mut self) {
        if let Some(vcpu) = self.world.any(&mut self.rng, Kind::Vcpu) {
            let (mut sregs, mut regs) = self.world.sane;
            let done = call_with(vcpu.fd, KVM_SET_SREGS, &mut sregs);
            self.say(format_args!("sane {}: {done:?}", vcpu.fd));
            let _ = call_with(vcpu.fd, KVM_SET_REGS, &mut regs);
            if self.rng.one_in(2) {
                let mut mp_state = 0u32;
                let _ = call_with(vcpu.fd, KVM_SET_MP_STATE, &mut mp_state);
            }
        }
    }

    /// Changes the argument of another thread's call, if one is under way.
    fn disturb(&mut self) {
        let other = self.rng.below(self.world.buffers.len() as u64) as usize;
        let at = self.rng.below(512);
        let new = value(&mut self.rng, &self.world.arena);
        self.world.buffers[other].write(at & !7, new);
    }

    fn call_one_of(&mut self, kind: Kind, calls: &'static [Call]) {
        let Some(handle) = self.world.any(&mut self.rng, kind) else {
            return;
        };
        // Now and then one that is another kind's.
        let calls = if self.rng.one_in(50) { VM } else { calls };
        let entry = self.rng.pick(calls);
        let at = self.argument(handle, entry);
        self.say(format_args!("{} {} {at:#x}", entry.name, handle.fd));
        let done = call(handle.fd, entry.request, at);
        self.say(format_args!("{} {}: {done:?}", entry.name, handle.fd));
    }

    /// Writes the argument of a call and says where it is, or what.
    fn argument(&mut self, handle: Handle, entry: &Call) -> u64 {
        let (rng, world) = (&mut self.rng, self.world);
        if rng.one_in(40) {
            return self.bad_pointer();
        }
        match entry.arg {
            Arg::None if rng.one_in(20) => rng.bits(),
            Arg::None => 0,
            Arg::Number => value(rng, &world.arena),
            Arg::Struct(len) => {
                let bytes = self.bytes(ROOM - len);
                fill(&mut self.rng, &world.arena, bytes);
                bytes.as_ptr() as u64
            }
            Arg::Saved(get, len) => {
                let bytes = self.bytes(ROOM - len);
                bytes[..4].copy_from_slice(&[self.rng.below(4) as u8, 0, 0, 0]);
                bytes[4..8].copy_from_slice(&(LONG as u32).to_le_bytes());
                let _ = call(handle.fd, get, bytes.as_ptr() as u64);
                mutate(&mut self.rng, &world.arena, bytes);
                bytes.as_ptr() as u64
            }
            Arg::Made(make) => {
                let bytes = self.bytes(0);
                bytes.fill(0);
                make(&mut self.rng, world, bytes);
                bytes.as_ptr() as u64
            }
        }
    }

    /// An address that cannot be read, or not as far as needed.
    fn bad_pointer(&mut self) -> u64 {
        let guard = self.buffer().hva() + ROOM as u64;
        let near = self.rng.below(9);
        *self.rng.pick(&[
            0,
            near,
            guard,
            guard - near,
            guard - 8 * near,
            0x7fff_ffff_f000,
            0x7fff_ffff_fff8,
            0x8000_0000_0000,
            0xffff_8880_0000_0000,
            0xffff_ffff_8100_0000,
            u64::MAX,
            u64::MAX - near,
        ])
    }

    /// `KVM_RUN`, with a few bytes of `kvm_run` changed, or an immediate exit.
    fn enter_guest(&mut self) {
        let Some(vcpu) = self.world.any(&mut self.rng, Kind::Vcpu) else {
            return;
        };
        if vcpu.run != 0 {
            // SAFETY: The mapping is there for good, and nothing here depends on what is in it.
            let run = unsafe { std::slice::from_raw_parts_mut(vcpu.run as *mut u8, RUN) };
            run[1] = u8::from(self.rng.one_in(4));
            run[0] = u8::from(self.rng.one_in(6));
            if self.rng.one_in(4) {
                let last = *self.rng.pick(&[32, 400, RUN]);
                mutate(&mut self.rng, &self.world.arena, &mut run[..last]);
            }
        }
        self.say(format_args!("KVM_RUN {}", vcpu.fd));
        let done = call(vcpu.fd, KVM_RUN, 0);
        self.say(format_args!("KVM_RUN {}: {done:?}", vcpu.fd));
    }
}

/// How often a call that blocks is interrupted, in nanoseconds.
const TICK_NS: libc::c_long = 1_000_000;

/// Has the calling thread get `SIGALRM` again and again.
fn start_timer() {
    // SAFETY: The structures are plain and live during the calls; the handler does nothing.
    unsafe {
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGALRM;
        event.sigev_notify_thread_id = libc::gettid();
        let mut timer: libc::timer_t = ptr::null_mut();
        assert_eq!(
            libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer),
            0
        );
        let tick = libc::timespec {
            tv_sec: 0,
            tv_nsec: TICK_NS,
        };
        let times = libc::itimerspec {
            it_interval: tick,
            it_value: tick,
        };
        assert_eq!(libc::timer_settime(timer, 0, &times, ptr::null_mut()), 0);
    }
}
