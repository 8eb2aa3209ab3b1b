//! Attention in parts equals attention over the whole, whatever the shapes, cuts and merge order;
//! and the comparison is sharp enough to notice the three classic mistakes.

use burn::tensor::{Device, Tensor, TensorData};
use edgeprompt_attention::{
    Fusion, KvView, LogSumExp, Mask, PartialAttention, attend, merge, partial_attention,
};
use edgeprompt_kv::TokenRange;
use edgeprompt_testkit::oracle::{Problem, Shape, rotate};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// A mistake that an implementation could make.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mistake {
    None,
    /// The log-sum-exp of one part is taken to base 2.
    LogBase,
    /// The causal mask shows one key too many.
    MaskShift,
    /// Private positions start at 0 instead of after the prefix.
    RopeOffset,
}

/// A problem, the places where it is cut, and the order in which the parts are merged.
#[derive(Clone, Debug)]
struct Case {
    problem: Problem,
    /// Ascending; the last one is where the private tokens begin.
    cuts: Vec<usize>,
    order: Vec<usize>,
    score_max: f64,
}

fn cases(tokens_min: usize) -> impl Strategy<Value = Case> {
    let shape = (1..=3usize, 1..=3usize, 1..=8usize, tokens_min..=24usize);
    let magnitude = prop_oneof![3 => Just(1.0f64), 1 => Just(10.0), 1 => Just(100.0)];
    (
        shape,
        magnitude,
        prop::collection::vec(any::<prop::sample::Index>(), 1..=4),
        any::<u64>(),
    )
        .prop_map(
            |((kv_heads, group, half_dim, tokens), magnitude, cuts, seed)| {
                let shape = Shape {
                    q_heads: kv_heads * group,
                    kv_heads,
                    head_dim: 2 * half_dim,
                    tokens,
                };
                let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(tokens)).collect();
                cuts.sort_unstable();
                let mut noise = Noise(seed | 1);
                let mut order: Vec<_> = (0..=cuts.len()).collect();
                for i in (1..order.len()).rev() {
                    order.swap(i, noise.below(i + 1));
                }
                // Keys and queries of this size give scaled scores up to ±1e4.
                let mut heads = |count, size| -> Vec<Vec<Vec<f64>>> {
                    let mut head = || (0..shape.head_dim).map(|_| size * noise.normal()).collect();
                    (0..tokens)
                        .map(|_| (0..count).map(|_| head()).collect())
                        .collect()
                };
                let problem = Problem {
                    shape,
                    q: heads(shape.q_heads, magnitude),
                    k: heads(shape.kv_heads, magnitude),
                    v: heads(shape.kv_heads, 1.0),
                };
                let score_max = magnitude * magnitude * (shape.head_dim as f64).sqrt() * 4.0;
                Case {
                    problem,
                    cuts,
                    order,
                    score_max,
                }
            },
        )
}

/// xorshift64: enough for test data, reproducible from the printed case.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
    fn normal(&mut self) -> f64 {
        (0..12)
            .map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64)
            .sum::<f64>()
            - 6.0
    }
}

/// f64 values are rounded to f32 after the rotation, so both sides see the same numbers.
fn tensor(heads: &[Vec<Vec<f64>>], positions: std::ops::Range<usize>, offset: usize) -> Tensor<3> {
    let rows = positions.clone().flat_map(|t| {
        heads[t].iter().flat_map(move |head| match offset {
            usize::MAX => head.clone(),
            _ => rotate(head, t - offset),
        })
    });
    let data: Vec<f32> = rows.map(|x| x as f32).collect();
    let (head_count, dim) = (heads[0].len(), heads[0][0].len());
    let data = TensorData::new(data, [positions.len(), head_count, dim]);
    Tensor::from_data(data, &Device::flex())
}

const UNROTATED: usize = usize::MAX;

fn view(case: &Case, range: std::ops::Range<usize>, offset: usize) -> KvView {
    let by_head = |t: Tensor<3>| t.swap_dims(0, 1);
    KvView {
        keys: by_head(tensor(&case.problem.k, range.clone(), offset)),
        values: by_head(tensor(&case.problem.v, range, UNROTATED)),
    }
}

fn token_range(range: &std::ops::Range<usize>) -> TokenRange {
    TokenRange::new(range.start as u32, range.end as u32)
}

