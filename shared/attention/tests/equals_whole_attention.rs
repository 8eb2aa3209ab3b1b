//! Attention in parts equals attention over the whole, whatever the shapes, cuts and merge order;
//! and the comparison is sharp enough to notice the classic mistakes.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on fails"
)]

use burn::tensor::{Device, Tensor, TensorData};
use edgeprompt_attention::{
    Fusion, KvView, LogSumExp, Mask, PartialAttention, attend, merge, partial_attention,
};
use edgeprompt_kv::TokenRange;
use edgeprompt_testkit::oracle::{Problem, Shape};
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
    /// Scores are scaled by 1 % too much.
    ScoreScale,
    /// Every log-sum-exp counts each key twice: no output shows it, only the log-sum-exp does.
    LseShift,
}

/// A problem, the places where it is cut, and the order in which the parts are merged.
#[derive(Clone, Debug)]
struct Case {
    problem: Problem,
    /// Ascending; the last one is where the private tokens begin.
    cuts: Vec<usize>,
    order: Vec<usize>,
    /// Standard deviation of queries and keys.
    magnitude: f64,
}

fn cases(tokens_min: usize) -> impl Strategy<Value = Case> {
    // Large scores come with dimensions whose square root is a power of two: then they are exact
    // in f32, and what is compared is attention and not the rounding of its input. Magnitude 100
    // gives scaled scores of a few ±1e4.
    let sizes = prop_oneof![
        3 => (Just(1.0f64), (1..=8usize).prop_map(|half| 2 * half)),
        1 => (prop_oneof![Just(10.0f64), Just(100.0)], prop_oneof![Just(4usize), Just(16)]),
    ];
    (
        (1..=3usize, 1..=3usize, tokens_min..=24usize),
        sizes,
        prop::collection::vec(any::<prop::sample::Index>(), 1..=4),
        any::<u64>(),
    )
        .prop_flat_map(
            |((kv_heads, group, tokens), (magnitude, head_dim), cuts, seed)| {
                let shape = Shape {
                    q_heads: kv_heads * group,
                    kv_heads,
                    head_dim,
                    tokens,
                };
                let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(tokens)).collect();
                cuts.sort_unstable();
                let order = Just((0..=cuts.len()).collect::<Vec<_>>()).prop_shuffle();
                order.prop_map(move |order| Case {
                    problem: Problem::random(shape, magnitude, seed),
                    cuts: cuts.clone(),
                    order,
                    magnitude,
                })
            },
        )
}

fn tensor(numbers: Vec<f32>, shape: [usize; 3]) -> Tensor<3> {
    Tensor::from_data(TensorData::new(numbers, shape), &Device::flex())
}

fn queries(case: &Case, range: std::ops::Range<usize>, offset: usize) -> Tensor<3> {
    let shape = case.problem.shape;
    let shape = [range.len(), shape.q_heads, shape.head_dim];
    tensor(case.problem.queries(range, offset), shape)
}

fn view(case: &Case, range: std::ops::Range<usize>, offset: usize) -> KvView {
    let shape = case.problem.shape;
    let shape = [shape.kv_heads, range.len(), shape.head_dim];
    KvView {
        keys: tensor(case.problem.keys(range.clone(), offset), shape),
        values: tensor(case.problem.values(range), shape),
    }
}

fn token_range(range: &std::ops::Range<usize>) -> TokenRange {
    TokenRange::new(range.start as u32, range.end as u32)
}

/// Attention of the private tokens, each part computed apart and merged in the case's order.
fn in_parts(case: &Case, mistake: Mistake) -> PartialAttention {
    let tokens = case.problem.shape.tokens;
    let private_start = *case.cuts.last().unwrap();
    let private = private_start..tokens;
    let offset = if mistake == Mistake::RopeOffset {
        private_start
    } else {
        0
    };
    let q = queries(case, private.clone(), offset);
    let q = match mistake {
        Mistake::ScoreScale => q * 1.01,
        _ => q,
    };
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
            Mistake::LogBase if is_private => with_lse(part, |lse| lse * std::f32::consts::LOG2_E),
            Mistake::LseShift => with_lse(part, |lse| lse + std::f32::consts::LN_2),
            _ => part,
        }
    };
    let parts = case.order.iter().map(|index| part(*index));
    parts.reduce(merge).unwrap()
}

