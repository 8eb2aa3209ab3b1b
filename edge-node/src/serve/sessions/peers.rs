//! What other edges want: to bring sessions, and to read those that are here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use edgeprompt_attention::KvView;
use edgeprompt_engine::{KvChunk, SubmitError, checked_view_from_layer};
use edgeprompt_handover::session::{ClaimReply, Epoch, Seat, ToSource, ToTarget};
use edgeprompt_kv::{KvDtype, KvGeometry, LayerKv, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::{
    KV_CHUNK_HEADER_BYTES, KvChunkHeader, Move, MoveAnswer, MoveRefusal, PeerRequest, PromptName,
    ReaderNews, Reading, SessionKey, SessionOffer, Ticket,
};
use edgeprompt_transport::{
    CloudEndpoint, IncomingPeerRequest, PeerError, PeerLink, PeerReceiver, PeerSender, Stopped,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{interval, timeout};

use super::arrival::{Arrival, Heard, KvComing, Progress};
use super::facts::params;
use super::handle::{SessionHandle, Taken};
use super::keeper::{Command, Keeper};
use super::log::{Log, ReaderKind, Standing};
use super::relay::told_of;
use super::{Facts, PATIENCE, Sessions, Shared};
use crate::private::PrivateTokens;
use crate::serve::generator::{Begun, GenerateError};
use crate::serve::segments::SharedPrompt;
use crate::serve::step_times::StepTimes;

/// Answers of one move that wait for a slow link.
const ANSWERS_MAX: usize = 256;

/// Between two words to a reader that has nothing to read.
pub(crate) const ALIVE_PERIOD: Duration = Duration::from_secs(1);

/// Chunks of keys and values of one session in memory, from the link until the engine has them; the link
/// waits for those that would be more.
const CHUNKS_MAX: usize = 16;

/// How long a cloud prompt may take to be had for a session that comes.
const CLOUD_PROMPT_PATIENCE: Duration = Duration::from_secs(3);

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
                () = self.0.ending.notified() => break,
            }
        }
        drop(links);
        endpoint.drain().await;
    }

    async fn answer_link(self, link: PeerLink) {
        let (mut requests, mut streams) = (link.requests(), JoinSet::new());
        let heard = Heard::now();
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => {
                        streams.spawn(self.clone().answer(request, heard.clone()));
                    }
                    None => return,
                },
                Some(_) = streams.join_next() => {}
            }
        }
    }

    async fn answer(self, incoming: IncomingPeerRequest, heard: Heard) {
        let IncomingPeerRequest {
            request,
            sender,
            receiver,
        } = incoming;
        let ended = match request {
            PeerRequest::Move(offer) => self.take_in(*offer, sender, receiver).await,
            PeerRequest::Kv {
                session,
                ticket,
                epoch,
            } => {
                self.take_kv((session, ticket, epoch), (receiver, heard))
                    .await
            }
            PeerRequest::Read(reading) => self.let_read(reading, sender).await,
            PeerRequest::Speed => self.tell_speed(sender).await,
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
        let (session, epoch) = (offer.session, offer.epoch);
        let (ticket, max_tokens) = (offer.ticket, offer.terms.max_tokens as usize);
        let answered = offer.answer.clone();
        match self.arrive(offer, answers.clone()).await {
            Ok(()) => {}
            Err(NotArrived::Refused(refusal)) => {
                tracing::info!(%refusal, %session, "a session is refused");
                refuse(&answers, epoch, refusal);
                return Ok(());
            }
            // Said again, after the link was lost, and with what was generated meanwhile.
            Err(NotArrived::Known) => {
                let len = answered.len();
                let tokens = ToTarget::Tokens {
                    epoch,
                    start: 0,
                    end: len,
                };
                let offer = ToTarget::Offer { epoch, len };
                for (order, tokens) in [(tokens, answered), (offer, Vec::new())] {
                    let order = Move { order, tokens };
                    self.order((session, ticket), order, &answers).await;
                }
            }
        }
        loop {
            let order: Move = receiver.receive().await?;
            if let Err(refusal) = self.0.node.bounds().check_move(&order, max_tokens) {
                tracing::info!(%refusal, %session, "a session is refused");
                let order = ToTarget::Withdraw { epoch };
                let tokens = Vec::new();
                let withdrawn = Move { order, tokens };
                self.order((session, ticket), withdrawn, &answers).await;
                refuse(&answers, epoch, refusal);
                return Ok(());
            }
            self.order((session, ticket), order, &answers).await;
        }
    }

    async fn order(
        &self,
        (session, ticket): (SessionKey, Ticket),
        order: Move,
        answers: &mpsc::Sender<MoveAnswer>,
    ) {
        let epoch = order.order.epoch();
        let sent = match self.open(session, &ticket) {
            Ok(Some(SessionHandle(keeper))) => {
                let order = Command::Order(order, answers.clone());
                keeper.commands.send(order).await.is_ok()
            }
            Ok(None) | Err(_) => false,
        };
        if !sent {
            refuse(answers, epoch, MoveRefusal::Unknown);
        }
    }

    /// The cloud prompt that a session builds on, if it is the same here.
    async fn cloud_prompt(
        &self,
        offer: &SessionOffer,
    ) -> Result<Option<(PromptName, SharedPrompt)>, MoveRefusal> {
        let Some((name, id)) = &offer.cloud_prompt else {
            return Ok(None);
        };
        let getting = timeout(CLOUD_PROMPT_PATIENCE, self.0.node.prompts.get(name)).await;
        let cloud = getting.map_err(|_| MoveRefusal::NoCloudPrompt)?;
        let cloud = cloud.map_err(|_| MoveRefusal::NoCloudPrompt)?;
        match cloud.id == *id {
            true => Ok(Some((name.clone(), cloud))),
            false => Err(MoveRefusal::NoCloudPrompt),
        }
    }

    /// What is wrong with an offer, whatever its cloud prompt is.
    fn look_at(&self, offer: &SessionOffer) -> Result<(), NotArrived> {
        let Shared { node, config, .. } = &*self.0;
        if let Some(known) = self.open(offer.session, &offer.ticket)? {
            known.0.may_be_replaced_by(offer.epoch)?;
        }
        if offer.model != node.model.digest || offer.geometry != node.model.geometry {
            return Err(NotArrived::Refused(MoveRefusal::OtherModel));
        }
        if offer.dtype != config.dtype {
            return Err(NotArrived::Refused(MoveRefusal::OtherFormat));
        }
        if params(&offer.terms).check().is_err() {
            return Err(NotArrived::Refused(MoveRefusal::Invalid));
        }
        Ok(())
    }

    /// Makes room for a session, and holds it.
    async fn arrive(
        &self,
        offer: SessionOffer,
        answers: mpsc::Sender<MoveAnswer>,
    ) -> Result<(), NotArrived> {
        self.look_at(&offer)?;
        let node = &self.0.node;
        let cloud = self.cloud_prompt(&offer).await?;
        let cloud_len = cloud.as_ref().map_or(0, |(_, cloud)| cloud.tokens.len());
        node.bounds().check_offer(&offer, cloud_len)?;
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
            answered: answered.iter().map(|token| token.token).collect(),
            compute_max: offer.prefill_len as usize,
        };
        let held = node.generator.hold(facts.generation(), begun).await;
        let tokens = held.map_err(not_held)?;
        let now = self.0.began_at.elapsed();
        let seat = Seat::accepting(now, epoch, answered.len(), PATIENCE);
        let log = Log::new(Standing::Coming(epoch));
        log.extend(answered);
        let (handle, commands) = self.handle(&facts, &log);
        let mut keeper = Keeper::new(self.clone(), (facts, log), seat);
        keeper.local = Some(tokens);
        keeper.answers = Some(answers);
        keeper.arrival = Some(Arrival {
            kv: match expects_kv {
                true => KvComing::Announced,
                false => KvComing::Ended,
            },
            activated_at: None,
            waiting: VecDeque::new(),
            progress: Progress::default(),
        });
        Ok(self.keep(handle, keeper, commands)?)
    }

    /// Keys and values of a session that comes.
    async fn take_kv(
        self,
        (session, ticket, epoch): (SessionKey, Ticket, Epoch),
        (mut receiver, heard): (PeerReceiver, Heard),
    ) -> Result<(), PeerError> {
        let Ok(Some(SessionHandle(keeper))) = self.open(session, &ticket) else {
            return Ok(());
        };
        // A keeper that is gone needs no word.
        heard.again();
        let begun = Command::KvBegun(epoch, heard.clone());
        let _ = keeper.commands.send(begun).await;
        let Shared { node, config, .. } = &*self.0;
        let times = node.generator.tally().step_times();
        let places = Arc::new(Semaphore::new(CHUNKS_MAX));
        let ended = loop {
            // Only a semaphore that is closed has none, and this one is not.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                break Ok(());
            };
            match receive_chunk(&mut receiver, (&node.model, config.dtype), times).await {
                Ok(Some(chunk)) => {
                    heard.again();
                    let kv = Command::Kv(epoch, chunk, place);
                    if keeper.commands.send(kv).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                // What is missing is computed.
                Err(error) => break Err(error),
            }
        };
        let _ = keeper.commands.send(Command::KvEnded(epoch)).await;
        ended
    }

    /// For whoever plans to bring sessions.
    async fn tell_speed(self, mut sender: PeerSender) -> Result<(), PeerError> {
        sender.send(&self.0.node.speed()).await?;
        sender.finish().await
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
        let found = match self.node_has(&answer) {
            true => self.open(session, &ticket).ok().flatten(),
            false => None,
        };
        let claimed = match &found {
            Some(handle) => handle.claim(epoch, answer).await.ok(),
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
            let (news, is_last) = told_of(news, epoch);
            sender.send(&news).await?;
            if is_last {
                return sender.finish().await;
            }
        }
    }

    fn node_has(&self, tokens: &[TokenId]) -> bool {
        self.0.node.bounds().have(tokens)
    }
}

