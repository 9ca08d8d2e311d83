// SPDX-License-Identifier: GPL-2.0

//! VMX operation: its instructions, what the processor offers, a VMCS that
//! enters, and what there is to tell of an exit.

use burrow_core::x86::vmx::field::{
    self as f,
    Field,
    Width, //
};
use core::{
    arch::asm,
    fmt,
    ptr::addr_of, //
};

pub use crate::bits::*;
use crate::cpu::{
    self,
    page,
    rdmsr,
    wrmsr,
    Global, //
};

/// Whether the processor has VMX.
pub fn is_offered() -> bool {
    cpu::cpuid(1, 0)[2] & 1 << 5 != 0
}

/// What the flags say after an instruction of VMX.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// VMsucceed.
    Ok,
    /// VMfailInvalid.
    Invalid,
    /// VMfailValid, with the error number.
    Valid(u32),
    /// None of them.
    Flags(u64),
}

impl Outcome {
    /// From RFLAGS after the instruction; reads the error number where there is one.
    pub fn of(flags: u64) -> Self {
        match flags & cpu::STATUS_FLAGS {
            0 => Self::Ok,
            1 => Self::Invalid,
            0x40 => Self::Valid(rd(f::VM_INSTRUCTION_ERROR) as u32),
            other => Self::Flags(other),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => write!(out, "succeed"),
            Self::Invalid => write!(out, "fail-invalid"),
            Self::Valid(error) => write!(out, "fail-valid {error}"),
            Self::Flags(flags) => write!(out, "flags {flags:x}"),
        }
    }
}

macro_rules! instruction {
    ($name:ident, $code:literal) => {
        #[doc = concat!($code, ", with its memory operand.")]
        pub fn $name(operand: u64) -> Outcome {
            let flags: u64;
            // SAFETY: The pages that it is given are not used for anything else.
            unsafe {
                asm!("push 0x8d7", "popfq", concat!($code, " [{}]"), "pushfq", "pop {}",
                     in(reg) &operand, out(reg) flags);
            }
            Outcome::of(flags)
        }
    };
}
instruction!(vmxon, "vmxon");
instruction!(vmclear, "vmclear");
instruction!(vmptrld, "vmptrld");

macro_rules! invalidation {
    ($name:ident, $code:literal) => {
        #[doc = concat!($code, " of a type with a descriptor.")]
        pub fn $name(kind: u64, descriptor: [u64; 2]) -> Outcome {
            let flags: u64;
            // SAFETY: Forgets translations only.
            unsafe {
                asm!("push 0x8d7", "popfq", concat!($code, " {}, [{}]"), "pushfq", "pop {}",
                     in(reg) kind, in(reg) &descriptor, out(reg) flags);
            }
            Outcome::of(flags)
        }
    };
}
invalidation!(invept, "invept");
invalidation!(invvpid, "invvpid");

/// VMPTRST.
pub fn vmptrst() -> (Outcome, u64) {
    let mut value = 0u64;
    let flags: u64;
    // SAFETY: Writes the variable.
    unsafe {
        asm!("push 0x8d7", "popfq", "vmptrst [{}]", "pushfq", "pop {}", in(reg) &mut value,
             lateout(reg) flags);
    }
    (Outcome::of(flags), value)
}

/// VMXOFF.
pub fn vmxoff() -> Outcome {
    let flags: u64;
    // SAFETY: No guest runs.
    unsafe { asm!("push 0x8d7", "popfq", "vmxoff", "pushfq", "pop {}", out(reg) flags) };
    Outcome::of(flags)
}

/// VMREAD: RFLAGS and the value.
pub fn vmread(encoding: u64) -> (u64, u64) {
    let (flags, value);
    // SAFETY: No memory is accessed.
    unsafe {
        asm!("push 0x8d7", "popfq", "vmread {}, {}", "pushfq", "pop {}",
             inout(reg) 0u64 => value, in(reg) encoding, out(reg) flags);
    }
    (flags, value)
}

