// SPDX-License-Identifier: GPL-2.0

//! Nested VMX: what [`burrow_core::x86::nested`] decides, carried out.
//!
//! Words: L1 is the guest hypervisor, L2 its guest; vmcs12 the VMCS that L1 keeps for L2, vmcs01 and
//! vmcs02 those that the processor runs L1 and L2 with.
//!
//! While L2 runs, vmcs02 is current, and [`VcpuArch`](super::state::VcpuArch) holds what is L2's:
//! control registers, VMX controls, VPID. What is L1's of these waits in [`state::Nested`]. So all that
//! acts on "the guest" acts on L2, and asks [`Cpu::is_l2`](super::cpu::Cpu::is_l2) where L1 has a say.
//!
//! [`state`]: data; [`caps`]: the capability MSRs; [`insn`]: VMX instructions of L1, with [`operand`]
//! and [`region`], and [`access`] and [`invalidate`] for some; [`enter`] and [`leave`]: the ways into L2
//! and back, with [`env`], [`vmcs02`], [`pages`] and [`lists`]; [`shadow`]: what L1 reads and writes of
//! vmcs12 without an exit; [`reflect`]: exits of L2; [`events`]: events while L2 runs; [`ept`]: L1's EPT;
//! [`save`]: `KVM_GET_NESTED_STATE` and its counterpart; [`smm`]: SMI and RSM.

pub(crate) mod state;

mod access;
mod caps;
mod enter;
mod env;
mod ept;
mod events;
mod insn;
mod invalidate;
mod leave;
mod lists;
mod operand;
mod pages;
mod reflect;
mod region;
mod resume;
mod save;
mod shadow;
mod smm;
mod vmcs02;
mod vmfunc;

pub(crate) use insn::execute;
pub(crate) use reflect::route;
pub(crate) use state::feature_msr;
