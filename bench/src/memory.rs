// SPDX-License-Identifier: GPL-2.0

//! Kernel memory that VMs, vCPUs and mapped guest memory take.
//!
//! What is counted is all pages that are no longer free, less those that are
//! userspace's, over many objects of a kind. So nothing can hide, however it
//! was allocated; what the kernel's own counters say of it comes beside it.

use anyhow::{
    bail,
    Context,
    Result, //
};
use kvm_ioctls::{
    Kvm,
    VcpuExit,
    VcpuFd, //
};
use std::{
    collections::HashMap,
    fs,
    thread,
    time::Duration, //
};

use crate::{
    code,
    guest::{
        create_vcpu,
        create_vm,
        map,
        Apic,
        Guest,
        Irqchip,
        Mapping,
        Pages,
        Program,
        Touched, //
    },
    skip, //
};

/// VMs, and vCPUs, among which the growth is divided. As many are made before,
/// and stay: what has to be allocated for the first ones alone is then there.
const OBJECTS: usize = 32;
/// Bytes of guest memory, and where the guest has them.
const MAPPED: usize = 1 << 30;
const AT: u64 = 0x4000_0000;
/// Parts of the kernel's memory that /proc/meminfo tells.
const KINDS: &[&str] = &["Slab", "SecPageTables", "VmallocUsed", "Percpu"];
/// Parts that userspace's memory takes.
const USER: &[&str] = &[
    "AnonPages",
    "PageTables",
    "Cached",
    "Buffers",
    "KernelStack",
];

/// A measurement.
type Run = fn() -> Result<Growth>;

/// Measures all.
pub fn measure() {
    let measurements: [(&str, f64, Run); 4] = [
        ("VM", OBJECTS as f64, vms),
        ("vCPU", OBJECTS as f64, vcpus),
        ("GiB in 4-KiB pages", 1.0, || mapped(Pages::Small)),
        ("GiB in 2-MiB pages", 1.0, || mapped(Pages::Huge)),
    ];
    for (name, divisor, run) in measurements {
        match run() {
            Ok(growth) => growth.print(name, divisor),
            Err(error) => skip(&format!("memory of a {name}"), &error),
        }
    }
}

/// VMs with an irqchip and nothing else.
fn vms() -> Result<Growth> {
    let kvm = Kvm::new()?;
    let mut vms = Vec::with_capacity(2 * OBJECTS);
    growth_of(|| {
        for _ in 0..OBJECTS {
            vms.push(create_vm(&kvm, Irqchip::Split)?);
        }
        Ok(())
    })
}

/// The vCPUs of one VM; each has run.
fn vcpus() -> Result<Growth> {
    let kvm = Kvm::new()?;
    let mut guest = Guest::new(Irqchip::Split, Apic::Memory)?;
    let program = Program {
        setup: &[],
        prepare: &[],
        exit: &[],
    };
    guest.run(&program, 1, 1, 0)?;
    let mut regs = guest.vcpu.get_regs()?;
    // The program's last instruction, OUT, again.
    regs.rip = guest.last_instruction();
    let mut vcpus: Vec<VcpuFd> = Vec::with_capacity(2 * OBJECTS);
    growth_of(|| {
        for _ in 0..OBJECTS {
            let id = vcpus.len() as u64 + 1;
            let mut vcpu = create_vcpu(&kvm, &guest.vm, id, Apic::Memory)?;
            vcpu.set_regs(&regs)?;
            match vcpu.run().context("KVM_RUN")? {
                VcpuExit::IoOut(..) => {}
                exit => bail!("unexpected exit {exit:?}"),
            }
            vcpus.push(vcpu);
        }
        Ok(())
    })
}

/// How much the second run of `make` takes.
fn growth_of(mut make: impl FnMut() -> Result<()>) -> Result<Growth> {
    make()?;
    let before = State::now()?;
    make()?;
    State::now()?.since(&before)
}

/// Guest memory: the slot, and every page mapped by a write of the guest.
fn mapped(pages: Pages) -> Result<Growth> {
    let mut guest = Guest::new(Irqchip::Split, Apic::Memory)?;
    let program = Program {
        setup: &[],
        prepare: &[],
        exit: code!("mov [rbx], rbx", "add rbx, 4096"),
    };
    let nothing = Program {
        exit: &[],
        ..program
    };
    guest.run(&nothing, 1, 1, 0)?;
    let memory = Mapping::new(MAPPED, pages, Touched::Yes)?;
    let before = State::now()?;
    map(&guest.vm, 1, AT, &memory)?;
    guest.run(&program, 1, MAPPED / 4096, AT)?;
    State::now()?.since(&before)
}

/// The memory of the machine, in bytes.
struct State {
    free: i64,
    counters: HashMap<String, i64>,
}

/// What became of the free memory.
struct Growth {
    total: i64,
    kinds: Vec<(&'static str, i64)>,
}

impl State {
    fn now() -> Result<Self> {
        // What is freed by RCU is freed; the per-CPU differences of the counters
        // are added to them.
        thread::sleep(Duration::from_millis(300));
        let _ = fs::write("/proc/sys/vm/stat_refresh", "1");
        let meminfo = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
        let mut counters = HashMap::new();
        for line in meminfo.lines() {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(Ok(kib))) = (words.next(), words.next().map(str::parse::<i64>))
            {
                counters.insert(name.trim_end_matches(':').to_owned(), kib << 10);
            }
        }
        let free = counters.get("MemFree").context("MemFree")? + free_on_cpus()?;
        Ok(Self { free, counters })
    }

    fn since(&self, before: &Self) -> Result<Growth> {
        let growth = |name: &str| -> i64 {
            let of = |state: &Self| state.counters.get(name).copied().unwrap_or(0);
            of(self) - of(before)
        };
        let user: i64 = USER.iter().copied().map(growth).sum();
        let total = before.free - self.free - user;
        Ok(Growth {
            total,
            kinds: KINDS.iter().map(|&name| (name, growth(name))).collect(),
        })
    }
}

impl Growth {
    fn print(&self, name: &str, divisor: f64) {
        println!("memory {name} {:.0}", self.total as f64 / divisor);
        for (kind, bytes) in &self.kinds {
            println!("memory.{kind} {name} {:.0}", *bytes as f64 / divisor);
        }
    }
}

/// Free pages that the CPUs keep for themselves, in bytes.
fn free_on_cpus() -> Result<i64> {
    let zones = fs::read_to_string("/proc/zoneinfo").context("/proc/zoneinfo")?;
    let counts = zones
        .lines()
        .filter_map(|line| line.trim().strip_prefix("count:"));
    Ok(counts
        .filter_map(|count| count.trim().parse::<i64>().ok())
        .sum::<i64>()
        * 4096)
}
