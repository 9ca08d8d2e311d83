// SPDX-License-Identifier: GPL-2.0

//! Feature bits of CPUID, and sets of them.
//!
//! SDM 2A "CPUID: CPU Identification"; SDM 1 "Processor Identification and Feature Determination".

use crate::x86::cpuid::Regs;

/// A register of CPUID's output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names of registers")]
pub enum Reg {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Regs {
    /// Returns the register `reg`.
    #[inline]
    pub const fn get(&self, reg: Reg) -> u32 {
        match reg {
            Reg::Eax => self.eax,
            Reg::Ebx => self.ebx,
            Reg::Ecx => self.ecx,
            Reg::Edx => self.edx,
        }
    }

    /// Returns the register `reg`, to be changed.
    #[inline]
    pub fn get_mut(&mut self, reg: Reg) -> &mut u32 {
        match reg {
            Reg::Eax => &mut self.eax,
            Reg::Ebx => &mut self.ebx,
            Reg::Ecx => &mut self.ecx,
            Reg::Edx => &mut self.edx,
        }
    }
}

/// A word of feature bits: one register of one leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Word {
    /// CPUID.01H:ECX.
    L1Ecx,
    /// CPUID.01H:EDX.
    L1Edx,
    /// CPUID.(07H,0):EBX.
    L7Ebx,
    /// CPUID.(07H,0):ECX.
    L7Ecx,
    /// CPUID.(07H,0):EDX.
    L7Edx,
    /// CPUID.(07H,1):EAX.
    L71Eax,
    /// CPUID.(07H,1):EDX.
    L71Edx,
    /// CPUID.(07H,2):EDX.
    L72Edx,
    /// CPUID.(0DH,1):EAX.
    Ld1Eax,
    /// CPUID.80000001H:ECX.
    X1Ecx,
    /// CPUID.80000001H:EDX.
    X1Edx,
    /// CPUID.80000007H:EDX.
    X7Edx,
    /// CPUID.80000008H:EBX.
    X8Ebx,
}

impl Word {
    /// Every word.
    pub const ALL: [Self; 13] = [
        Self::L1Ecx,
        Self::L1Edx,
        Self::L7Ebx,
        Self::L7Ecx,
        Self::L7Edx,
        Self::L71Eax,
        Self::L71Edx,
        Self::L72Edx,
        Self::Ld1Eax,
        Self::X1Ecx,
        Self::X1Edx,
        Self::X7Edx,
        Self::X8Ebx,
    ];

    /// Returns the leaf, subleaf and register of the word.
    pub const fn place(self) -> (u32, u32, Reg) {
        match self {
            Self::L1Ecx => (1, 0, Reg::Ecx),
            Self::L1Edx => (1, 0, Reg::Edx),
            Self::L7Ebx => (7, 0, Reg::Ebx),
            Self::L7Ecx => (7, 0, Reg::Ecx),
            Self::L7Edx => (7, 0, Reg::Edx),
            Self::L71Eax => (7, 1, Reg::Eax),
            Self::L71Edx => (7, 1, Reg::Edx),
            Self::L72Edx => (7, 2, Reg::Edx),
            Self::Ld1Eax => (0xd, 1, Reg::Eax),
            Self::X1Ecx => (0x8000_0001, 0, Reg::Ecx),
            Self::X1Edx => (0x8000_0001, 0, Reg::Edx),
            Self::X7Edx => (0x8000_0007, 0, Reg::Edx),
            Self::X8Ebx => (0x8000_0008, 0, Reg::Ebx),
        }
    }
}

/// One feature bit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feature {
    /// Its word.
    pub word: Word,
    /// Its bit, as a mask.
    pub mask: u32,
}

/// A set of feature bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Set([u32; Word::ALL.len()]);

impl Set {
    /// The set without a member.
    pub const EMPTY: Self = Self([0; Word::ALL.len()]);

    /// Returns the bits of `word`.
    #[inline]
    pub fn word(&self, word: Word) -> u32 {
        self.0.get(word as usize).copied().unwrap_or(0)
    }

    /// Sets the bits of `word`.
    #[inline]
    pub fn set_word(&mut self, word: Word, bits: u32) {
        if let Some(slot) = self.0.get_mut(word as usize) {
            *slot = bits;
        }
    }

