//! A product of rows with a matrix that is laid out in panels, so that it streams from memory once
//! for many rows.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::tile::{
    CACHE_LINE, Interleaved, Lines, PackedRows, TILE_ROWS, TILE_VECTORS, TILE_VECTORS_FEW, add,
    product,
};

/// Columns of a panel.
pub const PANEL_WIDTH: usize = 64;

/// Lines of a panel that stay in the nearest cache while all rows meet them.
const PIECE_DEPTH: usize = 128;

/// A matrix `[depth, width]` cut into panels of [`PANEL_WIDTH`] columns, each line by line and one
/// after another: `[panel, depth, PANEL_WIDTH]`. The last panel is filled up.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    /// All panels.
    pub numbers: &'a [f32],
    /// Lines of each.
    pub depth: usize,
}

impl Panels<'_> {
    /// Numbers of a matrix in panels.
    pub const fn len_of([depth, width]: [usize; 2]) -> usize {
        width.div_ceil(PANEL_WIDTH) * depth * PANEL_WIDTH
    }

    /// Where a number of a matrix of `depth` lines is.
    pub const fn place_of(depth: usize, [line, column]: [usize; 2]) -> usize {
        (column / PANEL_WIDTH * depth + line) * PANEL_WIDTH + column % PANEL_WIDTH
    }

    /// A column, from line to line.
    pub fn column(&self, column: usize) -> impl Iterator<Item = f32> {
        let start = Self::place_of(self.depth, [0, column]);
        let lines = self.numbers[start..].iter().step_by(PANEL_WIDTH);
        lines.take(self.depth).copied()
    }
}

/// The products of all rows with the columns from `panel` on, as many as `out` has: it holds a
/// slice for each row, all of one length. What was there is not read: memory that is fresh from the
/// system would have to be mapped twice.
///
/// # Panics
/// If there are fewer columns or other rows.
pub fn columns(rows: &PackedRows, panels: Panels<'_>, panel: usize, out: &mut [&mut [f32]]) {
    assert!(rows.depth() == panels.depth && rows.row_count() == out.len());
    Arch::new().dispatch(Columns {
        rows,
        numbers: &panels.numbers[panel * panels.depth * PANEL_WIDTH..],
        out,
    });
}

struct Columns<'a, 'b> {
    rows: &'a PackedRows,
    /// From the first panel on.
    numbers: &'a [f32],
    out: &'a mut [&'b mut [f32]],
}

impl WithSimd for Columns<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.with_vectors::<S, TILE_VECTORS>(simd);
        } else {
            self.with_vectors::<S, TILE_VECTORS_FEW>(simd);
        }
    }
}

impl Columns<'_, '_> {
    /// In pieces, of which `N` vectors of columns are worked on at a time.
    #[inline(always)]
    fn with_vectors<S: Simd, const N: usize>(self, simd: S) {
        let width = self.out.first().map_or(0, |row| row.len());
        let depth = self.rows.depth();
        for first in (0..width).step_by(PANEL_WIDTH) {
            let columns = first..width.min(first + PANEL_WIDTH);
            for start in (0..depth).step_by(PIECE_DEPTH) {
                let place = first * depth + start * PANEL_WIDTH;
                let len = PIECE_DEPTH.min(depth - start) * PANEL_WIDTH;
                let (piece, next) = self.numbers[place..].split_at(len);
                for (tile, out) in self.out.chunks_mut(TILE_ROWS).enumerate() {
                    // Each tile asks for its share of the next piece.
                    let ahead = next.get(tile * PIECE_DEPTH * CACHE_LINE..);
                    let ahead = ahead.unwrap_or_default();
                    let factors = &self.rows.tile(tile)[start * TILE_ROWS..];
                    let factors = (factors, piece, ahead);
                    let then = if start == 0 { Then::Put } else { Then::Add };
                    let out = (out, columns.clone(), then);
                    match out.0.len() {
                        1 => multiply::<S, 1, N>(simd, factors, out),
                        2 => multiply::<S, 2, N>(simd, factors, out),
                        3 | 4 => multiply::<S, 4, N>(simd, factors, out),
                        _ => multiply::<S, TILE_ROWS, N>(simd, factors, out),
                    }
                }
            }
        }
    }
}

/// What becomes of sums.
#[derive(Clone, Copy)]
enum Then {
    /// They are the first.
    Put,
    /// They belong to those that are there.
    Add,
}

