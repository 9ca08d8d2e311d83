// SPDX-License-Identifier: GPL-2.0

//! VMCS shadowing of the processor, for L1: what [`shadowed`] decides, carried out.
//!
//! The shadow VMCS belongs to vmcs01, and vmcs01 links it while vmcs12 is there and L1 runs. Then the
//! newest values of some fields are in it, and [`pull_shadow`](Cpu::pull_shadow) comes before all that
//! looks at vmcs12: a VM entry, another vmcs12, the saved state. An exit to L1 goes by the shadow VMCS,
//! from vmcs02 to vmcs01.

use crate::{
    arch::x86::{
        cpu::Cpu,
        nested::state::Nested,
        outcome::Stop, //
    },
    host::host, //
};
use burrow_core::{
    outcome::Bug,
    x86::{
        nested::{
            caps,
            shadowed::{
                self,
                Access,
                Bitmaps,
                Shadowed, //
            },
            state::{
                Root,
                State, //
            },
            vmcs12::FieldSet,
        },
        vmx::field::*, //
    },
};
use burrow_sys::x86::vmcs::{
    ControlPage,
    Vmcs, //
};
use kernel::prelude::*;

/// Which fields the processor lets L1 at, where it can.
pub(crate) struct Shadowing {
    fields: Shadowed,
    vmread: ControlPage,
    vmwrite: ControlPage,
}

impl Shadowing {
    /// Returns the decisions and the bitmaps that they are about.
    #[inline]
    fn parts(&mut self) -> (&mut Shadowed, Bitmaps<'_>) {
        let bitmaps = Bitmaps {
            vmread: self.vmread.words_mut(),
            vmwrite: self.vmwrite.words_mut(),
        };
        (&mut self.fields, bitmaps)
    }

    /// Notes a VMREAD or VMWRITE of L1 that exited, and that has been carried out.
    #[inline]
    pub(super) fn note_exit(&mut self, field: u64, access: Access) {
        let (fields, mut bitmaps) = self.parts();
        fields.note_exit(field, access, &mut bitmaps);
    }
}

impl Nested {
    /// Notes a VMREAD or VMWRITE of L1 that exited, and that has been carried out.
    #[inline]
    pub(super) fn note_access(&mut self, field: u64, access: Access) {
        if let Some(shadowing) = self.shadowing.as_mut() {
            shadowing.note_exit(field, access);
        }
    }
}

impl<'a> Cpu<'a> {
    /// Makes all that shadowing needs, if the processor has it, as L1 begins VMX operation: nothing is open.
    pub(super) fn make_shadow(&mut self) -> Result<(), Stop> {
        if !host().ctls.has_vmcs_shadowing() {
            return Ok(());
        }
        self.vmcs01.add_shadow(host().caps.basic.revision())?;
        if let Some(shadow) = self.vmcs01.shadow() {
            shadow.forget(&FieldSet::all());
        }
        let nested = self.nested()?;
        let fields = Shadowed::new(&nested.fields, &caps::field_set(&host().caps));
        match nested.shadowing.as_mut() {
            Some(shadowing) => shadowing.fields = fields,
            None => {
                let shadowing = Shadowing {
                    fields,
                    vmread: ControlPage::new()?,
                    vmwrite: ControlPage::new()?,
                };
                let shadowing = KBox::new(shadowing, GFP_KERNEL_ACCOUNT).map_err(Error::from)?;
                nested.shadowing = Some(shadowing);
            }
        }
        if let Some(shadowing) = nested.shadowing.as_mut() {
            shadowed::close_all(&mut shadowing.parts().1);
        }
        Ok(())
    }

    /// Brings into vmcs12 what L1, which runs, has written without an exit.
    pub(super) fn pull_shadow(&mut self) -> Result<(), Stop> {
        if !self.arch.ctls.proc2.vmcs_shadowing() || self.is_l2() {
            return Ok(());
        }
        self.pull_to(self.vmcs01);
        self.check_shadow()
    }

