// SPDX-License-Identifier: GPL-2.0

//! Events: injected ones, their delivery and what interrupts it, windows,
//! interrupts and NMIs of the machine, traps, task switches.

use burrow_core::x86::vmx::field as f;

use crate::{
    cpu::{
        self,
        page, //
    },
    l2::{
        self,
        fresh,
        register,
        set_register,
        Ran,
        RAX,
        RCX, //
    },
    vmx::{
        self,
        clear,
        rd,
        set,
        set_secondary,
        wr, //
    },
};

type Code = unsafe extern "C" fn();

code! {
    end: "mov edi, 0x77", "vmcall";
    nops: "nop", "nop", "mov edi, 0x77", "vmcall";
    touch: "int 0x30";
    real_end: ".code16", "mov edi, 0x77", "vmcall";
    protected_end: ".code32", "mov edi, 0x77", "vmcall";
}

fn inject(info: u64, error: u64, length: u64) {
    wr(f::VM_ENTRY_INTR_INFO_FIELD, info);
    wr(f::VM_ENTRY_EXCEPTION_ERROR_CODE, error);
    wr(f::VM_ENTRY_INSTRUCTION_LEN, length);
}

/// Delivers something first, so that what a delivery touches is mapped everywhere
/// below us: an exit in the middle of a delivery shows faults of Bochs.
fn warm_up() {
    let _ = fresh(touch, || wr(f::EXCEPTION_BITMAP, 0));
    let _ = fresh(end, || {
        l2::user();
        wr(f::GUEST_RFLAGS, 0x202);
        inject(0x8000_0020, 0, 0);
    });
}

/// Every type of event.
pub fn injection() {
    warm_up();
    for (name, info, error, length) in [
        ("interrupt-20", 0x8000_0020_u64, 0u64, 0u64),
        ("interrupt-ff", 0x8000_00ff, 0, 0),
        ("interrupt-0e", 0x8000_000e, 0, 0),
        ("nmi", 0x8000_0202, 0, 0),
        ("de", 0x8000_0300, 0, 0),
        ("db", 0x8000_0301, 0, 0),
        ("bp-as-exception", 0x8000_0303, 0, 0),
        ("ud", 0x8000_0306, 0, 0),
        ("df", 0x8000_0b08, 0, 0),
        ("ts", 0x8000_0b0a, 0x38, 0),
        ("np", 0x8000_0b0b, 0x40, 0),
        ("ss", 0x8000_0b0c, 0, 0),
        ("gp", 0x8000_0b0d, 0xfff8, 0),
        ("pf", 0x8000_0b0e, 7, 0),
        ("ac", 0x8000_0b11, 0, 0),
        ("mc", 0x8000_0312, 0, 0),
        ("int-30", 0x8000_0430, 0, 2),
        ("int-30-length-0", 0x8000_0430, 0, 0),
        ("int-30-length-15", 0x8000_0430, 0, 15),
        ("int-80", 0x8000_0480, 0, 2),
        ("int1", 0x8000_0501, 0, 1),
        ("privileged-30", 0x8000_0530, 0, 1),
        ("int3", 0x8000_0603, 0, 1),
        ("into", 0x8000_0604, 0, 1),
    ] {
        for (state, flags, bitmap) in [
            ("plain", 0x202_u64, 0u64),
            ("bitmap", 0x202, 0xffff_ffff),
            ("rf", 0x1_0202, 0),
            ("nt-tf", 0x4302, 0),
        ] {
            let ran = fresh(end, || {
                wr(f::GUEST_RFLAGS, flags);
                wr(f::EXCEPTION_BITMAP, bitmap);
                inject(info, error, length);
            });
            say!("inject.{name}.{state}", "{ran}");
        }
        let ran = fresh(end, || {
            l2::user();
            wr(f::GUEST_RFLAGS, 0x202);
            inject(info, error, length);
        });
        say!(
            "inject.{name}.user",
            "{ran} field {:x}",
            rd(f::VM_ENTRY_INTR_INFO_FIELD)
        );
    }
    // Blocking that goes with the delivery, and that which stays.
    for (name, blocking, info) in [
        ("sti-exception", 1u64, 0x8000_0306_u64),
        ("mov-ss-exception", 2, 0x8000_0306),
        ("nmi-exception", 8, 0x8000_0306),
        ("sti-nmi", 1, 0x8000_0202),
    ] {
        let ran = fresh(end, || {
            wr(f::GUEST_RFLAGS, 0x202);
            wr(f::GUEST_INTERRUPTIBILITY_INFO, blocking);
            inject(info, 0, 0);
        });
        say!("inject.blocking.{name}", "{ran}");
    }
    // An EPT of its own has L0 find the IDT and the stack while it delivers.
    for (name, info, error, length) in [
        ("interrupt", 0x8000_0020_u64, 0u64, 0u64),
        ("nmi", 0x8000_0202, 0, 0),
        ("gp", 0x8000_0b0d, 0x18, 0),
        ("int", 0x8000_0430, 0, 2),
        ("int3", 0x8000_0603, 0, 1),
    ] {
        let ran = fresh(end, || {
            wr(f::EPT_POINTER, vmx::identity_ept());
            // RF, as Bochs sets it where an exit interrupts the delivery.
            wr(f::GUEST_RFLAGS, 0x1_0202);
            wr(f::EXCEPTION_BITMAP, 0);
            inject(info, error, length);
        });
        say!("inject.cold.{name}", "{ran}");
    }
}

