// SPDX-License-Identifier: GPL-2.0

//! One test for each check: a valid vmcs12, changed so that this check alone is violated.

use super::super::super::vmx::caps::CtlMsr;
use super::super::super::vmx::ctls::Interruptibility;
use super::super::{
    caps,
    check_controls,
    check_guest,
    check_host, //
};
use super::*;
use proptest::prelude::*;

const CURRENT: u64 = 0x7000;

pub(in super::super) struct Fixture {
    pub(in super::super) vmcs12: Vmcs12,
    pub(in super::super) caps: VmxCaps,
    pub(in super::super) env: Env,
}

impl Fixture {
    pub(in super::super) fn entry(&self) -> Entry<'_> {
        Entry {
            vmcs12: &self.vmcs12,
            caps: &self.caps,
            env: &self.env,
            cause: EntryCause::Fresh,
        }
    }

    pub(in super::super) fn set<W: Width>(&mut self, field: Field<W>, value: W::Value) {
        self.vmcs12.write(field, value);
    }

    fn or<W: Width>(&mut self, field: Field<W>, bits: u64) {
        let old = W::into_raw(self.vmcs12.read(field));
        self.vmcs12.write_raw(field.encoding(), old | bits);
    }

    fn clear<W: Width>(&mut self, field: Field<W>, bits: u64) {
        let old = W::into_raw(self.vmcs12.read(field));
        self.vmcs12.write_raw(field.encoding(), old & !bits);
    }

    fn proc(&mut self, edit: fn(ProcCtls) -> ProcCtls) {
        let word = ProcCtls(self.vmcs12.read(CPU_BASED_VM_EXEC_CONTROL));
        self.set(CPU_BASED_VM_EXEC_CONTROL, edit(word).0);
    }

    fn proc2(&mut self, edit: fn(Proc2Ctls) -> Proc2Ctls) {
        let word = Proc2Ctls(self.vmcs12.read(SECONDARY_VM_EXEC_CONTROL));
        self.set(SECONDARY_VM_EXEC_CONTROL, edit(word).0);
    }

    fn pin(&mut self, edit: fn(PinCtls) -> PinCtls) {
        let word = PinCtls(self.vmcs12.read(PIN_BASED_VM_EXEC_CONTROL));
        self.set(PIN_BASED_VM_EXEC_CONTROL, edit(word).0);
    }

    fn exit(&mut self, edit: fn(ExitCtls) -> ExitCtls) {
        let word = ExitCtls(self.vmcs12.read(VM_EXIT_CONTROLS));
        self.set(VM_EXIT_CONTROLS, edit(word).0);
    }

    fn entry_ctls(&mut self, edit: fn(EntryCtls) -> EntryCtls) {
        let word = EntryCtls(self.vmcs12.read(VM_ENTRY_CONTROLS));
        self.set(VM_ENTRY_CONTROLS, edit(word).0);
    }

    fn inject(&mut self, kind: u8, vector: u8) {
        let event = IntrInfo(0)
            .with_valid(true)
            .with_type_code(kind)
            .with_vector(vector);
        self.set(VM_ENTRY_INTR_INFO_FIELD, event.0);
    }

    fn no_ept(&mut self) {
        self.proc2(|c| c.with_ept(false).with_unrestricted_guest(false));
    }

    fn restricted(&mut self) {
        self.proc2(|c| c.with_unrestricted_guest(false));
    }

    /// L1 is a 32-bit hypervisor, L2 runs in protected mode with PAE paging.
    fn host_32bit(&mut self) {
        self.env.is_l1_long_mode = false;
        self.exit(|c| c.with_host_64bit(false));
        self.set(HOST_IA32_EFER, 0x801);
        self.set(HOST_RIP, 0x1000);
        self.guest_32bit();
    }

    fn guest_32bit(&mut self) {
        self.entry_ctls(|c| c.with_ia32e(false));
        self.set(GUEST_IA32_EFER, 0x801);
        self.set(GUEST_CS_AR_BYTES, 0xc09b);
        self.set(GUEST_RIP, 0x2000);
    }

    fn virtual_8086(&mut self) {
        self.guest_32bit();
        self.set(GUEST_RFLAGS, 0x2_0202);
        for n in 0..6 {
            self.vmcs12
                .write_raw(Encoding(GUEST_ES_SELECTOR.encoding().0 + 2 * n), 0x123);
            self.vmcs12
                .write_raw(Encoding(GUEST_ES_BASE.encoding().0 + 2 * n), 0x1230);
            self.vmcs12
                .write_raw(Encoding(GUEST_ES_LIMIT.encoding().0 + 2 * n), 0xffff);
            self.vmcs12
                .write_raw(Encoding(GUEST_ES_AR_BYTES.encoding().0 + 2 * n), 0xf3);
        }
    }

    fn hlt(&mut self) {
        self.set(GUEST_ACTIVITY_STATE, 1);
    }

    fn link(&mut self, pointer: u64, header: Option<u32>) {
        self.set(VMCS_LINK_POINTER, pointer);
        self.env.link_header = header;
    }

    fn apicv(&mut self) {
        self.proc2(|c| c.with_virtual_intr_delivery(true));
    }
}

const NON_CANONICAL: u64 = 0x8000_0000_0000;
const BEYOND: u64 = 1 << 46;

/// A 64-bit guest of a 64-bit hypervisor, with EPT, VPID, a TPR shadow and bitmaps.
pub(in super::super) fn valid() -> Fixture {
    let caps = caps::tests::full();
    let mut f = Fixture {
        vmcs12: Vmcs12::new(),
        caps,
        env: Env {
            phys_bits: 46,
            linear_bits: 48,
            efer_allowed: 0xd01,
            debugctl_allowed: 3,
            perf_global_allowed: 0x7_0000_000f,
            cr3_lam_allowed: 0,
            has_rtm: false,
            is_l1_long_mode: true,
            current_vmcs: CURRENT,
            link_header: None,
            vtpr: Some(0x50),
            memory_pdptes: None,
        },
    };
    controls(&mut f);
    host_state(&mut f);
    guest_state(&mut f);
    f
}

