// SPDX-License-Identifier: GPL-2.0

//! Stolen time: how long a vCPU was ready to run and its thread had no processor, on a page that the
//! guest gives.
//!
//! The host counts how long each thread has waited on a run queue. What is added to the guest's
//! page is how much that grew since it was last looked at, for as long as the vCPU stays with one
//! thread.
//!
//! Documentation/virt/kvm/x86/msr.rst, MSR_KVM_STEAL_TIME

use super::pvclock::Version;
use crate::addr::Gpa;

/// MSR_KVM_STEAL_TIME: the page is in use.
const ENABLED: u64 = 1;
/// MSR_KVM_STEAL_TIME: bits that are no part of the address, of which all but the first are 0.
const FLAGS: u64 = 0x3f;

/// The part of `struct kvm_steal_time` that is written, in bytes: `steal`, `version`.
pub const STEAL_SIZE: usize = 12;
/// The offset of `preempted` in `struct kvm_steal_time`, in bytes.
pub const PREEMPTED_AT: u64 = 16;
/// `KVM_VCPU_PREEMPTED`: the vCPU does not run.
pub const PREEMPTED: u8 = 1 << 0;
/// `KVM_VCPU_FLUSH_TLB`: by another vCPU, which saw that: the TLB is to be flushed before it runs.
pub const FLUSH_TLB: u8 = 1 << 1;
/// The offset of `version` in `struct kvm_steal_time`, in bytes.
pub const STEAL_VERSION: u64 = 8;

/// How long a thread has waited for a processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RunDelay {
    /// The thread, by its id.
    pub thread: i32,
    /// Nanoseconds since the thread began.
    pub ns: u64,
}

/// MSR_KVM_STEAL_TIME of a vCPU, and what its guest has been told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StealClock {
    msr: u64,
    told: RunDelay,
}

impl StealClock {
    /// Returns the MSR.
    pub const fn msr(&self) -> u64 {
        self.msr
    }

    /// Sets the MSR. Time is counted from here on, if by the thread that `now` is of.
    pub fn set_msr(&mut self, msr: u64, now: RunDelay) {
        self.msr = msr;
        self.told = now;
    }

    /// Returns where the structure is, if the guest has given a page.
    #[inline]
    pub const fn page(&self) -> Option<Gpa> {
        if self.msr & ENABLED != 0 {
            Some(Gpa(self.msr & !FLAGS))
        } else {
            None
        }
    }

    /// Returns whether the page is to be written.
    #[inline]
    pub fn is_behind(&self, now: RunDelay) -> bool {
        self.msr & ENABLED != 0 && now != self.told
    }

    /// Returns the nanoseconds that were stolen since the last call, and takes `now` as told. A
    /// thread that is new to the vCPU begins at 0.
    pub fn advance(&mut self, now: RunDelay) -> u64 {
        let stolen = if now.thread == self.told.thread {
            now.ns.saturating_sub(self.told.ns)
        } else {
            0
        };
        self.told = now;
        stolen
    }
}

/// What is stored in an update, in this order: the version while it changes, the time, the version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StealUpdate {
    /// The versions.
    pub version: Version,
    /// `steal`, in nanoseconds.
    pub steal: u64,
}

impl StealUpdate {
    /// Returns the update by `stolen` nanoseconds of what is on the guest's page: anything.
    pub fn of(page: [u8; STEAL_SIZE], stolen: u64) -> Self {
        let [a, b, c, d, e, f, g, h, v0, v1, v2, v3] = page;
        Self {
            version: Version::after(u32::from_le_bytes([v0, v1, v2, v3])),
            steal: u64::from_le_bytes([a, b, c, d, e, f, g, h]).wrapping_add(stolen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delay(thread: i32, ns: u64) -> RunDelay {
        RunDelay { thread, ns }
    }

    #[test]
    fn only_an_enabled_msr_names_a_page() {
        let mut clock = StealClock::default();
        clock.set_msr(0x1040, delay(1, 0));
        assert_eq!(clock.page(), None);
        assert!(!clock.is_behind(delay(1, 5)));
        clock.set_msr(0x1041, delay(1, 0));
        assert_eq!(clock.page(), Some(Gpa(0x1040)));
        assert!(clock.is_behind(delay(1, 5)));
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        let mut clock = StealClock::default();
        clock.set_msr(1, delay(7, 100));
        assert!(!clock.is_behind(delay(7, 100)));
        assert_eq!(clock.advance(delay(7, 130)), 30);
        assert_eq!(clock.advance(delay(7, 130)), 0);
        assert_eq!(clock.advance(delay(7, 135)), 5);
    }

    #[test]
    fn another_threads_waits_are_not_the_guests() {
        let mut clock = StealClock::default();
        clock.set_msr(1, delay(7, 100));
        assert!(clock.is_behind(delay(8, 100)));
        assert_eq!(clock.advance(delay(8, 9000)), 0);
        assert_eq!(clock.advance(delay(8, 9001)), 1);
        assert_eq!(clock.advance(delay(7, 50)), 0);
    }

    #[test]
    fn an_update_adds_to_what_the_guest_has_and_its_version_is_odd_meanwhile() {
        let mut page = [0; STEAL_SIZE];
        page[0] = 10;
        page[8] = 6;
        let update = StealUpdate::of(page, 300);
        assert_eq!(update.steal, 310);
        assert_eq!((update.version.busy, update.version.done), (7, 8));
        let update = StealUpdate::of([0xff; STEAL_SIZE], 2);
        assert_eq!(update.steal, 1);
        assert_eq!((update.version.busy, update.version.done), (1, 2));
    }
}
