// SPDX-License-Identifier: GPL-2.0

//! VMCS regions: which CPU each is loaded on, which is current, and what its fields hold.
//!
//! Invariants:
//!
//! - `Vmcs::cpu` is the CPU where the region may be active, or -1; while it is not -1, the region is
//!   on that CPU's list. Lists change only on their own CPU with interrupts off, so that the CPU's
//!   own emergency callback, the one reader that may interrupt, finds them whole.
//! - A region is freed after VMCLEAR, when `cpu` is -1.
//! - A shadow VMCS belongs to an ordinary one, its owner, whose VMCS link pointer may have its address. It
//!   is on no list: it may be active on the CPU where its owner may be, and is cleared with that. Between
//!   two entries of the owner it is current for a moment, and cleared before the owner is entered.
//! - `VmxCpu::current` is the region that VMPTRLD made current last on the CPU, or null.
//! - Where `Vmcs::known` has a slot, `Vmcs::values` holds what VMREAD would return, unless the VMCS has
//!   failed: then all slots are known.

use super::insn;
use crate::{
    bindings,
    context::{
        IrqsOff,
        PerCpu,
        PreemptOff, //
    },
    global::Global, //
};
use burrow_core::x86::{
    nested::{
        shadowed::CachedVmcs,
        vmcs12::FieldSet, //
    },
    vmx::field::{
        Encoding,
        Field,
        FieldKind,
        VmcsAccess,
        Width,
        GUEST_RIP,
        NR_SLOTS,
        VM_ENTRY_INTR_INFO_FIELD, //
    },
};
use core::{
    cell::Cell,
    ffi::c_void,
    ptr, //
};
use kernel::{
    page::Page,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        barrier::{
            smp_mb,
            Write, //
        },
        SetOnce, //
    },
};

/// What each CPU knows of the VMCSs on it.
pub(crate) struct VmxCpu {
    current: Cell<*const Vmcs>,
    first: Cell<*const Vmcs>,
    /// The number of the vCPU that was loaded last, or 0.
    last_vcpu: Cell<u64>,
}

// SAFETY: Touched only on the CPU it belongs to, with preemption off.
unsafe impl Send for VmxCpu {}
// SAFETY: As above.
unsafe impl Sync for VmxCpu {}

pub(super) static CPUS: Global<PerCpu<VmxCpu>> = Global::new();

/// Allocates the per-CPU state.
///
/// # Errors
///
/// `ENOMEM` when there is no memory.
pub(crate) fn init() -> Result {
    let cpus = PerCpu::new(|| VmxCpu {
        current: Cell::new(ptr::null()),
        first: Cell::new(ptr::null()),
        last_vcpu: Cell::new(0),
    })?;
    CPUS.populate(cpus)
}

/// Keeps vCPU number `vcpu`, which is loaded on this CPU, from running on what another taught the
/// branch predictor.
pub(crate) fn separate_vcpus(vcpu: u64, preempt: &PreemptOff) {
    let Some(cpus) = CPUS.get() else { return };
    if cpus.this(preempt).last_vcpu.replace(vcpu) != vcpu {
        // SAFETY: Only empties predictors, and only where the kernel found that to be of use.
        unsafe { bindings::burrow_switch_vcpu_barrier() };
    }
}

const WORDS: usize = NR_SLOTS.div_ceil(64);

/// In the first word of a region: it is that of a shadow VMCS.
const SHADOW_INDICATOR: u32 = 1 << 31;

/// The slots of fields that a VM exit may change: guest state and exit information.
const VOLATILE: [u64; WORDS] = volatile_slots();

const fn volatile_slots() -> [u64; WORDS] {
    let mut words = [0; WORDS];
    let mut encoding = 0;
    while encoding < 0x8000 {
        let field = Encoding(encoding);
        if let Some(slot) = field.slot() {
            if matches!(field.kind(), FieldKind::Guest | FieldKind::ReadOnly) {
                words[slot / 64] |= 1 << (slot % 64);
            }
        }
        encoding += 2;
    }
    words
}

