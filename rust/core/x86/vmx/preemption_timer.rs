// SPDX-License-Identifier: GPL-2.0

//! The VMX-preemption timer as an alarm clock: it ends the guest's turn when the nearest of several
//! deadlines has come.
//!
//! Deadlines are values of the host's TSC, whoever they are for: the guest's APIC timer, the timer
//! that a guest hypervisor has set for its own guest. [`GuestTsc::host_time_of`] converts.
//! Whoever is woken looks at the clock himself, so an exit too many does no harm.
//!
//! [`GuestTsc::host_time_of`]: crate::x86::clock::GuestTsc::host_time_of
//!
//! SDM 3C "VMX-Preemption Timer", 26.5.1

use super::capmsr::VmxMisc;
use super::exit::ExitReason;

/// Processors whose timer does not keep to its rate, by `CPUID.01H:EAX` without reserved bits.
/// Intel's specification updates: AAJ124, AAK139, AAM126, AAN92, AAO95, AAP86, AAT59, AAU65, AAX65,
/// BA86 and their like; and Xeon E3-1220 v2.
const BROKEN: [u32; 9] = [
    0x106a0, 0x106a1, 0x106a4, 0x106a5, 0x106e5, 0x20652, 0x20655, 0x206e6, 0x306a8,
];

/// Returns whether the timer of the processor with this `CPUID.01H:EAX` cannot be relied on.
pub fn is_broken(signature: u32) -> bool {
    /// Bits 31:28 and 15:14.
    const RESERVED: u32 = 0xf000_c000;
    BROKEN.contains(&(signature & !RESERVED))
}

/// Returns the nearest of several deadlines.
#[inline]
pub fn nearest<const N: usize>(deadlines: [Option<u64>; N]) -> Option<u64> {
    deadlines.into_iter().flatten().min()
}

/// The rate of the processor's timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PreemptionTimer {
    /// The timer counts down whenever this bit of the TSC changes; 0 to 31.
    rate: u8,
}

impl PreemptionTimer {
    /// Makes it of IA32_VMX_MISC.
    pub fn new(misc: VmxMisc) -> Self {
        Self {
            rate: misc.preemption_timer_rate(),
        }
    }

    /// Returns the value that expires when the TSC, now `now`, reaches `deadline`, or up to
    /// 2^rate cycles later; 0 if it has. A deadline too far away gets the greatest value.
    #[inline]
    pub fn until(self, deadline: u64, now: u64) -> u32 {
        if deadline <= now {
            return 0;
        }
        // The timer changes at multiples of 2^rate, so only those are told apart.
        let last = deadline.wrapping_sub(1) >> self.rate;
        let ticks = last.saturating_sub(now >> self.rate).saturating_add(1);
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }

    /// Returns the value for a turn of `cycles` of the TSC, at least 1.
    pub fn turn(self, cycles: u64) -> u32 {
        u32::try_from(cycles >> self.rate)
            .unwrap_or(u32::MAX)
            .max(1)
    }
}

/// How often [`Trial`] is made before the processor is taken for one that fails it.
const TRIES: u32 = 8;
/// [`Trial`] that was passed.
const PASSED: u32 = u32::MAX;

/// Whether "external-interrupt exiting" works while the guest has RFLAGS.IF = 0, found out by trial.
/// Where it does not (Bochs 3.0), a guest that spins with IF = 0 keeps its CPU for ever, unless the
/// timer bounds its turns.
///
/// A try is a VM entry with IF = 0, without injection, with an interrupt of the host pending and with
/// the monitor trap flag set. The interrupt must end the guest before its first instruction. Where
/// it does not, the guest executes one, and what ends it then is the flag or the instruction, even
/// if that lets interrupts in.
///
/// SDM 3C "VM Exits Induced by External Interrupts": RFLAGS.IF does not block them; "Monitor Trap
/// Flag", 26.5.2; 3A "Priority Among Concurrent Events", 7.9.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trial(u32);

impl Trial {
    /// Not tried yet.
    pub const NEW: Self = Self(0);

    /// Takes it out of a word.
    #[inline]
    pub const fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// Returns it as a word.
    #[inline]
    pub const fn into_word(self) -> u32 {
        self.0
    }

