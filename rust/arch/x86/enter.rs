// SPDX-License-Identifier: GPL-2.0

//! One entry into the guest, from the last checks to the interrupts that the exit let in.

use crate::arch::x86::{
    cpu::Cpu,
    exit::quick::{
        self,
        Quick, //
    },
    outcome::{
        Handled,
        Outcome,
        Stop,
        UserExit, //
    },
    tlb, //
};
use burrow_core::{
    outcome::Bug,
    request::Request,
    vpid::{
        CpuId,
        Prepared, //
    },
    x86::{
        eptcache::EptFlush,
        regs::Xcr0,
        vmx::{
            exit::ExitReasonWord,
            field::*, //
        }, //
    },
};
use burrow_sys::{
    context::{
        self,
        IrqsOff,
        PreemptOff, //
    },
    x86::enter::{
        self,
        Entered,
        EntryFlags,
        ExtendedState,
        SwapXcr0,
        Visit, //
    },
};

/// What came of an attempt to enter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attempt {
    /// Something wanted attention first; nothing happened.
    NotNow,
    /// The guest ran, and its last exit has been handled.
    Handled(Handled),
    /// The guest ran.
    Exit {
        /// The exit reason.
        reason: ExitReasonWord,
        /// VM-exit interruption information, of exceptions.
        intr_info: u32,
    },
    /// The processor refused, with this VM-instruction error.
    Failed(u32),
}

/// The most exits in a row that are handled with interrupts off.
///
/// An interrupt of the host ends each entry at once, so that no limit is needed; but not every processor
/// that is emulated does that for a guest with RFLAGS.IF = 0.
const QUICK_EXITS: u32 = 128;

