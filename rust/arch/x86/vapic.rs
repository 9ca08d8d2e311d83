// SPDX-License-Identifier: GPL-2.0

//! The task priority in guest memory: `KVM_SET_VAPIC_ADDR`.
//!
//! 32-bit guests that write their task priority often have their accesses patched by firmware of the
//! VMM to write a word in memory instead. It is read after each exit, and tells the guest before each
//! entry what is pending and in service, for which it must still go to the register.

use crate::arch::x86::cpu::Cpu;
use burrow_core::{
    addr::Gpa,
    bitfield, //
};
use kernel::prelude::*;

bitfield! {
    /// The word in memory.
    struct VapicWord(u32) {
        /// The task priority.
        7:0 tpr, with_tpr => u8;
        /// The highest vector in service, its class alone.
        15:8 in_service, with_in_service => u8;
        /// The highest vector that waits.
        31:24 pending, with_pending => u8;
    }
}

/// The size of the word, which must not cross a page.
const SIZE: u64 = 4;
const PAGE: u64 = 4096;

impl Cpu<'_> {
    /// Sets the address of the word; 0 for none.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the kernel has no local APIC, or the VM no memory there.
    pub(crate) fn set_vapic(&mut self, address: u64) -> Result {
        if self.arch.lapic.is_none() {
            return Err(EINVAL);
        }
        if address == 0 {
            self.arch.vapic = None;
            return Ok(());
        }
        let gpa = Gpa(address);
        if address % PAGE > PAGE - SIZE {
            return Err(EINVAL);
        }
        let mut word = [0; SIZE as usize];
        self.vcpu
            .vm
            .memory
            .read(gpa, &mut word)
            .map_err(|_| EINVAL)?;
        self.arch.vapic = Some(gpa);
        Ok(())
    }

    /// Takes the task priority over from guest memory, where the guest keeps it there.
    ///
    /// # Context
    ///
    /// Sleeps.
    #[inline]
    pub(crate) fn take_vapic(&mut self) {
        let Some(gpa) = self.arch.vapic else {
            return;
        };
        let mut word = [0; SIZE as usize];
        if self.vcpu.vm.memory.read(gpa, &mut word).is_ok() {
            self.set_tpr(VapicWord(u32::from_le_bytes(word)).tpr());
        }
    }

    /// Tells guest memory what the local APIC has, where the guest keeps its task priority there.
    ///
    /// # Context
    ///
    /// Sleeps.
    #[inline]
    pub(crate) fn give_vapic(&mut self) {
        let (Some(gpa), Some(priorities)) = (self.arch.vapic, self.apic_priorities()) else {
            return;
        };
        let word = VapicWord(0)
            .with_tpr(priorities.tpr)
            .with_in_service(priorities.in_service & 0xf0)
            .with_pending(priorities.pending);
        // A guest that has unmapped it does not look.
        let _ = self.vcpu.vm.memory.write(gpa, &word.0.to_le_bytes());
    }
}
