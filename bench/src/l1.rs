// SPDX-License-Identifier: GPL-2.0

//! A guest that is a hypervisor: the smallest one that can measure its own guest.
//!
//! [`Guest::write_l1`] puts it beside the program that [`Guest`] runs, which becomes L2: same memory,
//! same page tables, an EPT of its own. L1 lays out the VMCS from a table that is made here, enters L2,
//! and handles an exit as a hypervisor does at the least: read the exit reason and the instruction
//! length, add it to RIP, VMRESUME; three VMREADs and a VMWRITE. What it reads and writes besides is
//! in a list.
//!
//! ```text
//! 09000 MSR bitmap      16000 L1: start          1a000 EPT: PML4, PDPT,
//! 0a000 virtual APIC    16800 L1: after an exit        two page directories,
//! 0b000 stack of L1     17000 VMXON region             two page tables
//!                       18000 VMCS
//!                       19000 parameters
//! ```

use anyhow::{
    ensure,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_msr_entry,
    Msrs, //
};

use crate::{
    code,
    guest::{
        Guest,
        CODE,
        DEVICE,
        FRESH,
        GDT,
        IDT,
        PML4,
        STACK, //
    },
};

const MSR_BITMAP: usize = 0x9000;
const VIRTUAL_APIC: usize = 0xa000;
const L1_STACK: u64 = 0xc000;
/// Where L1 starts.
pub const START: u64 = 0x1_6000;
const AFTER_EXIT: usize = 0x1_6800;
const VMXON_REGION: usize = 0x1_7000;
const VMCS: usize = 0x1_8000;
/// Addresses of the two regions, then pairs of field and value, up to -1.
const PARAMETERS: usize = 0x1_9000;
/// Pairs of a field and the bits to invert in it, up to -1.
const LIST: usize = 0x1_9c00;
const EPT: usize = 0x1_a000;
/// The page tables for [`FRESH`].
const EPT_FRESH: usize = 0x1_e000;
/// The vector that L1 injects when an interrupt has ended its HLT.
pub const INJECTED: u8 = 0x42;

/// IA32_FEATURE_CONTROL, and its bits: locked, VMX outside of SMX.
const FEATURE_CONTROL: u32 = 0x3a;
const VMX_ALLOWED: u64 = 5;
const VMX_BASIC: u32 = 0x480;
const VMX_TRUE_PIN: u32 = 0x48d;
const VMX_TRUE_PROC: u32 = 0x48e;
const VMX_TRUE_EXIT: u32 = 0x48f;
const VMX_TRUE_ENTRY: u32 = 0x490;
const VMX_PROC2: u32 = 0x48b;

/// Which pages at [`FRESH`] L1's EPT maps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mapped {
    /// All of them.
    Before,
    /// None: L1 maps each in the EPT violation.
    AtFault,
}

/// Fields that L1 reads and writes back at each exit, with some bits inverted.
pub type Fields = &'static [(u64, u64)];

impl Guest {
    /// Puts L1 into the memory, to run from [`START`].
    ///
    /// # Errors
    ///
    /// This KVM offers no VMX, or less of it than L1 needs.
    pub fn write_l1(&mut self, mapped: Mapped, fields: Fields) -> Result<()> {
        self.set_msr(FEATURE_CONTROL, VMX_ALLOWED)?;
        // CAST: bits 30:0 are the revision.
        let revision = (self.msr(VMX_BASIC)? as u32) & 0x7fff_ffff;
        for region in [VMXON_REGION, VMCS] {
            self.memory.write(region, &revision.to_le_bytes());
        }
        self.memory.write(MSR_BITMAP, &[0xff; 4096]);
        self.memory.write(START as usize, start());
        self.memory.write(AFTER_EXIT, after_exit());
        let mut at = PARAMETERS;
        let mut push = |words: &[u64]| {
            for word in words {
                self.memory.write(at, &word.to_le_bytes());
                at += 8;
            }
        };
        push(&[VMXON_REGION as u64, VMCS as u64]);
        let controls = [
            (PIN, VMX_TRUE_PIN, PIN_CONTROLS),
            (PROC, VMX_TRUE_PROC, PROC_CONTROLS),
            (PROC2, VMX_PROC2, PROC2_CONTROLS),
            (EXIT, VMX_TRUE_EXIT, EXIT_CONTROLS),
            (ENTRY, VMX_TRUE_ENTRY, ENTRY_CONTROLS),
        ];
        for (field, value) in FIELDS {
            push(&[*field, *value]);
        }
        let mut words = Vec::new();
        for (field, msr, wanted) in controls {
            words.extend([field, self.allowed(msr, wanted)?]);
        }
        words.push(u64::MAX);
        for (n, word) in words.iter().enumerate() {
            self.memory.write(
                PARAMETERS + 16 * (FIELDS.len() + 1) + 8 * n,
                &word.to_le_bytes(),
            );
        }
        for (n, (field, bits)) in fields.iter().enumerate() {
            self.memory.write(LIST + 16 * n, &field.to_le_bytes());
            self.memory.write(LIST + 16 * n + 8, &bits.to_le_bytes());
        }
        self.memory
            .write(LIST + 16 * fields.len(), &u64::MAX.to_le_bytes());
        self.write_ept(mapped);
        Ok(())
    }

