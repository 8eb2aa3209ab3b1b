//! What a run measures: its arguments, and the requests that they come to. Pure.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use edgeprompt_launch::ModelArgs;
use edgeprompt_model::ComputeDevice;
use serde::Serialize;

use super::lens::Lens;
use super::messages::{Mode, Request};
use super::outcome::Series;
use crate::arrivals::{Burstiness, RequestRate, arrivals};
use crate::dataset::drawn;
use crate::pipeline::messages::TokensSpec;
use crate::pipeline::plan::CloudStore;
use crate::result_dir::ResultDirArgs;
use crate::scale::Scale;

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
    /// Lengths of the cloud prompt in tokens; with rates, the first counts [default:
    /// 64,128,256,512,1024,2048; with rates one from 512 to 1024, drawn by the seed]
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    pub(crate) cloud_lens: Vec<NonZeroUsize>,
    /// Length of each private prompt in tokens
    #[arg(long, value_name = "TOKENS", default_value = "512")]
    pub(crate) edge_len: NonZeroUsize,
    /// Requests a second, for requests that come as they please instead of in groups
    #[arg(
        long,
        value_name = "PER SECOND",
        value_delimiter = ',',
        allow_hyphen_values = true
    )]
    pub(crate) request_rates: Vec<f64>,
    /// How often all requests come at each rate, the modes in turn
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        requires = "request_rates"
    )]
    pub(crate) rounds: NonZeroUsize,
    /// Double the last rate until less than 80 % of the requests that come are answered in the same time,
    /// in every mode
    #[arg(long, requires = "request_rates")]
    pub(crate) until_saturated: bool,
    /// Sequences at a time [default: a group's; 32 with rates]
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
    /// Part of the time that the edge computes, in percent: a device that is slower than the cloud
    #[arg(long, value_name = "PERCENT", default_value = "100",
        value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) edge_share: u8,
    /// Device that the edge computes on [default: --device]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) edge_device: Option<ComputeDevice>,
    /// Device that the cloud computes on [default: --device]
    #[arg(long, value_name = "DEVICE")]
    pub(crate) cloud_device: Option<ComputeDevice>,
    /// Whether the cloud has computed the prompt before it is asked for, for another edge perhaps
    #[arg(long, value_enum, default_value_t)]
    pub(crate) cloud_store: CloudStore,
    /// The link: lan, wifi, 5g, lte, 6g, or a file of lines of seconds and Mbit/s
    #[arg(long, value_name = "PROFILE", default_value = "lan")]
    pub(crate) link_profile: String,
    /// Seed of prompts, lengths, arrivals and the link's chances
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// A quick look: this share of the requests, of the private prompts' and of the answers' lengths
    #[arg(long, value_name = "SHARE", default_value = "1")]
    pub(crate) scale: Scale,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) result_dir: ResultDirArgs,
}

/// Shortest private prompt and answer that a scale leaves.
const LEN_MIN: usize = 8;

/// Sequences at a time where requests come as they please.
const SEQS_WITH_RATES: usize = 32;

/// Lengths of the cloud prompt: the paper's Fig. 3.
const CLOUD_LENS: [usize; 6] = [64, 128, 256, 512, 1024, 2048];

/// From which the length of one is drawn where requests come as they please: the paper's Figs. 4 and 5.
const INTERACTIVE_LENS: std::ops::RangeInclusive<usize> = 512..=1024;

/// Of the requests that come, fewer than this share are answered meanwhile where a node is saturated.
const SATURATED_SHARE: f64 = 0.8;

/// Most rates of a sweep that ends when the node is saturated.
const RATES_MAX: usize = 12;

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
    pub(crate) rounds: usize,
    pub(crate) until_saturated: bool,
    pub(crate) max_num_seqs: usize,
    pub(crate) max_num_batched_tokens: usize,
    pub(crate) edge_threads: u32,
    pub(crate) edge_share: u8,
    pub(crate) cloud_threads: u32,
    pub(crate) cloud_store: CloudStore,
    pub(crate) link_profile: String,
    pub(crate) seed: u64,
    pub(crate) scale: Scale,
    /// What was scaled, in words.
    #[serde(skip)]
    scaled: Option<String>,
}

