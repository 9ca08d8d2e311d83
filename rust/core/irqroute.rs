// SPDX-License-Identifier: GPL-2.0

//! GSI routing: from the number of an interrupt line to what it drives.
//!
//! A table is a slice of [`Route`]s in the order of their GSIs, which the caller keeps and
//! publishes; [`RoutingTable::build`] makes it of what KVM_SET_GSI_ROUTING brought, and
//! [`RoutingTable::of_gsi`] finds the routes of a line by binary search. What an architecture
//! allows is a [`Policy`]; what an MSI means is its business too.

/// The number of GSIs, and the most entries that a table may have (KVM_CAP_IRQ_ROUTING).
pub const KVM_MAX_IRQ_ROUTES: usize = 4096;
/// [`RawRoute::kind`]: a pin of an interrupt controller of ours.
pub const KVM_IRQ_ROUTING_IRQCHIP: u32 = 1;
/// [`RawRoute::kind`]: a message-signalled interrupt.
pub const KVM_IRQ_ROUTING_MSI: u32 = 2;
/// [`RawRoute::kind`]: a Xen event channel.
pub const KVM_IRQ_ROUTING_XEN_EVTCHN: u32 = 5;
/// [`RawRoute::flags`]: the device id of an MSI is valid.
pub const KVM_MSI_VALID_DEVID: u32 = 1;
/// The only priority of a Xen event channel: two-level event channels.
const KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL: u32 = u32::MAX;

/// The size of `struct kvm_irq_routing_entry`, in bytes.
pub const RAW_ROUTE_SIZE: usize = 48;

/// `struct kvm_irq_routing_entry`, unchecked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RawRoute {
    /// The line.
    pub gsi: u32,
    /// What kind of target (`type`).
    pub kind: u32,
    /// Flags of the kind.
    pub flags: u32,
    /// The target, in words.
    pub target: [u32; 8],
}

impl RawRoute {
    /// Reads the bytes of the structure.
    pub fn from_bytes(bytes: &[u8; RAW_ROUTE_SIZE]) -> Self {
        let mut words = bytes.chunks_exact(4).map(|word| {
            word.try_into().map_or(0, u32::from_le_bytes) // PANIC: none; each is of 4 bytes.
        });
        let mut next = || words.next().unwrap_or(0);
        let (gsi, kind, flags, _pad) = (next(), next(), next(), next());
        Self {
            gsi,
            kind,
            flags,
            target: core::array::from_fn(|_| next()),
        }
    }
}

/// A message-signalled interrupt, as a device writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Msi {
    /// Bits 31:0 of the address.
    pub address_lo: u32,
    /// Bits 63:32 of the address.
    pub address_hi: u32,
    /// The data.
    pub data: u32,
    /// The device, where the VMM gave it.
    pub devid: Option<u32>,
}

/// What a line drives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A pin of an interrupt controller of ours.
    Pin {
        /// The controller: an index into [`Policy::chip_pins`].
        chip: u8,
        /// The pin.
        pin: u8,
    },
    /// A message.
    Msi(Msi),
    /// A Xen event channel; whether port and vCPU exist shows at delivery.
    XenEvtchn {
        /// The port.
        port: u32,
        /// The id of the vCPU.
        vcpu_id: u32,
    },
}

impl Target {
    /// Orders the targets of one line so that two that exclude each other are neighbours.
    fn rank(&self) -> u8 {
        match self {
            Target::Pin { chip, .. } => *chip,
            Target::Msi(_) | Target::XenEvtchn { .. } => u8::MAX,
        }
    }

    /// Returns whether both may hang on one line: only pins of different controllers.
    fn is_compatible(&self, other: &Self) -> bool {
        match (self, other) {
            (Target::Pin { chip, .. }, Target::Pin { chip: other, .. }) => chip != other,
            _ => false,
        }
    }
}

/// A line and what it drives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// The line, below [`KVM_MAX_IRQ_ROUTES`].
    pub gsi: u16,
    /// What it drives.
    pub target: Target,
}

impl Default for Route {
    /// Returns a route that only fills memory until [`RoutingTable::build`] overwrites it.
    fn default() -> Self {
        Self {
            gsi: 0,
            target: Target::Msi(Msi::default()),
        }
    }
}