fn controls(f: &mut Fixture) {
    let must = |msr: CtlMsr| msr.allowed0();
    let pin = PinCtls(must(f.caps.pin()));
    let proc = ProcCtls(must(f.caps.proc()));
    f.set(
        PIN_BASED_VM_EXEC_CONTROL,
        pin.with_ext_intr_exiting(true)
            .with_nmi_exiting(true)
            .with_virtual_nmis(true)
            .with_preemption_timer(true)
            .0,
    );
    f.set(
        CPU_BASED_VM_EXEC_CONTROL,
        proc.with_secondary(true)
            .with_tpr_shadow(true)
            .with_io_bitmaps(true)
            .with_msr_bitmaps(true)
            .with_nmi_window(true)
            .0,
    );
    let proc2 = Proc2Ctls(0)
        .with_ept(true)
        .with_vpid(true)
        .with_unrestricted_guest(true)
        .with_tsc_scaling(true);
    f.set(SECONDARY_VM_EXEC_CONTROL, proc2.0);
    f.set(TSC_MULTIPLIER, 1 << 48);
    f.set(VIRTUAL_PROCESSOR_ID, 1);
    f.set(EPT_POINTER, 0x1_001e);
    f.set(IO_BITMAP_A, 0x2_0000);
    f.set(IO_BITMAP_B, 0x2_1000);
    f.set(MSR_BITMAP, 0x2_2000);
    f.set(VIRTUAL_APIC_PAGE_ADDR, 0x2_3000);
    f.set(TPR_THRESHOLD, 5);
    let exit = ExitCtls(must(f.caps.exit_ctls()))
        .with_host_64bit(true)
        .with_load_efer(true)
        .with_load_pat(true)
        .with_load_perf_global(true)
        .with_load_cet(true)
        .with_ack_intr(true)
        .with_save_preemption_timer(true);
    f.set(VM_EXIT_CONTROLS, exit.0);
    let entry = EntryCtls(must(f.caps.entry_ctls()))
        .with_ia32e(true)
        .with_load_debug(true)
        .with_load_efer(true)
        .with_load_pat(true)
        .with_load_perf_global(true)
        .with_load_bndcfgs(true)
        .with_load_cet(true);
    f.set(VM_ENTRY_CONTROLS, entry.0);
}

fn host_state(f: &mut Fixture) {
    f.set(HOST_CR0, 0x8001_0021);
    f.set(HOST_CR3, 0x3000);
    f.set(HOST_CR4, 0x2020);
    f.set(HOST_CS_SELECTOR, 0x10);
    f.set(HOST_SS_SELECTOR, 0x18);
    f.set(HOST_TR_SELECTOR, 0x40);
    f.set(HOST_RIP, 0xffff_ffff_8100_0000);
    f.set(HOST_IA32_EFER, 0xd01);
    f.set(HOST_IA32_PAT, 0x0007_0406_0007_0406);
}

fn guest_state(f: &mut Fixture) {
    f.set(GUEST_CR0, 0x8001_0021);
    f.set(GUEST_CR3, 0x4000);
    f.set(GUEST_CR4, 0x2020);
    f.set(GUEST_IA32_EFER, 0xd01);
    f.set(GUEST_IA32_PAT, 0x0007_0406_0007_0406);
    f.set(GUEST_RFLAGS, 0x202);
    f.set(GUEST_RIP, 0xffff_8000_0000_1000);
    f.set(GUEST_DR7, 0x400);
    f.set(VMCS_LINK_POINTER, u64::MAX);
    for n in 0..6 {
        f.vmcs12
            .write_raw(Encoding(GUEST_ES_SELECTOR.encoding().0 + 2 * n), 0x10);
        f.vmcs12
            .write_raw(Encoding(GUEST_ES_LIMIT.encoding().0 + 2 * n), 0xffff_ffff);
        f.vmcs12
            .write_raw(Encoding(GUEST_ES_AR_BYTES.encoding().0 + 2 * n), 0xc093);
    }
    f.set(GUEST_CS_AR_BYTES, 0xa09b);
    f.set(GUEST_LDTR_AR_BYTES, 0x82);
    f.set(GUEST_LDTR_LIMIT, 0xffff);
    f.set(GUEST_TR_SELECTOR, 0x40);
    f.set(GUEST_TR_AR_BYTES, 0x8b);
    f.set(GUEST_TR_LIMIT, 0x67);
    f.set(GUEST_GDTR_LIMIT, 0x7f);
    f.set(GUEST_IDTR_LIMIT, 0xfff);
}

fn all_blocks() -> impl Iterator<Item = &'static Block> {
    check_controls::BLOCKS
        .iter()
        .chain(check_host::BLOCKS)
        .chain(check_guest::BLOCKS)
}

fn violated(f: &Fixture) -> Vec<&'static str> {
    let checks = all_blocks().flat_map(|block| block.checks);
    checks
        .filter(|check| (check.violated)(&f.entry()))
        .map(|check| check.id.0)
        .collect()
}

/// Changes the valid state, and expects that `id` alone is violated, and that a run over the groups
/// that the change has dirtied finds it.
fn expect(id: &str, change: fn(&mut Fixture)) {
    let mut f = valid();
    f.vmcs12.clear_dirty();
    change(&mut f);
    assert_eq!(violated(&f), [id]);
    let refused = vm_entry(&f.entry()).unwrap_err();
    assert_eq!(refused.id.0, id, "a dirty group is missing from the block");
    let fail = |error| Refusal::Fail(VmFail::Valid(error));
    let exit = |qualification| {
        Refusal::Exit(EntryFail {
            reason: ExitReason::InvalidState,
            qualification,
        })
    };
    let want = match id.split(' ').next().unwrap() {
        "G10" => exit(4),
        "G11" => exit(2),
        c if c.starts_with('C') => fail(VmInsnError::EntryInvalidControlField),
        h if h.starts_with('H') => fail(VmInsnError::EntryInvalidHostStateField),
        _ => exit(0),
    };
    assert_eq!(refused.refusal, want);
}

macro_rules! violations {
    ($($test:ident: $id:literal => $change:expr;)*) => {
        $(
            #[test]
            fn $test() {
                expect($id, $change);
            }
        )*

        const COVERED: &[&str] = &[ $( $id ),* ];
    };
}

