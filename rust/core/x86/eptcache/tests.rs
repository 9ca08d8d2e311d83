// SPDX-License-Identifier: GPL-2.0

//! All decisions to flush, of VPIDs and of EPTs, against TLBs that tag as the SDM says: a processor of the
//! test bed flushes at every entry and exit, so a flush that is missing cannot be seen there.

use super::super::nested::pool::{
    Flush,
    Pool,
    Slot, //
};
use super::super::nested::state::Invvpid;
use super::*;
use crate::addr::Gpa;
use crate::vpid::{
    Allocator,
    CpuVpids,
    FlushNeed,
    Holder,
    Prepared, //
};
use proptest::prelude::*;
use std::collections::HashMap;
use std::num::NonZeroU16;

const A: CpuId = CpuId(0);
const B: CpuId = CpuId(1);

#[test]
fn ept_is_flushed_at_its_first_use_and_not_again() {
    let mut epts = EptCaches::new();
    assert_eq!(epts.on_entry(0x1000, A), EptFlush::Context);
    assert_eq!(epts.on_entry(0x2000, A), EptFlush::Context);
    assert_eq!(epts.on_entry(0x1000, A), EptFlush::None);
    assert_eq!(epts.on_entry(0x105e, A), EptFlush::None, "the same tag");
}

#[test]
fn ept_is_flushed_after_a_request_and_after_another_cpu() {
    let mut epts = EptCaches::new();
    let _ = (epts.on_entry(0x1000, A), epts.on_entry(0x2000, A));
    epts.request_flush();
    assert_eq!(epts.on_entry(0x1000, A), EptFlush::Context);
    assert_eq!(epts.on_entry(0x1000, B), EptFlush::Context);
    assert_eq!(epts.on_entry(0x1000, A), EptFlush::Context);
    assert_eq!(
        epts.on_entry(0x2000, A),
        EptFlush::Context,
        "requested before"
    );
    assert_eq!(epts.on_entry(0x2000, A), EptFlush::None);
}

/// Whose translation it is: a linear address space, or an EPT and what it is a shadow of.
type Owner = u64;
const L1: Owner = 1;
/// The EPT of our VM.
const EPT01: Owner = 2;
/// L2 with VPID v of L1 (0 for none), and the shadow of EPT e of L1: the numbers are added.
const L2: Owner = 100;
const SHADOW: Owner = 150;
/// Another VM, and each that comes after it.
const OTHER: Owner = 1000;

/// A translation in a TLB: whose, and when it was made.
#[derive(Clone, Copy, Debug)]
struct Made {
    by: Owner,
    at: usize,
}

/// The TLB of a CPU, tagged.
#[derive(Default)]
struct Tlb {
    /// By VPID, root and linear address: linear part, and guest-physical part.
    combined: HashMap<(u16, u64, u64), (Made, Made)>,
    /// By root and guest-physical address.
    physical: HashMap<(u64, u64), Made>,
}

struct Cpu {
    tlb: Tlb,
    vpids: CpuVpids,
}

/// What is run: whose translations it may meet, and what it accesses.
struct Run {
    linear: Owner,
    physical: Owner,
    root: u64,
    address: u64,
}

struct Machine {
    cpus: [Cpu; 2],
    /// Where the vCPU is.
    cpu: usize,
    allocator: Allocator,
    l1: Holder,
    slots: [Holder; 2],
    shadows: [Option<(u64, u64)>; 2],
    pool: Pool<2>,
    epts: EptCaches,
    other: (Holder, EptCaches, Owner, u64),
    /// Pages for roots; one that was freed is used again first.
    free: Vec<u64>,
    /// When translations by an owner, of an address, were last invalidated.
    dead: HashMap<(Owner, u64), usize>,
    now: usize,
}

fn enter(
    cpu: &mut Cpu,
    id: CpuId,
    holder: &mut Holder,
    epts: &mut EptCaches,
    allocator: &mut Allocator,
    root: u64,
) -> u16 {
    if epts.on_entry(root, id) == EptFlush::Context {
        cpu.tlb.physical.retain(|(r, _), _| *r != root);
        cpu.tlb.combined.retain(|(_, r, _), _| *r != root);
    }
    loop {
        match holder.prepare(allocator.generation(), id, &mut cpu.vpids) {
            Prepared::Stale => holder.adopt(allocator.allocate()),
            Prepared::Enter { vpid, flush } => {
                let vpid = vpid.get();
                match flush {
                    FlushNeed::None => {}
                    FlushNeed::Vpid => cpu.tlb.combined.retain(|(v, _, _), _| *v != vpid),
                    FlushNeed::AllContexts => cpu.tlb.combined.clear(),
                }
                return vpid;
            }
        }
    }
}