/// Exceptions while an event is delivered.
pub fn vectoring() {
    warm_up();
    for (name, info, error, length) in [
        ("interrupt", 0x8000_0020_u64, 0u64, 0u64),
        ("nmi", 0x8000_0202, 0, 0),
        ("ud", 0x8000_0306, 0, 0),
        ("gp", 0x8000_0b0d, 0x18, 0),
        ("pf", 0x8000_0b0e, 4, 0),
        ("df", 0x8000_0b08, 0, 0),
        ("int", 0x8000_0430, 0, 2),
        ("int3", 0x8000_0603, 0, 1),
    ] {
        for (bitmap_name, bitmap) in [
            ("all", 0xffff_ffff_u64),
            ("none", 0),
            ("df", 1 << 8),
            ("not-gp", !(1u64 << 13) & 0xffff_ffff),
        ] {
            // No IDT: #GP with the index, and then #DF.
            let ran = fresh(end, || {
                wr(f::GUEST_RFLAGS, 0x202);
                wr(f::GUEST_IDTR_LIMIT, 0);
                wr(f::EXCEPTION_BITMAP, bitmap);
                inject(info, error, length);
            });
            say!("vectoring.{name}.no-idt.{bitmap_name}", "{ran}");
            // No stack: #PF.
            let ran = fresh(end, || {
                wr(f::GUEST_RFLAGS, 0x202);
                wr(f::GUEST_RSP, 0x12_3456_7000);
                wr(f::EXCEPTION_BITMAP, bitmap);
                inject(info, error, length);
            });
            say!("vectoring.{name}.no-stack.{bitmap_name}", "{ran}");
        }
    }
    // The same for an instruction of the guest itself.
    code! { int_30: "int 0x30"; undefined: "ud2"; }
    for (name, code) in [("own-int", int_30 as Code), ("own-ud", undefined)] {
        for (bitmap_name, bitmap) in [("gp", 1u64 << 13), ("none", 0), ("df", 1 << 8)] {
            let ran = fresh(code, || {
                wr(f::GUEST_IDTR_LIMIT, 0);
                wr(f::EXCEPTION_BITMAP, bitmap);
            });
            say!("vectoring.{name}.{bitmap_name}", "{ran}");
        }
    }
}

