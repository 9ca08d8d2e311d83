// SPDX-License-Identifier: GPL-2.0

//! The way from L2 back to L1: VM exits, and VM entries that fail late.

use crate::arch::x86::{
    cpu::Cpu,
    nested::{
        lists::Msrs,
        vmcs02, //
    },
    outcome::{
        Stop,
        UserExit, //
    },
    state::MpState, //
};
use burrow_core::{
    outcome::Bug,
    x86::{
        event::Protection,
        nested::{
            check::EntryFail,
            merge::{
                self,
                Loaded, //
            },
            msrlist::{
                self,
                List,
                ListKind,
                VmxAbort, //
            },
            pool::{
                Flush,
                Pool, //
            },
            state::State,
            sync::{
                self,
                ExitInfo,
                L2Values,
                NmiBlocking, //
            },
            timer, vectoring,
            vmcs12::{
                Vmcs12,
                OFFSET_ABORT, //
            },
        },
        regs::{
            debug::Dr7,
            Cr0,
            Cr4,
            Efer, //
        },
        vmx::{
            ctls::{
                ActivityState,
                ExitCtls, //
            },
            exit::{
                ExitReason,
                ExitReasonWord, //
            },
            field::*, //
        }, //
    }, //
};
use burrow_sys::x86::cpu;
use kernel::prelude::*;

/// Returns whether an exit to L1 neither reads nor writes memory of L1: its lists of MSRs are empty, and
/// no PDPTEs are loaded.
pub(super) fn touches_no_memory(v: &Vmcs12) -> bool {
    v.read(VM_EXIT_MSR_STORE_COUNT) == 0
        && v.read(VM_EXIT_MSR_LOAD_COUNT) == 0
        && ExitCtls(v.read(VM_EXIT_CONTROLS)).host_64bit()
}

