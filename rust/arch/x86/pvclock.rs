// SPDX-License-Identifier: GPL-2.0

//! kvmclock: the time that guests read from a page of theirs. And stolen time, on another.
//!
//! One pair of readings of the host's clock and TSC, taken for the whole VM, is what the pages of all
//! its vCPUs are computed from, so that their clocks agree.

use crate::{
    arch::x86::{
        cpu::Cpu,
        pv_eoi::PvEoi,
        vm::Vm, //
    },
    host::host, //
};
use burrow_core::{
    addr::Gpa,
    request::Request,
    stats::VcpuStat,
    x86::{
        msr::Paravirt,
        pvclock::{
            self,
            ClockData,
            HostClocks,
            MasterClock,
            TimeInfo,
            TimeScale,
            Version,
            WallClock,
            PVCLOCK_GUEST_STOPPED,
            PVCLOCK_TSC_STABLE_BIT,
            TIME_INFO_FLAGS, //
        },
        steal::{
            RunDelay,
            StealClock,
            StealUpdate,
            FLUSH_TLB,
            PREEMPTED,
            PREEMPTED_AT,
            STEAL_SIZE,
            STEAL_VERSION, //
        }, //
    },
};
use burrow_sys::{
    context,
    x86::tsc, //
};
use kernel::prelude::*;

/// The bit of MSR_KVM_SYSTEM_TIME that turns the clock on.
const ENABLED: u64 = 1;

/// The clock of a VM.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VmClock {
    master: MasterClock,
    /// The guest's time less the host's, modulo 2^64.
    offset_ns: u64,
    /// What the host's TSC had lost when the pair was taken.
    lost: u64,
}

impl VmClock {
    /// Makes a clock that reads 0 now.
    pub(crate) fn new() -> Self {
        let master = now();
        Self::since(master, master.base_ns.wrapping_neg())
    }

    fn since(master: MasterClock, offset_ns: u64) -> Self {
        Self {
            master,
            offset_ns,
            lost: tsc::lost(),
        }
    }
}

fn now() -> MasterClock {
    MasterClock {
        host_tsc: tsc::steady(),
        base_ns: context::boot_ns(),
    }
}

/// The paravirtual MSRs of a vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PvMsrs {
    system_time: u64,
    wall_clock: u64,
    /// Userspace stopped the guest, which is to learn it with the time that is written next.
    was_stopped: bool,
    steal: StealClock,
    /// The guest's page says that the vCPU does not run.
    is_preempted: bool,
    /// MSR_KVM_PV_EOI_EN.
    pub(crate) eoi: PvEoi,
}

impl PvMsrs {
    /// Takes the guest's pages out of use, as INIT does.
    pub(crate) fn reset(&mut self) {
        *self = Self {
            wall_clock: self.wall_clock,
            ..Self::default()
        };
    }
}

fn run_delay() -> RunDelay {
    RunDelay {
        thread: kernel::current!().pid(),
        ns: context::run_delay_ns(),
    }
}

impl Vm {
    /// Returns the clock. Where the host's TSC begins anew after sleep, its pair of readings does so,
    /// too: the clock has gone on meanwhile, the TSC has not.
    fn master_clock(&self) -> VmClock {
        let mut clock = self.clock.lock();
        if clock.lost != tsc::lost() {
            *clock = VmClock::since(now(), clock.offset_ns);
        }
        *clock
    }

    /// `KVM_GET_CLOCK`.
    pub(crate) fn clock(&self) -> ClockData {
        let clock = self.master_clock();
        let now = now();
        let host_clocks = HostClocks {
            tsc: now.host_tsc,
            base_ns: now.base_ns,
            realtime_ns: Some(context::real_ns()),
        };
        let scale = TimeScale::of_tsc(host().tsc_khz).unwrap_or_default();
        let data = pvclock::get_clock(Some(&clock.master), clock.offset_ns, scale, &host_clocks);
        ClockData {
            // Userspace compares it with what it reads itself.
            host_tsc: data.host_tsc.wrapping_sub(clock.lost),
            ..data
        }
    }

