// SPDX-License-Identifier: GPL-2.0

//! Machine-check registers: storage, legality, and errors that a VMM injects.
//!
//! SDM 3B "Machine-Check MSRs", 17.3.

use crate::x86::msr::access::Origin;
use crate::x86::msr::index;

/// The most banks that a vCPU can have: what `KVM_CAP_MCE` says.
pub const MAX_BANKS: usize = 32;

/// IA32_MCG_CAP.
pub mod capability {
    /// IA32_MCG_CTL exists.
    pub const CTL_P: u64 = 1 << 8;
    /// Corrected-error interrupts exist.
    pub const CMCI_P: u64 = 1 << 10;
    /// Software error recovery.
    pub const SER_P: u64 = 1 << 24;
    /// Local machine checks.
    pub const LMCE_P: u64 = 1 << 27;
    /// What `KVM_X86_GET_MCE_CAP_SUPPORTED` says.
    pub const SUPPORTED: u64 = CTL_P | CMCI_P | SER_P | LMCE_P;
}

/// IA32_MCi_STATUS.
mod status {
    pub(super) const VAL: u64 = 1 << 63;
    pub(super) const OVER: u64 = 1 << 62;
    pub(super) const UC: u64 = 1 << 61;
    /// Processor context corrupt, signalled by #MC, action required: none of them is set in an
    /// error that software may look at when it likes (UCNA, or a corrected one).
    pub(super) const URGENT: u64 = 7 << 55;
}

/// IA32_MCG_STATUS.MCIP: a machine check is in progress.
const MCG_STATUS_MCIP: u64 = 1 << 2;
/// IA32_MCi_CTL2.CMCI_EN.
const CTL2_CMCI_EN: u64 = 1 << 30;
/// IA32_MCi_CTL2: the enable and the threshold.
const CTL2_DEFINED: u64 = CTL2_CMCI_EN | 0x7fff;
/// Bits of IA32_MCi_CTL that old guests clear in an otherwise full mask: 0 (UnixWare, corrected
/// ECC errors) and 10 (Linux, a GART erratum).
const CTL_OFTEN_CLEAR: u64 = 0x401;

/// A register of a bank.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BankRegister {
    /// IA32_MCi_CTL.
    Control = 0,
    /// IA32_MCi_STATUS.
    Status = 1,
    /// IA32_MCi_ADDR.
    Address = 2,
    /// IA32_MCi_MISC.
    Misc = 3,
}

/// A machine-check MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    /// IA32_MCG_CAP, read-only.
    Capabilities,
    /// IA32_MCG_STATUS.
    Status,
    /// IA32_MCG_CTL.
    Control,
    /// A register of bank 0 to 31.
    Bank(u8, BankRegister),
    /// IA32_MCi_CTL2 of bank 0 to 31.
    Control2(u8),
}

impl Register {
    /// Returns the register with this number, if it is one of these.
    pub const fn of(number: u32) -> Option<Self> {
        let low = (number & 0x7f) as u8;
        Some(match number {
            index::IA32_MCG_CAP => Self::Capabilities,
            index::IA32_MCG_STATUS => Self::Status,
            index::IA32_MCG_CTL => Self::Control,
            0x280..=0x29f => Self::Control2(low),
            0x400..=0x47f => Self::Bank(
                low >> 2,
                match low & 3 {
                    0 => BankRegister::Control,
                    1 => BankRegister::Status,
                    2 => BankRegister::Address,
                    _ => BankRegister::Misc,
                },
            ),
            _ => return None,
        })
    }
}

/// A register that this vCPU does not have, or a value that it does not take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// The bank of one error, as `struct kvm_x86_mce` gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MachineCheck {
    /// The bank's number.
    pub bank: u8,
    /// IA32_MCi_STATUS.
    pub status: u64,
    /// IA32_MCi_ADDR.
    pub address: u64,
    /// IA32_MCi_MISC.
    pub misc: u64,
    /// IA32_MCG_STATUS.
    pub mcg_status: u64,
}

/// What an injected error does beyond the banks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reaction {
    /// Nothing.
    Nothing,
    /// The local APIC's CMCI entry is delivered.
    CorrectedInterrupt,
    /// #MC is raised.
    MachineCheck,
    /// The processor shuts down.
    Shutdown,
}

/// The machine-check state of one vCPU (1.3 KiB: keep it off the stack).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mce {
    capabilities: u64,
    status: u64,
    control: u64,
    banks: [[u64; 4]; MAX_BANKS],
    control2: [u64; MAX_BANKS],
}

