// SPDX-License-Identifier: GPL-2.0

//! The instruction decoder and emulator.
