// SPDX-License-Identifier: GPL-2.0

//! What instructions do in a guest, with their controls off and on.

use burrow_core::x86::vmx::field as f;

use crate::{
    cpu::{
        self,
        page,
        Global, //
    },
    l2::{
        self,
        fresh,
        register,
        set_register,
        RAX,
        RCX,
        RDI,
        RDX,
        RSI, //
    },
    vmx::{
        self,
        clear,
        has_secondary,
        set,
        set_secondary,
        wr, //
    },
};

type Code = unsafe extern "C" fn();

/// A fragment of instructions and its end.
macro_rules! fragments {
    ($($name:ident: $($line:literal),+;)*) => {
        code! { $($name: $($line,)+ "mov edi, 0x77", "vmcall";)* }
    };
}

fragments! {
    l2_cpuid: "cpuid";
    l2_hlt: "hlt";
    l2_invlpg: "invlpg [rax + rcx * 4 + 0x40]";
    l2_rdpmc: "rdpmc";
    l2_rdtsc: "rdtsc";
    l2_rdtscp: "rdtscp";
    l2_pause: "pause";
    l2_wbinvd: "wbinvd";
    l2_invd: "invd";
    l2_monitor: "monitor";
    l2_mwait: "mwait";
    l2_xsetbv: "xsetbv";
    l2_xsetbv_on: "mov rax, cr4", "or eax, 0x40000", "mov cr4, rax", "mov eax, 1", "xor ecx, ecx", "xsetbv";
    l2_invpcid: "mov ebx, 2", "invpcid rbx, [rax]";
    l2_vmcall: "vmcall";
    l2_vmlaunch: "vmlaunch";
    l2_vmresume: "vmresume";
    l2_vmxoff: "vmxoff";
    l2_vmxon: "vmxon [rax + 0x10]";
    l2_vmclear: "vmclear [rax + rcx * 2]";
    l2_vmptrld: "vmptrld gs:[rax - 0x20]";
    l2_vmptrst: "vmptrst [rsp + 8]";
    l2_vmread: "vmread rcx, r9";
    l2_vmread_memory: "vmread [rbp + r8 * 8 + 4], r10";
    l2_vmwrite: "vmwrite r11, rdx";
    l2_vmwrite_memory: "vmwrite rsi, [rip + 0x100]";
    l2_invept: "invept rdx, [rax]";
    l2_invvpid: "invvpid r15, [r12 + 0x1000]";
    l2_vmfunc: "vmfunc";
    l2_ud2: "ud2";
    l2_int3: "int3";
    l2_icebp: ".byte 0xf1";
    l2_div: "xor ecx, ecx", "div ecx";
    l2_int: "int 0x30";
    l2_gp: "mov ds, ax";
    l2_sgdt: "sgdt [rax]";
    l2_sidt: "sidt [rax + rcx]";
    l2_lgdt: "lgdt [rsp - 0x40]";
    l2_lidt: "lidt [rip + 0x40]";
    l2_sldt: "sldt ecx";
    l2_sldt_memory: "sldt [rax + 2]";
    l2_str: "str rdx";
    l2_lldt: "lldt cx";
    l2_lldt_memory: "lldt [rax]";
    l2_ltr: "ltr cx";
    l2_smsw: "smsw ecx";
    l2_mov_from_dr0: "mov rcx, dr0";
    l2_mov_to_dr3: "mov dr3, rsi";
    l2_mov_to_dr7: "mov dr7, r8";
    l2_mov_from_dr6: "mov r9, dr6";
    l2_mov_dr4: "mov rcx, dr4";
    l2_from_cr3: "mov rcx, cr3";
    l2_to_cr3: "mov r10, cr3", "mov cr3, r10";
    l2_from_cr8: "mov r11, cr8";
    l2_to_cr8: "mov eax, 5", "mov cr8, rax", "xor eax, eax", "mov rax, cr8";
    l2_to_cr8_bad: "mov eax, 16", "mov cr8, rax";
    l2_syscall: "syscall";
    l2_swapgs: "swapgs";
    l2_clts: "clts", "mov rax, cr0";
    l2_lmsw: "lmsw dx", "mov rax, cr0";
    l2_lmsw_memory: "lmsw [rsi]", "mov rax, cr0";
    l2_flip_cr0: "mov rax, cr0", "xor rax, rdx", "mov cr0, rax", "mov rax, cr0";
    l2_flip_cr4: "mov rax, cr4", "xor rax, rdx", "mov cr4, rax", "mov rax, cr4";
    l2_in_8: "in al, 0x10";
    l2_in_dx_16: "in ax, dx";
    l2_in_dx_32: "in eax, dx";
    l2_out_8: "out 0x80, al";
    l2_out_dx_8: "out dx, al";
    l2_out_dx_16: "out dx, ax";
    l2_out_dx_32: "out dx, eax";
    l2_insb: "insb";
    l2_insd_rep: "rep insd";
    l2_outsb: "outsb";
    l2_outsw_rep: "rep outsw";
    l2_outsb_gs: "outsb dx, gs:[rsi]";
    l2_outsb_narrow: "outsb dx, [esi]";
    l2_rdmsr: "rdmsr";
    l2_wrmsr: "wrmsr";
}

