//! `edge-node ask`: one private prompt, answered on the terminal.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use edgeprompt_attention::Fusion;
use edgeprompt_engine::SequenceOptions;
use edgeprompt_kv::TokenId;
use edgeprompt_launch::{Exit, Failure, ModelArgs, say};
use edgeprompt_model::Model;
use edgeprompt_protocol::{PromptName, PromptRef, PublicPrompt, Refusal};
use edgeprompt_telemetry::gantt::{self, GanttStyle};
use edgeprompt_telemetry::timeline::LayerTimeline;
use edgeprompt_transport::FetchError;

use crate::answer::{Answer, Cloud, Question, Stop, answer};
use crate::cloud_prompt::{CloudPrompt, CloudPromptError, Loss};
use crate::link::{self, CloudArgs};
use crate::patience::Patience;
use crate::private::{PrivateIds, PrivateText, PrivateTokens};
use crate::remembered::{MemoryArgs, RememberedPrompt, RememberedPrompts};
use crate::speech::Speech;
use crate::wire_codec::WireArgs;

/// How long the program stays for a fetch that is under way when the answer is there.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Arguments of `edge-node ask`.
#[derive(Args)]
pub struct AskArgs {
    /// The private prompt; it never leaves this node
    #[arg(value_name = "PRIVATE_TEXT", required_unless_present = "token_ids")]
    private_text: Option<PrivateText>,
    /// The private prompt as token ids, comma-separated
    #[arg(long, value_name = "IDS", conflicts_with = "private_text")]
    token_ids: Option<PrivateIds>,
    #[command(flatten)]
    cloud: CloudArgs,
    /// Compute everything here, in one piece, without a cloud
    #[arg(long)]
    local: bool,
    /// Fail rather than compute layers here that the cloud does not send
    #[arg(long, conflicts_with = "local", env = "EDGE_REQUIRE_CLOUD")]
    require_cloud: bool,
    #[command(flatten)]
    public: PublicArgs,
    #[command(flatten)]
    wire: WireArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value = "256", env = "EDGE_MAX_TOKENS")]
    max_tokens: NonZeroUsize,
    /// Go on after the model's end-of-sequence token
    #[arg(long)]
    ignore_eos: bool,
    /// Print the generated token ids on one line instead of text
    #[arg(long)]
    print_token_ids: bool,
    /// How cloud and private attention are fused: exact, concat, or fixed:α (an ablation)
    #[arg(long, default_value_t, env = "EDGE_FUSION")]
    fusion: Fusion,
    /// Accept a cut between the prompts that whole-prompt tokenisation disagrees with
    #[arg(long)]
    allow_inexact_cut: bool,
    /// Show on standard error where the time went, layer by layer
    #[arg(long)]
    timeline: bool,
}

/// The public part of the prompt, in one of three ways.
#[derive(Args)]
#[group(multiple = false)]
struct PublicArgs {
    /// A cloud prompt that the cloud serves by name
    #[arg(long, value_name = "NAME", env = "EDGE_CLOUD_PROMPT")]
    cloud_prompt: Option<PromptName>,
    /// Text that you declare public: it is sent to the cloud
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    cloud_text: Option<String>,
    /// Token ids that you declare public, comma-separated: they are sent to the cloud
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    cloud_token_ids: Option<Vec<u32>>,
}

/// The public part once it is known.
struct Public {
    tokens: Vec<TokenId>,
    text: Option<String>,
}

impl PublicArgs {
    fn prompt_ref(&self) -> Option<PromptRef> {
        if let Some(name) = &self.cloud_prompt {
            return Some(PromptRef::Named(name.clone()));
        }
        if let Some(text) = &self.cloud_text {
            return Some(PromptRef::Public(PublicPrompt::Text(text.clone())));
        }
        let ids = self.cloud_token_ids.as_ref()?;
        Some(PromptRef::Public(PublicPrompt::Tokens(token_ids(ids))))
    }

