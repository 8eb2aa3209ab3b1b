//! Time per token and memory of the fullest device over the tokens, for every contender.

use super::contender::Contender;
use super::outcome::{Interval, Trial};
use crate::plot::colour::{BLUE, GREEN, ORANGE, PURPLE, Rgb, SKY, VERMILION};
use crate::plot::line_plot::{Line, LinePlot, Point};
use crate::plot::svg::Marker;
use crate::statistics::Spread;

/// Points of a line: more cannot be told apart.
const POINTS_MAX: usize = 9;

/// Names of plots, and the plots.
pub(crate) fn draw(subtitle: &str, trials: &[Trial]) -> Vec<(String, String)> {
    let mut counts: Vec<_> = trials.iter().map(|it| it.device_count).collect();
    counts.sort_unstable();
    counts.dedup();
    let mut plots = Vec::new();
    for count in counts {
        let of: Vec<_> = trials
            .iter()
            .filter(|it| it.device_count == count)
            .collect();
        let time = plot(
            &of,
            ("ms/token, without migrations", |it| it.step_seconds * 1e3),
        );
        let memory = plot(
            &of,
            ("GB on the fullest device", |it| {
                it.memory_bytes_max as f64 / 1e9
            }),
        );
        for (name, what, plot) in [
            ("latency", "Time per token", time),
            ("memory", "Memory", memory),
        ] {
            let title = format!("{what} on {count} devices over the tokens generated");
            let subtitle = subtitle.to_owned();
            let svg = LinePlot {
                title,
                subtitle,
                ..plot
            }
            .draw();
            plots.push((format!("{name}-{count}"), svg));
        }
    }
    plots
}

fn plot(trials: &[&Trial], (y, value): (&'static str, fn(&Interval) -> f64)) -> LinePlot {
    let mut tokens: Vec<_> = trials
        .iter()
        .flat_map(|it| &it.intervals)
        .map(|it| it.done)
        .collect();
    tokens.sort_unstable();
    tokens.dedup();
    let every = tokens.len().div_ceil(POINTS_MAX).max(1);
    let tokens: Vec<_> = tokens.into_iter().step_by(every).collect();
    let line = |contender: Contender| {
        let point = |done: &usize| {
            let intervals = trials.iter().filter(|it| it.contender == contender);
            let at = intervals
                .flat_map(|it| &it.intervals)
                .filter(|it| it.done == *done);
            let spread = Spread::of_some(at.map(|it| Some(value(it))))?;
            // Spreads of eight lines would hide the lines.
            let value = spread.median;
            Some(Point {
                value,
                min: value,
                max: value,
            })
        };
        let (colour, marker) = look(contender);
        Line {
            name: contender.name().to_owned(),
            colour,
            marker,
            points: tokens.iter().map(point).collect(),
        }
    };
    LinePlot {
        title: String::new(),
        subtitle: String::new(),
        x: (
            "tokens generated",
            tokens.iter().map(ToString::to_string).collect(),
        ),
        y,
        lines: Contender::ALL.map(line).into(),
    }
}

const fn look(contender: Contender) -> (Rgb, Marker) {
    match contender {
        Contender::Ours => (GREEN, Marker::Disc),
        Contender::Paper => (BLUE, Marker::Triangle),
        Contender::Greedy => (ORANGE, Marker::Diamond),
        Contender::RoundRobin => (PURPLE, Marker::Wedge),
        Contender::Static => (ORANGE, Marker::Square),
        Contender::Edgeshard => (VERMILION, Marker::Square),
        Contender::Galaxy => (SKY, Marker::Diamond),
        Contender::OneDevice => (VERMILION, Marker::Wedge),
    }
}