    /// `KVM_SET_CLOCK`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a flag that is not known.
    pub(crate) fn set_clock(&self, data: &ClockData) -> Result {
        let master = now();
        let offset_ns =
            pvclock::set_clock(data, master.base_ns, context::real_ns()).map_err(|_| EINVAL)?;
        *self.clock.lock() = VmClock::since(master, offset_ns);
        self.vcpus.request_all(Request::ClockUpdate);
        Ok(())
    }
}

impl Cpu<'_> {
    /// Returns a paravirtual MSR.
    pub(crate) fn read_paravirt(&self, msr: Paravirt) -> Option<u64> {
        match msr {
            Paravirt::SystemTime => Some(self.arch.paravirt.system_time),
            Paravirt::WallClock => Some(self.arch.paravirt.wall_clock),
            Paravirt::StealTime => Some(self.arch.paravirt.steal.msr()),
            Paravirt::PvEoi => Some(self.arch.paravirt.eoi.msr),
            _ => None,
        }
    }

    /// Writes a paravirtual MSR; returns whether it exists.
    pub(crate) fn write_paravirt(&mut self, msr: Paravirt, value: u64) -> bool {
        match msr {
            Paravirt::SystemTime => {
                self.arch.paravirt.system_time = value;
                self.vcpu.shared.kick.request_quietly(Request::ClockUpdate);
            }
            Paravirt::WallClock => {
                self.arch.paravirt.wall_clock = value;
                self.write_wall_clock(Gpa(value));
            }
            Paravirt::StealTime => {
                self.arch.paravirt.steal.set_msr(value, run_delay());
                // What a page says that was saved elsewhere is to be taken back, too.
                self.arch.paravirt.is_preempted = true;
                self.vcpu.shared.kick.request_quietly(Request::StealUpdate);
            }
            Paravirt::PvEoi => self.arch.paravirt.eoi.msr = value,
            _ => return false,
        }
        true
    }

    /// Asks for the stolen time to be written if the vCPU's thread has waited since.
    pub(crate) fn note_scheduled_in(&self) {
        if self.arch.paravirt.steal.page().is_some()
            && self.arch.paravirt.steal.is_behind(run_delay())
        {
            self.vcpu.shared.kick.request_quietly(Request::StealUpdate);
        }
    }

    /// Adds what was stolen to the guest's structure, if it has given one.
    pub(crate) fn update_steal_time(&mut self) {
        let Some(page) = self.arch.paravirt.steal.page() else {
            return;
        };
        self.clear_preempted(page);
        let stolen = self.arch.paravirt.steal.advance(run_delay());
        let memory = &self.vcpu.vm.memory;
        let mut old = [0; STEAL_SIZE];
        if memory.read(page, &mut old).is_err() {
            return;
        }
        let StealUpdate { version, steal } = StealUpdate::of(old, stolen);
        let version_at = Gpa(page.0.wrapping_add(STEAL_VERSION));
        let _ = memory
            .write(version_at, &version.busy.to_le_bytes())
            .and_then(|()| memory.write(page, &steal.to_le_bytes()))
            .and_then(|()| memory.write(version_at, &version.done.to_le_bytes()));
    }

    /// Has the guest told that userspace stopped it: `KVM_KVMCLOCK_CTRL`.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the guest does not use the clock.
    pub(crate) fn note_stopped(&mut self) -> Result {
        if self.arch.paravirt.system_time & ENABLED == 0 {
            return Err(EINVAL);
        }
        self.arch.paravirt.was_stopped = true;
        self.vcpu.shared.kick.request_quietly(Request::ClockUpdate);
        Ok(())
    }

    /// Tells other vCPUs of the guest that this one does not run for now: they need not wait for it, nor
    /// interrupt it to have its TLB flushed.
    ///
    /// # Context
    ///
    /// Sleeps. No instruction is half done.
    pub(crate) fn mark_preempted(&mut self) {
        let Some(page) = self.arch.paravirt.steal.page() else {
            return;
        };
        if !self.arch.paravirt.is_preempted {
            let at = Gpa(page.0.wrapping_add(PREEMPTED_AT));
            let marked = self.vcpu.vm.memory.write(at, &[PREEMPTED]);
            self.arch.paravirt.is_preempted = marked.is_ok();
            self.vcpu.stats.inc(VcpuStat::PreemptionReported);
        }
    }

    /// Asks for the mark to be taken back before the coming entry.
    pub(crate) fn unmark_preempted(&self) {
        if self.arch.paravirt.is_preempted {
            self.vcpu.shared.kick.request_quietly(Request::StealUpdate);
        }
    }

    /// Takes the mark back, and flushes what another vCPU wanted flushed meanwhile.
    fn clear_preempted(&mut self, page: Gpa) {
        if !core::mem::take(&mut self.arch.paravirt.is_preempted) {
            return;
        }
        let at = Gpa(page.0.wrapping_add(PREEMPTED_AT));
        let mut found = u64::from(PREEMPTED);
        while let Ok(Err(other)) = self.vcpu.vm.memory.cmpxchg(at, 1, found, 0) {
            found = other;
        }
        if found & u64::from(FLUSH_TLB) != 0 {
            self.arch.vpid.request_flush();
            if self.is_l2() {
                // What L1 has cached is under another VPID: drop it with what it was made of.
                self.arch.epts.request_flush();
            }
        }
    }

    /// Writes the time anew into the guest's page, if it has given one.
    ///
    /// What cannot be written is left: the page is gone, and the guest with it or about to give
    /// another.
    pub(crate) fn update_clock(&mut self) {
        let msr = self.arch.paravirt.system_time;
        if msr & ENABLED == 0 {
            return;
        }
        let clock = self.vcpu.vm.master_clock();
        let info = TimeInfo {
            tsc_timestamp: self.arch.tsc.counter.tsc.read(clock.master.host_tsc),
            system_time: clock.master.base_ns.wrapping_add(clock.offset_ns),
            scale: TimeScale::of_tsc(self.tsc_khz()).unwrap_or_default(),
            flags: PVCLOCK_TSC_STABLE_BIT,
        };
        let page = Gpa(msr & !ENABLED);
        let memory = &self.vcpu.vm.memory;
        let mut old = [0; pvclock::TIME_INFO_SIZE];
        if memory.read(page, &mut old).is_err() {
            return;
        }
        let version = Version::after(u32::from_le_bytes([old[0], old[1], old[2], old[3]]));
        let mut guest_flags = old[TIME_INFO_FLAGS];
        if core::mem::take(&mut self.arch.paravirt.was_stopped) {
            guest_flags |= PVCLOCK_GUEST_STOPPED;
        }
        let bytes = info.to_bytes(version.busy, guest_flags);
        let _ = memory
            .write(page, &version.busy.to_le_bytes())
            .and_then(|()| memory.write(page, &bytes))
            .and_then(|()| memory.write(page, &version.done.to_le_bytes()));
    }

    /// Writes when the guest's time was 0.
    fn write_wall_clock(&self, page: Gpa) {
        let guest_ns = self.vcpu.vm.clock().clock;
        let wall = WallClock::new(context::real_ns(), guest_ns);
        let memory = &self.vcpu.vm.memory;
        let mut old = [0; 4];
        if memory.read(page, &mut old).is_err() {
            return;
        }
        let version = Version::after(u32::from_le_bytes(old));
        let _ = memory
            .write(page, &version.busy.to_le_bytes())
            .and_then(|()| memory.write(page, &wall.to_bytes(version.busy)))
            .and_then(|()| memory.write(page, &version.done.to_le_bytes()));
    }
}
