//! The paper's Fig. 4: how long 1,024 tokens take over the radio from the moment of a handover, after
//! each kind of handover and without one.
//!
//! Base stations stand D_bs apart. A user at a distance d from the one that serves it gets
//! W·log2(1 + γ)/s_tok tokens a second, γ = γ_ref·(d_ref/d)^η, while it goes on towards the target.

use anyhow::Result;
use edgeprompt_handover::planning::paper::SPEED_M_PER_S;
use edgeprompt_handover::planning::strategy::Strategy;
use rayon::prelude::*;
use serde::Serialize;

use super::setting::{Draws, Setting};
use crate::distribution::Distribution;

/// γ_ref: 10 dB.
const SNR_AT_REFERENCE: f64 = 10.0;
/// d_ref.
const REFERENCE_M: f64 = 20.0;
/// η.
const PATH_LOSS_EXPONENT: f64 = 3.5;
/// W.
const BANDWIDTH_HZ: f64 = 2e6;
/// s_tok.
const BITS_PER_TOKEN: f64 = 12.0;
/// G.
const TOKENS: f64 = 1024.0;
/// Nobody comes nearer to an antenna.
const NEAREST_M: f64 = 1.0;
/// Rates are taken to be constant for so long.
const STEP_S: f64 = 0.005;

/// At one distance between the base stations: the worst user's time, the mean over the draws.
#[derive(Serialize)]
pub(super) struct Streaming {
    pub(super) distance_m: u32,
    pub(super) without_handover_s: f64,
    /// By each strategy, in the order of all.
    pub(super) after_s: Vec<(&'static str, f64)>,
}

impl Streaming {
    pub(super) fn after_s(&self, strategy: Strategy) -> f64 {
        let of_it = self.after_s.iter().find(|it| it.0 == strategy.name());
        of_it.map_or(f64::NAN, |it| it.1)
    }
}

/// At distances from 300 to 500 m. Users begin as far from the boundary as in the paper's 300 m.
pub(super) fn run(draws: &Draws) -> Result<Vec<Streaming>> {
    let setting = Setting::default();
    let plans = (0..draws.count).into_par_iter().map(|draw| {
        let scenario = setting.scenario(draws, draw)?;
        let delays = Strategy::ALL.map(|strategy| {
            let users = strategy.plan(&scenario)?.users;
            Ok(users.iter().map(|user| user.delay_s).collect())
        });
        delays.into_iter().collect::<Result<Vec<Vec<f64>>>>()
    });
    let plans = plans.collect::<Result<Vec<_>>>()?;
    let at = |distance_m: u32| {
        let boundary_m = f64::from(distance_m) / 2.0;
        let after_s = Strategy::ALL.iter().enumerate().map(|(index, strategy)| {
            let worst = plans.par_iter().map(|delays| {
                let users = delays[index].iter();
                let users = users.map(|delay_s| {
                    let begins_m = boundary_m - SPEED_M_PER_S * delay_s;
                    delay_s + streaming_s(begins_m, -SPEED_M_PER_S)
                });
                users.fold(0.0, f64::max)
            });
            let worst: Vec<f64> = worst.collect();
            (strategy.name(), Distribution::of(worst).mean())
        });
        Streaming {
            distance_m,
            without_handover_s: streaming_s(boundary_m, SPEED_M_PER_S),
            after_s: after_s.collect(),
        }
    };
    Ok((300..=500).step_by(25).map(at).collect())
}

/// How long all tokens take to a user at a distance that changes.
fn streaming_s(begins_m: f64, speed_m_per_s: f64) -> f64 {
    let (mut tokens, mut now_s) = (0.0, 0.0);
    loop {
        // Past the antenna it goes away again.
        let at_m = begins_m + speed_m_per_s * (now_s + STEP_S / 2.0);
        let rate = tokens_per_s(at_m.abs());
        let more = rate * STEP_S;
        if tokens + more >= TOKENS {
            return now_s + (TOKENS - tokens) / rate;
        }
        tokens += more;
        now_s += STEP_S;
    }
}

fn tokens_per_s(distance_m: f64) -> f64 {
    let nearer = REFERENCE_M / distance_m.max(NEAREST_M);
    let snr = SNR_AT_REFERENCE * nearer.powf(PATH_LOSS_EXPONENT);
    BANDWIDTH_HZ * (1.0 + snr).log2() / BITS_PER_TOKEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_the_papers() {
        // 10 dB at 20 m: 2 MHz · log2(11) / 12.
        assert!((tokens_per_s(20.0) - 576_572.0).abs() < 1.0);
        // Of 1,024 tokens at a standstill.
        let rate = tokens_per_s(150.0);
        assert!((streaming_s(150.0, 0.0) - TOKENS / rate).abs() < 1e-9);
        assert!(streaming_s(250.0, SPEED_M_PER_S) > streaming_s(250.0, -SPEED_M_PER_S));
    }
}