/// VMWRITE: RFLAGS.
pub fn vmwrite(encoding: u64, value: u64) -> u64 {
    let flags;
    // SAFETY: No memory is accessed; what an entry does with the value is the entry's affair.
    unsafe {
        asm!("push 0x8d7", "popfq", "vmwrite {}, {}", "pushfq", "pop {}",
             in(reg) encoding, in(reg) value, out(reg) flags);
    }
    flags
}

/// Reads a field, 0 where there is no such.
pub fn rd<W: Width>(field: Field<W>) -> u64 {
    vmread(u64::from(field.encoding().0)).1
}

/// Writes a field.
pub fn wr<W: Width>(field: Field<W>, value: u64) {
    vmwrite(u64::from(field.encoding().0), value);
}

/// Sets bits in a field.
pub fn set<W: Width>(field: Field<W>, bits: u32) {
    wr(field, rd(field) | u64::from(bits));
}

/// Clears bits in a field.
pub fn clear<W: Width>(field: Field<W>, bits: u32) {
    wr(field, rd(field) & !u64::from(bits));
}

/// Turns secondary controls on, and those that they need.
pub fn set_secondary(bits: u32) {
    set(f::SECONDARY_VM_EXEC_CONTROL, bits);
    set(f::CPU_BASED_VM_EXEC_CONTROL, CPU_SECONDARY);
}

/// Whether controls of a capability MSR may be 1.
pub fn may_set(msr: u32, bits: u32) -> bool {
    (rdmsr(msr) >> 32) as u32 & bits == bits
}

/// Whether all these secondary controls may be 1.
pub fn has_secondary(bits: u32) -> bool {
    may_set(PROCBASED2, bits)
}

/// The VMCS revision identifier.
pub fn revision() -> u32 {
    rdmsr(BASIC) as u32 & 0x7fff_ffff
}

/// A page with the revision identifier.
pub fn region() -> u64 {
    let address = page();
    cpu::poke32(address, revision());
    address
}

/// What is kept about VMX operation.
#[derive(Clone, Copy)]
struct State {
    is_on: bool,
    vmxon: u64,
    vmcs: u64,
    has_launched: bool,
    mark: usize,
}

static STATE: Global<State> = Global::new(State {
    is_on: false,
    vmxon: 0,
    vmcs: 0,
    has_launched: false,
    mark: 0,
});

/// Makes VMXON possible.
pub fn allow() {
    if rdmsr(FEATURE_CONTROL) & LOCKED == 0 {
        wrmsr(FEATURE_CONTROL, LOCKED | VMX_ALLOWED);
    }
    cpu::set_cr4(cpu::cr4() | VMXE);
}

/// Enters VMX root operation.
pub fn on() -> u64 {
    let mut state = STATE.get();
    if !state.is_on {
        allow();
        state.mark = cpu::pages_used();
        state.vmxon = region();
        state.is_on = true;
        let outcome = vmxon(state.vmxon);
        assert!(outcome == Outcome::Ok, "VMXON: {outcome}");
        STATE.set(state);
    }
    state.vmxon
}

/// Leaves it, and gives the pages back that were allocated meanwhile.
pub fn leave() {
    let mut state = STATE.get();
    if state.is_on {
        let _ = vmxoff();
        cpu::release_pages(state.mark);
        state.is_on = false;
        state.vmcs = 0;
        STATE.set(state);
        VALUES.used.set(0);
    }
    cpu::set_cr4(cpu::cr4() & !VMXE);
}

/// How many fields [`reset`] writes at most.
const MOST_VALUES: usize = 192;

/// What a VMCS has that enters.
struct Values {
    list: Global<[(u32, u64); MOST_VALUES]>,
    used: Global<usize>,
}

static VALUES: Values = Values {
    list: Global::new([(0, 0); MOST_VALUES]),
    used: Global::new(0),
};

/// The fields of a VMCS that enters, and their values.
pub fn values() -> &'static [(u32, u64)] {
    // SAFETY: They change only where a group begins, when nobody holds them.
    unsafe { &(&*VALUES.list.as_ptr())[..VALUES.used.get()] }
}

