// SPDX-License-Identifier: GPL-2.0

//! The processor outside of VMX: registers, descriptors, memory, attempts that
//! may fault.

use core::{
    arch::{
        asm,
        global_asm, //
    },
    cell::UnsafeCell,
    fmt,
    ptr::{
        addr_of,
        addr_of_mut, //
    },
};

global_asm!(include_str!("boot.s"));
global_asm!(include_str!("switch.s"));

/// A variable of a program with one thread.
#[repr(transparent)]
pub struct Global<T>(UnsafeCell<T>);

// SAFETY: There is one CPU, and interrupt handlers are assembly that touches
// none of these.
unsafe impl<T> Sync for Global<T> {}

impl<T: Copy> Global<T> {
    /// Its value.
    pub fn get(&self) -> T {
        // SAFETY: One thread.
        unsafe { *self.0.get() }
    }

    /// Changes it.
    pub fn set(&self, value: T) {
        // SAFETY: One thread.
        unsafe { *self.0.get() = value }
    }
}

impl<T> Global<T> {
    /// With this value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Its place.
    pub const fn as_ptr(&self) -> *mut T {
        self.0.get()
    }

    /// Its address: linear and physical are the same.
    pub fn address(&self) -> u64 {
        self.0.get() as u64
    }
}

/// A page.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
pub struct Page(pub [u64; 512]);

impl Page {
    /// All zeroes.
    pub const ZERO: Self = Self([0; 512]);
}

/// How many pages [`page`] can give.
const POOL: usize = 512;
static PAGES: Global<[Page; POOL]> = Global::new([Page::ZERO; POOL]);
static PAGES_USED: Global<usize> = Global::new(0);

/// The address of a page of zeroes that nobody else has.
pub fn page() -> u64 {
    let index = PAGES_USED.get();
    assert!(index < POOL, "out of pages");
    PAGES_USED.set(index + 1);
    PAGES.address() + 4096 * index as u64
}

/// Gives all pages back that [`page`] gave since there were `mark` of them.
pub fn release_pages(mark: usize) {
    // The window's tables are such pages.
    poke(cr3() + 8, 0);
    set_cr3(cr3());
    for index in mark..PAGES_USED.get() {
        fill(PAGES.address() + 4096 * index as u64, 0);
    }
    PAGES_USED.set(mark);
}

/// How many pages are in use.
pub fn pages_used() -> usize {
    PAGES_USED.get()
}

/// A linear address with a page of memory, and none after it.
pub fn window() -> u64 {
    const START: u64 = 1 << 39;
    if peek(cr3() + 8) == 0 {
        let tables = [page(), page(), page(), page()];
        poke(cr3() + 8, tables[0] | 7);
        for pair in tables.windows(2) {
            poke(pair[0], pair[1] | 7);
        }
    }
    START
}

/// Reads memory.
pub fn peek(address: u64) -> u64 {
    // SAFETY: The caller names memory of its own; all of it is mapped.
    unsafe { (address as *const u64).read_unaligned() }
}

/// Reads 32 bits of memory.
pub fn peek32(address: u64) -> u32 {
    // SAFETY: As above.
    unsafe { (address as *const u32).read_unaligned() }
}

/// Writes memory.
pub fn poke(address: u64, value: u64) {
    // SAFETY: As above.
    unsafe { (address as *mut u64).write_unaligned(value) }
}

/// Writes 32 bits of memory.
pub fn poke32(address: u64, value: u32) {
    // SAFETY: As above.
    unsafe { (address as *mut u32).write_unaligned(value) }
}

/// Writes a byte of memory.
pub fn poke8(address: u64, value: u8) {
    // SAFETY: As above.
    unsafe { (address as *mut u8).write(value) }
}

/// Fills a page with a byte.
pub fn fill(page: u64, byte: u8) {
    // SAFETY: As above.
    unsafe { core::ptr::write_bytes(page as *mut u8, byte, 4096) }
}

/// The boot loader's text at `address`.
pub fn command_line(address: u32) -> &'static str {
    static COPY: Global<[u8; 256]> = Global::new([0; 256]);
    // SAFETY: One thread, once.
    let copy = unsafe { &mut *COPY.as_ptr() };
    let mut length = 0;
    for (n, slot) in copy.iter_mut().enumerate() {
        // SAFETY: The boot protocol puts a string there.
        *slot = unsafe { (address as u64 as *const u8).add(n).read() };
        if address == 0 || *slot == 0 {
            break;
        }
        length = n + 1;
    }
    core::str::from_utf8(&copy[..length]).unwrap_or("")
}

extern "C" {
    static exception_stubs: [[u8; 16]; 256];
    static mut interrupt_counts: [u64; 256];
    fn trial_run(trial: *mut Trial);
}

