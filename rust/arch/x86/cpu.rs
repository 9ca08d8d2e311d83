// SPDX-License-Identifier: GPL-2.0

//! A vCPU while it is loaded: the registers, wherever they are.

use crate::{
    arch::x86::{
        nested::state::NR_SLOTS,
        state::VcpuArch,
        vcpu::{
            Vcpu,
            VcpuInner, //
        },
    },
    host::{
        host,
        Host, //
    },
};
use burrow_core::{
    addr::Gva,
    outcome::{
        vector,
        Bug,
        Exception, //
    },
    x86::{
        event::Interruptibility,
        msr::access::Caps,
        regs::{
            debug::Dr6,
            mask,
            Cr0,
            Cr4,
            Efer,
            Rflags, //
        },
        vmx::field::*, //
    },
};
use burrow_sys::x86::{
    hw::Loaded,
    vmcs::{
        CurrentVmcs,
        Vmcs, //
    },
};
use kernel::{
    prelude::*,
    sync::SetOnce, //
};

/// The encoding of RSP among the general-purpose registers.
const RSP: usize = 4;

/// The width that an instruction gives a register operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OperandMode {
    /// 64 bits, in 64-bit mode.
    Bits64,
    /// 32 bits.
    Bits32,
}

/// A vCPU that is loaded on the CPU of the current thread, which holds its mutex.
pub(crate) struct Cpu<'a> {
    /// The vCPU as an object.
    pub(crate) vcpu: &'a Vcpu,
    /// Its state.
    pub(crate) arch: &'a mut VcpuArch,
    /// Its part of the processor.
    pub(crate) hw: Loaded<'a>,
    /// The VMCS that the guest runs with, or L1 if the guest is a hypervisor.
    pub(crate) vmcs01: &'a Vmcs,
    /// Those that L2 runs with.
    pub(crate) vmcs02: &'a [SetOnce<KBox<Vmcs>>; NR_SLOTS],
    /// What is known of the host, so that an exit need not look for it.
    pub(crate) host: &'static Host,
    /// What CPUID and options of the VM make of the MSRs, once something has asked.
    pub(crate) msr_caps: Option<Caps>,
}

impl<'a> Cpu<'a> {
    /// Loads `vcpu`, whose locked state is `inner`.
    pub(crate) fn load(vcpu: &'a Vcpu, inner: &'a mut VcpuInner) -> Self {
        let VcpuInner {
            hw,
            vmcs01,
            vmcs02,
            arch,
        } = inner;
        let active = arch.nested.as_ref().and_then(|nested| {
            let is_l2 = nested.state.is_non_root();
            vmcs02.get(nested.active).filter(|_| is_l2)?.as_ref()
        });
        let hw = hw.as_mut().load(active.unwrap_or(vmcs01));
        Self {
            vcpu,
            arch,
            hw,
            vmcs01,
            vmcs02,
            host: host(),
            msr_caps: None,
        }
    }

