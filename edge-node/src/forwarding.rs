//! Hands a prompt's layers on from whoever has them: resumes a lost link with the missing layers, then
//! turns to the next source. It runs on the async runtime and is never kept waiting by a full channel.

use std::collections::{BTreeSet, VecDeque};
use std::io::{Read, Seek};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use edgeprompt_kv::{LayerIndex, LayerRange};
use edgeprompt_protocol::{Fetch, LayerTimings, Manifest, PromptRef};
use edgeprompt_segment_store::{ReadError, SegmentReader};
use edgeprompt_transport::{LayerProblem, LayerStream, LayerStreamError, ReceivedLayer};

use crate::cloud_prompt::{Arrival, CloudPromptError, Loss, LossReason};
use crate::disk_cache::DiskCache;
use crate::kv_origin::KvOrigin;
use crate::planner::ReadSpeed;
use crate::prefill_speed::PrefillSpeed;
use crate::uplink::Uplink;

/// How often missing layers of one prompt are asked for again.
const RESUMPTIONS_MAX: u32 = 3;
/// Pause before the second attempt to resume; each further one is twice as long.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// Hands layers on and asks again for those that did not come.
///
/// It runs to its end even if nobody wants the layers any more: when the engine lost patience
/// depends on the private prompt, and the cloud must not learn of it.
#[derive(Debug)]
pub(crate) struct Forwarding {
    /// Who is asked from now on, in this order.
    sources: VecDeque<Uplink>,
    fetch: Fetch,
    manifest: Manifest,
    missing: BTreeSet<LayerIndex>,
    sender: SyncSender<Arrival>,
}

/// All that there may be to say about a prompt whose layers may come from a first source and then
/// from `other_count` others.
pub(crate) fn arrivals_max(manifest: &Manifest, other_count: usize) -> usize {
    let attempts = (1 + other_count) * (1 + RESUMPTIONS_MAX as usize);
    // Each layer once, how many have begun for each of them on each attempt, and one last word.
    manifest.layers.len() * (1 + attempts) + 1
}

impl Forwarding {
    pub(crate) fn new(
        sources: VecDeque<Uplink>,
        (fetch, manifest): (Fetch, &Manifest),
        sender: SyncSender<Arrival>,
    ) -> Self {
        Self {
            sources,
            fetch,
            manifest: manifest.clone(),
            missing: manifest.layers.iter().collect(),
            sender,
        }
    }

    /// Takes what the first source has begun to send.
    pub(crate) async fn run(mut self, stream: LayerStream, received_by_cloud_at: Instant) {
        let Some(source) = self.sources.pop_front() else {
            return;
        };
        let Some(loss) = self.drain(&source, stream, received_by_cloud_at).await else {
            return;
        };
        let resumptions = match source.origin() {
            // Somebody else may have the rest at once.
            KvOrigin::Peer => 0,
            _ => RESUMPTIONS_MAX,
        };
        if let Some(loss) = self.resume(&source, loss, resumptions).await {
            self.go_on(loss).await;
        }
    }