/// Guests of other modes run.
pub fn modes() {
    code! {
        real_cpuid: ".code16", "cpuid";
        real_int: ".code16", "int 0x21";
        real_far: ".code16", "mov eax, cr0", "or eax, 1", "mov cr0, eax", "mov edi, 0x77", "vmcall";
        real_io: ".code16", "out 0x80, al", "mov edi, 0x77", "vmcall";
        protected_cpuid: ".code32", "cpuid";
        protected_paging: ".code32", "mov eax, cr0", "btc eax, 31", "mov cr0, eax", "mov edi, 0x77", "vmcall";
        pae_reload: ".code32", "mov eax, cr3", "mov cr3, eax", "mov edi, 0x77", "vmcall";
        pae_bad: ".code32", "mov cr3, eax", "mov edi, 0x77", "vmcall";
        compatible_end: ".code32", "mov edi, 0x77", "vmcall";
        leave_long: "mov rax, cr0", "btc rax, 31", "mov cr0, rax", "mov edi, 0x77", "vmcall";
    }
    say!("modes.real", "{}", fresh(real_end, l2::real));
    say!("modes.real-cpuid", "{}", fresh(real_cpuid, l2::real));
    say!(
        "modes.real-io",
        "{}",
        fresh(real_io, || {
            l2::real();
            set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_IO);
        })
    );
    let ran = fresh(real_far, l2::real);
    say!(
        "modes.real-to-protected",
        "{ran} cr0 {:x}",
        rd(f::GUEST_CR0) & 0xffff_ffff
    );
    // All vectors lead to 0800:0000, where a VMCALL is.
    let table = page();
    for n in 0..256 {
        cpu::poke32(table + 4 * n, 0x0800_0000);
    }
    cpu::poke(0x8000, 0x010f_0000_0078_bf66);
    cpu::poke8(0x8008, 0xc1);
    let with_table = || {
        l2::real();
        wr(f::GUEST_RFLAGS, 0x202);
        wr(f::GUEST_IDTR_BASE, table);
        wr(f::GUEST_IDTR_LIMIT, 0x3ff);
    };
    let show = |name: &str, ran: Ran| {
        let (rsp, at_handler) = (rd(f::GUEST_RSP), rd(f::GUEST_CS_SELECTOR) == 0x800);
        let frame = cpu::peek(l2::stack() - 0x1000 + rsp) & 0xffff_ffff_ffff;
        if ran.is(18) {
            say!(
                "modes.real-{name}",
                "handler {at_handler} rsp {rsp:x} frame {frame:x} flags {:x}",
                rd(f::GUEST_RFLAGS)
            );
        } else {
            say!("modes.real-{name}", "{ran}");
        }
    };
    say!(
        "modes.real-int-no-table",
        "{}",
        fresh(real_int, || {
            with_table();
            wr(f::GUEST_IDTR_LIMIT, 0);
        })
    );
    show("int", fresh(real_int, with_table));
    for (name, info, length) in [
        ("inject-int", 0x8000_0421_u64, 2u64),
        ("inject-interrupt", 0x8000_0021, 0),
        ("inject-nmi", 0x8000_0202, 0),
        ("inject-ud", 0x8000_0306, 0),
        ("inject-int3", 0x8000_0603, 1),
    ] {
        show(
            name,
            fresh(real_end, || {
                with_table();
                inject(info, 0, length);
            }),
        );
    }
    for (name, kind) in [("error-code", 0x8000_0b0d_u64), ("exception", 0x8000_030d)] {
        say!(
            "modes.real-inject-{name}",
            "{}",
            fresh(real_end, || {
                with_table();
                wr(f::GUEST_IDTR_LIMIT, 0);
                inject(kind, 0, 0);
            })
        );
    }
    say!("modes.protected", "{}", fresh(protected_end, l2::protected));
    say!(
        "modes.protected-cpuid",
        "{}",
        fresh(protected_cpuid, l2::protected)
    );
    let ran = fresh(protected_paging, l2::protected);
    say!(
        "modes.protected-paging-off",
        "{ran} cr0 {:x}",
        rd(f::GUEST_CR0) & 0xffff_ffff
    );
    let ran = fresh(protected_paging, || {
        l2::protected();
        set_secondary(vmx::CPU2_UNRESTRICTED);
    });
    say!(
        "modes.protected-paging-off-urg",
        "{ran} cr0 {:x}",
        rd(f::GUEST_CR0) & 0xffff_ffff
    );
    let ran = fresh(protected_paging, || {
        l2::protected();
        set_secondary(vmx::CPU2_UNRESTRICTED);
        wr(f::GUEST_CR0, cpu::cr0() & !(1 << 31));
    });
    say!(
        "modes.protected-paging-on",
        "{ran} cr0 {:x}",
        rd(f::GUEST_CR0) & 0xffff_ffff
    );
    say!("modes.pae", "{}", fresh(protected_end, l2::pae));
    // The table's entries are loaded by MOV to CR3.
    let ran = fresh(pae_reload, || {
        l2::pae();
        clear(
            f::CPU_BASED_VM_EXEC_CONTROL,
            vmx::CPU_CR3_LOAD | vmx::CPU_CR3_STORE,
        );
        wr(f::GUEST_PDPTR2, 0);
    });
    say!(
        "modes.pae-reload",
        "{ran} {}",
        rd(f::GUEST_PDPTR2) == cpu::peek(rd(f::GUEST_CR3) + 16)
    );
    let bad = page();
    cpu::poke(bad, 3);
    let ran = fresh(pae_bad, || {
        l2::pae();
        clear(
            f::CPU_BASED_VM_EXEC_CONTROL,
            vmx::CPU_CR3_LOAD | vmx::CPU_CR3_STORE,
        );
        set_register(RAX, bad);
    });
    say!("modes.pae-bad", "{ran}");
    let ran = fresh(protected_end, || {
        l2::pae();
        wr(f::GUEST_PDPTR0, 0);
    });
    say!(
        "modes.pae-absent",
        "exit {} {:x}",
        ran.is(0),
        rd(f::VM_EXIT_INTR_INFO)
    );
    say!(
        "modes.compatible",
        "{}",
        fresh(compatible_end, || {
            wr(f::GUEST_CS_SELECTOR, u64::from(cpu::CODE32));
            wr(f::GUEST_CS_AR_BYTES, 0xc09b);
        })
    );
    let ran = fresh(leave_long, || set_secondary(vmx::CPU2_UNRESTRICTED));
    say!(
        "modes.leave-long",
        "{ran} cr0 {:x} efer {:x} ia32e {}",
        rd(f::GUEST_CR0) & 0xffff_ffff,
        rd(f::GUEST_IA32_EFER),
        rd(f::VM_ENTRY_CONTROLS) >> 9 & 1
    );
    // Without EPT: the guest's page tables are ours.
    for (name, code, prepare) in [
        ("long", end as Code, (|| {}) as fn()),
        ("protected", protected_end, l2::protected),
        ("pae", protected_end, l2::pae),
    ] {
        let ran = fresh(code, || {
            prepare();
            clear(f::SECONDARY_VM_EXEC_CONTROL, vmx::CPU2_EPT);
        });
        say!("modes.no-ept.{name}", "{ran}");
    }
}

