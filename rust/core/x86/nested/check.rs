// SPDX-License-Identifier: GPL-2.0

//! VM-entry checks: what a check sees, how tables of them run, and what a failure becomes.
//!
//! The rows are in `check_controls`, `check_host`, `check_guest` and `check_segments`. Each row has
//! a name and violates one rule of the SDM; rows that read the same field groups share a block,
//! which runs only if one of those groups is dirty. So an entry with an unchanged vmcs12 checks
//! next to nothing, and one that moved RIP checks what depends on RIP. Nothing is left to the
//! processor: it may not check what the SDM says it does, and vmcs02 does not hold the same values.

use super::super::vmx::caps::VmxCaps;
use super::super::vmx::ctls::{
    EntryCtls,
    ExitCtls,
    IntrInfo,
    PinCtls,
    Proc2Ctls,
    ProcCtls, //
};
use super::super::vmx::exit::ExitReason;
use super::super::vmx::field::{
    Field,
    Natural,
    VmcsAccess,
    Width,
    *, //
};
use super::super::vmx::insn::{
    is_canonical,
    VmFail,
    VmInsnError, //
};
use super::vmcs12::{
    Groups,
    Vmcs12, //
};

/// The name of a check: the letter and number of its rule, and the rule in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckId(pub &'static str);

/// What checks need to know of L1's virtual processor and of its memory, besides vmcs12.
///
/// A change of anything but the volatile part (the last four fields) must mark every group of
/// every vmcs12 dirty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Env {
    /// Width of physical addresses in bits (CPUID.80000008H:EAX\[7:0\]), 32 to 52.
    pub phys_bits: u8,
    /// Width of linear addresses in bits that the processor supports, 48 or 57.
    pub linear_bits: u8,
    /// Bits that may be 1 in IA32_EFER.
    pub efer_allowed: u64,
    /// Bits that may be 1 in IA32_DEBUGCTL.
    pub debugctl_allowed: u64,
    /// Bits that may be 1 in IA32_PERF_GLOBAL_CTRL.
    pub perf_global_allowed: u64,
    /// Bits 63 and 62:61 of CR3 that LAM allows in the guest's CR3; 0 without LAM.
    pub cr3_lam_allowed: u64,
    /// L1 has RTM (CPUID.07H:EBX\[11\]).
    pub has_rtm: bool,
    /// L1 is in IA-32e mode (IA32_EFER.LMA at the VM entry).
    pub is_l1_long_mode: bool,
    /// Address of the current VMCS.
    pub current_vmcs: u64,
    /// Volatile: first 32 bits of the region that the link pointer names; `None` if it is -1 or
    /// not readable as memory.
    pub link_header: Option<u32>,
    /// Volatile: VTPR, byte 80H of the virtual-APIC page; `None` if there is none.
    pub vtpr: Option<u8>,
    /// Volatile: the PDPTEs that guest CR3 points at; `None` unless PAE paging without EPT.
    pub memory_pdptes: Option<[u64; 4]>,
}

/// Where an entry into L2 comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryCause {
    /// VMLAUNCH or VMRESUME, or a restored state with the entry still pending: events in vmcs12 are
    /// to be injected.
    Fresh,
    /// A restored state in which L2 has run: they have been.
    Restore,
}

/// What a check sees.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// The vmcs12 to enter with.
    pub vmcs12: &'a Vmcs12,
    /// The capabilities of L1.
    pub caps: &'a VmxCaps,
    /// The rest of L1.
    pub env: &'a Env,
    /// Why L2 is entered: fields that no longer count in a restored state are not checked.
    pub cause: EntryCause,
}

