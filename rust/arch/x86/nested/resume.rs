// SPDX-License-Identifier: GPL-2.0

//! VMRESUME of a vmcs12 in which little has changed: what hypervisors do most.
//!
//! An entry depends on vmcs12, on what L0 puts into the merge, and on what pages of L1 hold. If L1 has
//! written to no fields but those of [`CHANGEABLE`] groups, and L0's part is made from the same values as
//! the last time ([`EntryInputs`]), then vmcs02 is right but for these groups and what L2 has changed that
//! its exit did not save. What may have changed in memory, the MSR bitmap and VTPR, is looked at each time.
//!
//! All of it can be done right after the exit for VMRESUME, with interrupts off
//! ([`resume_at_once`](Cpu::resume_at_once)): pages of L1 stay pinned as long as the epoch of the memory
//! is that of the last entry.

use crate::arch::x86::{
    cpu::Cpu,
    nested::{
        state::{
            EntryInputs,
            L1State,
            LastEntry, //
        }, //
    },
    outcome::Stop, //
};
use burrow_core::x86::{
    nested::{
        check::{
            self,
            Entry,
            EntryCause, //
        },
        merge,
        msrlist::{
            List,
            ListKind, //
        },
        pool::Slot,
        state::{
            self,
            EntryInsn,
            MovSsBlocking,
            State, //
        },
        vectoring::{
            self,
            Injection, //
        },
        vmcs12::{
            Groups,
            Vmcs12, //
        },
    },
    vmx::{
        ctls::ActivityState,
        field::*, //
    },
};
use burrow_sys::{
    context::{
        IrqsOff,
        PreemptOff, //
    },
    x86::vmcs::Vmcs,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        SetOnce, //
    },
};

/// The word of the virtual-APIC page whose low byte is VTPR.
const VTPR_WORD: usize = 0x80 / 8;

