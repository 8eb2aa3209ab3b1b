//! One mode on the edge: an engine, and its cloud prompt by the mode's way.

mod brake;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use edge_node::cloud_prompt::{Arrival, CloudPrompt};
use edge_node::uplink::Uplink;
use edgeprompt_engine::{
    CloudSegment, Engine, EngineLimits, Generation, Output, Sampler, SamplingParams,
    SegmentPrefill, SequenceId, SessionId, checked_view_from_layer,
};
use edgeprompt_kv::TokenId;
use edgeprompt_model::Model;
use edgeprompt_protocol::{PromptRef, PublicPrompt};
use tokio::runtime::Runtime;

use brake::Brake;

use super::messages::{Answered, Mode, RelayFill, Request, RequestTimes, Setting};

/// Tokens of one block of KV, as vLLM's.
const BLOCK_LEN: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");

/// Every request of a mode that shares blocks is of this session.
const SESSION: SessionId = SessionId([0; 32]);

/// The way to the cloud.
pub(super) struct Network<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) uplink: &'a Uplink,
}

/// An engine of one mode.
pub(super) struct Contest {
    mode: Mode,
    model: Arc<Model>,
    engine: Engine,
    cloud: Vec<TokenId>,
    /// What every sequence builds on, if the mode reads it once for all.
    segment: Option<CloudSegment>,
    /// Whether the cloud prompt was asked for, if the cloud computes it.
    is_asked: bool,
    /// Layers on their way.
    arrivals: Option<Receiver<Arrival>>,
    received_bytes: u64,
    brake: Brake,
}

/// A request under way.
struct UnderWay {
    index: usize,
    arrival: Duration,
    first_at: Option<Duration>,
    hasher: blake3::Hasher,
    count: usize,
}

impl Contest {
    /// An engine that has taken its memory, and how long its cloud prompt took if that is computed
    /// beforehand.
    pub(super) fn open(model: &Arc<Model>, setting: &Setting) -> Result<(Self, Duration)> {
        let cloud = setting.cloud.tokens(model.config.vocab_size);
        let blocks = |len: usize| len.div_ceil(BLOCK_LEN.get());
        let own = setting.max_num_seqs * (blocks(setting.private_len_max) + 1);
        let limits = EngineLimits {
            max_num_seqs: positive(setting.max_num_seqs)?,
            max_num_batched_tokens: positive(setting.max_num_batched_tokens)?,
            max_num_waiting: usize::MAX,
            block_len: BLOCK_LEN,
            block_count: match setting.mode {
                Mode::Paged => own + setting.max_num_seqs * blocks(cloud.len()),
                Mode::PagedPc | Mode::Concat => own + blocks(cloud.len()),
                Mode::Relay | Mode::Edgeprompt => own,
            },
        };
        let engine = Engine::new(Arc::clone(model), limits);
        let mut contest = Self {
            mode: setting.mode,
            model: Arc::clone(model),
            engine,
            cloud,
            segment: None,
            is_asked: false,
            arrivals: None,
            received_bytes: 0,
            brake: Brake::of(setting.edge_share),
        };
        let started = Instant::now();
        let fill = match (setting.mode, setting.relay_fill) {
            (Mode::Relay, RelayFill::Beforehand) => {
                contest.fill()?;
                started.elapsed()
            }
            _ => Duration::ZERO,
        };
        Ok((contest, fill))
    }

    /// Computes the cloud prompt here.
    fn fill(&mut self) -> Result<()> {
        let count = u32::try_from(self.cloud.len())?;
        let segment = CloudSegment::empty(&self.model.geometry, count);
        self.brake.begin();
        for (layer, view) in SegmentPrefill::start(&self.model, &self.cloud) {
            segment.layers.fill(layer, view)?;
            self.brake.worked();
        }
        self.segment = Some(segment);
        Ok(())
    }

