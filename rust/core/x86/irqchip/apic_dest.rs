// SPDX-License-Identifier: GPL-2.0

//! Destinations: which local APICs a message addresses, and which of them a lowest-priority one.
//!
//! A sender runs in any context and must not touch the APIC of another vCPU. It decides from an
//! [`Identity`], a copy small enough ([`Identity::pack`]) to be published in one atomic word
//! whenever the owner's `Effects::identity_changed` says so.
//!
//! Two deviations from hardware are KVM's and part of its ABI:
//!
//! - An APIC in xAPIC mode takes a physical destination above 0xff for its *x2APIC* id; hardware
//!   compares the low 8 bits. So a hot-plugged vCPU above 255 can be started.
//! - Unless the VMM disables the broadcast quirk (KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK), a
//!   destination of 0xff from a *device* is a broadcast to APICs in x2APIC mode also.

use super::apic_msg::{
    DestMode, Message, Shorthand, SoftwareState, X2APIC_BROADCAST, XAPIC_BROADCAST,
};

/// The mode of a local APIC, by IA32_APIC_BASE. SDM 3A "x2APIC State Transitions", 11.12.5
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum ApicMode {
    /// Globally disabled: EN = 0, EXTD = 0.
    #[default]
    Disabled = 0,
    /// Registers in memory, 8-bit ids: EN = 1, EXTD = 0.
    XApic = 1,
    /// Registers in MSRs, 32-bit ids: EN = 1, EXTD = 1.
    X2Apic = 2,
}

/// How an APIC in xAPIC mode reads its logical id: its destination format register.
/// SDM 3A "Logical Destination Mode", 11.6.2.2
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum LogicalModel {
    /// DFR = 0xffff_ffff: one bit for each of 8 APICs.
    #[default]
    Flat = 0,
    /// DFR = 0x0fff_ffff: 15 clusters of 4 APICs.
    Cluster = 1,
    /// Any other value: no logical destination matches.
    Invalid = 2,
}

impl LogicalModel {
    /// Returns the model that a destination format register selects.
    #[inline]
    pub const fn from_dfr(dfr: u32) -> Self {
        match dfr >> 28 {
            0xf => LogicalModel::Flat,
            0x0 => LogicalModel::Cluster,
            _ => LogicalModel::Invalid,
        }
    }
}

/// Returns the logical destination register that x2APIC id `id` implies.
/// SDM 3A "Deriving Logical x2APIC ID from the Local x2APIC ID", 11.12.10.2
#[inline]
pub const fn x2apic_ldr(id: u32) -> u32 {
    ((id >> 4) << 16) | (1 << (id & 0xf))
}

/// What a sender needs to know of a local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// The 32-bit id: KVM's vCPU id, fixed for life.
    pub x2apic_id: u32,
    /// The 8-bit id, which a guest in xAPIC mode may write.
    pub xapic_id: u8,
    /// Bits 31:24 of the LDR, in xAPIC mode.
    pub logical_id: u8,
    /// How to read `logical_id`.
    pub model: LogicalModel,
    /// The mode.
    pub mode: ApicMode,
    /// Whether the APIC takes vectors.
    pub software: SoftwareState,
    /// What the interrupt pin of the 8259A does to the processor.
    pub lint0: Lint0,
}

/// What the interrupt pin of the 8259A, which is wired to LINT0 of each local APIC, does there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lint0 {
    /// Nothing.
    #[default]
    Closed,
    /// Interrupts the processor, which asks the 8259A for the vector.
    ExtInt,
    /// Raises an NMI.
    Nmi,
}

crate::bitfield! {
    /// The published form of an [`Identity`].
    pub struct PackedIdentity(u64) {
        /// The 32-bit id.
        31:0 x2apic_id, with_x2apic_id => u32;
        /// The 8-bit id.
        39:32 xapic_id, with_xapic_id => u8;
        /// `LDR[31:24]`.
        47:40 logical_id, with_logical_id => u8;
        /// A [`LogicalModel`].
        49:48 model, with_model => u8;
        /// An [`ApicMode`].
        51:50 mode, with_mode => u8;
        /// `SVR[8]`.
        52:52 is_enabled, with_enabled => bool;
        /// A [`Lint0`].
        54:53 lint0, with_lint0 => u8;
    }
}

/// Who sent a message, as the target sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// The target APIC itself.
    Target,
    /// Another local APIC.
    OtherApic,
    /// An I/O APIC or a device.
    Device(BroadcastQuirk),
}

/// Whether 0xff from a device addresses all APICs in x2APIC mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BroadcastQuirk {
    /// KVM's default: it does.
    #[default]
    Enabled,
    /// KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: it is an ordinary destination.
    Disabled,
}

