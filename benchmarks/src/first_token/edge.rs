//! The edge of `first-token`: `edge-node serve` in a process of its own, and what is asked of it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use edgeprompt_launch::ModelArgs;
use serde_json::{Value, json};

use super::Sample;
use crate::http::Server;
use crate::pipeline::plan::model_arguments;
use crate::serving::{Node, NodeSpec, ServingNode};

/// How long a segment may take to get on the disk.
const DISK_PATIENCE: Duration = Duration::from_secs(60);

/// Tokens of each answer.
const ANSWER_LEN: usize = 8;

/// A serving edge; dropping it ends it as a crash would.
pub(super) struct Edge {
    server: Server,
    _process: ServingNode,
}

impl Edge {
    /// Starts one that has the identity in `dir` and an own cache, and warms it up.
    pub(super) fn start(
        model: &ModelArgs,
        cloud: &str,
        (dir, cache): (&Path, &Path),
    ) -> Result<Self> {
        let mut args = vec!["-q".into(), "--port".into(), "0".into()];
        args.extend(["--cloud".into(), cloud.into()]);
        args.extend(["--identity".into(), dir.join("identity").into()]);
        args.extend(["--cache-dir".into(), cache.into()]);
        args.extend(["--remembered".into(), cache.join("names").into()]);
        args.extend(model_arguments(model).into_iter().map(Into::into));
        let process = ServingNode::start(&NodeSpec {
            node: Node::Edge,
            args,
            log: None,
            threads: None,
        })?;
        let edge = Self {
            server: Server::at(process.addr()),
            _process: process,
        };
        // The first pass of a process pays for its thread pool.
        edge.complete(&json!(false))?;
        Ok(edge)
    }

    /// Asks on top of a cloud prompt.
    pub(super) fn ask(&self, cloud_prompt: &str) -> Result<Sample> {
        let before = self.received_bytes()?;
        let mut sample = self.complete(&json!(cloud_prompt))?;
        sample.cloud_bytes = self.received_bytes()? - before;
        Ok(sample)
    }

    /// Waits until every cloud prompt in memory is on disk.
    pub(super) fn wait_until_on_disk(&self) -> Result<()> {
        let give_up = Instant::now() + DISK_PATIENCE;
        while Instant::now() < give_up {
            let listed = self.server.get_json("/v1/cloud-prompts")?;
            let prompts = listed["data"].as_array().context("a list is expected")?;
            if prompts.iter().all(|prompt| prompt["on_disk"] == true) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the cloud prompt is not on disk after {DISK_PATIENCE:?}")
    }

    /// Asks for a streamed completion and times its first token.
    fn complete(&self, cloud_prompt: &Value) -> Result<Sample> {
        let body = json!({
            "prompt": "Ada asks what the ruby plan costs.\n", "cloud_prompt": cloud_prompt,
            "temperature": 0, "max_tokens": ANSWER_LEN, "ignore_eos": true, "stream": true,
        });
        let start = Instant::now();
        let mut sample = Sample {
            ttft_ms: 0.0,
            cloud_bytes: 0,
            kv_source: String::new(),
            text: String::new(),
        };
        for event in self.server.stream("/v1/completions", &body)? {
            let event = event?;
            if sample.ttft_ms == 0.0 {
                sample.ttft_ms = start.elapsed().as_secs_f64() * 1e3;
            }
            sample.text += event["choices"][0]["text"].as_str().unwrap_or_default();
            if let Some(source) = event["timings"]["kv_source"].as_str() {
                sample.kv_source = source.to_owned();
            }
        }
        Ok(sample)
    }

    fn received_bytes(&self) -> Result<u64> {
        let metrics = self.server.get("/metrics")?;
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix("edge_kv_bytes_transferred_total "));
        // Nothing was received before the first sample.
        Ok(value.unwrap_or("0").parse()?)
    }
}
