// SPDX-License-Identifier: GPL-2.0

//! Getting a vCPU out of the guest: signals, `immediate_exit`, the end of the
//! process.

use kvm_bindings::*;
use libc::{
    EFAULT,
    EINTR,
    EINVAL, //
};
use std::{
    os::{
        fd::AsRawFd,
        unix::thread::JoinHandleExt, //
    },
    sync::atomic::{
        AtomicU32,
        Ordering, //
    },
    thread,
    time::Duration, //
};

use crate::{
    code,
    group,
    guest::{
        Guest,
        Mode,
        CODE,
        DATA, //
    },
    harness::skip_on_upstream,
    ioctl::*,
    kvm::*, //
};

group!("signal":
    immediate_exit_never_enters_the_guest,
    immediate_exit_is_not_cleared_by_the_kernel,
    a_pending_signal_ends_the_run_at_once,
    a_signal_ends_a_spinning_guest,
    a_signal_ends_a_guest_that_spins_with_interrupts_off,
    a_signal_ends_a_halted_vcpu,
    a_blocked_signal_does_not,
    the_signal_mask_holds_during_the_run,
    a_signal_in_the_mask_does_not_end_the_run,
    a_signal_mask_of_another_size_is_refused,
    an_ignored_signal_does_not_disturb,
    sigkill_ends_a_spinning_guest,
    sigkill_ends_a_halted_vcpu,
    sigkill_of_a_process_with_many_vcpus,
    sigkill_ends_the_wait_for_a_vcpu_that_runs,
);

/// A guest that counts at [`DATA`] for ever, with interrupts enabled.
fn spinner() -> Guest {
    Guest::new(
        Mode::Long,
        code!(64, "sti", "2:", "inc qword ptr [0x20000]", "jmp 2b"),
    )
}

/// A guest that halts for ever, in the kernel.
fn sleeper() -> Guest {
    Guest::with_lapic(
        Mode::Long,
        code!(64, "sti", "2:", "inc qword ptr [0x20000]", "hlt", "jmp 2b"),
    )
}

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

/// Handles SIGUSR1 by counting.
fn handle_usr1() {
    // SAFETY: The handler does nothing but an atomic addition.
    let old = unsafe { libc::signal(libc::SIGUSR1, count as *const () as libc::sighandler_t) };
    assert_ne!(old, libc::SIG_ERR);
}

/// Blocks SIGUSR1 in this thread; returns the mask that was there before.
fn block_usr1() -> libc::sigset_t {
    // SAFETY: The sets are locals, initialized by the calls.
    unsafe {
        let mut set = std::mem::zeroed();
        let mut old = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGUSR1);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut old), 0);
        old
    }
}

/// Sends SIGUSR1 to this thread.
fn raise_usr1() {
    // SAFETY: Sends a signal to the calling thread.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
}

/// Tells whether SIGUSR1 waits.
fn is_usr1_pending() -> bool {
    // SAFETY: The set is a local, initialized by the call.
    unsafe {
        let mut set = std::mem::zeroed();
        assert_eq!(libc::sigpending(&mut set), 0);
        libc::sigismember(&set, libc::SIGUSR1) == 1
    }
}

/// `KVM_SET_SIGNAL_MASK`, with the kernel's set of 64 bits.
fn set_mask(vcpu: &Vcpu, len: u32, signals: u64) -> Result {
    #[repr(C, packed)]
    struct Mask {
        len: u32,
        signals: u64,
    }
    vcpu.set(KVM_SET_SIGNAL_MASK, Mask { len, signals })
}

const USR1: u64 = 1 << (libc::SIGUSR1 - 1);

fn immediate_exit_never_enters_the_guest() {
    let guest = spinner();
    guest.cpu().shared().immediate_exit = 1;
    for _ in 0..3 {
        assert_eq!(guest.cpu().run_raw(), Err(EINTR));
    }
    assert_eq!(guest.memory.poll(DATA), 0);
    assert_eq!(guest.cpu().regs().rip, CODE);
}

fn immediate_exit_is_not_cleared_by_the_kernel() {
    let guest = Guest::new(Mode::Real, code!(16, "hlt"));
    guest.cpu().shared().immediate_exit = 1;
    assert_eq!(guest.cpu().run_raw(), Err(EINTR));
    assert_eq!(guest.cpu().shared().immediate_exit, 1);
    guest.cpu().shared().immediate_exit = 0;
    guest.run_to_hlt();
}

