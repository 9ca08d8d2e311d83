// SPDX-License-Identifier: GPL-2.0

//! What builds on EPT: VM functions, page-modification logging, and mode-based execute control.

use burrow_core::x86::vmx::field as f;

use crate::{
    cpu::{
        page,
        peek,
        poke, //
    },
    ept::{
        self,
        Code,
        Ept,
        ACCESSES,
        LARGE,
        LARGE_HOST,
        LINEAR,
        RETURN,
        WB,
        WINDOW, //
    },
    l2::{
        self,
        fresh,
        go,
        register,
        set_register,
        Ran,
        RAX,
        RCX,
        RDX,
        RSI, //
    },
    vmx::{
        self,
        has_secondary,
        rd,
        set,
        set_secondary,
        wr, //
    },
};

code! {
    function: "vmfunc", "mov edi, 0x77", "vmcall";
    prefixed: ".byte 0x66", "vmfunc", "mov edi, 0x77", "vmcall";
    // What the window holds before and after.
    switches: "mov rdx, [rsi]", "vmfunc", "mov rax, [rsi]", "mov edi, 0x77", "vmcall";
    // There and back.
    switches_twice: "vmfunc", "mov rdx, [rsi]", "xor ecx, ecx", "vmfunc", "mov rax, [rsi]",
        "mov edi, 0x77", "vmcall";
    writes_twice: "mov [rsi], rax", "mov [rsi + 0x1000], rax", "mov edi, 0x77", "vmcall";
}

/// VM functions: SDM 26.5.6.
pub fn functions() {
    if !has_secondary(vmx::CPU2_VMFUNC) {
        say!("vmfunc", "skip vm functions");
        return;
    }
    vmx::guest();
    let (first, second, list) = (Ept::new(), Ept::new(), page());
    poke(first.data, 0x1111);
    poke(second.data, 0x2222);
    let with = |controls: u64, leaf: u64, index: u64| {
        set_secondary(vmx::CPU2_VMFUNC);
        wr(f::VM_FUNCTION_CONTROL, controls);
        wr(f::EPTP_LIST_ADDRESS, list);
        wr(f::EPT_POINTER, first.pointer);
        set_register(RAX, leaf);
        set_register(RCX, index);
        set_register(RSI, WINDOW);
    };
    for (n, pointer) in (0..).zip([
        first.pointer,
        second.pointer,
        second.pointer | 0x40,
        second.pointer & !7,
        second.pointer & !7 | 5,
        second.pointer & !0x38 | 0x10,
        second.pointer | 1 << 11,
        second.pointer | 1 << 63,
        0,
    ]) {
        poke(list + 8 * n, pointer);
    }
    poke(list + 8 * 511, second.pointer);
    let off = fresh(function, || wr(f::VM_FUNCTION_CONTROL, 1));
    say!("vmfunc.off", "{off}");
    for controls in [0, 1] {
        for leaf in [0, 1, 63, 64, 1 << 31, 1 << 32] {
            let ran = fresh(function, || with(controls, leaf, 512));
            say!("vmfunc.{controls}.{leaf:x}", "{ran}");
        }
    }
    say!("vmfunc.prefix", "{}", fresh(prefixed, || with(1, 0, 1)));
    // Not entry 3: not all processors offer tables in memory of type UC.
    for index in [0, 1, 2, 4, 5, 6, 7, 8, 9, 511, 512, 0xffff_ffff, 1 << 32] {
        let ran = fresh(switches, || with(1, 0, index));
        let pointer = rd(f::EPT_POINTER);
        say!(
            "vmfunc.switch.{index:x}",
            "{ran} from {:x} to {:x} pointer {}",
            register(RDX),
            register(RAX),
            match pointer {
                _ if pointer == first.pointer => "first",
                _ if pointer == second.pointer => "second",
                _ if pointer == second.pointer | 0x40 => "flags",
                _ => "other",
            }
        );
    }
    let ran = fresh(switches_twice, || with(1, 0, 1));
    say!(
        "vmfunc.switch.back",
        "{ran} there {:x} back {:x} is-first {}",
        register(RDX),
        register(RAX),
        rd(f::EPT_POINTER) == first.pointer
    );
    // The next entry is with the EPT that the guest chose.
    let ran = fresh(switches, || with(1, 0, 1));
    say!("vmfunc.resume.first", "{ran}");
    l2::begin(switches);
    set_register(RSI, WINDOW);
    say!("vmfunc.resume.second", "{} {:x}", go(), register(RDX));
    // A violation after the switch is of the new EPT.
    second.map(0, second.data | WB | 2 << 1);
    let ran = fresh(switches, || with(1, 0, 1));
    ept::show(format_args!("vmfunc.violation"), &ran);
    second.map(0, second.data | WB | 7);
    let ran = fresh(switches, || {
        with(1, 0, 1);
        l2::user();
    });
    say!("vmfunc.user", "{ran}");
    let ran = fresh(function, || {
        with(1, 0, 1);
        set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MTF);
    });
    say!("vmfunc.mtf", "{ran}");
    let ran = fresh(function, || {
        with(1, 0, 1);
        wr(f::GUEST_RFLAGS, 0x102);
        set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MTF);
    });
    let pending = rd(f::GUEST_PENDING_DBG_EXCEPTIONS);
    say!("vmfunc.mtf-tf", "{ran} pending {pending:x}");
    let ran = fresh(function, || {
        with(1, 0, 1);
        wr(f::GUEST_RFLAGS, 0x102);
    });
    say!("vmfunc.tf", "{ran}");
    refused_functions(&with);
}