/// Where the VM-entry interruption information is among the slots.
const ENTRY_INTR_INFO: usize = match VM_ENTRY_INTR_INFO_FIELD.encoding().slot() {
    Some(slot) => slot,
    None => panic!("every field that is named has a slot"),
};

/// The valid bit of the VM-entry interruption information, which a VM exit clears.
const ENTRY_INTR_VALID: u64 = 1 << 31;

/// A VMCS region with a cache of its fields' values.
///
/// A field is read from the processor at most once per exit, and written only when its value changes.
pub struct Vmcs {
    _region: Page,
    /// The region's physical address, as VMPTRLD takes it.
    address: u64,
    cpu: Atomic<i32>,
    launched: Cell<bool>,
    failed: Cell<bool>,
    next: Cell<*const Vmcs>,
    prev: Cell<*const Vmcs>,
    shadow: SetOnce<KBox<Vmcs>>,
    known: [Cell<u64>; WORDS],
    values: [Cell<u64>; NR_SLOTS],
}

// SAFETY: The cells are touched by the owning vCPU's thread only, except for the list links, whose
// rule is the first invariant of the module.
unsafe impl Send for Vmcs {}
// SAFETY: As above.
unsafe impl Sync for Vmcs {}

impl Vmcs {
    /// Allocates a clear VMCS with revision identifier `revision`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub fn new(revision: u32) -> Result<KBox<Self>> {
        Self::with_header(revision)
    }

    /// Gives the VMCS a shadow VMCS, clear too, unless it has one.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub fn add_shadow(&self, revision: u32) -> Result {
        if self.shadow.as_ref().is_none() {
            self.shadow
                .populate(Self::with_header(revision | SHADOW_INDICATOR)?);
        }
        Ok(())
    }

    fn with_header(header: u32) -> Result<KBox<Self>> {
        let region = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
        // SAFETY: A page from the direct map.
        let address = unsafe { bindings::burrow_page_to_phys(region.as_ptr().cast()) };
        // SAFETY: Four bytes at offset 0 are inside the page, which nobody else has.
        unsafe { region.write_raw(header.to_le_bytes().as_ptr(), 0, 4)? };
        let vmcs = KBox::new(
            Self {
                _region: region,
                address,
                cpu: Atomic::new(-1),
                launched: Cell::new(false),
                failed: Cell::new(false),
                next: Cell::new(ptr::null()),
                prev: Cell::new(ptr::null()),
                shadow: SetOnce::new(),
                known: [const { Cell::new(0) }; WORDS],
                values: [const { Cell::new(0) }; NR_SLOTS],
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(vmcs)
    }

    /// Returns the physical address of the region.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Returns the shadow VMCS, if it has been given one.
    #[inline]
    pub fn shadow(&self) -> Option<&Vmcs> {
        self.shadow.as_ref().map(|shadow| &**shadow)
    }

    /// Makes the shadow VMCS current, calls `f` with it, and clears it, so that what `f` writes is in
    /// memory for the entry that links it; no VMCS is current then. Nothing happens if there is none.
    ///
    /// # Context
    ///
    /// The VMCS [is on](Self::is_on) this CPU.
    ///
    /// # Safety
    ///
    /// Only the thread of the vCPU may call, and must load a VMCS before preemption is on again.
    pub(crate) unsafe fn with_shadow(&self, preempt: &PreemptOff, f: impl FnOnce(CurrentVmcs<'_>)) {
        let (Some(cpus), Some(shadow)) = (CPUS.get(), self.shadow()) else {
            return;
        };
        if shadow.has_failed() || !self.is_on(preempt) {
            return;
        }
        cpus.this(preempt).current.set(ptr::null());
        // SAFETY: An initialised region that is active on no other CPU: its owner is on this.
        if unsafe { insn::vmptrld(&shadow.address) }.is_err() {
            shadow.fail();
            return;
        }
        // SAFETY: Current, and preemption is off until `f` returns.
        f(unsafe { CurrentVmcs::new(shadow) });
        // SAFETY: The region is active here.
        if unsafe { insn::vmclear(&shadow.address) }.is_err() {
            shadow.fail();
        }
    }

    /// Makes what is known of `fields` unknown, as the guest can write them.
    #[inline]
    pub fn forget(&self, fields: &FieldSet) {
        if self.has_failed() {
            return;
        }
        for (known, slots) in self.known.iter().zip(fields.words()) {
            known.set(known.get() & !slots);
        }
    }

    /// Makes the VMCS active and current on this CPU and returns whether it came from another.
    ///
    /// # Context
    ///
    /// Interrupts on: the CPU where the VMCS was may have to be asked to let go of it.
    ///
    /// # Safety
    ///
    /// The VMCS must stay at its address until it is dropped, and only its vCPU's thread may call.
    pub(crate) unsafe fn load(&self, preempt: &PreemptOff) -> bool {
        let Some(cpus) = CPUS.get() else {
            return false;
        };
        let here = cpus.this(preempt);
        let cpu = preempt.cpu() as i32;
        let moved = self.cpu.load(Relaxed) != cpu;
        if moved {
            self.clear();
            let _irqs = IrqsOff::new(preempt);
            self.link(here);
            self.cpu.store(cpu, Relaxed);
        }
        // A VMCS whose VMCLEAR failed may be active on another CPU still: it is never made current.
        if !self.has_failed() && !ptr::eq(here.current.get(), self) {
            // SAFETY: An initialised region that is active on no other CPU: `clear()` saw to it.
            if unsafe { insn::vmptrld(&self.address) }.is_err() {
                self.fail();
            } else {
                here.current.set(self);
            }
        }
        moved
    }

    /// Makes the VMCS inactive, wherever it is, and clear.
    ///
    /// # Context
    ///
    /// Interrupts on.
    pub(crate) fn clear(&self) {
        // Acquire: see the unlinking on the other CPU before linking it here.
        let cpu = self.cpu.load(Acquire);
        if cpu < 0 {
            return;
        }
        // SAFETY: `clear_here` takes a VMCS; the call is over before this returns.
        unsafe {
            kernel::bindings::smp_call_function_single(
                cpu,
                Some(clear_here),
                ptr::from_ref(self).cast_mut().cast(),
                true,
            )
        };
    }

    fn link(&self, here: &VmxCpu) {
        let first = here.first.get();
        self.next.set(first);
        self.prev.set(ptr::null());
        if !first.is_null() {
            // SAFETY: Regions on the list are alive: they unlink themselves before they are freed.
            unsafe { (*first).prev.set(self) };
        }
        // An NMI from here on may follow the list (`emergency_clear()`): never to a link not written yet.
        smp_mb(Write);
        here.first.set(self);
    }

    fn unlink(&self, here: &VmxCpu) {
        let (next, prev) = (self.next.get(), self.prev.get());
        if prev.is_null() {
            here.first.set(next);
        } else {
            // SAFETY: As in `link()`.
            unsafe { (*prev).next.set(next) };
        }
        if !next.is_null() {
            // SAFETY: As in `link()`.
            unsafe { (*next).prev.set(prev) };
        }
    }

    /// Returns whether the VMCS is active on the current CPU: no other has to let go of it, or of its
    /// shadow VMCS, first.
    #[inline]
    pub fn is_on(&self, preempt: &PreemptOff) -> bool {
        // CAST: CPU numbers are below NR_CPUS.
        self.cpu.load(Relaxed) == preempt.cpu() as i32
    }

    /// Returns whether the VMCS has been entered since it was last cleared.
    #[inline]
    pub(crate) fn is_launched(&self) -> bool {
        self.launched.get()
    }

    /// Records that an entry succeeded: the VMCS is launched.
    #[inline]
    pub(crate) fn note_launch(&self) {
        self.launched.set(true);
    }

    /// Records an exit, or an entry that failed late: fields that the processor may have changed are
    /// unknown.
    #[inline]
    pub(crate) fn note_exit(&self) {
        for (known, volatile) in self.known.iter().zip(VOLATILE) {
            known.set(known.get() & !volatile);
        }
        // The exit of an entry that failed leaves the valid bit alone. Where it was clear, both
        // leave the field as it was.
        if self.values[ENTRY_INTR_INFO].get() & ENTRY_INTR_VALID != 0 {
            let word = &self.known[ENTRY_INTR_INFO / 64];
            word.set(word.get() & !(1 << (ENTRY_INTR_INFO % 64)));
        }
    }

    /// Returns whether a VMX instruction on this VMCS ever failed: a bug, the VM cannot go on.
    ///
    /// The VMCS may not be the current one then. From the first failure on fields are neither read (they
    /// stay as they were last known, or 0) nor written, so that no other VMCS is touched in its place, and
    /// [`enter`](super::enter::enter) refuses.
    #[inline]
    pub fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// Records a failure. With all fields known, none is read any more.
    #[cold]
    fn fail(&self) {
        self.failed.set(true);
        self.known.iter().for_each(|known| known.set(!0));
    }

    #[cold]
    fn note_failure(&self, encoding: Encoding) {
        if !self.has_failed() {
            pr_warn!("access to VMCS field {:#x} failed\n", encoding.0);
        }
        self.fail();
    }

    /// Reads the field of slot `slot`. Inlined: the slot is mostly a constant there.
    #[inline(always)]
    fn read_field(&self, encoding: Encoding, slot: usize) -> u64 {
        let (Some(known), Some(held)) = (self.known.get(slot / 64), self.values.get(slot)) else {
            self.note_failure(encoding);
            return 0;
        };
        let bit = 1 << (slot % 64);
        if known.get() & bit != 0 {
            return held.get();
        }
        match insn::vmread(encoding.0) {
            Ok(value) => {
                known.set(known.get() | bit);
                held.set(value);
                value
            }
            Err(_) => {
                self.note_failure(encoding);
                0
            }
        }
    }

    /// Writes the field of slot `slot`.
    #[inline(always)]
    fn write_field(&self, encoding: Encoding, slot: usize, value: u64) {
        let (Some(known), Some(held)) = (self.known.get(slot / 64), self.values.get(slot)) else {
            self.note_failure(encoding);
            return;
        };
        let bit = 1 << (slot % 64);
        if known.get() & bit != 0 && held.get() == value || self.has_failed() {
            return;
        }
        // SAFETY: Host-state fields are written by `hw` only, with the host's own state.
        if unsafe { insn::vmwrite(encoding.0, value) }.is_err() {
            self.note_failure(encoding);
        }
        known.set(known.get() | bit);
        held.set(value);
    }
}

impl Drop for Vmcs {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Clears the VMCS that `info` points to, on the CPU where it is.
///
/// # Safety
///
/// Called by the kernel only, with what it was registered with.
unsafe extern "C" fn clear_here(info: *mut c_void) {
    // SAFETY: `Vmcs::clear()` passes a VMCS that lives until the call is over.
    let vmcs = unsafe { &*info.cast::<Vmcs>() };
    // SAFETY: Calls of this kind run with interrupts, hence preemption, off.
    let preempt = unsafe { PreemptOff::assume() };
    let Some(cpus) = CPUS.get() else {
        return;
    };
    if vmcs.cpu.load(Relaxed) != preempt.cpu() as i32 {
        // The CPU went offline and came back, and cleared everything meanwhile.
        return;
    }
    clear_on(vmcs, cpus.this(&preempt));
}

fn clear_on(vmcs: &Vmcs, here: &VmxCpu) {
    if ptr::eq(here.current.get(), vmcs) {
        here.current.set(ptr::null());
    }
    // SAFETY: The region is active here, if anywhere.
    if unsafe { insn::vmclear(&vmcs.address) }.is_err() {
        vmcs.fail();
    }
    if let Some(shadow) = vmcs.shadow() {
        // SAFETY: As above: an entry of its owner may have made it active.
        if unsafe { insn::vmclear(&shadow.address) }.is_err() {
            shadow.fail();
        }
    }
    vmcs.unlink(here);
    vmcs.launched.set(false);
    // Release: whoever sees -1 sees the list without the VMCS.
    vmcs.cpu.store(-1, Release);
}

/// Clears every VMCS that is active on this CPU, which is about to leave VMX operation.
///
/// # Context
///
/// Interrupts off.
pub(crate) fn clear_all_here(preempt: &PreemptOff) {
    let Some(cpus) = CPUS.get() else {
        return;
    };
    let here = cpus.this(preempt);
    while !here.first.get().is_null() {
        // SAFETY: Regions on the list are alive.
        clear_on(unsafe { &*here.first.get() }, here);
    }
}

/// Writes every VMCS that is active on this CPU back to memory, in an emergency: another kernel may
/// take the machine over, and nothing may land in its memory later.
///
/// # Context
///
/// Interrupts off, possibly in an NMI; VMX on.
///
/// # Safety
///
/// Called by the kernel only, with what it was registered with.
pub(crate) unsafe extern "C" fn emergency_clear() {
    // SAFETY: Interrupts are off, by contract.
    let preempt = unsafe { PreemptOff::assume() };
    let Some(cpus) = CPUS.get() else {
        return;
    };
    let mut vmcs = cpus.this(&preempt).first.get();
    while !vmcs.is_null() {
        // SAFETY: Regions on the list are alive.
        let this = unsafe { &*vmcs };
        // SAFETY: Active here; a failure cannot be helped now.
        let _ = unsafe { insn::vmclear(&this.address) };
        if let Some(shadow) = this.shadow() {
            // SAFETY: As above.
            let _ = unsafe { insn::vmclear(&shadow.address) };
        }
        vmcs = this.next.get();
    }
}

/// The VMCS that is current on this CPU, whichever CPU that is: while this exists, the vCPU's preempt
/// notifier makes the VMCS current again whenever the thread is scheduled in.
#[derive(Clone, Copy)]
pub struct CurrentVmcs<'a> {
    vmcs: &'a Vmcs,
    _not_send: kernel::types::NotThreadSafe,
}

impl<'a> CurrentVmcs<'a> {
    /// # Safety
    ///
    /// `vmcs` must be, and stay for `'a`, the one that the current thread's preempt notifier loads; or be
    /// current, with preemption off for `'a`.
    pub(crate) unsafe fn new(vmcs: &'a Vmcs) -> Self {
        Self {
            vmcs,
            _not_send: kernel::types::NotThreadSafe,
        }
    }

    /// Returns the VMCS.
    #[inline]
    pub fn vmcs(&self) -> &'a Vmcs {
        self.vmcs
    }

    /// Returns the value of `field`.
    #[inline]
    pub fn get<W: Width>(&self, field: Field<W>) -> W::Value {
        W::from_raw(self.vmcs.read_field(field.encoding(), field.slot()))
    }

    /// Sets `field` to `value`.
    #[inline]
    pub fn set<W: Width>(&self, field: Field<W>, value: W::Value) {
        self.vmcs
            .write_field(field.encoding(), field.slot(), W::into_raw(value));
    }
}

impl VmcsAccess for CurrentVmcs<'_> {
    #[inline]
    fn read_raw(&self, encoding: Encoding) -> u64 {
        self.read_slot(encoding, slot_of(encoding))
    }

    #[inline]
    fn write_raw(&mut self, encoding: Encoding, value: u64) {
        self.write_slot(encoding, slot_of(encoding), value);
    }

    #[inline]
    fn read_slot(&self, encoding: Encoding, slot: usize) -> u64 {
        self.vmcs.read_field(encoding, slot)
    }

    #[inline]
    fn write_slot(&mut self, encoding: Encoding, slot: usize, value: u64) {
        self.vmcs.write_field(encoding, slot, value);
    }
}