/// Interrupt-window exiting.
pub fn windows() {
    warm_up();
    code! {
        opens: "nop", "sti", "nop", "nop", "mov edi, 0x77", "vmcall";
        opens_by_popf: "push 0x202", "popfq", "nop", "nop", "mov edi, 0x77", "vmcall";
        blocks: "sti", "mov eax, ss", "mov ss, eax", "nop", "nop", "mov edi, 0x77", "vmcall";
        halts: "sti", "hlt", "nop", "mov edi, 0x77", "vmcall";
    }
    let window = || set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_INTERRUPT_WINDOW);
    for (name, code) in [
        ("opens", opens as Code),
        ("popf", opens_by_popf),
        ("blocks", blocks),
    ] {
        say!("window.{name}", "{}", fresh(code, window));
    }
    for (name, flags, blocking) in [
        ("open", 0x202_u64, 0u64),
        ("sti", 0x202, 1),
        ("mov-ss", 0x202, 2),
        ("nmi", 0x202, 8),
        ("closed", 2, 0),
    ] {
        say!(
            "window.at-entry.{name}",
            "{}",
            fresh(nops, || {
                window();
                wr(f::GUEST_RFLAGS, flags);
                wr(f::GUEST_INTERRUPTIBILITY_INFO, blocking);
            })
        );
    }
    // An event that is injected is delivered first.
    say!(
        "window.injected",
        "{}",
        fresh(end, || {
            window();
            wr(f::GUEST_RFLAGS, 0x202);
            inject(0x8000_0306, 0, 0);
        })
    );
    say!(
        "window.hlt-exiting",
        "{}",
        fresh(halts, || {
            window();
            set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_HLT);
        })
    );
}

/// What sends an NMI to APIC 0, written to the ICR of an x2APIC: a shorthand would be for fixed interrupts alone.
const SEND_NMI: u64 = 0x4400;

