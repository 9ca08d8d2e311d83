// SPDX-License-Identifier: GPL-2.0

//! GSI routing: the published table, and interrupts through it.
//!
//! Who signals a line looks its routes up each time, so a new table is in force for all at once, and
//! nothing caches routes that would have to be resolved again.

use crate::arch::x86::{
    ipi::Delivered,
    irq::ApicBus, //
};
use burrow_core::{
    irqroute::{
        Msi,
        Policy,
        RawRoute,
        Route,
        RoutingTable,
        Target,
        KVM_MAX_IRQ_ROUTES,
        KVM_MSI_VALID_DEVID,
        RAW_ROUTE_SIZE, //
    },
    request::Request, //
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

type Routes = KVVec<Route>;

/// `KVM_USERSPACE_IRQ_SOURCE_ID`, as the tracepoint shows it.
const SOURCE_USERSPACE: i32 = 0;

/// The lines of a VM.
#[pin_data]
pub(crate) struct Routing {
    apics: Arc<ApicBus>,
    #[pin]
    routes: SrcuPtr<Routes>,
}

impl Routing {
    /// Makes lines that lead nowhere.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(apics: Arc<ApicBus>) -> Result<Arc<Self>> {
        let routes = KBox::new(Routes::new(), GFP_KERNEL_ACCOUNT)?;
        Arc::pin_init(
            try_pin_init!(Self {
                apics,
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
        let mut routes = Routes::with_capacity(entries.len(), GFP_KERNEL_ACCOUNT)?;
        routes.extend_with(entries.len(), Route::default(), GFP_KERNEL_ACCOUNT)?;
        RoutingTable::build(entries.iter().map(raw_route), policy, &mut routes)
            .map_err(|_| EINVAL)?;
        drop(self.routes.replace(KBox::new(routes, GFP_KERNEL_ACCOUNT)?));
        self.apics.request_all(Request::LoadEoiExitmap);
        Ok(())
    }

    /// Calls `f` with the table.
    ///
    /// # Context
    ///
    /// Any but NMI; `f` may sleep, but not change the table.
    pub(crate) fn with_table<R>(&self, f: impl FnOnce(RoutingTable<'_>) -> R) -> R {
        f(RoutingTable::of(&self.routes.read()))
    }

    /// Raises and lowers line `gsi`.
    ///
    /// # Context
    ///
    /// Any but NMI.
    pub(crate) fn pulse(&self, gsi: u32) -> Delivered {
        trace::kvm_set_irq(gsi, 1, SOURCE_USERSPACE);
        self.with_table(|table| match table.of_gsi(gsi) {
            [Route {
                target: Target::Msi(msi),
                ..
            }] => self.apics.deliver_msi(msi),
            // No policy of ours allows other targets yet.
            _ => Delivered::Nowhere,
        })
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
