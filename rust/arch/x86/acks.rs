// SPDX-License-Identifier: GPL-2.0

//! The way back of interrupts: who wants to know that the guest has ended one, and of which line.
//!
//! Those are resamplers, userspace's devices that look again whether their level-triggered line is
//! high, and the PIT, which keeps the ticks that the guest was too slow for.
//!
//! Everything here runs on threads of vCPUs or of userspace, with no lock of the chips held; the
//! PIT's ticks alone come in hard-interrupt context.

use crate::arch::x86::{
    chips::Chips,
    routing::Routing, //
};
use burrow_core::x86::irqchip::{
    apic_msg::TriggerMode,
    ioapic::{
        Tracking,
        NR_PINS as NR_IOAPIC_PINS, //
    },
    line::{
        LineLevel,
        Source, //
    },
    msi::{
        IOAPIC,
        PIC_MASTER,
        PIC_SLAVE, //
    },
    pic::{
        self,
        Port, //
    },
    pit::{
        Reinject,
        Tick, //
    },
};
use burrow_sys::{
    eventfd::EventFd,
    rcu_ptr::SrcuPtr,
    timer::OnExpiry, //
};
use kernel::{
    c_str, new_mutex, new_spinlock_irq,
    prelude::*,
    static_lock_class,
    sync::{
        Arc,
        Mutex,
        SpinLockIrq, //
    },
};

/// The line that the PIT drives.
const PIT_GSI: u32 = 0;

/// Who is told that line `gsi` is to be looked at again.
pub(crate) struct Resampler {
    gsi: u32,
    eventfd: EventFd,
}

type Resamplers = KVVec<Arc<Resampler>>;

/// Who is told of ended interrupts in a VM.
///
/// # Locks
///
/// `writers` is held while the list of resamplers changes; the spinlock nests in all, and nothing in
/// it.
#[pin_data]
pub(crate) struct Acks {
    chips: Arc<Chips>,
    routing: Arc<Routing>,
    #[pin]
    resamplers: SrcuPtr<Resamplers>,
    #[pin]
    writers: Mutex<()>,
    #[pin]
    ticks: SpinLockIrq<Reinject>,
}

