// SPDX-License-Identifier: GPL-2.0

//! VM-instruction errors and operands.
