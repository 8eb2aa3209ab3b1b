//! How attention over the cloud prompt and over the private prompt become one.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Tensor;

use crate::{KvView, Mask, merge, partial_attention};

/// The way prefix and suffix are fused.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Fusion {
    /// Two partial attentions merged by their log-sum-exp: equal to attention over the whole.
    #[default]
    Exact,
    /// Two partial attentions weighted by a constant α, as EdgePrompt's eq. (5) has it. Not
    /// attention: an ablation that shows what exactness is worth.
    Fixed(f32),
    /// Keys and values concatenated, then attended as one segment: exact, and the baseline that
    /// fusion must justify itself against.
    Concat,
}

/// Why a fusion could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a fusion: use exact, concat or fixed:α with α between 0 and 1")]
pub struct ParseFusionError(String);

impl FromStr for Fusion {
    type Err = ParseFusionError;

    fn from_str(text: &str) -> Result<Self, ParseFusionError> {
        match text {
            "exact" => Ok(Self::Exact),
            "concat" => Ok(Self::Concat),
            _ => text
                .strip_prefix("fixed:")
                .and_then(|alpha| alpha.parse().ok())
                .filter(|alpha| (0.0..=1.0).contains(alpha))
                .map(Self::Fixed)
                .ok_or_else(|| ParseFusionError(text.to_owned())),
        }
    }
}

impl fmt::Display for Fusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Concat => f.write_str("concat"),
            Self::Fixed(alpha) => write!(f, "fixed:{alpha}"),
        }
    }
}

/// Attention of private queries over a shared prefix and their own suffix.
///
/// The prefix lies wholly before the queries, so all of it is visible; `mask` governs the suffix.
///
/// # Shapes
/// `q` and the result: `[token, q_head, head_dim]`.
pub fn attend(
    q: &Tensor<3>,
    prefix: Option<&KvView>,
    suffix: &KvView,
    mask: &Mask,
    fusion: Fusion,
) -> Tensor<3> {
    let Some(prefix) = prefix.filter(|prefix| prefix.token_count() > 0) else {
        return partial_attention(q, suffix, mask).output;
    };
    if fusion == Fusion::Concat {
        let cat = |a: &Tensor<3>, b: &Tensor<3>| Tensor::cat(vec![a.clone(), b.clone()], 1);
        let whole = KvView {
            keys: cat(&prefix.keys, &suffix.keys),
            values: cat(&prefix.values, &suffix.values),
        };
        return partial_attention(q, &whole, &mask.after_visible(prefix.token_count())).output;
    }
    let prefix = partial_attention(q, prefix, &Mask::all_visible());
    let suffix = partial_attention(q, suffix, mask);
    match fusion {
        Fusion::Fixed(alpha) => prefix.output * alpha + suffix.output * (1.0 - alpha),
        Fusion::Exact | Fusion::Concat => merge(prefix, suffix).output,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fusions_survive_printing_and_others_are_refused() {
        for fusion in [Fusion::Exact, Fusion::Concat, Fusion::Fixed(0.5)] {
            assert_eq!(fusion.to_string().parse(), Ok(fusion));
        }
        for wrong in ["fixed:1.5", "fixed:", "fixed:nan", "average", ""] {
            assert!(wrong.parse::<Fusion>().is_err(), "{wrong}");
        }
    }
}
