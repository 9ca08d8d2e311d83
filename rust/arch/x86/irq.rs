// SPDX-License-Identifier: GPL-2.0

//! Message-signalled interrupts: from devices, and from the VMM in their name, to local APICs.

use crate::{
    arch::x86::ipi::{
        self,
        Delivered,
        Origin, //
    },
    vm::vcpus::Vcpus, //
};
use burrow_core::{
    irqroute::Msi,
    request::Request,
    x86::irqchip::{
        apic_dest::BroadcastQuirk,
        msi::{
            self,
            MsiFormat, //
        },
    },
};
use burrow_sys::trace;
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};

/// The way from devices to the local APICs of a VM.
pub(crate) struct ApicBus {
    vcpus: Arc<Vcpus>,
    /// `KVM_X2APIC_API_USE_32BIT_IDS`.
    has_wide_msis: Atomic<bool>,
    /// `KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK`.
    is_quirk_disabled: Atomic<bool>,
}

impl ApicBus {
    /// Makes the way to the APICs of `vcpus`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(vcpus: Arc<Vcpus>) -> Result<Arc<Self>> {
        let bus = Self {
            vcpus,
            has_wide_msis: Atomic::new(false),
            is_quirk_disabled: Atomic::new(false),
        };
        Ok(Arc::new(bus, GFP_KERNEL_ACCOUNT)?)
    }

    /// Turns on what `KVM_CAP_X2APIC_API` was enabled with; what is on stays on.
    pub(crate) fn enable_x2apic_api(&self, format: MsiFormat, quirk: BroadcastQuirk) {
        if format == MsiFormat::X2Apic {
            self.has_wide_msis.store(true, Relaxed);
        }
        if quirk == BroadcastQuirk::Disabled {
            self.is_quirk_disabled.store(true, Relaxed);
        }
    }

    /// Returns how wide the destination of an MSI is.
    pub(crate) fn msi_format(&self) -> MsiFormat {
        if self.has_wide_msis.load(Relaxed) {
            MsiFormat::X2Apic
        } else {
            MsiFormat::Plain
        }
    }

    fn quirk(&self) -> BroadcastQuirk {
        if self.is_quirk_disabled.load(Relaxed) {
            BroadcastQuirk::Disabled
        } else {
            BroadcastQuirk::Enabled
        }
    }

    /// Makes `request` of every vCPU.
    pub(crate) fn request_all(&self, request: Request) {
        self.vcpus.request_all(request);
    }

    /// Delivers a message-signalled interrupt.
    ///
    /// # Context
    ///
    /// Any but NMI.
    pub(crate) fn deliver_msi(&self, msi: &Msi) -> Delivered {
        let address = u64::from(msi.address_hi) << 32 | u64::from(msi.address_lo);
        trace::kvm_msi_set_irq(address, msi.data);
        let message = msi::decode(msi, self.msi_format());
        ipi::deliver(&self.vcpus, &message, Origin::Device(self.quirk()))
    }
}
