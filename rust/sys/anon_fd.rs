// SPDX-License-Identifier: GPL-2.0

//! Files on anonymous inodes: the fds of VMs, vCPUs, devices and statistics.
//!
//! Invariant: the private data of a file made by [`create`] is an `Arc<T>` in foreign form, owned by
//! the file from creation to release; the file operations are those of the same `T`.

use crate::bindings;
use core::marker::PhantomData;
use kernel::{
    bindings as k,
    ffi::{
        c_int,
        c_long,
        c_uint,
        c_ulong,
        c_void, //
    },
    fs::{
        file::FileDescriptorReservation,
        File, //
    },
    mm::virt::VmaNew,
    module::ThisModule,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        ArcBorrow, //
    },
    types::{
        ForeignOwnable,
        Opaque, //
    },
};

extern "C" {
    #[expect(improper_ctypes, reason = "only its address is taken")]
    static __this_module: Opaque<k::module>;
}

/// What a file of ours is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileAccess {
    /// Ioctls and mmap; `read()` fails with `EINVAL`.
    Control,
    /// `read()` and `pread()`.
    Read,
}

/// What a file of ours can do.
pub trait FdOps: Send + Sync + Sized + 'static {
    /// The name that `/proc/PID/fd` shows, as in `anon_inode:NAME`.
    const NAME: &'static CStr;

    /// What the file can be opened for.
    const ACCESS: FileAccess = FileAccess::Control;

    /// Handles an ioctl. The default knows none.
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        let _ = (this, cmd, arg);
        Err(ENOTTY)
    }

    /// Handles mmap. The default refuses.
    fn mmap(this: ArcBorrow<'_, Self>, vma: &VmaNew) -> Result {
        let _ = (this, vma);
        Err(ENODEV)
    }

    /// Fills `buf` from byte `offset` of what the file holds and returns how much; 0 at the end. The
    /// default is empty. Called for [`FileAccess::Read`] only.
    fn read(this: ArcBorrow<'_, Self>, offset: usize, buf: &mut [u8]) -> Result<usize> {
        let _ = (this, offset, buf);
        Ok(0)
    }

    /// Called when the last reference to the file goes.
    fn release(this: Arc<Self>) {
        drop(this);
    }
}

struct Vtable<T>(PhantomData<T>);

/// The largest piece that one read copies through a buffer of ours, in bytes.
const READ_CHUNK: usize = 256;

impl<T: FdOps> Vtable<T> {
    const OPS: k::file_operations = k::file_operations {
        owner: core::ptr::addr_of!(__this_module) as *mut k::module,
        release: Some(Self::release),
        unlocked_ioctl: Some(Self::ioctl),
        #[cfg(CONFIG_COMPAT)]
        compat_ioctl: Some(Self::ioctl),
        mmap: Some(Self::mmap),
        read: match T::ACCESS {
            FileAccess::Control => None,
            FileAccess::Read => Some(Self::read),
        },
        llseek: Some(k::noop_llseek),
        ..pin_init::zeroed()
    };

    /// Borrows the object behind `file`.
    ///
    /// # Safety
    ///
    /// `file` must be one of ours that is not being released.
    unsafe fn borrow<'a>(file: *mut k::file) -> ArcBorrow<'a, T> {
        // SAFETY: `file` is valid by the contract.
        let private = unsafe { (*file).private_data };
        // SAFETY: The private data is an `Arc<T>` in foreign form, by the file's invariant.
        unsafe { <Arc<T> as ForeignOwnable>::borrow(private) }
    }

    /// # Safety
    ///
    /// Called by the kernel only, with what it was registered with.
    unsafe extern "C" fn release(_inode: *mut k::inode, file: *mut k::file) -> c_int {
        // SAFETY: The kernel passes a valid file.
        let private = unsafe { (*file).private_data };
        // SAFETY: Release is called once and ends the file's ownership.
        T::release(unsafe { <Arc<T> as ForeignOwnable>::from_foreign(private) });
        0
    }

