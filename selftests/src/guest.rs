// SPDX-License-Identifier: GPL-2.0

//! Guests made of few bytes, in the mode that a test wants.
//!
//! A guest has [`SIZE`] bytes of memory at 0 and its code at [`CODE`]; memory
//! beyond is not there, so accesses to [`MMIO`] come to the test. Its code is
//! written with [`code!`](crate::code) in the test itself and speaks to the test
//! by OUT; it ends with HLT where there is no irqchip, else by OUT to [`DONE`]. One
//! that spins executes STI first: Bochs 3.0 holds back the host's interrupts until a
//! guest that started with interrupts off does so.
//!
//! ```text
//! 01000 code          0d000 GDT
//! 08000 stack below   0d800 TSS
//! 0a000 handlers      10000 page tables (64-bit mode)
//! 0c000 IDT           16000 interrupt counts, a u64 for each vector
//!                     20000 data
//! ```

use kvm_bindings::*;

use crate::{
    ioctl::*,
    kvm::{
        supported_cpuid,
        Exit,
        Memory,
        Vcpu,
        Vm,
        PAGE, //
    }, //
};

/// Bytes of memory.
pub const SIZE: usize = 0x20_0000;
/// Where the code starts.
pub const CODE: u64 = 0x1000;
/// Initial stack pointer.
pub const STACK: u64 = 0x8000;
/// Handlers of all vectors, 32 bytes each.
const HANDLERS: u64 = 0xa000;
/// Interrupt descriptor table.
pub const IDT: u64 = 0xc000;
/// Global descriptor table.
pub const GDT: u64 = 0xd000;
/// Task-state segment.
const TSS: u64 = 0xd800;
/// Page tables: PML4, PDPT, four page directories of 2-MiB pages.
pub const PML4: u64 = 0x1_0000;
/// How often each vector above 31 was handled.
pub const COUNTS: u64 = 0x1_6000;
/// For the test to use.
pub const DATA: u64 = 0x2_0000;
/// An address without memory.
pub const MMIO: u64 = 0x1000_0000;
/// Port by which an exception handler tells its vector.
pub const EXCEPTION: u16 = 0xe0;
/// Port by which a guest says that it is done.
pub const DONE: u16 = 0xe1;

/// Assembles guest code: `code!(16, "mov al, 1", "out 0xe1, al")`.
///
/// The code must not refer to its own absolute addresses. Numeric labels other
/// than 0 and 1 may be used.
#[macro_export]
macro_rules! code {
    ($bits:literal, $($line:expr),+ $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: The two instructions take addresses; the rest is data, in a
        // section of its own, which nothing here executes.
        unsafe {
            core::arch::asm!(
                ".pushsection .rodata.guest, \"a\"",
                concat!(".code", $bits),
                "7777:",
                $($line,)+
                "7778:",
                ".code64",
                ".popsection",
                "lea {start}, [rip + 7777b]",
                "lea {end}, [rip + 7778b]",
                start = out(reg) start,
                end = out(reg) end,
                options(nomem, nostack, preserves_flags),
            );
            core::slice::from_raw_parts(start, end.offset_from(start) as usize)
        }
    }};
}

/// Guest code that turns the x2APIC on, for [`code!`](crate::code).
#[macro_export]
macro_rules! enable_x2apic {
    () => {
        "mov ecx, 0x1b; rdmsr; or eax, 0xc00; wrmsr; mov ecx, 0x80f; mov eax, 0x1ff; \
         xor edx, edx; wrmsr"
    };
}

/// Mode of the CPU when the guest starts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 16 bits, no protection, no paging.
    Real,
    /// 32 bits, flat segments, no paging.
    Protected,
    /// 64 bits, the first 4 GiB mapped one to one.
    Long,
}

/// Who has the local APIC.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Apic {
    /// Nobody: HLT comes to the test.
    None,
    /// The kernel.
    Kernel,
    /// The kernel, with all other interrupt controllers.
    All,
}

/// A VM with memory, code and vCPUs.
pub struct Guest {
    /// Its vCPUs, by number.
    pub vcpus: Vec<Vcpu>,
    /// Its memory, at guest-physical address 0.
    pub memory: Memory,
    /// The VM.
    pub vm: Vm,
}

impl Guest {
    /// A guest with one vCPU and no irqchip, about to execute `code`.
    pub fn new(mode: Mode, code: &[u8]) -> Self {
        Self::with(mode, Apic::None, 1, code)
    }

    /// A guest with the kernel's local APIC.
    pub fn with_lapic(mode: Mode, code: &[u8]) -> Self {
        Self::with(mode, Apic::Kernel, 1, code)
    }

