// SPDX-License-Identifier: GPL-2.0

//! Legality of RDMSR, WRMSR, `KVM_GET_MSRS` and `KVM_SET_MSRS`.
//!
//! The checks here are those that hang on the number, the value and guest CPUID alone. EFER, the
//! local APIC, VMX capabilities, performance monitoring and the machine-check banks have rules of
//! their own, which their owners apply.

use crate::x86::msr;
use crate::x86::msr::mtrr;
use crate::x86::msr::soft;
use crate::x86::msr::soft::misc_enable;
use crate::x86::msr::soft::Soft;
use crate::x86::msr::Owner;
use crate::x86::msr::Paravirt;
use crate::x86::msr::UserReturn;
use crate::x86::msr::VmcsMsr;
use crate::x86::regs;
use crate::x86::regs::LinearWidth;

/// Who accesses an MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The guest.
    Guest,
    /// The VMM, which may do more: it restores state.
    Host,
}

/// Why an access is refused: #GP(0) to the guest, or an exit to a VMM that asked for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// There is no such MSR, or guest CPUID hides it (`KVM_MSR_EXIT_REASON_UNKNOWN`).
    Unknown,
    /// The value, or the direction, is illegal (`KVM_MSR_EXIT_REASON_INVAL`).
    Invalid,
}

/// What guest CPUID and other state make of the MSRs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caps {
    /// RDTSCP or RDPID: IA32_TSC_AUX.
    pub tsc_aux: bool,
    /// The bits of IA32_SPEC_CTRL that the guest may set; 0 hides the MSR.
    pub spec_ctrl: u64,
    /// The bits of IA32_SPEC_CTRL that the processor has: what a VMM may set.
    pub spec_ctrl_hardware: u64,
    /// IA32_PRED_CMD.IBPB.
    pub ibpb: bool,
    /// IA32_FLUSH_CMD.
    pub flush_l1d: bool,
    /// IA32_ARCH_CAPABILITIES.
    pub arch_capabilities: bool,
    /// The bits of IA32_PERF_CAPABILITIES that the module supports; `None` where guest CPUID has no
    /// PDCM.
    pub perf_capabilities: Option<u64>,
    /// IA32_TSX_CTRL.
    pub tsx_ctrl: bool,
    /// IA32_TSC_ADJUST.
    pub tsc_adjust: bool,
    /// IA32_UMWAIT_CONTROL.
    pub waitpkg: bool,
    /// The bits of IA32_XSS that may be set; `None` where guest CPUID has no XSAVES.
    pub xss: Option<u64>,
    /// IA32_MISC_ENABLE.MWAIT may change, and CPUID follows it (the quirk
    /// `KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT` is off, and the guest has SSE3).
    pub mwait: MwaitControl,
    /// VMX: IA32_FEATURE_CONTROL's bits, and the capability MSRs.
    pub vmx: bool,
    /// IA32_MCG_CAP.LMCE_P.
    pub lmce: bool,
    /// IA32_DEBUGCTL: bus-lock detection.
    pub bus_lock_detect: bool,
    /// IA32_DEBUGCTL: RTM debugging.
    pub rtm: bool,
    /// System-management mode is emulated.
    pub smm: bool,
    /// The guest may read MSR_PLATFORM_INFO (`KVM_CAP_MSR_PLATFORM_INFO`).
    pub platform_info: bool,
    /// The feature bits of the paravirtual interface: CPUID.40000001H:EAX of the guest.
    pub paravirt: u32,
    /// The width of guest-physical addresses in bits.
    pub maxphyaddr: u8,
    /// The width of linear addresses that a VM entry takes: that of the host.
    pub linear_width: LinearWidth,
}

/// What a change of IA32_MISC_ENABLE.MWAIT does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MwaitControl {
    /// The bit is kept, CPUID does not follow it.
    #[default]
    Inert,
    /// The bit is kept, and CPUID.01H:ECX.MONITOR follows it.
    Followed,
    /// The bit cannot change.
    Fixed,
}

/// A legal write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write {
    /// Who takes the value.
    pub owner: Owner,
    /// The value as it is kept.
    pub value: u64,
    /// CPUID must be computed again.
    pub cpuid_changed: bool,
}

