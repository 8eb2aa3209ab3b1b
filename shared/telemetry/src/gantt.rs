//! A timeline drawn with characters, for a terminal. Text in, text out: nothing here prints.
//!
//! Each layer has two rows that share one time axis: above what came from the cloud (computed, then
//! on the wire), below what the edge did (waited, computed). Two rows, because the edge waits for a
//! layer just while it is computed or on the wire. A blank cell means that nothing was recorded.
//!
//! A cell stands for one slice of time and shows one kind. If both kinds of its row fall into the
//! slice, it shows the one that fills more of it, and on a tie the one that comes later in the
//! pipeline. However little of the slice the only kind fills, it is shown.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use crate::timeline::{LayerTimeline, LayerTimes, Span};

mod axis;
mod cell;

use axis::{Axis, tick_label};
use cell::{Kind, cells_of};

/// The narrowest chart; a smaller width is treated as this one.
pub const WIDTH_MIN: u16 = 40;
/// The widest chart: beyond it no terminal is readable.
pub const WIDTH_MAX: u16 = 400;
/// The most layers that are drawn: two rows each fill a tall terminal.
pub const LAYERS_SHOWN_MAX: usize = 24;

/// What stands before the cells of each row.
const LABEL_WIDTH: u16 = 12;

/// Whether the chart may use colour. It reads the same without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColourMode {
    /// Characters only.
    #[default]
    Plain,
    /// ANSI escape sequences around the cells.
    Ansi,
}

/// How the chart looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GanttStyle {
    /// Columns of the terminal. No line is longer.
    pub width: u16,
    /// Whether cells are coloured.
    pub colour: ColourMode,
}

impl Default for GanttStyle {
    fn default() -> Self {
        Self {
            width: 80,
            colour: ColourMode::Plain,
        }
    }
}

impl GanttStyle {
    /// The style for `stream`: coloured if a terminal shows it.
    pub fn of(stream: &impl IsTerminal) -> Self {
        let colour = if stream.is_terminal() {
            ColourMode::Ansi
        } else {
            ColourMode::Plain
        };
        Self {
            colour,
            ..Self::default()
        }
    }
}

/// Draws `timeline`. Every line ends with a line feed.
pub fn render(timeline: &LayerTimeline, style: GanttStyle) -> String {
    let axis = Axis {
        total_ns: timeline.end().as_nanos(),
        cell_count: style.width.clamp(WIDTH_MIN, WIDTH_MAX) - LABEL_WIDTH,
    };
    if axis.total_ns == 0 {
        return "no layer was timed\n".to_owned();
    }
    let mut chart = Chart {
        text: String::new(),
        axis,
        colour: style.colour,
    };
    chart.legend();
    chart.axis();
    let layer_count = timeline.layers.len();
    let shown_every = shown_every(layer_count);
    for (index, layer) in timeline.layers.iter().enumerate() {
        if index.is_multiple_of(shown_every) || index + 1 == layer_count {
            chart.layer(index, layer);
        }
    }
    chart.first_token(timeline.ttft);
    if shown_every > 1 {
        chart.line(format_args!(
            "{layer_count} layers: 1 in {shown_every} is shown, and the last"
        ));
    }
    chart.totals(timeline);
    chart.text
}

/// With this step, and the last layer in any case, at most [`LAYERS_SHOWN_MAX`] layers are drawn.
fn shown_every(layer_count: usize) -> usize {
    if layer_count <= LAYERS_SHOWN_MAX {
        return 1;
    }
    (layer_count - 1).div_ceil(LAYERS_SHOWN_MAX - 1)
}

/// The text so far.
struct Chart {
    text: String,
    axis: Axis,
    colour: ColourMode,
}

impl Chart {
    fn legend(&mut self) {
        let [computed, wire, waited, edge] = [
            Kind::CloudComputed,
            Kind::OnTheWire,
            Kind::EdgeWaited,
            Kind::EdgeComputed,
        ]
        .map(|kind| self.painted(&[Some(kind)]));
        self.line(format_args!("One request, layer by layer"));
        self.line(format_args!(
            "cloud row:  {computed} computed  {wire} on the wire"
        ));
        self.line(format_args!(
            "edge row:   {waited} waited    {edge} computed"
        ));
        self.line(format_args!(""));
    }

    fn axis(&mut self) {
        let step = self.axis.tick_step();
        let mut labels = String::new();
        let mut ruler = vec!['-'; usize::from(self.axis.cell_count)];
        let ticks = (0..)
            .map(|count| count * step)
            .take_while(|&tick| tick <= self.axis.total_ns);
        for tick in ticks {
            let column = usize::from(self.axis.cell_of(tick));
            ruler[column] = '|';
            let unit = if tick == 0 { " ms" } else { "" };
            let label = format!("{}{unit}", tick_label(tick, step));
            let is_apart = labels.is_empty() || labels.len() < column;
            if is_apart && column + label.len() <= ruler.len() {
                labels = format!("{labels:<column$}{label}");
            }
        }
        self.row("layer", &labels);
        self.row("", &ruler.into_iter().collect::<String>());
    }

