// SPDX-License-Identifier: GPL-2.0

//! Output, and the end of the machine.

use core::{
    arch::asm,
    fmt::{
        self,
        Arguments,
        Write, //
    },
    ptr::addr_of_mut,
};

use crate::cpu::Global;

/// The parallel port: data, and control with the strobe that sends them.
const PARALLEL: u16 = 0x378;
const PARALLEL_CONTROL: u16 = 0x37a;
const ONLINE: u8 = 0x0c;
const STROBE: u8 = 1;
/// The serial port.
const SERIAL: u16 = 0x3f8;

/// One line, before it is sent.
struct Line {
    text: [u8; 1024],
    length: usize,
}

static LINE: Global<Line> = Global::new(Line {
    text: [0; 1024],
    length: 0,
});
static IS_PARALLEL: Global<bool> = Global::new(false);

impl Write for Line {
    /// What does not fit is cut off.
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            if let Some(slot) = self.text.get_mut(self.length) {
                *slot = byte;
                self.length += 1;
            }
        }
        Ok(())
    }
}

/// Chooses the port.
pub fn init(is_parallel: bool) {
    IS_PARALLEL.set(is_parallel);
}

/// Prints a line.
pub fn line(text: Arguments<'_>) {
    // SAFETY: There is one thread, and nothing below prints.
    let line = unsafe { &mut *LINE.as_ptr() };
    line.length = 0;
    let _ = line.write_fmt(text);
    let _ = line.write_str("\n");
    if IS_PARALLEL.get() {
        for byte in &line.text[..line.length] {
            out(PARALLEL, *byte);
            out(PARALLEL_CONTROL, ONLINE | STROBE);
            out(PARALLEL_CONTROL, ONLINE);
        }
    } else {
        // In one instruction, so that a VMM gets the line in one exit.
        let start = addr_of_mut!(line.text);
        // SAFETY: The bytes are there; the port has no effect on memory.
        unsafe {
            asm!("rep outsb", in("dx") SERIAL, inout("rcx") line.length => _,
                 inout("rsi") start => _, options(nostack));
        }
    }
}

/// Prints an observation: its name, and the rest.
#[macro_export]
macro_rules! say {
    ($name:expr, $($rest:tt)*) => {
        $crate::console::line(format_args!("{}: {}", format_args!($name), format_args!($($rest)*)))
    };
}

/// Writes a byte to a port.
pub fn out(port: u16, value: u8) {
    // SAFETY: Devices of this machine do no DMA.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
}

/// Ends the machine, after the line that `scripts/testhost` waits for.
pub fn end(status: u8) -> ! {
    line(format_args!("\x1eBED {status}\x1e"));
    // Bochs ends, a VMM resets.
    for byte in *b"Shutdown" {
        out(0x8900, byte);
    }
    out(0x64, 0xfe);
    loop {
        // SAFETY: Nothing is left to be done.
        unsafe { asm!("cli", "hlt") };
    }
}
