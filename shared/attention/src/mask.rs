//! Which keys a query may see, decided by absolute position.

use burn::tensor::{Bool, Device, Tensor, TensorData};

use edgeprompt_kv::TokenRange;

/// The keys hidden from each query. Built once for a forward pass and shared by its layers.
#[derive(Clone, Debug)]
pub struct Mask {
    /// `[query, key]`, true where the key is hidden; nothing when all are visible.
    hidden: Option<Tensor<2, Bool>>,
}

impl Mask {
    /// Every query sees every key: a prefix segment, whose keys all precede the queries.
    pub const fn all_visible() -> Self {
        Self { hidden: None }
    }

    /// A query sees keys at its own position and before.
    ///
    /// No tensor is built when that hides nothing, as in every decode step.
    pub fn causal(queries: TokenRange, keys: TokenRange, device: &Device) -> Self {
        if keys.is_empty() || keys.end().0 <= queries.start().0 + 1 {
            return Self::all_visible();
        }
        let (first_query, first_key) = (queries.start().0, keys.start().0);
        let hidden: Vec<bool> = (first_query..queries.end().0)
            .flat_map(|query| (first_key..keys.end().0).map(move |key| key > query))
            .collect();
        let data = TensorData::new(hidden, [queries.len(), keys.len()]);
        Self {
            hidden: Some(Tensor::from_data(data, device)),
        }
    }

    /// The mask of the same queries after `count` more keys, all visible, are put before the first.
    pub(crate) fn after_visible(&self, count: usize) -> Self {
        let hidden = self.hidden.as_ref().map(|hidden| {
            let visible =
                Tensor::<2, Bool>::full([hidden.dims()[0], count], false, &hidden.device());
            Tensor::cat(vec![visible, hidden.clone()], 1)
        });
        Self { hidden }
    }

    /// Hides scores by setting them to −∞.
    ///
    /// # Shapes
    /// `scores`: `[kv_head, group × query, key]`, the queries of a head contiguous.
    pub(crate) fn apply(&self, scores: Tensor<3>) -> Tensor<3> {
        let Some(hidden) = &self.hidden else {
            return scores;
        };
        let [heads, rows, keys] = scores.dims();
        let [queries, _] = hidden.dims();
        let hidden: Tensor<4, Bool> = hidden.clone().unsqueeze();
        let scores = scores.reshape([heads, rows / queries, queries, keys]);
        let hidden = hidden.expand([heads, rows / queries, queries, keys]);
        scores
            .mask_fill(hidden, f32::NEG_INFINITY)
            .reshape([heads, rows, keys])
    }
}
