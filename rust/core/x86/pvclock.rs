// SPDX-License-Identifier: GPL-2.0

//! kvmclock: time for a guest as a function of its TSC, on a page that it shares with us.
//!
//! The guest computes `system_time + ((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >>
//! 32` in nanoseconds. The structures are an ABI that Xen shares; their `version` is odd while we
//! write and changes with each update, so that a reader can tell.
//!
//! Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW and MSR_KVM_WALL_CLOCK_NEW

use super::clock::wide;

/// Nanoseconds of a second.
pub const NSEC_PER_SEC: u64 = 1_000_000_000;

/// [`TimeInfo::flags`]: the clocks of all vCPUs agree at all times.
pub const PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0;
/// [`TimeInfo::flags`]: the VMM stopped the guest (KVM_KVMCLOCK_CTRL); the guest clears it.
pub const PVCLOCK_GUEST_STOPPED: u8 = 1 << 1;

/// A factor between two frequencies: `(ticks << shift) * mul >> 32`, or `>> -shift` if negative.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimeScale {
    /// The fraction, in units of 2^-32.
    pub mul: u32,
    /// The power of two.
    pub shift: i8,
}

impl TimeScale {
    /// Returns the factor that turns ticks of `base_hz` into ticks of `scaled_hz`, with the most
    /// bits that `mul` can hold; `None` if either is 0.
    pub fn new(scaled_hz: u64, base_hz: u64) -> Option<Self> {
        if scaled_hz == 0 {
            return None;
        }
        // With the top bits of both set the quotient is between 1/2 and 2.
        let (zeros, base_zeros) = (scaled_hz.leading_zeros(), base_hz.leading_zeros());
        let scaled = scaled_hz.wrapping_shl(zeros);
        let base = base_hz.wrapping_shl(base_zeros);
        let is_below_one = scaled < base;
        let fraction_bits = if is_below_one { 32 } else { 31 };
        let (mul, _) = wide::div_rem(u128::from(scaled) << fraction_bits, base)?;
        // scaled_hz / base_hz = mul * 2^-fraction_bits * 2^(base_zeros - zeros)
        let power = i64::from(base_zeros).wrapping_sub(zeros.into());
        let shift = power.wrapping_add(i64::from(!is_below_one));
        Some(Self {
            mul: u32::try_from(mul).ok()?,
            shift: i8::try_from(shift).ok()?,
        })
    }

    /// Returns the factor that turns ticks of a TSC of `khz` into nanoseconds.
    pub fn of_tsc(khz: u32) -> Option<Self> {
        Self::new(NSEC_PER_SEC, u64::from(khz).saturating_mul(1000))
    }

    /// Applies the factor, as a guest does: what is shifted out of 64 bits is lost.
    #[inline]
    pub fn apply(self, ticks: u64) -> u64 {
        let distance = u32::from(self.shift.unsigned_abs());
        let shifted = if self.shift < 0 {
            ticks.checked_shr(distance)
        } else {
            ticks.checked_shl(distance)
        };
        let product = wide::mul(shifted.unwrap_or(0), self.mul.into()) >> 32;
        // CAST: modulo 2^64, as the guest computes it.
        #[allow(clippy::cast_possible_truncation, reason = "times are modulo 2^64")]
        {
            product as u64
        }
    }
}

/// The size of `struct pvclock_vcpu_time_info`, in bytes.
pub const TIME_INFO_SIZE: usize = 32;

/// `struct pvclock_vcpu_time_info`, but for its version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimeInfo {
    /// The guest's TSC at the time of the update.
    pub tsc_timestamp: u64,
    /// The guest's time then, in nanoseconds.
    pub system_time: u64,
    /// From ticks to nanoseconds.
    pub scale: TimeScale,
    /// `PVCLOCK_*`.
    pub flags: u8,
}

impl TimeInfo {
    /// Returns the time at `tsc`, in nanoseconds.
    #[inline]
    pub fn at(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc_timestamp);
        self.system_time.wrapping_add(self.scale.apply(ticks))
    }

    /// Returns the bytes with version `version`.
    ///
    /// The writer stores [`Version::busy`], then these bytes with that version, then
    /// [`Version::done`], with write barriers between. `guest_flags` is what the guest's page
    /// holds: PVCLOCK_GUEST_STOPPED stays until the guest has seen it.
    pub fn to_bytes(&self, version: u32, guest_flags: u8) -> [u8; TIME_INFO_SIZE] {
        let mut bytes = [0; TIME_INFO_SIZE];
        let flags = self.flags | (guest_flags & PVCLOCK_GUEST_STOPPED);
        put(&mut bytes, 0, version.to_le_bytes());
        put(&mut bytes, 8, self.tsc_timestamp.to_le_bytes());
        put(&mut bytes, 16, self.system_time.to_le_bytes());
        put(&mut bytes, 24, self.scale.mul.to_le_bytes());
        put(&mut bytes, 28, self.scale.shift.to_le_bytes());
        put(&mut bytes, 29, [flags]);
        bytes
    }
}

/// Stores `value` at `offset`, which lies within.
fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) {
    if let Some(slot) = bytes
        .get_mut(offset..)
        .and_then(<[u8]>::first_chunk_mut::<N>)
    {
        *slot = value;
    }
}

/// The offset of `flags` in `struct pvclock_vcpu_time_info`, in bytes.
pub const TIME_INFO_FLAGS: usize = 29;

/// The two versions of an update.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Version {
    /// Odd: stored first, the contents are changing.
    pub busy: u32,
    /// Even: stored last, the contents are whole.
    pub done: u32,
}

