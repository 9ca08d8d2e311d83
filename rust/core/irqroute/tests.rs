// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

const FULL: Policy<'static> = Policy {
    chip_pins: &[8, 8, 24],
    msi_address_hi_reserved: 0xff,
    xen: XenRoutes::Allowed,
};

fn raw(gsi: u32, kind: u32, target: [u32; 4]) -> RawRoute {
    let [a, b, c, d] = target;
    RawRoute {
        gsi,
        kind,
        flags: 0,
        target: [a, b, c, d, 0, 0, 0, 0],
    }
}

fn pin(gsi: u32, chip: u32, pin: u32) -> RawRoute {
    raw(gsi, KVM_IRQ_ROUTING_IRQCHIP, [chip, pin, 0, 0])
}

fn msi(gsi: u32, data: u32) -> RawRoute {
    raw(gsi, KVM_IRQ_ROUTING_MSI, [0xfee0_0000, 0, data, 9])
}

/// Builds a table and returns its routes.
fn build(raw: &[RawRoute]) -> Result<Vec<Route>, RouteError> {
    let mut routes = vec![Route::default(); raw.len()];
    RoutingTable::build(raw.iter().copied(), &FULL, &mut routes)?;
    Ok(routes)
}

fn error(raw: RawRoute) -> Option<RouteError> {
    Route::decode(&raw, &FULL).err()
}

#[test]
fn entry_has_the_layout_of_the_abi() {
    let mut bytes = [0; RAW_ROUTE_SIZE];
    for (index, word) in bytes.chunks_exact_mut(4).enumerate() {
        word.copy_from_slice(&(index as u32 + 1).to_le_bytes());
    }
    let expected = RawRoute {
        gsi: 1,
        kind: 2,
        flags: 3,
        target: [5, 6, 7, 8, 9, 10, 11, 12],
    };
    assert_eq!(RawRoute::from_bytes(&bytes), expected);
}

#[test]
fn entry_decodes_to_its_target() {
    let target = |raw| Route::decode(&raw, &FULL).map(|route| route.target);
    assert_eq!(target(pin(3, 2, 23)), Ok(Target::Pin { chip: 2, pin: 23 }));
    let plain = Msi {
        address_lo: 0xfee0_0000,
        address_hi: 0,
        data: 0x41,
        devid: None,
    };
    assert_eq!(target(msi(3, 0x41)), Ok(Target::Msi(plain)));
    let with_devid = RawRoute {
        flags: KVM_MSI_VALID_DEVID,
        ..msi(3, 0x41)
    };
    assert_eq!(
        target(with_devid),
        Ok(Target::Msi(Msi {
            devid: Some(9),
            ..plain
        }))
    );
    let xen = raw(3, KVM_IRQ_ROUTING_XEN_EVTCHN, [15, 1, u32::MAX, 0]);
    assert_eq!(
        target(xen),
        Ok(Target::XenEvtchn {
            port: 15,
            vcpu_id: 1
        })
    );
}

#[test]
fn entry_that_breaks_a_rule_is_refused_for_it() {
    let rows = [
        (pin(4096, 0, 0), RouteError::Gsi),
        (pin(0x1_0000, 0, 0), RouteError::Gsi),
        (
            RawRoute {
                flags: 1,
                ..pin(0, 0, 0)
            },
            RouteError::Flags,
        ),
        (
            RawRoute {
                flags: 2,
                ..msi(0, 0)
            },
            RouteError::Flags,
        ),
        (raw(0, 0, [0; 4]), RouteError::Kind),
        (raw(0, 3, [0; 4]), RouteError::Kind),
        (raw(0, 4, [0; 4]), RouteError::Kind),
        (pin(0, 3, 0), RouteError::Chip),
        (pin(0, 0x100, 0), RouteError::Chip),
        (pin(0, 0, 8), RouteError::Pin),
        (pin(0, 2, 24), RouteError::Pin),
        (pin(0, 2, 0x100), RouteError::Pin),
        (
            raw(0, KVM_IRQ_ROUTING_MSI, [0, 0x101, 0, 0]),
            RouteError::MsiAddress,
        ),
        (
            raw(0, KVM_IRQ_ROUTING_XEN_EVTCHN, [0, 0, 0, 0]),
            RouteError::XenPriority,
        ),
    ];
    for (entry, expected) in rows {
        assert_eq!(error(entry), Some(expected), "{entry:?}");
    }
    assert_eq!(error(pin(4095, 2, 23)), None);
    assert_eq!(error(raw(0, KVM_IRQ_ROUTING_MSI, [0, 0x100, 0, 0])), None);
}

