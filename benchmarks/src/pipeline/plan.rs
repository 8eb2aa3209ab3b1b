//! What a run measures: the arguments, and the points they come to. Pure.

use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use edgeprompt_kv::KvDtype;
use edgeprompt_launch::{LoadFormat, ModelArgs};
use edgeprompt_model::ModelShape;
use edgeprompt_testkit::emulator::{BitRate, DirectionProfile, EmulatedLink, Probability};
use serde::{Deserialize, Serialize, Serializer};

use super::messages::TokensSpec;
use crate::result_dir::ResultDirArgs;
use crate::scale::Scale;

/// Arguments of `benchmarks pipeline`.
#[derive(Args, Clone, Debug)]
pub(crate) struct PipelineArgs {
    /// Emulated rates in Mbit/s, comma-separated
    #[arg(
        long,
        value_name = "MBIT/S",
        value_delimiter = ',',
        default_value = "50,100,200,500,1000"
    )]
    pub(crate) rates: Vec<NonZeroU32>,
    /// Emulated round-trip times in ms, comma-separated
    #[arg(
        long,
        value_name = "MS",
        value_delimiter = ',',
        default_value = "1,10,50"
    )]
    pub(crate) rtts: Vec<u32>,
    /// Lengths of the cloud prompt in tokens, comma-separated
    #[arg(
        long,
        value_name = "TOKENS",
        value_delimiter = ',',
        default_value = "512"
    )]
    pub(crate) cloud_lens: Vec<NonZeroU32>,
    /// Number formats in which keys and values come, comma-separated: f32, f16, bf16, int8, int4
    #[arg(
        long,
        value_name = "CODEC",
        value_delimiter = ',',
        default_value = "f32"
    )]
    pub(crate) codecs: Vec<KvDtype>,
    /// Length of the edge's private prompt in tokens
    #[arg(long, value_name = "TOKENS", default_value = "64")]
    pub(crate) edge_len: NonZeroU32,
    /// Packets lost on the link, in percent
    #[arg(long, value_name = "PERCENT", default_value = "0")]
    pub(crate) loss: Percent,
    /// Rounds at each point; the median is reported
    #[arg(long, value_name = "N", default_value = "5")]
    pub(crate) rounds: NonZeroU32,
    /// Whether the cloud has computed the prompt before it is asked for
    #[arg(long, value_enum, default_value_t)]
    pub(crate) cloud_store: CloudStore,
    /// Threads that compute on the edge
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) edge_threads: NonZeroU32,
    /// Threads that compute on the cloud
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) cloud_threads: NonZeroU32,
    /// Seed of the prompts and of the link's chances
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// A quick look: this share of the prompts' lengths and of the rounds
    #[arg(long, value_name = "SHARE", default_value = "1")]
    pub(crate) scale: Scale,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) result_dir: ResultDirArgs,
}

/// Whether the cloud has computed a prompt before it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CloudStore {
    /// Every request brings a prompt that the cloud has not seen.
    #[default]
    Cold,
    /// The prompt is stored.
    Warm,
}

/// A share in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Percent(f64);

/// A number that is out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfRange(&'static str);

impl std::fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for OutOfRange {}

impl FromStr for Percent {
    type Err = OutOfRange;

    fn from_str(text: &str) -> Result<Self, OutOfRange> {
        let percent = text
            .parse()
            .ok()
            .filter(|value| (0.0..=100.0).contains(value));
        percent.map(Self).ok_or(OutOfRange("not between 0 and 100"))
    }
}

impl Percent {
    fn probability(self) -> Probability {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "at most a million"
        )]
        let per_million = (self.0 * 1e4).round() as u32;
        Probability::per_million(per_million)
    }
}

/// A link and a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Point {
    /// The link's rate, UDP payload.
    pub(crate) rate_mbit_s: u32,
    /// Its round-trip time.
    pub(crate) rtt_ms: u32,
    /// Its loss.
    pub(crate) loss_percent: f64,
    /// Tokens of the cloud prompt.
    pub(crate) cloud_len: u32,
    /// In which number format they come.
    #[serde(serialize_with = "by_name")]
    pub(crate) codec: KvDtype,
}

