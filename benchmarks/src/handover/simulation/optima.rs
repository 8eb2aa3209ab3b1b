//! How far the best strategy is from the best that anything could do. Both count in units of many tokens,
//! so that every split can be tried.

use anyhow::Result;
use edgeprompt_handover::planning::optimum::{Foresight, OPTIMUM_USERS_MAX, optimum};
use edgeprompt_handover::planning::strategy::{Strategy, best, plans};
use rayon::prelude::*;
use serde::Serialize;

use super::setting::{Draws, Setting};
use crate::distribution::Distribution;

/// Units of the longest context: with 4 users 17⁴ splits.
const UNITS: u32 = 16;
/// A delay below this is none, and a share of it nothing.
const NONE_S: f64 = 1e-5;

/// Of the best strategy over the optimum.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Ratios {
    pub(super) count: usize,
    pub(super) mean: f64,
    pub(super) max: f64,
}

impl Ratios {
    /// Of delays: the strategy's, and the optimum's.
    pub(super) fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let pairs = pairs.into_iter().filter(|(_, optimum)| *optimum > NONE_S);
        let ratios: Vec<f64> = pairs.map(|(best, optimum)| best / optimum).collect();
        let spread = Distribution::of(ratios.iter().copied());
        Self {
            count: ratios.len(),
            mean: spread.mean(),
            max: spread.percentile(100.0),
        }
    }
}

/// At one backhaul and one time at which users are known to leave.
#[derive(Serialize)]
pub(super) struct Foreseen {
    pub(super) setting: Setting,
    pub(super) over_optimum: Ratios,
    pub(super) best_mean_s: f64,
    pub(super) optimum_mean_s: f64,
}

/// Of the first draws, in units.
pub(super) struct Searched {
    /// The optimum's delay.
    pub(super) optimum_s: Vec<f64>,
    /// That of the best strategy that has the same foresight.
    pub(super) best_s: Vec<f64>,
    /// That of `stream`.
    pub(super) stream_s: Vec<f64>,
}

impl Searched {
    pub(super) fn ratios(&self) -> Ratios {
        let best = self.best_s.iter().copied();
        Ratios::of(best.zip(self.optimum_s.iter().copied()))
    }

    /// Mean of the optimum over that of `stream`.
    pub(super) fn over_stream(&self) -> f64 {
        mean(&self.optimum_s) / mean(&self.stream_s)
    }
}

/// Where little can be copied ahead, and where much.
const BACKHAULS_GBIT_S: [f64; 4] = [0.5, 1.0, 2.0, 4.5];
/// Seconds before they leave that users' leaving is known.
const KNOWN_BEFORE_S: [f64; 3] = [0.05, 0.1, 0.3];

/// Where the leaving of three users is known before.
pub(super) fn foreseen(draws: &Draws) -> Result<Vec<Foreseen>> {
    let mut foreseen = Vec::new();
    for known_before_s in KNOWN_BEFORE_S {
        for backhaul_gbit_s in BACKHAULS_GBIT_S {
            let setting = Setting {
                backhaul_gbit_s,
                known_before_s,
                user_count: 3,
                ..Setting::default()
            };
            let searched = search(&setting, draws, Foresight::FromWhenKnown)?;
            foreseen.push(Foreseen {
                setting,
                over_optimum: searched.ratios(),
                best_mean_s: mean(&searched.best_s),
                optimum_mean_s: mean(&searched.optimum_s),
            });
        }
    }
    Ok(foreseen)
}

/// The optimum of the first draws; nothing for more users than it is found for.
pub(super) fn of(setting: &Setting, draws: &Draws) -> Result<Option<Searched>> {
    if usize::try_from(setting.user_count)? > OPTIMUM_USERS_MAX {
        return Ok(None);
    }
    search(setting, draws, Foresight::None).map(Some)
}

fn search(setting: &Setting, draws: &Draws, foresight: Foresight) -> Result<Searched> {
    let strategies = Strategy::ALL.into_iter();
    let strategies: Vec<_> = strategies
        .filter(|it| foresight == Foresight::FromWhenKnown || *it != Strategy::PreCopy)
        .collect();
    let unit = setting.context_len_max.div_ceil(UNITS);
    let found = (0..draws.optimum_count).into_par_iter().map(|draw| {
        let scenario = setting.in_units(draws, draw, unit)?;
        let optimum_s = optimum(&scenario, foresight)?.worst_delay_s;
        let stream_s = Strategy::Stream.plan(&scenario)?.worst_delay_s;
        let best = best(plans(&scenario, &strategies)?);
        let best_s = best.map_or(f64::INFINITY, |plan| plan.worst_delay_s);
        Ok((optimum_s, best_s, stream_s))
    });
    let found = found.collect::<Result<Vec<(f64, f64, f64)>>>()?;
    Ok(Searched {
        optimum_s: found.iter().map(|it| it.0).collect(),
        best_s: found.iter().map(|it| it.1).collect(),
        stream_s: found.iter().map(|it| it.2).collect(),
    })
}

fn mean(values: &[f64]) -> f64 {
    Distribution::of(values.iter().copied()).mean()
}
