// SPDX-License-Identifier: GPL-2.0

//! Exit reasons and qualifications.
