// SPDX-License-Identifier: GPL-2.0

//! The x86 half of the effects: VMX, MSRs, the world switch.

pub mod cpu;
pub mod enter;
pub mod hw;
pub mod insn;
pub mod tsc;
pub mod umsr;
pub mod vmcs;
