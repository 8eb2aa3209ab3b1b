//! What was measured of one mode at one point.

use serde::Serialize;

use super::messages::{Answered, Mode};
use crate::distribution::Distribution;
use crate::pipeline::messages::TokensSpec;

/// One mode at one length of the cloud prompt or at one rate.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Series {
    pub(super) mode: Mode,
    pub(super) cloud_len: usize,
    /// Which cloud prompt.
    pub(super) cloud_ordinal: u64,
    /// If requests come as they please.
    pub(super) request_rate: Option<f64>,
    /// What the edge took for the cloud prompt before the first request.
    pub(super) fill_s: f64,
    pub(super) groups: Vec<GroupOutcome>,
}

/// One group of requests.
#[derive(Clone, Debug, Serialize)]
pub(super) struct GroupOutcome {
    pub(super) seconds: f64,
    pub(super) output_tokens: usize,
    pub(super) kv_bytes_wire: u64,
    pub(super) ttft_s: Vec<f64>,
    pub(super) e2e_s: Vec<f64>,
    pub(super) output_lens: Vec<usize>,
    /// Of each answer.
    pub(super) digests: Vec<String>,
}

impl GroupOutcome {
    pub(super) fn of(answered: Answered) -> Self {
        let requests = &answered.requests;
        Self {
            seconds: answered.seconds,
            output_tokens: requests.iter().map(|it| it.output_len).sum(),
            kv_bytes_wire: answered.received_bytes,
            ttft_s: requests.iter().map(|it| it.ttft_s).collect(),
            e2e_s: requests.iter().map(|it| it.e2e_s).collect(),
            output_lens: requests.iter().map(|it| it.output_len).collect(),
            digests: requests.iter().map(|it| it.digest.clone()).collect(),
        }
    }

    /// Tokens of answers a second.
    #[expect(clippy::cast_precision_loss, reason = "a count of tokens")]
    pub(super) fn output_throughput(&self) -> f64 {
        self.output_tokens as f64 / self.seconds
    }
}

/// Whether what a mode took for the cloud prompt beforehand is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    Counted,
    LeftOut,
}

impl Series {
    pub(super) const fn new(mode: Mode, cloud: TokensSpec, fill_s: f64) -> Self {
        Self {
            mode,
            cloud_len: cloud.len,
            cloud_ordinal: cloud.ordinal,
            request_rate: None,
            fill_s,
            groups: Vec::new(),
        }
    }

    /// Tokens of answers a second, over all groups.
    #[expect(clippy::cast_precision_loss, reason = "a count of tokens")]
    pub(super) fn output_throughput(&self, fill: Fill) -> f64 {
        let tokens: usize = self.groups.iter().map(|group| group.output_tokens).sum();
        let fill_s = match fill {
            Fill::Counted => self.fill_s,
            Fill::LeftOut => 0.0,
        };
        tokens as f64 / (self.groups.iter().map(|it| it.seconds).sum::<f64>() + fill_s)
    }

    /// Requests a second, over all groups.
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    pub(super) fn request_throughput(&self) -> f64 {
        self.request_count() as f64 / self.groups.iter().map(|it| it.seconds).sum::<f64>()
    }

    /// The same, without the time in which nothing more comes and the last answer is under way: of each group as
    /// long as its shortest.
    #[expect(clippy::cast_precision_loss, reason = "a count of requests")]
    pub(super) fn request_throughput_without_the_last(&self) -> f64 {
        let seconds = self.groups.iter().map(|group| {
            let shortest = group.e2e_s.iter().copied().fold(f64::INFINITY, f64::min);
            (group.seconds - shortest).max(f64::MIN_POSITIVE)
        });
        self.request_count() as f64 / seconds.sum::<f64>()
    }

    /// One of several rounds by itself.
    pub(super) fn round(&self, index: usize) -> Self {
        Self {
            groups: vec![self.groups[index].clone()],
            ..self.clone()
        }
    }

    /// Requests that were answered.
    pub(super) fn request_count(&self) -> usize {
        self.groups.iter().map(|group| group.ttft_s.len()).sum()
    }

    /// Times to the first token, in milliseconds. The edge's own work on the cloud prompt before the
    /// first request is not in them.
    pub(super) fn ttft_ms(&self) -> Distribution {
        let all = self.groups.iter().flat_map(|group| &group.ttft_s);
        Distribution::of(all.map(|it| it * 1e3))
    }

    /// Seconds from arrival to end for each token of an answer: the paper's s/token (Fig. 5).
    #[expect(clippy::cast_precision_loss, reason = "a count of tokens")]
    pub(super) fn seconds_per_token(&self) -> Distribution {
        let all = self.groups.iter().flat_map(|group| {
            let pairs = group.e2e_s.iter().zip(&group.output_lens);
            pairs.map(|(seconds, len)| seconds / *len as f64)
        });
        Distribution::of(all)
    }

    /// Answers that are the same as another mode's.
    pub(super) fn same_answers(&self, other: &Self) -> usize {
        let digests = |series: &Self| -> Vec<String> {
            let groups = series.groups.iter();
            groups.flat_map(|group| group.digests.clone()).collect()
        };
        let (ours, theirs) = (digests(self), digests(other));
        ours.iter().zip(&theirs).filter(|(a, b)| a == b).count()
    }
}
