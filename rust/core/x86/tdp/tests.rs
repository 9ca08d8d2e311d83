// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

const AD: EptFeatures = EptFeatures {
    execute_only: true,
    page_2m: true,
    page_1g: true,
    accessed_dirty: true,
    mode_based_execute: false,
    walk_4: true,
    walk_5: false,
    uncacheable: false,
    write_back: true,
    physical_address_bits: 46,
};
const NO_AD: EptFeatures = EptFeatures {
    accessed_dirty: false,
    ..AD
};
const NONE: EptEntry = EptEntry(0);

fn page(pfn: u64, level: Level) -> Page {
    Page {
        pfn: Pfn(pfn),
        level,
        host_writable: true,
        memory_type: MemoryType::WriteBack,
    }
}

fn installed(map: Map) -> (Change, bool) {
    match map {
        Map::Install { change, mark_dirty } => (change, mark_dirty),
        Map::Spurious => panic!("spurious"),
    }
}

#[test]
fn first_map_needs_no_flush_and_is_well_formed() {
    for level in [Level::Pt, Level::Pd, Level::Pdpt] {
        let request = page(5 << 18, level);
        let (change, _) = installed(map(NONE, &request, Access::Read, DirtyLog::Off, &AD));
        assert!(!change.flush && change.child.is_none());
        assert!(change.new.is_leaf(level) && !change.new.is_misconfigured(level, &AD));
        assert_eq!(change.new.pfn(), Pfn(5 << 18));
        assert_eq!(change.new.memory_type(), Some(MemoryType::WriteBack));
        assert!(permits(change.new, Access::Write) && permits(change.new, Access::Fetch));
    }
}

#[test]
fn table_entry_is_well_formed_at_every_upper_level() {
    for features in [
        AD,
        EptFeatures {
            mode_based_execute: true,
            ..AD
        },
    ] {
        for level in [Level::Pd, Level::Pdpt, Level::Pml4, Level::Pml5] {
            let entry = table(Pfn(7), &features);
            assert!(!entry.is_leaf(level) && !entry.is_misconfigured(level, &features));
            assert!(entry.rights(&features) == super::super::ept::Rights::ALL);
        }
    }
}

#[test]
fn read_only_host_page_is_never_writable() {
    let request = Page {
        host_writable: false,
        ..page(9, Level::Pt)
    };
    for log in [DirtyLog::Off, DirtyLog::WriteProtect, DirtyLog::Pml] {
        let (change, mark_dirty) = installed(map(NONE, &request, Access::Read, log, &AD));
        assert!(!change.new.write() && !mark_dirty);
        assert_eq!(unprotect(change.new, Level::Pt, log, &AD), None);
    }
}

#[test]
fn a_page_is_logged_when_it_is_mapped() {
    let request = page(9, Level::Pt);
    for log in [DirtyLog::WriteProtect, DirtyLog::Pml] {
        for access in [Access::Read, Access::Write] {
            let (change, marked) = installed(map(NONE, &request, access, log, &AD));
            assert!(change.new.write() && change.new.dirty() && marked && !change.flush);
            assert_eq!(
                map(change.new, &request, Access::Write, log, &AD),
                Map::Spurious
            );
        }
    }
}

#[test]
fn no_logged_entry_allows_a_write_that_nothing_reports() {
    let request = page(9, Level::Pt);
    for log in [DirtyLog::WriteProtect, DirtyLog::Pml] {
        for access in [Access::Read, Access::Write, Access::Fetch] {
            for features in [AD, NO_AD] {
                let (change, marked) = installed(map(NONE, &request, access, log, &features));
                let pml_reports =
                    log == DirtyLog::Pml && features.accessed_dirty && !change.new.dirty();
                assert!(
                    !change.new.write() || marked || pml_reports,
                    "{log:?} {access:?}"
                );
            }
        }
    }
}

#[test]
fn map_of_another_frame_flushes_the_old_one() {
    let old = leaf(&page(9, Level::Pt), Access::Write, DirtyLog::Off, &AD);
    let (change, _) = installed(map(
        old,
        &page(10, Level::Pt),
        Access::Read,
        DirtyLog::Off,
        &AD,
    ));
    assert!(change.flush && change.accessed && change.dirty);
    assert_eq!(change.new.pfn(), Pfn(10));
}

