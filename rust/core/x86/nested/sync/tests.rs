// SPDX-License-Identifier: GPL-2.0

use super::super::super::vmx::exit::ExitReason;
use super::super::check::{
    tests::valid,
    vm_entry, //
};
use super::super::merge::tests::l0;
use super::super::merge::{
    merge,
    EntryCause, //
};
use super::super::vmcs12::{
    Groups,
    LaunchState, //
};
use super::*;
use proptest::prelude::*;

fn l2() -> L2Values {
    L2Values {
        activity: ActivityState::Active,
        efer: 0xd01,
        dr7: 0x403,
        debugctl: 2,
        preemption_timer: 99,
    }
}

fn entered() -> (Vmcs12, TableVmcs) {
    let mut f = valid();
    let mut vmcs02 = TableVmcs::new();
    merge(
        &f.vmcs12,
        &l0(),
        EntryCause::Fresh,
        Groups::ALL,
        &mut vmcs02,
    );
    f.vmcs12.clear_dirty();
    (f.vmcs12, vmcs02)
}

fn edit_exit(v: &mut Vmcs12, edit: fn(ExitCtls) -> ExitCtls) {
    let word = edit(ExitCtls(v.read(VM_EXIT_CONTROLS)));
    v.put_synced(VM_EXIT_CONTROLS, word.0);
}

#[test]
fn exit_at_once_changes_no_guest_state() {
    let (mut v, vmcs02) = entered();
    let before = v.clone();
    eager(&mut v, &vmcs02, &l2());
    lazy(&mut v, &vmcs02);
    for (name, encoding) in ALL {
        if *encoding != VMX_PREEMPTION_TIMER_VALUE.encoding() {
            assert_eq!(v.read_raw(*encoding), before.read_raw(*encoding), "{name}");
        }
    }
    assert!(v.dirty().is_empty(), "what vmcs02 holds as well is clean");
}

#[test]
fn saved_controls_decide_what_is_saved() {
    let (mut v, vmcs02) = entered();
    eager(
        &mut v,
        &vmcs02,
        &L2Values {
            efer: 0xd00,
            ..l2()
        },
    );
    assert_eq!(v.read(GUEST_DR7), 0x400, "save debug controls is 0");
    assert_eq!(v.read(GUEST_IA32_EFER), 0xd01);
    assert_eq!(v.read(VMX_PREEMPTION_TIMER_VALUE), 99);
    edit_exit(&mut v, |c| c.with_save_debug(true).with_save_efer(true));
    eager(
        &mut v,
        &vmcs02,
        &L2Values {
            efer: 0xd00,
            ..l2()
        },
    );
    assert_eq!((v.read(GUEST_DR7), v.read(GUEST_IA32_DEBUGCTL)), (0x403, 2));
    assert_eq!(v.read(GUEST_IA32_EFER), 0xd00);
}

#[test]
fn leaving_long_mode_clears_the_entry_control() {
    let (mut v, vmcs02) = entered();
    eager(
        &mut v,
        &vmcs02,
        &L2Values {
            efer: 0x801,
            ..l2()
        },
    );
    assert!(!EntryCtls(v.read(VM_ENTRY_CONTROLS)).ia32e());
}

#[test]
fn pdptes_come_back_with_pae_paging_under_ept() {
    let (mut v, mut vmcs02) = entered();
    vmcs02.write(GUEST_PDPTR1, 0x5001);
    eager(&mut v, &vmcs02, &l2());
    assert_eq!(v.read(GUEST_PDPTR1), 0, "64-bit paging has none");
    eager(
        &mut v,
        &vmcs02,
        &L2Values {
            efer: 0x801,
            ..l2()
        },
    );
    assert_eq!(v.read(GUEST_PDPTR1), 0x5001);
}

#[test]
fn emulated_halt_shows_in_the_activity_state() {
    let (mut v, vmcs02) = entered();
    eager(
        &mut v,
        &vmcs02,
        &L2Values {
            activity: ActivityState::Hlt,
            ..l2()
        },
    );
    assert_eq!(v.read(GUEST_ACTIVITY_STATE), 1);
}

