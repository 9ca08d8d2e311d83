// SPDX-License-Identifier: GPL-2.0

//! Control, flag and debug registers: their bits, and what a write to them may do.
//!
//! - This file: one type per register, and the general-purpose register numbers.
//! - [`mod@write`]: legality and side effects of MOV to CRn, LMSW, CLTS, XSETBV and EFER.
//! - [`mask`]: which bits of CR0 and CR4 the guest owns, and what the VMCS holds for the rest.
//! - [`sregs`]: what `KVM_SET_SREGS` accepts.
//! - [`debug`]: DR0 to DR7.
//!
//! Below: `bits`, `outcome`. Above: `cpuid` fills in [`write::Limits`]; the glue carries out
//! [`write::Effects`].

pub mod debug;
pub mod guest_debug;
pub mod mask;
pub mod one_reg;
pub mod sregs;
pub mod write;

bitfield! {
    /// CR0. SDM 3A "Control Registers", 2.5.
    pub struct Cr0(u64) {
        /// Protection enable.
        0:0 pe, with_pe => bool;
        /// Monitor coprocessor.
        1:1 mp, with_mp => bool;
        /// Emulation: no x87.
        2:2 em, with_em => bool;
        /// Task switched.
        3:3 ts, with_ts => bool;
        /// Extension type: always 1.
        4:4 et, with_et => bool;
        /// Numeric error.
        5:5 ne, with_ne => bool;
        /// Write protect.
        16:16 wp, with_wp => bool;
        /// Alignment mask.
        18:18 am, with_am => bool;
        /// Not write-through.
        29:29 nw, with_nw => bool;
        /// Cache disable.
        30:30 cd, with_cd => bool;
        /// Paging.
        31:31 pg, with_pg => bool;
    }
}

impl Cr0 {
    /// CR0.PE.
    pub const PE: u64 = 1 << 0;
    /// CR0.MP.
    pub const MP: u64 = 1 << 1;
    /// CR0.EM.
    pub const EM: u64 = 1 << 2;
    /// CR0.TS.
    pub const TS: u64 = 1 << 3;
    /// CR0.ET.
    pub const ET: u64 = 1 << 4;
    /// CR0.NE.
    pub const NE: u64 = 1 << 5;
    /// CR0.WP.
    pub const WP: u64 = 1 << 16;
    /// CR0.AM.
    pub const AM: u64 = 1 << 18;
    /// CR0.NW.
    pub const NW: u64 = 1 << 29;
    /// CR0.CD.
    pub const CD: u64 = 1 << 30;
    /// CR0.PG.
    pub const PG: u64 = 1 << 31;
    /// Every bit that is defined; a write to another bit of 31:0 is ignored.
    pub const DEFINED: u64 = Self::PE
        | Self::MP
        | Self::EM
        | Self::TS
        | Self::ET
        | Self::NE
        | Self::WP
        | Self::AM
        | Self::NW
        | Self::CD
        | Self::PG;
    /// The value after power-up, RESET and INIT (CD and NW set). SDM 3A "Processor State After
    /// Reset", 11.1.1.
    pub const RESET: Self = Self(Self::CD | Self::NW | Self::ET);
}

bitfield! {
    /// CR3 as a 64-bit value. SDM 3A "Control Registers", 2.5, and "Process-Context Identifiers".
    pub struct Cr3(u64) {
        /// Page-level write-through (without PCID).
        3:3 pwt, with_pwt => bool;
        /// Page-level cache disable (without PCID).
        4:4 pcd, with_pcd => bool;
        /// The process-context identifier (with CR4.PCIDE).
        11:0 pcid, with_pcid => u16;
        /// Linear-address masking of user pointers to 57 bits.
        61:61 lam_u57, with_lam_u57 => bool;
        /// Linear-address masking of user pointers to 48 bits.
        62:62 lam_u48, with_lam_u48 => bool;
        /// In the source of a MOV to CR3 with CR4.PCIDE: keep the TLB. Never stored.
        63:63 no_flush, with_no_flush => bool;
    }
}

