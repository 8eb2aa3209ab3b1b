//! When the first token of an answer should come. Pure.
//!
//! Unlike what a [`Planner`] plans, this depends on a private prompt's length: it is for whoever sent
//! that prompt and for this edge's own records, and nothing that is sent follows from it.

use std::time::Duration;

use super::Planner;

/// The private part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateWork {
    /// Tokens to be computed: those that are not there already.
    pub token_count: usize,
    /// Layers of the model.
    pub layer_count: u32,
}

impl Planner {
    /// From a request's arrival to its first token: `max(a, k + a / L)`.
    ///
    /// `a` is this edge's time for the private tokens in all `L` layers, one after the other, and `k`
    /// the time from the arrival until the last layer of the cloud prompt is here; 0 if all are. The
    /// last layer of the private tokens needs the last one of the cloud prompt and takes `a / L`; the
    /// layers before it are computed while others come. It is the flow shop's bound if nothing but
    /// the last layer is waited for. Waiting for others' turns, and what computing the first layers
    /// of the cloud prompt here takes from the private tokens, are not in it.
    pub fn until_first_token(&self, work: PrivateWork, until_last_layer: Duration) -> Duration {
        let layer = self.computing(work.token_count);
        let all = layer.saturating_mul(work.layer_count);
        all.max(until_last_layer.saturating_add(layer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefill_speed::PrefillSpeed;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn work(token_count: usize, layer_count: u32) -> PrivateWork {
        PrivateWork {
            token_count,
            layer_count,
        }
    }

    #[test]
    fn the_slower_of_computing_and_waiting_decides() {
        // 3 ms a layer, 12 ms in all.
        let planner = Planner::new(PrefillSpeed::new(10 * MS, 100));
        let until = |waiting| planner.until_first_token(work(30, 4), waiting);
        assert_eq!(until(Duration::ZERO), 12 * MS);
        assert_eq!(until(9 * MS), 12 * MS);
        assert_eq!(until(10 * MS), 13 * MS);
        assert_eq!(until(500 * MS), 503 * MS, "one layer is left to do");
        let nothing = planner.until_first_token(work(0, 4), 500 * MS);
        assert_eq!(nothing, 500 * MS);
        assert_eq!(until(Duration::MAX), Duration::MAX);
    }

    proptest! {
        #[test]
        fn it_is_neither_before_the_work_nor_before_the_last_layer_and_more_never_takes_less(
            (token_us, token_count, layer_count) in (0_u64..10_000, 0_usize..4096, 1_u32..200),
            (waiting_us, more_tokens, more_us) in (0_u64..10_000_000, 0_usize..4096, 0_u64..10_000_000),
        ) {
            let planner = Planner::new(PrefillSpeed::new(Duration::from_micros(token_us), 1));
            let waiting = Duration::from_micros(waiting_us);
            let until = planner.until_first_token(work(token_count, layer_count), waiting);
            prop_assert!(until >= planner.computing(token_count) * layer_count);
            prop_assert!(until >= waiting);
            let longer = work(token_count + more_tokens, layer_count);
            prop_assert!(planner.until_first_token(longer, waiting) >= until);
            let deeper = work(token_count, layer_count + 1);
            prop_assert!(planner.until_first_token(deeper, waiting) >= until);
            let later = waiting + Duration::from_micros(more_us);
            let same = work(token_count, layer_count);
            prop_assert!(planner.until_first_token(same, later) >= until);
        }
    }
}
