//! One session as its user reads it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgeprompt_handover::session::{Claim, ClaimReply, Epoch, Patience, Ue, UeAction, UeFailure};
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::sleep_until;

use crate::access::Access;
use crate::edge_url::{EdgeUrl, Scheme};
use crate::event::{Event, FinishReason, Lost, Moved, Piece};
use crate::http::{self, HttpError};
use crate::line::{Line, Progress};
use crate::named::{Named, SessionId};
use crate::question::Question;
use crate::said::Said;

/// Longest answer. A request that brings so many tokens still fits into the body that a server reads.
const TOKENS_MAX: usize = 1 << 18;

/// Longest text: more than so many tokens can have.
const TEXT_BYTES_MAX: usize = 64 << 20;

/// Most nodes that a session gets to know: one that keeps naming new ones is not followed.
const NODES_MAX: usize = 1024;

/// Most moves in a row that bring no token.
const REDIRECTS_MAX: usize = 32;

/// How often every known node is asked before a session counts as lost, also where nodes agree to go on
/// and then say nothing.
const ROUNDS_MAX: usize = 3;

/// Before a node is asked once more that has just not answered.
const PAUSE: Duration = Duration::from_millis(250);

/// Longer than a node is quiet: it says every 15 seconds that it lives. TCP repeats what is lost, so
/// nothing is asked twice before.
const PATIENCE: Patience = Patience {
    repeat: Duration::from_secs(20),
    answer: Duration::from_secs(20),
    orphan: Duration::from_secs(20),
};

/// What a node says that may do later what it cannot now: another one is asked.
const BUSY: [u16; 4] = [408, 429, 502, 503];

/// A session has not begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// No node was named.
    #[error("no edge node was named")]
    NoUrl,
    /// No node answers, or the one that does says no.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The node answers, but its sessions do not move.
    #[error("{0} moves no sessions: edge-node serve --handover-listen ADDR")]
    NoSessions(EdgeUrl),
}

struct Node {
    url: EdgeUrl,
    /// What it calls the model, if not as the question does.
    model: Option<String>,
}

/// One session. Deliberately not `Debug`: it has the prompt and the answer.
///
/// Nothing happens in the background: whoever does not ask for the next event holds up the node, which
/// keeps the tokens meanwhile, and ends the session after two minutes.
pub struct Session {
    question: Question,
    access: Access,
    id: SessionId,
    ticket: String,
    /// What it builds on: another node may have another prompt of that name.
    cloud_prompt_id: Option<String>,
    /// Those known; their places are their names to `ue`.
    nodes: Vec<Node>,
    ue: Ue<usize>,
    line: Line,
    /// Who is read, and under which right.
    at: (usize, Epoch),
    answer: Piece,
    /// Text that no token came with yet.
    held: String,
    last_at: Instant,
    /// Since the last token.
    quiet: Quiet,
    cause: Option<HttpError>,
    finish: Option<FinishReason>,
    events: VecDeque<Event>,
    is_over: bool,
    began_at: Instant,
}

/// What has been tried since the last token.
#[derive(Default)]
struct Quiet {
    claims: usize,
    redirects: usize,
}

impl Session {
    /// Asks the first of these nodes that can be reached; the others are known from then on.
    ///
    /// # Errors
    /// [`BeginError`].
    pub async fn begin(
        mut question: Question,
        urls: &[EdgeUrl],
        access: Access,
    ) -> Result<Self, BeginError> {
        let mut unreachable = None;
        for (index, url) in urls.iter().enumerate() {
            let body = Value::Object(question.fields.clone()).to_string().into();
            let asked = (Method::POST, question.endpoint.path());
            let reply = match http::send(url, &access, asked, body).await {
                Ok(reply) => reply,
                Err(refused @ HttpError::Refused { status, .. }) if !BUSY.contains(&status) => {
                    return Err(refused.into());
                }
                Err(error) => {
                    unreachable = Some(error);
                    continue;
                }
            };
            let named = Named::of(&reply.headers);
            let named = named.ok_or_else(|| BeginError::NoSessions(url.clone()))?;
            named.complete(&mut question);
            let Named {
                id,
                ticket,
                cloud_prompt_id,
                ..
            } = named;
            let (now, model) = (Instant::now(), None);
            let mut session = Self {
                question,
                access,
                id,
                ticket,
                cloud_prompt_id,
                nodes: vec![Node {
                    url: url.clone(),
                    model,
                }],
                ue: Ue::new(Duration::ZERO, 0, PATIENCE),
                line: Line::of(reply),
                at: (0, Epoch::FIRST),
                answer: Piece {
                    text: String::new(),
                    token_ids: Vec::new(),
                },
                held: String::new(),
                last_at: now,
                quiet: Quiet::default(),
                cause: None,
                finish: None,
                events: VecDeque::new(),
                is_over: false,
                began_at: now,
            };
            let others = urls[index + 1..].iter().chain(&urls[..index]);
            others.for_each(|url| session.know(url));
            return Ok(session);
        }
        Err(unreachable.map_or(BeginError::NoUrl, BeginError::Http))
    }