/// Attention of the private tokens, each part computed apart and merged in the case's order.
fn in_parts(case: &Case, mistake: Mistake) -> Vec<f32> {
    let tokens = case.problem.shape.tokens;
    let private_start = *case.cuts.last().unwrap();
    let private = private_start..tokens;
    let offset = if mistake == Mistake::RopeOffset {
        private_start
    } else {
        0
    };
    let q = tensor(&case.problem.q, private.clone(), offset);
    let starts = std::iter::once(0).chain(case.cuts.iter().copied());
    let ends = case.cuts.iter().copied().chain(std::iter::once(tokens));
    let segments: Vec<_> = starts.zip(ends).map(|(start, end)| start..end).collect();
    let part = |index: usize| {
        let range = segments[index].clone();
        let is_private = index + 1 == segments.len();
        let mut keys = token_range(&range);
        if mistake == Mistake::MaskShift && is_private && range.start > 0 {
            keys = TokenRange::new(keys.start().0 - 1, keys.end().0 - 1);
        }
        let mask = Mask::causal(token_range(&private), keys, &Device::flex());
        let view = view(case, range, if is_private { offset } else { 0 });
        let part = partial_attention(&q, &view, &mask);
        match mistake {
            Mistake::LogBase if is_private => PartialAttention {
                lse: LogSumExp::new(part.lse.into_tensor() * std::f32::consts::LOG2_E),
                ..part
            },
            _ => part,
        }
    };
    let parts = case.order.iter().map(|index| part(*index));
    let merged = parts.reduce(merge).unwrap();
    merged.output.into_data().try_to_vec().unwrap()
}

/// The largest difference from the oracle, in units of what f32 scores of this size allow.
fn error_in_tolerances(case: &Case, actual: &[f32]) -> f64 {
    let private_start = *case.cuts.last().unwrap();
    let expected = case.problem.attention();
    let expected: Vec<f64> = expected[private_start..]
        .iter()
        .flatten()
        .flatten()
        .copied()
        .collect();
    assert_eq!(expected.len(), actual.len());
    let difference = |(a, e): (&f32, &f64)| {
        assert!(a.is_finite(), "attention gave {a}");
        (f64::from(*a) - e).abs()
    };
    let largest = actual
        .iter()
        .zip(&expected)
        .map(difference)
        .fold(0.0, f64::max);
    // A score s carries an error of a few ulp, |s|·2⁻²³, and e^s turns it into a relative one;
    // values are of order 1.
    let tolerance = 4e-6 + 16.0 * case.score_max * f64::from(f32::EPSILON);
    largest / tolerance
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parts_merged_in_any_order_equal_the_whole(case in cases(1)) {
        let error = error_in_tolerances(&case, &in_parts(&case, Mistake::None));
        prop_assert!(error <= 1.0, "{error} tolerances off");
    }

    #[test]
    fn fusing_and_concatenating_equal_the_whole(case in cases(1)) {
        let private_start = *case.cuts.last().unwrap();
        let private = private_start..case.problem.shape.tokens;
        let q = tensor(&case.problem.q, private.clone(), 0);
        let (prefix, suffix) = (view(&case, 0..private_start, 0), view(&case, private.clone(), 0));
        let mask = Mask::causal(token_range(&private), token_range(&private), &Device::flex());
        for fusion in [Fusion::Exact, Fusion::Concat] {
            let output = attend(&q, Some(&prefix), &suffix, &mask, fusion);
            let error = error_in_tolerances(&case, &output.into_data().try_to_vec().unwrap());
            prop_assert!(error <= 1.0, "{fusion}: {error} tolerances off");
        }
    }
}

/// How many of a hundred ordinary cases a mistake is noticed in.
fn noticed(mistake: Mistake) -> usize {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = cases(8).prop_filter("prefix and suffix of some length", |case| {
        let private = *case.cuts.last().unwrap();
        case.score_max < 50.0 && private >= 3 && private + 3 <= case.problem.shape.tokens
    });
    let mut notice = || {
        let case = strategy.new_tree(&mut runner).unwrap().current();
        error_in_tolerances(&case, &in_parts(&case, mistake)) > 1.0
    };
    (0..100).filter(|_| notice()).count()
}

#[test]
fn the_classic_mistakes_are_noticed() {
    assert_eq!(noticed(Mistake::None), 0);
    for mistake in [Mistake::LogBase, Mistake::MaskShift, Mistake::RopeOffset] {
        assert_eq!(noticed(mistake), 100, "{mistake:?}");
    }
}

#[test]
fn merging_nothing_with_nothing_stays_nothing() {
    let device = Device::flex();
    let empty = || PartialAttention::empty([2, 4, 8], &device);
    let merged = merge(empty(), empty());
    let output: Vec<f32> = merged.output.into_data().try_to_vec().unwrap();
    let lse: Vec<f32> = merged.lse.into_tensor().into_data().try_to_vec().unwrap();
    assert!(output.iter().all(|x| *x == 0.0));
    assert!(lse.iter().all(|x| *x == f32::NEG_INFINITY));
}