impl CurrentVmcs<'_> {
    /// Has `write` write many fields of guest state, most of which hold other values or unknown ones: the
    /// values go to the processor without a look at what is known, and with one check for all.
    ///
    /// Every processor must have the fields. Then a VMWRITE can fail only for lack of a current VMCS, and
    /// so does the VMREAD that comes last.
    #[inline]
    pub fn overwrite(&self, write: impl FnOnce(&mut Overwrite<'_>)) {
        if self.vmcs.has_failed() {
            return;
        }
        write(&mut Overwrite(self.vmcs));
        if insn::vmread(GUEST_RIP.encoding().0).is_err() {
            self.vmcs.note_failure(GUEST_RIP.encoding());
        }
    }
}

/// The current VMCS within [`CurrentVmcs::overwrite`].
pub struct Overwrite<'a>(&'a Vmcs);

impl VmcsAccess for Overwrite<'_> {
    #[inline]
    fn read_raw(&self, encoding: Encoding) -> u64 {
        self.0.read_field(encoding, slot_of(encoding))
    }

    #[inline]
    fn write_raw(&mut self, encoding: Encoding, value: u64) {
        self.write_slot(encoding, slot_of(encoding), value);
    }

    #[inline(always)]
    fn write_slot(&mut self, encoding: Encoding, slot: usize, value: u64) {
        let (Some(known), Some(held)) = (self.0.known.get(slot / 64), self.0.values.get(slot))
        else {
            self.0.note_failure(encoding);
            return;
        };
        // SAFETY: Fields of guest state, which no exit goes by.
        unsafe { insn::vmwrite_unchecked(encoding.0, value) };
        known.set(known.get() | 1 << (slot % 64));
        held.set(value);
    }
}

