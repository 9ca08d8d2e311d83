// SPDX-License-Identifier: GPL-2.0

//! EPT: permissions, misconfigurations, walks of the guest's page tables,
//! accessed and dirty flags, and changes with and without INVEPT.

use burrow_core::x86::vmx::field as f;

use crate::{
    cpu::{
        page,
        peek,
        poke, //
    },
    l2::{
        self,
        fresh,
        register,
        set_register,
        Ran,
        RAX,
        RSI, //
    },
    vmx::{
        self,
        rd,
        wr, //
    },
};

pub type Code = unsafe extern "C" fn();

code! {
    reads: "mov rax, [rsi]", "mov edi, 0x77", "vmcall";
    writes: "mov [rsi], rax", "mov edi, 0x77", "vmcall";
    changes: "lock inc dword ptr [rsi]", "mov edi, 0x77", "vmcall";
    fetches: "call rsi", "mov edi, 0x77", "vmcall";
}

/// What a guest does with the address in RSI; what it writes is RAX.
pub static ACCESSES: &[(&str, Code)] = &[
    ("read", reads),
    ("write", writes),
    ("change", changes),
    ("fetch", fetches),
];

/// Where the window is, in guest-physical and in linear addresses.
pub const WINDOW: u64 = 0x4000_0000;
/// A large page after it, and the memory of it, which nothing else uses.
pub const LARGE: u64 = WINDOW + 0x20_0000;
pub const LARGE_HOST: u64 = 0x200_0000;
/// Write-back memory.
pub const WB: u64 = 6 << 3;
/// RET, at each of eight addresses.
pub const RETURN: u64 = 0xc3c3_c3c3_c3c3_c3c3;

/// An EPT with a window of small pages.
#[derive(Clone, Copy)]
pub struct Ept {
    pub pointer: u64,
    pub top: u64,
    pub middle: u64,
    pub directory: u64,
    pub table: u64,
    pub data: u64,
}

impl Ept {
    /// Makes one; page 0 of the window, and the large page, hold RET.
    pub fn new() -> Self {
        let pointer = vmx::identity_ept();
        let top = pointer & !0xfff;
        let (middle, directory, table, data) = (peek(top) & !0xfff, page(), page(), page());
        poke(middle + 8, directory | 7);
        poke(directory, table | 7);
        poke(directory + 8, LARGE_HOST | WB | 0x87);
        poke(data, RETURN);
        poke(LARGE_HOST, RETURN);
        let ept = Self {
            pointer,
            top,
            middle,
            directory,
            table,
            data,
        };
        ept.map(0, data | WB | 7);
        ept
    }

    /// Sets the entry of a small page of the window.
    pub fn map(&self, index: u64, entry: u64) {
        poke(self.table + 8 * index, entry);
    }

    /// Has the processor forget what it has of it.
    pub fn invalidate(&self) {
        let _ = vmx::invept(1, [self.pointer, 0]);
    }

    /// A guest with this EPT that accesses an address.
    pub fn run(&self, code: Code, address: u64) -> Ran {
        fresh(code, || {
            wr(f::EPT_POINTER, self.pointer);
            set_register(RSI, address);
            // What is written is RET, too, for later fetches.
            set_register(RAX, RETURN);
        })
    }
}

/// Prints an observation with the guest-physical address where there is one.
pub fn show(name: core::fmt::Arguments<'_>, ran: &Ran) {
    if ran.is(48) || ran.is(49) {
        say!(
            "{name}",
            "{ran} physical {:x}",
            rd(f::GUEST_PHYSICAL_ADDRESS)
        );
    } else {
        say!("{name}", "{ran}");
    }
}

