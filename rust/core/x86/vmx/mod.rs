// SPDX-License-Identifier: GPL-2.0

//! VMX as the SDM defines it: VMCS fields, controls, capabilities, exits and instructions.

pub mod capmsr;
pub mod caps;
pub mod ctls;
pub mod exit;
pub mod field;
pub mod insn;
pub mod insn_len;
pub mod pml;
pub mod preemption_timer;
