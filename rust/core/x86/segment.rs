// SPDX-License-Identifier: GPL-2.0

//! Segments and their access rights.
