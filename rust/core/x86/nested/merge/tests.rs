// SPDX-License-Identifier: GPL-2.0

use super::super::super::vmx::caps::{
    HostSupport,
    Params, //
};
use super::super::super::vmx::ctls::{
    ActivityState,
    ExitCtls,
    IntrInfo,
    IntrType, //
};
use super::super::caps::tests::hardware;
use super::super::check::tests::{
    valid,
    Fixture, //
};
use super::super::sync::{
    self,
    L2Values, //
};
use super::*;
use proptest::prelude::*;

/// Pages at addresses that no vmcs12 of these tests has.
const PAGES: Pages = Pages {
    msr_bitmap: Some(Hpa(0x1111_1000)),
    virtual_apic: Some(Hpa(0x2222_2000)),
    apic_access: Some(Hpa(0x3333_3000)),
    posted_intr: Some(Hpa(0x4444_4000)),
};

/// A vmcs12 with these secondary controls, and nothing else.
pub(in super::super) fn with_proc2(proc2: Proc2Ctls) -> Vmcs12 {
    let mut v = Vmcs12::new();
    let proc = ProcCtls(0).with_secondary(true);
    v.write(CPU_BASED_VM_EXEC_CONTROL, proc.0);
    v.write(SECONDARY_VM_EXEC_CONTROL, proc2.0);
    v
}

pub(in super::super) fn l0() -> L0 {
    let set = HostSupport::from_caps(&hardware(), Params::default()).unwrap();
    L0 {
        controls: set.initial,
        exception_bitmap: 1 << 17,
        cr0_guest_owned: 1 << 3,
        cr4_guest_owned: 0x600,
        cr0_forced: 0x20,
        cr4_forced: 0x2040,
        cr4_hidden: 0,
        debugctl_allowed: 3,
        debugctl_forced: 1 << 14,
        emulates_umip: false,
        tsc_offset: 1000,
        tsc_multiplier: TSC_RATIO_1,
        eptp: 0x5555_501e,
        vpid: 77,
        pdptes: [0; 4],
        posted_intr_vector: 0xf1,
        pages: PAGES,
        l1: L1Values {
            efer: 0xd01,
            pat: 0x0606_0606_0606_0606,
            dr7: 0x455,
            debugctl: 1,
            bndcfgs: 0x7003,
            s_cet: 0x5000,
            ssp: 0x6000,
            ssp_table: 0x7000,
        },
    }
}

/// Counts writes.
#[derive(Default)]
struct Counting {
    table: TableVmcs,
    writes: Vec<Encoding>,
}

impl VmcsAccess for Counting {
    fn read_raw(&self, encoding: Encoding) -> u64 {
        self.table.read_raw(encoding)
    }
    fn write_raw(&mut self, encoding: Encoding, value: u64) {
        self.writes.push(encoding);
        self.table.write_raw(encoding, value);
    }
}

fn merged(f: &Fixture, l0: &L0) -> TableVmcs {
    let mut vmcs02 = TableVmcs::new();
    merge(&f.vmcs12, l0, EntryCause::Fresh, Groups::ALL, &mut vmcs02);
    vmcs02
}

fn set_proc(f: &mut Fixture, edit: fn(ProcCtls) -> ProcCtls) {
    let word = edit(ProcCtls(f.vmcs12.read(CPU_BASED_VM_EXEC_CONTROL)));
    f.set(CPU_BASED_VM_EXEC_CONTROL, word.0);
}

fn set_proc2(f: &mut Fixture, edit: fn(Proc2Ctls) -> Proc2Ctls) {
    let word = edit(Proc2Ctls(f.vmcs12.read(SECONDARY_VM_EXEC_CONTROL)));
    f.set(SECONDARY_VM_EXEC_CONTROL, word.0);
}

