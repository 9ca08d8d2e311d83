// SPDX-License-Identifier: GPL-2.0

//! The table of `KVM_SET_CPUID2`: the bits in it that follow the vCPU's state, and what it allows
//! the guest to do.

use crate::x86::cpuid::feature;
use crate::x86::cpuid::feature::Feature;
use crate::x86::cpuid::feature::Set;
use crate::x86::cpuid::lookup::find;
use crate::x86::cpuid::xstate::Components;
use crate::x86::cpuid::xstate::Format;
use crate::x86::cpuid::Entry;
use crate::x86::cpuid::Regs;
use crate::x86::cpuid::KVM_SIGNATURE;
use crate::x86::msr::access::Caps;
use crate::x86::msr::access::MwaitControl;
use crate::x86::regs::write::Limits;
use crate::x86::regs::Cr4;
use crate::x86::regs::Efer;
use crate::x86::regs::LinearWidth;

/// The most entries that `KVM_SET_CPUID2` takes: `KVM_MAX_CPUID_ENTRIES`.
pub const MAX_ENTRIES: usize = 256;
/// The width of physical addresses where leaf 80000008H does not say.
const DEFAULT_MAXPHYADDR: u8 = 36;

/// A table that no processor can have: the ioctl fails with `EINVAL`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Invalid;

/// Checks a new table: linear addresses have 48 or 57 bits, or 0 for "not said".
///
/// # Errors
///
/// [`Invalid`] otherwise.
pub fn check(entries: &[Entry]) -> Result<(), Invalid> {
    match find(entries, 0x8000_0008, 0).map(|entry| entry.regs.eax.to_le_bytes()) {
        Some([_, 0 | 48 | 57, ..]) | None => Ok(()),
        Some(_) => Err(Invalid),
    }
}

fn find_mut(entries: &mut [Entry], function: u32, index: u32) -> Option<&mut Entry> {
    entries
        .iter_mut()
        .find(|entry| entry.answers(function, index))
}

/// State of the vCPU that CPUID reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runtime {
    /// CR4 as the guest sees it.
    pub cr4: Cr4,
    /// IA32_APIC_BASE.EN.
    pub apic_enabled: bool,
    /// IA32_MISC_ENABLE.MWAIT, where CPUID follows it (`KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT` off).
    pub mwait: Option<bool>,
    /// XCR0.
    pub xcr0: u64,
    /// IA32_XSS.
    pub xss: u64,
}

/// Puts the vCPU's state into its table. To be called after every change of that state.
pub fn update(entries: &mut [Entry], runtime: &Runtime, components: &Components) {
    if let Some(entry) = find_mut(entries, 1, 0) {
        put(entry, feature::OSXSAVE, runtime.cr4.osxsave());
        put(entry, feature::APIC, runtime.apic_enabled);
        if let Some(mwait) = runtime.mwait {
            put(entry, feature::MONITOR, mwait);
        }
    }
    if let Some(entry) = find_mut(entries, 7, 0) {
        put(entry, feature::OSPKE, runtime.cr4.pke());
    }
    if let Some(entry) = find_mut(entries, 0xd, 0) {
        entry.regs.ebx = components.area_size(runtime.xcr0, Format::Standard);
    }
    if let Some(entry) = find_mut(entries, 0xd, 1) {
        if entry.regs.eax & (feature::XSAVEC.mask | feature::XSAVES.mask) != 0 {
            let bits = runtime.xcr0 | runtime.xss;
            entry.regs.ebx = components.area_size(bits, Format::Compacted);
        }
    }
}

/// Returns whether the table has MONITOR and MWAIT, which the module never has itself: their exits do
/// nothing for a guest with them, and may be #UD for one without (`KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS`
/// off).
pub fn has_monitor(entries: &[Entry]) -> bool {
    find(entries, 1, 0).is_some_and(|entry| entry.regs.ecx & feature::MONITOR.mask != 0)
}

fn put(entry: &mut Entry, feature: Feature, present: bool) {
    let (_, _, reg) = feature.word.place();
    let bits = entry.regs.get_mut(reg);
    *bits = if present {
        *bits | feature.mask
    } else {
        *bits & !feature.mask
    };
}

