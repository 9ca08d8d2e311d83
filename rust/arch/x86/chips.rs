// SPDX-License-Identifier: GPL-2.0

//! The I/O APIC and the 8259A pair of a VM, behind one spinlock.
//!
//! Every VM has them, as values that nothing reaches until `KVM_CREATE_IRQCHIP`. Lines are driven
//! from any context. Under the lock messages go out to vCPUs, whose own lock nests in it; nothing
//! else does: what has to be told to others is returned, and told when the lock is free.

use crate::arch::x86::{
    ipi::Delivered,
    irq::ApicBus, //
};
use burrow_core::x86::irqchip::{
    apic_msg::{
        Message,
        TriggerMode, //
    },
    ioapic::{
        self,
        Bus,
        Ioapic,
        Tracking,
        IOAPIC_STATE_SIZE, //
    },
    line::{
        LineLevel,
        LineStatus,
        Source, //
    },
    msi,
    pic::{
        self,
        Chip,
        Pic,
        PicState,
        Port, //
    },
};
use kernel::{
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        SpinLockIrq, //
    },
};

struct State {
    ioapic: Ioapic,
    pic: Pic,
}

/// The interrupt controllers of a VM beside the local APICs.
#[pin_data]
pub(crate) struct Chips {
    apics: Arc<ApicBus>,
    #[pin]
    state: SpinLockIrq<State>,
    /// INTR of the 8259A pair, to be looked at without the lock.
    is_asserted: Atomic<bool>,
    /// The vectors in the I/O APIC, by 64: the EOI of others need not take the lock.
    vectors: [Atomic<u64>; 4],
}

/// The way of the I/O APIC's messages.
struct ToApics<'a>(&'a ApicBus);

impl Bus for ToApics<'_> {
    fn send(&mut self, message: &Message, to: &mut dyn FnMut(u32)) -> LineStatus {
        status_of(self.0.deliver(message, to))
    }
}

/// Returns the status of a line that sent a message. As in KVM it does not tell whether the vector was
/// pending already.
pub(crate) fn status_of(delivered: Delivered) -> LineStatus {
    match delivered {
        Delivered::Nowhere => LineStatus::Ignored,
        Delivered::Coalesced => LineStatus::Delivered(1),
        Delivered::To(receivers) => LineStatus::Delivered(receivers),
    }
}

