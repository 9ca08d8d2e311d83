// SPDX-License-Identifier: GPL-2.0

use super::super::vmcs12::Groups;
use super::*;
use crate::x86::vmx::insn::VmInsnError;
use core::cell::RefCell;
use proptest::prelude::*;

/// The hardware's shadow VMCS, as L0 reaches it.
struct Cached {
    hardware: TableVmcs,
    known: RefCell<[Option<u64>; NR_SLOTS]>,
}

impl VmcsAccess for Cached {
    fn read_raw(&self, encoding: Encoding) -> u64 {
        let known = &mut self.known.borrow_mut()[encoding.slot().unwrap()];
        *known.get_or_insert_with(|| self.hardware.read_raw(encoding))
    }

    fn write_raw(&mut self, encoding: Encoding, value: u64) {
        let known = &mut self.known.borrow_mut()[encoding.slot().unwrap()];
        if known.replace(value) != Some(value) {
            self.hardware.write_raw(encoding, value);
        }
    }
}

impl CachedVmcs for Cached {
    fn forget(&mut self, fields: &FieldSet) {
        let known = self.known.get_mut();
        fields.for_each(|slot, _| known[slot] = None);
    }
}

/// A vmcs12, the hardware's shadow VMCS, and L1's VMREAD and VMWRITE.
struct Machine {
    v: Vmcs12,
    fields: Shadowed,
    shadow: Cached,
    vmread: Box<Bitmap>,
    vmwrite: Box<Bitmap>,
    exits: usize,
}

fn is_open(bitmap: &Bitmap, encoding: Encoding) -> bool {
    bitmap[(encoding.0 >> 6) as usize] >> (encoding.0 & 63) & 1 == 0
}

impl Machine {
    fn new() -> Self {
        let all = FieldSet::all();
        Self::with(&all, &all)
    }

    fn with(exists: &FieldSet, hardware: &FieldSet) -> Self {
        let mut machine = Self {
            v: Vmcs12::new(),
            fields: Shadowed::new(exists, hardware),
            shadow: Cached {
                hardware: TableVmcs::new(),
                known: RefCell::new([None; NR_SLOTS]),
            },
            vmread: Box::new([0; 512]),
            vmwrite: Box::new([0; 512]),
            exits: 0,
        };
        close_all(&mut machine.parts().1);
        machine
    }

    fn parts(&mut self) -> (&mut Shadowed, Bitmaps<'_>) {
        let bitmaps = Bitmaps {
            vmread: &mut self.vmread,
            vmwrite: &mut self.vmwrite,
        };
        (&mut self.fields, bitmaps)
    }

    fn push(&mut self) {
        let (fields, mut bitmaps) = self.parts();
        if fields.begin_round(&mut bitmaps) {
            self.fields.push(&self.v, &mut self.shadow);
        }
    }

    fn pull(&mut self) {
        self.fields.pull(&mut self.v, &mut self.shadow);
    }

    /// VMREAD of L1.
    fn read(&mut self, encoding: Encoding) -> u64 {
        if is_open(&self.vmread, encoding) {
            return self.shadow.hardware.read_raw(encoding);
        }
        self.exits += 1;
        let value = self.v.vmread(u64::from(encoding.0), &FieldSet::all());
        let (fields, mut bitmaps) = self.parts();
        fields.note_exit(u64::from(encoding.0), Access::Read, &mut bitmaps);
        value.unwrap()
    }

    /// VMWRITE of L1.
    fn write(&mut self, encoding: Encoding, value: u64) {
        if is_open(&self.vmwrite, encoding) {
            return self.shadow.hardware.write_raw(encoding, value);
        }
        self.exits += 1;
        let (operand, writable) = (
            u64::from(encoding.0),
            super::super::vmcs12::ReadOnlyFields::Writable,
        );
        let written: Result<(), VmInsnError> =
            self.v.vmwrite(operand, value, &FieldSet::all(), writable);
        let (fields, mut bitmaps) = self.parts();
        fields.note_exit(operand, Access::Write, &mut bitmaps);
        written.unwrap();
    }

