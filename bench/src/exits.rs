// SPDX-License-Identifier: GPL-2.0

//! The cost of each kind of VM exit, in instructions.

use anyhow::{
    Context,
    Result, //
};
use kvm_bindings::{
    kvm_enable_cap,
    KVM_CAP_X86_USER_SPACE_MSR,
    KVM_MSR_EXIT_REASON_UNKNOWN, //
};
use kvm_ioctls::{
    IoEventAddress,
    NoDatamatch, //
};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    code,
    guest::{
        map,
        Apic,
        Guest,
        Irqchip,
        Mapping,
        Pages,
        Program,
        Touched,
        DEVICE,
        FRESH,
        PORT, //
    },
    halt,
    mark::Counted,
    skip, //
};

/// Batches of a measurement: its result is the median.
pub const BATCHES: usize = 25;
/// Exits in a batch.
pub const COUNT: usize = 40;

/// One measurement.
struct Kind {
    name: &'static str,
    irqchip: Irqchip,
    apic: Apic,
    program: Program,
    /// Makes what the exits meet; lives as long as the measurement.
    device: fn(&Guest) -> Result<Device>,
}

/// What the exits of a measurement meet.
pub enum Device {
    /// Nothing but the vCPU.
    None,
    /// An eventfd that they signal.
    Event { _event: EventFd },
    /// Memory.
    Memory { _memory: Mapping },
}

/// Measures all kinds.
pub fn measure() {
    let kinds = kinds();
    for (id, kind) in kinds.iter().enumerate() {
        match run(id, kind) {
            Ok(cost) => println!("cost {id} {} {} {cost:.1}", kind.name, BATCHES * COUNT),
            Err(error) => skip(kind.name, &error),
        }
    }
    halt::measure(kinds.len());
}

/// Returns the instructions of one exit of `kind`.
fn run(id: usize, kind: &Kind) -> Result<f64> {
    run_batches(id, kind, BATCHES)
}

/// Returns the instructions of one exit for CPUID, the first of all kinds.
pub fn cpuid(id: usize, batches: usize) -> Result<f64> {
    run_batches(id, &kinds()[0], batches)
}

fn run_batches(id: usize, kind: &Kind, batches: usize) -> Result<f64> {
    let mut guest = Guest::new(kind.irqchip, kind.apic)?;
    let _device = (kind.device)(&guest)?;
    cost(&mut guest, &kind.program, batches, COUNT, id)
}

/// Returns the instructions that the exits of `program` take, each; the exits
/// are under mark `id`.
pub fn cost(
    guest: &mut Guest,
    program: &Program,
    batches: usize,
    count: usize,
    id: usize,
) -> Result<f64> {
    let loop_alone = Program {
        exit: &[],
        ..*program
    };
    let base = median(guest.run(&loop_alone, batches, count, FRESH)?);
    let counted = Counted::start(id);
    let measured = median(guest.run(program, batches, count, FRESH)?);
    drop(counted);
    Ok((measured as f64 - base as f64) / count as f64)
}

/// Returns the value in the middle.
pub fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

fn nothing(_guest: &Guest) -> Result<Device> {
    Ok(Device::None)
}

/// An ioeventfd at a port, for accesses of any size.
fn port_event(guest: &Guest) -> Result<Device> {
    let event = EventFd::new(libc::EFD_NONBLOCK)?;
    guest
        .vm
        .register_ioevent(&event, &IoEventAddress::Pio(PORT.into()), NoDatamatch)
        .context("KVM_IOEVENTFD")?;
    Ok(Device::Event { _event: event })
}

/// An ioeventfd at an address, for accesses of any size.
fn any_event(guest: &Guest) -> Result<Device> {
    let event = EventFd::new(libc::EFD_NONBLOCK)?;
    guest
        .vm
        .register_ioevent(&event, &IoEventAddress::Mmio(DEVICE), NoDatamatch)
        .context("KVM_IOEVENTFD")?;
    Ok(Device::Event { _event: event })
}

/// An ioeventfd at an address, for the value 1 in four bytes.
fn matched_event(guest: &Guest) -> Result<Device> {
    let event = EventFd::new(libc::EFD_NONBLOCK)?;
    guest
        .vm
        .register_ioevent(&event, &IoEventAddress::Mmio(DEVICE), 1_u32)
        .context("KVM_IOEVENTFD")?;
    Ok(Device::Event { _event: event })
}

