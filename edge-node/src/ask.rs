//! `edge-node ask`: one private prompt, answered on the terminal.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, anyhow};
use clap::Args;
use cloud_node::launch::{Exit, Failure, ModelArgs};
use edgeprompt_attention::Fusion;
use edgeprompt_engine::SequenceOptions;
use edgeprompt_kv::TokenId;
use edgeprompt_model::{Model, TextStream};
use edgeprompt_protocol::{PromptName, PromptRef, PublicPrompt};
use edgeprompt_telemetry::gantt::{self, ColourMode, GanttStyle};
use edgeprompt_transport::{EdgeIdentity, SentMessages};

use crate::answer::{Answer, Cloud, Event, Question, Stop, answer};
use crate::cloud_prompt::CloudPrompt;
use crate::layer_bar::LayerBar;
use crate::link;

/// Arguments of `edge-node ask`.
#[derive(Args)]
pub struct AskArgs {
    /// The private prompt; it never leaves this node
    #[arg(value_name = "PRIVATE_TEXT", required_unless_present = "token_ids")]
    private_text: Option<String>,
    /// The private prompt as token ids, comma-separated
    #[arg(
        long,
        value_name = "IDS",
        value_delimiter = ',',
        conflicts_with = "private_text"
    )]
    token_ids: Option<Vec<u32>>,
    /// Address of the cloud node
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:4433",
        env = "EDGE_CLOUD"
    )]
    cloud: String,
    /// Compute everything here, in one piece, without a cloud
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    public: PublicArgs,
    #[command(flatten)]
    model: ModelArgs,
    /// Folder of this edge's identity [default: the XDG configuration folder]
    #[arg(long, value_name = "DIR", env = "EDGE_IDENTITY")]
    identity: Option<PathBuf>,
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 256, env = "EDGE_MAX_TOKENS")]
    max_tokens: usize,
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
    #[arg(long, value_name = "TEXT")]
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
    fn known(&self, model: &Model) -> Result<Public, Failure> {
        if self.cloud_prompt.is_some() {
            let error = anyhow!(
                "--local cannot know the text behind --cloud-prompt: give --cloud-text or --cloud-token-ids"
            );
            return Err(Failure {
                exit: Exit::Usage,
                error,
            });
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
    let model = args.model.open();
    let model = model.map_err(|error| Failure {
        exit: error.exit(),
        error: error.into(),
    })?;
    if args.local {
        return run_local(args, &model);
    }
    let Some(prompt) = args.public.prompt_ref() else {
        let error = anyhow!(
            "no cloud prompt: give --cloud-prompt NAME, --cloud-text or --cloud-token-ids, or --local"
        );
        return Err(Failure {
            exit: Exit::Usage,
            error,
        });
    };
    let identity = EdgeIdentity::load(&link::identity_dir(args.identity.as_ref())?)
        .context("run `edge-node join TOKEN` first")
        .map_err(Failure::of(Exit::Usage))?;
    // Layers arrive on these threads while the model computes on this one.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Failure::of(Exit::Usage))?;
    let asked_at = Instant::now();
    let (link, prompt) = runtime.block_on(async {
        let link = link::connect(&args.cloud, &identity, SentMessages::new()).await?;
        let prompt = CloudPrompt::fetch(&link, model.digest, prompt).await;
        Ok::<_, Failure>((link, prompt.map_err(link::fetch_failure)?))
    })?;
    let public = Public {
        tokens: prompt.manifest.tokens.clone(),
        text: prompt.manifest.text.clone(),
    };
    let private = private_tokens(args, &model, &public)?;
    check_length(&model, public.tokens.len() + private.len())?;
    let context = [public.tokens.as_slice(), &private].concat();
    let answered = generate(
        args,
        &model,
        (&private, &context),
        Cloud::Arriving(prompt),
        asked_at,
    )?;
    report(args, &answered);
    drop(link);
    Ok(())
}

fn run_local(args: &AskArgs, model: &Model) -> Result<(), Failure> {
    let asked_at = Instant::now();
    let public = args.public.known(model)?;
    let mut whole = public.tokens.clone();
    whole.extend(private_tokens(args, model, &public)?);
    check_length(model, whole.len())?;
    let answered = generate(args, model, (&whole, &whole), Cloud::Absent, asked_at)?;
    report(args, &answered);
    Ok(())
}

fn private_tokens(args: &AskArgs, model: &Model, public: &Public) -> Result<Vec<TokenId>, Failure> {
    let tokens = match (&args.token_ids, &args.private_text) {
        (Some(ids), _) => token_ids(ids),
        (None, Some(text)) => private_tokens_of_text(args, model, public, text)?,
        (None, None) => Vec::new(),
    };
    let vocab_size = model.config.vocab_size;
    let outside = tokens
        .iter()
        .chain(&public.tokens)
        .any(|token| token.0 as usize >= vocab_size);
    let error = match (tokens.is_empty(), outside) {
        (true, _) => anyhow!("the private prompt is empty: give at least one token"),
        (_, true) => anyhow!("a token id is outside the vocabulary of {vocab_size}"),
        (false, false) => return Ok(tokens),
    };
    Err(Failure {
        exit: Exit::Usage,
        error,
    })
}

fn private_tokens_of_text(
    args: &AskArgs,
    model: &Model,
    public: &Public,
    text: &str,
) -> Result<Vec<TokenId>, Failure> {
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
        Err(error) => Err(Failure {
            exit: Exit::Usage,
            error: anyhow::Error::from(error).context("use --allow-inexact-cut to go on anyway"),
        }),
    }
}

