//! A Gantt chart of one request: for every layer, when the cloud computed it, when it was on the
//! wire, when the edge waited for it and when the edge computed with it.

use std::time::Duration;

use edgeprompt_telemetry::timeline::{LayerTimeline, LayerTimes, Span};

use super::axis::ticks;
use super::colour::{BLUE, GREEN, ORANGE};
use super::svg::{Anchor, Paint, Rect, Svg};

/// What to draw.
pub(crate) struct GanttPlot<'a> {
    /// First line.
    pub(crate) title: String,
    /// Second line.
    pub(crate) subtitle: String,
    /// The request.
    pub(crate) timeline: &'a LayerTimeline,
    /// Moments to mark across all layers, with what they are.
    pub(crate) marks: Vec<(String, Duration)>,
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 76.0;
const BOTTOM: f64 = 56.0;
const MARK_HEIGHT: f64 = 17.0;
const LANE: f64 = 7.0;
/// Three lanes and a gap.
const ROW: f64 = 3.0 * LANE + 5.0;
/// About so many.
const TICKS: f64 = 8.0;

/// Where times lie on the page.
struct Area {
    end_ms: f64,
    top: f64,
    bottom: f64,
}

impl GanttPlot<'_> {
    /// The SVG file.
    pub(crate) fn draw(&self) -> String {
        let layer_count = self.timeline.layers.len();
        let marks = self.marks.len();
        let top = TOP + index_as_f64(marks) * MARK_HEIGHT;
        let bottom = top + index_as_f64(layer_count) * ROW;
        let last_mark = self.marks.iter().map(|mark| mark.1).max();
        let end = self.timeline.end().max(last_mark.unwrap_or_default());
        let area = Area {
            end_ms: (end.as_secs_f64() * 1e3).max(0.001),
            top,
            bottom,
        };
        let mut svg = Svg::new(WIDTH, bottom + BOTTOM);
        svg.text(
            (LEFT, 24.0),
            Anchor::Start,
            Paint::Class("title"),
            &self.title,
        );
        svg.text(
            (LEFT, 43.0),
            Anchor::Start,
            Paint::Class("muted"),
            &self.subtitle,
        );
        legend(&mut svg);
        for index in (1..layer_count).step_by(2) {
            area.draw_band(&mut svg, index);
        }
        area.draw_time(&mut svg);
        for (index, layer) in self.timeline.layers.iter().enumerate() {
            area.draw_layer(&mut svg, index, layer);
        }
        let marks = || self.marks.iter().enumerate();
        for (index, (_, at)) in marks() {
            area.draw_mark(&mut svg, index, *at);
        }
        // Text above every line.
        for (index, (label, at)) in marks() {
            area.draw_mark_label(&mut svg, index, (label, *at));
        }
        svg.finish()
    }
}

