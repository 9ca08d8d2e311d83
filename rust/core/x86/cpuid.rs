// SPDX-License-Identifier: GPL-2.0

//! CPUID: what is supported, and what a guest sees.
