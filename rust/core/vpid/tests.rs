// SPDX-License-Identifier: GPL-2.0

use super::*;

use std::collections::HashMap;

use proptest::prelude::*;

const NR_PAGES: usize = 3;

fn allocator(max: u16) -> Allocator {
    Allocator::new(NonZeroU16::new(max).unwrap())
}

fn enter(prepared: Prepared) -> (u16, FlushNeed) {
    match prepared {
        Prepared::Enter { vpid, flush } => (vpid.get(), flush),
        Prepared::Stale => panic!("stale"),
    }
}

fn adopted(vpids: &mut Allocator) -> Holder {
    let mut holder = Holder::new();
    holder.adopt(vpids.allocate());
    holder
}

#[test]
fn vpids_go_from_1_to_max_and_then_a_generation_begins() {
    let mut vpids = allocator(3);
    let ids: Vec<_> = (0..7)
        .map(|_| vpids.allocate())
        .map(|v| (v.generation.0, v.id.get()))
        .collect();
    assert_eq!(
        ids,
        [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1)]
    );
}

#[test]
fn the_largest_space_does_not_hand_out_0() {
    let mut vpids = allocator(u16::MAX);
    let ids: Vec<_> = (0..65536).map(|_| vpids.allocate().id.get()).collect();
    assert_eq!((ids[0], ids[65534], ids[65535]), (1, 65535, 1));
}

#[test]
fn a_holder_without_a_vpid_is_stale() {
    let prepared = Holder::new().prepare(Generation(1), CpuId(0), &mut CpuVpids::new());
    assert_eq!(prepared, Prepared::Stale);
}

#[test]
fn a_cpu_flushes_all_once_per_generation() {
    let mut vpids = allocator(2);
    let mut cpu = CpuVpids::new();
    let (mut a, mut b) = (adopted(&mut vpids), adopted(&mut vpids));
    let now = vpids.generation();
    assert_eq!(
        enter(a.prepare(now, CpuId(0), &mut cpu)),
        (1, FlushNeed::AllContexts)
    );
    assert_eq!(
        enter(b.prepare(now, CpuId(0), &mut cpu)),
        (2, FlushNeed::None)
    );
    assert_eq!(
        enter(a.prepare(now, CpuId(0), &mut cpu)),
        (1, FlushNeed::None)
    );
    let mut c = adopted(&mut vpids);
    let now = vpids.generation();
    assert_eq!(a.prepare(now, CpuId(0), &mut cpu), Prepared::Stale);
    assert_eq!(
        enter(c.prepare(now, CpuId(0), &mut cpu)),
        (1, FlushNeed::AllContexts)
    );
}

#[test]
fn a_vcpu_that_changes_cpus_flushes_its_vpid_there_and_back() {
    let mut vpids = allocator(9);
    let now = vpids.generation();
    let mut cpus = [CpuVpids::new(), CpuVpids::new()];
    for (id, cpu) in cpus.iter_mut().enumerate() {
        let mut other = adopted(&mut vpids);
        assert_eq!(
            enter(other.prepare(now, CpuId(id as u32), cpu)).1,
            FlushNeed::AllContexts
        );
    }
    let mut holder = adopted(&mut vpids);
    let mut flush_on = |id: usize| enter(holder.prepare(now, CpuId(id as u32), &mut cpus[id])).1;
    assert_eq!([0, 0, 1, 1, 0].map(&mut flush_on), {
        use FlushNeed::*;
        [None, None, Vpid, None, Vpid]
    });
}

#[test]
fn a_requested_flush_is_done_once() {
    let mut vpids = allocator(9);
    let now = vpids.generation();
    let mut cpu = CpuVpids::new();
    let mut holder = adopted(&mut vpids);
    holder.request_flush();
    assert_eq!(
        enter(holder.prepare(now, CpuId(0), &mut cpu)).1,
        FlushNeed::AllContexts
    );
    assert_eq!(
        enter(holder.prepare(now, CpuId(0), &mut cpu)).1,
        FlushNeed::None
    );
    holder.request_flush();
    assert_eq!(
        enter(holder.prepare(now, CpuId(0), &mut cpu)).1,
        FlushNeed::Vpid
    );
    assert_eq!(
        enter(holder.prepare(now, CpuId(0), &mut cpu)).1,
        FlushNeed::None
    );
}

#[test]
fn a_stale_reading_of_the_generation_does_not_revive_an_old_vpid() {
    let mut vpids = allocator(1);
    let mut cpu = CpuVpids::new();
    let (mut old, mut new) = (adopted(&mut vpids), adopted(&mut vpids));
    let _ = enter(new.prepare(Generation(2), CpuId(0), &mut cpu));
    assert_eq!(
        old.prepare(Generation(1), CpuId(0), &mut cpu),
        Prepared::Stale
    );
}

/// A vCPU of the model: its holder and what its page table says now.
struct Vcpu {
    /// Unique over the run, so that a destroyed vCPU's translations are told apart.
    owner: u64,
    holder: Holder,
    versions: [u64; NR_PAGES],
}

/// A CPU of the model, with a TLB tagged by VPID.
#[derive(Default)]
struct Cpu {
    state: CpuVpids,
    running: Option<(usize, u16)>,
    tlb: HashMap<(u16, usize), (u64, u64)>,
}

struct Model {
    vpids: Allocator,
    cpus: Vec<Cpu>,
    vcpus: Vec<Vcpu>,
    nr_owners: u64,
    nr_hits: u64,
}

#[derive(Clone, Debug)]
enum Step {
    /// A vCPU enters on a CPU, in place of the one there.
    Enter(usize, usize),
    /// The guest on a CPU uses a page.
    Use(usize, usize),
    /// The guest on a CPU changes a page and invalidates it there.
    Remap(usize, usize),
    /// The host changes a page of a vCPU, which is kicked and asked to flush.
    HostRemap(usize, usize),
    /// A vCPU is destroyed and another created.
    Recreate(usize),
    /// A CPU goes offline and comes back, with whatever its TLB holds.
    Replug(usize),
}

