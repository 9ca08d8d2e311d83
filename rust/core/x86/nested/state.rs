// SPDX-License-Identifier: GPL-2.0

//! The VMX mode of a vCPU, and the VMX instructions of L1 as decisions.
//!
//! ```text
//!             VMXON                   VMLAUNCH, VMRESUME
//!   VmxOff ----------> Root(current) -------------------> NonRoot
//!      ^                |    ^   ^ \______________________/  |
//!      |     VMXOFF     |    |           VM exit to L1       |
//!      +----------------+    |RSM                            |
//!                            |           SMI                 |
//!                           Smm <----------------------------+  (and from Root)
//! ```
//!
//! An instruction goes through [`precheck`] first (faults, and exits of L2), then through the
//! function of its name, which answers what is to be done or how the instruction fails. Memory
//! operands are read by the caller in between, as their faults come after those of [`precheck`].

use super::super::vmx::caps::VmxCaps;
use super::super::vmx::insn::{
    is_canonical,
    VmFail,
    VmInsnError, //
};
use super::check::Env;
use super::vmcs12::{
    LaunchState,
    Vmcs12,
    REVISION, //
};
use crate::addr::{
    Gpa,
    Gva, //
};
use crate::outcome::Exception;

/// VMX operation: the VMXON region and the current VMCS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// Address of the VMXON region.
    pub vmxon: Gpa,
    /// Address of the current VMCS.
    pub current: Option<Gpa>,
}

/// Whether an entry into L2 has been promised but not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RunPending {
    /// L2 has run since the last VM entry of L1.
    #[default]
    No,
    /// VMLAUNCH or VMRESUME is done, but the processor has not entered L2 yet: nothing may come in
    /// between, and an event to inject is still in vmcs12.
    Entry,
    /// The same, but the VMM says so in a restored state: it may lie.
    Restored,
}

/// L2 runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NonRoot {
    /// Address of the VMXON region.
    pub vmxon: Gpa,
    /// Address of the current VMCS.
    pub current: Gpa,
    /// Whether the entry is still to be carried out.
    pub run_pending: RunPending,
    /// A monitor-trap-flag exit is due at the next instruction boundary.
    pub mtf_pending: bool,
    /// TSC of L1 at which its preemption timer expires.
    pub timer_deadline: Option<u64>,
}

/// The VMX mode of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Not in VMX operation.
    #[default]
    VmxOff,
    /// In VMX root operation: L1 runs.
    Root(Root),
    /// In VMX non-root operation: L2 runs.
    NonRoot(NonRoot),
    /// In SMM, out of VMX operation for the time being. SDM 3C "Default Treatment of SMI Delivery",
    /// 32.14.1.
    Smm {
        /// What RSM goes back to.
        root: Root,
        /// RSM goes back into L2.
        resumes_l2: bool,
    },
}

impl State {
    /// Returns VMX operation's data, in root or non-root operation.
    pub const fn root(&self) -> Option<Root> {
        match self {
            Self::VmxOff | Self::Smm { .. } => None,
            Self::Root(root) => Some(*root),
            Self::NonRoot(l2) => Some(Root {
                vmxon: l2.vmxon,
                current: Some(l2.current),
            }),
        }
    }

    /// Returns whether L2 runs.
    #[inline]
    pub const fn is_non_root(&self) -> bool {
        matches!(self, Self::NonRoot(_))
    }

    /// Returns the state after an SMI; the caller has left L2 without an exit to L1.
    #[must_use]
    pub const fn after_smi(self) -> Self {
        match (self, self.root()) {
            (Self::NonRoot(_), Some(root)) => Self::Smm {
                root,
                resumes_l2: true,
            },
            (Self::Root(_), Some(root)) => Self::Smm {
                root,
                resumes_l2: false,
            },
            (other, _) => other,
        }
    }

    /// Returns the state after RSM, and whether L2 must be entered again.
    #[must_use]
    pub const fn after_rsm(self) -> (Self, bool) {
        match self {
            Self::Smm { root, resumes_l2 } => (Self::Root(root), resumes_l2),
            Self::VmxOff | Self::Root(_) | Self::NonRoot(_) => (self, false),
        }
    }

