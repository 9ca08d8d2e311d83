// SPDX-License-Identifier: GPL-2.0

use super::*;

use std::collections::BTreeMap;

use proptest::prelude::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot(MemRegion);

impl SlotView for Slot {
    fn id(&self) -> u16 {
        self.0.name.id
    }
    fn base_gfn(&self) -> Gfn {
        self.0.base_gfn
    }
    fn npages(&self) -> u64 {
        self.0.npages
    }
    fn hva(&self) -> Hva {
        self.0.hva
    }
    fn flags(&self) -> SlotFlags {
        self.0.flags
    }
}

/// The two orders, changed as the docs of [`Change`] say.
#[derive(Default)]
struct Space {
    by_gfn: Vec<Slot>,
    by_id: Vec<Slot>,
}

impl Space {
    fn set(&mut self, raw: &RawRegion) -> Result<Change, SlotError> {
        let region = MemRegion::new(raw, &LIMITS)?;
        let change = plan(&self.by_gfn, &self.by_id, &region, &LIMITS)?;
        let new = Slot(region);
        match change {
            Change::Nothing => {}
            Change::Create(place) => {
                self.by_gfn.insert(place.by_gfn, new);
                self.by_id.insert(place.by_id, new);
            }
            Change::Move { from, to_gfn } => {
                self.by_gfn.remove(from.by_gfn);
                self.by_gfn.insert(to_gfn, new);
                self.by_id[from.by_id] = new;
            }
            Change::FlagsOnly(place) => {
                self.by_gfn[place.by_gfn] = new;
                self.by_id[place.by_id] = new;
            }
            Change::Delete(place) => {
                self.by_gfn.remove(place.by_gfn);
                self.by_id.remove(place.by_id);
            }
        }
        Ok(change)
    }
}

const LIMITS: Limits = Limits {
    flags: SlotFlags(3),
    nr_address_spaces: 2,
    max_hva_end: Hva(0x7fff_ffff_f000),
    max_gfn: Gfn((1 << 40) - 1),
};

const PAGE: u64 = PAGE_SIZE;
/// An address with room above for a slot of any size.
const LOW_HVA: u64 = 0x10_0000_0000;

fn raw(slot: u32, gfn: u64, npages: u64) -> RawRegion {
    RawRegion {
        slot,
        flags: 0,
        guest_phys_addr: gfn * PAGE,
        memory_size: npages * PAGE,
        userspace_addr: LOW_HVA,
    }
}