impl Cpu<'_> {
    /// Enters the guest, unless a request, a signal or the scheduler wants something first.
    pub(crate) fn enter_once(&mut self) -> Result<Attempt, Stop> {
        let kick = &self.vcpu.shared.kick;
        let preempt = PreemptOff::new();
        if self.hw.prepare(&preempt) {
            self.note_scheduled_in();
        }
        let mut irqs = IrqsOff::new(&preempt);
        kick.enter(&preempt, &irqs);

        // From here on every sender either sees IN_GUEST and interrupts, or is seen below.
        if self.must_not_enter() {
            kick.leave();
            return Ok(Attempt::NotNow);
        }
        match self.prepare_vpid(&preempt, &irqs) {
            Ok(true) => {}
            other => {
                kick.leave();
                return other.map(|_| Attempt::NotNow).map_err(Stop::Bug);
            }
        }
        let visit = Visit::begin(&self.hw, &irqs);
        let attempt = self.visit(&visit, &preempt, &irqs);
        visit.end();
        self.drain_cpu_log();
        self.vcpu.shared.kick.leave();
        if let Attempt::Exit { reason, intr_info } = attempt {
            forward_interrupt(reason, intr_info, &irqs);
        }
        irqs.open_window();
        enter::end_guest_time(&irqs);
        Ok(attempt)
    }

    /// Enters the guest, and again as long as it exits for what is handled without delay and leaves
    /// nothing else to do.
    #[inline]
    fn visit(&mut self, visit: &Visit, preempt: &PreemptOff, irqs: &IrqsOff<'_>) -> Attempt {
        let mut quick_exits = if self.exits_are_quick() {
            QUICK_EXITS
        } else {
            0
        };
        let mut has_swaps = self.has_swaps();
        let flags = EntryFlags {
            spec_ctrl_open: self.arch.spec_ctrl_open,
        };
        loop {
            if !self.arm_timer(preempt) {
                return Attempt::Handled(Ok(Outcome::Resume));
            }
            let is_trial = self.begin_trial(preempt, irqs);
            self.note_entry();
            let entered = if has_swaps {
                self.switch(visit, flags)
            } else {
                visit.enter(&self.hw, flags)
            };
            let (reason, intr_info) = match entered {
                Entered::Failed(error) => return Attempt::Failed(error),
                Entered::Exit { reason, intr_info } => (reason, intr_info),
            };
            self.arch.has_run = true;
            if is_trial {
                self.end_trial(reason);
            }
            self.note_exit(reason, intr_info);
            if quick_exits == 0 {
                return Attempt::Exit { reason, intr_info };
            }
            quick_exits -= 1;
            match quick::handle(self, reason, intr_info, preempt, irqs) {
                Quick::No => return Attempt::Exit { reason, intr_info },
                Quick::Handled(handled) => return Attempt::Handled(handled),
                Quick::Done | Quick::Switched if self.must_not_enter() => {
                    return Attempt::Handled(Ok(Outcome::Resume));
                }
                Quick::Done => {}
                Quick::Switched => match self.follow_switch(visit, preempt, irqs) {
                    Ok(true) => has_swaps = self.has_swaps(),
                    Ok(false) => return Attempt::Handled(Ok(Outcome::Resume)),
                    Err(bug) => return Attempt::Handled(Err(Stop::Bug(bug))),
                },
            }
        }
    }

    /// Returns whether the exits of this visit may be handled at once.
    #[inline]
    fn exits_are_quick(&self) -> bool {
        // A task priority in guest memory is looked at on the way through the run loop, and so is what L2
        // meets when a debugger has it step.
        let is_fit = if self.is_l2() {
            !self.arch.guest_debug.steps()
        } else {
            self.arch.events.is_quiet()
        };
        is_fit && self.arch.vapic.is_none()
    }

    /// Returns whether anything has to be swapped around an entry. None of the exits that are handled at
    /// once changes that, but for those that go from L2 to L1 or back.
    #[inline]
    fn has_swaps(&self) -> bool {
        self.extended_swaps().is_some() || self.armed_breakpoints().is_some()
    }

    /// Does for the VMCS that has become current within a visit what is done for the first one before;
    /// returns `false` to try again from the start.
    fn follow_switch(
        &mut self,
        visit: &Visit,
        preempt: &PreemptOff,
        irqs: &IrqsOff<'_>,
    ) -> Result<bool, Bug> {
        visit.follow(&self.hw);
        self.prepare_vpid(preempt, irqs)
    }

    #[inline]
    fn must_not_enter(&self) -> bool {
        let kick = &self.vcpu.shared.kick;
        let posted = &self.vcpu.shared.posted;
        !kick.pending().is_empty()
            || kick.is_exiting()
            || posted.has_vectors()
            || posted.has_signals()
            || context::guest_work_pending()
    }

    /// Makes sure that the VPID is of the current generation and that nothing stale is cached for
    /// it or the EPT; returns `false` to try again.
    #[inline]
    fn prepare_vpid(&mut self, preempt: &PreemptOff, _irqs: &IrqsOff<'_>) -> Result<bool, Bug> {
        if self.hw.take_moved() {
            self.arch.vpid.request_flush();
            self.arch.epts.request_flush();
        }
        let eptp = self.vmcs().get(EPT_POINTER);
        match self.arch.epts.on_entry(eptp, CpuId(preempt.cpu())) {
            EptFlush::None => {}
            EptFlush::Context => tlb::flush_ept(eptp, preempt)?,
        }
        let vpids = &self.host.vpids;
        let cell = vpids.cpus.this(preempt);
        let mut state = cell.take();
        let generation = vpids.generation();
        let prepared = self
            .arch
            .vpid
            .prepare(generation, CpuId(preempt.cpu()), &mut state);
        cell.set(state);
        match prepared {
            Prepared::Enter { vpid, flush } => {
                self.vmcs().set(VIRTUAL_PROCESSOR_ID, vpid.get());
                tlb::flush_vpid(flush, vpid, preempt)?;
                Ok(true)
            }
            Prepared::Stale => {
                self.arch.vpid.adopt(vpids.allocate());
                Ok(false)
            }
        }
    }

    /// Enters with what differs from the host's in the processor.
    fn switch(&mut self, visit: &Visit, flags: EntryFlags) -> Entered {
        let mut extended = self.extended_swaps();
        let mut debug = self.armed_breakpoints();
        let entered = visit.enter_with(&self.hw, flags, extended.as_mut(), debug.as_mut());
        if let Some(pkru) = extended.and_then(|extended| extended.pkru) {
            self.arch.extended.pkru = pkru;
        }
        if let Some(debug) = debug {
            self.arch.debug.dr6 = debug.dr6;
        }
        entered
    }

    /// Returns what of the extended state differs from the host's, if the guest can reach any of it.
    #[inline]
    fn extended_swaps(&self) -> Option<ExtendedState> {
        let (cr4, x) = (self.arch.control.cr4, &self.arch.extended);
        if !(cr4.osxsave() || cr4.pke() || Xcr0(x.xcr0).pkru()) {
            return None;
        }
        let host = self.host;
        Some(ExtendedState {
            xcr0: (cr4.osxsave() && x.xcr0 != host.xcr0).then_some(SwapXcr0 {
                guest: x.xcr0,
                host: host.xcr0,
            }),
            xss: (self.can_use_xsaves() && x.xss != host.xss).then_some((x.xss, host.xss)),
            // XSAVE and XRSTOR reach PKRU by XCR0 alone; CR4.PKE only makes accesses obey it.
            pkru: (cr4.pke() || Xcr0(x.xcr0).pkru()).then_some(x.pkru),
        })
    }

    /// Returns whether the guest can execute XSAVES and XRSTORS, which alone look at IA32_XSS: else
    /// they cause #UD. SDM 2D "XSAVES", "XRSTORS"; 3C "Changes to Instruction Behavior", 26.3.
    #[inline]
    fn can_use_xsaves(&self) -> bool {
        self.arch.control.cr4.osxsave() && self.arch.ctls.proc2.xsaves()
    }

    /// Does what the pending requests ask for.
    pub(crate) fn serve_requests(&mut self) -> Result<(), Stop> {
        let requests = self.vcpu.shared.kick.take();
        if requests.is_empty() {
            return Ok(());
        }
        let requests = requests.settled();
        if requests.contains(Request::VmDead) {
            self.vcpu.shared.kick.request_quietly(Request::VmDead);
            return Err(Stop::Fail(kernel::error::code::EIO));
        }
        if requests.contains(Request::TlbFlush) {
            self.arch.epts.request_flush();
        }
        if requests.contains(Request::ClockUpdate) {
            self.update_clock();
        }
        if requests.contains(Request::StealUpdate) {
            self.update_steal_time();
        }
        if requests.contains(Request::LoadEoiExitmap) {
            self.load_eoi_exits();
        }
        if requests.contains(Request::DirtyLoggingChanged) {
            self.update_cpu_logs();
        }
        if requests.contains(Request::MsrFilterChanged) {
            self.refresh_msr_bitmap();
        }
        if requests.contains(Request::ReportTprAccess) {
            // One exit at a time.
            if requests.contains(Request::DirtyRingSoftFull) {
                let kick = &self.vcpu.shared.kick;
                kick.request_quietly(Request::DirtyRingSoftFull);
            }
            self.report_tpr_access()?;
        }
        if requests.contains(Request::DirtyRingSoftFull) {
            return self.check_dirty_ring();
        }
        Ok(())
    }

    /// Returns to userspace as long as it has not made room in the dirty ring.
    fn check_dirty_ring(&self) -> Result<(), Stop> {
        let shared = &self.vcpu.shared;
        if !shared.ring().is_some_and(|ring| ring.is_soft_full()) {
            return Ok(());
        }
        shared.kick.request_quietly(Request::DirtyRingSoftFull);
        Err(Stop::ToUser(UserExit::DirtyRingFull))
    }
}

/// Hands the host the interrupt that the exit acknowledged.
#[inline]
fn forward_interrupt(reason: ExitReasonWord, intr_info: u32, irqs: &IrqsOff<'_>) {
    use burrow_core::x86::vmx::exit::ExitReason;
    if reason.0 == ExitReason::ExternalInterrupt as u32 {
        // CAST: the vector is the low byte.
        enter::forward_interrupt(intr_info as u8, irqs);
    }
}
