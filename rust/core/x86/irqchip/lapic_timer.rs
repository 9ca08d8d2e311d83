// SPDX-License-Identifier: GPL-2.0

//! The local APIC's timer: when it expires, and what its count reads.
//!
//! It has no clock and no host timer of its own. The caller gives the time ([`Clock`]) and is told
//! what to arm ([`TimerAction`]); when the host timer fires, [`Timer::expire`] says what that means.
//!
//! ```text
//!              initial count = 0, mode to or from TSC-deadline
//!          +------------------------------------------------------+
//!          v                                                      |
//!        Idle -- initial count != 0 ----------> Count { expiry } -+--+
//!          |  ^------- one-shot expires ----------------'   ^--------' periodic expires
//!          |
//!          `-- IA32_TSC_DEADLINE != 0 --> Deadline -- expires, or 0 written --> Idle
//! ```
//!
//! SDM 3A "APIC Timer", 11.5.4

/// A source of the host's monotonic time. A plain `u64` is one that stands still.
pub trait Clock {
    /// Returns the time, in nanoseconds from a fixed point.
    fn now_ns(&self) -> u64;
}

impl Clock for u64 {
    #[inline]
    fn now_ns(&self) -> u64 {
        *self
    }
}

/// What the owner must do with the host timer that stands for this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum TimerAction {
    /// Stop it, and forget an expiry that was not handled yet.
    Cancel,
    /// Let it fire when the clock reads `deadline_ns`, which may have passed.
    ArmNs {
        /// In nanoseconds of the [`Clock`].
        deadline_ns: u64,
    },
    /// Let it fire when the guest's (L1's) TSC reads `deadline_tsc`, which may have passed.
    ArmTsc {
        /// In ticks of the guest's TSC.
        deadline_tsc: u64,
    },
}

/// Bits 18:17 of the LVT timer entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TimerMode {
    /// Counts down once.
    #[default]
    OneShot,
    /// Starts over at zero.
    Periodic,
    /// Fires when the TSC reaches IA32_TSC_DEADLINE.
    TscDeadline,
    /// Not defined: never fires.
    Reserved,
}

impl TimerMode {
    /// Returns the mode that the low two bits of `bits` encode.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }

    /// Returns whether the initial and current count work in this mode.
    #[inline]
    pub const fn counts(self) -> bool {
        matches!(self, TimerMode::OneShot | TimerMode::Periodic)
    }
}

/// The length of an APIC bus cycle, in nanoseconds (KVM_CAP_X86_APIC_BUS_CYCLES_NS); 1 by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BusCycle(u64);

impl BusCycle {
    /// The longest time of a timer, in bus cycles: the greatest count and divisor.
    const MAX_CYCLES: u64 = 128 * u32::MAX as u64;

    /// Returns a cycle of `ns` nanoseconds, or `None` if it is 0, or if the longest time of a
    /// timer would not fit 64 bits.
    pub const fn new(ns: u64) -> Option<Self> {
        if ns == 0 || ns.checked_mul(Self::MAX_CYCLES).is_none() {
            return None;
        }
        Some(Self(ns))
    }

    /// Returns the length in nanoseconds.
    pub const fn ns(self) -> u64 {
        self.0
    }
}

impl Default for BusCycle {
    fn default() -> Self {
        Self(1)
    }
}

/// What the timer is waiting for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Armed {
    #[default]
    Idle,
    Count {
        expiry_ns: u64,
    },
    Deadline {
        tsc: u64,
    },
}

/// The timer of one local APIC. The registers are in the page; this is what they became.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timer {
    mode: TimerMode,
    /// The initial count.
    initial: u32,
    /// log2 of the divisor, 0 to 7.
    divide_shift: u32,
    cycle: BusCycle,
    /// The shortest period that is not stretched, in nanoseconds.
    min_period_ns: u64,
    armed: Armed,
}

/// What became of a host timer that fired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Expiry {
    /// Nothing was due: the timer was stopped meanwhile.
    Idle,
    /// It fired too early: arm it again.
    Early(TimerAction),
    /// It expired, and is not to fire again by itself.
    Expired,
    /// It expired and runs on: arm it again.
    Restarted(TimerAction),
}