fn add_value(encoding: u32, value: u64) {
    let used = VALUES.used.get();
    // SAFETY: One thread.
    unsafe { (*VALUES.list.as_ptr())[used] = (encoding, value) };
    VALUES.used.set(used + 1);
}

/// An EPT that maps the first GiB to itself, in large pages: its pointer.
pub fn identity_ept() -> u64 {
    let (root, middle, last) = (page(), page(), page());
    cpu::poke(root, middle | 7);
    cpu::poke(middle, last | 7);
    for n in 0..512 {
        cpu::poke(last + 8 * n, n << 21 | 0xb7);
    }
    root | 0x1e
}

/// A VMCS that is current, clear, and enters a 64-bit guest with EPT that has all of our memory.
pub fn guest() {
    let _ = on();
    let mut state = STATE.get();
    if state.vmcs == 0 {
        state.vmcs = region();
        STATE.set(state);
        make_values();
    }
    reset();
}

/// Makes the VMCS what it was after [`guest`].
pub fn reset() {
    let mut state = STATE.get();
    let _ = vmclear(state.vmcs);
    let _ = vmptrld(state.vmcs);
    state.has_launched = false;
    STATE.set(state);
    for (encoding, value) in values() {
        vmwrite(u64::from(*encoding), *value);
    }
}

/// The VMCS.
pub fn vmcs() -> u64 {
    STATE.get().vmcs
}

extern "C" {
    static page_tables: [u64; 512];
    static exit_stack_end: [u8; 0];
    fn host_entry();
    fn enter_guest(launch: bool) -> u64;
}

/// Root of the page tables that map 4 GiB to themselves.
pub fn identity_cr3() -> u64 {
    addr_of!(page_tables) as u64
}

