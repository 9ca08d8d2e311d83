// SPDX-License-Identifier: GPL-2.0

//! A translation of an instruction fetch that is remembered, with all that it depends on.
//!
//! Code that accesses a device does so again and again from the same page. Where the paging structures
//! hold what they held, and the registers too, the walk would come to the same end: so it suffices to read
//! the entries again and to compare them. Unlike a TLB, this is right whether or not the guest has flushed
//! anything. The memory of the VMM that backs all of it is the caller's to vouch for.

use super::Translation;
use crate::addr::{
    Gva,
    Hva, //
};

/// The most entries that a walk reads.
pub const MAX_STEPS: usize = 5;

/// The registers that a fetch's translation depends on, in 4-level and 5-level paging. What CPUID says
/// does not change once the vCPU has run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inputs {
    /// CR0 as the guest sees it.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// The code runs at CPL 3.
    pub is_user: bool,
}

/// A fetch that is remembered. `S` is an entry of the walk: where it is read, and what it was.
#[derive(Clone, Copy, Debug)]
pub struct FetchMemo<S> {
    inputs: Inputs,
    page: Gva,
    host: Hva,
    steps: [S; MAX_STEPS],
    nr_steps: usize,
}

impl<S: Copy + Default> FetchMemo<S> {
    /// Makes one of the fetch at `gva`, whose `translation` read `steps` and came to a byte at `host`.
    ///
    /// Returns `None` where entries are still to be changed: they are not what they were then. An entry
    /// that has its accessed flag once is not changed by a fetch again.
    pub fn new(
        inputs: Inputs,
        gva: Gva,
        host: Hva,
        translation: &Translation,
        steps: &[S],
    ) -> Option<Self> {
        if !translation.updates().is_empty() {
            return None;
        }
        let mut memo = Self {
            inputs,
            page: gva.page_base(),
            host: Hva(host.0.wrapping_sub(gva.page_offset())),
            steps: [S::default(); MAX_STEPS],
            nr_steps: steps.len(),
        };
        memo.steps.get_mut(..steps.len())?.copy_from_slice(steps);
        Some(memo)
    }

    /// Returns where the byte at `gva` is, if the entries that come with it are what they were.
    #[inline]
    pub fn find(&self, inputs: &Inputs, gva: Gva) -> Option<(Hva, &[S])> {
        if self.page != gva.page_base() || self.inputs != *inputs {
            return None;
        }
        let host = self.host.wrapping_add(gva.page_offset());
        Some((host, self.steps.get(..self.nr_steps)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        translate,
        walk,
        Access,
        EntryWidth,
        GuestMem,
        Kind,
        Mode,
        Paging,
        Privilege, //
    };
    use super::*;
    use crate::addr::Gpa;

    /// Four tables at 0x1000 to 0x4000, and the entry that each has everywhere.
    struct Chain([u64; 4]);

    impl GuestMem for Chain {
        type Error = ();
        fn read_entry(&mut self, at: Gpa, _: EntryWidth) -> Result<u64, ()> {
            let table = usize::try_from(at.0 >> 12).map_err(|_| ())?;
            self.0.get(table.wrapping_sub(1)).copied().ok_or(())
        }
        fn cmpxchg_entry(&mut self, _: Gpa, _: EntryWidth, _: u64, _: u64) -> Result<bool, ()> {
            Ok(true)
        }
    }

    const P: u64 = 1;
    const A: u64 = 1 << 5;
    const ACCESSED: [u64; 4] = [
        0x2000 | P | A,
        0x3000 | P | A,
        0x4000 | P | A,
        0xabc000 | P | A,
    ];

    const PAGING: Paging = Paging {
        mode: Mode::FourLevel,
        cr3: 0x1000,
        pdptes: [0; 4],
        physical_address_bits: 40,
        write_protect: true,
        page_size_extensions: false,
        pse_36: false,
        page_1g: false,
        execute_disable: true,
        smep: false,
        smap: false,
        protection_keys: false,
        pkru: 0,
    };
    const FETCH: Access = Access {
        kind: Kind::Fetch,
        privilege: Privilege::Supervisor,
    };
    const INPUTS: Inputs = Inputs {
        cr0: 0x8000_0011,
        cr3: 0x1000,
        cr4: 0x20,
        efer: 0x500,
        is_user: false,
    };
    const GVA: Gva = Gva(0x40_0123);
    const HOST: Hva = Hva(0x7f00_0000_0123);

    fn memo(entries: [u64; 4], steps: &[u32]) -> Option<FetchMemo<u32>> {
        let translation = walk(&mut Chain(entries), &PAGING, GVA, FETCH).unwrap();
        FetchMemo::new(INPUTS, GVA, HOST, &translation, steps)
    }

    #[test]
    fn the_page_is_found_at_each_of_its_bytes() {
        let memo = memo(ACCESSED, &[10, 20, 30, 40]).unwrap();
        for offset in [0, 1, 0x123, 0xfff] {
            let found = memo.find(&INPUTS, Gva(0x40_0000 + offset));
            let host = Hva(0x7f00_0000_0000 + offset);
            assert_eq!(found, Some((host, &[10, 20, 30, 40][..])));
        }
        for other in [0x3f_ffff, 0x40_1000, 0x123, 0x8000_0040_0123] {
            assert_eq!(memo.find(&INPUTS, Gva(other)), None, "{other:#x}");
        }
    }

    #[test]
    fn another_value_of_any_register_forgets_it() {
        let memo = memo(ACCESSED, &[1]).unwrap();
        let changes: [fn(&mut Inputs); 5] = [
            |i| i.cr0 ^= 1 << 16,
            |i| i.cr3 ^= 0x1000,
            |i| i.cr4 ^= 1 << 20,
            |i| i.efer ^= 1 << 11,
            |i| i.is_user ^= true,
        ];
        for change in changes {
            let mut inputs = INPUTS;
            change(&mut inputs);
            assert_eq!(memo.find(&inputs, GVA), None, "{inputs:x?}");
        }
    }

    #[test]
    fn a_walk_that_sets_a_flag_is_not_remembered() {
        for level in 0..4 {
            let mut entries = ACCESSED;
            entries[level] &= !A;
            assert!(memo(entries, &[]).is_none(), "level {level}");
        }
        // The same after the flags were set: the entries are others now.
        let mut fresh = Chain(ACCESSED.map(|entry| entry & !A));
        let translation = translate(&mut fresh, &PAGING, GVA, FETCH).unwrap();
        assert!(FetchMemo::<u32>::new(INPUTS, GVA, HOST, &translation, &[]).is_none());
    }

    #[test]
    fn a_walk_has_five_steps_at_most() {
        assert!(memo(ACCESSED, &[0; 5]).is_some());
        assert!(memo(ACCESSED, &[0; 6]).is_none());
    }
}
