// SPDX-License-Identifier: GPL-2.0

//! VMREAD and VMWRITE, of L1 and of an L2 that has a shadow VMCS.

use crate::arch::x86::{
    cpu::Cpu,
    nested::{
        insn::Ended,
        state::Nested, //
    },
    outcome::{
        Handled,
        Stop, //
    }, //
};
use burrow_core::{
    outcome::Exception,
    x86::{
        nested::{
            shadowed::Access,
            state::{
                Root,
                State, //
            },
            sync,
            vmcs12::{
                ReadOnlyFields,
                Vmcs12, //
            }, //
        },
        regs::Rflags,
        vmx::{
            exit::ExitReason,
            field::Encoding,
            insn::{
                self,
                VmFail, //
            }, //
        }, //
    }, //
};
use kernel::prelude::*;

impl Cpu<'_> {
    /// Returns the VMCS that VMREAD and VMWRITE reach, and where a failure is recorded: the current one,
    /// or the shadow VMCS if L2 executes them.
    pub(super) fn target_vmcs(&mut self) -> Result<Option<&mut Vmcs12>, Stop> {
        let nested = self.nested()?;
        Ok(match nested.state {
            State::NonRoot(_) => nested.shadow12.as_mut().map(|(_, shadow)| &mut **shadow),
            State::Root(root) => root.current.map(|_| &mut nested.vmcs12),
            State::VmxOff | State::Smm { .. } => None,
        })
    }

    /// Carries out a VMREAD or VMWRITE of L1 if that is short: in 64-bit mode and with a register
    /// operand, on a field that is there. Returns `false` for others; then nothing has happened.
    #[inline]
    pub(crate) fn quick_access(&mut self, reason: ExitReason) -> bool {
        let info = self.insn_info();
        if !info.is_register() || !self.is_64bit_code() || self.cpl() > 0 {
            return false;
        }
        let field = self.gpr(usize::from(info.reg2()));
        let at = usize::from(info.reg1());
        let written = self.gpr(at);
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return false;
        };
        let State::Root(Root {
            current: Some(_), ..
        }) = nested.state
        else {
            return false;
        };
        // CAST: what is wider than an encoding is no field, and fails below.
        if nested.is_lazy && sync::is_lazy(Encoding(field as u32)) {
            return false;
        }
        let done = if reason == ExitReason::Vmread {
            match nested.vmcs12.vmread(field, &nested.fields) {
                Ok(value) => {
                    nested.note_access(field, Access::Read);
                    self.set_gpr(at, value);
                    true
                }
                Err(_) => false,
            }
        } else {
            let writable = writable(nested);
            let fields = &nested.fields;
            let done = nested.vmcs12.vmwrite(field, written, fields, writable);
            if done.is_ok() {
                nested.note_access(field, Access::Write);
            }
            done.is_ok()
        };
        if done {
            let flags = insn::rflags_after(self.rflags().0, Ok(()));
            self.set_rflags(Rflags(flags));
        }
        done
    }

    /// VMREAD and VMWRITE of L2 that L1 lets through to the shadow VMCS.
    pub(super) fn shadow_access(&mut self, reason: ExitReason) -> Handled {
        if self.cpl() > 0 {
            return Err(Stop::Inject(Exception::GP0));
        }
        let ended = match reason {
            ExitReason::Vmread => self.vmread()?,
            _ => self.vmwrite()?,
        };
        self.end_vmx_insn(ended)
    }

    pub(super) fn vmread(&mut self) -> Result<Ended, Stop> {
        let info = self.insn_info();
        let field = self.field_operand(info);
        if self.target_vmcs()?.is_none() {
            return Ok(Err(VmFail::Invalid));
        }
        self.fetch_if_lazy(field)?;
        let fields = self.nested()?.fields;
        let Some(target) = self.target_vmcs()? else {
            return Ok(Err(VmFail::Invalid));
        };
        let value = match target.vmread(field, &fields) {
            Ok(value) => value,
            Err(error) => return Ok(Err(VmFail::Valid(error))),
        };
        self.note_access(field, Access::Read)?;
        let is_wide = self.is_64bit_code();
        if info.is_register() {
            let value = if is_wide { value } else { value & 0xffff_ffff };
            self.set_gpr(usize::from(info.reg1()), value);
        } else {
            let bytes = value.to_le_bytes();
            self.write_operand(if is_wide { &bytes } else { &bytes[..4] })?;
        }
        Ok(Ok(()))
    }

    pub(super) fn vmwrite(&mut self) -> Result<Ended, Stop> {
        let info = self.insn_info();
        let field = self.field_operand(info);
        if self.target_vmcs()?.is_none() {
            return Ok(Err(VmFail::Invalid));
        }
        let value = if info.is_register() {
            self.operand(usize::from(info.reg1()))
        } else {
            let mut bytes = [0; 8];
            let len = if self.is_64bit_code() { 8 } else { 4 };
            self.read_operand(&mut bytes[..len])?;
            u64::from_le_bytes(bytes)
        };
        self.fetch_if_lazy(field)?;
        let nested = self.nested()?;
        let writable = writable(nested);
        let fields = nested.fields;
        let Some(target) = self.target_vmcs()? else {
            return Ok(Err(VmFail::Invalid));
        };
        if let Err(error) = target.vmwrite(field, value, &fields, writable) {
            return Ok(Err(VmFail::Valid(error)));
        }
        self.note_access(field, Access::Write)?;
        Ok(Ok(()))
    }

    fn note_access(&mut self, field: u64, access: Access) -> Result<(), Stop> {
        if !self.is_l2() {
            self.nested()?.note_access(field, access);
        }
        Ok(())
    }

    fn fetch_if_lazy(&mut self, field: u64) -> Result<(), Stop> {
        let is_lazy = u32::try_from(field).is_ok_and(|field| sync::is_lazy(Encoding(field)));
        if is_lazy {
            self.fetch_lazy()?;
        }
        Ok(())
    }
}

/// Returns whether L1 may write read-only fields.
fn writable(nested: &Nested) -> ReadOnlyFields {
    if nested.caps.misc.vmwrite_any() {
        ReadOnlyFields::Writable
    } else {
        ReadOnlyFields::Protected
    }
}
