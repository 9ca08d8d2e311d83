// SPDX-License-Identifier: GPL-2.0

//! System-management mode: what an SMI saves and how its handler starts, and what RSM takes back.
//!
//! The state save map has the two layouts that VMMs and firmware know of KVM ([`map`]). Where the mode
//! is entered and left in the life of a vCPU, and what that means for VMX operation, is the caller's.
//! SDM 3C "System Management Mode", 33.

pub mod map;

use super::event::Interruptibility;
use super::regs::debug::Dr7;
use super::regs::sregs;
use super::regs::sregs::Sregs;
use super::regs::write::Fixed;
use super::regs::write::Limits;
use super::regs::Cr0;
use super::regs::Cr3;
use super::regs::Cr4;
use super::regs::Efer;
use super::regs::Rflags;
use super::segment::system_type;
use super::segment::AccessRights;
use super::segment::Dtable;
use super::segment::Name;
use super::segment::Registers;
use super::segment::Segment;
use super::segment::Selector;

/// What an SMI saves, and RSM restores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saved {
    /// General-purpose registers, in the order of their encodings.
    pub gprs: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: Rflags,
    /// CR0.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: Cr3,
    /// CR4.
    pub cr4: Cr4,
    /// IA32_EFER; not in the 32-bit layout.
    pub efer: Efer,
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// Segment and descriptor-table registers.
    pub segments: Registers,
    /// The base of system-management RAM.
    pub smbase: u32,
    /// Blocking by STI and MOV SS. KVM's own: processors take no SMI then.
    pub shadow: Interruptibility,
    /// The SMI woke the processor from HLT, and RSM is to send it back. SDM 3C "Auto HALT Restart",
    /// 33.10.
    pub auto_halt: bool,
}

impl Saved {
    /// A state to read a map into.
    fn empty() -> Self {
        Self {
            gprs: [0; 16],
            rip: 0,
            rflags: Rflags::RESET,
            cr0: Cr0(0),
            cr3: Cr3(0),
            cr4: Cr4(0),
            efer: Efer(0),
            dr6: 0,
            dr7: 0,
            segments: Registers::reset(),
            smbase: 0,
            shadow: Interruptibility(0),
            auto_halt: false,
        }
    }
}

/// Registers with which the handler of an SMI starts; those that are not here stay as they were. CR4,
/// IA32_EFER and blocking by STI and MOV SS are 0. SDM 3C "SMI Handler Execution Environment", 33.5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handler {
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: Rflags,
    /// CR0: real-address mode.
    pub cr0: Cr0,
    /// DR7.
    pub dr7: u64,
    /// Segment and descriptor-table registers.
    pub segments: Registers,
}

/// The offset of the handler's first instruction in system-management RAM.
const ENTRY_POINT: u64 = 0x8000;

impl Handler {
    /// Returns how the handler starts where the processor had `saved`.
    ///
    /// As on processors, but not in the SDM: the limit of IDTR is 0.
    pub fn of(saved: &Saved) -> Self {
        let mut segments = saved.segments;
        let flat = Segment {
            selector: Selector(0),
            base: 0,
            limit: u32::MAX,
            rights: AccessRights::REAL_DATA.with_g(true),
        };
        for name in [Name::Es, Name::Ss, Name::Ds, Name::Fs, Name::Gs] {
            segments.set(name, flat);
        }
        let paragraph = (saved.smbase >> 4) & 0xffff;
        segments.set(
            Name::Cs,
            Segment {
                selector: Selector(u16::try_from(paragraph).unwrap_or(0)),
                base: saved.smbase.into(),
                ..flat
            },
        );
        segments.idtr = Dtable::default();
        Self {
            rip: ENTRY_POINT,
            rflags: Rflags::RESET,
            cr0: Cr0(saved.cr0.0 & !(Cr0::PE | Cr0::EM | Cr0::TS | Cr0::PG)),
            dr7: Dr7::RESET.0,
            segments,
        }
    }
}

/// A state that RSM cannot restore: the processor shuts down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shutdown;

/// Checks what RSM has read from memory, and returns it with EFER.LMA as CR0.PG and EFER.LME make it.
///
/// `cr0_fixed` and `cr4_fixed` are what VMX operation demands, where RSM returns into it.
///
/// # Errors
///
/// A reserved bit is set in a control or debug register, or the registers make no mode. SDM 3C
/// "Exiting From SMM", 33.3. TR without a TSS, with which no VM entry succeeds.
pub fn restore(
    saved: &Saved,
    limits: &Limits,
    cr0_fixed: Fixed,
    cr4_fixed: Fixed,
) -> Result<Saved, Shutdown> {
    let is_long = saved.efer.lme() && saved.cr0.pg();
    let efer = Efer(saved.efer.0 & !Efer::LMA).with_lma(is_long);
    let wanted = Sregs {
        cr0: saved.cr0,
        cr3: saved.cr3,
        cr4: saved.cr4,
        cr8: 0,
        efer,
        cs_long: saved.segments.get(Name::Cs).rights.l(),
        is_smm: false,
        cr0_fixed,
        cr4_fixed,
    };
    let is_debug_valid = (saved.dr6 | saved.dr7) >> 32 == 0;
    if !is_debug_valid || !is_task(&saved.segments) || !sregs::is_valid(&wanted, limits) {
        return Err(Shutdown);
    }
    Ok(Saved {
        efer,
        rflags: Rflags((saved.rflags.0 & Rflags::DEFINED) | Rflags::RESET.0),
        ..*saved
    })
}

/// Returns whether TR holds a busy TSS, as it does in every state of a processor.
fn is_task(segments: &Registers) -> bool {
    let rights = segments.get(Name::Tr).rights;
    let is_busy = matches!(
        rights.type_(),
        system_type::BUSY_TSS16 | system_type::BUSY_TSS
    );
    rights.present() && !rights.s() && is_busy
}

#[cfg(test)]
mod tests;
