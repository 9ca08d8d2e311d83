// SPDX-License-Identifier: GPL-2.0

//! The 8254 interval timer of a PC, and what port 61H has of it.
//!
//! Source: Intel "8254 Programmable Interval Timer" (231164). Times are nanoseconds of a clock that
//! the caller reads, CLOCK_MONOTONIC for what is saved to make sense. Nothing runs here: what a
//! counter shows follows from when it was loaded, and for channel 0, whose output is an interrupt
//! line, [`Pit::alarm`] says when the caller's timer must fire. [`Reinject`] decides what becomes of
//! ticks that a guest is too slow for.

/// The frequency of the counters' clock, in Hz.
pub const PIT_HZ: u64 = 1_193_182;
/// The size of `struct kvm_pit_channel_state`, in bytes.
pub const CHANNEL_STATE_SIZE: usize = 24;
/// KVM_PIT_FLAGS_HPET_LEGACY: the HPET drives line 0 in place of channel 0.
pub const FLAG_HPET_LEGACY: u32 = 1 << 0;
/// KVM_PIT_FLAGS_SPEAKER_DATA_ON: bit 1 of port 61H.
pub const FLAG_SPEAKER_DATA_ON: u32 = 1 << 1;
/// Periods of channel 0 are stretched to this, in nanoseconds: a guest must not keep the host busy.
pub const MIN_PERIOD_NS: u64 = 200_000;

const NS_PER_S: u64 = 1_000_000_000;
/// [`ChannelState::mode`] of a channel that was never programmed.
const NO_MODE: u8 = 0xff;
/// Values of [`ChannelState::rw_mode`] and of the states of accesses: of the high byte, of the low and
/// then the high byte, and half way through that. Any other is of the low byte.
const HIGH: u8 = 2;
const BOTH: u8 = 3;
const SECOND: u8 = 4;

/// The six modes of a counter. 8254: "Mode Definitions".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// 0: OUT rises when the count is over.
    TerminalCount,
    /// 1: as 0, begun by the gate.
    OneShot,
    /// 2: OUT is low for one clock of each period.
    Rate,
    /// 3: OUT is high for the first half of each period.
    Square,
    /// 4: OUT is low for one clock when the count is over.
    SoftStrobe,
    /// 5: as 4, begun by the gate.
    HardStrobe,
    /// Not programmed.
    Unset,
}

/// `struct kvm_pit_channel_state`: one counter. Any values are a state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ChannelState {
    /// The initial count in clocks, up to 65536; 0 stands for 65536, too.
    pub count: u32,
    /// The latched count.
    pub latched_count: u16,
    /// What of it is to be read: 0 nothing.
    pub count_latched: u8,
    /// Whether the status is latched.
    pub status_latched: u8,
    /// The latched status.
    pub status: u8,
    /// Which byte is read next.
    pub read_state: u8,
    /// Which byte is written next.
    pub write_state: u8,
    /// The low byte of the count that is being written.
    pub write_latch: u8,
    /// Which bytes are read and written.
    pub rw_mode: u8,
    /// The mode, 0 to 5.
    pub mode: u8,
    /// Whether the count is decimal.
    pub bcd: u8,
    /// The level of the gate.
    pub gate: u8,
    /// When counting began, in nanoseconds.
    pub count_load_time: i64,
}

impl ChannelState {
    /// Reads the bytes of the structure.
    pub fn from_bytes(bytes: &[u8; CHANNEL_STATE_SIZE]) -> Self {
        let &[c0, c1, c2, c3, l0, l1, count_latched, status_latched, status, read_state, write_state, write_latch, rw_mode, mode, bcd, gate, t0, t1, t2, t3, t4, t5, t6, t7] =
            bytes;
        Self {
            count: u32::from_le_bytes([c0, c1, c2, c3]),
            latched_count: u16::from_le_bytes([l0, l1]),
            count_latched,
            status_latched,
            status,
            read_state,
            write_state,
            write_latch,
            rw_mode,
            mode,
            bcd,
            gate,
            count_load_time: i64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
        }
    }

