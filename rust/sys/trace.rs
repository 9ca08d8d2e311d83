// SPDX-License-Identifier: GPL-2.0

//! Tracepoints: one function for each in `events.h`.
//!
//! Invariant: the static keys named here are those of the tracepoints that `events.c` defines; what
//! it calls copies its arguments and keeps no pointer.
//!
//! While a tracepoint is off, its function costs a NOP that the kernel patches. So arguments that
//! cost something to get (a VMREAD) are taken as a closure.
//!
//! # Context
//!
//! All: any, but where the kernel is said to be in the guest (RCU does not watch there).

use crate::bindings as b;

pub use crate::bindings::burrow_trace_cpuid as Cpuid;
pub use crate::bindings::burrow_trace_exit as Exit;

/// Returns whether a tracepoint is on.
macro_rules! is_on {
    ($tracepoint:ident) => {{
        #[cfg(all(CONFIG_TRACEPOINTS, CONFIG_JUMP_LABEL))]
        // SAFETY: The key of a tracepoint that C defines, by the file's invariant.
        let is_on = unsafe {
            kernel::jump_label::static_branch_unlikely!(
                b::$tracepoint,
                kernel::bindings::tracepoint,
                key
            )
        };
        // The kernel's macro calls a function where keys are plain counters.
        #[cfg(all(CONFIG_TRACEPOINTS, not(CONFIG_JUMP_LABEL)))]
        // SAFETY: As above; the counter is read whole.
        let is_on = unsafe {
            core::ptr::addr_of!(b::$tracepoint.key.key.enabled.counter).read_volatile() > 0
        };
        #[cfg(not(CONFIG_TRACEPOINTS))]
        let is_on = false;
        is_on
    }};
}

/// The direction of an access, as the tracepoints number it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Access {
    /// The guest reads.
    Read = 0,
    /// The guest writes.
    Write = 1,
}

/// What became of an access to memory-mapped I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Mmio {
    /// A read that userspace must answer; it has no value yet.
    UnsatisfiedRead = 0,
    /// A read that was answered.
    Read = 1,
    /// A write.
    Write = 2,
}

/// Whether an event is delivered for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// It is.
    First,
    /// Its delivery was interrupted by a VM exit.
    Again,
}

/// The fields of `kvm_entry`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    /// The vCPU.
    pub vcpu_id: u32,
    /// RIP.
    pub rip: u64,
    /// The guest is to exit before its first instruction.
    pub immediate_exit: bool,
    /// VM-entry interruption information.
    pub intr_info: u32,
    /// VM-entry exception error code.
    pub error_code: u32,
}

/// `kvm_entry`: the vCPU is about to enter the guest.
#[inline]
pub fn kvm_entry(fields: impl FnOnce() -> Entry) {
    if is_on!(__tracepoint_kvm_entry) {
        let e = fields();
        // SAFETY: Values only.
        unsafe {
            b::burrow_trace_kvm_entry(
                e.vcpu_id,
                e.rip,
                e.immediate_exit,
                e.intr_info,
                e.error_code,
            )
        };
    }
}

/// `kvm_exit`: the vCPU has left the guest.
#[inline]
pub fn kvm_exit(fields: impl FnOnce() -> Exit) {
    if is_on!(__tracepoint_kvm_exit) {
        // SAFETY: The fields live during the call.
        unsafe { b::burrow_trace_kvm_exit(&fields()) };
    }
}

/// `kvm_userspace_exit`: `KVM_RUN` returns with exit reason `reason`, or with the error `errno`,
/// negative.
#[inline]
pub fn kvm_userspace_exit(reason: u32, errno: i32) {
    if is_on!(__tracepoint_kvm_userspace_exit) {
        // SAFETY: Values only.
        unsafe { b::burrow_trace_kvm_userspace_exit(reason, errno) };
    }
}

/// `kvm_pio`: an access of `count` items of `size` bytes to `port`; `val` is the first.
#[inline]
pub fn kvm_pio(access: Access, port: u16, size: u32, count: u32, val: u32) {
    if is_on!(__tracepoint_kvm_pio) {
        // SAFETY: Values only.
        unsafe { b::burrow_trace_kvm_pio(access as u32, port.into(), size, count, val) };
    }
}

