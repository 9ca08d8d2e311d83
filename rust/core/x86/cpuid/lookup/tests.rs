// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::x86::cpuid::samples::{
    plain,
    regs,
    table, //
};
use proptest::prelude::*;

fn answer(entries: &[Entry], function: u32, index: u32, hidden: Hidden) -> Regs {
    let directory = Directory::of(entries);
    cpuid(
        Table {
            entries,
            directory: &directory,
        },
        function,
        index,
        hidden,
    )
}

fn ask(function: u32, index: u32) -> Regs {
    answer(&table(), function, index, Hidden::default())
}

#[test]
fn index_counts_only_where_it_is_significant() {
    assert_eq!(ask(1, 99), ask(1, 0));
    assert_ne!(ask(0xb, 1), ask(0xb, 0));
    assert_eq!(ask(7, 1), Regs::default());
    let twice = [plain(3, regs(1, 0, 0, 0)), plain(3, regs(2, 0, 0, 0))];
    assert_eq!(answer(&twice, 3, 0, Hidden::default()).eax, 1);
}

#[test]
fn leaf_beyond_its_class_answers_as_the_highest_basic_leaf() {
    let highest = ask(0xd, 0);
    for function in [
        0xe,
        0x3fff_ffff,
        0x8000_0009,
        0x4000_0002,
        0x4000_0100,
        0xc000_0000,
    ] {
        assert_eq!(ask(function, 0), highest, "{function:#x}");
        assert_eq!(
            ask(function, 1),
            ask(0xd, 1),
            "the subleaf stays: {function:#x}"
        );
    }
    for function in [2, 0xc, 0x8000_0005] {
        assert_eq!(ask(function, 0), Regs::default(), "in range: {function:#x}");
    }
}

#[test]
fn last_leaf_of_a_class_is_in_range() {
    let mut t = table();
    t[9].regs.eax = 0x8000_000a;
    assert_eq!(
        answer(&t, 0x8000_000a, 0, Hidden::default()),
        Regs::default()
    );
    assert_eq!(answer(&t, 0x8000_000b, 0, Hidden::default()), ask(0xd, 0));
}

#[test]
fn amd_has_no_rule_for_leaves_out_of_range() {
    let mut amd = table();
    amd[0].regs = regs(0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65);
    assert_eq!(answer(&amd, 0xe, 0, Hidden::default()), Regs::default());
    assert_eq!(answer(&[], 0xe, 0, Hidden::default()), Regs::default());
}

#[test]
fn topology_subleaves_past_the_end_keep_the_apic_id() {
    assert_eq!(ask(0xb, 0x305), regs(0, 0, 5, 0x77));
    let mut short = table();
    short[0].regs.eax = 0xb;
    // The rule of leaves out of range comes first, and its leaf may be 0BH.
    assert_eq!(
        answer(&short, 0x1f, 7, Hidden::default()),
        regs(0, 0, 7, 0x77)
    );
}

#[test]
fn tsx_can_be_hidden() {
    let shown = answer(&table(), 7, 0, Hidden { tsx: true });
    assert_eq!(shown.ebx, !(1 << 11 | 1 << 4));
}

fn any_function() -> impl Strategy<Value = u32> {
    let classes = prop_oneof![Just(0u32), Just(0x4000_0000), Just(0x8000_0000)];
    prop_oneof![
        (classes, 0u32..0x24).prop_map(|(class, leaf)| class | leaf),
        any::<u32>()
    ]
}

proptest! {
    /// The directory changes nothing but the time a lookup takes.
    #[test]
    fn directory_finds_what_a_plain_search_finds(
        raw in proptest::collection::vec((any_function(), 0u32..4, 0u32..2, any::<u32>()), 0..300),
        function in any_function(),
        index in 0u32..5,
    ) {
        let entries: Vec<Entry> = raw
            .iter()
            .map(|(function, index, flags, eax)| Entry {
                function: *function,
                index: *index,
                flags: *flags,
                regs: regs(*eax, 0, 0, 0),
            })
            .collect();
        let directory = Directory::of(&entries);
        let table = Table { entries: &entries, directory: &directory };
        for wanted in raw.iter().map(|entry| entry.0).chain([function]) {
            let plain = entries.iter().find(|entry| entry.answers(wanted, index));
            prop_assert_eq!(table.find(wanted, index), plain);
        }
        let _ = cpuid(table, function, index, Hidden { tsx: true });
    }
}
