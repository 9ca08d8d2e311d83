// SPDX-License-Identifier: GPL-2.0

//! What the module found out about its host when it was loaded, and what it decided from that.

use burrow_core::{
    vpid,
    x86::{
        clock,
        cpuid::feature,
        vmx::{
            caps::{
                ControlSet,
                HostSupport,
                Params,
                VmxCaps, //
            },
            insn_len::ViolationLength,
            preemption_timer::{
                self,
                PreemptionTimer,
                Trial, //
            },
        },
    },
};
use burrow_sys::{
    context::{
        self,
        IrqsOff,
        PerCpu,
        PreemptOff, //
    },
    fpu,
    global::{
        Global,
        Reclaim, //
    },
    params,
    x86::{
        cpu::{
            self,
            NoVmx, //
        },
        insn, //
    },
};
use core::{
    cell::Cell,
    num::NonZeroU16, //
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLock, //
    },
};

/// The longest turn of a guest, in microseconds, where [`Trial`] says that turns must be bounded.
const TURN_US: u64 = 4000;

/// Facts that do not change while the module is loaded.
pub(crate) struct Host {
    /// The VMX capability MSRs.
    pub(crate) caps: VmxCaps,
    /// The VMX controls that Burrow uses.
    pub(crate) ctls: ControlSet,
    /// The host's XCR0.
    pub(crate) xcr0: u64,
    /// The host's IA32_XSS; 0 without XSAVES.
    pub(crate) xss: u64,
    /// The width of physical addresses, in bits.
    pub(crate) maxphyaddr: u8,
    /// The frequency of the time-stamp counter, in kHz.
    pub(crate) tsc_khz: u32,
    /// The bits of IA32_SPEC_CTRL that the CPU takes; 0 where VM entry does not switch it.
    pub(crate) spec_ctrl: u64,
    /// The VMX-preemption timer, where it is used.
    pub(crate) timer: Option<PreemptionTimer>,
    /// Its value for a turn of [`TURN_US`].
    turn: u32,
    /// A [`Trial`], which vCPUs of all CPUs make and settle; whose word is lost does not matter.
    trial: Atomic<u32>,
    /// A [`ViolationLength`], which vCPUs of all CPUs try; whose word is lost does not matter.
    violation_length: Atomic<u32>,
    /// The VPIDs of all vCPUs.
    pub(crate) vpids: Arc<Vpids>,
}

impl Host {
    /// Returns the value of the VMX-preemption timer that bounds a turn of the guest, if turns that
    /// begin with RFLAGS.IF = 0 must be bounded.
    #[inline]
    pub(crate) fn turn_bound(&self) -> Option<u32> {
        self.trial().must_bound().then_some(self.turn)
    }

    /// Returns how far it is known whether interrupts end a guest with RFLAGS.IF = 0.
    #[inline]
    pub(crate) fn trial(&self) -> Trial {
        Trial::from_word(context::peek(&self.trial))
    }

    /// Returns whether that is to be tried.
    #[inline]
    pub(crate) fn wants_trial(&self) -> bool {
        self.trial().is_open()
            && self.timer.is_some()
            && self.ctls.switchable.proc.monitor_trap_flag()
    }

    /// Takes note of what a trial has shown.
    pub(crate) fn set_trial(&self, trial: Trial) {
        if trial.must_bound() && !trial.is_open() && self.trial().is_open() {
            pr_info!("interrupts do not end a guest with RFLAGS.IF=0 on this CPU: its turns are bounded\n");
        }
        self.trial.store(trial.into_word(), Relaxed);
    }

    /// Returns how far it is known whether the instruction length of EPT violations is right.
    #[inline]
    pub(crate) fn violation_length(&self) -> ViolationLength {
        ViolationLength::from_word(context::peek(&self.violation_length))
    }

    /// Takes note that an EPT violation `reported` a length for an instruction of `decoded` bytes.
    pub(crate) fn note_violation_length(&self, reported: u32, decoded: u8) {
        let known = self.violation_length().after(reported, decoded);
        self.violation_length.store(known.into_word(), Relaxed);
    }
}

/// The VPIDs of all vCPUs, handed out by generation.
#[pin_data]
pub(crate) struct Vpids {
    #[pin]
    allocator: SpinLock<vpid::Allocator>,
    /// A copy of the allocator's generation, to be read without its lock. Stale for a moment on
    /// other CPUs, which is harmless: a VPID of the old generation is flushed for when it ran out.
    generation: Atomic<u64>,
    pub(crate) cpus: PerCpu<Cell<vpid::CpuVpids>>,
}

impl Vpids {
    /// Returns the current generation.
    #[inline]
    pub(crate) fn generation(&self) -> vpid::Generation {
        vpid::Generation(self.generation.load(Relaxed))
    }

    /// Hands out a VPID of the current generation, or of a new one.
    pub(crate) fn allocate(&self) -> vpid::Vpid {
        let mut allocator = self.allocator.lock();
        let fresh = allocator.allocate();
        self.generation.store(allocator.generation().0, Relaxed);
        fresh
    }
}

static HOST: Global<Host> = Global::new();

