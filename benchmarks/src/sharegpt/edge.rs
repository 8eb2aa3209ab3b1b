//! The edge process of `benchmarks sharegpt`: an engine for each mode, told what to answer.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Args;
use edge_node::uplink::Uplink;
use edgeprompt_launch::ModelArgs;
use edgeprompt_model::Model;
use edgeprompt_transport::{EdgeIdentity, LinkConfig};
use tokio::runtime::Runtime;

use super::contest::{Contest, Network};
use super::messages::{EdgeOrder, EdgeReply, Mode};
use crate::children;
use crate::pipeline::plan::CloudStore;

/// Arguments of the edge process.
#[derive(Args)]
pub(crate) struct EdgeArgs {
    #[command(flatten)]
    model: ModelArgs,
}

struct Edge {
    model: Arc<Model>,
    runtime: Runtime,
    uplink: Option<Uplink>,
    contests: HashMap<Mode, Contest>,
}

/// Obeys until standard input ends.
pub(crate) fn run(args: &EdgeArgs) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let context_len_max = model.config.context_len_max;
    let mut edge = Edge {
        model,
        runtime: crate::pipeline::network_runtime()?,
        uplink: None,
        contests: HashMap::new(),
    };
    children::serve(context_len_max, |order| edge.obey(order))
}

impl Edge {
    fn network(&self) -> Option<Network<'_>> {
        self.uplink.as_ref().map(|uplink| Network {
            runtime: &self.runtime,
            uplink,
        })
    }

    fn obey(&mut self, order: EdgeOrder) -> Result<EdgeReply> {
        match order {
            EdgeOrder::Join { token, addr } => {
                let identity = EdgeIdentity::join(&token.parse()?)?;
                // Sockets belong to the runtime.
                let _entered = self.runtime.enter();
                self.uplink = Some(Uplink::new(&[addr], &identity, LinkConfig::default())?);
                Ok(EdgeReply::Done)
            }
            EdgeOrder::CountTokens(text) => {
                let tokenizer = self.model.tokenizer().ok();
                let tokens = tokenizer.map(|it| it.encode(&text)).transpose()?;
                Ok(EdgeReply::Counted(tokens.map(|tokens| tokens.len())))
            }
            EdgeOrder::Open(setting) => {
                self.contests.remove(&setting.mode);
                let (contest, fill) = Contest::open(&self.model, &setting)?;
                if setting.cloud_store == CloudStore::Warm && setting.mode.is_streamed() {
                    contest.have_it_computed(self.network().as_ref())?;
                }
                self.contests.insert(setting.mode, contest);
                let fill_s = fill.as_secs_f64();
                Ok(EdgeReply::Opened { fill_s })
            }
            EdgeOrder::Answer { mode, requests } => {
                let contest = self.contests.remove(&mode);
                let mut contest = contest.context("the mode has no engine")?;
                let answered = contest.answer(&requests, self.network().as_ref())?;
                self.contests.insert(mode, contest);
                Ok(EdgeReply::Answered(answered))
            }
            EdgeOrder::Close => {
                self.contests.clear();
                Ok(EdgeReply::Done)
            }
        }
    }
}
