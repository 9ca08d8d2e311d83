// SPDX-License-Identifier: GPL-2.0

//! Registers, as userspace reads and writes them.

use crate::{
    arch::cpu::Cpu,
    ioctl::events, //
};
use burrow_core::x86::{
    event::Event,
    regs::{
        debug::{
            Dr6,
            Dr7, //
        },
        sregs::{
            self,
            Sregs, //
        },
        write::{
            self,
            Fixed, //
        },
        Cr0,
        Cr3,
        Cr4,
        Efer,
        Gpr,
        Rflags,
        Xcr0, //
    },
    segment::{
        Dtable,
        Fields,
        Name,
        Segment, //
    },
    vmx::field::*, //
};
use burrow_sys::uapi::{
    self,
    *, //
};
use kernel::prelude::*;

/// `KVM_GET_REGS`.
pub(super) fn get_regs(cpu: &Cpu<'_>) -> kvm_regs {
    let gpr = |reg: Gpr| cpu.gpr(reg.number());
    kvm_regs {
        rax: gpr(Gpr::Rax),
        rbx: gpr(Gpr::Rbx),
        rcx: gpr(Gpr::Rcx),
        rdx: gpr(Gpr::Rdx),
        rsi: gpr(Gpr::Rsi),
        rdi: gpr(Gpr::Rdi),
        rsp: gpr(Gpr::Rsp),
        rbp: gpr(Gpr::Rbp),
        r8: gpr(Gpr::R8),
        r9: gpr(Gpr::R9),
        r10: gpr(Gpr::R10),
        r11: gpr(Gpr::R11),
        r12: gpr(Gpr::R12),
        r13: gpr(Gpr::R13),
        r14: gpr(Gpr::R14),
        r15: gpr(Gpr::R15),
        rip: cpu.rip(),
        rflags: cpu.rflags().0,
    }
}

/// `KVM_SET_REGS`. A pending exception is dropped, as the instruction that it belonged to is.
pub(super) fn set_regs(cpu: &mut Cpu<'_>, regs: &kvm_regs) {
    let values = [
        (Gpr::Rax, regs.rax),
        (Gpr::Rbx, regs.rbx),
        (Gpr::Rcx, regs.rcx),
        (Gpr::Rdx, regs.rdx),
        (Gpr::Rsi, regs.rsi),
        (Gpr::Rdi, regs.rdi),
        (Gpr::Rsp, regs.rsp),
        (Gpr::Rbp, regs.rbp),
        (Gpr::R8, regs.r8),
        (Gpr::R9, regs.r9),
        (Gpr::R10, regs.r10),
        (Gpr::R11, regs.r11),
        (Gpr::R12, regs.r12),
        (Gpr::R13, regs.r13),
        (Gpr::R14, regs.r14),
        (Gpr::R15, regs.r15),
    ];
    for (reg, value) in values {
        cpu.set_gpr(reg.number(), value);
    }
    cpu.set_rip(regs.rip);
    cpu.set_rflags(Rflags(regs.rflags & Rflags::DEFINED));
    cpu.arch.events.drop_exception_and_injected();
}

fn to_uapi(segment: Segment) -> kvm_segment {
    let f = segment.to_fields();
    kvm_segment {
        base: f.base,
        limit: f.limit,
        selector: f.selector,
        type_: f.type_,
        present: f.present,
        dpl: f.dpl,
        db: f.db,
        s: f.s,
        l: f.l,
        g: f.g,
        avl: f.avl,
        unusable: f.unusable,
        padding: 0,
    }
}

fn from_uapi(segment: &kvm_segment, name: Name) -> Segment {
    let fields = Fields {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.type_,
        present: segment.present,
        dpl: segment.dpl,
        db: segment.db,
        s: segment.s,
        l: segment.l,
        g: segment.g,
        avl: segment.avl,
        unusable: segment.unusable,
    };
    Segment::from_fields(&fields, name)
}

fn table_to_uapi(table: Dtable) -> kvm_dtable {
    kvm_dtable {
        base: table.base,
        limit: table.limit,
        padding: [0; 3],
    }
}

/// `KVM_GET_SREGS`.
pub(super) fn get_sregs(cpu: &mut Cpu<'_>) -> kvm_sregs {
    let mut interrupt_bitmap = [0u64; 4];
    let injected = match cpu.arch.events.injected() {
        Some(Event::Interrupt { vector }) => Some(vector),
        _ => cpu.arch.user_interrupt,
    };
    if let Some(vector) = injected {
        interrupt_bitmap[usize::from(vector / 64)] = 1 << (vector % 64);
    }
    let regs = get_sregs2(cpu);
    kvm_sregs {
        cs: regs.cs,
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
        ss: regs.ss,
        tr: regs.tr,
        ldt: regs.ldt,
        gdt: regs.gdt,
        idt: regs.idt,
        cr0: regs.cr0,
        cr2: regs.cr2,
        cr3: regs.cr3,
        cr4: regs.cr4,
        cr8: regs.cr8,
        efer: regs.efer,
        apic_base: regs.apic_base,
        interrupt_bitmap,
    }
}

