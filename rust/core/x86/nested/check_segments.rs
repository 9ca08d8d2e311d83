// SPDX-License-Identifier: GPL-2.0

//! Checks on guest segment and descriptor-table registers.
//!
//! SDM 3C "Checks on Guest Segment Registers", 27.3.1.2; "Checks on Guest Descriptor-Table
//! Registers", 27.3.1.3. Reserved bits of access rights need no check: vmcs12 does not keep them.

use super::super::vmx::field::*;
use super::check::{
    checks,
    Block,
    Check,
    Entry,
    CR0_PE, //
};
use super::vmcs12::Groups;

bitfield! {
    /// Access rights in the format of the VMCS. SDM 3C "Guest Register State", 25.4.1.
    pub(super) struct AccessRights(u32) {
        /// Type.
        3:0 kind, with_kind => u8;
        /// Code or data segment, not a system segment (S).
        4:4 code_or_data, with_code_or_data => bool;
        /// Descriptor privilege level.
        6:5 dpl, with_dpl => u8;
        /// Present.
        7:7 present, with_present => bool;
        /// 64-bit code (L).
        13:13 long, with_long => bool;
        /// Default operation size (D/B).
        14:14 big, with_big => bool;
        /// Granularity.
        15:15 granularity, with_granularity => bool;
        /// Unusable.
        16:16 unusable, with_unusable => bool;
    }
}

/// A segment register of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Segment {
    /// ES.
    Es,
    /// CS.
    Cs,
    /// SS.
    Ss,
    /// DS.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
    /// LDTR.
    Ldtr,
    /// TR.
    Tr,
}

use Segment::{
    Cs,
    Ds,
    Es,
    Fs,
    Gs,
    Ldtr,
    Ss,
    Tr, //
};

struct Fields {
    selector: Field<u16>,
    base: Field<Natural>,
    limit: Field<u32>,
    access_rights: Field<u32>,
}

macro_rules! fields {
    ($selector:ident $base:ident $limit:ident $access_rights:ident) => {
        Fields {
            selector: $selector,
            base: $base,
            limit: $limit,
            access_rights: $access_rights,
        }
    };
}

impl Segment {
    const fn fields(self) -> Fields {
        match self {
            Es => fields!(GUEST_ES_SELECTOR GUEST_ES_BASE GUEST_ES_LIMIT GUEST_ES_AR_BYTES),
            Cs => fields!(GUEST_CS_SELECTOR GUEST_CS_BASE GUEST_CS_LIMIT GUEST_CS_AR_BYTES),
            Ss => fields!(GUEST_SS_SELECTOR GUEST_SS_BASE GUEST_SS_LIMIT GUEST_SS_AR_BYTES),
            Ds => fields!(GUEST_DS_SELECTOR GUEST_DS_BASE GUEST_DS_LIMIT GUEST_DS_AR_BYTES),
            Fs => fields!(GUEST_FS_SELECTOR GUEST_FS_BASE GUEST_FS_LIMIT GUEST_FS_AR_BYTES),
            Gs => fields!(GUEST_GS_SELECTOR GUEST_GS_BASE GUEST_GS_LIMIT GUEST_GS_AR_BYTES),
            Ldtr => {
                fields!(GUEST_LDTR_SELECTOR GUEST_LDTR_BASE GUEST_LDTR_LIMIT GUEST_LDTR_AR_BYTES)
            }
            Tr => fields!(GUEST_TR_SELECTOR GUEST_TR_BASE GUEST_TR_LIMIT GUEST_TR_AR_BYTES),
        }
    }
}

const DATA: [Segment; 4] = [Ds, Es, Fs, Gs];
const CODE_AND_DATA: [Segment; 6] = [Cs, Ss, Ds, Es, Fs, Gs];

fn selector(e: &Entry<'_>, segment: Segment) -> u16 {
    e.get(segment.fields().selector)
}

fn base(e: &Entry<'_>, segment: Segment) -> u64 {
    e.get(segment.fields().base)
}

fn limit(e: &Entry<'_>, segment: Segment) -> u32 {
    e.get(segment.fields().limit)
}

/// Returns the access rights of `segment`.
pub(super) fn access_rights(e: &Entry<'_>, segment: Segment) -> AccessRights {
    AccessRights(e.get(segment.fields().access_rights))
}

