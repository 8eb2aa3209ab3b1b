//! What a soak's edge says of itself and the system says of it, once a second.

use std::collections::BTreeMap;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::users::Ledger;
use crate::http::Server;

/// Between two samples.
const PERIOD: Duration = Duration::from_secs(1);

/// The edge at one moment.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Sample {
    /// Since the users began.
    pub(super) at_s: f64,
    /// Memory of the process that is in use.
    pub(super) resident_mib: f64,
    /// Private blocks in use.
    pub(super) used_blocks: u64,
    /// Private blocks that there are.
    pub(super) block_count: u64,
    /// Requests that compute.
    pub(super) running: u64,
    /// Requests that wait for their turn.
    pub(super) waiting: u64,
    /// Tokens generated since the server began.
    pub(super) generated_tokens: u64,
    /// Whole answers that the users have heard.
    pub(super) answers: u64,
    /// Requests that failed.
    pub(super) failed: u64,
}

/// What the edge has counted since it began.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct Counters {
    /// Answers by where the keys and values of their cloud prompt came from.
    pub(super) answers_from: BTreeMap<String, u64>,
    /// Bytes of keys and values from the cloud.
    pub(super) cloud_bytes: u64,
    /// Files of the disk cache that were found damaged.
    pub(super) damaged: u64,
    /// Segments that could not be written.
    pub(super) unwritten: u64,
    /// Layers that the cloud did not send and the edge computed.
    pub(super) recomputed_layers: u64,
    /// Transfers that ended without all their layers.
    pub(super) failed_transfers: u64,
}

/// Looks once a second until it is stopped.
pub(super) struct Watch {
    /// Dropping it stops the thread.
    stop: Sender<()>,
    thread: JoinHandle<Vec<Sample>>,
}

/// Whom to look at.
#[derive(Clone)]
pub(super) struct Watched {
    /// The edge.
    pub(super) server: Server,
    /// Its process.
    pub(super) process: u32,
    /// Its users.
    pub(super) ledger: Ledger,
}

impl Watch {
    /// Begins.
    pub(super) fn start(watched: Watched) -> Self {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut samples = Vec::new();
            loop {
                match watched.sample() {
                    Ok(sample) => samples.push(sample),
                    Err(error) => {
                        let ledger = &watched.ledger;
                        ledger.failed(format!("the edge does not say how it is: {error:#}"));
                    }
                }
                let next = PERIOD.saturating_mul(u32::try_from(samples.len()).unwrap_or(u32::MAX));
                let wait = next.as_secs_f64() - watched.ledger.now_s();
                // A late sample is followed by the next one at its time, or at once.
                let wait = Duration::try_from_secs_f64(wait).unwrap_or_default();
                if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                    return samples;
                }
            }
        });
        Self { stop, thread }
    }

    /// Everything that was seen.
    pub(super) fn stop(self) -> Result<Vec<Sample>> {
        drop(self.stop);
        let samples = self.thread.join();
        samples.map_err(|_| anyhow::anyhow!("the watch has panicked"))
    }
}

impl Watched {
    /// The edge now.
    pub(super) fn sample(&self) -> Result<Sample> {
        let status = self.server.get_json("/v1/status")?;
        let (answers, failed) = {
            let totals = self.ledger.totals();
            (totals.answer_count(), totals.failed_count)
        };
        let process = std::fs::read_to_string(format!("/proc/{}/status", self.process));
        let process = process.context("the edge's process is gone")?;
        let count = |value: &Value| value.as_u64().context("the status has no such count");
        Ok(Sample {
            at_s: self.ledger.now_s(),
            resident_mib: resident_mib(&process).context("the system does not tell memory")?,
            used_blocks: count(&status["private_kv"]["used_blocks"])?,
            block_count: count(&status["private_kv"]["block_count"])?,
            running: count(&status["requests"]["running"])?,
            waiting: count(&status["requests"]["waiting"])?,
            generated_tokens: count(&status["generation_tokens_total"])?,
            answers,
            failed,
        })
    }