impl Model {
    fn new(max: u16, nr_cpus: usize, nr_vcpus: usize) -> Self {
        let mut model = Self {
            vpids: allocator(max),
            cpus: (0..nr_cpus).map(|_| Cpu::default()).collect(),
            vcpus: Vec::new(),
            nr_owners: 0,
            nr_hits: 0,
        };
        for _ in 0..nr_vcpus {
            let vcpu = model.create();
            model.vcpus.push(vcpu);
        }
        model
    }

    fn create(&mut self) -> Vcpu {
        self.nr_owners += 1;
        Vcpu {
            owner: self.nr_owners,
            holder: Holder::new(),
            versions: [0; NR_PAGES],
        }
    }

    fn kick(&mut self, vcpu: usize) {
        for cpu in &mut self.cpus {
            cpu.running = cpu.running.filter(|&(running, _)| running != vcpu);
        }
    }

    fn enter(&mut self, vcpu: usize, cpu: usize) {
        self.kick(vcpu);
        let holder = &mut self.vcpus[vcpu].holder;
        let place = &mut self.cpus[cpu];
        let id = CpuId(cpu as u32);
        let mut prepared = holder.prepare(self.vpids.generation(), id, &mut place.state);
        if prepared == Prepared::Stale {
            holder.adopt(self.vpids.allocate());
            prepared = holder.prepare(self.vpids.generation(), id, &mut place.state);
        }
        let (vpid, flush) = enter(prepared);
        match flush {
            FlushNeed::None => {}
            FlushNeed::Vpid => place.tlb.retain(|&(tag, _), _| tag != vpid),
            FlushNeed::AllContexts => place.tlb.clear(),
        }
        place.running = Some((vcpu, vpid));
    }

    fn step(&mut self, step: &Step) {
        let (nr_cpus, nr_vcpus) = (self.cpus.len(), self.vcpus.len());
        match *step {
            Step::Enter(vcpu, cpu) => self.enter(vcpu % nr_vcpus, cpu % nr_cpus),
            Step::Use(cpu, page) => {
                let cpu = &mut self.cpus[cpu % nr_cpus];
                let Some((vcpu, vpid)) = cpu.running else {
                    return;
                };
                let truth = (self.vcpus[vcpu].owner, self.vcpus[vcpu].versions[page]);
                if let Some(cached) = cpu.tlb.insert((vpid, page), truth) {
                    assert_eq!(cached, truth, "another's or an old translation");
                    self.nr_hits += 1;
                }
            }
            Step::Remap(cpu, page) => {
                let cpu = &mut self.cpus[cpu % nr_cpus];
                let Some((vcpu, vpid)) = cpu.running else {
                    return;
                };
                self.vcpus[vcpu].versions[page] += 1;
                cpu.tlb.remove(&(vpid, page));
            }
            Step::HostRemap(vcpu, page) => {
                let vcpu = vcpu % nr_vcpus;
                self.kick(vcpu);
                self.vcpus[vcpu].versions[page] += 1;
                self.vcpus[vcpu].holder.request_flush();
            }
            Step::Recreate(vcpu) => {
                let vcpu = vcpu % nr_vcpus;
                self.kick(vcpu);
                self.vcpus[vcpu] = self.create();
            }
            Step::Replug(cpu) => {
                let cpu = &mut self.cpus[cpu % nr_cpus];
                cpu.running = None;
                cpu.state = CpuVpids::new();
            }
        }
    }
}

fn steps(len: core::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let (vcpu, cpu, page) = (0..12usize, 0..4usize, 0..NR_PAGES);
    let step = prop_oneof![
        8 => (vcpu.clone(), cpu.clone()).prop_map(|(vcpu, cpu)| Step::Enter(vcpu, cpu)),
        16 => (cpu.clone(), page.clone()).prop_map(|(cpu, page)| Step::Use(cpu, page)),
        2 => (cpu.clone(), page.clone()).prop_map(|(cpu, page)| Step::Remap(cpu, page)),
        1 => (vcpu.clone(), page).prop_map(|(vcpu, page)| Step::HostRemap(vcpu, page)),
        1 => vcpu.prop_map(Step::Recreate),
        1 => cpu.prop_map(Step::Replug),
    ];
    prop::collection::vec(step, len)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_vcpu_sees_anothers_translation_nor_an_old_one(
        max in 1..8u16, nr_cpus in 1..5usize, nr_vcpus in 1..13usize, steps in steps(0..300),
    ) {
        let mut model = Model::new(max, nr_cpus, nr_vcpus);
        for step in &steps {
            model.step(step);
        }
    }
}

#[test]
fn vpids_may_run_out_thousands_of_times() {
    let mut model = Model::new(5, 4, 12);
    // A linear congruential generator: the same run each time.
    let mut seed = 1u64;
    let mut random = |below: u64| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((seed >> 33) % below) as usize
    };
    for _ in 0..400_000 {
        let (a, b) = (random(12), random(NR_PAGES as u64));
        model.step(&match random(64) {
            0..=15 => Step::Enter(a, random(4)),
            16..=55 => Step::Use(a, b),
            56..=58 => Step::Remap(a, b),
            59..=60 => Step::HostRemap(a, b),
            61..=62 => Step::Recreate(a),
            _ => Step::Replug(a),
        });
    }
    assert!(
        model.vpids.generation().0 > 2000,
        "{:?}",
        model.vpids.generation()
    );
    assert!(model.nr_hits > 20_000, "{}", model.nr_hits);
}
