//! The table of a sweep: one line a point, for a terminal and for a document.

use edgeprompt_telemetry::flow_shop::Regime;

use super::point::PointResult;
use crate::statistics::Spread;

/// A column: its head, its width on a terminal, and what stands in it.
struct Column {
    head: &'static str,
    width: usize,
    cell: fn(&PointResult) -> String,
}

const COLUMNS: [Column; 22] = [
    column("Mbit/s", 6, |r| r.point.rate_mbit_s.to_string()),
    column("RTT", 4, |r| r.point.rtt_ms.to_string()),
    column("cloud", 5, |r| r.point.cloud_len.to_string()),
    column("codec", 5, |r| r.point.codec.to_string()),
    column("T (min-max)", 16, |r| with_spread(&r.ttft_ms)),
    column("flow shop", 9, |r| whole(r.flow_shop_ms.median)),
    column("T/fs", 5, |r| ratio(r.ttft_over_flow_shop.median)),
    column("T/ideal", 7, |r| {
        ratio(r.ttft_over_flow_shop_at_rate.median)
    }),
    column("paper", 6, |r| whole(r.paper_ms.median)),
    column("t_cc", 6, |r| tenths(r.mean_stages().t_cc_ms)),
    column("t_ct", 6, |r| tenths(r.mean_stages().t_ct_ms)),
    column("t_ec", 6, |r| tenths(r.mean_stages().t_ec_ms)),
    column("regime", 9, |r| regime_name(r.regime).to_owned()),
    column("overlap", 7, |r| {
        optional(r.kv_overlap_ratio.as_ref(), percent)
    }),
    column("KV Mbit/s", 14, goodput),
    column("local", 6, |r| whole(r.local_ttft_ms.median)),
    column("speed-up", 8, |r| ratio(r.speedup_over_local.median)),
    column("planned, here", 15, planned_and_here),
    column("predicted", 9, |r| {
        optional(r.planned_predicted_ms.as_ref(), whole)
    }),
    column("/best", 5, |r| ratio(r.planned_over_best.median)),
    column("regret", 6, |r| percent(r.planner_regret)),
    column("cold link", 9, |r| whole(r.cold_link_ttft_ms)),
];

/// What the heads mean.
pub(crate) const LEGEND: &str = "\
Times in ms, medians over the rounds. T: from asking to the first token, streaming. flow shop: what
the stage times of the same rounds predict; T/fs: T over it; T/ideal: T over the flow shop of a link
that carries every layer at the emulated rate. paper: equation (7). t_cc, t_ct, t_ec: cloud, link and
edge, the mean layer. overlap: share of the transfer that the edge did not wait for. KV Mbit/s: keys
and values, first byte to last, and its share of the rate. local: the whole prompt prefilled on the
edge; speed-up: local over T. planned: T of an edge that asks only for the layers that come sooner
than it computes them, and how many it computed; predicted: what it expected; /best: T planned over
the better of T and local, round by round; regret: what it lost against the better median. cold link: T of the first transfer of a new link, handshake included, once.";

const fn column(head: &'static str, width: usize, cell: fn(&PointResult) -> String) -> Column {
    Column { head, width, cell }
}

/// The head of the table on a terminal.
pub(crate) fn head() -> String {
    line(|column| column.head.to_owned())
}

/// A point's line on a terminal.
pub(crate) fn row(result: &PointResult) -> String {
    line(|column| (column.cell)(result))
}

/// The whole table for a document.
pub(crate) fn markdown(results: &[PointResult]) -> String {
    let cells = |of: &dyn Fn(&Column) -> String| {
        let cells: Vec<_> = COLUMNS.iter().map(of).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let mut table = cells(&|column| column.head.to_owned());
    table.push_str(&cells(&|_| "--:".to_owned()));
    for result in results {
        table.push_str(&cells(&|column| (column.cell)(result)));
    }
    table
}

fn line(cell: impl Fn(&Column) -> String) -> String {
    let cells: Vec<_> = COLUMNS
        .iter()
        .map(|column| format!("{:>width$}", cell(column), width = column.width))
        .collect();
    cells.join("  ")
}

/// Short enough for a column.
pub(crate) const fn regime_name(regime: Regime) -> &'static str {
    match regime {
        Regime::CloudBound => "cloud",
        Regime::TransmissionBound => "link (P1)",
        Regime::EdgeBoundLinkSecond => "edge (P2)",
        Regime::EdgeBoundCloudSecond => "edge (P3)",
    }
}

fn goodput(result: &PointResult) -> String {
    let goodput = optional(result.kv_goodput_mbit_s.as_ref(), whole);
    let share = optional(result.kv_goodput_share.as_ref(), percent);
    format!("{goodput} ({share})")
}

fn planned_and_here(result: &PointResult) -> String {
    let planned = whole(result.planned_ttft_ms.median);
    let (here, layers) = (result.planned_layers_here.median, result.layers.len());
    format!("{planned}, {here:.0} of {layers}")
}

fn with_spread(spread: &Spread) -> String {
    format!("{:.0} ({:.0}-{:.0})", spread.median, spread.min, spread.max)
}

fn optional(spread: Option<&Spread>, show: fn(f64) -> String) -> String {
    spread.map_or_else(|| "-".to_owned(), |spread| show(spread.median))
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

fn tenths(value: f64) -> String {
    format!("{value:.1}")
}

fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
