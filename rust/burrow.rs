// SPDX-License-Identifier: GPL-2.0

//! Burrow: KVM for Intel VT-x.
//!
//! This crate is the glue: it carries out what [`burrow_core`] decides with the means of
//! [`burrow_sys`]. It has no `unsafe`. Modules are listed from the lowest layer to the highest; each
//! uses its own and lower ones only.

#![deny(unsafe_code)]

mod host;
mod vm;

mod arch;

mod run;

mod ioctl;

use burrow_sys::x86::cpu;
use kernel::{
    miscdevice::MiscDeviceRegistration,
    prelude::*, //
};

module! {
    type: Burrow,
    name: "kvm_intel",
    authors: ["The Burrow developers"],
    description: "Burrow: KVM for Intel VT-x",
    license: "GPL",
}

/// The loaded module: dropped in the order of the fields.
#[pin_data]
struct Burrow {
    /// `/dev/kvm`; goes first, so that nobody can open it while the rest is taken down.
    #[pin]
    device: MiscDeviceRegistration<ioctl::system::KvmDevice>,
    _vmx: cpu::Enabled,
}

impl kernel::InPlaceModule for Burrow {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _: { host::init()? },
            _vmx: cpu::Enabled::new([host::keep(), vm::debugfs::keep()])?,
            _: { vm::debugfs::init()? },
            device <- MiscDeviceRegistration::register(ioctl::system::OPTIONS),
        })
    }
}
