// SPDX-License-Identifier: GPL-2.0

//! Writes to control registers: which are legal, and what follows from them.
//!
//! Each function takes the state before and the new value, and returns the values after with the
//! [`Effects`] that the caller must carry out, or the exception that the instruction causes. CPL
//! is checked by hardware before the exit (CR accesses) or by the caller (emulation).
//! SDM 2B "MOV: Move to/from Control Registers"; SDM 3A "Control Registers", 2.5.

use crate::outcome::Exception;
use crate::x86::regs::Cr0;
use crate::x86::regs::Cr3;
use crate::x86::regs::Cr4;
use crate::x86::regs::Efer;
use crate::x86::regs::Xcr0;

/// What guest CPUID makes of the registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The bits of CR4 that must be 0.
    pub cr4_reserved: u64,
    /// The bits of EFER that must be 0 (LMA never is: writes to it are ignored).
    pub efer_reserved: u64,
    /// The bits of XCR0 that may be 1.
    pub xcr0_allowed: u64,
    /// The bits of IA32_XSS that may be 1.
    pub xss_allowed: u64,
    /// The width of guest-physical addresses, 32 to 52 bits.
    pub maxphyaddr: u8,
    /// CR3.LAM_U48 and LAM_U57 may be 1.
    pub lam: bool,
    /// DR6 and DR7 have their RTM bits.
    pub rtm: bool,
    /// DR6 has its bus-lock bit, and IA32_DEBUGCTL its enable.
    pub bus_lock_detect: bool,
}

/// Bits of a control register that VMX operation fixes (`IA32_VMX_CRn_FIXED0` and `FIXED1`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fixed {
    /// The bits that must be 1.
    pub ones: u64,
    /// The bits that may be 1.
    pub allowed: u64,
}

impl Fixed {
    /// No constraint: the processor is not in VMX operation.
    pub const NONE: Self = Self {
        ones: 0,
        allowed: u64::MAX,
    };

    /// Returns whether `value` satisfies the constraint.
    #[inline]
    pub const fn admits(self, value: u64) -> bool {
        value & self.ones == self.ones && value & !self.allowed == 0
    }
}

/// The guest state that the rules look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct State {
    /// CR0 as the guest sees it.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: Cr3,
    /// CR4 as the guest sees it.
    pub cr4: Cr4,
    /// IA32_EFER as the guest sees it.
    pub efer: Efer,
    /// The L bit of CS.
    pub cs_long: bool,
    /// TR holds a 16-bit TSS.
    pub tss_is_16bit: bool,
    /// The vCPU is in system-management mode.
    pub is_smm: bool,
    /// What VMX operation of the guest fixes in CR0; [`Fixed::NONE`] outside.
    pub cr0_fixed: Fixed,
    /// What VMX operation of the guest fixes in CR4; [`Fixed::NONE`] outside.
    pub cr4_fixed: Fixed,
}

/// Which translations of the guest the write invalidates. SDM 3A "Operations that Invalidate TLBs
/// and Paging-Structure Caches", 5.10.4.1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Flush {
    /// None.
    #[default]
    Nothing,
    /// Those of the PCID that is current after the write, without global ones.
    CurrentPcid,
    /// All of the vCPU's, global ones included.
    All,
}

/// What the caller must do besides storing the new values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    /// TLB entries to drop.
    pub flush: Flush,
    /// PAE paging is in use and the four PDPTEs must be loaded from CR3; if one of them has a
    /// reserved bit set the instruction causes #GP(0) and nothing changes.
    pub reload_pdptrs: bool,
    /// EFER.LMA changed: the "IA-32e mode guest" entry control follows it.
    pub lma_changed: bool,
    /// A bit changed that decides how guest page tables are read: cached walks are void.
    pub walk_mode_changed: bool,
    /// A bit changed that CPUID reports (OSXSAVE, OSPKE, the sizes in leaf 0DH).
    pub cpuid_changed: bool,
}

/// A legal write: the values after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrWrite {
    /// The register's new value.
    pub value: u64,
    /// EFER after the write: CR0.PG moves LMA.
    pub efer: Efer,
    /// What else to do.
    pub effects: Effects,
}

/// Returns whether PAE paging is in use. SDM 3A "Paging Modes and Control Bits", 5.1.1.
#[inline]
pub fn is_pae_paging(cr0: Cr0, cr4: Cr4, efer: Efer) -> bool {
    cr0.pg() && cr4.pae() && !efer.lma()
}

/// Returns whether CR0 is consistent in itself.
///
/// Bits 63:32 are clear, NW implies CD, PG implies PE.
#[inline]
pub fn is_valid_cr0(cr0: Cr0) -> bool {
    cr0.0 >> 32 == 0 && (cr0.cd() || !cr0.nw()) && (cr0.pe() || !cr0.pg())
}

