// SPDX-License-Identifier: GPL-2.0

//! A vCPU's state, apart from what the VMCS and the processor hold. Data only.

use crate::{
    arch::x86::{
        apic::Lapic,
        code::CodePage,
        cpuid::Cpuid,
        emulate::Replay,
        msr,
        nested::state::Nested,
        options::{
            Options,
            Quirk, //
        },
        outcome::Direction,
        pvclock::PvMsrs,
        tsc::Tsc,
        vm::{
            IrqChip,
            Setup, //
        },
    },
    host::host,
    vm::vcpus::VcpuShared, //
};
use burrow_core::{
    addr::Gpa,
    device_pages::DevicePages,
    vpid,
    x86::{
        emulate::Decoded,
        eptcache::EptCaches,
        event::queue::EventQueue,
        msr::{
            mce::Mce,
            mtrr::Mtrrs,
            soft::SoftMsrs, //
        },
        msrbitmap::OpenWords,
        regs::{
            guest_debug::GuestDebug,
            Cr0,
            Cr4,
            Efer, //
        },
        vmx::caps::Controls, //
    },
};
use burrow_sys::{
    fpu::GuestFpu,
    x86::vmcs::{
        ControlPage,
        LogPage, //
    },
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Whether a vCPU can run. The values are those of `struct kvm_mp_state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum MpState {
    /// It runs.
    Runnable = 0,
    /// An application processor that waits for INIT and SIPI.
    Uninitialized = 1,
    /// INIT arrived; it waits for SIPI.
    InitReceived = 2,
    /// It executed HLT.
    Halted = 3,
}

/// Control registers and EFER as the guest sees them. Bits that the guest changes without an exit
/// are in the VMCS only; [`Cpu::cr0`](super::cpu::Cpu::cr0) and its kin put them together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlRegs {
    /// CR0.
    pub(crate) cr0: Cr0,
    /// CR4.
    pub(crate) cr4: Cr4,
    /// IA32_EFER.
    pub(crate) efer: Efer,
    /// CR8, where userspace has the local APIC.
    pub(crate) cr8: u8,
}

/// Debug registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DebugRegs {
    /// DR0 to DR3.
    pub(crate) address: [u64; 4],
    /// DR6.
    pub(crate) dr6: u64,
    /// DR7.
    pub(crate) dr7: u64,
}

/// The boot processor runs; the others wait for it where the kernel has their local APICs.
fn initial_mp_state(setup: &Setup, shared: &VcpuShared) -> MpState {
    if setup.irqchip == IrqChip::None || shared.id == setup.boot_cpu_id {
        MpState::Runnable
    } else {
        MpState::Uninitialized
    }
}

/// Extended state.
pub(crate) struct Extended {
    /// What XSAVE saves.
    pub(crate) fpu: GuestFpu,
    /// XCR0.
    pub(crate) xcr0: u64,
    /// IA32_XSS.
    pub(crate) xss: u64,
    /// PKRU.
    pub(crate) pkru: u32,
}

/// What the vCPU does when userspace runs it again after an exit.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Completion {
    /// Put the data of an IN into the accumulator, and step over the instruction.
    In {
        /// The port.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
    },
    /// Step over the instruction.
    Skip,
    /// Give the data of an MMIO or string-I/O access to the emulator, and emulate again.
    Emulate {
        /// It was string I/O.
        is_port: bool,
    },
    /// Go on with the next fragment of an access that the emulator has finished.
    Fragments,
    /// Finish a RDMSR or WRMSR that userspace answered.
    Msr {
        /// The direction.
        direction: Direction,
    },
}

/// Whether NMIs were blocked when an SMI came; they are in its handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NmisBefore {
    /// They were not.
    Open,
    /// They were, and are after RSM.
    Blocked,
}

/// System-management mode.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Smm {
    /// While the vCPU is in it: how NMIs were before.
    pub(crate) nmis_before: Option<NmisBefore>,
    /// An INIT waits for RSM.
    pub(crate) latched_init: bool,
    /// An SMI has ended HLT, and is taken next.
    pub(crate) ended_halt: bool,
}

/// PAT after reset: WB, WT, UC-, UC, twice.
pub(crate) const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// A vCPU's state.
pub(crate) struct VcpuArch {
    /// Control registers.
    pub(crate) control: ControlRegs,
    /// Debug registers.
    pub(crate) debug: DebugRegs,
    /// Extended state.
    pub(crate) extended: Extended,
    /// Exceptions, NMIs and interrupts.
    pub(crate) events: EventQueue,
    /// Whether the vCPU can run.
    pub(crate) mp_state: MpState,
    /// CPUID.
    pub(crate) cpuid: Cpuid,
    /// The VMX controls in force.
    pub(crate) ctls: Controls,
    /// The VPID.
    pub(crate) vpid: vpid::Holder,
    /// The EPTs that it has run with.
    pub(crate) epts: EptCaches,
    /// The interrupt that userspace injected where it has the local APIC.
    pub(crate) user_interrupt: Option<u8>,
    /// `KVM_SET_VAPIC_ADDR`.
    pub(crate) vapic: Option<Gpa>,
    /// What to finish on the next run.
    pub(crate) completion: Option<Completion>,
    /// The RIP of the instruction that `completion` belongs to.
    pub(crate) completion_rip: u64,
    /// What the emulator has done so far of an instruction that waits for userspace.
    pub(crate) replay: KBox<Replay>,
    /// Instructions that the emulator has decoded; away while it works.
    pub(crate) decoded: Option<KBox<Decoded>>,
    /// Where code was fetched from last.
    pub(crate) code_page: Option<CodePage>,
    /// Pages that are known to be devices'.
    pub(crate) device_pages: DevicePages,
    /// The local APIC, if the kernel has it.
    pub(crate) lapic: Option<KBox<Lapic>>,
    /// Another vCPU has woken this one from HLT, or from the next.
    pub(crate) is_unhalted: bool,
    /// The vector of the last start-up IPI.
    pub(crate) sipi_vector: u8,
    /// Paravirtual MSRs.
    pub(crate) paravirt: PvMsrs,
    /// The time-stamp counter.
    pub(crate) tsc: Tsc,
    /// MSRs that only software gives a meaning.
    pub(crate) soft_msrs: SoftMsrs,
    /// Memory-type range registers.
    pub(crate) mtrrs: Mtrrs,
    /// Machine-check banks.
    pub(crate) mce: Mce,
    /// IA32_PAT, where the VMCS does not hold it.
    pub(crate) pat: u64,
    /// The guest may write IA32_SPEC_CTRL without an exit.
    pub(crate) spec_ctrl_open: bool,
    /// Which MSRs exit.
    pub(crate) msr_bitmap: ControlPage,
    /// Its words that let anything through.
    pub(crate) msrs_open: OpenWords,
    /// What the CPU logs writes in, if it can.
    pub(crate) pml: Option<LogPage>,
    /// What a guest hypervisor needs; `None` if guests cannot be hypervisors.
    pub(crate) nested: Option<KBox<Nested>>,
    /// System-management mode.
    pub(crate) smm: Smm,
    /// `KVM_SET_SIGNAL_MASK`.
    pub(crate) signal_mask: Option<u64>,
    /// `KVM_SET_GUEST_DEBUG`.
    pub(crate) guest_debug: GuestDebug,
    /// Userspace wants to know when an interrupt can be injected.
    pub(crate) is_window_wanted: bool,
    /// The coming entry is to end before its first instruction.
    pub(crate) leaves_at_once: bool,
    /// Userspace wants to hear of accesses to the task priority in memory.
    pub(crate) reports_tpr: bool,
    /// `KVM_RUN` has entered the guest.
    pub(crate) has_run: bool,
}

/// Makes a box of what `make` returns. Its place on the stack is given back at once: that is small, and a vCPU
/// has many such parts.
#[inline(never)]
fn boxed<T>(make: fn() -> T) -> Result<KBox<T>> {
    Ok(KBox::new(make(), GFP_KERNEL_ACCOUNT)?)
}

impl VcpuArch {
    /// Makes the state after power-up, except for the registers, which
    /// [`reset`](super::reset::power_up) sets.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(
        options: &Options,
        setup: &Setup,
        shared: &Arc<VcpuShared>,
    ) -> Result<KBox<Self>> {
        let nested = Nested::new(options.has_quirk(Quirk::StuffFeatureMsrs))?;
        let lapic = Lapic::new(options, setup, shared)?;
        Self::with_parts(options, initial_mp_state(setup, shared), nested, lapic)
    }

    /// [`new`](Self::new), in a stack frame that is not below those of the parts.
    #[inline(never)]
    fn with_parts(
        options: &Options,
        mp_state: MpState,
        nested: Option<KBox<Nested>>,
        lapic: Option<KBox<Lapic>>,
    ) -> Result<KBox<Self>> {
        let arch = kernel::try_init!(Self {
            control: ControlRegs {
                cr0: Cr0::RESET,
                cr4: Cr4(0),
                efer: Efer(0),
                cr8: 0,
            },
            debug: DebugRegs {
                address: [0; 4],
                dr6: 0,
                dr7: 0,
            },
            extended: Extended {
                fpu: GuestFpu::new()?,
                xcr0: 1,
                xss: 0,
                pkru: 0,
            },
            events: EventQueue::new(),
            mp_state,
            cpuid: Cpuid::new(),
            ctls: Controls::default(),
            vpid: vpid::Holder::new(),
            epts: EptCaches::new(),
            user_interrupt: None,
            vapic: None,
            completion: None,
            completion_rip: 0,
            replay: boxed(Replay::default)?,
            decoded: Some(boxed(Decoded::new)?),
            code_page: None,
            device_pages: DevicePages::default(),
            lapic,
            is_unhalted: false,
            sipi_vector: 0,
            paravirt: PvMsrs::default(),
            tsc: Tsc::default(),
            soft_msrs: SoftMsrs::new(match options.has_quirk(Quirk::StuffFeatureMsrs) {
                true => Some(msr::arch_capabilities()),
                false => None,
            }),
            mtrrs: Mtrrs::default(),
            mce: Mce::default(),
            pat: PAT_RESET,
            spec_ctrl_open: false,
            msr_bitmap: ControlPage::new()?,
            pml: match host().ctls.has_pml() {
                true => Some(LogPage::new()?),
                false => None,
            },
            msrs_open: OpenWords::ALL,
            nested,
            smm: Smm::default(),
            signal_mask: None,
            guest_debug: GuestDebug::default(),
            is_window_wanted: false,
            leaves_at_once: false,
            reports_tpr: false,
            has_run: false,
        });
        KBox::init(arch, GFP_KERNEL_ACCOUNT)
    }
}
