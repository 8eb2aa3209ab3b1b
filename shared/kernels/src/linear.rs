//! A product of a few rows with a matrix. A piece of the matrix is copied into the nearest caches
//! once, and all rows read it there.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use crate::tile::{
    Ahead, CACHE_LINE, PackedRows, TILE_ROWS, TILE_VECTORS, TILE_VECTORS_FEW, tile_product,
};

/// Lines of the matrix in a piece.
const PIECE_DEPTH: usize = 64;

/// Columns of the matrix that are copied at a time: long stretches of memory are fetched ahead.
const STRIPE_WIDTH: usize = 256;

/// A matrix `[depth, column]` in memory.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Line after line.
    pub numbers: &'a [f32],
    /// Columns in all.
    pub width: usize,
}

/// The product of all rows with `count` columns from `first` on: `[row, count]`.
pub fn columns(rows: &PackedRows, matrix: Matrix<'_>, (first, count): (usize, usize)) -> Vec<f32> {
    let mut out = vec![0.0; rows.row_count() * count];
    Arch::new().dispatch(Columns {
        rows,
        matrix,
        first,
        count,
        out: &mut out,
    });
    out
}

struct Columns<'a> {
    rows: &'a PackedRows,
    matrix: Matrix<'a>,
    first: usize,
    count: usize,
    out: &'a mut [f32],
}

impl WithSimd for Columns<'_> {
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

impl Columns<'_> {
    /// In pieces of `N` vectors of columns.
    #[inline(always)]
    fn with_vectors<S: Simd, const N: usize>(self, simd: S) {
        let width = N * S::F32_LANES;
        let mut stripe = vec![0.0; PIECE_DEPTH * STRIPE_WIDTH.next_multiple_of(width)];
        let mut sums = vec![0.0; TILE_ROWS * width];
        for columns in (0..self.count).step_by(STRIPE_WIDTH) {
            let columns = columns..self.count.min(columns + STRIPE_WIDTH);
            for depth in (0..self.rows.depth()).step_by(PIECE_DEPTH) {
                let len = PIECE_DEPTH.min(self.rows.depth() - depth);
                self.copy(&mut stripe, (depth, len), (&columns, width));
                let product_count = columns.len().div_ceil(width) * self.rows.tile_count();
                let mut done = 0;
                for (index, column) in columns.clone().step_by(width).enumerate() {
                    let piece = &stripe[index * PIECE_DEPTH * width..][..len * width];
                    for tile in 0..self.rows.tile_count() {
                        let factors = &self.rows.tile(tile)[depth * TILE_ROWS..][..len * TILE_ROWS];
                        let products = (done, product_count);
                        let ahead = self.ahead(depth + PIECE_DEPTH, &columns, products);
                        done += 1;
                        tile_product::<S, N>(simd, (factors, piece), &mut sums, ahead);
                        let out = &mut self.out[tile * TILE_ROWS * self.count..];
                        let lines = out.chunks_mut(self.count).take(TILE_ROWS);
                        for (line, sums) in lines.zip(sums.chunks_exact(width)) {
                            for (out, sum) in line[column..columns.end].iter_mut().zip(sums) {
                                *out += sum;
                            }
                        }
                    }
                }
            }
        }
    }

    /// What the product `index` of `product_count` on a stripe asks for of the next stripe, which
    /// begins at the line `depth`: its share of the columns.
    #[inline(always)]
    fn ahead(
        &self,
        depth: usize,
        columns: &Range<usize>,
        (index, product_count): (usize, usize),
    ) -> Ahead<'_> {
        let share = columns.len().div_ceil(product_count);
        let share = share.next_multiple_of(CACHE_LINE);
        let column = columns.start + index * share;
        if column >= columns.end || depth >= self.rows.depth() {
            return Ahead::NOTHING;
        }
        Ahead {
            numbers: &self.matrix.numbers[depth * self.matrix.width + self.first + column..],
            count: share.min(columns.end - column),
            stride: self.matrix.width,
        }
    }

    /// Copies a stripe of lines, cut into pieces of `width` columns that lie one after another.
    #[inline(always)]
    fn copy(
        &self,
        stripe: &mut [f32],
        (depth, len): (usize, usize),
        (columns, width): (&Range<usize>, usize),
    ) {
        for line in 0..len {
            let start = (depth + line) * self.matrix.width + self.first + columns.start;
            let from = &self.matrix.numbers[start..start + columns.len()];
            for (index, from) in from.chunks(width).enumerate() {
                let to = (index * PIECE_DEPTH + line) * width;
                stripe[to..to + from.len()].copy_from_slice(from);
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
            let numbers: Vec<_> = (0..depth * width).map(|index| number(index + 7)).collect();
            let (a, b) = (cut.0.index(width), cut.1.index(width));
            let (first, end) = (a.min(b), a.max(b) + 1);
            let matrix = Matrix { numbers: &numbers, width };
            let found = columns(&PackedRows::new(&rows, depth), matrix, (first, end - first));
            // Whole numbers below 2²⁴: no rounding, whatever the order of sums.
            for row in 0..row_count {
                for column in first..end {
                    let product = (0..depth).map(|d| rows[row * depth + d] * numbers[d * width + column]);
                    let expected: f32 = product.sum();
                    prop_assert_eq!(found[row * (end - first) + column - first], expected);
                }
            }
        }
    }
}