/// `KVM_GET_SREGS2`: the PDPTEs in the place of the interrupt, which `KVM_GET_VCPU_EVENTS` tells.
pub(super) fn get_sregs2(cpu: &mut Cpu<'_>) -> kvm_sregs2 {
    events::apply_payload(cpu);
    let segment = |name| to_uapi(cpu.segment(name));
    let (flags, pdptrs) = match cpu.is_pae_paging() {
        true => (u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID), cpu.pdptrs()),
        false => (0, [0; 4]),
    };
    kvm_sregs2 {
        cs: segment(Name::Cs),
        ds: segment(Name::Ds),
        es: segment(Name::Es),
        fs: segment(Name::Fs),
        gs: segment(Name::Gs),
        ss: segment(Name::Ss),
        tr: segment(Name::Tr),
        ldt: segment(Name::Ldtr),
        gdt: table_to_uapi(cpu.gdtr()),
        idt: table_to_uapi(cpu.idtr()),
        cr0: cpu.cr0().0,
        cr2: cpu.hw.cr2(),
        cr3: cpu.cr3(),
        cr4: cpu.cr4().0,
        cr8: u64::from(cpu.cr8()),
        efer: cpu.efer().0,
        apic_base: cpu.apic_base(),
        flags,
        pdptrs,
    }
}

/// `KVM_SET_SREGS`.
///
/// # Errors
///
/// `EINVAL` for registers that make no mode of the processor.
pub(super) fn set_sregs(cpu: &mut Cpu<'_>, regs: &kvm_sregs) -> Result {
    let bitmap = regs.interrupt_bitmap;
    let regs = kvm_sregs2 {
        cs: regs.cs,
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
        ss: regs.ss,
        tr: regs.tr,
        ldt: regs.ldt,
        gdt: regs.gdt,
        idt: regs.idt,
        cr0: regs.cr0,
        cr2: regs.cr2,
        cr3: regs.cr3,
        cr4: regs.cr4,
        cr8: regs.cr8,
        efer: regs.efer,
        apic_base: regs.apic_base,
        flags: 0,
        pdptrs: [0; 4],
    };
    set_sregs2(cpu, &regs)?;
    take_interrupt(cpu, &bitmap);
    Ok(())
}

/// `KVM_SET_SREGS2`.
///
/// # Errors
///
/// `EINVAL` for registers that make no mode of the processor, an unknown flag, or PDPTEs in a mode
/// without.
pub(super) fn set_sregs2(cpu: &mut Cpu<'_>, regs: &kvm_sregs2) -> Result {
    let (cr0, cr4, efer) = (Cr0(regs.cr0), Cr4(regs.cr4), Efer(regs.efer));
    let has_pdptrs = regs.flags & u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0;
    if regs.flags & !u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0
        || has_pdptrs && !write::is_pae_paging(cr0, cr4, efer)
    {
        return Err(EINVAL);
    }
    let wanted = Sregs {
        cr0,
        cr3: Cr3(regs.cr3),
        cr4,
        cr8: regs.cr8,
        efer,
        cs_long: regs.cs.l != 0,
        is_smm: cpu.is_smm(),
        cr0_fixed: Fixed::NONE,
        cr4_fixed: Fixed::NONE,
    };
    if !sregs::is_valid(&wanted, &cpu.arch.cpuid.limits) {
        return Err(EINVAL);
    }
    cpu.set_apic_base(regs.apic_base)?;
    set_segments(cpu, regs);
    cpu.hw.set_cr2(regs.cr2);
    cpu.vmcs().set(GUEST_CR3, regs.cr3);
    if let Ok(priority) = write::mov_to_cr8(regs.cr8) {
        cpu.set_cr8(priority);
    }
    cpu.store_efer(efer);
    cpu.store_cr0(cr0);
    cpu.store_cr4(cr4);
    cpu.cpuid_follows_registers();
    if has_pdptrs {
        cpu.set_pdptrs(&regs.pdptrs);
    } else if cpu.is_pae_paging() {
        let _ = cpu.load_pdptrs(regs.cr3);
    }
    cpu.arch.vpid.request_flush();
    Ok(())
}