/// As people write it.
fn by_name<S: Serializer>(codec: &KvDtype, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(codec.name())
}

impl Point {
    /// The emulated rate.
    pub(crate) fn rate_mbit_s(&self) -> f64 {
        f64::from(self.rate_mbit_s)
    }

    /// The emulated link.
    pub(crate) fn link(&self, seed: u64) -> EmulatedLink {
        let rate = BitRate::megabits_per_second(self.rate_mbit_s.into());
        let delay = Duration::from_millis(self.rtt_ms.into()) / 2;
        let direction = DirectionProfile::constant(rate, delay);
        let loss = Percent(self.loss_percent).probability();
        EmulatedLink::symmetric(direction.with_loss(loss), seed)
    }
}

/// What a run measures.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// In this order.
    #[serde(skip)]
    pub(crate) points: Vec<Point>,
    /// Tokens of the private prompt.
    pub(crate) edge_len: u32,
    /// Rounds at each point.
    pub(crate) rounds: u32,
    /// Whether the cloud has the prompts.
    pub(crate) cloud_store: CloudStore,
    /// Threads that compute on the edge.
    pub(crate) edge_threads: u32,
    /// Threads that compute on the cloud.
    pub(crate) cloud_threads: u32,
    /// Of the prompts and of the link's chances.
    pub(crate) seed: u64,
    /// What is left of the lengths and the rounds.
    pub(crate) scale: Scale,
    /// What was scaled, in words.
    #[serde(skip)]
    pub(crate) scaled: Option<String>,
    /// The link, in words.
    pub(crate) link_profile: &'static str,
}

/// How the points' rates and delays become links.
const LINK_PROFILE: &str = "symmetric; rate of UDP payload; half the RTT each way; queue of one \
     bandwidth-delay product, at least 256 KiB; no jitter";

impl Plan {
    /// The points that the arguments ask for.
    pub(crate) fn of(args: &PipelineArgs) -> Self {
        let scale = |whole: NonZeroU32| {
            let left = args
                .scale
                .of(usize::try_from(whole.get()).unwrap_or(usize::MAX));
            u32::try_from(left).unwrap_or_else(|_| whole.get())
        };
        let mut points = Vec::new();
        let prompts = args.codecs.iter().flat_map(|codec| {
            let lens = args.cloud_lens.iter();
            lens.map(move |cloud_len| (*codec, *cloud_len))
        });
        for (codec, cloud_len) in prompts {
            for rtt_ms in &args.rtts {
                points.extend(args.rates.iter().map(|rate| Point {
                    rate_mbit_s: rate.get(),
                    rtt_ms: *rtt_ms,
                    loss_percent: args.loss.0,
                    cloud_len: scale(cloud_len),
                    codec,
                }));
            }
        }
        let (edge_len, rounds) = (scale(args.edge_len), scale(args.rounds));
        let lens = |lens: &mut dyn Iterator<Item = u32>| {
            let lens: Vec<_> = lens.map(|len| len.to_string()).collect();
            lens.join(",")
        };
        let scaled = args.scale.is_part().then(|| {
            format!(
                "scaled by {}: cloud prompts {} -> {}, edge prompt {} -> {edge_len}, rounds {} -> {rounds}; \
                 rates and round-trip times as they are",
                args.scale.value(),
                lens(&mut args.cloud_lens.iter().map(|len| len.get())),
                lens(&mut args.cloud_lens.iter().map(|len| scale(*len))),
                args.edge_len,
                args.rounds,
            )
        });
        Self {
            points,
            edge_len,
            rounds,
            cloud_store: args.cloud_store,
            edge_threads: args.edge_threads.get(),
            cloud_threads: args.cloud_threads.get(),
            seed: args.seed,
            scale: args.scale,
            scaled,
            link_profile: LINK_PROFILE,
        }
    }

    /// Tokens of the longest cloud prompt.
    pub(crate) fn cloud_len_max(&self) -> u32 {
        let lens = self.points.iter().map(|point| point.cloud_len);
        lens.max().unwrap_or_default()
    }