    fn layer(&mut self, index: usize, layer: &LayerTimes) {
        let of = |kind: Kind| move |span: Span| (kind, span);
        let cloud: Vec<_> = [
            layer.cloud_compute.map(of(Kind::CloudComputed)),
            layer.wire.map(of(Kind::OnTheWire)),
        ]
        .into_iter()
        .flatten()
        .collect();
        let computed = layer
            .edge_compute
            .iter()
            .copied()
            .map(of(Kind::EdgeComputed));
        let edge: Vec<_> = layer
            .edge_wait
            .map(of(Kind::EdgeWaited))
            .into_iter()
            .chain(computed)
            .collect();

        let mut number = index.to_string();
        for (name, track) in [("cloud", cloud), ("edge", edge)] {
            if !track.is_empty() {
                let cells = self.painted(&cells_of(&track, self.axis));
                self.row(&format!("{number:>5} {name}"), &cells);
                number.clear();
            }
        }
        if !number.is_empty() {
            self.row(&format!("{number:>5}"), "not timed");
        }
    }

    fn first_token(&mut self, ttft: Option<Duration>) {
        let Some(ttft) = ttft else { return };
        let column = usize::from(self.axis.cell_of(ttft.as_nanos()));
        let when = millis(ttft);
        let row = if column > when.len() {
            format!("{:>column$}^", format!("{when} "))
        } else {
            format!("{:column$}^ {when}", "")
        };
        self.row("first token", &row);
    }

    fn totals(&mut self, timeline: &LayerTimeline) {
        self.line(format_args!(""));
        match timeline.overlap_ratio() {
            None => self.line(format_args!("transfer     none")),
            Some(ratio) => {
                self.line(format_args!(
                    "transfer     {}",
                    millis(timeline.transfer_time())
                ));
                self.line(format_args!(
                    "overlap      {:.0} % of the transfer",
                    ratio * 100.0
                ));
            }
        }
        self.line(format_args!(
            "edge waited  {}",
            millis(timeline.exposed_wait())
        ));
    }

    /// The cells as text, in colour if wanted, without blanks at the end.
    fn painted(&self, cells: &[Option<Kind>]) -> String {
        let used = cells
            .iter()
            .rposition(Option::is_some)
            .map_or(0, |last| last + 1);
        let mut text = String::new();
        for run in cells[..used].chunk_by(|a, b| a == b) {
            let symbols = |kind: Kind| String::from(kind.symbol()).repeat(run.len());
            text += &match (run[0], self.colour) {
                (None, _) => " ".repeat(run.len()),
                (Some(kind), ColourMode::Plain) => symbols(kind),
                (Some(kind), ColourMode::Ansi) => {
                    format!("{}{}\x1b[0m", kind.ansi(), symbols(kind))
                }
            };
        }
        text
    }

