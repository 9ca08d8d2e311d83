// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

fn write(v: &mut Vmcs12, encoding: u64, value: u64) -> Result<(), VmInsnError> {
    v.vmwrite(encoding, value, &FieldSet::all(), ReadOnlyFields::Writable)
}

fn read(v: &Vmcs12, encoding: u64) -> Result<u64, VmInsnError> {
    v.vmread(encoding, &FieldSet::all())
}

fn size(row: &Row) -> usize {
    match row.encoding.width() {
        FieldWidth::Word => 2,
        FieldWidth::Double => 4,
        FieldWidth::Quad | FieldWidth::Natural => 8,
    }
}

#[test]
fn layout_has_no_overlaps_and_natural_alignment() {
    let mut used = [false; REGION_SIZE];
    used[..12].fill(true);
    for row in ROWS {
        let offset = usize::from(row.offset);
        assert_eq!(offset % size(row), 0);
        for byte in &mut used[offset..offset + size(row)] {
            assert!(!*byte, "{:?}", row.encoding);
            *byte = true;
        }
    }
    assert_eq!(ROWS.len(), 147);
}

#[test]
fn offsets_are_those_of_migration() {
    let mut v = Vmcs12::new();
    v.launch_state = LaunchState::Launched;
    v.abort = 0x0102_0304;
    v.write(IO_BITMAP_A, 0x1122_3344_5566_7788);
    v.write(GUEST_PML_INDEX, 0xabcd);
    v.write(TSC_MULTIPLIER, 7);
    v.write(PIN_BASED_VM_EXEC_CONTROL, 0x16);
    v.write(VIRTUAL_PROCESSOR_ID, 0x1234);
    v.write(HOST_RIP, 0xffff_8000_0000_0001);
    let mut region = [0xee; REGION_SIZE];
    v.store(&mut region);
    assert_eq!(region[..4], [0xd0, 0x7e, 0xe5, 0x11]);
    assert_eq!(region[4..8], [4, 3, 2, 1]);
    assert_eq!(region[8..12], [1, 0, 0, 0]);
    assert_eq!(region[12], 0xee, "padding is left alone");
    assert_eq!(region[40..48], 0x1122_3344_5566_7788_u64.to_le_bytes());
    assert_eq!(region[328..336], 7_u64.to_le_bytes());
    assert_eq!(region[672..680], 0xffff_8000_0000_0001_u64.to_le_bytes());
    assert_eq!(region[744..748], 0x16_u32.to_le_bytes());
    assert_eq!(region[960..962], [0x34, 0x12]);
    assert_eq!(region[996..999], [0xcd, 0xab, 0xee]);
}

#[test]
fn high_half_access_touches_the_high_half_only() {
    let mut v = Vmcs12::new();
    write(&mut v, 0x201a, 0x1111_2222_3333_4444).unwrap();
    assert_eq!(read(&v, 0x201b), Ok(0x1111_2222));
    write(&mut v, 0x201b, 0xffff_ffff_aaaa_bbbb).unwrap();
    assert_eq!(read(&v, 0x201a), Ok(0xaaaa_bbbb_3333_4444));
    assert_eq!(v.read(EPT_POINTER), 0xaaaa_bbbb_3333_4444);
    write(&mut v, 0x201a, 5).unwrap();
    assert_eq!(read(&v, 0x201b), Ok(0), "a full write replaces both halves");
}

#[test]
fn access_rights_drop_reserved_bits() {
    let mut v = Vmcs12::new();
    for encoding in (0x4814..=0x4822).step_by(2) {
        write(&mut v, encoding, u64::MAX).unwrap();
        assert_eq!(read(&v, encoding), Ok(0x1_f0ff), "{encoding:#x}");
    }
    write(&mut v, 0x4812, u64::MAX).unwrap();
    assert_eq!(
        read(&v, 0x4812),
        Ok(0xffff_ffff),
        "the neighbour below is a limit"
    );
    write(&mut v, 0x4824, u64::MAX).unwrap();
    assert_eq!(
        read(&v, 0x4824),
        Ok(0xffff_ffff),
        "the neighbour above is interruptibility"
    );
}

#[test]
fn unknown_fields_fail_with_12() {
    let mut v = Vmcs12::new();
    let rip = u64::from(GUEST_RIP.encoding().0);
    for bad in [
        rip | 1,
        rip | 1 << 12,
        rip | 1 << 15,
        rip | 1 << 32,
        0x681f,
        0x4bfe,
        u64::MAX,
    ] {
        assert_eq!(
            read(&v, bad),
            Err(VmInsnError::UnsupportedComponent),
            "{bad:#x}"
        );
        assert_eq!(
            write(&mut v, bad, 0),
            Err(VmInsnError::UnsupportedComponent)
        );
    }
    // Known to the manual, but not part of the layout.
    assert!(read(&v, u64::from(NOTIFY_WINDOW.encoding().0)).is_err());
    assert!(read(&v, u64::from(CR3_TARGET_VALUE0.encoding().0)).is_err());
}

