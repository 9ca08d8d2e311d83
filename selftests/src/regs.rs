// SPDX-License-Identifier: GPL-2.0

//! Register state: what goes in comes out, and what is not valid is refused.

use kvm_bindings::*;
use libc::EINVAL;

use crate::{
    code,
    group,
    guest::{
        Apic,
        Guest,
        Mode,
        CODE,
        DATA, //
    },
    ioctl::*,
    kvm::*, //
};

group!("regs":
    general_registers_round_trip,
    the_guest_sees_general_registers,
    rip_and_rflags_are_the_guests,
    long_mode_without_paging_is_refused,
    paging_without_pae_in_long_mode_is_refused,
    a_64_bit_segment_without_long_mode_is_refused,
    reserved_control_register_bits_are_refused,
    sregs_round_trip,
    cr8_is_in_sregs_and_kvm_run,
    control_registers_are_the_guests,
    fpu_round_trips,
    fpu_state_survives_exits,
    avx_state_survives_exits_and_threads,
    avx512_state_is_each_vcpus_own,
    x87_state_survives_exits,
    xsave_round_trips,
    xcr0_rules,
    xsetbv_is_the_guests,
    debug_registers_round_trip,
    debug_registers_are_the_guests,
    a_hardware_breakpoint_hits,
    kvm_run_shows_interrupt_state,
);

fn general_registers_round_trip() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    let regs = kvm_regs {
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rsp: 7,
        rbp: 8,
        r8: 9,
        r9: 10,
        r10: 11,
        r11: 12,
        r12: 13,
        r13: 14,
        r14: 15,
        r15: u64::MAX,
        rip: 0x1234_5678,
        rflags: 0x202,
    };
    vcpu.set_regs(&regs);
    assert_eq!(vcpu.regs(), regs);
}

fn the_guest_sees_general_registers() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "add rax, rbx",
            "add rax, rcx",
            "add rax, rdx",
            "add rax, rsi",
            "add rax, rdi",
            "add rax, rbp",
            "add rax, r8",
            "add rax, r9",
            "add rax, r10",
            "add rax, r11",
            "add rax, r12",
            "add rax, r13",
            "add rax, r14",
            "add rax, r15",
            "inc rbx",
            "inc rcx",
            "inc rdx",
            "inc rsi",
            "inc rdi",
            "inc rbp",
            "inc r8",
            "inc r9",
            "inc r10",
            "inc r11",
            "inc r12",
            "inc r13",
            "inc r14",
            "inc r15",
            "out 0xe1, eax",
            "hlt"
        ),
    );
    let mut regs = guest.cpu().regs();
    regs.rax = 1 << 0;
    regs.rbx = 1 << 1;
    regs.rcx = 1 << 2;
    regs.rdx = 1 << 3;
    regs.rsi = 1 << 4;
    regs.rdi = 1 << 5;
    regs.rbp = 1 << 6;
    regs.r8 = 1 << 7;
    regs.r9 = 1 << 8;
    regs.r10 = 1 << 9;
    regs.r11 = 1 << 10;
    regs.r12 = 1 << 11;
    regs.r13 = 1 << 12;
    regs.r14 = 1 << 13;
    regs.r15 = 1 << 14;
    guest.cpu().set_regs(&regs);
    assert_eq!(guest.run_to_done(), 0x7fff);
    guest.run_to_hlt();
    let after = guest.cpu().regs();
    assert_eq!((after.rbx, after.rbp, after.r8), (3, 0x41, 0x81));
    assert_eq!((after.rdi, after.r11, after.r15), (0x21, 0x401, 0x4001));
}

fn rip_and_rflags_are_the_guests() {
    let guest = Guest::new(Mode::Long, code!(64, "hlt", "stc", "std", "hlt"));
    let mut regs = guest.cpu().regs();
    regs.rip = CODE + 1;
    guest.cpu().set_regs(&regs);
    guest.run_to_hlt();
    let regs = guest.cpu().regs();
    assert_eq!((regs.rip, regs.rflags), (CODE + 4, 0x403));
}

/// Sets the special registers of a 64-bit guest after `change`.
fn try_sregs(change: impl FnOnce(&mut kvm_sregs)) -> Result {
    let guest = Guest::new(Mode::Long, code!(64, "hlt"));
    let mut sregs = guest.cpu().sregs();
    change(&mut sregs);
    guest.cpu().set(KVM_SET_SREGS, sregs)
}

