// SPDX-License-Identifier: GPL-2.0

//! The guest's own page walk.
