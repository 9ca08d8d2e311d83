// SPDX-License-Identifier: GPL-2.0

//! What entry and exit load and save besides: lists of MSRs, PAT and EFER, the
//! time-stamp counter; the virtual APIC page; the VMX-preemption timer.

use burrow_core::x86::vmx::field as f;

use crate::{
    cpu::{
        self,
        page,
        peek32,
        poke,
        rdmsr,
        wrmsr, //
    },
    l2::{
        self,
        fresh,
        register,
        set_register,
        RAX,
        RCX,
        RDX,
        RSI, //
    },
    vmx::{
        self,
        clear,
        has_secondary,
        may_set,
        rd,
        set,
        set_secondary,
        wr, //
    },
};

type Code = unsafe extern "C" fn();

code! {
    end: "mov edi, 0x77", "vmcall";
    spins: "2: pause", "jmp 2b";
    read_msr: "rdmsr", "mov edi, 0x77", "vmcall";
    write_msr: "wrmsr", "mov edi, 0x77", "vmcall";
    read_tsc: "rdtsc", "mov edi, 0x77", "vmcall";
    read_tsc_msr: "mov ecx, 0x10", "rdmsr", "mov edi, 0x77", "vmcall";
    halts: "hlt", "mov edi, 0x77", "vmcall";
    set_tpr: "mov cr8, rax", "mov rdx, cr8", "mov edi, 0x77", "vmcall";
    read_apic: "mov eax, [rsi]", "mov edi, 0x77", "vmcall";
    write_apic: "mov [rsi], eax", "mov edi, 0x77", "vmcall";
}

const KERNEL_GS: u32 = 0xc000_0102;
const CSTAR: u32 = 0xc000_0083;

/// A list of (index, value).
fn list(entries: &[(u64, u64)]) -> u64 {
    let list = page();
    for (n, (index, value)) in (0..).zip(entries) {
        poke(list + 16 * n, *index);
        poke(list + 16 * n + 8, *value);
    }
    list
}

fn load_at_entry(entries: &[(u64, u64)]) {
    wr(f::VM_ENTRY_MSR_LOAD_ADDR, list(entries));
    wr(f::VM_ENTRY_MSR_LOAD_COUNT, entries.len() as u64);
}

/// No RDMSR and WRMSR exits.
fn pass_msrs() {
    set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MSR_BITMAPS);
    wr(f::MSR_BITMAP, page());
}