fn long_mode_without_paging_is_refused() {
    assert_eq!(try_sregs(|sregs| sregs.cr0 &= !0x8000_0000), Err(EINVAL));
    assert_eq!(try_sregs(|sregs| sregs.efer = 0x100), Err(EINVAL));
}

fn paging_without_pae_in_long_mode_is_refused() {
    assert_eq!(try_sregs(|sregs| sregs.cr4 &= !0x20), Err(EINVAL));
    assert_eq!(try_sregs(|sregs| sregs.cr3 = 1 << 62), Err(EINVAL));
}

fn a_64_bit_segment_without_long_mode_is_refused() {
    let guest = Guest::new(Mode::Protected, code!(32, "hlt"));
    let mut sregs = guest.cpu().sregs();
    sregs.cs.l = 1;
    assert_eq!(guest.cpu().set(KVM_SET_SREGS, sregs), Err(EINVAL));
}

fn reserved_control_register_bits_are_refused() {
    assert_eq!(try_sregs(|sregs| sregs.cr4 |= 1 << 63), Err(EINVAL));
    assert_eq!(try_sregs(|sregs| sregs.cr4 |= 1 << 15), Err(EINVAL));
    assert_eq!(try_sregs(|sregs| sregs.cr0 |= 1 << 32), Err(EINVAL));
    assert_eq!(try_sregs(|sregs| sregs.efer |= 1 << 20), Err(EINVAL));
    // CR0.PG without CR0.PE, and CR0.NW without CR0.CD.
    assert_eq!(try_sregs(|sregs| sregs.cr0 &= !1), Err(EINVAL));
    assert_eq!(try_sregs(|sregs| sregs.cr0 |= 1 << 29), Err(EINVAL));
    assert_eq!(try_sregs(|_| ()), Ok(0));
}

fn sregs_round_trip() {
    let guest = Guest::new(Mode::Long, code!(64, "hlt"));
    let mut sregs = guest.cpu().sregs();
    sregs.fs.base = 0x7fff_1234_5678;
    sregs.gs.base = 0xffff_8000_0000_1000;
    sregs.gdt.limit = 0x27;
    sregs.cr2 = 0xdead_b000;
    sregs.ldt.base = 0x5000;
    sregs.ldt.unusable = 1;
    guest.cpu().set_sregs(&sregs);
    let read = guest.cpu().sregs();
    assert_eq!((read.fs.base, read.gs.base), (sregs.fs.base, sregs.gs.base));
    assert_eq!((read.gdt.limit, read.cr2), (0x27, 0xdead_b000));
    assert_eq!((read.cs, read.tr, read.ss), (sregs.cs, sregs.tr, sregs.ss));
    assert_eq!(
        (read.cr0, read.cr3, read.cr4),
        (sregs.cr0, sregs.cr3, sregs.cr4)
    );
    guest.run_to_hlt();
    assert_eq!(guest.cpu().sregs().gs.base, sregs.gs.base);
}

fn cr8_is_in_sregs_and_kvm_run() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov rax, cr8", "out 0xe1, eax", "hlt"),
    );
    let mut sregs = guest.cpu().sregs();
    sregs.cr8 = 5;
    guest.cpu().set_sregs(&sregs);
    // Without the kernel's local APIC, the VMM's value goes in with each run.
    guest.cpu().shared().cr8 = 9;
    assert_eq!(guest.run_to_done(), 9);
    assert_eq!(guest.cpu().shared().cr8, 9);
    assert_eq!(guest.cpu().sregs().cr8, 9);
}

fn control_registers_are_the_guests() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov rax, cr0",
            "or eax, 0x10000",
            "mov cr0, rax",
            "mov rax, cr0",
            "mov [0x20000], rax",
            "mov rax, cr4",
            "or eax, 0x80",
            "mov cr4, rax",
            "mov rax, cr4",
            "mov [0x20008], rax",
            "mov rax, cr3",
            "mov cr3, rax",
            "mov [0x20010], rax",
            "mov eax, 0x1234",
            "mov cr2, rax",
            "clts",
            "smsw ax",
            "mov [0x20018], rax",
            "hlt"
        ),
    );
    guest.run_to_hlt();
    let sregs = guest.cpu().sregs();
    assert_eq!(sregs.cr0 & 0x10000, 0x10000);
    assert_eq!(guest.memory.read::<u64>(DATA), sregs.cr0);
    assert_eq!(guest.memory.read::<u64>(DATA + 8), sregs.cr4);
    assert_eq!(guest.memory.read::<u64>(DATA + 16), sregs.cr3);
    assert_eq!(guest.memory.read::<u16>(DATA + 24), sregs.cr0 as u16);
    assert_eq!((sregs.cr2, sregs.cr4 & 0x80), (0x1234, 0x80));
}

