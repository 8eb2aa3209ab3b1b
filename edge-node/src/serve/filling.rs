//! A thread that brings one cloud prompt's layers in: from the cloud as long as waiting pays, then
//! computed here. Everybody whose request builds on the prompt goes on as layers come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeprompt_engine::CloudSegment;
use edgeprompt_kv::{KvDtype, LayerIndex, LayerKv};
use edgeprompt_model::Model;
use edgeprompt_segment_store::SegmentInfo;
use edgeprompt_telemetry::names;
use tokio::sync::{oneshot, watch};

use crate::answer::{Cloud, Event};
use crate::cloud_prompt::Loss;
use crate::disk_cache::DiskCache;
use crate::kv_origin::{KvOrigin, OriginBytes};
use crate::own_speed::OwnSpeed;
use crate::patience::Patience;
use crate::planner::Planner;
use crate::prefill_speed::PrefillSpeed;
use crate::public_layers::{PublicLayers, Waiter};
use crate::serve::fill_log::FillLog;
use crate::serve::generator::Generator;
use crate::serve::plan_log::{Outcome, Planned};
use crate::serve::room::Place;

#[cfg(test)]
mod testing;

/// How far a cloud prompt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filling {
    /// Layers are missing and will come.
    Filling,
    /// Every layer is here.
    Filled(Filled),
    /// Layers are missing and will not come: the thread that brings them has died.
    Broken,
}

/// Where the layers of a complete cloud prompt came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Bytes of keys and values.
    pub bytes: OriginBytes,
    /// Layers computed here because the cloud did not send them in time.
    pub recomputed_count: usize,
    /// Why it did not.
    pub loss: Option<Loss>,
    /// Layers computed here because they would have come later.
    pub chosen_count: usize,
    /// How long that was to take, and took.
    pub outcome: Option<Outcome>,
}

/// Watches a cloud prompt being filled.
#[derive(Clone, Debug)]
pub struct FillingWatch {
    told: watch::Receiver<Filling>,
    log: Arc<FillLog>,
}

impl FillingWatch {
    /// One that is told by hand.
    #[cfg(test)]
    pub(crate) fn new(told: watch::Receiver<Filling>) -> Self {
        let log = Arc::new(FillLog::begin(0, Instant::now()));
        Self { told, log }
    }

    /// When its layers came.
    pub(crate) fn log(&self) -> &FillLog {
        &self.log
    }

    /// How far it is.
    pub fn now(&self) -> Filling {
        // Whoever fills says so before it goes: that it is gone is looked at first, or the word in
        // between would be missed.
        let is_gone = self.told.has_changed().is_err();
        let told = self.told.borrow().clone();
        match told {
            Filling::Filling if is_gone => Filling::Broken,
            Filling::Filling | Filling::Filled(_) | Filling::Broken => told,
        }
    }

    /// Returns once layers are missing that will not come, and never otherwise. Cancel-safe.
    pub async fn broken(&mut self) {
        if matches!(self.ended().await, Filling::Filled(_)) {
            std::future::pending().await
        }
    }

    /// Returns once there is nothing to wait for any more, whichever way it ended.
    pub async fn ended(&mut self) -> Filling {
        // Without a word at the end it is broken, which `now` says.
        let _ = self.told.wait_for(|told| *told != Filling::Filling).await;
        self.now()
    }
}

/// Whether a cloud prompt's keys and values are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// It will be known once they are complete.
    Pending,
    /// They are.
    Kept,
    /// They are not, and will not be.
    NotKept,
}

/// Watches a cloud prompt being kept.
#[derive(Clone, Debug)]
pub struct KeepingWatch(watch::Receiver<Keeping>);

impl KeepingWatch {
    /// One that is told by hand.
    #[cfg(test)]
    pub(crate) const fn new(told: watch::Receiver<Keeping>) -> Self {
        Self(told)
    }

    /// Whether it is kept.
    pub fn now(&self) -> Keeping {
        // As with a filling: whoever keeps it says so before it goes.
        let is_gone = self.0.has_changed().is_err();
        let told = *self.0.borrow();
        match told {
            Keeping::Pending if is_gone => Keeping::NotKept,
            Keeping::Pending | Keeping::Kept | Keeping::NotKept => told,
        }
    }

    /// Returns once there is nothing to wait for any more.
    pub async fn ended(&mut self) -> Keeping {
        // Without a word at the end it is not kept, which `now` says.
        let _ = self.0.wait_for(|told| *told != Keeping::Pending).await;
        self.now()
    }
}

/// What is to be filled.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) cloud: Cloud,
    pub(crate) token_count: usize,
    /// Why from there.
    pub(crate) planned: Option<Planned>,
    /// Where it is to be kept then, if it is.
    pub(crate) keep: Option<Keep>,
    /// Left when there is nothing to do any more.
    pub(crate) place: Place,
}

/// Where a segment is to be kept once it is complete, and as what.
#[derive(Debug)]
pub(crate) struct Keep {
    pub(crate) disk: Arc<DiskCache>,
    pub(crate) info: SegmentInfo,
}

impl Keep {
    fn keep(self, brought: &Brought, bytes: OriginBytes) -> Keeping {
        let layer_count = u64::from(self.info.geometry.layer_count());
        let all_bytes = self.info.layer_bytes() as u64 * layer_count;
        let is_there = bytes.of(KvOrigin::Disk) == all_bytes;
        match is_there
            || self
                .disk
                .keep(self.info, (&brought.segment, &brought.encoded))
        {
            true => Keeping::Kept,
            false => Keeping::NotKept,
        }
    }
}

/// The layers of a complete segment.
struct Brought {
    segment: CloudSegment,
    encoded: Vec<Option<LayerKv>>,
}