impl Timer {
    /// Makes a stopped timer. Periods below `min_period_ns` (`kvm.min_timer_period_us`) are
    /// stretched to it, as a guest could otherwise keep the host busy with expiries.
    pub const fn new(cycle: BusCycle, min_period_ns: u64) -> Self {
        Self {
            mode: TimerMode::OneShot,
            initial: 0,
            divide_shift: 1,
            cycle,
            min_period_ns,
            armed: Armed::Idle,
        }
    }

    /// Returns the mode.
    #[inline]
    pub const fn mode(&self) -> TimerMode {
        self.mode
    }

    /// Returns the length of a tick, in nanoseconds.
    fn tick_ns(&self) -> u64 {
        self.cycle.0.wrapping_shl(self.divide_shift)
    }

    /// Returns how long `count` ticks are, in nanoseconds; [`BusCycle::new`] keeps it in range.
    fn ticks_to_ns(&self, count: u32) -> u64 {
        self.tick_ns().saturating_mul(u64::from(count))
    }

    /// Returns the time from one expiry to the next, in nanoseconds, at least 1.
    fn period_ns(&self) -> u64 {
        let period = self.ticks_to_ns(self.initial);
        match self.mode {
            TimerMode::Periodic => period.max(self.min_period_ns).max(1),
            TimerMode::OneShot | TimerMode::TscDeadline | TimerMode::Reserved => period.max(1),
        }
    }

    /// Returns what the host timer must do now.
    pub fn action(&self) -> TimerAction {
        match self.armed {
            Armed::Idle => TimerAction::Cancel,
            Armed::Count { expiry_ns } => TimerAction::ArmNs {
                deadline_ns: expiry_ns,
            },
            Armed::Deadline { tsc } => TimerAction::ArmTsc { deadline_tsc: tsc },
        }
    }

    /// Enters `mode`, as the LVT timer entry now says. Returns what changed for the host timer.
    ///
    /// Between one-shot and periodic the count goes on; to or from TSC-deadline mode the timer
    /// stops and the caller must clear the initial count register.
    #[must_use]
    pub fn set_mode(&mut self, mode: TimerMode) -> Option<TimerAction> {
        let is_crossing = (mode == TimerMode::TscDeadline) != (self.mode == TimerMode::TscDeadline);
        self.mode = mode;
        if !is_crossing {
            return None;
        }
        self.initial = 0;
        self.armed = Armed::Idle;
        Some(TimerAction::Cancel)
    }

    /// Starts counting down from `count`, or stops at 0. Void unless the mode counts.
    #[must_use]
    pub fn set_initial(&mut self, count: u32, clock: &impl Clock) -> Option<TimerAction> {
        if self.mode == TimerMode::TscDeadline {
            return None;
        }
        self.initial = count;
        self.armed = if count == 0 || !self.mode.counts() {
            Armed::Idle
        } else {
            Armed::Count {
                expiry_ns: clock.now_ns().saturating_add(self.period_ns()),
            }
        };
        Some(self.action())
    }

    /// Takes the divide configuration register. A running count goes on at the new rate.
    #[must_use]
    pub fn set_divide(&mut self, dcr: u32, clock: &impl Clock) -> Option<TimerAction> {
        let old_shift = self.divide_shift;
        self.divide_shift = divide_shift(dcr);
        let Armed::Count { expiry_ns } = self.armed else {
            return None;
        };
        if self.divide_shift == old_shift {
            return None;
        }
        let now = clock.now_ns();
        let left = u128::from(expiry_ns.saturating_sub(now));
        let left = left.wrapping_shl(self.divide_shift).wrapping_shr(old_shift);
        let left = u64::try_from(left).unwrap_or(u64::MAX);
        self.armed = Armed::Count {
            expiry_ns: now.saturating_add(left),
        };
        Some(self.action())
    }

    /// Returns the current count register.
    pub fn current(&self, clock: &impl Clock) -> u32 {
        let Armed::Count { expiry_ns } = self.armed else {
            return 0;
        };
        let now = clock.now_ns();
        let left = match expiry_ns.checked_sub(now) {
            Some(left) if left > 0 => left,
            // Due, but the host timer did not come yet.
            _ if self.mode != TimerMode::Periodic => return 0,
            _ => {
                let period = self.period_ns();
                let late = now.wrapping_sub(expiry_ns).checked_rem(period).unwrap_or(0);
                period.wrapping_sub(late)
            }
        };
        let ticks = left.div_ceil(self.tick_ns().max(1));
        u32::try_from(ticks).unwrap_or(u32::MAX).min(self.initial)
    }