fn fpu_round_trips() {
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    let mut fpu = kvm_fpu {
        fcw: 0x27f,
        ..Default::default()
    };
    fpu.xmm[3] = [0x5a; 16];
    fpu.fpr[2] = [7; 16];
    fpu.fpr[2][10..].fill(0);
    assert_eq!(vcpu.set(KVM_SET_FPU, fpu), Ok(0));
    let read: kvm_fpu = vcpu.get(KVM_GET_FPU);
    // Upstream neither takes nor gives `mxcsr`, whatever the structure says.
    assert_eq!(read.fcw, 0x27f);
    assert_eq!(
        (read.xmm[3], read.fpr[2][..10].to_vec()),
        ([0x5a; 16], vec![7; 10])
    );
}

fn fpu_state_survives_exits() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov eax, 0x11111111",
            "movd xmm7, eax",
            "pshufd xmm7, xmm7, 0",
            "mov ecx, 20",
            "2:",
            "out 0xe1, eax",
            "movd eax, xmm7",
            "paddd xmm7, xmm7",
            "loop 2b",
            "movdqu [0x20000], xmm7",
            "hlt"
        ),
    );
    for _ in 0..20 {
        guest.run_to_done();
        clobber_xmm();
    }
    guest.run_to_hlt();
    let expected = 0x1111_1111u32.wrapping_shl(20);
    for lane in 0..4 {
        assert_eq!(guest.memory.read::<u32>(DATA + 4 * lane), expected);
    }
}

/// Leaves other values in the host's own vector registers.
fn clobber_xmm() {
    // SAFETY: The registers are declared as clobbered.
    unsafe {
        core::arch::asm!(
            "pcmpeqd xmm7, xmm7",
            "pcmpeqd xmm0, xmm0",
            out("xmm7") _,
            out("xmm0") _,
        );
    }
}

fn has_avx() -> bool {
    supported_cpuid()
        .find(1, 0)
        .is_some_and(|leaf| (leaf.ecx >> 28) & 1 == 1)
}

fn avx_state_survives_exits_and_threads() {
    if !has_avx() {
        crate::harness::skip("no AVX");
    }
    let mut guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov rax, cr4",
            "or eax, 0x40000",
            "mov cr4, rax",
            "xor ecx, ecx",
            "xor edx, edx",
            "mov eax, 7",
            "xsetbv",
            "mov eax, 0x01010101",
            "movd xmm9, eax",
            "vpbroadcastd ymm9, xmm9",
            "mov ecx, 10",
            "2:",
            "out 0xe1, eax",
            "vpaddd ymm9, ymm9, ymm9",
            "loop 2b",
            "vmovdqu [0x20000], ymm9",
            "hlt"
        ),
    );
    for _ in 0..10 {
        guest = std::thread::spawn(move || {
            guest.run_to_done();
            clobber_xmm();
            guest
        })
        .join()
        .expect("thread");
    }
    guest.run_to_hlt();
    for lane in 0..8 {
        let value = guest.memory.read::<u32>(DATA + 4 * lane);
        assert_eq!(value, 0x0101_0101 << 10, "lane {lane}");
    }
}

fn has_avx512() -> bool {
    let mut cpuid = supported_cpuid();
    let has_it = cpuid
        .find(7, 0)
        .is_some_and(|leaf| leaf.ebx & (1 << 16) != 0);
    has_it
        && cpuid
            .find(0xd, 0)
            .is_some_and(|leaf| leaf.eax & 0xe7 == 0xe7)
}

