// SPDX-License-Identifier: GPL-2.0

//! The main thread: feeds the terminal's input to the guest, watches the clock,
//! and learns of the end.

use anyhow::{
    Context,
    Result, //
};
use std::{
    io::{
        stdin,
        IsTerminal, //
    },
    os::fd::AsRawFd,
    time::{
        Duration,
        Instant, //
    }, //
};
use vmm_sys_util::terminal::Terminal;

use crate::{
    devices::Devices,
    run::{
        Machine,
        Stop, //
    }, //
};

/// Ctrl-A: the next byte is a command to us.
const ESCAPE: u8 = 1;
/// Ends the machine, after [`ESCAPE`].
const QUIT: u8 = b'x';

/// Serves the console until the guest ends, the user quits or time is up.
pub fn serve(machine: &Machine, devices: &Devices, timeout: Option<Duration>) -> Result<Stop> {
    let _raw = RawTerminal::new()?;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut input = Input::default();
    loop {
        let room = devices.serial.room();
        let mut fds = [
            poll_for(machine.ended().as_raw_fd()),
            poll_for(devices.serial.wake().as_raw_fd()),
            poll_for(if input.is_open && room > 0 {
                stdin().as_raw_fd()
            } else {
                -1 // Skipped by poll().
            }),
        ];
        if !wait(&mut fds, deadline)? {
            return Ok(Stop::Timeout);
        }
        let [ended, wake, key] = fds.map(|fd| fd.revents != 0);
        if ended {
            if let Some(reason) = machine.reason() {
                return reason;
            }
        }
        if wake {
            // Only its readiness matters; another thread cannot have taken it.
            let _ = devices.serial.wake().read();
        }
        if key {
            let bytes = input.read(room)?;
            if input.has_quit {
                return Ok(Stop::User);
            }
            devices.serial.enqueue(&bytes)?;
        }
    }
}

/// The user's side of the console.
struct Input {
    is_open: bool,
    is_terminal: bool,
    is_escaped: bool,
    has_quit: bool,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            is_open: true,
            is_terminal: stdin().is_terminal(),
            is_escaped: false,
            has_quit: false,
        }
    }
}

impl Input {
    /// Reads at most `room` bytes for the guest.
    fn read(&mut self, room: usize) -> Result<Vec<u8>> {
        let mut buffer = [0; 64];
        let length = room.min(buffer.len());
        let buffer = buffer.get_mut(..length).unwrap_or_default();
        // Not by `Stdin::read`, whose own buffer poll() does not know of.
        let count = stdin()
            .lock()
            .read_raw(buffer)
            .context("cannot read the input")?;
        self.is_open = count > 0;
        let mut bytes: Vec<u8> = buffer.iter().copied().take(count).collect();
        if self.is_terminal {
            bytes.retain(|byte| self.is_for_guest(*byte));
        }
        Ok(bytes)
    }

    /// Takes our own commands out of the stream.
    fn is_for_guest(&mut self, byte: u8) -> bool {
        let was_escaped = std::mem::replace(&mut self.is_escaped, false);
        match byte {
            QUIT if was_escaped => self.has_quit = true,
            ESCAPE if !was_escaped => self.is_escaped = true,
            _ => return true,
        }
        false
    }
}

fn poll_for(fd: i32) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Waits for any of `fds`; false when the deadline came first.
fn wait(fds: &mut [libc::pollfd], deadline: Option<Instant>) -> Result<bool> {
    loop {
        let millis = match deadline.map(|at| at.saturating_duration_since(Instant::now())) {
            Some(left) if left.is_zero() => return Ok(false),
            Some(left) => left.as_millis().saturating_add(1).min(60_000) as i32,
            None => -1,
        };
        // SAFETY: The pointer and the length are the slice's.
        match unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, millis) } {
            0 => {}
            1.. => return Ok(true),
            _ => {
                let error = std::io::Error::last_os_error();
                if error.kind() != std::io::ErrorKind::Interrupted {
                    return Err(error).context("poll");
                }
            }
        }
    }
}

/// Lets every key through to the guest while it lives.
struct RawTerminal {
    saved: Option<libc::termios>,
}

impl RawTerminal {
    fn new() -> Result<Self> {
        if !stdin().is_terminal() {
            return Ok(Self { saved: None });
        }
        // SAFETY: All zeroes are a valid value, and tcgetattr() fills it in.
        let mut saved: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: The pointer is to a value of the right type.
        let saved = match unsafe { libc::tcgetattr(stdin().as_raw_fd(), &mut saved) } {
            0 => Some(saved),
            _ => None,
        };
        stdin()
            .lock()
            .set_raw_mode()
            .context("cannot set up the terminal")?;
        Ok(Self { saved })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            // SAFETY: The value came from tcgetattr().
            unsafe { libc::tcsetattr(stdin().as_raw_fd(), libc::TCSANOW, saved) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_sequence_is_kept_from_the_guest() {
        let mut input = Input::default();
        let guest: Vec<u8> = b"a\x01\x01bx"
            .iter()
            .copied()
            .filter(|byte| input.is_for_guest(*byte))
            .collect();
        assert_eq!(guest, b"a\x01bx");
        assert!(!input.has_quit);
        input.is_for_guest(ESCAPE);
        input.is_for_guest(QUIT);
        assert!(input.has_quit);
    }
}
