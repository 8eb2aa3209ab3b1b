//! What was foretold of bringing a cloud prompt in, beside what it took. Public facts only.

use std::time::{Duration, Instant};

use edgeprompt_kv::KvDtype;
use edgeprompt_telemetry::names;
use serde_json::Value;

use crate::planner::{Plan, Source};

/// A plan that is being followed.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) plan: Plan,
    /// The zero of its times.
    pub(crate) planned_at: Instant,
}

/// What came of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Where the layers were to come from.
    pub source: Source,
    /// In which number format they were to come; `None` if none were.
    pub codec: Option<KvDtype>,
    /// How long it should have taken until the last was here; `None` if nothing was known.
    pub predicted: Option<Duration>,
    /// How long it took.
    pub actual: Duration,
    /// How much longer that is than the best alternative should have taken; `None` if none was known.
    pub regret: Option<Duration>,
}

impl Planned {
    /// When the last layer should be here; `None` if nothing was known of the source.
    pub(crate) fn last_layer_at(&self) -> Option<Instant> {
        self.planned_at.checked_add(self.plan.until_last_layer()?)
    }

    /// What came of it if the last layer is here now.
    pub(crate) fn outcome(&self, now: Instant) -> Outcome {
        let actual = now.saturating_duration_since(self.planned_at);
        Outcome {
            source: self.plan.source(),
            codec: self.plan.codec(),
            predicted: self.plan.until_last_layer(),
            actual,
            regret: self.plan.regret(actual),
        }
    }
}

impl Outcome {
    /// Counts it.
    pub(crate) fn count(&self) {
        count_plan(self.source);
        if let Some(codec) = self.codec {
            metrics::counter!(names::EDGE_KV_PLAN_CODECS_TOTAL, names::CODEC => codec.name())
                .increment(1);
        }
        if let Some(predicted) = self.predicted {
            // Both or neither, so that their sums can be compared.
            metrics::histogram!(names::EDGE_KV_PLAN_PREDICTED_SECONDS).record(predicted);
            metrics::histogram!(names::EDGE_KV_PLAN_ACTUAL_SECONDS).record(self.actual);
        }
        if let Some(regret) = self.regret {
            metrics::histogram!(names::EDGE_KV_PLAN_REGRET_SECONDS).record(regret);
        }
    }

    /// Adds it to what is told of a cloud prompt.
    pub(crate) fn describe(&self, value: &mut Value) {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        value["planner_choice"] = self.source.label().into();
        value["planner_codec"] = self.codec.map(KvDtype::name).into();
        value["planner_predicted_ms"] = self.predicted.map(ms).into();
        value["planner_actual_ms"] = ms(self.actual).into();
        value["planner_regret_ms"] = self.regret.map(ms).into();
    }
}

/// Counts a choice of a source.
pub(crate) fn count_plan(source: Source) {
    metrics::counter!(names::EDGE_KV_PLANS_TOTAL, names::SOURCE => source.label()).increment(1);
}

#[cfg(test)]
mod tests {
    use edgeprompt_kv::KvGeometry;
    use serde_json::json;

    use super::*;
    use crate::planner::{FromCloud, Job, Known, Planner, Tokens, Ways};
    use crate::prefill_speed::PrefillSpeed;
    use crate::wire_codec::Codecs;

    #[test]
    fn what_it_took_is_told_beside_what_was_foretold() {
        // Four layers of 10 ms each, or a cloud of which nothing is known.
        let planner = Planner::new(PrefillSpeed::new(Duration::from_millis(10), 8));
        let job = Job::new(KvGeometry::new(4, 1, 4).unwrap(), 8);
        let told = |cloud, took| {
            let ways = Ways {
                cloud,
                tokens: Tokens::Known,
                ..Ways::default()
            };
            let planned_at = Instant::now();
            let plan = planner.plan(&job, &ways).unwrap();
            let planned = Planned { plan, planned_at };
            let mut value = json!({});
            let now = planned_at + Duration::from_millis(took);
            planned.outcome(now).describe(&mut value);
            value
        };
        let unmeasured = FromCloud {
            codecs: Codecs::UpTo(KvDtype::Int8),
            speed: Known::Unmeasured,
        };
        assert_eq!(
            told(None, 50),
            json!({"planner_choice": "local", "planner_codec": null, "planner_predicted_ms": 40.0,
                   "planner_actual_ms": 50.0, "planner_regret_ms": null})
        );
        assert_eq!(
            told(Some(unmeasured), 70),
            json!({"planner_choice": "cloud", "planner_codec": "int8", "planner_predicted_ms": null,
                   "planner_actual_ms": 70.0, "planner_regret_ms": 30.0})
        );
    }
}
