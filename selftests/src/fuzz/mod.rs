// SPDX-License-Identifier: GPL-2.0

//! Random calls to `/dev/kvm` and all that it gives: with good, changed and senseless arguments, from
//! several threads, on descriptors that others close and memory that others unmap, in processes that
//! are killed in the middle. Nothing is asked of the answers; the kernel must be as well as before.
//!
//! ```text
//! selftests --fuzz CALLS [--seed SEED] [--round ROUND]
//! ```
//!
//! A run is a number of rounds, each a process with a seed of its own, made of that of the run and the
//! number of the round. `--round` repeats one and tells of each call before it is made.
//!
//! | file           | what it has                                            |
//! |----------------|--------------------------------------------------------|
//! | `rng.rs`       | numbers, and how structures are filled and changed     |
//! | `world.rs`     | the descriptors and the memory that calls are about    |
//! | `calls.rs`     | the ioctls                                             |
//! | `arguments.rs` | arguments with a meaning                               |
//! | `code.rs`      | guest code                                             |
//! | `thread.rs`    | what one thread does                                   |

mod arguments;
mod calls;
mod code;
mod rng;
mod thread;
mod world;

use std::{
    os::fd::{
        AsRawFd,
        FromRawFd,
        OwnedFd, //
    },
    process::ExitCode,
    thread::scope, //
};

use self::{
    rng::Rng,
    thread::Thread,
    world::World, //
};
use crate::{
    group,
    ioctl::errno, //
};

group!("fuzz":
    random_calls_leave_the_kernel_well,
    random_calls_of_a_killed_process_leave_nothing,
);

/// The seed of the tests of the group.
const SEED: u64 = 1;
/// Calls of one round, by all its threads.
const CALLS_PER_ROUND: u64 = 200;
/// How long a round may take before it is killed, and then until it is gone, in milliseconds.
const PATIENCE_MS: i32 = 10_000;

fn random_calls_leave_the_kernel_well() {
    for round in 0..12 {
        let round = Round::new(SEED, round);
        round.run(Ending::Own);
    }
}

fn random_calls_of_a_killed_process_leave_nothing() {
    let before = users_of_the_module();
    for round in 0..8 {
        let round = Round::new(SEED + 1, round);
        round.run(Ending::Killed);
    }
    assert_eq!(users_of_the_module(), before);
}

/// How many descriptors of the module there are, where it can be unloaded.
fn users_of_the_module() -> Option<u64> {
    let text = std::fs::read_to_string("/sys/module/kvm_intel/refcnt").ok()?;
    text.trim().parse().ok()
}

/// How a round comes to its end.
#[derive(Clone, Copy)]
enum Ending {
    /// After its calls.
    Own,
    /// By a signal, in the middle.
    Killed,
}

/// What a round came to.
#[derive(PartialEq, Eq)]
enum Verdict {
    Ended,
    /// It did not end by itself, but when it was killed.
    Slow,
}

/// One process that makes calls.
struct Round {
    seed: u64,
    number: u64,
    is_verbose: bool,
}

impl Round {
    fn new(seed: u64, number: u64) -> Self {
        Self {
            seed,
            number,
            is_verbose: false,
        }
    }

    /// Forks, and waits for the child; panics where it cannot be killed.
    fn run(&self, ending: Ending) -> Verdict {
        let mut rng = Rng::new(self.seed.wrapping_mul(0x1_0000_01b3) ^ self.number);
        let delay_us = rng.below(40_000) as libc::useconds_t;
        // SAFETY: fork() in a process with one thread.
        let pid = match unsafe { libc::fork() } {
            -1 => panic!("fork: errno {}", errno()),
            0 => {
                self.child(rng);
                // SAFETY: Ends the child at once.
                unsafe { libc::_exit(0) }
            }
            pid => pid,
        };
        // SAFETY: Plain numbers; the descriptor is new and ours.
        let ended =
            unsafe { OwnedFd::from_raw_fd(libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32) };
        if let Ending::Killed = ending {
            // SAFETY: Sleeps.
            unsafe { libc::usleep(delay_us) };
            kill(pid);
        }
        let mut verdict = Verdict::Ended;
        if !wait_for(&ended) {
            kill(pid);
            verdict = Verdict::Slow;
            assert!(
                wait_for(&ended),
                "seed {} round {}: hangs, even when killed",
                self.seed,
                self.number
            );
        }
        let mut status = 0;
        // SAFETY: The child has ended; `status` is a local.
        unsafe { libc::waitpid(pid, &mut status, 0) };
        verdict
    }

