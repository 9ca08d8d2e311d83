// SPDX-License-Identifier: GPL-2.0

//! VMX capability MSRs and control adjustment.
