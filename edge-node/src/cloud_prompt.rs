//! A cloud prompt on its way to this edge: the manifest, then layers as they arrive.
//!
//! The network side runs on the async runtime; the engine's thread reads a plain channel.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use edgeprompt_kv::{KvDtype, ModelDigest};
use edgeprompt_protocol::{Fetch, Manifest, PromptRef};
use edgeprompt_transport::{CloudLink, FetchError, LayerStream, ReceivedLayer};

/// What comes after a manifest.
#[derive(Debug)]
pub enum Arrival {
    /// A verified layer.
    Layer(ReceivedLayer),
    /// One layer, or all that are missing, will not come; the words say why.
    Lost(String),
}

/// A manifest and the channel its layers come through.
#[derive(Debug)]
pub struct CloudPrompt {
    /// What the cloud promised.
    pub manifest: Manifest,
    /// The layers, in the order in which they are complete.
    pub arrivals: Receiver<Arrival>,
    /// When the cloud received the request, on this node's clock: half a round trip after it was
    /// sent.
    pub received_by_cloud_at: Instant,
}

impl CloudPrompt {
    /// Asks for all layers of a prompt; returns once the cloud has said what will come.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch(
        link: &CloudLink,
        model: ModelDigest,
        prompt: PromptRef,
    ) -> Result<Self, FetchError> {
        let asked_at = Instant::now();
        let fetch = Fetch {
            fetch: link.next_fetch_id(),
            model,
            prompt,
            layers: None,
            dtype: KvDtype::F32,
        };
        let stream = link.fetch(fetch).await?;
        let one_way: Duration = link.stats().rtt / 2;
        let manifest = stream.manifest().clone();
        // Every layer and one last word fit, so the network side never waits for the engine.
        let (sender, arrivals) = sync_channel(manifest.layers.len() + 1);
        tokio::spawn(forward(stream, sender));
        Ok(Self {
            manifest,
            arrivals,
            received_by_cloud_at: asked_at + one_way,
        })
    }
}

async fn forward(mut stream: LayerStream, sender: SyncSender<Arrival>) {
    loop {
        let arrival = match stream.next_layer().await {
            Ok(None) => return,
            Ok(Some(layer)) => Arrival::Layer(layer),
            Err(error) => {
                // One bad or late layer does not make the others worthless, but an edge that waits
                // for it is told at once and computes what is missing.
                let _ = sender.try_send(Arrival::Lost(error.to_string()));
                if error.is_final() {
                    return;
                }
                continue;
            }
        };
        if sender.try_send(arrival).is_err() {
            return;
        }
    }
}
