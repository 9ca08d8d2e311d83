// SPDX-License-Identifier: GPL-2.0

//! The module's parameters.
//!
//! Invariant: each is one byte that the kernel writes before init, and that is accessed by single volatile
//! accesses after.

use crate::bindings;

macro_rules! params {
    ($($(#[$doc:meta])* $get:ident, $set:ident => $c:ident;)*) => { $(
        $(#[$doc])*
        pub fn $get() -> bool {
            // SAFETY: A `bool` that is never torn, and never another value than the two.
            unsafe { core::ptr::addr_of!(bindings::$c).read_volatile() }
        }

        #[doc = concat!("Records what `", stringify!($get), "` turned out to be, for who reads it.")]
        pub fn $set(value: bool) {
            // SAFETY: As above.
            unsafe { core::ptr::addr_of_mut!(bindings::$c).write_volatile(value) };
        }
    )* };
}

/// Returns whether accesses to unknown MSRs are to be ignored.
pub fn ignore_msrs() -> bool {
    // SAFETY: A `bool` that is never torn, and never another value than the two.
    unsafe { core::ptr::addr_of!(bindings::burrow_param_ignore_msrs).read_volatile() }
}

/// Returns whether the log is to tell of ignored accesses.
pub fn report_ignored_msrs() -> bool {
    // SAFETY: As above.
    unsafe { core::ptr::addr_of!(bindings::burrow_param_report_ignored_msrs).read_volatile() }
}

params! {
    /// Returns whether guests may be hypervisors.
    nested, set_nested => burrow_param_nested;
    /// Returns whether EPT is to be used.
    ept, set_ept => burrow_param_ept;
    /// Returns whether VPIDs are to be used.
    vpid, set_vpid => burrow_param_vpid;
    /// Returns whether unrestricted guests are to be used.
    unrestricted_guest, set_unrestricted_guest => burrow_param_unrestricted_guest;
    /// Returns whether VMCS shadowing is to be used.
    enable_shadow_vmcs, set_enable_shadow_vmcs => burrow_param_enable_shadow_vmcs;
    /// Returns whether the VMX-preemption timer is to be used.
    preemption_timer, set_preemption_timer => burrow_param_preemption_timer;
    /// Returns whether APIC virtualization is to be used.
    enable_apicv, set_enable_apicv => burrow_param_enable_apicv;
    /// Returns whether page-modification logging is to be used.
    pml, set_pml => burrow_param_pml;
}
