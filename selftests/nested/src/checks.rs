// SPDX-License-Identifier: GPL-2.0

//! The checks of VM entry: a guest that enters, with one thing wrong with it.

use burrow_core::x86::vmx::field as f;

use crate::{
    cpu::{
        self,
        page,
        rdmsr, //
    },
    l2::{
        self,
        fresh, //
    },
    vmx::{
        self,
        clear,
        has_secondary,
        may_set,
        rd,
        set,
        set_secondary,
        wr, //
    },
};

code! {
    end: "mov edi, 0x77", "vmcall";
}

/// A name, and what is done to the VMCS.
pub type Row = (&'static str, fn());

/// One line for each row.
fn rows(group: &str, rows: &[Row]) {
    for (name, prepare) in rows {
        let ran = fresh(end, prepare);
        say!("{group}.{name}", "{ran}");
    }
}

/// The lowest control that must not be 1.
fn reserved(msr: u32) -> u32 {
    1 << (!(rdmsr(msr) >> 32) as u32).trailing_zeros()
}

/// The lowest control that must be 1.
fn fixed(msr: u32) -> u32 {
    1 << (rdmsr(msr) as u32).trailing_zeros()
}

fn above_width() -> u64 {
    1 << cpu::physical_width()
}

/// Writes a selector, the base, the limit and the access rights of the segment with this number.
fn segment(number: u32, selector: u64, base: u64, limit: u64, rights: u64) {
    for (first, value) in [
        (f::GUEST_ES_SELECTOR.encoding().0, selector),
        (f::GUEST_ES_BASE.encoding().0, base),
        (f::GUEST_ES_LIMIT.encoding().0, limit),
        (f::GUEST_ES_AR_BYTES.encoding().0, rights),
    ] {
        vmx::vmwrite(u64::from(first + 2 * number), value);
    }
}

/// Changes the access rights of the segment with this number.
fn rights(number: u32, rights: u64) {
    vmx::vmwrite(
        u64::from(f::GUEST_ES_AR_BYTES.encoding().0 + 2 * number),
        rights,
    );
}

const ES: u32 = 0;
const CS: u32 = 1;
const SS: u32 = 2;
const DS: u32 = 3;
const FS: u32 = 4;
const LDTR: u32 = 6;
const TR: u32 = 7;

fn inject(info: u64) {
    wr(f::VM_ENTRY_INTR_INFO_FIELD, info);
}

/// SDM 28.2.1: the controls. All fail with error 7.
pub fn controls() {
    rows(
        "controls",
        &[
            ("none", || {}),
            ("pin-reserved", || {
                set(f::PIN_BASED_VM_EXEC_CONTROL, reserved(vmx::TRUE_PIN))
            }),
            ("pin-fixed", || {
                clear(f::PIN_BASED_VM_EXEC_CONTROL, fixed(vmx::TRUE_PIN))
            }),
            ("cpu-reserved", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, reserved(vmx::TRUE_CPU))
            }),
            ("cpu-fixed", || {
                clear(f::CPU_BASED_VM_EXEC_CONTROL, fixed(vmx::TRUE_CPU))
            }),
            ("cpu2-reserved", || set_secondary(1 << 31)),
            ("cpu2-reserved-inactive", || {
                set_secondary(1 << 31);
                clear(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_SECONDARY);
                // Shadow page tables instead of EPT: the guest's are ours.
            }),
            ("exit-reserved", || {
                set(f::VM_EXIT_CONTROLS, reserved(vmx::TRUE_EXIT))
            }),
            ("exit-fixed", || {
                clear(f::VM_EXIT_CONTROLS, fixed(vmx::TRUE_EXIT))
            }),
            ("entry-reserved", || {
                set(f::VM_ENTRY_CONTROLS, reserved(vmx::TRUE_ENTRY))
            }),
            ("entry-fixed", || {
                clear(f::VM_ENTRY_CONTROLS, fixed(vmx::TRUE_ENTRY))
            }),
            ("entry-dual-monitor", || {
                set(f::VM_ENTRY_CONTROLS, vmx::ENTRY_DUAL_MONITOR)
            }),
            ("cr3-targets", || wr(f::CR3_TARGET_COUNT, 5)),
            ("cr3-targets-256", || wr(f::CR3_TARGET_COUNT, 256)),
            ("io-bitmap-a-misaligned", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_IO_BITMAPS);
                wr(f::IO_BITMAP_A, 0x1008);
            }),
            ("io-bitmap-a-wide", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_IO_BITMAPS);
                wr(f::IO_BITMAP_A, above_width());
            }),
            ("io-bitmap-b-misaligned", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_IO_BITMAPS);
                wr(f::IO_BITMAP_B, 0x1008);
            }),
            ("io-bitmap-b-wide", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_IO_BITMAPS);
                wr(f::IO_BITMAP_B, above_width());
            }),
            ("io-bitmaps-unused", || wr(f::IO_BITMAP_A, 0x1008)),
            ("msr-bitmap-misaligned", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MSR_BITMAPS);
                wr(f::MSR_BITMAP, 0x1008);
            }),
            ("msr-bitmap-wide", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MSR_BITMAPS);
                wr(f::MSR_BITMAP, above_width());
            }),
            ("msr-bitmap-unused", || wr(f::MSR_BITMAP, 0x1008)),
            ("tpr-page-misaligned", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_TPR_SHADOW);
                wr(f::VIRTUAL_APIC_PAGE_ADDR, 0x1010);
            }),
            ("tpr-page-wide", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_TPR_SHADOW);
                wr(f::VIRTUAL_APIC_PAGE_ADDR, above_width());
            }),
            ("tpr-threshold", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_TPR_SHADOW);
                wr(f::VIRTUAL_APIC_PAGE_ADDR, page());
                wr(f::TPR_THRESHOLD, 0x10);
            }),
            ("tpr-threshold-above-tpr", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_TPR_SHADOW);
                wr(f::VIRTUAL_APIC_PAGE_ADDR, page());
                wr(f::TPR_THRESHOLD, 5);
            }),
            ("tpr-threshold-equal", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_TPR_SHADOW);
                let page = page();
                cpu::poke32(page + 0x80, 0x50);
                wr(f::VIRTUAL_APIC_PAGE_ADDR, page);
                wr(f::TPR_THRESHOLD, 5);
            }),
            ("x2apic-without-tpr-shadow", || {
                set_secondary(vmx::CPU2_X2APIC)
            }),
            ("apic-registers-without-tpr-shadow", || {
                set_secondary(vmx::CPU2_APIC_REGISTERS)
            }),
            ("virtual-interrupts-without-tpr-shadow", || {
                set_secondary(vmx::CPU2_VIRTUAL_INTERRUPTS)
            }),
            ("virtual-nmis-without-nmi", || {
                set(f::PIN_BASED_VM_EXEC_CONTROL, vmx::PIN_VIRTUAL_NMIS);
            }),
            ("nmi-window-without-virtual-nmis", || {
                set(f::PIN_BASED_VM_EXEC_CONTROL, vmx::PIN_NMI);
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_NMI_WINDOW);
            }),
            ("apic-access-misaligned", || {
                set_secondary(vmx::CPU2_APIC_ACCESS);
                wr(f::APIC_ACCESS_ADDR, 0x1008);
            }),
            ("apic-access-wide", || {
                set_secondary(vmx::CPU2_APIC_ACCESS);
                wr(f::APIC_ACCESS_ADDR, above_width());
            }),
            ("apic-access-with-x2apic", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_TPR_SHADOW);
                wr(f::VIRTUAL_APIC_PAGE_ADDR, page());
                wr(f::APIC_ACCESS_ADDR, page());
                set_secondary(vmx::CPU2_APIC_ACCESS | vmx::CPU2_X2APIC);
            }),
            ("vpid-0", || set_secondary(vmx::CPU2_VPID)),
            ("vpid-1", || {
                set_secondary(vmx::CPU2_VPID);
                wr(f::VIRTUAL_PROCESSOR_ID, 1);
            }),
            ("eptp-memory-type", || {
                wr(f::EPT_POINTER, rd(f::EPT_POINTER) & !7 | 1)
            }),
            ("eptp-memory-type-7", || {
                wr(f::EPT_POINTER, rd(f::EPT_POINTER) | 7)
            }),
            ("eptp-walk-length", || {
                wr(f::EPT_POINTER, rd(f::EPT_POINTER) & !0x38 | 0x10)
            }),
            ("eptp-walk-length-6", || {
                wr(f::EPT_POINTER, rd(f::EPT_POINTER) & !0x38 | 0x28)
            }),
            ("eptp-accessed-dirty", || {
                wr(f::EPT_POINTER, rd(f::EPT_POINTER) | 0x40)
            }),
            ("eptp-bit-8", || {
                wr(f::EPT_POINTER, rd(f::EPT_POINTER) | 1 << 8)
            }),
            ("eptp-bit-11", || {
                wr(f::EPT_POINTER, rd(f::EPT_POINTER) | 1 << 11)
            }),
            ("eptp-wide", || {
                wr(f::EPT_POINTER, rd(f::EPT_POINTER) | above_width())
            }),
            ("eptp-bit-63", || {
                wr(f::EPT_POINTER, rd(f::EPT_POINTER) | 1 << 63)
            }),
            ("unrestricted-without-ept", || {
                clear(f::SECONDARY_VM_EXEC_CONTROL, vmx::CPU2_EPT);
                set_secondary(vmx::CPU2_UNRESTRICTED);
            }),
            ("without-ept", || {
                clear(f::SECONDARY_VM_EXEC_CONTROL, vmx::CPU2_EPT)
            }),
            ("save-timer-without-timer", || {
                clear(f::PIN_BASED_VM_EXEC_CONTROL, vmx::PIN_TIMER);
                set(f::VM_EXIT_CONTROLS, vmx::EXIT_SAVE_TIMER);
            }),
            ("exit-store-misaligned", || {
                wr(f::VM_EXIT_MSR_STORE_COUNT, 1);
                wr(f::VM_EXIT_MSR_STORE_ADDR, page() + 8);
            }),
            ("exit-store-wide", || {
                wr(f::VM_EXIT_MSR_STORE_COUNT, 1);
                wr(f::VM_EXIT_MSR_STORE_ADDR, above_width());
            }),
            ("exit-store-end-wide", || {
                wr(f::VM_EXIT_MSR_STORE_COUNT, 2);
                wr(f::VM_EXIT_MSR_STORE_ADDR, above_width() - 16);
            }),
            ("exit-store-unused", || wr(f::VM_EXIT_MSR_STORE_ADDR, 8)),
            ("exit-load-misaligned", || {
                wr(f::VM_EXIT_MSR_LOAD_COUNT, 1);
                wr(f::VM_EXIT_MSR_LOAD_ADDR, page() + 8);
            }),
            ("exit-load-wide", || {
                wr(f::VM_EXIT_MSR_LOAD_COUNT, 1);
                wr(f::VM_EXIT_MSR_LOAD_ADDR, above_width());
            }),
            ("exit-load-end-wide", || {
                wr(f::VM_EXIT_MSR_LOAD_COUNT, 2);
                wr(f::VM_EXIT_MSR_LOAD_ADDR, above_width() - 16);
            }),
            ("entry-load-misaligned", || {
                wr(f::VM_ENTRY_MSR_LOAD_COUNT, 1);
                wr(f::VM_ENTRY_MSR_LOAD_ADDR, page() + 8);
            }),
            ("entry-load-wide", || {
                wr(f::VM_ENTRY_MSR_LOAD_COUNT, 1);
                wr(f::VM_ENTRY_MSR_LOAD_ADDR, above_width());
            }),
            ("entry-load-end-wide", || {
                wr(f::VM_ENTRY_MSR_LOAD_COUNT, 2);
                wr(f::VM_ENTRY_MSR_LOAD_ADDR, above_width() - 16);
            }),
            ("inject-type-1", || inject(0x8000_0120)),
            ("inject-mtf-type-vector-1", || inject(0x8000_0701)),
            ("inject-nmi-vector-3", || inject(0x8000_0203)),
            ("inject-exception-32", || inject(0x8000_0320)),
            ("inject-reserved-12", || inject(0x8000_1020)),
            ("inject-reserved-30", || inject(0xc000_0020)),
            ("inject-interrupt-error-code", || inject(0x8000_0820)),
            ("inject-nmi-error-code", || inject(0x8000_0a02)),
            ("inject-software-error-code", || {
                inject(0x8000_0c30);
                wr(f::VM_ENTRY_INSTRUCTION_LEN, 2);
            }),
            ("inject-ud-error-code", || inject(0x8000_0b06)),
            ("inject-gp-no-error-code", || inject(0x8000_030d)),
            ("inject-pf-no-error-code", || inject(0x8000_030e)),
            ("inject-ac-no-error-code", || inject(0x8000_0311)),
            ("inject-error-code-wide", || {
                inject(0x8000_0b0d);
                wr(f::VM_ENTRY_EXCEPTION_ERROR_CODE, 0x1_0000);
            }),
            ("inject-error-code-bit-15", || {
                inject(0x8000_0b0d);
                wr(f::VM_ENTRY_EXCEPTION_ERROR_CODE, 0x8000_0000);
            }),
            ("inject-software-length-16", || {
                inject(0x8000_0430);
                wr(f::VM_ENTRY_INSTRUCTION_LEN, 16);
            }),
            ("inject-software-exception-length-16", || {
                inject(0x8000_0603);
                wr(f::VM_ENTRY_INSTRUCTION_LEN, 16);
            }),
            ("inject-privileged-length-16", || {
                inject(0x8000_0501);
                wr(f::VM_ENTRY_INSTRUCTION_LEN, 16);
            }),
            ("inject-invalid-garbage", || inject(0x7fff_ffff)),
        ],
    );
    if has_secondary(vmx::CPU2_SHADOWING) {
        rows(
            "controls",
            &[
                ("vmread-bitmap-misaligned", || {
                    set_secondary(vmx::CPU2_SHADOWING);
                    wr(f::VMREAD_BITMAP, 8);
                }),
                ("vmwrite-bitmap-wide", || {
                    set_secondary(vmx::CPU2_SHADOWING);
                    wr(f::VMWRITE_BITMAP, above_width());
                }),
            ],
        );
    }
    if may_set(vmx::TRUE_CPU, vmx::CPU_TPR_SHADOW) {
        rows(
            "controls",
            &[("virtual-interrupts-without-external", || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_TPR_SHADOW);
                wr(f::VIRTUAL_APIC_PAGE_ADDR, page());
                set_secondary(vmx::CPU2_VIRTUAL_INTERRUPTS);
            })],
        );
    }
    if has_secondary(vmx::CPU2_TSC_SCALING) {
        rows(
            "controls",
            &[("tsc-multiplier-0", || {
                set_secondary(vmx::CPU2_TSC_SCALING);
                wr(f::TSC_MULTIPLIER, 0);
            })],
        );
    }
}

