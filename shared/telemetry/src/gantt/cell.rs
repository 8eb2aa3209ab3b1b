//! What one cell of a chart shows, and how a track of spans becomes cells.

use super::axis::Axis;
use crate::timeline::Span;

/// What was going on, in the order of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    CloudComputed,
    OnTheWire,
    EdgeWaited,
    EdgeComputed,
}

impl Kind {
    pub(super) const fn symbol(self) -> char {
        match self {
            Self::CloudComputed => 'C',
            Self::OnTheWire => '>',
            Self::EdgeWaited => '.',
            Self::EdgeComputed => '#',
        }
    }

    pub(super) const fn ansi(self) -> &'static str {
        match self {
            Self::CloudComputed => "\x1b[36m",
            Self::OnTheWire => "\x1b[33m",
            Self::EdgeWaited => "\x1b[31m",
            Self::EdgeComputed => "\x1b[32m",
        }
    }
}

/// The cells of `track`: each blank, or the kind that fills most of its slice of time.
pub(super) fn cells_of(track: &[(Kind, Span)], axis: Axis) -> Vec<Option<Kind>> {
    (0..axis.cell_count)
        .map(|cell| main_kind(track, axis.cell_start(cell), axis.cell_start(cell + 1)))
        .collect()
}

fn main_kind(track: &[(Kind, Span)], start_ns: u128, end_ns: u128) -> Option<Kind> {
    let filled_by = |kind: Kind| -> u128 {
        let spans = track.iter().filter(|(of, _)| *of == kind);
        spans
            .map(|(_, span)| shared_ns(*span, start_ns, end_ns))
            .sum()
    };
    track
        .iter()
        .map(|&(kind, _)| (filled_by(kind), kind))
        .filter(|&(filled_ns, _)| filled_ns > 0)
        .max()
        .map(|(_, kind)| kind)
}

/// How much of the slice `start_ns..end_ns` lies in `span`.
fn shared_ns(span: Span, start_ns: u128, end_ns: u128) -> u128 {
    let from = span.start().as_nanos().max(start_ns);
    span.end().as_nanos().min(end_ns).saturating_sub(from)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_cell_shows_what_fills_most_of_it() {
        let span = |start, end| Span::new(Duration::from_nanos(start), Duration::from_nanos(end));
        let track = [
            (Kind::EdgeWaited, span(0, 14)),
            (Kind::EdgeComputed, span(14, 35)),
            (Kind::EdgeWaited, span(35, 41)),
        ];
        let [waited, computed] = [Some(Kind::EdgeWaited), Some(Kind::EdgeComputed)];
        // Cell 3 is shared by halves, so the later kind wins; a tenth of cell 4 is filled.
        let expected = [waited, computed, computed, computed, waited, None];
        assert_eq!(
            cells_of(
                &track,
                Axis {
                    total_ns: 60,
                    cell_count: 6
                }
            ),
            expected
        );
    }
}
