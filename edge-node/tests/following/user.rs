//! A user who reads, and sometimes leaves.

use std::time::Duration;

use edgeprompt_ue_client::{Access, Edge, Event, FinishReason, HttpError, Lost, Moved, Session};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::world::World;

/// Longest wait for one event: longer than a client takes to give a silent node up.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct User {
    pub(crate) session: Session,
    runtime: Handle,
    /// Each edge, and where sessions are brought to it.
    edges: Vec<(Edge, String)>,
    token_count: usize,
    pub(crate) text: String,
    pub(crate) moves: Vec<Moved>,
    pub(crate) end: Option<FinishReason>,
    pub(crate) lost: Option<Box<Lost>>,
}

impl User {
    pub(crate) fn new(session: Session, world: &World) -> Self {
        let edge = |index| Edge::new(world.url(index), Access::default());
        let edges = (0..world.count()).map(|index| (edge(index), world.target(index)));
        Self {
            session,
            runtime: world.runtime.handle().clone(),
            edges: edges.collect(),
            token_count: 0,
            text: String::new(),
            moves: Vec::new(),
            end: None,
            lost: None,
        }
    }

    /// The next event, which is remembered.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let session = &mut self.session;
        let next = self
            .runtime
            .block_on(async { timeout(PATIENCE, session.next()).await });
        let event = next.expect("a session that nobody serves fails sooner")?;
        match event {
            Event::Text(piece) => {
                self.token_count += piece.token_ids.len();
                self.text += &piece.text;
                Some(Event::Text(piece))
            }
            Event::Moved(moved) => {
                self.moves.push(moved.clone());
                Some(Event::Moved(moved))
            }
            Event::Ended(reason) => {
                self.end = Some(reason);
                Some(Event::Ended(reason))
            }
            Event::Failed(lost) => {
                self.lost = Some(lost);
                None
            }
        }
    }

    /// Reads so many tokens, or what there is.
    pub(crate) fn read_more(&mut self, count: usize) {
        let until = self.token_count + count;
        while self.token_count < until && self.next().is_some() {}
    }

    /// Reads the first words that another node says, or what there is.
    pub(crate) fn read_until_moved(&mut self) {
        let before = self.moves.len();
        while self.moves.len() == before && self.next().is_some() {}
    }

    pub(crate) fn read_to_the_end(&mut self) {
        while self.next().is_some() {}
    }

    /// Moves the session; `None` if it has ended before.
    pub(crate) fn hand_over(&self, from: usize, to: usize) -> Option<()> {
        let id = self.session.id().to_string();
        let moving = self.edges[from].0.hand_over(&id, &self.edges[to].1);
        match self.runtime.block_on(moving) {
            Ok(moved) => {
                assert_eq!(moved.target, self.edges[to].1);
                Some(())
            }
            Err(HttpError::Refused { code, .. }) if code == "session_ended" => None,
            Err(error) => panic!("{error}"),
        }
    }
}