    /// Returns the bytes of the structure.
    pub fn to_bytes(&self) -> [u8; CHANNEL_STATE_SIZE] {
        let [c0, c1, c2, c3] = self.count.to_le_bytes();
        let [l0, l1] = self.latched_count.to_le_bytes();
        let [t0, t1, t2, t3, t4, t5, t6, t7] = self.count_load_time.to_le_bytes();
        [
            c0,
            c1,
            c2,
            c3,
            l0,
            l1,
            self.count_latched,
            self.status_latched,
            self.status,
            self.read_state,
            self.write_state,
            self.write_latch,
            self.rw_mode,
            self.mode,
            self.bcd,
            self.gate,
            t0,
            t1,
            t2,
            t3,
            t4,
            t5,
            t6,
            t7,
        ]
    }
}

/// Where a counter is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Counting {
    /// It has a mode, and waits for its count, or for its gate.
    Waiting,
    /// It counts since `count_load_time`.
    Running,
    /// Its gate has stopped it, this many nanoseconds after the start.
    Stopped(u64),
}

/// One counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Channel {
    state: ChannelState,
    counting: Counting,
    /// A mode was written, and no count since: bit 6 of the status.
    is_count_null: bool,
}

impl Channel {
    fn new(gate: u8) -> Self {
        Self {
            state: ChannelState {
                mode: NO_MODE,
                count: 0x1_0000,
                gate,
                ..ChannelState::default()
            },
            counting: Counting::Waiting,
            is_count_null: false,
        }
    }

    fn mode(&self) -> Mode {
        match self.state.mode {
            0 => Mode::TerminalCount,
            1 => Mode::OneShot,
            2 => Mode::Rate,
            3 => Mode::Square,
            4 => Mode::SoftStrobe,
            5 => Mode::HardStrobe,
            _ => Mode::Unset,
        }
    }

    /// Returns the initial count in clocks, at least 1.
    fn count(&self) -> u64 {
        u64::from(self.state.count).max(1)
    }

    /// Returns how many counts there are until a counter is where it was: 2^16, or 10^4.
    fn modulus(&self) -> u32 {
        if self.state.bcd != 0 {
            10_000
        } else {
            0x1_0000
        }
    }

    /// Loads a count as it was written. 8254: "Write Operations".
    fn load(&mut self, value: u16, now_ns: u64) {
        let value = match self.state.bcd {
            0 => u32::from(value),
            _ => from_bcd(value),
        };
        self.state.count = if value == 0 { self.modulus() } else { value };
        self.is_count_null = false;
        match self.mode() {
            Mode::TerminalCount | Mode::SoftStrobe | Mode::Rate | Mode::Square => {
                self.start(now_ns);
            }
            // The gate begins; a count that runs goes on.
            Mode::OneShot | Mode::HardStrobe | Mode::Unset => {}
        }
    }

    fn start(&mut self, now_ns: u64) {
        self.state.count_load_time = i64::try_from(now_ns).unwrap_or(i64::MAX);
        self.counting = match (self.mode(), self.state.gate) {
            (Mode::TerminalCount | Mode::SoftStrobe | Mode::Rate | Mode::Square, 0) => {
                Counting::Stopped(0)
            }
            _ => Counting::Running,
        };
    }

    /// Sets the level of the gate. 8254: "Gate Pin Operations Summary".
    fn set_gate(&mut self, gate: u8, now_ns: u64) {
        let old = core::mem::replace(&mut self.state.gate, gate);
        let mode = self.mode();
        match (old, gate, mode) {
            (0, 1, Mode::OneShot | Mode::HardStrobe | Mode::Rate | Mode::Square)
                if !self.is_count_null =>
            {
                self.start(now_ns);
            }
            (0, 1, Mode::TerminalCount | Mode::SoftStrobe) => {
                if let Counting::Stopped(ns) = self.counting {
                    self.start(now_ns.saturating_sub(ns));
                }
            }
            (1, 0, Mode::TerminalCount | Mode::SoftStrobe | Mode::Rate | Mode::Square)
                if self.counting == Counting::Running =>
            {
                self.counting = Counting::Stopped(self.elapsed_ns(now_ns));
            }
            _ => {}
        }
    }

    /// Returns for how long it has counted.
    fn elapsed_ns(&self, now_ns: u64) -> u64 {
        match self.counting {
            Counting::Waiting => 0,
            Counting::Stopped(ns) => ns,
            Counting::Running => {
                let start = u64::try_from(self.state.count_load_time).unwrap_or(0);
                now_ns.saturating_sub(start)
            }
        }
    }

