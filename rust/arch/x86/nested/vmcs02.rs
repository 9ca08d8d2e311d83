// SPDX-License-Identifier: GPL-2.0

//! The vmcs02s: which is current, what L0 puts into one, and what comes back from it late.

use crate::{
    arch::x86::{
        cpu::Cpu,
        nested::state::{
            EntryInputs,
            ShadowOf,
            NR_SLOTS, //
        },
        outcome::Stop, //
    },
    host::host, //
};
use burrow_core::{
    outcome::Bug,
    request::Request,
    x86::{
        nested::{
            check::Env,
            merge::{
                self,
                L1Values, //
                L0,
            },
            sync,
            vmcs12::Vmcs12, //
        },
        regs::{
            mask,
            Cr0,
            Cr4, //
        },
        vmx::field::*, //
    }, //
};
use burrow_sys::x86::vmcs::{
    CurrentVmcs,
    Vmcs, //
};
use kernel::prelude::*;

/// Bits that are 1 in the processor's CR0 and CR4 while a guest runs: NE; VMXE and MCE.
const CR0_FORCED: u64 = Cr0::NE;
const CR4_FORCED: u64 = Cr4::VMXE | Cr4::MCE;

impl Cpu<'_> {
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

    pub(super) fn switch_to_vmcs02(&mut self, index: usize) -> Result<(), Stop> {
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

    /// Brings into vmcs12 what only vmcs02 has.
    pub(super) fn fetch_lazy(&mut self) -> Result<(), Stop> {
        let nested = self.nested()?;
        if !nested.is_lazy {
            return Ok(());
        }
        nested.is_lazy = false;
        let active = nested.active;
        self.with_vmcs02(active, |vmcs12: &mut Vmcs12, vmcs02| {
            sync::lazy(vmcs12, &vmcs02)
        })
    }

    /// Returns what L0 puts into the merge, or `None` if a page that the entry needs is not there.
    pub(super) fn l0(
        &mut self,
        index: usize,
        env: &Env,
        inputs: &EntryInputs,
    ) -> Result<Option<L0>, Stop> {
        let Some(pages) = self.pages(index)? else {
            return Ok(None);
        };
        let eptp = self.eptp02(index)?;
        let limits = &self.arch.cpuid.limits;
        let l1 = L1Values {
            efer: inputs.efer,
            pat: inputs.pat,
            dr7: inputs.dr7,
            debugctl: inputs.debugctl,
            ..L1Values::default()
        };
        Ok(Some(L0 {
            controls: inputs.ctls,
            exception_bitmap: inputs.exception_bitmap,
            cr0_guest_owned: mask::CR0_GUEST_OWNED,
            cr4_guest_owned: mask::CR4_GUEST_OWNED & !limits.cr4_reserved,
            cr0_forced: CR0_FORCED,
            cr4_forced: CR4_FORCED,
            cr4_hidden: 0,
            debugctl_allowed: 0,
            debugctl_forced: 0,
            emulates_umip: false,
            tsc_offset: inputs.tsc_offset,
            tsc_multiplier: inputs.tsc_multiplier,
            eptp,
            vpid: 0,
            pdptes: env.memory_pdptes.unwrap_or([0; 4]),
            posted_intr_vector: 0,
            pages,
            l1,
        }))
    }

    /// Returns the EPTP that L2 runs with: of the shadow of L1's EPT, or our own if L1 has none.
    pub(super) fn eptp02(&mut self, index: usize) -> Result<u64, Stop> {
        let memory = &self.vcpu.vm.memory;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(memory.eptp());
        };
        if !nested.proc2().ept() {
            return Ok(memory.eptp());
        }
        let source = ShadowOf {
            eptp: nested.vmcs12.read(EPT_POINTER),
            is_mode_based: nested.proc2().mode_based_exec(),
        };
        let slot = &mut nested.slots[index % NR_SLOTS];
        let id = match slot.shadow {
            Some((id, of)) => {
                if of != source {
                    memory.empty_shadow(id);
                }
                id
            }
            None => {
                let id = memory.new_shadow()?;
                // Its root may have been that of a VM that is gone.
                self.vcpu.shared.kick.request_quietly(Request::TlbFlush);
                id
            }
        };
        slot.shadow = Some((id, source));
        let has_flags = burrow_core::x86::ept::Eptp(source.eptp).accessed_dirty();
        Ok(memory.shadow_eptp(id, has_flags))
    }
}

/// Returns the VPID of vmcs12, if it uses them.
pub(super) fn vpid12(v: &Vmcs12) -> Option<u16> {
    merge::proc2_12(v)
        .vpid()
        .then(|| v.read(VIRTUAL_PROCESSOR_ID))
}
