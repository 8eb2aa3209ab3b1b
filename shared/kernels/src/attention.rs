//! Attention of rows of queries over the keys and values of one head, where they lie: in one stretch
//! or in blocks.
//!
//! What a row gets is, to the last bit, a function of its query, of the keys that it sees and of their
//! values: not of the rows beside it, nor of how keys are cut, nor of keys that only others see. So a
//! token's numbers are the same whether it is computed in a prompt or alone.

use pulp::{Arch, Simd, WithSimd};

mod few;
mod many;
mod softmax;
mod stretch;

use softmax::LANES;

/// Rows from which on each is a lane of vectors, though not all lanes are used.
const MANY_MIN: usize = 4;

/// Keys whose attention is computed by itself and merged then, counted from the first of a segment: a
/// single row is work for many threads.
pub const SPAN_LEN: usize = 1024;

/// Keys and values of consecutive tokens of one head: `[token, head_dim]` each. Deliberately not `Debug`:
/// they may be private.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// Post-RoPE.
    pub keys: &'a [f32],
    /// As many as keys.
    pub values: &'a [f32],
}

/// Rows of queries of one head. Deliberately not `Debug`: they are private.
#[derive(Clone, Copy)]
pub struct Queries<'a> {
    /// `[row, head_dim]`, scaled by 1/√head_dim.
    pub numbers: &'a [f32],
    /// Of each row, how many keys it sees: the first ones.
    pub seen: &'a [usize],
    /// Numbers of a row, and of a key.
    pub head_dim: usize,
}

impl Queries<'_> {
    /// Spans of which some row sees something.
    pub fn span_count(&self) -> usize {
        self.seen_max().div_ceil(SPAN_LEN)
    }

    /// Keys that some row sees.
    pub fn seen_max(&self) -> usize {
        self.seen.iter().copied().max().unwrap_or(0)
    }

    /// How many keys of a span a row sees.
    fn seen_of_span(&self, row: usize, span: usize) -> usize {
        of_span(self.seen[row], span)
    }

    /// The most keys of a span that a row sees.
    fn seen_max_of_span(&self, span: usize) -> usize {
        of_span(self.seen_max(), span)
    }
}

fn of_span(seen: usize, span: usize) -> usize {
    seen.saturating_sub(span * SPAN_LEN).min(SPAN_LEN)
}

/// Attention of rows of queries over some keys of one head. Deliberately not `Debug`, as it comes of
/// private queries.
pub struct HeadPart {
    /// `[row, head_dim]`; zeros where a row sees no key.
    pub output: Vec<f32>,
    /// The log-sum-exp of each row; −∞ where it sees no key.
    pub lse: Vec<f32>,
}

/// Attention of all rows over the keys of one span, which `chunks` begin with and hold as far as some
/// row sees them.
///
/// # Panics
/// If `queries` do not fit each other, or keys are missing.
pub fn attend_span(queries: Queries<'_>, span: usize, chunks: &[Chunk<'_>]) -> HeadPart {
    assert_eq!(queries.numbers.len(), queries.seen.len() * queries.head_dim);
    let held: usize = chunks.iter().map(|chunk| chunk.keys.len()).sum();
    assert!(held >= queries.seen_max_of_span(span) * queries.head_dim);
    let attend = AttendSpan {
        queries,
        span,
        chunks,
    };
    #[cfg(target_arch = "x86_64")]
    if queries.seen.len() < MANY_MIN
        && let Some(simd) = pulp::x86::V3::try_new()
    {
        // Vectors of no more than the lanes of a sum.
        return Simd::vectorize(simd, attend);
    }
    Arch::new().dispatch(attend)
}

struct AttendSpan<'a> {
    queries: Queries<'a>,
    span: usize,
    chunks: &'a [Chunk<'a>],
}

impl WithSimd for AttendSpan<'_> {
    type Output = HeadPart;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> HeadPart {
        let Self {
            queries,
            span,
            chunks,
        } = self;
        if queries.seen.len() < MANY_MIN && S::F32_LANES <= LANES {
            few::attend(simd, queries, span, chunks)
        } else {
            many::attend(simd, queries, span, chunks)
        }
    }
}

