//! Measuring the points: the two processes, the emulated link between them, and what is asked in
//! which order.

use anyhow::{Context, Result, bail};
use edgeprompt_kv::KvDtype;
use edgeprompt_launch::ModelArgs;
use edgeprompt_testkit::emulator::LinkEmulator;

use super::messages::{
    Answered, Ask, CloudReady, EdgeOrder, EdgeReady, EdgeReply, Mode, Store, Stored, TokensSpec,
};
use super::plan::{CloudStore, Plan, Point, model_arguments};
use super::point::{Measured, PointResult, Round};
use crate::children::{ChildProcess, ChildSpec};

/// The private prompt's ordinal; cloud prompts have those that follow.
const PRIVATE_ORDINAL: u64 = 0;

/// Both processes, joined.
pub(crate) struct Nodes {
    cloud: ChildProcess,
    edge: ChildProcess,
    cloud_ready: CloudReady,
    /// Threads busy in the cloud process while it computed its first prompts.
    pub(crate) cloud_busy_threads: f64,
    next_ordinal: u64,
}

impl Nodes {
    /// Starts both, and lets the edge join the cloud.
    pub(crate) fn start(plan: &Plan, model: &ModelArgs) -> Result<Self> {
        let arguments = |subcommand: &str| {
            let mut arguments = vec![subcommand.to_owned()];
            arguments.extend(model_arguments(model));
            arguments
        };
        let mut cloud_args = arguments("pipeline-cloud");
        cloud_args.extend([
            "--prompt-len-max".to_owned(),
            plan.cloud_len_max().to_string(),
        ]);
        let (cloud, cloud_ready) = ChildProcess::start(&ChildSpec {
            name: "cloud",
            args: cloud_args,
            threads: plan.cloud_threads,
        })?;
        let (edge, edge_ready) = ChildProcess::start(&ChildSpec {
            name: "edge",
            args: arguments("pipeline-edge"),
            threads: plan.edge_threads,
        })?;
        check_length(plan, &edge_ready)?;
        let mut nodes = Self {
            cloud,
            edge,
            cloud_ready,
            cloud_busy_threads: 0.0,
            next_ordinal: PRIVATE_ORDINAL + 1,
        };
        let token = nodes.cloud_ready.join_token.clone();
        nodes.order(&EdgeOrder::Join { token })?;
        nodes.warm_up(plan)?;
        Ok(nodes)
    }

    /// The digest of the model that both have: the edge takes no layers of another.
    pub(crate) fn model_digest(&self) -> &str {
        &self.cloud_ready.model_digest
    }

    /// Measures one point.
    pub(crate) fn measure(&mut self, plan: &Plan, point: Point) -> Result<PointResult> {
        let emulator = LinkEmulator::start(self.cloud_ready.addr, point.link(plan.seed))?;
        self.order(&EdgeOrder::Reach {
            addr: emulator.addr(),
            codec: point.codec,
        })?;
        let mut prompts = Prompts::at(self, plan, point)?;
        let question = |mode, public| Ask {
            mode,
            public,
            private: plan.tokens(PRIVATE_ORDINAL, plan.edge_len),
        };
        let first = prompts.next(self);
        let cold_link = self.ask(question(Mode::Streaming, first))?;
        let mut rounds = Vec::new();
        for number in 0..plan.rounds {
            let (public, other) = (prompts.next(self), prompts.next(self));
            let mut asks = [
                question(Mode::Streaming, public),
                question(Mode::Planned, other),
                question(Mode::Local, public),
            ];
            // Whatever changes over time on a machine meets each way of answering alike.
            let turn = usize::try_from(number)? % asks.len();
            asks.rotate_left(turn);
            let mut answers = Vec::new();
            for ask in asks {
                answers.push((ask.mode, self.ask(ask)?));
            }
            rounds.push(Round::of(&answers)?);
        }
        let measured = Measured {
            cold_link,
            rounds,
            emulator: emulator.stats(),
            kv_bytes_logical: self.kv_bytes_logical(point.cloud_len)?,
        };
        // While the way to the cloud is still there.
        self.order(&EdgeOrder::Leave)?;
        Ok(PointResult::of(point, measured))
    }

