//! Moves of sessions beside measured handovers of the radio: what a user hears of both.

use anyhow::Result;
use edgeprompt_handover::planning::link_rate::LinkRate;
use edgeprompt_handover::planning::paper;
use edgeprompt_handover::planning::scenario::{Scenario, User};
use edgeprompt_handover::planning::strategy::Strategy;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use super::base_stations::{BaseStations, Changes};
use super::setting::{Draws, Setting};
use super::traces::Trace;
use crate::distribution::Distribution;

/// One kind of change over one backhaul.
#[derive(Serialize)]
pub(super) struct BesideRadio {
    pub(super) change: &'static str,
    pub(super) measured_count: usize,
    pub(super) backhaul: String,
    /// Median of what the network has to prepare.
    pub(super) prepares_s: f64,
    /// Of the radio alone: the worst user's silence, the mean over the draws.
    pub(super) radio_s: f64,
    pub(super) strategies: Vec<OfStrategy>,
}

/// What one strategy makes of it.
#[derive(Serialize)]
pub(super) struct OfStrategy {
    pub(super) strategy: &'static str,
    /// The worst user's silence, the mean over the draws.
    pub(super) silence_s: f64,
    /// Of all users, those whose session was there before the radio.
    pub(super) unnoticed_share: f64,
}

/// A backhaul: the paper's, or the traces in turn.
enum Backhaul<'a> {
    Constant,
    Traces(&'a [Trace]),
}

/// What happened to the users of a draw.
struct Drawn {
    prepares_s: Vec<f64>,
    radio_s: Vec<f64>,
    /// Of each strategy and user.
    delays_s: Vec<Vec<f64>>,
}

/// Every kind of change over the paper's backhaul, and over the traces if there are any. A trace is known
/// by its rate at the beginning, as in nodes.
pub(super) fn run(
    stations: &BaseStations,
    traces: &[Trace],
    draws: &Draws,
) -> Result<Vec<BesideRadio>> {
    let mut backhauls = vec![Backhaul::Constant];
    if !traces.is_empty() {
        backhauls.push(Backhaul::Traces(traces));
    }
    let mut found = Vec::new();
    for changes in &stations.changes {
        for backhaul in &backhauls {
            found.push(beside(changes, backhaul, draws)?);
        }
    }
    Ok(found)
}

fn beside(changes: &Changes, backhaul: &Backhaul<'_>, draws: &Draws) -> Result<BesideRadio> {
    let drawn = (0..draws.count).into_par_iter();
    let drawn = drawn.map(|index| draw(changes, backhaul, (draws, index)));
    let drawn = drawn.collect::<Result<Vec<_>>>()?;
    let worst = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
    let silence_s = |drawn: &Drawn, strategy: usize| {
        let users = drawn.delays_s[strategy].iter().zip(&drawn.radio_s);
        users
            .map(|(delay, radio)| delay.max(*radio))
            .fold(0.0, f64::max)
    };
    let of = |(index, strategy): (usize, &Strategy)| {
        let users = drawn
            .iter()
            .flat_map(|it| it.delays_s[index].iter().zip(&it.radio_s));
        let unnoticed = users.map(|(delay, radio)| if delay <= radio { 1.0 } else { 0.0 });
        OfStrategy {
            strategy: strategy.name(),
            silence_s: Distribution::of(drawn.iter().map(|it| silence_s(it, index))).mean(),
            unnoticed_share: Distribution::of(unnoticed).mean(),
        }
    };
    let prepares = drawn.iter().flat_map(|it| it.prepares_s.iter().copied());
    Ok(BesideRadio {
        change: changes.name,
        measured_count: changes.count(),
        backhaul: match backhaul {
            Backhaul::Constant => "4.5 Gbit/s".to_owned(),
            Backhaul::Traces(traces) => format!("{} traces", traces.len()),
        },
        prepares_s: Distribution::of(prepares).median(),
        radio_s: Distribution::of(drawn.iter().map(|it| worst(&it.radio_s))).mean(),
        strategies: Strategy::ALL.iter().enumerate().map(of).collect(),
    })
}

