// SPDX-License-Identifier: GPL-2.0

//! What the host says and asks about the VMM's memory.

use super::Shared;
use burrow_core::{
    addr::Hva,
    x86::tdp, //
};
use burrow_sys::{
    mmu_notifier::Notify,
    pt_page::Pace, //
};

impl Notify for Shared {
    fn invalidate_start(&self, start: Hva, end: Hva) {
        self.locked(|mmu, debt| {
            // First, so that a slot which is published from here on cannot be mapped in the range.
            mmu.invalidate_start(start, end);
            let slots = self.slots.read();
            slots.for_each_gfns(start, end, |gfn, npages| mmu.zap(gfn, npages, debt));
        });
    }

    fn invalidate_end(&self, start: Hva, end: Hva) {
        self.locked(|mmu, _| {
            // A fault that found a page of the range before it changed, and did not install it
            // before the start, has a slot there; and a slot that a fault uses is in the table that
            // is current now, if only as going. Other changes of the VMM's memory are no concern.
            if self.slots.read().is_backed_by(start, end) {
                mmu.advance();
                self.next_epoch();
            }
            mmu.invalidate_end();
        });
    }

    fn clear_young(&self, start: Hva, end: Hva) -> bool {
        let mut was_young = false;
        self.locked(|mmu, debt| {
            let features = mmu.features;
            let slots = self.slots.read();
            slots.for_each_gfns(start, end, |gfn, npages| {
                mmu.update(gfn, npages, debt, &mut |entry, level| {
                    let change = tdp::age(entry, level, &features);
                    was_young |= change.is_some();
                    change
                });
            });
        });
        was_young
    }

    fn test_young(&self, start: Hva, end: Hva) -> bool {
        let mut is_young = false;
        self.locked(|mmu, debt| {
            let features = mmu.features;
            let slots = self.slots.read();
            slots.for_each_gfns(start, end, |gfn, npages| {
                mmu.update(gfn, npages, debt, &mut |entry, _| {
                    is_young |= tdp::is_young(entry, &features);
                    None
                });
            });
        });
        is_young
    }

    fn release(&self) {
        self.locked_with(Pace::Yielding, |mmu, debt| {
            mmu.release();
            mmu.zap_all(debt);
        });
    }
}
