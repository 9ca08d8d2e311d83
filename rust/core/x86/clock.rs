// SPDX-License-Identifier: GPL-2.0

//! The guest's TSC: scaling, offsets, IA32_TSC_ADJUST, and vCPUs whose TSCs run in step.
//!
//! The guest reads `((host TSC * ratio) >> 48) + offset`, modulo 2^64. Times are in ticks unless
//! they say otherwise. What the guest makes of its TSC by kvmclock is in
//! [`pvclock`](super::pvclock).
//!
//! SDM 3B "Time-Stamp Counter", 18.17; SDM 3C "Time-Stamp Counter Offsetting and Scaling", 26.3

pub(super) mod wide;

/// The number of fraction bits of a [`TscRatio`] under VMX.
const FRACTION_BITS: u32 = 48;

/// A TSC multiplier: guest ticks per host tick, in units of 2^-48.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TscRatio(u64);

impl Default for TscRatio {
    fn default() -> Self {
        Self::ONE
    }
}

/// Returns bits 111:48 of a product.
#[inline]
const fn mul_shift(a: u64, b: u64) -> u64 {
    // CAST: both factors and the low half of the shifted product are 64 bits wide.
    #[allow(clippy::cast_possible_truncation, reason = "ticks are modulo 2^64")]
    {
        (wide::mul(a, b) >> FRACTION_BITS) as u64
    }
}

impl TscRatio {
    /// One guest tick per host tick.
    pub const ONE: Self = Self(1 << FRACTION_BITS);

    /// Makes a ratio of a VMCS TSC multiplier.
    #[inline]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns the VMCS TSC multiplier.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Returns the ratio for a guest TSC of `guest_khz` on a host TSC of `host_khz`, or `None`
    /// where a multiplier cannot express it.
    pub fn from_khz(guest_khz: u32, host_khz: u32) -> Option<Self> {
        let scaled = u128::from(guest_khz) << FRACTION_BITS;
        let (bits, _) = wide::div_rem(scaled, host_khz.into())?;
        (bits != 0 && bits != u64::MAX).then_some(Self(bits))
    }

    /// Scales `tsc`, a host TSC or a difference of two.
    #[inline]
    pub const fn scale(self, tsc: u64) -> u64 {
        mul_shift(tsc, self.0)
    }

    /// Returns the host ticks in `guest_ticks`, rounded down, or `None` if they overflow: how far
    /// ahead a host timer must be set.
    pub fn unscale(self, guest_ticks: u64) -> Option<u64> {
        let (host, _) = wide::div_rem(u128::from(guest_ticks) << FRACTION_BITS, self.0)?;
        Some(host)
    }

    /// Returns the ratio of a guest (L2) whose hypervisor (L1) runs at `self` and gives it `l2`.
    pub const fn compose(self, l2: Self) -> Self {
        Self(mul_shift(self.0, l2.0))
    }
}

/// How a TSC is derived from the host's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GuestTsc {
    /// The multiplier.
    pub ratio: TscRatio,
    /// The offset, modulo 2^64.
    pub offset: u64,
}

impl GuestTsc {
    /// Returns the guest's TSC when the host's is `host_tsc`.
    #[inline]
    pub const fn read(&self, host_tsc: u64) -> u64 {
        self.ratio.scale(host_tsc).wrapping_add(self.offset)
    }

    /// Returns the offset with which the guest's TSC is `tsc` when the host's is `host_tsc`.
    #[inline]
    pub const fn offset_for(&self, host_tsc: u64, tsc: u64) -> u64 {
        tsc.wrapping_sub(self.ratio.scale(host_tsc))
    }

    /// Returns what the host's TSC, now `host_tsc`, reads when the guest's reaches `guest_tsc`: now
    /// if it has. The greatest value stands for a time that does not come.
    #[inline]
    pub fn host_time_of(&self, guest_tsc: u64, host_tsc: u64) -> u64 {
        let ahead = guest_tsc.saturating_sub(self.read(host_tsc));
        let ahead = match self.ratio {
            TscRatio::ONE => Some(ahead),
            // Rounded up, so that the guest's TSC has got there.
            ratio => ratio.unscale(ahead).map(|cycles| cycles.saturating_add(1)),
        };
        host_tsc.saturating_add(ahead.unwrap_or(u64::MAX))
    }

    /// Returns the TSC of a guest (L2) whose hypervisor (L1) has this one and derives L2's by
    /// `l2`. Both offsets are signed.
    pub const fn nested(&self, l2: Self) -> Self {
        // The offset of L1 is part of what L2's multiplier scales. An arithmetic shift is what
        // rounds a negative product as the modulo-2^64 arithmetic of the hardware expects.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            clippy::cast_sign_loss,
            reason = "offsets are modulo 2^64"
        )]
        let scaled = if l2.ratio.0 == TscRatio::ONE.0 {
            self.offset
        } else {
            let product = (self.offset as i64 as i128).wrapping_mul(l2.ratio.0 as i128);
            (product >> FRACTION_BITS) as u64
        };
        Self {
            ratio: self.ratio.compose(l2.ratio),
            offset: scaled.wrapping_add(l2.offset),
        }
    }
}

