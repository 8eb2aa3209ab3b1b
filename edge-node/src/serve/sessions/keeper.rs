//! The task that decides about one session.

mod coming;
mod leaving;
mod reading;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeprompt_engine::{KvChunk, Output};
use edgeprompt_handover::session::{ClaimReply, Epoch, HandoverPhase, Seat, SeatAction, Ue};
use edgeprompt_kv::TokenId;
use edgeprompt_protocol::{AnswerToken, Move, MoveAnswer, ReaderNews};
use edgeprompt_transport::PeerLink;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::sleep_until;

use super::arrival::{Arrival, Heard, KvComing};
use super::departure::{Departure, MoveError, MoveReport};
use super::handle::Own;
use super::log::{Entry, Log, MovedTo, ReaderKind, Standing};
use super::planned::Plan;
use super::relay::Relay;
use super::{Facts, PATIENCE, Sessions};
use crate::serve::generator::Tokens;

/// How long a session that is over at this node is remembered, for those who come late.
const MEMORY: Duration = Duration::from_secs(10);

/// How long a session is kept for a reader that has gone of its own will: it may only be going to another
/// node, and back.
const LEFT: Duration = Duration::from_secs(2);

/// To a keeper.
pub(crate) enum Command {
    /// Its user leaves.
    HandOver {
        addr: SocketAddr,
        target: String,
        link: PeerLink,
        priority: i32,
        plan: Plan,
        began_at: Instant,
        reply: oneshot::Sender<Result<MoveReport, MoveError>>,
    },
    /// The target of a move answers.
    Answer(MoveAnswer),
    /// The source of a move says something.
    Order(Move, mpsc::Sender<MoveAnswer>),
    /// Keys and values from the source of the move that gives this right, and their place in memory.
    Kv(Epoch, KvChunk, OwnedSemaphorePermit),
    /// They begin to come, over a link that tells when it carried any last.
    KvBegun(Epoch, Heard),
    /// That were all.
    KvEnded(Epoch),
    /// Keys and values of the move that gives this right are all sent, or cannot be.
    KvSent(Epoch),
    /// A reader who has this answer wants the session.
    Claim {
        epoch: Epoch,
        transcript: Vec<TokenId>,
        reply: oneshot::Sender<Result<(ClaimReply, Option<MovedTo>), ClaimError>>,
    },
    /// A reader at another node has gone, and was not cut off.
    ReaderLeft,
    /// The node that has the session says something, or nothing any more, to a numbered reading.
    Relayed(u64, SocketAddr, Option<ReaderNews>),
}

/// Why a claim is not answered by yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimError {
    /// Nothing is known of the session, or not any more.
    Unknown,
    /// The answer that the reader brings is not the one that is generated under this right.
    OtherAnswer,
}

pub(crate) struct Keeper {
    sessions: Sessions,
    pub(super) facts: Facts,
    pub(super) log: Arc<Log>,
    pub(super) seat: Seat,
    pub(super) own: Own,
    /// The generation here, if there is one.
    pub(super) local: Option<Tokens>,
    /// Whether it generates.
    pub(super) runs: bool,
    departure: Option<Departure>,
    /// The target has the right, and keys and values are still on their way.
    has_left: bool,
    pub(super) arrival: Option<Arrival>,
    /// To the source that brought it, or would like to.
    pub(super) answers: Option<mpsc::Sender<MoveAnswer>>,
    /// The user who stays, once the session has left.
    ue: Option<Ue<Option<SocketAddr>>>,
    relay: Option<Relay>,
    reading_count: u64,
    last_token_at: Instant,
    /// Since when nobody reads.
    unread_since: Option<Instant>,
    /// How long that may last.
    pub(super) unread_max: Duration,
    /// It will not come.
    is_discarded: bool,
    /// All that is private was overwritten: it is elsewhere.
    is_wiped: bool,
}