    fn row(&mut self, label: &str, cells: &str) {
        let width = usize::from(LABEL_WIDTH);
        self.line(format_args!("{label:<width$}{cells}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a String does not fail");
    }
}

/// With three digits, more only before the point.
fn millis(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    let decimals = match ms {
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{ms:.decimals$} ms")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    fn span(start_us: u64, end_us: u64) -> Span {
        Span::new(us(start_us), us(end_us))
    }

    /// A cold run: the cloud takes 2 ms a layer, the link 5, the edge 1 before and 2 after each
    /// layer's attention.
    fn cold(layer_count: u64) -> LayerTimeline {
        let mut edge_free_at = 0;
        let mut layers = Vec::new();
        for index in 0..layer_count {
            let cloud_end = 1000 + (index + 1) * 2000;
            let last_byte = 3500 + (index + 1) * 5000;
            let wait_from = edge_free_at + 1000;
            let attention_at = last_byte.max(wait_from);
            layers.push(LayerTimes {
                cloud_compute: Some(span(cloud_end - 2000, cloud_end)),
                wire: Some(span(last_byte - 5000, last_byte)),
                edge_wait: (attention_at > wait_from).then(|| span(wait_from, attention_at)),
                edge_compute: vec![
                    span(edge_free_at, wait_from),
                    span(attention_at, attention_at + 2000),
                ],
            });
            edge_free_at = attention_at + 2000;
        }
        LayerTimeline {
            ttft: Some(us(edge_free_at + 500)),
            layers,
        }
    }

    fn check(timeline: &LayerTimeline, width: u16, expected: &str) {
        let chart = render(
            timeline,
            GanttStyle {
                width,
                colour: ColourMode::Plain,
            },
        );
        assert_eq!(chart, expected, "\n{chart}");
    }

    #[test]
    fn a_cold_run_shows_the_pipeline() {
        check(
            &cold(5),
            80,
            "\
One request, layer by layer
cloud row:  C computed  > on the wire
edge row:   . waited    # computed

layer       0 ms      5          10         15         20         25         30
            |---------|----------|----------|----------|----------|----------|--
    0 cloud   CCCCC>>>>>>>>>>>>
      edge  ##.................#####
    1 cloud       CCCCC       >>>>>>>>>>>>
      edge                         ##.....####
    2 cloud           CCCCCC             >>>>>>>>>>>>
      edge                                    ##.....####
    3 cloud                CCCCC                    >>>>>>>>>>>>
      edge                                              ###.....####
    4 cloud                    CCCCCC                          >>>>>>>>>>>>
      edge                                                         ###.....####
first token                                                            31.0 ms ^

transfer     25.0 ms
overlap      38 % of the transfer
edge waited  15.5 ms
",
        );
    }

    #[test]
    fn a_narrow_terminal_has_the_same_rows() {
        check(
            &cold(2),
            0,
            "\
One request, layer by layer
cloud row:  C computed  > on the wire
edge row:   . waited    # computed

layer       0 ms             10
            |----------------|----------
    0 cloud  CCCCC>>>>>>>>>
      edge  ##.............####
    1 cloud      CCCC     >>>>>>>>>>
      edge                    ##....####
first token                    16.0 ms ^

transfer     10.0 ms
overlap      5 % of the transfer
edge waited  9.50 ms
",
        );
    }

    #[test]
    fn a_warm_store_has_no_cloud_compute_and_a_local_run_has_no_cloud_row() {
        let mut timeline = LayerTimeline::with_layers(3);
        timeline.layers[0].wire = Some(span(100, 300));
        timeline.layers[0].edge_compute = vec![span(0, 400)];
        timeline.layers[1].edge_compute = vec![span(400, 900)];
        check(
            &timeline,
            60,
            "\
One request, layer by layer
cloud row:  C computed  > on the wire
edge row:   . waited    # computed

layer       0.0 ms    0.2        0.4        0.6       0.8
            |---------|----------|----------|---------|-----
    0 cloud      >>>>>>>>>>>
      edge  ######################
    1 edge                       ###########################
    2       not timed

transfer     0.20 ms
overlap      100 % of the transfer
edge waited  0.00 ms
",
        );
    }

    #[test]
    fn many_layers_are_thinned_and_the_last_is_kept() {
        let rows = |layer_count: u64| {
            let chart = render(&cold(layer_count), GanttStyle::default());
            let rows = chart
                .lines()
                .filter(|line| line.contains(" cloud "))
                .count();
            (rows, chart)
        };
        assert_eq!(rows(24).0, 24);
        let (count, chart) = rows(32);
        assert_eq!(count, 17);
        assert!(chart.contains("\n   31 cloud"), "{chart}");
        assert!(
            chart.contains("\n32 layers: 1 in 2 is shown, and the last\n"),
            "{chart}"
        );
    }

    #[test]
    fn a_timeline_without_times_is_said_to_be_empty() {
        check(&LayerTimeline::with_layers(3), 80, "no layer was timed\n");
    }

    #[test]
    fn colour_changes_no_character() {
        let timeline = cold(4);
        let plain = render(&timeline, GanttStyle::default());
        let mut coloured = render(
            &timeline,
            GanttStyle {
                colour: ColourMode::Ansi,
                ..GanttStyle::default()
            },
        );
        assert!(coloured.contains("\x1b[36mC\x1b[0m"));
        for escape in ["\x1b[36m", "\x1b[33m", "\x1b[31m", "\x1b[32m", "\x1b[0m"] {
            coloured = coloured.replace(escape, "");
        }
        assert_eq!(coloured, plain);
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(
            width in WIDTH_MIN..=WIDTH_MAX,
            start_ns in 0_u64..10_000_000_000,
            duration_ns in prop_oneof![0_u64..2000, 0_u64..u64::MAX],
            layer_count in 1_usize..100,
        ) {
            let start = Duration::from_nanos(start_ns);
            let span = Span::starting_at(start, Duration::from_nanos(duration_ns));
            let mut timeline = LayerTimeline::with_layers(layer_count);
            timeline.layers[layer_count / 2].wire = Some(span);
            timeline.ttft = Some(start);
            let chart = render(&timeline, GanttStyle { width, colour: ColourMode::Plain });
            for line in chart.lines() {
                prop_assert!(line.chars().count() <= usize::from(width), "{}", line);
            }
        }

        #[test]
        fn absurd_times_do_not_overflow(seconds in any::<u64>()) {
            let mut timeline = LayerTimeline::with_layers(1);
            timeline.layers[0].wire =
                Some(Span::starting_at(Duration::ZERO, Duration::from_secs(seconds)));
            prop_assert!(!render(&timeline, GanttStyle::default()).is_empty());
        }
    }
}