/// NMIs: of the machine, virtual ones, and blocking by IRET.
pub fn nmis() {
    warm_up();
    code! {
        sends: "mov ecx, 0x830", "xor edx, edx", "wrmsr", "nop", "nop", "mov edi, 0x77", "vmcall";
        returns: "push 0x10", "lea rax, [rsp + 8]", "push rax", "pushfq", "push 0x08", "lea rax, [rip + 2f]", "push rax",
                 "iretq", "2: nop", "nop", "mov edi, 0x77", "vmcall";
        returns_badly: "push 0", "push 0", "push 2", "push 0x50", "push 0", "iretq";
    }
    let bitmap = page();
    let direct = || {
        set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MSR_BITMAPS);
        wr(f::MSR_BITMAP, bitmap);
        set_register(RAX, SEND_NMI);
    };
    // Virtual NMIs and their window first.
    let virtual_nmis = || {
        set(
            f::PIN_BASED_VM_EXEC_CONTROL,
            vmx::PIN_NMI | vmx::PIN_VIRTUAL_NMIS,
        )
    };
    let window = || {
        virtual_nmis();
        set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_NMI_WINDOW);
    };
    for (name, blocking) in [("open", 0u64), ("blocked", 8), ("mov-ss", 2), ("sti", 1)] {
        say!(
            "nmi.window.{name}",
            "{}",
            fresh(nops, || {
                window();
                wr(f::GUEST_RFLAGS, 0x202);
                wr(f::GUEST_INTERRUPTIBILITY_INFO, blocking);
            })
        );
    }
    say!(
        "nmi.window.iret",
        "{}",
        fresh(returns, || {
            window();
            wr(f::GUEST_INTERRUPTIBILITY_INFO, 8);
        })
    );
    say!(
        "nmi.iret-unblocks",
        "{}",
        fresh(returns, || {
            virtual_nmis();
            wr(f::GUEST_INTERRUPTIBILITY_INFO, 8);
        })
    );
    say!(
        "nmi.iret-keeps",
        "{}",
        fresh(returns, || wr(f::GUEST_INTERRUPTIBILITY_INFO, 8))
    );
    let ran = fresh(returns_badly, || {
        virtual_nmis();
        wr(f::GUEST_INTERRUPTIBILITY_INFO, 8);
    });
    say!("nmi.iret-faults", "{ran}");
    say!(
        "nmi.injected-blocks",
        "{}",
        fresh(end, || {
            virtual_nmis();
            inject(0x8000_0202, 0, 0);
        })
    );
    // A real one.
    let _ = cpu::take_interrupts(2);
    say!(
        "nmi.exits",
        "{}",
        fresh(sends, || {
            direct();
            set(f::PIN_BASED_VM_EXEC_CONTROL, vmx::PIN_NMI);
        })
    );
    say!("nmi.exits-count", "{}", cpu::take_interrupts(2));
    // NMIs are blocked in the host until it executes IRET.
    iret();
    say!("nmi.delivered", "{}", fresh(sends, direct));
    iret();
    say!("nmi.delivered-count", "{}", cpu::take_interrupts(2));
    // From a stack that nobody has touched: what is mapped late must not unblock early.
    let cold = page();
    code! { returns_cold: "iretq", "nop", "mov edi, 0x77", "vmcall"; }
    for (n, word) in [
        l2::at(returns_cold) + 2,
        u64::from(cpu::CODE),
        2,
        l2::stack(),
        u64::from(cpu::DATA),
    ]
    .into_iter()
    .enumerate()
    {
        cpu::poke(cold + 8 * n as u64, word);
    }
    say!(
        "nmi.window.iret-cold",
        "{}",
        fresh(returns_cold, || {
            window();
            wr(f::GUEST_INTERRUPTIBILITY_INFO, 8);
            // By an EPT that was not there before, so that L0 has mapped nothing.
            let (eptp, at) = (vmx::identity_ept(), 0x3000_0000);
            let directory = cpu::peek(cpu::peek(eptp & !0xfff) & !0xfff) & !0xfff;
            cpu::poke(directory + 8 * (at >> 21), cold & !0x1f_ffff | 0xb7);
            wr(f::EPT_POINTER, eptp);
            wr(f::GUEST_RSP, at | cold & 0x1f_ffff);
        })
    );
}

/// Ends blocking of NMIs.
fn iret() {
    code! { iret_here: "mov r8, rsp", "push 0x10", "push r8", "pushfq", "push 0x08", "lea r8, [rip + 3f]", "push r8", "iretq", "3: ret"; }
    let _ = cpu::Trial::new(iret_here).run();
}