/// VM entries that the controls of VM functions do not allow.
fn refused_functions(with: &dyn Fn(u64, u64, u64)) {
    let rows: [(&str, fn()); 5] = [
        ("reserved-1", || wr(f::VM_FUNCTION_CONTROL, 2)),
        ("reserved-63", || wr(f::VM_FUNCTION_CONTROL, 1 << 63)),
        ("list-misaligned", || wr(f::EPTP_LIST_ADDRESS, 8)),
        ("list-wide", || wr(f::EPTP_LIST_ADDRESS, 1 << 52)),
        ("without-ept", || {
            vmx::clear(f::SECONDARY_VM_EXEC_CONTROL, vmx::CPU2_EPT)
        }),
    ];
    for (name, change) in rows {
        let ran = fresh(function, || {
            with(1, 0, 1);
            change();
        });
        say!("vmfunc.refused.{name}", "{ran}");
    }
    let ran = fresh(function, || {
        with(2, 0, 1);
        vmx::clear(f::SECONDARY_VM_EXEC_CONTROL, vmx::CPU2_VMFUNC);
    });
    say!("vmfunc.reserved-inactive", "{ran}");
}

/// An EPT whose entries have all flags set but in the window, so that nothing else is logged.
fn flagged() -> Ept {
    let mut ept = Ept::new();
    let last = peek(ept.middle) & !0xfff;
    for n in 0..512 {
        poke(last + 8 * n, peek(last + 8 * n) | 0x300);
    }
    for at in [ept.top, ept.middle, ept.middle + 8, ept.directory] {
        poke(at, peek(at) | 0x100);
    }
    ept.map(1, page() | WB | 7);
    ept.pointer |= 0x40;
    ept
}

/// The page-modification log of L1.
struct Log<'a> {
    ept: &'a Ept,
    page: u64,
}

impl Log<'_> {
    fn run(&self, code: Code, address: u64, index: u64) -> Ran {
        for n in 0..512 {
            poke(self.page + 8 * n, !0);
        }
        self.ept.invalidate();
        fresh(code, || {
            set_secondary(vmx::CPU2_PML);
            wr(f::PML_ADDRESS, self.page);
            wr(f::GUEST_PML_INDEX, index);
            wr(f::EPT_POINTER, self.ept.pointer);
            set_register(RSI, address);
            set_register(RAX, RETURN);
        })
    }

    /// Prints the run, the index, and the entries that were written.
    fn show(&self, name: core::fmt::Arguments<'_>, ran: &Ran) {
        let index = rd(f::GUEST_PML_INDEX);
        let entries = (0..512)
            .map(|n| peek(self.page + 8 * n))
            .filter(|entry| *entry != !0);
        let (mut count, mut last) = (0, 0);
        for entry in entries {
            count += 1;
            last = entry;
        }
        say!(
            "{name}",
            "{ran} index {index:x} entries {count} first {last:x}"
        );
    }

    /// Takes the flags from the window.
    fn clean(&self) {
        for n in 0..2 {
            let at = self.ept.table + 8 * n;
            poke(at, peek(at) & !0x300);
        }
        poke(self.ept.directory + 8, LARGE_HOST | WB | 0x87);
    }
}