#[test]
fn split_mode_refuses_pins_and_takes_messages() {
    let split = Policy {
        chip_pins: &[],
        msi_address_hi_reserved: 0,
        xen: XenRoutes::Refused,
    };
    assert_eq!(Route::decode(&pin(0, 2, 0), &split), Err(RouteError::Chip));
    assert!(Route::decode(&raw(0, KVM_IRQ_ROUTING_MSI, [0, 1, 0, 0]), &split).is_ok());
    let xen = raw(0, KVM_IRQ_ROUTING_XEN_EVTCHN, [15, 1, u32::MAX, 0]);
    assert_eq!(Route::decode(&xen, &split), Err(RouteError::Kind));
}

#[test]
fn line_drives_one_message_or_pins_of_different_controllers() {
    let xen = raw(1, KVM_IRQ_ROUTING_XEN_EVTCHN, [15, 1, u32::MAX, 0]);
    let rows = [
        (vec![pin(1, 0, 1), pin(1, 2, 1)], true),
        (vec![pin(1, 0, 1), pin(1, 1, 1), pin(1, 2, 1)], true),
        (vec![pin(1, 2, 1), pin(2, 2, 1)], true),
        (vec![pin(1, 2, 1), pin(1, 0, 1), pin(1, 2, 2)], false),
        (vec![msi(1, 0), msi(1, 0)], false),
        (vec![pin(1, 0, 1), msi(1, 0)], false),
        (vec![msi(1, 0), xen], false),
    ];
    for (entries, is_legal) in rows {
        let expected = if is_legal {
            None
        } else {
            Some(RouteError::Duplicate)
        };
        assert_eq!(build(&entries).err(), expected, "{entries:?}");
    }
}

#[test]
fn table_has_at_most_4096_entries() {
    let entries: Vec<_> = (0..4096).map(|gsi| msi(gsi, gsi)).collect();
    assert!(build(&entries).is_ok());
    let too_many: Vec<_> = (0..4097).map(|gsi| msi(gsi % 4096, gsi)).collect();
    assert_eq!(build(&too_many), Err(RouteError::TooMany));
    assert!(build(&[]).is_ok());
    let mut short = [Route::default(); 1];
    let two = [msi(0, 0), msi(1, 0)];
    let result = RoutingTable::build(two.into_iter(), &FULL, &mut short);
    assert_eq!(result.err(), Some(RouteError::TooMany));
}

#[test]
fn pin_map_leads_back_to_the_line() {
    let routes = build(&[pin(0, 2, 2), pin(9, 1, 1), pin(9, 2, 9), msi(7, 0)]).unwrap();
    let map = PinMap::new(RoutingTable::of(&routes));
    assert_eq!(map.gsi(2, 2), Some(0));
    assert_eq!(map.gsi(1, 1), Some(9));
    assert_eq!(map.gsi(2, 9), Some(9));
    assert_eq!(map.gsi(2, 0), None);
    assert_eq!((map.gsi(3, 0), map.gsi(0, 24)), (None, None));
}

proptest! {
    #[test]
    fn lookup_finds_what_a_filter_finds(
        gsis in prop::collection::hash_set(0..40u32, 0..30),
        wanted in 0..45u32,
    ) {
        let mut entries = Vec::new();
        for gsi in gsis {
            if gsi % 3 == 0 {
                entries.extend([pin(gsi, 2, gsi % 24), pin(gsi, 0, gsi % 8)]);
            } else {
                entries.push(msi(gsi, gsi));
            }
        }
        let routes = build(&entries).unwrap();
        let table = RoutingTable::of(&routes);
        let found: Vec<_> = table.of_gsi(wanted).to_vec();
        let of_gsi = |route: &&Route| u32::from(route.gsi) == wanted;
        let expected: Vec<_> = routes.iter().filter(of_gsi).copied().collect();
        let nr_expected = entries.iter().filter(|raw| raw.gsi == wanted).count();
        prop_assert_eq!(found.len(), nr_expected);
        prop_assert_eq!(found, expected);
        let nr_below = entries.iter().filter(|raw| raw.gsi < wanted).count();
        prop_assert_eq!(table.below(wanted).len(), nr_below);
    }
}
