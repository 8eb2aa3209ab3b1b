//! Sessions that other edges bring, and readers of sessions that are here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgeprompt_attention::KvView;
use edgeprompt_engine::{KvChunk, checked_view_from_layer};
use edgeprompt_handover::session::{ClaimReply, Epoch, Seat, ToSource, ToTarget};
use edgeprompt_kv::{KvGeometry, LayerKv};
use edgeprompt_model::Model;
use edgeprompt_protocol::{
    KV_CHUNK_HEADER_BYTES, KvChunkHeader, Move, MoveAnswer, MoveRefusal, PeerRequest, ReaderNews,
    Reading, SessionKey, SessionOffer,
};
use edgeprompt_transport::{
    CloudEndpoint, IncomingPeerRequest, PeerError, PeerLink, PeerReceiver, PeerSender, Stopped,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{interval, timeout};

use super::keeper::{Command, Keeper};
use super::log::{Log, News, ReaderKind, Standing, answer_token, last_token};
use super::{Facts, PATIENCE, SessionHandle, Sessions};
use crate::private::PrivateTokens;
use crate::serve::generator::{Begun, Mover};

/// Answers of one move that wait for a slow link.
const ANSWERS_MAX: usize = 256;

/// Between two words to a reader that has nothing to read.
const ALIVE_PERIOD: Duration = Duration::from_secs(1);

/// Chunks of keys and values that wait for the tokens they are of.
const CHUNKS_WAITING_MAX: usize = 16;

/// Chunks that wait for the engine's step to end; the link waits for those that would be more.
const CHUNKS_PUT_IN_MAX: usize = 16;

/// How long a cloud prompt may take to be had for a session that comes.
const CLOUD_PROMPT_PATIENCE: Duration = Duration::from_secs(3);

/// What a target knows of a move beside its seat.
pub(super) struct Arrival {
    pub(super) answers: mpsc::Sender<MoveAnswer>,
    /// Whether all keys and values that come have come.
    pub(super) kv_ended: bool,
    /// Since when the right is here.
    pub(super) activated_at: Option<Instant>,
    /// When keys and values came last.
    pub(super) kv_at: Option<Instant>,
    waiting: Vec<KvChunk>,
    /// On their way to the engine.
    put_in: VecDeque<oneshot::Receiver<()>>,
    pub(super) progress: Progress,
}

/// How far the engine is with a session that comes, as far as it has told.
#[derive(Default)]
pub(super) struct Progress {
    computed: Arc<AtomicUsize>,
    is_asked: Arc<AtomicBool>,
}

impl Progress {
    /// Tokens that were computed when it was last asked.
    pub(super) fn known(&self) -> usize {
        self.computed.load(Ordering::Relaxed)
    }

    /// Asks, unless that is under way.
    pub(super) fn ask(&self, mover: Mover) {
        if self.is_asked.swap(true, Ordering::Relaxed) {
            return;
        }
        let (computed, is_asked) = (Arc::clone(&self.computed), Arc::clone(&self.is_asked));
        tokio::spawn(async move {
            if let Some(progress) = mover.progress().await {
                computed.store(progress.computed_count, Ordering::Relaxed);
            }
            is_asked.store(false, Ordering::Relaxed);
        });
    }
}

impl Arrival {
    /// Keeps a chunk until its tokens are known; one too many is computed here.
    pub(super) fn keep(&mut self, chunk: KvChunk) {
        self.kv_at = Some(Instant::now());
        if self.waiting.len() < CHUNKS_WAITING_MAX {
            self.waiting.push(chunk);
        }
    }

    /// Gives a chunk to the engine, which takes it between two steps.
    pub(super) async fn put_in(&mut self, chunk: KvChunk, mover: &Mover) {
        if self.put_in.len() >= CHUNKS_PUT_IN_MAX
            && let Some(oldest) = self.put_in.pop_front()
        {
            // An engine that has stopped takes nothing more.
            let _ = oldest.await;
        }
        self.put_in.push_back(mover.put_in(chunk));
    }

    /// The next chunk of tokens that are known, in the order in which they came.
    pub(super) fn next_of(&mut self, known: usize) -> Option<KvChunk> {
        let first = self.waiting.first()?;
        // What follows the last token is asked for: it is computed here in any case.
        (first.tokens.end < known).then(|| self.waiting.remove(0))
    }

    /// Whether there is nothing to wait for, or that takes too long.
    pub(super) fn may_go(&self) -> bool {
        let is_late = self.due().is_some_and(|due| due <= Instant::now());
        (self.kv_ended && self.waiting.is_empty()) || is_late
    }

    /// Until when more is waited for, once the right is here.
    pub(super) fn due(&self) -> Option<Instant> {
        let activated_at = self.activated_at?;
        let heard_at = self.kv_at.unwrap_or(activated_at).max(activated_at);
        Some(heard_at + PATIENCE.answer)
    }
}

impl Sessions {
    /// Lets other edges of the trust domain bring and read sessions, for as long as it is polled.
    pub(crate) async fn listen(self, mut endpoint: CloudEndpoint<PeerLink>) {
        let mut links = JoinSet::new();
        loop {
            tokio::select! {
                link = endpoint.accept() => match link {
                    Some(link) => {
                        links.spawn(self.clone().answer_link(link));
                    }
                    None => return,
                },
                Some(_) = links.join_next() => {}
            }
        }
    }

    async fn answer_link(self, link: PeerLink) {
        let (mut requests, mut streams) = (link.requests(), JoinSet::new());
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => {
                        streams.spawn(self.clone().answer(request));
                    }
                    None => return,
                },
                Some(_) = streams.join_next() => {}
            }
        }
    }

    async fn answer(self, incoming: IncomingPeerRequest) {
        let IncomingPeerRequest {
            request,
            sender,
            receiver,
        } = incoming;
        let ended = match request {
            PeerRequest::Move(offer) => self.take_in(*offer, sender, receiver).await,
            PeerRequest::Kv { session, epoch } => self.take_kv((session, epoch), receiver).await,
            PeerRequest::Read(reading) => self.let_read(reading, sender).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a stream of another edge has ended");
        }
    }

    /// One move, from its offer on.
    async fn take_in(
        self,
        offer: SessionOffer,
        sender: PeerSender,
        mut receiver: PeerReceiver,
    ) -> Result<(), PeerError> {
        let (answers, said) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(say(sender, said));
        let (session, epoch, len) = (offer.session, offer.epoch, offer.answer.len());
        if self.is_news(session, epoch) {
            if let Err(refusal) = self.arrive(offer, answers.clone()).await {
                tracing::info!(%refusal, %session, "a session is refused");
                refuse(&answers, epoch, refusal);
                return Ok(());
            }
        } else {
            let order = ToTarget::Offer { epoch, len };
            let tokens = Vec::new();
            self.order(session, Move { order, tokens }, &answers).await;
        }
        loop {
            let order: Move = receiver.receive().await?;
            self.order(session, order, &answers).await;
        }
    }

    async fn order(&self, session: SessionKey, order: Move, answers: &mpsc::Sender<MoveAnswer>) {
        let keeper = self.lock().get(&session).cloned();
        let epoch = match order.order {
            ToTarget::Offer { epoch, .. }
            | ToTarget::Tokens { epoch, .. }
            | ToTarget::Commit { epoch, .. }
            | ToTarget::Withdraw { epoch } => epoch,
        };
        let sent = match keeper {
            Some(keeper) => {
                let order = Command::Order(order, answers.clone());
                keeper.commands.send(order).await.is_ok()
            }
            None => false,
        };
        if !sent {
            refuse(answers, epoch, MoveRefusal::Unknown);
        }
    }

    /// Whether an offer is of a move that this node has not heard of.
    fn is_news(&self, session: SessionKey, epoch: Epoch) -> bool {
        let keepers = self.lock();
        let known = keepers.get(&session);
        known.is_none_or(|kept| SessionHandle(kept.clone()).epoch() < epoch)
    }

    /// Makes room for a session, and holds it.
    async fn arrive(
        &self,
        offer: SessionOffer,
        answers: mpsc::Sender<MoveAnswer>,
    ) -> Result<(), MoveRefusal> {
        let node = &self.0.node;
        if offer.model != node.model.digest || offer.geometry != node.model.geometry {
            return Err(MoveRefusal::OtherModel);
        }
        let cloud = match &offer.cloud_prompt {
            None => None,
            Some((name, id)) => {
                let getting = timeout(CLOUD_PROMPT_PATIENCE, node.prompts.get(name)).await;
                let cloud = getting.map_err(|_| MoveRefusal::NoCloudPrompt)?;
                let cloud = cloud.map_err(|_| MoveRefusal::NoCloudPrompt)?;
                if cloud.id != *id {
                    return Err(MoveRefusal::NoCloudPrompt);
                }
                Some((name.clone(), cloud))
            }
        };
        let (epoch, answered) = (offer.epoch, offer.answer);
        let expects_kv = (offer.prefill_len as usize) < offer.prompt.len() + answered.len();
        let facts = Facts {
            key: offer.session,
            ticket: offer.ticket,
            caller: None,
            reader: ReaderKind::Following,
            prompt: PrivateTokens::new(offer.prompt),
            context: PrivateTokens::new(offer.context),
            cloud,
            terms: offer.terms,
        };
        let begun = Begun {
            answered: answered.clone(),
            compute_max: offer.prefill_len as usize,
        };
        let held = node.generator.hold(facts.generation(), begun).await;
        let tokens = held.map_err(|_| MoveRefusal::NoRoom)?;
        let log = Log::new(Standing::Here(epoch));
        log.extend(
            answered
                .iter()
                .map(|token| super::without_probability(*token)),
        );
        let (handle, commands) = self.handle(&facts, &log);
        let now = self.0.began_at.elapsed();
        let seat = Seat::accepting(now, epoch, answered.len(), PATIENCE);
        let mut keeper = Keeper::new(self.clone(), (facts, log), seat);
        keeper.local = Some(tokens);
        keeper.arrival = Some(Arrival {
            answers,
            kv_ended: !expects_kv,
            activated_at: None,
            kv_at: None,
            waiting: Vec::new(),
            put_in: VecDeque::new(),
            progress: Progress::default(),
        });
        self.keep(handle, keeper, commands);
        Ok(())
    }

    /// Keys and values of a session that comes.
    async fn take_kv(
        self,
        (session, _epoch): (SessionKey, Epoch),
        mut receiver: PeerReceiver,
    ) -> Result<(), PeerError> {
        let Some(keeper) = self.lock().get(&session).map(|kept| kept.commands.clone()) else {
            return Ok(());
        };
        let model = Arc::clone(&self.0.node.model);
        let ended = loop {
            match receive_chunk(&mut receiver, &model).await {
                Ok(Some(chunk)) => {
                    if keeper.send(Command::Kv(chunk)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                // What is missing is computed.
                Err(error) => break Err(error),
            }
        };
        // A keeper that is gone needs no word.
        let _ = keeper.send(Command::KvEnded).await;
        ended
    }

    /// Another edge reads a session, for a user who stays there.
    async fn let_read(self, reading: Reading, mut sender: PeerSender) -> Result<(), PeerError> {
        let Reading {
            session,
            ticket,
            epoch,
            claim: _,
            answer,
        } = reading;
        let from = answer.len();
        let found = self.open(session, ticket);
        let claimed = match &found {
            Some(handle) => handle.claim(epoch, from, answer).await,
            None => None,
        };
        let (Some((reply, moved)), Some(handle)) = (claimed, found) else {
            sender.send(&ReaderNews::Declined).await?;
            return sender.finish().await;
        };
        let addr = moved.map(|moved| moved.addr);
        sender.send(&ReaderNews::Claim(reply, addr)).await?;
        let ClaimReply::Granted(epoch) = reply else {
            return sender.finish().await;
        };
        let mut reader = handle.read(from);
        let (mut alive, stopped) = (interval(ALIVE_PERIOD), sender.stopped());
        tokio::pin!(stopped);
        loop {
            let news = tokio::select! {
                news = reader.next() => news,
                _ = alive.tick() => {
                    sender.send(&ReaderNews::Alive { epoch }).await?;
                    continue;
                }
                stopped = &mut stopped => {
                    drop(reader);
                    if stopped == Stopped::ByReader {
                        handle.reader_left().await;
                    }
                    return Ok(());
                }
            };
            let (news, is_last) = match news {
                News::Entry(index, entry) => {
                    let token = ReaderNews::Token {
                        epoch,
                        index: u32::try_from(index).unwrap_or(u32::MAX),
                        token: answer_token(&entry),
                        last: entry.finish.map(last_token),
                    };
                    (token, entry.finish.is_some())
                }
                News::Moved(moved) => {
                    let (epoch, addr) = (moved.epoch, moved.addr);
                    (ReaderNews::Moved { epoch, addr }, true)
                }
                News::Broken => (ReaderNews::Broken, true),
            };
            sender.send(&news).await?;
            if is_last {
                return sender.finish().await;
            }
        }
    }
}

fn refuse(answers: &mpsc::Sender<MoveAnswer>, epoch: Epoch, refusal: MoveRefusal) {
    // A source that does not listen asks again.
    let _ = answers.try_send(MoveAnswer {
        answer: ToSource::Refused { epoch },
        computed_len: 0,
        refusal: Some(refusal),
        url: None,
    });
}

async fn say(mut sender: PeerSender, mut said: mpsc::Receiver<MoveAnswer>) {
    while let Some(answer) = said.recv().await {
        if sender.send(&answer).await.is_err() {
            return;
        }
    }
    // A source that is gone needs no last word.
    let _ = sender.finish().await;
}

/// The next chunk, checked; `None` after the last.
async fn receive_chunk(
    receiver: &mut PeerReceiver,
    model: &Arc<Model>,
) -> Result<Option<KvChunk>, PeerError> {
    let Some(header) = receiver.receive_bytes(KV_CHUNK_HEADER_BYTES).await? else {
        return Ok(None);
    };
    let geometry = model.geometry;
    let header = header.as_ref().try_into().map_err(|_| PeerError::Ended)?;
    let header = KvChunkHeader::parse(header, &geometry).map_err(|error| {
        tracing::warn!(%error, "keys and values of a session are refused");
        PeerError::Ended
    })?;
    let payload = receiver.receive_bytes(header.bytes(&geometry)).await?;
    let payload = payload.ok_or(PeerError::Ended)?;
    let model = Arc::clone(model);
    // Bytes become tensors: not the async threads' business.
    let decoding = spawn_blocking(move || decode(header, payload, &model));
    let layers = decoding.await.ok().flatten().ok_or(PeerError::Ended)?;
    let (start, len) = (header.start as usize, header.len as usize);
    Ok(Some(KvChunk {
        tokens: start..start + len,
        layers,
    }))
}

/// The layers of a chunk; `None` if there are numbers in it that are none.
fn decode(header: KvChunkHeader, mut payload: Bytes, model: &Model) -> Option<Vec<KvView>> {
    let geometry: KvGeometry = model.geometry;
    let (tokens, device) = (header.len as usize, model.decoder.device());
    let layer_bytes = geometry.layer_bytes(tokens, header.dtype);
    let layers = (0..geometry.layer_count()).map(|_| {
        let bytes = payload.split_to(layer_bytes);
        let layer = LayerKv::new(bytes, &geometry, tokens, header.dtype).ok()?;
        checked_view_from_layer(&layer, &geometry, &device).ok()
    });
    layers.collect()
}
