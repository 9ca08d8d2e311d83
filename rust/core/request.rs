// SPDX-License-Identifier: GPL-2.0

//! Requests to a vCPU and what each implies.
//!
//! A request is a bit in a word of the vCPU that any thread may set and only the vCPU's own thread
//! takes, before an entry. Who sets one writes what it is about first, then the bit (release), then
//! looks at the vCPU's [`Mode`] and does what [`Request::action`] says; the vCPU sets its mode, then
//! looks at the word (both with full ordering), so that one of them sees the other.
//!
//! The word is the caller's atomic; [`Requests`] is a copy of it that was taken.

/// A request. In the order in which a vCPU takes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Request {
    /// The VM is dead: `KVM_RUN` fails with `EIO`, now and ever after.
    ///
    /// Set on all vCPUs by who finds a bug. Never cleared; absorbs every other.
    VmDead,
    /// The dirty ring has reached its soft limit: `KVM_EXIT_DIRTY_RING_FULL`, unless it was reset
    /// meanwhile.
    ///
    /// Set by the vCPU itself on pushing an entry, and again as long as the ring stays full.
    DirtyRingSoftFull,
    /// Roots of the vCPU's mappings may have been freed: drop those of an old generation.
    ///
    /// Set on all vCPUs when memory slots change, before the pages are freed.
    DropObsoleteRoots,
    /// Move the timers of the vCPU to the CPU that it runs on now.
    ///
    /// Set by the vCPU itself when it is loaded on another CPU.
    MigrateTimer,
    /// The clocks of the VM changed: compute its time base anew, for all vCPUs.
    ///
    /// Set by who changes a TSC or the host's clock source. Sets `ClockUpdate` on all vCPUs, and
    /// so absorbs it on this one.
    MasterClockUpdate,
    /// Write the vCPU's paravirtual clock anew.
    ///
    /// Set on loading on another CPU, by `KVM_SET_CLOCK`, and with a new clock page.
    ClockUpdate,
    /// Write the vCPU's stolen time anew.
    ///
    /// Set by the vCPU itself when it is scheduled in, and with a new page.
    StealUpdate,
    /// Nested state was restored: map the pages that vmcs12 names.
    ///
    /// Set by `KVM_SET_NESTED_STATE`, and by userspace's other ways into L2. Comes before the
    /// requests that use those pages.
    NestedStatePages,
    /// The root of the vCPU's mappings changed: load it.
    ///
    /// Set by the vCPU itself.
    LoadRoot,
    /// Flush all that is cached for the vCPU: guest-physical, and linear for L1 and L2.
    ///
    /// Set on all vCPUs when the host's mappings change. Absorbs the two lesser flushes.
    TlbFlush,
    /// Flush the linear translations of the context that the vCPU is in, as its guest would.
    ///
    /// Set by the guest's paravirtual flush, and by emulated changes of CR3, CR4 and so on.
    TlbFlushGuest,
    /// Flush what is cached for the context that the vCPU is in, guest-physical included.
    ///
    /// Set by the vCPU itself, on transitions between L1 and L2. Absorbs `TlbFlushGuest`.
    TlbFlushCurrent,
    /// The guest accessed its task priority: `KVM_EXIT_TPR_ACCESS`.
    ///
    /// Set by the vCPU itself.
    ReportTprAccess,
    /// The guest shut down: an exit to L1, or `KVM_EXIT_SHUTDOWN`.
    ///
    /// Set by the vCPU itself, and by `KVM_SET_VCPU_EVENTS`.
    TripleFault,
    /// NMIs wait to be counted in.
    ///
    /// Set by who sends an NMI. Sets `EventPending`.
    Nmi,
    /// An SMI waits.
    ///
    /// Set by who sends one. Sets `EventPending`.
    Smi,
    /// A performance counter of the guest overflowed or was reprogrammed.
    ///
    /// Set from the host's counter interrupt.
    Pmu,
    /// Deliver the guest's performance-counter interrupt.
    ///
    /// Set from the host's counter interrupt.
    Pmi,
    /// Interrupt routes or registers of the I/O APIC changed: find out which vectors need an EOI.
    ///
    /// Set on all vCPUs. Ends by setting `LoadEoiExitmap`, and so absorbs it.
    ScanIoapic,
    /// Load the bitmap of vectors whose EOI exits.
    ///
    /// Set by `ScanIoapic`; it waits while the vCPU is in L2.
    LoadEoiExitmap,
    /// The guest ended an interrupt that userspace's I/O APIC wants to know of:
    /// `KVM_EXIT_IOAPIC_EOI`.
    ///
    /// Set by the vCPU itself.
    IoapicEoiExit,
    /// The page under the local APIC's address moved in the host: map it again.
    ///
    /// Set on all vCPUs by the MMU notifier, which must not return before they have left.
    ApicPageReload,
    /// The mode of a local APIC changed, or whether its virtualization is allowed.
    ///
    /// Set on all vCPUs, which must not run on with the old setting.
    ApicChanged,
    /// Which accesses to model-specific registers exit has changed: merge the bitmap anew.
    ///
    /// Set on all vCPUs by a new filter, and on one by its new CPUID.
    MsrFilterChanged,
    /// Dirty logging by the CPU was turned on or off.
    ///
    /// Set on all vCPUs when the first slot is logged or the last no more.
    DirtyLoggingChanged,
    /// The vCPU waits for a page and may halt until it is there.
    ///
    /// Set by the vCPU itself.
    AsyncPageHalt,
    /// A page that the guest was told to wait for is there.
    ///
    /// Set by who brought it in.
    AsyncPageReady,
    /// Look again whether an event can be injected, and which.
    ///
    /// Set by whatever may make one deliverable. Comes late, so that it sees what the others did.
    EventPending,
    /// A blocked vCPU is to look again at whether it is runnable; otherwise without effect.
    ///
    /// Set by timers and by who changes the multiprocessing state.
    Unblock,
}

