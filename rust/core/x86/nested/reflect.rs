// SPDX-License-Identifier: GPL-2.0

//! Reflection: whether an exit of L2 is L0's to handle or L1's to see.
//!
//! [`owner`] is the whole rule: what L0 must have comes first, then what L1 asked for; an exit that
//! neither asked for is L0's, as vmcs02 intercepts more than vmcs12 does. SDM 3C "Instructions That
//! Cause VM Exits", 26.1; "Other Causes of VM Exits", 26.2.

use super::super::msrbitmap::MsrAccess;
use super::super::vmx::ctls::{
    IntrInfo,
    IntrType,
    ProcCtls, //
};
use super::super::vmx::exit::{
    CrAccess,
    CrAccessType,
    ExitReason,
    IoAccess, //
};
use super::super::vmx::field::*;
use super::merge::proc2_12;
use super::vmcs12::Vmcs12;
use crate::addr::Gpa;
use crate::outcome::vector;

/// Who handles an exit of L2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// L0 handles it, and L2 goes on.
    L0,
    /// It becomes a VM exit to L1.
    L1,
}

/// An exit of L2, as vmcs02 reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// Basic exit reason.
    pub reason: ExitReason,
    /// Exit qualification.
    pub qualification: u64,
    /// VM-exit interruption information.
    pub intr_info: IntrInfo,
    /// VM-exit interruption error code.
    pub intr_error_code: u32,
    /// The value that the instruction brings with it: of the source register for MOV to CR, ECX for
    /// RDMSR and WRMSR, the field encoding for VMREAD and VMWRITE; else unused.
    pub operand: u64,
}

/// What L0 needs for itself of the exits of L2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct L0Needs {
    /// Page faults: an asynchronous page fault of the host, or paging that L0 shadows.
    pub page_faults: bool,
    /// #DB: the VMM debugs the guest.
    pub debug_exceptions: bool,
    /// #BP: the VMM debugs the guest with software breakpoints.
    pub breakpoints: bool,
    /// #AC: this one comes from a split lock that the host forbids.
    pub split_lock: bool,
    /// CPUID faults at this privilege level.
    pub cpuid_faulting: bool,
}

/// Memory of L1, for the bitmaps that vmcs12 names.
pub trait L1Memory {
    /// Returns byte `offset`, 0 to 4095, of `page`, or `None` where no memory is.
    fn byte(&self, page: Gpa, offset: u16) -> Option<u8>;
}

/// Decides who handles an exit of L2. Exits that L0 handles but that stand for something of L1's
/// (an EPT violation of L1's own EPT, L1's preemption timer) become exits to L1 elsewhere.
pub fn owner(v: &Vmcs12, exit: &Exit, needs: &L0Needs, memory: &impl L1Memory) -> Owner {
    if l0_wants(exit, needs) || !l1_wants(v, exit, memory) {
        Owner::L0
    } else {
        Owner::L1
    }
}

/// Returns whether L0 must handle the exit, whatever L1 asks for.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "a reason that is not listed is not L0's by right"
)]
pub fn l0_wants(exit: &Exit, needs: &L0Needs) -> bool {
    match exit.reason {
        ExitReason::ExceptionNmi => l0_wants_exception(exit.intr_info, needs),
        ExitReason::Cpuid => needs.cpuid_faulting,
        ExitReason::ExternalInterrupt
        | ExitReason::InitSignal
        | ExitReason::SipiSignal
        | ExitReason::IoSmi
        | ExitReason::OtherSmi
        | ExitReason::Rsm
        | ExitReason::MceDuringEntry
        | ExitReason::EptViolation
        | ExitReason::EptMisconfig
        | ExitReason::PreemptionTimer
        | ExitReason::PmlFull
        | ExitReason::Vmfunc
        | ExitReason::SppEvent
        | ExitReason::BusLock
        | ExitReason::Notify
        | ExitReason::Seamcall
        | ExitReason::Tdcall => true,
        _ => false,
    }
}

fn l0_wants_exception(info: IntrInfo, needs: &L0Needs) -> bool {
    if info.is_nmi() {
        return true;
    }
    match info.vector() {
        vector::PF => needs.page_faults,
        vector::DB => needs.debug_exceptions,
        vector::BP => needs.breakpoints,
        vector::AC => needs.split_lock,
        vector::VE => true,
        _ => false,
    }
}

fn proc(v: &Vmcs12) -> ProcCtls {
    ProcCtls(v.read(CPU_BASED_VM_EXEC_CONTROL))
}

