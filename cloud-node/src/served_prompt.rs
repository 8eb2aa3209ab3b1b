//! A prompt whose layers are there or on their way: the half that waits for layers, and the half
//! that puts them there. Neither computes.

use std::sync::Arc;

use edgeprompt_kv::{KvDtype, LayerIndex, LayerKv, PromptId, PromptKv, SegmentSlots, TokenId};
use edgeprompt_protocol::KvSource;
use edgeprompt_transport::ComputeSpan;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

use crate::job_queue::EdgeName;

/// A prompt whose layers are there or on their way.
#[derive(Clone, Debug)]
pub struct ServedPrompt {
    kv: Arc<PromptKv>,
    layers: Layers,
    /// The same prompt in the number format in which it is sent, if that is another: a layer is
    /// encoded when it is sent for the first time.
    sent: Option<Arc<PromptKv>>,
}

#[derive(Clone, Debug)]
enum Layers {
    /// All existed before.
    Stored,
    /// They appear one after the other.
    Computing {
        /// When each was computed.
        spans: SegmentSlots<ComputeSpan>,
        /// How many exist.
        ready: watch::Receiver<u32>,
    },
}

/// Computation of this prompt ended before this layer existed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the computation ended before layer {0}")]
pub struct ComputationLost(pub u32);

impl ServedPrompt {
    /// A prompt of which every layer exists.
    pub(crate) const fn stored(kv: Arc<PromptKv>) -> Self {
        let layers = Layers::Stored;
        let sent = None;
        Self { kv, layers, sent }
    }

    /// The same prompt, sent from the slots of `sent`, which hold it in another number format.
    pub(crate) fn sent_as(self, sent: Arc<PromptKv>) -> Self {
        let sent = Some(sent);
        Self { sent, ..self }
    }

    /// Empty slots for the same prompt in another number format.
    pub(crate) fn empty_as(&self, dtype: KvDtype) -> PromptKv {
        PromptKv {
            id: self.kv.id,
            tokens: Arc::clone(&self.kv.tokens),
            geometry: self.kv.geometry,
            dtype,
            layers: SegmentSlots::empty(self.kv.layers.layer_count()),
        }
    }

    /// The number format in which it is sent.
    pub fn dtype(&self) -> KvDtype {
        self.sent.as_ref().unwrap_or(&self.kv).dtype
    }

    /// Its identity.
    pub fn id(&self) -> PromptId {
        self.kv.id
    }

    /// Its tokens.
    pub fn tokens(&self) -> &Arc<[TokenId]> {
        &self.kv.tokens
    }

    /// Whether the layers existed before they were asked for.
    pub const fn source(&self) -> KvSource {
        match self.layers {
            Layers::Stored => KvSource::Stored,
            Layers::Computing { .. } => KvSource::Computing,
        }
    }

    /// A layer, as soon as it exists, and when it was computed.
    ///
    /// # Errors
    /// [`ComputationLost`] if the computation failed, or the computer is gone.
    pub async fn layer(
        &mut self,
        layer: LayerIndex,
    ) -> Result<(LayerKv, ComputeSpan), ComputationLost> {
        let lost = ComputationLost(layer.0);
        let span = match &mut self.layers {
            Layers::Stored => ComputeSpan::Stored,
            Layers::Computing { spans, ready } => {
                let there = ready.wait_for(|count| *count > layer.0).await;
                there.map_err(|_| lost)?;
                spans.get(layer).copied().ok_or(lost)?
            }
        };
        let computed = self.kv.layers.get(layer).ok_or(lost)?.clone();
        let Some(sent) = self.sent.clone() else {
            return Ok((computed, span));
        };
        // Milliseconds of work, which are not the async threads'.
        let encoding = spawn_blocking(move || {
            let encode = || computed.recoded(sent.dtype);
            sent.layers.get_or_fill(layer, encode).cloned()
        });
        let encoded = encoding.await.ok().flatten();
        Ok((encoded.ok_or(lost)?, span))
    }
}

#[cfg(test)]
impl ServedPrompt {
    /// Waits until nobody else holds the prompt but the queue.
    pub(crate) async fn alone(&self) {
        // The queue's, and this.
        while Arc::strong_count(&self.kv) > 2 {
            tokio::task::yield_now().await;
        }
    }
}

/// One prompt to compute. Whoever watches it learns that it is lost when its last clone goes.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// What is filled.
    pub(crate) kv: Arc<PromptKv>,
    /// Who asked first.
    pub(crate) edge: EdgeName,
    spans: SegmentSlots<ComputeSpan>,
    ready: watch::Sender<u32>,
}

impl Job {
    /// A prompt none of whose layers exist.
    pub(crate) fn new(kv: PromptKv, edge: EdgeName) -> Self {
        let spans = SegmentSlots::empty(kv.layers.layer_count());
        let ready = watch::Sender::new(0);
        let kv = Arc::new(kv);
        Self {
            kv,
            edge,
            spans,
            ready,
        }
    }

    /// The prompt for one more who waits for it.
    pub(crate) fn watch(&self) -> ServedPrompt {
        let layers = Layers::Computing {
            spans: self.spans.clone(),
            ready: self.ready.subscribe(),
        };
        ServedPrompt {
            kv: Arc::clone(&self.kv),
            layers,
            sent: None,
        }
    }

    /// Whether anybody still waits for it.
    pub(crate) fn is_watched(&self) -> bool {
        self.ready.receiver_count() > 0
    }

    /// Puts the next layer there. Watchers see the last one only at [`Job::complete`].
    ///
    /// # Panics
    /// If the layer is there already or is not one of the prompt's.
    pub(crate) fn put(&self, layer: LayerIndex, kv: LayerKv, span: ComputeSpan) {
        let filled = self.spans.fill(layer, span);
        filled.expect("every layer is computed once");
        let filled = self.kv.layers.fill(layer, kv);
        filled.expect("every layer is computed once");
        if layer.0 + 1 < self.kv.geometry.layer_count() {
            self.ready.send_replace(layer.0 + 1);
        }
    }

    /// Lets watchers see every layer.
    pub(crate) fn complete(&self) {
        self.ready.send_replace(self.kv.geometry.layer_count());
    }
}
