// SPDX-License-Identifier: GPL-2.0

//! Regions of VMCSs in L1's memory: the current vmcs12, and the shadow VMCS that L2 reaches.

use crate::arch::x86::{
    cpu::Cpu,
    outcome::Stop, //
};
use burrow_core::{
    addr::Gpa,
    x86::{
        nested::{
            save,
            vmcs12::{
                Vmcs12, //
                REGION_SIZE,
            }, //
        },
        vmx::field::*, //
    }, //
};
use kernel::prelude::*;

impl Cpu<'_> {
    /// Returns the first 32 bits of a region, `None` if no memory is there.
    pub(super) fn region_header(&self, region: Gpa) -> Option<u32> {
        let mut bytes = [0; 4];
        self.vcpu.vm.memory.read(region, &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    /// Writes the current vmcs12 to its region, if there is one.
    pub(super) fn store_current(&mut self) -> Result<(), Stop> {
        let current = self.root()?.current;
        self.store_vmcs12(current)
    }

    /// Writes vmcs12 to its region in L1's memory.
    pub(super) fn store_vmcs12(&mut self, region: Option<Gpa>) -> Result<(), Stop> {
        let Some(region) = region else { return Ok(()) };
        self.pull_shadow()?;
        self.fetch_lazy()?;
        let memory = &self.vcpu.vm.memory;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(());
        };
        if let Ok(bytes) = <&mut [u8; REGION_SIZE]>::try_from(&mut nested.scratch[..]) {
            bytes.fill(0);
            nested.vmcs12.store(bytes);
            let _ = memory.write(region, bytes);
        }
        Ok(())
    }

    /// Makes vmcs12 what its region in L1's memory holds.
    pub(super) fn load_vmcs12(&mut self, region: Gpa) -> Result<(), Stop> {
        let memory = &self.vcpu.vm.memory;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(());
        };
        if memory.read(region, &mut nested.scratch).is_err() {
            nested.scratch.fill(0xff);
        }
        if let Ok(bytes) = <&mut [u8; REGION_SIZE]>::try_from(&mut nested.scratch[..]) {
            nested.vmcs12.load(bytes);
        }
        Ok(())
    }

    /// Reads the shadow VMCS that vmcs12 links, before L2 runs.
    pub(super) fn load_shadow12(&mut self) -> Result<(), Stop> {
        let memory = &self.vcpu.vm.memory;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(());
        };
        nested.shadow12 = None;
        let link = Gpa(nested.vmcs12.read(VMCS_LINK_POINTER));
        if !save::needs_shadow_vmcs12(&nested.vmcs12)
            || memory.read(link, &mut nested.scratch).is_err()
        {
            return Ok(());
        }
        if let Ok(bytes) = <&[u8; REGION_SIZE]>::try_from(&nested.scratch[..]) {
            let mut shadow = KBox::new(Vmcs12::new(), GFP_KERNEL_ACCOUNT).map_err(Error::from)?;
            shadow.load(bytes);
            nested.shadow12 = Some((link, shadow));
        }
        Ok(())
    }

    /// Writes the shadow VMCS back to L1's memory, after L2 has run.
    pub(super) fn store_shadow12(&mut self) {
        let memory = &self.vcpu.vm.memory;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return;
        };
        let Some((link, shadow)) = nested.shadow12.take() else {
            return;
        };
        if let Ok(bytes) = <&mut [u8; REGION_SIZE]>::try_from(&mut nested.scratch[..]) {
            bytes.fill(0);
            shadow.store(bytes);
            let _ = memory.write(link, bytes);
        }
    }
}
