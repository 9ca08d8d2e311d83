// SPDX-License-Identifier: GPL-2.0

//! A virtual CPU: the pages it shares with userspace, and its state behind a mutex.

use crate::{
    arch::x86::{
        cpu::Cpu,
        nested::state::NR_SLOTS,
        state::VcpuArch,
        vm::{
            Setup,
            Vm, //
        },
    },
    vm::{
        stats::VcpuStats,
        vcpus::VcpuShared, //
    },
};
use burrow_core::stats::Id;
use burrow_sys::{
    lock::{
        self,
        MutexGuard, //
    },
    run_page::SharedPage,
    x86::{
        hw::VcpuHw,
        vmcs::Vmcs, //
    },
};
use core::pin::Pin;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex,
        SetOnce, //
    },
};

/// The pages that userspace maps from a vCPU's fd.
pub(crate) struct RunPages {
    /// `struct kvm_run`.
    pub(crate) run: SharedPage,
    /// The data of port I/O.
    pub(crate) pio: SharedPage,
}

/// The state of a vCPU that only the holder of its mutex uses.
pub(crate) struct VcpuInner {
    /// The vCPU's part of the processor. Goes before the VMCS that it may have loaded.
    pub(crate) hw: Pin<KBox<VcpuHw>>,
    /// The VMCS that L0 keeps for L1.
    pub(crate) vmcs01: KBox<Vmcs>,
    /// Those that L2 runs with, once the guest is in VMX operation.
    pub(crate) vmcs02: [SetOnce<KBox<Vmcs>>; NR_SLOTS],
    /// Everything else.
    pub(crate) arch: KBox<VcpuArch>,
}

/// A virtual CPU.
#[pin_data]
pub(crate) struct Vcpu {
    /// The part that other threads use.
    pub(crate) shared: Arc<VcpuShared>,
    /// The pages shared with userspace.
    pub(crate) pages: RunPages,
    /// Statistics.
    pub(crate) stats: Arc<VcpuStats>,
    #[pin]
    inner: Mutex<VcpuInner>,
    /// The VM, which lives as long as any of its vCPUs. Goes last: the VMCS points to its memory.
    pub(crate) vm: Arc<Vm>,
}

impl Vcpu {
    /// Makes a vCPU in its state after power-up.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(vm: Arc<Vm>, shared: Arc<VcpuShared>, setup: &Setup) -> Result<Arc<Self>> {
        let pages = RunPages {
            run: SharedPage::new()?,
            pio: SharedPage::new()?,
        };
        let host = crate::host::host();
        let inner = VcpuInner {
            hw: VcpuHw::new()?,
            vmcs01: Vmcs::new(host.caps.basic.revision())?,
            vmcs02: [const { SetOnce::new() }; NR_SLOTS],
            arch: VcpuArch::new(&vm.options, setup, &shared)?,
        };
        let stats = VcpuStats::new(Id::vcpu(vm.pid, shared.id))?;
        let vcpu = Arc::pin_init(
            pin_init!(Self {
                shared,
                pages,
                stats,
                inner <- new_mutex!(inner, "kvm_vcpu"),
                vm,
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        {
            // Nobody else knows the vCPU yet.
            let mut inner = vcpu.inner.lock();
            let mut cpu = Cpu::load(&vcpu, &mut inner);
            cpu.init_vmcs();
            cpu.power_up();
            cpu.start_tsc(setup.tsc_khz);
            cpu.refresh_msr_bitmap();
        }
        Ok(vcpu)
    }

    /// Locks the state, after who runs the vCPU or else uses it has let go.
    ///
    /// # Errors
    ///
    /// `EINTR` on a fatal signal.
    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, VcpuInner>> {
        lock::killable(&self.inner)
    }
}
