//! The edge process of `benchmarks pipeline`: the product's edge, told what to ask and in which way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use edge_node::answer::{Answer, Cloud, Question, Stop, answer};
use edge_node::cloud_prompt::CloudPrompt;
use edge_node::own_speed::OwnSpeed;
use edge_node::patience::Patience;
use edge_node::planned_fetch;
use edge_node::planner::Planner;
use edge_node::prefill_speed::PrefillSpeed;
use edge_node::private::PrivateTokens;
use edge_node::uplink::Uplink;
use edgeprompt_engine::SequenceOptions;
use edgeprompt_kv::KvDtype;
use edgeprompt_launch::ModelArgs;
use edgeprompt_model::Model;
use edgeprompt_protocol::{PromptRef, PublicPrompt};
use edgeprompt_transport::{EdgeIdentity, LinkConfig};
use tokio::runtime::Runtime;

use super::busy::BusyThreads;
use super::messages::{Answered, Ask, EdgeOrder, EdgeReady, EdgeReply, Mode, RecomputedLayers};
use super::point::ms;
use crate::children;

/// How long the last link may take to close.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Arguments of the edge process.
#[derive(Args)]
pub(crate) struct EdgeArgs {
    #[command(flatten)]
    model: ModelArgs,
}

/// An edge and what it has joined.
struct Edge {
    model: Arc<Model>,
    speed: OwnSpeed,
    runtime: Runtime,
    identity: Option<EdgeIdentity>,
    uplink: Option<Uplink>,
}

/// Obeys until standard input ends.
pub(crate) fn run(args: &EdgeArgs) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let mut edge = Edge {
        speed: OwnSpeed::new(PrefillSpeed::measure(&model)),
        model,
        runtime: super::network_runtime()?,
        identity: None,
        uplink: None,
    };
    let ready = EdgeReady {
        context_len_max: edge.model.config.context_len_max,
    };
    children::serve(ready, |order| edge.obey(order))
}

impl Edge {
    fn obey(&mut self, order: EdgeOrder) -> Result<EdgeReply> {
        match order {
            EdgeOrder::Join { token } => {
                self.identity = Some(EdgeIdentity::join(&token.parse()?)?);
                Ok(EdgeReply::Done)
            }
            EdgeOrder::Reach { addr, codec } => {
                self.reach(addr, codec)?;
                Ok(EdgeReply::Done)
            }
            EdgeOrder::Leave => {
                self.leave();
                Ok(EdgeReply::Done)
            }
            EdgeOrder::Ask(ask) => Ok(EdgeReply::Answered(Box::new(self.ask(ask)?))),
        }
    }

    fn reach(&mut self, addr: SocketAddr, codec: KvDtype) -> Result<()> {
        self.leave();
        let identity = self.identity.as_ref().context("the edge has not joined")?;
        // Sockets belong to the runtime.
        let _entered = self.runtime.enter();
        let uplink = Uplink::new(&[addr], identity, LinkConfig::default())?;
        self.uplink = Some(uplink.asking_for(codec));
        Ok(())
    }

    fn leave(&mut self) {
        if let Some(uplink) = self.uplink.take() {
            self.runtime.block_on(uplink.close(CLOSE_PATIENCE));
        }
    }

    /// Answers, then waits until nothing is on its way any more.
    fn ask(&self, ask: Ask) -> Result<Answered> {
        let vocab_size = self.model.config.vocab_size;
        let public = ask.public.tokens(vocab_size);
        let private = ask.private.tokens(vocab_size);
        if ask.mode == Mode::Local {
            let whole = PrivateTokens::new([public, private].concat());
            let (busy, asked_at) = (BusyThreads::start(), Instant::now());
            let answered = self.answer(ask.mode, &whole, (Cloud::Absent, asked_at));
            return report(answered, &busy);
        }
        let private = PrivateTokens::new(private);
        let prompt = PromptRef::Public(PublicPrompt::Tokens(public.clone()));
        let uplink = self.uplink.as_ref().context("the edge has no uplink")?;
        let planner = Planner::new(self.speed.at(Instant::now()));
        let (busy, asked_at) = (BusyThreads::start(), Instant::now());
        let (cloud, plan) = self.runtime.block_on(async {
            if ask.mode == Mode::Planned {
                let known = (prompt, public);
                return planned_fetch::obtain(&planner, uplink, &self.model, known).await;
            }
            let fetched = CloudPrompt::fetch(uplink, &self.model, prompt).await?;
            Ok((Cloud::Arriving(fetched), None))
        })?;
        let answered = self.answer(ask.mode, &private, (cloud, asked_at));
        if let Some(speed) = answered.speed {
            self.speed.note(speed, Instant::now());
        }
        let mut answered = report(answered, &busy)?;
        // Where the private prompt is no secret, its share is known as well.
        let work = planner.computing(private.len());
        let predicted = plan.and_then(|plan| plan.until_done(work));
        answered.predicted_ms = predicted.map(ms);
        self.runtime.block_on(uplink.settle());
        match &answered.recomputed {
            Some(lost) if ask.mode == Mode::Streaming => {
                bail!(
                    "{} layers were not streamed: {}",
                    lost.layer_count,
                    lost.detail
                )
            }
            Some(_) | None => Ok(answered),
        }
    }

    fn answer(
        &self,
        mode: Mode,
        private: &PrivateTokens,
        (cloud, asked_at): (Cloud, Instant),
    ) -> Answer {
        let question = Question {
            model: &self.model,
            private,
            options: SequenceOptions::default(),
            max_tokens: 1,
            stop: Stop::AtLengthOnly,
            patience: match mode {
                Mode::Streaming | Mode::Local => Patience::Unlimited,
                Mode::Planned => Patience::default(),
            },
            asked_at,
        };
        answer(&question, cloud, |_| {})
    }
}

fn report(answered: Answer, busy: &BusyThreads) -> Result<Answered> {
    let busy_threads = busy.so_far();
    let first = answered.tokens.for_engine().first();
    Ok(Answered {
        first_token: first.context("an answer has a token")?.0,
        timeline: answered.timeline,
        predicted_ms: None,
        received_bytes: answered.received_bytes,
        chosen_count: answered.chosen_count,
        recomputed: answered.recomputed.map(|recomputed| RecomputedLayers {
            layer_count: recomputed.layer_count,
            reason: recomputed.loss.reason.label().to_owned(),
            detail: recomputed.loss.detail,
        }),
        busy_threads,
    })
}
