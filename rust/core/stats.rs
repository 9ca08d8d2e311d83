// SPDX-License-Identifier: GPL-2.0

//! Descriptors of the binary statistics.
//!
//! `KVM_GET_STATS_FD` in api.rst gives a file for a VM and one for each vCPU: a header, an id, a
//! descriptor for each statistic, then the values. [`VmStat`] and [`VcpuStat`] are the statistics,
//! under the names that upstream uses, and [`VM`] and [`VCPU`] their tables; the caller keeps
//! [`Table::nr_words`] counters, adds to the one at `word()`, and serves reads with [`File`].

use core::fmt;
use core::fmt::Write;

/// `KVM_STATS_NAME_SIZE`: the size in bytes of an id or a name, with its terminating zero.
pub const NAME_SIZE: usize = 48;

/// The size in bytes of `struct kvm_stats_header`.
const HEADER_SIZE: usize = 24;
/// The size in bytes of `struct kvm_stats_desc` with its name.
const DESC_SIZE: usize = 16 + NAME_SIZE;
/// The offset in the file of the first descriptor.
const DESC_OFFSET: usize = HEADER_SIZE + NAME_SIZE;
/// The size in bytes of a value.
const WORD_SIZE: usize = 8;

/// How a statistic develops: `KVM_STATS_TYPE_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Kind {
    /// A sum that only grows.
    Cumulative = 0,
    /// The value of now.
    Instant = 1,
    /// The highest value yet.
    Peak = 2,
    /// Counts by value, in buckets of equal width.
    LinearHistogram = 3,
    /// Counts by value, in buckets that double in width; see [`log_bucket`].
    LogHistogram = 4,
}

/// What a value counts: `KVM_STATS_UNIT_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Unit {
    /// Events or things.
    None = 0,
    /// Bytes.
    Bytes = 1,
    /// Seconds.
    Seconds = 2,
    /// Clock cycles.
    Cycles = 3,
    /// 0 or 1.
    Boolean = 4,
}

/// The base of the exponent: `KVM_STATS_BASE_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Base {
    /// Powers of 10.
    Pow10 = 0,
    /// Powers of 2.
    Pow2 = 1,
}

/// All of a descriptor but its name and place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    /// How it develops.
    pub kind: Kind,
    /// What it counts.
    pub unit: Unit,
    /// The base of `exponent`.
    pub base: Base,
    /// The value times `base` to this power is in units.
    pub exponent: i16,
    /// The number of values: 1, or the number of buckets.
    pub nr_words: u16,
    /// The width of a bucket of a linear histogram, else 0.
    pub bucket_size: u32,
}

impl Form {
    const fn plain(kind: Kind, unit: Unit) -> Self {
        Self {
            kind,
            unit,
            base: Base::Pow10,
            exponent: 0,
            nr_words: 1,
            bucket_size: 0,
        }
    }

    const fn nanoseconds(kind: Kind, nr_words: u16) -> Self {
        Self {
            exponent: -9,
            nr_words,
            ..Self::plain(kind, Unit::Seconds)
        }
    }
}

/// Events since the start.
const COUNTER: Form = Form::plain(Kind::Cumulative, Unit::None);
/// Things that there are now.
const GAUGE: Form = Form::plain(Kind::Instant, Unit::None);
/// Whether something is so now.
const FLAG: Form = Form::plain(Kind::Instant, Unit::Boolean);
/// Nanoseconds since the start.
const NANOSECONDS: Form = Form::nanoseconds(Kind::Cumulative, 1);
/// Counts by nanoseconds, the last bucket from 2^30 ns (about a second) up.
const NANOSECONDS_BY_LOG: Form = Form::nanoseconds(Kind::LogHistogram, 32);

/// A statistic: its name, its form and its place among the values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Desc {
    name: &'static str,
    form: Form,
    first_word: u16,
}

impl Desc {
    const fn new(name: &'static str, form: Form) -> Self {
        assert!(name.len() < NAME_SIZE, "room for the terminating zero");
        Self {
            name,
            form,
            first_word: 0,
        }
    }

    /// Returns the name.
    #[inline]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the form.
    #[inline]
    pub const fn form(&self) -> Form {
        self.form
    }

    /// Returns the index of its first value.
    #[inline]
    pub const fn first_word(&self) -> usize {
        self.first_word as usize
    }

