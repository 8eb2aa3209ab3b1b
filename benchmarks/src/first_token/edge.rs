//! The edge of `first-token`: `edge-node serve` in a process that this program starts again as.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use edgeprompt_launch::ModelArgs;
use serde_json::json;

use super::Sample;
use super::client;

/// How long a segment may take to get on the disk.
const DISK_PATIENCE: Duration = Duration::from_secs(60);

/// Tokens of each answer.
const ANSWER_LEN: usize = 8;

/// A serving edge; dropping it ends it as a crash would.
pub(super) struct Edge {
    child: Child,
    addr: String,
}

impl Edge {
    /// Starts one that has the identity in `dir` and an own cache, and warms it up.
    pub(super) fn start(
        model: ModelArgs,
        cloud: &str,
        (dir, cache): (&Path, &Path),
    ) -> Result<Self> {
        let program = std::env::current_exe().context("this program's own path is not known")?;
        let mut command = Command::new(program);
        command.args(["first-token-edge", "--port", "0", "--cloud", cloud]);
        command.arg("--identity").arg(dir.join("identity"));
        command.arg("--cache-dir").arg(cache);
        command.arg("--remembered").arg(cache.join("names"));
        if let Some(path) = model.model {
            command.arg("--model").arg(path);
        }
        command.args(["--device", &model.device.to_string()]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("the edge does not start")?;
        let out = child.stdout.take().context("a child's output is piped")?;
        let mut edge = Self {
            child,
            addr: String::new(),
        };
        for line in BufReader::new(out).lines() {
            if let Some(addr) = line?.strip_prefix("listening on http://") {
                edge.addr = addr.to_owned();
                // The first pass of a process pays for its thread pool.
                edge.complete(&json!(false))?;
                return Ok(edge);
            }
        }
        bail!("the edge has ended: its log is above")
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
            let listed = client::get(&self.addr, "/v1/cloud-prompts")?;
            let listed: serde_json::Value = serde_json::from_str(&listed)?;
            let prompts = listed["data"].as_array().context("a list is expected")?;
            if prompts.iter().all(|prompt| prompt["on_disk"] == true) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the cloud prompt is not on disk after {DISK_PATIENCE:?}")
    }

    fn complete(&self, cloud_prompt: &serde_json::Value) -> Result<Sample> {
        let body = json!({
            "prompt": "Ada asks what the ruby plan costs.\n", "cloud_prompt": cloud_prompt,
            "temperature": 0, "max_tokens": ANSWER_LEN, "ignore_eos": true, "stream": true,
        });
        client::stream(&self.addr, &body)
    }

    fn received_bytes(&self) -> Result<u64> {
        let metrics = client::get(&self.addr, "/metrics")?;
        let mut lines = metrics.lines();
        let value = lines.find_map(|line| line.strip_prefix("edge_kv_bytes_transferred_total "));
        // Nothing was received before the first sample.
        Ok(value.unwrap_or("0").parse()?)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
