//! How many threads of this process were busy over some time: whether a limit on threads holds.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A stretch of time under observation.
pub(crate) struct BusyThreads {
    start: Instant,
    on_processors: Duration,
}

impl BusyThreads {
    /// Starts to observe.
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
            on_processors: on_processors(),
        }
    }

    /// Seconds on processors each second since the start.
    pub(crate) fn so_far(&self) -> f64 {
        let busy = on_processors().saturating_sub(self.on_processors);
        busy.as_secs_f64() / self.start.elapsed().as_secs_f64().max(1e-9)
    }
}

/// What all threads of this process have used so far.
fn on_processors() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}