/// Combines attention over the spans from the first on: `O = Σ e^{ℓ_i − ℓ} O_i` with
/// `ℓ = ln Σ e^{ℓ_i}`, for each row over those of which it sees something.
///
/// # Panics
/// If a row sees something of a span that is not there.
pub fn merge_spans(queries: Queries<'_>, mut spans: Vec<HeadPart>) -> HeadPart {
    if spans.len() == 1
        && let Some(only) = spans.pop()
    {
        return only;
    }
    let dim = queries.head_dim;
    let mut merged = HeadPart {
        output: vec![0.0; queries.numbers.len()],
        lse: Vec::with_capacity(queries.seen.len()),
    };
    for (row, out) in merged.output.chunks_exact_mut(dim).enumerate() {
        let lse = match &spans[..queries.seen[row].div_ceil(SPAN_LEN)] {
            [] => f32::NEG_INFINITY,
            [only] => {
                out.copy_from_slice(&only.output[row * dim..][..dim]);
                only.lse[row]
            }
            spans => merge_row(spans, row, out),
        };
        merged.lse.push(lse);
    }
    merged
}

/// Merges attention of a row over other keys into what it has: `O = α O + (1 − α) O'` with
/// `α = e^{ℓ − ln(e^ℓ + e^ℓ')}`; the log-sum-exp over both, −∞ if it sees nothing of either.
pub fn merge_into(output: &mut [f32], lse: f32, (other, other_lse): (&[f32], f32)) -> f32 {
    let peak = lse.max(other_lse);
    if peak == f32::NEG_INFINITY {
        return peak;
    }
    let (weight, other_weight) = ((lse - peak).exp(), (other_lse - peak).exp());
    let sum = weight + other_weight;
    let (alpha, other_alpha) = (weight / sum, other_weight / sum);
    for (out, other) in output.iter_mut().zip(other) {
        *out = *out * alpha + other * other_alpha;
    }
    peak + sum.ln()
}

