// SPDX-License-Identifier: GPL-2.0

//! GSI routing: the published table, and interrupts through it.
//!
//! Who signals a line looks its routes up each time, so a new table is in force for all at once, and
//! nothing caches routes that would have to be resolved again.

use crate::arch::x86::{
    chips::{
        self,
        Chips, //
    },
    ipi::Delivered,
    irq::ApicBus, //
};
use burrow_core::{
    irqroute::{
        Msi,
        PinMap,
        Policy,
        RawRoute,
        Route,
        RoutingTable,
        Target,
        XenRoutes,
        KVM_MAX_IRQ_ROUTES,
        KVM_MSI_VALID_DEVID,
        RAW_ROUTE_SIZE, //
    },
    request::Request,
    x86::irqchip::{
        apic_dest::Identity,
        ioapic::Tracking,
        line::{
            LineLevel,
            LineStatus,
            Source, //
        },
        msi::{
            self,
            EoiExits, //
        },
    },
};
use burrow_sys::{
    rcu_ptr::SrcuPtr,
    trace,
    uapi::{
        kvm_irq_routing_entry,
        kvm_msi,
        Plain, //
    },
};
use kernel::{
    c_str,
    prelude::*,
    static_lock_class,
    sync::Arc, //
};

/// A table, and the way back from pins to lines.
struct Routes {
    routes: KVVec<Route>,
    pins: PinMap,
}

impl Routes {
    /// # Errors
    ///
    /// `EINVAL` for an entry that `policy` does not allow; `ENOMEM` when there is no memory.
    fn new(
        entries: impl ExactSizeIterator<Item = RawRoute>,
        policy: &Policy<'_>,
    ) -> Result<KBox<Self>> {
        let mut routes = KVVec::with_capacity(entries.len(), GFP_KERNEL_ACCOUNT)?;
        routes.extend_with(entries.len(), Route::default(), GFP_KERNEL_ACCOUNT)?;
        let table = RoutingTable::build(entries, policy, &mut routes).map_err(|_| EINVAL)?;
        let pins = PinMap::new(table);
        Ok(KBox::new(Self { routes, pins }, GFP_KERNEL_ACCOUNT)?)
    }
}

/// The lines of a VM.
#[pin_data]
pub(crate) struct Routing {
    apics: Arc<ApicBus>,
    chips: Arc<Chips>,
    #[pin]
    routes: SrcuPtr<Routes>,
}

