// SPDX-License-Identifier: GPL-2.0

//! A high-resolution timer that fires once.
//!
//! Invariant: none beyond those of the kernel crate's `HrTimer`; this file is here because declaring
//! one needs an `unsafe impl`, which the kernel's macro writes.

use kernel::{
    impl_has_hr_timer,
    prelude::*,
    sync::{
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
    /// Called in hard-interrupt context.
    fn expired(&self);
}

/// A timer, and whom it tells.
#[pin_data]
pub struct Timer {
    #[pin]
    timer: HrTimer<Self>,
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
            pin_init!(Self { timer <- HrTimer::new(), target }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Sets the timer to fire in `delay_ns` nanoseconds. What it was set to before must have been
    /// dropped.
    pub fn arm(self: Arc<Self>, delay_ns: u64) -> Armed {
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
        _context: HrTimerCallbackContext<'_, Self>,
    ) -> HrTimerRestart {
        this.target.expired();
        HrTimerRestart::NoRestart
    }
}

impl_has_hr_timer! {
    impl HasHrTimer<Self> for Timer {
        mode: RelativeMode<Monotonic>, field: self.timer
    }
}