/// How a vCPU learns of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// Its own thread sets it: nothing to do.
    Local,
    /// It is woken if it blocks, or made to exit if it runs.
    Kick,
    /// It is made to exit if it runs, and the sender waits until it has left the guest: what it
    /// saw before, it uses no more. One that blocks sees it when something else wakes it.
    WaitUntilOut,
}

/// Where a vCPU is, as it says itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Its thread sleeps in the kernel until the vCPU is runnable.
    Blocked,
    /// Out of the guest; it looks at its requests before it enters.
    Outside,
    /// In the guest, or past its last look at the requests.
    InGuest,
    /// In the guest, and somebody has sent an interrupt that will get it out.
    Exiting,
}

/// What the sender of a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Action {
    /// Nothing.
    None,
    /// Wake the thread.
    Wake,
    /// Set the mode to [`Mode::Exiting`] and interrupt the CPU.
    Interrupt,
    /// The same, and wait until the CPU has taken the interrupt.
    InterruptAndWait,
}

impl Request {
    /// All requests, in order.
    pub const ALL: [Self; 29] = [
        Self::VmDead,
        Self::DirtyRingSoftFull,
        Self::DropObsoleteRoots,
        Self::MigrateTimer,
        Self::MasterClockUpdate,
        Self::ClockUpdate,
        Self::StealUpdate,
        Self::NestedStatePages,
        Self::LoadRoot,
        Self::TlbFlush,
        Self::TlbFlushGuest,
        Self::TlbFlushCurrent,
        Self::ReportTprAccess,
        Self::TripleFault,
        Self::Nmi,
        Self::Smi,
        Self::Pmu,
        Self::Pmi,
        Self::ScanIoapic,
        Self::LoadEoiExitmap,
        Self::IoapicEoiExit,
        Self::ApicPageReload,
        Self::ApicChanged,
        Self::MsrFilterChanged,
        Self::DirtyLoggingChanged,
        Self::AsyncPageHalt,
        Self::AsyncPageReady,
        Self::EventPending,
        Self::Unblock,
    ];

