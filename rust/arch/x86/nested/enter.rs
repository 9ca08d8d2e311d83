// SPDX-License-Identifier: GPL-2.0

//! The way into L2: VMLAUNCH, VMRESUME, and a restored state.

use crate::{
    arch::x86::{
        cpu::Cpu,
        nested::{
            lists::Msrs,
            state::L1State,
            vmcs02, //
        },
        outcome::{
            Handled,
            Outcome,
            Stop,
            UserExit, //
        },
        state::MpState, //
    },
    host::host, //
};
use burrow_core::{
    outcome::Bug,
    x86::{
        nested::{
            check::{
                self,
                Entry,
                EntryCause,
                Refusal, //
            },
            merge::{
                self,
                L0, //
            },
            msrlist::{
                self,
                List,
                ListKind, //
            },
            pool::{
                Flush,
                Slot, //
            },
            state::{
                self,
                EntryInsn,
                MovSsBlocking,
                RunPending,
                State, //
            },
            sync,
            timer,
            vectoring::{
                self,
                Injection, //
            },
            vmcs12::Groups, //
        },
        regs::{
            Cr0,
            Cr4,
            Efer, //
        },
        vmx::{
            caps::Controls,
            ctls::ActivityState,
            field::*,
            insn::{
                VmFail,
                VmInsnError, //
            }, //
        }, //
    }, //
};
use kernel::prelude::*;

/// What an attempt to enter L2 comes to: why not, if so.
pub(super) type Entered = Result<(), Refusal>;

