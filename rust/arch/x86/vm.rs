// SPDX-License-Identifier: GPL-2.0

//! A virtual machine: what its vCPUs share.
//!
//! Lock order: `Vm::setup`, then `Vm::pit` or a vCPU's mutex, then the locks of [`GuestMemory`]; the
//! spinlock of [`Chips`] nests in these, and that of [`Vcpus`] in all.

use crate::{
    arch::x86::{
        acks::Acks,
        chips::Chips,
        irq::ApicBus,
        irqfd::Irqfds,
        mmu::{
            Config,
            GuestMemory, //
        },
        msr::Filter,
        options::Options,
        pit::PitDevice,
        pvclock::VmClock,
        routing::Routing, //
    },
    vm::{
        coalesced::Ring,
        debugfs::{
            Shown,
            VmCounters, //
        },
        iobus::IoBus,
        ring::{
            DirtyRings,
            RingSize, //
        },
        stats::VmStats,
        vcpus::{
            Vcpus,
            MAX_VCPU_ID, //
        },
    },
};
use burrow_core::{
    memslot::SlotId,
    request::Request,
    stats::Id,
    x86::{
        clock::VmTsc,
        irqchip::{
            lapic::IoApicPlace,
            lapic_timer::BusCycle, //
        },
        tdp::DirtyLog, //
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex,
        SetOnce, //
    },
};

/// Which interrupt controllers the kernel has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum IrqChip {
    /// None: userspace injects interrupts with `KVM_INTERRUPT`.
    #[default]
    None,
    /// The local APICs; userspace has the I/O APIC, with this many routes reserved for its pins.
    Split {
        /// The number of pins.
        reserved_routes: u32,
    },
    /// All: the local APICs, an I/O APIC and a pair of 8259As.
    Full,
}

impl IrqChip {
    /// Returns where the I/O APIC is.
    pub(crate) fn io_apic(self) -> IoApicPlace {
        match self {
            IrqChip::Full => IoApicPlace::Kernel,
            IrqChip::None | IrqChip::Split { .. } => IoApicPlace::Userspace,
        }
    }
}

/// What is configured before the first vCPU runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    /// The interrupt controllers.
    pub(crate) irqchip: IrqChip,
    /// `KVM_CAP_X86_APIC_BUS_CYCLES_NS`.
    pub(crate) bus_cycle: BusCycle,
    /// `KVM_SET_BOOT_CPU_ID`.
    pub(crate) boot_cpu_id: u32,
    /// `KVM_CAP_MAX_VCPU_ID`: the number of vCPU ids; 0 until userspace limits them.
    pub(crate) vcpu_id_limit: u32,
    /// `KVM_SET_TSC_KHZ` on the VM; 0 for the host's.
    pub(crate) tsc_khz: u32,
    /// `KVM_CAP_DIRTY_LOG_RING`.
    pub(crate) ring: Option<RingSize>,
}

impl Setup {
    /// Returns how many vCPU ids there are: ids are below this.
    pub(crate) fn nr_vcpu_ids(&self) -> u32 {
        match self.vcpu_id_limit {
            0 => MAX_VCPU_ID,
            limit => limit,
        }
    }
}

/// The address space of system-management mode.
const SMM_SPACE: u16 = 1;

fn memory_config() -> Config {
    let host = crate::host::host();
    let log = if host.ctls.has_pml() {
        DirtyLog::Pml
    } else {
        DirtyLog::WriteProtect
    };
    Config::new(host.ctls.ept_vpid, host.maxphyaddr, false, log)
}

/// A virtual machine.
#[pin_data]
pub(crate) struct Vm {
    /// Guest memory.
    pub(crate) memory: GuestMemory,
    /// The memory of system-management mode.
    smram: SetOnce<GuestMemory>,
    /// Held while that is made.
    #[pin]
    smram_lock: Mutex<()>,
    /// The vCPUs.
    pub(crate) vcpus: Arc<Vcpus>,
    /// Devices in the kernel.
    pub(crate) devices: Arc<IoBus>,
    /// The ring of coalesced writes.
    pub(crate) coalesced: Arc<Ring>,
    /// The way of interrupts from devices.
    pub(crate) apics: Arc<ApicBus>,
    /// The I/O APIC and the 8259A pair, in use after `KVM_CREATE_IRQCHIP`.
    pub(crate) chips: Arc<Chips>,
    /// Interrupt lines.
    pub(crate) routing: Arc<Routing>,
    /// Who is told of ended interrupts.
    pub(crate) acks: Arc<Acks>,
    /// The PIT.
    #[pin]
    pub(crate) pit: Mutex<Option<Arc<PitDevice>>>,
    /// Eventfds on interrupt lines.
    #[pin]
    pub(crate) irqfds: Irqfds,
    /// Statistics.
    pub(crate) stats: Arc<VmStats>,
    /// The same, with those of the vCPUs.
    pub(crate) counters: Arc<VmCounters>,
    shown: SetOnce<Shown>,
    /// The process that made the VM, by which its statistics are known.
    pub(crate) pid: u32,
    /// Configuration; its lock also serialises the creation of vCPUs.
    #[pin]
    pub(crate) setup: Mutex<Setup>,
    /// `KVM_X86_SET_MSR_FILTER`.
    #[pin]
    pub(crate) msr_filter: Mutex<Option<Arc<Filter>>>,
    /// What userspace enabled.
    pub(crate) options: Options,
    /// The paravirtual clock.
    #[pin]
    pub(crate) clock: Mutex<VmClock>,
    /// The time-stamp counters, as far as they run in step.
    #[pin]
    pub(crate) tscs: Mutex<VmTsc>,
    dead: Atomic<bool>,
}

