// SPDX-License-Identifier: GPL-2.0

//! What a vCPU keeps for a guest hypervisor. Data only.

use crate::{
    arch::x86::{
        mmu::ShadowId,
        nested::shadow::Shadowing, //
    },
    host::host, //
};
use burrow_core::{
    addr::Gpa,
    vpid,
    x86::{
        msrbitmap,
        nested::{
            caps::{
                self,
                Emulated, //
            },
            check::Env,
            merge::L0,
            pool::Pool,
            state::State,
            vmcs12::{
                FieldSet,
                Vmcs12,
                REGION_SIZE, //
            },
        },
        regs::Cr4,
        vmx::{
            caps::{
                Controls,
                VmxCaps, //
            },
            ctls::Proc2Ctls, //
        },
    },
};
use burrow_sys::{
    guest_mem::PinnedPage,
    params,
    x86::vmcs::ControlPage, //
};
use kernel::prelude::*;

/// How many vmcs02s a vCPU keeps.
pub(crate) const NR_SLOTS: usize = 2;

/// What belongs to one vmcs02.
pub(crate) struct Slot {
    /// The merged MSR bitmap, and what is known of the last merge into it.
    pub(crate) msr_bitmap: ControlPage,
    pub(crate) bitmap_merge: msrbitmap::Merged,
    /// The VPID; in [`VcpuArch`](crate::arch::x86::state::VcpuArch) while L2 runs, and L1's here.
    pub(crate) vpid: vpid::Holder,
    /// The shadow of L1's EPT, once there is one, and what it is of.
    pub(crate) shadow: Option<(ShadowId, ShadowOf)>,
    /// Host state and constants are in the vmcs02.
    pub(crate) is_made: bool,
    /// What the vmcs02 was last merged with; `None` if it holds another vmcs12.
    pub(crate) merged: Option<L0>,
    /// What an entry was made with last; `None` where the next one must look at everything.
    pub(crate) last: Option<LastEntry>,
    /// Pages of L1 that the processor uses while this vmcs02 is entered.
    pub(crate) pages: PinnedPages,
}

/// What the mappings of a shadow were made from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShadowOf {
    /// L1's EPT pointer.
    pub(crate) eptp: u64,
    /// With mode-based execute control, by which the same tables mean something else.
    pub(crate) is_mode_based: bool,
}

/// What an entry depends on besides vmcs12 and what its pages hold.
#[derive(Clone, Copy)]
pub(crate) struct EntryInputs {
    pub(crate) ctls: Controls,
    pub(crate) exception_bitmap: u32,
    pub(crate) tsc_offset: u64,
    pub(crate) tsc_multiplier: u64,
    pub(crate) efer: u64,
    pub(crate) pat: u64,
    pub(crate) dr7: u64,
    pub(crate) debugctl: u64,
    /// Of the guest's memory.
    pub(crate) epoch: u64,
}

impl EntryInputs {
    /// Returns whether all are the same, without a branch for each.
    #[inline]
    pub(crate) fn are(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.words(), other.words());
        let differences = ours.iter().zip(theirs).map(|(a, b)| a ^ b);
        differences.fold(0, |all, difference| all | difference) == 0
    }

    #[inline]
    fn words(&self) -> [u64; 10] {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let Self {
            ctls,
            exception_bitmap,
            tsc_offset,
            tsc_multiplier,
            efer,
            pat,
            dr7,
            debugctl,
            epoch,
        } = *self;
        let Controls {
            pin,
            proc,
            proc2,
            exit,
            entry,
        } = ctls;
        [
            epoch,
            debugctl,
            dr7,
            pat,
            efer,
            tsc_multiplier,
            tsc_offset,
            pair(pin.0, proc.0),
            pair(proc2.0, exit.0),
            pair(entry.0, exception_bitmap),
        ]
    }
}

/// An entry that can be repeated as long as its inputs stay the same and L1 changes nothing.
#[derive(Clone, Copy)]
pub(crate) struct LastEntry {
    pub(crate) inputs: EntryInputs,
    /// The controls of vmcs02.
    pub(crate) ctls: Controls,
}

/// A page of L1, pinned.
pub(crate) struct Pinned {
    /// Its guest-physical address, and the epoch of the memory that this holds for.
    pub(crate) gpa: u64,
    pub(crate) epoch: u64,
    pub(crate) page: PinnedPage,
    /// Its slot is logged.
    pub(crate) is_logged: bool,
}

/// Pages of L1 that vmcs02 names.
#[derive(Default)]
pub(crate) struct PinnedPages {
    /// The virtual-APIC page.
    pub(crate) virtual_apic: Option<Pinned>,
    /// The APIC-access page.
    pub(crate) apic_access: Option<Pinned>,
    /// L1's MSR bitmap.
    pub(crate) msr_bitmap: Option<Pinned>,
}