impl Mce {
    /// The state of a new vCPU: 32 banks, before `KVM_X86_SETUP_MCE`.
    pub const fn new() -> Self {
        Self {
            capabilities: MAX_BANKS as u64,
            status: 0,
            control: 0,
            banks: [[0; 4]; MAX_BANKS],
            control2: [0; MAX_BANKS],
        }
    }

    /// Returns IA32_MCG_CAP.
    #[inline]
    pub fn capabilities(&self) -> u64 {
        self.capabilities
    }

    fn nr_banks(&self) -> u8 {
        let [count, ..] = self.capabilities.to_le_bytes();
        count
    }

    fn has(&self, capability: u64) -> bool {
        self.capabilities & capability != 0
    }

    /// `KVM_X86_SETUP_MCE`: sets IA32_MCG_CAP and enables all reporting.
    ///
    /// # Errors
    ///
    /// No bank, more than [`MAX_BANKS`], or an unsupported capability; the ioctl fails with
    /// `EINVAL`.
    pub fn setup(&mut self, capabilities: u64) -> Result<(), Refused> {
        let count = capabilities & 0xff;
        let known = capability::SUPPORTED | 0xff | 0xff_0000;
        if count == 0 || count > MAX_BANKS as u64 || capabilities & !known != 0 {
            return Err(Refused);
        }
        self.capabilities = capabilities;
        if self.has(capability::CTL_P) {
            self.control = u64::MAX;
        }
        for bank in &mut self.banks {
            let [control, ..] = bank;
            *control = u64::MAX;
        }
        self.control2 = [0; MAX_BANKS];
        Ok(())
    }

    /// Reads `register`.
    ///
    /// # Errors
    ///
    /// A register that this vCPU does not have.
    pub fn read(&self, register: Register, origin: Origin) -> Result<u64, Refused> {
        let is_host = origin == Origin::Host;
        match register {
            Register::Capabilities => Ok(self.capabilities),
            Register::Status => Ok(self.status),
            Register::Control if self.has(capability::CTL_P) || is_host => Ok(self.control),
            Register::Control2(bank) if self.has(capability::CMCI_P) || is_host => {
                self.checked(bank)?;
                self.control2.get(usize::from(bank)).copied().ok_or(Refused)
            }
            Register::Bank(bank, which) => {
                self.checked(bank)?;
                let bank = self.banks.get(usize::from(bank)).ok_or(Refused)?;
                bank.get(which as usize).copied().ok_or(Refused)
            }
            Register::Control | Register::Control2(_) => Err(Refused),
        }
    }

    /// Writes `value` to `register`.
    ///
    /// # Errors
    ///
    /// A register that this vCPU does not have, or a value that it does not take.
    pub fn write(&mut self, register: Register, value: u64, origin: Origin) -> Result<(), Refused> {
        let is_host = origin == Origin::Host;
        let slot = match register {
            Register::Capabilities => return Err(Refused),
            Register::Status => &mut self.status,
            Register::Control => {
                let may = self.has(capability::CTL_P) || (is_host && value == 0);
                if !may || !matches!(value, 0 | u64::MAX) {
                    return Err(Refused);
                }
                &mut self.control
            }
            Register::Control2(bank) => {
                self.checked(bank)?;
                let may = self.has(capability::CMCI_P) || (is_host && value == 0);
                if !may || value & !CTL2_DEFINED != 0 {
                    return Err(Refused);
                }
                self.control2.get_mut(usize::from(bank)).ok_or(Refused)?
            }
            Register::Bank(bank, which) => {
                self.checked(bank)?;
                let is_full = value | CTL_OFTEN_CLEAR == u64::MAX;
                let is_bad = match which {
                    BankRegister::Control => value != 0 && !is_full,
                    BankRegister::Status => value != 0 && !is_host,
                    BankRegister::Address | BankRegister::Misc => false,
                };
                if is_bad {
                    return Err(Refused);
                }
                let bank = self.banks.get_mut(usize::from(bank)).ok_or(Refused)?;
                bank.get_mut(which as usize).ok_or(Refused)?
            }
        };
        *slot = value;
        Ok(())
    }

    fn checked(&self, bank: u8) -> Result<(), Refused> {
        if bank < self.nr_banks() {
            Ok(())
        } else {
            Err(Refused)
        }
    }