    /// What was counted until now.
    pub(super) fn counters(&self) -> Result<Counters> {
        let metrics = self.server.get("/metrics")?;
        if !metrics.contains("edge_num_requests_running") {
            bail!("the edge's metrics are not there");
        }
        Ok(Counters::read(&metrics))
    }
}

impl Counters {
    fn read(metrics: &str) -> Self {
        let of = |name: &str, labels: &[&str]| {
            let lines = metrics.lines().filter(|line| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with([' ', '{']))
                    && labels.iter().all(|label| line.contains(label))
            });
            lines.filter_map(value).sum::<u64>()
        };
        let sources = ["memory", "disk", "cloud", "local"].map(|source| {
            let label = format!("source=\"{source}\"");
            let count = of("edge_kv_source_answers_total", &[&label]);
            (source.to_owned(), count)
        });
        let disk = "edge_kv_disk_failed_total";
        let recomputed = "edge_kv_layers_recomputed_total";
        Self {
            answers_from: sources.into(),
            cloud_bytes: of("edge_kv_source_bytes_total", &["source=\"cloud\""]),
            damaged: of(disk, &["reason=\"damaged\""]),
            unwritten: of(disk, &["reason=\"unwritable\""]) + of(disk, &["reason=\"no_room\""]),
            // Layers that it computed because that was faster are no sign of trouble.
            recomputed_layers: of(recomputed, &[])
                .saturating_sub(of(recomputed, &["reason=\"faster_here\""])),
            failed_transfers: of("edge_kv_xfer_failed_total", &[]),
        }
    }

    /// What was counted since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let from = self.answers_from.iter().map(|(source, count)| {
            let before = earlier.answers_from.get(source).copied();
            (source.clone(), count.saturating_sub(before.unwrap_or(0)))
        });
        Self {
            answers_from: from.collect(),
            cloud_bytes: self.cloud_bytes.saturating_sub(earlier.cloud_bytes),
            damaged: self.damaged.saturating_sub(earlier.damaged),
            unwritten: self.unwritten.saturating_sub(earlier.unwritten),
            recomputed_layers: self
                .recomputed_layers
                .saturating_sub(earlier.recomputed_layers),
            failed_transfers: self
                .failed_transfers
                .saturating_sub(earlier.failed_transfers),
        }
    }
}

/// The value at the end of a line of metrics.
fn value(line: &str) -> Option<u64> {
    let (_, value) = line.rsplit_once(' ')?;
    value.parse().ok()
}

/// Resident memory in what the system tells of a process.
fn resident_mib(status: &str) -> Option<f64> {
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u32 = line.split_whitespace().next()?.parse().ok()?;
    Some(f64::from(kib) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_name_and_label() {
        let metrics = "\
# TYPE edge_kv_disk_failed_total counter
edge_kv_disk_failed_total{reason=\"damaged\"} 3
edge_kv_disk_failed_total{reason=\"unwritable\"} 4
edge_kv_layers_recomputed_total{reason=\"slow\"} 5
edge_kv_layers_recomputed_total{reason=\"lost\"} 6
edge_kv_layers_recomputed_total{reason=\"faster_here\"} 100
edge_kv_source_answers_total{source=\"disk\"} 7
";
        let counters = Counters::read(metrics);
        assert_eq!((counters.damaged, counters.unwritten), (3, 4));
        assert_eq!(counters.recomputed_layers, 11);
        assert_eq!(counters.answers_from["disk"], 7);
        assert_eq!(counters.since(&counters).damaged, 0);
    }

    #[test]
    fn memory_is_read_from_what_the_system_prints() {
        let status = "Name:\tedge\nVmHWM:\t  9999 kB\nVmRSS:\t  2048 kB\n";
        assert_eq!(resident_mib(status), Some(2.0));
        assert_eq!(resident_mib("Name:\tedge\n"), None);
    }
}
