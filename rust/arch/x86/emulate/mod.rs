// SPDX-License-Identifier: GPL-2.0

//! Emulation of the instruction at CS:RIP, which may have to wait for userspace.
//!
//! Core's emulator is a restartable transaction: where an access needs userspace, it stops without a
//! trace, and runs again from the start when the answer is there. What devices gave it so far is in
//! the [`Replay`], so that no device is read twice. Writes are posted there, and carried out one by
//! one after the instruction.
//!
//! The same property lets an attempt be made where it must not sleep: it ends where it would have to, and
//! is made again where it may.

mod items;
mod memory;
mod ops;
mod replay;
mod user;

pub(crate) use replay::Replay;

use crate::{
    arch::x86::{
        cpu::Cpu,
        outcome::{
            self,
            Handled,
            Outcome,
            UserExit, //
        },
    },
    vm::iobus::May, //
};
use burrow_core::{
    outcome::{
        Bug,
        Exception, //
    },
    stats::VcpuStat,
    x86::{
        emulate::{
            self,
            Done,
            InsnBytes,
            KnownAccess,
            Shadow,
            Stop, //
        },
        event::Interruptibility,
        vmx::field::*, //
    },
};
use kernel::sync::atomic::Relaxed;
use ops::Ops;

/// What an attempt to execute an instruction came to.
enum Attempt {
    /// It ended by itself.
    Ended(Result<Done, Stop>),
    /// It would have had to sleep.
    NotNow,
}

impl Cpu<'_> {
    /// Emulates the instruction at CS:RIP. `known`: the access that it exited for.
    pub(crate) fn emulate_current(&mut self, known: Option<KnownAccess>) -> Handled {
        self.arch.replay.known = known;
        self.emulate_again()
    }

    /// Emulates the instruction at CS:RIP, which has begun already.
    pub(crate) fn emulate_again(&mut self) -> Handled {
        self.vcpu.stats.inc(VcpuStat::InsnEmulation);
        let mut bytes = InsnBytes::default();
        match self.attempt(&mut bytes, May::Sleep)? {
            Attempt::Ended(result) => self.conclude(result, &bytes),
            Attempt::NotNow => Err(outcome::Stop::Bug(Bug("the emulator may sleep"))),
        }
    }

    /// Emulates the instruction at CS:RIP, which exited for the `known` access to a device, if that can be
    /// done without sleep. Otherwise returns `None`, and nothing has happened but what devices gave, which
    /// [`emulate_current`](Self::emulate_current) goes on with.
    ///
    /// # Context
    ///
    /// Interrupts may be off.
    pub(crate) fn emulate_at_once(&mut self, known: KnownAccess) -> Option<Handled> {
        self.arch.replay.known = Some(known);
        let mut bytes = InsnBytes::default();
        match self.attempt(&mut bytes, May::NotSleep) {
            Ok(Attempt::Ended(result)) => {
                self.vcpu.stats.inc(VcpuStat::InsnEmulation);
                Some(self.conclude(result, &bytes))
            }
            Ok(Attempt::NotNow) => None,
            Err(stop) => Some(Err(stop)),
        }
    }

    /// Fetches and executes the instruction.
    fn attempt(&mut self, bytes: &mut InsnBytes, may: May) -> Result<Attempt, outcome::Stop> {
        self.arch.replay.begin();
        // Emulation does not nest.
        let Some(mut decoded) = self.arch.decoded.take() else {
            return Err(outcome::Stop::Bug(Bug("emulation within emulation")));
        };
        let mut ops = Ops::new(self, may);
        let result =
            emulate::fetch(&mut ops, bytes, &mut decoded).and_then(|insn| ops.execute(insn));
        let is_not_now = ops.is_not_now;
        self.arch.decoded = Some(decoded);
        Ok(match result {
            Err(_) if is_not_now => Attempt::NotNow,
            result => Attempt::Ended(result),
        })
    }

    /// Acts on what an attempt came to.
    fn conclude(&mut self, result: Result<Done, Stop>, bytes: &InsnBytes) -> Handled {
        match result {
            Ok(done) => self.emulated(done),
            Err(Stop::Fault(exception)) => {
                self.arch.replay.clear();
                Err(outcome::Stop::Inject(exception))
            }
            Err(Stop::Wait) => self.wait(),
            // Memory has changed, or the instruction itself, into one that L1 intercepts: the
            // processor meets it again, and makes the exit that is due.
            Err(Stop::Raced) => {
                self.arch.replay.clear();
                Ok(Outcome::Resume)
            }
            Err(Stop::Unhandleable) => self.unhandleable(bytes),
        }
    }

    /// Acts on an attempt that cannot be completed.
    fn unhandleable(&mut self, bytes: &InsnBytes) -> Handled {
        let (error, fault) = (self.arch.replay.host_error, self.arch.replay.ept_fault);
        self.arch.replay.clear();
        if let Some(fault) = fault {
            return self.exit_for_ept(fault);
        }
        if let Some(error) = error {
            return Err(outcome::Stop::Fail(error));
        }
        self.vcpu.stats.inc(VcpuStat::InsnEmulationFail);
        self.not_emulated(bytes.as_slice())
    }

    /// An instruction that cannot be emulated: userspace hears of it, unless it is a program of the
    /// guest's that executed it, or a guest of the guest's, and userspace did not ask.
    fn not_emulated(&mut self, bytes: &[u8]) -> Handled {
        let asked = self.vcpu.vm.options.exit_on_emulation_failure.load(Relaxed);
        if (self.cpl() != 0 || self.is_l2()) && !asked {
            return Err(outcome::Stop::Inject(Exception::UD));
        }
        Ok(Outcome::ToUser(self.emulation_failed(bytes)))
    }

    /// The exit that tells userspace of an instruction that cannot be emulated.
    pub(crate) fn emulation_failed(&self, bytes: &[u8]) -> UserExit {
        let vmcs = self.vmcs();
        let info = [
            u64::from(vmcs.get(VM_EXIT_REASON)),
            self.qualification(),
            u64::from(vmcs.get(IDT_VECTORING_INFO_FIELD)),
            u64::from(vmcs.get(VM_EXIT_INTR_INFO)),
            u64::from(vmcs.get(VM_EXIT_INTR_ERROR_CODE)),
        ];
        UserExit::emulation_failed(bytes, info)
    }

    fn emulated(&mut self, done: Done) -> Handled {
        self.arch.replay.nr_reads = 0;
        if let Done::Retired(shadow) = done {
            self.arch.replay.items.len = 0;
            let state = self.interruptibility().with_sti(false).with_mov_ss(false);
            let state = match shadow {
                Shadow::None => state,
                Shadow::Sti => state.with_sti(true),
                Shadow::MovSs => state.with_mov_ss(true),
            };
            if state != self.interruptibility() {
                self.set_interruptibility(Interruptibility(state.0));
            }
            self.trap_after_instruction();
        }
        self.next_fragment()
    }
}