fn is_usable(e: &Entry<'_>, segment: Segment) -> bool {
    !access_rights(e, segment).unusable()
}

fn is_virtual_8086(e: &Entry<'_>) -> bool {
    e.get(GUEST_RFLAGS) & (1 << 17) != 0
}

fn is_unrestricted(e: &Entry<'_>) -> bool {
    e.proc2().unrestricted_guest()
}

/// Returns whether the granularity bit contradicts the limit.
fn is_bad_granularity(e: &Entry<'_>, segment: Segment) -> bool {
    let limit = limit(e, segment);
    if access_rights(e, segment).granularity() {
        limit & 0xfff != 0xfff
    } else {
        limit >> 20 != 0
    }
}

fn has_ti(e: &Entry<'_>, segment: Segment) -> bool {
    selector(e, segment) & 4 != 0
}

fn is_canonical(e: &Entry<'_>, segment: Segment) -> bool {
    e.is_canonical(segment.fields().base)
}

const DEPENDS: Groups = Groups::SEGMENTS.union(Groups::CONTROLS).union(Groups::CRS);

/// TR, LDTR, and what holds in every mode.
pub(super) const TASK_AND_LDT: Block = Block {
    depends: DEPENDS,
    qualification: 0,
    checks: TASK_AND_LDT_CHECKS,
};
/// CS to GS in virtual-8086 mode.
pub(super) const VIRTUAL_8086: Block = Block {
    depends: DEPENDS,
    qualification: 0,
    checks: VIRTUAL_8086_CHECKS,
};
/// CS to GS in the other modes.
pub(super) const PROTECTED: Block = Block {
    depends: DEPENDS,
    qualification: 0,
    checks: PROTECTED_CHECKS,
};
/// GDTR and IDTR.
pub(super) const TABLES: Block = Block {
    depends: Groups::SEGMENTS,
    qualification: 0,
    checks: TABLES_CHECKS,
};

fn ldtr(e: &Entry<'_>) -> Option<AccessRights> {
    Some(access_rights(e, Ldtr)).filter(|rights| !rights.unusable())
}

const TASK_AND_LDT_CHECKS: &[Check] = checks! {
    "G4 TI of TR is 0" => |e| has_ti(e, Tr);
    "G4 TR is usable" => |e| !is_usable(e, Tr);
    "G4 type of TR" => |e| match access_rights(e, Tr).kind() {
        11 => false,
        3 => e.entry().ia32e(),
        _ => true,
    };
    "G4 TR is a system segment" => |e| access_rights(e, Tr).code_or_data();
    "G4 TR is present" => |e| !access_rights(e, Tr).present();
    "G4 granularity of TR" => |e| is_bad_granularity(e, Tr);
    "G4 base of TR" => |e| !is_canonical(e, Tr);
    "G4 TI of LDTR is 0" => |e| ldtr(e).is_some() && has_ti(e, Ldtr);
    "G4 type of LDTR" => |e| ldtr(e).is_some_and(|rights| rights.kind() != 2);
    "G4 LDTR is a system segment" => |e| ldtr(e).is_some_and(AccessRights::code_or_data);
    "G4 LDTR is present" => |e| ldtr(e).is_some_and(|rights| !rights.present());
    "G4 granularity of LDTR" => |e| ldtr(e).is_some() && is_bad_granularity(e, Ldtr);
    "G4 base of LDTR" => |e| ldtr(e).is_some() && !is_canonical(e, Ldtr);
    "G4 bases of FS and GS" => |e| !is_canonical(e, Fs) || !is_canonical(e, Gs);
    "G4 base of CS" => |e| base(e, Cs) >> 32 != 0;
    "G4 bases of SS, DS and ES" => |e| {
        [Ss, Ds, Es].iter().any(|segment| is_usable(e, *segment) && base(e, *segment) >> 32 != 0)
    };
};

const VIRTUAL_8086_CHECKS: &[Check] = checks! {
    "G4 bases in virtual-8086 mode" => |e| {
        is_virtual_8086(e)
            && CODE_AND_DATA
                .iter()
                .any(|segment| base(e, *segment) != u64::from(selector(e, *segment)) << 4)
    };
    "G4 limits in virtual-8086 mode" => |e| {
        is_virtual_8086(e) && CODE_AND_DATA.iter().any(|segment| limit(e, *segment) != 0xffff)
    };
    "G4 access rights in virtual-8086 mode" => |e| {
        is_virtual_8086(e)
            && CODE_AND_DATA.iter().any(|segment| access_rights(e, *segment).0 != 0xf3)
    };
};