/// Returns whether CR4 has no reserved bit set, and no VMXE in system-management mode.
#[inline]
pub fn is_valid_cr4(cr4: Cr4, limits: &Limits, is_smm: bool) -> bool {
    cr4.0 & limits.cr4_reserved == 0 && !(is_smm && cr4.vmxe())
}

/// Returns whether CR3 (without its no-flush bit) has no reserved bit set.
#[inline]
pub fn is_valid_cr3(cr3: Cr3, limits: &Limits) -> bool {
    let address = u64::MAX
        .checked_shl(u32::from(limits.maxphyaddr))
        .map_or(0, |reserved| !reserved);
    let lam = if limits.lam {
        Cr3(0).with_lam_u57(true).with_lam_u48(true).0
    } else {
        0
    };
    cr3.0 & !(address | lam) == 0
}

/// Decides MOV to CR0 of `value`.
///
/// Reserved bits of 31:0 are ignored and ET reads as 1.
///
/// # Errors
///
/// #GP(0), SDM 2B "MOV: Move to/from Control Registers", "64-Bit Mode Exceptions".
pub fn mov_to_cr0(state: &State, value: u64) -> Result<CrWrite, Exception> {
    if !is_valid_cr0(Cr0(value)) {
        return Err(Exception::GP0);
    }
    let new = Cr0((value & Cr0::DEFINED) | Cr0::ET);
    if !state.cr0_fixed.admits(new.0) {
        return Err(Exception::GP0);
    }
    let paging_on = new.pg() && !state.cr0.pg();
    let paging_off = !new.pg() && state.cr0.pg();
    let activates = paging_on && state.efer.lme();
    if activates && (!state.cr4.pae() || state.cs_long || state.tss_is_16bit) {
        return Err(Exception::GP0);
    }
    if paging_off && (state.cr4.pcide() || (state.efer.lma() && state.cs_long)) {
        return Err(Exception::GP0);
    }
    if state.cr4.cet() && !new.wp() {
        return Err(Exception::GP0);
    }
    let efer = state.efer.with_lma(state.efer.lme() && new.pg());
    let changed = state.cr0.0 ^ new.0;
    let pdptr_bits = Cr0::CD | Cr0::NW | Cr0::PG;
    Ok(CrWrite {
        value: new.0,
        efer,
        effects: Effects {
            flush: if paging_off {
                Flush::All
            } else {
                Flush::Nothing
            },
            reload_pdptrs: is_pae_paging(new, state.cr4, efer) && changed & pdptr_bits != 0,
            lma_changed: efer.lma() != state.efer.lma(),
            walk_mode_changed: changed & (Cr0::PG | Cr0::WP) != 0,
            cpuid_changed: false,
        },
    })
}

/// Decides LMSW of `source`: MOV to CR0 of bits 3:0, except that PE cannot be cleared.
///
/// # Errors
///
/// As [`mov_to_cr0`].
pub fn lmsw(state: &State, source: u16) -> Result<CrWrite, Exception> {
    let kept = state.cr0.0 & !(Cr0::MP | Cr0::EM | Cr0::TS);
    mov_to_cr0(state, kept | u64::from(source & 0xf))
}

/// Decides CLTS.
///
/// # Errors
///
/// As [`mov_to_cr0`]; none where CR0 was legal before.
pub fn clts(state: &State) -> Result<CrWrite, Exception> {
    mov_to_cr0(state, state.cr0.with_ts(false).0)
}

/// Decides MOV to CR3 of `value`, bit 63 as the instruction has it.
///
/// # Errors
///
/// #GP(0) for a reserved bit.
pub fn mov_to_cr3(state: &State, limits: &Limits, value: u64) -> Result<CrWrite, Exception> {
    let source = Cr3(value);
    let keep_tlb = state.cr4.pcide() && source.no_flush();
    let new = if state.cr4.pcide() {
        source.with_no_flush(false)
    } else {
        source
    };
    if !is_valid_cr3(new, limits) {
        return Err(Exception::GP0);
    }
    let lam = |cr3: Cr3| (cr3.lam_u48(), cr3.lam_u57());
    Ok(CrWrite {
        value: new.0,
        efer: state.efer,
        effects: Effects {
            flush: if keep_tlb {
                Flush::Nothing
            } else {
                Flush::CurrentPcid
            },
            reload_pdptrs: is_pae_paging(state.cr0, state.cr4, state.efer),
            walk_mode_changed: lam(new) != lam(state.cr3),
            ..Effects::default()
        },
    })
}