#[test]
fn segments_are_lazy() {
    let (mut v, mut vmcs02) = entered();
    vmcs02.write(GUEST_DS_BASE, 0x1234);
    vmcs02.write(GUEST_RIP, 0x4321);
    eager(&mut v, &vmcs02, &l2());
    assert_eq!((v.read(GUEST_RIP), v.read(GUEST_DS_BASE)), (0x4321, 0));
    assert!(is_lazy(GUEST_DS_BASE.encoding()) && !is_lazy(GUEST_RIP.encoding()));
    assert!(!is_lazy(GUEST_CS_AR_BYTES.encoding()));
    lazy(&mut v, &vmcs02);
    assert_eq!(v.read(GUEST_DS_BASE), 0x1234);
}

#[test]
fn every_field_that_is_fetched_late_is_lazy() {
    let mut vmcs02 = TableVmcs::new();
    for (_, encoding) in ALL {
        vmcs02.write_raw(*encoding, 0x1_f0ff);
    }
    let mut v = Vmcs12::new();
    lazy(&mut v, &vmcs02);
    let eager = [GUEST_CS_AR_BYTES.encoding(), GUEST_SS_AR_BYTES.encoding()];
    for (name, encoding) in ALL {
        let is_fetched = v.read_raw(*encoding) != 0 && !eager.contains(encoding);
        assert_eq!(is_fetched, is_lazy(*encoding), "{name}");
    }
}

/// All groups whose change does not call for what is fetched late.
const WITHOUT_LAZY: [Groups; 13] = [
    Groups::WINDOWS,
    Groups::EVENT,
    Groups::EPTP,
    Groups::TSC,
    Groups::BITMAPS,
    Groups::APIC,
    Groups::HOST,
    Groups::MSRS,
    Groups::RUN,
    Groups::LINK,
    Groups::INFO,
    Groups::RIP,
    Groups::EXCEPTIONS,
];

#[test]
fn checks_and_merge_of_other_groups_do_without_what_is_late() {
    let mut f = valid();
    let groups = WITHOUT_LAZY.into_iter().fold(Groups::NONE, Groups::union);
    assert!(!groups.intersects(NEEDS_LAZY));
    assert_eq!(groups.union(NEEDS_LAZY), Groups::ALL);
    let merged = |v: &Vmcs12| {
        let mut vmcs02 = TableVmcs::new();
        merge(v, &l0(), EntryCause::Fresh, groups, &mut vmcs02);
        let read = |(_, encoding): &(_, Encoding)| vmcs02.read_raw(*encoding);
        ALL.iter().map(read).collect::<Vec<_>>()
    };
    let right = merged(&f.vmcs12);
    f.vmcs12.clear_dirty();
    f.vmcs12.mark_dirty(groups);
    for (_, encoding) in ALL.iter().filter(|(_, encoding)| is_lazy(*encoding)) {
        // What no check of segments lets pass.
        f.vmcs12.put_synced_raw(*encoding, 0xffff_ffff_ffff_fffe);
    }
    assert!(vm_entry(&f.entry()).is_ok());
    assert_eq!(merged(&f.vmcs12), right);
    f.vmcs12.mark_dirty(NEEDS_LAZY);
    assert!(
        vm_entry(&f.entry()).is_err(),
        "which shows that they are bad"
    );
}

fn info() -> ExitInfo {
    ExitInfo {
        reason: ExitReasonWord::exit(ExitReason::ExceptionNmi),
        qualification: 0x1111,
        intr_info: 0x8000_0b0e,
        intr_error_code: 2,
        idt_vectoring: 0x8000_0020,
        idt_error_code: 9,
        instruction_len: 3,
        instruction_info: 4,
        linear_address: Some(5),
        physical_address: None,
    }
}