#[test]
fn field_without_its_feature_does_not_exist() {
    let mut exists = FieldSet::all();
    exists.remove(EPT_POINTER.encoding());
    let mut v = Vmcs12::new();
    for encoding in [0x201a, 0x201b] {
        assert_eq!(
            v.vmread(encoding, &exists),
            Err(VmInsnError::UnsupportedComponent)
        );
        let wrote = v.vmwrite(encoding, 1, &exists, ReadOnlyFields::Writable);
        assert_eq!(wrote, Err(VmInsnError::UnsupportedComponent));
    }
}

#[test]
fn read_only_fields_fail_with_13_unless_writable() {
    let mut v = Vmcs12::new();
    let go = |v: &mut Vmcs12, fields| v.vmwrite(0x4402, 10, &FieldSet::all(), fields);
    let error = VmInsnError::VmwriteReadOnlyComponent;
    assert_eq!(go(&mut v, ReadOnlyFields::Protected), Err(error));
    assert_eq!(v.read(VM_EXIT_REASON), 0);
    assert_eq!(go(&mut v, ReadOnlyFields::Writable), Ok(()));
    assert_eq!(v.read(VM_EXIT_REASON), 10);
}

#[test]
fn only_a_changed_value_marks_its_group() {
    let mut v = Vmcs12::new();
    v.clear_dirty();
    write(&mut v, 0x681e, 0).unwrap();
    assert!(v.dirty().is_empty());
    write(&mut v, 0x681e, 4).unwrap();
    assert_eq!(v.dirty(), Groups::RIP);
    v.clear_dirty();
    write(&mut v, 0x6c16, 4).unwrap();
    write(&mut v, 0x201b, 4).unwrap();
    assert_eq!(v.dirty(), Groups::HOST.union(Groups::EPTP));
}

#[test]
fn fields_that_no_check_reads_have_groups_of_their_own() {
    let mut v = Vmcs12::new();
    v.clear_dirty();
    v.write(HOST_RSP, 0x1234);
    assert_eq!(v.dirty(), Groups::INFO);
    v.write(EXCEPTION_BITMAP, 1 << 6);
    v.write(PAGE_FAULT_ERROR_CODE_MASK, 1);
    v.write(PAGE_FAULT_ERROR_CODE_MATCH, 1);
    assert_eq!(v.dirty(), Groups::INFO.union(Groups::EXCEPTIONS));
}

#[test]
fn window_toggle_does_not_dirty_the_controls() {
    let mut v = Vmcs12::new();
    v.write(CPU_BASED_VM_EXEC_CONTROL, 0x8401_e172);
    v.clear_dirty();
    v.write(CPU_BASED_VM_EXEC_CONTROL, 0x8401_e172 | 1 << 2 | 1 << 22);
    assert_eq!(v.dirty(), Groups::WINDOWS);
    v.write(CPU_BASED_VM_EXEC_CONTROL, 0x8401_e172 | 1 << 7);
    assert!(v.dirty().intersects(Groups::CONTROLS));
}

#[test]
fn vm_flag_dirties_the_segments() {
    let mut v = Vmcs12::new();
    v.clear_dirty();
    v.write(GUEST_RFLAGS, 0x202);
    assert!(!v.dirty().intersects(Groups::SEGMENTS));
    v.write(GUEST_RFLAGS, 0x2_0202);
    assert!(v.dirty().intersects(Groups::SEGMENTS));
}

#[test]
fn synced_values_stay_clean() {
    let mut v = Vmcs12::new();
    v.clear_dirty();
    v.put_synced(GUEST_RIP, 0x1000);
    assert_eq!(v.read(GUEST_RIP), 0x1000);
    assert!(v.dirty().is_empty());
}

#[test]
fn only_fail_valid_leaves_an_error_number() {
    let mut v = Vmcs12::new();
    v.record_failure(VmFail::Valid(VmInsnError::VmlaunchNonclearVmcs));
    assert_eq!(v.read(VM_INSTRUCTION_ERROR), 4);
    v.record_failure(VmFail::Invalid);
    assert_eq!(v.read(VM_INSTRUCTION_ERROR), 4);
}

#[test]
fn enumeration_covers_the_highest_index() {
    // The TSC multiplier has the highest index of all fields that the layout holds.
    let mut exists = FieldSet::all();
    assert_eq!(exists.vmcs_enum(), 0x32);
    exists.remove(TSC_MULTIPLIER.encoding());
    assert_eq!(exists.vmcs_enum(), 0x2e);
}

proptest! {
    #[test]
    fn store_then_load_is_identity(values in proptest::collection::vec(any::<u64>(), ROWS.len())) {
        let mut a = Vmcs12::new();
        for (row, value) in ROWS.iter().zip(&values) {
            a.write_raw(row.encoding, *value);
        }
        let mut region = [0; REGION_SIZE];
        a.store(&mut region);
        let mut b = Vmcs12::new();
        b.clear_dirty();
        b.load(&region);
        prop_assert_eq!(a.values, b.values);
        prop_assert_eq!(b.dirty(), Groups::ALL);
    }

    #[test]
    fn any_operand_and_region_is_survived(
        operand in any::<u64>(),
        value in any::<u64>(),
        region in proptest::collection::vec(any::<u8>(), REGION_SIZE),
    ) {
        let mut v = Vmcs12::new();
        v.load(region.as_slice().try_into().unwrap());
        let wrote = write(&mut v, operand & 0x1_7fff, value);
        prop_assert_eq!(wrote.is_ok(), read(&v, operand & 0x1_7fff).is_ok());
    }
}
