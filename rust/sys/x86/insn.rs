// SPDX-License-Identifier: GPL-2.0

//! Single instructions: VMX, MSRs, CPUID, XCR0.
//!
//! Invariant: each function executes one instruction whose effect on the processor is the one its
//! documentation states; those that would fault where VMX has been switched off under us (an
//! emergency reboot) have an exception-table entry and report failure instead.

use crate::bindings;
use core::arch::asm;

/// VMfail, or VMX switched off under us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmxFailed;

/// Exception-table entry: on a fault at label `3`, go on at label `4` with 1 in RAX.
///
/// The number is `EX_TYPE_IMM_REG` with register 0 (RAX) and the immediate 1, as in
/// `arch/x86/include/asm/extable_fixup_types.h`.
macro_rules! extable_one_in_rax {
    () => {
        concat!(
            ".pushsection \"__ex_table\", \"a\"\n",
            ".balign 4\n",
            ".long 3b - .\n",
            ".long 4f - .\n",
            ".long 0x10011\n",
            ".popsection\n",
            "4:\n"
        )
    };
}

/// Executes `$insn`, whose success is told by CF = ZF = 0.
macro_rules! vmx {
    ($insn:literal, $($operand:tt)*) => {{
        let failed: u8;
        // SAFETY: The instruction's effect is the one the calling function documents; a fault ends at
        // the label behind with `failed` set.
        unsafe {
            asm!(
                concat!("3: ", $insn, "\nsetna al\n"),
                extable_one_in_rax!(),
                out("al") failed,
                $($operand)*
            )
        };
        if failed == 0 { Ok(()) } else { Err(VmxFailed) }
    }};
}

/// Reads a field of the current VMCS.
#[inline]
pub(crate) fn vmread(encoding: u32) -> Result<u64, VmxFailed> {
    let value: u64;
    let result = vmx!(
        "vmread {value}, {field}",
        field = in(reg) u64::from(encoding),
        value = out(reg) value,
        options(nomem, nostack)
    );
    result.map(|()| value)
}

/// Writes a field of the current VMCS.
///
/// # Safety
///
/// The value must not make the next VM exit continue anywhere but in `burrow_vmexit`, with the
/// host's own state.
#[inline]
pub(crate) unsafe fn vmwrite(encoding: u32, value: u64) -> Result<(), VmxFailed> {
    vmx!(
        "vmwrite {field}, {value}",
        field = in(reg) u64::from(encoding),
        value = in(reg) value,
        options(nomem, nostack)
    )
}

/// Writes a field of the current VMCS, without a word on whether that failed.
///
/// # Safety
///
/// As for [`vmwrite`].
#[inline]
pub(crate) unsafe fn vmwrite_unchecked(encoding: u32, value: u64) {
    // SAFETY: The caller answers for the value; nothing else is touched.
    unsafe {
        asm!(
            "vmwrite {field}, {value}",
            field = in(reg) u64::from(encoding),
            value = in(reg) value,
            options(nomem, nostack)
        )
    };
}

/// Makes the VMCS at physical address `*region` current.
///
/// # Safety
///
/// `region` must be an initialised VMCS region that is not active on another CPU.
#[inline]
pub(crate) unsafe fn vmptrld(region: &u64) -> Result<(), VmxFailed> {
    vmx!("vmptrld [{region}]", region = in(reg) region, options(nostack))
}

/// Writes the VMCS at physical address `*region` back to memory and makes it clear and inactive.
///
/// # Safety
///
/// `region` must be a VMCS region that is not active on another CPU.
#[inline]
pub(crate) unsafe fn vmclear(region: &u64) -> Result<(), VmxFailed> {
    vmx!("vmclear [{region}]", region = in(reg) region, options(nostack))
}

/// The operand of INVEPT. SDM 3C "INVEPT", 32.3.
#[repr(C, align(16))]
struct InveptDescriptor(u64, u64);

/// What INVEPT is to touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invept {
    /// Mappings derived from one EPT pointer.
    Single(u64),
    /// All guest-physical and combined mappings.
    All,
}

/// Invalidates guest-physical and combined mappings of the current CPU.
///
/// # Errors
///
/// [`VmxFailed`] when the CPU does not support the type or VMX is off.
#[inline]
pub fn invept(what: Invept) -> Result<(), VmxFailed> {
    let (kind, eptp) = match what {
        Invept::Single(eptp) => (1u64, eptp),
        Invept::All => (2, 0),
    };
    let descriptor = InveptDescriptor(eptp, 0);
    vmx!(
        "invept {kind}, [{descriptor}]",
        kind = in(reg) kind,
        descriptor = in(reg) &descriptor,
        options(nostack)
    )
}

/// What INVVPID is to touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invvpid {
    /// Mappings of one linear address under one VPID.
    Address(u16, u64),
    /// Mappings under one VPID.
    Single(u16),
    /// Mappings under every VPID but 0.
    All,
}

/// Invalidates linear and combined mappings of the current CPU.
///
/// # Errors
///
/// [`VmxFailed`] when the CPU does not support the type, the VPID is 0 or VMX is off.
#[inline]
pub fn invvpid(what: Invvpid) -> Result<(), VmxFailed> {
    let (kind, vpid, address) = match what {
        Invvpid::Address(vpid, address) => (0u64, vpid, address),
        Invvpid::Single(vpid) => (1, vpid, 0),
        Invvpid::All => (2, 0, 0),
    };
    let descriptor = InveptDescriptor(u64::from(vpid), address);
    vmx!(
        "invvpid {kind}, [{descriptor}]",
        kind = in(reg) kind,
        descriptor = in(reg) &descriptor,
        options(nostack)
    )
}

/// Reads an MSR; `None` when the CPU does not have it.
pub fn rdmsr(index: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: Reads of MSRs have no effect; `value` is writable.
    let failed = unsafe { bindings::burrow_rdmsr_safe(index, &mut value) };
    (failed == 0).then_some(value)
}

/// Writes an MSR; `false` when the CPU refused.
///
/// # Safety
///
/// The value must be one that the host can run with, or be replaced before the host needs it.
pub(crate) unsafe fn wrmsr(index: u32, value: u64) -> bool {
    // SAFETY: The caller vouches for the value; a fault is caught.
    unsafe { bindings::burrow_wrmsr_safe(index, value) == 0 }
}

/// The four registers that CPUID returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Executes CPUID.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    // SAFETY: Every 64-bit CPU has CPUID, and it has no effect.
    let r = unsafe { core::arch::x86_64::__cpuid_count(leaf, subleaf) };
    CpuidResult {
        eax: r.eax,
        ebx: r.ebx,
        ecx: r.ecx,
        edx: r.edx,
    }
}

/// Returns the time-stamp counter.
#[inline]
pub fn rdtsc() -> u64 {
    // SAFETY: Every 64-bit CPU has RDTSC, and the kernel does not forbid it to itself.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Loads XCR0.
///
/// # Safety
///
/// `value` must be legal for the CPU, and the host's value must be back before the host uses extended
/// state.
#[inline]
pub(crate) unsafe fn xsetbv0(value: u64) {
    // CAST: the instruction takes the two halves.
    let (low, high) = (value as u32, (value >> 32) as u32);
    // SAFETY: XSAVE is on in the host, or the caller had no value to load.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nostack)) };
}

/// Writes all modified cache lines back and invalidates the caches.
pub fn wbinvd() {
    // SAFETY: Costs time, but changes nothing that software sees.
    unsafe { asm!("wbinvd", options(nostack)) };
}