/// The controls that are always on where they may be: EPT, and the timer, so that nothing hangs.
fn make_values() {
    let add = |field: f::Encoding, value| add_value(field.0, value);
    let least = |msr: u32| rdmsr(msr) & 0xffff_ffff;
    macro_rules! add {
        ($($field:ident = $value:expr;)*) => { $( add(f::$field.encoding(), $value); )* };
    }
    let timer = if may_set(TRUE_PIN, PIN_TIMER) {
        PIN_TIMER
    } else {
        0
    };
    add! {
        PIN_BASED_VM_EXEC_CONTROL = least(TRUE_PIN) | u64::from(timer);
        CPU_BASED_VM_EXEC_CONTROL = least(TRUE_CPU) | u64::from(CPU_SECONDARY);
        SECONDARY_VM_EXEC_CONTROL = u64::from(CPU2_EPT);
        VM_EXIT_CONTROLS = least(TRUE_EXIT) | u64::from(EXIT_HOST64 | EXIT_SAVE_EFER | EXIT_LOAD_EFER);
        VM_ENTRY_CONTROLS = least(TRUE_ENTRY) | u64::from(ENTRY_IA32E | ENTRY_LOAD_EFER);
        VIRTUAL_PROCESSOR_ID = 0;
        EXCEPTION_BITMAP = 0xffff_ffff;
        PAGE_FAULT_ERROR_CODE_MASK = 0;
        PAGE_FAULT_ERROR_CODE_MATCH = 0;
        CR3_TARGET_COUNT = 0;
        VM_EXIT_MSR_STORE_COUNT = 0;
        VM_EXIT_MSR_LOAD_COUNT = 0;
        VM_ENTRY_MSR_LOAD_COUNT = 0;
        VM_EXIT_MSR_STORE_ADDR = 0;
        VM_EXIT_MSR_LOAD_ADDR = 0;
        VM_ENTRY_MSR_LOAD_ADDR = 0;
        VM_ENTRY_INTR_INFO_FIELD = 0;
        VM_ENTRY_EXCEPTION_ERROR_CODE = 0;
        VM_ENTRY_INSTRUCTION_LEN = 0;
        TPR_THRESHOLD = 0;
        IO_BITMAP_A = 0;
        IO_BITMAP_B = 0;
        MSR_BITMAP = 0;
        TSC_OFFSET = 0;
        VIRTUAL_APIC_PAGE_ADDR = 0;
        APIC_ACCESS_ADDR = 0;
        EPT_POINTER = identity_ept();
        CR0_GUEST_HOST_MASK = 0;
        CR4_GUEST_HOST_MASK = 0;
        CR0_READ_SHADOW = 0;
        CR4_READ_SHADOW = 0;
        VMX_PREEMPTION_TIMER_VALUE = 1 << 23;

        HOST_CR0 = cpu::cr0();
        HOST_CR3 = cpu::cr3();
        HOST_CR4 = cpu::cr4();
        HOST_ES_SELECTOR = u64::from(cpu::DATA);
        HOST_CS_SELECTOR = u64::from(cpu::CODE);
        HOST_SS_SELECTOR = u64::from(cpu::DATA);
        HOST_DS_SELECTOR = u64::from(cpu::DATA);
        HOST_FS_SELECTOR = 0;
        HOST_GS_SELECTOR = 0;
        HOST_TR_SELECTOR = u64::from(cpu::TSS);
        HOST_FS_BASE = 0;
        HOST_GS_BASE = 0;
        HOST_TR_BASE = cpu::tss();
        HOST_GDTR_BASE = cpu::gdt();
        HOST_IDTR_BASE = cpu::idt();
        HOST_IA32_SYSENTER_CS = 0;
        HOST_IA32_SYSENTER_ESP = 0;
        HOST_IA32_SYSENTER_EIP = 0;
        HOST_IA32_EFER = EFER_LONG;
        HOST_IA32_PAT = PAT;
        HOST_RSP = addr_of!(exit_stack_end) as u64;
        HOST_RIP = host_entry as usize as u64;

        GUEST_CR0 = cpu::cr0();
        GUEST_CR3 = identity_cr3();
        GUEST_CR4 = cpu::cr4();
        GUEST_DR7 = 0x400;
        GUEST_RSP = 0;
        GUEST_RIP = 0;
        GUEST_RFLAGS = 2;
        GUEST_LDTR_SELECTOR = 0;
        GUEST_LDTR_BASE = 0;
        GUEST_LDTR_LIMIT = 0;
        GUEST_LDTR_AR_BYTES = 0x10000;
        GUEST_TR_SELECTOR = u64::from(cpu::TSS);
        GUEST_TR_BASE = cpu::tss();
        GUEST_TR_LIMIT = u64::from(cpu::TSS_LIMIT);
        GUEST_TR_AR_BYTES = 0x8b;
        GUEST_GDTR_BASE = cpu::gdt();
        GUEST_GDTR_LIMIT = u64::from(cpu::GDT_LIMIT);
        GUEST_IDTR_BASE = crate::l2::idt();
        GUEST_IDTR_LIMIT = u64::from(cpu::IDT_LIMIT);
        GUEST_IA32_DEBUGCTL = 0;
        GUEST_IA32_PAT = PAT;
        GUEST_IA32_EFER = EFER_LONG;
        GUEST_SYSENTER_CS = 0;
        GUEST_SYSENTER_ESP = 0;
        GUEST_SYSENTER_EIP = 0;
        GUEST_INTERRUPTIBILITY_INFO = 0;
        GUEST_ACTIVITY_STATE = 0;
        GUEST_PENDING_DBG_EXCEPTIONS = 0;
        VMCS_LINK_POINTER = !0;
    }
    // ES, CS, SS, DS, FS, GS have consecutive encodings.
    for n in 0..6 {
        let (selector, rights) = if n == 1 {
            (cpu::CODE, 0xa09b)
        } else {
            (cpu::DATA, 0xc093)
        };
        add_value(
            f::GUEST_ES_SELECTOR.encoding().0 + 2 * n,
            u64::from(selector),
        );
        add_value(f::GUEST_ES_BASE.encoding().0 + 2 * n, 0);
        add_value(f::GUEST_ES_LIMIT.encoding().0 + 2 * n, 0xffff_ffff);
        add_value(f::GUEST_ES_AR_BYTES.encoding().0 + 2 * n, rights);
    }
}

