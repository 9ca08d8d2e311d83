// SPDX-License-Identifier: GPL-2.0

//! Requests to a vCPU and what each implies.