#[test]
fn map_that_loses_the_right_to_write_flushes() {
    let old = leaf(&page(9, Level::Pt), Access::Write, DirtyLog::Off, &AD).with_execute(false);
    let request = Page {
        host_writable: false,
        ..page(9, Level::Pt)
    };
    let (change, _) = installed(map(old, &request, Access::Fetch, DirtyLog::Off, &AD));
    assert!(!change.new.write() && change.flush);
}

#[test]
fn huge_map_over_a_table_collapses_it() {
    let old = table(Pfn(0x77), &AD);
    let request = page(512, Level::Pd);
    let (change, _) = installed(map(old, &request, Access::Read, DirtyLog::Off, &AD));
    assert_eq!(change.child, Some(Pfn(0x77)));
    assert!(change.flush && !change.accessed && !change.dirty && change.new.large());
}

#[test]
fn zap_reports_accessed_and_dirty_of_leaves_only() {
    let old = leaf(&page(9, Level::Pt), Access::Write, DirtyLog::Off, &AD);
    let change = zap(old, Level::Pt, &AD);
    assert!(change.flush && change.accessed && change.dirty && change.child.is_none());
    assert_eq!(change.new, NONE);
    let clean = zap(old.with_accessed(false).with_dirty(false), Level::Pt, &AD);
    assert!(clean.flush && !clean.accessed && !clean.dirty);
    let blind = zap(
        leaf(&page(9, Level::Pt), Access::Read, DirtyLog::Off, &NO_AD),
        Level::Pt,
        &NO_AD,
    );
    assert!(
        blind.accessed && blind.dirty,
        "without flags the worst is assumed"
    );
    let tab = zap(table(Pfn(3), &AD), Level::Pd, &AD);
    assert_eq!(
        (tab.child, tab.accessed, tab.dirty),
        (Some(Pfn(3)), false, false)
    );
    let none = zap(NONE, Level::Pd, &AD);
    assert_eq!(none, Change::only(NONE));
}

#[test]
fn write_protect_flushes_once_and_unprotect_restores() {
    let old = leaf(&page(9, Level::Pt), Access::Write, DirtyLog::Off, &AD);
    let change = write_protect(old, &AD).unwrap();
    assert!(change.flush && change.dirty && !change.new.write() && change.new.read());
    assert_eq!(write_protect(change.new, &AD), None);
    let back = unprotect(change.new, Level::Pt, DirtyLog::WriteProtect, &AD).unwrap();
    assert!(back.new.write() && back.new.dirty() && !back.flush);
    assert_eq!(back.new, old);
}

#[test]
fn unprotect_refuses_huge_leaf_while_logging_and_tables() {
    let huge = leaf(
        &page(512, Level::Pd),
        Access::Read,
        DirtyLog::WriteProtect,
        &AD,
    );
    assert_eq!(
        unprotect(huge, Level::Pd, DirtyLog::WriteProtect, &AD),
        None
    );
    assert!(unprotect(huge, Level::Pd, DirtyLog::Off, &AD).is_some());
    let tab = table(Pfn(3), &AD).with_host_writable(true);
    assert_eq!(unprotect(tab, Level::Pd, DirtyLog::Off, &AD), None);
    assert_eq!(unprotect(NONE, Level::Pt, DirtyLog::Off, &AD), None);
}

#[test]
fn clear_dirty_keeps_the_right_to_write_only_with_dirty_flags() {
    let old = leaf(&page(9, Level::Pt), Access::Write, DirtyLog::Pml, &AD);
    let change = clear_dirty(old, &AD).unwrap();
    assert!(change.flush && change.dirty && change.new.write() && !change.new.dirty());
    assert_eq!(clear_dirty(change.new, &AD), None);
    let old = leaf(&page(9, Level::Pt), Access::Write, DirtyLog::Off, &NO_AD);
    assert!(!clear_dirty(old, &NO_AD).unwrap().new.write());
}

