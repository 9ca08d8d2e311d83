// SPDX-License-Identifier: GPL-2.0

//! Port I/O.

use crate::{
    arch::x86::{
        cpu::Cpu,
        options::Quirk,
        outcome::{
            Direction,
            Handled,
            Outcome,
            UserExit, //
        },
        state::Completion, //
    },
    vm::iobus::{
        Claim,
        May, //
    },
};
use burrow_core::x86::vmx::exit::IoAccess;

/// The port of a firmware's power management, whose driver in some VMMs expects RIP behind the OUT.
const PORT_7E: u16 = 0x7e;

/// Handles IN, OUT, INS and OUTS.
pub(super) fn access(cpu: &mut Cpu<'_>) -> Handled {
    // `None` is for devices that must not sleep.
    simple_access(cpu, May::Sleep).unwrap_or_else(|| cpu.emulate_current(None))
}

/// Handles IN and OUT, or returns `None`, and nothing has happened: for INS and OUTS, and where a device
/// would have to sleep that must not.
#[inline]
pub(super) fn simple_access(cpu: &mut Cpu<'_>, may: May) -> Option<Handled> {
    let access = IoAccess(cpu.qualification());
    if access.is_string() {
        return None;
    }
    let (port, size) = (access.port(), access.size_bytes());
    Some(if access.is_in() {
        let mut data = [0; 4];
        let data_in = &mut data[..usize::from(size)];
        match cpu.ask_ports(port, data_in, Direction::Read, may) {
            Claim::Taken => {
                cpu.set_accumulator(size, u32::from_le_bytes(data));
                Ok(Outcome::Skip)
            }
            Claim::NotMine => input_from_user(cpu, port, size),
            Claim::NotNow => return None,
        }
    } else {
        // CAST: the accumulator's low 32 bits at most.
        let mut data = (cpu.gpr(0) as u32).to_le_bytes();
        let data = &mut data[..usize::from(size)];
        match cpu.ask_ports(port, data, Direction::Write, may) {
            Claim::Taken => Ok(Outcome::Skip),
            Claim::NotMine => output_to_user(cpu, port, data),
            Claim::NotNow => return None,
        }
    })
}

fn input_from_user(cpu: &mut Cpu<'_>, port: u16, size: u8) -> Handled {
    cpu.arch.completion = Some(Completion::In { port, size });
    cpu.vcpu.pages.pio.write::<u32>(0, 0);
    Ok(Outcome::ToUser(UserExit::Io {
        direction: Direction::Read,
        port,
        size,
        count: 1,
    }))
}

fn output_to_user(cpu: &mut Cpu<'_>, port: u16, data: &[u8]) -> Handled {
    if port == PORT_7E && cpu.vcpu.vm.options.has_quirk(Quirk::Out7eIncRip) {
        cpu.skip_instruction();
    } else {
        cpu.arch.completion = Some(Completion::Skip);
    }
    cpu.vcpu.pages.pio.write_bytes(0, data);
    Ok(Outcome::ToUser(UserExit::Io {
        direction: Direction::Write,
        port,
        // CAST: at most 4.
        size: data.len() as u8,
        count: 1,
    }))
}

impl Cpu<'_> {
    /// Puts the `size` bytes that IN read into AL, AX or EAX.
    pub(crate) fn set_accumulator(&mut self, size: u8, value: u32) {
        let old = self.gpr(0);
        let value = u64::from(value);
        self.set_gpr(
            0,
            match size {
                1 => (old & !0xff) | (value & 0xff),
                2 => (old & !0xffff) | (value & 0xffff),
                _ => value,
            },
        );
    }
}
