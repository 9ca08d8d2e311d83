// SPDX-License-Identifier: GPL-2.0

//! What CPUs may cache of the EPTs that a vCPU runs with, and when to flush it.
//!
//! Guest-physical and combined mappings are tagged with bits 51:12 of the EPT pointer, the address of the
//! root table. INVVPID does not reach the former, and no entry or exit flushes them. So a vCPU that runs
//! with several EPTs in turn, as a guest hypervisor's does, keeps account for each of them: on which CPU it
//! was used last, and whether something was unmapped since. Then a flush before an entry is due
//!
//! - where the CPU is not that of the last use, as it has missed what was flushed elsewhere meanwhile;
//! - where a flush was requested since;
//! - at the first use, as the root table may have been the root of another VM.
//!
//! SDM 3C "Caching Translation Information", 30.4; "Operations that Invalidate Cached Mappings", 30.4.3.

use crate::vpid::CpuId;

/// Bits of an EPT pointer that tag mappings.
const TAG: u64 = 0x000f_ffff_ffff_f000;

/// How many EPTs are remembered: a vCPU has its own and one for each vmcs02.
const REMEMBERED: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Use {
    tag: u64,
    cpu: CpuId,
    is_flush_requested: bool,
}

/// The EPTs that a vCPU has run with lately.
#[derive(Debug, Default)]
pub struct EptCaches {
    uses: [Option<Use>; REMEMBERED],
    /// Which one is forgotten next.
    next: usize,
}

/// What to do before an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum EptFlush {
    /// Nothing.
    None,
    /// INVEPT, single-context, with the EPT pointer of the entry. It counts as done.
    Context,
}

impl EptCaches {
    /// Makes the account of a vCPU that has not run.
    pub const fn new() -> Self {
        Self {
            uses: [None; REMEMBERED],
            next: 0,
        }
    }

    /// Has each EPT flushed before its next use: something was unmapped, or the caches of the CPU may hold
    /// anything.
    pub fn request_flush(&mut self) {
        for used in self.uses.iter_mut().flatten() {
            used.is_flush_requested = true;
        }
    }

    /// Decides what to flush on `cpu` before an entry with the EPT pointer `eptp`.
    ///
    /// # Context
    ///
    /// Interrupts off, from here to the entry.
    #[inline]
    pub fn on_entry(&mut self, eptp: u64, cpu: CpuId) -> EptFlush {
        let now = Use {
            tag: eptp & TAG,
            cpu,
            is_flush_requested: false,
        };
        let known = self
            .uses
            .iter_mut()
            .flatten()
            .find(|used| used.tag == now.tag);
        if let Some(used) = known {
            let is_clean = used.cpu == cpu && !used.is_flush_requested;
            *used = now;
            return if is_clean {
                EptFlush::None
            } else {
                EptFlush::Context
            };
        }
        if let Some(room) = self.uses.get_mut(self.next) {
            *room = Some(now);
        }
        self.next = self.next.wrapping_add(1) % REMEMBERED;
        EptFlush::Context
    }
}

#[cfg(test)]
mod tests;