fn set_segments(cpu: &mut Cpu<'_>, regs: &kvm_sregs2) {
    let segments = [
        (Name::Cs, &regs.cs),
        (Name::Ds, &regs.ds),
        (Name::Es, &regs.es),
        (Name::Fs, &regs.fs),
        (Name::Gs, &regs.gs),
        (Name::Ss, &regs.ss),
        (Name::Tr, &regs.tr),
        (Name::Ldtr, &regs.ldt),
    ];
    for (name, segment) in segments {
        cpu.set_segment(name, from_uapi(segment, name));
    }
    cpu.set_gdtr(Dtable {
        base: regs.gdt.base,
        limit: regs.gdt.limit,
    });
    cpu.set_idtr(Dtable {
        base: regs.idt.base,
        limit: regs.idt.limit,
    });
}

/// Takes over the interrupt whose delivery was cut short when the state was saved.
fn take_interrupt(cpu: &mut Cpu<'_>, bitmap: &[u64; 4]) {
    for (word, bits) in (0u8..).zip(bitmap) {
        if *bits != 0 {
            // CAST: below 64.
            cpu.arch.user_interrupt = Some(word * 64 + bits.trailing_zeros() as u8);
            return;
        }
    }
}

/// `KVM_GET_DEBUGREGS`.
pub(super) fn get_debugregs(cpu: &mut Cpu<'_>) -> kvm_debugregs {
    events::apply_payload(cpu);
    kvm_debugregs {
        db: cpu.arch.debug.address,
        dr6: cpu.arch.debug.dr6,
        dr7: cpu.arch.debug.dr7,
        flags: 0,
        reserved: [0; 9],
    }
}

/// `KVM_SET_DEBUGREGS`.
///
/// # Errors
///
/// `EINVAL` for flags, or set bits in the upper half of DR6 or DR7.
pub(super) fn set_debugregs(cpu: &mut Cpu<'_>, regs: &kvm_debugregs) -> Result {
    if regs.flags != 0 || (regs.dr6 | regs.dr7) >> 32 != 0 {
        return Err(EINVAL);
    }
    let limits = cpu.arch.cpuid.limits;
    cpu.arch.debug.address = regs.db;
    cpu.arch.debug.dr6 = Dr6::normalized(regs.dr6, &limits).0;
    cpu.store_dr7(Dr7::normalized(regs.dr7, &limits).0);
    Ok(())
}

/// The size in bytes of the state that `KVM_GET_XSAVE` returns.
const XSAVE_SIZE: usize = 4096;

/// Returns the whole extended state.
fn xsave_image(cpu: &mut Cpu<'_>) -> Result<KVec<u8>> {
    let x = &mut cpu.arch.extended;
    let size = x.fpu.uabi_size().max(XSAVE_SIZE);
    let mut image = KVec::from_elem(0u8, size, GFP_KERNEL)?;
    // x87 and SSE are always there.
    x.fpu
        .copy_out(&mut image, cpu.arch.cpuid.limits.xcr0_allowed | 3, x.pkru);
    Ok(image)
}

/// `KVM_GET_XSAVE`.
///
/// # Errors
///
/// `EINVAL` when the state is larger than the structure.
pub(super) fn get_xsave(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let image = xsave_image(cpu)?;
    if image.len() > XSAVE_SIZE {
        return Err(EINVAL);
    }
    uapi::write_bytes(arg, &image)
}

/// `KVM_GET_XSAVE2`.
pub(super) fn get_xsave2(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let image = xsave_image(cpu)?;
    uapi::write_bytes(arg, &image)
}

/// `KVM_SET_XSAVE`.
///
/// # Errors
///
/// `EINVAL` for features outside of what the guest can have.
pub(super) fn set_xsave(cpu: &mut Cpu<'_>, arg: usize) -> Result {
    let x = &mut cpu.arch.extended;
    let size = x.fpu.uabi_size().max(XSAVE_SIZE);
    let image = uapi::read_bytes(arg, size)?;
    x.fpu.copy_in(&image, crate::host::host().xcr0, &mut x.pkru)
}

/// Offsets in the legacy region of the XSAVE area. SDM 1 "Legacy Region of an XSAVE Area", 13.4.1.
mod legacy {
    pub(super) const FCW: usize = 0;
    pub(super) const FSW: usize = 2;
    pub(super) const FTW: usize = 4;
    pub(super) const FOP: usize = 6;
    pub(super) const FIP: usize = 8;
    pub(super) const FDP: usize = 16;
    pub(super) const MXCSR: usize = 24;
    pub(super) const ST: usize = 32;
    pub(super) const XMM: usize = 160;
    /// XSTATE_BV.
    pub(super) const XSTATE_BV: usize = 512;
}

