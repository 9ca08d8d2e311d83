// SPDX-License-Identifier: GPL-2.0

//! Interrupts on their way to a vCPU.
//!
//! The local APIC belongs to its vCPU's thread, so others do not touch it: they post vectors here,
//! in any context, and the vCPU's thread takes them over before it looks for an interrupt.

use burrow_sys::context::AtomicBits;

/// Bits of [`Posted::signals`].
const NMI_FIRST: u64 = 1 << 0;
const NMI_SECOND: u64 = 1 << 1;
const INIT: u64 = 1 << 2;
const SIPI: u64 = 1 << 3;
const SMI: u64 = 1 << 4;
const TIMER: u64 = 1 << 5;
const UNHALT: u64 = 1 << 6;
const SIPI_VECTOR_SHIFT: u32 = 8;

/// How an interrupt was triggered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TriggerMode {
    /// Edge-triggered.
    Edge,
    /// Level-triggered: its EOI may have to be reported.
    Level,
}

/// The interrupts posted to one vCPU.
#[derive(Default)]
pub(crate) struct Posted {
    edge: [AtomicBits; 4],
    level: [AtomicBits; 4],
    /// Words of `edge` (bits 0 to 3) and `level` (4 to 7) that may hold a bit.
    summary: AtomicBits,
    signals: AtomicBits,
}

/// What was posted besides vectors.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Signals {
    /// How many NMIs arrived, 0 to 2: more cannot be told apart.
    pub(crate) nmis: u8,
    /// An SMI arrived.
    pub(crate) smi: bool,
    /// INIT arrived.
    pub(crate) init: bool,
    /// A start-up IPI arrived after the last INIT, with this vector.
    pub(crate) sipi: Option<u8>,
    /// The APIC timer's deadline passed.
    pub(crate) timer: bool,
    /// Another vCPU wants it to leave HLT.
    pub(crate) unhalt: bool,
}

impl Posted {
    /// Posts `vector`; returns whether it was not posted yet.
    pub(crate) fn post(&self, vector: u8, trigger: TriggerMode) -> bool {
        let word = usize::from(vector / 64);
        let bit = 1 << (vector % 64);
        let (bits, summary) = match trigger {
            TriggerMode::Edge => (&self.edge, 1 << word),
            TriggerMode::Level => (&self.level, 16 << word),
        };
        let new = bits[word].set(bit) & bit == 0;
        self.summary.set(summary);
        new
    }

    /// Returns whether there may be a vector to take.
    #[inline]
    pub(crate) fn has_vectors(&self) -> bool {
        self.summary.get() != 0
    }

    /// Returns whether `vector` is posted as level-triggered.
    pub(crate) fn has_level(&self, vector: u8) -> bool {
        self.level[usize::from(vector / 64)].get() & (1 << (vector % 64)) != 0
    }

    /// Returns whether there is a signal to take.
    #[inline]
    pub(crate) fn has_signals(&self) -> bool {
        self.signals.get() != 0
    }

    /// Hands all posted vectors to `accept`.
    pub(crate) fn take_vectors(&self, mut accept: impl FnMut(u8, TriggerMode)) {
        let summary = self.summary.take();
        let banks = [
            (&self.edge, TriggerMode::Edge, 0),
            (&self.level, TriggerMode::Level, 4),
        ];
        for (bits, trigger, shift) in banks {
            for (word, first) in bits.iter().zip([0, 64, 128, 192u8]) {
                if summary.wrapping_shr(shift + u32::from(first / 64)) & 1 == 0 {
                    continue;
                }
                let mut pending = word.take();
                while pending != 0 {
                    // CAST: below 64.
                    accept(first | pending.trailing_zeros() as u8, trigger);
                    pending &= pending.wrapping_sub(1);
                }
            }
        }
    }

    /// Posts an NMI.
    pub(crate) fn post_nmi(&self) {
        if self.signals.set(NMI_FIRST) & NMI_FIRST != 0 {
            self.signals.set(NMI_SECOND);
        }
    }

    /// Posts an SMI.
    pub(crate) fn post_smi(&self) {
        self.signals.set(SMI);
    }

    /// Posts an INIT, which voids a start-up IPI before it.
    pub(crate) fn post_init(&self) {
        self.signals.clear(SIPI);
        self.signals.set(INIT);
    }

    /// Posts a start-up IPI.
    pub(crate) fn post_sipi(&self, vector: u8) {
        self.signals.clear(0xff << SIPI_VECTOR_SHIFT);
        self.signals
            .set(SIPI | u64::from(vector) << SIPI_VECTOR_SHIFT);
    }

    /// Posts the expiry of the APIC timer.
    pub(crate) fn post_timer(&self) {
        self.signals.set(TIMER);
    }

    /// Posts that HLT is over.
    pub(crate) fn post_unhalt(&self) {
        self.signals.set(UNHALT);
    }

    /// Takes the signals.
    pub(crate) fn take_signals(&self) -> Signals {
        let signals = self.signals.take();
        Signals {
            nmis: u8::from(signals & NMI_FIRST != 0) + u8::from(signals & NMI_SECOND != 0),
            smi: signals & SMI != 0,
            init: signals & INIT != 0,
            // CAST: cut to the vector's byte.
            sipi: (signals & SIPI != 0).then_some((signals >> SIPI_VECTOR_SHIFT) as u8),
            timer: signals & TIMER != 0,
            unhalt: signals & UNHALT != 0,
        }
    }
}