    /// Returns its bit in the word.
    #[inline]
    pub const fn bit(self) -> u64 {
        1 << self as u8
    }

    /// Returns how a vCPU learns of it.
    pub const fn delivery(self) -> Delivery {
        match self {
            Self::DirtyRingSoftFull
            | Self::MigrateTimer
            | Self::StealUpdate
            | Self::NestedStatePages
            | Self::LoadRoot
            | Self::TlbFlushCurrent
            | Self::ReportTprAccess
            | Self::IoapicEoiExit
            | Self::AsyncPageHalt => Delivery::Local,
            Self::MasterClockUpdate
            | Self::ClockUpdate
            | Self::TripleFault
            | Self::Nmi
            | Self::Smi
            | Self::Pmu
            | Self::Pmi
            | Self::LoadEoiExitmap
            | Self::MsrFilterChanged
            | Self::AsyncPageReady
            | Self::EventPending
            | Self::Unblock => Delivery::Kick,
            Self::VmDead
            | Self::DropObsoleteRoots
            | Self::TlbFlush
            | Self::TlbFlushGuest
            | Self::ScanIoapic
            | Self::ApicPageReload
            | Self::ApicChanged
            | Self::DirtyLoggingChanged => Delivery::WaitUntilOut,
        }
    }

    /// Returns what the sender does once the bit is set, for a vCPU in `mode`.
    pub const fn action(self, mode: Mode) -> Action {
        match (self.delivery(), mode) {
            (Delivery::Local, _) | (_, Mode::Outside) => Action::None,
            (Delivery::Kick, Mode::Blocked) => Action::Wake,
            (Delivery::Kick, Mode::InGuest) => Action::Interrupt,
            (Delivery::Kick, Mode::Exiting) => Action::None,
            (Delivery::WaitUntilOut, Mode::Blocked) => Action::None,
            (Delivery::WaitUntilOut, Mode::InGuest | Mode::Exiting) => Action::InterruptAndWait,
        }
    }

    /// Returns the requests that need not be carried out when this one is.
    pub const fn absorbs(self) -> Requests {
        #[allow(
            clippy::wildcard_enum_match_arm,
            reason = "most absorb none, new ones too"
        )]
        match self {
            Self::VmDead => Requests::ALL.without(self),
            Self::TlbFlush => Requests(Self::TlbFlushGuest.bit() | Self::TlbFlushCurrent.bit()),
            Self::TlbFlushCurrent => Requests(Self::TlbFlushGuest.bit()),
            Self::MasterClockUpdate => Requests(Self::ClockUpdate.bit()),
            Self::ScanIoapic => Requests(Self::LoadEoiExitmap.bit()),
            _ => Requests::EMPTY,
        }
    }
}

/// A set of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct Requests(u64);

impl Requests {
    /// None.
    pub const EMPTY: Self = Self(0);
    /// All that there are.
    const ALL: Self = Self((Request::Unblock.bit() << 1).wrapping_sub(1));

    /// Takes the set out of a word. Bits that mean nothing are dropped.
    #[inline]
    pub const fn from_word(word: u64) -> Self {
        Self(word & Self::ALL.0)
    }

    /// Returns the word.
    #[inline]
    pub const fn into_word(self) -> u64 {
        self.0
    }

    /// Returns whether there is none.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns whether `request` is among them.
    #[inline]
    pub const fn contains(self, request: Request) -> bool {
        self.0 & request.bit() != 0
    }

    /// Returns the set with `request`.
    #[inline]
    pub const fn with(self, request: Request) -> Self {
        Self(self.0 | request.bit())
    }

    /// Returns the set without `request`.
    #[inline]
    pub const fn without(self, request: Request) -> Self {
        Self(self.0 & !request.bit())
    }