    /// Returns the bytes of `struct kvm_stats_desc`.
    fn to_bytes(self) -> [u8; DESC_SIZE] {
        let Form {
            kind,
            unit,
            base,
            exponent,
            nr_words,
            bucket_size,
        } = self.form;
        let flags = kind as u32 | ((unit as u32) << 4) | ((base as u32) << 8);
        let offset = u32::from(self.first_word) << WORD_SIZE.trailing_zeros();
        let mut bytes = [0; DESC_SIZE];
        let mut out = Filler { room: &mut bytes };
        out.put(&flags.to_ne_bytes());
        out.put(&exponent.to_ne_bytes());
        out.put(&nr_words.to_ne_bytes());
        out.put(&offset.to_ne_bytes());
        out.put(&bucket_size.to_ne_bytes());
        out.put(self.name.as_bytes());
        bytes
    }
}

/// Gives each of `descs` its place, one after the other.
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated when the crate is built"
)]
const fn lay_out<const N: usize>(mut descs: [Desc; N]) -> [Desc; N] {
    let mut next = 0;
    let mut index = 0;
    while index < N {
        descs[index].first_word = next;
        next += descs[index].form.nr_words;
        index += 1;
    }
    descs
}

/// The statistics of a VM or of a vCPU.
#[derive(Debug)]
pub struct Table {
    descs: &'static [Desc],
}

impl Table {
    /// Returns the descriptors.
    #[inline]
    pub const fn descs(&self) -> &'static [Desc] {
        self.descs
    }

    /// Returns the number of values, 64 bits each.
    pub const fn nr_words(&self) -> usize {
        match self.descs.last() {
            Some(last) => last.first_word().wrapping_add(last.form.nr_words as usize),
            None => 0,
        }
    }

    /// Returns the offset in the file of the first value.
    const fn data_offset(&self) -> usize {
        DESC_OFFSET.wrapping_add(self.descs.len().wrapping_mul(DESC_SIZE))
    }

    /// Returns the bytes of `struct kvm_stats_header`.
    #[allow(clippy::cast_possible_truncation, reason = "a table has few kilobytes")]
    fn header(&self) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let mut out = Filler { room: &mut bytes };
        let flags = 0;
        let fields = [
            flags,
            NAME_SIZE,
            self.descs.len(),
            HEADER_SIZE,
            DESC_OFFSET,
            self.data_offset(),
        ];
        for field in fields {
            out.put(&(field as u32).to_ne_bytes());
        }
        bytes
    }
}

