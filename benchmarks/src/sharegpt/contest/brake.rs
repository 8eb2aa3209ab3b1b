//! An edge that is slower than its cloud, on a machine where both have processors alike.

use std::time::Instant;

use edge_node::crew::debt::Debt;
use edgeprompt_engine::PassEvent;

/// After each piece of work, the edge rests as long as makes it its share of the time: a layer then takes
/// as long as on a processor that is so much slower. What it waits for takes no share.
pub(super) struct Brake {
    debt: Debt,
    since: Instant,
}

impl Brake {
    /// For an edge that computes so many of a hundred.
    pub(super) fn of(percent: u8) -> Self {
        Self {
            debt: Debt::of(percent),
            since: Instant::now(),
        }
    }

    /// Work begins.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// A piece of it is done.
    pub(super) fn worked(&mut self) {
        self.debt.pay(self.since.elapsed());
        self.begin();
    }

    /// Something happens in a step.
    pub(super) fn heard(&mut self, event: PassEvent) {
        match event {
            // Nothing is waited for within a step.
            PassEvent::Resumed | PassEvent::Computed(_) | PassEvent::Missing(_) => self.worked(),
        }
    }
}
