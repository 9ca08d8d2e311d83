// SPDX-License-Identifier: GPL-2.0

//! The local APIC of a vCPU, and interrupts from userspace where that has it.

use crate::{
    arch::x86::{
        chips::Chips,
        cpu::Cpu,
        ipi::{
            self,
            Origin as From, //
        },
        options::{
            Options,
            Quirk, //
        },
        outcome::{
            Direction,
            Stop,
            TprAccess,
            UserExit, //
        },
        state::MpState,
        vm::{
            IrqChip,
            Setup, //
        },
    },
    vm::{
        posted::{
            self,
            Signals, //
        },
        vcpus::VcpuShared, //
    },
};
use burrow_core::{
    addr::Gpa,
    request::Request,
    x86::{
        clock,
        cpuid::feature,
        irqchip::{
            apic_msg::TriggerMode,
            lapic::{
                self,
                Config,
                Effects,
                Eoi,
                Initiator,
                IoApicPlace,
                Lint0AtReset,
                LocalInterrupt,
                Reset, //
            },
            lapic_regs::{
                reg,
                Lvt,
                Registers, //
            },
            lapic_state::{
                IdFormat,
                LapicState, //
            },
            lapic_timer::{
                Clock,
                TimerAction, //
            },
            msi::EoiExits,
        },
        msr::access::{
            Origin,
            Refused, //
        },
        nested::state::State,
        segment::{
            Name,
            Registers as SegmentRegisters, //
        },
    },
};
use burrow_sys::{
    context,
    timer::{
        Armed,
        Timer, //
    },
    uapi::KVM_X2APIC_API_USE_32BIT_IDS,
    x86::tsc, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
};

/// IA32_APIC_BASE where userspace has the local APIC: enabled at the usual address.
const APIC_BASE_RESET: u64 = 0xfee0_0900;
/// The size of the page of registers, in bytes.
const PAGE: u64 = 4096;
/// Periods of the timer are stretched to this, in nanoseconds: a guest must not keep the host busy.
const MIN_PERIOD_NS: u64 = 200_000;

/// The host's monotonic clock, read when it is asked.
struct HostClock;

impl Clock for HostClock {
    #[inline]
    fn now_ns(&self) -> u64 {
        context::mono_ns()
    }
}

/// A local APIC in the kernel, with the host timer that stands for its own.
pub(crate) struct Lapic {
    model: lapic::Lapic<Registers>,
    timer: Arc<Timer>,
    /// The host timer, while it is set.
    armed: Option<Armed>,
    /// When the guest's timer is due, in the host's TSC, where the processor's timer stands for it
    /// while the vCPU runs, and the host timer while it sleeps.
    due: Option<u64>,
    /// The vector of a level-triggered interrupt that the guest has ended, for userspace.
    ended: Option<u8>,
    /// The lines whose routes are the pins of userspace's I/O APIC.
    reserved_routes: u32,
    /// The vectors whose end userspace wants to see.
    eoi_exits: EoiExits,
    /// The access to the task priority that userspace is to be told of.
    tpr_access: Option<TprAccess>,
}

impl Lapic {
    /// Returns whether nobody but this APIC has to know of the end of the interrupt in service, so that
    /// it can be made known later than it is.
    pub(crate) fn ends_silently(&self, chips: &Chips) -> bool {
        self.model
            .silent_end()
            .is_some_and(|vector| match self.model.config().io_apic {
                IoApicPlace::Kernel => !chips.may_await(vector),
                IoApicPlace::Userspace => !self.eoi_exits.vectors.contains(vector),
            })
    }

    /// Makes the local APIC of a vCPU, if `setup` says that the kernel has it.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    #[inline(never)]
    pub(crate) fn new(
        options: &Options,
        setup: &Setup,
        shared: &Arc<VcpuShared>,
    ) -> Result<Option<KBox<Self>>> {
        if setup.irqchip == IrqChip::None {
            return Ok(None);
        }
        let reserved_routes = match setup.irqchip {
            IrqChip::Split { reserved_routes } => reserved_routes,
            IrqChip::None | IrqChip::Full => 0,
        };
        let config = Config {
            x2apic_id: shared.id,
            is_bsp: shared.id == setup.boot_cpu_id,
            has_x2apic: true,
            has_tsc_deadline: true,
            max_phys_addr_bits: 36,
            io_apic: setup.irqchip.io_apic(),
            suppress_eoi: options.suppress_eoi(),
            lint0: match options.has_quirk(Quirk::Lint0Reenabled) {
                true => Lint0AtReset::ExtInt,
                false => Lint0AtReset::Masked,
            },
            ..Config::default()
        };
        let lapic = kernel::try_init!(Self {
            model: lapic::Lapic::new(Registers::default(), config, setup.bus_cycle, MIN_PERIOD_NS),
            timer: Timer::new(shared.clone())?,
            armed: None,
            due: None,
            ended: None,
            reserved_routes,
            eoi_exits: EoiExits::default(),
            tpr_access: None,
        });
        let lapic = KBox::init(lapic, GFP_KERNEL_ACCOUNT)?;
        shared.set_identity(lapic.model.identity().pack());
        shared.kick.request_quietly(Request::LoadEoiExitmap);
        Ok(Some(lapic))
    }

