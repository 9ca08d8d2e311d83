// SPDX-License-Identifier: GPL-2.0

//! Transitions of two-dimensional paging entries.
