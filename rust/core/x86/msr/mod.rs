// SPDX-License-Identifier: GPL-2.0

//! MSRs: who keeps each one, what may be written to it, and which are listed to a VMM.
//!
//! - This file: the routing of an index to its [`Owner`].
//! - [`index`]: the numbers, under the manual's names.
//! - [`access`]: legality of reads and writes, with the value as it is kept.
//! - [`list`]: `KVM_GET_MSR_INDEX_LIST` and `KVM_GET_MSR_FEATURE_INDEX_LIST`.
//! - [`soft`]: storage of the MSRs that only software gives a meaning.
//! - [`mtrr`], [`mce`]: the memory-type range registers, the machine-check banks.
//! - [`filter`]: `KVM_X86_SET_MSR_FILTER`, and the reasons of exits to a VMM.

pub mod access;
pub mod filter;
pub mod index;
pub mod list;
pub mod mce;
pub mod mtrr;
pub mod soft;

use crate::x86::msr::soft::Soft;

/// A VMCS guest-state field that holds an MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmcsMsr {
    /// IA32_FS_BASE: the base of FS.
    FsBase,
    /// IA32_GS_BASE: the base of GS.
    GsBase,
    /// IA32_SYSENTER_CS.
    SysenterCs,
    /// IA32_SYSENTER_ESP.
    SysenterEsp,
    /// IA32_SYSENTER_EIP.
    SysenterEip,
    /// IA32_DEBUGCTL.
    Debugctl,
    /// IA32_PAT.
    Pat,
}

/// An MSR that VM entries do not switch and the host kernel needs only in user mode: the guest's
/// value stays in the register until the host returns there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserReturn {
    /// IA32_STAR.
    Star,
    /// IA32_LSTAR.
    Lstar,
    /// IA32_CSTAR.
    Cstar,
    /// IA32_FMASK.
    Fmask,
    /// IA32_TSC_AUX.
    TscAux,
    /// IA32_TSX_CTRL.
    TsxCtrl,
}

/// An MSR of the paravirtual interface between KVM and its guests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paravirt {
    /// MSR_KVM_WALL_CLOCK and MSR_KVM_WALL_CLOCK_NEW.
    WallClock,
    /// MSR_KVM_SYSTEM_TIME and MSR_KVM_SYSTEM_TIME_NEW.
    SystemTime,
    /// MSR_KVM_ASYNC_PF_EN.
    AsyncPfEnable,
    /// MSR_KVM_STEAL_TIME.
    StealTime,
    /// MSR_KVM_PV_EOI_EN.
    PvEoi,
    /// MSR_KVM_POLL_CONTROL.
    PollControl,
    /// MSR_KVM_ASYNC_PF_INT.
    AsyncPfInterrupt,
    /// MSR_KVM_ASYNC_PF_ACK.
    AsyncPfAck,
}

/// Who keeps an MSR's value and carries out its effects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// IA32_EFER: [`crate::x86::regs::write::wrmsr_efer`].
    Efer,
    /// A guest-state field of the VMCS.
    Vmcs(VmcsMsr),
    /// IA32_KERNEL_GS_BASE: swapped when a vCPU is loaded.
    KernelGsBase,
    /// The kernel's user-return notifier.
    UserReturn(UserReturn),
    /// IA32_SPEC_CTRL: swapped right around the VM entry.
    SpecCtrl,
    /// IA32_XSS: swapped with the FPU state; CPUID leaf 0DH changes with it.
    Xss,
    /// A command: it reads as an error (IA32_PRED_CMD, IA32_FLUSH_CMD) and keeps no value.
    Command,
    /// IA32_TIME_STAMP_COUNTER.
    Tsc,
    /// IA32_TSC_ADJUST.
    TscAdjust,
    /// IA32_TSC_DEADLINE: the local APIC's timer.
    TscDeadline,
    /// IA32_APIC_BASE.
    ApicBase,
    /// A register of the local APIC in x2APIC mode: its offset in the APIC page is 16 times this.
    X2apic(u8),
    /// Memory-type range registers.
    Mtrr(mtrr::Register),
    /// Machine-check registers.
    Mce(mce::Register),
    /// A VMX capability MSR (IA32_VMX_BASIC and on).
    VmxCapability,
    /// Performance monitoring.
    Pmu,
    /// The paravirtual interface.
    Paravirt(Paravirt),
    /// A value that software alone keeps.
    Soft(Soft),
    /// A constant; writes are ignored.
    Constant(u64),
}

