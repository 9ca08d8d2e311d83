// SPDX-License-Identifier: GPL-2.0

//! The hot vmcs02s of a vCPU, and what of the TLB they share.
//!
//! Each active vmcs12 that was entered lately has a vmcs02 of its own, with a VPID of its own, so
//! that an L1 that alternates between guests rebuilds and flushes nothing. A [`Pool`] knows which
//! slot belongs to which vmcs12, hands the least recently used one to a newcomer, and keeps account
//! of which VPID of L1 (vpid12) the translations under each slot's VPID belong to.
//!
//! SDM 3C "Invalidating Cached Translation Information", 29.4.3: INVVPID names a VPID of L1,
//! whatever vmcs12 uses it; a VM entry or exit of a vmcs12 without VPIDs flushes VPID 0, which L1
//! itself runs with.

use super::state::Invvpid;
use crate::addr::{
    Gpa,
    Gva, //
};

#[derive(Clone, Copy, Debug)]
struct Entry {
    vmcs12: Gpa,
    /// The VPID of L1 under which this slot's translations were made; 0 for none.
    vpid12: u16,
    used: u64,
}

/// The slots of a vCPU: `N` vmcs02s.
#[derive(Clone, Debug)]
pub struct Pool<const N: usize> {
    entries: [Option<Entry>; N],
    clock: u64,
}

/// The slot for a vmcs12.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// It holds this vmcs12's vmcs02 already.
    Hot(usize),
    /// It is to be filled: everything of vmcs12 counts as dirty, and its VPID is flushed at entry.
    Fresh {
        /// The slot.
        index: usize,
        /// The vmcs12 that loses it.
        evicted: Option<Gpa>,
    },
}

/// What to flush before L2 or L1 goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Nothing.
    Nothing,
    /// All translations of the VPID with which the entered guest runs.
    Vpid,
}

/// What INVVPID of L1 flushes under the VPID of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Translations of one linear address.
    Address(Gva),
    /// All translations.
    All,
    /// All but global translations.
    NonGlobal,
}

impl<const N: usize> Default for Pool<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Pool<N> {
    /// Makes an empty pool.
    pub const fn new() -> Self {
        Self {
            entries: [None; N],
            clock: 0,
        }
    }

    /// Finds or assigns the slot of `vmcs12`; `None` for a pool without slots.
    pub fn activate(&mut self, vmcs12: Gpa) -> Option<Slot> {
        self.clock = self.clock.wrapping_add(1);
        let clock = self.clock;
        if let Some(index) = self.find(vmcs12) {
            if let Some(Some(entry)) = self.entries.get_mut(index) {
                entry.used = clock;
            }
            return Some(Slot::Hot(index));
        }
        let by_use = |(_, entry): &(usize, &mut Option<Entry>)| entry.map_or(0, |entry| entry.used);
        let (index, entry) = self.entries.iter_mut().enumerate().min_by_key(by_use)?;
        let evicted = entry.replace(Entry {
            vmcs12,
            vpid12: 0,
            used: clock,
        });
        Some(Slot::Fresh {
            index,
            evicted: evicted.map(|old| old.vmcs12),
        })
    }

