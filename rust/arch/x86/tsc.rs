// SPDX-License-Identifier: GPL-2.0

//! The time-stamp counter: its offset, its frequency, and how those of a VM keep in step.

use crate::{
    arch::x86::cpu::Cpu,
    host::host, //
};
use burrow_core::{
    request::Request,
    x86::{
        clock::{
            AdjustableTsc,
            GuestTsc,
            HostTsc,
            TscMoment,
            TscRate,
            TscRatio,
            TscWrite,
            VcpuTsc, //
        },
        msr::access::Origin,
        nested::merge,
        vmx::field::*, //
    },
};
use burrow_sys::{
    context,
    x86::{
        insn,
        tsc, //
    },
};
use kernel::prelude::*;

/// Frequencies of guest and host that differ by less, in parts per million, are taken for equal.
const TOLERANCE_PPM: u32 = 250;

/// The guest's time-stamp counter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tsc {
    /// Its multiplier and offset, and IA32_TSC_ADJUST.
    pub(crate) counter: AdjustableTsc,
    /// Its place among those of the VM.
    pub(crate) place: VcpuTsc,
    /// Its frequency, in kHz; 0 for the host's.
    khz: u32,
    /// What the host's counter had lost when the VMCS was last written.
    lost: u64,
}

/// Returns whether guests can have counters of another frequency than the host's.
pub(crate) fn has_scaling() -> bool {
    host().ctls.switchable.proc2.tsc_scaling()
}

/// Returns the multiplier for a guest's counter.
///
/// # Errors
///
/// `EINVAL` for a frequency that the host cannot give.
pub(crate) fn ratio_of(guest_khz: u32) -> Result<TscRatio> {
    let host = HostTsc {
        khz: host().tsc_khz,
        has_scaling: has_scaling(),
        tolerance_ppm: TOLERANCE_PPM,
    };
    match host.rate(guest_khz) {
        TscRate::Native => Ok(TscRatio::ONE),
        TscRate::Scaled(ratio) => Ok(ratio),
        TscRate::CatchUp | TscRate::Impossible => Err(EINVAL),
    }
}

impl Cpu<'_> {
    /// Returns the guest's time-stamp counter, as RDTSC in the guest does.
    pub(crate) fn guest_tsc(&self) -> u64 {
        GuestTsc {
            ratio: self.arch.tsc.counter.tsc.ratio,
            offset: self.tsc_offset(),
        }
        .read(insn::rdtsc())
    }

    /// Returns the frequency of the guest's counter, in kHz.
    pub(crate) fn tsc_khz(&self) -> u32 {
        match self.arch.tsc.khz {
            0 => host().tsc_khz,
            khz => khz,
        }
    }

    /// Returns the offset of the guest's counter from the host's as it is. What is in the vCPU's state
    /// is the offset from the host's as if it had never gone backwards.
    pub(crate) fn tsc_offset(&self) -> u64 {
        let tsc = &self.arch.tsc.counter.tsc;
        tsc.offset.wrapping_add(tsc.ratio.scale(tsc::lost()))
    }

    /// Lets the guest's counter go on where it was, if the machine has slept and the host's begun anew.
    pub(crate) fn catch_up_tsc(&mut self) {
        if self.arch.tsc.lost != tsc::lost() {
            self.tsc_changed();
        }
    }

    /// Starts the counter of a new vCPU, at 0 or where those of the VM are.
    pub(crate) fn start_tsc(&mut self, khz: u32) {
        // The VM took no frequency that is impossible.
        let _ = self.set_tsc_khz(khz);
        self.synchronize_tsc(TscWrite::Creation);
    }

    /// Sets the frequency, in kHz; 0 for the host's.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a frequency that the host cannot give.
    pub(crate) fn set_tsc_khz(&mut self, khz: u32) -> Result {
        let ratio = if khz == 0 {
            TscRatio::ONE
        } else {
            ratio_of(khz)?
        };
        self.arch.tsc.khz = khz;
        self.arch.tsc.counter.tsc.ratio = ratio;
        let proc2 = self
            .arch
            .ctls
            .proc2
            .with_tsc_scaling(ratio != TscRatio::ONE);
        self.arch.ctls.proc2 = proc2;
        self.vmcs().set(SECONDARY_VM_EXEC_CONTROL, proc2.0);
        self.tsc_changed();
        Ok(())
    }

    /// Writes offset and multiplier of the guest that runs: L2's are made of L1's and its own.
    pub(crate) fn write_tsc_fields(&mut self) {
        let (offset, multiplier) = (self.tsc_offset(), self.tsc_multiplier());
        let (offset, multiplier) = match self.arch.nested.as_ref() {
            Some(nested) if nested.state.is_non_root() => {
                merge::tsc(&nested.vmcs12, offset, multiplier)
            }
            _ => (offset, multiplier),
        };
        let vmcs = self.vmcs();
        vmcs.set(TSC_OFFSET, offset);
        if self.arch.ctls.proc2.tsc_scaling() {
            vmcs.set(TSC_MULTIPLIER, multiplier);
        }
    }

    /// Returns the multiplier of the guest's counter.
    pub(crate) fn tsc_multiplier(&self) -> u64 {
        self.arch.tsc.counter.tsc.ratio.bits()
    }

    /// Brings the VMCS and the clock up to date.
    fn tsc_changed(&mut self) {
        self.arch.tsc.lost = tsc::lost();
        self.write_tsc_fields();
        self.timer_follows_tsc();
        self.vcpu.shared.kick.request_quietly(Request::ClockUpdate);
    }

    /// Sets the counter as userspace says, in step with those of the VM where that is meant.
    fn synchronize_tsc(&mut self, write: TscWrite) {
        let moment = TscMoment {
            host_tsc: tsc::steady(),
            ns: context::boot_ns(),
            khz: self.tsc_khz(),
            // The host's clock counts on it, too.
            is_host_tsc_reliable: true,
        };
        let tsc = &mut self.arch.tsc;
        let ratio = tsc.counter.tsc.ratio;
        let synced = self
            .vcpu
            .vm
            .tscs
            .lock()
            .write(&mut tsc.place, ratio, write, &moment);
        tsc.counter.tsc.offset = synced.offset;
        self.tsc_changed();
    }

    /// Sets the offset for userspace: `KVM_VCPU_TSC_OFFSET`.
    pub(crate) fn write_tsc_offset(&mut self, offset: u64) {
        let lost = self.arch.tsc.counter.tsc.ratio.scale(tsc::lost());
        self.synchronize_tsc(TscWrite::Offset(offset.wrapping_sub(lost)));
    }

    /// Writes IA32_TIME_STAMP_COUNTER. The guest's write moves IA32_TSC_ADJUST along with it.
    ///
    /// SDM 3B "Time-Stamp Counter Adjustment", 19.17.3.
    pub(crate) fn write_tsc(&mut self, value: u64, origin: Origin) {
        match origin {
            Origin::Guest => {
                self.arch.tsc.counter.write_tsc(tsc::steady(), value);
                self.tsc_changed();
            }
            Origin::Host => self.synchronize_tsc(TscWrite::Value(value)),
        }
    }

    /// Writes IA32_TSC_ADJUST. The guest's write moves the counter by the difference.
    pub(crate) fn write_tsc_adjust(&mut self, value: u64, origin: Origin) {
        match origin {
            Origin::Guest => {
                self.arch.tsc.counter.write_adjust(value);
                self.tsc_changed();
            }
            Origin::Host => self.arch.tsc.counter.adjust = value,
        }
    }
}