    fn child(&self, mut rng: Rng) {
        // SAFETY: Plain numbers, and a handler that does nothing. What goes wrong in this process is
        // no failure, as memory of its own may have become the guest's.
        unsafe {
            libc::alarm(0);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
            let none = libc::rlimit {
                rlim_cur: 0,
                rlim_max: 0,
            };
            libc::setrlimit(libc::RLIMIT_CORE, &none);
        }
        let threads = *rng.pick(&[1, 1, 2, 3]);
        let code = code::random(&mut rng);
        let world = World::new(&mut rng, &code, threads);
        scope(|scope| {
            for number in 0..threads as usize {
                let thread = Thread::new(&world, rng.bits(), number, self.is_verbose);
                scope.spawn(move || thread.run(CALLS_PER_ROUND / threads));
            }
        });
    }
}

extern "C" fn ignore(_: libc::c_int) {}

fn kill(pid: libc::pid_t) {
    // SAFETY: Plain numbers; the child has not been waited for.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Waits for the process behind a pidfd; false where it takes too long.
fn wait_for(process: &OwnedFd) -> bool {
    let mut poll = libc::pollfd {
        fd: process.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: One structure, a local.
    unsafe { libc::poll(&mut poll, 1, PATIENCE_MS) == 1 }
}

/// What the command line asks for: calls, seed, and the one round to repeat.
fn parse(args: &[String]) -> Result<(u64, u64, Option<u64>), String> {
    let (mut calls, mut seed, mut round) = (0, SEED, None);
    for pair in args.chunks(2) {
        let [name, text] = pair else {
            return Err(format!("{} needs a number", pair[0]));
        };
        let number = text.parse().map_err(|_| format!("{text} is no number"))?;
        match name.as_str() {
            "--fuzz" => calls = number,
            "--seed" => seed = number,
            "--round" => round = Some(number),
            _ => return Err(format!("unknown option {name}")),
        }
    }
    Ok((calls, seed, round))
}

/// Makes as many calls as the command line says and reports in KTAP.
pub fn main(args: &[String]) -> ExitCode {
    let (calls, seed, one) = match parse(args) {
        Ok(parsed) => parsed,
        Err(message) => {
            eprintln!("selftests: {message}");
            return ExitCode::from(2);
        }
    };
    println!("TAP version 13\n1..1\n# seed {seed}");
    let rounds = match one {
        Some(round) => round..round + 1,
        None => 0..calls.div_ceil(CALLS_PER_ROUND),
    };
    let (first, count) = (rounds.start, rounds.end - rounds.start);
    let mut slow = 0;
    for number in rounds {
        let mut round = Round::new(seed, number);
        round.is_verbose = one.is_some();
        // Of four, one is killed.
        let ending = if number % 4 == 3 {
            Ending::Killed
        } else {
            Ending::Own
        };
        slow += u64::from(round.run(ending) == Verdict::Slow);
        let done = number - first + 1;
        if done % 50 == 0 {
            println!(
                "# {} calls, {slow} rounds cut short",
                done * CALLS_PER_ROUND
            );
        }
    }
    println!("# {count} rounds of {CALLS_PER_ROUND} calls, {slow} cut short");
    println!("ok 1 fuzz");
    ExitCode::SUCCESS
}
