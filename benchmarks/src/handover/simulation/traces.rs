//! Measured links: the rates of a trace instead of a constant one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use edgeprompt_handover::planning::link_rate::{LinkRate, RateStep};
use edgeprompt_handover::planning::paper;
use edgeprompt_handover::planning::scenario::{Scenario, User};
use edgeprompt_handover::planning::strategy::Strategy;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::setting::{Draws, Setting};
use crate::distribution::Distribution;
use crate::link_profile;

/// A rate below is taken for this when it is all that a planner has seen: 1 Mbit/s.
const SEEN_BITS_PER_S_MIN: f64 = 1e6;

/// A trace as a link.
pub(super) struct Trace {
    name: String,
    steps: Vec<RateStep>,
    link: LinkRate,
}

/// What came out.
#[derive(Serialize)]
pub(super) struct OnTrace {
    pub(super) trace: String,
    pub(super) mean_mbit_s: f64,
    pub(super) strategies: Vec<OfStrategy>,
}

/// The worst user's delay, the mean over the draws.
#[derive(Serialize)]
pub(super) struct OfStrategy {
    pub(super) strategy: &'static str,
    /// By a planner that knows the trace.
    pub(super) known_s: f64,
    /// By one that has seen the rate of the moment before anything begins and keeps to its split.
    pub(super) seen_s: f64,
}

/// The traces of files.
pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Trace>> {
    paths.iter().map(|path| Trace::read(path)).collect()
}

impl Trace {
    fn read(path: &Path) -> Result<Self> {
        #[expect(clippy::cast_precision_loss, reason = "a rate of links")]
        let step = |step: edgeprompt_testkit::emulator::RateStep| RateStep {
            bits_per_s: step.rate.bits() as f64,
            lasts_s: step.lasts.as_secs_f64(),
        };
        let steps: Vec<_> = link_profile::trace(path)?.into_iter().map(step).collect();
        let link = LinkRate::repeating(&steps);
        let link = link.with_context(|| format!("the trace {}", path.display()))?;
        let name = path.file_name().unwrap_or(path.as_os_str());
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            steps,
            link,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The paper's users, at moments of the trace by chance.
    pub(super) fn run(&self, draws: &Draws) -> Result<OnTrace> {
        let drawn = (0..draws.count).into_par_iter();
        let drawn = drawn.map(|draw| self.draw(draws, draw));
        let drawn = drawn.collect::<Result<Vec<_>>>()?;
        let of = |index: usize| {
            let mean = |side: fn(&(f64, f64)) -> f64| {
                Distribution::of(drawn.iter().map(|it| side(&it[index]))).mean()
            };
            OfStrategy {
                strategy: Strategy::ALL[index].name(),
                known_s: mean(|it| it.0),
                seen_s: mean(|it| it.1),
            }
        };
        Ok(OnTrace {
            trace: self.name.clone(),
            mean_mbit_s: self.link.mean_bits_per_s() / 1e6,
            strategies: (0..Strategy::ALL.len()).map(of).collect(),
        })
    }

    /// Of each strategy, knowing the trace and having seen one rate of it.
    fn draw(&self, draws: &Draws, draw: u32) -> Result<Vec<(f64, f64)>> {
        let setting = Setting::default();
        let mut rng = ChaCha8Rng::seed_from_u64(draws.seed);
        // Apart from the streams that users are drawn from.
        rng.set_stream(u64::MAX - u64::from(draw));
        let begins_s = rng.random_range(0.0..self.period_s());
        let users = setting.users(draws, draw).into_iter();
        let users: Vec<_> = users
            .map(|user| User {
                leaves_at_s: user.leaves_at_s + begins_s,
                known_at_s: user.known_at_s + begins_s,
                ..user
            })
            .collect();
        let scenario = |link: LinkRate| {
            let costs = setting.costs(Some(link))?;
            anyhow::Ok(Scenario::new(users.clone(), costs, paper::RHYTHM)?)
        };
        let known = scenario(self.link.clone())?;
        let seen = scenario(self.seen_at(begins_s)?)?;
        let delays = Strategy::ALL.iter().map(|strategy| {
            let planned = strategy.plan(&seen)?;
            let lens: Vec<_> = planned.users.iter().map(|user| user.prefill_len).collect();
            let carried_out = strategy.carry_out(&known, &lens)?;
            Ok((
                strategy.plan(&known)?.worst_delay_s,
                carried_out.worst_delay_s,
            ))
        });
        delays.collect()
    }

    pub(super) fn link(&self) -> LinkRate {
        self.link.clone()
    }

    pub(super) fn period_s(&self) -> f64 {
        self.steps.iter().map(|step| step.lasts_s).sum()
    }

    /// The link of somebody who has seen its rate at a moment, and nothing else.
    pub(super) fn seen_at(&self, within_s: f64) -> Result<LinkRate> {
        let seen = self.rate_at(within_s).max(SEEN_BITS_PER_S_MIN);
        Ok(LinkRate::constant(seen)?)
    }

    fn rate_at(&self, mut within_s: f64) -> f64 {
        for step in &self.steps {
            if within_s < step.lasts_s {
                return step.bits_per_s;
            }
            within_s -= step.lasts_s;
        }
        self.steps.last().map_or(0.0, |step| step.bits_per_s)
    }
}
