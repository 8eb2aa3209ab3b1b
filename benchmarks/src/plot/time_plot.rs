//! Curves over one time axis, each with an axis of its own, one below the other, and bands across all
//! of them for what happened meanwhile.

use super::axis::ticks;
use super::colour::{BLUE, GREEN, ORANGE, Rgb, VERMILION};
use super::svg::{Anchor, Paint, Rect, Svg};

/// What to draw.
pub(crate) struct TimePlot {
    /// First line.
    pub(crate) title: String,
    /// Second line.
    pub(crate) subtitle: String,
    /// Seconds that the axis has.
    pub(crate) end_s: f64,
    /// From the top to the bottom.
    pub(crate) panels: Vec<Panel>,
    /// What happened, from when until when.
    pub(crate) bands: Vec<(String, f64, f64)>,
}

/// One quantity.
pub(crate) struct Panel {
    /// What it is, with its unit.
    pub(crate) name: &'static str,
    /// Times in seconds and values, none below 0.
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const PANEL: f64 = 120.0;
const GAP: f64 = 20.0;
const BOTTOM: f64 = 56.0;
/// Bands that overlap have their words in lines of their own.
const WORD_LINE: f64 = 16.0;
/// A letter of 12 pixels is at most about so wide.
const LETTER: f64 = 7.0;

/// Above the largest value.
const HEADROOM: f64 = 1.1;
/// The least that an axis shows, so that nothing but 0 is a line at the bottom.
const END_MIN: f64 = 1.0;

const COLOURS: [Rgb; 4] = [BLUE, GREEN, ORANGE, VERMILION];

impl TimePlot {
    /// The SVG file.
    pub(crate) fn draw(&self) -> String {
        let lines = self.word_lines();
        let line_count = lines.iter().max().map_or(0, |line| line + 1);
        let top = TOP + as_f64(line_count) * WORD_LINE;
        let bottom = top + as_f64(self.panels.len()) * (PANEL + GAP) - GAP;
        let mut svg = Svg::new(WIDTH, bottom + BOTTOM);
        let (title, muted) = (Paint::Class("title"), Paint::Class("muted"));
        svg.text((LEFT, 24.0), Anchor::Start, title, &self.title);
        svg.text((LEFT, 43.0), Anchor::Start, muted, &self.subtitle);
        for (_, from, until) in &self.bands {
            let (x, end) = (self.x(*from), self.x(*until));
            let band = Rect {
                x,
                y: top,
                width: (end - x).max(1.0),
                height: bottom - top,
            };
            svg.rect(band, Paint::Class("wait"));
        }
        self.draw_time(&mut svg, (top, bottom));
        for (index, panel) in self.panels.iter().enumerate() {
            let y = top + as_f64(index) * (PANEL + GAP);
            self.draw_panel(&mut svg, panel, (y, COLOURS[index % COLOURS.len()]));
        }
        for ((words, from, _), line) in self.bands.iter().zip(lines) {
            let place = (self.x(*from), TOP + as_f64(line) * WORD_LINE + 8.0);
            svg.text(place, Anchor::Start, Paint::Class("ink"), words);
        }
        svg.finish()
    }

    fn x(&self, at_s: f64) -> f64 {
        let share = at_s / self.end_s.max(f64::MIN_POSITIVE);
        LEFT + (WIDTH - LEFT - RIGHT) * share.clamp(0.0, 1.0)
    }

    /// The line of each band's words: the first one that is free there.
    fn word_lines(&self) -> Vec<usize> {
        let mut ends: Vec<f64> = Vec::new();
        let lines = self.bands.iter().map(|(words, from, _)| {
            let x = self.x(*from);
            let free = ends.iter().position(|end| *end <= x);
            let line = free.unwrap_or(ends.len());
            ends.resize(ends.len().max(line + 1), 0.0);
            ends[line] = x + LETTER * as_f64(words.len() + 1);
            line
        });
        lines.collect()
    }

    fn draw_time(&self, svg: &mut Svg, (top, bottom): (f64, f64)) {
        for tick in ticks(self.end_s, 10.0) {
            let x = self.x(tick).round() + 0.5;
            svg.line((x, top), (x, bottom), "grid");
            let place = (x, bottom + 18.0);
            let muted = Paint::Class("muted");
            svg.text(place, Anchor::Middle, muted, &format!("{tick}"));
        }
        let place = (f64::midpoint(LEFT, WIDTH - RIGHT), bottom + 40.0);
        let name = "time since the users began (s)";
        svg.text(place, Anchor::Middle, Paint::Class("ink"), name);
    }

    fn draw_panel(&self, svg: &mut Svg, panel: &Panel, (top, colour): (f64, Rgb)) {
        let bottom = top + PANEL;
        let largest = panel.points.iter().map(|point| point.1).fold(0.0, f64::max);
        let end = (largest * HEADROOM).max(END_MIN);
        let y = |value: f64| bottom - PANEL * value / end;
        for tick in ticks(end, 4.0) {
            let place = (LEFT - 8.0, y(tick) + 4.0);
            let muted = Paint::Class("muted");
            svg.text(place, Anchor::End, muted, &format!("{tick}"));
            let y = y(tick).round() + 0.5;
            svg.line((LEFT, y), (WIDTH - RIGHT, y), "grid");
        }
        svg.line((LEFT, bottom), (WIDTH - RIGHT, bottom), "axis");
        let points = panel
            .points
            .iter()
            .map(|(at, value)| (self.x(*at), y(*value)));
        svg.curve(&points.collect::<Vec<_>>(), colour);
        let place = (22.0, f64::midpoint(top, bottom));
        svg.text_upwards(place, Paint::Class("ink"), panel.name);
    }
}

/// Panels, letters and lines are few.
#[expect(clippy::cast_precision_loss, reason = "a count on a page")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> TimePlot {
        TimePlot {
            title: "t".into(),
            subtitle: "s".into(),
            end_s: 100.0,
            panels: vec![
                Panel {
                    name: "memory (MiB)",
                    points: vec![(0.0, 1.0), (100.0, 2.0)],
                },
                Panel {
                    name: "blocks",
                    points: Vec::new(),
                },
            ],
            bands: vec![
                ("link cut".into(), 10.0, 20.0),
                ("disk full".into(), 11.0, 15.0),
                ("cloud killed".into(), 80.0, 90.0),
            ],
        }
    }

    #[test]
    fn every_quantity_has_its_curve_and_every_event_its_band_and_words() {
        let file = plot().draw();
        let count = |what: &str| file.matches(what).count();
        assert_eq!(count("<polyline"), 1, "nothing was seen of the second one");
        assert_eq!(count("class=\"wait\""), 3);
        for words in [
            "link cut",
            "disk full",
            "cloud killed",
            "memory (MiB)",
            "blocks",
        ] {
            assert_eq!(count(&format!(">{words}<")), 1, "{words}");
        }
    }

    #[test]
    fn words_that_would_overlap_are_in_lines_of_their_own() {
        assert_eq!(plot().word_lines(), [0, 1, 0]);
    }

    #[test]
    fn the_largest_value_is_below_the_upper_end() {
        let file = plot().draw();
        let curve = file.split("points=\"").nth(1).unwrap();
        // 2 of 2.2 is 10/11 of the height of 120 above the panel's bottom.
        let last = curve
            .split('"')
            .next()
            .unwrap()
            .split(' ')
            .next_back()
            .unwrap();
        let bottom = TOP + 2.0 * WORD_LINE + PANEL;
        assert_eq!(last, format!("876.00,{:.2}", bottom - PANEL / 1.1));
    }
}
