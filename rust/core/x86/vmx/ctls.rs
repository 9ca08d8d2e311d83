// SPDX-License-Identifier: GPL-2.0

//! VM-execution, entry and exit controls.
