// SPDX-License-Identifier: GPL-2.0

//! The context that code runs in, as tokens and per-CPU cells.
//!
//! Invariant: a token exists only while what it stands for holds on the current CPU; none is `Send`.

use crate::bindings;
use core::marker::PhantomData;
use kernel::{
    alloc::KVec,
    prelude::*,
    sync::atomic::{
        Atomic,
        AtomicType, //
    },
    types::NotThreadSafe, //
};

/// Proof that preemption is off, so that the current CPU cannot change.
pub struct PreemptOff(NotThreadSafe);

impl PreemptOff {
    /// Turns preemption off until the token is dropped. Nests.
    #[inline]
    pub fn new() -> Self {
        // SAFETY: Paired with the enable in `drop()`; may be called in any context.
        unsafe { bindings::burrow_preempt_disable() };
        Self(NotThreadSafe)
    }

    /// Makes a token where preemption is off already.
    ///
    /// # Safety
    ///
    /// Preemption must be off, and stay off, for the lifetime of the returned guard.
    #[inline]
    pub unsafe fn assume<'a>() -> AssumedPreemptOff<'a> {
        AssumedPreemptOff(
            core::mem::ManuallyDrop::new(Self(NotThreadSafe)),
            PhantomData,
        )
    }

    /// Returns the number of the current CPU, which stays the current one while `self` lives.
    #[inline]
    pub fn cpu(&self) -> u32 {
        kernel::cpu::CpuId::current().as_u32()
    }
}

impl Default for PreemptOff {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PreemptOff {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: The token was made by `new()`, which turned preemption off.
        unsafe { bindings::burrow_preempt_enable() };
    }
}

/// A [`PreemptOff`] that turns nothing on again; see [`PreemptOff::assume`].
pub struct AssumedPreemptOff<'a>(core::mem::ManuallyDrop<PreemptOff>, PhantomData<&'a ()>);

impl core::ops::Deref for AssumedPreemptOff<'_> {
    type Target = PreemptOff;
    #[inline]
    fn deref(&self) -> &PreemptOff {
        &self.0
    }
}

/// Proof that interrupts are off on the current CPU, with preemption off too.
pub struct IrqsOff<'a>(PhantomData<&'a PreemptOff>, NotThreadSafe);

impl<'a> IrqsOff<'a> {
    /// Turns interrupts off until the token is dropped, which turns them on. Does not nest.
    #[inline]
    pub fn new(_preempt: &'a PreemptOff) -> Self {
        // SAFETY: Paired with the enable in `drop()`; callers run with interrupts on.
        unsafe { bindings::burrow_irq_disable() };
        Self(PhantomData, NotThreadSafe)
    }

    /// Lets pending interrupts in, then turns them off again.
    #[inline]
    pub fn open_window(&mut self) {
        // SAFETY: Interrupts are off by our own doing, and the caller lends us the token.
        unsafe { bindings::burrow_irq_enable() };
        // One instruction is needed for the interrupt shadow of STI to end.
        core::hint::spin_loop();
        // SAFETY: Turns off again what the line above turned on.
        unsafe { bindings::burrow_irq_disable() };
    }
}

impl Drop for IrqsOff<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `new()` turned interrupts off.
        unsafe { bindings::burrow_irq_enable() };
    }
}

/// One `T` for each possible CPU, at a cache line of its own.
pub struct PerCpu<T> {
    cells: KVec<Aligned<T>>,
}

#[repr(align(64))]
struct Aligned<T>(T);

// SAFETY: `this()` gives out a cell on its own CPU only, with preemption off, so that no two threads
// use one at the same time; `of()` asks for `T: Sync`.
unsafe impl<T: Send> Sync for PerCpu<T> {}

