// SPDX-License-Identifier: GPL-2.0

//! The host's time-stamp counter, as if it never went backwards.
//!
//! Some machines set it to 0 while they sleep. What was lost is added up here, by the one CPU that is
//! left while the machine falls asleep and wakes up.

use super::insn;
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// The counter when the machine last fell asleep.
static ASLEEP: Atomic<u64> = Atomic::new(0);
/// What it has lost by sleeping, in all.
static LOST: Atomic<u64> = Atomic::new(0);

/// Notes the counter before the machine sleeps.
pub(super) fn suspend() {
    ASLEEP.store(insn::rdtsc(), Relaxed);
}

/// Notes what the counter has lost, after the machine slept.
pub(super) fn resume() {
    let lost = ASLEEP.load(Relaxed).saturating_sub(insn::rdtsc());
    LOST.store(LOST.load(Relaxed).wrapping_add(lost), Relaxed);
}

/// Returns the ticks that the host's counter has lost since the module was loaded.
///
/// They change while all tasks are frozen, so a vCPU that runs sees no change.
#[inline]
pub fn lost() -> u64 {
    LOST.load(Relaxed)
}

/// Returns the host's counter with what it has lost.
#[inline]
pub fn steady() -> u64 {
    insn::rdtsc().wrapping_add(lost())
}
