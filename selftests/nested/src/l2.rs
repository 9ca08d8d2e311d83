// SPDX-License-Identifier: GPL-2.0

//! Guests: fragments of code, and what comes of running them.

use burrow_core::x86::vmx::field as f;
use core::{
    fmt,
    ptr::{
        addr_of,
        addr_of_mut, //
    },
};

use crate::{
    cpu::{
        self,
        Global,
        Page, //
    },
    vmx::{
        self,
        rd,
        wr,
        Entry,
        Exit, //
    },
};

/// Names fragments of code and gives them: one string an instruction.
#[macro_export]
macro_rules! code {
    ($($name:ident: $($line:literal),+;)*) => { $(
        const _: () = {
            mod code {
                core::arch::global_asm!(
                    ".pushsection .blobs, \"awx\"", ".balign 16", ".code64",
                    concat!("code_", stringify!($name), ":"), $($line,)+ ".code64", ".popsection");
            }
        };
        extern "C" {
            #[link_name = concat!("code_", stringify!($name))]
            pub fn $name();
        }
    )* };
}

/// The address of a fragment.
pub fn at(code: unsafe extern "C" fn()) -> u64 {
    code as usize as u64
}

extern "C" {
    static mut guest_registers: [u64; 16];
}

/// Numbers of general registers.
pub const RAX: usize = 0;
pub const RCX: usize = 1;
pub const RDX: usize = 2;
pub const RSI: usize = 6;
pub const RDI: usize = 7;

/// Sets a general register of the guest (not RSP).
pub fn set_register(number: usize, value: u64) {
    // SAFETY: The array is used by the switch alone, which does not run now.
    unsafe {
        addr_of_mut!(guest_registers)
            .cast::<u64>()
            .add(number & 15)
            .write_volatile(value)
    };
}

/// Reads one.
pub fn register(number: usize) -> u64 {
    // SAFETY: As above.
    unsafe {
        addr_of!(guest_registers)
            .cast::<u64>()
            .add(number & 15)
            .read_volatile()
    }
}

extern "C" {
    static guest_stubs: [[u8; 16]; 256];
}

static IDT: Global<[[u64; 2]; 256]> = Global::new([[0; 2]; 256]);

/// The guest's IDT, in which each vector tells that it was delivered, on the stack that there is.
pub fn idt() -> u64 {
    // SAFETY: One thread; the guest only reads it.
    let gates = unsafe { &mut *IDT.as_ptr() };
    for (gate, vector) in gates.iter_mut().zip(0u64..) {
        *gate = cpu::gate64(addr_of!(guest_stubs) as u64 + 16 * vector, 0);
    }
    IDT.address()
}

static STACK: Global<[Page; 2]> = Global::new([Page::ZERO; 2]);

/// The top of the guest's stack.
pub fn stack() -> u64 {
    STACK.address() + 4096
}

/// Starts at a fragment, with zeroes in the registers.
pub fn begin(code: unsafe extern "C" fn()) {
    for number in 0..16 {
        set_register(number, 0);
    }
    wr(f::GUEST_RIP, at(code));
    wr(f::GUEST_RSP, stack());
    START.set(at(code));
}

static START: Global<u64> = Global::new(0);

/// Runs the guest and tells what happened, with the offset of RIP in the
/// fragment; "done" where it got to a VMCALL with RDI = 77H.
pub struct Ran(pub Entry);

/// Enters.
pub fn go() -> Ran {
    Ran(vmx::enter())
}

/// Begins a fragment and enters.
pub fn run(code: unsafe extern "C" fn()) -> Ran {
    begin(code);
    go()
}

/// A new VMCS, set up by `prepare`, and a run of a fragment.
pub fn fresh(code: unsafe extern "C" fn(), prepare: impl FnOnce()) -> Ran {
    vmx::guest();
    begin(code);
    prepare();
    go()
}

impl Ran {
    /// The exit, if there was one.
    pub fn exit(&self) -> Option<Exit> {
        match &self.0 {
            Entry::Exit(exit) if exit.reason >> 31 == 0 => Some(*exit),
            _ => None,
        }
    }

    /// Whether it exited for this reason.
    pub fn is(&self, reason: u32) -> bool {
        self.exit().is_some_and(|exit| exit.reason == reason)
    }

    /// Whether the fragment came to its end.
    pub fn is_done(&self) -> bool {
        self.is(18) && register(RDI) == 0x77
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_done() {
            return write!(out, "done");
        }
        if self.is(18) && register(RDI) == 0x78 {
            return write!(out, "{}", Delivered);
        }
        write!(out, "{}", self.0)?;
        if let Some(exit) = self.exit() {
            let offset = exit.rip.wrapping_sub(START.get()) as i64;
            if (0..256).contains(&offset) {
                write!(out, " at +{offset}")?;
            }
        }
        Ok(())
    }
}

