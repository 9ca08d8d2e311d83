// SPDX-License-Identifier: GPL-2.0

//! A vCPU's state in the processor: when it is loaded, switched to the guest, and given back.
//!
//! Three stages, each inside the one before:
//!
//! ```text
//! unloaded --load()--> loaded --prepare()--> guest state in --(enter)--> in the guest
//!          <--drop()--        <--put_host()--                <--(exit)--
//! ```
//!
//! Loaded, the VMCS is current. With guest state in, FS, GS, KERNEL_GS_BASE and the lazily switched
//! MSRs are the guest's; the scheduler's switch to another task takes that stage back.
//!
//! Invariants:
//!
//! - Between `load()` and the drop of [`Loaded`], the preempt notifier is registered for the current
//!   task, and only this task touches the cells; the notifier's callbacks run on the same task, like
//!   signal handlers, and touch cells only.
//! - `guest_in` is set exactly while the host's segment state is in `segs` and not in the processor.

use super::{
    insn,
    umsr::{
        self,
        UserMsr, //
    },
    vmcs::{
        self,
        CurrentVmcs,
        Vmcs, //
    },
};
use crate::{
    bindings,
    context::PreemptOff, //
};
use burrow_core::x86::vmx::field::*;
use core::{
    cell::{
        Cell,
        UnsafeCell, //
    },
    pin::Pin,
    ptr, //
};
use kernel::{
    bindings as k,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::NotThreadSafe, //
};

/// A vCPU's part of the processor.
///
/// `notifier` is first, so that its address is the struct's.
#[repr(C)]
pub struct VcpuHw {
    notifier: UnsafeCell<k::preempt_notifier>,
    /// A number that no other vCPU has or had.
    number: u64,
    vmcs: Cell<*const Vmcs>,
    pub(crate) regs: UnsafeCell<bindings::burrow_regs>,
    segs: UnsafeCell<bindings::burrow_host_segs>,
    guest_in: Cell<bool>,
    moved: Cell<bool>,
    preempted: Cell<bool>,
    host_cpu: Cell<u32>,
    kernel_gs_base: Cell<u64>,
    user_msrs: [Cell<u64>; UserMsr::COUNT],
    _notifiers: NotifiersOn,
}

/// Makes the scheduler call preempt notifiers while it exists.
struct NotifiersOn;

impl NotifiersOn {
    fn new() -> Self {
        // SAFETY: Process context; paired with the decrement in `drop()`.
        unsafe { k::preempt_notifier_inc() };
        Self
    }
}

impl Drop for NotifiersOn {
    fn drop(&mut self) {
        // SAFETY: Pairs with the increment in `new()`.
        unsafe { k::preempt_notifier_dec() };
    }
}

// SAFETY: Only one thread at a time uses the cells: the one that holds the vCPU's mutex.
unsafe impl Send for VcpuHw {}
// SAFETY: As above.
unsafe impl Sync for VcpuHw {}

/// The number of the next vCPU; 0 is no vCPU's.
static NUMBERS: Atomic<u64> = Atomic::new(1);

static PREEMPT_OPS: PreemptOps = PreemptOps(k::preempt_ops {
    sched_in: Some(sched_in),
    sched_out: Some(sched_out),
});

struct PreemptOps(k::preempt_ops);

// SAFETY: Two function pointers that nobody changes.
unsafe impl Sync for PreemptOps {}