    /// A prompt of this run.
    pub(crate) fn tokens(&self, ordinal: u64, len: u32) -> TokensSpec {
        TokensSpec {
            seed: self.seed,
            ordinal,
            len: usize::try_from(len).unwrap_or(usize::MAX),
        }
    }
}

/// The model of a run: what was named, or random weights of the 110m shape.
pub(crate) fn model_or_default(given: &ModelArgs) -> ModelArgs {
    let mut model = given.clone();
    if model.model.is_none() {
        model.load_format = LoadFormat::Dummy;
        model.model_shape = model.model_shape.or(Some(ModelShape::M110));
    }
    model
}

/// The name of a model in results; not where it lies.
pub(crate) fn model_name(model: &ModelArgs) -> String {
    let folder = model.model.as_deref().and_then(std::path::Path::file_name);
    match (model.load_format, folder, model.model_shape) {
        (LoadFormat::Auto, Some(name), _) => name.to_string_lossy().into_owned(),
        (_, _, Some(shape)) => format!("{shape}, random weights"),
        (_, _, None) => "unknown".to_owned(),
    }
}

/// The same model, as arguments of a child.
pub(crate) fn model_arguments(model: &ModelArgs) -> Vec<String> {
    let mut arguments = vec!["--device".to_owned(), model.device.to_string()];
    if let Some(format) = model.load_format.to_possible_value() {
        arguments.extend(["--load-format".to_owned(), format.get_name().to_owned()]);
    }
    if let Some(path) = &model.model {
        arguments.extend(["--model".to_owned(), path.display().to_string()]);
    }
    if let Some(shape) = model.model_shape {
        arguments.extend(["--model-shape".to_owned(), shape.to_string()]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: PipelineArgs,
    }

    fn plan(line: &str) -> Plan {
        let line = ["pipeline"].into_iter().chain(line.split_whitespace());
        Plan::of(&Line::try_parse_from(line).unwrap().args)
    }

    #[test]
    fn the_points_are_every_combination() {
        let plan = plan("--rates 50,100 --rtts 1,50 --cloud-lens 8,16 --codecs f32,int8");
        assert_eq!(plan.points.len(), 16);
        let last = plan.points[15];
        assert_eq!(
            (last.rate_mbit_s, last.rtt_ms, last.cloud_len),
            (100, 50, 16)
        );
        assert_eq!(last.codec, KvDtype::Int8);
        assert_eq!(plan.points[7].codec, KvDtype::F32);
        assert_eq!(plan.cloud_len_max(), 16);
        assert_eq!(plan.scaled, None);
    }

    #[test]
    fn a_quick_look_says_what_it_leaves_out() {
        let plan = plan("--scale 0.125");
        assert_eq!(
            (plan.edge_len, plan.rounds, plan.cloud_len_max()),
            (8, 1, 64)
        );
        let scaled = plan.scaled.unwrap();
        assert!(
            scaled.contains("512 -> 64") && scaled.contains("5 -> 1"),
            "{scaled}"
        );
        assert_eq!(plan.points.len(), 15);
    }

    #[test]
    fn half_of_the_round_trip_is_spent_each_way() {
        let plan = plan("--rates 100 --rtts 50 --loss 0.1");
        let link = plan.points[0].link(7);
        assert_eq!(link.down.delay, Duration::from_millis(25));
        assert_eq!(link.up.delay, Duration::from_millis(25));
        assert_eq!(link.down.loss, Probability::per_million(1000));
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert!("-1".parse::<Percent>().is_err() && "101".parse::<Percent>().is_err());
    }

    #[test]
    fn without_a_model_there_are_random_weights() {
        let line = Line::try_parse_from(["pipeline"]).unwrap();
        let model = model_or_default(&line.args.model);
        assert_eq!(model_name(&model), "110m, random weights");
        let arguments = model_arguments(&model).join(" ");
        assert_eq!(
            arguments,
            "--device flex --load-format dummy --model-shape 110m"
        );
    }
}