/// Lists of MSRs.
pub fn msr_lists() {
    let good = (u64::from(KERNEL_GS), 0x1234_5678_9abc);
    vmx::guest();
    for (name, entry) in [
        ("good", good),
        ("fs-base", (0xc000_0100, 0)),
        ("gs-base", (0xc000_0101, 0)),
        ("x2apic", (0x808, 0)),
        ("x2apic-last", (0x8ff, 0)),
        ("smm", (0x9b, 0)),
        ("reserved", (1 << 32 | u64::from(KERNEL_GS), 0)),
        ("not-canonical", (u64::from(KERNEL_GS), 1 << 63)),
        ("read-only", (0x480, 0)),
        ("efer-lma", (0xc000_0080, 0)),
    ] {
        wrmsr(KERNEL_GS, 0);
        let ran = fresh(end, || load_at_entry(&[entry]));
        say!("lists.entry.{name}", "{ran}");
        let ran = fresh(end, || load_at_entry(&[good, entry, entry]));
        say!(
            "lists.entry.second-{name}",
            "{ran} loaded {}",
            rdmsr(KERNEL_GS) == good.1
        );
    }
    let ran = fresh(read_msr, || {
        pass_msrs();
        load_at_entry(&[good]);
        set_register(RCX, u64::from(KERNEL_GS));
    });
    say!(
        "lists.entry.seen",
        "{ran} {:x} {:x}",
        register(RAX),
        register(RDX)
    );
    // Stored and loaded at the exit.
    let store = list(&[(u64::from(KERNEL_GS), 1), (u64::from(CSTAR), 1)]);
    let ran = fresh(write_msr, || {
        pass_msrs();
        wrmsr(CSTAR, 0x55);
        wr(f::VM_EXIT_MSR_STORE_ADDR, store);
        wr(f::VM_EXIT_MSR_STORE_COUNT, 2);
        wr(
            f::VM_EXIT_MSR_LOAD_ADDR,
            list(&[(u64::from(KERNEL_GS), 0x77), (u64::from(CSTAR), 0x88)]),
        );
        wr(f::VM_EXIT_MSR_LOAD_COUNT, 2);
        set_register(RCX, u64::from(KERNEL_GS));
        set_register(RAX, 0x66);
    });
    say!(
        "lists.exit",
        "{ran} stored {:x} {:x} index {:x} host {:x} {:x}",
        cpu::peek(store + 8),
        cpu::peek(store + 24),
        cpu::peek(store),
        rdmsr(KERNEL_GS),
        rdmsr(CSTAR)
    );
    // A refused entry loads the host's list, and stores nothing.
    poke(store + 8, 1);
    wrmsr(KERNEL_GS, 5);
    let ran = fresh(end, || {
        wr(f::VM_EXIT_MSR_STORE_ADDR, store);
        wr(f::VM_EXIT_MSR_STORE_COUNT, 2);
        wr(
            f::VM_EXIT_MSR_LOAD_ADDR,
            list(&[(u64::from(KERNEL_GS), 0x99)]),
        );
        wr(f::VM_EXIT_MSR_LOAD_COUNT, 1);
        wr(f::GUEST_RFLAGS, 0);
    });
    say!(
        "lists.refused",
        "{ran} stored {:x} host {:x}",
        cpu::peek(store + 8),
        rdmsr(KERNEL_GS)
    );
    wrmsr(KERNEL_GS, 0);
    wrmsr(CSTAR, 0);
}

/// PAT and EFER, each with its controls.
pub fn pat_and_efer() {
    const PAT: u64 = 0x277;
    for controls in 0..8 {
        let [load, save, host] = [0, 1, 2].map(|bit| controls >> bit & 1 != 0);
        let before = rdmsr(PAT as u32);
        let ran = fresh(write_msr, || {
            pass_msrs();
            let or = |is_on: bool, bit: u32| if is_on { bit } else { 0 };
            set(f::VM_ENTRY_CONTROLS, or(load, vmx::ENTRY_LOAD_PAT));
            set(
                f::VM_EXIT_CONTROLS,
                or(save, vmx::EXIT_SAVE_PAT) | or(host, vmx::EXIT_LOAD_PAT),
            );
            wr(f::GUEST_IA32_PAT, vmx::PAT | 1);
            wr(f::HOST_IA32_PAT, vmx::PAT | 1 << 8);
            set_register(RCX, PAT);
            set_register(RAX, 0x0007_0406);
            set_register(RDX, 0x0107_0406);
        });
        say!(
            "pat.written.{controls}",
            "{ran} field {:x} host {:x}",
            rd(f::GUEST_IA32_PAT),
            rdmsr(PAT as u32)
        );
        wrmsr(PAT as u32, before);
        let ran = fresh(read_msr, || {
            pass_msrs();
            set(
                f::VM_ENTRY_CONTROLS,
                if load { vmx::ENTRY_LOAD_PAT } else { 0 },
            );
            wr(f::GUEST_IA32_PAT, vmx::PAT | 1);
            set_register(RCX, PAT);
        });
        say!(
            "pat.read.{controls}",
            "{ran} {:x}{:08x}",
            register(RDX),
            register(RAX)
        );
        wrmsr(PAT as u32, before);
    }
    for (name, load, guest) in [
        ("loaded", true, vmx::EFER_LONG | 0x801),
        ("kept", false, 0x801),
    ] {
        let ran = fresh(read_msr, || {
            pass_msrs();
            if !load {
                clear(f::VM_ENTRY_CONTROLS, vmx::ENTRY_LOAD_EFER);
            }
            wr(f::GUEST_IA32_EFER, guest);
            set_register(RCX, 0xc000_0080);
        });
        say!(
            "pat.efer-{name}",
            "{ran} {:x} field {:x} host {:x}",
            register(RAX),
            rd(f::GUEST_IA32_EFER),
            rdmsr(0xc000_0080)
        );
    }
}

