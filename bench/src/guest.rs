// SPDX-License-Identifier: GPL-2.0

//! A guest in 64-bit mode that times its own exits.
//!
//! It has [`SIZE`] bytes of memory at 0, the first 4 GiB mapped one to one, and
//! a program that repeats an instruction in batches:
//!
//! ```text
//! setup
//! for each of r13 batches:
//!     read the TSC
//!     r14 times: prepare, exit
//!     read the TSC, store the difference at rdi, rdi += 8
//! OUT to DONE
//! ```
//!
//! The same program without `exit` gives the cost of the loop.
//!
//! ```text
//! 01000 code           0c000 IDT      10000 page tables
//! 02000 handlers       0d000 GDT
//! 08000 stack below    0e000 results
//! ```

use anyhow::{
    bail,
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_dtable,
    kvm_enable_cap,
    kvm_mp_state,
    kvm_regs,
    kvm_segment,
    kvm_userspace_memory_region,
    KVM_CAP_SPLIT_IRQCHIP,
    KVM_MAX_CPUID_ENTRIES,
    KVM_MP_STATE_RUNNABLE, //
};
use kvm_ioctls::{
    Kvm,
    VcpuExit,
    VcpuFd,
    VmFd, //
};
use std::{
    io,
    ptr,
    sync::Arc, //
};

/// Bytes of memory at guest-physical address 0.
const SIZE: usize = 0x2_0000;
/// Where the code starts.
pub const CODE: usize = 0x1000;
/// Interrupt handlers.
const HANDLERS: usize = 0x2000;
/// Bytes for each handler.
const HANDLER_SIZE: usize = 64;
/// Initial stack pointer.
pub const STACK: u64 = 0x8000;
/// Interrupt descriptor table.
pub const IDT: usize = 0xc000;
/// Global descriptor table.
pub const GDT: usize = 0xd000;
/// One TSC difference for each batch.
const RESULTS: usize = 0xe000;
/// Page tables: PML4, PDPT, four page directories of 2-MiB pages.
pub const PML4: usize = 0x1_0000;

/// Port by which the guest says that it is done.
const DONE: u16 = 0xf0;
/// Bytes of that instruction.
const OUT_DONE: usize = 2;
/// A port without a device in the kernel, unless a test puts one there.
pub const PORT: u16 = 0x600;
/// An address without memory.
pub const DEVICE: u64 = 0x1000_0000;
/// Guest-physical address of memory that is touched page by page.
pub const FRESH: u64 = 0x4000_0000;
/// Emulated seconds until a guest is taken for hung.
const PATIENCE: u32 = 10;

