// SPDX-License-Identifier: GPL-2.0

use super::*;

use std::cell::Cell;

use proptest::prelude::*;

fn range(start: u64, len: u64) -> BusRange {
    BusRange::new(BusAddr(start), len).unwrap()
}

fn at(addr: u64, len: u32) -> Access {
    Access {
        addr: BusAddr(addr),
        len,
    }
}

fn add(bus: &mut Vec<Entry<usize>>, range: BusRange, device: usize) {
    bus.insert(
        insert_position(bus, range),
        Entry::new(range, EntryKind::Device, device),
    );
    rebuild_max_end(bus);
}

/// A bus whose devices are numbered in the order of registration.
fn bus_of(ranges: &[(u64, u64)]) -> Vec<Entry<usize>> {
    let mut bus = Vec::new();
    for (device, &(start, len)) in ranges.iter().enumerate() {
        add(&mut bus, range(start, len), device);
    }
    bus
}

fn asked(bus: &[Entry<usize>], access: Access) -> Vec<usize> {
    candidates(bus, access)
        .map(|index| bus[index].device)
        .collect()
}

/// The specification: filter all, then sort by the documented order.
fn asked_naively(ranges: &[(u64, u64)], access: Access) -> Vec<usize> {
    let mut found: Vec<usize> = (0..ranges.len())
        .filter(|&device| {
            let (start, len) = (u128::from(ranges[device].0), u128::from(ranges[device].1));
            let (addr, bytes) = (u128::from(access.addr.0), u128::from(access.len));
            if len == 0 {
                addr == start
            } else {
                bytes != 0 && start <= addr && addr + bytes <= start + len
            }
        })
        .collect();
    found.sort_by_key(|&device| (Reverse(ranges[device].0), ranges[device].1, device));
    found
}

#[test]
fn an_empty_bus_has_no_candidates() {
    assert!(asked(&[], at(0, 4)).is_empty());
    rebuild_max_end::<usize>(&mut []);
}

#[test]
fn a_device_is_asked_from_its_first_byte_to_its_last() {
    let bus = bus_of(&[(0x1000, 0x10)]);
    assert_eq!(asked(&bus, at(0x1000, 1)), [0]);
    assert_eq!(asked(&bus, at(0x100c, 4)), [0]);
    assert!(asked(&bus, at(0x0fff, 1)).is_empty());
    assert!(asked(&bus, at(0x0fff, 2)).is_empty());
    assert!(asked(&bus, at(0x100d, 4)).is_empty());
    assert!(asked(&bus, at(0x1010, 1)).is_empty());
}

#[test]
fn nested_ranges_are_asked_from_the_inside_out() {
    let bus = bus_of(&[
        (0, 0x10000),
        (0x1000, 0x1000),
        (0x1100, 4),
        (0x1100, 0x100),
        (0x1100, 0),
    ]);
    assert_eq!(asked(&bus, at(0x1100, 4)), [4, 2, 3, 1, 0]);
    assert_eq!(asked(&bus, at(0x1104, 4)), [3, 1, 0]);
    assert_eq!(asked(&bus, at(0x1200, 4)), [1, 0]);
    assert_eq!(asked(&bus, at(0x2000, 4)), [0]);
}

#[test]
fn of_equal_ranges_the_first_registered_is_asked_first() {
    let bus = bus_of(&[(0x60, 1), (0x60, 1), (0x60, 1)]);
    assert_eq!(asked(&bus, at(0x60, 1)), [0, 1, 2]);
}

#[test]
fn an_undecoded_access_finds_only_length_zero() {
    let bus = bus_of(&[(0x1000, 0x1000), (0x1000, 0), (0x1000, 8)]);
    assert_eq!(asked(&bus, at(0x1000, 0)), [1]);
    assert!(asked(&bus, at(0x1001, 0)).is_empty());
}

#[test]
fn accesses_past_the_end_of_the_space_find_only_length_zero() {
    let bus = bus_of(&[(0, u64::MAX), (u64::MAX, 0)]);
    assert_eq!(asked(&bus, at(u64::MAX, 8)), [1]);
    assert_eq!(asked(&bus, at(u64::MAX - 8, 8)), [0]);
    assert!(asked(&bus, at(u64::MAX - 7, 8)).is_empty());
}

