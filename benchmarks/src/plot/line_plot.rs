//! Lines over a list of settings, one for each contender, told apart by colour and marker, with the
//! spread of each point.

use super::axis::ticks;
use super::colour::Rgb;
use super::svg::{Anchor, Marker, Paint, Svg};

/// What to draw.
pub(crate) struct LinePlot {
    /// First line.
    pub(crate) title: String,
    /// Second line.
    pub(crate) subtitle: String,
    /// What the settings are, with their unit, and their labels, evenly apart.
    pub(crate) x: (&'static str, Vec<String>),
    /// What is measured, with its unit.
    pub(crate) y: &'static str,
    /// One for each contender.
    pub(crate) lines: Vec<Line>,
}

/// One contender.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) colour: Rgb,
    pub(crate) marker: Marker,
    /// A point for each setting; what was not measured stays empty.
    pub(crate) points: Vec<Option<Point>>,
}

/// A value and how far it spreads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) value: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 64.0;
const BOTTOM: f64 = 64.0;
/// Above the largest value.
const HEADROOM: f64 = 1.08;
/// Half the width of the bar at the end of a spread.
const CAP: f64 = 4.0;
const KEY_LINE: f64 = 22.0;

impl LinePlot {
    /// The SVG file.
    pub(crate) fn draw(&self) -> String {
        let mut svg = Svg::new(WIDTH, HEIGHT);
        svg.heading(&self.title, &self.subtitle);
        self.draw_axes(&mut svg);
        for (index, line) in self.lines.iter().enumerate() {
            self.draw_line(&mut svg, line);
            let y = TOP + 12.0 + KEY_LINE * as_f64(index);
            let x = WIDTH - RIGHT + 24.0;
            svg.marker((x, y), line.marker, line.colour);
            svg.text(
                (x + 14.0, y + 4.0),
                Anchor::Start,
                Paint::Class("ink"),
                &line.name,
            );
        }
        svg.finish()
    }

    fn end(&self) -> f64 {
        let points = self.lines.iter().flat_map(|line| &line.points).flatten();
        let largest = points.map(|point| point.max.max(point.value));
        largest.fold(f64::MIN_POSITIVE, f64::max) * HEADROOM
    }

    fn x_of(&self, index: usize) -> f64 {
        let count = as_f64(self.x.1.len().max(1));
        LEFT + (WIDTH - LEFT - RIGHT) * (as_f64(index) + 0.5) / count
    }

    fn y_of(&self, value: f64) -> f64 {
        let bottom = HEIGHT - BOTTOM;
        bottom - (bottom - TOP) * value / self.end()
    }

    fn draw_axes(&self, svg: &mut Svg) {
        let (left, right, bottom) = (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM);
        let (ink, muted) = (Paint::Class("ink"), Paint::Class("muted"));
        for tick in ticks(self.end(), 6.0) {
            let y = self.y_of(tick).round() + 0.5;
            svg.line((left, y), (right, y), "grid");
            svg.text(
                (left - 8.0, y + 4.0),
                Anchor::End,
                muted,
                &format!("{tick}"),
            );
        }
        svg.line((left, bottom), (right, bottom), "axis");
        for (index, label) in self.x.1.iter().enumerate() {
            let place = (self.x_of(index), bottom + 18.0);
            svg.text(place, Anchor::Middle, muted, label);
        }
        let middle = (f64::midpoint(left, right), bottom + 44.0);
        svg.text(middle, Anchor::Middle, ink, self.x.0);
        svg.text_upwards((26.0, f64::midpoint(TOP, bottom)), ink, self.y);
    }

    fn draw_line(&self, svg: &mut Svg, line: &Line) {
        let mut run = Vec::new();
        for (index, point) in line.points.iter().enumerate() {
            let Some(point) = point else {
                svg.curve(&run, line.colour);
                run.clear();
                continue;
            };
            let x = self.x_of(index);
            run.push((x, self.y_of(point.value)));
            let (low, high) = (self.y_of(point.min), self.y_of(point.max));
            if low > high {
                svg.curve(&[(x, low), (x, high)], line.colour);
                for y in [low, high] {
                    svg.curve(&[(x - CAP, y), (x + CAP, y)], line.colour);
                }
            }
            svg.marker((x, self.y_of(point.value)), line.marker, line.colour);
        }
        svg.curve(&run, line.colour);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of lines or settings")]
const fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::super::colour::{BLUE, ORANGE};
    use super::*;

    fn plot(points: Vec<Option<Point>>) -> LinePlot {
        LinePlot {
            title: String::new(),
            subtitle: String::new(),
            x: ("", vec![String::new(); points.len()]),
            y: "",
            lines: vec![Line {
                name: "line".to_owned(),
                colour: BLUE,
                marker: Marker::Disc,
                points,
            }],
        }
    }

    fn spread(min: f64, value: f64, max: f64) -> Option<Point> {
        Some(Point { value, min, max })
    }

    #[test]
    fn more_is_higher_and_later_is_further_right() {
        let plot = plot(vec![spread(5.0, 10.0, 20.0), None, spread(1.0, 1.0, 1.0)]);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a}, not {b}");
        // Zero stands on the axis, and the end of the largest spread below the top.
        close(plot.y_of(0.0), HEIGHT - BOTTOM);
        close(plot.y_of(20.0 * HEADROOM), TOP);
        close(
            plot.y_of(10.0),
            f64::midpoint(plot.y_of(0.0), plot.y_of(20.0)),
        );
        close(plot.x_of(1), f64::midpoint(LEFT, WIDTH - RIGHT));
        close(plot.x_of(1) - plot.x_of(0), plot.x_of(2) - plot.x_of(1));
        assert!(plot.x_of(0) > LEFT && plot.x_of(2) < WIDTH - RIGHT);
        let file = plot.draw();
        let (x, y) = (plot.x_of(0), plot.y_of(10.0));
        assert!(
            file.contains(&format!(r#"cx="{x:.2}" cy="{y:.2}""#)),
            "{file}"
        );
        // A bar with two caps where there is a spread, and a run on each side of what is missing.
        assert_eq!(file.matches("<polyline").count(), 3 + 2, "{file}");
        let (low, high) = (plot.y_of(5.0), plot.y_of(20.0));
        assert!(
            file.contains(&format!("{x:.2},{low:.2} {x:.2},{high:.2}")),
            "{file}"
        );
    }

    #[test]
    fn every_line_has_its_name_its_colour_and_a_marker_for_each_point() {
        let point = |value| {
            Some(Point {
                value,
                min: value - 1.0,
                max: value + 1.0,
            })
        };
        let line = |name: &str, colour, marker, points| Line {
            name: name.to_owned(),
            colour,
            marker,
            points,
        };
        let plot = LinePlot {
            title: "a & b".to_owned(),
            subtitle: String::new(),
            x: ("length (tokens)", vec!["64".to_owned(), "128".to_owned()]),
            y: "tokens/s",
            lines: vec![
                line("relay", BLUE, Marker::Disc, vec![point(10.0), point(20.0)]),
                line("paged", ORANGE, Marker::Square, vec![point(5.0), None]),
            ],
        };
        let file = plot.draw();
        for words in ["a &amp; b", ">relay<", ">paged<", ">128<", "tokens/s"] {
            assert!(file.contains(words), "{words}");
        }
        // Points and the key.
        assert_eq!(file.matches("<circle").count(), 3);
        let squares = format!(r#"fill="{}""#, ORANGE.hex());
        assert_eq!(file.matches(&squares).count(), 2);
    }
}