/// What came of an entry.
pub enum Entry {
    /// The instruction failed.
    Failed(Outcome),
    /// The guest ran, or its state was refused.
    Exit(Exit),
}

/// What an exit says.
#[derive(Clone, Copy)]
pub struct Exit {
    /// The whole exit reason.
    pub reason: u32,
    /// The exit qualification.
    pub qualification: u64,
    /// RIP of the guest.
    pub rip: u64,
}

/// Enters, by VMLAUNCH the first time.
pub fn enter() -> Entry {
    let mut state = STATE.get();
    // SAFETY: The VMCS has our stack and `host_entry`; guests have fragments of
    // this program and memory that they were given.
    let flags = unsafe { enter_guest(!state.has_launched) };
    if flags != 0 {
        return Entry::Failed(Outcome::of(flags));
    }
    // A VM exit leaves limits of FFFFH.
    cpu::load_tables();
    let reason = rd(f::VM_EXIT_REASON) as u32;
    if reason >> 31 == 0 {
        state.has_launched = true;
        STATE.set(state);
    }
    Entry::Exit(Exit {
        reason,
        qualification: rd(f::EXIT_QUALIFICATION),
        rip: rd(f::GUEST_RIP),
    })
}

impl Exit {
    /// Whether the length of the instruction is defined.
    fn has_length(&self, event: u32) -> bool {
        match self.reason {
            0 => matches!(event >> 8 & 7, 5 | 6),
            // Not by a gate that an interrupt or a fault came to.
            9 => {
                let vectoring = rd(f::IDT_VECTORING_INFO_FIELD);
                self.qualification >> 30 != 3 || matches!(vectoring >> 8 & 7, 4..=6)
            }
            10..=16
            | 18..=32
            | 36
            | 39
            | 40
            | 46
            | 47
            | 50
            | 51
            | 53..=55
            | 57..=59
            | 61
            | 63
            | 64 => true,
            _ => false,
        }
    }

    /// Whether there is information about the instruction.
    fn has_information(&self) -> bool {
        match self.reason {
            30 => self.qualification & 0x10 != 0,
            19 | 21 | 22 | 23 | 25 | 27 | 46 | 47 | 50 | 53 | 57 | 58 | 61 => true,
            _ => false,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason >> 31 != 0 {
            return write!(
                out,
                "refused {} qualification {:x}",
                self.reason & 0xffff,
                self.qualification
            );
        }
        // With a register as the operand there is no displacement, for which the
        // SDM says 0, and Bochs what was there before.
        let information = rd(f::VMX_INSTRUCTION_INFO);
        let has_register = matches!(self.reason, 23 | 25 | 47) && information & 1 << 10 != 0;
        let qualification = if has_register { 0 } else { self.qualification };
        // Where an EPT has accessed and dirty flags, a walk of the guest's tables
        // reads and writes (SDM 30.3.3.2); Bochs reports the write alone.
        let is_walk = self.reason == 48 && qualification & 0x182 == 0x82;
        let qualification = qualification | u64::from(is_walk);
        // The right of user-mode fetches is bit 6 (SDM 28.2.1); Bochs has it in bit 13, which stands for
        // shadow stacks.
        let qualification = if self.reason == 48 {
            qualification & !0x2000 | (qualification & 0x2000) >> 7
        } else {
            qualification
        };
        write!(out, "exit {} qualification {qualification:x}", self.reason)?;
        let event = rd(f::VM_EXIT_INTR_INFO) as u32;
        if matches!(self.reason, 0 | 1) {
            write!(out, " event {event:x}")?;
            if event & 0x800 != 0 {
                write!(out, " error {:x}", rd(f::VM_EXIT_INTR_ERROR_CODE))?;
            }
        }
        if self.has_length(event) {
            write!(out, " length {}", rd(f::VM_EXIT_INSTRUCTION_LEN))?;
        }
        if self.has_information() {
            write!(out, " information {information:x}")?;
        }
        let vectoring = rd(f::IDT_VECTORING_INFO_FIELD);
        if vectoring & 1 << 31 != 0 {
            write!(out, " vectoring {vectoring:x}")?;
            if vectoring & 0x800 != 0 {
                write!(out, "({:x})", rd(f::IDT_VECTORING_ERROR_CODE))?;
            }
        }
        if self.reason == 48 && self.qualification & 0x80 != 0 {
            write!(out, " linear {:x}", rd(f::GUEST_LINEAR_ADDRESS))?;
        }
        let blocking = rd(f::GUEST_INTERRUPTIBILITY_INFO);
        if blocking != 0 {
            write!(out, " blocking {blocking:x}")?;
        }
        let activity = rd(f::GUEST_ACTIVITY_STATE);
        if activity != 0 {
            write!(out, " activity {activity}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(outcome) => write!(out, "{outcome}"),
            Self::Exit(exit) => write!(out, "{exit}"),
        }
    }
}

/// Bits of a capability word that are named below.
type Bits = &'static [(&'static str, u32)];

