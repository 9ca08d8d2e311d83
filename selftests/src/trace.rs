// SPDX-License-Identifier: GPL-2.0

//! What tools look at: tracepoints, and binary statistics.

use kvm_bindings::*;
use libc::EINVAL;
use std::{
    collections::HashMap,
    fs::{
        self,
        File, //
    },
    os::{
        fd::{
            AsRawFd,
            OwnedFd, //
        },
        unix::fs::FileExt, //
    },
    path::{
        Path,
        PathBuf, //
    }, //
};

use crate::{
    code,
    group,
    guest::{
        Guest,
        Mode,
        MMIO, //
    },
    harness::skip,
    ioctl::*,
    kvm::*, //
};

group!("trace":
    tracepoints_have_the_fields_of_perf,
    exits_are_traced,
    accesses_are_traced,
    statistics_describe_themselves,
    statistics_count_exits,
    statistics_count_pages_and_flushes,
    statistics_cannot_be_written,
    statistics_outlive_the_vcpu_descriptor,
    statistics_take_no_argument,
);

/// tracefs, mounted if need be.
fn tracing() -> PathBuf {
    for path in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        if Path::new(path).join("events").exists() {
            return path.into();
        }
    }
    let path = "/sys/kernel/tracing";
    // SAFETY: The strings are constants.
    let done = unsafe {
        let target = c"/sys/kernel/tracing".as_ptr();
        libc::mount(
            c"tracefs".as_ptr(),
            target,
            c"tracefs".as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    if done != 0 {
        skip("no tracefs");
    }
    path.into()
}

fn tracepoints_have_the_fields_of_perf() {
    let events = tracing().join("events/kvm");
    // perf kvm stat reads these; trace-cmd's plugins too.
    let wanted = [
        ("kvm_entry", &["vcpu_id", "rip"][..]),
        (
            "kvm_exit",
            &[
                "exit_reason",
                "guest_rip",
                "isa",
                "info1",
                "info2",
                "vcpu_id",
            ],
        ),
        ("kvm_pio", &["rw", "port", "size", "count", "val"]),
        ("kvm_mmio", &["type", "len", "gpa", "val"]),
        ("kvm_inj_virq", &["vector"]),
    ];
    for (event, fields) in wanted {
        let path = events.join(event).join("format");
        let format = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        for field in fields {
            let ends = [format!(" {field};"), format!("{field}[")];
            assert!(
                ends.iter().any(|end| format.contains(end)),
                "{event}: no {field}"
            );
        }
    }
}

/// Traces `events` while `guest` runs to its HLT or OUT; returns the text.
fn trace(events: &[&str], run: impl FnOnce()) -> String {
    let root = tracing();
    let write = |path: &str, text: &str| {
        fs::write(root.join(path), text).unwrap_or_else(|e| panic!("{path}: {e}"));
    };
    let enable = |value: &str| {
        for event in events {
            write(&format!("events/kvm/{event}/enable"), value);
        }
    };
    write("trace", "");
    write("tracing_on", "1");
    enable("1");
    run();
    enable("0");
    let text = fs::read_to_string(root.join("trace")).expect("trace");
    write("trace", "");
    text
}

fn exits_are_traced() {
    let guest = Guest::new(Mode::Long, code!(64, "cpuid", "out 0xe1, al", "hlt"));
    let text = trace(&["kvm_entry", "kvm_exit"], || {
        guest.run_to_done();
        guest.run_to_hlt();
    });
    for wanted in [
        "kvm_entry:",
        "kvm_exit:",
        "CPUID",
        "IO_INSTRUCTION",
        "HLT",
        "0x1000",
    ] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
}

fn accesses_are_traced() {
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov al, 0x42",
            "out 0xe1, al",
            "mov [0x10000008], al",
            "hlt"
        ),
    );
    let text = trace(&["kvm_pio", "kvm_mmio"], || {
        guest.run_to_done();
        assert!(matches!(guest.run(), Exit::MmioWrite(..)));
    });
    for wanted in [
        "pio_write at 0xe1 size 1 count 1 val 0x42",
        "mmio write len 1 gpa 0x10000008 val 0x42",
    ] {
        assert!(text.contains(wanted), "no {wanted} in:\n{text}");
    }
}

/// `struct kvm_stats_header`.
#[derive(Debug)]
struct Header {
    name_size: u32,
    count: u32,
    id_offset: u32,
    descriptors: u32,
    data: u32,
}

/// One `struct kvm_stats_desc`.
struct Descriptor {
    flags: u32,
    exponent: i16,
    size: u16,
    offset: u32,
}

/// The file behind `KVM_GET_STATS_FD`.
struct Stats(File);

impl Stats {
    fn of(owner: &impl Ioctl) -> Self {
        let fd: OwnedFd = own(owner.ioctl(KVM_GET_STATS_FD, 0).expect("KVM_GET_STATS_FD"));
        Self(File::from(fd))
    }

