// SPDX-License-Identifier: GPL-2.0

//! Statistics: counters of a VM and of a vCPU, and the files that show them.

use burrow_core::{
    addr::Level,
    stats::{
        self,
        Desc,
        File,
        Id,
        Table,
        VcpuStat,
        VmStat, //
    },
};
use burrow_sys::{
    anon_fd::{
        self,
        FdOps,
        FileAccess, //
    },
    context,
    pt_page::LeafCounter,
};
use core::marker::PhantomData;
use kernel::{
    c_str,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        ArcBorrow, //
    },
};

/// The statistics of what.
pub(crate) trait Subject: Send + Sync + 'static {
    /// What is counted.
    const TABLE: &'static Table;
    /// The name of its files.
    const NAME: &'static CStr;
}

/// A VM.
pub(crate) struct OfVm;

/// A vCPU.
pub(crate) struct OfVcpu;

impl Subject for OfVm {
    const TABLE: &'static Table = &stats::VM;
    const NAME: &'static CStr = c_str!("kvm-vm-stats");
}

impl Subject for OfVcpu {
    const TABLE: &'static Table = &stats::VCPU;
    const NAME: &'static CStr = c_str!("kvm-vcpu-stats");
}

/// The counters of a VM.
pub(crate) type VmStats = Counters<OfVm, { stats::VM.nr_words() }>;
/// The counters of a vCPU.
pub(crate) type VcpuStats = Counters<OfVcpu, { stats::VCPU.nr_words() }>;

/// Counters: those of one [`Subject`].
pub(crate) struct Counters<S, const N: usize> {
    words: [Atomic<u64>; N],
    id: Id,
    subject: PhantomData<S>,
}

impl<S: Subject, const N: usize> Counters<S, N> {
    /// Makes counters at 0, for files that start with `id`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(id: Id) -> Result<Arc<Self>> {
        Arc::init(
            init!(Self {
                words <- pin_init::init_array_from_fn(|_| Atomic::new(0)),
                id,
                subject: PhantomData,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Makes a file for `KVM_GET_STATS_FD` and returns its fd. The file outlives the VM.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE` or `ENOMEM` as for any new file.
    pub(crate) fn open(this: &Arc<Self>) -> Result<isize> {
        let (fd, file) = anon_fd::create(this.clone())?;
        let number = fd.reserved_fd();
        fd.fd_install(file);
        // CAST: fds are below 2^31.
        Ok(number as isize)
    }

    /// Returns the value of `desc`, or its first where it has more.
    pub(super) fn value(&self, desc: &Desc) -> u64 {
        self.get(desc.first_word())
    }

    /// Sets the values of `desc` to 0. What the vCPU counts meanwhile may be lost, or come back.
    pub(super) fn clear(&self, desc: &Desc) {
        let words = self.words.iter().skip(desc.first_word());
        for word in words.take(desc.form().nr_words.into()) {
            word.store(0, Relaxed);
        }
    }

    /// Returns the value at `index`.
    fn get(&self, index: usize) -> u64 {
        self.words.get(index).map_or(0, context::peek)
    }
}

impl VmStats {
    /// Adds `amount` to `stat`, from any thread.
    #[inline]
    pub(crate) fn add(&self, stat: VmStat, amount: u64) {
        if let Some(word) = self.words.get(stat.word()) {
            word.fetch_add(amount, Relaxed);
        }
    }

    /// Adds 1 to `stat`.
    #[inline]
    pub(crate) fn inc(&self, stat: VmStat) {
        self.add(stat, 1);
    }
}

impl LeafCounter for VmStats {
    fn changed(&self, level: Level, delta: i64) {
        let stat = match level {
            Level::Pt => VmStat::Pages4k,
            Level::Pd => VmStat::Pages2m,
            Level::Pdpt => VmStat::Pages1g,
            Level::Pml4 | Level::Pml5 => return,
        };
        // CAST: modulo 2^64, as the counter is.
        self.add(stat, delta as u64);
    }
}

/// Changes are made by the thread that runs the vCPU only, so that they need no locked instruction.
impl VcpuStats {
    /// Adds `amount` to `stat`.
    #[inline]
    pub(crate) fn add(&self, stat: VcpuStat, amount: u64) {
        self.add_at(stat.word(), amount);
    }

    /// Adds 1 to `stat`.
    #[inline]
    pub(crate) fn inc(&self, stat: VcpuStat) {
        self.add(stat, 1);
    }

    /// Sets `stat`, a value of now.
    #[inline]
    pub(crate) fn set(&self, stat: VcpuStat, value: u64) {
        if let Some(word) = self.words.get(stat.word()) {
            context::poke(word, value);
        }
    }

    /// Counts `value` in the logarithmic histogram `stat`.
    #[inline]
    pub(crate) fn record(&self, stat: VcpuStat, value: u64) {
        self.add_at(stat.word() + stats::log_bucket(value, HISTOGRAM_BUCKETS), 1);
    }

    #[inline]
    fn add_at(&self, index: usize, amount: u64) {
        if let Some(word) = self.words.get(index) {
            context::poke(word, context::peek(word).wrapping_add(amount));
        }
    }
}

/// The number of buckets of each histogram.
const HISTOGRAM_BUCKETS: u16 = 32;

impl<S: Subject, const N: usize> FdOps for Counters<S, N> {
    const NAME: &'static CStr = S::NAME;
    const ACCESS: FileAccess = FileAccess::Read;

    fn read(this: ArcBorrow<'_, Self>, offset: usize, buf: &mut [u8]) -> Result<usize> {
        let file = File {
            table: S::TABLE,
            id: &this.id,
        };
        // CAST: an address-sized offset fits.
        Ok(file.read_at(offset as u64, buf, |index| this.get(index)))
    }
}