    /// The session's name, by which its nodes list and move it.
    pub const fn id(&self) -> &SessionId {
        &self.id
    }

    /// The node that is read, or asked.
    pub fn at(&self) -> &EdgeUrl {
        &self.nodes[self.at.0].url
    }

    /// The nodes that it knows, those that it was not at among them.
    pub fn known(&self) -> impl Iterator<Item = &EdgeUrl> {
        self.nodes.iter().map(|node| &node.url)
    }

    /// One more node that may go on with the session if all else fails. It must run the same model.
    pub fn know(&mut self, url: &EdgeUrl) {
        if let Some(index) = self.index(url) {
            self.ue.know(index);
        }
    }

    /// As [`Session::know`], of a node that calls the model otherwise than the question does.
    pub fn know_serving(&mut self, url: &EdgeUrl, model: &str) {
        if let Some(index) = self.index(url) {
            self.nodes[index].model = Some(model.to_owned());
            self.ue.know(index);
        }
    }

    fn index(&mut self, url: &EdgeUrl) -> Option<usize> {
        let known = self.nodes.iter().position(|node| node.url == *url);
        if known.is_none() && self.nodes.len() < NODES_MAX {
            let (url, model) = (url.clone(), None);
            self.nodes.push(Node { url, model });
            return Some(self.nodes.len() - 1);
        }
        known
    }