impl Plan {
    /// What the arguments come to.
    ///
    /// # Errors
    /// For a rate that is out of range.
    pub(crate) fn of(args: &ShareGptArgs) -> Result<Self> {
        ensure!(
            args.request_rates
                .iter()
                .all(|it| it.is_finite() && *it > 0.0),
            "--request-rates are above 0, in requests a second: give 0.5,1,2 or the like"
        );
        let group_len = args.num_prompts.get().div_ceil(args.num_groups.get());
        let num_prompts = args.scale.of(args.num_prompts.get()).max(group_len);
        let num_prompts = num_prompts.next_multiple_of(group_len);
        let edge_len = args.scale.of(args.edge_len.get()).max(LEN_MIN);
        let scaled = args.scale.is_part().then(|| {
            format!(
                "scaled by {share}: requests {} -> {num_prompts}, private prompts {} -> {edge_len} tokens, \
                 answers to {share} of their length; cloud prompts, groups' size and link as they are",
                args.num_prompts,
                args.edge_len,
                share = args.scale.value(),
            )
        });
        Ok(Self {
            modes: args.modes.clone(),
            num_prompts,
            group_len,
            cloud_lens: cloud_lens(args),
            edge_len,
            request_rates: sorted(args.request_rates.clone()),
            rounds: args.rounds.get(),
            until_saturated: args.until_saturated,
            max_num_seqs: max_num_seqs(args, group_len),
            max_num_batched_tokens: args.max_num_batched_tokens.get(),
            edge_threads: args.edge_threads,
            edge_share: args.edge_share,
            cloud_threads: args.cloud_threads,
            cloud_store: args.cloud_store,
            link_profile: args.link_profile.clone(),
            seed: args.seed,
            scale: args.scale,
            scaled,
        })
    }

    /// The rate after the last one, until no mode keeps up.
    pub(super) fn next_rate(&self, last: f64, series: &[Series]) -> Option<f64> {
        let keeps_up = |it: &Series| {
            it.request_rate == Some(last)
                && it.request_throughput_without_the_last() >= SATURATED_SHARE * last
        };
        let goes_on = self.until_saturated
            && self.request_rates.len() < RATES_MAX
            && series.iter().any(keeps_up);
        goes_on.then_some(2.0 * last)
    }

    /// Something was measured at a rate.
    pub(crate) fn measured_at(&mut self, rate: f64) {
        if !self.request_rates.contains(&rate) {
            self.request_rates.push(rate);
        }
    }