/// Userspace answers for MSRs that this KVM does not know.
fn msrs_to_userspace(guest: &Guest) -> Result<Device> {
    let mut cap = kvm_enable_cap {
        cap: KVM_CAP_X86_USER_SPACE_MSR,
        ..Default::default()
    };
    cap.args[0] = KVM_MSR_EXIT_REASON_UNKNOWN.into();
    guest
        .vm
        .enable_cap(&cap)
        .context("KVM_CAP_X86_USER_SPACE_MSR")?;
    Ok(Device::None)
}

/// Memory that the guest touches, a page an exit.
pub fn memory(guest: &Guest, touched: Touched) -> Result<Device> {
    let memory = Mapping::new(BATCHES * COUNT * 4096, Pages::Small, touched)?;
    map(&guest.vm, 1, FRESH, &memory)?;
    Ok(Device::Memory { _memory: memory })
}

fn kinds() -> Vec<Kind> {
    use Irqchip::*;
    let x2apic = code!("mov ecx, 0x80f; mov eax, 0x1ff; xor edx, edx; wrmsr");
    let at_device = code!("mov rbx, 0x10000000");
    let at_port = code!("mov edx, 0x600");
    let kind = |name, apic, setup, prepare, exit, device| Kind {
        name,
        irqchip: Split,
        apic,
        program: Program {
            setup,
            prepare,
            exit,
        },
        device,
    };
    let plain = |name, prepare, exit| kind(name, Apic::Memory, &[], prepare, exit, nothing);
    let x2 = |name, prepare, exit| kind(name, Apic::Msrs, x2apic, prepare, exit, nothing);
    let lapic = |name, exit| {
        let setup = code!("mov rbx, 0xfee00000");
        kind(
            name,
            Apic::Memory,
            setup,
            code!("mov eax, 0x10000"),
            exit,
            nothing,
        )
    };
    let port = |name, exit, device| kind(name, Apic::Memory, &[], at_port, exit, device);
    let mmio = |name, exit, device| {
        kind(
            name,
            Apic::Memory,
            at_device,
            code!("mov eax, 1"),
            exit,
            device,
        )
    };
    let next_page = code!("add rbx, 4096");
    let touch = code!("mov [rbx - 4096], rbx");
    vec![
        plain(
            "cpuid",
            code!("xor eax, eax", "xor ecx, ecx"),
            code!("cpuid"),
        ),
        plain("vmcall", code!("mov eax, 999"), code!("vmcall")),
        plain(
            "rdmsr IA32_MISC_ENABLE",
            code!("mov ecx, 0x1a0"),
            code!("rdmsr"),
        ),
        x2(
            "wrmsr x2APIC EOI",
            code!("mov ecx, 0x80b", "xor eax, eax", "xor edx, edx"),
            code!("wrmsr"),
        ),
        x2(
            "wrmsr IA32_TSC_DEADLINE",
            code!("mov ecx, 0x6e0", "mov eax, -1", "mov edx, 0xffffff"),
            code!("wrmsr"),
        ),
        port("out, ioeventfd", code!("out dx, eax"), port_event),
        Kind {
            irqchip: Kernel,
            ..plain("in, PIC", &[], code!("in al, 0x21"))
        },
        mmio(
            "MMIO write, ioeventfd",
            code!("mov [rbx], eax"),
            matched_event,
        ),
        mmio(
            "MMIO write, ioeventfd of any size",
            code!("mov [rbx], eax"),
            any_event,
        ),
        lapic("MMIO read, LAPIC", code!("mov eax, [rbx + 0x350]")),
        lapic("MMIO write, LAPIC", code!("mov [rbx + 0x350], eax")),
        kind(
            "EPT fault, page there",
            Apic::Memory,
            &[],
            next_page,
            touch,
            |guest| memory(guest, Touched::Yes),
        ),
        kind(
            "EPT fault, fresh page",
            Apic::Memory,
            &[],
            next_page,
            touch,
            |guest| memory(guest, Touched::No),
        ),
        port("in, userspace", code!("in eax, dx"), nothing),
        port("out, userspace", code!("out dx, eax"), nothing),
        mmio("MMIO read, userspace", code!("mov eax, [rbx]"), nothing),
        mmio("MMIO write, userspace", code!("mov [rbx], eax"), nothing),
        kind(
            "rdmsr, userspace",
            Apic::Memory,
            &[],
            code!("mov ecx, 0x12345"),
            code!("rdmsr"),
            msrs_to_userspace,
        ),
    ]
}
