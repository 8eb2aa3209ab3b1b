//! `edge-node demo`: both nodes on this machine with the built-in model, and what to see in it.

mod page;

use std::io::{BufRead, IsTerminal};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use cloud_node::compute::PromptComputer;
use cloud_node::library::PromptLibrary;
use cloud_node::running::RunningCloud;
use cloud_node::service::{CloudService, PublicPrompts};
use edgeprompt_engine::{CloudSegment, Sequence, SequenceOptions};
use edgeprompt_kv::TokenId;
use edgeprompt_launch::{Exit, Failure};
use edgeprompt_model::{ComputeDevice, Model};
use edgeprompt_protocol::{PromptName, PromptRef};
use edgeprompt_transport::{
    CloudIdentity, CloudLink, EdgeIdentity, INVITATION_LIFETIME, LinkConfig,
};
use tokio::runtime::Runtime;

use crate::answer::{Answer, Cloud, Question, Stop, answer};
use crate::cloud_prompt::CloudPrompt;
use crate::link;
use crate::patience::Patience;
use crate::private::{PrivateText, PrivateTokens};
use crate::speech::Speech;
use crate::uplink::Uplink;

/// The public half of the demo's prompt.
const CLOUD_TEXT: &str = include_str!("demo/cloud_prompt.txt");
/// The name the cloud serves it under.
const CLOUD_PROMPT_NAME: &str = "shop-desk";
/// The private half, unless the user types one.
const PRIVATE_TEXT: &str = "My name is Ada. I have the jade plan. How much does it cost?";
/// Answers are one short sentence.
const MAX_TOKENS: usize = 40;
/// Keys and values the demo's cloud keeps; a prompt of this model takes far less.
const STORE_BYTES_MAX: usize = 256 << 20;

/// Arguments of `edge-node demo`.
#[derive(Args)]
pub struct DemoArgs {
    /// Your own private prompt [default: a guest at the shop desk]
    #[arg(value_name = "PRIVATE_TEXT")]
    private_text: Option<PrivateText>,
    /// Keep asking: one private prompt a line, until an empty line
    #[arg(long)]
    interactive: bool,
    /// Device to compute on: flex (CPU), wgpu or cuda
    #[arg(
        long,
        default_value_t,
        value_name = "DEVICE",
        env = "EDGEPROMPT_DEVICE"
    )]
    device: ComputeDevice,
}

/// Both nodes, linked.
struct Demo {
    runtime: Runtime,
    model: Arc<Model>,
    uplink: Uplink,
    link: CloudLink,
    /// Stops when dropped.
    _cloud: RunningCloud,
}

/// One question and everything the page shows about it.
struct Round {
    cloud_tokens: Vec<TokenId>,
    private: PrivateTokens,
    answered: Answer,
}

/// The same prompt in one piece on one machine.
struct Local {
    tokens: PrivateTokens,
    ttft: Duration,
}

/// Runs the demo.
///
/// # Errors
/// [`Failure`]; [`Exit::VerificationFailed`] if the split run and the single-machine run differ.
pub fn run(args: &DemoArgs) -> Result<(), Failure> {
    let device = args.device.open().map_err(Failure::of(Exit::Usage))?;
    let model = Arc::new(Model::demo(&device).map_err(Failure::of(Exit::ModelMismatch))?);
    warm_up(&model);
    let demo = Demo::start(model).map_err(Failure::of(Exit::PeerUnreachable))?;
    let text = args.private_text.clone();
    let text = text.unwrap_or_else(|| PrivateText::new(PRIVATE_TEXT.to_owned()));
    page::title(demo.link.stats().rtt)?;
    let round = demo.first_round(&text)?;
    let local = demo.local(&round)?;
    page::results(&demo, &round, &local, &text)?;
    if local.tokens != round.answered.tokens {
        let error =
            anyhow::anyhow!("the split run and the single-machine run gave different tokens");
        return Err(Failure {
            exit: Exit::VerificationFailed,
            error,
        });
    }
    match (args.interactive, round.answered.segment) {
        (true, Some(segment)) => demo.keep_asking(&round.cloud_tokens, &segment),
        _ => Ok(()),
    }
}

/// A short pass, so that neither way of answering pays for the first use of the thread pool.
fn warm_up(model: &Model) {
    let tokens: Vec<TokenId> = (3..19).map(TokenId).collect();
    Sequence::new(model, None, SequenceOptions::default()).generate_greedy(&tokens, 2);
}