impl Cpu<'_> {
    /// VMLAUNCH and VMRESUME of L1.
    pub(super) fn vm_entry(&mut self, insn: EntryInsn) -> Handled {
        let blocking = if self.interruptibility().mov_ss() {
            MovSsBlocking::Blocked
        } else {
            MovSsBlocking::Open
        };
        let nested = self.nested()?;
        let Some(root) = nested.state.root() else {
            return Err(Stop::Bug(Bug("VM entry outside of VMX operation")));
        };
        if let Err(fail) = state::enter(insn, &root, &nested.vmcs12, blocking) {
            return self.end_vmx_insn(Err(fail));
        }
        if self.resume_unchanged()? {
            return Ok(Outcome::Resume);
        }
        self.pull_shadow()?;
        match self.enter_l2(EntryCause::Fresh)? {
            Ok(()) => self.settle_activity(),
            Err(Refusal::Fail(fail)) => self.end_vmx_insn(Err(fail)),
            Err(Refusal::Exit(fail)) => {
                self.fail_entry(fail)?;
                Ok(Outcome::Resume)
            }
        }
    }

    /// Enters L2 with the current vmcs12, or says why not; then nothing has changed.
    pub(super) fn enter_l2(&mut self, cause: EntryCause) -> Result<Entered, Stop> {
        let env = self.env()?;
        let nested = self.nested()?;
        let current = nested.state.root().and_then(|root| root.current);
        let Some(current) = current else {
            return Ok(Err(Refusal::Fail(VmFail::Invalid)));
        };
        if nested.vmcs12.dirty().intersects(sync::NEEDS_LAZY) {
            self.fetch_lazy()?;
        }
        let nested = self.nested()?;
        let entry = Entry {
            vmcs12: &nested.vmcs12,
            caps: &nested.caps,
            env: &env,
            cause,
        };
        if let Err(refused) = check::vm_entry(&entry) {
            return Ok(Err(refused.refusal));
        }
        let index = match nested.pool.activate(current) {
            Some(Slot::Hot(index)) => index,
            Some(Slot::Fresh { index, .. }) => {
                nested.slots[index].merged = None;
                index
            }
            None => return Err(Stop::Bug(Bug("a pool without slots"))),
        };
        // Before the pages are found: where the host takes one away from here on, the epoch tells.
        let inputs = self.entry_inputs();
        let Some(l0) = self.l0(index, &env, &inputs)? else {
            let error = VmInsnError::EntryInvalidControlField;
            return Ok(Err(Refusal::Fail(VmFail::Valid(error))));
        };
        let nested = self.nested()?;
        let what = if nested.slots[index].merged == Some(l0) {
            nested.vmcs12.dirty()
        } else {
            Groups::ALL
        };
        // Of the groups that the merge writes, one has fields that vmcs12 may lack.
        if what.intersects(Groups::SEGMENTS) {
            self.fetch_lazy()?;
        }
        self.become_l2(index, &l0, cause, what)?;
        let entered = self.load_msrs(cause)?;
        self.remember_entry(index, inputs)?;
        Ok(entered)
    }

    /// Makes L2 what runs.
    fn become_l2(
        &mut self,
        index: usize,
        l0: &L0,
        cause: EntryCause,
        what: Groups,
    ) -> Result<(), Stop> {
        let l1 = L1State {
            ctls: self.arch.ctls,
            cr4: self.cr4(),
        };
        let l1_dr7 = self.arch.debug.dr7;
        self.switch_to_vmcs02(index)?;
        if !self.nested()?.slots[index].is_made {
            self.hw.init_host_state();
            let mut vmcs = self.vmcs();
            merge::constants(&mut vmcs, host().caps.proc2_allowed());
            vmcs.set(VM_EXIT_MSR_STORE_COUNT, 0);
            vmcs.set(VM_EXIT_MSR_LOAD_COUNT, 0);
            vmcs.set(VM_ENTRY_MSR_LOAD_COUNT, 0);
            self.nested()?.slots[index].is_made = true;
        }
        let mut vmcs = self.vmcs();
        let nested = self.nested()?;
        merge::merge(&nested.vmcs12, l0, cause, what, &mut vmcs);
        nested.slots[index].merged = Some(*l0);
        let ctls = merge::controls(&nested.vmcs12, l0);
        self.run_l2(index, l1, l1_dr7, &ctls)?;
        self.load_shadow12()?;
        self.take_l1_event(cause)
    }

    /// Makes the L2 that is merged into the vmcs02 of slot `index`, which is current, what runs. `l1` and
    /// `l1_dr7` are of L1.
    pub(super) fn run_l2(
        &mut self,
        index: usize,
        l1: L1State,
        l1_dr7: u64,
        ctls: &Controls,
    ) -> Result<(), Stop> {
        let vmcs = self.vmcs();
        let has_timer = merge::pin12(&self.nested()?.vmcs12).preemption_timer();
        let tsc = if has_timer { self.guest_tsc() } else { 0 };
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Err(Stop::Bug(Bug("nested VMX without its state")));
        };
        nested.vmcs12.clear_dirty();
        nested.is_lazy = false;
        nested.active = index;
        nested.l1 = l1;
        nested.state = nested.state.after_entry(RunPending::Entry);
        let v = &nested.vmcs12;
        if has_timer {
            let rate = nested.caps.misc.preemption_timer_rate();
            let end = timer::deadline(v.read(VMX_PREEMPTION_TIMER_VALUE), tsc, rate);
            if let State::NonRoot(l2) = &mut nested.state {
                l2.timer_deadline = Some(end);
            }
        }
        self.arch.ctls = *ctls;
        vmcs.set(PIN_BASED_VM_EXEC_CONTROL, ctls.pin.0);
        vmcs.set(CPU_BASED_VM_EXEC_CONTROL, ctls.proc.0);
        vmcs.set(SECONDARY_VM_EXEC_CONTROL, ctls.proc2.0);
        vmcs.set(VM_EXIT_CONTROLS, ctls.exit.0);
        vmcs.set(VM_ENTRY_CONTROLS, ctls.entry.0);
        self.arch.control.cr0 = Cr0(v.read(GUEST_CR0));
        self.arch.control.cr4 = Cr4(v.read(GUEST_CR4));
        self.arch.control.efer = Efer(merge::l2_efer(v, self.arch.control.efer.0));
        let loads_debug =
            burrow_core::x86::vmx::ctls::EntryCtls(v.read(VM_ENTRY_CONTROLS)).load_debug();
        self.arch.debug.dr7 = if loads_debug {
            v.read(GUEST_DR7)
        } else {
            l1_dr7
        };
        let vpid12 = vmcs02::vpid12(v);
        let flush = nested.pool.on_entry(index, vpid12);
        core::mem::swap(&mut self.arch.vpid, &mut nested.slots[index].vpid);
        if flush == Flush::Vpid {
            self.arch.vpid.request_flush();
        }
        self.update_cpu_logs();
        Ok(())
    }

    /// Queues the event that the entry injects.
    pub(super) fn take_l1_event(&mut self, cause: EntryCause) -> Result<(), Stop> {
        if cause == EntryCause::Restore {
            return Ok(());
        }
        match vectoring::injection(&self.nested()?.vmcs12) {
            Injection::Nothing => {}
            Injection::Event(event) => self.arch.events.inject(event),
            Injection::Mtf => {
                if let State::NonRoot(l2) = &mut self.nested()?.state {
                    l2.mtf_pending = true;
                    l2.run_pending = RunPending::No;
                }
            }
        }
        Ok(())
    }

    /// Loads the MSRs of the VM-entry list.
    fn load_msrs(&mut self, cause: EntryCause) -> Result<Entered, Stop> {
        if cause == EntryCause::Restore {
            return Ok(Ok(()));
        }
        let nested = self.nested()?;
        let list = List::of(&nested.vmcs12, ListKind::EntryLoad);
        let max = nested.caps.misc.msr_list_max();
        let loaded = msrlist::process(list, ListKind::EntryLoad, max, &mut Msrs(self));
        Ok(loaded.map_err(|bad| Refusal::Exit(bad.entry_fail())))
    }

    /// Puts L2 to sleep where vmcs12 says that it sleeps.
    pub(super) fn settle_activity(&mut self) -> Handled {
        let v = &self.nested()?.vmcs12;
        let activity = ActivityState::try_from(v.read(GUEST_ACTIVITY_STATE));
        let proc = merge::proc12(v);
        let is_awaited = proc.nmi_window() || proc.intr_window() && self.rflags().if_();
        let state = match activity {
            Ok(ActivityState::Hlt) if self.arch.events.injected().is_none() && !is_awaited => {
                MpState::Halted
            }
            Ok(ActivityState::WaitForSipi) => MpState::InitReceived,
            _ => return Ok(Outcome::Resume),
        };
        if let State::NonRoot(l2) = &mut self.nested()?.state {
            l2.run_pending = RunPending::No;
        }
        if self.arch.lapic.is_none() {
            return Ok(Outcome::ToUser(UserExit::Hlt));
        }
        self.arch.mp_state = state;
        Ok(Outcome::Resume)
    }
}