#[test]
fn a_range_past_the_end_of_the_space_is_refused() {
    assert_eq!(BusRange::new(BusAddr(u64::MAX), 1), Err(BusError::Range));
    assert!(BusRange::new(BusAddr(u64::MAX), 0).is_ok());
}

#[test]
fn a_full_bus_is_an_error() {
    let full = |kind| vec![Entry::new(range(0, 8), kind, 0); MAX_DEVICES];
    let mut bus = full(EntryKind::Device);
    assert_eq!(
        validate_insert(&bus, EntryKind::Device),
        Err(BusError::Full)
    );
    assert_eq!(validate_insert(&bus, EntryKind::IoEventFd), Ok(()));
    bus.pop();
    assert_eq!(validate_insert(&bus, EntryKind::Device), Ok(()));
    bus.extend(full(EntryKind::IoEventFd));
    assert_eq!(validate_insert(&bus, EntryKind::Device), Ok(()));
    bus.resize(
        MAX_DEVICES - 1 + MAX_IOEVENTFDS,
        Entry::new(range(0, 8), EntryKind::IoEventFd, 0),
    );
    assert_eq!(
        validate_insert(&bus, EntryKind::IoEventFd),
        Err(BusError::Full)
    );
    assert_eq!(validate_insert(&bus, EntryKind::Device), Ok(()));
}

thread_local! {
    static VISITS: Cell<usize> = const { Cell::new(0) };
}

/// Called by `last_reaching` for each entry that it looks at.
pub(super) fn count_visit() {
    VISITS.set(VISITS.get() + 1);
}

#[test]
fn a_lookup_among_1000_looks_at_few_entries() {
    // A wide range below many short ones: a running maximum would walk them all.
    let mut ranges = vec![(0, 1 << 20)];
    ranges.extend((1..1000).map(|device| (device * 16, 4)));
    let bus = bus_of(&ranges);
    for addr in 0..16000 {
        VISITS.set(0);
        let nr_candidates = asked(&bus, at(addr, 4)).len();
        let nr_levels = 10;
        assert!(nr_candidates >= 1);
        assert!(
            VISITS.get() <= (nr_candidates + 1) * 4 * nr_levels,
            "{addr:#x}"
        );
    }
}

fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let start = prop_oneof![0..64u64, u64::MAX - 64..u64::MAX];
    let len = prop_oneof![0..9u64, 0..80u64];
    prop::collection::vec((start, len), 0..60).prop_map(|ranges| {
        ranges
            .into_iter()
            .map(|(start, len)| (start, len.min(u64::MAX - start)))
            .collect()
    })
}

fn accesses() -> impl Strategy<Value = Access> {
    let addr = prop_oneof![0..150u64, u64::MAX - 70..=u64::MAX];
    (addr, 0..9u32).prop_map(|(addr, len)| at(addr, len))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn candidates_are_those_of_a_linear_scan(ranges in ranges(), access in accesses()) {
        let bus = bus_of(&ranges);
        prop_assert_eq!(asked(&bus, access), asked_naively(&ranges, access));
        for entry in &bus {
            let naive = asked_naively(&[(entry.range.start.0, entry.range.len)], access);
            prop_assert_eq!(entry.range.admits(access), naive.len() == 1);
        }
    }

    #[test]
    fn candidates_stay_right_over_removals(
        mut ranges in ranges(),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        access in accesses(),
    ) {
        let mut bus = bus_of(&ranges);
        for index in removed {
            if bus.is_empty() {
                break;
            }
            let gone = bus[index.index(bus.len())].clone();
            let places = starting_at(&bus, gone.range.start);
            let at = places.clone().find(|&at| bus[at].device == gone.device).unwrap();
            prop_assert!(bus[places].iter().all(|e| e.range.start == gone.range.start));
            bus.remove(at);
            rebuild_max_end(&mut bus);
            // No access is ever there.
            ranges[gone.device] = (u64::MAX - 200, 0);
        }
        prop_assert_eq!(asked(&bus, access), asked_naively(&ranges, access));
    }
}