impl Area {
    fn x(&self, at: Duration) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * at.as_secs_f64() * 1e3 / self.end_ms
    }

    fn draw_time(&self, svg: &mut Svg) {
        for tick in ticks(self.end_ms, TICKS) {
            let x = self.x(Duration::from_secs_f64(tick / 1e3)).round() + 0.5;
            svg.line((x, self.top), (x, self.bottom), "grid");
            let label = format!("{tick}");
            svg.text(
                (x, self.bottom + 18.0),
                Anchor::Middle,
                Paint::Class("muted"),
                &label,
            );
        }
        svg.line((LEFT, self.bottom), (WIDTH - RIGHT, self.bottom), "axis");
        let middle = (LEFT + WIDTH - RIGHT) / 2.0;
        let name = "time since the edge asked (ms)";
        svg.text(
            (middle, self.bottom + 40.0),
            Anchor::Middle,
            Paint::Class("ink"),
            name,
        );
    }

    fn draw_band(&self, svg: &mut Svg, index: usize) {
        let band = Rect {
            x: LEFT,
            y: self.top + index_as_f64(index) * ROW,
            width: WIDTH - LEFT - RIGHT,
            height: ROW,
        };
        svg.rect(band, Paint::Class("band"));
    }

    fn draw_layer(&self, svg: &mut Svg, index: usize, layer: &LayerTimes) {
        let y = self.top + index_as_f64(index) * ROW;
        let label = format!("layer {index}");
        let place = (LEFT - 8.0, y + ROW / 2.0 + 4.0);
        svg.text(place, Anchor::End, Paint::Class("muted"), &label);
        let lane = |number: f64| y + 2.5 + number * LANE;
        let edge_lane = lane(2.0);
        let spans = [
            (layer.cloud_compute, lane(0.0), Paint::Colour(BLUE)),
            (layer.wire, lane(1.0), Paint::Colour(ORANGE)),
            (layer.edge_wait, edge_lane, Paint::Class("wait")),
        ];
        let computed = layer.edge_compute.iter();
        let computed = computed.map(|span| (Some(*span), edge_lane, Paint::Colour(GREEN)));
        for (span, y, paint) in spans.into_iter().chain(computed) {
            if let Some(span) = span {
                self.draw_span(svg, span, (y, paint));
            }
        }
    }

    fn draw_span(&self, svg: &mut Svg, span: Span, (y, paint): (f64, Paint)) {
        let x = self.x(span.start());
        let bar = Rect {
            x,
            y,
            // What happened is seen, however short it was.
            width: (self.x(span.end()) - x).max(0.75),
            height: LANE - 1.0,
        };
        svg.rect(bar, paint);
    }

    fn draw_mark(&self, svg: &mut Svg, index: usize, at: Duration) {
        let (x, y) = (self.x(at), TOP + index_as_f64(index) * MARK_HEIGHT);
        svg.line((x, y), (x, self.bottom), "mark");
    }

    fn draw_mark_label(&self, svg: &mut Svg, index: usize, (label, at): (&str, Duration)) {
        let (x, y) = (self.x(at), TOP + index_as_f64(index) * MARK_HEIGHT);
        let (place, anchor) = if x < WIDTH / 2.0 {
            (x + 6.0, Anchor::Start)
        } else {
            (x - 6.0, Anchor::End)
        };
        svg.text((place, y + 11.0), anchor, Paint::Class("label"), label);
    }
}

fn legend(svg: &mut Svg) {
    let entries = [
        ("cloud computes (t_cc)", Paint::Colour(BLUE)),
        ("on the wire (t_ct)", Paint::Colour(ORANGE)),
        ("edge computes (t_ec)", Paint::Colour(GREEN)),
        ("edge waits", Paint::Class("wait")),
    ];
    let mut x = LEFT;
    for (name, paint) in entries {
        let swatch = Rect {
            x,
            y: 54.0,
            width: 12.0,
            height: 10.0,
        };
        svg.rect(swatch, paint);
        svg.text((x + 18.0, 63.0), Anchor::Start, Paint::Class("muted"), name);
        // A letter of 12 pixels is at most about 7 wide.
        x += 42.0 + 7.0 * index_as_f64(name.len());
    }
}

/// Layers and marks are few.
#[expect(clippy::cast_precision_loss, reason = "a count on a page")]
fn index_as_f64(index: usize) -> f64 {
    index as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn every_span_becomes_a_bar_and_every_mark_a_line() {
        let mut timeline = LayerTimeline::with_layers(2);
        timeline.layers[0].wire = Some(Span::new(ms(1), ms(5)));
        timeline.layers[1].edge_compute = vec![Span::new(ms(5), ms(6)), Span::new(ms(7), ms(9))];
        let plot = GanttPlot {
            title: "t".into(),
            subtitle: "s".into(),
            timeline: &timeline,
            marks: vec![("measured".into(), ms(9))],
        };
        let file = plot.draw();
        let count = |what: &str| file.matches(what).count();
        // Page, one band, four swatches, three bars.
        assert_eq!(count("<rect"), 1 + 1 + 4 + 3);
        assert_eq!(count("class=\"mark\""), 1);
        assert!(file.contains("(ms)"));
    }

    #[test]
    fn nothing_to_draw_is_no_reason_to_fail() {
        let plot = GanttPlot {
            title: String::new(),
            subtitle: String::new(),
            timeline: &LayerTimeline::default(),
            marks: Vec::new(),
        };
        assert!(plot.draw().contains("<svg"));
    }
}