    /// Returns the set without the requests that others in it absorb.
    pub fn settled(self) -> Self {
        let absorbed = self.fold(0, |absorbed, request| absorbed | request.absorbs().0);
        Self(self.0 & !absorbed)
    }
}

/// Takes the requests out one after the other, in order. One that the caller adds to the set
/// meanwhile has its turn as well.
impl Iterator for Requests {
    type Item = Request;

    #[inline]
    fn next(&mut self) -> Option<Request> {
        let request = *Request::ALL.get(self.0.trailing_zeros() as usize)?;
        *self = self.without(request);
        Some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_the_bit_of_its_place() {
        for (place, request) in Request::ALL.into_iter().enumerate() {
            assert_eq!(request.bit(), 1 << place);
            assert_eq!(Requests::EMPTY.with(request).next(), Some(request));
        }
        assert_eq!(Requests::from_word(u64::MAX).count(), Request::ALL.len());
    }

    #[test]
    fn requests_are_taken_in_order_and_once() {
        let mut set = Requests::EMPTY
            .with(Request::EventPending)
            .with(Request::VmDead)
            .with(Request::Nmi)
            .with(Request::Nmi);
        assert!(set.contains(Request::Nmi) && !set.contains(Request::Smi));
        let taken: Vec<_> = set.by_ref().collect();
        assert_eq!(
            taken,
            [Request::VmDead, Request::Nmi, Request::EventPending]
        );
        assert!(set.is_empty());
    }

    #[test]
    fn a_request_added_by_another_has_its_turn() {
        let mut set = Requests::EMPTY.with(Request::Nmi);
        assert_eq!(set.next(), Some(Request::Nmi));
        set = set.with(Request::EventPending);
        assert_eq!(set.next(), Some(Request::EventPending));
    }

    #[test]
    fn unknown_bits_are_dropped() {
        assert!(Requests::from_word(1 << 63).is_empty());
        let word = Request::Smi.bit() | Request::Unblock.bit();
        assert_eq!(Requests::from_word(word | 1 << 40).into_word(), word);
    }

    #[test]
    fn greater_requests_absorb_lesser() {
        let settled = |requests: &[Request]| -> Vec<Request> {
            let set = requests
                .iter()
                .fold(Requests::EMPTY, |set, &request| set.with(request));
            set.settled().collect()
        };
        use Request::*;
        assert_eq!(
            settled(&[TlbFlushGuest, TlbFlush, TlbFlushCurrent, Nmi]),
            [TlbFlush, Nmi]
        );
        assert_eq!(
            settled(&[TlbFlushGuest, TlbFlushCurrent]),
            [TlbFlushCurrent]
        );
        assert_eq!(settled(&[ScanIoapic, LoadEoiExitmap]), [ScanIoapic]);
        assert_eq!(
            settled(&[ClockUpdate, MasterClockUpdate]),
            [MasterClockUpdate]
        );
        assert_eq!(settled(&Request::ALL), [VmDead]);
        assert_eq!(
            settled(&[TlbFlushGuest, LoadEoiExitmap]),
            [TlbFlushGuest, LoadEoiExitmap]
        );
    }

    #[test]
    fn no_two_requests_absorb_each_other() {
        // They would never be carried out, as one that absorbs itself.
        for one in Request::ALL {
            assert!(!one.absorbs().contains(one));
            for other in Request::ALL {
                assert!(!(one.absorbs().contains(other) && other.absorbs().contains(one)));
            }
        }
    }

    #[test]
    fn what_sets_another_request_comes_before_it() {
        use Request::*;
        for (one, other) in [
            (MasterClockUpdate, ClockUpdate),
            (ScanIoapic, LoadEoiExitmap),
            (Nmi, EventPending),
            (Smi, EventPending),
            (NestedStatePages, LoadRoot),
        ] {
            assert!(one < other, "{one:?} {other:?}");
        }
        assert!(Request::ALL
            .iter()
            .all(|&request| request == VmDead || VmDead < request));
    }

    #[test]
    fn kicks_follow_the_mode() {
        use Mode::*;
        let modes = [Blocked, Outside, InGuest, Exiting];
        let actions = |request: Request| modes.map(|mode| request.action(mode));
        assert_eq!(actions(Request::LoadRoot), [Action::None; 4]);
        assert_eq!(
            actions(Request::Nmi),
            [Action::Wake, Action::None, Action::Interrupt, Action::None]
        );
        let wait = Action::InterruptAndWait;
        assert_eq!(
            actions(Request::TlbFlush),
            [Action::None, Action::None, wait, wait]
        );
    }

    #[test]
    fn what_frees_pages_waits_until_the_guest_is_out() {
        for request in [
            Request::TlbFlush,
            Request::DropObsoleteRoots,
            Request::ApicPageReload,
            Request::VmDead,
        ] {
            assert_eq!(request.delivery(), Delivery::WaitUntilOut);
        }
    }

    /// One vCPU and one sender, each of whose steps is a full barrier.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Model {
        mode: Mode,
        request: bool,
        /// The interrupt is on its way to the vCPU's CPU.
        ipi: bool,
        /// The vCPU's thread is not to run until it is woken.
        sleeps: bool,
        vcpu: u8,
        sender: u8,
        /// What the sender saw.
        seen: Mode,
    }