/// `kvm_mmio`: an access of `len` bytes at guest-physical address `gpa`.
#[inline]
pub fn kvm_mmio(what: Mmio, len: u32, gpa: u64, val: u64) {
    if is_on!(__tracepoint_kvm_mmio) {
        // SAFETY: Values only.
        unsafe { b::burrow_trace_kvm_mmio(what as u32, len, gpa, val) };
    }
}

/// `kvm_fast_mmio`: an ioeventfd took a write without its being decoded.
#[inline]
pub fn kvm_fast_mmio(gpa: u64) {
    if is_on!(__tracepoint_kvm_fast_mmio) {
        // SAFETY: Values only.
        unsafe { b::burrow_trace_kvm_fast_mmio(gpa) };
    }
}

/// `kvm_inj_virq`: interrupt `vector` is injected; `is_software` when it is an INT n.
#[inline]
pub fn kvm_inj_virq(vector: u8, is_software: bool, delivery: Delivery) {
    if is_on!(__tracepoint_kvm_inj_virq) {
        let is_again = delivery == Delivery::Again;
        // SAFETY: Values only.
        unsafe { b::burrow_trace_kvm_inj_virq(vector.into(), is_software, is_again) };
    }
}

/// `kvm_inj_exception`: exception `vector` is injected.
#[inline]
pub fn kvm_inj_exception(vector: u8, error_code: Option<u32>, delivery: Delivery) {
    if is_on!(__tracepoint_kvm_inj_exception) {
        // SAFETY: Values only.
        unsafe {
            b::burrow_trace_kvm_inj_exception(
                vector,
                error_code.is_some(),
                error_code.unwrap_or(0),
                delivery == Delivery::Again,
            )
        };
    }
}

/// `kvm_hypercall`: the guest calls hypercall `nr`.
#[inline]
pub fn kvm_hypercall(nr: u64, args: [u64; 4]) {
    if is_on!(__tracepoint_kvm_hypercall) {
        let [a0, a1, a2, a3] = args;
        // SAFETY: Values only.
        unsafe { b::burrow_trace_kvm_hypercall(nr, a0, a1, a2, a3) };
    }
}

/// `kvm_cpuid`: the guest executes CPUID.
#[inline]
pub fn kvm_cpuid(fields: impl FnOnce() -> Cpuid) {
    if is_on!(__tracepoint_kvm_cpuid) {
        // SAFETY: The fields live during the call.
        unsafe { b::burrow_trace_kvm_cpuid(&fields()) };
    }
}

/// `kvm_msr`: the guest accesses MSR `index`; `None` when that raises #GP.
#[inline]
pub fn kvm_msr(access: Access, index: u32, data: Option<u64>) {
    if is_on!(__tracepoint_kvm_msr) {
        // SAFETY: Values only.
        unsafe { b::burrow_trace_kvm_msr(access as u32, index, data.unwrap_or(0), data.is_none()) };
    }
}

/// `kvm_cr`: the guest accesses control register `number`.
#[inline]
pub fn kvm_cr(access: Access, number: u8, value: u64) {
    if is_on!(__tracepoint_kvm_cr) {
        // SAFETY: Values only.
        unsafe { b::burrow_trace_kvm_cr(access as u32, number.into(), value) };
    }
}

/// `kvm_page_fault`: an EPT violation at `gpa`, with its exit qualification.
#[inline]
pub fn kvm_page_fault(vcpu_id: u32, gpa: u64, qualification: u64, rip: impl FnOnce() -> u64) {
    if is_on!(__tracepoint_kvm_page_fault) {
        // SAFETY: Values only.
        unsafe { b::burrow_trace_kvm_page_fault(vcpu_id, rip(), gpa, qualification) };
    }
}

/// `kvm_set_irq`: interrupt line `gsi` changes to `level`.
#[inline]
pub fn kvm_set_irq(gsi: u32, level: i32, source: i32) {
    if is_on!(__tracepoint_kvm_set_irq) {
        // SAFETY: Values only.
        unsafe { b::burrow_trace_kvm_set_irq(gsi, level, source) };
    }
}

/// `kvm_msi_set_irq`: a message-signalled interrupt is delivered.
#[inline]
pub fn kvm_msi_set_irq(address: u64, data: u32) {
    if is_on!(__tracepoint_kvm_msi_set_irq) {
        // SAFETY: Values only.
        unsafe { b::burrow_trace_kvm_msi_set_irq(address, data.into()) };
    }
}
