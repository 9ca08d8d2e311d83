// SPDX-License-Identifier: GPL-2.0

//! Measures what KVM costs: VM exits in instructions, VMs in bytes.
//!
//! It runs in the test bed, where the time-stamp counter counts instructions,
//! on Burrow and on upstream KVM alike; `scripts/bench` runs it and reads the
//! lines that it prints:
//!
//! ```text
//! cost ID NAME COUNT N       N instructions each, of COUNT under mark ID
//! nested ID NAME COUNT N     the same, of L2
//! bus DEVICES PLACE N        the same, of an access among DEVICES devices
//! memory NAME N              bytes of kernel memory
//! memory.KIND NAME N         the part of it that is in KIND
//! module NAME N              bytes of a loaded module
//! skip NAME REASON           what this KVM cannot do
//! mark N                     what to tell the counter, of `bench linux` in a guest
//! ```

mod bus;
mod exits;
mod guest;
mod halt;
mod l1;
mod linux;
mod mark;
mod memory;
mod nested;

use std::{
    env,
    fs,
    process::ExitCode, //
};

/// What can be measured, by the names that the command line takes.
const PARTS: &[(&str, fn())] = &[
    ("exits", exits::measure),
    ("bus", bus::measure),
    ("memory", memory::measure),
    ("modules", modules),
    ("nested", nested::measure),
];

fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).collect();
    if wanted == ["linux"] {
        guest::interrupt_runs_by_alarm();
        linux::measure();
        return ExitCode::SUCCESS;
    }
    for name in &wanted {
        if !PARTS.iter().any(|(part, _)| part == name) {
            eprintln!("usage: bench [exits] [bus] [memory] [modules] [nested] | bench linux");
            return ExitCode::from(2);
        }
    }
    guest::interrupt_runs_by_alarm();
    for (name, measure) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|part| part == name) {
            measure();
        }
    }
    ExitCode::SUCCESS
}

/// Says that `name` cannot be measured here, and why.
fn skip(name: &str, error: &anyhow::Error) {
    println!("skip {name} {error:#}");
}

/// The size of each loaded module of KVM.
fn modules() {
    let Ok(modules) = fs::read_to_string("/proc/modules") else {
        return;
    };
    for line in modules.lines() {
        let mut words = line.split(' ');
        if let (Some(name @ ("kvm" | "kvm_intel")), Some(size)) = (words.next(), words.next()) {
            println!("module {name} {size}");
        }
    }
}