impl Routing {
    /// Makes lines that lead nowhere.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(apics: Arc<ApicBus>, chips: Arc<Chips>) -> Result<Arc<Self>> {
        let none = Policy {
            chip_pins: &[],
            msi_address_hi_reserved: 0,
            xen: XenRoutes::Refused,
        };
        let routes = Routes::new(core::iter::empty(), &none)?;
        Arc::pin_init(
            try_pin_init!(Self {
                apics,
                chips,
                routes <- SrcuPtr::new(routes, c_str!("kvm_irq_routing"), static_lock_class!()),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// `KVM_SET_GSI_ROUTING`: replaces the whole table. On return no interrupt takes an old route,
    /// and vCPUs that run will look anew whose EOIs userspace wants.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` for too many entries, or one that `policy` does not allow; `ENOMEM` when there is no
    /// memory.
    pub(crate) fn set(&self, entries: &[kvm_irq_routing_entry], policy: &Policy<'_>) -> Result {
        if entries.len() > KVM_MAX_IRQ_ROUTES {
            return Err(EINVAL);
        }
        self.replace(Routes::new(entries.iter().map(raw_route), policy)?);
        Ok(())
    }

    /// Replaces the whole table by those of `KVM_CREATE_IRQCHIP`.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// As [`set()`](Self::set).
    pub(crate) fn set_default(&self, policy: &Policy<'_>) -> Result {
        self.replace(Routes::new(msi::default_routes(), policy)?);
        Ok(())
    }

    fn replace(&self, new: KBox<Routes>) {
        drop(self.routes.replace(new));
        self.apics.request_all(Request::LoadEoiExitmap);
    }

    /// Calls `f` with the table.
    ///
    /// # Context
    ///
    /// Any but NMI; `f` may sleep, but not change the table.
    fn with_table<R>(&self, f: impl FnOnce(RoutingTable<'_>) -> R) -> R {
        f(RoutingTable::of(&self.routes.read().routes))
    }

    /// Returns the way to local APICs.
    pub(crate) fn apics(&self) -> &ApicBus {
        &self.apics
    }

    /// Returns the line that drives a pin of a chip.
    pub(crate) fn gsi_of(&self, (chip, pin): (u8, u8)) -> Option<u32> {
        self.routes.read().pins.gsi(chip, pin)
    }

    /// Returns whose EOIs on the vCPU with `identity` the I/O APIC of userspace wants: see
    /// [`EoiExits::of_split`].
    pub(crate) fn eoi_exits(
        &self,
        nr_reserved: u32,
        identity: &Identity,
        has_pending_eoi: impl Fn(u8) -> bool,
    ) -> EoiExits {
        self.with_table(|table| {
            let apics = &self.apics;
            apics.eoi_exits(table, nr_reserved, identity, has_pending_eoi)
        })
    }

    /// Sets the level of `source` on line `gsi`.
    ///
    /// # Context
    ///
    /// Any but NMI.
    pub(crate) fn set_line(
        &self,
        gsi: u32,
        source: Source,
        level: LineLevel,
        tracking: Tracking,
    ) -> LineStatus {
        trace::kvm_set_irq(gsi, i32::from(level == LineLevel::High), source as i32);
        self.with_table(|table| {
            let mut status = LineStatus::default();
            for route in table.of_gsi(gsi) {
                status = status.and(match route.target {
                    Target::Pin { chip, pin } => {
                        self.chips.set_line((chip, pin), source, level, tracking)
                    }
                    Target::Msi(msi) if level == LineLevel::High => {
                        chips::status_of(self.apics.deliver_msi(&msi))
                    }
                    Target::Msi(_) | Target::XenEvtchn { .. } => LineStatus::Ignored,
                });
            }
            status
        })
    }

    /// Raises and lowers line `gsi` for `source`.
    ///
    /// # Context
    ///
    /// Any but NMI.
    pub(crate) fn pulse(&self, gsi: u32, source: Source) -> LineStatus {
        let status = self.set_line(gsi, source, LineLevel::High, Tracking::Off);
        let _ = self.set_line(gsi, source, LineLevel::Low, Tracking::Off);
        status
    }

    /// `KVM_SIGNAL_MSI`: returns how many APICs took the interrupt, 0 when none did.
    ///
    /// # Errors
    ///
    /// `EINVAL` for an undefined flag, or reserved bits in the address.
    pub(crate) fn signal_msi(&self, args: &kvm_msi) -> Result<isize> {
        let is_address_bad = args.address_hi & self.apics.msi_format().address_hi_reserved() != 0;
        if args.flags & !KVM_MSI_VALID_DEVID != 0 || is_address_bad {
            return Err(EINVAL);
        }
        let msi = Msi {
            address_lo: args.address_lo,
            address_hi: args.address_hi,
            data: args.data,
            devid: None,
        };
        Ok(match self.apics.deliver_msi(&msi) {
            Delivered::Nowhere => 0,
            Delivered::Coalesced => 1,
            // CAST: there are fewer vCPUs than 2^31.
            Delivered::To(receivers) => receivers as isize,
        })
    }
}

fn raw_route(entry: &kvm_irq_routing_entry) -> RawRoute {
    const _: () = assert!(core::mem::size_of::<kvm_irq_routing_entry>() == RAW_ROUTE_SIZE);
    // The whole of it, as the size says.
    entry
        .as_bytes()
        .first_chunk()
        .map_or(RawRoute::default(), RawRoute::from_bytes)
}