#[test]
fn addresses_are_never_those_of_vmcs12() {
    let mut f = valid();
    set_proc2(&mut f, |c| c.with_virtualize_apic(true));
    f.set(APIC_ACCESS_ADDR, 0xfee0_0000);
    let v = merged(&f, &l0());
    assert_eq!(v.read(MSR_BITMAP), 0x1111_1000);
    assert_eq!(v.read(VIRTUAL_APIC_PAGE_ADDR), 0x2222_2000);
    assert_eq!(v.read(APIC_ACCESS_ADDR), 0x3333_3000);
    assert_eq!(v.read(EPT_POINTER), 0x5555_501e);
    assert_eq!(v.read(VIRTUAL_PROCESSOR_ID), 77);
    assert_eq!(v.read(IO_BITMAP_A), 0);
}

#[test]
fn without_a_tpr_shadow_cr8_exits_even_if_l1_does_not_ask() {
    let exits = |f: &Fixture, l0: &L0| {
        let c = controls(&f.vmcs12, l0).proc;
        (
            c.tpr_shadow(),
            c.cr8_load_exiting() && c.cr8_store_exiting(),
        )
    };
    let mut f = valid();
    assert_eq!(exits(&f, &l0()), (true, false));
    let mut unmapped = l0();
    unmapped.pages.virtual_apic = None;
    assert_eq!(exits(&f, &unmapped), (false, true));
    set_proc(&mut f, |c| c.with_tpr_shadow(false));
    assert_eq!(exits(&f, &l0()), (false, true));
}

#[test]
fn virtual_apic_page_is_needed_unless_l1_takes_all_cr8_exits() {
    let mut f = valid();
    assert!(needs_virtual_apic(&f.vmcs12));
    set_proc(&mut f, |c| {
        c.with_cr8_load_exiting(true).with_cr8_store_exiting(true)
    });
    assert!(!needs_virtual_apic(&f.vmcs12));
    set_proc2(&mut f, |c| c.with_apic_register_virt(true));
    assert!(needs_virtual_apic(&f.vmcs12));
    set_proc(&mut f, |c| c.with_tpr_shadow(false));
    assert!(!needs_virtual_apic(&f.vmcs12));
}

#[test]
fn without_a_merged_bitmap_every_msr_exits() {
    let mut l0 = l0();
    l0.pages.msr_bitmap = None;
    let mut f = valid();
    set_proc2(&mut f, |c| c.with_virtualize_x2apic(true));
    let c = controls(&f.vmcs12, &l0);
    assert!(!c.proc.msr_bitmaps() && !c.proc2.virtualize_x2apic());
}

#[test]
fn io_always_exits_to_l0() {
    let c = controls(&valid().vmcs12, &l0()).proc;
    assert!(c.uncond_io_exiting() && !c.io_bitmaps());
}

#[test]
fn enables_of_l1_do_not_leak_into_l2() {
    // vmcs01 has RDTSCP, INVPCID, XSAVES and unrestricted guest on; this vmcs12 has not.
    let mut f = valid();
    set_proc2(&mut f, |c| c.with_unrestricted_guest(false));
    let c = controls(&f.vmcs12, &l0()).proc2;
    assert!(l0().controls.proc2.rdtscp() && l0().controls.proc2.invpcid());
    assert!(!c.rdtscp() && !c.invpcid() && !c.xsaves() && !c.unrestricted_guest());
    assert!(c.ept() && c.vpid());
}

#[test]
fn windows_of_vmcs01_do_not_leak_into_l2() {
    let mut l0 = l0();
    l0.controls.proc = l0
        .controls
        .proc
        .with_intr_window(true)
        .with_nmi_window(true);
    let mut f = valid();
    set_proc(&mut f, |c| c.with_nmi_window(false));
    let c = controls(&f.vmcs12, &l0).proc;
    assert!(!c.intr_window() && !c.nmi_window());
}

#[test]
fn umip_emulation_makes_descriptor_tables_exit() {
    let mut l0 = l0();
    let f = valid();
    assert!(!controls(&f.vmcs12, &l0).proc2.desc_exiting());
    l0.emulates_umip = true;
    assert!(controls(&f.vmcs12, &l0).proc2.desc_exiting());
}

