// SPDX-License-Identifier: GPL-2.0

//! What a decision can answer: an exception for the guest, or a bug of ours.

/// An exception that an instruction of the guest causes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// The vector, 0 to 31.
    pub vector: u8,
    /// The error code, for the vectors that push one.
    pub error_code: Option<u32>,
    /// What goes with it: the linear address for #PF (into CR2), the DR6 bits for #DB.
    pub payload: Option<u64>,
}

/// Vectors of the architectural exceptions. SDM 3A "Exception and Interrupt Vectors", 7.3.
#[allow(missing_docs, reason = "the mnemonics are the documentation")]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
    pub const VE: u8 = 20;
    pub const CP: u8 = 21;
}

impl Exception {
    /// Makes an exception without an error code.
    #[inline]
    pub const fn plain(vector: u8) -> Self {
        Self {
            vector,
            error_code: None,
            payload: None,
        }
    }

    /// Makes an exception with an error code.
    #[inline]
    pub const fn with_code(vector: u8, error_code: u32) -> Self {
        Self {
            vector,
            error_code: Some(error_code),
            payload: None,
        }
    }

    /// #UD: the instruction is not defined, or not now.
    pub const UD: Self = Self::plain(vector::UD);
    /// #GP(0).
    pub const GP0: Self = Self::with_code(vector::GP, 0);
    /// #SS(0).
    pub const SS0: Self = Self::with_code(vector::SS, 0);
    /// #NM.
    pub const NM: Self = Self::plain(vector::NM);

    /// #PF at linear address `address`.
    #[inline]
    pub const fn page_fault(address: crate::addr::Gva, error_code: u32) -> Self {
        Self {
            vector: vector::PF,
            error_code: Some(error_code),
            payload: Some(address.0),
        }
    }
}

/// A state that only a mistake of ours can produce: the VM dies with one warning, the host lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bug(pub &'static str);