/// Selectors of our GDT.
pub const CODE: u16 = 0x08;
pub const DATA: u16 = 0x10;
pub const CODE32: u16 = 0x18;
pub const TSS: u16 = 0x20;
pub const USER_CODE: u16 = 0x33;
pub const USER_DATA: u16 = 0x3b;

static GDT: Global<[u64; 16]> = Global::new([0; 16]);
static TASK: Global<[u32; 32]> = Global::new([0; 32]);
static IDT: Global<[[u64; 2]; 256]> = Global::new([[0; 2]; 256]);
static FAULT_STACK: Global<[Page; 2]> = Global::new([Page::ZERO; 2]);

/// Address of the GDT, the IDT and the TSS.
pub fn gdt() -> u64 {
    GDT.address()
}
pub fn idt() -> u64 {
    IDT.address()
}
pub fn tss() -> u64 {
    TASK.address()
}

/// Limits of the three.
pub const GDT_LIMIT: u32 = 127;
pub const IDT_LIMIT: u32 = 4095;
pub const TSS_LIMIT: u32 = 103;

/// An interrupt gate of 64-bit mode.
pub fn gate64(handler: u64, ist: u64) -> [u64; 2] {
    [
        (handler & 0xffff)
            | u64::from(CODE) << 16
            | ist << 32
            | 0x8e00 << 32
            | (handler >> 16 & 0xffff) << 48,
        handler >> 32,
    ]
}

/// Loads descriptor tables and TR, and masks the devices' interrupts.
pub fn init() {
    let base = tss();
    // SAFETY: One thread; the tables are ours, and TR refers to the GDT that was loaded before.
    unsafe {
        *GDT.as_ptr() = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_9b00_0000_ffff,
            (base & 0xff_ffff) << 16
                | (base >> 24 & 0xff) << 56
                | 0x8900 << 32
                | u64::from(TSS_LIMIT),
            base >> 32,
            0x00af_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00cf_fb00_0000_ffff,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        let stack = FAULT_STACK.address() + 8192;
        let task = TASK.as_ptr();
        // RSP0 and IST1.
        for (slot, value) in [(1, stack), (9, stack)] {
            (*task)[slot] = value as u32;
            (*task)[slot + 1] = (value >> 32) as u32;
        }
        for (gate, vector) in (*IDT.as_ptr()).iter_mut().zip(0u64..) {
            *gate = gate64(addr_of!(exception_stubs) as u64 + 16 * vector, 1);
        }
        load_tables();
        asm!("ltr {0:x}", in(reg) TSS, options(nostack));
        // The local APIC on, in x2APIC mode; no interrupts of the PIC.
        crate::console::out(0x21, 0xff);
        crate::console::out(0xa1, 0xff);
        wrmsr(0x1b, rdmsr(0x1b) | 0xc00);
        wrmsr(0x80f, 0x1ff);
    }
}

/// Loads GDTR and IDTR.
pub fn load_tables() {
    // SAFETY: Both tables are static.
    unsafe {
        let mut table = [0u64; 2];
        for (base, limit, is_gdt) in [(gdt(), GDT_LIMIT, true), (idt(), IDT_LIMIT, false)] {
            table[0] = base << 16 | u64::from(limit);
            table[1] = base >> 48;
            if is_gdt {
                asm!("lgdt [{}]", in(reg) &table, options(nostack));
            } else {
                asm!("lidt [{}]", in(reg) &table, options(nostack));
            }
        }
    }
}

/// How often a vector has come, since it was last asked.
pub fn take_interrupts(vector: u8) -> u64 {
    // SAFETY: The counts are changed by handlers only, which do not run here.
    unsafe {
        let counts = addr_of_mut!(interrupt_counts).cast::<u64>();
        let count = counts.add(usize::from(vector)).read_volatile();
        counts.add(usize::from(vector)).write_volatile(0);
        count
    }
}

/// Sends an interrupt to ourselves.
pub fn self_ipi(vector: u8) {
    wrmsr(0x83f, u64::from(vector));
}

/// Takes interrupts for a moment.
pub fn open_window() {
    // SAFETY: The handlers count and return.
    unsafe { asm!("sti", "nop", "nop", "cli") };
}

