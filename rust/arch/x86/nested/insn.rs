// SPDX-License-Identifier: GPL-2.0

//! VMX instructions that L1 executes.

use crate::arch::x86::{
    cpu::Cpu,
    nested::state::Nested,
    outcome::{
        Handled,
        Outcome,
        Stop, //
    }, //
};
use burrow_core::{
    addr::{
        Gpa,
        PAGE_SIZE, //
    },
    outcome::{
        Bug,
        Exception, //
    },
    x86::{
        msr::soft::Soft,
        nested::state::{
            self,
            EntryInsn,
            Root,
            State,
            Stopped,
            Vmclear,
            Vmptrld,
            VmxInsn, //
        },
        regs::Rflags,
        vmx::{
            exit::ExitReason,
            field::*,
            insn::{
                self,
                VmFail, //
            }, //
        }, //
    }, //
};
use kernel::prelude::*;

/// Where the launch state is in a region; see [`Vmcs12`]'s layout.
const OFFSET_LAUNCH_STATE: u64 = 8;

/// How an instruction ended that neither faulted nor went elsewhere.
pub(super) type Ended = Result<(), VmFail>;

/// Carries out the VMX instruction that caused an exit for `reason`.
pub(crate) fn execute(cpu: &mut Cpu<'_>, reason: ExitReason) -> Handled {
    if cpu.arch.nested.is_none() {
        return Err(Stop::Inject(Exception::UD));
    }
    let kind = match reason {
        ExitReason::Vmxon => VmxInsn::Vmxon,
        ExitReason::Invept => VmxInsn::Invept,
        ExitReason::Invvpid => VmxInsn::Invvpid,
        _ => VmxInsn::Other,
    };
    match cpu.precheck(kind)? {
        Ok(()) => {}
        Err(fail) => return cpu.end_vmx_insn(Err(fail)),
    }
    let ended = match reason {
        ExitReason::Vmxon => cpu.vmxon()?,
        ExitReason::Vmxoff => cpu.vmxoff(),
        ExitReason::Vmclear => cpu.vmclear()?,
        ExitReason::Vmptrld => cpu.vmptrld()?,
        ExitReason::Vmptrst => cpu.vmptrst()?,
        ExitReason::Vmread => cpu.vmread()?,
        ExitReason::Vmwrite => cpu.vmwrite()?,
        ExitReason::Invept => cpu.invept()?,
        ExitReason::Invvpid => cpu.invvpid()?,
        ExitReason::Vmlaunch => return cpu.vm_entry(EntryInsn::Vmlaunch),
        ExitReason::Vmresume => return cpu.vm_entry(EntryInsn::Vmresume),
        _ => return Err(Stop::Inject(Exception::UD)),
    };
    cpu.end_vmx_insn(ended)
}