    /// `KVM_X86_SET_MCE`: records an error in its bank and tells what follows.
    ///
    /// `mce_enabled` is the guest's CR4.MCE. An uncorrected error that needs no action is recorded,
    /// and raises a CMCI where that is enabled. One that needs action is dropped where the guest has
    /// not enabled it (control masks not full), and shuts the processor down during a machine check
    /// or with CR4.MCE clear. A corrected error never overwrites an uncorrected one. SDM 3B
    /// "IA32_MCi_STATUS MSRs", 17.3.2.2.
    ///
    /// # Errors
    ///
    /// A bank that does not exist, or a status without VAL; the ioctl fails with `EINVAL`.
    pub fn inject(&mut self, error: &MachineCheck, mce_enabled: bool) -> Result<Reaction, Refused> {
        self.checked(error.bank)?;
        if error.status & status::VAL == 0 {
            return Err(Refused);
        }
        let is_uncorrected = error.status & status::UC != 0;
        if is_uncorrected && error.mcg_status == 0 && error.status & status::URGENT == 0 {
            self.record(error)?;
            return Ok(self.corrected_reaction(error.bank));
        }
        let bank = self.banks.get_mut(usize::from(error.bank)).ok_or(Refused)?;
        let [control, old_status, ..] = bank;
        if !is_uncorrected {
            if *old_status & status::VAL != 0 && *old_status & status::UC != 0 {
                *old_status |= status::OVER;
            } else {
                self.record(error)?;
            }
            return Ok(Reaction::Nothing);
        }
        let bank_reports = *control == u64::MAX;
        let reports = !self.has(capability::CTL_P) || self.control == u64::MAX;
        if !reports || !bank_reports {
            return Ok(Reaction::Nothing);
        }
        if self.status & MCG_STATUS_MCIP != 0 || !mce_enabled {
            return Ok(Reaction::Shutdown);
        }
        self.record(error)?;
        Ok(Reaction::MachineCheck)
    }

    /// Writes an error into its bank; a valid error that was there is marked as overflown.
    fn record(&mut self, error: &MachineCheck) -> Result<(), Refused> {
        let bank = self.banks.get_mut(usize::from(error.bank)).ok_or(Refused)?;
        let [_, status, address, misc] = bank;
        let over = if *status & status::VAL != 0 {
            status::OVER
        } else {
            0
        };
        *status = error.status | over;
        *address = error.address;
        *misc = error.misc;
        if error.status & status::UC != 0 {
            self.status = error.mcg_status;
        }
        Ok(())
    }

    fn corrected_reaction(&self, bank: u8) -> Reaction {
        let control2 = self.control2.get(usize::from(bank)).copied().unwrap_or(0);
        if self.has(capability::CMCI_P) && control2 & CTL2_CMCI_EN != 0 {
            Reaction::CorrectedInterrupt
        } else {
            Reaction::Nothing
        }
    }
}

impl Default for Mce {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> Mce {
        let mut mce = Mce::new();
        mce.setup(capability::CTL_P | capability::SER_P | 10)
            .unwrap();
        mce
    }

    fn uncorrected() -> MachineCheck {
        MachineCheck {
            bank: 9,
            status: status::VAL | status::UC | 0x134,
            address: 0x1000,
            misc: 0x8c,
            mcg_status: 5,
        }
    }

    #[test]
    fn setup_takes_1_to_32_banks_and_known_capabilities() {
        let mut mce = Mce::new();
        for bad in [0, 33, 1 << 9 | 1, 1 << 25 | 1] {
            assert_eq!(mce.setup(bad), Err(Refused), "{bad:#x}");
        }
        assert_eq!(mce.capabilities(), 32);
        assert_eq!(mce.setup(capability::SUPPORTED | 32), Ok(()));
        assert_eq!(mce.read(Register::Control, Origin::Guest), Ok(u64::MAX));
    }

    #[test]
    fn banks_end_where_the_capabilities_say() {
        let mce = setup();
        let last = Register::of(0x400 + 4 * 10 - 1).unwrap();
        assert_eq!(last, Register::Bank(9, BankRegister::Misc));
        assert_eq!(mce.read(last, Origin::Guest), Ok(0));
        let beyond = Register::of(0x400 + 4 * 10).unwrap();
        assert_eq!(mce.read(beyond, Origin::Host), Err(Refused));
    }