#[test]
fn age_clears_the_flag_or_removes_the_entry() {
    let old = leaf(&page(9, Level::Pt), Access::Read, DirtyLog::Off, &AD);
    let change = age(old, Level::Pt, &AD).unwrap();
    assert!(!change.flush && change.accessed && change.new.read());
    assert!(is_young(old, &AD) && !is_young(change.new, &AD));
    assert_eq!(age(change.new, Level::Pt, &AD), None);
    let old = leaf(&page(9, Level::Pt), Access::Read, DirtyLog::Off, &NO_AD);
    let change = age(old, Level::Pt, &NO_AD).unwrap();
    assert!(change.flush && change.accessed && change.new == NONE);
    assert_eq!(age(NONE, Level::Pt, &NO_AD), None);
}

#[test]
fn split_children_tile_the_huge_page_with_its_rights() {
    for (level, below) in [(Level::Pd, Level::Pt), (Level::Pdpt, Level::Pd)] {
        let huge = leaf(&page(3 << 18, level), Access::Write, DirtyLog::Off, &AD);
        for index in 0..512_u16 {
            let child = split_child(huge, level, index, &AD).unwrap();
            assert_eq!(child.pfn().0, (3 << 18) + u64::from(index) * below.pages());
            assert!(child.is_leaf(below) && !child.is_misconfigured(below, &AD));
            assert_eq!(child.rights(&AD), huge.rights(&AD));
            assert!(child.dirty() && child.accessed() && child.host_writable());
        }
        assert_eq!(split_child(huge, level, 512, &AD), None);
    }
    let small = leaf(&page(1, Level::Pt), Access::Read, DirtyLog::Off, &AD);
    assert_eq!(split_child(small, Level::Pt, 0, &AD), None);
    assert_eq!(split_child(table(Pfn(1), &AD), Level::Pd, 0, &AD), None);
    assert_eq!(split_child(NONE, Level::Pd, 0, &AD), None);
}

const SLOT: SlotExtent = SlotExtent {
    base: Gfn(0),
    nr_pages: 1 << 20,
    hva: Hva(0x7f00_0000_0000),
};

fn level_of(
    gfn: u64,
    slot: SlotExtent,
    host: Level,
    log: DirtyLog,
    features: EptFeatures,
) -> Level {
    map_level(Gfn(gfn), Pfn(gfn), &slot, host, log, &features)
}

#[test]
fn map_level_takes_what_everyone_allows() {
    assert_eq!(
        level_of(5, SLOT, Level::Pdpt, DirtyLog::Off, AD),
        Level::Pdpt
    );
    assert_eq!(level_of(5, SLOT, Level::Pd, DirtyLog::Off, AD), Level::Pd);
    assert_eq!(level_of(5, SLOT, Level::Pt, DirtyLog::Off, AD), Level::Pt);
    assert_eq!(
        level_of(5, SLOT, Level::Pdpt, DirtyLog::WriteProtect, AD),
        Level::Pt
    );
    let no_1g = EptFeatures {
        page_1g: false,
        ..AD
    };
    assert_eq!(
        level_of(5, SLOT, Level::Pdpt, DirtyLog::Off, no_1g),
        Level::Pd
    );
}

#[test]
fn map_level_stays_in_the_slot_and_in_alignment() {
    let short = SlotExtent {
        nr_pages: 511,
        ..SLOT
    };
    assert_eq!(level_of(0, short, Level::Pd, DirtyLog::Off, AD), Level::Pt);
    let late = SlotExtent {
        base: Gfn(1),
        hva: Hva(SLOT.hva.0 + 4096),
        ..SLOT
    };
    assert_eq!(level_of(5, late, Level::Pd, DirtyLog::Off, AD), Level::Pt);
    assert_eq!(level_of(512, late, Level::Pd, DirtyLog::Off, AD), Level::Pd);
    let skewed = SlotExtent {
        hva: Hva(SLOT.hva.0 + 4096),
        ..SLOT
    };
    assert_eq!(
        level_of(512, skewed, Level::Pd, DirtyLog::Off, AD),
        Level::Pt
    );
    let endless = SlotExtent {
        base: Gfn(u64::MAX),
        nr_pages: 2,
        ..SLOT
    };
    assert_eq!(
        level_of(u64::MAX, endless, Level::Pd, DirtyLog::Off, AD),
        Level::Pt
    );
}

fn any_features() -> impl Strategy<Value = EptFeatures> {
    any::<(bool, bool, bool)>().prop_map(|(ad, page_2m, page_1g)| EptFeatures {
        accessed_dirty: ad,
        page_2m,
        page_1g,
        ..AD
    })
}