impl Cpu<'_> {
    /// Returns what the coming entry depends on besides vmcs12 and pages of L1, which runs.
    pub(super) fn entry_inputs(&self) -> EntryInputs {
        let mut ctls = self.arch.ctls;
        ctls.proc = ctls.proc.with_intr_window(false).with_nmi_window(false);
        EntryInputs {
            ctls,
            exception_bitmap: self.exception_bitmap(),
            tsc_offset: self.tsc_offset(),
            tsc_multiplier: self.tsc_multiplier(),
            efer: self.efer().0,
            pat: self.pat(),
            dr7: self.arch.debug.dr7,
            debugctl: self.vmcs().get(GUEST_IA32_DEBUGCTL),
            epoch: self.vcpu.vm.memory.epoch(),
        }
    }

    /// Notes an entry with slot `index`, if it can be repeated.
    pub(super) fn remember_entry(&mut self, index: usize, inputs: EntryInputs) -> Result<(), Stop> {
        let ctls = self.arch.ctls;
        let nested = self.nested()?;
        let proc = merge::proc12(&nested.vmcs12);
        let slot = &mut nested.slots[index];
        let pages = [&slot.pages.virtual_apic, &slot.pages.apic_access];
        let is_logged = pages.into_iter().flatten().any(|page| page.is_logged);
        let has_vtpr = slot.pages.virtual_apic.is_some() || !proc.tpr_shadow();
        let has_bitmap = slot.pages.msr_bitmap.is_some() || !proc.msr_bitmaps();
        let is_plain = is_plain(&nested.vmcs12) && has_vtpr && has_bitmap && !is_logged;
        slot.last = is_plain.then_some(LastEntry { inputs, ctls });
        Ok(())
    }

    /// Carries out VMRESUME of L1 right after its exit if it is the entry of
    /// [`resume_unchanged`](Self::resume_unchanged). Returns `false` for others; then nothing has happened.
    #[inline]
    pub(crate) fn resume_at_once(
        &mut self,
        preempt: &PreemptOff,
        _irqs: &IrqsOff<'_>,
    ) -> Result<bool, Stop> {
        if !self.is_64bit_code() || self.cpl() > 0 || self.interruptibility().mov_ss() {
            return Ok(false);
        }
        let Some(nested) = self.arch.nested.as_deref() else {
            return Ok(false);
        };
        let State::Root(root) = nested.state else {
            return Ok(false);
        };
        let is_here = |slot: &SetOnce<KBox<Vmcs>>| slot.as_ref().is_some_and(|v| v.is_on(preempt));
        let insn = EntryInsn::Vmresume;
        if state::enter(insn, &root, &nested.vmcs12, MovSsBlocking::Open).is_err()
            || !self.vmcs02.get(nested.active).is_some_and(is_here)
        {
            return Ok(false);
        }
        // What L1 has logged, L2's VMCS will not know of.
        self.drain_cpu_log();
        self.resume_unchanged()
    }

    /// Enters L2 again if little has changed since it was entered last; returns `false`, and nothing has
    /// happened but that vmcs12 may be up to date, if not.
    ///
    /// # Context
    ///
    /// Interrupts may be off, if the vmcs02 that was entered last is active on the current CPU.
    pub(super) fn resume_unchanged(&mut self) -> Result<bool, Stop> {
        let nested = self.nested()?;
        let index = nested.active;
        let current = nested.state.root().and_then(|root| root.current);
        let slot = &nested.slots[index];
        let (Some(current), Some(last), Some(_)) = (current, slot.last, slot.merged.as_ref())
        else {
            return Ok(false);
        };
        if !nested.vmcs12.dirty().is_within(CHANGEABLE)
            || nested.pool.find(current) != Some(index)
            || !last.inputs.are(&self.entry_inputs())
        {
            return Ok(false);
        }
        let l1 = L1State {
            ctls: self.arch.ctls,
            cr4: self.cr4(),
        };
        let l1_dr7 = self.arch.debug.dr7;
        // The rest needs vmcs12, whose newest values may be on the way.
        self.switch_to_vmcs02_by_shadow(index)?;
        if !self.is_repetition(index)?
            || self.nested()?.pool.activate(current) != Some(Slot::Hot(index))
        {
            self.hw.switch_vmcs(self.vmcs01);
            return Ok(false);
        }
        self.remerge_msr_bitmap(index)?;
        let mut vmcs = self.vmcs();
        let nested = self.nested()?;
        let v = &nested.vmcs12;
        let what = v.dirty();
        let mut ctls = last.ctls;
        if let Some(l0) = nested.slots[index].merged.as_ref() {
            merge::merge(v, l0, EntryCause::Fresh, what, &mut vmcs);
            if what.intersects(Groups::WINDOWS) {
                ctls = merge::controls(v, l0);
            }
        }
        if let Some(last) = nested.slots[index].last.as_mut() {
            last.ctls = ctls;
        }
        self.run_l2(index, l1, l1_dr7, &ctls)?;
        self.take_l1_event(EntryCause::Fresh)?;
        Ok(true)
    }

    /// Returns whether an entry with vmcs12 as it is now differs from the last one with slot `index` in
    /// [`CHANGEABLE`] groups only, and passes the checks.
    fn is_repetition(&mut self, index: usize) -> Result<bool, Stop> {
        let v = &self.nested()?.vmcs12;
        Ok(v.dirty().is_within(CHANGEABLE)
            && v.read(GUEST_ACTIVITY_STATE) == ActivityState::Active as u32
            && vectoring::injection(v) != Injection::Mtf
            && self.passes_checks(index)?)
    }

    /// Runs the checks that depend on what has changed.
    fn passes_checks(&mut self, index: usize) -> Result<bool, Stop> {
        let nested = self.nested()?;
        let Some(env) = nested.env.as_mut() else {
            return Ok(false);
        };
        let page = nested.slots[index].pages.virtual_apic.as_ref();
        // CAST: the low byte.
        env.vtpr = page.map(|pinned| pinned.page.word(VTPR_WORD).load(Relaxed) as u8);
        let entry = Entry {
            vmcs12: &nested.vmcs12,
            caps: &nested.caps,
            env,
            cause: EntryCause::Fresh,
        };
        let passes = check::vm_entry(&entry).is_ok();
        env.vtpr = None;
        Ok(passes)
    }
}

/// Groups whose change leaves an entry a repetition of the last one: their checks and their merge depend on
/// nothing that an exit leaves in vmcs02, on no address of a page, and on no control that is not in them.
const CHANGEABLE: Groups = Groups::RIP
    .union(Groups::RUN)
    .union(Groups::EVENT)
    .union(Groups::WINDOWS)
    .union(Groups::EXCEPTIONS)
    .union(Groups::HOST)
    .union(Groups::INFO);

/// Returns whether an entry looks at no memory of L1 but the pages that are pinned.
fn is_plain(v: &Vmcs12) -> bool {
    merge::proc2_12(v).ept()
        && v.read(VMCS_LINK_POINTER) == u64::MAX
        && List::of(v, ListKind::EntryLoad).count == 0
}
