// SPDX-License-Identifier: GPL-2.0

//! What checks of a VM entry need to know of L1 besides vmcs12.

use crate::arch::x86::{
    cpu::Cpu,
    outcome::Stop, //
};
use burrow_core::{
    addr::Gpa,
    x86::{
        cpuid::feature,
        nested::{
            check::Env,
            merge,
            vmcs12::{
                Groups,
                Vmcs12, //
            }, //
        },
        regs::{
            write,
            Cr0,
            Cr4,
            Efer, //
        },
        vmx::field::*, //
    }, //
};
use kernel::prelude::*;

/// VTPR in the virtual-APIC page.
const OFFSET_VTPR: u64 = 0x80;

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

    pub(super) fn env(&mut self) -> Result<Env, Stop> {
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
}

/// Returns whether L2 is to have PAE paging.
fn has_pae_paging(v: &Vmcs12) -> bool {
    let entry = burrow_core::x86::vmx::ctls::EntryCtls(v.read(VM_ENTRY_CONTROLS));
    let efer = Efer(0).with_lma(entry.ia32e());
    write::is_pae_paging(Cr0(v.read(GUEST_CR0)), Cr4(v.read(GUEST_CR4)), efer)
}
