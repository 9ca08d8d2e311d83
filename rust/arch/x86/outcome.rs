// SPDX-License-Identifier: GPL-2.0

//! What the handling of an exit comes to. Only the run loop acts on it.

use burrow_core::{
    addr::Gpa,
    outcome::{
        Bug,
        Exception, //
    },
    x86::vmx::exit::EptViolation,
};
use burrow_sys::uapi::{
    KVM_INTERNAL_ERROR_EMULATION,
    KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, //
};
use kernel::error::Error;

/// The flag that says that the bytes of the instruction follow.
const INSTRUCTION_BYTES: u64 = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES as u64;

/// How to go on after an exit.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) enum Outcome {
    /// Enter the guest again, at the RIP that it has.
    Resume,
    /// The instruction that caused the exit is done: step over it, and enter again.
    Skip,
    /// Return to userspace.
    ToUser(UserExit),
}

/// Why the handling of an exit stopped half way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// The guest did something wrong.
    Inject(Exception),
    /// Userspace must look at it.
    ToUser(UserExit),
    /// The ioctl fails: what userspace gave us cannot be used.
    Fail(Error),
    /// L1's EPT does not let L2 do what we do on its behalf.
    Ept12(EptFault),
    /// We did something wrong.
    Bug(Bug),
}

impl From<Exception> for Stop {
    fn from(exception: Exception) -> Self {
        Self::Inject(exception)
    }
}

impl From<Bug> for Stop {
    fn from(bug: Bug) -> Self {
        Self::Bug(bug)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fail(error)
    }
}

/// Why L1's EPT does not let an access of L2 through.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EptFault {
    /// EPT violation.
    Violation {
        /// The guest-physical address of L2.
        gpa: Gpa,
        /// The exit qualification.
        qualification: EptViolation,
    },
    /// EPT misconfiguration.
    Misconfiguration {
        /// The guest-physical address of L2.
        gpa: Gpa,
    },
    /// A flag of L1's EPT is to be set, and L1's page-modification log is full.
    LogFull {
        /// The guest-physical address of L2.
        gpa: Gpa,
        /// The exit qualification.
        qualification: u64,
    },
    /// L1 changes its EPT: try again.
    Raced,
}

/// What becomes of L2's pending events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum L2Events {
    /// L1 runs now.
    Left,
    /// L2 goes on; what is queued for it may be delivered.
    Deliver,
    /// L2 must be entered, and then leave again at once.
    Later,
}

/// What a handler returns.
pub(crate) type Handled = Result<Outcome, Stop>;

/// The direction of an access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    /// From the device to the guest.
    Read,
    /// From the guest to the device.
    Write,
}

/// The most words that go with an internal error.
pub(crate) const INTERNAL_WORDS: usize = 8;

/// An access of the guest to its task priority in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TprAccess {
    /// RIP of the instruction.
    pub(crate) rip: u64,
    /// The direction.
    pub(crate) direction: Direction,
}

/// A return to userspace with a reason, as `struct kvm_run` tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum UserExit {
    /// `KVM_EXIT_IO`: `count` items of `size` bytes at `port`; the data is in the PIO page.
    Io {
        /// The direction.
        direction: Direction,
        /// The port.
        port: u16,
        /// Bytes of an item: 1, 2 or 4.
        size: u8,
        /// The number of items.
        count: u32,
    },
    /// `KVM_EXIT_MMIO`.
    Mmio {
        /// The direction.
        direction: Direction,
        /// The guest-physical address.
        address: u64,
        /// What is written; 0 for a read.
        data: [u8; 8],
        /// 1 to 8 bytes.
        len: u8,
    },
    /// `KVM_EXIT_HLT`.
    Hlt,
    /// `KVM_EXIT_INTR`, with `EINTR`.
    Intr,
    /// `KVM_EXIT_IRQ_WINDOW_OPEN`.
    IrqWindowOpen,
    /// `KVM_EXIT_SHUTDOWN`.
    Shutdown,
    /// `KVM_EXIT_DIRTY_RING_FULL`.
    DirtyRingFull,
    /// `KVM_EXIT_SET_TPR`.
    SetTpr,
    /// `KVM_EXIT_TPR_ACCESS`.
    TprAccess(TprAccess),
    /// `KVM_EXIT_IOAPIC_EOI`.
    IoapicEoi {
        /// The vector.
        vector: u8,
    },
    /// `KVM_EXIT_FAIL_ENTRY`.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
        /// The CPU.
        cpu: u32,
    },
    /// `KVM_EXIT_INTERNAL_ERROR`.
    InternalError {
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// What goes with it.
        data: [u64; INTERNAL_WORDS],
        /// How many words of `data`.
        count: u32,
    },
    /// `KVM_EXIT_X86_RDMSR` or `KVM_EXIT_X86_WRMSR`.
    Msr {
        /// The direction.
        direction: Direction,
        /// `KVM_MSR_EXIT_REASON_*`.
        reason: u32,
        /// The MSR.
        index: u32,
        /// What is written; 0 for a read.
        data: u64,
    },
    /// `KVM_EXIT_DEBUG`.
    Debug {
        /// The exception.
        exception: u8,
        /// CS base plus RIP.
        pc: u64,
        /// DR6.
        dr6: u64,
        /// DR7.
        dr7: u64,
    },
}

impl UserExit {
    /// An internal error: an instruction that we cannot emulate. `bytes` is what was fetched of it,
    /// `info` what the exit said: reason, qualification, IDT-vectoring information, interruption
    /// information and error code.
    pub(crate) fn emulation_failed(bytes: &[u8], info: [u64; 5]) -> Self {
        let mut data = [0; INTERNAL_WORDS];
        let mut words = data.iter_mut();
        let len = bytes.len().min(15);
        let mut count = 1 + info.len() as u32;
        if let Some(flags) = words.next() {
            *flags = if len == 0 { 0 } else { INSTRUCTION_BYTES };
        }
        if len != 0 {
            count += 2;
            // The length, then the bytes, padded with NOPs.
            let mut packed = [0x90u8; 16];
            packed[0] = len as u8;
            packed[1..=len].copy_from_slice(&bytes[..len]);
            for chunk in packed.chunks_exact(8) {
                let mut le = [0; 8];
                le.copy_from_slice(chunk);
                if let Some(word) = words.next() {
                    *word = u64::from_le_bytes(le);
                }
            }
        }
        for (word, value) in words.zip(info) {
            *word = value;
        }
        Self::InternalError {
            suberror: KVM_INTERNAL_ERROR_EMULATION,
            data,
            count,
        }
    }
}
