// SPDX-License-Identifier: GPL-2.0

//! Tests of the emulator on a machine in memory.

mod alu;
mod control;
mod machine;
mod mov;
mod segment;
mod string;
mod system;
mod transaction;
