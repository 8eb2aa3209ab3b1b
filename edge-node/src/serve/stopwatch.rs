//! When the tokens of one answer came, for its client and for the metrics.

use std::time::{Duration, Instant};

use edgeprompt_kv::KvDtype;
use edgeprompt_telemetry::names;

use crate::kv_origin::KvOrigin;
use crate::serve::answering::FinishReason;
use crate::serve::foretold::Foretold;
use crate::serve::timelines::KvTimes;

/// Tokens of a prompt by where their keys and values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PromptLens {
    /// Of the cloud prompt, shared with others.
    pub(crate) cloud: usize,
    /// Private: computed for this session alone.
    pub(crate) private: usize,
    /// Of the private ones, those that an earlier request of the session left.
    pub(crate) shared: usize,
}

impl PromptLens {
    /// Those that were there.
    pub(crate) const fn cached(self) -> usize {
        self.cloud + self.shared
    }

    /// Those that this request computes.
    pub(crate) const fn computed(self) -> usize {
        self.private.saturating_sub(self.shared)
    }
}

/// Running.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    prompt: PromptLens,
    asked_at: Instant,
    first_at: Option<Instant>,
    /// When the last token of the answer came, or the first if none was of it.
    last_at: Instant,
    /// When the last token came, of the answer or not.
    ended_at: Instant,
    token_count: usize,
    foretold: Option<Foretold>,
    /// From asking to the first token, as it was foretold.
    first_predicted: Option<Duration>,
}

/// Where a cloud prompt's keys and values came from, and in which number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvCame {
    pub(crate) origin: KvOrigin,
    pub(crate) codec: KvDtype,
}

/// Stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) prompt: PromptLens,
    /// From asking to the first token.
    pub(crate) until_first: Duration,
    /// How long that should have taken; `None` if nothing was known.
    pub(crate) first_predicted: Option<Duration>,
    /// From the first token to the last of the answer.
    pub(crate) after_first: Duration,
    /// Tokens of the answer, an end token not among them.
    pub(crate) token_count: usize,
    /// Where the cloud prompt's keys and values came from, if there was one.
    pub(crate) kv_came: Option<KvCame>,
    /// What the first token waited for, if there was one.
    pub(crate) kv_times: Option<KvTimes>,
}

impl Stopwatch {
    /// Starts for an answer that was asked for at `asked_at`.
    pub(crate) const fn start(prompt: PromptLens, asked_at: Instant) -> Self {
        Self {
            prompt,
            asked_at,
            first_at: None,
            last_at: asked_at,
            ended_at: asked_at,
            token_count: 0,
            foretold: None,
            first_predicted: None,
        }
    }

    /// The same, with what is known of its first token.
    pub(crate) fn foretelling(self, foretold: Option<Foretold>) -> Self {
        Self { foretold, ..self }
    }

    /// So many private tokens were there.
    pub(crate) const fn share(&mut self, token_count: usize) {
        self.prompt.shared = token_count;
    }

    /// A token of the answer has come.
    pub(crate) fn token(&mut self) {
        let now = Instant::now();
        self.token_count += 1;
        if !self.is_first(now) {
            metrics::histogram!(names::EDGE_INTER_TOKEN_LATENCY_SECONDS).record(now - self.last_at);
        }
        self.last_at = now;
    }

    /// A token has come that is not part of the answer: no gap that anybody sees.
    pub(crate) fn end_token(&mut self) {
        let now = Instant::now();
        if self.is_first(now) {
            self.last_at = now;
        }
    }

    /// Notes a token, and whether it is the first.
    fn is_first(&mut self, now: Instant) -> bool {
        self.ended_at = now;
        let is_first = self.first_at.is_none();
        if is_first {
            self.first_at = Some(now);
            let actual = now - self.asked_at;
            metrics::histogram!(names::EDGE_TIME_TO_FIRST_TOKEN_SECONDS).record(actual);
            let computed = self.prompt.computed();
            let foretold = self.foretold.take();
            self.first_predicted = foretold.map(|foretold| foretold.came(computed, actual));
        }
        is_first
    }

    /// The answer has ended; its cloud prompt came so, at such times.
    pub(crate) fn stop(
        self,
        reason: FinishReason,
        (kv_came, kv_times): (Option<KvCame>, Option<KvTimes>),
    ) -> Times {
        let first_at = self.first_at.unwrap_or(self.last_at);
        let prompt = self.prompt;
        metrics::histogram!(names::EDGE_E2E_REQUEST_LATENCY_SECONDS)
            .record(self.ended_at - self.asked_at);
        metrics::counter!(names::EDGE_PROMPT_TOKENS_TOTAL)
            .increment((prompt.cloud + prompt.private) as u64);
        metrics::counter!(names::EDGE_PROMPT_TOKENS_CACHED_TOTAL).increment(prompt.cached() as u64);
        metrics::counter!(names::EDGE_GENERATION_TOKENS_TOTAL).increment(self.token_count as u64);
        metrics::counter!(names::EDGE_REQUEST_SUCCESS_TOTAL, names::FINISHED_REASON => reason.label())
            .increment(1);
        if let Some(KvCame { origin, .. }) = kv_came {
            let label = origin.label();
            metrics::counter!(names::EDGE_KV_SOURCE_ANSWERS_TOTAL, names::SOURCE => label)
                .increment(1);
        }
        Times {
            prompt: self.prompt,
            until_first: first_at - self.asked_at,
            first_predicted: self.first_predicted,
            after_first: self.last_at - first_at,
            token_count: self.token_count,
            kv_came,
            kv_times,
        }
    }
}