/// The first address that is not canonical.
const NOT_CANONICAL: u64 = 1 << 47;

/// SDM 28.2.2 to 28.2.4: host state. All fail with error 8.
pub fn host() {
    rows(
        "host",
        &[
            ("none", || {}),
            ("cr0-pg", || wr(f::HOST_CR0, cpu::cr0() & !(1 << 31))),
            ("cr0-pe", || wr(f::HOST_CR0, cpu::cr0() & !1)),
            ("cr0-ne", || wr(f::HOST_CR0, cpu::cr0() & !0x20)),
            ("cr0-bit-32", || wr(f::HOST_CR0, cpu::cr0() | 1 << 32)),
            ("cr4-vmxe", || wr(f::HOST_CR4, cpu::cr4() & !vmx::VMXE)),
            ("cr4-pae", || wr(f::HOST_CR4, cpu::cr4() & !0x20)),
            ("cr4-bit-31", || wr(f::HOST_CR4, cpu::cr4() | 1 << 31)),
            ("cr4-bit-32", || wr(f::HOST_CR4, cpu::cr4() | 1 << 32)),
            ("cr3-wide", || wr(f::HOST_CR3, cpu::cr3() | above_width())),
            ("cr3-bit-63", || wr(f::HOST_CR3, cpu::cr3() | 1 << 63)),
            ("sysenter-esp", || {
                wr(f::HOST_IA32_SYSENTER_ESP, NOT_CANONICAL)
            }),
            ("sysenter-eip", || {
                wr(f::HOST_IA32_SYSENTER_EIP, NOT_CANONICAL)
            }),
            ("pat", || {
                set(f::VM_EXIT_CONTROLS, vmx::EXIT_LOAD_PAT);
                wr(f::HOST_IA32_PAT, vmx::PAT & !0xff | 2);
            }),
            ("pat-7", || {
                set(f::VM_EXIT_CONTROLS, vmx::EXIT_LOAD_PAT);
                wr(f::HOST_IA32_PAT, vmx::PAT | 3 << 56);
            }),
            ("pat-high-bits", || {
                set(f::VM_EXIT_CONTROLS, vmx::EXIT_LOAD_PAT);
                wr(f::HOST_IA32_PAT, vmx::PAT | 0x80);
            }),
            ("pat-unused", || wr(f::HOST_IA32_PAT, 2)),
            ("efer-reserved", || {
                wr(f::HOST_IA32_EFER, vmx::EFER_LONG | 1 << 1)
            }),
            ("efer-high", || {
                wr(f::HOST_IA32_EFER, vmx::EFER_LONG | 1 << 32)
            }),
            ("efer-no-lma", || wr(f::HOST_IA32_EFER, 0x100)),
            ("efer-no-lme", || wr(f::HOST_IA32_EFER, 0x400)),
            ("efer-neither", || wr(f::HOST_IA32_EFER, 0)),
            ("efer-unused", || {
                clear(f::VM_EXIT_CONTROLS, vmx::EXIT_LOAD_EFER);
                wr(f::HOST_IA32_EFER, 2);
            }),
            ("cs-rpl", || wr(f::HOST_CS_SELECTOR, 0x0b)),
            ("cs-ti", || wr(f::HOST_CS_SELECTOR, 0x0c)),
            ("cs-0", || wr(f::HOST_CS_SELECTOR, 0)),
            ("ss-rpl", || wr(f::HOST_SS_SELECTOR, 0x13)),
            ("ss-ti", || wr(f::HOST_SS_SELECTOR, 0x14)),
            ("ds-rpl", || wr(f::HOST_DS_SELECTOR, 0x11)),
            ("ds-ti", || wr(f::HOST_DS_SELECTOR, 0x14)),
            ("es-rpl", || wr(f::HOST_ES_SELECTOR, 0x12)),
            ("fs-ti", || wr(f::HOST_FS_SELECTOR, 0x14)),
            ("gs-rpl", || wr(f::HOST_GS_SELECTOR, 0x13)),
            ("tr-0", || wr(f::HOST_TR_SELECTOR, 0)),
            ("tr-rpl", || wr(f::HOST_TR_SELECTOR, 0x23)),
            ("tr-ti", || wr(f::HOST_TR_SELECTOR, 0x24)),
            ("fs-base", || wr(f::HOST_FS_BASE, NOT_CANONICAL)),
            ("gs-base", || wr(f::HOST_GS_BASE, NOT_CANONICAL)),
            ("tr-base", || wr(f::HOST_TR_BASE, NOT_CANONICAL)),
            ("gdtr-base", || wr(f::HOST_GDTR_BASE, NOT_CANONICAL)),
            ("idtr-base", || wr(f::HOST_IDTR_BASE, NOT_CANONICAL)),
            ("host32", || clear(f::VM_EXIT_CONTROLS, vmx::EXIT_HOST64)),
            ("host32-efer", || {
                clear(f::VM_EXIT_CONTROLS, vmx::EXIT_HOST64);
                wr(f::HOST_IA32_EFER, 0);
            }),
            ("rip", || wr(f::HOST_RIP, NOT_CANONICAL)),
            // Controls come first.
            ("and-controls", || {
                wr(f::HOST_CR4, 0);
                set(f::PIN_BASED_VM_EXEC_CONTROL, reserved(vmx::TRUE_PIN));
            }),
        ],
    );
}