#[test]
fn exit_records_all_and_consumes_the_injected_event() {
    let (mut v, _) = entered();
    v.put_synced(VM_ENTRY_INTR_INFO_FIELD, 0x8000_0020);
    v.put_synced(GUEST_PHYSICAL_ADDRESS, 77);
    v.put_synced(IDT_VECTORING_ERROR_CODE, 66);
    record_exit(&mut v, &info());
    assert_eq!(
        (v.read(VM_EXIT_REASON), v.read(EXIT_QUALIFICATION)),
        (0, 0x1111)
    );
    assert_eq!(
        (v.read(VM_EXIT_INTR_INFO), v.read(VM_EXIT_INTR_ERROR_CODE)),
        (0x8000_0b0e, 2)
    );
    assert_eq!(v.read(IDT_VECTORING_INFO_FIELD), 0x8000_0020);
    assert_eq!(
        v.read(IDT_VECTORING_ERROR_CODE),
        66,
        "that event has no error code"
    );
    assert_eq!(
        (
            v.read(VM_EXIT_INSTRUCTION_LEN),
            v.read(VMX_INSTRUCTION_INFO)
        ),
        (3, 4)
    );
    assert_eq!(
        (v.read(GUEST_LINEAR_ADDRESS), v.read(GUEST_PHYSICAL_ADDRESS)),
        (5, 77)
    );
    assert_eq!(v.read(VM_ENTRY_INTR_INFO_FIELD), 0x20);
    assert_eq!(v.launch_state, LaunchState::Launched);
}

#[test]
fn exit_from_the_delivery_of_an_nmi_leaves_nmis_blocked_and_due_in_vmcs02() {
    for (vectoring, blocked) in [
        (0x8000_0202, true),
        (0x0000_0202, false),
        (0x8000_0302, false),
    ] {
        let (mut v, _) = entered();
        let info = ExitInfo {
            idt_vectoring: vectoring,
            ..info()
        };
        record_exit(&mut v, &info);
        let state = Interruptibility(v.read(GUEST_INTERRUPTIBILITY_INFO));
        assert_eq!(state.nmi(), blocked, "{vectoring:#x}");
        assert_eq!(v.dirty().intersects(Groups::RUN), blocked, "{vectoring:#x}");
    }
}

#[test]
fn lmsw_has_a_linear_address_with_a_memory_operand_only() {
    let word = ExitReasonWord::exit(ExitReason::CrAccess);
    assert!(has_linear_address(word, 3 << 4 | 1 << 6));
    assert!(!has_linear_address(word, 3 << 4));
    assert!(!has_linear_address(word, 1 << 6), "MOV to CR0");
    assert!(has_linear_address(
        ExitReasonWord::exit(ExitReason::EptViolation),
        0
    ));
    assert!(!has_linear_address(
        ExitReasonWord::exit(ExitReason::Cpuid),
        0
    ));
}

#[test]
fn failed_entry_records_reason_and_qualification_only() {
    let (mut v, _) = entered();
    v.put_synced(VM_ENTRY_INTR_INFO_FIELD, 0x8000_0020);
    let before = v.clone();
    let reason = ExitReasonWord::failed_entry(ExitReason::InvalidState);
    record_exit(
        &mut v,
        &ExitInfo {
            reason,
            qualification: 4,
            ..info()
        },
    );
    assert_eq!(
        (v.read(VM_EXIT_REASON), v.read(EXIT_QUALIFICATION)),
        (0x8000_0021, 4)
    );
    assert_eq!(v.launch_state, LaunchState::Clear);
    for (name, encoding) in ALL {
        if ![VM_EXIT_REASON.encoding(), EXIT_QUALIFICATION.encoding()].contains(encoding) {
            assert_eq!(v.read_raw(*encoding), before.read_raw(*encoding), "{name}");
        }
    }
}

#[test]
fn host_state_follows_the_exit_controls() {
    let (mut v, _) = entered();
    let host = host_state(&v, 0x6000_0010, 0x500);
    assert_eq!(host.cr0, 0x8001_0021 | 0x6000_0010, "CD, NW and ET stay");
    assert_eq!((host.cr3, host.cr4, host.efer), (0x3000, 0x2020, 0xd01));
    assert!(host.pat.is_some() && host.perf_global_ctrl.is_some() && host.cet.is_some());
    assert!(!host.has_pae_paging);
    edit_exit(&mut v, |c| {
        c.with_load_efer(false)
            .with_load_pat(false)
            .with_load_cet(false)
    });
    v.put_synced(HOST_CR4, 0x2000);
    let host = host_state(&v, 0, 0x801);
    assert_eq!(host.cr4, 0x2020, "a 64-bit host has PAE");
    assert_eq!((host.efer, host.pat, host.cet), (0xd01, None, None));
    edit_exit(&mut v, |c| c.with_host_64bit(false));
    v.put_synced(HOST_CR4, 0x2_2020);
    let host = host_state(&v, 0, 0xd01);
    assert_eq!((host.efer, host.cr4), (0x801, 0x2020), "no LME, no PCIDE");
    assert!(host.has_pae_paging);
}

