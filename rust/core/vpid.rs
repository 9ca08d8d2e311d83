// SPDX-License-Identifier: GPL-2.0

//! VPIDs by generation.
//!
//! A VPID tags what a CPU caches of a guest's linear translations, so that entries and exits need
//! no flush. There are fewer VPIDs than vCPUs may exist, and a VPID must not name a second vCPU on
//! a CPU that still caches for the first. So they are handed out in *generations*: from 1 up, each
//! once; when they run out, the next generation begins at 1 again, every CPU flushes once before it
//! first enters with a VPID of that generation, and each vCPU gets a new VPID at its next entry.
//! Nothing is ever given back, and nobody is interrupted: a vCPU that runs on through the change
//! keeps its old VPID on its CPU until it exits, and no other enters there meanwhile.
//!
//! Three parties hold state: the [`Allocator`] (one for the host, under the caller's lock; its
//! generation is also published for reading without it), a [`CpuVpids`] per CPU, and a [`Holder`]
//! for each VPID that a vCPU uses (one for L1, one for L2). Before each entry, with interrupts off:
//! read the generation, [`Holder::prepare`]; if [`Prepared::Stale`], allocate under the lock,
//! [`Holder::adopt`], and prepare again with the generation of the new VPID.
//!
//! Only linear and combined mappings are tagged by VPID; a change of guest-physical mappings needs
//! the flush by EPT pointer instead. SDM 3C "Caching Translation Information", 30.4.

use core::num::NonZeroU16;

/// A generation of VPIDs; later ones compare greater. None has the default value.
///
/// 64 bits do not wrap: at one per microsecond they last half a million years.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(transparent)]
pub struct Generation(pub u64);

/// A VPID, valid in its generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vpid {
    id: NonZeroU16,
    generation: Generation,
}

impl Vpid {
    /// Returns the number for the hardware. 0 is the host's.
    #[inline]
    pub const fn id(self) -> NonZeroU16 {
        self.id
    }

    /// Returns the generation, to be published once the allocator's lock is dropped or before.
    #[inline]
    pub const fn generation(self) -> Generation {
        self.generation
    }
}

/// Hands out VPIDs. One for the host.
///
/// # Invariants
///
/// `last` is the number handed out last in `generation`, 0 for none, at most `max`.
#[derive(Debug)]
pub struct Allocator {
    generation: Generation,
    last: u16,
    max: NonZeroU16,
}

impl Allocator {
    /// Makes an allocator of the VPIDs 1 to `max`.
    pub const fn new(max: NonZeroU16) -> Self {
        Self {
            generation: Generation(1),
            last: 0,
            max,
        }
    }

    /// Returns the current generation: VPIDs of another are stale.
    #[inline]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Hands out a VPID that nobody has had in its generation; starts the next generation when
    /// there is none left.
    pub fn allocate(&mut self) -> Vpid {
        if self.last >= self.max.get() {
            self.generation = Generation(self.generation.0.saturating_add(1));
            self.last = 0;
        }
        self.last = self.last.wrapping_add(1);
        // `last` was below `max`, so it did not wrap.
        let id = NonZeroU16::new(self.last).unwrap_or(self.max);
        Vpid {
            id,
            generation: self.generation,
        }
    }
}

/// The number of a host CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuId(pub u32);

/// What a host CPU knows: the latest generation whose VPIDs alone it caches for.
///
/// To be made anew whenever the CPU comes online, as its caches may hold anything then.
#[derive(Debug, Default)]
pub struct CpuVpids {
    clean_for: Generation,
}

impl CpuVpids {
    /// Makes the state of a CPU whose caches may hold anything.
    pub const fn new() -> Self {
        Self {
            clean_for: Generation(0),
        }
    }
}

/// What to flush on the CPU at hand before an entry. A greater value absorbs a lesser one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FlushNeed {
    /// Nothing.
    None,
    /// What is cached for the VPID of the entry: INVVPID, single-context.
    Vpid,
    /// What is cached for all VPIDs but 0: INVVPID, all-context.
    AllContexts,
}

/// The answer to a vCPU that is about to enter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Prepared {
    /// Flush, then enter with this VPID.
    ///
    /// The flush counts as done: it must be carried out even if the entry does not take place.
    Enter {
        /// The VPID.
        vpid: NonZeroU16,
        /// What to flush first.
        flush: FlushNeed,
    },
    /// There is no VPID of the current generation: allocate one, [`Holder::adopt`] it, ask again.
    Stale,
}

/// A VPID that a vCPU uses, and where. One for each that the vCPU uses in turn.
#[derive(Debug, Default)]
pub struct Holder {
    vpid: Option<Vpid>,
    /// The CPU of the last entry with `vpid`: the only one that has seen every invalidation.
    last_cpu: Option<CpuId>,
    is_flush_requested: bool,
}

impl Holder {
    /// Makes a holder without a VPID.
    pub const fn new() -> Self {
        Self {
            vpid: None,
            last_cpu: None,
            is_flush_requested: false,
        }
    }

    /// Takes a new VPID in place of the old.
    ///
    /// Nothing is cached for it on a CPU that is clean for its generation, so requests to flush
    /// the old one are done with.
    pub fn adopt(&mut self, fresh: Vpid) {
        *self = Self {
            vpid: Some(fresh),
            ..Self::new()
        };
    }

    /// Has the VPID flushed before the next entry, on whichever CPU that is.
    ///
    /// By the vCPU's own thread. Other CPUs need no flush now: each flushes when the vCPU comes
    /// back to it.
    #[inline]
    pub fn request_flush(&mut self) {
        self.is_flush_requested = true;
    }

    /// Decides with which VPID, and after which flush, an entry on `cpu` can take place.
    ///
    /// `current` is the allocator's generation, read on this CPU after interrupts were disabled
    /// for this entry.
    ///
    /// # Context
    ///
    /// Interrupts off, from the reading of `current` to the entry.
    #[inline]
    pub fn prepare(&mut self, current: Generation, cpu: CpuId, state: &mut CpuVpids) -> Prepared {
        // The CPU may be ahead of `current` only if the caller read it too early: its flush of
        // the old generation must not be undone.
        let oldest = current.max(state.clean_for);
        let Some(vpid) = self.vpid.filter(|vpid| vpid.generation >= oldest) else {
            return Prepared::Stale;
        };
        let mut flush = FlushNeed::None;
        if self.is_flush_requested || self.last_cpu.is_some_and(|last| last != cpu) {
            flush = FlushNeed::Vpid;
        }
        if state.clean_for < vpid.generation {
            state.clean_for = vpid.generation;
            flush = FlushNeed::AllContexts;
        }
        self.is_flush_requested = false;
        self.last_cpu = Some(cpu);
        Prepared::Enter {
            vpid: vpid.id,
            flush,
        }
    }
}

#[cfg(test)]
mod tests;