    /// Answers requests as they come.
    pub(super) fn answer(
        &mut self,
        requests: &[Request],
        network: Option<&Network<'_>>,
    ) -> Result<Answered> {
        let received_before = self.received_bytes;
        let started = Instant::now();
        if self.mode == Mode::Relay && self.segment.is_none() {
            self.fill()?;
        }
        self.ask_the_cloud(network)?;
        let mut pending = requests.iter().enumerate().peekable();
        let mut under_way = HashMap::new();
        let mut times: Vec<Option<RequestTimes>> = vec![None; requests.len()];
        while pending.peek().is_some() || !under_way.is_empty() {
            while let Some((index, request)) = pending.peek() {
                let arrival = Duration::try_from_secs_f64(request.arrival_s)?;
                if arrival > started.elapsed() {
                    break;
                }
                let id = self.submit(request)?;
                under_way.insert(id, UnderWay::new(*index, arrival));
                pending.next();
            }
            self.brake.begin();
            self.take_arrived()?;
            let brake = &mut self.brake;
            let stepped = self.engine.step_told(&mut |event, _| brake.heard(event));
            brake.worked();
            match stepped {
                Some(outputs) => {
                    let now = started.elapsed();
                    for output in &outputs {
                        if let Some((index, done)) = take_token(&mut under_way, output, now) {
                            times[index] = Some(done);
                        }
                    }
                }
                None if self.arrivals.is_some() => self.wait_for_a_layer()?,
                None => {
                    let next = pending.peek().context("the engine stands still")?;
                    let arrival = Duration::try_from_secs_f64(next.1.arrival_s)?;
                    std::thread::sleep(arrival.saturating_sub(started.elapsed()));
                }
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let requests: Option<Vec<_>> = times.into_iter().collect();
        Ok(Answered {
            seconds,
            received_bytes: self.received_bytes - received_before,
            requests: requests.context("a request has no answer")?,
        })
    }

    /// Has the cloud compute the prompt, and keeps nothing of it: as if another edge had asked.
    pub(super) fn have_it_computed(&self, network: Option<&Network<'_>>) -> Result<()> {
        for arrival in self.fetch(network)? {
            if let Arrival::Lost(loss) = arrival {
                bail!("the cloud prompt is lost: {}", loss.detail);
            }
        }
        Ok(())
    }

    fn fetch(&self, network: Option<&Network<'_>>) -> Result<Receiver<Arrival>> {
        let network = network.context("the edge has no link to the cloud")?;
        let prompt = PromptRef::Public(PublicPrompt::Tokens(self.cloud.clone()));
        let fetched = CloudPrompt::fetch(network.uplink, &self.model, prompt);
        Ok(network.runtime.block_on(fetched)?.arrivals)
    }

    /// Asks for the cloud prompt, once, if the cloud computes it.
    fn ask_the_cloud(&mut self, network: Option<&Network<'_>>) -> Result<()> {
        if !self.mode.is_streamed() || self.is_asked {
            return Ok(());
        }
        let arrivals = self.fetch(network)?;
        self.expect(arrivals)
    }

    /// Begins to take layers; waits for all of them if they are to be concatenated.
    fn expect(&mut self, arrivals: Receiver<Arrival>) -> Result<()> {
        let count = u32::try_from(self.cloud.len())?;
        let segment = CloudSegment::empty(&self.model.geometry, count);
        self.segment = Some(segment.clone());
        self.arrivals = Some(arrivals);
        self.is_asked = true;
        if self.mode == Mode::Concat {
            while !segment.is_complete() {
                self.wait_for_a_layer()?;
            }
            self.engine.adopt(SESSION, &self.cloud, &segment)?;
        }
        Ok(())
    }

    fn submit(&mut self, request: &Request) -> Result<SequenceId> {
        let own = request.private.tokens(self.model.config.vocab_size);
        let (prompt, segment, session) = match self.mode {
            Mode::Paged => ([&self.cloud[..], &own].concat(), None, None),
            Mode::PagedPc | Mode::Concat => ([&self.cloud[..], &own].concat(), None, Some(SESSION)),
            Mode::Relay | Mode::Edgeprompt => (own, self.segment.clone(), None),
        };
        let sampler = Sampler::new(SamplingParams::greedy(), 0, &prompt);
        Ok(self.engine.submit(Generation {
            prompt,
            segment,
            session,
            sampler,
            max_tokens: request.output_len,
            end_tokens: Vec::new(),
        })?)
    }

    fn take_arrived(&mut self) -> Result<()> {
        while let Some(arrivals) = &self.arrivals {
            let Ok(arrival) = arrivals.try_recv() else {
                break;
            };
            self.take(arrival)?;
        }
        Ok(())
    }

    fn wait_for_a_layer(&mut self) -> Result<()> {
        let arrivals = self.arrivals.as_ref().context("no layer is on its way")?;
        let arrival = arrivals.recv().context("the cloud sends no more layers")?;
        self.brake.begin();
        self.take(arrival)?;
        self.brake.worked();
        Ok(())
    }

    fn take(&mut self, arrival: Arrival) -> Result<()> {
        let segment = self.segment.as_ref().context("layers have a segment")?;
        match arrival {
            Arrival::Begun(_) => {}
            Arrival::Layer { received, .. } => {
                let device = self.model.decoder.device();
                self.received_bytes += received.kv.payload().len() as u64;
                let view = checked_view_from_layer(&received.kv, &self.model.geometry, &device)?;
                segment.layers.fill(received.layer, view)?;
            }
            Arrival::Lost(loss) => bail!("the cloud prompt is lost: {}", loss.detail),
        }
        if segment.is_complete() {
            self.arrivals = None;
        }
        Ok(())
    }
}

impl UnderWay {
    fn new(index: usize, arrival: Duration) -> Self {
        Self {
            index,
            arrival,
            first_at: None,
            hasher: blake3::Hasher::new(),
            count: 0,
        }
    }
}

/// Notes a token; the request's index and times if it was the last.
fn take_token(
    under_way: &mut HashMap<SequenceId, UnderWay>,
    output: &Output,
    now: Duration,
) -> Option<(usize, RequestTimes)> {
    let request = under_way.get_mut(&output.id)?;
    request.hasher.update(&output.chosen.token.0.to_le_bytes());
    request.count += 1;
    let first_at = *request.first_at.get_or_insert(now);
    output.finish?;
    let request = under_way.remove(&output.id)?;
    let since_arrival = |at: Duration| at.saturating_sub(request.arrival).as_secs_f64();
    let times = RequestTimes {
        ttft_s: since_arrival(first_at),
        e2e_s: since_arrival(now),
        output_len: request.count,
        shared_len: output.shared_len,
        digest: request.hasher.finalize().to_hex()[..16].to_owned(),
    };
    Some((request.index, times))
}

fn positive(count: usize) -> Result<NonZeroUsize> {
    NonZeroUsize::new(count).context("a limit is not 0")
}

#[cfg(test)]
mod tests;