impl Machine {
    fn new() -> Self {
        let cpu = || Cpu {
            tlb: Tlb::default(),
            vpids: CpuVpids::new(),
        };
        Self {
            cpus: [cpu(), cpu()],
            cpu: 0,
            allocator: Allocator::new(NonZeroU16::new(5).unwrap()),
            l1: Holder::new(),
            slots: [Holder::new(), Holder::new()],
            shadows: [None; 2],
            pool: Pool::new(),
            epts: EptCaches::new(),
            other: (Holder::new(), EptCaches::new(), OTHER, 0x2000),
            free: vec![0x5000, 0x4000, 0x3000],
            dead: HashMap::new(),
            now: 0,
        }
    }

    fn kill(&mut self, owner: Owner, address: u64) {
        self.dead.insert((owner, address), self.now);
    }

    /// Accesses memory with `vpid`, and judges the translation that the TLB gives.
    fn access(&mut self, vpid: u16, run: &Run) {
        let now = self.now;
        let tlb = &mut self.cpus[self.cpu].tlb;
        let at = run.address;
        let key = (vpid, run.root, at);
        let fresh = |by| Made { by, at: now };
        let (linear, physical) = match tlb.combined.get(&key) {
            Some(hit) => *hit,
            None => {
                let physical = *tlb
                    .physical
                    .entry((run.root, at))
                    .or_insert(fresh(run.physical));
                let made = (fresh(run.linear), physical);
                tlb.combined.insert(key, made);
                made
            }
        };
        assert_eq!(linear.by, run.linear, "a linear translation of another");
        assert_eq!(physical.by, run.physical, "a mapping of another EPT");
        for (made, owner) in [(linear, run.linear), (physical, run.physical)] {
            let dead = self.dead.get(&(owner, at)).copied();
            assert!(dead.is_none_or(|dead| made.at > dead), "it was invalidated");
        }
    }

    fn run_l1(&mut self, address: u64) {
        let id = CpuId(self.cpu as u32);
        let cpu = &mut self.cpus[self.cpu];
        let vpid = enter(
            cpu,
            id,
            &mut self.l1,
            &mut self.epts,
            &mut self.allocator,
            0x1000,
        );
        let run = Run {
            linear: L1,
            physical: EPT01,
            root: 0x1000,
            address,
        };
        self.access(vpid, &run);
    }

    /// Runs vmcs12 number `n` with VPID `vpid12` (0 for none) and EPT `eptp12` (0 for none), then exits.
    fn run_l2(&mut self, n: u64, vpid12: u16, eptp12: u64, address: u64) {
        let at = Gpa(0x1000 * (n + 1));
        let (Slot::Hot(index) | Slot::Fresh { index, .. }) = self.pool.activate(at).unwrap();
        let (root, physical) = if eptp12 == 0 {
            (0x1000, EPT01)
        } else {
            (self.shadow(index, eptp12), SHADOW + eptp12)
        };
        let vpid12 = (vpid12 != 0).then_some(vpid12);
        if self.pool.on_entry(index, vpid12) == Flush::Vpid {
            self.slots[index].request_flush();
        }
        // Without VPIDs, the entry and the exit end all that was cached.
        let linear = L2 + u64::from(vpid12.unwrap_or(0));
        if vpid12.is_none() {
            (0..3).for_each(|address| self.kill(linear, address));
            self.now += 1;
        }
        let id = CpuId(self.cpu as u32);
        let cpu = &mut self.cpus[self.cpu];
        let holder = &mut self.slots[index];
        let vpid = enter(cpu, id, holder, &mut self.epts, &mut self.allocator, root);
        let run = Run {
            linear,
            physical,
            root,
            address,
        };
        self.access(vpid, &run);
        if vpid12.is_none() {
            (0..3).for_each(|address| self.kill(L1, address));
            self.now += 1;
        }
        if Pool::<2>::on_exit(vpid12) == Flush::Vpid {
            self.l1.request_flush();
        }
    }

