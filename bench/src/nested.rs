// SPDX-License-Identifier: GPL-2.0

//! The cost of exits of L2: what they take until L2 goes on, L1's part included.

use anyhow::Result;

use crate::{
    code,
    exits::{
        cost,
        memory,
        Device,
        BATCHES,
        COUNT, //
    },
    guest::{
        Apic,
        Guest,
        Irqchip,
        Program,
        Touched, //
    },
    halt,
    l1::{
        self,
        Fields,
        Mapped, //
    },
    skip, //
};

/// The first mark.
const FIRST_ID: usize = 64;

/// One measurement.
struct Kind {
    name: &'static str,
    prepare: &'static [u8],
    exit: &'static [u8],
    mapped: Mapped,
    fields: Fields,
    /// Memory that L2 touches, a page an exit, and how much of it L0's host has.
    memory: Option<Touched>,
}

/// Fields that Linux's KVM touches around most entries: RSP, RFLAGS, CR3, interruptibility, the
/// primary controls, TPR threshold, event to inject and its error code.
const COMMON: [(u64, u64); 8] = [
    (0x681c, 0),
    (0x6820, 0),
    (0x6802, 0),
    (0x4824, 0),
    (0x4002, 0),
    (0x401c, 0),
    (0x4016, 0),
    (0x4018, 0),
];

/// Those and 24 more: CR0, CR4, their masks and shadows, segments, host state.
const MANY: [(u64, u64); 32] = {
    const MORE: [u64; 24] = [
        0x6800, 0x6804, 0x6000, 0x6002, 0x6004, 0x6006, 0x4004, 0x401a, 0x681a, 0x6822, 0x0800,
        0x0802, 0x0804, 0x0806, 0x4816, 0x4818, 0x680e, 0x6810, 0x6c00, 0x6c02, 0x6c04, 0x6c06,
        0x6c08, 0x6c14,
    ];
    let mut all = [(0, 0); 32];
    let mut n = 0;
    while n < all.len() {
        all[n] = if n < COMMON.len() {
            COMMON[n]
        } else {
            (MORE[n - COMMON.len()], 0)
        };
        n += 1;
    }
    all
};

/// Two that are rarely written, with a new value each time: HOST_RSP and the exception bitmap.
const CHANGED: Fields = &[(0x6c14, 0x10), (0x4004, 1 << 6)];

/// Measures all kinds.
pub fn measure() {
    let kinds = kinds();
    for (n, kind) in kinds.iter().enumerate() {
        report(
            FIRST_ID + n,
            kind.name,
            BATCHES * COUNT,
            run(FIRST_ID + n, kind),
        );
    }
    let id = FIRST_ID + kinds.len();
    let name = "HLT, woken by a thread's MSI";
    report(id, name, halt::BATCHES * halt::COUNT, woken(id));
}

fn report(id: usize, name: &str, count: usize, cost: Result<f64>) {
    match cost {
        Ok(cost) => println!("nested {id} {name} {count} {cost:.1}"),
        Err(error) => skip(&format!("L2, {name}"), &error),
    }
}

fn run(id: usize, kind: &Kind) -> Result<f64> {
    let mut guest = Guest::new(Irqchip::Split, Apic::Msrs)?;
    let _device = match kind.memory {
        Some(touched) => memory(&guest, touched)?,
        None => Device::None,
    };
    guest.write_l1(kind.mapped, kind.fields)?;
    guest.start = l1::START;
    let program = Program {
        setup: &[],
        prepare: kind.prepare,
        exit: kind.exit,
    };
    cost(&mut guest, &program, BATCHES, COUNT, id)
}

/// L2 asks a thread for an interrupt and halts; L1 halts for it, takes the interrupt and injects one.
fn woken(id: usize) -> Result<f64> {
    let mut guest = Guest::new(Irqchip::Split, Apic::Msrs)?;
    guest.handle(halt::MSI, l1::take_interrupt());
    guest.handle(l1::INJECTED, code!("iretq"));
    guest.write_l1(Mapped::Before, &[])?;
    guest.start = l1::START;
    halt::woken_by_thread(&mut guest, &[], id)
}

fn kinds() -> Vec<Kind> {
    let plain = |name, prepare, exit| Kind {
        name,
        prepare,
        exit,
        mapped: Mapped::Before,
        fields: &[],
        memory: None,
    };
    let cpuid = |name, fields| Kind {
        fields,
        ..plain(name, code!("xor eax, eax", "xor ecx, ecx"), code!("cpuid"))
    };
    let touch = |name, mapped, memory| Kind {
        mapped,
        memory: Some(memory),
        ..plain(name, code!("add rbx, 4096"), code!("mov [rbx - 4096], rbx"))
    };
    vec![
        cpuid("cpuid", &[]),
        cpuid("cpuid, 8 fields read and written", &COMMON),
        cpuid("cpuid, 32 fields read and written", &MANY),
        cpuid("cpuid, 2 rare fields changed", CHANGED),
        plain("vmcall", code!("mov eax, 999"), code!("vmcall")),
        plain("in", &[], code!("in al, 0x21")),
        plain("rdmsr", code!("mov ecx, 0x1a0"), code!("rdmsr")),
        plain(
            "wrmsr",
            code!("mov ecx, 0x1a0", "xor eax, eax", "xor edx, edx"),
            code!("wrmsr"),
        ),
        plain(
            "MMIO write, EPT violation to L1",
            code!("mov eax, 0x10000000"),
            code!("mov [rax], eax"),
        ),
        touch("EPT fault, L1 maps the page", Mapped::AtFault, Touched::Yes),
        touch("EPT fault, L1 has it mapped", Mapped::Before, Touched::Yes),
        touch("EPT fault, fresh page", Mapped::Before, Touched::No),
    ]
}