    #[test]
    fn writes_are_checked_per_register() {
        use BankRegister::*;
        let mut mce = setup();
        let mut w = |register, value, origin| mce.write(register, value, origin).is_ok();
        assert!(w(Register::Bank(0, Control), 0, Origin::Guest));
        assert!(w(Register::Bank(0, Control), !0x400, Origin::Guest));
        assert!(!w(Register::Bank(0, Control), 5, Origin::Host));
        assert!(w(Register::Bank(0, Status), 0, Origin::Guest));
        assert!(!w(Register::Bank(0, Status), 1, Origin::Guest));
        assert!(w(Register::Bank(0, Status), 1, Origin::Host));
        assert!(w(Register::Bank(0, Address), 77, Origin::Guest));
        assert!(!w(Register::Control, 1, Origin::Guest));
        assert!(w(Register::Control, 0, Origin::Guest));
        assert!(!w(Register::Control2(0), 0, Origin::Guest), "no CMCI");
        assert!(w(Register::Control2(0), 0, Origin::Host));
        assert!(!w(Register::Capabilities, 0, Origin::Host));
    }

    #[test]
    fn control2_takes_enable_and_threshold() {
        let mut mce = Mce::new();
        mce.setup(capability::CMCI_P | 2).unwrap();
        assert!(mce
            .write(Register::Control2(1), 1 << 30 | 5, Origin::Guest)
            .is_ok());
        assert!(mce
            .write(Register::Control2(1), 1 << 31, Origin::Guest)
            .is_err());
        assert_eq!(
            mce.read(Register::Control2(1), Origin::Guest),
            Ok(1 << 30 | 5)
        );
    }

    #[test]
    fn uncorrected_error_raises_mc_or_shuts_down() {
        let mut mce = setup();
        assert_eq!(mce.inject(&uncorrected(), false), Ok(Reaction::Shutdown));
        assert_eq!(mce.inject(&uncorrected(), true), Ok(Reaction::MachineCheck));
        let bank = |which| Register::Bank(9, which);
        assert_eq!(
            mce.read(bank(BankRegister::Address), Origin::Guest),
            Ok(0x1000)
        );
        assert_eq!(mce.read(Register::Status, Origin::Guest), Ok(5));
        assert_eq!(
            mce.inject(&uncorrected(), true),
            Ok(Reaction::Shutdown),
            "in progress"
        );
    }

    #[test]
    fn corrected_error_never_hides_an_uncorrected_one() {
        let mut mce = setup();
        mce.inject(&uncorrected(), true).unwrap();
        let corrected = MachineCheck {
            status: status::VAL,
            address: 1,
            mcg_status: 0,
            ..uncorrected()
        };
        assert_eq!(mce.inject(&corrected, true), Ok(Reaction::Nothing));
        let r = |which| mce.read(Register::Bank(9, which), Origin::Guest).unwrap();
        assert_eq!(r(BankRegister::Status), uncorrected().status | status::OVER);
        assert_eq!(r(BankRegister::Address), 0x1000);
    }

    #[test]
    fn error_without_action_replaces_the_last_and_raises_a_cmci_if_enabled() {
        let mut mce = Mce::new();
        mce.setup(capability::CMCI_P | capability::CTL_P | 4)
            .unwrap();
        let first = MachineCheck {
            bank: 2,
            status: status::VAL | status::UC,
            address: 1,
            misc: 0,
            mcg_status: 0,
        };
        assert_eq!(mce.inject(&first, false), Ok(Reaction::Nothing));
        mce.write(Register::Control2(2), CTL2_CMCI_EN, Origin::Guest)
            .unwrap();
        let second = MachineCheck {
            address: 2,
            ..first
        };
        assert_eq!(mce.inject(&second, false), Ok(Reaction::CorrectedInterrupt));
        let r = |which| mce.read(Register::Bank(2, which), Origin::Guest).unwrap();
        assert_eq!(r(BankRegister::Address), 2);
        assert_eq!(r(BankRegister::Status), first.status | status::OVER);
    }

    #[test]
    fn masked_or_malformed_errors_do_nothing() {
        let mut mce = setup();
        let error = uncorrected();
        assert_eq!(
            mce.inject(&MachineCheck { bank: 10, ..error }, true),
            Err(Refused)
        );
        assert_eq!(
            mce.inject(&MachineCheck { status: 0, ..error }, true),
            Err(Refused)
        );
        mce.write(Register::Bank(9, BankRegister::Control), 0, Origin::Guest)
            .unwrap();
        assert_eq!(mce.inject(&error, true), Ok(Reaction::Nothing));
        assert_eq!(mce.read(Register::Status, Origin::Guest), Ok(0));
    }
}
