//! What is drawn: users by chance, with the paper's costs or others.

use anyhow::Result;
use edgeprompt_handover::planning::kv_size::KvTokenBits;
use edgeprompt_handover::planning::link_rate::LinkRate;
use edgeprompt_handover::planning::paper;
use edgeprompt_handover::planning::prefill::{PrefillCoefficients, PrefillModel};
use edgeprompt_handover::planning::scenario::{Costs, Rhythm, Scenario, User};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// How many scenarios, and which.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Draws {
    pub(super) seed: u64,
    pub(super) count: u32,
    /// How many of them the optimum is searched for.
    pub(super) optimum_count: u32,
}

/// What a prefill grows with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Prefills {
    /// As in the paper: with the longest context alone, however many users.
    LongestContext,
    /// With the tokens of all users: the target is busy with one alone.
    AllTokens,
}

/// One point of a sweep.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Setting {
    pub(super) user_count: u32,
    pub(super) backhaul_gbit_s: f64,
    /// Times the paper's a.
    pub(super) prefill_factor: f64,
    pub(super) context_len_max: u32,
    pub(super) prefills: Prefills,
    /// Seconds before it leaves that a user's leaving is known.
    pub(super) known_before_s: f64,
    pub(super) decode_tokens_per_s: f64,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            user_count: 4,
            backhaul_gbit_s: paper::BACKHAUL_BITS_PER_S / 1e9,
            prefill_factor: 1.0,
            context_len_max: paper::CONTEXT_LEN_MAX,
            prefills: Prefills::LongestContext,
            known_before_s: 1.0,
            decode_tokens_per_s: 30.0,
        }
    }
}

impl Setting {
    /// The costs, on another link than the setting's if one is given.
    pub(super) fn costs(&self, link: Option<LinkRate>) -> Result<Costs> {
        let a = self.prefill_factor * paper::PREFILL.per_position_s;
        let prefill = match self.prefills {
            Prefills::LongestContext => PrefillCoefficients {
                per_position_s: a,
                ..paper::PREFILL
            },
            Prefills::AllTokens => PrefillCoefficients {
                per_position_s: 0.0,
                per_token_s: a,
                ..paper::PREFILL
            },
        };
        let link = match link {
            Some(link) => link,
            None => LinkRate::constant(self.backhaul_gbit_s * 1e9)?,
        };
        Ok(Costs {
            kv: KvTokenBits::of_shape(paper::KV_SHAPE)?,
            prefill: PrefillModel::new(prefill)?,
            link,
        })
    }

    /// The users of a draw. Of the same draw the first ones are the same, however many are asked for.
    pub(super) fn users(&self, draws: &Draws, draw: u32) -> Vec<User> {
        let mut rng = ChaCha8Rng::seed_from_u64(draws.seed);
        rng.set_stream(u64::from(draw));
        let user = |_| {
            let leaves_at_s = paper::leaves_at_s(rng.random_range(paper::START_M));
            let share: f64 = rng.random_range(0.0..1.0);
            let span = f64::from(self.context_len_max - paper::CONTEXT_LEN_MIN + 1);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "below the largest context"
            )]
            let above = (share * span) as u32;
            User {
                leaves_at_s,
                known_at_s: (leaves_at_s - self.known_before_s).max(0.0),
                context_len: paper::CONTEXT_LEN_MIN + above,
                past_len: 0,
                decode_tokens_per_s: self.decode_tokens_per_s,
            }
        };
        (0..self.user_count).map(user).collect()
    }

    /// A draw's scenario.
    pub(super) fn scenario(&self, draws: &Draws, draw: u32) -> Result<Scenario> {
        let users = self.users(draws, draw);
        Ok(Scenario::new(users, self.costs(None)?, paper::RHYTHM)?)
    }

    /// The same in units of so many tokens: contexts are whole numbers of units, and a unit costs what
    /// its tokens do.
    pub(super) fn in_units(&self, draws: &Draws, draw: u32, unit: u32) -> Result<Scenario> {
        let users = self.users(draws, draw).into_iter().map(|user| User {
            context_len: (user.context_len + unit / 2) / unit,
            decode_tokens_per_s: user.decode_tokens_per_s / f64::from(unit),
            ..user
        });
        let costs = self.costs(None)?;
        let tokens = f64::from(unit);
        let prefill = costs.prefill.coefficients();
        let costs = Costs {
            kv: KvTokenBits::of_measured_bytes(costs.kv.bits() * tokens / 8.0)?,
            prefill: PrefillModel::new(PrefillCoefficients {
                fixed_s: prefill.fixed_s,
                per_position_s: prefill.per_position_s * tokens,
                per_token_s: prefill.per_token_s * tokens,
                per_pair_s: prefill.per_pair_s * tokens * tokens,
            })?,
            link: costs.link,
        };
        let rhythm = Rhythm {
            block_len: 1,
            ..paper::RHYTHM
        };
        Ok(Scenario::new(users.collect(), costs, rhythm)?)
    }
}