/// Bits of IA32_FEATURE_CONTROL.
mod feature_control {
    pub(super) const LOCKED: u64 = 1 << 0;
    pub(super) const VMX_OUTSIDE_SMX: u64 = 1 << 2;
    pub(super) const LMCE: u64 = 1 << 20;
    /// All that exist: besides, VMX inside SMX, SGX launch control, SGX.
    pub(super) const ALL: u64 = LOCKED | (1 << 1) | VMX_OUTSIDE_SMX | (1 << 17) | (1 << 18) | LMCE;
}

/// Bits of IA32_DEBUGCTL.
mod debugctl {
    /// LBR and BTF: accepted and dropped, as guests set them without need.
    pub(super) const DROPPED: u64 = 3;
    pub(super) const BUS_LOCK_DETECT: u64 = 1 << 2;
    pub(super) const RTM: u64 = 1 << 15;
}

/// Bits of the paravirtual feature leaf, CPUID.40000001H:EAX, that MSRs depend on.
pub mod paravirt_feature {
    /// `KVM_FEATURE_CLOCKSOURCE`: the clock MSRs under their old numbers.
    pub const CLOCKSOURCE: u32 = 1 << 0;
    /// `KVM_FEATURE_CLOCKSOURCE2`: the clock MSRs.
    pub const CLOCKSOURCE2: u32 = 1 << 3;
    /// `KVM_FEATURE_ASYNC_PF`.
    pub const ASYNC_PF: u32 = 1 << 4;
    /// `KVM_FEATURE_STEAL_TIME`.
    pub const STEAL_TIME: u32 = 1 << 5;
    /// `KVM_FEATURE_PV_EOI`.
    pub const PV_EOI: u32 = 1 << 6;
    /// `KVM_FEATURE_POLL_CONTROL`.
    pub const POLL_CONTROL: u32 = 1 << 12;
    /// `KVM_FEATURE_ASYNC_PF_INT`.
    pub const ASYNC_PF_INT: u32 = 1 << 14;
}

/// Returns the feature bit that MSR `number` of the paravirtual interface depends on.
const fn paravirt_bit(number: u32, register: Paravirt) -> u32 {
    match register {
        Paravirt::WallClock | Paravirt::SystemTime => {
            if number < msr::index::MSR_KVM_WALL_CLOCK_NEW {
                paravirt_feature::CLOCKSOURCE
            } else {
                paravirt_feature::CLOCKSOURCE2
            }
        }
        Paravirt::AsyncPfEnable => paravirt_feature::ASYNC_PF,
        Paravirt::StealTime => paravirt_feature::STEAL_TIME,
        Paravirt::PvEoi => paravirt_feature::PV_EOI,
        Paravirt::PollControl => paravirt_feature::POLL_CONTROL,
        Paravirt::AsyncPfInterrupt | Paravirt::AsyncPfAck => paravirt_feature::ASYNC_PF_INT,
    }
}

/// Finds the owner of MSR `number`, if this vCPU has it.
///
/// # Errors
///
/// [`Refused::Unknown`] for an MSR that does not exist or that guest CPUID hides. For a VMM, a
/// listed one of those reads as 0 and takes 0 ([`crate::x86::msr::list::is_listed`]).
pub fn find(number: u32, origin: Origin, caps: &Caps) -> Result<Owner, Refused> {
    let owner = msr::owner(number).ok_or(Refused::Unknown)?;
    let is_host = origin == Origin::Host;
    let exists = match owner {
        Owner::UserReturn(UserReturn::TscAux) => is_host || caps.tsc_aux,
        Owner::UserReturn(UserReturn::TsxCtrl) => is_host || caps.tsx_ctrl,
        Owner::SpecCtrl => caps.spec_ctrl != 0 || (is_host && caps.spec_ctrl_hardware != 0),
        Owner::Command if number == msr::index::IA32_PRED_CMD => caps.ibpb,
        Owner::Command => caps.flush_l1d,
        Owner::Xss => caps.xss.is_some(),
        Owner::VmxCapability => caps.vmx,
        Owner::Paravirt(register) => caps.paravirt & paravirt_bit(number, register) != 0,
        Owner::Soft(register) => soft_exists(register, is_host, caps),
        Owner::Efer
        | Owner::Vmcs(_)
        | Owner::KernelGsBase
        | Owner::UserReturn(_)
        | Owner::Tsc
        | Owner::TscAdjust
        | Owner::TscDeadline
        | Owner::ApicBase
        | Owner::X2apic(_)
        | Owner::Mtrr(_)
        | Owner::Mce(_)
        | Owner::Pmu
        | Owner::Constant(_) => true,
    };
    if exists {
        Ok(owner)
    } else {
        Err(Refused::Unknown)
    }
}