/// What the guest's handler in 64-bit mode found on its stack.
struct Delivered;

impl fmt::Display for Delivered {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rsp = rd(f::GUEST_RSP);
        write!(out, "delivered {}", cpu::peek(rsp) & 0xff)?;
        let mut at = rsp + 8;
        // From an aligned stack: five words, and perhaps an error code.
        if rsp & 15 == 8 {
            write!(out, " error {:x}", cpu::peek(at))?;
            at += 8;
        }
        let rip = cpu::peek(at).wrapping_sub(START.get()) as i64;
        write!(
            out,
            " rip {rip:+} cs {:x} flags {:x}",
            cpu::peek(at + 8),
            cpu::peek(at + 16)
        )?;
        write!(out, " then {:x}", rd(f::GUEST_RFLAGS))?;
        let blocking = rd(f::GUEST_INTERRUPTIBILITY_INFO);
        if blocking != 0 {
            write!(out, " blocking {blocking:x}")?;
        }
        Ok(())
    }
}

extern "C" {
    static page_tables_32: [u32; 1024];
    static page_tables_pae: [u64; 4];
}

/// Writes selector, base, limit and access rights of ES, CS, SS, DS, FS, GS.
fn flat(code_rights: u64, rights: u64, limit: u64) {
    for n in 0..6 {
        let field = |first: f::Encoding| u64::from(first.0 + 2 * n);
        vmx::vmwrite(field(f::GUEST_ES_BASE.encoding()), 0);
        vmx::vmwrite(field(f::GUEST_ES_LIMIT.encoding()), limit);
        let rights = if n == 1 { code_rights } else { rights };
        vmx::vmwrite(field(f::GUEST_ES_AR_BYTES.encoding()), rights);
    }
}

/// Makes the guest one of 32-bit protected mode, with 32-bit paging.
pub fn protected() {
    vmx::clear(f::VM_ENTRY_CONTROLS, vmx::ENTRY_IA32E);
    wr(f::GUEST_IA32_EFER, 0);
    wr(f::GUEST_CR3, addr_of!(page_tables_32) as u64);
    wr(f::GUEST_CR4, vmx::VMXE | 0x610);
    flat(0xc09b, 0xc093, 0xffff_ffff);
    wr(f::GUEST_CS_SELECTOR, u64::from(cpu::CODE32));
}

/// The same with PAE paging.
pub fn pae() {
    protected();
    let table = addr_of!(page_tables_pae) as u64;
    wr(f::GUEST_CR3, table);
    wr(f::GUEST_CR4, vmx::VMXE | 0x620);
    for (n, field) in [
        f::GUEST_PDPTR0,
        f::GUEST_PDPTR1,
        f::GUEST_PDPTR2,
        f::GUEST_PDPTR3,
    ]
    .into_iter()
    .enumerate()
    {
        wr(field, cpu::peek(table + 8 * n as u64));
    }
}

/// Makes the guest one of real mode, with its code at address 0 of CS.
pub fn real() {
    vmx::clear(f::VM_ENTRY_CONTROLS, vmx::ENTRY_IA32E);
    vmx::set_secondary(vmx::CPU2_UNRESTRICTED);
    wr(f::GUEST_IA32_EFER, 0);
    wr(f::GUEST_CR0, 0x30);
    wr(f::GUEST_CR3, 0);
    wr(f::GUEST_CR4, vmx::VMXE);
    flat(0x9b, 0x93, 0xffff);
    wr(f::GUEST_CS_BASE, rd(f::GUEST_RIP));
    wr(f::GUEST_SS_BASE, stack() - 0x1000);
    wr(f::GUEST_RSP, 0x1000);
    wr(f::GUEST_RIP, 0);
    START.set(0);
}

/// Makes the guest one of virtual-8086 mode; its code is not ours.
pub fn virtual_8086() {
    protected();
    wr(f::GUEST_RFLAGS, 0x2_0002);
    flat(0xf3, 0xf3, 0xffff);
    for n in 0..6 {
        vmx::vmwrite(u64::from(f::GUEST_ES_SELECTOR.encoding().0 + 2 * n), 0x1000);
        vmx::vmwrite(u64::from(f::GUEST_ES_BASE.encoding().0 + 2 * n), 0x1_0000);
    }
    wr(f::GUEST_RIP, 0);
    wr(f::GUEST_RSP, 0x1000);
    // HLT is privileged: #GP.
    cpu::poke32(0x1_0000, 0xf4f4_f4f4);
}

/// Takes the guest to CPL 3 of 64-bit mode.
pub fn user() {
    wr(f::GUEST_CS_SELECTOR, u64::from(cpu::USER_CODE));
    wr(f::GUEST_CS_AR_BYTES, 0xa0fb);
    wr(f::GUEST_SS_SELECTOR, u64::from(cpu::USER_DATA));
    wr(f::GUEST_SS_AR_BYTES, 0xc0f3);
}