/// Runs `code` with each of the choices.
fn off_and_on(name: &str, code: Code, off: fn(), on: fn()) {
    say!("exits.{name}.off", "{}", fresh(code, off));
    say!("exits.{name}.on", "{}", fresh(code, on));
}

fn cpu_on<const BITS: u32>() {
    set(f::CPU_BASED_VM_EXEC_CONTROL, BITS);
}

fn cpu_off<const BITS: u32>() {
    clear(f::CPU_BASED_VM_EXEC_CONTROL, BITS);
}

fn cpu2_on<const BITS: u32>() {
    set_secondary(BITS);
}

fn nothing() {}

/// A place for operands; its contents do no harm.
fn scratch() -> u64 {
    static SCRATCH: Global<cpu::Page> = Global::new(cpu::Page::ZERO);
    SCRATCH.address()
}

fn point() {
    set_register(RAX, scratch());
    set_register(RSI, scratch());
    set_register(RDI, scratch());
}

/// Instructions with a control each, and those that always exit or never.
pub fn simple() {
    say!(
        "exits.hlt.on",
        "{}",
        fresh(l2_hlt, cpu_on::<{ vmx::CPU_HLT }>)
    );
    off_and_on("invlpg", l2_invlpg, nothing, cpu_on::<{ vmx::CPU_INVLPG }>);
    off_and_on("rdtsc", l2_rdtsc, nothing, cpu_on::<{ vmx::CPU_RDTSC }>);
    say!(
        "exits.rdpmc.on",
        "{}",
        fresh(l2_rdpmc, cpu_on::<{ vmx::CPU_RDPMC }>)
    );
    say!(
        "exits.mwait.on",
        "{}",
        fresh(l2_mwait, cpu_on::<{ vmx::CPU_MWAIT }>)
    );
    say!(
        "exits.monitor.on",
        "{}",
        fresh(l2_monitor, || {
            point();
            set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MONITOR);
        })
    );
    off_and_on("pause", l2_pause, nothing, cpu_on::<{ vmx::CPU_PAUSE }>);
    off_and_on(
        "wbinvd",
        l2_wbinvd,
        nothing,
        cpu2_on::<{ vmx::CPU2_WBINVD }>,
    );
    off_and_on(
        "rdtscp",
        l2_rdtscp,
        nothing,
        cpu2_on::<{ vmx::CPU2_RDTSCP }>,
    );
    say!(
        "exits.rdtscp.rdtsc-off",
        "{}",
        fresh(l2_rdtscp, cpu_on::<{ vmx::CPU_RDTSC }>)
    );
    say!(
        "exits.rdtscp.rdtsc-on",
        "{}",
        fresh(l2_rdtscp, || {
            set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_RDTSC);
            set_secondary(vmx::CPU2_RDTSCP);
        })
    );
    if has_secondary(vmx::CPU2_INVPCID) {
        off_and_on("invpcid", l2_invpcid, point, || {
            point();
            set_secondary(vmx::CPU2_INVPCID);
        });
        say!(
            "exits.invpcid.invlpg-off",
            "{}",
            fresh(l2_invpcid, || {
                point();
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_INVLPG);
            })
        );
        say!(
            "exits.invpcid.invlpg-on",
            "{}",
            fresh(l2_invpcid, || {
                point();
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_INVLPG);
                set_secondary(vmx::CPU2_INVPCID);
            })
        );
    }
    for (name, code) in [
        ("cpuid", l2_cpuid as Code),
        ("invd", l2_invd),
        ("xsetbv-without-osxsave", l2_xsetbv),
        ("xsetbv", l2_xsetbv_on),
        ("vmcall", l2_vmcall),
        ("vmlaunch", l2_vmlaunch),
        ("vmresume", l2_vmresume),
        ("vmxoff", l2_vmxoff),
        ("vmxon", l2_vmxon),
        ("vmclear", l2_vmclear),
        ("vmptrld", l2_vmptrld),
        ("vmptrst", l2_vmptrst),
        ("vmread", l2_vmread),
        ("vmread-memory", l2_vmread_memory),
        ("vmwrite", l2_vmwrite),
        ("vmwrite-memory", l2_vmwrite_memory),
        ("invept", l2_invept),
        ("invvpid", l2_invvpid),
        ("vmfunc-off", l2_vmfunc),
        ("ud2", l2_ud2),
        ("int3", l2_int3),
        ("icebp", l2_icebp),
        ("div", l2_div),
        ("smsw", l2_smsw),
        ("syscall-disabled", l2_syscall),
    ] {
        say!("exits.{name}", "{}", fresh(code, nothing));
        say!("exits.user.{name}", "{}", fresh(code, l2::user));
    }
    for (name, code) in [
        ("hlt", l2_hlt as Code),
        ("invlpg", l2_invlpg),
        ("rdtsc", l2_rdtsc),
        ("rdpmc", l2_rdpmc),
        ("pause", l2_pause),
        ("wbinvd", l2_wbinvd),
        ("monitor", l2_monitor),
        ("mwait", l2_mwait),
        ("from-cr3", l2_from_cr3),
        ("from-cr8", l2_from_cr8),
        ("mov-dr", l2_mov_from_dr0),
        ("clts", l2_clts),
        ("lmsw", l2_lmsw),
        ("rdmsr", l2_rdmsr),
        ("swapgs", l2_swapgs),
        ("in", l2_in_8),
        ("outsb", l2_outsb),
        ("lgdt", l2_lgdt),
        ("sgdt", l2_sgdt),
        ("str", l2_str),
        ("lldt", l2_lldt),
        ("int", l2_int),
    ] {
        // With all the controls on: which comes first, the fault or the exit?
        say!(
            "exits.user-all.{name}",
            "{}",
            fresh(code, || {
                l2::user();
                point();
                set(
                    f::CPU_BASED_VM_EXEC_CONTROL,
                    vmx::CPU_HLT
                        | vmx::CPU_INVLPG
                        | vmx::CPU_RDTSC
                        | vmx::CPU_RDPMC
                        | vmx::CPU_PAUSE
                        | vmx::CPU_MONITOR
                        | vmx::CPU_MWAIT
                        | vmx::CPU_CR3_STORE
                        | vmx::CPU_CR8_STORE
                        | vmx::CPU_MOV_DR
                        | vmx::CPU_IO,
                );
                set_secondary(vmx::CPU2_WBINVD | vmx::CPU2_DESCRIPTORS);
                wr(f::CR0_GUEST_HOST_MASK, !0);
                wr(f::CR0_READ_SHADOW, 8);
            })
        );
    }
}