macro_rules! stats {
    (
        $(#[$meta:meta])* enum $name:ident;
        $(#[$table_meta:meta])* static $table:ident;
        $( $(#[$doc:meta])* $variant:ident = $text:literal: $form:ident, )*
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name {
            $( #[doc = concat!("`", $text, "`.")] $(#[$doc])* $variant, )*
        }

        impl $name {
            const DESCS: &'static [Desc] = &lay_out([$( Desc::new($text, $form) ),*]);

            /// Returns the index of its first value among those of the table.
            #[inline]
            pub const fn word(self) -> usize {
                // As many descriptors as variants: the fallback is not reached.
                match Self::DESCS.split_at_checked(self as usize) {
                    Some((_, [desc, ..])) => desc.first_word(),
                    _ => 0,
                }
            }
        }

        $(#[$table_meta])*
        pub static $table: Table = Table { descs: $name::DESCS };
    };
}

stats! {
    /// A statistic of a VM.
    enum VmStat;
    /// The statistics of a VM.
    static VM;
    /// Flushes of the TLBs of CPUs that ran the VM, carried out.
    RemoteTlbFlush = "remote_tlb_flush": COUNTER,
    /// Flushes of the TLBs of CPUs that ran the VM, asked for.
    RemoteTlbFlushRequests = "remote_tlb_flush_requests": COUNTER,
    /// Shadow pages (of nested paging) thrown away.
    MmuShadowZapped = "mmu_shadow_zapped": COUNTER,
    /// Shadow pages looked for and not found.
    MmuCacheMiss = "mmu_cache_miss": COUNTER,
    /// Shadow pages that there are.
    MmuShadowPages = "mmu_shadow_pages": GAUGE,
    /// Leaves that map 4 KiB.
    Pages4k = "pages_4k": GAUGE,
    /// Leaves that map 2 MiB.
    Pages2m = "pages_2m": GAUGE,
    /// Leaves that map 1 GiB.
    Pages1g = "pages_1g": GAUGE,
}

stats! {
    /// A statistic of a vCPU.
    enum VcpuStat;
    /// The statistics of a vCPU.
    static VCPU;
    /// Polls while halted that ended with a wake-up.
    HaltSuccessfulPoll = "halt_successful_poll": COUNTER,
    /// Polls while halted.
    HaltAttemptedPoll = "halt_attempted_poll": COUNTER,
    /// Polls that ended with a wake-up that was none.
    HaltPollInvalid = "halt_poll_invalid": COUNTER,
    /// Wake-ups from blocking.
    HaltWakeup = "halt_wakeup": COUNTER,
    /// Time in polls that ended with a wake-up.
    HaltPollSuccessNs = "halt_poll_success_ns": NANOSECONDS,
    /// Time in polls that did not.
    HaltPollFailNs = "halt_poll_fail_ns": NANOSECONDS,
    /// Time blocked.
    HaltWaitNs = "halt_wait_ns": NANOSECONDS,
    /// Polls that ended with a wake-up, by time.
    HaltPollSuccessHist = "halt_poll_success_hist": NANOSECONDS_BY_LOG,
    /// Polls that did not, by time.
    HaltPollFailHist = "halt_poll_fail_hist": NANOSECONDS_BY_LOG,
    /// Times blocked, by time.
    HaltWaitHist = "halt_wait_hist": NANOSECONDS_BY_LOG,
    /// Whether it is blocked.
    Blocking = "blocking": FLAG,
    /// Faults on guest-physical addresses.
    PfTaken = "pf_taken": COUNTER,
    /// Faults fixed by a mapping.
    PfFixed = "pf_fixed": COUNTER,
    /// Faults that led to the emulator.
    PfEmulate = "pf_emulate": COUNTER,
    /// Faults on what another vCPU had fixed already.
    PfSpurious = "pf_spurious": COUNTER,
    /// Faults fixed without the lock of the mappings.
    PfFast = "pf_fast": COUNTER,
    /// Entries made for addresses without memory.
    PfMmioSpteCreated = "pf_mmio_spte_created": COUNTER,
    /// Faults injected into the guest.
    PfGuest = "pf_guest": COUNTER,
    /// Flushes of what is cached for the vCPU.
    TlbFlush = "tlb_flush": COUNTER,
    /// Single pages of the guest invalidated.
    Invlpg = "invlpg": COUNTER,
    /// VM exits.
    Exits = "exits": COUNTER,
    /// Exits to userspace for an I/O port.
    IoExits = "io_exits": COUNTER,
    /// Exits to userspace for MMIO.
    MmioExits = "mmio_exits": COUNTER,
    /// Exits to userspace for a signal.
    SignalExits = "signal_exits": COUNTER,
    /// VM exits because the guest can take an interrupt.
    IrqWindowExits = "irq_window_exits": COUNTER,
    /// VM exits because the guest can take an NMI.
    NmiWindowExits = "nmi_window_exits": COUNTER,
    /// Halts.
    HaltExits = "halt_exits": COUNTER,
    /// Exits to userspace because it asked for the interrupt window.
    RequestIrqExits = "request_irq_exits": COUNTER,
    /// VM exits for an interrupt of the host.
    IrqExits = "irq_exits": COUNTER,
    /// Times the host's own state was put back.
    HostStateReload = "host_state_reload": COUNTER,
    /// Times the guest's floating-point state was loaded.
    FpuReload = "fpu_reload": COUNTER,
    /// Instructions emulated.
    InsnEmulation = "insn_emulation": COUNTER,
    /// Instructions that could not be.
    InsnEmulationFail = "insn_emulation_fail": COUNTER,
    /// Hypercalls.
    Hypercalls = "hypercalls": COUNTER,
    /// Interrupts injected.
    IrqInjections = "irq_injections": COUNTER,
    /// NMIs injected.
    NmiInjections = "nmi_injections": COUNTER,
    /// Times events were looked through before an entry.
    ReqEvent = "req_event": COUNTER,
    /// Entries into L2.
    NestedRun = "nested_run": COUNTER,
    /// Preemptions of which the guest was told.
    PreemptionReported = "preemption_reported": COUNTER,
    /// Other preemptions.
    PreemptionOther = "preemption_other": COUNTER,
    /// Whether it runs L2.
    GuestMode = "guest_mode": FLAG,
}

/// Returns the bucket for `value` in a logarithmic histogram of `nr_buckets`.
///
/// The first holds 0, the next 1, the next 2 and 3, and so on; the last all that is higher.
#[inline]
pub const fn log_bucket(value: u64, nr_buckets: u16) -> usize {
    let bucket = u64::BITS.wrapping_sub(value.leading_zeros());
    let last = (nr_buckets as u32).saturating_sub(1);
    if bucket < last {
        bucket as usize
    } else {
        last as usize
    }
}

/// The name of a VM or a vCPU at the head of its file, ended and filled by zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Id([u8; NAME_SIZE]);

impl Id {
    /// Makes the id of the VM that the process `pid` created.
    pub fn vm(pid: u32) -> Self {
        Self::format(format_args!("kvm-{pid}"))
    }

    /// Makes the id of its vCPU `vcpu_id`.
    pub fn vcpu(pid: u32, vcpu_id: u32) -> Self {
        Self::format(format_args!("kvm-{pid}/vcpu-{vcpu_id}"))
    }

    fn format(text: fmt::Arguments<'_>) -> Self {
        let mut bytes = [0; NAME_SIZE];
        // The filler takes what fits, and two numbers do.
        let _ = Filler { room: &mut bytes }.write_fmt(text);
        Self(bytes)
    }
}

/// The file of a VM or a vCPU.
pub struct File<'a> {
    /// The statistics.
    pub table: &'static Table,
    /// The name.
    pub id: &'a Id,
}

impl File<'_> {
    /// Returns the size in bytes.
    pub const fn size(&self) -> usize {
        self.table
            .data_offset()
            .wrapping_add(self.table.nr_words().wrapping_mul(WORD_SIZE))
    }

    /// Reads from `offset` on into `out`, and returns the number of bytes, less than asked for at
    /// the end only. `word(index)` reads a value.
    pub fn read_at(&self, offset: u64, out: &mut [u8], word: impl Fn(usize) -> u64) -> usize {
        let Ok(offset) = usize::try_from(offset) else {
            return 0;
        };
        let room = out.len();
        let mut window = Window {
            skip: offset,
            out: Filler { room: out },
        };
        window.put(&self.table.header());
        window.put(&self.id.0);
        if !window.skip_whole(self.table.descs.len(), DESC_SIZE) {
            for desc in self.table.descs {
                window.put(&desc.to_bytes());
            }
        }
        let first = (window.skip / WORD_SIZE).min(self.table.nr_words());
        window.skip = window.skip.wrapping_sub(first.wrapping_mul(WORD_SIZE));
        for index in first..self.table.nr_words() {
            if window.out.room.is_empty() {
                break;
            }
            window.put(&word(index).to_ne_bytes());
        }
        room.wrapping_sub(window.out.room.len())
    }
}

/// Bytes to fill from the front; what does not fit is dropped.
struct Filler<'a> {
    room: &'a mut [u8],
}

impl Filler<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let room = core::mem::take(&mut self.room);
        let len = bytes.len().min(room.len());
        if let (Some((filled, rest)), Some(bytes)) =
            (room.split_at_mut_checked(len), bytes.get(..len))
        {
            filled.copy_from_slice(bytes);
            self.room = rest;
        }
    }
}

impl Write for Filler<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

/// Part of a stream of bytes: the first `skip` are dropped.
struct Window<'a> {
    skip: usize,
    out: Filler<'a>,
}

impl Window<'_> {
    /// Takes the next bytes of the stream.
    fn put(&mut self, bytes: &[u8]) {
        match bytes.get(self.skip..) {
            Some(visible) => {
                self.skip = 0;
                self.out.put(visible);
            }
            None => self.skip = self.skip.wrapping_sub(bytes.len()),
        }
    }

    /// Skips `nr` items of `size` bytes if all of them are to be dropped, and returns whether.
    fn skip_whole(&mut self, nr: usize, size: usize) -> bool {
        match self.skip.checked_sub(nr.wrapping_mul(size)) {
            Some(skip) => {
                self.skip = skip;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests;
