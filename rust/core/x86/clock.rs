// SPDX-License-Identifier: GPL-2.0

//! TSC scaling, offsets and the paravirtual clock.
