// SPDX-License-Identifier: GPL-2.0

//! A small hypervisor that tells what VMX does, one line per observation.
//!
//! It boots by the Linux boot protocol, on the bare machine or in a virtual
//! one, and needs nothing but memory and a port to print to. The same lines must
//! come out wherever it runs: `scripts/differential` compares them. So nothing
//! is printed that may differ between good processors: no addresses, no
//! capability words, no time.
//!
//! A line is `GROUP.NAME: OBSERVATION`, and no two have the same name. The
//! command line chooses groups: `groups=fields,ept`. `console=parallel` prints
//! to the parallel port instead of the serial port.

#![no_std]
#![no_main]

#[macro_use]
mod console;
#[macro_use]
mod l2;
mod bits;
mod cpu;
mod vmx;

mod checks;
mod ept;
mod events;
mod exits;
mod features;
mod fields;
mod instructions;
mod lists;
mod random;
mod rounds;

use core::panic::PanicInfo;

/// A group of observations.
type Group = (&'static str, fn());

/// All groups, in the order in which they run. Those before `ROOT` run outside
/// of VMX operation.
const GROUPS: &[Group] = &[
    ("capabilities", vmx::capabilities),
    ("outside", instructions::outside),
    ("vmxon", instructions::vmxon_group),
    ("vmptr", instructions::pointers),
    ("flags", instructions::flags),
    ("operands", instructions::operands),
    ("launch", instructions::launch_state),
    ("invalidate", instructions::invalidate),
    ("fields", fields::encodings),
    ("values", fields::values),
    ("controls", checks::controls),
    ("host", checks::host),
    ("guest", checks::guest),
    ("refused", checks::refused),
    ("exits", exits::simple),
    ("descriptors", exits::descriptors),
    ("cr", exits::control_registers),
    ("dr", exits::debug_registers),
    ("io", exits::io),
    ("msr", exits::msrs),
    ("exceptions", exits::exceptions),
    ("inject", events::injection),
    ("vectoring", events::vectoring),
    ("modes", events::modes),
    ("window", events::windows),
    ("nmi", events::nmis),
    ("external", events::external),
    ("mtf", events::monitor_trap),
    ("debug", events::debug_exceptions),
    ("task", events::task_switches),
    ("ept", ept::permissions),
    ("walk", ept::walks),
    ("vmfunc", features::functions),
    ("pml", features::page_log),
    ("modebased", features::mode_based),
    ("lists", lists::msr_lists),
    ("pat", lists::pat_and_efer),
    ("tsc", lists::tsc),
    ("apic", lists::apic),
    ("timer", lists::timer),
    ("rounds", rounds::rounds),
    ("random", random::fields),
    ("states", random::states),
    ("sleep", lists::sleep),
    ("init", events::init_signals),
    ("nowhere", instructions::nowhere),
];

/// Whether the command line asks for `group`: it names it, or names none.
fn is_wanted(line: &str, group: &str) -> bool {
    line.split_ascii_whitespace()
        .find_map(|word| word.strip_prefix("groups="))
        .is_none_or(|list| list.split(',').any(|name| name == group))
}

static COMMAND_LINE: cpu::Global<&str> = cpu::Global::new("");

/// What the boot loader was told.
fn command_line() -> &'static str {
    COMMAND_LINE.get()
}

/// Called by `start_64`, with the address of the command line.
#[no_mangle]
extern "C" fn main(line: u32) -> ! {
    let line = cpu::command_line(line);
    COMMAND_LINE.set(line);
    console::init(line.contains("console=parallel"));
    cpu::init();
    if vmx::is_offered() {
        for (name, run) in GROUPS {
            if is_wanted(line, name) {
                run();
                vmx::leave();
                say!("{name}", "end");
            }
        }
    } else {
        say!("vmx", "not offered");
    }
    console::end(0);
}

/// Anything that should not have happened.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::line(format_args!("panic: {}", info.message()));
    if let Some(place) = info.location() {
        console::line(format_args!("panic at {}:{}", place.file(), place.line()));
    }
    console::end(1);
}
