// SPDX-License-Identifier: GPL-2.0

//! Exceptions, interrupts and NMIs: pending, injected, blocked.
