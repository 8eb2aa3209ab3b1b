//! Users' sessions: answers that can move to another edge node while they are generated.
//!
//! Each session has a keeper, a task that alone decides about it: who may emit is
//! [`Seat`](edgeprompt_handover::session::Seat)'s to say, tokens are in a [`Log`](log::Log) that
//! readers follow, and everything else is engine, links and time.

pub(crate) mod args;
mod arrival;
mod bounds;
mod departure;
mod facts;
mod handle;
mod keeper;
mod links;
mod log;
mod peers;
mod planned;
mod relay;
pub(crate) mod routes;
mod speed;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edgeprompt_handover::planning::choose::LeavingSession;
use edgeprompt_handover::planning::strategy::Strategy;
use edgeprompt_handover::session::{Epoch, Patience};
use edgeprompt_kv::{KvDtype, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::{SessionKey, TargetSpeed, Ticket};
use edgeprompt_transport::{CloudEndpoint, ConnectError, LinkEstimate, PeerEndpoint, PeerLink};
use rand::RngExt;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub(crate) use departure::{MoveError, MoveReport};
pub(crate) use facts::{Facts, terms};
pub(crate) use handle::{Listed, SessionHandle, Taken};
pub(crate) use keeper::ClaimError;
pub(crate) use log::{Entry, MovedTo, News, Reader, ReaderKind, bare};

use crate::prefill_speed::PrefillSpeed;
use crate::serve::access::Caller;
use crate::serve::generator::{Generator, Tokens};
use crate::serve::segments::CloudPrompts;
use crate::serve::sessions::bounds::Bounds;
use crate::serve::sessions::handle::{Handle, NewHandle, Own};
use crate::serve::sessions::keeper::{Command, Keeper};
use crate::serve::sessions::links::Links;
use crate::serve::sessions::log::{Log, Standing};
use crate::serve::sessions::planned::{Plan, plan, plan_by_tokens};

/// Messages of one session that wait for its keeper.
const COMMANDS_MAX: usize = 256;

/// How long what may take.
const PATIENCE: Patience = Patience {
    repeat: Duration::from_millis(300),
    answer: Duration::from_secs(4),
    orphan: Duration::from_secs(20),
};

/// Where sessions may go, and how they are reached.
pub(crate) struct SessionsConfig {
    /// Other edges that sessions may be moved to.
    pub(crate) targets: Targets,
    /// Where users reach this one.
    pub(crate) url: String,
    /// In what private keys and values travel.
    pub(crate) dtype: KvDtype,
    /// How they travel; `None` for the way that is predicted to be best.
    pub(crate) strategy: Option<Strategy>,
}

/// Where sessions may go.
pub(crate) enum Targets {
    /// To any edge of the trust domain, wherever it is.
    Any,
    /// To these: what their operator calls them, and their addresses.
    Named(Vec<(String, SocketAddr)>),
}

impl Targets {
    async fn resolve(&self, target: &str) -> Result<SocketAddr, MoveError> {
        match self {
            Self::Named(named) => match named.iter().find(|(name, _)| name == target) {
                Some((_, addr)) => Ok(*addr),
                None => Err(MoveError::NotATarget(
                    "this edge moves no sessions there: its --handover-target does not name it",
                )),
            },
            Self::Any => {
                let found = tokio::net::lookup_host(target).await;
                match found.map(|mut addrs| addrs.next()) {
                    Ok(Some(addr)) => Ok(addr),
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(
                        MoveError::NotATarget("the target is not an address like 10.0.0.7:4435"),
                    ),
                    Ok(None) | Err(_) => Err(MoveError::Unreachable(
                        "the target's name is not known here".to_owned(),
                    )),
                }
            }
        }
    }
}

/// What sessions need of the node.
pub(crate) struct Node {
    pub(crate) model: Arc<Model>,
    pub(crate) generator: Generator,
    pub(crate) prompts: CloudPrompts,
    pub(crate) speed: PrefillSpeed,
    /// Most tokens of prompt and answer together.
    pub(crate) len_max: usize,
    /// Most tokens of a step of sessions that come and that nobody waits for yet.
    pub(crate) behind_len_max: usize,
}

impl Node {
    fn bounds(&self) -> Bounds {
        Bounds {
            vocab_size: self.model.config.vocab_size,
            len_max: self.len_max,
        }
    }
}

/// The sessions of this node. Clones share them.
#[derive(Clone)]
pub(crate) struct Sessions(Arc<Shared>);

struct Shared {
    node: Node,
    config: SessionsConfig,
    links: Arc<Links>,
    /// For keys and values: on a link of their own they can fill its windows, and nobody who says something
    /// waits behind them.
    bulk: Links,
    keepers: Mutex<HashMap<SessionKey, Handle>>,
    began_at: Instant,
    /// Tells whoever listens for other edges that this one ends.
    ending: Notify,
    /// Ends when other edges know.
    listening: Mutex<Option<JoinHandle<()>>>,
}

/// Where sessions are to go, and how.
#[derive(Clone)]
pub(crate) struct Wish {
    /// One of the targets that this edge has.
    pub(crate) target: String,
    /// `None` for what this edge thinks best.
    pub(crate) strategy: Option<Strategy>,
}

impl Sessions {
    pub(crate) fn new(node: Node, config: SessionsConfig, endpoint: PeerEndpoint) -> Self {
        Self(Arc::new(Shared {
            node,
            config,
            bulk: Links::new(endpoint.clone()),
            links: Arc::new(Links::new(endpoint)),
            keepers: Mutex::default(),
            began_at: Instant::now(),
            ending: Notify::new(),
            listening: Mutex::default(),
        }))
    }

    /// Listens for other edges from now on.
    pub(crate) fn begin_to_listen(&self, runtime: &Runtime, endpoint: CloudEndpoint<PeerLink>) {
        let listening = runtime.spawn(self.clone().listen(endpoint));
        let mut kept = self
            .0
            .listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *kept = Some(listening);
    }

    /// Lets other edges know that this one ends, within `patience`: they would go on to use the links.
    pub(crate) async fn end(&self, patience: Duration) {
        self.0.ending.notify_one();
        let listening = {
            let mut kept = self
                .0
                .listening
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            kept.take()
        };
        if let Some(listening) = listening {
            // Those who do not hear of it find out by themselves.
            let _ = timeout(patience, listening).await;
        }
    }

    /// Names a session.
    pub(crate) fn name() -> (SessionKey, Ticket) {
        let mut random = rand::rng();
        (SessionKey(random.random()), Ticket(random.random()))
    }

    /// Keeps a session that begins here.
    pub(crate) fn begin(&self, facts: Facts, tokens: Tokens) -> Reader {
        let log = Log::new(Standing::Here(Epoch::FIRST));
        let reader = log.reader(0, facts.reader);
        let (handle, commands) = self.handle(&facts, &log);
        let keeper = Keeper::of_beginning(self.clone(), (facts, log), tokens);
        // A name of chance is nobody else's.
        let _ = self.keep(handle, keeper, commands);
        reader
    }

    /// Goes on with a session that its reader brings, from the answer that it has.
    ///
    /// # Errors
    /// [`Taken`].
    pub(crate) fn take(
        &self,
        facts: Facts,
        (epoch, answered): (Epoch, &[TokenId]),
    ) -> Result<Reader, Taken> {
        let log = Log::new(Standing::Here(epoch));
        log.extend(answered.iter().copied().map(bare));
        let reader = log.reader(answered.len(), ReaderKind::Following);
        let (handle, commands) = self.handle(&facts, &log);
        let keeper = Keeper::of_taking(self.clone(), (facts, log), epoch);
        self.keep(handle, keeper, commands)?;
        Ok(reader)
    }

    fn handle(&self, facts: &Facts, log: &Arc<Log>) -> (NewHandle, mpsc::Receiver<Command>) {
        let (commands, received) = mpsc::channel(COMMANDS_MAX);
        let handle = Handle {
            commands,
            log: Arc::clone(log),
            ticket: facts.ticket,
            caller: facts.caller.clone(),
            prompt_lens: (
                facts.prompt.len(),
                facts
                    .cloud
                    .as_ref()
                    .map_or(0, |(_, cloud)| cloud.tokens.len()),
            ),
        };
        let handle = NewHandle {
            key: facts.key,
            handle,
        };
        (handle, received)
    }

    fn keep(
        &self,
        new: NewHandle,
        mut keeper: Keeper,
        commands: mpsc::Receiver<Command>,
    ) -> Result<(), Taken> {
        let NewHandle { key, handle } = new;
        keeper.own = Own::of(&handle, keeper.facts.reader);
        let log = Arc::clone(&handle.log);
        {
            let mut keepers = self.lock();
            if let Some(known) = keepers.get(&key) {
                known.may_be_replaced(&handle)?;
            }
            keepers.insert(key, handle);
        }
        let sessions = self.clone();
        tokio::spawn(async move {
            keeper.run(commands).await;
            log.close();
            let mut keepers = sessions.lock();
            // Another one of the same name may have come meanwhile.
            if keepers
                .get(&key)
                .is_some_and(|kept| Arc::ptr_eq(&kept.log, &log))
            {
                keepers.remove(&key);
            }
        });
        Ok(())
    }

    /// Makes a keeper that the session has come back to the one that answers for it, whoever did so
    /// meanwhile.
    fn restore(&self, key: SessionKey, handle: Handle) {
        self.lock().insert(key, handle);
    }

    /// Moves sessions to another edge, together: the first of them has the link first. Returns once
    /// that has them, or does not want them.
    pub(crate) async fn hand_over(
        &self,
        leaving: Vec<SessionHandle>,
        wish: &Wish,
    ) -> Vec<Result<MoveReport, MoveError>> {
        let began_at = Instant::now();
        let (addr, link) = match self.reach(&wish.target).await {
            Ok(reached) => reached,
            Err(error) => {
                tracing::warn!(%error, "no session can be moved there");
                return leaving.iter().map(|_| Err(error.clone())).collect();
            }
        };
        // Those who leave are answered here meanwhile.
        let target = speed::ask(&link).await;
        // One that says nothing is taken to be like this one.
        let target = target.unwrap_or_else(|| self.0.node.speed());
        let sessions: Vec<_> = leaving.iter().map(SessionHandle::leaving).collect();
        let plans = self.decide(&sessions, (link.estimate(), target), wish.strategy);
        let mut answers = Vec::new();
        for ((priority, handle), plan) in (0..).zip(leaving).zip(plans) {
            let (reply, answer) = oneshot::channel();
            let command = Command::HandOver {
                addr,
                target: wish.target.clone(),
                link: link.clone(),
                priority: -priority,
                plan,
                began_at,
                reply,
            };
            let sent = handle.0.commands.send(command).await;
            answers.push(sent.map(|()| answer));
        }
        let mut reports = Vec::new();
        for answer in answers {
            let report = match answer {
                Ok(answer) => answer.await.unwrap_or(Err(MoveError::Ended)),
                Err(_) => Err(MoveError::Ended),
            };
            if let Err(error) = &report {
                tracing::warn!(%error, "a session did not move");
            }
            reports.push(report);
        }
        reports
    }

    async fn reach(&self, target: &str) -> Result<(SocketAddr, PeerLink), MoveError> {
        let addr = self.0.config.targets.resolve(target).await?;
        let link = self.0.bulk.to(addr).await;
        let link = link.map_err(|error| match error {
            ConnectError::Itself { .. } => MoveError::Itself,
            ConnectError::Full | ConnectError::TooManyLinks => MoveError::Unreachable(
                "the target takes no more links now: try again in a moment".to_owned(),
            ),
            error => MoveError::Unreachable(error.to_string()),
        })?;
        Ok((addr, link))
    }

    /// A session of this caller.
    pub(crate) fn find(&self, key: SessionKey, caller: &Caller) -> Option<SessionHandle> {
        let keepers = self.lock();
        let found = keepers.get(&key)?;
        // Who began one elsewhere is not known here: its name is a secret of its user's.
        let is_theirs = found.caller.as_ref().is_none_or(|owner| owner.is(caller));
        (is_theirs || caller.is_operator()).then(|| SessionHandle(found.clone()))
    }

    /// A session for whoever has its ticket; `None` if nothing is known of it.
    ///
    /// # Errors
    /// [`Taken::ByAnother`] for another ticket than its own.
    pub(crate) fn open(
        &self,
        key: SessionKey,
        ticket: &Ticket,
    ) -> Result<Option<SessionHandle>, Taken> {
        let keepers = self.lock();
        match keepers.get(&key) {
            None => Ok(None),
            Some(found) if found.opens_with(ticket) => Ok(Some(SessionHandle(found.clone()))),
            Some(_) => Err(Taken::ByAnother),
        }
    }

    /// The place that a session has of whoever read it last, for whoever has its ticket.
    pub(crate) fn place(
        &self,
        key: SessionKey,
        ticket: &Ticket,
    ) -> Option<Arc<OwnedSemaphorePermit>> {
        let keepers = self.lock();
        let found = keepers.get(&key).filter(|found| found.opens_with(ticket))?;
        found.log.place()
    }

    /// Sessions of this caller; for an operator everybody's, wherever they began.
    pub(crate) fn list(&self, caller: &Caller) -> Vec<Listed> {
        let keepers = self.lock();
        let is_theirs = |kept: &Handle| kept.caller.as_ref().is_some_and(|owner| owner.is(caller));
        let theirs = keepers
            .iter()
            .filter(|(_, kept)| caller.is_operator() || is_theirs(kept));
        let mut listed: Vec<_> = theirs.map(|(key, kept)| kept.listed(*key)).collect();
        listed.sort_by_key(|session| session.key);
        listed
    }

    /// How to move sessions that leave together, in their order.
    fn decide(
        &self,
        sessions: &[LeavingSession],
        measured: (Option<LinkEstimate>, TargetSpeed),
        only: Option<Strategy>,
    ) -> Vec<Plan> {
        let Shared { node, config, .. } = &*self.0;
        let only = only.or(config.strategy);
        let planned = match node.way(config.dtype, measured) {
            Some(way) if node.generator.tally().is_spread() => plan_by_tokens(sessions, &way, only),
            Some(way) => plan(sessions, &way, only),
            None => return vec![Plan::UNPLANNED; sessions.len()],
        };
        planned.unwrap_or_else(|error| {
            tracing::warn!(%error, "no way to move sessions is predicted");
            vec![Plan::UNPLANNED; sessions.len()]
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Handle>> {
        self.0
            .keepers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
