// SPDX-License-Identifier: GPL-2.0

//! Memory of the VMM that backs the guest: copies, and the host's pages behind it.
//!
//! Invariant: userspace memory is reached only through the kernel's checked accessors, by address,
//! in the address space of the current task; no Rust reference to it ever exists. A [`HostPage`]
//! owns one reference of a `struct page`, a [`PinnedPage`] one pin.

use crate::bindings;
use burrow_core::addr::{
    Hva,
    Level,
    Pfn,
    PAGE_SHIFT, //
};
use core::ptr::NonNull;
use kernel::{
    ffi::c_void,
    mm::Mm,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::Atomic, //
    },
};

/// The address space that a VM was created in.
///
/// It is kept from being freed, not from being emptied: when its last task exits, the mappings go.
pub struct Creator {
    mm: ARef<Mm>,
}

impl Creator {
    /// Takes the address space of the current task.
    ///
    /// # Errors
    ///
    /// `EINVAL` for a kernel thread, which has none.
    pub fn current() -> Result<Self> {
        let task = kernel::current!();
        let mm: &Mm = task.mm().ok_or(EINVAL)?;
        Ok(Self { mm: ARef::from(mm) })
    }

    /// Returns whether the current task runs in this address space.
    #[inline]
    pub fn is_current(&self) -> bool {
        let task = kernel::current!();
        task.mm()
            .is_some_and(|mm| core::ptr::eq(mm.as_raw(), self.mm.as_raw()))
    }
}

/// Returns the end of user addresses: the highest value that the end of a range may have.
pub fn user_end() -> Hva {
    // SAFETY: Returns a constant of the running kernel.
    Hva(unsafe { bindings::burrow_task_size() })
}

/// Copies bytes out of the current address space.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `EFAULT` where the range cannot be read; `out` may have been filled in part.
pub fn copy_from(hva: Hva, out: &mut [u8]) -> Result {
    // SAFETY: `out` is writable for its length; the C side checks the user range and faults.
    let left = unsafe {
        kernel::bindings::copy_from_user(
            out.as_mut_ptr().cast::<c_void>(),
            hva.0 as *const c_void,
            out.len(),
        )
    };
    if left == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Reads `size` bytes, 4 or 8, at a multiple of that.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `EFAULT` where they cannot be read.
#[inline]
pub fn read_word(hva: Hva, size: u32) -> Result<u64> {
    let mut word = 0;
    // SAFETY: `word` is writable; the C side checks the user range and faults.
    kernel::error::to_result(unsafe {
        bindings::burrow_read_user(hva.0 as usize, size, &mut word)
    })?;
    Ok(word)
}

/// A word in the current address space, and what is expected there.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
pub struct UserWord(bindings::burrow_user_word);

impl UserWord {
    /// Expects `value` at `hva`, a multiple of 8.
    pub fn new(hva: Hva, value: u64) -> Self {
        Self(bindings::burrow_user_word { hva: hva.0, value })
    }
}

/// Reads 16 bytes at `hva`, if `words` are as expected. Returns `None` if one is not, or where something
/// is not in memory right now.
///
/// # Context
///
/// Any in which the address space is the current one; interrupts may be off.
#[inline]
pub fn peek_if(words: &[UserWord], hva: Hva) -> Option<[u8; 16]> {
    let mut to = [0u64; 2];
    // SAFETY:
    // 1. `words` are structures of C's, by `repr(transparent)`, as many as is said.
    // 2. `to` has two words, to be written.
    // 3. The C side checks the user ranges and does not sleep on faults.
    let is_there = unsafe {
        bindings::burrow_peek_user(
            words.as_ptr().cast(),
            // CAST: a walk has a few entries.
            words.len() as u32,
            hva.0 as usize,
            to.as_mut_ptr(),
        )
    };
    let [low, high] = to;
    is_there.then(|| (u128::from(low) | u128::from(high) << 64).to_le_bytes())
}

/// Copies bytes into the current address space.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `EFAULT` where the range cannot be written; a part may have been.
pub fn copy_to(hva: Hva, bytes: &[u8]) -> Result {
    // SAFETY: `bytes` is readable for its length; the C side checks the user range and faults.
    let left = unsafe {
        kernel::bindings::copy_to_user(
            hva.0 as *mut c_void,
            bytes.as_ptr().cast::<c_void>(),
            bytes.len(),
        )
    };
    if left == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Compares `size` bytes (1, 2, 4 or 8) at `hva`, a multiple of it, with `old`, and stores `new` if
/// they are equal; one atomic access. Returns `Ok(Ok(()))` when stored, `Ok(Err(found))` when not.
///
/// # Context
///
/// May sleep.
///
/// # Errors
///
/// `EFAULT` where the address cannot be written, `EINVAL` for another size.
pub fn cmpxchg(hva: Hva, size: u32, old: u64, new: u64) -> Result<Result<(), u64>> {
    let mut found = old;
    // SAFETY: `found` is a local; the C side checks the user range and faults.
    match unsafe { bindings::burrow_cmpxchg_user(hva.0 as usize, size, &mut found, new) } {
        0 => Ok(Ok(())),
        1 => Ok(Err(found)),
        error => Err(Error::from_errno(error)),
    }
}

/// Returns the size in which the host maps `hva` of the current address space.
///
/// Only a hint, until the caller has made sure that the address was not invalidated meanwhile.
pub fn host_level(hva: Hva) -> Level {
    // SAFETY: Walks the current task's own tables with interrupts off; any address is checked.
    match unsafe { bindings::burrow_host_level(hva.0 as usize) } {
        3 => Level::Pdpt,
        2 => Level::Pd,
        _ => Level::Pt,
    }
}

/// What a page is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Reading; a page that can be written is not asked for.
    Read,
    /// Reading; if it can be written without breaking a share, so much the better.
    ReadOrWrite,
    /// Writing.
    Write,
}

/// Why there is no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPage {
    /// A signal is pending.
    Interrupted,
    /// The host's memory is broken there (`EHWPOISON`).
    Poisoned,
    /// Nothing is mapped, or not with that right.
    Fault,
}