fn rule(raw: &RawRegion) -> Option<Rule> {
    match MemRegion::new(raw, &LIMITS) {
        Ok(_) => None,
        Err(SlotError::Invalid(rule)) => Some(rule),
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_region_that_breaks_one_rule_is_refused_for_it() {
    let good = raw(5, 0x100, 0x10);
    assert_eq!(rule(&good), None);
    let top = LIMITS.max_hva_end.0;
    let cases = [
        (Rule::Flags, RawRegion { flags: 4, ..good }),
        (
            Rule::Flags,
            RawRegion {
                flags: 1 << 31,
                ..good
            },
        ),
        (
            Rule::SizeAlignment,
            RawRegion {
                memory_size: PAGE + 1,
                ..good
            },
        ),
        (
            Rule::GpaAlignment,
            RawRegion {
                guest_phys_addr: PAGE / 2,
                ..good
            },
        ),
        (
            Rule::HvaAlignment,
            RawRegion {
                userspace_addr: PAGE - 1,
                ..good
            },
        ),
        (
            Rule::HvaRange,
            RawRegion {
                userspace_addr: top - 0xf * PAGE,
                ..good
            },
        ),
        (
            Rule::HvaRange,
            RawRegion {
                userspace_addr: 0u64.wrapping_sub(PAGE),
                ..good
            },
        ),
        (
            Rule::HvaRange,
            RawRegion {
                userspace_addr: top + PAGE,
                memory_size: 0,
                ..good
            },
        ),
        (
            Rule::Name,
            RawRegion {
                slot: 32764,
                ..good
            },
        ),
        (
            Rule::Name,
            RawRegion {
                slot: 0xffff,
                ..good
            },
        ),
        (
            Rule::Name,
            RawRegion {
                slot: 2 << 16,
                ..good
            },
        ),
        (
            Rule::GpaRange,
            RawRegion {
                guest_phys_addr: 0u64.wrapping_sub(PAGE),
                ..good
            },
        ),
        (
            Rule::GpaRange,
            RawRegion {
                guest_phys_addr: 0u64.wrapping_sub(16 * PAGE),
                ..good
            },
        ),
        (
            Rule::Pages,
            RawRegion {
                memory_size: (1 << 31) * PAGE,
                ..good
            },
        ),
    ];
    for (expected, case) in cases {
        assert_eq!(rule(&case), Some(expected), "{case:x?}");
    }
}

#[test]
fn the_edges_of_the_rules_are_accepted() {
    let good = raw(5, 0x100, 0x10);
    for case in [
        RawRegion { flags: 3, ..good },
        RawRegion {
            userspace_addr: LIMITS.max_hva_end.0 - 0x10 * PAGE,
            ..good
        },
        RawRegion {
            slot: 32763 | 1 << 16,
            ..good
        },
        RawRegion {
            memory_size: ((1 << 31) - 1) * PAGE,
            ..good
        },
        RawRegion {
            guest_phys_addr: 0u64.wrapping_sub(17 * PAGE),
            ..good
        },
    ] {
        assert_eq!(rule(&case), None, "{case:x?}");
    }
}

#[test]
fn rules_are_checked_in_order() {
    let mut worst = RawRegion {
        slot: u32::MAX,
        flags: u32::MAX,
        guest_phys_addr: u64::MAX,
        memory_size: u64::MAX,
        userspace_addr: u64::MAX,
    };
    assert_eq!(rule(&worst), Some(Rule::Flags));
    worst.flags = 0;
    assert_eq!(rule(&worst), Some(Rule::SizeAlignment));
    worst.memory_size = (1 << 44) * PAGE;
    assert_eq!(rule(&worst), Some(Rule::GpaAlignment));
    worst.guest_phys_addr = 0u64.wrapping_sub(PAGE);
    assert_eq!(rule(&worst), Some(Rule::HvaAlignment));
    worst.userspace_addr = 0;
    assert_eq!(rule(&worst), Some(Rule::HvaRange));
    worst.memory_size = (1 << 32) * PAGE;
    assert_eq!(rule(&worst), Some(Rule::Name));
    worst.slot = 0;
    assert_eq!(rule(&worst), Some(Rule::GpaRange));
    worst.guest_phys_addr = 0;
    assert_eq!(rule(&worst), Some(Rule::Pages));
}

#[test]
fn flags_that_the_vm_lacks_are_refused() {
    let limits = Limits {
        flags: SlotFlags(0).with_log_dirty(true),
        ..LIMITS
    };
    let readonly = RawRegion {
        flags: 2,
        ..raw(0, 0, 1)
    };
    assert_eq!(
        MemRegion::new(&readonly, &limits),
        Err(SlotError::Invalid(Rule::Flags))
    );
}

#[test]
fn name_splits_into_address_space_and_id() {
    let name = SlotId::from_raw(0x0001_0203);
    assert_eq!(
        name,
        SlotId {
            as_id: 1,
            id: 0x203
        }
    );
    assert_eq!(name.into_raw(), 0x0001_0203);
}

#[test]
fn life_of_a_slot() {
    let mut space = Space::default();
    let place = Place {
        by_gfn: 0,
        by_id: 0,
    };
    let slot = raw(3, 0x100, 0x10);
    let logged = RawRegion { flags: 1, ..slot };
    let moved = RawRegion {
        guest_phys_addr: 0x108 * PAGE,
        ..logged
    };
    let gone = RawRegion {
        memory_size: 0,
        ..moved
    };
    assert_eq!(space.set(&gone), Err(SlotError::Invalid(Rule::Absent)));
    assert_eq!(space.set(&slot), Ok(Change::Create(place)));
    assert_eq!(space.set(&slot), Ok(Change::Nothing));
    assert_eq!(space.set(&logged), Ok(Change::FlagsOnly(place)));
    let to_gfn = 0;
    assert_eq!(
        space.set(&moved),
        Ok(Change::Move {
            from: place,
            to_gfn
        }),
        "over itself"
    );
    assert_eq!(space.set(&gone), Ok(Change::Delete(place)));
    assert_eq!(space.set(&gone), Err(SlotError::Invalid(Rule::Absent)));
}

#[test]
fn an_existing_slot_keeps_address_size_and_writability() {
    let mut space = Space::default();
    let slot = raw(3, 0x100, 0x10);
    space.set(&slot).unwrap();
    for (rule, case) in [
        (
            Rule::HvaChange,
            RawRegion {
                userspace_addr: 0x7000,
                ..slot
            },
        ),
        (
            Rule::SizeChange,
            RawRegion {
                memory_size: 0x11 * PAGE,
                ..slot
            },
        ),
        (
            Rule::SizeChange,
            RawRegion {
                memory_size: 0xf * PAGE,
                ..slot
            },
        ),
        (Rule::ReadonlyChange, RawRegion { flags: 2, ..slot }),
        (
            Rule::ReadonlyChange,
            RawRegion {
                flags: 3,
                ..raw(3, 0x200, 0x10)
            },
        ),
    ] {
        assert_eq!(space.set(&case), Err(SlotError::Invalid(rule)));
    }
}

#[test]
fn neighbours_may_touch_but_not_overlap() {
    let mut space = Space::default();
    space.set(&raw(0, 0x100, 0x10)).unwrap();
    for (gfn, npages) in [
        (0xff, 2),
        (0x10f, 1),
        (0x100, 0x10),
        (0x104, 2),
        (0xf0, 0x100),
    ] {
        assert_eq!(space.set(&raw(1, gfn, npages)), Err(SlotError::Overlap));
    }
    space.set(&raw(1, 0xf0, 0x10)).unwrap();
    space.set(&raw(2, 0x110, 0x10)).unwrap();
    assert_eq!(
        space.set(&raw(2, 0x10f, 0x10)),
        Err(SlotError::Overlap),
        "a move too"
    );
}

#[test]
fn a_slot_beyond_what_the_guest_addresses_is_refused_after_overlap() {
    let mut space = Space::default();
    let end = LIMITS.max_gfn.0 + 1;
    space.set(&raw(0, end - 1, 1)).unwrap();
    assert_eq!(space.set(&raw(1, end - 1, 2)), Err(SlotError::Overlap));
    assert_eq!(
        space.set(&raw(1, end, 1)),
        Err(SlotError::Invalid(Rule::GfnRange))
    );
    assert_eq!(
        space.set(&raw(0, end, 1)),
        Err(SlotError::Invalid(Rule::GfnRange))
    );
}

#[test]
fn orders_that_differ_are_our_bug() {
    let region = |raw| MemRegion::new(&raw, &LIMITS).unwrap();
    let (one, two) = (Slot(region(raw(1, 0, 1))), Slot(region(raw(2, 0, 1))));
    for by_gfn in [&[][..], &[two][..]] {
        let change = plan(by_gfn, &[one], &region(raw(1, 8, 1)), &LIMITS);
        assert_eq!(change, Err(OUT_OF_STEP));
    }
}

#[test]
fn hva_follows_gfn_within_the_slot() {
    let slot = Slot(MemRegion::new(&raw(0, 0x100, 0x10), &LIMITS).unwrap());
    assert_eq!(hva_of(&slot, Gfn(0x100)), Some(Hva(LOW_HVA)));
    assert_eq!(hva_of(&slot, Gfn(0x10f)), Some(Hva(LOW_HVA + 0xf000)));
    assert_eq!(hva_of(&slot, Gfn(0x110)), None);
    assert_eq!(hva_of(&slot, Gfn(0xff)), None);
}

#[test]
fn gfns_follow_a_range_of_hva() {
    let slot = Slot(MemRegion::new(&raw(0, 0x100, 0x10), &LIMITS).unwrap());
    let base = LOW_HVA;
    let gfns = |from: u64, to: u64| gfns_of(&slot, Hva(base + from), Hva(base + to));
    assert_eq!(
        gfns_of(&slot, Hva(0), Hva(u64::MAX)),
        Some((Gfn(0x100), 0x10))
    );
    assert_eq!(gfns_of(&slot, Hva(0), Hva(base)), None);
    assert_eq!(gfns_of(&slot, Hva(0), Hva(base + 1)), Some((Gfn(0x100), 1)));
    assert_eq!(gfns(0xfff, 0x1001), Some((Gfn(0x100), 2)));
    assert_eq!(gfns(0x1000, 0x2000), Some((Gfn(0x101), 1)));
    assert_eq!(gfns(0xf000, 0x20000), Some((Gfn(0x10f), 1)));
    assert_eq!(gfns(0x10000, 0x20000), None);
    assert_eq!(gfns(0x2000, 0x1000), None);
}

/// The specification: one map from id, searched linearly.
#[derive(Default)]
struct Model(BTreeMap<u16, RawRegion>);

impl Model {
    fn overlaps(&self, id: u16, new: &RawRegion) -> bool {
        self.0.iter().any(|(&other, old)| {
            other != id
                && new.guest_phys_addr < old.guest_phys_addr + old.memory_size
                && old.guest_phys_addr < new.guest_phys_addr + new.memory_size
        })
    }

    /// Returns "created", "moved", ... or the errno.
    fn set(&mut self, new: &RawRegion) -> Result<&'static str, &'static str> {
        let id = new.slot as u16;
        let old = self.0.get(&id).copied();
        let answer = match old {
            None if new.memory_size == 0 => return Err("EINVAL"),
            None => "created",
            Some(_) if new.memory_size == 0 => {
                self.0.remove(&id);
                return Ok("deleted");
            }
            Some(old)
                if old.userspace_addr != new.userspace_addr
                    || old.memory_size != new.memory_size
                    || (old.flags ^ new.flags) & 2 != 0 =>
            {
                return Err("EINVAL");
            }
            Some(old) if old.guest_phys_addr != new.guest_phys_addr => "moved",
            Some(old) if old.flags != new.flags => "flags",
            Some(_) => return Ok("nothing"),
        };
        if answer != "flags" && self.overlaps(id, new) {
            return Err("EEXIST");
        }
        self.0.insert(id, *new);
        Ok(answer)
    }

    fn holder(&self, gfn: u64) -> Option<u16> {
        let gpa = gfn * PAGE;
        let mut holders = self.0.iter().filter(|(_, slot)| {
            slot.guest_phys_addr <= gpa && gpa < slot.guest_phys_addr + slot.memory_size
        });
        let id = holders.next().map(|(&id, _)| id);
        assert!(holders.next().is_none());
        id
    }
}

fn word(answer: Result<Change, SlotError>) -> Result<&'static str, &'static str> {
    match answer {
        Ok(Change::Nothing) => Ok("nothing"),
        Ok(Change::Create(_)) => Ok("created"),
        Ok(Change::Move { .. }) => Ok("moved"),
        Ok(Change::FlagsOnly(_)) => Ok("flags"),
        Ok(Change::Delete(_)) => Ok("deleted"),
        Err(SlotError::Invalid(_)) => Err("EINVAL"),
        Err(SlotError::Overlap) => Err("EEXIST"),
        Err(SlotError::Bug(_)) => Err("bug"),
    }
}

fn requests() -> impl Strategy<Value = Vec<RawRegion>> {
    let sizes = prop_oneof![1 => Just(0u64), 4 => Just(2u64), 4 => Just(3u64), 1 => 1..12u64];
    let flags = prop_oneof![3 => Just(0u32), 3 => Just(1u32), 1 => 0..4u32];
    let request =
        (0..12u32, 0..40u64, sizes, flags).prop_map(|(slot, gfn, npages, flags)| RawRegion {
            flags,
            ..raw(slot, gfn, npages)
        });
    prop::collection::vec(request, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn slots_behave_as_a_map_searched_linearly(requests in requests()) {
        let (mut space, mut model) = (Space::default(), Model::default());
        for request in &requests {
            prop_assert_eq!(word(space.set(request)), model.set(request));
            prop_assert!(space.by_gfn.is_sorted_by_key(|slot| slot.base_gfn()));
            prop_assert!(space.by_id.is_sorted_by_key(|slot| slot.id()));
            let ids: Vec<u16> = space.by_id.iter().map(|slot| slot.id()).collect();
            prop_assert_eq!(ids, model.0.keys().copied().collect::<Vec<_>>());
        }
        for gfn in 0..60 {
            let found = lookup(&space.by_gfn, Gfn(gfn));
            prop_assert_eq!(found.map(SlotView::id), model.holder(gfn));
            if let Some(slot) = found {
                let by_id = find_id(&space.by_id, slot.id()).unwrap();
                prop_assert_eq!(&space.by_id[by_id], slot);
            }
            for npages in 0..5 {
                let listed: Vec<u16> = space.by_gfn[overlapping(&space.by_gfn, Gfn(gfn), npages)]
                    .iter().map(|slot| slot.id()).collect();
                let mut naive: Vec<u16> =
                    (gfn..gfn + npages).filter_map(|gfn| model.holder(gfn)).collect();
                naive.dedup();
                prop_assert_eq!(listed, naive);
            }
        }
    }

    #[test]
    fn no_request_panics(
        slot: u32, flags: u32, guest_phys_addr: u64, memory_size: u64, userspace_addr: u64,
        align: bool,
    ) {
        let mask = if align { !(PAGE - 1) } else { u64::MAX };
        let mut space = Space::default();
        space.set(&raw(0, 0x100, 0x10)).unwrap();
        let request = RawRegion {
            slot: slot & 0x1_00ff,
            flags: flags & 3,
            guest_phys_addr: guest_phys_addr & mask,
            memory_size: memory_size >> 16 & mask,
            userspace_addr: userspace_addr >> 18 & mask,
        };
        let _ = space.set(&request);
        let _ = MemRegion::new(&RawRegion { slot, flags, ..request }, &LIMITS);
    }
}
