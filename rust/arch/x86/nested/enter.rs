// SPDX-License-Identifier: GPL-2.0

//! The way into L2: VMLAUNCH, VMRESUME, and a restored state.

use crate::{
    arch::x86::{
        cpu::Cpu,
        nested::state::{
            L1State,
            Nested,
            Pinned,
            NR_SLOTS, //
        },
        outcome::{
            Handled,
            Outcome,
            Stop,
            UserExit, //
        },
        state::MpState, //
    },
    host::host,
};
use burrow_core::{
    addr::{
        Gpa,
        Hpa,
        PAGE_SHIFT, //
    },
    outcome::Bug,
    x86::{
        cpuid::feature,
        msr::index,
        msrbitmap::{
            self,
            MsrAccesses,
            OpenWords,
            X2apic, //
        },
        nested::{
            check::{
                self,
                Entry,
                EntryCause,
                Env,
                Refusal, //
            },
            merge::{
                self,
                L1Values,
                Pages,
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
            timer,
            vectoring::{
                self,
                Injection, //
            },
            vmcs12::{
                Groups,
                Vmcs12, //
            },
        },
        regs::{
            mask,
            write,
            Cr0,
            Cr4,
            Efer, //
        },
        vmx::{
            ctls::ActivityState,
            field::*,
            insn::{
                VmFail,
                VmInsnError, //
            }, //
        },
    },
};
use burrow_sys::x86::vmcs::{
    CurrentVmcs,
    Vmcs, //
};
use kernel::prelude::*;

/// Bits that are 1 in the processor's CR0 and CR4 while a guest runs: NE; VMXE and MCE.
const CR0_FORCED: u64 = Cr0::NE;
const CR4_FORCED: u64 = Cr4::VMXE | Cr4::MCE;
/// VTPR in the virtual-APIC page.
const OFFSET_VTPR: u64 = 0x80;

/// What an attempt to enter L2 comes to: why not, if so.
pub(super) type Entered = Result<(), Refusal>;

/// Groups that checks and the merge combine with values of which vmcs02 may have newer ones.
const MIXED: Groups = Groups::SEGMENTS
    .union(Groups::CRS)
    .union(Groups::RUN)
    .union(Groups::CONTROLS)
    .union(Groups::MSRS);

impl Cpu<'_> {
    /// Returns what checks need to know of L1, but for the volatile part.
    pub(super) fn static_env(&self) -> Env {
        let limits = &self.arch.cpuid.limits;
        let current = self
            .arch
            .nested
            .as_ref()
            .and_then(|n| n.state.root())
            .and_then(|r| r.current);
        Env {
            phys_bits: limits.maxphyaddr,
            linear_bits: 48,
            efer_allowed: !limits.efer_reserved | Efer::LMA,
            debugctl_allowed: 0,
            perf_global_allowed: 0,
            cr3_lam_allowed: 0,
            has_rtm: self.arch.cpuid.caps.has(feature::RTM),
            is_l1_long_mode: self.efer().lma(),
            current_vmcs: current.map_or(u64::MAX, |at| at.0),
            link_header: None,
            vtpr: None,
            memory_pdptes: None,
        }
    }

    fn env(&mut self) -> Result<Env, Stop> {
        let mut env = self.static_env();
        let nested = self.nested()?;
        if nested.env.replace(env) != Some(env) {
            nested.vmcs12.mark_dirty(Groups::ALL);
        }
        let v = &self.nested()?.vmcs12;
        let link = v.read(VMCS_LINK_POINTER);
        let (proc, proc2) = (merge::proc12(v), merge::proc2_12(v));
        let virtual_apic = Gpa(v.read(VIRTUAL_APIC_PAGE_ADDR));
        let cr3 = v.read(GUEST_CR3);
        let has_pae = has_pae_paging(v);
        if link != u64::MAX && link & 0xfff == 0 {
            env.link_header = self.region_header(Gpa(link));
        }
        if proc.tpr_shadow() {
            let mut byte = [0];
            let at = virtual_apic.wrapping_add(OFFSET_VTPR);
            env.vtpr = self
                .vcpu
                .vm
                .memory
                .read(at, &mut byte)
                .ok()
                .map(|()| byte[0]);
        }
        if has_pae && !proc2.ept() {
            env.memory_pdptes = Some(self.read_pdptes(cr3));
        }
        Ok(env)
    }

    /// Reads the PDPTEs that `cr3` points to in L1's memory; all ones where there is none.
    fn read_pdptes(&self, cr3: u64) -> [u64; 4] {
        let mut bytes = [0xff; 32];
        let _ = self.vcpu.vm.memory.read(Gpa(cr3 & 0xffff_ffe0), &mut bytes);
        let mut entries = [0; 4];
        for (entry, chunk) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
            *entry = chunk.try_into().map_or(0, u64::from_le_bytes);
        }
        entries
    }

    /// Allocates the vmcs02s, once.
    pub(super) fn make_vmcs02s(&mut self) -> Result<(), Stop> {
        for slot in self.vmcs02 {
            if slot.as_ref().is_none() {
                slot.populate(Vmcs::new(host().caps.basic.revision())?);
            }
        }
        Ok(())
    }

    /// Returns whether L2 runs.
    #[inline]
    pub(crate) fn is_l2(&self) -> bool {
        self.arch
            .nested
            .as_ref()
            .is_some_and(|nested| nested.state.is_non_root())
    }

    fn switch_to_vmcs02(&mut self, index: usize) -> Result<(), Stop> {
        let vmcs = self.vmcs02.get(index).and_then(|slot| slot.as_ref());
        let vmcs = vmcs.ok_or(Stop::Bug(Bug("no vmcs02")))?;
        self.hw.switch_vmcs(vmcs);
        Ok(())
    }

    /// Runs `f` with vmcs12 and the vmcs02 of slot `index`, while L1 runs.
    pub(super) fn with_vmcs02(
        &mut self,
        index: usize,
        f: impl FnOnce(&mut Vmcs12, CurrentVmcs<'_>),
    ) -> Result<(), Stop> {
        self.switch_to_vmcs02(index)?;
        let vmcs = self.vmcs();
        if let Some(nested) = self.arch.nested.as_deref_mut() {
            f(&mut nested.vmcs12, vmcs);
        }
        self.hw.switch_vmcs(self.vmcs01);
        Ok(())
    }

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
        if nested.vmcs12.dirty().intersects(MIXED) {
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
        let Some(l0) = self.l0(index, &env)? else {
            let error = VmInsnError::EntryInvalidControlField;
            return Ok(Err(Refusal::Fail(VmFail::Valid(error))));
        };
        let nested = self.nested()?;
        let what = if nested.slots[index].merged == Some(l0) {
            nested.vmcs12.dirty().union(reloaded(&nested.vmcs12))
        } else {
            Groups::ALL
        };
        if what.intersects(MIXED) {
            self.fetch_lazy()?;
        }
        self.become_l2(index, &l0, cause, what)?;
        self.load_msrs(cause)
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
        let tsc = self.guest_tsc();
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Err(Stop::Bug(Bug("nested VMX without its state")));
        };
        merge::merge(&nested.vmcs12, l0, cause, what, &mut vmcs);
        nested.vmcs12.clear_dirty();
        nested.is_lazy = false;
        nested.active = index;
        nested.l1 = l1;
        nested.slots[index].merged = Some(*l0);
        nested.state = nested.state.after_entry(RunPending::Entry);
        let v = &nested.vmcs12;
        if merge::pin12(v).preemption_timer() {
            let rate = nested.caps.misc.preemption_timer_rate();
            let end = timer::deadline(v.read(VMX_PREEMPTION_TIMER_VALUE), tsc, rate);
            if let State::NonRoot(l2) = &mut nested.state {
                l2.timer_deadline = Some(end);
            }
        }
        let ctls = merge::controls(v, l0);
        self.arch.ctls = ctls;
        vmcs.set(PIN_BASED_VM_EXEC_CONTROL, ctls.pin.0);
        vmcs.set(CPU_BASED_VM_EXEC_CONTROL, ctls.proc.0);
        vmcs.set(SECONDARY_VM_EXEC_CONTROL, ctls.proc2.0);
        vmcs.set(VM_EXIT_CONTROLS, ctls.exit.0);
        vmcs.set(VM_ENTRY_CONTROLS, ctls.entry.0);
        self.arch.control.cr0 = Cr0(v.read(GUEST_CR0));
        self.arch.control.cr4 = Cr4(v.read(GUEST_CR4));
        self.arch.control.efer = Efer(merge::l2_efer(v, l0.l1.efer));
        let loads_debug =
            burrow_core::x86::vmx::ctls::EntryCtls(v.read(VM_ENTRY_CONTROLS)).load_debug();
        self.arch.debug.dr7 = if loads_debug {
            v.read(GUEST_DR7)
        } else {
            l1_dr7
        };
        let vpid12 = vpid12(v);
        let flush = nested.pool.on_entry(index, vpid12);
        core::mem::swap(&mut self.arch.vpid, &mut nested.slots[index].vpid);
        if flush == Flush::Vpid {
            self.arch.vpid.request_flush();
        }
        self.load_shadow12()?;
        self.take_l1_event(cause)
    }

    /// Queues the event that the entry injects.
    fn take_l1_event(&mut self, cause: EntryCause) -> Result<(), Stop> {
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
        let loaded = msrlist::process(
            list,
            ListKind::EntryLoad,
            max,
            &mut super::leave::Msrs(self),
        );
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

    /// Returns what L0 puts into the merge, or `None` if a page that the entry needs is not there.
    fn l0(&mut self, index: usize, env: &Env) -> Result<Option<L0>, Stop> {
        let Some(pages) = self.pages(index)? else {
            return Ok(None);
        };
        let eptp = self.eptp02(index)?;
        let vmcs = self.vmcs();
        let limits = &self.arch.cpuid.limits;
        let l1 = L1Values {
            efer: self.efer().0,
            pat: if self.arch.ctls.entry.load_pat() {
                vmcs.get(GUEST_IA32_PAT)
            } else {
                self.arch.pat
            },
            dr7: self.arch.debug.dr7,
            debugctl: vmcs.get(GUEST_IA32_DEBUGCTL),
            ..L1Values::default()
        };
        Ok(Some(L0 {
            controls: {
                let mut ctls = self.arch.ctls;
                ctls.proc = ctls.proc.with_intr_window(false).with_nmi_window(false);
                ctls
            },
            exception_bitmap: self.exception_bitmap(),
            cr0_guest_owned: mask::CR0_GUEST_OWNED,
            cr4_guest_owned: mask::CR4_GUEST_OWNED & !limits.cr4_reserved,
            cr0_forced: CR0_FORCED,
            cr4_forced: CR4_FORCED,
            cr4_hidden: 0,
            debugctl_allowed: 0,
            debugctl_forced: 0,
            emulates_umip: false,
            tsc_offset: self.tsc_offset(),
            tsc_multiplier: self.tsc_multiplier(),
            eptp,
            vpid: 0,
            pdptes: env.memory_pdptes.unwrap_or([0; 4]),
            posted_intr_vector: 0,
            pages,
            l1,
        }))
    }

    /// Returns the EPTP that L2 runs with: of the shadow of L1's EPT, or our own if L1 has none.
    fn eptp02(&mut self, index: usize) -> Result<u64, Stop> {
        let memory = &self.vcpu.vm.memory;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(memory.eptp());
        };
        if !nested.proc2().ept() {
            return Ok(memory.eptp());
        }
        let eptp12 = nested.vmcs12.read(EPT_POINTER);
        let slot = &mut nested.slots[index % NR_SLOTS];
        let id = match slot.shadow {
            Some((id, of)) => {
                if of != eptp12 {
                    memory.empty_shadow(id);
                }
                id
            }
            None => memory.new_shadow()?,
        };
        slot.shadow = Some((id, eptp12));
        let has_flags = burrow_core::x86::ept::Eptp(eptp12).accessed_dirty();
        Ok(memory.shadow_eptp(id, has_flags))
    }

    /// Returns the pages that vmcs02 names, or `None` if one that must be there is not.
    fn pages(&mut self, index: usize) -> Result<Option<Pages>, Stop> {
        let v = &self.nested()?.vmcs12;
        let needs_virtual_apic = merge::needs_virtual_apic(v);
        let (proc, proc2) = (merge::proc12(v), merge::proc2_12(v));
        let virtual_apic = proc.tpr_shadow().then(|| v.read(VIRTUAL_APIC_PAGE_ADDR));
        let apic_access = proc2.virtualize_apic().then(|| v.read(APIC_ACCESS_ADDR));
        let mut pinned = core::mem::take(&mut self.nested()?.slots[index].pages);
        let virtual_apic = self.pin(&mut pinned.virtual_apic, virtual_apic);
        let apic_access_page = self.pin(&mut pinned.apic_access, apic_access);
        self.nested()?.slots[index].pages = pinned;
        if needs_virtual_apic && virtual_apic.is_none() {
            return Ok(None);
        }
        if apic_access.is_some() && apic_access_page.is_none() {
            return Err(Stop::ToUser(self.emulation_failed(&[])));
        }
        let msr_bitmap = self.merge_msr_bitmap(index)?;
        Ok(Some(Pages {
            msr_bitmap,
            virtual_apic,
            apic_access: apic_access_page,
            posted_intr: None,
        }))
    }

    /// Pins the page at `gpa`, if any, in place of what `held` has pinned.
    fn pin(&self, held: &mut Option<Pinned>, gpa: Option<u64>) -> Option<Hpa> {
        let memory = &self.vcpu.vm.memory;
        let Some(gpa) = gpa else {
            *held = None;
            return None;
        };
        let generation = memory.generation();
        let is_same = held
            .as_ref()
            .is_some_and(|p| p.gpa == gpa && p.generation == generation);
        if !is_same {
            *held = memory.pin(Gpa(gpa)).ok().map(|page| Pinned {
                gpa,
                generation,
                page,
            });
        }
        // The processor may write it at any time while L2 runs.
        memory.mark_dirty(Gpa(gpa).gfn());
        held.as_ref().map(|p| Hpa(p.page.pfn().0 << PAGE_SHIFT))
    }

    /// Merges the MSR bitmaps of L0 and L1; `None` if L1 has none, as then every access is L1's.
    fn merge_msr_bitmap(&mut self, index: usize) -> Result<Option<Hpa>, Stop> {
        let memory = &self.vcpu.vm.memory;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(None);
        };
        let Nested {
            vmcs12,
            scratch,
            bitmap,
            slots,
            ..
        } = nested;
        let (proc, proc2) = (merge::proc12(vmcs12), merge::proc2_12(vmcs12));
        if !proc.msr_bitmaps() || memory.read(Gpa(vmcs12.read(MSR_BITMAP)), scratch).is_err() {
            return Ok(None);
        }
        for (word, chunk) in bitmap.iter_mut().zip(scratch.chunks_exact(8)) {
            *word = chunk.try_into().map_or(u64::MAX, u64::from_le_bytes);
        }
        let Ok(l1) = <&[u64; 512]>::try_from(&bitmap[..]) else {
            return Ok(None);
        };
        let x2apic = if proc2.virtualize_x2apic() && proc.tpr_shadow() {
            X2apic::Virtualized {
                registers: proc2.apic_register_virt(),
                delivery: proc2.virtual_intr_delivery(),
            }
        } else {
            X2apic::Intercepted
        };
        let slot = &mut slots[index];
        let l0 = self.arch.msr_bitmap.words();
        let out = slot.msr_bitmap.words_mut();
        slot.open = msrbitmap::merge(out, l0, l1, OpenWords::of(l0), slot.open, x2apic);
        // Their new values must reach vmcs12.
        for number in [
            index::IA32_SYSENTER_CS,
            index::IA32_SYSENTER_ESP,
            index::IA32_SYSENTER_EIP,
        ] {
            msrbitmap::intercept(out, number, MsrAccesses::Write);
        }
        Ok(Some(Hpa(slot.msr_bitmap.address())))
    }
}

/// Returns the VPID of vmcs12, if it uses them.
pub(super) fn vpid12(v: &Vmcs12) -> Option<u16> {
    merge::proc2_12(v)
        .vpid()
        .then(|| v.read(VIRTUAL_PROCESSOR_ID))
}

/// Returns whether L2 is to have PAE paging.
fn has_pae_paging(v: &Vmcs12) -> bool {
    let entry = burrow_core::x86::vmx::ctls::EntryCtls(v.read(VM_ENTRY_CONTROLS));
    let efer = Efer(0).with_lma(entry.ia32e());
    write::is_pae_paging(Cr0(v.read(GUEST_CR0)), Cr4(v.read(GUEST_CR4)), efer)
}

/// Returns the groups that an entry loads anew from vmcs12 though L1 has not changed them: L2 has,
/// and its exit did not save them.
fn reloaded(v: &Vmcs12) -> Groups {
    let exit = burrow_core::x86::vmx::ctls::ExitCtls(v.read(VM_EXIT_CONTROLS));
    let mut groups = Groups::NONE;
    if !exit.save_debug() || !exit.save_pat() {
        groups = groups.union(Groups::MSRS);
    }
    if !exit.save_efer() {
        groups = groups.union(Groups::CRS);
    }
    groups
}
