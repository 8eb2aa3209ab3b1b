//! One forward pass over new tokens of one sequence, which can stop at any layer and go on later.

use burn::tensor::{Tensor, TensorData};
use edgeprompt_attention::{Fusion, KvView, Mask, attend};
use edgeprompt_kv::{LayerIndex, TokenId, TokenRange};
use edgeprompt_model::{Model, Rotary};

use crate::{CloudSegment, PrivateKv};

/// Where a pass stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It cannot go on before this layer of the cloud prompt is there.
    NeedsLayer(LayerIndex),
    /// This layer is done and another follows.
    LayerDone(LayerIndex),
    /// Every layer is done: the logits can be taken.
    Complete,
}

/// A pass, suspendable before every layer's attention.
///
/// Each layer has two halves: [`ForwardPass::project`] needs nothing from the cloud and appends to
/// the private KV; [`ForwardPass::attend`] needs the cloud prompt's layer.
///
/// Deliberately not `Debug`: its hidden states and queries count as private text.
pub struct ForwardPass {
    hidden: Tensor<2>,
    rotary: Rotary,
    mask: Mask,
    layer: LayerIndex,
    /// Queries of the current layer, once it is projected.
    queries: Option<Tensor<3>>,
}

impl ForwardPass {
    /// A pass over `tokens` at the positions `range`, whose earlier private tokens, if any, begin
    /// where the sequence's private part does.
    ///
    /// # Panics
    /// If there are no tokens or `range` has another length.
    pub fn start(model: &Model, tokens: &[TokenId], range: TokenRange) -> Self {
        Self::continuing(model, tokens, range, range)
    }

    /// A pass over `tokens` at the positions `range`, after private tokens that with them cover
    /// the positions `private`.
    ///
    /// # Panics
    /// If there are no tokens, the ranges do not fit them, or the model has no such token; which
    /// token that is, is not said, as it may be private.
    pub fn continuing(
        model: &Model,
        tokens: &[TokenId],
        range: TokenRange,
        private: TokenRange,
    ) -> Self {
        assert!(!tokens.is_empty(), "a pass needs tokens");
        assert_eq!(tokens.len(), range.len(), "one position for each token");
        assert_eq!(
            range.end(),
            private.end(),
            "the new tokens are the last private ones"
        );
        let vocab_size = model.config.vocab_size;
        let is_known = |token: &TokenId| (token.0 as usize) < vocab_size;
        assert!(
            tokens.iter().all(is_known),
            "a token is outside the vocabulary of {vocab_size}"
        );
        let device = model.decoder.device();
        let ids: Vec<i64> = tokens.iter().map(|token| i64::from(token.0)).collect();
        let ids = Tensor::from_data(TensorData::new(ids, [tokens.len()]), &device);
        Self {
            hidden: model.decoder.embed(ids),
            rotary: model.rope.rotary(range.start().0..range.end().0, &device),
            mask: Mask::causal(range, private, &device),
            layer: LayerIndex(0),
            queries: None,
        }
    }

    /// The layer the pass is at.
    pub const fn layer(&self) -> LayerIndex {
        self.layer
    }

    /// Goes on as far as one layer allows.
    pub fn advance(
        &mut self,
        model: &Model,
        cloud: Option<&CloudSegment>,
        kv: &mut PrivateKv,
        fusion: Fusion,
    ) -> Progress {
        let layer = self.layer;
        self.project(model, kv);
        let prefix = match cloud.map(|cloud| cloud.layers.get(layer)) {
            Some(None) => return Progress::NeedsLayer(layer),
            Some(Some(prefix)) => Some(prefix),
            None => None,
        };
        self.attend(model, prefix, kv, fusion);
        if self.layer.as_usize() == model.decoder.layers().len() {
            return Progress::Complete;
        }
        Progress::LayerDone(layer)
    }

    /// Projects the current layer and appends its keys and values to the private KV; does nothing
    /// if that is done already.
    pub fn project(&mut self, model: &Model, kv: &mut PrivateKv) {
        if self.queries.is_some() {
            return;
        }
        let layer = &model.decoder.layers()[self.layer.as_usize()];
        let qkv = layer.project(self.hidden.clone(), &self.rotary);
        let by_head = |t: Tensor<3>| t.swap_dims(0, 1);
        kv.append(
            self.layer,
            KvView {
                keys: by_head(qkv.k),
                values: by_head(qkv.v),
            },
        );
        self.queries = Some(qkv.q);
    }

    /// Attends over the cloud prompt's layer and the private tokens, and finishes the layer.
    ///
    /// # Panics
    /// If the layer is not projected yet.
    pub fn attend(
        &mut self,
        model: &Model,
        prefix: Option<&KvView>,
        kv: &PrivateKv,
        fusion: Fusion,
    ) {
        let q = self
            .queries
            .take()
            .expect("a layer is projected before it attends");
        let attended = attend(&q, prefix, &kv.view(self.layer), &self.mask, fusion);
        let layer = &model.decoder.layers()[self.layer.as_usize()];
        self.hidden = layer.finish(self.hidden.clone(), attended);
        self.layer = LayerIndex(self.layer.0 + 1);
    }

    /// The scores of the token after each of the pass's.
    ///
    /// # Shapes
    /// `[token, vocab]`, f32.
    ///
    /// # Panics
    /// If the pass is not complete.
    pub fn logits_of_all(self, model: &Model) -> Vec<f32> {
        assert_eq!(
            self.layer.as_usize(),
            model.decoder.layers().len(),
            "the pass is complete"
        );
        let logits = model.decoder.logits(self.hidden);
        logits
            .into_data()
            .try_to_vec()
            .expect("the decoder computes in f32")
    }

    /// The scores of the token after the last one.
    ///
    /// # Shapes
    /// `[vocab]`, f32.
    ///
    /// # Panics
    /// If the pass is not complete.
    pub fn logits(mut self, model: &Model) -> Vec<f32> {
        let last = self.hidden.dims()[0] - 1;
        self.hidden = self.hidden.narrow(0, last, 1);
        self.logits_of_all(model)
    }
}