/// What a TSC of `guest_khz` needs of a host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TscRate {
    /// The frequencies are as good as equal: no scaling.
    Native,
    /// The multiplier does it.
    Scaled(TscRatio),
    /// There is no multiplier, and the guest's TSC is faster: its offset must catch up at entries.
    CatchUp,
    /// It cannot be had: KVM_SET_TSC_KHZ fails with EINVAL.
    Impossible,
}

/// What the host can do about TSC frequencies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostTsc {
    /// The frequency of its TSC, in kHz; 0 if unknown.
    pub khz: u32,
    /// Whether VMX has TSC scaling.
    pub has_scaling: bool,
    /// The difference, in parts per million, below which frequencies are as good as equal
    /// (`kvm.tsc_tolerance_ppm`); 250 by default, at most 1,000,000.
    pub tolerance_ppm: u32,
}

impl HostTsc {
    /// Returns what a guest TSC of `guest_khz` needs.
    pub fn rate(&self, guest_khz: u32) -> TscRate {
        if guest_khz == 0 {
            return TscRate::Impossible;
        }
        let bound = |parts: u64| u64::from(self.khz).saturating_mul(parts) / 1_000_000;
        let ppm = u64::from(self.tolerance_ppm);
        let low = bound(1_000_000u64.saturating_sub(ppm));
        let high = bound(1_000_000u64.saturating_add(ppm));
        if (low..=high).contains(&guest_khz.into()) {
            return TscRate::Native;
        }
        if self.has_scaling {
            return TscRatio::from_khz(guest_khz, self.khz)
                .map_or(TscRate::Impossible, TscRate::Scaled);
        }
        if guest_khz > self.khz {
            TscRate::CatchUp
        } else {
            TscRate::Impossible
        }
    }
}

/// The TSC of a vCPU with IA32_TSC_ADJUST. SDM 3B "IA32_TSC_ADJUST MSR", 18.17.3
///
/// Whatever the guest does, a write of one moves the other by as much, so that
/// `offset - adjust` tells how far the VMM has set the TSC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AdjustableTsc {
    /// The TSC.
    pub tsc: GuestTsc,
    /// IA32_TSC_ADJUST.
    pub adjust: u64,
}

impl AdjustableTsc {
    /// Takes a guest's WRMSR of IA32_TIME_STAMP_COUNTER, when the host's TSC is `host_tsc`.
    pub fn write_tsc(&mut self, host_tsc: u64, value: u64) {
        let offset = self.tsc.offset_for(host_tsc, value);
        let moved = offset.wrapping_sub(self.tsc.offset);
        self.tsc.offset = offset;
        self.adjust = self.adjust.wrapping_add(moved);
    }

    /// Takes a guest's WRMSR of IA32_TSC_ADJUST, which moves the TSC. The VMM's write of it does
    /// not: it assigns `adjust`.
    pub fn write_adjust(&mut self, value: u64) {
        let moved = value.wrapping_sub(self.adjust);
        self.tsc.offset = self.tsc.offset.wrapping_add(moved);
        self.adjust = value;
    }
}

/// Returns the ticks of a TSC of `khz` in `ns` nanoseconds, rounded down.
pub fn ns_to_ticks(ns: u64, khz: u32) -> u64 {
    match wide::div_rem(wide::mul(ns, khz.into()), 1_000_000) {
        Some((ticks, _)) => ticks,
        None => u64::MAX,
    }
}

/// Returns the nanoseconds in `ticks` of a TSC of `khz`, rounded up so that a timer does not fire
/// early; the longest there are if `khz` is 0.
pub fn ticks_to_ns(ticks: u64, khz: u32) -> u64 {
    match wide::div_rem(wide::mul(ticks, 1_000_000), khz.into()) {
        Some((ns, rest)) => ns.saturating_add(u64::from(rest != 0)),
        None => u64::MAX,
    }
}

/// A write of a TSC, as other vCPUs compare theirs with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Write {
    /// When, in nanoseconds of the host's kvmclock base.
    ns: u64,
    /// The value.
    tsc: u64,
    /// The offset that it led to.
    offset: u64,
}

/// The TSCs of a VM, as far as they run in step.
///
/// Writes that match make up a *generation*: its vCPUs share one offset (or, on a host whose TSCs
/// are not reliable, one line of time). A write that does not match starts the next generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmTsc {
    last: Write,
    last_khz: u32,
    /// The first write of the generation.
    current: Write,
    generation: u64,
    /// The vCPUs of the generation, but for the one that started it.
    nr_matched: u32,
    is_set_by_user: bool,
}

