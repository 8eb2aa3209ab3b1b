//! What a number format does to what follows a cloud prompt, against exact keys and values.

use anyhow::Result;
use edgeprompt_engine::{
    CloudSegment, ForwardPass, PrivateKv, Progress, Sequence, SequenceOptions, layer_from_view,
    view_from_layer,
};
use edgeprompt_kv::{KvDtype, LayerIndex, LayerKv, TokenId, TokenRange};
use edgeprompt_model::Model;
use serde::Serialize;

use super::CodecsArgs;
use super::text::{Text, desk_cases};

/// What a format costs and does.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Harm {
    pub(crate) codec: &'static str,
    /// Bytes of all layers for one token, on average over the texts.
    pub(crate) bytes_per_token: f64,
    /// Bytes in f32 over bytes in this format.
    pub(crate) ratio: f64,
    /// The largest change of any logit.
    pub(crate) logit_change_max: f64,
    /// Mean over positions of Σ p ln(p/q), exact p and changed q.
    pub(crate) kl_mean: f64,
    /// Part of the positions where the most likely token is the same.
    pub(crate) top1_agreement: f64,
    /// Change of the perplexity of what follows, as a part of it.
    pub(crate) perplexity_change: f64,
    /// Positions looked at.
    pub(crate) position_count: usize,
    /// What an ideal coder of single bytes would make of the payload, as a part of it.
    pub(crate) entropy: f64,
}

/// Sums over positions.
#[derive(Default)]
struct Sums {
    logit_change_max: f64,
    kl: f64,
    agreed: usize,
    count: usize,
    exact_loss: f64,
    loss: f64,
}

/// Sums over payloads.
#[derive(Default)]
struct Bytes {
    exact: usize,
    encoded: usize,
    tokens: usize,
    entropy: f64,
}

impl Harm {
    /// The harm of a format on these texts.
    pub(crate) fn of(model: &Model, texts: &[Text], dtype: KvDtype) -> Self {
        let (mut sums, mut bytes) = (Sums::default(), Bytes::default());
        for text in texts {
            let exact = CloudSegment::computed(model, &text.cloud);
            let changed = through(model, &exact, dtype, &mut bytes);
            bytes.tokens += text.cloud.len();
            let [exact, changed] =
                [&exact, &changed].map(|segment| logits_after(model, segment, &text.rest));
            sums.add([&exact, &changed], &text.rest[1..], model.config.vocab_size);
        }
        let (count, encoded) = (sums.count as f64, bytes.encoded as f64);
        Self {
            codec: dtype.name(),
            bytes_per_token: encoded / bytes.tokens as f64,
            ratio: bytes.exact as f64 / encoded,
            logit_change_max: sums.logit_change_max,
            kl_mean: sums.kl / count,
            top1_agreement: sums.agreed as f64 / count,
            perplexity_change: ((sums.loss - sums.exact_loss) / count).exp_m1(),
            position_count: sums.count,
            entropy: bytes.entropy / encoded,
        }
    }
}

/// How many questions to the shop desk are answered right, and how many there are.
pub(crate) fn right_answers(
    model: &Model,
    args: &CodecsArgs,
    dtype: KvDtype,
) -> Result<(usize, usize)> {
    let cases = desk_cases(model, args)?;
    let right = cases.iter().filter(|case| {
        let exact = CloudSegment::computed(model, &case.cloud);
        let segment = through(model, &exact, dtype, &mut Bytes::default());
        let mut sequence = Sequence::new(model, Some(segment), SequenceOptions::default());
        sequence.generate_greedy(&case.private, case.answer.len()) == case.answer
    });
    Ok((right.count(), cases.len()))
}

