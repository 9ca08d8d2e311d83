// SPDX-License-Identifier: GPL-2.0

//! Segment registers, between the VMCS and core's types.

use crate::arch::x86::cpu::Cpu;
use burrow_core::x86::{
    segment::{
        AccessRights,
        Dtable,
        Name,
        Segment,
        Selector, //
    },
    vmx::field::*, //
};

/// The four fields of a segment register in the VMCS.
struct Fields {
    selector: Field<u16>,
    base: Field<Natural>,
    limit: Field<u32>,
    rights: Field<u32>,
}

macro_rules! fields {
    ($selector:ident, $base:ident, $limit:ident, $rights:ident) => {
        Fields {
            selector: $selector,
            base: $base,
            limit: $limit,
            rights: $rights,
        }
    };
}

const fn fields_of(name: Name) -> Fields {
    match name {
        Name::Es => fields!(
            GUEST_ES_SELECTOR,
            GUEST_ES_BASE,
            GUEST_ES_LIMIT,
            GUEST_ES_AR_BYTES
        ),
        Name::Cs => fields!(
            GUEST_CS_SELECTOR,
            GUEST_CS_BASE,
            GUEST_CS_LIMIT,
            GUEST_CS_AR_BYTES
        ),
        Name::Ss => fields!(
            GUEST_SS_SELECTOR,
            GUEST_SS_BASE,
            GUEST_SS_LIMIT,
            GUEST_SS_AR_BYTES
        ),
        Name::Ds => fields!(
            GUEST_DS_SELECTOR,
            GUEST_DS_BASE,
            GUEST_DS_LIMIT,
            GUEST_DS_AR_BYTES
        ),
        Name::Fs => fields!(
            GUEST_FS_SELECTOR,
            GUEST_FS_BASE,
            GUEST_FS_LIMIT,
            GUEST_FS_AR_BYTES
        ),
        Name::Gs => fields!(
            GUEST_GS_SELECTOR,
            GUEST_GS_BASE,
            GUEST_GS_LIMIT,
            GUEST_GS_AR_BYTES
        ),
        Name::Ldtr => {
            fields!(
                GUEST_LDTR_SELECTOR,
                GUEST_LDTR_BASE,
                GUEST_LDTR_LIMIT,
                GUEST_LDTR_AR_BYTES
            )
        }
        Name::Tr => fields!(
            GUEST_TR_SELECTOR,
            GUEST_TR_BASE,
            GUEST_TR_LIMIT,
            GUEST_TR_AR_BYTES
        ),
    }
}

impl Cpu<'_> {
    /// Returns the access rights in `field`.
    #[inline]
    pub(crate) fn segment_rights(&self, field: Field<u32>) -> AccessRights {
        AccessRights(self.vmcs().get(field))
    }

    /// Returns a segment register.
    pub(crate) fn segment(&self, name: Name) -> Segment {
        let fields = fields_of(name);
        let vmcs = self.vmcs();
        Segment {
            selector: Selector(vmcs.get(fields.selector)),
            base: vmcs.get(fields.base),
            limit: vmcs.get(fields.limit),
            rights: AccessRights(vmcs.get(fields.rights)),
        }
    }

    /// Sets a segment register.
    pub(crate) fn set_segment(&mut self, name: Name, segment: Segment) {
        let fields = fields_of(name);
        let vmcs = self.vmcs();
        vmcs.set(fields.selector, segment.selector.0);
        vmcs.set(fields.base, segment.base);
        vmcs.set(fields.limit, segment.limit);
        vmcs.set(fields.rights, segment.rights.0);
    }

    /// Returns the current privilege level: the DPL of SS, in real-address mode, too. SDM 3C "Saving Segment
    /// Registers and Descriptor-Table Registers", 28.3.2.
    #[inline]
    pub(crate) fn cpl(&self) -> u8 {
        self.segment_rights(GUEST_SS_AR_BYTES).dpl()
    }

    /// Returns GDTR.
    pub(crate) fn gdtr(&self) -> Dtable {
        let vmcs = self.vmcs();
        // CAST: bits 31:16 of the limit are 0, or the entry would have failed.
        Dtable {
            base: vmcs.get(GUEST_GDTR_BASE),
            limit: vmcs.get(GUEST_GDTR_LIMIT) as u16,
        }
    }

    /// Sets GDTR.
    pub(crate) fn set_gdtr(&mut self, value: Dtable) {
        self.vmcs().set(GUEST_GDTR_BASE, value.base);
        self.vmcs().set(GUEST_GDTR_LIMIT, u32::from(value.limit));
    }

    /// Returns IDTR.
    pub(crate) fn idtr(&self) -> Dtable {
        let vmcs = self.vmcs();
        // CAST: as for GDTR.
        Dtable {
            base: vmcs.get(GUEST_IDTR_BASE),
            limit: vmcs.get(GUEST_IDTR_LIMIT) as u16,
        }
    }

    /// Sets IDTR.
    pub(crate) fn set_idtr(&mut self, value: Dtable) {
        self.vmcs().set(GUEST_IDTR_BASE, value.base);
        self.vmcs().set(GUEST_IDTR_LIMIT, u32::from(value.limit));
    }
}