/// The time-stamp counter: offset and multiplier.
pub fn tsc() {
    for (name, code) in [("rdtsc", read_tsc as Code), ("msr", read_tsc_msr)] {
        for (kind, offset, multiplier) in [
            ("plain", 0u64, 1u64 << 48),
            ("offset", 1 << 60, 1 << 48),
            ("minus", 0u64.wrapping_sub(1 << 50), 1 << 48),
            ("twice", 0, 2 << 48),
            ("half-offset", 1 << 59, 1 << 47),
        ] {
            if multiplier != 1 << 48 && !has_secondary(vmx::CPU2_TSC_SCALING) {
                continue;
            }
            let scale = |value: u64| ((u128::from(value) * u128::from(multiplier)) >> 48) as u64;
            vmx::guest();
            let before = scale(now());
            let ran = fresh(code, || {
                pass_msrs();
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_TSC_OFFSETTING);
                wr(f::TSC_OFFSET, offset);
                if multiplier != 1 << 48 {
                    set_secondary(vmx::CPU2_TSC_SCALING);
                    wr(f::TSC_MULTIPLIER, multiplier);
                }
            });
            let value = (register(RDX) << 32 | register(RAX) & 0xffff_ffff).wrapping_sub(offset);
            say!(
                "tsc.{name}.{kind}",
                "{ran} within {}",
                before <= value && value <= scale(now())
            );
        }
    }
    // Without the control the fields do not matter.
    let before = now();
    let ran = fresh(read_tsc, || wr(f::TSC_OFFSET, 1 << 60));
    let value = register(RDX) << 32 | register(RAX) & 0xffff_ffff;
    say!(
        "tsc.off",
        "{ran} within {}",
        before <= value && value <= now()
    );
}

fn now() -> u64 {
    rdmsr(0x10)
}

/// The virtual APIC page: TPR shadow, threshold, accesses.
pub fn apic() {
    vmx::guest();
    let apic = page();
    let shadow = |threshold: u64, tpr: u64| {
        set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_TPR_SHADOW);
        poke(apic + 0x80, tpr);
        wr(f::VIRTUAL_APIC_PAGE_ADDR, apic);
        wr(f::TPR_THRESHOLD, threshold);
    };
    for (name, threshold, tpr, value) in [
        ("none", 0, 0, 5),
        ("above", 3, 0x50, 4),
        ("equal", 3, 0x50, 3),
        ("below", 3, 0x50, 2),
        ("to-0", 3, 0x50, 0),
        ("reserved", 0, 0, 0x10),
    ] {
        let ran = fresh(set_tpr, || {
            shadow(threshold, tpr);
            set_register(RAX, value);
        });
        say!(
            "apic.cr8.{name}",
            "{ran} page {:x} sees {:x} own {:x}",
            peek32(apic + 0x80),
            register(RDX),
            cpu::cr8()
        );
    }
    let ran = fresh(set_tpr, || {
        shadow(0, 0);
        set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_CR8_LOAD);
    });
    say!("apic.cr8-exits", "{ran}");
    // An APIC-access page, mapped at 40000000H.
    let access = page();
    let eptp = vmx::identity_ept();
    let (directory, table) = (page(), page());
    poke((cpu::peek(eptp & !0xfff) & !0xfff) + 8, directory | 7);
    poke(directory, table | 7);
    poke(table, access | 6 << 3 | 7);
    for (shadow_name, with_shadow) in [("plain", false), ("shadow", true)] {
        for offset in [0x20, 0x80, 0x84, 0xb0, 0x300, 0xffc] {
            for (name, code) in [("read", read_apic as Code), ("write", write_apic)] {
                let ran = fresh(code, || {
                    if with_shadow {
                        shadow(0, 0x30);
                    }
                    wr(f::EPT_POINTER, eptp);
                    wr(f::APIC_ACCESS_ADDR, access);
                    set_secondary(vmx::CPU2_APIC_ACCESS);
                    set_register(RSI, 0x4000_0000 + offset);
                    set_register(RAX, 0x40);
                });
                say!(
                    "apic.access.{shadow_name}.{offset:x}.{name}",
                    "{ran} eax {:x} tpr {:x}",
                    register(RAX),
                    if with_shadow { peek32(apic + 0x80) } else { 0 }
                );
            }
        }
    }
}