/// Reads an MSR that must be there.
pub fn rdmsr(index: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: Reading has no effect on memory.
    unsafe { asm!("rdmsr", in("ecx") index, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR that must be there.
pub fn wrmsr(index: u32, value: u64) {
    // SAFETY: Callers write MSRs that do not change what code and memory are.
    unsafe {
        asm!("wrmsr", in("ecx") index, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack));
    }
}

/// CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, index: u32) -> [u32; 4] {
    // SAFETY: All processors with VMX have CPUID.
    let result = unsafe { core::arch::x86_64::__cpuid_count(leaf, index) };
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Width of physical addresses.
pub fn physical_width() -> u32 {
    cpuid(0x8000_0008, 0)[0] & 0xff
}

macro_rules! control_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[allow(dead_code)]
        pub fn $read() -> u64 {
            let value;
            // SAFETY: Reading has no effect.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nostack)) };
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        #[allow(dead_code)]
        pub fn $write(value: u64) {
            // SAFETY: Callers keep paging, mode and code as they are.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack)) };
        }
    };
}
control_register!(cr0, set_cr0, "cr0");
control_register!(cr2, set_cr2, "cr2");
control_register!(cr3, set_cr3, "cr3");
control_register!(cr4, set_cr4, "cr4");
control_register!(cr8, set_cr8, "cr8");
control_register!(dr6, set_dr6, "dr6");
control_register!(dr7, set_dr7, "dr7");
control_register!(dr0, set_dr0, "dr0");

/// CF, PF, AF, ZF, SF, OF.
pub const STATUS_FLAGS: u64 = 0x8d5;

/// An attempt to run code that may fault. `switch.s` knows where the fields are.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Trial {
    /// RAX, RCX, RDX, RBX, none, RBP, RSI, RDI, R8 to R15: before, and some of
    /// them after.
    pub registers: [u64; 16],
    /// Before and after.
    pub flags: u64,
    code: u64,
    vector: u64,
    error: u64,
    /// CR2 after a fault.
    pub cr2: u64,
    /// RIP of the fault.
    pub rip: u64,
    /// DR6 after it.
    pub dr6: u64,
}

/// An exception: vector and error code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault(pub u8, pub u32);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 22] = [
            "DE", "DB", "NMI", "BP", "OF", "BR", "UD", "NM", "DF", "9", "TS", "NP", "SS", "GP",
            "PF", "15", "MF", "AC", "MC", "XM", "VE", "CP",
        ];
        match NAMES.get(usize::from(self.0)) {
            Some(name) => write!(f, "#{name}({:x})", self.1),
            None => write!(f, "#{}", self.0),
        }
    }
}

/// No exception.
const NONE: u64 = 0x100;

impl Trial {
    /// Of `code`, which must end in RET, with interrupts off.
    pub fn new(code: unsafe extern "C" fn()) -> Self {
        Self {
            registers: [0; 16],
            flags: 2,
            code: code as usize as u64,
            vector: NONE,
            error: 0,
            cr2: 0,
            rip: 0,
            dr6: 0,
        }
    }

    /// With RAX, RCX, RDX.
    pub fn with(mut self, rax: u64, rcx: u64, rdx: u64) -> Self {
        self.registers[0] = rax;
        self.registers[1] = rcx;
        self.registers[2] = rdx;
        self
    }

    /// Runs it, and tells what exception came.
    pub fn run(&mut self) -> Result<(), Fault> {
        self.vector = NONE;
        // SAFETY: The code is one of this program's fragments, which keep to
        // the registers above and to memory that they were given.
        unsafe { trial_run(self) };
        if self.vector == NONE {
            Ok(())
        } else {
            Err(Fault(self.vector as u8, self.error as u32))
        }
    }
}

/// Called by an exception that nobody attempted.
#[no_mangle]
extern "C" fn unexpected_exception(frame: &[u64; 7]) -> ! {
    panic!(
        "exception {} error {:x} at {:x} flags {:x} rsp {:x} cr2 {:x}",
        frame[0],
        frame[1],
        frame[2],
        frame[4],
        frame[5],
        cr2()
    );
}

/// What the compiler calls; there is no C library.
mod memory {
    use core::arch::asm;

    #[no_mangle]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: The caller's.
        unsafe {
            asm!("rep movsb", inout("rcx") count => _, inout("rdi") to => _, inout("rsi") from => _,
                 options(nostack, preserves_flags));
        }
        to
    }

    #[no_mangle]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= count {
            // SAFETY: The caller's; forwards does not overwrite what is still to be read.
            return unsafe { memcpy(to, from, count) };
        }
        // SAFETY: The caller's; backwards.
        unsafe {
            asm!("std", "rep movsb", "cld", inout("rcx") count => _,
                 inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
                 inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _, options(nostack));
        }
        to
    }

    #[no_mangle]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
        // SAFETY: The caller's.
        unsafe {
            asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") byte as u8,
                 options(nostack, preserves_flags));
        }
        to
    }

    #[no_mangle]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
        for n in 0..count {
            // SAFETY: The caller's.
            let (a, b) = unsafe { (a.add(n).read_volatile(), b.add(n).read_volatile()) };
            if a != b {
                return i32::from(a) - i32::from(b);
            }
        }
        0
    }

    #[no_mangle]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
        // SAFETY: The caller's.
        unsafe { memcmp(a, b, count) }
    }
}