/// Permissions and misconfigurations at each level.
pub fn permissions() {
    vmx::guest();
    let ept = Ept::new();
    for rights in 0..8 {
        for (name, code) in ACCESSES {
            poke(ept.data, RETURN);
            poke(LARGE_HOST, RETURN);
            ept.map(0, ept.data | WB | rights);
            ept.invalidate();
            show(
                format_args!("ept.page.{rights}.{name}"),
                &ept.run(*code, WINDOW),
            );
            poke(ept.directory + 8, LARGE_HOST | WB | 0x80 | rights);
            ept.invalidate();
            show(
                format_args!("ept.large.{rights}.{name}"),
                &ept.run(*code, LARGE),
            );
        }
    }
    ept.map(0, ept.data | WB | 7);
    for rights in [0, 1, 3, 5] {
        for (name, code) in ACCESSES {
            poke(ept.directory, ept.table | rights);
            poke(ept.data + 8, RETURN);
            ept.invalidate();
            show(
                format_args!("ept.directory.{rights}.{name}"),
                &ept.run(*code, WINDOW + 8),
            );
        }
    }
    poke(ept.directory, ept.table | 7);
    let good = ept.data | WB | 7;
    for (name, at, entry) in [
        ("memory-type-2", ept.table, ept.data | 2 << 3 | 7),
        ("memory-type-3", ept.table, ept.data | 3 << 3 | 7),
        ("memory-type-7", ept.table, ept.data | 7 << 3 | 7),
        ("memory-type-0", ept.table, ept.data | 7),
        ("reserved-51", ept.table, good | 1 << 51),
        ("reserved-51-absent", ept.table, good & !7 | 1 << 51),
        ("ignored-11", ept.table, good | 1 << 11),
        ("ignored-52", ept.table, good | 1 << 52),
        ("ignored-7", ept.table, good | 1 << 7),
        ("ignore-pat", ept.table, good | 1 << 6),
        ("directory-3", ept.directory, ept.table | 0xf),
        ("directory-6", ept.directory, ept.table | 0x47),
        ("directory-51", ept.directory, ept.table | 1 << 51 | 7),
        ("directory-write-only", ept.directory, ept.table | 2),
        ("large-12", ept.directory, LARGE_HOST | WB | 0x1087),
        (
            "large-memory-type",
            ept.directory,
            LARGE_HOST | 2 << 3 | 0x87,
        ),
        ("pdpt-3", ept.middle + 8, ept.directory | 0xf),
        ("giant-12", ept.middle + 8, WB | 0x1087),
        ("pml4-7", ept.top, ept.middle | 0x87),
        ("pml4-3", ept.top, ept.middle | 0xf),
    ] {
        let before = peek(at);
        poke(at, entry);
        ept.invalidate();
        show(
            format_args!("ept.entry.{name}"),
            &ept.run(reads, WINDOW + 0x10),
        );
        poke(at, before);
    }
    ept.invalidate();
    changes_of_entries(&ept);
}

/// Entries that change while the guest has used them, with INVEPT where the SDM asks for it.
fn changes_of_entries(ept: &Ept) {
    // More rights after a violation need none.
    ept.map(0, ept.data | WB);
    ept.invalidate();
    let ran = ept.run(writes, WINDOW);
    say!("ept.change.absent", "{ran}");
    ept.map(0, ept.data | WB | 1);
    say!("ept.change.read-only", "{}", l2::go());
    ept.map(0, ept.data | WB | 3);
    say!("ept.change.writable", "{}", l2::go());
    // Fewer do.
    ept.map(0, ept.data | WB | 1);
    ept.invalidate();
    say!("ept.change.taken-away", "{}", ept.run(writes, WINDOW));
    let other = page();
    poke(ept.data, 0x1111);
    poke(other, 0x2222);
    ept.map(0, ept.data | WB | 7);
    ept.invalidate();
    let ran = ept.run(reads, WINDOW);
    say!("ept.change.one", "{ran} {:x}", register(RAX));
    ept.map(0, other | WB | 7);
    ept.invalidate();
    let ran = ept.run(reads, WINDOW);
    say!("ept.change.other", "{ran} {:x}", register(RAX));
    // A large page instead of a table, and back.
    poke(LARGE_HOST, 0x3333);
    poke(ept.directory, LARGE_HOST | WB | 0x87);
    ept.invalidate();
    let ran = ept.run(reads, WINDOW);
    say!("ept.change.large", "{ran} {:x}", register(RAX));
    poke(ept.directory, ept.table | 7);
    let _ = vmx::invept(2, [0, 0]);
    let ran = ept.run(reads, WINDOW);
    say!("ept.change.small", "{ran} {:x}", register(RAX));
    // Two EPTs by turns.
    let second = Ept::new();
    poke(second.data, 0x4444);
    for turn in 0..3 {
        let ran = ept.run(reads, WINDOW);
        say!("ept.turn.{turn}.first", "{ran} {:x}", register(RAX));
        let ran = second.run(reads, WINDOW);
        say!("ept.turn.{turn}.second", "{ran} {:x}", register(RAX));
    }
    // With VPIDs.
    for (turn, vpid) in [1, 2, 1].into_iter().enumerate() {
        let ran = fresh(reads, || {
            vmx::set_secondary(vmx::CPU2_VPID);
            wr(f::VIRTUAL_PROCESSOR_ID, vpid);
            wr(f::EPT_POINTER, ept.pointer);
            set_register(RSI, WINDOW);
        });
        say!("ept.vpid.{turn}", "{ran} {:x}", register(RAX));
    }
}

