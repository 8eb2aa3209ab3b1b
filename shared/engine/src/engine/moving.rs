//! Generations that go on elsewhere, or were begun there: their tokens are known, and their keys and
//! values are taken out and put in, or computed again. Sessions, too, are given what was computed elsewhere.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::Tensor;
use edgeprompt_attention::{BlockPlace, KvView};
use edgeprompt_kv::{LayerIndex, OutOfBlocks, TokenId};

use super::{Engine, Generation, SubmitError};
use crate::scheduler::{NotRestored, SequenceId};
use crate::{CloudSegment, SessionId};

/// Keys and values of some private tokens, of all layers. Deliberately not `Debug`: they are as
/// private as the tokens.
pub struct KvChunk {
    /// The tokens, counted from the private prompt's first.
    pub tokens: Range<usize>,
    /// Of each layer.
    ///
    /// # Shapes
    /// Keys and values: `[kv_head, token, head_dim]`.
    pub layers: Vec<KvView>,
}

/// How far a generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progressed {
    /// Private tokens known: the prompt and the answer.
    pub token_count: usize,
    /// Those whose keys and values are known, from the first on.
    pub computed_count: usize,
    /// Whether those are all here, and can be taken out.
    pub is_whole: bool,
}

/// Why a session is not given what its prompts begin with. They are computed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAdopted {
    /// Heads are on several devices.
    #[error("attention heads are on several devices")]
    Spread,
    /// The pool has no room.
    #[error(transparent)]
    OutOfBlocks(#[from] OutOfBlocks),
}

impl Engine {
    /// Gives a session what its prompts begin with, from a segment that is complete: concatenated with
    /// what is private, and read by each sequence for itself. What does not fill a block is left out.
    ///
    /// # Errors
    /// [`NotAdopted`]; nothing is changed then.
    ///
    /// # Panics
    /// If a layer of the segment is missing, or it is not of these tokens.
    pub fn adopt(
        &mut self,
        session: SessionId,
        tokens: &[TokenId],
        segment: &CloudSegment,
    ) -> Result<(), NotAdopted> {
        assert_eq!(segment.range().len(), tokens.len(), "a token for each key");
        if !self.shard.is_whole() {
            return Err(NotAdopted::Spread);
        }
        let blocks = self.scheduler.adopt(session, tokens)?;
        let block_len = self.scheduler.limits().block_len.get();
        let places: Arc<[BlockPlace]> = blocks
            .iter()
            .flat_map(|block| {
                let block = block.as_usize();
                (0..block_len).map(move |slot| BlockPlace { block, slot })
            })
            .collect();
        for (layer, kv) in (0..).map(LayerIndex).zip(self.shard.all_kv()) {
            let view = segment.layers.get(layer).expect("the segment is complete");
            let of_tokens = |tensor: &Tensor<3>| {
                let adopted = tensor.clone().narrow(1, 0, places.len());
                adopted.swap_dims(0, 1)
            };
            kv.write(&places, &of_tokens(&view.keys), &of_tokens(&view.values));
        }
        self.touched(&places);
        Ok(())
    }