/// Returns who owns MSR `number`, or `None` for one that Burrow does not know.
pub const fn owner(number: u32) -> Option<Owner> {
    use self::index as i;
    Some(match number {
        i::IA32_X2APIC_FIRST..=i::IA32_X2APIC_LAST => Owner::X2apic((number & 0xff) as u8),
        i::IA32_VMX_BASIC..=i::IA32_VMX_VMFUNC => Owner::VmxCapability,
        i::IA32_EFER => Owner::Efer,
        i::IA32_KERNEL_GS_BASE => Owner::KernelGsBase,
        i::IA32_SPEC_CTRL => Owner::SpecCtrl,
        i::IA32_XSS => Owner::Xss,
        i::IA32_PRED_CMD | i::IA32_FLUSH_CMD => Owner::Command,
        i::IA32_TSC => Owner::Tsc,
        i::IA32_TSC_ADJUST => Owner::TscAdjust,
        i::IA32_TSC_DEADLINE => Owner::TscDeadline,
        i::IA32_APIC_BASE => Owner::ApicBase,
        _ => return owner_of_group(number),
    })
}

const fn owner_of_group(number: u32) -> Option<Owner> {
    if let Some(field) = vmcs_owner(number) {
        return Some(Owner::Vmcs(field));
    }
    if let Some(register) = user_return_owner(number) {
        return Some(Owner::UserReturn(register));
    }
    if let Some(register) = mtrr::Register::of(number) {
        return Some(Owner::Mtrr(register));
    }
    if let Some(register) = mce::Register::of(number) {
        return Some(Owner::Mce(register));
    }
    if let Some(register) = paravirt_owner(number) {
        return Some(Owner::Paravirt(register));
    }
    if let Some(register) = Soft::of(number) {
        return Some(Owner::Soft(register));
    }
    if is_pmu(number) {
        return Some(Owner::Pmu);
    }
    match constant(number) {
        Some(value) => Some(Owner::Constant(value)),
        None => None,
    }
}

const fn vmcs_owner(number: u32) -> Option<VmcsMsr> {
    Some(match number {
        index::IA32_FS_BASE => VmcsMsr::FsBase,
        index::IA32_GS_BASE => VmcsMsr::GsBase,
        index::IA32_SYSENTER_CS => VmcsMsr::SysenterCs,
        index::IA32_SYSENTER_ESP => VmcsMsr::SysenterEsp,
        index::IA32_SYSENTER_EIP => VmcsMsr::SysenterEip,
        index::IA32_DEBUGCTL => VmcsMsr::Debugctl,
        index::IA32_PAT => VmcsMsr::Pat,
        _ => return None,
    })
}

const fn user_return_owner(number: u32) -> Option<UserReturn> {
    Some(match number {
        index::IA32_STAR => UserReturn::Star,
        index::IA32_LSTAR => UserReturn::Lstar,
        index::IA32_CSTAR => UserReturn::Cstar,
        index::IA32_FMASK => UserReturn::Fmask,
        index::IA32_TSC_AUX => UserReturn::TscAux,
        index::IA32_TSX_CTRL => UserReturn::TsxCtrl,
        _ => return None,
    })
}