/// Returns whether `violated` holds for CS, or for a usable one of SS, DS, ES, FS and GS, in a mode
/// other than virtual-8086.
fn any_segment(
    e: &Entry<'_>,
    segments: &[Segment],
    violated: fn(&Entry<'_>, Segment) -> bool,
) -> bool {
    let is_checked = |segment| segment == Cs || is_usable(e, segment);
    !is_virtual_8086(e)
        && segments
            .iter()
            .any(|segment| is_checked(*segment) && violated(e, *segment))
}

const PROTECTED_CHECKS: &[Check] = checks! {
    "G4 RPL of SS is that of CS" => |e| {
        !is_virtual_8086(e)
            && !is_unrestricted(e)
            && (selector(e, Ss) ^ selector(e, Cs)) & 3 != 0
    };
    "G4 type of CS" => |e| any_segment(e, &[Cs], |e, cs| match access_rights(e, cs).kind() {
        9 | 11 | 13 | 15 => false,
        3 => !is_unrestricted(e),
        _ => true,
    });
    "G4 type of SS" => |e| {
        any_segment(e, &[Ss], |e, ss| !matches!(access_rights(e, ss).kind(), 3 | 7))
    };
    "G4 data segments are accessed" => |e| {
        any_segment(e, &DATA, |e, segment| access_rights(e, segment).kind() & 1 == 0)
    };
    "G4 code segments in data registers are readable" => |e| {
        any_segment(e, &DATA, |e, segment| access_rights(e, segment).kind() & 0xa == 8)
    };
    "G4 segments are code or data" => |e| {
        any_segment(e, &CODE_AND_DATA, |e, segment| !access_rights(e, segment).code_or_data())
    };
    "G4 DPL of CS" => |e| any_segment(e, &[Cs], |e, cs| {
        let cs = access_rights(e, cs);
        let ss = access_rights(e, Ss);
        match cs.kind() {
            3 => cs.dpl() != 0,
            9 | 11 => cs.dpl() != ss.dpl(),
            13 | 15 => cs.dpl() > ss.dpl(),
            _ => false,
        }
    });
    "G4 DPL of SS is its RPL" => |e| {
        !is_virtual_8086(e)
            && !is_unrestricted(e)
            && u16::from(access_rights(e, Ss).dpl()) != selector(e, Ss) & 3
    };
    "G4 DPL of SS is 0 with a data CS or in real mode" => |e| {
        let is_real = e.get(GUEST_CR0) & CR0_PE == 0;
        !is_virtual_8086(e)
            && (access_rights(e, Cs).kind() == 3 || is_real)
            && access_rights(e, Ss).dpl() != 0
    };
    "G4 DPL of data segments is not below their RPL" => |e| {
        !is_unrestricted(e)
            && any_segment(e, &DATA, |e, segment| {
                let rights = access_rights(e, segment);
                rights.kind() <= 11 && u16::from(rights.dpl()) < selector(e, segment) & 3
            })
    };
    "G4 segments are present" => |e| {
        any_segment(e, &CODE_AND_DATA, |e, segment| !access_rights(e, segment).present())
    };
    "G4 64-bit CS has D 0" => |e| {
        let cs = access_rights(e, Cs);
        !is_virtual_8086(e) && e.entry().ia32e() && cs.long() && cs.big()
    };
    "G4 granularity of segments" => |e| any_segment(e, &CODE_AND_DATA, is_bad_granularity);
};

const TABLES_CHECKS: &[Check] = checks! {
    "G5 base of GDTR" => |e| !e.is_canonical(GUEST_GDTR_BASE);
    "G5 base of IDTR" => |e| !e.is_canonical(GUEST_IDTR_BASE);
    "G5 limit of GDTR" => |e| e.get(GUEST_GDTR_LIMIT) >> 16 != 0;
    "G5 limit of IDTR" => |e| e.get(GUEST_IDTR_LIMIT) >> 16 != 0;
};
