//! The plots of a sweep: a Gantt chart for every regime that occurred, and for every cloud length and
//! number format three heat maps, of how well the model holds, of what streaming gains, and of the
//! regimes.

use edgeprompt_kv::KvDtype;
use edgeprompt_telemetry::flow_shop::Regime;

use super::plan::{CloudStore, Plan};
use super::point::PointResult;
use super::table::regime_name;
use crate::plot::colour::{BLUE, GREEN, ORANGE, PALE, PURPLE, Rgb};
use crate::plot::gantt::GanttPlot;
use crate::plot::heat_map::{Cell, HeatMap, Key, Shades};

/// A file's name and what it holds.
pub(crate) type NamedPlot = (String, String);

/// Every plot of a sweep.
pub(crate) fn draw(plan: &Plan, results: &[PointResult]) -> Vec<NamedPlot> {
    let mut plots = gantts(plan, results);
    for (len, codec) in unique(
        results
            .iter()
            .map(|it| (it.point.cloud_len, it.point.codec)),
    ) {
        let grid = Grid::of(plan, results, (len, codec));
        let end = match codec {
            KvDtype::F32 => len.to_string(),
            codec => format!("{len}-{codec}"),
        };
        plots.push((format!("pipeline-model-{end}.svg"), grid.model()));
        plots.push((format!("pipeline-speedup-{end}.svg"), grid.speedup()));
        plots.push((format!("pipeline-regime-{end}.svg"), grid.regimes()));
    }
    plots
}

/// One chart for every regime, of the point that shows it best: where its machine takes the largest
/// share of all work.
fn gantts(plan: &Plan, results: &[PointResult]) -> Vec<NamedPlot> {
    let clearest = |name: &&'static str| {
        let of_regime = results.iter().filter(|r| regime_name(r.regime) == *name);
        of_regime.max_by(|a, b| dominance(a).total_cmp(&dominance(b)))
    };
    let names = unique(results.iter().map(|result| regime_name(result.regime)));
    let shown = names
        .iter()
        .filter_map(|name| Some((name, clearest(name)?)));
    shown
        .map(|(name, result)| {
            let file: String = name.chars().filter(|c| c.is_ascii_alphanumeric()).collect();
            (format!("pipeline-gantt-{file}.svg"), gantt(plan, result))
        })
        .collect()
}

fn dominance(result: &PointResult) -> f64 {
    let stages = result.mean_stages();
    let [cc, ct, ec] = [stages.t_cc_ms, stages.t_ct_ms, stages.t_ec_ms];
    cc.max(ct).max(ec) / (cc + ct + ec).max(1e-9)
}

fn gantt(plan: &Plan, result: &PointResult) -> String {
    let (point, pipeline) = (&result.point, result.median_pipeline());
    let regime = result.regime;
    let timeline = &result.median_timeline;
    let t = timeline.ttft.unwrap_or_default();
    let mark = |name: &str, at: std::time::Duration| {
        (format!("{name}: {:.0} ms", at.as_secs_f64() * 1e3), at)
    };
    let plot = GanttPlot {
        title: format!("One request, {regime}"),
        subtitle: format!(
            "{} Mbit/s, RTT {} ms, cloud prompt {} tokens in {} ({}), private prompt {} tokens",
            point.rate_mbit_s,
            point.rtt_ms,
            point.cloud_len,
            point.codec,
            store_name(plan.cloud_store),
            plan.edge_len,
        ),
        timeline,
        marks: vec![
            mark("measured T", t),
            mark("flow shop", pipeline.flow_shop()),
            mark("the paper's equation (7)", pipeline.paper_eq7()),
        ],
    };
    plot.draw()
}

/// The results for one cloud length and number format, by round-trip time and rate.
struct Grid<'a> {
    subtitle: String,
    rates: Vec<u32>,
    rtts: Vec<u32>,
    results: Vec<&'a PointResult>,
}

