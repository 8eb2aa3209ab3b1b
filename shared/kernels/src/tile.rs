//! The product that both kernels are made of: a tile of rows with a piece of a matrix that lies in
//! the nearest cache, the sums in registers.

use pulp::Simd;

/// Rows whose sums stay in registers together.
pub(crate) const TILE_ROWS: usize = 6;

/// Vectors of columns whose sums stay in registers together with those of [`TILE_ROWS`] rows, where
/// there are 32 registers, and where there are fewer.
pub(crate) const TILE_VECTORS: usize = 4;
pub(crate) const TILE_VECTORS_FEW: usize = 2;

/// Numbers of a line of the cache.
pub(crate) const CACHE_LINE: usize = 16;

/// Numbers that will be read next: some with each line of the piece that is worked on, so that they
/// come from memory behind the sums.
#[derive(Clone, Copy)]
pub(crate) struct Ahead<'a> {
    pub(crate) numbers: &'a [f32],
    /// How many come with one line.
    pub(crate) count: usize,
    /// From the first that come with one line to the first that come with the next.
    pub(crate) stride: usize,
}

impl Ahead<'_> {
    /// Nothing follows.
    pub(crate) const NOTHING: Self = Self {
        numbers: &[],
        count: 0,
        stride: 0,
    };
}

/// `sums[row][column] = Σ_d factors[d][row] piece[d][column]` for [`TILE_ROWS`] rows and `N`
/// vectors of columns.
#[inline(always)]
pub(crate) fn tile_product<S: Simd, const N: usize>(
    simd: S,
    (factors, piece): (&[f32], &[f32]),
    sums: &mut [f32],
    ahead: Ahead<'_>,
) {
    let mut held = [[simd.splat_f32s(0.0); N]; TILE_ROWS];
    let (piece, _) = S::as_simd_f32s(piece);
    let (lines, _) = piece.as_chunks::<N>();
    let (factors, _) = factors.as_chunks::<TILE_ROWS>();
    let mut next = 0;
    for (line, factors) in lines.iter().zip(factors) {
        for column in (0..ahead.count).step_by(CACHE_LINE) {
            if let Some(number) = ahead.numbers.get(next + column) {
                prefetch(number);
            }
        }
        next += ahead.stride;
        for row in 0..TILE_ROWS {
            let factor = simd.splat_f32s(factors[row]);
            for vector in 0..N {
                held[row][vector] = simd.mul_add_e_f32s(factor, line[vector], held[row][vector]);
            }
        }
    }
    let (sums, _) = S::as_mut_simd_f32s(sums);
    for (sums, held) in sums.chunks_exact_mut(N).zip(&held) {
        sums.copy_from_slice(held);
    }
}

/// Asks the processor to bring a number's line of the cache nearer; a hint that changes nothing.
#[inline(always)]
fn prefetch(number: &f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, and the address is of a number
        // that is there. Every processor of this architecture has the instruction.
        #[allow(unsafe_code)]
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(number).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = number;
}

/// Rows laid out for reading: by tiles of `TILE_ROWS`, in each of which the numbers that meet the
/// same line of the piece are side by side. The last tile is filled up with zeros. Deliberately not
/// `Debug`: they may be private.
pub struct PackedRows {
    /// `[tile, depth, TILE_ROWS]`
    numbers: Vec<f32>,
    row_count: usize,
    depth: usize,
}

impl PackedRows {
    /// Of `[row, depth]`.
    pub fn new(rows: &[f32], depth: usize) -> Self {
        let row_count = rows.len() / depth;
        let tile_count = row_count.div_ceil(TILE_ROWS);
        let mut numbers = vec![0.0; tile_count * depth * TILE_ROWS];
        for (row, from) in rows.chunks_exact(depth).enumerate() {
            let start = row / TILE_ROWS * depth * TILE_ROWS + row % TILE_ROWS;
            let places = numbers[start..].iter_mut().step_by(TILE_ROWS);
            for (place, number) in places.zip(from) {
                *place = *number;
            }
        }
        Self {
            numbers,
            row_count,
            depth,
        }
    }

    pub(crate) const fn row_count(&self) -> usize {
        self.row_count
    }

    pub(crate) const fn depth(&self) -> usize {
        self.depth
    }

    pub(crate) const fn tile_count(&self) -> usize {
        self.row_count.div_ceil(TILE_ROWS)
    }

    /// `[depth, TILE_ROWS]`
    pub(crate) fn tile(&self, tile: usize) -> &[f32] {
        let len = self.depth * TILE_ROWS;
        &self.numbers[tile * len..][..len]
    }
}
