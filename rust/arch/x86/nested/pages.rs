// SPDX-License-Identifier: GPL-2.0

//! Pages that vmcs02 names: those of L1 that the processor uses, and the merged MSR bitmap.

use crate::arch::x86::{
    cpu::Cpu,
    nested::state::{
        Nested,
        Pinned, //
    },
    outcome::Stop, //
};
use burrow_core::{
    addr::{
        Gpa,
        Hpa,
        PAGE_SHIFT, //
    },
    x86::{
        msr::index,
        msrbitmap::{
            self,
            MsrAccesses,
            OpenWords,
            X2apic, //
        },
        nested::merge::{
            self,
            Pages, //
        },
        vmx::field::*, //
    }, //
};
use kernel::prelude::*;

impl Cpu<'_> {
    /// Returns the pages that vmcs02 names, or `None` if one that must be there is not.
    pub(super) fn pages(&mut self, index: usize) -> Result<Option<Pages>, Stop> {
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