impl Entry<'_> {
    /// Reads a field of vmcs12.
    #[inline]
    pub(super) fn get<W: Width>(&self, field: Field<W>) -> W::Value {
        self.vmcs12.read(field)
    }

    pub(super) fn pin(&self) -> PinCtls {
        PinCtls(self.get(PIN_BASED_VM_EXEC_CONTROL))
    }

    pub(super) fn proc(&self) -> ProcCtls {
        ProcCtls(self.get(CPU_BASED_VM_EXEC_CONTROL))
    }

    /// The secondary controls; all 0 unless activated.
    pub(super) fn proc2(&self) -> Proc2Ctls {
        if self.proc().secondary() {
            Proc2Ctls(self.get(SECONDARY_VM_EXEC_CONTROL))
        } else {
            Proc2Ctls(0)
        }
    }

    pub(super) fn exit(&self) -> ExitCtls {
        ExitCtls(self.get(VM_EXIT_CONTROLS))
    }

    pub(super) fn entry(&self) -> EntryCtls {
        EntryCtls(self.get(VM_ENTRY_CONTROLS))
    }

    pub(super) fn event(&self) -> IntrInfo {
        IntrInfo(self.get(VM_ENTRY_INTR_INFO_FIELD))
    }

    /// Returns whether `address` lies within the physical-address width.
    pub(super) fn is_physical(&self, address: u64) -> bool {
        address
            .checked_shr(u32::from(self.env.phys_bits))
            .unwrap_or(0)
            == 0
    }

    /// Returns whether `field` holds the address of a page.
    pub(super) fn is_page(&self, field: Field<u64>) -> bool {
        let address = self.get(field);
        address & 0xfff == 0 && self.is_physical(address)
    }

    /// Returns whether `field` holds an address that is canonical for this processor.
    pub(super) fn is_canonical(&self, field: Field<Natural>) -> bool {
        is_canonical(self.get(field), self.env.linear_bits)
    }
}

/// One check.
pub(super) struct Check {
    /// Its name.
    pub(super) id: CheckId,
    /// Returns whether vmcs12 violates it.
    pub(super) violated: fn(&Entry<'_>) -> bool,
}

/// Checks that depend on the same field groups.
pub(super) struct Block {
    /// The groups whose change can change an answer; [`ALWAYS`] with those that read the volatile
    /// part of [`Env`].
    pub(super) depends: Groups,
    /// The exit qualification of an entry failure; unused for controls and host state.
    pub(super) qualification: u64,
    /// The checks, in the order of the SDM.
    pub(super) checks: &'static [Check],
}

/// The dependency of a block that runs at every entry.
pub(super) const ALWAYS: Groups = Groups::NONE;

/// Declares the checks of a block: `"name" => |entry| violated;`.
macro_rules! checks {
    ($($name:literal => $violated:expr;)*) => {
        &[ $( $crate::x86::nested::check::Check {
            id: $crate::x86::nested::check::CheckId($name),
            violated: $violated,
        } ),* ]
    };
}
pub(super) use checks;

/// Blocks in their order, and which of them a dirty group makes run.
pub(super) struct Table {
    blocks: &'static [Block],
    /// The blocks that always run, as bits.
    always: u32,
    /// Those that depend on each group.
    due: [u32; Groups::COUNT],
}

impl Table {
    /// Makes the table of `blocks`, of which there are at most 32.
    pub(super) const fn new(blocks: &'static [Block]) -> Self {
        let mut table = Self {
            blocks,
            always: 0,
            due: [0; Groups::COUNT],
        };
        let (mut rest, mut bit) = (blocks, 1_u32);
        while let [block, tail @ ..] = rest {
            if block.depends.is_empty() {
                table.always |= bit;
            }
            let mut group = 0;
            while group < Groups::COUNT {
                if block.depends.intersects(Groups::nth(group)) {
                    #[allow(clippy::indexing_slicing, reason = "runs at build time only")]
                    {
                        table.due[group] |= bit;
                    }
                }
                group = group.wrapping_add(1);
            }
            bit = bit.wrapping_shl(1);
            rest = tail;
        }
        table
    }

