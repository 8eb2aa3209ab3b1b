//! Scenarios by chance, from a seed.

use edgeprompt_handover::planning::kv_size::KvTokenBits;
use edgeprompt_handover::planning::link_rate::{LinkRate, RateStep};
use edgeprompt_handover::planning::prefill::{Joining, PrefillCoefficients, PrefillModel};
use edgeprompt_handover::planning::scenario::{Costs, Rhythm, Scenario, User};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What may be drawn.
#[derive(Clone, Copy)]
pub(crate) struct Ranges {
    pub(crate) user_count_max: usize,
    pub(crate) context_len_max: u32,
    /// Users leave within so many seconds.
    pub(crate) leaving_s: f64,
    /// Seconds before it leaves that a user's leaving is known at most.
    pub(crate) known_before_s: f64,
}

/// Draws, and says from which seed.
pub(crate) struct Draw {
    rng: ChaCha8Rng,
}

impl Draw {
    pub(crate) fn seeded(seed: u64) -> Self {
        println!("seed {seed}");
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Self { rng }
    }

    pub(crate) fn between(&mut self, low: f64, high: f64) -> f64 {
        self.rng.random_range(low..=high)
    }

    pub(crate) fn count(&mut self, low: u32, high: u32) -> u32 {
        self.rng.random_range(low..=high)
    }

    /// One rate, or a handful that repeat, some of them 0.
    pub(crate) fn link(&mut self, bits_per_s: f64) -> LinkRate {
        if self.count(0, 1) == 0 {
            return LinkRate::constant(bits_per_s * self.between(0.5, 2.0)).unwrap();
        }
        let step_count = self.count(2, 6);
        let mut steps: Vec<_> = (0..step_count)
            .map(|_| RateStep {
                bits_per_s: bits_per_s * f64::from(self.count(0, 4)) / 2.0,
                lasts_s: self.between(0.05, 1.0),
            })
            .collect();
        steps[0].bits_per_s = bits_per_s;
        LinkRate::repeating(&steps).unwrap()
    }

    pub(crate) fn prefill(&mut self, token_s: f64) -> PrefillModel {
        let mut maybe = |most: f64| match self.count(0, 2) {
            0 => 0.0,
            _ => self.between(0.1, 1.0) * most,
        };
        PrefillModel::new(PrefillCoefficients {
            fixed_s: maybe(2.0 * token_s),
            per_position_s: maybe(2.0 * token_s),
            per_token_s: maybe(token_s),
            per_pair_s: maybe(token_s / 100.0),
        })
        .unwrap()
    }

    pub(crate) fn users(&mut self, ranges: Ranges) -> Vec<User> {
        let most = u32::try_from(ranges.user_count_max).unwrap();
        let count = self.count(1, most);
        let user = |_| {
            let leaves_at_s = self.between(0.0, ranges.leaving_s);
            User {
                leaves_at_s,
                known_at_s: (leaves_at_s - self.between(0.0, ranges.known_before_s)).max(0.0),
                context_len: self.count(0, ranges.context_len_max),
                past_len: self.count(0, 1) * ranges.context_len_max,
                decode_tokens_per_s: f64::from(self.count(0, 3))
                    * f64::from(ranges.context_len_max)
                    / 20.0,
            }
        };
        (0..count).map(user).collect()
    }

    /// A link and a target about as fast as each other: 1 token in 10 ms, of 1,000 bits.
    pub(crate) fn scenario(&mut self, ranges: Ranges, joining: Joining) -> Scenario {
        let costs = Costs {
            kv: KvTokenBits::of_measured_bytes(125.0).unwrap(),
            prefill: self.prefill(0.01).with_joining(joining),
            link: self.link(100_000.0),
        };
        let rhythm = Rhythm {
            cycle_s: f64::from(self.count(0, 1)) * 0.01,
            block_len: self.count(1, 4),
        };
        Scenario::new(self.users(ranges), costs, rhythm).unwrap()
    }
}