bitfield! {
    /// CR4. SDM 3A "Control Registers", 2.5.
    pub struct Cr4(u64) {
        /// Virtual-8086 mode extensions.
        0:0 vme, with_vme => bool;
        /// Protected-mode virtual interrupts.
        1:1 pvi, with_pvi => bool;
        /// Time-stamp disable above CPL 0.
        2:2 tsd, with_tsd => bool;
        /// Debugging extensions.
        3:3 de, with_de => bool;
        /// Page-size extensions.
        4:4 pse, with_pse => bool;
        /// Physical-address extension.
        5:5 pae, with_pae => bool;
        /// Machine-check enable.
        6:6 mce, with_mce => bool;
        /// Page-global enable.
        7:7 pge, with_pge => bool;
        /// RDPMC above CPL 0.
        8:8 pce, with_pce => bool;
        /// FXSAVE and FXRSTOR, SSE.
        9:9 osfxsr, with_osfxsr => bool;
        /// Unmasked SIMD exceptions.
        10:10 osxmmexcpt, with_osxmmexcpt => bool;
        /// User-mode instruction prevention.
        11:11 umip, with_umip => bool;
        /// 57-bit linear addresses.
        12:12 la57, with_la57 => bool;
        /// VMX enable.
        13:13 vmxe, with_vmxe => bool;
        /// SMX enable.
        14:14 smxe, with_smxe => bool;
        /// RDFSBASE and its kin.
        16:16 fsgsbase, with_fsgsbase => bool;
        /// Process-context identifiers.
        17:17 pcide, with_pcide => bool;
        /// XSAVE and the extended states.
        18:18 osxsave, with_osxsave => bool;
        /// Key locker.
        19:19 kl, with_kl => bool;
        /// Supervisor-mode execution prevention.
        20:20 smep, with_smep => bool;
        /// Supervisor-mode access prevention.
        21:21 smap, with_smap => bool;
        /// Protection keys for user pages.
        22:22 pke, with_pke => bool;
        /// Control-flow enforcement.
        23:23 cet, with_cet => bool;
        /// Protection keys for supervisor pages.
        24:24 pks, with_pks => bool;
        /// Linear-address masking of supervisor pointers.
        28:28 lam_sup, with_lam_sup => bool;
    }
}

impl Cr4 {
    /// CR4.VME.
    pub const VME: u64 = 1 << 0;
    /// CR4.PVI.
    pub const PVI: u64 = 1 << 1;
    /// CR4.TSD.
    pub const TSD: u64 = 1 << 2;
    /// CR4.DE.
    pub const DE: u64 = 1 << 3;
    /// CR4.PSE.
    pub const PSE: u64 = 1 << 4;
    /// CR4.PAE.
    pub const PAE: u64 = 1 << 5;
    /// CR4.MCE.
    pub const MCE: u64 = 1 << 6;
    /// CR4.PGE.
    pub const PGE: u64 = 1 << 7;
    /// CR4.PCE.
    pub const PCE: u64 = 1 << 8;
    /// CR4.OSFXSR.
    pub const OSFXSR: u64 = 1 << 9;
    /// CR4.OSXMMEXCPT.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// CR4.UMIP.
    pub const UMIP: u64 = 1 << 11;
    /// CR4.LA57.
    pub const LA57: u64 = 1 << 12;
    /// CR4.VMXE.
    pub const VMXE: u64 = 1 << 13;
    /// CR4.FSGSBASE.
    pub const FSGSBASE: u64 = 1 << 16;
    /// CR4.PCIDE.
    pub const PCIDE: u64 = 1 << 17;
    /// CR4.OSXSAVE.
    pub const OSXSAVE: u64 = 1 << 18;
    /// CR4.SMEP.
    pub const SMEP: u64 = 1 << 20;
    /// CR4.SMAP.
    pub const SMAP: u64 = 1 << 21;
    /// CR4.PKE.
    pub const PKE: u64 = 1 << 22;
    /// CR4.CET.
    pub const CET: u64 = 1 << 23;
    /// CR4.LAM_SUP.
    pub const LAM_SUP: u64 = 1 << 28;
    /// The bits that every guest may set, whatever its CPUID; the others each need a CPUID bit.
    pub const ALWAYS: u64 = Self::VME
        | Self::PVI
        | Self::TSD
        | Self::DE
        | Self::PSE
        | Self::PAE
        | Self::MCE
        | Self::PGE
        | Self::PCE
        | Self::OSFXSR
        | Self::OSXMMEXCPT;
}

bitfield! {
    /// IA32_EFER. SDM 3A "Extended Feature Enable Register", 2.2.1.
    pub struct Efer(u64) {
        /// SYSCALL enable.
        0:0 sce, with_sce => bool;
        /// IA-32e mode enable.
        8:8 lme, with_lme => bool;
        /// IA-32e mode active: follows LME and CR0.PG.
        10:10 lma, with_lma => bool;
        /// Execute-disable enable.
        11:11 nxe, with_nxe => bool;
    }
}

