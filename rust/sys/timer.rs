// SPDX-License-Identifier: GPL-2.0

//! A high-resolution timer that fires once, or again and again: then on time, as the next expiry is counted
//! from the last one and not from when that was told.
//!
//! Invariant: none beyond those of the kernel crate's `HrTimer`; this file is here because declaring
//! one needs an `unsafe impl`, which the kernel's macro writes.

use kernel::{
    impl_has_hr_timer,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        ArcBorrow, //
    },
    time::{
        hrtimer::{
            ArcHrTimerHandle,
            HrTimer,
            HrTimerCallback,
            HrTimerCallbackContext,
            HrTimerPointer,
            HrTimerRestart,
            RelativeMode, //
        },
        Delta,
        Monotonic, //
    },
};

/// What happens when a timer fires.
pub trait OnExpiry: Send + Sync {
    /// It was due so many `times`, at least once. Called in hard-interrupt context.
    fn expired(&self, times: u64);
}

/// A timer, and whom it tells.
#[pin_data]
pub struct Timer {
    #[pin]
    timer: HrTimer<Self>,
    /// In nanoseconds; 0 to fire once.
    period_ns: Atomic<u64>,
    target: Arc<dyn OnExpiry>,
}

/// A timer that is set; dropping it stops the timer, and waits for an expiry that is being told.
pub struct Armed {
    _handle: ArcHrTimerHandle<Timer>,
}

impl Timer {
    /// Makes a timer that is not set.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub fn new(target: Arc<dyn OnExpiry>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self { timer <- HrTimer::new(), period_ns: Atomic::new(0), target }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Sets the timer to fire in `delay_ns` nanoseconds. What it was set to before must have been
    /// dropped.
    pub fn arm(self: Arc<Self>, delay_ns: u64) -> Armed {
        self.arm_periodic(delay_ns, None)
    }

    /// Sets the timer to fire in `delay_ns` nanoseconds, and from then on each `period_ns`, if that is not
    /// `None`. What it was set to before must have been dropped.
    pub fn arm_periodic(self: Arc<Self>, delay_ns: u64, period_ns: Option<u64>) -> Armed {
        self.period_ns.store(period_ns.unwrap_or(0), Relaxed);
        let delay = i64::try_from(delay_ns).unwrap_or(i64::MAX);
        Armed {
            _handle: self.start(Delta::from_nanos(delay)),
        }
    }
}

impl HrTimerCallback for Timer {
    type Pointer<'a> = Arc<Self>;

    fn run(
        this: ArcBorrow<'_, Self>,
        mut context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        let period = i64::try_from(this.period_ns.load(Relaxed)).unwrap_or(0);
        if period == 0 {
            this.target.expired(1);
            return HrTimerRestart::NoRestart;
        }
        let times = context.forward_now(Delta::from_nanos(period));
        this.target.expired(times.max(1));
        HrTimerRestart::Restart
    }
}

impl_has_hr_timer! {
    impl HasHrTimer<Self> for Timer {
        mode: RelativeMode<Monotonic>, field: self.timer
    }
}