    /// When the vCPU looks at its requests, beside announcing its mode.
    #[derive(Clone, Copy, PartialEq)]
    enum Look {
        After,
        Before,
    }

    /// The vCPU's next step, on its way into `target`; `None` where it can do nothing.
    fn vcpu_step(m: Model, target: Mode, look: Look) -> Option<Model> {
        let announced = Model {
            mode: target,
            sleeps: target == Mode::Blocked,
            vcpu: m.vcpu + 1,
            ..m
        };
        let looked = Model {
            vcpu: if m.request { 9 } else { m.vcpu + 1 },
            ..m
        };
        match (m.vcpu, look) {
            (0, Look::After) | (1, Look::Before) => Some(announced),
            (1, Look::After) | (0, Look::Before) => Some(looked),
            // In the guest or asleep: until an interrupt, or until it is woken.
            (2, _) if m.ipi || target == Mode::Blocked && !m.sleeps => Some(Model {
                vcpu: 9,
                ipi: false,
                ..m
            }),
            _ => None,
        }
    }

    fn sender_step(m: Model) -> Option<Model> {
        let m = Model {
            sender: m.sender + 1,
            ..m
        };
        match m.sender {
            1 => Some(Model { request: true, ..m }),
            2 => Some(Model { seen: m.mode, ..m }),
            3 => Some(match Request::Nmi.action(m.seen) {
                Action::None => m,
                Action::Wake => Model { sleeps: false, ..m },
                Action::Interrupt | Action::InterruptAndWait => Model {
                    ipi: true,
                    mode: Mode::Exiting,
                    ..m
                },
            }),
            _ => None,
        }
    }

    /// Returns whether some order of the steps ends with the request made and the vCPU unaware.
    fn can_miss(m: Model, target: Mode, look: Look) -> bool {
        let next = [vcpu_step(m, target, look), sender_step(m)];
        if next == [None, None] {
            return m.vcpu != 9;
        }
        next.into_iter()
            .flatten()
            .any(|m| can_miss(m, target, look))
    }

    #[test]
    fn no_order_of_steps_lets_a_vcpu_miss_a_request() {
        let start = Model {
            mode: Mode::Outside,
            request: false,
            ipi: false,
            sleeps: false,
            vcpu: 0,
            sender: 0,
            seen: Mode::Outside,
        };
        for target in [Mode::InGuest, Mode::Blocked] {
            assert!(!can_miss(start, target, Look::After), "{target:?}");
            // It would, if it looked first.
            assert!(can_miss(start, target, Look::Before), "{target:?}");
        }
    }
}
