// SPDX-License-Identifier: GPL-2.0

//! Guest memory by linear address: the guest's own page walk, then its physical memory.

use crate::arch::x86::{
    cpu::Cpu,
    mmu::GuestEntries,
    outcome::EptFault, //
};
use burrow_core::{
    addr::{
        Gpa,
        Gva, //
    },
    outcome::Exception,
    x86::{
        cpuid::feature,
        nested::eptwalk::Access as Rights12,
        vmx::{
            exit::EptViolation,
            field::*, //
        },
        walk::{
            self,
            Access,
            EntryWidth,
            GuestMem,
            Kind,
            Mode,
            Paging,
            Privilege,
            Translation,
            WalkError, //
        }, //
    },
};
use kernel::error::{
    code::EFAULT,
    Error, //
};

/// What an access of L2 is to L1's EPT: one to a guest paging structure, or to memory itself.
enum Access12 {
    Walk(Rights12),
    Final(Rights12),
}

/// The guest's paging structures, in its memory; for L2, in what L1 gives it as memory.
pub(crate) struct Tables<'a, 'b> {
    cpu: &'a mut Cpu<'b>,
    pub(crate) entries: GuestEntries<'b>,
}

impl GuestMem for Tables<'_, '_> {
    type Error = EptFault;

    fn read_entry(&mut self, address: Gpa, width: EntryWidth) -> Result<u64, EptFault> {
        let address = self
            .cpu
            .l1_address(address, Access12::Walk(Rights12::Read))?;
        match self.entries.read_entry(address, width) {
            Ok(entry) => Ok(entry),
        }
    }

    fn cmpxchg_entry(
        &mut self,
        address: Gpa,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<bool, EptFault> {
        let address = self
            .cpu
            .l1_address(address, Access12::Walk(Rights12::Write))?;
        match self.entries.cmpxchg_entry(address, width, old, new) {
            Ok(is_stored) => Ok(is_stored),
        }
    }
}

/// Why an access by linear address failed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LinearError {
    /// The guest's page tables do not allow it.
    Fault(Exception),
    /// L1's EPT does not allow it.
    Nested(EptFault),
}

impl From<WalkError<EptFault>> for LinearError {
    fn from(error: WalkError<EptFault>) -> Self {
        match error {
            WalkError::Fault(exception) => Self::Fault(exception),
            WalkError::Mem(fault) => Self::Nested(fault),
        }
    }
}

impl<'b> Cpu<'b> {
    /// Returns the guest's paging structures.
    pub(crate) fn tables(&mut self) -> Tables<'_, 'b> {
        let entries = self.memory().entries();
        Tables { cpu: self, entries }
    }
}

impl Cpu<'_> {
    /// Returns what translations depend on, but for the paging structures.
    pub(crate) fn paging(&self) -> Paging {
        let (cr0, cr4, efer) = (self.cr0(), self.cr4(), self.efer());
        let mode = match (cr0.pg(), efer.lma(), cr4.pae()) {
            (false, _, _) => Mode::Off,
            (true, true, _) if cr4.la57() => Mode::FiveLevel,
            (true, true, _) => Mode::FourLevel,
            (true, false, true) => Mode::Pae,
            (true, false, false) => Mode::Bits32,
        };
        let vmcs = self.vmcs();
        let pdptes = match mode {
            Mode::Pae => [
                vmcs.get(GUEST_PDPTR0),
                vmcs.get(GUEST_PDPTR1),
                vmcs.get(GUEST_PDPTR2),
                vmcs.get(GUEST_PDPTR3),
            ],
            _ => [0; 4],
        };
        Paging {
            mode,
            cr3: self.cr3(),
            pdptes,
            physical_address_bits: self.arch.cpuid.limits.maxphyaddr,
            write_protect: cr0.wp(),
            page_size_extensions: cr4.pse(),
            pse_36: self.arch.cpuid.caps.has(feature::PSE36),
            page_1g: self.arch.cpuid.caps.has(feature::GBPAGES),
            execute_disable: efer.nxe(),
            smep: cr4.smep(),
            smap: cr4.smap(),
            protection_keys: cr4.pke(),
            pkru: self.arch.extended.pkru,
        }
    }

    /// Returns on whose behalf the current code accesses data.
    pub(crate) fn privilege(&self) -> Privilege {
        match (self.cpl(), self.rflags().ac()) {
            (3, _) => Privilege::User,
            (_, true) => Privilege::SupervisorAc,
            (_, false) => Privilege::Supervisor,
        }
    }

    /// Translates a linear address.
    ///
    /// # Errors
    ///
    /// The page fault that the access causes, or the fault in L1's EPT.
    pub(crate) fn translate(
        &mut self,
        gva: Gva,
        kind: Kind,
        privilege: Privilege,
    ) -> Result<Translation, LinearError> {
        let paging = self.paging();
        let access = Access { kind, privilege };
        let mut translation = walk::translate(&mut self.tables(), &paging, gva, access)?;
        let rights = match kind {
            Kind::Read => Rights12::Read,
            Kind::Write => Rights12::Write,
            Kind::Fetch if translation.is_user => Rights12::UserFetch,
            Kind::Fetch => Rights12::Fetch,
        };
        let at = self.l1_address(translation.gpa, Access12::Final(rights));
        translation.gpa = at.map_err(LinearError::Nested)?;
        Ok(translation)
    }

    /// Translates a guest-physical address of the guest that runs to one of L1.
    fn l1_address(&mut self, gpa: Gpa, access: Access12) -> Result<Gpa, EptFault> {
        if !self.has_ept12() {
            return Ok(gpa);
        }
        let (rights, is_final) = match access {
            Access12::Walk(rights) => (rights, false),
            Access12::Final(rights) => (rights, true),
        };
        let hw = EptViolation(0)
            .with_read(rights == Rights12::Read)
            .with_write(rights == Rights12::Write)
            .with_fetch(matches!(rights, Rights12::Fetch | Rights12::UserFetch))
            .with_linear_valid(true)
            .with_is_final(is_final);
        Ok(self.translate_l2(gpa, rights, hw)?.gpa)
    }

    /// Reads memory of the guest that runs by guest-physical address; not across a page.
    ///
    /// # Errors
    ///
    /// `EFAULT` where nothing is.
    pub(crate) fn read_physical(&mut self, gpa: Gpa, out: &mut [u8]) -> Result<(), Error> {
        let at = self
            .l1_address(gpa, Access12::Walk(Rights12::Read))
            .map_err(|_| EFAULT)?;
        self.memory().read(at, out)
    }
}