/// Descriptor-table exiting.
pub fn descriptors() {
    for (name, code) in [
        ("sgdt", l2_sgdt as Code),
        ("sidt", l2_sidt),
        ("lgdt", l2_lgdt),
        ("lidt", l2_lidt),
        ("sldt", l2_sldt),
        ("sldt-memory", l2_sldt_memory),
        ("str", l2_str),
        ("lldt", l2_lldt),
        ("lldt-memory", l2_lldt_memory),
        ("ltr", l2_ltr),
    ] {
        say!(
            "descriptors.{name}.on",
            "{}",
            fresh(code, || {
                point();
                set_register(RCX, 0x20);
                set_secondary(vmx::CPU2_DESCRIPTORS);
            })
        );
        if !name.starts_with("lg") && !name.starts_with("li") {
            say!(
                "descriptors.{name}.off",
                "{}",
                fresh(code, || {
                    point();
                    set_register(RCX, 0x20);
                })
            );
        }
    }
}

/// Moves to and from control registers, with masks and shadows.
pub fn control_registers() {
    let cr3_off = cpu_off::<{ vmx::CPU_CR3_LOAD | vmx::CPU_CR3_STORE }>;
    for (name, code, bits) in [
        ("from-cr3", l2_from_cr3 as Code, vmx::CPU_CR3_STORE),
        ("to-cr3", l2_to_cr3, vmx::CPU_CR3_LOAD),
        ("from-cr8", l2_from_cr8, vmx::CPU_CR8_STORE),
        ("to-cr8", l2_to_cr8, vmx::CPU_CR8_LOAD),
        ("to-cr8-bad", l2_to_cr8_bad, vmx::CPU_CR8_LOAD),
    ] {
        say!("cr.{name}.off", "{}", fresh(code, cr3_off));
        say!("cr.{name}.tpr", "{}", cpu::cr8());
        cpu::set_cr8(0);
        say!(
            "cr.{name}.on",
            "{}",
            fresh(code, || {
                cr3_off();
                set(f::CPU_BASED_VM_EXEC_CONTROL, bits);
            })
        );
    }
    // TS, MP, EM, NE, WP, AM, and a reserved bit; CR4: TSD, DE, PGE, PCE, VMXE, OSXSAVE, and a reserved bit.
    for (register, code, bits, mask_field, shadow_field) in [
        (
            "cr0",
            l2_flip_cr0 as Code,
            &[3u32, 1, 2, 5, 16, 18, 0, 31, 6, 40][..],
            f::CR0_GUEST_HOST_MASK,
            f::CR0_READ_SHADOW,
        ),
        (
            "cr4",
            l2_flip_cr4,
            &[2, 3, 7, 8, 13, 18, 5, 0, 15, 33],
            f::CR4_GUEST_HOST_MASK,
            f::CR4_READ_SHADOW,
        ),
    ] {
        for bit in bits {
            for (mask, shadow) in [(false, false), (false, true), (true, false), (true, true)] {
                let bit_value = 1u64 << bit;
                let ran = fresh(code, || {
                    set_register(RDX, bit_value);
                    wr(mask_field, if mask { bit_value } else { 0 });
                    wr(shadow_field, if shadow { bit_value } else { 0 });
                });
                let (mask, shadow) = (u8::from(mask), u8::from(shadow));
                say!(
                    "cr.{register}.{bit}.{mask}{shadow}",
                    "{ran} sees {:x} is {:x}",
                    l2::register(RAX) >> bit & 1,
                    guest_bit(register, *bit)
                );
            }
        }
    }
    // CLTS and LMSW: TS and the low four bits.
    for (mask, shadow, cr0) in (0..8).map(|n| (n & 1 != 0, n & 2 != 0, n & 4 != 0)) {
        let name = 4 * u8::from(cr0) + 2 * u8::from(shadow) + u8::from(mask);
        let prepare = || {
            wr(f::GUEST_CR0, cpu::cr0() | if cr0 { 8 } else { 0 });
            wr(f::CR0_GUEST_HOST_MASK, if mask { 8 } else { 0 });
            wr(f::CR0_READ_SHADOW, if shadow { 8 } else { 0 });
        };
        let ran = fresh(l2_clts, prepare);
        say!(
            "cr.clts.{name}",
            "{ran} sees {:x} is {:x}",
            register(RAX) & 0xf,
            vmx::rd(f::GUEST_CR0) & 0xf
        );
        for value in [0u64, 1, 8, 9, 0xe] {
            let ran = fresh(l2_lmsw, || {
                prepare();
                set_register(RDX, value);
            });
            say!(
                "cr.lmsw.{name}.{value:x}",
                "{ran} sees {:x} is {:x}",
                register(RAX) & 0xf,
                vmx::rd(f::GUEST_CR0) & 0xf
            );
        }
    }
    for (name, mask, shadow, value) in [
        ("pe", 1u64, 0u64, 1u64),
        ("pe-same", 1, 1, 1),
        ("all", 0xf, 1, 0xf),
        ("clear-pe", 1, 1, 0),
    ] {
        let ran = fresh(l2_lmsw_memory, || {
            point();
            cpu::poke(scratch(), value);
            wr(f::CR0_GUEST_HOST_MASK, mask);
            wr(f::CR0_READ_SHADOW, shadow);
        });
        // The qualification has the operand's address only in GUEST_LINEAR_ADDRESS.
        let right = vmx::rd(f::GUEST_LINEAR_ADDRESS) == scratch();
        say!(
            "cr.lmsw-memory.{name}",
            "{ran} address {}",
            !ran.is(28) || right
        );
    }
    cpu::poke(scratch(), 0);
}