impl Identity {
    /// Returns the form that fits an atomic word.
    #[inline]
    pub fn pack(&self) -> u64 {
        PackedIdentity::default()
            .with_x2apic_id(self.x2apic_id)
            .with_xapic_id(self.xapic_id)
            .with_logical_id(self.logical_id)
            .with_model(self.model as u8)
            .with_mode(self.mode as u8)
            .with_enabled(self.software == SoftwareState::Enabled)
            .with_lint0(self.lint0 as u8)
            .0
    }

    /// Returns what [`Self::pack`] packed; any other bits read as a disabled APIC or no model.
    #[inline]
    pub fn unpack(bits: u64) -> Self {
        let packed = PackedIdentity(bits);
        Self {
            x2apic_id: packed.x2apic_id(),
            xapic_id: packed.xapic_id(),
            logical_id: packed.logical_id(),
            model: match packed.model() {
                0 => LogicalModel::Flat,
                1 => LogicalModel::Cluster,
                _ => LogicalModel::Invalid,
            },
            mode: match packed.mode() {
                1 => ApicMode::XApic,
                2 => ApicMode::X2Apic,
                _ => ApicMode::Disabled,
            },
            software: if packed.is_enabled() {
                SoftwareState::Enabled
            } else {
                SoftwareState::Disabled
            },
            lint0: match packed.lint0() {
                1 => Lint0::ExtInt,
                2 => Lint0::Nmi,
                _ => Lint0::Closed,
            },
        }
    }

    /// Returns whether `message` from `sender` addresses this APIC.
    ///
    /// Of the APICs that match a lowest-priority message, [`choose_by_priority`] or
    /// [`choose_by_vector`] picks one. SDM 3A "Determining IPI Destination", 11.6.2
    #[inline]
    pub fn matches(&self, message: &Message, sender: Sender) -> bool {
        if self.mode == ApicMode::Disabled {
            return false;
        }
        match message.shorthand {
            Shorthand::None => {
                let dest = self.effective_dest(message.dest, sender);
                self.is_broadcast(dest)
                    || match message.dest_mode {
                        DestMode::Physical => self.matches_physical(dest),
                        DestMode::Logical => self.matches_logical(dest),
                    }
            }
            Shorthand::Myself => sender == Sender::Target,
            Shorthand::AllIncludingSelf => true,
            Shorthand::AllExcludingSelf => sender != Sender::Target,
        }
    }

    /// Returns `dest` after the broadcast quirk.
    fn effective_dest(&self, dest: u32, sender: Sender) -> u32 {
        let is_widened = sender == Sender::Device(BroadcastQuirk::Enabled)
            && self.mode == ApicMode::X2Apic
            && dest == XAPIC_BROADCAST;
        if is_widened {
            X2APIC_BROADCAST
        } else {
            dest
        }
    }

    fn is_broadcast(&self, dest: u32) -> bool {
        match self.mode {
            ApicMode::Disabled => false,
            ApicMode::XApic => dest == XAPIC_BROADCAST,
            ApicMode::X2Apic => dest == X2APIC_BROADCAST,
        }
    }

    fn matches_physical(&self, dest: u32) -> bool {
        if self.mode == ApicMode::X2Apic || dest > XAPIC_BROADCAST {
            dest == self.x2apic_id
        } else {
            dest == u32::from(self.xapic_id)
        }
    }

    fn matches_logical(&self, dest: u32) -> bool {
        if self.mode == ApicMode::X2Apic {
            let ldr = x2apic_ldr(self.x2apic_id);
            return ldr >> 16 == dest >> 16 && ldr & dest & 0xffff != 0;
        }
        let id = u32::from(self.logical_id);
        match self.model {
            LogicalModel::Flat => id & dest != 0,
            LogicalModel::Cluster => id >> 4 == dest >> 4 && id & dest & 0xf != 0,
            LogicalModel::Invalid => false,
        }
    }
}

/// Returns which candidate of a lowest-priority message takes it: the one of lowest priority
/// class and, among equals, the first after `last` in cyclic order.
///
/// `candidates` gives, in ascending order of the index that names a vCPU, the index and the PPR
/// of each software-enabled APIC that matches; `last` is the index that was chosen the time
/// before. SDM 3A "Lowest Priority Delivery Mode", 11.6.2.4
pub fn choose_by_priority(
    candidates: impl Iterator<Item = (usize, u8)>,
    last: Option<usize>,
) -> Option<usize> {
    // Those after `last` come first; `min_by_key` keeps the first of equals.
    candidates
        .min_by_key(|&(index, ppr)| (ppr >> 4, last.is_some_and(|last| index <= last)))
        .map(|(index, _)| index)
}

/// Returns which of `nr_candidates` APICs, counted from 0 in the order of their ids, takes a
/// lowest-priority message, by its vector alone: KVM's vector hashing (`kvm.vector_hashing`).
///
/// It needs no knowledge of remote priorities and keeps each vector on one APIC.
pub fn choose_by_vector(nr_candidates: usize, vector: u8) -> Option<usize> {
    usize::from(vector).checked_rem(nr_candidates)
}

#[cfg(test)]
mod tests;