    /// Returns the state after an entry into L2; no change without a current VMCS.
    #[must_use]
    pub const fn after_entry(self, run_pending: RunPending) -> Self {
        match self {
            Self::Root(Root {
                vmxon,
                current: Some(current),
            }) => Self::NonRoot(NonRoot {
                vmxon,
                current,
                run_pending,
                mtf_pending: false,
                timer_deadline: None,
            }),
            Self::VmxOff | Self::Root(_) | Self::NonRoot(_) | Self::Smm { .. } => self,
        }
    }

    /// Returns the state after a VM exit to L1.
    #[must_use]
    pub const fn after_exit(self) -> Self {
        match self {
            Self::NonRoot(l2) => Self::Root(Root {
                vmxon: l2.vmxon,
                current: Some(l2.current),
            }),
            Self::VmxOff | Self::Root(_) | Self::Smm { .. } => self,
        }
    }
}

/// A VMX instruction, as far as the checks before its operation differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VmxInsn {
    /// VMXON.
    Vmxon,
    /// VMXOFF, VMCLEAR, VMPTRLD, VMPTRST, VMREAD, VMWRITE, VMLAUNCH and VMRESUME.
    Other,
    /// INVEPT.
    Invept,
    /// INVVPID.
    Invvpid,
}

/// The registers of the vCPU that the checks look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu {
    /// CR0 as the guest sees it.
    pub cr0: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// CS.L.
    pub is_cs_long: bool,
    /// Current privilege level, 0 to 3.
    pub cpl: u8,
    /// IA32_FEATURE_CONTROL.
    pub feature_control: u64,
}

const CR0_PE: u64 = 1;
const CR4_VMXE: u64 = 1 << 13;
const RFLAGS_VM: u64 = 1 << 17;
const EFER_LMA: u64 = 1 << 10;
/// IA32_FEATURE_CONTROL: lock, and VMXON outside SMX.
const FEATURE_CONTROL_VMX: u64 = 1 | (1 << 2);

/// Why a VMX instruction does not get to its operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// It faults.
    Fault(Exception),
    /// L2 executed it: VM exit to L1.
    ExitToL1,
    /// It fails before reading its operand.
    Fail(VmFail),
}

/// Runs the checks that come before an instruction's operation and before its memory operand.
///
/// SDM 3C "VMX Instructions", 31.3, the "Operation" of each.
///
/// # Errors
///
/// What happens instead of the operation.
pub fn precheck(insn: VmxInsn, state: &State, cpu: &Cpu, caps: &VmxCaps) -> Result<(), Stopped> {
    let is_compatibility = cpu.efer & EFER_LMA != 0 && !cpu.is_cs_long;
    let exists = match insn {
        VmxInsn::Vmxon => cpu.cr4 & CR4_VMXE != 0,
        VmxInsn::Other => state.root().is_some(),
        VmxInsn::Invept => {
            caps.proc2_allowed().ept() && caps.ept_vpid.invept() && state.root().is_some()
        }
        VmxInsn::Invvpid => {
            caps.proc2_allowed().vpid() && caps.ept_vpid.invvpid() && state.root().is_some()
        }
    };
    if !exists || cpu.cr0 & CR0_PE == 0 || cpu.rflags & RFLAGS_VM != 0 || is_compatibility {
        return Err(Stopped::Fault(Exception::UD));
    }
    if state.is_non_root() {
        return Err(Stopped::ExitToL1);
    }
    if cpu.cpl > 0 {
        return Err(Stopped::Fault(Exception::GP0));
    }
    if insn != VmxInsn::Vmxon {
        return Ok(());
    }
    if let Some(root) = state.root() {
        return Err(Stopped::Fail(fail(&root, VmInsnError::VmxonInRoot)));
    }
    let fixed =
        |value: u64, fixed0: u64, fixed1: u64| value & fixed0 == fixed0 && value & !fixed1 == 0;
    if !fixed(cpu.cr0, caps.cr0_fixed0, caps.cr0_fixed1)
        || !fixed(cpu.cr4, caps.cr4_fixed0, caps.cr4_fixed1)
        || cpu.feature_control & FEATURE_CONTROL_VMX != FEATURE_CONTROL_VMX
    {
        return Err(Stopped::Fault(Exception::GP0));
    }
    Ok(())
}

/// VMfail: with an error number where there is a current VMCS to hold it.
#[inline]
pub const fn fail(root: &Root, error: VmInsnError) -> VmFail {
    match root.current {
        Some(_) => VmFail::Valid(error),
        None => VmFail::Invalid,
    }
}