impl<'a> Grid<'a> {
    fn of(plan: &Plan, results: &'a [PointResult], (cloud_len, codec): (u32, KvDtype)) -> Self {
        let are_its =
            |it: &&PointResult| (it.point.cloud_len, it.point.codec) == (cloud_len, codec);
        let results: Vec<_> = results.iter().filter(are_its).collect();
        let mut rates = unique(results.iter().map(|result| result.point.rate_mbit_s));
        let mut rtts = unique(results.iter().map(|result| result.point.rtt_ms));
        rates.sort_unstable();
        rtts.sort_unstable();
        let threads = |count: u32| match count {
            1 => "1 thread".to_owned(),
            count => format!("{count} threads"),
        };
        Self {
            subtitle: format!(
                "cloud prompt {cloud_len} tokens in {codec} ({}, {}), edge prompt {} ({})",
                store_name(plan.cloud_store),
                threads(plan.cloud_threads),
                plan.edge_len,
                threads(plan.edge_threads),
            ),
            rates,
            rtts,
            results,
        }
    }

    fn model(&self) -> String {
        let shades = Shades::Above {
            good: 1.0,
            bad: 1.5,
        };
        let map = HeatMap {
            title: "Measured time to first token over the flow-shop model".to_owned(),
            key: Key::Contour(1.1, "10 % above the model"),
            ..self.map(|result| shades.cell(result.ttft_over_flow_shop.median))
        };
        map.draw()
    }

    fn speedup(&self) -> String {
        let shades = Shades::Ratio { strong: 4.0 };
        let map = HeatMap {
            title: "Speed-up of streaming over local prefill (blue: streaming wins)".to_owned(),
            key: Key::Contour(1.0, "crossover, streaming as fast as local prefill"),
            ..self.map(|result| shades.cell(result.speedup_over_local.median))
        };
        map.draw()
    }

    fn regimes(&self) -> String {
        let map = HeatMap {
            title: "Which machine sets the time, and its share of all work".to_owned(),
            ..self.map(regime_cell)
        };
        map.draw()
    }

    fn map(&self, cell_of: impl Fn(&PointResult) -> Cell) -> HeatMap {
        let cell = |rtt: u32, rate: u32| {
            let here = |result: &&&PointResult| {
                (result.point.rtt_ms, result.point.rate_mbit_s) == (rtt, rate)
            };
            self.results.iter().find(here).map(|result| cell_of(result))
        };
        let row = |rtt: &u32| self.rates.iter().map(|rate| cell(*rtt, *rate)).collect();
        let labels = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect();
        HeatMap {
            title: String::new(),
            subtitle: self.subtitle.clone(),
            columns: ("emulated rate (Mbit/s)", labels(&self.rates)),
            rows: ("round-trip time (ms)", labels(&self.rtts)),
            cells: self.rtts.iter().map(row).collect(),
            key: Key::Words(REGIMES),
        }
    }
}

/// The paper's names of the regimes.
const REGIMES: &str = "P1: the link; P2: the edge, then the link; P3: the edge, then the cloud";

/// The stronger the colour, the larger the share of the machine that sets the time.
fn regime_cell(result: &PointResult) -> Cell {
    let share = dominance(result);
    let (name, colour) = look(result.regime);
    Cell {
        value: share,
        label: format!("{name} {:.0} %", share * 100.0),
        // A third of the work is least.
        colour: PALE.mix(colour, share * 1.5 - 0.5),
    }
}

const fn look(regime: Regime) -> (&'static str, Rgb) {
    match regime {
        Regime::CloudBound => ("cloud", BLUE),
        Regime::TransmissionBound => ("P1", ORANGE),
        Regime::EdgeBoundLinkSecond => ("P2", GREEN),
        Regime::EdgeBoundCloudSecond => ("P3", PURPLE),
    }
}

const fn store_name(store: CloudStore) -> &'static str {
    match store {
        CloudStore::Cold => "computed on request",
        CloudStore::Warm => "stored",
    }
}

/// Each value once, in the order of first appearance.
fn unique<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut unique = Vec::new();
    for value in values {
        if !unique.contains(&value) {
            unique.push(value);
        }
    }
    unique
}
