// SPDX-License-Identifier: GPL-2.0

use super::super::super::vmx::ctls::Proc2Ctls;
use super::*;

/// Pages of L1: (page, offset, byte); all else is 0, and `hole` is not there.
#[derive(Default)]
struct Memory {
    bytes: Vec<(u64, u16, u8)>,
    hole: Option<u64>,
}

impl L1Memory for Memory {
    fn byte(&self, page: Gpa, offset: u16) -> Option<u8> {
        if self.hole == Some(page.0) {
            return None;
        }
        let found = self
            .bytes
            .iter()
            .find(|(p, o, _)| (*p, *o) == (page.0, offset));
        Some(found.map_or(0, |(_, _, byte)| *byte))
    }
}

fn exit(reason: ExitReason) -> Exit {
    Exit {
        reason,
        qualification: 0,
        intr_info: IntrInfo(0),
        intr_error_code: 0,
        operand: 0,
    }
}

fn with(proc: ProcCtls, proc2: Proc2Ctls) -> Vmcs12 {
    let mut v = Vmcs12::new();
    v.write(CPU_BASED_VM_EXEC_CONTROL, proc.with_secondary(true).0);
    v.write(SECONDARY_VM_EXEC_CONTROL, proc2.0);
    v
}

fn wants(v: &Vmcs12, exit: Exit) -> bool {
    owner(v, &exit, &L0Needs::default(), &Memory::default()) == Owner::L1
}

#[test]
fn each_control_decides_its_own_exits_and_no_other() {
    let p = ProcCtls(0);
    let q = Proc2Ctls(0);
    let table: &[(ExitReason, ProcCtls, Proc2Ctls)] = &[
        (ExitReason::InterruptWindow, p.with_intr_window(true), q),
        (ExitReason::NmiWindow, p.with_nmi_window(true), q),
        (ExitReason::Hlt, p.with_hlt_exiting(true), q),
        (ExitReason::Invlpg, p.with_invlpg_exiting(true), q),
        (ExitReason::Rdpmc, p.with_rdpmc_exiting(true), q),
        (ExitReason::Rdtsc, p.with_rdtsc_exiting(true), q),
        (ExitReason::Rdtscp, p.with_rdtsc_exiting(true), q),
        (ExitReason::Mwait, p.with_mwait_exiting(true), q),
        (ExitReason::Monitor, p.with_monitor_exiting(true), q),
        (ExitReason::DrAccess, p.with_mov_dr_exiting(true), q),
        (
            ExitReason::MonitorTrapFlag,
            p.with_monitor_trap_flag(true),
            q,
        ),
        (ExitReason::TprBelowThreshold, p.with_tpr_shadow(true), q),
        (ExitReason::Pause, p.with_pause_exiting(true), q),
        (ExitReason::Pause, p, q.with_pause_loop_exiting(true)),
        (ExitReason::IoInstruction, p.with_uncond_io_exiting(true), q),
        (ExitReason::GdtrIdtr, p, q.with_desc_exiting(true)),
        (ExitReason::LdtrTr, p, q.with_desc_exiting(true)),
        (ExitReason::Wbinvd, p, q.with_wbinvd_exiting(true)),
        (ExitReason::Rdrand, p, q.with_rdrand_exiting(true)),
        (ExitReason::Rdseed, p, q.with_rdseed_exiting(true)),
        (
            ExitReason::Invpcid,
            p.with_invlpg_exiting(true),
            q.with_invpcid(true),
        ),
        (
            ExitReason::Umwait,
            p.with_rdtsc_exiting(true),
            q.with_user_wait_pause(true),
        ),
        (
            ExitReason::Tpause,
            p.with_rdtsc_exiting(true),
            q.with_user_wait_pause(true),
        ),
    ];
    for (reason, proc, proc2) in table {
        assert!(wants(&with(*proc, *proc2), exit(*reason)), "{reason:?}");
        let all_but = with(
            ProcCtls(!proc.0)
                .with_secondary(true)
                .with_io_bitmaps(false),
            Proc2Ctls(!proc2.0).with_pause_loop_exiting(false),
        );
        let is_pause = *reason == ExitReason::Pause;
        assert!(
            is_pause || !wants(&all_but, exit(*reason)),
            "{reason:?} by another control"
        );
        assert!(
            !wants(&with(p, q), exit(*reason)),
            "{reason:?} with nothing set"
        );
    }
}

