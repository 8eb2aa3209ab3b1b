//! Interruption over the context, one plot for each rate, and over the sessions that move together.

use edgeprompt_handover::planning::strategy::Strategy;

use super::plan::Asked;
use super::report::{Report, Row};
use crate::plot::colour::{BLUE, GREEN, GREY, ORANGE, PURPLE, Rgb, SKY, VERMILION};
use crate::plot::line_plot::{Line, LinePlot, Point};
use crate::plot::svg::Marker;

/// File names and files.
pub(super) fn draw(report: &Report) -> Vec<(String, String)> {
    let mut rates: Vec<_> = report.rows.iter().map(|row| row.rate).collect();
    rates.sort_unstable();
    rates.dedup();
    let mut plots = Vec::new();
    for rate in rates {
        let rows: Vec<_> = of(report, |row| row.users == 1 && row.rate == rate);
        plots.extend(
            plot(
                report,
                (
                    format!("Interruption over {rate} Mbit/s"),
                    "private context (tokens)",
                ),
                &rows,
                |row| row.context,
            )
            .map(|file| (format!("handover-execution-{rate}.svg"), file)),
        );
    }
    let rows = of(report, |row| row.users > 1);
    let words = rows.first().map_or_else(String::new, |row| {
        format!(
            "Interruption of the worst of several users, {} tokens each over {} Mbit/s",
            row.context, row.rate
        )
    });
    let users = plot(
        report,
        (words, "sessions that move together"),
        &rows,
        |row| row.users,
    );
    plots.extend(users.map(|file| ("handover-execution-users.svg".to_owned(), file)));
    plots
}

fn of(report: &Report, is: impl Fn(&Row) -> bool) -> Vec<&Row> {
    report.rows.iter().filter(|row| is(row)).collect()
}

/// Nothing if there are no rows.
fn plot(
    report: &Report,
    (title, x): (String, &'static str),
    rows: &[&Row],
    setting: impl Fn(&Row) -> usize,
) -> Option<String> {
    let mut settings: Vec<_> = rows.iter().map(|row| setting(row)).collect();
    settings.sort_unstable();
    settings.dedup();
    let mut modes: Vec<_> = rows.iter().map(|row| row.mode).collect();
    modes.sort_unstable();
    modes.dedup();
    let lines = modes.into_iter().map(|mode| {
        let point = |at: &usize| {
            let row = rows
                .iter()
                .find(|row| row.mode == mode && setting(row) == *at)?;
            Some(Point {
                value: row.gap.median,
                min: row.gap.min,
                max: row.gap.max,
            })
        };
        let (colour, marker) = look(mode);
        Line {
            name: mode.to_string(),
            colour,
            marker,
            points: settings.iter().map(point).collect(),
        }
    });
    let lines: Vec<_> = lines.collect();
    (!lines.is_empty()).then(|| {
        let figure = LinePlot {
            title,
            subtitle: report.origin(),
            x: (x, settings.iter().map(ToString::to_string).collect()),
            y: "longest gap between tokens (ms); median, bars: all rounds",
            lines,
        };
        figure.draw()
    })
}

const fn look(mode: Asked) -> (Rgb, Marker) {
    match mode {
        Asked::Only(Strategy::Token) => (VERMILION, Marker::Square),
        Asked::Only(Strategy::Cache) => (ORANGE, Marker::Diamond),
        Asked::Only(Strategy::JointPublished) => (GREY, Marker::Triangle),
        Asked::Only(Strategy::Joint) => (BLUE, Marker::Triangle),
        Asked::Only(Strategy::Stream) => (SKY, Marker::Wedge),
        Asked::Only(Strategy::PreCopy) => (GREEN, Marker::Disc),
        Asked::Auto => (PURPLE, Marker::Disc),
    }
}