impl Vm {
    /// Makes a VM for the current process.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a task without an address space, `ENOMEM` when there is no memory.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let vcpus = Vcpus::new()?;
        // CAST: process ids are not negative.
        let pid = kernel::current!().pid() as u32;
        let stats = VmStats::new(Id::vm(pid))?;
        let memory = GuestMemory::new(vcpus.clone(), stats.clone(), memory_config())?;
        let apics = ApicBus::new(vcpus.clone())?;
        let chips = Chips::new(apics.clone())?;
        let routing = Routing::new(apics.clone(), chips.clone())?;
        let acks = Acks::new(chips.clone(), routing.clone())?;
        let (devices, coalesced) = (IoBus::new()?, Ring::new()?);
        Arc::pin_init(
            try_pin_init!(Self {
                memory,
                smram: SetOnce::new(),
                smram_lock <- new_mutex!((), "kvm_smram"),
                vcpus,
                devices,
                coalesced,
                apics,
                irqfds <- Irqfds::new(routing.clone(), acks.clone()),
                chips,
                routing,
                acks,
                pit <- new_mutex!(None, "kvm_vm_pit"),
                counters: VmCounters::new(stats.clone())?,
                shown: SetOnce::new(),
                stats,
                pid,
                setup <- new_mutex!(Setup::default(), "kvm_setup"),
                msr_filter <- new_mutex!(None, "kvm_msr_filter"),
                options: Options::new(),
                clock <- new_mutex!(VmClock::new(), "kvm_clock"),
                tscs <- new_mutex!(VmTsc::default(), "kvm_tsc"),
                dead: Atomic::new(false),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the memory that vCPUs in system-management mode see; it is made when it is first asked
    /// for, as most VMs have none.
    ///
    /// # Errors
    ///
    /// As of [`GuestMemory::new`].
    pub(crate) fn smram(&self) -> Result<&GuestMemory> {
        if let Some(memory) = self.smram.as_ref() {
            return Ok(memory);
        }
        let _guard = self.smram_lock.lock();
        if self.smram.as_ref().is_none() {
            let memory = GuestMemory::new(self.vcpus.clone(), self.stats.clone(), memory_config())?;
            memory.copy_manual_protect(&self.memory);
            if let Some(rings) = self.memory.rings() {
                memory.log_in(rings);
            }
            self.smram.populate(memory);
        }
        self.smram.as_ref().ok_or(ENOMEM)
    }

    /// Returns the memory that vCPUs in system-management mode see, if it is there.
    #[inline]
    pub(crate) fn smram_if_made(&self) -> Option<&GuestMemory> {
        self.smram.as_ref()
    }

    /// Returns the memory that holds the slot with this name. One that no slot can have is refused by
    /// the memory that is returned.
    ///
    /// # Errors
    ///
    /// As of [`GuestMemory::new`].
    pub(crate) fn memory_of(&self, slot: u32) -> Result<&GuestMemory> {
        match SlotId::from_raw(slot).as_id {
            SMM_SPACE => self.smram(),
            _ => Ok(&self.memory),
        }
    }

    /// Has slots that are logged from now on log in the rings of the vCPUs. There is no vCPU yet.
    pub(crate) fn log_in_rings(&self) {
        let rings: Arc<dyn DirtyRings> = self.vcpus.clone();
        self.memory.log_in(&rings);
        if let Some(smram) = self.smram.as_ref() {
            smram.log_in(&rings);
        }
    }

    /// Takes back what userspace has harvested from the dirty rings, and lets writes to those pages be
    /// seen again: `KVM_RESET_DIRTY_RINGS`. Returns the number of entries.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the VM does not log in rings, `EINTR` when a signal is pending.
    pub(crate) fn reset_dirty_rings(&self) -> Result<usize> {
        // Held to have one reset at a time.
        let setup = self.setup.lock();
        setup.ring.ok_or(EINVAL)?;
        let mut flush = false;
        let count = self.vcpus.reset_rings(|batch| {
            let memory = match batch.slot.as_id {
                0 => Some(&self.memory),
                SMM_SPACE => self.smram.as_ref(),
                _ => None,
            };
            flush |= memory.is_some_and(|memory| memory.log_again(batch));
        });
        if flush {
            self.memory.flush_translations();
        }
        count
    }

    /// Shows the statistics in debugfs, as those of the VM behind `fd`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn show_stats(&self, fd: u32) -> Result {
        // Once for each VM: nothing is lost where it is there already.
        self.shown
            .populate(Shown::new(&self.counters, self.pid, fd)?);
        Ok(())
    }

    /// Checks that the caller may use the VM.
    ///
    /// # Errors
    ///
    /// `EIO` for a process other than the one that made the VM, or when the VM is dead.
    pub(crate) fn check_caller(&self) -> Result {
        if !self.memory.is_creator() || self.dead.load(Relaxed) {
            return Err(EIO);
        }
        Ok(())
    }

    /// Kills the VM after a bug of ours: every ioctl from now on fails with `EIO`.
    pub(crate) fn kill(&self, bug: burrow_core::outcome::Bug) {
        if !self.dead.xchg(true, kernel::sync::atomic::Full) {
            pr_warn!("bug: {}; the VM is dead\n", bug.0);
        }
        self.vcpus.request_all(Request::VmDead);
    }

    /// Returns the interrupt controllers in the kernel.
    pub(crate) fn irqchip(&self) -> IrqChip {
        self.setup.lock().irqchip
    }
}