#[test]
fn invpcid_and_waits_need_both_of_their_controls() {
    let (p, q) = (ProcCtls(0), Proc2Ctls(0));
    for v in [
        with(p, q.with_invpcid(true)),
        with(p.with_invlpg_exiting(true), q),
    ] {
        assert!(!wants(&v, exit(ExitReason::Invpcid)));
    }
    for v in [
        with(p, q.with_user_wait_pause(true)),
        with(p.with_rdtsc_exiting(true), q),
    ] {
        assert!(!wants(&v, exit(ExitReason::Umwait)));
    }
}

#[test]
fn secondary_controls_count_only_when_activated() {
    let mut v = with(ProcCtls(0), Proc2Ctls(0).with_wbinvd_exiting(true));
    assert!(wants(&v, exit(ExitReason::Wbinvd)));
    v.write(CPU_BASED_VM_EXEC_CONTROL, 0);
    assert!(!wants(&v, exit(ExitReason::Wbinvd)));
}

#[test]
fn unconditional_exits_go_to_l1() {
    let v = with(ProcCtls(0), Proc2Ctls(0));
    for number in [
        2, 9, 10, 11, 13, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 33, 50, 53, 55,
    ] {
        let reason = ExitReason::from_number(number).unwrap();
        assert!(wants(&v, exit(reason)), "{reason:?}");
    }
}

#[test]
fn exits_of_the_host_never_go_to_l1() {
    let v = with(ProcCtls(u32::MAX), Proc2Ctls(u32::MAX));
    for number in [
        1, 3, 4, 5, 6, 17, 41, 48, 49, 52, 59, 62, 66, 74, 75, 76, 77,
    ] {
        let reason = ExitReason::from_number(number).unwrap();
        assert!(!wants(&v, exit(reason)), "{reason:?}");
    }
}

#[test]
fn cpuid_that_faults_is_l0s() {
    let v = with(ProcCtls(0), Proc2Ctls(0));
    let needs = L0Needs {
        cpuid_faulting: true,
        ..L0Needs::default()
    };
    assert_eq!(
        owner(&v, &exit(ExitReason::Cpuid), &needs, &Memory::default()),
        Owner::L0
    );
}

fn exception(vector: u8, error_code: u32) -> Exit {
    Exit {
        intr_info: IntrInfo::event(IntrType::HardwareException, vector),
        intr_error_code: error_code,
        ..exit(ExitReason::ExceptionNmi)
    }
}

#[test]
fn each_vector_follows_its_bit() {
    for bit in (0..32).filter(|n| *n != 14 && *n != 20) {
        let mut v = Vmcs12::new();
        v.write(PAGE_FAULT_ERROR_CODE_MASK, 1);
        v.write(EXCEPTION_BITMAP, 1 << bit);
        for vector in (0..32).filter(|n| *n != 14) {
            assert_eq!(
                wants(&v, exception(vector, 0)),
                vector == bit,
                "{vector} with {bit}"
            );
        }
    }
}

#[test]
fn page_fault_follows_bit_mask_and_match() {
    let mut v = Vmcs12::new();
    for (bit, mask, matched, error_code, want) in [
        (true, 0, 0, 2, true),
        (false, 0, 0, 2, false),
        (true, 0x10, 0x10, 0x11, true),
        (true, 0x10, 0x10, 0x01, false),
        (false, 0x10, 0x10, 0x11, false),
        (false, 0x10, 0x10, 0x01, true),
        (true, 0, 1, 0, false),
        (false, 0, 1, 0, true),
    ] {
        v.write(EXCEPTION_BITMAP, u32::from(bit) << 14);
        v.write(PAGE_FAULT_ERROR_CODE_MASK, mask);
        v.write(PAGE_FAULT_ERROR_CODE_MATCH, matched);
        assert_eq!(
            wants(&v, exception(14, error_code)),
            want,
            "{bit} {mask:#x} {matched:#x}"
        );
    }
}

