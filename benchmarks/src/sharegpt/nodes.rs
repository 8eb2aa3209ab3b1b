//! The cloud's and the edge's process, with the emulated link between them.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use edgeprompt_launch::ModelArgs;
use edgeprompt_model::ComputeDevice;
use edgeprompt_testkit::emulator::{EmulatorHandle, LinkEmulator};

use super::lens::Lens;
use super::messages::{Answered, EdgeOrder, EdgeReply, Mode, RelayFill, Request, Setting};
use super::outcome::Series;
use super::plan::{Plan, ShareGptArgs};
use crate::children::{ChildProcess, ChildSpec};
use crate::link_profile;
use crate::pipeline::messages::CloudReady;
use crate::pipeline::plan::{model_arguments, model_or_default};

/// Most tokens of a cloud prompt that is computed before anything is measured.
const WARM_UP_LEN: usize = 64;

/// Both processes, joined.
pub(super) struct Nodes {
    edge: ChildProcess,
    /// They stop when dropped.
    _cloud: ChildProcess,
    link: EmulatorHandle,
    /// Of the next cloud prompts.
    next_ordinal: u64,
}

impl Nodes {
    pub(super) fn start(args: &ShareGptArgs, plan: &Plan) -> Result<Self> {
        let profile = link_profile::read(&plan.link_profile, plan.seed)?;
        let model = model_or_default(&args.model);
        let longest = plan.cloud_lens.iter().max().context("no --cloud-lens")?;
        let on = |device: Option<ComputeDevice>| ModelArgs {
            device: device.unwrap_or(model.device),
            ..model.clone()
        };
        let mut cloud_args = arguments("pipeline-cloud", &on(args.cloud_device));
        cloud_args.extend(["--prompt-len-max".to_owned(), longest.to_string()]);
        let (cloud, ready): (_, CloudReady) = ChildProcess::start(&ChildSpec {
            name: "cloud",
            args: cloud_args,
            threads: plan.cloud_threads,
        })?;
        let (edge, context_len_max): (_, usize) = ChildProcess::start(&ChildSpec {
            name: "edge",
            args: arguments("sharegpt-edge", &on(args.edge_device)),
            threads: plan.edge_threads,
        })?;
        ensure!(
            longest + plan.edge_len < context_len_max,
            "{longest} and {} tokens do not fit the model's context of {context_len_max}: give \
             shorter --cloud-lens",
            plan.edge_len
        );
        let link = LinkEmulator::start(ready.addr, profile)?;
        let mut nodes = Self {
            edge,
            _cloud: cloud,
            link,
            next_ordinal: 0,
        };
        let addr: SocketAddr = nodes.link.addr();
        let token = ready.join_token;
        nodes.done(&EdgeOrder::Join { token, addr })?;
        nodes.warm_up(plan)?;
        Ok(nodes)
    }

    /// Both compute once before anything is measured: the first time has to find its memory.
    fn warm_up(&mut self, plan: &Plan) -> Result<()> {
        let lens = Lens::short();
        let shortest = plan.cloud_lens.iter().copied().min();
        let warm_up_len = shortest.map_or(WARM_UP_LEN, |len| len.min(WARM_UP_LEN));
        for mode in [Mode::Paged, Mode::Edgeprompt] {
            self.open_mode(plan, &lens, (mode, warm_up_len))?;
            self.answer(mode, vec![plan.request(&lens, 0, 0.0)])?;
        }
        self.close()
    }

    /// An engine for every mode, on a cloud prompt of a length.
    pub(super) fn open(
        &mut self,
        plan: &Plan,
        lens: &Lens,
        cloud_len: usize,
    ) -> Result<Vec<Series>> {
        let modes = plan.modes.iter();
        modes
            .map(|mode| self.open_mode(plan, lens, (*mode, cloud_len)))
            .collect()
    }

    pub(super) fn open_mode(
        &mut self,
        plan: &Plan,
        lens: &Lens,
        (mode, cloud_len): (Mode, usize),
    ) -> Result<Series> {
        // A mode that streams brings the cloud a prompt that it has not computed: of two, one has its
        // own.
        let ordinal = match mode {
            Mode::Concat => self.next_ordinal + 1,
            _ => self.next_ordinal,
        };
        let setting = Setting {
            mode,
            cloud: plan.tokens(ordinal, cloud_len),
            relay_fill: match plan.request_rates.is_empty() {
                true => RelayFill::Beforehand,
                false => RelayFill::WithTheFirst,
            },
            cloud_store: plan.cloud_store,
            edge_share: plan.edge_share,
            max_num_seqs: plan.max_num_seqs,
            max_num_batched_tokens: plan.max_num_batched_tokens,
            private_len_max: plan.edge_len + lens.longest(),
        };
        match self.edge.ask(&EdgeOrder::Open(setting))? {
            EdgeReply::Opened { fill_s } => Ok(Series::new(mode, setting.cloud, fill_s)),
            _ => bail!("the edge does not open an engine"),
        }
    }

    pub(super) fn answer(&mut self, mode: Mode, requests: Vec<Request>) -> Result<Answered> {
        match self.edge.ask(&EdgeOrder::Answer { mode, requests })? {
            EdgeReply::Answered(answered) => Ok(answered),
            _ => bail!("the edge does not answer"),
        }
    }

    /// How many tokens a text has; nothing if the model has no tokenizer.
    pub(super) fn count_tokens(&mut self, text: &str) -> Result<Option<usize>> {
        match self.edge.ask(&EdgeOrder::CountTokens(text.to_owned()))? {
            EdgeReply::Counted(count) => Ok(count),
            _ => bail!("the edge does not count"),
        }
    }

    /// Drops all engines; those that come next are on other cloud prompts.
    pub(super) fn close(&mut self) -> Result<()> {
        self.next_ordinal += 2;
        self.drop_engines()
    }

    /// Those that come next are on the same cloud prompts.
    pub(super) fn drop_engines(&mut self) -> Result<()> {
        self.done(&EdgeOrder::Close)
    }

    fn done(&mut self, order: &EdgeOrder) -> Result<()> {
        match self.edge.ask(order)? {
            EdgeReply::Done => Ok(()),
            _ => bail!("the edge answers what it was not asked"),
        }
    }
}

fn arguments(subcommand: &str, model: &ModelArgs) -> Vec<String> {
    let mut arguments = vec![subcommand.to_owned()];
    arguments.extend(model_arguments(model));
    arguments
}
