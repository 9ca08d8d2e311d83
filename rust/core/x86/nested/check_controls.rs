// SPDX-License-Identifier: GPL-2.0

//! Checks on VMX controls: VMfailValid with error 7.
//!
//! SDM 3C "Checks on VMX Controls", 27.2.1. Controls that L1 is never offered (tertiary ones, #VE,
//! sub-page permissions, HLAT, Intel PT, entry to SMM) fall to the reserved-bit checks.

use super::super::vmx::caps::CtlMsr;
use super::super::vmx::ctls::{
    Eptp,
    IntrType, //
};
use super::super::vmx::field::*;
use super::check::{
    checks,
    Block,
    Check,
    Entry,
    Table,
    ALWAYS,
    CR0_PE, //
};
use super::vmcs12::Groups;

/// All of them, in the order of the SDM where it has one.
pub(super) const BLOCKS: &[Block] = &[
    Block {
        depends: WORDS_DEPEND,
        qualification: 0,
        checks: WORDS,
    },
    Block {
        depends: Groups::CONTROLS,
        qualification: 0,
        checks: EXECUTION,
    },
    Block {
        depends: ON_BITMAPS,
        qualification: 0,
        checks: BITMAPS,
    },
    Block {
        depends: ON_APIC,
        qualification: 0,
        checks: APIC,
    },
    Block {
        depends: ALWAYS,
        qualification: 0,
        checks: APIC_PAGE,
    },
    Block {
        depends: ON_EPTP,
        qualification: 0,
        checks: EPT,
    },
    Block {
        depends: ON_TSC,
        qualification: 0,
        checks: TSC,
    },
    Block {
        depends: Groups::CONTROLS,
        qualification: 0,
        checks: EXIT_AND_ENTRY,
    },
    Block {
        depends: ON_EVENT,
        qualification: 0,
        checks: EVENT,
    },
];

/// Them, and which depend on what.
pub(super) static TABLE: Table = Table::new(BLOCKS);

const WORDS_DEPEND: Groups = Groups::CONTROLS.union(Groups::WINDOWS);
const ON_BITMAPS: Groups = Groups::CONTROLS.union(Groups::BITMAPS);
const ON_APIC: Groups = Groups::CONTROLS.union(Groups::APIC);
const ON_EPTP: Groups = Groups::CONTROLS.union(Groups::EPTP);
const ON_TSC: Groups = Groups::CONTROLS.union(Groups::TSC);
const ON_EVENT: Groups = Groups::CONTROLS.union(Groups::EVENT).union(Groups::CRS);

/// Returns whether a control word has a bit set that must be 0, or clear that must be 1.
fn is_reserved(word: u32, msr: CtlMsr) -> bool {
    word & !msr.allowed1() != 0 || !word & msr.allowed0() != 0
}

const WORDS: &[Check] = checks! {
    "C1 pin-based controls" => |e| is_reserved(e.pin().0, e.caps.pin());
    "C2 primary processor-based controls" => |e| is_reserved(e.proc().0, e.caps.proc());
    "C10 NMI-window exiting needs virtual NMIs" => |e| {
        e.proc().nmi_window() && !e.pin().virtual_nmis()
    };
};

const EXECUTION: &[Check] = checks! {
    "C3 secondary processor-based controls" => |e| {
        e.proc().secondary() && is_reserved(e.proc2().0, e.caps.procbased2)
    };
    "C5 CR3-target count" => |e| {
        e.get(CR3_TARGET_COUNT) > u32::from(e.caps.misc.cr3_targets())
    };
    "C9 virtualize x2APIC mode needs a TPR shadow" => |e| {
        !e.proc().tpr_shadow() && e.proc2().virtualize_x2apic()
    };
    "C9 APIC-register virtualization needs a TPR shadow" => |e| {
        !e.proc().tpr_shadow() && e.proc2().apic_register_virt()
    };
    "C9 virtual-interrupt delivery needs a TPR shadow" => |e| {
        !e.proc().tpr_shadow() && e.proc2().virtual_intr_delivery()
    };
    "C10 virtual NMIs need NMI exiting" => |e| {
        e.pin().virtual_nmis() && !e.pin().nmi_exiting()
    };
    "C11 virtualize x2APIC mode excludes virtualize APIC accesses" => |e| {
        e.proc2().virtualize_x2apic() && e.proc2().virtualize_apic()
    };
    "C12 virtual-interrupt delivery needs external-interrupt exiting" => |e| {
        e.proc2().virtual_intr_delivery() && !e.pin().ext_intr_exiting()
    };
    "C13 posted interrupts need virtual-interrupt delivery" => |e| {
        e.pin().posted_intr() && !e.proc2().virtual_intr_delivery()
    };
    "C13 posted interrupts need acknowledge interrupt on exit" => |e| {
        e.pin().posted_intr() && !e.exit().ack_intr()
    };
    "C14 VPID is not 0" => |e| {
        e.proc2().vpid() && e.get(VIRTUAL_PROCESSOR_ID) == 0
    };
    "C16 unrestricted guest needs EPT" => |e| {
        e.proc2().unrestricted_guest() && !e.proc2().ept()
    };
    "C16 mode-based execute control needs EPT" => |e| {
        e.proc2().mode_based_exec() && !e.proc2().ept()
    };
    "C16 PML needs EPT" => |e| e.proc2().pml() && !e.proc2().ept();
    "C16 PML address" => |e| e.proc2().pml() && !e.is_page(PML_ADDRESS);
    "C17 VM-function controls" => |e| {
        e.proc2().vmfunc() && e.get(VM_FUNCTION_CONTROL) & !e.caps.vmfunc != 0
    };
    "C16 EPTP switching needs EPT" => |e| eptp_switching(e) && !e.proc2().ept();
    "C16 EPTP-list address" => |e| eptp_switching(e) && !e.is_page(EPTP_LIST_ADDRESS);
};