impl CachedVmcs for CurrentVmcs<'_> {
    #[inline]
    fn forget(&mut self, fields: &FieldSet) {
        self.vmcs.forget(fields);
    }
}

/// Returns the slot of a field, or one that there is not.
fn slot_of(encoding: Encoding) -> usize {
    encoding.slot().unwrap_or(NR_SLOTS)
}

/// A page into which the processor logs 512 addresses.
pub struct LogPage(ControlPage);

impl LogPage {
    /// Allocates an empty one.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub fn new() -> Result<Self> {
        Ok(Self(ControlPage::new()?))
    }

    /// Returns the physical address.
    pub fn address(&self) -> u64 {
        self.0.address()
    }

    /// Returns entry `index`, 0 to 511.
    #[inline]
    pub fn entry(&self, index: u16) -> u64 {
        let entry = self
            .0
            .words
            .cast::<u64>()
            .wrapping_add(usize::from(index % 512));
        // SAFETY: Within the page, by the type's invariant; volatile, as the processor writes it.
        unsafe { entry.read_volatile() }
    }
}

/// A zeroed page that a VMCS points to: an MSR bitmap, say.
///
/// Invariant: `words` is the page in the direct map, owned by the value.
pub struct ControlPage {
    _page: Page,
    address: u64,
    words: *mut [u64; 512],
}

// SAFETY: Plain memory; all changes need `&mut self`.
unsafe impl Send for ControlPage {}
// SAFETY: As above.
unsafe impl Sync for ControlPage {}

impl ControlPage {
    /// Allocates a page of zeroes.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub fn new() -> Result<Self> {
        let page = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
        // SAFETY: A page from the direct map.
        let address = unsafe { bindings::burrow_page_to_phys(page.as_ptr().cast()) };
        // SAFETY: As above.
        let words = unsafe { bindings::burrow_page_address(page.as_ptr().cast()) }.cast();
        Ok(Self {
            _page: page,
            address,
            words,
        })
    }

    /// Returns the physical address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Returns the contents.
    pub fn words(&self) -> &[u64; 512] {
        // SAFETY: By the type's invariant; the processor only reads it.
        unsafe { &*self.words }
    }

    /// Returns the contents, to be changed. The processor may see a change at once.
    pub fn words_mut(&mut self) -> &mut [u64; 512] {
        // SAFETY: As above, and `self` is borrowed exclusively.
        unsafe { &mut *self.words }
    }
}