/// Two vCPUs take turns on one thread. Of the state, some is in the upper halves of the first registers, some
/// in registers that only AVX-512 has, some in the masks.
fn avx512_state_is_each_vcpus_own() {
    if !has_avx512() {
        crate::harness::skip("no AVX-512");
    }
    const AREA: u64 = 0x100;
    let guest = Guest::with(
        Mode::Long,
        Apic::None,
        2,
        code!(
            64,
            "mov rax, cr4",
            "or eax, 0x40000",
            "mov cr4, rax",
            "xor ecx, ecx",
            "xor edx, edx",
            "mov eax, 0xe7",
            "xsetbv",
            "vpbroadcastd zmm3, edi",
            "vpbroadcastd zmm20, edi",
            "kmovw k5, edi",
            "mov ecx, 10",
            "2:",
            "out 0xe1, eax",
            "vpaddd zmm3, zmm3, zmm3",
            "vpaddd zmm20, zmm20, zmm20",
            "loop 2b",
            "vmovdqu32 [rsi], zmm3",
            "vmovdqu32 [rsi + 64], zmm20",
            "kmovw eax, k5",
            "mov [rsi + 128], eax",
            "hlt"
        ),
    );
    for (id, vcpu) in (0..).zip(&guest.vcpus) {
        let mut regs = vcpu.regs();
        (regs.rdi, regs.rsi) = (id + 1, DATA + AREA * id);
        vcpu.set_regs(&regs);
    }
    for _ in 0..10 {
        for vcpu in &guest.vcpus {
            assert!(matches!(vcpu.run(), Exit::Out(0xe1, ..)));
            clobber_xmm();
        }
    }
    for (id, vcpu) in (0..).zip(&guest.vcpus) {
        assert_eq!(vcpu.run(), Exit::Hlt);
        let at = DATA + AREA * id;
        for lane in 0..32 {
            let value = u64::from(guest.memory.read::<u32>(at + 4 * lane));
            assert_eq!(value, (id + 1) << 10, "vCPU {id}, lane {lane}");
        }
        assert_eq!(u64::from(guest.memory.read::<u32>(at + 128)), id + 1);
    }
}

fn x87_state_survives_exits() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "fninit",
            "fld1",
            "fldpi",
            "mov ecx, 5",
            "2:",
            "out 0xe1, al",
            "fadd st(1), st(0)",
            "loop 2b",
            "fistp dword ptr [0x20000]",
            "fistp dword ptr [0x20004]",
            "hlt"
        ),
    );
    for _ in 0..5 {
        guest.run_to_done();
    }
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u32>(DATA), 3);
    assert_eq!(guest.memory.read::<u32>(DATA + 4), 17); // 1 + 5 pi.
}

/// `struct kvm_xsave` without AMX.
#[derive(Clone, Copy, PartialEq)]
struct Xsave([u32; 1024]);

impl Default for Xsave {
    fn default() -> Self {
        Self([0; 1024])
    }
}

fn xsave_round_trips() {
    require(KVM_CAP_XSAVE, "KVM_CAP_XSAVE");
    let guest = Guest::new(Mode::Long, code!(64, "movdqu [0x20000], xmm2", "hlt"));
    let mut state: Xsave = guest.cpu().get(KVM_GET_XSAVE);
    state.0[128] |= 3; // XSTATE_BV: x87 and SSE.
    state.0[6] = 0x1f80; // MXCSR.
    state.0[40 + 8] = 0xcafe_f00d; // XMM2.
    assert_eq!(guest.cpu().set(KVM_SET_XSAVE, state), Ok(0));
    guest.run_to_hlt();
    assert_eq!(guest.memory.read::<u32>(DATA), 0xcafe_f00d);
    let read: Xsave = guest.cpu().get(KVM_GET_XSAVE);
    assert_eq!(read.0[48], 0xcafe_f00d);
    // A component that no CPU has.
    state.0[129] = 1 << 30;
    assert_eq!(guest.cpu().set(KVM_SET_XSAVE, state), Err(EINVAL));
}

fn xcrs(value: u64) -> kvm_xcrs {
    let mut xcrs = kvm_xcrs {
        nr_xcrs: 1,
        ..Default::default()
    };
    xcrs.xcrs[0].value = value;
    xcrs
}

fn xcr0_rules() {
    require(KVM_CAP_XCRS, "KVM_CAP_XCRS");
    let guest = Guest::new(Mode::Long, code!(64, "hlt"));
    let read: kvm_xcrs = guest.cpu().get(KVM_GET_XCRS);
    assert_eq!(
        (read.nr_xcrs, read.xcrs[0].xcr, read.xcrs[0].value),
        (1, 0, 1)
    );
    assert_eq!(guest.cpu().set(KVM_SET_XCRS, xcrs(3)), Ok(0));
    // x87 cannot be off, AVX needs SSE, and nobody has bit 62.
    for bad in [0, 2, 5, 1 | (1 << 62)] {
        assert_eq!(
            guest.cpu().set(KVM_SET_XCRS, xcrs(bad)),
            Err(EINVAL),
            "{bad:#x}"
        );
    }
    let mut flagged = xcrs(1);
    flagged.flags = 1;
    assert_eq!(guest.cpu().set(KVM_SET_XCRS, flagged), Err(EINVAL));
}

