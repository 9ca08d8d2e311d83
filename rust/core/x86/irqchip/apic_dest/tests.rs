// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

const QUIRK_OFF: Sender = Sender::Device(BroadcastQuirk::Disabled);
const QUIRK_ON: Sender = Sender::Device(BroadcastQuirk::Enabled);

fn xapic(xapic_id: u8, logical_id: u8, model: LogicalModel) -> Identity {
    Identity {
        x2apic_id: u32::from(xapic_id),
        xapic_id,
        logical_id,
        model,
        mode: ApicMode::XApic,
        software: SoftwareState::Enabled,
        lint0: Lint0::Closed,
    }
}

fn x2apic(x2apic_id: u32) -> Identity {
    Identity {
        x2apic_id,
        mode: ApicMode::X2Apic,
        ..Identity::default()
    }
}

fn physical(dest: u32) -> Message {
    Message {
        dest,
        ..Message::default()
    }
}

fn logical(dest: u32) -> Message {
    Message {
        dest,
        dest_mode: DestMode::Logical,
        ..Message::default()
    }
}

#[test]
fn physical_destination_names_the_id_of_the_current_mode() {
    let moved = Identity {
        x2apic_id: 7,
        ..xapic(3, 0, LogicalModel::Flat)
    };
    assert!(moved.matches(&physical(3), Sender::OtherApic));
    assert!(!moved.matches(&physical(7), Sender::OtherApic));
    let x2 = Identity {
        xapic_id: 3,
        ..x2apic(7)
    };
    assert!(x2.matches(&physical(7), Sender::OtherApic));
    assert!(!x2.matches(&physical(3), Sender::OtherApic));
}

#[test]
fn physical_destination_above_ff_finds_an_xapic_by_its_x2apic_id() {
    let hotplugged = Identity {
        x2apic_id: 0x123,
        ..xapic(0x23, 0, LogicalModel::Flat)
    };
    assert!(hotplugged.matches(&physical(0x123), Sender::OtherApic));
    assert!(!hotplugged.matches(&physical(0x223), Sender::OtherApic));
}

#[test]
fn broadcast_is_ff_for_xapics_and_ffffffff_for_x2apics() {
    let (x, x2) = (xapic(1, 1, LogicalModel::Flat), x2apic(1));
    for message in [physical(0xff), logical(0xff)] {
        assert!(x.matches(&message, Sender::OtherApic));
        assert!(x.matches(&message, QUIRK_OFF));
        assert!(x.matches(&message, QUIRK_ON));
    }
    for message in [physical(0xffff_ffff), logical(0xffff_ffff)] {
        assert!(x2.matches(&message, Sender::OtherApic));
        assert!(x2.matches(&message, QUIRK_OFF));
    }
    assert!(!x2.matches(&physical(0xff), Sender::OtherApic));
    assert!(!x.matches(&physical(0xffff_ffff), Sender::OtherApic));
}

#[test]
fn broadcast_quirk_widens_ff_from_devices_only() {
    let far = x2apic(0x40);
    assert!(far.matches(&physical(0xff), QUIRK_ON));
    assert!(far.matches(&logical(0xff), QUIRK_ON));
    assert!(!far.matches(&physical(0xff), QUIRK_OFF));
    assert!(!far.matches(&logical(0xff), QUIRK_OFF));
    assert!(!far.matches(&logical(0xff), Sender::OtherApic));
    // Without the quirk 0xff is "cluster 0, APICs 0 to 7".
    assert!(x2apic(7).matches(&logical(0xff), QUIRK_OFF));
    assert!(!x2apic(8).matches(&logical(0xff), QUIRK_OFF));
}

#[test]
fn flat_logical_destination_matches_any_common_bit() {
    let apic = xapic(2, 0b0000_0100, LogicalModel::Flat);
    assert!(apic.matches(&logical(0b0000_0110), Sender::OtherApic));
    assert!(!apic.matches(&logical(0b1111_1011), Sender::OtherApic));
    assert!(!xapic(2, 0, LogicalModel::Flat).matches(&logical(0x7f), Sender::OtherApic));
}

#[test]
fn cluster_logical_destination_matches_cluster_and_common_bit() {
    let apic = xapic(2, 0x24, LogicalModel::Cluster);
    assert!(apic.matches(&logical(0x2c), Sender::OtherApic));
    assert!(!apic.matches(&logical(0x2b), Sender::OtherApic));
    assert!(!apic.matches(&logical(0x34), Sender::OtherApic));
}

#[test]
fn invalid_destination_format_matches_only_the_broadcast() {
    let apic = xapic(2, 0xff, LogicalModel::from_dfr(0x7fff_ffff));
    assert!(!apic.matches(&logical(0x01), Sender::OtherApic));
    assert!(apic.matches(&logical(0xff), Sender::OtherApic));
    assert_eq!(LogicalModel::from_dfr(0xffff_ffff), LogicalModel::Flat);
    assert_eq!(LogicalModel::from_dfr(0x0fff_ffff), LogicalModel::Cluster);
}

#[test]
fn x2apic_logical_destination_follows_from_the_id() {
    assert_eq!(x2apic_ldr(0), 1);
    assert_eq!(x2apic_ldr(0x2f), 0x0002_8000);
    let apic = x2apic(0x25);
    assert!(apic.matches(&logical(0x0002_0020), Sender::OtherApic));
    assert!(!apic.matches(&logical(0x0002_ffdf), Sender::OtherApic));
    assert!(!apic.matches(&logical(0x0003_0020), Sender::OtherApic));
}

