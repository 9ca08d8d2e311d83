// SPDX-License-Identifier: GPL-2.0

//! `KVM_SET_GUEST_DEBUG`: a debugger in userspace that uses the guest's debugging hardware.
//!
//! While it steps, RFLAGS.TF is set behind the guest's back; while it uses breakpoints, its own debug
//! registers are in place of the guest's.

use crate::outcome::vector;
use crate::x86::regs::debug::Dr6;
use crate::x86::regs::debug::Dr7;
use crate::x86::regs::Rflags;

bitfield! {
    /// `control` of `struct kvm_guest_debug`: `KVM_GUESTDBG_*`.
    pub struct Control(u32) {
        /// The debugger listens; nothing else counts without it.
        0:0 enable, with_enable => bool;
        /// It sees every instruction.
        1:1 single_step, with_single_step => bool;
        /// INT3 is its.
        16:16 software_breakpoints, with_software_breakpoints => bool;
        /// It brings debug registers.
        17:17 hardware_breakpoints, with_hardware_breakpoints => bool;
        /// Raise #DB in the guest.
        18:18 inject_db, with_inject_db => bool;
        /// Raise #BP in the guest.
        19:19 inject_bp, with_inject_bp => bool;
        /// Hold interrupts and NMIs back.
        20:20 block_interrupts, with_block_interrupts => bool;
    }
}

impl Control {
    /// All flags: what `KVM_CAP_SET_GUEST_DEBUG2` says.
    pub const ALL: u32 = 0x1f_0003;
}

/// What a debugger in userspace asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GuestDebug {
    control: Control,
    address: [u64; 4],
    dr7: u64,
    /// The guest's own RFLAGS.TF while the debugger steps.
    tf: bool,
    /// The instruction that was stepped over ended without a trap: in an exit.
    is_stepped: bool,
}

impl GuestDebug {
    /// Takes a new request: `registers` are DR0 to DR7 as the debugger wants them. `flags` is RFLAGS as
    /// the guest knows it.
    pub fn request(&mut self, control: Control, registers: &[u64; 8], flags: Rflags) {
        let [dr0, dr1, dr2, dr3, _, _, _, dr7] = *registers;
        let control = if control.enable() {
            control
        } else {
            Control(0)
        };
        *self = Self {
            control,
            address: [dr0, dr1, dr2, dr3],
            dr7: dr7 & 0xffff_ffff | Dr7::RESET.0,
            tf: flags.tf(),
            is_stepped: self.is_stepped && control.single_step(),
        };
    }

    /// Returns whether the debugger steps.
    #[inline]
    pub fn steps(&self) -> bool {
        self.control.single_step()
    }

    /// Returns whether interrupts and NMIs are held back.
    #[inline]
    pub fn blocks_interrupts(&self) -> bool {
        self.control.block_interrupts()
    }

    /// Returns whether an exception with this vector, if it exits, is the debugger's.
    pub fn takes(&self, exception_vector: u8) -> bool {
        match exception_vector {
            vector::DB => self.control.single_step() || self.control.hardware_breakpoints(),
            vector::BP => self.control.software_breakpoints(),
            _ => false,
        }
    }

    /// Returns the debugger's DR0 to DR3 and DR7, where they replace the guest's.
    #[inline]
    pub fn registers(&self) -> Option<(&[u64; 4], Dr7)> {
        self.control
            .hardware_breakpoints()
            .then_some((&self.address, Dr7(self.dr7)))
    }

    /// Returns whether an access to a debug register is the debugger's: it watches them by DR7.GD.
    pub fn detects_access(&self) -> bool {
        self.registers().is_some_and(|(_, dr7)| dr7.gd())
    }

    /// Returns RFLAGS as the guest knows it, from what the processor has.
    #[inline]
    pub fn to_guest(&self, flags: Rflags) -> Rflags {
        if self.steps() {
            flags.with_tf(self.tf)
        } else {
            flags
        }
    }

    /// Returns RFLAGS for the processor, from what the guest is to know.
    #[inline]
    pub fn to_processor(&mut self, flags: Rflags) -> Rflags {
        if !self.steps() {
            return flags;
        }
        self.tf = flags.tf();
        flags.with_tf(true)
    }