fn draw(
    changes: &Changes,
    backhaul: &Backhaul<'_>,
    (draws, index): (&Draws, u32),
) -> Result<Drawn> {
    let setting = Setting::default();
    let mut rng = ChaCha8Rng::seed_from_u64(draws.seed);
    // Apart from the streams that users and moments of traces are drawn from.
    rng.set_stream(u64::MAX / 2 - u64::from(index));
    let (real, seen, begins_s) = match backhaul {
        Backhaul::Constant => {
            let link = LinkRate::constant(paper::BACKHAUL_BITS_PER_S)?;
            (link.clone(), link, 0.0)
        }
        Backhaul::Traces(traces) => {
            let trace = &traces[index as usize % traces.len()];
            let begins_s = rng.random_range(0.0..trace.period_s());
            (trace.link(), trace.seen_at(begins_s)?, begins_s)
        }
    };
    let (mut prepares_s, mut radio_s) = (Vec::new(), Vec::new());
    let users = setting.users(draws, index).into_iter().map(|user| {
        let picked = changes.pick(|| rng.random_range(0.0..1.0));
        prepares_s.push(picked.prepares_s);
        radio_s.push(picked.silent_s);
        User {
            leaves_at_s: user.leaves_at_s + begins_s,
            known_at_s: (user.leaves_at_s - picked.prepares_s).max(0.0) + begins_s,
            ..user
        }
    });
    let users: Vec<_> = users.collect();
    let scenario = |link: LinkRate| {
        let costs = setting.costs(Some(link))?;
        anyhow::Ok(Scenario::new(users.clone(), costs, paper::RHYTHM)?)
    };
    let (real, seen) = (scenario(real)?, scenario(seen)?);
    let delays_s = Strategy::ALL.iter().map(|strategy| {
        let planned = strategy.plan(&seen)?;
        let lens: Vec<_> = planned.users.iter().map(|user| user.prefill_len).collect();
        let carried_out = strategy.carry_out(&real, &lens)?;
        anyhow::Ok(carried_out.users.iter().map(|user| user.delay_s).collect())
    });
    Ok(Drawn {
        delays_s: delays_s.collect::<Result<_>>()?,
        prepares_s,
        radio_s,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::base_stations;
    use super::*;

    /// As the file of the SIGCOMM artefact, where a developer has it beside the traces.
    const MEASURED: &str = "../../shared/data/radio/HO-Duration_Combined.csv";

    fn stations(text: &str) -> BaseStations {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handovers.csv");
        let head = "MR,HO,RCH,Tech,Type\n";
        std::fs::write(&path, format!("{head}{text}")).unwrap();
        base_stations::read(&path).unwrap()
    }

    const DRAWS: Draws = Draws {
        seed: 3,
        count: 8,
        optimum_count: 1,
    };

    #[test]
    fn a_silence_is_the_longer_one_of_radio_and_move() {
        let quick = "0.05,0.001,0,LTE,PCell\n0.05,0.001,0,NSA,SCG Rel.\n0.05,0.001,0,NSA,SCG Add.\n0.05,0.001,0,SA,MCG\n";
        let found = run(&stations(quick), &[], &DRAWS).unwrap();
        assert_eq!(found.len(), 3);
        let token = &found[0].strategies[0];
        assert!(
            token.silence_s > 0.1 && token.unnoticed_share == 0.0,
            "{}",
            token.silence_s
        );
        let slow = quick.replace("0.001", "60");
        let found = run(&stations(&slow), &[], &DRAWS).unwrap();
        for of in &found[0].strategies {
            assert_eq!(
                (of.silence_s, of.unnoticed_share),
                (60.0, 1.0),
                "{}",
                of.strategy
            );
        }
        assert_eq!(found[1].radio_s, 120.0);
    }

    #[test]
    fn who_is_told_earlier_copies_ahead_for_longer() {
        let of = |prepares: &str| {
            let rows = ["LTE,PCell", "NSA,SCG Rel.", "NSA,SCG Add.", "SA,MCG"];
            let rows = rows.map(|kind| format!("{prepares},0.01,0.01,{kind}\n"));
            let found = run(&stations(&rows.concat()), &[], &DRAWS).unwrap();
            let strategies = &found[0].strategies;
            (strategies[4].silence_s, strategies[5].silence_s)
        };
        let (late, early) = (of("0"), of("1"));
        assert_eq!(late.0, early.0);
        assert!((late.1 - late.0).abs() < 1e-9, "{late:?}");
        assert!(early.1 < early.0 / 2.0, "{early:?}");
    }

    #[test]
    fn the_measured_file_is_understood() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MEASURED);
        if !path.exists() {
            eprintln!("skipped: {} is not there", path.display());
            return;
        }
        let stations = base_stations::read(&path).unwrap();
        let found = run(&stations, &[], &DRAWS).unwrap();
        for beside in &found {
            assert!(beside.measured_count > 100, "{}", beside.change);
            assert!((0.005..0.5).contains(&beside.radio_s), "{}", beside.radio_s);
        }
    }
}
