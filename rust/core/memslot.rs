// SPDX-License-Identifier: GPL-2.0

//! Memory slots: transitions, overlap and lookup.