impl Chips {
    /// Makes both in their state after reset.
    pub(crate) fn new(apics: Arc<ApicBus>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                apics,
                state <- new_spinlock_irq!(
                    State { ioapic: Ioapic::new(), pic: Pic::new() },
                    "kvm_irqchip"
                ),
                is_asserted: Atomic::new(false),
                vectors: [const { Atomic::new(0) }; 4],
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Sets the level of `source` on a pin of a `chip` of the routing table.
    ///
    /// # Context
    ///
    /// Any but NMI.
    pub(crate) fn set_line(
        &self,
        (chip, pin): (u8, u8),
        source: Source,
        level: LineLevel,
        tracking: Tracking,
    ) -> LineStatus {
        if chip == msi::IOAPIC {
            let bus = &mut ToApics(&self.apics);
            let mut state = self.state.lock();
            return state.ioapic.set_line(pin, source, level, tracking, bus);
        }
        let first = if chip == msi::PIC_SLAVE { 8 } else { 0 };
        self.with_pic(|pic| pic.set_line(pin.wrapping_add(first), source, level))
    }

    /// Calls `f` with the 8259A pair, and has vCPUs look if it wants to interrupt after that.
    fn with_pic<R>(&self, f: impl FnOnce(&mut Pic) -> R) -> R {
        let mut state = self.state.lock();
        let before = state.pic.output();
        let result = f(&mut state.pic);
        let after = state.pic.output();
        self.is_asserted.store(after == LineLevel::High, Relaxed);
        if (before, after) == (LineLevel::Low, LineLevel::High) {
            self.apics.interrupt_of_pic();
        }
        result
    }

    /// Returns whether the 8259A pair wants to interrupt.
    #[inline]
    pub(crate) fn is_asserted(&self) -> bool {
        self.is_asserted.load(Relaxed)
    }

    /// Acknowledges the interrupt of the 8259A pair; returns its vector.
    pub(crate) fn acknowledge(&self) -> (u8, pic::Effects) {
        self.with_pic(Pic::acknowledge)
    }

    /// Reads a register of the 8259A pair.
    pub(crate) fn read_pic(&self, port: Port) -> (u8, pic::Effects) {
        self.with_pic(|pic| pic.read(port))
    }

    /// Reads a register of the 8259A pair, unless that has effects.
    pub(crate) fn peek_pic(&self, port: Port) -> Option<u8> {
        self.state.lock().pic.peek(port)
    }

    /// Writes a register of the 8259A pair.
    pub(crate) fn write_pic(&self, port: Port, value: u8) -> pic::Effects {
        self.with_pic(|pic| pic.write(port, value))
    }

    /// Returns the state of one of the pair.
    pub(crate) fn save_pic(&self, chip: Chip) -> PicState {
        self.state.lock().pic.save(chip)
    }

    /// Replaces the state of one of the pair.
    pub(crate) fn load_pic(&self, chip: Chip, state: PicState) {
        self.with_pic(|pic| pic.load(chip, state));
        // vCPUs look in any case: LINT0 may have been restored before.
        self.apics.interrupt_of_pic();
    }

    /// Reads a register of the I/O APIC, if there is one at `address`.
    pub(crate) fn read_ioapic(&self, address: u64) -> Option<u32> {
        let state = self.state.lock();
        let offset = state.ioapic.offset(address)?;
        Some(state.ioapic.read(offset))
    }

    /// Writes a register of the I/O APIC, if there is one at `address`.
    pub(crate) fn write_ioapic(&self, address: u64, value: u32) -> Option<ioapic::Effects> {
        let mut state = self.state.lock();
        let offset = state.ioapic.offset(address)?;
        let effects = state.ioapic.write(offset, value);
        if effects.table_changed {
            self.publish_vectors(&state.ioapic);
        }
        Some(effects)
    }

    fn publish_vectors(&self, ioapic: &Ioapic) {
        let mut words = [0; 4];
        for vector in ioapic.vectors().iter() {
            words[usize::from(vector / 64)] |= 1 << (vector % 64);
        }
        for (word, value) in self.vectors.iter().zip(words) {
            word.store(value, Relaxed);
        }
    }

    /// Sends the interrupt of a level-triggered pin that was unmasked.
    pub(crate) fn resume(&self, pin: u8) {
        let bus = &mut ToApics(&self.apics);
        self.state.lock().ioapic.resume(pin, bus);
    }

    /// Takes a level-triggered pin that was unmasked for low.
    pub(crate) fn forget(&self, pin: u8) {
        self.state.lock().ioapic.forget(pin);
    }

    /// Returns whether an entry of the I/O APIC may be of `vector`.
    #[inline]
    pub(crate) fn may_await(&self, vector: u8) -> bool {
        self.vectors[usize::from(vector / 64)].load(Relaxed) & (1 << (vector % 64)) != 0
    }

    /// Takes note that the vCPU of `index` has ended `vector`; returns the pins of the I/O APIC that
    /// it may have been of.
    #[inline]
    pub(crate) fn pins_ended(&self, index: u32, vector: u8) -> u32 {
        if !self.may_await(vector) {
            return 0;
        }
        let mut state = self.state.lock();
        state.ioapic.clock_ended(index, Some(vector));
        state.ioapic.pins_of(vector)
    }

    /// Forgets what the vCPU of `index` had in service.
    pub(crate) fn vcpu_was_reset(&self, index: u32) {
        self.state.lock().ioapic.clock_ended(index, None);
    }

    /// The EOI broadcast of a local APIC.
    pub(crate) fn end(&self, vector: u8, trigger: TriggerMode) {
        if trigger == TriggerMode::Level {
            let bus = &mut ToApics(&self.apics);
            self.state.lock().ioapic.end(vector, bus);
        }
    }

    /// Returns the state of the I/O APIC.
    pub(crate) fn save_ioapic(&self) -> [u8; IOAPIC_STATE_SIZE] {
        self.state.lock().ioapic.save()
    }

    /// Replaces the state of the I/O APIC, and sends what waits in it.
    pub(crate) fn load_ioapic(&self, bytes: &[u8; IOAPIC_STATE_SIZE]) {
        let bus = &mut ToApics(&self.apics);
        let mut state = self.state.lock();
        state.ioapic.load(bytes, bus);
        self.publish_vectors(&state.ioapic);
    }
}