    /// Takes a write of IA32_TSC_DEADLINE; 0 disarms. Void outside TSC-deadline mode.
    #[inline]
    #[must_use]
    pub fn set_deadline(&mut self, tsc: u64) -> Option<TimerAction> {
        if self.mode != TimerMode::TscDeadline {
            return None;
        }
        self.armed = if tsc == 0 {
            Armed::Idle
        } else {
            Armed::Deadline { tsc }
        };
        Some(self.action())
    }

    /// Returns IA32_TSC_DEADLINE: the deadline, or 0 if none is armed.
    #[inline]
    pub const fn deadline(&self) -> u64 {
        match self.armed {
            Armed::Deadline { tsc } => tsc,
            Armed::Idle | Armed::Count { .. } => 0,
        }
    }

    /// Says what became of the timer now that the host's fired, at time `now_ns` and guest TSC
    /// `guest_tsc`.
    ///
    /// A periodic timer keeps its phase however late the call is: expiries that were missed are
    /// skipped, not caught up with.
    pub fn expire(&mut self, now_ns: u64, guest_tsc: u64) -> Expiry {
        let is_early = match self.armed {
            Armed::Idle => return Expiry::Idle,
            Armed::Count { expiry_ns } => now_ns < expiry_ns,
            Armed::Deadline { tsc } => guest_tsc < tsc,
        };
        if is_early {
            return Expiry::Early(self.action());
        }
        match (self.mode, self.armed) {
            (TimerMode::Periodic, Armed::Count { expiry_ns }) => {
                let period = self.period_ns();
                let since = now_ns
                    .wrapping_sub(expiry_ns)
                    .checked_rem(period)
                    .unwrap_or(0);
                let next = now_ns.saturating_add(period.wrapping_sub(since));
                self.armed = Armed::Count { expiry_ns: next };
                Expiry::Restarted(self.action())
            }
            _ => {
                self.armed = Armed::Idle;
                Expiry::Expired
            }
        }
    }

    /// Starts anew from restored registers (KVM_SET_LAPIC): `initial` and the count that was left.
    ///
    /// A one-shot timer with nothing left fires at once: whether its interrupt was delivered
    /// before the save cannot be known, and one too many is better than one too few. A deadline
    /// stays, if the mode does: it is not part of the saved registers.
    pub fn restore(&mut self, counts: SavedCounts, clock: &impl Clock) -> TimerAction {
        let is_deadline_kept =
            counts.mode == TimerMode::TscDeadline && self.mode == TimerMode::TscDeadline;
        self.mode = counts.mode;
        self.divide_shift = divide_shift(counts.divide);
        self.initial = counts.initial;
        self.armed = if is_deadline_kept {
            self.armed
        } else if counts.initial == 0 || !counts.mode.counts() {
            Armed::Idle
        } else {
            let period = self.period_ns();
            let left = match self.ticks_to_ns(counts.current) {
                0 if self.mode == TimerMode::Periodic => period,
                left => left.min(period),
            };
            Armed::Count {
                expiry_ns: clock.now_ns().saturating_add(left),
            }
        };
        self.action()
    }

    /// Stops the timer and returns it to one-shot mode with a count of 0 and a divisor of 2.
    pub fn reset(&mut self) {
        *self = Self::new(self.cycle, self.min_period_ns);
    }
}

/// The registers of a saved timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedCounts {
    /// From the LVT timer entry.
    pub mode: TimerMode,
    /// Initial count register.
    pub initial: u32,
    /// Current count register at the time of the save.
    pub current: u32,
    /// Divide configuration register.
    pub divide: u32,
}

/// Returns log2 of the divisor that a divide configuration register selects: bits 3, 1 and 0.
/// SDM 3A "APIC Timer", figure 11-10
const fn divide_shift(dcr: u32) -> u32 {
    match dcr & 0b1011 {
        0b0000 => 1,
        0b0001 => 2,
        0b0010 => 3,
        0b0011 => 4,
        0b1000 => 5,
        0b1001 => 6,
        0b1010 => 7,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