    /// Returns the blocks that run where the groups `dirty` have changed, in order.
    #[inline]
    fn due(&self, dirty: Groups) -> impl Iterator<Item = &'static Block> {
        let mut bits = dirty
            .iter()
            .filter_map(|group| self.due.get(group))
            .fold(self.always, |all, due| all | due);
        let blocks = self.blocks;
        core::iter::from_fn(move || {
            let next = bits.trailing_zeros() as usize;
            bits &= bits.wrapping_sub(1);
            blocks.get(next)
        })
    }
}

/// Returns the first violated check of those that `dirty` makes run, and its qualification.
pub(super) fn run(
    table: &'static Table,
    entry: &Entry<'_>,
    dirty: Groups,
) -> Result<(), (CheckId, u64)> {
    for block in table.due(dirty) {
        if let Some(check) = block.checks.iter().find(|check| (check.violated)(entry)) {
            return Err((check.id, block.qualification));
        }
    }
    Ok(())
}

/// A VM-entry failure: an exit of reason 33 or 34 with bit 31 set. SDM 3C "VM-Entry Failures During
/// or After Loading Guest State", 27.8.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryFail {
    /// [`ExitReason::InvalidState`] or [`ExitReason::MsrLoadFail`].
    pub reason: ExitReason,
    /// Exit qualification.
    pub qualification: u64,
}

/// What a refused entry becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// VMfailValid with error 7 or 8: L1 goes on at its next instruction.
    Fail(VmFail),
    /// L1 goes on at HOST_RIP.
    Exit(EntryFail),
}

/// A refused entry: why, and what follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The check that refused it.
    pub id: CheckId,
    /// What follows.
    pub refusal: Refusal,
}

/// Checks controls (error 7), host state (error 8) and guest state (exit 33), in this order, as far
/// as the dirty groups of vmcs12 ask for it. SDM 3C "VM Entries", 27.2 and 27.3.
///
/// # Errors
///
/// The first violated check.
pub fn vm_entry(entry: &Entry<'_>) -> Result<(), Refused> {
    let dirty = entry.vmcs12.dirty();
    let fail = |error| {
        move |(id, _)| Refused {
            id,
            refusal: Refusal::Fail(VmFail::Valid(error)),
        }
    };
    run(&super::check_controls::TABLE, entry, dirty)
        .map_err(fail(VmInsnError::EntryInvalidControlField))?;
    run(&super::check_host::TABLE, entry, dirty)
        .map_err(fail(VmInsnError::EntryInvalidHostStateField))?;
    run(&super::check_guest::TABLE, entry, dirty).map_err(|(id, qualification)| {
        let fail = EntryFail {
            reason: ExitReason::InvalidState,
            qualification,
        };
        Refused {
            id,
            refusal: Refusal::Exit(fail),
        }
    })
}

/// Returns whether every byte of an IA32_PAT value is a memory type: 0, 1, 4, 5, 6 or 7.
pub(super) fn is_pat(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

/// Returns whether the reserved bits 9:6 of IA32_S_CET are 0, and SUPPRESS and WAIT_FOR_ENDBRANCH
/// (bits 10 and 11) are not both 1.
pub(super) fn is_s_cet(value: u64) -> bool {
    value & 0x3c0 == 0 && value & 0xc00 != 0xc00
}

/// CR0.PE.
pub(super) const CR0_PE: u64 = 1 << 0;
/// CR0.WP.
pub(super) const CR0_WP: u64 = 1 << 16;
/// CR0.PG.
pub(super) const CR0_PG: u64 = 1 << 31;
/// CR4.PAE.
pub(super) const CR4_PAE: u64 = 1 << 5;
/// CR4.LA57.
pub(super) const CR4_LA57: u64 = 1 << 12;
/// CR4.PCIDE.
pub(super) const CR4_PCIDE: u64 = 1 << 17;
/// CR4.CET.
pub(super) const CR4_CET: u64 = 1 << 23;
/// IA32_EFER.LME.
pub(super) const EFER_LME: u64 = 1 << 8;
/// IA32_EFER.LMA.
pub(super) const EFER_LMA: u64 = 1 << 10;

#[cfg(test)]
pub(super) mod tests;