    /// A guest with `vcpus` vCPUs; all start at `code`, unless the kernel has
    /// their local APICs: then all but the first wait for a start-up IPI.
    pub fn with(mode: Mode, apic: Apic, vcpus: u64, code: &[u8]) -> Self {
        let vm = match apic {
            Apic::None => Vm::new(),
            Apic::Kernel => Vm::with_lapics(),
            Apic::All => Vm::with_irqchip(),
        };
        Self::of(vm, mode, vcpus, code)
    }

    /// A guest of a new VM that is configured already.
    pub fn of(vm: Vm, mode: Mode, vcpus: u64, code: &[u8]) -> Self {
        let memory = Memory::new(SIZE);
        vm.map(0, 0, &memory);
        memory.copy(CODE, code);
        write_tables(&memory, mode);
        let vcpus = (0..vcpus).map(|id| vm.vcpu(id)).collect();
        let guest = Self { vcpus, memory, vm };
        for (id, vcpu) in (0..).zip(&guest.vcpus) {
            set_cpuid(vcpu, id);
            enter(vcpu, mode);
        }
        guest
    }

    /// The first vCPU.
    pub fn cpu(&self) -> &Vcpu {
        &self.vcpus[0]
    }

    /// Runs the first vCPU.
    pub fn run(&self) -> Exit {
        self.cpu().run()
    }

    /// Runs the first vCPU and wants a HLT.
    pub fn run_to_hlt(&self) {
        assert_eq!(self.run(), Exit::Hlt);
    }

    /// Runs the first vCPU and wants it to say that it is done.
    pub fn run_to_done(&self) -> u32 {
        self.run_to(DONE)
    }

    /// Runs the first vCPU and wants an OUT to `port`; returns the value.
    pub fn run_to(&self, port: u16) -> u32 {
        match self.run() {
            Exit::Out(to, _, 1, value) if to == port => value,
            exit => panic!("expected OUT to {port:#x}, got {exit:x?}, {}", self.state()),
        }
    }

    /// Runs the first vCPU and wants the handler of an exception.
    pub fn run_to_exception(&self, vector: u32) {
        assert_eq!(self.run_to(EXCEPTION), vector);
    }

    /// Registers of the first vCPU, for a message.
    pub fn state(&self) -> String {
        let (regs, sregs) = (self.cpu().regs(), self.cpu().sregs());
        format!(
            "rip {:#x} rflags {:#x} rsp {:#x} cr0 {:#x} cr2 {:#x} cs {:#x}",
            regs.rip, regs.rflags, regs.rsp, sregs.cr0, sregs.cr2, sregs.cs.base
        )
    }

    /// Sends the first vCPU to `code`, which replaces the code that was there.
    pub fn restart(&self, code: &[u8]) {
        self.memory.copy(CODE, code);
        let mut regs = self.cpu().regs();
        regs.rip = CODE;
        regs.rsp = STACK;
        regs.rflags = 2;
        self.cpu().set_regs(&regs);
    }

    /// How often the guest handled `vector`.
    pub fn count(&self, vector: u8) -> u64 {
        self.memory.poll(COUNTS + 8 * u64::from(vector))
    }

    /// Lets `vector` go to `handler`, in 64-bit mode.
    pub fn set_gate(&self, vector: u8, handler: u64) {
        write_gate64(&self.memory, u64::from(vector), handler);
    }
}

/// Gives the vCPU everything that KVM supports, with its own APIC ID.
pub fn set_cpuid(vcpu: &Vcpu, id: u32) {
    let mut cpuid = supported_cpuid();
    for entry in cpuid.used() {
        match entry.function {
            1 => {
                entry.ebx = (entry.ebx & 0x00ff_ffff) | (id << 24);
                entry.ecx |= 1 << 24; // The TSC-deadline timer is the VMM's to offer.
            }
            0xb | 0x1f => entry.edx = id,
            _ => {}
        }
    }
    vcpu.set(KVM_SET_CPUID2, cpuid).expect("KVM_SET_CPUID2");
}