violations! {
    c1_pin_bit_that_must_be_1: "C1 pin-based controls" => |f| f.clear(PIN_BASED_VM_EXEC_CONTROL, 2);
    c1_pin_bit_that_must_be_0: "C1 pin-based controls" => |f| f.or(PIN_BASED_VM_EXEC_CONTROL, 1 << 9);
    c2_tertiary_controls: "C2 primary processor-based controls" => |f| f.proc(|c| c.with_tertiary(true));
    c3_ept_violation_ve: "C3 secondary processor-based controls" => |f| f.proc2(|c| c.with_ept_violation_ve(true));
    c5_cr3_target: "C5 CR3-target count" => |f| f.set(CR3_TARGET_COUNT, 1);
    c6_io_bitmap_a_alignment: "C6 address of I/O bitmap A" => |f| f.or(IO_BITMAP_A, 8);
    c6_io_bitmap_b_beyond: "C6 address of I/O bitmap B" => |f| f.set(IO_BITMAP_B, BEYOND);
    c7_msr_bitmap: "C7 MSR-bitmap address" => |f| f.or(MSR_BITMAP, 0x800);
    c8_virtual_apic_page: "C8 virtual-APIC address" => |f| f.set(VIRTUAL_APIC_PAGE_ADDR, BEYOND);
    c8_tpr_threshold_bits: "C8 bits 31:4 of the TPR threshold" => |f| {
        f.set(TPR_THRESHOLD, 0x10);
        f.env.vtpr = None;
    };
    c8_tpr_threshold_above_vtpr: "C8 TPR threshold is not above VTPR" => |f| f.set(TPR_THRESHOLD, 6);
    c9_x2apic_without_shadow: "C9 virtualize x2APIC mode needs a TPR shadow" => |f| {
        f.proc(|c| c.with_tpr_shadow(false));
        f.proc2(|c| c.with_virtualize_x2apic(true));
    };
    c9_registers_without_shadow: "C9 APIC-register virtualization needs a TPR shadow" => |f| {
        f.proc(|c| c.with_tpr_shadow(false));
        f.proc2(|c| c.with_apic_register_virt(true));
    };
    c9_delivery_without_shadow: "C9 virtual-interrupt delivery needs a TPR shadow" => |f| {
        f.proc(|c| c.with_tpr_shadow(false));
        f.apicv();
    };
    c10_virtual_nmis: "C10 virtual NMIs need NMI exiting" => |f| f.pin(|c| c.with_nmi_exiting(false));
    c10_nmi_window: "C10 NMI-window exiting needs virtual NMIs" => |f| f.pin(|c| c.with_virtual_nmis(false));
    c11_apic_access_page: "C11 APIC-access address" => |f| {
        f.proc2(|c| c.with_virtualize_apic(true));
        f.set(APIC_ACCESS_ADDR, 0xfee0_0010);
    };
    c11_both_apic_modes: "C11 virtualize x2APIC mode excludes virtualize APIC accesses" => |f| {
        f.proc2(|c| c.with_virtualize_apic(true).with_virtualize_x2apic(true));
    };
    c12_delivery_without_exiting: "C12 virtual-interrupt delivery needs external-interrupt exiting" => |f| {
        f.apicv();
        f.pin(|c| c.with_ext_intr_exiting(false));
    };
    c13_posted_without_delivery: "C13 posted interrupts need virtual-interrupt delivery" => |f| {
        f.pin(|c| c.with_posted_intr(true));
    };
    c13_posted_without_ack: "C13 posted interrupts need acknowledge interrupt on exit" => |f| {
        f.apicv();
        f.pin(|c| c.with_posted_intr(true));
        f.exit(|c| c.with_ack_intr(false));
    };
    c13_vector: "C13 posted-interrupt notification vector" => |f| {
        f.apicv();
        f.pin(|c| c.with_posted_intr(true));
        f.set(POSTED_INTR_NV, 0x100);
    };
    c13_descriptor: "C13 posted-interrupt descriptor address" => |f| {
        f.apicv();
        f.pin(|c| c.with_posted_intr(true));
        f.set(POSTED_INTR_DESC_ADDR, 0x20);
    };
    c14_vpid_0: "C14 VPID is not 0" => |f| f.set(VIRTUAL_PROCESSOR_ID, 0);
    c15_memory_type: "C15 EPT memory type" => |f| f.set(EPT_POINTER, 0x1_0018);
    c15_walk_length: "C15 EPT page-walk length" => |f| f.set(EPT_POINTER, 0x1_0016);
    c15_accessed_dirty: "C15 EPT accessed and dirty flags" => |f| {
        f.caps.ept_vpid = f.caps.ept_vpid.with_accessed_dirty(false);
        f.or(EPT_POINTER, 0x40);
    };
    c15_reserved: "C15 reserved bits of the EPT pointer" => |f| f.or(EPT_POINTER, 0x100);
    c15_shadow_stack: "C15 reserved bits of the EPT pointer" => |f| f.or(EPT_POINTER, 0x80);
    c15_beyond: "C15 EPT pointer within the physical-address width" => |f| f.or(EPT_POINTER, BEYOND);
    c16_unrestricted: "C16 unrestricted guest needs EPT" => |f| f.proc2(|c| c.with_ept(false));
    c16_mode_based: "C16 mode-based execute control needs EPT" => |f| {
        f.no_ept();
        f.proc2(|c| c.with_mode_based_exec(true));
    };
    c16_pml_without_ept: "C16 PML needs EPT" => |f| {
        f.no_ept();
        f.proc2(|c| c.with_pml(true));
    };
    c16_pml_address: "C16 PML address" => |f| {
        f.proc2(|c| c.with_pml(true));
        f.set(PML_ADDRESS, 0x1001);
    };
    c16_vmread_bitmap: "C16 VMREAD-bitmap address" => |f| {
        f.proc2(|c| c.with_vmcs_shadowing(true));
        f.set(VMREAD_BITMAP, 0x10);
    };
    c16_vmwrite_bitmap: "C16 VMWRITE-bitmap address" => |f| {
        f.proc2(|c| c.with_vmcs_shadowing(true));
        f.set(VMWRITE_BITMAP, BEYOND);
    };
    c16_switching_without_ept: "C16 EPTP switching needs EPT" => |f| {
        f.no_ept();
        f.proc2(|c| c.with_vmfunc(true));
        f.set(VM_FUNCTION_CONTROL, 1);
    };
    c16_eptp_list: "C16 EPTP-list address" => |f| {
        f.proc2(|c| c.with_vmfunc(true));
        f.set(VM_FUNCTION_CONTROL, 1);
        f.set(EPTP_LIST_ADDRESS, 0x10);
    };
    c17_vmfunc: "C17 VM-function controls" => |f| {
        f.proc2(|c| c.with_vmfunc(true));
        f.set(VM_FUNCTION_CONTROL, 2);
    };
    c17_multiplier: "C17 TSC multiplier is not 0" => |f| f.set(TSC_MULTIPLIER, 0);
    c18_exit_controls: "C18 VM-exit controls" => |f| f.exit(|c| c.with_secondary(true));
    c18_timer: "C18 save VMX-preemption timer value needs the timer" => |f| {
        f.pin(|c| c.with_preemption_timer(false));
    };
    c18_store_list: "C18 VM-exit MSR-store list" => |f| {
        f.set(VM_EXIT_MSR_STORE_COUNT, 1);
        f.set(VM_EXIT_MSR_STORE_ADDR, 8);
    };
    c18_load_list_end: "C18 VM-exit MSR-load list" => |f| {
        f.set(VM_EXIT_MSR_LOAD_COUNT, 3);
        f.set(VM_EXIT_MSR_LOAD_ADDR, BEYOND - 0x20);
    };
    c19_entry_to_smm: "C19 VM-entry controls" => |f| f.entry_ctls(|c| c.with_entry_to_smm(true));
    c19_deactivate: "C19 VM-entry controls" => |f| {
        f.entry_ctls(|c| c.with_deactivate_dual_monitor(true));
    };
    c19_load_list: "C19 VM-entry MSR-load list" => |f| {
        f.set(VM_ENTRY_MSR_LOAD_COUNT, u32::MAX);
        f.set(VM_ENTRY_MSR_LOAD_ADDR, u64::MAX - 15);
    };
    c20_reserved_type: "C20 type of the injected event" => |f| f.inject(1, 0);
    c20_mtf_not_supported: "C20 type of the injected event" => |f| {
        f.inject(7, 0);
        let bit = u64::from(ProcCtls(0).with_monitor_trap_flag(true).0) << 32;
        f.caps.true_procbased = CtlMsr(f.caps.true_procbased.0 & !bit);
    };
    c20_nmi_vector: "C20 vector of an injected NMI is 2" => |f| f.inject(2, 3);
    c20_exception_vector: "C20 vector of an injected exception is at most 31" => |f| f.inject(3, 32);
    c20_other_vector: "C20 vector of another event is 0" => |f| f.inject(7, 1);
    c20_reserved_bits: "C20 reserved bits of the injected event" => |f| {
        f.inject(0, 0x20);
        f.or(VM_ENTRY_INTR_INFO_FIELD, 1 << 13);
    };
    c20_bit_12: "C20 reserved bits of the injected event" => |f| {
        f.inject(0, 0x20);
        f.or(VM_ENTRY_INTR_INFO_FIELD, 1 << 12);
    };
    c21_gp_without_code: "C21 delivery of an error code" => |f| f.inject(3, 13);
    c21_ud_with_code: "C21 delivery of an error code" => |f| {
        f.inject(3, 6);
        f.or(VM_ENTRY_INTR_INFO_FIELD, 1 << 11);
    };
    c21_interrupt_with_code: "C21 delivery of an error code" => |f| {
        f.caps.basic = f.caps.basic.with_any_error_code(true);
        f.inject(0, 13);
        f.or(VM_ENTRY_INTR_INFO_FIELD, 1 << 11);
    };
    c21_real_mode_with_code: "C21 delivery of an error code" => |f| {
        f.guest_32bit();
        f.clear(GUEST_CR0, CR0_PG | CR0_PE);
        f.inject(3, 13);
        f.or(VM_ENTRY_INTR_INFO_FIELD, 1 << 11);
    };
    c21_code_bits: "C21 bits 31:16 of the error code" => |f| {
        f.inject(3, 14);
        f.or(VM_ENTRY_INTR_INFO_FIELD, 1 << 11);
        f.set(VM_ENTRY_EXCEPTION_ERROR_CODE, 0x1_0000);
    };
    c22_length_0: "C22 length of the injecting instruction" => |f| f.inject(4, 0x80);
    c22_length_16: "C22 length of the injecting instruction" => |f| {
        f.inject(6, 3);
        f.set(VM_ENTRY_INSTRUCTION_LEN, 16);
    };

    h1_cr0_pe: "H1 host CR0" => |f| f.clear(HOST_CR0, 1);
    h1_cr0_high: "H1 host CR0" => |f| f.or(HOST_CR0, 1 << 32);
    h1_cr4_vmxe: "H1 host CR4" => |f| f.clear(HOST_CR4, 0x2000);
    h1_cet_without_wp: "H1 host CR4.CET needs CR0.WP" => |f| {
        f.or(HOST_CR4, CR4_CET);
        f.clear(HOST_CR0, CR0_WP);
    };
    h1_cr3: "H1 host CR3" => |f| f.set(HOST_CR3, BEYOND);
    h2_sysenter_esp: "H2 host IA32_SYSENTER_ESP" => |f| f.set(HOST_IA32_SYSENTER_ESP, NON_CANONICAL);
    h2_sysenter_eip: "H2 host IA32_SYSENTER_EIP" => |f| f.set(HOST_IA32_SYSENTER_EIP, NON_CANONICAL);
    h2_perf_global: "H2 host IA32_PERF_GLOBAL_CTRL" => |f| f.set(HOST_IA32_PERF_GLOBAL_CTRL, 0x10);
    h2_pat: "H2 host IA32_PAT" => |f| f.set(HOST_IA32_PAT, 0x0200_0000_0000_0000);
    h2_efer_reserved: "H2 reserved bits of host IA32_EFER" => |f| f.or(HOST_IA32_EFER, 2);
    h2_efer_lma: "H2 host IA32_EFER.LMA and LME" => |f| f.clear(HOST_IA32_EFER, EFER_LMA);
    h2_efer_lme: "H2 host IA32_EFER.LMA and LME" => |f| f.clear(HOST_IA32_EFER, EFER_LME);
    h2_s_cet: "H2 host IA32_S_CET" => |f| f.set(HOST_S_CET, 0xc00);
    h2_s_cet_address: "H2 host IA32_S_CET" => |f| f.set(HOST_S_CET, NON_CANONICAL);
    h2_ssp: "H2 host SSP" => |f| f.set(HOST_SSP, 2);
    h2_ssp_32bit: "H2 host SSP" => |f| {
        f.host_32bit();
        f.set(HOST_SSP, 1 << 32);
    };
    h2_ssp_table: "H2 host IA32_INTERRUPT_SSP_TABLE_ADDR" => |f| f.set(HOST_INTR_SSP_TABLE, NON_CANONICAL);
    h3_rpl: "H3 RPL and TI of host selectors are 0" => |f| f.or(HOST_ES_SELECTOR, 1);
    h3_ti: "H3 RPL and TI of host selectors are 0" => |f| f.or(HOST_TR_SELECTOR, 4);
    h3_cs: "H3 host CS is not null" => |f| f.set(HOST_CS_SELECTOR, 0);
    h3_tr: "H3 host TR is not null" => |f| f.set(HOST_TR_SELECTOR, 0);
    h3_ss: "H3 host SS of a 32-bit host is not null" => |f| {
        f.host_32bit();
        f.set(HOST_SS_SELECTOR, 0);
    };
    h3_fs_base: "H3 host FS base" => |f| f.set(HOST_FS_BASE, NON_CANONICAL);
    h3_gs_base: "H3 host GS base" => |f| f.set(HOST_GS_BASE, NON_CANONICAL);
    h3_gdtr_base: "H3 host GDTR base" => |f| f.set(HOST_GDTR_BASE, NON_CANONICAL);
    h3_idtr_base: "H3 host IDTR base" => |f| f.set(HOST_IDTR_BASE, NON_CANONICAL);
    h3_tr_base: "H3 host TR base" => |f| f.set(HOST_TR_BASE, NON_CANONICAL);
    h4_size: "H4 host address-space size is that of L1" => |f| {
        f.vmcs12.mark_dirty(Groups::ALL);
        f.env.is_l1_long_mode = false;
    };
    h4_long_guest: "H4 IA-32e mode guest needs a 64-bit host" => |f| {
        f.host_32bit();
        f.entry_ctls(|c| c.with_ia32e(true));
        f.set(GUEST_IA32_EFER, 0xd01);
    };
    h4_pcide: "H4 32-bit host has no CR4.PCIDE" => |f| {
        f.host_32bit();
        f.or(HOST_CR4, CR4_PCIDE);
    };
    h4_rip_32bit: "H4 RIP of a 32-bit host" => |f| {
        f.host_32bit();
        f.set(HOST_RIP, 1 << 32);
    };
    h4_pae: "H4 64-bit host has CR4.PAE" => |f| f.clear(HOST_CR4, CR4_PAE);
    h4_rip: "H4 RIP of a 64-bit host" => |f| f.set(HOST_RIP, NON_CANONICAL);

    g1_cr0_ne: "G1 guest CR0" => |f| f.clear(GUEST_CR0, 0x20);
    g1_cr0_pe_restricted: "G1 guest CR0" => |f| {
        f.restricted();
        f.guest_32bit();
        f.clear(GUEST_CR0, CR0_PG | CR0_PE);
    };
    g1_pg_without_pe: "G1 guest CR0.PG needs PE" => |f| {
        f.guest_32bit();
        f.clear(GUEST_CR0, CR0_PE);
    };
    g1_cr4: "G1 guest CR4" => |f| f.clear(GUEST_CR4, 0x2000);
    g1_cet_without_wp: "G1 guest CR4.CET needs CR0.WP" => |f| {
        f.or(GUEST_CR4, CR4_CET);
        f.clear(GUEST_CR0, CR0_WP);
    };
    g2_long_without_pg: "G2 IA-32e mode guest needs CR0.PG" => |f| f.clear(GUEST_CR0, CR0_PG);
    g2_long_without_pae: "G2 IA-32e mode guest needs CR4.PAE" => |f| f.clear(GUEST_CR4, CR4_PAE);
    g2_pcide: "G2 CR4.PCIDE needs IA-32e mode guest" => |f| {
        f.guest_32bit();
        f.or(GUEST_CR4, CR4_PCIDE);
    };
    g2_cr3: "G2 guest CR3" => |f| f.set(GUEST_CR3, 1 << 61);
    g2_debugctl: "G2 guest IA32_DEBUGCTL" => |f| f.set(GUEST_IA32_DEBUGCTL, 4);
    g2_dr7: "G2 guest DR7" => |f| f.or(GUEST_DR7, 1 << 32);
    g3_sysenter_esp: "G3 guest IA32_SYSENTER_ESP" => |f| f.set(GUEST_SYSENTER_ESP, NON_CANONICAL);
    g3_sysenter_eip: "G3 guest IA32_SYSENTER_EIP" => |f| f.set(GUEST_SYSENTER_EIP, NON_CANONICAL);
    g3_perf_global: "G3 guest IA32_PERF_GLOBAL_CTRL" => |f| f.set(GUEST_IA32_PERF_GLOBAL_CTRL, 1 << 40);
    g3_pat: "G3 guest IA32_PAT" => |f| f.set(GUEST_IA32_PAT, 3);
    g3_bndcfgs: "G3 guest IA32_BNDCFGS" => |f| f.set(GUEST_BNDCFGS, 4);
    g3_s_cet: "G3 guest IA32_S_CET" => |f| f.set(GUEST_S_CET, 0x40);
    g3_ssp_table: "G3 guest IA32_INTERRUPT_SSP_TABLE_ADDR" => |f| f.set(GUEST_INTR_SSP_TABLE, NON_CANONICAL);
    g3_efer_reserved: "G3 reserved bits of guest IA32_EFER" => |f| f.or(GUEST_IA32_EFER, 2);
    g3_lma: "G3 guest IA32_EFER.LMA" => |f| f.clear(GUEST_IA32_EFER, EFER_LMA);
    g3_lme: "G3 guest IA32_EFER.LME with paging" => |f| f.clear(GUEST_IA32_EFER, EFER_LME);

    g4_tr_ti: "G4 TI of TR is 0" => |f| f.or(GUEST_TR_SELECTOR, 4);
    g4_tr_unusable: "G4 TR is usable" => |f| f.or(GUEST_TR_AR_BYTES, 1 << 16);
    g4_tr_16bit_in_long_mode: "G4 type of TR" => |f| f.set(GUEST_TR_AR_BYTES, 0x83);
    g4_tr_available: "G4 type of TR" => |f| f.set(GUEST_TR_AR_BYTES, 0x89);
    g4_tr_s: "G4 TR is a system segment" => |f| f.or(GUEST_TR_AR_BYTES, 0x10);
    g4_tr_p: "G4 TR is present" => |f| f.clear(GUEST_TR_AR_BYTES, 0x80);
    g4_tr_g: "G4 granularity of TR" => |f| f.or(GUEST_TR_AR_BYTES, 0x8000);
    g4_tr_base: "G4 base of TR" => |f| f.set(GUEST_TR_BASE, NON_CANONICAL);
    g4_ldtr_ti: "G4 TI of LDTR is 0" => |f| f.set(GUEST_LDTR_SELECTOR, 4);
    g4_ldtr_type: "G4 type of LDTR" => |f| f.set(GUEST_LDTR_AR_BYTES, 0x83);
    g4_ldtr_s: "G4 LDTR is a system segment" => |f| f.or(GUEST_LDTR_AR_BYTES, 0x10);
    g4_ldtr_p: "G4 LDTR is present" => |f| f.clear(GUEST_LDTR_AR_BYTES, 0x80);
    g4_ldtr_g: "G4 granularity of LDTR" => |f| f.set(GUEST_LDTR_LIMIT, 0x10_0000);
    g4_ldtr_base: "G4 base of LDTR" => |f| f.set(GUEST_LDTR_BASE, NON_CANONICAL);
    g4_fs_base: "G4 bases of FS and GS" => |f| f.set(GUEST_FS_BASE, NON_CANONICAL);
    g4_gs_base_unusable: "G4 bases of FS and GS" => |f| {
        f.or(GUEST_GS_AR_BYTES, 1 << 16);
        f.set(GUEST_GS_BASE, NON_CANONICAL);
    };
    g4_cs_base: "G4 base of CS" => |f| f.set(GUEST_CS_BASE, 1 << 32);
    g4_ds_base: "G4 bases of SS, DS and ES" => |f| f.set(GUEST_DS_BASE, 1 << 32);
    g4_v86_base: "G4 bases in virtual-8086 mode" => |f| {
        f.virtual_8086();
        f.set(GUEST_GS_BASE, 0x1240);
    };
    g4_v86_limit: "G4 limits in virtual-8086 mode" => |f| {
        f.virtual_8086();
        f.set(GUEST_SS_LIMIT, 0xfffe);
    };
    g4_v86_rights: "G4 access rights in virtual-8086 mode" => |f| {
        f.virtual_8086();
        f.set(GUEST_CS_AR_BYTES, 0xfb);
    };
    g4_ss_rpl: "G4 RPL of SS is that of CS" => |f| {
        f.restricted();
        f.or(GUEST_CS_SELECTOR, 3);
    };
    g4_cs_type: "G4 type of CS" => |f| f.set(GUEST_CS_AR_BYTES, 0xa098);
    g4_cs_data_restricted: "G4 type of CS" => |f| {
        f.restricted();
        f.set(GUEST_CS_AR_BYTES, 0xa093);
    };
    g4_ss_type: "G4 type of SS" => |f| f.set(GUEST_SS_AR_BYTES, 0xc091);
    g4_accessed: "G4 data segments are accessed" => |f| f.set(GUEST_ES_AR_BYTES, 0xc092);
    g4_readable: "G4 code segments in data registers are readable" => |f| f.set(GUEST_FS_AR_BYTES, 0xc099);
    g4_s: "G4 segments are code or data" => |f| f.clear(GUEST_GS_AR_BYTES, 0x10);
    g4_cs_dpl: "G4 DPL of CS" => |f| f.or(GUEST_CS_AR_BYTES, 0x60);
    g4_cs_conforming_dpl: "G4 DPL of CS" => |f| f.set(GUEST_CS_AR_BYTES, 0xa0fd);
    g4_ss_dpl: "G4 DPL of SS is its RPL" => |f| {
        f.restricted();
        f.or(GUEST_SS_SELECTOR, 3);
        f.or(GUEST_CS_SELECTOR, 3);
    };
    g4_ss_dpl_data_cs: "G4 DPL of SS is 0 with a data CS or in real mode" => |f| {
        f.set(GUEST_CS_AR_BYTES, 0xa093);
        f.or(GUEST_SS_AR_BYTES, 0x60);
    };
    g4_ss_dpl_real: "G4 DPL of SS is 0 with a data CS or in real mode" => |f| {
        f.guest_32bit();
        f.clear(GUEST_CR0, CR0_PG | CR0_PE);
        f.or(GUEST_SS_AR_BYTES, 0x60);
        f.or(GUEST_CS_AR_BYTES, 0x60);
    };
    g4_data_dpl: "G4 DPL of data segments is not below their RPL" => |f| {
        f.restricted();
        f.or(GUEST_DS_SELECTOR, 3);
    };
    g4_present: "G4 segments are present" => |f| f.clear(GUEST_DS_AR_BYTES, 0x80);
    g4_l_and_d: "G4 64-bit CS has D 0" => |f| f.or(GUEST_CS_AR_BYTES, 0x4000);
    g4_g_set: "G4 granularity of segments" => |f| f.set(GUEST_ES_LIMIT, 0xffff_fffe);
    g4_g_clear: "G4 granularity of segments" => |f| f.clear(GUEST_FS_AR_BYTES, 0x8000);
    g5_gdtr_base: "G5 base of GDTR" => |f| f.set(GUEST_GDTR_BASE, NON_CANONICAL);
    g5_idtr_base: "G5 base of IDTR" => |f| f.set(GUEST_IDTR_BASE, NON_CANONICAL);
    g5_gdtr_limit: "G5 limit of GDTR" => |f| f.set(GUEST_GDTR_LIMIT, 0x1_0000);
    g5_idtr_limit: "G5 limit of IDTR" => |f| f.set(GUEST_IDTR_LIMIT, 0x1_0000);

    g6_rip_32bit: "G6 guest RIP outside 64-bit mode" => |f| {
        f.guest_32bit();
        f.set(GUEST_RIP, 1 << 32);
    };
    g6_rip_compatibility: "G6 guest RIP outside 64-bit mode" => |f| {
        f.set(GUEST_CS_AR_BYTES, 0xc09b);
    };
    g6_rip_64bit: "G6 guest RIP in 64-bit mode" => |f| f.set(GUEST_RIP, 1 << 48);
    g6_ssp: "G6 guest SSP" => |f| f.set(GUEST_SSP, 1);
    g6_rflags_bit_1: "G6 reserved bits of guest RFLAGS" => |f| f.clear(GUEST_RFLAGS, 2);
    g6_rflags_high: "G6 reserved bits of guest RFLAGS" => |f| f.or(GUEST_RFLAGS, 1 << 63);
    g6_vm_in_long_mode: "G6 guest RFLAGS.VM" => |f| {
        f.virtual_8086();
        f.entry_ctls(|c| c.with_ia32e(true));
        f.set(GUEST_IA32_EFER, 0xd01);
    };
    g6_vm_in_real_mode: "G6 guest RFLAGS.VM" => |f| {
        f.virtual_8086();
        f.clear(GUEST_CR0, CR0_PG | CR0_PE);
    };
    g6_interrupt_without_if: "G6 injected external interrupt needs RFLAGS.IF" => |f| {
        f.clear(GUEST_RFLAGS, 0x200);
        f.inject(0, 0x20);
    };

    g7_state_4: "G7 guest activity state" => |f| f.set(GUEST_ACTIVITY_STATE, 4);
    g7_shutdown: "G7 guest activity state" => |f| f.set(GUEST_ACTIVITY_STATE, 2);
    g7_hlt_in_ring_3: "G7 HLT state needs SS.DPL 0" => |f| {
        f.hlt();
        f.or(GUEST_SS_AR_BYTES, 0x60);
        f.or(GUEST_CS_AR_BYTES, 0x60);
    };
    g7_hlt_blocked: "G7 blocking by STI or MOV SS needs the active state" => |f| {
        f.hlt();
        f.set(GUEST_INTERRUPTIBILITY_INFO, 1);
    };
    g7_hlt_with_fault: "G7 injected event fits the activity state" => |f| {
        f.hlt();
        f.inject(3, 6);
    };
    g7_wait_for_sipi_with_nmi: "G7 injected event fits the activity state" => |f| {
        f.set(GUEST_ACTIVITY_STATE, 3);
        f.inject(2, 2);
    };
    g8_reserved: "G8 reserved bits of guest interruptibility" => |f| f.set(GUEST_INTERRUPTIBILITY_INFO, 0x20);
    g8_enclave: "G8 reserved bits of guest interruptibility" => |f| f.set(GUEST_INTERRUPTIBILITY_INFO, 0x10);
    g8_both: "G8 blocking by STI excludes blocking by MOV SS" => |f| f.set(GUEST_INTERRUPTIBILITY_INFO, 3);
    g8_sti_without_if: "G8 blocking by STI needs RFLAGS.IF" => |f| {
        f.clear(GUEST_RFLAGS, 0x200);
        f.set(GUEST_INTERRUPTIBILITY_INFO, 1);
    };
    g8_interrupt_after_sti: "G8 injected external interrupt is not blocked" => |f| {
        f.inject(0, 0x20);
        f.set(GUEST_INTERRUPTIBILITY_INFO, 1);
    };
    g8_interrupt_after_mov_ss: "G8 injected external interrupt is not blocked" => |f| {
        f.inject(0, 0x20);
        f.set(GUEST_INTERRUPTIBILITY_INFO, 2);
    };
    g8_nmi_after_mov_ss: "G8 injected NMI is not blocked by MOV SS" => |f| {
        f.inject(2, 2);
        f.set(GUEST_INTERRUPTIBILITY_INFO, 2);
    };
    g8_smi: "G8 blocking by SMI outside SMM" => |f| {
        f.set(GUEST_INTERRUPTIBILITY_INFO, Interruptibility(0).with_smi(true).0);
    };
    g8_nmi_in_nmi: "G8 injected virtual NMI is not blocked by NMI" => |f| {
        f.inject(2, 2);
        f.set(GUEST_INTERRUPTIBILITY_INFO, Interruptibility(0).with_nmi(true).0);
    };
    g9_reserved: "G9 reserved bits of pending debug exceptions" => |f| f.set(GUEST_PENDING_DBG_EXCEPTIONS, 0x10);
    g9_bus_lock: "G9 reserved bits of pending debug exceptions" => |f| f.set(GUEST_PENDING_DBG_EXCEPTIONS, 0x800);
    g9_rtm_without_rtm: "G9 reserved bits of pending debug exceptions" => |f| {
        f.set(GUEST_PENDING_DBG_EXCEPTIONS, 0x1_1000);
    };
    g9_tf_without_bs: "G9 pending single step follows RFLAGS.TF" => |f| {
        f.or(GUEST_RFLAGS, 0x100);
        f.set(GUEST_INTERRUPTIBILITY_INFO, 2);
    };
    g9_bs_without_tf: "G9 pending single step follows RFLAGS.TF" => |f| {
        f.hlt();
        f.set(GUEST_PENDING_DBG_EXCEPTIONS, 0x4000);
    };
    g9_bs_with_btf: "G9 pending single step follows RFLAGS.TF" => |f| {
        f.or(GUEST_RFLAGS, 0x100);
        f.set(GUEST_IA32_DEBUGCTL, 2);
        f.set(GUEST_INTERRUPTIBILITY_INFO, 1);
        f.set(GUEST_PENDING_DBG_EXCEPTIONS, 0x4000);
    };
    g9_rtm_form: "G9 form of a pending debug exception within RTM" => |f| {
        f.env.has_rtm = true;
        f.set(GUEST_PENDING_DBG_EXCEPTIONS, 0x1_1001);
    };
    g10_alignment: "G10 link pointer" => |f| f.link(0x9008, Some(REVISION));
    g10_current: "G10 link pointer is not the current VMCS" => |f| f.link(CURRENT, Some(REVISION));
    g10_revision: "G10 revision of the linked VMCS" => |f| f.link(0x9000, Some(REVISION + 1));
    g10_unbacked: "G10 revision of the linked VMCS" => |f| f.link(0x9000, None);
    g10_shadow_without_shadowing: "G10 shadow indicator of the linked VMCS" => |f| {
        f.link(0x9000, Some(REVISION | 1 << 31));
    };
    g10_ordinary_with_shadowing: "G10 shadow indicator of the linked VMCS" => |f| {
        f.proc2(|c| c.with_vmcs_shadowing(true));
        f.link(0x9000, Some(REVISION));
    };
    g11_pdpte: "G11 guest PDPTEs" => |f| {
        f.guest_32bit();
        f.set(GUEST_PDPTR3, 0x3);
    };
    g11_pdpte_in_memory: "G11 PDPTEs in memory" => |f| {
        f.no_ept();
        f.guest_32bit();
        f.env.memory_pdptes = Some([0x1001, 0, BEYOND | 1, 0]);
    };
}