/// Puts or adds the product of a tile, of which `R` rows are used, with a piece.
#[inline(always)]
fn multiply<S: Simd, const R: usize, const N: usize>(
    simd: S,
    (factors, piece, mut ahead): (&[f32], &[f32], &[f32]),
    (out, columns, then): (&mut [&mut [f32]], Range<usize>, Then),
) {
    let factors = Interleaved::<R> {
        numbers: factors,
        width: TILE_ROWS,
    };
    let width = N * S::F32_LANES;
    for at in (0..columns.len()).step_by(width) {
        let lines = Lines {
            numbers: &piece[at..],
            width: PANEL_WIDTH,
        };
        let sums = product::<S, R, N>(simd, factors, lines, ahead);
        ahead = &[];
        let first = columns.start + at;
        let end = columns.end.min(first + width);
        for (out, sums) in out.iter_mut().zip(&sums) {
            let out = &mut out[first..end];
            if out.len() == width {
                let (out, _) = S::as_mut_simd_f32s(out);
                match then {
                    Then::Put => out.copy_from_slice(sums),
                    Then::Add => add(simd, out, sums),
                }
            } else {
                // The panel is wider than the matrix.
                let mut held = [0.0; PANEL_WIDTH];
                S::as_mut_simd_f32s(&mut held[..width])
                    .0
                    .copy_from_slice(sums);
                for (out, sum) in out.iter_mut().zip(&held) {
                    *out = match then {
                        Then::Put => *sum,
                        Then::Add => *out + sum,
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn columns_are_those_of_the_product(
            row_count in 1..20usize,
            depth in 1..200usize,
            width in 1..600usize,
            cut in any::<(prop::sample::Index, prop::sample::Index)>(),
        ) {
            let number = |index: usize| f32::from(u8::try_from(index * 37 % 251).unwrap()) - 125.0;
            let rows: Vec<_> = (0..row_count * depth).map(number).collect();
            let mut numbers = vec![f32::NAN; Panels::len_of([depth, width])];
            for line in 0..depth {
                for column in 0..width {
                    numbers[Panels::place_of(depth, [line, column])] = number(line * width + column + 7);
                }
            }
            let panels = Panels { numbers: &numbers, depth };
            let panel = cut.0.index(width.div_ceil(PANEL_WIDTH));
            let first = panel * PANEL_WIDTH;
            let count = cut.1.index(width - first) + 1;
            let mut found = vec![f32::NAN; row_count * count];
            let mut out: Vec<_> = found.chunks_exact_mut(count).collect();
            columns(&PackedRows::new(&rows, depth), panels, panel, &mut out);
            // Whole numbers below 2²⁴: no rounding, whatever the order of sums.
            for column in 0..count {
                let of_matrix: Vec<_> = panels.column(first + column).collect();
                prop_assert_eq!(of_matrix.len(), depth);
                for row in 0..row_count {
                    let product = rows[row * depth..].iter().zip(&of_matrix).map(|(a, b)| a * b);
                    prop_assert_eq!(found[row * count + column], product.sum::<f32>());
                }
            }
        }

        #[test]
        fn a_row_gets_the_same_bits_in_any_company(
            row_count in 1..20usize,
            depth in prop_oneof![1..300usize, Just(768)],
            width in 1..200usize,
            cut in any::<(prop::sample::Index, prop::sample::Index)>(),
        ) {
            let number = |index: usize| (index as f32 * 0.618_034).fract() - 0.5;
            let rows: Vec<_> = (0..row_count * depth).map(number).collect();
            let numbers: Vec<_> = (7..7 + Panels::len_of([depth, width])).map(number).collect();
            let panels = Panels { numbers: &numbers, depth };
            let products = |rows: &[f32]| {
                let mut found = vec![f32::NAN; rows.len() / depth * width];
                let mut out: Vec<_> = found.chunks_exact_mut(width).collect();
                columns(&PackedRows::new(rows, depth), panels, 0, &mut out);
                found
            };
            let (a, b) = (cut.0.index(row_count), cut.1.index(row_count));
            let (first, end) = (a.min(b), a.max(b) + 1);
            let together = products(&rows)[first * width..end * width].to_vec();
            let apart = products(&rows[first * depth..end * depth]);
            let bits = |numbers: Vec<f32>| numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            prop_assert_eq!(bits(apart), bits(together));
        }
    }
}