/// A bit of the guest's CR0 or CR4.
fn guest_bit(register: &str, bit: u32) -> u64 {
    let value = if register == "cr0" {
        vmx::rd(f::GUEST_CR0)
    } else {
        vmx::rd(f::GUEST_CR4)
    };
    value >> bit & 1
}

/// Moves to and from debug registers.
pub fn debug_registers() {
    for (name, code) in [
        ("from-dr0", l2_mov_from_dr0 as Code),
        ("to-dr3", l2_mov_to_dr3),
        ("to-dr7", l2_mov_to_dr7),
        ("from-dr6", l2_mov_from_dr6),
        ("dr4", l2_mov_dr4),
    ] {
        say!("dr.{name}.off", "{}", fresh(code, nothing));
        say!(
            "dr.{name}.on",
            "{}",
            fresh(code, cpu_on::<{ vmx::CPU_MOV_DR }>)
        );
        say!(
            "dr.{name}.detect",
            "{}",
            fresh(code, || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MOV_DR);
                set(f::VM_ENTRY_CONTROLS, vmx::ENTRY_LOAD_DEBUG);
                wr(f::GUEST_DR7, 0x2400);
            })
        );
        say!(
            "dr.{name}.de",
            "{}",
            fresh(code, || {
                set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MOV_DR);
                wr(f::GUEST_CR4, cpu::cr4() | 8);
            })
        );
    }
    // What entry and exit do to DR7.
    for (name, load, save) in [
        ("neither", false, false),
        ("load", true, false),
        ("save", false, true),
        ("both", true, true),
    ] {
        let ran = fresh(l2_mov_to_dr7, || {
            let bits = |is_on: bool, bit: u32| if is_on { bit } else { 0 };
            clear(f::VM_ENTRY_CONTROLS, vmx::ENTRY_LOAD_DEBUG);
            clear(f::VM_EXIT_CONTROLS, vmx::EXIT_SAVE_DEBUG);
            set(f::VM_ENTRY_CONTROLS, bits(load, vmx::ENTRY_LOAD_DEBUG));
            set(f::VM_EXIT_CONTROLS, bits(save, vmx::EXIT_SAVE_DEBUG));
            wr(f::GUEST_DR7, 0x402);
            set_register(8, 0x408);
        });
        say!(
            "dr.dr7.{name}",
            "{ran} field {:x} host {:x}",
            vmx::rd(f::GUEST_DR7),
            cpu::dr7()
        );
    }
}