/// A segment that is being filled.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) segment: CloudSegment,
    pub(crate) filling: FillingWatch,
    pub(crate) keeping: KeepingWatch,
}

/// Starts the threads.
#[derive(Clone, Debug)]
pub struct Filler {
    model: Arc<Model>,
    generator: Generator,
    speed: OwnSpeed,
}

impl Filler {
    /// Fills for `generator` on a node that computes at `speed`, and learns how fast it does.
    pub fn new(model: Arc<Model>, generator: Generator, speed: PrefillSpeed) -> Self {
        Self {
            model,
            generator,
            speed: OwnSpeed::new(speed),
        }
    }

    /// The model.
    pub(crate) const fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Plans for this node.
    pub(crate) fn planner(&self) -> Planner {
        Planner::new(self.speed.at(Instant::now()))
    }

    /// How long to wait for a cloud that may send a prompt of `token_count` tokens.
    pub(crate) fn patience(&self, token_count: usize) -> Duration {
        Patience::measured(
            self.speed.at(Instant::now()),
            token_count,
            &self.model.config,
        )
    }

    /// Begins to fill a segment, which goes on when nobody waits for it. `None` if there is no
    /// thread for it.
    pub(crate) async fn begin(&self, fill: Fill) -> Option<Begun> {
        let Fill {
            cloud,
            token_count,
            planned,
            keep,
            place,
        } = fill;
        let patience = Patience::Limited(self.patience(token_count));
        let (tell, told) = watch::channel(Filling::Filling);
        let (tell_kept, told_kept) = watch::channel(Keeping::Pending);
        let (hand_out, segment) = oneshot::channel();
        let layer_count = self.model.decoder.layers().len();
        let began_at = match &cloud {
            Cloud::Arriving(prompt) => prompt.asked_at,
            _ => Instant::now(),
        };
        let log = FillLog::begin(layer_count, began_at).following(planned);
        let log = Arc::new(log);
        let (filler, writing) = (self.clone(), Arc::clone(&log));
        let thread = std::thread::Builder::new().name("cloud prompt".to_owned());
        let started = thread.spawn(move || {
            let (mut filled, brought) = filler.fill(cloud, patience, (hand_out, &writing));
            let planned = writing.planned();
            filled.outcome = planned.map(|planned| planned.outcome(Instant::now()));
            let bytes = filled.bytes;
            tell_complete(&filled, token_count, writing.began_at().elapsed());
            // While it is written its memory is in use, wanted or not.
            let keep = keep.map(|keep| (keep, place));
            tell.send_replace(Filling::Filled(filled));
            filler.generator.wake();
            let kept = keep.map_or(Keeping::NotKept, |(keep, _place)| {
                keep.keep(&brought, bytes)
            });
            tell_kept.send_replace(kept);
        });
        if let Err(error) = started {
            tracing::error!(%error, "no thread for a cloud prompt");
            return None;
        }
        Some(Begun {
            segment: segment.await.ok()?,
            filling: FillingWatch { told, log },
            keeping: KeepingWatch(told_kept),
        })
    }

    fn fill(
        &self,
        cloud: Cloud,
        patience: Patience,
        (hand_out, log): (oneshot::Sender<CloudSegment>, &FillLog),
    ) -> (Filled, Brought) {
        let waiter = Waiter {
            model: &self.model,
            asked_at: log.began_at(),
            private_len: 1,
            patience,
        };
        let mut layers = PublicLayers::new(waiter, cloud);
        // Whoever asked may be gone; others may come.
        let _ = hand_out.send(layers.segment.clone());
        let mut on = |event: Event| {
            if matches!(event, Event::LayerArrived(_)) {
                self.generator.wake();
            }
        };
        for layer in (0..self.model.geometry.layer_count()).map(LayerIndex) {
            layers.take_arrived(&mut on);
            if layers.segment.layers.get(layer).is_none() {
                layers.wait_for(layer, &mut on);
                self.generator.wake();
            }
            log.note(&layers.timeline);
        }
        log.end(&layers.timeline, Instant::now());
        if let Some(speed) = layers.speed() {
            self.speed.note(speed, Instant::now());
        }
        if layers.bytes.received() > 0 {
            metrics::histogram!(names::EDGE_KV_XFER_TIME_SECONDS)
                .record(layers.timeline.transfer_time());
        }
        let recomputed = layers.recomputed();
        let filled = Filled {
            bytes: layers.bytes,
            recomputed_count: recomputed.as_ref().map_or(0, |it| it.layer_count),
            loss: recomputed.map(|it| it.loss),
            chosen_count: layers.chosen_count,
            outcome: None,
        };
        let brought = Brought {
            segment: layers.segment,
            encoded: layers.encoded,
        };
        (filled, brought)
    }
}

/// One line for each prompt that was brought in, and what is counted of it.
fn tell_complete(filled: &Filled, token_count: usize, took: Duration) {
    let outcome = filled.outcome.as_ref();
    outcome.inspect(|outcome| outcome.count());
    let milliseconds = |time: Duration| time.as_millis();
    tracing::info!(
        tokens = token_count,
        source = filled.bytes.main().map_or("nothing", KvOrigin::label),
        recomputed_layers = filled.recomputed_count,
        plan = outcome.map(|it| it.source.label()),
        codec = outcome.and_then(|it| it.codec).map(KvDtype::name),
        predicted_milliseconds = outcome.and_then(|it| it.predicted).map(milliseconds),
        regret_milliseconds = outcome.and_then(|it| it.regret).map(milliseconds),
        milliseconds = outcome.map_or(took, |it| it.actual).as_millis(),
        "a cloud prompt is complete"
    );
}