    /// A length of an answer, scaled.
    pub(crate) fn output_len(&self, len: usize) -> usize {
        self.scale.of(len).max(LEN_MIN.min(len))
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

    /// All requests, as they come at a rate: the same in every mode. The first comes at once, and with
    /// it whatever is computed only once: a start that nobody waits for would be free.
    pub(crate) fn arriving(&self, lens: &Lens, rate: f64) -> Vec<Request> {
        let rate = RequestRate::PerSecond(rate);
        let arrivals = arrivals(self.num_prompts, rate, Burstiness::Gamma(1.0), self.seed);
        let first = arrivals.first().copied().unwrap_or_default();
        let since_first = arrivals.iter().map(|at| at.saturating_sub(first));
        since_first
            .enumerate()
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
        let cloud_lens: Vec<_> = self.cloud_lens.iter().map(usize::to_string).collect();
        let scaled = self.scaled.iter().map(|scaled| format!("{scaled}\n"));
        format!(
            "{}{} requests, {} at a time, cloud prompts of {} tokens, private prompts of {} tokens, answers of {:.0} on average \
             ({}), link {}, threads: cloud {}, edge {}{}; the cloud has computed them before: {}\n",
            scaled.collect::<String>(),
            self.num_prompts,
            self.max_num_seqs,
            cloud_lens.join(", "),
            self.edge_len,
            lens.mean(),
            lens.origin,
            self.link_profile,
            self.cloud_threads,
            self.edge_threads,
            match self.edge_share {
                100 => String::new(),
                percent => format!(" for {percent} % of the time"),
            },
            match self.cloud_store {
                CloudStore::Cold => "no",
                CloudStore::Warm => "yes",
            },
        )
    }
}

/// Sequences at a time: requests that come as they please wait for each other as little as in a server.
fn max_num_seqs(args: &ShareGptArgs, group_len: usize) -> usize {
    match (args.max_num_seqs, args.request_rates.is_empty()) {
        (Some(given), _) => given.get(),
        (None, true) => group_len,
        (None, false) => SEQS_WITH_RATES,
    }
}

/// Each once, from the lowest.
fn sorted(mut rates: Vec<f64>) -> Vec<f64> {
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    rates
}

/// Those that were given, or the paper's. One length for all rates, or they could not be compared.
fn cloud_lens(args: &ShareGptArgs) -> Vec<usize> {
    match (args.cloud_lens.is_empty(), args.request_rates.is_empty()) {
        (false, _) => args.cloud_lens.iter().map(|len| len.get()).collect(),
        (true, true) => CLOUD_LENS.to_vec(),
        (true, false) => vec![drawn(INTERACTIVE_LENS, args.seed)],
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::sharegpt::outcome::GroupOutcome;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ShareGptArgs,
    }

    fn plan(line: &str) -> Result<Plan> {
        let line = ["sharegpt"].into_iter().chain(line.split_whitespace());
        Plan::of(&Line::try_parse_from(line)?.args)
    }

    #[test]
    fn the_whole_run_is_the_papers() {
        let plan = plan("").unwrap();
        assert_eq!((plan.num_prompts, plan.group_count()), (1000, 100));
        assert_eq!(plan.cloud_lens, CLOUD_LENS);
        assert_eq!((plan.edge_len, plan.max_num_seqs), (512, 10));
        assert_eq!(plan.output_len(300), 300);
        assert_eq!(plan.scaled, None);
    }

    #[test]
    fn requests_that_come_as_they_please_need_not_wait_for_one_another() {
        let line = "--num-prompts 100 --request-rates 0.5";
        assert_eq!(plan(line).unwrap().max_num_seqs, SEQS_WITH_RATES);
        let given = format!("{line} --max-num-seqs 3");
        assert_eq!(plan(&given).unwrap().max_num_seqs, 3);
    }

    #[test]
    fn a_scale_says_what_it_leaves_out_and_keeps_whole_groups() {
        let plan = plan("--scale 0.25 --num-prompts 90 --num-groups 9 --cloud-lens 64").unwrap();
        assert_eq!((plan.num_prompts, plan.group_count()), (30, 3));
        assert_eq!((plan.edge_len, plan.output_len(200)), (128, 50));
        // Never nothing, and never longer than it was.
        assert_eq!((plan.output_len(9), plan.output_len(3)), (8, 3));
        let words = plan.in_words(&Lens::short());
        for part in ["requests 90 -> 30", "prompts 512 -> 128", "of 64 tokens"] {
            assert!(words.contains(part), "{words}");
        }
    }

    #[test]
    fn with_rates_one_length_between_the_papers_is_drawn_by_the_seed() {
        let len = |line: &str| {
            let lens = plan(line).unwrap().cloud_lens;
            assert_eq!(lens.len(), 1);
            lens[0]
        };
        let drawn: Vec<_> = (0..50)
            .map(|seed| len(&format!("--request-rates 1 --seed {seed}")))
            .collect();
        assert!(drawn.iter().all(|len| (512..=1024).contains(len)));
        assert!(drawn.iter().any(|len| *len < 640) && drawn.iter().any(|len| *len > 896));
        assert_eq!(
            len("--request-rates 1 --seed 7"),
            len("--request-rates 2,4 --seed 7")
        );
        assert_eq!(len("--request-rates 1 --cloud-lens 24"), 24);
    }

    #[test]
    fn a_sweep_goes_on_until_no_mode_keeps_up() {
        let line = "--num-prompts 4 --num-groups 1 --request-rates 4,1,4 --until-saturated";
        let mut plan = plan(line).unwrap();
        assert_eq!(plan.request_rates, [1.0, 4.0]);
        // Four requests in so many seconds, each of which takes one.
        let series = |mode, seconds| {
            let group = GroupOutcome {
                seconds,
                output_tokens: 4,
                kv_bytes_wire: 0,
                ttft_s: vec![1.0; 4],
                e2e_s: vec![1.0; 4],
                output_lens: vec![1; 4],
                digests: vec![String::new(); 4],
            };
            Series {
                request_rate: Some(4.0),
                groups: vec![group],
                ..Series::new(mode, plan.tokens(0, 512), 0.0)
            }
        };
        let quick = series(Mode::Relay, 2.0);
        let slow = series(Mode::Paged, 2.5);
        assert_eq!(
            plan.next_rate(4.0, &[slow.clone(), quick.clone()]),
            Some(8.0)
        );
        assert_eq!(
            plan.next_rate(4.0, &[slow]),
            None,
            "four in 1.5 s are too few"
        );
        plan.until_saturated = false;
        assert_eq!(plan.next_rate(4.0, std::slice::from_ref(&quick)), None);
        plan.until_saturated = true;
        (0..RATES_MAX).for_each(|index| plan.measured_at(10.0 + index as f64));
        assert_eq!(plan.next_rate(4.0, &[quick]), None, "enough");
    }

    #[test]
    fn rates_below_zero_are_refused_in_words() {
        for rates in ["-1", "0", "1,-2", "inf", "nan"] {
            let error = plan(&format!("--request-rates {rates}"))
                .unwrap_err()
                .to_string();
            assert!(error.contains("--request-rates are above 0"), "{error}");
        }
    }

    #[test]
    fn requests_are_the_same_in_every_mode_and_different_in_every_group() {
        let plan = plan("--num-prompts 6 --num-groups 2").unwrap();
        let lens = Lens {
            of_answers: vec![10, 11, 12, 13, 14, 15],
            origin: String::new(),
            dataset: None,
        };
        let ordinals = |group| {
            let requests = plan.group(&lens, group);
            requests
                .iter()
                .map(|it| (it.private.ordinal, it.output_len))
                .collect::<Vec<_>>()
        };
        assert_eq!(ordinals(0), ordinals(0));
        assert_eq!(ordinals(1)[0], (PRIVATE_ORDINALS + 3, 13));
        let arriving = plan.arriving(&lens, 2.0);
        assert_eq!(arriving.len(), 6);
        assert!(arriving.is_sorted_by(|a, b| a.arrival_s <= b.arrival_s));
        assert!(
            arriving[0].arrival_s.abs() < 1e-9,
            "nothing is computed beforehand"
        );
        // The last comes at N/rate, counted from where the first gap begins.
        assert!((1.0..3.0).contains(&arriving[5].arrival_s));
    }
}
