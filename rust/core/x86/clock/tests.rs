// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

/// 2 GHz, so that a tick is half a nanosecond.
const KHZ: u32 = 2_000_000;
const SECOND: u64 = 2_000_000_000;

fn moment(host_tsc: u64) -> TscMoment {
    TscMoment {
        host_tsc,
        ns: host_tsc / 2,
        khz: KHZ,
        is_host_tsc_reliable: true,
    }
}

/// A VM whose VMM has set the TSC of one vCPU to `tsc` when the host's was 0.
fn vm(tsc: u64) -> (VmTsc, VcpuTsc) {
    let (mut vm, mut vcpu) = (VmTsc::default(), VcpuTsc::default());
    let _ = vm.write(&mut vcpu, TscRatio::ONE, TscWrite::Value(tsc), &moment(0));
    (vm, vcpu)
}

#[test]
fn at_the_host_time_of_a_guest_time_the_guest_reads_it() {
    for ratio in [
        TscRatio::ONE,
        TscRatio::from_bits(TscRatio::ONE.bits() / 3),
        TscRatio::from_bits(TscRatio::ONE.bits() * 7 / 2),
    ] {
        let tsc = GuestTsc {
            ratio,
            offset: 5_000_000_000u64.wrapping_neg(),
        };
        let now = 20_000_000_000;
        for ahead in [1, 2, 3, 1000, 123_456_789_012] {
            let wanted = tsc.read(now) + ahead;
            let then = tsc.host_time_of(wanted, now);
            assert!(tsc.read(then) >= wanted, "{ratio:?} {ahead}");
            assert!(tsc.read(then - 5) < wanted, "{ratio:?} {ahead}");
        }
    }
}

#[test]
fn a_guest_time_that_has_passed_is_now_and_one_too_far_never_comes() {
    let slow = GuestTsc {
        ratio: TscRatio::from_bits(TscRatio::ONE.bits() / 4),
        offset: 0,
    };
    assert!(slow.host_time_of(10, 1000) <= 1001);
    assert_eq!(slow.host_time_of(u64::MAX, 1000), u64::MAX);
    let plain = GuestTsc {
        ratio: TscRatio::ONE,
        offset: 0,
    };
    assert_eq!(plain.host_time_of(10, 1000), 1000);
}

#[test]
fn ratio_of_equal_frequencies_is_one() {
    assert_eq!(TscRatio::from_khz(KHZ, KHZ), Some(TscRatio::ONE));
    assert_eq!(TscRatio::from_khz(1, 2).map(TscRatio::bits), Some(1 << 47));
    assert_eq!(TscRatio::from_khz(0, KHZ), None);
    assert_eq!(TscRatio::from_khz(KHZ, 0), None);
    assert_eq!(TscRatio::from_khz(u32::MAX, 1), None);
    assert_eq!(
        TscRatio::from_khz(65_535, 1).map(TscRatio::bits),
        Some(65_535 << 48)
    );
}

#[test]
fn scaling_uses_all_128_bits_of_the_product() {
    let double = TscRatio::from_khz(2, 1).unwrap();
    assert_eq!(double.scale(1 << 62), 1 << 63);
    assert_eq!(double.scale(1 << 63), 0); // Modulo 2^64.
    let half = TscRatio::from_khz(1, 2).unwrap();
    assert_eq!(half.scale(u64::MAX), u64::MAX >> 1);
    assert_eq!(TscRatio::ONE.scale(u64::MAX), u64::MAX);
}

#[test]
fn unscaled_deadline_overflows_to_none() {
    let half = TscRatio::from_khz(1, 2).unwrap();
    assert_eq!(half.unscale(10), Some(20));
    assert_eq!(half.unscale(1 << 63), None);
    assert_eq!(TscRatio::from_bits(0).unscale(1), None);
}

#[test]
fn guest_tsc_is_scaled_before_the_offset() {
    let tsc = GuestTsc {
        ratio: TscRatio::from_khz(3, 2).unwrap(),
        offset: 0u64.wrapping_sub(5),
    };
    assert_eq!(tsc.read(100), 145);
    assert_eq!(tsc.read(2), 0u64.wrapping_sub(2));
    assert_eq!(tsc.offset_for(100, 145), tsc.offset);
}

#[test]
fn nested_offset_is_scaled_as_a_signed_number() {
    let l1 = GuestTsc {
        ratio: TscRatio::ONE,
        offset: 0u64.wrapping_sub(100),
    };
    let l2 = GuestTsc {
        ratio: TscRatio::from_khz(1, 2).unwrap(),
        offset: 7,
    };
    assert_eq!(l1.nested(l2).offset, 0u64.wrapping_sub(43));
    let plain = GuestTsc {
        ratio: TscRatio::ONE,
        offset: 7,
    };
    assert_eq!(l1.nested(plain).offset, 0u64.wrapping_sub(93));
}