    /// Returns the root of the shadow of `eptp12` in slot `index`.
    fn shadow(&mut self, index: usize, eptp12: u64) -> u64 {
        let root = match self.shadows[index] {
            Some((root, of)) => {
                if of != eptp12 {
                    self.epts.request_flush();
                }
                root
            }
            None => self.free.pop().unwrap(),
        };
        self.shadows[index] = Some((root, eptp12));
        root
    }

    fn invvpid(&mut self, what: Invvpid) {
        for (slot, _) in self.pool.on_invvpid(what) {
            self.slots[slot].request_flush();
        }
        for vpid in 1..4 {
            let is_meant = match what {
                Invvpid::Single { vpid: v } => v == vpid,
                _ => true,
            };
            if is_meant {
                (0..3).for_each(|address| self.kill(L2 + u64::from(vpid), address));
            }
        }
    }

    fn invept(&mut self, eptp12: u64) {
        if self.shadows.iter().flatten().any(|(_, of)| *of == eptp12) {
            self.epts.request_flush();
        }
        (0..3).for_each(|address| self.kill(SHADOW + eptp12, address));
    }

    /// The host takes memory of the VM back.
    fn unmap(&mut self) {
        self.epts.request_flush();
        for owner in [EPT01, SHADOW + 1, SHADOW + 2] {
            (0..3).for_each(|address| self.kill(owner, address));
        }
    }

    /// Another VM runs here.
    fn run_other(&mut self, address: u64) {
        let id = CpuId(self.cpu as u32);
        let cpu = &mut self.cpus[self.cpu];
        let (holder, epts, owner, root) = &mut self.other;
        let vpid = enter(cpu, id, holder, epts, &mut self.allocator, *root);
        let run = Run {
            linear: *owner,
            physical: *owner,
            root: *root,
            address,
        };
        self.access(vpid, &run);
    }

    /// The other VM ends; the page of its root is free, and the next VM takes the first that is.
    fn end_other(&mut self) {
        self.free.push(self.other.3);
        let take_oldest = self.free.len() > 1 && self.now % 2 == 0;
        let root = if take_oldest {
            self.free.remove(0)
        } else {
            self.free.pop().unwrap()
        };
        self.other = (Holder::new(), EptCaches::new(), self.other.2 + 1, root);
    }

    /// The CPU goes off and on: what it caches may be anything, and its VMCSs have been cleared.
    fn replug(&mut self) {
        self.cpus[self.cpu].vpids = CpuVpids::new();
        self.epts.request_flush();
        self.other.1.request_flush();
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    L1(u64),
    L2(u64, u16, u64, u64),
    Invvpid(Option<u16>),
    Invept(u64),
    Unmap,
    Forget(u64),
    Vmxoff,
    Move,
    Replug,
    Other(u64),
    EndOther,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u64..3).prop_map(Op::L1),
        8 => (0_u64..4, 0_u16..4, 0_u64..3, 0_u64..3).prop_map(|(n, v, e, a)| Op::L2(n, v, e, a)),
        1 => prop::option::of(1_u16..4).prop_map(Op::Invvpid),
        1 => (1_u64..3).prop_map(Op::Invept),
        1 => Just(Op::Unmap),
        1 => (0_u64..4).prop_map(Op::Forget),
        1 => Just(Op::Vmxoff),
        2 => Just(Op::Move),
        1 => Just(Op::Replug),
        2 => (0_u64..3).prop_map(Op::Other),
        1 => Just(Op::EndOther),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_guest_meets_a_stale_translation(ops in prop::collection::vec(op(), 1..120)) {
        let mut machine = Machine::new();
        for op in ops {
            machine.now += 1;
            match op {
                Op::L1(address) => machine.run_l1(address),
                Op::L2(n, vpid, eptp, address) => machine.run_l2(n, vpid, eptp, address),
                Op::Invvpid(Some(vpid)) => machine.invvpid(Invvpid::Single { vpid }),
                Op::Invvpid(None) => machine.invvpid(Invvpid::All),
                Op::Invept(eptp) => machine.invept(eptp),
                Op::Unmap => machine.unmap(),
                Op::Forget(n) => {
                    machine.pool.forget(Gpa(0x1000 * (n + 1)));
                }
                Op::Vmxoff => machine.pool.clear(),
                Op::Move => machine.cpu ^= 1,
                Op::Replug => machine.replug(),
                Op::Other(address) => machine.run_other(address),
                Op::EndOther => machine.end_other(),
            }
        }
    }
}
