//! How long to wait for a cloud before computing its layers here. Pure: durations in, duration out.

use std::time::Duration;

use edgeprompt_model::ModelConfig;

use crate::prefill_speed::PrefillSpeed;

/// The shortest time that layers are waited for in all: less is noise of scheduling and links.
const PATIENCE_MIN: Duration = Duration::from_millis(250);

/// A pass over fewer tokens takes about as long as over so many: reading the weights dominates.
const TOKENS_MIN: usize = 8;

/// How long a request waits for layers, all waits together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Patience {
    /// About as long as computing the layers here would take. Whoever waits that long and then
    /// computes spends at most about twice the better of the two.
    #[default]
    Estimated,
    /// As long as it takes.
    Unlimited,
    /// This long.
    Limited(Duration),
}

/// What a request knows about this edge's speed when it first waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Projecting the queries, keys and values of one layer took this long.
    pub(crate) projection: Duration,
    /// For so many tokens.
    pub(crate) tokens: usize,
}

impl Patience {
    /// About as long as computing `public_len` tokens here would take, from what was measured
    /// before.
    pub fn measured(speed: PrefillSpeed, public_len: usize, config: &ModelConfig) -> Duration {
        let layers = u32::try_from(config.layer_count).unwrap_or(u32::MAX);
        let prefill = speed.layer(public_len).saturating_mul(layers);
        prefill.max(PATIENCE_MIN)
    }

    /// The limit for `public_len` tokens.
    pub(crate) fn limit(
        self,
        measured: Measured,
        public_len: usize,
        config: &ModelConfig,
    ) -> Option<Duration> {
        match self {
            Self::Unlimited => None,
            Self::Limited(limit) => Some(limit),
            Self::Estimated => Some(local_prefill(measured, public_len, config).max(PATIENCE_MIN)),
        }
    }
}

/// Estimates the prefill of `public_len` tokens from one measured projection, by multiply-adds.
fn local_prefill(measured: Measured, public_len: usize, config: &ModelConfig) -> Duration {
    let tokens = measured.tokens.max(TOKENS_MIN);
    let share = ratio(layer_weights(config), projection_weights(config));
    let layer = measured
        .projection
        .mul_f64(share * ratio(public_len, tokens).max(1.0));
    layer.saturating_mul(u32::try_from(config.layer_count).unwrap_or(u32::MAX))
}

/// Weights a token meets in the projection of one layer.
const fn projection_weights(config: &ModelConfig) -> usize {
    config.hidden_dim * (config.q_head_count + 2 * config.kv_head_count) * config.head_dim
}

/// Weights a token meets in all of one layer.
const fn layer_weights(config: &ModelConfig) -> usize {
    let output = config.q_head_count * config.head_dim * config.hidden_dim;
    projection_weights(config) + output + 3 * config.hidden_dim * config.mlp_dim
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn ratio(a: usize, b: usize) -> f64 {
    a as f64 / b.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeprompt_model::ModelShape;

    const MS: Duration = Duration::from_millis(1);

    fn estimate(tokens: usize, public_len: usize) -> Duration {
        let config = ModelShape::TinyLlama1B.config();
        local_prefill(
            Measured {
                projection: 10 * MS,
                tokens,
            },
            public_len,
            &config,
        )
    }

    #[test]
    fn the_projection_is_scaled_to_layers_and_tokens() {
        // TinyLlama: 5.2 M weights of a layer's 44 M are in the projection; 22 layers.
        let one_for_one = estimate(128, 128);
        assert!(
            (1.8..1.9).contains(&one_for_one.as_secs_f64()),
            "{one_for_one:?}"
        );
        assert_eq!(estimate(128, 1024).as_millis() / 8, one_for_one.as_millis());
    }

    #[test]
    fn few_private_tokens_do_not_make_the_public_ones_look_dear() {
        assert_eq!(estimate(1, 1024), estimate(8, 1024));
        assert_eq!(
            estimate(64, 4),
            estimate(64, 64),
            "a short prompt costs a pass all the same"
        );
    }

    #[test]
    fn a_measured_speed_is_scaled_to_layers_and_tokens() {
        let config = ModelShape::M110.config();
        let speed = PrefillSpeed::new(20 * MS, 128);
        let patience = |len| Patience::measured(speed, len, &config);
        assert_eq!(patience(256), 12 * 40 * MS);
        assert_eq!(patience(1), PATIENCE_MIN);
    }

    #[test]
    fn limits_are_taken_as_given() {
        let config = ModelShape::M110.config();
        let measured = Measured {
            projection: Duration::ZERO,
            tokens: 1,
        };
        let limit = |patience: Patience| patience.limit(measured, 512, &config);
        assert_eq!(limit(Patience::Unlimited), None);
        assert_eq!(limit(Patience::Limited(MS)), Some(MS));
        assert_eq!(limit(Patience::Estimated), Some(PATIENCE_MIN));
    }
}