/// SDM 28.3.1: guest state. All are exit 33 with a qualification.
pub fn guest() {
    guest_registers();
    guest_segments();
    guest_state();
}

/// Control registers, MSRs, tables, RIP, RFLAGS.
fn guest_registers() {
    rows(
        "guest",
        &[
            ("none", || {}),
            ("cr0-pe", || wr(f::GUEST_CR0, cpu::cr0() & !1)),
            ("cr0-pg", || wr(f::GUEST_CR0, cpu::cr0() & !(1 << 31))),
            ("cr0-ne", || wr(f::GUEST_CR0, cpu::cr0() & !0x20)),
            ("cr0-bit-32", || wr(f::GUEST_CR0, cpu::cr0() | 1 << 32)),
            ("cr0-nw-cd", || wr(f::GUEST_CR0, cpu::cr0() | 3 << 29)),
            ("cr0-nw", || wr(f::GUEST_CR0, cpu::cr0() | 1 << 29)),
            ("cr4-vmxe", || wr(f::GUEST_CR4, cpu::cr4() & !vmx::VMXE)),
            ("cr4-pae", || wr(f::GUEST_CR4, cpu::cr4() & !0x20)),
            ("cr4-bit-31", || wr(f::GUEST_CR4, cpu::cr4() | 1 << 31)),
            ("cr4-bit-32", || wr(f::GUEST_CR4, cpu::cr4() | 1 << 32)),
            ("cr3-wide", || wr(f::GUEST_CR3, cpu::cr3() | above_width())),
            ("cr3-bit-63", || wr(f::GUEST_CR3, cpu::cr3() | 1 << 63)),
            ("urg-pg-without-pe", || {
                set_secondary(vmx::CPU2_UNRESTRICTED);
                wr(f::GUEST_CR0, cpu::cr0() & !1);
            }),
            ("ia32e-without-paging", || {
                set_secondary(vmx::CPU2_UNRESTRICTED);
                wr(f::GUEST_CR0, cpu::cr0() & !(1 << 31));
            }),
            ("dr7-high", || {
                set(f::VM_ENTRY_CONTROLS, vmx::ENTRY_LOAD_DEBUG);
                wr(f::GUEST_DR7, 1 << 32 | 0x400);
            }),
            ("dr7-high-unused", || wr(f::GUEST_DR7, 1 << 32 | 0x400)),
            ("debugctl", || {
                set(f::VM_ENTRY_CONTROLS, vmx::ENTRY_LOAD_DEBUG);
                wr(f::GUEST_IA32_DEBUGCTL, 1 << 63);
            }),
            ("debugctl-unused", || wr(f::GUEST_IA32_DEBUGCTL, 1 << 63)),
            ("sysenter-esp", || wr(f::GUEST_SYSENTER_ESP, NOT_CANONICAL)),
            ("sysenter-eip", || wr(f::GUEST_SYSENTER_EIP, NOT_CANONICAL)),
            ("pat", || {
                set(f::VM_ENTRY_CONTROLS, vmx::ENTRY_LOAD_PAT);
                wr(f::GUEST_IA32_PAT, vmx::PAT & !0xff | 2);
            }),
            ("pat-unused", || wr(f::GUEST_IA32_PAT, 2)),
            ("efer-reserved", || {
                wr(f::GUEST_IA32_EFER, vmx::EFER_LONG | 2)
            }),
            ("efer-no-lma", || wr(f::GUEST_IA32_EFER, 0x100)),
            ("efer-no-lme", || wr(f::GUEST_IA32_EFER, 0x400)),
            ("efer-high", || {
                wr(f::GUEST_IA32_EFER, vmx::EFER_LONG | 1 << 40)
            }),
            ("efer-nxe", || {
                wr(f::GUEST_IA32_EFER, vmx::EFER_LONG | 1 << 11)
            }),
            ("efer-sce", || wr(f::GUEST_IA32_EFER, vmx::EFER_LONG | 1)),
            ("efer-unused", || {
                clear(f::VM_ENTRY_CONTROLS, vmx::ENTRY_LOAD_EFER);
                wr(f::GUEST_IA32_EFER, 2);
            }),
            ("gdtr-base", || wr(f::GUEST_GDTR_BASE, NOT_CANONICAL)),
            ("idtr-base", || wr(f::GUEST_IDTR_BASE, NOT_CANONICAL)),
            ("gdtr-limit", || wr(f::GUEST_GDTR_LIMIT, 0x1_0000)),
            ("idtr-limit", || wr(f::GUEST_IDTR_LIMIT, 0x8000_0000)),
            ("rflags-0", || wr(f::GUEST_RFLAGS, 0)),
            ("rflags-bit-3", || wr(f::GUEST_RFLAGS, 0xa)),
            ("rflags-bit-15", || wr(f::GUEST_RFLAGS, 0x8002)),
            ("rflags-bit-22", || wr(f::GUEST_RFLAGS, 0x40_0002)),
            ("rflags-bit-63", || wr(f::GUEST_RFLAGS, 1 << 63 | 2)),
            ("rflags-vm", || wr(f::GUEST_RFLAGS, 0x2_0002)),
            ("rflags-if-injection", || inject(0x8000_0020)),
            ("rip-not-canonical", || wr(f::GUEST_RIP, NOT_CANONICAL << 1)),
            ("cr3-reserved-low", || {
                wr(f::GUEST_CR3, rd(f::GUEST_CR3) | 0x18)
            }),
        ],
    );
}