    /// The public part without asking anybody.
    fn known(&self, model: &Model, memory: Option<&RememberedPrompts>) -> Result<Public, Failure> {
        if let Some(name) = &self.cloud_prompt {
            let remembered = memory.and_then(|memory| memory.recall(name, model));
            let Some(RememberedPrompt { tokens, text }) = remembered else {
                return Err(usage(anyhow!(
                    "this edge does not remember the cloud prompt {name}: ask once with its cloud, or give --cloud-text or --cloud-token-ids"
                )));
            };
            return Ok(Public { tokens, text });
        }
        let (tokens, text) = match (&self.cloud_text, &self.cloud_token_ids) {
            (Some(text), _) => {
                let tokenizer = model.tokenizer().map_err(Failure::of(Exit::Usage))?;
                let tokens = tokenizer.encode(text).map_err(Failure::of(Exit::Usage))?;
                (tokens, Some(text.clone()))
            }
            (None, ids) => (token_ids(ids.as_deref().unwrap_or_default()), None),
        };
        Ok(Public { tokens, text })
    }
}

/// Answers one private prompt.
///
/// # Errors
/// [`Failure`] with the exit code of what went wrong.
pub fn run(args: &AskArgs) -> Result<(), Failure> {
    let model = Arc::new(args.model.open()?);
    if args.local {
        return run_local(args, &model);
    }
    let Some(prompt) = args.public.prompt_ref() else {
        return Err(usage(anyhow!(
            "no cloud prompt: give --cloud-prompt NAME, --cloud-text or --cloud-token-ids, or --local"
        )));
    };
    let identity = args.cloud.load_identity(link::JOIN_FIRST)?;
    let memory = args.memory.open(&identity, &model);
    // Layers arrive on this thread while the model computes on the main one.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Failure::of(Exit::Usage))?;
    let uplink = runtime.block_on(link::uplink(&args.cloud.addr, &identity))?;
    let uplink = uplink.asking_for(args.wire.codecs()?.smallest());
    let asked_at = Instant::now();
    let fetched = runtime.block_on(CloudPrompt::fetch(&uplink, &model, prompt));
    // The link closes when the layers are in, whatever the private prompt is and however long the
    // answer takes.
    let closing = runtime.spawn(uplink.close(CLOSE_PATIENCE + FETCH_PATIENCE));
    let keeping = fetched.as_ref().ok().and_then(|prompt| {
        let (memory, name) = (memory.clone()?, args.public.cloud_prompt.clone()?);
        let known = (&prompt.manifest).into();
        Some(runtime.spawn_blocking(move || memory.keep_or_warn(&name, &known)))
    });
    let done = fetched
        .map(Fetched::Prompt)
        .or_else(|error| without_cloud(args, &model, memory.as_ref(), error))
        .and_then(|fetched| answer_with(args, &model, fetched, asked_at));
    runtime.block_on(async {
        let _ = tokio::time::timeout(CLOSE_PATIENCE, closing).await;
        if let Some(keeping) = keeping {
            // A thread that panicked has said so.
            let _ = keeping.await;
        }
    });
    done
}

/// How long a fetch may go on behind an answer in a process that lives on.
const FETCH_PATIENCE: Duration = Duration::from_secs(600);

/// What asking the cloud brought.
enum Fetched {
    Prompt(CloudPrompt),
    /// Who knows the public part needs no cloud.
    Nothing {
        public: Public,
        loss: Loss,
    },
}

/// What to do when the cloud prompt does not come.
fn without_cloud(
    args: &AskArgs,
    model: &Model,
    memory: Option<&RememberedPrompts>,
    error: CloudPromptError,
) -> Result<Fetched, Failure> {
    let is_named = args.public.cloud_prompt.is_some();
    // The one answer that a memory must not contradict: the cloud serves that prompt no more.
    let is_withdrawn = matches!(
        error,
        CloudPromptError::Fetch(FetchError::Refused(Refusal::UnknownPrompt { .. }))
    );
    if args.require_cloud || is_withdrawn {
        return Err(link::cloud_failure(error));
    }
    match args.public.known(model, memory) {
        Ok(public) => {
            let mut loss = error.loss();
            if is_named {
                loss.detail += " (the cloud prompt is as this edge remembers it)";
            }
            Ok(Fetched::Nothing { public, loss })
        }
        // That the name is not remembered explains less than why it was not fetched.
        Err(_) if is_named => Err(link::cloud_failure(error)),
        Err(failure) => Err(failure),
    }
}

