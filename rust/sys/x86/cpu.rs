// SPDX-License-Identifier: GPL-2.0

//! VMX on every CPU: on while the module is loaded, across hotplug, and off while the machine sleeps,
//! when it is shut down, and in an emergency.
//!
//! Invariant: while an [`Enabled`] lives, each online CPU is in VMX operation by the kernel's own
//! service, from [`online`] to [`offline`] as it comes and goes, but for sleep and shutdown. `ON` of a
//! CPU says whether it holds a reference to that service; only the CPU itself uses it, with interrupts
//! off.

use super::{
    insn,
    tsc,
    umsr,
    vmcs, //
};
use crate::{
    bindings,
    context::{
        IrqsOff,
        PerCpu,
        PreemptOff, //
    },
    global::{
        Global,
        Reclaim, //
    },
};
use burrow_core::x86::vmx::caps::VmxCaps;
use core::{
    cell::{
        Cell,
        UnsafeCell, //
    },
    ffi::{
        c_int,
        c_uint,
        c_void, //
    },
    ptr, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

// CAST: feature numbers are small.
const VMX: i32 = bindings::X86_FEATURE_VMX as i32;

/// Returns whether the boot CPU has (and the kernel uses) `feature`, one of `X86_FEATURE_*`.
pub fn has(feature: u32) -> bool {
    // SAFETY: The shim reads a bit of a bitmap by a constant of the kernel.
    unsafe { bindings::burrow_cpu_has(feature) }
}

/// Why VMX cannot be used at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoVmx {
    /// CPUID does not report VMX.
    Unsupported,
    /// The firmware has locked VMX off in IA32_FEATURE_CONTROL.
    LockedByFirmware,
}

/// Tells whether VMX is there and not locked off.
pub fn check_vmx() -> Result<(), NoVmx> {
    // CPUID.01H:ECX[5]
    if insn::cpuid(1, 0).ecx & (1 << 5) == 0 {
        return Err(NoVmx::Unsupported);
    }
    const LOCKED: u64 = 1 << 0;
    const VMX_OUTSIDE_SMX: u64 = 1 << 2;
    let control = insn::rdmsr(bindings::MSR_IA32_FEAT_CTL).unwrap_or(0);
    if control & LOCKED == 0 || control & VMX_OUTSIDE_SMX == 0 {
        return Err(NoVmx::LockedByFirmware);
    }
    Ok(())
}

/// Reads the VMX capability MSRs of this CPU.
pub fn read_caps() -> VmxCaps {
    VmxCaps::read(|index| insn::rdmsr(index).unwrap_or(0))
}

static ON: Global<PerCpu<Cell<bool>>> = Global::new();

static SYSCORE_OPS: bindings::syscore_ops = bindings::syscore_ops {
    suspend: Some(suspend),
    resume: Some(resume),
    shutdown: Some(shutdown),
};

/// What the kernel knows our `SYSCORE_OPS` by.
struct Syscore(UnsafeCell<bindings::syscore>);

// SAFETY: Only the kernel touches it while it is registered, under a lock of its own.
unsafe impl Sync for Syscore {}

static SYSCORE: Syscore = Syscore(UnsafeCell::new(bindings::syscore {
    node: bindings::list_head {
        next: ptr::null_mut(),
        prev: ptr::null_mut(),
    },
    ops: &SYSCORE_OPS,
    data: ptr::null_mut(),
}));

/// VMX operation on all CPUs; dropping it ends it.
///
/// There is one, which the module's own state holds. It is dropped at the end of the unloading (or of
/// a loading that failed), when there is no VM, no file and no thread of the module any more.
pub struct Enabled {
    state: bindings::cpuhp_state,
    /// Goes after the callbacks that use them.
    _statics: Statics,
}

