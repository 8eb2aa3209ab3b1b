//! The figures of the EdgePrompt paper (arXiv 2504.11729): throughput over the cloud prompt's length
//! (Fig. 3), requests a second (Fig. 4) and seconds a token (Fig. 5) over the rate of requests.

use super::messages::Mode;
use super::outcome::{Fill, GroupOutcome, Series};
use super::plan::Plan;
use crate::plot::colour::{BLUE, GREEN, ORANGE, PURPLE, Rgb, VERMILION};
use crate::plot::line_plot::{Line, LinePlot, Point};
use crate::plot::svg::Marker;
use crate::statistics::Spread;

/// File names and files.
pub(super) fn draw(plan: &Plan, subtitle: &str, series: &[Series]) -> Vec<(&'static str, String)> {
    if plan.request_rates.is_empty() {
        let settings = plan.cloud_lens.iter().map(ToString::to_string).collect();
        let figure = LinePlot {
            title: "Throughput over the cloud prompt's length (EdgePrompt, Fig. 3)".to_owned(),
            subtitle: subtitle.to_owned(),
            x: ("cloud prompt (tokens)", settings),
            y: "output throughput (tokens/s); bars: smallest to largest group",
            lines: lines(plan, |mode, index| {
                let of_len =
                    |it: &&Series| it.mode == mode && it.cloud_len == plan.cloud_lens[index];
                series.iter().find(of_len).map(throughput)
            }),
        };
        return vec![("sharegpt-fig3.svg", figure.draw())];
    }
    let settings: Vec<_> = plan.request_rates.iter().map(ToString::to_string).collect();
    let of_rate = |mode: Mode, index: usize| {
        let rate = Some(plan.request_rates[index]);
        series
            .iter()
            .find(move |it| it.mode == mode && it.request_rate == rate)
    };
    let figure = |title: &str, y, point: &dyn Fn(&Series) -> Point| LinePlot {
        title: title.to_owned(),
        subtitle: subtitle.to_owned(),
        x: ("requests that come (1/s)", settings.clone()),
        y,
        lines: lines(plan, |mode, index| of_rate(mode, index).map(point)),
    };
    let requests = figure(
        "Requests answered over requests that come (EdgePrompt, Fig. 4)",
        "requests answered (1/s); bars: smallest to largest round",
        &|series| {
            let rounds = 0..series.groups.len();
            let rounds = rounds.map(|round| series.round(round).request_throughput());
            let Spread { min, max, .. } = Spread::of(rounds);
            let value = series.request_throughput();
            Point { value, min, max }
        },
    );
    let per_token = figure(
        "Time per token over requests that come (EdgePrompt, Fig. 5)",
        "mean normalised latency (s/token); bars: 10th to 90th percentile",
        &|series| {
            let times = series.seconds_per_token();
            Point {
                value: times.mean(),
                min: times.percentile(10.0),
                max: times.percentile(90.0),
            }
        },
    );
    let first = figure(
        "Time to the first token over requests that come",
        "TTFT (ms); mean, bars: median to 99th percentile",
        &|series| {
            let times = series.ttft_ms();
            Point {
                value: times.mean(),
                min: times.median(),
                max: times.percentile(99.0),
            }
        },
    );
    vec![
        ("sharegpt-fig4.svg", requests.draw()),
        ("sharegpt-fig5.svg", per_token.draw()),
        ("sharegpt-ttft.svg", first.draw()),
    ]
}

fn lines(plan: &Plan, point: impl Fn(Mode, usize) -> Option<Point>) -> Vec<Line> {
    let settings = match plan.request_rates.len() {
        0 => plan.cloud_lens.len(),
        count => count,
    };
    let line = |mode: &Mode| {
        let (colour, marker) = look(*mode);
        Line {
            name: mode.to_string(),
            colour,
            marker,
            points: (0..settings).map(|index| point(*mode, index)).collect(),
        }
    };
    plan.modes.iter().map(line).collect()
}

fn throughput(series: &Series) -> Point {
    let groups = series.groups.iter().map(GroupOutcome::output_throughput);
    let Spread { min, max, .. } = Spread::of(groups);
    let value = series.output_throughput(Fill::LeftOut);
    Point { value, min, max }
}

const fn look(mode: Mode) -> (Rgb, Marker) {
    match mode {
        Mode::Paged => (VERMILION, Marker::Square),
        Mode::PagedPc => (ORANGE, Marker::Diamond),
        Mode::Relay => (BLUE, Marker::Triangle),
        Mode::Edgeprompt => (GREEN, Marker::Disc),
        Mode::Concat => (PURPLE, Marker::Wedge),
    }
}
