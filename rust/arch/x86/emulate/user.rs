// SPDX-License-Identifier: GPL-2.0

//! What the emulator asks userspace for: reads that it waits for, and posted writes.

use super::{
    items::{
        Items,
        ITEMS, //
    },
    replay::Fragment, //
};
use crate::arch::x86::{
    cpu::Cpu,
    outcome::{
        self,
        Direction,
        Handled,
        Outcome,
        UserExit, //
    },
    state::Completion, //
};
use burrow_core::outcome::Bug;

impl Cpu<'_> {
    /// Asks userspace for the next posted write, if there is one.
    pub(crate) fn next_fragment(&mut self) -> Handled {
        let replay = &mut self.arch.replay;
        let fragment = match replay.writes.get(replay.written) {
            Some(fragment) if replay.written < replay.nr_writes => *fragment,
            _ => return Ok(Outcome::Resume),
        };
        replay.written += 1;
        self.arch.completion = Some(Completion::Fragments);
        Ok(Outcome::ToUser(
            self.fragment_exit(&fragment, Direction::Write),
        ))
    }

    /// Asks userspace for what the emulator waits for: that posted writes go out, which earlier
    /// iterations of a string instruction made, or else a read.
    pub(super) fn wait(&mut self) -> Handled {
        if self.arch.replay.nr_writes != 0 {
            self.arch.replay.waiting = None;
            return self.next_fragment();
        }
        let Some(fragment) = self.arch.replay.waiting else {
            return Err(outcome::Stop::Bug(Bug("the emulator waits for nothing")));
        };
        self.arch.completion = Some(Completion::Emulate {
            is_port: fragment.is_port,
        });
        if fragment.is_port {
            return Ok(Outcome::ToUser(self.items_exit(&fragment)));
        }
        Ok(Outcome::ToUser(
            self.fragment_exit(&fragment, Direction::Read),
        ))
    }

    fn fragment_exit(&self, fragment: &Fragment, direction: Direction) -> UserExit {
        if !fragment.is_port {
            return UserExit::Mmio {
                direction,
                address: fragment.address,
                data: fragment.data,
                len: fragment.len,
            };
        }
        self.vcpu.pages.pio.write_bytes(0, &fragment.data);
        UserExit::Io {
            direction,
            // CAST: a port number.
            port: fragment.address as u16,
            size: fragment.len,
            count: 1,
        }
    }

    /// Asks userspace for all that INS reads for sure.
    fn items_exit(&mut self, fragment: &Fragment) -> UserExit {
        let size = usize::from(fragment.len).max(1);
        let replay = &mut self.arch.replay;
        let count = (replay.ahead as usize).clamp(1, ITEMS / size);
        replay.items = Items {
            // CAST: a port number.
            port: fragment.address as u16,
            size,
            len: count * size,
            ..Items::default()
        };
        UserExit::Io {
            direction: Direction::Read,
            port: fragment.address as u16,
            size: fragment.len,
            // CAST: at most ITEMS.
            count: count as u32,
        }
    }

    /// Takes what userspace answered to the read of a port.
    pub(crate) fn take_items(&mut self) {
        let replay = &mut self.arch.replay;
        let len = replay.items.len;
        if let Some(bytes) = replay.items.bytes.get_mut(..len) {
            self.vcpu.pages.pio.read_bytes(0, bytes);
        }
        let (port, size) = (replay.items.port, replay.items.size);
        if let Some(first) = replay.items.take(port, size) {
            self.take_emulated_read(first);
        }
    }

    /// Records what userspace answered to the read that the emulator waits for.
    pub(crate) fn take_emulated_read(&mut self, data: [u8; 8]) {
        if let Some(read) = self.arch.replay.waiting.take() {
            self.note_device_read(read.address, read.is_port, data.get(..read.len.into()));
            // The record had room when the read was attempted, or the attempt would have failed.
            let _ = self.arch.replay.record(data);
        }
    }
}
