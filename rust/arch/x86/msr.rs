// SPDX-License-Identifier: GPL-2.0

//! MSRs: carrying out what core decided about an access.

use crate::{
    arch::x86::{
        cpu::Cpu,
        cpuid::PARAVIRT,
        options::Quirk,
        state::VcpuArch,
        vcpu::Vcpu, //
    },
    host::host,
};
use burrow_core::x86::{
    cpuid::{
        feature,
        guest::MsrContext, //
    },
    msr::{
        access::{
            self,
            Caps,
            Origin,
            Refused, //
        },
        filter::{
            self,
            Access,
            Fallback,
            Range, //
        },
        index,
        list::{
            self,
            Support, //
        },
        mce,
        Owner,
        UserReturn,
        VmcsMsr, //
    },
    msrbitmap::{
        self,
        MsrAccesses,
        OpenWords, //
    },
    regs::{
        write,
        Efer,
        LinearWidth, //
    },
    vmx::field::*, //
};
use burrow_sys::{
    context, params,
    x86::{
        insn,
        umsr::UserMsr, //
    },
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

/// `KVM_X86_SET_MSR_FILTER`'s table: which MSRs the guest may access.
pub(crate) struct Filter {
    /// What holds for an MSR in no range.
    pub(crate) fallback: Fallback,
    /// Ranges with their bitmaps.
    pub(crate) ranges: KVec<(Range, KVec<u8>)>,
}

/// Returns what the lists of MSRs depend on.
pub(crate) fn support() -> Support {
    let host = host();
    Support {
        tsc_aux: host.ctls.initial.proc2.rdtscp(),
        spec_ctrl: host.spec_ctrl != 0,
        smm: true,
        nested: params::nested(),
        paravirt: PARAVIRT,
        ..Support::default()
    }
}

/// IA32_ARCH_CAPABILITIES bits that hold for a guest as they do for the host: immunities.
/// RDCL_NO, IBRS_ALL, RSBA, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, and the later
/// "NO" bits.
const ARCH_CAPABILITIES: u64 = 0x1f | 1 << 5 | 1 << 6 | 1 << 8 | 0x17e << 12;

/// Returns the value of a feature MSR, for userspace.
pub(crate) fn feature(number: u32) -> Option<u64> {
    match number {
        index::IA32_ARCH_CAPABILITIES => Some(arch_capabilities()),
        index::IA32_BIOS_SIGN_ID => Some(insn::rdmsr(number).unwrap_or(0) & !0xffff_ffff),
        index::IA32_PERF_CAPABILITIES => Some(0),
        index::MSR_PLATFORM_INFO => Some(1 << 31),
        _ => None,
    }
}

/// Returns what guests get as IA32_ARCH_CAPABILITIES by default.
pub(crate) fn arch_capabilities() -> u64 {
    let has_msr = insn::cpuid(7, 0).edx & (1 << 29) != 0;
    if !has_msr {
        return 0;
    }
    insn::rdmsr(index::IA32_ARCH_CAPABILITIES).unwrap_or(0) & ARCH_CAPABILITIES
}

fn user_msr(register: UserReturn) -> Option<UserMsr> {
    match register {
        UserReturn::Star => Some(UserMsr::Star),
        UserReturn::Lstar => Some(UserMsr::Lstar),
        UserReturn::Cstar => Some(UserMsr::Cstar),
        UserReturn::Fmask => Some(UserMsr::Fmask),
        UserReturn::TscAux => Some(UserMsr::TscAux),
        UserReturn::TsxCtrl => None,
    }
}

fn vmcs_field(msr: VmcsMsr) -> Field<Natural> {
    match msr {
        VmcsMsr::FsBase => GUEST_FS_BASE,
        VmcsMsr::GsBase => GUEST_GS_BASE,
        VmcsMsr::SysenterEsp => GUEST_SYSENTER_ESP,
        VmcsMsr::SysenterEip | VmcsMsr::SysenterCs | VmcsMsr::Debugctl | VmcsMsr::Pat => {
            GUEST_SYSENTER_EIP
        }
    }
}

/// Returns whether `access` to an MSR that is not there goes for done: the parameter `ignore_msrs`.
#[cold]
fn ignores(number: u32, access: &str) -> bool {
    /// How many accesses the log tells of, so that no guest fills it.
    const REPORTS: u32 = 100;
    static REPORTED: Atomic<u32> = Atomic::new(0);
    let ignores = params::ignore_msrs();
    if ignores && params::report_ignored_msrs() && REPORTED.load(Relaxed) < REPORTS {
        REPORTED.fetch_add(1, Relaxed);
        pr_info!("ignored {access}: {number:#x}\n");
    }
    ignores
}

/// Returns what CPUID and options of the VM make of the MSRs. They are found once while the vCPU is
/// loaded.
#[inline]
fn msr_caps<'a>(found: &'a mut Option<Caps>, vcpu: &Vcpu, arch: &VcpuArch) -> &'a Caps {
    found.get_or_insert_with(|| find_msr_caps(vcpu, arch))
}