    /// Returns the clocks since counting began.
    fn elapsed(&self, now_ns: u64) -> u64 {
        to_clocks(self.elapsed_ns(now_ns))
    }

    /// Returns what the counter holds.
    fn current(&self, now_ns: u64) -> u16 {
        let (count, elapsed) = (self.count(), self.elapsed(now_ns));
        let phase = elapsed.checked_rem(count).unwrap_or(0);
        let value = match self.mode() {
            Mode::Rate => count.saturating_sub(phase),
            Mode::Square => {
                // It counts by two, twice a period; the first half of an odd one is longer.
                let first = count.div_ceil(2);
                let since = phase.checked_sub(first).unwrap_or(phase);
                (count & !1).saturating_sub(since.saturating_mul(2))
            }
            Mode::TerminalCount
            | Mode::OneShot
            | Mode::SoftStrobe
            | Mode::HardStrobe
            | Mode::Unset => match elapsed.checked_sub(count) {
                // It goes on below 0, at the highest count.
                Some(below @ 1..) => {
                    let modulus = u64::from(self.modulus());
                    modulus.saturating_sub(below.checked_rem(modulus).unwrap_or(0))
                }
                _ => count.saturating_sub(elapsed),
            },
        };
        if self.state.bcd != 0 {
            return to_bcd(value);
        }
        let [low, high, ..] = value.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Returns OUT.
    fn out(&self, now_ns: u64) -> bool {
        let (count, elapsed) = (self.count(), self.elapsed(now_ns));
        let phase = elapsed.checked_rem(count).unwrap_or(0);
        let is_waiting = self.is_count_null || self.counting == Counting::Waiting;
        match self.mode() {
            Mode::TerminalCount => !is_waiting && elapsed >= count,
            _ if is_waiting => true,
            Mode::OneShot => elapsed >= count,
            Mode::Rate | Mode::Square if self.state.gate == 0 => true,
            Mode::Rate => phase.wrapping_add(1) != count,
            Mode::Square => phase < count.div_ceil(2),
            Mode::SoftStrobe | Mode::HardStrobe => elapsed != count,
            Mode::Unset => true,
        }
    }

    /// 8254: "Counter Latch Command".
    fn latch_count(&mut self, now_ns: u64) {
        if self.state.count_latched == 0 {
            self.state.latched_count = self.current(now_ns);
            self.state.count_latched = self.state.rw_mode;
        }
    }

    /// 8254: "Read-Back Command", the status byte.
    fn latch_status(&mut self, now_ns: u64) {
        if self.state.status_latched == 0 {
            let state = &self.state;
            self.state.status = (u8::from(self.out(now_ns)) << 7)
                | (u8::from(self.is_count_null) << 6)
                | ((state.rw_mode & 3) << 4)
                | ((state.mode & 7) << 1)
                | (state.bcd & 1);
            self.state.status_latched = 1;
        }
    }

    /// 8254: "Control Word Format".
    fn set_mode(&mut self, control: u8) {
        let access = (control >> 4) & 3;
        let mode = (control >> 1) & 7;
        self.state.rw_mode = access;
        self.state.read_state = access;
        self.state.write_state = access;
        // The upper bit does not count in modes 2 and 3.
        self.state.mode = if mode > 5 { mode & 3 } else { mode };
        self.state.bcd = control & 1;
        self.counting = Counting::Waiting;
        self.is_count_null = true;
    }

    fn read(&mut self, now_ns: u64) -> u8 {
        if self.state.status_latched != 0 {
            self.state.status_latched = 0;
            return self.state.status;
        }
        let [low, high] = self.state.latched_count.to_le_bytes();
        match self.state.count_latched {
            0 => {}
            HIGH => {
                self.state.count_latched = 0;
                return high;
            }
            BOTH => {
                self.state.count_latched = HIGH;
                return low;
            }
            _ => {
                self.state.count_latched = 0;
                return low;
            }
        }
        let [low, high] = self.current(now_ns).to_le_bytes();
        match self.state.read_state {
            HIGH => high,
            BOTH => {
                self.state.read_state = SECOND;
                low
            }
            SECOND => {
                self.state.read_state = BOTH;
                high
            }
            _ => low,
        }
    }

    /// Writes a byte of the count; returns whether the count is whole.
    fn write(&mut self, value: u8, now_ns: u64) -> bool {
        let count = match self.state.write_state {
            HIGH => u16::from_le_bytes([0, value]),
            BOTH => {
                self.state.write_latch = value;
                self.state.write_state = SECOND;
                return false;
            }
            SECOND => {
                self.state.write_state = BOTH;
                u16::from_le_bytes([self.state.write_latch, value])
            }
            _ => value.into(),
        };
        self.load(count, now_ns);
        true
    }
}

/// When line 0 rises: what the caller's timer must be set to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Alarm {
    /// In this many nanoseconds.
    pub delay_ns: u64,
    /// And then each time so many later.
    pub period_ns: Option<u64>,
}

