// SPDX-License-Identifier: GPL-2.0

//! The PIT as a device on the bus, and the host timer that stands for its channel 0.

use crate::{
    arch::x86::acks::Acks,
    vm::iobus::{
        errno,
        Claim,
        IoBus,
        IoDevice, //
    },
};
use burrow_core::{
    iobus::{
        BusAddr,
        BusKind,
        BusRange, //
    },
    x86::irqchip::pit::{
        ChannelState,
        Effects,
        Pit, //
    },
};
use burrow_sys::{
    context,
    timer::{
        Armed,
        Timer, //
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

/// The first of the PIT's four ports.
const FIRST_PORT: u64 = 0x40;
const PORTS: u64 = 4;
/// The port of the speaker.
const SPEAKER: u64 = 0x61;

/// Whether port 61H is the PIT's: `KVM_PIT_SPEAKER_DUMMY`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SpeakerPort {
    /// It is userspace's.
    Absent,
    /// It is.
    Present,
}

struct State {
    model: Pit,
    running: Option<Armed>,
}

/// The PIT of a VM.
///
/// # Locks
///
/// The mutex is held while the host's timer is stopped, whose callback takes spinlocks only.
#[pin_data]
pub(crate) struct PitDevice {
    acks: Arc<Acks>,
    timer: Arc<Timer>,
    #[pin]
    state: Mutex<State>,
}

impl PitDevice {
    /// Makes a PIT and puts its ports on the bus.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when the bus is full, `ENOMEM` when there is no memory.
    pub(crate) fn create(bus: &IoBus, acks: &Arc<Acks>, speaker: SpeakerPort) -> Result<Arc<Self>> {
        let timer = Timer::new(acks.clone())?;
        let model = Pit::new();
        let pit = Arc::pin_init(
            pin_init!(Self {
                acks: acks.clone(),
                timer,
                state <- new_mutex!(State { model, running: None }, "kvm_pit"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let range = BusRange::new(BusAddr(FIRST_PORT), PORTS).map_err(errno)?;
        bus.register(BusKind::Pio, range, pit.clone(), |_| Ok(()))?;
        if speaker == SpeakerPort::Present {
            let range = BusRange::new(BusAddr(SPEAKER), PORTS).map_err(errno)?;
            bus.register(BusKind::Pio, range, pit.clone(), |_| Ok(()))?;
        }
        Ok(pit)
    }

    /// Sets the host's timer to what channel 0 is now.
    fn restart(&self, state: &mut State) {
        // Stopped first: a tick of the old program must not count for the new one.
        state.running = None;
        self.acks.reset_ticks();
        if let Some(alarm) = state.model.alarm() {
            let timer = self.timer.clone();
            state.running = Some(timer.arm_periodic(alarm.delay_ns, alarm.period_ns));
        }
    }

    /// Returns the channels and `KVM_PIT_FLAGS_*`.
    pub(crate) fn save(&self) -> ([ChannelState; 3], u32) {
        self.state.lock().model.save()
    }

    /// Replaces the channels, and the flags where they are given.
    pub(crate) fn load(&self, channels: &[ChannelState; 3], flags: Option<u32>) {
        let mut state = self.state.lock();
        let flags = flags.unwrap_or(state.model.flags());
        state.model.load(channels, flags, context::mono_ns());
        self.restart(&mut state);
    }
}

impl IoDevice for PitDevice {
    fn read(&self, addr: BusAddr, data: &mut [u8]) -> Claim {
        let now_ns = context::mono_ns();
        let value = match addr.0 {
            SPEAKER => Some(self.state.lock().model.read_speaker(now_ns)),
            _ => match port(addr) {
                Some(port) => self.state.lock().model.read(port, now_ns),
                None => return Claim::NotMine,
            },
        };
        data.fill(0);
        if let (Some(byte), Some(value)) = (data.first_mut(), value) {
            *byte = value;
        }
        Claim::Taken
    }

    fn write(&self, addr: BusAddr, data: &[u8]) -> Claim {
        let now_ns = context::mono_ns();
        let Some(&value) = data.first() else {
            return Claim::NotMine;
        };
        if addr.0 == SPEAKER {
            self.state.lock().model.write_speaker(value, now_ns);
            return Claim::Taken;
        }
        let Some(port) = port(addr) else {
            return Claim::NotMine;
        };
        let mut state = self.state.lock();
        match state.model.write(port, value, now_ns) {
            Effects::None => {}
            Effects::Restart => self.restart(&mut state),
        }
        Claim::Taken
    }
}

/// Returns which of the four ports it is.
fn port(addr: BusAddr) -> Option<u8> {
    let port = addr.0.checked_sub(FIRST_PORT)?;
    u8::try_from(port).ok().filter(|_| port < PORTS)
}