    /// Returns whether `feature` is a member.
    #[inline]
    pub fn has(&self, feature: Feature) -> bool {
        self.word(feature.word) & feature.mask != 0
    }

    /// Adds `feature` where `present`, and takes it out otherwise.
    pub fn put(&mut self, feature: Feature, present: bool) {
        let bits = self.word(feature.word);
        let bits = if present {
            bits | feature.mask
        } else {
            bits & !feature.mask
        };
        self.set_word(feature.word, bits);
    }

    /// Takes `features` out.
    pub fn remove(&mut self, features: &[Feature]) {
        for feature in features {
            self.put(*feature, false);
        }
    }

    /// Returns the features that are in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut set = Self::EMPTY;
        for word in Word::ALL {
            set.set_word(word, self.word(word) & other.word(word));
        }
        set
    }

    /// Collects the set from CPUID as `cpuid(leaf, subleaf)` gives it.
    pub fn collect(mut cpuid: impl FnMut(u32, u32) -> Regs) -> Self {
        let mut set = Self::EMPTY;
        for word in Word::ALL {
            let (function, index, reg) = word.place();
            set.set_word(word, cpuid(function, index).get(reg));
        }
        set
    }
}

macro_rules! features {
    ($( $word:ident { $( $name:ident = $bit:literal ),* $(,)? } )*) => {
        $( $(
            #[doc = concat!("Bit ", stringify!($bit), " of [`Word::", stringify!($word), "`].")]
            pub const $name: Feature = Feature { word: Word::$word, mask: 1 << $bit };
        )* )*

        /// Every feature that a guest may have if the host has it, the module's own conditions
        /// apart ([`super::supported::supported`]). A feature is here if it needs nothing of the
        /// hypervisor but what the registers module and the VMCS setup already do.
        #[allow(clippy::indexing_slicing, reason = "evaluated when the crate is built")]
        pub const KNOWN: Set = {
            let mut words = [0; Word::ALL.len()];
            $( {
                let bits = 0 $( | (1 << $bit) )*;
                words[Word::$word as usize] = bits;
            } )*
            Set(words)
        };
    };
}

features! {
    L1Ecx {
        SSE3 = 0, PCLMULQDQ = 1, VMX = 5, SSSE3 = 9, FMA = 12, CX16 = 13, PDCM = 15, PCID = 17,
        SSE4_1 = 19, SSE4_2 = 20, X2APIC = 21, MOVBE = 22, POPCNT = 23, TSC_DEADLINE = 24,
        AES = 25, XSAVE = 26, AVX = 28, F16C = 29, RDRAND = 30, HYPERVISOR = 31,
    }
    L1Edx {
        FPU = 0, VME = 1, DE = 2, PSE = 3, TSC = 4, MSR = 5, PAE = 6, MCE = 7, CX8 = 8, APIC = 9,
        SEP = 11, MTRR = 12, PGE = 13, MCA = 14, CMOV = 15, PAT = 16, PSE36 = 17, CLFSH = 19,
        MMX = 23, FXSR = 24, SSE = 25, SSE2 = 26, SS = 27,
    }
    L7Ebx {
        FSGSBASE = 0, TSC_ADJUST = 1, BMI1 = 3, HLE = 4, AVX2 = 5, FDP_EXCPTN_ONLY = 6, SMEP = 7,
        BMI2 = 8, ERMS = 9, INVPCID = 10, RTM = 11, ZERO_FCS_FDS = 13, AVX512F = 16,
        AVX512DQ = 17, RDSEED = 18, ADX = 19, SMAP = 20, AVX512IFMA = 21, CLFLUSHOPT = 23,
        CLWB = 24, AVX512PF = 26, AVX512ER = 27, AVX512CD = 28, SHA = 29, AVX512BW = 30,
        AVX512VL = 31,
    }
    L7Ecx {
        AVX512VBMI = 1, UMIP = 2, PKU = 3, WAITPKG = 5, AVX512VBMI2 = 6, GFNI = 8, VAES = 9,
        VPCLMULQDQ = 10, AVX512VNNI = 11, AVX512BITALG = 12, AVX512VPOPCNTDQ = 14, LA57 = 16,
        RDPID = 22, BUS_LOCK_DETECT = 24, CLDEMOTE = 25, MOVDIRI = 27, MOVDIR64B = 28,
    }
    L7Edx {
        AVX512_4VNNIW = 2, AVX512_4FMAPS = 3, FSRM = 4, AVX512_VP2INTERSECT = 8, MD_CLEAR = 10,
        SERIALIZE = 14, TSXLDTRK = 16, AVX512_FP16 = 23, SPEC_CTRL = 26, STIBP = 27,
        L1D_FLUSH = 28, ARCH_CAPABILITIES = 29, SSBD = 31,
    }
    L71Eax {
        SHA512 = 0, SM3 = 1, SM4 = 2, AVX_VNNI = 4, AVX512_BF16 = 5, CMPCCXADD = 7, FZRM = 10,
        FSRS = 11, FSRCS = 12, AVX_IFMA = 23, LAM = 26,
    }
    L71Edx {
        AVX_VNNI_INT8 = 4, AVX_NE_CONVERT = 5, AVX_VNNI_INT16 = 10, PREFETCHITI = 14,
    }
    L72Edx {
        PSFD = 0, IPRED_CTRL = 1, RRSBA_CTRL = 2, DDPD_U = 3, BHI_CTRL = 4, MCDT_NO = 5,
    }
    Ld1Eax { XSAVEOPT = 0, XSAVEC = 1, XGETBV1 = 2, XSAVES = 3 }
    X1Ecx { LAHF_LM = 0, LZCNT = 5, PREFETCHW = 8 }
    X1Edx { SYSCALL = 11, NX = 20, GBPAGES = 26, RDTSCP = 27, LM = 29 }
    X7Edx { INVARIANT_TSC = 8 }
    X8Ebx { WBNOINVD = 9 }
}

