// SPDX-License-Identifier: GPL-2.0

//! Nested VMX: a guest hypervisor (L1) and its guests (L2).
//!
//! From below to above: [`vmcs12`] holds the VMCS of L1, [`caps`] what L1 may use, [`check`] and
//! the modules beside it the rules of VM entry, [`state`] the instructions and the mode they are in,
//! [`merge`] how vmcs02 is made for L2, [`sync`] the way back, [`reflect`] whose exit it is,
//! [`pending`] which event is next, [`msrlist`] the MSR lists, [`pool`] which vmcs02s stay hot,
//! [`shadowed`] what L1 touches without an exit, [`timer`] its preemption timer, and [`save`] what
//! userspace takes along when the guest moves.

pub mod caps;
pub mod check;
mod check_controls;
mod check_guest;
mod check_host;
mod check_segments;
pub mod eptwalk;
pub mod merge;
pub mod msrlist;
pub mod pagelog;
pub mod pending;
pub mod pool;
pub mod reflect;
pub mod save;
pub mod shadowed;
pub mod state;
pub mod sync;
pub mod timer;
pub mod vectoring;
pub mod vmcs12;
pub mod vmfunc;