    /// A round in which L1 reads `read`, writes `value` to `write`, and enters L2.
    fn round(&mut self, read: &[Encoding], write: &[Encoding], value: u64) {
        for encoding in read {
            self.read(*encoding);
        }
        for encoding in write {
            self.write(*encoding, value);
        }
        self.pull();
        self.push();
    }
}

const RIP: Encoding = GUEST_RIP.encoding();
const REASON: Encoding = VM_EXIT_REASON.encoding();
const EPTP: Encoding = EPT_POINTER.encoding();
const PERIOD_ROUNDS: u64 = PERIOD as u64;

#[test]
fn fields_open_after_a_few_exits_in_the_next_round() {
    let mut m = Machine::new();
    for n in 0..u64::from(OPENS_AFTER) {
        assert!(!is_open(&m.vmread, REASON) && !is_open(&m.vmwrite, RIP));
        m.round(&[REASON], &[RIP], n);
    }
    assert!(is_open(&m.vmread, REASON) && !is_open(&m.vmwrite, REASON));
    assert!(is_open(&m.vmread, RIP) && is_open(&m.vmwrite, RIP));
    let exits = m.exits;
    m.round(&[REASON, RIP], &[RIP], 100);
    assert_eq!(m.exits, exits);
    assert_eq!(m.v.read(GUEST_RIP), 100);
}

#[test]
fn field_opens_only_when_the_copy_has_its_value() {
    let mut m = Machine::new();
    for _ in 0..OPENS_AFTER + 2 {
        m.read(REASON);
    }
    assert!(!is_open(&m.vmread, REASON));
    m.v.put_synced(VM_EXIT_REASON, 10);
    m.push();
    assert!(is_open(&m.vmread, REASON));
    assert_eq!(m.read(REASON), 10);
}

#[test]
fn both_halves_of_a_field_open() {
    let mut m = Machine::new();
    for n in 0..u64::from(OPENS_AFTER) {
        m.round(&[], &[Encoding(EPTP.0 | 1)], n);
    }
    for bitmap in [&m.vmread, &m.vmwrite] {
        assert!(is_open(bitmap, EPTP) && is_open(bitmap, Encoding(EPTP.0 | 1)));
        let open = bitmap.iter().map(|word| word.count_zeros()).sum::<u32>();
        assert_eq!(open, 2);
    }
}

#[test]
fn rare_accesses_open_nothing() {
    let mut m = Machine::new();
    for n in 0..10 * PERIOD_ROUNDS {
        if n % PERIOD_ROUNDS < u64::from(OPENS_AFTER) - 1 {
            m.round(&[REASON], &[RIP], n);
        } else {
            m.round(&[], &[], 0);
        }
    }
    assert!(m
        .vmread
        .iter()
        .chain(&*m.vmwrite)
        .all(|word| *word == u64::MAX));
}

#[test]
fn field_that_l1_no_longer_changes_closes_for_vmwrite() {
    let mut m = Machine::new();
    for n in 0..u64::from(OPENS_AFTER) {
        m.round(&[], &[RIP, EPTP], n);
    }
    for n in 0..2 * PERIOD_ROUNDS {
        m.round(&[], &[RIP], n + 50);
    }
    assert!(is_open(&m.vmwrite, RIP));
    assert!(!is_open(&m.vmwrite, EPTP) && is_open(&m.vmread, EPTP));
}

#[test]
fn field_that_l1_only_reads_closes_in_the_end() {
    let mut m = Machine::new();
    for n in 0..u64::from(OPENS_AFTER) {
        m.round(&[REASON], &[RIP], n);
    }
    for n in 0..u64::from(ROUNDS_OPEN) {
        m.round(&[], &[RIP], n + 50);
    }
    assert!(!is_open(&m.vmread, REASON));
    assert!(is_open(&m.vmread, RIP) && is_open(&m.vmwrite, RIP));
}

#[test]
fn vmwrite_that_exits_closes_what_it_makes_stale() {
    let mut m = Machine::new();
    for _ in 0..OPENS_AFTER {
        m.round(&[RIP], &[], 0);
    }
    assert!(is_open(&m.vmread, RIP));
    m.write(RIP, 0x1234);
    assert!(!is_open(&m.vmread, RIP));
    assert_eq!(m.read(RIP), 0x1234);
}