/// Adds the outputs of a row, weighted, to zeros; their log-sum-exp.
fn merge_row(spans: &[HeadPart], row: usize, out: &mut [f32]) -> f32 {
    let of_row = spans.iter().map(|span| span.lse[row]);
    let peak = of_row.clone().fold(f32::NEG_INFINITY, f32::max);
    let whole = peak + of_row.map(|it| (it - peak).exp()).sum::<f32>().ln();
    for span in spans {
        let weight = (span.lse[row] - whole).exp();
        let from = &span.output[row * out.len()..];
        for (out, from) in out.iter_mut().zip(from) {
            *out += weight * from;
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use proptest::prelude::*;

    /// By the definition, in f64.
    fn by_definition(
        queries: &[f32],
        dim: usize,
        keys: &[f32],
        values: &[f32],
    ) -> (Vec<f64>, Vec<f64>) {
        let (mut output, mut lse) = (Vec::new(), Vec::new());
        for query in queries.chunks_exact(dim) {
            let score = |key: &[f32]| -> f64 {
                query
                    .iter()
                    .zip(key)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum()
            };
            let scores: Vec<_> = keys.chunks_exact(dim).map(score).collect();
            let sum: f64 = scores.iter().map(|it| it.exp()).sum();
            lse.push(sum.ln());
            output.extend((0..dim).map(|column| -> f64 {
                let weighted = scores.iter().zip(values.chunks_exact(dim));
                weighted
                    .map(|(score, value)| score.exp() / sum * f64::from(value[column]))
                    .sum()
            }));
        }
        (output, lse)
    }

    /// Numbers between -2 and 2 that no two indices share.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|index| (((index + seed) as f32 * 0.618_034).fract() - 0.5) * 4.0)
            .collect()
    }

    fn close(found: &[f32], expected: &[f64]) -> bool {
        found.len() == expected.len()
            && found
                .iter()
                .zip(expected)
                .all(|(a, b)| (f64::from(*a) - b).abs() <= 1e-4)
    }

    /// A head's problem: queries, keys and values.
    struct Head {
        queries: Vec<f32>,
        seen: Vec<usize>,
        keys: Vec<f32>,
        values: Vec<f32>,
        dim: usize,
    }

    impl Head {
        /// Of rows that see `seen` keys each.
        fn new(seen: Vec<usize>, dim: usize, seed: usize) -> Self {
            // Longer heads have smaller queries, as 1/√d makes them.
            let scale = (dim as f32).sqrt().recip();
            let key_count = seen.iter().max().unwrap() * dim;
            let queries = numbers(seen.len() * dim, seed);
            Self {
                queries: queries.iter().map(|it| it * scale).collect(),
                seen,
                keys: numbers(key_count, seed + 1),
                values: numbers(key_count, seed + 2),
                dim,
            }
        }

        /// Attention of some rows, with keys and values in chunks of `chunk_len`.
        fn attend(&self, rows: Range<usize>, chunk_len: usize) -> HeadPart {
            let queries = Queries {
                numbers: &self.queries[rows.start * self.dim..rows.end * self.dim],
                seen: &self.seen[rows],
                head_dim: self.dim,
            };
            let span = |span: usize| {
                let tokens = span * SPAN_LEN..queries.seen_max().min((span + 1) * SPAN_LEN);
                let numbers = tokens.start * self.dim..tokens.end * self.dim;
                let keys = self.keys[numbers.clone()].chunks(chunk_len * self.dim);
                let values = self.values[numbers].chunks(chunk_len * self.dim);
                let chunks = keys
                    .zip(values)
                    .map(|(keys, values)| Chunk { keys, values });
                attend_span(queries, span, &chunks.collect::<Vec<_>>())
            };
            merge_spans(queries, (0..queries.span_count()).map(span).collect())
        }
    }

    fn bits(numbers: &[f32]) -> Vec<u32> {
        numbers.iter().map(|it| it.to_bits()).collect()
    }

    /// How many keys rows see: few, or as many as two spans have and some.
    fn seen() -> impl Strategy<Value = usize> {
        prop_oneof![4 => 0..200usize, 1 => SPAN_LEN - 3..2 * SPAN_LEN + 70]
    }

    proptest! {
        #[test]
        fn rows_are_attended_to_as_the_definition_has_it(
            seen in proptest::collection::vec(seen(), 1..20),
            dim in 1..80usize,
            chunk_len in 1..100usize,
            seed in 0..1000usize,
        ) {
            let head = Head::new(seen, dim, seed);
            let found = head.attend(0..head.seen.len(), chunk_len);
            for (row, seen) in head.seen.iter().enumerate() {
                let place = row * dim..(row + 1) * dim;
                let (keys, values) = (&head.keys[..seen * dim], &head.values[..seen * dim]);
                let output = &found.output[place.clone()];
                if *seen == 0 {
                    prop_assert_eq!(output, vec![0.0; dim]);
                    prop_assert_eq!(found.lse[row], f32::NEG_INFINITY);
                    continue;
                }
                let expected = by_definition(&head.queries[place], dim, keys, values);
                prop_assert!(close(output, &expected.0) && close(&found.lse[row..=row], &expected.1));
            }
        }

        #[test]
        fn a_row_gets_the_same_bits_in_any_company_and_however_keys_are_cut(
            // Up to more rows than vectors of two sizes, so that a row is in tiles of all sizes.
            seen in proptest::collection::vec(seen(), 1..70),
            dim in prop_oneof![1..80usize, Just(64), Just(128)],
            chunk_lens in (1..100usize, prop_oneof![Just(16), Just(64), 1..2000usize]),
            cut in any::<(prop::sample::Index, prop::sample::Index)>(),
            seed in 0..1000usize,
        ) {
            let head = Head::new(seen, dim, seed);
            let count = head.seen.len();
            let together = head.attend(0..count, chunk_lens.0);
            let (a, b) = (cut.0.index(count), cut.1.index(count));
            let some = a.min(b)..a.max(b) + 1;
            for rows in [some, a..a + 1] {
                let found = head.attend(rows.clone(), chunk_lens.1);
                let expected = &together.output[rows.start * dim..rows.end * dim];
                prop_assert_eq!(bits(&found.output), bits(expected));
                prop_assert_eq!(bits(&found.lse), bits(&together.lse[rows]));
            }
        }
    }
}