/// Returns whether L1 asked for the exit.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "exits that L1 cannot ask for"
)]
pub fn l1_wants(v: &Vmcs12, exit: &Exit, memory: &impl L1Memory) -> bool {
    let proc = proc(v);
    let proc2 = proc2_12(v);
    match exit.reason {
        ExitReason::ExceptionNmi => {
            exit.intr_info.intr_type() != IntrType::Nmi
                && l1_wants_exception(v, exit.intr_info.vector(), exit.intr_error_code)
        }
        ExitReason::TripleFault
        | ExitReason::TaskSwitch
        | ExitReason::Cpuid
        | ExitReason::Getsec
        | ExitReason::Invd
        | ExitReason::Xsetbv
        | ExitReason::Vmcall
        | ExitReason::Vmclear
        | ExitReason::Vmlaunch
        | ExitReason::Vmptrld
        | ExitReason::Vmptrst
        | ExitReason::Vmresume
        | ExitReason::Vmxoff
        | ExitReason::Vmxon
        | ExitReason::Invept
        | ExitReason::Invvpid
        | ExitReason::InvalidState
        | ExitReason::MsrLoadFail
        | ExitReason::ApicAccess
        | ExitReason::ApicWrite
        | ExitReason::VirtualizedEoi
        | ExitReason::Xsaves
        | ExitReason::Xrstors => true,
        ExitReason::InterruptWindow => proc.intr_window(),
        ExitReason::NmiWindow => proc.nmi_window(),
        ExitReason::Hlt => proc.hlt_exiting(),
        ExitReason::Invlpg => proc.invlpg_exiting(),
        ExitReason::Rdpmc => proc.rdpmc_exiting(),
        ExitReason::Rdtsc | ExitReason::Rdtscp => proc.rdtsc_exiting(),
        ExitReason::Mwait => proc.mwait_exiting(),
        ExitReason::Monitor => proc.monitor_exiting(),
        ExitReason::DrAccess => proc.mov_dr_exiting(),
        ExitReason::MonitorTrapFlag => proc.monitor_trap_flag() || injected_mtf(v),
        ExitReason::TprBelowThreshold => proc.tpr_shadow(),
        ExitReason::Pause => proc.pause_exiting() || proc2.pause_loop_exiting(),
        ExitReason::CrAccess => l1_wants_cr(v, CrAccess(exit.qualification), exit.operand),
        ExitReason::IoInstruction => l1_wants_io(v, IoAccess(exit.qualification), memory),
        ExitReason::MsrRead => l1_wants_msr(v, exit.operand, MsrAccess::Read, memory),
        ExitReason::MsrWrite => l1_wants_msr(v, exit.operand, MsrAccess::Write, memory),
        ExitReason::MsrReadImm => l1_wants_msr(v, exit.qualification, MsrAccess::Read, memory),
        ExitReason::MsrWriteImm => l1_wants_msr(v, exit.qualification, MsrAccess::Write, memory),
        ExitReason::Vmread => l1_wants_field(v, exit.operand, VMREAD_BITMAP, memory),
        ExitReason::Vmwrite => l1_wants_field(v, exit.operand, VMWRITE_BITMAP, memory),
        ExitReason::GdtrIdtr | ExitReason::LdtrTr => proc2.desc_exiting(),
        ExitReason::Wbinvd => proc2.wbinvd_exiting(),
        ExitReason::Rdrand => proc2.rdrand_exiting(),
        ExitReason::Rdseed => proc2.rdseed_exiting(),
        ExitReason::Invpcid => proc2.invpcid() && proc.invlpg_exiting(),
        ExitReason::Umwait | ExitReason::Tpause => proc2.user_wait_pause() && proc.rdtsc_exiting(),
        // Exits of controls that L1 is not offered, and those that L0 always handles.
        _ => false,
    }
}

/// Returns whether the entry injected a pending MTF exit.
fn injected_mtf(v: &Vmcs12) -> bool {
    IntrInfo(v.read(VM_ENTRY_INTR_INFO_FIELD)).is(IntrType::OtherEvent, 0)
}

