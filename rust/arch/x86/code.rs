// SPDX-License-Identifier: GPL-2.0

//! The guest's code, as the emulator fetches it.
//!
//! Where the last fetch was is remembered with all that its translation depends on
//! ([`FetchMemo`]): the next one from the same page reads the entries again, and no walk is done where
//! they are what they were. The entries' and the code's addresses in the VMM hold for an epoch of the slots.

use crate::arch::x86::{
    cpu::Cpu,
    guest_mem::{
        LinearError,
        Tables, //
    }, //
};
use burrow_core::{
    addr::{
        Gpa,
        Gva,
        Hva,
        PAGE_SIZE, //
    },
    x86::walk::{
        self,
        memo::{
            FetchMemo,
            Inputs,
            MAX_STEPS, //
        },
        Access,
        EntryWidth,
        GuestMem,
        Kind,
        Translation, //
    },
};
use burrow_sys::guest_mem::{
    self,
    UserWord, //
};

/// Where the last fetch was.
#[derive(Clone, Copy)]
pub(crate) struct CodePage {
    memo: FetchMemo<UserWord>,
    epoch: u64,
}

/// Why code cannot be fetched.
pub(crate) enum FetchError {
    /// Its address cannot be translated.
    Linear(LinearError),
    /// No memory is there.
    NoMemory,
}

/// Paging structures that are noted as they are read.
struct Noting<'a, 'b> {
    tables: Tables<'a, 'b>,
    words: [UserWord; MAX_STEPS],
    /// How many there are; more than `words` if not all of them could be noted.
    nr_words: usize,
}

impl GuestMem for Noting<'_, '_> {
    type Error = <Tables<'static, 'static> as GuestMem>::Error;

    fn read_entry(&mut self, address: Gpa, width: EntryWidth) -> Result<u64, Self::Error> {
        let entry = self.tables.read_entry(address, width)?;
        match (
            self.words.get_mut(self.nr_words),
            self.tables.entries.find(address),
        ) {
            (Some(word), Some(hva)) => {
                *word = UserWord::new(hva, entry);
                self.nr_words += 1;
            }
            _ => self.nr_words = MAX_STEPS + 1,
        }
        Ok(entry)
    }

    fn cmpxchg_entry(
        &mut self,
        address: Gpa,
        width: EntryWidth,
        old: u64,
        new: u64,
    ) -> Result<bool, Self::Error> {
        self.tables.cmpxchg_entry(address, width, old, new)
    }
}

impl Cpu<'_> {
    /// Fetches `out.len()` bytes of code at `gva`, at most 16, which are in one page.
    ///
    /// # Errors
    ///
    /// See [`FetchError`].
    pub(crate) fn fetch_code(&mut self, gva: Gva, out: &mut [u8]) -> Result<(), FetchError> {
        if self.fetch_as_before(gva, out) {
            return Ok(());
        }
        let gpa = self.find_code(gva).map_err(FetchError::Linear)?;
        let memory = self.memory();
        memory.read(gpa, out).map_err(|_| FetchError::NoMemory)
    }

    /// Fetches from where the last fetch was; returns `false` where that is not known to be right.
    ///
    /// # Context
    ///
    /// Interrupts may be off.
    pub(crate) fn fetch_as_before(&self, gva: Gva, out: &mut [u8]) -> bool {
        let Some(page) = &self.arch.code_page else {
            return false;
        };
        if gva.page_offset() > PAGE_SIZE - 16 {
            return false;
        }
        let Some((hva, words)) = page.memo.find(&self.fetch_inputs(), gva) else {
            return false;
        };
        // As long as the guard lives, memory is where it was in that epoch.
        let _slots = self.memory().hold_slots();
        if page.epoch != self.memory_epoch() {
            return false;
        }
        match (guest_mem::peek_if(words, hva), out.len()) {
            (Some(bytes), len @ ..=16) => {
                out.copy_from_slice(&bytes[..len]);
                true
            }
            _ => false,
        }
    }

    fn fetch_inputs(&self) -> Inputs {
        Inputs {
            cr0: self.cr0().0,
            cr3: self.cr3(),
            cr4: self.cr4().0,
            efer: self.efer().0,
            is_user: self.cpl() == 3,
        }
    }

    /// Translates the address of code, and remembers how.
    fn find_code(&mut self, gva: Gva) -> Result<Gpa, LinearError> {
        self.arch.code_page = None;
        let privilege = self.privilege();
        // What L1's EPT says is not noted, and PDPTEs are none of the inputs.
        if self.has_ept12() || !(self.efer().lma() && self.cr0().pg()) {
            return Ok(self.translate(gva, Kind::Fetch, privilege)?.gpa);
        }
        // Before the slots: what is remembered does not hold any more if they change meanwhile.
        let epoch = self.memory_epoch();
        let paging = self.paging();
        let access = Access {
            kind: Kind::Fetch,
            privilege,
        };
        let mut noting = Noting {
            tables: self.tables(),
            words: [UserWord::default(); MAX_STEPS],
            nr_words: 0,
        };
        let translation = walk::translate(&mut noting, &paging, gva, access)?;
        let host = noting.tables.entries.find(translation.gpa);
        let (words, nr_words) = (noting.words, noting.nr_words);
        drop(noting);
        self.arch.code_page = host
            .zip(words.get(..nr_words))
            .and_then(|(host, words)| self.remember(gva, host, &translation, words, epoch));
        Ok(translation.gpa)
    }

    fn remember(
        &self,
        gva: Gva,
        host: Hva,
        translation: &Translation,
        words: &[UserWord],
        epoch: u64,
    ) -> Option<CodePage> {
        let memo = FetchMemo::new(self.fetch_inputs(), gva, host, translation, words)?;
        Some(CodePage { memo, epoch })
    }
}
