//! The tables, for a terminal and for a document.

use edgeprompt_handover::planning::strategy::Strategy;

use super::beside_radio::BesideRadio;
use super::optima::Foreseen;
use super::planner_cost::PlannerCost;
use super::radio::Streaming;
use super::setting::Prefills;
use super::sweep::Swept;
use super::traces::OnTrace;

/// Where a table is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Terminal,
    Markdown,
}

/// Mean delay of the worst user in ms.
pub(super) fn of_sweep(swept: &Swept, style: Style) -> String {
    let mut head = vec![swept.x.to_owned()];
    head.extend(Strategy::ALL.map(|strategy| strategy.name().to_owned()));
    head.extend(["optimum", "best/optimum", "cache/joint", "token/joint"].map(str::to_owned));
    let rows = swept.points.iter().map(|point| {
        let mut row = vec![point.x.clone()];
        row.extend(Strategy::ALL.map(|strategy| ms(point.mean_s(strategy))));
        row.push(point.optimum_mean_s.map_or_else(absent, ms));
        row.push(
            point
                .over_optimum
                .map_or_else(absent, |it| format!("{:.3}", it.mean)),
        );
        for end in [Strategy::Cache, Strategy::Token] {
            row.push(format!(
                "{:.2}",
                point.mean_s(end) / point.mean_s(Strategy::Joint)
            ));
        }
        row
    });
    let title = format!("{}, ms", swept.title);
    table(&title, &head, rows.collect(), style)
}

pub(super) fn of_foreseen(foreseen: &[Foreseen], style: Style) -> String {
    let head = [
        "known before (s)",
        "backhaul (Gbit/s)",
        "best",
        "optimum",
        "best/optimum",
        "at most",
    ];
    let rows = foreseen.iter().map(|it| {
        vec![
            it.setting.known_before_s.to_string(),
            it.setting.backhaul_gbit_s.to_string(),
            ms(it.best_mean_s),
            ms(it.optimum_mean_s),
            format!("{:.3}", it.over_optimum.mean),
            format!("{:.3}", it.over_optimum.max),
        ]
    });
    let title = "Three users whose leaving is known before, in units of C_max/16 tokens, ms";
    table(title, &head.map(str::to_owned), rows.collect(), style)
}

pub(super) fn of_streaming(streaming: &[Streaming], style: Style) -> String {
    let mut head = vec!["D_bs (m)".to_owned(), "no handover".to_owned()];
    head.extend(Strategy::ALL.map(|strategy| strategy.name().to_owned()));
    let rows = streaming.iter().map(|it| {
        let mut row = vec![it.distance_m.to_string(), ms(it.without_handover_s)];
        row.extend(it.after_s.iter().map(|(_, seconds)| ms(*seconds)));
        row
    });
    let title = "1,024 tokens from the moment of the handover (ctHO, Fig. 4), ms";
    table(title, &head, rows.collect(), style)
}

pub(super) fn of_traces(traces: &[OnTrace], style: Style) -> String {
    let mut head = vec!["trace".to_owned(), "Mbit/s".to_owned()];
    head.extend(Strategy::ALL.map(|strategy| strategy.name().to_owned()));
    let rows = traces.iter().map(|it| {
        let mut row = vec![it.trace.clone(), format!("{:.0}", it.mean_mbit_s)];
        let strategies = it.strategies.iter();
        row.extend(strategies.map(|of| format!("{} ({})", ms(of.known_s), ms(of.seen_s))));
        row
    });
    let title = "Measured links, ms: the trace known (only the rate at the beginning known)";
    table(title, &head, rows.collect(), style)
}

pub(super) fn of_beside_radio(found: &[BesideRadio], style: Style) -> String {
    let head = [
        "radio",
        "measured",
        "backhaul",
        "known before",
        "radio alone",
    ];
    let mut head: Vec<_> = head.map(str::to_owned).into();
    head.extend(Strategy::ALL.map(|strategy| strategy.name().to_owned()));
    let rows = found.iter().map(|it| {
        let mut row = vec![
            it.change.to_owned(),
            it.measured_count.to_string(),
            it.backhaul.clone(),
            ms(it.prepares_s),
            ms(it.radio_s),
        ];
        let strategies = it.strategies.iter();
        row.extend(
            strategies
                .map(|of| format!("{} ({:.0} %)", ms(of.silence_s), 100.0 * of.unnoticed_share)),
        );
        row
    });
    let title = "Beside measured handovers of the radio: the worst user's silence, ms \
        (users who do not notice the move)";
    table(title, &head, rows.collect(), style)
}

pub(super) fn of_planner(planner: &[PlannerCost], style: Style) -> String {
    let head = ["users", "prefills", "ms", "min", "max", "chosen"].map(str::to_owned);
    let rows = planner.iter().map(|cost| {
        let prefills = match cost.prefills {
            Prefills::LongestContext => "longest context",
            Prefills::AllTokens => "all tokens",
        };
        let took = cost.took_ms;
        let [median, min, max] = [took.median, took.min, took.max].map(|it| format!("{it:.3}"));
        let users = cost.user_count.to_string();
        vec![
            users,
            prefills.to_owned(),
            median,
            min,
            max,
            cost.chosen.to_owned(),
        ]
    });
    table(
        "The planner: all strategies and the choice",
        &head,
        rows.collect(),
        style,
    )
}

fn ms(seconds: f64) -> String {
    match seconds * 1e3 {
        small if small < 10.0 => format!("{small:.2}"),
        large => format!("{large:.0}"),
    }
}

fn absent() -> String {
    "-".to_owned()
}

fn table(title: &str, head: &[String], rows: Vec<Vec<String>>, style: Style) -> String {
    let widths: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells
                .chain([head[column].chars().count()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths);
        let cells = cells.map(|(cell, width)| format!("{cell:>width$}"));
        let cells: Vec<_> = cells.collect();
        match style {
            Style::Terminal => format!("{}\n", cells.join("  ")),
            Style::Markdown => format!("| {} |\n", cells.join(" | ")),
        }
    };
    let mut text = format!("\n{title}\n\n{}", line(head));
    if style == Style::Markdown {
        let rule = vec!["--:".to_owned(); head.len()];
        text.push_str(&line(&rule));
    }
    for row in rows {
        text.push_str(&line(&row));
    }
    text
}