/// Returns what is known of the host.
///
/// Called only after [`init`] succeeded, as nothing else of the module exists before.
#[inline]
pub(crate) fn host() -> &'static Host {
    match HOST.get() {
        Some(host) => host,
        // PANIC: `init()` populates it before `/dev/kvm` exists.
        None => unreachable!(),
    }
}

/// Examines the host.
///
/// # Errors
///
/// `EOPNOTSUPP` when the CPU or the firmware denies what Burrow needs, with one line in the log that
/// names it; `ENOMEM` when there is no memory.
pub(crate) fn init() -> Result {
    match cpu::check_vmx() {
        Ok(()) => {}
        Err(NoVmx::Unsupported) => {
            pr_err!("this CPU has no VT-x (VMX)\n");
            return Err(EOPNOTSUPP);
        }
        Err(NoVmx::LockedByFirmware) => {
            pr_err!("VT-x (VMX) is switched off by the firmware\n");
            return Err(EOPNOTSUPP);
        }
    }
    let caps = cpu::read_caps();
    let ctls = HostSupport::from_caps(&caps, wanted()).map_err(|missing| {
        pr_err!("this CPU lacks {}\n", missing.0);
        EOPNOTSUPP
    })?;
    let vpids = Arc::pin_init(
        try_pin_init!(Vpids {
            allocator <- new_spinlock!(vpid::Allocator::new(NonZeroU16::MAX), "kvm_vpids"),
            generation: Atomic::new(vpid::Allocator::new(NonZeroU16::MAX).generation().0),
            cpus: PerCpu::new(|| Cell::new(vpid::CpuVpids::new()))?,
        }),
        GFP_KERNEL,
    )?;
    // CPUID.80000008H:EAX[7:0], CPUID.(0DH,1):EAX[3]
    let maxphyaddr = (insn::cpuid(0x8000_0008, 0).eax & 0xff) as u8;
    let has_xsaves = fpu::host_xcr0() != 0 && insn::cpuid(0xd, 1).eax & (1 << 3) != 0;
    let tsc_khz = burrow_sys::context::tsc_khz();
    let timer = usable_timer(&caps, &ctls, tsc_khz);
    tell_params(&ctls, timer.as_ref());
    HOST.populate(Host {
        caps,
        ctls,
        xcr0: fpu::host_xcr0(),
        xss: if has_xsaves {
            insn::rdmsr(burrow_sys::uapi::MSR_IA32_XSS).unwrap_or(0)
        } else {
            0
        },
        maxphyaddr,
        tsc_khz,
        spec_ctrl: spec_ctrl(),
        timer,
        turn: timer.map_or(0, |timer| {
            timer.turn(clock::ns_to_ticks(TURN_US * 1000, tsc_khz))
        }),
        trial: Atomic::new(Trial::NEW.into_word()),
        violation_length: Atomic::new(violation_length().into_word()),
        vpids,
    })
}

/// Finds out which bits of IA32_SPEC_CTRL guests may have: CPUID of some processors tells of more.
fn spec_ctrl() -> u64 {
    if !cpu::has(burrow_sys::uapi::X86_FEATURE_MSR_SPEC_CTRL) {
        return 0;
    }
    let named = feature::SPEC_CTRL_BITS
        .iter()
        .fold(0, |all, (_, bits)| all | bits);
    let preempt = PreemptOff::new();
    let irqs = IrqsOff::new(&preempt);
    cpu::spec_ctrl_bits(named, &irqs)
}

/// Returns what is to be freed when the module goes.
pub(crate) fn keep() -> &'static dyn Reclaim {
    &HOST
}

/// Returns the VMX-preemption timer if it is there, wanted, and known to keep time.
fn usable_timer(caps: &VmxCaps, ctls: &ControlSet, tsc_khz: u32) -> Option<PreemptionTimer> {
    let is_usable = ctls.has_preemption_timer()
        && tsc_khz != 0
        && !preemption_timer::is_broken(insn::cpuid(1, 0).eax);
    is_usable.then(|| PreemptionTimer::new(caps.misc))
}

/// Returns what is known of [`ViolationLength`] at first.
fn violation_length() -> ViolationLength {
    // CPUID.01H:ECX[31], which hypervisors set
    if insn::cpuid(1, 0).ecx >> 31 != 0 {
        ViolationLength::WRONG
    } else {
        ViolationLength::NEW
    }
}

/// Makes the parameters say what is in force. Those that cannot be off are on, as the module was loaded.
fn tell_params(ctls: &ControlSet, timer: Option<&PreemptionTimer>) {
    params::set_pml(ctls.has_pml());
    params::set_preemption_timer(timer.is_some());
    params::set_enable_shadow_vmcs(ctls.has_vmcs_shadowing());
    // What the CPU may have of it is not made use of.
    params::set_enable_apicv(false);
}

fn wanted() -> Params {
    Params {
        nested: params::nested(),
        ept: params::ept(),
        vpid: params::vpid(),
        unrestricted_guest: params::unrestricted_guest(),
        enable_shadow_vmcs: params::enable_shadow_vmcs(),
        preemption_timer: params::preemption_timer(),
        enable_apicv: params::enable_apicv(),
        pml: params::pml(),
    }
}