/// Returns whether L1 intercepts an exception of L2, be it raised by L2 or by L0. SDM 3C "Other
/// Causes of VM Exits", 26.2, "Exceptions".
pub fn l1_wants_exception(v: &Vmcs12, vector: u8, error_code: u32) -> bool {
    let is_set = v
        .read(EXCEPTION_BITMAP)
        .checked_shr(u32::from(vector))
        .unwrap_or(0)
        & 1
        != 0;
    if vector != vector::PF {
        return is_set;
    }
    let mask = v.read(PAGE_FAULT_ERROR_CODE_MASK);
    let is_match = error_code & mask == v.read(PAGE_FAULT_ERROR_CODE_MATCH);
    is_set == is_match
}

const CR0_PE: u64 = 1;
const CR0_TS: u64 = 1 << 3;
/// MP, EM and TS: LMSW can set and clear them.
const LMSW_BITS: u64 = 0xe;

fn l1_wants_cr(v: &Vmcs12, access: CrAccess, value: u64) -> bool {
    let (mask0, shadow0) = (v.read(CR0_GUEST_HOST_MASK), v.read(CR0_READ_SHADOW));
    let proc = proc(v);
    match (access.access(), access.cr()) {
        (CrAccessType::MovTo, 0) => mask0 & (value ^ shadow0) != 0,
        (CrAccessType::MovTo, 3) => proc.cr3_load_exiting(),
        (CrAccessType::MovTo, 4) => {
            v.read(CR4_GUEST_HOST_MASK) & (value ^ v.read(CR4_READ_SHADOW)) != 0
        }
        (CrAccessType::MovTo, 8) => proc.cr8_load_exiting(),
        (CrAccessType::MovFrom, 3) => proc.cr3_store_exiting(),
        (CrAccessType::MovFrom, 8) => proc.cr8_store_exiting(),
        (CrAccessType::Clts, _) => mask0 & shadow0 & CR0_TS != 0,
        (CrAccessType::Lmsw, _) => {
            let source = u64::from(access.lmsw_source());
            let changes = mask0 & LMSW_BITS & (source ^ shadow0) != 0;
            // LMSW cannot clear PE.
            let sets_pe = mask0 & source & !shadow0 & CR0_PE != 0;
            changes || sets_pe
        }
        (CrAccessType::MovTo | CrAccessType::MovFrom, _) => false,
    }
}

/// Reads bit `bit` of a bitmap page; memory that is not there counts as ones.
fn bitmap_bit(memory: &impl L1Memory, page: u64, bit: u16) -> bool {
    memory
        .byte(Gpa(page), bit >> 3)
        .is_none_or(|byte| (byte >> (bit & 7)) & 1 != 0)
}

/// Returns whether L1 intercepts an access to `size` bytes of ports from `port` on.
pub fn l1_wants_ports(v: &Vmcs12, port: u16, size: u8, memory: &impl L1Memory) -> bool {
    if !proc(v).io_bitmaps() {
        return proc(v).uncond_io_exiting();
    }
    (0..u16::from(size)).any(|n| match port.checked_add(n) {
        // An access that wraps around always exits.
        None => true,
        Some(port) => {
            let bitmap = if port < 0x8000 {
                IO_BITMAP_A
            } else {
                IO_BITMAP_B
            };
            bitmap_bit(memory, v.read(bitmap), port & 0x7fff)
        }
    })
}

fn l1_wants_io(v: &Vmcs12, access: IoAccess, memory: &impl L1Memory) -> bool {
    l1_wants_ports(v, access.port(), access.size_bytes(), memory)
}

/// Returns whether L1 intercepts an access of L2 to MSR `index` (of which the low 32 bits count).
pub fn l1_wants_msr(v: &Vmcs12, index: u64, access: MsrAccess, memory: &impl L1Memory) -> bool {
    if !proc(v).msr_bitmaps() {
        return true;
    }
    let index = index & 0xffff_ffff;
    let half = match access {
        MsrAccess::Read => 0,
        MsrAccess::Write => 0x4000,
    };
    let bit = match index {
        0..=0x1fff => index,
        0xc000_0000..=0xc000_1fff => (index & 0x1fff) | 0x2000,
        _ => return true,
    };
    u16::try_from(half | bit).map_or(true, |bit| bitmap_bit(memory, v.read(MSR_BITMAP), bit))
}

fn l1_wants_field(v: &Vmcs12, field: u64, bitmap: Field<u64>, memory: &impl L1Memory) -> bool {
    if !proc2_12(v).vmcs_shadowing() {
        return true;
    }
    match u16::try_from(field) {
        Ok(field @ 0..=0x7fff) => bitmap_bit(memory, v.read(bitmap), field),
        Ok(_) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests;