    /// Keys and values of so many tokens, in f32.
    fn kv_bytes_logical(&self, len: u32) -> Result<u64> {
        let geometry = &self.cloud_ready.geometry;
        let layer_bytes = geometry.layer_bytes(usize::try_from(len)?, KvDtype::F32);
        Ok(u64::try_from(layer_bytes)? * u64::from(geometry.layer_count()))
    }

    /// Both compute once before anything is measured: the first time has to find its memory.
    fn warm_up(&mut self, plan: &Plan) -> Result<()> {
        let public = self.fresh(plan, plan.cloud_len_max());
        self.store(public)?;
        // A fresh one: what is stored is not computed again.
        let next = self.fresh(plan, plan.cloud_len_max());
        self.cloud_busy_threads = self.store(next)?.busy_threads;
        self.ask(Ask {
            mode: Mode::Local,
            public,
            private: plan.tokens(PRIVATE_ORDINAL, plan.edge_len),
        })?;
        Ok(())
    }

    fn store(&mut self, prompt: TokensSpec) -> Result<Stored> {
        self.cloud.ask(&Store(prompt))
    }

    fn order(&mut self, order: &EdgeOrder) -> Result<()> {
        match self.edge.ask(order)? {
            EdgeReply::Done => Ok(()),
            EdgeReply::Answered(_) => bail!("the edge answers what it was not asked"),
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<Answered> {
        match self.edge.ask(&EdgeOrder::Ask(ask))? {
            EdgeReply::Answered(answered) => Ok(*answered),
            EdgeReply::Done => bail!("the edge does not answer"),
        }
    }

    /// A prompt that neither node has seen.
    fn fresh(&mut self, plan: &Plan, len: u32) -> TokensSpec {
        let ordinal = self.next_ordinal;
        self.next_ordinal += 1;
        plan.tokens(ordinal, len)
    }
}

/// The cloud prompts of a point.
enum Prompts<'a> {
    /// A fresh one each time.
    Fresh { plan: &'a Plan, len: u32 },
    /// The one that the cloud has stored.
    Stored(TokensSpec),
}

impl<'a> Prompts<'a> {
    fn at(nodes: &mut Nodes, plan: &'a Plan, point: Point) -> Result<Self> {
        let len = point.cloud_len;
        match plan.cloud_store {
            CloudStore::Cold => Ok(Self::Fresh { plan, len }),
            CloudStore::Warm => {
                let stored = nodes.fresh(plan, len);
                nodes.store(stored)?;
                Ok(Self::Stored(stored))
            }
        }
    }

    fn next(&mut self, nodes: &mut Nodes) -> TokensSpec {
        match self {
            Self::Fresh { plan, len } => nodes.fresh(plan, *len),
            Self::Stored(stored) => *stored,
        }
    }
}

impl Round {
    fn of(answers: &[(Mode, Answered)]) -> Result<Self> {
        let find = |mode| {
            let mut answers = answers.iter().filter(|answer| answer.0 == mode);
            let answer = answers.next().context("every way is asked in a round")?;
            anyhow::Ok(answer.1.clone())
        };
        Ok(Self {
            streaming: find(Mode::Streaming)?,
            planned: find(Mode::Planned)?,
            local: find(Mode::Local)?,
        })
    }
}

fn check_length(plan: &Plan, edge: &EdgeReady) -> Result<()> {
    let (len, len_max) = (plan.cloud_len_max() + plan.edge_len, edge.context_len_max);
    if usize::try_from(len)? >= len_max {
        bail!("prompts of {len} tokens do not fit the model's context of {len_max}");
    }
    Ok(())
}