    /// Returns when the timer is due, in the host's TSC, if the processor's timer is to end the
    /// guest's turn then.
    #[inline]
    pub(crate) fn due(&self) -> Option<u64> {
        self.due
    }

    /// Sets the host timer to fire in `cycles` of the host's TSC.
    fn arm(&mut self, cycles: u64, host_khz: u32) {
        let delay_ns = clock::ticks_to_ns(cycles, host_khz);
        self.armed = Some(self.timer.clone().arm(delay_ns));
    }
}

/// What a local APIC weighs against each other.
pub(crate) struct Priorities {
    /// The task priority.
    pub(crate) tpr: u8,
    /// The highest vector in service, or 0.
    pub(crate) in_service: u8,
    /// The highest vector that waits, or 0.
    pub(crate) pending: u8,
}

impl Cpu<'_> {
    /// Takes over what others posted.
    pub(crate) fn accept_posted(&mut self) {
        let shared = &self.vcpu.shared;
        if shared.posted.has_signals() {
            let signals = shared.posted.take_signals();
            self.accept_signals(&signals);
        }
        if shared.posted.has_vectors() {
            let Some(lapic) = self.arch.lapic.as_mut() else {
                return;
            };
            shared.posted.take_vectors(|vector, trigger| {
                let trigger = match trigger {
                    posted::TriggerMode::Edge => TriggerMode::Edge,
                    posted::TriggerMode::Level => TriggerMode::Level,
                };
                let _ = lapic.model.accept(vector, trigger);
            });
        }
    }

    fn accept_signals(&mut self, signals: &Signals) {
        if signals.nmis != 0 {
            let state = self.interruptibility();
            self.arch.events.add_nmis(signals.nmis, state);
        }
        if signals.timer {
            let (now, tsc) = (context::mono_ns(), self.guest_tsc());
            if let Some(lapic) = self.arch.lapic.as_mut() {
                lapic.armed = None;
                lapic.due = None;
                let effects = lapic.model.timer_fired(now, tsc);
                self.carry_out(&effects);
            }
        }
        if signals.smi {
            self.arch.events.add_smi();
        }
        self.arch.is_unhalted |= signals.unhalt;
        if signals.init {
            self.accept_init();
        }
        if let Some(vector) = signals.sipi {
            self.accept_sipi(vector);
        }
    }

    /// Takes the INIT that VMX operation has blocked, if there is one.
    pub(crate) fn accept_blocked_init(&mut self) {
        if self
            .arch
            .nested
            .as_mut()
            .is_some_and(|nested| core::mem::take(&mut nested.has_init))
        {
            self.accept_init();
        }
    }

    /// Takes the INIT that system-management mode has held back, if there is one.
    pub(crate) fn accept_latched_init(&mut self) {
        if core::mem::take(&mut self.arch.smm.latched_init) {
            self.accept_init();
        }
    }

    /// INIT: resets the processor. An application processor waits for SIPI then. VMX operation blocks
    /// it; to L2, it is an exit. System-management mode holds it back.
    fn accept_init(&mut self) {
        if self.is_smm() {
            self.arch.smm.latched_init = true;
            return;
        }
        if let Some(nested) = self.arch.nested.as_mut() {
            if nested.state != State::VmxOff {
                nested.has_init = true;
                return;
            }
        }
        self.init();
        let Some(lapic) = self.arch.lapic.as_mut() else {
            return;
        };
        let effects = lapic.model.reset(Reset::Init);
        let is_bsp = lapic.model.config().is_bsp;
        self.arch.mp_state = if is_bsp {
            MpState::Runnable
        } else {
            MpState::InitReceived
        };
        self.vcpu.vm.chips.vcpu_was_reset(self.vcpu.shared.index);
        self.carry_out(&effects);
    }

    /// SIPI: starts a processor that waits for it, and means nothing to another.
    fn accept_sipi(&mut self, vector: u8) {
        if let Some(nested) = self.arch.nested.as_mut() {
            if nested.state.is_non_root() {
                nested.sipi = Some(vector);
                return;
            }
        }
        if self.arch.mp_state != MpState::InitReceived {
            return;
        }
        self.arch.sipi_vector = vector;
        self.set_segment(Name::Cs, SegmentRegisters::startup_cs(vector));
        self.set_rip(0);
        self.arch.mp_state = MpState::Runnable;
    }

    /// Does what an access to the local APIC asks for.
    #[inline]
    fn carry_out(&mut self, effects: &Effects) {
        if !effects.is_nothing() {
            self.carry_out_effects(effects);
        }
    }

    fn carry_out_effects(&mut self, effects: &Effects) {
        if let Some(action) = effects.timer {
            self.set_host_timer(action);
        }
        let Some(lapic) = self.arch.lapic.as_mut() else {
            return;
        };
        if effects.identity_changed || effects.mode_changed || effects.software.is_some() {
            self.vcpu.shared.set_identity(lapic.model.identity().pack());
            if lapic.reserved_routes != 0 {
                // The guest is still to be entered before a message comes by this identity.
                let request = Request::LoadEoiExitmap;
                self.vcpu.shared.kick.request_quietly(request);
            }
        }
        if let Some(eoi) = effects.eoi {
            self.tell_of_end(&eoi);
        }
        if let Some(message) = effects.ipi {
            ipi::deliver(
                &self.vcpu.vm.vcpus,
                &message,
                From::Vcpu(self.vcpu.shared.index),
            );
        }
        if effects.mode_changed {
            self.cpuid_follows_registers();
        }
    }

    /// Ends the interrupt in service, as an EOI does.
    pub(crate) fn end_interrupt(&mut self) {
        if let Some(lapic) = self.arch.lapic.as_mut() {
            let effects = lapic.model.eoi();
            self.carry_out(&effects);
        }
    }

    /// Tells the I/O APIC that the guest has ended an interrupt.
    fn tell_of_end(&mut self, eoi: &Eoi) {
        let Some(lapic) = self.arch.lapic.as_mut() else {
            return;
        };
        if lapic.model.config().io_apic == IoApicPlace::Kernel {
            let (index, is_broadcast) = (self.vcpu.shared.index, !eoi.is_suppressed);
            let acks = &self.vcpu.vm.acks;
            acks.end_of_interrupt(index, eoi.vector, eoi.trigger, is_broadcast);
            return;
        }
        if !lapic.eoi_exits.vectors.contains(eoi.vector) {
            return;
        }
        if eoi.trigger == TriggerMode::Level && !eoi.is_suppressed {
            lapic.ended = Some(eoi.vector);
        }
        if lapic.eoi_exits.highest_stale == Some(eoi.vector) {
            let request = Request::LoadEoiExitmap;
            self.vcpu.shared.kick.request_quietly(request);
        }
    }

    /// Sets what stands for the guest's timer: the processor's timer where it can, else the host's.
    fn set_host_timer(&mut self, action: TimerAction) {
        let host_tsc = tsc::steady();
        let counter = self.arch.tsc.counter.tsc;
        let khz = self.host.tsc_khz;
        let has_processor_timer = self.host.timer.is_some() && context::is_tsc_stable();
        let Some(lapic) = self.arch.lapic.as_mut() else {
            return;
        };
        lapic.armed = None;
        lapic.due = None;
        let due = match action {
            TimerAction::Cancel => return,
            TimerAction::ArmNs { deadline_ns } => {
                let delay_ns = deadline_ns.saturating_sub(context::mono_ns());
                host_tsc.saturating_add(clock::ns_to_ticks(delay_ns, khz))
            }
            TimerAction::ArmTsc { deadline_tsc } => counter.host_time_of(deadline_tsc, host_tsc),
        };
        if due <= host_tsc {
            self.vcpu.shared.posted.post_timer();
        } else if has_processor_timer {
            lapic.due = Some(due);
        } else {
            lapic.arm(due - host_tsc, khz);
        }
    }

    /// Lets the host timer stand for the guest's while the vCPU sleeps.
    pub(crate) fn sleep_timer(&mut self) {
        let khz = self.host.tsc_khz;
        if let Some(lapic) = self.arch.lapic.as_mut() {
            if let Some(due) = lapic.due {
                lapic.arm(due.saturating_sub(tsc::steady()), khz);
            }
        }
    }

    /// Ends what [`sleep_timer`](Self::sleep_timer) began.
    pub(crate) fn wake_timer(&mut self) {
        if let Some(lapic) = self.arch.lapic.as_mut() {
            if lapic.due.is_some() {
                lapic.armed = None;
            }
        }
    }

    /// Looks whether the guest's timer is due, where no host timer tells.
    pub(crate) fn check_timer(&self) {
        let due = self.arch.lapic.as_ref().and_then(|lapic| lapic.due);
        if due.is_some_and(|due| due <= tsc::steady()) {
            self.vcpu.shared.posted.post_timer();
        }
    }

    /// Sets the timer anew after the guest's TSC was changed, if it waits for that.
    pub(crate) fn timer_follows_tsc(&mut self) {
        let Some(lapic) = self.arch.lapic.as_ref() else {
            return;
        };
        let action = lapic.model.timer().action();
        if matches!(action, TimerAction::ArmTsc { .. }) {
            self.set_host_timer(action);
        }
    }

    /// Returns whether an interrupt waits that only RFLAGS.IF and its kin may hold back.
    pub(crate) fn has_interrupt(&self) -> bool {
        match self.arch.lapic.as_ref() {
            None => self.arch.user_interrupt.is_some(),
            Some(lapic) => {
                self.has_extint() && lapic.model.accepts_extint()
                    || lapic.model.highest_pending().is_some()
            }
        }
    }

    /// Returns whether the local APIC has an interrupt to deliver or the end of one to report.
    pub(crate) fn has_apic_work(&self) -> bool {
        let has_ended = |lapic: &KBox<Lapic>| lapic.ended.is_some();
        self.arch.lapic.as_ref().is_some_and(has_ended) || self.has_interrupt()
    }

    /// Returns whether an 8259A wants to interrupt: that of userspace, or ours.
    fn has_extint(&self) -> bool {
        self.arch.user_interrupt.is_some() || self.vcpu.vm.chips.is_asserted()
    }

    /// Returns whether the 8259As are ours.
    pub(crate) fn has_kernel_pic(&self) -> bool {
        let place = IoApicPlace::Kernel;
        self.arch
            .lapic
            .as_ref()
            .is_some_and(|lapic| lapic.model.config().io_apic == place)
    }

    /// Returns the vector of the interrupt that waits in the local APIC, unless one of the PIC's goes
    /// first.
    pub(crate) fn lapic_vector(&self) -> Option<u8> {
        let lapic = self.arch.lapic.as_ref()?;
        if self.has_extint() && lapic.model.accepts_extint() {
            return None;
        }
        lapic.model.highest_pending()
    }

    /// Takes the interrupt to deliver.
    pub(crate) fn acknowledge_interrupt(&mut self) -> Option<u8> {
        let Some(lapic) = self.arch.lapic.as_mut() else {
            return self.arch.user_interrupt.take();
        };
        if lapic.model.accepts_extint() {
            if let Some(vector) = self.arch.user_interrupt.take() {
                return Some(vector);
            }
            if self.vcpu.vm.chips.is_asserted() {
                return Some(self.vcpu.vm.acks.acknowledge_pic());
            }
        }
        let vector = lapic.model.highest_pending()?;
        lapic.model.ack(vector);
        Some(vector)
    }

    /// Takes the vector of an interrupt whose end userspace is to hear of.
    pub(crate) fn take_ended(&mut self) -> Option<u8> {
        self.arch.lapic.as_mut()?.ended.take()
    }

    /// Returns whether an interrupt that userspace injected would be taken over now: with a local
    /// APIC in the kernel, LINT0 must let it through.
    pub(crate) fn accepts_user_interrupt(&self) -> bool {
        self.arch
            .lapic
            .as_ref()
            .is_none_or(|lapic| lapic.model.accepts_extint())
    }

    /// Returns CR8.
    pub(crate) fn cr8(&self) -> u8 {
        match self.arch.lapic.as_ref() {
            None => self.arch.control.cr8,
            Some(lapic) => lapic.model.cr8(),
        }
    }

    /// Sets CR8, at most 15.
    pub(crate) fn set_cr8(&mut self, value: u8) {
        match self.arch.lapic.as_mut() {
            None => self.arch.control.cr8 = value,
            Some(lapic) => {
                let effects = lapic.model.set_cr8(value);
                self.carry_out(&effects);
            }
        }
    }

    /// Sets the task priority.
    pub(crate) fn set_tpr(&mut self, tpr: u8) {
        if let Some(lapic) = self.arch.lapic.as_mut() {
            let effects = lapic.model.set_tpr(tpr);
            self.carry_out(&effects);
        }
    }

    /// Returns what the local APIC has, if it is in the kernel.
    pub(crate) fn apic_priorities(&self) -> Option<Priorities> {
        let model = &self.arch.lapic.as_ref()?.model;
        Some(Priorities {
            tpr: model.tpr(),
            in_service: model.highest_isr().unwrap_or(0),
            pending: model.highest_irr().unwrap_or(0),
        })
    }

    /// Returns IA32_APIC_BASE.
    pub(crate) fn apic_base(&self) -> u64 {
        self.arch
            .lapic
            .as_ref()
            .map_or(APIC_BASE_RESET, |lapic| lapic.model.base())
    }

    /// Sets IA32_APIC_BASE for userspace.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a value that the guest's processor does not take.
    pub(crate) fn set_apic_base(&mut self, value: u64) -> Result {
        self.write_apic_base(value, Origin::Host)
            .map_err(|_| EINVAL)
    }

    /// Returns whether the guest's local APIC is enabled in IA32_APIC_BASE.
    pub(crate) fn is_apic_enabled(&self) -> bool {
        self.apic_base() & (1 << 11) != 0
    }

    /// Writes IA32_APIC_BASE.
    pub(crate) fn write_apic_base(&mut self, value: u64, origin: Origin) -> Result<(), Refused> {
        let initiator = match origin {
            Origin::Guest => Initiator::Guest,
            Origin::Host => Initiator::Host,
        };
        let Some(lapic) = self.arch.lapic.as_mut() else {
            return Ok(());
        };
        let effects = lapic
            .model
            .set_base(value, initiator)
            .map_err(|_| Refused::Invalid)?;
        self.carry_out(&effects);
        Ok(())
    }

    /// Reads a register in x2APIC mode, by the low byte of its MSR number.
    pub(crate) fn read_x2apic(&mut self, register: u8) -> Result<u64, Refused> {
        let lapic = self.arch.lapic.as_ref().ok_or(Refused::Unknown)?;
        let msr = 0x800 | u32::from(register);
        lapic
            .model
            .rdmsr(msr, &HostClock)
            .map_err(|_| Refused::Invalid)
    }

    /// Writes a register in x2APIC mode.
    pub(crate) fn write_x2apic(&mut self, register: u8, value: u64) -> Result<(), Refused> {
        let lapic = self.arch.lapic.as_mut().ok_or(Refused::Unknown)?;
        let msr = 0x800 | u32::from(register);
        let written = lapic.model.wrmsr(msr, value, &HostClock);
        let effects = written.map_err(|_| Refused::Invalid)?;
        self.carry_out(&effects);
        Ok(())
    }

    /// Returns IA32_TSC_DEADLINE.
    pub(crate) fn tsc_deadline(&self) -> u64 {
        self.arch
            .lapic
            .as_ref()
            .map_or(0, |lapic| lapic.model.tsc_deadline())
    }

    /// Writes IA32_TSC_DEADLINE.
    #[inline]
    pub(crate) fn write_tsc_deadline(&mut self, value: u64) {
        let Some(lapic) = self.arch.lapic.as_mut() else {
            return;
        };
        let effects = lapic.model.set_tsc_deadline(value);
        self.carry_out(&effects);
    }

    /// Accesses the page of registers, if `gpa` is in it; returns whether it is.
    pub(crate) fn lapic_mmio(&mut self, gpa: Gpa, data: &mut [u8], direction: Direction) -> bool {
        // The instruction's, as the emulator moves RIP when it is done.
        let rip = self.rip();
        let Some(lapic) = self.arch.lapic.as_mut() else {
            return false;
        };
        let offset = gpa.0.wrapping_sub(lapic.model.base_address().0);
        // Where the APIC is disabled or in x2APIC mode its page is a hole that reads as ones, as
        // guests of KVM know it (KVM_X86_QUIRK_LAPIC_MMIO_HOLE): the model sees to that.
        if offset >= PAGE {
            return false;
        }
        // CAST: below 4096.
        let (offset, now) = (offset as u32, HostClock);
        if self.arch.reports_tpr && offset & !0xf == u32::from(reg::TPR) {
            lapic.tpr_access = Some(TprAccess { rip, direction });
            self.vcpu
                .shared
                .kick
                .request_quietly(Request::ReportTprAccess);
        }
        let effects = match direction {
            Direction::Read => {
                let read = lapic.model.read(offset, data.len(), &now);
                let bytes = read.value.to_le_bytes();
                for (to, from) in data.iter_mut().zip(bytes) {
                    *to = from;
                }
                read.effects
            }
            Direction::Write => {
                let mut le = [0; 8];
                for (to, from) in le.iter_mut().zip(data.iter()) {
                    *to = *from;
                }
                lapic
                    .model
                    .write(offset, data.len(), u64::from_le_bytes(le), &now)
            }
        };
        self.carry_out(&effects);
        true
    }

    /// Returns to userspace for an access to the task priority that it wants to hear of.
    ///
    /// # Errors
    ///
    /// The exit, which is all that this is for.
    pub(crate) fn report_tpr_access(&mut self) -> Result<(), Stop> {
        let lapic = self.arch.lapic.as_mut();
        match lapic.and_then(|lapic| lapic.tpr_access.take()) {
            Some(access) => Err(Stop::ToUser(UserExit::TprAccess(access))),
            None => Ok(()),
        }
    }

    /// Brings the local APIC's features in line with CPUID.
    pub(crate) fn lapic_follows_cpuid(&mut self) {
        let caps = self.arch.cpuid.caps;
        let Some(lapic) = self.arch.lapic.as_mut() else {
            return;
        };
        let config = Config {
            has_x2apic: caps.has(feature::X2APIC),
            has_tsc_deadline: caps.has(feature::TSC_DEADLINE),
            max_phys_addr_bits: caps.maxphyaddr,
            suppress_eoi: self.vcpu.vm.options.suppress_eoi(),
            ..*lapic.model.config()
        };
        lapic.model.configure(config);
    }

    /// Gives the local APIC an entry for corrected machine checks, or takes it away.
    pub(crate) fn set_lapic_cmci(&mut self, has_cmci: bool) {
        if let Some(lapic) = self.arch.lapic.as_mut() {
            let config = Config {
                has_cmci,
                ..*lapic.model.config()
            };
            lapic.model.configure(config);
        }
    }

    /// Raises an interrupt of a local source.
    pub(crate) fn raise_local(&mut self, lvt: Lvt) {
        let Some(lapic) = self.arch.lapic.as_mut() else {
            return;
        };
        if lapic.model.raise(lvt) == LocalInterrupt::Nmi {
            let state = self.interruptibility();
            self.arch.events.add_nmis(1, state);
        }
    }

    /// Returns the registers in the layout of `KVM_GET_LAPIC`.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the kernel has no local APIC.
    pub(crate) fn save_lapic(&mut self, state: &mut LapicState) -> Result {
        self.check_timer();
        self.accept_posted();
        let format = self.id_format();
        let lapic = self.arch.lapic.as_ref().ok_or(EINVAL)?;
        lapic.model.save(format, &context::mono_ns(), state);
        Ok(())
    }

    /// Replaces the registers: `KVM_SET_LAPIC`.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the kernel has no local APIC, or for another's id in x2APIC mode.
    pub(crate) fn load_lapic(&mut self, state: &LapicState) -> Result {
        let format = self.id_format();
        let lapic = self.arch.lapic.as_mut().ok_or(EINVAL)?;
        let loaded = lapic.model.load(format, &context::mono_ns(), state);
        let effects = loaded.map_err(|_| EINVAL)?;
        self.carry_out(&effects);
        Ok(())
    }

    fn id_format(&self) -> IdFormat {
        let flags = self.vcpu.vm.options.x2apic_api.load(Relaxed);
        match flags & KVM_X2APIC_API_USE_32BIT_IDS {
            0 => IdFormat::XApic,
            _ => IdFormat::X2Apic,
        }
    }

    /// Brings the set of vectors whose EOI userspace wants up to date.
    pub(crate) fn load_eoi_exits(&mut self) {
        let Some(lapic) = self.arch.lapic.as_mut() else {
            return;
        };
        if lapic.reserved_routes == 0 {
            return;
        }
        let shared = &self.vcpu.shared;
        let routing = &self.vcpu.vm.routing;
        let identity = lapic.model.identity();
        lapic.eoi_exits = routing.eoi_exits(lapic.reserved_routes, &identity, |vector| {
            lapic.model.has_pending_eoi(vector) || shared.posted.has_level(vector)
        });
    }
}
