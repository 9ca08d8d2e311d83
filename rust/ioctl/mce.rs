// SPDX-License-Identifier: GPL-2.0

//! Machine checks that userspace sets up and injects.

use crate::arch::cpu::Cpu;
use burrow_core::{
    outcome::{
        vector,
        Exception, //
    },
    x86::{
        irqchip::lapic_regs::Lvt,
        msr::mce::{
            capability,
            MachineCheck,
            Reaction, //
        }, //
    },
};
use burrow_sys::uapi::kvm_x86_mce;
use kernel::prelude::*;

/// `KVM_X86_SETUP_MCE`.
///
/// # Errors
///
/// `EINVAL` for no bank, too many, or an unknown capability.
pub(super) fn setup(cpu: &mut Cpu<'_>, capabilities: u64) -> Result {
    cpu.arch.mce.setup(capabilities).map_err(|_| EINVAL)?;
    cpu.set_lapic_cmci(capabilities & capability::CMCI_P != 0);
    Ok(())
}

/// `KVM_X86_SET_MCE`.
///
/// # Errors
///
/// `EINVAL` for a bank that is not there, or a status that is not valid.
pub(super) fn set(cpu: &mut Cpu<'_>, error: &kvm_x86_mce) -> Result {
    let error = MachineCheck {
        bank: error.bank,
        status: error.status,
        address: error.addr,
        misc: error.misc,
        mcg_status: error.mcg_status,
    };
    let is_enabled = cpu.cr4().mce();
    match cpu
        .arch
        .mce
        .inject(&error, is_enabled)
        .map_err(|_| EINVAL)?
    {
        Reaction::Nothing => {}
        Reaction::CorrectedInterrupt => cpu.raise_local(Lvt::Cmci),
        Reaction::MachineCheck => {
            cpu.arch.events.raise(Exception {
                vector: vector::MC,
                error_code: None,
                payload: None,
            });
        }
        Reaction::Shutdown => cpu.arch.events.add_triple_fault(),
    }
    Ok(())
}