impl Demo {
    fn start(model: Arc<Model>) -> anyhow::Result<Self> {
        let mut library = PromptLibrary::default();
        library.add(CLOUD_PROMPT_NAME.parse()?, CLOUD_TEXT, &model)?;
        let service = CloudService {
            computer: PromptComputer::start(Arc::clone(&model), STORE_BYTES_MAX),
            library: library.into(),
            public_prompts: PublicPrompts::Accepted,
        };
        let cloud = CloudIdentity::in_memory()?;
        let edge = EdgeIdentity::join(&cloud.invite(INVITATION_LIFETIME)?)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let (cloud, uplink, link) = runtime.block_on(async {
            let loopback = (Ipv4Addr::LOCALHOST, 0).into();
            let cloud = service.start(loopback, &cloud, LinkConfig::default())?;
            let uplink = Uplink::new(&[cloud.addr()], &edge, LinkConfig::default())?;
            let link = uplink.link().await?;
            anyhow::Ok((cloud, uplink, link))
        })?;
        Ok(Self {
            runtime,
            model,
            uplink,
            link,
            _cloud: cloud,
        })
    }

    fn first_round(&self, text: &PrivateText) -> Result<Round, Failure> {
        let asked_at = Instant::now();
        let name: PromptName = CLOUD_PROMPT_NAME
            .parse()
            .map_err(Failure::of(Exit::Usage))?;
        let fetching = CloudPrompt::fetch(&self.uplink, &self.model, PromptRef::Named(name));
        let prompt = self
            .runtime
            .block_on(fetching)
            .map_err(link::cloud_failure)?;
        let cloud_tokens = prompt.manifest.tokens.clone();
        let private = self.private_tokens(&cloud_tokens, text)?;
        page::prompts(&self.model, &cloud_tokens, (text, &private))?;
        let answered = self.answer(&cloud_tokens, &private, Cloud::Arriving(prompt), asked_at)?;
        Ok(Round {
            cloud_tokens,
            private,
            answered,
        })
    }

    /// A line of private text ends with the line break that the model was trained with.
    fn private_tokens(
        &self,
        cloud: &[TokenId],
        text: &PrivateText,
    ) -> Result<PrivateTokens, Failure> {
        let tokenizer = self.model.tokenizer().map_err(Failure::of(Exit::Usage))?;
        let line = format!("{}\n", text.for_tokenizer().trim());
        let tokens = tokenizer.private_tokens(cloud, CLOUD_TEXT, &line);
        let tokens = tokens.map_err(Failure::of(Exit::Usage))?;
        let room = self
            .model
            .config
            .context_len_max
            .saturating_sub(cloud.len() + MAX_TOKENS);
        if tokens.len() > room {
            let error =
                anyhow::anyhow!("that is {} tokens; there is room for {room}", tokens.len());
            return Err(Failure {
                exit: Exit::Usage,
                error,
            });
        }
        Ok(PrivateTokens::new(tokens))
    }

    fn answer(
        &self,
        cloud_tokens: &[TokenId],
        private: &PrivateTokens,
        cloud: Cloud,
        asked_at: Instant,
    ) -> Result<Answer, Failure> {
        let question = self.question(private, asked_at);
        let tokenizer = self.model.tokenizer().map_err(Failure::of(Exit::Usage))?;
        let context = [cloud_tokens, private.for_engine()].concat();
        let (layer_count, out) = (
            self.model.config.layer_count,
            page::Indented(std::io::stdout()),
        );
        let mut speech = Speech::new(Some(tokenizer), &context, layer_count, out);
        let answered = answer(&question, cloud, |event| speech.hear(event));
        speech.finish().map_err(Failure::of(Exit::Usage))?;
        Ok(answered)
    }

    fn question<'a>(&'a self, private: &'a PrivateTokens, asked_at: Instant) -> Question<'a> {
        Question {
            model: &self.model,
            private,
            options: SequenceOptions::default(),
            max_tokens: MAX_TOKENS,
            stop: Stop::AtEndOfSequence,
            patience: Patience::Unlimited,
            asked_at,
        }
    }

    fn local(&self, round: &Round) -> Result<Local, Failure> {
        let whole = [round.cloud_tokens.as_slice(), round.private.for_engine()].concat();
        let whole = PrivateTokens::new(whole);
        let local = answer(
            &self.question(&whole, Instant::now()),
            Cloud::Absent,
            |_| {},
        );
        let ttft = local
            .timeline
            .ttft
            .context("a finished answer has a first token");
        Ok(Local {
            tokens: local.tokens,
            ttft: ttft.map_err(Failure::of(Exit::Usage))?,
        })
    }

    fn keep_asking(&self, cloud_tokens: &[TokenId], segment: &CloudSegment) -> Result<(), Failure> {
        if std::io::stdin().is_terminal() {
            page::interactive_help()?;
        }
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(Failure::of(Exit::Usage))?;
            if line.trim().is_empty() {
                return Ok(());
            }
            let asked_at = Instant::now();
            // A prompt that cannot be used is said so, and the next one may be better.
            let answered = self
                .private_tokens(cloud_tokens, &PrivateText::new(line))
                .and_then(|private| {
                    let cloud = Cloud::Present(segment.clone());
                    self.answer(cloud_tokens, &private, cloud, asked_at)
                });
            match answered {
                Ok(answered) => page::interactive_result(answered.timeline.ttft)?,
                Err(failure) => eprintln!("{:#}", failure.error),
            }
        }
        Ok(())
    }
}