    /// Returns the slot of `vmcs12`.
    pub fn find(&self, vmcs12: Gpa) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| entry.is_some_and(|entry| entry.vmcs12 == vmcs12))
    }

    /// Frees the slot of `vmcs12`, as VMCLEAR does; returns it.
    pub fn forget(&mut self, vmcs12: Gpa) -> Option<usize> {
        let index = self.find(vmcs12)?;
        *self.entries.get_mut(index)? = None;
        Some(index)
    }

    /// Frees all slots, as VMXOFF and a restored state do.
    pub fn clear(&mut self) {
        self.entries = [None; N];
    }

    /// Decides what to flush before slot `index` is entered; `vpid12` is the VPID in vmcs12, if it
    /// uses VPIDs.
    pub fn on_entry(&mut self, index: usize, vpid12: Option<u16>) -> Flush {
        let Some(Some(entry)) = self.entries.get_mut(index) else {
            return Flush::Vpid;
        };
        let is_same = vpid12.is_some_and(|vpid12| vpid12 == entry.vpid12);
        entry.vpid12 = vpid12.unwrap_or(0);
        if is_same {
            Flush::Nothing
        } else {
            Flush::Vpid
        }
    }

    /// Decides what to flush of L1 after an exit of a vmcs12 that uses VPIDs, or does not.
    pub fn on_exit(vpid12: Option<u16>) -> Flush {
        match vpid12 {
            Some(_) => Flush::Nothing,
            None => Flush::Vpid,
        }
    }

    /// Returns the slots that INVVPID of L1 concerns, and what to flush under the VPID of each.
    pub fn on_invvpid(&self, what: Invvpid) -> impl Iterator<Item = (usize, Scope)> + '_ {
        let (only, scope) = match what {
            Invvpid::Address { vpid, address } => (Some(vpid), Scope::Address(address)),
            Invvpid::Single { vpid } => (Some(vpid), Scope::All),
            Invvpid::SingleRetainingGlobals { vpid } => (Some(vpid), Scope::NonGlobal),
            Invvpid::All => (None, Scope::All),
        };
        self.entries
            .iter()
            .enumerate()
            .filter_map(move |(index, entry)| {
                let vpid12 = entry.as_ref()?.vpid12;
                let is_meant = only.is_none_or(|only| only == vpid12);
                (is_meant && vpid12 != 0).then_some((index, scope))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const A: Gpa = Gpa(0x1000);
    const B: Gpa = Gpa(0x2000);
    const C: Gpa = Gpa(0x3000);

    #[test]
    fn least_recently_used_slot_goes_to_the_newcomer() {
        let mut pool = Pool::<2>::new();
        assert_eq!(
            pool.activate(A),
            Some(Slot::Fresh {
                index: 0,
                evicted: None
            })
        );
        assert_eq!(
            pool.activate(B),
            Some(Slot::Fresh {
                index: 1,
                evicted: None
            })
        );
        assert_eq!(pool.activate(A), Some(Slot::Hot(0)));
        assert_eq!(
            pool.activate(C),
            Some(Slot::Fresh {
                index: 1,
                evicted: Some(B)
            })
        );
        assert_eq!(pool.activate(A), Some(Slot::Hot(0)));
        assert_eq!(pool.find(B), None);
    }

    #[test]
    fn forgotten_vmcs12_starts_fresh() {
        let mut pool = Pool::<2>::new();
        let _ = (pool.activate(A), pool.activate(B));
        assert_eq!(pool.forget(A), Some(0));
        assert_eq!(pool.forget(A), None);
        assert_eq!(
            pool.activate(A),
            Some(Slot::Fresh {
                index: 0,
                evicted: None
            })
        );
        pool.clear();
        assert_eq!(pool.find(B), None);
        assert_eq!(Pool::<0>::new().activate(A), None);
    }

    #[test]
    fn unchanged_vpid_flushes_nothing() {
        let mut pool = Pool::<2>::new();
        let _ = pool.activate(A);
        assert_eq!(pool.on_entry(0, Some(5)), Flush::Vpid, "never used");
        assert_eq!(pool.on_entry(0, Some(5)), Flush::Nothing);
        assert_eq!(pool.on_entry(0, Some(6)), Flush::Vpid);
        assert_eq!(pool.on_entry(0, None), Flush::Vpid);
        assert_eq!(
            pool.on_entry(0, None),
            Flush::Vpid,
            "without VPID at every entry"
        );
        assert_eq!(pool.on_entry(0, Some(6)), Flush::Vpid);
        assert_eq!(pool.on_entry(9, Some(6)), Flush::Vpid);
        assert_eq!(Pool::<2>::on_exit(Some(6)), Flush::Nothing);
        assert_eq!(Pool::<2>::on_exit(None), Flush::Vpid);
    }

    #[test]
    fn invvpid_reaches_every_slot_with_that_vpid() {
        let mut pool = Pool::<4>::new();
        for (n, at) in [A, B, C].into_iter().enumerate() {
            let _ = pool.activate(at);
            let _ = pool.on_entry(n, Some([5, 6, 5][n]));
        }
        let slots = |what| pool.on_invvpid(what).collect::<Vec<_>>();
        assert_eq!(
            slots(Invvpid::Single { vpid: 5 }),
            [(0, Scope::All), (2, Scope::All)]
        );
        let address = Gva(0x9000);
        let what = Invvpid::Address { vpid: 6, address };
        assert_eq!(slots(what), [(1, Scope::Address(address))]);
        let what = Invvpid::SingleRetainingGlobals { vpid: 6 };
        assert_eq!(slots(what), [(1, Scope::NonGlobal)]);
        assert_eq!(slots(Invvpid::All).len(), 3);
    }

    #[derive(Clone, Copy, Debug)]
    enum Op {
        /// Enter vmcs12 number .0 with VPID .1 (0 for none) and touch address .2.
        Run(u64, u16, u64),
        Invvpid(Invvpid),
        Forget(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        let vpid = 1_u16..4;
        prop_oneof![
            4 => (0_u64..4, 0_u16..4, 0_u64..3).prop_map(|(n, v, a)| Op::Run(n, v, a)),
            1 => vpid.clone().prop_map(|vpid| Op::Invvpid(Invvpid::Single { vpid })),
            1 => (vpid, 0_u64..3)
                .prop_map(|(vpid, a)| Op::Invvpid(Invvpid::Address { vpid, address: Gva(a) })),
            1 => Just(Op::Invvpid(Invvpid::All)),
            1 => (0_u64..4).prop_map(Op::Forget),
        ]
    }

    proptest! {
        /// A TLB tagged by slot never serves a translation that L1 has invalidated, or that was
        /// made under another VPID of L1. `made` and `dead` are points in time.
        #[test]
        fn no_stale_translation_survives(ops in prop::collection::vec(op(), 1..80)) {
            let mut pool = Pool::<2>::new();
            let mut tlb: HashMap<(usize, u64), (u16, usize)> = HashMap::new();
            let mut dead: HashMap<(u16, u64), usize> = HashMap::new();
            for (now, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Run(n, vpid, address) => {
                        let index = match pool.activate(Gpa(0x1000 * (n + 1))).unwrap() {
                            Slot::Hot(index) | Slot::Fresh { index, .. } => index,
                        };
                        if pool.on_entry(index, (vpid != 0).then_some(vpid)) == Flush::Vpid {
                            tlb.retain(|(slot, _), _| *slot != index);
                        }
                        let hit = *tlb.entry((index, address)).or_insert((vpid, now));
                        let (made_by, made) = hit;
                        prop_assert_eq!(made_by, vpid, "a translation of another VPID");
                        prop_assert!(vpid != 0 || made == now, "VPID 0 was flushed at the entry");
                        let end = dead.get(&(vpid, address)).copied();
                        prop_assert!(end.is_none_or(|end| made > end), "it was invalidated");
                    }
                    Op::Invvpid(what) => {
                        for (slot, scope) in pool.on_invvpid(what) {
                            tlb.retain(|(s, a), _| {
                                let keeps = matches!(scope, Scope::Address(at) if at.0 != *a);
                                *s != slot || keeps
                            });
                        }
                        for vpid in 1..4 {
                            for address in 0..3 {
                                let is_meant = match what {
                                    Invvpid::Address { vpid: v, address: a } => {
                                        (v, a.0) == (vpid, address)
                                    }
                                    Invvpid::Single { vpid: v } => v == vpid,
                                    _ => true,
                                };
                                if is_meant {
                                    dead.insert((vpid, address), now);
                                }
                            }
                        }
                    }
                    Op::Forget(n) => {
                        pool.forget(Gpa(0x1000 * (n + 1)));
                    }
                }
            }
        }
    }
}