#[test]
fn loaded_host_segments_are_those_of_the_manual() {
    let (mut v, _) = entered();
    v.put_synced(HOST_GS_BASE, 0xffff_8000_1234_0000);
    v.put_synced(HOST_GS_SELECTOR, 0x28);
    let mut vmcs01 = TableVmcs::new();
    load_host_state(&v, NmiBlocking::Blocked, &mut vmcs01);
    assert_eq!(vmcs01.read(GUEST_CS_AR_BYTES), 0xa09b);
    assert_eq!(vmcs01.read(GUEST_SS_AR_BYTES), 0xc093);
    assert_eq!(
        vmcs01.read(GUEST_DS_AR_BYTES),
        0x1_c093,
        "a null selector is unusable"
    );
    assert_eq!(vmcs01.read(GUEST_LDTR_AR_BYTES), 0x1_0000);
    assert_eq!(
        (vmcs01.read(GUEST_TR_AR_BYTES), vmcs01.read(GUEST_TR_LIMIT)),
        (0x8b, 0x67)
    );
    assert_eq!(vmcs01.read(GUEST_GS_BASE), 0xffff_8000_1234_0000);
    assert_eq!(vmcs01.read(GUEST_GDTR_LIMIT), 0xffff);
    assert_eq!(
        (vmcs01.read(GUEST_RFLAGS), vmcs01.read(GUEST_DR7)),
        (2, 0x400)
    );
    assert_eq!(vmcs01.read(GUEST_RIP), 0xffff_ffff_8100_0000);
    assert_eq!(vmcs01.read(GUEST_INTERRUPTIBILITY_INFO), 8);
    edit_exit(&mut v, |c| c.with_host_64bit(false));
    load_host_state(&v, NmiBlocking::Open, &mut vmcs01);
    assert_eq!(vmcs01.read(GUEST_CS_AR_BYTES), 0xc09b);
    assert_eq!(vmcs01.read(GUEST_INTERRUPTIBILITY_INFO), 0);
}

proptest! {
    /// Whatever L2 does to CR4 by itself or through L0, L1 sees it; masked bits stay.
    #[test]
    fn control_registers_come_back(
        guest: u64, mask: u64, shadow: u64, owned: u64, own_writes: u64, l0_writes: u64,
    ) {
        let mut f = valid();
        f.set(GUEST_CR4, guest);
        f.set(CR4_GUEST_HOST_MASK, mask);
        f.set(CR4_READ_SHADOW, shadow);
        let mut l0 = l0();
        l0.cr4_guest_owned = owned & !l0.cr4_forced;
        let mut vmcs02 = TableVmcs::new();
        merge(&f.vmcs12, &l0, EntryCause::Fresh, Groups::ALL, &mut vmcs02);
        // L2 flips bits that it owns; L0 emulates flips of bits that only L0 masks.
        let mask02 = vmcs02.read(CR4_GUEST_HOST_MASK);
        let by_l2 = own_writes & !mask02;
        let by_l0 = l0_writes & mask02 & !mask;
        vmcs02.write(GUEST_CR4, vmcs02.read(GUEST_CR4) ^ by_l2);
        vmcs02.write(CR4_READ_SHADOW, vmcs02.read(CR4_READ_SHADOW) ^ by_l0);
        eager(&mut f.vmcs12, &vmcs02, &l2());
        prop_assert_eq!(f.vmcs12.read(GUEST_CR4), guest ^ by_l2 ^ by_l0);
    }
}