impl VcpuHw {
    /// Makes the state of a vCPU after reset.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub fn new() -> Result<Pin<KBox<Self>>> {
        let hw = KBox::pin(
            Self {
                notifier: UnsafeCell::new(k::preempt_notifier::default()),
                number: NUMBERS.fetch_add(1, Relaxed),
                vmcs: Cell::new(ptr::null()),
                regs: UnsafeCell::new(bindings::burrow_regs::default()),
                segs: UnsafeCell::new(bindings::burrow_host_segs::default()),
                guest_in: Cell::new(false),
                moved: Cell::new(false),
                preempted: Cell::new(false),
                host_cpu: Cell::new(u32::MAX),
                kernel_gs_base: Cell::new(0),
                user_msrs: [const { Cell::new(0) }; UserMsr::COUNT],
                _notifiers: NotifiersOn::new(),
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: The notifier is in pinned memory and not registered; the operations are static.
        unsafe {
            bindings::burrow_preempt_notifier_init(
                hw.notifier.get(),
                ptr::addr_of!(PREEMPT_OPS.0).cast_mut(),
            )
        };
        Ok(hw)
    }

    /// Loads the vCPU with `vmcs` on the current CPU, for the current thread, until the guard goes.
    ///
    /// # Context
    ///
    /// Process context. Not while the thread has another vCPU loaded.
    pub fn load<'a>(self: Pin<&'a mut Self>, vmcs: &'a Vmcs) -> Loaded<'a> {
        // Borrowed exclusively as long as it is loaded: nobody can load it a second time.
        let this = self.into_ref().get_ref();
        this.vmcs.set(vmcs);
        let preempt = PreemptOff::new();
        // SAFETY: Not registered, by the first invariant and the exclusive borrow; unregistered before
        // the memory goes.
        unsafe { k::preempt_notifier_register(this.notifier.get()) };
        this.load_vmcs(&preempt);
        Loaded {
            hw: this,
            _not_send: NotThreadSafe,
        }
    }

    /// Makes the VMCS current, and keeps from the vCPU what another taught the branch predictor.
    fn load_vmcs(&self, preempt: &PreemptOff) {
        self.make_current(preempt);
        vmcs::separate_vcpus(self.number, preempt);
    }

    /// Makes the VMCS current, and fixes the host fields that depend on the CPU.
    fn make_current(&self, preempt: &PreemptOff) {
        // SAFETY: Set by `load()` or `switch_vmcs()`, which borrow it for longer than this is loaded.
        let vmcs = unsafe { &*self.vmcs.get() };
        // SAFETY: The VMCS is boxed and belongs to this vCPU's thread.
        let moved = unsafe { vmcs.load(preempt) };
        if moved {
            // SAFETY: Just made current.
            set_cpu_host_state(unsafe { CurrentVmcs::new(vmcs) }, preempt.cpu());
        }
        let cpu = preempt.cpu();
        if self.host_cpu.replace(cpu) != cpu {
            self.moved.set(true);
        }
    }

    /// Gives the host back what it needs before anything but this vCPU's thread runs.
    fn put_host(&self) {
        if !self.guest_in.replace(false) {
            return;
        }
        self.kernel_gs_base
            .set(insn::rdmsr(bindings::MSR_KERNEL_GS_BASE).unwrap_or(0));
        // SAFETY: `segs` holds the host's state, by the second invariant.
        unsafe { bindings::burrow_restore_host_segs(self.segs.get()) };
    }
}

/// Writes the host-state fields that differ from CPU to CPU.
fn set_cpu_host_state(vmcs: CurrentVmcs<'_>, cpu: u32) {
    // CAST: CPU numbers are below NR_CPUS.
    let cpu = cpu as i32;
    // SAFETY: Reads addresses of this CPU's own structures; preemption is off.
    vmcs.set(HOST_TR_BASE, unsafe { bindings::burrow_host_tr_base(cpu) });
    // SAFETY: As above.
    vmcs.set(HOST_GDTR_BASE, unsafe { bindings::burrow_host_gdt_base() });
    // SAFETY: As above.
    vmcs.set(HOST_GS_BASE, unsafe { bindings::burrow_host_gs_base() });
    // SAFETY: As above.
    vmcs.set(HOST_IA32_SYSENTER_ESP, unsafe {
        bindings::burrow_host_sysenter_esp(cpu)
    });
}

/// Writes the host-state fields that stay the same as long as the kernel runs.
fn set_constant_host_state(vmcs: CurrentVmcs<'_>) {
    // SAFETY: These read the kernel's own constants and registers.
    let (cs, ss, tr, idt, cr0, efer) = unsafe {
        (
            bindings::burrow_host_cs(),
            bindings::burrow_host_ss(),
            bindings::burrow_host_tr(),
            bindings::burrow_host_idt_base(),
            bindings::burrow_host_cr0(),
            bindings::burrow_host_efer(),
        )
    };
    vmcs.set(HOST_CR0, cr0);
    vmcs.set(HOST_CS_SELECTOR, cs);
    vmcs.set(HOST_SS_SELECTOR, ss);
    vmcs.set(HOST_TR_SELECTOR, tr);
    vmcs.set(HOST_DS_SELECTOR, 0);
    vmcs.set(HOST_ES_SELECTOR, 0);
    vmcs.set(HOST_FS_SELECTOR, 0);
    vmcs.set(HOST_GS_SELECTOR, 0);
    vmcs.set(HOST_IDTR_BASE, idt);
    vmcs.set(HOST_RIP, bindings::burrow_vmexit as usize as u64);
    vmcs.set(HOST_IA32_EFER, efer);
    // CAST: the MSR's upper half is reserved.
    vmcs.set(
        HOST_IA32_SYSENTER_CS,
        insn::rdmsr(bindings::MSR_IA32_SYSENTER_CS).unwrap_or(0) as u32,
    );
    vmcs.set(
        HOST_IA32_SYSENTER_EIP,
        insn::rdmsr(bindings::MSR_IA32_SYSENTER_EIP).unwrap_or(0),
    );
    vmcs.set(
        HOST_IA32_PAT,
        insn::rdmsr(bindings::MSR_IA32_CR_PAT).unwrap_or(0),
    );
}

/// A vCPU that is loaded on the CPU of the current thread.
pub struct Loaded<'a> {
    hw: &'a VcpuHw,
    _not_send: NotThreadSafe,
}