impl Cpu<'_> {
    /// Returns the exit information that the processor gave for the exit from L2 that it made.
    pub(super) fn hardware_exit(&self, word: ExitReasonWord) -> ExitInfo {
        let vmcs = self.vmcs();
        let qualification = self.qualification();
        let has_linear = sync::has_linear_address(word, qualification);
        let is_exception = word.number() == ExitReason::ExceptionNmi as u16;
        let (intr_info, intr_error_code) = if is_exception {
            (
                vmcs.get(VM_EXIT_INTR_INFO),
                vmcs.get(VM_EXIT_INTR_ERROR_CODE),
            )
        } else {
            (0, 0)
        };
        ExitInfo {
            reason: word,
            qualification,
            intr_info,
            intr_error_code,
            instruction_len: vmcs.get(VM_EXIT_INSTRUCTION_LEN),
            instruction_info: vmcs.get(VMX_INSTRUCTION_INFO),
            linear_address: has_linear.then(|| vmcs.get(GUEST_LINEAR_ADDRESS)),
            ..ExitInfo::default()
        }
    }

    /// Makes a VM exit from L2 to L1. What was being delivered to L2 goes into the IDT-vectoring
    /// information.
    pub(super) fn exit_to_l1(&mut self, mut info: ExitInfo, nmi: NmiBlocking) -> Result<(), Stop> {
        let reason =
            ExitReason::try_from(info.reason).map_err(|_| Stop::Bug(Bug("exit reason")))?;
        let protection = if self.cr0().pe() {
            Protection::Protected
        } else {
            Protection::RealMode
        };
        let event = self.arch.events.injected();
        let vectoring = vectoring::of_exit(event, reason, info.intr_info, protection);
        info.idt_vectoring = vectoring.info;
        info.idt_error_code = vectoring.error_code;
        if let Some(len) = vectoring.instruction_len {
            info.instruction_len = len;
        }
        self.arch.events.drop_exception_and_injected();
        self.arch.events.take_triple_fault();

        let l2 = self.l2_values()?;
        let left = Loaded {
            efer: l2.efer,
            dr7: l2.dr7,
            debugctl: l2.debugctl,
            pat: self.pat(),
        };
        let vmcs = self.vmcs();
        let nested = self.nested()?;
        sync::eager(&mut nested.vmcs12, &vmcs, &l2);
        sync::record_exit(&mut nested.vmcs12, &info);
        if let Some(l0) = nested.slots[nested.active].merged.as_ref() {
            let overwritten = merge::overwritten(&nested.vmcs12, l0, &left);
            nested.vmcs12.mark_dirty(overwritten);
        }
        nested.is_lazy = true;
        let list = List::of(&nested.vmcs12, ListKind::ExitStore);
        let max = nested.caps.misc.msr_list_max();
        if msrlist::process(list, ListKind::ExitStore, max, &mut Msrs(self)).is_err() {
            return Err(self.abort(VmxAbort::SaveGuestMsrs));
        }
        self.become_l1(nmi)
    }

    /// Makes the exit to L1 that tells of a triple fault of L2.
    pub(super) fn exit_for_triple_fault(&mut self) -> Result<(), Stop> {
        let info = ExitInfo {
            reason: ExitReasonWord::exit(ExitReason::TripleFault),
            ..ExitInfo::default()
        };
        self.exit_to_l1(info, NmiBlocking::Open)
    }

    /// Returns the state of L2 that vmcs02 does not hold.
    pub(super) fn l2_values(&mut self) -> Result<L2Values, Stop> {
        let (efer, dr7) = (self.efer().0, self.arch.debug.dr7);
        let debugctl = self.vmcs().get(GUEST_IA32_DEBUGCTL);
        let activity = match self.arch.mp_state {
            MpState::Halted => ActivityState::Hlt,
            MpState::InitReceived => ActivityState::WaitForSipi,
            MpState::Runnable | MpState::Uninitialized => ActivityState::Active,
        };
        let nested = self.nested()?;
        let rate = nested.caps.misc.preemption_timer_rate();
        let deadline = match nested.state {
            State::NonRoot(l2) => l2.timer_deadline,
            _ => None,
        };
        let preemption_timer =
            deadline.map_or(0, |end| timer::remaining(end, self.guest_tsc(), rate));
        Ok(L2Values {
            activity,
            efer,
            dr7,
            debugctl,
            preemption_timer,
        })
    }

    /// Makes a VM entry fail that has got as far as loading guest state: L1 goes on at HOST_RIP.
    pub(super) fn fail_entry(&mut self, fail: EntryFail) -> Result<(), Stop> {
        self.arch.events.drop_exception_and_injected();
        let info = ExitInfo {
            reason: ExitReasonWord::failed_entry(fail.reason),
            qualification: fail.qualification,
            ..ExitInfo::default()
        };
        let nested = self.nested()?;
        sync::record_exit(&mut nested.vmcs12, &info);
        if nested.state.is_non_root() {
            // vmcs02 has been merged, and nothing of it may be taken back.
            nested.slot().merged = None;
        }
        self.become_l1(NmiBlocking::Open)
    }

    /// Makes L1 what runs, at HOST_RIP.
    fn become_l1(&mut self, nmi: NmiBlocking) -> Result<(), Stop> {
        let (cr0, efer) = (self.cr0().0, self.efer().0);
        let nested = self.nested()?;
        let was_l2 = nested.state.is_non_root();
        let (l1, index) = (nested.l1, nested.active);
        nested.state = nested.state.after_exit();
        self.store_shadow12();
        let nested = self.nested()?;
        let vpid12 = vmcs02::vpid12(&nested.vmcs12);
        let host = sync::host_state(&nested.vmcs12, cr0, efer);
        let old_cr4 = if was_l2 { l1.cr4 } else { self.cr4() };
        // What L2 left in it is L1's, unless the exit loads it.
        let l2_pat = was_l2.then(|| self.pat());
        if was_l2 {
            self.leave_vmcs02(index)?;
            self.arch.ctls = l1.ctls;
        }
        self.switch_to_vmcs01()?;
        self.start_shadowing();
        if was_l2 {
            self.update_cpu_logs();
            if self.arch.cpuid.caps.trusts_ibrs() {
                cpu::separate_guests();
            }
        }
        self.arch.mp_state = MpState::Runnable;
        self.write_tsc_fields();
        self.store_efer(Efer(host.efer));
        self.store_cr0(Cr0(host.cr0));
        self.store_cr4(Cr4(host.cr4));
        let vmcs = self.vmcs();
        vmcs.set(GUEST_CR3, host.cr3);
        let vmcs12 = &self.nested()?.vmcs12;
        vmcs.overwrite(|vmcs01| sync::load_host_state(vmcs12, nmi, vmcs01));
        self.arch.debug.dr7 = Dr7::RESET.0;
        if let Some(pat) = host.pat.or(l2_pat) {
            self.set_pat(pat);
        }
        if Pool::<{ super::state::NR_SLOTS }>::on_exit(vpid12) == Flush::Vpid {
            self.arch.vpid.request_flush();
        }
        if old_cr4.0 != host.cr4 {
            self.cpuid_follows_registers();
        }
        if host.has_pae_paging && !self.load_pdptrs(host.cr3)? {
            return Err(self.abort(VmxAbort::HostPdptes));
        }
        let nested = self.nested()?;
        let list = List::of(&nested.vmcs12, ListKind::ExitLoad);
        let max = nested.caps.misc.msr_list_max();
        if msrlist::process(list, ListKind::ExitLoad, max, &mut Msrs(self)).is_err() {
            return Err(self.abort(VmxAbort::LoadHostMsrs));
        }
        Ok(())
    }

    /// A VMX abort: tells why in the region of the VMCS, and the processor of L1 shuts down. SDM 3C
    /// "VMX Aborts", 28.7.
    fn abort(&mut self, why: VmxAbort) -> Stop {
        let indicator = why as u32;
        if let Some(nested) = self.arch.nested.as_deref_mut() {
            nested.vmcs12.abort = indicator;
            if let Some(region) = nested.state.root().and_then(|root| root.current) {
                let at = region.wrapping_add(OFFSET_ABORT as u64);
                // Where no memory is, nobody can look.
                let _ = self.vcpu.vm.memory.write(at, &indicator.to_le_bytes());
            }
        }
        Stop::ToUser(UserExit::Shutdown)
    }

    /// Takes back what was L1's while L2 ran in slot `index`.
    fn leave_vmcs02(&mut self, index: usize) -> Result<(), Stop> {
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(());
        };
        let slot = nested
            .slots
            .get_mut(index)
            .ok_or(Stop::Bug(Bug("no such vmcs02")))?;
        core::mem::swap(&mut self.arch.vpid, &mut slot.vpid);
        Ok(())
    }

    /// Leaves L2 without an exit: userspace replaces the state, or takes VMX away.
    pub(crate) fn drop_l2(&mut self) {
        let vmcs01 = self.vmcs01;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return;
        };
        if !nested.state.is_non_root() {
            return;
        }
        nested.state = nested.state.after_exit();
        nested.shadow12 = None;
        let index = nested.active;
        nested.slots[index].merged = None;
        self.arch.ctls = nested.l1.ctls;
        core::mem::swap(&mut self.arch.vpid, &mut nested.slots[index].vpid);
        self.hw.switch_vmcs(vmcs01);
        self.stop_shadowing();
        self.update_cpu_logs();
    }
}
