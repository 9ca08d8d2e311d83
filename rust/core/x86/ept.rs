// SPDX-License-Identifier: GPL-2.0

//! EPT entries and pointers.