/// IN, OUT, INS, OUTS, with I/O bitmaps.
pub fn io() {
    for (name, code) in [
        ("in", l2_in_8 as Code),
        ("in-dx-16", l2_in_dx_16),
        ("in-dx-32", l2_in_dx_32),
        ("out", l2_out_8),
        ("out-dx-8", l2_out_dx_8),
        ("out-dx-32", l2_out_dx_32),
        ("insb", l2_insb),
        ("insd-rep", l2_insd_rep),
        ("outsb", l2_outsb),
        ("outsw-rep", l2_outsw_rep),
        ("outsb-gs", l2_outsb_gs),
        ("outsb-narrow", l2_outsb_narrow),
    ] {
        let ran = fresh(code, || {
            point();
            set_register(RCX, 3);
            set_register(RDX, 0x1234);
            set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_IO);
        });
        let is_string = ran
            .exit()
            .is_some_and(|exit| exit.qualification & 0x10 != 0);
        let right = !is_string || vmx::rd(f::GUEST_LINEAR_ADDRESS) == scratch();
        say!("io.unconditional.{name}", "{ran} address {right}");
    }
    let (a, b) = (page(), page());
    let set_bit = |port: u16| {
        let page = if port < 0x8000 { a } else { b };
        let word = page + u64::from(port & 0x7fff) / 8 / 8 * 8;
        cpu::poke(word, cpu::peek(word) | 1 << (port & 63));
    };
    let bitmaps = || {
        set(
            f::CPU_BASED_VM_EXEC_CONTROL,
            vmx::CPU_IO_BITMAPS | vmx::CPU_IO,
        );
        wr(f::IO_BITMAP_A, a);
        wr(f::IO_BITMAP_B, b);
    };
    for marked in [
        None,
        Some(0x7ffeu16),
        Some(0x7fff),
        Some(0x8000),
        Some(0x8001),
        Some(0xfffe),
        Some(0xffff),
        Some(0),
        Some(3),
    ] {
        cpu::fill(a, 0);
        cpu::fill(b, 0);
        if let Some(port) = marked {
            set_bit(port);
        }
        for port in [
            0x7ffcu64, 0x7ffd, 0x7ffe, 0x7fff, 0x8000, 0xfffc, 0xfffd, 0xfffe, 0xffff,
        ] {
            for (size, code) in [
                (1, l2_out_dx_8 as Code),
                (2, l2_out_dx_16),
                (4, l2_out_dx_32),
            ] {
                let is_near = marked.is_some_and(|m| {
                    (port..port + size).any(|p| p as u16 == m || p as u16 == m.wrapping_add(1))
                });
                if is_near || marked.is_none() {
                    let ran = fresh(code, || {
                        bitmaps();
                        set_register(RDX, port);
                    });
                    match marked {
                        Some(marked) => say!("io.bitmap.{marked:x}.{port:x}.{size}", "{ran}"),
                        None => say!("io.bitmap.none.{port:x}.{size}", "{ran}"),
                    }
                }
            }
        }
    }
}