#[test]
fn frequencies_within_the_tolerance_need_no_scaling() {
    let host = HostTsc {
        khz: 1_000_000,
        has_scaling: true,
        tolerance_ppm: 250,
    };
    assert_eq!(host.rate(999_750), TscRate::Native);
    assert_eq!(host.rate(1_000_250), TscRate::Native);
    let scaled = |khz| TscRate::Scaled(TscRatio::from_khz(khz, 1_000_000).unwrap());
    assert_eq!(host.rate(999_749), scaled(999_749));
    assert_eq!(host.rate(1_000_251), scaled(1_000_251));
    assert_eq!(host.rate(0), TscRate::Impossible);
    let plain = HostTsc {
        has_scaling: false,
        ..host
    };
    assert_eq!(plain.rate(2_000_000), TscRate::CatchUp);
    assert_eq!(plain.rate(500_000), TscRate::Impossible);
    assert_eq!(HostTsc { khz: 0, ..host }.rate(5), TscRate::Impossible);
}

#[test]
fn tsc_and_tsc_adjust_move_together() {
    let mut vcpu = AdjustableTsc::default();
    vcpu.write_tsc(1000, 1500);
    assert_eq!((vcpu.tsc.read(1000), vcpu.adjust), (1500, 500));
    vcpu.write_adjust(100);
    assert_eq!((vcpu.tsc.read(1000), vcpu.adjust), (1100, 100));
    vcpu.write_tsc(2000, 0);
    assert_eq!(
        (vcpu.tsc.read(2000), vcpu.adjust),
        (0, 0u64.wrapping_sub(2000))
    );
    // What the VMM sets is not in the guest's adjustment.
    vcpu.adjust = 0;
    vcpu.write_adjust(0);
    assert_eq!(vcpu.tsc.read(2000), 0);
}

#[test]
fn time_conversions_round_so_that_nothing_is_early() {
    assert_eq!(ns_to_ticks(3, 1_500_000), 4);
    assert_eq!(ticks_to_ns(4, 1_500_000), 3);
    assert_eq!(ticks_to_ns(5, 1_500_000), 4);
    assert_eq!(ticks_to_ns(1, 0), u64::MAX);
    assert_eq!(ns_to_ticks(u64::MAX, u32::MAX), u64::MAX);
    assert_eq!(ticks_to_ns(u64::MAX, 1), u64::MAX);
}

#[test]
fn vcpus_created_together_share_one_offset() {
    let mut vm = VmTsc::default();
    let mut vcpus = [VcpuTsc::default(); 3];
    let mut offsets = Vec::new();
    for (index, vcpu) in vcpus.iter_mut().enumerate() {
        let at = moment(1000 + 500 * index as u64);
        let sync = vm.write(vcpu, TscRatio::ONE, TscWrite::Creation, &at);
        assert_eq!(sync.is_new_generation, index == 0);
        offsets.push(sync.offset);
    }
    assert_eq!(offsets, [0u64.wrapping_sub(1000); 3]);
    assert!(vm.is_matched(3) && !vm.is_matched(2) && !vm.is_matched(4));
}

#[test]
fn values_written_within_a_second_are_taken_for_the_same_tsc() {
    for (value, is_match) in [
        (5000 + SECOND + SECOND - 1, true),
        (5000 + SECOND + SECOND, false),
        (5000 + 1, true),
        (5000, false),
        (0, true), // Zero always means "join".
    ] {
        let (mut vm, _) = vm(5000);
        let mut other = VcpuTsc::default();
        // A second later.
        let write = TscWrite::Value(value);
        let sync = vm.write(&mut other, TscRatio::ONE, write, &moment(SECOND));
        assert_eq!(sync.is_new_generation, !is_match, "{value}");
        let own = value.wrapping_sub(SECOND);
        assert_eq!(sync.offset, if is_match { 5000 } else { own }, "{value}");
        assert_eq!(vm.is_matched(2), is_match);
    }
}

#[test]
fn first_value_of_the_vmm_is_not_corrected() {
    let (mut vm, mut vcpu) = (VmTsc::default(), VcpuTsc::default());
    let _ = vm.write(&mut vcpu, TscRatio::ONE, TscWrite::Creation, &moment(0));
    let sync = vm.write(&mut vcpu, TscRatio::ONE, TscWrite::Value(500), &moment(100));
    assert_eq!(
        sync,
        TscSync {
            offset: 400,
            is_new_generation: true
        }
    );
    // The second is.
    let sync = vm.write(&mut vcpu, TscRatio::ONE, TscWrite::Value(500), &moment(200));
    assert_eq!(
        sync,
        TscSync {
            offset: 400,
            is_new_generation: false
        }
    );
}