fn answer_with(
    args: &AskArgs,
    model: &Model,
    fetched: Fetched,
    asked_at: Instant,
) -> Result<(), Failure> {
    let (public, cloud) = match fetched {
        Fetched::Prompt(prompt) => {
            let (tokens, text) = (prompt.manifest.tokens.clone(), prompt.manifest.text.clone());
            (Public { tokens, text }, Cloud::Arriving(prompt))
        }
        Fetched::Nothing { public, loss } => {
            let tokens = public.tokens.clone();
            (public, Cloud::Unavailable { tokens, loss })
        }
    };
    let private = private_tokens(args, model, &public)?;
    check_length(model, public.tokens.len() + private.len())?;
    let answered = generate(args, model, (&public, &private), cloud, asked_at)?;
    report(args, &answered)
}

fn run_local(args: &AskArgs, model: &Model) -> Result<(), Failure> {
    let asked_at = Instant::now();
    // Only what a memory holds depends on whose cloud it is.
    let memory = match &args.public.cloud_prompt {
        Some(_) => args
            .memory
            .open(&args.cloud.load_identity(link::JOIN_FIRST)?, model),
        None => None,
    };
    let public = args.public.known(model, memory.as_ref())?;
    let private = private_tokens(args, model, &public)?;
    let whole = [public.tokens.as_slice(), private.for_engine()].concat();
    check_length(model, whole.len())?;
    let nothing = Public {
        tokens: Vec::new(),
        text: None,
    };
    let whole = PrivateTokens::new(whole);
    let answered = generate(args, model, (&nothing, &whole), Cloud::Absent, asked_at)?;
    report(args, &answered)
}

fn private_tokens(
    args: &AskArgs,
    model: &Model,
    public: &Public,
) -> Result<PrivateTokens, Failure> {
    let tokens = match (&args.token_ids, &args.private_text) {
        (Some(ids), _) => ids.tokens().map_err(Failure::of(Exit::Usage))?,
        (None, Some(text)) => private_tokens_of_text(args, model, public, text)?,
        (None, None) => Vec::new(),
    };
    let vocab_size = model.config.vocab_size;
    let outside = tokens
        .iter()
        .chain(&public.tokens)
        .any(|token| token.0 as usize >= vocab_size);
    match (tokens.is_empty(), outside) {
        (true, _) => Err(usage(anyhow!(
            "the private prompt is empty: give at least one token"
        ))),
        (_, true) => Err(usage(anyhow!(
            "a token id is outside the vocabulary of {vocab_size}"
        ))),
        (false, false) => Ok(PrivateTokens::new(tokens)),
    }
}

fn private_tokens_of_text(
    args: &AskArgs,
    model: &Model,
    public: &Public,
    text: &PrivateText,
) -> Result<Vec<TokenId>, Failure> {
    let text = text.for_tokenizer();
    let tokenizer = model.tokenizer().map_err(Failure::of(Exit::Usage))?;
    if public.tokens.is_empty() {
        return tokenizer.encode(text).map_err(Failure::of(Exit::Usage));
    }
    let cloud_text = match &public.text {
        Some(text) => text.clone(),
        None => tokenizer
            .decode(&public.tokens)
            .map_err(Failure::of(Exit::Usage))?,
    };
    match tokenizer.private_tokens(&public.tokens, &cloud_text, text) {
        Ok(tokens) => Ok(tokens),
        Err(_) if args.allow_inexact_cut => {
            let mut tokens = tokenizer.encode(text).map_err(Failure::of(Exit::Usage))?;
            // Only the cloud prompt begins the sequence.
            if model.config.bos.is_some() && tokens.first() == model.config.bos.as_ref() {
                tokens.remove(0);
            }
            Ok(tokens)
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            Err(usage(
                error.context("use --allow-inexact-cut to go on anyway"),
            ))
        }
    }
}

fn check_length(model: &Model, prompt_len: usize) -> Result<(), Failure> {
    let context_len_max = model.config.context_len_max;
    if prompt_len < context_len_max {
        return Ok(());
    }
    Err(usage(anyhow!(
        "the prompt has {prompt_len} tokens and the model's context {context_len_max}: shorten it"
    )))
}

