//! `edge-node audit`: asks a live cloud with private prompts made up for the purpose, and shows
//! everything that was sent, so that whoever is answerable can see that nothing private was in it.

pub mod canary;
pub mod findings;
mod page;
pub mod prompts;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use edgeprompt_engine::SequenceOptions;
use edgeprompt_launch::{Exit, Failure, ModelArgs, say};
use edgeprompt_model::Model;
use edgeprompt_protocol::{PromptName, PromptRef};
use edgeprompt_transport::EdgeIdentity;
use tokio::runtime::Runtime;

use crate::answer::{Cloud, Question, Stop, answer};
use crate::cloud_prompt::CloudPrompt;
use crate::link::{self, CloudArgs};
use crate::patience::Patience;

use findings::{Session, findings};
use prompts::made_up;

/// Tokens generated in each session: what is sent must not depend on an answer either.
const ANSWER_TOKENS: usize = 8;
/// Tokens of the longest made-up private prompt.
const PRIVATE_LEN_MAX: usize = 256;
/// Tokens that a session needs beside the cloud prompt, at least.
const ROOM_MIN: usize = 32;
/// How long a session waits for its last layers.
const CLOSE_PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `edge-node audit`.
#[derive(Args)]
pub struct AuditArgs {
    #[command(flatten)]
    cloud: CloudArgs,
    /// The cloud prompt to ask with
    #[arg(long, value_name = "NAME", env = "EDGE_CLOUD_PROMPT")]
    cloud_prompt: PromptName,
    /// Private prompts to make up and ask with
    #[arg(long, value_name = "N", default_value = "20")]
    cases: NonZeroU64,
    #[command(flatten)]
    model: ModelArgs,
}

/// Audits, and prints what was found.
///
/// # Errors
/// [`Failure`]; [`Exit::VerificationFailed`] if anything was sent that should not have been.
pub fn run(args: &AuditArgs) -> Result<(), Failure> {
    let model = Arc::new(args.model.open()?);
    let identity = args.cloud.load_identity(link::JOIN_FIRST)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Failure::of(Exit::Usage))?;
    let auditor = Auditor {
        args,
        model: &model,
        identity: &identity,
        runtime: &runtime,
    };
    say(page::title(
        args.cases.get(),
        &args.cloud_prompt,
        &args.cloud.addr,
    ))?;
    let sessions: Result<Vec<_>, _> = (0..args.cases.get())
        .map(|index| auditor.session(index))
        .collect();
    let sessions = sessions?;
    let found = findings(&sessions);
    say(page::report(&sessions, &found))?;
    if found.is_empty() {
        return Ok(());
    }
    let error = anyhow!("{} findings: what is sent is not clean", found.len());
    Err(Failure {
        exit: Exit::VerificationFailed,
        error,
    })
}

/// Who asks whom, with what.
struct Auditor<'a> {
    args: &'a AuditArgs,
    model: &'a Arc<Model>,
    identity: &'a EdgeIdentity,
    runtime: &'a Runtime,
}

impl Auditor<'_> {
    /// One session on a link of its own: fetch, answer, close.
    fn session(&self, index: u64) -> Result<Session, Failure> {
        let uplink = self
            .runtime
            .block_on(link::uplink(&self.args.cloud.addr, self.identity))?;
        let asked_at = Instant::now();
        let name = PromptRef::Named(self.args.cloud_prompt.clone());
        let fetching = CloudPrompt::fetch(&uplink, self.model, name);
        let prompt = self
            .runtime
            .block_on(fetching)
            .map_err(link::cloud_failure)?;
        let public_len = prompt.manifest.tokens.len();
        let made = made_up(self.model, index, self.room(public_len)?)
            .map_err(Failure::of(Exit::ModelMismatch))?;
        let question = Question {
            model: self.model,
            private: &made.private,
            options: SequenceOptions::default(),
            max_tokens: ANSWER_TOKENS,
            stop: Stop::AtEndOfSequence,
            patience: Patience::Unlimited,
            asked_at,
        };
        answer(&question, Cloud::Arriving(prompt), |_| {});
        let sent = uplink.sent().clone();
        let stats = self.runtime.block_on(uplink.link()).map(|l| l.stats());
        self.runtime.block_on(uplink.close(CLOSE_PATIENCE));
        Ok(Session {
            private_len: made.private.len(),
            canary: made.canary,
            frames: sent.frames().iter().map(|frame| frame.to_vec()).collect(),
            omitted_count: sent.omitted_count(),
            datagram_bytes: stats.map_or(0, |stats| stats.sent_bytes),
        })
    }

    /// How long a private prompt may be after a cloud prompt.
    fn room(&self, public_len: usize) -> Result<usize, Failure> {
        let context_len_max = self.model.config.context_len_max;
        let room = context_len_max.saturating_sub(public_len + ANSWER_TOKENS);
        if room < ROOM_MIN {
            let error = anyhow!(
                "the cloud prompt has {public_len} tokens and the model's context {context_len_max}: audit with a shorter one"
            );
            return Err(Failure {
                exit: Exit::Usage,
                error,
            });
        }
        Ok(room.min(PRIVATE_LEN_MAX))
    }
}