fn with_lse(part: PartialAttention, change: impl Fn(Tensor<2>) -> Tensor<2>) -> PartialAttention {
    PartialAttention {
        lse: LogSumExp::new(change(part.lse.into_tensor())),
        ..part
    }
}

/// The largest difference of output and log-sum-exp from the oracle, in units of what f32 allows.
fn error_in_tolerances(case: &Case, part_count: usize, actual: PartialAttention) -> f64 {
    let output: Vec<f32> = actual.output.into_data().try_to_vec().unwrap();
    let lse: Vec<f32> = actual.lse.into_tensor().into_data().try_to_vec().unwrap();
    let private_start = *case.cuts.last().unwrap();
    let part_count = u32::try_from(part_count).unwrap();
    let problem = &case.problem;
    problem.error_in_tolerances(private_start, part_count, &output, &lse)
}

fn error_of_parts(case: &Case, mistake: Mistake) -> f64 {
    error_in_tolerances(case, case.order.len(), in_parts(case, mistake))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parts_merged_in_any_order_equal_the_whole(case in cases(1)) {
        let error = error_of_parts(&case, Mistake::None);
        prop_assert!(error <= 1.0, "{error} tolerances off");
    }

    #[test]
    fn one_part_equals_the_whole(case in cases(1)) {
        let (tokens, private_start) = (case.problem.shape.tokens, *case.cuts.last().unwrap());
        let private = private_start..tokens;
        let mask = Mask::causal(token_range(&private), token_range(&(0..tokens)), &Device::flex());
        let part = partial_attention(&queries(&case, private, 0), &view(&case, 0..tokens, 0), &mask);
        let error = error_in_tolerances(&case, 1, part);
        prop_assert!(error <= 1.0, "{error} tolerances off");
    }

    #[test]
    fn fusing_and_concatenating_equal_the_whole(case in cases(1)) {
        let private_start = *case.cuts.last().unwrap();
        let private = private_start..case.problem.shape.tokens;
        let q = queries(&case, private.clone(), 0);
        let (prefix, suffix) = (view(&case, 0..private_start, 0), view(&case, private.clone(), 0));
        let mask = Mask::causal(token_range(&private), token_range(&private), &Device::flex());
        // `attend` keeps the log-sum-exp to itself: its parts' merged one stands in.
        let lse = merge(
            partial_attention(&q, &prefix, &Mask::all_visible()),
            partial_attention(&q, &suffix, &mask),
        )
        .lse;
        for fusion in [Fusion::Exact, Fusion::Concat] {
            let output = attend(&q, Some(&prefix), &suffix, &mask, fusion);
            let fused = PartialAttention { output, lse: lse.clone() };
            let error = error_in_tolerances(&case, 2, fused);
            prop_assert!(error <= 1.0, "{fusion}: {error} tolerances off");
        }
    }
}

/// How many of a hundred cases of a magnitude a mistake is noticed in.
fn noticed(mistake: Mistake, magnitude: f64) -> usize {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = cases(8).prop_filter("prefix and suffix of some length", move |case| {
        let private = *case.cuts.last().unwrap();
        case.magnitude == magnitude && private >= 3 && private + 3 <= case.problem.shape.tokens
    });
    let mut notice = || {
        let case = strategy.new_tree(&mut runner).unwrap().current();
        error_of_parts(&case, mistake) > 1.0
    };
    (0..100).filter(|_| notice()).count()
}

#[test]
fn the_classic_mistakes_are_noticed() {
    use Mistake::{LogBase, LseShift, MaskShift, RopeOffset, ScoreScale};
    assert_eq!(noticed(Mistake::None, 1.0), 0);
    for mistake in [LogBase, MaskShift, RopeOffset, ScoreScale, LseShift] {
        assert_eq!(noticed(mistake, 1.0), 100, "{mistake:?}");
    }
}

#[test]
fn mistakes_are_noticed_among_extreme_scores_too() {
    use Mistake::{LogBase, LseShift, RopeOffset, ScoreScale};
    assert_eq!(noticed(Mistake::None, 100.0), 0);
    // A mask shifted by one shows a key that, at these scores, may weigh nothing.
    for mistake in [LogBase, RopeOffset, ScoreScale, LseShift] {
        assert_eq!(noticed(mistake, 100.0), 100, "{mistake:?}");
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