/// External interrupts, acknowledged on exit and not.
pub fn external() {
    warm_up();
    for (name, acknowledge) in [("kept", false), ("acknowledged", true)] {
        let _ = cpu::take_interrupts(0x55);
        let ran = fresh(nops, || {
            set(f::PIN_BASED_VM_EXEC_CONTROL, vmx::PIN_EXTERNAL);
            if acknowledge {
                set(f::VM_EXIT_CONTROLS, vmx::EXIT_ACKNOWLEDGE);
            }
            wr(f::GUEST_RFLAGS, 0x202);
            cpu::self_ipi(0x55);
        });
        say!("external.{name}", "{ran}");
        cpu::open_window();
        say!("external.{name}-then", "{}", cpu::take_interrupts(0x55));
        if acknowledge {
            // End of interrupt.
            cpu::wrmsr(0x80b, 0);
        }
        // Blocked by STI: an exit all the same, as the exit is not a delivery.
        let ran = fresh(nops, || {
            set(f::PIN_BASED_VM_EXEC_CONTROL, vmx::PIN_EXTERNAL);
            wr(f::GUEST_RFLAGS, 0x202);
            wr(f::GUEST_INTERRUPTIBILITY_INFO, 1);
            cpu::self_ipi(0x56);
        });
        say!("external.{name}-sti", "exits {}", ran.is(1));
        cpu::open_window();
        let _ = cpu::take_interrupts(0x56);
    }
    // Not exiting: the guest's own IDT delivers it.
    let ran = fresh(nops, || {
        wr(f::GUEST_RFLAGS, 0x202);
        cpu::self_ipi(0x57);
    });
    say!("external.delivered", "{ran}");
    cpu::wrmsr(0x80b, 0);
    let ran = fresh(nops, || cpu::self_ipi(0x58));
    say!("external.masked", "{ran}");
    cpu::open_window();
    say!("external.masked-then", "{}", cpu::take_interrupts(0x58));
    // An injected event comes first.
    let ran = fresh(end, || {
        set(f::PIN_BASED_VM_EXEC_CONTROL, vmx::PIN_EXTERNAL);
        wr(f::GUEST_RFLAGS, 0x202);
        inject(0x8000_0306, 0, 0);
        cpu::self_ipi(0x59);
    });
    say!(
        "external.after-injection",
        "{} {}",
        ran.is(1),
        ran.exit().is_some_and(|exit| exit.rip != l2::at(end))
    );
    cpu::open_window();
    let _ = cpu::take_interrupts(0x59);
}

/// The monitor trap flag.
pub fn monitor_trap() {
    code! {
        faults: "ud2";
        exits: "cpuid";
        reads_msr: "rdmsr", "nop", "nop", "mov edi, 0x77", "vmcall";
        moves_ss: "mov eax, ss", "mov ss, eax", "nop", "mov edi, 0x77", "vmcall";
        repeats: "mov ecx, 3", "cld", "mov rdi, rsi", "rep stosb", "mov edi, 0x77", "vmcall";
    }
    let mtf = || set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MTF);
    for (name, code) in [("nop", nops as Code), ("ud2", faults), ("cpuid", exits)] {
        say!("mtf.{name}", "{}", fresh(code, mtf));
    }
    // An MSR that L1 lets through.
    let bitmap = page();
    for (name, flags) in [("rdmsr", 2), ("rdmsr-tf", 0x102)] {
        let ran = fresh(reads_msr, || {
            mtf();
            wr(f::GUEST_RFLAGS, flags);
            set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MSR_BITMAPS);
            wr(f::MSR_BITMAP, bitmap);
            set_register(RCX, 0x1b);
        });
        let pending = rd(f::GUEST_PENDING_DBG_EXCEPTIONS);
        say!("mtf.{name}", "{ran} pending {pending:x}");
    }
    let mut ran = fresh(moves_ss, mtf);
    for step in 1..4 {
        say!("mtf.mov-ss.{step}", "{ran}");
        ran = l2::go();
    }
    let target = page();
    let mut ran = fresh(repeats, || {
        mtf();
        set_register(l2::RSI, target);
    });
    for step in 1..7 {
        say!("mtf.rep.{step}", "{ran} rcx {:x}", register(RCX));
        ran = l2::go();
    }
    for (name, info, length) in [
        ("ud", 0x8000_0306_u64, 0u64),
        ("interrupt", 0x8000_0020, 0),
        ("int", 0x8000_0430, 2),
    ] {
        let ran = fresh(nops, || {
            mtf();
            wr(f::GUEST_RFLAGS, 0x202);
            inject(info, 0, length);
        });
        // Before the first instruction of the handler.
        let inside = rd(f::GUEST_RSP) < l2::stack();
        say!("mtf.inject-{name}", "{ran} delivered {inside}");
    }
    // With the single-step trap.
    say!(
        "mtf.tf",
        "{}",
        fresh(nops, || {
            mtf();
            wr(f::GUEST_RFLAGS, 0x102);
        })
    );
    say!(
        "mtf.tf-pending",
        "{:x}",
        rd(f::GUEST_PENDING_DBG_EXCEPTIONS)
    );
    // A pending MTF exit, injected.
    say!(
        "mtf.pending",
        "{}",
        fresh(nops, || {
            mtf();
            inject(0x8000_0700, 0, 0);
        })
    );
    say!(
        "mtf.pending-alone",
        "{}",
        fresh(nops, || inject(0x8000_0700, 0, 0))
    );
    say!(
        "mtf.window",
        "{}",
        fresh(nops, || {
            mtf();
            set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_INTERRUPT_WINDOW);
            wr(f::GUEST_RFLAGS, 0x202);
            wr(f::GUEST_INTERRUPTIBILITY_INFO, 1);
        })
    );
}