impl Acks {
    /// Makes one that tells nobody.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub(crate) fn new(chips: Arc<Chips>, routing: Arc<Routing>) -> Result<Arc<Self>> {
        let none = KBox::new(Resamplers::new(), GFP_KERNEL_ACCOUNT)?;
        Arc::pin_init(
            try_pin_init!(Self {
                chips,
                routing,
                resamplers <- SrcuPtr::new(none, c_str!("kvm_resamplers"), static_lock_class!()),
                writers <- new_mutex!((), "kvm_resamplers"),
                ticks <- new_spinlock_irq!(Reinject::default(), "kvm_pit_ticks"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Adds a resampler of line `gsi`.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `EBADF` for no file, `EINVAL` for one that is no eventfd, `ENOMEM` when there is no memory.
    pub(crate) fn add_resampler(&self, gsi: u32, fd: i32) -> Result<Arc<Resampler>> {
        let eventfd = EventFd::from_fd(fd)?;
        let new = Arc::new(Resampler { gsi, eventfd }, GFP_KERNEL_ACCOUNT)?;
        let _writers = self.writers.lock();
        let list = self.copy_of(|_| true, Some(new.clone()))?;
        drop(self.resamplers.replace(list));
        Ok(new)
    }

    /// Removes a resampler. With the last of a line that line is let go.
    ///
    /// # Context
    ///
    /// Sleeps.
    pub(crate) fn remove_resampler(&self, gone: &Arc<Resampler>) {
        let is_last = {
            let _writers = self.writers.lock();
            // Without memory for the smaller list it stays, and signals an eventfd of nobody's.
            if let Ok(list) = self.copy_of(|other| !Arc::ptr_eq(other, gone), None) {
                drop(self.resamplers.replace(list));
            }
            !self.has_resampler(gone.gsi)
        };
        if is_last {
            self.set_resampled(gone.gsi, LineLevel::Low);
        }
    }

    fn copy_of(
        &self,
        stays: impl Fn(&Arc<Resampler>) -> bool,
        new: Option<Arc<Resampler>>,
    ) -> Result<KBox<Resamplers>> {
        let mut list = Resamplers::new();
        let old = self.resamplers.read();
        let staying = old.iter().filter(|old| stays(old));
        for resampler in Iterator::chain(staying, &new) {
            list.push(resampler.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(KBox::new(list, GFP_KERNEL_ACCOUNT)?)
    }

    fn has_resampler(&self, gsi: u32) -> bool {
        let list = self.resamplers.read();
        list.iter().any(|resampler| resampler.gsi == gsi)
    }

    /// Tells the resamplers of `gsi`.
    fn resample(&self, gsi: u32) {
        let list = self.resamplers.read();
        for resampler in list.iter().filter(|resampler| resampler.gsi == gsi) {
            resampler.eventfd.signal();
        }
    }

    fn set_resampled(&self, gsi: u32, level: LineLevel) {
        let _ = self
            .routing
            .set_line(gsi, Source::Resampler, level, Tracking::Off);
    }

    /// The guest has ended the interrupt of a pin.
    fn pin_ended(&self, pin: (u8, u8)) {
        let Some(gsi) = self.routing.gsi_of(pin) else {
            return;
        };
        if self.has_resampler(gsi) {
            // Low first: who finds it high still, raises it again.
            self.set_resampled(gsi, LineLevel::Low);
            self.resample(gsi);
        }
        if gsi == PIT_GSI {
            let tick = self.ticks.lock().ended();
            self.raise_tick(tick);
        }
    }

    fn pin_unmasked(&self, pin: (u8, u8)) {
        if self.routing.gsi_of(pin) == Some(PIT_GSI) {
            self.reset_ticks();
        }
    }

    /// The local APIC of the vCPU with `index` has ended an interrupt; `is_broadcast` unless the
    /// guest asked that EOIs of level-triggered ones be kept from the I/O APIC.
    pub(crate) fn end_of_interrupt(
        &self,
        index: u32,
        vector: u8,
        trigger: TriggerMode,
        is_broadcast: bool,
    ) {
        let pins = self.chips.pins_ended(index, vector);
        if pins == 0 {
            return;
        }
        for pin in (0..NR_IOAPIC_PINS).filter(|pin| pins & (1 << pin) != 0) {
            self.pin_ended((IOAPIC, pin));
        }
        if is_broadcast {
            self.chips.end(vector, trigger);
        }
    }

    /// Acknowledges the interrupt of the 8259A pair for the processor; returns its vector.
    pub(crate) fn acknowledge_pic(&self) -> u8 {
        let (vector, effects) = self.chips.acknowledge();
        self.tell_of_pic(effects);
        vector
    }

    /// Reads a register of the 8259A pair.
    pub(crate) fn read_pic(&self, port: Port) -> u8 {
        let (value, effects) = self.chips.read_pic(port);
        self.tell_of_pic(effects);
        value
    }

    /// Reads a register of the 8259A pair, unless that has effects.
    pub(crate) fn peek_pic(&self, port: Port) -> Option<u8> {
        self.chips.peek_pic(port)
    }

    /// Writes a register of the 8259A pair.
    pub(crate) fn write_pic(&self, port: Port, value: u8) {
        let effects = self.chips.write_pic(port, value);
        self.tell_of_pic(effects);
    }

    fn tell_of_pic(&self, effects: pic::Effects) {
        for pin in 0..pic::NR_PINS {
            let bit = 1 << pin;
            let chip = if pin < 8 { PIC_MASTER } else { PIC_SLAVE };
            if effects.ended & bit != 0 {
                self.pin_ended((chip, pin & 7));
            }
            if effects.unmasked & bit != 0 {
                self.pin_unmasked((chip, pin & 7));
            }
        }
    }

    /// Reads a register of the I/O APIC, if there is one at `address`.
    pub(crate) fn read_ioapic(&self, address: u64) -> Option<u32> {
        self.chips.read_ioapic(address)
    }

    /// Writes a register of the I/O APIC; returns whether there is one at `address`.
    pub(crate) fn write_ioapic(&self, address: u64, value: u32) -> bool {
        let Some(effects) = self.chips.write_ioapic(address, value) else {
            return false;
        };
        if let Some(pin) = effects.unmasked {
            self.pin_unmasked((IOAPIC, pin));
        }
        if let Some(pin) = effects.resumable {
            let resampled = self.routing.gsi_of((IOAPIC, pin));
            match resampled.filter(|gsi| self.has_resampler(*gsi)) {
                Some(gsi) => {
                    self.chips.forget(pin);
                    self.resample(gsi);
                }
                None => self.chips.resume(pin),
            }
        }
        true
    }

    /// Forgets the ticks of the PIT that wait.
    pub(crate) fn reset_ticks(&self) {
        self.ticks.lock().reset();
    }

    /// Has ticks that the guest was too slow for kept, or dropped: `KVM_REINJECT_CONTROL`.
    pub(crate) fn set_reinject(&self, is_on: bool) {
        self.ticks.lock().set(is_on);
    }

    fn raise_tick(&self, tick: Tick) {
        if tick == Tick::Later {
            return;
        }
        let _ = self.routing.pulse(PIT_GSI, Source::Pit);
        self.routing.apics().nmi_of_timer();
    }
}

impl OnExpiry for Acks {
    fn expired(&self, ticks: u64) {
        let tick = self.ticks.lock().due(ticks);
        self.raise_tick(tick);
    }
}
