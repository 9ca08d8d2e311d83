// SPDX-License-Identifier: GPL-2.0

//! Control, flag and debug registers.