#[test]
fn l0_keeps_the_exceptions_that_it_needs() {
    let mut v = Vmcs12::new();
    v.write(EXCEPTION_BITMAP, u32::MAX);
    let none = L0Needs::default();
    for (vector, needs) in [
        (
            14,
            L0Needs {
                page_faults: true,
                ..none
            },
        ),
        (
            1,
            L0Needs {
                debug_exceptions: true,
                ..none
            },
        ),
        (
            3,
            L0Needs {
                breakpoints: true,
                ..none
            },
        ),
        (
            17,
            L0Needs {
                split_lock: true,
                ..none
            },
        ),
    ] {
        let owner = |needs| owner(&v, &exception(vector, 0), &needs, &Memory::default());
        assert_eq!(owner(needs), Owner::L0);
        assert_eq!(owner(none), Owner::L1);
    }
    assert!(!wants(&v, exception(20, 0)), "#VE is L0's");
    let nmi = Exit {
        intr_info: IntrInfo::event(IntrType::Nmi, 2),
        ..exit(ExitReason::ExceptionNmi)
    };
    assert!(!wants(&v, nmi), "an NMI is the host's, though bit 2 is set");
}

#[test]
fn software_breakpoint_and_overflow_follow_the_bitmap() {
    let mut v = Vmcs12::new();
    for vector in [3, 4] {
        let int = Exit {
            intr_info: IntrInfo::event(IntrType::SoftwareException, vector),
            ..exit(ExitReason::ExceptionNmi)
        };
        v.write(EXCEPTION_BITMAP, 0);
        assert!(!wants(&v, int));
        v.write(EXCEPTION_BITMAP, 1 << vector);
        assert!(wants(&v, int));
    }
}

fn cr(qualification: u64, operand: u64) -> Exit {
    Exit {
        qualification,
        operand,
        ..exit(ExitReason::CrAccess)
    }
}

#[test]
fn mov_to_cr0_and_cr4_exit_for_masked_bits_that_differ_from_the_shadow() {
    for bit in 0..64 {
        let mut v = Vmcs12::new();
        v.write(CR0_GUEST_HOST_MASK, 1 << bit);
        v.write(CR4_GUEST_HOST_MASK, 1 << bit);
        v.write(CR0_READ_SHADOW, 1 << bit);
        assert!(wants(&v, cr(0, 0)) && !wants(&v, cr(0, u64::MAX)));
        assert!(wants(&v, cr(4, u64::MAX)) && !wants(&v, cr(4, !(1 << bit))));
    }
}

#[test]
fn cr3_and_cr8_follow_their_controls() {
    let p = ProcCtls(0);
    for (qualification, proc) in [
        (3, p.with_cr3_load_exiting(true)),
        (0x13, p.with_cr3_store_exiting(true)),
        (8, p.with_cr8_load_exiting(true)),
        (0x18, p.with_cr8_store_exiting(true)),
    ] {
        assert!(wants(&with(proc, Proc2Ctls(0)), cr(qualification, 0)));
        assert!(!wants(
            &with(ProcCtls(!proc.0), Proc2Ctls(0)),
            cr(qualification, 0)
        ));
    }
}

#[test]
fn clts_and_lmsw_exit_for_what_they_change() {
    let mut v = Vmcs12::new();
    let clts = cr(0x20, 0);
    let lmsw = |source: u64| cr(0x30 | source << 16, 0);
    v.write(CR0_GUEST_HOST_MASK, 0xf);
    v.write(CR0_READ_SHADOW, 0);
    assert!(!wants(&v, clts) && wants(&v, lmsw(1)) && wants(&v, lmsw(8)) && !wants(&v, lmsw(0)));
    assert!(
        !wants(&v, lmsw(0xfff0)),
        "LMSW touches the low four bits only"
    );
    v.write(CR0_READ_SHADOW, 9);
    assert!(wants(&v, clts) && wants(&v, lmsw(1)));
    assert!(!wants(&v, lmsw(8)), "LMSW cannot clear PE");
    v.write(CR0_GUEST_HOST_MASK, 0);
    assert!(!wants(&v, clts) && !wants(&v, lmsw(7)));
}

fn io(port: u64, size: u64) -> Exit {
    Exit {
        qualification: port << 16 | (size - 1),
        ..exit(ExitReason::IoInstruction)
    }
}

#[test]
fn io_bitmaps_cover_every_byte_of_the_access() {
    let mut v = with(ProcCtls(0).with_io_bitmaps(true), Proc2Ctls(0));
    v.write(IO_BITMAP_A, 0xa000);
    v.write(IO_BITMAP_B, 0xb000);
    // Ports 0x80, 0x7fff and 0x8001.
    let memory = Memory {
        bytes: vec![(0xa000, 0x10, 1), (0xa000, 0xfff, 0x80), (0xb000, 0, 2)],
        hole: None,
    };
    let wants = |port, size| owner(&v, &io(port, size), &L0Needs::default(), &memory) == Owner::L1;
    assert!(wants(0x80, 1) && !wants(0x81, 1) && !wants(0x7f, 1));
    assert!(wants(0x7f, 2) && wants(0x7d, 4) && !wants(0x7c, 4));
    assert!(wants(0x7fff, 1) && wants(0x8001, 1) && !wants(0x8000, 1));
    assert!(wants(0x8000, 2), "the second byte");
    assert!(
        !wants(0xffff, 1) && wants(0xffff, 2) && wants(0xfffd, 4),
        "wraps around"
    );
}

