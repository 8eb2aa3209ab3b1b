//! Users' sessions: answers that can move to another edge node while they are generated.
//!
//! Each session has a keeper, a task that alone decides about it: who may emit is
//! [`Seat`](edgeprompt_handover::session::Seat)'s to say, tokens are in a [`Log`](log::Log) that
//! readers follow, and everything else is engine, links and time.

pub(crate) mod args;
mod arrival;
mod departure;
mod facts;
mod keeper;
mod links;
mod log;
mod planned;
mod relay;
pub(crate) mod routes;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edgeprompt_handover::planning::choose::LeavingSession;
use edgeprompt_handover::planning::kv_size::KvTokenBits;
use edgeprompt_handover::planning::link_rate::LinkRate;
use edgeprompt_handover::planning::prefill::{PrefillCoefficients, PrefillModel};
use edgeprompt_handover::planning::scenario::Costs;
use edgeprompt_handover::planning::strategy::Strategy;
use edgeprompt_handover::session::{ClaimReply, Epoch, Patience};
use edgeprompt_kv::{KvDtype, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::{SessionKey, Ticket};
use edgeprompt_transport::{LinkEstimate, PeerEndpoint, PeerLink};
use rand::RngExt;
use tokio::sync::{mpsc, oneshot};

pub(crate) use departure::{MoveError, MoveReport};
pub(crate) use facts::{Facts, terms};
pub(crate) use log::{Entry, MovedTo, News, Reader, ReaderKind};

use crate::prefill_speed::PrefillSpeed;
use crate::serve::access::Caller;
use crate::serve::generator::{Generator, Tokens};
use crate::serve::segments::CloudPrompts;
use crate::serve::sessions::keeper::{Command, Keeper};
use crate::serve::sessions::links::Links;
use crate::serve::sessions::log::{Log, Standing};
use crate::serve::sessions::planned::{Plan, Way, plan};

/// Messages of one session that wait for its keeper.
const COMMANDS_MAX: usize = 256;

/// How long what may take.
const PATIENCE: Patience = Patience {
    repeat: Duration::from_millis(300),
    answer: Duration::from_secs(4),
    orphan: Duration::from_secs(20),
};

/// What an unknown link is taken for, in bits a second.
const RATE_UNKNOWN: f64 = 200e6;

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
        let unreachable = |message| Err(MoveError::Unreachable(message));
        match self {
            Self::Named(named) => match named.iter().find(|(name, _)| name == target) {
                Some((_, addr)) => Ok(*addr),
                None => {
                    let known: Vec<_> = named.iter().map(|(name, _)| name.as_str()).collect();
                    unreachable(format!(
                        "this edge moves no sessions there: --handover-target names {}",
                        known.join(", ")
                    ))
                }
            },
            Self::Any => {
                let found = tokio::net::lookup_host(target).await;
                match found.ok().and_then(|mut addrs| addrs.next()) {
                    Some(addr) => Ok(addr),
                    None => {
                        unreachable("the target is not an address like 10.0.0.7:4435".to_owned())
                    }
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
}

/// The sessions of this node. Clones share them.
#[derive(Clone)]
pub(crate) struct Sessions(Arc<Shared>);

struct Shared {
    node: Node,
    config: SessionsConfig,
    links: Arc<Links>,
    keepers: Mutex<HashMap<SessionKey, Handle>>,
    began_at: Instant,
}

/// A way to a session's keeper.
#[derive(Clone)]
struct Handle {
    commands: mpsc::Sender<Command>,
    log: Arc<Log>,
    ticket: Ticket,
    caller: Option<Caller>,
    /// Tokens of the private prompt, and of the cloud prompt before it.
    prompt_lens: (usize, usize),
}

/// Where sessions are to go, and how.
#[derive(Clone)]
pub(crate) struct Wish {
    /// One of the targets that this edge has.
    pub(crate) target: String,
    /// `None` for what this edge thinks best.
    pub(crate) strategy: Option<Strategy>,
}

/// A session as its user may see it.
pub(crate) struct Listed {
    pub(crate) key: SessionKey,
    pub(crate) token_count: usize,
    pub(crate) state: &'static str,
    pub(crate) target: Option<String>,
}

impl Sessions {
    pub(crate) fn new(node: Node, config: SessionsConfig, endpoint: PeerEndpoint) -> Self {
        Self(Arc::new(Shared {
            node,
            config,
            links: Arc::new(Links::new(endpoint)),
            keepers: Mutex::default(),
            began_at: Instant::now(),
        }))
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
        self.keep(handle, keeper, commands);
        reader
    }

    /// Goes on with a session that its reader brings, from the answer that it has.
    pub(crate) fn take(&self, facts: Facts, (epoch, answered): (Epoch, &[TokenId])) -> Reader {
        let log = Log::new(Standing::Here(epoch));
        log.extend(answered.iter().map(|token| without_probability(*token)));
        let reader = log.reader(answered.len(), ReaderKind::Following);
        let (handle, commands) = self.handle(&facts, &log);
        let keeper = Keeper::of_taking(self.clone(), (facts, log), epoch);
        self.keep(handle, keeper, commands);
        reader
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

    fn keep(&self, new: NewHandle, mut keeper: Keeper, commands: mpsc::Receiver<Command>) {
        let NewHandle { key, handle } = new;
        keeper.own = handle.commands.downgrade();
        let log = Arc::clone(&handle.log);
        self.lock().insert(key, handle);
        let sessions = self.clone();
        tokio::spawn(async move {
            keeper.run(commands).await;
            let mut keepers = sessions.lock();
            // Another one of the same name may have come meanwhile.
            if keepers
                .get(&key)
                .is_some_and(|kept| Arc::ptr_eq(&kept.log, &log))
            {
                keepers.remove(&key);
            }
        });
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
            Err(error) => return leaving.iter().map(|_| Err(error.clone())).collect(),
        };
        let sessions: Vec<_> = leaving.iter().map(SessionHandle::leaving).collect();
        let plans = self.decide(&sessions, link.estimate(), wish.strategy);
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
            reports.push(match answer {
                Ok(answer) => answer.await.unwrap_or(Err(MoveError::Ended)),
                Err(_) => Err(MoveError::Ended),
            });
        }
        reports
    }

    async fn reach(&self, target: &str) -> Result<(SocketAddr, PeerLink), MoveError> {
        let addr = self.0.config.targets.resolve(target).await?;
        let link = self.0.links.to(addr).await;
        let link = link.map_err(|error| MoveError::Unreachable(error.to_string()))?;
        Ok((addr, link))
    }

    /// A session of this caller.
    pub(crate) fn find(&self, key: SessionKey, caller: &Caller) -> Option<SessionHandle> {
        let keepers = self.lock();
        let found = keepers.get(&key)?;
        // Who began one elsewhere is not known here: its name is a secret of its user's.
        let is_theirs = found.caller.as_ref().is_none_or(|owner| owner.is(caller));
        is_theirs.then(|| SessionHandle(found.clone()))
    }

    /// A session for whoever has its ticket.
    pub(crate) fn open(&self, key: SessionKey, ticket: Ticket) -> Option<SessionHandle> {
        let keepers = self.lock();
        let found = keepers.get(&key)?;
        let shown = blake3::hash(&ticket.0);
        // Comparing hashes takes the same time wherever they differ.
        (shown == blake3::hash(&found.ticket.0)).then(|| SessionHandle(found.clone()))
    }

    /// Sessions of this caller.
    pub(crate) fn list(&self, caller: &Caller) -> Vec<Listed> {
        let keepers = self.lock();
        let theirs = keepers
            .iter()
            .filter(|(_, kept)| kept.caller.as_ref().is_some_and(|owner| owner.is(caller)));
        let mut listed: Vec<_> = theirs.map(|(key, kept)| kept.listed(*key)).collect();
        listed.sort_by_key(|session| session.key);
        listed
    }

    /// How to move sessions that leave together, in their order.
    fn decide(
        &self,
        sessions: &[LeavingSession],
        link: Option<LinkEstimate>,
        only: Option<Strategy>,
    ) -> Vec<Plan> {
        let only = only.or(self.0.config.strategy);
        let planned = match self.way(link) {
            Some(way) => plan(sessions, &way, only),
            None => return vec![Plan::UNPLANNED; sessions.len()],
        };
        planned.unwrap_or_else(|error| {
            tracing::warn!(%error, "no way to move sessions is predicted");
            vec![Plan::UNPLANNED; sessions.len()]
        })
    }

    /// What this node has measured. The target is taken to compute as fast.
    fn way(&self, link: Option<LinkEstimate>) -> Option<Way> {
        let Shared { node, config, .. } = &*self.0;
        let geometry = &node.model.geometry;
        let layers = f64::from(geometry.layer_count());
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let layer_bytes = geometry.layer_bytes(64, config.dtype) as f64 / 64.0;
        let times = node.generator.tally().step_times();
        let prefill = times.prefill().unwrap_or_else(|| PrefillCoefficients {
            per_token_s: node.speed.layer(1).as_secs_f64() * layers,
            ..PrefillCoefficients::default()
        });
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let rate = link.map_or(RATE_UNKNOWN, |link| link.rate.as_bits_per_second() as f64);
        let costs = Costs {
            kv: KvTokenBits::of_measured_bytes(layer_bytes * layers).ok()?,
            prefill: PrefillModel::new(prefill).ok()?,
            link: LinkRate::constant(rate.max(1.0)).ok()?,
        };
        Some(Way {
            costs,
            rtt: link.map_or(Duration::ZERO, |link| link.rtt),
            decode: times.decode().unwrap_or_default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Handle>> {
        self.0
            .keepers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

struct NewHandle {
    key: SessionKey,
    handle: Handle,
}

/// A session that somebody may have to do with.
#[derive(Clone)]
pub(crate) struct SessionHandle(Handle);

impl SessionHandle {
    /// Claims the session for a reader that has `from` tokens, or brings those of `transcript`.
    ///
    /// `None` if it has ended meanwhile.
    pub(crate) async fn claim(
        &self,
        epoch: Epoch,
        from: usize,
        transcript: Vec<TokenId>,
    ) -> Option<(ClaimReply, Option<MovedTo>)> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Claim {
            epoch,
            from,
            transcript,
            reply,
        };
        self.0.commands.send(command).await.ok()?;
        answer.await.ok()
    }

    /// A reader has gone of its own will.
    async fn reader_left(&self) {
        // A keeper that is gone needs no word.
        let _ = self.0.commands.send(Command::ReaderLeft).await;
    }

    /// Reads on, and follows the session.
    pub(crate) fn read(&self, from: usize) -> Reader {
        self.0.log.reader(from, ReaderKind::Following)
    }

    /// As a plan needs it.
    fn leaving(&self) -> LeavingSession {
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (private_len, cloud_len) = self.0.prompt_lens;
        LeavingSession {
            context_len: small(private_len + self.0.log.len()),
            past_len: small(cloud_len),
            leaves_in: Duration::ZERO,
            decode_tokens_per_s: 0.0,
        }
    }

    fn epoch(&self) -> Epoch {
        match self.0.log.standing() {
            Standing::Here(epoch) => epoch,
            Standing::Moved(moved) => moved.epoch,
            Standing::Broken => Epoch::FIRST,
        }
    }
}

impl Handle {
    fn listed(&self, key: SessionKey) -> Listed {
        let (state, target) = match self.log.standing() {
            Standing::Broken => ("broken", None),
            _ if self.log.has_ended() => ("ended", None),
            Standing::Here(_) => ("here", None),
            Standing::Moved(moved) => ("moved", Some(moved.addr)),
        };
        Listed {
            key,
            token_count: self.log.len(),
            state,
            target,
        }
    }
}

/// A token of which only the number is known.
fn without_probability(token: TokenId) -> edgeprompt_protocol::AnswerToken {
    edgeprompt_protocol::AnswerToken {
        token,
        logprob: 0.0,
        top: Vec::new(),
    }
}