/// Whether a guest may use paravirtual features that its CPUID does not have:
/// `KVM_CAP_ENFORCE_PV_FEATURE_CPUID`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ParavirtRule {
    /// It may: KVM's default.
    #[default]
    Lax,
    /// It may not.
    Enforced,
}

/// Returns the paravirtual features that the guest may use, of those that are `supported`.
///
/// The leaves of KVM start at a multiple of 100H from 40000000H: a VMM may put those of another
/// hypervisor before them.
pub fn paravirt(entries: &[Entry], supported: u32, rule: ParavirtRule) -> u32 {
    if rule == ParavirtRule::Lax {
        return supported;
    }
    let base = entries.iter().find(|entry| {
        let regs = entry.regs;
        let is_base =
            matches!(entry.function, 0x4000_0000..=0x4000_ffff) && entry.function & 0xff == 0;
        is_base && [regs.ebx, regs.ecx, regs.edx] == KVM_SIGNATURE
    });
    base.and_then(|base| find(entries, base.function | 1, 0))
        .map_or(0, |entry| entry.regs.eax & supported)
}

/// What a guest's table, together with what is supported, allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// The features in both.
    pub features: Set,
    /// The bits of XCR0 that the guest may set.
    pub xcr0: u64,
    /// The bits of IA32_XSS that the guest may set.
    pub xss: u64,
    /// The width of guest-physical addresses, in bits.
    pub maxphyaddr: u8,
}

impl Capabilities {
    /// Reads a table; `supported`, `xcr0` and `xss` are what the module supports
    /// ([`super::supported`]).
    pub fn of(entries: &[Entry], supported: &Set, xcr0: u64, xss: u64) -> Self {
        let regs = |function, index| {
            find(entries, function, index).map_or(Regs::default(), |entry| entry.regs)
        };
        let leaf_d0 = regs(0xd, 0);
        let leaf_d1 = regs(0xd, 1);
        let join = |low: u32, high: u32| u64::from(low) | (u64::from(high) << 32);
        Self {
            features: Set::collect(regs).and(supported),
            xcr0: join(leaf_d0.eax, leaf_d0.edx) & xcr0,
            xss: join(leaf_d1.ecx, leaf_d1.edx) & xss,
            maxphyaddr: maxphyaddr(entries),
        }
    }

    /// Returns whether the guest has `feature`.
    #[inline]
    pub fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// Returns whether a guest hypervisor takes from CPUID that IBRS keeps it from running on what its
    /// own guest taught the branch predictor. To the processor both are a guest, so a VM exit to it
    /// must do that.
    pub fn trusts_ibrs(&self) -> bool {
        self.has(feature::SPEC_CTRL)
    }

    /// Returns what the registers module needs to know.
    pub fn limits(&self) -> Limits {
        let has = |feature| self.has(feature);
        Limits {
            cr4_reserved: self.cr4_reserved(),
            efer_reserved: self.efer_reserved(),
            xcr0_allowed: if has(feature::XSAVE) { self.xcr0 } else { 0 },
            xss_allowed: if has(feature::XSAVES) { self.xss } else { 0 },
            maxphyaddr: self.maxphyaddr,
            lam: has(feature::LAM),
            rtm: has(feature::RTM),
            bus_lock_detect: has(feature::BUS_LOCK_DETECT),
        }
    }

    fn cr4_reserved(&self) -> u64 {
        let optional = [
            (feature::UMIP, Cr4::UMIP),
            (feature::LA57, Cr4::LA57),
            (feature::VMX, Cr4::VMXE),
            (feature::FSGSBASE, Cr4::FSGSBASE),
            (feature::PCID, Cr4::PCIDE),
            (feature::XSAVE, Cr4::OSXSAVE),
            (feature::SMEP, Cr4::SMEP),
            (feature::SMAP, Cr4::SMAP),
            (feature::PKU, Cr4::PKE),
            (feature::LAM, Cr4::LAM_SUP),
        ];
        let allowed = optional
            .iter()
            .filter(|(feature, _)| self.has(*feature))
            .fold(Cr4::ALWAYS, |bits, (_, bit)| bits | bit);
        !allowed
    }

