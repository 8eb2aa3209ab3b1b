//! What is foretold of an answer's first token, told beside when it came. Public facts, and times of
//! one's own request.

use std::time::{Duration, Instant};

use edgeprompt_telemetry::names;

use crate::kv_origin::KvOrigin;
use crate::planner::{Planner, PrivateWork, Source};
use crate::serve::plan_log::Planned;
use crate::serve::segments::SharedPrompt;
use crate::serve::server::Server;

/// What is known when a request has found its cloud prompt.
#[derive(Debug)]
pub(crate) struct Foretold {
    /// The request's id.
    request: String,
    /// By how fast this edge computes.
    planner: Planner,
    layer_count: u32,
    awaited: Awaited,
}

/// What the last layer of a cloud prompt waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Awaited {
    /// From the request's arrival, by the plan: no time at all if it should be here already.
    until_last_layer: Duration,
    /// Where its layers were planned to come from; `None` without a cloud prompt.
    source: Option<Source>,
}

impl Foretold {
    /// Of a request with this id that arrived at such a time; `None` if nothing was known of where its
    /// cloud prompt comes from.
    pub(crate) fn of(
        server: &Server,
        cloud: Option<&SharedPrompt>,
        (id, asked_at): (&str, Instant),
    ) -> Option<Self> {
        Some(Self {
            request: id.to_owned(),
            planner: server.prompts.planner(),
            layer_count: server.model.geometry.layer_count(),
            awaited: Awaited::of(cloud, asked_at)?,
        })
    }

    /// The first token came so long after the request's arrival, for which so many private tokens were
    /// computed. How long it should have taken.
    pub(crate) fn came(&self, token_count: usize, actual: Duration) -> Duration {
        let work = PrivateWork {
            token_count,
            layer_count: self.layer_count,
        };
        let until_last_layer = self.awaited.until_last_layer;
        let predicted = self.planner.until_first_token(work, until_last_layer);
        metrics::histogram!(names::EDGE_TTFT_PREDICTED_SECONDS).record(predicted);
        tracing::debug!(
            id = self.request,
            plan = self.awaited.source.map(Source::label),
            predicted_milliseconds = predicted.as_secs_f64() * 1e3,
            milliseconds = actual.as_secs_f64() * 1e3,
            "the first token of an answer came"
        );
        predicted
    }
}

impl Awaited {
    fn of(cloud: Option<&SharedPrompt>, asked_at: Instant) -> Option<Self> {
        let at_once = |source| Self {
            until_last_layer: Duration::ZERO,
            source,
        };
        match cloud {
            None => Some(at_once(None)),
            Some(cloud) if cloud.origin() == KvOrigin::Memory => {
                Some(at_once(Some(Source::Memory)))
            }
            Some(cloud) => Self::by(cloud.filling.log().planned()?, asked_at),
        }
    }

    /// What remains of a plan when a request arrives.
    fn by(planned: &Planned, asked_at: Instant) -> Option<Self> {
        let last_layer_at = planned.last_layer_at()?;
        Some(Self {
            until_last_layer: last_layer_at.saturating_duration_since(asked_at),
            source: Some(planned.plan.source()),
        })
    }
}

#[cfg(test)]
mod tests {
    use edgeprompt_kv::{KvDtype, KvGeometry};

    use super::*;
    use crate::planner::{FromCloud, Job, Known, Tokens, Ways};
    use crate::prefill_speed::PrefillSpeed;
    use crate::wire_codec::Codecs;

    #[test]
    fn a_request_waits_for_what_remains_of_a_plan() {
        // Four layers of 10 ms each, or a cloud of which nothing is known.
        let planner = Planner::new(PrefillSpeed::new(Duration::from_millis(10), 8));
        let job = Job::new(KvGeometry::new(4, 1, 4).unwrap(), 8);
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let planned = |cloud| Planned {
            plan: planner
                .plan(
                    &job,
                    &Ways {
                        cloud,
                        tokens: Tokens::Known,
                        ..Ways::default()
                    },
                )
                .unwrap(),
            planned_at: at(100),
        };
        let local = planned(None);
        let remains = |asked| {
            let awaited = Awaited::by(&local, at(asked)).unwrap();
            assert_eq!(awaited.source, Some(Source::Local));
            awaited.until_last_layer.as_millis()
        };
        assert_eq!(remains(90), 50, "it arrived before it was planned");
        assert_eq!(remains(115), 25, "somebody else had asked before");
        assert_eq!(remains(150), 0, "it should be here");
        let unmeasured = planned(Some(FromCloud {
            codecs: Codecs::Only(KvDtype::F32),
            speed: Known::Unmeasured,
        }));
        assert_eq!(Awaited::by(&unmeasured, at(115)), None);
    }
}
