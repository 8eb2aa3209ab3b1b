//! How fast a layer becomes bytes and bytes become numbers, on one thread.

use std::time::{Duration, Instant};

use edgeprompt_kv::{KvDtype, KvGeometry, LayerKv};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Tokens of the layer.
const TOKEN_COUNT: usize = 1024;

/// Rounds, of which the fastest counts: whatever else the machine does only slows them.
const ROUNDS: usize = 7;

/// One format's speed on a layer of 8 heads of 128 and 1024 tokens.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Speed {
    pub(crate) codec: &'static str,
    /// 10^9 bytes of f32 encoded in a second.
    pub(crate) encoded_gb_per_s: f64,
    /// 10^9 bytes of f32 decoded in a second.
    pub(crate) decoded_gb_per_s: f64,
    /// 10^9 bits of the format decoded in a second: the link that one thread keeps up with.
    pub(crate) wire_gbit_per_s: f64,
}

/// Every format's speed.
pub(crate) fn measure() -> Vec<Speed> {
    let geometry = KvGeometry::new(1, 8, 128).expect("a geometry within limits");
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut numbers = || -> Vec<f32> {
        let count = geometry.elements(TOKEN_COUNT);
        (0..count).map(|_| random.random_range(-3.0..3.0)).collect()
    };
    let (keys, values) = (numbers(), numbers());
    let f32_bytes = geometry.layer_bytes(TOKEN_COUNT, KvDtype::F32);
    let of = |dtype: KvDtype| {
        let encode = || {
            LayerKv::encode([&keys, &values], &geometry, dtype).expect("the geometry's own shape")
        };
        let layer = encode();
        let encoding = fastest(encode);
        let decoding = fastest(|| layer.decode());
        Speed {
            codec: dtype.name(),
            encoded_gb_per_s: per_second(f32_bytes, encoding),
            decoded_gb_per_s: per_second(f32_bytes, decoding),
            wire_gbit_per_s: 8.0 * per_second(layer.payload().len(), decoding),
        }
    };
    KvDtype::ALL.map(of).to_vec()
}

fn fastest<T>(work: impl Fn() -> T) -> Duration {
    let rounds = (0..ROUNDS).map(|_| {
        let start = Instant::now();
        let done = work();
        let took = start.elapsed();
        // What is dropped is made.
        drop(std::hint::black_box(done));
        took
    });
    rounds.min().unwrap_or_default()
}

/// In 10^9 bytes.
fn per_second(bytes: usize, time: Duration) -> f64 {
    bytes as f64 / time.as_secs_f64() / 1e9
}
