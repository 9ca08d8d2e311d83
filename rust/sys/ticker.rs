// SPDX-License-Identifier: GPL-2.0

//! A high-resolution timer that fires again and again, on time: the next expiry is counted from the
//! last one and not from when that was told.
//!
//! Invariant: none beyond those of the kernel crate's `HrTimer`, as in [`timer`](crate::timer).

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

/// What happens when a ticker fires.
pub trait OnTick: Send + Sync {
    /// `ticks`, at least 1, are due. Called in hard-interrupt context.
    fn ticked(&self, ticks: u64);
}

/// A ticker, and whom it tells.
#[pin_data]
pub struct Ticker {
    #[pin]
    timer: HrTimer<Self>,
    /// In nanoseconds; 0 to fire once.
    period_ns: Atomic<u64>,
    target: Arc<dyn OnTick>,
}

/// A ticker that is set; dropping it stops it, and waits for a tick that is being told.
pub struct Ticking {
    _handle: ArcHrTimerHandle<Ticker>,
}

impl Ticker {
    /// Makes a ticker that is not set.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there is no memory.
    pub fn new(target: Arc<dyn OnTick>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self { timer <- HrTimer::new(), period_ns: Atomic::new(0), target }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Sets the ticker to fire in `delay_ns` nanoseconds, and from then on each `period_ns`, if that
    /// is not `None`. What it was set to before must have been dropped.
    pub fn start_in(self: Arc<Self>, delay_ns: u64, period_ns: Option<u64>) -> Ticking {
        self.period_ns.store(period_ns.unwrap_or(0), Relaxed);
        let delay = i64::try_from(delay_ns).unwrap_or(i64::MAX);
        Ticking {
            _handle: self.start(Delta::from_nanos(delay)),
        }
    }
}

impl HrTimerCallback for Ticker {
    type Pointer<'a> = Arc<Self>;

    fn run(
        this: ArcBorrow<'_, Self>,
        mut context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        let period = i64::try_from(this.period_ns.load(Relaxed)).unwrap_or(0);
        if period == 0 {
            this.target.ticked(1);
            return HrTimerRestart::NoRestart;
        }
        let ticks = context.forward_now(Delta::from_nanos(period));
        this.target.ticked(ticks.max(1));
        HrTimerRestart::Restart
    }
}

impl_has_hr_timer! {
    impl HasHrTimer<Self> for Ticker {
        mode: RelativeMode<Monotonic>, field: self.timer
    }
}
