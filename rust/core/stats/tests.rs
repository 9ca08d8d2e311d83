// SPDX-License-Identifier: GPL-2.0

use super::*;

use std::collections::HashSet;

fn file(table: &'static Table, id: &Id) -> Vec<u8> {
    let file = File { table, id };
    let mut bytes = vec![0xee; file.size() + 1];
    let len = file.read_at(0, &mut bytes, |word| 1000 + word as u64);
    assert_eq!(len, file.size(), "a read ends with the file");
    assert_eq!(bytes.pop(), Some(0xee));
    bytes
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Returns the text of `NAME_SIZE` bytes at `at`, which must end with a zero.
fn text_at(bytes: &[u8], at: usize) -> &str {
    let field = &bytes[at..at + NAME_SIZE];
    let len = field
        .iter()
        .position(|&byte| byte == 0)
        .expect("terminated");
    assert!(field[len..].iter().all(|&byte| byte == 0));
    std::str::from_utf8(&field[..len]).unwrap()
}

/// What upstream's kvm_binary_stats_test asks of a file, in its order, on the bytes alone.
fn judge(bytes: &[u8]) {
    let [name_size, num_desc, id_offset, desc_offset, data_offset] =
        [4, 8, 12, 16, 20].map(|at| u32_at(bytes, at) as usize);
    assert_eq!(
        id_offset, 24,
        "the test reads the id right after the header"
    );
    assert_eq!(name_size, NAME_SIZE);
    assert!(text_at(bytes, 24).starts_with("kvm"));
    let size_desc = 16 + name_size;
    assert!(num_desc > 0);
    assert!(desc_offset >= 24 && data_offset >= 24);
    assert!(desc_offset > data_offset || desc_offset + size_desc * num_desc <= data_offset);
    let mut size_data = 0;
    let mut taken = HashSet::new();
    for index in 0..num_desc {
        let at = desc_offset + index * size_desc;
        let flags = u32_at(bytes, at);
        let exponent = u16_at(bytes, at + 4) as i16;
        let size = usize::from(u16_at(bytes, at + 6));
        let offset = u32_at(bytes, at + 8) as usize;
        let bucket_size = u32_at(bytes, at + 12);
        let name = text_at(bytes, at + 16);
        let (kind, unit, base) = (flags & 0xf, flags & 0xf0, flags & 0xf00);
        assert!(
            kind <= 4 && unit <= 0x40 && base <= 0x100 && flags & !0xfff == 0,
            "{name}"
        );
        match unit {
            0x00 | 0x10 | 0x30 => assert!(exponent >= 0, "{name}"),
            0x20 => assert!(exponent <= 0, "{name}"),
            _ => assert_eq!(exponent, 0, "{name}"),
        }
        assert_ne!(size, 0, "{name}");
        assert_eq!(kind == 3, bucket_size != 0, "{name}");
        for word in 0..size {
            assert_eq!(offset % 8, 0, "{name}");
            assert!(taken.insert(offset / 8 + word), "{name} shares a value");
            let value = u64_at(bytes, data_offset + offset + 8 * word);
            assert_eq!(value, (1000 + offset / 8 + word) as u64, "{name}");
        }
        size_data = size_data.max(offset + size * 8);
    }
    assert!(size_data >= num_desc * 8);
    assert_eq!(
        data_offset + size_data,
        bytes.len(),
        "no value without a descriptor"
    );
    assert_eq!(taken.len(), size_data / 8);
}

#[test]
fn files_satisfy_the_upstream_test() {
    judge(&file(&VM, &Id::vm(4711)));
    judge(&file(&VCPU, &Id::vcpu(4711, 3)));
}

#[test]
fn names_are_unique_per_table() {
    for table in [&VM, &VCPU] {
        let names: HashSet<_> = table.descs().iter().map(Desc::name).collect();
        assert_eq!(names.len(), table.descs().len());
    }
}

#[test]
fn a_statistic_finds_its_own_word() {
    let find = |table: &'static Table, name| {
        table
            .descs()
            .iter()
            .find(|desc| desc.name() == name)
            .unwrap()
            .first_word()
    };
    assert_eq!(VmStat::RemoteTlbFlush.word(), 0);
    assert_eq!(VmStat::Pages1g.word(), find(&VM, "pages_1g"));
    assert_eq!(
        VcpuStat::HaltPollFailHist.word(),
        find(&VCPU, "halt_poll_fail_hist")
    );
    assert_eq!(
        VcpuStat::HaltPollFailHist.word(),
        VcpuStat::HaltPollSuccessHist.word() + 32
    );
    assert_eq!(VcpuStat::Exits.word(), find(&VCPU, "exits"));
    assert_eq!(VcpuStat::GuestMode.word() + 1, VCPU.nr_words());
}