fn soft_exists(register: Soft, is_host: bool, caps: &Caps) -> bool {
    match register {
        Soft::ArchCapabilities => caps.arch_capabilities,
        Soft::PerfCapabilities => caps.perf_capabilities.is_some(),
        Soft::UmwaitControl => is_host || caps.waitpkg,
        Soft::Smbase => is_host && caps.smm,
        Soft::McgExtCtl => is_host || caps.lmce,
        Soft::PlatformInfo => is_host || caps.platform_info,
        Soft::SmiCount
        | Soft::FeatureControl
        | Soft::BiosSignId
        | Soft::MiscFeaturesEnables
        | Soft::MiscEnable
        | Soft::PowerCtl
        | Soft::Hwcr => true,
    }
}

/// Decides a read of MSR `number`: who has the value.
///
/// # Errors
///
/// As [`find`]; [`Refused::Invalid`] for a command, which cannot be read.
pub fn check_read(number: u32, origin: Origin, caps: &Caps) -> Result<Owner, Refused> {
    let owner = find(number, origin, caps)?;
    if owner == Owner::Command {
        Err(Refused::Invalid)
    } else {
        Ok(owner)
    }
}

/// Decides a write of `value` to MSR `number`; `old` is the vCPU's software MSRs.
///
/// # Errors
///
/// As [`find`]; [`Refused::Invalid`] for a value that the MSR does not take.
pub fn check_write(
    number: u32,
    value: u64,
    origin: Origin,
    caps: &Caps,
    old: &soft::SoftMsrs,
) -> Result<Write, Refused> {
    let owner = find(number, origin, caps)?;
    let value = match owner {
        Owner::Vmcs(field) => vmcs_value(field, value, origin, caps),
        Owner::UserReturn(register) => user_return_value(register, value, caps),
        Owner::KernelGsBase => canonical(value, caps),
        Owner::SpecCtrl => {
            let allowed = match origin {
                Origin::Guest => caps.spec_ctrl,
                Origin::Host => caps.spec_ctrl_hardware,
            };
            within(value, allowed)
        }
        Owner::Command => within(value, 1),
        Owner::Xss => within(value, caps.xss.unwrap_or(0)),
        Owner::Mtrr(register) => register.admits(value, caps.maxphyaddr).then_some(value),
        Owner::VmxCapability => (origin == Origin::Host).then_some(value),
        Owner::Paravirt(register) => paravirt_value(register, value),
        Owner::Soft(register) => return soft_write(register, value, origin, caps, old),
        Owner::TscAdjust => (caps.tsc_adjust || origin == Origin::Host).then_some(value),
        Owner::Constant(_)
        | Owner::Efer
        | Owner::Tsc
        | Owner::TscDeadline
        | Owner::ApicBase
        | Owner::X2apic(_)
        | Owner::Mce(_)
        | Owner::Pmu => Some(value),
    };
    let value = value.ok_or(Refused::Invalid)?;
    Ok(Write {
        owner,
        value,
        cpuid_changed: owner == Owner::Xss,
    })
}

/// Returns `value` if it has no bit outside of `allowed`.
fn within(value: u64, allowed: u64) -> Option<u64> {
    (value & !allowed == 0).then_some(value)
}

fn canonical(value: u64, caps: &Caps) -> Option<u64> {
    regs::is_canonical(value, caps.linear_width).then_some(value)
}

fn vmcs_value(field: VmcsMsr, value: u64, origin: Origin, caps: &Caps) -> Option<u64> {
    match field {
        VmcsMsr::FsBase | VmcsMsr::GsBase => canonical(value, caps),
        VmcsMsr::SysenterCs => Some(value & 0xffff_ffff),
        VmcsMsr::SysenterEsp | VmcsMsr::SysenterEip => match origin {
            Origin::Guest => canonical(value, caps),
            // VMMs restore what other processors took; a VM entry demands canonical ones.
            Origin::Host => Some(regs::sign_extended(value, caps.linear_width)),
        },
        VmcsMsr::Pat => mtrr::is_valid_pat(value).then_some(value),
        VmcsMsr::Debugctl => {
            let bus_lock = if caps.bus_lock_detect {
                debugctl::BUS_LOCK_DETECT
            } else {
                0
            };
            let rtm = if caps.rtm { debugctl::RTM } else { 0 };
            within(value & !debugctl::DROPPED, bus_lock | rtm)
        }
    }
}

