// SPDX-License-Identifier: GPL-2.0

//! Interrupt messages on their way from a sender to local APICs.

use crate::vm::{
    posted::TriggerMode,
    vcpus::{
        VcpuShared,
        Vcpus, //
    }, //
};
use burrow_core::x86::irqchip::{
    apic_dest::{
        self,
        BroadcastQuirk,
        Identity,
        Sender, //
    },
    apic_msg::{
        self,
        Message,
        Signal,
        SoftwareState, //
    },
};

/// Who sends a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Origin {
    /// The local APIC of the vCPU with this index.
    Vcpu(u32),
    /// A device, by MSI.
    Device(BroadcastQuirk),
}

impl Origin {
    fn as_seen_by(self, vcpu: &VcpuShared) -> Sender {
        match self {
            Self::Vcpu(index) if index == vcpu.index => Sender::Target,
            Self::Vcpu(_) => Sender::OtherApic,
            Self::Device(quirk) => Sender::Device(quirk),
        }
    }
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Delivered {
    /// No local APIC took it.
    Nowhere,
    /// All that took it had it pending already.
    Coalesced,
    /// This many took it.
    To(u32),
}

/// Delivers `message` to the local APICs that it addresses.
///
/// # Context
///
/// Any but NMI.
pub(crate) fn deliver(vcpus: &Vcpus, message: &Message, origin: Origin) -> Delivered {
    deliver_to(vcpus, message, origin, |_| {})
}

/// As [`deliver()`], and calls `to` with the index of each vCPU that took it.
pub(crate) fn deliver_to(
    vcpus: &Vcpus,
    message: &Message,
    origin: Origin,
    mut to: impl FnMut(u32),
) -> Delivered {
    vcpus.with_all(|vcpus| {
        let addressed = vcpus.iter().filter_map(|vcpu| {
            let identity = Identity::unpack(vcpu.identity());
            let is_addressed = identity.matches(message, origin.as_seen_by(vcpu));
            is_addressed.then_some((&**vcpu, identity.software))
        });
        let mut tally = Tally::default();
        let mut send = |vcpu: &VcpuShared, software| {
            let is_new = signal(vcpu, message.signal(software));
            if is_new.is_some() {
                to(vcpu.index);
            }
            tally.add(is_new);
        };
        if message.is_lowest_priority() {
            let able = addressed.filter(|(_, software)| *software == SoftwareState::Enabled);
            let chosen = apic_dest::choose_by_vector(able.clone().count(), message.vector);
            if let Some((vcpu, software)) = chosen.and_then(|nth| able.clone().nth(nth)) {
                send(vcpu, software);
            }
        } else {
            addressed.for_each(|(vcpu, software)| send(vcpu, software));
        }
        tally.delivered()
    })
}

/// How many took a message.
#[derive(Default)]
struct Tally {
    new: u32,
    has_coalesced: bool,
}

impl Tally {
    fn add(&mut self, is_new: Option<bool>) {
        match is_new {
            Some(true) => self.new = self.new.wrapping_add(1),
            Some(false) => self.has_coalesced = true,
            None => {}
        }
    }

    fn delivered(&self) -> Delivered {
        match (self.new, self.has_coalesced) {
            (0, false) => Delivered::Nowhere,
            (0, true) => Delivered::Coalesced,
            (new, _) => Delivered::To(new),
        }
    }
}

/// Gives an addressed vCPU what a message does to it; returns whether that is new to it, or `None`
/// where it is nothing.
fn signal(vcpu: &VcpuShared, signal: Signal) -> Option<bool> {
    let posted = &vcpu.posted;
    let is_new = match signal {
        Signal::Nothing => return None,
        Signal::Interrupt { vector, trigger } => posted.post(
            vector,
            match trigger {
                apic_msg::TriggerMode::Edge => TriggerMode::Edge,
                apic_msg::TriggerMode::Level => TriggerMode::Level,
            },
        ),
        Signal::Nmi => {
            posted.post_nmi();
            true
        }
        Signal::Smi => {
            posted.post_smi();
            true
        }
        Signal::Init => {
            posted.post_init();
            true
        }
        Signal::Startup { vector } => {
            posted.post_sipi(vector);
            true
        }
    };
    vcpu.kick.kick();
    Some(is_new)
}