/// Puts a vCPU into `mode`, at [`CODE`].
pub fn enter(vcpu: &Vcpu, mode: Mode) {
    let mut sregs = vcpu.sregs();
    if mode == Mode::Real {
        let start = &mut sregs.cs;
        start.base = 0;
        start.selector = 0;
    } else {
        sregs.cs = segment(1, 0xb, mode == Mode::Long);
        let data = segment(2, 0x3, false);
        sregs.ds = data;
        sregs.es = data;
        sregs.ss = data;
        sregs.fs = data;
        sregs.gs = data;
        sregs.gdt.base = GDT;
        sregs.gdt.limit = 0x37;
        sregs.idt.base = IDT;
        sregs.tr = kvm_segment {
            base: TSS,
            limit: 0x67,
            selector: 0x18,
            type_: 0xb,
            present: 1,
            ..Default::default()
        };
        sregs.cr0 = 0x31; // NE, ET, PE.
    }
    match mode {
        Mode::Real => {}
        Mode::Protected => sregs.idt.limit = 256 * 8 - 1,
        Mode::Long => {
            sregs.idt.limit = 256 * 16 - 1;
            sregs.cr3 = PML4;
            sregs.cr4 = 0x620; // PAE, OSFXSR, OSXMMEXCPT.
            sregs.cr0 |= 0x8000_0000; // PG.
            sregs.efer = 0x500; // LMA, LME.
        }
    }
    vcpu.set_sregs(&sregs);
    vcpu.set_regs(&kvm_regs {
        rip: CODE,
        rsp: STACK,
        rflags: 2,
        ..Default::default()
    });
}

/// A flat segment of the GDT's entry `index`.
fn segment(index: u16, type_: u8, is_long: bool) -> kvm_segment {
    kvm_segment {
        limit: 0xffff_ffff,
        selector: index * 8,
        type_,
        present: 1,
        db: u8::from(!is_long),
        s: 1,
        l: u8::from(is_long),
        g: 1,
        ..Default::default()
    }
}

/// Writes what a mode needs: GDT, TSS, IDT with handlers, page tables.
fn write_tables(memory: &Memory, mode: Mode) {
    let code = match mode {
        Mode::Real => return,
        Mode::Protected => 0x00cf_9b00_0000_ffff_u64,
        Mode::Long => 0x00af_9b00_0000_ffff,
    };
    let tss = 0x0000_8b00_0000_0067 | (TSS << 16);
    for (entry, value) in (0..).zip([0, code, 0x00cf_9300_0000_ffff, tss, 0]) {
        memory.write::<u64>(GDT + 8 * entry, value);
    }
    memory.write::<u64>(TSS + 4, STACK);
    for vector in 0..256 {
        let handler = HANDLERS + 32 * vector;
        memory.copy(handler, &handler_code(vector as u8, mode));
        match mode {
            Mode::Long => write_gate64(memory, vector, handler),
            _ => memory.write::<u64>(IDT + 8 * vector, 0x8e00_0008_0000 | handler),
        }
    }
    if mode == Mode::Long {
        write_page_tables(memory);
    }
}

/// The least that a handler must do. An exception's tells the vector by an OUT,
/// with the frame on the stack; an interrupt's counts, ends the interrupt in the
/// x2APIC, if that is on, and returns.
fn handler_code(vector: u8, mode: Mode) -> Vec<u8> {
    let mut code = Vec::with_capacity(32);
    if vector < 32 || mode != Mode::Long {
        code.extend([0xb8, vector, 0, 0, 0]); // mov eax, vector
        code.extend([0xe7, EXCEPTION as u8]); // out EXCEPTION, eax
        code.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp to it
        return code;
    }
    code.extend([0x50, 0x51, 0x52]); // push rax, rcx, rdx
    code.extend([0x48, 0xff, 0x04, 0x25]); // inc qword [COUNTS + 8 * vector]
    code.extend((COUNTS as u32 + 8 * u32::from(vector)).to_le_bytes());
    code.extend([0xb9, 0x0b, 0x08, 0, 0]); // mov ecx, IA32_X2APIC_EOI
    code.extend([0x31, 0xc0, 0x31, 0xd2]); // xor eax, eax; xor edx, edx
    code.extend([0x0f, 0x30]); // wrmsr
    code.extend([0x5a, 0x59, 0x58, 0x48, 0xcf]); // pop rdx, rcx, rax; iretq
    code
}

/// An interrupt gate of 64-bit mode.
fn write_gate64(memory: &Memory, vector: u64, handler: u64) {
    let low = (handler & 0xffff) | (8 << 16) | (0x8e00 << 32) | (((handler >> 16) & 0xffff) << 48);
    memory.write::<u64>(IDT + 16 * vector, low);
    memory.write::<u64>(IDT + 16 * vector + 8, handler >> 32);
}

/// Maps the first 4 GiB one to one.
fn write_page_tables(memory: &Memory) {
    memory.write::<u64>(PML4, (PML4 + PAGE) | 7);
    for gib in 0..4 {
        let directory = PML4 + (2 + gib) * PAGE;
        memory.write::<u64>(PML4 + PAGE + 8 * gib, directory | 7);
        for index in 0..512 {
            memory.write::<u64>(directory + 8 * index, (gib << 30) | (index << 21) | 0x87);
        }
    }
}
