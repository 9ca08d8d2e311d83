// SPDX-License-Identifier: GPL-2.0

//! Properties of every instruction: waits change nothing, faults leave nothing behind.

use super::machine::{
    Machine,
    Mood,
    State,
    CODE, //
};
use crate::x86::emulate::*;

const CASES: u32 = if cfg!(debug_assertions) {
    10_000
} else {
    300_000
};

/// A xorshift generator: the same cases in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A register value; often a small address, sometimes an edge.
    fn value(&mut self) -> u64 {
        let value = self.next();
        match value & 7 {
            0 => value >> 1,
            1 => value.wrapping_neg() >> 60,
            2 => u64::MAX - (value >> 60),
            3 => 0xfff0 + (value >> 59),
            _ => value >> 48,
        }
    }

    fn code(&mut self) -> [u8; MAX_LEN] {
        const PREFIXES: [u8; 8] = [0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x48];
        let mut code = [0; MAX_LEN];
        for byte in &mut code {
            *byte = (self.next() >> 32) as u8;
        }
        let mut at = 0;
        while self.next() >> 62 == 0 && at < 3 {
            code[at] = PREFIXES[(self.next() >> 61) as usize];
            at += 1;
        }
        if self.next() >> 62 == 0 {
            code[at] = 0x0f;
        }
        code
    }

    fn machine(&mut self) -> Machine {
        let code = self.code();
        let mut m = match self.next() >> 62 {
            0 => Machine::real(&code),
            1 => Machine::protected(&code),
            _ => Machine::long(&code),
        };
        for register in 0..16 {
            m.state.gprs[register] = self.value();
        }
        m.state.gprs[usize::from(RCX)] &= if self.next() >> 60 == 0 { 0x7f } else { 7 };
        m.state.rflags = 2 | self.next() & 0x24_7fd5;
        m.cpl = if self.next() >> 62 == 0 { 3 } else { 0 };
        if self.next() >> 61 == 0 {
            m.state.segments[SegReg::Ss as usize].rights = SegmentRights(0x93);
            m.state.segments[SegReg::Ss as usize].limit = 0xffff;
        }
        for address in 0x6000..0x6100 {
            // Descriptors that can be loaded, some not accessed yet.
            let byte = [0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0][address as usize & 7];
            m.poke(address, &[byte]);
        }
        m
    }
}

fn clone(machine: &Machine, mood: Mood) -> Machine {
    let mut copy = Machine::long(&[]);
    copy.state = machine.state.clone();
    (copy.cr4, copy.efer, copy.cpl) = (machine.cr4, machine.efer, machine.cpl);
    copy.mood = mood;
    copy
}

/// Runs until there is nothing to wait for; gives up on endless repetitions.
fn settle(machine: &mut Machine) -> Option<Result<Done, Stop>> {
    for _ in 0..2000 {
        match machine.step() {
            Err(Stop::Wait) | Ok(Done::Again) => {}
            other => return Some(other),
        }
    }
    None
}

#[test]
fn waiting_at_every_access_changes_nothing() {
    let mut random = Random(0x0123_4567_89ab_cdef);
    let (mut waits, mut retired) = (0, 0);
    for _ in 0..CASES {
        let calm = random.machine();
        let mut waiting = clone(&calm, Mood::Waiting);
        let mut calm = clone(&calm, Mood::Calm);
        let Some(result) = settle(&mut calm) else {
            continue;
        };
        assert_eq!(
            settle(&mut waiting),
            Some(result),
            "{:02x?}",
            code_of(&calm.state)
        );
        assert_same_but_repeats(&calm.state, &waiting.state);
        waits += waiting.waits;
        retired += usize::from(result.is_ok());
    }
    assert!(waits > CASES as usize / 4, "only {waits} waits");
    assert!(retired > CASES as usize / 4, "only {retired} retired");
}

fn code_of(state: &State) -> Vec<u8> {
    let base = state.segments[SegReg::Cs as usize].base + CODE;
    (0..15)
        .map(|n| state.memory.get(&(base + n)).copied().unwrap_or(0))
        .collect()
}

/// Compares states; effects outside the machine may have been repeated with the same value.
fn assert_same_but_repeats(calm: &State, waiting: &State) {
    let mut waiting = waiting.clone();
    waiting.ports.dedup();
    waiting.hooks.dedup();
    let mut calm = calm.clone();
    calm.ports.dedup();
    calm.hooks.dedup();
    assert_eq!(calm, waiting, "{:02x?}", code_of(&calm));
}

#[test]
fn faults_leave_the_registers_of_the_last_commit() {
    let mut random = Random(0xfedc_ba98_7654_3210);
    let mut faults = 0;
    for case in 0..CASES {
        let machine = random.machine();
        let mut machine = clone(&machine, Mood::Faulting(case as usize % 7));
        let Some(Err(_)) = settle(&mut machine) else {
            continue;
        };
        faults += 1;
        let State {
            gprs,
            rip,
            rflags,
            segments,
            xmm,
            gdtr,
            idtr,
            ..
        } = machine.committed;
        let state = &machine.state;
        assert_eq!(
            (gprs, rip, rflags),
            (state.gprs, state.rip, state.rflags),
            "{:02x?}",
            code_of(state)
        );
        assert_eq!(
            (segments, xmm, gdtr, idtr),
            (state.segments, state.xmm, state.gdtr, state.idtr)
        );
    }
    assert!(faults > CASES / 4, "only {faults} faults");
}

#[test]
fn single_write_instructions_write_last() {
    let mut random = Random(0x5555_aaaa_1234_8765);
    for _ in 0..CASES / 4 {
        let machine = random.machine();
        let mut machine = clone(&machine, Mood::Calm);
        let Ok(Done::Retired(_)) = machine.step() else {
            continue;
        };
        if machine.state.rip == machine.committed.rip || is_repeated(&machine) {
            continue;
        }
        let first_write = machine
            .accesses
            .iter()
            .position(|access| is_effect(access.0));
        if let Some(first) = first_write {
            let late = machine.accesses[first..]
                .iter()
                .find(|access| !is_effect(access.0));
            assert_eq!(
                late,
                None,
                "{:02x?} {:?}",
                code_of(&machine.state),
                machine.accesses
            );
        }
    }
}

fn is_effect(kind: &str) -> bool {
    matches!(kind, "write" | "swap" | "out")
}

fn is_repeated(machine: &Machine) -> bool {
    code_of(&machine.state)[..4]
        .iter()
        .any(|byte| matches!(byte, 0xf2 | 0xf3))
}