/// The VMX-preemption timer.
pub fn timer() {
    if !may_set(vmx::TRUE_PIN, vmx::PIN_TIMER) {
        say!("timer", "skip preemption timer");
        return;
    }
    let start = |value: u64| wr(f::VMX_PREEMPTION_TIMER_VALUE, value);
    say!("timer.0", "{}", fresh(end, || start(0)));
    let ran = fresh(spins, || {
        start(1 << 16);
        wr(f::GUEST_RFLAGS, 0x202);
    });
    say!("timer.spins", "{}", ran.is(52));
    say!("timer.kept", "{:x}", rd(f::VMX_PREEMPTION_TIMER_VALUE));
    let ran = fresh(end, || {
        start(1 << 28);
        set(f::VM_EXIT_CONTROLS, vmx::EXIT_SAVE_TIMER);
    });
    let left = rd(f::VMX_PREEMPTION_TIMER_VALUE);
    say!(
        "timer.saved",
        "{ran} less {} much {}",
        left <= 1 << 28,
        left < 1 << 27
    );
    let ran = fresh(spins, || {
        start(1 << 14);
        wr(f::GUEST_RFLAGS, 0x202);
        set(f::VM_EXIT_CONTROLS, vmx::EXIT_SAVE_TIMER);
    });
    say!(
        "timer.saved-0",
        "{} {:x}",
        ran.is(52),
        rd(f::VMX_PREEMPTION_TIMER_VALUE)
    );
    let ran = fresh(end, || {
        start(0);
        wr(f::GUEST_RFLAGS, 0x202);
        wr(f::VM_ENTRY_INTR_INFO_FIELD, 0x8000_0020);
    });
    say!(
        "timer.after-injection",
        "{} inside {}",
        ran.is(52),
        rd(f::GUEST_RSP) < l2::stack()
    );
    say!(
        "timer.0-window",
        "{}",
        fresh(end, || {
            start(0);
            wr(f::GUEST_RFLAGS, 0x202);
            set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_INTERRUPT_WINDOW);
        })
    );
    say!(
        "timer.0-mov-ss",
        "{}",
        fresh(end, || {
            start(0);
            wr(f::GUEST_INTERRUPTIBILITY_INFO, 2);
        })
    );
}

/// Halted guests that the timer wakes. The last group: one that sleeps on ends the run.
pub fn sleep() {
    if !may_set(vmx::TRUE_PIN, vmx::PIN_TIMER) {
        say!("sleep", "skip preemption timer");
        return;
    }
    let start = |value: u64| wr(f::VMX_PREEMPTION_TIMER_VALUE, value);
    let ran = fresh(halts, || start(1 << 14));
    say!(
        "sleep.halts",
        "{} at +{}",
        ran.is(52),
        rd(f::GUEST_RIP).wrapping_sub(l2::at(halts))
    );
    let ran = fresh(end, || {
        start(1 << 14);
        wr(f::GUEST_ACTIVITY_STATE, 1);
    });
    say!("sleep.halted", "{}", ran.is(52));
}
