//! One thing varied, everything else as in the paper: the delay of the worst user.

use anyhow::Result;
use edgeprompt_handover::planning::strategy::Strategy;
use rayon::prelude::*;
use serde::Serialize;

use super::optima::{self, Ratios};
use super::setting::{Draws, Prefills, Setting};
use crate::distribution::Distribution;

/// What is varied.
pub(super) struct Sweep {
    name: &'static str,
    title: &'static str,
    x: &'static str,
    settings: Vec<(String, Setting)>,
}

/// What came out.
#[derive(Serialize)]
pub(super) struct Swept {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) x: &'static str,
    pub(super) points: Vec<Point>,
}

/// At one setting.
#[derive(Serialize)]
pub(super) struct Point {
    pub(super) x: String,
    pub(super) setting: Setting,
    pub(super) delays: Vec<Delay>,
    /// The published plan against the corrected one.
    pub(super) correction: Correction,
    /// Of the best without foresight against the optimum without it; of few users only.
    pub(super) over_optimum: Option<Ratios>,
    /// Mean of the optimum, estimated: that of `stream` over all draws, times the optimum over `stream`
    /// in those for which it was searched.
    pub(super) optimum_mean_s: Option<f64>,
}

/// Of one strategy, the worst user's delay over the draws.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Delay {
    pub(super) strategy: &'static str,
    pub(super) mean_s: f64,
    /// Of the mean.
    pub(super) standard_error_s: f64,
    pub(super) p95_s: f64,
    pub(super) max_s: f64,
}

/// What correcting the formulas changes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Correction {
    /// Share of draws in which the corrected plan is better.
    pub(super) better_share: f64,
    /// Share of draws in which it is worse.
    pub(super) worse_share: f64,
    /// Share of draws in which the published plan takes longer than its formulas say.
    pub(super) broken_promise_share: f64,
    /// Mean of published/corrected − 1.
    pub(super) gain_mean: f64,
    /// The largest.
    pub(super) gain_max: f64,
}

/// Of one draw: the worst user's delay by each strategy, and what the published formulas say.
pub(super) struct Drawn {
    delays_s: [f64; Strategy::ALL.len()],
    published_s: f64,
}

/// Less than a nanosecond is no difference.
const SAME_S: f64 = 1e-9;

impl Drawn {
    pub(super) fn of(&self, strategy: Strategy) -> f64 {
        self.delays_s[strategy as usize]
    }
}

impl Sweep {
    /// The paper's Fig. 3, and the same with prefills that grow with all tokens.
    pub(super) fn all() -> Vec<Self> {
        let mut all: Vec<_> = Self::of_the_target().into();
        for prefills in [Prefills::LongestContext, Prefills::AllTokens] {
            all.extend(Self::of_the_link(prefills));
        }
        all
    }

    fn of_the_target() -> [Self; 2] {
        let by_prefill = |prefill_factor: f64| Setting {
            prefill_factor,
            ..Setting::default()
        };
        let by_context = |context_len_max: u32| Setting {
            context_len_max,
            ..Setting::default()
        };
        [
            Self {
                name: "prefill",
                title: "Worst delay over the prefill's a (ctHO, Fig. 3)",
                x: "times the paper's a",
                settings: settings(&[0.5, 1.0, 2.0, 4.0, 6.0, 8.0], by_prefill),
            },
            Self {
                name: "context",
                title: "Worst delay over the longest context (ctHO, Fig. 3)",
                x: "C_max (tokens)",
                settings: settings(&[2048, 3072, 4096, 5120, 6144, 8192], by_context),
            },
        ]
    }

    fn of_the_link(prefills: Prefills) -> [Self; 2] {
        let by_backhaul = |backhaul_gbit_s: f64| Setting {
            backhaul_gbit_s,
            prefills,
            ..Setting::default()
        };
        let by_users = |user_count: u32| Setting {
            user_count,
            prefills,
            ..Setting::default()
        };
        let backhauls = settings(&[2.0, 3.0, 4.0, 4.5, 5.0, 6.0, 8.0, 10.0], by_backhaul);
        let users = settings(&[1, 2, 4, 6, 8, 10, 12], by_users);
        let [(name, title), (users_name, users_title)] = match prefills {
            Prefills::LongestContext => [
                ("backhaul", "Worst delay over the backhaul (ctHO, Fig. 3)"),
                (
                    "users",
                    "Worst delay over the number of users (ctHO, Fig. 3)",
                ),
            ],
            Prefills::AllTokens => [
                (
                    "backhaul-all-tokens",
                    "Worst delay over the backhaul, prefills share the target",
                ),
                (
                    "users-all-tokens",
                    "Worst delay over the users, prefills share the target",
                ),
            ],
        };
        [
            Self {
                name,
                title,
                x: "backhaul (Gbit/s)",
                settings: backhauls,
            },
            Self {
                name: users_name,
                title: users_title,
                x: "users",
                settings: users,
            },
        ]
    }