fn check_length(model: &Model, prompt_len: usize) -> Result<(), Failure> {
    let context_len_max = model.config.context_len_max;
    if prompt_len < context_len_max {
        return Ok(());
    }
    let error = anyhow!(
        "the prompt has {prompt_len} tokens and the model's context {context_len_max}: shorten it"
    );
    Err(Failure {
        exit: Exit::Usage,
        error,
    })
}

fn generate(
    args: &AskArgs,
    model: &Model,
    (private, context): (&[TokenId], &[TokenId]),
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
        max_tokens: args.max_tokens,
        stop: if args.ignore_eos {
            Stop::AtLengthOnly
        } else {
            Stop::AtEndOfSequence
        },
        asked_at,
    };
    let mut text = match args.print_token_ids {
        true => None,
        false => model
            .tokenizer()
            .ok()
            .map(|tokenizer| TextStream::after(tokenizer, context)),
    };
    let mut bar = LayerBar::new(model.config.layer_count);
    let mut out = std::io::stdout();
    let mut failed = None;
    let answered = answer(&question, cloud, |event| {
        bar.show(event);
        if let (Event::Token(token), Some(stream)) = (event, &mut text) {
            let shown = stream
                .push(token)
                .map_err(anyhow::Error::from)
                .and_then(|piece| {
                    write!(out, "{piece}")?;
                    Ok(out.flush()?)
                });
            failed = failed.take().or_else(|| shown.err());
        }
    });
    let ended = match text {
        None => writeln!(out, "{}", joined(&answered.tokens)),
        Some(_) => writeln!(out),
    };
    failed = failed.or_else(|| ended.err().map(anyhow::Error::from));
    match failed {
        Some(error) => Err(Failure {
            exit: Exit::Usage,
            error,
        }),
        None => Ok(answered),
    }
}

fn report(args: &AskArgs, answered: &Answer) {
    if let Some(recomputed) = &answered.recomputed {
        let count = recomputed.layer_count;
        eprintln!(
            "{count} layers were computed here, not received: {}",
            recomputed.reason
        );
    }
    if args.timeline {
        let colour = match std::io::stderr().is_terminal() {
            true => ColourMode::Ansi,
            false => ColourMode::Plain,
        };
        let style = GanttStyle {
            colour,
            ..GanttStyle::default()
        };
        eprint!("{}", gantt::render(&answered.timeline, style));
    }
}

fn token_ids(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

/// Token ids as `ask` prints them: comma-separated.
pub fn joined(tokens: &[TokenId]) -> String {
    let ids: Vec<String> = tokens.iter().map(|token| token.0.to_string()).collect();
    ids.join(",")
}
