//! What is measured. Pure.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, ensure};
use edgeprompt_handover::planning::strategy::Strategy;
use edgeprompt_launch::ModelArgs;
use edgeprompt_model::{ModelConfig, ModelShape};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Serialize, Serializer};

use super::ExecutionArgs;
use crate::pipeline::plan::model_or_default;

/// Tokens that every user has heard before the move.
pub(super) const TOKENS_BEFORE: usize = 8;
/// Tokens that every user hears after it.
pub(super) const TOKENS_AFTER: usize = 4;
/// Tokens of an answer at most: a source that copies ahead decodes meanwhile.
const ANSWER_LEN_MAX: usize = 1024;
/// With fewer, a session may end before it has moved.
const ANSWER_LEN_MIN: usize = 256;

/// How sessions are asked to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    /// By this strategy.
    Only(Strategy),
    /// By what the edge thinks best.
    Auto,
}

impl Asked {
    /// What is measured unless told otherwise.
    pub(super) const ALL: [Self; 6] = [
        Self::Only(Strategy::Token),
        Self::Only(Strategy::Cache),
        Self::Only(Strategy::Joint),
        Self::Only(Strategy::Stream),
        Self::Only(Strategy::PreCopy),
        Self::Auto,
    ];

    /// As the edge is told; nothing if it may choose.
    pub(super) const fn strategy(self) -> Option<Strategy> {
        match self {
            Self::Only(strategy) => Some(strategy),
            Self::Auto => None,
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.strategy().map_or("auto", Strategy::name))
    }
}

impl FromStr for Asked {
    type Err = <Strategy as FromStr>::Err;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self::Auto),
            name => name.parse().map(Self::Only),
        }
    }
}

impl Serialize for Asked {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Sessions that move together over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    /// Tokens of each private prompt.
    pub(super) context: usize,
    /// Of the link, in Mbit/s.
    pub(super) rate: u64,
    /// Sessions.
    pub(super) users: usize,
}

impl Point {
    pub(super) fn in_words(self) -> String {
        let Self {
            context,
            rate,
            users,
        } = self;
        format!("{users} × {context} tokens over {rate} Mbit/s")
    }
}

/// A whole run.
pub(super) struct Plan {
    pub(super) points: Vec<Point>,
    pub(super) asked: Vec<Asked>,
    pub(super) round_count: u32,
    pub(super) rtt: Duration,
    pub(super) seed: u64,
    pub(super) threads: std::num::NonZeroU32,
    pub(super) step_len: u32,
    pub(super) model: ModelArgs,
    /// Of the model.
    config: ModelConfig,
}

impl Plan {
    pub(super) fn of(args: &ExecutionArgs) -> Result<Self> {
        let model = model_or_default(&args.model);
        ensure!(
            model.model.is_none(),
            "sessions are moved of a model of random weights: give --model-shape"
        );
        let config = model.model_shape.unwrap_or(ModelShape::M110).config();
        let mut points = Vec::new();
        for context in &args.contexts {
            points.extend(args.rates.iter().map(|rate| Point {
                context: *context,
                rate: *rate,
                users: 1,
            }));
        }
        points.extend(args.users.iter().map(|users| Point {
            context: args.users_context,
            rate: args.users_rate,
            users: users.get(),
        }));
        let plan = Self {
            points,
            asked: args.strategies.clone(),
            round_count: args.rounds.get(),
            rtt: Duration::from_millis(args.rtt_ms),
            seed: args.seed,
            threads: args.threads,
            step_len: args.max_num_batched_tokens.get(),
            model,
            config,
        };
        for point in &plan.points {
            ensure!(point.context > 0, "a private prompt has at least one token");
            ensure!(point.rate > 0, "a rate of nothing brings nothing");
            ensure!(
                plan.answer_len(point.context) >= ANSWER_LEN_MIN,
                "{} tokens and {ANSWER_LEN_MIN} of an answer do not fit the model's context of {}: \
                 give shorter --contexts",
                point.context,
                plan.config.context_len_max
            );
        }
        Ok(plan)
    }

    /// Every strategy, another one first in each round.
    pub(super) fn order(&self, round: u32) -> Vec<Asked> {
        let mut order = self.asked.clone();
        let count = order.len().max(1);
        order.rotate_left(round as usize % count);
        order
    }

    /// Most tokens of an answer.
    pub(super) fn answer_len(&self, context: usize) -> usize {
        let room = self.config.context_len_max.saturating_sub(context);
        room.min(ANSWER_LEN_MAX)
    }

    /// A user's private prompt.
    pub(super) fn prompt(&self, user: usize, context: usize) -> Vec<u32> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream((user as u64) << 32 | context as u64);
        let vocab = u32::try_from(self.config.vocab_size).unwrap_or(u32::MAX);
        (0..context).map(|_| rng.random_range(0..vocab)).collect()
    }

    /// Memory for the keys and values of all that an edge may hold at a time, in MiB: twice what a
    /// point needs, as prompts stay for the next time.
    pub(super) fn kv_mib(&self) -> usize {
        let tokens = self
            .points
            .iter()
            .map(|point| point.users * (point.context + self.answer_len(point.context)));
        let config = &self.config;
        let token_bytes = 8 * config.layer_count * config.kv_head_count * config.head_dim;
        (2 * tokens.max().unwrap_or_default() * token_bytes).div_ceil(1 << 20) + 64
    }

    /// The rates of all links.
    pub(super) fn rates(&self) -> Vec<u64> {
        let mut rates: Vec<_> = self.points.iter().map(|point| point.rate).collect();
        rates.sort_unstable();
        rates.dedup();
        rates
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ExecutionArgs,
    }

    fn plan(line: &str) -> Result<Plan> {
        let words = std::iter::once("execute").chain(line.split_whitespace());
        Plan::of(&Line::try_parse_from(words)?.args)
    }

    #[test]
    fn every_strategy_has_its_turn_to_be_first() {
        let plan = plan("--contexts 16 --rates 50 --users 2").unwrap();
        assert_eq!(plan.points.len(), 2);
        let first: Vec<_> = (0..6).map(|round| plan.order(round)[0]).collect();
        assert_eq!(first, Asked::ALL);
        assert_eq!("auto".parse(), Ok(Asked::Auto));
        assert_eq!(plan.prompt(1, 16), plan.prompt(1, 16));
        assert_ne!(plan.prompt(1, 16), plan.prompt(2, 16));
    }

    #[test]
    fn what_does_not_fit_the_model_is_refused() {
        assert_eq!(plan("--contexts 3840").unwrap().answer_len(3840), 256);
        for line in ["--contexts 3841", "--contexts 0", "--rates 0", "--users 0"] {
            assert!(plan(line).is_err(), "{line}");
        }
    }
}
