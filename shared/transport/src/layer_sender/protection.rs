//! Sends parity after the last layers of a fetch where the path has been losing packets. What a lost
//! packet takes from an earlier layer comes again while later ones are on their way, and costs nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use edgeprompt_kv::LayerIndex;
use edgeprompt_protocol::{LAYER_TRAILER_BYTES, LayerHeader, LayerTrailer, ParityHeader};
use quinn::{Connection, StoppedError, VarInt};
use tokio::time::timeout;

use super::LayerSender;
use crate::close::StreamEnd;
use crate::parity::{LossMeter, PacketCounts, Strides, planes_of, strides_for};

/// Whether a link's layers get parity, and what that depends on.
#[derive(Default)]
pub(crate) struct ParityUse {
    losses: Mutex<LossMeter>,
    /// The edge does not know what parity is.
    is_refused: AtomicBool,
}

impl ParityUse {
    /// Whether the edge has shown not to know what parity is.
    pub(crate) fn is_refused(&self) -> bool {
        self.is_refused.load(Ordering::Relaxed)
    }

    /// How long the planes after so many bytes of a layer should be, if there should be any.
    fn strides(&self, connection: &Connection, protected_bytes: usize) -> Option<Strides> {
        if self.is_refused() {
            return None;
        }
        let path = connection.stats().path;
        let total = PacketCounts {
            sent: path.sent_packets,
            lost: path.lost_packets,
        };
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = losses.recent(total);
        strides_for(protected_bytes, path.current_mtu.into(), recent)
    }
}

/// An earlier layer before a later one, with room for its parity between them. Zero or below.
pub(super) fn layer_priority(layer: LayerIndex) -> i32 {
    // `layer` is under `KvGeometry::LAYER_COUNT_MAX` in a checked manifest.
    i32::try_from(layer.0).map_or(i32::MIN + 1, |layer| layer.saturating_mul(-2))
}

impl LayerSender {
    /// Sends the parity of a layer that is sent, if it is of use. A layer is as good without.
    pub(super) async fn protect(
        &self,
        header: LayerHeader,
        payload: &Bytes,
        trailer: &LayerTrailer,
    ) {
        let (connection, parity) = (&self.link.connection, &self.link.parity);
        if self.bytes_after(header.layer) >= connection.stats().path.cwnd {
            return;
        }
        let protected_bytes = payload.len() + LAYER_TRAILER_BYTES;
        let Some(strides) = parity.strides(connection, protected_bytes) else {
            return;
        };
        let (payload, trailer) = (payload.clone(), trailer.encode());
        let planes = move || planes_of(&[&payload, &trailer], strides);
        // As long as hashing it; fails only with the runtime.
        let Ok(planes) = tokio::task::spawn_blocking(planes).await else {
            return;
        };
        let header = ParityHeader {
            fetch: header.fetch,
            layer: header.layer,
            strides: strides.map(|stride| u32::try_from(stride).unwrap_or(u32::MAX)),
        };
        let sending = self.send_parity(header, planes);
        if !matches!(
            timeout(self.link.timeouts.layer, sending).await,
            Ok(Some(()))
        ) {
            tracing::debug!(layer = header.layer.0, "no parity was sent");
        }
    }

    /// Bytes of layers that go after this one.
    fn bytes_after(&self, layer: LayerIndex) -> u64 {
        let later = self.manifest().layers.iter().filter(|other| *other > layer);
        (later.count() * self.manifest().layer_bytes()) as u64
    }

    async fn send_parity(&self, header: ParityHeader, planes: Vec<u8>) -> Option<()> {
        let mut stream = self.link.connection.open_uni().await.ok()?;
        stream.set_priority(layer_priority(header.layer) - 1).ok()?;
        let start = Bytes::copy_from_slice(&header.encode());
        let mut chunks = [start, planes.into()];
        stream.write_all_chunks(&mut chunks).await.ok()?;
        stream.finish().ok()?;
        let parity = Arc::clone(&self.link.parity);
        tokio::spawn(heed_refusal(stream.stopped(), parity));
        Some(())
    }
}

/// An edge of an older release takes parity for a malformed layer, and is sent no more of it.
pub(crate) async fn heed_refusal(
    stopped: impl Future<Output = Result<Option<VarInt>, StoppedError>>,
    parity: Arc<ParityUse>,
) {
    if stopped.await == Ok(Some(StreamEnd::Malformed.code())) {
        parity.is_refused.store(true, Ordering::Relaxed);
    }
}