impl Keeper {
    pub(super) fn new(sessions: Sessions, (facts, log): (Facts, Arc<Log>), seat: Seat) -> Self {
        let (own, _) = mpsc::channel(1);
        Self {
            sessions,
            facts,
            log,
            seat,
            own: Own::Weak(own.downgrade()),
            local: None,
            runs: false,
            departure: None,
            has_left: false,
            arrival: None,
            answers: None,
            ue: None,
            relay: None,
            reading_count: 0,
            last_token_at: Instant::now(),
            unread_since: None,
            unread_max: PATIENCE.orphan,
            is_discarded: false,
            is_wiped: false,
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
                    None => {
                        // The session has come back under a later right, and another keeper has it: so
                        // it had arrived.
                        if self.seat.phase().is_some_and(|phase| phase != HandoverPhase::Preparation) {
                            self.leave_for_good();
                        }
                        return;
                    }
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
        let arrival = self.arrival.as_ref().and_then(Arrival::due);
        let others = [self.ends_at(), arrival].into_iter().flatten();
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
        if self.log.is_done() && self.local.is_some() {
            // Its reader has heard enough.
            self.seat.handle_finished();
            self.local = None;
            self.runs = false;
        }
        match self.log.reader_count() {
            0 => {
                self.unread_since.get_or_insert_with(Instant::now);
            }
            _ => {
                self.unread_since = None;
                self.unread_max = PATIENCE.orphan;
            }
        }
    }

    /// Whether nothing is to be done here any more.
    fn is_over(&self) -> bool {
        self.is_discarded || self.ends_at().is_some_and(|at| at <= Instant::now())
    }

    /// When nothing will be to do here any more, if nobody comes.
    fn ends_at(&self) -> Option<Instant> {
        let unread_since = self.unread_since?;
        // Those end by themselves: nobody reads here before a session has come, or after it has left.
        let is_coming = self.arrival.is_some() && self.seat.owned().is_none();
        let is_sending = self.departure.as_ref().is_some_and(|it| it.kv.is_some());
        if is_coming || is_sending {
            return None;
        }
        let has_ended = self.log.has_ended() || self.log.standing() == Standing::Broken;
        // A user who stays has nobody else to come back from.
        let is_plain = self.facts.reader == ReaderKind::Staying && self.departure.is_none();
        let patience = match (is_plain, has_ended) {
            (true, _) => Duration::ZERO,
            (false, true) => MEMORY,
            (false, false) => self.unread_max,
        };
        Some(unread_since + patience)
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
        // Without being asked for, it is not computed.
        let logprob = self.facts.terms.top_logprobs;
        self.log.push(Entry {
            token: AnswerToken {
                token: output.chosen.token,
                logprob: logprob.map(|_| output.chosen.logprob),
                top: output.chosen.top,
            },
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
        match command {
            Command::HandOver {
                addr,
                target,
                link,
                priority,
                plan,
                began_at,
                reply,
            } => self.leave((addr, target, link), (priority, plan, began_at), reply),
            Command::Answer(answer) => self.answered(answer).await,
            Command::Order(order, answers) => self.ordered(order, answers).await,
            // Those of a move that is off may come late.
            Command::Kv(epoch, ..)
            | Command::KvBegun(epoch, _)
            | Command::KvEnded(epoch)
            | Command::KvSent(epoch)
                if epoch != self.seat.latest() => {}
            Command::Kv(_, chunk, place) => {
                if let Some(arrival) = &mut self.arrival {
                    arrival.keep(chunk, place);
                }
                self.put_in();
            }
            Command::KvBegun(_, heard) => self.kv(KvComing::Begun(heard)),
            Command::KvEnded(_) => {
                self.kv(KvComing::Ended);
                self.put_in();
            }
            Command::KvSent(_) => {
                if let Some(departure) = &mut self.departure {
                    departure.kv = None;
                }
                if self.has_left {
                    self.leave_for_good();
                }
            }
            Command::Claim {
                epoch,
                transcript,
                reply,
            } => {
                let said = self.claimed(epoch, transcript).await;
                // Whoever asked may be gone.
                let _ = reply.send(said);
            }
            Command::ReaderLeft => self.unread_max = LEFT,
            Command::Relayed(number, addr, news) if number == self.reading_count => {
                self.relayed(addr, news);
            }
            Command::Relayed(..) => {}
        }
    }

    fn kv(&mut self, kv: KvComing) {
        if let Some(arrival) = &mut self.arrival {
            arrival.kv = kv;
        }
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
        self.go_if_arrived().await;
    }

    async fn act_once(&mut self, action: SeatAction) {
        match action {
            SeatAction::ToTarget(order) => self.say(order),
            SeatAction::ToSource(answer) => self.reply(answer),
            SeatAction::Activate { epoch, .. } => {
                self.log.stands(Standing::Here(epoch));
                if let Some(arrival) = &mut self.arrival {
                    arrival.activated_at.get_or_insert_with(Instant::now);
                    if let Some(local) = &self.local {
                        local.mover().hasten();
                    }
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
                self.arrival = None;
                self.has_left = true;
                let sends = self.departure.as_ref().is_some_and(|it| it.kv.is_some());
                if !sends {
                    self.leave_for_good();
                }
            }
            SeatAction::Discard => {
                if let Some(local) = self.local.take() {
                    local.wipe();
                }
                self.is_discarded = true;
            }
        }
    }
}

async fn next(local: &mut Option<Tokens>) -> Option<Output> {
    match local {
        Some(tokens) => tokens.next().await,
        None => std::future::pending().await,
    }
}
