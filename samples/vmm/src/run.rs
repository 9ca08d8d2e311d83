// SPDX-License-Identifier: GPL-2.0

//! The `KVM_RUN` loop, and how to get a vCPU out of it.
//!
//! Each vCPU has a thread that does nothing but enter the guest and serve the
//! exits. A guest that computes, or halts, stays in the kernel for as long as it
//! likes; so a thread that must end gets a signal. The signal alone is not enough:
//! it may come just before the thread enters `KVM_RUN`, and be lost. Therefore the
//! handler also sets `immediate_exit` in the thread's `kvm_run`, which makes the
//! next `KVM_RUN` return at once. Both ways end in `EINTR`.

use anyhow::{
    anyhow,
    Context,
    Result, //
};
use kvm_bindings::kvm_run;
use kvm_ioctls::{
    VcpuExit,
    VcpuFd, //
};
use std::{
    cell::Cell,
    fmt,
    process::ExitCode,
    ptr,
    sync::{
        atomic::{
            AtomicBool,
            Ordering, //
        },
        Arc,
        Mutex,
        PoisonError, //
    },
    thread::{
        self,
        JoinHandle, //
    }, //
};
use vmm_sys_util::{
    eventfd::{
        EventFd,
        EFD_NONBLOCK, //
    },
    signal::{
        register_signal_handler,
        Killable,
        SIGRTMIN, //
    }, //
};

use crate::devices::Devices;

/// Why the machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest went to ACPI sleep state S5.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// A CPU met an exception while it was delivering a double fault.
    TripleFault,
    /// The user's time limit ran out.
    Timeout,
    /// The user typed the escape sequence.
    User,
}

impl Stop {
    /// The program's exit status.
    pub fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::PowerOff | Self::Reset | Self::User => 0,
            Self::TripleFault => 3,
            Self::Timeout => 124,
        })
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "the guest powered off",
            Self::Reset => "the guest reset the machine",
            Self::TripleFault => "the guest died of a triple fault",
            Self::Timeout => "the time limit ran out",
            Self::User => "ended by the user",
        })
    }
}

/// What the threads share.
struct Shared {
    devices: Arc<Devices>,
    /// Set when every vCPU must leave its loop.
    is_stopping: AtomicBool,
    /// Set when each is then to say where the guest was.
    is_hung: AtomicBool,
    /// The first reason for the end.
    reason: Mutex<Option<Result<Stop>>>,
    /// Becomes readable with the reason.
    ended: EventFd,
}

impl Shared {
    fn end(&self, reason: Result<Stop>) {
        let mut first = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = Some(reason);
        }
        // The counter cannot overflow, and nothing else can fail.
        let _ = self.ended.write(1);
    }
}

/// The running vCPUs.
pub struct Machine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Machine {
    /// Becomes readable when the guest has ended by itself.
    pub fn ended(&self) -> &EventFd {
        &self.shared.ended
    }

    /// Takes the reason why it ended.
    pub fn reason(&self) -> Option<Result<Stop>> {
        let mut reason = self.shared.reason.lock();
        reason
            .as_mut()
            .map_or_else(|poisoned| poisoned.get_mut().take(), |r| r.take())
    }

    /// Takes every vCPU out of the guest and waits for its thread.
    ///
    /// After a timeout each vCPU tells where it was: a first hint to what hung.
    pub fn join(self, stop: &Result<Stop>) {
        let is_hung = matches!(stop, Ok(Stop::Timeout));
        self.shared.is_hung.store(is_hung, Ordering::Relaxed);
        self.shared.is_stopping.store(true, Ordering::Release);
        for thread in &self.threads {
            // Fails only for a thread that is gone already.
            let _ = thread.kill(SIGRTMIN());
        }
        for thread in self.threads {
            // A panic has been printed, and the machine ends anyway.
            let _ = thread.join();
        }
    }
}

thread_local! {
    /// This thread's `kvm_run`, for the signal handler.
    static KVM_RUN: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

extern "C" fn kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let run = KVM_RUN.get();
    if !run.is_null() {
        // SAFETY: The pointer is to the mapping of this thread's own vCPU, and
        // the thread sets it to null before it drops the vCPU.
        unsafe { ptr::addr_of_mut!((*run).immediate_exit).write_volatile(1) };
    }
}