    fn write_ept(&mut self, mapped: Mapped) {
        let table = |n: usize| EPT + 0x1000 * n;
        let mut put = |at: usize, entry: u64| self.memory.write(at, &entry.to_le_bytes());
        // Read, write and execute; for a page also write-back.
        put(table(0), table(1) as u64 | 7);
        put(table(1), table(2) as u64 | 7);
        put(table(1) + 8, table(3) as u64 | 7);
        for n in (0..512).filter(|n| *n != DEVICE >> 21) {
            put(table(2) + 8 * n as usize, (n << 21) | 0xb7);
        }
        for n in 0..2 {
            put(table(3) + 8 * n, (EPT_FRESH + 0x1000 * n) as u64 | 7);
        }
        if mapped == Mapped::Before {
            for n in 0..1024 {
                put(EPT_FRESH + 8 * n, (FRESH + 0x1000 * n as u64) | 0x37);
            }
        }
    }

    /// Returns `wanted` with what VMX requires in this control.
    fn allowed(&self, msr: u32, wanted: u64) -> Result<u64> {
        let allowed = self.msr(msr)?;
        ensure!(
            wanted & !(allowed >> 32) == 0,
            "KVM_GET_MSRS: no control {wanted:#x} in {msr:#x}"
        );
        Ok(wanted | allowed & 0xffff_ffff)
    }

    fn msr(&self, index: u32) -> Result<u64> {
        let mut msrs = Msrs::from_entries(&[kvm_msr_entry {
            index,
            ..Default::default()
        }])?;
        let done = self.vcpu.get_msrs(&mut msrs).context("KVM_GET_MSRS")?;
        ensure!(done == 1, "KVM_GET_MSRS: no MSR {index:#x}");
        Ok(msrs.as_slice()[0].data)
    }

    fn set_msr(&self, index: u32, data: u64) -> Result<()> {
        let msrs = Msrs::from_entries(&[kvm_msr_entry {
            index,
            data,
            ..Default::default()
        }])?;
        let done = self.vcpu.set_msrs(&msrs).context("KVM_SET_MSRS")?;
        ensure!(done == 1, "KVM_SET_MSRS: no MSR {index:#x}");
        Ok(())
    }
}

/// VMXON, the VMCS from the table, VMLAUNCH. It leaves alone the registers that are L2's.
fn start() -> &'static [u8] {
    code!(
        "mov ecx, 0x80f; mov eax, 0x1ff; xor edx, edx; wrmsr",
        "mov rax, cr4; or rax, 0x2000; mov cr4, rax",
        "vmxon [0x19000]",
        "vmclear [0x19008]",
        "vmptrld [0x19008]",
        "mov esi, 0x19010",
        "2: mov rax, [rsi]",
        "cmp rax, -1",
        "je 3f",
        "mov rdx, [rsi + 8]",
        "vmwrite rax, rdx",
        "add rsi, 16",
        "jmp 2b",
        "3: vmlaunch",
        "mov r9d, 0x4400; vmread rax, r9; out 0xf1, al",
    )
}

/// Handles an exit. L2's program does not use R9 to R11, and expects nothing of RAX, RCX, RDX and RSI.
fn after_exit() -> &'static [u8] {
    code!(
        "mov r9d, 0x4402; vmread r10, r9",
        "cmp r10d, 30; je 20f",
        "cmp r10d, 48; je 30f",
        "cmp r10d, 12; je 40f",
        "cmp r10d, 1; je 50f",
        "cmp r10d, 10; je 2f",
        "cmp r10d, 18; je 2f",
        "cmp r10d, 31; je 2f",
        "cmp r10d, 32; je 2f",
        // What L2 never does: tell userspace its number.
        "mov eax, r10d; out 0xf2, al",
        // Step over the instruction.
        "2: mov r9d, 0x440c; vmread r10, r9",
        "3: mov r9d, 0x681e; vmread r11, r9; add r11, r10; vmwrite r9, r11",
        // The list.
        "mov esi, 0x19c00",
        "4: mov r9, [rsi]; test r9, r9; js 5f",
        "vmread r10, r9; xor r10, [rsi + 8]; vmwrite r9, r10",
        "add rsi, 16; jmp 4b",
        "5: vmresume",
        "mov r9d, 0x4400; vmread rax, r9; out 0xf1, al",
        // I/O: the end, OUT, or IN.
        "20: mov r9d, 0x6400; vmread r11, r9",
        "mov edx, r11d; shr edx, 16; cmp edx, 0xf0; je 23f",
        "test r11b, 8; jnz 22f",
        "out dx, eax; jmp 2b",
        "22: mov eax, 0xff; jmp 2b",
        "23: vmclear [0x19008]; vmxoff; out 0xf0, al",
        // EPT violation: the device, or a page to map.
        "30: mov r9d, 0x2400; vmread r11, r9",
        "mov rax, r11; shr rax, 21; mov r10d, 2; cmp eax, 0x80; je 3b",
        "mov rax, r11; and rax, -4096; or rax, 0x37",
        "sub r11d, 0x40000000; shr r11, 12; mov [r11 * 8 + 0x1e000], rax",
        "vmresume",
        "mov r9d, 0x4400; vmread rax, r9; out 0xf1, al",
        // HLT: wait for the interrupt, and inject one.
        "40: cmp byte ptr [0x19ff8], 0; jne 41f; sti; hlt; cli; jmp 40b",
        "41: mov byte ptr [0x19ff8], 0",
        "mov r9d, 0x4016; mov r10d, 0x80000042; vmwrite r9, r10",
        "mov r9d, 0x4824; xor r10d, r10d; vmwrite r9, r10; jmp 2b",
        // An interrupt: take it.
        "50: sti; nop; cli; vmresume",
        "mov r9d, 0x4400; vmread rax, r9; out 0xf1, al",
    )
}

