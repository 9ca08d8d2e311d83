// SPDX-License-Identifier: GPL-2.0

//! What bindgen made of `bindings_helper.h`. Only this crate names its functions.

#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::as_underscore,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    unused_imports
)]

use kernel::bindings::{
    cpumask,
    eventfd_ctx,
    file,
    file_operations,
    inode,
    preempt_notifier,
    preempt_ops,
    rcuwait,
    tracepoint,
    wait_queue_entry, //
};
use kernel::ffi;

type __kernel_size_t = usize;
type __kernel_ssize_t = isize;
type __kernel_ptrdiff_t = isize;

include!(env!("BURROW_BINDINGS"));
