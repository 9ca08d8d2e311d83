// SPDX-License-Identifier: GPL-2.0

//! Descriptors of the binary statistics.