impl Efer {
    /// EFER.SCE.
    pub const SCE: u64 = 1 << 0;
    /// EFER.LME.
    pub const LME: u64 = 1 << 8;
    /// EFER.LMA.
    pub const LMA: u64 = 1 << 10;
    /// EFER.NXE.
    pub const NXE: u64 = 1 << 11;
}

bitfield! {
    /// XCR0. SDM 1 "XSAVE-Supported Features and State-Component Bitmaps", 13.1.
    pub struct Xcr0(u64) {
        /// x87: always 1.
        0:0 x87, with_x87 => bool;
        /// SSE.
        1:1 sse, with_sse => bool;
        /// AVX.
        2:2 avx, with_avx => bool;
        /// MPX: BNDREGS and BNDCSR together.
        4:3 mpx, with_mpx => u8;
        /// AVX-512: opmask, ZMM_Hi256 and Hi16_ZMM together.
        7:5 avx512, with_avx512 => u8;
        /// PKRU.
        9:9 pkru, with_pkru => bool;
        /// AMX: TILECFG and TILEDATA together.
        18:17 amx, with_amx => u8;
        /// APX.
        19:19 apx, with_apx => bool;
    }
}

impl Xcr0 {
    /// The value after reset.
    pub const RESET: Self = Self(1);
}

bitfield! {
    /// RFLAGS. SDM 1 "EFLAGS Register", 3.4.3.
    pub struct Rflags(u64) {
        /// Carry.
        0:0 cf, with_cf => bool;
        /// Always 1.
        1:1 fixed, with_fixed => bool;
        /// Parity.
        2:2 pf, with_pf => bool;
        /// Auxiliary carry.
        4:4 af, with_af => bool;
        /// Zero.
        6:6 zf, with_zf => bool;
        /// Sign.
        7:7 sf, with_sf => bool;
        /// Trap.
        8:8 tf, with_tf => bool;
        /// Interrupt enable. (`if` is a word of Rust.)
        9:9 if_, with_if => bool;
        /// Direction.
        10:10 df, with_df => bool;
        /// Overflow.
        11:11 of, with_of => bool;
        /// I/O privilege level.
        13:12 iopl, with_iopl => u8;
        /// Nested task.
        14:14 nt, with_nt => bool;
        /// Resume.
        16:16 rf, with_rf => bool;
        /// Virtual-8086 mode.
        17:17 vm, with_vm => bool;
        /// Alignment check, access control.
        18:18 ac, with_ac => bool;
        /// Virtual interrupt.
        19:19 vif, with_vif => bool;
        /// Virtual interrupt pending.
        20:20 vip, with_vip => bool;
        /// CPUID can be used.
        21:21 id, with_id => bool;
    }
}

impl Rflags {
    /// The value after reset.
    pub const RESET: Self = Self(2);
    /// CF, PF, AF, ZF, SF and OF: the flags that VMsucceed and VMfail write.
    pub const ARITHMETIC: u64 = 0x8d5;
    /// Every bit that is defined, bit 1 included.
    pub const DEFINED: u64 = 0x3f_7fd7;
}

/// A general-purpose register, by its number in an instruction's encoding and in exit
/// qualifications. SDM 2A "REX Prefixes", 2.2.1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the mnemonics are the documentation")]
pub enum Gpr {
    Rax = 0,
    Rcx = 1,
    Rdx = 2,
    Rbx = 3,
    Rsp = 4,
    Rbp = 5,
    Rsi = 6,
    Rdi = 7,
    R8 = 8,
    R9 = 9,
    R10 = 10,
    R11 = 11,
    R12 = 12,
    R13 = 13,
    R14 = 14,
    R15 = 15,
}

