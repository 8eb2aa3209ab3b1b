//! The scenario of ctHO (arXiv 2603.28018): its model, its costs and its geometry. For simulations;
//! nothing that runs uses it.

use super::kv_size::KvShape;
use super::prefill::PrefillCoefficients;
use super::scenario::Rhythm;

/// Qwen2.5-7B-Instruct in fp16: 458,752 bits a token.
pub const KV_SHAPE: KvShape = KvShape {
    layer_count: 28,
    kv_head_count: 4,
    head_dim: 128,
    element_bits: 16.0,
};

/// p(L) = aL + b.
pub const PREFILL: PrefillCoefficients = PrefillCoefficients {
    fixed_s: 2.4e-3,
    per_position_s: 9.4267e-5,
    per_token_s: 0.0,
    per_pair_s: 0.0,
};

/// T_c is 10 ms.
pub const RHYTHM: Rhythm = Rhythm {
    cycle_s: 0.01,
    block_len: 16,
};

/// K, if it is not swept.
pub const USER_COUNT: usize = 4;
/// The shortest context.
pub const CONTEXT_LEN_MIN: u32 = 1024;
/// C_max, if it is not swept. The paper does not say it; with this one its cHO at K = 12 comes out.
pub const CONTEXT_LEN_MAX: u32 = 5120;
/// R_bh in bits per second, where something else is swept.
pub const BACKHAUL_BITS_PER_S: f64 = 4.5e9;

/// Where users are at time 0, in metres from the source.
pub const START_M: std::ops::RangeInclusive<f64> = 120.0..=130.0;
/// How fast they go.
pub const SPEED_M_PER_S: f64 = 20.0;
/// Where they are handed over, halfway between the base stations.
pub const BOUNDARY_M: f64 = 150.0;

/// τ of a user that is so far from the source at time 0.
pub const fn leaves_at_s(start_m: f64) -> f64 {
    (BOUNDARY_M - start_m) / SPEED_M_PER_S
}