    /// Returns the current VMCS.
    #[inline]
    pub(crate) fn vmcs(&self) -> CurrentVmcs<'a> {
        self.hw.vmcs()
    }

    /// Kills the VM if a VMX instruction on the VMCS failed, which then may not be the current one.
    ///
    /// # Errors
    ///
    /// `EIO` then.
    #[inline]
    pub(crate) fn check_vmcs(&self) -> Result {
        if self.vmcs().vmcs().has_failed() {
            self.vcpu.vm.kill(Bug("a VMX instruction failed"));
            return Err(EIO);
        }
        Ok(())
    }

    /// Returns a general-purpose register by its encoding.
    #[inline]
    pub(crate) fn gpr(&self, index: usize) -> u64 {
        if index == RSP {
            return self.vmcs().get(GUEST_RSP);
        }
        self.hw.gpr(index)
    }

    /// Sets a general-purpose register by its encoding.
    #[inline]
    pub(crate) fn set_gpr(&mut self, index: usize, value: u64) {
        if index == RSP {
            self.vmcs().set(GUEST_RSP, value);
        } else {
            self.hw.set_gpr(index, value);
        }
    }

    /// Returns RIP.
    #[inline]
    pub(crate) fn rip(&self) -> u64 {
        self.vmcs().get(GUEST_RIP)
    }

    /// Sets RIP.
    #[inline]
    pub(crate) fn set_rip(&mut self, value: u64) {
        self.vmcs().set(GUEST_RIP, value);
    }

    /// Returns RFLAGS.
    #[inline]
    pub(crate) fn rflags(&self) -> Rflags {
        self.arch
            .guest_debug
            .to_guest(Rflags(self.vmcs().get(GUEST_RFLAGS)))
    }

    /// Sets RFLAGS.
    #[inline]
    pub(crate) fn set_rflags(&mut self, value: Rflags) {
        let value = self
            .arch
            .guest_debug
            .to_processor(Rflags(value.0 | Rflags::RESET.0));
        self.vmcs().set(GUEST_RFLAGS, value.0);
    }

    /// Returns CR0 as the guest sees it.
    pub(crate) fn cr0(&self) -> Cr0 {
        let owned = !self.vmcs().get(CR0_GUEST_HOST_MASK);
        Cr0((self.arch.control.cr0.0 & !owned) | (self.vmcs().get(GUEST_CR0) & owned))
    }

    /// Returns CR3.
    pub(crate) fn cr3(&self) -> u64 {
        self.vmcs().get(GUEST_CR3)
    }

    /// Returns CR4 as the guest sees it.
    pub(crate) fn cr4(&self) -> Cr4 {
        let owned = !self.vmcs().get(CR4_GUEST_HOST_MASK);
        Cr4((self.arch.control.cr4.0 & !owned) | (self.vmcs().get(GUEST_CR4) & owned))
    }

    /// Returns EFER as the guest sees it.
    #[inline]
    pub(crate) fn efer(&self) -> Efer {
        self.arch.control.efer
    }

    /// Stores CR0 in the state and the VMCS. The value is legal.
    pub(crate) fn store_cr0(&mut self, value: Cr0) {
        self.arch.control.cr0 = value;
        let masked = mask::cr0(value);
        // L2 reads what L1 wants it to read in the bits that L1 masks.
        let (mask12, shadow12) = self.l1_cr0();
        let vmcs = self.vmcs();
        vmcs.set(CR0_GUEST_HOST_MASK, masked.mask | mask12);
        vmcs.set(
            CR0_READ_SHADOW,
            (masked.shadow & !mask12) | (shadow12 & mask12),
        );
        vmcs.set(GUEST_CR0, masked.real);
    }

    /// Stores CR4 in the state and the VMCS. The value is legal.
    pub(crate) fn store_cr4(&mut self, value: Cr4) {
        self.arch.control.cr4 = value;
        let host = Cr4(0).with_mce(true);
        let masked = mask::cr4(value, host, &self.arch.cpuid.limits);
        let (mask12, shadow12) = self.l1_cr4();
        let vmcs = self.vmcs();
        vmcs.set(CR4_GUEST_HOST_MASK, masked.mask | mask12);
        vmcs.set(
            CR4_READ_SHADOW,
            (masked.shadow & !mask12) | (shadow12 & mask12),
        );
        vmcs.set(GUEST_CR4, masked.real);
    }

    /// Stores EFER in the state and the VMCS. The value is legal.
    pub(crate) fn store_efer(&mut self, value: Efer) {
        self.arch.control.efer = value;
        let vmcs = self.vmcs();
        vmcs.set(GUEST_IA32_EFER, value.0);
        self.arch.ctls.entry = self.arch.ctls.entry.with_ia32e(value.lma());
        vmcs.set(VM_ENTRY_CONTROLS, self.arch.ctls.entry.0);
    }

    /// Returns the interruptibility state.
    #[inline]
    pub(crate) fn interruptibility(&self) -> Interruptibility {
        Interruptibility(self.vmcs().get(GUEST_INTERRUPTIBILITY_INFO))
    }

    /// Sets the interruptibility state.
    #[inline]
    pub(crate) fn set_interruptibility(&mut self, value: Interruptibility) {
        self.vmcs().set(GUEST_INTERRUPTIBILITY_INFO, value.0);
    }

    /// Returns whether the guest executes 64-bit code.
    pub(crate) fn is_64bit_code(&self) -> bool {
        self.efer().lma() && self.segment_rights(GUEST_CS_AR_BYTES).l()
    }

    /// Returns how wide a register operand of the current instruction is.
    pub(crate) fn operand_mode(&self) -> OperandMode {
        if self.is_64bit_code() {
            OperandMode::Bits64
        } else {
            OperandMode::Bits32
        }
    }

    /// Returns a register operand of MOV CR, MOV DR and their like: cut to 32 bits outside 64-bit
    /// mode.
    pub(crate) fn operand(&self, index: usize) -> u64 {
        match self.operand_mode() {
            OperandMode::Bits64 => self.gpr(index),
            OperandMode::Bits32 => self.gpr(index) & 0xffff_ffff,
        }
    }

    /// Returns EDX:EAX, as WRMSR and XSETBV take it.
    pub(crate) fn edx_eax(&self) -> u64 {
        (self.gpr(2) << 32) | (self.gpr(0) & 0xffff_ffff)
    }

    /// Sets EDX:EAX, as RDMSR and RDTSC do.
    pub(crate) fn set_edx_eax(&mut self, value: u64) {
        self.set_gpr(0, value & 0xffff_ffff);
        self.set_gpr(2, value >> 32);
    }

    /// Steps over the instruction that caused the exit.
    ///
    /// Blocking by STI and MOV SS ends with it, and a pending single-step trap becomes due.
    pub(crate) fn skip_instruction(&mut self) {
        self.step_over();
    }

    /// [`skip_instruction`](Self::skip_instruction), for the one place that is worth a copy of it.
    #[inline(always)]
    pub(crate) fn step_over(&mut self) {
        let vmcs = self.vmcs();
        let here = vmcs.get(GUEST_RIP);
        let next = here.wrapping_add(u64::from(vmcs.get(VM_EXIT_INSTRUCTION_LEN)));
        // RIP ends at 4 GiB outside 64-bit mode. Where it is beyond already, or not there yet, the
        // mode makes no difference and is not looked at.
        let crosses = next >> 32 != 0 && here >> 32 == 0;
        let next = if crosses && !self.is_64bit_code() {
            next & 0xffff_ffff
        } else {
            next
        };
        vmcs.set(GUEST_RIP, next);
        let state = Interruptibility(vmcs.get(GUEST_INTERRUPTIBILITY_INFO));
        if state.has_shadow() {
            self.set_interruptibility(state.with_sti(false).with_mov_ss(false));
        }
        self.trap_after_instruction();
    }

    /// Raises the single-step trap that is due behind an instruction which the processor did not
    /// complete, or notes it for the debugger in userspace.
    ///
    /// With L1's monitor trap flag an exit is due there.
    #[inline]
    pub(crate) fn trap_after_instruction(&mut self) {
        if self.arch.ctls.proc.monitor_trap_flag() {
            self.note_l2_instruction();
        }
        if !self.arch.guest_debug.note_step() && self.rflags().tf() {
            self.arch.events.raise(Exception {
                vector: vector::DB,
                error_code: None,
                payload: Some(Dr6(0).with_bs(true).0),
            });
        }
    }

    /// Returns the linear address of the current instruction.
    pub(crate) fn linear_rip(&self) -> Gva {
        if self.is_64bit_code() {
            return Gva(self.rip());
        }
        Gva(self.vmcs().get(GUEST_CS_BASE).wrapping_add(self.rip()) & 0xffff_ffff)
    }
}