/// Debug exceptions: single steps, pending ones, breakpoints.
pub fn debug_exceptions() {
    warm_up();
    code! {
        reads: "mov rax, [rsi]", "nop", "mov edi, 0x77", "vmcall";
        exits_stepping: "cpuid", "nop", "mov edi, 0x77", "vmcall";
        blocked_read: "mov eax, ss", "mov ss, eax", "mov rax, [rsi]", "mov edi, 0x77", "vmcall";
    }
    for (name, flags, blocking, pending) in [
        ("tf", 0x102_u64, 0u64, 0u64),
        ("tf-rf", 0x1_0102, 0, 0),
        ("tf-sti", 0x302, 1, 0x4000),
        ("tf-mov-ss", 0x102, 2, 0x4000),
        ("pending-bs", 2, 0, 0x4000),
        ("pending-b0", 2, 0, 1),
        ("pending-b0-enabled", 2, 0, 0x1001),
        ("pending-b3-b1-enabled", 2, 0, 0x100a),
        ("pending-enabled-alone", 2, 0, 0x1000),
        ("pending-bs-b2", 0x102, 0, 0x5004),
        ("pending-mov-ss", 2, 2, 0x1001),
    ] {
        for (bitmap_name, bitmap) in [("exit", 0xffff_ffff_u64), ("delivered", 0)] {
            cpu::set_dr6(0xffff_0ff0);
            let ran = fresh(nops, || {
                wr(f::GUEST_RFLAGS, flags);
                wr(f::GUEST_INTERRUPTIBILITY_INFO, blocking);
                wr(f::GUEST_PENDING_DBG_EXCEPTIONS, pending);
                wr(f::EXCEPTION_BITMAP, bitmap);
            });
            say!("debug.{name}.{bitmap_name}", "{ran} dr6 {:x}", cpu::dr6());
        }
    }
    // Data and instruction breakpoints.
    let data = page();
    for (name, code, dr0, dr7) in [
        ("data", reads as Code, data, 0x0003_0402_u64),
        ("data-other", reads, data + 8, 0x0003_0402),
        ("data-blocked", blocked_read, data, 0x0003_0402),
        ("instruction", nops, l2::at(nops) + 1, 0x402),
        ("instruction-first", nops, l2::at(nops), 0x402),
    ] {
        for (bitmap_name, bitmap) in [("exit", 0xffff_ffff_u64), ("delivered", 0)] {
            cpu::set_dr6(0xffff_0ff0);
            cpu::set_dr0(dr0);
            let ran = fresh(code, || {
                set_register(l2::RSI, data);
                set(f::VM_ENTRY_CONTROLS, vmx::ENTRY_LOAD_DEBUG);
                wr(f::GUEST_DR7, dr7);
                wr(f::EXCEPTION_BITMAP, bitmap);
            });
            say!(
                "debug.{name}.{bitmap_name}",
                "{ran} dr6 {:x} dr7 {:x}",
                cpu::dr6(),
                cpu::dr7()
            );
        }
    }
    cpu::set_dr0(0);
    // A trap that meets an exit: it stays pending after the instruction that the host steps over.
    let ran = fresh(exits_stepping, || wr(f::GUEST_RFLAGS, 0x102));
    say!(
        "debug.cpuid",
        "{ran} pending {:x}",
        rd(f::GUEST_PENDING_DBG_EXCEPTIONS)
    );
    cpu::set_dr6(0xffff_0ff0);
}