fn eptp_switching(e: &Entry<'_>) -> bool {
    e.proc2().vmfunc() && e.get(VM_FUNCTION_CONTROL) & super::caps::VMFUNC_EPTP_SWITCHING != 0
}

const BITMAPS: &[Check] = checks! {
    "C6 address of I/O bitmap A" => |e| e.proc().io_bitmaps() && !e.is_page(IO_BITMAP_A);
    "C6 address of I/O bitmap B" => |e| e.proc().io_bitmaps() && !e.is_page(IO_BITMAP_B);
    "C7 MSR-bitmap address" => |e| e.proc().msr_bitmaps() && !e.is_page(MSR_BITMAP);
    "C16 VMREAD-bitmap address" => |e| e.proc2().vmcs_shadowing() && !e.is_page(VMREAD_BITMAP);
    "C16 VMWRITE-bitmap address" => |e| e.proc2().vmcs_shadowing() && !e.is_page(VMWRITE_BITMAP);
};

const APIC: &[Check] = checks! {
    "C8 virtual-APIC address" => |e| {
        e.proc().tpr_shadow() && !e.is_page(VIRTUAL_APIC_PAGE_ADDR)
    };
    "C8 bits 31:4 of the TPR threshold" => |e| {
        e.proc().tpr_shadow()
            && !e.proc2().virtual_intr_delivery()
            && e.get(TPR_THRESHOLD) & !0xf != 0
    };
    "C11 APIC-access address" => |e| {
        e.proc2().virtualize_apic() && !e.is_page(APIC_ACCESS_ADDR)
    };
    "C13 posted-interrupt notification vector" => |e| {
        e.pin().posted_intr() && e.get(POSTED_INTR_NV) > 0xff
    };
    "C13 posted-interrupt descriptor address" => |e| {
        let address = e.get(POSTED_INTR_DESC_ADDR);
        e.pin().posted_intr() && (address & 0x3f != 0 || !e.is_physical(address))
    };
};

const APIC_PAGE: &[Check] = checks! {
    "C8 TPR threshold is not above VTPR" => |e| {
        let is_checked = e.proc().tpr_shadow()
            && !e.proc2().virtual_intr_delivery()
            && !e.proc2().virtualize_apic();
        is_checked && e.env.vtpr.is_some_and(|vtpr| e.get(TPR_THRESHOLD) > u32::from(vtpr >> 4))
    };
};

fn eptp(e: &Entry<'_>) -> Option<Eptp> {
    e.proc2().ept().then(|| Eptp(e.get(EPT_POINTER)))
}

const EPT: &[Check] = checks! {
    "C15 EPT memory type" => |e| {
        eptp(e).is_some_and(|eptp| match eptp.memory_type() {
            Eptp::UC => !e.caps.ept_vpid.uncacheable(),
            Eptp::WB => !e.caps.ept_vpid.write_back(),
            _ => true,
        })
    };
    "C15 EPT page-walk length" => |e| {
        eptp(e).is_some_and(|eptp| match eptp.walk_minus_1() {
            3 => !e.caps.ept_vpid.four_levels(),
            4 => !e.caps.ept_vpid.five_levels(),
            _ => true,
        })
    };
    "C15 EPT accessed and dirty flags" => |e| {
        eptp(e).is_some_and(|eptp| eptp.accessed_dirty() && !e.caps.ept_vpid.accessed_dirty())
    };
    "C15 reserved bits of the EPT pointer" => |e| {
        eptp(e).is_some_and(|eptp| {
            let shadow_stack = e.caps.ept_vpid.supervisor_shadow_stack();
            eptp.reserved_low() != 0 || (eptp.supervisor_shadow_stack() && !shadow_stack)
        })
    };
    "C15 EPT pointer within the physical-address width" => |e| {
        eptp(e).is_some_and(|eptp| !e.is_physical(eptp.0))
    };
};

