// SPDX-License-Identifier: GPL-2.0

//! The part of each vCPU that other threads use, and the set of them in a VM.
//!
//! It outlives the vCPU's fd: the VM keeps it until the VM itself goes, as a vCPU's id stays taken.

use crate::vm::{
    flush::RemoteFlush,
    kick::Kick,
    posted::Posted,
    ring::{
        DirtyRing,
        DirtyRings,
        Pushed,
        RingSize, //
    },
};
use burrow_core::{
    dirty::ring::Batch,
    memslot::SlotId,
    request::Request, //
};
use burrow_sys::timer::OnExpiry;
use core::pin::Pin;
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SetOnce,
        SpinLockIrq, //
    },
};

/// What others know of a vCPU.
#[pin_data]
pub(crate) struct VcpuShared {
    /// The id that userspace gave: the vCPU's initial APIC ID.
    pub(crate) id: u32,
    /// The position in order of creation.
    pub(crate) index: u32,
    /// Requests and kicks.
    #[pin]
    pub(crate) kick: Kick,
    /// Interrupts on their way.
    pub(crate) posted: Posted,
    /// How the local APIC can be addressed, packed; 0 is not at all.
    identity: Atomic<u64>,
    /// The dirty ring, where the VM logs in rings.
    ring: SetOnce<Pin<KBox<DirtyRing>>>,
    /// The thread that has the vCPU loaded, if the VM logs in rings; 0 for none.
    loaded_by: Atomic<u32>,
}

impl VcpuShared {
    fn new(id: u32, index: u32) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                id,
                index,
                kick <- Kick::new(),
                posted: Posted::default(),
                identity: Atomic::new(0),
                ring: SetOnce::new(),
                loaded_by: Atomic::new(0),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }
}

impl VcpuShared {
    /// Returns how the local APIC can be addressed, as it was published last.
    #[inline]
    pub(crate) fn identity(&self) -> u64 {
        self.identity.load(Relaxed)
    }

    /// Gives the vCPU a dirty ring.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn make_ring(&self, size: RingSize) -> Result {
        self.ring.populate(DirtyRing::new(size)?);
        Ok(())
    }

    /// Returns the dirty ring, if there is one.
    pub(crate) fn ring(&self) -> Option<&DirtyRing> {
        self.ring.as_ref().map(|ring| &**ring)
    }

    /// Notes that the current thread has the vCPU loaded, until the answer is dropped: what it writes goes
    /// into the dirty ring, if there is one.
    #[inline]
    pub(crate) fn loaded(&self) -> Option<LoadedBy<'_>> {
        self.ring.as_ref()?;
        self.loaded_by.store(current_thread(), Relaxed);
        Some(LoadedBy(self))
    }

    /// Publishes how the local APIC can be addressed. Called by the vCPU.
    pub(crate) fn set_identity(&self, packed: u64) {
        self.identity.store(packed, Relaxed);
    }
}

/// A note of who has a vCPU loaded.
pub(crate) struct LoadedBy<'a>(&'a VcpuShared);

impl Drop for LoadedBy<'_> {
    fn drop(&mut self) {
        self.0.loaded_by.store(0, Relaxed);
    }
}

fn current_thread() -> u32 {
    // CAST: ids of threads are positive.
    kernel::current!().pid() as u32
}

impl OnExpiry for VcpuShared {
    fn expired(&self, _times: u64) {
        self.posted.post_timer();
        self.kick.kick();
    }
}

/// Wakes a vCPU that sleeps.
pub(crate) struct Alarm(pub(crate) Arc<VcpuShared>);

impl OnExpiry for Alarm {
    fn expired(&self, _times: u64) {
        self.0.kick.request(Request::Unblock);
    }
}

/// The vCPUs of a VM, in order of creation.
///
/// The list itself is never changed, but replaced: who takes a reference to it can go through it with
/// interrupts on.
#[pin_data]
pub(crate) struct Vcpus {
    #[pin]
    list: SpinLockIrq<Arc<List>>,
}

pub(crate) type List = KVec<Arc<VcpuShared>>;

/// A vCPU that was added.
pub(crate) struct Added {
    /// The vCPU.
    pub(crate) shared: Arc<VcpuShared>,
    /// What takes the addition back, without an allocation: see [`Vcpus::undo`].
    pub(crate) before: Arc<List>,
}

/// The most vCPUs that a VM can have: `KVM_CAP_MAX_VCPUS`.
pub(crate) const MAX_VCPUS: usize = 1024;
/// Ids are below this: `KVM_CAP_MAX_VCPU_ID`.
pub(crate) const MAX_VCPU_ID: u32 = 4096;

