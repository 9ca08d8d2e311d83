// SPDX-License-Identifier: GPL-2.0

//! Burrow's decisions: everything a hypervisor must *decide*, as pure functions on plain data.
//!
//! This crate knows no kernel: no allocation, no locks, no atomics, no `unsafe`. Kbuild compiles it
//! into the module; cargo compiles the same files on the host, where its tests run in seconds.
//! What it decides is carried out by the glue crate (`rust/burrow.rs`) with the means of
//! `burrow_sys`.
//!
//! # Rules
//!
//! - A guest or a VMM can hand any value to any function here; none of them may panic. Arithmetic
//!   on such values is checked or wrapping, slices are read with `get()`.
//! - Answers are values ([`outcome`]): errors name who is to blame.
//! - A module uses its own and lower modules only; `scripts/check-layers.py` holds us to it.
//!
//! # Glossary
//!
//! - L0, L1, L2: this hypervisor, its guest, and the guest of a guest that is a hypervisor.
//! - vmcs01, vmcs02, vmcs12: the VMCS that L0 keeps for L1, for L2, and that L1 keeps for L2.
//! - gfn, pfn: guest and host page-frame numbers.

#![cfg_attr(not(any(MODULE, test)), no_std)]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::indexing_slicing,
        clippy::too_many_lines,
        clippy::wildcard_enum_match_arm,
        reason = "a test that overflows or panics fails, which is what it is for"
    )
)]

pub mod addr;
#[macro_use]
pub mod bits;
pub mod device_pages;
pub mod dirty;
pub mod iobus;
pub mod irqroute;
pub mod memslot;
pub mod outcome;
pub mod request;
pub mod stats;
pub mod vpid;
pub mod x86;