    /// What comes next; `None` after [`Event::Ended`] or [`Event::Failed`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            while !self.is_over
                && let Some(action) = self.ue.poll_action()
            {
                self.act(action);
            }
            if self.is_over {
                self.line = Line::Idle;
                if self.events.is_empty() {
                    return None;
                }
                continue;
            }
            self.step().await;
        }
    }

    async fn step(&mut self) {
        let due = self.ue.poll_timeout().unwrap_or(PATIENCE.answer);
        tokio::select! {
            // What has come counts, however late it is asked for.
            biased;
            progress = self.line.progress() => match progress {
                Progress::Opened => {
                    let (node, epoch) = self.at;
                    let now = self.began_at.elapsed();
                    self.ue.handle_claim_reply(now, node, (ClaimReply::Granted(epoch), None));
                }
                Progress::Said(all) => for said in all {
                    self.hear(said);
                    if self.is_over || self.line.is_idle() {
                        break;
                    }
                },
                Progress::Closed(_) if self.finish.is_some() => self.end(),
                Progress::Closed(error) => self.lose(Some(error)),
            },
            () = sleep_until((self.began_at + due).into()) => {
                self.ue.handle_timeout(self.began_at.elapsed());
            }
        }
    }

    fn act(&mut self, action: UeAction<usize>) {
        match action {
            UeAction::Claim {
                node, claim, epoch, ..
            } => {
                let redirects = self.quiet.redirects.min(REDIRECTS_MAX);
                let asked_max = ROUNDS_MAX * self.nodes.len() + redirects;
                if self.quiet.claims >= asked_max {
                    return self.fail(self.failure());
                }
                // Everybody was asked, and nobody had anything.
                let pause = match self.quiet.claims >= self.nodes.len() {
                    true => PAUSE,
                    false => Duration::ZERO,
                };
                self.quiet.claims += 1;
                self.forget_unfinished();
                self.at = (node, epoch);
                let (url, access) = (self.nodes[node].url.clone(), self.access.clone());
                let (path, body) = (
                    format!("/v1/sessions/{}/read", self.id),
                    self.claim(node, (claim, epoch)),
                );
                self.line = Line::Opening(Box::pin(async move {
                    tokio::time::sleep(pause).await;
                    http::send(&url, &access, (Method::POST, &path), body).await
                }));
            }
            UeAction::Fail(failure) => self.fail(failure),
        }
    }

    fn claim(&self, node: usize, (claim, epoch): (Claim, Epoch)) -> Bytes {
        let mut request = self.question.fields.clone();
        if let Some(model) = &self.nodes[node].model {
            request.insert("model".to_owned(), model.as_str().into());
        }
        let claim = match claim {
            Claim::Attach => "attach",
            Claim::Take => "take",
        };
        let mut body = json!({
            "ticket": self.ticket,
            "epoch": [epoch.claim, epoch.hop],
            "claim": claim,
            "token_ids": self.answer.token_ids,
            "endpoint": self.question.endpoint.path(),
            "request": request,
        });
        if let Some(id) = &self.cloud_prompt_id {
            body["cloud_prompt_id"] = id.as_str().into();
        }
        body.to_string().into()
    }

    fn hear(&mut self, said: Said) {
        let (node, epoch) = self.at;
        self.ue.handle_alive(self.began_at.elapsed(), node, epoch);
        match said {
            Said::Alive => {}
            Said::Piece(piece) => self.read(piece),
            Said::Last(piece, reason) => {
                self.read(piece);
                self.finish = Some(reason);
            }
            Said::Moved { url, epoch } => self.follow(url, epoch),
            Said::Failed => self.lose(None),
            Said::Done if self.finish.is_some() => self.end(),
            Said::Done => self.lose(None),
        }
    }

    fn read(&mut self, piece: Piece) {
        let Piece { text, token_ids } = piece;
        self.held += &text;
        if self.answer.text.len() + self.held.len() > TEXT_BYTES_MAX
            || self.answer.token_ids.len() + token_ids.len() > TOKENS_MAX
        {
            return self.fail(self.failure());
        }
        // Said again by whoever goes on, if it is lost now.
        if token_ids.is_empty() {
            return;
        }
        let (node, epoch) = self.at;
        let now = self.began_at.elapsed();
        for _ in &token_ids {
            self.ue.handle_token(now, node, epoch, self.ue.next());
        }
        self.tell_move();
        self.last_at = Instant::now();
        self.cause = None;
        let text = std::mem::take(&mut self.held);
        self.answer.text += &text;
        self.answer.token_ids.extend(&token_ids);
        self.events
            .push_back(Event::Text(Piece { text, token_ids }));
    }

    /// Whoever goes on is told with its first token.
    fn tell_move(&mut self) {
        let quiet = std::mem::take(&mut self.quiet);
        if quiet.claims > 0 {
            self.events.push_back(Event::Moved(Moved {
                url: self.at().clone(),
                gap: self.last_at.elapsed(),
            }));
        }
    }

    fn follow(&mut self, url: Option<EdgeUrl>, epoch: Epoch) {
        self.quiet.redirects += 1;
        let (node, _) = self.at;
        let is_safe = |url: &EdgeUrl| {
            url.scheme() == Scheme::Https || self.nodes[0].url.scheme() == Scheme::Http
        };
        let url = url
            .filter(is_safe)
            .filter(|_| self.quiet.redirects <= REDIRECTS_MAX);
        let to = url.and_then(|url| self.index(&url));
        match to {
            Some(to) if epoch > self.ue.epoch() => {
                self.line = Line::Idle;
                self.ue
                    .handle_redirect(self.began_at.elapsed(), node, epoch, to);
            }
            _ => {
                let url = self.at().clone();
                self.lose(Some(HttpError::NotFollowed { url }));
            }
        }
    }

    /// The node that was read, or asked, is of no use.
    fn lose(&mut self, cause: Option<HttpError>) {
        self.line = Line::Idle;
        let is_complete = |len: usize| self.answer.token_ids.len() >= len;
        if self.question.tokens_max().is_some_and(is_complete) {
            // Only the word that it ends is missing.
            self.finish = Some(FinishReason::Length);
            return self.end();
        }
        self.forget_unfinished();
        let url = self.at().clone();
        self.cause = cause.or(Some(HttpError::Ended { url }));
        self.ue.handle_lost(self.began_at.elapsed(), self.at.0);
    }

    /// What whoever goes on says again.
    fn forget_unfinished(&mut self) {
        self.held.clear();
        self.finish = None;
    }

    fn end(&mut self) {
        let Some(reason) = self.finish else {
            return;
        };
        self.is_over = true;
        self.tell_move();
        let text = std::mem::take(&mut self.held);
        if !text.is_empty() {
            self.answer.text += &text;
            let token_ids = Vec::new();
            self.events
                .push_back(Event::Text(Piece { text, token_ids }));
        }
        self.events.push_back(Event::Ended(reason));
    }

    fn failure(&self) -> UeFailure {
        UeFailure {
            node_count: self.nodes.len(),
            token_count: self.answer.token_ids.len(),
        }
    }

    fn fail(&mut self, failure: UeFailure) {
        self.is_over = true;
        let answer = &mut self.answer;
        self.events.push_back(Event::Failed(Box::new(Lost {
            failure,
            cause: self.cause.take(),
            text: std::mem::take(&mut answer.text),
            token_ids: std::mem::take(&mut answer.token_ids),
        })));
    }
}
