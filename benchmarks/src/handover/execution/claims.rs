//! What must come out, and whether it does. Pure.

use edgeprompt_handover::planning::strategy::Strategy;
use serde::Serialize;

use super::plan::{Asked, Point};
use super::report::Row;

/// Times that `joint` may take, of what was predicted.
const JOINT_OVER_PREDICTION_MAX: f64 = 1.15;
/// Times that copying ahead may interrupt, of `joint`.
const PRECOPY_OVER_JOINT_MAX: f64 = 1.0 / 3.0;
/// Where that must be.
const PRECOPY_POINT: Point = Point {
    context: 2048,
    rate: 200,
    users: 1,
};
/// Times that what the edge chooses may take, of the best.
const AUTO_OVER_BEST_MAX: f64 = 1.1;

/// One thing that must come out.
#[derive(Serialize)]
pub(super) struct Claim {
    pub(super) claim: &'static str,
    pub(super) found: String,
    /// It depends on the machine and what else that does.
    pub(super) holds: bool,
}

/// Every claim that these rows say something of.
pub(super) fn of(rows: &[Row]) -> Vec<Claim> {
    let claims = [joint(rows), precopy(rows), auto(rows)];
    claims.into_iter().flatten().collect()
}

fn joint(rows: &[Row]) -> Option<Claim> {
    let ratios = rows
        .iter()
        .filter(|row| row.mode == Asked::Only(Strategy::Joint));
    let ratios = ratios.map(|row| (row.point(), row.gap.median / row.predicted.median));
    claim(
        "joint: the worst user's delay is at most 1.15 times its prediction",
        ratios,
        JOINT_OVER_PREDICTION_MAX,
    )
}

fn precopy(rows: &[Row]) -> Option<Claim> {
    let at = |strategy| {
        let found = rows
            .iter()
            .find(|row| row.point() == PRECOPY_POINT && row.mode == Asked::Only(strategy));
        found.map(|row| row.gap.median)
    };
    let ratio = at(Strategy::PreCopy)? / at(Strategy::Joint)?;
    claim(
        "precopy interrupts for at most a third of joint",
        std::iter::once((PRECOPY_POINT, ratio)),
        PRECOPY_OVER_JOINT_MAX,
    )
}

fn auto(rows: &[Row]) -> Option<Claim> {
    let chosen = rows.iter().filter(|row| row.mode == Asked::Auto);
    let ratios = chosen.filter_map(|row| {
        let others = rows
            .iter()
            .filter(|other| other.point() == row.point() && other.mode != Asked::Auto);
        let best = others.map(|other| other.gap.median).reduce(f64::min)?;
        Some((row.point(), row.gap.median / best))
    });
    claim(
        "what the edge chooses interrupts for at most 1.1 times the best",
        ratios,
        AUTO_OVER_BEST_MAX,
    )
}

fn claim(
    claim: &'static str,
    ratios: impl Iterator<Item = (Point, f64)>,
    most: f64,
) -> Option<Claim> {
    let ratios: Vec<_> = ratios.collect();
    let (point, worst) = ratios.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let held = ratios.iter().filter(|(_, ratio)| *ratio <= most).count();
    Some(Claim {
        claim,
        found: format!(
            "at {held} of {} points; at most {worst:.2} times, with {}",
            ratios.len(),
            point.in_words()
        ),
        holds: *worst <= most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Spread;

    fn row(mode: Asked, gap: f64, predicted: f64) -> Row {
        let Point {
            context,
            rate,
            users,
        } = PRECOPY_POINT;
        Row {
            mode,
            context,
            rate,
            users,
            gap: Spread::of([gap]),
            predicted: Spread::of([predicted]),
            ..Row::default()
        }
    }

    #[test]
    fn every_claim_is_held_against_the_medians() {
        let only = Asked::Only;
        let mut rows = vec![
            row(only(Strategy::Joint), 110.0, 100.0),
            row(only(Strategy::PreCopy), 30.0, 30.0),
            row(Asked::Auto, 32.0, 30.0),
        ];
        let holds = |rows: &[Row]| of(rows).iter().map(|it| it.holds).collect::<Vec<_>>();
        assert_eq!(holds(&rows), [true, true, true]);
        rows[2] = row(Asked::Auto, 34.0, 30.0);
        assert_eq!(holds(&rows), [true, true, false]);
        rows[0] = row(only(Strategy::Joint), 60.0, 50.0);
        assert_eq!(holds(&rows), [false, false, false]);
        assert!(of(&rows[2..]).is_empty());
    }
}