impl Cpu<'_> {
    /// Returns the state of VMX; a bug where guests cannot be hypervisors.
    pub(crate) fn nested(&mut self) -> Result<&mut Nested, Stop> {
        match self.arch.nested.as_deref_mut() {
            Some(nested) => Ok(nested),
            None => Err(Stop::Bug(Bug("nested VMX without its state"))),
        }
    }

    /// Returns the root operation that the checks before have found.
    pub(super) fn root(&mut self) -> Result<Root, Stop> {
        let root = self.nested()?.state.root();
        root.ok_or(Stop::Bug(Bug("a VMX instruction outside of VMX operation")))
    }

    fn set_root(&mut self, root: Root) -> Result<(), Stop> {
        self.nested()?.state = State::Root(root);
        Ok(())
    }

    fn precheck(&mut self, kind: VmxInsn) -> Result<Ended, Stop> {
        let regs = state::Cpu {
            cr0: self.cr0().0,
            cr4: self.cr4().0,
            rflags: self.rflags().0,
            efer: self.efer().0,
            is_cs_long: self.segment_rights(GUEST_CS_AR_BYTES).l(),
            cpl: self.cpl(),
            feature_control: self.arch.soft_msrs.get(Soft::FeatureControl),
        };
        let nested = self.nested()?;
        match state::precheck(kind, &nested.state, &regs, &nested.caps) {
            Ok(()) => Ok(Ok(())),
            Err(Stopped::Fail(fail)) => Ok(Err(fail)),
            Err(Stopped::Fault(exception)) => Err(Stop::Inject(exception)),
            Err(Stopped::ExitToL1) => Err(Stop::Bug(Bug("an exit of L2 that is L1's"))),
        }
    }

    /// Ends a VMX instruction: flags, the error number, and on to the next one.
    pub(super) fn end_vmx_insn(&mut self, ended: Ended) -> Handled {
        if let Err(fail) = ended {
            if let Some(target) = self.target_vmcs()? {
                target.record_failure(fail);
            }
        }
        let flags = insn::rflags_after(self.rflags().0, ended);
        self.set_rflags(Rflags(flags));
        Ok(Outcome::Skip)
    }

    /// Reads the operand that names a region, and the first word of that, if it can be one.
    fn region_operand(&mut self) -> Result<(Gpa, Option<u32>), Stop> {
        let region = self.pointer_operand()?;
        let is_aligned = region.is_aligned(PAGE_SIZE);
        let header = is_aligned.then(|| self.region_header(region)).flatten();
        Ok((region, header))
    }

    fn vmxon(&mut self) -> Result<Ended, Stop> {
        let (region, header) = self.region_operand()?;
        let env = self.static_env();
        self.make_vmcs02s()?;
        self.make_shadow()?;
        let state = match state::vmxon(region, header, &env) {
            Ok(state) => state,
            Err(fail) => return Ok(Err(fail)),
        };
        let nested = self.nested()?;
        nested.state = state;
        nested.pool.clear();
        nested.is_lazy = false;
        Ok(Ok(()))
    }

    fn vmxoff(&mut self) -> Ended {
        let _ = self.store_current();
        self.leave_vmx_operation();
        self.accept_blocked_init();
        Ok(())
    }

    /// Forgets VMX operation.
    pub(crate) fn leave_vmx_operation(&mut self) {
        self.stop_shadowing();
        if let Some(nested) = self.arch.nested.as_mut() {
            nested.state = State::VmxOff;
            nested.pool.clear();
            nested.is_lazy = false;
            for slot in &mut nested.slots {
                slot.merged = None;
                slot.pages = Default::default();
            }
        }
    }

    fn vmclear(&mut self) -> Result<Ended, Stop> {
        let region = self.pointer_operand()?;
        let env = self.static_env();
        let mut root = self.root()?;
        let was_current = root.current;
        let what = match state::vmclear(&mut root, region, &env) {
            Ok(what) => what,
            Err(fail) => return Ok(Err(fail)),
        };
        match what {
            Vmclear::Current => {
                self.nested()?.vmcs12.launch_state = Default::default();
                self.store_vmcs12(was_current)?;
                self.stop_shadowing();
                self.set_root(root)?;
            }
            Vmclear::Other => {
                let at = region.wrapping_add(OFFSET_LAUNCH_STATE);
                let _ = self.vcpu.vm.memory.write(at, &[0; 4]);
            }
        }
        let nested = self.nested()?;
        if let Some(index) = nested.pool.forget(region) {
            nested.slots[index].merged = None;
        }
        Ok(Ok(()))
    }

    fn vmptrld(&mut self) -> Result<Ended, Stop> {
        let (region, header) = self.region_operand()?;
        let env = self.static_env();
        let mut root = self.root()?;
        let nested = self.nested()?;
        let what = match state::vmptrld(&mut root, region, header, &nested.caps, &env) {
            Ok(what) => what,
            Err(fail) => return Ok(Err(fail)),
        };
        if let Vmptrld::Switched { old } = what {
            self.store_vmcs12(old)?;
            self.load_vmcs12(region)?;
            self.set_root(root)?;
            self.renew_shadow()?;
        }
        Ok(Ok(()))
    }

    fn vmptrst(&mut self) -> Result<Ended, Stop> {
        let value = state::vmptrst(&self.root()?);
        self.write_operand(&value.to_le_bytes())?;
        Ok(Ok(()))
    }
}