/// Why a session is not on its way here.
enum NotArrived {
    Refused(MoveRefusal),
    /// This move is known, or a later one.
    Known,
}

impl From<MoveRefusal> for NotArrived {
    fn from(refusal: MoveRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Taken> for NotArrived {
    fn from(taken: Taken) -> Self {
        match taken {
            // Whose ticket is wrong learns nothing.
            Taken::ByAnother => Self::Refused(MoveRefusal::Unknown),
            Taken::Here => Self::Refused(MoveRefusal::Here),
            Taken::Under(_) => Self::Known,
        }
    }
}

fn not_held(error: GenerateError) -> NotArrived {
    NotArrived::Refused(match error {
        GenerateError::Stopped => MoveRefusal::Stopped,
        GenerateError::Refused(SubmitError::Admission(_)) => MoveRefusal::NoRoom,
        GenerateError::Refused(SubmitError::EmptyPrompt) => MoveRefusal::Invalid,
        GenerateError::Refused(SubmitError::ContextTooShort { .. }) => MoveRefusal::TooLong,
    })
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
    (model, dtype): (&Arc<Model>, KvDtype),
    times: &StepTimes,
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
    if header.dtype != dtype {
        tracing::warn!("keys and values of a session come in another number format: refused");
        return Err(PeerError::Ended);
    }
    let _receiving = times.receive();
    let payload = receiver.receive_rest(header.bytes(&geometry)).await?;
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