    /// Returns whether the guest's turns must be bounded: the processor fails, or may.
    #[inline]
    pub const fn must_bound(self) -> bool {
        self.0 != PASSED
    }

    /// Returns whether to try again.
    #[inline]
    pub const fn is_open(self) -> bool {
        self.0 < TRIES
    }

    /// Takes the exit reason of a try; `None` for one that is not known.
    ///
    /// Another exit than that of an interrupt proves nothing by itself: the instruction may have
    /// been fetched before the interrupt arrived. A processor that works does not do so again and
    /// again.
    pub const fn after(self, reason: Option<ExitReason>) -> Self {
        match reason {
            Some(ExitReason::ExternalInterrupt) => Self(PASSED),
            _ if self.is_open() => Self(self.0.saturating_add(1)),
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(rate: u8) -> PreemptionTimer {
        PreemptionTimer::new(VmxMisc(0).with_preemption_timer_rate(rate))
    }

    /// The TSC at which a timer of `value` ticks that was started at `now` expires: it counts at
    /// each multiple of 2^rate.
    fn expiry(rate: u8, now: u64, value: u32) -> u64 {
        let mut tsc = now;
        for _ in 0..value {
            tsc = ((tsc >> rate) + 1) << rate;
        }
        tsc
    }

    #[test]
    fn the_timer_expires_at_the_deadline_or_less_than_a_tick_later() {
        for rate in [0, 1, 3, 5] {
            for now in 0..70 {
                for deadline in now + 1..now + 200 {
                    let end = expiry(rate, now, timer(rate).until(deadline, now));
                    assert!(
                        end >= deadline && end - deadline < 1 << rate,
                        "{rate} {now} {deadline} {end}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_deadline_that_has_come_is_0() {
        for rate in [0, 5, 31] {
            assert_eq!(timer(rate).until(1000, 1000), 0);
            assert_eq!(timer(rate).until(0, u64::MAX), 0);
            assert_eq!(timer(rate).until(1001, 1000), 1);
        }
    }

    #[test]
    fn a_deadline_far_away_gets_the_greatest_value() {
        assert_eq!(timer(0).until(u64::MAX, 0), u32::MAX);
        assert_eq!(timer(5).until(u64::MAX, 0), u32::MAX);
        assert_eq!(timer(31).until(1 << 62, 0), 1 << 31);
        assert_eq!(timer(0).until(1 << 32, 0), u32::MAX);
        assert_eq!(timer(0).until((1 << 32) - 1, 0), u32::MAX);
        assert_eq!(timer(0).until((1 << 32) - 2, 0), u32::MAX - 1);
    }

    #[test]
    fn a_turn_is_never_empty() {
        assert_eq!(timer(5).turn(0), 1);
        assert_eq!(timer(5).turn(6400), 200);
        assert_eq!(timer(0).turn(u64::MAX), u32::MAX);
    }

    #[test]
    fn the_nearest_deadline_counts() {
        assert_eq!(nearest([None, None]), None);
        assert_eq!(nearest([Some(7), None]), Some(7));
        assert_eq!(nearest([Some(7), Some(3), Some(5)]), Some(3));
    }

    #[test]
    fn reserved_bits_do_not_hide_a_broken_processor() {
        assert!(is_broken(0x106a5) && is_broken(0xf001_c6a5));
        assert!(!is_broken(0x306c3) && !is_broken(0xc06c0));
    }

    #[test]
    fn an_interrupt_that_ends_the_guest_settles_the_trial() {
        let passed = Trial::NEW.after(Some(ExitReason::ExternalInterrupt));
        assert!(!passed.must_bound() && !passed.is_open());
        assert_eq!(passed.after(Some(ExitReason::MonitorTrapFlag)), passed);
        assert_eq!(Trial::from_word(passed.into_word()), passed);
    }

    #[test]
    fn other_exits_settle_it_when_they_come_again_and_again() {
        let mut trial = Trial::NEW;
        for _ in 0..TRIES {
            assert!(trial.is_open() && trial.must_bound());
            trial = trial.after(Some(ExitReason::MonitorTrapFlag));
        }
        assert!(!trial.is_open() && trial.must_bound());
        assert_eq!(trial.after(None), trial);
        // Another vCPU's try may still come out well.
        let late = trial.after(Some(ExitReason::ExternalInterrupt));
        assert!(!late.must_bound());
    }
}