impl<T> PerCpu<T> {
    /// Allocates the cells, each made by `init`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub fn new(mut init: impl FnMut() -> T) -> Result<Self> {
        let count = kernel::cpu::nr_cpu_ids() as usize;
        let mut cells = KVec::with_capacity(count, GFP_KERNEL)?;
        for _ in 0..count {
            cells.push(Aligned(init()), GFP_KERNEL)?;
        }
        Ok(Self { cells })
    }

    /// Returns the cell of the current CPU.
    #[inline]
    pub fn this<'a>(&'a self, preempt: &'a PreemptOff) -> &'a T {
        // PANIC: there is a cell for each possible CPU.
        &self.cells[preempt.cpu() as usize].0
    }

    /// Returns the cell of CPU `cpu`, if there can be such a CPU.
    #[inline]
    pub fn of(&self, cpu: u32) -> Option<&T>
    where
        T: Sync,
    {
        self.cells.get(cpu as usize).map(|cell| &cell.0)
    }
}

/// Sends CPU `cpu` the interrupt that makes a guest on it exit. Without effect on an offline CPU.
#[inline]
pub fn kick_cpu(cpu: u32) {
    // CAST: CPU numbers are below NR_CPUS.
    // SAFETY: The kernel ignores CPUs that are not online; the interrupt has no effect of its own.
    unsafe { bindings::burrow_send_reschedule(cpu as i32) };
}

/// Returns whether the scheduler, a signal or other work wants the current task before it enters a
/// guest. With interrupts on, the answer may be old at once.
#[inline]
pub fn guest_work_pending() -> bool {
    // SAFETY: Reads flags of the current task; callable with interrupts on or off.
    unsafe { bindings::burrow_xfer_to_guest_work_pending() }
}

/// Does the work that [`guest_work_pending`] announced, except that a signal is left for the return
/// to user mode.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `EINTR` when a signal is pending.
#[inline]
pub fn handle_guest_work() -> Result {
    // SAFETY: Called in process context with interrupts on.
    kernel::error::to_result(unsafe { bindings::burrow_xfer_to_guest_handle_work() })
}

/// Returns whether a signal is pending for the current task.
#[inline]
pub fn signal_pending() -> bool {
    kernel::current!().signal_pending()
}

/// Returns nanoseconds since boot, suspend included.
#[inline]
pub fn boot_ns() -> u64 {
    // SAFETY: Callable in any context.
    unsafe { bindings::burrow_ktime_boot_ns() }
}

/// Returns how long the thread has waited for a processor since it began, in nanoseconds.
#[inline]
pub fn run_delay_ns() -> u64 {
    // SAFETY: Callable in any context that has a task.
    unsafe { bindings::burrow_run_delay_ns() }
}

/// Returns nanoseconds since 1970.
#[inline]
pub fn real_ns() -> u64 {
    // SAFETY: Callable in any context.
    unsafe { bindings::burrow_ktime_real_ns() }
}

/// Returns nanoseconds of the monotonic clock.
#[inline]
pub fn mono_ns() -> u64 {
    // SAFETY: Callable in any context.
    unsafe { bindings::burrow_ktime_ns() }
}

/// Returns the frequency of the time-stamp counter, in kHz.
pub fn tsc_khz() -> u32 {
    // SAFETY: Reads a variable that the kernel set at boot.
    unsafe { bindings::burrow_tsc_khz() }
}

/// Returns the value of `word`, by one plain load. That is all that the kernel's `atomic_read()` is, but
/// to Rust it comes as a function call.
#[inline]
pub fn peek<T: AtomicType>(word: &Atomic<T>) -> T {
    // SAFETY: Aligned, alive as long as `word`, and of a size that one volatile access reads whole.
    unsafe { word.as_ptr().read_volatile() }
}

/// Sets `word` to `value`, by one plain store, as the kernel's `atomic_set()` does.
#[inline]
pub fn poke<T: AtomicType>(word: &Atomic<T>, value: T) {
    // SAFETY: As in `peek()`; an atomic may be written by any thread.
    unsafe { word.as_ptr().write_volatile(value) }
}