#[test]
fn page_faults_all_exit_when_l0_needs_them() {
    let mut f = valid();
    f.set(EXCEPTION_BITMAP, 1 << 14 | 1 << 3);
    f.set(PAGE_FAULT_ERROR_CODE_MASK, 0x11);
    f.set(PAGE_FAULT_ERROR_CODE_MATCH, 0x10);
    let v = merged(&f, &l0());
    assert_eq!(v.read(EXCEPTION_BITMAP), 1 << 14 | 1 << 3 | 1 << 17);
    let pfec = |v: &TableVmcs| {
        (
            v.read(PAGE_FAULT_ERROR_CODE_MASK),
            v.read(PAGE_FAULT_ERROR_CODE_MATCH),
        )
    };
    assert_eq!(pfec(&v), (0x11, 0x10));
    let mut needs = l0();
    needs.exception_bitmap |= 1 << 14;
    assert_eq!(pfec(&merged(&f, &needs)), (0, 0));
}

#[test]
fn l2_efer_follows_the_entry_controls() {
    let mut f = valid();
    f.set(GUEST_IA32_EFER, 0x501);
    assert_eq!(l2_efer(&f.vmcs12, 0x800), 0x501);
    let entry = EntryCtls(f.vmcs12.read(VM_ENTRY_CONTROLS)).with_load_efer(false);
    f.set(VM_ENTRY_CONTROLS, entry.0);
    assert_eq!(l2_efer(&f.vmcs12, 0x800), 0xd00);
    f.set(VM_ENTRY_CONTROLS, entry.with_ia32e(false).0);
    assert_eq!(l2_efer(&f.vmcs12, 0xd01), 0x801);
    f.set(GUEST_CR0, 0x21);
    assert_eq!(l2_efer(&f.vmcs12, 0xd01), 0x901, "without paging LME stays");
    assert!(!controls(&f.vmcs12, &l0()).entry.ia32e());
}

#[test]
fn msrs_come_from_l1_where_vmcs12_does_not_load_them() {
    let mut f = valid();
    f.set(GUEST_IA32_DEBUGCTL, 2);
    let v = merged(&f, &l0());
    assert_eq!(v.read(GUEST_DR7), 0x400);
    assert_eq!(v.read(GUEST_IA32_DEBUGCTL), 2 | 1 << 14);
    assert_eq!(v.read(GUEST_IA32_PAT), 0x0007_0406_0007_0406);
    let bare = EntryCtls(f.vmcs12.read(VM_ENTRY_CONTROLS))
        .with_load_debug(false)
        .with_load_pat(false);
    f.set(VM_ENTRY_CONTROLS, bare.0);
    let v = merged(&f, &l0());
    assert_eq!(v.read(GUEST_DR7), 0x455);
    assert_eq!(v.read(GUEST_IA32_DEBUGCTL), 1 | 1 << 14);
    assert_eq!(v.read(GUEST_IA32_PAT), 0x0606_0606_0606_0606);
}

#[test]
fn pdptes_come_from_vmcs12_with_ept_and_from_memory_without() {
    let mut f = valid();
    let entry = EntryCtls(f.vmcs12.read(VM_ENTRY_CONTROLS)).with_ia32e(false);
    f.set(VM_ENTRY_CONTROLS, entry.0);
    f.set(GUEST_PDPTR2, 0x9001);
    let mut l0 = l0();
    l0.pdptes = [1, 0x2001, 0x3001, 0];
    assert_eq!(merged(&f, &l0).read(GUEST_PDPTR2), 0x9001);
    set_proc2(&mut f, |c| c.with_ept(false).with_unrestricted_guest(false));
    assert_eq!(merged(&f, &l0).read(GUEST_PDPTR2), 0x3001);
}