fn xsetbv_is_the_guests() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov rax, cr4",
            "or eax, 0x40000",
            "mov cr4, rax",
            "xor ecx, ecx",
            "xor edx, edx",
            "mov eax, 3",
            "xsetbv",
            "xgetbv",
            "out 0xe1, eax",
            // SSE off but AVX on: a general-protection exception.
            "mov eax, 5",
            "xsetbv",
            "hlt"
        ),
    );
    assert_eq!(guest.run_to_done(), 3);
    guest.run_to_exception(13);
}

fn debug_registers_round_trip() {
    require(KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS");
    let vm = Vm::new();
    let vcpu = vm.vcpu(0);
    let fresh: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS);
    assert_eq!((fresh.dr6, fresh.dr7), (0xffff_0ff0, 0x400));
    let regs = kvm_debugregs {
        db: [0x1000, 0x2000, 0x3000, 0x4000],
        dr6: 0xffff_4ff0,
        dr7: 0x401,
        ..Default::default()
    };
    assert_eq!(vcpu.set(KVM_SET_DEBUGREGS, regs), Ok(0));
    let read: kvm_debugregs = vcpu.get(KVM_GET_DEBUGREGS);
    assert_eq!((read.db, read.dr6, read.dr7), (regs.db, regs.dr6, regs.dr7));
    // The upper halves of DR6 and DR7 must be zero; flags are not known.
    for bad in [
        kvm_debugregs {
            dr6: 1 << 32,
            ..regs
        },
        kvm_debugregs {
            dr7: 1 << 32,
            ..regs
        },
        kvm_debugregs { flags: 1, ..regs },
    ] {
        assert_eq!(vcpu.set(KVM_SET_DEBUGREGS, bad), Err(EINVAL));
    }
}

fn debug_registers_are_the_guests() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov eax, 0x12345678",
            "mov dr0, rax",
            "mov eax, 0x9abcdef0",
            "mov dr3, rax",
            "mov ecx, 3",
            "2:",
            "out 0xe1, al",
            "loop 2b",
            "mov rax, dr0",
            "mov [0x20000], rax",
            "mov rax, dr3",
            "mov [0x20008], rax",
            "mov rax, dr7",
            "mov [0x20010], rax",
            "mov rax, dr6",
            "mov [0x20018], rax",
            "hlt"
        ),
    );
    for _ in 0..3 {
        guest.run_to_done();
    }
    guest.run_to_hlt();
    let read = |n: u64| guest.memory.read::<u64>(DATA + 8 * n);
    assert_eq!((read(0), read(1)), (0x1234_5678, 0x9abc_def0));
    assert_eq!((read(2), read(3)), (0x400, 0xffff_0ff0));
}

fn a_hardware_breakpoint_hits() {
    let guest = Guest::new(
        Mode::Long,
        // The breakpoint is on the write, after an exit.
        code!(
            64,
            "mov eax, 0x20000",
            "mov dr1, rax",
            "mov eax, 0xd00404",
            "mov dr7, rax",
            "out 0xe1, al",
            "mov dword ptr [0x20000], 5",
            "nop",
            "hlt"
        ),
    );
    guest.run_to_done();
    guest.run_to_exception(1);
    assert_eq!(guest.memory.read::<u32>(DATA), 5);
    if capability(KVM_CAP_DEBUGREGS) > 0 {
        let regs: kvm_debugregs = guest.cpu().get(KVM_GET_DEBUGREGS);
        assert_eq!(regs.dr6 & 0xf, 2);
    }
}

fn kvm_run_shows_interrupt_state() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "out 0xe1, al",
            "sti",
            "nop",
            "out 0xe1, al",
            "cli",
            "out 0xe1, al"
        ),
    );
    for if_flag in [0, 1, 0] {
        guest.run_to_done();
        assert_eq!(guest.cpu().shared().if_flag, if_flag);
    }
    assert_eq!(guest.cpu().shared().apic_base & 0xf_ffff_f000, 0xfee0_0000);
}
