//! The product that both kernels are made of: a tile of rows with lines that lie in the nearest
//! cache, the sums in registers.

use pulp::Simd;

/// Rows whose sums stay in registers together.
pub(crate) const TILE_ROWS: usize = 6;

/// Vectors of columns whose sums stay in registers together with those of [`TILE_ROWS`] rows, where
/// there are 32 registers, and where there are fewer.
pub(crate) const TILE_VECTORS: usize = 4;
pub(crate) const TILE_VECTORS_FEW: usize = 2;

/// One factor of a product: `R` numbers for each depth. Nothing that can fail is left for the loop
/// over depths: it would keep sums from staying in registers.
pub(crate) trait Factors<const R: usize> {
    fn lines(&self) -> impl Iterator<Item = [f32; R]>;
}

/// `[R, depth]`
pub(crate) struct SideBySide<'a, const R: usize> {
    rows: [&'a [f32]; R],
    depth: usize,
}

impl<'a, const R: usize> SideBySide<'a, R> {
    #[inline(always)]
    pub(crate) fn new(numbers: &'a [f32], depth: usize) -> Self {
        Self {
            rows: std::array::from_fn(|row| &numbers[row * depth..][..depth]),
            depth,
        }
    }
}

impl<const R: usize> Factors<R> for SideBySide<'_, R> {
    #[inline(always)]
    fn lines(&self) -> impl Iterator<Item = [f32; R]> {
        let rows = self.rows;
        (0..self.depth).map(move |depth| std::array::from_fn(|row| rows[row][depth]))
    }
}

/// `R` rows of `[depth, width]`.
pub(crate) struct Interleaved<'a, const R: usize> {
    /// From the first of the rows on.
    pub(crate) numbers: &'a [f32],
    pub(crate) width: usize,
}

impl<const R: usize> Factors<R> for Interleaved<'_, R> {
    #[inline(always)]
    fn lines(&self) -> impl Iterator<Item = [f32; R]> {
        let lines = self.numbers.chunks(self.width);
        lines.map_while(|line| line.first_chunk().copied())
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
pub(crate) fn product<S: Simd, F: Factors<R>, const R: usize, const N: usize>(
    simd: S,
    factors: &F,
    lines: Lines<'_>,
    ahead: &[f32],
) -> [[S::f32s; N]; R] {
    let mut sums = [[simd.splat_f32s(0.0); N]; R];
    let mut next = ahead.as_ptr();
    for (line, factors) in lines.numbers.chunks(lines.width).zip(factors.lines()) {
        let (line, _) = S::as_simd_f32s(line);
        let Some(line) = line.first_chunk::<N>() else {
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