fn generate(
    args: &AskArgs,
    model: &Model,
    (public, private): (&Public, &PrivateTokens),
    cloud: Cloud,
    asked_at: Instant,
) -> Result<Answer, Failure> {
    let question = Question {
        model,
        private,
        options: SequenceOptions {
            fusion: args.fusion,
            private_start: None,
        },
        max_tokens: args.max_tokens.get(),
        stop: if args.ignore_eos {
            Stop::AtLengthOnly
        } else {
            Stop::AtEndOfSequence
        },
        patience: if args.require_cloud {
            Patience::Unlimited
        } else {
            Patience::Estimated
        },
        asked_at,
    };
    let context = [public.tokens.as_slice(), private.for_engine()].concat();
    let tokenizer = if args.print_token_ids {
        None
    } else {
        model.tokenizer().ok()
    };
    let out = std::io::stdout();
    let mut speech = Speech::new(tokenizer, &context, model.config.layer_count, out);
    let answered = answer(&question, cloud, |event| speech.hear(event));
    speech.finish().map_err(Failure::of(Exit::Usage))?;
    if tokenizer.is_none() {
        let ids = answered
            .tokens
            .for_engine()
            .iter()
            .map(|token| token.0.to_string());
        let line = ids.collect::<Vec<_>>().join(",");
        say(format_args!("{line}\n"))?;
    }
    Ok(answered)
}

fn report(args: &AskArgs, answered: &Answer) -> Result<(), Failure> {
    if answered.received_bytes > 0 {
        tracing::info!(bytes = answered.received_bytes, "keys and values received");
    }
    if args.timeline {
        let style = GanttStyle::of(&std::io::stderr());
        eprint!("{}", gantt::render(&answered.timeline, style));
        if let Some((predicted, actual)) = predicted(&answered.timeline) {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            eprintln!(
                "first token after {:.0} ms; predicted from its first layer: {:.0} ms",
                ms(actual),
                ms(predicted)
            );
        }
    }
    let Some(recomputed) = &answered.recomputed else {
        return Ok(());
    };
    let (count, loss) = (recomputed.layer_count, &recomputed.loss);
    if args.require_cloud {
        let error = anyhow!(
            "{count} layers did not come from the cloud: {}",
            loss.detail
        );
        return Err(Failure {
            exit: link::loss_exit(loss.reason),
            error,
        });
    }
    eprintln!(
        "{count} layers were computed here, not received: {}",
        loss.detail
    );
    Ok(())
}

/// When the first token should have come, by the flow shop, if every layer had taken what the first
/// one took, and when it came. `None` unless all layers came from the cloud.
fn predicted(timeline: &LayerTimeline) -> Option<(Duration, Duration)> {
    let all_came = timeline.layers.iter().all(|layer| layer.wire.is_some());
    let mut pipeline = timeline.pipeline();
    let first = *pipeline.layers.first().filter(|_| all_came)?;
    pipeline.layers.fill(first);
    Some((pipeline.flow_shop(), timeline.ttft?))
}

fn usage(error: anyhow::Error) -> Failure {
    Failure {
        exit: Exit::Usage,
        error,
    }
}

fn token_ids(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

#[cfg(test)]
mod tests {
    use edgeprompt_telemetry::timeline::{LayerTimes, Span};

    use super::*;

    #[test]
    fn a_prediction_takes_every_layer_for_the_first() {
        let ms = Duration::from_millis;
        let layer = |wire: (u64, u64), worked| LayerTimes {
            cloud_compute: None,
            wire: Some(Span::new(ms(wire.0), ms(wire.1))),
            edge_wait: None,
            edge_compute: vec![Span::starting_at(ms(wire.1), ms(worked))],
        };
        // The first takes 10 on the link, after 5, and 2 here; the second 30 and 2.
        let mut timeline = LayerTimeline {
            ttft: Some(ms(47)),
            layers: vec![layer((5, 15), 2), layer((15, 45), 2)],
        };
        assert_eq!(predicted(&timeline), Some((ms(27), ms(47))));
        timeline.layers[1].wire = None;
        assert_eq!(predicted(&timeline), None, "it was computed here");
    }
}