/// A vCPU's place among the TSCs of its VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VcpuTsc {
    /// The generation that it belongs to.
    generation: u64,
    /// The first write of that generation: when, and the value.
    base_ns: u64,
    base_tsc: u64,
}

impl VcpuTsc {
    /// Returns what the TSC should read at `now_ns`, for a vCPU that must catch up by hand.
    pub fn expected(&self, now_ns: u64, khz: u32) -> u64 {
        self.base_tsc
            .wrapping_add(ns_to_ticks(now_ns.saturating_sub(self.base_ns), khz))
    }
}

/// Why a vCPU's TSC is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TscWrite {
    /// The vCPU is new: its TSC joins the others', or starts at 0.
    Creation,
    /// The VMM wrote IA32_TIME_STAMP_COUNTER.
    Value(u64),
    /// The VMM wrote KVM_VCPU_TSC_OFFSET.
    Offset(u64),
}

/// Circumstances of a [`TscWrite`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TscMoment {
    /// The host's TSC.
    pub host_tsc: u64,
    /// Nanoseconds of the host's kvmclock base, which does not step.
    pub ns: u64,
    /// The frequency of the vCPU's TSC, in kHz.
    pub khz: u32,
    /// Whether the host's TSCs run in step and do not stop.
    pub is_host_tsc_reliable: bool,
}

/// What a [`TscWrite`] leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct TscSync {
    /// The vCPU's offset (L1's, if the vCPU is in L2).
    pub offset: u64,
    /// A new generation began: a master clock must be taken anew.
    pub is_new_generation: bool,
}

impl VmTsc {
    /// Returns whether the TSCs of all `nr_vcpus` vCPUs run in step: one condition of a master
    /// clock.
    pub fn is_matched(&self, nr_vcpus: u32) -> bool {
        self.nr_matched.checked_add(1) == Some(nr_vcpus)
    }

    /// Sets the TSC of `vcpu`, whose ratio is `ratio`.
    ///
    /// The VMM's writes of a value come one vCPU after the other, with the time that passes
    /// between them not in the values. So a value within a second of where the last write would be
    /// by now is taken for an attempt at the same TSC, and 0 always; that is KVM's ABI. The first
    /// value that the VMM writes is never corrected: what it would be compared with is only our own
    /// start at 0.
    pub fn write(
        &mut self,
        vcpu: &mut VcpuTsc,
        ratio: TscRatio,
        write: TscWrite,
        moment: &TscMoment,
    ) -> TscSync {
        let scaled = ratio.scale(moment.host_tsc);
        let is_same_rate = moment.khz != 0 && moment.khz == self.last_khz;
        let (mut tsc, mut offset, is_match) = match write {
            TscWrite::Creation => (0, 0u64.wrapping_sub(scaled), is_same_rate),
            TscWrite::Value(tsc) => {
                let is_meant = tsc == 0 || self.is_close(tsc, moment);
                (tsc, tsc.wrapping_sub(scaled), is_same_rate && is_meant)
            }
            TscWrite::Offset(offset) => {
                let is_meant = offset == self.last.offset;
                (
                    scaled.wrapping_add(offset),
                    offset,
                    is_same_rate && is_meant,
                )
            }
        };
        if is_match && !matches!(write, TscWrite::Offset(_)) {
            if moment.is_host_tsc_reliable {
                offset = self.current.offset;
            } else {
                tsc = tsc.wrapping_add(ns_to_ticks(self.elapsed(moment), moment.khz));
                offset = tsc.wrapping_sub(scaled);
            }
        }
        self.is_set_by_user |= write != TscWrite::Creation;
        self.last = Write {
            ns: moment.ns,
            tsc,
            offset,
        };
        self.last_khz = moment.khz;
        self.enter_generation(vcpu, is_match);
        TscSync {
            offset,
            is_new_generation: !is_match,
        }
    }

    fn elapsed(&self, moment: &TscMoment) -> u64 {
        moment.ns.saturating_sub(self.last.ns)
    }

    /// Returns whether `tsc` is within a second of the last write, had that run on.
    fn is_close(&self, tsc: u64, moment: &TscMoment) -> bool {
        let second = u64::from(moment.khz).saturating_mul(1000);
        let ticks = ns_to_ticks(self.elapsed(moment), moment.khz);
        let expected = self.last.tsc.wrapping_add(ticks);
        self.is_set_by_user
            && tsc < expected.wrapping_add(second)
            && tsc.wrapping_add(second) > expected
    }

    fn enter_generation(&mut self, vcpu: &mut VcpuTsc, is_match: bool) {
        if !is_match {
            self.generation = self.generation.wrapping_add(1);
            self.current = self.last;
            self.nr_matched = 0;
        } else if vcpu.generation != self.generation {
            self.nr_matched = self.nr_matched.saturating_add(1);
        }
        *vcpu = VcpuTsc {
            generation: self.generation,
            base_ns: self.current.ns,
            base_tsc: self.current.tsc,
        };
    }
}

#[cfg(test)]
mod tests;
