// SPDX-License-Identifier: GPL-2.0

//! Control registers: carrying out what core decided about a write.

use crate::arch::x86::{
    cpu::Cpu,
    outcome::Stop, //
};
use burrow_core::{
    addr::Gpa,
    outcome::Exception,
    x86::{
        regs::{
            write::{
                self,
                CrWrite,
                Flush,
                State, //
            },
            Cr0,
            Cr3,
            Cr4, //
        },
        segment::Name,
        vmx::field::*, //
    },
};

impl Cpu<'_> {
    /// Returns what the rules for control registers look at.
    pub(crate) fn control_state(&self) -> State {
        let (cr0_fixed, cr4_fixed) = self.fixed_bits();
        State {
            cr0: self.cr0(),
            cr3: Cr3(self.cr3()),
            cr4: self.cr4(),
            efer: self.efer(),
            cs_long: self.segment_rights(GUEST_CS_AR_BYTES).l(),
            tss_is_16bit: self.segment(Name::Tr).rights.type_() & 0b1000 == 0,
            is_smm: self.is_smm(),
            cr0_fixed,
            cr4_fixed,
        }
    }

    /// Writes CR0 for the guest.
    pub(crate) fn write_cr0(&mut self, write: CrWrite) -> Result<(), Stop> {
        self.check_pdptrs(&write, None)?;
        self.store_cr0(Cr0(write.value));
        if write.efer != self.efer() {
            self.store_efer(write.efer);
        }
        self.after_write(&write);
        Ok(())
    }

    /// Writes CR3 for the guest.
    pub(crate) fn write_cr3(&mut self, write: CrWrite) -> Result<(), Stop> {
        self.check_pdptrs(&write, Some(write.value))?;
        self.vmcs().set(GUEST_CR3, write.value);
        self.after_write(&write);
        Ok(())
    }

    /// Writes CR4 for the guest.
    pub(crate) fn write_cr4(&mut self, write: CrWrite) -> Result<(), Stop> {
        self.check_pdptrs(&write, None)?;
        self.store_cr4(Cr4(write.value));
        self.after_write(&write);
        Ok(())
    }

    fn after_write(&mut self, write: &CrWrite) {
        if write.effects.flush != Flush::Nothing {
            self.arch.vpid.request_flush();
        }
        if write.effects.cpuid_changed {
            self.cpuid_follows_registers();
        }
    }

    /// Loads the PDPTEs where the write asks for it.
    fn check_pdptrs(&mut self, write: &CrWrite, cr3: Option<u64>) -> Result<(), Stop> {
        if !write.effects.reload_pdptrs {
            return Ok(());
        }
        let cr3 = cr3.unwrap_or_else(|| self.cr3());
        match self.load_pdptrs(cr3)? {
            true => Ok(()),
            false => Err(Exception::GP0.into()),
        }
    }

    /// Reads the four page-directory-pointer-table entries that `cr3` points to into the VMCS, and
    /// returns whether they are legal; if not, nothing changes.
    ///
    /// SDM 3A "PDPTE Registers", 5.4.1.
    pub(crate) fn load_pdptrs(&mut self, cr3: u64) -> Result<bool, Stop> {
        let mut bytes = [0u8; 32];
        if self
            .read_physical(Gpa(cr3 & 0xffff_ffe0), &mut bytes)
            .is_err()
        {
            return Ok(false);
        }
        let mut entries = [0u64; 4];
        for (entry, chunk) in entries.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut le = [0; 8];
            le.copy_from_slice(chunk);
            *entry = u64::from_le_bytes(le);
        }
        let maxphyaddr = u32::from(self.arch.cpuid.limits.maxphyaddr.clamp(32, 52));
        let reserved = (u64::MAX << maxphyaddr) | 0x1e6;
        if entries
            .iter()
            .any(|entry| entry & 1 != 0 && entry & reserved != 0)
        {
            return Ok(false);
        }
        self.set_pdptrs(&entries);
        Ok(true)
    }

    /// Returns the PDPTEs.
    pub(crate) fn pdptrs(&self) -> [u64; 4] {
        let vmcs = self.vmcs();
        [
            vmcs.get(GUEST_PDPTR0),
            vmcs.get(GUEST_PDPTR1),
            vmcs.get(GUEST_PDPTR2),
            vmcs.get(GUEST_PDPTR3),
        ]
    }

    /// Sets the PDPTEs, without a check.
    pub(crate) fn set_pdptrs(&mut self, entries: &[u64; 4]) {
        let vmcs = self.vmcs();
        vmcs.set(GUEST_PDPTR0, entries[0]);
        vmcs.set(GUEST_PDPTR1, entries[1]);
        vmcs.set(GUEST_PDPTR2, entries[2]);
        vmcs.set(GUEST_PDPTR3, entries[3]);
    }

    /// Returns whether the guest uses PAE paging, so that the PDPTEs in the VMCS count.
    pub(crate) fn is_pae_paging(&self) -> bool {
        write::is_pae_paging(self.cr0(), self.cr4(), self.efer())
    }
}
