// SPDX-License-Identifier: GPL-2.0

//! Runs tests, each in its own process, and reports in KTAP.
//!
//! A test is a function that panics when it fails. [`skip`] ends one that cannot
//! be run here.

use std::{
    io::Write,
    panic,
    process::{
        exit,
        ExitCode, //
    },
    time::Duration, //
};

/// Longest that a test may take, unless `--timeout` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Exit statuses of a test's process; 4 is kselftest's for a skipped test.
const PASSED: i32 = 0;
const FAILED: i32 = 1;
const SKIPPED: i32 = 4;

/// One test.
pub struct Test {
    /// The function's name.
    pub name: &'static str,
    /// Panics when the test fails.
    pub run: fn(),
}

/// The tests of one file.
pub struct Group {
    /// The file's name.
    pub name: &'static str,
    /// In the order in which they run.
    pub tests: &'static [Test],
}

/// Makes a [`Group`] of functions of the current module.
#[macro_export]
macro_rules! group {
    ($group:literal: $($test:ident),+ $(,)?) => {
        /// The tests of this file, in their order.
        pub const GROUP: $crate::harness::Group = $crate::harness::Group {
            name: $group,
            tests: &[$($crate::harness::Test { name: stringify!($test), run: $test }),+],
        };
    };
}

/// Ends the current test as skipped.
pub fn skip(reason: &str) -> ! {
    println!("# SKIP {reason}");
    // The standard output is the report; nothing to be done if it is gone.
    let _ = std::io::stdout().flush();
    exit(SKIPPED)
}

/// Ends the current test as skipped where upstream's KVM is loaded, which has a parameter that nobody
/// else has.
pub fn skip_on_upstream(reason: &str) {
    if std::path::Path::new("/sys/module/kvm_intel/parameters/dump_invalid_vmcs").exists() {
        skip(reason);
    }
}

/// What a test's process came to.
enum Verdict {
    Passed,
    Failed(String),
    Skipped,
}

/// What the command line asks for.
struct Request {
    names: Vec<String>,
    timeout: Duration,
    is_list: bool,
}

fn parse(args: impl Iterator<Item = String>) -> Result<Request, String> {
    let mut request = Request {
        names: Vec::new(),
        timeout: TIMEOUT,
        is_list: false,
    };
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--list" => request.is_list = true,
            "--timeout" => {
                let seconds = args.next().and_then(|text| text.parse().ok());
                let seconds = seconds.ok_or("--timeout needs a number of seconds")?;
                request.timeout = Duration::from_secs(seconds);
            }
            name if !name.starts_with('-') => request.names.push(arg),
            _ => return Err(format!("unknown option {arg}")),
        }
    }
    Ok(request)
}

/// Runs what the command line asks for.
pub fn main(groups: &[Group]) -> ExitCode {
    let request = match parse(std::env::args().skip(1)) {
        Ok(request) => request,
        Err(message) => {
            eprintln!("selftests: {message}");
            return ExitCode::from(2);
        }
    };
    let all = groups.iter().flat_map(|group| {
        let name = |test: &Test| format!("{}.{}", group.name, test.name);
        group.tests.iter().map(move |test| (name(test), test.run))
    });
    let tests = select(all.collect(), &request.names);
    if request.is_list {
        tests.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    if tests.is_empty() {
        eprintln!("selftests: no such test");
        return ExitCode::from(2);
    }
    report(&tests, request.timeout)
}

/// Keeps the tests that are named: exactly, or by the beginning of their names.
fn select(all: Vec<(String, fn())>, names: &[String]) -> Vec<(String, fn())> {
    let is_exact = |wanted: &String| all.iter().any(|(name, _)| name == wanted);
    let exact: Vec<bool> = names.iter().map(is_exact).collect();
    let is_wanted = |name: &str| {
        let mut pairs = names.iter().zip(&exact);
        names.is_empty()
            || pairs.any(|(wanted, is_exact)| {
                name == wanted || !is_exact && name.starts_with(wanted.as_str())
            })
    };
    all.iter()
        .filter(|(name, _)| is_wanted(name))
        .cloned()
        .collect()
}

/// Runs the tests one after the other and prints a line for each.
fn report(tests: &[(String, fn())], timeout: Duration) -> ExitCode {
    println!("TAP version 13\n1..{}", tests.len());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for ((name, run), number) in tests.iter().zip(1..) {
        match run_one(*run, timeout) {
            Verdict::Passed => {
                passed += 1;
                println!("ok {number} {name}");
            }
            Verdict::Skipped => {
                skipped += 1;
                println!("ok {number} {name} # SKIP");
            }
            Verdict::Failed(reason) => {
                failed += 1;
                println!("not ok {number} {name} # {reason}");
            }
        }
    }
    println!("# Totals: pass:{passed} fail:{failed} xfail:0 xpass:0 skip:{skipped} error:0");
    ExitCode::from(u8::from(failed != 0))
}

/// Runs one test in a child process.
fn run_one(run: fn(), timeout: Duration) -> Verdict {
    // Nothing may be printed twice.
    let _ = std::io::stdout().flush();
    // SAFETY: This process has one thread, so the child may do anything.
    match unsafe { libc::fork() } {
        -1 => Verdict::Failed(std::io::Error::last_os_error().to_string()),
        0 => child(run, timeout),
        pid => wait(pid, timeout),
    }
}

/// The child's part: never returns.
fn child(run: fn(), timeout: Duration) -> ! {
    // SAFETY: setpgid() and alarm() take plain numbers. The group lets the parent
    // end grandchildren too; the alarm ends this process wherever it is.
    unsafe {
        libc::setpgid(0, 0);
        libc::alarm(timeout.as_secs() as libc::c_uint);
    }
    panic::set_hook(Box::new(|info| {
        for line in info.to_string().lines() {
            println!("# {line}");
        }
        let _ = std::io::stdout().flush();
        // A panic of any thread fails the test, at once.
        // SAFETY: _exit() ends the process without running anything else.
        unsafe { libc::_exit(FAILED) };
    }));
    run();
    exit(PASSED)
}

/// The parent's part: waits for the child and cleans up after it.
fn wait(pid: libc::pid_t, timeout: Duration) -> Verdict {
    let mut status = 0;
    // SAFETY: `status` is an integer that outlives the call.
    while unsafe { libc::waitpid(pid, &mut status, 0) } == -1 {
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Verdict::Failed(error.to_string());
        }
    }
    // SAFETY: The group was the child's own; it may be empty, which is an error
    // without consequences.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
    if libc::WIFSIGNALED(status) {
        return Verdict::Failed(match libc::WTERMSIG(status) {
            libc::SIGALRM => format!("hung for {} s", timeout.as_secs()),
            signal => format!("killed by signal {signal}"),
        });
    }
    match libc::WEXITSTATUS(status) {
        PASSED => Verdict::Passed,
        SKIPPED => Verdict::Skipped,
        FAILED => Verdict::Failed("failed".to_string()),
        status => Verdict::Failed(format!("exit status {status}")),
    }
}