/// A linear address that the guest's own tables in the window translate.
pub const LINEAR: u64 = 1 << 39;

/// Violations while the guest's page tables are walked.
pub fn walks() {
    vmx::guest();
    let ept = Ept::new();
    // PML4 at 1, PDPT at 2, directory at 3, table at 4, page at 5 of the window.
    let pages = [page(), page(), page(), page(), page()];
    let restore = || {
        for (n, host) in (1..).zip(pages) {
            ept.map(n, host | WB | 7);
            if n < 5 {
                poke(
                    host + if n == 1 { 8 } else { 0 },
                    WINDOW + 0x1000 * (n + 1) | 7,
                );
            }
        }
        // The rest of the guest's memory, for its code.
        poke(pages[0], peek(vmx::identity_cr3()));
        poke(pages[4] + 0x20, RETURN);
        ept.invalidate();
    };
    let run = |code: Code, dirty: bool| {
        fresh(code, || {
            wr(f::EPT_POINTER, ept.pointer | if dirty { 0x40 } else { 0 });
            wr(f::GUEST_CR3, WINDOW + 0x1000);
            set_register(RSI, LINEAR + 0x20);
            set_register(RAX, RETURN);
        })
    };
    for dirty in [false, true] {
        let mode = if dirty { "walk.ad" } else { "walk.plain" };
        for level in 1..6 {
            for rights in [0, 1, 3, 5] {
                for (name, code) in ACCESSES {
                    restore();
                    ept.map(level, pages[level as usize - 1] | WB | rights);
                    let _ = vmx::invept(2, [0, 0]);
                    show(
                        format_args!("{mode}.{level}.{rights}.{name}"),
                        &run(*code, dirty),
                    );
                }
            }
        }
        // Misconfigured on the way.
        restore();
        ept.map(3, pages[2] | WB | 2);
        let _ = vmx::invept(2, [0, 0]);
        show(format_args!("{mode}.misconfigured"), &run(reads, dirty));
    }
    // Accessed and dirty flags of the EPT: of the page, and of the page that holds the table.
    for (name, code) in ACCESSES {
        restore();
        poke(ept.directory, ept.table | 7);
        let _ = vmx::invept(2, [0, 0]);
        let ran = run(*code, true);
        let flags = |at: u64| peek(at) >> 8 & 3;
        say!(
            "walk.flags.{name}",
            "{ran} page {} table {} directory {} guest {:x}",
            flags(ept.table + 8 * 5),
            flags(ept.table + 8 * 4),
            flags(ept.directory),
            peek(pages[3]) & 0x60
        );
        restore();
        let ran = run(*code, false);
        say!(
            "walk.flags-off.{name}",
            "{ran} page {} table {} guest {:x}",
            flags(ept.table + 8 * 5),
            flags(ept.table + 8 * 4),
            peek(pages[3]) & 0x60
        );
    }
}