/// What is to be done about the timer after a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Effects {
    /// Nothing.
    None,
    /// Set it to [`Pit::alarm`], and forget the ticks that wait.
    Restart,
}

/// The timer: three counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pit {
    channels: [Channel; 3],
    flags: u32,
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}

impl Pit {
    /// Makes a timer in its state after power-up. The gates of channels 0 and 1 are wired high.
    pub fn new() -> Self {
        Self {
            channels: [Channel::new(1), Channel::new(1), Channel::new(0)],
            flags: 0,
        }
    }

    /// Returns when line 0 rises after this moment, at which channel 0 was loaded.
    pub fn alarm(&self) -> Option<Alarm> {
        let [channel, ..] = &self.channels;
        if self.flags & FLAG_HPET_LEGACY != 0 || channel.counting != Counting::Running {
            return None;
        }
        let delay_ns = to_ns(channel.count());
        match channel.mode() {
            Mode::TerminalCount | Mode::SoftStrobe => Some(Alarm {
                delay_ns,
                period_ns: None,
            }),
            Mode::Rate | Mode::Square => {
                let period_ns = delay_ns.max(MIN_PERIOD_NS);
                Some(Alarm {
                    delay_ns: period_ns,
                    period_ns: Some(period_ns),
                })
            }
            // Nothing raises its gate.
            Mode::OneShot | Mode::HardStrobe | Mode::Unset => None,
        }
    }

    /// Reads port 40H to 43H, by its two low bits. The control word cannot be read.
    pub fn read(&mut self, port: u8, now_ns: u64) -> Option<u8> {
        let channel = self.channels.get_mut(usize::from(port & 3))?;
        Some(channel.read(now_ns))
    }

    /// Writes port 40H to 43H, by its two low bits.
    pub fn write(&mut self, port: u8, value: u8, now_ns: u64) -> Effects {
        match self.channels.get_mut(usize::from(port & 3)) {
            Some(channel) => {
                let is_whole = channel.write(value, now_ns);
                restart_if(is_whole && port & 3 == 0)
            }
            None => self.control(value, now_ns),
        }
    }

    fn control(&mut self, value: u8, now_ns: u64) -> Effects {
        let select = value >> 6;
        let Some(channel) = self.channels.get_mut(usize::from(select)) else {
            self.read_back(value, now_ns);
            return Effects::None;
        };
        if value & 0x30 == 0 {
            channel.latch_count(now_ns);
            return Effects::None;
        }
        channel.set_mode(value);
        restart_if(select == 0)
    }

    fn read_back(&mut self, value: u8, now_ns: u64) {
        for (channel, select) in self.channels.iter_mut().zip([2, 4, 8]) {
            if value & select == 0 {
                continue;
            }
            if value & 0x20 == 0 {
                channel.latch_count(now_ns);
            }
            if value & 0x10 == 0 {
                channel.latch_status(now_ns);
            }
        }
    }

    /// Reads port 61H: the gate and OUT of channel 2, the speaker, and the refresh toggle.
    pub fn read_speaker(&self, now_ns: u64) -> u8 {
        let [.., channel] = &self.channels;
        // A memory refresh each 15 microseconds; 2^14 nanoseconds are near.
        let refresh = u8::from(now_ns & (1 << 14) != 0);
        let data = u8::from(self.flags & FLAG_SPEAKER_DATA_ON != 0);
        (channel.state.gate & 1)
            | (data << 1)
            | (refresh << 4)
            | (u8::from(channel.out(now_ns)) << 5)
    }