fn user_return_value(register: UserReturn, value: u64, caps: &Caps) -> Option<u64> {
    match register {
        UserReturn::Star => Some(value),
        UserReturn::Lstar | UserReturn::Cstar => canonical(value, caps),
        UserReturn::Fmask | UserReturn::TscAux => within(value, 0xffff_ffff),
        // RTM_DISABLE and TSX_CPUID_CLEAR.
        UserReturn::TsxCtrl => within(value, 3),
    }
}

/// The structures behind the addresses are the owner's to check.
fn paravirt_value(register: Paravirt, value: u64) -> Option<u64> {
    match register {
        Paravirt::WallClock | Paravirt::SystemTime | Paravirt::AsyncPfAck => Some(value),
        // A 64-byte aligned address; bits: enabled, in CPL 0 too, as VM exits, by interrupt.
        Paravirt::AsyncPfEnable => within(value, !0x30),
        // A 64-byte aligned address; bit: enabled.
        Paravirt::StealTime => within(value, !0x3e),
        // A 4-byte aligned address; bit: enabled.
        Paravirt::PvEoi => within(value, !2),
        Paravirt::PollControl => within(value, 1),
        Paravirt::AsyncPfInterrupt => within(value, 0xff),
    }
}

fn soft_write(
    register: Soft,
    value: u64,
    origin: Origin,
    caps: &Caps,
    old: &soft::SoftMsrs,
) -> Result<Write, Refused> {
    let is_host = origin == Origin::Host;
    let owner = Owner::Soft(register);
    let kept = old.get(register);
    let value = match register {
        Soft::MiscEnable => return misc_enable_write(value, kept, origin, caps),
        // Read-only to a guest.
        Soft::ArchCapabilities | Soft::PlatformInfo | Soft::SmiCount | Soft::Smbase => {
            is_host.then_some(value)
        }
        Soft::PerfCapabilities if is_host => within(value, caps.perf_capabilities.unwrap_or(0)),
        Soft::PerfCapabilities => None,
        // A guest clears it before it asks for the revision: the write has no effect.
        Soft::BiosSignId => Some(if is_host { value } else { kept }),
        Soft::FeatureControl => {
            let vmx = if caps.vmx {
                feature_control::VMX_OUTSIDE_SMX
            } else {
                0
            };
            let lmce = if caps.lmce { feature_control::LMCE } else { 0 };
            let is_locked = kept & feature_control::LOCKED != 0;
            // A VMM may restore the MSR before CPUID.
            let allowed = if is_host {
                feature_control::ALL
            } else {
                feature_control::LOCKED | vmx | lmce
            };
            within(value, allowed).filter(|_| is_host || !is_locked)
        }
        Soft::McgExtCtl => {
            let enabled = old.get(Soft::FeatureControl) & feature_control::LMCE != 0;
            within(value, 1).filter(|_| is_host || enabled)
        }
        Soft::UmwaitControl => within(value, 0xffff_fffd),
        Soft::MiscFeaturesEnables => {
            let can_fault = old.get(Soft::PlatformInfo) & soft::PLATFORM_INFO_CPUID_FAULT != 0;
            within(value, u64::from(can_fault))
        }
        Soft::PowerCtl => Some(value),
        Soft::Hwcr => within(value & !soft::hwcr::IGNORED, soft::hwcr::KEPT),
    };
    let value = value.ok_or(Refused::Invalid)?;
    Ok(Write {
        owner,
        value,
        cpuid_changed: register == Soft::MiscFeaturesEnables,
    })
}

fn misc_enable_write(value: u64, kept: u64, origin: Origin, caps: &Caps) -> Result<Write, Refused> {
    let read_only = misc_enable::BTS_UNAVAILABLE | misc_enable::PEBS_UNAVAILABLE;
    let mut value = value;
    if origin == Origin::Guest {
        if (value ^ kept) & read_only != 0 {
            return Err(Refused::Invalid);
        }
        value = (value & !misc_enable::EMON) | (kept & misc_enable::EMON);
    }
    let mwait_changes = (value ^ kept) & misc_enable::MWAIT != 0;
    if mwait_changes && caps.mwait == MwaitControl::Fixed {
        return Err(Refused::Invalid);
    }
    let cpuid_changed = mwait_changes && caps.mwait == MwaitControl::Followed;
    Ok(Write {
        owner: Owner::Soft(Soft::MiscEnable),
        value,
        cpuid_changed,
    })
}

#[cfg(test)]
mod tests;