#[test]
fn shorthands_look_at_the_sender_only() {
    let apic = xapic(1, 1, LogicalModel::Flat);
    let rows = [
        (Shorthand::Myself, [true, false, false]),
        (Shorthand::AllIncludingSelf, [true, true, true]),
        (Shorthand::AllExcludingSelf, [false, true, true]),
    ];
    for (shorthand, answers) in rows {
        let message = Message {
            shorthand,
            ..physical(0x55)
        };
        for (sender, answer) in [Sender::Target, Sender::OtherApic, QUIRK_ON]
            .iter()
            .zip(answers)
        {
            assert_eq!(
                apic.matches(&message, *sender),
                answer,
                "{shorthand:?} {sender:?}"
            );
        }
    }
}

#[test]
fn globally_disabled_apic_takes_nothing() {
    let off = Identity {
        mode: ApicMode::Disabled,
        ..xapic(1, 1, LogicalModel::Flat)
    };
    let all = Message {
        shorthand: Shorthand::AllIncludingSelf,
        ..physical(1)
    };
    for message in [physical(1), physical(0xff), logical(1), all] {
        assert!(!off.matches(&message, Sender::OtherApic));
    }
}

#[test]
fn lowest_priority_prefers_the_lowest_class_and_ignores_the_subclass() {
    let three = [(0, 0x40), (1, 0x20), (2, 0x30)];
    assert_eq!(choose_by_priority(three.into_iter(), None), Some(1));
    assert_eq!(
        choose_by_priority([(4, 0x2f), (5, 0x20)].into_iter(), None),
        Some(4)
    );
    assert_eq!(choose_by_priority([].into_iter(), Some(1)), None);
}

#[test]
fn lowest_priority_ties_go_round() {
    let mut last = None;
    let mut order = Vec::new();
    for _ in 0..7 {
        last = choose_by_priority([(1, 0), (4, 0), (9, 0)].into_iter(), last);
        order.extend(last);
    }
    assert_eq!(order, [1, 4, 9, 1, 4, 9, 1]);
}

#[test]
fn vector_hashing_spreads_vectors_and_keeps_each_in_place() {
    assert_eq!(choose_by_vector(0, 0x31), None);
    assert_eq!(choose_by_vector(3, 0x30), Some(0));
    assert_eq!(choose_by_vector(3, 0x31), Some(1));
    assert_eq!(choose_by_vector(3, 0x32), Some(2));
}

/// The set of APICs that a destination names, written as a list, for APICs in one mode only.
fn named(dest: u32, mode: DestMode, identity: &Identity) -> bool {
    let x2 = identity.mode == ApicMode::X2Apic;
    let mut physical_ids = Vec::new();
    if mode == DestMode::Physical {
        physical_ids.push(dest);
    } else if x2 {
        for bit in 0..16 {
            if dest >> bit & 1 == 1 {
                physical_ids.push((dest >> 16) * 16 + bit);
            }
        }
    }
    let everyone = if x2 { 0xffff_ffff } else { 0xff };
    if dest == everyone {
        return true;
    }
    if x2 || mode == DestMode::Physical {
        let id = if x2 || dest > 255 {
            identity.x2apic_id
        } else {
            identity.xapic_id.into()
        };
        return physical_ids.contains(&id);
    }
    let mine = u32::from(identity.logical_id);
    match identity.model {
        LogicalModel::Flat => (0..8).any(|bit| mine >> bit & 1 == 1 && dest >> bit & 1 == 1),
        LogicalModel::Cluster => {
            dest / 16 == mine / 16 && (0..4).any(|bit| mine & dest & (1 << bit) != 0)
        }
        LogicalModel::Invalid => false,
    }
}

fn small_or_any() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..0x40u32,
        0xf0..0x110u32,
        any::<u32>(),
        Just(0xff),
        Just(0xffff_ffff)
    ]
}

fn any_identity() -> impl Strategy<Value = Identity> {
    (
        small_or_any(),
        any::<u8>(),
        any::<u8>(),
        prop_oneof![
            Just(LogicalModel::Flat),
            Just(LogicalModel::Cluster),
            Just(LogicalModel::Invalid)
        ],
        prop_oneof![
            Just(ApicMode::Disabled),
            Just(ApicMode::XApic),
            Just(ApicMode::X2Apic)
        ],
        prop_oneof![Just(SoftwareState::Enabled), Just(SoftwareState::Disabled)],
        prop_oneof![Just(Lint0::Closed), Just(Lint0::ExtInt), Just(Lint0::Nmi)],
    )
        .prop_map(
            |(x2apic_id, xapic_id, logical_id, model, mode, software, lint0)| Identity {
                // An id of all ones is the broadcast, and no APIC has it.
                x2apic_id: x2apic_id & 0x0fff_ffff,
                xapic_id,
                logical_id,
                model,
                mode,
                software,
                lint0,
            },
        )
}

proptest! {
    #[test]
    fn matching_agrees_with_a_list_of_the_named_apics(
        identity in any_identity(),
        dest in small_or_any(),
        is_logical in any::<bool>(),
    ) {
        let dest_mode = if is_logical { DestMode::Logical } else { DestMode::Physical };
        let message = Message { dest, dest_mode, ..Message::default() };
        let expected = identity.mode != ApicMode::Disabled && named(dest, dest_mode, &identity);
        prop_assert_eq!(identity.matches(&message, Sender::OtherApic), expected);
        prop_assert_eq!(identity.matches(&message, QUIRK_OFF), expected);
    }

    #[test]
    fn x2apic_finds_itself_by_the_ldr_it_derives(id in 0..0xf_ffffu32) {
        prop_assert!(x2apic(id).matches(&logical(x2apic_ldr(id)), Sender::OtherApic));
    }

    #[test]
    fn packed_identity_unpacks_to_itself(identity in any_identity()) {
        prop_assert_eq!(Identity::unpack(identity.pack()), identity);
    }
}
