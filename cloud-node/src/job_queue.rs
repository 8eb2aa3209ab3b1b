//! The prompts that wait for the computing thread, and the one it computes: who may add one, which
//! is next. It has no thread, no clock and no lock of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use edgeprompt_kv::PromptId;

use crate::served_prompt::{Job, ServedPrompt};

/// Prompts that may wait for the computing thread: at a few seconds each, the last would wait for
/// minutes, which is longer than an edge does.
pub const JOBS_WAITING_MAX: u32 = 64;

/// Prompts of one edge that may wait, so that eight edges have to be busy before any is refused
/// because of others.
pub const JOBS_WAITING_PER_EDGE_MAX: u32 = 8;

const _: () = assert!(JOBS_WAITING_PER_EDGE_MAX < JOBS_WAITING_MAX);

/// Why no more prompts are taken in for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// Too many wait.
    #[error("{JOBS_WAITING_MAX} prompts wait to be computed already")]
    Cloud,
    /// Too many of this edge wait.
    #[error("{JOBS_WAITING_PER_EDGE_MAX} prompts of this edge wait to be computed already")]
    Edge,
}

impl Busy {
    /// How many may wait.
    pub const fn limit(self) -> u32 {
        match self {
            Self::Cloud => JOBS_WAITING_MAX,
            Self::Edge => JOBS_WAITING_PER_EDGE_MAX,
        }
    }
}

/// Who asks for prompts, as far as sharing the computing thread goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeName(Arc<str>);

impl From<&str> for EdgeName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

/// First come, first served; each prompt at most once.
#[derive(Debug, Default)]
pub(crate) struct JobQueue {
    waiting: VecDeque<Job>,
    computing: Option<Job>,
}

impl JobQueue {
    /// A prompt that waits or is being computed, for one more who waits for it.
    pub(crate) fn find(&self, id: &PromptId) -> Option<ServedPrompt> {
        let mut jobs = self.computing.iter().chain(&self.waiting);
        jobs.find(|job| job.kv.id == *id).map(Job::watch)
    }

    /// Lets a job wait that [`JobQueue::find`] does not know.
    pub(crate) fn push(&mut self, job: Job) -> Result<ServedPrompt, Busy> {
        self.waiting.retain(Job::is_watched);
        let of_edge = self.waiting.iter().filter(|other| other.edge == job.edge);
        if of_edge.count() >= JOBS_WAITING_PER_EDGE_MAX as usize {
            return Err(Busy::Edge);
        }
        if self.waiting.len() >= JOBS_WAITING_MAX as usize {
            return Err(Busy::Cloud);
        }
        let served = job.watch();
        self.waiting.push_back(job);
        Ok(served)
    }

    /// Takes the next job that somebody still waits for.
    pub(crate) fn start_next(&mut self) -> Option<Job> {
        self.waiting.retain(Job::is_watched);
        self.computing = self.waiting.pop_front();
        self.computing.clone()
    }

    /// Forgets the job that was started last: it is done, or lost.
    pub(crate) fn end(&mut self) {
        self.computing = None;
    }

    /// Forgets every job that was not started.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// Jobs that wait or are being computed.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.computing.is_some())
    }
}

#[cfg(test)]
mod tests {
    use edgeprompt_kv::{KvDtype, KvGeometry, ModelDigest, PromptKv, SegmentSlots, TokenId};

    use super::*;

    fn job(token: u32, edge: &str) -> Job {
        let tokens: Arc<[TokenId]> = [TokenId(token)].into();
        let kv = PromptKv {
            id: PromptId::of(&ModelDigest::new([0; 32]), &tokens),
            tokens,
            geometry: KvGeometry::new(1, 1, 1).unwrap(),
            dtype: KvDtype::F32,
            layers: SegmentSlots::empty(1),
        };
        Job::new(kv, edge.into())
    }

    fn fill(queue: &mut JobQueue, edge: &str) -> Vec<ServedPrompt> {
        let first = u32::try_from(queue.len()).unwrap();
        let jobs = (first..).map(|token| queue.push(job(token, edge)));
        jobs.map_while(Result::ok).collect()
    }

    #[test]
    fn an_edge_fills_its_share_and_leaves_the_rest_to_others() {
        let mut queue = JobQueue::default();
        let _greedy = fill(&mut queue, "greedy");
        assert_eq!(queue.len(), 8);
        assert_eq!(queue.push(job(100, "greedy")).unwrap_err(), Busy::Edge);
        assert!(queue.push(job(100, "other")).is_ok());
    }

    #[test]
    fn many_edges_fill_the_queue() {
        let mut queue = JobQueue::default();
        let waiting: Vec<_> = (0..9).map(|n| fill(&mut queue, &n.to_string())).collect();
        assert_eq!((queue.len(), waiting[8].len()), (64, 0));
        let busy = queue.push(job(100, "late")).unwrap_err();
        assert_eq!(busy.to_string(), "64 prompts wait to be computed already");
    }

    #[test]
    fn a_job_that_nobody_waits_for_gives_up_its_place() {
        let mut queue = JobQueue::default();
        let mut waiting = fill(&mut queue, "edge");
        waiting.remove(0);
        waiting.push(queue.push(job(100, "edge")).unwrap());
        drop(waiting.drain(..7));
        let next = queue.start_next().unwrap();
        assert_eq!(next.kv.tokens[..], [TokenId(100)]);
        assert_eq!(queue.len(), 1);
        queue.end();
        assert!(queue.start_next().is_none());
    }

    #[test]
    fn one_who_asks_later_keeps_a_job_alive() {
        let mut queue = JobQueue::default();
        let first = queue.push(job(1, "a")).unwrap();
        let second = queue.find(&first.id()).unwrap();
        drop(first);
        assert_eq!(queue.start_next().unwrap().kv.id, second.id());
    }
}