/// Starts one thread for each vCPU.
pub fn start(vcpus: Vec<VcpuFd>, devices: Arc<Devices>) -> Result<Machine> {
    register_signal_handler(SIGRTMIN(), kick).context("cannot handle signals")?;
    let shared = Arc::new(Shared {
        devices,
        is_stopping: AtomicBool::new(false),
        is_hung: AtomicBool::new(false),
        reason: Mutex::new(None),
        ended: EventFd::new(EFD_NONBLOCK).context("eventfd")?,
    });
    let mut threads = Vec::new();
    for (id, vcpu) in vcpus.into_iter().enumerate() {
        let shared = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name(format!("vcpu{id}"))
            .spawn(move || vcpu_thread(vcpu, id, &shared))
            .context("cannot start a thread")?;
        threads.push(thread);
    }
    Ok(Machine { shared, threads })
}

fn vcpu_thread(mut vcpu: VcpuFd, id: usize, shared: &Shared) {
    KVM_RUN.set(vcpu.get_kvm_run());
    let end = run_loop(&mut vcpu, shared).with_context(|| format!("vCPU {id}"));
    KVM_RUN.set(ptr::null_mut());
    if shared.is_hung.load(Ordering::Relaxed) {
        if let Ok(regs) = vcpu.get_regs() {
            eprintln!("\r\nvmm: vCPU {id} was at RIP {:#x}", regs.rip);
        }
    }
    if let Some(reason) = end.transpose() {
        shared.end(reason);
    }
}

/// Enters the guest until it ends, or until [`Machine::join`] says so.
fn run_loop(vcpu: &mut VcpuFd, shared: &Shared) -> Result<Option<Stop>> {
    while !shared.is_stopping.load(Ordering::Acquire) {
        match vcpu.run() {
            Ok(exit) => match handle(exit, &shared.devices)? {
                Next::Enter => {}
                Next::Stop(stop) => return Ok(Some(stop)),
                Next::Fail(what) => return Err(describe(vcpu, what)),
            },
            // A signal, or a vCPU that has not been started yet.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(error) => return Err(error).context("KVM_RUN"),
        }
    }
    Ok(None)
}

/// What a vCPU does after an exit.
enum Next {
    /// Enters the guest again.
    Enter,
    /// Ends the machine.
    Stop(Stop),
    /// Ends it with an error: such an exit must not happen.
    Fail(&'static str),
}

/// Serves one exit.
///
/// The answer to a read goes into `kvm_run` by the slice in the exit; the next
/// `KVM_RUN` completes the instruction with it.
fn handle(exit: VcpuExit<'_>, devices: &Devices) -> Result<Next> {
    match exit {
        VcpuExit::IoIn(port, data) => devices.port_in(port, data),
        VcpuExit::IoOut(port, data) => {
            if let Some(stop) = devices.port_out(port, data)? {
                return Ok(Next::Stop(stop));
            }
        }
        VcpuExit::MmioRead(address, data) => devices.mmio_read(address, data),
        VcpuExit::MmioWrite(address, data) => devices.mmio_write(address, data)?,
        VcpuExit::IoapicEoi(vector) => devices.ioapic.end_of_interrupt(vector)?,
        VcpuExit::Shutdown => return Ok(Next::Stop(Stop::TripleFault)),
        VcpuExit::FailEntry(..) => return Ok(Next::Fail("KVM_EXIT_FAIL_ENTRY")),
        VcpuExit::InternalError => return Ok(Next::Fail("KVM_EXIT_INTERNAL_ERROR")),
        _ => return Ok(Next::Fail("an exit that this program does not know")),
    }
    Ok(Next::Enter)
}

/// What can be told of an exit that must not happen.
fn describe(vcpu: &mut VcpuFd, what: &str) -> anyhow::Error {
    let run = vcpu.get_kvm_run();
    let reason = run.exit_reason;
    // SAFETY: All members of the union are integers, for which any bits are valid.
    let words = unsafe { run.__bindgen_anon_1.internal };
    let rip = vcpu.get_regs().map(|regs| regs.rip);
    anyhow!(
        "{what}: exit reason {reason}, suberror {:#x}, data {:#x?}, RIP {rip:#x?}",
        words.suberror,
        words.data.get(..words.ndata.min(16) as usize),
    )
}
