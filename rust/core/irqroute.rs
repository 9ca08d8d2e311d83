// SPDX-License-Identifier: GPL-2.0

//! GSI routing tables and MSI messages.
