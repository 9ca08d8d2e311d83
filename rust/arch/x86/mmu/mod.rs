// SPDX-License-Identifier: GPL-2.0

//! Guest memory: the slots of a VM, the EPT that maps them, and copies in and out.
//!
//! [`GuestMemory`] is the whole of it. Guest frames are mapped on demand ([`fault`]), by pages of
//! the VMM's address space, and taken back when the host says so ([`age`]).
//!
//! # Locks
//!
//! From the outermost to the innermost:
//!
//! 1. the mutex of the slots ([`Memslots`]): changes of slots, dirty logs;
//! 2. the read side of the slots' SRCU: may be held while sleeping, but not while taking 1;
//! 3. the host's `mmap_lock`, reverse-map and page-table locks: taken by what [`fault`] and copies
//!    call, and held by the host when it calls a notifier;
//! 4. `mmu_lock`, the spinlock around [`root::Mmu`]: entries of the EPT, the notifier's sequence.
//!    Nothing sleeps under it, and no user memory is touched;
//! 5. what [`RemoteFlush`] takes.
//!
//! # The race with the host
//!
//! A fault looks up the host's page without a lock that would keep it there. So it reads
//! [`root::Mmu::sequence`] first; the host, before it changes an address, raises
//! `invalidate_start`, which zaps the address and forbids new mappings of it, and after the change
//! `invalidate_end`, which moves the sequence on, if a slot has memory there. The fault installs
//! what it found only if, under `mmu_lock`, the address is not forbidden and the sequence is still
//! the one it read; then either the page is still right, or the `invalidate_start` that makes it
//! wrong comes after and finds the entry.
//!
//! TLBs are flushed before `mmu_lock` is let go wherever an entry was removed: who finds an entry
//! absent under the lock may conclude that no vCPU uses it.
//!
//! [`RemoteFlush`]: crate::vm::flush::RemoteFlush

mod access;
mod age;
mod fault;
mod log;
mod map;
mod root;
mod shadow;
mod target;
mod zap;

pub(crate) use access::GuestEntries;
pub(crate) use fault::Fault;
pub(crate) use shadow::{
    ShadowFault, //
    ShadowId,
};

use crate::vm::{
    dirty::{
        Initially,
        NewLog, //
    },
    flush::RemoteFlush,
    memslots::{
        Applied,
        Locked,
        Memslots, //
    },
    ring::DirtyRings,
    stats::VmStats, //
};
use burrow_core::{
    addr::{
        Gfn,
        Level, //
    },
    memslot::{
        Limits,
        RawRegion,
        SlotFlags,
        SlotView, //
    },
    stats::VmStat,
    x86::{
        ept::{
            EptFeatures,
            Eptp, //
        },
        tdp::DirtyLog,
        vmx::caps::EptVpidCap, //
    },
};
use burrow_sys::{
    context,
    guest_mem::{
        self,
        Creator, //
    },
    mmu_notifier::Registration,
    pt_page::{
        FlushToken,
        LeafCounter,
        Pace,
        Table, //
    },
};
use core::pin::Pin;
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed,
            Release, //
        },
        Arc,
        SetOnce,
        SpinLock, //
    },
};
use root::{
    Debt,
    Mmu, //
};

/// What guest memory is built for.
#[derive(Clone, Copy)]
pub(crate) struct Config {
    /// What the processor's EPT can do, and which of it is used.
    pub(crate) features: EptFeatures,
    /// The level of the root table.
    pub(crate) root_level: Level,
    /// How writes are tracked in slots that are logged; never [`DirtyLog::Off`].
    pub(crate) log: DirtyLog,
    /// `KVM_CAP_MULTI_ADDRESS_SPACE`.
    pub(crate) nr_address_spaces: u16,
}

impl Config {
    /// Makes the configuration for a processor: what it offers, the width of its physical addresses
    /// in bits, whether "mode-based execute control for EPT" is in use, and how writes are tracked.
    pub(crate) fn new(
        cap: EptVpidCap,
        maxphyaddr: u8,
        mode_based_execute: bool,
        log: DirtyLog,
    ) -> Self {
        let features = EptFeatures {
            execute_only: cap.exec_only(),
            page_2m: cap.pages_2m(),
            page_1g: cap.pages_1g(),
            accessed_dirty: cap.accessed_dirty(),
            mode_based_execute,
            walk_4: cap.four_levels(),
            walk_5: cap.five_levels(),
            uncacheable: cap.uncacheable(),
            write_back: cap.write_back(),
            physical_address_bits: maxphyaddr,
        };
        // Four levels translate 48 bits, and are one access less on every walk.
        let root_level = if features.walk_5 && maxphyaddr > 48 {
            Level::Pml5
        } else {
            Level::Pml4
        };
        Self {
            features,
            root_level,
            log,
            nr_address_spaces: NR_ADDRESS_SPACES,
        }
    }

