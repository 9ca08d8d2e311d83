// SPDX-License-Identifier: GPL-2.0

//! What the memory side asks of the vCPUs.

/// Makes vCPUs forget translations.
pub(crate) trait RemoteFlush: Send + Sync {
    /// Makes every vCPU drop the translations it has cached, and returns when none can use an old
    /// one any more: running ones have left the guest, others will flush before they enter. Returns
    /// whether any was in the guest.
    ///
    /// # Context
    ///
    /// Any but NMI; spins for the time of a VM exit.
    fn flush_all(&self) -> bool;

    /// Makes every vCPU that is in the guest leave it, and returns when it has.
    ///
    /// # Context
    ///
    /// As for [`flush_all`](Self::flush_all).
    fn exit_all(&self);

    /// Makes every vCPU find out whether its CPU is to log writes, before it enters again, and returns
    /// when none is in the guest that does not know.
    ///
    /// # Context
    ///
    /// As for [`flush_all`](Self::flush_all).
    fn logging_changed(&self);
}
