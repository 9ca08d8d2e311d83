// SPDX-License-Identifier: GPL-2.0

//! The state after power-up and INIT, and a new VMCS.
//!
//! SDM 3A "Processor State After Reset", table 11-1.

use crate::{
    arch::x86::{
        cpu::Cpu,
        state::PAT_RESET, //
    },
    host::host, //
};
use burrow_core::outcome::vector;
use burrow_core::x86::{
    event::{
        queue::EventQueue,
        Interruptibility, //
    },
    regs::{
        debug::{
            Dr6,
            Dr7, //
        },
        Cr0,
        Cr4,
        Efer,
        Rflags, //
    },
    segment::{
        Name,
        Registers, //
    },
    vmx::{
        ctls::ProcCtls,
        field::*, //
    },
};

/// What stands in EDX after reset: a family 6 processor.
const EDX_RESET: u64 = 0x600;

/// PAUSEs at most this many cycles apart make a loop...
const PAUSE_GAP: u32 = 128;
/// ...which exits when it has lasted for this many cycles: longer than a lock is held by a vCPU that
/// runs. SDM 3C "Controls for PAUSE-Loop Exiting", 25.6.13.
const PAUSE_WINDOW: u32 = 4096;

impl Cpu<'_> {
    /// Fills a new vmcs01.
    pub(crate) fn init_vmcs(&mut self) {
        self.hw.init_host_state();
        self.arch.ctls = host().ctls.initial.without_tpr_shadow();
        let pin = self.arch.ctls.pin;
        self.arch.ctls.pin = pin.with_preemption_timer(self.host.timer.is_some());
        let has_ple = host().ctls.switchable.proc2.pause_loop_exiting();
        let proc2 = self.arch.ctls.proc2;
        self.arch.ctls.proc2 = proc2.with_pause_loop_exiting(has_ple);
        let ctls = self.arch.ctls;
        let vmcs = self.vmcs();
        if has_ple {
            vmcs.set(PLE_GAP, PAUSE_GAP);
            vmcs.set(PLE_WINDOW, PAUSE_WINDOW);
        }
        vmcs.set(PIN_BASED_VM_EXEC_CONTROL, ctls.pin.0);
        vmcs.set(CPU_BASED_VM_EXEC_CONTROL, ctls.proc.0);
        vmcs.set(SECONDARY_VM_EXEC_CONTROL, ctls.proc2.0);
        vmcs.set(VM_EXIT_CONTROLS, ctls.exit.0);
        vmcs.set(VM_ENTRY_CONTROLS, ctls.entry.0);
        vmcs.set(EXCEPTION_BITMAP, self.exception_bitmap());
        vmcs.set(PAGE_FAULT_ERROR_CODE_MASK, 0);
        vmcs.set(PAGE_FAULT_ERROR_CODE_MATCH, 0);
        vmcs.set(CR3_TARGET_COUNT, 0);
        vmcs.set(VM_EXIT_MSR_STORE_COUNT, 0);
        vmcs.set(VM_EXIT_MSR_LOAD_COUNT, 0);
        vmcs.set(VM_ENTRY_MSR_LOAD_COUNT, 0);
        vmcs.set(VM_ENTRY_INTR_INFO_FIELD, 0);
        vmcs.set(VMCS_LINK_POINTER, u64::MAX);
        vmcs.set(EPT_POINTER, self.memory().eptp());
        vmcs.set(MSR_BITMAP, self.arch.msr_bitmap.address());
        vmcs.set(TSC_OFFSET, 0);
        if ctls.proc2.xsaves() {
            vmcs.set(XSS_EXIT_BITMAP, 0);
        }
        self.update_cpu_logs();
    }

    /// The exceptions that exit: machine checks, which the host must see; #DB and #AC, whose delivery
    /// can cause them anew, so that a guest could keep the processor busy for ever between two
    /// instructions; #UD, which VMMCALL causes; and #BP while a debugger in userspace listens.
    pub(crate) fn exception_bitmap(&self) -> u32 {
        let always = 1 << vector::MC | 1 << vector::DB | 1 << vector::AC | 1 << vector::UD;
        match self.arch.guest_debug.takes(vector::BP) {
            true => always | 1 << vector::BP,
            false => always,
        }
    }

    /// Replaces the primary processor-based controls.
    #[inline]
    pub(crate) fn set_proc_ctls(&mut self, proc: ProcCtls) {
        self.arch.ctls.proc = proc;
        self.vmcs().set(CPU_BASED_VM_EXEC_CONTROL, proc.0);
    }

    /// Brings the vCPU into its state after power-up.
    pub(crate) fn power_up(&mut self) {
        let vmcs = self.vmcs();
        vmcs.set(GUEST_SYSENTER_CS, 0);
        vmcs.set(GUEST_SYSENTER_ESP, 0);
        vmcs.set(GUEST_SYSENTER_EIP, 0);
        vmcs.set(GUEST_IA32_DEBUGCTL, 0);
        if self.arch.ctls.entry.load_pat() {
            vmcs.set(GUEST_IA32_PAT, PAT_RESET);
        }
        self.arch.control.cr0 = Cr0::RESET;
        self.store_efer(Efer(0));
        self.init();
    }

    /// Brings the vCPU into its state after INIT: most MSRs, the FPU and memory types stay.
    pub(crate) fn init(&mut self) {
        for index in 0..16 {
            self.set_gpr(index, 0);
        }
        self.set_gpr(2, EDX_RESET);
        let segments = Registers::reset();
        for name in Name::ALL {
            self.set_segment(name, segments.get(name));
        }
        self.set_gdtr(segments.gdtr);
        self.set_idtr(segments.idtr);
        self.set_rip(0xfff0);
        self.set_rflags(Rflags::RESET);
        // INIT leaves CD and NW as they are.
        let old = self.arch.control.cr0;
        self.store_cr0(Cr0(Cr0::ET).with_cd(old.cd()).with_nw(old.nw()));
        self.store_cr4(Cr4(0));
        self.store_efer(Efer(0));
        let vmcs = self.vmcs();
        vmcs.set(GUEST_CR3, 0);
        vmcs.set(GUEST_ACTIVITY_STATE, 0);
        vmcs.set(GUEST_PENDING_DBG_EXCEPTIONS, 0);
        self.set_interruptibility(Interruptibility(0));
        self.hw.set_cr2(0);
        self.arch.debug.address = [0; 4];
        self.arch.debug.dr6 = Dr6::RESET.0;
        self.arch.debug.dr7 = Dr7::RESET.0;
        vmcs.set(GUEST_DR7, Dr7::RESET.0);
        self.arch.events = EventQueue::new();
        self.arch.user_interrupt = None;
        self.arch.completion = None;
        self.arch.is_unhalted = false;
        self.arch.paravirt.reset();
        self.arch.vpid.request_flush();
    }
}