    /// The highest frame that the guest can address.
    fn max_gfn(&self) -> Gfn {
        let reach = match self.root_level {
            Level::Pml5 => 57,
            _ => 48,
        };
        let bits = self.features.physical_address_bits.clamp(32, reach);
        Gfn(!(u64::MAX << bits) >> 12)
    }
}

/// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`: `KVM_GET_DIRTY_LOG` does not clear.
pub(crate) const MANUAL_PROTECT_ENABLE: u32 = 1 << 0;
/// With it: bitmaps start all dirty, and nothing is protected until it is cleared.
pub(crate) const MANUAL_PROTECT_INITIALLY_SET: u32 = 1 << 1;

/// `KVM_CAP_MULTI_ADDRESS_SPACE`: the memory of the VM, and that of system-management mode.
pub(crate) const NR_ADDRESS_SPACES: u16 = 2;

/// Frames that are zapped at a time, a power of 2: how long `mmu_lock` is held.
const ZAPPED_AT_A_TIME: u64 = Level::Pdpt.pages();

/// The memory of a VM.
///
/// Its methods are called by tasks of the address space that created it (see
/// [`is_creator`](Self::is_creator)), unless they say otherwise. Dropped when no vCPU is left.
pub(crate) struct GuestMemory {
    /// Goes first: waits for callbacks, and no new ones come.
    _registration: Pin<KBox<Registration<Shared>>>,
    shared: Arc<Shared>,
    creator: Creator,
}

/// What notifier callbacks use too.
#[pin_data]
struct Shared {
    #[pin]
    slots: Memslots,
    /// `mmu_lock`.
    #[pin]
    mmu: SpinLock<Mmu>,
    flush: Arc<dyn RemoteFlush>,
    stats: Arc<VmStats>,
    /// The same, as tables know it.
    counter: Arc<dyn LeafCounter>,
    config: Config,
    eptp: Eptp,
    /// Where writes are logged, if it is in rings.
    rings: SetOnce<Arc<dyn DirtyRings>>,
    /// `MANUAL_PROTECT_*`.
    manual_protect: Atomic<u32>,
    /// See [`GuestMemory::epoch`].
    epoch: Atomic<u64>,
    /// The vCPUs' CPUs log writes.
    cpu_logs: Atomic<bool>,
}

