// SPDX-License-Identifier: GPL-2.0

//! The record of an instruction that is not complete: what devices gave, and what is posted for them.

use super::items::Items;
use crate::arch::x86::outcome::EptFault;
use burrow_core::x86::emulate::{
    KnownAccess,
    Stop, //
};
use kernel::error::Error;

/// The most device accesses of one transaction: 64 bytes in single bytes is more than any
/// instruction that the emulator executes needs, as it reads at most two operands of 16 bytes.
const MAX_ACCESSES: usize = 16;

/// One access to a device, of at most 8 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fragment {
    pub(super) address: u64,
    pub(super) data: [u8; 8],
    pub(super) len: u8,
    pub(super) is_port: bool,
}

/// What the emulator has done so far of an instruction that is not complete.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// What devices gave, in order.
    pub(super) reads: [[u8; 8]; MAX_ACCESSES],
    pub(super) nr_reads: usize,
    /// How many of `reads` the current attempt has used.
    pub(super) used: usize,
    /// The read that userspace is asked for.
    pub(super) waiting: Option<Fragment>,
    /// How many reads of a port follow for sure, that one included.
    pub(super) ahead: u32,
    /// What userspace gave ahead.
    pub(super) items: Items,
    /// Writes for userspace, in order.
    pub(super) writes: [Fragment; MAX_ACCESSES],
    pub(super) nr_writes: usize,
    /// How many of `writes` userspace has had.
    pub(super) written: usize,
    /// The error of the VMM's memory that stopped the attempt.
    pub(super) host_error: Option<Error>,
    /// The fault in L1's EPT that stopped it.
    pub(super) ept_fault: Option<EptFault>,
    /// What the exit says of the access that caused it.
    pub(super) known: Option<KnownAccess>,
}

impl Replay {
    /// Begins an attempt: what devices gave is there still.
    pub(super) fn begin(&mut self) {
        self.used = 0;
        self.nr_writes = 0;
        self.written = 0;
        self.waiting = None;
        self.host_error = None;
        self.ept_fault = None;
    }

    /// Forgets the instruction.
    pub(crate) fn clear(&mut self) {
        self.begin();
        self.nr_reads = 0;
        self.items = Items::default();
    }

    /// Returns whether the next read is in the record.
    pub(super) fn has_replay(&self) -> bool {
        self.used < self.nr_reads
    }

    /// Returns the next read of the record, if there is one.
    pub(super) fn replayed(&mut self) -> Option<[u8; 8]> {
        if self.used >= self.nr_reads {
            return None;
        }
        let data = self.reads.get(self.used).copied();
        self.used += 1;
        data
    }

    /// Records what a device gave.
    ///
    /// # Errors
    ///
    /// [`Stop::Unhandleable`]: too many for one instruction.
    pub(super) fn record(&mut self, data: [u8; 8]) -> Result<(), Stop> {
        let slot = self
            .reads
            .get_mut(self.nr_reads)
            .ok_or(Stop::Unhandleable)?;
        *slot = data;
        self.nr_reads += 1;
        self.used = self.nr_reads;
        Ok(())
    }

    /// Checks that `len` more bytes can be posted in any alignment.
    ///
    /// # Errors
    ///
    /// [`Stop::Wait`] where what is posted must go out first, which the end of the attempt sees to.
    pub(super) fn make_room(&self, len: usize) -> Result<(), Stop> {
        let needed = len.div_ceil(8) + 2;
        if self.nr_writes != 0 && self.nr_writes + needed > MAX_ACCESSES {
            return Err(Stop::Wait);
        }
        Ok(())
    }

    /// Posts a write for userspace.
    ///
    /// # Errors
    ///
    /// [`Stop::Unhandleable`]: too many for one instruction.
    pub(super) fn post(&mut self, fragment: Fragment) -> Result<(), Stop> {
        let slot = self
            .writes
            .get_mut(self.nr_writes)
            .ok_or(Stop::Unhandleable)?;
        *slot = fragment;
        self.nr_writes += 1;
        Ok(())
    }
}