/// Segment registers.
fn guest_segments() {
    rows(
        "guest",
        &[
            ("tr-unusable", || rights(TR, 0x1_008b)),
            ("tr-available", || rights(TR, 0x89)),
            ("tr-16-bit", || rights(TR, 0x83)),
            ("tr-code", || rights(TR, 0x9b)),
            ("tr-not-present", || rights(TR, 0x0b)),
            ("tr-reserved-8", || rights(TR, 0x18b)),
            ("tr-ti", || wr(f::GUEST_TR_SELECTOR, 0x24)),
            ("tr-g-small", || rights(TR, 0x808b)),
            ("tr-limit-large", || wr(f::GUEST_TR_LIMIT, 0x10_0000)),
            ("tr-limit-g", || {
                wr(f::GUEST_TR_LIMIT, 0x10_0fff);
                rights(TR, 0x808b);
            }),
            ("tr-base", || wr(f::GUEST_TR_BASE, NOT_CANONICAL)),
            ("ldtr-good", || segment(LDTR, 0x28, 0, 0xfff, 0x82)),
            ("ldtr-type", || segment(LDTR, 0x28, 0, 0xfff, 0x83)),
            ("ldtr-ti", || segment(LDTR, 0x2c, 0, 0xfff, 0x82)),
            ("ldtr-ti-unusable", || wr(f::GUEST_LDTR_SELECTOR, 0x2c)),
            ("ldtr-not-present", || segment(LDTR, 0x28, 0, 0xfff, 2)),
            ("ldtr-s", || segment(LDTR, 0x28, 0, 0xfff, 0x92)),
            ("ldtr-base", || {
                segment(LDTR, 0x28, NOT_CANONICAL, 0xfff, 0x82)
            }),
            ("ldtr-base-unusable", || {
                wr(f::GUEST_LDTR_BASE, NOT_CANONICAL)
            }),
            ("ldtr-limit", || segment(LDTR, 0x28, 0, 0x10_0000, 0x82)),
            ("cs-unusable", || rights(CS, 0x1_a09b)),
            ("cs-data", || rights(CS, 0xa093)),
            ("cs-not-accessed", || rights(CS, 0xa09a)),
            ("cs-not-present", || rights(CS, 0xa01b)),
            ("cs-system", || rights(CS, 0xa08b)),
            ("cs-dpl-3", || rights(CS, 0xa0fb)),
            ("cs-rpl-3", || wr(f::GUEST_CS_SELECTOR, 0x0b)),
            ("cs-conforming", || rights(CS, 0xa09f)),
            ("cs-conforming-dpl-3", || rights(CS, 0xa0ff)),
            ("cs-l-and-d", || rights(CS, 0xe09b)),
            ("cs-reserved-8", || rights(CS, 0xa19b)),
            ("cs-reserved-17", || rights(CS, 0x2_a09b)),
            ("cs-g-small", || wr(f::GUEST_CS_LIMIT, 0xffff_f0ff)),
            ("cs-limit-large", || rights(CS, 0x209b)),
            ("cs-base-high", || wr(f::GUEST_CS_BASE, 1 << 32)),
            ("cs-base-not-canonical", || {
                wr(f::GUEST_CS_BASE, NOT_CANONICAL)
            }),
            ("cs-32-rip", || rights(CS, 0xc09b)),
            ("ss-rpl-3", || wr(f::GUEST_SS_SELECTOR, 0x13)),
            ("ss-dpl-3", || rights(SS, 0xc0f3)),
            ("ss-read-only", || rights(SS, 0xc091)),
            ("ss-expand-down", || rights(SS, 0xc097)),
            ("ss-code", || rights(SS, 0xc09b)),
            ("ss-not-present", || rights(SS, 0xc013)),
            ("ss-unusable", || rights(SS, 0x1_0000)),
            ("ss-unusable-dpl-3", || rights(SS, 0x1_0060)),
            ("ss-base-high", || wr(f::GUEST_SS_BASE, 1 << 32)),
            ("ss-base-high-unusable", || {
                rights(SS, 0x1_0000);
                wr(f::GUEST_SS_BASE, 1 << 32);
            }),
            ("ds-not-accessed", || rights(DS, 0xc092)),
            ("ds-execute-only", || rights(DS, 0xc099)),
            ("ds-code-readable", || rights(DS, 0xc09b)),
            ("ds-rpl-3", || wr(f::GUEST_DS_SELECTOR, 0x13)),
            ("ds-dpl-3", || rights(DS, 0xc0f3)),
            ("ds-not-present", || rights(DS, 0xc013)),
            ("ds-system", || rights(DS, 0xc083)),
            ("ds-unusable", || rights(DS, 0x1_0000)),
            ("ds-base-high", || wr(f::GUEST_DS_BASE, 1 << 32)),
            ("es-reserved-11", || rights(ES, 0xc893)),
            ("es-reserved-31", || rights(ES, 0x8000_c093)),
            ("es-limit-large", || rights(ES, 0x4093)),
            ("fs-base", || wr(f::GUEST_FS_BASE, NOT_CANONICAL)),
            ("fs-base-unusable", || {
                rights(FS, 0x1_0000);
                wr(f::GUEST_FS_BASE, NOT_CANONICAL);
            }),
            ("fs-base-high", || wr(f::GUEST_FS_BASE, 1 << 40)),
            ("gs-base", || wr(f::GUEST_GS_BASE, NOT_CANONICAL)),
            ("tr-busy-16-in-32", || {
                l2::protected();
                rights(TR, 0x83);
            }),
            ("dpl-mix-in-32", || {
                l2::protected();
                rights(SS, 0xc0f3);
            }),
            ("efer-lme-in-32", || {
                l2::protected();
                wr(f::GUEST_IA32_EFER, 0x100);
            }),
            ("pcide-in-32", || {
                l2::protected();
                wr(f::GUEST_CR4, rd(f::GUEST_CR4) | 1 << 17);
            }),
            ("rip-high-in-32", || {
                l2::protected();
                wr(f::GUEST_RIP, 1 << 32 | rd(f::GUEST_RIP));
            }),
            ("cs-l-in-32", || {
                l2::protected();
                rights(CS, 0xe09b);
            }),
            ("vm86", l2::virtual_8086),
            ("vm86-base", || {
                l2::virtual_8086();
                wr(f::GUEST_CS_BASE, rd(f::GUEST_CS_BASE) + 0x10);
            }),
            ("vm86-limit", || {
                l2::virtual_8086();
                wr(f::GUEST_SS_LIMIT, 0xfffff);
            }),
            ("vm86-rights", || {
                l2::virtual_8086();
                wr(f::GUEST_DS_AR_BYTES, 0x93);
            }),
        ],
    );
}