#[test]
fn pull_takes_changes_and_marks_only_those() {
    let mut m = Machine::new();
    for n in 0..u64::from(OPENS_AFTER) {
        m.round(&[], &[RIP, EPTP], n);
    }
    m.v.clear_dirty();
    m.pull();
    assert!(m.v.dirty().is_empty());
    m.write(RIP, 0x55);
    m.pull();
    assert_eq!((m.v.read(GUEST_RIP), m.v.dirty()), (0x55, Groups::RIP));
    m.write(CPU_BASED_VM_EXEC_CONTROL.encoding(), 4);
    assert_eq!(m.v.dirty(), Groups::RIP.union(Groups::WINDOWS));
}

#[test]
fn neither_lazy_fields_nor_the_error_number_open() {
    let mut m = Machine::new();
    let all = FieldSet::all();
    all.for_each(|_, encoding| {
        for _ in 0..OPENS_AFTER {
            m.read(encoding);
            m.write(encoding, 0);
        }
    });
    m.push();
    all.for_each(|_, encoding| {
        let never = is_lazy(encoding) || encoding == VM_INSTRUCTION_ERROR.encoding();
        assert_eq!(is_open(&m.vmread, encoding), !never, "{encoding:?}");
        // The processor may keep the reserved bits of access rights.
        let rights = [GUEST_CS_AR_BYTES, GUEST_SS_AR_BYTES].map(Field::encoding);
        let closed = never || encoding.kind() == FieldKind::ReadOnly || rights.contains(&encoding);
        assert_eq!(is_open(&m.vmwrite, encoding), !closed, "{encoding:?}");
    });
}

#[test]
fn field_that_l1_or_the_processor_lacks_stays_closed() {
    let all = FieldSet::all();
    let mut fewer = all;
    fewer.remove(EPTP);
    for (exists, hardware) in [(&fewer, &all), (&all, &fewer)] {
        let mut m = Machine::with(exists, hardware);
        for n in 0..10 {
            m.round(&[EPTP], &[EPTP, RIP], n);
        }
        assert!(!is_open(&m.vmread, EPTP) && !is_open(&m.vmwrite, EPTP));
        assert!(is_open(&m.vmwrite, RIP));
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Read(usize),
    Write(usize, u64),
    /// L1 enters L2, which changes the field, and exits.
    Round(usize, u64),
    /// The state is saved while L1 runs.
    Save,
}

const FIELDS: [Encoding; 6] = [
    RIP,
    REASON,
    EPTP,
    GUEST_CS_AR_BYTES.encoding(),
    GUEST_ES_BASE.encoding(),
    VM_ENTRY_INTR_INFO_FIELD.encoding(),
];

fn op() -> impl Strategy<Value = Op> {
    let at = 0..FIELDS.len();
    prop_oneof![
        4 => at.clone().prop_map(Op::Read),
        3 => (at.clone(), 0_u64..4).prop_map(|(at, value)| Op::Write(at, value)),
        3 => (at, 0_u64..4).prop_map(|(at, value)| Op::Round(at, value)),
        1 => Just(Op::Save),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever opens and closes, L1 reads what it or L2 wrote last, and vmcs12 has it when it is used.
    #[test]
    fn l1_sees_one_vmcs(ops in prop::collection::vec(op(), 1..1000)) {
        let mut m = Machine::new();
        m.push();
        let mut model = [0; FIELDS.len()];
        for op in ops {
            match op {
                Op::Read(at) => prop_assert_eq!(m.read(FIELDS[at]), model[at]),
                Op::Write(at, value) => {
                    m.write(FIELDS[at], value);
                    model[at] = value;
                }
                Op::Round(at, value) => {
                    m.pull();
                    let held = FIELDS.map(|field| m.v.read_raw(field));
                    prop_assert_eq!(held, model);
                    m.v.put_synced_raw(FIELDS[at], value);
                    model[at] = value;
                    m.push();
                }
                Op::Save => {
                    m.pull();
                    let held = FIELDS.map(|field| m.v.read_raw(field));
                    prop_assert_eq!(held, model);
                }
            }
        }
    }
}
