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
    irqroute::{
        Msi,
        RoutingTable, //
    },
    request::Request,
    x86::irqchip::{
        apic_dest::{
            BroadcastQuirk,
            Identity,
            Lint0, //
        },
        apic_msg::Message,
        msi::{
            self,
            EoiExits,
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
        self.deliver(&message, |_| {})
    }

    /// Delivers the message of a device, and calls `to` with the index of each vCPU that took it.
    ///
    /// # Context
    ///
    /// Any but NMI.
    pub(crate) fn deliver(&self, message: &Message, to: impl FnMut(u32)) -> Delivered {
        ipi::deliver_to(&self.vcpus, message, Origin::Device(self.quirk()), to)
    }

    /// Makes the vCPUs look whose LINT0 lets the interrupts of the 8259A through.
    ///
    /// # Context
    ///
    /// Any but NMI.
    pub(crate) fn interrupt_of_pic(&self) {
        self.vcpus.for_each(|vcpu| {
            if Identity::unpack(vcpu.identity()).lint0 == Lint0::ExtInt {
                vcpu.kick.request(Request::EventPending);
            }
        });
    }

    /// Raises an NMI wherever LINT0 is programmed for that: the NMI watchdog of old guests.
    ///
    /// # Context
    ///
    /// Any but NMI.
    pub(crate) fn nmi_of_timer(&self) {
        self.vcpus.for_each(|vcpu| {
            if Identity::unpack(vcpu.identity()).lint0 == Lint0::Nmi {
                vcpu.posted.post_nmi();
                vcpu.kick.kick();
            }
        });
    }

    /// Returns whose EOIs the I/O APIC of userspace wants, as [`EoiExits::of_split`].
    pub(crate) fn eoi_exits(
        &self,
        table: RoutingTable<'_>,
        nr_reserved: u32,
        identity: &Identity,
        has_pending_eoi: impl Fn(u8) -> bool,
    ) -> EoiExits {
        let (format, quirk) = (self.msi_format(), self.quirk());
        EoiExits::of_split(table, nr_reserved, format, identity, quirk, has_pending_eoi)
    }
}
