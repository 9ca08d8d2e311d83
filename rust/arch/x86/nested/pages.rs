// SPDX-License-Identifier: GPL-2.0

//! Pages that vmcs02 names: those of L1 that the processor uses, and the merged MSR bitmap.

use crate::arch::x86::{
    cpu::Cpu,
    nested::state::Pinned,
    outcome::Stop, //
};
use burrow_core::{
    addr::{
        Gpa,
        Hpa,
        PAGE_SHIFT, //
    },
    x86::{
        msrbitmap::{
            self,
            X2apic, //
        },
        nested::merge::{
            self,
            Pages, //
        },
        vmx::field::*, //
    }, //
};
use kernel::sync::atomic::Relaxed;

impl Cpu<'_> {
    /// Returns the pages that vmcs02 names, or `None` if one that must be there is not.
    pub(super) fn pages(&mut self, index: usize) -> Result<Option<Pages>, Stop> {
        let v = &self.nested()?.vmcs12;
        let needs_virtual_apic = merge::needs_virtual_apic(v);
        let (proc, proc2) = (merge::proc12(v), merge::proc2_12(v));
        let virtual_apic = proc.tpr_shadow().then(|| v.read(VIRTUAL_APIC_PAGE_ADDR));
        let apic_access = proc2.virtualize_apic().then(|| v.read(APIC_ACCESS_ADDR));
        let mut pinned = core::mem::take(&mut self.nested()?.slots[index].pages);
        let virtual_apic = self.pin_written(&mut pinned.virtual_apic, virtual_apic);
        let apic_access_page = self.pin_written(&mut pinned.apic_access, apic_access);
        let msr_bitmap = self.merge_msr_bitmap(index, &mut pinned.msr_bitmap);
        self.nested()?.slots[index].pages = pinned;
        if needs_virtual_apic && virtual_apic.is_none() {
            return Ok(None);
        }
        if apic_access.is_some() && apic_access_page.is_none() {
            return Err(Stop::ToUser(self.emulation_failed(&[])));
        }
        Ok(Some(Pages {
            msr_bitmap: msr_bitmap?,
            virtual_apic,
            apic_access: apic_access_page,
            posted_intr: None,
        }))
    }

    /// Pins the page at `gpa`, if any, in place of what `held` has pinned.
    fn pin<'p>(&self, held: &'p mut Option<Pinned>, gpa: Option<u64>) -> Option<&'p Pinned> {
        let memory = &self.vcpu.vm.memory;
        let Some(gpa) = gpa else {
            *held = None;
            return None;
        };
        let epoch = memory.epoch();
        let is_same = held
            .as_ref()
            .is_some_and(|p| p.gpa == gpa && p.epoch == epoch);
        if !is_same {
            let pinned = memory.pin(Gpa(gpa)).ok();
            *held = pinned.map(|(page, is_logged)| Pinned {
                gpa,
                epoch,
                page,
                is_logged,
            });
        }
        held.as_ref()
    }

    /// Pins a page that the processor may write at any time while L2 runs.
    fn pin_written(&self, held: &mut Option<Pinned>, gpa: Option<u64>) -> Option<Hpa> {
        let pinned = self.pin(held, gpa)?;
        if pinned.is_logged {
            self.vcpu.vm.memory.mark_dirty(Gpa(pinned.gpa).gfn());
        }
        Some(Hpa(pinned.page.pfn().0 << PAGE_SHIFT))
    }

    /// Merges the MSR bitmaps of L0 and L1; `None` if L1 has none, as then every access is L1's.
    pub(super) fn merge_msr_bitmap(
        &mut self,
        index: usize,
        held: &mut Option<Pinned>,
    ) -> Result<Option<Hpa>, Stop> {
        let vmcs12 = &self.nested()?.vmcs12;
        let (proc, proc2) = (merge::proc12(vmcs12), merge::proc2_12(vmcs12));
        let at = proc.msr_bitmaps().then(|| vmcs12.read(MSR_BITMAP));
        let pinned = self.pin(held, at).map(|pinned| &pinned.page);
        let Some(at) = at else {
            return Ok(None);
        };
        let memory = &self.vcpu.vm.memory;
        // A page that cannot be pinned may yet be one to read.
        if pinned.is_none() && memory.read(Gpa(at), &mut [0]).is_err() {
            return Ok(None);
        }
        let l1 = |word: usize| match pinned {
            Some(page) => page.word(word).load(Relaxed),
            None => {
                let mut bytes = [0xff; 8];
                let _ = memory.read(Gpa(at).wrapping_add(8 * word as u64), &mut bytes);
                u64::from_le_bytes(bytes)
            }
        };
        let x2apic = if proc2.virtualize_x2apic() && proc.tpr_shadow() {
            X2apic::Virtualized {
                registers: proc2.apic_register_virt(),
                delivery: proc2.virtual_intr_delivery(),
            }
        } else {
            X2apic::Intercepted
        };
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(None);
        };
        let slot = &mut nested.slots[index];
        let l0 = self.arch.msr_bitmap.words();
        let out = slot.msr_bitmap.words_mut();
        let (open, stale) = (self.arch.msrs_open, slot.bitmap_merge.open);
        slot.bitmap_merge = msrbitmap::merge(out, l0, l1, open, stale, x2apic);
        Ok(Some(Hpa(slot.msr_bitmap.address())))
    }

    /// Brings the merged MSR bitmap of slot `index` up to date: L1 may write to its own at any time. It is
    /// pinned, and the same page as at the last merge, of a vmcs12 whose controls have not changed.
    ///
    /// # Context
    ///
    /// Interrupts may be off.
    pub(super) fn remerge_msr_bitmap(&mut self, index: usize) -> Result<(), Stop> {
        let slot = &mut self.nested()?.slots[index];
        let seen = &slot.bitmap_merge.seen;
        // L0's part has not changed: where it does, what was seen is forgotten.
        let holds = slot
            .pages
            .msr_bitmap
            .as_ref()
            .is_none_or(|pinned| seen.hold(|word| pinned.page.word(word).load(Relaxed)));
        if holds {
            return Ok(());
        }
        let mut pinned = slot.pages.msr_bitmap.take();
        let merged = self.merge_msr_bitmap(index, &mut pinned);
        self.nested()?.slots[index].pages.msr_bitmap = pinned;
        merged.map(|_| ())
    }
}