/// Whether routes to Xen event channels are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum XenRoutes {
    /// They are refused.
    #[default]
    Refused,
    /// They are taken.
    Allowed,
}

/// What the VM allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy<'a> {
    /// The number of pins of each interrupt controller of ours; empty in split mode, where only
    /// the VMM has them.
    pub chip_pins: &'a [u8],
    /// Bits of the upper half of an MSI's address that must be clear.
    pub msi_address_hi_reserved: u32,
    /// Whether routes to Xen event channels are there.
    pub xen: XenRoutes,
}

/// Why a table is refused; each is EINVAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteError {
    /// More than [`KVM_MAX_IRQ_ROUTES`] entries, or more than the caller's memory holds.
    TooMany,
    /// A GSI of [`KVM_MAX_IRQ_ROUTES`] or above.
    Gsi,
    /// An unknown flag.
    Flags,
    /// A kind that the VM does not have.
    Kind,
    /// No such controller, or any in split mode.
    Chip,
    /// No such pin.
    Pin,
    /// Reserved bits in the address of an MSI.
    MsiAddress,
    /// A Xen event channel other than of two levels.
    XenPriority,
    /// Two targets on one line that exclude each other.
    Duplicate,
}

impl Route {
    /// Checks an entry of KVM_SET_GSI_ROUTING.
    ///
    /// # Errors
    ///
    /// Any [`RouteError`] but `TooMany` and `Duplicate`.
    pub fn decode(raw: &RawRoute, policy: &Policy<'_>) -> Result<Self, RouteError> {
        let gsi = u16::try_from(raw.gsi).map_err(|_| RouteError::Gsi)?;
        if usize::from(gsi) >= KVM_MAX_IRQ_ROUTES {
            return Err(RouteError::Gsi);
        }
        let known_flags = if raw.kind == KVM_IRQ_ROUTING_MSI {
            KVM_MSI_VALID_DEVID
        } else {
            0
        };
        if raw.flags & !known_flags != 0 {
            return Err(RouteError::Flags);
        }
        let target = match raw.kind {
            KVM_IRQ_ROUTING_IRQCHIP => decode_pin(raw, policy)?,
            KVM_IRQ_ROUTING_MSI => decode_msi(raw, policy)?,
            KVM_IRQ_ROUTING_XEN_EVTCHN if policy.xen == XenRoutes::Allowed => decode_xen(raw)?,
            _ => return Err(RouteError::Kind),
        };
        Ok(Self { gsi, target })
    }
}

fn decode_pin(raw: &RawRoute, policy: &Policy<'_>) -> Result<Target, RouteError> {
    let [chip, pin, ..] = raw.target;
    let chip = u8::try_from(chip).map_err(|_| RouteError::Chip)?;
    let nr_pins = policy
        .chip_pins
        .get(usize::from(chip))
        .ok_or(RouteError::Chip)?;
    let pin = u8::try_from(pin).map_err(|_| RouteError::Pin)?;
    if pin >= *nr_pins {
        return Err(RouteError::Pin);
    }
    Ok(Target::Pin { chip, pin })
}

fn decode_msi(raw: &RawRoute, policy: &Policy<'_>) -> Result<Target, RouteError> {
    let [address_lo, address_hi, data, devid, ..] = raw.target;
    if address_hi & policy.msi_address_hi_reserved != 0 {
        return Err(RouteError::MsiAddress);
    }
    let devid = (raw.flags & KVM_MSI_VALID_DEVID != 0).then_some(devid);
    Ok(Target::Msi(Msi {
        address_lo,
        address_hi,
        data,
        devid,
    }))
}

fn decode_xen(raw: &RawRoute) -> Result<Target, RouteError> {
    let [port, vcpu_id, priority, ..] = raw.target;
    if priority != KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL {
        return Err(RouteError::XenPriority);
    }
    Ok(Target::XenEvtchn { port, vcpu_id })
}

/// A routing table over memory of the caller's.
///
/// # Invariants
///
/// The routes are in the order of their GSIs, and those of one GSI are pins of different
/// controllers, or one.
#[derive(Clone, Copy, Debug)]
pub struct RoutingTable<'a> {
    routes: &'a [Route],
}

