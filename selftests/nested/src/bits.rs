// SPDX-License-Identifier: GPL-2.0

//! Bits of controls, and numbers of MSRs. The words are whole, so some are not used.

#![allow(dead_code)]

/// Pin-based controls.
pub const PIN_EXTERNAL: u32 = 1 << 0;
pub const PIN_NMI: u32 = 1 << 3;
pub const PIN_VIRTUAL_NMIS: u32 = 1 << 5;
pub const PIN_TIMER: u32 = 1 << 6;
pub const PIN_POSTED: u32 = 1 << 7;

/// Primary processor-based controls.
pub const CPU_INTERRUPT_WINDOW: u32 = 1 << 2;
pub const CPU_TSC_OFFSETTING: u32 = 1 << 3;
pub const CPU_HLT: u32 = 1 << 7;
pub const CPU_INVLPG: u32 = 1 << 9;
pub const CPU_MWAIT: u32 = 1 << 10;
pub const CPU_RDPMC: u32 = 1 << 11;
pub const CPU_RDTSC: u32 = 1 << 12;
pub const CPU_CR3_LOAD: u32 = 1 << 15;
pub const CPU_CR3_STORE: u32 = 1 << 16;
pub const CPU_CR8_LOAD: u32 = 1 << 19;
pub const CPU_CR8_STORE: u32 = 1 << 20;
pub const CPU_TPR_SHADOW: u32 = 1 << 21;
pub const CPU_NMI_WINDOW: u32 = 1 << 22;
pub const CPU_MOV_DR: u32 = 1 << 23;
pub const CPU_IO: u32 = 1 << 24;
pub const CPU_IO_BITMAPS: u32 = 1 << 25;
pub const CPU_MTF: u32 = 1 << 27;
pub const CPU_MSR_BITMAPS: u32 = 1 << 28;
pub const CPU_MONITOR: u32 = 1 << 29;
pub const CPU_PAUSE: u32 = 1 << 30;
pub const CPU_SECONDARY: u32 = 1 << 31;

/// Secondary processor-based controls.
pub const CPU2_APIC_ACCESS: u32 = 1 << 0;
pub const CPU2_EPT: u32 = 1 << 1;
pub const CPU2_DESCRIPTORS: u32 = 1 << 2;
pub const CPU2_RDTSCP: u32 = 1 << 3;
pub const CPU2_X2APIC: u32 = 1 << 4;
pub const CPU2_VPID: u32 = 1 << 5;
pub const CPU2_WBINVD: u32 = 1 << 6;
pub const CPU2_UNRESTRICTED: u32 = 1 << 7;
pub const CPU2_APIC_REGISTERS: u32 = 1 << 8;
pub const CPU2_VIRTUAL_INTERRUPTS: u32 = 1 << 9;
pub const CPU2_PAUSE_LOOP: u32 = 1 << 10;
pub const CPU2_RDRAND: u32 = 1 << 11;
pub const CPU2_INVPCID: u32 = 1 << 12;
pub const CPU2_VMFUNC: u32 = 1 << 13;
pub const CPU2_SHADOWING: u32 = 1 << 14;
pub const CPU2_RDSEED: u32 = 1 << 16;
pub const CPU2_PML: u32 = 1 << 17;
pub const CPU2_XSAVES: u32 = 1 << 20;
pub const CPU2_MODE_BASED: u32 = 1 << 22;
pub const CPU2_TSC_SCALING: u32 = 1 << 25;

/// VM-exit controls.
pub const EXIT_SAVE_DEBUG: u32 = 1 << 2;
pub const EXIT_HOST64: u32 = 1 << 9;
pub const EXIT_LOAD_PERF: u32 = 1 << 12;
pub const EXIT_ACKNOWLEDGE: u32 = 1 << 15;
pub const EXIT_SAVE_PAT: u32 = 1 << 18;
pub const EXIT_LOAD_PAT: u32 = 1 << 19;
pub const EXIT_SAVE_EFER: u32 = 1 << 20;
pub const EXIT_LOAD_EFER: u32 = 1 << 21;
pub const EXIT_SAVE_TIMER: u32 = 1 << 22;

/// VM-entry controls.
pub const ENTRY_LOAD_DEBUG: u32 = 1 << 2;
pub const ENTRY_IA32E: u32 = 1 << 9;
pub const ENTRY_SMM: u32 = 1 << 10;
pub const ENTRY_DUAL_MONITOR: u32 = 1 << 11;
pub const ENTRY_LOAD_PERF: u32 = 1 << 13;
pub const ENTRY_LOAD_PAT: u32 = 1 << 14;
pub const ENTRY_LOAD_EFER: u32 = 1 << 15;

/// Capability MSRs.
pub const BASIC: u32 = 0x480;
pub const MISC: u32 = 0x485;
pub const CR0_FIXED0: u32 = 0x486;
pub const CR4_FIXED0: u32 = 0x488;
pub const PROCBASED2: u32 = 0x48b;
pub const EPT_VPID: u32 = 0x48c;
pub const TRUE_PIN: u32 = 0x48d;
pub const TRUE_CPU: u32 = 0x48e;
pub const TRUE_EXIT: u32 = 0x48f;
pub const TRUE_ENTRY: u32 = 0x490;
/// `IA32_FEATURE_CONTROL`, and its bits: locked, VMX outside of SMX.
pub const FEATURE_CONTROL: u32 = 0x3a;
pub const LOCKED: u64 = 1;
pub const VMX_ALLOWED: u64 = 4;
/// `CR4.VMXE`.
pub const VMXE: u64 = 1 << 13;

/// `IA32_EFER` with LMA and LME.
pub const EFER_LONG: u64 = 0x500;
/// `IA32_PAT` after reset.
pub const PAT: u64 = 0x0007_0406_0007_0406;