/// Activity, interruptibility, pending debug exceptions, link pointer, PDPTEs.
fn guest_state() {
    rows(
        "guest",
        &[
            ("activity-4", || wr(f::GUEST_ACTIVITY_STATE, 4)),
            ("activity-hlt-dpl", || {
                l2::user();
                wr(f::GUEST_ACTIVITY_STATE, 1);
            }),
            ("activity-hlt-sti", || {
                wr(f::GUEST_RFLAGS, 0x202);
                wr(f::GUEST_ACTIVITY_STATE, 1);
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 1);
            }),
            ("activity-hlt-mov-ss", || {
                wr(f::GUEST_ACTIVITY_STATE, 1);
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 2);
            }),
            ("activity-sipi-injection", || {
                wr(f::GUEST_ACTIVITY_STATE, 3);
                inject(0x8000_0202);
            }),
            ("activity-hlt-injection", || {
                wr(f::GUEST_ACTIVITY_STATE, 1);
                inject(0x8000_0306);
            }),
            ("interruptibility-5", || {
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 1 << 5)
            }),
            ("interruptibility-31", || {
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 1 << 31)
            }),
            ("interruptibility-smi", || {
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 4)
            }),
            ("interruptibility-sti-if-0", || {
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 1)
            }),
            ("interruptibility-sti", || {
                wr(f::GUEST_RFLAGS, 0x202);
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 1);
            }),
            ("interruptibility-mov-ss", || {
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 2)
            }),
            ("interruptibility-both", || {
                wr(f::GUEST_RFLAGS, 0x202);
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 3);
            }),
            ("interruptibility-nmi", || {
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 8)
            }),
            ("interrupt-blocked-by-sti", || {
                wr(f::GUEST_RFLAGS, 0x202);
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 1);
                inject(0x8000_0020);
            }),
            ("interrupt-blocked-by-mov-ss", || {
                wr(f::GUEST_RFLAGS, 0x202);
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 2);
                inject(0x8000_0020);
            }),
            ("nmi-blocked-by-mov-ss", || {
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 2);
                inject(0x8000_0202);
            }),
            ("virtual-nmi-blocked", || {
                set(
                    f::PIN_BASED_VM_EXEC_CONTROL,
                    vmx::PIN_NMI | vmx::PIN_VIRTUAL_NMIS,
                );
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 8);
                inject(0x8000_0202);
            }),
            ("pending-debug-reserved-4", || {
                wr(f::GUEST_PENDING_DBG_EXCEPTIONS, 0x10)
            }),
            ("pending-debug-reserved-13", || {
                wr(f::GUEST_PENDING_DBG_EXCEPTIONS, 0x2000)
            }),
            ("pending-debug-reserved-63", || {
                wr(f::GUEST_PENDING_DBG_EXCEPTIONS, 1 << 63)
            }),
            ("pending-debug-bs-without-tf", || {
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 2);
                wr(f::GUEST_PENDING_DBG_EXCEPTIONS, 0x4000);
            }),
            ("pending-debug-tf-without-bs", || {
                wr(f::GUEST_INTERRUPTIBILITY_INFO, 2);
                wr(f::GUEST_RFLAGS, 0x102);
            }),
            ("link-misaligned", || wr(f::VMCS_LINK_POINTER, page() + 8)),
            ("link-wide", || wr(f::VMCS_LINK_POINTER, above_width())),
            ("link-revision", || {
                let region = vmx::region();
                cpu::poke32(region, vmx::revision() ^ 1);
                wr(f::VMCS_LINK_POINTER, region);
            }),
            ("link-shadow", || {
                let region = vmx::region();
                cpu::poke32(region, vmx::revision() | 1 << 31);
                wr(f::VMCS_LINK_POINTER, region);
            }),
            ("link-ordinary", || wr(f::VMCS_LINK_POINTER, vmx::region())),
            ("link-current", || wr(f::VMCS_LINK_POINTER, vmx::vmcs())),
            ("pae", l2::pae),
            ("pae-pdpte-reserved", || {
                l2::pae();
                wr(f::GUEST_PDPTR1, rd(f::GUEST_PDPTR1) | 2);
            }),
            ("pae-pdpte-wide", || {
                l2::pae();
                wr(f::GUEST_PDPTR3, above_width() | 1);
            }),
            ("pae-pdpte-not-present", || {
                l2::pae();
                wr(f::GUEST_PDPTR2, 0x1fe);
            }),
            ("pae-pdpte-without-ept", || {
                l2::pae();
                clear(f::SECONDARY_VM_EXEC_CONTROL, vmx::CPU2_EPT);
                let table = page();
                cpu::poke(table, 2 | 1);
                wr(f::GUEST_CR3, table);
            }),
            // Host state comes first, and the link pointer after the rest.
            ("and-host", || {
                wr(f::GUEST_RFLAGS, 0);
                wr(f::HOST_CR4, 0);
            }),
            ("and-link", || {
                wr(f::GUEST_RFLAGS, 0);
                wr(f::VMCS_LINK_POINTER, 8);
            }),
            ("link-and-pdpte", || {
                l2::pae();
                wr(f::GUEST_PDPTR1, 3);
                wr(f::VMCS_LINK_POINTER, 8);
            }),
        ],
    );
}