/// L1's interrupt handler.
pub fn take_interrupt() -> &'static [u8] {
    code!(
        "mov byte ptr [0x19ff8], 1",
        "mov ecx, 0x80b; xor eax, eax; xor edx, edx; wrmsr; iretq",
    )
}

const PIN: u64 = 0x4000;
const PROC: u64 = 0x4002;
const PROC2: u64 = 0x401e;
const EXIT: u64 = 0x400c;
const ENTRY: u64 = 0x4012;
/// External-interrupt and NMI exiting.
const PIN_CONTROLS: u64 = (1 << 0) | (1 << 3);
/// TSC offsetting, HLT exiting, TPR shadow, all ports, MSR bitmaps, secondary controls.
const PROC_CONTROLS: u64 = (1 << 3) | (1 << 7) | (1 << 21) | (1 << 24) | (1 << 28) | (1 << 31);
/// EPT, VPID, unrestricted guest.
const PROC2_CONTROLS: u64 = (1 << 1) | (1 << 5) | (1 << 7);
/// 64-bit host, save and load EFER.
const EXIT_CONTROLS: u64 = (1 << 9) | (1 << 20) | (1 << 21);
/// 64-bit guest, load EFER.
const ENTRY_CONTROLS: u64 = (1 << 9) | (1 << 15);
const CR0: u64 = 0x8000_0031;
const CR4: u64 = 0x2020;
const EFER: u64 = 0x500;
const CODE_RIGHTS: u64 = 0xa09b;
const DATA_RIGHTS: u64 = 0xc093;
const FLAT: u64 = 0xffff_ffff;

/// What L1 writes into the VMCS besides the controls; all else is 0.
const FIELDS: &[(u64, u64)] = &[
    (0x0000, 1),                   // VPID
    (0x2004, MSR_BITMAP as u64),   // MSR bitmap
    (0x2010, 0),                   // TSC offset
    (0x2012, VIRTUAL_APIC as u64), // virtual-APIC address
    (0x201a, EPT as u64 | 0x1e),   // EPTP
    (0x2800, u64::MAX),            // link pointer
    // Guest state.
    (0x0802, 8),
    (0x0800, 16),
    (0x0804, 16),
    (0x0806, 16),
    (0x0808, 16),
    (0x080a, 16),
    (0x080e, 24),
    (0x4800, FLAT),
    (0x4802, FLAT),
    (0x4804, FLAT),
    (0x4806, FLAT),
    (0x4808, FLAT),
    (0x480a, FLAT),
    (0x480e, 0x67),
    (0x4810, 0x17),
    (0x4812, 0xfff),
    (0x4814, DATA_RIGHTS),
    (0x4816, CODE_RIGHTS),
    (0x4818, DATA_RIGHTS),
    (0x481a, DATA_RIGHTS),
    (0x481c, DATA_RIGHTS),
    (0x481e, DATA_RIGHTS),
    (0x4820, 0x1_0000),
    (0x4822, 0x8b),
    (0x6816, GDT as u64),
    (0x6818, IDT as u64),
    (0x2806, EFER),
    (0x6800, CR0),
    (0x6802, PML4 as u64),
    (0x6804, CR4),
    (0x6004, CR0), // CR0 read shadow
    (0x681a, 0x400),
    (0x681c, STACK),
    (0x681e, CODE as u64),
    (0x6820, 2),
    // Host state.
    (0x0c00, 16),
    (0x0c02, 8),
    (0x0c04, 16),
    (0x0c06, 16),
    (0x0c08, 16),
    (0x0c0a, 16),
    (0x0c0c, 24),
    (0x6c00, CR0),
    (0x6c02, PML4 as u64),
    (0x6c04, CR4),
    (0x6c0c, GDT as u64),
    (0x6c0e, IDT as u64),
    (0x2c02, EFER),
    (0x6c14, L1_STACK),
    (0x6c16, AFTER_EXIT as u64),
];