#[test]
fn bits_that_l0_hides_or_denies_do_not_reach_hardware() {
    let mut f = valid();
    f.set(GUEST_CR4, 0x2820);
    f.set(GUEST_IA32_DEBUGCTL, 0x21);
    let mut l0 = l0();
    l0.cr4_hidden = 1 << 11;
    let v = merged(&f, &l0);
    assert_eq!(v.read(GUEST_CR4), 0x2060);
    assert_eq!(v.read(CR4_READ_SHADOW), 0x2820, "L2 sees its UMIP");
    assert_eq!(v.read(GUEST_IA32_DEBUGCTL), 1 | 1 << 14);
}

#[test]
fn halted_l2_is_never_entered_halted() {
    let mut f = valid();
    f.set(GUEST_ACTIVITY_STATE, 1);
    assert_eq!(merged(&f, &l0()).read(GUEST_ACTIVITY_STATE), 0);
}

#[test]
fn restore_injects_nothing() {
    let mut f = valid();
    f.set(
        VM_ENTRY_INTR_INFO_FIELD,
        IntrInfo::event(IntrType::Nmi, 2).0,
    );
    f.set(GUEST_INTERRUPTIBILITY_INFO, 1);
    let fresh = merged(&f, &l0());
    assert_eq!(fresh.read(VM_ENTRY_INTR_INFO_FIELD), 0x8000_0202);
    assert_eq!(fresh.read(GUEST_INTERRUPTIBILITY_INFO), 1);
    let mut v = TableVmcs::new();
    v.write(VM_ENTRY_INTR_INFO_FIELD, 0x8000_0202);
    merge(&f.vmcs12, &l0(), EntryCause::Restore, Groups::ALL, &mut v);
    assert_eq!(v.read(VM_ENTRY_INTR_INFO_FIELD), 0);
    assert_eq!(v.read(GUEST_INTERRUPTIBILITY_INFO), 0);
}

#[test]
fn resume_of_an_unchanged_vmcs12_writes_the_event_only() {
    let mut f = valid();
    f.vmcs12.clear_dirty();
    let mut v = Counting::default();
    merge(
        &f.vmcs12,
        &l0(),
        EntryCause::Fresh,
        f.vmcs12.dirty(),
        &mut v,
    );
    assert_eq!(v.writes, [VM_ENTRY_INTR_INFO_FIELD.encoding()]);
    f.set(GUEST_RIP, 0x5000);
    let mut v = Counting::default();
    merge(
        &f.vmcs12,
        &l0(),
        EntryCause::Fresh,
        f.vmcs12.dirty(),
        &mut v,
    );
    assert_eq!(v.writes.len(), 3);
}

#[test]
fn tsc_without_scaling_adds_the_offsets() {
    let mut f = valid();
    set_proc2(&mut f, |c| c.with_tsc_scaling(false));
    f.set(TSC_OFFSET, 5);
    assert_eq!(
        tsc(&f.vmcs12, 1000, TSC_RATIO_1),
        (1000, TSC_RATIO_1),
        "offsetting is off"
    );
    set_proc(&mut f, |c| c.with_tsc_offsetting(true));
    assert_eq!(tsc(&f.vmcs12, 1000, TSC_RATIO_1), (1005, TSC_RATIO_1));
    assert_eq!(tsc(&f.vmcs12, u64::MAX, 3), (4, 3), "a negative offset");
}

#[test]
fn tsc_multiplies_before_it_adds() {
    let mut f = valid();
    set_proc(&mut f, |c| c.with_tsc_offsetting(true));
    f.set(TSC_MULTIPLIER, 2 << 48);
    f.set(TSC_OFFSET, 7);
    assert_eq!(tsc(&f.vmcs12, 100, 3 << 48), (207, 6 << 48));
    let minus_100 = 100_u64.wrapping_neg();
    assert_eq!(tsc(&f.vmcs12, minus_100, 1 << 48).0 as i64, -193);
    f.set(TSC_MULTIPLIER, 3 << 47);
    assert_eq!(
        tsc(&f.vmcs12, minus_100, 1 << 48).0 as i64,
        -143,
        "the offset is signed"
    );
}

