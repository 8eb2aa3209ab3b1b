//! The algebra in one page: attention over two segments, merged by their log-sum-exp, is attention
//! over the whole; weighted by a constant it is not.
//!
//! `cargo run --release -p edgeprompt-examples --example exact_merge`

#![allow(clippy::print_stdout, reason = "an example shows something")]

use burn::tensor::{Device, Distribution, Tensor};
use edgeprompt_attention::{Fusion, KvView, Mask, attend, partial_attention};
use edgeprompt_kv::TokenRange;

/// Query heads, KV heads, numbers in a head.
const SHAPE: (usize, usize, usize) = (8, 4, 16);
/// Tokens of the cloud prompt and of the private prompt.
const LENGTHS: (u32, u32) = (48, 12);

fn main() {
    let device = Device::flex();
    device.seed(1);
    let (q_heads, kv_heads, dim) = SHAPE;
    let (cloud_len, private_len) = LENGTHS;
    let random = |heads: usize, tokens: u32| -> Tensor<3> {
        Tensor::random(
            [heads, tokens as usize, dim],
            Distribution::Normal(0.0, 1.0),
            &device,
        )
    };
    let segment = |tokens| KvView {
        keys: random(kv_heads, tokens),
        values: random(kv_heads, tokens),
    };
    let (cloud, private) = (segment(cloud_len), segment(private_len));
    let q = random(q_heads, private_len).swap_dims(0, 1);

    let positions = TokenRange::new(cloud_len, cloud_len + private_len);
    let mask = Mask::causal(positions, positions, &device);
    let whole = attend(&q, Some(&cloud), &private, &mask, Fusion::Concat);

    println!("{cloud_len} public and {private_len} private tokens, {q_heads} query heads\n");
    for fusion in [Fusion::Exact, Fusion::Fixed(0.5), Fusion::Fixed(0.8)] {
        let fused = attend(&q, Some(&cloud), &private, &mask, fusion);
        let error: f32 = (fused - whole.clone()).abs().max().into_scalar();
        let size: f32 = whole.clone().abs().mean().into_scalar();
        println!(
            "{:<10} largest error {:.1e} × the mean output",
            fusion.to_string(),
            error / size
        );
    }

    // α of each token and head, which a constant cannot be: 1 / (1 + e^(ℓ_private − ℓ_cloud)).
    let lse =
        |segment: &KvView, mask: &Mask| partial_attention(&q, segment, mask).lse.into_tensor();
    let difference = lse(&private, &mask) - lse(&cloud, &Mask::all_visible());
    let alpha = (difference.exp() + 1.0).recip();
    let (min, max): (f32, f32) = (alpha.clone().min().into_scalar(), alpha.max().into_scalar());
    println!("\nexact α of the cloud's part: {min:.2} to {max:.2} over tokens and heads");
}
