//! Which keys a query may see, decided by absolute position.
//!
//! A mask is two positions and not a table: what it hides is written out for one tile of queries
//! at a time, and not at all where it hides nothing.

use std::ops::Range;

use burn::tensor::{Bool, Device, Tensor};

use edgeprompt_kv::TokenRange;

/// The keys hidden from each query. Made once for a forward pass and shared by its layers.
#[derive(Clone, Debug)]
pub struct Mask(Visible);

#[derive(Clone, Debug)]
enum Visible {
    All,
    /// Query `i` sees the first `lead + i` keys, or none where that is negative.
    Leading {
        lead: i64,
        /// Where the hidden keys of a tile are written out.
        device: Device,
    },
}

/// What a mask means for one tile of queries.
pub(crate) struct TileMask {
    /// The keys that any of these queries sees: no key after them need be looked at.
    pub(crate) seen_count: usize,
    /// `[query, key]` over the keys seen, true where the key is hidden; nothing when none is.
    hidden: Option<Tensor<2, Bool>>,
}

impl Mask {
    /// Every query sees every key: a prefix segment, whose keys all precede the queries.
    pub const fn all_visible() -> Self {
        Self(Visible::All)
    }

    /// A query sees keys at its own position and before.
    pub fn causal(queries: TokenRange, keys: TokenRange, device: &Device) -> Self {
        Self(Visible::Leading {
            lead: i64::from(queries.start().0) + 1 - i64::from(keys.start().0),
            device: device.clone(),
        })
    }

    /// The mask of the same queries after `count` more keys, all visible, are put before the first.
    pub(crate) fn after_visible(&self, count: usize) -> Self {
        match &self.0 {
            Visible::All => Self::all_visible(),
            Visible::Leading { lead, device } => Self(Visible::Leading {
                lead: lead + signed(count),
                device: device.clone(),
            }),
        }
    }

    /// How many of `key_count` keys a query sees, counted from the first: the first ones.
    pub(crate) fn seen_by(&self, query: usize, key_count: usize) -> usize {
        match self.0 {
            Visible::All => key_count,
            Visible::Leading { lead, .. } => {
                let seen = usize::try_from(lead + signed(query)).unwrap_or(0);
                seen.min(key_count)
            }
        }
    }

    /// The mask of a tile of `queries`, counted from the first, over a segment of `key_count` keys.
    ///
    /// # Panics
    /// If there are no queries.
    pub(crate) fn tile(&self, queries: Range<usize>, key_count: usize) -> TileMask {
        assert!(!queries.is_empty(), "a tile has queries");
        let Visible::Leading { lead, device } = &self.0 else {
            return TileMask {
                seen_count: key_count,
                hidden: None,
            };
        };
        let seen_count = self.seen_by(queries.end - 1, key_count);
        let hides = self.seen_by(queries.start, key_count) < seen_count;
        TileMask {
            seen_count,
            hidden: hides.then(|| {
                // True where key > query + offset.
                let offset = lead + signed(queries.start) - 1;
                Tensor::tril_mask([queries.len(), seen_count], offset, device)
            }),
        }
    }
}

impl TileMask {
    /// Hides scores by setting them to −∞.
    ///
    /// # Shapes
    /// `scores`: `[kv_head, group × query, key]`, the queries of a head contiguous, over the keys
    /// seen.
    pub(crate) fn apply(self, scores: Tensor<3>) -> Tensor<3> {
        let Some(hidden) = self.hidden else {
            return scores;
        };
        let [heads, rows, keys] = scores.dims();
        let [queries, _] = hidden.dims();
        let hidden: Tensor<4, Bool> = hidden.unsqueeze();
        let scores = scores.reshape([heads, rows / queries, queries, keys]);
        let hidden = hidden.expand([heads, rows / queries, queries, keys]);
        scores
            .mask_fill(hidden, f32::NEG_INFINITY)
            .reshape([heads, rows, keys])
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).expect("token counts are those of tensors in memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hidden keys as the definition reads: those after the query.
    fn hidden_by_definition(queries: Range<u32>, keys: Range<u32>) -> Vec<bool> {
        queries
            .flat_map(|query| keys.clone().map(move |key| key > query))
            .collect()
    }

    #[test]
    fn a_tile_hides_what_comes_after_each_query_and_drops_what_none_sees() {
        let device = Device::flex();
        for (first_query, first_key, key_count) in [(0, 0, 9), (5, 0, 9), (5, 3, 9), (2, 4, 5)] {
            let queries = TokenRange::new(first_query, first_query + 9);
            let keys = TokenRange::new(first_key, first_key + key_count);
            let mask = Mask::causal(queries, keys, &device);
            for (start, end) in [(0u32, 1u32), (0, 9), (3, 5), (8, 9)] {
                let tile = mask.tile(start as usize..end as usize, key_count as usize);
                let positions = first_query + start..first_query + end;
                let seen = first_key..first_key + u32::try_from(tile.seen_count).unwrap();
                let expected = hidden_by_definition(positions.clone(), seen.clone());
                let actual = tile.hidden.map_or_else(
                    || vec![false; expected.len()],
                    |hidden| hidden.into_data().try_to_vec().unwrap(),
                );
                assert_eq!(actual, expected, "{positions:?} over {keys:?}");
                let unseen = hidden_by_definition(positions, seen.end..keys.end().0);
                assert!(unseen.iter().all(|hidden| *hidden));
            }
        }
    }

    #[test]
    fn a_decode_step_writes_no_mask_out() {
        let (query, keys) = (TokenRange::new(9, 10), TokenRange::new(4, 10));
        let tile = Mask::causal(query, keys, &Device::flex()).tile(0..1, 6);
        assert_eq!(tile.seen_count, 6);
        assert!(tile.hidden.is_none());
    }
}