/// RDMSR and WRMSR, with MSR bitmaps.
pub fn msrs() {
    const SYSENTER_CS: u64 = 0x174;
    const KERNEL_GS: u64 = 0xc000_0102;
    let bitmap = page();
    let prepare = |index: u64| {
        set(f::CPU_BASED_VM_EXEC_CONTROL, vmx::CPU_MSR_BITMAPS);
        wr(f::MSR_BITMAP, bitmap);
        set_register(RCX, index);
    };
    for index in [SYSENTER_CS, KERNEL_GS, 0x10, 0x4000_0000] {
        say!(
            "msr.read.no-bitmap.{index:x}",
            "{}",
            fresh(l2_rdmsr, || set_register(RCX, index))
        );
        say!(
            "msr.write.no-bitmap.{index:x}",
            "{}",
            fresh(l2_wrmsr, || set_register(RCX, index))
        );
    }
    cpu::fill(bitmap, 0xff);
    for index in [
        0u64,
        0x10,
        0x1fff,
        0x2000,
        0x174,
        0xbfff_ffff,
        0xc000_0000,
        0xc000_1fff,
        0xc000_2000,
        0xffff_ffff,
    ] {
        say!(
            "msr.read.ones.{index:x}",
            "{}",
            fresh(l2_rdmsr, || prepare(index))
        );
        say!(
            "msr.write.ones.{index:x}",
            "{}",
            fresh(l2_wrmsr, || prepare(index))
        );
    }
    cpu::fill(bitmap, 0);
    for index in [SYSENTER_CS, KERNEL_GS, 0x2000, 0xc000_2000, 0x1_0000] {
        say!(
            "msr.read.zeroes.{index:x}",
            "{}",
            fresh(l2_rdmsr, || prepare(index))
        );
        say!(
            "msr.write.zeroes.{index:x}",
            "{}",
            fresh(l2_wrmsr, || prepare(index))
        );
    }
    // One bit each: reads and writes, low and high.
    for (name, index, at) in [
        ("read-low", SYSENTER_CS, SYSENTER_CS),
        ("read-high", KERNEL_GS, 0x2000 + 0x102),
        ("write-low", SYSENTER_CS, 0x4000 + SYSENTER_CS),
        ("write-high", KERNEL_GS, 0x6000 + 0x102),
    ] {
        cpu::fill(bitmap, 0);
        cpu::poke(bitmap + at / 64 * 8, 1 << (at % 64));
        for (kind, code) in [("read", l2_rdmsr as Code), ("write", l2_wrmsr)] {
            for index in [SYSENTER_CS, KERNEL_GS] {
                say!(
                    "msr.one-bit.{name}.{kind}.{index:x}",
                    "{}",
                    fresh(code, || prepare(index))
                );
            }
        }
        // The neighbours are not meant.
        cpu::fill(bitmap, 0xff);
        cpu::poke(bitmap + at / 64 * 8, !(1 << (at % 64)));
        for (kind, code) in [("read", l2_rdmsr as Code), ("write", l2_wrmsr)] {
            say!(
                "msr.one-clear.{name}.{kind}",
                "{}",
                fresh(code, || prepare(index))
            );
        }
    }
    // What the guest writes to an MSR that is not intercepted is there after the exit.
    code! { write_and_read: "mov ecx, 0xc0000102", "mov eax, 0x12345678", "mov edx, 0x7abc", "wrmsr", "xor eax, eax",
    "xor edx, edx", "rdmsr", "mov edi, 0x77", "vmcall"; }
    cpu::fill(bitmap, 0);
    let ran = fresh(write_and_read, || prepare(KERNEL_GS));
    say!(
        "msr.kept",
        "{ran} {:x} {:x} host {:x}",
        register(RAX),
        register(RDX),
        cpu::rdmsr(KERNEL_GS as u32)
    );
    cpu::wrmsr(KERNEL_GS as u32, 0);
    say!(
        "msr.not-canonical",
        "{}",
        fresh(l2_wrmsr, || {
            prepare(KERNEL_GS);
            set_register(RDX, 0x8000);
        })
    );
}