#[test]
fn tscs_of_different_frequencies_do_not_match() {
    let (mut vm, _) = vm(5000);
    let mut other = VcpuTsc::default();
    let at = TscMoment {
        khz: KHZ + 1,
        ..moment(10)
    };
    let sync = vm.write(&mut other, TscRatio::ONE, TscWrite::Value(5000), &at);
    assert_eq!(
        sync,
        TscSync {
            offset: 4990,
            is_new_generation: true
        }
    );
}

#[test]
fn unreliable_host_tsc_matches_by_elapsed_time() {
    let (mut vm, _) = vm(5000);
    let mut other = VcpuTsc::default();
    // The host's TSC of this CPU is far off; 50 ns, or 100 ticks, have passed.
    let at = TscMoment {
        host_tsc: 77,
        ns: 50,
        khz: KHZ,
        is_host_tsc_reliable: false,
    };
    let sync = vm.write(&mut other, TscRatio::ONE, TscWrite::Value(5000), &at);
    assert!(!sync.is_new_generation);
    let tsc = GuestTsc {
        ratio: TscRatio::ONE,
        offset: sync.offset,
    };
    assert_eq!(tsc.read(77), 5100);
    assert_eq!(other.expected(100, KHZ), 5200);
}

#[test]
fn offset_matches_only_the_very_same_offset() {
    let (mut vm, mut vcpu) = vm(5000);
    let mut other = VcpuTsc::default();
    let sync = vm.write(
        &mut other,
        TscRatio::ONE,
        TscWrite::Offset(5000),
        &moment(10),
    );
    assert_eq!(
        sync,
        TscSync {
            offset: 5000,
            is_new_generation: false
        }
    );
    assert!(vm.is_matched(2));
    let sync = vm.write(
        &mut vcpu,
        TscRatio::ONE,
        TscWrite::Offset(5001),
        &moment(20),
    );
    assert_eq!(
        sync,
        TscSync {
            offset: 5001,
            is_new_generation: true
        }
    );
    assert!(!vm.is_matched(2));
    let _ = vm.write(
        &mut other,
        TscRatio::ONE,
        TscWrite::Offset(5001),
        &moment(30),
    );
    assert!(vm.is_matched(2));
    // Written again, it does not count twice.
    let _ = vm.write(
        &mut other,
        TscRatio::ONE,
        TscWrite::Offset(5001),
        &moment(40),
    );
    assert!(vm.is_matched(2));
}

proptest! {
    #[test]
    fn written_tsc_is_read_back(ratio in any::<u64>(), host in any::<u64>(), value in any::<u64>()) {
        let mut vcpu = AdjustableTsc::default();
        vcpu.tsc.ratio = TscRatio::from_bits(ratio);
        vcpu.write_tsc(host, value);
        prop_assert_eq!(vcpu.tsc.read(host), value);
        prop_assert_eq!(vcpu.adjust, vcpu.tsc.offset);
    }

    #[test]
    fn nested_tsc_is_what_l1_would_derive(
        host in 0..1u64 << 50,
        l1_khz in 500_000..4_000_000u32,
        l2_khz in 500_000..4_000_000u32,
        l1_offset in -(1i64 << 48)..1 << 48,
        l2_offset in any::<u64>(),
    ) {
        let l1_ratio = TscRatio::from_khz(l1_khz, KHZ).unwrap();
        let l1 = GuestTsc { ratio: l1_ratio, offset: l1_offset as u64 };
        let l2 = GuestTsc { ratio: TscRatio::from_khz(l2_khz, l1_khz).unwrap(), offset: l2_offset };
        // Only where L1's TSC is not negative does L1's own computation agree with signed scaling.
        prop_assume!(l1_ratio.scale(host) as i64 + l1_offset >= 0);
        let expected = l2.read(l1.read(host));
        let difference = l1.nested(l2).read(host).wrapping_sub(expected) as i64;
        // Each multiplication rounds once.
        prop_assert!(difference.abs() <= 16, "{}", difference);
    }

    #[test]
    fn synchronization_does_not_panic(
        writes in prop::collection::vec(
            (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>(), 0..3u8, any::<bool>()), 1..20),
    ) {
        let (mut vm, mut vcpu) = (VmTsc::default(), VcpuTsc::default());
        for (host_tsc, ns, value, khz, kind, is_host_tsc_reliable) in writes {
            let write = match kind {
                0 => TscWrite::Creation,
                1 => TscWrite::Value(value),
                _ => TscWrite::Offset(value),
            };
            let at = TscMoment { host_tsc, ns, khz, is_host_tsc_reliable };
            let sync = vm.write(&mut vcpu, TscRatio::from_bits(value), write, &at);
            if write == TscWrite::Offset(value) {
                prop_assert_eq!(sync.offset, value);
            }
        }
    }
}
