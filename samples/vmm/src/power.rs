// SPDX-License-Identifier: GPL-2.0

//! The off switch: ACPI's reduced-hardware registers and the i8042's reset line.

use crate::run::Stop;

/// ACPI sleep control register (ACPI 6.5, 4.8.3.7).
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register, and the value to write to it.
pub const RESET_PORT: u16 = 0x602;
/// See [`RESET_PORT`].
pub const RESET_VALUE: u8 = 1;
/// `SLP_TYP` of the soft-off state, as the DSDT names it.
pub const SLEEP_TYPE_S5: u8 = 5;

/// `SLP_EN`, and where `SLP_TYP` begins.
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;

/// Keyboard controller: its command port, and the command that pulses the CPU's
/// reset line.
pub const I8042_COMMAND_PORT: u16 = 0x64;
const I8042_PULSE_RESET: u8 = 0xfe;

/// Says whether a guest's write ends the machine.
pub fn write(port: u16, value: u8) -> Option<Stop> {
    match (port, value) {
        (SLEEP_CONTROL_PORT, value)
            if value & SLEEP_ENABLE != 0 && (value >> SLEEP_TYPE_SHIFT) & 7 == SLEEP_TYPE_S5 =>
        {
            Some(Stop::PowerOff)
        }
        (RESET_PORT, RESET_VALUE) | (I8042_COMMAND_PORT, I8042_PULSE_RESET) => Some(Stop::Reset),
        _ => None,
    }
}

/// What a guest reads: no status bit is ever set, no key is ever pressed.
pub fn read(_port: u16) -> u8 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_s5_with_the_enable_bit_powers_off() {
        let s5 = SLEEP_TYPE_S5 << SLEEP_TYPE_SHIFT;
        assert!(write(SLEEP_CONTROL_PORT, s5 | SLEEP_ENABLE).is_some());
        assert!(write(SLEEP_CONTROL_PORT, s5).is_none());
        assert!(write(SLEEP_CONTROL_PORT, SLEEP_ENABLE).is_none());
        assert!(write(SLEEP_STATUS_PORT, s5 | SLEEP_ENABLE).is_none());
    }
}
