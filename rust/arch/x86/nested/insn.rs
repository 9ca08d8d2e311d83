// SPDX-License-Identifier: GPL-2.0

//! VMX instructions that L1 executes.

use crate::arch::x86::{
    cpu::Cpu,
    guest_mem::LinearError,
    nested::state::Nested,
    outcome::{
        Handled,
        Outcome,
        Stop, //
    },
};
use burrow_core::{
    addr::{
        Gpa,
        Gva,
        PAGE_SIZE, //
    },
    outcome::{
        Bug,
        Exception, //
    },
    x86::{
        msr::soft::Soft,
        nested::{
            save,
            state::{
                self,
                EntryInsn,
                Invept,
                Root,
                State,
                Stopped,
                Vmclear,
                Vmptrld,
                VmxInsn, //
            },
            sync,
            vmcs12::{
                ReadOnlyFields,
                Vmcs12,
                REGION_SIZE, //
            },
        },
        regs::Rflags,
        segment::Name,
        vmx::{
            exit::ExitReason,
            field::*,
            insn::{
                self,
                AddressMode,
                InsnInfo,
                Intent,
                OperandRegs,
                SegmentIndex,
                SegmentView,
                VmFail,
                VmInsnError, //
            },
        },
        walk::Kind, //
    },
};
use kernel::prelude::*;

/// Where the launch state is in a region; see [`Vmcs12`]'s layout.
const OFFSET_LAUNCH_STATE: u64 = 8;
/// The width of linear addresses.
const LINEAR_BITS: u8 = 48;

/// How an instruction ended that neither faulted nor went elsewhere.
type Ended = Result<(), VmFail>;

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

/// The registers that a memory operand is computed from.
struct Regs<'a, 'b>(&'a Cpu<'b>);

impl OperandRegs for Regs<'_, '_> {
    fn gpr(&self, index: u8) -> u64 {
        self.0.gpr(usize::from(index))
    }

    fn segment(&self, segment: SegmentIndex) -> SegmentView {
        let name = match segment {
            SegmentIndex::Es => Name::Es,
            SegmentIndex::Cs => Name::Cs,
            SegmentIndex::Ss => Name::Ss,
            SegmentIndex::Ds => Name::Ds,
            SegmentIndex::Fs => Name::Fs,
            SegmentIndex::Gs => Name::Gs,
        };
        let segment = self.0.segment(name);
        SegmentView {
            base: segment.base,
            limit: segment.limit,
            access_rights: segment.rights.0,
        }
    }
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
    fn root(&mut self) -> Result<Root, Stop> {
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

    fn insn_info(&self) -> InsnInfo {
        InsnInfo(self.vmcs().get(VMX_INSTRUCTION_INFO))
    }

    fn operand_address(&self, len: u64, intent: Intent) -> Result<Gva, Stop> {
        let mode = match (self.is_64bit_code(), self.cr0().pe()) {
            (true, _) => AddressMode::Long {
                linear_bits: LINEAR_BITS,
            },
            (false, true) => AddressMode::Protected,
            (false, false) => AddressMode::Real,
        };
        let displacement = self.qualification();
        let info = self.insn_info();
        Ok(insn::memory_operand(
            info,
            displacement,
            len,
            intent,
            mode,
            &Regs(self),
        )?)
    }

    /// Calls `f` with each piece of a linear access that lies within a page: its physical address,
    /// where it begins and its length.
    fn each_piece(
        &self,
        gva: Gva,
        len: usize,
        kind: Kind,
        mut f: impl FnMut(Gpa, usize, usize),
    ) -> Result<(), Stop> {
        let privilege = self.privilege();
        let mut done = 0;
        while done < len {
            let at = gva.wrapping_add(done as u64);
            // CAST: an offset in a page.
            let room = (PAGE_SIZE - at.page_offset()) as usize;
            let count = room.min(len - done);
            let gpa = match self.translate(at, kind, privilege) {
                Ok(translation) => translation.gpa,
                Err(LinearError::Fault(exception)) => return Err(Stop::Inject(exception)),
                Err(LinearError::Nested(_)) => {
                    return Err(Stop::Bug(Bug("L1 has no EPT below it")))
                }
            };
            f(gpa, done, count);
            done += count;
        }
        Ok(())
    }

    /// Reads a memory operand; what no memory backs reads as ones.
    fn read_operand(&self, out: &mut [u8]) -> Result<(), Stop> {
        let gva = self.operand_address(out.len() as u64, Intent::Read)?;
        let memory = &self.vcpu.vm.memory;
        self.each_piece(gva, out.len(), Kind::Read, |gpa, start, count| {
            let part = &mut out[start..start + count];
            if memory.read(gpa, part).is_err() {
                part.fill(0xff);
            }
        })
    }

    /// Writes a memory operand; to what no memory backs, to no effect.
    fn write_operand(&self, bytes: &[u8]) -> Result<(), Stop> {
        let gva = self.operand_address(bytes.len() as u64, Intent::Write)?;
        let memory = &self.vcpu.vm.memory;
        // All of it is translated before any of it is written.
        self.each_piece(gva, bytes.len(), Kind::Write, |_, _, _| {})?;
        self.each_piece(gva, bytes.len(), Kind::Write, |gpa, start, count| {
            let _ = memory.write(gpa, &bytes[start..start + count]);
        })
    }

    fn pointer_operand(&self) -> Result<Gpa, Stop> {
        let mut bytes = [0; 8];
        self.read_operand(&mut bytes)?;
        Ok(Gpa(u64::from_le_bytes(bytes)))
    }

    fn descriptor_operand(&self) -> Result<[u64; 2], Stop> {
        let mut bytes = [0; 16];
        self.read_operand(&mut bytes)?;
        let (low, high) = bytes.split_at(8);
        let word = |half: &[u8]| half.try_into().map_or(0, u64::from_le_bytes);
        Ok([word(low), word(high)])
    }

    /// Returns the first 32 bits of a region, `None` if no memory is there.
    pub(super) fn region_header(&self, region: Gpa) -> Option<u32> {
        let mut bytes = [0; 4];
        self.vcpu.vm.memory.read(region, &mut bytes).ok()?;
        Some(u32::from_le_bytes(bytes))
    }

    fn vmxon(&mut self) -> Result<Ended, Stop> {
        let region = self.pointer_operand()?;
        let env = self.static_env();
        let header = if region.is_aligned(PAGE_SIZE) {
            self.region_header(region)
        } else {
            None
        };
        self.make_vmcs02s()?;
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
        let region = self.pointer_operand()?;
        let env = self.static_env();
        let header = if region.is_aligned(PAGE_SIZE) {
            self.region_header(region)
        } else {
            None
        };
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
        }
        Ok(Ok(()))
    }