impl<'a> RoutingTable<'a> {
    /// Checks and sorts `raw` into `routes`, which has as many elements.
    ///
    /// # Errors
    ///
    /// Any [`RouteError`]; what is in `routes` is of no use then.
    pub fn build(
        raw: impl ExactSizeIterator<Item = RawRoute>,
        policy: &Policy<'_>,
        routes: &'a mut [Route],
    ) -> Result<Self, RouteError> {
        if raw.len() > KVM_MAX_IRQ_ROUTES || raw.len() != routes.len() {
            return Err(RouteError::TooMany);
        }
        for (route, raw) in routes.iter_mut().zip(raw) {
            *route = Route::decode(&raw, policy)?;
        }
        sort(routes);
        let mut neighbours = routes.iter().zip(routes.iter().skip(1));
        let is_clash =
            |(a, b): (&Route, &Route)| a.gsi == b.gsi && !a.target.is_compatible(&b.target);
        if neighbours.any(is_clash) {
            return Err(RouteError::Duplicate);
        }
        // INVARIANT: sorted and checked above.
        Ok(Self { routes })
    }

    /// Returns the table that [`Self::build`] left in `routes`. Of any other routes lookups are
    /// wrong, but harmless.
    #[inline]
    pub const fn of(routes: &'a [Route]) -> Self {
        Self { routes }
    }

    /// Returns all routes, in the order of their GSIs.
    #[inline]
    pub const fn routes(&self) -> &'a [Route] {
        self.routes
    }

    /// Returns the routes of line `gsi`: none, one, or pins of different controllers.
    #[inline]
    pub fn of_gsi(&self, gsi: u32) -> &'a [Route] {
        let start = self
            .routes
            .partition_point(|route| u32::from(route.gsi) < gsi);
        let rest = self.routes.get(start..).unwrap_or_default();
        let len = rest
            .iter()
            .take_while(|route| u32::from(route.gsi) == gsi)
            .count();
        rest.get(..len).unwrap_or_default()
    }

    /// Returns the routes of the lines below `gsi`.
    #[inline]
    pub fn below(&self, gsi: u32) -> &'a [Route] {
        let end = self
            .routes
            .partition_point(|route| u32::from(route.gsi) < gsi);
        self.routes.get(..end).unwrap_or_default()
    }
}

/// Sorts `routes` by line and, on a line, by [`Target::rank`].
///
/// By insertion: tables mostly come in the order of their lines, which is linear, and the library's
/// sort has a panic path that a wrong order could lead to.
fn sort(routes: &mut [Route]) {
    let key = |route: &Route| (route.gsi, route.target.rank());
    for len in 0..routes.len() {
        let Some((last, sorted)) = routes.get(..=len).and_then(<[Route]>::split_last) else {
            return;
        };
        let at = sorted.partition_point(|route| key(route) <= key(last));
        if let Some(tail) = routes.get_mut(at..=len) {
            tail.rotate_right(1.min(tail.len()));
        }
    }
}

/// The most controllers that a [`PinMap`] knows.
const MAX_CHIPS: usize = 3;
/// The most pins of a controller that a [`PinMap`] knows.
const MAX_PINS: usize = 24;
/// Not a GSI.
const NO_GSI: u16 = u16::MAX;

/// The way back from a pin to its line, for acknowledgements and resampling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinMap([[u16; MAX_PINS]; MAX_CHIPS]);

impl PinMap {
    /// Makes the map of a table. Of two lines on one pin it knows the higher.
    pub fn new(table: RoutingTable<'_>) -> Self {
        let mut map = Self([[NO_GSI; MAX_PINS]; MAX_CHIPS]);
        for route in table.routes {
            let Target::Pin { chip, pin } = route.target else {
                continue;
            };
            if let Some(gsi) = map.slot(chip, pin) {
                *gsi = route.gsi;
            }
        }
        map
    }

    fn slot(&mut self, chip: u8, pin: u8) -> Option<&mut u16> {
        self.0.get_mut(usize::from(chip))?.get_mut(usize::from(pin))
    }

    /// Returns the line that drives `pin` of `chip`.
    #[inline]
    pub fn gsi(&self, chip: u8, pin: u8) -> Option<u32> {
        let gsi = *self.0.get(usize::from(chip))?.get(usize::from(pin))?;
        (gsi != NO_GSI).then_some(gsi.into())
    }
}

#[cfg(test)]
mod tests;