/// A refused entry changes exit reason and qualification, and nothing else.
pub fn refused() {
    vmx::guest();
    l2::begin(end);
    // An exit first, for its information.
    let _ = l2::go();
    wr(f::GUEST_RFLAGS, 0);
    inject(0x8000_0306);
    wr(f::VM_ENTRY_EXCEPTION_ERROR_CODE, 0x1234);
    wr(f::GUEST_RIP, 0x5555);
    let ran = l2::go();
    say!("refused.entry", "{ran}");
    for (name, value) in [
        ("injection", rd(f::VM_ENTRY_INTR_INFO_FIELD)),
        ("injection-error", rd(f::VM_ENTRY_EXCEPTION_ERROR_CODE)),
        ("exit-event", rd(f::VM_EXIT_INTR_INFO)),
        ("vectoring", rd(f::IDT_VECTORING_INFO_FIELD)),
        ("length", rd(f::VM_EXIT_INSTRUCTION_LEN)),
        ("rip", rd(f::GUEST_RIP)),
        ("rflags", rd(f::GUEST_RFLAGS)),
        ("error", rd(f::VM_INSTRUCTION_ERROR)),
    ] {
        say!("refused.{name}", "{value:x}");
    }
    // It stays launched.
    wr(f::GUEST_RFLAGS, 2);
    inject(0);
    l2::begin(end);
    say!("refused.then", "{}", l2::go());
    // A failed instruction writes the error number alone.
    set(f::PIN_BASED_VM_EXEC_CONTROL, reserved(vmx::TRUE_PIN));
    say!("refused.controls", "{}", l2::go());
    say!(
        "refused.controls-reason",
        "{} {:x}",
        rd(f::VM_EXIT_REASON),
        rd(f::EXIT_QUALIFICATION)
    );
}