    /// # Safety
    ///
    /// Called by the kernel only, with what it was registered with.
    unsafe extern "C" fn ioctl(file: *mut k::file, cmd: c_uint, arg: c_ulong) -> c_long {
        // SAFETY: The kernel holds the file during the call.
        match T::ioctl(unsafe { Self::borrow(file) }, cmd, arg) {
            Ok(value) => value as c_long,
            Err(error) => error.to_errno() as c_long,
        }
    }

    /// # Safety
    ///
    /// Called by the kernel only, with what it was registered with.
    unsafe extern "C" fn mmap(file: *mut k::file, vma: *mut k::vm_area_struct) -> c_int {
        // SAFETY: The kernel holds the file during the call.
        let this = unsafe { Self::borrow(file) };
        // SAFETY: `vma` is being set up by this call.
        let vma = unsafe { VmaNew::from_raw(vma) };
        match T::mmap(this, vma) {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// Called by the kernel only, with what it was registered with.
    unsafe extern "C" fn read(
        file: *mut k::file,
        buf: *mut kernel::ffi::c_char,
        len: usize,
        pos: *mut k::loff_t,
    ) -> isize {
        // SAFETY: The kernel holds the file during the call.
        let this = unsafe { Self::borrow(file) };
        // SAFETY: `pos` points to a position that the kernel made not negative.
        let start = unsafe { *pos } as usize;
        match Self::read_chunks(this, buf as usize, len, start) {
            Ok(done) => {
                // SAFETY: As above.
                unsafe { *pos = (*pos).wrapping_add(done as k::loff_t) };
                done as isize
            }
            Err(error) => error.to_errno() as isize,
        }
    }

    fn read_chunks(this: ArcBorrow<'_, T>, to: usize, len: usize, start: usize) -> Result<usize> {
        let mut chunk = [0u8; READ_CHUNK];
        let mut done = 0;
        while done < len {
            let want = READ_CHUNK.min(len - done);
            let got = T::read(this, start.saturating_add(done), &mut chunk[..want])?;
            if got == 0 {
                break;
            }
            let piece = chunk.get(..got.min(want)).unwrap_or(&[]);
            crate::uapi::write_bytes(crate::uapi::field(to, done)?, piece)?;
            done = done.wrapping_add(piece.len());
        }
        Ok(done)
    }
}

/// Makes a file that owns `object`, and an unused fd for it.
///
/// The fd is the caller's to install ([`FileDescriptorReservation::fd_install`]) once nothing can
/// fail any more; dropped before, both vanish and `object` is released.
///
/// # Errors
///
/// `EMFILE`, `ENFILE` or `ENOMEM` as for any new file.
pub fn create<T: FdOps>(object: Arc<T>) -> Result<(FileDescriptorReservation, ARef<File>)> {
    let fd = FileDescriptorReservation::get_unused_fd_flags(k::O_CLOEXEC)?;
    let (flags, mode) = match T::ACCESS {
        FileAccess::Control => (k::O_RDWR, 0),
        FileAccess::Read => (k::O_RDONLY, bindings::FMODE_PREAD),
    };
    let private: *mut c_void = object.into_foreign();
    // SAFETY: The operations are those of `T`, and live as long as the module, which they own.
    let file = unsafe {
        bindings::anon_inode_getfile_fmode(
            T::NAME.as_char_ptr(),
            &Vtable::<T>::OPS,
            private,
            (flags | k::O_CLOEXEC) as c_int,
            mode,
        )
    };
    match kernel::error::from_err_ptr(file) {
        Ok(file) => {
            // SAFETY: A new file with one reference, which the ARef takes over.
            let file =
                unsafe { ARef::from_raw(core::ptr::NonNull::new_unchecked(file.cast::<File>())) };
            Ok((fd, file))
        }
        Err(error) => {
            // SAFETY: No file took the reference over.
            drop(unsafe { <Arc<T> as ForeignOwnable>::from_foreign(private) });
            Err(error)
        }
    }
}

/// Returns the module, for registrations that want it.
pub fn this_module() -> ThisModule {
    // SAFETY: The static is this module's own `THIS_MODULE`.
    unsafe { ThisModule::from_ptr(core::ptr::addr_of!(__this_module) as *mut k::module) }
}
