// SPDX-License-Identifier: GPL-2.0

//! Nested VMX: a guest hypervisor (L1) and its guests (L2).