    pub(super) const fn title(&self) -> &'static str {
        self.title
    }

    /// Computes every point.
    pub(super) fn run(self, draws: &Draws) -> Result<Swept> {
        let points = self.settings.into_iter();
        let points = points.map(|(x, setting)| Point::of(x, setting, draws));
        Ok(Swept {
            name: self.name,
            title: self.title,
            x: self.x,
            points: points.collect::<Result<_>>()?,
        })
    }
}

impl Point {
    fn of(x: String, setting: Setting, draws: &Draws) -> Result<Self> {
        let drawn = draw(&setting, draws)?;
        let delays = Strategy::ALL
            .map(|strategy| delay(strategy, &drawn))
            .to_vec();
        let searched = optima::of(&setting, draws)?;
        let stream = drawn.iter().map(|it| it.of(Strategy::Stream));
        let stream_s = Distribution::of(stream).mean();
        let optimum_mean_s = searched.as_ref().map(|it| it.over_stream() * stream_s);
        let over_optimum = searched.map(|it| it.ratios());
        Ok(Self {
            x,
            setting,
            delays,
            correction: correction(&drawn),
            over_optimum,
            optimum_mean_s,
        })
    }

    /// Mean delay by a strategy.
    pub(super) fn mean_s(&self, strategy: Strategy) -> f64 {
        let of_it = self.delays.iter().find(|it| it.strategy == strategy.name());
        of_it.map_or(f64::NAN, |it| it.mean_s)
    }
}

/// Every draw of a setting, by every strategy.
pub(super) fn draw(setting: &Setting, draws: &Draws) -> Result<Vec<Drawn>> {
    let drawn = (0..draws.count).into_par_iter().map(|draw| {
        let scenario = setting.scenario(draws, draw)?;
        let mut drawn = Drawn {
            delays_s: [0.0; Strategy::ALL.len()],
            published_s: 0.0,
        };
        for strategy in Strategy::ALL {
            let plan = strategy.plan(&scenario)?;
            drawn.delays_s[strategy as usize] = plan.worst_delay_s;
            if strategy == Strategy::JointPublished {
                drawn.published_s = plan.believed_worst_delay_s;
            }
        }
        Ok(drawn)
    });
    drawn.collect()
}

fn settings<T: Copy + ToString>(values: &[T], of: impl Fn(T) -> Setting) -> Vec<(String, Setting)> {
    let values = values.iter();
    values
        .map(|value| (value.to_string(), of(*value)))
        .collect()
}

fn delay(strategy: Strategy, drawn: &[Drawn]) -> Delay {
    let of_it = Distribution::of(drawn.iter().map(|it| it.of(strategy)));
    #[expect(clippy::cast_precision_loss, reason = "a count of draws")]
    let count = drawn.len() as f64;
    Delay {
        strategy: strategy.name(),
        mean_s: of_it.mean(),
        standard_error_s: of_it.population_std() / count.sqrt(),
        p95_s: of_it.percentile(95.0),
        max_s: of_it.percentile(100.0),
    }
}

fn correction(drawn: &[Drawn]) -> Correction {
    let published = |it: &Drawn| it.of(Strategy::JointPublished);
    let corrected = |it: &Drawn| it.of(Strategy::Joint);
    let share = |is: &dyn Fn(&Drawn) -> bool| {
        Distribution::of(drawn.iter().map(|it| f64::from(u8::from(is(it))))).mean()
    };
    let gains = Distribution::of(drawn.iter().map(|it| published(it) / corrected(it) - 1.0));
    Correction {
        better_share: share(&|it| corrected(it) < published(it) - SAME_S),
        worse_share: share(&|it| corrected(it) > published(it) + SAME_S),
        broken_promise_share: share(&|it| published(it) > it.published_s + SAME_S),
        gain_mean: gains.mean(),
        gain_max: gains.percentile(100.0),
    }
}
