// SPDX-License-Identifier: GPL-2.0

//! What the emulator needs of the vCPU, and what it answers.

use super::insn::SegReg;
use crate::addr::Gva;
use crate::outcome::Exception;

/// Why an instruction could not be completed. No register, flag or memory was changed by it (or, of
/// a repeated string instruction, by the iteration that stopped).
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It causes an exception, a fault: RIP stays on the instruction.
    Fault(Exception),
    /// An access must be completed elsewhere first; then the instruction runs again from the start.
    Wait,
    /// Another CPU changed the operand of a locked instruction. [`emulate`](super::emulate) makes
    /// [`Done::Again`] of it.
    Raced,
    /// The emulator or the implementation of [`EmulOps`] cannot do this: an internal error to the
    /// VMM.
    Unhandleable,
}

impl Stop {
    /// #UD.
    pub(super) const UD: Self = Self::Fault(Exception::UD);
    /// #GP(0).
    pub(super) const GP0: Self = Self::Fault(Exception::GP0);
}

/// How far an instruction came.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// It is complete; RIP is on the next one. Where RFLAGS.TF was set before, a single-step trap is
    /// due, for which the caller cares.
    Retired(Shadow),
    /// RIP is still on it: run it again, after a look at pending events. Of a repeated string
    /// instruction some iterations are complete; a locked one lost a race.
    Again,
}

/// What the instruction just completed blocks until the next one is complete.
/// SDM 3C "Guest Non-Register State", 26.4.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shadow {
    /// Nothing.
    None,
    /// Blocking by STI.
    Sti,
    /// Blocking by MOV SS.
    MovSs,
}

/// What an access to memory is for; page protection depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Data, to be read.
    Read,
    /// Data, to be written.
    Write,
    /// Data, to be read; a write to the same place follows, so it must be writable.
    Modify,
    /// A descriptor table or the task-state segment, to be read, with supervisor rights.
    SystemRead,
    /// A descriptor table, to be written, with supervisor rights.
    SystemWrite,
}

/// The result of a compare-and-exchange.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swap {
    /// Memory held the old value and holds the new one now.
    Done,
    /// Memory held another value and was not changed.
    Differs,
}

