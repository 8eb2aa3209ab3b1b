//! A heat map over two lists of settings: a word or a number in every cell, its colour saying of which
//! kind or how large it is, and a line where the numbers cross a value that matters.

use super::colour::{BLUE, ORANGE, PALE, Rgb, VERMILION};
use super::svg::{Anchor, Paint, Rect, Svg};

/// What to draw.
pub(crate) struct HeatMap {
    /// First line.
    pub(crate) title: String,
    /// Second line.
    pub(crate) subtitle: String,
    /// What the columns are, with its unit, and their labels.
    pub(crate) columns: (&'static str, Vec<String>),
    /// What the rows are, with its unit, and their labels.
    pub(crate) rows: (&'static str, Vec<String>),
    /// Row by row; what was not measured stays empty.
    pub(crate) cells: Vec<Vec<Option<Cell>>>,
    /// What stands below.
    pub(crate) key: Key,
}

/// One cell.
#[derive(Clone)]
pub(crate) struct Cell {
    /// What a contour is drawn along.
    pub(crate) value: f64,
    /// What stands in it.
    pub(crate) label: String,
    /// What it is filled with.
    pub(crate) colour: Rgb,
}

/// What stands below a map.
#[derive(Clone, Copy)]
pub(crate) enum Key {
    /// Where a line is drawn, and what it says.
    Contour(f64, &'static str),
    /// What the cells say.
    Words(&'static str),
}

/// How values become colours.
#[derive(Clone, Copy)]
pub(crate) enum Shades {
    /// The larger, the worse: pale up to `good`, strong from `bad` on.
    Above {
        /// Nothing to complain about.
        good: f64,
        /// Bad.
        bad: f64,
    },
    /// A ratio: one colour below 1, another above, in proportion to its logarithm, strong from a
    /// factor of `strong` on.
    Ratio {
        /// The factor.
        strong: f64,
    },
}

const LEFT: f64 = 96.0;
const TOP: f64 = 64.0;
const CELL_WIDTH: f64 = 104.0;
const CELL_HEIGHT: f64 = 56.0;
const RIGHT: f64 = 32.0;
const BOTTOM: f64 = 92.0;
/// Room for the two lines of text above.
const WIDTH_MIN: f64 = 640.0;

impl HeatMap {
    /// The SVG file.
    pub(crate) fn draw(&self) -> String {
        let bottom = TOP + as_f64(self.cells.len()) * CELL_HEIGHT;
        let right = LEFT + as_f64(self.columns.1.len()) * CELL_WIDTH;
        let mut svg = Svg::new((right + RIGHT).max(WIDTH_MIN), bottom + BOTTOM);
        svg.heading(&self.title, &self.subtitle);
        for (row, cells) in self.cells.iter().enumerate() {
            for (column, cell) in cells.iter().enumerate() {
                if let Some(cell) = cell {
                    draw_cell(&mut svg, (row, column), cell);
                }
            }
        }
        self.draw_labels(&mut svg, (right, bottom));
        let key = match self.key {
            Key::Words(words) => words.to_owned(),
            Key::Contour(at, words) => {
                let crossings = self.cells.iter().map(|row| crossings(row, at));
                match draw_contour(&mut svg, &crossings.collect::<Vec<_>>()) {
                    true => format!("thick line: {words}"),
                    false => format!("nowhere here: {words}"),
                }
            }
        };
        svg.text(
            (LEFT, bottom + 72.0),
            Anchor::Start,
            Paint::Class("ink"),
            &key,
        );
        svg.finish()
    }

    fn draw_labels(&self, svg: &mut Svg, (right, bottom): (f64, f64)) {
        let (ink, muted) = (Paint::Class("ink"), Paint::Class("muted"));
        for (column, label) in self.columns.1.iter().enumerate() {
            let x = LEFT + (as_f64(column) + 0.5) * CELL_WIDTH;
            svg.text((x, bottom + 18.0), Anchor::Middle, muted, label);
        }
        for (row, label) in self.rows.1.iter().enumerate() {
            let y = TOP + (as_f64(row) + 0.5) * CELL_HEIGHT + 4.0;
            svg.text((LEFT - 10.0, y), Anchor::End, muted, label);
        }
        let middle = f64::midpoint(LEFT, right);
        svg.text((middle, bottom + 40.0), Anchor::Middle, ink, self.columns.0);
        svg.text_upwards((28.0, f64::midpoint(TOP, bottom)), ink, self.rows.0);
    }
}

fn draw_cell(svg: &mut Svg, (row, column): (usize, usize), cell: &Cell) {
    let place = Rect {
        x: LEFT + as_f64(column) * CELL_WIDTH,
        y: TOP + as_f64(row) * CELL_HEIGHT,
        width: CELL_WIDTH - 1.0,
        height: CELL_HEIGHT - 1.0,
    };
    svg.rect(place, Paint::Colour(cell.colour));
    let middle = (
        place.x + place.width / 2.0,
        place.y + place.height / 2.0 + 4.0,
    );
    let ink = Paint::Colour(cell.colour.ink());
    svg.text(middle, Anchor::Middle, ink, &cell.label);
}

impl Shades {
    /// A cell with a number.
    pub(crate) fn cell(self, value: f64) -> Cell {
        Cell {
            value,
            label: format!("{value:.2}"),
            colour: self.of(value),
        }
    }

    fn of(self, value: f64) -> Rgb {
        match self {
            Self::Above { good, bad } => PALE.mix(VERMILION, (value - good) / (bad - good)),
            Self::Ratio { strong } => {
                let share = value.ln() / strong.ln();
                PALE.mix(if share < 0.0 { ORANGE } else { BLUE }, share.abs())
            }
        }
    }
}

/// Where a row crosses a value, in columns from the middle of the first one. Between two columns it
/// is interpolated in the logarithm, for ratios are.
fn crossings(row: &[Option<Cell>], at: f64) -> Vec<f64> {
    let value = |cell: &Option<Cell>| cell.as_ref().map(|cell| cell.value);
    let pairs = row.windows(2).enumerate();
    let crossing = pairs.filter_map(|(column, pair)| {
        let (before, after) = value(&pair[0]).zip(value(&pair[1]))?;
        let share = (at / before).ln() / (after / before).ln();
        let crosses = (before < at) != (after < at);
        crosses.then(|| as_f64(column) + share.clamp(0.0, 1.0))
    });
    crossing.collect()
}

/// Draws a step for every crossing, joined with the same crossing of the next row.
fn draw_contour(svg: &mut Svg, rows: &[Vec<f64>]) -> bool {
    let x = |column: &f64| LEFT + (column + 0.5) * CELL_WIDTH;
    for (row, crossings) in rows.iter().enumerate() {
        let (y, next) = (TOP + as_f64(row) * CELL_HEIGHT, rows.get(row + 1));
        for (number, column) in crossings.iter().enumerate() {
            let end = y + CELL_HEIGHT;
            let mut points = vec![(x(column), y), (x(column), end)];
            let below = next.and_then(|next| next.get(number));
            points.extend(below.map(|below| (x(below), end)));
            svg.polyline(&points, "contour");
        }
    }
    rows.iter().any(|crossings| !crossings.is_empty())
}

/// Rows and columns are few.
#[expect(clippy::cast_precision_loss, reason = "a count on a page")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHADES: Shades = Shades::Ratio { strong: 4.0 };

    fn map(cells: &[&[f64]]) -> HeatMap {
        let some = |row: &&[f64]| row.iter().map(|value| Some(SHADES.cell(*value))).collect();
        let cells: Vec<_> = cells.iter().map(some).collect();
        HeatMap {
            title: "t".into(),
            subtitle: "s".into(),
            columns: ("rate (Mbit/s)", vec!["50".into(), "100".into()]),
            rows: ("RTT (ms)", vec!["1".into(); cells.len()]),
            cells,
            key: Key::Contour(1.0, "equal"),
        }
    }

    #[test]
    fn a_crossing_is_interpolated() {
        let at_one = |row: &[Option<f64>]| {
            let cells = row
                .iter()
                .map(|value| value.map(|value| SHADES.cell(value)));
            crossings(&cells.collect::<Vec<_>>(), 1.0)
        };
        assert_eq!(at_one(&[Some(0.5), Some(2.0)]), [0.5]);
        assert_eq!(at_one(&[Some(3.0), Some(2.0), Some(0.5)]), [1.5]);
        assert_eq!(at_one(&[Some(0.5), Some(2.0), Some(0.5)]), [0.5, 1.5]);
        assert_eq!(at_one(&[Some(0.5), Some(1.0)]), [1.0]);
        assert!(at_one(&[Some(2.0), Some(3.0)]).is_empty());
        assert!(at_one(&[Some(0.5), None, Some(2.0)]).is_empty());
    }

    #[test]
    fn every_cell_has_its_number_and_the_line_is_explained() {
        let file = map(&[&[0.5, 2.0], &[0.9, 1.5]]).draw();
        for number in ["0.50", "2.00", "0.90", "1.50"] {
            assert!(file.contains(&format!(">{number}<")), "{file}");
        }
        assert!(file.contains("thick line: equal"));
        let without = map(&[&[2.0, 3.0]]).draw();
        assert!(without.contains("nowhere here: equal"));
    }

    #[test]
    fn colours_say_which_side_a_ratio_is_on() {
        assert_eq!(SHADES.of(1.0), PALE);
        assert_eq!(SHADES.of(4.0), BLUE);
        assert_eq!(SHADES.of(0.25), ORANGE);
        let above = Shades::Above {
            good: 1.0,
            bad: 1.3,
        };
        assert_eq!(above.of(0.8), PALE);
        assert_eq!(above.of(2.0), VERMILION);
    }

    #[test]
    fn a_map_of_words_has_no_line() {
        let plain = map(&[&[0.5, 2.0]]);
        let words = HeatMap {
            key: Key::Words("what it says"),
            cells: vec![vec![
                None,
                Some(Cell {
                    value: 1.0,
                    label: "P1".to_owned(),
                    colour: ORANGE,
                }),
            ]],
            ..map(&[&[0.5, 2.0]])
        };
        let (plain, words) = (plain.draw(), words.draw());
        assert!(words.contains(">P1<") && words.contains(&ORANGE.hex()));
        assert!(words.contains("what it says"));
        let lines = |file: &str| file.matches("class=\"contour\"").count();
        assert_eq!((lines(&plain), lines(&words)), (1, 0), "{plain}");
    }
}
