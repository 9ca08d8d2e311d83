// SPDX-License-Identifier: GPL-2.0

//! The I/O bus: which device claims an access.