    /// Writes the current vmcs12 to its region, if there is one.
    fn store_current(&mut self) -> Result<(), Stop> {
        let current = self.root()?.current;
        self.store_vmcs12(current)
    }

    /// Writes vmcs12 to its region in L1's memory.
    fn store_vmcs12(&mut self, region: Option<Gpa>) -> Result<(), Stop> {
        let Some(region) = region else { return Ok(()) };
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
    fn load_vmcs12(&mut self, region: Gpa) -> Result<(), Stop> {
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

    fn vmptrst(&mut self) -> Result<Ended, Stop> {
        let value = state::vmptrst(&self.root()?);
        self.write_operand(&value.to_le_bytes())?;
        Ok(Ok(()))
    }

    /// Returns the VMCS that VMREAD and VMWRITE reach, and where a failure is recorded: the current one,
    /// or the shadow VMCS if L2 executes them.
    fn target_vmcs(&mut self) -> Result<Option<&mut Vmcs12>, Stop> {
        let nested = self.nested()?;
        Ok(match nested.state {
            State::NonRoot(_) => nested.shadow12.as_mut().map(|(_, shadow)| &mut **shadow),
            State::Root(root) => root.current.map(|_| &mut nested.vmcs12),
            State::VmxOff | State::Smm { .. } => None,
        })
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

    /// Returns the register that names the field, cut to the width of operands.
    fn field_operand(&self, info: InsnInfo) -> u64 {
        self.operand(usize::from(info.reg2()))
    }

    fn vmread(&mut self) -> Result<Ended, Stop> {
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

    fn vmwrite(&mut self) -> Result<Ended, Stop> {
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
        let writable = if nested.caps.misc.vmwrite_any() {
            ReadOnlyFields::Writable
        } else {
            ReadOnlyFields::Protected
        };
        let fields = nested.fields;
        let Some(target) = self.target_vmcs()? else {
            return Ok(Err(VmFail::Invalid));
        };
        let written = target.vmwrite(field, value, &fields, writable);
        Ok(written.map_err(VmFail::Valid))
    }

    fn fetch_if_lazy(&mut self, field: u64) -> Result<(), Stop> {
        let is_lazy = u32::try_from(field).is_ok_and(|field| sync::is_lazy(Encoding(field)));
        if is_lazy {
            self.fetch_lazy()?;
        }
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

    fn fail(&mut self, error: VmInsnError) -> Result<Ended, Stop> {
        Ok(Err(state::fail(&self.root()?, error)))
    }

    fn invept(&mut self) -> Result<Ended, Stop> {
        let kind = self.field_operand(self.insn_info());
        let env = self.static_env();
        let caps = self.nested()?.caps;
        if !state::is_invept_type(kind, &caps) {
            return self.fail(VmInsnError::InvalidInvalidationOperand);
        }
        let [eptp, _] = self.descriptor_operand()?;
        let what = match state::invept(kind, eptp, &caps, &env) {
            Ok(what) => what,
            Err(error) => return self.fail(error),
        };
        let memory = &self.vcpu.vm.memory;
        let Some(nested) = self.arch.nested.as_deref_mut() else {
            return Ok(Ok(()));
        };
        for (shadow, of) in nested.slots.iter().filter_map(|slot| slot.shadow) {
            // The flags of an EPTP are no part of what its mappings are tagged with.
            let is_meant = match what {
                Invept::All => true,
                Invept::Single { eptp } => (eptp ^ of) & !0xfff == 0,
            };
            if is_meant {
                memory.empty_shadow(shadow);
            }
        }
        Ok(Ok(()))
    }

    fn invvpid(&mut self) -> Result<Ended, Stop> {
        let kind = self.field_operand(self.insn_info());
        let caps = self.nested()?.caps;
        if !state::is_invvpid_type(kind, &caps) {
            return self.fail(VmInsnError::InvalidInvalidationOperand);
        }
        let descriptor = self.descriptor_operand()?;
        let what = match state::invvpid(kind, descriptor, LINEAR_BITS, &caps) {
            Ok(what) => what,
            Err(error) => return self.fail(error),
        };
        let Nested { pool, slots, .. } = self.nested()?;
        for (index, _) in pool.on_invvpid(what) {
            slots[index].vpid.request_flush();
        }
        Ok(Ok(()))
    }
}