fn any_leaf_level() -> impl Strategy<Value = Level> {
    prop_oneof![Just(Level::Pt), Just(Level::Pd), Just(Level::Pdpt)]
}

fn any_log() -> impl Strategy<Value = DirtyLog> {
    prop_oneof![
        Just(DirtyLog::Off),
        Just(DirtyLog::WriteProtect),
        Just(DirtyLog::Pml)
    ]
}

fn any_access() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Read), Just(Access::Write), Just(Access::Fetch)]
}

/// Every small page of the block, one by one: in the slot, and at the place the block needs.
fn naive_block_fits(gfn: u64, slot: &SlotExtent, level: Level) -> bool {
    let pages = level.pages();
    let start = gfn / pages * pages;
    (start..start + pages)
        .step_by(pages as usize / 64)
        .chain([start + pages - 1])
        .all(|frame| {
            let inside = frame >= slot.base.0 && frame - slot.base.0 < slot.nr_pages;
            inside && (slot.hva.0 / 4096 + (frame - slot.base.0)) % pages == frame - start
        })
}

proptest! {
    #[test]
    fn map_level_is_the_largest_block_of_the_naive_model(
        gfn in 0_u64..1 << 20, base in 0_u64..1 << 19, aligned in any::<bool>(),
        nr_pages in 1_u64..1 << 20, skew in 0_u64..1024, host in any_leaf_level(),
        features in any_features(),
    ) {
        let base = if aligned { base & !511 } else { base };
        let skew = if aligned { skew & 512 } else { skew };
        let slot = SlotExtent {
            base: Gfn(base), nr_pages, hva: Hva(((1 << 30) + base + skew) * 4096),
        };
        prop_assume!(gfn >= base && gfn - base < nr_pages);
        let pfn = Pfn(slot.hva.0 / 4096 + gfn - base);
        let got = map_level(Gfn(gfn), pfn, &slot, host, DirtyLog::Off, &features);
        let mut want = Level::Pt;
        for level in [Level::Pd, Level::Pdpt] {
            let offered = if level == Level::Pd { features.page_2m } else { features.page_1g };
            if level <= host && offered && naive_block_fits(gfn, &slot, level) {
                want = level;
            }
        }
        prop_assert_eq!(got, want);
    }

    /// A TLB that caches what an entry allowed, and is emptied exactly where a flush is asked for,
    /// never allows more than the entry does, whatever the order of operations.
    #[test]
    fn tlb_never_allows_more_than_the_entry(
        ops in proptest::collection::vec((0_u8..8, 1_u64..3, any_access(), any::<bool>()), 1..40),
        log in any_log(), features in any_features(),
    ) {
        let mut entry = NONE;
        let mut tlb: Option<EptEntry> = None;
        for (op, pfn, access, host_writable) in ops {
            let request = Page { host_writable, ..page(pfn, Level::Pt) };
            let change = match op {
                0 | 1 => match map(entry, &request, access, log, &features) {
                    Map::Install { change, .. } => Some(change),
                    Map::Spurious => None,
                },
                2 => Some(zap(entry, Level::Pt, &features)),
                3 => write_protect(entry, &features),
                4 => age(entry, Level::Pt, &features),
                5 => clear_dirty(entry, &features),
                6 => unprotect(entry, Level::Pt, log, &features),
                _ => {
                    // The guest uses the page; the processor caches and sets flags.
                    if entry.is_present(&features) && permits(entry, access) {
                        if features.accessed_dirty {
                            entry = entry.with_accessed(true);
                            entry = entry.with_dirty(entry.dirty() || access == Access::Write);
                        }
                        tlb = Some(entry);
                    }
                    None
                }
            };
            if let Some(change) = change {
                if change.flush {
                    tlb = None;
                }
                entry = change.new;
            }
            prop_assert!(!entry.is_misconfigured(Level::Pt, &features));
            if let Some(cached) = tlb {
                prop_assert_eq!(cached.pfn(), entry.pfn());
                prop_assert!(!cached.write() || entry.write());
                if log == DirtyLog::Pml && cached.dirty() {
                    prop_assert!(entry.dirty(), "a cached dirty flag keeps PML silent");
                }
            }
        }
    }
}
