// SPDX-License-Identifier: GPL-2.0

//! What depends on the architecture. Neutral layers name `arch::`, with the same items for each.

mod x86;

pub(crate) use x86::*;