/// Exceptions: the bitmap, and page faults by their error codes.
pub fn exceptions() {
    code! { read_absent: "mov rax, [rsi]", "mov edi, 0x77", "vmcall";
    write_absent: "mov [rsi], rax", "mov edi, 0x77", "vmcall";
    fetch_absent: "jmp rsi"; }
    for (name, code) in [
        ("ud2", l2_ud2 as Code),
        ("int3", l2_int3),
        ("icebp", l2_icebp),
        ("div", l2_div),
        ("int", l2_int),
        ("gp", l2_gp),
    ] {
        for bitmap in [0u64, 0xffff_ffff, 1 << 6, 1 << 3, 1 << 1, 1, 1 << 13] {
            say!(
                "exceptions.{name}.{bitmap:x}",
                "{}",
                fresh(code, || {
                    wr(f::EXCEPTION_BITMAP, bitmap);
                    set_register(RAX, 0x4c);
                })
            );
        }
    }
    // #PF: a linear address that has no translation.
    for (name, code) in [
        ("read", read_absent as Code),
        ("write", write_absent),
        ("fetch", fetch_absent),
    ] {
        for user in [false, true] {
            for (bitmap, mask, value) in [
                (1u64 << 14, 0u64, 0u64),
                (1 << 14, 2, 0),
                (1 << 14, 2, 2),
                (0, 2, 0),
                (0, 2, 2),
                (0, 4, 4),
                (1 << 14, 4, 4),
                (1 << 14, 0x1f, 4),
                (1 << 14, 0, 1),
                (0, 0, 1),
            ] {
                let ran = fresh(code, || {
                    if user {
                        l2::user();
                    }
                    wr(f::EXCEPTION_BITMAP, bitmap);
                    wr(f::PAGE_FAULT_ERROR_CODE_MASK, mask);
                    wr(f::PAGE_FAULT_ERROR_CODE_MATCH, value);
                    set_register(RSI, 0x12_3456_7000);
                });
                let who = if user { "-user" } else { "" };
                say!(
                    "exceptions.pf-{name}{who}.{bitmap:x}.{mask:x}.{value:x}",
                    "{ran}"
                );
            }
        }
    }
}
