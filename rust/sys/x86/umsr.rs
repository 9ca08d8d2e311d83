// SPDX-License-Identifier: GPL-2.0

//! MSRs that the host needs in user mode only, given to guests between two returns there.
//!
//! The SYSCALL MSRs and TSC_AUX mean nothing while the kernel runs, so a guest's values stay in the
//! processor over VM exits. The kernel's user-return notifier brings the host's back.
//!
//! Invariant: where a CPU's `current` value of an MSR differs from the host's, the CPU's notifier is
//! registered.

use crate::{
    bindings,
    context::{
        PerCpu,
        PreemptOff, //
    },
    global::Global, //
};
use core::cell::{
    Cell,
    UnsafeCell, //
};
use kernel::prelude::*;

use super::insn;

/// The MSRs, by the order of [`UserMsr`].
const INDEX: [u32; UserMsr::COUNT] = [
    bindings::MSR_STAR,
    bindings::MSR_LSTAR,
    bindings::MSR_CSTAR,
    bindings::MSR_SYSCALL_MASK,
    bindings::MSR_TSC_AUX,
];

/// An MSR that is switched lazily.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum UserMsr {
    /// IA32_STAR.
    Star,
    /// IA32_LSTAR.
    Lstar,
    /// IA32_CSTAR.
    Cstar,
    /// IA32_FMASK.
    Fmask,
    /// IA32_TSC_AUX.
    TscAux,
}

impl UserMsr {
    /// How many there are.
    pub const COUNT: usize = 5;

    /// Returns the one with MSR number `index`.
    pub fn from_index(index: u32) -> Option<Self> {
        Some(match index {
            bindings::MSR_STAR => Self::Star,
            bindings::MSR_LSTAR => Self::Lstar,
            bindings::MSR_CSTAR => Self::Cstar,
            bindings::MSR_SYSCALL_MASK => Self::Fmask,
            bindings::MSR_TSC_AUX => Self::TscAux,
            _ => return None,
        })
    }
}

/// `notifier` is first, so that its address is the struct's.
#[repr(C)]
pub(super) struct CpuMsrs {
    notifier: UnsafeCell<bindings::user_return_notifier>,
    registered: Cell<bool>,
    host: [Cell<Option<u64>>; UserMsr::COUNT],
    current: [Cell<u64>; UserMsr::COUNT],
}

// SAFETY: Touched only on the CPU it belongs to, with preemption off.
unsafe impl Send for CpuMsrs {}
// SAFETY: As above.
unsafe impl Sync for CpuMsrs {}

pub(super) static CPUS: Global<PerCpu<CpuMsrs>> = Global::new();

/// Allocates the per-CPU state.
///
/// # Errors
///
/// `ENOMEM` when there is no memory.
pub(crate) fn init() -> Result {
    let cpus = PerCpu::new(|| CpuMsrs {
        notifier: UnsafeCell::new(bindings::user_return_notifier::default()),
        registered: Cell::new(false),
        host: [const { Cell::new(None) }; UserMsr::COUNT],
        current: [const { Cell::new(0) }; UserMsr::COUNT],
    })?;
    CPUS.populate(cpus)
}

/// Records the host's values of this CPU, which comes online or on which the module is loaded.
pub(crate) fn online(preempt: &PreemptOff) {
    let Some(cpus) = CPUS.get() else { return };
    let here = cpus.this(preempt);
    for ((host, current), index) in here.host.iter().zip(&here.current).zip(INDEX) {
        let value = insn::rdmsr(index);
        host.set(value);
        current.set(value.unwrap_or(0));
    }
}

/// Brings the host's values back on this CPU, which goes offline or which the module leaves.
pub(crate) fn offline(preempt: &PreemptOff) {
    let Some(cpus) = CPUS.get() else { return };
    let here = cpus.this(preempt);
    if here.registered.get() {
        // SAFETY: The notifier is the one registered on this CPU.
        unsafe { restore(here.notifier.get()) };
    }
}

/// Returns whether the host has `msr`.
pub fn is_present(msr: UserMsr, preempt: &PreemptOff) -> bool {
    CPUS.get()
        .is_some_and(|cpus| cpus.this(preempt).host[msr as usize].get().is_some())
}

/// Gives the guest its value of `msr`, until this CPU returns to user mode.
#[inline]
pub(crate) fn load(msr: UserMsr, value: u64, preempt: &PreemptOff) {
    let Some(cpus) = CPUS.get() else { return };
    let here = cpus.this(preempt);
    let slot = msr as usize;
    if here.current[slot].get() == value || here.host[slot].get().is_none() {
        return;
    }
    // SAFETY: The kernel does not use these MSRs while it runs; the notifier, registered below before
    // anything can return to user mode, brings the host's value back.
    if unsafe { insn::wrmsr(INDEX[slot], value) } {
        here.current[slot].set(value);
        register(here);
    }
}

fn register(here: &CpuMsrs) {
    if here.registered.replace(true) {
        return;
    }
    // SAFETY: The notifier is not registered, so nobody else touches it.
    unsafe { (*here.notifier.get()).on_user_return = Some(restore) };
    // SAFETY: Per-CPU state of this CPU; it lives until the module has gone offline everywhere.
    unsafe { bindings::user_return_notifier_register(here.notifier.get()) };
}

/// Brings the host's values back; called by the kernel before this CPU returns to user mode.
///
/// # Safety
///
/// Called by the kernel only, with what it was registered with.
unsafe extern "C" fn restore(notifier: *mut bindings::user_return_notifier) {
    // SAFETY: The notifier is the first field of its CPU's state.
    let here = unsafe { &*notifier.cast::<CpuMsrs>() };
    if here.registered.replace(false) {
        // SAFETY: It was registered on this CPU.
        unsafe { bindings::user_return_notifier_unregister(notifier) };
    }
    for ((host, current), index) in here.host.iter().zip(&here.current).zip(INDEX) {
        if let Some(value) = host.get() {
            if value != current.get() {
                // SAFETY: The host's own value.
                unsafe { insn::wrmsr(index, value) };
                current.set(value);
            }
        }
    }
}
