// SPDX-License-Identifier: GPL-2.0

//! The cost of an exit of L2 whose L1 is Linux with its own KVM: an ordinary exit, measured in a guest.
//!
//! `bench/linux.sh` runs this program there. Nothing of a guest reaches the counter outside of the bed, so
//! this says on its console when to count, and the script hands it on.

use crate::{
    exits::{
        self,
        COUNT, //
    },
    skip, //
};

/// The mark.
const ID: usize = 100;
/// Enough that most rounds are over while they are counted, though the mark takes a while to get out.
const BATCHES: usize = 100;
const NAME: &str = "cpuid, Linux's KVM as L1";

/// Measures CPUID.
pub fn measure() {
    println!("mark {}", 2 * ID + 1);
    let cost = exits::cpuid(ID, BATCHES);
    println!("mark 0");
    match cost {
        Ok(cost) => println!("nested {ID} {NAME} {} {cost:.1}", BATCHES * COUNT),
        Err(error) => skip(NAME, &error),
    }
}