    fn bytes(&self, offset: u32, len: u32) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.0
            .read_exact_at(&mut bytes, u64::from(offset))
            .expect("read");
        bytes
    }

    fn header(&self) -> Header {
        let words: Vec<u32> = self
            .bytes(0, 24)
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().expect("4 bytes")))
            .collect();
        assert_eq!(words[0], 0, "flags");
        Header {
            name_size: words[1],
            count: words[2],
            id_offset: words[3],
            descriptors: words[4],
            data: words[5],
        }
    }

    /// The descriptors, by name.
    fn descriptors(&self) -> HashMap<String, Descriptor> {
        let header = self.header();
        let size = 16 + header.name_size;
        let read = |index| {
            let bytes = self.bytes(header.descriptors + index * size, size);
            let word =
                |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
            let half =
                |at: usize| u16::from_ne_bytes(bytes[at..at + 2].try_into().expect("2 bytes"));
            let name = bytes[16..]
                .split(|byte| *byte == 0)
                .next()
                .unwrap_or_default();
            let descriptor = Descriptor {
                flags: word(0),
                exponent: half(4) as i16,
                size: half(6),
                offset: word(8),
            };
            (String::from_utf8_lossy(name).into_owned(), descriptor)
        };
        (0..header.count).map(read).collect()
    }

    /// The first value of a statistic.
    fn value(&self, name: &str) -> u64 {
        let descriptors = self.descriptors();
        let descriptor = descriptors.get(name).unwrap_or_else(|| panic!("no {name}"));
        let bytes = self.bytes(self.header().data + descriptor.offset, 8);
        u64::from_ne_bytes(bytes.try_into().expect("8 bytes"))
    }
}

fn statistics_describe_themselves() {
    let guest = Guest::new(Mode::Long, code!(64, "hlt"));
    for (stats, kind) in [
        (Stats::of(&guest.vm), "kvm-"),
        (Stats::of(guest.cpu()), "kvm-"),
    ] {
        let header = stats.header();
        let id = stats.bytes(header.id_offset, header.name_size);
        assert!(
            id.starts_with(kind.as_bytes()),
            "{:?}",
            String::from_utf8_lossy(&id)
        );
        assert!(
            header.count > 0 && header.name_size > 0 && header.name_size % 8 == 0,
            "{header:?}"
        );
        let descriptors = stats.descriptors();
        assert_eq!(descriptors.len(), header.count as usize, "names are unique");
        for (name, descriptor) in &descriptors {
            assert!(!name.is_empty());
            // The bits of type, unit and base that there are.
            assert!(
                descriptor.flags & !0xfff == 0 && descriptor.flags & 0xf <= 4,
                "{name}"
            );
            assert!(
                descriptor.exponent.abs() <= 18 && descriptor.size >= 1,
                "{name}"
            );
            assert_eq!(descriptor.offset % 8, 0, "{name}");
            let at = header.data + descriptor.offset;
            stats.bytes(at, 8 * u32::from(descriptor.size));
        }
    }
    let id = Stats::of(guest.cpu());
    let header = id.header();
    let text = String::from_utf8_lossy(&id.bytes(header.id_offset, header.name_size)).into_owned();
    assert!(text.contains("/vcpu-0"), "{text}");
}

fn statistics_count_exits() {
    let guest = Guest::new(
        Mode::Long,
        code!(64, "mov ecx, 10", "2:", "out 0xe1, al", "loop 2b", "hlt"),
    );
    let stats = Stats::of(guest.cpu());
    let before = (stats.value("exits"), stats.value("io_exits"));
    for _ in 0..10 {
        guest.run_to_done();
    }
    guest.run_to_hlt();
    let after = (stats.value("exits"), stats.value("io_exits"));
    assert!(after.0 >= before.0 + 11, "{before:?} {after:?}");
    assert_eq!(after.1, before.1 + 10);
}

fn statistics_count_pages_and_flushes() {
    const PAGES: u64 = 16;
    let guest = Guest::new(
        Mode::Long,
        code!(
            64,
            "mov rbx, 0x10000000",
            "out 0xe1, al",
            "mov ecx, 16",
            "2:",
            "inc dword ptr [rbx]",
            "add rbx, 0x1000",
            "loop 2b",
            "out 0xe1, al"
        ),
    );
    let memory = Memory::new((PAGES * PAGE) as usize);
    guest.vm.map(1, MMIO, &memory);
    let stats = Stats::of(&guest.vm);
    guest.run_to_done();
    let before = stats.value("pages_4k");
    guest.run_to_done();
    assert_eq!(stats.value("pages_4k"), before + PAGES);
    let flushes = stats.value("remote_tlb_flush_requests");
    // SAFETY: The memory is the guest's, which expects nothing of it any more.
    let done = unsafe { libc::madvise(memory.as_ptr().cast(), memory.len(), libc::MADV_DONTNEED) };
    assert_eq!(done, 0);
    assert_eq!(stats.value("pages_4k"), before);
    assert!(stats.value("remote_tlb_flush_requests") > flushes);
}

fn statistics_cannot_be_written() {
    let vm = Vm::new();
    let stats = Stats::of(&vm);
    assert!(stats.0.write_at(&[1], 0).is_err());
    let beyond = stats.0.read_at(&mut [0; 8], 1 << 30);
    assert!(matches!(beyond, Ok(0) | Err(_)));
}

fn statistics_outlive_the_vcpu_descriptor() {
    let mut guest = Guest::new(Mode::Long, code!(64, "hlt"));
    guest.run_to_hlt();
    let stats = Stats::of(guest.cpu());
    drop(guest.vcpus.remove(0));
    drop(guest);
    assert!(stats.value("exits") >= 1);
    assert!(stats.0.as_raw_fd() > 2);
}

fn statistics_take_no_argument() {
    require(KVM_CAP_BINARY_STATS_FD, "KVM_CAP_BINARY_STATS_FD");
    // The argument is not looked at; the descriptor is read-only and closes on exec.
    let vm = Vm::new();
    let fd = own(vm.ioctl(KVM_GET_STATS_FD, 0).expect("KVM_GET_STATS_FD"));
    // SAFETY: F_GETFL takes no pointer.
    let mode = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) } & libc::O_ACCMODE;
    assert_eq!(mode, libc::O_RDONLY);
    assert_eq!(open().ioctl(KVM_GET_STATS_FD, 0), Err(EINVAL));
}