/// Decides MOV to CR4 of `value`.
///
/// # Errors
///
/// #GP(0), SDM 2B "MOV: Move to/from Control Registers", "64-Bit Mode Exceptions".
pub fn mov_to_cr4(state: &State, limits: &Limits, value: u64) -> Result<CrWrite, Exception> {
    let new = Cr4(value);
    if !is_valid_cr4(new, limits, state.is_smm) || !state.cr4_fixed.admits(value) {
        return Err(Exception::GP0);
    }
    let changed = state.cr4.0 ^ new.0;
    if state.efer.lma() && (!new.pae() || changed & Cr4::LA57 != 0) {
        return Err(Exception::GP0);
    }
    let pcid_on = new.pcide() && !state.cr4.pcide();
    if pcid_on && (!state.efer.lma() || state.cr3.pcid() != 0) {
        return Err(Exception::GP0);
    }
    if new.cet() && !state.cr0.wp() {
        return Err(Exception::GP0);
    }
    let pdptr_bits = Cr4::PAE | Cr4::PGE | Cr4::PSE | Cr4::SMEP;
    let walk_bits =
        Cr4::PSE | Cr4::PAE | Cr4::LA57 | Cr4::SMEP | Cr4::SMAP | Cr4::PKE | Cr4::LAM_SUP;
    Ok(CrWrite {
        value,
        efer: state.efer,
        effects: Effects {
            flush: cr4_flush(state.cr4, new),
            reload_pdptrs: is_pae_paging(state.cr0, new, state.efer) && changed & pdptr_bits != 0,
            lma_changed: false,
            walk_mode_changed: changed & walk_bits != 0,
            cpuid_changed: changed & (Cr4::OSXSAVE | Cr4::PKE) != 0,
        },
    })
}

/// Returns what a change of CR4 invalidates.
fn cr4_flush(old: Cr4, new: Cr4) -> Flush {
    let changed = old.0 ^ new.0;
    if changed & Cr4::PGE != 0 || (old.pcide() && !new.pcide()) {
        Flush::All
    } else if changed & Cr4::PAE != 0 || (new.smep() && !old.smep()) {
        Flush::CurrentPcid
    } else {
        Flush::Nothing
    }
}

/// Decides MOV to CR8 of `value`; returns the task priority, 0 to 15.
///
/// # Errors
///
/// #GP(0) for a reserved bit (63:4).
#[inline]
pub fn mov_to_cr8(value: u64) -> Result<u8, Exception> {
    u8::try_from(value)
        .ok()
        .filter(|priority| *priority <= 15)
        .ok_or(Exception::GP0)
}

/// Returns whether `xcr0` is a legal XCR0. SDM 1 "Enabling the XSAVE Feature Set", 13.3.
pub fn is_valid_xcr0(xcr0: Xcr0, limits: &Limits) -> bool {
    let allowed = limits.xcr0_allowed | Xcr0::RESET.0;
    xcr0.0 & !allowed == 0
        && xcr0.x87()
        && (xcr0.sse() || !xcr0.avx())
        && matches!(xcr0.mpx(), 0 | 3)
        && (xcr0.avx512() == 0 || (xcr0.avx512() == 7 && xcr0.avx()))
        && matches!(xcr0.amx(), 0 | 3)
        && !(xcr0.apx() && xcr0.mpx() != 0)
}

/// Decides XSETBV at CPL 0 with CR4.OSXSAVE set: `index` from ECX, `value` from EDX:EAX.
///
/// CPUID leaf 0DH changes whenever XCR0 does.
///
/// # Errors
///
/// #GP(0) for an index other than 0 or an illegal value.
pub fn xsetbv(index: u32, value: u64, limits: &Limits) -> Result<Xcr0, Exception> {
    if index == 0 && is_valid_xcr0(Xcr0(value), limits) {
        Ok(Xcr0(value))
    } else {
        Err(Exception::GP0)
    }
}

/// Decides WRMSR of IA32_EFER by the guest. LMA keeps its value whatever is written to it.
///
/// # Errors
///
/// #GP(0) for a reserved bit, or a change of LME while CR0.PG is set.
pub fn wrmsr_efer(state: &State, limits: &Limits, value: u64) -> Result<CrWrite, Exception> {
    if value & limits.efer_reserved & !Efer::LMA != 0 {
        return Err(Exception::GP0);
    }
    if state.cr0.pg() && Efer(value).lme() != state.efer.lme() {
        return Err(Exception::GP0);
    }
    let new = Efer(value).with_lma(state.efer.lma());
    Ok(CrWrite {
        value: new.0,
        efer: new,
        effects: Effects {
            walk_mode_changed: new.nxe() != state.efer.nxe(),
            ..Effects::default()
        },
    })
}

#[cfg(test)]
mod tests;