impl Vcpus {
    /// Makes an empty set.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let list = Arc::new(KVec::new(), GFP_KERNEL_ACCOUNT)?;
        Arc::pin_init(
            pin_init!(Self { list <- new_spinlock_irq!(list, "kvm_vcpus") }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Adds a vCPU with `id`. The caller serialises additions.
    ///
    /// # Errors
    ///
    /// `EINVAL` when the VM is full or the id too large, `EEXIST` when the id is taken, `ENOMEM` when
    /// there is no memory.
    pub(crate) fn add(&self, id: u32) -> Result<Added> {
        if id >= MAX_VCPU_ID {
            return Err(EINVAL);
        }
        let count = self.len();
        if count >= MAX_VCPUS {
            return Err(EINVAL);
        }
        if self.find(id).is_some() {
            return Err(EEXIST);
        }
        // CAST: below MAX_VCPUS.
        let shared = VcpuShared::new(id, count as u32)?;
        let mut grown = KVec::with_capacity(count + 1, GFP_KERNEL_ACCOUNT)?;
        for vcpu in Iterator::chain(self.snapshot().iter(), [&shared]) {
            grown.push(vcpu.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        let grown = Arc::new(grown, GFP_KERNEL_ACCOUNT)?;
        let before = core::mem::replace(&mut *self.list.lock(), grown);
        Ok(Added { shared, before })
    }

    /// Takes back the addition that was made last, as the vCPU's creation failed half way.
    pub(crate) fn undo(&self, before: Arc<List>) {
        let removed = core::mem::replace(&mut *self.list.lock(), before);
        drop(removed);
    }

    /// Returns the list of now.
    fn snapshot(&self) -> Arc<List> {
        self.list.lock().clone()
    }

    /// Takes back what userspace has harvested from the rings of all vCPUs, and hands it to `reset` in
    /// batches; returns the number of entries. The caller serialises resets.
    ///
    /// # Errors
    ///
    /// `EINTR` when a signal is pending.
    pub(crate) fn reset_rings(&self, mut reset: impl FnMut(&Batch)) -> Result<usize> {
        let mut count = 0;
        for vcpu in self.snapshot().iter() {
            if let Some(ring) = vcpu.ring() {
                count += ring.reset(&mut reset)?;
            }
        }
        Ok(count)
    }

    /// Returns how many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.lock().len()
    }

    /// Returns the vCPU with `id`.
    pub(crate) fn find(&self, id: u32) -> Option<Arc<VcpuShared>> {
        self.list.lock().iter().find(|vcpu| vcpu.id == id).cloned()
    }

    /// Calls `f` with all vCPUs, with interrupts off.
    pub(crate) fn with_all<R>(&self, f: impl FnOnce(&[Arc<VcpuShared>]) -> R) -> R {
        f(&self.list.lock())
    }

    /// Calls `f` with each vCPU, with interrupts off.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&Arc<VcpuShared>)) {
        for vcpu in self.list.lock().iter() {
            f(vcpu);
        }
    }

    /// Makes `request` of every vCPU.
    pub(crate) fn request_all(&self, request: Request) {
        self.for_each(|vcpu| vcpu.kick.request(request));
    }
}

impl Vcpus {
    /// Makes `request` of every vCPU, if any, and waits until none is in the guest that has not seen it.
    /// Returns whether any was.
    fn expel_all(&self, request: Option<Request>) -> bool {
        // A vCPU that is created from here on has nothing cached. Interrupts stay on while others are
        // waited for.
        let list = self.snapshot();
        let mut any = false;
        for vcpu in list.iter() {
            if let Some(request) = request {
                vcpu.kick.request_quietly(request);
            }
            any |= vcpu.kick.exit_guest();
        }
        for vcpu in list.iter() {
            // A vCPU in the guest leaves on the interrupt just sent, and sees the request before it
            // enters again. It needs nothing of this CPU for that, so spinning here ends.
            while vcpu.kick.is_exiting() {
                core::hint::spin_loop();
            }
        }
        any
    }
}

impl DirtyRings for Vcpus {
    fn push(&self, slot: SlotId, offset: u64) {
        let thread = current_thread();
        let list = self.list.lock();
        let mut vcpus = list.iter();
        let writer = vcpus.find(|vcpu| vcpu.loaded_by.load(Relaxed) == thread);
        // What an ioctl of the VM writes goes into the first vCPU's.
        let Some(vcpu) = writer.or(list.first()) else {
            return;
        };
        let pushed = vcpu.ring().map(|ring| ring.push(slot, offset));
        if pushed == Some(Pushed::SoftFull) {
            vcpu.kick.request_quietly(Request::DirtyRingSoftFull);
        }
    }
}

impl RemoteFlush for Vcpus {
    fn flush_all(&self) -> bool {
        self.expel_all(Some(Request::TlbFlush))
    }

    fn exit_all(&self) {
        self.expel_all(None);
    }

    fn logging_changed(&self) {
        self.expel_all(Some(Request::DirtyLoggingChanged));
    }
}