/// Bit 27 of CPUID.01H:ECX, which follows CR4.OSXSAVE.
pub const OSXSAVE: Feature = Feature {
    word: Word::L1Ecx,
    mask: 1 << 27,
};
/// Bit 3 of CPUID.01H:ECX: MONITOR and MWAIT. Never offered: a VMM that lets guests use them
/// (`KVM_CAP_X86_DISABLE_EXITS`) sets it itself.
pub const MONITOR: Feature = Feature {
    word: Word::L1Ecx,
    mask: 1 << 3,
};
/// Bit 4 of CPUID.07H:ECX, which follows CR4.PKE.
pub const OSPKE: Feature = Feature {
    word: Word::L7Ecx,
    mask: 1 << 4,
};

/// The bits of IA32_SPEC_CTRL that come with a feature. SDM 4 "Architectural MSRs", 2.1.
pub const SPEC_CTRL_BITS: [(Feature, u64); 8] = [
    (SPEC_CTRL, 1 << 0),
    (STIBP, 1 << 1),
    (SSBD, 1 << 2),
    (IPRED_CTRL, 3 << 3),
    (RRSBA_CTRL, 3 << 5),
    (PSFD, 1 << 7),
    (DDPD_U, 1 << 8),
    (BHI_CTRL, 1 << 10),
];

/// The features whose instructions need XCR0.AVX.
pub const NEED_AVX: [Feature; 14] = [
    AVX,
    FMA,
    F16C,
    AVX2,
    VAES,
    VPCLMULQDQ,
    SHA512,
    SM3,
    SM4,
    AVX_VNNI,
    AVX_IFMA,
    AVX_VNNI_INT8,
    AVX_NE_CONVERT,
    AVX_VNNI_INT16,
];

/// The features whose instructions need the AVX-512 bits of XCR0.
pub const NEED_AVX512: [Feature; 18] = [
    AVX512F,
    AVX512DQ,
    AVX512IFMA,
    AVX512PF,
    AVX512ER,
    AVX512CD,
    AVX512BW,
    AVX512VL,
    AVX512VBMI,
    AVX512VBMI2,
    AVX512VNNI,
    AVX512BITALG,
    AVX512VPOPCNTDQ,
    AVX512_4VNNIW,
    AVX512_4FMAPS,
    AVX512_VP2INTERSECT,
    AVX512_FP16,
    AVX512_BF16,
];
