//! The task that decides about one session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeprompt_engine::{KvChunk, Output};
use edgeprompt_handover::planning::choose::LeavingSession;
use edgeprompt_handover::planning::strategy::Strategy;
use edgeprompt_handover::session::{
    ClaimReply, Epoch, GivenUp, Seat, SeatAction, ToSource, ToTarget, Ue, UeAction, Verdict,
};
use edgeprompt_kv::TokenId;
use edgeprompt_protocol::{AnswerToken, Move, MoveAnswer, ReaderNews, Reading, SessionOffer};
use edgeprompt_telemetry::names;
use edgeprompt_transport::PeerLink;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep_until;

use super::arrival::Arrival;
use super::departure::{BLOCK_LEN, Beginning, Departure, KvBound, MoveError, MoveReport, Out};
use super::log::{Entry, Log, MovedTo, Standing, entry, finish};
use super::relay::Relay;
use super::{Facts, PATIENCE, Sessions, without_probability};
use crate::serve::generator::{Begun, Mover, Tokens};

/// How long a session that is over at this node is remembered, for those who come late.
const MEMORY: Duration = Duration::from_secs(10);

/// How long copying ahead may take before the session goes over as it is.
const COPYING_MAX: Duration = Duration::from_secs(20);

/// To a keeper.
pub(crate) enum Command {
    /// Its user leaves.
    HandOver {
        addr: SocketAddr,
        target: String,
        link: PeerLink,
        priority: i32,
        began_at: Instant,
        reply: oneshot::Sender<Result<MoveReport, MoveError>>,
    },
    /// The target of a move answers.
    Answer(MoveAnswer),
    /// The source of a move says something.
    Order(Move, mpsc::Sender<MoveAnswer>),
    /// Keys and values from the source.
    Kv(KvChunk),
    /// That were all.
    KvEnded,
    /// Keys and values are all sent, or cannot be.
    KvSent,
    /// A reader wants the session.
    Claim {
        epoch: Epoch,
        from: usize,
        transcript: Vec<TokenId>,
        reply: oneshot::Sender<(ClaimReply, Option<MovedTo>)>,
    },
    /// The node that has the session says something, or nothing any more, to a numbered reading.
    Relayed(u64, SocketAddr, Option<ReaderNews>),
}

pub(crate) struct Keeper {
    sessions: Sessions,
    pub(super) facts: Facts,
    pub(super) log: Arc<Log>,
    pub(super) seat: Seat,
    pub(crate) own: mpsc::WeakSender<Command>,
    /// The generation here, if there is one.
    pub(super) local: Option<Tokens>,
    /// Whether it generates.
    pub(super) runs: bool,
    departure: Option<Departure>,
    /// The target has the right, and keys and values are still on their way.
    has_left: bool,
    pub(super) arrival: Option<Arrival>,
    /// The user who stays, once the session has left.
    ue: Option<Ue<Option<SocketAddr>>>,
    relay: Option<Relay>,
    reading_count: u64,
    last_token_at: Instant,
    /// Since when nobody reads.
    unread_since: Option<Instant>,
    over_at: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(sessions: Sessions, (facts, log): (Facts, Arc<Log>), seat: Seat) -> Self {
        let (own, _) = mpsc::channel(1);
        Self {
            sessions,
            facts,
            log,
            seat,
            own: own.downgrade(),
            local: None,
            runs: false,
            departure: None,
            has_left: false,
            arrival: None,
            ue: None,
            relay: None,
            reading_count: 0,
            last_token_at: Instant::now(),
            unread_since: None,
            over_at: None,
        }
    }

    /// Of a session that begins here.
    pub(super) fn of_beginning(
        sessions: Sessions,
        known: (Facts, Arc<Log>),
        tokens: Tokens,
    ) -> Self {
        let seat = Seat::owner(Epoch::FIRST, 0, PATIENCE);
        Self {
            local: Some(tokens),
            runs: true,
            ..Self::new(sessions, known, seat)
        }
    }

