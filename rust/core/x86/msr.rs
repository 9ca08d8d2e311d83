// SPDX-License-Identifier: GPL-2.0

//! MSRs: owners, reserved bits, lists.
