//! The few shapes of SVG that plots need, in a style that follows the reader's colour scheme.

use std::fmt::Write;

use super::colour::Rgb;

/// Where a text is relative to its point.
#[derive(Clone, Copy)]
pub(crate) enum Anchor {
    /// Right of it.
    Start,
    /// Around it.
    Middle,
    /// Left of it.
    End,
}

/// How something looks: a class of the style sheet, or a colour of its own.
#[derive(Clone, Copy)]
pub(crate) enum Paint {
    /// Follows the colour scheme.
    Class(&'static str),
    /// The same on every page.
    Colour(Rgb),
}

/// What marks a point: told apart without colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// Round.
    Disc,
    /// Square.
    Square,
    /// A square on its corner.
    Diamond,
    /// On its base.
    Triangle,
    /// On its tip.
    Wedge,
}

/// From the middle of a marker to its rim.
const MARKER_RADIUS: f64 = 5.0;

/// A rectangle, in pixels from the top left.
#[derive(Clone, Copy)]
pub(crate) struct Rect {
    /// Left side.
    pub(crate) x: f64,
    /// Top side.
    pub(crate) y: f64,
    /// From left to right.
    pub(crate) width: f64,
    /// From top to bottom.
    pub(crate) height: f64,
}

/// A drawing under way.
pub(crate) struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// Text is at least 12 pixels high; lines are crisp at whole pixels and a half.
const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI','DejaVu Sans',Helvetica,Arial,sans-serif;font-size:12px}
.page{fill:#ffffff}
.ink{fill:#1f2328}
.muted{fill:#59636e}
.label{fill:#1f2328;stroke:#ffffff;stroke-width:4;stroke-linejoin:round;paint-order:stroke}
.title{fill:#1f2328;font-size:16px;font-weight:600}
.grid{stroke:#d1d9e0;stroke-width:1}
.axis{stroke:#59636e;stroke-width:1}
.band{fill:#f6f8fa}
.mark{stroke:#1f2328;stroke-width:1.5;stroke-dasharray:5 3}
.contour{stroke:#1f2328;stroke-width:3;fill:none}
.wait{fill:#8b949e;fill-opacity:0.35}
@media (prefers-color-scheme:dark){
.page{fill:#0d1117}
.ink{fill:#f0f6fc}
.muted{fill:#9198a1}
.label{fill:#f0f6fc;stroke:#0d1117}
.title{fill:#f0f6fc}
.grid{stroke:#3d444d}
.axis{stroke:#9198a1}
.band{fill:#151b23}
.mark{stroke:#f0f6fc}
}";

impl Svg {
    /// An empty page of so many pixels.
    pub(crate) fn new(width: f64, height: f64) -> Self {
        let mut svg = Self {
            width,
            height,
            body: String::new(),
        };
        let page = Rect {
            x: 0.0,
            y: 0.0,
            width,
            height,
        };
        svg.rect(page, Paint::Class("page"));
        svg
    }

    /// Adds the two lines of text above a plot.
    pub(crate) fn heading(&mut self, title: &str, subtitle: &str) {
        self.text((24.0, 26.0), Anchor::Start, Paint::Class("title"), title);
        self.text((24.0, 46.0), Anchor::Start, Paint::Class("muted"), subtitle);
    }

    /// Adds a filled rectangle.
    pub(crate) fn rect(&mut self, rect: Rect, paint: Paint) {
        let Rect {
            x,
            y,
            width,
            height,
        } = rect;
        let paint = paint.attribute();
        self.element(&format!(
            r#"<rect x="{x:.2}" y="{y:.2}" width="{width:.2}" height="{height:.2}" {paint}/>"#
        ));
    }

    /// Adds a straight line.
    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &'static str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.element(&format!(
            r#"<line x1="{x1:.2}" y1="{y1:.2}" x2="{x2:.2}" y2="{y2:.2}" class="{class}"/>"#
        ));
    }

    /// Adds a line through points, if there are any.
    pub(crate) fn polyline(&mut self, points: &[(f64, f64)], class: &'static str) {
        if points.is_empty() {
            return;
        }
        let path = path(points);
        self.element(&format!(r#"<polyline points="{path}" class="{class}"/>"#));
    }

    /// Adds a thin line of a colour through points, if there are any.
    pub(crate) fn curve(&mut self, points: &[(f64, f64)], colour: Rgb) {
        if points.is_empty() {
            return;
        }
        let (path, colour) = (path(points), colour.hex());
        self.element(&format!(
            r#"<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-linejoin="round"/>"#
        ));
    }

    /// Adds a marker around a point.
    pub(crate) fn marker(&mut self, (x, y): (f64, f64), marker: Marker, colour: Rgb) {
        let (r, fill) = (MARKER_RADIUS, colour.hex());
        let corners: &[(f64, f64)] = match marker {
            Marker::Disc => {
                return self.element(&format!(
                    r#"<circle cx="{x:.2}" cy="{y:.2}" r="{r:.2}" fill="{fill}"/>"#
                ));
            }
            Marker::Square => &[(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
            Marker::Diamond => &[(0.0, -1.2), (1.2, 0.0), (0.0, 1.2), (-1.2, 0.0)],
            Marker::Triangle => &[(0.0, -1.1), (1.1, 0.9), (-1.1, 0.9)],
            Marker::Wedge => &[(0.0, 1.1), (1.1, -0.9), (-1.1, -0.9)],
        };
        let corners: Vec<_> = corners
            .iter()
            .map(|(dx, dy)| (x + dx * r, y + dy * r))
            .collect();
        let path = path(&corners);
        self.element(&format!(r#"<polygon points="{path}" fill="{fill}"/>"#));
    }

    /// Adds a line of text whose baseline is at a point.
    pub(crate) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, paint: Paint, text: &str) {
        let anchor = anchor.attribute();
        let (paint, text) = (paint.attribute(), escaped(text));
        self.element(&format!(
            r#"<text x="{x:.2}" y="{y:.2}" text-anchor="{anchor}" {paint}>{text}</text>"#
        ));
    }

    /// Adds a line of text that reads upwards, around a point.
    pub(crate) fn text_upwards(&mut self, (x, y): (f64, f64), paint: Paint, text: &str) {
        let (paint, text) = (paint.attribute(), escaped(text));
        self.element(&format!(
            r#"<text transform="translate({x:.2} {y:.2}) rotate(-90)" text-anchor="middle" {paint}>{text}</text>"#
        ));
    }

    /// The file.
    pub(crate) fn finish(self) -> String {
        let Self {
            width,
            height,
            body,
        } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\">\n<style>{STYLE}</style>\n{body}</svg>\n"
        )
    }

    fn element(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }
}

impl Paint {
    fn attribute(self) -> String {
        match self {
            Self::Class(class) => format!(r#"class="{class}""#),
            Self::Colour(colour) => format!(r#"fill="{}""#, colour.hex()),
        }
    }
}

impl Anchor {
    const fn attribute(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

fn path(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (x, y) in points {
        let _ = write!(path, "{x:.2},{y:.2} ");
    }
    path.truncate(path.trim_end().len());
    path
}

/// Text for an element of SVG or HTML.
pub(crate) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_break_the_file() {
        let mut svg = Svg::new(10.0, 10.0);
        svg.text((1.0, 2.0), Anchor::End, Paint::Class("ink"), "a < b & c");
        let file = svg.finish();
        assert!(file.contains(">a &lt; b &amp; c</text>"), "{file}");
        assert!(file.starts_with("<svg ") && file.ends_with("</svg>\n"));
    }
}