/// Page-modification logging: SDM 30.3.6.
pub fn page_log() {
    if !has_secondary(vmx::CPU2_PML) {
        say!("pml", "skip page-modification logging");
        return;
    }
    vmx::guest();
    let ept = flagged();
    let log = Log {
        ept: &ept,
        page: page(),
    };
    for (name, code) in ACCESSES {
        for (place, address) in [("small", WINDOW + 0x18), ("large", LARGE + 0x1_2348)] {
            for index in [511, 0] {
                log.clean();
                poke(ept.data + 0x18, RETURN);
                poke(LARGE_HOST + 0x1_2348, RETURN);
                let ran = log.run(*code, address, index);
                log.show(format_args!("pml.{place}.{name}.{index}"), &ran);
            }
        }
    }
    for index in [511, 1, 0, 0xffff, 512] {
        log.clean();
        let ran = log.run(writes_twice, WINDOW, index);
        log.show(format_args!("pml.two.{index:x}"), &ran);
        let flags = |n: u64| peek(ept.table + 8 * n) >> 8 & 3;
        say!("pml.two.{index:x}.flags", "{} {}", flags(0), flags(1));
        if ran.is(62) {
            // L1 empties the log, and the write is done again.
            wr(f::GUEST_PML_INDEX, 511);
            let ran = go();
            log.show(format_args!("pml.two.{index:x}.emptied"), &ran);
        }
    }
    // Dirty already; dirty no more; dirty no more, but not forgotten by the TLB, is either.
    log.clean();
    let ran = log.run(writes_twice, WINDOW, 511);
    log.show(format_args!("pml.again.first"), &ran);
    let ran = log.run(writes_twice, WINDOW, 511);
    log.show(format_args!("pml.again.dirty"), &ran);
    log.clean();
    let ran = log.run(writes_twice, WINDOW, 511);
    log.show(format_args!("pml.again.cleaned"), &ran);
    // No write, no entry.
    log.clean();
    ept.map(0, ept.data | WB | 5);
    let ran = log.run(writes_twice, WINDOW, 511);
    log.show(format_args!("pml.read-only"), &ran);
    ept.map(0, ept.data | WB | 7);
    // Without flags there is nothing to log.
    let plain = Ept {
        pointer: ept.pointer & !0x40,
        ..ept
    };
    log.clean();
    let ran = Log { ept: &plain, ..log }.run(writes_twice, WINDOW, 0xffff);
    log.show(format_args!("pml.without-flags"), &ran);
    let rows: [(&str, fn()); 3] = [
        ("misaligned", || wr(f::PML_ADDRESS, 8)),
        ("wide", || wr(f::PML_ADDRESS, 1 << 52)),
        ("without-ept", || {
            vmx::clear(f::SECONDARY_VM_EXEC_CONTROL, vmx::CPU2_EPT)
        }),
    ];
    for (name, change) in rows {
        let ran = fresh(writes_twice, || {
            set_secondary(vmx::CPU2_PML);
            wr(f::PML_ADDRESS, log.page);
            change();
        });
        say!("pml.refused.{name}", "{ran}");
    }
}

/// The right of fetches from user-mode linear addresses.
const USER: u64 = 1 << 10;

/// Mode-based execute control: SDM 30.3.2, 30.3.3.
pub fn mode_based() {
    if !has_secondary(vmx::CPU2_MODE_BASED) {
        say!("modebased", "skip mode-based execute control");
        return;
    }
    vmx::guest();
    let ept = Ept::new();
    let last = peek(ept.middle) & !0xfff;
    for n in 0..512 {
        poke(last + 8 * n, peek(last + 8 * n) | USER);
    }
    for at in [ept.top, ept.middle, ept.middle + 8, ept.directory] {
        poke(at, peek(at) | USER);
    }
    // The guest's own tables: the window at LINEAR, as a user's page or the kernel's.
    let (pml4, pdpt, directory, table) = (page(), page(), page(), page());
    poke(pml4, peek(vmx::identity_cr3()));
    poke(pml4 + 8, pdpt | 7);
    poke(pdpt, directory | 7);
    poke(directory, table | 7);
    let run = |code: Code, guest_rights: u64, control: bool, is_user: bool| {
        poke(table, WINDOW | guest_rights);
        ept.invalidate();
        fresh(code, || {
            if control {
                set_secondary(vmx::CPU2_MODE_BASED);
            }
            wr(f::EPT_POINTER, ept.pointer);
            wr(f::GUEST_CR3, pml4);
            set_register(RSI, LINEAR);
            set_register(RAX, RETURN);
            if is_user {
                l2::user();
            }
        })
    };
    for control in [false, true] {
        for rights in 0..16 {
            // Bit 3 here is bit 10 there.
            let entry = rights & 7 | (rights >> 3) * USER;
            for (mode, guest_rights, is_user) in [
                ("kernel", 3, false),
                ("user-page", 7, false),
                ("user", 7, true),
            ] {
                for (name, code) in ACCESSES {
                    poke(ept.data, RETURN);
                    ept.map(0, ept.data | WB | entry);
                    let ran = run(*code, guest_rights, control, is_user);
                    ept::show(
                        format_args!("modebased.{control}.{rights:x}.{mode}.{name}"),
                        &ran,
                    );
                }
            }
        }
    }
    // Rights of entries above.
    ept.map(0, ept.data | WB | 7 | USER);
    poke(ept.data, RETURN);
    for rights in [7, 3 | USER, 3, USER, 7 | USER] {
        poke(ept.directory, ept.table | rights);
        for (mode, guest_rights) in [("kernel", 3), ("user-page", 7)] {
            let ran = run(ACCESSES[3].1, guest_rights, true, false);
            ept::show(format_args!("modebased.directory.{rights:x}.{mode}"), &ran);
        }
    }
    // A large page.
    poke(ept.directory, LARGE_HOST | WB | 0x83 | USER);
    poke(LARGE_HOST, RETURN);
    for (mode, guest_rights) in [("kernel", 3), ("user-page", 7)] {
        let ran = run(ACCESSES[3].1, guest_rights, true, false);
        ept::show(format_args!("modebased.large.{mode}"), &ran);
    }
    let ran = fresh(ACCESSES[0].1, || {
        set_secondary(vmx::CPU2_MODE_BASED);
        vmx::clear(f::SECONDARY_VM_EXEC_CONTROL, vmx::CPU2_EPT);
    });
    say!("modebased.without-ept", "{ran}");
}