impl Slot {
    fn new() -> Result<Self> {
        Ok(Self {
            msr_bitmap: ControlPage::new()?,
            bitmap_merge: msrbitmap::Merged::default(),
            vpid: vpid::Holder::new(),
            shadow: None,
            is_made: false,
            merged: None,
            last: None,
            pages: PinnedPages::default(),
        })
    }
}

/// What is L1's while L2 runs.
#[derive(Clone, Copy)]
pub(crate) struct L1State {
    /// The controls of vmcs01.
    pub(crate) ctls: Controls,
    /// CR4.
    pub(crate) cr4: Cr4,
}

/// A guest hypervisor's part of a vCPU.
pub(crate) struct Nested {
    /// The most that the capability MSRs can offer, what they do offer, and the fields that follow.
    pub(crate) offered: VmxCaps,
    pub(crate) caps: VmxCaps,
    pub(crate) fields: FieldSet,
    /// The VMX mode.
    pub(crate) state: State,
    /// The current vmcs12, if there is one; while L1 runs, without what it has written since to fields
    /// that are open to it.
    pub(crate) vmcs12: Vmcs12,
    /// Which those are, where the processor has VMCS shadowing and L1 is in VMX operation.
    pub(crate) shadowing: Option<KBox<Shadowing>>,
    /// While L2 runs with VMCS shadowing: the shadow VMCS that its VMREAD and VMWRITE reach, and where
    /// its region is.
    pub(crate) shadow12: Option<(Gpa, KBox<Vmcs12>)>,
    /// Which vmcs12 each vmcs02 is for.
    pub(crate) pool: Pool<NR_SLOTS>,
    pub(crate) slots: [Slot; NR_SLOTS],
    /// The slot whose vmcs02 was entered last.
    pub(crate) active: usize,
    /// That vmcs02 has values that vmcs12 lacks.
    pub(crate) is_lazy: bool,
    /// What entries were last checked with.
    pub(crate) env: Option<Env>,
    /// L1's own, while L2 runs.
    pub(crate) l1: L1State,
    /// An INIT signal waits: it is blocked in root operation, and an exit of L2.
    pub(crate) has_init: bool,
    /// A start-up IPI waits that L2 may be waiting for.
    pub(crate) sipi: Option<u8>,
    /// Room for a region.
    pub(crate) scratch: KVec<u8>,
}

/// What the code here does for L1 besides what the processor does.
fn emulated() -> Emulated {
    Emulated {
        vmcs_shadowing: true,
        preemption_timer: host().ctls.has_preemption_timer(),
        eptp_switching: true,
        pml: true,
        mode_based_exec: true,
        ..Emulated::NONE
    }
}

impl Nested {
    /// Makes the state of a vCPU that is not in VMX operation; `None` if guests cannot be hypervisors.
    /// The capability MSRs are 0 until userspace sets them, unless `stuffs_caps`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    #[inline(never)]
    pub(crate) fn new(stuffs_caps: bool) -> Result<Option<KBox<Self>>> {
        if !params::nested() {
            return Ok(None);
        }
        let offered = caps::offered(&host().caps, &host().ctls, emulated());
        let caps = if stuffs_caps {
            offered
        } else {
            VmxCaps::default()
        };
        let fields = caps::field_set(&caps);
        let mut scratch = KVec::new();
        scratch.resize(REGION_SIZE, 0, GFP_KERNEL_ACCOUNT)?;
        let nested = kernel::try_init!(Self {
            offered,
            caps,
            fields,
            state: State::default(),
            vmcs12: Vmcs12::new(),
            shadowing: None,
            shadow12: None,
            pool: Pool::new(),
            slots: [Slot::new()?, Slot::new()?],
            active: 0,
            is_lazy: false,
            env: None,
            l1: L1State {
                ctls: Controls::default(),
                cr4: Cr4(0),
            },
            has_init: false,
            sipi: None,
            scratch,
        });
        Ok(Some(KBox::init(nested, GFP_KERNEL_ACCOUNT)?))
    }

    /// Returns the slot whose vmcs02 was entered last.
    #[inline]
    pub(crate) fn slot(&mut self) -> &mut Slot {
        &mut self.slots[self.active % NR_SLOTS]
    }

    /// Has the MSR bitmaps merged again at the next entry: L0's has changed.
    pub(crate) fn forget_bitmap_merges(&mut self) {
        for slot in &mut self.slots {
            slot.bitmap_merge.seen = msrbitmap::Answers::default();
        }
    }

    /// Returns the secondary controls of vmcs12; all 0 unless activated.
    pub(crate) fn proc2(&self) -> Proc2Ctls {
        burrow_core::x86::nested::merge::proc2_12(&self.vmcs12)
    }
}

/// Returns the capability MSR `number` as userspace reads it as a feature.
pub(crate) fn feature_msr(number: u32) -> Option<u64> {
    if !params::nested() {
        return None;
    }
    caps::read(
        &caps::offered(&host().caps, &host().ctls, emulated()),
        number,
    )
}
