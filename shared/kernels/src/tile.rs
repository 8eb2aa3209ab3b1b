//! The product that both kernels are made of: a tile of rows with lines that lie in the nearest
//! cache, the sums in registers.

use pulp::Simd;

/// Rows whose sums stay in registers together.
pub(crate) const TILE_ROWS: usize = 6;

/// Vectors of columns whose sums stay in registers together with those of [`TILE_ROWS`] rows, where
/// there are 32 registers, and where there are fewer.
pub(crate) const TILE_VECTORS: usize = 4;
pub(crate) const TILE_VECTORS_FEW: usize = 2;

/// `R` rows of `[depth, width]`.
#[derive(Clone, Copy)]
pub(crate) struct Interleaved<'a, const R: usize> {
    /// From the first of the rows on.
    pub(crate) numbers: &'a [f32],
    pub(crate) width: usize,
}

impl<const R: usize> Interleaved<'_, R> {
    /// The numbers of the next depth, if there is one. Nothing that can fail, and not an iterator, whose
    /// adapters a compiler may leave as functions: both would keep sums from staying in registers.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> Option<[f32; R]> {
        let numbers = *self.numbers.first_chunk()?;
        self.numbers = self.numbers.get(self.width..).unwrap_or_default();
        Some(numbers)
    }
}

/// `[depth, width]`
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a> {
    /// From the first of the columns on.
    pub(crate) numbers: &'a [f32],
    pub(crate) width: usize,
}

/// `Σ_depth factors[depth][row] lines[depth][column]` for `N` vectors of columns. With each line it
/// asks for one line of the cache of `ahead`, so that those come from memory behind the sums.
#[inline(always)]
pub(crate) fn product<S: Simd, const R: usize, const N: usize>(
    simd: S,
    factors: Interleaved<'_, R>,
    lines: Lines<'_>,
    ahead: &[f32],
) -> [[S::f32s; N]; R] {
    let none = [[simd.splat_f32s(0.0); N]; R];
    product_onto::<S, R, N>(simd, none, factors, (lines, ahead))
}

/// The same, added depth by depth to sums that are there.
#[inline(always)]
pub(crate) fn product_onto<S: Simd, const R: usize, const N: usize>(
    simd: S,
    mut sums: [[S::f32s; N]; R],
    mut factors: Interleaved<'_, R>,
    (lines, ahead): (Lines<'_>, &[f32]),
) -> [[S::f32s; N]; R] {
    let mut next = ahead.as_ptr();
    for line in lines.numbers.chunks(lines.width) {
        let (line, _) = S::as_simd_f32s(line);
        let (Some(line), Some(factors)) = (line.first_chunk::<N>(), factors.next()) else {
            break;
        };
        prefetch(next);
        next = next.wrapping_add(CACHE_LINE);
        for row in 0..R {
            let factor = simd.splat_f32s(factors[row]);
            for vector in 0..N {
                sums[row][vector] = simd.mul_add_e_f32s(factor, line[vector], sums[row][vector]);
            }
        }
    }
    sums
}

/// Numbers of a line of the cache.
pub(crate) const CACHE_LINE: usize = 16;

/// Asks the processor to bring a line of the cache nearer; a hint that changes nothing, whatever is
/// there.
#[inline(always)]
fn prefetch(number: *const f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees and does not fault at any address.
        // Every processor of this architecture has the instruction.
        #[allow(unsafe_code)]
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(number.cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = number;
}

/// Adds sums to `N` vectors.
#[inline(always)]
pub(crate) fn add<S: Simd, const N: usize>(simd: S, out: &mut [S::f32s], sums: &[S::f32s; N]) {
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = simd.add_f32s(*out, *sum);
    }
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

    /// `[depth, TILE_ROWS]`
    pub(crate) fn tile(&self, tile: usize) -> &[f32] {
        let len = self.depth * TILE_ROWS;
        &self.numbers[tile * len..][..len]
    }
}