    /// Takes what the disk cache has.
    pub(crate) async fn run_from_disk<R: Read + Seek + Send + 'static>(
        mut self,
        disk: Arc<DiskCache>,
        reader: SegmentReader<R>,
    ) {
        let (id, sender) = (self.manifest.prompt, self.sender.clone());
        let reading = tokio::task::spawn_blocking(move || {
            let read = read_all(reader, &sender);
            match read {
                Ok(speed) => disk.note_speed(speed, Instant::now()),
                Err((_, ref error)) => disk.not_read(&id, error),
            }
            read
        });
        let (first_missing, reason, detail) = match reading.await {
            Ok(Ok(_)) => return,
            Ok(Err((layer, error))) => (layer, reason_of(&error), error.to_string()),
            // It has said so.
            Err(error) => (LayerIndex(0), LossReason::Unreadable, error.to_string()),
        };
        self.missing.retain(|layer| *layer >= first_missing);
        self.go_on(Loss { reason, detail }).await;
    }

    /// Asks the sources that are left for what is missing.
    async fn go_on(mut self, mut loss: Loss) {
        while let Some(source) = self.sources.pop_front() {
            // Names may mean something else there; this is the one prompt that others know as well.
            self.fetch.prompt = PromptRef::Id(self.manifest.prompt);
            let attempts = match source.origin() {
                KvOrigin::Peer => 1,
                _ => 1 + RESUMPTIONS_MAX,
            };
            match self.resume(&source, loss, attempts).await {
                None => return,
                Some(again) => loss = again,
            }
        }
        self.tell(Arrival::Lost(loss));
    }

    /// Asks a source for the missing layers so many times. Nothing is left to say if all have come.
    async fn resume(&mut self, source: &Uplink, mut loss: Loss, attempts: u32) -> Option<Loss> {
        let mut pause = RESUME_PAUSE;
        for attempt in 0..attempts {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            tracing::info!(
                detail = loss.detail,
                missing = self.missing.len(),
                from = source.origin().label(),
                "resuming"
            );
            let drained = match self.ask(source).await {
                Err(loss) => Some(loss),
                Ok((stream, received_by_cloud_at)) => {
                    self.drain(source, stream, received_by_cloud_at).await
                }
            };
            loss = drained?;
        }
        Some(loss)
    }

    /// Asks for the missing layers only, on a new link if the old one is gone.
    async fn ask(&self, source: &Uplink) -> Result<(LayerStream, Instant), Loss> {
        let lost = |error: CloudPromptError| error.loss();
        let link = source.link().await.map_err(|error| lost(error.into()))?;
        let (first, last) = (self.missing.first(), self.missing.last());
        let layers = first
            .zip(last)
            .and_then(|(first, last)| LayerRange::new(first.0, last.0 + 1));
        let fetch = Fetch {
            fetch: link.next_fetch_id(),
            layers,
            ..self.fetch.clone()
        };
        let asked_at = Instant::now();
        let stream = link
            .fetch(fetch)
            .await
            .map_err(|error| lost(error.into()))?;
        let (first, resumed) = (&self.manifest, stream.manifest());
        if (resumed.prompt, resumed.geometry) != (first.prompt, first.geometry) {
            let detail = "the cloud's prompt has changed meanwhile".to_owned();
            return Err(Loss {
                reason: LossReason::Refused,
                detail,
            });
        }
        Ok((stream, asked_at + link.stats().rtt / 2))
    }

    /// Takes one stream to its end; nothing is left to say if every layer is here then.
    async fn drain(
        &mut self,
        source: &Uplink,
        mut stream: LayerStream,
        received_by_cloud_at: Instant,
    ) -> Option<Loss> {
        let mut begun = stream.begun();
        let mut failed = None;
        while !self.missing.is_empty() {
            let next = tokio::select! {
                Ok(()) = begun.changed() => {
                    let count = *begun.borrow_and_update();
                    self.tell(Arrival::Begun(count));
                    continue;
                }
                next = stream.next_layer() => next,
            };
            match next {
                Ok(Some(received)) => {
                    self.note_speed(source, &received);
                    if self.missing.remove(&received.layer) {
                        self.tell(Arrival::Layer {
                            received,
                            received_by_cloud_at,
                            origin: source.origin(),
                        });
                    }
                }
                Ok(None) => return Some(failed.unwrap_or_else(short_stream)),
                Err(error) => {
                    let loss = loss_of(&error);
                    if error.is_final() || matches!(error, LayerStreamError::TimedOut { .. }) {
                        return Some(loss);
                    }
                    failed = Some(loss);
                }
            }
        }
        None
    }

    fn note_speed(&self, source: &Uplink, received: &ReceivedLayer) {
        let timings = received.timings;
        // Zero both for a layer that was stored.
        let computed = timings
            .compute_end_us
            .saturating_sub(timings.compute_start_us);
        let token_count = self.manifest.tokens.len();
        let speed = PrefillSpeed::new(Duration::from_micros(computed), token_count);
        source.note_speed(speed);
    }

    fn tell(&self, arrival: Arrival) {
        // The channel has room for all there is to say; nobody listens once the engine has
        // computed the layers itself.
        let _ = self.sender.try_send(arrival);
    }
}

fn short_stream() -> Loss {
    let detail = "the cloud sent fewer layers than it promised".to_owned();
    Loss {
        reason: LossReason::Corrupt,
        detail,
    }
}

fn loss_of(error: &LayerStreamError) -> Loss {
    let reason = match error {
        LayerStreamError::Layer(failure) => match failure.problem {
            LayerProblem::Stalled => LossReason::Stalled,
            LayerProblem::Lost(_) => LossReason::LinkLost,
            LayerProblem::Corrupt
            | LayerProblem::Truncated
            | LayerProblem::Overlong
            | LayerProblem::Scattered
            | LayerProblem::Header(_)
            | LayerProblem::Trailer(_) => LossReason::Corrupt,
        },
        LayerStreamError::Abandoned { .. } | LayerStreamError::TimedOut { .. } => {
            LossReason::Stalled
        }
        LayerStreamError::Lost(_) => LossReason::LinkLost,
    };
    Loss {
        reason,
        detail: error.to_string(),
    }
}

const fn reason_of(error: &ReadError) -> LossReason {
    match error {
        ReadError::Damaged(_) => LossReason::Corrupt,
        ReadError::Io(_) => LossReason::Unreadable,
    }
}

/// Hands on what the disk has, and how fast; where it fails, at which layer and why.
fn read_all<R: Read + Seek>(
    mut reader: SegmentReader<R>,
    sender: &SyncSender<Arrival>,
) -> Result<ReadSpeed, (LayerIndex, ReadError)> {
    let began = Instant::now();
    let mut bytes = 0;
    for layer in (0..reader.info().geometry.layer_count()).map(LayerIndex) {
        let first_byte_at = Instant::now();
        let kv = reader.layer(layer).map_err(|error| (layer, error))?;
        bytes += kv.payload().len();
        let received = ReceivedLayer {
            layer,
            kv,
            first_byte_at,
            last_byte_at: Instant::now(),
            timings: LayerTimings {
                compute_start_us: 0,
                compute_end_us: 0,
                send_start_us: 0,
            },
            rebuilt_bytes: 0,
        };
        // There is room; nobody listens once the engine has computed the layers itself.
        let _ = sender.try_send(Arrival::Layer {
            received,
            received_by_cloud_at: began,
            origin: KvOrigin::Disk,
        });
    }
    let time = began.elapsed();
    Ok(ReadSpeed { bytes, time })
}

#[cfg(test)]
mod tests;