fn is_region(address: Gpa, env: &Env) -> bool {
    address.is_aligned(4096) && address.0.checked_shr(u32::from(env.phys_bits)).unwrap_or(0) == 0
}

/// VMXON of `region`, whose first 32 bits are `header` (`None` if no memory is there).
///
/// # Errors
///
/// VMfailInvalid.
pub fn vmxon(region: Gpa, header: Option<u32>, env: &Env) -> Result<State, VmFail> {
    if is_region(region, env) && header == Some(REVISION) {
        Ok(State::Root(Root {
            vmxon: region,
            current: None,
        }))
    } else {
        Err(VmFail::Invalid)
    }
}

/// What VMCLEAR does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vmclear {
    /// The VMCS is the current one: store it to memory as clear; there is no current VMCS then.
    Current,
    /// Set the launch state in the region to clear (after storing it, if it is cached).
    Other,
}

/// VMCLEAR of `region`; updates the current VMCS.
///
/// # Errors
///
/// Errors 2 and 3.
pub fn vmclear(root: &mut Root, region: Gpa, env: &Env) -> Result<Vmclear, VmFail> {
    if !is_region(region, env) {
        return Err(fail(root, VmInsnError::VmclearInvalidAddress));
    }
    if region == root.vmxon {
        return Err(fail(root, VmInsnError::VmclearVmxonPointer));
    }
    if root.current == Some(region) {
        root.current = None;
        return Ok(Vmclear::Current);
    }
    Ok(Vmclear::Other)
}

/// What VMPTRLD does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vmptrld {
    /// The region is the current VMCS already.
    Unchanged,
    /// Another VMCS becomes current; the old one stays active.
    Switched {
        /// The VMCS that was current.
        old: Option<Gpa>,
    },
}

/// VMPTRLD of `region`, whose first 32 bits are `header` (`None` if no memory is there: it reads as
/// ones); updates the current VMCS.
///
/// # Errors
///
/// Errors 9, 10 and 11.
pub fn vmptrld(
    root: &mut Root,
    region: Gpa,
    header: Option<u32>,
    caps: &VmxCaps,
    env: &Env,
) -> Result<Vmptrld, VmFail> {
    if !is_region(region, env) {
        return Err(fail(root, VmInsnError::VmptrldInvalidAddress));
    }
    if region == root.vmxon {
        return Err(fail(root, VmInsnError::VmptrldVmxonPointer));
    }
    if root.current == Some(region) {
        return Ok(Vmptrld::Unchanged);
    }
    let has_shadowing = caps.proc2_allowed().vmcs_shadowing();
    let header = header.unwrap_or(u32::MAX);
    let is_shadow = header >> 31 != 0;
    if header & 0x7fff_ffff != REVISION || (is_shadow && !has_shadowing) {
        return Err(fail(root, VmInsnError::VmptrldIncorrectRevision));
    }
    Ok(Vmptrld::Switched {
        old: root.current.replace(region),
    })
}

/// Returns what VMPTRST stores.
pub fn vmptrst(root: &Root) -> u64 {
    root.current.map_or(u64::MAX, |current| current.0)
}

/// The two instructions that enter L2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryInsn {
    /// VMLAUNCH.
    Vmlaunch,
    /// VMRESUME.
    Vmresume,
}

/// Whether events are blocked by MOV SS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MovSsBlocking {
    /// They are not.
    Open,
    /// They are.
    Blocked,
}

/// Runs the checks of VMLAUNCH and VMRESUME that come before those of the VMCS's fields; the
/// latter are [`vm_entry`](super::check::vm_entry).
///
/// # Errors
///
/// VMfailInvalid without a current VMCS or with a shadow VMCS; then error 26; then 4 or 5.
pub fn enter(
    insn: EntryInsn,
    root: &Root,
    vmcs12: &Vmcs12,
    blocking: MovSsBlocking,
) -> Result<(), VmFail> {
    if root.current.is_none() || vmcs12.is_shadow() {
        return Err(VmFail::Invalid);
    }
    if blocking == MovSsBlocking::Blocked {
        return Err(VmFail::Valid(VmInsnError::EntryEventsBlockedByMovSs));
    }
    match (insn, vmcs12.launch_state) {
        (EntryInsn::Vmlaunch, LaunchState::Launched) => {
            Err(VmFail::Valid(VmInsnError::VmlaunchNonclearVmcs))
        }
        (EntryInsn::Vmresume, LaunchState::Clear) => {
            Err(VmFail::Valid(VmInsnError::VmresumeNonlaunchedVmcs))
        }
        (EntryInsn::Vmlaunch, LaunchState::Clear)
        | (EntryInsn::Vmresume, LaunchState::Launched) => Ok(()),
    }
}