    fn efer_reserved(&self) -> u64 {
        let long_mode = if self.has(feature::LM) {
            Efer::LME | Efer::LMA
        } else {
            0
        };
        let nx = if self.has(feature::NX) { Efer::NXE } else { 0 };
        // SCE is not tied to CPUID: a VMM may set registers before CPUID.
        !(Efer::SCE | long_mode | nx)
    }
}

/// What the MSRs depend on besides guest CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsrContext {
    /// The bits of IA32_SPEC_CTRL that the processor has; 0 without the MSR.
    pub spec_ctrl_hardware: u64,
    /// The bits of IA32_PERF_CAPABILITIES that the module supports.
    pub perf_capabilities: u64,
    /// The vCPU's IA32_ARCH_CAPABILITIES has TSX_CTRL.
    pub tsx_ctrl: bool,
    /// CPUID follows IA32_MISC_ENABLE.MWAIT (`KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT` off).
    pub mwait_followed: bool,
    /// The vCPU's IA32_MCG_CAP has LMCE_P.
    pub lmce: bool,
    /// System-management mode is emulated.
    pub smm: bool,
    /// The guest may read MSR_PLATFORM_INFO (`KVM_CAP_MSR_PLATFORM_INFO`).
    pub platform_info: bool,
    /// The paravirtual features that the guest may use ([`paravirt`]).
    pub paravirt: u32,
    /// The width of the host's linear addresses.
    pub linear_width: LinearWidth,
}

impl Capabilities {
    /// Returns what the MSR tables need to know.
    pub fn msr_caps(&self, context: &MsrContext) -> Caps {
        let has = |feature| self.has(feature);
        Caps {
            tsc_aux: has(feature::RDTSCP) || has(feature::RDPID),
            spec_ctrl: self.spec_ctrl() & context.spec_ctrl_hardware,
            spec_ctrl_hardware: context.spec_ctrl_hardware,
            ibpb: has(feature::SPEC_CTRL),
            flush_l1d: has(feature::L1D_FLUSH),
            arch_capabilities: has(feature::ARCH_CAPABILITIES),
            perf_capabilities: has(feature::PDCM).then_some(context.perf_capabilities),
            tsx_ctrl: context.tsx_ctrl,
            tsc_adjust: has(feature::TSC_ADJUST),
            waitpkg: has(feature::WAITPKG),
            xss: has(feature::XSAVES).then_some(self.xss),
            mwait: match (context.mwait_followed, has(feature::SSE3)) {
                (false, _) => MwaitControl::Inert,
                (true, true) => MwaitControl::Followed,
                (true, false) => MwaitControl::Fixed,
            },
            vmx: has(feature::VMX),
            lmce: context.lmce,
            bus_lock_detect: has(feature::BUS_LOCK_DETECT),
            rtm: has(feature::RTM),
            smm: context.smm,
            platform_info: context.platform_info,
            paravirt: context.paravirt,
            maxphyaddr: self.maxphyaddr,
            linear_width: context.linear_width,
        }
    }

    /// Returns the bits of IA32_SPEC_CTRL that guest CPUID enumerates.
    fn spec_ctrl(&self) -> u64 {
        feature::SPEC_CTRL_BITS
            .iter()
            .filter(|(feature, _)| self.has(*feature))
            .fold(0, |allowed, (_, bits)| allowed | bits)
    }
}

fn maxphyaddr(entries: &[Entry]) -> u8 {
    let reaches = find(entries, 0x8000_0000, 0).is_some_and(|e| e.regs.eax >= 0x8000_0008);
    match find(entries, 0x8000_0008, 0).map(|entry| entry.regs.eax.to_le_bytes()) {
        Some([width, ..]) if reaches => width,
        _ => DEFAULT_MAXPHYADDR,
    }
}

#[cfg(test)]
mod tests;