#[test]
fn constants_never_link_or_enable_functions() {
    let mut v = TableVmcs::new();
    v.write(VM_FUNCTION_CONTROL, 1);
    constants(&mut v, Proc2Ctls(u32::MAX));
    assert_eq!(
        (v.read(VMCS_LINK_POINTER), v.read(VM_FUNCTION_CONTROL)),
        (u64::MAX, 0)
    );
}

proptest! {
    /// For each bit: who owns it, and what L2 reads.
    #[test]
    fn cr_bits_have_one_owner(guest: u64, shadow: u64, mask: u64, owned: u64) {
        let mut f = valid();
        f.set(GUEST_CR4, guest);
        f.set(CR4_READ_SHADOW, shadow);
        f.set(CR4_GUEST_HOST_MASK, mask);
        let mut l0 = l0();
        l0.cr4_guest_owned = owned & !l0.cr4_forced;
        let v = merged(&f, &l0);
        let (mask02, shadow02, hw) =
            (v.read(CR4_GUEST_HOST_MASK), v.read(CR4_READ_SHADOW), v.read(GUEST_CR4));
        let seen = (hw & !mask02) | (shadow02 & mask02);
        prop_assert_eq!(seen, (guest & !mask) | (shadow & mask));
        prop_assert_eq!(mask & !mask02, 0, "L1 would lose an exit");
        prop_assert_eq!(!l0.cr4_guest_owned & !mask02, 0, "L0 would lose an exit");
        prop_assert_eq!(hw & l0.cr4_forced, l0.cr4_forced);
    }

    /// Whatever vmcs12 asks, vmcs02 stays within what the processor allows L0, and has what L0
    /// needs.
    #[test]
    fn controls_stay_within_l0_policy(pin: u32, proc: u32, proc2: u32, exit: u32, entry: u32) {
        let mut f = valid();
        let caps = f.caps;
        f.set(PIN_BASED_VM_EXEC_CONTROL, pin & caps.pin().allowed1());
        f.set(CPU_BASED_VM_EXEC_CONTROL, proc & caps.proc().allowed1());
        f.set(SECONDARY_VM_EXEC_CONTROL, proc2 & caps.procbased2.allowed1());
        f.set(VM_EXIT_CONTROLS, exit & caps.exit_ctls().allowed1());
        f.set(VM_ENTRY_CONTROLS, entry & caps.entry_ctls().allowed1());
        let l0 = l0();
        let c = controls(&f.vmcs12, &l0);
        let set = HostSupport::from_caps(&hardware(), Params::default()).unwrap();
        prop_assert!(c.pin.ext_intr_exiting() && c.pin.nmi_exiting());
        prop_assert!(!c.pin.preemption_timer(), "L0 arms it, not L1");
        prop_assert!(c.proc.hlt_exiting() && c.proc.secondary() && c.proc.mov_dr_exiting());
        prop_assert!(!c.proc.tertiary());
        prop_assert!(c.proc.tpr_shadow() || c.proc.cr8_load_exiting());
        prop_assert!(c.proc2.ept() && !c.proc2.pml() && !c.proc2.vmcs_shadowing());
        prop_assert!(!c.proc2.ept_violation_ve() && !c.proc2.pause_loop_exiting());
        prop_assert_eq!(c.exit, l0.controls.exit, "the exit is L0's");
        prop_assert!(c.exit.contains(ExitCtls(0).with_host_64bit(true).with_ack_intr(true)));
        prop_assert!(c.entry.load_efer() && c.entry.load_debug() && !c.entry.entry_to_smm());
        prop_assert!(!c.entry.deactivate_dual_monitor() && !c.entry.load_perf_global());
        let known = set.initial.proc2.union(set.switchable.proc2).with_vmfunc(true);
        prop_assert!(known.contains(c.proc2), "{:#x}", c.proc2.without(known).0);
        // Consistent in itself, or the entry would fail.
        prop_assert!(c.proc.tpr_shadow() || !c.proc2.virtual_intr_delivery());
        prop_assert!(!c.pin.posted_intr() || c.proc2.virtual_intr_delivery());
    }

    /// A merge of dirty groups gives what a full merge gives.
    #[test]
    fn partial_merge_equals_full_merge(which in 0..ALL.len(), value: u64, bit in 0..64) {
        let encoding = ALL[which].1;
        for new in [value, 1_u64 << bit] {
            let mut f = valid();
            let mut kept = merged(&f, &l0());
            let mut full = kept.clone();
            f.vmcs12.clear_dirty();
            f.vmcs12.write_raw(encoding, new);
            merge(&f.vmcs12, &l0(), EntryCause::Fresh, f.vmcs12.dirty(), &mut kept);
            merge(&f.vmcs12, &l0(), EntryCause::Fresh, Groups::ALL, &mut full);
            for (name, field) in ALL {
                prop_assert_eq!(kept.read_raw(*field), full.read_raw(*field),
                    "{} after {}", name, ALL[which].0);
            }
        }
    }

    /// What L2 has changed and its exit did not save is loaded again, and marks no group without need.
    #[test]
    fn registers_that_an_exit_does_not_save_are_loaded_again(
        saves: [bool; 3], loads: [bool; 3], changes: [bool; 4], bits: u64,
    ) {
        let mut f = valid();
        let exit = ExitCtls(f.vmcs12.read(VM_EXIT_CONTROLS)).with_save_debug(saves[0]);
        let exit = exit.with_save_pat(saves[1]).with_save_efer(saves[2]);
        f.set(VM_EXIT_CONTROLS, exit.0);
        let entry = EntryCtls(f.vmcs12.read(VM_ENTRY_CONTROLS)).with_load_debug(loads[0]);
        let entry = entry.with_load_pat(loads[1]).with_load_efer(loads[2]);
        f.set(VM_ENTRY_CONTROLS, entry.0);
        let l0 = l0();
        let mut kept = merged(&f, &l0);
        f.vmcs12.clear_dirty();

        let was = loaded(&f.vmcs12, &l0);
        let change = |n: usize, value: u64, mask: u64| value ^ if changes[n] { bits & mask } else { 0 };
        let left = Loaded {
            efer: change(0, was.efer, 1),
            dr7: change(1, was.dr7, 0xff),
            debugctl: change(2, was.debugctl, 3),
            pat: change(3, was.pat, 7),
        };
        kept.write(GUEST_IA32_EFER, left.efer);
        kept.write(GUEST_DR7, left.dr7);
        kept.write(GUEST_IA32_DEBUGCTL, left.debugctl);
        kept.write(GUEST_IA32_PAT, left.pat);
        let l2 = L2Values {
            activity: ActivityState::Active,
            efer: left.efer,
            dr7: left.dr7,
            debugctl: left.debugctl,
            preemption_timer: 0,
        };
        sync::eager(&mut f.vmcs12, &kept, &l2);
        if saves[1] {
            f.vmcs12.put_synced(GUEST_IA32_PAT, left.pat);
        }

        let what = overwritten(&f.vmcs12, &l0, &left);
        if left == was && !saves.contains(&true) {
            prop_assert_eq!(what, Groups::NONE);
        }
        let mut full = kept.clone();
        merge(&f.vmcs12, &l0, EntryCause::Fresh, what, &mut kept);
        merge(&f.vmcs12, &l0, EntryCause::Fresh, Groups::ALL, &mut full);
        for field in [GUEST_IA32_EFER, GUEST_IA32_DEBUGCTL, GUEST_IA32_PAT] {
            prop_assert_eq!(kept.read(field), full.read(field));
        }
        prop_assert_eq!(kept.read(GUEST_DR7), full.read(GUEST_DR7));
    }
}