impl GuestMemory {
    /// Makes the memory, without slots, of a VM of the current address space. `flush` makes its
    /// vCPUs forget translations; `stats` are the VM's.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory, `EINTR` when a signal is pending, `EINVAL` for a kernel
    /// thread.
    pub(crate) fn new(
        flush: Arc<dyn RemoteFlush>,
        stats: Arc<VmStats>,
        config: Config,
    ) -> Result<Self> {
        let creator = Creator::current()?;
        let task = kernel::current!();
        let mm = task.mm().ok_or(EINVAL)?;
        let counter: Arc<dyn LeafCounter> = stats.clone();
        let root = Table::new(config.root_level, &counter)?;
        let eptp = Eptp::new(root.pfn(), config.root_level, &config.features);
        let limits = Limits {
            flags: SlotFlags(0).with_log_dirty(true).with_readonly(true),
            nr_address_spaces: config.nr_address_spaces,
            max_hva_end: guest_mem::user_end(),
            max_gfn: config.max_gfn(),
        };
        let slots = Memslots::new(limits)?;
        let shared = Arc::pin_init(
            try_pin_init!(Shared {
                slots <- slots,
                mmu <- new_spinlock!(Mmu::new(root, config.features), "kvm_mmu_lock"),
                flush,
                stats,
                counter,
                config,
                eptp,
                rings: SetOnce::new(),
                manual_protect: Atomic::new(0),
                epoch: Atomic::new(0),
                cpu_logs: Atomic::new(false),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let registration = Registration::new(mm, shared.clone());
        Ok(Self {
            _registration: KBox::pin_init(registration, GFP_KERNEL_ACCOUNT)?,
            shared,
            creator,
        })
    }

    /// Returns whether the current task runs in the address space that the VM was created in; ioctls
    /// from another fail with `EIO`.
    #[inline]
    pub(crate) fn is_creator(&self) -> bool {
        self.creator.is_current()
    }

    /// Returns the EPT pointer.
    ///
    /// The root table may be a page that was another VM's root: a vCPU flushes the context of this
    /// EPTP before it first uses it on a CPU.
    #[inline]
    pub(crate) fn eptp(&self) -> u64 {
        self.shared.eptp.0
    }

    /// Sets what `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` was enabled with: `MANUAL_PROTECT_*`.
    ///
    /// # Errors
    ///
    /// `EINVAL` for other bits, and for "initially set" alone.
    pub(crate) fn set_manual_protect(&self, flags: u64) -> Result {
        const ALL: u32 = MANUAL_PROTECT_ENABLE | MANUAL_PROTECT_INITIALLY_SET;
        let flags = u32::try_from(flags).map_err(|_| EINVAL)?;
        if flags & !ALL != 0 || flags == MANUAL_PROTECT_INITIALLY_SET {
            return Err(EINVAL);
        }
        self.shared.manual_protect.store(flags, Relaxed);
        Ok(())
    }

    /// Takes what `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` was enabled with over from the VM's `other` memory.
    pub(crate) fn copy_manual_protect(&self, other: &Self) {
        let flags = other.shared.manual_protect.load(Relaxed);
        self.shared.manual_protect.store(flags, Relaxed);
    }

    /// Creates, moves, deletes or changes the flags of a slot: `KVM_SET_USER_MEMORY_REGION`.
    ///
    /// vCPUs may run meanwhile; on return they have nothing mapped of what was removed or moved.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the region breaks a rule, `EEXIST` where it overlaps another slot, `ENOMEM`
    /// when there is no memory.
    pub(crate) fn set_region(&self, region: &RawRegion) -> Result {
        let shared = &self.shared;
        let log = shared.new_log();
        let mut slots = shared.slots.lock();
        if SlotFlags(region.flags).log_dirty() {
            // No page of the slot may be mapped before, or its first write would go unseen.
            shared.set_cpu_logs(true);
        }
        let result = shared.apply(&mut slots, region, &log);
        shared.set_cpu_logs(slots.read().has_logged());
        result
    }
}

impl Shared {
    /// Returns what a slot that is logged from now on gets.
    fn new_log(&self) -> NewLog {
        let flags = self.manual_protect.load(Relaxed);
        match self.rings.as_ref() {
            Some(rings) => NewLog::Rings(rings.clone()),
            None if flags & MANUAL_PROTECT_INITIALLY_SET != 0 => NewLog::Bitmap(Initially::Dirty),
            None => NewLog::Bitmap(Initially::Clean),
        }
    }

    /// Makes the change, under the lock of the slots.
    fn apply(&self, slots: &mut Locked<'_>, region: &RawRegion, log: &NewLog) -> Result {
        let applied = slots.set_region(region, log);
        self.next_epoch();
        match applied? {
            Applied::Nothing => Ok(()),
            Applied::Going(slot, edit) => {
                self.zap(slot.base_gfn(), slot.npages());
                let finished = slots.finish(&edit);
                self.next_epoch();
                finished
            }
            Applied::LogStarted(slot) => {
                if log.starts_clean() {
                    self.protect(slot.base_gfn(), slot.npages());
                } else {
                    // Pages are protected when they are cleared in the log, but not in shadows that do
                    // not know them as logged.
                    self.locked(|mmu, debt| mmu.empty_shadows(debt));
                }
                Ok(())
            }
            Applied::LogStopped(slot) => {
                // Small mappings give way, so that huge ones can come back.
                self.zap(slot.base_gfn(), slot.npages());
                Ok(())
            }
        }
    }

    /// Runs `f` under `mmu_lock`, and pays what it owes.
    fn locked<R>(&self, f: impl FnOnce(&mut Mmu, &mut Debt) -> R) -> R {
        self.locked_with(Pace::AtOnce, f)
    }

    /// As [`locked`](Self::locked); `pace` is that of the payment, which may have many tables to free.
    fn locked_with<R>(&self, pace: Pace, f: impl FnOnce(&mut Mmu, &mut Debt) -> R) -> R {
        let mut debt = Debt::default();
        let mut mmu = self.mmu.lock();
        let result = f(&mut mmu, &mut debt);
        if !debt.is_due() {
            return result;
        }
        let token = FlushToken::after(|| self.flush_tlbs());
        drop(mmu);
        debt.retired.free(&token, pace);
        result
    }

    /// Ends the epoch: see [`GuestMemory::epoch`].
    fn next_epoch(&self) {
        self.epoch.fetch_add(1, Release);
    }

    /// Makes every vCPU forget translations, and counts it.
    fn flush_tlbs(&self) {
        self.stats.inc(VmStat::RemoteTlbFlushRequests);
        if self.flush.flush_all() {
            self.stats.inc(VmStat::RemoteTlbFlush);
        }
    }

    /// Allocates a table of `level`.
    fn new_table(&self, level: Level) -> Result<KBox<Table>> {
        Table::new(level, &self.counter)
    }

    /// Removes every mapping of the `npages` frames from `start`, piece by piece.
    ///
    /// # Context
    ///
    /// Sleeps.
    fn zap(&self, start: Gfn, npages: u64) {
        let end = start.0.saturating_add(npages);
        let mut from = start.0;
        while from < end {
            // Up to where the next table of 2-MiB pages begins: most of them go as a whole.
            let behind = (from | (ZAPPED_AT_A_TIME - 1)).saturating_add(1).min(end);
            self.locked_with(Pace::Yielding, |mmu, debt| {
                mmu.zap(Gfn(from), behind - from, debt);
            });
            context::cond_resched();
            from = behind;
        }
    }
}