/// The statics of the module; dropping this frees them.
struct Statics {
    keep: [&'static dyn Reclaim; 2],
}

impl Drop for Statics {
    fn drop(&mut self) {
        let ours: [&dyn Reclaim; 3] = [&vmcs::CPUS, &umsr::CPUS, &ON];
        for one in Iterator::chain(ours.into_iter(), self.keep) {
            // SAFETY: The end of the unloading or of a failed loading, as `Enabled` says: what else
            // could refer to them is gone or was never there.
            unsafe { one.reclaim() };
        }
    }
}

/// The hotplug state at which KVM comes online: after the CPU's own VMX state is set up, before tasks
/// run on it.
const ONLINE_STATE: bindings::cpuhp_state = bindings::cpuhp_state_CPUHP_AP_KVM_ONLINE;

impl Enabled {
    /// Puts all CPUs into VMX operation. `keep` is freed when they have left it, or could not get in.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory, `EOPNOTSUPP` when the kernel found no usable VMX, or what a
    /// CPU said.
    pub fn new(keep: [&'static dyn Reclaim; 2]) -> Result<Self> {
        let statics = Statics { keep };
        vmcs::init()?;
        umsr::init()?;
        ON.populate(PerCpu::new(|| Cell::new(false))?)?;
        // SAFETY: The callback is a function of this module, unregistered in `drop()`.
        unsafe { bindings::x86_virt_register_emergency_callback(Some(vmcs::emergency_clear)) };
        // SAFETY: The callbacks live as long as the module; the name is a static string.
        let result = to_result(unsafe {
            bindings::__cpuhp_setup_state(
                ONLINE_STATE,
                c"kvm/cpu:online".as_char_ptr(),
                true,
                Some(online),
                Some(offline),
                false,
            )
        });
        if let Err(error) = result {
            // SAFETY: Registered above.
            unsafe {
                bindings::x86_virt_unregister_emergency_callback(Some(vmcs::emergency_clear))
            };
            return Err(error);
        }
        // SAFETY: The static is registered once, as there is one `Enabled`; removed in `drop()`.
        unsafe { bindings::register_syscore(SYSCORE.0.get()) };
        Ok(Self {
            state: ONLINE_STATE,
            _statics: statics,
        })
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        // SAFETY: Registered in `new()`.
        unsafe { bindings::unregister_syscore(SYSCORE.0.get()) };
        // SAFETY: The state was set up in `new()`; this runs `offline` on each CPU.
        unsafe { bindings::__cpuhp_remove_state(self.state, true) };
        // SAFETY: Registered in `new()`.
        unsafe { bindings::x86_virt_unregister_emergency_callback(Some(vmcs::emergency_clear)) };
    }
}

/// # Safety
///
/// Called by the kernel only, with what it was registered with.
unsafe extern "C" fn online(_cpu: c_uint) -> c_int {
    let preempt = PreemptOff::new();
    let _irqs = IrqsOff::new(&preempt);
    umsr::online(&preempt);
    // SAFETY: Interrupts are off.
    unsafe { enable_here(&preempt) }
}

/// # Safety
///
/// Called by the kernel only, with what it was registered with.
unsafe extern "C" fn offline(_cpu: c_uint) -> c_int {
    let preempt = PreemptOff::new();
    let _irqs = IrqsOff::new(&preempt);
    umsr::offline(&preempt);
    // SAFETY: Interrupts are off.
    unsafe { disable_here(&preempt) };
    0
}

/// The machine goes to sleep, and with it this CPU, the only one left: it loses its VMX state.
///
/// # Safety
///
/// Called by the kernel only, with what it was registered with.
unsafe extern "C" fn suspend(_data: *mut c_void) -> c_int {
    // SAFETY: The kernel calls with interrupts off.
    let preempt = unsafe { PreemptOff::assume() };
    umsr::offline(&preempt);
    tsc::suspend();
    // SAFETY: As above.
    unsafe { disable_here(&preempt) };
    0
}

/// # Safety
///
/// Called by the kernel only, with what it was registered with.
unsafe extern "C" fn resume(_data: *mut c_void) {
    // SAFETY: The kernel calls with interrupts off.
    let preempt = unsafe { PreemptOff::assume() };
    tsc::resume();
    // SAFETY: As above.
    if unsafe { enable_here(&preempt) } != 0 {
        pr_err!("VMX cannot be switched on again\n");
    }
}

/// The machine is about to be handed to its firmware or to another kernel, neither of which can do
/// with VMX on: it blocks INIT, and pins bits of CR4. Threads of vCPUs may still run; their VMX
/// instructions fail from now on.
///
/// # Safety
///
/// Called by the kernel only, with what it was registered with.
unsafe extern "C" fn shutdown(_data: *mut c_void) {
    // SAFETY: A shutdown has begun.
    unsafe { bindings::burrow_note_reboot() };
    // SAFETY: The function lives as long as the module, and the call returns when all are done.
    unsafe { bindings::burrow_on_each_cpu(Some(shutdown_here)) };
}

/// Lazily switched MSRs stay as they are: the thread that this interrupts may be about them, and each
/// CPU brings its own back before it returns to user mode.
///
/// # Safety
///
/// Called by the kernel only, with what it was registered with.
unsafe extern "C" fn shutdown_here(_data: *mut c_void) {
    // SAFETY: Calls of this kind run with interrupts off.
    let preempt = unsafe { PreemptOff::assume() };
    // SAFETY: As above.
    unsafe { disable_here(&preempt) };
}

/// Puts this CPU into VMX operation, if it is not; returns 0 or a negative errno.
///
/// # Safety
///
/// Interrupts must be off.
unsafe fn enable_here(preempt: &PreemptOff) -> c_int {
    let Some(on) = ON.get().map(|on| on.this(preempt)) else {
        return 0;
    };
    if on.get() {
        return 0;
    }
    // SAFETY: Runs on the CPU that is to enter VMX operation.
    let error = unsafe { bindings::x86_virt_get_ref(VMX) };
    if error == 0 {
        on.set(true);
        // What this CPU cached under VPIDs and EPT pointers of an earlier time means nothing now. Each
        // vCPU flushes its own before its first entry here, so that a refusal does no harm.
        let _ = insn::invept(insn::Invept::All);
        let _ = insn::invvpid(insn::Invvpid::All);
    }
    error
}

/// Writes this CPU's VMCSs back and takes it out of VMX operation, if it is in.
///
/// # Safety
///
/// Interrupts must be off.
unsafe fn disable_here(preempt: &PreemptOff) {
    let Some(on) = ON.get().map(|on| on.this(preempt)) else {
        return;
    };
    if on.replace(false) {
        vmcs::clear_all_here(preempt);
        // SAFETY: Pairs with the reference that `enable_here()` took on this CPU.
        unsafe { bindings::x86_virt_put_ref(VMX) };
    }
}

/// Keeps indirect branches from here on from being steered by what ran before: what a guest asked for
/// by IA32_PRED_CMD.
pub fn barrier_indirect_branches() {
    const IBPB: u64 = 1;
    // SAFETY: Only empties predictors; a CPU without the MSR refuses, and nothing happens.
    unsafe { insn::wrmsr(bindings::MSR_IA32_PRED_CMD, IBPB) };
}

/// Returns those of `bits` that IA32_SPEC_CTRL takes, each tried alone; 0 on a CPU without the MSR.
pub fn spec_ctrl_bits(bits: u64, _irqs: &IrqsOff<'_>) -> u64 {
    const SPEC_CTRL: u32 = bindings::MSR_IA32_SPEC_CTRL;
    let Some(own) = insn::rdmsr(SPEC_CTRL) else {
        return 0;
    };
    let taken = (0..64)
        .map(|bit| 1 << bit)
        // SAFETY: Controls of speculation have no effect on what code does, and the kernel's own come
        // back below, before anything else runs here.
        .filter(|bit| bits & bit != 0 && unsafe { insn::wrmsr(SPEC_CTRL, own | bit) })
        .fold(0, |taken, bit| taken | bit);
    // SAFETY: As above.
    unsafe { insn::wrmsr(SPEC_CTRL, own) };
    taken
}

/// Keeps a guest hypervisor from running on what its guest taught the branch predictor, where the
/// kernel does so between processes.
pub fn separate_guests() {
    // SAFETY: Only empties predictors, and only where the kernel found that to be of use.
    unsafe { bindings::burrow_switch_vcpu_barrier() };
}

/// Writes back and invalidates the first-level data cache: what a guest asked for by IA32_FLUSH_CMD.
pub fn flush_l1d() {
    const L1D_FLUSH: u64 = 1;
    // SAFETY: Only empties a cache; a CPU without the MSR refuses, and nothing happens.
    unsafe { insn::wrmsr(bindings::MSR_IA32_FLUSH_CMD, L1D_FLUSH) };
}