    /// Sets TF again where the guest's last instruction, or an event, cleared it. `flags` is what the
    /// processor has.
    pub fn rearm(&mut self, flags: Rflags) -> Rflags {
        if self.steps() && !flags.tf() {
            self.tf = false;
            return flags.with_tf(true);
        }
        flags
    }

    /// Notes that an instruction ended in an exit, where no trap comes of itself. Returns whether the
    /// debugger waits for it.
    pub fn note_step(&mut self) -> bool {
        self.is_stepped |= self.steps();
        self.is_stepped
    }

    /// Takes the step that the debugger has not seen yet.
    #[inline]
    pub fn take_step(&mut self) -> bool {
        core::mem::take(&mut self.is_stepped)
    }

    /// Returns DR6 as the debugger sees it, from the pending bits that an exit reports.
    pub const fn dr6(pending: u64) -> u64 {
        pending | Dr6::RESET.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENABLE: Control = Control(1);

    fn debug(control: Control, dr7: u64) -> GuestDebug {
        let mut debug = GuestDebug::default();
        debug.request(control, &[1, 2, 3, 4, 0, 0, 0, dr7], Rflags(2));
        debug
    }

    #[test]
    fn nothing_counts_without_enable() {
        let d = debug(Control(Control::ALL & !1), 0x2000);
        assert!(!d.steps() && !d.blocks_interrupts() && !d.takes(vector::BP));
        assert_eq!(d.registers(), None);
    }

    #[test]
    fn exceptions_go_to_who_asked() {
        let step = debug(ENABLE.with_single_step(true), 0);
        assert!(step.takes(vector::DB) && !step.takes(vector::BP));
        let soft = debug(ENABLE.with_software_breakpoints(true), 0);
        assert!(soft.takes(vector::BP) && !soft.takes(vector::DB));
        let hard = debug(ENABLE.with_hardware_breakpoints(true), 0);
        assert!(hard.takes(vector::DB) && !hard.takes(vector::AC));
    }

    #[test]
    fn guest_does_not_see_that_it_is_stepped() {
        let mut d = debug(ENABLE.with_single_step(true), 0);
        let real = d.to_processor(Rflags(2));
        assert!(real.tf());
        assert_eq!(d.to_guest(real), Rflags(2));
        let own = Rflags(2).with_tf(true);
        assert_eq!(d.to_processor(own), own);
        assert_eq!(d.to_guest(own), own);
        // POPF of a clear TF, or the delivery of an event.
        assert!(d.rearm(Rflags(2)).tf());
        assert_eq!(d.to_guest(own), Rflags(2));
        d.request(Control(0), &[0; 8], d.to_guest(own));
        assert_eq!(d.to_processor(Rflags(2)), Rflags(2));
        assert_eq!(d.rearm(Rflags(2)), Rflags(2));
    }

    #[test]
    fn breakpoints_replace_the_guests_registers() {
        let d = debug(
            ENABLE.with_hardware_breakpoints(true),
            0xdead_0000_0000_0002,
        );
        assert_eq!(d.registers(), Some((&[1, 2, 3, 4], Dr7(0x402))));
        assert!(!d.detects_access());
        assert!(debug(ENABLE.with_hardware_breakpoints(true), 0x2000).detects_access());
        assert!(!debug(ENABLE.with_single_step(true), 0x2000).detects_access());
    }

    #[test]
    fn a_step_over_an_exit_is_reported_once() {
        let mut d = debug(ENABLE.with_single_step(true), 0);
        assert!(d.note_step() && d.take_step() && !d.take_step());
        assert!(d.note_step());
        d.request(ENABLE.with_single_step(true), &[0; 8], Rflags(2));
        assert!(d.take_step());
        assert!(d.note_step());
        d.request(Control(0), &[0; 8], Rflags(2));
        assert!(!d.take_step() && !d.note_step());
    }

    #[test]
    fn dr6_has_its_active_low_bits() {
        assert_eq!(GuestDebug::dr6(0x4001), 0xffff_4ff1);
    }
}