/// A page of the host: a reference to it, or the bare number of a frame that a driver has mapped
/// (`VM_IO`, `VM_PFNMAP`), which is right until a notifier takes it back.
pub struct HostPage {
    frame: Pfn,
    page: Option<NonNull<kernel::bindings::page>>,
    is_writable: bool,
}

impl HostPage {
    /// Gets the page at `hva` of the current address space, faulting it in.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// See [`NoPage`].
    pub fn get(hva: Hva, want: Want) -> Result<Self, NoPage> {
        use kernel::bindings::{FOLL_HWPOISON, FOLL_INTERRUPTIBLE, FOLL_WRITE};

        if want != Want::Read {
            if let Some(page) = Self::get_fast(hva) {
                return Ok(page);
            }
        }
        let is_writable = want == Want::Write;
        let flags = FOLL_HWPOISON | FOLL_INTERRUPTIBLE | if is_writable { FOLL_WRITE } else { 0 };
        let mut page = core::ptr::null_mut();
        // SAFETY: `page` has room for the one pointer that is asked for; process context.
        let count = unsafe {
            kernel::bindings::get_user_pages_unlocked(hva.0 as usize, 1, &mut page, flags)
        };
        match (count, NonNull::new(page)) {
            (1, Some(page)) => Ok(Self::of(page, is_writable)),
            (count, _) if count == to_count(EINTR) || count == to_count(EAGAIN) => {
                Err(NoPage::Interrupted)
            }
            (count, _) if count == -(kernel::bindings::EHWPOISON as isize) => Err(NoPage::Poisoned),
            _ => Self::remapped(hva, want),
        }
    }

    /// Wraps a page of which the caller has taken a reference.
    fn of(page: NonNull<kernel::bindings::page>, is_writable: bool) -> Self {
        // SAFETY: The caller holds a reference of the page.
        let address = unsafe { bindings::burrow_page_to_phys(page.as_ptr().cast()) };
        Self {
            frame: Pfn(address >> PAGE_SHIFT),
            page: Some(page),
            is_writable,
        }
    }

    /// Finds the frame that a driver has mapped at `hva`.
    fn remapped(hva: Hva, want: Want) -> Result<Self, NoPage> {
        let (mut pfn, mut is_writable) = (0, false);
        let is_write = want == Want::Write;
        // SAFETY: The two are locals; process context, any address may be given.
        let err = unsafe {
            bindings::burrow_remapped_frame(hva.0 as usize, is_write, &mut pfn, &mut is_writable)
        };
        if err == EINTR.to_errno() {
            return Err(NoPage::Interrupted);
        }
        if err != 0 {
            return Err(NoPage::Fault);
        }
        Ok(Self {
            frame: Pfn(pfn),
            page: None,
            is_writable: is_writable && want != Want::Read,
        })
    }