const TSC: &[Check] = checks! {
    "C17 TSC multiplier is not 0" => |e| {
        e.proc2().tsc_scaling() && e.get(TSC_MULTIPLIER) == 0
    };
};

/// Returns whether an MSR list of `count` entries, 16 bytes each, does not fit at `address`.
fn is_bad_list(e: &Entry<'_>, count: u32, address: u64) -> bool {
    let Some(len_minus_1) = (u64::from(count) << 4).checked_sub(1) else {
        return false;
    };
    let last = address.checked_add(len_minus_1);
    address & 0xf != 0 || !last.is_some_and(|last| e.is_physical(last))
}

const EXIT_AND_ENTRY: &[Check] = checks! {
    "C18 VM-exit controls" => |e| is_reserved(e.exit().0, e.caps.exit_ctls());
    "C18 save VMX-preemption timer value needs the timer" => |e| {
        e.exit().save_preemption_timer() && !e.pin().preemption_timer()
    };
    "C18 VM-exit MSR-store list" => |e| {
        is_bad_list(e, e.get(VM_EXIT_MSR_STORE_COUNT), e.get(VM_EXIT_MSR_STORE_ADDR))
    };
    "C18 VM-exit MSR-load list" => |e| {
        is_bad_list(e, e.get(VM_EXIT_MSR_LOAD_COUNT), e.get(VM_EXIT_MSR_LOAD_ADDR))
    };
    "C19 VM-entry controls" => |e| is_reserved(e.entry().0, e.caps.entry_ctls());
    "C19 VM-entry MSR-load list" => |e| {
        is_bad_list(e, e.get(VM_ENTRY_MSR_LOAD_COUNT), e.get(VM_ENTRY_MSR_LOAD_ADDR))
    };
};

/// Returns whether CR0.PE does not have to be looked at, or is 1.
fn is_protected(e: &Entry<'_>) -> bool {
    !e.proc2().unrestricted_guest() || e.get(GUEST_CR0) & CR0_PE != 0
}

/// Returns whether the injected event must, or must not, deliver an error code, against what its
/// word says.
fn is_wrong_error_code(e: &Entry<'_>) -> bool {
    let event = e.event();
    let may = event.intr_type() == IntrType::HardwareException && is_protected(e);
    if !may || e.caps.basic.any_error_code() {
        return event.has_error_code() && !may;
    }
    let must = matches!(event.vector(), 8 | 10..=14 | 17);
    event.has_error_code() != must
}

const EVENT: &[Check] = checks! {
    "C20 type of the injected event" => |e| {
        e.event().valid()
            && match e.event().intr_type() {
                IntrType::Reserved => true,
                IntrType::OtherEvent => {
                    use super::super::vmx::ctls::ProcCtls;
                    !ProcCtls(e.caps.proc().allowed1()).monitor_trap_flag()
                }
                IntrType::ExternalInterrupt
                | IntrType::Nmi
                | IntrType::HardwareException
                | IntrType::SoftwareInterrupt
                | IntrType::PrivilegedSoftwareException
                | IntrType::SoftwareException => false,
            }
    };
    "C20 vector of an injected NMI is 2" => |e| e.event().is_nmi() && e.event().vector() != 2;
    "C20 vector of an injected exception is at most 31" => |e| {
        let event = e.event();
        event.valid() && event.intr_type() == IntrType::HardwareException && event.vector() > 31
    };
    "C20 vector of another event is 0" => |e| {
        let event = e.event();
        event.valid() && event.intr_type() == IntrType::OtherEvent && event.vector() != 0
    };
    "C20 reserved bits of the injected event" => |e| {
        e.event().valid() && (e.event().reserved() != 0 || e.event().nmi_unblocking())
    };
    "C21 delivery of an error code" => |e| e.event().valid() && is_wrong_error_code(e);
    "C21 bits 31:16 of the error code" => |e| {
        e.event().valid()
            && e.event().has_error_code()
            && e.get(VM_ENTRY_EXCEPTION_ERROR_CODE) > 0xffff
    };
    "C22 length of the injecting instruction" => |e| {
        let length = e.get(VM_ENTRY_INSTRUCTION_LEN);
        e.event().valid()
            && e.event().intr_type().is_software()
            && (length > 15 || (length == 0 && !e.caps.misc.zero_length_injection()))
    };
};
