//! A limit on computing that does not depend on a clock.

/// Steps that may still be taken, each of some nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort(u64);

impl Effort {
    /// Some milliseconds of one processor, for a leader that generates meanwhile.
    pub const BETWEEN_TOKENS: Self = Self(100_000);
    /// Some seconds of one processor.
    pub const THOROUGH: Self = Self(1_000_000_000);

    /// So many steps.
    pub const fn new(steps: u64) -> Self {
        Self(steps)
    }

    pub(super) fn spend(&mut self, steps: usize) {
        self.0 = self.0.saturating_sub(steps as u64);
    }

    pub(super) const fn affords(&self, steps: usize) -> bool {
        self.0 >= steps as u64
    }

    pub(super) const fn is_spent(&self) -> bool {
        self.0 == 0
    }
}
