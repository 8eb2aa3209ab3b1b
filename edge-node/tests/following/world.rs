//! Edges that sessions move between.

use edgeprompt_ue_client::{Access, EdgeUrl, Question, Session};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::LEN;
use crate::edge::{Edge, demo_model};
use crate::support::Cluster;
use crate::user::User;

const DESK: &str = include_str!("../../src/demo/cloud_prompt.txt");

/// How often a scenario is tried: the model is small and the machine may be busy, so an answer may end
/// before it has moved.
const ATTEMPTS_MAX: usize = 60;

/// Tries a scenario until what it is about has happened.
pub(crate) fn attempts<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let done = (0..ATTEMPTS_MAX).find_map(|_| attempt());
    done.unwrap_or_else(|| panic!("{ATTEMPTS_MAX} answers ended before it happened"))
}

pub(crate) struct World {
    cluster: Cluster,
    edges: Vec<Edge>,
    killed: Vec<usize>,
    more: Vec<String>,
    pub(crate) runtime: Runtime,
}

impl World {
    pub(crate) fn start(count: usize) -> Self {
        Self::start_with(count, &[])
    }

    /// As [`World::start`], with more arguments for every edge.
    pub(crate) fn start_with(count: usize, more: &[&str]) -> Self {
        let model = demo_model();
        let cluster = Cluster::start(&["--model", model.to_str().unwrap()], &[("desk", DESK)]);
        (0..count).for_each(|index| cluster.invite(&name(index)));
        let mut world = Self {
            cluster,
            edges: Vec::new(),
            killed: Vec::new(),
            more: more.iter().map(|arg| (*arg).to_owned()).collect(),
            runtime: Runtime::new().unwrap(),
        };
        world.edges = (0..count).map(|index| world.edge(index)).collect();
        world
    }

    fn edge(&self, index: usize) -> Edge {
        let mut args = vec!["--handover-listen", "127.0.0.1:0", "--handover-target", "*"];
        args.extend(["--cloud-prompt", "desk"]);
        args.extend(self.more.iter().map(String::as_str));
        let edge = Edge::start_as(&self.cluster, &name(index), (&name(index), &args));
        edge.wait_until_ready();
        edge
    }

    pub(crate) const fn count(&self) -> usize {
        self.edges.len()
    }

    pub(crate) fn at(&self, index: usize) -> &Edge {
        &self.edges[index]
    }

    pub(crate) fn url(&self, index: usize) -> EdgeUrl {
        format!("http://{}", self.edges[index].addr)
            .parse()
            .unwrap()
    }

    /// Where other edges bring sessions.
    pub(crate) fn target(&self, index: usize) -> String {
        self.edges[index].session_addr.clone().unwrap()
    }

    /// Kills an edge without a word.
    pub(crate) fn kill(&mut self, index: usize) {
        self.edges[index].kill();
        self.killed.push(index);
    }

    /// Starts the edges again that were killed, elsewhere.
    pub(crate) fn start_again(&mut self) {
        for index in std::mem::take(&mut self.killed) {
            self.edges[index] = self.edge(index);
        }
    }

    /// What an edge answers that nobody leaves.
    pub(crate) fn unmoved(&self, path: &str, asked: &Value, more: &Value) -> String {
        let mut body = json!({ "max_tokens": LEN, "ignore_eos": true });
        let fields = body.as_object_mut().unwrap();
        fields.extend(asked.as_object().unwrap().clone());
        fields.extend(more.as_object().unwrap().clone());
        let answer = self.edges[0].post(path, &body).json();
        let choice = &answer["choices"][0];
        let text = choice["text"]
            .as_str()
            .or_else(|| choice["message"]["content"].as_str());
        text.unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// A user who asks the first of these edges and knows the others.
    pub(crate) fn user(&self, question: &Question, known: &[usize]) -> User {
        let urls: Vec<_> = known.iter().map(|index| self.url(*index)).collect();
        let begun = Session::begin(question.clone(), &urls, Access::default());
        let session = self.runtime.block_on(begun).unwrap();
        User::new(session, self)
    }
}

fn name(index: usize) -> String {
    format!("edge-{index}")
}
