//! What a run measures: its arguments, and the requests that they come to. Pure.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use edgeprompt_launch::ModelArgs;
use serde::Serialize;

use super::lens::Lens;
use super::messages::{Mode, Request};
use crate::arrivals::{Burstiness, RequestRate, arrivals};
use crate::pipeline::messages::TokensSpec;
use crate::result_dir::ResultDirArgs;

/// Arguments of `benchmarks sharegpt`.
#[derive(Args, Clone, Debug)]
pub(crate) struct ShareGptArgs {
    /// Conversations whose answers' lengths are taken (ShareGPT_V3_unfiltered_cleaned_split.json)
    /// [default: lengths distributed as theirs]
    #[arg(long, value_name = "FILE")]
    pub(crate) dataset_path: Option<PathBuf>,
    /// Length of every answer in tokens, instead of the conversations'
    #[arg(long, value_name = "TOKENS")]
    pub(crate) sharegpt_output_len: Option<NonZeroUsize>,
    /// Who takes part
    #[arg(long, value_enum, value_delimiter = ',',
        default_values_t = [Mode::Paged, Mode::PagedPc, Mode::Relay, Mode::Edgeprompt, Mode::Concat])]
    pub(crate) modes: Vec<Mode>,
    /// Requests in all
    #[arg(long, value_name = "N", default_value = "1000")]
    pub(crate) num_prompts: NonZeroUsize,
    /// Groups that they come in
    #[arg(long, value_name = "N", default_value = "100")]
    pub(crate) num_groups: NonZeroUsize,
    /// Lengths of the cloud prompt in tokens; with rates, the first counts
    #[arg(
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "64,128,256,512,1024,2048"
    )]
    pub(crate) cloud_lens: Vec<NonZeroUsize>,
    /// Length of each private prompt in tokens
    #[arg(long, value_name = "TOKENS", default_value = "512")]
    pub(crate) edge_len: NonZeroUsize,
    /// Requests a second, for requests that come as they please instead of in groups
    #[arg(long, value_name = "PER SECOND", value_delimiter = ',')]
    pub(crate) request_rates: Vec<f64>,
    /// Sequences at a time [default: a group's]
    #[arg(long, value_name = "N")]
    pub(crate) max_num_seqs: Option<NonZeroUsize>,
    /// Tokens of one step
    #[arg(long, value_name = "TOKENS", default_value = "512")]
    pub(crate) max_num_batched_tokens: NonZeroUsize,
    /// Threads that compute on the edge
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) edge_threads: u32,
    /// Threads that compute on the cloud
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) cloud_threads: u32,
    /// The link: lan, wifi, 5g, lte, 6g, or a file of lines of seconds and Mbit/s
    #[arg(long, value_name = "PROFILE", default_value = "lan")]
    pub(crate) link_profile: String,
    /// Seed of prompts, lengths, arrivals and the link's chances
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// A quick look: this share of the requests, of the private prompts' and of the answers' lengths
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    pub(crate) scale: f64,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) result_dir: ResultDirArgs,
}

/// Shortest private prompt and answer that a scale leaves.
const LEN_MIN: usize = 8;

/// Ordinals of private prompts; cloud prompts have those before.
const PRIVATE_ORDINALS: u64 = 1 << 32;

/// What a run measures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) modes: Vec<Mode>,
    pub(crate) num_prompts: usize,
    pub(crate) group_len: usize,
    pub(crate) cloud_lens: Vec<usize>,
    pub(crate) edge_len: usize,
    pub(crate) request_rates: Vec<f64>,
    pub(crate) max_num_seqs: usize,
    pub(crate) max_num_batched_tokens: usize,
    pub(crate) edge_threads: u32,
    pub(crate) cloud_threads: u32,
    pub(crate) link_profile: String,
    pub(crate) seed: u64,
    pub(crate) scale: f64,
}

impl Plan {
    /// What the arguments come to.
    ///
    /// # Errors
    /// For a scale or a rate that is out of range.
    pub(crate) fn of(args: &ShareGptArgs) -> Result<Self> {
        ensure!(
            args.scale > 0.0 && args.scale <= 1.0,
            "--scale is above 0 and at most 1"
        );
        ensure!(
            args.request_rates
                .iter()
                .all(|it| it.is_finite() && *it > 0.0),
            "--request-rates are above 0"
        );
        let group_len = args.num_prompts.get().div_ceil(args.num_groups.get());
        let num_prompts = scaled(args.num_prompts.get(), args.scale, group_len);
        Ok(Self {
            modes: args.modes.clone(),
            num_prompts: num_prompts.next_multiple_of(group_len),
            group_len,
            cloud_lens: args.cloud_lens.iter().map(|len| len.get()).collect(),
            edge_len: scaled(args.edge_len.get(), args.scale, LEN_MIN),
            request_rates: args.request_rates.clone(),
            max_num_seqs: args.max_num_seqs.map_or(group_len, NonZeroUsize::get),
            max_num_batched_tokens: args.max_num_batched_tokens.get(),
            edge_threads: args.edge_threads,
            cloud_threads: args.cloud_threads,
            link_profile: args.link_profile.clone(),
            seed: args.seed,
            scale: args.scale,
        })
    }

    /// A length of an answer, scaled.
    pub(crate) fn output_len(&self, len: usize) -> usize {
        scaled(len, self.scale, LEN_MIN.min(len))
    }

    pub(crate) const fn group_count(&self) -> usize {
        self.num_prompts / self.group_len
    }

    /// The requests of a group: the same in every mode.
    pub(crate) fn group(&self, lens: &Lens, group: usize) -> Vec<Request> {
        let indices = group * self.group_len..(group + 1) * self.group_len;
        indices
            .map(|index| self.request(lens, index, 0.0))
            .collect()
    }

    /// All requests, as they come at a rate: the same in every mode.
    pub(crate) fn arriving(&self, lens: &Lens, rate: f64) -> Vec<Request> {
        let rate = RequestRate::PerSecond(rate);
        let arrivals = arrivals(self.num_prompts, rate, Burstiness::Gamma(1.0), self.seed);
        let requests = arrivals.iter().enumerate();
        requests
            .map(|(index, at)| self.request(lens, index, at.as_secs_f64()))
            .collect()
    }

    pub(crate) fn request(&self, lens: &Lens, index: usize, arrival_s: f64) -> Request {
        Request {
            private: self.tokens(PRIVATE_ORDINALS + index as u64, self.edge_len),
            output_len: lens.of_answers[index],
            arrival_s,
        }
    }

    pub(crate) const fn tokens(&self, ordinal: u64, len: usize) -> TokensSpec {
        TokensSpec {
            seed: self.seed,
            ordinal,
            len,
        }
    }

    /// What is measured, and what was scaled.
    pub(crate) fn in_words(&self, lens: &Lens) -> String {
        let scaled = match self.scale < 1.0 {
            true => format!(
                "; scaled by {}: requests, private prompts and answers",
                self.scale
            ),
            false => String::new(),
        };
        format!(
            "{} requests, {} at a time, private prompts of {} tokens, answers of {:.0} on average \
             ({}), link {}, threads: cloud {}, edge {}{scaled}\n",
            self.num_prompts,
            self.max_num_seqs,
            self.edge_len,
            lens.mean(),
            lens.origin,
            self.link_profile,
            self.cloud_threads,
            self.edge_threads,
        )
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "at most the whole"
)]
fn scaled(whole: usize, scale: f64, least: usize) -> usize {
    ((whole as f64 * scale).round() as usize).max(least)
}