fn a_pending_signal_ends_the_run_at_once() {
    handle_usr1();
    let guest = spinner();
    let old = block_usr1();
    raise_usr1();
    // The mask of the run lets through what the thread's own does not.
    assert_eq!(set_mask(guest.cpu(), 8, 0), Ok(0));
    assert_eq!(guest.cpu().run_raw(), Err(EINTR));
    assert_eq!(guest.cpu().shared().exit_reason, KVM_EXIT_INTR);
    // The signal was not delivered: it waits for the thread's own mask.
    assert_eq!(HANDLED.load(Ordering::Relaxed), 0);
    assert!(is_usr1_pending());
    // SAFETY: The set was returned by the kernel.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &old, std::ptr::null_mut()) };
    assert_eq!(HANDLED.load(Ordering::Relaxed), 1);
}

/// Runs a guest in a thread and sends that thread SIGUSR1 when the guest works.
fn interrupted(guest: Guest) -> (Guest, Result) {
    handle_usr1();
    let memory = guest.memory.hva();
    let thread = thread::spawn(move || {
        let result = guest.cpu().run_raw();
        (guest, result)
    });
    // SAFETY: The guest, which the thread returns to us, owns the memory.
    let counter = unsafe { &*((memory + DATA) as *const std::sync::atomic::AtomicU64) };
    while counter.load(Ordering::Relaxed) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(5));
    // SAFETY: The thread has not been joined.
    assert_eq!(
        unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) },
        0
    );
    thread.join().expect("thread")
}

fn a_signal_ends_a_spinning_guest() {
    let (guest, result) = interrupted(spinner());
    assert_eq!(result, Err(EINTR));
    assert_eq!(guest.cpu().shared().exit_reason, KVM_EXIT_INTR);
    // It goes on where it was.
    let before = guest.memory.poll(DATA);
    let (guest, result) = interrupted(guest);
    assert_eq!(result, Err(EINTR));
    assert!(guest.memory.poll(DATA) > before);
}

fn a_signal_ends_a_guest_that_spins_with_interrupts_off() {
    skip_on_upstream("in Bochs, upstream does not get the CPU back");
    let guest = Guest::new(
        Mode::Long,
        code!(64, "2:", "inc qword ptr [0x20000]", "jmp 2b"),
    );
    let (guest, result) = interrupted(guest);
    assert_eq!(result, Err(EINTR));
    assert!(guest.memory.poll(DATA) > 0);
}

fn a_signal_ends_a_halted_vcpu() {
    let (guest, result) = interrupted(sleeper());
    assert_eq!(result, Err(EINTR));
    assert_eq!(guest.memory.poll(DATA), 1);
    // It is still halted.
    guest.cpu().shared().immediate_exit = 1;
    assert_eq!(guest.cpu().run_raw(), Err(EINTR));
    assert_eq!(guest.memory.poll(DATA), 1);
}

fn a_blocked_signal_does_not() {
    handle_usr1();
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov ecx, 1000", "2:", "loop 2b", "hlt"),
    );
    block_usr1();
    raise_usr1();
    guest.run_to_hlt();
    assert!(is_usr1_pending());
}

fn the_signal_mask_holds_during_the_run() {
    handle_usr1();
    let guest = Guest::new(Mode::Long, code!(64, "out 0xe1, al", "hlt"));
    assert_eq!(set_mask(guest.cpu(), 8, USR1), Ok(0));
    block_usr1();
    raise_usr1();
    guest.run_to_done();
    // Without a mask of its own, the run has the thread's.
    assert_eq!(guest.cpu().ioctl(KVM_SET_SIGNAL_MASK, 0), Ok(0));
    guest.run_to_hlt();
    assert!(is_usr1_pending());
}