    /// Takes in a generation that was begun elsewhere: `answered` is what it has so far. It is held,
    /// and up to `compute_max` of its private tokens are computed meanwhile.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn submit_held(
        &mut self,
        mut generation: Generation,
        answered: &[TokenId],
        compute_max: usize,
    ) -> Result<SequenceId, SubmitError> {
        // Its blocks are its own: what other generations of the session share, they have computed.
        generation.session = None;
        let id = self.submit(generation)?;
        self.scheduler.hold(id, compute_max);
        self.extend(id, answered);
        Ok(id)
    }

    /// Stops a generation between two tokens; up to `compute_max` of its private tokens are computed
    /// meanwhile. Also changes the bound of one that is held.
    pub fn hold(&mut self, id: SequenceId, compute_max: usize) {
        self.scheduler.hold(id, compute_max);
    }

    /// Somebody waits for a held generation from now on: until then what it computes takes little of a
    /// step in which others compute.
    pub fn hasten(&mut self, id: SequenceId) {
        self.scheduler.hasten(id);
    }

    /// Lets a held generation go on.
    pub fn release(&mut self, id: SequenceId) {
        self.scheduler.release(id);
    }

    /// More of the answer of a held generation is known. Its sampler is the caller's to bring there.
    pub fn extend(&mut self, id: SequenceId, answered: &[TokenId]) {
        if let Some(state) = self.sequences.get_mut(&id) {
            state.tokens.extend_from_slice(answered);
            state.sampler.replay(answered);
            self.scheduler.extended(id, answered);
        }
    }

    /// How far a generation is; `None` if it has ended.
    pub fn progress(&self, id: SequenceId) -> Option<Progressed> {
        self.sequences.get(&id).map(|state| Progressed {
            token_count: state.tokens.len(),
            computed_count: self.scheduler.computed_len(id),
            is_whole: self.is_whole(),
        })
    }

    /// Keys and values of private tokens that are computed; fewer than asked for if not all are, and
    /// `None` if none is.
    pub fn take_out(&self, id: SequenceId, tokens: Range<usize>) -> Option<KvChunk> {
        if !self.shard.is_whole() {
            // Not worth collecting from several devices: they are computed again where they go.
            return None;
        }
        let table = self.scheduler.table(id)?;
        let end = tokens.end.min(self.scheduler.computed_len(id));
        let tokens = tokens.start..end;
        if tokens.is_empty() {
            return None;
        }
        let block_len = table.block_len();
        let first = tokens.start / block_len;
        let blocks = &table.blocks()[first..end.div_ceil(block_len)];
        let blocks: Vec<usize> = blocks.iter().map(|block| block.as_usize()).collect();
        let skipped = tokens.start - first * block_len;
        let layers = self.shard.kv_of_layers().map(|kv| {
            let view = kv.gather(&blocks, end - first * block_len);
            let of_tokens = |tensor: Tensor<3>| tensor.narrow(1, skipped, tokens.len());
            KvView {
                keys: of_tokens(view.keys),
                values: of_tokens(view.values),
            }
        });
        let layers = layers.collect();
        Some(KvChunk { tokens, layers })
    }

    /// Overwrites the keys and values that only this generation has, on all devices; they are lost to it.
    pub fn wipe(&mut self, id: SequenceId) {
        let Some(table) = self.scheduler.table(id) else {
            return;
        };
        let blocks = table.blocks().iter().copied();
        let own = blocks.filter(|block| !self.scheduler.is_shared(*block));
        let blocks: Vec<_> = own.map(|block| block.as_usize()).collect();
        if blocks.is_empty() {
            return;
        }
        self.shard.wipe(&blocks);
        if let Some(spread) = &mut self.spread {
            spread.wipe(&blocks);
        }
    }

    /// Puts keys and values in that were computed elsewhere, for a held generation. They are next to
    /// those that were put in before, on either side.
    ///
    /// # Errors
    /// [`NotRestored`]; they are computed here then.
    ///
    /// # Panics
    /// If the chunk is not of this model's shape.
    pub fn put_in(&mut self, id: SequenceId, chunk: KvChunk) -> Result<(), NotRestored> {
        if !self.shard.is_whole() {
            return Err(NotRestored::Spread);
        }
        let Self {
            scheduler, shard, ..
        } = self;
        let table = scheduler.restore(id, chunk.tokens.clone())?;
        let block_len = table.block_len();
        let places: Arc<[BlockPlace]> = chunk
            .tokens
            .map(|token| BlockPlace {
                block: table.blocks()[token / block_len].as_usize(),
                slot: token % block_len,
            })
            .collect();
        let layer_count = shard.shape().layer_count;
        assert_eq!(chunk.layers.len(), layer_count, "one view for each layer");
        let kv = shard.all_kv();
        for ((layer, kv), view) in (0..).map(LayerIndex).zip(kv).zip(chunk.layers) {
            let [keys, values] = [view.keys, view.values].map(|tensor| tensor.swap_dims(0, 1));
            assert_eq!(
                keys.dims()[0],
                places.len(),
                "layer {}: a place for each token",
                layer.0
            );
            kv.write(&places, &keys, &values);
        }
        self.touched(&places);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