use super::super::vmcs12::REVISION;

#[test]
fn every_check_has_a_test_and_names_are_unique() {
    let ids: Vec<&str> = all_blocks()
        .flat_map(|block| block.checks)
        .map(|c| c.id.0)
        .collect();
    for (n, id) in ids.iter().enumerate() {
        assert!(COVERED.contains(id), "no test violates {id}");
        assert!(!ids[..n].contains(id), "{id} twice");
    }
}

#[test]
fn valid_state_passes() {
    assert_eq!(violated(&valid()), [""; 0]);
    assert_eq!(vm_entry(&valid().entry()), Ok(()));
}

#[test]
fn valid_variants_pass() {
    let variants: [fn(&mut Fixture); 20] = [
        |f| f.host_32bit(),
        |f| f.guest_32bit(),
        |f| f.virtual_8086(),
        |f| f.no_ept(),
        |f| f.restricted(),
        |f| {
            f.guest_32bit();
            f.clear(GUEST_CR0, CR0_PG | CR0_PE);
        },
        |f| f.hlt(),
        |f| {
            f.hlt();
            f.inject(0, 0x20);
        },
        |f| f.set(GUEST_ACTIVITY_STATE, 3),
        |f| f.inject(7, 0),
        |f| {
            f.inject(3, 14);
            f.or(VM_ENTRY_INTR_INFO_FIELD, 1 << 11);
            f.set(VM_ENTRY_EXCEPTION_ERROR_CODE, 0xffff);
        },
        |f| {
            f.inject(2, 2);
            f.set(GUEST_INTERRUPTIBILITY_INFO, 1);
        },
        |f| f.link(0x9000, Some(REVISION)),
        |f| {
            f.proc2(|c| c.with_vmcs_shadowing(true));
            f.link(0x9000, Some(REVISION | 1 << 31));
        },
        |f| {
            // Words of features that are off are not looked at.
            f.proc(|c| {
                c.with_secondary(false)
                    .with_io_bitmaps(false)
                    .with_msr_bitmaps(false)
            });
            f.set(SECONDARY_VM_EXEC_CONTROL, u32::MAX);
            f.set(IO_BITMAP_A, 1);
            f.set(MSR_BITMAP, u64::MAX);
            f.set(EPT_POINTER, u64::MAX);
        },
        |f| {
            f.set(VM_EXIT_MSR_STORE_ADDR, u64::MAX);
            f.set(VM_EXIT_MSR_LOAD_COUNT, 2);
            f.set(VM_EXIT_MSR_LOAD_ADDR, BEYOND - 0x20);
        },
        |f| {
            // Not valid: nothing in it matters.
            f.set(VM_ENTRY_INTR_INFO_FIELD, 0x7fff_ffff);
        },
        |f| f.or(GUEST_LDTR_AR_BYTES, 1 << 16),
        |f| {
            f.or(GUEST_DS_AR_BYTES, 1 << 16);
            f.set(GUEST_DS_BASE, u64::MAX);
            f.set(GUEST_DS_LIMIT, 0);
        },
        |f| {
            f.set(GUEST_RIP, 0x8000_0000_0000);
            f.caps.basic = f.caps.basic.with_any_error_code(true);
            f.inject(3, 13);
        },
    ];
    for (n, change) in variants.iter().enumerate() {
        let mut f = valid();
        change(&mut f);
        assert_eq!(violated(&f), [""; 0], "variant {n}");
    }
}