    /// Writes port 61H.
    pub fn write_speaker(&mut self, value: u8, now_ns: u64) {
        self.flags = match value & 2 {
            0 => self.flags & !FLAG_SPEAKER_DATA_ON,
            _ => self.flags | FLAG_SPEAKER_DATA_ON,
        };
        let [.., channel] = &mut self.channels;
        channel.set_gate(value & 1, now_ns);
    }

    /// Returns the state (KVM_GET_PIT2).
    pub fn save(&self) -> ([ChannelState; 3], u32) {
        (self.channels.map(|channel| channel.state), self.flags)
    }

    /// Replaces the state; counting begins anew, as in KVM. The caller sets its timer to
    /// [`Self::alarm`], but where the HPET has just taken line 0 over.
    pub fn load(&mut self, states: &[ChannelState; 3], flags: u32, now_ns: u64) {
        self.flags = flags;
        for (channel, state) in self.channels.iter_mut().zip(states) {
            channel.state = *state;
            if channel.state.count == 0 {
                channel.state.count = 0x1_0000;
            }
            channel.is_count_null = false;
            channel.start(now_ns);
        }
    }

    /// Returns KVM_PIT_FLAGS_*.
    pub fn flags(&self) -> u32 {
        self.flags
    }
}

fn restart_if(condition: bool) -> Effects {
    if condition {
        Effects::Restart
    } else {
        Effects::None
    }
}

/// What becomes of ticks that the guest has not handled when the next one is due: they are kept, and
/// raised one by one as it ends the one before (KVM_REINJECT_CONTROL), or they are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reinject {
    is_on: bool,
    waiting: u64,
    is_ready: bool,
}

impl Default for Reinject {
    fn default() -> Self {
        Self {
            is_on: true,
            waiting: 0,
            is_ready: true,
        }
    }
}

/// Whether line 0 is to be pulsed now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Tick {
    /// Pulse it.
    Now,
    /// Not now.
    Later,
}

impl Reinject {
    /// Turns keeping on or off.
    pub fn set(&mut self, is_on: bool) {
        if self.is_on != is_on {
            self.reset();
            self.is_on = is_on;
        }
    }

    /// Forgets the ticks that wait: the timer was programmed anew, or its line unmasked.
    pub fn reset(&mut self) {
        self.waiting = 0;
        self.is_ready = true;
    }

    /// `ticks` are due.
    pub fn due(&mut self, ticks: u64) -> Tick {
        if !self.is_on {
            return Tick::Now;
        }
        self.waiting = self.waiting.saturating_add(ticks);
        if core::mem::replace(&mut self.is_ready, false) {
            Tick::Now
        } else {
            Tick::Later
        }
    }

    /// The guest has ended the interrupt.
    pub fn ended(&mut self) -> Tick {
        self.waiting = self.waiting.saturating_sub(1);
        if self.is_on && self.waiting > 0 {
            self.is_ready = false;
            Tick::Now
        } else {
            self.is_ready = true;
            Tick::Later
        }
    }
}

/// Returns the whole clocks in `ns`.
fn to_clocks(ns: u64) -> u64 {
    // PANIC: none, divisors are constants; no overflow: below 2^34 * 2^21, and 2^30 * 2^21.
    let (seconds, rest) = (ns / NS_PER_S, ns % NS_PER_S);
    seconds
        .wrapping_mul(PIT_HZ)
        .wrapping_add(rest.wrapping_mul(PIT_HZ) / NS_PER_S)
}

/// Returns how long `clocks`, of 32 bits, take.
fn to_ns(clocks: u64) -> u64 {
    clocks.saturating_mul(NS_PER_S) / PIT_HZ
}

/// Reads four decimal digits; what is none counts as its value.
fn from_bcd(value: u16) -> u32 {
    let digit = |shift: u32| u32::from((value >> shift) & 0xf);
    [12, 8, 4, 0].into_iter().fold(0, |sum: u32, shift| {
        sum.wrapping_mul(10).wrapping_add(digit(shift))
    })
}

/// Writes the four lower decimal digits.
fn to_bcd(value: u64) -> u16 {
    let (mut rest, mut bcd) = (value, 0);
    for shift in [0, 4, 8, 12] {
        let digit = u16::try_from(rest % 10).unwrap_or(0); // PANIC: none; below 10.
        bcd |= digit << shift;
        rest /= 10;
    }
    bcd
}

#[cfg(test)]
mod tests;
