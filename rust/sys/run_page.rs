// SPDX-License-Identifier: GPL-2.0

//! Pages shared with userspace by mmap: `struct kvm_run`, the PIO buffer, the coalesced ring.
//!
//! Invariant: a page is owned by its [`SharedPage`] and by each mapping of it (the page's reference
//! count), so it outlives both; what it holds may change at any time under the kernel's hands, so it
//! is only ever copied, never borrowed.

use crate::{
    bindings,
    uapi::Plain, //
};
use kernel::{
    mm::virt::VmaNew,
    page::{
        Page,
        PAGE_SIZE, //
    },
    prelude::*,
};

/// A zeroed page that userspace can map.
pub struct SharedPage {
    page: Page,
    /// The page in the kernel's direct map.
    base: *mut u8,
}

// SAFETY: The page is memory without a thread affinity.
unsafe impl Send for SharedPage {}
// SAFETY: All accesses are volatile copies; races with userspace and other threads yield some value.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// Allocates a zeroed page.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub fn new() -> Result<Self> {
        let page = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
        // SAFETY: `page` is a valid page of the direct map, as GFP_KERNEL has no high memory.
        let base = unsafe { bindings::burrow_page_address(page.as_ptr().cast()) }.cast();
        Ok(Self { page, base })
    }

    /// Copies a `T` out at byte `offset`; zero where it would not lie inside the page.
    #[inline]
    pub fn read<T: Plain>(&self, offset: usize) -> T {
        if offset.saturating_add(core::mem::size_of::<T>()) > PAGE_SIZE {
            return T::zeroed();
        }
        // SAFETY: In bounds by the check above; unaligned and volatile, as userspace may write it.
        unsafe { self.base.add(offset).cast::<T>().read_volatile() }
    }

    /// Copies `value` in at byte `offset`; does nothing where it would not lie inside the page.
    #[inline]
    pub fn write<T: Plain>(&self, offset: usize, value: T) {
        if offset.saturating_add(core::mem::size_of::<T>()) > PAGE_SIZE {
            return;
        }
        // SAFETY: In bounds by the check above; volatile, as userspace may write it.
        unsafe { self.base.add(offset).cast::<T>().write_volatile(value) };
    }

    /// Copies bytes out from byte `offset` on; what lies outside the page is left as it is.
    pub fn read_bytes(&self, offset: usize, out: &mut [u8]) {
        for (at, byte) in (offset..PAGE_SIZE).zip(out) {
            *byte = self.read(at);
        }
    }

    /// Copies bytes in from byte `offset` on; what would lie outside the page is dropped.
    pub fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..PAGE_SIZE).zip(bytes) {
            self.write(at, *byte);
        }
    }
}

/// Returns the offset in pages at which `vma` maps the file.
pub fn first_page(vma: &VmaNew) -> usize {
    // SAFETY: `vma` is valid during the mmap call, which the reference stands for.
    unsafe { (*vma.as_ptr()).vm_pgoff }
}

/// Maps those of `pages` that lie in `vma`, each with its offset in the file, in pages; the rest of the
/// area faults with SIGBUS.
///
/// # Errors
///
/// `ENOMEM` when page tables cannot be allocated.
pub fn map<'a>(vma: &VmaNew, pages: impl Iterator<Item = (usize, &'a SharedPage)>) -> Result {
    let area = vma.set_mixedmap();
    let first = first_page(vma);
    for (at, page) in pages {
        let offset = at
            .checked_sub(first)
            .and_then(|at| at.checked_mul(PAGE_SIZE));
        let address = offset.and_then(|offset| vma.start().checked_add(offset));
        if let Some(address) = address.filter(|address| *address < vma.end()) {
            area.vm_insert_page(address, &page.page)?;
        }
    }
    Ok(())
}
