// SPDX-License-Identifier: GPL-2.0

//! Dirty-page bitmaps.
