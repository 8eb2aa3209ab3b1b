//! The cloud prompt at hand: a slot for each layer's keys and values, filled as they arrive.

use burn::tensor::Device;
use edgeprompt_attention::{Fusion, KvView};
use edgeprompt_kv::{KvGeometry, LayerIndex, SegmentSlots, TokenId, TokenRange};
use edgeprompt_model::Model;

use crate::{ForwardPass, PrivateKv};

/// The public prefix of a sequence, shared by every sequence that builds on it.
#[derive(Clone, Debug)]
pub struct CloudSegment {
    /// The layers there so far.
    pub layers: SegmentSlots<KvView>,
    token_count: u32,
}

impl CloudSegment {
    /// Empty slots for a cloud prompt of `token_count` tokens.
    pub fn empty(geometry: &KvGeometry, token_count: u32) -> Self {
        let layer_count = usize::try_from(geometry.layer_count()).unwrap_or(usize::MAX);
        Self {
            layers: SegmentSlots::empty(layer_count),
            token_count,
        }
    }

    /// A segment all of whose layers are computed here and now.
    pub fn computed(model: &Model, tokens: &[TokenId]) -> Self {
        let count = u32::try_from(tokens.len()).expect("a prompt fits in u32 positions");
        let segment = Self::empty(&model.geometry, count);
        for (layer, view) in SegmentPrefill::start(model, tokens) {
            let filled = segment.layers.fill(layer, view);
            filled.expect("every layer is computed once");
        }
        segment
    }

    /// Whether every layer is there, so that a sequence on this segment never waits for one.
    pub fn is_complete(&self) -> bool {
        self.layers.is_complete()
    }

    /// The positions of the cloud prompt: it is a prefix.
    pub const fn range(&self) -> TokenRange {
        TokenRange::prefix(self.token_count)
    }
}

/// Computes a prompt's keys and values, one layer at each step: layer `l` is handed out before its
/// own attention is computed, and nothing is computed after the last layer's projection.
///
/// A layer is given up once it has attended: one layer's keys and values are held at a time, and
/// what else stays is the caller's.
///
/// Deliberately not `Debug`, as [`ForwardPass`].
pub struct SegmentPrefill<'a> {
    model: &'a Model,
    /// `None` for a prompt without tokens.
    pass: Option<ForwardPass>,
    kv: PrivateKv,
    stage: Stage,
}

/// What was done last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Started,
    Projected,
}

impl<'a> SegmentPrefill<'a> {
    /// Computes nothing yet.
    ///
    /// # Panics
    /// If the tokens are more than positions.
    pub fn start(model: &'a Model, tokens: &[TokenId]) -> Self {
        let device: Device = model.decoder.device();
        let count = u32::try_from(tokens.len()).expect("a prompt fits in u32 positions");
        let pass =
            (count > 0).then(|| ForwardPass::start(model, tokens, TokenRange::prefix(count)));
        Self {
            model,
            pass,
            kv: PrivateKv::empty(&model.geometry, &device),
            stage: Stage::Started,
        }
    }
}

impl Iterator for SegmentPrefill<'_> {
    type Item = (LayerIndex, KvView);

    fn next(&mut self) -> Option<Self::Item> {
        let pass = self.pass.as_mut()?;
        if self.stage == Stage::Projected {
            let done = pass.layer();
            if done.0 + 1 == self.model.geometry.layer_count() {
                return None;
            }
            pass.attend(self.model, None, &self.kv, Fusion::Exact);
            self.kv.release(done);
        }
        let layer = pass.layer();
        pass.project(self.model, &mut self.kv);
        self.stage = Stage::Projected;
        Some((layer, self.kv.view(layer)))
    }
}