    /// Gets the page if the host maps it writable right now.
    fn get_fast(hva: Hva) -> Option<Self> {
        let mut page = core::ptr::null_mut();
        // SAFETY: `page` has room for the one pointer that is asked for; works in any context.
        let count = unsafe {
            kernel::bindings::get_user_pages_fast_only(
                hva.0 as usize,
                1,
                kernel::bindings::FOLL_WRITE,
                &mut page,
            )
        };
        let page = NonNull::new(page).filter(|_| count == 1)?;
        Some(Self::of(page, true))
    }

    /// Returns the frame.
    #[inline]
    pub fn pfn(&self) -> Pfn {
        self.frame
    }

    /// Returns whether it is of a device, and must not be cached.
    pub fn is_device(&self) -> bool {
        // SAFETY: Any number may be given; a frame without a page is asked for only.
        self.page.is_none() && unsafe { bindings::burrow_is_device_frame(self.frame.0) }
    }

    /// Returns whether the host lets it be written.
    #[inline]
    pub fn is_writable(&self) -> bool {
        self.is_writable
    }

    /// Gives the page back as used: accessed, and dirty where it is writable.
    ///
    /// A guest mapping of it may live on, until a notifier takes it back; so this must come before
    /// a notifier can, under the lock that holds it off.
    ///
    /// # Context
    ///
    /// Does not sleep.
    pub fn release_used(self) {
        let mut this = core::mem::ManuallyDrop::new(self);
        if let Some(page) = this.page.take() {
            // SAFETY: Drops the reference that `self` owned, once, as its destructor does not run.
            unsafe { bindings::burrow_release_page(page.as_ptr().cast(), this.is_writable) };
        }
    }
}

impl Drop for HostPage {
    fn drop(&mut self) {
        if let Some(page) = self.page {
            // SAFETY: Drops the reference that `self` owns.
            unsafe { bindings::burrow_put_page(page.as_ptr().cast()) };
        }
    }
}

/// A writable page of the host that stays where it is: the host neither moves it nor puts another in
/// its place, unless the VMM itself unmaps it. Guest, VMM and processor may change it at any time.
///
/// For the few pages whose addresses a VMCS holds.
pub struct PinnedPage {
    page: NonNull<kernel::bindings::page>,
    /// The page in the kernel's direct map.
    base: *mut u64,
}

// SAFETY: The page is memory without a thread affinity.
unsafe impl Send for PinnedPage {}
// SAFETY: All accesses are atomic.
unsafe impl Sync for PinnedPage {}

impl PinnedPage {
    /// Pins the page at `hva` of the current address space, faulting it in.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `EFAULT` where nothing is mapped, not writable, or no page stands behind it.
    pub fn new(hva: Hva) -> Result<Self> {
        let mut page = core::ptr::null_mut();
        // SAFETY: `page` has room for the one pointer that is asked for; process context.
        let count = unsafe {
            kernel::bindings::pin_user_pages_fast(
                hva.0 as usize,
                1,
                kernel::bindings::FOLL_WRITE,
                &mut page,
            )
        };
        let page = NonNull::new(page).filter(|_| count == 1).ok_or(EFAULT)?;
        // SAFETY: The page is pinned; x86-64 has all memory in the direct map.
        let base = unsafe { bindings::burrow_page_address(page.as_ptr().cast()) }.cast();
        Ok(Self { page, base })
    }

    /// Returns the frame.
    #[inline]
    pub fn pfn(&self) -> Pfn {
        // SAFETY: `self` has the page pinned.
        Pfn(unsafe { bindings::burrow_page_to_phys(self.page.as_ptr().cast()) } >> PAGE_SHIFT)
    }

    /// Returns the 64-bit word at `index`, 0 to 511.
    #[inline]
    pub fn word(&self, index: usize) -> &Atomic<u64> {
        // SAFETY: `index` is reduced to within the page, which `self` has pinned.
        let word = unsafe { self.base.add(index % 512) };
        // SAFETY: The word is aligned and lives as long as `self`; all accesses of ours are atomic,
        // and those of others are not Rust's.
        unsafe { Atomic::from_ptr(word) }
    }
}

impl Drop for PinnedPage {
    /// Gives the page back as written. Sleeps.
    fn drop(&mut self) {
        let mut page = self.page.as_ptr();
        // SAFETY: `self` has pinned this one page.
        unsafe { kernel::bindings::unpin_user_pages_dirty_lock(&mut page, 1, true) };
    }
}

fn to_count(error: Error) -> isize {
    error.to_errno() as isize
}