const fn paravirt_owner(number: u32) -> Option<Paravirt> {
    Some(match number {
        index::MSR_KVM_WALL_CLOCK | index::MSR_KVM_WALL_CLOCK_NEW => Paravirt::WallClock,
        index::MSR_KVM_SYSTEM_TIME | index::MSR_KVM_SYSTEM_TIME_NEW => Paravirt::SystemTime,
        index::MSR_KVM_ASYNC_PF_EN => Paravirt::AsyncPfEnable,
        index::MSR_KVM_STEAL_TIME => Paravirt::StealTime,
        index::MSR_KVM_PV_EOI_EN => Paravirt::PvEoi,
        index::MSR_KVM_POLL_CONTROL => Paravirt::PollControl,
        index::MSR_KVM_ASYNC_PF_INT => Paravirt::AsyncPfInterrupt,
        index::MSR_KVM_ASYNC_PF_ACK => Paravirt::AsyncPfAck,
        _ => return None,
    })
}

/// Returns whether `number` is one of the architectural performance-monitoring MSRs: 8 general
/// counters, 3 fixed ones, their controls.
const fn is_pmu(number: u32) -> bool {
    matches!(
        number,
        index::IA32_PMC0..=index::IA32_PMC7
            | index::IA32_PERFEVTSEL0..=index::IA32_PERFEVTSEL7
            | index::IA32_A_PMC0..=index::IA32_A_PMC7
            | index::IA32_FIXED_CTR0..=index::IA32_FIXED_CTR2
            | index::IA32_FIXED_CTR_CTRL..=index::IA32_PERF_GLOBAL_STATUS_SET
            | index::IA32_PEBS_ENABLE
            | index::MSR_PEBS_DATA_CFG
            | index::IA32_DS_AREA
    )
}

/// Returns the value of an MSR that firmware and kernels look at without need.
///
/// It must be one they can compute with: the bus clock code of 100 MHz, a ratio that is not 0.
const fn constant(number: u32) -> Option<u64> {
    Some(match number {
        index::IA32_PLATFORM_ID
        | index::MSR_EBL_CR_POWERON
        | index::IA32_PERF_CTL
        | index::MSR_LASTBRANCH_FROM_IP
        | index::MSR_LASTBRANCH_TO_IP
        | index::MSR_LER_FROM_IP
        | index::MSR_LER_TO_IP
        | index::MSR_RAPL_POWER_UNIT
        | index::MSR_PKG_ENERGY_STATUS
        | index::MSR_DRAM_ENERGY_STATUS
        | index::MSR_PP0_ENERGY_STATUS
        | index::MSR_PP1_ENERGY_STATUS
        | index::IA32_BIOS_UPDT_TRIG => 0,
        index::MSR_FSB_FREQ => 3,
        index::MSR_EBC_FREQUENCY_ID => 1 << 24,
        index::IA32_PERF_STATUS => 1000 | (4 << 40),
        index::MSR_BBL_CR_CTL3 => 0xbe70_2111,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_routes_to_its_owner() {
        let table = [
            (0x10, Owner::Tsc),
            (0x174, Owner::Vmcs(VmcsMsr::SysenterCs)),
            (0x277, Owner::Vmcs(VmcsMsr::Pat)),
            (0xc000_0082, Owner::UserReturn(UserReturn::Lstar)),
            (0xc000_0080, Owner::Efer),
            (0x80b, Owner::X2apic(0x0b)),
            (0x8ff, Owner::X2apic(0xff)),
            (0x48b, Owner::VmxCapability),
            (0x4b56_4d03, Owner::Paravirt(Paravirt::StealTime)),
            (0x12, Owner::Paravirt(Paravirt::SystemTime)),
            (0x1a0, Owner::Soft(Soft::MiscEnable)),
            (0xc1, Owner::Pmu),
            (0xcd, Owner::Constant(3)),
            (0x201, Owner::Mtrr(mtrr::Register::VariableMask(0))),
            (0x17a, Owner::Mce(mce::Register::Status)),
        ];
        for (number, expected) in table {
            assert_eq!(owner(number), Some(expected), "{number:#x}");
        }
        for unknown in [0, 0x474f_4f00, 0x492, 0x900, u32::MAX] {
            assert_eq!(owner(unknown), None, "{unknown:#x}");
        }
    }
}
