// SPDX-License-Identifier: GPL-2.0

//! VMCS shadowing for L1: which fields of vmcs12 it reads and writes without an exit.
//!
//! While L1 runs, a hardware shadow VMCS holds a copy of these fields. [`push`] brings it up to date
//! before L1 runs, [`pull`] takes back what L1 wrote before vmcs12 is used. Both cost a VMREAD or
//! VMWRITE for each field, so the lists hold only what hypervisors touch around every entry; fields
//! that they read then, but rarely write, are shadowed for VMREAD alone.

use super::super::vmx::field::*;
use super::vmcs12::{
    FieldSet,
    Vmcs12, //
};

/// A page of the VMREAD or VMWRITE bitmap; bit n stands for encoding n, and a set bit exits.
pub type Bitmap = [u64; 512];

/// Fields that L1 reads and writes without an exit.
pub const READ_WRITE: &[Encoding] = &[
    GUEST_RIP.encoding(),
    GUEST_RSP.encoding(),
    GUEST_RFLAGS.encoding(),
    GUEST_CR3.encoding(),
    GUEST_INTERRUPTIBILITY_INFO.encoding(),
    CPU_BASED_VM_EXEC_CONTROL.encoding(),
    VM_ENTRY_INTR_INFO_FIELD.encoding(),
    VM_ENTRY_EXCEPTION_ERROR_CODE.encoding(),
    VM_ENTRY_INSTRUCTION_LEN.encoding(),
    TPR_THRESHOLD.encoding(),
];

/// Fields that L1 reads without an exit; it writes them with one.
pub const READ_ONLY: &[Encoding] = &[
    VM_EXIT_REASON.encoding(),
    EXIT_QUALIFICATION.encoding(),
    VM_EXIT_INTR_INFO.encoding(),
    VM_EXIT_INTR_ERROR_CODE.encoding(),
    IDT_VECTORING_INFO_FIELD.encoding(),
    IDT_VECTORING_ERROR_CODE.encoding(),
    VM_EXIT_INSTRUCTION_LEN.encoding(),
    VMX_INSTRUCTION_INFO.encoding(),
    GUEST_LINEAR_ADDRESS.encoding(),
    GUEST_PHYSICAL_ADDRESS.encoding(),
    GUEST_CR0.encoding(),
    GUEST_CR4.encoding(),
    GUEST_CS_AR_BYTES.encoding(),
    GUEST_SS_AR_BYTES.encoding(),
    GUEST_INTR_STATUS.encoding(),
];

/// Fills in the VMREAD and VMWRITE bitmaps for an L1 that has the fields of `exists`.
pub fn bitmaps(exists: &FieldSet, vmread: &mut Bitmap, vmwrite: &mut Bitmap) {
    vmread.fill(u64::MAX);
    vmwrite.fill(u64::MAX);
    for encoding in READ_WRITE
        .iter()
        .filter(|encoding| exists.contains(**encoding))
    {
        open(vmread, *encoding);
        open(vmwrite, *encoding);
    }
    for encoding in READ_ONLY
        .iter()
        .filter(|encoding| exists.contains(**encoding))
    {
        open(vmread, *encoding);
    }
}

/// Clears the bits of a field and of its high half.
fn open(bitmap: &mut Bitmap, encoding: Encoding) {
    let halves: u64 = match encoding.width() {
        FieldWidth::Quad => 3,
        FieldWidth::Word | FieldWidth::Double | FieldWidth::Natural => 1,
    };
    if let Some(word) = bitmap.get_mut((encoding.0 >> 6) as usize) {
        *word &= !(halves << (encoding.0 & 63));
    }
}

/// Takes back what L1 may have written; changed values mark their groups dirty.
pub fn pull(v: &mut Vmcs12, exists: &FieldSet, shadow: &impl VmcsAccess) {
    for encoding in READ_WRITE
        .iter()
        .filter(|encoding| exists.contains(**encoding))
    {
        v.write_raw(*encoding, shadow.read_raw(*encoding));
    }
}

/// Brings the shadow VMCS up to date.
pub fn push(v: &Vmcs12, exists: &FieldSet, shadow: &mut impl VmcsAccess) {
    let fields = READ_WRITE.iter().chain(READ_ONLY);
    for encoding in fields.filter(|encoding| exists.contains(**encoding)) {
        shadow.write_raw(*encoding, v.read_raw(*encoding));
    }
}

#[cfg(test)]
mod tests {
    use super::super::sync::is_lazy;
    use super::super::vmcs12::Groups;
    use super::*;

    fn is_open(bitmap: &Bitmap, encoding: u32) -> bool {
        bitmap[(encoding >> 6) as usize] >> (encoding & 63) & 1 == 0
    }

    #[test]
    fn bitmaps_open_exactly_the_lists() {
        let (mut vmread, mut vmwrite) = ([0; 512], [0; 512]);
        bitmaps(&FieldSet::all(), &mut vmread, &mut vmwrite);
        for encoding in 0..0x8000 {
            let full = Encoding(encoding).full();
            let is_half = Encoding(encoding).is_wellformed();
            let writes = is_half && READ_WRITE.contains(&full);
            let reads = writes || is_half && READ_ONLY.contains(&full);
            assert_eq!(is_open(&vmread, encoding), reads, "{encoding:#x}");
            assert_eq!(is_open(&vmwrite, encoding), writes, "{encoding:#x}");
        }
    }

    #[test]
    fn field_that_l1_lacks_exits() {
        let mut exists = FieldSet::all();
        exists.remove(TPR_THRESHOLD.encoding());
        let (mut vmread, mut vmwrite) = ([0; 512], [0; 512]);
        bitmaps(&exists, &mut vmread, &mut vmwrite);
        assert!(!is_open(&vmread, TPR_THRESHOLD.encoding().0));
        assert!(!is_open(&vmwrite, TPR_THRESHOLD.encoding().0));
    }

    #[test]
    fn no_shadowed_field_is_lazy_or_needs_bits_dropped() {
        for encoding in READ_WRITE.iter().chain(READ_ONLY) {
            assert!(!is_lazy(*encoding), "{encoding:?}");
            assert!(FieldSet::all().contains(*encoding));
        }
        // VMWRITE to the hardware's shadow would keep the reserved bits of access rights.
        let rights = GUEST_ES_AR_BYTES.encoding().0..=GUEST_TR_AR_BYTES.encoding().0;
        assert!(!READ_WRITE
            .iter()
            .any(|encoding| rights.contains(&encoding.0)));
    }

    #[test]
    fn pull_takes_changes_and_marks_only_those() {
        let mut v = Vmcs12::new();
        v.clear_dirty();
        let mut shadow = TableVmcs::new();
        push(&v, &FieldSet::all(), &mut shadow);
        pull(&mut v, &FieldSet::all(), &shadow);
        assert!(v.dirty().is_empty());
        shadow.write(GUEST_RIP, 0x55);
        shadow.write(VM_EXIT_REASON, 3);
        pull(&mut v, &FieldSet::all(), &shadow);
        assert_eq!((v.read(GUEST_RIP), v.read(VM_EXIT_REASON)), (0x55, 0));
        assert_eq!(v.dirty(), Groups::RIP);
    }
}