impl<'a> Loaded<'a> {
    /// Returns the current VMCS.
    #[inline]
    pub fn vmcs(&self) -> CurrentVmcs<'a> {
        // SAFETY: `vmcs` is what the notifier loads; it is borrowed for longer than `'a`.
        unsafe { CurrentVmcs::new(&*self.hw.vmcs.get()) }
    }

    /// Makes `vmcs` the current one instead.
    ///
    /// # Context
    ///
    /// Interrupts on, unless [`Vmcs::is_on`] holds for the current CPU.
    pub fn switch_vmcs(&self, vmcs: &'a Vmcs) {
        let preempt = PreemptOff::new();
        self.hw.vmcs.set(vmcs);
        self.hw.make_current(&preempt);
        // The new VMCS does not know this stack.
        // SAFETY: Only this thread touches the registers.
        unsafe { (*self.hw.regs.get()).host_rsp = 0 };
        if self.hw.guest_in.get() {
            // `prepare()` has found it, and will not be asked again before the guest's state goes.
            // SAFETY: `segs` is this thread's.
            let fs_base = unsafe { (*self.hw.segs.get()).fs_base };
            self.vmcs().set(HOST_FS_BASE, fs_base);
        }
    }

    /// Makes `vmcs` the current one, as [`switch_vmcs`](Self::switch_vmcs) does, and calls `f` with the
    /// shadow VMCS of `owner` on the way there, if it has one. `f` may not sleep.
    pub fn switch_vmcs_by_shadow(
        &self,
        owner: &'a Vmcs,
        vmcs: &'a Vmcs,
        f: impl FnOnce(CurrentVmcs<'_>),
    ) {
        let preempt = PreemptOff::new();
        if !owner.is_on(&preempt) {
            self.switch_vmcs(owner);
        }
        // SAFETY: The owner is this vCPU's, and a VMCS is loaded below.
        unsafe { owner.with_shadow(&preempt, f) };
        if ptr::eq(self.hw.vmcs.get(), vmcs) {
            self.hw.make_current(&preempt);
        } else {
            self.switch_vmcs(vmcs);
        }
    }

    /// Writes the host state that never changes; once for each new VMCS.
    pub fn init_host_state(&self) {
        set_constant_host_state(self.vmcs());
        let preempt = PreemptOff::new();
        set_cpu_host_state(self.vmcs(), preempt.cpu());
    }

    /// Returns the guest's general-purpose register with encoding `index`, 0 to 15, as of the last
    /// exit; RSP is not here but in the VMCS.
    #[inline]
    pub fn gpr(&self, index: usize) -> u64 {
        // SAFETY: Only this thread touches the registers.
        unsafe { (*self.hw.regs.get()).gpr[index & 15] }
    }

    /// Sets the guest's general-purpose register with encoding `index`, 0 to 15, except RSP.
    #[inline]
    pub fn set_gpr(&self, index: usize, value: u64) {
        // SAFETY: Only this thread touches the registers.
        unsafe { (*self.hw.regs.get()).gpr[index & 15] = value };
    }

    /// Returns the guest's CR2.
    #[inline]
    pub fn cr2(&self) -> u64 {
        // SAFETY: Only this thread touches the registers.
        unsafe { (*self.hw.regs.get()).cr2 }
    }

    /// Sets the guest's CR2.
    #[inline]
    pub fn set_cr2(&self, value: u64) {
        // SAFETY: Only this thread touches the registers.
        unsafe { (*self.hw.regs.get()).cr2 = value };
    }

    /// Returns the guest's IA32_SPEC_CTRL.
    pub fn spec_ctrl(&self) -> u64 {
        // SAFETY: Only this thread touches the registers.
        unsafe { (*self.hw.regs.get()).spec_ctrl }
    }

    /// Sets the guest's IA32_SPEC_CTRL, which the CPU must support.
    pub fn set_spec_ctrl(&self, value: u64) {
        // SAFETY: Only this thread touches the registers.
        unsafe { (*self.hw.regs.get()).spec_ctrl = value };
    }

    /// Returns the guest's KERNEL_GS_BASE.
    pub fn kernel_gs_base(&self) -> u64 {
        let _preempt = PreemptOff::new();
        if self.hw.guest_in.get() {
            insn::rdmsr(bindings::MSR_KERNEL_GS_BASE).unwrap_or(0)
        } else {
            self.hw.kernel_gs_base.get()
        }
    }

    /// Sets the guest's KERNEL_GS_BASE, a canonical address.
    pub fn set_kernel_gs_base(&self, value: u64) {
        let _preempt = PreemptOff::new();
        self.hw.kernel_gs_base.set(value);
        if self.hw.guest_in.get() {
            // SAFETY: The guest's values are in; `put_host()` brings the host's back.
            unsafe { insn::wrmsr(bindings::MSR_KERNEL_GS_BASE, value) };
        }
    }

    /// Returns the guest's value of a lazily switched MSR.
    pub fn user_msr(&self, msr: UserMsr) -> u64 {
        self.hw.user_msrs[msr as usize].get()
    }

    /// Sets the guest's value of a lazily switched MSR.
    pub fn set_user_msr(&self, msr: UserMsr, value: u64) {
        self.hw.user_msrs[msr as usize].set(value);
        let preempt = PreemptOff::new();
        if self.hw.guest_in.get() {
            umsr::load(msr, value, &preempt);
        }
    }

    /// Returns, once, whether the vCPU came to another CPU since this was last asked: what that CPU
    /// caches under the vCPU's VPID and EPT pointer may be stale.
    #[inline]
    pub fn take_moved(&self) -> bool {
        self.hw.moved.replace(false)
    }

    /// Returns, once, whether the vCPU's thread was scheduled out since this was last asked.
    #[inline]
    pub fn take_preempted(&self) -> bool {
        self.hw.preempted.replace(false)
    }

    /// Brings the guest's FS, GS, KERNEL_GS_BASE and lazily switched MSRs in, if they are not. Returns
    /// whether they were not: the vCPU was loaded, or its thread scheduled out, since the last call.
    ///
    /// # Context
    ///
    /// Preemption off from here to the entry.
    #[inline]
    pub fn prepare(&self, preempt: &PreemptOff) -> bool {
        if self.hw.guest_in.replace(true) {
            return false;
        }
        // SAFETY: `segs` is this thread's; the processor holds the host's state.
        unsafe { bindings::burrow_save_host_segs(self.hw.segs.get()) };
        // SAFETY: As above.
        let fs_base = unsafe { (*self.hw.segs.get()).fs_base };
        self.vmcs().set(HOST_FS_BASE, fs_base);
        // SAFETY: `put_host()` brings the host's value back.
        unsafe { insn::wrmsr(bindings::MSR_KERNEL_GS_BASE, self.hw.kernel_gs_base.get()) };
        const MSRS: [UserMsr; UserMsr::COUNT] = [
            UserMsr::Star,
            UserMsr::Lstar,
            UserMsr::Cstar,
            UserMsr::Fmask,
            UserMsr::TscAux,
        ];
        for msr in MSRS {
            umsr::load(msr, self.hw.user_msrs[msr as usize].get(), preempt);
        }
        true
    }

    pub(crate) fn hw(&self) -> &'a VcpuHw {
        self.hw
    }
}

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        let _preempt = PreemptOff::new();
        self.hw.put_host();
        // SAFETY: Registered by `load()`, for this task.
        unsafe { k::preempt_notifier_unregister(self.hw.notifier.get()) };
    }
}

/// # Safety
///
/// Called by the kernel only, with what it was registered with.
unsafe extern "C" fn sched_in(notifier: *mut k::preempt_notifier, _cpu: core::ffi::c_int) {
    // SAFETY: The notifier is the first field of a registered, hence pinned and loaded, `VcpuHw`.
    let hw = unsafe { &*notifier.cast::<VcpuHw>() };
    // SAFETY: The scheduler calls with preemption off.
    let preempt = unsafe { PreemptOff::assume() };
    hw.load_vmcs(&preempt);
}

/// # Safety
///
/// Called by the kernel only, with what it was registered with.
unsafe extern "C" fn sched_out(notifier: *mut k::preempt_notifier, _next: *mut k::task_struct) {
    // SAFETY: As in `sched_in()`.
    let hw = unsafe { &*notifier.cast::<VcpuHw>() };
    hw.preempted.set(true);
    hw.put_host();
}