/// Assembles guest code. It must not refer to its own absolute addresses.
#[macro_export]
macro_rules! code {
    ($($line:expr),+ $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: The two instructions take addresses; the rest is data, in a
        // section of its own, which nothing here executes.
        unsafe {
            core::arch::asm!(
                ".pushsection .rodata.guest, \"a\"",
                "7777:",
                $($line,)+
                "7778:",
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

/// Who has the interrupt controllers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Irqchip {
    /// The local APICs are in the kernel.
    Split,
    /// All of them are.
    Kernel,
}

/// How a guest's local APIC is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Apic {
    /// By memory.
    Memory,
    /// By MSRs.
    Msrs,
}

/// Code of a guest: what it does once, before each exit, and to exit. RDI, R8
/// and R12 to R14 are the loop's.
#[derive(Clone, Copy)]
pub struct Program {
    /// Executed once.
    pub setup: &'static [u8],
    /// Executed before each exit; not part of what is measured.
    pub prepare: &'static [u8],
    /// The instructions to measure.
    pub exit: &'static [u8],
}

/// A VM with a vCPU.
pub struct Guest {
    /// The vCPU; it goes first.
    pub vcpu: VcpuFd,
    /// The VM.
    pub vm: Arc<VmFd>,
    /// Its memory at 0.
    pub memory: Mapping,
    /// Where it starts: the program, or a hypervisor that runs it.
    pub start: u64,
    last: u64,
}

impl Guest {
    /// Makes a VM with one vCPU.
    pub fn new(irqchip: Irqchip, apic: Apic) -> Result<Self> {
        let kvm = Kvm::new().context("/dev/kvm")?;
        let vm = create_vm(&kvm, irqchip)?;
        let memory = Mapping::new(SIZE, Pages::Small, Touched::No)?;
        map(&vm, 0, 0, &memory)?;
        let vcpu = create_vcpu(&kvm, &vm, 0, apic)?;
        let mut guest = Self {
            vcpu,
            vm: Arc::new(vm),
            memory,
            start: CODE as u64,
            last: 0,
        };
        guest.write_tables();
        Ok(guest)
    }

    /// Makes `code` the handler of interrupt `vector`, which may use all registers
    /// that the loop does not.
    pub fn handle(&mut self, vector: u8, code: &[u8]) {
        let vector = usize::from(vector);
        let handler = HANDLERS + vector * HANDLER_SIZE % 0x4000;
        assert!(code.len() <= HANDLER_SIZE);
        self.memory.write(handler, code);
        // Present 64-bit interrupt gate of the code segment.
        let low = (handler as u64 & 0xffff) | (8 << 16) | (0x8e << 40);
        self.memory.write(IDT + 16 * vector, &low.to_le_bytes());
    }

    /// Runs `program` in `batches` of `count` exits each, and returns the
    /// instructions of each batch. `rbx` is the guest's RBX at the start.
    pub fn run(
        &mut self,
        program: &Program,
        batches: usize,
        count: usize,
        rbx: u64,
    ) -> Result<Vec<u64>> {
        let code = assemble(program);
        self.memory.write(CODE, &code);
        self.last = (CODE + code.len() - OUT_DONE) as u64;
        self.vcpu.set_regs(&kvm_regs {
            rip: self.start,
            rsp: STACK,
            rflags: 2,
            rbx,
            rdi: RESULTS as u64,
            r13: batches as u64,
            r14: count as u64,
            ..Default::default()
        })?;
        self.until_done()?;
        Ok((0..batches)
            .map(|n| self.memory.read(RESULTS + 8 * n))
            .collect())
    }

    /// Returns the address of the last instruction of the last program.
    pub fn last_instruction(&self) -> u64 {
        self.last
    }

    /// Runs the vCPU until its program is at its end.
    fn until_done(&mut self) -> Result<()> {
        let _alarm = Alarm::new();
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(DONE, _)) => return Ok(()),
                Ok(VcpuExit::IoOut(PORT, _) | VcpuExit::MmioWrite(DEVICE, _)) => {}
                Ok(VcpuExit::IoIn(PORT, data) | VcpuExit::MmioRead(DEVICE, data)) => data.fill(0),
                Ok(VcpuExit::X86Rdmsr(exit)) => {
                    *exit.data = 0;
                    *exit.error = 0;
                }
                Ok(exit) => bail!("unexpected exit {exit:?}"),
                Err(error) if error.errno() == libc::EINTR => bail!("the guest hangs"),
                Err(error) => return Err(error).context("KVM_RUN"),
            }
        }
    }

    fn write_tables(&mut self) {
        let table = |n: usize| (PML4 + 0x1000 * n) as u64;
        self.memory.write(PML4, &(table(1) | 3).to_le_bytes());
        for gib in 0..4 {
            self.memory
                .write(PML4 + 0x1000 + 8 * gib, &(table(2 + gib) | 3).to_le_bytes());
            for n in 0..512 {
                // Present, writable, 2 MiB.
                let entry = (((gib * 512 + n) as u64) << 21) | 0x83;
                self.memory
                    .write(PML4 + 0x2000 + 0x1000 * gib + 8 * n, &entry.to_le_bytes());
            }
        }
        for (n, descriptor) in [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff_u64]
            .iter()
            .enumerate()
        {
            self.memory.write(GDT + 8 * n, &descriptor.to_le_bytes());
        }
    }
}

/// Makes a VM.
pub fn create_vm(kvm: &Kvm, irqchip: Irqchip) -> Result<VmFd> {
    let vm = kvm.create_vm().context("KVM_CREATE_VM")?;
    match irqchip {
        Irqchip::Kernel => vm.create_irq_chip().context("KVM_CREATE_IRQCHIP")?,
        Irqchip::Split => {
            let mut cap = kvm_enable_cap {
                cap: KVM_CAP_SPLIT_IRQCHIP,
                ..Default::default()
            };
            cap.args[0] = 24;
            vm.enable_cap(&cap).context("KVM_CAP_SPLIT_IRQCHIP")?;
        }
    }
    Ok(vm)
}

/// Gives `vm` the memory of `memory` at guest-physical address `gpa`.
pub fn map(vm: &VmFd, slot: u32, gpa: u64, memory: &Mapping) -> Result<()> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: gpa,
        memory_size: memory.size as u64,
        userspace_addr: memory.start as u64,
    };
    // SAFETY: The callers keep the mapping for longer than the VM runs.
    unsafe { vm.set_user_memory_region(region) }.context("KVM_SET_USER_MEMORY_REGION")
}