#[test]
fn unconditional_io_counts_without_bitmaps_only() {
    let both = ProcCtls(0)
        .with_io_bitmaps(true)
        .with_uncond_io_exiting(true);
    assert!(!wants(&with(both, Proc2Ctls(0)), io(0x80, 1)));
    assert!(wants(
        &with(both.with_io_bitmaps(false), Proc2Ctls(0)),
        io(0x80, 1)
    ));
}

#[test]
fn bitmap_without_memory_intercepts() {
    let mut v = with(
        ProcCtls(0).with_io_bitmaps(true).with_msr_bitmaps(true),
        Proc2Ctls(0),
    );
    v.write(IO_BITMAP_A, 0xa000);
    v.write(MSR_BITMAP, 0xa000);
    let memory = Memory {
        hole: Some(0xa000),
        ..Memory::default()
    };
    assert!(l1_wants(&v, &io(0x80, 1), &memory));
    assert!(l1_wants(&v, &exit(ExitReason::MsrRead), &memory));
}

#[test]
fn msr_bitmap_has_four_quarters_and_all_else_exits() {
    let mut v = with(ProcCtls(0).with_msr_bitmaps(true), Proc2Ctls(0));
    v.write(MSR_BITMAP, 0xc000);
    let msr = |reason, index| Exit {
        operand: index,
        ..exit(reason)
    };
    let (read, write) = (ExitReason::MsrRead, ExitReason::MsrWrite);
    for (byte, reason, index) in [
        (0, read, 0),
        (0x400, read, 0xc000_0000),
        (0x800, write, 0),
        (0xc00, write, 0xc000_0000),
    ] {
        let memory = Memory {
            bytes: vec![(0xc000, byte, 1)],
            hole: None,
        };
        for r in [read, write] {
            for i in [0, 1, 0xc000_0000, 0xc000_0001] {
                let want = (r, i) == (reason, index);
                assert_eq!(l1_wants(&v, &msr(r, i), &memory), want, "{r:?} {i:#x}");
            }
        }
        for outside in [0x2000, 0x4000_0000, 0xc000_2000, 0xffff_ffff] {
            assert!(l1_wants(&v, &msr(read, outside), &memory));
        }
    }
    v.write(CPU_BASED_VM_EXEC_CONTROL, 0);
    assert!(
        wants(&v, msr(read, 1)),
        "without a bitmap every access exits"
    );
}

#[test]
fn shadowed_fields_follow_the_vmread_and_vmwrite_bitmaps() {
    let mut v = with(ProcCtls(0), Proc2Ctls(0).with_vmcs_shadowing(true));
    v.write(VMREAD_BITMAP, 0x5000);
    v.write(VMWRITE_BITMAP, 0x6000);
    let memory = Memory {
        bytes: vec![(0x5000, 0x681e >> 3, 1 << 6)],
        hole: None,
    };
    let go = |v: &Vmcs12, reason, field| {
        let exit = Exit {
            operand: field,
            ..exit(reason)
        };
        l1_wants(v, &exit, &memory)
    };
    assert!(go(&v, ExitReason::Vmread, 0x681e));
    assert!(!go(&v, ExitReason::Vmwrite, 0x681e) && !go(&v, ExitReason::Vmread, 0x6820));
    assert!(go(&v, ExitReason::Vmread, 0x8000), "bits 63:15");
    assert!(go(&v, ExitReason::Vmread, 1 << 32));
    let unshadowed = with(ProcCtls(0), Proc2Ctls(0));
    assert!(go(&unshadowed, ExitReason::Vmwrite, 0x6820));
}

#[test]
fn injected_mtf_exits_without_the_control() {
    let mut v = with(ProcCtls(0), Proc2Ctls(0));
    v.write(
        VM_ENTRY_INTR_INFO_FIELD,
        IntrInfo::event(IntrType::OtherEvent, 0).0,
    );
    assert!(wants(&v, exit(ExitReason::MonitorTrapFlag)));
}
