//! Dense attention over a batch of shared prefixes, with gradients.
//!
//! The product computes the same thing in two places and merges; here a softmax over the joined
//! keys does it in one, so a model trained here is right when the merge is.

use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use edgeprompt_model::{Decoder, Qkv, RopeTable};

use super::batch::Batch;

/// Added to the scores of hidden keys: exp of it is zero next to any real score.
const HIDDEN: f32 = -1e9;

/// Runs every layer over the batch.
///
/// # Shapes
/// The result: `[token, hidden]`, in the order of [`Batch::tokens`].
pub(super) fn forward(
    decoder: &Decoder,
    rope: &RopeTable,
    batch: &Batch,
    device: &Device,
) -> Tensor<2> {
    let tokens: Vec<i64> = batch.tokens.iter().map(|&t| i64::from(t)).collect();
    let mut hidden = decoder.embed(Tensor::<1, Int>::from_data(tokens.as_slice(), device));
    let rotary = rope.rotary(batch.positions(), device);
    let masks = Masks::new(batch, device);
    for layer in decoder.layers() {
        let qkv = layer.project(hidden.clone(), &rotary);
        hidden = layer.finish(hidden, attend(qkv, batch, &masks));
    }
    hidden
}

/// What each query may see, `[query, key]`, added to the scores.
struct Masks {
    prefix: Tensor<2>,
    suffix: Tensor<2>,
}

impl Masks {
    fn new(batch: &Batch, device: &Device) -> Self {
        Self {
            prefix: causal(0, batch.prefix_len, device),
            suffix: causal(batch.prefix_len, batch.suffix_len, device),
        }
    }
}

/// `query_count` queries see the `seen` keys before all of them, and the own ones up to themselves.
fn causal(seen: usize, query_count: usize, device: &Device) -> Tensor<2> {
    let key_count = seen + query_count;
    let mask: Vec<f32> = (0..query_count)
        .flat_map(|query| {
            (0..key_count).map(move |key| if key > seen + query { HIDDEN } else { 0.0 })
        })
        .collect();
    Tensor::from_data(TensorData::new(mask, [query_count, key_count]), device)
}

fn attend(qkv: Qkv, batch: &Batch, masks: &Masks) -> Tensor<3> {
    let [token_count, q_heads, head_dim] = qkv.q.dims();
    let split = batch.prefix_tokens();
    let part = |x: &Tensor<3>, rows: [usize; 3]| {
        let [start, sequences, len] = rows;
        let heads = x.dims()[1];
        x.clone()
            .narrow(0, start, sequences * len)
            .reshape([sequences, len, heads, head_dim])
            .swap_dims(1, 2)
    };
    let prefix = [0, batch.prompt_count, batch.prefix_len];
    let suffix = [split, batch.answer_count(), batch.suffix_len];

    let (prefix_k, prefix_v) = (part(&qkv.k, prefix), part(&qkv.v, prefix));
    let shared = |own: Tensor<4>, prefix: &Tensor<4>| {
        let [prompts, heads, len, dim] = prefix.dims();
        let copies = prefix
            .clone()
            .unsqueeze_dim::<5>(1)
            .expand([prompts, batch.suffix_count, heads, len, dim])
            .reshape([prompts * batch.suffix_count, heads, len, dim]);
        Tensor::cat(vec![copies, own], 2)
    };
    let suffix_k = shared(part(&qkv.k, suffix), &prefix_k);
    let suffix_v = shared(part(&qkv.v, suffix), &prefix_v);

    let prefix_out = grouped(part(&qkv.q, prefix), prefix_k, prefix_v, &masks.prefix);
    let suffix_out = grouped(part(&qkv.q, suffix), suffix_k, suffix_v, &masks.suffix);
    let flat = |x: Tensor<4>| {
        let [sequences, heads, len, dim] = x.dims();
        x.swap_dims(1, 2).reshape([sequences * len, heads, dim])
    };
    let attended = Tensor::cat(vec![flat(prefix_out), flat(suffix_out)], 0);
    debug_assert_eq!(attended.dims(), [token_count, q_heads, head_dim]);
    attended
}

/// Softmax attention in which each KV head serves a group of query heads.
///
/// # Shapes
/// `q`: `[sequence, q_head, query, head_dim]`; `k`, `v`: `[sequence, kv_head, key, head_dim]`;
/// `mask`: `[query, key]`; the result as `q`.
fn grouped(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &Tensor<2>) -> Tensor<4> {
    let [sequences, q_heads, query_count, head_dim] = q.dims();
    let [_, kv_heads, key_count, _] = k.dims();
    let group_len = q_heads / kv_heads;
    // The queries of a group are rows of one product, so keys and values are not repeated.
    let rows = group_len * query_count;
    let scale = f64::from(u32::try_from(head_dim).expect("heads are small"))
        .sqrt()
        .recip();
    let q = q
        .mul_scalar(scale)
        .reshape([sequences, kv_heads, rows, head_dim]);
    let scores = q.matmul(k.swap_dims(2, 3)).reshape([
        sequences * kv_heads,
        group_len,
        query_count,
        key_count,
    ]);
    let weights = softmax(scores + mask.clone().unsqueeze::<4>(), 3);
    weights
        .reshape([sequences, kv_heads, rows, key_count])
        .matmul(v)
        .reshape([sequences, q_heads, query_count, head_dim])
}