/// A segment as it is after a trip through a format.
fn through(model: &Model, exact: &CloudSegment, dtype: KvDtype, bytes: &mut Bytes) -> CloudSegment {
    let end = exact.range().end().0;
    let changed = CloudSegment::empty(&model.geometry, end);
    for layer in (0..model.geometry.layer_count()).map(LayerIndex) {
        let view = exact
            .layers
            .get(layer)
            .expect("a computed segment is whole");
        let encoded = layer_from_view(view, &model.geometry, KvDtype::F32)
            .map(|kv: LayerKv| {
                bytes.exact += kv.payload().len();
                kv.recoded(dtype)
            })
            .expect("the model's own geometry");
        bytes.encoded += encoded.payload().len();
        bytes.entropy += entropy_bytes(encoded.payload());
        let view = view_from_layer(&encoded, &model.geometry, &model.decoder.device());
        let filled = changed.layers.fill(layer, view);
        filled.expect("every layer comes once");
    }
    changed
}

/// The scores after each token but the last.
///
/// # Shapes
/// `[token, vocab]`
fn logits_after(model: &Model, segment: &CloudSegment, tokens: &[TokenId]) -> Vec<f32> {
    let start = segment.range().end().0;
    let tokens = &tokens[..tokens.len() - 1];
    let count = u32::try_from(tokens.len()).expect("a text fits in u32 positions");
    let mut kv = PrivateKv::empty(&model.geometry, &model.decoder.device());
    let mut pass = ForwardPass::start(model, tokens, TokenRange::new(start, start + count));
    let fusion = SequenceOptions::default().fusion;
    while pass.advance(model, Some(segment), &mut kv, fusion) != Progress::Complete {}
    pass.logits_of_all(model)
}

impl Sums {
    fn add(&mut self, logits: [&[f32]; 2], next: &[TokenId], vocab_size: usize) {
        let rows = logits.map(|logits| logits.chunks_exact(vocab_size));
        let [exact, changed] = rows;
        for ((exact, changed), next) in exact.zip(changed).zip(next) {
            let change = exact
                .iter()
                .zip(changed)
                .map(|(a, b)| f64::from((a - b).abs()));
            self.logit_change_max = change.fold(self.logit_change_max, f64::max);
            let (p, q) = (log_softmax(exact), log_softmax(changed));
            let kl = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q));
            self.kl += kl.sum::<f64>();
            self.agreed += usize::from(most_likely(&p) == most_likely(&q));
            self.exact_loss -= p[next.0 as usize];
            self.loss -= q[next.0 as usize];
            self.count += 1;
        }
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = || logits.iter().map(|logit| f64::from(logit - most));
    let log_sum = shifted().map(f64::exp).sum::<f64>().ln();
    shifted().map(|logit| logit - log_sum).collect()
}

/// The first of the largest.
fn most_likely(scores: &[f64]) -> Option<usize> {
    (0..scores.len()).reduce(|best, other| match scores[other] > scores[best] {
        true => other,
        false => best,
    })
}

/// Bytes that an ideal coder of single bytes needs for a payload, its table aside.
fn entropy_bytes(payload: &[u8]) -> f64 {
    let mut counts = [0usize; 256];
    for byte in payload {
        counts[usize::from(*byte)] += 1;
    }
    let total = payload.len() as f64;
    let of_byte = |&count: &usize| match count {
        0 => 0.0,
        count => -(count as f64) * (count as f64 / total).log2() / 8.0,
    };
    counts.iter().map(of_byte).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_scores_do_no_harm_and_others_do() {
        let (a, b) = ([0.0, 1.0, 3.0, 1.0], [0.0, 1.0, 0.5, 1.0]);
        let mut sums = Sums::default();
        sums.add([&a, &a], &[TokenId(2)], 4);
        assert_eq!((sums.agreed, sums.kl, sums.logit_change_max), (1, 0.0, 0.0));
        sums.add([&a, &b], &[TokenId(2)], 4);
        assert_eq!(
            (sums.agreed, sums.count, sums.logit_change_max),
            (1, 2, 2.5)
        );
        assert!(sums.kl > 0.3 && sums.loss > sums.exact_loss);
    }

    #[test]
    fn the_entropy_of_equal_bytes_is_nothing_and_of_all_bytes_everything() {
        assert_eq!(entropy_bytes(&[7; 100]), 0.0);
        let all: Vec<u8> = (0..=255).collect();
        assert!((entropy_bytes(&all) - 256.0).abs() < 1e-9);
    }
}
