// SPDX-License-Identifier: GPL-2.0

//! KVM's userspace ABI: the structs and numbers of `include/uapi/linux/kvm.h`, as bindgen read them,
//! and the one way to copy them from and to userspace.
//!
//! Invariant: only types for which every bit pattern is a value, without pointers that the kernel
//! would follow, implement [`Plain`].

use kernel::{
    alloc::KVec,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    },
};

pub use crate::bindings::*;

/// A C struct of integers, arrays and unions of such, that may be copied as bytes.
///
/// # Safety
///
/// Every bit pattern must be a valid value.
pub unsafe trait Plain: Copy {
    /// Returns the value of which every byte is 0.
    fn zeroed() -> Self {
        // SAFETY: All zeroes is a bit pattern, and each is valid.
        unsafe { core::mem::zeroed() }
    }

    /// Returns the value as bytes.
    ///
    /// Values that go to userspace start as [`zeroed`](Self::zeroed), so that padding holds no secret.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: `self` is readable for its size; the structs have explicit padding, and start as
        // zeroed memory where they do not.
        unsafe {
            core::slice::from_raw_parts(
                core::ptr::from_ref(self).cast(),
                core::mem::size_of::<Self>(),
            )
        }
    }

    /// Returns the value as bytes to fill.
    fn as_bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `self` is writable for its size, and whatever is written there is a valid value.
        unsafe {
            core::slice::from_raw_parts_mut(
                core::ptr::from_mut(self).cast(),
                core::mem::size_of::<Self>(),
            )
        }
    }
}

macro_rules! plain {
    ($($t:ty),* $(,)?) => { $(
        // SAFETY: A C struct of integers (bindgen's reading of uapi), or an integer.
        unsafe impl Plain for $t {}
    )* };
}

plain!(
    u8,
    u16,
    u32,
    u64,
    [u32; 2],
    kvm_clock_data,
    kvm_coalesced_mmio,
    kvm_coalesced_mmio_zone,
    kvm_cpuid_entry,
    kvm_cpuid_entry2,
    kvm_create_device,
    kvm_debugregs,
    kvm_device_attr,
    kvm_dirty_log,
    kvm_clear_dirty_log,
    kvm_enable_cap,
    kvm_fpu,
    kvm_guest_debug,
    kvm_interrupt,
    kvm_ioeventfd,
    kvm_irq_level,
    kvm_irqchip,
    kvm_irq_routing_entry,
    kvm_irqfd,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_msi,
    kvm_msr_entry,
    kvm_msr_filter,
    kvm_one_reg,
    kvm_pit_config,
    kvm_pit_state,
    kvm_pit_state2,
    kvm_pre_fault_memory,
    kvm_regs,
    kvm_reinject_control,
    kvm_segment,
    kvm_sregs,
    kvm_sregs2,
    kvm_tpr_access_ctl,
    kvm_translation,
    kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
    kvm_vapic_addr,
    kvm_vcpu_events,
    kvm_x86_mce,
    kvm_xcrs,
);

/// Reads a `T` from userspace address `arg`.
///
/// # Errors
///
/// `EFAULT` when the address cannot be read.
pub fn read<T: Plain>(arg: usize) -> Result<T> {
    let mut value = T::zeroed();
    UserSlice::new(UserPtr::from_addr(arg), core::mem::size_of::<T>())
        .reader()
        .read_slice(value.as_bytes_mut())?;
    Ok(value)
}

/// Writes `value` to userspace address `arg`.
///
/// # Errors
///
/// `EFAULT` when the address cannot be written.
pub fn write<T: Plain>(arg: usize, value: &T) -> Result {
    UserSlice::new(UserPtr::from_addr(arg), core::mem::size_of::<T>())
        .writer()
        .write_slice(value.as_bytes())
}

/// Returns the address of what lies `offset` bytes into a struct at userspace address `arg`.
///
/// # Errors
///
/// `EFAULT` where the address space ends before.
pub fn field(arg: usize, offset: usize) -> Result<usize> {
    arg.checked_add(offset).ok_or(EFAULT)
}

/// Reads `count` consecutive `T` from userspace address `arg`. The caller has bounded `count`.
///
/// # Errors
///
/// `EFAULT` when the address cannot be read, `ENOMEM` when there is no memory for the copy.
pub fn read_vec<T: Plain>(arg: usize, count: usize) -> Result<KVec<T>> {
    let size = core::mem::size_of::<T>();
    let len = count.checked_mul(size).ok_or(EINVAL)?;
    let mut reader = UserSlice::new(UserPtr::from_addr(arg), len).reader();
    let mut values = KVec::with_capacity(count, GFP_KERNEL)?;
    for _ in 0..count {
        let mut value = T::zeroed();
        reader.read_slice(value.as_bytes_mut())?;
        values.push(value, GFP_KERNEL)?;
    }
    Ok(values)
}

/// Writes consecutive `T` to userspace address `arg`.
///
/// # Errors
///
/// `EFAULT` when the address cannot be written.
pub fn write_slice<T: Plain>(arg: usize, values: &[T]) -> Result {
    let mut writer =
        UserSlice::new(UserPtr::from_addr(arg), core::mem::size_of_val(values)).writer();
    for value in values {
        writer.write_slice(value.as_bytes())?;
    }
    Ok(())
}

/// Reads `len` bytes from userspace address `arg`.
///
/// # Errors
///
/// `EFAULT` when the address cannot be read, `ENOMEM` when there is no memory for the copy.
pub fn read_bytes(arg: usize, len: usize) -> Result<KVec<u8>> {
    let mut bytes = KVec::with_capacity(len, GFP_KERNEL)?;
    UserSlice::new(UserPtr::from_addr(arg), len).read_all(&mut bytes, GFP_KERNEL)?;
    Ok(bytes)
}

/// Writes `bytes` to userspace address `arg`.
///
/// # Errors
///
/// `EFAULT` when the address cannot be written.
pub fn write_bytes(arg: usize, bytes: &[u8]) -> Result {
    UserSlice::new(UserPtr::from_addr(arg), bytes.len())
        .writer()
        .write_slice(bytes)
}

/// Returns the userspace address of the bitmap that `KVM_GET_DIRTY_LOG` fills.
pub fn dirty_bitmap_address(log: &kvm_dirty_log) -> usize {
    // SAFETY: Both fields of the union are 64 bits wide, and every pattern is valid.
    (unsafe { log.__bindgen_anon_1.padding2 }) as usize
}

/// Returns the userspace address of the bitmap that `KVM_CLEAR_DIRTY_LOG` reads.
pub fn clear_bitmap_address(log: &kvm_clear_dirty_log) -> usize {
    // SAFETY: Both fields of the union are 64 bits wide, and every pattern is valid.
    (unsafe { log.__bindgen_anon_1.padding2 }) as usize
}