#[cold]
fn find_msr_caps(vcpu: &Vcpu, arch: &VcpuArch) -> Caps {
    let options = &vcpu.vm.options;
    arch.cpuid.caps.msr_caps(&MsrContext {
        spec_ctrl_hardware: host().spec_ctrl,
        perf_capabilities: 0,
        tsx_ctrl: false,
        mwait_followed: !options.has_quirk(Quirk::MiscEnableNoMwait),
        lmce: arch.mce.capabilities() & mce::capability::LMCE_P != 0,
        smm: true,
        platform_info: options.platform_info.load(Relaxed),
        paravirt: arch.cpuid.paravirt,
        linear_width: LinearWidth::Bits48,
    })
}

impl Cpu<'_> {
    /// Reads an MSR.
    ///
    /// # Errors
    ///
    /// As core decides: #GP(0) for the guest, or an exit to a VMM that asked for it.
    #[inline]
    pub(crate) fn read_msr(&mut self, number: u32, origin: Origin) -> Result<u64, Refused> {
        match self.read_known_msr(number, origin) {
            Err(Refused::Unknown) if ignores(number, "rdmsr") => Ok(0),
            result => result,
        }
    }

    fn read_known_msr(&mut self, number: u32, origin: Origin) -> Result<u64, Refused> {
        let caps = msr_caps(&mut self.msr_caps, self.vcpu, self.arch);
        match access::check_read(number, origin, caps)? {
            Owner::Efer => Ok(self.efer().0),
            Owner::Vmcs(msr) => Ok(self.read_vmcs_msr(msr)),
            Owner::KernelGsBase => Ok(self.hw.kernel_gs_base()),
            Owner::UserReturn(register) => user_msr(register)
                .map(|msr| self.hw.user_msr(msr))
                .ok_or(Refused::Unknown),
            Owner::SpecCtrl => Ok(self.hw.spec_ctrl()),
            Owner::Xss => Ok(self.arch.extended.xss),
            Owner::Tsc => Ok(self.guest_tsc()),
            Owner::TscAdjust => Ok(self.arch.tsc.counter.adjust),
            Owner::TscDeadline => Ok(self.tsc_deadline()),
            Owner::ApicBase => Ok(self.apic_base()),
            Owner::X2apic(register) => self.read_x2apic(register),
            Owner::Mtrr(register) => Ok(self.arch.mtrrs.get(register)),
            Owner::Mce(register) => self
                .arch
                .mce
                .read(register, origin)
                .map_err(|_| Refused::Invalid),
            Owner::Soft(register) => Ok(self.arch.soft_msrs.get(register)),
            Owner::Constant(value) => Ok(value),
            Owner::Paravirt(msr) => self.read_paravirt(msr).ok_or(Refused::Unknown),
            Owner::VmxCapability => self.read_vmx_cap(number),
            Owner::Pmu => Err(Refused::Unknown),
            Owner::Command => Err(Refused::Invalid),
        }
    }

    fn read_vmcs_msr(&self, msr: VmcsMsr) -> u64 {
        let vmcs = self.vmcs();
        match msr {
            VmcsMsr::SysenterCs => u64::from(vmcs.get(GUEST_SYSENTER_CS)),
            VmcsMsr::Debugctl => vmcs.get(GUEST_IA32_DEBUGCTL),
            VmcsMsr::Pat => self.pat(),
            _ => vmcs.get(vmcs_field(msr)),
        }
    }

    /// Writes an MSR.
    ///
    /// # Errors
    ///
    /// As for [`read_msr`](Self::read_msr).
    #[inline]
    pub(crate) fn write_msr(
        &mut self,
        number: u32,
        value: u64,
        origin: Origin,
    ) -> Result<(), Refused> {
        match self.write_known_msr(number, value, origin) {
            Err(Refused::Unknown) if ignores(number, "wrmsr") => Ok(()),
            result => result,
        }
    }

    fn write_known_msr(&mut self, number: u32, value: u64, origin: Origin) -> Result<(), Refused> {
        let caps = msr_caps(&mut self.msr_caps, self.vcpu, self.arch);
        let write = access::check_write(number, value, origin, caps, &self.arch.soft_msrs)?;
        let value = write.value;
        match write.owner {
            Owner::Efer => self.write_efer(value, origin)?,
            Owner::Vmcs(msr) => self.write_vmcs_msr(msr, value),
            Owner::KernelGsBase => self.hw.set_kernel_gs_base(value),
            Owner::UserReturn(register) => {
                let msr = user_msr(register).ok_or(Refused::Unknown)?;
                self.hw.set_user_msr(msr, value);
            }
            Owner::SpecCtrl => self.write_spec_ctrl(value),
            Owner::Command => self.command(number),
            Owner::Xss => self.arch.extended.xss = value,
            Owner::Tsc => self.write_tsc(value, origin),
            Owner::TscAdjust => self.write_tsc_adjust(value, origin),
            Owner::TscDeadline => self.write_tsc_deadline(value),
            Owner::ApicBase => self.write_apic_base(value, origin)?,
            Owner::X2apic(register) => self.write_x2apic(register, value)?,
            Owner::Mtrr(register) => self.arch.mtrrs.set(register, value),
            Owner::Mce(register) => self
                .arch
                .mce
                .write(register, value, origin)
                .map_err(|_| Refused::Invalid)?,
            Owner::Soft(register) => self.arch.soft_msrs.set(register, value),
            Owner::Constant(_) => {}
            Owner::Paravirt(msr) => {
                if !self.write_paravirt(msr, value) {
                    return Err(Refused::Unknown);
                }
            }
            Owner::VmxCapability => self.write_vmx_cap(number, value)?,
            Owner::Pmu => return Err(Refused::Unknown),
        }
        if write.cpuid_changed {
            self.cpuid_follows_registers();
        }
        Ok(())
    }

    fn write_efer(&mut self, value: u64, origin: Origin) -> Result<(), Refused> {
        if origin == Origin::Host {
            // A VMM may not know the order: it sets CR0 and LMA with KVM_SET_SREGS.
            let limits = &self.arch.cpuid.limits;
            if value & limits.efer_reserved & !Efer::LMA != 0 {
                return Err(Refused::Invalid);
            }
            let lma = self.efer().lma();
            self.store_efer(Efer(value).with_lma(lma));
            return Ok(());
        }
        let state = self.control_state();
        let write = write::wrmsr_efer(&state, &self.arch.cpuid.limits, value)
            .map_err(|_| Refused::Invalid)?;
        self.store_efer(Efer(write.value));
        Ok(())
    }

    /// Returns IA32_PAT.
    pub(crate) fn pat(&self) -> u64 {
        if self.arch.ctls.entry.load_pat() {
            self.vmcs().get(GUEST_IA32_PAT)
        } else {
            self.arch.pat
        }
    }

    /// Sets IA32_PAT, a legal value.
    pub(crate) fn set_pat(&mut self, value: u64) {
        self.write_vmcs_msr(VmcsMsr::Pat, value);
    }

    fn write_vmcs_msr(&mut self, msr: VmcsMsr, value: u64) {
        self.note_l2_msr(msr, value);
        let vmcs = self.vmcs();
        match msr {
            // CAST: core cut it to 32 bits.
            VmcsMsr::SysenterCs => vmcs.set(GUEST_SYSENTER_CS, value as u32),
            VmcsMsr::Debugctl => vmcs.set(GUEST_IA32_DEBUGCTL, value),
            VmcsMsr::Pat => {
                self.arch.pat = value;
                if self.arch.ctls.entry.load_pat() {
                    vmcs.set(GUEST_IA32_PAT, value);
                }
            }
            _ => vmcs.set(vmcs_field(msr), value),
        }
    }

    /// A guest that writes IA32_SPEC_CTRL once will do so often: it gets the MSR from then on.
    fn write_spec_ctrl(&mut self, value: u64) {
        self.hw.set_spec_ctrl(value);
        if value != 0 && !self.arch.spec_ctrl_open {
            self.arch.spec_ctrl_open = true;
            self.refresh_msr_bitmap();
        }
    }

    /// IA32_PRED_CMD and IA32_FLUSH_CMD act on the CPU at once.
    fn command(&mut self, number: u32) {
        match number {
            index::IA32_PRED_CMD => burrow_sys::x86::cpu::barrier_indirect_branches(),
            _ => burrow_sys::x86::cpu::flush_l1d(),
        }
    }

    /// Reads an MSR for userspace: a listed one that the guest does not have reads as 0.
    ///
    /// # Errors
    ///
    /// `EINVAL` when there is no such MSR.
    pub(crate) fn read_msr_for_host(&mut self, number: u32) -> Result<u64> {
        match self.read_msr(number, Origin::Host) {
            Ok(value) => Ok(value),
            Err(Refused::Unknown) if list::is_listed(&support(), number) => Ok(0),
            Err(_) => Err(EINVAL),
        }
    }

    /// Writes an MSR for userspace.
    ///
    /// # Errors
    ///
    /// `EINVAL` when there is no such MSR or the value is illegal.
    pub(crate) fn write_msr_for_host(&mut self, number: u32, value: u64) -> Result {
        match self.write_msr(number, value, Origin::Host) {
            Ok(()) => Ok(()),
            Err(Refused::Unknown) if value == 0 && list::is_listed(&support(), number) => Ok(()),
            Err(_) => Err(EINVAL),
        }
    }

    /// Returns whether the VM has a filter of MSRs.
    #[inline]
    pub(crate) fn has_msr_filter(&self) -> bool {
        context::peek(&self.vcpu.vm.options.has_msr_filter)
    }

    /// Returns whether the VM's filter lets the guest access an MSR.
    pub(crate) fn msr_filter_allows(&self, number: u32, access: Access) -> bool {
        if !self.has_msr_filter() {
            return true;
        }
        let guard = self.vcpu.vm.msr_filter.lock();
        let Some(filter) = guard.as_ref() else {
            return true;
        };
        let ranges = filter
            .ranges
            .iter()
            .map(|(range, bitmap)| (range, &bitmap[..]));
        filter::allows(filter.fallback, ranges, number, access)
    }

    /// Writes the MSR bitmap anew: open is what the processor switches, or the guest alone uses, as
    /// far as CPUID and the filter allow.
    pub(crate) fn refresh_msr_bitmap(&mut self) {
        const OPEN: [u32; 6] = [
            index::IA32_FS_BASE,
            index::IA32_GS_BASE,
            index::IA32_KERNEL_GS_BASE,
            index::IA32_SYSENTER_CS,
            index::IA32_SYSENTER_ESP,
            index::IA32_SYSENTER_EIP,
        ];
        *self.arch.msr_bitmap.words_mut() = [u64::MAX; 512];
        for number in OPEN {
            self.open_msr(number, MsrAccesses::ReadWrite);
        }
        self.open_msr(index::IA32_TSC, MsrAccesses::Read);
        if self.arch.spec_ctrl_open {
            self.open_msr(index::IA32_SPEC_CTRL, MsrAccesses::ReadWrite);
        }
        if self.arch.cpuid.caps.has(feature::SPEC_CTRL) {
            self.open_msr(index::IA32_PRED_CMD, MsrAccesses::Write);
        }
        self.arch.msrs_open = OpenWords::of(self.arch.msr_bitmap.words());
        if let Some(nested) = self.arch.nested.as_deref_mut() {
            nested.forget_bitmap_merges();
        }
    }

    fn open_msr(&mut self, number: u32, accesses: MsrAccesses) {
        let reads = self.msr_filter_allows(number, Access::Read);
        let writes = self.msr_filter_allows(number, Access::Write);
        let page = self.arch.msr_bitmap.words_mut();
        if reads && accesses != MsrAccesses::Write {
            msrbitmap::pass_through(page, number, MsrAccesses::Read);
        }
        if writes && accesses != MsrAccesses::Read {
            msrbitmap::pass_through(page, number, MsrAccesses::Write);
        }
    }
}