/// Task switches exit.
pub fn task_switches() {
    code! {
        jumps: ".code32", ".byte 0xea", ".long 0", ".word 0x58", "vmcall";
        calls: ".code32", ".byte 0x9a", ".long 0", ".word 0x58", "vmcall";
        interrupts: ".code32", "int 0x31", "vmcall";
        returns_task: ".code32", "pushfd", "or dword ptr [esp], 0x4000", "popfd", "iretd", "vmcall";
        not_tss: ".code32", ".byte 0xea", ".long 0", ".word 0x60", "vmcall";
    }
    let base = cpu::tss();
    let available = (base & 0xff_ffff) << 16 | (base >> 24 & 0xff) << 56 | 0x8900 << 32 | 0x67;
    let table = page();
    for n in 0..16 {
        cpu::poke(table + 8 * n, cpu::peek(cpu::gdt() + 8 * n));
    }
    cpu::poke(table + 0x58, available);
    // A segment that is not present.
    cpu::poke(table + 0x60, available & !(0x8000 << 32));
    let idt = page();
    // A task gate for vectors 31H and 3.
    for vector in [0x31, 3] {
        cpu::poke(idt + 8 * vector, 0x58 << 16 | 0x8500 << 32);
    }
    let prepare = || {
        l2::protected();
        wr(f::GUEST_GDTR_BASE, table);
        wr(f::GUEST_IDTR_BASE, idt);
        wr(f::GUEST_IDTR_LIMIT, 0x7ff);
    };
    for (name, code) in [
        ("jmp", jumps as Code),
        ("call", calls),
        ("int", interrupts),
        ("iret", returns_task),
        ("not-present", not_tss),
    ] {
        say!("task.{name}", "{}", fresh(code, prepare));
    }
    for (name, info, error, length) in [
        ("interrupt", 0x8000_0031_u64, 0u64, 0u64),
        ("int", 0x8000_0431, 0, 2),
        ("int3", 0x8000_0603, 0, 1),
        ("bp", 0x8000_0303, 0, 0),
    ] {
        let ran: Ran = fresh(protected_end, || {
            prepare();
            wr(f::GUEST_RFLAGS, 0x202);
            inject(info, error, length);
        });
        say!("task.inject-{name}", "{ran}");
    }
}

/// INIT, which VMX root operation blocks and which is an exit of the guest; SIPI, which is lost
/// there.
pub fn init_signals() {
    code! {
        sends_init: "wrmsr", "nop", "nop", "mov edi, 0x77", "vmcall";
    }
    const INIT: u64 = 0x4500;
    const SIPI: u64 = 0x4600;
    vmx::guest();
    // From the guest to its own processor.
    let bitmap = page();
    let send = |flags: u64| {
        fresh(sends_init, || {
            wr(f::GUEST_RFLAGS, flags);
            set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MSR_BITMAPS);
            wr(f::MSR_BITMAP, bitmap);
            set_register(RCX, 0x830);
            set_register(RAX, INIT);
        })
    };
    say!("init.exits", "{}", send(2));
    say!("init.then", "{}", l2::go());
    let ran = send(0x102);
    let pending = rd(f::GUEST_PENDING_DBG_EXCEPTIONS);
    say!("init.single-step", "{ran} pending {pending:x}");
    let own = cpu::rdmsr(0x802) << 32;
    cpu::wrmsr(0x830, own | INIT);
    say!("init.blocked", "{}", fresh(nops, || {}));
    say!("init.gone", "{}", fresh(nops, || {}));
    cpu::wrmsr(0x830, own | SIPI);
    say!("init.sipi", "{}", fresh(nops, || {}));
}