#[test]
fn forms_are_those_that_upstream_declares() {
    let form = |name| {
        let all = || VM.descs().iter().chain(VCPU.descs());
        let form = all().find(|desc| desc.name() == name).unwrap().form();
        (
            form.kind,
            form.unit,
            form.base,
            form.exponent,
            form.nr_words,
        )
    };
    use Base::Pow10;
    assert_eq!(form("exits"), (Kind::Cumulative, Unit::None, Pow10, 0, 1));
    assert_eq!(form("pages_2m"), (Kind::Instant, Unit::None, Pow10, 0, 1));
    assert_eq!(
        form("blocking"),
        (Kind::Instant, Unit::Boolean, Pow10, 0, 1)
    );
    assert_eq!(
        form("halt_wait_ns"),
        (Kind::Cumulative, Unit::Seconds, Pow10, -9, 1)
    );
    assert_eq!(
        form("halt_wait_hist"),
        (Kind::LogHistogram, Unit::Seconds, Pow10, -9, 32)
    );
}

#[test]
fn ids_are_those_of_upstream() {
    assert_eq!(text_at(&Id::vm(4711).0, 0), "kvm-4711");
    assert_eq!(text_at(&Id::vcpu(1, 2).0, 0), "kvm-1/vcpu-2");
    assert_eq!(
        text_at(&Id::vcpu(u32::MAX, u32::MAX).0, 0),
        "kvm-4294967295/vcpu-4294967295"
    );
}

#[test]
fn any_part_of_the_file_reads_the_same() {
    let id = Id::vcpu(1, 2);
    let whole = file(&VCPU, &id);
    let part = File {
        table: &VCPU,
        id: &id,
    };
    for offset in 0..whole.len() + 20 {
        for len in [0, 1, 7, 8, 24, 65, 300, 5000] {
            let mut out = vec![0xee; len];
            let got = part.read_at(offset as u64, &mut out, |word| 1000 + word as u64);
            let rest = whole.get(offset..).unwrap_or(&[]);
            let expected = &rest[..len.min(rest.len())];
            assert_eq!(&out[..got], expected, "{len} bytes at {offset}");
            assert!(out[got..].iter().all(|&byte| byte == 0xee));
        }
    }
    assert_eq!(
        part.read_at(u64::MAX, &mut [0; 8], |_| panic!("no value there")),
        0
    );
}

#[test]
fn a_read_of_one_value_reads_no_other() {
    let part = File {
        table: &VCPU,
        id: &Id::vcpu(1, 2),
    };
    let offset = VCPU.data_offset() + 8 * VcpuStat::Exits.word();
    let mut out = [0; 8];
    let got = part.read_at(offset as u64, &mut out, |word| {
        assert_eq!(word, VcpuStat::Exits.word());
        0x1122_3344_5566_7788
    });
    assert_eq!((got, u64::from_ne_bytes(out)), (8, 0x1122_3344_5566_7788));
}

#[test]
fn log_buckets_double_in_width() {
    for (value, bucket) in [
        (0, 0),
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 3),
        (7, 3),
        (1 << 29, 30),
        (1 << 30, 31),
        (u64::MAX, 31),
    ] {
        assert_eq!(log_bucket(value, 32), bucket, "{value}");
    }
    assert_eq!(log_bucket(5, 0), 0);
}