impl Gpr {
    /// The registers in the order of the fields of `struct kvm_regs`.
    pub const KVM_REGS: [Self; 16] = [
        Self::Rax,
        Self::Rbx,
        Self::Rcx,
        Self::Rdx,
        Self::Rsi,
        Self::Rdi,
        Self::Rsp,
        Self::Rbp,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    /// Returns the register with number `number & 15`.
    #[inline]
    pub const fn from_number(number: u8) -> Self {
        match number & 15 {
            0 => Self::Rax,
            1 => Self::Rcx,
            2 => Self::Rdx,
            3 => Self::Rbx,
            4 => Self::Rsp,
            5 => Self::Rbp,
            6 => Self::Rsi,
            7 => Self::Rdi,
            8 => Self::R8,
            9 => Self::R9,
            10 => Self::R10,
            11 => Self::R11,
            12 => Self::R12,
            13 => Self::R13,
            14 => Self::R14,
            _ => Self::R15,
        }
    }

    /// Returns the register's number, 0 to 15.
    #[inline]
    pub const fn number(self) -> usize {
        self as usize
    }
}

/// Returns whether `address` is canonical for linear addresses of 57 (LA57) or 48 bits.
#[inline]
pub const fn is_canonical(address: u64, width: LinearWidth) -> bool {
    // The bits from the top one of the width up must be equal: all clear or all set.
    let high = match width {
        LinearWidth::Bits48 => address >> 47,
        LinearWidth::Bits57 => address >> 56,
    };
    let ones = match width {
        LinearWidth::Bits48 => u64::MAX >> 47,
        LinearWidth::Bits57 => u64::MAX >> 56,
    };
    high == 0 || high == ones
}

/// Returns `address` with the bits above the width replaced by copies of its top bit.
#[inline]
pub const fn sign_extended(address: u64, width: LinearWidth) -> u64 {
    let top: u64 = match width {
        LinearWidth::Bits48 => 1 << 47,
        LinearWidth::Bits57 => 1 << 56,
    };
    let low = top.wrapping_shl(1).wrapping_sub(1);
    if address & top == 0 {
        address & low
    } else {
        address | !low
    }
}

/// The width of linear addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinearWidth {
    /// Four-level paging: 48 bits.
    Bits48,
    /// Five-level paging: 57 bits.
    Bits57,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_regs_order_names_every_register_once() {
        let mut seen = 0u32;
        for gpr in Gpr::KVM_REGS {
            seen |= 1 << gpr.number();
            assert_eq!(Gpr::from_number(gpr as u8), gpr);
        }
        assert_eq!(seen, 0xffff);
        // kvm_regs: rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp.
        assert_eq!(Gpr::KVM_REGS[1].number(), 3);
        assert_eq!(Gpr::KVM_REGS[6].number(), 4);
    }

    #[test]
    fn canonical_addresses_extend_their_top_bit() {
        use LinearWidth::*;
        assert!(is_canonical(0x0000_7fff_ffff_ffff, Bits48));
        assert!(!is_canonical(0x0000_8000_0000_0000, Bits48));
        assert!(is_canonical(0xffff_8000_0000_0000, Bits48));
        assert!(!is_canonical(0xffff_7fff_ffff_ffff, Bits48));
        assert!(is_canonical(0x0000_8000_0000_0000, Bits57));
        assert!(is_canonical(0x00ff_ffff_ffff_ffff, Bits57));
        assert!(!is_canonical(0x0100_0000_0000_0000, Bits57));
        assert!(is_canonical(0xff00_0000_0000_0000, Bits57));
    }

    #[test]
    fn sign_extension_makes_canonical_addresses() {
        use LinearWidth::*;
        for width in [Bits48, Bits57] {
            for address in [
                0,
                1 << 47,
                1 << 56,
                u64::MAX >> 1,
                1 << 63,
                0x1234_5678_9abc_def0,
            ] {
                let extended = sign_extended(address, width);
                assert!(is_canonical(extended, width), "{address:#x}");
                assert_eq!(extended << 16, address << 16);
            }
        }
    }

    #[test]
    fn mask_constants_agree_with_the_bitfields() {
        assert!(Cr0(Cr0::PG).pg() && Cr0(Cr0::CD).cd() && Cr0(Cr0::NW).nw());
        assert!(Cr0(Cr0::WP).wp() && Cr0(Cr0::AM).am() && Cr0(Cr0::NE).ne());
        assert!(Cr4(Cr4::PCIDE).pcide() && Cr4(Cr4::VMXE).vmxe() && Cr4(Cr4::LA57).la57());
        assert!(Cr4(Cr4::OSXSAVE).osxsave() && Cr4(Cr4::CET).cet() && Cr4(Cr4::PKE).pke());
        assert!(Cr4(Cr4::SMEP).smep() && Cr4(Cr4::SMAP).smap() && Cr4(Cr4::UMIP).umip());
        assert!(Efer(Efer::LMA).lma() && Efer(Efer::NXE).nxe() && Efer(Efer::LME).lme());
    }
}
