// SPDX-License-Identifier: GPL-2.0

//! `KVM_GET_NESTED_STATE` and `KVM_SET_NESTED_STATE`.

use crate::arch::x86::{
    cpu::Cpu,
    outcome::Stop, //
};
use burrow_core::x86::{
    cpuid::feature,
    nested::{
        check::EntryCause,
        save::{
            self,
            Header,
            Target,
            HEADER_SIZE,
            MAX_SIZE,
            OFFSET_SHADOW_VMCS12,
            OFFSET_VMCS12, //
        },
        state::{
            RunPending,
            State, //
        },
        sync,
        vmcs12::{
            Vmcs12,
            REGION_SIZE,
            REVISION, //
        },
    },
};
use kernel::prelude::*;

impl Cpu<'_> {
    /// Returns the largest state, in bytes: what `KVM_CAP_NESTED_STATE` answers.
    pub(crate) const NESTED_STATE_SIZE: usize = MAX_SIZE;

    /// Saves the nested state: the header and what follows it.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn save_nested(&mut self) -> Result<KVec<u8>> {
        let _ = self.bring_vmcs12_up_to_date();
        let mut blob = KVec::new();
        let Some(nested) = self.arch.nested.as_deref() else {
            let header = save::header(&State::VmxOff, None);
            blob.extend_from_slice(&header.to_bytes(), GFP_KERNEL)?;
            return Ok(blob);
        };
        let header = save::header(&nested.state, Some(&nested.vmcs12));
        // CAST: at most MAX_SIZE.
        blob.resize(header.size as usize, 0, GFP_KERNEL)?;
        blob[..HEADER_SIZE].copy_from_slice(&header.to_bytes());
        let region = blob.get_mut(OFFSET_VMCS12..OFFSET_VMCS12 + REGION_SIZE);
        if let Some(region) = region.and_then(|r| <&mut [u8; REGION_SIZE]>::try_from(r).ok()) {
            nested.vmcs12.store(region);
        }
        let region = blob.get_mut(OFFSET_SHADOW_VMCS12..MAX_SIZE);
        if let Some(region) = region.and_then(|r| <&mut [u8; REGION_SIZE]>::try_from(r).ok()) {
            if let Some((_, shadow)) = nested.shadow12.as_ref() {
                shadow.store(region);
            }
        }
        Ok(blob)
    }

    /// Takes the shadow VMCS from the blob: what L2 has written is not in L1's memory yet.
    fn restore_shadow12(&mut self, blob: &[u8]) -> Result {
        let nested = self.nested().map_err(errno)?;
        let Some((_, shadow)) = nested.shadow12.as_mut() else {
            return Ok(());
        };
        let region = blob.get(OFFSET_SHADOW_VMCS12..MAX_SIZE).ok_or(EINVAL)?;
        shadow.load(region.try_into().map_err(|_| EINVAL)?);
        if shadow.revision() != REVISION || !shadow.is_shadow() {
            return Err(EINVAL);
        }
        Ok(())
    }

    pub(super) fn bring_vmcs12_up_to_date(&mut self) -> Result<(), Stop> {
        if self.arch.nested.is_none() {
            return Ok(());
        }
        if !self.is_l2() {
            self.pull_shadow()?;
            return self.fetch_lazy();
        }
        let l2 = self.l2_values()?;
        let vmcs = self.vmcs();
        let nested = self.nested()?;
        sync::eager(&mut nested.vmcs12, &vmcs, &l2);
        sync::lazy(&mut nested.vmcs12, &vmcs);
        Ok(())
    }

    /// Restores a nested state.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a state that contradicts itself or the vCPU.
    pub(crate) fn restore_nested(&mut self, blob: &[u8]) -> Result {
        let header = blob
            .get(..HEADER_SIZE)
            .and_then(|h| h.try_into().ok())
            .ok_or(EINVAL)?;
        let header = Header::from_bytes(header);
        let target = Target {
            has_vmx: self.arch.nested.is_some() && self.arch.cpuid.caps.has(feature::VMX),
            phys_bits: self.arch.cpuid.limits.maxphyaddr,
            is_in_smm: self.is_smm(),
        };
        let saved = save::parse(&header, &target).map_err(|_| EINVAL)?;
        self.drop_l2();
        self.leave_vmx_operation();
        if self.arch.nested.is_none() || saved.state == State::VmxOff {
            return Ok(());
        }
        self.make_vmcs02s().map_err(errno)?;
        self.make_shadow().map_err(errno)?;
        let nested = self.nested().map_err(errno)?;
        if saved.has_vmcs12 {
            let region = blob
                .get(OFFSET_VMCS12..OFFSET_VMCS12 + REGION_SIZE)
                .ok_or(EINVAL)?;
            nested.vmcs12.load(region.try_into().map_err(|_| EINVAL)?);
            // A shadow VMCS can be current, but not entered.
            let is_shadow = nested.vmcs12.is_shadow() && saved.state.is_non_root();
            if nested.vmcs12.revision() != REVISION || is_shadow {
                nested.vmcs12 = Vmcs12::new();
                return Err(EINVAL);
            }
        }
        nested.state = match (saved.state, saved.state.root()) {
            (State::NonRoot(_), Some(root)) => State::Root(root),
            (other, _) => other,
        };
        let State::NonRoot(l2) = saved.state else {
            return self.renew_shadow().map_err(errno);
        };
        let cause = match l2.run_pending {
            RunPending::No => EntryCause::Restore,
            RunPending::Entry | RunPending::Restored => EntryCause::Fresh,
        };
        let entered = self.enter_l2(cause).map_err(errno);
        let restored = entered.and_then(|entered| {
            entered.map_err(|_| EINVAL)?;
            self.restore_shadow12(blob)
        });
        if let Err(error) = restored {
            self.drop_l2();
            self.leave_vmx_operation();
            return Err(error);
        }
        if let State::NonRoot(now) = &mut self.nested().map_err(errno)?.state {
            now.run_pending = l2.run_pending;
            now.mtf_pending |= l2.mtf_pending;
            if l2.timer_deadline.is_some() {
                now.timer_deadline = l2.timer_deadline;
            }
        }
        Ok(())
    }
}

fn errno(stop: Stop) -> Error {
    match stop {
        Stop::Fail(error) => error,
        Stop::Inject(_) | Stop::ToUser(_) | Stop::Ept12(_) | Stop::Bug(_) => EINVAL,
    }
}