#[test]
fn controls_come_before_host_before_guest() {
    let mut f = valid();
    f.set(GUEST_RFLAGS, 0);
    f.set(HOST_CR0, 0);
    f.set(PIN_BASED_VM_EXEC_CONTROL, 0);
    let error = |f: &Fixture| vm_entry(&f.entry()).unwrap_err().refusal;
    let fail = |error| Refusal::Fail(VmFail::Valid(error));
    assert_eq!(error(&f), fail(VmInsnError::EntryInvalidControlField));
    f.set(PIN_BASED_VM_EXEC_CONTROL, 0x16 | 0x69);
    assert_eq!(error(&f), fail(VmInsnError::EntryInvalidHostStateField));
    f.set(HOST_CR0, 0x8001_0021);
    assert!(matches!(error(&f), Refusal::Exit(_)));
}

#[test]
fn efer_of_a_restored_state_is_not_checked() {
    // Without "save IA32_EFER", the field is as old as the last entry.
    let mut f = valid();
    f.guest_32bit();
    f.set(GUEST_IA32_EFER, 0xd01);
    assert!(vm_entry(&f.entry()).is_err());
    assert_eq!(
        vm_entry(&Entry {
            cause: EntryCause::Restore,
            ..f.entry()
        }),
        Ok(())
    );
}

