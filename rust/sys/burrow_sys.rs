// SPDX-License-Identifier: GPL-2.0

//! Burrow's effects: what touches the processor, the kernel's C side or userspace memory.
//!
//! This is the only crate with `unsafe`. Every file starts with the invariant that it upholds; every
//! `unsafe` block holds one operation, with an argument from such an invariant.
//!
//! # Safety invariants
//!
//! - A VMCS region is freed only after VMCLEAR on the CPU where it was last loaded ([`x86::vmcs`]).
//! - VMREAD and VMWRITE run only while the VMCS they are meant for is current ([`x86::vmcs`]).
//! - Guest values of registers that the host uses too are in the processor only between
//!   [`x86::hw::Loaded`]'s creation and drop, except for MSRs that the host needs in user mode only:
//!   those go back before the CPU returns there ([`x86::umsr`]).
//! - The pages of a run area outlive every mapping of them ([`run_page`]).
//! - Files made here own what they point to ([`anon_fd`]).
//! - Page-table pages are freed only when no processor can walk them ([`pt_page`]).
//! - Notifier callbacks find what they were registered for ([`mmu_notifier`]); readers of a published
//!   value keep it ([`rcu_ptr`]).
//! - A callback of an eventfd finds its hook ([`eventfd`]).
//! - Memory of the VMM is copied, by address, and never borrowed ([`guest_mem`]).

#![deny(unsafe_op_in_unsafe_fn)]

/// What the kernel's printing macros put in front of each line.
const __LOG_PREFIX: &[u8] = b"kvm_intel\0";

pub mod anon_fd;
mod bindings;
pub mod context;
pub mod eventfd;
pub mod fpu;
pub mod global;
pub mod guest_mem;
pub mod lock;
pub mod mmu_notifier;
pub mod params;
pub mod pt_page;
pub mod rcu_ptr;
pub mod run_page;
pub mod timer;
pub mod trace;
pub mod uapi;
pub mod wait;
pub mod x86;