/// What INVEPT invalidates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invept {
    /// Mappings of one EPTP, whatever its flag for accessed and dirty bits.
    Single {
        /// The EPTP of the descriptor.
        eptp: u64,
    },
    /// Mappings of all EPTPs.
    All,
}

/// INVEPT of type `kind` (the register operand) with the first half of its descriptor.
///
/// # Errors
///
/// Error 28.
pub fn invept(kind: u64, eptp: u64, caps: &VmxCaps, env: &Env) -> Result<Invept, VmInsnError> {
    let cap = caps.ept_vpid;
    match kind {
        1 if cap.invept_single() && is_eptp(eptp, caps, env) => Ok(Invept::Single { eptp }),
        2 if cap.invept_all() => Ok(Invept::All),
        _ => Err(VmInsnError::InvalidInvalidationOperand),
    }
}

/// Returns whether INVEPT has type `kind`; it is checked before the descriptor is read.
pub fn is_invept_type(kind: u64, caps: &VmxCaps) -> bool {
    match kind {
        1 => caps.ept_vpid.invept_single(),
        2 => caps.ept_vpid.invept_all(),
        _ => false,
    }
}

/// Returns whether a VM entry with `eptp` would pass the checks of the EPT pointer.
pub fn is_eptp(eptp: u64, caps: &VmxCaps, env: &Env) -> bool {
    let (cap, eptp) = (caps.ept_vpid, super::super::vmx::ctls::Eptp(eptp));
    let has_type = match eptp.memory_type() {
        0 => cap.uncacheable(),
        6 => cap.write_back(),
        _ => false,
    };
    let has_levels = match eptp.walk_minus_1() {
        3 => cap.four_levels(),
        4 => cap.five_levels(),
        _ => false,
    };
    has_type
        && has_levels
        && (cap.accessed_dirty() || !eptp.accessed_dirty())
        && (cap.supervisor_shadow_stack() || !eptp.supervisor_shadow_stack())
        && eptp.reserved_low() == 0
        && eptp.0.checked_shr(u32::from(env.phys_bits)).unwrap_or(0) == 0
}

/// What INVVPID invalidates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invvpid {
    /// One address of one VPID.
    Address {
        /// The VPID.
        vpid: u16,
        /// The linear address.
        address: Gva,
    },
    /// One VPID.
    Single {
        /// The VPID.
        vpid: u16,
    },
    /// All VPIDs but 0.
    All,
    /// One VPID, but not its global translations.
    SingleRetainingGlobals {
        /// The VPID.
        vpid: u16,
    },
}

/// Returns whether INVVPID has type `kind`; it is checked before the descriptor is read.
pub fn is_invvpid_type(kind: u64, caps: &VmxCaps) -> bool {
    match kind {
        0 => caps.ept_vpid.invvpid_address(),
        1 => caps.ept_vpid.invvpid_single(),
        2 => caps.ept_vpid.invvpid_all(),
        3 => caps.ept_vpid.invvpid_single_non_global(),
        _ => false,
    }
}

/// INVVPID of type `kind` (the register operand) with the two halves of its descriptor.
/// `linear_bits` is the width of linear addresses that the guest's mode has.
///
/// # Errors
///
/// Error 28.
pub fn invvpid(
    kind: u64,
    descriptor: [u64; 2],
    linear_bits: u8,
    caps: &VmxCaps,
) -> Result<Invvpid, VmInsnError> {
    let bad = VmInsnError::InvalidInvalidationOperand;
    let [vpid, address] = descriptor;
    let vpid = u16::try_from(vpid).map_err(|_| bad)?;
    if !is_invvpid_type(kind, caps) || (kind != 2 && vpid == 0) {
        return Err(bad);
    }
    match kind {
        0 if is_canonical(address, linear_bits) => Ok(Invvpid::Address {
            vpid,
            address: Gva(address),
        }),
        1 => Ok(Invvpid::Single { vpid }),
        2 => Ok(Invvpid::All),
        3 => Ok(Invvpid::SingleRetainingGlobals { vpid }),
        _ => Err(bad),
    }
}

#[cfg(test)]
mod tests;