    /// The same, and makes the vmcs02 of slot `index` current.
    pub(super) fn switch_to_vmcs02_by_shadow(&mut self, index: usize) -> Result<(), Stop> {
        let vmcs02 = self.vmcs02.get(index).and_then(|slot| slot.as_ref());
        let vmcs02 = vmcs02.ok_or(Stop::Bug(Bug("no vmcs02")))?;
        if !self.arch.ctls.proc2.vmcs_shadowing() || !self.pull_to(vmcs02) {
            self.hw.switch_vmcs(vmcs02);
        }
        self.check_shadow()
    }

    /// Brings into vmcs12 what L1 has written without an exit, if it can, and makes `next` current then;
    /// returns whether it has.
    fn pull_to(&mut self, next: &'a Vmcs) -> bool {
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return false;
        };
        let vmcs12 = &mut nested.vmcs12;
        let shadowing = nested.shadowing.as_deref_mut();
        let Some(shadowing) = shadowing.filter(|s| s.fields.needs_pull()) else {
            return false;
        };
        self.hw
            .switch_vmcs_by_shadow(self.vmcs01, next, |mut shadow| {
                shadowing.fields.pull(vmcs12, &mut shadow);
            });
        true
    }

    /// Makes vmcs01 current, and what L1 reads of vmcs12 without an exit up to date.
    pub(super) fn switch_to_vmcs01(&mut self) -> Result<(), Stop> {
        let vmcs01 = self.vmcs01;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(());
        };
        let fields = nested.shadowing.as_deref_mut().and_then(|shadowing| {
            let (fields, mut bitmaps) = shadowing.parts();
            fields.begin_round(&mut bitmaps).then_some(&*fields)
        });
        let Some(fields) = fields else {
            self.hw.switch_vmcs(vmcs01);
            return Ok(());
        };
        let vmcs12 = &nested.vmcs12;
        self.hw.switch_vmcs_by_shadow(vmcs01, vmcs01, |mut shadow| {
            fields.push(vmcs12, &mut shadow);
        });
        self.check_shadow()
    }

    /// Brings the shadow VMCS up to date with a vmcs12 that was loaded, if L1 runs with one.
    pub(super) fn renew_shadow(&mut self) -> Result<(), Stop> {
        if let State::Root(Root {
            current: Some(_), ..
        }) = self.nested()?.state
        {
            self.switch_to_vmcs01()?;
            self.start_shadowing();
        }
        Ok(())
    }

    /// Lets L1, which runs with a current vmcs12, at what is open.
    pub(super) fn start_shadowing(&mut self) {
        if self.arch.ctls.proc2.vmcs_shadowing() {
            return;
        }
        let Some(shadow) = self.vmcs01.shadow() else {
            return;
        };
        let Some(shadowing) = self.arch.nested.as_ref().and_then(|n| n.shadowing.as_ref()) else {
            return;
        };
        let vmcs = self.vmcs();
        vmcs.set(VMREAD_BITMAP, shadowing.vmread.address());
        vmcs.set(VMWRITE_BITMAP, shadowing.vmwrite.address());
        vmcs.set(VMCS_LINK_POINTER, shadow.address());
        self.set_shadowing(true);
    }

    /// Makes every VMREAD and VMWRITE of L1, which runs, exit.
    pub(super) fn stop_shadowing(&mut self) {
        if self.arch.ctls.proc2.vmcs_shadowing() {
            self.vmcs().set(VMCS_LINK_POINTER, u64::MAX);
            self.set_shadowing(false);
        }
    }

    fn set_shadowing(&mut self, on: bool) {
        let proc2 = self.arch.ctls.proc2.with_vmcs_shadowing(on);
        self.arch.ctls.proc2 = proc2;
        self.vmcs().set(SECONDARY_VM_EXEC_CONTROL, proc2.0);
    }

    fn check_shadow(&self) -> Result<(), Stop> {
        match self.vmcs01.shadow() {
            Some(shadow) if shadow.has_failed() => {
                Err(Stop::Bug(Bug("the shadow VMCS has failed")))
            }
            _ => Ok(()),
        }
    }
}
