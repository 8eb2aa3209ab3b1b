//! Rebuilds missing bytes from the planes, as far as those have come themselves.

use std::ops::Range;

use super::{GAPS_MAX, Gaps, Strides, add};

/// Most gaps with which it is tried: many times what planes of this length can rebuild.
const TRIED_GAPS_MAX: usize = 1024;

/// Most turns of both planes at a time; each solves what the turn before made solvable.
const TURNS_MAX: usize = 16;

/// A missing byte of a plane itself counts as two: its column cannot be solved.
const PLANE_GAP_WEIGHT: usize = 2;

/// The planes of one layer as they arrive.
#[derive(Debug)]
pub(crate) struct Repair {
    strides: Strides,
    planes: Vec<u8>,
    missing: Gaps,
}

/// Bytes that no honest sender of parity sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotParity;

/// Where unknown bytes of a column begin or end.
struct Border {
    column: usize,
    side: Side,
    weight: usize,
    row: usize,
}

/// Ends come first, so that no count is ever too small.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    End,
    Begin,
}

impl Repair {
    /// Nothing of the planes is there. Takes as much memory as they have bytes: check the strides first.
    pub(crate) fn new(strides: Strides) -> Self {
        let bytes = strides.iter().sum();
        Self {
            strides,
            planes: vec![0; bytes],
            missing: Gaps::of(0..bytes),
        }
    }

    /// Bytes of the planes, at `offset` from the beginning of the first.
    ///
    /// # Errors
    /// [`NotParity`] if there are no such bytes, or if they come in too many pieces.
    pub(crate) fn receive(&mut self, offset: usize, bytes: &[u8]) -> Result<(), NotParity> {
        let end = offset.checked_add(bytes.len()).ok_or(NotParity)?;
        let place = self.planes.get_mut(offset..end).ok_or(NotParity)?;
        place.copy_from_slice(bytes);
        self.missing.fill(offset..end);
        if self.missing.count() > GAPS_MAX {
            return Err(NotParity);
        }
        Ok(())
    }

    /// Rebuilds what it can of the `missing` bytes of `protected`; returns how many.
    pub(crate) fn rebuild(&self, protected: &mut [u8], missing: &mut Gaps) -> usize {
        let mut rebuilt = 0;
        for _ in 0..TURNS_MAX {
            let before = rebuilt;
            let mut base = 0;
            for stride in self.strides {
                let plane = base..base + stride;
                base = plane.end;
                for range in self.solvable(plane.clone(), protected.len(), missing) {
                    self.solve(plane.clone(), protected, range.clone());
                    rebuilt += missing.fill(range);
                }
            }
            if rebuilt == before || missing.is_empty() {
                break;
            }
        }
        rebuilt
    }

    /// The missing ranges whose columns have no other unknown in this plane.
    fn solvable(&self, plane: Range<usize>, end: usize, missing: &Gaps) -> Vec<Range<usize>> {
        let stride = plane.len();
        let is_hopeless = missing.count() > TRIED_GAPS_MAX
            // Every column has two unknowns.
            || missing.within(0..end).any(|gap| gap.len() >= 2 * stride);
        if is_hopeless {
            return Vec::new();
        }
        let mut borders = Vec::new();
        let mut mark = |columns: Range<usize>, weight, row| {
            for (column, side) in [(columns.start, Side::Begin), (columns.end, Side::End)] {
                borders.push(Border {
                    column,
                    side,
                    weight,
                    row,
                });
            }
        };
        for gap in missing.within(0..end) {
            let mut start = gap.start;
            while start < gap.end {
                let (row, column) = (start / stride, start % stride);
                let len = (gap.end - start).min(stride - column);
                mark(column..column + len, 1, row);
                start += len;
            }
        }
        for gap in self.missing.within(plane.clone()) {
            let columns = gap.start - plane.start..gap.end - plane.start;
            mark(columns, PLANE_GAP_WEIGHT, 0);
        }
        alone(borders, stride)
    }

    /// Rebuilds one range of one row.
    fn solve(&self, plane: Range<usize>, protected: &mut [u8], range: Range<usize>) {
        let stride = plane.len();
        let column = range.start % stride;
        let mut solved = self.planes[plane][column..column + range.len()].to_vec();
        for start in (column..protected.len()).step_by(stride) {
            if start != range.start {
                let end = protected.len().min(start + range.len());
                add(&mut solved, &protected[start..end]);
            }
        }
        protected[range].copy_from_slice(&solved);
    }
}

/// The ranges of rows that are the only unknown of their columns.
fn alone(mut borders: Vec<Border>, stride: usize) -> Vec<Range<usize>> {
    borders.sort_unstable_by_key(|border| (border.column, border.side));
    let mut ranges = Vec::new();
    // Of the unknowns in the columns at hand, how many and the sum of their rows: with one, its row.
    let (mut count, mut rows, mut from) = (0, 0, 0);
    for border in borders {
        if count == 1 && border.column > from {
            let start = rows * stride;
            ranges.push(start + from..start + border.column);
        }
        from = border.column;
        match border.side {
            Side::Begin => (count, rows) = (count + border.weight, rows + border.row),
            Side::End => (count, rows) = (count - border.weight, rows - border.row),
        }
    }
    ranges
}