/// Makes a vCPU that has all features of this KVM and is in 64-bit mode.
pub fn create_vcpu(kvm: &Kvm, vm: &VmFd, id: u64, apic: Apic) -> Result<VcpuFd> {
    let vcpu = vm.create_vcpu(id).context("KVM_CREATE_VCPU")?;
    let mut cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    for entry in cpuid.as_mut_slice() {
        if entry.function == 1 {
            // x2APIC and TSC-deadline timer.
            entry.ecx |= (1 << 21) | (1 << 24);
        }
    }
    vcpu.set_cpuid2(&cpuid).context("KVM_SET_CPUID2")?;
    let mut sregs = vcpu.get_sregs()?;
    let flat = kvm_segment {
        base: 0,
        limit: !0,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: 8,
        type_: 11,
        l: 1,
        ..flat
    };
    let data = kvm_segment {
        selector: 16,
        type_: 3,
        db: 1,
        ..flat
    };
    (sregs.ds, sregs.es, sregs.fs) = (data, data, data);
    (sregs.gs, sregs.ss) = (data, data);
    sregs.gdt = kvm_dtable {
        base: GDT as u64,
        limit: 0x17,
        ..Default::default()
    };
    sregs.idt = kvm_dtable {
        base: IDT as u64,
        limit: 0xfff,
        ..Default::default()
    };
    sregs.cr3 = PML4 as u64;
    sregs.cr4 = 1 << 5;
    sregs.efer = (1 << 8) | (1 << 10);
    sregs.cr0 = 0x8000_0031;
    if apic == Apic::Msrs {
        sregs.apic_base |= 1 << 10;
    }
    vcpu.set_sregs(&sregs).context("KVM_SET_SREGS")?;
    vcpu.set_mp_state(kvm_mp_state {
        mp_state: KVM_MP_STATE_RUNNABLE,
    })
    .context("KVM_SET_MP_STATE")?;
    Ok(vcpu)
}

/// Puts the loop around `program`.
fn assemble(program: &Program) -> Vec<u8> {
    let mut out = program.setup.to_vec();
    let batch = out.len();
    out.extend(code!(
        "mov r12, r14",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov r8, rax"
    ));
    let turn = out.len();
    out.extend(program.prepare);
    out.extend(program.exit);
    out.extend(code!("dec r12"));
    jump_back_if_not_zero(&mut out, turn);
    out.extend(code!("rdtsc", "shl rdx, 32", "or rax, rdx", "sub rax, r8"));
    out.extend(code!("mov [rdi], rax", "add rdi, 8", "dec r13"));
    jump_back_if_not_zero(&mut out, batch);
    out.extend(code!("out 0xf0, al"));
    out
}

fn jump_back_if_not_zero(out: &mut Vec<u8>, target: usize) {
    out.extend([0x0f, 0x85]);
    let distance = target as i32 - (out.len() as i32 + 4);
    out.extend(distance.to_le_bytes());
}

/// Which pages a mapping asks the kernel for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Huge,
}

/// Whether a mapping has its pages from the start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Touched {
    /// They come as they are touched.
    No,
    /// They are there.
    Yes,
}

/// Memory of this process for a guest.
pub struct Mapping {
    start: *mut u8,
    size: usize,
    reserved: (*mut libc::c_void, usize),
}

impl Mapping {
    /// Maps `size` bytes of zeroes.
    pub fn new(size: usize, pages: Pages, touched: Touched) -> Result<Self> {
        const ALIGNMENT: usize = 2 << 20;
        let whole = size + ALIGNMENT;
        // SAFETY: A mapping at an address that the kernel chooses.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                whole,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("mmap");
        }
        let start = (address as usize).next_multiple_of(ALIGNMENT) as *mut u8;
        let mapping = Self {
            start,
            size,
            reserved: (address, whole),
        };
        let advice = match pages {
            Pages::Small => libc::MADV_NOHUGEPAGE,
            Pages::Huge => libc::MADV_HUGEPAGE,
        };
        // SAFETY: Inside the mapping; neither changes what it holds.
        unsafe {
            if libc::madvise(start.cast(), size, advice) != 0 {
                return Err(io::Error::last_os_error()).context("madvise");
            }
            if touched == Touched::Yes
                && libc::madvise(start.cast(), size, libc::MADV_POPULATE_WRITE) != 0
            {
                return Err(io::Error::last_os_error()).context("MADV_POPULATE_WRITE");
            }
        }
        Ok(mapping)
    }

    /// Writes `bytes` at offset `at`.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.size);
        // SAFETY: Inside the mapping, of which there are no references.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(at), bytes.len()) };
    }

    fn read(&self, at: usize) -> u64 {
        assert!(at + 8 <= self.size);
        // SAFETY: Inside the mapping; the guest that writes there has stopped.
        unsafe { self.start.add(at).cast::<u64>().read_unaligned() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: Mapped by `new()`; nobody has a reference into it.
        unsafe { libc::munmap(self.reserved.0, self.reserved.1) };
    }
}

/// Ends a KVM_RUN that takes too long.
struct Alarm(());

impl Alarm {
    fn new() -> Self {
        // SAFETY: `interrupt_runs_by_alarm()` has set a handler.
        unsafe { libc::alarm(PATIENCE) };
        Self(())
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: As above.
        unsafe { libc::alarm(0) };
    }
}

/// Makes SIGALRM interrupt system calls and do nothing else.
pub fn interrupt_runs_by_alarm() {
    extern "C" fn nothing(_signal: libc::c_int) {}
    // SAFETY: The handler does nothing; without SA_RESTART, KVM_RUN ends with EINTR.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGALRM, &action, ptr::null_mut());
    }
}
