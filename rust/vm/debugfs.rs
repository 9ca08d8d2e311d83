// SPDX-License-Identifier: GPL-2.0

//! Statistics in debugfs, where `kvm_stat` reads them.
//!
//! The folder `kvm` has a file for each statistic, with its sum over all VMs, and a folder `PID-FD` for
//! each VM, with the same files; those of vCPUs have the sum over its vCPUs. Writing 0 to a file sets
//! what grows back to 0. Where debugfs is not there, nothing is shown, and nothing else changes.
//!
//! Locks: that of the list of VMs, then that of a VM's list of vCPUs.

use crate::vm::stats::{
    VcpuStats,
    VmStats, //
};
use burrow_core::stats::{
    self,
    Desc,
    Kind, //
};
use burrow_sys::global::{
    Global,
    Reclaim, //
};
use core::pin::Pin;
use kernel::{
    c_str,
    debugfs::{
        Dir,
        File,
        Reader,
        Writer, //
    },
    fmt, new_mutex,
    prelude::*,
    str::CString,
    sync::{
        Arc,
        Mutex, //
    },
    uaccess::UserSliceReader,
};

/// A statistic.
#[derive(Clone, Copy)]
enum Stat {
    /// Of VMs.
    Vm(&'static Desc),
    /// Of vCPUs.
    Vcpu(&'static Desc),
}

impl Stat {
    /// Returns all.
    fn all() -> impl Iterator<Item = Self> {
        let of_vms = stats::VM.descs().iter().map(Self::Vm);
        Iterator::chain(of_vms, stats::VCPU.descs().iter().map(Self::Vcpu))
    }

    fn desc(self) -> &'static Desc {
        match self {
            Self::Vm(desc) | Self::Vcpu(desc) => desc,
        }
    }
}

/// What has a value of each statistic.
trait Source: Send + Sync + 'static {
    /// Returns the value of `stat`; of a histogram, its first bucket, as upstream does.
    fn value(&self, stat: Stat) -> u64;
    /// Sets it to 0.
    fn clear(&self, stat: Stat);
}

/// The counters of a VM, and those of its vCPUs.
#[pin_data]
pub(crate) struct VmCounters {
    /// Those of the VM.
    vm: Arc<VmStats>,
    /// Those of all vCPUs that it ever had.
    #[pin]
    vcpus: Mutex<KVec<Arc<VcpuStats>>>,
}

impl VmCounters {
    /// Makes those of a VM without vCPUs.
    pub(crate) fn new(vm: Arc<VmStats>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                vm,
                vcpus <- new_mutex!(KVec::new(), "kvm_vcpu_stats"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Adds those of a vCPU.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn add(&self, vcpu: Arc<VcpuStats>) -> Result {
        Ok(self.vcpus.lock().push(vcpu, GFP_KERNEL_ACCOUNT)?)
    }
}

impl Source for VmCounters {
    fn value(&self, stat: Stat) -> u64 {
        match stat {
            Stat::Vm(desc) => self.vm.value(desc),
            Stat::Vcpu(desc) => sum(self.vcpus.lock().iter().map(|vcpu| vcpu.value(desc))),
        }
    }

    fn clear(&self, stat: Stat) {
        match stat {
            Stat::Vm(desc) => self.vm.clear(desc),
            Stat::Vcpu(desc) => self.vcpus.lock().iter().for_each(|vcpu| vcpu.clear(desc)),
        }
    }
}

/// All VMs.
#[pin_data]
struct AllVms {
    #[pin]
    list: Mutex<KVec<Arc<VmCounters>>>,
}

impl Source for AllVms {
    fn value(&self, stat: Stat) -> u64 {
        sum(self.list.lock().iter().map(|vm| vm.value(stat)))
    }

    fn clear(&self, stat: Stat) {
        self.list.lock().iter().for_each(|vm| vm.clear(stat));
    }
}

fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::wrapping_add)
}

/// A file: one statistic.
struct StatFile<S: Source> {
    source: Arc<S>,
    stat: Stat,
}

impl<S: Source> Writer for StatFile<S> {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.source.value(self.stat))
    }
}

/// The longest text that is written to a file, in bytes: a 64-bit number and a newline.
const NUMBER_SIZE: usize = 24;

impl<S: Source> Reader for StatFile<S> {
    fn read_from_slice(&self, reader: &mut UserSliceReader) -> Result {
        let mut text = [0; NUMBER_SIZE];
        let text = text.get_mut(..reader.len()).ok_or(EINVAL)?;
        reader.read_slice(text)?;
        let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
        match text.trim().parse() {
            Ok(0u64) => {
                self.source.clear(self.stat);
                Ok(())
            }
            _ => Err(EINVAL),
        }
    }
}

type Files<S> = KVec<Pin<KBox<File<StatFile<S>>>>>;

/// Makes a file in `dir` for each statistic of `source`.
fn make_files<S: Source>(dir: &Dir, source: &Arc<S>) -> Result<Files<S>> {
    let mut files = KVec::new();
    for stat in Stat::all() {
        let name = CString::try_from_fmt(fmt!("{}", stat.desc().name()))?;
        let file = StatFile {
            source: source.clone(),
            stat,
        };
        let file = match stat.desc().form().kind {
            Kind::Instant => KBox::pin_init(dir.read_only_file(&name, file), GFP_KERNEL_ACCOUNT)?,
            _ => KBox::pin_init(dir.read_write_file(&name, file), GFP_KERNEL_ACCOUNT)?,
        };
        files.push(file, GFP_KERNEL_ACCOUNT)?;
    }
    Ok(files)
}

/// The folder `kvm`.
struct Root {
    _files: Files<AllVms>,
    dir: Dir,
    vms: Arc<AllVms>,
}

static ROOT: Global<Root> = Global::new();

/// Makes the folder, when the module is loaded.
///
/// # Errors
///
/// `ENOMEM` when there is no memory.
pub(crate) fn init() -> Result {
    let vms = Arc::pin_init(
        pin_init!(AllVms { list <- new_mutex!(KVec::new(), "kvm_all_stats") }),
        GFP_KERNEL,
    )?;
    let dir = Dir::new(c_str!("kvm"));
    ROOT.populate(Root {
        _files: make_files(&dir, &vms)?,
        dir,
        vms,
    })
}

/// Returns what is to be freed when the module is unloaded.
pub(crate) fn keep() -> &'static dyn Reclaim {
    &ROOT
}

/// A VM in debugfs: its folder, until this is dropped.
pub(crate) struct Shown {
    _files: Files<VmCounters>,
    counters: Arc<VmCounters>,
    root: &'static Root,
}

impl Shown {
    /// Shows `counters`, those of the VM that the process `pid` has as `fd`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(counters: &Arc<VmCounters>, pid: u32, fd: u32) -> Result<Self> {
        let root = ROOT.get().ok_or(ENODEV)?;
        let name = CString::try_from_fmt(fmt!("{pid}-{fd}"))?;
        let files = make_files(&root.dir.subdir(&name), counters)?;
        let mut vms = root.vms.list.lock();
        vms.push(counters.clone(), GFP_KERNEL_ACCOUNT)?;
        Ok(Self {
            _files: files,
            counters: counters.clone(),
            root,
        })
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut vms = self.root.vms.list.lock();
        vms.retain(|vm| !Arc::ptr_eq(vm, &self.counters));
    }
}