bitfield! {
    /// Access rights of a segment. SDM 3C "Guest Register State", 26.4.1, table 26-2.
    pub struct SegmentRights(u32) {
        /// Segment type.
        3:0 kind, with_kind => u8;
        /// For data segments, whether writable; for code segments, whether readable.
        1:1 second, with_second => bool;
        /// For data segments, whether offsets lie above the limit; conforming code segment.
        2:2 expand_down, with_expand_down => bool;
        /// Whether a code segment.
        3:3 code, with_code => bool;
        /// Code or data, not system.
        4:4 code_or_data, with_code_or_data => bool;
        /// Descriptor privilege level.
        6:5 dpl, with_dpl => u8;
        /// Present.
        7:7 present, with_present => bool;
        /// 64-bit code segment.
        13:13 long, with_long => bool;
        /// Default operation size, stack-pointer size, upper bound: 32 bits.
        14:14 big, with_big => bool;
        /// Granularity: the limit in the descriptor counted 4-KiB units.
        15:15 granular, with_granular => bool;
        /// Not usable.
        16:16 unusable, with_unusable => bool;
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentView {
    /// The selector.
    pub selector: u16,
    /// The base address.
    pub base: u64,
    /// The limit, in bytes.
    pub limit: u32,
    /// The access rights.
    pub rights: SegmentRights,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableView {
    /// The base address.
    pub base: u64,
    /// The limit, in bytes.
    pub limit: u16,
}

/// The vCPU as the emulator sees it.
///
/// # Transactions
///
/// An instruction first does everything that can stop: memory and port accesses and hooks, in an
/// order that depends on the guest state alone. Any of them may return [`Stop::Wait`]; the
/// implementation then has the access completed (by a VMM, say) and runs the instruction again, in
/// the same guest state, answering the accesses that were complete from a record, in order.
/// Registers are set only after the last of them; [`EmulOps::committed`] then ends the transaction,
/// and the record is void.
///
/// Nearly every instruction writes memory once, and last. Where there are more writes, and before a
/// read that may have side effects, what will be written is probed first. What can still be lost is
/// an access whose `write` fails after its `probe_write` did not.
///
/// The hooks at the end are for instructions that reach beyond registers and memory. The emulator
/// has checked the privilege level; everything else (values, intercepts of a nested hypervisor) is
/// for the implementation. By default they are [`Stop::Unhandleable`].
#[allow(
    missing_docs,
    unused_variables,
    reason = "the hooks are named for their instructions"
)]
pub trait EmulOps {
    /// Returns general register `index`, 0 to 15.
    fn gpr(&self, index: u8) -> u64;
    /// Sets general register `index`, 0 to 15.
    fn set_gpr(&mut self, index: u8, value: u64);
    /// Returns RIP.
    fn rip(&self) -> u64;
    /// Sets RIP.
    fn set_rip(&mut self, value: u64);
    /// Returns RFLAGS.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, value: u64);
    /// Returns a segment register.
    fn segment(&self, register: SegReg) -> SegmentView;
    /// Returns the access rights of CS.
    fn code_rights(&self) -> SegmentRights {
        self.segment(SegReg::Cs).rights
    }
    /// Sets a segment register.
    fn set_segment(&mut self, register: SegReg, value: SegmentView);
    /// Returns GDTR.
    fn gdtr(&self) -> TableView;
    /// Returns IDTR.
    fn idtr(&self) -> TableView;
    /// Returns CR0 as the guest reads it.
    fn cr0(&self) -> u64;
    /// Returns CR4 as the guest reads it.
    fn cr4(&self) -> u64;
    /// Returns IA32_EFER as the guest reads it.
    fn efer(&self) -> u64;
    /// Returns the current privilege level, 0 to 3.
    fn cpl(&self) -> u8;

    /// Fetches instruction bytes; they lie within one page.
    ///
    /// # Errors
    ///
    /// As for [`EmulOps::read`].
    fn fetch(&mut self, address: Gva, bytes: &mut [u8]) -> Result<(), Stop>;
    /// Reads memory, at most 64 bytes, which may cross a page.
    ///
    /// # Errors
    ///
    /// [`Stop::Fault`] with #PF; [`Stop::Wait`]; [`Stop::Unhandleable`].
    fn read(&mut self, address: Gva, bytes: &mut [u8], access: Access) -> Result<(), Stop>;
    /// Checks that memory can be written, without writing.
    ///
    /// # Errors
    ///
    /// As for [`EmulOps::read`].
    fn probe_write(&mut self, address: Gva, len: usize, access: Access) -> Result<(), Stop>;
    /// Writes all of `bytes` or none. A write to a device may be posted: carried out after the
    /// instruction.
    ///
    /// # Errors
    ///
    /// As for [`EmulOps::read`].
    fn write(&mut self, address: Gva, bytes: &[u8], access: Access) -> Result<(), Stop>;
    /// Writes `new` if memory still holds `old`, as one atomic access; both are 1, 2, 4, 8 or 16
    /// bytes. To a device it is a write.
    ///
    /// # Errors
    ///
    /// As for [`EmulOps::read`].
    fn cmpxchg(&mut self, address: Gva, old: &[u8], new: &[u8]) -> Result<Swap, Stop>;
    /// Reads 1, 2 or 4 bytes from a port, for which the guest has permission.
    ///
    /// `ahead` is how many reads of that port and size follow for sure, this one included: with no fault
    /// and no look at events between them. The caller may fetch as many at once.
    ///
    /// # Errors
    ///
    /// As for [`EmulOps::read`], without faults.
    fn port_in(&mut self, port: u16, bytes: &mut [u8], ahead: u32) -> Result<(), Stop>;
    /// Writes 1, 2 or 4 bytes to a port, for which the guest has permission; may be posted.
    ///
    /// # Errors
    ///
    /// As for [`EmulOps::read`], without faults.
    fn port_out(&mut self, port: u16, bytes: &[u8]) -> Result<(), Stop>;
    /// Learns that registers were committed: the transaction is over.
    fn committed(&mut self) {}

    /// Reads an XMM register.
    fn xmm(&mut self, index: u8) -> Result<[u8; 16], Stop> {
        Err(Stop::Unhandleable)
    }
    /// Writes an XMM register: the last hook of its instruction.
    fn set_xmm(&mut self, index: u8, value: [u8; 16]) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    fn read_cr(&mut self, index: u8) -> Result<u64, Stop> {
        Err(Stop::Unhandleable)
    }
    fn write_cr(&mut self, index: u8, value: u64) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    fn read_dr(&mut self, index: u8) -> Result<u64, Stop> {
        Err(Stop::Unhandleable)
    }
    fn write_dr(&mut self, index: u8, value: u64) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    fn read_msr(&mut self, index: u32) -> Result<u64, Stop> {
        Err(Stop::Unhandleable)
    }
    fn write_msr(&mut self, index: u32, value: u64) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    fn set_gdtr(&mut self, value: TableView) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    fn set_idtr(&mut self, value: TableView) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    /// Answers CPUID: EAX, EBX, ECX, EDX.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop> {
        Err(Stop::Unhandleable)
    }
    fn rdtsc(&mut self) -> Result<u64, Stop> {
        Err(Stop::Unhandleable)
    }
    fn invlpg(&mut self, address: Gva) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    /// HLT: notes that the vCPU is to halt once the instruction is complete.
    fn halt(&mut self) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    /// INVD and WBINVD.
    fn wbinvd(&mut self) -> Result<(), Stop> {
        Err(Stop::Unhandleable)
    }
    fn pause(&mut self) -> Result<(), Stop> {
        Ok(())
    }
}
