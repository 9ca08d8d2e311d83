// SPDX-License-Identifier: GPL-2.0

//! What the memory side asks of the vCPUs.

/// Makes vCPUs forget translations.
pub(crate) trait RemoteFlush: Send + Sync {
    /// Makes every vCPU drop the translations it has cached, and returns when none can use an old
    /// one any more: running ones have left the guest, others will flush before they enter.
    ///
    /// # Context
    ///
    /// Any but NMI; spins for the time of a VM exit.
    fn flush_all(&self);
}