impl Version {
    /// Returns the versions of the update after `found`, which is on the guest's page and may be
    /// anything.
    pub const fn after(found: u32) -> Self {
        let busy = found.wrapping_add(1) | 1;
        Self {
            busy,
            done: busy.wrapping_add(1),
        }
    }
}

/// The size of `struct pvclock_wall_clock`, in bytes.
pub const WALL_CLOCK_SIZE: usize = 12;

/// `struct pvclock_wall_clock`, but for its version: when the guest's time was 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WallClock {
    /// Seconds since 1970. The structure has the low 32 bits; Xen has room for the others.
    pub sec: u64,
    /// Nanoseconds of that second.
    pub nsec: u32,
}

impl WallClock {
    /// Returns the epoch of a guest whose time is `guest_ns` when the real time is `real_ns`
    /// nanoseconds since 1970.
    pub fn new(real_ns: u64, guest_ns: u64) -> Self {
        let epoch = real_ns.wrapping_sub(guest_ns);
        Self {
            sec: epoch / NSEC_PER_SEC,
            nsec: u32::try_from(epoch % NSEC_PER_SEC).unwrap_or(0), // Below 2^30.
        }
    }

    /// Returns the bytes with version `version`; see [`TimeInfo::to_bytes`] for the order of
    /// stores.
    pub fn to_bytes(&self, version: u32) -> [u8; WALL_CLOCK_SIZE] {
        let mut bytes = [0; WALL_CLOCK_SIZE];
        put(&mut bytes, 0, version.to_le_bytes());
        let [a, b, c, d, ..] = self.sec.to_le_bytes();
        put(&mut bytes, 4, [a, b, c, d]);
        put(&mut bytes, 8, self.nsec.to_le_bytes());
        bytes
    }

    /// Returns the bits of the seconds that the structure has no room for.
    pub const fn sec_hi(&self) -> u32 {
        let [.., e, f, g, h] = self.sec.to_le_bytes();
        u32::from_le_bytes([e, f, g, h])
    }
}

/// [`ClockData::flags`]: the clocks of all vCPUs agree.
pub const KVM_CLOCK_TSC_STABLE: u32 = 1 << 1;
/// [`ClockData::flags`]: `realtime` is valid.
pub const KVM_CLOCK_REALTIME: u32 = 1 << 2;
/// [`ClockData::flags`]: `host_tsc` is valid.
pub const KVM_CLOCK_HOST_TSC: u32 = 1 << 3;
/// The flags that KVM_SET_CLOCK takes, and KVM_CAP_ADJUST_CLOCK returns.
pub const KVM_CLOCK_VALID_FLAGS: u32 =
    KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC;

/// `struct kvm_clock_data`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClockData {
    /// The guest's time, in nanoseconds.
    pub clock: u64,
    /// `KVM_CLOCK_*`.
    pub flags: u32,
    /// The host's real time, in nanoseconds since 1970.
    pub realtime: u64,
    /// The host's TSC.
    pub host_tsc: u64,
}

/// A pair of readings, of one moment, from which the time of all vCPUs is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MasterClock {
    /// The host's TSC.
    pub host_tsc: u64,
    /// Nanoseconds of the host's kvmclock base.
    pub base_ns: u64,
}

/// What the host's clocks read, for KVM_GET_CLOCK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostClocks {
    /// The TSC.
    pub tsc: u64,
    /// Nanoseconds of the kvmclock base.
    pub base_ns: u64,
    /// The real time at that TSC, in nanoseconds since 1970, if both could be read as one.
    pub realtime_ns: Option<u64>,
}

/// Returns what KVM_GET_CLOCK answers.
///
/// `kvmclock_offset` is the difference between the guest's time and the base, modulo 2^64;
/// `host_scale` turns ticks of the host's TSC into nanoseconds.
pub fn get_clock(
    master: Option<&MasterClock>,
    kvmclock_offset: u64,
    host_scale: TimeScale,
    host: &HostClocks,
) -> ClockData {
    let Some(master) = master else {
        let clock = host.base_ns.wrapping_add(kvmclock_offset);
        return ClockData {
            clock,
            ..ClockData::default()
        };
    };
    let info = TimeInfo {
        tsc_timestamp: master.host_tsc,
        system_time: master.base_ns.wrapping_add(kvmclock_offset),
        scale: host_scale,
        flags: 0,
    };
    let valid = match host.realtime_ns {
        Some(_) => KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC,
        None => 0,
    };
    ClockData {
        clock: info.at(host.tsc),
        flags: KVM_CLOCK_TSC_STABLE | valid,
        realtime: host.realtime_ns.unwrap_or(0),
        host_tsc: host.tsc,
    }
}

/// A flag of KVM_SET_CLOCK that is not known: EINVAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownFlags;

/// Returns the `kvmclock_offset` that KVM_SET_CLOCK leads to.
///
/// `base_ns` is that of the master clock where there is one, so that no vCPU's `system_time` can
/// be below 0, and the present one otherwise; `real_ns` is the present real time.
///
/// # Errors
///
/// [`UnknownFlags`].
pub fn set_clock(data: &ClockData, base_ns: u64, real_ns: u64) -> Result<u64, UnknownFlags> {
    if data.flags & !KVM_CLOCK_VALID_FLAGS != 0 {
        return Err(UnknownFlags);
    }
    // The time between save and restore has passed for the guest too, unless it is negative.
    let passed = if data.flags & KVM_CLOCK_REALTIME != 0 {
        real_ns.saturating_sub(data.realtime)
    } else {
        0
    };
    Ok(data.clock.wrapping_add(passed).wrapping_sub(base_ns))
}

#[cfg(test)]
mod tests;