fn a_signal_in_the_mask_does_not_end_the_run() {
    handle_usr1();
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "sti",
            "inc qword ptr [0x20000]",
            "2:",
            "mov rax, [0x20008]",
            "test rax, rax",
            "jz 2b",
            "hlt"
        ),
    );
    assert_eq!(set_mask(guest.cpu(), 8, USR1), Ok(0));
    let (memory, at) = (guest.memory.hva(), DATA);
    // SAFETY: The memory lives until the end of this function.
    let word = |n: u64| unsafe { &*((memory + at + 8 * n) as *const std::sync::atomic::AtomicU64) };
    // SAFETY: Returns the calling thread's own number.
    let this = unsafe { libc::pthread_self() } as usize;
    thread::scope(|scope| {
        scope.spawn(|| {
            while word(0).load(Ordering::Relaxed) == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            // SAFETY: The thread waits for us at the end of the scope.
            unsafe { libc::pthread_kill(this as libc::pthread_t, libc::SIGUSR1) };
            thread::sleep(Duration::from_millis(10));
            assert_eq!(HANDLED.load(Ordering::Relaxed), 0);
            word(1).store(1, Ordering::Relaxed);
        });
        guest.run_to_hlt();
    });
    assert_eq!(HANDLED.load(Ordering::Relaxed), 1);
}

fn a_signal_mask_of_another_size_is_refused() {
    let guest = spinner();
    for len in [0, 4, 16, 128] {
        assert_eq!(set_mask(guest.cpu(), len, 0), Err(EINVAL));
    }
    assert_eq!(guest.cpu().ioctl(KVM_SET_SIGNAL_MASK, 8), Err(EFAULT));
}

fn an_ignored_signal_does_not_disturb() {
    // SAFETY: Ignoring a signal runs no code.
    unsafe { libc::signal(libc::SIGUSR1, libc::SIG_IGN) };
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov ecx, 1000", "2:", "loop 2b", "hlt"),
    );
    raise_usr1();
    guest.run_to_hlt();
}

/// Runs guests in the threads of a child process, and kills that.
fn kill_while_running(make: fn() -> Guest, threads: usize) {
    // SAFETY: fork() in a process with one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // A VM belongs to the process that made it.
        let run = move |_| thread::spawn(move || make().cpu().run_raw());
        let threads: Vec<_> = (0..threads).map(run).collect();
        for thread in threads {
            let _ = thread.join();
        }
        // SAFETY: Ends the child, with which the parent then finds fault.
        unsafe { libc::_exit(1) }
    }
    thread::sleep(Duration::from_millis(100));
    let mut status = 0;
    // SAFETY: Ends and awaits the child just made.
    unsafe {
        libc::kill(pid, libc::SIGKILL);
        assert_eq!(libc::waitpid(pid, &mut status, 0), pid);
    }
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL);
}

fn sigkill_ends_a_spinning_guest() {
    kill_while_running(spinner, 1);
}

fn sigkill_ends_a_halted_vcpu() {
    kill_while_running(sleeper, 1);
}

fn sigkill_of_a_process_with_many_vcpus() {
    kill_while_running(spinner, 8);
}

/// Reads registers of the vCPU whose descriptor is `fd`, which waits for the vCPU.
extern "C" fn read_registers(fd: *mut libc::c_void) -> libc::c_int {
    let mut regs = kvm_regs::default();
    // SAFETY: The structure is a local; the descriptor is the parent's, too.
    unsafe { libc::ioctl(fd as libc::c_int, KVM_GET_REGS as _, &mut regs) }
}

fn sigkill_ends_the_wait_for_a_vcpu_that_runs() {
    handle_usr1();
    let guest = sleeper();
    let fd = guest.cpu().as_raw_fd();
    let runner = thread::spawn(move || (guest.cpu().run_raw(), guest));
    thread::sleep(Duration::from_millis(50));
    let mut stack = vec![0u128; 4096];
    // SAFETY: The child has a stack of its own. It shares the memory, as a VM belongs to one address
    // space, but is no thread, so that it can be killed alone.
    let pid = unsafe {
        libc::clone(
            read_registers,
            stack.as_mut_ptr_range().end.cast(),
            libc::CLONE_VM | libc::CLONE_FILES | libc::SIGCHLD,
            fd as usize as *mut libc::c_void,
        )
    };
    assert!(pid > 0);
    thread::sleep(Duration::from_millis(50));
    // SAFETY: Ends the child just made.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    let mut status = 0;
    let ended = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(10));
        // SAFETY: The status is a local.
        unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) == pid }
    });
    assert!(ended, "it waits on");
    assert!(libc::WIFSIGNALED(status));
    // SAFETY: The thread has not been joined.
    unsafe { libc::pthread_kill(runner.as_pthread_t(), libc::SIGUSR1) };
    let (result, _guest) = runner.join().expect("thread");
    assert_eq!(result, Err(EINTR));
}
