// SPDX-License-Identifier: GPL-2.0

//! What this CPU caches of translations, dropped.
//!
//! An instruction that fails here is a bug of ours, as the types that are used were found when the
//! module was loaded; to go on would let a guest reach memory that is not its own. So the VM dies.

use burrow_core::{
    outcome::Bug,
    vpid::FlushNeed, //
};
use burrow_sys::{
    context::PreemptOff,
    x86::insn::{
        self,
        Invept,
        Invvpid, //
    },
};
use core::num::NonZeroU16;

/// Drops what is cached of the EPT with pointer `eptp`.
///
/// # Errors
///
/// A bug where the processor refuses.
#[inline]
pub(crate) fn flush_ept(eptp: u64, _preempt: &PreemptOff) -> Result<(), Bug> {
    insn::invept(Invept::Single(eptp)).map_err(|_| Bug("INVEPT failed"))
}

/// Drops what is cached of linear addresses, as far as `need` says, for `vpid`.
///
/// # Errors
///
/// A bug where the processor refuses.
#[inline]
pub(crate) fn flush_vpid(
    need: FlushNeed,
    vpid: NonZeroU16,
    _preempt: &PreemptOff,
) -> Result<(), Bug> {
    match need {
        FlushNeed::None => Ok(()),
        FlushNeed::Vpid => invvpid(Invvpid::Single(vpid.get())),
        FlushNeed::AllContexts => invvpid(Invvpid::All),
    }
}

/// Drops what is cached of linear address `address` under `vpid`.
///
/// # Errors
///
/// A bug where the processor refuses.
pub(crate) fn flush_address(vpid: u16, address: u64, _preempt: &PreemptOff) -> Result<(), Bug> {
    invvpid(Invvpid::Address(vpid, address))
}

#[inline]
fn invvpid(what: Invvpid) -> Result<(), Bug> {
    insn::invvpid(what).map_err(|_| Bug("INVVPID failed"))
}
