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
        prefill_segment(model, tokens, |layer, view| {
            segment
                .layers
                .fill(layer, view)
                .expect("every layer is computed once");
        });
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

/// Computes a prompt's keys and values layer by layer and hands each layer out as soon as it
/// exists: layer `l` leaves before its own attention is computed, and nothing is computed after
/// the last layer's projection.
///
/// A layer is given up once it has attended: one layer's keys and values are held at a time, and
/// what else stays is the caller's.
pub fn prefill_segment(
    model: &Model,
    tokens: &[TokenId],
    mut emit: impl FnMut(LayerIndex, KvView),
) {
    if tokens.is_empty() {
        return;
    }
    let device: Device = model.decoder.device();
    let mut kv = PrivateKv::empty(&model.geometry, &device);
    let count = u32::try_from(tokens.len()).expect("a prompt fits in u32 positions");
    let mut pass = ForwardPass::start(model, tokens, TokenRange::prefix(count));
    let last = LayerIndex(model.geometry.layer_count() - 1);
    loop {
        let layer = pass.layer();
        pass.project(model, &mut kv);
        emit(layer, kv.view(layer));
        if layer == last {
            return;
        }
        pass.attend(model, None, &kv, Fusion::Exact);
        kv.release(layer);
    }
}
