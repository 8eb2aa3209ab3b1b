//! The recorder behind the metrics, and the Prometheus text it renders.
//!
//! It does not listen: a node that wants to be scraped serves [`MetricsHandle::render`] itself.

use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::names::{self, METRICS, MetricKind};

/// The metrics recorder was not installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A process has one recorder and [`install`] was called twice, or another recorder was first.
    #[error("this process already has a metrics recorder")]
    AlreadyInstalled,
    /// The exporter refused our own table: a mistake in [`names`].
    #[error("the metrics table is not valid for the exporter: {0}")]
    Table(BuildError),
}

/// Renders the metrics recorded so far. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MetricsHandle(PrometheusHandle);

impl MetricsHandle {
    /// All metrics in the Prometheus text format (`text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds the samples of histograms into their buckets.
    ///
    /// Samples pile up until somebody calls this or [`Self::render`], so a node that may not be
    /// scraped calls it every few seconds.
    pub fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// Makes the metrics of this process be recorded, with the buckets and descriptions of [`names`].
///
/// # Errors
/// If the process already has a recorder.
pub fn install() -> Result<MetricsHandle, InstallError> {
    let recorder = recorder().map_err(InstallError::Table)?;
    let handle = MetricsHandle(recorder.handle());
    metrics::set_global_recorder(recorder).map_err(|_| InstallError::AlreadyInstalled)?;
    names::describe();
    Ok(handle)
}

/// A recorder that knows the buckets. Without them the exporter would render summaries.
fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS {
        if let MetricKind::Histogram { buckets } = metric.kind {
            builder =
                builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), buckets)?;
        }
    }
    Ok(builder.build_recorder())
}

#[cfg(test)]
mod tests {
    use metrics::{counter, gauge, histogram};

    use super::*;
    use crate::names::{
        CLOUD_EDGES_CONNECTED, CLOUD_REFUSALS_TOTAL, EDGE_TIME_TO_FIRST_TOKEN_SECONDS, REASON,
    };

    /// The text after `record` ran with a recorder of its own, so that tests stay apart.
    fn rendered(record: impl FnOnce()) -> String {
        let recorder = recorder().expect("the table is valid");
        metrics::with_local_recorder(&recorder, || {
            names::describe();
            record();
        });
        MetricsHandle(recorder.handle()).render()
    }

    #[test]
    fn a_histogram_has_vllms_buckets_and_not_quantiles() {
        let text = rendered(|| histogram!(EDGE_TIME_TO_FIRST_TOKEN_SECONDS).record(0.03));
        let bucket = |le: &str| format!("edge_time_to_first_token_seconds_bucket{{le=\"{le}\"}}");
        assert!(text.contains(&format!("{} 0\n", bucket("0.02"))), "{text}");
        assert!(text.contains(&format!("{} 1\n", bucket("0.04"))), "{text}");
        assert!(text.contains(&format!("{} 1\n", bucket("2560"))), "{text}");
        assert!(
            text.contains("# TYPE edge_time_to_first_token_seconds histogram\n"),
            "{text}"
        );
        assert!(!text.contains("quantile"), "{text}");
    }

    #[test]
    fn names_reach_the_text_unchanged_with_their_help() {
        let text = rendered(|| {
            counter!(CLOUD_REFUSALS_TOTAL, REASON => "limit").increment(2);
            gauge!(CLOUD_EDGES_CONNECTED).set(3.0);
        });
        assert!(
            text.contains("cloud_refusals_total{reason=\"limit\"} 2\n"),
            "{text}"
        );
        assert!(
            text.contains("# HELP cloud_edges_connected Edges connected now.\n"),
            "{text}"
        );
        assert!(text.contains("cloud_edges_connected 3\n"), "{text}");
    }

    #[test]
    fn a_process_has_one_recorder() {
        let handle = install().expect("no other test of this program installs one");
        counter!(names::CLOUD_PROMPTS_COMPUTED_TOTAL).increment(1);
        handle.run_upkeep();
        assert!(handle.render().contains("cloud_prompts_computed_total 1\n"));
        assert!(matches!(install(), Err(InstallError::AlreadyInstalled)));
    }
}
