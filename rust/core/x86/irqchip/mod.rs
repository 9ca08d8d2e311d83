// SPDX-License-Identifier: GPL-2.0

//! Models of the interrupt controllers.

pub mod lapic;