/// The legacy region, and the header as far as XSTATE_BV.
type Legacy = [u8; 520];

fn bytes_at<const N: usize>(image: &Legacy, at: usize) -> [u8; N] {
    let bytes = image.get(at..).and_then(<[u8]>::first_chunk);
    bytes.copied().unwrap_or([0; N])
}

fn put(image: &mut Legacy, at: usize, bytes: &[u8]) {
    for (to, from) in image.iter_mut().skip(at).zip(bytes) {
        *to = *from;
    }
}

/// `KVM_GET_FPU`.
pub(super) fn get_fpu(cpu: &mut Cpu<'_>) -> Result<kvm_fpu> {
    let image = xsave_image(cpu)?;
    let image: &Legacy = image.first_chunk().ok_or(EINVAL)?;
    let [ftwx] = bytes_at(image, legacy::FTW);
    let mut fpu = kvm_fpu {
        fcw: u16::from_le_bytes(bytes_at(image, legacy::FCW)),
        fsw: u16::from_le_bytes(bytes_at(image, legacy::FSW)),
        ftwx,
        last_opcode: u16::from_le_bytes(bytes_at(image, legacy::FOP)),
        last_ip: u64::from_le_bytes(bytes_at(image, legacy::FIP)),
        last_dp: u64::from_le_bytes(bytes_at(image, legacy::FDP)),
        mxcsr: u32::from_le_bytes(bytes_at(image, legacy::MXCSR)),
        ..kvm_fpu::default()
    };
    for (register, at) in fpu.fpr.iter_mut().zip((legacy::ST..).step_by(16)) {
        *register = bytes_at(image, at);
    }
    for (register, at) in fpu.xmm.iter_mut().zip((legacy::XMM..).step_by(16)) {
        *register = bytes_at(image, at);
    }
    Ok(fpu)
}

/// `KVM_SET_FPU`.
pub(super) fn set_fpu(cpu: &mut Cpu<'_>, fpu: &kvm_fpu) -> Result {
    const X87_SSE: u8 = 3;
    let mut whole = xsave_image(cpu)?;
    let image: &mut Legacy = whole.first_chunk_mut().ok_or(EINVAL)?;
    put(image, legacy::FCW, &fpu.fcw.to_le_bytes());
    put(image, legacy::FSW, &fpu.fsw.to_le_bytes());
    put(image, legacy::FTW, &[fpu.ftwx]);
    put(image, legacy::FOP, &fpu.last_opcode.to_le_bytes());
    put(image, legacy::FIP, &fpu.last_ip.to_le_bytes());
    put(image, legacy::FDP, &fpu.last_dp.to_le_bytes());
    put(image, legacy::MXCSR, &fpu.mxcsr.to_le_bytes());
    for (register, at) in fpu.fpr.iter().zip((legacy::ST..).step_by(16)) {
        put(image, at, register);
    }
    for (register, at) in fpu.xmm.iter().zip((legacy::XMM..).step_by(16)) {
        put(image, at, register);
    }
    let [features] = bytes_at(image, legacy::XSTATE_BV);
    put(image, legacy::XSTATE_BV, &[features | X87_SSE]);
    let x = &mut cpu.arch.extended;
    x.fpu.copy_in(&whole, crate::host::host().xcr0, &mut x.pkru)
}

/// `KVM_GET_XCRS`.
///
/// # Errors
///
/// `EINVAL` without XSAVE.
pub(super) fn get_xcrs(cpu: &Cpu<'_>) -> Result<kvm_xcrs> {
    if crate::host::host().xcr0 == 0 {
        return Err(EINVAL);
    }
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..kvm_xcrs::default()
    };
    xcrs.xcrs[0].value = cpu.arch.extended.xcr0;
    Ok(xcrs)
}

/// `KVM_SET_XCRS`.
///
/// # Errors
///
/// `EINVAL` without XSAVE, for too many registers, flags, or an illegal XCR0.
pub(super) fn set_xcrs(cpu: &mut Cpu<'_>, xcrs: &kvm_xcrs) -> Result {
    if crate::host::host().xcr0 == 0 || xcrs.flags != 0 {
        return Err(EINVAL);
    }
    let given = xcrs.xcrs.get(..xcrs.nr_xcrs as usize).ok_or(EINVAL)?;
    if let Some(xcr) = given.iter().find(|xcr| xcr.xcr == 0) {
        if !write::is_valid_xcr0(Xcr0(xcr.value), &cpu.arch.cpuid.limits) {
            return Err(EINVAL);
        }
        cpu.arch.extended.xcr0 = xcr.value;
        cpu.cpuid_follows_registers();
    }
    Ok(())
}