#[test]
fn clean_groups_are_trusted() {
    let mut f = valid();
    f.set(HOST_CR0, 0);
    f.vmcs12.clear_dirty();
    f.set(GUEST_RIP, 0x1000);
    assert_eq!(vm_entry(&f.entry()), Ok(()), "the host group is clean");
    f.vmcs12.mark_dirty(Groups::HOST);
    assert!(vm_entry(&f.entry()).is_err());
}

#[test]
fn a_new_rip_runs_few_checks() {
    let blocks: Vec<_> = all_blocks()
        .filter(|b| b.depends == ALWAYS || b.depends.intersects(Groups::RIP))
        .collect();
    let checks: usize = blocks.iter().map(|block| block.checks.len()).sum();
    assert!(checks <= 8, "{checks}");
}

/// Valid states in which other rules count.
const BASES: [fn(&mut Fixture); 8] = [
    |_| (),
    |f| f.inject(0, 0x20),
    |f| {
        f.inject(2, 2);
        f.hlt();
    },
    |f| f.virtual_8086(),
    |f| {
        f.guest_32bit();
        f.no_ept();
    },
    |f| {
        f.inject(3, 14);
        f.or(VM_ENTRY_INTR_INFO_FIELD, 1 << 11);
        f.set(GUEST_INTERRUPTIBILITY_INFO, 1);
    },
    |f| {
        f.restricted();
        f.apicv();
        f.pin(|c| c.with_posted_intr(true));
        f.proc2(|c| c.with_vmcs_shadowing(true).with_pml(true).with_vmfunc(true));
        f.or(GUEST_RFLAGS, 0x100);
    },
    |f| {
        f.or(GUEST_RFLAGS, 0x100);
        f.set(GUEST_INTERRUPTIBILITY_INFO, 1);
        f.set(GUEST_PENDING_DBG_EXCEPTIONS, 0x4000);
    },
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    /// Dirty tracking loses nothing: a run over dirty groups finds what a full run finds.
    #[test]
    fn any_single_write_is_seen_by_the_dirty_run(
        base in 0..BASES.len(), which in 0..ALL.len(), value in any::<u64>(),
    ) {
        let mut f = valid();
        BASES[base](&mut f);
        prop_assert_eq!(vm_entry(&f.entry()), Ok(()));
        f.vmcs12.clear_dirty();
        let encoding = ALL[which].1;
        f.vmcs12.write_raw(encoding, value);
        let partial = vm_entry(&f.entry());
        f.vmcs12.mark_dirty(Groups::ALL);
        prop_assert_eq!(partial, vm_entry(&f.entry()), "{}", ALL[which].0);
    }
}

/// The same for every single bit of every field, from each of the states.
#[test]
fn every_flipped_bit_is_seen_by_the_dirty_run() {
    for base in BASES {
        let mut f = valid();
        base(&mut f);
        assert_eq!(vm_entry(&f.entry()), Ok(()));
        f.vmcs12.clear_dirty();
        for (name, encoding) in ALL {
            let old = f.vmcs12.read_raw(*encoding);
            for bit in 0..64 {
                f.vmcs12.write_raw(*encoding, old ^ (1_u64 << bit));
                let partial = vm_entry(&f.entry());
                f.vmcs12.mark_dirty(Groups::ALL);
                assert_eq!(partial, vm_entry(&f.entry()), "bit {bit} of {name}");
                f.vmcs12.write_raw(*encoding, old);
                f.vmcs12.clear_dirty();
            }
        }
    }
}