    /// Of a session that its reader brought.
    pub(super) fn of_taking(sessions: Sessions, known: (Facts, Arc<Log>), epoch: Epoch) -> Self {
        let seat = Seat::owner(epoch, known.1.len(), PATIENCE);
        Self::new(sessions, known, seat)
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        if self.seat.owned().is_some() && self.local.is_none() {
            self.resume().await;
        }
        loop {
            self.act().await;
            if self.is_over() {
                return;
            }
            let log = Arc::clone(&self.log);
            let due = self.due();
            tokio::select! {
                output = next(&mut self.local) => self.hear(output).await,
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = log.reader_gone() => {}
                () = sleep_until(due.into()) => {}
            }
            self.look_at_the_clock();
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.sessions.0.began_at.elapsed()
    }

    fn due(&self) -> Instant {
        let began_at = self.sessions.0.began_at;
        let machines = [
            self.seat.poll_timeout(),
            self.ue.as_ref().and_then(Ue::poll_timeout),
        ];
        let machines = machines.into_iter().flatten().map(|due| began_at + due);
        let unread = self.unread_since.map(|since| since + PATIENCE.orphan);
        let arrival = self.arrival.as_ref().and_then(Arrival::due);
        let over = self.over_at;
        let others = [unread, arrival, over].into_iter().flatten();
        let first = machines.chain(others).min();
        // Something is looked at now and then in any case.
        first.unwrap_or_else(|| Instant::now() + PATIENCE.orphan)
    }

    fn look_at_the_clock(&mut self) {
        let now = self.now();
        if self.seat.poll_timeout().is_some_and(|due| now >= due) {
            self.seat.handle_timeout(now);
        }
        if let Some(ue) = &mut self.ue
            && ue.poll_timeout().is_some_and(|due| now >= due)
        {
            ue.handle_timeout(now);
        }
        match self.log.reader_count() {
            0 => {
                self.unread_since.get_or_insert_with(Instant::now);
            }
            _ => self.unread_since = None,
        }
    }

    /// Whether nothing is to be done here any more.
    fn is_over(&mut self) -> bool {
        if self.arrival.is_some() && self.seat.owned().is_none() {
            return self.over_at.is_some();
        }
        let unread = self.unread_since.map(|since| since.elapsed());
        let ended = self.log.has_ended() || self.log.standing() == Standing::Broken;
        // A user who stays has nobody else to come back from.
        let is_plain = self.facts.caller.is_some() && !self.facts.follows;
        match unread {
            Some(_) if is_plain && self.departure.is_none() => true,
            Some(unread) if ended => unread >= MEMORY,
            Some(unread) => unread >= PATIENCE.orphan,
            None => false,
        }
    }

    /// A token was generated here, or there will be no more.
    async fn hear(&mut self, output: Option<Output>) {
        let Some(output) = output else {
            self.local = None;
            if self.runs && !self.log.has_ended() {
                self.log.stands(Standing::Broken);
            }
            self.runs = false;
            return;
        };
        // What was generated before a right was lost is nobody's.
        if self.seat.owned().is_none() {
            return;
        }
        let finish = output.finish;
        if finish.is_some() {
            self.seat.handle_finished();
            self.runs = false;
        } else {
            self.seat.handle_token();
        }
        if let (Some(ue), Some(epoch)) = (&mut self.ue, self.seat.owned()) {
            let index = self.log.len();
            // Its own node: the next token is the next one.
            let now = self.sessions.0.began_at.elapsed();
            ue.handle_token(now, None, epoch, index);
            if finish.is_some() {
                ue.handle_end(now, None, epoch, index + 1);
            }
        }
        self.last_token_at = Instant::now();
        self.log.push(Entry {
            chosen: output.chosen,
            finish,
            shared_len: output.shared_len,
        });
        if let Some(kv) = self.departure.as_ref().and_then(|it| it.kv.as_ref()) {
            let known = self.private_len();
            kv.bound.send_modify(|bound| bound.known = known);
        }
    }

    /// Private tokens of prompt and answer.
    fn private_len(&self) -> usize {
        self.facts.prompt.len() + self.log.len()
    }

    async fn obey(&mut self, command: Command) {
        let now = self.now();
        match command {
            Command::HandOver {
                addr,
                target,
                link,
                priority,
                began_at,
                reply,
            } => self.leave((addr, target, link), (priority, began_at), reply),
            Command::Answer(answer) => self.answered(answer).await,
            Command::Order(order, answers) => self.ordered(order, answers).await,
            Command::Kv(chunk) => {
                if let Some(arrival) = &mut self.arrival {
                    arrival.keep(chunk);
                }
                self.put_in().await;
            }
            Command::KvEnded => {
                if let Some(arrival) = &mut self.arrival {
                    arrival.kv_ended = true;
                }
            }
            Command::KvSent => {
                if let Some(departure) = &mut self.departure {
                    departure.kv = None;
                }
                if self.has_left {
                    self.leave_for_good();
                }
            }
            Command::Claim {
                epoch,
                from,
                transcript,
                reply,
            } => {
                let said = self.claimed(epoch, from, transcript).await;
                // Whoever asked may be gone.
                let _ = reply.send(said);
            }
            Command::Relayed(number, addr, news) if number == self.reading_count => {
                self.relayed(now, addr, news);
            }
            Command::Relayed(..) => {}
        }
    }

    /// Begins to leave for another node.
    fn leave(
        &mut self,
        (addr, target, link): (SocketAddr, String, PeerLink),
        (priority, began_at): (i32, Instant),
        reply: oneshot::Sender<Result<MoveReport, MoveError>>,
    ) {
        let refused = match () {
            () if self.log.has_ended() => Some(MoveError::Ended),
            () if self.seat.owned().is_none() || self.departure.is_some() => Some(MoveError::Busy),
            () if self.log.len() == 0 || !self.runs => Some(MoveError::NotBegun),
            () => None,
        };
        if let Some(refused) = refused {
            let _ = reply.send(Err(refused));
            return;
        }
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let cloud_len = self
            .facts
            .cloud
            .as_ref()
            .map_or(0, |(_, cloud)| cloud.tokens.len());
        let leaving = LeavingSession {
            context_len: small(self.private_len()),
            past_len: small(cloud_len),
            leaves_in: Duration::ZERO,
            decode_tokens_per_s: 0.0,
        };
        let decision = self.sessions.decide(leaving, link.estimate());
        let strategy = decision.as_ref().map_or(Strategy::Token, |it| it.strategy);
        let prefill = decision.as_ref().and_then(|it| it.sessions.first());
        let prefill_len = prefill.map_or(usize::MAX, |it| it.prefill.end as usize);
        let beginning = Beginning {
            addr,
            target,
            link,
            reply,
            strategy,
            predicted_s: decision.map_or(0.0, |it| it.worst_delay.as_secs_f64()),
            prefill_len: match strategy {
                Strategy::Token => usize::MAX,
                _ => prefill_len,
            },
            began_at,
            priority,
        };
        let links = Arc::clone(&self.sessions.0.links);
        self.departure = Some(Departure::begin(beginning, links, self.own.clone()));
        // It is the owner and nothing moves: looked at above.
        let _ = self.seat.handle_start(self.now());
    }

    /// The target says something.
    async fn answered(&mut self, answer: MoveAnswer) {
        let was_accepted = self.seat.is_accepted();
        if let Some(departure) = &mut self.departure {
            if let Some(refusal) = answer.refusal {
                departure.refusal = Some(refusal.to_string());
            }
            if answer.url.is_some() {
                departure.url = answer.url;
            }
        }
        self.seat.handle_answer(self.now(), answer.answer);
        if !self.seat.is_accepted() {
            return;
        }
        if !was_accepted {
            self.begin_kv();
        }
        let is_copied = answer.computed_len as usize + 2 * BLOCK_LEN >= self.private_len();
        let departure = self.departure.as_ref();
        let goes = departure.is_some_and(|departure| {
            let waited = departure.began_at.elapsed();
            departure.strategy != Strategy::PreCopy || is_copied || waited >= COPYING_MAX
        });
        if goes {
            self.switch().await;
        }
    }

    fn begin_kv(&mut self) {
        let known = self.private_len();
        let (Some(departure), Some(local)) = (&mut self.departure, &self.local) else {
            return;
        };
        if departure.prefill_len >= known {
            return;
        }
        let bound = KvBound {
            known: match departure.strategy {
                Strategy::PreCopy => known,
                // Nothing before it has stopped.
                _ => 0,
            },
            end: None,
        };
        let geometry = self.sessions.0.node.model.geometry;
        let epoch = self.seat.latest();
        departure.send_kv(
            local.mover(),
            (self.facts.key, epoch),
            (geometry, self.sessions.0.config.dtype),
            (departure.prefill_len, bound),
        );
    }

    /// Stops between two tokens, and gives the right away.
    async fn switch(&mut self) {
        let Some(local) = &self.local else {
            return;
        };
        let held = local.mover().hold(0).await;
        // Tokens that it had generated before it heard.
        while let Some(held) = held
            && self.private_len() < held.token_count
        {
            let output = next(&mut self.local).await;
            if output.is_none() {
                break;
            }
            self.hear(output).await;
        }
        let Some(held) = held else {
            // It has ended; its last token is on the way.
            return;
        };
        self.runs = false;
        let now = self.now();
        if let Some(departure) = &mut self.departure {
            departure.switched_at = Some(Instant::now());
            if let Some(kv) = &departure.kv {
                let end = match departure.strategy {
                    // What is missing is computed sooner than it is sent.
                    Strategy::PreCopy => held.computed_count / BLOCK_LEN * BLOCK_LEN,
                    _ => held.computed_count,
                };
                kv.bound.send_modify(|bound| bound.end = Some(end));
            }
        }
        self.seat.handle_switch(now);
    }

    /// Does what the machines want done.
    async fn act(&mut self) {
        loop {
            if let Some(action) = self.seat.poll_action() {
                self.act_once(action).await;
                continue;
            }
            if let Some(action) = self.ue.as_mut().and_then(Ue::poll_action) {
                self.act_as_reader(action).await;
                continue;
            }
            break;
        }
        self.go_if_arrived();
    }

    async fn act_once(&mut self, action: SeatAction) {
        match action {
            SeatAction::ToTarget(order) => self.say(order),
            SeatAction::ToSource(answer) => self.reply(answer).await,
            SeatAction::Activate { epoch, .. } => {
                self.log.stands(Standing::Here(epoch));
                if let Some(arrival) = &mut self.arrival {
                    arrival.activated_at.get_or_insert_with(Instant::now);
                }
            }
            SeatAction::Redirect(epoch) => self.redirect(epoch),
            SeatAction::GiveUp(why) => self.give_up(why),
            SeatAction::TargetSilent => {
                let addr = self.departure.as_ref().map(|departure| departure.addr);
                let now = self.now();
                if let (Some(ue), Some(addr)) = (&mut self.ue, addr) {
                    ue.handle_lost(now, Some(addr));
                }
            }
            SeatAction::Wipe => {
                self.has_left = true;
                let sends = self.departure.as_ref().is_some_and(|it| it.kv.is_some());
                if !sends {
                    self.leave_for_good();
                }
            }
            SeatAction::Discard => {
                self.local = None;
                self.over_at = Some(Instant::now());
            }
        }
    }

    fn say(&mut self, order: ToTarget) {
        let tokens = match order {
            ToTarget::Tokens { start, end, .. } => self.log.answer(start..end),
            ToTarget::Offer { .. } | ToTarget::Commit { .. } | ToTarget::Withdraw { .. } => {
                Vec::new()
            }
        };
        let Some(departure) = &self.departure else {
            return;
        };
        let out = match order {
            ToTarget::Offer { epoch, len } => Out::Offer(Box::new(self.offer(epoch, len))),
            _ => Out::Order(Move { order, tokens }),
        };
        // What does not fit is said again.
        let _ = departure.to.try_send(out);
    }

    fn offer(&self, epoch: Epoch, len: usize) -> SessionOffer {
        let node = &self.sessions.0.node;
        let prefill_len = self
            .departure
            .as_ref()
            .map_or(usize::MAX, |it| it.prefill_len);
        SessionOffer {
            session: self.facts.key,
            ticket: self.facts.ticket,
            epoch,
            model: node.model.digest,
            geometry: node.model.geometry,
            cloud_prompt: self
                .facts
                .cloud
                .as_ref()
                .map(|(name, cloud)| (name.clone(), cloud.id)),
            prompt: self.facts.prompt.for_engine().to_vec(),
            context: self.facts.context.for_engine().to_vec(),
            answer: self.log.tokens(0).into_iter().take(len).collect(),
            terms: self.facts.terms.clone(),
            prefill_len: u32::try_from(prefill_len).unwrap_or(u32::MAX),
            dtype: self.sessions.0.config.dtype,
        }
    }

    async fn reply(&mut self, answer: ToSource) {
        let progress = match &self.local {
            Some(local) => local.mover().progress().await,
            None => None,
        };
        let computed = progress.map_or(0, |progress| progress.computed_count);
        let url = matches!(answer, ToSource::Accepted { .. } | ToSource::Active { .. })
            .then(|| self.sessions.0.config.url.clone());
        if let Some(arrival) = &self.arrival {
            // A source that does not listen asks again.
            let _ = arrival.answers.try_send(MoveAnswer {
                answer,
                computed_len: u32::try_from(computed).unwrap_or(u32::MAX),
                refusal: None,
                url,
            });
        }
    }

    /// The right is given away: whoever reads here goes where it goes.
    fn redirect(&mut self, epoch: Epoch) {
        let Some(departure) = &self.departure else {
            return;
        };
        let len = self.log.len();
        self.log.stands(Standing::Moved(MovedTo {
            epoch,
            addr: departure.addr.to_string(),
            url: departure.url.clone(),
            len,
        }));
        if self.log.staying_count() > 0 {
            let (now, addr) = (self.now(), departure.addr);
            let epoch_before = self.seat.last_owned();
            let mut ue = Ue::resuming(now, None, (epoch_before, len), PATIENCE);
            ue.handle_redirect(now, None, epoch, Some(addr));
            self.ue = Some(ue);
        }
    }

    fn give_up(&mut self, why: GivenUp) {
        if let Some(departure) = &mut self.departure {
            let error = match why {
                GivenUp::Refused => MoveError::Refused(
                    departure
                        .refusal
                        .take()
                        .unwrap_or_else(|| "the target refuses".to_owned()),
                ),
                GivenUp::Silent => MoveError::Silent,
                GivenUp::Finished => MoveError::Ended,
            };
            metrics::counter!(names::EDGE_HANDOVER_TOTAL, names::KIND => departure.strategy.name(), names::RESULT => "given_up").increment(1);
            departure.fail(error);
        }
        self.departure = None;
    }

    /// The target has the session, and all that it needs.
    fn leave_for_good(&mut self) {
        self.has_left = false;
        self.local = None;
        self.runs = false;
        let (epoch, private_len) = (self.seat.latest(), self.private_len());
        if let Some(departure) = &mut self.departure {
            let report = departure.succeed(epoch, private_len);
            metrics::counter!(names::EDGE_HANDOVER_TOTAL, names::KIND => report.strategy.name(), names::RESULT => "moved").increment(1);
            metrics::counter!(names::EDGE_HANDOVER_KV_BYTES_TOTAL).increment(report.kv_bytes);
        }
        self.departure = None;
        if self.log.staying_count() == 0 {
            // A user who follows has all it needs; nobody comes back here without bringing it.
            self.facts.wipe();
            self.log.wipe();
        }
    }

    async fn act_as_reader(&mut self, action: UeAction<Option<SocketAddr>>) {
        match action {
            UeAction::Claim {
                node: Some(addr),
                claim,
                epoch,
                from,
            } => {
                self.reading_count += 1;
                let reading = Reading {
                    session: self.facts.key,
                    ticket: self.facts.ticket,
                    epoch,
                    claim,
                    from: u32::try_from(from).unwrap_or(u32::MAX),
                };
                let links = Arc::clone(&self.sessions.0.links);
                let number = self.reading_count;
                self.relay = Some(Relay::begin(
                    (addr, number),
                    reading,
                    links,
                    self.own.clone(),
                ));
            }
            UeAction::Claim {
                node: None,
                epoch,
                from,
                ..
            } => {
                self.relay = None;
                let (reply, moved) = self.claimed(epoch, from, Vec::new()).await;
                let to = moved.and_then(|moved| moved.addr.parse().ok()).map(Some);
                let now = self.now();
                if let Some(ue) = &mut self.ue {
                    ue.handle_claim_reply(now, None, (reply, to));
                }
            }
            UeAction::Fail(failure) => {
                tracing::warn!(%failure, session = %self.facts.key, "a session is lost");
                self.relay = None;
                self.log.stands(Standing::Broken);
            }
        }
    }

    /// The node that has the session says something to the user who stays here.
    fn relayed(&mut self, now: Duration, addr: SocketAddr, news: Option<ReaderNews>) {
        let moved_len = self.moved_len();
        let Some(ue) = &mut self.ue else {
            return;
        };
        let from = Some(addr);
        match news {
            None | Some(ReaderNews::Broken | ReaderNews::Declined) => ue.handle_lost(now, from),
            Some(ReaderNews::Claim(reply, to)) => {
                let to = to.and_then(|to| to.parse().ok()).map(Some);
                ue.handle_claim_reply(now, from, (reply, to));
            }
            Some(ReaderNews::Token {
                epoch,
                index,
                token,
                last,
            }) => {
                if ue.handle_token(now, from, epoch, index as usize) != Verdict::Accepted {
                    return;
                }
                let gap = self.last_token_at.elapsed();
                if self.log.len() == moved_len {
                    metrics::histogram!(names::EDGE_HANDOVER_INTERRUPTION_SECONDS).record(gap);
                }
                self.last_token_at = Instant::now();
                let entry = Entry {
                    finish: last.map(finish),
                    ..entry(token)
                };
                self.log.push(entry);
                if last.is_some() {
                    ue.handle_end(now, from, epoch, index as usize + 1);
                    self.relay = None;
                }
            }
            Some(ReaderNews::Alive { epoch }) => ue.handle_alive(now, from, epoch),
            Some(ReaderNews::Moved { epoch, addr: to }) => {
                if let Ok(to) = to.parse() {
                    ue.handle_redirect(now, from, epoch, Some(to));
                }
            }
        }
    }

    fn moved_len(&self) -> usize {
        match self.log.standing() {
            Standing::Moved(moved) => moved.len,
            Standing::Here(_) | Standing::Broken => usize::MAX,
        }
    }

    /// A reader claims the session, having read up to token `from`.
    async fn claimed(
        &mut self,
        epoch: Epoch,
        from: usize,
        transcript: Vec<TokenId>,
    ) -> (ClaimReply, Option<MovedTo>) {
        let now = self.now();
        let here = self.log.len();
        let reply = self
            .seat
            .handle_claim(now, epoch, from.max(transcript.len()));
        if let ClaimReply::Granted(epoch) = reply {
            let missing = transcript.into_iter().skip(here);
            self.log.extend(missing.map(without_probability));
            self.log.stands(Standing::Here(epoch));
            let is_arriving = self.arrival.is_some() && self.local.is_some();
            if self.seat.owned().is_some() && !self.runs && !is_arriving && !self.log.has_ended() {
                self.resume().await;
            }
        }
        let moved = match self.log.standing() {
            Standing::Moved(moved) => Some(moved),
            Standing::Here(_) | Standing::Broken => None,
        };
        (reply, moved)
    }

    /// Generates here from the answer so far.
    async fn resume(&mut self) {
        if let Some(departure) = &mut self.departure {
            departure.fail(MoveError::Silent);
        }
        let answered = self.log.tokens(0);
        if let Some(mover) = self.local.as_ref().map(Tokens::mover)
            && let Some(progress) = mover.progress().await
        {
            let known = progress.token_count.saturating_sub(self.facts.prompt.len());
            mover.extend(answered[known.min(answered.len())..].to_vec());
            mover.release();
            self.runs = true;
            return;
        }
        let begun = Begun {
            answered,
            compute_max: usize::MAX,
        };
        let node = &self.sessions.0.node;
        match node.generator.hold(self.facts.generation(), begun).await {
            Ok(tokens) => {
                tokens.mover().release();
                self.local = Some(tokens);
                self.runs = true;
            }
            Err(error) => {
                tracing::warn!(%error, session = %self.facts.key, "a session cannot go on here");
                self.log.stands(Standing::Broken);
            }
        }
    }

    /// The source of a move says something.
    async fn ordered(&mut self, order: Move, answers: mpsc::Sender<MoveAnswer>) {
        let now = self.now();
        let Move { order, tokens } = order;
        if let Some(arrival) = &mut self.arrival {
            arrival.answers = answers;
        }
        if self.seat.owned().is_none() {
            self.learn(order, tokens);
            self.put_in().await;
        }
        self.seat.handle_order(now, order);
    }

    /// Tokens that follow those that are here.
    fn learn(&mut self, order: ToTarget, tokens: Vec<AnswerToken>) {
        let ToTarget::Tokens { start, .. } = order else {
            return;
        };
        let here = self.log.len();
        if start > here {
            return;
        }
        let new: Vec<AnswerToken> = tokens.into_iter().skip(here - start).collect();
        let ids = new.iter().map(|token| token.token).collect();
        self.log.extend(new);
        if let Some(mover) = self.local.as_ref().map(Tokens::mover) {
            mover.extend(ids);
        }
    }

    /// Keys and values from the source; those of tokens that are not known yet wait for them.
    async fn put_in(&mut self) {
        let known = self.private_len();
        let mover: Option<Mover> = self.local.as_ref().map(Tokens::mover);
        let Some((arrival, mover)) = self.arrival.as_mut().zip(mover) else {
            return;
        };
        while let Some(chunk) = arrival.next_of(known) {
            if let Some(Err(error)) = mover.put_in(chunk).await {
                tracing::debug!(%error, "keys and values of a session are computed here");
                arrival.kv_ended = true;
            }
        }
    }

    /// Generates, once the right is here and nothing is to be waited for.
    fn go_if_arrived(&mut self) {
        let is_owner = self.seat.owned().is_some();
        let Some(arrival) = &self.arrival else {
            return;
        };
        if is_owner && arrival.may_go() {
            if let Some(local) = &self.local {
                local.mover().release();
                self.runs = true;
            }
            self.arrival = None;
        }
    }
}

async fn next(local: &mut Option<Tokens>) -> Option<Output> {
    match local {
        Some(tokens) => tokens.next().await,
        None => std::future::pending().await,
    }
}