/// Returns whether the time-stamp counters of all CPUs are known to agree, and to keep time.
pub fn is_tsc_stable() -> bool {
    // SAFETY: Reads a variable of the kernel's.
    unsafe { bindings::burrow_is_tsc_stable() }
}

/// Returns how many CPUs are online.
pub fn nr_online_cpus() -> u32 {
    // SAFETY: Reads a counter.
    unsafe { bindings::burrow_nr_online_cpus() }
}

/// A word of bits that several contexts set and clear.
pub struct AtomicBits(Atomic<u64>);

impl AtomicBits {
    /// Makes a word with no bit set.
    pub const fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Sets the bits of `mask` and returns the word as it was. A full barrier.
    #[inline]
    pub fn set(&self, mask: u64) -> u64 {
        self.update(|old| old | mask)
    }

    /// Clears the bits of `mask` and returns the word as it was. A full barrier.
    #[inline]
    pub fn clear(&self, mask: u64) -> u64 {
        self.update(|old| old & !mask)
    }

    /// Returns the word.
    #[inline]
    pub fn get(&self) -> u64 {
        peek(&self.0)
    }

    /// Takes all bits out.
    #[inline]
    pub fn take(&self) -> u64 {
        self.0.xchg(0, kernel::sync::atomic::Full)
    }

    fn update(&self, new: impl Fn(u64) -> u64) -> u64 {
        let mut old = self.get();
        loop {
            match self.0.cmpxchg(old, new(old), kernel::sync::atomic::Full) {
                Ok(was) => return was,
                Err(now) => old = now,
            }
        }
    }
}

impl Default for AtomicBits {
    fn default() -> Self {
        Self::new()
    }
}

/// Lets other tasks run if the scheduler finds that it is their turn.
///
/// # Context
///
/// May sleep.
#[inline]
pub fn cond_resched() {
    // SAFETY: Process context, as documented; elsewhere it warns or does nothing.
    unsafe { bindings::burrow_cond_resched() };
}

/// Lets other tasks run, if any wants to.
pub fn yield_now() {
    // SAFETY: Process context, nothing held that forbids sleeping.
    unsafe { kernel::bindings::yield_() };
}

/// The signal mask of the current thread, replaced until this is dropped. One at a time per thread.
///
/// The thread's own mask waits in `real_blocked`, as in `sigtimedwait()`: a signal that the thread
/// blocks and that only the replacement lets through stays pending until the thread takes it, instead
/// of being dropped because it is ignored, or killing the process by its default action.
pub struct SignalMask(NotThreadSafe);

impl SignalMask {
    /// The size in bytes of a signal set.
    pub const SIZE: usize = 8;

    /// Blocks the signals in `blocked`, and no others; SIGKILL and SIGSTOP cannot be.
    pub fn set(blocked: u64) -> Self {
        use kernel::bindings as k;
        const UNBLOCKABLE: u64 = 1 << (k::SIGKILL - 1) | 1 << (k::SIGSTOP - 1);
        let mut new = k::sigset_t::default();
        new.sig[0] = (blocked & !UNBLOCKABLE) as kernel::ffi::c_ulong;
        // SAFETY: Both sets are valid for the call; only the thread itself writes `real_blocked`.
        unsafe { k::sigprocmask(k::SIG_SETMASK as i32, &mut new, real_blocked()) };
        Self(NotThreadSafe)
    }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        use kernel::bindings as k;
        // SAFETY: As in `set()`, which left the thread's own mask there.
        unsafe { k::sigprocmask(k::SIG_SETMASK as i32, real_blocked(), core::ptr::null_mut()) };
        // SAFETY: As above.
        unsafe { real_blocked().write(k::sigset_t::default()) };
    }
}

/// Returns where the current thread keeps the mask that it goes back to.
fn real_blocked() -> *mut kernel::bindings::sigset_t {
    // SAFETY: The current task is valid as long as it runs; this only computes an address in it.
    unsafe { core::ptr::addr_of_mut!((*kernel::current!().as_ptr()).real_blocked) }
}
