//! The paper's figures, with lines that it does not have.

use edgeprompt_handover::planning::strategy::Strategy;

use super::planner_cost::PlannerCost;
use super::report::Report;
use super::setting::{Draws, Prefills};
use super::sweep::Swept;
use crate::plot::colour::{BLUE, GREEN, GREY, ORANGE, PURPLE, Rgb, SKY, VERMILION};
use crate::plot::line_plot::{Line, LinePlot, Point};
use crate::plot::svg::Marker;

/// File names and files.
pub(super) fn draw(report: &Report) -> Vec<(String, String)> {
    let mut plots: Vec<_> = report
        .sweeps
        .iter()
        .map(|it| of_sweep(it, &report.draws))
        .collect();
    plots.push(of_streaming(report));
    plots.push(of_planner(&report.planner));
    if !report.beside_radio.is_empty() {
        plots.push(of_beside_radio(report));
    }
    plots
        .into_iter()
        .map(|(name, plot)| (name, plot.draw()))
        .collect()
}

const fn look(strategy: Strategy) -> (&'static str, Rgb, Marker) {
    match strategy {
        Strategy::Token => ("tHO", ORANGE, Marker::Square),
        Strategy::Cache => ("cHO", BLUE, Marker::Disc),
        Strategy::JointPublished => ("ctHO, published", VERMILION, Marker::Triangle),
        Strategy::Joint => ("ctHO, corrected", PURPLE, Marker::Wedge),
        Strategy::Stream => ("stream", GREEN, Marker::Diamond),
        Strategy::PreCopy => ("precopy, 1 s", SKY, Marker::Disc),
    }
}

fn of_sweep(swept: &Swept, draws: &Draws) -> (String, LinePlot) {
    let mut lines: Vec<_> = Strategy::ALL
        .into_iter()
        .map(|strategy| {
            let points = swept.points.iter();
            line(look(strategy), points.map(|it| Some(it.mean_s(strategy))))
        })
        .collect();
    let optimum = swept.points.iter().map(|it| it.optimum_mean_s);
    lines.push(line(("optimum", GREY, Marker::Square), optimum));
    let plot = LinePlot {
        title: swept.title.to_owned(),
        subtitle: format!(
            "mean of {} draws, seed {}; else 4 users, 4.5 Gbit/s, C_max 5,120",
            draws.count, draws.seed
        ),
        x: (
            swept.x,
            swept.points.iter().map(|point| point.x.clone()).collect(),
        ),
        y: "delay of the worst user (s)",
        lines,
    };
    (format!("handover-simulation-fig3-{}.svg", swept.name), plot)
}

fn of_streaming(report: &Report) -> (String, LinePlot) {
    let streaming = &report.streaming;
    let without = streaming.iter().map(|it| Some(it.without_handover_s));
    let mut lines = vec![line(("no handover", GREY, Marker::Square), without)];
    for (index, strategy) in Strategy::ALL.into_iter().enumerate() {
        let points = streaming.iter().map(|it| Some(it.after_s[index].1));
        lines.push(line(look(strategy), points));
    }
    let plot = LinePlot {
        title: "1,024 tokens from the moment of the handover (ctHO, Fig. 4)".to_owned(),
        subtitle: "worst of 4 users, 4.5 Gbit/s".to_owned(),
        x: (
            "distance of the base stations (m)",
            labels(streaming.iter().map(|it| it.distance_m)),
        ),
        y: "time until they are there (s)",
        lines,
    };
    ("handover-simulation-fig4.svg".to_owned(), plot)
}

fn of_beside_radio(report: &Report) -> (String, LinePlot) {
    let found = &report.beside_radio;
    let radio = found.iter().map(|it| Some(it.radio_s));
    let mut lines = vec![line(("radio alone", GREY, Marker::Square), radio)];
    for (index, strategy) in Strategy::ALL.into_iter().enumerate() {
        // Over traces it takes so long that nothing else could be seen.
        if strategy == Strategy::Cache {
            continue;
        }
        let (name, colour, marker) = look(strategy);
        let name = if strategy == Strategy::PreCopy {
            "precopy"
        } else {
            name
        };
        let points = found.iter().map(|it| Some(it.strategies[index].silence_s));
        lines.push(line((name, colour, marker), points));
    }
    let labels = found
        .iter()
        .map(|it| format!("{}, {}", it.change, it.backhaul));
    let plot = LinePlot {
        title: "Beside measured handovers of the radio".to_owned(),
        subtitle: "worst of 4 users; known as long before as the radio's own is".to_owned(),
        x: ("radio and backhaul", labels.collect()),
        y: "silence (s)",
        lines,
    };
    ("handover-simulation-radio.svg".to_owned(), plot)
}

/// Both on the scale of their logarithm would hide the target; so the numbers up to 1,000 users.
fn of_planner(planner: &[PlannerCost]) -> (String, LinePlot) {
    let of = |prefills| {
        planner
            .iter()
            .filter(move |it| it.prefills == prefills && it.user_count <= 1_000)
    };
    let lines = [
        (
            Prefills::LongestContext,
            ("the paper's prefill", BLUE, Marker::Disc),
        ),
        (
            Prefills::AllTokens,
            ("shared target", ORANGE, Marker::Square),
        ),
    ];
    let lines = lines.map(|(prefills, (name, colour, marker))| Line {
        name: name.to_owned(),
        colour,
        marker,
        points: of(prefills)
            .map(|it| {
                let took = it.took_ms;
                let (value, min, max) = (took.median, took.min, took.max);
                Some(Point { value, min, max })
            })
            .collect(),
    });
    let plot = LinePlot {
        title: "The planner's own cost".to_owned(),
        subtitle: "all strategies and the choice; median, bars: least and most".to_owned(),
        x: (
            "users",
            labels(of(Prefills::LongestContext).map(|it| it.user_count)),
        ),
        y: "ms",
        lines: lines.into(),
    };
    ("handover-simulation-planner.svg".to_owned(), plot)
}

fn labels(numbers: impl Iterator<Item = u32>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

fn line(
    (name, colour, marker): (&str, Rgb, Marker),
    values: impl Iterator<Item = Option<f64>>,
) -> Line {
    let point = |value| Point {
        value,
        min: value,
        max: value,
    };
    Line {
        name: name.to_owned(),
        colour,
        marker,
        points: values.map(|value| value.map(point)).collect(),
    }
}