/// What the capability MSRs say, feature by feature.
pub fn capabilities() {
    const PIN: Bits = &[
        ("external-interrupt", 0),
        ("nmi", 3),
        ("virtual-nmis", 5),
        ("preemption-timer", 6),
        ("posted-interrupts", 7),
    ];
    const CPU: Bits = &[
        ("interrupt-window", 2),
        ("tsc-offsetting", 3),
        ("hlt", 7),
        ("invlpg", 9),
        ("mwait", 10),
        ("rdpmc", 11),
        ("rdtsc", 12),
        ("cr3-load", 15),
        ("cr3-store", 16),
        ("tertiary", 17),
        ("cr8-load", 19),
        ("cr8-store", 20),
        ("tpr-shadow", 21),
        ("nmi-window", 22),
        ("mov-dr", 23),
        ("unconditional-io", 24),
        ("io-bitmaps", 25),
        ("monitor-trap", 27),
        ("msr-bitmaps", 28),
        ("monitor", 29),
        ("pause", 30),
        ("secondary", 31),
    ];
    const CPU2: Bits = &[
        ("apic-access", 0),
        ("ept", 1),
        ("descriptor-table", 2),
        ("rdtscp", 3),
        ("x2apic", 4),
        ("vpid", 5),
        ("wbinvd", 6),
        ("unrestricted", 7),
        ("apic-registers", 8),
        ("virtual-interrupts", 9),
        ("pause-loop", 10),
        ("rdrand", 11),
        ("invpcid", 12),
        ("vmfunc", 13),
        ("vmcs-shadowing", 14),
        ("encls", 15),
        ("rdseed", 16),
        ("pml", 17),
        ("ve", 18),
        ("conceal-vmx-from-pt", 19),
        ("xsaves", 20),
        ("pasid-translation", 21),
        ("mode-based-execute", 22),
        ("spp", 23),
        ("pt-uses-gpa", 24),
        ("tsc-scaling", 25),
        ("user-wait-pause", 26),
        ("pconfig", 27),
        ("enclv", 28),
        ("bus-lock", 30),
        ("notify", 31),
    ];
    const EXIT: Bits = &[
        ("save-debug", 2),
        ("host64", 9),
        ("perf", 12),
        ("acknowledge", 15),
        ("save-pat", 18),
        ("load-pat", 19),
        ("save-efer", 20),
        ("load-efer", 21),
        ("save-timer", 22),
        ("clear-bndcfgs", 23),
        ("conceal-vmx-from-pt", 24),
        ("clear-rtit", 25),
        ("clear-lbr", 26),
        ("clear-uinv", 27),
        ("cet", 28),
        ("pkrs", 29),
        ("save-perf", 30),
        ("secondary", 31),
    ];
    const ENTRY: Bits = &[
        ("load-debug", 2),
        ("ia32e", 9),
        ("smm", 10),
        ("dual-monitor", 11),
        ("perf", 13),
        ("load-pat", 14),
        ("load-efer", 15),
        ("bndcfgs", 16),
        ("conceal-vmx-from-pt", 17),
        ("rtit", 18),
        ("uinv", 19),
        ("cet", 20),
        ("lbr", 21),
        ("pkrs", 22),
    ];
    const EPT: Bits = &[
        ("execute-only", 0),
        ("walk-4", 6),
        ("walk-5", 7),
        ("uncacheable", 8),
        ("write-back", 14),
        ("2m", 16),
        ("1g", 17),
        ("invept", 20),
        ("accessed-dirty", 21),
        ("advanced-information", 22),
        ("supervisor-shadow-stack", 23),
        ("invept-single", 25),
        ("invept-all", 26),
    ];
    let show = |word: &str, bits: u32, list: Bits| {
        for (name, bit) in list {
            say!("capabilities.{word}.{name}", "{}", bits >> bit & 1);
        }
    };
    for (word, msr, list) in [
        ("pin", TRUE_PIN, PIN),
        ("cpu", TRUE_CPU, CPU),
        ("cpu2", PROCBASED2, CPU2),
        ("exit", TRUE_EXIT, EXIT),
        ("entry", TRUE_ENTRY, ENTRY),
    ] {
        let value = rdmsr(msr);
        show(word, (value >> 32) as u32, list);
        say!("capabilities.{word}.always", "{:x}", value & 0xffff_ffff);
    }
    for (word, msr, first) in [
        ("pin", TRUE_PIN, 0x481),
        ("cpu", TRUE_CPU, 0x482),
        ("exit", TRUE_EXIT, 0x483),
        ("entry", TRUE_ENTRY, 0x484),
    ] {
        // A.3 to A.5: the first MSR of each reports default1 controls as fixed, else the same.
        let same = rdmsr(msr) >> 32 == rdmsr(first) >> 32;
        say!("capabilities.{word}.same-allowed-1", "{same}");
        say!(
            "capabilities.{word}.default1",
            "{:x}",
            rdmsr(first) & 0xffff_ffff
        );
    }
    let basic = rdmsr(BASIC);
    say!("capabilities.basic.size", "{}", basic >> 32 & 0x1fff);
    say!("capabilities.basic.narrow-addresses", "{}", basic >> 48 & 1);
    say!("capabilities.basic.memory-type", "{}", basic >> 50 & 15);
    say!(
        "capabilities.basic.string-io-information",
        "{}",
        basic >> 54 & 1
    );
    say!("capabilities.basic.true-controls", "{}", basic >> 55 & 1);
    let misc = rdmsr(MISC);
    say!("capabilities.misc.stores-lma", "{}", misc >> 5 & 1);
    say!("capabilities.misc.hlt", "{}", misc >> 6 & 1);
    say!("capabilities.misc.wait-for-sipi", "{}", misc >> 8 & 1);
    say!(
        "capabilities.misc.msr-list",
        "{}",
        512 * ((misc >> 25 & 7) + 1)
    );
    say!(
        "capabilities.misc.injection-of-length-0",
        "{}",
        misc >> 30 & 1
    );
    say!("capabilities.misc.write-any-field", "{}", misc >> 29 & 1);
    say!("capabilities.cr0.fixed-0", "{:x}", rdmsr(CR0_FIXED0));
    say!("capabilities.cr0.fixed-1", "{:x}", rdmsr(CR0_FIXED0 + 1));
    say!("capabilities.cr4.fixed-0", "{:x}", rdmsr(CR4_FIXED0));
    let ept = rdmsr(EPT_VPID);
    show("ept", ept as u32, EPT);
    for (bit, name) in [
        "instruction",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        "address",
        "single",
        "all",
        "single-keep-global",
    ]
    .iter()
    .enumerate()
    .filter(|(_, name)| !name.is_empty())
    {
        say!("capabilities.invvpid.{name}", "{}", ept >> 32 >> bit & 1);
    }
}
